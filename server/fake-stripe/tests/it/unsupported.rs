//! What the fake Stripe does not support is refused as that: 501 with a message that says so, never as a mistake of the
//! caller, and never in silence.

use serde_json::json;

use crate::billing_world::SUB;
use crate::client::{NOW, Reply, World, answer, event};

pub(crate) fn check(reply: &Reply, what: &str) {
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

/// A request as method, path and form, and what of it is not supported.
type Case = (&'static str, &'static str, &'static str, &'static str);

/// What Stripe takes.
const TAKEN: &[Case] = &[
    (
        "POST",
        "/v1/customers",
        "test_clock=clock_1",
        "the parameter test_clock",
    ),
    (
        "GET",
        "/v1/subscriptions",
        "test_clock=clock_1",
        "the parameter test_clock",
    ),
    (
        "POST",
        SUB,
        "automatic_tax[enabled]=true&discounts=",
        "the parameters automatic_tax, discounts",
    ),
    (
        "POST",
        SUB,
        "items[0][price_data][currency]=usd",
        "the parameter items[0][price_data]",
    ),
    (
        "POST",
        SUB,
        "payment_behavior=default_incomplete",
        "payment_behavior=default_incomplete",
    ),
    (
        "POST",
        SUB,
        "payment_behavior=pending_if_incomplete",
        "payment_behavior=pending_if_incomplete",
    ),
    (
        "POST",
        SUB,
        "collection_method=send_invoice",
        "collection_method=send_invoice",
    ),
    (
        "POST",
        SUB,
        "billing_cycle_anchor[type]=now",
        "billing_cycle_anchor=now",
    ),
    (
        "POST",
        SUB,
        "trial_end=1800000000",
        "trial_end on a subscription whose status is active",
    ),
    (
        "POST",
        "/v1/invoices/create_preview",
        "preview_mode=recurring",
        "preview_mode=recurring",
    ),
    (
        "POST",
        "/v1/prices",
        "currency=usd&product=prod_calls&unit_amount=1&tax_behavior=inclusive",
        "tax_behavior=inclusive",
    ),
    (
        "POST",
        "/v1/prices",
        "currency=usd&product=prod_calls&unit_amount=1&recurring[interval]=month&recurring[trial_period_days]=3",
        "the parameter recurring[trial_period_days]",
    ),
    (
        "POST",
        SUB,
        "cancel_at=max_billed_until",
        "cancel_at=max_billed_until",
    ),
    (
        "POST",
        "/v1/subscriptions",
        "customer=cus_1&items[0][price]=price_basic&cancel_at=min_period_end",
        "cancel_at=min_period_end of a new subscription",
    ),
    (
        "POST",
        SUB,
        "payment_behavior=error_if_incomplete",
        "payment_behavior=error_if_incomplete",
    ),
];

/// What Stripe takes instead of something that is missing here.
const TAKEN_INSTEAD: &[Case] = &[
    (
        "POST",
        "/v1/prices",
        "currency=usd&product=prod_calls&custom_unit_amount[enabled]=true",
        "the parameter custom_unit_amount",
    ),
    (
        "POST",
        "/v1/subscriptions",
        "customer=cus_1&items[0][price_data][currency]=usd&items[0][price_data][unit_amount]=5",
        "the parameter items[0][price_data]",
    ),
    (
        "POST",
        "/v1/subscriptions",
        "customer_account=acct_1&add_invoice_items[0][price]=price_1",
        "the parameters add_invoice_items, customer_account",
    ),
    (
        "POST",
        "/v1/subscription_items",
        "subscription=sub_1&plan=price_basic",
        "the parameter plan",
    ),
    (
        "POST",
        "/v1/invoices/create_preview",
        "schedule=sub_sched_1",
        "the parameter schedule",
    ),
];

#[tokio::test]
async fn parameters_that_stripe_takes_are_named() {
    let world = World::billing().await;
    world.subscribe(&["price_basic", "price_seat"]).await;
    let before = world.get(SUB, &[]).await.ok();
    for (method, path, form, what) in TAKEN.iter().chain(TAKEN_INSTEAD) {
        let pairs: Vec<(&str, &str)> = form
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        check(&world.call(method, path, &pairs).await, what);
    }
    assert_eq!(world.get(SUB, &[]).await.ok(), before);
}

#[tokio::test]
async fn an_incomplete_subscription_is_refused_where_it_would_be_one() {
    let world = World::billing().await;
    for behavior in ["default_incomplete", "error_if_incomplete"] {
        let with = |price: &'static str| {
            [
                ("customer", "cus_1"),
                ("items[0][price]", price),
                ("payment_behavior", behavior),
            ]
        };
        let metered = world.post("/v1/subscriptions", &with("price_basic")).await;
        assert_eq!(metered.ok()["status"], "active");
        let fee = world.post("/v1/subscriptions", &with("price_seat")).await;
        let what = format!("payment_behavior={behavior} where the first invoice has to be paid");
        check(&fee, &what);
    }
    let all = world.get("/v1/subscriptions", &[]).await.ok();
    assert_eq!(all["data"].as_array().unwrap().len(), 2);
    let pending = [
        ("customer", "cus_1"),
        ("items[0][price]", "price_basic"),
        ("payment_behavior", "pending_if_incomplete"),
    ];
    let reply = world.post("/v1/subscriptions", &pending).await;
    check(&reply, "payment_behavior=pending_if_incomplete");
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
        ("POST", "/v1/subscriptions/sub_1/pause"),
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
async fn a_request_of_too_many_bytes_is_refused() {
    let world = World::new().await;
    let long = "x".repeat(256 * 1_024);
    let pairs = [("description", long.as_str())];
    let reply = answer(world.request("POST", "/v1/customers", &pairs)).await;
    check(&reply, "a request of more than 262144 bytes");
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
