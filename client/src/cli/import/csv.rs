//! One record of a CSV file, read strictly.
//!
//! The crate `csv` is not used to read: it accepts a quote that is never closed, text after a closing quote and the end
//! of the file inside a quote. Each of these silently merges records, and usage would be lost without a sign.

use super::bad::Cause;

/// The fields of a record.
pub(super) type Fields = Vec<Vec<u8>>;

/// A record, read line by line.
#[derive(Debug, Default)]
pub(super) struct Record {
    fields: Fields,
    field: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Before a field's first byte.
    #[default]
    Start,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first half of two quotes that mean one.
    AfterQuote,
    /// After the carriage return that follows a closing quote.
    AfterReturn,
}

impl Record {
    /// Reads a line with its line break. Returns whether the record is complete; otherwise it continues in the next
    /// line, because a quote is open.
    pub(super) fn read(&mut self, line: &[u8]) -> Result<bool, Cause> {
        for &byte in line {
            self.state = match (self.state, byte) {
                (State::Quoted, b'"') => State::AfterQuote,
                (State::Start, b'"') => State::Quoted,
                (State::Plain, b'"') => return Err(Cause::QuoteInside),
                (State::Start | State::Plain | State::AfterQuote, b',') => {
                    self.end_field();
                    State::Start
                }
                (State::Start | State::Plain | State::AfterQuote | State::AfterReturn, b'\n') => {
                    self.end_field();
                    return Ok(true);
                }
                (State::AfterQuote, b'\r') => State::AfterReturn,
                (State::Start | State::Plain, byte) => {
                    self.field.push(byte);
                    State::Plain
                }
                (State::Quoted, byte) | (State::AfterQuote, byte @ b'"') => {
                    self.field.push(byte);
                    State::Quoted
                }
                (State::AfterQuote | State::AfterReturn, _) => return Err(Cause::TextAfterQuote),
            };
        }
        if self.state == State::Quoted {
            return Ok(false);
        }
        // The input's last line may have no line break.
        self.end_field();
        Ok(true)
    }

    fn end_field(&mut self) {
        self.fields.push(std::mem::take(&mut self.field));
    }

    /// The number of the field that was read last, from 1.
    pub(super) fn field_number(&self) -> usize {
        self.fields.len().saturating_add(1)
    }

    /// The fields. That of an open quote is cut.
    pub(super) fn into_fields(mut self) -> Fields {
        if self.state == State::Quoted {
            self.end_field();
        }
        self.fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<Option<Vec<String>>, Cause> {
        let mut record = Record::default();
        let is_complete = record.read(line.as_bytes())?;
        let fields = record.into_fields().into_iter();
        let fields = fields.map(|field| String::from_utf8(field).unwrap());
        Ok(is_complete.then(|| fields.collect()))
    }

    #[test]
    fn strict_records_are_read() {
        for (line, expected) in [
            ("a,b\n", ["a", "b"]),
            ("a,b", ["a", "b"]),
            ("a,\n", ["a", ""]),
            (",\"\"\n", ["", ""]),
            ("\"a\",\"b\"\r\n", ["a", "b"]),
            ("\"a,\"\"1\"\"\",\"b\nc\"", ["a,\"1\"", "b\nc"]),
        ] {
            assert_eq!(read(line).unwrap().unwrap(), expected, "{line:?}");
        }
    }

    #[test]
    fn bad_quotes_are_errors() {
        for (line, cause) in [
            ("a,\"b\" c\n", Cause::TextAfterQuote),
            ("a,\"b\" ,c\n", Cause::TextAfterQuote),
            ("\"a\"\rb\n", Cause::TextAfterQuote),
            ("a,5\" pipe\n", Cause::QuoteInside),
            ("a, \"b\"\n", Cause::QuoteInside),
        ] {
            assert_eq!(read(line), Err(cause), "{line:?}");
        }
        for open in ["a,\"b\n", "\"", "a,\"b\"\"\n"] {
            assert_eq!(read(open), Ok(None), "{open:?}");
        }
    }

    proptest! {
        /// Whatever the crate `csv` writes is read as it was.
        #[test]
        fn written_records_are_read(fields in prop::collection::vec("[a\",\r\n ü]{0,6}", 2..5)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(&fields).unwrap();
            let text = writer.into_inner().unwrap();
            let mut record = Record::default();
            let mut is_complete = false;
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                prop_assert!(!is_complete);
                is_complete = record.read(line).unwrap();
            }
            prop_assert!(is_complete);
            let expected: Vec<Vec<u8>> = fields.into_iter().map(String::into_bytes).collect();
            prop_assert_eq!(record.into_fields(), expected);
        }
    }
}
