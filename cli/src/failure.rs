//! An error on its way to the person: what happened, to which thing, and what to do.

mod from;

use std::fmt;
use std::io;

use serde_json::{Value, json};

use crate::exit::Exit;
use crate::output::printable;

/// Why a command ends without having done its work.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// What happened, to which thing.
    pub(crate) message: String,
    /// What the person can do about it.
    pub(crate) hint: Option<String>,
    /// The reader of our output went away (`sensora search | head`): nothing to complain about.
    silent: bool,
    /// Another process holds the home: it may be asked instead.
    pub(crate) is_in_use: bool,
}

/// What commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure that ends with `exit`.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, silent: false, is_in_use: false }
    }

    /// Something failed that has no exit code of its own.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// What was typed makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// The same failure, saying what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error with all its sources, on one line.
    pub(crate) fn from_error(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self::new(exit, chain_text(error))
    }

    /// A file could not be read or written.
    pub(crate) fn file(action: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        Self::new(exit, format!("cannot {action} {}: {error}", path.display()))
    }

    /// Standard output could not be written.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        let exit = if silent { Exit::Ok } else { Exit::Failure };
        Self {
            exit,
            message: format!("cannot write to standard output: {error}"),
            hint: None,
            silent,
            is_in_use: false,
        }
    }

    /// As JSON: `code`, `message`, `hint`.
    pub(crate) fn document(&self) -> Value {
        json!({"code": self.exit.name(), "message": printable(&self.message), "hint": self.hint})
    }

    /// What another process of this program wrote as [`Failure::document`]; none where it is something else.
    pub(crate) fn of_document(document: &Value) -> Option<Self> {
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        let (code, message) = (text("code")?, text("message")?);
        let exit = Exit::ALL.into_iter().find(|exit| exit.name() == code)?;
        Some(Self { hint: text("hint").map(str::to_owned), ..Self::new(exit, message) })
    }

    /// Says it on standard error, as text or as one JSON document.
    pub(crate) fn report(&self, json: bool, paint: crate::output::Paint) {
        if self.silent {
            return;
        }
        if json {
            eprintln!("{}", json!({ "error": self.document() }));
        } else {
            eprintln!("{} {}", paint.bad("error:"), printable(&self.message));
            if let Some(hint) = &self.hint {
                eprintln!("{} {}", paint.dim("hint:"), printable(hint));
            }
        }
    }
}

/// An error and its sources, each told once: many of ours repeat their source in their own text.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_once() {
        let inner = io::Error::other("the disk is full");
        let outer = io::Error::other(inner);
        assert_eq!(chain_text(&outer), "the disk is full");
    }

    #[test]
    fn an_error_of_another_process_is_told_as_if_it_were_ones_own() {
        let failure = Failure::not_found("there is no order `a1`").hint("`sensora orders` lists them");
        let told = Failure::of_document(&failure.document()).unwrap();
        assert_eq!((told.exit, told.message, told.hint), (failure.exit, failure.message, failure.hint));
        for foreign in [json!({}), json!({"code": "gone", "message": ""}), json!({"code": "home"})] {
            assert!(Failure::of_document(&foreign).is_none(), "{foreign}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::stdout(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit, Exit::Ok);
        assert_eq!(Failure::stdout(&io::Error::other("x")).exit, Exit::Failure);
    }
}
