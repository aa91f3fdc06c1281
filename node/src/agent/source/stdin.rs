//! Lines on standard input, as one stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::columns::{ColumnRef, ColumnSpec, kinds};
use super::csv::Delimiter;
use super::error::{RowError, RowProblem, SourceError};
use super::json_line::{LineFormat, LineParser, LineSpec};
use super::line_feed::{self, Fed, MAX_LINE};
use super::rows::{BadRows, Gate, RowCounter, default_null};
use super::time_format::{TimeFormat, Zone};
use super::{MAX_BATCH, RawBatch, RawReading, StreamSpec};
use crate::clock::Clock;

/// How long a source whose fields are not configured may take to its first line.
pub(super) const FIRST_LINE: Duration = Duration::from_secs(30);

/// How lines on standard input are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinSpec {
    /// What a line is.
    #[serde(default)]
    pub format: LineFormat,
    /// What stands between the cells of a CSV line.
    #[serde(default)]
    pub delimiter: Delimiter,
    /// The fields of the stream; learnt from the first line where none are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<ColumnSpec>,
    /// The field or cell with the time; the time of arrival where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<ColumnRef>,
    /// How times are written.
    #[serde(default)]
    pub time_format: TimeFormat,
    /// The zone of times written without an offset.
    #[serde(default)]
    pub zone: Zone,
    /// Texts that stand for "no value", besides an empty one and JSON's null.
    #[serde(default = "default_null")]
    pub null: Vec<String>,
    /// What a bad line does.
    #[serde(default)]
    pub bad_rows: BadRows,
}

impl Default for StdinSpec {
    fn default() -> Self {
        Self {
            format: LineFormat::default(),
            delimiter: Delimiter::default(),
            fields: Vec::new(),
            time: None,
            time_format: TimeFormat::default(),
            zone: Zone::default(),
            null: default_null(),
            bad_rows: BadRows::default(),
        }
    }
}

impl StdinSpec {
    pub(super) fn lines(&self) -> LineSpec {
        LineSpec {
            format: self.format,
            delimiter: self.delimiter,
            fields: self.fields.clone(),
            time: self.time.clone(),
            time_format: self.time_format.clone(),
            zone: self.zone.clone(),
            null: self.null.clone(),
        }
    }
}

/// Makes readings of what a feed tells.
#[derive(Debug)]
pub(super) struct LineReadings {
    parser: LineParser,
    gate: Gate,
}

impl LineReadings {
    /// A stream of these lines; `first` is a line from which fields may be learnt.
    pub(super) fn open(
        what: &str,
        name: String,
        spec: &LineSpec,
        first: Option<&Fed>,
        rules: (BadRows, &Clock, &Arc<RowCounter>),
    ) -> Result<(StreamSpec, Self), SourceError> {
        let parser = match (LineParser::configured(spec), first) {
            (Some(parser), _) => parser,
            (None, Some(Fed::Line { bytes, number, .. })) => {
                LineParser::learn(spec, bytes).map_err(|problem| SourceError::FirstLine {
                    what: what.to_owned(),
                    row: RowError { line: *number, column: None, problem },
                })?
            }
            (None, Some(Fed::TooLong { number })) => {
                return Err(SourceError::FirstLine { what: what.to_owned(), row: too_long(*number) });
            }
            (None, _) => return Err(SourceError::Empty { what: what.to_owned() }),
        };
        let schema = parser.schema(what)?;
        let stream = StreamSpec {
            name,
            kinds: kinds(&schema),
            schema: schema.clone(),
            cadence: None,
            fingerprint: None,
        };
        let (bad_rows, clock, counter) = rules;
        Ok((stream, Self { parser, gate: Gate::new(what.to_owned(), schema, bad_rows, clock, counter) }))
    }

    /// Reads what was fed; the error, if there is one, comes behind the readings before it.
    pub(super) fn read(&mut self, fed: Vec<Fed>) -> (RawBatch, Option<SourceError>) {
        let mut batch = RawBatch::default();
        for fed in fed {
            match self.read_one(fed) {
                Ok(Some(reading)) => batch.readings.push((0, reading)),
                Ok(None) => {}
                Err(error) => return (batch, Some(error)),
            }
        }
        (batch, None)
    }

    fn read_one(&mut self, fed: Fed) -> Result<Option<RawReading>, SourceError> {
        match fed {
            Fed::Line { bytes, number, arrived } => {
                self.gate.admit(self.parser.read(&bytes, number, arrived), number)
            }
            Fed::TooLong { number } => self.gate.admit(Err(too_long(number)), number),
            Fed::Failed(source) => {
                Err(SourceError::Io { action: "read", what: self.gate.what().to_owned(), source })
            }
        }
    }
}

fn too_long(line: u64) -> RowError {
    RowError { line, column: None, problem: RowProblem::TooLong { max: MAX_LINE } }
}

/// Standard input, open.
#[derive(Debug)]
pub(super) struct StdinSource {
    readings: LineReadings,
    feed: mpsc::Receiver<Fed>,
    /// The line from which the fields were learnt.
    first: Option<Fed>,
    failed: Option<SourceError>,
}

impl StdinSource {
    pub(super) async fn open(
        spec: &StdinSpec,
        name: String,
        clock: &Clock,
        counter: &Arc<RowCounter>,
    ) -> Result<(StreamSpec, Self), SourceError> {
        let what = "standard input";
        let mut feed = line_feed::start("stdin", io::stdin(), clock);
        let first = if spec.fields.is_empty() {
            let waited = tokio::time::timeout(FIRST_LINE, feed.recv()).await;
            waited
                .map_err(|_| SourceError::Silent { what: what.to_owned(), seconds: FIRST_LINE.as_secs() })?
        } else {
            None
        };
        let rules = (spec.bad_rows, clock, counter);
        let (stream, readings) = LineReadings::open(what, name, &spec.lines(), first.as_ref(), rules)?;
        Ok((stream, Self { readings, feed, first, failed: None }))
    }

    pub(super) async fn next(&mut self) -> Result<Option<RawBatch>, SourceError> {
        loop {
            if let Some(error) = self.failed.take() {
                self.feed.close();
                return Err(error);
            }
            let mut fed = Vec::new();
            match self.first.take() {
                Some(first) => fed.push(first),
                None => {
                    if self.feed.recv_many(&mut fed, MAX_BATCH).await == 0 {
                        return Ok(None);
                    }
                }
            }
            let (batch, failed) = self.readings.read(fed);
            self.failed = failed;
            if !batch.readings.is_empty() {
                return Ok(Some(batch));
            }
        }
    }
}
