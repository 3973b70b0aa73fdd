//! What became of the reports of a run: logged once, by the replica that closed them.
//!
//! The sender sends reports of all runs, perhaps on another replica, so their states are read from the database: rarely,
//! because only the log waits for them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;
use uuid::Uuid;

use super::run_summary::Summary;
use crate::{error::Result, store::Store};

/// The first and the longest wait between two reads of a run.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_mins(1);
/// How long a result is waited for. After that, the rest of the reports count as waiting.
const MAX_TIME: Duration = Duration::from_hours(1);
/// Runs whose results are waited for at once. Those of more are logged as they are when their reports are closed.
const MAX_RUNS: usize = 64;

/// Logs the results of runs.
#[derive(Clone, Debug)]
pub(super) struct RunResults {
    store: Store,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

impl RunResults {
    pub(super) fn new(store: Store, shutdown: CancellationToken) -> Self {
        Self {
            store,
            shutdown,
            tasks: TaskTracker::new(),
            places: Arc::new(Semaphore::new(MAX_RUNS)),
        }
    }

    /// Logs the result of a run once each of its reports has one. If the service stops before, nothing is logged.
    pub(super) fn log_once_answered(&self, run: Uuid) {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let results = self.clone();
        let waiting = async move { results.wait(run, place).await };
        self.tasks.spawn(waiting.in_current_span());
    }

    /// Waits for the tasks to end after the shutdown.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn wait(&self, run: Uuid, place: Option<OwnedSemaphorePermit>) {
        let (begun, mut wait) = (Instant::now(), FIRST_WAIT);
        loop {
            let is_last = place.is_none() || begun.elapsed() >= MAX_TIME;
            match self.read(run).await {
                Ok(summary) if is_last || summary.done() == summary.closed.reports => {
                    return log(summary.finished());
                }
                Err(error) if is_last => {
                    tracing::warn!(error = error.cause(), "the result of a run cannot be read");
                    return;
                }
                // An outage of the database is told by others.
                Ok(_) | Err(_) => {}
            }
            let next = self.shutdown.run_until_cancelled(sleep(wait));
            if next.await.is_none() {
                return;
            }
            wait = wait.saturating_mul(2).min(MAX_WAIT);
        }
    }

    async fn read(&self, run: Uuid) -> Result<Summary> {
        Ok(Summary::of(&self.store.run_counts(run).await?))
    }
}

fn log(summary: Summary) {
    tracing::info!(
        closed = summary.closed.reports,
        units = summary.closed.quantity,
        sent = summary.accepted.reports,
        sent_units = summary.accepted.quantity,
        failed = summary.rejected.reports,
        failed_units = summary.rejected.quantity,
        waiting = summary.retried_later.reports,
        waiting_units = summary.retried_later.quantity,
        not_billable = summary.not_billable.reports,
        no_customer = summary.no_customer.reports,
        "a report run ended"
    );
}
