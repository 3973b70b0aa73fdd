//! Bytes that the service holds for calls, of one caller, of one connection or of all.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

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

    /// Adds bytes, whatever the limit.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one connection makes the service hold for calls that count for no key and no certificate.
#[derive(Debug, Default)]
pub(crate) struct OwnBytes {
    /// Of callers that need neither.
    pub(crate) of_callers: Arc<HeldBytes>,
    /// Of calls for which no caller is looked up, such as health checks.
    pub(crate) of_strangers: Arc<HeldBytes>,
}
