//! An explained invoice as CSV, with the columns and the rows of `usagectl explain`.
//!
//! Rows are in the order in which pages are read, so that none waits for another in memory: a search for the increments of some
//! reports goes on over several pages, which have parts of each of them.

use std::{collections::HashSet, mem};

use prost_types::Timestamp;
use usage_proto::{
    amounts::decimal_amount,
    v1::{ExplainedLine, ExplainedReport, InvoiceLine},
};

use super::html::{rfc3339, words};

const COLUMNS: [&str; 25] = [
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
/// The first columns: the kind of the row and the line that it belongs to.
const OF_LINE: usize = 7;
const REST: usize = 18;
/// Places among the other columns.
const REPORT: usize = 6;
const QUANTITY: usize = 9;
const INVOICE_LINE: usize = 14;

/// What a line is known by: account, item, meter and the start of its period.
type LineKey = (String, String, String, Option<(i64, i32)>);

/// The rows of the pages so far that were not taken yet, and what is needed to write each line and report once.
#[derive(Debug)]
pub(super) struct ExplainedCsv {
    text: String,
    /// The lines that have a row.
    lines: HashSet<LineKey>,
    /// The reports that have a row and may have more increments: those of one search.
    open: HashSet<(LineKey, String)>,
    with_increments: bool,
}

impl ExplainedCsv {
    /// A file that has only its header.
    pub(super) fn new(with_increments: bool) -> Self {
        Self {
            text: format!("{}\r\n", COLUMNS.join(",")),
            lines: HashSet::new(),
            open: HashSet::new(),
            with_increments,
        }
    }

    /// The text since it was last taken.
    pub(super) fn take(&mut self) -> String {
        mem::take(&mut self.text)
    }

    /// Adds the next page.
    pub(super) fn add_page(&mut self, lines: &[ExplainedLine]) {
        for line in lines {
            let key = key_of(line);
            if self.lines.insert(key.clone()) {
                self.add("line", line, &figures(line));
                for one in &line.invoice_lines {
                    self.add("invoice_line", line, &charged(one));
                }
            }
            for report in &line.reports {
                self.add_report(&key, line, report);
            }
        }
    }

    fn add(&mut self, name: &str, line: &ExplainedLine, rest: &[String; REST]) {
        let of = row_of(name, line);
        let cells: Vec<String> = of.iter().chain(rest).map(|cell| quoted(cell)).collect();
        self.text.push_str(&cells.join(","));
        self.text.push_str("\r\n");
    }

    fn add_report(&mut self, key: &LineKey, line: &ExplainedLine, one: &ExplainedReport) {
        let id = one.report.as_ref().map(|report| report.id.clone());
        let id = id.unwrap_or_default();
        let own = (key.clone(), id.clone());
        if !self.open.remove(&own) {
            let name = if one.folded > 0 { "folded" } else { "report" };
            self.add(name, line, &report_cells(one));
        }
        for increment in &one.increments {
            let parts = [
                increment.quantity.to_string(),
                increment.key.clone(),
                at(increment.timestamp),
                at(increment.counted_at),
            ];
            self.add("increment", line, &part(&id, parts));
        }
        if let Some(rest) = one.without_key {
            let parts = [rest.to_string()];
            self.add("without_key", line, &part(&id, parts));
        } else if self.with_increments {
            self.open.insert(own);
        }
    }
}

fn key_of(line: &ExplainedLine) -> LineKey {
    let start = line.period.and_then(|period| period.start);
    (
        line.account_id.clone(),
        line.item.clone(),
        line.meter.clone(),
        start.map(|start| (start.seconds, start.nanos)),
    )
}

fn report_cells(one: &ExplainedReport) -> [String; REST] {
    let report = one.report.clone().unwrap_or_default();
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
    put(&mut rest, REPORT, cells);
    rest
}

/// A part of a report: its quantity, key, time and when it was counted.
fn part<const N: usize>(report: &str, parts: [String; N]) -> [String; REST] {
    let mut rest = empty();
    put(&mut rest, REPORT, [report.to_owned()]);
    put(&mut rest, QUANTITY, parts);
    rest
}

/// What a line of an invoice charges.
fn charged(one: &InvoiceLine) -> [String; REST] {
    let mut rest = empty();
    put(&mut rest, 0, [one.invoice.clone()]);
    put(&mut rest, QUANTITY, [number(one.quantity)]);
    let cells = [
        one.line.clone(),
        one.status.clone(),
        decimal_amount(one.amount, &one.currency),
        one.currency.clone(),
    ];
    put(&mut rest, INVOICE_LINE, cells);
    rest
}

fn empty() -> [String; REST] {
    std::array::from_fn(|_| String::new())
}

/// Puts values into a row, from a place on.
fn put<const N: usize>(row: &mut [String; REST], from: usize, values: [String; N]) {
    for (cell, value) in row.iter_mut().skip(from).zip(values) {
        *cell = value;
    }
}

fn row_of(name: &str, line: &ExplainedLine) -> [String; OF_LINE] {
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

fn figures(line: &ExplainedLine) -> [String; REST] {
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

fn number(figure: Option<i64>) -> String {
    figure.map_or_else(String::new, |figure| figure.to_string())
}

fn at(time: Option<Timestamp>) -> String {
    time.map(rfc3339).unwrap_or_default()
}

/// A cell. A spreadsheet must not compute a text: account ids may begin as a formula does.
fn quoted(cell: &str) -> String {
    // An amount has a point.
    let is_number = cell.replacen('.', "", 1).parse::<i128>().is_ok();
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) && !is_number;
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
    use usage_proto::v1::{CountedIncrement, UsageReport};

    use super::*;

    #[test]
    fn cells_are_quoted_and_computed_nowhere() {
        for (cell, text) in [
            ("acct", "acct"),
            ("-5", "-5"),
            ("-12.34", "-12.34"),
            ("-1.2.3", "'-1.2.3"),
            ("=1+1", "'=1+1"),
            ("@a,b", "\"'@a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("", ""),
        ] {
            assert_eq!(quoted(cell), text);
        }
    }

    fn report(id: &str, keys: &[&str], without_key: Option<i64>) -> ExplainedReport {
        let increment = |key: &&str| CountedIncrement {
            key: (*key).to_owned(),
            quantity: 1,
            ..CountedIncrement::default()
        };
        ExplainedReport {
            report: Some(UsageReport {
                id: id.to_owned(),
                quantity: 9,
                ..UsageReport::default()
            }),
            increments: keys.iter().map(increment).collect(),
            without_key,
            ..ExplainedReport::default()
        }
    }

    fn line(item: &str, reports: Vec<ExplainedReport>) -> ExplainedLine {
        ExplainedLine {
            account_id: "acct".to_owned(),
            item: item.to_owned(),
            invoice_lines: vec![InvoiceLine {
                invoice: "in_1".to_owned(),
                line: format!("il_{item}"),
                status: "paid".to_owned(),
                quantity: Some(9),
                amount: -1_234,
                currency: "usd".to_owned(),
                ..InvoiceLine::default()
            }],
            reports,
            ..ExplainedLine::default()
        }
    }

    /// The kind, the item, the report and the key of each row.
    fn shown(text: &str) -> Vec<String> {
        let rows = text.lines().map(|row| {
            let cells: Vec<&str> = row.split(',').collect();
            assert_eq!(cells.len(), COLUMNS.len(), "{row}");
            format!("{} {} {} {}", cells[0], cells[3], cells[13], cells[17])
        });
        rows.map(|row| row.trim_end().to_owned()).collect()
    }

    #[test]
    fn a_line_and_a_report_that_go_on_are_there_once() {
        let mut file = ExplainedCsv::new(true);
        // The same report can be in two lines.
        for page in [
            [
                line(
                    "a",
                    vec![report("A", &["1"], None), report("B", &["2"], None)],
                ),
                line("b", vec![report("A", &["1"], None), report("C", &[], None)]),
            ],
            [
                line(
                    "a",
                    vec![report("A", &["3"], None), report("B", &[], Some(4))],
                ),
                line(
                    "b",
                    vec![report("A", &["3"], None), report("C", &["5"], None)],
                ),
            ],
            [
                line("a", vec![report("A", &["6"], Some(0))]),
                line(
                    "b",
                    vec![report("A", &["6"], Some(0)), report("C", &[], Some(8))],
                ),
            ],
        ] {
            file.add_page(&page);
        }
        let text = file.take();
        assert_eq!(
            shown(&text),
            [
                "row item report key",
                "line a",
                "invoice_line a",
                "report a A",
                "increment a A 1",
                "report a B",
                "increment a B 2",
                "line b",
                "invoice_line b",
                "report b A",
                "increment b A 1",
                "report b C",
                "increment a A 3",
                "without_key a B",
                "increment b A 3",
                "increment b C 5",
                "increment a A 6",
                "without_key a A",
                "increment b A 6",
                "without_key b A",
                "without_key b C",
            ]
        );
        assert!(file.open.is_empty());
        let charged = text.lines().nth(2).unwrap();
        assert!(charged.ends_with(",il_a,paid,-12.34,usd"), "{charged}");
        assert_eq!(file.take(), "");
    }

    #[test]
    fn reports_without_increments_are_not_remembered() {
        let mut file = ExplainedCsv::new(false);
        file.add_page(&[line("a", vec![report("A", &[], None)])]);
        file.add_page(&[line("a", vec![report("B", &[], None)])]);
        let rows = shown(&file.take());
        assert_eq!(
            rows[1..],
            ["line a", "invoice_line a", "report a A", "report a B"]
        );
        assert!(file.open.is_empty());
    }
}
