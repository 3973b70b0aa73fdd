//! Validates changes: rejects those that Stripe does not support or that would lose usage, before anything is changed.

use std::collections::HashSet;

use super::{SubscriptionChanges, change::RequestedChange};
use crate::{
    domain::{
        account::Billing, account_id::AccountId, followed_subscriptions::FollowedSubscriptions,
        subscription::SubscriptionSnapshot, subscription_status::BillingMode, violation::Violation,
    },
    error::{Error, Result},
    stripe::subscriptions::Subscription,
    workers::subscription_sync::sync::SyncError,
};

impl SubscriptionChanges {
    /// The live subscription that an account's link follows, and what it is synced with besides.
    pub(super) async fn live_subscription(
        &self,
        account_id: &AccountId,
        billing: &Billing,
    ) -> Result<(Subscription, SubscriptionSnapshot, FollowedSubscriptions)> {
        let not_changeable =
            |why: &str| Error::SubscriptionNotChangeable(format!("account {account_id:?} {why}"));
        let followed = self.sync.look_up(account_id, billing, None).await?.followed;
        let chosen = followed.chosen.clone();
        let snapshot = chosen
            .filter(SubscriptionSnapshot::is_live)
            .ok_or_else(|| {
                not_changeable("has no live subscription that bills for a configured meter")
            })?;
        let found = self
            .stripe
            .find_subscription(&snapshot.subscription)
            .await
            .map_err(SyncError::from)?
            .ok_or_else(|| {
                not_changeable("is synced with a subscription that Stripe does not have")
            })?;
        self.sync.apply(account_id, &followed).await?;
        Ok((found, snapshot, followed))
    }

    /// Validates that the subscription can change to these prices. Returns whether it already has them.
    pub(super) async fn check_prices(
        &self,
        found: &Subscription,
        followed: &FollowedSubscriptions,
        prices: &[String],
    ) -> Result<bool> {
        let not_changeable = |why: String| Err(Error::SubscriptionNotChangeable(why));
        if found.billing_mode != BillingMode::Flexible {
            return not_changeable(format!(
                "subscription {} is in the billing mode {:?}, in which Stripe does not bill the usage of an item that is removed; migrate it to `flexible` first",
                found.id,
                found.billing_mode.name()
            ));
        }
        let meters = self.sync.meters().await.map_err(SyncError::from)?;
        let currency = found.items.first().map(|item| item.price.currency.clone());
        let mut of_meters = HashSet::new();
        for id in prices {
            let price = self.stripe.find_price(id).await.map_err(SyncError::from)?;
            let Some(price) = price else {
                let text = format!("price {id:?} does not exist at Stripe");
                return Err(Violation::invalid("prices", text).into());
            };
            let Some(meter) = price.meter.as_ref().and_then(|meter| meters.get(meter)) else {
                return not_changeable(format!(
                    "price {id} is not of a configured meter; change licensed items at Stripe"
                ));
            };
            if !price.is_active {
                return not_changeable(format!("price {id} is archived"));
            }
            if !price.is_volume {
                return not_changeable(format!(
                    "price {id} is not volume-tiered; every price of a plan family must be"
                ));
            }
            if currency
                .as_ref()
                .is_some_and(|currency| *currency != price.currency)
            {
                return not_changeable(format!(
                    "price {id} is in {}, the subscription is not",
                    price.currency
                ));
            }
            check_not_elsewhere(followed, meter)?;
            if !of_meters.insert(meter.clone()) {
                return not_changeable(format!("two of the prices are of the meter {meter:?}"));
            }
        }
        let replaced: Vec<_> = found
            .items
            .iter()
            .filter(|item| {
                let meter = item
                    .price
                    .meter
                    .as_ref()
                    .and_then(|meter| meters.get(meter));
                meter.is_some_and(|meter| of_meters.contains(meter))
            })
            .collect();
        if let Some(item) = replaced.iter().find(|item| !item.price.is_volume) {
            return not_changeable(format!(
                "item {} of subscription {} has the price {}, which is not volume-tiered: Stripe cannot move a subscription from there to a volume price",
                item.id, found.id, item.price.id
            ));
        }
        let has: HashSet<&str> = replaced.iter().map(|item| item.price.id.as_str()).collect();
        let requested: HashSet<&str> = prices.iter().map(String::as_str).collect();
        Ok(has == requested && replaced.len() == prices.len())
    }

    /// Rejects changes that would lose usage.
    pub(super) async fn check_usage(
        &self,
        account_id: &AccountId,
        snapshot: &SubscriptionSnapshot,
        requested: &RequestedChange,
    ) -> Result<()> {
        let now = self.store.now().await?;
        let since = self.charging_since(account_id, snapshot, now).await?;
        let until_now = now.saturating_add(1);
        let outstanding = self.store.outstanding(account_id, since, until_now).await?;
        if outstanding.needs_decision > 0 {
            return Err(Error::UsageNeedsDecision {
                account_id: account_id.to_string(),
                reports: outstanding.needs_decision,
            });
        }
        let discards =
            matches!(requested, RequestedChange::CancelNow { invoice_now, .. } if !invoice_now);
        if discards && self.store.has_billable_usage(account_id, since).await? {
            return Err(Error::SubscriptionNotChangeable(format!(
                "account {account_id:?} has usage in its current period that is not invoiced yet, and Stripe discards it if invoice_now is false; leave invoice_now out, or cancel at the period's end"
            )));
        }
        Ok(())
    }
}

/// Rejects a meter that another subscription of the customer charges: its usage would be billed twice.
fn check_not_elsewhere(followed: &FollowedSubscriptions, meter: &str) -> Result<()> {
    let charges = |one: &&SubscriptionSnapshot| {
        one.is_charging() && one.items.iter().any(|item| item.meter == meter)
    };
    match followed.companions.iter().find(charges) {
        None => Ok(()),
        Some(other) => Err(Error::SubscriptionNotChangeable(format!(
            "subscription {} of the same customer charges the meter {meter:?}: its usage would be billed twice; remove that item first",
            other.subscription
        ))),
    }
}
