//! The demo's usage: single calls, a batch, retried keys, an omitted quantity.

use std::fmt;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use usage_client::{Batch, Increment, UsageClient};

use super::{
    accounts::{FREE, HOURS, LINKED, METERS},
    error::{DemoError, Result},
};

/// Single calls for each account.
const CALLS: i64 = 1_000;
/// Concurrent calls.
const IN_FLIGHT: usize = 64;
/// Increments in the batch.
const BATCH_LEN: i64 = 500;

/// The hours of the demo's usage.
#[derive(Clone, Copy)]
pub(super) struct Hours {
    /// The start of the hour in which the demo started.
    current: DateTime<Utc>,
    /// The end of the last hour.
    end: DateTime<Utc>,
}

impl Hours {
    /// The hours up to a time.
    pub(super) fn until(now: DateTime<Utc>) -> Self {
        let current = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now);
        Self {
            current,
            end: hour_after(current),
        }
    }

    /// The same hours, extended to a later time.
    pub(super) fn extended_to(self, now: DateTime<Utc>) -> Self {
        Self {
            end: Self::until(now).end,
            ..self
        }
    }

    /// The start of the hour `hours` ago.
    fn ago(self, hours: i64) -> DateTime<Utc> {
        self.current
            .checked_sub_signed(TimeDelta::hours(hours))
            .unwrap_or(self.current)
    }

    /// The start of the first hour.
    pub(super) fn start(self) -> DateTime<Utc> {
        self.ago(HOURS.saturating_sub(1))
    }

    /// The end of the last hour.
    pub(super) fn end(self) -> DateTime<Utc> {
        self.end
    }

    /// The start of one of the hours, in rotation.
    fn nth(self, number: i64) -> DateTime<Utc> {
        self.ago(number.rem_euclid(HOURS))
    }
}

fn hour_after(start: DateTime<Utc>) -> DateTime<Utc> {
    start
        .checked_add_signed(TimeDelta::hours(1))
        .unwrap_or(start)
}

/// What was sent.
pub(super) struct Traffic {
    single: i64,
    batched: usize,
}

impl Traffic {
    /// Sends all usage with the client.
    pub(super) async fn send(client: &UsageClient, hours: Hours) -> Result<Self> {
        let accounts = [LINKED[0].0, LINKED[1].0, FREE];
        let calls = accounts
            .iter()
            .flat_map(|account| (0..CALLS).map(move |call| (*account, call)))
            .map(|(account, call)| {
                let increment = Increment::new(account).timestamp(hours.nth(call));
                // Every tenth call omits its quantity, which counts as one.
                let increment = match call.rem_euclid(10) {
                    0 => increment,
                    quantity => increment.quantity(quantity),
                };
                let client = client.clone();
                async move { client.increment(increment).await }
            });
        let single = stream::iter(calls)
            .buffer_unordered(IN_FLIGHT)
            .try_fold(0_i64, |sent, _| async move { Ok(sent.saturating_add(1)) })
            .await?;
        let batched = send_batch(client, hours).await?;
        retry(client).await?;
        Ok(Self { single, batched })
    }
}

/// Sends a batch of the second meter twice, as after a lost answer.
async fn send_batch(client: &UsageClient, hours: Hours) -> Result<usize> {
    let increments = (0..BATCH_LEN).map(|item| {
        let (account, _) = LINKED[usize::from(item.rem_euclid(2) == 1)];
        Increment::new(account)
            .meter(METERS[1].0)
            .quantity(item.saturating_add(1))
            .timestamp(hours.nth(item))
    });
    let batch = increments.collect::<Batch>().key("demo-batch");
    let first = client.increment_batch(batch.clone()).await?;
    let again = client.increment_batch(batch).await?;
    check_repeat("batch", first.duplicate, again.duplicate)?;
    Ok(first.results.len())
}

/// Sends an increment twice, as after a lost answer.
async fn retry(client: &UsageClient) -> Result<()> {
    let increment = Increment::new(LINKED[0].0).quantity(42).key("demo-retry");
    let first = client.increment(increment.clone()).await?;
    let again = client.increment(increment).await?;
    check_repeat("increment", first.duplicate, again.duplicate)
}

/// The first call must count, and its repetition must not.
fn check_repeat(what: &str, first_is_duplicate: bool, repeat_is_duplicate: bool) -> Result<()> {
    if !first_is_duplicate && repeat_is_duplicate {
        return Ok(());
    }
    Err(DemoError::unexpected(format!(
        "the repeated {what} was not recognised"
    )))
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Counted {} increments in single calls ({IN_FLIGHT} at a time; every tenth omits its quantity), {} in\n\
             a batch that was sent twice, and one whose key was sent twice: each counts once.",
            self.single, self.batched
        )
    }
}
