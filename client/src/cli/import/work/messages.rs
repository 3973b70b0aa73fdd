//! What an import says at its end: the summary, what it left, and how to go on.

use super::Work;
use crate::{
    Error,
    cli::{exit::Failure, output::grouped},
};
use std::io;

impl Work<'_, '_> {
    pub(super) fn where_bad_lines_are(&self) -> String {
        match &self.bad_file {
            Some(file) => format!("; the bad lines are in {}", file.path().display()),
            None => "; --bad-file copies bad lines to a file".to_owned(),
        }
    }

    /// The number of lines that were counted.
    pub(super) fn counted(&self) -> String {
        let is_dry_run = self.arguments.dry_run;
        grouped(if is_dry_run { 0 } else { self.tally.counted })
    }

    /// How to go on after an end before the last line.
    pub(super) fn how_to_go_on(&self) -> String {
        let what = match (&self.progress, self.keys.is_some()) {
            _ if self.arguments.dry_run => {
                return "Nothing was counted: this was a dry run.".to_owned();
            }
            (Some(_), _) => "Import the file again with the same options to continue",
            (None, true) => {
                "Import the same input again with the same options and --name to continue"
            }
            (None, false) => "Import the same input again with the same options to continue",
        };
        format!("{what}; nothing is counted twice.")
    }

    /// The end by --max-bad.
    pub(super) fn too_many_bad(&self) -> Failure {
        Failure::Partial(format!(
            "stopped because {} of {} lines were bad, see --max-bad{}. {} lines were counted. Fix the bad lines. {}",
            self.bad.all,
            self.lines,
            self.where_bad_lines_are(),
            self.counted(),
            self.how_to_go_on()
        ))
    }

    pub(super) fn call_failed(&self, error: Error) -> Failure {
        let first = if error.is_retryable() {
            ""
        } else {
            "Fix this. "
        };
        let advice = format!(
            "{} lines were counted. {first}{}",
            self.counted(),
            self.how_to_go_on()
        );
        Failure::Call(error, Some(advice))
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> Failure {
        let path = &self.arguments.file;
        if self.lines == 0 {
            return Failure::file(path, error);
        }
        let why = format!(
            "{error}, after line {}; {} lines were counted. Fix this. {}",
            self.read.line,
            self.counted(),
            self.how_to_go_on()
        );
        Failure::file(path, why)
    }

    /// The end by a signal, with lines that were sent and not answered.
    pub(super) fn stopped(&self, code: u8, unanswered: usize) -> Failure {
        let sent = if unanswered == 0 || self.arguments.dry_run {
            String::new()
        } else {
            let last = self.read.line;
            format!(
                " {unanswered} more, up to line {last}, were sent without an answer and may be counted as well."
            )
        };
        let message = format!(
            "stopped after line {}: {} lines were counted.{sent} {}",
            self.finished,
            self.counted(),
            self.how_to_go_on()
        );
        Failure::Stopped(message, code)
    }

    pub(super) fn print_summary(&mut self) -> Result<(), Failure> {
        let Self { tally, bad, .. } = self;
        let verb = if self.arguments.dry_run {
            "lines would be counted"
        } else {
            "lines counted"
        };
        let summary = format!(
            "{} {verb} ({} units), {} had been counted before, {} bad\n{}",
            grouped(tally.counted),
            grouped(tally.units),
            grouped(tally.duplicates),
            bad.all,
            bad.by_cause()
        );
        Ok(write!(self.streams.out, "{summary}")?)
    }
}
