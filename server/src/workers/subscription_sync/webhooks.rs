//! The job for stored webhook events: syncs their customers.
//!
//! Webhooks only trigger an earlier sync. Their contents are never trusted: the object is read again from Stripe.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{SYNCS_AT_ONCE, SubscriptionSync, sync::SyncError};
use crate::{
    domain::{MINUTE_MS, Millis, webhook::WebhookKind},
    error::Result,
    store::webhooks::WebhookEvent,
    workers::{
        job::{Job, Next, Spec, Turn},
        reporter::Reporter,
        retries::Retries,
        tasks::Tasks,
        wake::Signals,
    },
};

/// How long a sync for a webhook is repeated while Stripe does not respond. After that, the poll does it.
const RETRIED_MS: Millis = 5 * MINUTE_MS;
/// The number of webhook events that one query reads.
const BATCH_SIZE: u64 = 500;

/// Makes the syncs for stored webhook events.
pub(crate) struct WebhookSyncs {
    sync: SubscriptionSync,
    reporter: Arc<Reporter>,
    signals: Arc<Signals>,
    interval: Duration,
    /// By customer.
    tasks: Tasks<String, Result<(), SyncError>>,
    retries: Retries<String>,
    /// The ids of pending webhook events for which only their customer's sync is left.
    noticed: HashSet<String>,
}

impl WebhookSyncs {
    pub(crate) fn new(
        sync: SubscriptionSync,
        reporter: Arc<Reporter>,
        signals: Arc<Signals>,
        interval: Duration,
    ) -> Self {
        Self {
            sync,
            reporter,
            interval,
            tasks: Tasks::new(SYNCS_AT_ONCE, signals.webhook.clone()),
            retries: Retries::new(interval),
            noticed: HashSet::new(),
            signals,
        }
    }

    fn take_ended(&mut self) {
        for (customer, result) in self.tasks.ended() {
            match result {
                Ok(()) => self.retries.succeeded(&customer),
                Err(error) => {
                    tracing::warn!(%customer, %error, "a sync for a webhook failed; it is repeated");
                    self.retries.failed(customer);
                }
            }
        }
    }

    /// Does immediately what new webhook events need in addition to a sync.
    async fn notice(&mut self, events: &[WebhookEvent]) -> Result<()> {
        let new: Vec<&WebhookEvent> = events
            .iter()
            .filter(|stored| !self.noticed.contains(&stored.event.id))
            .collect();
        if new.iter().any(|stored| stored.event.kind.is_of_meter()) {
            self.signals.verify_request.make();
            self.signals.verify.wake();
        }
        self.close_invoiced(&new).await?;
        let ids = new.iter().map(|stored| stored.event.id.clone());
        self.noticed.extend(ids.collect::<Vec<_>>());
        Ok(())
    }

    /// Closes the usage of customers whose invoices were just created, because usage is added to an invoice only while
    /// it is a draft.
    async fn close_invoiced(&self, events: &[&WebhookEvent]) -> Result<()> {
        let invoiced: Vec<&str> = events
            .iter()
            .filter(|stored| stored.event.kind == WebhookKind::InvoiceCreated)
            .filter_map(|stored| customer_of(stored))
            .collect();
        let owners = self.sync.store.accounts_of_customers(&invoiced).await?;
        if !owners.is_empty() {
            let accounts = owners.into_values().collect();
            self.reporter.close_accounts(accounts).await?;
        }
        Ok(())
    }

    /// Starts the sync of a customer. Its webhook events are marked as handled afterwards.
    fn start(&mut self, customer: &str, events: Vec<WebhookEvent>) {
        let key = customer.to_owned();
        if self.tasks.free() == 0 || self.tasks.has(&key) || !self.retries.may_start(&key) {
            return;
        }
        let (sync, customer) = (self.sync.clone(), customer.to_owned());
        self.tasks
            .start(key, async move { handle(&sync, &customer, &events).await });
    }
}

impl Job for WebhookSyncs {
    fn spec(&self) -> Spec {
        Spec {
            name: "webhook syncs",
            interval: self.interval,
            turn: Turn::OneReplica,
            wake: self.signals.webhook.clone(),
        }
    }

    async fn run(&mut self, _now: Millis) -> Result<Next> {
        self.take_ended();
        let (mut pending, mut customers) = (HashSet::new(), HashSet::new());
        let mut after = None;
        loop {
            let page = self
                .sync
                .store
                .pending_webhook_events(after.as_ref(), BATCH_SIZE)
                .await?;
            let is_last = u64::try_from(page.len()).is_ok_and(|len| len < BATCH_SIZE);
            after = page.last().cloned();
            self.notice(&page).await?;
            pending.extend(page.iter().map(|stored| stored.event.id.clone()));
            let mut by_customer: BTreeMap<String, Vec<WebhookEvent>> = BTreeMap::new();
            let mut others = Vec::new();
            for stored in page {
                match customer_of(&stored).map(str::to_owned) {
                    Some(customer) => by_customer.entry(customer).or_default().push(stored),
                    None => others.push(stored),
                }
            }
            mark_handled(&self.sync, &others).await?;
            customers.extend(by_customer.keys().cloned());
            for (customer, events) in by_customer {
                self.start(&customer, events);
            }
            if is_last || self.tasks.free() == 0 {
                if is_last {
                    self.noticed.retain(|id| pending.contains(id));
                    self.retries.retain(|customer| customers.contains(customer));
                }
                return Ok(Next::Wait);
            }
        }
    }

    async fn finish(&mut self) {
        self.tasks.finish().await;
    }
}

/// Syncs a customer and marks its webhook events as handled. If Stripe does not respond, they stay pending for a while.
async fn handle(
    sync: &SubscriptionSync,
    customer: &str,
    events: &[WebhookEvent],
) -> Result<(), SyncError> {
    let synced = sync_customer_of(sync, customer, events).await;
    let now = sync.store.now().await?;
    match synced {
        Err(error @ SyncError::Store(_)) => Err(error),
        Err(error) if matches!(&error, SyncError::Stripe(failure) if failure.is_undecided()) => {
            let (expired, retried): (Vec<_>, Vec<_>) = events
                .iter()
                .cloned()
                .partition(|stored| now.saturating_sub(stored.received_at) >= RETRIED_MS);
            mark_handled(sync, &expired).await?;
            if retried.is_empty() {
                Ok(())
            } else {
                Err(error)
            }
        }
        other => {
            if let Err(error) = other {
                tracing::warn!(customer, %error, "a customer of a webhook could not be synced; the next poll syncs it");
            }
            mark_handled(sync, events).await?;
            Ok(())
        }
    }
}

async fn sync_customer_of(
    sync: &SubscriptionSync,
    customer: &str,
    events: &[WebhookEvent],
) -> Result<(), SyncError> {
    if events
        .iter()
        .any(|stored| stored.event.kind == WebhookKind::CustomerDeleted)
    {
        return sync.sync_customer(customer).await;
    }
    let owners = sync.store.accounts_of_customers(&[customer]).await?;
    let Some(account_id) = owners.get(customer) else {
        return Ok(());
    };
    sync.sync_account(account_id).await?;
    if events
        .iter()
        .any(|stored| stored.event.kind.is_of_invoice())
    {
        let now = sync.store.now().await?;
        sync.store.compare_again(account_id, now).await?;
    }
    Ok(())
}

async fn mark_handled(sync: &SubscriptionSync, events: &[WebhookEvent]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = events
        .iter()
        .map(|stored| stored.event.id.clone())
        .collect();
    let now = sync.store.now().await?;
    sync.store.finish_webhook_events(&ids, now).await
}

/// The customer of a webhook event.
fn customer_of(stored: &WebhookEvent) -> Option<&str> {
    let event = &stored.event;
    let object = event.object.as_deref().filter(|id| id.starts_with("cus_"));
    event.customer.as_deref().or(object)
}
