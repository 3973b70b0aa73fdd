//! An explained invoice as CSV, with the columns of `usagectl explain`. It is made of the same calls as the page.
//!
//! It is sent whole or not at all: a part of it would look like all of it.

use std::time::Duration;

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use prost_types::Timestamp;
use tokio::time::{Instant, timeout_at};
use usage_proto::v1::{ExplainInvoiceRequest, ExplainedLine, ExplainedReport};

use super::{
    calls::Failure,
    html::{rfc3339, words},
    invoice,
    query::Query,
    visitor::Visitor,
};
use crate::error::Error;

/// Increments of one call.
const PAGE_SIZE: i32 = 1_000;
/// The most calls of one file, each of which searches through a part of the keys.
const MAX_PAGES: usize = 40;
/// The most rows of one file.
const MAX_ROWS: usize = 15_000;
/// And the most bytes, which are counted with each row. A page of calls adds less than that.
const MAX_BYTES: usize = 6 * 1024 * 1024;
/// How long reading may take in all.
const TIMEOUT: Duration = Duration::from_secs(30);
const COLUMNS: [&str; 21] = [
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

/// Whether the address asks for it.
pub(super) fn is_wanted(query: &Query) -> bool {
    query.get("as") == "csv"
}

/// The whole explanation.
///
/// # Errors
/// The call fails, or it has more rows than a file may have.
pub(super) async fn answer(visitor: &Visitor) -> Result<Response, Failure> {
    let request = invoice::request(&visitor.query)?;
    let request =
        request.ok_or_else(|| Failure::invalid("the address has no account and no invoice"))?;
    let mut request = ExplainInvoiceRequest {
        page_size: PAGE_SIZE,
        ..request
    };
    let mut file = File::default();
    let now = Instant::now();
    let until = now.checked_add(TIMEOUT).unwrap_or(now);
    for _ in 0..MAX_PAGES {
        let page = timeout_at(until, visitor.calls.explain_invoice(request.clone())).await;
        let page = page.map_err(|_| late())??;
        for line in &page.lines {
            file.add_line(line).map_err(|Full| too_large())?;
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            let headers = [
                (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
                (
                    header::CONTENT_DISPOSITION,
                    "attachment; filename=\"invoice.csv\"",
                ),
            ];
            return Ok((headers, file.text()).into_response());
        }
    }
    Err(too_large())
}

/// What to ask for in the place of a file that is too large or takes too long.
const INSTEAD: &str =
    "ask for one report or without increments (increments=no), or use `usagectl explain --csv`";

fn too_large() -> Failure {
    Failure::invalid(format!(
        "the explanation has more than {MAX_ROWS} rows, {MAX_BYTES} bytes or {MAX_PAGES} pages; {INSTEAD}"
    ))
}

fn late() -> Failure {
    Failure {
        message: format!(
            "reading the explanation took more than {} s; {INSTEAD}",
            TIMEOUT.as_secs()
        ),
        ..Error::DeadlineExceeded.into()
    }
}

/// The file has no room for another row.
#[derive(Debug)]
struct Full;

/// The rows, and which line and report the last of them are of: the next page may go on with them.
#[derive(Default)]
struct File {
    text: String,
    rows: usize,
    line: Option<[String; 7]>,
    report: String,
}

impl File {
    fn text(self) -> String {
        format!("{}\r\n{}", COLUMNS.join(","), self.text)
    }

    fn add(&mut self, of: &[String; 7], rest: &[String; 14]) -> Result<(), Full> {
        let cells: Vec<String> = of.iter().chain(rest).map(|cell| quoted(cell)).collect();
        let row = format!("{}\r\n", cells.join(","));
        let bytes = self.text.len().saturating_add(row.len());
        if self.rows >= MAX_ROWS || bytes > MAX_BYTES {
            return Err(Full);
        }
        self.text.push_str(&row);
        self.rows = self.rows.saturating_add(1);
        Ok(())
    }

    fn add_line(&mut self, line: &ExplainedLine) -> Result<(), Full> {
        let of = row_of("line", line);
        if self.line.as_ref() != Some(&of) {
            self.add(&of, &figures(line))?;
            self.line = Some(of);
            self.report.clear();
        }
        for report in &line.reports {
            self.add_report(line, report)?;
        }
        Ok(())
    }

    fn add_report(&mut self, line: &ExplainedLine, one: &ExplainedReport) -> Result<(), Full> {
        let report = one.report.clone().unwrap_or_default();
        if self.report != report.id {
            let name = if one.folded > 0 { "folded" } else { "report" };
            let start = report.window.and_then(|window| window.start);
            let archive = one.archive.as_ref().map(|archive| archive.file.clone());
            let mut rest = empty();
            let cells = [
                report.id.clone(),
                words(report.state().as_str_name(), "USAGE_REPORT_STATE_").replace(' ', "_"),
                report.identifier.clone(),
                report.quantity.to_string(),
                String::new(),
                at(report.event_timestamp.or(start)),
                at(report.closed_at),
                archive.unwrap_or_default(),
            ];
            put(&mut rest, 6, cells);
            self.add(&row_of(name, line), &rest)?;
            self.report.clone_from(&report.id);
        }
        for increment in &one.increments {
            let parts = [
                increment.quantity.to_string(),
                increment.key.clone(),
                at(increment.timestamp),
                at(increment.counted_at),
            ];
            self.add_part("increment", line, &report.id, parts)?;
        }
        if let Some(rest) = one.without_key {
            let parts = [
                rest.to_string(),
                String::new(),
                String::new(),
                String::new(),
            ];
            self.add_part("without_key", line, &report.id, parts)?;
        }
        Ok(())
    }

    fn add_part(
        &mut self,
        name: &str,
        line: &ExplainedLine,
        report: &str,
        parts: [String; 4],
    ) -> Result<(), Full> {
        let mut rest = empty();
        put(&mut rest, 6, [report.to_owned()]);
        put(&mut rest, 9, parts);
        self.add(&row_of(name, line), &rest)
    }
}

fn empty() -> [String; 14] {
    std::array::from_fn(|_| String::new())
}

/// Puts values into a row, from a place on.
fn put<const N: usize>(row: &mut [String; 14], from: usize, values: [String; N]) {
    for (cell, value) in row.iter_mut().skip(from).zip(values) {
        *cell = value;
    }
}

fn row_of(name: &str, line: &ExplainedLine) -> [String; 7] {
    let period = line.period.unwrap_or_default();
    [
        name.to_owned(),
        line.account_id.clone(),
        line.meter.clone(),
        line.item.clone(),
        line.price.clone(),
        at(period.start),
        at(period.end),
    ]
}

fn figures(line: &ExplainedLine) -> [String; 14] {
    let mut invoices: Vec<&str> = line
        .invoice_lines
        .iter()
        .map(|one| one.invoice.as_str())
        .collect();
    invoices.dedup();
    if invoices.is_empty() {
        invoices.push(&line.stripe_invoice);
    }
    let finding = line.comparison.as_ref().map(|found| {
        let name = found.finding().as_str_name();
        words(name, "INVOICE_FINDING_").replace(' ', "_")
    });
    let number = |figure: Option<i64>| figure.map_or_else(String::new, |figure| figure.to_string());
    let mut rest = empty();
    let cells = [
        invoices.join(" "),
        finding.unwrap_or_default(),
        line.reported.to_string(),
        number(line.reported_of_other_accounts),
        number(line.invoiced),
        number(line.difference),
    ];
    put(&mut rest, 0, cells);
    rest
}

fn at(time: Option<Timestamp>) -> String {
    time.map(rfc3339).unwrap_or_default()
}

/// A cell. A spreadsheet must not compute a text: account ids may begin as a formula does.
fn quoted(cell: &str) -> String {
    let is_formula =
        cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) && cell.parse::<i128>().is_err();
    let text = if is_formula {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if text.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_computed_nowhere() {
        for (cell, text) in [
            ("acct", "acct"),
            ("-5", "-5"),
            ("=1+1", "'=1+1"),
            ("@a,b", "\"'@a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("", ""),
        ] {
            assert_eq!(quoted(cell), text);
        }
    }

    #[test]
    fn a_line_that_goes_on_is_there_once() {
        let report = |quantity| ExplainedReport {
            report: Some(usage_proto::v1::UsageReport {
                id: "r".to_owned(),
                quantity,
                ..Default::default()
            }),
            without_key: Some(2),
            ..ExplainedReport::default()
        };
        let line = ExplainedLine {
            account_id: "acct".to_owned(),
            reports: vec![report(9)],
            ..ExplainedLine::default()
        };
        let mut file = File::default();
        file.add_line(&line).unwrap();
        file.add_line(&line).unwrap();
        let text = file.text();
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 5, "{text}");
        for row in &rows {
            assert_eq!(row.split(',').count(), COLUMNS.len(), "{row}");
        }
        assert!(rows[1].starts_with("line,acct,"));
        assert!(rows[2].starts_with("report,acct,"));
        assert_eq!(rows[3], rows[4]);
        assert!(rows[3].starts_with("without_key,acct,"));
    }

    #[test]
    fn a_file_ends_at_its_limits_and_not_later() {
        let line = |name: &str| ExplainedLine {
            account_id: name.to_owned(),
            ..ExplainedLine::default()
        };
        let mut file = File::default();
        let rows = (0..).take_while(|row| file.add_line(&line(&row.to_string())).is_ok());
        assert_eq!(rows.count(), MAX_ROWS);
        let long = "a".repeat(MAX_BYTES / 4);
        let mut file = File::default();
        let rows = (0..).take_while(|row| file.add_line(&line(&format!("{row}{long}"))).is_ok());
        assert_eq!(rows.count(), 3);
        assert!(file.text().len() < MAX_BYTES);
    }
}
