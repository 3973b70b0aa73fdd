//! `Stripe-Version`: which versions are accepted, and the rules that depend on them.

use crate::billing_world::SUB;
use crate::client::{World, answer, event};
use crate::unsupported::check;

#[tokio::test]
async fn api_versions_are_accepted_refused_or_unknown() {
    let world = World::billing().await;
    let list = |version: &'static str| {
        let request = world.request("GET", "/v1/subscriptions", &[]);
        answer(request.header("stripe-version", version))
    };
    for version in ["2025-03-31.basil", "2026-09-30.endive", "2026-10-28.endive"] {
        list(version).await.ok();
    }
    for version in [
        "2024-06-20",
        "2024-12-18.acacia",
        "2025-09-30.preview",
        "2027-03-25.fennel",
    ] {
        check(&list(version).await, &format!("Stripe-Version {version}"));
    }
    for version in [
        "",
        "latest",
        "2025-13-01.basil",
        "2026-01-01",
        "2026-01-01.basil",
    ] {
        let reply = list(version).await;
        assert_eq!(reply.status, 400, "{version}");
        assert!(reply.message().starts_with("Invalid Stripe API version"));
    }
}

#[tokio::test]
async fn the_anchor_of_an_update_has_the_form_of_the_version() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    let text = [("billing_cycle_anchor", "unchanged")];
    let typed = [("billing_cycle_anchor[type]", "unchanged")];
    for (version, pairs, status) in [
        ("2026-08-26.dahlia", text, 200),
        ("2026-08-26.dahlia", typed, 400),
        ("2026-09-30.endive", text, 400),
        ("2026-09-30.endive", typed, 200),
    ] {
        let request = world.request("POST", SUB, &pairs);
        let reply = answer(request.header("stripe-version", version)).await;
        assert_eq!(reply.status, status, "{version} {pairs:?}");
    }
}

#[tokio::test]
async fn values_of_more_digits_are_a_mistake_since_dahlia() {
    let world = World::new().await;
    let send = |version: &'static str| {
        let pairs = event("a", "1000000000000000");
        let request = world.request("POST", "/v1/billing/meter_events", &pairs);
        answer(request.header("stripe-version", version))
    };
    check(
        &send("2026-03-25.dahlia").await,
        "a value of more than 15 digits",
    );
    assert_eq!(
        send("2026-04-22.dahlia").await.refusal(),
        (400, "meter_event_value_too_many_digits")
    );
}
