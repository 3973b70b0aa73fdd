//! Sending in the background, until each batch is answered for good.

use super::{Shared, batches::Taken};
use crate::{Batch, Error, ErrorKind, Increment, IncrementResult};
use chrono::DateTime;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while sending.len() < concurrency
            && let Some(batch) = shared.batches.next()
        {
            sending.spawn(send(Arc::clone(&shared), batch));
        }
        let is_last = alive.is_cancelled();
        if is_last && sending.is_empty() {
            shared.take();
            if shared.sums.held() == 0 {
                return;
            }
            continue;
        }
        tokio::select! {
            _ = beat.tick(), if !is_last => {
                shared.take();
            }
            () = shared.wake.notified() => {}
            Some(_) = sending.join_next(), if !sending.is_empty() => {}
            () = alive.cancelled(), if !is_last => {
                shared.take();
            }
        }
    }
}

/// Sends a batch until the server has answered for good.
async fn send(shared: Arc<Shared>, batch: Arc<Taken>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match shared.client.increment_batch(wire(&batch)).await {
            Ok(outcome) => {
                for (sum, result) in batch.sums.iter().zip(&outcome.results) {
                    let units = u64::try_from(sum.quantity).unwrap_or(0);
                    if let IncrementResult::Counted | IncrementResult::Duplicate = result {
                        shared.counted.add(sum.records, units);
                    } else {
                        shared.refused.add(sum.records, units);
                        tracing::error!(account = %sum.account, meter = %sum.meter, quantity = sum.quantity, ?result, "usage was refused");
                    }
                }
                break;
            }
            Err(error) if can_never_succeed(&error) => {
                tracing::error!(%error, key = %batch.key, "a batch of usage was refused");
                for sum in &batch.sums {
                    let units = u64::try_from(sum.quantity).unwrap_or(0);
                    shared.refused.add(sum.records, units);
                }
                break;
            }
            Err(error) => {
                tracing::warn!(%error, key = %batch.key, "a batch of usage was not counted; it is sent again");
                let asked = error.retry_after().unwrap_or_default();
                tokio::time::sleep(pause.max(asked)).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }
    shared.sums.release(batch.sums.len());
    shared.batches.finish(&batch);
}

/// Whether the same batch would be refused for ever. A key that is not let in, or a server too old, can be
/// mended.
fn can_never_succeed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::KeyReused)
}

fn wire(batch: &Taken) -> Batch {
    let sums = batch.sums.iter().map(|sum| {
        let at = DateTime::from_timestamp(sum.second, 0).unwrap_or_default();
        Increment::new(&*sum.account)
            .meter(&*sum.meter)
            .quantity(sum.quantity)
            .timestamp(at)
    });
    sums.collect::<Batch>().key(batch.key.to_string())
}
