//! Where readings come from: the machine's own sensors, a recording, a program, a pipe, or a simulation.
//!
//! A [`Source`] is opened from a [`SourceSpec`] and then says which streams it has; only after that is it told what
//! is recorded of them already ([`Source::resume`]) and asked for more ([`Source::next`]). It gives readings their time
//! and values and nothing else: their sequence numbers are the recorder's, which alone knows what became durable.
//!
//! Every reading a source yields obeys its stream's schema and has a plausible time; a row that does not is refused
//! here, where its line number is still known, and counted in [`RowReport`].

mod blocking;
mod columns;
mod csv;
mod csv_layout;
mod csv_rows;
mod error;
mod exec;
mod host;
mod json_line;
mod line_feed;
mod replay;
mod rows;
mod sim;
mod stdin;
mod time_format;

use std::sync::Arc;
use std::time::Duration;

use sensora_protocol::stream::{Schema, Value};
use serde::{Deserialize, Serialize};

pub use columns::{ColumnRef, ColumnSpec};
pub(crate) use columns::{is_plain_name as is_stream_name, nearest};
pub use csv::{CsvSpec, Delimiter, Fingerprint, Header};
pub use error::{RowError, RowProblem, SourceError};
pub use exec::{ExecSpec, Restart};
pub use host::{HostGroup, HostSpec};
pub use json_line::LineFormat;
pub use replay::Replay;
pub use rows::{BadRows, RowReport};
pub use sim::SimSpec;
pub use stdin::StdinSpec;
pub use time_format::{TimeError, TimeFormat, Zone};

use crate::clock::Clock;
use rows::RowCounter;

/// Most readings in one [`RawBatch`]: enough that a durable write for each batch is cheap for each reading, few
/// enough that one takes little memory (a row is at most 512 bytes).
pub const MAX_BATCH: usize = 4096;

/// Batches that a source may be ahead of its reader.
const BATCHES_AHEAD: usize = 2;

/// Which source, and how it is set up: the inline table `source = { kind = "…", … }` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum SourceSpec {
    /// This machine's own sensors.
    Host(HostSpec),
    /// A recording in a CSV file.
    Csv(CsvSpec),
    /// A program that prints a line for each reading.
    Exec(ExecSpec),
    /// Lines on standard input.
    Stdin(StdinSpec),
    /// A simulation for tests and first steps.
    Sim(SimSpec),
}

impl SourceSpec {
    /// The name of its kind, as in the configuration.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Csv(_) => "csv",
            Self::Exec(_) => "exec",
            Self::Stdin(_) => "stdin",
            Self::Sim(_) => "sim",
        }
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// [`SourceError::Option`] names the first option that cannot be.
    pub fn validate(&self) -> Result<(), SourceError> {
        match self {
            Self::Host(spec) => spec.validate(),
            Self::Csv(spec) => spec.validate(),
            Self::Exec(spec) => spec.validate(),
            Self::Stdin(spec) => spec.lines().validate(),
            Self::Sim(spec) => spec.validate(),
        }
    }

    /// The name of the source's stream where none is configured, or what its streams' names begin with.
    #[must_use]
    pub fn default_name(&self) -> String {
        let name = match self {
            Self::Csv(spec) if !spec.is_stdin() => spec.path.file_stem().map(|stem| stem.to_string_lossy()),
            Self::Exec(spec) => spec.program_name(),
            _ => None,
        };
        name.map(|name| columns::plain_name(&name))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| self.kind().to_owned())
    }
}

/// One stream of a source, as the source describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamSpec {
    /// Its name, unique in the source: `A-Z a-z 0-9 _ . -`, at most 64 bytes.
    pub name: String,
    /// What its readings consist of.
    pub schema: Schema,
    /// What it measures, in lower-case words (`temperature`), best first: a proposal for the ad.
    pub kinds: Vec<String>,
    /// The usual time between two readings, where it is known.
    pub cadence: Option<Duration>,
    /// Tells the recording from another one; to be kept with the stream and shown to [`Source::resume`].
    pub fingerprint: Option<Fingerprint>,
}

/// A reading as its source gives it, without a sequence number.
#[derive(Clone, Debug, PartialEq)]
pub struct RawReading {
    /// When it was measured, nanoseconds since the Unix epoch.
    pub time: i64,
    /// One value for each field of the stream's schema.
    pub values: Vec<Value>,
}

/// Readings in the order in which they came, each with the index of its stream: 1 to [`MAX_BATCH`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawBatch {
    /// Stream index and reading.
    pub readings: Vec<(usize, RawReading)>,
}

/// An open source.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
    rows: Arc<RowCounter>,
}

#[derive(Debug)]
enum Kind {
    Host(host::HostSource),
    Csv(Box<csv::CsvSource>),
    Exec(Box<exec::ExecSource>),
    Stdin(Box<stdin::StdinSource>),
    Sim(sim::SimSource),
}

impl Source {
    /// Opens the source and finds out which streams it has. For this a recording is read to its first rows, and a
    /// program or a pipe whose fields are not configured is waited for until its first line.
    ///
    /// `name` is the name of the source's stream, or what its streams' names begin with.
    ///
    /// # Errors
    /// [`SourceError`] says what the source lacks.
    pub async fn open(
        spec: &SourceSpec,
        name: Option<&str>,
        clock: &Clock,
    ) -> Result<(Vec<StreamSpec>, Self), SourceError> {
        spec.validate()?;
        let name = name.map_or_else(|| spec.default_name(), str::to_owned);
        if !columns::is_plain_name(&name) {
            return Err(SourceError::Option {
                option: "name",
                value: name,
                expected: "1 to 64 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit",
            });
        }
        let rows = Arc::new(RowCounter::new(&name));
        let (streams, kind) = match spec {
            SourceSpec::Host(spec) => {
                let (streams, source) = host::HostSource::open(spec, &name, clock).await?;
                (streams, Kind::Host(source))
            }
            SourceSpec::Csv(spec) => {
                let (stream, source) = csv::CsvSource::open(spec, name, clock, &rows).await?;
                (vec![stream], Kind::Csv(Box::new(source)))
            }
            SourceSpec::Exec(spec) => {
                let (stream, source) = exec::ExecSource::open(spec, name, clock, &rows).await?;
                (vec![stream], Kind::Exec(Box::new(source)))
            }
            SourceSpec::Stdin(spec) => {
                let (stream, source) = stdin::StdinSource::open(spec, name, clock, &rows).await?;
                (vec![stream], Kind::Stdin(Box::new(source)))
            }
            SourceSpec::Sim(spec) => {
                let (streams, source) = sim::SimSource::open(spec, &name, clock)?;
                (streams, Kind::Sim(source))
            }
        };
        Ok((streams, Self { kind, rows }))
    }

    /// Tells the source that `recorded` readings of a stream are kept already, so that it goes on behind them. To be
    /// called before the first [`Source::next`]; a live source has no use for it.
    ///
    /// `fingerprint` is the one that the stream had when its first readings were recorded.
    ///
    /// # Errors
    /// [`SourceError::OtherRecording`] where the recording is not the one that was begun.
    pub fn resume(
        &mut self,
        stream: usize,
        recorded: u64,
        fingerprint: Option<&Fingerprint>,
    ) -> Result<(), SourceError> {
        match &mut self.kind {
            Kind::Csv(source) => source.resume(recorded, fingerprint),
            Kind::Sim(source) => {
                source.resume(stream, recorded);
                Ok(())
            }
            Kind::Host(_) | Kind::Exec(_) | Kind::Stdin(_) => Ok(()),
        }
    }

    /// The next readings; `None` at the end of a source that has one. Nothing is lost where the future is dropped
    /// before it is ready.
    ///
    /// # Errors
    /// [`SourceError`] ends the source; what came before it stands.
    pub async fn next(&mut self) -> Result<Option<RawBatch>, SourceError> {
        match &mut self.kind {
            Kind::Host(source) => source.next().await,
            Kind::Csv(source) => source.next().await,
            Kind::Exec(source) => source.next().await,
            Kind::Stdin(source) => source.next().await,
            Kind::Sim(source) => source.next().await,
        }
    }

    /// How many rows came and how many were refused, so far.
    #[must_use]
    pub fn rows(&self) -> RowReport {
        self.rows.report()
    }
}
