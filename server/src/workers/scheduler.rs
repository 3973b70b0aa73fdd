//! The beat: what is due is decided from the database, so a missed beat, a burst of beats and two replicas
//! beating at once all do the same.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use super::reporter::Reporter;
use crate::{
    domain::{HOUR_MS, Millis, SECOND_MS},
    error::Result,
    store::{close::Scope, runs::NewRun},
};

/// Beats every other second.
const TICK_INTERVAL: &str = "*/2 * * * * *";
/// The jobs' names in `leases`.
pub(crate) const REPORT_JOB: &str = "report schedule";
const CLEANUP_JOB: &str = "cleanup";
/// A run that nobody has worked on for this long was left by a replica that died.
const ABANDONED_MS: Millis = 30 * SECOND_MS;
/// How many steps of forgetting one hour takes, with a pause in between for those who count.
const CLEANUP_STEPS: usize = 20_000;
const CLEANUP_PAUSE: Duration = Duration::from_millis(20);

impl Reporter {
    /// Beats once now, so that a run missed while the service was down is made up for, and from then on by
    /// the scheduler until the shutdown.
    pub(crate) async fn start_ticking(
        self: &Arc<Self>,
    ) -> std::result::Result<(), JobSchedulerError> {
        let (looking, keeping) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
        let reporter = Arc::clone(self);
        let job = Job::new_async(TICK_INTERVAL, move |_, _| {
            let reporter = Arc::clone(&reporter);
            let (looking, keeping) = (Arc::clone(&looking), Arc::clone(&keeping));
            Box::pin(async move {
                // A beat that comes while the one before is still at work is not needed.
                if let Ok(_alone) = looking.try_lock() {
                    reporter.look_at_schedule().await;
                }
                // Keeping house may take long: the schedule does not wait for it.
                if let Ok(_alone) = keeping.try_lock()
                    && let Err(error) = reporter.clean_up().await
                {
                    tracing::warn!(%error, "cleanup stopped; it is taken up again in an hour");
                }
            })
        })?;
        let mut scheduler = JobScheduler::new().await?;
        scheduler.add(job).await?;
        // Housekeeping may take long after a long time down: the first beat leaves it to the next.
        self.look_at_schedule().await;
        scheduler.start().await?;
        let reporter = Arc::clone(self);
        self.tasks.spawn(async move {
            reporter.shutdown.cancelled().await;
            if let Err(error) = scheduler.shutdown().await {
                tracing::warn!(%error, "the scheduler did not stop");
            }
        });
        Ok(())
    }

    async fn look_at_schedule(self: &Arc<Self>) {
        if self.shutdown.is_cancelled() {
            return;
        }
        if self.stripe.is_some()
            && let Err(error) = self.report_when_due().await
        {
            tracing::warn!(%error, "the schedule could not be looked at");
        }
    }

    async fn report_when_due(self: &Arc<Self>) -> Result<()> {
        let now = self.clock.now();
        let last = self.store.last_run_at(REPORT_JOB, now).await?;
        if self.options.schedule.is_due(last, now) {
            let new = NewRun {
                trigger: "schedule",
                requested_by: self.replica.clone(),
                scope: Scope::All,
            };
            if let Some(run) = self
                .store
                .claim_scheduled_run(REPORT_JOB, last, &new, now)
                .await?
            {
                tracing::info!(run = %run.id, "scheduled run");
                self.spawn_closing(run);
            }
        }
        for run in self
            .store
            .abandoned_runs(now.saturating_sub(ABANDONED_MS))
            .await?
        {
            tracing::warn!(run = %run.id, "a run that was left unfinished is taken up");
            self.store.touch_run(run.id, now).await?;
            self.spawn_closing(run);
        }
        Ok(())
    }

    async fn clean_up(&self) -> Result<()> {
        let now = self.clock.now();
        let last = self.store.last_run_at(CLEANUP_JOB, now).await?;
        if now.saturating_sub(last) < HOUR_MS
            || !self.store.claim_job(CLEANUP_JOB, last, now).await?
        {
            return Ok(());
        }
        for _ in 0..CLEANUP_STEPS {
            let forgot = self.store.forget_old_keys(now).await?;
            let rolled = self.store.roll_up_commits(now).await?;
            let dropped = self.store.forget_old_webhook_events(now).await?;
            if !(forgot || rolled || dropped) || self.shutdown.is_cancelled() {
                break;
            }
            tokio::time::sleep(CLEANUP_PAUSE).await;
        }
        Ok(())
    }
}
