//! Scripted faults and the rest of the control endpoints.

use std::time::Duration;

use fake_stripe::{ControlError, Fault};

use crate::client::{LONG, World, event};

const EVENTS: &str = "/v1/billing/meter_events";

async fn event_count(world: &World) -> usize {
    world.control.events().await.unwrap().len()
}

/// Sends an event that must fail without an answer.
async fn lost(world: &World, identifier: &str) {
    let error = world
        .request("POST", EVENTS, &event(identifier, "1"))
        .send()
        .await
        .unwrap_err();
    assert!(error.is_request() && !error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn a_status_replaces_execution_or_follows_it() {
    let world = World::new().await;
    world
        .control
        .script(Fault::status(503).times(2).on_customer("cus_1"))
        .await
        .unwrap();
    assert_eq!(world.event("a", "1").await.status, 503);
    assert_eq!(world.event("a", "1").await.status, 503);
    assert_eq!(event_count(&world).await, 0);
    world
        .control
        .script(Fault::status(500).after_executing())
        .await
        .unwrap();
    assert_eq!(world.event("a", "1").await.status, 500);
    assert_eq!(event_count(&world).await, 1);
    assert!(
        world
            .event("a", "1")
            .await
            .message()
            .starts_with("An event already exists")
    );
    world
        .control
        .script(
            Fault::status(400)
                .with_error("no_meter", "None.")
                .on_path(EVENTS)
                .on_method("POST"),
        )
        .await
        .unwrap();
    world.get("/v1/customers", &[]).await.ok();
    assert_eq!(world.event("b", "1").await.refusal(), (400, "no_meter"));
    assert_eq!(world.control.stats().await.unwrap().faults_met, 4);
}

#[tokio::test]
async fn a_connection_breaks_before_or_after_execution() {
    let world = World::new().await;
    world.event("warm", "1").await.ok();
    world
        .control
        .script(Fault::drop_connection())
        .await
        .unwrap();
    lost(&world, "a").await;
    assert_eq!(event_count(&world).await, 1);
    world
        .control
        .script(Fault::accept_then_drop())
        .await
        .unwrap();
    lost(&world, "a").await;
    assert_eq!(event_count(&world).await, 2);
    let requests = world.control.requests().await.unwrap();
    assert_eq!(
        requests.len(),
        3,
        "nothing was sent twice behind the caller's back"
    );
    assert!(
        requests[1..]
            .iter()
            .all(|request| request.finished && request.status.is_none())
    );
}

#[tokio::test]
async fn response_bodies_can_be_truncated() {
    let world = World::new().await;
    world.control.script(Fault::undecodable()).await.unwrap();
    let answer = world
        .request("POST", EVENTS, &event("a", "1"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(serde_json::from_str::<serde_json::Value>(&answer.text().await.unwrap()).is_err());
    assert_eq!(event_count(&world).await, 1);
    world
        .control
        .script(Fault::undecodable_error())
        .await
        .unwrap();
    let answer = world
        .request("POST", EVENTS, &event("b", "1"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 502);
    assert!(answer.text().await.unwrap().starts_with("<html>"));
    assert_eq!(event_count(&world).await, 1);
}

#[tokio::test]
async fn a_request_completes_after_its_client_disconnects() {
    let world = World::new().await;
    world
        .control
        .script(Fault::block_until_released("gate"))
        .await
        .unwrap();
    let request = world.request("POST", EVENTS, &event("a", "1"));
    tokio::select! {
        _ = request.send() => panic!("answered while blocked"),
        blocked = world.control.wait_for_blocked("gate", 1, LONG) => blocked.unwrap(),
    }
    assert_eq!(event_count(&world).await, 0);
    world.control.release("gate").await.unwrap();
    world.control.wait_for_events(1, LONG).await.unwrap();
}

#[tokio::test]
async fn a_response_is_blocked_after_execution() {
    let world = World::new().await;
    world
        .control
        .script(Fault::block_until_released("gate").after_executing())
        .await
        .unwrap();
    let (reply, ()) = tokio::join!(world.event("a", "1"), async {
        world
            .control
            .wait_for_blocked("gate", 1, LONG)
            .await
            .unwrap();
        assert_eq!(event_count(&world).await, 1);
        world.control.clear_faults().await.unwrap();
    });
    reply.ok();
    world
        .control
        .script(Fault::delay(Duration::from_millis(1)))
        .await
        .unwrap();
    world.event("b", "1").await.ok();
    assert_eq!(world.control.faults().await.unwrap(), []);
}

#[tokio::test]
async fn requests_are_logged_in_order() {
    let world = World::new().await;
    world.get("/v1/customers", &[("limit", "3")]).await.ok();
    world.keyed_event("key", "a", "5").await.ok();
    world.keyed_event("key", "a", "5").await.ok();
    world.control.wait_for_requests(3, LONG).await.unwrap();
    world
        .control
        .wait_for_requests_to(EVENTS, 2, LONG)
        .await
        .unwrap();
    let requests = world.control.requests().await.unwrap();
    assert_eq!(
        requests
            .iter()
            .map(|request| request.sequence)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(requests[0].params, [("limit".to_owned(), "3".to_owned())]);
    let last = &requests[2];
    assert_eq!(
        (
            last.method.as_str(),
            last.path.as_str(),
            last.status,
            last.replayed
        ),
        ("POST", EVENTS, Some(200), true)
    );
    assert_eq!(
        (last.identifier.as_deref(), last.customer.as_deref()),
        (Some("a"), Some("cus_1"))
    );
    assert_eq!(
        (last.event_name.as_deref(), last.idempotency_key.as_deref()),
        (Some("calls"), Some("key"))
    );
}

#[tokio::test]
async fn a_wait_that_times_out_reports_the_counts() {
    let world = World::new().await;
    let error = world
        .control
        .wait_for_events(1, Duration::from_millis(1))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ControlError::TimedOut { events: 0, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn rejected_control_requests_carry_a_status() {
    let world = World::new().await;
    let taken = world.control.create_customer("cus_1").await.unwrap_err();
    assert!(
        matches!(taken, ControlError::Refused { status: 409, .. }),
        "{taken}"
    );
    let taken = world.control.create_meter("calls").await.unwrap_err();
    assert!(
        matches!(taken, ControlError::Refused { status: 409, .. }),
        "{taken}"
    );
    world.control.deactivate_meter("calls").await.unwrap();
    let absent = world.control.deactivate_meter("calls").await.unwrap_err();
    assert!(
        matches!(absent, ControlError::Refused { status: 404, .. }),
        "{absent}"
    );
    assert!(world.control.release("gate").await.is_err());
    assert!(world.control.delete_customer("cus_2").await.is_err());
    let meter = world.control.create_meter("calls").await.unwrap();
    let meters = world.control.meters().await.unwrap();
    assert_eq!(
        meters
            .iter()
            .map(|meter| (meter.id.as_str(), meter.active))
            .collect::<Vec<_>>(),
        [(meter.as_str(), true), ("mtr_1", false)]
    );
    assert_eq!(world.control.customers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_clock_is_frozen_advanced_and_real_again() {
    let world = World::new().await;
    let frozen = world.control.clock().await.unwrap();
    assert_eq!(
        (frozen.now_ms, frozen.frozen),
        (crate::client::NOW * 1_000, true)
    );
    world.control.use_real_clock().await.unwrap();
    assert!(!world.control.clock().await.unwrap().frozen);
}

#[tokio::test]
async fn a_stop_breaks_blocked_requests() {
    let world = World::new().await;
    world
        .control
        .script(Fault::block_until_released("gate"))
        .await
        .unwrap();
    let request = world.request("POST", EVENTS, &event("a", "1"));
    let sent = tokio::spawn(request.send());
    world
        .control
        .wait_for_blocked("gate", 1, LONG)
        .await
        .unwrap();
    tokio::time::timeout(LONG, world.fake_stripe.stop())
        .await
        .unwrap();
    assert!(sent.await.unwrap().is_err());
    assert!(
        world.control.stats().await.is_err(),
        "nothing listens any more"
    );
}
