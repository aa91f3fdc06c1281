//! What recording costs: durable appends beside the bare store and the bare disk, opening a long history, making a page of it.
//!
//! `cargo bench -p sensora-node --bench recorder`. With SENSORA_DATA set, it also prints what real recordings take on disk. The stores are in the
//! folder for temporary files (TMPDIR): on a RAM disk a durable write costs nothing, and the figures say nothing.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may stop")]

#[path = "recorder/appends.rs"]
mod appends;
#[path = "recorder/on_disk.rs"]
mod on_disk;

use std::path::Path;
use std::sync::LazyLock;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use sensora_chain::Network;
use sensora_chain::keys::PrivateKey;
use sensora_node::agent::recorder::Recorder;
use sensora_node::agent::source::RawReading;
use sensora_node::clock::Clock;
use sensora_node::store::Store;
use sensora_protocol::stream::{CHUNK_LEN, Field, Kind, Schema, Value};
use sensora_protocol::{Identity, StreamId};
use tempfile::TempDir;

const MILLION: u64 = 1_000_000;
/// Readings of the larger of the two recordings, and of one page of it.
const PAGE: u64 = 22 * CHUNK_LEN;

fn main() {
    // Without `--bench` this is a test run: does it work at all?
    let is_bench = std::env::args().any(|word| word == "--bench");
    on_disk::print_sizes();
    appends::print_times(if is_bench { 400 } else { 2 });
    divan::main();
}

fn identity() -> Identity {
    Identity::new(PrivateKey::from_bytes([7; 32]).unwrap())
}

fn schema() -> Schema {
    Schema::new(vec![Field::new("temperature", Kind::Float)]).unwrap()
}

fn open(folder: &Path) -> Recorder {
    let identity = identity();
    let store = Store::open(&folder.join("node.redb"), Network::Regtest, identity.public()).unwrap();
    Recorder::open(store, identity, Network::Regtest, Clock::system()).unwrap()
}

/// A thermometer with one decimal that is read each second and drifts.
struct Thermometer {
    tenths: i32,
    random: u64,
    time: i64,
}

impl Thermometer {
    fn new() -> Self {
        Self { tenths: 215, random: 88_172_645_463_325_252, time: 1_700_000_000_000_000_000 }
    }

    fn readings(&mut self, count: usize) -> Vec<RawReading> {
        let next = || {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.tenths += match (self.random >> 40) % 8 {
                5 => 1,
                6 => -1,
                _ => 0,
            };
            self.time += 1_000_000_000;
            RawReading { time: self.time, values: vec![Value::Float(f64::from(self.tenths) / 10.0)] }
        };
        std::iter::repeat_with(next).take(count).collect()
    }
}

/// A recorder of one stream on disk.
struct Recording {
    recorder: Recorder,
    stream: StreamId,
    sensor: Thermometer,
    _folder: TempDir,
}

impl Recording {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recorder = open(folder.path());
        let stream = recorder.stream("temperature", &schema(), None).unwrap().id;
        Self { recorder, stream, sensor: Thermometer::new(), _folder: folder }
    }
}

/// A history of a million readings in a folder.
static MILLION_READINGS: LazyLock<(TempDir, StreamId)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path());
    let stream = recorder.stream("temperature", &schema(), None).unwrap().id;
    let mut sensor = Thermometer::new();
    let mut left = MILLION as usize;
    while left > 0 {
        let batch = left.min(4096);
        recorder.append(vec![(stream, sensor.readings(batch))]).unwrap();
        left -= batch;
    }
    (folder, stream)
});

/// From the file to a recorder that can sign a checkpoint.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn open_a_million(bencher: Bencher<'_, '_>) {
    let (folder, stream) = &*MILLION_READINGS;
    let size = std::fs::metadata(folder.path().join("node.redb")).unwrap().len();
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let recorder = open(folder.path());
        assert_eq!(recorder.summary(stream).unwrap().size, MILLION);
        recorder
    });
}

/// The signature under a log of a million readings, whose root is kept up to date.
#[divan::bench(sample_count = 100)]
fn sign_a_checkpoint_of_a_million(bencher: Bencher<'_, '_>) {
    let (folder, stream) = &*MILLION_READINGS;
    let recorder = open(folder.path());
    bencher.bench_local(|| recorder.checkpoint(black_box(stream)).unwrap());
}

/// Whole chunks from the store, with their proof.
#[divan::bench(sample_count = 50)]
fn make_a_page(bencher: Bencher<'_, '_>) {
    let (folder, stream) = &*MILLION_READINGS;
    let recorder = open(folder.path());
    let first = 300 * CHUNK_LEN;
    bencher
        .counter(ItemsCount::new(PAGE))
        .bench_local(|| recorder.page(stream, black_box(first), first + PAGE, MILLION).unwrap());
}

/// The same number of readings from the middle of a chunk on: two chunks are cut, opened and hashed again.
#[divan::bench(sample_count = 50)]
fn make_a_page_that_cuts_chunks(bencher: Bencher<'_, '_>) {
    let (folder, stream) = &*MILLION_READINGS;
    let recorder = open(folder.path());
    let first = 300 * CHUNK_LEN + 500;
    bencher
        .counter(ItemsCount::new(PAGE))
        .bench_local(|| recorder.page(stream, black_box(first), first + PAGE, MILLION).unwrap());
}

/// The newest reading with its proof: what most purchases fetch.
#[divan::bench(sample_count = 100)]
fn make_a_page_of_the_newest(bencher: Bencher<'_, '_>) {
    let (folder, stream) = &*MILLION_READINGS;
    let recorder = open(folder.path());
    bencher.bench_local(|| recorder.page(stream, black_box(MILLION - 1), MILLION, MILLION).unwrap());
}

/// What the buyer does with a page: decode, recompute the leaves, check them against the signed root.
#[divan::bench(sample_count = 50)]
fn open_a_page(bencher: Bencher<'_, '_>) {
    let (folder, stream) = &*MILLION_READINGS;
    let recorder = open(folder.path());
    let (first, end) = (300 * CHUNK_LEN, 300 * CHUNK_LEN + PAGE);
    let page = recorder.page(stream, first, end, MILLION).unwrap();
    let checkpoint = recorder.checkpoint(stream).unwrap().unwrap();
    let schema = schema();
    bencher
        .counter(ItemsCount::new(PAGE))
        .bench_local(|| page.open(&schema, checkpoint.value(), first, end).unwrap().readings.len());
}
