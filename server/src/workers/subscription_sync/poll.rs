//! The poll job: syncs all subscriptions once per interval, so that the sync does not depend on webhooks.

use std::{
    collections::HashSet,
    future::ready,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    SYNCS_AT_ONCE, SubscriptionSync,
    listed::{ByCustomer, CustomerPage, Listed, entry},
    snapshot,
    sync::SyncError,
};
use crate::{
    domain::{
        Millis, account_id::AccountId, billing_period::BillingPeriod,
        subscription::SyncedSubscription,
    },
    error::Result,
    store::watched_customers::WatchedCustomer,
    stripe::Failure,
    workers::{
        job::{FirstRun, Job, Next, Spec, Turn},
        wake::Wake,
    },
};

/// The maximum number of pages, of a hundred subscriptions each, that one poll reads.
const MAX_PAGES: usize = 10_000;
/// The number of customers on lists that are synced at once.
const CUSTOMERS_AT_ONCE: usize = 100;
/// The number of rows that one query reads.
const BATCH_SIZE: u64 = 200;
/// The number of consecutive syncs without a response from Stripe after which a poll pauses. It continues behind them: it
/// may be that Stripe responds for others.
const MAX_FAILURES: u32 = 5;
/// The pause.
const PAUSE: Duration = Duration::from_secs(1);

/// Syncs all subscriptions.
pub(crate) struct SubscriptionPoll {
    sync: SubscriptionSync,
    /// How often all subscriptions are synced.
    poll_interval_ms: Millis,
    interval: Duration,
    shutdown: CancellationToken,
    /// Where the next run continues. Another replica begins a new poll.
    paused: Option<Paused>,
}

/// A poll that paused.
#[derive(Clone, Debug)]
struct Paused {
    /// When it began, if its lists were read. Else the next run reads them first.
    listed_at: Option<Millis>,
    place: Place,
    /// Whether a result could not be stored.
    has_unstored: bool,
}

/// The place of a poll: what it reads next by single requests, and after which row.
#[derive(Clone, Debug)]
enum Place {
    Watched(Option<AccountId>),
    Unlisted(Option<SyncedSubscription>),
    Invoices(Option<(AccountId, String, Millis)>),
}

/// The results of the single syncs of a poll.
#[derive(Debug, Default)]
struct Outcomes {
    failures_in_a_row: AtomicU32,
    has_unstored: AtomicBool,
    /// Set for good, so that no later row is read in this run.
    is_pausing: AtomicBool,
}

impl Outcomes {
    fn add(&self, of: &str, result: Result<(), SyncError>) {
        let Err(error) = result else {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
            return;
        };
        tracing::warn!(of, %error, "a subscription could not be synced");
        match error {
            // Stripe responded.
            SyncError::Stripe(Failure::Unreadable(_)) => {}
            SyncError::Stripe(_) => {
                let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
                if failures.saturating_add(1) >= MAX_FAILURES {
                    self.is_pausing.store(true, Ordering::Relaxed);
                }
            }
            SyncError::Store(_) => self.has_unstored.store(true, Ordering::Relaxed),
        }
    }

    /// Forgets earlier failures: other requests may succeed.
    fn begin_anew(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.is_pausing.store(false, Ordering::Relaxed);
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
            paused: None,
        }
    }

    /// Syncs the live subscriptions, a hundred per request. Those that fail are read by single requests later.
    async fn poll_lists(&self, now: Millis, outcomes: &Outcomes) -> Result<(), SyncError> {
        let meters = self.sync.meters().await?;
        let mut after: Option<String> = None;
        // Customers whose subscriptions are on several pages.
        let mut incomplete = ByCustomer::new();
        for _ in 0..MAX_PAGES {
            let read_at = self.sync.read_at().await?;
            let page = self
                .sync
                .stripe
                .list_subscriptions(after.as_deref())
                .await?;
            let mut by_customer = ByCustomer::new();
            for found in &page.subscriptions {
                let snapshot = snapshot(found, &meters, read_at);
                let own = entry(&mut by_customer, &mut incomplete, &snapshot.customer);
                own.snapshots.push(snapshot);
            }
            // One without a customer is read by a single request, if it was synced before.
            for customer in page.unreadable.into_iter().filter_map(|one| one.customer) {
                entry(&mut by_customer, &mut incomplete, &customer).has_unreadable = true;
            }
            let is_last = page.next.is_none();
            if is_last {
                by_customer.extend(incomplete.drain());
            }
            let mut left: Vec<(String, CustomerPage)> = by_customer.into_iter().collect();
            while !left.is_empty() {
                let rest = left.split_off(left.len().min(CUSTOMERS_AT_ONCE));
                let page = std::mem::replace(&mut left, rest).into_iter().collect();
                let others = self.sync_listed(page, is_last, now, outcomes).await?;
                incomplete.extend(others);
            }
            // Also after failures: they are of single customers, and the next page has others.
            match page.next {
                Some(next) if !self.shutdown.is_cancelled() => after = Some(next),
                _ => break,
            }
        }
        Ok(())
    }

    /// Syncs the customers of a page. Returns those of which others may be on a later page.
    async fn sync_listed(
        &self,
        mut page: ByCustomer,
        is_last: bool,
        now: Millis,
        outcomes: &Outcomes,
    ) -> Result<ByCustomer, SyncError> {
        let mut incomplete = ByCustomer::new();
        let mut up_to_date = Vec::new();
        for (customer, synced) in self.sync.sync_page(&page, is_last).await? {
            let synced = synced.map(|listed| match listed {
                Listed::UpToDate(subscriptions) => up_to_date.extend(subscriptions),
                Listed::Incomplete => incomplete.extend(page.remove_entry(&customer)),
            });
            outcomes.add(&customer, synced);
        }
        let store = &self.sync.store;
        store.touch_subscriptions(&up_to_date, now).await?;
        Ok(incomplete)
    }

    /// Makes single syncs from a place on. Returns the place at which it paused, if it did.
    async fn poll_from(
        &self,
        mut place: Place,
        since: Millis,
        outcomes: &Outcomes,
    ) -> Result<Option<Place>> {
        loop {
            let next = match &place {
                Place::Watched(after) => self
                    .poll_watched(after.as_ref(), outcomes)
                    .await?
                    .map_or(Place::Unlisted(None), |last| Place::Watched(Some(last))),
                Place::Unlisted(after) => self
                    .poll_unlisted(since, after.as_ref(), outcomes)
                    .await?
                    .map_or(Place::Invoices(None), |last| Place::Unlisted(Some(last))),
                Place::Invoices(after) => {
                    match self.poll_invoices(since, after.as_ref(), outcomes).await? {
                        Some(last) => Place::Invoices(Some(last)),
                        None => return Ok(None),
                    }
                }
            };
            if self.should_stop(outcomes) {
                return Ok(Some(next));
            }
            place = next;
        }
    }

    /// Syncs a page of customers that are read by themselves. Returns the last one that was read.
    async fn poll_watched(
        &self,
        after: Option<&AccountId>,
        outcomes: &Outcomes,
    ) -> Result<Option<AccountId>> {
        let store = &self.sync.store;
        let page = store.watched_customers(after, BATCH_SIZE).await?;
        let syncing: Vec<_> = page
            .iter()
            .map(|row| self.sync_watched(row, outcomes))
            .collect();
        let last = last_of(&page, at_once(syncing).await);
        Ok(last.map(|row| row.account_id.clone()))
    }

    /// Syncs a page of the subscriptions that are stored as live and were in no list. Returns the last one that was read.
    async fn poll_unlisted(
        &self,
        since: Millis,
        after: Option<&SyncedSubscription>,
        outcomes: &Outcomes,
    ) -> Result<Option<SyncedSubscription>> {
        let store = &self.sync.store;
        let page = store.unseen_subscriptions(since, after, BATCH_SIZE).await?;
        let syncing: Vec<_> = page
            .iter()
            .map(|row| self.sync_unlisted(row, outcomes))
            .collect();
        let last = last_of(&page, at_once(syncing).await);
        Ok(last.cloned())
    }

    /// Reads the invoices of a page of periods that have ended. Returns the last period whose invoice was read.
    async fn poll_invoices(
        &self,
        now: Millis,
        after: Option<&(AccountId, String, Millis)>,
        outcomes: &Outcomes,
    ) -> Result<Option<(AccountId, String, Millis)>> {
        let store = &self.sync.store;
        let page = store.uninvoiced_periods(now, after, BATCH_SIZE).await?;
        // One sync reads the invoices of all periods of a subscription.
        let mut seen = HashSet::new();
        let is_first: Vec<bool> = page
            .iter()
            .map(|period| seen.insert((&period.account_id, &period.subscription)))
            .collect();
        let syncing: Vec<_> = page
            .iter()
            .zip(is_first)
            .map(|(period, is_first)| self.sync_invoices(period, is_first, outcomes))
            .collect();
        let last = last_of(&page, at_once(syncing).await);
        Ok(last.map(|last| {
            (
                last.account_id.clone(),
                last.item.clone(),
                last.period_start,
            )
        }))
    }

    async fn sync_watched(&self, row: &WatchedCustomer, outcomes: &Outcomes) -> bool {
        if self.should_stop(outcomes) {
            return false;
        }
        let result = self.sync.sync_watched(row).await;
        outcomes.add(row.account_id.as_str(), result);
        true
    }

    async fn sync_unlisted(&self, row: &SyncedSubscription, outcomes: &Outcomes) -> bool {
        if self.should_stop(outcomes) {
            return false;
        }
        let result = self.sync.sync_one(row).await;
        outcomes.add(&row.subscription, result);
        true
    }

    async fn sync_invoices(
        &self,
        period: &BillingPeriod,
        is_first: bool,
        outcomes: &Outcomes,
    ) -> bool {
        if self.should_stop(outcomes) {
            return false;
        }
        if let Some(subscription) = period.subscription.as_ref().filter(|_| is_first) {
            let synced = self.sync.sync_invoices(&period.account_id, subscription);
            outcomes.add(subscription, synced.await.map(|_| ()));
        }
        true
    }

    fn should_stop(&self, outcomes: &Outcomes) -> bool {
        outcomes.is_pausing.load(Ordering::Relaxed) || self.shutdown.is_cancelled()
    }
}

/// Makes several syncs concurrently. Each returns whether it was made. Returns the number that was: they begin in their
/// order, and after the first one that was not made, none is.
async fn at_once(syncing: Vec<impl Future<Output = bool>>) -> usize {
    stream::iter(syncing)
        .buffer_unordered(SYNCS_AT_ONCE)
        .filter(|is_made| ready(*is_made))
        .count()
        .await
}

/// The last of the first rows.
fn last_of<T>(rows: &[T], number: usize) -> Option<&T> {
    rows.get(..number)?.last()
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
    /// stored, the poll runs again soon. After several failures in a row it pauses, and continues with the next account.
    async fn run(&mut self, now: Millis) -> Result<Next> {
        let outcomes = Outcomes::default();
        let paused = self.paused.take();
        let listed_at = paused.as_ref().and_then(|paused| paused.listed_at);
        let has_unstored = paused.as_ref().is_some_and(|paused| paused.has_unstored);
        outcomes.has_unstored.store(has_unstored, Ordering::Relaxed);
        let listed = match listed_at {
            Some(_) => Ok(()),
            None => self.poll_lists(now, &outcomes).await,
        };
        outcomes.begin_anew();
        let place = paused.map_or(Place::Watched(None), |paused| paused.place);
        let since = listed_at.unwrap_or(now);
        let stopped = self.poll_from(place, since, &outcomes).await?;
        let has_unstored = outcomes.has_unstored.into_inner();
        if let Some(place) = stopped {
            self.paused = Some(Paused {
                listed_at: listed.is_ok().then_some(since),
                place,
                has_unstored,
            });
        }
        listed?;
        // A poll that paused may end when the next one is due. That one would be recorded as begun now.
        let is_next_due = listed_at.is_some_and(|begun| self.is_due(begun, now));
        if self.paused.is_some() || is_next_due {
            return Ok(Next::ContinueAfter(PAUSE));
        }
        if has_unstored {
            return Err(crate::error::Error::Internal(
                "some subscriptions could not be stored".into(),
            ));
        }
        Ok(Next::Wait)
    }
}
