//! `usagectl reports`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339, rfc3339_or_null},
    paging::{Paging, print_next_page},
    time_arg::{self, TimeArg, Times},
};
use crate::{ListReports, ReportArchive, ReportKind, ReportState, UsageClient, UsageReport};
use chrono::DateTime;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

/// How many archives are named, the newest ones.
const MAX_ARCHIVES: usize = 20;

pub(super) const COLUMNS: [&str; 13] = [
    "id",
    "account_id",
    "meter",
    "start",
    "period_end",
    "quantity",
    "state",
    "customer",
    "identifier",
    "attempts",
    "reported_at",
    "last_error",
    "decisions",
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only reports of this account
    #[arg(long, short)]
    account: Option<String>,
    /// Only reports in these states, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = state)]
    state: Vec<ReportState>,
    /// Only reports that wait for an admin's decision
    #[arg(long, conflicts_with = "state")]
    stuck: bool,
    /// Only reports that this run closed
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Only reports of this meter
    #[arg(long, short)]
    meter: Option<String>,
    /// Only reports that are billed to this Stripe customer, cus_...; open reports have none yet
    #[arg(long, value_name = "CUSTOMER")]
    customer: Option<String>,
    /// Only reports of windows that begin at this time or later, such as -7d, yesterday or 2026-03-01
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    start: Option<TimeArg>,
    /// Only reports of windows that begin before this time
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    end: Option<TimeArg>,
    /// Only reports on which an admin decided; needs --account
    #[arg(long, requires = "account")]
    decided: bool,
    /// Only usage, or only corrections
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Usage,
    Correction,
    /// Usage that Stripe had and a restored backup lacked.
    AlreadySent,
}

fn state(name: &str) -> Result<ReportState, String> {
    let states = ReportState::ALL.iter();
    let found = states.clone().find(|state| state.to_string() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = states.map(ToString::to_string).collect();
        format!("unknown state; the states are {}", names.join(", "))
    })
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut filter = ListReports::new();
    if let Some(account) = arguments.account {
        filter = filter.account(account);
    }
    if arguments.stuck {
        let stuck = ReportState::ALL.iter().copied();
        filter = filter.states(stuck.filter(|state| state.needs_decision()));
    } else if !arguments.state.is_empty() {
        filter = filter.states(arguments.state);
    }
    if let Some(run) = arguments.run {
        filter = filter.run(run);
    }
    if let Some(meter) = arguments.meter {
        filter = filter.meter(meter);
    }
    if let Some(customer) = arguments.customer {
        filter = filter.customer(customer);
    }
    let times = Times::read(arguments.start, arguments.end)?;
    if let Some(start) = times.start {
        filter = filter.from(start);
    }
    if let Some(end) = times.end {
        filter = filter.until(end);
    }
    if arguments.decided {
        filter = filter.decided_from(DateTime::UNIX_EPOCH);
    }
    if let Some(kind) = arguments.kind {
        filter = filter.kind(match kind {
            Kind::Usage => ReportKind::Usage,
            Kind::Correction => ReportKind::Correction,
            Kind::AlreadySent => ReportKind::AlreadySent,
        });
    }
    if let Some(token) = arguments.paging.page_token {
        filter = filter.page_token(token);
    }
    let limit = usize::try_from(arguments.paging.limit).unwrap_or(usize::MAX);
    let page = client.list_all_reports(filter, limit).await?;
    let mut rows = Rows::new(&COLUMNS);
    for report in page.reports {
        rows.push(row(&report));
    }
    rows.print(arguments.format, streams)?;
    print_archives(&page.archives, streams)?;
    print_next_page(page.next_page_token, times, streams)
}

/// The values of [`COLUMNS`].
pub(super) fn row(report: &UsageReport) -> Vec<Value> {
    let decided = report.decisions.iter();
    let decided = decided.map(|one| format!("{}: {}", one.action, one.reason));
    let decided: Vec<String> = decided.collect();
    vec![
        json!(report.id),
        json!(report.account_id),
        json!(report.meter),
        rfc3339(report.window.start),
        rfc3339_or_null(report.period_end),
        json!(report.quantity),
        json!(report.state.to_string()),
        json!(report.stripe_customer),
        json!(report.identifier),
        json!(report.attempts),
        rfc3339_or_null(report.reported_at),
        json!(report.last_error),
        json!((!decided.is_empty()).then(|| decided.join("; "))),
    ]
}

/// Says where older reports are, if some were folded.
fn print_archives(archives: &[ReportArchive], streams: &mut Streams<'_>) -> Result<(), Failure> {
    for archive in archives.iter().take(MAX_ARCHIVES) {
        writeln!(
            streams.err,
            "folded: {} reports, {} units, windows from {} to {}, are in {} (SHA-256 {})",
            archive.reports,
            archive.quantity,
            rfc3339(archive.windows.start).as_str().unwrap_or_default(),
            rfc3339(archive.windows.end).as_str().unwrap_or_default(),
            archive.file,
            archive.sha256
        )?;
    }
    match archives.len().saturating_sub(MAX_ARCHIVES) {
        0 => Ok(()),
        more => Ok(writeln!(streams.err, "folded: and {more} more archives")?),
    }
}
