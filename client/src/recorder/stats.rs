//! What a recorder did, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a [`Recorder`](crate::Recorder) has done so far, in calls of [`Recorder::record`](crate::Recorder::record) and in units.
///
/// `recorded = counted + pending + refused + dropped`, once nothing is being recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecorderStats {
    /// What was asked for, and what an earlier process left in the spool.
    pub recorded: Recorded,
    /// Of that, what an earlier process left.
    pub recovered: Recorded,
    /// What the server has counted durably.
    pub counted: Recorded,
    /// What is in memory or on its way.
    pub pending: Recorded,
    /// What the server refused for good, such as usage of an unknown meter.
    pub refused: Recorded,
    /// What there was no room for, and what no server would take: quantities outside their limits.
    pub dropped: Recorded,
}

/// Calls of [`Recorder::record`](crate::Recorder::record), and the units in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recorded {
    /// How many calls.
    pub calls: u64,
    /// How many units; what would pass 2^64 stays there.
    pub units: u64,
}

/// Calls and units that many threads add to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    calls: AtomicU64,
    units: AtomicU64,
}

impl Tally {
    pub(super) fn add(&self, calls: u64, units: u64) {
        for (sum, more) in [(&self.calls, calls), (&self.units, units)] {
            let add = |sum: u64| Some(sum.saturating_add(more));
            // It is never refused.
            let _before = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    pub(super) fn read(&self) -> Recorded {
        Recorded {
            calls: self.calls.load(Ordering::Relaxed),
            units: self.units.load(Ordering::Relaxed),
        }
    }
}
