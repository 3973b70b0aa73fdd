//! The demo's clocks: the service's and the fake Stripe's. They are stopped and always moved together.

use std::{convert::Infallible, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Control;
use tokio_util::sync::CancellationToken;

use super::error::{DemoError, Result};
use crate::clock::Clock;

/// How often a wait checks its condition, in real time. The clocks advance by a second each time.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Both clocks.
pub(super) struct Time {
    clock: Clock,
    control: Control,
}

impl Time {
    /// Stops both clocks at a time in milliseconds.
    pub(super) async fn stopped(control: Control, at_ms: i64) -> Result<Self> {
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
    pub(super) async fn move_to(&self, at: DateTime<Utc>) -> Result<()> {
        let millis = at.timestamp_millis();
        // The fake Stripe's clock first, because it rejects events from its future.
        self.control.set_clock(millis).await?;
        self.clock.set(millis);
        Ok(())
    }

    /// Advances the clocks until a call returns.
    pub(super) async fn until_answered<T>(
        &self,
        what: &str,
        call: impl Future<Output = T>,
    ) -> Result<T> {
        tokio::select! {
            answer = call => Ok(answer),
            failed = self.advance() => match failed? {},
            () = tokio::time::sleep(TIMEOUT) => Err(timed_out(what)),
        }
    }

    /// Advances the clocks until `poll` finds something.
    pub(super) async fn until<T, F>(&self, what: &str, poll: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let polls = async {
            loop {
                if let Some(found) = poll().await? {
                    return Ok(found);
                }
                self.tick(POLL_INTERVAL).await?;
            }
        };
        tokio::time::timeout(TIMEOUT, polls)
            .await
            .unwrap_or_else(|_| Err(timed_out(what)))
    }

    /// Moves the clocks to the real time, unless they are later.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let real = DateTime::from_timestamp_millis(Clock::system().now()).unwrap_or_default();
        if self.now() < real {
            self.move_to(real).await?;
        }
        Ok(())
    }

    /// Advances the clocks with the real time until the token is cancelled.
    pub(super) async fn run_on(&self, stop: &CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            tokio::select! {
                moved = self.tick(Duration::from_secs(1)) => moved?,
                () = stop.cancelled() => {}
            }
            self.catch_up().await?;
        }
        Ok(())
    }

    async fn advance(&self) -> Result<Infallible> {
        loop {
            self.tick(POLL_INTERVAL).await?;
        }
    }

    /// Waits in real time, then advances the clocks by a second.
    async fn tick(&self, wait: Duration) -> Result<()> {
        tokio::time::sleep(wait).await;
        let later = self.now().checked_add_signed(TimeDelta::seconds(1));
        let later = later.ok_or_else(|| DemoError::unexpected("the clock is at its end"))?;
        self.move_to(later).await
    }
}

fn timed_out(what: &str) -> DemoError {
    DemoError::TimedOut {
        what: what.to_owned(),
        timeout: TIMEOUT,
    }
}
