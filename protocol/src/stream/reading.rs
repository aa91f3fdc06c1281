//! One measurement, and what is refused before it becomes part of a log that cannot be changed.
//!
//! Sequence numbers are the order of a stream. Times are data: real devices repeat a time, and step back when their clock
//! is set, so times need not grow.

use std::fmt;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::leaf;
use super::schema::Kind;

/// Longest text value, in bytes of UTF-8.
pub const MAX_TEXT_LEN: usize = 256;

/// Longest row (the CBOR array that is hashed into the leaf), in bytes.
///
/// A chunk of the most readings of this length, in columns and with a salt for each, stays below the frame limit of 1 MiB.
pub const MAX_ROW_LEN: usize = 512;

/// 1971-01-01T00:00:00Z in nanoseconds. A device whose clock was never set starts at 1970-01-01, and no recording is this old.
pub const EARLIEST_TIME: i64 = 365 * 86_400 * 1_000_000_000;

/// How far ahead of our own clock a reading's time may be by default: one day, in nanoseconds, which covers a device set to
/// local time instead of UTC.
pub const DEFAULT_TOLERANCE: i64 = 86_400 * 1_000_000_000;

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Position in the stream: 0, 1, 2, … without holes.
    pub seq: u64,
    /// When it was measured, in nanoseconds since the Unix epoch, as the device says.
    pub time: i64,
    /// One value for each field of the schema.
    pub values: Vec<Value>,
}

/// The value of one field.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// The device gave none.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// A finite number.
    Float(f64),
    /// A text of at most [`MAX_TEXT_LEN`] bytes.
    Text(String),
}

/// Why a reading is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadingError {
    /// Not one value for each field.
    #[error("the schema has {expected} fields, the reading has {found} values")]
    ValueCount {
        /// Fields in the schema.
        expected: usize,
        /// Values in the reading.
        found: usize,
    },
    /// A value of another kind than its field.
    #[error("field `{field}` is {expected}, the reading gives {found}")]
    WrongKind {
        /// Name of the field.
        field: String,
        /// The kind in the schema.
        expected: Kind,
        /// The kind of the value.
        found: &'static str,
    },
    /// Not a number, or infinite.
    #[error("field `{field}` is not a finite number; leave it empty if the device gave none")]
    NotFinite {
        /// Name of the field.
        field: String,
    },
    /// A text that is too long.
    #[error("field `{field}` has a text of {len} bytes, at most {MAX_TEXT_LEN} are allowed")]
    TextTooLong {
        /// Name of the field.
        field: String,
        /// Length of the text in bytes.
        len: usize,
    },
    /// A text with a control character.
    #[error("field `{field}` has the control character U+{code:04X} in its text")]
    TextControl {
        /// Name of the field.
        field: String,
        /// The character's code point.
        code: u32,
    },
    /// All values together are too long.
    #[error(
        "the reading takes {len} bytes, at most {MAX_ROW_LEN} are allowed; split the stream or shorten its texts"
    )]
    RowTooLong {
        /// Length of its row in bytes.
        len: usize,
    },
    /// A time before [`EARLIEST_TIME`].
    #[error(
        "the device's clock is not set: the reading says {time} ns since 1970, which is before 1971-01-01"
    )]
    ClockNotSet {
        /// The time of the reading, in nanoseconds since the Unix epoch.
        time: i64,
    },
    /// A time too far ahead of ours.
    #[error("the reading is {ahead_s} s in the future; set the device's clock (or ours)")]
    InFuture {
        /// How far ahead of our clock, in whole seconds.
        ahead_s: i64,
    },
}

impl Reading {
    /// Checks the time against our clock.
    ///
    /// `now` is our time in nanoseconds since the Unix epoch, `tolerance` how far ahead of it the reading may be
    /// ([`DEFAULT_TOLERANCE`]).
    ///
    /// # Errors
    /// [`ReadingError::ClockNotSet`] before 1971, [`ReadingError::InFuture`] beyond the tolerance.
    pub fn check_time(&self, now: i64, tolerance: i64) -> Result<(), ReadingError> {
        if self.time < EARLIEST_TIME {
            return Err(ReadingError::ClockNotSet { time: self.time });
        }
        if self.time > now.saturating_add(tolerance) {
            return Err(ReadingError::InFuture { ahead_s: self.time.saturating_sub(now) / 1_000_000_000 });
        }
        Ok(())
    }

    /// Refuses a reading whose row would be longer than [`MAX_ROW_LEN`].
    pub(super) fn check_row_len(&self) -> Result<(), ReadingError> {
        let len = leaf::row_len(self);
        if len > MAX_ROW_LEN {
            return Err(ReadingError::RowTooLong { len });
        }
        Ok(())
    }
}

/// Refuses a text that is too long or has control characters (Unicode category Cc), which can rewrite a terminal.
pub(super) fn check_text(text: &str, field: &str) -> Result<(), ReadingError> {
    if text.len() > MAX_TEXT_LEN {
        return Err(ReadingError::TextTooLong { field: field.to_owned(), len: text.len() });
    }
    // Nearly every text is plain ASCII, which is seen many bytes at a time where none ends the look early.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (b' '..=b'~').contains(&byte));
    if is_plain {
        return Ok(());
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(ReadingError::TextControl { field: field.to_owned(), code: c.into() }),
        None => Ok(()),
    }
}

impl Value {
    /// True where the device gave no value.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The value's kind in words.
    pub(super) const fn kind_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "text",
        }
    }
}

impl fmt::Display for Value {
    /// The value as it stands in a CSV cell: nothing for [`Value::Null`], the shortest text that reads back the same for a
    /// float.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // Null in JSON and in CBOR; serde's unit would be an empty array in CBOR.
            Self::Null => serializer.serialize_none(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl Visitor<'_> for ValueVisitor {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, a bool, a number or a text")
            }
            fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Int(value))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
                i64::try_from(value)
                    .map(Value::Int)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &"a signed 64 bit integer"))
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }
            fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
                Ok(Value::Text(value))
            }
        }
        deserializer.deserialize_any(ValueVisitor).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::{Field, Schema};
    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("t", Kind::Float),
            Field::new("n", Kind::Int),
            Field::new("on", Kind::Bool),
            Field::new("note", Kind::Text),
        ])
        .unwrap()
    }

    fn reading(values: Vec<Value>) -> Reading {
        Reading { seq: 7, time: 1_400_000_000_000_000_000, values }
    }

    fn check(t: Value, note: Value) -> Result<(), ReadingError> {
        schema().check(&reading(vec![t, Value::Int(1), Value::Bool(true), note]))
    }

    #[test]
    fn values_match_the_schema() {
        assert_eq!(check(Value::Float(-0.0), Value::Text("ok".into())), Ok(()));
        assert_eq!(check(Value::Null, Value::Null), Ok(()));
        assert!(matches!(check(Value::Int(1), Value::Null), Err(ReadingError::WrongKind { .. })));
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(matches!(check(Value::Float(number), Value::Null), Err(ReadingError::NotFinite { .. })));
        }
        let short = reading(vec![Value::Null]);
        assert_eq!(schema().check(&short), Err(ReadingError::ValueCount { expected: 4, found: 1 }));
    }

    #[test]
    fn texts_are_bounded_and_printable() {
        assert_eq!(check(Value::Null, Value::Text("é".repeat(128))), Ok(()));
        assert!(matches!(
            check(Value::Null, Value::Text("x".repeat(257))),
            Err(ReadingError::TextTooLong { len: 257, .. })
        ));
        for text in ["a\nb", "\u{1b}[31m", "\u{85}"] {
            assert!(matches!(
                check(Value::Null, Value::Text(text.into())),
                Err(ReadingError::TextControl { .. })
            ));
        }
    }

    #[test]
    fn a_row_is_bounded() {
        let schema = Schema::new((0..3).map(|i| Field::new(format!("t{i}"), Kind::Text)).collect()).unwrap();
        let values = |len| reading(vec![Value::Text("x".repeat(len)); 3]);
        assert_eq!(schema.check(&values(150)), Ok(()));
        assert!(matches!(schema.check(&values(200)), Err(ReadingError::RowTooLong { .. })));
    }

    #[test]
    fn times_are_plausible() {
        let now = 1_700_000_000_000_000_000;
        let at = |time| Reading { seq: 0, time, values: vec![] }.check_time(now, DEFAULT_TOLERANCE);
        assert_eq!(at(now), Ok(()));
        assert_eq!(at(EARLIEST_TIME), Ok(()));
        assert_eq!(at(now + DEFAULT_TOLERANCE), Ok(()));
        assert_eq!(at(EARLIEST_TIME - 1), Err(ReadingError::ClockNotSet { time: EARLIEST_TIME - 1 }));
        assert_eq!(
            at(now + DEFAULT_TOLERANCE + 1_000_000_000),
            Err(ReadingError::InFuture { ahead_s: 86_401 })
        );
        assert!(at(i64::MIN).is_err());
        assert!(at(i64::MAX).is_err());
    }

    #[test]
    fn json_keeps_ints_and_floats_apart() {
        let values = vec![
            Value::Null,
            Value::Bool(false),
            Value::Int(-3),
            Value::Int(i64::MAX),
            Value::Float(5.0),
            Value::Text("x".into()),
        ];
        let json = serde_json::to_string(&reading(values.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Reading>(&json).unwrap().values, values);
        assert!(serde_json::from_str::<Value>("18446744073709551615").is_err());
        assert!(serde_json::from_str::<Value>("[1]").is_err());
    }
}
