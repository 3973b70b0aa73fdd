//! What a run's reports have come to: read from the database once for all of the run's watchers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
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
    by_run: Mutex<HashMap<Uuid, watch::Sender<Option<Observed>>>>,
}

impl Observations {
    /// The run's observations. The flag says that the caller is the first watcher and has to start observing.
    fn subscribe(&self, run: Uuid) -> (watch::Receiver<Option<Observed>>, bool) {
        let mut by_run = self.lock();
        let is_new = !by_run.contains_key(&run);
        let sender = by_run
            .entry(run)
            .or_insert_with(|| watch::Sender::new(None));
        (sender.subscribe(), is_new)
    }

    /// Shows an observation to the watchers. Returns false, and forgets the run, if there are none.
    fn show(&self, run: Uuid, observed: Observed) -> bool {
        let mut by_run = self.lock();
        let Some(sender) = by_run.get(&run) else {
            return false;
        };
        if sender.receiver_count() == 0 {
            by_run.remove(&run);
            return false;
        }
        sender.send_replace(Some(observed));
        true
    }

    fn forget(&self, run: Uuid) {
        self.lock().remove(&run);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, watch::Sender<Option<Observed>>>> {
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// The observations of a run; the first one follows soon. All watchers share them.
    pub(super) fn observe(self: &Arc<Self>, run: &Run) -> watch::Receiver<Option<Observed>> {
        let (receiver, is_new) = self.observations.subscribe(run.id);
        if is_new {
            let (reporter, run) = (Arc::clone(self), run.clone());
            self.watchers.spawn(async move {
                reporter.keep_observing(&run).await;
                reporter.observations.forget(run.id);
            });
        }
        receiver
    }

    async fn keep_observing(&self, run: &Run) {
        loop {
            let progress = self.signals.progress.notified();
            let begun = Instant::now();
            let observed = self.observation(run).await;
            if !self
                .observations
                .show(run.id, observed.map_err(|error| error.to_string()))
            {
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
        let (first, is_new) = observations.subscribe(run);
        assert!(is_new);
        let (mut second, is_new) = observations.subscribe(run);
        assert!(!is_new, "it is observed already");
        let seen = Observation {
            in_earlier_runs: 7,
            ..Observation::default()
        };
        assert!(observations.show(run, Ok(seen)));
        assert!(second.has_changed().unwrap());
        assert_eq!(*second.borrow_and_update(), Some(Ok(seen)));
        drop(first);
        assert!(observations.show(run, Ok(seen)));
        drop(second);
        assert!(!observations.show(run, Ok(seen)), "no watcher is left");
        assert!(observations.subscribe(run).1);
    }
}
