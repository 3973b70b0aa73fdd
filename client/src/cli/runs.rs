//! `usagectl runs`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339, rfc3339_or_null},
    paging::{Paging, print_next_page},
    time_arg::{self, TimeArg, Times},
};
use crate::{ListRuns, ListedRun, ReportCount, RunState, UsageClient};
use clap::Args;
use serde_json::{Value, json};

const COLUMNS: [&str; 14] = [
    "id",
    "started_at",
    "trigger",
    "requested_by",
    "accounts",
    "state",
    "closed_at",
    "closed",
    "accepted",
    "rejected",
    "pending",
    "retried_later",
    "not_billable",
    "no_customer",
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only runs in these states, separated by commas: closing, stalled, closed
    #[arg(long, value_delimiter = ',', value_parser = state)]
    state: Vec<RunState>,
    /// Only the run with this id
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Only runs that began at this time or later, such as -7d, yesterday or 2026-03-01
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    start: Option<TimeArg>,
    /// Only runs that began before this time
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    end: Option<TimeArg>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    format: Format,
}

fn state(name: &str) -> Result<RunState, String> {
    let found = RunState::ALL
        .into_iter()
        .find(|one| one.to_string() == name);
    found.ok_or_else(|| "the states are closing, stalled and closed".to_owned())
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut filter = ListRuns::new().states(arguments.state);
    if let Some(run) = arguments.run {
        filter = filter.run(run);
    }
    let times = Times::read(arguments.start, arguments.end)?;
    if let Some(start) = times.start {
        filter = filter.from(start);
    }
    if let Some(end) = times.end {
        filter = filter.until(end);
    }
    let page = |size, token: Option<String>| {
        let page = filter.clone().page_size(size);
        let page = page.page_token(token.unwrap_or_default());
        async move {
            let page = client.list_runs(page).await?;
            Ok((page.runs, page.next_page_token))
        }
    };
    let (runs, next) = arguments.paging.read(page).await?;
    let mut rows = Rows::new(&COLUMNS);
    for run in &runs {
        rows.push(cells(run, arguments.format.json));
    }
    rows.print(arguments.format, streams)?;
    print_next_page(next, times, streams)
}

/// The values of [`COLUMNS`]. Counts are of reports; JSON has their quantities too.
fn cells(run: &ListedRun, is_json: bool) -> Vec<Value> {
    let count = |count: ReportCount| {
        if is_json {
            json!({"reports": count.reports, "quantity": count.quantity})
        } else {
            json!(count.reports)
        }
    };
    let results = run.results.as_ref();
    let result = |part: fn(&crate::RunResults) -> ReportCount| {
        results.map_or(Value::Null, |results| count(part(results)))
    };
    vec![
        json!(run.id),
        rfc3339(run.started_at),
        json!(run.trigger.to_string()),
        json!(run.requested_by),
        run.accounts
            .map_or(json!("all"), |accounts| json!(accounts)),
        json!(run.state.to_string()),
        rfc3339_or_null(run.closed_at),
        count(run.closed),
        result(|results| results.accepted),
        result(|results| results.rejected),
        result(|results| results.pending),
        result(|results| results.retried_later),
        result(|results| results.not_billable),
        result(|results| results.no_customer),
    ]
}
