//! Webhooks over HTTP: signed bodies of any JSON, and any text as a signature.
//!
//! The files of `corpus/webhooks/` are bodies that are signed before they are sent.

use serde_json::{Value, json};

use super::{Budget, texts};
use crate::support::{
    random::Random,
    world::{World, http::SECRET, on_sqlite, within},
};

on_sqlite!(hostile_webhooks_are_refused_or_stored_once);

/// The kinds that the service reads, and one that it does not.
const KINDS: [&str; 8] = [
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.created",
    "invoice.finalized",
    "v1.billing.meter.error_report_triggered",
    "charge.succeeded",
];

async fn hostile_webhooks_are_refused_or_stored_once(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (name, body) in super::corpus("webhooks") {
        let text = String::from_utf8_lossy(&body).into_owned();
        let signature = world.signed(&[SECRET], 0, &text).into_bytes();
        let status = send(&client, &world, signature, text.into_bytes()).await;
        assert!([200, 400].contains(&status), "{name}: {status}");
    }
    let mut budget = Budget::new("webhooks", 4).at_most(2_000);
    while let Some(mut random) = budget.next() {
        let body = body(&mut random);
        let is_signed = !random.one_in(3);
        let signature = signature(&mut random, &world, &body, is_signed);
        let before = world.count_rows("webhook_events").await;
        let status = send(&client, &world, signature, body.clone().into_bytes()).await;
        let allowed: &[u16] = if is_signed { &[200, 400] } else { &[400] };
        let place = budget.place();
        assert!(allowed.contains(&status), "{place}: {status} for {body:?}");
        let stored = world.count_rows("webhook_events").await - before;
        assert!(stored <= i64::from(status == 200), "{place}: {body:?}");
    }
    budget.end();
    world.finish().await;
}

async fn send(client: &reqwest::Client, world: &World, signature: Vec<u8>, body: Vec<u8>) -> u16 {
    let mut request = client
        .post(format!("{}/webhooks/stripe", world.http_url()))
        .body(body);
    // What is no header cannot be sent.
    if let Ok(value) = http::HeaderValue::from_bytes(&signature) {
        request = request.header("stripe-signature", value);
    }
    let answer = within("an answer", request.send()).await;
    answer.expect("an answer").status().as_u16()
}

fn signature(random: &mut Random, world: &World, body: &str, is_signed: bool) -> Vec<u8> {
    if is_signed {
        return world
            .signed(&[SECRET], random.below(500) - 250, body)
            .into_bytes();
    }
    let (old, ahead) = (
        301 + random.below(1_000_000),
        -301 - random.below(1_000_000),
    );
    match random.below(6) {
        0 => texts::bytes(random, 100),
        1 => world.signed(&["whsec_other"], 0, body).into_bytes(),
        2 => world.signed(&[SECRET], old, body).into_bytes(),
        3 => world.signed(&[SECRET], ahead, body).into_bytes(),
        4 => {
            // Of another body.
            world.signed(&[SECRET], 0, &format!("{body} ")).into_bytes()
        }
        _ => format!("t={},v1={}", texts::number(random), texts::noise(random)).into_bytes(),
    }
}

fn body(random: &mut Random) -> String {
    let whole = json!({
        "id": format!("evt_{}", random.next()), "object": "event", "created": 1_700_000_000,
        "livemode": false, "type": random.pick(&KINDS), "pending_webhooks": 1,
        "data": { "object": { "id": "sub_cus_acct", "object": "subscription", "customer": "cus_acct" } },
        "related_object": { "id": "mtr_1", "type": "billing.meter" },
    });
    match random.below(8) {
        0 => texts::noise(random),
        1 => "[".repeat(20_000),
        2 => {
            let bytes = texts::damaged(random, whole.to_string().into_bytes());
            String::from_utf8_lossy(&bytes).into_owned()
        }
        3 => whole.to_string(),
        _ => {
            let mut body = whole;
            let places = [
                "/id",
                "/object",
                "/created",
                "/livemode",
                "/type",
                "/data",
                "/data/object",
            ];
            let inner = [
                "/data/object/id",
                "/data/object/customer",
                "/related_object/id",
            ];
            let place = random.pick(&[&places[..], &inner].concat());
            let other = other(random);
            if let Some(found) = body.pointer_mut(place) {
                *found = other;
            }
            body.to_string()
        }
    }
}

fn other(random: &mut Random) -> Value {
    match random.below(7) {
        0 => Value::Null,
        1 => json!(texts::number(random)),
        2 => json!(1e300),
        3 => json!([]),
        4 => json!({}),
        5 => json!("v2.core.event"),
        _ => json!(texts::text(random)),
    }
}
