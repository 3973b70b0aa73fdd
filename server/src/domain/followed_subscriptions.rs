//! Which subscriptions of a customer are synced: the one that the account's link follows, and its companions, which charge
//! configured meters too. Pure.

use super::{
    Millis,
    subscription::{ItemSnapshot, SubscriptionSnapshot},
};

/// The subscriptions that an account is synced with, as read from Stripe together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowedSubscriptions {
    /// The one that the account's link follows, if that was read.
    pub chosen: Option<SubscriptionSnapshot>,
    /// Others of the customer. Several may charge one meter: Stripe then bills its usage by every item of it, and the
    /// comparison with the invoices tells that.
    pub companions: Vec<SubscriptionSnapshot>,
}

impl FollowedSubscriptions {
    /// Those of a customer. `stored` are its subscriptions that are stored as live: their ends and changes are followed
    /// too.
    pub fn among(all: &[SubscriptionSnapshot], named: Option<&str>, stored: &[&str]) -> Self {
        let chosen = choose_subscription(all, named, stored);
        let is_other = |one: &&SubscriptionSnapshot| {
            chosen.is_some_and(|chosen| chosen.subscription != one.subscription)
        };
        Self::with_companions(chosen, all.iter().filter(is_other), stored)
    }

    /// Those of a customer while it is not certain which one the account's link follows. `own` is the one that it followed,
    /// which stays as it was.
    pub fn without_choice(
        all: &[SubscriptionSnapshot],
        own: Option<&str>,
        stored: &[&str],
    ) -> Self {
        let is_other = |one: &&SubscriptionSnapshot| own != Some(&one.subscription);
        Self::with_companions(None, all.iter().filter(is_other), stored)
    }

    fn with_companions<'a>(
        chosen: Option<&SubscriptionSnapshot>,
        others: impl Iterator<Item = &'a SubscriptionSnapshot>,
        stored: &[&str],
    ) -> Self {
        let is_followed = |one: &&SubscriptionSnapshot| {
            stored.contains(&one.subscription.as_str()) || (one.is_live() && !one.items.is_empty())
        };
        let mut companions: Vec<SubscriptionSnapshot> =
            others.filter(is_followed).cloned().collect();
        companions.sort_by(|one, other| {
            (one.created, &one.subscription).cmp(&(other.created, &other.subscription))
        });
        let mut followed = Self {
            chosen: chosen.cloned(),
            companions,
        };
        let charging = followed.all().filter(|one| one.is_charging());
        let charged: Vec<(String, ItemSnapshot)> = charging
            .flat_map(|one| {
                let items = one.items.iter().cloned();
                items.map(|item| (one.subscription.clone(), item))
            })
            .collect();
        for one in followed.chosen.iter_mut().chain(&mut followed.companions) {
            let is_elsewhere = |(subscription, by): &&(String, ItemSnapshot)| {
                *subscription != one.subscription
                    && one.items.iter().all(|own| own.meter != by.meter)
            };
            let elsewhere = charged.iter().filter(is_elsewhere);
            one.elsewhere = elsewhere.map(|(_, item)| item.clone()).collect();
        }
        followed
    }

    /// A subscription that the account's link follows, read alone.
    pub fn only(chosen: SubscriptionSnapshot) -> Self {
        Self {
            chosen: Some(chosen),
            companions: Vec::new(),
        }
    }

    /// A subscription that the account's link does not follow, read alone.
    pub fn only_companion(companion: SubscriptionSnapshot) -> Self {
        Self {
            chosen: None,
            companions: vec![companion],
        }
    }

    /// All of them, the chosen one first.
    pub fn all(&self) -> impl Iterator<Item = &SubscriptionSnapshot> {
        self.chosen.iter().chain(&self.companions)
    }

    /// Whether a subscription is the one that the account's link follows.
    pub fn is_chosen(&self, subscription: &str) -> bool {
        self.chosen
            .as_ref()
            .is_some_and(|chosen| chosen.subscription == subscription)
    }

    /// When the current charge of the live chosen one began: from then on, a link without a date bills.
    pub fn charges_since(&self) -> Option<Millis> {
        let chosen = self.chosen.as_ref().filter(|chosen| chosen.is_live())?;
        chosen.charges_since()
    }
}

/// The subscription that an account's link follows: the one that it names, else the oldest one that bills for a configured
/// meter, else one that was followed before and is live, else the one that ended last.
fn choose_subscription<'a>(
    all: &'a [SubscriptionSnapshot],
    named: Option<&str>,
    stored: &[&str],
) -> Option<&'a SubscriptionSnapshot> {
    if let Some(named) = named
        && let Some(snapshot) = all.iter().find(|snapshot| snapshot.subscription == named)
        && snapshot.is_live()
    {
        return Some(snapshot);
    }
    let oldest_live = |is_one: &dyn Fn(&SubscriptionSnapshot) -> bool| {
        all.iter()
            .filter(|snapshot| snapshot.is_live() && is_one(snapshot))
            .min_by_key(|snapshot| (snapshot.created, &snapshot.subscription))
    };
    let live = oldest_live(&|snapshot| !snapshot.items.is_empty())
        .or_else(|| oldest_live(&|snapshot| stored.contains(&snapshot.subscription.as_str())));
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

/// Whether the chosen subscription can be applied although others of its customer cannot be read: it is live and named, or
/// none of the others is the one that is named or that the account was synced with. Else one of them might be the right
/// one, and a wrong choice ends or moves what is billed.
pub fn is_certain_beside(
    chosen: &SubscriptionSnapshot,
    named: Option<&str>,
    synced: &[&str],
    unreadable: &[Option<&str>],
) -> bool {
    let is_other = |id: &str| Some(id) != named && !synced.contains(&id);
    let is_named = named == Some(&chosen.subscription);
    chosen.is_live() && (is_named || unreadable.iter().all(|id| id.is_some_and(is_other)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        subscription_status::{BillingMode, SubscriptionStatus},
        window::Interval,
    };

    fn with_items(
        subscription: &str,
        created: Millis,
        status: SubscriptionStatus,
        meters: &[&str],
    ) -> SubscriptionSnapshot {
        let item = |meter: &&str| ItemSnapshot {
            item: format!("si_{subscription}_{meter}"),
            price: "price".to_owned(),
            meter: (*meter).to_owned(),
            created,
            period: Interval {
                start: created,
                end: created + 100,
            },
        };
        SubscriptionSnapshot {
            read_at: created,
            subscription: subscription.to_owned(),
            customer: "cus".to_owned(),
            ended_at: (!status.is_live()).then_some(created + 5),
            status,
            billing_mode: BillingMode::Flexible,
            created,
            cancel_at: None,
            trial_end: None,
            items: meters.iter().map(item).collect(),
            elsewhere: Vec::new(),
            all_items: Vec::new(),
        }
    }

    fn snapshot(
        subscription: &str,
        created: Millis,
        ended_at: Option<Millis>,
    ) -> SubscriptionSnapshot {
        let status = match ended_at {
            None => SubscriptionStatus::Active,
            Some(_) => SubscriptionStatus::Canceled,
        };
        SubscriptionSnapshot {
            ended_at,
            ..with_items(subscription, created, status, &["m"])
        }
    }

    #[test]
    fn the_oldest_live_subscription_is_chosen_unless_one_is_named() {
        let all = [
            snapshot("b", 2, None),
            snapshot("a", 1, None),
            snapshot("z", 0, Some(5)),
        ];
        let name = |named| {
            let chosen = choose_subscription(&all, named, &[]);
            chosen.map(|snapshot| snapshot.subscription.as_str())
        };
        assert_eq!(name(None), Some("a"));
        assert_eq!(name(Some("b")), Some("b"));
        assert_eq!(
            name(Some("z")),
            Some("a"),
            "another takes over after its end"
        );
        assert_eq!(name(Some("foreign")), None);
        assert_eq!(
            choose_subscription(&all[2..], None, &[]).map(|snapshot| snapshot.created),
            Some(0)
        );
    }

    #[test]
    fn one_that_was_followed_stays_chosen_without_an_item() {
        let all = [
            with_items("seats", 1, SubscriptionStatus::Active, &[]),
            snapshot("z", 0, Some(5)),
        ];
        let name = |stored: &[&str]| {
            let chosen = choose_subscription(&all, None, stored);
            chosen.map(|snapshot| snapshot.subscription.clone())
        };
        assert_eq!(name(&[]).as_deref(), Some("z"));
        assert_eq!(name(&["seats"]).as_deref(), Some("seats"));
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
        assert!(is_certain_beside(&live, Some("a"), &["other"], &foreign));
        assert!(is_certain_beside(&live, Some("a"), &[], &[None]));
    }

    /// The meters of the companions, with their subscriptions.
    fn companions(followed: &FollowedSubscriptions) -> Vec<(&str, Vec<&str>)> {
        followed
            .companions
            .iter()
            .map(|one| {
                let meters = one.items.iter().map(|item| item.meter.as_str());
                (one.subscription.as_str(), meters.collect())
            })
            .collect()
    }

    #[test]
    fn every_living_subscription_with_a_configured_meter_is_a_companion() {
        use SubscriptionStatus::{Active, Canceled, Paused};
        let all = [
            with_items("third", 3, Active, &["c", "b"]),
            with_items("second", 2, Active, &["a", "b"]),
            with_items("own", 4, Active, &["a"]),
            with_items("seats", 1, Active, &[]),
            with_items("gone", 0, Canceled, &["d"]),
            with_items("paused", 5, Paused, &["e"]),
        ];
        let followed = FollowedSubscriptions::among(&all, Some("own"), &[]);
        assert!(followed.is_chosen("own"));
        let found = companions(&followed);
        assert_eq!(found[0], ("second", vec!["a", "b"]));
        assert_eq!(found[1], ("third", vec!["c", "b"]));
        assert_eq!(found[2], ("paused", vec!["e"]));
        assert_eq!(found.len(), 3);
        let meters = |one: &SubscriptionSnapshot| -> Vec<String> {
            one.elsewhere
                .iter()
                .map(|item| item.meter.clone())
                .collect()
        };
        assert_eq!(meters(&followed.companions[0]), ["c"]);
        assert_eq!(meters(&followed.companions[1]), ["a", "a"]);
        // Those that were followed before are followed to their ends.
        let followed = FollowedSubscriptions::among(&all, Some("own"), &["gone", "seats"]);
        let names: Vec<&str> = companions(&followed).iter().map(|one| one.0).collect();
        assert_eq!(names, ["gone", "seats", "second", "third", "paused"]);
    }

    #[test]
    fn without_a_choice_the_others_are_followed() {
        use SubscriptionStatus::{Active, Canceled};
        let all = [
            with_items("own", 1, Canceled, &["a"]),
            with_items("other", 2, Active, &["b"]),
            with_items("ended", 3, Canceled, &["c"]),
        ];
        let followed = FollowedSubscriptions::without_choice(&all, Some("own"), &["own", "ended"]);
        assert_eq!(followed.chosen, None);
        let names: Vec<&str> = companions(&followed).iter().map(|one| one.0).collect();
        assert_eq!(names, ["other", "ended"]);
    }

    fn status() -> impl Strategy<Value = SubscriptionStatus> {
        use SubscriptionStatus::{Active, Canceled, Paused, Trialing};
        proptest::sample::select(vec![Active, Active, Canceled, Paused, Trialing])
    }

    proptest! {
        #[test]
        fn every_item_that_charges_is_followed(
            made in proptest::collection::vec(
                (0_i64..3, status(), proptest::sample::subsequence(vec!["a", "b", "c"], 0..=3)), 0..6,
            ),
            named in proptest::option::of(0_usize..6),
            stored in proptest::sample::subsequence(vec!["s0", "s1", "s2", "s3", "s4", "s5"], 0..=6),
        ) {
            let all: Vec<SubscriptionSnapshot> = made
                .into_iter()
                .enumerate()
                .map(|(number, (created, status, meters))| {
                    with_items(&format!("s{number}"), created, status, &meters)
                })
                .collect();
            let named = named.map(|number| format!("s{number}"));
            let followed = FollowedSubscriptions::among(&all, named.as_deref(), &stored);
            let Some(chosen) = &followed.chosen else {
                prop_assert!(followed.companions.is_empty());
                return Ok(());
            };
            let original = all.iter().find(|one| one.subscription == chosen.subscription);
            prop_assert_eq!(&original.unwrap().items, &chosen.items, "the chosen one has all");
            let charging = |all: Vec<&SubscriptionSnapshot>| -> BTreeSet<String> {
                let charging = all.into_iter().filter(|one| one.is_charging());
                charging
                    .flat_map(|one| one.items.iter().map(|item| item.item.clone()))
                    .collect()
            };
            prop_assert_eq!(charging(followed.all().collect()), charging(all.iter().collect()));
            let mut reversed = all.clone();
            reversed.reverse();
            prop_assert_eq!(
                FollowedSubscriptions::among(&reversed, named.as_deref(), &stored), followed
            );
        }
    }
}
