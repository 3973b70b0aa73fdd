//! Lines of the log that many requests cause: one a minute, which says how many there were since.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often one kind of line is logged.
pub(crate) const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// When a kind of line was last logged, and how often it was not since.
#[derive(Debug)]
pub(crate) struct LogLimit(Mutex<Option<(Instant, u64)>>);

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Counts a line. If it is to be logged, returns how many were not since the last.
    pub(crate) fn count(&self) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((logged, unlogged)) if logged.elapsed() < LOG_INTERVAL => {
                *unlogged = unlogged.saturating_add(1);
                None
            }
            known => {
                let unlogged = known.map_or(0, |(_, unlogged)| unlogged);
                *known = Some((Instant::now(), 0));
                Some(unlogged)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_logged_once_a_minute_and_says_how_many_were_not() {
        let limit = LogLimit::new();
        assert_eq!(limit.count(), Some(0));
        assert_eq!(limit.count(), None);
        assert_eq!(limit.count(), None);
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(limit.count(), Some(2));
        assert_eq!(limit.count(), None);
    }
}
