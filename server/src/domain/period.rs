//! Periods that `Get` is asked for: which edges can be answered exactly, and how a series is cut.

use chrono::{
    DateTime, Datelike, Days, LocalResult, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta,
    TimeZone, Utc,
};
use chrono_tz::Tz;

use super::{
    DAY_MS, HOUR_MS, Millis,
    violation::{Reason, Violation, shown},
    window::{Interval, Slots},
};

/// The most points one answer may hold, over all its meters.
pub const MAX_POINTS: usize = 10_000;
/// The longest period.
pub const MAX_PERIOD_MS: Millis = 3_660 * DAY_MS;

/// How finely a period is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Not at all.
    Total,
    /// At slots.
    Slot,
    /// At hours of UTC.
    Hour,
    /// At midnights of the zone.
    Day,
    /// At the first midnights of the zone's months.
    Month,
}

/// A moment as people read it.
pub fn rfc3339(at: Millis) -> String {
    DateTime::<Utc>::from_timestamp_millis(at).map_or_else(
        || format!("{at} ms"),
        |time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
    )
}

/// Reads an IANA time zone; empty means UTC.
pub fn parse_zone(name: &str) -> Result<Tz, Violation> {
    if name.is_empty() {
        return Ok(Tz::UTC);
    }
    name.parse().map_err(|_| {
        Violation::invalid(
            "time_zone",
            format!(
                "time_zone {} is not an IANA time zone such as \"Europe/Vienna\"",
                shown(name)
            ),
        )
    })
}

/// The first moment of a date in a zone.
///
/// Where clocks skip midnight it is the first moment after the gap; where midnight comes twice, the
/// first of the two.
fn day_start(date: NaiveDate, zone: Tz) -> Option<Millis> {
    // No zone has ever skipped more than a day.
    const GAP_STEPS: i64 = 24 * 4;
    let midnight = NaiveDateTime::new(date, NaiveTime::MIN);
    (0..=GAP_STEPS).find_map(|step| {
        let local = midnight.checked_add_signed(TimeDelta::minutes(step.saturating_mul(15)))?;
        match zone.from_local_datetime(&local) {
            LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => {
                Some(time.timestamp_millis())
            }
            LocalResult::None => None,
        }
    })
}

fn local_date(at: Millis, zone: Tz) -> Option<NaiveDate> {
    Some(
        DateTime::<Utc>::from_timestamp_millis(at)?
            .with_timezone(&zone)
            .date_naive(),
    )
}

/// The calendar month of the zone around a moment.
pub fn month_around(at: Millis, zone: Tz) -> Option<Interval> {
    let first = local_date(at, zone)?.with_day(1)?;
    Some(Interval {
        start: day_start(first, zone)?,
        end: day_start(first.checked_add_months(Months::new(1))?, zone)?,
    })
}

/// Checks that a period can be answered exactly: its edges are slots' or billing periods' edges.
///
/// # Errors
/// A violation that names the field and, for an edge inside a slot, the nearest edges that would do.
pub fn check_edges(
    period: Interval,
    slots: Slots,
    billing_edges: &[Millis],
) -> Result<(), Violation> {
    if period.start >= period.end {
        return Err(Violation::invalid(
            "period",
            format!(
                "period.end {} must be later than period.start {}",
                rfc3339(period.end),
                rfc3339(period.start)
            ),
        ));
    }
    if period.end.saturating_sub(period.start) > MAX_PERIOD_MS {
        return Err(Violation::invalid(
            "period",
            format!(
                "the period from {} to {} is longer than 3,660 days; ask for parts of it",
                rfc3339(period.start),
                rfc3339(period.end)
            ),
        ));
    }
    check_edge("period.start", period.start, slots, billing_edges)?;
    check_edge("period.end", period.end, slots, billing_edges)
}

fn check_edge(
    field: &str,
    edge: Millis,
    slots: Slots,
    billing_edges: &[Millis],
) -> Result<(), Violation> {
    if slots.is_edge(edge) || billing_edges.contains(&edge) {
        return Ok(());
    }
    let slot = slots.around(edge);
    let before = billing_edges.iter().copied().filter(|known| *known < edge);
    let after = billing_edges.iter().copied().filter(|known| *known > edge);
    Err(Violation::new(
        Reason::PeriodNotAligned,
        field,
        format!(
            "{field} {} lies inside a slot of {} minutes, and usage is not kept finer; the nearest edges are {} and {}",
            rfc3339(edge),
            slots.width_ms() / super::MINUTE_MS,
            rfc3339(before.fold(slot.start, Millis::max)),
            rfc3339(after.fold(slot.end, Millis::min)),
        ),
    ))
}

/// Cuts a period into the points of a series, oldest first and without gaps; TOTAL has none.
///
/// The first and the last point end where the period does. `meters` series are to be answered.
///
/// # Errors
/// Too many points, found before they are made; or a zone's midnight inside a slot.
pub fn cut(
    period: Interval,
    granularity: Granularity,
    zone: Tz,
    slots: Slots,
    meters: usize,
) -> Result<Vec<Interval>, Violation> {
    let limit = MAX_POINTS.checked_div(meters.max(1)).unwrap_or(MAX_POINTS);
    let edges = match granularity {
        Granularity::Total => return Ok(Vec::new()),
        Granularity::Slot => fixed_edges(period, slots.width_ms(), limit),
        Granularity::Hour => fixed_edges(period, HOUR_MS, limit),
        Granularity::Day => calendar_edges(period, zone, limit, |date| {
            date.checked_add_days(Days::new(1))
        }),
        Granularity::Month => calendar_edges(period, zone, limit, |date| {
            date.with_day(1)?.checked_add_months(Months::new(1))
        }),
    };
    let Some(inner) = edges else {
        return Err(Violation::new(
            Reason::TooManyPoints,
            "granularity",
            format!(
                "the answer would hold more than {MAX_POINTS} points ({limit} for each of {meters} meters); \
                 ask for a shorter period, a coarser granularity or one meter"
            ),
        ));
    };
    if let Some(edge) = inner.iter().find(|edge| !slots.is_edge(**edge)) {
        return Err(Violation::new(
            Reason::PeriodNotAligned,
            "time_zone",
            format!(
                "in time_zone {zone} a day begins at {}, inside a slot of {} minutes; \
                 run the server with window_mins 30 or 15, or ask for hours or UTC",
                rfc3339(*edge),
                slots.width_ms() / super::MINUTE_MS
            ),
        ));
    }
    let starts = std::iter::once(period.start).chain(inner.iter().copied());
    let ends = inner.iter().copied().chain(std::iter::once(period.end));
    Ok(starts
        .zip(ends)
        .map(|(start, end)| Interval { start, end })
        .collect())
}

/// The multiples of a width strictly inside a period, or `None` when they make too many points.
fn fixed_edges(period: Interval, width: Millis, limit: usize) -> Option<Vec<Millis>> {
    let first = period
        .start
        .saturating_sub(period.start.rem_euclid(width))
        .saturating_add(width);
    std::iter::successors(Some(first), |edge| edge.checked_add(width))
        .take_while(|edge| *edge < period.end)
        .enumerate()
        .map(|(index, edge)| (index.saturating_add(2) <= limit).then_some(edge))
        .collect()
}

/// The first moments of dates strictly inside a period, or `None` when they make too many points.
fn calendar_edges(
    period: Interval,
    zone: Tz,
    limit: usize,
    next: impl Fn(NaiveDate) -> Option<NaiveDate>,
) -> Option<Vec<Millis>> {
    let first = local_date(period.start, zone)?;
    std::iter::successors(next(first), |date| next(*date))
        .filter_map(|date| day_start(date, zone))
        .take_while(|edge| *edge < period.end)
        // A day that a zone skipped whole begins where the next one does.
        .filter(|edge| *edge > period.start)
        .scan(Millis::MIN, |last, edge| {
            let new = edge > *last;
            *last = edge;
            Some((new, edge))
        })
        .filter(|(new, _)| *new)
        .enumerate()
        .map(|(index, (_, edge))| (index.saturating_add(2) <= limit).then_some(edge))
        .collect()
}

#[cfg(test)]
mod tests {
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
        let points = cut(
            period,
            Granularity::Day,
            "Europe/Vienna".parse().unwrap(),
            hours(),
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
    fn a_month_ends_where_its_calendar_says() {
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
        let violation = cut(period, Granularity::Day, zone, hours(), 1).unwrap_err();
        assert_eq!(violation.reason, Reason::PeriodNotAligned);
        assert!(
            cut(
                period,
                Granularity::Day,
                zone,
                Slots::from_mins(30).unwrap(),
                1
            )
            .is_ok()
        );
    }

    #[test]
    fn the_limit_of_points_counts_every_meter() {
        let period = |count: i64| Interval {
            start: 0,
            end: count * HOUR_MS,
        };
        let points =
            |count, meters| cut(period(count), Granularity::Hour, Tz::UTC, hours(), meters);
        assert_eq!(points(10_000, 1).unwrap().len(), 10_000);
        assert_eq!(points(10_001, 1).unwrap_err().reason, Reason::TooManyPoints);
        assert_eq!(points(5_000, 2).unwrap().len(), 5_000);
        assert!(points(5_001, 2).is_err());
    }

    proptest! {
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
            let points = cut(period, granularity, zone, hours(), 1).unwrap();
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
            let cut: Vec<i64> = points.iter().map(|point| (point.end - point.start) / HOUR_MS).collect();
            prop_assert_eq!(cut, model);
        }

        #[test]
        fn cutting_never_panics(start in any::<i64>(), end in any::<i64>(), meters in 0_usize..5) {
            let period = Interval { start, end };
            let _ = month_around(start, Tz::UTC);
            if check_edges(period, hours(), &[start, end]).is_ok() {
                for granularity in [Granularity::Total, Granularity::Slot, Granularity::Hour, Granularity::Day, Granularity::Month] {
                    let _ = cut(period, granularity, Tz::UTC, hours(), meters);
                }
            }
        }
    }
}
