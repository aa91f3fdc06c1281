//! Readings as text: CSV with a header (RFC 4180), or one JSON object for each line.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sensora_protocol::stream::{Reading, Schema, Value};

use crate::args::RowFormat;
use crate::failure::{Failure, Outcome};
use crate::output::{Out, time_ns};

/// How readings are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowStyle {
    /// CSV or JSON lines.
    pub(super) format: RowFormat,
    /// Whether texts that a spreadsheet would run as a formula get a `'` before them.
    pub(super) spreadsheet_safe: bool,
}

/// Writes readings of one schema.
pub(super) struct RowWriter<W> {
    style: RowStyle,
    schema: Schema,
    to: W,
    rows: u64,
}

impl<W: Write> RowWriter<W> {
    /// Begins with the header, where the format has one.
    pub(super) fn new(style: RowStyle, schema: &Schema, mut to: W) -> io::Result<Self> {
        if style.format == RowFormat::Csv {
            to.write_all(b"seq,time")?;
            for field in &schema.fields {
                to.write_all(b",")?;
                cell(&mut to, &field.name)?;
            }
            to.write_all(b"\r\n")?;
        }
        Ok(Self { style, schema: schema.clone(), to, rows: 0 })
    }

    /// Writes one reading.
    pub(super) fn write(&mut self, reading: &Reading) -> io::Result<()> {
        self.rows = self.rows.saturating_add(1);
        match self.style.format {
            RowFormat::Csv => {
                write!(self.to, "{},{}", reading.seq, time_ns(reading.time))?;
                for value in &reading.values {
                    self.to.write_all(b",")?;
                    match value {
                        Value::Text(text) if self.style.spreadsheet_safe && is_formula(text) => {
                            cell(&mut self.to, &format!("'{text}"))?;
                        }
                        Value::Text(text) => cell(&mut self.to, text)?,
                        other => write!(self.to, "{other}")?,
                    }
                }
                self.to.write_all(b"\r\n")
            }
            RowFormat::Jsonl => {
                serde_json::to_writer(&mut self.to, &json(&self.schema, reading))?;
                self.to.write_all(b"\n")
            }
        }
    }

    /// Writes what is still in buffers.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// Writes what is still in buffers; answers the number of rows.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.to.flush()?;
        Ok(self.rows)
    }
}

/// A reading as JSON: its number, its time, and its values by the names of their fields.
pub(super) fn json(schema: &Schema, reading: &Reading) -> serde_json::Value {
    let values = schema.fields.iter().zip(&reading.values);
    let values: serde_json::Map<_, _> = values
        .map(|(field, value)| (field.name.clone(), sensora_protocol::evidence::to_json(value)))
        .collect();
    serde_json::json!({ "seq": reading.seq, "time": time_ns(reading.time), "values": values })
}

/// Where readings go: a file, or standard output for `-` and for none.
pub(super) fn open(path: Option<&Path>) -> Outcome<Box<dyn Write>> {
    match path {
        Some(path) if path != Path::new("-") => {
            let file = File::create(path).map_err(|error| Failure::file("write", path, &error))?;
            Ok(Box::new(BufWriter::new(file)))
        }
        _ => Ok(Box::new(Out::raw())),
    }
}

/// Whether a spreadsheet would run `text` as a formula (OWASP "CSV Injection").
fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'])
}

/// A cell, quoted where RFC 4180 asks for it.
fn cell(to: &mut impl Write, text: &str) -> io::Result<()> {
    if text.contains([',', '"', '\r', '\n']) || text.starts_with(' ') || text.ends_with(' ') {
        write!(to, "\"{}\"", text.replace('"', "\"\""))
    } else {
        to.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensora_protocol::stream::{Field, Kind};

    fn written(format: RowFormat, spreadsheet_safe: bool) -> String {
        let schema = Schema::new(vec![Field::new("t", Kind::Float), Field::new("note", Kind::Text)]).unwrap();
        let mut bytes = Vec::new();
        let mut writer = RowWriter::new(RowStyle { format, spreadsheet_safe }, &schema, &mut bytes).unwrap();
        let row = |seq, t, note: &str| Reading {
            seq,
            time: 1_386_018_900_000_000_000,
            values: vec![t, Value::Text(note.into())],
        };
        writer.write(&row(0, Value::Float(-5.0), "=1+1")).unwrap();
        writer.write(&row(1, Value::Null, "a, \"b\"")).unwrap();
        assert_eq!(writer.finish().unwrap(), 2);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn csv_is_rfc_4180_and_safe_for_spreadsheets_on_request() {
        let rows = "seq,time,t,note\r\n0,2013-12-02T21:15:00Z,-5,=1+1\r\n1,2013-12-02T21:15:00Z,,\"a, \"\"b\"\"\"\r\n";
        assert_eq!(written(RowFormat::Csv, false), rows);
        assert_eq!(written(RowFormat::Csv, true), rows.replace("=1+1", "'=1+1"));
        for text in ["+x", "-x", "@x", "\tx", "＝x"] {
            assert!(is_formula(text), "{text}");
        }
        assert!(!is_formula("x=1") && !is_formula(""));
    }

    #[test]
    fn json_lines_name_their_fields() {
        let text = written(RowFormat::Jsonl, true);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines[0],
            serde_json::json!({"seq": 0, "time": "2013-12-02T21:15:00Z", "values": {"t": -5.0, "note": "=1+1"}})
        );
        assert_eq!(lines[1]["values"]["t"], serde_json::Value::Null);
    }
}
