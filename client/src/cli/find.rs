//! `usagectl find`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339, rfc3339_or_null},
};
use crate::{ExplainedLine, FindIncrement, FoundIncrement, UsageClient};
use clap::Args;
use serde_json::{Value, json};

pub(super) const COLUMNS: [&str; 23] = [
    "key",
    "account_id",
    "meter",
    "quantity",
    "timestamp",
    "counted_at",
    "report",
    "window_start",
    "window_end",
    "report_quantity",
    "state",
    "identifier",
    "event_timestamp",
    "customer",
    "divided_with",
    "item",
    "price",
    "period_start",
    "period_end",
    "invoice",
    "invoice_line",
    "invoice_status",
    "invoiced",
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The idempotency key of the increment, or its stored form as `explain` shows it
    key: String,
    /// The account
    #[arg(long, short)]
    account: String,
    /// Only if it is of this meter
    #[arg(long, short)]
    meter: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut find = FindIncrement::new(&arguments.account, arguments.key);
    if let Some(meter) = arguments.meter {
        find = find.meter(meter);
    }
    let found = client.find_increment(find).await?;
    let mut rows = Rows::new(&COLUMNS);
    for row in rows_of(&arguments.account, &found) {
        rows.push(row);
    }
    rows.print(arguments.format, streams)
}

/// The values of [`COLUMNS`]: a row for each invoice line, and one without if there is none.
pub(super) fn rows_of(account: &str, found: &FoundIncrement) -> Vec<Vec<Value>> {
    let increment = &found.increment;
    let report = found.report.as_ref();
    let divided = (!found.divided_with.is_empty()).then(|| found.divided_with.join(" "));
    let common = vec![
        json!(increment.key),
        json!(account),
        json!(increment.meter),
        json!(increment.quantity),
        rfc3339_or_null(increment.timestamp),
        rfc3339(increment.counted_at),
        json!(report.map(|report| &report.id)),
        rfc3339_or_null(report.map(|report| report.window.start)),
        rfc3339_or_null(report.map(|report| report.window.end)),
        json!(report.map(|report| report.quantity)),
        json!(report.map(|report| report.state.to_string())),
        json!(report.map(|report| &report.identifier)),
        rfc3339_or_null(report.and_then(|report| report.event_timestamp)),
        json!(report.and_then(|report| report.stripe_customer.as_ref())),
        json!(divided),
    ];
    let of_lines = found.lines.iter().flat_map(line_cells);
    let mut rows: Vec<Vec<Value>> = of_lines
        .map(|cells| common.iter().cloned().chain(cells).collect())
        .collect();
    if rows.is_empty() {
        let empty = [const { Value::Null }; 8];
        rows.push(common.into_iter().chain(empty).collect());
    }
    rows
}

/// A row for each line of an invoice; one if none is known yet.
fn line_cells(line: &ExplainedLine) -> Vec<[Value; 8]> {
    let cells = |invoice: Value, id: Value, status: Value| {
        [
            json!(line.item),
            json!(line.price),
            rfc3339(line.period.start),
            rfc3339(line.period.end),
            invoice,
            id,
            status,
            json!(line.invoiced),
        ]
    };
    if line.invoice_lines.is_empty() {
        return vec![cells(json!(line.stripe_invoice), Value::Null, Value::Null)];
    }
    let of_line = line.invoice_lines.iter();
    of_line
        .map(|one| cells(json!(one.invoice), json!(one.line), json!(one.status)))
        .collect()
}
