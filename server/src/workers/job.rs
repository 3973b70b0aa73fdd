//! A background job: a name, an interval and `run(now)`. The runner does everything else.

use std::time::Duration;

use super::wake::Wake;
use crate::{domain::Millis, error::Result};

/// Background work. [`super::runner`] decides when it runs, and on which replica.
pub(crate) trait Job: Send + Sync + 'static {
    /// The job's settings for the runner.
    fn spec(&self) -> Spec;

    /// Whether it runs while the time is in doubt.
    fn runs_in_doubt(&self) -> bool {
        false
    }

    /// For a job of [`Turn::Recorded`]: whether it is due if it last ran at `last_run_at`. Pure.
    fn is_due(&self, _last_run_at: Millis, _now: Millis) -> bool {
        true
    }

    /// Does the work that is due at `now`, by the database's clock. It may be dropped at any await when the process
    /// ends.
    ///
    /// # Errors
    /// The job runs again, with a backoff.
    fn run(&mut self, now: Millis) -> impl Future<Output = Result<Next>> + Send;

    /// Waits for the tasks in progress, at the shutdown.
    fn finish(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The settings of a job for the runner.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Its name in `leases`, in logs and in errors.
    pub(crate) name: &'static str,
    /// How often it runs, or how often the runner checks whether it is due.
    pub(crate) interval: Duration,
    pub(crate) turn: Turn,
    /// Wakes it before its interval has passed.
    pub(crate) wake: Wake,
}

/// Which replica runs a job, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Every replica, at each interval, also while the database does not respond or its time is in doubt.
    WithoutDatabase,
    /// Every replica, at each interval.
    EveryReplica,
    /// The holder of the job's lease, at each interval.
    OneReplica,
    /// The holder of the job's lease, if [`Job::is_due`] returns true for the recorded last run.
    Recorded { first: FirstRun },
}

impl Turn {
    /// Whether only the holder of the job's lease runs it.
    pub(crate) fn needs_lease(self) -> bool {
        matches!(self, Self::OneReplica | Self::Recorded { .. })
    }
}

/// When a job runs for the first time on a new database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstRun {
    AtOnce,
    /// As if it had run at its first check.
    WhenDue,
}

/// What the runner does after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Waits for the next interval or wake-up.
    Wait,
    /// Waits like [`Next::Wait`], but at most for this time.
    WaitAtMost(Duration),
    /// Runs it again immediately: there may be more to do.
    RunAgain,
    /// The run is not complete. It goes on after this time, and is recorded only when it is complete.
    ContinueAfter(Duration),
    /// Releases the lease: this replica cannot do the work, another one may.
    HandOver,
}
