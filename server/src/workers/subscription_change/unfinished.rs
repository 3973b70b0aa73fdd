//! The job for unfinished changes: applies those that were begun here, renews their heartbeats, and continues those
//! that another replica abandoned.
//!
//! Every replica runs it. A change belongs to the holder in its row.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::SubscriptionChanges;
use crate::{
    domain::{Millis, subscription_change::SubscriptionChange},
    error::Result,
    store::heartbeat::ABANDONED_MS,
    workers::{
        job::{Job, Next, Spec, Turn},
        tasks::Tasks,
    },
};

/// The number of changes of this replica that may wait.
pub(crate) const MAX_BEGUN: usize = 1_024;
/// The number of changes that one replica applies concurrently. Each of them mostly waits for Stripe.
const CHANGES_AT_ONCE: usize = 64;
/// The interval of a change's heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Applies changes.
pub(crate) struct UnfinishedChanges {
    changes: Arc<SubscriptionChanges>,
    begun: mpsc::Receiver<SubscriptionChange>,
    interval: Duration,
    tasks: Tasks<Uuid>,
    held: HashMap<Uuid, Held>,
}

/// A change that this replica applies.
struct Held {
    change: SubscriptionChange,
    renewed: Instant,
    /// Cancelled at the shutdown, and if another replica has taken the change over.
    stop: CancellationToken,
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
            held: HashMap::new(),
        }
    }

    fn start(&mut self, change: SubscriptionChange) {
        let changes = Arc::clone(&self.changes);
        let id = change.id;
        let held = Held {
            change: change.clone(),
            renewed: Instant::now(),
            stop: self.changes.shutdown.child_token(),
        };
        let stop = held.stop.clone();
        self.held.insert(id, held);
        self.tasks.start(id, async move {
            if let Err(error) = changes.make(change, &stop).await {
                tracing::warn!(change = %id, %error, "a change stopped; a replica continues it");
            }
        });
    }

    /// Forgets the changes that have ended here.
    fn take_ended(&mut self) {
        for (id, ()) in self.tasks.ended() {
            self.held.remove(&id);
        }
    }

    /// Renews the heartbeats that are due. Stops a change that another replica has taken over.
    async fn renew(&mut self, now: Millis) -> Result<()> {
        for held in self.held.values_mut() {
            if held.renewed.elapsed() < HEARTBEAT {
                continue;
            }
            let change = &held.change;
            let store = &self.changes.store;
            if store.claim_change(change, &change.holder, now).await? {
                held.renewed = Instant::now();
            } else {
                held.stop.cancel();
            }
        }
        Ok(())
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
        self.take_ended();
        self.renew(now).await?;
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
            if store.claim_change(&change, &holder, now).await? {
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
