//! Limits how many calls of one kind read many rows at a time, in this process.
//!
//! Such a read takes a connection and a processor for as long as the reports are many. The others wait for their turn
//! without a connection, and only so many may wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// The reads that run at a time.
const MAX_RUNNING: usize = 2;
/// The reads that wait for their turn.
const MAX_WAITING: usize = 16;

/// The turns of one kind of reads. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ReadTurns {
    /// What takes turns, for the error.
    of: &'static str,
    /// A permit for each read that runs or waits.
    places: Arc<Semaphore>,
    /// A permit for each read that runs.
    turns: Arc<Semaphore>,
}

/// The turn of one read, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl ReadTurns {
    /// The turns of reads that are called this, in the plural.
    pub(crate) fn of(of: &'static str) -> Self {
        Self {
            of,
            places: Arc::new(Semaphore::new(MAX_RUNNING.saturating_add(MAX_WAITING))),
            turns: Arc::new(Semaphore::new(MAX_RUNNING)),
        }
    }

    /// Waits for a turn, in the order of the calls. A caller that is gone meanwhile gives its place back.
    ///
    /// # Errors
    /// Too many wait already.
    pub(crate) async fn take(&self) -> Result<Turn> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error::TooManyReads {
            of: self.of,
            running: MAX_RUNNING,
            waiting: MAX_WAITING,
        })?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        // Never closed.
        let turn = turn.map_err(|_| Error::ShuttingDown)?;
        Ok(Turn {
            _turn: turn,
            _place: place,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn two_read_sixteen_wait_and_one_more_is_refused() {
        let turns = ReadTurns::of("reads of the usage of all accounts");
        let (first, _second) = (turns.take().await.unwrap(), turns.take().await.unwrap());
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(turns.take())).collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        let refused = turns.take().await.unwrap_err();
        assert_eq!(refused.reason(), "OVERLOADED");
        assert_eq!(
            refused.to_string(),
            "2 reads of the usage of all accounts run and 16 wait, and no more may; retry later"
        );
        // A caller that is gone makes room for another.
        waiting.pop();
        let mut last = Box::pin(turns.take());
        assert!((&mut last).now_or_never().is_none());
        drop(first);
        let mut waiting = waiting.into_iter();
        let next = waiting.next().unwrap().await.unwrap();
        assert!((&mut last).now_or_never().is_none());
        drop(next);
        drop(waiting);
        assert!(last.now_or_never().unwrap().is_ok());
    }
}
