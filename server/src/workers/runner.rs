//! The runner of the background jobs. It handles leases, due times, intervals, backoff, wake-ups, heartbeats, shutdown
//! and supervision.
//!
//! Each job has a driver: a task that checks the job at each interval of the monotonic clock and at each wake-up. No
//! change of a wall clock stops a driver. A lease that is not extended for its whole duration is taken over regardless
//! of its times, and a last run that is recorded in the future is logged and treated as due.

use std::{collections::HashMap, time::Duration};

use tokio::{
    sync::oneshot,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::after_failures,
    job::{FirstRun, Job, Next, Spec, Turn},
    lease::HeldLease,
};
use crate::{
    clock::Moves,
    domain::{MINUTE_MS, Millis},
    error::{Error, Result},
    metrics,
    planted_defects::{Defect, planted},
    store::Store,
};

/// How long a replica that handed over a lease does not take it again.
const HAND_OVER: Duration = Duration::from_secs(5);
/// How far in the future a last run may be recorded. Clock corrections of this size are normal.
const CLOCK_TOLERANCE_MS: Millis = MINUTE_MS;

/// A background job ended without a shutdown.
#[derive(Debug, thiserror::Error)]
#[error("background job {name:?} {how}")]
pub struct JobEnded {
    name: &'static str,
    how: String,
}

/// Runs the background jobs of one replica.
#[derive(Debug)]
pub(crate) struct Runner {
    store: Store,
    /// The name of this replica as the holder of leases.
    replica: String,
    shutdown: CancellationToken,
    drivers: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Runner {
    pub(crate) fn new(store: Store, replica: String, shutdown: CancellationToken) -> Self {
        Self {
            store,
            replica,
            shutdown,
            drivers: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// Starts a job. The returned receiver resolves after the job's first check.
    pub(crate) fn start(&mut self, job: impl Job) -> oneshot::Receiver<()> {
        let (checked, first_check) = oneshot::channel();
        let spec = job.spec();
        let name = spec.name;
        if spec.turn.needs_lease() {
            // Its series is there before its first turn.
            metrics::lease_held(name, false);
        }
        let driver = Driver {
            lease: HeldLease::new(self.store.clone(), name, self.replica.clone()),
            job,
            spec,
            clock_moves: self.store.clock_moves(),
            store: self.store.clone(),
            shutdown: self.shutdown.clone(),
            failure: None,
        };
        let task = self.drivers.spawn(driver.drive(checked));
        self.names.insert(task.id(), name);
        first_check
    }

    /// Resolves when a job ends without a shutdown.
    pub(crate) async fn watch(&mut self) -> JobEnded {
        loop {
            let Some(ended) = self.drivers.join_next_with_id().await else {
                return std::future::pending().await;
            };
            if let Some(ended) = self.name(ended) {
                return ended;
            }
        }
    }

    /// Waits for the jobs to end after the shutdown, at most for the given time. Work that is still in progress then is
    /// dropped, and continued after the next start.
    pub(crate) async fn stop(&mut self, within: Duration) {
        let all_ended = async {
            while let Some(ended) = self.drivers.join_next_with_id().await {
                if let Some(ended) = self.name(ended) {
                    tracing::error!(error = %ended, "a background job failed during the shutdown");
                }
            }
        };
        if timeout(within, all_ended).await.is_err() {
            tracing::warn!(
                "some background jobs did not end in time; their work continues after the next start"
            );
            self.drivers.shutdown().await;
        }
    }

    fn name(&self, ended: std::result::Result<(Id, ()), JoinError>) -> Option<JobEnded> {
        let (id, how) = match ended {
            Ok((_, ())) if self.shutdown.is_cancelled() => return None,
            Ok((id, ())) => (id, "ended".to_owned()),
            Err(error) => (error.id(), panic_text(error)),
        };
        let name = self.names.get(&id).copied().unwrap_or("unknown");
        Some(JobEnded { name, how })
    }
}

fn panic_text(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "was cancelled".to_owned();
    };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("no message"))
}

/// Runs one job.
struct Driver<J> {
    job: J,
    spec: Spec,
    lease: HeldLease,
    store: Store,
    clock_moves: Moves,
    shutdown: CancellationToken,
    /// Why the job fails now, as it is in the log.
    failure: Option<String>,
}

impl<J: Job> Driver<J> {
    async fn drive(mut self, checked: oneshot::Sender<()>) {
        let mut checked = Some(checked);
        let mut failures = 0_u32;
        while !self.shutdown.is_cancelled() {
            let next = self.check().await;
            if let Some(checked) = checked.take() {
                // Most callers do not wait for the first check.
                let _ = checked.send(());
            }
            self.log(&next, failures);
            match next {
                Ok(Next::RunAgain) => failures = 0,
                Ok(Next::Wait) => {
                    failures = 0;
                    self.wait(self.spec.interval, Duration::ZERO).await;
                }
                Ok(Next::WaitAtMost(time)) => {
                    failures = 0;
                    let time = time.min(self.spec.interval);
                    self.wait(time, Duration::ZERO).await;
                }
                Ok(Next::ContinueAfter(time)) => {
                    failures = 0;
                    self.wait(time, time).await;
                }
                Ok(Next::HandOver) => {
                    failures = 0;
                    self.wait(HAND_OVER, Duration::ZERO).await;
                }
                Err(_) => {
                    failures = failures.saturating_add(1);
                    if self.spec.turn.needs_lease() {
                        // While the database does not respond, nothing extends it.
                        self.lease.show();
                    }
                    // A wake-up shortens the backoff only to the interval, so that a failing job never runs in a busy
                    // loop.
                    let interval = self.spec.interval;
                    let wait = after_failures(interval.saturating_mul(2), failures);
                    self.wait(wait, interval).await;
                }
            }
        }
        self.job.finish().await;
        if let Err(error) = self.lease.release().await {
            tracing::warn!(job = self.spec.name, %error, "a lease could not be released; it expires by itself");
        }
    }

    /// Logs a failure, unless it is the one before, and its end.
    fn log(&mut self, next: &Result<Next>, failures: u32) {
        let job = self.spec.name;
        match next {
            Ok(_) => {
                if self.failure.take().is_some() {
                    tracing::info!(job, failures, "a background job runs again");
                }
            }
            // It fails every job, which is told once.
            Err(error @ Error::DatabaseUnavailable(_)) => {
                error.log();
            }
            Err(error) => {
                let why = error.cause();
                if self.failure.as_ref() != Some(&why) {
                    tracing::warn!(job, error = why, "a background job fails; it is repeated");
                    self.failure = Some(why);
                }
            }
        }
    }

    /// Waits for the given time, or until a wake-up, but at least for `least`.
    async fn wait(&mut self, time: Duration, least: Duration) {
        let begun = Instant::now();
        let woken = async {
            tokio::select! {
                () = self.spec.wake.woken() => {}
                () = self.clock_moves.next() => {}
            }
            sleep(least.saturating_sub(begun.elapsed())).await;
        };
        tokio::select! {
            () = sleep(time) => {}
            () = woken => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    /// Runs the job if it is this replica's turn and the job is due. While the time is in doubt, another replica may
    /// have a better clock.
    async fn check(&mut self) -> Result<Next> {
        if self.spec.turn == Turn::WithoutDatabase {
            return self.job.run(self.store.last_known_now()).await;
        }
        let now = self.store.shared_now().await?;
        if self.job.runs_in_doubt() {
            return self.job.run(now).await;
        }
        if self.store.doubt().is_some() {
            self.lease.release().await?;
            return Ok(Next::Wait);
        }
        if self.spec.turn == Turn::EveryReplica {
            return self.job.run(now).await;
        }
        if !self.lease.hold().await? {
            return Ok(Next::Wait);
        }
        let now = self.store.now().await?;
        if let Turn::Recorded { first } = self.spec.turn
            && !self.is_due(first, now).await?
        {
            return Ok(Next::Wait);
        }
        let next = self.run_with_heartbeat(now).await?;
        let is_complete = !matches!(next, Next::ContinueAfter(_));
        if is_complete && matches!(self.spec.turn, Turn::Recorded { .. }) {
            self.lease.record_run(now).await?;
        }
        if next == Next::HandOver {
            self.lease.release().await?;
        }
        Ok(next)
    }

    async fn run_with_heartbeat(&mut self, now: Millis) -> Result<Next> {
        let run = self.job.run(now);
        tokio::pin!(run);
        tokio::select! {
            next = &mut run => return next,
            () = self.lease.keep() => {}
        }
        // The run is not dropped, because a dropped transaction could leave a connection unusable. Its writes are
        // compare-and-set, so two concurrent runs do no harm.
        tracing::warn!(
            job = self.spec.name,
            "another replica took a job's lease during a run"
        );
        run.await
    }

    async fn is_due(&self, first: FirstRun, now: Millis) -> Result<bool> {
        let Some(stored) = self.lease.read().await? else {
            return Ok(false);
        };
        let Some(last_run_at) = stored.last_run_at else {
            if first == FirstRun::WhenDue {
                self.lease.record_run(now).await?;
            }
            return Ok(first == FirstRun::AtOnce);
        };
        let is_ahead = last_run_at > now.saturating_add(CLOCK_TOLERANCE_MS);
        if is_ahead && !planted(Defect::FutureRunTrusted) {
            tracing::error!(
                job = self.spec.name,
                last_run_at,
                database_now = now,
                "the last run of a job is recorded ahead of the database's clock; the job runs now"
            );
            return Ok(true);
        }
        Ok(self.job.is_due(last_run_at, now))
    }
}

#[cfg(test)]
mod tests;
