//! The loop that follows: all subscriptions once an interval, and at once those that a webhook or a report
//! asks for. One replica at a time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    MOST_UNANSWERED, Subscriptions, snapshot,
    sync::{ByCustomer, SyncError},
};
use crate::domain::{Millis, SECOND_MS};

/// The names of the lease and of the job in `leases`.
const LEASE: &str = "subscriptions";
const POLL_JOB: &str = "subscriptions poll";
const LEASE_MS: Millis = 60 * SECOND_MS;
/// How many pages of a hundred subscriptions one poll reads.
const MOST_PAGES: usize = 10_000;
/// How much of each kind one look takes.
const BATCH_SIZE: u64 = 200;
/// The longest pause between looks that fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How soon what Stripe did not answer for is asked for again.
const AGAIN_MS: Millis = 30 * SECOND_MS;
/// How long work on an change may stand still before another replica takes it up.
const ABANDONED_MS: Millis = 30 * SECOND_MS;

impl Subscriptions {
    /// Starts following, and takes up the changes that were left unfinished.
    pub(crate) fn start(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut pause = this.options.idle;
            while !this.shutdown.is_cancelled() {
                if let Err(error) = this.beat().await {
                    tracing::warn!(%error, "subscriptions could not be synced; tried again soon");
                    // What fails every time is not asked for all the time.
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                } else {
                    pause = this.options.idle;
                }
                tokio::select! {
                    () = this.wake.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                    () = this.shutdown.cancelled() => {}
                }
            }
            if let Err(error) = this.store.release_lease(LEASE, &this.replica).await {
                tracing::warn!(%error, "the lease was not given back; it runs out by itself");
            }
        });
    }

    async fn beat(self: &Arc<Self>) -> Result<(), SyncError> {
        let now = self.clock.now();
        let left = now.saturating_sub(ABANDONED_MS);
        for change in self.store.abandoned_changes(left).await? {
            self.take_up(change).await?;
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
        // What goes wrong with one of them is no reason to leave the others.
        let synced = self.sync_for_webhooks().await;
        let asked = self.sync_requested().await;
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
        synced.and(asked)
    }

    /// What a report needs to know before it is sent.
    async fn sync_requested(&self) -> Result<(), SyncError> {
        let (now, mut unanswered) = (self.clock.now(), 0_u32);
        for row in self.store.requested_syncs(now, BATCH_SIZE).await? {
            if let Err(error) = self.sync_one(&row).await {
                // It stays wanted; the others need not wait for it.
                tracing::warn!(subscription = %row.subscription, %error, "a subscription could not be looked at");
                let again = self.clock.now().saturating_add(AGAIN_MS);
                self.store.delay_sync(&row, again).await?;
                unanswered = unanswered.saturating_add(1);
                if unanswered >= MOST_UNANSWERED {
                    break;
                }
                continue;
            }
            unanswered = 0;
            self.store.clear_sync_request(&row).await?;
            self.closed.notify_one();
            if self.shutdown.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    /// Everything: the live subscriptions by the hundred, then those that are no longer among them, then
    /// the invoices of periods that ended. A page that Stripe does not answer for leaves the rest to single
    /// questions.
    async fn poll(&self, now: Millis) -> Result<(), SyncError> {
        let listed = self.poll_lists(now).await;
        if let Err(SyncError::Stripe(failure)) = &listed {
            tracing::warn!(
                why = failure.message(),
                "the subscriptions could not be listed"
            );
        }
        self.poll_unseen(now).await?;
        self.poll_invoices(now).await?;
        listed
    }

    async fn poll_lists(&self, now: Millis) -> Result<(), SyncError> {
        let meters = self.meters().await?;
        let mut after: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let page = self.stripe.list_subscriptions(after.as_deref()).await?;
            let mut by_customer = ByCustomer::new();
            for found in &page.subscriptions {
                let snapshot = snapshot(found, &meters);
                by_customer
                    .entry(snapshot.customer.clone())
                    .or_default()
                    .push(snapshot);
            }
            let seen = self.sync_page(&by_customer).await?;
            self.store.touch_subscriptions(&seen, now).await?;
            self.hold().await?;
            match page.next {
                Some(next) if !self.shutdown.is_cancelled() => after = Some(next),
                _ => break,
            }
        }
        Ok(())
    }

    /// Those that are thought to live and were in no list.
    async fn poll_unseen(&self, now: Millis) -> Result<(), SyncError> {
        let (mut after, mut unanswered) = (None, 0_u32);
        loop {
            let page = self
                .store
                .unseen_subscriptions(now, after.as_ref(), BATCH_SIZE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((last.account_id.clone(), last.subscription.clone()));
            for row in page {
                unanswered = match self.sync_one(&row).await {
                    Ok(()) => 0,
                    Err(error) => {
                        tracing::warn!(subscription = %row.subscription, %error, "a subscription could not be looked at");
                        unanswered.saturating_add(1)
                    }
                };
                self.hold().await?;
                if unanswered >= MOST_UNANSWERED || self.shutdown.is_cancelled() {
                    return Ok(());
                }
            }
        }
    }

    async fn poll_invoices(&self, now: Millis) -> Result<(), SyncError> {
        let (mut after, mut unanswered) = (None, 0_u32);
        let mut asked = HashSet::new();
        loop {
            let page = self
                .store
                .uninvoiced_periods(now, after.as_ref(), BATCH_SIZE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((
                last.account_id.clone(),
                last.item.clone(),
                last.period_start,
            ));
            for period in page {
                let Some(subscription) = period.subscription else {
                    continue;
                };
                if !asked.insert((period.account_id.clone(), subscription.clone())) {
                    continue;
                }
                let answer = self.sync_invoices(&period.account_id, &subscription).await;
                unanswered = match answer {
                    Ok(()) => 0,
                    Err(error) => {
                        tracing::warn!(%subscription, %error, "invoices could not be looked at");
                        unanswered.saturating_add(1)
                    }
                };
                self.hold().await?;
                if unanswered >= MOST_UNANSWERED || self.shutdown.is_cancelled() {
                    return Ok(());
                }
            }
        }
    }

    async fn hold(&self) -> Result<(), SyncError> {
        self.store
            .hold_lease(LEASE, &self.replica, LEASE_MS)
            .await?;
        Ok(())
    }
}
