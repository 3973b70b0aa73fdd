//! Watches a run by reading the states of its reports from the database, so any replica can watch it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

use super::reporter::Reporter;
use crate::{
    domain::{
        account::{BillingTarget, billing_target_at},
        report::{Report, State},
        run::{Run, Scope},
    },
    error::{Error, Result},
    store::runs::StateCount,
};

/// How often a watcher reads the states without being woken.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long a run may make no progress before its watcher gets a summary that lists the rest as `retried_later`.
/// Sending continues.
const STALLED: Duration = Duration::from_secs(45);
/// The longest time that a run is watched. It can be watched again.
const MAX_WATCH: Duration = Duration::from_hours(1);
/// The number of reports that one query of a dry run reads.
const PREVIEWS_PER_PAGE: u64 = 500;

/// A number of reports, and the sum of their quantities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) reports: i64,
    pub(crate) quantity: i64,
}

impl Count {
    fn add(&mut self, reports: i64, quantity: i64) {
        self.reports = self.reports.saturating_add(reports);
        self.quantity = self.quantity.saturating_add(quantity);
    }
}

/// The results of the reports that a run closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) closed: Count,
    pub(crate) accepted: Count,
    pub(crate) rejected: Count,
    pub(crate) retried_later: Count,
    pub(crate) not_billable: Count,
    pub(crate) no_customer: Count,
    /// Not sent yet; part of `retried_later` in the last summary.
    pending: Count,
}

/// What a watcher receives.
#[derive(Clone, Debug)]
pub(crate) enum RunEvent {
    Started {
        run_id: Option<Uuid>,
    },
    Progress {
        summary: Summary,
        closing_finished: bool,
        in_earlier_runs: u64,
    },
    Preview(Vec<Report>),
    Summary {
        run_id: Option<Uuid>,
        summary: Summary,
    },
}

impl Summary {
    fn of(counts: &[StateCount]) -> Self {
        let mut summary = Self::default();
        for count in counts {
            summary.closed.add(count.reports, count.quantity);
            let part = match count.state {
                State::Accepted | State::Confirmed | State::Missing => &mut summary.accepted,
                State::Rejected | State::CustomerDeleted | State::TooLate | State::WrittenOff => {
                    &mut summary.rejected
                }
                State::NotBillable => &mut summary.not_billable,
                State::NoCustomer => &mut summary.no_customer,
                State::Unknown => &mut summary.retried_later,
                State::Closed | State::Sending if count.is_waiting => &mut summary.retried_later,
                State::Open | State::Closed | State::Sending => &mut summary.pending,
            };
            part.add(count.reports, count.quantity);
        }
        summary
    }

    /// The number of reports that have a result.
    pub(crate) fn done(&self) -> i64 {
        self.closed.reports.saturating_sub(self.pending.reports)
    }

    fn finished(mut self) -> Self {
        self.retried_later
            .add(self.pending.reports, self.pending.quantity);
        self.pending = Count::default();
        self
    }
}

type Events = mpsc::Sender<Result<RunEvent>>;

impl Reporter {
    /// Watches a run to its end. The last event is the summary. Dropping the receiver stops watching.
    pub(crate) fn watch(self: &Arc<Self>, run: Run) -> mpsc::Receiver<Result<RunEvent>> {
        let (events, receiver) = mpsc::channel(16);
        let reporter = Arc::clone(self);
        self.watchers.spawn(async move {
            let done = reporter.watch_states(run, &events).await;
            send_error(done, &events).await;
        });
        receiver
    }

    /// Returns what a run over a scope would do now.
    pub(crate) fn preview(self: &Arc<Self>, scope: Scope) -> mpsc::Receiver<Result<RunEvent>> {
        let (events, receiver) = mpsc::channel(16);
        let reporter = Arc::clone(self);
        self.watchers.spawn(async move {
            let done = reporter.preview_states(scope, &events).await;
            send_error(done, &events).await;
        });
        receiver
    }

    /// The run with an id.
    pub(crate) async fn run(&self, id: Uuid) -> Result<Run> {
        self.store.get_run(id).await
    }

    async fn watch_states(&self, run: Run, events: &Events) -> Result<()> {
        let id = run.id;
        if events
            .send(Ok(RunEvent::Started { run_id: Some(id) }))
            .await
            .is_err()
        {
            return Ok(());
        }
        let meters = self.meters.names_of_all();
        let begun = Instant::now();
        let (mut last, mut moved_at) = (None, begun);
        loop {
            let progress = self.signals.progress.notified();
            let closing_finished_at = self.store.get_run(id).await?.closing_finished_at;
            let closing_finished = closing_finished_at.is_some();
            let summary = Summary::of(&self.store.run_counts(id).await?);
            // In between, another run may have closed reports in this run's scope.
            let until = match closing_finished_at {
                Some(at) => at,
                None => self.store.now().await?,
            };
            let in_earlier_runs = self
                .store
                .count_pending_elsewhere(&run, &meters, until)
                .await?;
            let now = Instant::now();
            let seen = Some((summary, closing_finished, in_earlier_runs));
            if seen != last {
                (last, moved_at) = (seen, now);
                let event = RunEvent::Progress {
                    summary,
                    closing_finished,
                    in_earlier_runs,
                };
                if events.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
            let is_done = closing_finished && summary.pending.reports == 0 && in_earlier_runs == 0;
            let is_enough =
                now.duration_since(moved_at) > STALLED || now.duration_since(begun) > MAX_WATCH;
            if is_done || is_enough {
                let summary = summary.finished();
                // The watcher may have disconnected.
                let _ = events
                    .send(Ok(RunEvent::Summary {
                        run_id: Some(id),
                        summary,
                    }))
                    .await;
                return Ok(());
            }
            tokio::select! {
                () = progress => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = events.closed() => return Ok(()),
                () = self.shutdown.cancelled() => return Err(Error::ShuttingDown),
            }
        }
    }

    async fn preview_states(&self, scope: Scope, events: &Events) -> Result<()> {
        let now = self.store.now().await?;
        let mut summary = Summary::default();
        if events
            .send(Ok(RunEvent::Started { run_id: None }))
            .await
            .is_err()
        {
            return Ok(());
        }
        let mut after = None;
        loop {
            let page = self
                .store
                .preview_reports(&scope, after, now, PREVIEWS_PER_PAGE)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let links = self.store.links_of(&page).await?;
            let mut sent = Vec::new();
            for mut report in page {
                let own = links.get(&report.account_id).map_or(&[][..], Vec::as_slice);
                let is_open = report.period_end.is_none();
                if is_open {
                    summary.closed.add(1, report.quantity);
                }
                let target = billing_target_at(own, report.first_at);
                match target {
                    BillingTarget::NotBillable if is_open => {
                        summary.not_billable.add(1, report.quantity);
                    }
                    BillingTarget::NoCustomer if is_open => {
                        summary.no_customer.add(1, report.quantity);
                    }
                    _ => {
                        if let (true, BillingTarget::Billed(customer)) = (is_open, target) {
                            report.customer = Some(customer);
                        }
                        summary.accepted.add(1, report.quantity);
                        sent.push(report);
                    }
                }
            }
            if !sent.is_empty() && events.send(Ok(RunEvent::Preview(sent))).await.is_err() {
                return Ok(());
            }
            if self.shutdown.is_cancelled() {
                return Err(Error::ShuttingDown);
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

async fn send_error(done: Result<()>, events: &Events) {
    if let Err(error) = done {
        // The watcher may have disconnected.
        let _ = events.send(Err(error)).await;
    }
}
