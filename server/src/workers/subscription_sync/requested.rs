//! The job for requested syncs: syncs subscriptions that have to be current before a report is sent.

use std::{sync::Arc, time::Duration};

use super::{SYNCS_AT_ONCE, SubscriptionSync, sync::SyncError};
use crate::{
    domain::{Millis, SECOND_MS, account_id::AccountId, subscription::SyncedSubscription},
    error::Result,
    workers::{
        job::{Job, Next, Spec, Turn},
        retries::Retries,
        tasks::Tasks,
        wake::{Signals, Wake},
    },
};

/// The number of requests that one query reads.
const BATCH_SIZE: u64 = 200;
/// The wait before a sync is repeated that got no response from Stripe.
const RETRY_INTERVAL_MS: Millis = 30 * SECOND_MS;

/// An account and its subscription.
type Key = (AccountId, String);

/// Makes requested syncs.
pub(crate) struct RequestedSyncs {
    sync: SubscriptionSync,
    signals: Arc<Signals>,
    interval: Duration,
    wake: Wake,
    tasks: Tasks<Key, Result<()>>,
    /// Syncs whose result could not be stored.
    retries: Retries<Key>,
}

impl RequestedSyncs {
    pub(crate) fn new(sync: SubscriptionSync, signals: Arc<Signals>, interval: Duration) -> Self {
        let wake = Wake::default();
        Self {
            sync,
            signals,
            interval,
            tasks: Tasks::new(SYNCS_AT_ONCE, wake.clone()),
            retries: Retries::new(interval),
            wake,
        }
    }

    fn take_ended(&mut self) {
        for (key, result) in self.tasks.ended() {
            match result {
                Ok(()) => self.retries.succeeded(&key),
                Err(error) => {
                    tracing::warn!(account = %key.0, subscription = %key.1, %error, "a requested sync could not be stored; it is repeated");
                    self.retries.failed(key);
                }
            }
        }
    }
}

impl Job for RequestedSyncs {
    fn spec(&self) -> Spec {
        Spec {
            name: "requested syncs",
            interval: self.interval,
            turn: Turn::OneReplica,
            wake: self.wake.clone(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        self.take_ended();
        let rows = self.sync.store.requested_syncs(now, BATCH_SIZE).await?;
        for row in rows {
            let key = (row.account_id.clone(), row.subscription.clone());
            if self.retries.may_start(&key) && !self.tasks.has(&key) && self.tasks.free() > 0 {
                let (sync, signals) = (self.sync.clone(), Arc::clone(&self.signals));
                self.tasks
                    .start(key, async move { answer(&sync, &signals, &row).await });
            }
        }
        Ok(Next::Wait)
    }

    async fn finish(&mut self) {
        self.tasks.finish().await;
    }
}

/// Syncs a subscription and clears its request, or delays it if Stripe does not respond.
async fn answer(
    sync: &SubscriptionSync,
    signals: &Signals,
    row: &SyncedSubscription,
) -> Result<()> {
    match sync.sync_one(row).await {
        Ok(()) => {
            sync.store.clear_sync_request(row).await?;
            signals.send.wake();
            Ok(())
        }
        Err(SyncError::Store(error)) => Err(error),
        Err(error @ SyncError::Stripe(_)) => {
            tracing::warn!(subscription = %row.subscription, %error, "a requested sync failed at Stripe; it is repeated");
            let until = sync.store.now().await?.saturating_add(RETRY_INTERVAL_MS);
            sync.store.delay_sync(row, until).await
        }
    }
}
