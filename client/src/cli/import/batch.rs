//! Sends lines in batches.

use super::{
    bad::{Bad, Cause},
    row::Row,
};
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
    /// The lines that the server rejected. A continued import sends them again.
    pub(super) refused: Vec<u64>,
}

/// A line to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) row: Row,
    /// The line as it is in the input.
    pub(super) raw: Vec<u8>,
}

/// The result of a line.
#[derive(Debug)]
pub(super) enum LineResult {
    Counted,
    Duplicate,
    Bad(Bad),
}

pub(super) struct Sender<'a> {
    client: &'a UsageClient,
    /// How long a batch is retried, after the client's own retries.
    retry_for: Duration,
    /// Whether nothing is counted.
    is_dry_run: bool,
}

impl<'a> Sender<'a> {
    pub(super) fn new(client: &'a UsageClient, retry_for: Duration, is_dry_run: bool) -> Self {
        Self {
            client,
            retry_for,
            is_dry_run,
        }
    }

    /// Sends lines, and returns the result of each; calls `on_retry` with the error before each retry.
    pub(super) async fn send(
        &self,
        lines: &[Outgoing],
        on_retry: impl Fn(&Error),
    ) -> Result<Vec<LineResult>, Error> {
        let mut batch: Batch = lines.iter().map(increment).collect();
        if self.is_dry_run {
            batch = batch.dry_run().without_key();
        } else {
            // All retries have one key: the results are the same if an earlier attempt was counted.
            batch.ensure_key();
        }
        let results = self.send_with_retry(&batch, on_retry).await?;
        let results = results.into_iter().map(|result| match result {
            IncrementResult::Counted => LineResult::Counted,
            IncrementResult::Duplicate => LineResult::Duplicate,
            IncrementResult::Refused {
                reason, message, ..
            } => LineResult::Bad(Bad::new(reason.into(), message)),
            IncrementResult::Unrecognised(result) => {
                let why =
                    format!("the server returned the unknown result {result}; update usagectl");
                LineResult::Bad(Bad::new(Cause::Other(result.to_string()), why))
            }
        });
        Ok(results.collect())
    }

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
