//! The job for unfinished changes: applies those that were begun here, and continues those that another replica
//! abandoned.
//!
//! Every replica runs it. A change belongs to the holder in its row.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::SubscriptionChanges;
use crate::{
    domain::{Millis, SECOND_MS, subscription_change::SubscriptionChange},
    error::Result,
    workers::{
        job::{Job, Next, Spec, Turn},
        tasks::Tasks,
    },
};

/// The number of changes of this replica that may wait.
pub(crate) const MAX_BEGUN: usize = 1_024;
/// The number of changes that one replica applies concurrently. Each of them mostly waits for Stripe.
const CHANGES_AT_ONCE: usize = 64;
/// A change without a heartbeat for this long was abandoned.
const ABANDONED_MS: Millis = 30 * SECOND_MS;

/// Applies changes.
pub(crate) struct UnfinishedChanges {
    changes: Arc<SubscriptionChanges>,
    begun: mpsc::Receiver<SubscriptionChange>,
    interval: Duration,
    tasks: Tasks<Uuid>,
}

impl UnfinishedChanges {
    pub(crate) fn new(
        changes: Arc<SubscriptionChanges>,
        begun: mpsc::Receiver<SubscriptionChange>,
        interval: Duration,
    ) -> Self {
        Self {
            tasks: Tasks::new(CHANGES_AT_ONCE, changes.signals.change.clone()),
            changes,
            begun,
            interval,
        }
    }

    fn start(&mut self, change: SubscriptionChange) {
        let changes = Arc::clone(&self.changes);
        let id = change.id;
        self.tasks.start(id, async move {
            if let Err(error) = changes.make(change).await {
                tracing::warn!(change = %id, %error, "a change stopped; a replica continues it");
            }
        });
    }
}

impl Job for UnfinishedChanges {
    fn spec(&self) -> Spec {
        Spec {
            name: "unfinished changes",
            interval: self.interval,
            turn: Turn::EveryReplica,
            wake: self.changes.signals.change.clone(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        self.tasks.ended();
        while self.tasks.free() > 0
            && let Ok(change) = self.begun.try_recv()
        {
            self.start(change);
        }
        let store = self.changes.store.clone();
        let left_since = now.saturating_sub(ABANDONED_MS);
        for mut change in store.abandoned_changes(left_since).await? {
            if self.tasks.free() == 0 || self.tasks.has(&change.id) {
                continue;
            }
            let holder = self.changes.new_holder();
            if store.hold_change(&change, &holder, now).await? {
                tracing::warn!(change = %change.id, step = ?change.step, "a replica abandoned a change; this replica continues it");
                change.holder = holder;
                self.start(change);
            }
        }
        Ok(Next::Wait)
    }

    async fn finish(&mut self) {
        self.tasks.finish().await;
    }
}
