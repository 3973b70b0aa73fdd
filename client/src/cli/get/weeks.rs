//! Weeks, which the server does not know, as sums of days.

use crate::{Quantities, Usage, UsagePoint};
use chrono::{DateTime, Datelike as _, IsoWeek, Utc};
use chrono_tz::Tz;

/// Replaces the days of each meter by the weeks of a time zone, from Monday to Sunday. The first and the last have only the
/// days that were asked for.
pub(super) fn sum(usage: &mut Usage, zone: Tz) {
    let week = |at: DateTime<Utc>| -> IsoWeek { at.with_timezone(&zone).iso_week() };
    for meter in &mut usage.meters {
        let mut weeks: Vec<UsagePoint> = Vec::new();
        for day in meter.points.drain(..) {
            match weeks.last_mut() {
                Some(last) if week(last.period.start) == week(day.period.start) => {
                    last.period.end = day.period.end;
                    last.quantities = added(last.quantities, day.quantities);
                }
                _ => weeks.push(day),
            }
        }
        meter.points = weeks;
    }
}

fn added(one: Quantities, other: Quantities) -> Quantities {
    Quantities {
        total: one.total.saturating_add(other.total),
        reported: one.reported.saturating_add(other.reported),
        not_yet_reported: one.not_yet_reported.saturating_add(other.not_yet_reported),
        not_billable: one.not_billable.saturating_add(other.not_billable),
    }
}
