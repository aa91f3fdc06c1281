//! One line, one reading: a JSON object, a JSON array or CSV cells.
//!
//! In an object a field is found by its name; in an array or a CSV line by its place, which is `#N` where that is
//! given and the order of the fields otherwise. A line without a time of its own gets the time at which it arrived.

use sensora_protocol::stream::{Kind, Schema, Unit, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::RawReading;
use super::columns::{self, ColumnRef, ColumnSpec};
use super::csv::Delimiter;
use super::csv_rows::{Row, RowRead, Rows};
use super::error::{RowError, RowProblem, SourceError, quote};
use super::rows::value_from_text;
use super::time_format::{TimeFormat, TimeParser, Zone};

/// What a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineFormat {
    /// JSON where it begins with `{` or `[`, CSV otherwise.
    #[default]
    Auto,
    /// A JSON object or array.
    Json,
    /// CSV cells.
    Csv,
}

/// How lines are read; the options that all sources of lines share.
#[derive(Clone, Debug)]
pub(super) struct LineSpec {
    pub(super) format: LineFormat,
    pub(super) delimiter: Delimiter,
    pub(super) fields: Vec<ColumnSpec>,
    pub(super) time: Option<ColumnRef>,
    pub(super) time_format: TimeFormat,
    pub(super) zone: Zone,
    pub(super) null: Vec<String>,
}

impl LineSpec {
    pub(super) fn validate(&self) -> Result<(), SourceError> {
        match (&self.time, self.format) {
            (Some(ColumnRef::Name(name)), LineFormat::Csv) => Err(SourceError::Option {
                option: "time",
                value: name.clone(),
                expected: "the place of a cell in a CSV line, such as #1, because a line has no names",
            }),
            _ => Ok(()),
        }
    }
}

/// Reads lines of one stream.
#[derive(Debug)]
pub(super) struct LineParser {
    spec: LineSpec,
    fields: Vec<LineField>,
    /// Settled by the first time that is read.
    time_parser: Option<TimeParser>,
}

#[derive(Debug)]
struct LineField {
    place: ColumnRef,
    name: String,
    kind: Kind,
    unit: Option<Unit>,
}

/// A line, taken apart.
enum Parts {
    Object(serde_json::Map<String, Json>),
    List(Vec<Json>),
}

impl LineParser {
    /// For the configured fields; `None` where none are, see [`LineParser::learn`].
    pub(super) fn configured(spec: &LineSpec) -> Option<Self> {
        let fields: Vec<LineField> = spec
            .fields
            .iter()
            .map(|field| LineField {
                place: field.column.clone(),
                name: field.field.clone().unwrap_or_else(|| match &field.column {
                    ColumnRef::Name(name) => name.clone(),
                    ColumnRef::Index(index) => format!("value{}", index.saturating_add(1)),
                }),
                kind: field.kind.unwrap_or(Kind::Float),
                unit: field.unit,
            })
            .collect();
        (!fields.is_empty()).then(|| Self { spec: spec.clone(), fields, time_parser: None })
    }

    /// Learns the fields from a first line: all its numbers (as floats), truth values and texts, but for the time.
    /// The fields of an object are ordered by name, so that the same device gives the same schema again.
    pub(super) fn learn(spec: &LineSpec, line: &[u8]) -> Result<Self, RowProblem> {
        let kind = |value: &Json| match value {
            Json::Bool(_) => Some(Kind::Bool),
            Json::Number(_) | Json::Null => Some(Kind::Float),
            Json::String(text) if text.parse::<f64>().is_ok() => Some(Kind::Float),
            Json::String(_) => Some(Kind::Text),
            Json::Array(_) | Json::Object(_) => None,
        };
        let field = |place: ColumnRef, name: String, value: &Json| {
            Some(LineField {
                kind: kind(value).filter(|_| Some(&place) != spec.time.as_ref())?,
                place,
                name,
                unit: None,
            })
        };
        let fields: Vec<LineField> = match take_apart(spec, line)? {
            Parts::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_unstable_by_key(|(name, _)| *name);
                let named = |(name, value): (&String, &Json)| {
                    field(ColumnRef::Name(name.clone()), name.clone(), value)
                };
                entries.into_iter().filter_map(named).collect()
            }
            Parts::List(list) => {
                let is_alone = list.len() <= 1 + usize::from(spec.time.is_some());
                let name = |index: usize| {
                    if is_alone { "value".to_owned() } else { format!("value{}", index.saturating_add(1)) }
                };
                let placed = |(index, value)| field(ColumnRef::Index(index), name(index), value);
                list.iter().enumerate().filter_map(placed).collect()
            }
        };
        if fields.is_empty() {
            return Err(RowProblem::NoField);
        }
        Ok(Self { spec: spec.clone(), fields, time_parser: None })
    }

    /// The schema of the stream.
    pub(super) fn schema(&self, what: &str) -> Result<Schema, SourceError> {
        columns::schema(what, self.fields.iter().map(|field| (field.name.clone(), field.kind, field.unit)))
    }

    /// Reads one line that arrived at `arrived`.
    pub(super) fn read(&mut self, line: &[u8], number: u64, arrived: i64) -> Result<RawReading, RowError> {
        let error =
            |column: Option<&str>, problem| RowError { line: number, column: column.map(quote), problem };
        let parts = take_apart(&self.spec, line).map_err(|problem| error(None, problem))?;
        let time = match &self.spec.time {
            None => arrived,
            Some(place) => {
                let text = match parts.get(place) {
                    Some(Json::String(text)) => text.clone(),
                    Some(Json::Number(number)) => number.to_string(),
                    _ => return Err(error(Some(&place.to_string()), RowProblem::NoTime)),
                };
                let time = match &self.time_parser {
                    Some(parser) => parser.parse(&text),
                    None => TimeParser::settle(&self.spec.time_format, &self.spec.zone, &text).and_then(
                        |parser| {
                            let time = parser.parse(&text);
                            self.time_parser = Some(parser);
                            time
                        },
                    ),
                };
                time.map_err(|source| error(Some(&place.to_string()), RowProblem::Time(source)))?
            }
        };
        if let Parts::List(list) = &parts {
            self.check_length(list.len()).map_err(|problem| error(None, problem))?;
        }
        let mut values = Vec::with_capacity(self.fields.len());
        let mut is_any = false;
        for (order, field) in self.fields.iter().enumerate() {
            let value = match (&parts, &field.place) {
                (Parts::List(list), ColumnRef::Name(_)) => list.get(self.place_of(order)),
                _ => parts.get(&field.place),
            };
            is_any |= value.is_some();
            let value =
                value.map_or(Ok(Value::Null), |value| value_from_json(value, field.kind, &self.spec.null));
            values.push(value.map_err(|problem| error(Some(&field.name), problem))?);
        }
        if !is_any {
            return Err(error(None, RowProblem::NoField));
        }
        Ok(RawReading { time, values })
    }

    /// The place in a list of the field that is `order`th, where fields are in order: the time's cell is left out.
    fn place_of(&self, order: usize) -> usize {
        match self.spec.time {
            Some(ColumnRef::Index(time)) if time <= order => order.saturating_add(1),
            _ => order,
        }
    }

    /// A list must reach the last place that is wanted, and where all fields are in order it must end there: one cell
    /// more or less would shift the meaning of all the others.
    fn check_length(&self, found: usize) -> Result<(), RowProblem> {
        let of_field = |(order, field): (usize, &LineField)| match field.place {
            ColumnRef::Index(index) => index,
            ColumnRef::Name(_) => self.place_of(order),
        };
        let of_time = match self.spec.time {
            Some(ColumnRef::Index(index)) => Some(index),
            _ => None,
        };
        let last = self.fields.iter().enumerate().map(of_field).chain(of_time).max().unwrap_or(0);
        let expected = last.saturating_add(1);
        let is_in_order = self.fields.iter().all(|field| matches!(field.place, ColumnRef::Name(_)));
        if found < expected || is_in_order && found > expected {
            return Err(RowProblem::CellCount { expected, found });
        }
        Ok(())
    }
}

impl Parts {
    fn get(&self, place: &ColumnRef) -> Option<&Json> {
        match (self, place) {
            (Self::Object(map), ColumnRef::Name(name)) => map.get(name),
            (Self::List(list), ColumnRef::Index(index)) => list.get(*index),
            _ => None,
        }
    }
}

fn take_apart(spec: &LineSpec, line: &[u8]) -> Result<Parts, RowProblem> {
    let is_json = match spec.format {
        LineFormat::Json => true,
        LineFormat::Csv => false,
        LineFormat::Auto => matches!(line.trim_ascii_start().first(), Some(b'{' | b'[')),
    };
    if is_json {
        return match serde_json::from_slice(line) {
            Ok(Json::Object(map)) => Ok(Parts::Object(map)),
            Ok(Json::Array(list)) => Ok(Parts::List(list)),
            Ok(_) => Err(RowProblem::Json { detail: format!("`{}`", quote(&String::from_utf8_lossy(line))) }),
            Err(error) => Err(RowProblem::Json { detail: error.to_string() }),
        };
    }
    let text = std::str::from_utf8(line).map_err(|_| RowProblem::NotText)?;
    let mut row = Row::default();
    let delimiter = spec.delimiter.or_look_at(line);
    match Rows::of_length(text.as_bytes(), delimiter, text.len()).read(&mut row) {
        Ok(RowRead::Row) => {
            let cells = row.cells().map(|cell| Json::String(String::from_utf8_lossy(cell).trim().to_owned()));
            Ok(Parts::List(cells.collect()))
        }
        _ => Err(RowProblem::TooLong { max: super::line_feed::MAX_LINE }),
    }
}

fn value_from_json(value: &Json, kind: Kind, null: &[String]) -> Result<Value, RowProblem> {
    let wrong = || RowProblem::Value { text: quote(&value.to_string()), kind };
    match (value, kind) {
        (Json::Null, _) => Ok(Value::Null),
        (Json::Bool(truth), Kind::Bool) => Ok(Value::Bool(*truth)),
        (Json::Number(number), Kind::Float) => number.as_f64().map(Value::Float).ok_or_else(wrong),
        (Json::Number(number), Kind::Int) => number.as_i64().map(Value::Int).ok_or_else(wrong),
        (Json::String(text), Kind::Text) if !text.is_empty() && !null.contains(text) => {
            Ok(Value::Text(text.clone()))
        }
        (Json::String(text), _) => value_from_text(text, kind, null),
        (Json::Number(number), Kind::Bool | Kind::Text) => value_from_text(&number.to_string(), kind, null),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(fields: &[&str], time: Option<&str>) -> LineSpec {
        LineSpec {
            format: LineFormat::Auto,
            delimiter: Delimiter::default(),
            fields: fields.iter().map(|field| field.parse().unwrap()).collect(),
            time: time.map(|time| time.parse().unwrap()),
            time_format: TimeFormat::Auto,
            zone: Zone::default(),
            null: super::super::rows::default_null(),
        }
    }

    fn read(spec: &LineSpec, line: &str) -> Result<RawReading, RowProblem> {
        LineParser::configured(spec).unwrap().read(line.as_bytes(), 1, 5).map_err(|error| error.problem)
    }

    #[test]
    fn an_object_an_array_and_cells_give_the_same_reading() {
        let fields = ["t:float:Cel", "n:int", "on:bool", "note:text"];
        let values = vec![Value::Float(21.5), Value::Int(3), Value::Bool(true), Value::Text("a, b".into())];
        let expected = Ok(RawReading { time: 5, values });
        let without = spec(&fields, None);
        assert_eq!(read(&without, r#"{"x":[1,{}],"note":"a, b","on":true,"n":3,"t":21.5}"#), expected);
        assert_eq!(read(&without, r#" [21.5,3,true,"a, b"]"#), expected);
        assert_eq!(read(&without, r#"21.5, 3, yes, "a, b""#.replace(", \"", ",\"").as_str()), expected);
        assert_eq!(read(&without, r#"{"t":"21.5","n":"3","on":1,"note":"a, b"}"#), expected);

        let expected = expected.map(|reading| RawReading { time: 1_422_886_740_500_000_000, ..reading });
        let by_place = spec(&fields, Some("#2"));
        assert_eq!(read(&by_place, r#"[21.5,1422886740.5,3,true,"a, b"]"#), expected);
        assert_eq!(read(&by_place, r#"21.5,2015-02-02 14:19:00.5,3,1,"a, b""#), expected);
        let by_name = spec(&fields, Some("at"));
        let line = r#"{"at":"2015-02-02T15:19:00.5+01:00","note":"a, b","on":true,"n":3,"t":21.5}"#;
        assert_eq!(read(&by_name, line), expected);
    }

    #[test]
    fn what_is_missing_is_no_value_and_what_is_wrong_is_an_error() {
        let spec = spec(&["t", "n:int"], None);
        let values = |line| read(&spec, line).map(|reading| reading.values);
        assert_eq!(values(r#"{"t":1}"#), Ok(vec![Value::Float(1.0), Value::Null]));
        assert_eq!(values(r#"{"t":null,"n":2}"#), Ok(vec![Value::Null, Value::Int(2)]));
        assert_eq!(values("NA,"), Ok(vec![Value::Null, Value::Null]));
        assert_eq!(values(r#"{"error":"sensor gone"}"#), Err(RowProblem::NoField));
        for line in ["1", "1,2,3", "[1]", "[1,2,3]"] {
            assert!(matches!(values(line), Err(RowProblem::CellCount { expected: 2, .. })), "{line}");
        }
        for line in [r#"{"t":"#, r#"{"t":NaN}"#, r#"{"t":1e999}"#, "[1,2] 3", "[", "{}}"] {
            assert!(matches!(values(line), Err(RowProblem::Json { .. })), "{line}");
        }
        for line in [r#"{"t":"NaN","n":1}"#, "inf,1", "-Infinity,1", "1e999,1"] {
            assert!(matches!(values(line), Err(RowProblem::NotFinite { .. })), "{line}");
        }
        for line in
            [r#"{"t":[1]}"#, r#"{"n":1.5}"#, r#"{"n":9223372036854775808}"#, "x,1", "1,1.5", r#"{"t":true}"#]
        {
            assert!(matches!(values(line), Err(RowProblem::Value { .. })), "{line}");
        }
        assert!(matches!(values(&"[".repeat(10_000)), Err(RowProblem::Json { .. })));
        let mut parser = LineParser::configured(&spec).unwrap();
        assert_eq!(parser.read(b"1,\xff", 7, 0).unwrap_err().problem, RowProblem::NotText);
        let with_time = super::tests::spec(&["t"], Some("at"));
        assert_eq!(read(&with_time, r#"{"t":1}"#), Err(RowProblem::NoTime));
        assert!(matches!(read(&with_time, r#"{"t":1,"at":"noon"}"#), Err(RowProblem::Time(_))));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "[\\[\\]{}\",:a1.e\\-\\\\ \u{ff}]{0,60}", time in proptest::option::of("#[1-3]|a")) {
            let spec = spec(&["a", "#2:int", "b:text"], time.as_deref());
            let _ = read(&spec, &line);
            if let Ok(mut parser) = LineParser::learn(&spec, line.as_bytes()) {
                parser.read(line.as_bytes(), 1, 0).ok();
            }
        }
    }

    #[test]
    fn a_first_line_teaches_the_fields() {
        let learn = |time, line: &str| {
            LineParser::learn(&spec(&[], time), line.as_bytes()).map(|parser| {
                let schema = parser.schema("x").unwrap();
                schema
                    .fields
                    .iter()
                    .map(|field| format!("{}:{}", field.name, field.kind))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        let line = r#"{"z":1,"at":"2015-02-02T15:19:00Z","b":true,"a b":"x","deep":{"x":1},"n":null}"#;
        assert_eq!(learn(Some("at"), line).unwrap(), "a_b:text b:bool n:float z:float");
        assert_eq!(learn(None, "21.5").unwrap(), "value:float");
        assert_eq!(learn(Some("#1"), "2015-02-02,21.5").unwrap(), "value:float");
        assert_eq!(learn(None, "[1,\"x\"]").unwrap(), "value1:float value2:text");
        assert_eq!(learn(None, "{}"), Err(RowProblem::NoField));
        assert!(matches!(learn(None, "[1"), Err(RowProblem::Json { .. })));
    }
}
