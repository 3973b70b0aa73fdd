//! When usage is billed: the times of a report decide the billing period that it belongs to. Queries only
//! prefilter, and this file decides.

use super::{HOUR_MS, Millis, report::Report, window::Interval};

/// No window is longer.
const MAX_WINDOW_MS: Millis = HOUR_MS;

/// When a report's usage happened, when it is billed, and whether it adds or subtracts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BilledUsage {
    /// The start of its window.
    pub window_start: Millis,
    /// The time of its first increment.
    pub first_at: Millis,
    /// The time of its last increment.
    pub last_at: Millis,
    /// The time it is billed at, if that is not the time of its first increment.
    pub bill_at: Option<Millis>,
    /// The meter event's timestamp, once it was chosen.
    pub event_timestamp: Option<Millis>,
    /// Its quantity; negative for some corrections.
    pub quantity: i64,
}

impl BilledUsage {
    /// The times and the quantity of a report.
    pub fn of(report: &Report) -> Self {
        Self {
            window_start: report.window_start,
            first_at: report.first_at,
            last_at: report.last_at,
            bill_at: report.bill_at,
            event_timestamp: report.event_timestamp,
            quantity: report.quantity,
        }
    }

    /// The time that decides the billing period.
    pub fn billed_at(&self) -> Millis {
        self.bill_at.unwrap_or(self.first_at)
    }

    /// The latest time at which some of it may be billed, if a boundary inside its window is not known yet.
    pub fn billed_until(&self) -> Millis {
        self.bill_at.unwrap_or(self.last_at)
    }

    /// The time at which Stripe bills it: that of its meter event, and until one was chosen the time that decides.
    pub fn billed_at_stripe(&self) -> Millis {
        // If a window contains no whole second, the event's second begins before it.
        Ord::max(self.event_at(), self.window_start)
    }
}

/// Selects the reports that may be billed in an interval, so that not all are read. The rules then decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsagePrefilter {
    /// Their windows start in this interval, ...
    pub windows: Interval,
    /// ... or their [`BilledUsage::bill_at`] is not before this time.
    pub bill_at_from: Millis,
}

impl UsagePrefilter {
    /// The prefilter of an interval. An event may be later than the start of its window.
    pub fn of(time: Interval) -> Self {
        Self {
            windows: Interval {
                start: time.start.saturating_sub(2 * MAX_WINDOW_MS),
                end: time.end,
            },
            bill_at_from: time.start.saturating_sub(MAX_WINDOW_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{MINUTE_MS, SECOND_MS};
    use proptest::prelude::*;

    fn usage() -> impl Strategy<Value = BilledUsage> {
        let window = (0_i64..100).prop_map(|minutes| minutes * MINUTE_MS);
        let event = proptest::option::of(-SECOND_MS..MAX_WINDOW_MS);
        let bill = proptest::option::of(0..100 * MINUTE_MS);
        (window, 0..MAX_WINDOW_MS, 0..MAX_WINDOW_MS, bill, event).prop_map(
            |(window_start, one, other, bill_at, event)| BilledUsage {
                window_start,
                first_at: window_start + one.min(other),
                last_at: window_start + one.max(other),
                bill_at,
                event_timestamp: event.map(|after| bill_at.unwrap_or(window_start) + after),
                quantity: 1,
            },
        )
    }

    proptest! {
        /// What the queries read contains everything that the rules could choose.
        #[test]
        fn a_report_billed_in_an_interval_passes_the_prefilter(
            usage in usage(),
            start in 0_i64..200,
            length in 1_i64..200,
        ) {
            let start = start * MINUTE_MS;
            let time = Interval { start, end: start + length * MINUTE_MS };
            let prefilter = UsagePrefilter::of(time);
            let passes = prefilter.windows.contains(usage.window_start)
                || usage.bill_at.is_some_and(|at| at >= prefilter.bill_at_from);
            let is_billed = time.contains(usage.billed_at()) || time.contains(usage.billed_at_stripe());
            prop_assert!(!is_billed || passes, "{usage:?} {time:?}");
        }

        #[test]
        fn an_event_before_its_window_is_billed_in_the_window(usage in usage()) {
            prop_assert!(usage.event_timestamp.is_none() || usage.billed_at_stripe() >= usage.window_start);
            prop_assert!(usage.billed_until() >= usage.billed_at());
        }
    }
}
