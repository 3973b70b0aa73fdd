//! `usagectl import`: counts past usage from a file or a pipe, once, however often it is imported.
//!
//! [`source`] opens the input, [`physical`] splits it into lines, and [`lines`] makes rows of them with [`csv`], [`json`],
//! [`columns`], [`time`] and [`row`]. [`reader`] does that in a thread. [`work`] gives each row its key from [`keys`],
//! sends batches with [`batch`], lists what is [`bad`], and stores how far it came in [`progress`].

mod bad;
mod batch;
mod columns;
mod csv;
mod json;
mod keys;
mod lines;
mod physical;
mod progress;
mod reader;
mod row;
mod source;
mod time;
mod work;

use super::{Streams, exit::Failure};
use crate::UsageClient;
use bad::{BadFile, MaxBad};
use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use columns::{Columns, Field, parse_mapped};
use lines::{Lines, Rules};
use progress::{Options, Progress};
use source::Source;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};
use work::Work;

#[derive(Debug, Args)]
#[command(after_long_help = FORMAT)]
pub(super) struct Arguments {
    /// A CSV file with a header, or a file with one JSON object a line, plain or compressed with gzip; a pipe, or - for
    /// the standard input
    file: PathBuf,
    /// The input's format; by default that of the file's extension, and for a pipe that of its first line
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Read a field from a column with another name; can be repeated
    #[arg(long, value_name = "FIELD=NAME", value_parser = parse_mapped)]
    column: Vec<(Field, String)>,
    /// The column with each line's id, which is its idempotency key; by default id, if there is such a column
    #[arg(long, value_name = "NAME")]
    key_column: Option<String>,
    /// Make keys of the lines' contents, although there is a column named id
    #[arg(long, conflicts_with = "key_column")]
    ignore_id: bool,
    /// Accept unknown columns, and ignore them
    #[arg(long)]
    ignore_unknown: bool,
    /// The time zone of times without an offset, such as Europe/Vienna; without it they are bad
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<Tz>,
    /// The prefix of keys that are made of the lines' contents; by default the file's name. Two files with the same name
    /// and equal lines need different prefixes. A pipe whose lines have no ids needs one
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Count nothing, and say what the import would count and which lines are bad. The server checks each line
    #[arg(long)]
    dry_run: bool,
    /// Stop after this many bad lines, or when they are more than this share of all lines, such as 5%. A share applies
    /// from the 1,000th line on, and before the last lines are sent
    #[arg(long, value_name = "LINES|SHARE", default_value = "1000", value_parser = MaxBad::parse)]
    max_bad: MaxBad,
    /// Copy the bad lines to this file, after the header, to fix and import them. It is replaced if it exists. Lines
    /// that are too long are cut there
    #[arg(long, value_name = "FILE")]
    bad_file: Option<PathBuf>,
    /// How long to retry while the server is unavailable, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    retry_secs: u64,
    /// Where to store the progress until the import is done; by default FILE.progress. A pipe has none
    #[arg(long, value_name = "FILE")]
    progress_file: Option<PathBuf>,
}

const FORMAT: &str = "\
Columns, or fields of each JSON object:
  account_id  the account
  meter       the meter; the server's default meter if there is no such column
  quantity    the quantity, 1 to 1,000,000,000,000; 1 if there is no such column
  timestamp   when it was used; at most 34 days ago and 5 minutes in the future
  id          the line's own id, at most 255 bytes, used as its idempotency key; not required

Times: 2026-03-01T12:00:00Z, with a space for the T, with fractions of a second, with UTC, +01:00, +0100 or +01 for the \
Z; epoch seconds (10 digits) or milliseconds (13 digits); and with --time-zone a time without an offset. Other forms are \
bad lines.

With ids, a line counts once within its account, in whatever files and however often it is imported: overlapping exports \
are safe, and a call with the same idempotency key is the same usage. Without ids, the key is made of the file's name \
(without .gz) and the line's contents. Equal lines are each counted. Importing a file again adds nothing, in any order of \
lines, and bad lines can be fixed or removed before. A line that is in two files of different names counts twice, and a \
line that is changed after it was counted is new usage; enter a correction to take back the old usage.

Bad lines are listed and not counted: those with wrong quotes, values or fields, with a field named twice, or longer than \
65,536 bytes, and those that the server rejects. After a malformed record, reading goes on at the line after the one where \
it began. A quote is taken as open if a line inside of it is a whole row by itself. A header with a column named twice refuses the whole file. Without ids, fix bad lines in the file and import it \
again, or import the file of --bad-file, but not both.

Ctrl-C stops at once and says what was counted. Import the same input again with the same options to go on: a file \
continues where it stopped, a pipe is sent from its start, and nothing is counted twice.

Examples:
  usagectl import usage.csv.gz --dry-run
  usagectl import events.jsonl --key-column event_id --bad-file bad.jsonl
  usagectl import usage.csv --column account_id=customer --column quantity=calls --time-zone UTC --max-bad 0.5%
  psql -c \"COPY (SELECT id, account_id, quantity, timestamp FROM usage) TO STDOUT CSV HEADER\" | usagectl import -";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

/// Leaves space for the rest of the key, which has at most 255 bytes.
const MAX_NAME_BYTES: usize = 200;

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let path = &arguments.file;
    // Wrong arguments are told before the file is looked at.
    check_name(&arguments)?;
    let rules = rules(&arguments)?;
    let source = match Source::of(path) {
        // Only a file that is missing may have a wrong name.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::file(path, error));
        }
        source => source,
    };
    let rules = Rules {
        format: format(&arguments, source.as_ref().ok())?,
        ..rules
    };
    let source = source.map_err(|error| Failure::file(path, error))?;
    let name = name(&arguments, &source)?;
    let progress = match (source.file(), &name) {
        (Some(file), Some(name)) => {
            let options = Options {
                name: name.clone(),
                columns: rules.columns.names(),
                time_zone: rules.zone.map(|zone| zone.name().to_owned()),
                ignore_unknown: arguments.ignore_unknown,
            };
            Some(Progress::new(
                file,
                arguments.progress_file.clone(),
                options,
            ))
        }
        _ if arguments.progress_file.is_some() => {
            let why = "a pipe cannot be continued, so it has no --progress-file";
            return Err(Failure::arguments(why));
        }
        _ => None,
    };
    let bad_file = bad_file(&arguments, &source)?;

    let read = Arc::new(AtomicU64::new(0));
    let input = std::mem::replace(&mut streams.input, Box::new(io::empty()));
    let events = {
        let (source, read) = (source.clone(), Arc::clone(&read));
        reader::start(move |wanted| {
            let plain = match source {
                Source::File(path) | Source::Pipe(path) => source::open_path(&path, read)?,
                Source::Input => source::open(input)?,
            };
            Lines::open(wanted.limit(plain), rules)
        })
    };
    let events = events.map_err(|error| Failure::file(path, error))?;
    let length = source.file().map(fs::metadata).transpose();
    let length = length.map_err(|error| Failure::file(path, error))?;
    let bar = work::bar(length.map(|metadata| metadata.len()), streams);
    Work::new(
        client,
        &arguments,
        name.as_deref(),
        progress,
        bad_file,
        (bar, read),
        streams,
    )
    .run(events)
    .await
}

fn rules(arguments: &Arguments) -> Result<Rules, Failure> {
    let mut mapped = arguments.column.clone();
    mapped.extend(arguments.key_column.clone().map(|name| (Field::Id, name)));
    let columns = Columns::new(&mapped, arguments.ignore_id, arguments.ignore_unknown);
    Ok(Rules {
        format: None,
        columns: columns.map_err(Failure::arguments)?,
        zone: arguments.time_zone,
    })
}

fn check_name(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.name {
        Some(name) if name.is_empty() || name.len() > MAX_NAME_BYTES => {
            Err(Failure::arguments(format!(
                "--name has {} bytes; it must have 1 to {MAX_NAME_BYTES}",
                name.len()
            )))
        }
        _ => Ok(()),
    }
}

/// The prefix of keys; `None` for a pipe without --name, whose lines must have ids.
fn name(arguments: &Arguments, source: &Source) -> Result<Option<String>, Failure> {
    if let Some(name) = &arguments.name {
        return Ok(Some(name.clone()));
    }
    let Some(file) = source.file() else {
        return Ok(None);
    };
    // A file keeps its keys when it is compressed.
    let name = uncompressed(file);
    let name = name.file_name().and_then(|name| name.to_str());
    match name {
        Some(name) if (1..=MAX_NAME_BYTES).contains(&name.len()) => Ok(Some(name.to_owned())),
        _ => Err(Failure::arguments(format!(
            "the file's name is not 1 to {MAX_NAME_BYTES} bytes of UTF-8; set --name"
        ))),
    }
}

/// The path without `.gz`.
fn uncompressed(path: &Path) -> PathBuf {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("gz") => path.with_extension(""),
        _ => path.to_owned(),
    }
}

/// The format; `None` if the first line decides.
fn format(arguments: &Arguments, source: Option<&Source>) -> Result<Option<Format>, Failure> {
    if arguments.format.is_some() {
        return Ok(arguments.format);
    }
    let path = uncompressed(&arguments.file);
    let extension = path.extension().and_then(|name| name.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => Ok(Some(Format::Csv)),
        Some("jsonl" | "ndjson") => Ok(Some(Format::Jsonl)),
        _ if source.is_some_and(|source| source.file().is_none()) => Ok(None),
        _ => Err(Failure::arguments(format!(
            "{} is neither .csv nor .jsonl; set --format csv or --format jsonl",
            arguments.file.display()
        ))),
    }
}

/// Creates the file of bad lines before anything is counted, so that no bad line is missing in it.
fn bad_file(arguments: &Arguments, source: &Source) -> Result<Option<BadFile>, Failure> {
    let Some(path) = &arguments.bad_file else {
        return Ok(None);
    };
    let real = |path: &Path| fs::canonicalize(path).ok();
    if let Some(file) = source.file()
        && (path == file || (real(path).is_some() && real(path) == real(file)))
    {
        return Err(Failure::arguments(
            "--bad-file is the imported file; it would be lost",
        ));
    }
    let file = BadFile::create(path).map_err(|error| Failure::file(path, error))?;
    Ok(Some(file))
}
