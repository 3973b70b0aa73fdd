//! The loop that follows: all subscriptions once an interval, and at once those that a webhook or a report
//! asks for. One replica at a time.

use std::{collections::HashSet, sync::Arc};

use super::{
    Subscriptions, facts,
    follow::{ByCustomer, FollowError},
};
use crate::usage::{Millis, SECOND_MS};

/// The names of the lease and of the job in `leases`.
const LEASE: &str = "subscriptions";
const POLL_JOB: &str = "subscriptions poll";
const LEASE_MS: Millis = 60 * SECOND_MS;
/// How many pages of a hundred subscriptions one poll reads.
const MOST_PAGES: usize = 10_000;
/// How much of each kind one look takes.
const A_LOOK: u64 = 200;
/// How long work on an operation may stand still before another replica takes it up.
const ABANDONED_MS: Millis = 30 * SECOND_MS;

impl Subscriptions {
    /// Starts following, and takes up the changes that were left unfinished.
    pub(crate) fn start(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            while !this.shutdown.is_cancelled() {
                if let Err(error) = this.beat().await {
                    tracing::warn!(%error, "subscriptions could not be followed; tried again soon");
                }
                tokio::select! {
                    () = this.wake.notified() => {}
                    () = tokio::time::sleep(this.options.idle) => {}
                    () = this.shutdown.cancelled() => {}
                }
            }
            if let Err(error) = this.store.release_lease(LEASE, &this.replica).await {
                tracing::warn!(%error, "the lease was not given back; it runs out by itself");
            }
        });
    }

    async fn beat(self: &Arc<Self>) -> Result<(), FollowError> {
        let now = self.clock.now();
        let left = now.saturating_sub(ABANDONED_MS);
        for operation in self.store.abandoned_operations(left).await? {
            self.take_up(operation).await?;
        }
        if !self
            .store
            .hold_lease(LEASE, &self.replica, LEASE_MS)
            .await?
        {
            return Ok(());
        }
        self.store
            .end_due_subscriptions(self.options.slots, now)
            .await?;
        self.follow_webhooks().await?;
        self.follow_wanted().await?;
        let last = self.store.last_run_at(POLL_JOB, 0).await?;
        if now.saturating_sub(last) >= self.options.interval_ms
            && self.store.claim_job(POLL_JOB, last, now).await?
        {
            let polled = self.poll(now).await;
            if polled.is_err() {
                // What failed is due again at the next look, not after a whole interval.
                self.store.claim_job(POLL_JOB, now, last).await?;
            }
            polled?;
        }
        Ok(())
    }

    /// What a report needs to know before it is sent.
    async fn follow_wanted(&self) -> Result<(), FollowError> {
        for row in self.store.wanted_subscriptions(A_LOOK).await? {
            if let Err(error) = self.follow_one(&row).await {
                // It stays wanted; the others need not wait for it.
                tracing::warn!(subscription = %row.subscription, %error, "a subscription could not be looked at");
                continue;
            }
            self.store.satisfy(&row).await?;
            self.closed.notify_one();
            if self.shutdown.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    /// Everything: the living subscriptions by the hundred, then those that are no longer among them, then
    /// the invoices of periods that ended.
    async fn poll(&self, now: Millis) -> Result<(), FollowError> {
        let meters = self.meters().await?;
        let mut after: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let page = self.stripe.list_subscriptions(after.as_deref()).await?;
            let mut by_customer = ByCustomer::new();
            for found in &page.subscriptions {
                let facts = facts(found, &meters);
                by_customer
                    .entry(facts.customer.clone())
                    .or_default()
                    .push(facts);
            }
            let seen = self.follow_page(&by_customer).await?;
            self.store.touch_subscriptions(&seen, now).await?;
            self.hold().await?;
            match page.next {
                Some(next) if !self.shutdown.is_cancelled() => after = Some(next),
                _ => break,
            }
        }
        for row in self.store.unseen_subscriptions(now, A_LOOK).await? {
            if let Err(error) = self.follow_one(&row).await {
                tracing::warn!(subscription = %row.subscription, %error, "a subscription could not be looked at");
            }
            self.hold().await?;
        }
        let mut asked = HashSet::new();
        for period in self.store.uninvoiced_periods(now, A_LOOK).await? {
            let Some(subscription) = period.subscription else {
                continue;
            };
            if asked.insert((period.account_id.clone(), subscription.clone())) {
                let asked = self
                    .follow_invoices(&period.account_id, &subscription)
                    .await;
                if let Err(error) = asked {
                    tracing::warn!(%subscription, %error, "invoices could not be looked at");
                }
                self.hold().await?;
            }
        }
        Ok(())
    }

    async fn hold(&self) -> Result<(), FollowError> {
        self.store
            .hold_lease(LEASE, &self.replica, LEASE_MS)
            .await?;
        Ok(())
    }
}
