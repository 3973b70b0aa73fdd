//! Changes of subscriptions that an admin asks for: another plan, or a cancel.
//!
//! A change loses no usage: usage is at Stripe before its subscription changes, or nothing changes. A change is a row that
//! goes `draining` -> `changing` -> `done`, or `undone` from either. Each step is recorded before it is taken, so whoever
//! continues it after a crash knows what may have happened.
//!
//! [`change`] begins changes and waits for them, [`validate`] refuses those that cannot work, and the job [`unfinished`]
//! makes them ([`apply_change`], [`drain`]).

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
    store::Store,
    stripe::Stripe,
};

/// Changes the subscriptions of linked accounts.
#[derive(Debug)]
pub(crate) struct SubscriptionChanges {
    sync: SubscriptionSync,
    store: Store,
    stripe: Stripe,
    /// By which usage is counted: the boundary of a change lies behind what was counted before it.
    clock: Clock,
    /// How long a change waits for usage to show at Stripe.
    wait_ms: Millis,
    /// Names this replica as the holder of a change.
    replica: String,
    /// The changes begun here, for the job. It also finds in the database what does not fit.
    begun: mpsc::Sender<SubscriptionChange>,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
}

/// What changes need.
#[derive(Debug)]
pub(crate) struct Deps {
    pub(crate) sync: SubscriptionSync,
    pub(crate) clock: Clock,
    pub(crate) wait_ms: Millis,
    pub(crate) replica: String,
    pub(crate) begun: mpsc::Sender<SubscriptionChange>,
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

    /// A new name for the holder of a change: this replica may have held it before and lost it.
    fn new_holder(&self) -> String {
        format!("{}/{}", self.replica, Uuid::now_v7())
    }
}
