//! Reads the lines of a file. Each is a valid row or the reason why it is not.

use super::{
    Format,
    row::{KNOWN, Raw, Row, from_json},
};
use csv::{ByteRecord, ErrorKind as CsvErrorKind, ReaderBuilder, Terminator};
use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

/// The longest line. An unclosed quote would otherwise make one line of the whole file.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// The byte order mark with which some systems start UTF-8 files.
const BOM: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug)]
pub(super) struct Line {
    /// Counted from 1, including the header.
    pub(super) number: u64,
    pub(super) row: Result<Row, String>,
}

pub(super) struct Lines {
    source: Source,
    ignore_unknown: bool,
    place: Place,
}

/// A position between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The offset of the next line in bytes.
    pub(super) offset: u64,
    /// The number of lines before it.
    pub(super) line: u64,
}

enum Source {
    Csv {
        reader: csv::Reader<Limited>,
        header: Header,
    },
    Jsonl(BufReader<File>),
}

/// The header of a CSV file, and where the file ends.
#[derive(Debug)]
struct Header {
    /// The column of each name in `KNOWN`.
    columns: [Option<usize>; 4],
    count: usize,
    /// Whether the file's last line has no line break.
    is_unterminated: bool,
    length: u64,
}

/// A file of which at most `left` bytes are read until `left` is reset.
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

fn too_long() -> io::Error {
    let why = format!("a line is longer than {MAX_LINE_BYTES} bytes; check for an unclosed quote");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Lines {
    /// Opens a file at its start.
    pub(super) fn open(path: &Path, format: Format, ignore_unknown: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let source = match format {
            Format::Jsonl => Source::Jsonl(BufReader::new(file)),
            Format::Csv => open_csv(file, ignore_unknown)?,
        };
        Ok(Self {
            source,
            ignore_unknown,
            place: Place::default(),
        })
    }

    /// The position of the next line.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The next line that is not empty.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        match &mut self.source {
            Source::Csv { reader, header } => loop {
                let mut record = ByteRecord::new();
                reader.get_mut().left = MAX_LINE_BYTES;
                if !reader.read_byte_record(&mut record).map_err(unreadable)? {
                    return Ok(None);
                }
                let next = reader.position();
                // The reader's own line number ignores empty lines before the record.
                let fields = record.iter().flatten();
                let inside = fields.filter(|byte| **byte == b'\n').count();
                let is_unterminated = header.is_unterminated && next.byte() >= header.length;
                let lines = u64::try_from(inside).unwrap_or(u64::MAX);
                let lines = lines.saturating_add(u64::from(!is_unterminated));
                let number = next.line().saturating_sub(lines);
                self.place = Place {
                    offset: next.byte(),
                    line: next.line().saturating_sub(1),
                };
                // A line with only a carriage return is an empty line.
                if record.iter().all(|field| field.trim_ascii().is_empty()) && record.len() == 1 {
                    continue;
                }
                return Ok(Some(Line {
                    number,
                    row: from_record(&record, header),
                }));
            },
            Source::Jsonl(reader) => loop {
                let mut bytes = Vec::new();
                let limit = MAX_LINE_BYTES.saturating_add(1);
                let count = reader.take(limit).read_until(b'\n', &mut bytes)?;
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                if count == 0 {
                    return Ok(None);
                }
                if count > MAX_LINE_BYTES {
                    return Err(too_long());
                }
                self.place.offset = self.place.offset.saturating_add(count);
                self.place.line = self.place.line.saturating_add(1);
                let bytes = match bytes.strip_prefix(BOM) {
                    Some(rest) if self.place.line == 1 => rest,
                    _ => &bytes[..],
                };
                if bytes.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(Line {
                    number: self.place.line,
                    row: from_json(bytes, self.ignore_unknown),
                }));
            },
        }
    }
}

fn open_csv(mut file: File, ignore_unknown: bool) -> io::Result<Source> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        file.rewind()?;
    }
    let limited = Limited {
        file,
        left: MAX_LINE_BYTES,
    };
    // Only `\n` ends a line, so that lines can be counted; a `\r` before it is trimmed.
    let mut reader = ReaderBuilder::new()
        .terminator(Terminator::Any(b'\n'))
        .flexible(true)
        .from_reader(limited);
    let headers = reader.headers().map_err(unreadable)?.clone();
    let names: Vec<&str> = headers.iter().map(str::trim).collect();
    let unknown = names.iter().find(|name| !KNOWN.contains(name));
    if let Some(name) = unknown
        && !ignore_unknown
    {
        let known = KNOWN.join(", ");
        return Err(invalid(format!(
            "the header has the unknown column '{name}'; the columns are {known}, and --ignore-unknown accepts others"
        )));
    }
    let column = |name: &str| names.iter().position(|header| *header == name);
    for name in ["account_id", "timestamp"] {
        if column(name).is_none() {
            return Err(invalid(format!("the header has no column '{name}'")));
        }
    }
    let header = Header {
        columns: KNOWN.map(column),
        count: names.len(),
        is_unterminated: last != *b"\n",
        length,
    };
    Ok(Source::Csv { reader, header })
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn unreadable(error: csv::Error) -> io::Error {
    match error.into_kind() {
        CsvErrorKind::Io(error) => error,
        CsvErrorKind::Utf8 { .. } => invalid("the header is not UTF-8".to_owned()),
        other => io::Error::other(format!("{other:?}")),
    }
}

fn from_record(record: &ByteRecord, header: &Header) -> Result<Row, String> {
    if record.len() != header.count {
        let Header { count, .. } = header;
        return Err(format!(
            "{} fields, and the header has {count}",
            record.len()
        ));
    }
    let text = |column: usize| {
        let bytes = record.get(column).unwrap_or_default();
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        Ok::<_, String>(
            Some(text.trim())
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
        )
    };
    let field = |column: Option<usize>| column.map_or(Ok(None), text);
    let [account_id, meter, quantity, timestamp] = header.columns;
    let raw = Raw {
        account_id: field(account_id)?,
        meter: field(meter)?,
        // An empty quantity is an error; it is 1 only if there is no such column.
        quantity: match (quantity, field(quantity)?) {
            (Some(_), None) => Some(serde_json::Value::Null),
            (_, given) => given.map(serde_json::Value::String),
        },
        timestamp: field(timestamp)?,
    };
    raw.check()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GOOD: &str = "account_id,quantity,timestamp\n\
        a,1,2026-03-01T00:00:00Z\n\
        \"b\n\",2,2026-03-01T00:00:01Z\n\
        d,x,2026-03-01T00:00:02Z\n\
        e,3\n\
        f,4,2026-03-01T01:00:00+01:00\n";

    fn open(text: &str, format: Format) -> io::Result<Lines> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, text).unwrap();
        Lines::open(&path, format, false)
    }

    /// Each line's number, and its account or error.
    fn all(text: &str, format: Format) -> Vec<(u64, String)> {
        let (mut lines, mut found) = (open(text, format).unwrap(), Vec::new());
        while let Some(line) = lines.next().unwrap() {
            let what = line.row.map_or_else(|why| why, |row| row.account);
            found.push((line.number, what));
        }
        let length = u64::try_from(text.trim_end().len()).unwrap();
        assert!(lines.place().offset >= length, "the whole file is read");
        found
    }

    #[test]
    fn csv_lines_have_the_number_of_their_first_line() {
        let expected = [
            (2, "a"),
            (3, "b"),
            (5, "quantity \"x\" is not a whole number"),
            (6, "2 fields, and the header has 3"),
            (7, "f"),
        ];
        let expected = expected.map(|(number, what)| (number, what.to_owned()));
        let windows = GOOD.replace('\n', "\r\n");
        let marked = format!("\u{feff}{GOOD}");
        for text in [GOOD, GOOD.trim_end(), &windows, windows.trim_end(), &marked] {
            assert_eq!(all(text, Format::Csv), expected, "{text:?}");
        }
    }

    #[test]
    fn empty_lines_are_skipped_and_numbered() {
        let spaced = GOOD.replacen("\na,", "\n\n\na,", 1) + "\n\n";
        for text in [spaced.replace('\n', "\r\n"), spaced] {
            let numbers: Vec<u64> = all(&text, Format::Csv).iter().map(|line| line.0).collect();
            assert_eq!(numbers, [4, 5, 7, 8, 9], "{text:?}");
        }
        let json = "{\"account_id\":\"a\",\"timestamp\":\"2026-03-01T00:00:00Z\"}";
        for text in [
            format!("\u{feff}{json}\n\n{json}"),
            format!("{json}\r\n\r\n{json}\r\n"),
        ] {
            let expected = [(1, "a".to_owned()), (3, "a".to_owned())];
            assert_eq!(all(&text, Format::Jsonl), expected);
        }
    }

    #[test]
    fn carriage_returns_alone_do_not_end_lines() {
        let old = GOOD.replace('\n', "\r");
        let error = open(&old, Format::Csv).err().unwrap();
        assert!(error.to_string().contains("the columns are"), "{error}");
    }

    #[test]
    fn missing_and_unknown_columns_are_named() {
        let error = |text: &str| {
            let opened = open(text, Format::Csv);
            opened.err().unwrap().to_string()
        };
        assert_eq!(
            error("account_id,quantitiy,timestamp\n"),
            "the header has the unknown column 'quantitiy'; the columns are account_id, meter, quantity, timestamp, \
             and --ignore-unknown accepts others"
        );
        assert_eq!(
            error("account_id\n"),
            "the header has no column 'timestamp'"
        );
    }

    #[test]
    fn endless_line_is_not_read_into_memory() {
        let long = usize::try_from(MAX_LINE_BYTES).unwrap() * 2;
        let open_quote = format!("account_id,timestamp\n\"{}", "x".repeat(long));
        let mut csv = open(&open_quote, Format::Csv).unwrap();
        assert_eq!(csv.next().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut json = open(&"x".repeat(long), Format::Jsonl).unwrap();
        assert_eq!(json.next().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
