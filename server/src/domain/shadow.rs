//! The comparison of shadow mode: what was counted here, and what another integration gave Stripe. Pure.

use super::{
    DAY_MS, HOUR_MS, Millis, report::State, report_figure::ReportFigure, start_of,
    violation::Violation, window::Interval,
};

/// The most days that one query compares.
pub const MAX_DAYS: i64 = 35;
/// The days that are compared if the query does not say.
const DEFAULT_DAYS: i64 = 7;
/// How long after its end a day's figures may still change: Stripe's totals are behind.
pub const FINAL_AFTER_MS: Millis = HOUR_MS;

/// What a comparison of a day found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShadowFinding {
    /// Both have the same sum.
    Equal,
    /// Both have usage, and the sums differ.
    Differs,
    /// Stripe has nothing.
    OnlyHere,
    /// Nothing was counted here.
    OnlyAtStripe,
    /// Stripe's total could not be read.
    Unreadable,
}

impl ShadowFinding {
    /// What two sums show; `None` if neither side has anything. No total is one that could not be read.
    pub fn of(counted: i64, stripe_total: Option<i64>) -> Option<Self> {
        match (counted, stripe_total) {
            (_, None) => Some(Self::Unreadable),
            (0, Some(0)) => None,
            (counted, Some(total)) if counted == total => Some(Self::Equal),
            (_, Some(0)) => Some(Self::OnlyHere),
            (0, Some(_)) => Some(Self::OnlyAtStripe),
            _ => Some(Self::Differs),
        }
    }
}

/// Whether a day that starts at a time may still change.
pub fn is_preliminary(day: Millis, now: Millis) -> bool {
    now < day.saturating_add(DAY_MS).saturating_add(FINAL_AFTER_MS)
}

/// The days of UTC to compare.
///
/// # Errors
/// They are none, or too many.
pub fn days_to_compare(
    from: Option<Millis>,
    until: Option<Millis>,
    now: Millis,
) -> Result<Interval, Violation> {
    let last = start_of(DAY_MS, until.map_or(now, |until| until.saturating_sub(1)));
    let end = last.saturating_add(DAY_MS);
    let width = DEFAULT_DAYS.saturating_mul(DAY_MS);
    let start = from.map_or(end.saturating_sub(width), |from| start_of(DAY_MS, from));
    let days = end.saturating_sub(start).div_euclid(DAY_MS);
    if (1..=MAX_DAYS).contains(&days) {
        return Ok(Interval { start, end });
    }
    Err(Violation::invalid(
        "from",
        format!("from and until are {days} days apart; they must be 1 to {MAX_DAYS} days apart"),
    ))
}

/// Whether an interval is one of whole days of UTC that one query may compare.
pub fn can_be_compared(days: Interval) -> bool {
    let is_midnight = |at: Millis| at.rem_euclid(DAY_MS) == 0;
    let width = days.end.saturating_sub(days.start).div_euclid(DAY_MS);
    is_midnight(days.start) && is_midnight(days.end) && (1..=MAX_DAYS).contains(&width)
}

/// Whether usage is billed to its customer, by whichever side.
pub fn is_compared(figure: &ReportFigure) -> bool {
    match figure.state {
        State::NotBillable => figure.is_billed_elsewhere(),
        State::WrittenOff => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Millis = 1_800_014_400_000;

    #[test]
    fn two_sums_are_equal_or_say_which_side_lacks_usage() {
        let of = ShadowFinding::of;
        assert_eq!(of(0, Some(0)), None);
        assert_eq!(of(3, Some(3)), Some(ShadowFinding::Equal));
        assert_eq!(of(3, Some(4)), Some(ShadowFinding::Differs));
        assert_eq!(of(3, Some(0)), Some(ShadowFinding::OnlyHere));
        assert_eq!(of(0, Some(4)), Some(ShadowFinding::OnlyAtStripe));
        assert_eq!(of(3, None), Some(ShadowFinding::Unreadable));
    }

    #[test]
    fn whole_days_are_compared_and_no_more_than_35() {
        let today = start_of(DAY_MS, NOON);
        let days = days_to_compare(None, None, NOON).unwrap();
        assert_eq!(days.end, today + DAY_MS);
        assert_eq!(days.start, today - 6 * DAY_MS);
        let days = days_to_compare(Some(NOON - DAY_MS), Some(today), NOON).unwrap();
        assert_eq!((days.start, days.end), (today - DAY_MS, today));
        let of = |days: i64| days_to_compare(Some(today - days * DAY_MS), None, NOON);
        assert!(of(MAX_DAYS - 1).is_ok());
        assert!(of(MAX_DAYS).is_err());
        assert!(of(-1).is_err());
    }

    #[test]
    fn a_day_may_change_until_an_hour_after_its_end() {
        let day = start_of(DAY_MS, NOON);
        assert!(is_preliminary(day, day + DAY_MS + FINAL_AFTER_MS - 1));
        assert!(!is_preliminary(day, day + DAY_MS + FINAL_AFTER_MS));
    }
}
