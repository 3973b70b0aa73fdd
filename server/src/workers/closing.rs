//! The closing job: closes the reports of the runs that were begun here, and of those that another replica left
//! unfinished.
//!
//! Every replica runs it. Closing twice closes nothing more, so a run that was left unfinished is simply run again.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    job::{Job, Next, Spec, Turn},
    tasks::Tasks,
    wake::Signals,
};
use crate::{
    domain::{Millis, SECOND_MS, run::Run},
    error::{Error, Result},
    store::Store,
};

/// How many runs of this replica may wait for their closing.
pub(crate) const MAX_BEGUN: usize = 1_024;
/// How many runs are closed at the same time: a run over everything does not delay one over an account.
const RUNS_AT_ONCE: usize = 8;
/// A run without a heartbeat for so long was left by a replica that died.
const ABANDONED_MS: Millis = 30 * SECOND_MS;
/// The wait after a database error; it doubles.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// Closes the reports of runs.
pub(crate) struct Closing {
    closer: Closer,
    interval: Duration,
    begun: mpsc::Receiver<Run>,
    tasks: Tasks<Uuid>,
}

/// What closing one run needs.
#[derive(Clone)]
struct Closer {
    store: Store,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
}

impl Closing {
    pub(crate) fn new(
        store: Store,
        signals: Arc<Signals>,
        begun: mpsc::Receiver<Run>,
        interval: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            tasks: Tasks::new(RUNS_AT_ONCE, signals.close.clone()),
            closer: Closer {
                store,
                signals,
                shutdown,
            },
            interval,
            begun,
        }
    }

    fn start(&mut self, run: Run) -> bool {
        let span = tracing::info_span!("report_run", run = %run.id, trigger = run.trigger.name());
        let closer = self.closer.clone();
        self.tasks.start(
            run.id,
            async move { closer.close(&run).await }.instrument(span),
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
        self.tasks.ended();
        while self.tasks.free() > 0
            && let Ok(run) = self.begun.try_recv()
        {
            self.start(run);
        }
        let left_since = now.saturating_sub(ABANDONED_MS);
        for run in self.closer.store.abandoned_runs(left_since).await? {
            if self.tasks.free() == 0 || self.tasks.has(&run.id) {
                continue;
            }
            tracing::warn!(run = %run.id, "a report run was left unfinished; this replica finishes it");
            self.closer.store.touch_run(run.id, now).await?;
            self.start(run);
        }
        Ok(Next::Wait)
    }

    async fn finish(&mut self) {
        self.tasks.finish().await;
    }
}

impl Closer {
    /// Closes a run's reports, however often the database fails, until the shutdown.
    async fn close(&self, run: &Run) {
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(MIN_BACKOFF)
            .with_max_delay(MAX_BACKOFF)
            .without_max_times()
            .build();
        while let Err(error) = self.close_pages(run).await {
            tracing::warn!(%error, "closing stopped; it is tried again");
            let wait = waits.next().unwrap_or(MAX_BACKOFF);
            let slept = self.shutdown.run_until_cancelled(sleep(wait)).await;
            if slept.is_none() {
                return;
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
        tracing::info!("closing finished");
        Ok(())
    }
}
