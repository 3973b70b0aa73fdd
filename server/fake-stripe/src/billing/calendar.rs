//! Billing periods: every boundary is counted from the anchor, so that an anchor on the 31st is clamped to the end of a
//! short month and returns to the 31st after it. Times are whole seconds, in UTC.

use chrono::{DateTime, Datelike as _, Months, Utc};

/// How often a price recurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interval {
    Day,
    Week,
    Month,
    Year,
}

impl Interval {
    pub(crate) const NAMES: [&'static str; 4] = ["day", "week", "month", "year"];

    pub(crate) fn parse(name: &str) -> Option<Interval> {
        Some(match name {
            "day" => Interval::Day,
            "week" => Interval::Week,
            "month" => Interval::Month,
            "year" => Interval::Year,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Interval::Day => "day",
            Interval::Week => "week",
            Interval::Month => "month",
            Interval::Year => "year",
        }
    }
}

/// From `start` up to, but not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// An interval and its count, such as every 3 months.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recurrence {
    pub(crate) interval: Interval,
    pub(crate) count: i64,
}

impl Recurrence {
    /// The period that contains a moment.
    pub(crate) fn period_at(self, anchor: i64, moment: i64) -> Period {
        let mut n = self.estimate(anchor, moment);
        while self.boundary(anchor, n) > moment {
            n = n.saturating_sub(1);
        }
        loop {
            let end = self.boundary(anchor, n.saturating_add(1));
            if end > moment {
                let start = self.boundary(anchor, n);
                return Period { start, end };
            }
            n = n.saturating_add(1);
        }
    }

    /// The nth boundary after the anchor, or before it where n is negative.
    fn boundary(self, anchor: i64, n: i64) -> i64 {
        let steps = n.saturating_mul(self.count);
        match self.interval {
            Interval::Day => anchor.saturating_add(steps.saturating_mul(86_400)),
            Interval::Week => anchor.saturating_add(steps.saturating_mul(7 * 86_400)),
            Interval::Month => months_from(anchor, steps),
            Interval::Year => months_from(anchor, steps.saturating_mul(12)),
        }
    }

    /// An estimate of the number of boundaries, off by a few at most.
    fn estimate(self, anchor: i64, moment: i64) -> i64 {
        let (from, to) = (time(anchor), time(moment));
        let days = moment.saturating_sub(anchor).div_euclid(86_400);
        let years = i64::from(to.year()).saturating_sub(i64::from(from.year()));
        let months = years
            .saturating_mul(12)
            .saturating_add(i64::from(to.month()))
            .saturating_sub(i64::from(from.month()));
        let units = match self.interval {
            Interval::Day => days,
            Interval::Week => days.div_euclid(7),
            Interval::Month => months,
            Interval::Year => years,
        };
        units.checked_div_euclid(self.count).unwrap_or(units)
    }
}

fn time(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(secs, 0).unwrap_or_default()
}

fn months_from(anchor: i64, months: i64) -> i64 {
    let step = Months::new(u32::try_from(months.unsigned_abs()).unwrap_or(u32::MAX));
    let moved = if months < 0 {
        time(anchor).checked_sub_months(step)
    } else {
        time(anchor).checked_add_months(step)
    };
    // Beyond the calendar's range nothing becomes due.
    moved.map_or(i64::MAX, |moved| moved.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTHLY: Recurrence = Recurrence {
        interval: Interval::Month,
        count: 1,
    };

    fn at(text: &str) -> i64 {
        format!("{text}Z")
            .parse::<DateTime<Utc>>()
            .unwrap()
            .timestamp()
    }

    fn ends(recurrence: Recurrence, anchor: &str, n: usize) -> Vec<String> {
        let anchor = at(anchor);
        let mut moment = anchor;
        (0..n)
            .map(|_| {
                moment = recurrence.period_at(anchor, moment).end;
                time(moment).format("%Y-%m-%dT%H:%M:%S").to_string()
            })
            .collect()
    }

    #[test]
    fn an_anchor_on_the_31st_is_clamped_and_comes_back() {
        assert_eq!(
            ends(MONTHLY, "2027-10-31T12:59:59", 6),
            [
                "2027-11-30T12:59:59",
                "2027-12-31T12:59:59",
                "2028-01-31T12:59:59",
                "2028-02-29T12:59:59",
                "2028-03-31T12:59:59",
                "2028-04-30T12:59:59",
            ]
        );
    }

    #[test]
    fn a_leap_day_comes_back_after_four_years() {
        let yearly = Recurrence {
            interval: Interval::Year,
            count: 1,
        };
        assert_eq!(
            ends(yearly, "2028-02-29T00:00:01", 4),
            [
                "2029-02-28T00:00:01",
                "2030-02-28T00:00:01",
                "2031-02-28T00:00:01",
                "2032-02-29T00:00:01"
            ]
        );
    }

    #[test]
    fn periods_have_no_gap_and_lie_before_the_anchor_too() {
        let anchor = at("2027-03-31T05:06:07");
        let before = MONTHLY.period_at(anchor, anchor - 1);
        assert_eq!(
            (before.start, before.end),
            (at("2027-02-28T05:06:07"), anchor)
        );
        let mut moment = at("2024-01-01T00:00:00");
        for _ in 0..100 {
            let period = MONTHLY.period_at(anchor, moment);
            assert!(period.start <= moment && moment < period.end);
            assert_eq!(MONTHLY.period_at(anchor, period.end - 1), period);
            assert_eq!(MONTHLY.period_at(anchor, period.end).start, period.end);
            moment = period.end;
        }
    }

    #[test]
    fn weeks_days_and_quarters_repeat() {
        let every = |interval, count| Recurrence { interval, count };
        assert_eq!(
            ends(every(Interval::Week, 2), "2027-01-01T00:00:00", 1),
            ["2027-01-15T00:00:00"]
        );
        assert_eq!(
            ends(every(Interval::Day, 1), "2027-02-28T01:00:00", 1),
            ["2027-03-01T01:00:00"]
        );
        assert_eq!(
            ends(every(Interval::Month, 3), "2026-11-30T00:00:00", 2),
            ["2027-02-28T00:00:00", "2027-05-30T00:00:00"]
        );
    }
}
