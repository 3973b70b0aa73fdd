//! Limits how many calls of one kind read many rows at a time, in this process.
//!
//! Such a read takes a connection and a processor for as long as the reports are many. The others wait for their turn
//! without a connection, and only so many may wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::{Error, Result},
    request_context::carried,
};

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

/// The place of a caller that reads several times, and takes a turn for each.
#[derive(Debug)]
pub(crate) struct Place {
    place: OwnedSemaphorePermit,
    turns: Arc<Semaphore>,
}

impl Place {
    /// Waits for a turn, in the order of the calls.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        // Never closed.
        turn.map_err(|_| Error::ShuttingDown)
    }
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
        let place = self.place()?;
        Ok(Turn {
            _turn: place.turn().await?,
            _place: place.place,
        })
    }

    /// A place among those that read and wait.
    ///
    /// # Errors
    /// Too many wait already.
    pub(crate) fn place(&self) -> Result<Place> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error::TooManyReads {
            of: self.of,
            running: MAX_RUNNING,
            waiting: MAX_WAITING,
        })?;
        Ok(Place {
            place,
            turns: Arc::clone(&self.turns),
        })
    }

    /// Reads when it is the call's turn. A caller that is gone does not end the read: the engine would go on with it while
    /// others begin.
    ///
    /// # Errors
    /// Too many wait already, or the read fails.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let turn = self.take().await?;
        let reading = tokio::spawn(carried(async move {
            let _turn = turn;
            read.await
        }));
        reading
            .await
            .unwrap_or_else(|error| Err(Error::Internal(error.into())))
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
    #[tokio::test]
    async fn a_place_is_kept_between_turns() {
        let turns = ReadTurns::of("dry runs");
        let places: Vec<_> = (0..MAX_RUNNING + MAX_WAITING)
            .map(|_| turns.place().unwrap())
            .collect();
        let (first, _second) = (
            places[0].turn().await.unwrap(),
            places[1].turn().await.unwrap(),
        );
        let mut third = Box::pin(places[2].turn());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert!((&mut third).now_or_never().unwrap().is_ok());
        assert_eq!(turns.place().unwrap_err().reason(), "OVERLOADED");
        drop(third);
        drop(places);
        assert!(turns.place().is_ok());
    }
}
