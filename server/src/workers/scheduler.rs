//! The job of the report schedule, and the clockwork that wakes it.
//!
//! tokio-cron-scheduler wakes the job every other second. It reads the wall clock, so it stops when that clock is set
//! back; the runner therefore checks the job at its interval of the monotonic clock as well. Whether a run is due is
//! decided from the database by [`Schedule`], which knows when the zone's clocks change, as the scheduler's own time
//! zones do not. A missed wake-up, several at once and two replicas all do the same.

use std::{sync::Arc, time::Duration};

use tokio_cron_scheduler::{Job as CronJob, JobScheduler, JobSchedulerError};

use super::{
    job::{FirstRun, Job, Next, Spec, Turn},
    reporter::Reporter,
    schedule::Schedule,
    wake::Wake,
};
use crate::{domain::Millis, error::Result};

/// The job's name in `leases`.
pub(crate) const REPORT_JOB: &str = "report schedule";
/// When the clockwork wakes the job.
const TICK: &str = "*/2 * * * * *";
/// How often the runner checks the job whatever the clockwork does.
const INTERVAL: Duration = Duration::from_secs(2);

/// Begins the runs of the report schedule.
pub(crate) struct ReportSchedule {
    reporter: Arc<Reporter>,
    schedule: Schedule,
    wake: Wake,
    clockwork: JobScheduler,
}

impl ReportSchedule {
    /// Starts the clockwork.
    ///
    /// # Errors
    /// A clockwork that does not start.
    pub(crate) async fn start(
        reporter: Arc<Reporter>,
        schedule: Schedule,
    ) -> std::result::Result<Self, JobSchedulerError> {
        let wake = reporter.signals.schedule.clone();
        let clockwork = JobScheduler::new().await?;
        let woken = wake.clone();
        let job = CronJob::new(TICK, move |_, _| woken.wake())?;
        clockwork.add(job).await?;
        clockwork.start().await?;
        Ok(Self {
            reporter,
            schedule,
            wake,
            clockwork,
        })
    }
}

impl Job for ReportSchedule {
    fn spec(&self) -> Spec {
        Spec {
            name: REPORT_JOB,
            interval: INTERVAL,
            turn: Turn::Recorded {
                first: FirstRun::WhenDue,
            },
            wake: self.wake.clone(),
        }
    }

    /// Several runs that were missed make one.
    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        self.schedule.is_due(last_run_at, now)
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let new = self.reporter.scheduled_run();
        if let Some(run) = self.reporter.begin_for_job(REPORT_JOB, &new, now).await? {
            tracing::info!(run = %run.id, "scheduled run");
        }
        Ok(Next::Wait)
    }

    async fn finish(&mut self) {
        if let Err(error) = self.clockwork.shutdown().await {
            tracing::warn!(%error, "the scheduler did not stop");
        }
    }
}
