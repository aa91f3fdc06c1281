//! Cost of a stream: sealing, checkpoints, proofs, and what a buyer does with a delivery.
//!
//! `cargo bench -p sensora-protocol --bench stream`. With SENSORA_DATA set, it also prints what real recordings take.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may stop")]

#[path = "../tests/it/recordings.rs"]
mod recordings;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use sensora_protocol::Hash;
use sensora_protocol::stream::chunk::{CHUNK_LEN, CHUNK_LEVEL, MAX_PAGE_COUNT, open_page, salted_leaves};
use sensora_protocol::stream::columns::{self, MAX_COUNT};
use sensora_protocol::stream::log::{
    ChunkedLog, Frontier, MemoryLog, inclusion_proof, node_hash, range_proof, root_of_leaves,
    verify_inclusion,
};
use sensora_protocol::stream::{Field, Kind, Reading, Run, Schema, StreamSecret, Value};

const MILLION: u64 = 1_000_000;

fn main() {
    print_sizes();
    divan::main();
}

/// A thermometer that prints one decimal each second and drifts.
fn thermometer(count: u64) -> (Schema, Vec<Reading>) {
    let mut state = 88_172_645_463_325_252_u64;
    let mut tenths = 215_i32;
    let readings = (0..count)
        .map(|seq| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            tenths += [0, 0, 0, 0, 0, 1, -1, 0][(state >> 40) as usize % 8];
            Reading {
                seq,
                time: 1_700_000_000_000_000_000 + seq as i64 * 1_000_000_000,
                values: vec![Value::Float(f64::from(tenths) / 10.0)],
            }
        })
        .collect();
    (Schema { fields: vec![Field::new("temperature", Kind::Float)] }, readings)
}

fn secret() -> StreamSecret {
    StreamSecret::from_bytes([7; 32])
}

fn print_sizes() {
    let print = |name: &str, schema: &Schema, readings: &[Reading]| {
        let chunks = readings.chunks(MAX_COUNT).map(|chunk| columns::encode(schema, chunk).unwrap().len());
        let bytes = chunks.sum::<usize>() as f64 / readings.len() as f64;
        println!(
            "{name}: {} readings of {} values, {bytes:.2} bytes for each",
            readings.len(),
            schema.fields.len()
        );
    };
    let (schema, readings) = thermometer(100 * CHUNK_LEN);
    print("thermometer, one decimal each second", &schema, &readings);
    for recording in recordings::load().into_iter().flatten() {
        print(recording.name, &recording.schema, &recording.readings);
    }
}

#[divan::bench]
fn inner_node(bencher: Bencher<'_, '_>) {
    let (left, right) = (Hash([1; 32]), Hash([2; 32]));
    bencher.counter(ItemsCount::new(1_u64)).bench(|| node_hash(black_box(&left), black_box(&right)));
}

#[divan::bench]
fn encode_chunk(bencher: Bencher<'_, '_>) {
    let (schema, readings) = thermometer(CHUNK_LEN);
    bencher.counter(ItemsCount::new(CHUNK_LEN)).bench(|| columns::encode(&schema, black_box(&readings)));
}

#[divan::bench]
fn decode_chunk(bencher: Bencher<'_, '_>) {
    let (schema, readings) = thermometer(CHUNK_LEN);
    let bytes = columns::encode(&schema, &readings).unwrap();
    bencher
        .counter(ItemsCount::new(CHUNK_LEN))
        .counter(BytesCount::new(bytes.len()))
        .bench(|| columns::decode(&schema, black_box(&bytes), 0, MAX_COUNT));
}

/// From readings to the root that is signed: salts, rows, leaves and nodes.
#[divan::bench(sample_count = 10)]
fn checkpoint_of_a_million(bencher: Bencher<'_, '_>) {
    let (_, readings) = thermometer(MILLION);
    let secret = secret();
    bencher.counter(ItemsCount::new(MILLION)).bench(|| {
        let mut frontier = Frontier::new();
        for chunk in readings.chunks(MAX_COUNT) {
            for leaf in salted_leaves(chunk, &secret) {
                frontier.push_leaf(leaf);
            }
        }
        frontier.root()
    });
}

/// A seller's log of a million readings, of which only the roots of chunks are kept.
fn sold() -> (Schema, Vec<Reading>, MemoryLog) {
    let (schema, readings) = thermometer(MILLION);
    let log = MemoryLog::from_leaves(salted_leaves(&readings, &secret()));
    (schema, readings, log)
}

#[divan::bench]
fn make_range_proof_in_a_million(bencher: Bencher<'_, '_>) {
    let (_, _, log) = sold();
    bencher.bench(|| range_proof(&log, black_box(300_001), 20_000, MILLION));
}

#[divan::bench]
fn make_range_proof_from_chunk_roots(bencher: Bencher<'_, '_>) {
    let (_, readings) = thermometer(MILLION);
    let leaves = salted_leaves(&readings, &secret());
    let roots: Vec<Hash> = leaves.chunks_exact(MAX_COUNT).map(root_of_leaves).collect();
    let tail = leaves[roots.len() * MAX_COUNT..].to_vec();
    struct Kept(Vec<Hash>);
    impl sensora_protocol::stream::log::ChunkLeaves for &Kept {
        type Error = sensora_protocol::stream::log::MissingNode;
        fn leaves(&self, chunk: u64) -> Result<Vec<Hash>, Self::Error> {
            let first = (chunk << CHUNK_LEVEL) as usize;
            Ok(self.0[first..first + MAX_COUNT].to_vec())
        }
    }
    let kept = Kept(leaves);
    // Two chunks are cut, and must be hashed again.
    bencher
        .with_inputs(|| ChunkedLog::new(roots.iter().copied(), tail.iter().copied(), &kept))
        .bench_refs(|log| range_proof(log, black_box(300_001), 20_000, MILLION));
}

#[divan::bench]
fn verify_inclusion_in_a_million(bencher: Bencher<'_, '_>) {
    let (_, readings, log) = sold();
    let proof = inclusion_proof(&log, 654_321, MILLION).unwrap();
    let leaf = salted_leaves(&readings[654_321..=654_321], &secret())[0];
    let root = log.root();
    bencher.bench(|| verify_inclusion(black_box(&leaf), 654_321, MILLION, &proof, &root));
}

/// What a buyer does with a delivery: decode, recompute the leaves, and check them against the signed root.
#[divan::bench(sample_count = 20)]
fn verify_the_largest_page(bencher: Bencher<'_, '_>) {
    let (schema, readings, log) = sold();
    let (first, count) = (300 * CHUNK_LEN, MAX_PAGE_COUNT);
    let range = &readings[first as usize..(first + count) as usize];
    let runs: Vec<Run> =
        range.chunks(MAX_COUNT).map(|chunk| Run::new(&schema, chunk, &secret()).unwrap()).collect();
    let proof = range_proof(&log, first, count, MILLION).unwrap();
    let root = log.root();
    bencher
        .counter(ItemsCount::new(count))
        .bench(|| open_page(&schema, black_box(&runs), first, count, &proof, MILLION, &root).unwrap().len());
}

#[divan::bench]
fn verify_twenty_readings(bencher: Bencher<'_, '_>) {
    let (schema, readings, log) = sold();
    let runs = [Run::new(&schema, &readings[500_000..500_020], &secret()).unwrap()];
    let proof = range_proof(&log, 500_000, 20, MILLION).unwrap();
    let root = log.root();
    bencher
        .counter(ItemsCount::new(20_u64))
        .bench(|| open_page(&schema, black_box(&runs), 500_000, 20, &proof, MILLION, &root).unwrap().len());
}
