//! `usagectl explain`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339, rfc3339_or_null},
    time_arg::{self, TimeArg},
};
use crate::{ExplainInvoice, ExplainedLine, ExplainedReport, InvoiceExplanation, UsageClient};
use chrono::TimeDelta;
use chrono_tz::Tz;
use clap::Args;
use serde_json::{Value, json};

/// Increments of one page at most.
const PAGE_SIZE: u32 = 1_000;

/// One row is a line of an invoice, a report of it, an increment of that, or what was counted without a key.
pub(super) const COLUMNS: [&str; 21] = [
    "row",
    "account_id",
    "meter",
    "item",
    "price",
    "period_start",
    "period_end",
    "invoices",
    "finding",
    "reported",
    "reported_of_other_accounts",
    "invoiced",
    "difference",
    "report",
    "state",
    "event",
    "quantity",
    "key",
    "at",
    "counted_at",
    "archive",
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The account; can be left out with --invoice
    #[arg(required_unless_present = "invoice")]
    account: Option<String>,
    /// The lines of this Stripe invoice, in_...
    #[arg(long, value_name = "INVOICE", conflicts_with_all = ["at", "start", "end"])]
    invoice: Option<String>,
    /// The billing periods that contain this time; by default the current ones
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, conflicts_with_all = ["start", "end"], allow_hyphen_values = true)]
    at: Option<TimeArg>,
    /// Billing periods that end after this time
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, requires = "end", allow_hyphen_values = true)]
    start: Option<TimeArg>,
    /// Billing periods that begin before this time
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, requires = "start", allow_hyphen_values = true)]
    end: Option<TimeArg>,
    /// Only this report
    #[arg(long, value_name = "REPORT")]
    report: Option<String>,
    /// Only lines and reports, without a search for increments
    #[arg(long)]
    without_increments: bool,
    /// The number of reports and increments after which no more pages are read
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Continue an earlier explanation
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let edge = |arg: TimeArg| arg.in_zone(Tz::UTC).map_err(Failure::arguments);
    let mut question = ExplainInvoice::of_invoice(arguments.invoice.unwrap_or_default());
    if let Some(account) = arguments.account {
        question = question.account(account);
    }
    if let Some(at) = arguments.at {
        let at = edge(at)?;
        let after = at.checked_add_signed(TimeDelta::milliseconds(1));
        question = question.period(at, after.unwrap_or(at));
    }
    if let (Some(start), Some(end)) = (arguments.start, arguments.end) {
        question = question.period(edge(start)?, edge(end)?);
    }
    if let Some(report) = arguments.report {
        question = question.report(report);
    }
    if arguments.without_increments {
        question = question.without_increments();
    }
    if let Some(token) = arguments.page_token {
        question = question.page_token(token);
    }
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let question = question.page_size(arguments.limit.min(PAGE_SIZE));
    let explained = client.explain_whole_invoice(question, limit).await?;
    let mut rows = Rows::new(&COLUMNS);
    for row in rows_of(&explained) {
        rows.push(row);
    }
    rows.print(arguments.format, streams)?;
    if let Some(token) = explained.next_page_token {
        writeln!(
            streams.err,
            "there are more: the same command with --page-token {token}"
        )?;
    }
    Ok(())
}

/// The values of [`COLUMNS`].
pub(super) fn rows_of(explained: &InvoiceExplanation) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for line in &explained.lines {
        rows.push(line_row(line));
        for report in &line.reports {
            rows.push(report_row(line, report));
            for increment in &report.increments {
                rows.push(part_row(
                    "increment",
                    line,
                    report,
                    [
                        json!(increment.quantity),
                        json!(increment.key),
                        rfc3339_or_null(increment.timestamp),
                        rfc3339(increment.counted_at),
                    ],
                ));
            }
            if let Some(without_key) = report.without_key {
                let empty = [const { Value::Null }; 3];
                let [key, at, counted_at] = empty;
                let values = [json!(without_key), key, at, counted_at];
                rows.push(part_row("without_key", line, report, values));
            }
        }
    }
    rows
}

fn line_row(line: &ExplainedLine) -> Vec<Value> {
    let mut invoices: Vec<&str> = line
        .invoice_lines
        .iter()
        .map(|line| line.invoice.as_str())
        .collect();
    invoices.dedup();
    let known = line.stripe_invoice.as_deref();
    if invoices.is_empty() {
        invoices.extend(known);
    }
    let finding = line.comparison.as_ref().map(|one| one.finding.to_string());
    let mut row = begin("line", line);
    row.extend([
        json!((!invoices.is_empty()).then(|| invoices.join(" "))),
        json!(finding),
        json!(line.reported),
        json!(line.reported_of_other_accounts),
        json!(line.invoiced),
        json!(line.difference),
    ]);
    row.extend([const { Value::Null }; 8]);
    row
}

fn report_row(line: &ExplainedLine, report: &ExplainedReport) -> Vec<Value> {
    let one = &report.report;
    let mut row = begin(
        if report.folded > 0 {
            "folded"
        } else {
            "report"
        },
        line,
    );
    row.extend([const { Value::Null }; 6]);
    let event = (!one.identifier.is_empty()).then_some(&one.identifier);
    row.extend([
        json!(one.id),
        json!(one.state.to_string()),
        json!(event),
        json!(one.quantity),
        Value::Null,
        rfc3339(one.event_timestamp.unwrap_or(one.window.start)),
        rfc3339_or_null(one.closed_at),
        json!(report.archive.as_ref().map(|archive| &archive.file)),
    ]);
    row
}

/// A part of a report: its quantity, key, time and when it was counted.
fn part_row(
    name: &str,
    line: &ExplainedLine,
    report: &ExplainedReport,
    values: [Value; 4],
) -> Vec<Value> {
    let mut row = begin(name, line);
    row.extend([const { Value::Null }; 6]);
    row.extend([json!(report.report.id), Value::Null, Value::Null]);
    row.extend(values);
    row.push(Value::Null);
    row
}

/// The values that say which line a row belongs to.
fn begin(name: &str, line: &ExplainedLine) -> Vec<Value> {
    vec![
        json!(name),
        json!(line.account_id),
        json!(line.meter),
        json!(line.item),
        json!(line.price),
        rfc3339(line.period.start),
        rfc3339(line.period.end),
    ]
}
