//! Real recordings, from the folder that the environment variable `SENSORA_DATA` names.

use std::fs;
use std::path::PathBuf;

use sensora_protocol::stream::{Field, Kind, Reading, Schema, Value};

/// A recording as readings.
pub(crate) struct Recording {
    /// File name.
    pub(crate) name: &'static str,
    /// Its fields.
    pub(crate) schema: Schema,
    /// Its rows.
    pub(crate) readings: Vec<Reading>,
}

/// The machine's temperature and the office room, if the folder is given.
pub(crate) fn load() -> Option<[Recording; 2]> {
    let folder = PathBuf::from(std::env::var_os("SENSORA_DATA")?);
    let read = |name: &'static str, skipped: usize, fields: &[(&str, Kind, &str)]| {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let readings = (0..)
            .zip(text.lines().skip(1))
            .map(|(seq, line)| {
                let mut cells = line.split(',').skip(skipped);
                let time = time_of(cells.next().unwrap().trim_matches('"'));
                let values = fields.iter().zip(cells).map(|((_, kind, _), cell)| match kind {
                    Kind::Bool => Value::Bool(cell == "1"),
                    _ => Value::Float(cell.parse().unwrap()),
                });
                Reading { seq, time, values: values.collect() }
            })
            .collect();
        let field = |(name, kind, unit): &(&str, Kind, &str)| Field {
            unit: unit.parse().ok(),
            ..Field::new(*name, *kind)
        };
        Recording { name, schema: Schema::new(fields.iter().map(field).collect()).unwrap(), readings }
    };
    Some([
        read("nab_machine_temperature.csv", 0, &[("temperature", Kind::Float, "Cel")]),
        read(
            "uci_occupancy_datatest.csv",
            1,
            &[
                ("temperature", Kind::Float, "Cel"),
                ("humidity", Kind::Float, "%RH"),
                ("light", Kind::Float, "lx"),
                ("co2", Kind::Float, "ppm"),
                ("humidity_ratio", Kind::Float, "/"),
                ("occupancy", Kind::Bool, "none"),
            ],
        ),
    ])
}

/// `2013-12-02 21:15:00` in UTC, as nanoseconds since the Unix epoch.
fn time_of(text: &str) -> i64 {
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap();
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    // Days from 0000-03-01, so that a leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
    seconds * 1_000_000_000
}

#[test]
fn times_are_read_as_utc() {
    assert_eq!(time_of("1970-01-01 00:00:01"), 1_000_000_000);
    assert_eq!(time_of("2013-12-02 21:15:00"), 1_386_018_900_000_000_000);
    assert_eq!(time_of("2016-03-01 00:00:00"), 1_456_790_400_000_000_000);
}
