//! `Get`: the right period and points, with all acknowledged usage.

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{
    Error, ErrorKind, Get, Granularity, MeterUsage, Period, PutAccount, Reason, Usage,
    proto::{self, usage_service_client::UsageServiceClient},
};

use crate::support::world::{World, at, hours_ago, on_both_engines};

on_both_engines!(
    the_default_period_is_the_known_billing_period,
    a_usage_response_states_its_account_period_and_zone,
    an_unknown_account_has_zero_usage,
    a_period_edge_inside_a_slot_is_refused_with_the_nearest_edges,
    a_period_is_rounded_outward_on_request,
    the_default_month_of_a_zone_inside_a_slot_is_refused_with_the_zone,
    a_billing_period_edge_is_exact_to_the_millisecond,
    a_series_has_at_most_ten_thousand_points,
    an_invalid_usage_query_is_refused_with_its_field,
    total_usage_is_reported_plus_not_yet_reported_plus_not_billable,
);

pub(crate) async fn get(world: &World, get: Get) -> Usage {
    world.client().get(get).await.unwrap()
}

/// The usage of the default meter.
pub(crate) async fn calls(world: &World, asked: Get) -> MeterUsage {
    get(world, asked.meter("api_calls")).await.meters.remove(0)
}

pub(crate) async fn total(world: &World, start: DateTime<Utc>, end: DateTime<Utc>) -> i64 {
    let asked = Get::account("acct").period(start, end);
    calls(world, asked).await.quantities.total
}

pub(crate) fn by(granularity: Granularity, start: &str, end: &str) -> Get {
    Get::account("acct")
        .period(at(start), at(end))
        .granularity(granularity)
}

async fn the_default_period_is_the_known_billing_period(mut world: World) {
    let clock = world.set_time("2026-06-20T12:00:00Z").await;
    let (start, end) = (at("2026-06-10T10:20:30Z"), at("2026-07-10T10:20:30Z"));
    world.create_customers(&["cus_a"]).await;
    let put = PutAccount::stripe("acct", "cus_a").current_period(start, end);
    world.client().put_account(put).await.unwrap();
    world
        .count("acct", 1, start - TimeDelta::milliseconds(1))
        .await;
    world.count("acct", 10, start).await;
    let usage = get(&world, "acct".into()).await;
    assert_eq!(usage.period, Period::new(start, end));
    assert_eq!(usage.meters[0].quantities.total, 10);
    let other = get(&world, "other".into()).await;
    assert_eq!(other.period.start, at("2026-06-01T00:00:00Z"));
    // Its last moment, and the first one after it, whose billing period is not known yet.
    clock.set(end.timestamp_millis() - 1);
    assert_eq!(
        get(&world, "acct".into()).await.period,
        Period::new(start, end)
    );
    clock.set(end.timestamp_millis());
    let later = get(&world, "acct".into()).await;
    assert_eq!(later.period.start, at("2026-07-01T00:00:00Z"));
    world.finish().await;
}

async fn a_usage_response_states_its_account_period_and_zone(mut world: World) {
    let clock = world.set_time("2026-06-20T12:00:00.123Z").await;
    let asked = by(
        Granularity::Day,
        "2026-06-19T10:00:00Z",
        "2026-06-20T14:00:00Z",
    );
    let usage = get(&world, asked.clone().time_zone("Europe/Vienna")).await;
    assert_eq!(usage.account_id, "acct");
    assert_eq!(
        usage.period,
        Period::new(at("2026-06-19T10:00:00Z"), at("2026-06-20T14:00:00Z"))
    );
    assert_eq!(usage.granularity, Granularity::Day);
    assert_eq!(usage.time_zone, "Europe/Vienna");
    assert_eq!(usage.as_of, at("2026-06-20T12:00:00.123Z"));
    let named: Vec<_> = usage
        .meters
        .iter()
        .map(|meter| (&*meter.meter, &*meter.unit))
        .collect();
    assert_eq!(named, [("api_calls", "call"), ("tokens", "token")]);
    clock.set(clock.now() + 1);
    let usage = get(&world, asked.meter("tokens")).await;
    assert_eq!(usage.as_of, at("2026-06-20T12:00:00.124Z"));
    assert_eq!(usage.time_zone, "UTC");
    assert_eq!(usage.meters.len(), 1);
    assert_eq!(usage.meters[0].meter, "tokens");
    world.finish().await;
}

async fn an_unknown_account_has_zero_usage(world: World) {
    world.client().increment("other").await.unwrap();
    let (start, end) = (hours_ago(5), hours_ago(2));
    for granularity in [Granularity::Total, Granularity::Hour] {
        let asked = Get::account("acct")
            .period(start, end)
            .granularity(granularity);
        for meter in get(&world, asked).await.meters {
            assert_eq!(meter.quantities.total, 0);
            let expected = if granularity == Granularity::Total {
                0
            } else {
                3
            };
            assert_eq!(meter.points.len(), expected);
            assert!(meter.points.iter().all(|point| point.quantities.total == 0));
        }
    }
    world.finish().await;
}

/// The violation's text of a query that must be rejected because of one field.
pub(crate) async fn refusal(world: &World, asked: Get, field: &str, reason: Reason) -> String {
    let error = world.client().get(asked).await.unwrap_err();
    violation_of(&error, field, &reason)
}

fn violation_of(error: &Error, field: &str, reason: &Reason) -> String {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(error.reason(), Some(reason), "{error}");
    assert_eq!(error.violations()[0].field, field, "{error}");
    error.violations()[0].description.clone()
}

async fn a_period_edge_inside_a_slot_is_refused_with_the_nearest_edges(world: World) {
    let hour = at("2026-06-10T10:00:00Z");
    let inside = hour + TimeDelta::milliseconds(1);
    let next = hour + TimeDelta::hours(1);
    let asked = |start, end| Get::account("acct").period(start, end);
    for (asked, field) in [
        (asked(inside, next), "period.start"),
        (asked(hour, inside), "period.end"),
    ] {
        let text = refusal(&world, asked, field, Reason::PeriodNotAligned).await;
        for named in [
            "2026-06-10T10:00:00.001Z",
            "60 minutes",
            "2026-06-10T10:00:00Z and 2026-06-10T11:00:00Z",
        ] {
            assert!(text.contains(named), "{text}");
        }
    }
    // A billing period's edge is nearer.
    let edge = hour + TimeDelta::minutes(20);
    world.create_customers(&["cus_a"]).await;
    let put = PutAccount::stripe("acct", "cus_a").current_period(edge, edge + TimeDelta::days(30));
    world.client().put_account(put).await.unwrap();
    let text = refusal(
        &world,
        asked(inside, next),
        "period.start",
        Reason::PeriodNotAligned,
    )
    .await;
    assert!(
        text.contains("2026-06-10T10:00:00Z and 2026-06-10T10:20:00Z"),
        "{text}"
    );
    get(&world, asked(edge, next)).await;
    world.finish().await;
}

async fn a_period_is_rounded_outward_on_request(mut world: World) {
    world.set_time("2026-06-10T12:34:56.789Z").await;
    let now = at("2026-06-10T12:34:56.789Z");
    let week = Get::account("acct").period(now - TimeDelta::days(7), now);
    let text = refusal(
        &world,
        week.clone(),
        "period.start",
        Reason::PeriodNotAligned,
    )
    .await;
    assert!(text.contains("round_outward"), "{text}");
    let week = week.round_outward();
    let (start, end) = (at("2026-06-03T12:00:00Z"), at("2026-06-10T13:00:00Z"));
    let millisecond = TimeDelta::milliseconds(1);
    for (quantity, time) in [(1, start - millisecond), (2, start), (4, now)] {
        world.count("acct", quantity, time).await;
    }
    let usage = get(&world, week.clone().granularity(Granularity::Day)).await;
    assert_eq!(usage.period, Period::new(start, end));
    assert_eq!(usage.meters[0].quantities.total, 2 + 4);
    let points = &usage.meters[0].points;
    assert_eq!((points[0].period.start, points.len()), (start, 8));
    // Edges that are exact stay.
    let exact = Get::account("acct").period(start, end).round_outward();
    assert_eq!(get(&world, exact).await.period, Period::new(start, end));
    // A billing period's edge is nearer than the slot's, and leaves out what is billed before it.
    let edge = at("2026-06-03T12:20:00Z");
    world.create_customers(&["cus_a"]).await;
    let put = PutAccount::stripe("acct", "cus_a").current_period(edge, edge + TimeDelta::days(30));
    world.client().put_account(put).await.unwrap();
    assert_eq!(get(&world, week).await.period, Period::new(edge, end));
    // The limit is that of the requested period, and rounding saves no empty one.
    let longest = Get::account("acct").period(now - TimeDelta::days(3_660), now);
    get(&world, longest.round_outward()).await;
    let empty = Get::account("acct").period(now, now).round_outward();
    refusal(&world, empty, "period", Reason::InvalidField).await;
    world.finish().await;
}

async fn the_default_month_of_a_zone_inside_a_slot_is_refused_with_the_zone(mut world: World) {
    world.set_time("2026-06-10T12:00:00Z").await;
    let asked = Get::account("acct").time_zone("Asia/Kathmandu");
    let text = refusal(&world, asked.clone(), "time_zone", Reason::PeriodNotAligned).await;
    assert!(
        text.contains("a month begins at 2026-05-31T18:15:00Z") && text.contains("round_outward"),
        "{text}"
    );
    let rounded = get(&world, asked.clone().round_outward()).await.period;
    let (start, end) = (at("2026-05-31T18:00:00Z"), at("2026-06-30T19:00:00Z"));
    assert_eq!(rounded, Period::new(start, end));
    // Hours are those of UTC in every zone.
    let hours = asked.clone().round_outward().granularity(Granularity::Hour);
    let points = calls(&world, hours).await.points;
    let second = at("2026-05-31T19:00:00Z");
    assert_eq!(points[0].period, Period::new(start, second));
    world.reconfigure(&["--window-mins=15"]).await;
    let month = get(&world, asked.clone()).await.period;
    let start = at("2026-05-31T18:15:00Z");
    assert_eq!(month, Period::new(start, at("2026-06-30T18:15:00Z")));
    let points = calls(&world, asked.granularity(Granularity::Hour))
        .await
        .points;
    assert_eq!(points[0].period, Period::new(start, second));
    world.finish().await;
}

async fn a_billing_period_edge_is_exact_to_the_millisecond(mut world: World) {
    world.set_time("2026-06-10T12:00:00Z").await;
    let edge = at("2026-06-10T10:20:00.123Z");
    let end = at("2026-06-10T11:40:00.456Z");
    world.create_customers(&["cus_a"]).await;
    let put = PutAccount::stripe("acct", "cus_a").current_period(edge, end);
    world.client().put_account(put).await.unwrap();
    let millisecond = TimeDelta::milliseconds(1);
    for (quantity, time) in [
        (1, edge - millisecond),
        (2, edge),
        (4, end - millisecond),
        (8, end),
    ] {
        world.count("acct", quantity, time).await;
    }
    let (before, after) = (at("2026-06-10T10:00:00Z"), at("2026-06-10T12:00:00Z"));
    assert_eq!(total(&world, before, edge).await, 1);
    assert_eq!(total(&world, edge, end).await, 2 + 4);
    assert_eq!(total(&world, end, after).await, 8);
    let asked = Get::account("acct").period(edge, end);
    let by_hour = calls(&world, asked.granularity(Granularity::Hour)).await;
    let edges: Vec<_> = by_hour.points.iter().map(|point| point.period).collect();
    let hour = at("2026-06-10T11:00:00Z");
    assert_eq!(edges, [Period::new(edge, hour), Period::new(hour, end)]);
    assert_eq!(by_hour.points[0].quantities.total, 2);
    assert_eq!(by_hour.points[1].quantities.total, 4);
    world.finish().await;
}

async fn a_series_has_at_most_ten_thousand_points(world: World) {
    let start = hours_ago(20_000);
    let asked = |hours: i64| {
        let end = start + TimeDelta::hours(hours);
        Get::account("acct")
            .period(start, end)
            .granularity(Granularity::Hour)
    };
    let most = calls(&world, asked(10_000)).await;
    assert_eq!(most.points.len(), 10_000);
    for too_many in [asked(10_001).meter("api_calls"), asked(5_001)] {
        let text = refusal(&world, too_many, "granularity", Reason::TooManyPoints).await;
        assert!(text.contains("more than 10000 points"), "{text}");
    }
    assert_eq!(
        get(&world, asked(5_000)).await.meters[1].points.len(),
        5_000
    );
    world.finish().await;
}

async fn an_invalid_usage_query_is_refused_with_its_field(world: World) {
    let (start, end) = (hours_ago(3), hours_ago(2));
    let asked = Get::account("acct").period(start, end);
    for (asked, field, reason, named) in [
        (Get::account(""), "account_id", Reason::InvalidField, "128"),
        (
            asked.clone().meter("nope"),
            "meter",
            Reason::UnknownMeter,
            "api_calls, tokens",
        ),
        (
            asked.clone().time_zone("Mars/Olympus"),
            "time_zone",
            Reason::InvalidField,
            "\"Mars/Olympus\"",
        ),
        (
            asked.clone().period(end, start),
            "period",
            Reason::InvalidField,
            "later than",
        ),
        (
            asked.clone().period(start, start),
            "period",
            Reason::InvalidField,
            "later than",
        ),
        (
            asked.period(start, start + TimeDelta::days(3_660) + TimeDelta::hours(1)),
            "period",
            Reason::InvalidField,
            "3,660 days",
        ),
    ] {
        let text = refusal(&world, asked, field, reason).await;
        assert!(text.contains(named), "{text}");
    }
    let longest = Get::account("acct").period(start, start + TimeDelta::days(3_660));
    get(&world, longest).await;

    let mut usage = UsageServiceClient::new(world.grpc_channel().await);
    let request = proto::GetRequest {
        account_id: "acct".to_owned(),
        ..Default::default()
    };
    let mut half = request.clone();
    half.period
        .get_or_insert_default()
        .end
        .get_or_insert_default();
    let error = usage.get(half).await.unwrap_err().into();
    violation_of(&error, "period.start", &Reason::InvalidField);
    let mut strange = request;
    strange.granularity = 99;
    let error = usage.get(strange).await.unwrap_err().into();
    assert!(violation_of(&error, "granularity", &Reason::InvalidField).contains("99"));
    world.finish().await;
}

async fn total_usage_is_reported_plus_not_yet_reported_plus_not_billable(world: World) {
    let client = world.client();
    world
        .stripe()
        .create_subscribed_customer("cus_a")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_a").bill_from(hours_ago(10));
    client.put_account(link).await.unwrap();
    world.count("acct", 1, hours_ago(12)).await;
    world.count("acct", 10, hours_ago(8)).await;
    world.report_all().await;
    world.count("acct", 100, hours_ago(8)).await;
    assert_eq!(world.usage("acct").await, (111, 10, 100, 1));
    let asked = Get::account("acct")
        .period(hours_ago(13), hours_ago(7))
        .granularity(Granularity::Hour);
    let usage = calls(&world, asked).await;
    for quantities in usage.points.iter().map(|point| point.quantities) {
        let parts = quantities.reported + quantities.not_yet_reported + quantities.not_billable;
        assert_eq!(quantities.total, parts);
    }
    assert_eq!(usage.points[1].quantities.not_billable, 1);
    assert_eq!(usage.points[5].quantities.reported, 10);
    assert_eq!(usage.points[5].quantities.not_yet_reported, 100);
    world.finish().await;
}
