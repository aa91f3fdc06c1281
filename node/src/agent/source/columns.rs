//! How a person points at a column, and what becomes of its name.

use std::fmt;
use std::str::FromStr;

use sensora_protocol::stream::schema::MAX_FIELDS;
use sensora_protocol::stream::{Field, Kind, Schema, Unit};
use serde::{Deserialize, Serialize};

use super::error::SourceError;

/// Longest name of a stream or a field, in bytes.
const MAX_NAME: usize = 64;

/// So many columns are listed in an error.
const LISTED: usize = 20;

/// A column by its name, or by its place in the row: `#1` is the first cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ColumnRef {
    /// By the name in the header, or the key in a JSON object.
    Name(String),
    /// By its place, counted from 0 here and from 1 in text.
    Index(usize),
}

/// A column to sell and what is known of it: `[field=]column[:kind[:unit]]`, e.g. `temperature=T1:float:Cel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ColumnSpec {
    /// The name of the field, where it is not that of the column.
    pub field: Option<String>,
    /// Which column.
    pub column: ColumnRef,
    /// The kind of its values; a number where none is given.
    pub kind: Option<Kind>,
    /// The unit of its values.
    pub unit: Option<Unit>,
}

/// A text that does not point at a column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` names no column: {reason}")]
pub struct ColumnSpecError {
    text: String,
    reason: String,
}

impl FromStr for ColumnRef {
    type Err = ColumnSpecError;

    fn from_str(text: &str) -> Result<Self, ColumnSpecError> {
        let wrong =
            |reason: &str| ColumnSpecError { text: super::error::quote(text), reason: reason.to_owned() };
        match text.trim().strip_prefix('#') {
            Some(index) => match index.parse::<usize>().ok().and_then(|index| index.checked_sub(1)) {
                Some(index) => Ok(Self::Index(index)),
                None => Err(wrong("after # comes the place of the cell, counted from 1")),
            },
            None if text.trim().is_empty() => Err(wrong("write its name, or # and its place")),
            None => Ok(Self::Name(text.trim().to_owned())),
        }
    }
}

impl fmt::Display for ColumnRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(index) => write!(f, "#{}", index.saturating_add(1)),
        }
    }
}

impl FromStr for ColumnSpec {
    type Err = ColumnSpecError;

    fn from_str(text: &str) -> Result<Self, ColumnSpecError> {
        let wrong = |reason: String| ColumnSpecError { text: super::error::quote(text), reason };
        let mut parts = text.splitn(3, ':');
        let name = parts.next().unwrap_or_default();
        let (field, column) = match name.split_once('=') {
            Some((field, column)) => (Some(field.trim().to_owned()), column),
            None => (None, name),
        };
        if let Some(field) = field.as_ref().filter(|field| !is_plain_name(field)) {
            return Err(wrong(format!("`{field}` is no field name: use A-Z a-z 0-9 _ . -")));
        }
        let kind = match parts.next().map(str::trim) {
            None | Some("") => None,
            Some("float") => Some(Kind::Float),
            Some("int") => Some(Kind::Int),
            Some("bool") => Some(Kind::Bool),
            Some("text") => Some(Kind::Text),
            Some(other) => {
                return Err(wrong(format!("`{other}` is no kind: it is float, int, bool or text")));
            }
        };
        let unit = match parts.next().map(str::trim) {
            None | Some("") => None,
            Some(unit) => Some(Unit::new(unit).map_err(|error| wrong(error.to_string()))?),
        };
        Ok(Self { field, column: column.parse()?, kind, unit })
    }
}

impl fmt::Display for ColumnSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = &self.field {
            write!(f, "{field}=")?;
        }
        write!(f, "{}", self.column)?;
        match (self.kind, self.unit) {
            (None, None) => Ok(()),
            (Some(kind), None) => write!(f, ":{kind}"),
            (None, Some(unit)) => write!(f, "::{unit}"),
            (Some(kind), Some(unit)) => write!(f, ":{kind}:{unit}"),
        }
    }
}

/// Gives a type its serde form through its text.
macro_rules! serde_as_text {
    ($type:ty, $error:ty) => {
        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
pub(super) use serde_as_text;

serde_as_text!(ColumnRef, ColumnSpecError);
serde_as_text!(ColumnSpec, ColumnSpecError);

/// Whether `name` can name a stream or a field as it is.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && plain_name(name) == name
}

/// What of `name` can name a stream or a field: other characters become `_`, and none stands at its ends.
pub(super) fn plain_name(name: &str) -> String {
    let mut plain = String::with_capacity(name.len().min(MAX_NAME));
    for character in name.chars() {
        let allowed = character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-');
        let character = if allowed { character } else { '_' };
        // Several characters that are not allowed leave one trace.
        if plain.len() < MAX_NAME && (allowed || !plain.ends_with('_')) {
            plain.push(character);
        }
    }
    let end = if name.ends_with('_') { plain.len() } else { plain.trim_end_matches('_').len() };
    plain.truncate(end);
    let start = plain.len() - plain.trim_start_matches(['_', '.', '-']).len();
    plain.split_off(start)
}

/// Finds a column among `names`.
pub(super) fn find(what: &str, names: &[String], column: &ColumnRef) -> Result<usize, SourceError> {
    let found = match column {
        ColumnRef::Index(index) => Some(*index).filter(|index| *index < names.len()),
        ColumnRef::Name(name) => names.iter().position(|known| known == name),
    };
    found.ok_or_else(|| {
        let text = column.to_string();
        SourceError::UnknownColumn {
            what: what.to_owned(),
            nearest: nearest(&text, names.iter().map(String::as_str)),
            column: super::error::quote(&text),
            available: list(names),
        }
    })
}

/// The name that looks most like `text`, if one does at all.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let wanted = text.to_lowercase();
    let distance = |name: &str| {
        let name = name.to_lowercase();
        // A unit left out at the end is one mistake, however many letters it has.
        let is_cut = wanted.len() >= 3 && name.len() > wanted.len() && name.starts_with(&wanted);
        if is_cut { 1 } else { strsim::damerau_levenshtein(&wanted, &name) }
    };
    names
        .map(|name| (distance(name), name))
        .filter(|(distance, name)| *distance <= name.chars().count().max(wanted.chars().count()) / 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name.to_owned())
}

/// The names for an error.
pub(super) fn list(names: &[String]) -> String {
    let mut text =
        names.iter().take(LISTED).map(|name| super::error::quote(name)).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED {
        text.push_str(", …");
    }
    text
}

/// The schema of these columns: name (to be made plain and distinct), kind and unit.
pub(super) fn schema(
    what: &str,
    columns: impl Iterator<Item = (String, Kind, Option<Unit>)>,
) -> Result<Schema, SourceError> {
    let mut fields: Vec<Field> = Vec::new();
    for (name, kind, unit) in columns {
        let mut plain = plain_name(&name);
        if plain.is_empty() {
            plain = format!("field{}", fields.len().saturating_add(1));
        }
        let mut distinct = plain.clone();
        let mut number = 2_u32;
        while fields.iter().any(|field| field.name == distinct) {
            plain.truncate(MAX_NAME - 4);
            distinct = format!("{plain}_{number}");
            number = number.saturating_add(1);
        }
        let field = Field::new(distinct, kind);
        fields.push(match unit {
            Some(unit) => field.with_unit(unit),
            None => field,
        });
        if fields.len() > MAX_FIELDS {
            break;
        }
    }
    Schema::new(fields).map_err(|source| SourceError::Schema { what: what.to_owned(), source })
}

/// The words under which a stream of these fields is found: what its units measure, then its fields' names.
pub(super) fn kinds(schema: &Schema) -> Vec<String> {
    const MOST: usize = 8;
    let of_unit = |unit: Unit| match unit.name() {
        "Cel" | "K" => Some("temperature"),
        "%RH" => Some("humidity"),
        "Pa" | "hPa" => Some("pressure"),
        "lx" => Some("light"),
        "W" | "kW" => Some("power"),
        "V" | "mV" => Some("voltage"),
        "A" | "mA" => Some("current"),
        "ppm" | "ppb" => Some("concentration"),
        "m/s" | "km/h" => Some("speed"),
        "dB" | "Bspl" => Some("sound"),
        "lat" | "lon" => Some("position"),
        _ => None,
    };
    let mut kinds: Vec<String> = Vec::new();
    let units = schema.fields.iter().filter_map(|field| field.unit.and_then(of_unit)).map(str::to_owned);
    let names = schema.fields.iter().map(|field| {
        let word: String = field
            .name
            .chars()
            .take(32)
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        word.trim_matches('-').to_owned()
    });
    for kind in units.chain(names) {
        if kinds.len() < MOST && !kind.is_empty() && !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_written_as_they_are_read() {
        for text in ["T", "#3", "T:float", "T:float:Cel", "T::Cel", "t=T (°C):int:Cel", "x=#1:text"] {
            let spec: ColumnSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
        }
        for (text, says) in [
            ("T:flaot", "float, int, bool or text"),
            ("T:float:Celsius", "Cel"),
            ("#0", "counted from 1"),
            ("#x", "counted from 1"),
            ("", "write its name"),
            ("a b=T", "no field name"),
        ] {
            let error = text.parse::<ColumnSpec>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn any_header_gives_plain_and_distinct_names() {
        for (name, plain) in [
            ("Temperature", "Temperature"),
            ("Temp (°C)", "Temp_C"),
            (" CO2 [ppm] ", "CO2_ppm"),
            ("_x_", "x_"),
            ("a__b", "a__b"),
            ("°", ""),
        ] {
            assert_eq!(plain_name(name), plain, "{name}");
        }
        assert_eq!(plain_name(&"n".repeat(100)).len(), 64);
        let names = ["°", "a b", "a_b", "a?b", "°"];
        let schema = schema("x", names.iter().map(|name| ((*name).to_owned(), Kind::Float, None))).unwrap();
        let names: Vec<_> = schema.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["field1", "a_b", "a_b_2", "a_b_3", "field5"]);
    }

    #[test]
    fn the_nearest_name_is_offered_only_where_it_is_near() {
        let names = ["Temperature", "Humidity"];
        assert_eq!(nearest("temprature", names.into_iter()).as_deref(), Some("Temperature"));
        assert_eq!(nearest("xyz", names.into_iter()), None);
    }
}
