use sensora_chain::keys::PrivateKey;
use sensora_protocol::stream::{Field, Kind, Value};

use super::*;

fn recorder(folder: &std::path::Path) -> (Recorder, StreamId) {
    let identity = Identity::new(PrivateKey::from_bytes([7; 32]).unwrap());
    let store = Store::open(&folder.join("node.redb"), Network::Regtest, identity.public()).unwrap();
    let recorder = Recorder::open(store, identity, Network::Regtest, Clock::system()).unwrap();
    let schema = Schema::new(vec![Field::new("temperature", Kind::Float)]).unwrap();
    let stream = recorder.stream("temperature", &schema, None).unwrap().id;
    (recorder, stream)
}

fn readings(first: u64, count: u64) -> Vec<RawReading> {
    let time = |seq: u64| 1_700_000_000_000_000_000 + i64::try_from(seq).unwrap() * 1_000_000_000;
    let value = |seq: u64| Value::Float(f64::from(u32::try_from(seq % 100).unwrap()) / 10.0);
    (first..first + count).map(|seq| RawReading { time: time(seq), values: vec![value(seq)] }).collect()
}

/// Batches that end before, at and behind the ends of chunks, with a restart after each.
#[test]
fn a_log_does_not_depend_on_the_batches_it_came_in() {
    let folder = tempfile::tempdir().unwrap();
    let batches = [1, 0, 1022, 1, 1024, 1023, 2, 4096, 3000, 511, 1];
    let mut size = 0;
    for count in batches {
        let (recorder, stream) = recorder(folder.path());
        recorder.append(vec![(stream, readings(size, count))]).unwrap();
        size += count;
        assert_eq!(recorder.summary(&stream).unwrap().size, size);
    }
    let (in_batches, stream) = recorder(folder.path());
    let at_once = tempfile::tempdir().unwrap();
    let (at_once, _) = recorder(at_once.path());
    at_once.append(vec![(stream, readings(0, size))]).unwrap();

    let kept = in_batches.readings(&stream, 0, size).unwrap();
    assert_eq!(kept, at_once.readings(&stream, 0, size).unwrap());
    assert!(kept.iter().zip(0..).all(|(reading, seq)| reading.seq == seq));
    // Each recorder has its own secret, so the roots differ; each proves its readings under its own.
    for recorder in [in_batches, at_once] {
        let checkpoint = recorder.checkpoint(&stream).unwrap().unwrap();
        let schema = recorder.summary(&stream).unwrap().schema;
        for (first, end) in [(0, size), (1023, 1025), (2047, 4097), (size - 1, size)] {
            let page = recorder.page(&stream, first, end, size).unwrap();
            let proven = page.open(&schema, checkpoint.value(), first, end).unwrap();
            assert_eq!(proven.readings, recorder.readings(&stream, first, end).unwrap());
        }
    }
}

/// What a buyer of single readings is given leads to the checkpoint, for readings of sealed chunks and of the open one.
#[test]
fn single_readings_lead_to_the_checkpoint_wherever_they_are() {
    use sensora_protocol::market::reads::known::{Known, Subtree, subtrees};
    use sensora_protocol::stream::leaf;

    let folder = tempfile::tempdir().unwrap();
    let (recorder, stream) = recorder(folder.path());
    recorder.append(vec![(stream, readings(0, 2 * CHUNK_LEN + 300))]).unwrap();
    // A checkpoint inside of what is a sealed chunk later.
    let (old, size) = (CHUNK_LEN + 5, 2 * CHUNK_LEN + 300);
    for known_size in [old, size] {
        let mut known = Known::new();
        let roots = recorder.roots(&stream, &subtrees(0, known_size)).unwrap();
        let growth = known.grown(known_size, &roots, None).unwrap();
        let checkpoint = recorder.checkpoint_at(&stream, known_size).unwrap();
        assert_eq!((growth.root(), known_size), (checkpoint.value().root, checkpoint.value().size));
        known.take(growth, true);
        for seq in
            [0, 1, 1023, 1024, old - 1, 2047, 2048, size - 1].into_iter().filter(|seq| *seq < known_size)
        {
            let plan = known.ask(seq).unwrap();
            let way: Vec<Subtree> =
                (0..plan.levels).map(|level| Subtree { level, index: (seq >> level) ^ 1 }).collect();
            let single = recorder.single(&stream, seq).unwrap();
            assert!(recorder.is_at_hand(&stream, Some(seq), &way), "the chunk is open now");
            let hashes = recorder.roots(&stream, &way).unwrap();
            known.verify(seq, leaf::hash(&single.reading, &single.salt), plan, &hashes).unwrap();
            assert_eq!(recorder.readings(&stream, seq, seq + 1).unwrap(), [single.reading]);
        }
    }
    assert!(recorder.single(&stream, size).is_err());
    assert!(recorder.roots(&stream, &[Subtree { level: 10, index: 2 }]).is_err(), "it is not whole");
    assert!(recorder.roots(&stream, &[Subtree { level: 3, index: u64::MAX }]).is_err());
    assert!(recorder.checkpoint_at(&stream, size + 1).is_err());
}

/// Pages that are paid while they come: whole readings in order, none longer than a proof unit unless it is a single run.
#[test]
fn units_hold_no_more_than_a_proof_unit_or_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let (recorder, stream) = recorder(folder.path());
    // Noise takes about 8 bytes for each, so a chunk is half a unit; what does not vary takes next to nothing.
    let noise = |seq: u64| {
        let mixed = (seq ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from_bits(0x3ff0_0000_0000_0000 | ((mixed ^ (mixed >> 32)) >> 12))
    };
    let noisy = |(mut reading, seq): (RawReading, u64)| {
        reading.values = vec![Value::Float(noise(seq))];
        reading
    };
    let (half, size) = (7 * CHUNK_LEN + 100, 14 * CHUNK_LEN + 200);
    recorder.append(vec![(stream, readings(0, half).into_iter().zip(0..).map(noisy).collect())]).unwrap();
    recorder.append(vec![(stream, readings(half, size - half))]).unwrap();
    let checkpoint = recorder.checkpoint(&stream).unwrap().unwrap();
    let schema = recorder.summary(&stream).unwrap().schema;
    let (mut at, mut runs) = (3, Vec::new());
    while at < size {
        let pages = recorder.units(&stream, (at, size), size, 40_000).unwrap();
        assert!(!pages.is_empty(), "at {at}");
        for page in pages {
            let bytes: usize = page.runs.iter().map(bytes_of).sum();
            assert!(page.runs.len() == 1 || bytes <= PROOF_UNIT, "{bytes} bytes in {} runs", page.runs.len());
            let proven = page.open(&schema, checkpoint.value(), at, size).unwrap();
            assert_eq!(proven.readings, recorder.readings(&stream, at, proven.end()).unwrap());
            (at, runs) = (proven.end(), [runs, vec![page.runs.len()]].concat());
        }
    }
    assert_eq!((at, runs.iter().sum::<usize>()), (size, 15));
    assert!(runs.len() > 3, "noise is not one page: {runs:?}");
    assert!(runs.last().is_some_and(|last| *last > 2), "what is small goes together: {runs:?}");
}
