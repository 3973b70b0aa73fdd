//! Rows of values, as a table for people, or as JSON or CSV for programs.

use super::{Streams, exit::Failure};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Map, Value, json};

/// How a command's answer looks.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Format {
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    pub(super) json: bool,
    /// Print CSV
    #[arg(long)]
    pub(super) csv: bool,
}

/// Rows under names.
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

    /// Adds a row, a value for each name.
    pub(super) fn push(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.names.len(), "a value for each name");
        self.rows.push(row);
    }

    /// Prints them as they were asked for.
    pub(super) fn print(&self, format: Format, streams: &mut Streams<'_>) -> Result<(), Failure> {
        if format.json {
            print_json(&self.json(), streams)
        } else if format.csv {
            self.print_csv(streams)
        } else {
            Ok(writeln!(streams.out, "{}", self.table())?)
        }
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let names = self.names.iter().map(|name| (*name).to_owned());
            Value::Object(names.zip(row.iter().cloned()).collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }

    pub(super) fn print_csv(&self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let mut writer = csv::Writer::from_writer(&mut streams.out);
        writer.write_record(self.names).map_err(unwritten)?;
        for row in &self.rows {
            writer
                .write_record(row.iter().map(plain))
                .map_err(unwritten)?;
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

/// A moment, in UTC, as precise as it is.
pub(super) fn moment(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// A moment, or nothing.
pub(super) fn maybe(at: Option<DateTime<Utc>>) -> Value {
    at.map_or(Value::Null, moment)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn unwritten(error: csv::Error) -> Failure {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        other => Failure::Here(format!("the output cannot be written: {other:?}")),
    }
}

/// A number with commas between thousands.
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
    fn thousands_are_told_apart() {
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
    fn what_stands_in_a_value_cannot_break_the_csv() {
        let mut rows = Rows::new(&["account_id", "quantity"]);
        rows.push(vec![json!("a,\"b\"\nc"), json!(1_000)]);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            out: &mut out,
            err: &mut err,
            are_terminals: false,
        };
        rows.print_csv(&mut streams).unwrap();
        let printed = String::from_utf8(out).unwrap();
        assert_eq!(printed, "account_id,quantity\n\"a,\"\"b\"\"\nc\",1000\n");
    }
}
