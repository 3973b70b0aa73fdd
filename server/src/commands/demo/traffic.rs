//! The demo's usage: single calls, a batch, a retried key, a quantity left out.

use std::fmt;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use usage_client::{Batch, Increment, UsageClient};

use super::{FREE, HOURS, LINKED, METERS};

/// Single calls an account, and how many are under way at once.
const CALLS: i64 = 1_000;
const IN_FLIGHT: usize = 64;
/// Increments in the batch.
const BATCHED: i64 = 500;

/// The hours that the demo's usage lies in.
#[derive(Clone, Copy)]
pub(super) struct Hours {
    /// The start of the hour in which the demo began.
    present: DateTime<Utc>,
    /// The end of the last hour that is looked at.
    end: DateTime<Utc>,
}

impl Hours {
    /// The hours up to a moment.
    pub(super) fn until(now: DateTime<Utc>) -> Self {
        let present = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now);
        Self {
            present,
            end: hour_after(present),
        }
    }

    /// The same hours, and all until a later moment.
    pub(super) fn and_until(self, now: DateTime<Utc>) -> Self {
        Self {
            end: Self::until(now).end,
            ..self
        }
    }

    /// The start of the hour so many hours ago.
    fn ago(self, hours: i64) -> DateTime<Utc> {
        self.present
            .checked_sub_signed(TimeDelta::hours(hours))
            .unwrap_or(self.present)
    }

    /// The start of the first hour.
    pub(super) fn start(self) -> DateTime<Utc> {
        self.ago(HOURS.saturating_sub(1))
    }

    /// The end of the last hour.
    pub(super) fn end(self) -> DateTime<Utc> {
        self.end
    }

    /// One of the hours, in turn.
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
    /// Sends everything through the shipped client.
    pub(super) async fn send(client: &UsageClient, hours: Hours) -> anyhow::Result<Self> {
        let accounts = [LINKED[0].0, LINKED[1].0, FREE];
        let calls = accounts
            .iter()
            .flat_map(|account| (0..CALLS).map(move |call| (*account, call)))
            .map(|(account, call)| {
                let increment = Increment::new(account).timestamp(hours.nth(call));
                // Every tenth leaves its quantity out, which counts one.
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
            .await
            .context("cannot count")?;
        let batched = send_batch(client, hours).await?;
        retry(client).await?;
        Ok(Self { single, batched })
    }
}

/// A batch of the second meter, sent twice as a caller would who lost the answer.
async fn send_batch(client: &UsageClient, hours: Hours) -> anyhow::Result<usize> {
    let increments = (0..BATCHED).map(|item| {
        let (account, _) = LINKED[usize::from(item.rem_euclid(2) == 1)];
        Increment::new(account)
            .meter(METERS[1].0)
            .quantity(item.saturating_add(1))
            .timestamp(hours.nth(item))
    });
    let batch = increments.collect::<Batch>().key("demo-batch");
    let first = client
        .increment_batch(batch.clone())
        .await
        .context("cannot count a batch")?;
    let again = client
        .increment_batch(batch)
        .await
        .context("cannot retry a batch")?;
    ensure!(
        !first.duplicate && again.duplicate,
        "the retried batch was not recognised"
    );
    Ok(first.results.len())
}

/// The same increment twice, as a caller would send it who lost the answer.
async fn retry(client: &UsageClient) -> anyhow::Result<()> {
    let increment = Increment::new(LINKED[0].0).quantity(42).key("demo-retry");
    let first = client
        .increment(increment.clone())
        .await
        .context("cannot count")?;
    let again = client.increment(increment).await.context("cannot retry")?;
    ensure!(
        !first.duplicate && again.duplicate,
        "the retried increment was not recognised"
    );
    Ok(())
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Counted {} increments in single calls ({IN_FLIGHT} in flight; every tenth leaves its quantity out),\n\
             {} in a batch that was sent twice, and one whose key was sent twice: each counts once.",
            self.single, self.batched
        )
    }
}
