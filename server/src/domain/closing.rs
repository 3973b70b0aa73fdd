//! When an open report closes: from then on its quantity is frozen, and it can be sent.
//!
//! - when a run closes it: by the schedule or by `ForceReport` (`workers/reporter.rs`, `store/close.rs`)
//! - [`AFTER_PERIOD_END_MS`] after the end of its billing period (`workers/period_end.rs`)
//! - as soon as it is counted, if its window is older than [`CLOSE_AT_ONCE_MS`] or its quantity would exceed
//!   [`MAX_REPORT_QUANTITY`](super::report::MAX_REPORT_QUANTITY) (`store/report_rollover.rs`)
//! - when a boundary inside its window becomes known and it cannot be split (`store/reassign.rs`)
//! - when a subscription change begins (`store/subscription_changes/`), or a backup is restored (`store/sending_state.rs`)
//!
//! Pure.

use super::{DAY_MS, MINUTE_MS, Millis, billing_period::RELEVANT_MS, window::Interval};

/// How long after a billing period's end its usage is closed: increments in flight have arrived by then.
pub const AFTER_PERIOD_END_MS: Millis = 5 * MINUTE_MS;
/// Usage older than this is closed as soon as it is counted, so that it reaches Stripe within 35 days.
pub const CLOSE_AT_ONCE_MS: Millis = 33 * DAY_MS;

/// The ends of the billing periods whose usage is closed now.
pub fn period_ends_to_close(now: Millis) -> Interval {
    let after_end = now.saturating_sub(AFTER_PERIOD_END_MS);
    Interval {
        start: now.saturating_sub(RELEVANT_MS).saturating_add(1),
        end: after_end.saturating_add(1),
    }
}

/// Whether a window is so old that its report may not wait for a run.
pub fn closes_at_once(window_start: Millis, now: Millis) -> bool {
    window_start < now.saturating_sub(CLOSE_AT_ONCE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_closed_five_minutes_after_its_period() {
        let now = 100 * DAY_MS;
        let ends = period_ends_to_close(now);
        assert!(ends.contains(now - AFTER_PERIOD_END_MS));
        assert!(!ends.contains(now - AFTER_PERIOD_END_MS + 1));
        assert!(!ends.contains(now - RELEVANT_MS), "its invoice is final");
    }

    #[test]
    fn a_window_of_33_days_ago_still_waits() {
        let now = 100 * DAY_MS;
        assert!(!closes_at_once(now - CLOSE_AT_ONCE_MS, now));
        assert!(closes_at_once(now - CLOSE_AT_ONCE_MS - 1, now));
    }
}
