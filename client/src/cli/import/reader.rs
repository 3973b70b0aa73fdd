//! Reads the input in a thread, so that a pipe that is silent stops neither sending nor Ctrl-C.

use super::lines::{Line, Lines};
use std::{io, thread};
use tokio::sync::mpsc;

/// The number of lines that wait to be sent. Each has a limited length.
const MAX_WAITING_LINES: usize = 64;

/// What was read.
#[derive(Debug)]
pub(super) enum Event {
    /// The header of a CSV file, as it is in the input.
    Header(Vec<u8>),
    Line(Line),
    Failed(io::Error),
    End,
}

/// Starts to read. The thread ends with the input or with the receiver. A read from a silent pipe cannot be
/// interrupted, so the thread is not joined.
pub(super) fn start(
    open: impl FnOnce() -> io::Result<Lines> + Send + 'static,
) -> io::Result<mpsc::Receiver<Event>> {
    let (events, received) = mpsc::channel(MAX_WAITING_LINES);
    let read = move || {
        let last = match read_all(open, &events) {
            Ok(()) => Event::End,
            Err(error) => Event::Failed(error),
        };
        // If this fails, the import has ended and expects nothing more.
        let _sent = events.blocking_send(last);
    };
    thread::Builder::new()
        .name("import".to_owned())
        .spawn(read)?;
    Ok(received)
}

fn read_all(
    open: impl FnOnce() -> io::Result<Lines>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let mut lines = open()?;
    let header = Event::Header(lines.header().to_vec());
    let mut is_wanted = events.blocking_send(header).is_ok();
    while is_wanted {
        match lines.next()? {
            Some(line) => is_wanted = events.blocking_send(Event::Line(line)).is_ok(),
            None => return Ok(()),
        }
    }
    Ok(())
}
