//! Reads the input in a thread, so that a pipe that is silent stops neither sending nor Ctrl-C.

use super::lines::{Line, Lines};
use std::{
    io::{self, Read},
    thread,
};
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

/// Fails reads once the import has ended. Otherwise a line without an end would be read for ever.
pub(super) struct Wanted(mpsc::Sender<Event>);

impl Wanted {
    /// The input, for as long as the import runs.
    pub(super) fn limit(self, input: Box<dyn Read + Send>) -> Box<dyn Read + Send> {
        Box::new(Limited {
            input,
            wanted: self,
        })
    }
}

struct Limited {
    input: Box<dyn Read + Send>,
    wanted: Wanted,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wanted.0.is_closed() {
            return Err(io::Error::other("the import has ended"));
        }
        self.input.read(buffer)
    }
}

/// Starts to read. The thread ends with the input or with the receiver. A read from a silent pipe cannot be
/// interrupted, so the thread is not joined.
pub(super) fn start(
    open: impl FnOnce(Wanted) -> io::Result<Lines> + Send + 'static,
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
    open: impl FnOnce(Wanted) -> io::Result<Lines>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let mut lines = open(Wanted(events.clone()))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::{columns::Columns, lines::Rules};
    use std::time::Duration;

    /// An input without an end. Its channel closes when the input is no longer held.
    struct Endless(#[expect(dead_code, reason = "it is only held")] std::sync::mpsc::Sender<()>);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }

    #[test]
    fn a_line_without_an_end_is_no_longer_read_after_the_import() {
        let (held, dropped) = std::sync::mpsc::channel();
        let open = move |wanted: Wanted| {
            let rules = Rules {
                format: None,
                columns: Columns::new(&[], false, true).unwrap(),
                zone: None,
            };
            Lines::open(wanted.limit(Box::new(Endless(held))), rules)
        };
        let received = start(open).unwrap();
        drop(received);
        let ended = dropped.recv_timeout(Duration::from_secs(30));
        assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
