//! Whether the writers commit the calls that wait for them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The progress of all writers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    writers: Vec<WriterProgress>,
}

impl Progress {
    /// Adds a writer.
    pub(super) fn add_writer(&mut self) -> WriterProgress {
        let writer = WriterProgress::default();
        self.writers.push(writer.clone());
        writer
    }

    /// The longest time for which calls of one writer have waited without a commit.
    pub(crate) fn stalled_for(&self) -> Duration {
        let since = self.writers.iter().filter_map(|writer| *writer.lock());
        since.min().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The progress of one writer: the time since which calls have waited without a commit.
#[derive(Clone, Debug, Default)]
pub(super) struct WriterProgress(Arc<Mutex<Option<Instant>>>);

impl WriterProgress {
    /// Calls wait for a commit.
    pub(super) fn begin(&self) {
        self.lock().get_or_insert_with(Instant::now);
    }

    /// Calls were committed, or none waits.
    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
