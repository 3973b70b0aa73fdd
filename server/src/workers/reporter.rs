//! The reporter: closes what is due, gives it to Stripe and follows it.
//!
//! The schedule and ForceReport call the same function, [`Reporter::report`]: it begins a run and closes
//! reports for it. Whoever holds the sender's lease sends what is closed, whichever run or replica closed
//! it; everybody else only looks at the states in the database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;
use uuid::Uuid;

use super::schedule::Schedule;
use crate::{
    clock::Clock,
    domain::{Millis, meter::Meters},
    error::{Error, Result},
    store::{
        Store,
        close::Scope,
        runs::{NewRun, Run, scope_of},
        send::Rules,
    },
    stripe::Stripe,
};

/// How often closing is tried again when the database does not answer, before another replica takes over.
const CLOSING_TRIES: u32 = 5;
const CLOSING_PAUSE: Duration = Duration::from_millis(500);

/// How the reporter is set up.
#[derive(Clone, Debug)]
pub(crate) struct ReporterOptions {
    pub(crate) meters: Arc<Meters>,
    pub(crate) rules: Rules,
    pub(crate) schedule: Schedule,
    /// Events a second.
    pub(crate) events_per_sec: u32,
    /// Requests under way at once.
    pub(crate) concurrency: usize,
    /// The shortest pause before a request is tried again; it doubles.
    pub(crate) retry_ms: Millis,
    /// How long nothing to do is waited out.
    pub(crate) idle: Duration,
}

/// Closes, sends and follows usage reports.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(super) store: Store,
    pub(super) clock: Clock,
    /// Absent when the service runs without a key: nothing is closed for sending then.
    pub(super) stripe: Option<Stripe>,
    pub(super) options: ReporterOptions,
    /// Names this replica as the holder of a lease.
    pub(super) replica: String,
    /// Told when something was closed, so that sending starts at once.
    pub(super) closed: Arc<Notify>,
    /// Set when an admin asks for a report: what made the sender pause may be mended by now.
    pub(super) retry_requested: AtomicBool,
    /// Told when something was sent, so that watchers look at once.
    pub(super) progress: Notify,
    pub(super) shutdown: CancellationToken,
    /// Work that outlives the call that asked for it.
    pub(super) tasks: TaskTracker,
}

impl Reporter {
    pub(crate) fn new(
        store: Store,
        clock: Clock,
        stripe: Option<Stripe>,
        options: ReporterOptions,
        closed: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            stripe,
            options,
            replica: Uuid::now_v7().to_string(),
            closed,
            retry_requested: AtomicBool::new(false),
            progress: Notify::new(),
            shutdown,
            tasks: TaskTracker::new(),
        })
    }

    /// Begins a run on an admin's word; closing goes on when the caller leaves.
    ///
    /// # Errors
    /// No Stripe key, or a database that does not answer.
    pub(crate) async fn report(
        self: &Arc<Self>,
        requested_by: String,
        scope: Scope,
    ) -> Result<Run> {
        if self.stripe.is_none() {
            return Err(Error::ReportingDisabled);
        }
        let now = self.clock.now();
        // What waits in backoff is tried again now: that is what the admin asks for.
        self.store.retry_now(&scope, now).await?;
        self.retry_requested.store(true, Ordering::Relaxed);
        let run = self
            .store
            .insert_run(
                &NewRun {
                    trigger: "force",
                    requested_by,
                    scope,
                },
                now,
            )
            .await?;
        self.spawn_closing(run.clone());
        Ok(run)
    }

    /// Tells the sender that something is due that no run closed.
    pub(crate) fn send_now(&self) {
        self.closed.notify_one();
    }

    /// Closes what some accounts used, because their billing periods ended.
    ///
    /// # Errors
    /// A database that does not answer.
    pub(crate) async fn close_accounts(self: &Arc<Self>, accounts: Vec<String>) -> Result<()> {
        let new = NewRun {
            trigger: "period end",
            requested_by: self.replica.clone(),
            scope: Scope::Accounts(accounts),
        };
        let run = self.store.insert_run(&new, self.clock.now()).await?;
        self.spawn_closing(run);
        Ok(())
    }

    /// Waits for the work that is under way.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn spawn_closing(self: &Arc<Self>, run: Run) {
        let span = tracing::info_span!("report_run", run = %run.id, trigger = %run.trigger);
        let reporter = Arc::clone(self);
        self.tasks.spawn(
            async move {
                let mut tries = 0_u32;
                while let Err(error) = reporter.close(&run).await {
                    tries = tries.saturating_add(1);
                    if tries >= CLOSING_TRIES || reporter.shutdown.is_cancelled() {
                        tracing::error!(%error, "closing stopped; it is taken up again by the next tick");
                        break;
                    }
                    tracing::warn!(%error, "closing is tried again");
                    tokio::time::sleep(CLOSING_PAUSE).await;
                }
            }
            .instrument(span),
        );
    }

    /// Closes every report in a run's scope whose window has begun. Closing twice closes nothing more, so a
    /// run that somebody left unfinished is simply run again.
    async fn close(&self, run: &Run) -> Result<()> {
        let scope = scope_of(run)?;
        let mut after = None;
        loop {
            let page = self
                .store
                .close_page(run.id, &scope, after.as_ref(), self.clock.now())
                .await?;
            self.closed.notify_one();
            self.progress.notify_waiters();
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
            if self.shutdown.is_cancelled() {
                return Err(Error::ShuttingDown);
            }
        }
        self.store.finish_closing(run.id, self.clock.now()).await?;
        self.progress.notify_waiters();
        tracing::info!("closing finished");
        Ok(())
    }
}
