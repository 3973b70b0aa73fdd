//! Syncs the accounts of the customers on Stripe's list of subscriptions. Those of one customer may be on several pages.

use std::collections::HashMap;

use futures_util::{StreamExt as _, stream};

use super::{SYNCS_AT_ONCE, SubscriptionSync, sync::SyncError};
use crate::{
    domain::{
        account::{Billing, Link},
        account_id::AccountId,
        billing_period::BillingPeriod,
        followed_subscriptions::FollowedSubscriptions,
        subscription::{SubscriptionSnapshot, SyncedSubscription},
    },
    error::Result,
    store::subscriptions::is_up_to_date,
};

/// The subscriptions of a customer on the pages of a list that were read so far.
#[derive(Clone, Debug, Default)]
pub(super) struct CustomerPage {
    pub(super) snapshots: Vec<SubscriptionSnapshot>,
    /// Whether one of them cannot be read.
    pub(super) has_unreadable: bool,
}

/// By customer.
pub(super) type ByCustomer = HashMap<String, CustomerPage>;

/// The result of the sync of an account's subscriptions on a list.
#[derive(Debug)]
pub(super) enum Listed {
    /// These are up to date.
    UpToDate(Vec<String>),
    /// Others of the customer may be on a later page.
    Incomplete,
}

/// What was read of a customer so far, on this page and earlier ones.
pub(super) fn entry<'a>(
    page: &'a mut ByCustomer,
    earlier: &mut ByCustomer,
    customer: &str,
) -> &'a mut CustomerPage {
    page.entry(customer.to_owned())
        .or_insert_with(|| earlier.remove(customer).unwrap_or_default())
}

impl SubscriptionSync {
    /// Stores the subscriptions of a list whose customers belong to accounts. Returns the result for each of these
    /// customers: one that fails does not hold up the others. On the last page nothing is incomplete.
    pub(super) async fn sync_page(
        &self,
        page: &ByCustomer,
        is_last: bool,
    ) -> Result<Vec<(String, Result<Listed, SyncError>)>> {
        let customers: Vec<&str> = page.keys().map(String::as_str).collect();
        let owners = self.store.accounts_of_customers(&customers).await?;
        let accounts: Vec<&AccountId> = owners.values().collect();
        let now = self.store.now().await?;
        let links = self.store.links_of_accounts(&accounts).await?;
        let stored = self.store.stored_subscriptions(&accounts, now).await?;
        let mut syncing = Vec::new();
        for (customer, account_id) in &owners {
            let (Some(found), Some(link)) = (page.get(customer), links.get(account_id)) else {
                continue;
            };
            let own: Vec<&(SyncedSubscription, Vec<BillingPeriod>)> = stored
                .iter()
                .filter(|(row, _)| row.account_id == *account_id && row.customer == *customer)
                .collect();
            syncing.push(async move {
                let synced = self.sync_listed(account_id, link, found, &own, is_last);
                (customer.clone(), synced.await)
            });
        }
        Ok(stream::iter(syncing)
            .buffer_unordered(SYNCS_AT_ONCE)
            .collect()
            .await)
    }

    /// Stores an account's subscriptions from a list.
    async fn sync_listed(
        &self,
        account_id: &AccountId,
        link: &Link,
        found: &CustomerPage,
        stored: &[&(SyncedSubscription, Vec<BillingPeriod>)],
        is_last: bool,
    ) -> Result<Listed, SyncError> {
        let snapshots = &found.snapshots;
        let is_elsewhere = |id: &str| snapshots.iter().all(|one| one.subscription != id);
        let live: Vec<&str> = stored
            .iter()
            .filter(|(row, _)| row.ended_at.is_none())
            .map(|(row, _)| row.subscription.as_str())
            .collect();
        let named = link.billing.subscription();
        let is_complete = !live.iter().copied().chain(named).any(is_elsewhere);
        if !is_complete && !found.has_unreadable && !is_last {
            return Ok(Listed::Incomplete);
        }
        if !is_complete || found.has_unreadable {
            // One of them may have ended, so that another one follows it. The list of all subscriptions of the customer
            // shows which.
            self.sync_account(account_id).await?;
            return Ok(Listed::UpToDate(Vec::new()));
        }
        let followed = FollowedSubscriptions::among(snapshots, named, &live);
        let has_ended = matches!(link.billing, Billing::Ended { .. });
        let is_known = |snapshot: &SubscriptionSnapshot| {
            let row = stored
                .iter()
                .find(|(row, _)| row.subscription == snapshot.subscription);
            let link_ended = followed
                .is_chosen(&snapshot.subscription)
                .then_some(has_ended);
            row.is_some_and(|(row, periods)| is_up_to_date(row, periods, link_ended, snapshot))
        };
        if !followed.all().all(is_known) {
            self.apply(account_id, &followed).await?;
        }
        let ids = followed.all().map(|one| one.subscription.clone());
        Ok(Listed::UpToDate(ids.collect()))
    }
}
