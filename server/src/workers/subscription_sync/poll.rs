//! The poll job: syncs all subscriptions once per interval, so that the sync does not depend on webhooks.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    SYNCS_AT_ONCE, SubscriptionSync, snapshot,
    sync::{ByCustomer, SyncError},
};
use crate::{
    domain::{Millis, account_id::AccountId, subscription::SyncedSubscription},
    error::Result,
    workers::{
        job::{FirstRun, Job, Next, Spec, Turn},
        wake::Wake,
    },
};

/// The maximum number of pages, of a hundred subscriptions each, that one poll reads.
const MAX_PAGES: usize = 10_000;
/// The number of rows that one query reads.
const BATCH_SIZE: u64 = 200;
/// The number of consecutive syncs without a response from Stripe after which a poll gives up.
const MAX_FAILURES: u32 = 5;

/// Syncs all subscriptions.
pub(crate) struct SubscriptionPoll {
    sync: SubscriptionSync,
    /// How often all subscriptions are synced.
    poll_interval_ms: Millis,
    interval: Duration,
    shutdown: CancellationToken,
}

/// The results of the single syncs of a poll.
#[derive(Debug, Default)]
struct Outcomes {
    failures_in_a_row: AtomicU32,
    unstored: AtomicU32,
}

impl Outcomes {
    fn add(&self, of: &str, result: Result<(), SyncError>) {
        match result {
            Ok(()) => self.failures_in_a_row.store(0, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(of, %error, "a subscription could not be synced");
                let counter = match error {
                    SyncError::Stripe(_) => &self.failures_in_a_row,
                    SyncError::Store(_) => &self.unstored,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Forgets earlier failures: other requests may succeed.
    fn begin_anew(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
    }

    fn should_give_up(&self) -> bool {
        self.failures_in_a_row.load(Ordering::Relaxed) >= MAX_FAILURES
    }
}

impl SubscriptionPoll {
    pub(crate) fn new(
        sync: SubscriptionSync,
        poll_interval_ms: Millis,
        interval: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            sync,
            poll_interval_ms,
            interval,
            shutdown,
        }
    }

    /// Syncs the live subscriptions, a hundred per request. Those that fail are read by single requests later.
    async fn poll_lists(&self, now: Millis, outcomes: &Outcomes) -> Result<(), SyncError> {
        let meters = self.sync.meters().await?;
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self
                .sync
                .stripe
                .list_subscriptions(after.as_deref())
                .await?;
            let mut by_customer = ByCustomer::new();
            for found in &page.subscriptions {
                let snapshot = snapshot(found, &meters);
                by_customer
                    .entry(snapshot.customer.clone())
                    .or_default()
                    .push(snapshot);
            }
            let mut up_to_date = Vec::new();
            for (account_id, synced) in self.sync.sync_page(&by_customer).await? {
                let synced = synced.map(|subscription| up_to_date.extend(subscription));
                outcomes.add(account_id.as_str(), synced);
            }
            let store = &self.sync.store;
            store.touch_subscriptions(&up_to_date, now).await?;
            match page.next {
                Some(next) if !self.should_stop(outcomes) => after = Some(next),
                _ => break,
            }
        }
        Ok(())
    }

    /// Syncs subscriptions that are stored as live and were in no list.
    async fn poll_unlisted(&self, now: Millis, outcomes: &Outcomes) -> Result<()> {
        let mut after = None;
        loop {
            let page = self
                .sync
                .store
                .unseen_subscriptions(now, after.as_ref(), BATCH_SIZE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            let syncing: Vec<_> = page
                .into_iter()
                .map(|row| self.sync_unlisted(row, outcomes))
                .collect();
            at_once(syncing).await;
            if self.should_stop(outcomes) {
                return Ok(());
            }
        }
    }

    /// Reads the invoices of periods that have ended.
    async fn poll_invoices(&self, now: Millis, outcomes: &Outcomes) -> Result<()> {
        let mut after = None;
        let mut polled = HashSet::new();
        loop {
            let page = self
                .sync
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
            let subscriptions: Vec<(AccountId, String)> = page
                .into_iter()
                .filter_map(|period| Some((period.account_id, period.subscription?)))
                .filter(|key| polled.insert(key.clone()))
                .collect();
            let syncing: Vec<_> = subscriptions
                .into_iter()
                .map(|key| self.sync_invoices(key, outcomes))
                .collect();
            at_once(syncing).await;
            if self.should_stop(outcomes) {
                return Ok(());
            }
        }
    }

    async fn sync_unlisted(&self, row: SyncedSubscription, outcomes: &Outcomes) {
        if !self.should_stop(outcomes) {
            let result = self.sync.sync_one(&row).await;
            outcomes.add(&row.subscription, result);
        }
    }

    async fn sync_invoices(
        &self,
        (account_id, subscription): (AccountId, String),
        outcomes: &Outcomes,
    ) {
        if !self.should_stop(outcomes) {
            let result = self.sync.sync_invoices(&account_id, &subscription).await;
            outcomes.add(&subscription, result);
        }
    }

    fn should_stop(&self, outcomes: &Outcomes) -> bool {
        outcomes.should_give_up() || self.shutdown.is_cancelled()
    }
}

/// Makes several syncs concurrently.
async fn at_once(syncing: Vec<impl Future<Output = ()>>) {
    stream::iter(syncing)
        .buffer_unordered(SYNCS_AT_ONCE)
        .collect::<Vec<()>>()
        .await;
}

impl Job for SubscriptionPoll {
    fn spec(&self) -> Spec {
        Spec {
            name: "subscriptions poll",
            interval: self.interval,
            turn: Turn::Recorded {
                first: FirstRun::AtOnce,
            },
            wake: Wake::default(),
        }
    }

    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        now.saturating_sub(last_run_at) >= self.poll_interval_ms
    }

    /// If a list fails, its subscriptions are read by single requests. If a list failed or a result could not be
    /// stored, the poll runs again soon.
    async fn run(&mut self, now: Millis) -> Result<Next> {
        let outcomes = Outcomes::default();
        let listed = self.poll_lists(now, &outcomes).await;
        outcomes.begin_anew();
        self.poll_unlisted(now, &outcomes).await?;
        self.poll_invoices(now, &outcomes).await?;
        listed?;
        if outcomes.unstored.into_inner() > 0 {
            return Err(crate::error::Error::Internal(
                "some subscriptions could not be stored".into(),
            ));
        }
        Ok(Next::Wait)
    }
}
