//! Backoff by key, measured by the monotonic clock.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

use super::backoff::after_failures;

/// The keys whose work has failed.
#[derive(Debug)]
pub(super) struct Retries<K> {
    first_wait: Duration,
    failed: HashMap<K, Failed>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    /// How often in a row.
    times: u32,
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
        let before = self.failed.get(&key).map_or(0, |failed| failed.times);
        let times = before.saturating_add(1);
        let wait = after_failures(self.first_wait, times);
        let now = Instant::now();
        let not_before = now.checked_add(wait).unwrap_or(now);
        self.failed.insert(key, Failed { times, not_before });
    }

    pub(super) fn succeeded(&mut self, key: &K) {
        self.failed.remove(key);
    }

    /// Removes the keys that have no work left.
    pub(super) fn retain(&mut self, is_left: impl Fn(&K) -> bool) {
        self.failed.retain(|key, _| is_left(key));
    }
}
