//! Tests of periods and their points.

use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Millis {
    DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_millis()
}

fn hours() -> Slots {
    Slots::from_mins(60).unwrap()
}

fn vienna_days(start: &str, end: &str) -> Vec<i64> {
    let period = Interval {
        start: at(start),
        end: at(end),
    };
    let points = split(
        period,
        Granularity::Day,
        "Europe/Vienna".parse().unwrap(),
        hours(),
        false,
        1,
    )
    .unwrap();
    points
        .iter()
        .map(|point| (point.end - point.start) / HOUR_MS)
        .collect()
}

#[test]
fn days_are_23_and_25_hours_long_when_clocks_change() {
    let spring = vienna_days("2026-03-27T23:00:00Z", "2026-03-30T22:00:00Z");
    assert_eq!(spring, [24, 23, 24]);
    let autumn = vienna_days("2026-10-23T22:00:00Z", "2026-10-26T23:00:00Z");
    assert_eq!(autumn, [24, 25, 24]);
}

#[test]
fn a_month_ends_with_its_last_day() {
    for (moment, days) in [
        ("2024-02-29T12:00:00Z", 29),
        ("2026-02-01T00:00:00Z", 28),
        ("2026-12-31T23:59:59Z", 31),
    ] {
        let month = month_around(at(moment), Tz::UTC).unwrap();
        assert_eq!((month.end - month.start) / DAY_MS, days);
        assert!(month.contains(at(moment)));
    }
}

#[test]
fn a_skipped_midnight_begins_the_day_after_the_gap() {
    // Beirut's clocks go from 00:00 to 01:00 on the last Sunday of March.
    let zone: Tz = "Asia/Beirut".parse().unwrap();
    let start = day_start(NaiveDate::from_ymd_opt(2024, 3, 31).unwrap(), zone).unwrap();
    assert_eq!(start, at("2024-03-30T22:00:00Z"));
}

#[test]
fn an_edge_inside_a_slot_is_refused_with_the_nearest_ones() {
    let period = Interval {
        start: at("2026-01-01T10:20:00Z"),
        end: at("2026-01-01T12:00:00Z"),
    };
    let violation = check_edges(period, hours(), &[at("2026-01-01T10:30:00Z")]).unwrap_err();
    assert_eq!(violation.reason, Reason::PeriodNotAligned);
    assert!(
        violation
            .message
            .contains("2026-01-01T10:00:00Z and 2026-01-01T10:30:00Z"),
        "{}",
        violation.message
    );
    assert!(check_edges(period, hours(), &[period.start]).is_ok());
}

#[test]
fn a_half_hour_zone_needs_finer_slots() {
    let period = Interval {
        start: at("2026-01-01T00:00:00Z"),
        end: at("2026-01-03T00:00:00Z"),
    };
    let zone: Tz = "Asia/Kolkata".parse().unwrap();
    let violation = split(period, Granularity::Day, zone, hours(), false, 1).unwrap_err();
    assert_eq!(violation.reason, Reason::PeriodNotAligned);
    assert!(
        split(
            period,
            Granularity::Day,
            zone,
            Slots::from_mins(30).unwrap(),
            false,
            1
        )
        .is_ok()
    );
}

#[test]
fn rounded_days_of_a_half_hour_zone_begin_with_a_slot_and_do_not_overlap() {
    let zone: Tz = "Asia/Kolkata".parse().unwrap();
    let of = |start, end, granularity| {
        let period = Interval {
            start: at(start),
            end: at(end),
        };
        let points = split(period, granularity, zone, hours(), true, 1).unwrap();
        assert_eq!(points.first().unwrap().start, period.start);
        assert_eq!(points.last().unwrap().end, period.end);
        for pair in points.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        points
            .iter()
            .map(|point| rfc3339(point.start))
            .collect::<Vec<_>>()
    };
    let days = of(
        "2026-03-28T18:00:00Z",
        "2026-03-31T18:00:00Z",
        Granularity::Day,
    );
    assert_eq!(
        days,
        [
            "2026-03-28T18:00:00Z",
            "2026-03-29T18:00:00Z",
            "2026-03-30T18:00:00Z"
        ]
    );
    let months = of(
        "2026-01-31T18:00:00Z",
        "2026-03-31T18:00:00Z",
        Granularity::Month,
    );
    assert_eq!(months, ["2026-01-31T18:00:00Z", "2026-02-28T18:00:00Z"]);
    // What begins inside the first slot begins with the period.
    let late = of(
        "2026-03-28T18:20:00Z",
        "2026-03-29T20:00:00Z",
        Granularity::Day,
    );
    assert_eq!(late, ["2026-03-28T18:20:00Z", "2026-03-29T18:00:00Z"]);
}

#[test]
fn months_and_days_of_slots_follow_each_other() {
    let zone = |name: &str| name.parse::<Tz>().unwrap();
    let month = |text: &str, name: &str| {
        let month = month_of_slots(at(text), zone(name), hours()).unwrap();
        (rfc3339(month.start), rfc3339(month.end))
    };
    let of = |start: &str, end: &str| (start.to_owned(), end.to_owned());
    // The clocks of Vienna change in March.
    assert_eq!(
        month("2026-03-29T01:00:00Z", "Europe/Vienna"),
        of("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z")
    );
    let march = of("2026-02-28T18:00:00Z", "2026-03-31T18:00:00Z");
    let april = of("2026-03-31T18:00:00Z", "2026-04-30T18:00:00Z");
    assert_eq!(month("2026-03-31T17:59:59.999Z", "Asia/Kolkata"), march);
    // It is still March there, in the slot in which April begins.
    assert_eq!(month("2026-03-31T18:00:00Z", "Asia/Kolkata"), april);
    assert_eq!(month("2026-03-31T18:30:00Z", "Asia/Kolkata"), april);
    let days = |text: &str, name: &str| {
        let days = last_days(at(text), zone(name), 3, hours()).unwrap();
        days.into_iter().map(rfc3339).collect::<Vec<_>>()
    };
    assert_eq!(
        days("2026-03-30T12:00:00Z", "Europe/Vienna"),
        [
            "2026-03-27T23:00:00Z",
            "2026-03-28T23:00:00Z",
            "2026-03-29T22:00:00Z",
            "2026-03-30T22:00:00Z"
        ]
    );
    for (text, first, end) in [
        (
            "2026-03-30T17:59:00Z",
            "2026-03-27T18:00:00Z",
            "2026-03-30T18:00:00Z",
        ),
        (
            "2026-03-30T18:00:00Z",
            "2026-03-28T18:00:00Z",
            "2026-03-31T18:00:00Z",
        ),
    ] {
        let days = days(text, "Asia/Kolkata");
        assert_eq!((days.len(), &*days[0], &*days[3]), (4, first, end));
    }
}

#[test]
fn the_limit_of_points_counts_every_meter() {
    let period = |count: i64| Interval {
        start: 0,
        end: count * HOUR_MS,
    };
    let points = |count, meters| {
        split(
            period(count),
            Granularity::Hour,
            Tz::UTC,
            hours(),
            false,
            meters,
        )
    };
    assert_eq!(points(10_000, 1).unwrap().len(), 10_000);
    assert_eq!(points(10_001, 1).unwrap_err().reason, Reason::TooManyPoints);
    assert_eq!(points(5_000, 2).unwrap().len(), 5_000);
    assert!(points(5_001, 2).is_err());
}

proptest! {
    #[test]
    fn a_rounded_period_is_the_smallest_possible_one_around_it(
        start in 0_i64..100_000_000, length in 1_i64..100_000_000,
        mins in prop_oneof![Just(15), Just(30), Just(60)],
        billing_edges in proptest::collection::vec(0_i64..200_000_000, 0..20),
    ) {
        let slots = Slots::from_mins(mins).unwrap();
        let period = Interval { start, end: start + length };
        let rounded = round_outward(period, slots, &billing_edges);
        prop_assert!(check_edges(rounded, slots, &billing_edges).is_ok());
        prop_assert!(rounded.start <= period.start && period.end <= rounded.end);
        // No edge lies between a rounded end and the one that was asked for.
        let between = |from: i64, to: i64| {
            let slot_edge = to.div_euclid(slots.width_ms()) * slots.width_ms();
            slot_edge > from || billing_edges.iter().any(|edge| from < *edge && *edge <= to)
        };
        prop_assert!(!between(rounded.start, period.start));
        prop_assert!(!between(period.end - 1, rounded.end - 1));
        prop_assert_eq!(round_outward(rounded, slots, &billing_edges), rounded);
    }

    /// Against a plain model: walk the period hour by hour and ask the zone for each hour's date.
    #[test]
    fn days_and_months_hold_exactly_the_hours_of_their_dates(
        start in 0_i64..(60 * 365 * 24), length in 1_i64..3_000,
        zone in prop_oneof![Just("Europe/Vienna"), Just("America/New_York"), Just("UTC"), Just("America/Sao_Paulo"), Just("Pacific/Apia"), Just("Australia/Sydney")],
        monthly in any::<bool>(),
    ) {
        let zone: Tz = zone.parse().unwrap();
        let period = Interval { start: start * HOUR_MS, end: (start + length) * HOUR_MS };
        let granularity = if monthly { Granularity::Month } else { Granularity::Day };
        let points = split(period, granularity, zone, hours(), false, 1).unwrap();
        prop_assert_eq!(points.first().unwrap().start, period.start);
        prop_assert_eq!(points.last().unwrap().end, period.end);
        let name = |hour: i64| {
            let date = local_date(hour * HOUR_MS, zone).unwrap();
            if monthly { date.with_day(1).unwrap() } else { date }
        };
        let mut model: Vec<(NaiveDate, i64)> = Vec::new();
        for hour in start..start + length {
            match model.last_mut() {
                Some((last, hours)) if *last == name(hour) => *hours += 1,
                _ => model.push((name(hour), 1)),
            }
        }
        let model: Vec<i64> = model.into_iter().map(|(_, hours)| hours).collect();
        let lengths: Vec<i64> = points.iter().map(|point| (point.end - point.start) / HOUR_MS).collect();
        prop_assert_eq!(lengths, model);
    }

    #[test]
    fn splitting_a_period_never_panics(start in any::<i64>(), end in any::<i64>(), meters in 0_usize..5) {
        let period = Interval { start, end };
        let _ = month_around(start, Tz::UTC);
        if check_edges(period, hours(), &[start, end]).is_ok() {
            for granularity in [Granularity::Total, Granularity::Slot, Granularity::Hour, Granularity::Day, Granularity::Month] {
                let _ = split(period, granularity, Tz::UTC, hours(), true, meters);
            }
        }
    }
}
