//! The parts of a subscription that counting and billing depend on. Which subscriptions of a customer are synced is decided
//! in `followed_subscriptions`.

use super::{
    Millis,
    account_id::AccountId,
    subscription_status::{BillingMode, SubscriptionStatus},
    window::Interval,
};

/// A subscription, as read from Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSnapshot {
    /// When it was read, by the database's clock before the request; after the answer, if that was to an own change.
    pub read_at: Millis,
    /// `sub_...`
    pub subscription: String,
    /// `cus_...`
    pub customer: String,
    /// Its status.
    pub status: SubscriptionStatus,
    /// Its billing mode.
    pub billing_mode: BillingMode,
    /// When it was created.
    pub created: Millis,
    /// When it is scheduled to end.
    pub cancel_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// The end of its trial, which may be over.
    pub trial_end: Option<Millis>,
    /// Its items that charge for a configured meter.
    pub items: Vec<ItemSnapshot>,
    /// Items of the customer's other subscriptions that charge a meter which no item above does.
    pub elsewhere: Vec<ItemSnapshot>,
    /// All its items, including those without a configured meter.
    pub all_items: Vec<PricedItem>,
}

/// An item of a subscription and its price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricedItem {
    /// `si_...`
    pub item: String,
    /// `price_...`
    pub price: String,
}

/// A subscription of an account as it was last synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedSubscription {
    /// The account.
    pub account_id: AccountId,
    /// `sub_...`
    pub subscription: String,
    /// `cus_...`
    pub customer: String,
    /// Its status.
    pub status: SubscriptionStatus,
    /// Its billing mode.
    pub billing_mode: BillingMode,
    /// When it will end, if that is known.
    pub cancel_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Whether its end was requested here.
    pub is_end_requested: bool,
    /// Whether the account's link follows another one.
    pub is_companion: bool,
    /// When it was last read from Stripe.
    pub synced_at: Millis,
    /// When a sync earlier than the next poll was requested.
    pub sync_requested_at: Option<Millis>,
    /// When a sync found that its customer was deleted at Stripe.
    pub customer_deleted_at: Option<Millis>,
}

/// A subscription item, as read from Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemSnapshot {
    /// `si_...`
    pub item: String,
    /// `price_...`
    pub price: String,
    /// The meter that it charges for.
    pub meter: String,
    /// The time from which it charges.
    pub created: Millis,
    /// Its current billing period at Stripe.
    pub period: Interval,
}

impl ItemSnapshot {
    /// The part of its current period that it charges: an item that was added in the middle of the period starts there.
    pub fn charged(&self) -> Interval {
        Interval {
            start: self.period.start.max(self.created).min(self.period.end),
            end: self.period.end,
        }
    }
}

impl SubscriptionSnapshot {
    /// Whether it bills, or may bill again.
    pub fn is_live(&self) -> bool {
        self.status.is_live()
    }

    /// When its current charge began; `None` if it charges for no configured meter.
    pub fn charges_since(&self) -> Option<Millis> {
        self.items.iter().map(|item| item.charged().start).min()
    }

    /// Whether a billing period that ends at a time is part of its trial.
    pub fn is_trial(&self, period_end: Millis) -> bool {
        self.trial_end.is_some_and(|end| period_end <= end)
    }

    /// Whether Stripe charges the usage of its items now: it is live, and neither paused nor in its trial.
    pub fn is_charging(&self) -> bool {
        self.is_live()
            && !matches!(
                self.status,
                SubscriptionStatus::Paused | SubscriptionStatus::Trialing
            )
    }

    /// Whether it has an item with this price; with whatever price, if none is known.
    pub fn has_item(&self, item: &str, price: Option<&str>) -> bool {
        self.all_items
            .iter()
            .any(|one| one.item == item && price.is_none_or(|price| price == one.price))
    }

    /// When a removed item stopped charging: at the end of the subscription, when another item replaced it, also of another
    /// subscription, or else at the time of the sync that noticed it.
    pub fn gone_since(&self, meter: Option<&str>, began: Millis, now: Millis) -> Millis {
        let replaced = self
            .items
            .iter()
            .chain(&self.elsewhere)
            .filter(|item| meter.is_none_or(|meter| meter == item.meter) && item.created > began)
            .map(|item| item.created)
            .min();
        self.ended_at
            .filter(|_| !self.is_live())
            .or(replaced)
            .unwrap_or(now)
            .min(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(
        subscription: &str,
        created: Millis,
        ended_at: Option<Millis>,
    ) -> SubscriptionSnapshot {
        SubscriptionSnapshot {
            read_at: created,
            subscription: subscription.to_owned(),
            customer: "cus".to_owned(),
            status: if ended_at.is_none() {
                SubscriptionStatus::Active
            } else {
                SubscriptionStatus::Canceled
            },
            billing_mode: BillingMode::Flexible,
            created,
            cancel_at: None,
            ended_at,
            trial_end: None,
            items: vec![ItemSnapshot {
                item: format!("si_{subscription}"),
                price: "price".to_owned(),
                meter: "m".to_owned(),
                created,
                period: Interval {
                    start: created,
                    end: created + 100,
                },
            }],
            elsewhere: Vec::new(),
            all_items: vec![PricedItem {
                item: format!("si_{subscription}"),
                price: "price".to_owned(),
            }],
        }
    }

    #[test]
    fn an_item_added_in_the_middle_charges_from_there() {
        let mut one = snapshot("a", 1_000, None);
        one.items[0].period.start = 500;
        assert_eq!(
            one.items[0].charged(),
            Interval {
                start: 1_000,
                end: 1_100
            }
        );
        assert_eq!(
            one.gone_since(Some("m"), 10, 5_000),
            1_000,
            "it took the place"
        );
        assert_eq!(one.gone_since(Some("other"), 10, 5_000), 5_000);
        one.elsewhere = vec![ItemSnapshot {
            meter: "other".to_owned(),
            created: 3_000,
            ..one.items[0].clone()
        }];
        assert_eq!(
            one.gone_since(Some("other"), 10, 5_000),
            3_000,
            "another subscription charges it since then"
        );
        let ended = snapshot("a", 1_000, Some(2_000));
        assert_eq!(ended.gone_since(Some("m"), 10, 5_000), 2_000);
    }
}
