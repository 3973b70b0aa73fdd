//! Tests that the validation detects each kind of request that does not match Stripe's description.

use fake_stripe::LoggedRequest;

use super::{EVENTS, description::Description};

/// The error of a request.
fn fault(method: &str, path: &str, params: &[(&str, &str)]) -> Option<String> {
    let request = LoggedRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        params: params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..LoggedRequest::default()
    };
    Description::new().check(&request).err()
}

const EVENT: [(&str, &str); 5] = [
    ("event_name", "api_calls"),
    ("payload[stripe_customer_id]", "cus_1"),
    ("payload[value]", "12"),
    ("identifier", "one"),
    ("timestamp", "1800000000"),
];

/// The event with one parameter left out, and others added.
fn event(
    without: &str,
    with: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    let mut params = EVENT.to_vec();
    params.retain(|(name, _)| *name != without);
    params.extend(with);
    params
}

#[test]
fn an_undescribed_event_is_detected() {
    assert_eq!(fault("POST", EVENTS, &EVENT), None);
    let long = "x".repeat(101).leak();
    for (without, with, says) in [
        ("", &[("amount", "1")][..], "'amount' was unexpected"),
        ("event_name", &[], "\"event_name\" is a required property"),
        ("payload[value]", &[], "\"value\" is a required property"),
        (
            "payload[value]",
            &[("payload[value]", "1.5")],
            "does not match",
        ),
        (
            "timestamp",
            &[("timestamp", "now")],
            "is not of type \"number\"",
        ),
        (
            "timestamp",
            &[("timestamp", "1.5")],
            "is not of type \"number\"",
        ),
        ("identifier", &[("identifier", long)], "longer than 100"),
        ("", &[("identifier", "two")], "comes twice"),
        ("", &[("payload", "none")], "comes twice"),
        ("", &[("expand", "customer")], "is not of type \"array\""),
        ("", &[("payload[value", "1")], "does not nest"),
    ] {
        let found = fault("POST", EVENTS, &event(without, with));
        let found = found.unwrap_or_else(|| panic!("nothing is wrong with {with:?}"));
        assert!(found.contains(says), "{with:?}: {found}");
    }
}

#[test]
fn an_undescribed_nested_parameter_is_detected() {
    let change = "/v1/subscriptions/sub_1";
    let good = [
        ("items[0][id]", "si_1"),
        ("items[0][deleted]", "true"),
        ("items[1][price]", "price_1"),
        ("metadata[operation]", "1"),
        ("proration_behavior", "always_invoice"),
    ];
    assert_eq!(fault("POST", change, &good), None);
    let long = format!("metadata[{}]", "x".repeat(41));
    for wrong in [
        (long.as_str(), "1"),
        ("items[2][cost]", "1"),
        ("items[3][price]", "price_2"),
        ("items[x][price]", "price_2"),
        ("items[1][deleted]", "yes"),
        ("items[1][quantity]", "many"),
        ("items[1]", "price_1"),
        ("metadata[a][b]", "1"),
        ("cancel_at_period_end", "1"),
        ("proration_date[gte]", "1"),
    ] {
        let params: Vec<_> = good.into_iter().chain([wrong]).collect();
        assert!(fault("POST", change, &params).is_some(), "{wrong:?}");
    }
    let mut other = good;
    other[4].1 = "sometimes";
    assert!(fault("POST", change, &other).is_some());
}

#[test]
fn an_undescribed_query_is_detected() {
    let path = "/v1/billing/meters/mtr_1/event_summaries";
    let good = [
        ("customer", "cus_1"),
        ("start_time", "1799971200"),
        ("end_time", "1800057600"),
        ("value_grouping_window", "day"),
    ];
    assert_eq!(fault("GET", path, &good), None);
    for (at, value) in [
        (1, "1799971201"),
        // A full hour that is not midnight.
        (2, "1800061200"),
        (3, "week"),
    ] {
        let mut wrong = good;
        wrong[at].1 = value;
        assert!(fault("GET", path, &wrong).is_some(), "{value}");
    }
    for at in 0..3 {
        let mut short = good.to_vec();
        short.remove(at);
        assert!(fault("GET", path, &short).is_some(), "{:?}", good[at]);
    }
    for limit in ["0", "101", "all"] {
        let found = fault("GET", "/v1/prices", &[("limit", limit)]);
        assert!(found.is_some(), "{limit}");
    }
    let since = [("created[gte]", "1800000000")];
    assert_eq!(fault("GET", "/v1/invoices", &since), None);
    let after = [("created[after]", "1800000000")];
    assert!(fault("GET", "/v1/invoices", &after).is_some());
}

#[test]
fn an_undescribed_endpoint_is_detected() {
    assert_eq!(fault("GET", "/v1/balance", &[]), None);
    for (method, path, params) in [
        ("GET", "/v1/balance", &[("limit", "1")][..]),
        ("PUT", "/v1/subscriptions/sub_1", &[]),
        ("GET", "/v1/subscriptions/", &[]),
        ("GET", "/v1/customers/cus_1/sources", &[]),
        ("GET", "/v2/billing/meter_events", &[]),
        ("POST", "/v1/usage_records", &[]),
    ] {
        assert!(fault(method, path, params).is_some(), "{method} {path}");
    }
}
