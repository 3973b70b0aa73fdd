//! Output as a table, JSON or CSV.

use super::{Streams, exit::Failure};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Map, Value, json};

/// A narrower column cannot be read.
const MIN_COLUMN_CHARS: u16 = 14;

/// The flags that choose the output format.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Format {
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    pub(super) json: bool,
    /// Print CSV
    #[arg(long)]
    pub(super) csv: bool,
}

/// Rows with named columns.
#[derive(Debug)]
pub(super) struct Rows {
    names: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Rows {
    pub(super) fn new(names: &'static [&'static str]) -> Self {
        Self {
            names,
            rows: Vec::new(),
        }
    }

    /// Adds a row with one value per column.
    pub(super) fn push(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.names.len(), "one value per column");
        self.rows.push(row);
    }

    /// Prints the rows in the chosen format.
    pub(super) fn print(&self, format: Format, streams: &mut Streams<'_>) -> Result<(), Failure> {
        if format.json {
            print_json(&self.json(), streams)
        } else if format.csv {
            self.print_csv(streams)
        } else {
            self.print_table(streams)
        }
    }

    /// Prints the rows as a table that fits the terminal.
    pub(super) fn print_table(&self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        Ok(writeln!(streams.out, "{}", self.fitted(streams.width))?)
    }

    /// The table as wide as it is, if that fits; else with wrapped cells; else, if the columns would be too narrow to read, a
    /// line for each value.
    fn fitted(&self, width: Option<u16>) -> String {
        let mut table = self.table();
        let Some(width) = width else {
            return table.to_string();
        };
        let natural = table.to_string();
        let widest = natural.lines().map(|line| line.chars().count()).max();
        if widest.is_none_or(|widest| widest <= usize::from(width)) {
            return natural;
        }
        let columns = u16::try_from(self.names.len()).unwrap_or(u16::MAX).max(1);
        if width.checked_div(columns).unwrap_or_default() >= MIN_COLUMN_CHARS {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
            return table.to_string();
        }
        self.lines()
    }

    /// One value a line, the rows apart by an empty line. Empty values are left out.
    fn lines(&self) -> String {
        let names: Vec<String> = self
            .names
            .iter()
            .map(|name| name.replace('_', " "))
            .collect();
        let longest = names.iter().map(|name| name.chars().count()).max();
        let longest = longest.unwrap_or_default();
        let rows = self.rows.iter().map(|row| {
            let values = names.iter().zip(row);
            let values = values.filter(|(_, value)| !value.is_null());
            let lines = values.map(|(name, value)| {
                let shown = match value {
                    Value::Number(number) => number.as_i64().map_or_else(|| plain(value), grouped),
                    other => plain(other),
                };
                format!("{name:longest$}  {shown}")
            });
            lines.collect::<Vec<_>>().join("\n")
        });
        rows.collect::<Vec<_>>().join("\n\n")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn json(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let names = self.names.iter().map(|name| (*name).to_owned());
            Value::Object(names.zip(row.iter().cloned()).collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }

    /// Prints the rows as CSV. Text that a spreadsheet would take for a formula begins with an apostrophe.
    pub(super) fn print_csv(&self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let mut writer = csv::Writer::from_writer(&mut streams.out);
        writer.write_record(self.names).map_err(csv_failure)?;
        for row in &self.rows {
            writer
                .write_record(row.iter().map(in_csv))
                .map_err(csv_failure)?;
        }
        Ok(writer.flush()?)
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(self.names.iter().map(|name| name.replace('_', " ")));
        for row in &self.rows {
            table.add_row(row.iter().map(|value| match value {
                Value::Number(number) => {
                    let text = number.as_i64().map_or_else(|| plain(value), grouped);
                    Cell::new(text).set_alignment(CellAlignment::Right)
                }
                other => Cell::new(plain(other)),
            }));
        }
        table
    }
}

pub(super) fn print_json(value: &Value, streams: &mut Streams<'_>) -> Result<(), Failure> {
    Ok(writeln!(streams.out, "{value:#}")?)
}

/// A time in UTC, with fractions of a second only if it has any.
pub(super) fn rfc3339(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// A time in UTC, or null.
pub(super) fn rfc3339_or_null(at: Option<DateTime<Utc>>) -> Value {
    at.map_or(Value::Null, rfc3339)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn in_csv(value: &Value) -> String {
    match value {
        Value::String(text) if is_like_a_formula(text) => format!("'{text}"),
        other => plain(other),
    }
}

/// Whether a spreadsheet may compute a text. Account ids may begin like one, and reasons are free text.
fn is_like_a_formula(text: &str) -> bool {
    // An amount has a point.
    let is_number = text.replacen('.', "", 1).parse::<i128>().is_ok();
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) && !is_number
}

fn csv_failure(error: csv::Error) -> Failure {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        other => Failure::Local(format!("writing the output failed: {other:?}")),
    }
}

/// A number with commas as thousands separators.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && digits.len().abs_diff(place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 {
        text.insert(0, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spreadsheet_computes_no_text_and_takes_numbers_as_they_are() {
        for number in ["-5", "-12.34", "12.34", "acct", ""] {
            assert!(!is_like_a_formula(number), "{number}");
        }
        for text in ["=1+1", "-1.2.3", "-a", "+", "-.", "@a"] {
            assert!(is_like_a_formula(text), "{text}");
        }
    }

    #[test]
    fn thousands_are_separated() {
        let shown = [0, 12, 999, 1_000, -1_234_567, i64::MIN].map(grouped);
        assert_eq!(
            shown,
            [
                "0",
                "12",
                "999",
                "1,000",
                "-1,234,567",
                "-9,223,372,036,854,775,808"
            ]
        );
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let mut rows = Rows::new(&["account_id", "quantity", "last_error"]);
        let long = "Stripe answered 400: the customer of this event does not exist";
        rows.push(vec![json!("acct"), json!(1_200), json!(long)]);
        let widest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap();
        let natural = rows.fitted(None);
        assert!(widest(&natural) > 60, "{natural}");
        assert_eq!(rows.fitted(Some(200)), natural);
        for width in [42, 60] {
            let wrapped = rows.fitted(Some(width));
            assert!(widest(&wrapped) <= usize::from(width), "{wrapped}");
            assert!(wrapped.contains("1,200"), "{wrapped}");
        }
        let lines = rows.fitted(Some(30));
        assert!(
            lines.starts_with("account id  acct\nquantity    1,200\n"),
            "{lines}"
        );
        assert!(lines.contains(long), "{lines}");
    }

    fn csv(rows: &Rows) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            input: Box::new(std::io::empty()),
            out: &mut out,
            err: &mut err,
            are_terminals: false,
            width: None,
            stop: Box::pin(std::future::pending()),
        };
        rows.print_csv(&mut streams).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn csv_values_are_quoted() {
        let mut rows = Rows::new(&["account_id", "quantity"]);
        rows.push(vec![json!("a,\"b\"\nc"), json!(1_000)]);
        let printed = csv(&rows);
        assert_eq!(printed, "account_id,quantity\n\"a,\"\"b\"\"\nc\",1000\n");
    }

    #[test]
    fn csv_has_no_formulas_and_keeps_numbers() {
        let mut rows = Rows::new(&["account_id", "quantity"]);
        for text in ["=1+1", "+1+1", "-x", "@x", "\t=1", "a=b", "-5"] {
            rows.push(vec![json!(text), json!(-3)]);
        }
        let printed = csv(&rows);
        let values = "'=1+1,-3\n'+1+1,-3\n'-x,-3\n'@x,-3\n'\t=1,-3\na=b,-3\n-5,-3\n";
        assert_eq!(printed, format!("account_id,quantity\n{values}"));
    }
}
