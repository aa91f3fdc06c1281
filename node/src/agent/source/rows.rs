//! What is common to all sources that read rows: the checks before a row counts, and the count of those refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sensora_protocol::stream::reading::{DEFAULT_TOLERANCE, ReadingError};
use sensora_protocol::stream::{Kind, Reading, Schema, Value};
use serde::{Deserialize, Serialize};

use super::RawReading;
use super::error::{RowError, RowProblem, SourceError};
use crate::clock::Clock;

/// So many refused rows are logged each; after that only their number is kept.
const LOGGED_ROWS: u64 = 5;

/// What a bad row does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadRows {
    /// It is passed over, logged and counted. The default: a device that runs by itself must not end because of one
    /// garbled line, and no reading is invented for it.
    #[default]
    Skip,
    /// It ends the source with its line number.
    Stop,
}

/// What became of a source's rows so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowReport {
    /// Rows that became readings (those recorded before a restart included, where they were read again).
    pub accepted: u64,
    /// Rows that were refused.
    pub refused: u64,
    /// The row refused last.
    pub last_refused: Option<RowError>,
}

/// Counts rows; shared by the thread that reads and the one that asks.
#[derive(Debug)]
pub(super) struct RowCounter {
    source: String,
    accepted: AtomicU64,
    refused: AtomicU64,
    last_refused: Mutex<Option<RowError>>,
}

impl RowCounter {
    pub(super) fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_refused: Mutex::new(None),
        }
    }

    pub(super) fn report(&self) -> RowReport {
        RowReport {
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            last_refused: self.last_refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn refuse(&self, row: RowError) {
        let before = self.refused.fetch_add(1, Ordering::Relaxed);
        if before < LOGGED_ROWS {
            tracing::warn!(source = %self.source, "row passed over: {row}");
        } else if before == LOGGED_ROWS {
            tracing::warn!(source = %self.source, "more rows are passed over; from here on they are only counted");
        }
        *self.last_refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(row);
    }
}

/// Decides which rows become readings.
#[derive(Debug)]
pub(super) struct Gate {
    what: String,
    schema: Schema,
    bad_rows: BadRows,
    clock: Clock,
    counter: Arc<RowCounter>,
}

impl Gate {
    pub(super) fn new(
        what: String,
        schema: Schema,
        bad_rows: BadRows,
        clock: &Clock,
        counter: &Arc<RowCounter>,
    ) -> Self {
        Self { what, schema, bad_rows, clock: clock.clone(), counter: Arc::clone(counter) }
    }

    /// The source, for errors.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// Counts a row and applies the rule for bad ones: `None` is a row to pass over.
    pub(super) fn admit(
        &self,
        row: Result<RawReading, RowError>,
        line: u64,
    ) -> Result<Option<RawReading>, SourceError> {
        let row = row.and_then(|reading| {
            self.check(reading).map_err(|error| RowError {
                line,
                column: None,
                problem: RowProblem::Reading(error),
            })
        });
        match row {
            Ok(reading) => {
                self.counter.accepted.fetch_add(1, Ordering::Relaxed);
                Ok(Some(reading))
            }
            Err(row) if self.bad_rows == BadRows::Stop => {
                Err(SourceError::BadRow { what: self.what.clone(), row })
            }
            Err(row) => {
                self.counter.refuse(row);
                Ok(None)
            }
        }
    }

    fn check(&self, raw: RawReading) -> Result<RawReading, ReadingError> {
        // Only the order of the log is the recorder's; every other rule holds for any sequence number.
        let reading = Reading { seq: 0, time: raw.time, values: raw.values };
        self.schema.check(&reading)?;
        reading.check_time(self.clock.now_ns(), DEFAULT_TOLERANCE)?;
        Ok(RawReading { time: reading.time, values: reading.values })
    }
}

/// Reads `text` as a value of `kind`; the texts in `null` (and nothing at all) are [`Value::Null`].
pub(super) fn value_from_text(text: &str, kind: Kind, null: &[String]) -> Result<Value, RowProblem> {
    let text = text.trim();
    if text.is_empty() || null.iter().any(|word| word == text) {
        return Ok(Value::Null);
    }
    let wrong = || RowProblem::Value { text: super::error::quote(text), kind };
    match kind {
        Kind::Float => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            Ok(_) => Err(RowProblem::NotFinite { text: super::error::quote(text) }),
            Err(_) => Err(wrong()),
        },
        Kind::Int => text.parse().map(Value::Int).map_err(|_| wrong()),
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Bool(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Bool(false)),
            _ => Err(wrong()),
        },
        Kind::Text => Ok(Value::Text(text.to_owned())),
    }
}

/// The texts that mean "no value" unless others are configured.
pub(super) fn default_null() -> Vec<String> {
    ["NA", "N/A", "null"].map(str::to_owned).to_vec()
}
