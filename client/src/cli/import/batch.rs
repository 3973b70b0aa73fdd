//! Lines on their way to the server, a batch at a time.

use super::row::Row;
use crate::{Batch, Error, Increment, IncrementResult, UsageClient};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What became of the lines so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) counted: i64,
    pub(super) units: i64,
    pub(super) duplicates: i64,
    /// What the server refused: a file that is read on says it again.
    pub(super) refused: Vec<(u64, String)>,
}

/// A line that is to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) row: Row,
}

pub(super) struct Sender<'a> {
    client: &'a UsageClient,
    /// How long a batch is sent again, beside the client's own attempts.
    patience: Duration,
}

impl<'a> Sender<'a> {
    pub(super) fn new(client: &'a UsageClient, patience: Duration) -> Self {
        Self { client, patience }
    }

    /// Sends lines and adds what became of them; `waits` is told why it takes longer.
    pub(super) async fn send(
        &self,
        lines: Vec<Outgoing>,
        tally: &mut Tally,
        waits: impl Fn(&Error),
    ) -> Result<(), Error> {
        if lines.is_empty() {
            return Ok(());
        }
        let batch: Batch = lines.iter().map(increment).collect();
        let outcome = self.patiently(&batch, waits).await?;
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
                    let why = format!("the server answered {result}, which is unknown here");
                    tally.refused.push((number, why));
                }
            }
        }
        Ok(())
    }

    /// The lines carry keys of their own, so a batch can be sent as often as it takes.
    async fn patiently(
        &self,
        batch: &Batch,
        waits: impl Fn(&Error),
    ) -> Result<Vec<IncrementResult>, Error> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.client.increment_batch(batch.clone()).await {
                Ok(outcome) => return Ok(outcome.results),
                Err(error) => error,
            };
            let pause_now = pause.max(error.retry_after().unwrap_or_default());
            let over = begun.elapsed().saturating_add(pause_now) > self.patience;
            if over || !error.is_retryable() {
                return Err(error);
            }
            waits(&error);
            tokio::time::sleep(pause_now).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
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
