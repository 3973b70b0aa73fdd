//! Bytes of the answers of one connection that wait to be read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Unread(Mutex<Bytes>);

#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    /// Of answers, and reserved for calls in progress.
    all: usize,
    /// The number of answers.
    answers: usize,
    /// When an answer was last read, or when the first of these began to wait.
    progress_at: Option<Instant>,
}

impl Unread {
    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes. Past the limit, adds nothing and returns the sum that would wait.
    pub(crate) fn try_add(&self, bytes: usize, limit: usize) -> Result<(), usize> {
        let mut unread = self.lock();
        let sum = unread.all.saturating_add(bytes);
        if sum > limit {
            return Err(sum);
        }
        unread.all = sum;
        Ok(())
    }

    /// Adds bytes, whatever the limit.
    pub(crate) fn add(&self, bytes: usize) {
        let mut unread = self.lock();
        unread.all = unread.all.saturating_add(bytes);
    }

    /// The bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.lock().all
    }

    pub(crate) fn remove(&self, bytes: usize) {
        let mut unread = self.lock();
        unread.all = unread.all.saturating_sub(bytes);
    }

    /// An answer began to wait.
    pub(crate) fn begin_answer(&self) {
        let mut unread = self.lock();
        unread.answers = unread.answers.saturating_add(1);
        unread.progress_at.get_or_insert_with(Instant::now);
    }

    /// An answer was read, or given up.
    pub(crate) fn end_answer(&self) {
        let mut unread = self.lock();
        unread.answers = unread.answers.saturating_sub(1);
        unread.progress_at = (unread.answers > 0).then(Instant::now);
    }

    /// Since when no answer was read, if one waits.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.lock().progress_at
    }
}
