//! Bad lines: why each is bad, how many there are of each kind, and the file that they are written to.

use super::super::output::grouped;
use crate::Reason;
use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

/// Why a line is bad, for the summary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    TooLong,
    Unfinished,
    OpenQuote,
    TextAfterQuote,
    QuoteInside,
    FieldCount,
    NotUtf8,
    NotJson,
    FieldTwice,
    UnknownField,
    Account,
    Meter,
    Quantity,
    Timestamp,
    Id,
    TooOld,
    InFuture,
    UnknownMeter,
    IdReused,
    /// Another reason of the server.
    Other(String),
}

impl From<Reason> for Cause {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::TimestampTooOld => Self::TooOld,
            Reason::TimestampInFuture => Self::InFuture,
            Reason::UnknownMeter => Self::UnknownMeter,
            Reason::KeyReused => Self::IdReused,
            other => Self::Other(other.as_str().to_owned()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "too long",
            Self::Unfinished => "unfinished: the input ends inside a quote",
            Self::OpenQuote => "quote that is not closed",
            Self::TextAfterQuote => "text after a closing quote",
            Self::QuoteInside => "quote inside a field without quotes",
            Self::FieldCount => "wrong number of fields",
            Self::NotUtf8 => "not UTF-8",
            Self::NotJson => "not a JSON object",
            Self::FieldTwice => "field named twice",
            Self::UnknownField => "unknown field",
            Self::Account => "account_id not valid",
            Self::Meter => "meter not valid",
            Self::Quantity => "quantity not valid",
            Self::Timestamp => "timestamp not understood",
            Self::Id => "id not valid",
            Self::TooOld => "timestamp too old",
            Self::InFuture => "timestamp in the future",
            Self::UnknownMeter => "unknown meter",
            Self::IdReused => "id used before with other content",
            Self::Other(reason) => return write!(f, "refused by the server: {reason}"),
        })
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) cause: Cause,
    /// A sentence with the value and the limit.
    pub(super) why: String,
}

impl Bad {
    pub(super) fn new(cause: Cause, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { cause, why }
    }
}

/// A value in quotes, cut if it is long, with control characters escaped.
pub(super) fn quoted(value: &str) -> String {
    format!("'{}'", cut(value))
}

/// A value, cut if it is long, with control characters escaped.
pub(super) fn cut(value: &str) -> String {
    const MAX_CHARS: usize = 64;
    let mut text = String::new();
    for (place, letter) in value.chars().enumerate() {
        if place >= MAX_CHARS {
            text.push_str("...");
            break;
        }
        if letter.is_control() {
            text.extend(letter.escape_default());
        } else {
            text.push(letter);
        }
    }
    text
}

/// How many bad lines there were.
#[derive(Debug, Default)]
pub(super) struct BadCount {
    pub(super) all: u64,
    /// The number of each kind, and the first such line.
    by_cause: BTreeMap<Cause, (u64, u64)>,
}

impl BadCount {
    pub(super) fn add(&mut self, number: u64, cause: Cause) {
        self.all = self.all.saturating_add(1);
        let (count, first) = self.by_cause.entry(cause).or_insert((0, number));
        *count = count.saturating_add(1);
        *first = number.min(*first);
    }

    /// A line for each kind.
    pub(super) fn by_cause(&self) -> String {
        let kinds = self.by_cause.iter();
        let lines = kinds.map(|(cause, (count, first))| {
            let count = grouped(i64::try_from(*count).unwrap_or(i64::MAX));
            format!("  {count} {cause}, first in line {first}\n")
        });
        lines.collect()
    }
}

/// When bad lines end the import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MaxBad {
    Lines(u64),
    /// A share of all lines, in thousandths of a percent.
    Share(u64),
}

/// A share means nothing before this many lines, unless they are all.
const MIN_LINES_OF_SHARE: u64 = 1_000;
const WHOLE_SHARE: u64 = 100_000;

impl MaxBad {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "expected a number of lines from 1, or a share such as 0.5% or 20%".to_owned();
        let Some(percent) = text.strip_suffix('%') else {
            let lines = text.parse().ok().filter(|lines| *lines > 0);
            return lines.map(Self::Lines).ok_or_else(wrong);
        };
        let (whole, thousandths) = percent.split_once('.').unwrap_or((percent, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(thousandths) || !(1..=3).contains(&thousandths.len()) {
            return Err(wrong());
        }
        let share: u64 = format!("{whole}{thousandths:0<3}")
            .parse()
            .map_err(|_| wrong())?;
        let is_share = !whole.is_empty() && (1..=WHOLE_SHARE).contains(&share);
        is_share.then_some(Self::Share(share)).ok_or_else(wrong)
    }

    /// Whether the import ends with this many bad lines of all lines so far.
    pub(super) fn is_reached(self, bad: u64, lines: u64) -> bool {
        match self {
            Self::Lines(max) => bad >= max,
            Self::Share(share) => lines >= MIN_LINES_OF_SHARE && is_more_than(share, bad, lines),
        }
    }

    /// Whether too many of all lines are bad, when there are no others.
    pub(super) fn is_exceeded_at_end(self, bad: u64, lines: u64) -> bool {
        match self {
            Self::Lines(_) => false,
            Self::Share(share) => is_more_than(share, bad, lines),
        }
    }
}

fn is_more_than(share: u64, bad: u64, lines: u64) -> bool {
    bad.saturating_mul(WHOLE_SHARE) > lines.saturating_mul(share)
}

/// The file that bad lines are copied to, as they are in the input and after its header, so that it can be fixed and
/// imported.
#[derive(Debug)]
pub(super) struct BadFile {
    path: PathBuf,
    file: BufWriter<File>,
    /// Written before the first line.
    header: Vec<u8>,
}

impl BadFile {
    /// Creates the file, empty.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        let (path, header) = (path.to_owned(), Vec::new());
        Ok(Self { path, file, header })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn set_header(&mut self, header: Vec<u8>) {
        self.header = header;
    }

    pub(super) fn add(&mut self, raw: &[u8]) -> io::Result<()> {
        for text in [&std::mem::take(&mut self.header)[..], raw] {
            self.file.write_all(text)?;
            if !text.is_empty() && !text.ends_with(b"\n") {
                self.file.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_bad_is_a_number_or_a_share() {
        for (text, expected) in [
            ("1", MaxBad::Lines(1)),
            ("5%", MaxBad::Share(5_000)),
            ("0.5%", MaxBad::Share(500)),
            ("0.001%", MaxBad::Share(1)),
            ("100%", MaxBad::Share(100_000)),
        ] {
            assert_eq!(MaxBad::parse(text), Ok(expected));
        }
        for text in [
            "0", "", "%", "0%", "101%", "-1%", ".5%", "5.%", "1.0001%", "1.5", "5 %", "+5%", "x",
        ] {
            assert!(MaxBad::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn share_is_of_a_thousand_lines_or_of_all() {
        let share = MaxBad::parse("5%").unwrap();
        for (bad, lines, is_reached, is_exceeded_at_end) in [
            (0, 0, false, false),
            (1, 1, false, true),
            (999, 999, false, true),
            (1, 20, false, false),
            (50, 1_000, false, false),
            (51, 1_000, true, true),
            (51, 1_019, true, true),
            (51, 1_020, false, false),
        ] {
            assert_eq!(share.is_reached(bad, lines), is_reached, "{bad} of {lines}");
            let at_end = share.is_exceeded_at_end(bad, lines);
            assert_eq!(at_end, is_exceeded_at_end, "{bad} of {lines}");
        }
        assert!(!MaxBad::Lines(5).is_exceeded_at_end(4, 4));
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(quoted("short"), "'short'");
        assert_eq!(quoted("a\u{1b}[1m\r"), "'a\\u{1b}[1m\\r'");
        assert_eq!(
            quoted(&"ü".repeat(70_000)),
            format!("'{}...'", "ü".repeat(64))
        );
    }
}
