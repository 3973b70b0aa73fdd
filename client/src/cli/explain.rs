//! `usagectl explain`

use std::collections::HashSet;

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339, rfc3339_or_null},
    time_arg::{self, TimeArg},
};
use crate::{Error, ExplainInvoice, ExplainedLine, ExplainedReport, InvoiceLine, UsageClient};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use clap::Args;
use serde_json::{Value, json};

/// Increments of one page at most.
const PAGE_SIZE: u32 = 1_000;

/// One row is a line, what an invoice charges of it, a report of it, an increment of that, or what was counted without a key.
pub(super) const COLUMNS: [&str; 25] = [
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
    "invoice_line",
    "invoice_status",
    "amount",
    "currency",
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
    let mut found = Found::new(!arguments.without_increments);
    let next = found.read(client, question, limit).await?;
    let mut rows = Rows::new(&COLUMNS);
    for row in found.rows {
        rows.push(row);
    }
    rows.print(arguments.format, streams)?;
    if let Some(token) = next {
        writeln!(
            streams.err,
            "there are more: the same command with --page-token {token}"
        )?;
    }
    Ok(())
}

/// What a line is known by: account, item, meter and the start of its period.
type LineKey = (String, String, String, DateTime<Utc>);

/// The values of [`COLUMNS`], in the order in which pages are read, as the console writes them: it keeps nothing of a page. A
/// search for increments goes on over several pages, with parts of each report; a line and a report have one row.
struct Found {
    rows: Vec<Vec<Value>>,
    /// The number of reports and increments.
    size: usize,
    lines: HashSet<LineKey>,
    /// The reports that have a row and may have more increments.
    open: HashSet<(LineKey, String)>,
    with_increments: bool,
}

impl Found {
    fn new(with_increments: bool) -> Self {
        Self {
            rows: Vec::new(),
            size: 0,
            lines: HashSet::new(),
            open: HashSet::new(),
            with_increments,
        }
    }

    /// Reads pages until there are as many reports and increments as a limit. Returns the token of the page after them.
    async fn read(
        &mut self,
        client: &UsageClient,
        question: ExplainInvoice,
        limit: usize,
    ) -> Result<Option<String>, Error> {
        let mut page = client.explain_invoice(question.clone()).await?;
        loop {
            self.add_page(&page.lines);
            let Some(token) = page.next_page_token else {
                return Ok(None);
            };
            if self.size >= limit {
                return Ok(Some(token));
            }
            let next = question.clone().page_token(&token);
            page = client.explain_invoice(next).await?;
            // A server that does not get on would be called forever.
            if page.next_page_token.as_ref() == Some(&token) {
                return Err(Error::malformed("a page of an explanation leads to itself"));
            }
        }
    }

    fn add_page(&mut self, lines: &[ExplainedLine]) {
        for line in lines {
            let key = (
                line.account_id.clone(),
                line.item.clone(),
                line.meter.clone(),
                line.period.start,
            );
            if self.lines.insert(key.clone()) {
                self.rows.push(line_row(line));
                let charged = line.invoice_lines.iter();
                self.rows.extend(charged.map(|one| charged_row(line, one)));
            }
            for report in &line.reports {
                self.add_report(&key, line, report);
            }
        }
    }

    fn add_report(&mut self, key: &LineKey, line: &ExplainedLine, report: &ExplainedReport) {
        let own = (key.clone(), report.report.id.clone());
        if !self.open.remove(&own) {
            self.rows.push(report_row(line, report));
            self.size = self.size.saturating_add(1);
        }
        for increment in &report.increments {
            self.size = self.size.saturating_add(1);
            let values = [
                json!(increment.quantity),
                json!(increment.key),
                rfc3339_or_null(increment.timestamp),
                rfc3339(increment.counted_at),
            ];
            self.rows.push(part_row("increment", line, report, values));
        }
        if let Some(without_key) = report.without_key {
            let [key, at, counted_at] = [const { Value::Null }; 3];
            let values = [json!(without_key), key, at, counted_at];
            self.rows
                .push(part_row("without_key", line, report, values));
        } else if self.with_increments {
            self.open.insert(own);
        }
    }
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
    row.extend([const { Value::Null }; 12]);
    row
}

/// What a line of an invoice charges of a line.
fn charged_row(line: &ExplainedLine, one: &InvoiceLine) -> Vec<Value> {
    let mut row = begin("invoice_line", line);
    row.push(json!(one.invoice));
    row.extend([const { Value::Null }; 8]);
    row.push(json!(one.quantity));
    row.extend([const { Value::Null }; 4]);
    row.extend([
        json!(one.line),
        json!(one.status),
        json!(one.decimal_amount()),
        json!(one.currency),
    ]);
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
    row.extend([const { Value::Null }; 4]);
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
    row.extend([const { Value::Null }; 5]);
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
