//! What a run's reports have come to: read from the database once for all of the run's watchers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{observation_turns::ObservationTurns, run_summary::Summary, wake::Signals};
use crate::{
    domain::{meter::Meters, run::Run},
    error::Result,
    store::Store,
};

/// The longest time between two observations of a run that makes no progress.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two observations of a run.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
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
    turns: ObservationTurns,
}

/// The runs that are watched.
#[derive(Debug, Default)]
struct Watched {
    by_run: Mutex<HashMap<Uuid, Weak<Shown>>>,
}

/// Shows the observations of a run to its watchers, who notice when the task that owns it ends.
#[derive(Debug)]
struct Shown {
    last: watch::Sender<Option<Numbered>>,
    numbers: Mutex<Numbers>,
    /// Told when a watcher comes.
    came: Notify,
}

/// An observation, and how many had begun with it.
#[derive(Clone, Debug)]
struct Numbered {
    number: u64,
    observed: Observed,
}

/// The observations of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    /// How many have begun.
    begun: u64,
    /// The first one that the newest watcher sees.
    wanted: u64,
}

impl Shown {
    fn new() -> Self {
        Self {
            last: watch::Sender::new(None),
            numbers: Mutex::default(),
            came: Notify::new(),
        }
    }

    /// A watcher sees what is observed from now on: one that has begun already may not have what ended meanwhile.
    fn watch(&self) -> Watcher {
        let mut numbers = self.numbers();
        let after = numbers.begun;
        numbers.wanted = after.saturating_add(1);
        drop(numbers);
        self.came.notify_waiters();
        Watcher {
            last: self.last.subscribe(),
            after,
        }
    }

    /// The number of an observation that begins now.
    fn begin(&self) -> u64 {
        let mut numbers = self.numbers();
        numbers.begun = numbers.begun.saturating_add(1);
        numbers.begun
    }

    /// Whether a watcher waits for its first observation, which has not begun.
    fn is_wanted(&self) -> bool {
        let numbers = self.numbers();
        numbers.wanted > numbers.begun
    }

    /// Waits for a watcher that waits for its first observation.
    async fn wanted(&self) {
        loop {
            let came = self.came.notified();
            if self.is_wanted() {
                return;
            }
            came.await;
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees the observations of a run that began after it came.
#[derive(Debug)]
pub(super) struct Watcher {
    last: watch::Receiver<Option<Numbered>>,
    after: u64,
}

impl Watcher {
    /// The next observation; none if there will be no more.
    pub(super) async fn next(&mut self) -> Option<Observed> {
        loop {
            self.last.changed().await.ok()?;
            let seen = self.last.borrow_and_update();
            if let Some(seen) = seen.as_ref().filter(|seen| seen.number > self.after) {
                return Some(seen.observed.clone());
            }
        }
    }
}

impl Watched {
    /// A watcher of a run. The first one also gets what shows the observations, and has to start observing.
    fn subscribe(&self, run: Uuid) -> (Watcher, Option<Arc<Shown>>) {
        let mut by_run = self.lock();
        if let Some(shown) = by_run.get(&run).and_then(Weak::upgrade) {
            return (shown.watch(), None);
        }
        by_run.retain(|_, shown| shown.strong_count() > 0);
        let shown = Arc::new(Shown::new());
        by_run.insert(run, Arc::downgrade(&shown));
        (shown.watch(), Some(shown))
    }

    /// Whether a run has watchers. Without any, it is forgotten.
    fn keep(&self, run: Uuid, shown: &Shown) -> bool {
        // Under the lock, so that no watcher subscribes meanwhile.
        let mut by_run = self.lock();
        let is_watched = shown.last.receiver_count() > 0;
        if !is_watched {
            by_run.remove(&run);
        }
        is_watched
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Weak<Shown>>> {
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
            turns: ObservationTurns::default(),
        })
    }

    /// The observations of a run, from one on that begins at once. All watchers share them.
    pub(super) fn observe(self: &Arc<Self>, run: &Run) -> Watcher {
        let (watcher, shown) = self.watched.subscribe(run.id);
        if let Some(shown) = shown {
            let (observer, run) = (Arc::clone(self), run.clone());
            self.tasks
                .spawn(async move { observer.keep_observing(&run, &shown).await });
        }
        watcher
    }

    /// Waits for the observations to end, after the shutdown or the last watcher.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Observes a run until it has no watchers, or until the shutdown.
    async fn keep_observing(&self, run: &Run, shown: &Shown) {
        while self.watched.keep(run.id, shown) {
            let progress = self.signals.progress.notified();
            let turn = self.turns.take(|| shown.is_wanted(), shown.wanted());
            let Some(mut turn) = self.until_shutdown(turn).await else {
                return;
            };
            let number = shown.begin();
            let begun = Instant::now();
            let observed = self.observation(run).await;
            let observed = observed.map_err(|error| error.to_string());
            shown.last.send_replace(Some(Numbered { number, observed }));
            let rest = turn.rest(begun.elapsed());
            drop(turn);
            let next = async move {
                sleep(rest.saturating_add(MIN_INTERVAL)).await;
                tokio::select! {
                    () = progress => {}
                    () = sleep(MAX_INTERVAL) => {}
                }
            };
            let next = async {
                tokio::select! {
                    () = next => {}
                    () = shown.wanted() => {}
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
    use futures_util::FutureExt as _;

    use super::*;

    fn seen(in_earlier_runs: u64) -> Observation {
        Observation {
            in_earlier_runs,
            ..Observation::default()
        }
    }

    fn show(shown: &Shown, number: u64, in_earlier_runs: u64) {
        let observed = Ok(seen(in_earlier_runs));
        shown.last.send_replace(Some(Numbered { number, observed }));
    }

    #[test]
    fn watchers_of_a_run_share_its_observations_until_the_last_one_leaves() {
        let watched = Watched::default();
        let run = Uuid::now_v7();
        let (first, shown) = watched.subscribe(run);
        let shown = shown.expect("the first watcher starts observing");
        let (mut second, again) = watched.subscribe(run);
        assert!(again.is_none(), "it is observed already");
        show(&shown, shown.begin(), 7);
        assert_eq!(second.next().now_or_never(), Some(Some(Ok(seen(7)))));
        drop(first);
        assert!(watched.keep(run, &shown));
        drop(second);
        assert!(!watched.keep(run, &shown), "no watcher is left");
        let (mut next, another) = watched.subscribe(run);
        assert!(another.is_some(), "before the earlier task ended");
        drop(shown);
        assert!(watched.subscribe(run).1.is_none());
        drop(another);
        assert_eq!(next.next().now_or_never(), Some(None), "its task ended");
    }

    #[test]
    fn a_new_watcher_sees_nothing_that_began_before_it_came() {
        let watched = Watched::default();
        let run = Uuid::now_v7();
        let (mut first, shown) = watched.subscribe(run);
        let shown = shown.unwrap();
        assert!(shown.is_wanted());
        let begun = shown.begin();
        assert!(!shown.is_wanted());
        let (mut second, _) = watched.subscribe(run);
        assert!(shown.is_wanted());
        show(&shown, begun, 1);
        assert_eq!(first.next().now_or_never(), Some(Some(Ok(seen(1)))));
        assert_eq!(second.next().now_or_never(), None);
        // Nor what was shown last.
        let (mut third, _) = watched.subscribe(run);
        assert_eq!(third.next().now_or_never(), None);
        let next = shown.begin();
        assert!(!shown.is_wanted());
        show(&shown, next, 2);
        for watcher in [&mut first, &mut second, &mut third] {
            assert_eq!(watcher.next().now_or_never(), Some(Some(Ok(seen(2)))));
        }
    }

    #[test]
    fn a_watcher_that_comes_ends_the_wait_for_the_next_observation() {
        let watched = Watched::default();
        let run = Uuid::now_v7();
        let (_first, shown) = watched.subscribe(run);
        let shown = shown.unwrap();
        shown.begin();
        let mut wanted = Box::pin(shown.wanted());
        assert!((&mut wanted).now_or_never().is_none());
        let (_second, _) = watched.subscribe(run);
        assert!(wanted.now_or_never().is_some());
    }
}
