//! What webhooks ask for: they only say where to look, and the truth is read from Stripe.

use std::collections::BTreeSet;

use super::{MOST_UNANSWERED, Subscriptions, sync::SyncError};
use crate::{
    domain::{MINUTE_MS, Millis},
    store::webhooks::WebhookEvent,
    stripe::Failure,
};

/// How long what Stripe does not answer for is looked at again because of a webhook.
const TRIED_MS: Millis = 5 * MINUTE_MS;
/// How many webhooks one look takes.
const BATCH_SIZE: u64 = 500;

impl Subscriptions {
    /// Looks at what stored webhooks are about, each customer once; what Stripe does not answer for stays
    /// for the next looks of a few minutes, after which the poll has looked.
    pub(super) async fn sync_for_webhooks(&self) -> Result<(), SyncError> {
        let events = self.store.pending_webhook_events(BATCH_SIZE).await?;
        if events.is_empty() {
            return Ok(());
        }
        // What is looked at once more has woken and closed what it could the first time.
        let mut again = self.again.lock().await;
        let fresh: Vec<&WebhookEvent> = events
            .iter()
            .filter(|stored| !again.contains(&stored.event.id))
            .collect();
        if fresh
            .iter()
            .any(|stored| stored.event.kind.starts_with("v1.billing.meter."))
        {
            self.verify_now.notify_one();
        }
        self.flush_invoiced(&fresh).await?;
        let (mut unanswered, mut in_a_row) = (BTreeSet::new(), 0_u32);
        let customers: BTreeSet<&str> = events.iter().filter_map(customer_of).collect();
        for customer in customers {
            if in_a_row >= MOST_UNANSWERED {
                unanswered.insert(customer);
                continue;
            }
            match self.sync_customer_of(customer, &events).await {
                Ok(()) => in_a_row = 0,
                Err(SyncError::Stripe(Failure::Unanswered(why))) => {
                    tracing::warn!(
                        customer,
                        why,
                        "Stripe did not answer for what a webhook is about"
                    );
                    unanswered.insert(customer);
                    in_a_row = in_a_row.saturating_add(1);
                }
                // The next poll looks again; the webhooks of others need not wait.
                Err(error) => {
                    tracing::warn!(customer, %error, "what a webhook is about could not be looked at");
                }
            }
        }
        let now = self.clock.now();
        let (later, handled): (Vec<&WebhookEvent>, Vec<&WebhookEvent>) =
            events.iter().partition(|stored| {
                customer_of(stored).is_some_and(|customer| unanswered.contains(customer))
                    && now.saturating_sub(stored.received_at) < TRIED_MS
            });
        *again = ids(&later).collect();
        let handled: Vec<String> = ids(&handled).collect();
        self.store.finish_webhook_events(&handled, now).await?;
        Ok(())
    }

    async fn sync_customer_of(
        &self,
        customer: &str,
        events: &[WebhookEvent],
    ) -> Result<(), SyncError> {
        let is_deleted = events.iter().any(|stored| {
            stored.event.kind == "customer.deleted" && customer_of(stored) == Some(customer)
        });
        if is_deleted {
            return self.sync_customer(customer).await;
        }
        let owners = self.store.accounts_of_customers(&[customer]).await?;
        match owners.get(customer) {
            Some(account_id) => self.sync_account(account_id).await,
            None => Ok(()),
        }
    }

    /// Closes what those used whose invoices were just made: while they are drafts, usage joins them.
    async fn flush_invoiced(&self, events: &[&WebhookEvent]) -> Result<(), SyncError> {
        let invoiced: Vec<&str> = events
            .iter()
            .filter(|stored| stored.event.kind == "invoice.created")
            .filter_map(|stored| customer_of(stored))
            .collect();
        let owners = self.store.accounts_of_customers(&invoiced).await?;
        if !owners.is_empty() {
            self.reporter
                .close_accounts(owners.into_values().collect())
                .await?;
        }
        Ok(())
    }
}

fn ids(events: &[&WebhookEvent]) -> impl Iterator<Item = String> {
    events.iter().map(|stored| stored.event.id.clone())
}

/// The customer that a webhook is about.
fn customer_of(stored: &WebhookEvent) -> Option<&str> {
    let event = &stored.event;
    let object = event.object.as_deref().filter(|id| id.starts_with("cus_"));
    event.customer.as_deref().or(object)
}
