//! A recording in a CSV file, or CSV on standard input, as one stream.
//!
//! The file is read as a stream: its size does not matter, and what it may make the reader keep is bounded. Rows
//! keep the file's order, also where its times repeat or step back; the order of a log is not its times'.
//!
//! A restart goes on behind the last recorded row: the source passes over as many sound rows as are recorded, having
//! checked by a [`Fingerprint`] that the file still begins as it did. A file may grow meanwhile. On standard input, and
//! on a pipe, nothing can be read again, so all that comes is new.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::columns::{ColumnRef, ColumnSpec, kinds, serde_as_text};
use super::csv_layout::{Layout, SAMPLE_ROWS, Sampled};
use super::csv_rows::{MAX_ROW, Row, RowRead, Rows};
use super::error::{RowError, RowProblem, SourceError};
use super::replay::{Pacer, Replay};
use super::rows::{BadRows, Gate, RowCounter, default_null};
use super::time_format::{TimeFormat, Zone};
use super::{BATCHES_AHEAD, MAX_BATCH, RawBatch, RawReading, StreamSpec, blocking};
use crate::clock::Clock;

/// How a CSV file is read. All but the path can be left to its defaults for a file with a header, one column of
/// times and columns of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvSpec {
    /// The file; `-` is standard input.
    pub path: PathBuf,
    /// What stands between two cells: `auto` (the most frequent of `,` `;` tab `|` in the first line), `tab`, or the
    /// character itself.
    #[serde(default)]
    pub delimiter: Delimiter,
    /// Whether the first row names the columns.
    #[serde(default)]
    pub header: Header,
    /// The column of times; found by name and look where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<ColumnRef>,
    /// How times are written.
    #[serde(default)]
    pub time_format: TimeFormat,
    /// The zone of times written without an offset. UTC unless given: the file does not say, and guessing the
    /// machine's zone would give the same file other times on another machine.
    #[serde(default)]
    pub zone: Zone,
    /// The columns to sell; where none are given, all whose first 1,000 rows are numbers (nine in ten at least), as
    /// `float`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnSpec>,
    /// Texts that stand for "no value", besides an empty cell.
    #[serde(default = "default_null")]
    pub null: Vec<String>,
    /// The pace.
    #[serde(default)]
    pub replay: Replay,
    /// What a bad row does.
    #[serde(default)]
    pub bad_rows: BadRows,
}

impl CsvSpec {
    /// All defaults for the file at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            delimiter: Delimiter::default(),
            header: Header::default(),
            time: None,
            time_format: TimeFormat::default(),
            zone: Zone::default(),
            columns: Vec::new(),
            null: default_null(),
            replay: Replay::default(),
            bad_rows: BadRows::default(),
        }
    }

    pub(super) fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }

    pub(super) fn validate(&self) -> Result<(), SourceError> {
        if self.path.as_os_str().is_empty() {
            return Err(SourceError::Option {
                option: "path",
                value: String::new(),
                expected: "the path of a CSV file, or - for standard input",
            });
        }
        Ok(())
    }

    fn what(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.path.display().to_string() }
    }
}

/// Whether the first row of a CSV file names its columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Header {
    /// It does unless one of its cells is a number or a time.
    #[default]
    Auto,
    /// It does.
    Yes,
    /// It is a reading; columns are named `#1`, `#2`, …
    No,
}

/// What stands between two cells: `auto`, `tab` or one ASCII character.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Delimiter(Option<u8>);

/// A text that is no delimiter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no delimiter: it is auto, tab, or one ASCII character such as , or ;")]
pub struct UnknownDelimiter(String);

impl FromStr for Delimiter {
    type Err = UnknownDelimiter;

    fn from_str(text: &str) -> Result<Self, UnknownDelimiter> {
        match (text, text.as_bytes()) {
            ("auto", _) => Ok(Self(None)),
            ("tab", _) => Ok(Self(Some(b'\t'))),
            (_, [byte]) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(Self(Some(*byte))),
            _ => Err(UnknownDelimiter(super::error::quote(text))),
        }
    }
}

impl fmt::Display for Delimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("auto"),
            Some(b'\t') => f.write_str("tab"),
            Some(byte) => write!(f, "{}", char::from(byte)),
        }
    }
}

serde_as_text!(Delimiter, UnknownDelimiter);

impl Delimiter {
    pub(super) fn or_look_at(self, beginning: &[u8]) -> u8 {
        self.0.unwrap_or_else(|| {
            let line =
                beginning.split(|byte| *byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
            let count = |delimiter: u8| line.iter().filter(|byte| **byte == delimiter).count();
            // The last of several that are as frequent wins, so the most usual stands last.
            *[b'|', b'\t', b';', b','].iter().max_by_key(|delimiter| count(**delimiter)).unwrap_or(&b',')
        })
    }
}

/// What a recording begins with, to tell it from another one: `BYTES:SHA256`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint {
    /// So many of its first bytes: 64 KiB, or all there were when it was first opened.
    bytes: u64,
    /// Their SHA-256.
    sha256: [u8; 32],
}

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no fingerprint of a recording")]
pub struct BadFingerprint(String);

impl Fingerprint {
    /// Most bytes that are looked at.
    const MOST: u64 = 64 * 1024;

    /// Of the first `bytes` bytes; of fewer where there are fewer.
    fn of(from: &mut impl Read, bytes: u64) -> io::Result<Self> {
        let mut beginning = Vec::new();
        from.take(bytes.min(Self::MOST)).read_to_end(&mut beginning)?;
        let bytes = u64::try_from(beginning.len()).unwrap_or(u64::MAX);
        Ok(Self { bytes, sha256: Sha256::digest(&beginning).into() })
    }
}

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        let parse = || {
            let (bytes, sha256) = text.split_once(':')?;
            Some(Self { bytes: bytes.parse().ok()?, sha256: hex::decode(sha256).ok()?.try_into().ok()? })
        };
        parse().ok_or_else(|| BadFingerprint(super::error::quote(text)))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bytes, hex::encode(self.sha256))
    }
}

serde_as_text!(Fingerprint, BadFingerprint);

/// What the reading thread tells.
enum Message {
    Readings(Vec<RawReading>),
    End,
    Failed(SourceError),
}

/// An open CSV source.
#[derive(Debug)]
pub(super) struct CsvSource {
    path: PathBuf,
    what: String,
    is_file: bool,
    skip: u64,
    pacer: Pacer,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Opened, its first rows read.
    Opened(Box<Reader>),
    Reading(mpsc::Receiver<Message>),
    Ended,
}

/// Everything the thread needs.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    rows: Rows<Box<dyn Read + Send>>,
    sample: Vec<Sampled>,
    layout: Layout,
    gate: Gate,
    /// Give out rows as they come instead of in full batches.
    is_live: bool,
}

impl CsvSource {
    pub(super) async fn open(
        spec: &CsvSpec,
        name: String,
        clock: &Clock,
        counter: &Arc<RowCounter>,
    ) -> Result<(StreamSpec, Self), SourceError> {
        let what = spec.what();
        let (spec, clock, counter, asked) = (spec.clone(), clock.clone(), Arc::clone(counter), what.clone());
        blocking::run("csv-open", move || open(&spec, name, &clock, &counter))
            .await
            .unwrap_or(Err(SourceError::Reader { what: asked }))
    }

    pub(super) fn resume(&mut self, recorded: u64, kept: Option<&Fingerprint>) -> Result<(), SourceError> {
        if !self.is_file {
            return Ok(());
        }
        if let Some(kept) = kept.filter(|_| recorded > 0) {
            let io = |source| SourceError::Io { action: "read", what: self.what.clone(), source };
            let mut file = File::open(&self.path).map_err(io)?;
            if Fingerprint::of(&mut file, kept.bytes).map_err(io)? != *kept {
                return Err(SourceError::OtherRecording { path: self.path.clone() });
            }
        }
        self.skip = recorded;
        Ok(())
    }

    pub(super) async fn next(&mut self) -> Result<Option<RawBatch>, SourceError> {
        loop {
            if let Some(batch) = self.pacer.next().await {
                return Ok(Some(batch));
            }
            let receiver = match &mut self.state {
                State::Ended => return Ok(None),
                State::Reading(receiver) => receiver,
                State::Opened(_) => {
                    self.start();
                    continue;
                }
            };
            match receiver.recv().await {
                Some(Message::Readings(readings)) => {
                    self.pacer.push(readings.into_iter().map(|reading| (0, reading)));
                }
                Some(Message::End) => self.state = State::Ended,
                Some(Message::Failed(error)) => {
                    self.state = State::Ended;
                    return Err(error);
                }
                None => {
                    self.state = State::Ended;
                    return Err(SourceError::Reader { what: self.what.clone() });
                }
            }
        }
    }

    fn start(&mut self) {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        if let State::Opened(reader) = std::mem::replace(&mut self.state, State::Reading(receiver)) {
            let skip = self.skip;
            blocking::spawn("csv-read", move || {
                let last = match reader.run(skip, &sender) {
                    Ok(()) => Message::End,
                    Err(error) => Message::Failed(error),
                };
                // Nobody listens any more where the source was dropped.
                sender.blocking_send(last).ok();
            });
        }
    }
}

fn open(
    spec: &CsvSpec,
    name: String,
    clock: &Clock,
    counter: &Arc<RowCounter>,
) -> Result<(StreamSpec, CsvSource), SourceError> {
    let what = spec.what();
    let io = |action| {
        let what = what.clone();
        move |source| SourceError::Io { action, what, source }
    };
    let (mut from, fingerprint): (Box<dyn Read + Send>, _) = if spec.is_stdin() {
        (Box::new(io::stdin()), None)
    } else {
        let mut file = File::open(&spec.path).map_err(io("open"))?;
        let metadata = file.metadata().map_err(io("read"))?;
        if metadata.is_dir() {
            return Err(io("read")(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let fingerprint = if metadata.is_file() {
            let fingerprint = Fingerprint::of(&mut file, Fingerprint::MOST).map_err(io("read"))?;
            file.rewind().map_err(io("read"))?;
            Some(fingerprint)
        } else {
            None
        };
        (Box::new(file), fingerprint)
    };

    let beginning = first_line(&mut from).map_err(io("read"))?;
    if beginning.contains(&0) {
        return Err(SourceError::NotText { what });
    }
    let delimiter = spec.delimiter.or_look_at(&beginning);
    let mut rows = Rows::new(Box::new(Cursor::new(beginning).chain(from)) as Box<dyn Read + Send>, delimiter);
    // Without anything to guess, a live feed is not waited for longer than it takes to see its first rows.
    let is_told = !spec.columns.is_empty() && spec.columns.iter().all(|column| column.kind.is_some());
    let sample = sample(&mut rows, if is_told { 2 } else { SAMPLE_ROWS }).map_err(io("read"))?;
    let (layout, schema, sample) = Layout::learn(&what, spec, sample)?;

    let is_file = fingerprint.is_some();
    if let Some(row) = layout.complaint(&sample).filter(|_| is_file) {
        return Err(SourceError::NoSoundRow { what, row });
    }
    let stream = StreamSpec {
        name,
        kinds: kinds(&schema),
        cadence: layout.cadence(&sample),
        schema: schema.clone(),
        fingerprint,
    };
    let gate = Gate::new(what.clone(), schema, spec.bad_rows, clock, counter);
    let reader = Reader { path: spec.path.clone(), rows, sample, layout, gate, is_live: !is_file };
    let source = CsvSource {
        path: spec.path.clone(),
        what,
        is_file,
        skip: 0,
        pacer: Pacer::new(spec.replay),
        state: State::Opened(Box::new(reader)),
    };
    Ok((stream, source))
}

/// The beginning of the text up to its first line's end at least, but not more than a row may have.
fn first_line(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut beginning = vec![0; MAX_ROW];
    let mut filled = 0;
    while let Some(rest) = beginning.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(length) => {
                let has_line = rest.get(..length).is_some_and(|read| read.contains(&b'\n'));
                filled = filled.saturating_add(length);
                if has_line {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    beginning.truncate(filled);
    Ok(beginning)
}

/// The first rows.
fn sample(rows: &mut Rows<Box<dyn Read + Send>>, most: usize) -> io::Result<Vec<Sampled>> {
    /// Bytes of them that are kept at most.
    const MOST_BYTES: usize = 4 * 1024 * 1024;
    let mut sample = Vec::new();
    let mut bytes = 0_usize;
    while sample.len() < most && bytes < MOST_BYTES {
        let mut row = Row::default();
        match rows.read(&mut row)? {
            RowRead::Row => {
                bytes = bytes.saturating_add(row.size());
                sample.push(Sampled::Row(row));
            }
            RowRead::TooLong => sample.push(Sampled::TooLong(row.line)),
            RowRead::End => break,
        }
    }
    Ok(sample)
}

impl Reader {
    /// Reads to the end, passing over the first `skip` sound rows.
    fn run(mut self, skip: u64, sender: &mpsc::Sender<Message>) -> Result<(), SourceError> {
        let mut to_skip = skip;
        let mut batch = Vec::new();
        let mut row = Row::default();
        let mut sample = std::mem::take(&mut self.sample).into_iter();
        loop {
            let is_sound = match sample.next() {
                Some(Sampled::Row(sampled)) => {
                    row = sampled;
                    true
                }
                Some(Sampled::TooLong(line)) => {
                    row.line = line;
                    false
                }
                None => match self.rows.read(&mut row) {
                    Ok(RowRead::Row) => true,
                    Ok(RowRead::TooLong) => false,
                    Ok(RowRead::End) => break,
                    Err(source) => {
                        // What came before the failure stands.
                        send(sender, &mut batch);
                        let what = self.gate.what().to_owned();
                        return Err(SourceError::Io { action: "read", what, source });
                    }
                },
            };
            let read = if is_sound {
                self.layout.read(&row)
            } else {
                Err(RowError { line: row.line, column: None, problem: RowProblem::TooLong { max: MAX_ROW } })
            };
            match self.gate.admit(read, row.line) {
                Ok(None) => {}
                Ok(Some(_)) if to_skip > 0 => to_skip = to_skip.saturating_sub(1),
                Ok(Some(reading)) => batch.push(reading),
                Err(error) => {
                    send(sender, &mut batch);
                    return Err(error);
                }
            }
            let is_due = batch.len() >= MAX_BATCH || self.is_live && !self.rows.has_more_at_hand();
            if is_due && !send(sender, &mut batch) {
                return Ok(());
            }
        }
        send(sender, &mut batch);
        if to_skip > 0 {
            let found = skip.saturating_sub(to_skip);
            return Err(SourceError::Shortened { path: self.path, found, recorded: skip });
        }
        Ok(())
    }
}

/// Hands over what there is; `false` where nobody wants it any more.
fn send(sender: &mpsc::Sender<Message>, batch: &mut Vec<RawReading>) -> bool {
    batch.is_empty() || sender.blocking_send(Message::Readings(std::mem::take(batch))).is_ok()
}
