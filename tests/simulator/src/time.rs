//! Times in milliseconds since 1970, as the rules have them.

use chrono::{DateTime, Months, Utc};

pub(crate) const SECOND: i64 = 1_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

pub(crate) fn utc(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

pub(crate) fn text(ms: i64) -> String {
    utc(ms).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The `number`th period's end after an anchor: on the anchor's day, or on the last day of a shorter month.
pub(crate) fn month(anchor_ms: i64, number: u32) -> i64 {
    (utc(anchor_ms) + Months::new(number)).timestamp_millis()
}

/// The period of an anchor that contains a time.
pub(crate) fn period_around(anchor_ms: i64, at_ms: i64) -> (i64, i64) {
    let number = (1..12_000).find(|number| month(anchor_ms, *number) > at_ms);
    let number = number.unwrap_or(1);
    (month(anchor_ms, number - 1), month(anchor_ms, number))
}
