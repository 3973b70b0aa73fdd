//! What webhooks ask for: they only say where to look, and the truth is read from Stripe.

use std::collections::BTreeSet;

use super::{Subscriptions, follow::FollowError};
use crate::{store::webhooks::WebhookEvent, stripe::Failure};

/// How many webhooks one look takes.
const A_LOOK: u64 = 500;

impl Subscriptions {
    /// Looks at what stored webhooks are about, each customer once; what Stripe does not answer for stays
    /// for the next look.
    pub(super) async fn follow_webhooks(&self) -> Result<(), FollowError> {
        let events = self.store.pending_webhook_events(A_LOOK).await?;
        if events.is_empty() {
            return Ok(());
        }
        if events
            .iter()
            .any(|stored| stored.event.kind.starts_with("v1.billing.meter."))
        {
            self.settle_now.notify_one();
        }
        self.flush_invoiced(&events).await?;
        let customers: BTreeSet<&str> = events.iter().filter_map(customer_of).collect();
        for customer in customers {
            match self.follow_customer_of(customer, &events).await {
                Ok(()) => {}
                Err(FollowError::Stripe(Failure::Unanswered(why))) => {
                    return Err(FollowError::Stripe(Failure::Unanswered(why)));
                }
                // The next poll looks again; the webhooks of others need not wait.
                Err(error) => {
                    tracing::warn!(customer, %error, "what a webhook is about could not be looked at");
                }
            }
        }
        let handled: Vec<String> = events.into_iter().map(|stored| stored.event.id).collect();
        self.store
            .finish_webhook_events(&handled, self.clock.now())
            .await?;
        Ok(())
    }

    async fn follow_customer_of(
        &self,
        customer: &str,
        events: &[WebhookEvent],
    ) -> Result<(), FollowError> {
        let is_deleted = events.iter().any(|stored| {
            stored.event.kind == "customer.deleted" && customer_of(stored) == Some(customer)
        });
        if is_deleted {
            return self.follow_customer(customer).await;
        }
        let owners = self.store.accounts_of_customers(&[customer]).await?;
        match owners.get(customer) {
            Some(account_id) => self.follow_account(account_id).await,
            None => Ok(()),
        }
    }

    /// Closes what those used whose invoices were just made: while they are drafts, usage joins them.
    async fn flush_invoiced(&self, events: &[WebhookEvent]) -> Result<(), FollowError> {
        let invoiced: Vec<&str> = events
            .iter()
            .filter(|stored| stored.event.kind == "invoice.created")
            .filter_map(customer_of)
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

/// The customer that a webhook is about.
fn customer_of(stored: &WebhookEvent) -> Option<&str> {
    let event = &stored.event;
    let object = event.object.as_deref().filter(|id| id.starts_with("cus_"));
    event.customer.as_deref().or(object)
}
