//! The background task that sends batches until each has its final answer.

use super::{
    Shared,
    aggregator::Sum,
    batches::{QueuedBatch, Storage},
    now_secs,
    refused::RefusedUsage,
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

/// The backoff after a call failed despite the client's own retries.
const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// The longest retry delay accepted from a server.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);
/// The delay, in intervals, before usage from the future of the server's clock is sent again, and its limit.
const EARLY_INTERVALS: u32 = 30;
const MAX_EARLY_DELAY: Duration = Duration::from_mins(1);
/// For how long usage is sent again that the API key may not count: the key may be replaced or given other limits. Later, it
/// is refused usage like any other.
const DENIED_FOR: Duration = Duration::from_hours(1);
/// The shortest time between two log lines about dropped usage.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The sending tasks, each with its batch.
#[derive(Default)]
struct Sending {
    tasks: JoinSet<()>,
    batches: HashMap<Id, Arc<QueuedBatch>>,
}

/// Runs until the last handle is dropped and all usage is sent, or until `shared.stop` is cancelled.
pub(super) async fn run(
    shared: Arc<Shared>,
    concurrency: usize,
    handles_dropped: CancellationToken,
) {
    let mut sending = Sending::default();
    let mut ticks = tokio::time::interval(shared.interval);
    ticks.reset();
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut drop_log = DropLog::default();
    #[cfg(feature = "metrics")]
    let mut telemetry = super::telemetry::Telemetry::new();
    loop {
        drop_log.write(&shared);
        shared.tell_dropped();
        #[cfg(feature = "metrics")]
        telemetry.publish(shared.stats());
        sending.fill(&shared, concurrency);
        let is_last = handles_dropped.is_cancelled();
        if is_last && sending.tasks.is_empty() {
            shared.make_batches_blocking().await;
            if shared.batches.is_empty() {
                return;
            }
            sending.fill(&shared, concurrency);
        }
        tokio::select! {
            _ = ticks.tick() => {
                shared.make_batches_blocking().await;
            }
            () = shared.wake.notified() => {
                if shared.aggregator.should_flush() {
                    shared.make_batches_blocking().await;
                }
            }
            Some(ended) = sending.tasks.join_next_with_id(), if !sending.tasks.is_empty() => {
                sending.end(&shared, ended);
            }
            () = handles_dropped.cancelled(), if !is_last => {
                shared.make_batches_blocking().await;
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
            tracing::error!(%error, key = %batch.key, "the task that sends a batch of usage failed; the batch is sent again");
            delay(shared, batch, MAX_BACKOFF);
        }
    }
}

/// Logs dropped usage. The calls of `record` do not log it themselves, because logging can be slow.
#[derive(Debug, Default)]
struct DropLog {
    logged: u64,
    at: Option<Instant>,
}

impl DropLog {
    fn write(&mut self, shared: &Shared) {
        let dropped = shared.dropped.read();
        let is_soon = self.at.is_some_and(|at| at.elapsed() < LOG_INTERVAL);
        if dropped.calls == self.logged || is_soon {
            return;
        }
        (self.logged, self.at) = (dropped.calls, Some(Instant::now()));
        let invalid = shared.invalid.read();
        tracing::error!(
            calls = dropped.calls,
            units = dropped.units,
            invalid_calls = invalid.calls,
            invalid_units = invalid.units,
            "usage was dropped: the recorder is full, or the usage is outside the limits of the server"
        );
    }
}

/// The part of a batch that the server did not count.
#[derive(Default)]
struct Remainder {
    /// Rejected permanently.
    refused: Vec<Sum>,
    /// In the future of the server's clock, or not allowed to the key: it can be counted later.
    later: Vec<Sum>,
    /// What to tell the program of the rejected part.
    told: Vec<RefusedUsage>,
}

/// Sends a batch until it has its final answer.
async fn send(shared: Arc<Shared>, batch: Arc<QueuedBatch>) {
    let mut told = Vec::new();
    let later = match &batch.storage {
        Storage::Memory(sums) => {
            let remainder = send_sums(&shared, batch.key, sums).await;
            let later = remainder.later;
            told = remainder.told;
            shared
                .aggregator
                .release(sums.len().saturating_sub(later.len()));
            (!later.is_empty()).then_some((Uuid::now_v7(), Storage::Memory(later)))
        }
        Storage::Spool { calls, units } => {
            let name = batch.key;
            match read(&shared, name).await {
                // The file was damaged and has been renamed.
                None => {
                    shared.dropped.add(*calls, *units);
                    told.extend(shared.on_refused.is_set().then(|| RefusedUsage {
                        account_id: String::new(),
                        meter: String::new(),
                        at: DateTime::default(),
                        units: *units,
                        calls: *calls,
                        reason: None,
                        why: format!("dropped: the file {name} of the spool is damaged"),
                    }));
                    None
                }
                Some(spooled) => {
                    let mut remainder = send_sums(&shared, spooled.key, &spooled.sums).await;
                    told = std::mem::take(&mut remainder.told);
                    let storage = spool_remainder(&shared, name, remainder).await;
                    storage.map(|storage| (name, storage))
                }
            }
        }
    };
    // After the spool has it, and before those who wait for the batch go on.
    shared.on_refused.tell(told);
    match later {
        None => shared.batches.finish(&batch),
        Some((key, storage)) => {
            let number = batch.number;
            let pause = shared.interval.saturating_mul(EARLY_INTERVALS);
            delay(
                &shared,
                QueuedBatch {
                    number,
                    key,
                    storage,
                },
                pause.min(MAX_EARLY_DELAY),
            );
        }
    }
}

/// Puts a batch back to be sent after a delay, and wakes the worker then.
fn delay(shared: &Arc<Shared>, batch: QueuedBatch, pause: Duration) {
    shared.batches.delay(batch, pause);
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        if let Some(shared) = shared.upgrade() {
            shared.wake.notify_one();
        }
    });
}

/// Reads a batch, with retries; `None` if it is damaged.
async fn read(shared: &Arc<Shared>, name: Uuid) -> Option<super::spool_file::Batch> {
    let mut pause = MIN_BACKOFF;
    loop {
        match with_spool(shared, move |spool| spool.read(name)).await {
            Ok(batch) => return batch,
            Err(error) => {
                tracing::error!(%error, %name, "a spooled batch of usage cannot be read; it is read again");
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(MAX_BACKOFF);
            }
        }
    }
}

/// Replaces a spooled batch by the part that was not counted; returns the part to send later.
async fn spool_remainder(
    shared: &Arc<Shared>,
    name: Uuid,
    remainder: Remainder,
) -> Option<Storage> {
    let Remainder { refused, later, .. } = remainder;
    if !refused.is_empty() {
        let (calls, units) = totals(&refused);
        let kept = with_spool(shared, move |spool| spool.write_refused(name, &refused)).await;
        match kept {
            Ok(file) => {
                tracing::error!(file = %file.display(), "rejected usage is stored in a file; check it");
            }
            Err(error) => {
                tracing::error!(%error, %name, calls, units, "rejected usage could not be stored and is lost");
            }
        }
    }
    let (calls, units) = totals(&later);
    let done = if later.is_empty() {
        with_spool(shared, move |spool| spool.remove(name)).await
    } else {
        // In one step: after a crash in between it would be sent with both keys.
        with_spool(shared, move |spool| {
            spool.replace(name, Uuid::now_v7(), &later)
        })
        .await
    };
    if let Err(error) = &done {
        // It is sent again with the same key, by this process or the next one, and counts nothing.
        tracing::error!(%error, %name, "an answered batch of usage could not be removed from the spool");
    }
    (calls > 0).then_some(Storage::Spool { calls, units })
}

/// Uses the spool without blocking other tasks while the disk is slow.
async fn with_spool<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Spool) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let shared = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || match &shared.spool {
        Some(spool) => work(spool),
        None => Err(io::Error::other("the recorder has no spool")),
    });
    done.await.map_err(io::Error::other)?
}

async fn send_sums(shared: &Shared, key: Uuid, sums: &[Sum]) -> Remainder {
    let mut pause = MIN_BACKOFF;
    loop {
        match shared.client.increment_batch(wire(key, sums)).await {
            Ok(outcome) => {
                tracing::debug!(%key, sums = sums.len(), "a batch of usage was answered");
                return record_results(shared, sums, &outcome.results);
            }
            Err(error) if is_permanent(&error) => {
                tracing::error!(%error, %key, "a batch of usage was rejected");
                let (calls, units) = totals(sums);
                shared.refused.add(calls, units);
                let why = || (error.reason().cloned(), error.to_string());
                let describe = |sum| shared.on_refused.describe(sum, why);
                return Remainder {
                    refused: sums.to_vec(),
                    later: Vec::new(),
                    told: sums.iter().filter_map(describe).collect(),
                };
            }
            Err(error) => {
                tracing::warn!(%error, %key, "a batch of usage was not counted; it is sent again");
                let asked = error.retry_after().unwrap_or_default();
                tokio::time::sleep(pause.max(asked.min(MAX_RETRY_AFTER))).await;
                pause = pause.saturating_mul(2).min(MAX_BACKOFF);
            }
        }
    }
}

fn record_results(shared: &Shared, sums: &[Sum], results: &[IncrementResult]) -> Remainder {
    let mut remainder = Remainder::default();
    let (mut early, mut denied) = (0_usize, None);
    for (sum, result) in sums.iter().zip(results) {
        let units = u64::try_from(sum.quantity).unwrap_or(0);
        match result {
            IncrementResult::Counted | IncrementResult::Duplicate => {
                shared.counted.add(sum.records, units);
            }
            IncrementResult::Refused {
                reason: Reason::TimestampInFuture,
                ..
            } => {
                early = early.saturating_add(1);
                remainder.later.push(sum.clone());
            }
            IncrementResult::Refused {
                reason: Reason::PermissionDenied,
                message,
                ..
            } if is_young(sum) => {
                denied.get_or_insert((sum, message));
                remainder.later.push(sum.clone());
            }
            IncrementResult::Refused { .. } | IncrementResult::Unrecognised(_) => {
                shared.refused.add(sum.records, units);
                let told = shared.on_refused.describe(sum, || why(result));
                remainder.told.extend(told);
                if remainder.refused.is_empty() {
                    // One line per batch: with an unknown meter, every sum is rejected.
                    tracing::error!(account = %sum.account, meter = %sum.meter, quantity = sum.quantity, ?result, "usage was rejected");
                }
                remainder.refused.push(sum.clone());
            }
        }
    }
    if let Some((sum, why)) = denied {
        tracing::error!(account = %sum.account, meter = %sum.meter, %why, "the API key may not count usage; it is sent again until it is an hour old");
    }
    if early > 0 {
        tracing::warn!(
            sums = early,
            "this machine's clock is ahead of the server's clock; usage is sent again later"
        );
    }
    remainder
}

/// Whether usage that the key may not count is sent again.
fn is_young(sum: &Sum) -> bool {
    let age = now_secs().saturating_sub(sum.second);
    u64::try_from(age).unwrap_or(0) < DENIED_FOR.as_secs()
}

fn why(result: &IncrementResult) -> (Option<Reason>, String) {
    match result {
        IncrementResult::Refused {
            reason, message, ..
        } => (Some(reason.clone()), message.clone()),
        other => (None, format!("{other:?}")),
    }
}

/// Whether the same batch would always be rejected. Only a reason of the server itself proves that: a proxy, a denied
/// token or an outdated server can be fixed.
fn is_permanent(error: &Error) -> bool {
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
