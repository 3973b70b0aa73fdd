//! The request and the response stream of `ForceReport`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;
use usage_proto::v1::{self, force_report_response::Event as Wire};

use super::wire;
use crate::{
    authentication::Authenticator,
    domain::{access::Caller, account_id::AccountId, run::Scope, violation::Violation},
    error::{Error, Result},
    workers::{run_summary::Summary, run_watch::RunEvent},
};

/// Accounts that one call may name.
const MAX_ACCOUNTS: usize = 1_000;

/// How often it is checked whether the caller may still watch.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The responses of `ForceReport`. Dropping it stops watching the run, not the run.
pub(crate) struct ReportStream {
    events: mpsc::Receiver<Result<RunEvent>>,
    /// Ends when the caller may not watch any more; absent once it has.
    refused: Option<BoxFuture<'static, ()>>,
}

impl std::fmt::Debug for ReportStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReportStream")
    }
}

impl ReportStream {
    pub(super) fn new(
        events: mpsc::Receiver<Result<RunEvent>>,
        authenticator: Authenticator,
        caller: Arc<Caller>,
    ) -> Self {
        let refused = async move {
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                // While the database does not answer, there is nothing to see either.
                if let Ok(false) = authenticator.is_still_valid(&caller).await {
                    return;
                }
            }
        };
        Self {
            events,
            refused: Some(Box::pin(refused)),
        }
    }
}

impl Stream for ReportStream {
    type Item = std::result::Result<v1::ForceReportResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(refused) = &mut self.refused else {
            return Poll::Ready(None);
        };
        if refused.as_mut().poll(cx).is_ready() {
            self.refused = None;
            return Poll::Ready(Some(Err(Error::Unauthenticated.into())));
        }
        self.events.poll_recv(cx).map(|event| {
            event.map(|event| {
                let event = event?;
                Ok(v1::ForceReportResponse {
                    event: Some(response(event)),
                })
            })
        })
    }
}

/// The scope of a request; `None` if it watches a run instead.
pub(super) fn scope(
    request: &v1::ForceReportRequest,
) -> std::result::Result<Option<Scope>, Violation> {
    let fields = [
        ("account_ids", !request.account_ids.is_empty()),
        ("all", request.all),
        ("run_id", !request.run_id.is_empty()),
    ];
    let given: Vec<&str> = fields
        .iter()
        .filter_map(|(field, is_given)| is_given.then_some(*field))
        .collect();
    if given.len() != 1 {
        let message = if given.is_empty() {
            "account_ids is missing: give exactly one of account_ids, all and run_id".to_owned()
        } else {
            format!(
                "{} are given; give exactly one of account_ids, all and run_id",
                given.join(" and ")
            )
        };
        let field = given.last().copied().unwrap_or("account_ids");
        return Err(Violation::invalid(field, message));
    }
    if !request.run_id.is_empty() {
        return if request.dry_run {
            Err(Violation::invalid(
                "dry_run",
                "dry_run and run_id exclude each other: a dry run starts no run to watch",
            ))
        } else {
            Ok(None)
        };
    }
    if request.all {
        return Ok(Some(Scope::All));
    }
    if request.account_ids.len() > MAX_ACCOUNTS {
        return Err(Violation::invalid(
            "account_ids",
            format!(
                "account_ids has {} accounts; at most {MAX_ACCOUNTS} are allowed",
                request.account_ids.len()
            ),
        ));
    }
    let accounts: std::result::Result<Vec<AccountId>, Violation> = request
        .account_ids
        .iter()
        .map(|account| AccountId::parse_field("account_ids", account))
        .collect();
    Ok(Some(Scope::Accounts(accounts?)))
}

fn response(event: RunEvent) -> Wire {
    let id = |run: Option<uuid::Uuid>| run.map(|id| id.to_string()).unwrap_or_default();
    match event {
        RunEvent::Started { run_id } => Wire::Started(v1::ReportRunStarted { run_id: id(run_id) }),
        RunEvent::Progress(seen) => Wire::Progress(v1::ReportRunProgress {
            closed: seen.summary.closed.reports,
            done: seen.summary.done(),
            closing_finished: seen.closing_finished,
            in_earlier_runs: i64::try_from(seen.in_earlier_runs).unwrap_or(i64::MAX),
            results: Some(run_summary(String::new(), seen.summary)),
        }),
        RunEvent::Preview(reports) => Wire::Preview(v1::ReportPreview {
            reports: reports.into_iter().map(wire::usage_report).collect(),
        }),
        RunEvent::Summary { run_id, summary } => Wire::Summary(run_summary(id(run_id), summary)),
    }
}

fn run_summary(run_id: String, summary: Summary) -> v1::ReportRunSummary {
    let count = |part| Some(wire::count(part));
    v1::ReportRunSummary {
        run_id,
        closed: count(summary.closed),
        accepted: count(summary.accepted),
        rejected: count(summary.rejected),
        retried_later: count(summary.retried_later),
        not_billable: count(summary.not_billable),
        no_customer: count(summary.no_customer),
    }
}
