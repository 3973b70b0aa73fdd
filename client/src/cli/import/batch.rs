//! Lines on their way to the server, a batch at a time.

use super::lines::Row;
use crate::{Batch, Error, Increment, IncrementResult, Reason, UsageClient};
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What became of the lines so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) read: i64,
    pub(super) counted: i64,
    pub(super) units: i64,
    pub(super) duplicates: i64,
    pub(super) bad: u64,
}

impl Tally {
    pub(super) fn read(&mut self, lines: usize) {
        let lines = i64::try_from(lines).unwrap_or(i64::MAX);
        self.read = self.read.saturating_add(lines);
    }
}

pub(super) struct Sender<'a> {
    client: &'a UsageClient,
    name: String,
    /// How long a batch is sent again, beside the client's own attempts.
    patience: Duration,
}

impl<'a> Sender<'a> {
    pub(super) fn new(client: &'a UsageClient, name: &str, patience: Duration) -> Self {
        Self {
            client,
            name: name.to_owned(),
            patience,
        }
    }

    /// Sends lines by their numbers; answers those that the server refused, with its reasons.
    pub(super) async fn send(
        &self,
        lines: Vec<(u64, Row)>,
        tally: &mut Tally,
    ) -> Result<Vec<(u64, String)>, Error> {
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let batch: Batch = lines
            .iter()
            .map(|(number, row)| self.increment(*number, row))
            .collect();
        let outcome = self.patiently(&batch).await?;
        let mut refused = Vec::new();
        for ((number, row), result) in lines.into_iter().zip(outcome) {
            match result {
                IncrementResult::Counted => {
                    tally.counted = tally.counted.saturating_add(1);
                    tally.units = tally.units.saturating_add(row.quantity);
                }
                IncrementResult::Duplicate => {
                    tally.duplicates = tally.duplicates.saturating_add(1);
                }
                IncrementResult::Refused {
                    reason: Reason::KeyReused,
                    ..
                } => {
                    let name = &self.name;
                    let why = format!(
                        "line {number} of {name} was counted before and was different then; nothing was counted now"
                    );
                    refused.push((number, why));
                }
                IncrementResult::Refused { message, .. } => refused.push((number, message)),
                IncrementResult::Unrecognised(number_of_result) => {
                    let why =
                        format!("the server answered {number_of_result}, which is unknown here");
                    refused.push((number, why));
                }
            }
        }
        Ok(refused)
    }

    /// The lines carry keys of their own, so a batch can be sent as often as it takes.
    async fn patiently(&self, batch: &Batch) -> Result<Vec<IncrementResult>, Error> {
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
            tracing::warn!(%error, "lines are sent again");
            tokio::time::sleep(pause_now).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn increment(&self, number: u64, row: &Row) -> Increment {
        let increment = Increment::new(&row.account)
            .quantity(row.quantity)
            .timestamp(row.timestamp)
            .key(format!("import/{}/{number}", self.name));
        match &row.meter {
            Some(meter) => increment.meter(meter),
            None => increment,
        }
    }
}
