//! What a run's reports have come to: read from the database once for all of the run's watchers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{run_summary::Summary, wake::Signals};
use crate::{
    domain::{meter::Meters, run::Run},
    error::Result,
    store::Store,
};

/// The longest time between two observations of a run that makes no progress.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two observations of a run.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// After an observation, no run is observed for this many times its duration, so that watching takes a small share of the
/// database's time, whatever the number of watched runs.
const REST: u32 = 20;
/// The longest of these times.
const MAX_REST: Duration = Duration::from_secs(5);

/// The state of a run at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) summary: Summary,
    pub(crate) closing_finished: bool,
    pub(crate) in_earlier_runs: u64,
}

/// An observation, or why there is none.
pub(super) type Observed = std::result::Result<Observation, String>;

/// Observes the runs that are watched here.
#[derive(Debug)]
pub(super) struct Observer {
    store: Store,
    meters: Arc<Meters>,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
    /// One task for each watched run.
    tasks: TaskTracker,
    watched: Watched,
    /// Locked by the run that is observed, and during the rest after it.
    turn: tokio::sync::Mutex<()>,
}

/// The runs that are watched.
#[derive(Debug, Default)]
struct Watched {
    by_run: Mutex<HashMap<Uuid, Weak<Shown>>>,
}

/// Shows the observations of a run to its watchers, who notice when the task that owns it ends.
type Shown = watch::Sender<Option<Observed>>;

impl Watched {
    /// The run's observations. The first watcher also gets what shows them, and has to start observing.
    fn subscribe(&self, run: Uuid) -> (watch::Receiver<Option<Observed>>, Option<Arc<Shown>>) {
        let mut by_run = self.lock();
        if let Some(shown) = by_run.get(&run).and_then(Weak::upgrade) {
            return (shown.subscribe(), None);
        }
        by_run.retain(|_, shown| shown.strong_count() > 0);
        let shown = Arc::new(watch::Sender::new(None));
        by_run.insert(run, Arc::downgrade(&shown));
        (shown.subscribe(), Some(shown))
    }

    /// Shows an observation to the watchers. Returns false, and forgets the run, if there are none.
    fn show(&self, run: Uuid, shown: &Shown, observed: Observed) -> bool {
        // Under the lock, so that no watcher subscribes meanwhile.
        let mut by_run = self.lock();
        if shown.receiver_count() == 0 {
            by_run.remove(&run);
            return false;
        }
        shown.send_replace(Some(observed));
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Weak<Shown>>> {
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer {
    pub(super) fn new(
        store: Store,
        meters: Arc<Meters>,
        signals: Arc<Signals>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            meters,
            signals,
            shutdown,
            tasks: TaskTracker::new(),
            watched: Watched::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// The observations of a run; the first one comes soon. All watchers share them.
    pub(super) fn observe(self: &Arc<Self>, run: &Run) -> watch::Receiver<Option<Observed>> {
        let (receiver, shown) = self.watched.subscribe(run.id);
        if let Some(shown) = shown {
            let (observer, run) = (Arc::clone(self), run.clone());
            self.tasks
                .spawn(async move { observer.keep_observing(&run, &shown).await });
        }
        receiver
    }

    /// Waits for the observations to end, after the shutdown or the last watcher.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Observes a run until it has no watchers, or until the shutdown.
    async fn keep_observing(&self, run: &Run, shown: &Shown) {
        loop {
            let progress = self.signals.progress.notified();
            let Some(turn) = self.until_shutdown(self.turn.lock()).await else {
                return;
            };
            let begun = Instant::now();
            let observed = self.observation(run).await;
            let observed = observed.map_err(|error| error.to_string());
            if !self.watched.show(run.id, shown, observed) {
                return;
            }
            let rest = begun.elapsed().saturating_mul(REST).min(MAX_REST);
            let next = async move {
                sleep(rest).await;
                drop(turn);
                sleep(MIN_INTERVAL).await;
                tokio::select! {
                    () = progress => {}
                    () = sleep(MAX_INTERVAL) => {}
                }
            };
            if self.until_shutdown(next).await.is_none() {
                return;
            }
        }
    }

    async fn until_shutdown<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.shutdown.run_until_cancelled(work).await
    }

    async fn observation(&self, run: &Run) -> Result<Observation> {
        let meters = self.meters.names_of_all();
        let closing_finished_at = self.store.get_run(run.id).await?.closing_finished_at;
        let summary = Summary::of(&self.store.run_counts(run.id).await?);
        // In between, another run may have closed reports in this run's scope.
        let until = match closing_finished_at {
            Some(at) => at,
            None => self.store.shared_now().await?,
        };
        let in_earlier_runs = self
            .store
            .count_pending_elsewhere(run, &meters, until)
            .await?;
        Ok(Observation {
            summary,
            closing_finished: closing_finished_at.is_some(),
            in_earlier_runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_of_a_run_share_its_observations_until_the_last_one_leaves() {
        let watched = Watched::default();
        let run = Uuid::now_v7();
        let (first, shown) = watched.subscribe(run);
        let shown = shown.expect("the first watcher starts observing");
        let (mut second, again) = watched.subscribe(run);
        assert!(again.is_none(), "it is observed already");
        let seen = Observation {
            in_earlier_runs: 7,
            ..Observation::default()
        };
        assert!(watched.show(run, &shown, Ok(seen)));
        assert!(second.has_changed().unwrap());
        assert_eq!(*second.borrow_and_update(), Some(Ok(seen)));
        drop(first);
        assert!(watched.show(run, &shown, Ok(seen)));
        drop(second);
        assert!(!watched.show(run, &shown, Ok(seen)), "no watcher is left");
        let (next, another) = watched.subscribe(run);
        assert!(another.is_some(), "before the earlier task ended");
        drop(shown);
        assert!(watched.subscribe(run).1.is_none());
        drop(another);
        assert!(next.has_changed().is_err(), "its task ended");
    }
}
