//! Lines as they come, from a thread that may wait for them for ever.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

use super::blocking;
use crate::clock::Clock;

/// Longest line in bytes. A reading takes at most 512 bytes; the rest is room for names, spaces and fields that are
/// not sold.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// Lines that may wait to be read: 4 MiB of the longest. Then the writer waits, as it would on any full pipe.
const LINES_AHEAD: usize = 256;

/// What a feed tells.
#[derive(Debug)]
pub(super) enum Fed {
    /// A line without its end.
    Line {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Which one, counted from 1.
        number: u64,
        /// When it was read, nanoseconds since the Unix epoch.
        arrived: i64,
    },
    /// A line longer than [`MAX_LINE`], passed over.
    TooLong {
        /// Which one.
        number: u64,
    },
    /// Reading failed; nothing follows.
    Failed(io::Error),
}

/// Reads `from` on a thread of its own. The channel closes at the end.
pub(super) fn start(name: &str, from: impl Read + Send + 'static, clock: &Clock) -> mpsc::Receiver<Fed> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    let clock = clock.clone();
    blocking::spawn(name, move || {
        let mut lines = Lines::new(from);
        let mut number: u64 = 0;
        loop {
            number = number.saturating_add(1);
            let mut bytes = Vec::new();
            let fed = match lines.read(&mut bytes) {
                Ok(Line::Whole) if bytes.trim_ascii().is_empty() => continue,
                Ok(Line::Whole) => Fed::Line { bytes, number, arrived: clock.now_ns() },
                Ok(Line::TooLong) => Fed::TooLong { number },
                Ok(Line::End) => return,
                Err(error) => Fed::Failed(error),
            };
            let is_last = matches!(fed, Fed::Failed(_));
            if sender.blocking_send(fed).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// What came of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole,
    /// Its beginning is there.
    TooLong,
    End,
}

/// Lines of bounded length.
pub(super) struct Lines<R>(BufReader<R>);

impl<R: Read> Lines<R> {
    pub(super) fn new(from: R) -> Self {
        Self(BufReader::new(from))
    }

    /// Reads the next line into `line`, which is to be empty; a last line need not end.
    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Line> {
        let mut is_too_long = false;
        let mut is_any = false;
        loop {
            let available = match self.0.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
            is_any |= !available.is_empty();
            let room = MAX_LINE.saturating_sub(line.len());
            is_too_long |= part.len() > room;
            line.extend_from_slice(part.get(..room).unwrap_or(part));
            let read = part.len().saturating_add(usize::from(end.is_some()));
            let is_done = end.is_some() || available.is_empty();
            self.0.consume(read);
            if is_done {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(match (is_any, is_too_long) {
                    (false, _) => Line::End,
                    (true, true) => Line::TooLong,
                    (true, false) => Line::Whole,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_out_whatever_their_ends_and_lengths() {
        let mut text = b"a\r\n\nb".to_vec();
        text.extend(vec![b'x'; 100 * MAX_LINE]);
        text.extend_from_slice(b"\nc\n");
        text.extend(vec![b'y'; MAX_LINE]);
        text.extend_from_slice(b"\nlast");
        let mut lines = Lines::new(&text[..]);
        let mut found = Vec::new();
        loop {
            let mut line = Vec::new();
            match lines.read(&mut line).unwrap() {
                Line::End => break,
                kind => found.push((kind, line.len())),
            }
            assert!(line.capacity() < 4 * MAX_LINE);
        }
        assert_eq!(
            found,
            [
                (Line::Whole, 1),
                (Line::Whole, 0),
                (Line::TooLong, MAX_LINE),
                (Line::Whole, 1),
                (Line::Whole, MAX_LINE),
                (Line::Whole, 4)
            ]
        );
    }
}
