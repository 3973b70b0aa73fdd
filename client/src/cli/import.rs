//! `usagectl import`: past usage from a file, counted once however often it is imported.
//!
//! [`lines`] reads the file, [`progress`] remembers how far an import came, and [`batch`] sends. Each line has
//! an idempotency key of its own, made of the file's name and the line's number: that is what makes it count
//! once, and what the server compares with what that line was before.

mod batch;
mod lines;
mod progress;

use super::{Streams, failure::Failure, output::grouped};
use crate::{Error, UsageClient};
use batch::{Sender, Tally};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use lines::{Line, Lines};
use progress::{Kept, Place};
use std::{fs, path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(after_long_help = FORMAT)]
pub(super) struct Arguments {
    /// A CSV file with a header, or a file with one JSON object a line
    file: PathBuf,
    /// What the file holds; told by its name unless given
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What the lines' keys begin with; the file's name unless given. Two files of one name need names of
    /// their own
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Take lines that have columns which this command does not know
    #[arg(long)]
    ignore_unknown: bool,
    /// Only read the file and say which lines are bad
    #[arg(long)]
    dry_run: bool,
    /// End when so many lines were bad
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_bad: u64,
    /// How long to try again where the server is away, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    patience: u64,
    /// Where to remember how far it came, until it is done; FILE.progress unless given
    #[arg(long, value_name = "FILE")]
    progress_file: Option<PathBuf>,
}

const FORMAT: &str = "\
Columns, or fields of each JSON object:
  account_id  who used it
  meter       what was used; the server's default meter where it is left out
  quantity    how much, 1 to 1,000,000,000,000; 1 where there is no such column
  timestamp   when, such as 2026-03-01T12:00:00Z; at most 34 days ago

Each line counts under a key made of the file's name and the line's number. Importing a file again adds \
nothing; a bad line can be mended where it stands and the file imported again. A line that was counted and \
then edited is refused, and nothing is counted for it.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

/// Room for the line's number in a key of at most 255 bytes.
const MOST_NAME_BYTES: usize = 200;

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let name = name(&arguments)?;
    let path = &arguments.file;
    let mut kept = Kept::new(&arguments.file, arguments.progress_file.clone(), &name);
    let place = if arguments.dry_run {
        Place::default()
    } else {
        let (place, note) = kept.read().map_err(|error| Failure::file(path, error))?;
        if let Some(note) = note {
            writeln!(streams.err, "{note}")?;
        }
        place
    };
    let mut lines = Lines::open(path, format(&arguments)?, arguments.ignore_unknown, place)
        .map_err(|error| Failure::file(path, error))?;
    let length = fs::metadata(path).map_err(|error| Failure::file(path, error))?;
    let bar = ProgressBar::new(length.len());
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left {msg}")
    {
        bar.set_style(style);
    }
    let mut work = Work {
        sender: Sender::new(client, &name, Duration::from_secs(arguments.patience)),
        tally: Tally::default(),
        arguments: &arguments,
        bar,
        streams,
    };
    let done = work.all(&mut lines, &mut kept).await;
    work.bar.finish_and_clear();
    let tally = work.tally;
    done?;
    if !arguments.dry_run {
        kept.forget().map_err(|error| Failure::file(path, error))?;
    }
    finish(&tally, &arguments, streams)
}

struct Work<'a, 'b> {
    sender: Sender<'a>,
    tally: Tally,
    arguments: &'a Arguments,
    bar: ProgressBar,
    streams: &'a mut Streams<'b>,
}

impl Work<'_, '_> {
    /// Sends batch after batch, and remembers each that is answered.
    async fn all(&mut self, lines: &mut Lines, kept: &mut Kept) -> Result<(), Failure> {
        let path = &self.arguments.file;
        loop {
            let mut batch = Vec::new();
            let mut is_end = false;
            while batch.len() < crate::Batch::MAX_LEN && !is_end {
                match lines.next().map_err(|error| Failure::file(path, error))? {
                    Some(Line {
                        number,
                        row: Ok(row),
                    }) => batch.push((number, row)),
                    Some(Line {
                        number,
                        row: Err(why),
                    }) => self.bad(number, &why)?,
                    None => is_end = true,
                }
            }
            if self.arguments.dry_run {
                self.tally.read(batch.len());
            } else {
                let sent = self.sender.send(batch, &mut self.tally).await;
                let refused = sent.map_err(|error| self.cut_off(error))?;
                for (number, why) in refused {
                    self.bad(number, &why)?;
                }
                kept.write(lines.place())
                    .map_err(|error| Failure::file(kept.path(), error))?;
            }
            self.bar.set_position(lines.place().offset);
            self.bar.set_message(format!("({} bad)", self.tally.bad));
            if is_end {
                return Ok(());
            }
        }
    }

    /// A later import goes on from here.
    fn cut_off(&self, error: Error) -> Failure {
        let counted = grouped(self.tally.counted);
        let advice = format!(
            "{counted} lines were counted. Import the file again to go on; nothing counts twice."
        );
        Failure::Call(error, Some(advice))
    }

    /// Lists a bad line.
    fn bad(&mut self, number: u64, why: &str) -> Result<(), Failure> {
        self.tally.bad = self.tally.bad.saturating_add(1);
        let err = &mut self.streams.err;
        self.bar.suspend(|| writeln!(err, "line {number}: {why}"))?;
        if self.tally.bad >= self.arguments.max_bad {
            return Err(Failure::InPart(format!(
                "{} lines were bad, and --max-bad allows no more; {} lines were counted before",
                self.tally.bad,
                grouped(self.tally.counted)
            )));
        }
        Ok(())
    }
}

fn finish(tally: &Tally, arguments: &Arguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if arguments.dry_run {
        let read = grouped(tally.read);
        writeln!(
            streams.out,
            "{read} lines can be sent, {} are bad",
            tally.bad
        )?;
    } else {
        writeln!(
            streams.out,
            "{} lines counted ({} units), {} had been counted before, {} bad",
            grouped(tally.counted),
            grouped(tally.units),
            grouped(tally.duplicates),
            tally.bad
        )?;
    }
    if tally.bad == 0 {
        return Ok(());
    }
    Err(Failure::InPart(format!(
        "{} lines were bad; mend them where they stand and import the file again",
        tally.bad
    )))
}

fn name(arguments: &Arguments) -> Result<String, Failure> {
    let own = arguments.file.file_name().and_then(|name| name.to_str());
    let name = match (&arguments.name, own) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => return Err(Failure::arguments("the file needs a --name")),
    };
    if name.is_empty() || name.len() > MOST_NAME_BYTES {
        return Err(Failure::arguments(format!(
            "--name is {} bytes long; it may be 1 to {MOST_NAME_BYTES}",
            name.len()
        )));
    }
    Ok(name)
}

fn format(arguments: &Arguments) -> Result<Format, Failure> {
    if let Some(format) = arguments.format {
        return Ok(format);
    }
    let extension = arguments.file.extension().and_then(|name| name.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => Ok(Format::Csv),
        Some("jsonl" | "ndjson") => Ok(Format::Jsonl),
        _ => Err(Failure::arguments(format!(
            "{} is neither .csv nor .jsonl; say --format csv or --format jsonl",
            arguments.file.display()
        ))),
    }
}
