//! The closing job: closes the reports of the runs that were begun here, and of runs that another replica abandoned.
//!
//! Every replica runs it. Closing is idempotent, so an abandoned run is closed again from the start.

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

/// The number of runs of this replica that may wait.
pub(crate) const MAX_BEGUN: usize = 1_024;
/// The number of runs that are closed concurrently, so that a run over all accounts does not delay one over a single
/// account.
const RUNS_AT_ONCE: usize = 8;
/// A run without a heartbeat for this long was abandoned.
const ABANDONED_MS: Millis = 30 * SECOND_MS;
/// The first wait after a database error. It doubles.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// Closes the reports of runs.
pub(crate) struct Closing {
    closer: Closer,
    interval: Duration,
    begun: mpsc::Receiver<Run>,
    tasks: Tasks<Uuid>,
}

/// Dependencies of closing one run.
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
            tracing::warn!(run = %run.id, "a replica abandoned a report run; this replica finishes it");
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
    /// Closes a run's reports. Repeats after database errors until the shutdown.
    async fn close(&self, run: &Run) {
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(MIN_BACKOFF)
            .with_max_delay(MAX_BACKOFF)
            .without_max_times()
            .build();
        while let Err(error) = self.close_pages(run).await {
            tracing::warn!(%error, "closing failed; it is repeated");
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
