//! The request and the messages of `ForceReport`.

use usage_proto::v1::{self, force_report_response::Event as Wire};

use super::{caller_stream::CallerStream, wire};
use crate::{
    domain::{account_id::AccountId, run::Scope, violation::Violation},
    workers::{run_summary::Summary, run_watch::RunEvent},
};

/// The responses of `ForceReport`. Dropping it stops watching the run, not the run.
pub(crate) type ForceReportStream = CallerStream<RunEvent, v1::ForceReportResponse>;

/// Accounts that one call may name.
const MAX_ACCOUNTS: usize = 1_000;

/// The scope of a request; `None` if it watches a run instead.
pub(super) fn scope(request: &v1::ForceReportRequest) -> Result<Option<Scope>, Violation> {
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
    let accounts: Result<Vec<AccountId>, Violation> = request
        .account_ids
        .iter()
        .map(|account| AccountId::parse_field("account_ids", account))
        .collect();
    Ok(Some(Scope::Accounts(accounts?)))
}

/// The message of an event.
pub(super) fn response(event: RunEvent) -> v1::ForceReportResponse {
    v1::ForceReportResponse {
        event: Some(wire_event(event)),
    }
}

fn wire_event(event: RunEvent) -> Wire {
    let id = |run: Option<uuid::Uuid>| run.map(|id| id.to_string()).unwrap_or_default();
    match event {
        RunEvent::Started {
            run_id,
            not_retried,
        } => Wire::Started(v1::ReportRunStarted {
            run_id: id(run_id),
            not_retried: not_retried.unwrap_or_default(),
        }),
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
