//! The demo's time: the service's clock and the one of the stand-in for Stripe, which stand still until they are moved
//! together.

use std::{convert::Infallible, time::Duration};

use crate::clock::Clock;
use anyhow::{Context as _, bail};
use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Control;
use tokio_util::sync::CancellationToken;

/// How often is looked whether something has come true; meanwhile a second passes each time.
const TICK_INTERVAL: Duration = Duration::from_millis(200);
/// No wait takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Both clocks.
pub(super) struct Time {
    clock: Clock,
    control: Control,
}

impl Time {
    /// Stops both clocks at a moment, in milliseconds.
    pub(super) async fn stopped(control: Control, at_ms: i64) -> anyhow::Result<Self> {
        let clock = Clock::manual(at_ms);
        let time = Self { clock, control };
        time.move_to(time.now()).await?;
        Ok(time)
    }

    /// The clock that the service reads.
    pub(super) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.clock.now()).unwrap_or_default()
    }

    /// Moves both clocks.
    pub(super) async fn move_to(&self, at: DateTime<Utc>) -> anyhow::Result<()> {
        let millis = at.timestamp_millis();
        // Stripe's comes first: what the service sends must not be from its future.
        self.control
            .set_clock(millis)
            .await
            .context("cannot move the clock of the stand-in")?;
        self.clock.set(millis);
        Ok(())
    }

    /// Lets seconds pass until a call is answered.
    pub(super) async fn until_answered<T>(
        &self,
        what: &str,
        call: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            answer = call => Ok(answer),
            stopped = self.pass() => match stopped? {},
            () = tokio::time::sleep(TIMEOUT) => bail!("waited {TIMEOUT:?} in vain for {what}"),
        }
    }

    /// Lets seconds pass until a look finds something.
    pub(super) async fn until<T, F>(&self, what: &str, look: impl Fn() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<Option<T>>>,
    {
        let looks = async {
            loop {
                if let Some(found) = look().await? {
                    return Ok(found);
                }
                self.beat(TICK_INTERVAL).await?;
            }
        };
        tokio::time::timeout(TIMEOUT, looks)
            .await
            .with_context(|| format!("waited {TIMEOUT:?} in vain for {what}"))?
    }

    /// Lets the clocks run as fast as real ones, for whoever plays with what was left running.
    pub(super) async fn run_on(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            tokio::select! {
                moved = self.beat(Duration::from_secs(1)) => moved?,
                () = stop.cancelled() => {}
            }
        }
        Ok(())
    }

    async fn pass(&self) -> anyhow::Result<Infallible> {
        loop {
            self.beat(TICK_INTERVAL).await?;
        }
    }

    /// A pause, after which a second has passed.
    async fn beat(&self, pause: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(pause).await;
        let later = self.now().checked_add_signed(TimeDelta::seconds(1));
        self.move_to(later.context("the clock is at its end")?)
            .await
    }
}
