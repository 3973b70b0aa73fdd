//! The physical lines of the input: each ends with a line feed, whatever it contains.
//!
//! Lines can be looked at before they are taken, so that reading goes on after the first line of a record that turns
//! out to be bad. What is kept is limited, however long a line is.

use crc32fast::Hasher;
use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read},
};

/// The longest line, and the longest record of several lines.
pub(super) const MAX_LINE_BYTES: usize = 64 * 1024;

/// A position between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The offset of the next line in bytes, after decompression.
    pub(super) offset: u64,
    /// The number of lines before it.
    pub(super) line: u64,
    /// The checksum of everything before it.
    pub(super) crc32: u32,
}

#[derive(Debug)]
pub(super) struct PhysicalLine {
    /// The line with its line break; only the start of a line that is too long.
    pub(super) bytes: Vec<u8>,
    /// The length of the whole line.
    pub(super) length: u64,
    /// The checksum of the part that is not kept.
    rest: Hasher,
}

impl PhysicalLine {
    pub(super) fn is_too_long(&self) -> bool {
        usize::try_from(self.length).map_or(true, |length| length > MAX_LINE_BYTES)
    }

    pub(super) fn is_blank(&self) -> bool {
        !self.is_too_long() && self.bytes.trim_ascii().is_empty()
    }
}

pub(super) struct PhysicalLines {
    reader: BufReader<Box<dyn Read + Send>>,
    /// Lines that were looked at and not taken.
    pending: VecDeque<PhysicalLine>,
    offset: u64,
    line: u64,
    hasher: Hasher,
}

impl PhysicalLines {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self {
            reader: BufReader::with_capacity(MAX_LINE_BYTES, input),
            pending: VecDeque::new(),
            offset: 0,
            line: 0,
            hasher: Hasher::new(),
        }
    }

    /// The position before the next line.
    pub(super) fn place(&self) -> Place {
        Place {
            offset: self.offset,
            line: self.line,
            crc32: self.hasher.clone().finalize(),
        }
    }

    /// The line after `ahead` others, without taking it. The caller limits how far it looks ahead.
    pub(super) fn peek(&mut self, ahead: usize) -> io::Result<Option<&PhysicalLine>> {
        while self.pending.len() <= ahead {
            match read_line(&mut self.reader)? {
                Some(line) => self.pending.push_back(line),
                None => return Ok(None),
            }
        }
        Ok(self.pending.get(ahead))
    }

    /// Takes the next line, if there is one.
    pub(super) fn take(&mut self) -> io::Result<Option<PhysicalLine>> {
        self.peek(0)?;
        let Some(line) = self.pending.pop_front() else {
            return Ok(None);
        };
        self.offset = self.offset.saturating_add(line.length);
        self.line = self.line.saturating_add(1);
        self.hasher.update(&line.bytes);
        if line.is_too_long() {
            self.hasher.combine(&line.rest);
        }
        Ok(Some(line))
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<PhysicalLine>> {
    let (mut bytes, mut length, mut rest) = (Vec::new(), 0_u64, Hasher::new());
    loop {
        let available = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        let end = available.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(available.len(), |end| end.saturating_add(1));
        let part = available.get(..count).unwrap_or_default();
        let free = MAX_LINE_BYTES.saturating_sub(bytes.len());
        let (kept, others) = part.split_at_checked(free).unwrap_or((part, &[]));
        bytes.extend_from_slice(kept);
        rest.update(others);
        length = length.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        reader.consume(count);
        if end.is_some() || count == 0 {
            let line = PhysicalLine {
                bytes,
                length,
                rest,
            };
            return Ok((line.length > 0).then_some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> PhysicalLines {
        PhysicalLines::new(Box::new(io::Cursor::new(text.to_owned().into_bytes())))
    }

    #[test]
    fn lines_are_looked_at_and_then_taken() {
        let mut lines = lines("a\n\nb");
        assert_eq!(lines.peek(2).unwrap().unwrap().bytes, b"b");
        assert!(lines.peek(3).unwrap().is_none());
        assert_eq!(lines.place(), Place::default());
        for (text, offset) in [("a\n", 2), ("\n", 3), ("b", 4)] {
            assert_eq!(lines.take().unwrap().unwrap().bytes, text.as_bytes());
            assert_eq!(lines.place().offset, offset);
        }
        assert!(lines.take().unwrap().is_none());
        let whole = crc32fast::hash(b"a\n\nb");
        assert_eq!((lines.place().line, lines.place().crc32), (3, whole));
    }

    #[test]
    fn only_the_start_of_a_long_line_is_kept() {
        for (length, is_too_long) in [
            (MAX_LINE_BYTES - 1, false),
            (MAX_LINE_BYTES, true),
            (5 * MAX_LINE_BYTES, true),
        ] {
            let text = format!("{}\nb\n", "x".repeat(length));
            let mut lines = lines(&text);
            let line = lines.take().unwrap().unwrap();
            assert_eq!(line.is_too_long(), is_too_long);
            assert_eq!(line.bytes.len(), MAX_LINE_BYTES.min(length + 1));
            assert_eq!(lines.take().unwrap().unwrap().bytes, b"b\n");
            assert_eq!(lines.place().crc32, crc32fast::hash(text.as_bytes()));
        }
    }
}
