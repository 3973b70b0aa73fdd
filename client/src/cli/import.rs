//! `usagectl import`: counts past usage from a file, once, however often it is imported.
//!
//! [`lines`] reads the file, [`row`] validates a line, [`keys`] derives its idempotency key, [`batch`] sends it, and
//! [`progress`] stores how far an import came.

mod batch;
mod keys;
mod lines;
mod progress;
mod row;

use super::{Streams, exit::Failure, output::grouped};
use crate::{Error, UsageClient};
use batch::{Outgoing, Sender, Tally};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use keys::{Keys, MAX_LINES};
use lines::{Line, Lines};
use progress::Progress;
use row::Row;
use std::{fs, path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(after_long_help = FORMAT)]
pub(super) struct Arguments {
    /// A CSV file with a header, or a file with one JSON object a line
    file: PathBuf,
    /// The file's format; by default derived from its extension
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The prefix of the lines' keys; by default the file's name. Two files with the same name and equal lines need
    /// different prefixes
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Accept lines with unknown columns, and ignore these columns
    #[arg(long)]
    ignore_unknown: bool,
    /// Only read the file and list bad lines
    #[arg(long)]
    dry_run: bool,
    /// Stop after this many bad lines
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_bad: u64,
    /// How long to retry while the server is unavailable, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    retry_secs: u64,
    /// Where to store the progress until the import is done; by default FILE.progress
    #[arg(long, value_name = "FILE")]
    progress_file: Option<PathBuf>,
}

const FORMAT: &str = "\
Columns, or fields of each JSON object:
  account_id  the account
  meter       the meter; the server's default meter if it is left out
  quantity    the quantity, 1 to 1,000,000,000,000; 1 if there is no such column
  timestamp   the time, such as 2026-03-01T12:00:00Z; at most 34 days ago

Each line is counted with a key made of the file's name and the line's contents. Equal lines are each counted. \
Importing a file again adds nothing, in any order of lines, and bad lines can be fixed or removed before. A line that is \
changed after it was counted is counted as new usage; enter a correction to take back the old usage.";

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
    let name = name(&arguments)?;
    let path = &arguments.file;
    let in_file = |error| Failure::file(path, error);
    let mut lines =
        Lines::open(path, format(&arguments)?, arguments.ignore_unknown).map_err(in_file)?;
    let bar = streams.bar(fs::metadata(path).map_err(in_file)?.len());
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left {msg}")
    {
        bar.set_style(style);
    }
    let mut work = Work {
        sender: Sender::new(client, Duration::from_secs(arguments.retry_secs)),
        keys: Keys::new(&name),
        progress: Progress::new(path, arguments.progress_file.clone(), &name),
        skipped: 0,
        tally: Tally::default(),
        ready: 0,
        bad: 0,
        arguments: &arguments,
        bar,
        streams,
    };
    let done = work.all(&mut lines).await;
    work.bar.finish_and_clear();
    done?;
    work.finish()
}

struct Work<'a, 'b> {
    sender: Sender<'a>,
    keys: Keys,
    progress: Progress,
    /// The last line that an earlier import has finished.
    skipped: u64,
    tally: Tally,
    /// The number of lines that a dry run would send.
    ready: i64,
    bad: u64,
    arguments: &'a Arguments,
    bar: ProgressBar,
    streams: &'a mut Streams<'b>,
}

impl Work<'_, '_> {
    /// Sends all batches, and stores the progress after each.
    async fn all(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        let path = &self.arguments.file;
        if !self.arguments.dry_run {
            self.resume()?;
        }
        let mut is_end = false;
        while !is_end {
            let mut batch = Vec::new();
            while batch.len() < crate::Batch::MAX_LEN && !is_end {
                match lines.next().map_err(|error| Failure::file(path, error))? {
                    None => is_end = true,
                    Some(Line { number, row }) => match row.map(|row| self.outgoing(number, row)) {
                        Ok(Ok(None)) => {}
                        Ok(Ok(Some(line))) => batch.push(line),
                        Ok(Err(failure)) => return Err(failure),
                        Err(why) => self.bad(number, &why)?,
                    },
                }
            }
            if self.arguments.dry_run {
                let lines = i64::try_from(batch.len()).unwrap_or(i64::MAX);
                self.ready = self.ready.saturating_add(lines);
            } else if !batch.is_empty() {
                self.send(batch).await?;
                self.store_progress(lines);
            }
            self.bar.set_position(lines.place().offset);
            self.bar.set_message(format!("({} bad)", self.bad));
        }
        Ok(())
    }

    /// Continues an earlier import, if there was one.
    fn resume(&mut self) -> Result<(), Failure> {
        let read = self.progress.read();
        let (line, tally, note) =
            read.map_err(|error| Failure::file(self.progress.path(), error))?;
        (self.skipped, self.tally) = (line, tally);
        if let Some(note) = note {
            self.print(&note);
        }
        for (number, why) in self.tally.refused.clone() {
            self.bad(number, &why)?;
        }
        Ok(())
    }

    /// The line with its key; `None` if an earlier import has finished it.
    fn outgoing(&mut self, number: u64, row: Row) -> Result<Option<Outgoing>, Failure> {
        let Some(key) = self.keys.next(&row) else {
            let why = format!(
                "the file has more than {MAX_LINES} different lines; split it into several files"
            );
            return Err(Failure::file(&self.arguments.file, why));
        };
        Ok((number > self.skipped).then_some(Outgoing { number, key, row }))
    }

    async fn send(&mut self, batch: Vec<Outgoing>) -> Result<(), Failure> {
        let before = self.tally.refused.len();
        let bar = self.bar.clone();
        let on_retry = |error: &Error| bar.set_message(format!("(retrying: {error})"));
        let sent = self.sender.send(batch, &mut self.tally, on_retry).await;
        sent.map_err(|error| self.interrupted(error))?;
        let refused = self
            .tally
            .refused
            .get(before..)
            .unwrap_or_default()
            .to_vec();
        for (number, why) in refused {
            self.bad(number, &why)?;
        }
        Ok(())
    }

    /// Stores the progress. The import continues without it, because the progress only saves time.
    fn store_progress(&mut self, lines: &Lines) {
        if let Err(error) = self.progress.write(lines.place(), &self.tally) {
            let path = self.progress.path().display();
            let note = format!(
                "{path}: {error}; if this import is interrupted, the next one sends everything again and counts it once"
            );
            self.print(&note);
        }
    }

    /// The failure of a call, with how to continue.
    fn interrupted(&self, error: Error) -> Failure {
        let counted = grouped(self.tally.counted);
        let advice = if error.is_retryable() {
            "Import the file again to continue"
        } else {
            "Fix this, then import the file again to continue"
        };
        let advice = format!("{counted} lines were counted. {advice}; nothing is counted twice.");
        Failure::Call(error, Some(advice))
    }

    /// Reports a bad line.
    fn bad(&mut self, number: u64, why: &str) -> Result<(), Failure> {
        self.bad = self.bad.saturating_add(1);
        self.print(&format!("line {number}: {why}"));
        if self.bad >= self.arguments.max_bad {
            return Err(Failure::Partial(format!(
                "stopped after {} bad lines, see --max-bad; {} lines were counted",
                self.bad,
                grouped(self.tally.counted)
            )));
        }
        Ok(())
    }

    /// Writes a message. The import continues if that fails.
    fn print(&mut self, what: &str) {
        let err = &mut self.streams.err;
        let _written = self.bar.suspend(|| writeln!(err, "{what}"));
    }

    fn finish(mut self) -> Result<(), Failure> {
        if !self.arguments.dry_run
            && let Err(error) = self.progress.remove()
        {
            let path = self.progress.path().display();
            let note = format!("{path}: {error}; the file can be deleted");
            self.print(&note);
        }
        let Self { tally, bad, .. } = self;
        let summary = if self.arguments.dry_run {
            let ready = grouped(self.ready);
            format!("{ready} lines can be sent, {bad} are bad")
        } else {
            format!(
                "{} lines counted ({} units), {} had been counted before, {bad} bad",
                grouped(tally.counted),
                grouped(tally.units),
                grouped(tally.duplicates),
            )
        };
        let written = writeln!(self.streams.out, "{summary}");
        if bad == 0 {
            return Ok(written?);
        }
        Err(Failure::Partial(format!(
            "{bad} lines were bad; fix them and import the file again"
        )))
    }
}

fn name(arguments: &Arguments) -> Result<String, Failure> {
    let file_name = arguments.file.file_name().and_then(|name| name.to_str());
    let name = match (&arguments.name, file_name) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => {
            return Err(Failure::arguments(
                "the file has no name that can be used; set --name",
            ));
        }
    };
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(Failure::arguments(format!(
            "--name has {} bytes; it must have 1 to {MAX_NAME_BYTES}",
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
            "{} is neither .csv nor .jsonl; set --format csv or --format jsonl",
            arguments.file.display()
        ))),
    }
}
