//! The job for scheduled cancellations: ends the billing of subscriptions whose scheduled end has passed, without
//! waiting for Stripe.

use std::time::Duration;

use super::SubscriptionSync;
use crate::{
    domain::Millis,
    error::Result,
    workers::{
        job::{Job, Next, Spec, Turn},
        wake::Wake,
    },
};

/// Ends the billing of subscriptions at the time for which their cancellation was scheduled.
pub(crate) struct ScheduledCancels {
    sync: SubscriptionSync,
    interval: Duration,
}

impl ScheduledCancels {
    pub(crate) fn new(sync: SubscriptionSync, interval: Duration) -> Self {
        Self { sync, interval }
    }
}

impl Job for ScheduledCancels {
    fn spec(&self) -> Spec {
        Spec {
            name: "scheduled cancels",
            interval: self.interval,
            turn: Turn::OneReplica,
            wake: Wake::default(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let (store, slots) = (&self.sync.store, self.sync.slots);
        let ended = store.end_due_subscriptions(slots, now).await?;
        if ended > 0 {
            tracing::info!(subscriptions = ended, "scheduled cancels took effect");
        }
        Ok(Next::Wait)
    }
}
