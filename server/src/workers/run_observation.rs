//! What a run's reports have come to: read from the database once for all of the run's watchers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

use super::{reporter::Reporter, run_summary::Summary};
use crate::{domain::run::Run, error::Result};

/// The longest time between two observations.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two observations of a run whose counts cost nothing.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// An observation is repeated after this many times its duration, so that watching takes a small share of the database's
/// time.
const SHARE: u32 = 20;

/// The state of a run at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) summary: Summary,
    pub(crate) closing_finished: bool,
    pub(crate) in_earlier_runs: u64,
}

/// An observation, or why there is none.
pub(super) type Observed = std::result::Result<Observation, String>;

/// The runs that are watched here.
#[derive(Debug, Default)]
pub(super) struct Observations {
    by_run: Mutex<HashMap<Uuid, Weak<Shown>>>,
}

/// Shows the observations of a run to its watchers, who notice when the task that owns it ends.
type Shown = watch::Sender<Option<Observed>>;

impl Observations {
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

impl Reporter {
    /// The observations of a run; the first one follows soon. All watchers share them.
    pub(super) fn observe(self: &Arc<Self>, run: &Run) -> watch::Receiver<Option<Observed>> {
        let (receiver, shown) = self.observations.subscribe(run.id);
        if let Some(shown) = shown {
            let (reporter, run) = (Arc::clone(self), run.clone());
            self.watchers
                .spawn(async move { reporter.keep_observing(&run, &shown).await });
        }
        receiver
    }

    async fn keep_observing(&self, run: &Run, shown: &Shown) {
        loop {
            let progress = self.signals.progress.notified();
            let begun = Instant::now();
            let observed = self.observation(run).await;
            let observed = observed.map_err(|error| error.to_string());
            if !self.observations.show(run.id, shown, observed) {
                return;
            }
            let took = begun.elapsed().saturating_mul(SHARE);
            let wait = took.clamp(MIN_INTERVAL, MAX_INTERVAL);
            let earliest = Instant::now().checked_add(wait).unwrap_or(begun);
            let next = async {
                tokio::select! {
                    () = progress => {}
                    () = sleep(MAX_INTERVAL) => {}
                }
                sleep_until(earliest).await;
            };
            if self.shutdown.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
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
        let observations = Observations::default();
        let run = Uuid::now_v7();
        let (first, shown) = observations.subscribe(run);
        let shown = shown.expect("the first watcher starts observing");
        let (mut second, again) = observations.subscribe(run);
        assert!(again.is_none(), "it is observed already");
        let seen = Observation {
            in_earlier_runs: 7,
            ..Observation::default()
        };
        assert!(observations.show(run, &shown, Ok(seen)));
        assert!(second.has_changed().unwrap());
        assert_eq!(*second.borrow_and_update(), Some(Ok(seen)));
        drop(first);
        assert!(observations.show(run, &shown, Ok(seen)));
        drop(second);
        assert!(
            !observations.show(run, &shown, Ok(seen)),
            "no watcher is left"
        );
        let (next, another) = observations.subscribe(run);
        assert!(another.is_some(), "before the earlier task ended");
        drop(shown);
        assert!(observations.subscribe(run).1.is_none());
        drop(another);
        assert!(next.has_changed().is_err(), "its task ended");
    }
}
