//! Counting without waiting: what is recorded is summed in memory and sent in the background.
//!
//! [`builder`] sets it up, [`sums`] holds what was recorded, [`batches`] is what was taken from it and is on its way,
//! [`spool`] keeps that on disk, [`worker`] sends it, and [`stats`] are its numbers.

mod aggregator;
mod batches;
mod builder;
mod spool;
mod stats;
#[cfg(feature = "metrics")]
mod telemetry;
mod worker;

use crate::{Error, ErrorKind, UsageClient};
use aggregator::{Filling, Full, MAX_QUANTITY, Sum, Sums};
use batches::{Batches, Held, Taken};
pub use builder::RecorderBuilder;
use spool::Spool;
use stats::Tally;
pub use stats::{Recorded, RecorderStats};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// The longest names that the server takes; what is longer would only cost memory.
const MAX_ACCOUNT_BYTES: usize = 128;
const MAX_METER_BYTES: usize = 128;
/// How long a shutdown waits for the disk beyond its caller's patience.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Counts usage without making its caller wait.
///
/// [`record`](Self::record) adds to a sum in memory, by account, meter and whole second, and returns. In the
/// background the sums are sent in batches, each under one idempotency key that stays the same until the
/// server has answered: whatever is sent twice counts once, and usage keeps the second in which it
/// happened, however long the server is away, up to the 34 days that it takes usage for.
///
/// Memory is bounded by [`capacity`](RecorderBuilder::capacity): where it is full, usage that would need a
/// new sum is dropped, counted in [`stats`](Self::stats) and logged. When a quarter of it is filled, usage is sent
/// before the interval is over. What is in memory is lost when the process dies; end it with
/// [`shutdown`](Self::shutdown).
///
/// With a [`spool`](RecorderBuilder::spool) it is durable: batches are on disk before they are sent, and what
/// a process leaves there the next one sends, under the same keys and so exactly once. Then memory only holds
/// what was recorded since the last interval; it fills up where the disk is full. What the server refuses for good,
/// such as usage of an unknown meter, is kept there as `NAME.refused`; renamed to `NAME.batch`, it is sent once more by
/// the next start.
///
/// Clones share everything. When the last one is dropped, what was recorded is still sent as long as the
/// runtime lives.
///
/// ```no_run
/// # use std::time::Duration;
/// # use usage_client::{Error, UsageClient};
/// # async fn example() -> Result<(), Error> {
/// let client = UsageClient::connect_lazy("http://127.0.0.1:50051")?;
/// let recorder = client.recorder().start()?;
/// recorder.record("acct_42", "tokens", 12);
/// recorder.shutdown(Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
    /// Tells the worker when the last handle is gone.
    alive: Arc<DropGuard>,
    /// Told when nothing of it is left: the spool is free.
    gone: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    client: UsageClient,
    interval: Duration,
    batch_size: usize,
    sums: Sums,
    batches: Batches,
    spool: Option<Spool>,
    /// Held while sums become batches: whoever comes next finds them there.
    taking: Mutex<()>,
    /// What was recorded and is in no sum here: dropped, or of an earlier process.
    elsewhere: Tally,
    recovered: Tally,
    counted: Tally,
    refused: Tally,
    dropped: Tally,
    /// Of that, what no server would take.
    invalid: Tally,
    /// Ends the worker, whatever is still to be sent.
    stop: CancellationToken,
    /// Wakes the worker before its interval is over.
    wake: Notify,
    /// The last to go, after the spool.
    _gone: DropGuard,
}

impl Recorder {
    /// Counts what an account used of a meter now, by this machine's clock. An empty meter is the server's
    /// default one.
    ///
    /// Never waits, never fails and never panics: what cannot be kept is dropped and counted in
    /// [`stats`](Self::stats). The quantity is 1 to 1,000,000,000,000, an account's id 1 to 128 bytes.
    pub fn record(&self, account_id: &str, meter: &str, quantity: i64) {
        let is_valid = (1..=MAX_QUANTITY).contains(&quantity)
            && (1..=MAX_ACCOUNT_BYTES).contains(&account_id.len())
            && meter.len() <= MAX_METER_BYTES;
        if !is_valid {
            return self.drop_one(false, quantity);
        }
        match self
            .shared
            .sums
            .add(account_id, meter, now_secs(), quantity)
        {
            Ok(Filling(false)) => {}
            Ok(Filling(true)) => self.shared.wake.notify_one(),
            Err(Full) => self.drop_one(true, quantity),
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> RecorderStats {
        self.shared.stats()
    }

    /// Waits until everything that was recorded before is counted, refused or dropped.
    ///
    /// # Errors
    /// The time is over; what is pending stays so and goes on being sent.
    pub async fn flush(&self, patience: Duration) -> Result<RecorderStats, Error> {
        let shared = &self.shared;
        let flushed = async {
            let taken = shared.take_out().await;
            shared.wake.notify_one();
            let last = taken.unwrap_or_else(|| shared.batches.last());
            shared.batches.until_done(last).await;
        };
        match tokio::time::timeout(patience, flushed).await {
            Ok(()) => Ok(self.stats()),
            Err(_elapsed) => Err(Error::deadline(patience)),
        }
    }

    /// Waits until everything that was recorded before is in the [`spool`](RecorderBuilder::spool), and so
    /// outlives this process. Without a spool nothing does.
    ///
    /// # Errors
    /// [`ErrorKind::Spool`](crate::ErrorKind::Spool): there is none, or it cannot be written to. What is recorded stays
    /// in memory, is sent all the same, and is put into the spool as soon as that is possible.
    pub async fn persist(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let failed = |why: &str| Error::local(ErrorKind::Spool, why, false);
        if shared.spool.is_none() {
            return Err(failed("this recorder has no spool"));
        }
        let taken = shared.take_out().await;
        shared.wake.notify_one();
        match taken {
            Some(taken) if !shared.batches.is_in_memory(taken) => Ok(()),
            _ => Err(failed("it could not be written to; the log says why")),
        }
    }

    /// Sends what was recorded and waits for it, as [`flush`](Self::flush) does, for the end of a process.
    ///
    /// With the last handle it also ends the sending: in a spool, what is pending waits there for the next start,
    /// which may follow at once. Without one it goes on being sent as long as the runtime lives. A disk that is stuck
    /// is waited for five seconds more.
    ///
    /// # Errors
    /// The time is over; the message says how much is still pending.
    pub async fn shutdown(self, patience: Duration) -> Result<RecorderStats, Error> {
        let flushed = self.flush(patience).await;
        let pending = self.stats().pending;
        let Self {
            shared,
            alive,
            gone,
        } = self;
        let is_last = Arc::into_inner(alive).is_some();
        if is_last && (flushed.is_ok() || shared.spool.is_some()) {
            let end = async {
                shared.take_out().await;
                shared.stop.cancel();
                drop(shared);
                gone.cancelled().await;
            };
            if tokio::time::timeout(END_PATIENCE, end).await.is_err() {
                tracing::error!("the recorder's spool does not come to an end; is its disk stuck?");
            }
        }
        flushed.map_err(|_| {
            let Recorded { calls, units } = pending;
            tracing::error!(calls, units, "usage is still pending at the shutdown");
            let message = format!("{units} units of {calls} calls are pending after {patience:?}");
            Error::local(ErrorKind::Deadline, message, true)
        })
    }

    #[cold]
    fn drop_one(&self, is_valid: bool, quantity: i64) {
        let units = u64::try_from(quantity).unwrap_or(0);
        let shared = &self.shared;
        shared.elsewhere.add(1, units);
        if !is_valid {
            shared.invalid.add(1, units);
        }
        // Logged by the worker: a log may be slow.
        shared.dropped.add(1, units);
    }
}

impl Shared {
    fn stats(&self) -> RecorderStats {
        // What ends is read before what began, so that pending is never below zero.
        let (counted, refused, dropped) = (
            self.counted.read(),
            self.refused.read(),
            self.dropped.read(),
        );
        let (mut recorded, added) = (self.elsewhere.read(), self.sums.added());
        recorded.calls = recorded.calls.saturating_add(added.0);
        recorded.units = recorded.units.saturating_add(added.1);
        let left = |all: u64, ended: [u64; 3]| ended.into_iter().fold(all, u64::saturating_sub);
        RecorderStats {
            recorded,
            recovered: self.recovered.read(),
            counted,
            pending: Recorded {
                calls: left(
                    recorded.calls,
                    [counted.calls, refused.calls, dropped.calls],
                ),
                units: left(
                    recorded.units,
                    [counted.units, refused.units, dropped.units],
                ),
            },
            refused,
            dropped,
        }
    }

    /// As [`take`](Self::take), where waiting for a disk holds up no other task; nothing where that broke off.
    async fn take_out(self: &Arc<Self>) -> Option<u64> {
        if self.spool.is_none() {
            return Some(self.take());
        }
        let shared = Arc::clone(self);
        let taken = tokio::task::spawn_blocking(move || shared.take()).await;
        if let Err(error) = &taken {
            tracing::error!(%error, "usage could not be taken to the spool");
        }
        taken.ok()
    }

    /// Makes batches of everything that was recorded; answers the number of the last batch there is.
    fn take(&self) -> u64 {
        let _turn = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        self.spool_again();
        let mut sums = self.sums.take().into_iter().peekable();
        while sums.peek().is_some() {
            let batch: Vec<Sum> = sums.by_ref().take(self.batch_size).collect();
            let key = Uuid::now_v7();
            let held = self.keep(key, batch);
            self.batches.add(key, held);
        }
        self.batches.last()
    }

    /// Puts what there was no room for on the disk there, as soon as there is.
    fn spool_again(&self) {
        if self.spool.is_none() {
            return;
        }
        for batch in self.batches.take_in_memory() {
            let Taken { number, key, held } = batch;
            let held = match held {
                Held::Memory(sums) => self.keep(key, sums),
                on_disk @ Held::Spool { .. } => on_disk,
            };
            self.batches.put_back(Taken { number, key, held });
        }
    }

    /// Puts a batch into the spool, where there is one with room.
    fn keep(&self, key: Uuid, batch: Vec<Sum>) -> Held {
        let Some(spool) = &self.spool else {
            return Held::Memory(batch);
        };
        match spool.write(key, &batch) {
            Ok(()) => {
                self.sums.release(batch.len());
                let (calls, units) = totals(&batch);
                Held::Spool { calls, units }
            }
            Err(error) => {
                tracing::error!(%error, "a batch of usage is kept in memory only");
                Held::Memory(batch)
            }
        }
    }
}

/// The calls and units of sums.
fn totals(sums: &[Sum]) -> (u64, u64) {
    sums.iter().fold((0, 0), |(calls, units), sum| {
        let quantity = u64::try_from(sum.quantity).unwrap_or(0);
        (
            calls.saturating_add(sum.records),
            units.saturating_add(quantity),
        )
    })
}

fn now_secs() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}
