//! Whether the writers commit the calls that wait for them, and how many wait.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::places::Places;

/// The progress of all writers.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    writers: Vec<WriterProgress>,
    places: Places,
}

impl Progress {
    pub(super) fn new(places: Places) -> Self {
        Self {
            writers: Vec::new(),
            places,
        }
    }

    /// The increments that are queued or being committed.
    pub(crate) fn waiting_increments(&self) -> usize {
        self.places.taken()
    }

    /// Adds a writer.
    pub(super) fn add_writer(&mut self) -> WriterProgress {
        let writer = WriterProgress::default();
        self.writers.push(writer.clone());
        writer
    }

    /// The longest time for which calls of one writer have waited or failed without a commit.
    pub(crate) fn stalled_for(&self) -> Duration {
        let (now, writers) = (Instant::now(), self.writers.iter());
        let since = writers.filter_map(|writer| writer.lock().stalled_since(now));
        since.min().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// How long a failed commit counts as work that waits: its callers repeat their calls.
const FAILURE_KEPT: Duration = Duration::from_secs(15);

/// The progress of one writer.
#[derive(Clone, Debug, Default)]
pub(super) struct WriterProgress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Since when calls have waited or failed without a commit in between.
    since: Option<Instant>,
    is_waiting: bool,
    failed_at: Option<Instant>,
}

impl State {
    fn begin(&mut self, now: Instant) {
        self.since = self.stalled_since(now).or(Some(now));
        self.is_waiting = true;
    }

    fn stalled_since(&self, now: Instant) -> Option<Instant> {
        let has_failed_lately = self
            .failed_at
            .is_some_and(|failed| now.duration_since(failed) < FAILURE_KEPT);
        self.since.filter(|_| self.is_waiting || has_failed_lately)
    }
}

impl WriterProgress {
    /// Calls wait for a commit.
    pub(super) fn begin(&self) {
        self.lock().begin(Instant::now());
    }

    /// Calls were committed.
    pub(super) fn committed(&self) {
        *self.lock() = State::default();
    }

    /// The database did not commit calls.
    pub(super) fn failed(&self) {
        self.lock().failed_at = Some(Instant::now());
    }

    /// No call waits.
    pub(super) fn rest(&self) {
        self.lock().is_waiting = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(9);

    #[test]
    fn failed_groups_do_not_hide_that_nothing_is_committed() {
        let begun = Instant::now();
        let mut state = State::default();
        for group in 0..3 {
            state.begin(begun + group * STEP);
            state.failed_at = Some(begun + (group + 1) * STEP);
            state.is_waiting = false;
        }
        assert_eq!(state.stalled_since(begun + 3 * STEP), Some(begun));
    }

    #[test]
    fn a_writer_without_calls_is_not_stalled() {
        let begun = Instant::now();
        let mut state = State::default();
        state.begin(begun);
        state.failed_at = Some(begun);
        state.is_waiting = false;
        let later = begun + FAILURE_KEPT;
        assert_eq!(state.stalled_since(later), None);
        state.begin(later);
        assert_eq!(
            state.stalled_since(later + STEP),
            Some(later),
            "the failure is long ago"
        );
    }
}
