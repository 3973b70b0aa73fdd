//! Periods of `Get`: which edges are allowed, and how a period is split into points.

use chrono::{
    DateTime, Datelike, Days, LocalResult, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta,
    TimeZone, Utc,
};
use chrono_tz::Tz;

use super::{
    DAY_MS, HOUR_MS, Millis,
    violation::{Reason, Violation, quoted},
    window::{Interval, Slots},
};

/// The maximum number of points in one response, over all its meters.
pub const MAX_POINTS: usize = 10_000;
/// The longest period.
pub const MAX_PERIOD_MS: Millis = 3_660 * DAY_MS;

/// The length of the points into which a period is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// No points: one total.
    Total,
    /// One point per slot.
    Slot,
    /// One point per hour in UTC.
    Hour,
    /// One point per day in the time zone.
    Day,
    /// One point per month in the time zone.
    Month,
}

/// A time in RFC 3339.
pub fn rfc3339(at: Millis) -> String {
    DateTime::<Utc>::from_timestamp_millis(at).map_or_else(
        || format!("{at} ms"),
        |time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
    )
}

/// Parses an IANA time zone; empty means UTC.
pub fn parse_zone(name: &str) -> Result<Tz, Violation> {
    if name.is_empty() {
        return Ok(Tz::UTC);
    }
    name.parse().map_err(|_| {
        Violation::invalid(
            "time_zone",
            format!(
                "time_zone {} is not an IANA time zone such as \"Europe/Vienna\"",
                quoted(name)
            ),
        )
    })
}

/// The first moment of a date in a zone.
///
/// If clocks skip midnight, it is the first moment after the gap. If midnight occurs twice, it is the first of the two.
pub fn day_start(date: NaiveDate, zone: Tz) -> Option<Millis> {
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

/// The calendar month, in a zone, that contains a time.
pub fn month_around(at: Millis, zone: Tz) -> Option<Interval> {
    let first = local_date(at, zone)?.with_day(1)?;
    Some(Interval {
        start: day_start(first, zone)?,
        end: day_start(first.checked_add_months(Months::new(1))?, zone)?,
    })
}

/// The calendar month, in a zone, of the slot that contains a time. If it begins or ends inside a slot, it begins or ends with
/// that slot, so that months follow each other without a gap.
pub fn month_of_slots(at: Millis, zone: Tz, slots: Slots) -> Option<Interval> {
    let of = |at| {
        let month = month_around(at, zone)?;
        let in_slots = Interval {
            start: slot_start(month.start, slots),
            end: slot_start(month.end, slots),
        };
        Some((month, in_slots))
    };
    let (month, in_slots) = of(at)?;
    if at < in_slots.end {
        return Some(in_slots);
    }
    of(month.end).map(|(_, in_slots)| in_slots)
}

/// The first moments of so many days of a zone, up to that of the slot that contains a time, and the end of that day: one more
/// than `days`, the oldest first. A day that begins inside a slot begins with it.
pub fn last_days(at: Millis, zone: Tz, days: u32, slots: Slots) -> Option<Vec<Millis>> {
    let start = |date: NaiveDate| day_start(date, zone).map(|start| slot_start(start, slots));
    let mut today = local_date(at, zone)?;
    if at >= start(today.checked_add_days(Days::new(1))?)? {
        today = today.checked_add_days(Days::new(1))?;
    }
    let end = today.checked_add_days(Days::new(1))?;
    let dates = (0..=days).rev().map(|before| {
        let date = end.checked_sub_days(Days::new(before.into()))?;
        start(date)
    });
    dates.collect()
}

/// Validates that usage of a requested period can be returned exactly: its edges are edges of slots or of billing
/// periods.
///
/// # Errors
/// A violation that names the field and, for an edge inside a slot, the nearest allowed edges.
pub fn check_edges(
    period: Interval,
    slots: Slots,
    billing_edges: &[Millis],
) -> Result<(), Violation> {
    check_length(period)?;
    check_edge("period.start", period.start, slots, billing_edges)?;
    check_edge("period.end", period.end, slots, billing_edges)
}

/// Whether only slots decide about a period: both of its edges are edges of slots, whatever the billing periods are.
pub fn is_of_slots(period: Interval, slots: Slots) -> bool {
    slots.is_edge(period.start) && slots.is_edge(period.end)
}

/// Validates that a requested period is neither empty nor too long.
pub fn check_length(period: Interval) -> Result<(), Violation> {
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
    Ok(())
}

/// The default period if none was requested: edges inside a slot are those of the time zone's month.
pub fn check_month(
    month: Interval,
    zone: Tz,
    slots: Slots,
    billing_edges: &[Millis],
) -> Result<(), Violation> {
    let inside = [month.start, month.end]
        .into_iter()
        .find(|edge| !is_edge(*edge, slots, billing_edges));
    inside.map_or(Ok(()), |edge| {
        let instead = "set round_outward, give a period";
        Err(begins_inside_slot(zone, "month", edge, slots, instead))
    })
}

/// The smallest period around one whose usage can be returned exactly.
pub fn round_outward(period: Interval, slots: Slots, billing_edges: &[Millis]) -> Interval {
    Interval {
        start: edges_around(period.start, slots, billing_edges).start,
        end: edges_around(period.end, slots, billing_edges).end,
    }
}

fn is_edge(edge: Millis, slots: Slots, billing_edges: &[Millis]) -> bool {
    slots.is_edge(edge) || billing_edges.contains(&edge)
}

/// The nearest edges before and after a time. Both are the time itself if it is an edge.
fn edges_around(at: Millis, slots: Slots, billing_edges: &[Millis]) -> Interval {
    if is_edge(at, slots, billing_edges) {
        return Interval { start: at, end: at };
    }
    let slot = slots.around(at);
    let before = billing_edges.iter().copied().filter(|known| *known < at);
    let after = billing_edges.iter().copied().filter(|known| *known > at);
    Interval {
        start: before.fold(slot.start, Millis::max),
        end: after.fold(slot.end, Millis::min),
    }
}

/// A day or month of a zone begins inside a slot; `instead` is what the caller can do.
fn begins_inside_slot(
    zone: Tz,
    what: &str,
    edge: Millis,
    slots: Slots,
    instead: &str,
) -> Violation {
    Violation::new(
        Reason::PeriodNotAligned,
        "time_zone",
        format!(
            "in time_zone {zone} a {what} begins at {}, inside a slot of {} minutes; \
             {}, or run the server with window_mins 30 or 15",
            rfc3339(edge),
            slots.width_ms() / super::MINUTE_MS,
            instead
        ),
    )
}

fn check_edge(
    field: &str,
    edge: Millis,
    slots: Slots,
    billing_edges: &[Millis],
) -> Result<(), Violation> {
    if is_edge(edge, slots, billing_edges) {
        return Ok(());
    }
    let nearest = edges_around(edge, slots, billing_edges);
    Err(Violation::new(
        Reason::PeriodNotAligned,
        field,
        format!(
            "{field} {} lies inside a slot of {} minutes, and usage is not kept finer; \
             the nearest edges are {} and {}; set round_outward to use them",
            rfc3339(edge),
            slots.width_ms() / super::MINUTE_MS,
            rfc3339(nearest.start),
            rfc3339(nearest.end),
        ),
    ))
}

/// Splits a period into points, oldest first and without gaps; TOTAL has none.
///
/// The first point starts with the period, and the last one ends with it. `meters` is the number of series in the
/// response. With `is_rounded`, a day or month that begins inside a slot begins with that slot, and the one before it ends
/// there.
///
/// # Errors
/// There are too many points, or a midnight of the zone is inside a slot and is not to be rounded.
pub fn split(
    period: Interval,
    granularity: Granularity,
    zone: Tz,
    slots: Slots,
    is_rounded: bool,
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
    let Some(mut inner) = edges else {
        return Err(Violation::new(
            Reason::TooManyPoints,
            "granularity",
            format!(
                "the answer would hold more than {MAX_POINTS} points ({limit} for each of {meters} meters); \
                 ask for a shorter period, a coarser granularity or one meter"
            ),
        ));
    };
    if is_rounded {
        inner = inner
            .into_iter()
            .map(|edge| slot_start(edge, slots))
            .collect();
        inner.retain(|edge| *edge > period.start);
        inner.dedup();
    }
    if let Some(edge) = inner.iter().find(|edge| !slots.is_edge(**edge)) {
        let instead = "set round_outward, ask for hours or UTC";
        return Err(begins_inside_slot(zone, "day", *edge, slots, instead));
    }
    let starts = std::iter::once(period.start).chain(inner.iter().copied());
    let ends = inner.iter().copied().chain(std::iter::once(period.end));
    Ok(starts
        .zip(ends)
        .map(|(start, end)| Interval { start, end })
        .collect())
}

/// The start of the slot around a time, where a day or month begins that cannot begin inside it.
pub fn slot_start(at: Millis, slots: Slots) -> Millis {
    slots.around(at).start
}

/// The multiples of a width strictly inside a period; `None` if there are too many.
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

/// The first moments of dates strictly inside a period; `None` if there are too many.
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
        // A day that a zone skipped entirely starts when the next one does.
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
mod tests;
