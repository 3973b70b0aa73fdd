//! Backoff by key, measured by the monotonic clock.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The keys whose work has failed.
#[derive(Debug)]
pub(super) struct Retries<K> {
    first_wait: Duration,
    failed: HashMap<K, Failed>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    wait: Duration,
    not_before: Instant,
}

impl<K: Eq + Hash> Retries<K> {
    pub(super) fn new(first_wait: Duration) -> Self {
        Self {
            first_wait,
            failed: HashMap::new(),
        }
    }

    /// Whether the work of a key may be done now.
    pub(super) fn may_start(&self, key: &K) -> bool {
        let failed = self.failed.get(key);
        failed.is_none_or(|failed| failed.not_before <= Instant::now())
    }

    /// Doubles the wait of a key.
    pub(super) fn failed(&mut self, key: K) {
        let wait = self.failed.get(&key).map_or(self.first_wait, |failed| {
            failed.wait.saturating_mul(2).min(MAX_WAIT)
        });
        let now = Instant::now();
        let not_before = now.checked_add(wait).unwrap_or(now);
        self.failed.insert(key, Failed { wait, not_before });
    }

    pub(super) fn succeeded(&mut self, key: &K) {
        self.failed.remove(key);
    }

    /// Removes the keys that have no work left.
    pub(super) fn retain(&mut self, is_left: impl Fn(&K) -> bool) {
        self.failed.retain(|key, _| is_left(key));
    }
}
