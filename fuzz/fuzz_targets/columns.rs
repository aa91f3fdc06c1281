//! Columns under a schema that the first bytes choose: what comes out fits the schema.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_protocol::stream::{Field, Kind, Schema, columns};

fuzz_target!(|bytes: &[u8]| {
    let Some(([kinds, first], columns)) = bytes.split_first_chunk::<2>() else { return };
    let kind = |i: u8| [Kind::Float, Kind::Int, Kind::Bool, Kind::Text][usize::from(kinds >> (2 * i) & 3)];
    let fields = (0..4).map(|i| Field::new(format!("f{i}"), kind(i))).collect();
    let schema = Schema::new(fields).unwrap();
    // Near the beginning, or near the largest sequence number.
    let first = if first & 1 == 0 { u64::from(*first) } else { u64::MAX - u64::from(*first) };
    if let Ok(readings) = columns::decode(&schema, columns, first, columns::MAX_COUNT) {
        assert!(readings.len() <= columns::MAX_COUNT);
        assert!(readings.iter().all(|reading| schema.check(reading).is_ok()));
        let again = columns::encode(&schema, &readings).unwrap();
        let back = columns::decode(&schema, &again, first, columns::MAX_COUNT).unwrap();
        assert_eq!(format!("{back:?}"), format!("{readings:?}"));
    }
});
