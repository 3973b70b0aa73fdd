//! Finds the subscriptions that an account is synced with, among those of its customer at Stripe.

use super::{SubscriptionSync, snapshot, sync::SyncError};
use crate::{
    domain::{
        account::Billing,
        account_id::AccountId,
        customer_watch::NamedSubscription,
        followed_subscriptions::{FollowedSubscriptions, is_certain_beside},
        subscription::{SubscriptionSnapshot, SyncedSubscription},
    },
    stripe::object_list::Unreadable,
};

/// What was found at Stripe for an account.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookUp {
    /// The subscriptions that the account is synced with. None is chosen if it is not certain which.
    pub(crate) followed: FollowedSubscriptions,
    /// Whether the subscription that the link names is the customer's. Else the account is synced by its customer.
    pub(crate) named: NamedSubscription,
    /// A subscription of the customer that cannot be read.
    unreadable: Option<Unreadable>,
    /// Whether that one might be the right one, so that none was chosen.
    is_held: bool,
}

impl LookUp {
    /// What is wrong, if something is.
    pub(crate) fn problem(&self) -> Option<String> {
        if let Some(unreadable) = &self.unreadable {
            let effect = if self.is_held {
                "the subscription that the account follows stays as it was last synced"
            } else {
                "the customer's others are used"
            };
            return Some(format!("{unreadable}: {effect}"));
        }
        let problem = self.named.problem()?;
        Some(format!("{problem}: the customer's others are used"))
    }
}

impl SubscriptionSync {
    /// Reads the subscriptions that an account with this billing is synced with. `also` is one that is followed although it
    /// may be none of the newest.
    pub(crate) async fn look_up(
        &self,
        account_id: &AccountId,
        billing: &Billing,
        also: Option<&str>,
    ) -> Result<LookUp, SyncError> {
        let Some(customer) = billing.customer() else {
            return Ok(LookUp::default());
        };
        let meters = self.meters().await?;
        let read_at = self.read_at().await?;
        let page = self.stripe.subscriptions_of(customer).await?;
        let found = page.subscriptions.iter();
        let mut all: Vec<SubscriptionSnapshot> = found
            .map(|found| snapshot(found, &meters, read_at))
            .collect();
        let unreadable: Vec<Option<&str>> = page
            .unreadable
            .iter()
            .map(|one| one.id.as_deref())
            .collect();
        let mut named = NamedSubscription::Fits;
        let own_name = billing.subscription();
        for id in own_name
            .into_iter()
            .chain(also.filter(|id| own_name != Some(id)))
        {
            if all.iter().any(|one| one.subscription == id) || unreadable.contains(&Some(id)) {
                continue;
            }
            // It is none of the newest, or not the customer's.
            match self.stripe.find_subscription(id).await? {
                Some(found) if found.customer == customer => {
                    all.push(snapshot(&found, &meters, read_at));
                }
                _ if own_name != Some(id) => {}
                None => named = NamedSubscription::NotFound(id.to_owned()),
                Some(found) => {
                    named = NamedSubscription::OfAnother {
                        subscription: id.to_owned(),
                        customer: found.customer,
                    };
                }
            }
        }
        let name = own_name.filter(|_| named == NamedSubscription::Fits);
        let live = self.live_stored(account_id, customer).await?;
        let stored: Vec<&str> = live.iter().map(|row| row.subscription.as_str()).collect();
        // One that is named and unreadable is in no list to choose from.
        let readable_name = name.filter(|id| !unreadable.contains(&Some(id)));
        let mut followed = FollowedSubscriptions::among(&all, readable_name, &stored);
        let is_certain = |chosen| is_certain_beside(chosen, name, &stored, &unreadable);
        let is_held = !unreadable.is_empty() && !followed.chosen.as_ref().is_some_and(is_certain);
        if is_held {
            let own = live.iter().find(|row| !row.is_companion);
            let own = own.map(|row| row.subscription.as_str());
            followed = FollowedSubscriptions::without_choice(&all, own, &stored);
        }
        Ok(LookUp {
            followed,
            named,
            unreadable: page.unreadable.into_iter().next(),
            is_held,
        })
    }

    /// The subscriptions of an account's customer that are stored as live.
    async fn live_stored(
        &self,
        account_id: &AccountId,
        customer: &str,
    ) -> Result<Vec<SyncedSubscription>, SyncError> {
        let now = self.store.now().await?;
        let stored = self.store.stored_subscriptions(&[account_id], now).await?;
        let live = stored
            .into_iter()
            .map(|(row, _)| row)
            .filter(|row| row.ended_at.is_none() && row.customer == customer);
        Ok(live.collect())
    }
}
