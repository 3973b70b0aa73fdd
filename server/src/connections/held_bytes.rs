//! Bytes of requests that have not arrived in full, of one connection or of all.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, Default)]
pub(crate) struct HeldBytes(AtomicUsize);

impl HeldBytes {
    /// Adds bytes and returns the sum. Past the limit, adds nothing and returns the sum that it would be.
    pub(crate) fn try_add(&self, bytes: usize, limit: usize) -> Result<usize, usize> {
        let with = |held: usize| held.saturating_add(bytes);
        let added = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                (with(held) <= limit).then(|| with(held))
            });
        added.map(with).map_err(with)
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}
