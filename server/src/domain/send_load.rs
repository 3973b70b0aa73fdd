//! How much usage has to be sent in the fullest hour, and whether the configured rate suffices for it.
//!
//! When a billing period ends, the windows since the last scheduled run are still to be sent, for each customer and meter.
//! If many periods end in one hour, as with one anchor day for all customers, that is the fullest hour.

use std::fmt;

use chrono::DateTime;

use super::{
    HOUR_MS, Millis, SECOND_MS, closing::AFTER_PERIOD_END_MS, invoice_draft::DRAFT_MARGIN_MS,
    window::Slots,
};

/// What to do if the rate is too low.
pub const TOO_SLOW: &str = "raise STRIPE_EVENTS_PER_SEC as far as Stripe allows, or report more often, such as hourly (REPORT_SCHEDULE)";

/// The time in which the usage of a period is sent: until its draft ends, without the time before its reports are closed
/// and the margin at the end.
const SENDING_MS: Millis = HOUR_MS - AFTER_PERIOD_END_MS - DRAFT_MARGIN_MS;

/// The billing periods that end in one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeriodEnds {
    /// The start of the hour.
    pub hour: Millis,
    /// The customers and meters.
    pub streams: u64,
}

/// What has to be sent in the fullest hour, and at which rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendLoad {
    ends: PeriodEnds,
    /// The windows of each customer and meter.
    windows: u64,
    per_sec: u32,
}

impl SendLoad {
    /// The load if runs are at most `gap` apart.
    pub fn new(ends: PeriodEnds, slots: Slots, gap: Millis, per_sec: u32) -> Self {
        let width = slots.width_ms();
        let windows = gap.saturating_add(width).saturating_sub(1);
        let windows = u64::try_from(windows.div_euclid(width)).unwrap_or_default();
        Self {
            ends,
            windows: windows.max(1),
            per_sec: per_sec.max(1),
        }
    }

    fn reports(&self) -> u64 {
        self.ends.streams.saturating_mul(self.windows)
    }

    fn secs(&self) -> u64 {
        self.reports().div_ceil(self.per_sec.into())
    }

    /// Whether the reports can be sent while their invoices are drafts.
    pub fn is_in_time(&self) -> bool {
        self.secs() <= u64::try_from(SENDING_MS.div_euclid(SECOND_MS)).unwrap_or_default()
    }
}

impl fmt::Display for SendLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hour = DateTime::from_timestamp_millis(self.ends.hour).unwrap_or_default();
        let (streams, windows) = (self.ends.streams, self.windows);
        let minutes = self.secs().div_ceil(60);
        let allowed = SENDING_MS.div_euclid(60 * SECOND_MS);
        if streams == 0 {
            return write!(
                f,
                "no billing period is known that ends in the next 40 days"
            );
        }
        write!(
            f,
            "in the hour from {} the periods of {streams} customers and meters end, with up to {windows} windows each: {} reports take {minutes} minutes at {} a second, and their invoices are drafts for {allowed}",
            hour.format("%Y-%m-%dT%H:%MZ"),
            self.reports(),
            self.per_sec
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DAY_MS;

    fn load(streams: u64, mins: u32, gap: Millis, per_sec: u32) -> SendLoad {
        let slots = Slots::from_mins(mins).unwrap();
        SendLoad::new(PeriodEnds { hour: 0, streams }, slots, gap, per_sec)
    }

    #[test]
    fn a_day_of_50_000_accounts_is_sent_within_the_drafts_hour_at_the_live_rate() {
        let daily = load(50_000, 60, DAY_MS, 900);
        assert_eq!(daily.reports(), 1_200_000);
        assert!(daily.is_in_time());
        let text = daily.to_string();
        assert!(text.contains("1200000 reports take 23 minutes"), "{text}");

        assert!(!load(50_000, 60, DAY_MS, 100).is_in_time());
        assert!(!load(50_000, 15, DAY_MS, 900).is_in_time());
        assert!(load(50_000, 60, HOUR_MS, 100).is_in_time());
    }

    #[test]
    fn it_is_in_time_up_to_53_minutes() {
        assert!(load(53 * 60 * 20, 60, HOUR_MS, 20).is_in_time());
        assert!(!load(53 * 60 * 20 + 1, 60, HOUR_MS, 20).is_in_time());
    }

    #[test]
    fn a_part_of_a_window_is_a_window() {
        assert_eq!(load(1, 60, HOUR_MS + 1, 20).reports(), 2);
        assert_eq!(load(1, 60, 1, 20).reports(), 1);
        assert_eq!(load(1, 60, 0, 20).reports(), 1);
    }
}
