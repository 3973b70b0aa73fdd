//! Sending in the background, until each batch is answered for good.

use super::{
    Shared,
    aggregator::Sum,
    batches::{Held, Taken},
    spool::Spool,
    totals,
};
use crate::{Batch, Error, ErrorKind, Increment, IncrementResult, Reason};
use chrono::DateTime;
use std::{collections::HashMap, io, sync::Arc, time::Duration};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The pauses after failures that the client's own retries did not mend.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The longest that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(1);
/// After how many intervals usage that the server's clock has not reached yet is sent again, and how long that may
/// be.
const EARLY_INTERVALS: u32 = 30;
const LONGEST_EARLY: Duration = Duration::from_mins(1);
/// How often losses are logged at most.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// The tasks that send, each with its batch.
#[derive(Default)]
struct Sending {
    tasks: JoinSet<()>,
    batches: HashMap<Id, Arc<Taken>>,
}

/// Sends what is recorded until the last handle is gone and everything is sent, or until it is told to stop.
pub(super) async fn run(shared: Arc<Shared>, concurrency: usize, alive: CancellationToken) {
    let mut sending = Sending::default();
    let mut beat = tokio::time::interval(shared.interval);
    beat.reset();
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut losses = Losses::default();
    #[cfg(feature = "metrics")]
    let mut telemetry = super::telemetry::Telemetry::new();
    loop {
        losses.tell(&shared);
        #[cfg(feature = "metrics")]
        telemetry.publish(shared.stats());
        sending.fill(&shared, concurrency);
        let is_last = alive.is_cancelled();
        if is_last && sending.tasks.is_empty() {
            shared.take_out().await;
            if shared.batches.is_empty() {
                return;
            }
            sending.fill(&shared, concurrency);
        }
        tokio::select! {
            _ = beat.tick() => {
                shared.take_out().await;
            }
            () = shared.wake.notified() => {
                if shared.sums.is_filling() {
                    shared.take_out().await;
                }
            }
            Some(ended) = sending.tasks.join_next_with_id(), if !sending.tasks.is_empty() => {
                sending.end(&shared, ended);
            }
            () = alive.cancelled(), if !is_last => {
                shared.take_out().await;
            }
            () = shared.stop.cancelled() => {
                sending.tasks.shutdown().await;
                return;
            }
        }
    }
}

impl Sending {
    fn fill(&mut self, shared: &Arc<Shared>, concurrency: usize) {
        while self.tasks.len() < concurrency
            && let Some(batch) = shared.batches.next()
        {
            let batch = Arc::new(batch);
            let task = send(Arc::clone(shared), Arc::clone(&batch));
            let id = self.tasks.spawn(task).id();
            self.batches.insert(id, batch);
        }
    }

    fn end(&mut self, shared: &Arc<Shared>, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let batch = self.batches.remove(&id).and_then(Arc::into_inner);
        if let Err(error) = ended
            && let Some(batch) = batch
        {
            tracing::error!(%error, key = %batch.key, "sending a batch of usage broke; it is sent again");
            put_off(shared, batch, LONGEST_PAUSE);
        }
    }
}

/// Tells of usage that was dropped: here, and not where it was recorded, because a log may be slow.
#[derive(Debug, Default)]
struct Losses {
    told: u64,
    at: Option<Instant>,
}

impl Losses {
    fn tell(&mut self, shared: &Shared) {
        let dropped = shared.dropped.read();
        let is_soon = self.at.is_some_and(|at| at.elapsed() < LOG_PAUSE);
        if dropped.calls == self.told || is_soon {
            return;
        }
        (self.told, self.at) = (dropped.calls, Some(Instant::now()));
        let invalid = shared.invalid.read();
        tracing::error!(
            calls = dropped.calls,
            units = dropped.units,
            invalid_calls = invalid.calls,
            invalid_units = invalid.units,
            "usage was dropped so far: the recorder was full, or what was recorded is outside the limits"
        );
    }
}

/// What the server did not count.
#[derive(Default)]
struct Left {
    /// Refused for good.
    refused: Vec<Sum>,
    /// The server's clock has not reached it; it counts later.
    early: Vec<Sum>,
}

/// Sends a batch until the server has answered for good.
async fn send(shared: Arc<Shared>, batch: Arc<Taken>) {
    let later = match &batch.held {
        Held::Memory(sums) => {
            let Left { early, .. } = send_sums(&shared, batch.key, sums).await;
            shared.sums.release(sums.len().saturating_sub(early.len()));
            (!early.is_empty()).then_some((Uuid::now_v7(), Held::Memory(early)))
        }
        Held::Spool { calls, units } => {
            let name = batch.key;
            match read(&shared, name).await {
                // Damaged, and set aside.
                None => {
                    shared.dropped.add(*calls, *units);
                    None
                }
                Some(spooled) => {
                    let left = send_sums(&shared, spooled.key, &spooled.sums).await;
                    let held = spool_left(&shared, name, left).await;
                    held.map(|held| (name, held))
                }
            }
        }
    };
    match later {
        None => shared.batches.finish(&batch),
        Some((key, held)) => {
            let number = batch.number;
            let pause = shared.interval.saturating_mul(EARLY_INTERVALS);
            put_off(
                &shared,
                Taken { number, key, held },
                pause.min(LONGEST_EARLY),
            );
        }
    }
}

/// Lets a batch rest, and sees to it that it is sent then.
fn put_off(shared: &Arc<Shared>, batch: Taken, pause: Duration) {
    shared.batches.put_off(batch, pause);
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        if let Some(shared) = shared.upgrade() {
            shared.wake.notify_one();
        }
    });
}

/// Reads a batch as often as it takes; nothing where it was damaged.
async fn read(shared: &Arc<Shared>, name: Uuid) -> Option<super::spool::Batch> {
    let mut pause = FIRST_PAUSE;
    loop {
        match on_disk(shared, move |spool| spool.read(name)).await {
            Ok(batch) => return batch,
            Err(error) => {
                tracing::error!(%error, %name, "a spooled batch of usage cannot be read; tried again");
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Keeps what is left of a spooled batch on disk, and only that; answers what is to be sent later.
async fn spool_left(shared: &Arc<Shared>, name: Uuid, left: Left) -> Option<Held> {
    let Left { refused, early } = left;
    if !refused.is_empty() {
        let kept = on_disk(shared, move |spool| spool.set_aside(name, &refused)).await;
        match kept {
            Ok(file) => {
                tracing::error!(file = %file.display(), "refused usage is kept for somebody to look at");
            }
            Err(error) => tracing::error!(%error, %name, "refused usage could not be kept"),
        }
    }
    let (calls, units) = totals(&early);
    let done = if early.is_empty() {
        on_disk(shared, move |spool| spool.remove(name)).await
    } else {
        // In one step, or a crash in between would send it under both keys.
        on_disk(shared, move |spool| {
            spool.replace(name, Uuid::now_v7(), &early)
        })
        .await
    };
    if let Err(error) = &done {
        // It is sent again under its key, now or by the next process, and answered as before.
        tracing::error!(%error, %name, "an answered batch of usage stays in the spool");
    }
    (calls > 0).then_some(Held::Spool { calls, units })
}

/// Does something with the spool where waiting for a disk holds up no other task.
async fn on_disk<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Spool) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let shared = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || match &shared.spool {
        Some(spool) => work(spool),
        None => Err(io::Error::other("there is no spool")),
    });
    done.await.map_err(io::Error::other)?
}

async fn send_sums(shared: &Shared, key: Uuid, sums: &[Sum]) -> Left {
    let mut pause = FIRST_PAUSE;
    loop {
        match shared.client.increment_batch(wire(key, sums)).await {
            Ok(outcome) => {
                tracing::debug!(%key, sums = sums.len(), "a batch of usage is answered");
                return tell_results(shared, sums, &outcome.results);
            }
            Err(error) if can_never_succeed(&error) => {
                tracing::error!(%error, %key, "a batch of usage was refused");
                let (calls, units) = totals(sums);
                shared.refused.add(calls, units);
                return Left {
                    refused: sums.to_vec(),
                    early: Vec::new(),
                };
            }
            Err(error) => {
                tracing::warn!(%error, %key, "a batch of usage was not counted; it is sent again");
                let asked = error.retry_after().unwrap_or_default();
                tokio::time::sleep(pause.max(asked.min(LONGEST_ASKED))).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn tell_results(shared: &Shared, sums: &[Sum], results: &[IncrementResult]) -> Left {
    let mut left = Left::default();
    for (sum, result) in sums.iter().zip(results) {
        let units = u64::try_from(sum.quantity).unwrap_or(0);
        match result {
            IncrementResult::Counted | IncrementResult::Duplicate => {
                shared.counted.add(sum.records, units);
            }
            IncrementResult::Refused {
                reason: Reason::TimestampInFuture,
                ..
            } => left.early.push(sum.clone()),
            IncrementResult::Refused { .. } | IncrementResult::Unrecognised(_) => {
                shared.refused.add(sum.records, units);
                if left.refused.is_empty() {
                    // One line a batch: a wrong meter has many.
                    tracing::error!(account = %sum.account, meter = %sum.meter, quantity = sum.quantity, ?result, "usage was refused");
                }
                left.refused.push(sum.clone());
            }
        }
    }
    if !left.early.is_empty() {
        let sums = left.early.len();
        tracing::warn!(
            sums,
            "this machine's clock is ahead of the server's; usage is sent again later"
        );
    }
    left
}

/// Whether the same batch would be refused for ever. Only the server itself can say so: what stands before it, a
/// key that is not let in, or a server too old, can be mended.
fn can_never_succeed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::KeyReused) && error.reason().is_some()
}

fn wire(key: Uuid, sums: &[Sum]) -> Batch {
    let increments = sums.iter().map(|sum| {
        let at = DateTime::from_timestamp(sum.second, 0).unwrap_or_default();
        Increment::new(&*sum.account)
            .meter(&*sum.meter)
            .quantity(sum.quantity)
            .timestamp(at)
    });
    increments.collect::<Batch>().key(key.to_string())
}
