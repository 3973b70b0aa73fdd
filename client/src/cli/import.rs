//! `usagectl import`: past usage from a file, counted once however often it is imported.
//!
//! [`lines`] reads the file, [`row`] knows what a line must say, [`keys`] makes the idempotency key by which it counts
//! once, [`batch`] sends, and [`progress`] remembers how far an import came.

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
use keys::{Keys, MOST_LINES};
use lines::{Line, Lines};
use progress::Kept;
use row::Row;
use std::{fs, path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(after_long_help = FORMAT)]
pub(super) struct Arguments {
    /// A CSV file with a header, or a file with one JSON object a line
    file: PathBuf,
    /// What the file holds; told by its name unless given
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What the lines' keys begin with; the file's name unless given. Two files of one name that hold equal
    /// lines need names of their own
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

Each line counts under a key made of the file's name and what the line says; of equal lines each counts. So \
importing a file again adds nothing, in whichever order its lines are, and bad lines can be mended or taken out. What \
was counted stays counted: a line that says something else afterwards is usage of its own, and `usagectl` does not take \
back the first; a correction does.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

/// Room for the rest of a key of at most 255 bytes.
const MOST_NAME_BYTES: usize = 200;

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
        sender: Sender::new(client, Duration::from_secs(arguments.patience)),
        keys: Keys::new(&name),
        kept: Kept::new(path, arguments.progress_file.clone(), &name),
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
    kept: Kept,
    /// The last line that an earlier import was answered for.
    skipped: u64,
    tally: Tally,
    /// Lines that a dry run would send.
    ready: i64,
    bad: u64,
    arguments: &'a Arguments,
    bar: ProgressBar,
    streams: &'a mut Streams<'b>,
}

impl Work<'_, '_> {
    /// Sends batch after batch, and remembers each that is answered.
    async fn all(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        let path = &self.arguments.file;
        if !self.arguments.dry_run {
            self.go_on()?;
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
                self.remember(lines);
            }
            self.bar.set_position(lines.place().offset);
            self.bar.set_message(format!("({} bad)", self.bad));
        }
        Ok(())
    }

    /// Takes up what an earlier import did.
    fn go_on(&mut self) -> Result<(), Failure> {
        let read = self.kept.read();
        let (line, tally, note) = read.map_err(|error| Failure::file(self.kept.path(), error))?;
        (self.skipped, self.tally) = (line, tally);
        if let Some(note) = note {
            self.say(&note);
        }
        for (number, why) in self.tally.refused.clone() {
            self.bad(number, &why)?;
        }
        Ok(())
    }

    /// A line on its way; none where an earlier import was answered for it.
    fn outgoing(&mut self, number: u64, row: Row) -> Result<Option<Outgoing>, Failure> {
        let Some(key) = self.keys.next(&row) else {
            let why = format!("it has more than {MOST_LINES} different lines; cut it in two");
            return Err(Failure::file(&self.arguments.file, why));
        };
        Ok((number > self.skipped).then_some(Outgoing { number, key, row }))
    }

    async fn send(&mut self, batch: Vec<Outgoing>) -> Result<(), Failure> {
        let before = self.tally.refused.len();
        let bar = self.bar.clone();
        let waits = |error: &Error| bar.set_message(format!("(waiting: {error})"));
        let sent = self.sender.send(batch, &mut self.tally, waits).await;
        sent.map_err(|error| self.cut_off(error))?;
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

    /// It only saves time: where it cannot be kept, the import goes on.
    fn remember(&mut self, lines: &Lines) {
        if let Err(error) = self.kept.write(lines.place(), &self.tally) {
            let path = self.kept.path().display();
            let note = format!(
                "{path}: {error}; if this import is broken off, the next one sends everything again, and counts it once"
            );
            self.say(&note);
        }
    }

    /// A later import goes on from here.
    fn cut_off(&self, error: Error) -> Failure {
        let counted = grouped(self.tally.counted);
        let advice = if error.is_retryable() {
            "Import the file again to go on"
        } else {
            "Once that is put right, import the file again to go on"
        };
        let advice = format!("{counted} lines were counted. {advice}; nothing counts twice.");
        Failure::Call(error, Some(advice))
    }

    /// Lists a bad line.
    fn bad(&mut self, number: u64, why: &str) -> Result<(), Failure> {
        self.bad = self.bad.saturating_add(1);
        self.say(&format!("line {number}: {why}"));
        if self.bad >= self.arguments.max_bad {
            return Err(Failure::InPart(format!(
                "{} lines were bad, and --max-bad allows no more; {} lines were counted before",
                self.bad,
                grouped(self.tally.counted)
            )));
        }
        Ok(())
    }

    /// What nobody reads is no reason to leave the rest of the file.
    fn say(&mut self, what: &str) {
        let err = &mut self.streams.err;
        let _told = self.bar.suspend(|| writeln!(err, "{what}"));
    }

    fn finish(mut self) -> Result<(), Failure> {
        if !self.arguments.dry_run
            && let Err(error) = self.kept.forget()
        {
            let path = self.kept.path().display();
            let note = format!("{path}: {error}; it is of no more use");
            self.say(&note);
        }
        let Self { tally, bad, .. } = self;
        let said = if self.arguments.dry_run {
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
        let told = writeln!(self.streams.out, "{said}");
        if bad == 0 {
            return Ok(told?);
        }
        Err(Failure::InPart(format!(
            "{bad} lines were bad; mend them and import the file again"
        )))
    }
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
