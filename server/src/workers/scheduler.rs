//! The job of the report schedule, and the timer that wakes it.
//!
//! tokio-cron-scheduler wakes the job every other second. It reads the wall clock and stops while that clock is set
//! back, so the runner also checks the job at an interval of the monotonic clock. [`Schedule`] decides from the
//! database whether a run is due, because it handles changes between summer and winter time, which the scheduler does
//! not. Missed or repeated wake-ups and several replicas do no harm.

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
/// The cron expression of the wake-ups.
const TICK: &str = "*/2 * * * * *";
/// How often the runner checks the job without a wake-up.
const INTERVAL: Duration = Duration::from_secs(2);

/// Begins the runs of the report schedule.
pub(crate) struct ReportSchedule {
    reporter: Arc<Reporter>,
    schedule: Schedule,
    wake: Wake,
    timer: JobScheduler,
}

impl ReportSchedule {
    /// Starts the timer.
    ///
    /// # Errors
    /// The timer does not start.
    pub(crate) async fn start(
        reporter: Arc<Reporter>,
        schedule: Schedule,
    ) -> std::result::Result<Self, JobSchedulerError> {
        let wake = reporter.signals.schedule.clone();
        let timer = JobScheduler::new().await?;
        let woken = wake.clone();
        let job = CronJob::new(TICK, move |_, _| woken.wake())?;
        timer.add(job).await?;
        timer.start().await?;
        Ok(Self {
            reporter,
            schedule,
            wake,
            timer,
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

    /// Several missed runs are made up for by one.
    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        self.schedule.is_due(last_run_at, now)
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let new = self.reporter.scheduled_run();
        self.reporter.begin_for_job(REPORT_JOB, &new, now).await?;
        Ok(Next::Wait)
    }

    async fn finish(&mut self) {
        if let Err(error) = self.timer.shutdown().await {
            tracing::warn!(%error, "the scheduler did not stop");
        }
    }
}
