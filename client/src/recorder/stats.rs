//! The counters of a recorder.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a [`Recorder`](crate::Recorder) has done so far, in calls of [`Recorder::record`](crate::Recorder::record) and in units.
///
/// `recorded = counted + pending + refused + dropped`, while no call of `record` is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[must_use = "refused and dropped usage is in no invoice: look at the figures"]
pub struct RecorderStats {
    /// All recorded usage, and usage that an earlier process left in the spool.
    pub recorded: Recorded,
    /// The part of `recorded` that an earlier process left in the spool.
    pub recovered: Recorded,
    /// Usage that the server has counted durably.
    pub counted: Recorded,
    /// Usage that the server has not answered yet.
    pub pending: Recorded,
    /// Usage that the server rejected permanently, such as usage of an unknown meter.
    pub refused: Recorded,
    /// Usage that did not fit into memory, or was outside the limits of the server.
    pub dropped: Recorded,
}

impl RecorderStats {
    /// Whether all recorded usage is counted: nothing is pending, refused or dropped.
    pub fn is_complete(&self) -> bool {
        let rest = [self.pending, self.refused, self.dropped];
        rest.iter().all(|part| *part == Recorded::default())
    }
}

/// Calls of [`Recorder::record`](crate::Recorder::record), and the units in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recorded {
    /// The number of calls.
    pub calls: u64,
    /// The number of units; it stops at 2^64 - 1.
    pub units: u64,
}

/// Calls and units, counted by many threads.
#[derive(Debug, Default)]
pub(super) struct Tally {
    calls: AtomicU64,
    units: AtomicU64,
}

impl Tally {
    pub(super) fn add(&self, calls: u64, units: u64) {
        for (sum, more) in [(&self.calls, calls), (&self.units, units)] {
            let add = |sum: u64| Some(sum.saturating_add(more));
            // The closure always returns a value, so this cannot fail.
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
