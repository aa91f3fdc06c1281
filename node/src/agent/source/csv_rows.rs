//! Rows of a CSV file in bounded memory, whatever the file holds.
//!
//! A quote that is never closed makes the rest of a file one cell. The parser underneath writes into buffers that it
//! is given; here they have a largest size, and a row beyond it is read to its end and dropped.

use std::io::{self, Read};

use csv_core::{ReadRecordResult, ReaderBuilder};

/// Longest row, in bytes of its cells.
pub(super) const MAX_ROW: usize = 64 * 1024;

/// Most cells in one row.
pub(super) const MAX_CELLS: usize = 4096;

/// Bytes read from the file at once.
const INPUT: usize = 64 * 1024;

/// One row: its cells' bytes behind each other, without quotes and delimiters.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// The line on which it begins, counted from 1.
    pub(super) line: u64,
}

impl Row {
    /// How many cells it has.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of memory it takes, about.
    pub(super) fn size(&self) -> usize {
        self.bytes.len().saturating_add(self.ends.len().saturating_mul(size_of::<usize>()))
    }

    /// The cell at `index`, counted from 0.
    pub(super) fn cell(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start..end)
    }

    /// All cells.
    pub(super) fn cells(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|index| self.cell(index))
    }
}

/// What came of reading a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RowRead {
    /// A row.
    Row,
    /// A row that is longer than [`MAX_ROW`] or has more than [`MAX_CELLS`] cells; it is passed over.
    TooLong,
    /// There is none left.
    End,
}

/// Reads rows.
pub(super) struct Rows<R> {
    from: R,
    parser: csv_core::Reader,
    input: Vec<u8>,
    /// What of `input` is filled and not yet parsed.
    pending: std::ops::Range<usize>,
    /// Line breaks before `pending`.
    line_breaks: u64,
    output: Vec<u8>,
    ends: Vec<usize>,
}

impl<R: Read> Rows<R> {
    pub(super) fn new(from: R, delimiter: u8) -> Self {
        Self::with_sizes(from, delimiter, INPUT, MAX_ROW, MAX_CELLS)
    }

    /// For text of `length` bytes in all, with buffers no larger than it needs.
    pub(super) fn of_length(from: R, delimiter: u8, length: usize) -> Self {
        // Every byte may end a cell, and so may the end of the text.
        let cells = length.saturating_add(2).min(MAX_CELLS);
        Self::with_sizes(from, delimiter, length.clamp(1, INPUT), length.clamp(1, MAX_ROW), cells)
    }

    fn with_sizes(from: R, delimiter: u8, input: usize, row: usize, cells: usize) -> Self {
        Self {
            from,
            parser: ReaderBuilder::new().delimiter(delimiter).build(),
            input: vec![0; input],
            pending: 0..0,
            line_breaks: 0,
            output: vec![0; row],
            ends: vec![0; cells],
        }
    }

    /// Reads the next row into `row`. Empty lines are no rows.
    pub(super) fn read(&mut self, row: &mut Row) -> io::Result<RowRead> {
        self.skip_line_breaks()?;
        row.line = self.line_breaks.saturating_add(1);
        let (mut written, mut cells, mut too_long) = (0, 0, false);
        loop {
            if self.pending.is_empty() {
                self.fill()?;
            }
            let (result, read, bytes, ends) = self.parser.read_record(
                self.input.get(self.pending.clone()).unwrap_or_default(),
                self.output.get_mut(written..).unwrap_or_default(),
                self.ends.get_mut(cells..).unwrap_or_default(),
            );
            self.advance(read);
            written = written.saturating_add(bytes);
            cells = cells.saturating_add(ends);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    // The rest of it goes over what is there already.
                    too_long = true;
                    (written, cells) = (0, 0);
                }
                ReadRecordResult::Record if too_long => return Ok(RowRead::TooLong),
                ReadRecordResult::Record => {
                    row.bytes.clear();
                    row.bytes.extend_from_slice(self.output.get(..written).unwrap_or_default());
                    row.ends.clear();
                    row.ends.extend_from_slice(self.ends.get(..cells).unwrap_or_default());
                    return Ok(RowRead::Row);
                }
                ReadRecordResult::End => return Ok(RowRead::End),
            }
        }
    }

    /// Whether the next row may be had without waiting.
    pub(super) fn has_more_at_hand(&self) -> bool {
        let pending = self.input.get(self.pending.clone()).unwrap_or_default();
        // The second half of a line's end is no row.
        pending.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    fn skip_line_breaks(&mut self) -> io::Result<()> {
        loop {
            if self.pending.is_empty() {
                self.fill()?;
            }
            let pending = self.input.get(self.pending.clone()).unwrap_or_default();
            let breaks = pending.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let done = breaks < pending.len() || pending.is_empty();
            self.advance(breaks);
            if done {
                return Ok(());
            }
        }
    }

    fn advance(&mut self, read: usize) {
        let end = self.pending.start.saturating_add(read).min(self.pending.end);
        let parsed = self.input.get(self.pending.start..end).unwrap_or_default();
        let breaks = parsed.iter().filter(|byte| **byte == b'\n').count();
        self.line_breaks = self.line_breaks.saturating_add(u64::try_from(breaks).unwrap_or(u64::MAX));
        self.pending.start = end;
    }

    fn fill(&mut self) -> io::Result<()> {
        loop {
            match self.from.read(&mut self.input) {
                Ok(length) => {
                    self.pending = 0..length.min(self.input.len());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R> std::fmt::Debug for Rows<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("line_breaks", &self.line_breaks).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            match (self.0.split_first(), to.first_mut()) {
                (Some((byte, rest)), Some(to)) => {
                    *to = *byte;
                    self.0 = rest;
                    Ok(1)
                }
                _ => Ok(0),
            }
        }
    }

    fn all(from: impl Read) -> Vec<Result<(u64, Vec<String>), u64>> {
        let mut rows = Rows::new(from, b',');
        let mut row = Row::default();
        let mut found = Vec::new();
        loop {
            match rows.read(&mut row).unwrap() {
                RowRead::Row => {
                    let cells = row.cells().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
                    found.push(Ok((row.line, cells)));
                }
                RowRead::TooLong => found.push(Err(row.line)),
                RowRead::End => return found,
            }
        }
    }

    fn row(line: u64, cells: &[&str]) -> Result<(u64, Vec<String>), u64> {
        Ok((line, cells.iter().map(|cell| (*cell).to_owned()).collect()))
    }

    #[test]
    fn rows_know_their_line_however_lines_end() {
        let text = b"a,b\r\n\r\n\"x\ny\",\"say \"\"hi\"\"\"\n1,\n\n\n,2";
        let expected =
            [row(1, &["a", "b"]), row(3, &["x\ny", "say \"hi\""]), row(5, &["1", ""]), row(8, &["", "2"])];
        assert_eq!(all(&text[..]), expected);
        assert_eq!(all(Slow(text)), expected);
        assert_eq!(all(&b""[..]), []);
        assert_eq!(all(&b"\n\r\n"[..]), []);
        assert_eq!(all(&b"\xef\xbb\xbfa,b\n"[..]), [row(1, &["a", "b"])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_rows_or_passed_over(bytes in proptest::collection::vec(any::<u8>(), 0..600), slow in any::<bool>()) {
            let rows = if slow { all(Slow(&bytes)) } else { all(&bytes[..]) };
            let lines = bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
            prop_assert!(rows.len() <= lines + 1);
        }

        #[test]
        fn small_buffers_read_what_large_ones_read(text in "[a,\"\n ]{0,60}") {
            let mut found = Vec::new();
            for small in [true, false] {
                let bytes = text.as_bytes();
                let mut rows =
                    if small { Rows::of_length(bytes, b',', bytes.len()) } else { Rows::new(bytes, b',') };
                let mut row = Row::default();
                let read = rows.read(&mut row).unwrap();
                found.push((read, row.cells().map(<[u8]>::to_vec).collect::<Vec<_>>()));
            }
            prop_assert_eq!(&found[0], &found[1]);
        }
    }

    #[test]
    fn rows_beyond_the_bounds_are_passed_over() {
        let mut text = b"a\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 10 * MAX_ROW));
        text.extend_from_slice(b"\nb\n");
        text.extend(std::iter::repeat_n(b',', 3 * MAX_CELLS));
        text.extend_from_slice(b"\nc\n\"never closed\n");
        text.extend(std::iter::repeat_n(b'\n', 10 * MAX_ROW));
        let expected = [row(1, &["a"]), Err(2), row(3, &["b"]), Err(4), row(5, &["c"]), Err(6)];
        assert_eq!(all(&text[..]), expected);
        assert_eq!(all(&vec![b'x'; MAX_ROW - 1][..]).len(), 1);
    }
}
