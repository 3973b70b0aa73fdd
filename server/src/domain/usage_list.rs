//! Usage of many accounts: the order of a list and the place after which its next page begins, and the parts of a series.

use std::fmt;

use super::{
    MINUTE_MS, Millis,
    account_id::AccountId,
    period::{check_edges, check_length, round_outward},
    violation::{Reason, Violation},
    window::{Interval, Slots},
};

/// The largest number of accounts of a meter that a summary names.
pub const MAX_TOP_ACCOUNTS: u32 = 100;

/// How many parts of a period, times the meters, a summary sums.
pub const MAX_PARTS: i64 = 1_000_000;

/// The usage of one account of one meter in a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountUsage {
    /// The account.
    pub account_id: String,
    /// All usage and corrections.
    pub quantity: i128,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageOrder {
    /// The largest quantity first; equal ones by account.
    Quantity,
    /// By account.
    Account,
}

/// The place of an account in a list, after which a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsagePlace {
    /// The quantity of the account; of no meaning in a list by account.
    pub quantity: i128,
    /// The account.
    pub account_id: String,
}

impl UsagePlace {
    /// The place of an entry.
    pub fn of(usage: &AccountUsage) -> Self {
        Self {
            quantity: usage.quantity,
            account_id: usage.account_id.clone(),
        }
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (quantity, account_id) = text.split_once(' ')?;
        Some(Self {
            quantity: quantity.parse().ok()?,
            account_id: account_id.to_owned(),
        })
    }
}

impl fmt::Display for UsagePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.quantity, self.account_id)
    }
}

/// Validates what the ids of accounts begin with; empty means any.
///
/// # Errors
/// No id can begin with it.
pub fn parse_prefix(prefix: &str) -> Result<String, Violation> {
    if prefix.is_empty() {
        return Ok(String::new());
    }
    AccountId::parse_field("account_prefix", prefix).map(String::from)
}

/// The least text above all that begin with a prefix of an account id; `None` without a prefix.
pub fn end_of_prefix(prefix: &str) -> Option<String> {
    // Ids are ASCII without the highest character, so the next one is a character too.
    let mut bytes = prefix.as_bytes().to_vec();
    let last = bytes.last_mut()?;
    *last = last.checked_add(1)?;
    String::from_utf8(bytes).ok()
}

/// The period of which the usage of all accounts is read. Only edges of slots divide every account's windows.
///
/// # Errors
/// It is too long, or an edge lies inside a slot.
pub fn period_of_all(
    period: Interval,
    slots: Slots,
    is_rounded: bool,
) -> Result<Interval, Violation> {
    if is_rounded {
        check_length(period)?;
        Ok(round_outward(period, slots, &[]))
    } else {
        check_edges(period, slots, &[])?;
        Ok(period)
    }
}

/// The longest time such that each point of a period consists of whole parts of it, counted from the period's start.
pub fn width_of_parts(period: Interval, points: &[Interval]) -> Millis {
    let ends = points.iter().map(|point| point.end);
    let offsets = ends
        .chain([period.end])
        .map(|end| end.saturating_sub(period.start));
    offsets.fold(0, greatest_divisor).max(1)
}

/// Validates that the engine does not have to sum more parts of a period than a read may take.
///
/// # Errors
/// There are more than [`MAX_PARTS`] for `meters` of them.
pub fn check_parts(period: Interval, width: Millis, meters: usize) -> Result<(), Violation> {
    let length = period.end.saturating_sub(period.start);
    let parts = length.checked_div(width).unwrap_or(length);
    let meters = i64::try_from(meters).unwrap_or(i64::MAX);
    let all = parts.saturating_mul(meters);
    if all <= MAX_PARTS {
        return Ok(());
    }
    let message = format!(
        "the points consist of parts of {} minutes, {parts} in the period for each of {meters} meters; that is {all} to sum, \
         and at most {MAX_PARTS} may be summed; ask for a shorter period, for UTC or for one meter",
        width.checked_div(MINUTE_MS).unwrap_or(width)
    );
    Err(Violation::new(
        Reason::TooManyPoints,
        "granularity",
        message,
    ))
}

/// The greatest common divisor of two numbers that are not negative.
fn greatest_divisor(one: Millis, other: Millis) -> Millis {
    let (mut one, mut other) = (one, other);
    while other != 0 {
        (one, other) = (other, one.checked_rem(other).unwrap_or_default());
    }
    one
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        DAY_MS, HOUR_MS,
        period::{Granularity, parse_zone, split},
    };

    #[test]
    fn a_prefix_means_itself() {
        assert_eq!(end_of_prefix(""), None);
        assert_eq!(end_of_prefix("a_").as_deref(), Some("a`"));
        assert_eq!(end_of_prefix("z").as_deref(), Some("{"));
        assert_eq!(parse_prefix("").unwrap(), "");
        assert_eq!(parse_prefix("team:").unwrap(), "team:");
        for wrong in ["%", "a%", "ü", "a b", "'"] {
            assert_eq!(parse_prefix(wrong).unwrap_err().field, "account_prefix");
        }
        assert!(parse_prefix(&"a".repeat(129)).is_err());
    }

    #[test]
    fn at_most_a_million_parts_are_summed() {
        let of_hours = |hours: i64| Interval {
            start: 7 * HOUR_MS,
            end: (7 + hours) * HOUR_MS,
        };
        for (hours, meters) in [(1_000_000, 1), (500_000, 2), (24, 0)] {
            assert_eq!(check_parts(of_hours(hours), HOUR_MS, meters), Ok(()));
        }
        assert_eq!(check_parts(of_hours(24_000_000), DAY_MS, 1), Ok(()));
        for (hours, meters, parts) in [
            (
                1_000_001,
                1,
                ["1000001 in", "of 1 meters", "1000001 to sum"],
            ),
            (500_001, 2, ["500001 in", "of 2 meters", "1000002 to sum"]),
        ] {
            let refused = check_parts(of_hours(hours), HOUR_MS, meters).unwrap_err();
            assert_eq!(refused.reason, Reason::TooManyPoints);
            assert_eq!(refused.field, "granularity");
            let words = [&parts[..], &["60 minutes", "1000000", "UTC", "shorter"]].concat();
            for word in words {
                assert!(refused.message.contains(word), "{}", refused.message);
            }
        }
    }

    #[test]
    fn ten_years_of_days_are_summed_by_day_in_utc_and_by_hour_elsewhere() {
        // From the first of January 2026 on.
        let period = Interval {
            start: 20_454 * DAY_MS,
            end: (20_454 + 3_660) * DAY_MS,
        };
        let slots = Slots::from_mins(60).unwrap();
        let width_in = |zone: &str| {
            let zone = parse_zone(zone).unwrap();
            let points = split(period, Granularity::Month, zone, slots, false, 12).unwrap();
            width_of_parts(period, &points)
        };
        assert_eq!(check_parts(period, width_in("UTC"), 12), Ok(()));
        assert_eq!(check_parts(period, width_in("Europe/Vienna"), 11), Ok(()));
        assert!(check_parts(period, width_in("Europe/Vienna"), 12).is_err());
    }

    proptest! {
        #[test]
        fn a_range_has_what_begins_with_the_prefix(prefix in "[A-Za-z0-9._:@/+=-]{1,5}", id in "[A-Za-z0-9._:@/+=-]{1,6}") {
            let end = end_of_prefix(&prefix).unwrap();
            let is_within = *prefix <= *id && *id < *end;
            prop_assert_eq!(is_within, id.starts_with(&prefix));
        }

        #[test]
        fn a_place_leads_back_to_its_entry(quantity in any::<i128>(), account_id in "[A-Za-z0-9._:@/+=-]{1,9}") {
            let place = UsagePlace { quantity, account_id };
            prop_assert_eq!(UsagePlace::parse(&place.to_string()), Some(place));
        }

        #[test]
        fn every_part_lies_in_one_point(
            start in 0_i64..40_000, days in 1_i64..400, zone in 0_usize..4, granularity in 0_usize..5,
        ) {
            let start = start * 12 * HOUR_MS;
            let period = Interval { start, end: start + days * DAY_MS };
            let zone = ["UTC", "Europe/Vienna", "America/New_York", "Etc/GMT+12"][zone];
            let granularity = [
                Granularity::Total, Granularity::Slot, Granularity::Hour, Granularity::Day, Granularity::Month,
            ][granularity];
            let slots = Slots::from_mins(60).unwrap();
            let points = split(period, granularity, parse_zone(zone).unwrap(), slots, false, 1).unwrap();
            let width = width_of_parts(period, &points);
            prop_assert_eq!(width % HOUR_MS, 0);
            for point in &points {
                prop_assert_eq!((point.start - period.start) % width, 0);
                prop_assert_eq!((point.end - period.start) % width, 0);
            }
            if points.is_empty() {
                prop_assert_eq!(width, days * DAY_MS);
            }
        }
    }
}
