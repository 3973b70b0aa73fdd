//! `usage-server reconcile`: its flags, and the rows as a table or as JSON. The figures are from
//! `crate::reconciliation`, or with `--server` from a running server.

use std::time::Duration;

use super::remote::{Connection, RemoteConfig, RemoteError};
use crate::{
    clock::Clock,
    config::CommandConfig,
    domain::{
        Millis, SECOND_MS, difference_id::DifferenceId, invoice_comparison::PeriodComparison,
        period::rfc3339, waiting_comparison::WaitingComparison, window::Interval,
    },
    reconciliation::{MAX_ROWS, ReconciliationQuery, Row, reconcile},
    rpc::wire_reconciliation::read_row,
};
use chrono::{DateTime, Months, NaiveDate, NaiveTime};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use prost_types::Timestamp;
use serde_json::json;
use tonic::Request;
use usage_proto::v1::{self, usage_service_client::UsageServiceClient};

const NANOS_PER_MILLI: i64 = 1_000_000;
/// A server reads Stripe's totals of up to 10 accounts for a page.
const PAGE_WITHIN: Duration = Duration::from_secs(75);

/// The flags of the command.
#[derive(Args, Debug)]
pub struct ReconcileCommand {
    #[command(flatten)]
    remote: RemoteConfig,
    #[command(flatten)]
    config: CommandConfig,
    /// Only this account. Stripe's totals are read even if nothing was counted.
    #[arg(long)]
    account: Option<String>,
    /// Billing periods that overlap this: a month such as `2026-11`, or `START/END` as dates or RFC 3339 times.
    /// Default: the current periods.
    #[arg(long, value_parser = parse_period)]
    period: Option<Interval>,
    /// Print a JSON array of objects.
    #[arg(long)]
    json: bool,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A setting is wrong, the database or Stripe cannot be used, or there are too many rows.
    #[error("{0}")]
    Failed(String),
    /// The server does not answer.
    #[error(transparent)]
    Server(#[from] RemoteError),
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[from] std::io::Error),
}

/// Prints the figures, and warnings on `notes`; returns whether all are equal.
///
/// # Errors
/// See [`ReconcileError`].
pub async fn run(
    command: ReconcileCommand,
    out: &mut impl std::io::Write,
    notes: &mut impl std::io::Write,
) -> Result<bool, ReconcileError> {
    let query = ReconciliationQuery {
        account_id: command.account,
        period: command.period,
    };
    let rows = match command.remote.connect(notes).await? {
        Some(connection) => ask(&command.remote, connection, &query).await?,
        None => reconcile(&command.config, &Clock::system(), &query)
            .await
            .map_err(ReconcileError::Failed)?,
    };
    let unequal = rows.iter().filter(|row| !row.is_equal()).count();
    if command.json {
        let all: Vec<_> = rows.iter().map(as_json).collect();
        writeln!(out, "{:#}", serde_json::Value::Array(all))?;
    } else {
        writeln!(out, "{}", table(&rows))?;
        writeln!(out, "{} rows, {unequal} with a difference", rows.len())?;
    }
    Ok(unequal == 0)
}

/// All rows of a server, page by page.
async fn ask(
    remote: &RemoteConfig,
    connection: Connection,
    query: &ReconciliationQuery,
) -> Result<Vec<Row>, ReconcileError> {
    let time = |at: Millis| Timestamp {
        seconds: at.div_euclid(SECOND_MS),
        nanos: i32::try_from(at.rem_euclid(SECOND_MS).saturating_mul(NANOS_PER_MILLI))
            .unwrap_or_default(),
    };
    let mut client = UsageServiceClient::new(connection);
    let mut question = v1::ReconcileRequest {
        account_id: query.account_id.clone().unwrap_or_default(),
        period: query.period.map(|period| v1::Period {
            start: Some(time(period.start)),
            end: Some(time(period.end)),
        }),
        page_size: 0,
        page_token: String::new(),
    };
    let mut rows = Vec::new();
    loop {
        let mut request = Request::new(question.clone());
        request.set_timeout(PAGE_WITHIN);
        let answer = client.reconcile(request).await;
        let page = answer.map_err(|status| remote.error(&status))?.into_inner();
        for row in page.rows {
            rows.push(read_row(row).map_err(ReconcileError::Failed)?);
        }
        if rows.len() > MAX_ROWS {
            return Err(ReconcileError::Failed(format!(
                "there are more than {MAX_ROWS} rows; give an account or a shorter period"
            )));
        }
        if page.next_page_token.is_empty() {
            return Ok(rows);
        }
        // It would be asked for ever.
        if page.next_page_token == question.page_token {
            let why = "the server answered with a page that leads to itself";
            return Err(ReconcileError::Failed(why.to_owned()));
        }
        question.page_token = page.next_page_token;
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "account",
        "customer",
        "meter",
        "period",
        "counted",
        "reported",
        "Stripe",
        "difference",
        "invoices",
        "reports",
    ]);
    for row in rows {
        let period = format!(
            "{} / {}",
            rfc3339(row.period.start),
            rfc3339(row.period.end)
        );
        let (stripe_total, difference) = match &row.stripe_total {
            Ok(total) => (total.to_string(), difference(row, *total)),
            Err(error) => (error.clone(), "unknown".to_owned()),
        };
        let states: Vec<String> = row
            .states
            .iter()
            .map(|(state, (reports, _))| format!("{} {reports}", state.name()))
            .collect();
        table.add_row([
            row.account_id.clone(),
            row.customer.clone(),
            row.meter.clone(),
            period,
            row.counted.to_string(),
            row.reported.to_string(),
            stripe_total,
            difference,
            invoices(row),
            states.join(", "),
        ]);
    }
    for column in 4..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Stripe's total minus what was counted; if that is 0, Stripe's total minus what was reported.
fn difference(row: &Row, stripe_total: i64) -> String {
    let from_counted = stripe_total.saturating_sub(row.counted);
    if from_counted == 0 && row.reported != stripe_total {
        return format!(
            "{:+} against reported",
            stripe_total.saturating_sub(row.reported)
        );
    }
    if from_counted == 0 {
        return "0".to_owned();
    }
    format!("{from_counted:+}")
}

/// What invoices charge; with both figures and the invoices where that is not what was reported.
fn invoices(row: &Row) -> String {
    let all = row.invoices.iter().map(|one| {
        if one.is_difference() {
            let known = one.acknowledged.as_ref();
            let known = known.map(|own| format!(", acknowledged by {}: {}", own.by, own.reason));
            describe_difference(one) + &known.unwrap_or_default()
        } else {
            one.compared.reported.to_string()
        }
    });
    let waiting = row.waiting.iter().map(describe_waiting);
    all.chain(waiting).collect::<Vec<_>>().join("; ")
}

/// Such as `not compared since 2026-11-01T01:00:00Z: invoice in_1 cannot be read`.
pub(crate) fn describe_waiting(one: &WaitingComparison) -> String {
    let since = rfc3339(one.since);
    match &one.why {
        Some(why) => format!("not compared since {since}: {why}"),
        None => format!("not compared since {since}: the job has not tried"),
    }
}

/// Such as `differs: 11 reported, 5 invoiced (in_1 paid)`.
pub(crate) fn describe_difference(one: &PeriodComparison) -> String {
    let invoiced = one
        .compared
        .invoiced
        .map_or("unknown".to_owned(), |units| units.to_string());
    let ids: Vec<String> = one
        .invoices
        .iter()
        .map(|(id, status)| format!("{id} {}", status.name()))
        .collect();
    let ids = if ids.is_empty() {
        "no invoice".to_owned()
    } else {
        ids.join(", ")
    };
    format!(
        "{}: {} reported, {invoiced} invoiced ({ids})",
        one.compared.finding.name(),
        one.compared.reported
    )
}

fn invoice_json(one: &PeriodComparison) -> serde_json::Value {
    let invoices: Vec<_> = one
        .invoices
        .iter()
        .map(|(id, status)| json!({ "id": id, "status": status.name() }))
        .collect();
    json!({
        "item": one.item,
        "price": one.price,
        "period": { "start": rfc3339(one.period.start), "end": rfc3339(one.period.end) },
        "finding": one.compared.finding.name(),
        "reported": one.compared.reported,
        "invoiced": one.compared.invoiced,
        "invoices": invoices,
        "changed_at": rfc3339(one.changed_at),
        "difference_id": one.is_difference().then(|| DifferenceId::of(one).to_string()),
        "acknowledged": one.acknowledged.as_ref().map(|own| json!({
            "reason": own.reason,
            "requested_by": own.by,
            "acknowledged_at": rfc3339(own.at),
        })),
    })
}

fn waiting_json(one: &WaitingComparison) -> serde_json::Value {
    json!({
        "item": one.item,
        "period": { "start": rfc3339(one.period.start), "end": rfc3339(one.period.end) },
        "since": rfc3339(one.since),
        "reason": one.why,
    })
}

fn as_json(row: &Row) -> serde_json::Value {
    let states: serde_json::Map<String, serde_json::Value> = row
        .states
        .iter()
        .map(|(state, (reports, quantity))| {
            (
                state.name().to_owned(),
                json!({ "reports": reports, "quantity": quantity }),
            )
        })
        .collect();
    json!({
        "account_id": row.account_id,
        "stripe_customer": row.customer,
        "meter": row.meter,
        "period": { "start": rfc3339(row.period.start), "end": rfc3339(row.period.end) },
        "is_billing_period": row.is_billing_period,
        "counted": row.counted,
        "reported": row.reported,
        "stripe_total": row.stripe_total.as_ref().ok(),
        "stripe_error": row.stripe_total.as_ref().err(),
        "equal": row.is_equal(),
        "states": states,
        "invoices": row.invoices.iter().map(invoice_json).collect::<Vec<_>>(),
        "waiting": row.waiting.iter().map(waiting_json).collect::<Vec<_>>(),
    })
}

/// Parses a month, or two times separated by a slash.
fn parse_period(text: &str) -> Result<Interval, String> {
    let period = if let Some((start, end)) = text.split_once('/') {
        Interval {
            start: parse_time(start)?,
            end: parse_time(end)?,
        }
    } else {
        let first = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d")
            .map_err(|_| format!("{text:?} is not a month such as 2026-11 or START/END"))?;
        let next = first
            .checked_add_months(Months::new(1))
            .ok_or("the month is outside the calendar")?;
        Interval {
            start: midnight(first),
            end: midnight(next),
        }
    };
    if period.start < period.end {
        Ok(period)
    } else {
        Err(format!("{text:?} must end after it starts"))
    }
}

pub(super) fn parse_time(text: &str) -> Result<Millis, String> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(midnight(date));
    }
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|_| format!("{text:?} is not a date such as 2026-11-22 or an RFC 3339 time"))
}

fn midnight(date: NaiveDate) -> Millis {
    date.and_time(NaiveTime::MIN).and_utc().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_a_month_or_two_times() {
        let day = 86_400_000;
        let november = parse_period("2026-11").unwrap();
        assert_eq!(november.end - november.start, 30 * day);
        assert_eq!(parse_period("2026-11-01/2026-12-01"), Ok(november));
        let half = parse_period("2026-11-01T12:00:00Z/2026-11-02").unwrap();
        assert_eq!(half.end - half.start, day / 2);
        for wrong in [
            "",
            "2026",
            "2026-13",
            "2026-11-02/2026-11-01",
            "a/b",
            "2026-11-01",
        ] {
            assert!(parse_period(wrong).is_err(), "{wrong}");
        }
    }
}
