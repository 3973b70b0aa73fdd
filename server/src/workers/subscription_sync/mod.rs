//! Syncs subscriptions: keeps the stored subscriptions, billing periods and invoices of linked accounts equal to
//! Stripe's.
//!
//! [`sync`] syncs one account, [`listed`] those on a list. Four jobs decide which account and when: [`poll`] all of them once per interval,
//! [`webhooks`] and [`requested`] single ones immediately, and [`ended`] those whose scheduled end has passed. Changes
//! that an admin requests are in `subscription_change`, which uses this module; nothing here uses that one.

mod link_check;
mod listed;
mod look_up;
pub(crate) mod poll;
pub(crate) mod requested;
pub(crate) mod scheduled_cancels;
pub(crate) mod sync;
pub(crate) mod webhooks;

use std::{collections::HashMap, sync::Arc, time::Duration};

pub(crate) use link_check::CheckedLink;

use crate::{
    domain::{
        Millis, SECOND_MS,
        meter::Meters,
        subscription::{ItemSnapshot, PricedItem, SubscriptionSnapshot},
        window::Slots,
    },
    error::Error,
    store::Store,
    stripe::{Failure, Stripe, subscriptions::Subscription},
};

/// How much later than a subscription its first items may be created. Less than the two seconds that a plan change waits:
/// its new items charge from the change on.
const FIRST_ITEMS_MS: Millis = SECOND_MS;
/// The number of customers that one job reads from Stripe concurrently.
const SYNCS_AT_ONCE: usize = 8;

/// Syncs the subscriptions of linked accounts.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionSync {
    pub(super) store: Store,
    pub(super) stripe: Stripe,
    pub(super) configured: Arc<Meters>,
    pub(super) slots: Slots,
    /// How long Stripe is asked before a link is stored. A caller waits for it.
    link_check_time: Duration,
}

impl SubscriptionSync {
    pub(crate) fn new(
        store: Store,
        stripe: Stripe,
        configured: Arc<Meters>,
        slots: Slots,
        link_check_time: Duration,
    ) -> Self {
        Self {
            store,
            stripe,
            configured,
            slots,
            link_check_time,
        }
    }

    /// The moment of a reading, for what is read after it. All replicas share the clock, right or wrong, so it shows which
    /// of two readings was first.
    pub(super) async fn read_at(&self) -> Result<Millis, Error> {
        self.store.shared_now().await
    }

    /// The moment after an answer of Stripe to an own change: whatever was read before may lack the change.
    pub(super) async fn changed_at(&self) -> Result<Millis, Error> {
        self.store.now_as_read().await
    }

    /// The configured meters by their ids at Stripe. Meters that do not exist at Stripe are left out.
    pub(super) async fn meters(&self) -> Result<HashMap<String, String>, Failure> {
        let mut meters = HashMap::new();
        for name in self.configured.names_of_all() {
            let Some(meter) = self.configured.find(name) else {
                continue;
            };
            match self.stripe.meter_id(&meter.event_name).await {
                Ok(id) => {
                    meters.insert(id, name.to_owned());
                }
                Err(Failure::NoMeter(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(meters)
    }
}

/// The parts of a Stripe subscription that matter here, as read at a time.
pub(super) fn snapshot(
    from: &Subscription,
    meters: &HashMap<String, String>,
    read_at: Millis,
) -> SubscriptionSnapshot {
    let items = from.items.iter().filter_map(|item| {
        let meter = meters.get(item.price.meter.as_ref()?)?;
        // An item that the subscription started with charges its first period from the start, even if that was
        // backdated. An item that was added later charges from then on.
        let is_original = item.created <= from.created.saturating_add(FIRST_ITEMS_MS);
        Some(ItemSnapshot {
            item: item.id.clone(),
            price: item.price.id.clone(),
            meter: meter.clone(),
            created: if is_original {
                item.created.min(item.period.start)
            } else {
                item.created
            },
            period: item.period,
        })
    });
    let all_items = from.items.iter().map(|item| PricedItem {
        item: item.id.clone(),
        price: item.price.id.clone(),
    });
    SubscriptionSnapshot {
        read_at,
        subscription: from.id.clone(),
        customer: from.customer.clone(),
        status: from.status.clone(),
        billing_mode: from.billing_mode.clone(),
        created: from.created,
        cancel_at: from.cancel_at,
        ended_at: from.ended_at,
        trial_end: from.trial_end,
        items: items.collect(),
        elsewhere: Vec::new(),
        all_items: all_items.collect(),
    }
}
