//! The import itself: takes lines from the reader, sends them in batches and says what became of them.

mod messages;
mod resume;

use super::{
    Arguments,
    bad::{Bad, BadCount, BadFile, Cause},
    batch::{LineResult, Outgoing, Sender, Tally},
    keys::{Keys, MAX_LINES, Seen, SeenIds},
    lines::Line,
    physical::Place,
    progress::Progress,
    reader::Event,
    row::Row,
};
use crate::{
    Batch, Error, UsageClient,
    cli::{Streams, exit::Failure},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// A batch is sent before it is full if its lines have this many bytes.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a line from a slow pipe waits for others.
const MAX_LINE_WAIT: Duration = Duration::from_secs(1);
/// Bad lines beyond these are counted, not listed one by one.
const MAX_LISTED: u64 = 1_000;
/// The progress stops with more rejected lines than these, because it contains their numbers.
const MAX_REFUSED_IN_PROGRESS: usize = 10_000;

/// A bar for so many bytes, or a counter of bytes for a pipe.
pub(super) fn bar(length: Option<u64>, streams: &Streams<'_>) -> ProgressBar {
    let bar = streams.bar(length.unwrap_or_default());
    let template = match length {
        Some(_) => "{bar:40} {bytes} of {total_bytes}, {eta} left {msg}",
        None => "{spinner} {bytes} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

pub(super) struct Work<'a, 'b> {
    sender: Sender<'a>,
    /// For lines without ids; `None` for a pipe without a name.
    keys: Option<Keys>,
    /// The ids that a dry run would have counted; `None` if they are too many.
    seen: Option<SeenIds>,
    progress: Option<Progress>,
    bad_file: Option<BadFile>,
    bad: BadCount,
    tally: Tally,
    /// The lines up to this one were finished by an earlier import, except those that it names.
    skipped: u64,
    refused_before: HashSet<u64>,
    /// The number of lines read, without the header and empty ones.
    lines: u64,
    batch: Vec<Outgoing>,
    batch_bytes: usize,
    /// When a line of a pipe has waited long enough.
    deadline: Option<Instant>,
    /// The position after the last line that was read, and after the last that is finished.
    read: Place,
    finished: u64,
    arguments: &'a Arguments,
    bar: ProgressBar,
    bytes: Arc<AtomicU64>,
    streams: &'a mut Streams<'b>,
}

/// What happens next.
enum Next {
    Event(Event),
    Flush,
}

impl<'a, 'b> Work<'a, 'b> {
    pub(super) fn new(
        client: &'a UsageClient,
        arguments: &'a Arguments,
        name: Option<&str>,
        progress: Option<Progress>,
        bad_file: Option<BadFile>,
        (bar, bytes): (ProgressBar, Arc<AtomicU64>),
        streams: &'a mut Streams<'b>,
    ) -> Self {
        let retry_for = Duration::from_secs(arguments.retry_secs);
        let is_dry_run = arguments.dry_run;
        Self {
            sender: Sender::new(client, retry_for, is_dry_run),
            keys: name.map(Keys::new),
            seen: is_dry_run.then(SeenIds::default),
            progress: progress.filter(|_| !is_dry_run),
            bad_file,
            bad: BadCount::default(),
            tally: Tally::default(),
            skipped: 0,
            refused_before: HashSet::new(),
            lines: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            deadline: None,
            read: Place::default(),
            finished: 0,
            arguments,
            bar,
            bytes,
            streams,
        }
    }

    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Result<(), Failure> {
        let done = self.all(&mut events).await;
        self.bar.finish_and_clear();
        let flushed = self.flush_bad_file();
        let is_begun = match &done {
            Ok(()) => true,
            Err(Failure::Usage(_)) => false,
            Err(_) => self.lines > 0,
        };
        let printed = if is_begun {
            self.print_summary()
        } else {
            Ok(())
        };
        done.and(flushed)?;
        self.remove_progress();
        if self.bad.all == 0 {
            return printed;
        }
        Err(Failure::Partial(format!(
            "{} lines were bad; fix them and import the file again{}",
            self.bad.all,
            self.where_bad_lines_are()
        )))
    }

    /// Writes the rest of the bad lines. A failure is printed too, because another one may hide it.
    fn flush_bad_file(&mut self) -> Result<(), Failure> {
        let Some(file) = &mut self.bad_file else {
            return Ok(());
        };
        let Err(error) = file.flush() else {
            return Ok(());
        };
        let path = file.path().to_owned();
        self.print(&format!(
            "{}: {error}; bad lines are missing in it",
            path.display()
        ));
        Err(Failure::file(&path, error))
    }

    async fn all(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<(), Failure> {
        self.resume().await?;
        loop {
            match self.next(events).await? {
                Next::Event(Event::Header(header)) => {
                    if let Some(file) = &mut self.bad_file {
                        file.set_header(header);
                    }
                }
                Next::Event(Event::Line(line)) => self.line(line)?,
                Next::Event(Event::End) => return self.end().await,
                Next::Event(Event::Failed(error)) => {
                    self.flush().await?;
                    return Err(self.unreadable(&error));
                }
                Next::Flush => self.flush().await?,
            }
            let is_full = self.batch.len() >= Batch::MAX_LEN || self.batch_bytes >= MAX_BATCH_BYTES;
            if is_full {
                self.flush().await?;
            }
        }
    }

    async fn next(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<Next, Failure> {
        let deadline = self.deadline;
        let waiting = async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            code = &mut self.streams.stop => Err(self.stopped(code, 0)),
            () = waiting => Ok(Next::Flush),
            event = events.recv() => Ok(Next::Event(event.unwrap_or_else(|| {
                Event::Failed(io::Error::other("reading stopped unexpectedly"))
            }))),
        }
    }

    fn line(&mut self, line: Line) -> Result<(), Failure> {
        let Line {
            number,
            raw,
            row,
            place,
        } = line;
        self.read = place;
        self.lines = self.lines.saturating_add(1);
        self.bar.set_position(self.bytes.load(Ordering::Relaxed));
        let row = match row {
            Ok(row) => row,
            Err(bad) => return self.bad(number, &bad, &raw),
        };
        let key = self.key(&row)?;
        if number <= self.skipped && !self.refused_before.contains(&number) {
            return Ok(());
        }
        match self.seen.as_ref().and_then(|seen| seen.find(&row)) {
            None => {}
            Some(Seen::Same) => {
                self.add_duplicate();
                return Ok(());
            }
            Some(Seen::Other) => {
                let why =
                    "an earlier line has the same id with another meter, quantity or timestamp";
                return self.bad(number, &Bad::new(Cause::IdReused, why), &raw);
            }
        }
        if self.progress.is_none() {
            let deadline = || Instant::now().checked_add(MAX_LINE_WAIT);
            self.deadline = self.deadline.or_else(deadline);
        }
        self.batch_bytes = self.batch_bytes.saturating_add(raw.len());
        self.batch.push(Outgoing {
            number,
            key,
            row,
            raw,
        });
        Ok(())
    }

    fn key(&mut self, row: &Row) -> Result<String, Failure> {
        if let Some(id) = &row.id {
            return Ok(id.clone());
        }
        let Some(keys) = &mut self.keys else {
            return Err(Failure::arguments(
                "the lines have no ids and a pipe has no name, so nothing tells its lines from those of another one: \
                 set --name, and the same one when it is imported again",
            ));
        };
        let path = &self.arguments.file;
        keys.next(row).ok_or_else(|| {
            let why = format!(
                "the input has more than {MAX_LINES} different lines without ids; add a column of ids, or split it \
                 into several files before the first import"
            );
            Failure::file(path, why)
        })
    }

    /// Sends the batch, and stores the progress.
    async fn flush(&mut self) -> Result<(), Failure> {
        self.deadline = None;
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            let bar = self.bar.clone();
            let on_retry = |error: &Error| bar.set_message(format!("(retrying: {error})"));
            let sent = tokio::select! {
                biased;
                code = &mut self.streams.stop => {
                    return Err(self.stopped(code, batch.len()));
                }
                sent = self.sender.send(&batch, on_retry) => sent,
            };
            let results = sent.map_err(|error| self.call_failed(error))?;
            self.results(batch, results)?;
            self.store_progress();
        }
        self.finished = self.read.line.max(self.finished);
        self.bar.set_message(format!("({} bad)", self.bad.all));
        Ok(())
    }

    fn results(&mut self, batch: Vec<Outgoing>, results: Vec<LineResult>) -> Result<(), Failure> {
        let mut refused = Vec::new();
        for (line, result) in batch.into_iter().zip(results) {
            match result {
                LineResult::Counted => self.add_counted(&line),
                LineResult::Duplicate => self.add_duplicate(),
                LineResult::Bad(bad) => refused.push((line, bad)),
            }
        }
        // One of these may end the import. Everything that was counted is in the summary by then.
        for (line, bad) in refused {
            if self.tally.refused.len() <= MAX_REFUSED_IN_PROGRESS {
                self.tally.refused.push(line.number);
            }
            self.bad(line.number, &bad, &line.raw)?;
        }
        Ok(())
    }

    fn add_counted(&mut self, line: &Outgoing) {
        self.tally.counted = self.tally.counted.saturating_add(1);
        self.tally.units = self.tally.units.saturating_add(line.row.quantity);
        if self.seen.as_mut().is_some_and(|seen| !seen.add(line)) {
            self.seen = None;
            self.print(&format!(
                "line {}: {MAX_LINES} lines are remembered; an id that comes again from here on is not noticed",
                line.number
            ));
        }
    }

    fn add_duplicate(&mut self) {
        self.tally.duplicates = self.tally.duplicates.saturating_add(1);
    }

    /// Lists a bad line.
    fn bad(&mut self, number: u64, bad: &Bad, raw: &[u8]) -> Result<(), Failure> {
        self.bad.add(number, bad.cause.clone());
        if self.bad.all <= MAX_LISTED {
            self.print(&format!("line {number}: {}", bad.why));
        } else if self.bad.all == MAX_LISTED.saturating_add(1) {
            let note = format!(
                "more than {MAX_LISTED} lines are bad; further ones are counted and not listed{}",
                self.where_bad_lines_are()
            );
            self.print(&note);
        }
        if let Some(file) = &mut self.bad_file {
            let added = file.add(raw);
            added.map_err(|error| Failure::file(file.path(), error))?;
        }
        if self.arguments.max_bad.is_reached(self.bad.all, self.lines) {
            return Err(self.too_many_bad());
        }
        Ok(())
    }

    /// Sends the last lines, unless too large a share of all lines is bad.
    async fn end(&mut self) -> Result<(), Failure> {
        let max = self.arguments.max_bad;
        if max.is_exceeded_at_end(self.bad.all, self.lines) {
            return Err(self.too_many_bad());
        }
        self.flush().await
    }

    /// Writes a message. The import continues if that fails.
    fn print(&mut self, what: &str) {
        let err = &mut self.streams.err;
        let _written = self.bar.suspend(|| writeln!(err, "{what}"));
    }
}
