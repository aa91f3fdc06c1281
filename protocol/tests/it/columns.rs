//! Columns and runs: they come back bit by bit, and no bytes of a stranger can do harm.

use proptest::prelude::*;
use sensora_protocol::codec;
use sensora_protocol::stream::chunk::{self, CHUNK_LEN, ChunkError, Run, Salts, SealedChunk};
use sensora_protocol::stream::columns::{self, ColumnsError, MAX_COLUMNS_LEN, MAX_COUNT};
use sensora_protocol::stream::completeness::CompletenessError;
use sensora_protocol::stream::leaf;
use sensora_protocol::stream::log::{MemoryLog, range_proof, root_of_leaves};
use sensora_protocol::stream::{Field, Kind, Reading, Salting, Schema, StreamSecret, Value};

use crate::recordings;

fn schema(kinds: &[Kind]) -> Schema {
    let field = |(i, kind): (usize, &Kind)| Field::new(format!("f{i}"), *kind);
    Schema::new(kinds.iter().enumerate().map(field).collect()).unwrap()
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Float), Just(Kind::Int), Just(Kind::Bool), Just(Kind::Text)]
}

fn value(kind: Kind) -> BoxedStrategy<Value> {
    let given = match kind {
        Kind::Float => prop_oneof![
            3 => (-5000..5000_i32).prop_map(|n| f64::from(n) / 10.0),
            1 => any::<f64>().prop_filter("finite", |float| float.is_finite()),
            1 => Just(-0.0),
        ]
        .prop_map(Value::Float)
        .boxed(),
        Kind::Int => prop_oneof![2 => -1000..1000_i64, 1 => any::<i64>()].prop_map(Value::Int).boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Text => prop_oneof![2 => "open|closed|ajar", 1 => "\\PC{0,20}"].prop_map(Value::Text).boxed(),
    };
    prop_oneof![8 => given, 1 => Just(Value::Null)].boxed()
}

fn run() -> impl Strategy<Value = (Schema, Vec<Reading>)> {
    let shape = (prop::collection::vec(kind(), 1..6), 1..70_usize, 0..1_u64 << 40, any::<bool>());
    shape.prop_flat_map(|(kinds, count, first, regular)| {
        let schema = schema(&kinds);
        let row = kinds.iter().map(|kind| value(*kind)).collect::<Vec<_>>();
        let time = if regular { (0..10_i64).boxed() } else { any::<i64>().boxed() };
        let rows = prop::collection::vec((row, time), count);
        (Just(schema), rows).prop_map(move |(schema, rows)| {
            let readings = (first..)
                .zip(rows)
                .map(|(seq, (values, time))| Reading {
                    seq,
                    time: if regular {
                        1_400_000_000_000_000_000 + (seq - first) as i64 * 1_000_000_000 + time
                    } else {
                        time
                    },
                    values,
                })
                .collect();
            (schema, readings)
        })
    })
}

/// Equal in every bit, which `==` is not for -0.0.
fn same(a: &[Reading], b: &[Reading]) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

proptest! {
    #[test]
    fn columns_come_back((schema, readings) in run()) {
        let bytes = columns::encode(&schema, &readings).unwrap();
        prop_assert!(bytes.len() <= MAX_COLUMNS_LEN);
        prop_assert_eq!(columns::count(&bytes), Ok(readings.len()));
        let back = columns::decode(&schema, &bytes, readings[0].seq, MAX_COUNT).unwrap();
        prop_assert!(same(&back, &readings));
        let fewer = columns::decode(&schema, &bytes, 0, readings.len() - 1);
        prop_assert_eq!(fewer, Err(ColumnsError::TooMany { count: readings.len(), max: readings.len() - 1 }));
    }

    #[test]
    fn cut_and_lengthened_bytes_are_refused((schema, readings) in run(), at in any::<prop::sample::Index>()) {
        let bytes = columns::encode(&schema, &readings).unwrap();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(columns::decode(&schema, cut, 0, MAX_COUNT).is_err());
        let mut longer = bytes;
        longer.push(0);
        prop_assert_eq!(columns::decode(&schema, &longer, 0, MAX_COUNT), Err(ColumnsError::Trailing { extra: 1 }));
    }

    #[test]
    fn mutated_bytes_never_panic(
        (schema, readings) in run(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = columns::encode(&schema, &readings).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(readings) = columns::decode(&schema, &bytes, 0, MAX_COUNT) {
            prop_assert!(readings.len() <= MAX_COUNT);
            prop_assert!(readings.iter().all(|reading| schema.check(reading).is_ok()));
        }
    }

    #[test]
    fn random_bytes_never_panic(kinds in prop::collection::vec(kind(), 1..4), mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let schema = schema(&kinds);
        let _ = columns::decode(&schema, &bytes, u64::MAX, MAX_COUNT);
        // With a header that passes, and integers that say they are compressed.
        bytes.splice(0..0, [1, 100, 0, 1, 60, 0x10]);
        let _ = columns::decode(&schema, &bytes, 0, MAX_COUNT);
    }

    #[test]
    fn runs_come_back_over_the_wire((schema, readings) in run()) {
        let secret = StreamSecret::from_bytes([9; 32]);
        let run = Run::new(&schema, &readings, &secret).unwrap();
        let bytes = codec::encode(&run).unwrap();
        let back: Run = codec::decode(&bytes, codec::MAX_FRAME).unwrap();
        prop_assert_eq!(&back, &run);
        let open = back.open(&schema).unwrap();
        prop_assert!(same(&open.readings, &readings));
        prop_assert_eq!(&open.leaves, &chunk::salted_leaves(&readings, &secret));
        let salt = secret.chunk(readings[0].seq / CHUNK_LEN).salt(readings[0].seq);
        prop_assert_eq!(open.leaves[0], leaf::hash(&readings[0], &salt));
    }
}

/// Many mutations of columns as long as real ones, where `pco` does the work.
#[test]
fn mutated_chunks_never_panic() {
    let schema = schema(&[Kind::Float, Kind::Int, Kind::Text]);
    let readings: Vec<Reading> = (0..CHUNK_LEN).map(weather).collect();
    let bytes = columns::encode(&schema, &readings).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut survived = 0;
    for _ in 0..4_000 {
        let mut changed = bytes.clone();
        for _ in 0..=random() % 3 {
            // Most of the harm is done near the beginning of a column.
            let at = random() as usize % if random() % 2 == 0 { 96 } else { changed.len() };
            changed[at] ^= 1 << (random() % 8);
        }
        survived += usize::from(columns::decode(&schema, &changed, 0, MAX_COUNT).is_ok());
    }
    assert!(survived < 4_000);
}

fn weather(seq: u64) -> Reading {
    let swing = ((seq * 2_654_435_761) >> 7) % 40;
    Reading {
        seq,
        time: 1_700_000_000_000_000_000 + seq as i64 * 60_000_000_000,
        values: vec![
            Value::Float((200 + swing) as f64 / 10.0),
            if seq % 50 == 3 { Value::Null } else { Value::Int(swing as i64 - 20) },
            Value::Text(["calm", "windy", "storm"][(swing % 3) as usize].into()),
        ],
    }
}

/// What was written once is read for ever: columns in a store, leaves in a signed root.
#[derive(serde::Deserialize, serde::Serialize)]
struct Golden {
    schema: Schema,
    stream_secret: String,
    readings: Vec<Reading>,
    columns: String,
    first_row: String,
    root: sensora_protocol::Hash,
}

#[test]
fn golden_columns_and_leaves_are_read() {
    let golden: Golden = serde_json::from_str(include_str!("../vectors/stream.json")).unwrap();
    let secret = StreamSecret::from_bytes(hex::decode(&golden.stream_secret).unwrap().try_into().unwrap());
    let bytes = hex::decode(&golden.columns).unwrap();
    let first = golden.readings[0].seq;
    let readings = columns::decode(&golden.schema, &bytes, first, MAX_COUNT).unwrap();
    assert!(same(&readings, &golden.readings));
    assert_eq!(root_of_leaves(&chunk::salted_leaves(&readings, &secret)), golden.root);
    let salt = secret.chunk(first / CHUNK_LEN).salt(first);
    assert_eq!(hex::encode(leaf::row(&readings[0], &salt)), golden.first_row);
}

#[test]
fn holes_and_strangers_are_named() {
    let schema = schema(&[Kind::Float, Kind::Int, Kind::Text]);
    let readings: Vec<Reading> = (5..10).map(weather).collect();
    assert_eq!(columns::encode(&schema, &[]), Err(ColumnsError::Count { count: 0 }));
    let many: Vec<Reading> = (0..=CHUNK_LEN).map(weather).collect();
    assert_eq!(columns::encode(&schema, &many), Err(ColumnsError::Count { count: 1025 }));
    let hole = [readings[0].clone(), readings[2].clone()];
    assert_eq!(columns::encode(&schema, &hole), Err(ColumnsError::NotConsecutive { expected: 6, found: 7 }));
    let mut wrong = readings.clone();
    wrong[3].values[0] = Value::Float(f64::NAN);
    assert!(matches!(columns::encode(&schema, &wrong), Err(ColumnsError::Reading { seq: 8, .. })));
    let bytes = columns::encode(&schema, &readings).unwrap();
    assert!(matches!(columns::decode(&schema, &bytes, u64::MAX - 3, 10), Err(ColumnsError::Damaged { .. })));
    let mut newer = bytes;
    newer[0] = 2;
    assert_eq!(columns::decode(&schema, &newer, 0, 10), Err(ColumnsError::Version { version: 2 }));
    assert_eq!(
        columns::decode(&schema, &vec![1; MAX_COLUMNS_LEN + 1], 0, 10),
        Err(ColumnsError::TooLong { len: MAX_COLUMNS_LEN + 1 })
    );
}

#[test]
fn the_longest_readings_fit_into_a_frame() {
    // 30 numbers that nothing can compress and a text that fills the row; and two texts that do.
    let mut kinds = vec![Kind::Float; 30];
    kinds.push(Kind::Text);
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ (state >> 29)
    };
    let mut text =
        |len: usize| -> String { (0..len).map(|_| char::from(b'!' + (random() % 90) as u8)).collect() };
    let texts: Vec<(String, String)> = (0..CHUNK_LEN).map(|_| (text(160), text(230))).collect();
    let numbers = schema(&kinds);
    let words = schema(&[Kind::Text, Kind::Text]);
    let secret = StreamSecret::from_bytes([1; 32]);
    for numeric in [true, false] {
        let readings: Vec<Reading> = (1..)
            .zip(&texts)
            .map(|(seq, (short, long))| {
                let values = if numeric {
                    let mut float = || Value::Float(f64::from_bits(random() & 0xbfff_ffff_ffff_ffff));
                    let mut values: Vec<Value> = (0..30).map(|_| float()).collect();
                    values.push(Value::Text(short.clone()));
                    values
                } else {
                    vec![Value::Text(long.clone()), Value::Text(long.chars().rev().collect())]
                };
                Reading { seq, time: random() as i64, values }
            })
            .collect();
        let schema = if numeric { &numbers } else { &words };
        let run = Run::new(schema, &readings, &secret).unwrap();
        assert!(matches!(&run.salts, Salts::Each(salts) if salts.len() == 1024));
        let frame = codec::encode(&run).unwrap();
        assert!(frame.len() < codec::MAX_FRAME - 64 * 1024, "{} bytes", frame.len());
        assert!(same(&run.open(schema).unwrap().readings, &readings));
    }
}

#[test]
fn a_chunk_is_sealed_and_opened() {
    let schema = schema(&[Kind::Float, Kind::Int, Kind::Text]);
    let stream = StreamSecret::from_bytes([3; 32]);
    let readings: Vec<Reading> = (2048..3072).map(weather).collect();
    let chunk = SealedChunk::seal(&schema, &readings, &stream.chunk(2)).unwrap();
    assert_eq!((chunk.index, chunk.first()), (2, 2048));
    assert_eq!(chunk.root, root_of_leaves(&chunk::salted_leaves(&readings, &stream)));
    let stored: SealedChunk = codec::decode(&codec::encode(&chunk).unwrap(), codec::MAX_FRAME).unwrap();
    assert_eq!(stored.open(&schema, &stream.chunk(2)).unwrap().readings, readings);
    assert_eq!(
        stored.open(&schema, &stream.chunk(3)),
        Err(ChunkError::WrongRoot { index: 2, root: chunk.root })
    );
    assert_eq!(Run::new(&schema, &readings, &stream).unwrap(), chunk.to_run(&stream.chunk(2)));
    for other in [&readings[1..], &readings[..1023]] {
        assert!(matches!(
            SealedChunk::seal(&schema, other, &stream.chunk(2)),
            Err(ChunkError::NotOneChunk { .. })
        ));
    }

    // A secret for anything but one full chunk would give away salts of readings that were not sold.
    let mut part = Run::new(&schema, &readings[..10], &stream).unwrap();
    part.salts = Salts::Secret(stream.chunk(2));
    assert_eq!(part.open(&schema), Err(ChunkError::NotOneChunk { first: 2048, count: 10 }));
    part.salts = Salts::Each(vec![[0; 16]; 9]);
    assert_eq!(part.open(&schema), Err(ChunkError::SaltCount { first: 2048, readings: 10, salts: 9 }));
    assert!(!format!("{part:?}").contains("[0, 0"), "salts are not printed");
}

#[test]
fn a_part_of_a_seeded_chunk_comes_with_the_seeds_of_its_readings_alone() {
    let schema = schema(&[Kind::Float, Kind::Int, Kind::Text]);
    let stream = StreamSecret::new([3; 32], Salting::Tree);
    let readings: Vec<Reading> = (2048..3072).map(weather).collect();
    let leaves = chunk::salted_leaves(&readings, &stream);
    let whole = Run::new(&schema, &readings, &stream).unwrap();
    assert!(matches!(&whole.salts, Salts::Secret(secret) if secret.as_bytes().len() == 16));
    assert_eq!(whole.open(&schema).unwrap().leaves, leaves);
    let sealed = SealedChunk::seal(&schema, &readings, &stream.chunk(2)).unwrap();
    assert_eq!((sealed.root, sealed.to_run(&stream.chunk(2))), (root_of_leaves(&leaves), whole));

    let part = Run::new(&schema, &readings[100..200], &stream).unwrap();
    let Salts::Seeds(seeds) = &part.salts else { panic!("{:?}", part.salts) };
    assert!(seeds.len() <= 13, "{}", seeds.len());
    let read: Run = codec::decode(&codec::encode(&part).unwrap(), codec::MAX_FRAME).unwrap();
    assert_eq!(read, part);
    assert_eq!(read.open(&schema).unwrap().leaves, leaves[100..200]);
    assert!(format!("{part:?}").contains(&format!("Seeds({} seeds)", seeds.len())), "seeds are not printed");

    // Seeds of more readings, and of fewer.
    for count in [99, 101] {
        let seeds = stream.chunk(2).seeds(2148, count).unwrap();
        let other = Run { salts: Salts::Seeds(seeds.clone()), ..part.clone() };
        let refused = ChunkError::SeedCount { first: 2148, readings: 100, seeds: seeds.len() };
        assert_eq!(other.open(&schema), Err(refused));
    }
    // The seed of the chunk would give away what was not sold.
    let root = Run { salts: Salts::Secret(stream.chunk(2)), ..part };
    assert_eq!(root.open(&schema), Err(ChunkError::NotOneChunk { first: 2148, count: 100 }));
    // Across chunks no seed has just these readings below it.
    let across: Vec<Reading> = (1020..1030).map(weather).collect();
    let across = Run::new(&schema, &across, &stream).unwrap();
    assert!(matches!(&across.salts, Salts::Each(salts) if salts.len() == 10));
    across.open(&schema).unwrap();
}

#[test]
fn a_page_is_opened_only_as_a_whole() {
    let schema = schema(&[Kind::Float, Kind::Int, Kind::Text]);
    let stream = StreamSecret::from_bytes([3; 32]);
    let readings: Vec<Reading> = (0..5000).map(weather).collect();
    let log = MemoryLog::from_leaves(chunk::salted_leaves(&readings, &stream));
    let (size, root) = (log.size(), log.root());
    let run = |first: usize, end: usize| Run::new(&schema, &readings[first..end], &stream).unwrap();
    let runs = [run(1000, 1024), run(1024, 2048), run(2048, 3072), run(3072, 3100)];
    let proof = range_proof(&log, 1000, 2100, size).unwrap();
    let open =
        |runs: &[Run], first, count| chunk::open_page(&schema, runs, first, count, &proof, size, &root);
    assert_eq!(open(&runs, 1000, 2100).unwrap(), readings[1000..3100]);

    assert_eq!(open(&runs[..3], 1000, 2100), Err(CompletenessError::Missing { seq: 3072 }.into()));
    let holed = [runs[0].clone(), runs[2].clone(), runs[3].clone()];
    assert_eq!(open(&holed, 1000, 2100), Err(CompletenessError::Missing { seq: 1024 }.into()));
    let doubled = [runs[0].clone(), runs[0].clone()];
    assert_eq!(open(&doubled, 1000, 2100), Err(CompletenessError::Repeated { seq: 1000 }.into()));
    assert_eq!(open(&runs, 1000, 2000), Err(CompletenessError::Outside { seq: 3000 }.into()));

    assert_eq!(
        open(&runs, 0, chunk::MAX_PAGE_COUNT + 1),
        Err(ChunkError::PageTooLarge { count: chunk::MAX_PAGE_COUNT + 1 })
    );

    let mut moved = runs.clone();
    moved[0] = run(500, 524);
    moved[0].first = 1000;
    assert!(matches!(open(&moved, 1000, 2100), Err(ChunkError::Proof(_))));
    let mut altered = runs;
    let mut other = readings[3072..3100].to_vec();
    other[5].values[0] = Value::Float(99.9);
    altered[3] = Run::new(&schema, &other, &stream).unwrap();
    assert!(matches!(open(&altered, 1000, 2100), Err(ChunkError::Proof(_))));
}

/// How many bytes of columns the recording takes for each reading, after every chunk came back bit by bit.
fn measure(recording: &recordings::Recording) -> f64 {
    let mut bytes = 0;
    for chunk in recording.readings.chunks(MAX_COUNT) {
        let columns = columns::encode(&recording.schema, chunk).unwrap();
        let back = columns::decode(&recording.schema, &columns, chunk[0].seq, MAX_COUNT).unwrap();
        assert!(same(&back, chunk));
        bytes += columns.len();
    }
    let each = bytes as f64 / recording.readings.len() as f64;
    eprintln!("{}: {} readings, {each:.2} bytes for each", recording.name, recording.readings.len());
    each
}

#[test]
fn real_recordings_come_back_and_are_small() {
    let Some(recordings) = recordings::load() else {
        eprintln!("SENSORA_DATA is not set: the real recordings are not tested");
        return;
    };
    let [machine, room] = recordings;
    assert_eq!((machine.readings.len(), room.readings.len()), (22_695, 2_665));
    assert!(measure(&machine) < 5.0);
    assert!(measure(&room) < 18.0);
}
