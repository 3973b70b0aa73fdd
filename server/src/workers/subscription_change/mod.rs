//! Changes of subscriptions that an admin requests: another plan, or a cancellation.
//!
//! A change loses no usage: Stripe has all usage before the subscription changes, or nothing changes. A change is a row
//! with the steps `draining` -> `changing` -> `done`, or from either to `undone`, `refused` or `aborted`. Each step is stored
//! before it is executed, so a replica that continues it after a crash knows what may have happened.
//!
//! [`change`] begins changes and waits for them, [`validate`] rejects invalid ones, the job [`unfinished`] applies them
//! ([`apply_change`], [`drain`]), and [`abort`] ends one for an admin.

pub(crate) mod abort;
mod apply_change;
pub(crate) mod change;
mod drain;
pub(crate) mod unfinished;
mod validate;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{subscription_sync::SubscriptionSync, wake::Signals};
use crate::{
    clock::Clock,
    domain::{Millis, subscription_change::SubscriptionChange},
    request_context::RequestContext,
    store::Store,
    stripe::Stripe,
};

/// Changes the subscriptions of linked accounts.
#[derive(Debug)]
pub(crate) struct SubscriptionChanges {
    sync: SubscriptionSync,
    store: Store,
    stripe: Stripe,
    /// The clock by which usage is counted. The boundary of a change is later than all usage counted before it.
    clock: Clock,
    /// How long a change waits until Stripe's totals include its usage.
    wait_ms: Millis,
    /// The name of this replica as the holder of changes.
    replica: String,
    /// The changes begun here, for the job. If the queue is full, the job finds a change in the database.
    begun: mpsc::Sender<BegunChange>,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
}

/// A change that was begun here, and the request that began it.
#[derive(Debug)]
pub(crate) struct BegunChange {
    change: SubscriptionChange,
    request: Option<RequestContext>,
}

/// Dependencies of changes.
#[derive(Debug)]
pub(crate) struct Deps {
    pub(crate) sync: SubscriptionSync,
    pub(crate) clock: Clock,
    pub(crate) wait_ms: Millis,
    pub(crate) replica: String,
    pub(crate) begun: mpsc::Sender<BegunChange>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) shutdown: CancellationToken,
}

impl SubscriptionChanges {
    pub(crate) fn new(deps: Deps) -> Arc<Self> {
        Arc::new(Self {
            store: deps.sync.store.clone(),
            stripe: deps.sync.stripe.clone(),
            sync: deps.sync,
            clock: deps.clock,
            wait_ms: deps.wait_ms,
            replica: deps.replica,
            begun: deps.begun,
            signals: deps.signals,
            shutdown: deps.shutdown,
        })
    }

    /// A new name for the holder of a change, because this replica may have been its holder before and lost it.
    fn new_holder(&self) -> String {
        format!("{}/{}", self.replica, Uuid::now_v7())
    }
}
