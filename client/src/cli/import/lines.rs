//! The lines of a file, each a row of usage or the reason why it is none, and where the file can be read on.

use super::{Format, progress::Place};
use chrono::{DateTime, Utc};
use csv::{ErrorKind as CsvErrorKind, Position, ReaderBuilder, StringRecord};
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

/// No line of usage is longer; an unclosed quote would make one of the whole file.
const MOST_LINE_BYTES: u64 = 64 * 1024;
const KNOWN: [&str; 4] = ["account_id", "meter", "quantity", "timestamp"];

#[derive(Debug)]
pub(super) struct Line {
    /// From 1, the header included.
    pub(super) number: u64,
    pub(super) row: Result<Row, String>,
}

/// One line's usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) account: String,
    pub(super) meter: Option<String>,
    pub(super) quantity: i64,
    pub(super) timestamp: DateTime<Utc>,
}

/// A line as it stands in the file.
#[derive(Debug, Deserialize)]
struct Raw {
    account_id: Option<String>,
    meter: Option<String>,
    quantity: Option<serde_json::Value>,
    timestamp: Option<String>,
}

pub(super) struct Lines {
    source: Source,
    ignore_unknown: bool,
    place: Place,
}

enum Source {
    Csv {
        reader: csv::Reader<Limited>,
        /// The column of each known name.
        columns: [Option<usize>; 4],
    },
    Jsonl(BufReader<File>),
}

/// A file of which only so much is read before it is asked to go on.
#[derive(Debug)]
struct Limited {
    file: File,
    left: u64,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(too_long());
        }
        let count = self.file.read(buffer)?;
        self.left = self
            .left
            .saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}

impl Seek for Limited {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

fn too_long() -> io::Error {
    let why = format!("a line is longer than {MOST_LINE_BYTES} bytes; is a quote not closed?");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Lines {
    /// Opens a file at a place where it was left before.
    pub(super) fn open(
        path: &Path,
        format: Format,
        ignore_unknown: bool,
        place: Place,
    ) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let source = match format {
            Format::Jsonl => {
                file.seek(SeekFrom::Start(place.offset))?;
                Source::Jsonl(BufReader::new(file))
            }
            Format::Csv => open_csv(file, ignore_unknown, place)?,
        };
        Ok(Self {
            source,
            ignore_unknown,
            place,
        })
    }

    /// Where the next line begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The next line that is not empty.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        match &mut self.source {
            Source::Csv { reader, columns } => {
                let mut record = StringRecord::new();
                reader.get_mut().left = MOST_LINE_BYTES;
                let read = reader.read_record(&mut record);
                let begun = record.position().map(Position::line);
                let row = match read {
                    Ok(false) => return Ok(None),
                    Ok(true) => from_record(&record, columns),
                    Err(error) => Err(bad_record(error)?),
                };
                let number = begun.unwrap_or_else(|| self.place.line.saturating_add(1));
                let next = reader.position();
                self.place = Place {
                    offset: next.byte(),
                    line: next.line().saturating_sub(1),
                };
                Ok(Some(Line { number, row }))
            }
            Source::Jsonl(reader) => loop {
                let mut bytes = Vec::new();
                let most = MOST_LINE_BYTES.saturating_add(1);
                let count = reader.take(most).read_until(b'\n', &mut bytes)?;
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                if count == 0 {
                    return Ok(None);
                }
                if count > MOST_LINE_BYTES {
                    return Err(too_long());
                }
                self.place.offset = self.place.offset.saturating_add(count);
                self.place.line = self.place.line.saturating_add(1);
                if bytes.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(Line {
                    number: self.place.line,
                    row: from_json(&bytes, self.ignore_unknown),
                }));
            },
        }
    }
}

fn open_csv(file: File, ignore_unknown: bool, place: Place) -> io::Result<Source> {
    let limited = Limited {
        file,
        left: MOST_LINE_BYTES,
    };
    let mut reader = ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(limited);
    let headers = reader.headers().map_err(io::Error::other)?.clone();
    let unknown = headers.iter().find(|name| !KNOWN.contains(name));
    if let Some(name) = unknown
        && !ignore_unknown
    {
        let known = KNOWN.join(", ");
        return Err(invalid(format!(
            "the header has a column '{name}'; known are {known}, and --ignore-unknown takes others"
        )));
    }
    let column = |name: &str| headers.iter().position(|header| header == name);
    let columns = KNOWN.map(column);
    for name in ["account_id", "timestamp"] {
        if column(name).is_none() {
            return Err(invalid(format!("the header has no column '{name}'")));
        }
    }
    if place.offset > 0 {
        let mut position = Position::new();
        position.set_byte(place.offset);
        position.set_line(place.line.saturating_add(1));
        reader.seek(position).map_err(io::Error::other)?;
    }
    Ok(Source::Csv { reader, columns })
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Why a record is none; an error where the file itself cannot be read.
fn bad_record(error: csv::Error) -> io::Result<String> {
    match error.into_kind() {
        CsvErrorKind::Io(error) => Err(error),
        CsvErrorKind::UnequalLengths {
            expected_len, len, ..
        } => Ok(format!("{len} fields, and the header has {expected_len}")),
        CsvErrorKind::Utf8 { .. } => Ok("it is not UTF-8".to_owned()),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

fn from_record(record: &StringRecord, columns: &[Option<usize>; 4]) -> Result<Row, String> {
    let [account_id, meter, quantity, timestamp] = columns.map(|column| {
        let field = column.and_then(|column| record.get(column));
        field.filter(|text| !text.is_empty()).map(str::to_owned)
    });
    // A quantity that is left out is one only where there is no such column.
    if quantity.is_none() && columns[2].is_some() {
        return Err("quantity is missing".to_owned());
    }
    let raw = Raw {
        account_id,
        meter,
        quantity: quantity.map(serde_json::Value::String),
        timestamp,
    };
    raw.check()
}

fn from_json(bytes: &[u8], ignore_unknown: bool) -> Result<Row, String> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON: {error}"))?;
    let object = value
        .as_object()
        .ok_or_else(|| "it is not a JSON object".to_owned())?;
    if let Some(name) = object.keys().find(|name| !KNOWN.contains(&name.as_str()))
        && !ignore_unknown
    {
        return Err(format!("unknown field '{name}'"));
    }
    let raw: Raw = serde_json::from_value(value).map_err(|error| error.to_string())?;
    raw.check()
}

impl Raw {
    fn check(self) -> Result<Row, String> {
        let present = |field: Option<String>, name| {
            field
                .filter(|text| !text.is_empty())
                .ok_or_else(|| format!("{name} is missing"))
        };
        let quantity = match &self.quantity {
            None => 1,
            Some(given) => {
                let whole = match given {
                    serde_json::Value::String(text) => text.parse().ok(),
                    other => other.as_i64(),
                };
                whole.ok_or_else(|| format!("quantity {given} is not a whole number"))?
            }
        };
        let timestamp = present(self.timestamp, "timestamp")?;
        Ok(Row {
            account: present(self.account_id, "account_id")?,
            meter: self.meter,
            quantity,
            timestamp: DateTime::parse_from_rfc3339(&timestamp)
                .map_err(|_| format!("timestamp '{timestamp}' is not like 2026-03-01T12:00:00Z"))?
                .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GOOD: &str = "account_id,quantity,timestamp\n\
        a,1,2026-03-01T00:00:00Z\n\
        \"b\nc\",2,2026-03-01T00:00:01Z\n\
        d,x,2026-03-01T00:00:02Z\n\
        e,3\n\
        f,4,2026-03-01T01:00:00+01:00\n";

    fn open(text: &str, format: Format, place: Place) -> io::Result<Lines> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, text).unwrap();
        Lines::open(&path, format, false, place)
    }

    /// Each line's number and account or fault, and where the next one begins.
    fn all(lines: &mut Lines) -> Vec<(u64, String, Place)> {
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            let what = line.row.map_or_else(|why| why, |row| row.account);
            found.push((line.number, what, lines.place()));
        }
        found
    }

    #[test]
    fn each_line_of_a_csv_has_the_number_at_which_it_begins() {
        let found = all(&mut open(GOOD, Format::Csv, Place::default()).unwrap());
        let told: Vec<_> = found
            .iter()
            .map(|(number, what, _)| (*number, &**what))
            .collect();
        assert_eq!(
            told,
            [
                (2, "a"),
                (3, "b\nc"),
                (5, "quantity \"x\" is not a whole number"),
                (6, "2 fields, and the header has 3"),
                (7, "f"),
            ]
        );
    }

    #[test]
    fn a_file_can_be_read_on_from_any_line() {
        let json: String = ["a", "", "b", "[]", "c"]
            .map(|account| match account {
                "" | "[]" => format!("{account}\n"),
                _ => format!(
                    "{{\"account_id\":\"{account}\",\"quantity\":5,\"timestamp\":\"2026-03-01T00:00:00Z\"}}\n"
                ),
            })
            .concat();
        for (text, format) in [(GOOD, Format::Csv), (&json, Format::Jsonl)] {
            let whole = all(&mut open(text, format, Place::default()).unwrap());
            for (count, (.., place)) in whole.iter().enumerate() {
                let rest = all(&mut open(text, format, *place).unwrap());
                assert_eq!(rest, whole[count + 1..], "after {count} of {format:?}");
            }
        }
    }

    #[test]
    fn what_a_header_lacks_or_has_too_much_is_said() {
        let error = |text: &str| {
            let opened = open(text, Format::Csv, Place::default());
            opened.err().unwrap().to_string()
        };
        assert_eq!(
            error("account_id,quantitiy,timestamp\n"),
            "the header has a column 'quantitiy'; known are account_id, meter, quantity, timestamp, and \
             --ignore-unknown takes others"
        );
        assert_eq!(
            error("account_id\n"),
            "the header has no column 'timestamp'"
        );
    }

    #[test]
    fn what_a_line_lacks_is_said() {
        let why = |text: &str| from_json(text.as_bytes(), false).unwrap_err();
        assert_eq!(why("{}"), "timestamp is missing");
        assert_eq!(
            why(r#"{"timestamp":"2026-03-01T00:00:00Z"}"#),
            "account_id is missing"
        );
        assert_eq!(
            why(r#"{"account_id":"a","timestamp":"today"}"#),
            "timestamp 'today' is not like 2026-03-01T12:00:00Z"
        );
        assert_eq!(
            why(r#"{"account_id":"a","quantity":1.5,"timestamp":"2026-03-01T00:00:00Z"}"#),
            "quantity 1.5 is not a whole number"
        );
        assert_eq!(why(r#"{"acount_id":"a"}"#), "unknown field 'acount_id'");
        assert!(why("{").starts_with("it is not JSON"));
    }

    #[test]
    fn a_line_without_an_end_is_not_read_into_memory() {
        let long = usize::try_from(MOST_LINE_BYTES).unwrap() * 2;
        let open_quote = format!("account_id,timestamp\n\"{}", "x".repeat(long));
        let mut csv = open(&open_quote, Format::Csv, Place::default()).unwrap();
        assert_eq!(csv.next().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut json = open(&"x".repeat(long), Format::Jsonl, Place::default()).unwrap();
        assert_eq!(json.next().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
