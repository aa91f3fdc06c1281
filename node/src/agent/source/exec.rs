//! A program that prints a line for each reading, as one stream.
//!
//! It runs without a shell unless one is asked for, with nothing on its standard input and without the node's
//! passphrase in its environment. What it prints on standard error goes to the log. When the source is dropped, it
//! ends, and so do the programs it has started.

use std::borrow::Cow;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::columns::{ColumnRef, ColumnSpec};
use super::csv::Delimiter;
use super::error::{SourceError, quote, quote_line};
use super::json_line::{LineFormat, LineSpec};
use super::line_feed::{self, Fed, Line, Lines};
use super::rows::{BadRows, RowCounter, default_null};
use super::stdin::{FIRST_LINE, LineReadings};
use super::time_format::{TimeFormat, Zone};
use super::{MAX_BATCH, RawBatch, StreamSpec, blocking};
use crate::clock::Clock;

/// The first pause before a program that ended is started again; it doubles with each run that gave no reading.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a program may live on after it has closed its output.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a program is run and its lines are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// The program and its arguments; with `shell`, the one text that the shell runs.
    pub command: Vec<String>,
    /// Run it by the shell (`sh -c`).
    #[serde(default)]
    pub shell: bool,
    /// What to do when it ends.
    #[serde(default)]
    pub restart: Restart,
    /// For a program that prints and ends: start it so many seconds after its last start. Without it, it is started a
    /// second after it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_s: Option<f64>,
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

/// What happens when a program ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// It is started again, after a pause that grows while it gives no readings.
    #[default]
    Always,
    /// The source ends with it.
    Never,
}

impl ExecSpec {
    /// All defaults for a program and its arguments.
    #[must_use]
    pub fn new(command: Vec<String>) -> Self {
        Self {
            command,
            shell: false,
            restart: Restart::default(),
            every_s: None,
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

    pub(super) fn validate(&self) -> Result<(), SourceError> {
        let wrong = |option, value, expected| Err(SourceError::Option { option, value, expected });
        if self.command.first().is_none_or(String::is_empty) {
            return wrong(
                "command",
                self.text(),
                "a program and its arguments, such as [\"sensors\", \"-j\"]",
            );
        }
        if self.shell && self.command.len() != 1 {
            return wrong("command", self.text(), "one text for the shell, because `shell` is set");
        }
        if let Some(every) = self.every_s.filter(|every| !(0.1..=86_400.0).contains(every)) {
            return wrong("every_s", every.to_string(), "0.1 to 86400 seconds");
        }
        self.lines().validate()
    }

    /// The file name of the program, without its extension.
    pub(super) fn program_name(&self) -> Option<Cow<'_, str>> {
        let program = self.command.first().filter(|_| !self.shell)?;
        std::path::Path::new(program).file_stem().map(std::ffi::OsStr::to_string_lossy)
    }

    fn lines(&self) -> LineSpec {
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

    fn text(&self) -> String {
        quote(&self.command.join(" "))
    }
}

/// A running program, ended with this value.
#[derive(Debug)]
struct Program(Option<Child>);

impl Program {
    fn try_wait(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It leads a group of its own, so that what it started ends with it.
        #[cfg(unix)]
        if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
        child.kill().ok();
        // So that it does not stay in the process table; the kernel may take its time.
        blocking::spawn("exec-reap", move || {
            child.wait().ok();
        });
    }
}

/// A program as a source.
#[derive(Debug)]
pub(super) struct ExecSource {
    spec: ExecSpec,
    clock: Clock,
    readings: LineReadings,
    state: State,
    /// The line from which the fields were learnt.
    first: Option<Fed>,
    failed: Option<SourceError>,
    started: Instant,
    has_given: bool,
    pause: Duration,
}

#[derive(Debug)]
enum State {
    Running(Program, mpsc::Receiver<Fed>),
    /// Its output is closed; it is waited for until then.
    Ending(Program, Instant),
    /// It is started again then.
    Pausing(Instant),
    Ended,
}

impl ExecSource {
    pub(super) async fn open(
        spec: &ExecSpec,
        name: String,
        clock: &Clock,
        counter: &Arc<RowCounter>,
    ) -> Result<(StreamSpec, Self), SourceError> {
        let what = format!("`{}`", spec.text());
        let started = Instant::now();
        let (mut program, mut feed) = start(spec, clock)?;
        let mut first = None;
        if spec.fields.is_empty() {
            let waited = tokio::time::timeout(FIRST_LINE, feed.recv()).await;
            first = waited
                .map_err(|_| SourceError::Silent { what: what.clone(), seconds: FIRST_LINE.as_secs() })?;
            if first.is_none() {
                let until = Instant::now() + FAREWELL;
                let status = wait(&mut program, until).await;
                let status =
                    status.map_or_else(|| "its output is closed".to_owned(), |status| status.to_string());
                return Err(SourceError::EndedSilent { command: spec.text(), status });
            }
        }
        let rules = (spec.bad_rows, clock, counter);
        let (mut stream, readings) = LineReadings::open(&what, name, &spec.lines(), first.as_ref(), rules)?;
        stream.cadence = spec.every_s.and_then(|every| Duration::try_from_secs_f64(every).ok());
        let source = Self {
            spec: spec.clone(),
            clock: clock.clone(),
            readings,
            state: State::Running(program, feed),
            first,
            failed: None,
            started,
            has_given: false,
            pause: FIRST_PAUSE,
        };
        Ok((stream, source))
    }

    pub(super) async fn next(&mut self) -> Result<Option<RawBatch>, SourceError> {
        loop {
            if let Some(error) = self.failed.take() {
                self.state = State::Ended;
                return Err(error);
            }
            let mut fed = Vec::new();
            if let Some(first) = self.first.take() {
                fed.push(first);
            } else {
                match &mut self.state {
                    State::Ended => return Ok(None),
                    State::Pausing(until) => {
                        tokio::time::sleep_until(*until).await;
                        self.start_again();
                        continue;
                    }
                    State::Ending(program, until) => {
                        let status = wait(program, *until).await;
                        self.ended(status);
                        continue;
                    }
                    State::Running(_, feed) => {
                        if feed.recv_many(&mut fed, MAX_BATCH).await == 0 {
                            self.closed();
                            continue;
                        }
                    }
                }
            }
            let (batch, failed) = self.readings.read(fed);
            self.failed = failed;
            if !batch.readings.is_empty() {
                self.has_given = true;
                return Ok(Some(batch));
            }
        }
    }

    fn closed(&mut self) {
        if let State::Running(program, _) = std::mem::replace(&mut self.state, State::Ended) {
            self.state = State::Ending(program, Instant::now() + FAREWELL);
        }
    }

    fn ended(&mut self, status: Option<ExitStatus>) {
        let status_text =
            status.map_or_else(|| "its output is closed".to_owned(), |status| status.to_string());
        if self.spec.restart == Restart::Never {
            tracing::info!(command = %self.spec.text(), "the program ended ({status_text}), and with it its source");
            self.state = State::Ended;
            return;
        }
        let is_well = self.has_given && status.is_some_and(|status| status.success());
        self.pause = if self.has_given { FIRST_PAUSE } else { self.pause };
        let now = Instant::now();
        let every = self.spec.every_s.and_then(|every| Duration::try_from_secs_f64(every).ok());
        let until = match every {
            Some(every) if is_well => (self.started + every).max(now),
            _ => {
                let until = now + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                until
            }
        };
        if is_well {
            tracing::debug!(command = %self.spec.text(), "the program ended ({status_text})");
        } else {
            let pause = until.saturating_duration_since(now);
            tracing::warn!(command = %self.spec.text(), "the program ended ({status_text}); started again in {pause:?}");
        }
        // Dropping what ran ends it where it lives on.
        self.state = State::Pausing(until);
    }

    fn start_again(&mut self) {
        self.started = Instant::now();
        self.has_given = false;
        self.state = match start(&self.spec, &self.clock) {
            Ok((program, feed)) => State::Running(program, feed),
            Err(error) => {
                // It ran before, so this passes: a file that is being replaced, no memory for a moment.
                let until = self.started + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                tracing::warn!("{error}; tried again in {:?}", until - self.started);
                State::Pausing(until)
            }
        };
    }
}

/// Waits for the program's end; not longer than `until`.
async fn wait(program: &mut Program, until: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = program.try_wait() {
            return Some(status);
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn start(spec: &ExecSpec, clock: &Clock) -> Result<(Program, mpsc::Receiver<Fed>), SourceError> {
    let mut words = spec.command.iter();
    let first = words.next().map_or("", String::as_str);
    let mut command = match spec.shell {
        false => Command::new(first),
        true => {
            let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
            let mut command = Command::new(shell);
            command.args([flag, first]);
            command
        }
    };
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("SENSORA_PASSPHRASE");
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|source| SourceError::Spawn { command: spec.text(), source })?;
    if let Some(errors) = child.stderr.take() {
        log_lines(spec.text(), errors);
    }
    let output = child.stdout.take();
    let program = Program(Some(child));
    let feed = match output {
        Some(output) => line_feed::start("exec", output, clock),
        // A closed channel: the program is ended and started again.
        None => mpsc::channel(1).1,
    };
    Ok((program, feed))
}

/// Logs what a program prints on its standard error, line by line.
fn log_lines(command: String, from: impl Read + Send + 'static) {
    blocking::spawn("exec-errors", move || {
        let mut lines = Lines::new(from);
        loop {
            let mut line = Vec::new();
            match lines.read(&mut line) {
                Ok(Line::End) | Err(_) => return,
                Ok(Line::Whole | Line::TooLong) => tracing::info!(%command, "{}", quote_line(&line)),
            }
        }
    });
}
