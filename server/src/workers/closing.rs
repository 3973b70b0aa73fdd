//! The closing job: closes the reports of the runs that were begun here, and of runs that another replica abandoned.
//!
//! Every replica runs it. Closing is idempotent, so an abandoned run is closed again from the start.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    job::{Job, Next, Spec, Turn},
    reporter::BegunRun,
    retries::Retries,
    run_result::RunResults,
    tasks::Tasks,
    wake::Signals,
};
use crate::{
    domain::{Millis, run::Run},
    error::{Error, Result},
    store::{Store, heartbeat::ABANDONED_MS},
};

/// The number of runs of this replica that may wait.
pub(crate) const MAX_BEGUN: usize = 1_024;
/// The number of runs that are closed concurrently, so that a run over all accounts does not delay one over a single
/// account.
const RUNS_AT_ONCE: usize = 8;

/// Closes the reports of runs.
pub(crate) struct Closing {
    closer: Closer,
    interval: Duration,
    begun: mpsc::Receiver<BegunRun>,
    /// Their results are the runs whose closing failed.
    tasks: Tasks<Uuid, Option<BegunRun>>,
    /// The runs whose closing failed. It is repeated, with a backoff.
    failed: HashMap<Uuid, BegunRun>,
    retries: Retries<Uuid>,
}

/// Dependencies of closing one run.
#[derive(Clone)]
struct Closer {
    store: Store,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
    results: RunResults,
}

impl Closing {
    pub(crate) fn new(
        store: Store,
        signals: Arc<Signals>,
        begun: mpsc::Receiver<BegunRun>,
        interval: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            tasks: Tasks::new(RUNS_AT_ONCE, signals.close.clone()),
            closer: Closer {
                results: RunResults::new(store.clone(), shutdown.clone()),
                store,
                signals,
                shutdown,
            },
            interval,
            begun,
            failed: HashMap::new(),
            retries: Retries::new(interval),
        }
    }

    /// Takes the results of the runs that have ended.
    fn take_ended(&mut self) {
        for (id, failed) in self.tasks.ended() {
            match failed {
                None => self.retries.succeeded(&id),
                Some(run) => {
                    self.retries.failed(id);
                    self.failed.insert(id, run);
                }
            }
        }
    }

    /// Starts a failed run whose wait is over. Returns false if there is none.
    fn start_failed(&mut self) -> bool {
        let due = self.failed.keys().find(|id| self.retries.may_start(id));
        let run = due.copied().and_then(|id| self.failed.remove(&id));
        run.is_some_and(|run| self.start(run))
    }

    fn start(&mut self, begun: BegunRun) -> bool {
        let BegunRun { run, request } = &begun;
        let request = request.as_ref().map(tracing::field::display);
        // The request itself may have ended.
        let span = tracing::error_span!(
            "report_run",
            run = %run.id,
            trigger = run.trigger.name(),
            request_id = request
        );
        let (id, closer) = (run.id, self.closer.clone());
        self.tasks.start(
            id,
            async move { closer.close(begun).await }.instrument(span),
        )
    }
}

impl Job for Closing {
    fn spec(&self) -> Spec {
        Spec {
            name: "closing",
            interval: self.interval,
            turn: Turn::EveryReplica,
            wake: self.closer.signals.close.clone(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        self.take_ended();
        while self.tasks.free() > 0 && self.start_failed() {}
        while self.tasks.free() > 0
            && let Ok(run) = self.begun.try_recv()
        {
            self.start(run);
        }
        let left_since = now.saturating_sub(ABANDONED_MS);
        for run in self.closer.store.abandoned_runs(left_since).await? {
            let is_here = self.tasks.has(&run.id) || self.failed.contains_key(&run.id);
            if self.tasks.free() == 0 || is_here {
                continue;
            }
            tracing::warn!(run = %run.id, "a replica abandoned a report run; this replica finishes it");
            self.closer.store.touch_run(run.id).await?;
            self.start(BegunRun { run, request: None });
        }
        Ok(Next::Wait)
    }

    async fn finish(&mut self) {
        self.tasks.finish().await;
        self.closer.results.finish().await;
    }
}

impl Closer {
    /// Closes a run's reports. Returns the run if that failed.
    async fn close(&self, begun: BegunRun) -> Option<BegunRun> {
        match self.close_pages(&begun.run).await {
            Ok(()) => {
                self.results.log_once_answered(begun.run.id);
                None
            }
            Err(Error::ShuttingDown) => None,
            Err(error @ Error::DatabaseUnavailable(_)) => {
                error.log();
                Some(begun)
            }
            Err(error) => {
                tracing::warn!(error = error.cause(), "closing failed; it is repeated");
                Some(begun)
            }
        }
    }

    /// Closes every report in the run's scope whose window has begun.
    async fn close_pages(&self, run: &Run) -> Result<()> {
        let mut after = None;
        loop {
            if self.shutdown.is_cancelled() {
                return Err(Error::ShuttingDown);
            }
            let now = self.store.now().await?;
            let page = self
                .store
                .close_page(run.id, &run.scope, after.as_ref(), now)
                .await?;
            self.signals.send.wake();
            self.signals.progress.notify_waiters();
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let now = self.store.now().await?;
        self.store.finish_closing(run.id, now).await?;
        self.signals.progress.notify_waiters();
        tracing::debug!("closing finished");
        Ok(())
    }
}
