//! Watches a run. The states of its reports are in the database, so any replica can watch it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sea_orm::DbErr;
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

use super::{reporter::Reporter, run_observation::Observation, run_summary::Summary};
use crate::{
    domain::{
        account::{BillingTarget, Link, billing_target_at},
        account_id::AccountId,
        report::Report,
        run::{Run, Scope},
    },
    error::{Error, Result},
};

/// How long a run may make no progress before its watcher gets a summary that lists the rest as `retried_later`.
/// Sending continues.
const STALLED: Duration = Duration::from_secs(45);
/// The longest time that a run is watched. It can be watched again.
const MAX_WATCH: Duration = Duration::from_hours(1);
/// The number of reports that one query of a dry run reads.
const PREVIEWS_PER_PAGE: u64 = 500;

/// What a watcher receives.
#[derive(Clone, Debug)]
pub(crate) enum RunEvent {
    Started {
        run_id: Option<Uuid>,
        /// Why reports that wait for a retry still wait.
        not_retried: Option<String>,
    },
    Progress(Observation),
    Preview(Vec<Report>),
    Summary {
        run_id: Option<Uuid>,
        summary: Summary,
    },
}

type Events = mpsc::Sender<Result<RunEvent>>;

impl Reporter {
    /// Watches a run to its end. The first event says why reports that wait for a retry still wait, if they do; the last one is
    /// the summary. Dropping the receiver stops watching.
    pub(crate) fn watch(
        self: &Arc<Self>,
        run: Run,
        not_retried: Option<String>,
    ) -> mpsc::Receiver<Result<RunEvent>> {
        let (events, receiver) = mpsc::channel(16);
        let reporter = Arc::clone(self);
        self.watchers.spawn(async move {
            let done = reporter.watch_states(run, not_retried, &events).await;
            send_error(done, &events).await;
        });
        receiver
    }

    /// Returns what a run over a scope would do now. Each of its pages waits for a turn, which it does not keep while its
    /// caller is slow.
    pub(crate) fn preview(self: &Arc<Self>, scope: Scope) -> mpsc::Receiver<Result<RunEvent>> {
        let (events, receiver) = mpsc::channel(16);
        let reporter = Arc::clone(self);
        self.watchers.spawn(async move {
            let done = reporter.preview_states(scope, &events).await;
            send_error(done, &events).await;
        });
        receiver
    }

    /// The run with an id, if there is one.
    pub(crate) async fn find_run(&self, id: Uuid) -> Result<Option<Run>> {
        self.store.find_run(id).await
    }

    async fn watch_states(
        self: &Arc<Self>,
        run: Run,
        not_retried: Option<String>,
        events: &Events,
    ) -> Result<()> {
        let id = run.id;
        let started = RunEvent::Started {
            run_id: Some(id),
            not_retried,
        };
        if events.send(Ok(started)).await.is_err() {
            return Ok(());
        }
        let mut observations = self.observer.observe(&run);
        let begun = Instant::now();
        let (mut last, mut moved_at) = (None, begun);
        loop {
            let observed = tokio::select! {
                observed = observations.next() => observed.ok_or_else(|| {
                    if self.shutdown.is_cancelled() {
                        Error::ShuttingDown
                    } else {
                        Error::Internal("the observation of the run ended".into())
                    }
                })?,
                () = events.closed() => return Ok(()),
                () = self.shutdown.cancelled() => return Err(Error::ShuttingDown),
            };
            let seen =
                observed.map_err(|error| Error::DatabaseUnavailable(DbErr::Custom(error)))?;
            let now = Instant::now();
            if Some(seen) != last {
                (last, moved_at) = (Some(seen), now);
                if events.send(Ok(RunEvent::Progress(seen))).await.is_err() {
                    return Ok(());
                }
            }
            let is_done = seen.closing_finished
                && seen.summary.pending.reports == 0
                && seen.in_earlier_runs == 0;
            let is_enough =
                now.duration_since(moved_at) > STALLED || now.duration_since(begun) > MAX_WATCH;
            if is_done || is_enough {
                let summary = seen.summary.finished();
                // The watcher may have disconnected.
                let _ = events
                    .send(Ok(RunEvent::Summary {
                        run_id: Some(id),
                        summary,
                    }))
                    .await;
                return Ok(());
            }
        }
    }

    async fn preview_states(&self, scope: Scope, events: &Events) -> Result<()> {
        let place = self.previews.place()?;
        let now = self.store.now().await?;
        let mut summary = Summary::default();
        let started = RunEvent::Started {
            run_id: None,
            not_retried: None,
        };
        if events.send(Ok(started)).await.is_err() {
            return Ok(());
        }
        let mut after = None;
        loop {
            let turn = tokio::select! {
                turn = place.turn() => turn?,
                () = events.closed() => return Ok(()),
                () = self.shutdown.cancelled() => return Err(Error::ShuttingDown),
            };
            let page = self
                .store
                .preview_reports(&scope, after.as_ref(), now, PREVIEWS_PER_PAGE)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.place.clone());
            let page: Vec<_> = page.into_iter().map(|one| one.report).collect();
            let links = self.store.links_of(&page).await?;
            drop(turn);
            let reports = page.into_iter();
            let sent: Vec<Report> = reports
                .filter_map(|report| previewed(report, &links, &mut summary))
                .collect();
            if !sent.is_empty() && events.send(Ok(RunEvent::Preview(sent))).await.is_err() {
                return Ok(());
            }
        }
        // The watcher may have disconnected.
        let _ = events
            .send(Ok(RunEvent::Summary {
                run_id: None,
                summary,
            }))
            .await;
        Ok(())
    }
}

/// Adds a report to what a run would do. Returns it if it would be sent.
fn previewed(
    mut report: Report,
    links: &HashMap<AccountId, Vec<Link>>,
    summary: &mut Summary,
) -> Option<Report> {
    let own = links.get(&report.account_id).map_or(&[][..], Vec::as_slice);
    let is_open = report.period_end.is_none();
    if is_open {
        summary.closed.add(1, report.quantity);
    }
    let target = billing_target_at(own, report.first_at);
    match target {
        BillingTarget::NotBillable | BillingTarget::Elsewhere(_) if is_open => {
            summary.not_billable.add(1, report.quantity);
            None
        }
        BillingTarget::NoCustomer if is_open => {
            summary.no_customer.add(1, report.quantity);
            None
        }
        _ => {
            if let (true, BillingTarget::Billed(customer)) = (is_open, target) {
                report.customer = Some(customer);
            }
            summary.accepted.add(1, report.quantity);
            Some(report)
        }
    }
}

async fn send_error(done: Result<()>, events: &Events) {
    if let Err(error) = done {
        // The watcher may have disconnected.
        let _ = events.send(Err(error)).await;
    }
}
