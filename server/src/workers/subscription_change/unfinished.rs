//! The job for unfinished changes: applies those that were begun here, renews their heartbeats, and continues those
//! that another replica abandoned.
//!
//! Every replica runs it. A change belongs to the holder in its row.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    BegunChange, SubscriptionChanges,
    apply_change::{ASK_INTERVAL, Progress},
};
use crate::{
    domain::{Millis, subscription_change::SubscriptionChange},
    error::Result,
    request_context::{RequestContext, within},
    store::heartbeat::ABANDONED_MS,
    workers::{
        backoff::after_failures,
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
/// The longest wait between two requests without a response from Stripe.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// The number of requests after which a replica abandons the change, so that any replica can take it over.
const MAX_REQUESTS: u32 = 20;

/// Applies changes.
pub(crate) struct UnfinishedChanges {
    changes: Arc<SubscriptionChanges>,
    begun: mpsc::Receiver<BegunChange>,
    interval: Duration,
    /// The steps in progress. Their results are the changes as they are then.
    steps: Tasks<Uuid, (SubscriptionChange, Result<Progress>)>,
    own: HashMap<Uuid, OwnChange>,
}

/// A change that this replica applies.
struct OwnChange {
    change: SubscriptionChange,
    /// The request that began it, if it was begun here.
    request: Option<RequestContext>,
    renewed: Instant,
    /// When its next step is due.
    due: Instant,
    /// The number of requests without a response from Stripe.
    requests: u32,
}

impl OwnChange {
    /// The wait before the next step; `None` if there is none here.
    fn wait_after(&mut self, progress: Progress) -> Option<Duration> {
        match progress {
            Progress::Ended => None,
            Progress::CheckAfter(wait) => Some(wait),
            Progress::Repeat => {
                self.requests = self.requests.saturating_add(1);
                let wait = after_failures(ASK_INTERVAL, self.requests).min(MAX_BACKOFF);
                (self.requests < MAX_REQUESTS).then_some(wait)
            }
        }
    }
}

impl UnfinishedChanges {
    pub(crate) fn new(
        changes: Arc<SubscriptionChanges>,
        begun: mpsc::Receiver<BegunChange>,
        interval: Duration,
    ) -> Self {
        Self {
            steps: Tasks::new(CHANGES_AT_ONCE, changes.signals.change.clone()),
            changes,
            begun,
            interval,
            own: HashMap::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.own.len() >= CHANGES_AT_ONCE
    }

    fn add(&mut self, change: SubscriptionChange, request: Option<RequestContext>) {
        let now = Instant::now();
        let own = OwnChange {
            change,
            request,
            renewed: now,
            due: now,
            requests: 0,
        };
        self.own.insert(own.change.id, own);
    }

    /// Starts the steps that are due. Returns how long it takes until another one is.
    fn start_due(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        for (id, own) in &self.own {
            if self.steps.has(id) {
                continue;
            }
            let wait = own.due.saturating_duration_since(now);
            if wait.is_zero() {
                let changes = Arc::clone(&self.changes);
                let mut change = own.change.clone();
                let request = own.request.clone();
                let request_id = request
                    .as_ref()
                    .map(|request| tracing::field::display(&request.id));
                let span = tracing::error_span!("subscription_change", change = %id, request_id);
                let step = async move {
                    let progress = changes.advance(&mut change).await;
                    (change, progress)
                };
                let step = async move { within(request, step).await }.instrument(span);
                self.steps.start(*id, step);
            } else {
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
        }
        next
    }

    /// Takes the results of the steps that have ended, and forgets the changes that have no other step here.
    fn take_ended(&mut self) {
        for (id, (change, progress)) in self.steps.ended() {
            let Some(own) = self.own.get_mut(&id) else {
                continue;
            };
            let wait = match progress {
                Ok(progress) => own.wait_after(progress),
                Err(error) => {
                    tracing::warn!(change = %id, %error, "a change stopped; a replica continues it");
                    None
                }
            };
            let now = Instant::now();
            match wait.and_then(|wait| now.checked_add(wait)) {
                Some(due) => (own.change, own.due) = (change, due),
                None => {
                    self.own.remove(&id);
                }
            }
        }
    }

    /// Renews the heartbeats that are due. Forgets a change that another replica has taken over.
    async fn renew(&mut self) -> Result<()> {
        let mut lost = Vec::new();
        for (id, own) in &mut self.own {
            if own.renewed.elapsed() < HEARTBEAT {
                continue;
            }
            let store = &self.changes.store;
            let holder = &own.change.holder;
            if store.claim_change(&own.change, holder).await? {
                own.renewed = Instant::now();
            } else {
                lost.push(*id);
            }
        }
        for id in lost {
            self.own.remove(&id);
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
        self.renew().await?;
        while !self.is_full()
            && let Ok(BegunChange { change, request }) = self.begun.try_recv()
        {
            self.add(change, request);
        }
        let store = self.changes.store.clone();
        let left_since = now.saturating_sub(ABANDONED_MS);
        for mut change in store.abandoned_changes(left_since).await? {
            let is_here = self.own.contains_key(&change.id) || self.steps.has(&change.id);
            if self.is_full() || is_here {
                continue;
            }
            let holder = self.changes.new_holder();
            if store.claim_change(&change, &holder).await? {
                tracing::warn!(change = %change.id, step = ?change.step, "a replica abandoned a change; this replica continues it");
                change.holder = holder;
                self.add(change, None);
            }
        }
        Ok(self.start_due().map_or(Next::Wait, Next::WaitAtMost))
    }

    async fn finish(&mut self) {
        self.steps.finish().await;
    }
}
