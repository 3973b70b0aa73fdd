//! The cleanup job: deletes old keys, digests of deleted accounts, webhook events, verifications and changes of boundaries,
//! archives and deletes old audit entries, runs and decisions, and rolls up old commits, in small steps.

use std::time::Duration;

use super::{
    job::{FirstRun, Job, Next, Spec, Turn},
    record_archiving::RecordRetention,
    steady_clock::SteadyClock,
    wake::Wake,
};
use crate::{
    clock::Clock,
    domain::Millis,
    error::{Error, Result},
    store::Store,
};

/// How often the runner checks whether the job is due.
const INTERVAL: Duration = Duration::from_secs(2);
/// The maximum number of steps in one run.
const STEPS_PER_RUN: usize = 20_000;
/// The wait between steps leaves the database to the counting of usage.
const STEP_INTERVAL: Duration = Duration::from_millis(20);

/// Deletes rows that are no longer needed.
pub(crate) struct Cleanup {
    store: Store,
    clock: SteadyClock,
    /// Without a folder for archives, audit entries, runs and decisions are kept.
    records: Option<RecordRetention>,
    /// The number of steps of the run that is not complete.
    steps: usize,
    /// Why nothing more is archived in this run.
    failed: Option<Error>,
}

impl Cleanup {
    pub(crate) fn new(store: Store, clock: Clock, records: Option<RecordRetention>) -> Self {
        Self {
            store,
            clock: SteadyClock::new(clock),
            records,
            steps: 0,
            failed: None,
        }
    }
}

impl Job for Cleanup {
    fn spec(&self) -> Spec {
        Spec {
            name: "cleanup",
            interval: INTERVAL,
            turn: Turn::Recorded {
                first: FirstRun::WhenDue,
            },
            wake: Wake::default(),
        }
    }

    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        self.clock.is_due(last_run_at, now)
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let searched_keys = self.store.forget_old_keys(now).await?;
        let deleted_rows = self.store.forget_old_rows(now).await?;
        let forgot_deletions = self.store.forget_deletions(now).await?;
        let rolled_up = self.store.roll_up_commits(now).await?;
        let deleted_events = self.store.forget_old_webhook_events(now).await?;
        self.steps = self.steps.saturating_add(1);
        // A folder that cannot be written keeps nothing else: the rest of the run goes on without it.
        let archived = match &self.records {
            Some(records) if self.failed.is_none() => {
                let step = records.archive_step(&self.store, now).await;
                step.unwrap_or_else(|error| {
                    self.failed = Some(error);
                    false
                })
            }
            _ => false,
        };
        let has_more = searched_keys
            || deleted_rows
            || forgot_deletions
            || rolled_up
            || deleted_events
            || archived;
        if has_more && self.steps < STEPS_PER_RUN {
            return Ok(Next::ContinueAfter(STEP_INTERVAL));
        }
        self.steps = 0;
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(Next::Wait),
        }
    }
}
