//! When an hourly job runs whose mistakes cannot be taken back: not while the clock may have jumped.

use crate::{
    clock::Clock,
    domain::{DAY_MS, HOUR_MS, Millis},
};

/// If the last run is longer ago than this, the clock may have jumped while no server ran.
const LONG_GAP_MS: Millis = DAY_MS;
/// How long a job waits then, so that a wrong clock is noticed before something is deleted that a caller may repeat.
const WAIT_AFTER_GAP_MS: Millis = HOUR_MS;
/// How long a job waits after the database's clock jumped forward and Stripe did not confirm it: callers repeat their
/// calls within a day.
const WAIT_AFTER_JUMP_MS: Millis = DAY_MS;

/// The clock of a job.
#[derive(Clone, Debug)]
pub(super) struct SteadyClock {
    clock: Clock,
    /// By the monotonic clock.
    started: Millis,
}

impl SteadyClock {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            started: clock.elapsed(),
            clock,
        }
    }

    /// Whether an hourly job is due, and the time is to be trusted.
    pub(super) fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        let gap = now.saturating_sub(last_run_at);
        let elapsed = self.clock.elapsed();
        let uptime = elapsed.saturating_sub(self.started);
        let jumped = self.clock.check().trusted_jump_at();
        let is_steady =
            jumped.is_none_or(|jumped| elapsed.saturating_sub(jumped) >= WAIT_AFTER_JUMP_MS);
        is_steady && gap >= HOUR_MS && (gap < LONG_GAP_MS || uptime >= WAIT_AFTER_GAP_MS)
    }
}
