//! The fake Stripe's clock, the only reader of the real time of day. All of Stripe's time limits use it: 24 hours of
//! unique identifiers, 35 days of timestamps, the delay of summaries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;

/// A clock that runs at an offset from the real one, or is frozen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    offset_ms: i64,
    frozen_at_ms: Option<i64>,
}

impl Clock {
    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        self.frozen_at_ms
            .unwrap_or_else(|| real_ms().saturating_add(self.offset_ms))
    }

    /// Seconds since the Unix epoch, rounded down.
    pub(crate) fn now_secs(&self) -> i64 {
        self.now_ms().div_euclid(1_000)
    }

    /// Whether the clock is frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen_at_ms.is_some()
    }

    /// Freezes the clock at a time.
    pub(crate) fn freeze(&mut self, at_ms: i64) {
        self.frozen_at_ms = Some(at_ms);
    }

    /// Advances the clock, frozen or running.
    pub(crate) fn advance(&mut self, by_ms: i64) {
        match &mut self.frozen_at_ms {
            Some(at_ms) => *at_ms = at_ms.saturating_add(by_ms),
            None => self.offset_ms = self.offset_ms.saturating_add(by_ms),
        }
    }

    /// Runs with the real clock at this offset.
    pub(crate) fn use_real_time(&mut self, offset_ms: i64) {
        *self = Clock {
            offset_ms,
            frozen_at_ms: None,
        };
    }

    /// The time as the `Date` header writes it.
    pub(crate) fn http_date(&self) -> String {
        DateTime::from_timestamp(self.now_secs(), 0)
            .unwrap_or_default()
            .format("%a, %d %b %Y %H:%M:%S GMT")
            .to_string()
    }
}

/// A duration in whole milliseconds, capped at what an `i64` holds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn real_ms() -> i64 {
    millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_clock_moves_only_when_advanced() {
        let mut clock = Clock::default();
        clock.freeze(1_700_000_000_999);
        assert_eq!(clock.now_ms(), 1_700_000_000_999);
        assert_eq!(clock.now_secs(), 1_700_000_000);
        clock.advance(1);
        assert_eq!(clock.now_secs(), 1_700_000_001);
        assert_eq!(clock.http_date(), "Tue, 14 Nov 2023 22:13:21 GMT");
    }

    #[test]
    fn a_running_clock_keeps_its_offset() {
        let mut clock = Clock::default();
        clock.use_real_time(86_400_000);
        let ahead = clock.now_ms().saturating_sub(Clock::default().now_ms());
        assert!(
            (86_399_000..=86_401_000).contains(&ahead),
            "{ahead} ms ahead"
        );
        assert!(!clock.is_frozen());
    }
}
