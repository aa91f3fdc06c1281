//! What can be wrong with a source as a whole, and with one of its rows.

use std::io;
use std::path::PathBuf;

use sensora_protocol::stream::{Kind, ReadingError, SchemaError};

use super::time_format::TimeError;

/// A source that cannot be opened or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// An option has a value that cannot be.
    #[error("source option `{option}`: `{value}` is not possible; it is {expected}")]
    Option {
        /// The option, as in the configuration.
        option: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The operating system refused.
    #[error("cannot {action} {what}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// There is not one row.
    #[error("{what} has no rows: there is nothing to sell")]
    Empty {
        /// The source.
        what: String,
    },
    /// The file is binary, or text in an encoding that is not read.
    #[error("{what} is not text in UTF-8: export it as CSV in UTF-8")]
    NotText {
        /// The source.
        what: String,
    },
    /// A column was named that is not there.
    #[error("{what} has no column `{column}`{}: it has {available}", did_you_mean(nearest.as_deref()))]
    UnknownColumn {
        /// The source.
        what: String,
        /// The column that was asked for.
        column: String,
        /// The one that looks most like it.
        nearest: Option<String>,
        /// All there are (as far as they fit in one line).
        available: String,
    },
    /// No column of numbers was found.
    #[error(
        "{what} has no column of numbers: name its columns with `columns`, e.g. [\"note:text\"]; it has {available}"
    )]
    NoColumns {
        /// The source.
        what: String,
        /// All there are.
        available: String,
    },
    /// No column of times was found.
    #[error(
        "{what}: no column of times was recognised: name it with `time` and its format with `time_format`; it has {available}"
    )]
    NoTime {
        /// The source.
        what: String,
        /// All there are.
        available: String,
    },
    /// The columns that were found or named make no schema.
    #[error("{what}: {source}; choose with `columns`")]
    Schema {
        /// The source.
        what: String,
        /// Which rule is broken.
        source: SchemaError,
    },
    /// The first time cannot be read.
    #[error("{what}: the times are not understood: {source}")]
    Time {
        /// The source.
        what: String,
        /// Why not.
        source: TimeError,
    },
    /// Another recording stands where one was half recorded.
    #[error("{} is another recording than the one whose readings are kept already: give this one a name of its own, or put the old file back", path.display())]
    OtherRecording {
        /// The file.
        path: PathBuf,
    },
    /// The recording has become shorter than what is kept of it.
    #[error("{} has {found} sound rows, but {recorded} are recorded already: rows were taken out of it", path.display())]
    Shortened {
        /// The file.
        path: PathBuf,
        /// Sound rows in it now.
        found: u64,
        /// Readings kept of it.
        recorded: u64,
    },
    /// A row is bad and bad rows stop the source.
    #[error("{what}, {row}: mend the row, or pass over such rows with `bad_rows = \"skip\"`")]
    BadRow {
        /// The source.
        what: String,
        /// Which row, and what is wrong with it.
        row: RowError,
    },
    /// Not one of the first rows can be read.
    #[error("not one of the first rows of {what} can be read; {row}")]
    NoSoundRow {
        /// The source.
        what: String,
        /// The first row, and what is wrong with it.
        row: RowError,
    },
    /// The program cannot be started.
    #[error("cannot start `{command}`: {source}")]
    Spawn {
        /// The program and its arguments.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// No line came in time from which the fields could be learnt.
    #[error(
        "{what} printed no line within {seconds} s: say which `fields` it has, or find out why it is silent"
    )]
    Silent {
        /// The source.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The program ended before its first line.
    #[error("`{command}` ended ({status}) without printing a line: run it by hand to see why")]
    EndedSilent {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: String,
    },
    /// The first line does not tell which fields there are.
    #[error("{what}: the first line does not tell its fields ({row}): say which `fields` it has")]
    FirstLine {
        /// The source.
        what: String,
        /// What is wrong with it.
        row: RowError,
    },
    /// The machine shows none of the sensors that were asked for.
    #[error("this machine shows none of the sensors that were chosen")]
    NoSensors,
    /// The thread that reads the source is gone.
    #[error("the reader of {what} ended unexpectedly")]
    Reader {
        /// The source.
        what: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
}

/// One row that cannot become a reading.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}{}: {problem}", in_column(column.as_deref()))]
pub struct RowError {
    /// Its first line, counted from 1.
    pub line: u64,
    /// The column, where one is to blame.
    pub column: Option<String>,
    /// What is wrong.
    pub problem: RowProblem,
}

fn in_column(column: Option<&str>) -> String {
    column.map(|column| format!(", column `{column}`")).unwrap_or_default()
}

/// What is wrong with a row. The beginning of the offending text is quoted with its control characters escaped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// Too many bytes.
    #[error("longer than {max} bytes (a quote that is not closed?)")]
    TooLong {
        /// The most.
        max: usize,
    },
    /// Not as many cells as there are columns.
    #[error("{found} cells where there are {expected} columns")]
    CellCount {
        /// Columns.
        expected: usize,
        /// Cells.
        found: usize,
    },
    /// Not UTF-8.
    #[error("not text in UTF-8")]
    NotText,
    /// Neither a JSON object nor a JSON array.
    #[error("not a JSON object or array ({detail})")]
    Json {
        /// What the parser says.
        detail: String,
    },
    /// Nothing in it is a field of the stream.
    #[error("none of the stream's fields is in it")]
    NoField,
    /// A named time is not there.
    #[error("there is no time")]
    NoTime,
    /// The time cannot be read.
    #[error(transparent)]
    Time(TimeError),
    /// The value is not of the field's kind.
    #[error("`{text}` is not {}", article(*kind))]
    Value {
        /// The beginning of the value.
        text: String,
        /// What it should be.
        kind: Kind,
    },
    /// Not a number, or infinite.
    #[error("`{text}` is not a finite number; list it in `null` if it stands for \"no value\"")]
    NotFinite {
        /// The beginning of the value.
        text: String,
    },
    /// The reading breaks a rule of its stream.
    #[error(transparent)]
    Reading(ReadingError),
}

const fn article(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "a number",
        Kind::Int => "a whole number of 64 bits",
        Kind::Bool => "true or false",
        Kind::Text => "text",
    }
}

/// The beginning of `text` for an error: short, and unable to write to a terminal what it should not.
pub(super) fn quote(text: &str) -> String {
    quote_up_to(text, 40)
}

/// The first `most` characters of `text`, escaped.
fn quote_up_to(text: &str, most: usize) -> String {
    let mut quoted: String = text.chars().take(most).flat_map(char::escape_debug).collect();
    if text.chars().nth(most).is_some() {
        quoted.push('…');
    }
    quoted
}

/// As [`quote`], for a whole line of which nothing is known.
pub(super) fn quote_line(bytes: &[u8]) -> String {
    const MOST: usize = 400;
    let beginning = bytes.get(..MOST).unwrap_or(bytes);
    quote_up_to(&String::from_utf8_lossy(beginning), MOST)
}
