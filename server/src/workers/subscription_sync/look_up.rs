//! Finds the subscription that an account is synced with, among those of its customer at Stripe.

use super::{SubscriptionSync, snapshot, sync::SyncError};
use crate::{
    domain::{
        account::Billing,
        account_id::AccountId,
        customer_watch::NamedSubscription,
        subscription::{SubscriptionSnapshot, choose_subscription, is_certain_beside},
    },
    stripe::object_list::Unreadable,
};

/// What was found at Stripe for an account.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookUp {
    /// The subscription that the account is synced with, if there is one and it is certain which.
    pub(crate) chosen: Option<SubscriptionSnapshot>,
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
                "the account stays as it was last synced"
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
    /// Reads the subscription that an account with this billing is synced with.
    pub(crate) async fn look_up(
        &self,
        account_id: &AccountId,
        billing: &Billing,
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
        if let Some(id) = billing.subscription()
            && all.iter().all(|one| one.subscription != id)
            && !unreadable.contains(&Some(id))
        {
            // It is none of the newest, or not the customer's.
            match self.stripe.find_subscription(id).await? {
                None => named = NamedSubscription::NotFound(id.to_owned()),
                Some(found) if found.customer == customer => {
                    all.push(snapshot(&found, &meters, read_at));
                }
                Some(found) => {
                    named = NamedSubscription::OfAnother {
                        subscription: id.to_owned(),
                        customer: found.customer,
                    };
                }
            }
        }
        let name = billing
            .subscription()
            .filter(|_| named == NamedSubscription::Fits);
        // One that is named and unreadable is in no list to choose from.
        let chosen = choose_subscription(&all, name.filter(|id| !unreadable.contains(&Some(id))));
        let mut chosen = chosen.map(|chosen| chosen.among(&all));
        let mut is_held = false;
        if !unreadable.is_empty() {
            let synced = self.synced_subscriptions(account_id).await?;
            let synced: Vec<&str> = synced.iter().map(String::as_str).collect();
            is_held = chosen
                .as_ref()
                .is_none_or(|chosen| !is_certain_beside(chosen, name, &synced, &unreadable));
            if is_held {
                chosen = None;
            } else if let Some(chosen) = &mut chosen {
                // What the unreadable one charges is not known.
                chosen.other_meters = None;
            }
        }
        Ok(LookUp {
            chosen,
            named,
            unreadable: page.unreadable.into_iter().next(),
            is_held,
        })
    }

    /// The subscriptions of an account that are stored as live.
    async fn synced_subscriptions(&self, account_id: &AccountId) -> Result<Vec<String>, SyncError> {
        let now = self.store.now().await?;
        let stored = self.store.stored_subscriptions(&[account_id], now).await?;
        let live = stored.into_iter().filter(|(row, _)| row.ended_at.is_none());
        Ok(live.map(|(row, _)| row.subscription).collect())
    }
}
