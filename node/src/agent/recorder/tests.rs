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
