//! Following: one account's subscription, its periods and their invoices made true by asking Stripe.

use std::collections::HashMap;

use super::{Subscriptions, snapshot};
use crate::{
    domain::{
        DAY_MS, MINUTE_MS, Millis,
        account::Billing,
        invoice::InvoiceState,
        subscription::{SubscriptionSnapshot, synced},
    },
    error::Result,
    store::subscriptions::{InvoicedPeriod, Period, SyncedAccount, is_up_to_date},
    stripe::Failure,
};

/// Invoices are made a moment after their period's end; one that is not found by then does not exist.
const NO_INVOICE_MS: Millis = 3 * DAY_MS;
/// How much earlier than a period's end its invoice is looked for: clocks differ.
const EARLIER_MS: Millis = 5 * MINUTE_MS;

/// What Stripe says of customers' subscriptions.
pub(super) type ByCustomer = HashMap<String, Vec<SubscriptionSnapshot>>;

/// Why an account could not be synced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// Stripe did not say.
    #[error("{}", .0.message())]
    Stripe(Failure),
    /// The database did not say.
    #[error(transparent)]
    Store(#[from] crate::error::Error),
}

impl From<Failure> for SyncError {
    fn from(failure: Failure) -> Self {
        Self::Stripe(failure)
    }
}

impl Subscriptions {
    /// What Stripe says of the subscription that an account with this billing follows.
    pub(crate) async fn look_up(
        &self,
        billing: &Billing,
    ) -> Result<Option<SubscriptionSnapshot>, SyncError> {
        let Some(customer) = billing.customer() else {
            return Ok(None);
        };
        let all = self.snapshot_of(customer).await?;
        Ok(synced(&all, billing.subscription()).cloned())
    }

    pub(super) async fn snapshot_of(
        &self,
        customer: &str,
    ) -> Result<Vec<SubscriptionSnapshot>, SyncError> {
        let meters = self.meters().await?;
        let found = self.stripe.subscriptions_of(customer).await?;
        Ok(found.iter().map(|found| snapshot(found, &meters)).collect())
    }

    /// Makes what is known of an account true.
    pub(crate) async fn sync_account(&self, account_id: &str) -> Result<(), SyncError> {
        let Some(account) = self.store.find_account(account_id).await? else {
            return Ok(());
        };
        let Some(snapshot) = self.look_up(&account.link.billing).await? else {
            return Ok(());
        };
        self.apply(account_id, &snapshot).await?;
        self.sync_invoices(account_id, &snapshot.subscription).await
    }

    /// Ends what is billed to a customer that is gone.
    pub(super) async fn sync_customer(&self, customer: &str) -> Result<(), SyncError> {
        let owners = self.store.accounts_of_customers(&[customer]).await?;
        let Some(account_id) = owners.get(customer) else {
            return Ok(());
        };
        self.sync_account(account_id).await?;
        if self.stripe.is_customer_gone(customer).await? {
            self.mark_customer_deleted(account_id, customer).await?;
            let (slots, now) = (self.options.slots, self.clock.now());
            if self
                .store
                .end_customer(account_id, customer, slots, now)
                .await?
            {
                tracing::warn!(account = %account_id, customer, "the customer is gone: nothing is billed to it any more");
            }
        }
        Ok(())
    }

    /// Looks at one subscription, whoever is linked to it now: its last invoices may still be open.
    pub(super) async fn sync_one(&self, row: &SyncedAccount) -> Result<(), SyncError> {
        let meters = self.meters().await?;
        if let Some(found) = self.stripe.find_subscription(&row.subscription).await? {
            let snapshot = snapshot(&found, &meters);
            self.apply(&row.account_id, &snapshot).await?;
            if !snapshot.is_live {
                // Another may have taken its place.
                self.sync_account(&row.account_id).await?;
            }
        }
        self.sync_invoices(&row.account_id, &row.subscription).await
    }

    async fn mark_customer_deleted(&self, account_id: &str, customer: &str) -> Result<()> {
        let now = self.clock.now();
        self.store
            .mark_customer_deleted(account_id, customer, now)
            .await
    }

    pub(super) async fn apply(
        &self,
        account_id: &str,
        snapshot: &SubscriptionSnapshot,
    ) -> Result<(), SyncError> {
        // Asked before anything is settled by the end: whether there is anybody left to bill.
        if !snapshot.is_live
            && self.is_news(account_id, snapshot).await?
            && self.stripe.is_customer_gone(&snapshot.customer).await?
        {
            self.mark_customer_deleted(account_id, &snapshot.customer)
                .await?;
        }
        let (slots, now) = (self.options.slots, self.clock.now());
        let changed = self
            .store
            .apply_snapshot(account_id, snapshot, slots, now)
            .await?;
        if changed {
            tracing::info!(account = account_id, subscription = %snapshot.subscription, status = %snapshot.status, "subscription synced");
        }
        Ok(())
    }

    /// Whether a subscription is synced of which it is not known yet that it ended.
    async fn is_news(&self, account_id: &str, snapshot: &SubscriptionSnapshot) -> Result<bool> {
        let stored = self.store.synced(&[account_id], self.clock.now()).await?;
        Ok(stored
            .iter()
            .any(|(row, _)| row.subscription == snapshot.subscription && row.ended_at.is_none()))
    }

    /// Asks for the invoices of a subscription's periods that have ended and are not known to be charged.
    pub(super) async fn sync_invoices(
        &self,
        account_id: &str,
        subscription: &str,
    ) -> Result<(), SyncError> {
        let now = self.clock.now();
        let rows = self.store.synced(&[account_id], now).await?;
        let periods: Vec<Period> = rows
            .into_iter()
            .filter(|(row, _)| row.subscription == subscription)
            .flat_map(|(_, periods)| periods)
            .collect();
        let open: Vec<&Period> = periods
            .iter()
            .filter(|period| period.period_end <= now && !is_final(period))
            .collect();
        // A period that went by unseen lies behind the last one that is known.
        let unseen_since = periods.iter().map(|period| period.period_end).max();
        let since = open
            .iter()
            .map(|period| period.period_end)
            .chain(unseen_since.filter(|end| *end <= now))
            .min();
        let Some(since) = since else { return Ok(()) };
        let invoices = self
            .stripe
            .invoices_of(subscription, since.saturating_sub(EARLIER_MS))
            .await?;
        let mut found_periods = Vec::new();
        for invoice in &invoices {
            for line in invoice.lines.iter().filter(|line| !line.is_proration) {
                // What was seen before keeps its items; others, such as seats, are not synced.
                if periods.iter().any(|period| period.item == line.item) {
                    found_periods.push(InvoicedPeriod {
                        item: line.item.clone(),
                        start: line.period.start,
                        end: line.period.end,
                        invoice: invoice.id.clone(),
                        state: invoice.state,
                    });
                }
            }
        }
        found_periods.sort_by_key(|period| period.end);
        self.store
            .record_invoices(
                (account_id, subscription),
                &found_periods,
                self.options.slots,
                now,
            )
            .await?;
        for period in open {
            let is_found = found_periods
                .iter()
                .any(|found| found.item == period.item && found.end == period.period_end);
            if !is_found && now.saturating_sub(period.period_end) > NO_INVOICE_MS {
                tracing::warn!(
                    account = account_id,
                    subscription,
                    "no invoice was found for a period"
                );
                self.store.give_up_on_invoice(period).await?;
            }
        }
        Ok(())
    }

    /// Makes true what is known of those customers of a page that belong to accounts; answers the
    /// subscriptions that were seen.
    pub(super) async fn sync_page(&self, page: &ByCustomer) -> Result<Vec<String>, SyncError> {
        let customers: Vec<&str> = page.keys().map(String::as_str).collect();
        let owners = self.store.accounts_of_customers(&customers).await?;
        let accounts: Vec<&str> = owners.values().map(String::as_str).collect();
        let now = self.clock.now();
        let links = self.store.links_of_accounts(&accounts).await?;
        let stored = self.store.synced(&accounts, now).await?;
        let mut seen = Vec::new();
        for (customer, account_id) in &owners {
            let (Some(all), Some(link)) = (page.get(customer), links.get(account_id)) else {
                continue;
            };
            let Some(snapshot) = synced(all, link.billing.subscription()) else {
                continue;
            };
            let mut own = stored
                .iter()
                .filter(|(row, _)| row.account_id == *account_id);
            let row = own
                .clone()
                .find(|(row, _)| row.subscription == snapshot.subscription);
            if row.is_none() && own.any(|(row, _)| row.ended_at.is_none()) {
                // The one that is synced is on another page, or ended: all of them say.
                self.sync_account(account_id).await?;
                continue;
            }
            let is_ended = matches!(link.billing, Billing::Ended { .. });
            if !row.is_some_and(|(row, periods)| is_up_to_date(row, periods, is_ended, snapshot)) {
                self.apply(account_id, snapshot).await?;
            }
            seen.push(snapshot.subscription.clone());
        }
        Ok(seen)
    }
}

fn is_final(period: &Period) -> bool {
    InvoiceState::from_parts(&period.invoice_state, period.draft_until) == InvoiceState::Final
}
