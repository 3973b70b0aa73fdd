//! The reporter: begins report runs for the schedule, for the ends of billing periods and for ForceReport.
//!
//! A run closes reports ([`super::closing`]). The holder of the sender's lease sends all closed reports, of any run and
//! replica ([`super::sender`]). Watchers read the states from the database ([`super::run_watch`]).

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{run_observation::Observer, wake::Signals};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        meter::Meters,
        request_id::RequestId,
        run::{Run, Scope, Trigger},
        violation::{Reason, Violation},
    },
    error::{Error, Result},
    read_turns::ReadTurns,
    request_context::RequestContext,
    store::{Store, runs::NewRun},
};

/// Forced runs that may close reports at once. They go on without their callers.
const MAX_FORCED_RUNS: usize = 100;

/// Begins and watches runs.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(super) store: Store,
    /// False without a Stripe key: no runs are begun then.
    has_stripe: bool,
    /// The name of this replica, in the runs that it begins itself and as the holder of leases.
    replica: String,
    /// The runs begun here, for the closing job. If the queue is full, the job finds a run in the database.
    begun: mpsc::Sender<BegunRun>,
    pub(super) signals: Arc<Signals>,
    pub(super) shutdown: CancellationToken,
    pub(super) observer: Arc<Observer>,
    /// Watchers of runs. They outlive the call that started them.
    pub(super) watchers: TaskTracker,
    /// The turns of dry runs.
    pub(super) previews: ReadTurns,
}

/// A run that was begun here.
#[derive(Debug)]
pub(crate) struct BegunRun {
    pub(crate) run: Run,
    /// The request that began it; none for jobs.
    pub(crate) request: Option<RequestId>,
}

/// What became of the call of an admin who forces a run.
#[derive(Debug)]
pub(crate) struct ForcedRun {
    pub(crate) run: Run,
    /// False if the run was begun before with the same id.
    pub(crate) is_new: bool,
    /// Why reports in backoff still wait. The run goes on without them.
    pub(crate) not_retried: Option<Error>,
}

/// Dependencies of a reporter.
#[derive(Debug)]
pub(crate) struct Deps {
    pub(crate) store: Store,
    pub(crate) meters: Arc<Meters>,
    pub(crate) has_stripe: bool,
    pub(crate) replica: String,
    pub(crate) begun: mpsc::Sender<BegunRun>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) shutdown: CancellationToken,
}

impl Reporter {
    pub(crate) fn new(deps: Deps) -> Arc<Self> {
        let observer = Observer::new(
            deps.store.clone(),
            deps.meters,
            Arc::clone(&deps.signals),
            deps.shutdown.clone(),
        );
        Arc::new(Self {
            store: deps.store,
            has_stripe: deps.has_stripe,
            replica: deps.replica,
            begun: deps.begun,
            signals: deps.signals,
            shutdown: deps.shutdown,
            observer,
            watchers: TaskTracker::new(),
            previews: ReadTurns::of("dry runs"),
        })
    }

    /// Begins a run that an admin requested, or joins the one that has the id. It continues if the caller disconnects.
    ///
    /// # Errors
    /// There is no Stripe key, too many forced runs close reports, another run has the id, or the database does not respond.
    pub(crate) async fn report(
        &self,
        requested_by: String,
        scope: Scope,
        id: Option<Uuid>,
    ) -> Result<ForcedRun> {
        if !self.has_stripe {
            return Err(Error::ReportingDisabled);
        }
        if let Some(id) = id
            && let Some(known) = self.store.find_run(id).await?
        {
            return self.join(known, &scope).await;
        }
        let id = id.unwrap_or_else(Uuid::now_v7);
        let new = NewRun {
            trigger: Trigger::Force,
            requested_by,
            scope,
            id: Some(id),
        };
        let now = self.store.now().await?;
        let begun = self.store.insert_forced_run(&new, MAX_FORCED_RUNS, now);
        let Some(run) = begun.await? else {
            // Another call with the same id was faster.
            let known = self.store.get_run(id).await?;
            return self.join(known, &new.scope).await;
        };
        // What is refused has changed nothing. The run goes on also if this fails: the same call again does the rest.
        let not_retried = self.retry_now(&run.scope).await.err();
        if let Some(error) = &not_retried {
            tracing::error!(
                error = error.cause(),
                run = %run.id,
                "a forced run does not send the reports that wait for a retry"
            );
        }
        self.close(run.clone(), RequestContext::current());
        Ok(ForcedRun {
            run,
            is_new: true,
            not_retried,
        })
    }

    /// The run that was begun with an id before, if it is the same. The call that began it may have failed since.
    async fn join(&self, known: Run, scope: &Scope) -> Result<ForcedRun> {
        let run = same_run(known, scope)?;
        self.retry_now(&run.scope).await?;
        Ok(ForcedRun {
            run,
            is_new: false,
            not_retried: None,
        })
    }

    /// A forced run also sends reports in backoff.
    async fn retry_now(&self, scope: &Scope) -> Result<()> {
        self.store.retry_now(scope).await?;
        self.signals.retry_request.make();
        Ok(())
    }

    /// Wakes the sender, because reports became sendable without a run.
    pub(crate) fn send_now(&self) {
        self.signals.send.wake();
    }

    /// Begins a run that closes the reports of some accounts, because their billing periods ended.
    ///
    /// # Errors
    /// The database does not respond.
    pub(super) async fn close_accounts(&self, accounts: Vec<AccountId>) -> Result<()> {
        let new = self.period_end_run(accounts);
        let run = self.store.insert_run(&new, self.store.now().await?).await?;
        self.close(run, None);
        Ok(())
    }

    /// The run of ended billing periods.
    pub(super) fn period_end_run(&self, accounts: Vec<AccountId>) -> NewRun {
        NewRun {
            trigger: Trigger::PeriodEnd,
            requested_by: self.replica.clone(),
            scope: Scope::Accounts(accounts),
            id: None,
        }
    }

    /// Begins a run for a job and records that the job ran. Returns `None` if another replica has the job's lease.
    pub(super) async fn begin_for_job(
        &self,
        job: &str,
        new: &NewRun,
        now: Millis,
    ) -> Result<Option<Run>> {
        let run = self
            .store
            .insert_run_of_job(job, &self.replica, new, now)
            .await?;
        if let Some(run) = &run {
            self.close(run.clone(), None);
        }
        Ok(run)
    }

    /// The run of the schedule.
    pub(super) fn scheduled_run(&self) -> NewRun {
        NewRun {
            trigger: Trigger::Schedule,
            requested_by: self.replica.clone(),
            scope: Scope::All,
            id: None,
        }
    }

    /// Waits for the watchers to end.
    pub(crate) async fn finish(&self) {
        self.watchers.close();
        self.watchers.wait().await;
        self.observer.finish().await;
    }

    fn close(&self, run: Run, request: Option<RequestContext>) {
        let accounts = match &run.scope {
            Scope::All => None,
            Scope::Accounts(accounts) => Some(accounts.len()),
        };
        tracing::info!(
            run = %run.id,
            trigger = run.trigger.name(),
            requested_by = run.requested_by,
            accounts,
            "a report run begins"
        );
        let begun = BegunRun {
            run,
            request: request.map(|request| request.id),
        };
        if let Err(error) = self.begun.try_send(begun) {
            tracing::warn!(%error, "the closing job has too many runs; this one is found in the database later");
        }
        self.signals.close.wake();
    }
}

/// The run that was begun with an id before, if it is the same.
fn same_run(known: Run, scope: &Scope) -> Result<Run> {
    if known.trigger == Trigger::Force && known.scope.is_same(scope) {
        return Ok(known);
    }
    let message = format!(
        "idempotency_key {} is the id of a run of other accounts; nothing was begun: use a new key for a new run",
        known.id
    );
    Err(Violation::new(Reason::KeyReused, "idempotency_key", message).into())
}
