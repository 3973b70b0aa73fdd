//! Limits how many calls of one kind read many rows at a time, in this process.
//!
//! Such a read takes a connection and a processor for as long as the reports are many. The others wait for their turn
//! without a connection, and only so many may wait. Of the reads that last long, one caller has only some of the places.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    domain::caller_id::CallerId,
    error::{Error, Result},
    request_context::carried,
};

/// The reads that run at a time.
const MAX_RUNNING: usize = 2;
/// The reads that wait for their turn.
const MAX_WAITING: usize = 16;
/// Those of one caller that run or wait, where callers are told apart.
const MAX_OF_CALLER: usize = 4;

/// The turns of one kind of reads. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ReadTurns {
    /// What takes turns, for the error.
    of: &'static str,
    /// A permit for each read that runs or waits.
    places: Arc<Semaphore>,
    /// A permit for each read that runs.
    turns: Arc<Semaphore>,
    callers: PlacesOfCallers,
}

/// The turn of one read, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: Place,
}

/// The place of a caller that reads several times, and takes a turn for each.
#[derive(Debug)]
pub(crate) struct Place {
    _held: OwnedSemaphorePermit,
    turns: Arc<Semaphore>,
    _of_caller: Option<PlaceOfCaller>,
}

/// How many places each caller has that has any. Clones share them.
#[derive(Clone, Debug, Default)]
struct PlacesOfCallers(Arc<Mutex<HashMap<CallerId, usize>>>);

impl PlacesOfCallers {
    /// Another place of a caller; `None` if it has as many as it may.
    fn take(&self, caller: &CallerId) -> Option<PlaceOfCaller> {
        let mut places = self.lock();
        let own = places.entry(caller.clone()).or_default();
        if *own >= MAX_OF_CALLER {
            return None;
        }
        *own = own.saturating_add(1);
        drop(places);
        Some(PlaceOfCaller {
            places: self.clone(),
            caller: caller.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the places of a caller, until it is dropped.
#[derive(Debug)]
struct PlaceOfCaller {
    places: PlacesOfCallers,
    caller: CallerId,
}

impl Drop for PlaceOfCaller {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        if let Some(own) = places.get_mut(&self.caller) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                places.remove(&self.caller);
            }
        }
    }
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
            callers: PlacesOfCallers::default(),
        }
    }

    /// Waits for a turn, in the order of the calls. A caller that is gone meanwhile gives its place back.
    ///
    /// # Errors
    /// Too many wait already.
    pub(crate) async fn take(&self) -> Result<Turn> {
        self.take_of(None).await
    }

    async fn take_of(&self, caller: Option<&CallerId>) -> Result<Turn> {
        let place = self.place_of(caller)?;
        Ok(Turn {
            _turn: place.turn().await?,
            _place: place,
        })
    }

    /// A place among those that read and wait.
    ///
    /// # Errors
    /// Too many wait already.
    pub(crate) fn place(&self) -> Result<Place> {
        self.place_of(None)
    }

    /// The same for a caller, who has only some of all places. One without a name is limited as all together are.
    ///
    /// # Errors
    /// The caller has too many already, or too many wait.
    pub(crate) fn place_of(&self, caller: Option<&CallerId>) -> Result<Place> {
        let of_caller = caller.map(|caller| {
            let place = self.callers.take(caller);
            place.ok_or(Error::TooManyReadsOfCaller {
                of: self.of,
                limit: MAX_OF_CALLER,
            })
        });
        let of_caller = of_caller.transpose()?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error::TooManyReads {
            of: self.of,
            running: MAX_RUNNING,
            waiting: MAX_WAITING,
        })?;
        Ok(Place {
            _held: place,
            turns: Arc::clone(&self.turns),
            _of_caller: of_caller,
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
        self.read_of(None, read).await
    }

    /// The same for a caller, who has only some of all places, until its reads have ended.
    ///
    /// # Errors
    /// The caller has too many already, too many wait, or the read fails.
    pub(crate) async fn read_of<T: Send + 'static>(
        &self,
        caller: Option<&CallerId>,
        read: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let turn = self.take_of(caller).await?;
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
    /// The subject of a certificate.
    fn caller(name: &str) -> CallerId {
        CallerId::Certificate(name.to_owned())
    }

    #[test]
    fn a_caller_has_four_places_and_leaves_the_others() {
        let turns = ReadTurns::of("sign-offs of a month");
        let place = |name: &str| turns.place_of(Some(&caller(name)));
        let mut own: Vec<_> = (0..MAX_OF_CALLER).map(|_| place("a").unwrap()).collect();
        let refused = place("a").unwrap_err();
        assert_eq!(refused.reason(), "OVERLOADED");
        assert_eq!(
            refused.to_string(),
            "4 sign-offs of a month with this key or certificate run or wait, and no more may; retry later"
        );
        let _other = place("b").unwrap();
        // Whoever has no name is limited as all are.
        let unnamed: Vec<_> = (0..MAX_RUNNING + MAX_WAITING - MAX_OF_CALLER - 1)
            .map(|_| turns.place_of(None).unwrap())
            .collect();
        assert!(matches!(
            turns.place_of(None),
            Err(Error::TooManyReads { .. })
        ));
        // A place that is refused is not counted.
        assert!(matches!(place("b"), Err(Error::TooManyReads { .. })));
        own.pop();
        own.push(place("a").unwrap());
        drop((own, unnamed));
        let _again: Vec<_> = (1..MAX_OF_CALLER).map(|_| place("b").unwrap()).collect();
        assert!(place("b").is_err());
        assert_eq!(turns.callers.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_read_keeps_the_place_of_a_caller_that_is_gone() {
        let turns = ReadTurns::of("reads of the usage of all accounts");
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let own = caller("a");
        let mut call = Box::pin(turns.read_of(Some(&own), async move {
            ended.await.ok();
            Ok(())
        }));
        assert!((&mut call).now_or_never().is_none());
        drop(call);
        let places: Vec<_> = (1..MAX_OF_CALLER)
            .map(|_| turns.place_of(Some(&own)).unwrap())
            .collect();
        assert!(turns.place_of(Some(&own)).is_err());
        drop(places);
        end.send(()).unwrap();
        while !turns.callers.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn turns_of_several_that_read_in_parts_alternate() {
        let turns = ReadTurns::of("sign-offs of a month");
        let places: Vec<_> = (0..3).map(|_| turns.place().unwrap()).collect();
        let first = places[0].turn().await.unwrap();
        let second = places[1].turn().await.unwrap();
        let mut third = Box::pin(places[2].turn());
        assert!((&mut third).now_or_never().is_none());
        // The first one asks for its next turn after the third one has asked for its own.
        drop(first);
        let mut again = Box::pin(places[0].turn());
        assert!((&mut again).now_or_never().is_none());
        let third = third.now_or_never().unwrap().unwrap();
        drop(second);
        assert!(again.now_or_never().unwrap().is_ok());
        drop(third);
    }
}
