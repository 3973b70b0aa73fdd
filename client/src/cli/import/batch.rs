//! Sends lines in batches.

use super::row::Row;
use crate::{Batch, Error, Increment, IncrementResult, UsageClient};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The results so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) counted: i64,
    pub(super) units: i64,
    pub(super) duplicates: i64,
    /// The lines that the server rejected, and why. A continued import reports them again.
    pub(super) refused: Vec<(u64, String)>,
}

/// A line to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) row: Row,
}

pub(super) struct Sender<'a> {
    client: &'a UsageClient,
    /// How long a batch is retried, after the client's own retries.
    retry_for: Duration,
}

impl<'a> Sender<'a> {
    pub(super) fn new(client: &'a UsageClient, retry_for: Duration) -> Self {
        Self { client, retry_for }
    }

    /// Sends lines and adds their results; calls `on_retry` with the error before each retry.
    pub(super) async fn send(
        &self,
        lines: Vec<Outgoing>,
        tally: &mut Tally,
        on_retry: impl Fn(&Error),
    ) -> Result<(), Error> {
        if lines.is_empty() {
            return Ok(());
        }
        let batch: Batch = lines.iter().map(increment).collect();
        let outcome = self.send_with_retry(&batch, on_retry).await?;
        for (Outgoing { number, row, .. }, result) in lines.into_iter().zip(outcome) {
            match result {
                IncrementResult::Counted => {
                    tally.counted = tally.counted.saturating_add(1);
                    tally.units = tally.units.saturating_add(row.quantity);
                }
                IncrementResult::Duplicate => {
                    tally.duplicates = tally.duplicates.saturating_add(1);
                }
                IncrementResult::Refused { message, .. } => tally.refused.push((number, message)),
                IncrementResult::Unrecognised(result) => {
                    let why =
                        format!("the server returned the unknown result {result}; update usagectl");
                    tally.refused.push((number, why));
                }
            }
        }
        Ok(())
    }

    /// Each line has a key, so a batch can be sent again.
    async fn send_with_retry(
        &self,
        batch: &Batch,
        on_retry: impl Fn(&Error),
    ) -> Result<Vec<IncrementResult>, Error> {
        let started = Instant::now();
        let mut backoff = MIN_BACKOFF;
        loop {
            let error = match self.client.increment_batch(batch.clone()).await {
                Ok(outcome) => return Ok(outcome.results),
                Err(error) => error,
            };
            let delay = backoff.max(error.retry_after().unwrap_or_default());
            let is_over = started.elapsed().saturating_add(delay) > self.retry_for;
            if is_over || !error.is_retryable() {
                return Err(error);
            }
            on_retry(&error);
            tokio::time::sleep(delay).await;
            backoff = backoff.saturating_mul(2).min(MAX_BACKOFF);
        }
    }
}

fn increment(line: &Outgoing) -> Increment {
    let Outgoing { key, row, .. } = line;
    let increment = Increment::new(&row.account)
        .quantity(row.quantity)
        .timestamp(row.timestamp)
        .key(key);
    match &row.meter {
        Some(meter) => increment.meter(meter),
        None => increment,
    }
}
