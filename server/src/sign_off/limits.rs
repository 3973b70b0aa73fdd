//! What limits a sign-off while it goes on: it takes a turn for each page that it reads, and ends with its caller, with the server,
//! or after a time that begins with its first turn.

use std::{io, sync::OnceLock, time::Duration};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::rows::Reading;
use crate::{
    error::{Error, Result},
    read_turns::Place,
    record::Record,
    store::Store,
};

/// How long one may take from its first turn on. Each of its transactions is short, and a caller that does not read ends it much
/// sooner: this only ends what would go on for ever.
const TIMEOUT: Duration = Duration::from_hours(2);

/// The limits of one sign-off.
#[derive(Debug)]
pub(super) struct Limits {
    place: Place,
    shutdown: CancellationToken,
    /// Cancelled when the caller is gone.
    gone: CancellationToken,
    /// Set with its first turn: what waits for others has not begun.
    deadline: OnceLock<Instant>,
}

impl Limits {
    pub(super) fn new(place: Place, shutdown: CancellationToken) -> Self {
        Self {
            place,
            shutdown,
            gone: CancellationToken::new(),
            deadline: OnceLock::new(),
        }
    }

    /// To be cancelled when the caller is gone.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Whether it may go on. Called between transactions.
    pub(super) fn check(&self) -> Result<()> {
        if self.shutdown.is_cancelled() || self.gone.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let deadline = self.deadline.get();
        if deadline.is_some_and(|deadline| Instant::now() >= *deadline) {
            return Err(Error::ExportTooSlow(TIMEOUT));
        }
        Ok(())
    }

    /// Waits for the turn of the next read, in the order of all that wait.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let deadline = async {
            match self.deadline.get() {
                Some(deadline) => sleep_until(*deadline).await,
                None => std::future::pending().await,
            }
        };
        let turn = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Err(Error::ShuttingDown),
            () = self.gone.cancelled() => return Err(Error::ShuttingDown),
            () = deadline => return Err(Error::ExportTooSlow(TIMEOUT)),
            turn = self.place.turn() => turn?,
        };
        self.deadline.get_or_init(|| {
            let begun = Instant::now();
            begun.checked_add(TIMEOUT).unwrap_or(begun)
        });
        Ok(turn)
    }

    /// Writes the next page of rows in a turn of its own. Returns whether there is another page.
    pub(super) async fn write_page(
        &self,
        store: &Store,
        reading: &mut Reading<'_>,
        put: &mut (impl FnMut(&Record) -> io::Result<()> + Send),
    ) -> Result<bool> {
        let turn = self.turn().await?;
        let has_more = reading.write_page(store, put).await?;
        drop(turn);
        self.check()?;
        Ok(has_more)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::read_turns::ReadTurns;

    /// Limits of three that share two turns.
    fn three(shutdown: &CancellationToken) -> [Limits; 3] {
        let turns = ReadTurns::of("sign-offs of a month");
        [(); 3].map(|()| Limits::new(turns.place().unwrap(), shutdown.clone()))
    }

    #[tokio::test]
    async fn a_caller_that_leaves_or_a_server_that_stops_ends_the_wait_for_a_turn() {
        for stops in [false, true] {
            let shutdown = CancellationToken::new();
            let [first, second, limits] = three(&shutdown);
            let _held = (first.turn().await.unwrap(), second.turn().await.unwrap());
            let mut turn = Box::pin(limits.turn());
            assert!((&mut turn).now_or_never().is_none());
            let ends = if stops { shutdown } else { limits.gone() };
            ends.cancel();
            let ended = turn.now_or_never().unwrap();
            assert_eq!(ended.unwrap_err().reason(), "SHUTTING_DOWN");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_begins_with_the_first_turn_and_ends_a_wait() {
        let [first, second, limits] = three(&CancellationToken::new());
        let held = (first.turn().await.unwrap(), second.turn().await.unwrap());
        let mut turn = Box::pin(limits.turn());
        assert!((&mut turn).now_or_never().is_none());
        tokio::time::advance(TIMEOUT).await;
        assert!((&mut turn).now_or_never().is_none());
        limits.check().unwrap();
        assert_eq!(first.check().unwrap_err().reason(), "DEADLINE_EXCEEDED");
        drop(held.0);
        drop(turn.await.unwrap());
        tokio::time::advance(TIMEOUT / 2).await;
        drop(limits.turn().await.unwrap());
        // Others have both turns until its time is over.
        let _other = limits.place.turn().await.unwrap();
        let ended = limits.turn().await.unwrap_err();
        assert_eq!(ended.reason(), "DEADLINE_EXCEEDED");
        drop(held.1);
    }
}
