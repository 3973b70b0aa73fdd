//! Syncs one account: reads its subscriptions, billing periods and invoices from Stripe and stores them.

use super::{SubscriptionSync, snapshot};
use crate::{
    domain::{
        DAY_MS, Millis,
        account_id::AccountId,
        billing_period::BillingPeriod,
        customer_watch::Watch,
        followed_subscriptions::FollowedSubscriptions,
        invoice_comparison::CLOCK_DIFFERENCE_MS,
        invoice_draft::InvoiceState,
        invoice_line::Invoice,
        subscription::{SubscriptionSnapshot, SyncedSubscription},
    },
    error::{Error, Result},
    store::subscriptions::InvoicedPeriod,
    stripe::Failure,
};

/// Stripe creates an invoice shortly after its period's end. After this time, an invoice that is not found does not
/// exist.
const NO_INVOICE_MS: Millis = 3 * DAY_MS;

/// The result of the sync of an account.
#[derive(Clone, Debug, Default)]
pub(super) struct Synced {
    /// Since when its subscription charges, if it has one.
    pub(super) charges_since: Option<Millis>,
    /// What is wrong, if something is.
    pub(super) problem: Option<String>,
    /// The subscriptions that were synced.
    subscriptions: Vec<String>,
}

/// Why an account could not be synced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// Stripe did not respond, or rejected the request.
    #[error("{}", .0.message())]
    Stripe(Failure),
    /// The database did not respond.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<Failure> for SyncError {
    fn from(failure: Failure) -> Self {
        Self::Stripe(failure)
    }
}

impl From<SyncError> for Error {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Stripe(failure) => Self::StripeUnavailable(failure.message().to_owned()),
            SyncError::Store(error) => error,
        }
    }
}

/// The periods of stored items that invoices charge, by their ends. Other items, such as seats, are not synced.
fn invoiced_periods(invoices: &[Invoice], periods: &[BillingPeriod]) -> Vec<InvoicedPeriod> {
    let mut found = Vec::new();
    for invoice in invoices {
        for line in invoice.lines.iter().filter(|line| !line.is_proration) {
            let is_stored = |item: &&String| periods.iter().any(|own| own.item == **item);
            if let Some(item) = line.item.as_ref().filter(is_stored) {
                found.push(InvoicedPeriod {
                    item: item.clone(),
                    price: line.price.clone(),
                    start: line.period.start,
                    end: line.period.end,
                    invoice: invoice.id.clone(),
                    state: invoice.state(),
                });
            }
        }
    }
    found.sort_by_key(|period| period.end);
    found
}

impl SubscriptionSync {
    /// Reads an account's subscriptions and invoices from Stripe and stores them.
    pub(crate) async fn sync_account(&self, account_id: &AccountId) -> Result<(), SyncError> {
        self.sync_once(account_id, None).await.map(|_| ())
    }

    /// Does the same, and returns what was found. `also` is a subscription that may be none of the newest.
    pub(super) async fn sync_once(
        &self,
        account_id: &AccountId,
        also: Option<&str>,
    ) -> Result<Synced, SyncError> {
        let Some(account) = self.store.find_account(account_id).await? else {
            return Ok(Synced::default());
        };
        let billing = &account.link.billing;
        let found = self.look_up(account_id, billing, also).await?;
        let mut synced = Synced {
            problem: found.problem(),
            ..Synced::default()
        };
        if let (Some(problem), Some(customer)) = (&synced.problem, billing.customer()) {
            self.record_problem(account_id, customer, problem).await?;
        }
        let followed = found.followed;
        self.apply(account_id, &followed).await?;
        for snapshot in followed.all() {
            let invoices = self.sync_invoices(account_id, &snapshot.subscription);
            let unreadable = invoices.await?;
            synced.problem = synced.problem.or(unreadable);
            synced.subscriptions.push(snapshot.subscription.clone());
        }
        synced.charges_since = followed.charges_since();
        Ok(synced)
    }

    /// Records that an account cannot be synced as its link says. Its customer is read by itself until it can.
    async fn record_problem(
        &self,
        account_id: &AccountId,
        customer: &str,
        problem: &str,
    ) -> Result<()> {
        tracing::warn!(account = %account_id, customer, problem, "an account cannot be synced as its link says");
        let watch = Watch::Problem(problem.to_owned());
        self.store
            .watch_customer(account_id, customer, Some(&watch))
            .await
    }

    /// Syncs the account of a customer that may have been deleted at Stripe. If it was, ends the account's billing.
    pub(super) async fn sync_customer(&self, customer: &str) -> Result<(), SyncError> {
        let owners = self.store.accounts_of_customers(&[customer]).await?;
        let Some(account_id) = owners.get(customer) else {
            return Ok(());
        };
        self.sync_account(account_id).await?;
        let read_at = self.read_at().await?;
        if self.stripe.is_customer_deleted(customer).await? {
            // It is never undeleted, so this cannot come late.
            self.mark_customer_deleted(account_id, customer).await?;
            let (slots, now) = (self.slots, self.store.now_as_read().await?);
            if self
                .store
                .end_customer((account_id, customer), slots, read_at, now)
                .await?
            {
                tracing::warn!(account = %account_id, customer, "the customer was deleted at Stripe and is no longer billed");
            }
        }
        Ok(())
    }

    /// Syncs one subscription with the others of its account, or by itself if its account is linked to another customer now:
    /// its last invoices may still be drafts.
    pub(super) async fn sync_one(&self, row: &SyncedSubscription) -> Result<(), SyncError> {
        let account = self.store.find_account(&row.account_id).await?;
        let is_linked = account
            .is_some_and(|account| account.link.billing.customer() == Some(row.customer.as_str()));
        if is_linked {
            // Which subscription charges a meter depends on all of them.
            let synced = self
                .sync_once(&row.account_id, Some(&row.subscription))
                .await?;
            if synced.subscriptions.contains(&row.subscription) {
                return Ok(());
            }
        }
        self.sync_alone(row, is_linked).await?;
        self.sync_invoices(&row.account_id, &row.subscription)
            .await?;
        Ok(())
    }

    /// Syncs a subscription of a customer that the account is no longer linked to, or one beside another that cannot be
    /// read. What a live companion of that one charges is not known.
    async fn sync_alone(&self, row: &SyncedSubscription, is_linked: bool) -> Result<(), SyncError> {
        let meters = self.meters().await?;
        let read_at = self.read_at().await?;
        let found = match self.stripe.find_subscription(&row.subscription).await {
            Err(Failure::Unreadable(why)) => {
                // The account stays as it was last synced.
                self.record_problem(&row.account_id, &row.customer, &why)
                    .await?;
                return Err(Failure::Unreadable(why).into());
            }
            found => found?,
        };
        let Some(snapshot) = found.map(|found| snapshot(&found, &meters, read_at)) else {
            return Ok(());
        };
        let followed = if is_linked && !row.is_companion {
            FollowedSubscriptions::only(snapshot)
        } else if is_linked && snapshot.is_live() {
            return Ok(());
        } else {
            FollowedSubscriptions::only_companion(snapshot)
        };
        self.apply(&row.account_id, &followed).await
    }

    async fn mark_customer_deleted(&self, account_id: &AccountId, customer: &str) -> Result<()> {
        let now = self.store.now().await?;
        self.store
            .mark_customer_deleted(account_id, customer, now)
            .await
    }

    pub(in crate::workers) async fn apply(
        &self,
        account_id: &AccountId,
        followed: &FollowedSubscriptions,
    ) -> Result<(), SyncError> {
        if followed.all().next().is_none() {
            return Ok(());
        }
        // Before an end is stored and usage is assigned by it, check whether the customer still exists.
        let ended = || followed.all().filter(|snapshot| !snapshot.is_live());
        if let Some(first) = ended().next()
            && self.is_unknown_end(account_id, ended()).await?
            && self.stripe.is_customer_deleted(&first.customer).await?
        {
            self.mark_customer_deleted(account_id, &first.customer)
                .await?;
        }
        // Read from the database, because this machine may have stood still since it read from Stripe.
        let (slots, now) = (self.slots, self.store.now_as_read().await?);
        let changed = self
            .store
            .apply_followed(account_id, followed, slots, now)
            .await?;
        if changed {
            let statuses: Vec<String> = followed
                .all()
                .map(|snapshot| format!("{} {}", snapshot.subscription, snapshot.status))
                .collect();
            let statuses = statuses.join(", ");
            tracing::info!(account = %account_id, statuses, "subscriptions synced");
        }
        Ok(())
    }

    /// Whether one of these subscriptions is not stored as ended yet.
    async fn is_unknown_end(
        &self,
        account_id: &AccountId,
        mut ended: impl Iterator<Item = &SubscriptionSnapshot>,
    ) -> Result<bool> {
        let now = self.store.now().await?;
        let stored = self.store.stored_subscriptions(&[account_id], now).await?;
        Ok(ended.any(|snapshot| {
            stored
                .iter()
                .any(|(row, _)| row.subscription == snapshot.subscription && row.ended_at.is_none())
        }))
    }

    /// Reads the invoices of a subscription's periods that have ended, unless they are known to be final. Returns what is
    /// wrong, if one cannot be read.
    pub(super) async fn sync_invoices(
        &self,
        account_id: &AccountId,
        subscription: &str,
    ) -> Result<Option<String>, SyncError> {
        let read_at = self.store.now().await?;
        let rows = self
            .store
            .stored_subscriptions(&[account_id], read_at)
            .await?;
        let Some((row, periods)) = rows
            .into_iter()
            .find(|(row, _)| row.subscription == subscription)
        else {
            return Ok(None);
        };
        let open: Vec<&BillingPeriod> = periods
            .iter()
            .filter(|period| period.period_end <= read_at && !is_final(period))
            .collect();
        // A period that was never synced is later than the last one that is stored.
        let unseen_since = periods.iter().map(|period| period.period_end).max();
        let since = open
            .iter()
            .map(|period| period.period_end)
            .chain(unseen_since.filter(|end| *end <= read_at))
            .min();
        let Some(since) = since else {
            return Ok(None);
        };
        let invoices = self
            .stripe
            .invoices_of(subscription, since.saturating_sub(CLOCK_DIFFERENCE_MS))
            .await?;
        let found_periods = invoiced_periods(&invoices.items, &periods);
        let moments = (read_at, self.store.now_as_read().await?);
        let synced = (account_id, subscription);
        self.store
            .record_invoices(synced, &found_periods, self.slots, moments)
            .await?;
        if let Some(unreadable) = invoices.unreadable.first() {
            // It may be the invoice of a period, so none is given up.
            let problem = format!("{unreadable}: its period waits for it");
            self.record_problem(account_id, &row.customer, &problem)
                .await?;
            return Ok(Some(problem));
        }
        for period in open {
            let is_found = found_periods
                .iter()
                .any(|found| found.item == period.item && found.end == period.period_end);
            if !is_found && read_at.saturating_sub(period.period_end) > NO_INVOICE_MS {
                tracing::warn!(
                    account = %account_id,
                    subscription,
                    "no invoice was found for a period"
                );
                self.store.give_up_on_invoice(period, moments).await?;
            }
        }
        Ok(None)
    }
}

fn is_final(period: &BillingPeriod) -> bool {
    period.invoice_state == InvoiceState::Final
}
