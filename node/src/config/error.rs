//! What is wrong with a configuration, where, and what was probably meant.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::agent::source::nearest;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is too long to be a configuration.
    #[error("{} has {length} bytes: that is no configuration", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// A key is not known.
    #[error("{place}: there is no key `{key}`{}; here it may be {known}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// Where.
        place: Position,
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
        /// All keys that may stand there.
        known: String,
    },
    /// It is not TOML, or a value is not of its kind.
    #[error("{place}: {message}{}", did_you_mean(nearest.as_deref()))]
    Syntax {
        /// Where.
        place: Position,
        /// What the parser says.
        message: String,
        /// The value that was probably meant.
        nearest: Option<String>,
    },
    /// A value cannot be.
    #[error("{}{key}: {reason}", in_section(file.as_deref(), section))]
    Invalid {
        /// The file, where it came from one.
        file: Option<PathBuf>,
        /// The section, empty for a key at the top.
        section: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// A line of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The file, where it came from one.
    pub file: Option<PathBuf>,
    /// The line, counted from 1, where it is known.
    pub line: Option<usize>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}", file.display())?,
            None => f.write_str("the configuration")?,
        }
        self.line.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
}

fn in_section(file: Option<&Path>, section: &str) -> String {
    let file = file.map(|file| format!("{}: ", file.display())).unwrap_or_default();
    if section.is_empty() { file } else { format!("{file}[{section}] ") }
}

impl ConfigError {
    pub(super) fn invalid(section: impl Into<String>, key: impl Into<String>, reason: String) -> Self {
        Self::Invalid { file: None, section: section.into(), key: key.into(), reason }
    }

    /// Says in which file it is.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        match &mut self {
            Self::UnknownKey { place, .. } | Self::Syntax { place, .. } => place.file = Some(path.to_owned()),
            Self::Invalid { file, .. } => *file = Some(path.to_owned()),
            Self::Io { .. } | Self::TooLong { .. } => {}
        }
        self
    }

    /// What the TOML parser found in `text`.
    pub(super) fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        let message = error.message();
        let names = quoted(message);
        let (named, known) = match names.split_first() {
            Some((named, known)) => (Some(*named), known),
            None => (None, &[][..]),
        };
        // These are the words of serde's derived code.
        let is_key = message.starts_with("unknown field");
        let is_value = message.starts_with("unknown variant");
        let span = error.span().unwrap_or_default();
        // Inside of a table whose kind decides what may stand in it, only the table's place is known.
        let start = named
            .filter(|_| is_key || is_value)
            .and_then(|name| find_word(text, &span, name))
            .unwrap_or(span.start);
        let line = error.span().map(|_| {
            text.get(..start)
                .unwrap_or_default()
                .bytes()
                .filter(|byte| *byte == b'\n')
                .count()
                .saturating_add(1)
        });
        let place = Position { file: None, line };
        let nearest =
            named.filter(|_| is_key || is_value).and_then(|name| nearest(name, known.iter().copied()));
        match named.filter(|_| is_key) {
            Some(key) => Self::UnknownKey { place, key: key.to_owned(), nearest, known: known.join(", ") },
            None => Self::Syntax { place, message: message.trim_end().replace('\n', "; "), nearest },
        }
    }
}

/// The texts between back quotes.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// Where `word` stands by itself in the part of `text` that `span` names.
fn find_word(text: &str, span: &std::ops::Range<usize>, word: &str) -> Option<usize> {
    let part = text.get(span.clone())?;
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    part.match_indices(word)
        .find(|(at, _)| {
            let before = at.checked_sub(1).and_then(|at| part.as_bytes().get(at));
            let after = part.as_bytes().get(at.saturating_add(word.len()));
            !before.is_some_and(is_name) && !after.is_some_and(is_name)
        })
        .map(|(at, _)| span.start.saturating_add(at))
}
