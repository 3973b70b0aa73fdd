//! Reads the lines of the input. Each is a valid row or the reason why it is not.
//!
//! A bad record never takes other lines with it: reading goes on at the physical line after the one where it began.

use super::{
    Format,
    bad::{Bad, Cause},
    columns::{Columns, Field},
    csv::{Fields, Record},
    json,
    physical::{MAX_LINE_BYTES, PhysicalLine, PhysicalLines, Place},
    row::{Given, Raw, Row},
};
use chrono_tz::Tz;
use std::io::{self, Read};

/// The byte order mark with which some systems start UTF-8 files.
const BOM: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug)]
pub(super) struct Line {
    /// The number of its first physical line, counted from 1 with the header.
    pub(super) number: u64,
    /// The line as it is in the input; for a bad record its first physical line.
    pub(super) raw: Vec<u8>,
    pub(super) row: Result<Row, Bad>,
    /// The position after it.
    pub(super) place: Place,
}

/// How lines are read.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// `None` if the contents decide.
    pub(super) format: Option<Format>,
    pub(super) columns: Columns,
    /// The time zone of times without an offset.
    pub(super) zone: Option<Tz>,
}

pub(super) struct Lines {
    physical: PhysicalLines,
    rules: Rules,
    /// The header of a CSV file.
    header: Option<Header>,
    /// Whether the first JSON object has an id: then all must have one.
    has_ids: Option<bool>,
}

/// The header of a CSV file.
struct Header {
    raw: Vec<u8>,
    columns: Vec<(Field, usize)>,
    count: usize,
}

impl Lines {
    /// Reads the header, if there is one.
    pub(super) fn open(input: Box<dyn Read + Send>, rules: Rules) -> io::Result<Self> {
        let mut lines = Self {
            physical: PhysicalLines::new(input),
            rules,
            header: None,
            has_ids: None,
        };
        lines.skip_blank()?;
        let first = lines.physical.peek(0)?;
        let is_json = first.is_some_and(|line| {
            let text = line.bytes.strip_prefix(BOM).unwrap_or(&line.bytes);
            text.trim_ascii_start().starts_with(b"{") || text.trim_ascii_start().starts_with(b"[")
        });
        let format =
            lines
                .rules
                .format
                .unwrap_or(if is_json { Format::Jsonl } else { Format::Csv });
        if format == Format::Csv {
            lines.read_header()?;
        }
        Ok(lines)
    }

    /// The header as it is in the input; empty if there is none.
    pub(super) fn header(&self) -> &[u8] {
        self.header.as_ref().map_or(&[], |header| &header.raw)
    }

    /// The next line that is not empty.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        self.skip_blank()?;
        let number = self.physical.place().line.saturating_add(1);
        let Some(first) = self.physical.peek(0)? else {
            return Ok(None);
        };
        let too_long = first.is_too_long().then(|| too_long(first));
        let (raw, row) = match too_long {
            Some(bad) => (self.take(1)?, Err(bad)),
            None if self.header.is_some() => self.csv()?,
            None => {
                let raw = without_bom(&self.take(1)?, number).to_vec();
                let row = self.json(&raw);
                (raw, row)
            }
        };
        let place = self.physical.place();
        Ok(Some(Line {
            number,
            raw,
            row,
            place,
        }))
    }

    fn skip_blank(&mut self) -> io::Result<()> {
        while self.physical.peek(0)?.is_some_and(PhysicalLine::is_blank) {
            self.physical.take()?;
        }
        Ok(())
    }

    /// Takes physical lines as they are.
    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut raw = Vec::new();
        for _ in 0..count {
            let line = self.physical.take()?;
            raw.extend(line.map(|line| line.bytes).unwrap_or_default());
        }
        Ok(raw)
    }

    /// The fields of the record that begins at the next line, and its number of physical lines. Takes none of them.
    fn record(&mut self) -> io::Result<Result<(Fields, usize), Bad>> {
        let mut record = Record::default();
        let (mut count, mut length) = (0_usize, 0_usize);
        let number = self.physical.place().line.saturating_add(1);
        loop {
            let open_field = record.field_number();
            let Some(line) = self.physical.peek(count)? else {
                let why = format!(
                    "unfinished: the input ends inside the quote of field {open_field}; close the quote"
                );
                return Ok(Err(Bad::new(Cause::Unfinished, why)));
            };
            length = length.saturating_add(line.bytes.len());
            if length > MAX_LINE_BYTES {
                let why = format!(
                    "the quote of field {open_field} is not closed within {MAX_LINE_BYTES} bytes"
                );
                return Ok(Err(Bad::new(Cause::OpenQuote, why)));
            }
            count = count.saturating_add(1);
            let bytes = if count == 1 {
                without_bom(&line.bytes, number)
            } else {
                &line.bytes
            };
            match record.read(bytes) {
                Ok(true) => return Ok(Ok((record.into_fields(), count))),
                Ok(false) => {}
                Err(cause) => return Ok(Err(bad_quote(cause, &record, number, count))),
            }
        }
    }

    fn read_header(&mut self) -> io::Result<()> {
        let first = self.physical.peek(0)?;
        let Some(first) = first else {
            return Err(invalid("the input is empty; it must start with a header"));
        };
        if first.is_too_long() {
            return Err(invalid(format!(
                "the header is bad: {}",
                too_long(first).why
            )));
        }
        let (fields, count) = match self.record()? {
            Ok(record) => record,
            Err(bad) => return Err(invalid(format!("the header is bad: {}", bad.why))),
        };
        let names: Result<Vec<&str>, _> = fields
            .iter()
            .map(|name| std::str::from_utf8(name))
            .collect();
        let names = names.map_err(|_| invalid("the header is not UTF-8"))?;
        let names: Vec<&str> = names.into_iter().map(str::trim).collect();
        let columns = self.rules.columns.of_header(&names).map_err(invalid)?;
        self.header = Some(Header {
            raw: self.take(count)?,
            columns,
            count: names.len(),
        });
        Ok(())
    }

    /// The record that begins at the next line.
    fn csv(&mut self) -> io::Result<(Vec<u8>, Result<Row, Bad>)> {
        let (fields, count) = match self.record()? {
            Ok(record) => record,
            Err(bad) => return Ok((self.take(1)?, Err(bad))),
        };
        if let Some(bad) = self.swallowed(count)? {
            return Ok((self.take(1)?, Err(bad)));
        }
        let row = self.row(&fields);
        // Quotes in wrong places are the usual cause of a wrong number of fields, so the next lines may be rows.
        let is_malformed = matches!(&row, Err(bad) if bad.cause == Cause::FieldCount);
        let count = if is_malformed { 1 } else { count };
        Ok((self.take(count)?, row))
    }

    /// An open quote may be closed by chance, by the next open quote. The lines between them would be part of a field,
    /// and lost without a sign. So a line inside a quote must not be a row by itself.
    fn swallowed(&mut self, count: usize) -> io::Result<Option<Bad>> {
        let first = self.physical.place().line;
        for ahead in 1..count {
            let Some(line) = self.physical.peek(ahead)? else {
                return Ok(None);
            };
            let mut record = Record::default();
            if record.read(&line.bytes).is_ok() && self.row(&record.into_fields()).is_ok() {
                let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
                let inside = first.saturating_add(ahead).saturating_add(1);
                let why = format!(
                    "a quote is left open: line {inside} would be inside of it, and is a whole row"
                );
                return Ok(Some(Bad::new(Cause::OpenQuote, why)));
            }
        }
        Ok(None)
    }

    fn row(&self, fields: &[Vec<u8>]) -> Result<Row, Bad> {
        let (columns, count) = match &self.header {
            Some(Header { columns, count, .. }) => (&columns[..], *count),
            None => (&[][..], 0),
        };
        if fields.len() != count {
            let why = format!("{} fields, and the header has {count}", fields.len());
            return Err(Bad::new(Cause::FieldCount, why));
        }
        let mut raw = Raw::default();
        for (field, position) in columns {
            let bytes = fields.get(*position).map(Vec::as_slice).unwrap_or_default();
            let text = std::str::from_utf8(bytes)
                .map_err(|_| Bad::new(Cause::NotUtf8, format!("{} is not UTF-8", field.name())))?;
            *raw.get_mut(*field) = Some(Given::Text(text.trim().to_owned()));
        }
        raw.check(self.rules.zone)
    }

    fn json(&mut self, text: &[u8]) -> Result<Row, Bad> {
        let raw = json::read(text, &self.rules.columns)?;
        let has_id = raw.get(Field::Id).is_some();
        let have_ids = *self.has_ids.get_or_insert(has_id);
        if has_id != have_ids {
            // The keys of such a file would depend on which lines happen to have an id.
            let why = if has_id {
                "id is there, but the first line has none; give each line an id, or add --ignore-id"
            } else {
                "id is missing, and the first line has one"
            };
            return Err(Bad::new(Cause::Id, why));
        }
        raw.check(self.rules.zone)
    }
}

fn without_bom(bytes: &[u8], number: u64) -> &[u8] {
    match bytes.strip_prefix(BOM) {
        Some(rest) if number == 1 => rest,
        _ => bytes,
    }
}

fn too_long(line: &PhysicalLine) -> Bad {
    let length = line.length;
    let why = format!("the line has {length} bytes, and may have at most {MAX_LINE_BYTES}");
    Bad::new(Cause::TooLong, why)
}

fn bad_quote(cause: Cause, record: &Record, number: u64, count: usize) -> Bad {
    let field = record.field_number();
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let end = number.saturating_add(count).saturating_sub(1);
    let why = match cause {
        Cause::QuoteInside => format!(
            "field {field} has a quote inside; put the field in quotes and double the quotes inside"
        ),
        _ if end > number => format!(
            "a quote is left open: it runs to line {end}, where text follows the closing quote"
        ),
        _ => format!("text follows the closing quote of field {field}"),
    };
    let cause = if end > number {
        Cause::OpenQuote
    } else {
        cause
    };
    Bad::new(cause, why)
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests;
