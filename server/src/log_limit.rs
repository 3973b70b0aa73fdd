//! Lines of the log that many requests cause: one a minute, which says how many there were since.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

/// How often one kind of line is logged.
pub(crate) const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// When a kind of line was last logged, and how often it was not since.
#[derive(Debug)]
pub(crate) struct LogLimit(Mutex<Option<Last>>);

/// The last line of a kind that was logged.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    id: Uuid,
    /// How many were not logged since.
    unlogged: u64,
}

/// A line that may be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogLine {
    /// Names the line in the log that tells this cause: this one, or the last one of its kind. It is in that line, and in the
    /// errors of the calls that failed of it.
    pub(crate) id: Uuid,
    /// If it is to be logged: how many were not since the last.
    pub(crate) unlogged: Option<u64>,
}

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
        self.line().unlogged
    }

    /// The id of the line that was logged last, if that was so lately that it stands for others.
    pub(crate) fn last_id(&self) -> Option<Uuid> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.filter(|last| last.at.elapsed() < LOG_INTERVAL);
        last.map(|last| last.id)
    }

    /// Counts a line.
    pub(crate) fn line(&self) -> LogLine {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some(last) if last.at.elapsed() < LOG_INTERVAL => {
                last.unlogged = last.unlogged.saturating_add(1);
                LogLine {
                    id: last.id,
                    unlogged: None,
                }
            }
            known => {
                let unlogged = known.map_or(0, |last| last.unlogged);
                let id = Uuid::now_v7();
                *known = Some(Last {
                    at: Instant::now(),
                    id,
                    unlogged: 0,
                });
                LogLine {
                    id,
                    unlogged: Some(unlogged),
                }
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

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_not_logged_has_the_id_of_the_one_that_was() {
        let limit = LogLimit::new();
        let first = limit.line();
        assert_eq!(first.unlogged, Some(0));
        let same = limit.line();
        assert_eq!((same.id, same.unlogged), (first.id, None));
        assert_eq!(limit.last_id(), Some(first.id));
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(limit.last_id(), None);
        let next = limit.line();
        assert_eq!(next.unlogged, Some(1));
        assert_ne!(next.id, first.id);
    }
}
