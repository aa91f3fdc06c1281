//! What a stream's readings consist of, so that a buyer can read them and a seller cannot change their meaning half way.
//!
//! A [`Schema`] is part of what the seller signs. It lists the fields in order; a reading has one value for each.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::reading::{Reading, ReadingError, Value};
use super::unit::Unit;

/// Most fields in one schema. A weather station has about ten; a machine that has more is better sold as several streams.
pub const MAX_FIELDS: usize = 32;

/// Longest field name, in bytes. Together with [`MAX_FIELDS`] it keeps a schema inside an ad of 4 KiB.
pub const MAX_NAME_LEN: usize = 64;

/// What kind of value a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// IEEE 754 double precision, finite.
    Float,
    /// Signed 64 bit integer.
    Int,
    /// True or false.
    Bool,
    /// UTF-8 text without control characters.
    Text,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "float",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Text => "text",
        })
    }
}

/// One field of a reading.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// 1 to [`MAX_NAME_LEN`] characters `A-Z a-z 0-9 _ . -`, the first a letter or a digit.
    ///
    /// A subset of the SenML names of RFC 8428 §4.5.1, so that a name can stand as it is in a CSV header, a JSON key, a URL
    /// and on a command line, and two names that look the same are the same.
    pub name: String,
    /// The kind of its values.
    pub kind: Kind,
    /// The unit of its values, for numbers that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

/// The fields of a stream's readings, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// 1 to [`MAX_FIELDS`] fields with distinct names.
    pub fields: Vec<Field>,
}

/// Why a schema is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// No field, or too many.
    #[error("a schema has 1 to {MAX_FIELDS} fields, this one has {count}")]
    FieldCount {
        /// How many it has.
        count: usize,
    },
    /// A name is empty or too long.
    #[error("field {position}: a name has 1 to {MAX_NAME_LEN} characters, this one has {len} bytes")]
    NameLength {
        /// Which field, counted from 1.
        position: usize,
        /// Length of its name in bytes.
        len: usize,
    },
    /// A name has a character that is not allowed there.
    #[error(
        "field {position}: `{character}` may not stand in a field name; use A-Z a-z 0-9 _ . - and begin with a letter or a digit"
    )]
    NameCharacter {
        /// Which field, counted from 1.
        position: usize,
        /// The character.
        character: char,
    },
    /// Two fields have the same name.
    #[error("field {position}: the name `{name}` is taken by an earlier field")]
    NameTaken {
        /// The later field, counted from 1.
        position: usize,
        /// The name.
        name: String,
    },
    /// A field that is no number has a unit.
    #[error("field {position}: `{name}` is {kind} and cannot have the unit `{unit}`")]
    UnitOfNoNumber {
        /// Which field, counted from 1.
        position: usize,
        /// Its name.
        name: String,
        /// Its kind.
        kind: Kind,
        /// The unit it was given.
        unit: Unit,
    },
}

impl Schema {
    /// A schema of these fields.
    ///
    /// # Errors
    /// As for [`Schema::validate`].
    pub fn new(fields: Vec<Field>) -> Result<Self, SchemaError> {
        let schema = Self { fields };
        schema.validate()?;
        Ok(schema)
    }

    /// Checks the rules of this module. A schema that was decoded has passed none of them yet.
    ///
    /// # Errors
    /// The first rule that is broken, and by which field.
    pub fn validate(&self) -> Result<(), SchemaError> {
        let count = self.fields.len();
        if count == 0 || count > MAX_FIELDS {
            return Err(SchemaError::FieldCount { count });
        }
        let mut names = BTreeSet::new();
        for (position, field) in (1..).zip(&self.fields) {
            field.validate(position)?;
            if !names.insert(field.name.as_str()) {
                return Err(SchemaError::NameTaken { position, name: field.name.clone() });
            }
        }
        Ok(())
    }

    /// Checks one reading: a value for each field, of its kind (or none), within bounds, and a row that is not too long.
    ///
    /// Says nothing of the clock; see [`Reading::check_time`].
    ///
    /// # Errors
    /// [`ReadingError`] names the first field that is wrong.
    pub fn check(&self, reading: &Reading) -> Result<(), ReadingError> {
        if reading.values.len() != self.fields.len() {
            return Err(ReadingError::ValueCount {
                expected: self.fields.len(),
                found: reading.values.len(),
            });
        }
        for (field, value) in self.fields.iter().zip(&reading.values) {
            value.check(field)?;
        }
        reading.check_row_len()
    }

    /// The position of the field with this name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}

impl Field {
    /// A field without a unit.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind, unit: None }
    }

    /// The same field with a unit.
    #[must_use]
    pub fn with_unit(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }

    fn validate(&self, position: usize) -> Result<(), SchemaError> {
        let len = self.name.len();
        if len == 0 || len > MAX_NAME_LEN {
            return Err(SchemaError::NameLength { position, len });
        }
        let allowed =
            |(at, c): &(usize, char)| c.is_ascii_alphanumeric() || (*at > 0 && matches!(*c, '_' | '.' | '-'));
        if let Some((_, character)) = self.name.char_indices().find(|at| !allowed(at)) {
            return Err(SchemaError::NameCharacter { position, character });
        }
        match (self.kind, self.unit) {
            (Kind::Bool | Kind::Text, Some(unit)) => {
                Err(SchemaError::UnitOfNoNumber { position, name: self.name.clone(), kind: self.kind, unit })
            }
            _ => Ok(()),
        }
    }
}

impl Value {
    /// Checks the value against its field.
    fn check(&self, field: &Field) -> Result<(), ReadingError> {
        match (self, field.kind) {
            (Self::Null, _) | (Self::Bool(_), Kind::Bool) | (Self::Int(_), Kind::Int) => Ok(()),
            (Self::Float(number), Kind::Float) if number.is_finite() => Ok(()),
            (Self::Float(_), Kind::Float) => Err(ReadingError::NotFinite { field: field.name.clone() }),
            (Self::Text(text), Kind::Text) => super::reading::check_text(text, &field.name),
            _ => Err(ReadingError::WrongKind {
                field: field.name.clone(),
                expected: field.kind,
                found: self.kind_name(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Result<Schema, SchemaError> {
        Schema::new(vec![Field::new(name, Kind::Float)])
    }

    #[test]
    fn names_are_bounded_and_plain() {
        assert!(named("room_1.temperature-C").is_ok());
        assert!(named(&"n".repeat(64)).is_ok());
        assert_eq!(named(&"n".repeat(65)), Err(SchemaError::NameLength { position: 1, len: 65 }));
        assert_eq!(named(""), Err(SchemaError::NameLength { position: 1, len: 0 }));
        for (name, character) in [("a b", ' '), ("-a", '-'), (".a", '.'), ("tempé", 'é'), ("a\n", '\n')] {
            assert_eq!(named(name), Err(SchemaError::NameCharacter { position: 1, character }));
        }
    }

    #[test]
    fn names_are_distinct_and_fields_are_counted() {
        let twice = vec![Field::new("a", Kind::Int), Field::new("a", Kind::Float)];
        assert_eq!(Schema::new(twice), Err(SchemaError::NameTaken { position: 2, name: "a".into() }));
        let many = |n| Schema::new((0..n).map(|i| Field::new(format!("f{i}"), Kind::Int)).collect());
        assert!(many(MAX_FIELDS).is_ok());
        assert_eq!(many(MAX_FIELDS + 1), Err(SchemaError::FieldCount { count: MAX_FIELDS + 1 }));
        assert_eq!(many(0), Err(SchemaError::FieldCount { count: 0 }));
    }

    #[test]
    fn only_numbers_have_units() {
        let cel = Unit::new("Cel").unwrap();
        assert!(Schema::new(vec![Field::new("t", Kind::Float).with_unit(cel)]).is_ok());
        assert!(matches!(
            Schema::new(vec![Field::new("t", Kind::Text).with_unit(cel)]),
            Err(SchemaError::UnitOfNoNumber { position: 1, .. })
        ));
    }

    #[test]
    fn json_has_short_names() {
        let schema = Schema {
            fields: vec![
                Field::new("t", Kind::Float).with_unit(Unit::new("Cel").unwrap()),
                Field::new("on", Kind::Bool),
            ],
        };
        let json = serde_json::to_string(&schema).unwrap();
        assert_eq!(
            json,
            r#"{"fields":[{"name":"t","kind":"float","unit":"Cel"},{"name":"on","kind":"bool"}]}"#
        );
        assert_eq!(serde_json::from_str::<Schema>(&json).unwrap(), schema);
    }
}
