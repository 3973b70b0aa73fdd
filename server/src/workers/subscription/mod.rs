//! Subscriptions: what Stripe says of them is synced, and what admins ask is done to them.
//!
//! [`follow`] keeps plan, status and billing periods of each account true by asking Stripe; webhooks only
//! wake it early. [`change`] moves an account to another plan or cancels it, so that nothing that was used is
//! lost on the way.

mod apply_change;
pub(crate) mod change;
mod drain;
pub(crate) mod sync;
mod sync_loop;
mod validate;
mod webhooks;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Mutex, Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    clock::Clock,
    domain::{
        Millis, SECOND_MS,
        meter::Meters,
        subscription::{ItemSnapshot, SubscriptionSnapshot},
        window::Slots,
    },
    store::Store,
    stripe::{Failure, Stripe, subscriptions::Subscription},
    workers::reporter::Reporter,
};

/// How much later than their subscription its first items may be made.
const ORIGINAL_MS: Millis = 2 * SECOND_MS;

/// How the room is set up.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionOptions {
    pub(crate) meters: Arc<Meters>,
    pub(crate) slots: Slots,
    /// How often Stripe is asked for all subscriptions.
    pub(crate) interval_ms: Millis,
    /// How long a change waits for usage to show at Stripe.
    pub(crate) change_wait_ms: Millis,
    /// How long nothing to do is waited out.
    pub(crate) idle: Duration,
}

/// After how many questions in a row that Stripe did not answer a look asks no more.
const MOST_UNANSWERED: u32 = 5;

/// Follows and changes the subscriptions of the linked accounts.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    store: Store,
    clock: Clock,
    stripe: Stripe,
    reporter: Arc<Reporter>,
    options: SubscriptionOptions,
    /// Names this replica as the holder of a lease or of an change.
    replica: String,
    /// Told when a webhook came.
    wake: Arc<Notify>,
    /// Tells the verifier that Stripe dropped something.
    verify_now: Arc<Notify>,
    /// Webhooks that Stripe did not answer for at the last look.
    again: Mutex<HashSet<String>>,
    /// Told when there is something to send.
    closed: Arc<Notify>,
    shutdown: CancellationToken,
    /// Work that outlives the call that asked for it.
    tasks: TaskTracker,
}

/// What the room works with.
#[derive(Debug)]
pub(crate) struct Deps {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) stripe: Stripe,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) verify_now: Arc<Notify>,
    pub(crate) closed: Arc<Notify>,
    pub(crate) shutdown: CancellationToken,
}

impl Subscriptions {
    pub(crate) fn new(around: Deps, options: SubscriptionOptions) -> Arc<Self> {
        Arc::new(Self {
            store: around.store,
            clock: around.clock,
            stripe: around.stripe,
            reporter: around.reporter,
            verify_now: around.verify_now,
            options,
            replica: Uuid::now_v7().to_string(),
            wake: around.wake,
            again: Mutex::default(),
            closed: around.closed,
            shutdown: around.shutdown,
            tasks: TaskTracker::new(),
        })
    }

    /// Waits for the work that is under way.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The configured meters by their ids at Stripe; those that Stripe does not have are left out.
    async fn meters(&self) -> Result<HashMap<String, String>, Failure> {
        let mut meters = HashMap::new();
        for name in self.options.meters.names_of_all() {
            let Some(meter) = self.options.meters.find(name) else {
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
fn snapshot(from: &Subscription, meters: &HashMap<String, String>) -> SubscriptionSnapshot {
    let items = from.items.iter().filter_map(|item| {
        let meter = meters.get(item.price.meter.as_ref()?)?;
        // What the subscription began with charges its first period from the start, however early that was
        // dated; what was added later charges from then.
        let is_original = item.created <= from.created.saturating_add(ORIGINAL_MS);
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
