//! Stores how far an import came, and continues there.

use super::{MAX_REFUSED_IN_PROGRESS, Work};
use crate::cli::{exit::Failure, import::batch::Tally};
use std::{io, thread};
use tokio::sync::oneshot;

impl Work<'_, '_> {
    /// Continues an earlier import, if there was one.
    pub(super) async fn resume(&mut self) -> Result<(), Failure> {
        let Some(progress) = &self.progress else {
            return Ok(());
        };
        // A large file takes a while to compare.
        let (sender, receiver) = oneshot::channel();
        let reading = progress.clone();
        let path = progress.path();
        thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || sender.send(reading.read()))
            .map_err(|error| Failure::file(path, error))?;
        let read = tokio::select! {
            biased;
            code = &mut self.streams.stop => {
                let why = format!("stopped before the first line. {}", self.how_to_go_on());
                return Err(Failure::Stopped(why, code));
            }
            read = receiver => read,
        };
        let read = read.unwrap_or_else(|_| Err(io::Error::other("reading stopped unexpectedly")));
        let (line, tally, note) = read.map_err(|error| Failure::file(progress.path(), error))?;
        self.refused_before = tally.refused.iter().copied().collect();
        self.tally = Tally {
            refused: Vec::new(),
            ..tally
        };
        (self.skipped, self.finished) = (line, line);
        if let Some(note) = note {
            self.print(&note);
        }
        Ok(())
    }

    /// Stores the progress. The import continues without it, because the progress only saves time.
    pub(super) fn store_progress(&mut self) {
        let Some(progress) = &self.progress else {
            return;
        };
        // Lines that were refused before and are not sent again yet are not finished.
        if self.tally.refused.len() > MAX_REFUSED_IN_PROGRESS || self.read.line < self.skipped {
            return;
        }
        if let Err(error) = progress.write(self.read, &self.tally) {
            let path = progress.path().display();
            let note = format!(
                "{path}: {error}; if this import is interrupted, the next one sends everything again and counts it once"
            );
            self.print(&note);
        }
    }

    pub(super) fn remove_progress(&mut self) {
        if let Some(progress) = &self.progress
            && let Err(error) = progress.remove()
        {
            let path = progress.path().display();
            let note = format!("{path}: {error}; the file can be deleted");
            self.print(&note);
        }
    }
}
