//! Counting without waiting: usage is summed in memory and sent in the background.
//!
//! [`builder`] configures and starts a recorder, [`aggregator`] sums recorded usage, [`batches`] queues it,
//! [`spool`] stores it on disk, [`worker`] sends it, [`drops`] and [`refused`] tell what is not counted, [`stats`]
//! reports the results, and [`meter_check`] asks whether the meters are counted.

mod aggregator;
mod batches;
mod builder;
mod drops;
mod meter_check;
mod refused;
mod spool;
mod spool_file;
mod stats;
#[cfg(feature = "metrics")]
mod telemetry;
mod worker;

use crate::{Error, ErrorKind, UsageClient};
use aggregator::{Aggregator, Full, MAX_QUANTITY, ShouldFlush, Sum};
use batches::{Batches, QueuedBatch, Storage};
pub use builder::RecorderBuilder;
use drops::{Drops, Why};
use refused::OnRefused;
pub use refused::RefusedUsage;
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

/// The longest names that the server accepts; longer ones are dropped at once.
const MAX_ACCOUNT_BYTES: usize = 128;
const MAX_METER_BYTES: usize = 100;
/// How long a shutdown waits for the disk after the caller's timeout.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Counts usage without making its caller wait.
///
/// [`record`](Self::record) adds to a sum in memory, per account, meter and second, and returns. The sums are sent in
/// the background, in batches. Each batch keeps one idempotency key until the server has answered, so a batch that is
/// sent twice is counted once. Usage keeps the second in which it happened while the server is unavailable. The server
/// accepts usage that is up to 34 days old.
///
/// Memory is limited by [`capacity`](RecorderBuilder::capacity). When it is full, usage that needs a new sum is
/// dropped, counted in [`stats`](Self::stats) and logged. When a quarter of it is in use, usage is sent before the
/// interval ends. Usage in memory is lost if the process is killed; call [`shutdown`](Self::shutdown) before it exits.
///
/// With a [`spool`](RecorderBuilder::spool) usage is durable: batches are written to disk before they are sent. The
/// next process sends the batches that a process left there, with the same keys, so each is counted exactly once. Memory
/// then only contains usage of the last interval, unless the disk is full. Usage that the server rejects permanently,
/// such as usage of an unknown meter, is stored there as `NAME.refused`. Rename the file to `NAME.batch` to have the next
/// start send it again.
///
/// Clones share everything. After the last one is dropped, recorded usage is still sent as long as the runtime is
/// running.
///
/// ```no_run
/// # use std::time::Duration;
/// # use usage_client::{Error, UsageClient};
/// # async fn example() -> Result<(), Error> {
/// let client = UsageClient::connect_lazy("http://127.0.0.1:50051")?;
/// let recorder = client.recorder(["tokens"]).start()?;
/// recorder.record("acct_42", "tokens", 12);
/// let figures = recorder.shutdown(Duration::from_secs(10)).await?;
/// assert!(figures.is_complete(), "not all is counted: {figures:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
    /// Cancelled when the last handle is dropped; the worker then finishes.
    handles_dropped: Arc<DropGuard>,
    /// Cancelled when `Shared` is dropped and the spool is unlocked.
    gone: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    client: UsageClient,
    on_refused: OnRefused,
    interval: Duration,
    batch_size: usize,
    aggregator: Aggregator,
    batches: Batches,
    spool: Option<Spool>,
    /// Locked while sums become batches, so that a second caller waits for them.
    batching: Mutex<()>,
    /// Recorded usage that never was in the aggregator: dropped, or left by an earlier process.
    not_aggregated: Tally,
    recovered: Tally,
    counted: Tally,
    refused: Tally,
    dropped: Tally,
    /// The part of `dropped` that is outside the server's limits.
    invalid: Tally,
    /// What of `dropped` the program was not told of yet.
    drops: Drops,
    /// Stops the worker, even if usage is pending.
    stop: CancellationToken,
    /// Wakes the worker before its interval ends.
    wake: Notify,
    /// Must be the last field: it is dropped after the spool.
    _gone: DropGuard,
}

impl Recorder {
    /// Counts usage of an account now, by this machine's clock. An empty meter means the server's default meter.
    ///
    /// Never waits, fails or panics: usage that cannot be stored is dropped and counted in [`stats`](Self::stats).
    /// The quantity must be 1 to 1,000,000,000,000, and the account id 1 to 128 bytes.
    pub fn record(&self, account_id: &str, meter: &str, quantity: i64) {
        let is_valid = (1..=MAX_QUANTITY).contains(&quantity)
            && (1..=MAX_ACCOUNT_BYTES).contains(&account_id.len())
            && meter.len() <= MAX_METER_BYTES;
        if !is_valid {
            return self.drop_one(Why::Invalid, account_id, meter, quantity);
        }
        match self
            .shared
            .aggregator
            .add(account_id, meter, now_secs(), quantity)
        {
            Ok(ShouldFlush(false)) => {}
            Ok(ShouldFlush(true)) => self.shared.wake.notify_one(),
            Err(Full) => self.drop_one(Why::Full, account_id, meter, quantity),
        }
    }

    /// What the recorder has done so far.
    pub fn stats(&self) -> RecorderStats {
        self.shared.stats()
    }

    /// Waits until all usage recorded before this call is counted, rejected or dropped.
    ///
    /// # Errors
    /// The timeout has passed; the figures are in the error ([`Error::figures`]). Pending usage is still sent in the
    /// background.
    pub async fn flush(&self, timeout: Duration) -> Result<RecorderStats, Error> {
        let shared = &self.shared;
        let flushed = async {
            let taken = shared.make_batches_blocking().await;
            shared.wake.notify_one();
            let last = taken.unwrap_or_else(|| shared.batches.last());
            shared.batches.wait_until_done(last).await;
        };
        match tokio::time::timeout(timeout, flushed).await {
            Ok(()) => {
                // Also what was dropped before anything was sent.
                shared.tell_dropped();
                Ok(self.stats())
            }
            Err(_elapsed) => Err(Error::deadline(timeout).with_figures(self.stats())),
        }
    }

    /// Waits until all usage recorded before this call is in the [`spool`](RecorderBuilder::spool) or counted, so that
    /// it is not lost with the process.
    ///
    /// # Errors
    /// [`ErrorKind::Spool`](crate::ErrorKind::Spool): the recorder has no spool, or the spool cannot be written to.
    /// The usage then stays in memory, is still sent, and is written to the spool as soon as possible.
    pub async fn persist(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let failed = |why: &str| Error::local(ErrorKind::Spool, why, false);
        if shared.spool.is_none() {
            return Err(failed("this recorder has no spool"));
        }
        let taken = shared.make_batches_blocking().await;
        shared.wake.notify_one();
        match taken {
            Some(taken) if !shared.batches.is_in_memory(taken) => Ok(()),
            _ => Err(failed(
                "the spool could not be written; the log contains the cause",
            )),
        }
    }

    /// Sends recorded usage and waits for it, like [`flush`](Self::flush), at the end of a process.
    ///
    /// If this is the last handle, sending stops as well. With a spool, pending usage stays there for the next start,
    /// which can follow at once. Without a spool, it is still sent as long as the runtime is running. A disk that does
    /// not respond delays the shutdown by at most five seconds.
    ///
    /// # Errors
    /// The timeout has passed. The message contains the pending calls and units, and the error all figures
    /// ([`Error::figures`]).
    pub async fn shutdown(self, timeout: Duration) -> Result<RecorderStats, Error> {
        let flushed = self.flush(timeout).await;
        let figures = self.stats();
        let Self {
            shared,
            handles_dropped,
            gone,
        } = self;
        let is_last = Arc::into_inner(handles_dropped).is_some();
        if is_last && (flushed.is_ok() || shared.spool.is_some()) {
            let end = async {
                shared.make_batches_blocking().await;
                shared.stop.cancel();
                drop(shared);
                gone.cancelled().await;
            };
            if tokio::time::timeout(END_TIMEOUT, end).await.is_err() {
                tracing::error!("the recorder's spool was not closed in time; check its disk");
            }
        }
        flushed.map_err(|_| {
            let Recorded { calls, units } = figures.pending;
            tracing::error!(calls, units, "usage is pending at shutdown");
            let message =
                format!("{units} units of {calls} calls are still pending after {timeout:?}");
            Error::local(ErrorKind::Deadline, message, true).with_figures(figures)
        })
    }

    #[cold]
    fn drop_one(&self, why: Why, account_id: &str, meter: &str, quantity: i64) {
        let units = u64::try_from(quantity).unwrap_or(0);
        let shared = &self.shared;
        shared.not_aggregated.add(1, units);
        if why == Why::Invalid {
            shared.invalid.add(1, units);
        }
        // The worker logs and tells it, because both can be slow.
        if shared.on_refused.is_set() {
            shared.drops.add(why, account_id, meter, units);
        }
        shared.dropped.add(1, units);
    }
}

impl Shared {
    fn stats(&self) -> RecorderStats {
        // Results are read before what was recorded, so that pending is never negative.
        let (counted, refused, dropped) = (
            self.counted.read(),
            self.refused.read(),
            self.dropped.read(),
        );
        let (mut recorded, added) = (self.not_aggregated.read(), self.aggregator.added());
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

    /// Tells the program what was dropped since it was last told.
    fn tell_dropped(&self) {
        self.on_refused.tell(self.drops.take());
    }

    /// Like [`make_batches`](Self::make_batches), without blocking other tasks while the disk is slow; `None` if it failed.
    async fn make_batches_blocking(self: &Arc<Self>) -> Option<u64> {
        if self.spool.is_none() {
            return Some(self.make_batches());
        }
        let shared = Arc::clone(self);
        let taken = tokio::task::spawn_blocking(move || shared.make_batches()).await;
        if let Err(error) = &taken {
            tracing::error!(%error, "usage could not be written to the spool");
        }
        taken.ok()
    }

    /// Turns all recorded usage into batches and returns the number of the last batch.
    fn make_batches(&self) -> u64 {
        let _turn = self.batching.lock().unwrap_or_else(PoisonError::into_inner);
        self.retry_spool();
        let mut sums = self.aggregator.take().into_iter().peekable();
        while sums.peek().is_some() {
            let batch: Vec<Sum> = sums.by_ref().take(self.batch_size).collect();
            let key = Uuid::now_v7();
            let storage = self.store(key, batch);
            self.batches.add(key, storage);
        }
        self.batches.last()
    }

    /// Writes batches to the spool that could not be written before.
    fn retry_spool(&self) {
        if self.spool.is_none() {
            return;
        }
        for batch in self.batches.take_in_memory() {
            let QueuedBatch {
                number,
                key,
                storage,
            } = batch;
            let storage = match storage {
                Storage::Memory(sums) => self.store(key, sums),
                spooled @ Storage::Spool { .. } => spooled,
            };
            self.batches.put_back(QueuedBatch {
                number,
                key,
                storage,
            });
        }
    }

    /// Writes a batch to the spool if there is one with free space.
    fn store(&self, key: Uuid, batch: Vec<Sum>) -> Storage {
        let Some(spool) = &self.spool else {
            return Storage::Memory(batch);
        };
        match spool.write(key, &batch) {
            Ok(()) => {
                self.aggregator.release(batch.len());
                let (calls, units) = totals(&batch);
                Storage::Spool { calls, units }
            }
            Err(error) => {
                tracing::error!(%error, "a batch of usage could not be spooled and stays in memory");
                Storage::Memory(batch)
            }
        }
    }
}

/// The total calls and units of some sums.
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
