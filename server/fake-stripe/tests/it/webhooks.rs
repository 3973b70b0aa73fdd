//! Webhooks: signed as Stripe signs, tried again within bounds, and made to misbehave on demand.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use fake_stripe::WebhookOptions;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

use crate::billing_world::MONTH_END;
use crate::client::{CONTRACT, LONG, NOW, World};

const SECRET: &str = "whsec_fake";

/// What a receiver was sent: the signature and the body as it came.
type Inbox = Arc<Mutex<Vec<(String, String)>>>;

/// A receiver that refuses so many deliveries first; its URL and its inbox.
async fn receiver(refusals: usize) -> (String, Inbox) {
    let inbox = Inbox::default();
    let receiver_inbox = Arc::clone(&inbox);
    let take = move |headers: HeaderMap, body: Bytes| {
        let mut inbox = receiver_inbox.lock().unwrap();
        let signature = headers["stripe-signature"].to_str().unwrap().to_owned();
        inbox.push((signature, String::from_utf8(body.to_vec()).unwrap()));
        let answer = if inbox.len() <= refusals {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        };
        std::future::ready(answer)
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, inbox)
}

fn kinds(inbox: &Inbox) -> Vec<String> {
    let read = |body: &str| {
        serde_json::from_str::<Value>(body).unwrap()["type"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    inbox
        .lock()
        .unwrap()
        .iter()
        .map(|(_, body)| read(body))
        .collect()
}

fn signed(secret: &str, time: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{time}.{body}").as_bytes());
    let bytes = mac.finalize().into_bytes();
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[tokio::test]
async fn webhooks_of_a_subscription_are_signed_and_in_order() {
    let world = World::billing().await;
    let (url, inbox) = receiver(0).await;
    world.control.register_webhook(&url, SECRET).await.unwrap();
    world.subscribe(&["price_basic"]).await;
    world.clock_at(MONTH_END + 3_600).await;
    world
        .call("DELETE", "/v1/subscriptions/sub_1", &[])
        .await
        .ok();
    world.call("DELETE", "/v1/customers/cus_1", &[]).await.ok();
    world.control.wait_for_webhooks(7, LONG).await.unwrap();
    assert_eq!(
        kinds(&inbox),
        [
            "customer.subscription.created",
            "invoice.created",
            "customer.subscription.updated",
            "invoice.finalized",
            "invoice.paid",
            "customer.subscription.deleted",
            "customer.deleted",
        ]
    );
    let deliveries = inbox.lock().unwrap().clone();
    for (signature, body) in &deliveries {
        let (time, rest) = signature
            .strip_prefix("t=")
            .unwrap()
            .split_once(",v1=")
            .unwrap();
        let time: i64 = time.parse().unwrap();
        assert!((NOW..=MONTH_END + 3_600).contains(&time));
        assert_eq!(rest, signed(SECRET, time, body));
        let event: Value = serde_json::from_str(body).unwrap();
        CONTRACT.check_schema("Events__Event", &event);
        assert_eq!(event["api_version"], fake_stripe::API_VERSION);
    }
    let updated: Value = serde_json::from_str(&deliveries[2].1).unwrap();
    assert_eq!(updated["created"], MONTH_END);
    assert!(updated["data"]["previous_attributes"]["items"].is_object());
    let listed = world.get("/v1/events", &[("type", "invoice.*")]).await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 3);
    let id = updated["id"].as_str().unwrap();
    assert_eq!(
        world.get(&format!("/v1/events/{id}"), &[]).await.ok(),
        updated
    );
    world.clock_at(MONTH_END + 40 * 86_400).await;
    assert_eq!(
        world.get("/v1/events", &[]).await.ok()["data"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn a_refused_delivery_is_tried_again_within_bounds() {
    let world = World::billing().await;
    let (patient, inbox) = receiver(2).await;
    world
        .control
        .register_webhook(&patient, SECRET)
        .await
        .unwrap();
    world.subscribe(&["price_basic"]).await;
    world.control.wait_for_webhooks(1, LONG).await.unwrap();
    assert_eq!(inbox.lock().unwrap().len(), 3);
    let (deaf, heard) = receiver(usize::MAX).await;
    world.control.remove_webhooks().await.unwrap();
    world
        .control
        .register_webhook_for(&deaf, &[SECRET], &["customer.deleted"])
        .await
        .unwrap();
    world
        .control
        .register_webhook_for(&patient, &[SECRET], &["customer.deleted"])
        .await
        .unwrap();
    world.control.delete_customer("cus_1").await.unwrap();
    // The deaf one comes first in line: once the other took it, the deaf one was given up.
    world.control.wait_for_webhooks(2, LONG).await.unwrap();
    let deliveries = world.control.webhook_deliveries().await.unwrap();
    let read: Vec<_> = deliveries
        .iter()
        .map(|one| (one.attempts, one.status, one.is_accepted()))
        .collect();
    assert_eq!(
        read,
        [
            (3, Some(200), true),
            (4, Some(500), false),
            (1, Some(200), true)
        ]
    );
    assert_eq!(heard.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn webhooks_can_be_held_repeated_reordered_and_dropped() {
    let world = World::billing().await;
    let (url, inbox) = receiver(0).await;
    world.control.register_webhook(&url, SECRET).await.unwrap();
    let kept = WebhookOptions {
        on_demand: true,
        copies: 2,
        newest_first: true,
        ..WebhookOptions::default()
    };
    world.control.set_webhook_options(&kept).await.unwrap();
    world.subscribe(&["price_basic"]).await;
    world.control.delete_customer("cus_1").await.unwrap();
    assert!(inbox.lock().unwrap().is_empty());
    assert_eq!(world.control.deliver_webhooks().await.unwrap(), 6);
    world.control.wait_for_webhooks(6, LONG).await.unwrap();
    let (gone, ended, made) = (
        "customer.deleted",
        "customer.subscription.deleted",
        "customer.subscription.created",
    );
    assert_eq!(kinds(&inbox), [gone, gone, ended, ended, made, made]);

    let none = WebhookOptions {
        copies: 0,
        ..WebhookOptions::default()
    };
    world.control.set_webhook_options(&none).await.unwrap();
    world.control.create_customer("cus_2").await.unwrap();
    world.control.delete_customer("cus_2").await.unwrap();
    let late = WebhookOptions {
        delay_ms: 5,
        ..WebhookOptions::default()
    };
    world.control.set_webhook_options(&late).await.unwrap();
    let first = serde_json::from_str::<Value>(&inbox.lock().unwrap()[5].1).unwrap();
    world
        .control
        .redeliver_webhook(first["id"].as_str().unwrap())
        .await
        .unwrap();
    world.control.wait_for_webhooks(7, LONG).await.unwrap();
    assert_eq!(kinds(&inbox)[6..], [made]);
    assert!(world.control.redeliver_webhook("evt_none").await.is_err());
}

#[tokio::test]
async fn thin_events_name_the_meter_and_a_rolled_secret_signs_twice() {
    let world = World::billing().await;
    let (url, inbox) = receiver(0).await;
    let secrets = ["whsec_old", "whsec_new"];
    world
        .control
        .register_webhook_for(&url, &secrets, &["v1.billing.*"])
        .await
        .unwrap();
    world.subscribe(&["price_basic"]).await;
    let report = world.control.send_error_report("mtr_1").await.unwrap();
    let unfound = world.control.send_no_meter_found().await.unwrap();
    CONTRACT.check_schema(
        "V1BillingMeterErrorReportTriggeredEventNotification",
        &report,
    );
    CONTRACT.check_schema("V1BillingMeterNoMeterFoundEventNotification", &unfound);
    assert_eq!(report["related_object"]["id"], "mtr_1");
    world.control.wait_for_webhooks(2, LONG).await.unwrap();
    let deliveries = inbox.lock().unwrap().clone();
    let bodies: Vec<Value> = deliveries
        .iter()
        .map(|one| serde_json::from_str(&one.1).unwrap())
        .collect();
    assert_eq!(bodies, [report, unfound]);
    let expected = secrets.map(|secret| format!("v1={}", signed(secret, NOW, &deliveries[0].1)));
    assert_eq!(deliveries[0].0, format!("t={NOW},{}", expected.join(",")));
}
