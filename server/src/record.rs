//! Rows for people and other programs: named values in a fixed order, as a JSON line or a line of CSV.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::domain::{
    account_id::AccountId,
    audit::Entry,
    decision::RecordedDecision,
    hex::hex,
    period::rfc3339,
    report::{Report, identifier},
    run::{Run, Scope},
    sign_off,
};

/// How a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A JSON object a line.
    Jsonl,
    /// CSV with a first line of names.
    Csv,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The number of rows, with those that are totals.
    pub rows: u64,
    /// The SHA-256 of everything that was written.
    pub sha256: String,
}

/// Writes rows in a format.
pub(crate) struct RecordWriter<W> {
    out: Hashed<W>,
    format: Format,
    rows: u64,
}

impl<W: Write> RecordWriter<W> {
    pub(crate) fn new(out: W, format: Format) -> Self {
        Self {
            out: Hashed {
                out,
                sha256: Sha256::new(),
            },
            format,
            rows: 0,
        }
    }

    /// Writes a row, the first one in CSV after the names.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&mut self, record: &Record) -> io::Result<()> {
        match self.format {
            Format::Jsonl => record.write_json(&mut self.out)?,
            Format::Csv => {
                if self.rows == 0 {
                    record.write_csv_names(&mut self.out)?;
                }
                record.write_csv(&mut self.out)?;
            }
        }
        self.rows = self.rows.saturating_add(1);
        Ok(())
    }

    /// Where it writes to.
    pub(crate) fn out(&mut self) -> &mut W {
        &mut self.out.out
    }

    /// What was written.
    pub(crate) fn finish(self) -> Exported {
        Exported {
            rows: self.rows,
            sha256: hex(&self.out.sha256.finalize()),
        }
    }
}

/// Passes on what is written, and computes its SHA-256.
struct Hashed<W> {
    out: W,
    sha256: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let written = self.out.write(part)?;
        self.sha256.update(part.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record(Vec<(&'static str, Value)>);

impl Record {
    /// Writes it as one line of JSON.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.json())
    }

    /// Its values as one JSON object.
    pub(crate) fn json(&self) -> Value {
        let values = self.0.iter();
        let object: Map<String, Value> = values
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        Value::Object(object)
    }

    /// Writes the names of its values as one line of CSV.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write_csv_names(&self, out: &mut impl Write) -> io::Result<()> {
        let names = self.0.iter().map(|(name, _)| (*name).to_owned());
        write_csv(out, names)
    }

    /// Writes its values as one line of CSV, as RFC 4180 has it. Nothing stands for null; lists and objects are JSON. Text that
    /// a spreadsheet would take for a formula begins with an apostrophe.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write_csv(&self, out: &mut impl Write) -> io::Result<()> {
        let values = self.0.iter().map(|(_, value)| match value {
            Value::Null => String::new(),
            Value::String(text) if is_like_a_formula(text) => format!("'{text}"),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        write_csv(out, values)
    }
}

fn write_csv(out: &mut impl Write, fields: impl Iterator<Item = String>) -> io::Result<()> {
    for (nth, field) in fields.enumerate() {
        if nth > 0 {
            out.write_all(b",")?;
        }
        if field.contains([',', '"', '\n', '\r']) {
            write!(out, "\"{}\"", field.replace('"', "\"\""))?;
        } else {
            out.write_all(field.as_bytes())?;
        }
    }
    out.write_all(b"\r\n")
}

/// Whether a spreadsheet may compute a text. Account ids may begin like one, and reasons are free text.
fn is_like_a_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) && text.parse::<i128>().is_err()
}

/// A number, and beyond 64 bits its digits as text: other programs would round it.
fn integer(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| json!(value.to_string()), |value| json!(value))
}

/// Stored JSON. What cannot be read is shown as it is.
fn stored(text: Option<&str>) -> Value {
    text.map_or(Value::Null, |text| {
        serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
    })
}

impl From<&Entry> for Record {
    fn from(entry: &Entry) -> Self {
        let Entry { id, at, entry } = entry;
        Self(vec![
            ("id", json!(id.to_string())),
            ("at", json!(rfc3339(*at))),
            ("actor", json!(entry.actor.kind.name())),
            ("key_id", json!(entry.actor.key.map(|key| key.to_string()))),
            ("key_name", json!(entry.actor.name)),
            ("address", json!(entry.actor.address)),
            ("action_id", json!(entry.actor.action_id.to_string())),
            ("request_id", json!(entry.actor.request_id)),
            ("action", json!(entry.action)),
            ("account_id", json!(entry.account_id)),
            ("request", stored(entry.request.as_deref())),
            ("before", stored(entry.before.as_deref())),
            ("after", stored(entry.after.as_deref())),
            ("outcome", json!(entry.outcome.name())),
            ("message", json!(entry.message)),
        ])
    }
}

impl From<&Run> for Record {
    fn from(run: &Run) -> Self {
        let accounts = match &run.scope {
            Scope::All => Value::Null,
            Scope::Accounts(accounts) => {
                json!(accounts.iter().map(ToString::to_string).collect::<Vec<_>>())
            }
        };
        Self(vec![
            ("id", json!(run.id.to_string())),
            ("trigger", json!(run.trigger.name())),
            ("requested_by", json!(run.requested_by)),
            ("accounts", accounts),
            ("started_at", json!(rfc3339(run.started_at))),
            (
                "closing_finished_at",
                json!(run.closing_finished_at.map(rfc3339)),
            ),
            ("closed_reports", json!(run.closed_reports)),
            ("closed_quantity", json!(run.closed_quantity)),
        ])
    }
}

impl From<&RecordedDecision> for Record {
    fn from(recorded: &RecordedDecision) -> Self {
        let decision = &recorded.decision;
        Self(vec![
            ("account_id", json!(recorded.account_id.as_str())),
            ("id", json!(recorded.id.to_string())),
            ("report_id", json!(decision.report_id.to_string())),
            ("decided_at", json!(rfc3339(decision.decided_at))),
            ("action", json!(decision.action.name())),
            ("reason", json!(decision.reason)),
            ("requested_by", json!(decision.requested_by)),
            ("from_state", json!(decision.from_state.name())),
            ("generation", json!(decision.generation)),
        ])
    }
}

impl From<&Report> for Record {
    fn from(report: &Report) -> Self {
        let time = |at: Option<i64>| json!(at.map(rfc3339));
        Self(vec![
            ("account_id", json!(report.account_id.as_str())),
            ("id", json!(report.id.to_string())),
            ("meter", json!(report.meter)),
            ("window_start", json!(rfc3339(report.window_start))),
            ("window_end", json!(rfc3339(report.window_end))),
            ("period_end", time(report.period_end)),
            ("closed_at", time(report.closed_at)),
            ("quantity", json!(report.quantity)),
            ("first_at", json!(rfc3339(report.first_at))),
            ("last_at", json!(rfc3339(report.last_at))),
            ("state", json!(report.state.name())),
            ("kind", json!(report.kind.name())),
            (
                "identifier",
                json!(identifier(report.id, report.generation)),
            ),
            ("event_timestamp", time(report.event_timestamp)),
            ("customer", json!(report.customer)),
            ("attempts", json!(report.attempts)),
            ("first_sent_at", time(report.first_sent_at)),
            ("last_sent_at", time(report.last_sent_at)),
            ("reported_at", time(report.reported_at)),
            ("confirmed_at", time(report.confirmed_at)),
            ("last_error", json!(report.last_error)),
            ("run_id", json!(report.run_id.map(|run| run.to_string()))),
            ("note", json!(report.note)),
            ("entered_by", json!(report.entered_by)),
            ("bill_at", time(report.bill_at)),
        ])
    }
}

impl From<&sign_off::Row<'_>> for Record {
    fn from(row: &sign_off::Row<'_>) -> Self {
        let figures = row.figures;
        let decided = figures.decided.iter();
        let decided: Vec<String> = decided
            .map(|one| format!("{} {}", one.action.name(), rfc3339(one.at)))
            .collect();
        Self(vec![
            ("row", json!(row.kind.name())),
            ("account_id", json!(row.account_id.map(AccountId::as_str))),
            ("customer", json!(row.customer)),
            ("meter", json!(row.meter)),
            (
                "period_start",
                json!(row.month.map(|month| rfc3339(month.start))),
            ),
            (
                "period_end",
                json!(row.month.map(|month| rfc3339(month.end))),
            ),
            ("reports", integer(figures.reports)),
            ("counted", integer(figures.counted)),
            ("already_sent", integer(figures.already_sent)),
            ("corrected", integer(figures.corrected)),
            ("not_billable", integer(figures.not_billable)),
            ("written_off", integer(figures.written_off)),
            ("reported", integer(figures.reported)),
            ("confirmed", integer(figures.confirmed)),
            ("invoiced", integer(figures.invoiced)),
            ("acknowledged", integer(figures.acknowledged)),
            ("difference", integer(figures.difference())),
            ("open", integer(figures.open)),
            ("to_send", integer(figures.to_send)),
            ("no_customer", integer(figures.no_customer)),
            ("needs_decision", integer(figures.needs_decision)),
            ("final", json!(row.is_final)),
            ("decisions", json!(figures.decisions)),
            ("decided", json!(decided)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(write: impl Fn(&Record, &mut Vec<u8>) -> io::Result<()>) -> String {
        let record = Record(vec![
            ("id", json!("a, \"b\"\nc")),
            ("count", json!(-3)),
            ("none", Value::Null),
            ("accounts", json!(["x", "y"])),
        ]);
        let mut out = Vec::new();
        write(&record, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn csv_quotes_what_would_end_a_field() {
        assert_eq!(
            line(Record::write_csv),
            "\"a, \"\"b\"\"\nc\",-3,,\"[\"\"x\"\",\"\"y\"\"]\"\r\n"
        );
        assert_eq!(line(Record::write_csv_names), "id,count,none,accounts\r\n");
    }

    #[test]
    fn csv_has_no_formulas_and_keeps_numbers() {
        let texts = ["=1+1", "+1+1", "-x", "@x", "\t=1", "a=b", "-5", "+7", ""];
        let record = Record(texts.iter().map(|text| ("text", json!(text))).collect());
        let mut out = Vec::new();
        record.write_csv(&mut out).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line, "'=1+1,'+1+1,'-x,'@x,'\t=1,a=b,-5,+7,\r\n");
    }

    #[test]
    fn a_number_beyond_64_bits_keeps_its_digits() {
        assert_eq!(integer(i64::MAX.into()), json!(i64::MAX));
        let larger = i128::from(i64::MAX) + 1;
        assert_eq!(integer(larger), json!("9223372036854775808"));
        assert_eq!(integer(-larger - 1), json!("-9223372036854775809"));
    }

    #[test]
    fn json_is_one_line() {
        assert_eq!(
            line(Record::write_json),
            "{\"accounts\":[\"x\",\"y\"],\"count\":-3,\"id\":\"a, \\\"b\\\"\\nc\",\"none\":null}\n"
        );
    }
}
