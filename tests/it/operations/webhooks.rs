//! Webhooks over HTTP: valid ones are stored once, invalid ones are rejected.

use std::collections::BTreeSet;

use fake_stripe::{DeliverySnapshot, NewPrice, NewSubscription, WebhookOptions};
use serde_json::{Value, json};
use usage_client::Increment;

use crate::support::{
    commit_lock::CommitLock,
    python,
    world::{
        Engine, TIMEOUT, World, hours_ago,
        http::{Answer, SECRET},
        on_both_engines, on_postgres, parse_config, within,
    },
};

on_both_engines!(
    each_stripe_event_is_stored_once,
    thin_events_are_stored,
    badly_signed_webhooks_are_refused_and_not_stored,
    the_signature_tolerance_uses_the_service_clock,
    two_webhook_secrets_are_valid_until_one_is_removed,
    a_replayed_webhook_changes_nothing,
    irrelevant_webhooks_are_answered_and_not_stored,
    a_webhook_body_has_a_size_limit,
    webhooks_are_refused_without_a_secret,
    a_slow_database_loses_no_webhook,
    old_webhooks_are_deleted,
    webhooks_signed_by_stripes_library_are_accepted,
);
on_postgres!(a_webhook_without_a_database_is_answered_with_503);

/// The body of a snapshot event.
pub(crate) fn event(id: &str, kind: &str) -> String {
    json!({
        "id": id, "object": "event", "created": 1_700_000_000, "livemode": false, "type": kind,
        "data": { "object": { "id": "obj_1", "customer": "cus_1" } },
    })
    .to_string()
}

/// Asserts a response's status; fails with its body.
pub(crate) fn assert_status(answer: &Answer, status: u16) {
    assert_eq!(answer.0, status, "{}", answer.1);
}

async fn stored(world: &World) -> i64 {
    world.count_rows("webhook_events").await
}

/// The relevant deliveries of the fake Stripe, after the given number was accepted.
async fn deliveries(world: &World, taken: usize) -> Vec<DeliverySnapshot> {
    let stripe = world.stripe();
    stripe.wait_for_webhooks(taken, TIMEOUT).await.unwrap();
    stripe.webhook_deliveries().await.unwrap()
}

async fn each_stripe_event_is_stored_once(mut world: World) {
    world.receive_webhooks().await;
    let stripe = world.stripe();
    let switches = WebhookOptions {
        on_demand: true,
        copies: 3,
        newest_first: true,
        delay_ms: 0,
    };
    stripe.set_webhook_options(&switches).await.unwrap();
    world.link_to_new_customer("acct", "cus_1").await;
    let meter = stripe.meters().await.unwrap()[0].id.clone();
    let price = NewPrice::volume("price_1", "prod_1", &meter, &[(None, "1")]);
    stripe.create_price(&price).await.unwrap();
    let subscription = NewSubscription {
        id: "sub_1".to_owned(),
        customer: "cus_1".to_owned(),
        prices: vec!["price_1".to_owned()],
        ..NewSubscription::default()
    };
    stripe.create_subscription(&subscription).await.unwrap();
    stripe.delete_customer("cus_1").await.unwrap();
    let sent = stripe.deliver_webhooks().await.unwrap();
    let all = deliveries(&world, sent).await;
    assert_eq!(all.len(), sent);
    assert!(
        all.iter()
            .all(|one| one.status == Some(200) && one.attempts == 1),
        "{all:?}"
    );
    let kinds: BTreeSet<&str> = all.iter().map(|one| one.kind.as_str()).collect();
    let expected = [
        "customer.deleted",
        "customer.subscription.created",
        "customer.subscription.deleted",
    ];
    assert!(
        expected.iter().all(|kind| kinds.contains(kind)),
        "{kinds:?}"
    );
    let events: BTreeSet<&str> = all.iter().map(|one| one.event.as_str()).collect();
    assert_eq!(events.len() * 3, sent);
    assert_eq!(stored(&world).await, i64::try_from(events.len()).unwrap());
    let about = "webhook_events WHERE customer = 'cus_1' AND kind LIKE 'customer.%'";
    assert!(world.count_rows(about).await >= 3);
    assert!(
        world
            .count_rows("webhook_events WHERE object = 'sub_1'")
            .await
            >= 2
    );

    // Another server with the same database knows the events that this one stored, also after a restart.
    world.restart().await;
    stripe.redeliver_webhook(&all[0].event).await.unwrap();
    let again = stripe.deliver_webhooks().await.unwrap();
    let after = deliveries(&world, sent + again).await;
    assert!(
        again > 0 && after.iter().all(DeliverySnapshot::is_accepted),
        "{after:?}"
    );
    assert_eq!(stored(&world).await, i64::try_from(events.len()).unwrap());
    world.finish().await;
}

async fn thin_events_are_stored(mut world: World) {
    world.receive_webhooks().await;
    let stripe = world.stripe();
    let sent = stripe.send_error_report("mtr_1").await.unwrap();
    stripe.send_no_meter_found().await.unwrap();
    let all = deliveries(&world, 2).await;
    assert!(all.iter().all(DeliverySnapshot::is_accepted), "{all:?}");
    let id = sent["id"].as_str().unwrap();
    let named = format!("webhook_events WHERE id = '{id}' AND object = 'mtr_1'");
    assert_eq!(world.count_rows(&named).await, 1);
    let nameless =
        "webhook_events WHERE kind = 'v1.billing.meter.no_meter_found' AND object IS NULL";
    assert_eq!(world.count_rows(nameless).await, 1);
    assert_eq!(stored(&world).await, 2);
    world.finish().await;
}

async fn badly_signed_webhooks_are_refused_and_not_stored(world: World) {
    let body = event("evt_1", "invoice.created");
    let right = world.signed(&[SECRET], 0, &body);
    let tampered = body.replace("obj_1", "obj_2");
    for (why, body, signature) in [
        ("no header", &body, None),
        ("an empty header", &body, Some(String::new())),
        ("no signature", &body, Some("nonsense".to_owned())),
        ("another body", &tampered, Some(right.clone())),
        (
            "a body with a blank more",
            &format!("{body} "),
            Some(right.clone()),
        ),
        ("another time", &body, Some(right.replacen("t=1", "t=2", 1))),
        ("another scheme", &body, Some(right.replace("v1=", "v0="))),
        ("old", &body, Some(world.signed(&[SECRET], 310, &body))),
        (
            "of the future",
            &body,
            Some(world.signed(&[SECRET], -310, &body)),
        ),
        (
            "another's secret",
            &body,
            Some(world.signed(&["whsec_other"], 0, &body)),
        ),
        ("unsigned", &body, Some(world.signed(&[], 0, &body))),
    ] {
        let answer = world.send_signed(body, signature.as_deref()).await;
        assert_eq!(answer.0, 400, "{why}: {}", answer.1);
        assert!(answer.1.contains("Stripe-Signature"), "{why}: {}", answer.1);
        assert!(!answer.1.contains(SECRET), "{why}: {}", answer.1);
    }
    // The signature is valid, but the body is not an event.
    for body in ["", "not json", "{}", &event("", "invoice.created")] {
        assert_status(&world.send_webhook(body).await, 400);
    }
    assert_eq!(stored(&world).await, 0);
    assert_status(&world.send_signed(&body, Some(&right)).await, 200);
    assert_eq!(stored(&world).await, 1);
    world.finish().await;
}

async fn the_signature_tolerance_uses_the_service_clock(mut world: World) {
    let clock = world.set_time("2027-03-14T12:00:00Z").await;
    let body = event("evt_1", "invoice.created");
    for (age_secs, status) in [(301, 400), (-301, 400), (300, 200), (-300, 200)] {
        let signature = world.signed(&[SECRET], age_secs, &body);
        assert_status(&world.send_signed(&body, Some(&signature)).await, status);
    }
    let signature = world.signed(&[SECRET], 0, &body);
    clock.set(clock.now() + 301_000);
    assert_status(&world.send_signed(&body, Some(&signature)).await, 400);
    world.finish().await;
}

async fn two_webhook_secrets_are_valid_until_one_is_removed(mut world: World) {
    let body = |n: usize| event(&format!("evt_{n}"), "invoice.paid");
    let send = async |world: &World, n: usize, secrets: &[&str]| {
        let signature = world.signed(secrets, 0, &body(n));
        world.send_signed(&body(n), Some(&signature)).await.0
    };
    assert_eq!(send(&world, 1, &["whsec_new"]).await, 400);
    world
        .reconfigure(&["--stripe-webhook-secrets=whsec_world,whsec_new"])
        .await;
    assert_eq!(send(&world, 2, &["whsec_world"]).await, 200);
    assert_eq!(send(&world, 3, &["whsec_new"]).await, 200);
    // While secrets are rotated, Stripe signs with both.
    assert_eq!(send(&world, 4, &["whsec_world", "whsec_new"]).await, 200);
    world
        .reconfigure(&["--stripe-webhook-secrets=whsec_new"])
        .await;
    assert_eq!(send(&world, 5, &["whsec_world"]).await, 400);
    assert_eq!(send(&world, 6, &["whsec_world", "whsec_new"]).await, 200);
    assert_eq!(stored(&world).await, 4);
    world.finish().await;
}

async fn a_replayed_webhook_changes_nothing(world: World) {
    let first = event("evt_1", "customer.subscription.updated");
    assert_status(&world.send_webhook(&first).await, 200);
    world
        .execute_sql("UPDATE webhook_events SET handled_at = 7, received_at = 5")
        .await;
    // Several deliveries at once, and one with different content.
    let other = first.replace("cus_1", "cus_2");
    let sends = [&first, &first, &other, &first].map(|body| world.send_webhook(body));
    for answer in futures_util::future::join_all(sends).await {
        assert_status(&answer, 200);
    }
    let untouched = "webhook_events WHERE id = 'evt_1' AND handled_at = 7 AND received_at = 5 AND customer = 'cus_1'";
    assert_eq!(world.count_rows(untouched).await, 1);
    assert_eq!(stored(&world).await, 1);
    world.finish().await;
}

async fn irrelevant_webhooks_are_answered_and_not_stored(world: World) {
    let ignored = r#"usage_webhooks_total{outcome="ignored"}"#;
    let before = world.metric(ignored).await;
    for kind in ["charge.failed", "customer.created", "invoiceitem.created"] {
        assert_status(&world.send_webhook(&event("evt_1", kind)).await, 200);
    }
    assert_eq!(stored(&world).await, 0);
    world.wait_until_metric_is_above(ignored, before + 2).await;
    world.finish().await;
}

async fn a_webhook_body_has_a_size_limit(world: World) {
    const LIMIT: usize = 1024 * 1024;
    let body = event("evt_1", "invoice.created");
    let padded = format!("{body}{}", " ".repeat(LIMIT - body.len()));
    assert_status(&world.send_webhook(&padded).await, 200);
    let head = "POST /webhooks/stripe HTTP/1.1\r\nhost: localhost\r\n";
    // Rejected by its Content-Length, before any of the body has arrived.
    let declared = format!("{head}content-length: {}\r\n\r\n", LIMIT + 1);
    let line = world.http_raw(declared.into_bytes()).await;
    assert!(line.contains(" 413 "), "{line}");
    // Rejected as soon as it exceeds the limit, if it has no Content-Length.
    let chunked = format!(
        "{head}stripe-signature: t=1,v1=00\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{}",
        LIMIT + 1,
        " ".repeat(LIMIT + 1)
    );
    let line = world.http_raw(chunked.into_bytes()).await;
    assert!(line.contains(" 413 "), "{line}");
    assert_eq!(stored(&world).await, 1);
    world.finish().await;
}

async fn webhooks_are_refused_without_a_secret(mut world: World) {
    world.reconfigure(&["--stripe-webhook-secrets"]).await;
    let (status, text) = world.send_webhook(&event("evt_1", "invoice.created")).await;
    assert_eq!(status, 503);
    assert!(text.contains("STRIPE_WEBHOOK_SECRETS"), "{text}");
    assert_eq!(stored(&world).await, 0);
    assert_eq!(world.http_get("/health/ready").await.0, 200);
    world.finish().await;
}

async fn a_slow_database_loses_no_webhook(world: World) {
    let body = event("evt_1", "invoice.created");
    let lock = CommitLock::commits_of(&world).await;
    let client = world.client();
    let counting = tokio::spawn(async move { client.increment(Increment::new("acct")).await });
    let answer = world.send_webhook(&body).await;
    assert!(!counting.is_finished(), "counting waits for the lock");
    // PostgreSQL has other writers. SQLite has one, so the response makes Stripe retry.
    let expected = match world.engine {
        Engine::Postgres => 200,
        Engine::Sqlite => 503,
    };
    assert_status(&answer, expected);
    assert_eq!(world.http_get("/health/ready").await.0, expected);
    lock.release().await;
    within("counting", counting).await.unwrap().unwrap();
    assert_status(&world.send_webhook(&body).await, 200);
    assert_eq!(stored(&world).await, 1);
    world.finish().await;
}

async fn a_webhook_without_a_database_is_answered_with_503(mut world: World) {
    let body = event("evt_1", "invoice.created");
    let proxy = world.connect_through_proxy().await;
    assert_eq!(world.http_get("/health/ready").await.0, 200);
    drop(proxy);
    assert_status(&world.send_webhook(&body).await, 503);
    // The last check of the database may still be young.
    world
        .wait_until("not ready", async || {
            world.http_get("/health/ready").await.0 == 503
        })
        .await;
    assert_eq!(world.http_get("/health/live").await.0, 200);
    world.crash();
    assert_eq!(stored(&world).await, 0);
    let direct = format!("--database-url={}", world.database_url);
    world.reconfigure(&[&direct]).await;
    assert_status(&world.send_webhook(&body).await, 200);
    assert_eq!(stored(&world).await, 1);
    world.finish().await;
}

async fn old_webhooks_are_deleted(world: World) {
    const DAY_MS: i64 = 86_400_000;
    for n in 0..3 {
        let body = event(&format!("evt_{n}"), "invoice.created");
        assert_status(&world.send_webhook(&body).await, 200);
    }
    let now = world.clock.now();
    // One event was handled, one was never handled, and one is just recent enough to be kept.
    for (id, age_days, handled) in [
        ("evt_0", 37, "1"),
        ("evt_1", 37, "NULL"),
        ("evt_2", 35, "1"),
    ] {
        let received_at = now - age_days * DAY_MS;
        world
            .execute_sql(&format!(
                "UPDATE webhook_events SET received_at = {received_at}, handled_at = {handled} WHERE id = '{id}'"
            ))
            .await;
    }
    world.wait_until_job_ran("cleanup").await;
    world.set_last_run("cleanup", hours_ago(2)).await;
    world
        .wait_until("forgetting", || async { stored(&world).await == 1 })
        .await;
    assert_eq!(
        world.count_rows("webhook_events WHERE id = 'evt_2'").await,
        1
    );
    world.finish().await;
}

/// `STRIPE_PYTHON` names a Python with Stripe's library, as in `.ci/run`.
async fn webhooks_signed_by_stripes_library_are_accepted(world: World) {
    let Some(python) = python::python("STRIPE_PYTHON") else {
        return world.finish().await;
    };
    let url = format!("{}/webhooks/stripe", world.http_url());
    let text = python::run(python, "stripe_webhooks.py", &[&url, SECRET]).await;
    let taken: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let taken = taken.as_array().unwrap();
    assert_eq!(taken.len(), 2, "{text}");
    for id in taken {
        let row = format!("webhook_events WHERE id = '{}'", id.as_str().unwrap());
        assert_eq!(world.count_rows(&row).await, 1, "{text}");
    }
    assert_eq!(stored(&world).await, 2, "{text}");
    world.finish().await;
}

#[test]
fn webhook_secrets_are_validated_and_never_shown() {
    let flag = |secrets: &str| vec![format!("--stripe-webhook-secrets={secrets}")];
    let config = parse_config(&flag("whsec_a,whsec_b")).unwrap();
    assert!(!format!("{config:?}").contains("whsec"));
    assert_eq!(config.check(), Ok(()));
    for (secrets, words) in [
        ("whsec_a,whsec_b,whsec_c,whsec_d,whsec_e", "at most 4"),
        ("whsec_a,", "secret 2 of 2"),
        ("", "secret 1 of 1"),
        ("whsec_a,whsec b", "secret 2 of 2"),
        (
            "whsec_a,sk_test_recognisable",
            "secret 2 of 2 must start with whsec_",
        ),
    ] {
        let refused = parse_config(&flag(secrets)).unwrap().check().unwrap_err();
        assert!(refused.contains(words), "{refused}");
        assert!(!refused.contains("whsec_a"), "{refused}");
        assert!(!refused.contains("recognisable"), "{refused}");
    }
}
