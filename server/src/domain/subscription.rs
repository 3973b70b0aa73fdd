//! The parts of a subscription that counting and billing depend on, and the choice of the subscription that is synced.

use std::collections::BTreeSet;

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
    /// The meters that other living subscriptions of the customer charge, if those were read.
    pub other_meters: Option<Vec<String>>,
    /// Its items that charge for a configured meter.
    pub items: Vec<ItemSnapshot>,
    /// The ids of all its items, including those without a configured meter.
    pub all_items: Vec<String>,
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

    /// This subscription with the meters that the others of its customer charge and it does not.
    #[must_use]
    pub fn among(&self, all: &[Self]) -> Self {
        let is_own = |meter: &str| self.items.iter().any(|item| item.meter == meter);
        let others = all.iter().filter(|other| {
            other.subscription != self.subscription
                && other.is_live()
                && other.status != SubscriptionStatus::Paused
        });
        let meters: BTreeSet<&String> = others
            .flat_map(|other| other.items.iter().map(|item| &item.meter))
            .filter(|meter| !is_own(meter))
            .collect();
        Self {
            other_meters: Some(meters.into_iter().cloned().collect()),
            ..self.clone()
        }
    }

    /// When a removed item stopped charging: at the end of the subscription, when another item replaced it, or else at
    /// the time of the sync that noticed it.
    pub fn gone_since(&self, meter: Option<&str>, began: Millis, now: Millis) -> Millis {
        let replaced = self
            .items
            .iter()
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

/// The subscription that an account is synced with: the one that its link names, else the oldest one that bills for a
/// configured meter, else the one that ended last.
pub fn choose_subscription<'a>(
    all: &'a [SubscriptionSnapshot],
    named: Option<&str>,
) -> Option<&'a SubscriptionSnapshot> {
    if let Some(named) = named
        && let Some(snapshot) = all.iter().find(|snapshot| snapshot.subscription == named)
        && snapshot.is_live()
    {
        return Some(snapshot);
    }
    let charging = || all.iter().filter(|snapshot| !snapshot.items.is_empty());
    let live = charging()
        .filter(|snapshot| snapshot.is_live())
        .min_by_key(|snapshot| (snapshot.created, &snapshot.subscription));
    let ended = || {
        all.iter()
            .filter(|snapshot| {
                !snapshot.is_live()
                    && named.map_or(!snapshot.items.is_empty(), |named| {
                        named == snapshot.subscription
                    })
            })
            .max_by_key(|snapshot| (snapshot.ended_at, &snapshot.subscription))
    };
    // A named subscription that has not ended was returned above. Another one replaces it only after its end.
    match named {
        Some(named) if all.iter().all(|snapshot| snapshot.subscription != named) => None,
        _ => live.or_else(ended),
    }
}

/// Whether the chosen subscription can be applied although others of its customer cannot be read: it is live, and none of
/// the others is the one that is named or that the account was synced with. Else one of them might be the right one, and
/// a wrong choice ends or moves what is billed.
pub fn is_certain_beside(
    chosen: &SubscriptionSnapshot,
    named: Option<&str>,
    synced: &[&str],
    unreadable: &[Option<&str>],
) -> bool {
    let is_other = |id: &str| Some(id) != named && !synced.contains(&id);
    chosen.is_live() && unreadable.iter().all(|id| id.is_some_and(is_other))
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
            other_meters: None,
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
            all_items: vec![format!("si_{subscription}")],
        }
    }

    #[test]
    fn the_oldest_live_subscription_is_synced_unless_one_is_named() {
        let all = [
            snapshot("b", 2, None),
            snapshot("a", 1, None),
            snapshot("z", 0, Some(5)),
        ];
        let name =
            |named| choose_subscription(&all, named).map(|snapshot| snapshot.subscription.as_str());
        assert_eq!(name(None), Some("a"));
        assert_eq!(name(Some("b")), Some("b"));
        assert_eq!(
            name(Some("z")),
            Some("a"),
            "another takes over after its end"
        );
        assert_eq!(name(Some("foreign")), None);
        assert_eq!(
            choose_subscription(&all[2..], None).map(|snapshot| snapshot.created),
            Some(0)
        );
    }

    #[test]
    fn a_choice_is_certain_unless_an_unreadable_one_may_be_the_right_one() {
        let live = snapshot("a", 1, None);
        let ended = snapshot("a", 1, Some(5));
        let foreign = [Some("other")];
        assert!(is_certain_beside(&live, None, &["a"], &foreign));
        assert!(is_certain_beside(&live, Some("a"), &[], &foreign));
        assert!(!is_certain_beside(&ended, None, &["a"], &foreign));
        assert!(!is_certain_beside(&live, Some("other"), &[], &foreign));
        assert!(!is_certain_beside(&live, None, &["a", "other"], &foreign));
        assert!(!is_certain_beside(&live, None, &[], &[None]));
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
        let ended = snapshot("a", 1_000, Some(2_000));
        assert_eq!(ended.gone_since(Some("m"), 10, 5_000), 2_000);
    }
}
