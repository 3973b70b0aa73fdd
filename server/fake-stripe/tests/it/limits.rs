//! Idempotency keys, the rate limit, and one call at a time for each customer and meter.

use std::time::Duration;

use fake_stripe::{Fault, Settings};

use crate::client::{LONG, World, answer, event};

#[tokio::test]
async fn a_key_replays_its_first_response_for_a_day() {
    let world = World::new().await;
    let first = world.keyed_event("key", "a", "5").await;
    let again = world.keyed_event("key", "a", "5").await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("original-request"), first.header("request-id"));
    assert_eq!(again.header("idempotency-key"), Some("key"));
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(world.control.stats().await.unwrap().replayed, 1);
    world
        .control
        .advance_clock(Duration::from_hours(24))
        .await
        .unwrap();
    let fresh = world.keyed_event("key", "b", "1").await;
    assert_eq!(
        (fresh.status, fresh.header("idempotent-replayed")),
        (200, None)
    );
}

#[tokio::test]
async fn a_key_replays_a_500_too() {
    let world = World::new().await;
    world.control.script(Fault::status(500)).await.unwrap();
    assert_eq!(world.keyed_event("key", "a", "5").await.status, 500);
    assert_eq!(world.keyed_event("key", "a", "5").await.status, 500);
    assert_eq!(world.keyed_event("other", "a", "5").await.status, 200);
    // A refusal by the endpoint is stored, a parameter that it never got is not.
    assert_eq!(world.keyed_event("third", "a", "5").await.status, 400);
    let reply = world.keyed_event("third", "a", "5").await;
    assert_eq!(
        (reply.status, reply.header("idempotent-replayed")),
        (400, Some("true"))
    );
    for _ in 0..2 {
        let request = world
            .request("POST", "/v1/customers", &[("colour", "red")])
            .header("idempotency-key", "fourth");
        let reply = answer(request).await;
        assert_eq!(
            (reply.status, reply.header("idempotent-replayed")),
            (400, None)
        );
    }
}

#[tokio::test]
async fn an_idempotency_key_is_for_one_request() {
    let world = World::new().await;
    world.keyed_event("key", "a", "5").await.ok();
    let reply = world.keyed_event("key", "a", "6").await;
    assert_eq!(
        (reply.status, reply.body["error"]["type"].as_str()),
        (400, Some("idempotency_error"))
    );
    let request = world
        .request("POST", "/v1/customers", &[])
        .header("idempotency-key", "key");
    let reply = answer(request).await;
    assert_eq!(
        (reply.status, reply.body["error"]["type"].as_str()),
        (400, Some("idempotency_error"))
    );
    assert_eq!(
        world.control.stats().await.unwrap().idempotency_conflicts,
        2
    );
}

#[tokio::test]
async fn a_key_in_use_and_a_customer_in_use_are_refused() {
    let world = World::new().await;
    world.control.create_customer("cus_2").await.unwrap();
    world
        .control
        .script(Fault::block_until_released("gate").on_customer("cus_1"))
        .await
        .unwrap();
    let (blocked, ()) = tokio::join!(world.keyed_event("key", "a", "5"), async {
        world
            .control
            .wait_for_blocked("gate", 1, LONG)
            .await
            .unwrap();
        assert_eq!(
            world.keyed_event("key", "a", "5").await.refusal(),
            (409, "idempotency_key_in_use")
        );
        let reply = world.event("b", "1").await;
        assert_eq!(reply.refusal(), (429, "lock_timeout"));
        assert_eq!(reply.header("stripe-rate-limited-reason"), None);
        let mut other = event("c", "1");
        other[2].1 = "cus_2";
        world.post("/v1/billing/meter_events", &other).await.ok();
        world.control.release("gate").await.unwrap();
    });
    blocked.ok();
    world.event("b", "1").await.ok();
    let stats = world.control.stats().await.unwrap();
    assert_eq!(
        (
            stats.lock_timeouts,
            stats.max_in_flight_per_customer_meter,
            stats.events
        ),
        (1, 2, 3)
    );
}

#[tokio::test]
async fn the_rate_limit_rejects_meter_events() {
    let world = World::with(Settings {
        events_per_sec: 0,
        ..Settings::default()
    })
    .await;
    let reply = world.event("a", "1").await;
    assert_eq!(reply.refusal(), (429, "rate_limit"));
    assert_eq!(
        reply.header("stripe-rate-limited-reason"),
        Some("endpoint-rate")
    );
    world.get("/v1/customers", &[]).await.ok();
    world.control.set_events_per_sec(1_000).await.unwrap();
    world.event("a", "1").await.ok();
    assert_eq!(world.control.stats().await.unwrap().rate_limited, 1);
}

#[tokio::test]
async fn stored_events_are_limited() {
    let world = World::with(Settings {
        max_events: 1,
        ..Settings::default()
    })
    .await;
    world.event("a", "1").await.ok();
    let reply = world.event("b", "1").await;
    assert_eq!(reply.refusal(), (501, "fake_stripe_unsupported"));
}

#[tokio::test]
async fn a_key_whose_first_call_took_a_day_is_free_again() {
    let world = World::new().await;
    world
        .control
        .script(Fault::block_until_released("gate"))
        .await
        .unwrap();
    let (first, ()) = tokio::join!(world.keyed_event("key", "a", "1"), async {
        world
            .control
            .wait_for_blocked("gate", 1, LONG)
            .await
            .unwrap();
        world
            .control
            .advance_clock(Duration::from_hours(24))
            .await
            .unwrap();
        world.keyed_event("other", "b", "1").await.refusal();
        world.control.release("gate").await.unwrap();
    });
    first.ok();
    assert_eq!(world.keyed_event("key", "c", "1").await.status, 200);
}
