//! `usage-server reconcile`: what is asked on the command line, and the answer as a table or as JSON.

use crate::{
    clock::Clock,
    domain::{Millis, window::Interval},
    reconciliation::{Question, ReconcileConfig, Row, reconcile},
};
use anyhow::Context as _;
use chrono::{DateTime, Months, NaiveDate, NaiveTime, SecondsFormat, Utc};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;

/// What is asked.
#[derive(Args, Debug)]
pub struct ReconcileCommand {
    #[command(flatten)]
    config: ReconcileConfig,
    /// Only this account; it is asked for at Stripe also where nothing was counted.
    #[arg(long)]
    account: Option<String>,
    /// Each billing period that overlaps this: a month such as `2026-11`, or `START/END`, two dates or RFC 3339
    /// times. Left out, the periods around now.
    #[arg(long, value_parser = parse_period)]
    period: Option<Interval>,
    /// Print a JSON array of objects, for machines.
    #[arg(long)]
    json: bool,
}

/// Prints the figures; answers whether they are all equal.
pub async fn run(command: ReconcileCommand, out: &mut impl std::io::Write) -> anyhow::Result<bool> {
    let question = Question {
        account_id: command.account,
        period: command.period,
    };
    let rows = reconcile(&command.config, &Clock::system(), &question)
        .await
        .map_err(anyhow::Error::msg)?;
    let unequal = rows.iter().filter(|row| !row.is_equal()).count();
    if command.json {
        let all: Vec<_> = rows.iter().map(as_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?).context("cannot print")?;
    } else {
        writeln!(out, "{}", table(&rows)).context("cannot print")?;
        writeln!(out, "{} rows, {unequal} with a difference", rows.len())
            .context("cannot print")?;
    }
    Ok(unequal == 0)
}

fn moment(at: Millis) -> String {
    DateTime::<Utc>::from_timestamp_millis(at).map_or_else(
        || format!("{at} ms"),
        |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    )
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
        "reports",
    ]);
    for row in rows {
        let period = format!("{} / {}", moment(row.period.start), moment(row.period.end));
        let (stripe, difference) = match &row.stripe {
            Ok(stripe) => (stripe.to_string(), difference(row, *stripe)),
            Err(why) => (why.clone(), "unknown".to_owned()),
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
            stripe,
            difference,
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

/// What Stripe holds more than was counted; and where that is nothing, less than was reported.
fn difference(row: &Row, stripe: i64) -> String {
    let beside_counted = stripe.saturating_sub(row.counted);
    if beside_counted == 0 && row.reported != stripe {
        return format!(
            "{:+} not known as reported",
            stripe.saturating_sub(row.reported)
        );
    }
    if beside_counted == 0 {
        return "0".to_owned();
    }
    format!("{beside_counted:+}")
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
        "period": { "start": moment(row.period.start), "end": moment(row.period.end) },
        "is_billing_period": row.is_billing_period,
        "counted": row.counted,
        "reported": row.reported,
        "stripe": row.stripe.as_ref().ok(),
        "stripe_error": row.stripe.as_ref().err(),
        "equal": row.is_equal(),
        "states": states,
    })
}

/// Reads a month, or two moments with a slash between them.
fn parse_period(text: &str) -> Result<Interval, String> {
    let period = if let Some((start, end)) = text.split_once('/') {
        Interval {
            start: parse_moment(start)?,
            end: parse_moment(end)?,
        }
    } else {
        let first = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d")
            .map_err(|_| format!("{text:?} is neither a month such as 2026-11 nor START/END"))?;
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
        Err(format!("{text:?} ends before it begins"))
    }
}

fn parse_moment(text: &str) -> Result<Millis, String> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(midnight(date));
    }
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|_| format!("{text:?} is neither a date such as 2026-11-22 nor an RFC 3339 time"))
}

fn midnight(date: NaiveDate) -> Millis {
    date.and_time(NaiveTime::MIN).and_utc().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_a_month_or_two_moments() {
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
