//! What a background job is: a name, an interval and `run(now)`. Everything else about it is the runner's.

use std::time::Duration;

use super::wake::Wake;
use crate::{domain::Millis, error::Result};

/// Background work. [`super::runner`] decides when it runs, and on which replica.
pub(crate) trait Job: Send + Sync + 'static {
    /// How the runner treats it.
    fn spec(&self) -> Spec;

    /// Whether a job of [`Turn::Recorded`] is due that last ran at a moment. Pure.
    fn is_due(&self, _last_run_at: Millis, _now: Millis) -> bool {
        true
    }

    /// Does what is due at `now`, by the database's clock. It may end at any await, with the process.
    ///
    /// # Errors
    /// It runs again, later from one failure to the next.
    fn run(&mut self, now: Millis) -> impl Future<Output = Result<Next>> + Send;

    /// Waits for the tasks that are under way, at the shutdown.
    fn finish(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// How the runner treats a job.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Its name in `leases`, in logs and in errors.
    pub(crate) name: &'static str,
    /// How often it runs, or how often the runner checks whether it is due.
    pub(crate) interval: Duration,
    pub(crate) turn: Turn,
    /// Makes it run before its interval has passed.
    pub(crate) wake: Wake,
}

/// Which replica runs a job, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Every replica, at each interval.
    EveryReplica,
    /// The holder of the job's lease, at each interval. The lease holds for at least `margin` when a run starts.
    OneReplica { margin: Duration },
    /// The holder of the job's lease, when [`Job::is_due`] says so of the recorded last run.
    Recorded { first: FirstRun },
}

/// When a job runs for the first time on a new database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstRun {
    AtOnce,
    /// As if it had run when it was first checked.
    WhenDue,
}

/// What follows a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Its next interval or wake-up.
    Wait,
    /// There may be more to do.
    RunAgain,
    /// It cannot go on here: another replica may take its lease.
    HandOver,
}
