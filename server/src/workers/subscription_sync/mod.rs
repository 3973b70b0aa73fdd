//! Syncing subscriptions: what is stored of the linked accounts' subscriptions, billing periods and invoices is what
//! Stripe says.
//!
//! [`sync`] syncs one account. Four jobs decide which and when: [`poll`] all of them once an interval, [`webhooks`] and
//! [`requested`] single ones at once, and [`ended`] those whose known end has come. Changes that an admin asks for are
//! made in `subscription_change`, which uses this module; nothing here uses that one.

pub(crate) mod ended;
pub(crate) mod poll;
pub(crate) mod requested;
pub(crate) mod sync;
pub(crate) mod webhooks;

use std::{collections::HashMap, sync::Arc};

use crate::{
    domain::{
        Millis, SECOND_MS,
        meter::Meters,
        subscription::{ItemSnapshot, SubscriptionSnapshot},
        window::Slots,
    },
    store::Store,
    stripe::{Failure, Stripe, subscriptions::Subscription},
};

/// How much later than their subscription its first items may be created.
const FIRST_ITEMS_MS: Millis = 2 * SECOND_MS;
/// How many customers one job reads from Stripe at the same time.
const SYNCS_AT_ONCE: usize = 8;

/// Syncs the subscriptions of linked accounts.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionSync {
    pub(super) store: Store,
    pub(super) stripe: Stripe,
    pub(super) configured: Arc<Meters>,
    pub(super) slots: Slots,
}

impl SubscriptionSync {
    pub(crate) fn new(store: Store, stripe: Stripe, configured: Arc<Meters>, slots: Slots) -> Self {
        Self {
            store,
            stripe,
            configured,
            slots,
        }
    }

    /// The configured meters by their ids at Stripe, without those that Stripe does not have.
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

/// What of a subscription at Stripe matters here.
pub(super) fn snapshot(
    from: &Subscription,
    meters: &HashMap<String, String>,
) -> SubscriptionSnapshot {
    let items = from.items.iter().filter_map(|item| {
        let meter = meters.get(item.price.meter.as_ref()?)?;
        // What the subscription began with charges its first period from the start, however early that was
        // dated; what was added later charges from then.
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
    SubscriptionSnapshot {
        subscription: from.id.clone(),
        customer: from.customer.clone(),
        status: from.status.clone(),
        billing_mode: from.billing_mode.clone(),
        is_live: from.is_live(),
        created: from.created,
        cancel_at: from.cancel_at,
        ended_at: from.ended_at,
        items: items.collect(),
        all_items: from.items.iter().map(|item| item.id.clone()).collect(),
    }
}
