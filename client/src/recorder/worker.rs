//! Sending in the background, until each batch is answered for good.

use super::{
    Shared,
    batches::{Held, Taken},
    spool::Spool,
    sums::Sum,
    totals,
};
use crate::{Batch, Error, ErrorKind, Increment, IncrementResult};
use chrono::DateTime;
use std::{io, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The pauses after failures that the client's own retries did not mend.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Sends what is recorded until the last handle is gone and everything is sent.
pub(super) async fn run(
    shared: Arc<Shared>,
    interval: Duration,
    concurrency: usize,
    alive: CancellationToken,
) {
    let mut sending = JoinSet::new();
    let mut beat = tokio::time::interval(interval);
    beat.reset();
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    #[cfg(feature = "metrics")]
    let mut telemetry = super::telemetry::Telemetry::new();
    loop {
        #[cfg(feature = "metrics")]
        telemetry.publish(shared.stats());
        while sending.len() < concurrency
            && let Some(batch) = shared.batches.next()
        {
            sending.spawn(send(Arc::clone(&shared), batch));
        }
        let is_last = alive.is_cancelled();
        if is_last && sending.is_empty() {
            shared.take_out().await;
            if shared.batches.is_empty() {
                return;
            }
            continue;
        }
        tokio::select! {
            _ = beat.tick(), if !is_last => {
                shared.take_out().await;
            }
            () = shared.wake.notified() => {}
            Some(_) = sending.join_next(), if !sending.is_empty() => {}
            () = alive.cancelled(), if !is_last => {
                shared.take_out().await;
            }
        }
    }
}

/// Sends a batch until the server has answered for good.
async fn send(shared: Arc<Shared>, batch: Taken) {
    match &batch.held {
        Held::Memory(sums) => {
            send_sums(&shared, batch.key, sums).await;
            shared.sums.release(sums.len());
        }
        Held::Spool { calls, units } => {
            let key = batch.key;
            match on_disk(&shared, move |spool| spool.read(key)).await {
                Ok(Some(sums)) => {
                    send_sums(&shared, key, &sums).await;
                    // Else the next process sends it again, under its key.
                    if let Err(error) = on_disk(&shared, move |spool| spool.remove(key)).await {
                        tracing::error!(%error, %key, "a counted batch of usage stays in the spool");
                    }
                }
                Ok(None) => shared.dropped.add(*calls, *units),
                Err(error) => {
                    tracing::error!(%error, %key, "a spooled batch of usage cannot be read");
                    shared.dropped.add(*calls, *units);
                }
            }
        }
    }
    shared.batches.finish(&batch);
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

async fn send_sums(shared: &Shared, key: Uuid, sums: &[Sum]) {
    let mut pause = FIRST_PAUSE;
    loop {
        match shared.client.increment_batch(wire(key, sums)).await {
            Ok(outcome) => {
                tracing::debug!(%key, sums = sums.len(), "a batch of usage is answered");
                tell_results(shared, sums, &outcome.results);
                return;
            }
            Err(error) if can_never_succeed(&error) => {
                tracing::error!(%error, %key, "a batch of usage was refused");
                let (calls, units) = totals(sums);
                shared.refused.add(calls, units);
                return;
            }
            Err(error) => {
                tracing::warn!(%error, %key, "a batch of usage was not counted; it is sent again");
                let asked = error.retry_after().unwrap_or_default();
                tokio::time::sleep(pause.max(asked)).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn tell_results(shared: &Shared, sums: &[Sum], results: &[IncrementResult]) {
    for (sum, result) in sums.iter().zip(results) {
        let units = u64::try_from(sum.quantity).unwrap_or(0);
        if let IncrementResult::Counted | IncrementResult::Duplicate = result {
            shared.counted.add(sum.records, units);
        } else {
            shared.refused.add(sum.records, units);
            tracing::error!(account = %sum.account, meter = %sum.meter, quantity = sum.quantity, ?result, "usage was refused");
        }
    }
}

/// Whether the same batch would be refused for ever. A key that is not let in, or a server too old, can be
/// mended.
fn can_never_succeed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::KeyReused)
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
