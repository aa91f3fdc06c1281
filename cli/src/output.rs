//! What a person or a program sees: text and tables on a terminal, plain lines in a pipe, JSON when asked.
//!
//! Results go to standard output, everything else (progress, notes, errors) to standard error, so that a result can be
//! piped on. With `--json` standard output holds one JSON document, or one for each line where a command streams.

mod format;
mod progress;
mod table;

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

pub(crate) use format::{
    counted, duration, printable, sat, short_id, shortened, signed_sat, time_ms, time_ns,
};
pub(crate) use progress::Progress;
pub(crate) use table::Table;

use crate::args::ColorChoice;
use crate::failure::{Failure, Outcome};

/// Colours, or none. Used sparingly: for what went right, what went wrong, and what matters less.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

impl Paint {
    /// Colours as chosen, for a stream that is (not) a terminal. `NO_COLOR` (<https://no-color.org>) counts only where
    /// nothing was chosen.
    pub(crate) fn new(choice: ColorChoice, is_terminal: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => is_terminal && !unwanted,
        })
    }

    /// Whether there are colours.
    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What matters less.
    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// What went right.
    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What went wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// What to look at.
    pub(crate) fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }
}

/// Where a command says what it has to say.
#[derive(Clone, Debug)]
pub(crate) struct Out {
    json: bool,
    quiet: bool,
    paint: Paint,
    notes: Paint,
    is_terminal: bool,
    progress: bool,
}

impl Out {
    /// The output that the flags ask for.
    pub(crate) fn new(json: bool, quiet: bool, color: ColorChoice) -> Self {
        let (stdout, stderr) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            json,
            quiet,
            paint: Paint::new(color, stdout),
            notes: Paint::new(color, stderr),
            is_terminal: stdout,
            progress: stderr && !quiet && !json,
        }
    }

    /// Whether a program reads.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Colours for standard output.
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Colours for standard error.
    pub(crate) fn note_paint(&self) -> Paint {
        self.notes
    }

    /// One JSON document, readable for people too.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Outcome {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::other(format!("cannot write the result as JSON: {error}")))?;
        Self::write(&text)
    }

    /// One JSON document on one line, for streams.
    pub(crate) fn json_line<T: Serialize>(&self, value: &T) -> Outcome {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::other(format!("cannot write the result as JSON: {error}")))?;
        Self::write(&text)
    }

    /// A line for people; nothing with `--json`.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Outcome {
        if self.json { Ok(()) } else { Self::write(text.as_ref()) }
    }

    /// A name and a value, aligned with others; nothing with `--json`.
    pub(crate) fn field(&self, name: &str, value: impl std::fmt::Display) -> Outcome {
        self.line(format!("{} {value}", self.paint.dim(&format!("{name:<12}"))))
    }

    /// A table for people; nothing with `--json`.
    pub(crate) fn table(&self, table: &Table) -> Outcome {
        self.line(table.render(self.is_terminal, self.paint))
    }

    /// A remark beside the result, on standard error; nothing with `--json` or `--quiet`.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.json && !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }

    /// A warning on standard error, said even with `--quiet`; with `--json` as a JSON line.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        let text = printable(text.as_ref());
        if self.json {
            eprintln!("{}", serde_json::json!({ "warning": text }));
        } else {
            eprintln!("{} {text}", self.notes.warn("warning:"));
        }
    }

    /// A progress bar on standard error for `total` steps (0: not known), seen only on a terminal.
    pub(crate) fn progress(&self, total: u64, what: &str) -> Progress {
        Progress::new(self.progress, total, what)
    }

    /// Raw bytes, such as CSV.
    pub(crate) fn raw() -> io::BufWriter<io::StdoutLock<'static>> {
        io::BufWriter::new(io::stdout().lock())
    }

    fn write(text: &str) -> Outcome {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| Failure::stdout(&error))
    }
}
