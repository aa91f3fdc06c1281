//! Bytes of the whole store for each reading: columns, salts' secret, chunk index, the tables' trees, the file's own pages.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use sensora_node::agent::source::{CsvSpec, RawReading, Source, SourceSpec};
use sensora_node::clock::Clock;
use sensora_protocol::stream::Schema;

use super::{Thermometer, open, schema};

/// Appends go to the store in batches of this many readings.
const BATCH: usize = 1000;

/// Prints what a synthetic series and the recordings in SENSORA_DATA take.
pub(super) fn print_sizes() {
    println!("on disk: the store of one stream, bytes for each reading");
    println!(
        "{:<36} {:>9} {:>7} {:>9} {:>10} {:>10} {:>10}",
        "stream", "readings", "values", "columns", "+ tables", "file", "compacted"
    );
    print("thermometer, one decimal each second", &schema(), Thermometer::new().readings(1_000_000));
    let Some(folder) = std::env::var_os("SENSORA_DATA").map(PathBuf::from) else {
        return println!("SENSORA_DATA is not set: no real recordings\n");
    };
    for name in ["nab_machine_temperature.csv", "uci_occupancy_datatest.csv"] {
        let (schema, readings) = recording(&folder.join(name));
        print(name, &schema, readings);
    }
    println!();
}

fn print(name: &str, schema: &Schema, readings: Vec<RawReading>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.redb");
    let size = || std::fs::metadata(&path).unwrap().len();
    let empty = {
        drop(open(folder.path()));
        compact(&path);
        size()
    };
    let count = readings.len();
    {
        let recorder = open(folder.path());
        let stream = recorder.stream("stream", schema, None).unwrap().id;
        for batch in readings.chunks(BATCH) {
            recorder.append(vec![(stream, batch.to_vec())]).unwrap();
        }
    }
    let grown = size();
    let (columns, tables) = tables(&path);
    compact(&path);
    let each = |bytes: u64| bytes as f64 / count as f64;
    println!(
        "{name:<36} {count:>9} {:>7} {:>9.2} {:>10.2} {:>10.2} {:>10.2}",
        schema.fields.len(),
        each(columns),
        each(tables),
        each(grown.saturating_sub(empty)),
        each(size().saturating_sub(empty)),
    );
}

fn compact(path: &Path) {
    Database::create(path).unwrap().compact().unwrap();
}

/// Bytes of the columns of full chunks, and of everything a stream keeps: columns, index, open chunk and their keys.
fn tables(path: &Path) -> (u64, u64) {
    let db = Database::open(path).unwrap();
    let tx = db.begin_read().unwrap();
    let stored = |name| {
        let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(name);
        tx.open_table(table).unwrap().stats().unwrap().stored_bytes()
    };
    let kept = ["streams", "chunks", "chunk_index", "tail"].map(stored);
    (stored("chunks"), kept.iter().sum())
}

/// A recording as an agent reads it.
fn recording(path: &Path) -> (Schema, Vec<RawReading>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spec = SourceSpec::Csv(CsvSpec::new(path));
        let (mut streams, mut source) = Source::open(&spec, None, &Clock::system()).await.unwrap();
        let mut readings = Vec::new();
        while let Some(batch) = source.next().await.unwrap() {
            readings.extend(batch.readings.into_iter().map(|(_, reading)| reading));
        }
        (streams.remove(0).schema, readings)
    })
}
