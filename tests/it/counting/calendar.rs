//! The calendar: days and months start and end as in the time zone.

use usage_client::{Get, Granularity, MeterUsage, Period, Reason, UsagePoint};

use crate::{
    counting::usage_query::{by, calls, get, refusal, total},
    support::world::{World, at, on_both_engines},
};

on_both_engines!(
    the_default_period_is_the_calendar_month_of_the_zone,
    a_series_has_a_point_for_every_part_of_the_period,
    a_day_has_23_hours_when_clocks_go_forward,
    a_day_has_25_hours_when_clocks_go_back,
    a_month_ends_with_its_last_day_in_a_leap_year,
    a_half_hour_time_zone_needs_half_hour_slots,
    rounded_days_of_a_half_hour_time_zone_begin_with_a_slot,
);

/// The length in hours and the total of each point.
fn series(usage: &MeterUsage) -> Vec<(i64, i64)> {
    let point = |point: &UsagePoint| {
        let length = point.period.end - point.period.start;
        (length.num_hours(), point.quantities.total)
    };
    usage.points.iter().map(point).collect()
}

async fn the_default_period_is_the_calendar_month_of_the_zone(mut world: World) {
    // It is still June in New York, and already July in Vienna.
    world.set_time("2026-06-30T23:30:00Z").await;
    for (quantity, time) in [
        (1, "2026-06-30T21:59:59.999Z"),
        (10, "2026-06-30T22:00:00Z"),
        (100, "2026-06-01T03:59:59.999Z"),
        (1_000, "2026-06-01T04:00:00Z"),
    ] {
        world.count("acct", quantity, at(time)).await;
    }
    for (zone, start, end, total) in [
        ("", "2026-06-01T00:00:00Z", "2026-07-01T00:00:00Z", 1_111),
        (
            "Europe/Vienna",
            "2026-06-30T22:00:00Z",
            "2026-07-31T22:00:00Z",
            10,
        ),
        (
            "America/New_York",
            "2026-06-01T04:00:00Z",
            "2026-07-01T04:00:00Z",
            1_011,
        ),
    ] {
        let usage = get(&world, Get::account("acct").time_zone(zone)).await;
        assert_eq!(usage.period, Period::new(at(start), at(end)), "{zone}");
        assert_eq!(usage.meters[0].quantities.total, total, "{zone}");
    }
    world.finish().await;
}

async fn a_series_has_a_point_for_every_part_of_the_period(mut world: World) {
    world.set_time("2026-06-02T12:00:00Z").await;
    for (quantity, time) in [
        (1, "2026-05-30T21:59:59.999Z"),
        (2, "2026-05-30T22:00:00Z"),
        (4, "2026-05-31T23:59:59.999Z"),
        (8, "2026-06-01T00:00:00Z"),
        (16, "2026-06-02T01:59:59.999Z"),
        (32, "2026-06-02T02:00:00Z"),
    ] {
        world.count("acct", quantity, at(time)).await;
    }
    let (start, end) = ("2026-05-30T22:00:00Z", "2026-06-02T02:00:00Z");
    let whole = 2 + 4 + 8 + 16;
    let mut hours = vec![(1, 0); 52];
    (hours[0].1, hours[25].1, hours[26].1, hours[51].1) = (2, 4, 8, 16);
    for (granularity, expected) in [
        (Granularity::Total, vec![]),
        (Granularity::Slot, hours.clone()),
        (Granularity::Hour, hours),
        (Granularity::Day, vec![(2, 2), (24, 4), (24, 8), (2, 16)]),
        (Granularity::Month, vec![(26, 6), (26, 24)]),
    ] {
        let usage = calls(&world, by(granularity, start, end)).await;
        assert_eq!(usage.quantities.total, whole);
        assert_eq!(series(&usage), expected, "{granularity:?}");
        let Some(first) = usage.points.first() else {
            continue;
        };
        assert_eq!(first.period.start, at(start));
        assert_eq!(usage.points.last().unwrap().period.end, at(end));
        let gapless = |pair: &[UsagePoint]| pair[0].period.end == pair[1].period.start;
        assert!(usage.points.windows(2).all(gapless));
    }
    world.finish().await;
}

async fn a_day_has_23_hours_when_clocks_go_forward(mut world: World) {
    world.set_time("2026-03-31T12:00:00Z").await;
    for (quantity, time) in [
        // Vienna's 29 March: 23:00Z to 22:00Z.
        (1, "2026-03-28T22:59:59.999Z"),
        (2, "2026-03-28T23:00:00Z"),
        (4, "2026-03-29T21:59:59.999Z"),
        (8, "2026-03-29T22:00:00Z"),
        // New York's 8 March: 05:00Z to 04:00Z.
        (10, "2026-03-08T04:59:59.999Z"),
        (20, "2026-03-08T05:00:00Z"),
        (40, "2026-03-09T03:59:59.999Z"),
        (80, "2026-03-09T04:00:00Z"),
    ] {
        world.count("acct", quantity, at(time)).await;
    }
    let days = by(
        Granularity::Day,
        "2026-03-27T23:00:00Z",
        "2026-03-30T22:00:00Z",
    );
    let usage = calls(&world, days.time_zone("Europe/Vienna")).await;
    assert_eq!(series(&usage), [(24, 1), (23, 6), (24, 8)]);
    let days = by(
        Granularity::Day,
        "2026-03-07T05:00:00Z",
        "2026-03-10T04:00:00Z",
    );
    let usage = calls(&world, days.time_zone("America/New_York")).await;
    assert_eq!(series(&usage), [(24, 10), (23, 60), (24, 80)]);
    let months = by(
        Granularity::Month,
        "2026-02-28T23:00:00Z",
        "2026-04-01T00:00:00Z",
    );
    let usage = calls(&world, months.time_zone("Europe/Vienna")).await;
    assert_eq!(series(&usage), [(31 * 24 - 1, 165), (2, 0)]);
    world.finish().await;
}

async fn a_day_has_25_hours_when_clocks_go_back(mut world: World) {
    world.set_time("2026-11-03T12:00:00Z").await;
    for (quantity, time) in [
        // Vienna's 25 October: 22:00Z to 23:00Z.
        (1, "2026-10-24T21:59:59.999Z"),
        (2, "2026-10-24T22:00:00Z"),
        (4, "2026-10-25T22:59:59.999Z"),
        (8, "2026-10-25T23:00:00Z"),
        // New York's 1 November: 04:00Z to 05:00Z.
        (10, "2026-11-01T03:59:59.999Z"),
        (20, "2026-11-01T04:00:00Z"),
        (40, "2026-11-02T04:59:59.999Z"),
        (80, "2026-11-02T05:00:00Z"),
    ] {
        world.count("acct", quantity, at(time)).await;
    }
    let days = by(
        Granularity::Day,
        "2026-10-23T22:00:00Z",
        "2026-10-26T23:00:00Z",
    );
    let usage = calls(&world, days.time_zone("Europe/Vienna")).await;
    assert_eq!(series(&usage), [(24, 1), (25, 6), (24, 8)]);
    let days = by(
        Granularity::Day,
        "2026-10-31T04:00:00Z",
        "2026-11-03T05:00:00Z",
    );
    let usage = calls(&world, days.time_zone("America/New_York")).await;
    assert_eq!(series(&usage), [(24, 10), (25, 60), (24, 80)]);
    world.finish().await;
}

async fn a_month_ends_with_its_last_day_in_a_leap_year(mut world: World) {
    world.set_time("2028-03-01T00:04:00Z").await;
    for (quantity, time) in [
        (1, "2028-01-31T23:59:59.999Z"),
        (2, "2028-02-01T00:00:00Z"),
        (4, "2028-02-29T00:00:00Z"),
        (8, "2028-02-29T23:59:59.999Z"),
        (16, "2028-03-01T00:00:00Z"),
    ] {
        world.count("acct", quantity, at(time)).await;
    }
    let (start, end) = ("2028-01-31T00:00:00Z", "2028-03-02T00:00:00Z");
    let months = calls(&world, by(Granularity::Month, start, end)).await;
    assert_eq!(series(&months), [(24, 1), (29 * 24, 14), (24, 16)]);
    let days = calls(&world, by(Granularity::Day, start, end)).await;
    let totals: Vec<i64> = series(&days).into_iter().map(|(_, total)| total).collect();
    assert_eq!(totals.len(), 31);
    assert_eq!(
        (totals[0], totals[1], totals[29], totals[30]),
        (1, 2, 12, 16)
    );
    let this_month = get(&world, "acct".into()).await;
    assert_eq!(this_month.period.start, at("2028-03-01T00:00:00Z"));
    assert_eq!(this_month.meters[0].quantities.total, 16);
    world.finish().await;
}

async fn a_half_hour_time_zone_needs_half_hour_slots(mut world: World) {
    let (start, end) = ("2026-06-09T18:30:00Z", "2026-06-10T18:30:00Z");
    let asked = by(
        Granularity::Day,
        "2026-06-09T18:00:00Z",
        "2026-06-10T19:00:00Z",
    );
    let asked = asked.time_zone("Asia/Kolkata");
    let text = refusal(&world, asked.clone(), "time_zone", Reason::PeriodNotAligned).await;
    assert!(
        text.contains("Asia/Kolkata") && text.contains("window_mins"),
        "{text}"
    );
    assert!(text.contains("set round_outward"), "{text}");
    world.reconfigure(&["--window-mins=30"]).await;
    world.set_time("2026-06-12T12:00:00Z").await;
    for (quantity, time) in [
        (1, "2026-06-09T18:29:59.999Z"),
        (2, start),
        (4, "2026-06-10T18:29:59.999Z"),
        (8, end),
    ] {
        world.count("acct", quantity, at(time)).await;
    }
    let usage = calls(&world, asked).await;
    let totals: Vec<i64> = series(&usage).into_iter().map(|(_, total)| total).collect();
    assert_eq!(totals, [1, 6, 8]);
    assert_eq!(usage.points[1].period, Period::new(at(start), at(end)));
    assert_eq!(total(&world, at(start), at(end)).await, 6);
    let slots = by(Granularity::Slot, start, "2026-06-09T20:00:00Z");
    assert_eq!(calls(&world, slots).await.points.len(), 3);
    let hours = by(Granularity::Hour, start, "2026-06-09T20:00:00Z");
    assert_eq!(calls(&world, hours).await.points.len(), 2);
    world.finish().await;
}

async fn rounded_days_of_a_half_hour_time_zone_begin_with_a_slot(mut world: World) {
    world.set_time("2026-06-12T12:00:00Z").await;
    for (quantity, time) in [
        (1, "2026-06-09T17:59:59.999Z"),
        (2, "2026-06-09T18:00:00Z"),
        (4, "2026-06-10T17:59:59.999Z"),
        (8, "2026-06-10T18:00:00Z"),
    ] {
        world.count("acct", quantity, at(time)).await;
    }
    let (start, end) = ("2026-06-08T18:30:00Z", "2026-06-10T18:30:00Z");
    let asked = by(Granularity::Day, start, end).time_zone("Asia/Kolkata");
    let usage = calls(&world, asked.round_outward()).await;
    assert_eq!(series(&usage), [(24, 1), (24, 6), (1, 8)]);
    let first = at("2026-06-08T18:00:00Z");
    assert_eq!(usage.points[0].period.start, first);
    let summary = usage_client::GetSummary::of(at(start), at(end))
        .granularity(Granularity::Day)
        .time_zone("Asia/Kolkata");
    let refused = world.client().get_summary(summary.clone()).await;
    assert_eq!(
        refused.unwrap_err().reason(),
        Some(&Reason::PeriodNotAligned)
    );
    let summary = world.client().get_summary(summary.round_outward()).await;
    let summary = summary.unwrap();
    let points = summary.meter("api_calls").unwrap().points.iter();
    let points: Vec<_> = points.map(|point| (point.period, point.total)).collect();
    let own = usage.points.iter();
    let own: Vec<_> = own
        .map(|point| (point.period, point.quantities.total))
        .collect();
    assert_eq!(points, own);
    world.finish().await;
}
