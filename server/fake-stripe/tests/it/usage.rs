//! Meter events, their cancellation, and the summaries of them.

use std::time::Duration;

use fake_stripe::Settings;

use crate::client::{NOW, World};

const MINUTE: i64 = NOW - NOW % 60;
const HOUR: i64 = NOW - NOW % 3_600;
const DAY: i64 = NOW - NOW % 86_400;
const DAY_LONG: Duration = Duration::from_hours(24);

async fn event_at(
    world: &World,
    identifier: &str,
    value: &str,
    timestamp: i64,
) -> crate::client::Reply {
    let timestamp = timestamp.to_string();
    let mut pairs = crate::client::event(identifier, value);
    pairs.push(("timestamp", &timestamp));
    world.post("/v1/billing/meter_events", &pairs).await
}

#[tokio::test]
async fn an_event_is_stored_and_summed() {
    let world = World::new().await;
    let event = world.event("a", "5").await.ok();
    assert_eq!(
        (event["identifier"].as_str(), event["timestamp"].as_i64()),
        (Some("a"), Some(NOW))
    );
    world.event("b", "-2").await.ok();
    let unnamed = [
        ("event_name", "calls"),
        ("payload[stripe_customer_id]", "cus_1"),
        ("payload[value]", "1"),
    ];
    assert!(
        !world.post("/v1/billing/meter_events", &unnamed).await.ok()["identifier"]
            .as_str()
            .unwrap()
            .is_empty()
    );

    let events = world.control.events().await.unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(
        (
            events[0].value,
            events[0].timestamp,
            events[0].received_at_ms
        ),
        (5, NOW, NOW * 1_000)
    );
    let total = world.control.totals().await.unwrap();
    assert_eq!(
        total.get(&("cus_1".to_owned(), "calls".to_owned())),
        Some(&4)
    );
    assert_eq!(world.summary(MINUTE, MINUTE + 60, &[]).await, [4.0]);
}

#[tokio::test]
async fn an_identifier_is_taken_for_a_day() {
    let world = World::new().await;
    world.event("a", "5").await.ok();
    world
        .control
        .advance_clock(DAY_LONG.checked_sub(Duration::from_millis(1)).unwrap())
        .await
        .unwrap();
    let reply = world.event("a", "7").await;
    assert_eq!(reply.refusal(), (400, ""));
    assert_eq!(
        reply.message(),
        "An event already exists with identifier a."
    );
    assert_eq!(reply.header("stripe-should-retry"), Some("false"));
    world
        .control
        .advance_clock(Duration::from_millis(1))
        .await
        .unwrap();
    world.event("a", "7").await.ok();
    assert_eq!(world.control.stats().await.unwrap().duplicates_refused, 1);
}

/// An event of this name with the rest of its parameters written as `key=value`.
async fn refusal_of(world: &World, event_name: &str, rest: &[&str]) -> crate::client::Reply {
    let mut pairs = vec![("event_name", event_name)];
    pairs.extend(rest.iter().map(|pair| pair.split_once('=').unwrap()));
    world.post("/v1/billing/meter_events", &pairs).await
}

#[tokio::test]
async fn invalid_events_are_rejected() {
    const BY: &str = "payload[stripe_customer_id]=cus_1";
    const ONE: &str = "payload[value]=1";
    let world = World::new().await;
    world.control.create_customer("cus_gone").await.unwrap();
    world.control.delete_customer("cus_gone").await.unwrap();
    let too_old = format!("timestamp={}", NOW - 35 * 86_400 - 1);
    let too_new = format!("timestamp={}", NOW + 301);
    let cases: [(&str, &[&str], &str); 9] = [
        ("none", &[BY, ONE], "no_meter"),
        ("calls", &[ONE], "meter_event_no_customer_defined"),
        (
            "calls",
            &["payload[stripe_customer_id]=cus_2", ONE],
            "resource_missing",
        ),
        (
            "calls",
            &["payload[stripe_customer_id]=cus_gone", ONE],
            "resource_missing",
        ),
        ("calls", &[BY], "meter_event_value_not_found"),
        (
            "calls",
            &[BY, "payload[value]=1.5"],
            "meter_event_invalid_value",
        ),
        (
            "calls",
            &[BY, "payload[value]=1000000000000000"],
            "meter_event_value_too_many_digits",
        ),
        ("calls", &[BY, ONE, &too_old], "timestamp_too_far_in_past"),
        ("calls", &[BY, ONE, &too_new], "timestamp_in_future"),
    ];
    for (event_name, rest, code) in cases {
        assert_eq!(
            refusal_of(&world, event_name, rest).await.refusal(),
            (400, code),
            "{rest:?}"
        );
    }
    assert_eq!(world.event(&"x".repeat(101), "1").await.status, 400);
    assert_eq!(world.control.events().await.unwrap().len(), 0);
}

#[tokio::test]
async fn an_error_can_have_no_code() {
    let world = World::new().await;
    world.control.set_bare_error_codes(true).await.unwrap();
    let reply = refusal_of(
        &world,
        "none",
        &["payload[stripe_customer_id]=cus_1", "payload[value]=1"],
    )
    .await;
    assert_eq!(reply.refusal(), (400, ""));
    assert_eq!(
        reply.message(),
        "No active meter found for event name \"none\"."
    );
    let reply = refusal_of(
        &world,
        "calls",
        &["payload[stripe_customer_id]=cus_2", "payload[value]=1"],
    )
    .await;
    assert_eq!(reply.refusal(), (400, "resource_missing"));
    assert_eq!(reply.message(), "No such customer: 'cus_2'");
}

#[tokio::test]
async fn timestamps_at_the_limits_are_accepted() {
    let world = World::new().await;
    event_at(&world, "old", "1", NOW - 35 * 86_400).await.ok();
    event_at(&world, "new", "1", NOW + 300).await.ok();
}

#[tokio::test]
async fn a_cancelled_event_leaves_the_summaries() {
    let world = World::new().await;
    world.event("a", "5").await.ok();
    world.event("b", "7").await.ok();
    let path = "/v1/billing/meter_event_adjustments";
    let cancel = |identifier| {
        [
            ("event_name", "calls"),
            ("type", "cancel"),
            ("cancel[identifier]", identifier),
        ]
    };
    assert_eq!(
        world.post(path, &cancel("a")).await.ok()["cancel"]["identifier"],
        "a"
    );
    assert_eq!(world.summary(MINUTE, MINUTE + 60, &[]).await, [7.0]);
    assert_eq!(
        world.post(path, &cancel("a")).await.status,
        400,
        "cancelled twice"
    );
    assert_eq!(
        world.post(path, &cancel("c")).await.refusal(),
        (400, "resource_missing")
    );
    assert!(
        world
            .event("a", "5")
            .await
            .message()
            .starts_with("An event already exists")
    );
    world.control.advance_clock(DAY_LONG).await.unwrap();
    assert_eq!(world.post(path, &cancel("b")).await.status, 400, "too late");
    let cancelled: Vec<bool> = world
        .control
        .events()
        .await
        .unwrap()
        .iter()
        .map(|event| event.cancelled)
        .collect();
    assert_eq!(cancelled, [true, false]);
}

#[tokio::test]
async fn summaries_are_grouped_newest_first_and_end_before_their_end() {
    let world = World::new().await;
    for (identifier, timestamp) in [("a", DAY), ("b", HOUR - 1), ("c", HOUR), ("d", HOUR + 60)] {
        event_at(&world, identifier, "1", timestamp).await.ok();
    }
    let (from, to) = (DAY - 86_400, DAY + 86_400);
    assert_eq!(world.summary(from, to, &[]).await, [4.0]);
    assert_eq!(world.summary(DAY, HOUR, &[]).await, [2.0]);
    assert_eq!(
        world
            .summary(from, to, &[("value_grouping_window", "hour")])
            .await,
        [2.0, 1.0, 1.0]
    );
    assert_eq!(
        world
            .summary(from, to, &[("value_grouping_window", "day")])
            .await,
        [4.0]
    );

    let pairs = [
        ("customer", "cus_1"),
        ("start_time", &from.to_string()),
        ("end_time", &to.to_string()),
        ("value_grouping_window", "hour"),
        ("limit", "2"),
    ];
    let path = "/v1/billing/meters/mtr_1/event_summaries";
    let page = world.get(path, &pairs).await.ok();
    assert_eq!(
        (page["has_more"].as_bool(), page["url"].as_str()),
        (Some(true), Some(path))
    );
    assert_eq!(page["data"][0]["start_time"], HOUR);
    assert_eq!(page["data"][0]["end_time"], HOUR + 3_600);
    let last = page["data"][1]["id"].as_str().unwrap();
    let rest = world
        .summary(
            from,
            to,
            &[("value_grouping_window", "hour"), ("starting_after", last)],
        )
        .await;
    assert_eq!(rest, [1.0]);
}

#[tokio::test]
async fn summaries_require_aligned_times() {
    let world = World::new().await;
    let path = "/v1/billing/meters/mtr_1/event_summaries";
    let ask = async |start: i64, end: i64, window: &str| {
        let (start, end) = (start.to_string(), end.to_string());
        let mut pairs = vec![
            ("customer", "cus_1"),
            ("start_time", &start),
            ("end_time", &end),
        ];
        if !window.is_empty() {
            pairs.push(("value_grouping_window", window));
        }
        world.get(path, &pairs).await.status
    };
    assert_eq!(ask(MINUTE, MINUTE + 60, "").await, 200);
    assert_eq!(ask(MINUTE + 1, MINUTE + 60, "").await, 400);
    assert_eq!(ask(MINUTE, MINUTE, "").await, 400);
    assert_eq!(ask(MINUTE, HOUR + 3_600, "hour").await, 400);
    assert_eq!(ask(HOUR, HOUR + 3_600, "hour").await, 200);
    assert_eq!(ask(HOUR, DAY + 86_400, "day").await, 400);
    assert_eq!(ask(DAY, DAY + 86_400, "week").await, 400);
    let missing = world
        .get(path, &[("customer", "cus_1"), ("start_time", "0")])
        .await;
    assert_eq!(missing.refusal(), (400, "parameter_missing"));
}

#[tokio::test]
async fn an_event_shows_once_the_delay_is_over() {
    let world = World::with(Settings {
        summary_delay: Duration::from_mins(1),
        ..Settings::default()
    })
    .await;
    world.event("a", "5").await.ok();
    assert_eq!(world.summary(MINUTE, MINUTE + 60, &[]).await, [0.0]);
    world
        .control
        .advance_clock(Duration::from_millis(59_999))
        .await
        .unwrap();
    assert_eq!(world.summary(MINUTE, MINUTE + 60, &[]).await, [0.0]);
    world
        .control
        .advance_clock(Duration::from_millis(1))
        .await
        .unwrap();
    assert_eq!(world.summary(MINUTE, MINUTE + 60, &[]).await, [5.0]);
    world
        .control
        .set_summary_delay(Duration::from_hours(1))
        .await
        .unwrap();
    world
        .control
        .set_summarize_empty_ranges(false)
        .await
        .unwrap();
    assert_eq!(world.summary(MINUTE, MINUTE + 60, &[]).await, [0.0; 0]);
}

#[tokio::test]
async fn each_formula_aggregates_in_its_way() {
    let world = World::new().await;
    for (formula, expected) in [("count", 3.0), ("last", 2.0), ("sum", 10.0)] {
        let pairs = [
            ("display_name", formula),
            ("event_name", formula),
            ("default_aggregation[formula]", formula),
        ];
        let meter = world.post("/v1/billing/meters", &pairs).await.ok();
        for (value, timestamp) in [("7", NOW - 2), ("2", NOW), ("1", NOW - 1)] {
            let timestamp = timestamp.to_string();
            let pairs = [
                ("event_name", formula),
                ("payload[stripe_customer_id]", "cus_1"),
                ("payload[value]", value),
                ("timestamp", timestamp.as_str()),
            ];
            world.post("/v1/billing/meter_events", &pairs).await.ok();
        }
        let path = format!(
            "/v1/billing/meters/{}/event_summaries",
            meter["id"].as_str().unwrap()
        );
        let (start, end) = (MINUTE.to_string(), (MINUTE + 60).to_string());
        let list = world
            .get(
                &path,
                &[
                    ("customer", "cus_1"),
                    ("start_time", &start),
                    ("end_time", &end),
                ],
            )
            .await
            .ok();
        assert_eq!(
            list["data"][0]["aggregated_value"].as_f64(),
            Some(expected),
            "{formula}"
        );
    }
}
