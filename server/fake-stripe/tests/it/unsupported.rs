//! What the fake Stripe does not support is refused as that: 501 with a message that says so, never as a mistake of the
//! caller, and never in silence.

use serde_json::json;

use crate::billing_world::SUB;
use crate::client::{NOW, Reply, World, answer, event};

fn check(reply: &Reply, what: &str) {
    assert_eq!(
        (reply.refusal(), reply.message()),
        (
            (501, "fake_stripe_unsupported"),
            format!("fake-stripe does not support {what}").as_str()
        )
    );
    assert_eq!(reply.body["error"]["type"], "api_error");
    assert_eq!(reply.header("stripe-should-retry"), Some("false"));
}

#[tokio::test]
async fn parameters_that_stripe_takes_are_named() {
    let world = World::billing().await;
    world.subscribe(&["price_basic", "price_seat"]).await;
    let cases: [(&str, &str, &[(&str, &str)], &str); 12] = [
        (
            "POST",
            "/v1/customers",
            &[("test_clock", "clock_1")],
            "the parameter test_clock",
        ),
        (
            "GET",
            "/v1/subscriptions",
            &[("test_clock", "clock_1")],
            "the parameter test_clock",
        ),
        (
            "POST",
            SUB,
            &[("automatic_tax[enabled]", "true"), ("discounts", "")],
            "the parameters automatic_tax, discounts",
        ),
        (
            "POST",
            SUB,
            &[("items[0][price_data][currency]", "usd")],
            "the parameter items[0][price_data]",
        ),
        (
            "POST",
            SUB,
            &[("payment_behavior", "default_incomplete")],
            "payment_behavior=default_incomplete",
        ),
        (
            "POST",
            SUB,
            &[("payment_behavior", "pending_if_incomplete")],
            "payment_behavior=pending_if_incomplete",
        ),
        (
            "POST",
            SUB,
            &[("collection_method", "send_invoice")],
            "collection_method=send_invoice",
        ),
        (
            "POST",
            SUB,
            &[("billing_cycle_anchor", "now")],
            "billing_cycle_anchor=now",
        ),
        (
            "POST",
            SUB,
            &[("trial_end", "1800000000")],
            "trial_end on a subscription whose status is active",
        ),
        (
            "POST",
            "/v1/invoices/create_preview",
            &[("preview_mode", "recurring")],
            "preview_mode=recurring",
        ),
        (
            "POST",
            "/v1/prices",
            &[
                ("currency", "usd"),
                ("product", "prod_calls"),
                ("unit_amount", "1"),
                ("tax_behavior", "inclusive"),
            ],
            "tax_behavior=inclusive",
        ),
        (
            "POST",
            "/v1/prices",
            &[
                ("currency", "usd"),
                ("product", "prod_calls"),
                ("unit_amount", "1"),
                ("recurring[interval]", "month"),
                ("recurring[trial_period_days]", "3"),
            ],
            "the parameter recurring[trial_period_days]",
        ),
    ];
    let before = world.get(SUB, &[]).await.ok();
    for (method, path, pairs, what) in cases {
        check(&world.call(method, path, pairs).await, what);
    }
    assert_eq!(world.get(SUB, &[]).await.ok(), before);
}

#[tokio::test]
async fn a_meter_of_pre_aggregated_events_is_refused() {
    let world = World::new().await;
    let meter = [
        ("display_name", "Tokens"),
        ("event_name", "tokens"),
        ("default_aggregation[formula]", "sum"),
        ("event_time_window", "day"),
    ];
    let reply = world.post("/v1/billing/meters", &meter).await;
    check(&reply, "event_time_window=day");
    world
        .control
        .create_windowed_meter("tokens", "hour")
        .await
        .unwrap();
    let meters = world.get("/v1/billing/meters", &[]).await.ok();
    assert_eq!(meters["data"][0]["event_time_window"], "hour");
    let mut pairs = event("a", "1");
    pairs[0].1 = "tokens";
    let reply = world.post("/v1/billing/meter_events", &pairs).await;
    check(&reply, "events of a meter with event_time_window=hour");
}

#[tokio::test]
async fn endpoints_that_stripe_has_are_named() {
    let world = World::new().await;
    for (method, path) in [
        ("GET", "/v1/charges"),
        ("POST", "/v1/test_helpers/test_clocks"),
        ("GET", "/v1/customers/search"),
        ("GET", "/v1/customers/cus_1/balance_transactions"),
        ("POST", "/v1/invoices"),
        ("POST", "/v1/invoices/in_1/send"),
        ("POST", "/v1/billing/credit_grants"),
        ("POST", "/v2/billing/meter_events"),
    ] {
        check(
            &world.call(method, path, &[]).await,
            &format!("{method} {path}"),
        );
    }
}

#[tokio::test]
async fn another_account_is_refused() {
    let world = World::new().await;
    for header in ["Stripe-Account", "Stripe-Context"] {
        let request = world.request("POST", "/v1/customers", &[]);
        let reply = answer(request.header(header, "acct_1")).await;
        check(&reply, &format!("the header {header}"));
    }
    let customers = world.get("/v1/customers", &[]).await.ok();
    assert_eq!(customers["data"].as_array().unwrap().len(), 1);
}

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
    for version in ["", "latest", "2025-13-01.basil", "2026-01-01"] {
        let reply = list(version).await;
        assert_eq!(reply.status, 400, "{version}");
        assert!(reply.message().starts_with("Invalid Stripe API version"));
    }
}

#[tokio::test]
async fn subscriptions_are_classic_by_default_before_clover() {
    let world = World::billing().await;
    for (version, mode, expected) in [
        (Some("2025-08-27.basil"), None, "classic"),
        (Some("2025-08-27.basil"), Some("flexible"), "flexible"),
        (Some("2025-09-30.clover"), None, "flexible"),
        (Some("2025-09-30.clover"), Some("classic"), "classic"),
        (None, None, "flexible"),
    ] {
        let mut pairs = vec![("customer", "cus_1"), ("items[0][price]", "price_basic")];
        pairs.extend(mode.map(|mode| ("billing_mode[type]", mode)));
        let mut request = world.request("POST", "/v1/subscriptions", &pairs);
        if let Some(version) = version {
            request = request.header("stripe-version", version);
        }
        let made = answer(request).await.ok();
        assert_eq!(made["billing_mode"]["type"], expected, "{version:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_not_stored_under_an_idempotency_key() {
    let world = World::new().await;
    for _ in 0..2 {
        let request = world.request("POST", "/v1/customers", &[("balance", "100")]);
        let reply = answer(request.header("idempotency-key", "key")).await;
        check(&reply, "the parameter balance");
        assert_eq!(reply.header("idempotent-replayed"), None);
    }
    let request = world.request("POST", "/v1/customers", &[("name", "x")]);
    let made = answer(request.header("idempotency-key", "key")).await.ok();
    assert_eq!(
        (&made["name"], &made["created"]),
        (&json!("x"), &json!(NOW))
    );
}
