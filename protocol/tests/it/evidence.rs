//! Evidence files: what they show, what they refuse, and a second implementation that says the same.

use std::process::Command;

use sensora_chain::Network;
use sensora_chain::header::{HeaderChain, HeaderView};
use sensora_chain::spv::SpvError;
use sensora_protocol::anchor::{AnchorError, Standing};
use sensora_protocol::evidence::{Evidence, EvidenceError, EvidenceReading};
use sensora_protocol::stream::log::ProofError;
use sensora_protocol::stream::reading::ReadingError;
use sensora_protocol::stream::{Reading, SchemaError, Value, leaf};
use sensora_protocol::{Hash, StreamId};
use serde_json::json;

use crate::world::{NETWORK, Stream, World, identity, no_headers, schema};

fn world() -> (World, Evidence) {
    let mut world = World::new(1500);
    let evidence = world.evidence(1000, 1100, Some(true));
    (world, evidence)
}

#[test]
fn evidence_holds_as_far_as_it_goes() {
    let mut world = World::new(1500);
    let signed = world.evidence(1000, 1100, None);
    let verified = signed.verify(&no_headers()).unwrap();
    assert_eq!((verified.first, verified.count, verified.standing), (1000, 100, Standing::Signed));
    assert_eq!(verified.seller, world.seller.peer_id());

    let sent = world.evidence(0, 1500, Some(false));
    let standing = sent.verify(&world.chain.headers).unwrap().standing;
    assert!(matches!(standing, Standing::Broadcast { .. }), "{standing:?}");

    let mined = world.evidence(1499, 1500, Some(true));
    let height = world.chain.headers.tip_height();
    let standing = mined.verify(&world.chain.headers).unwrap().standing;
    assert!(matches!(standing, Standing::Mined { height: at, .. } if at == height), "{standing:?}");
    assert!(matches!(
        mined.verify(&no_headers()),
        Err(EvidenceError::Anchor(AnchorError::Spv(SpvError::NoHeader { .. })))
    ));

    let text = serde_json::to_string(&mined).unwrap();
    let back: Evidence = serde_json::from_str(&text).unwrap();
    assert_eq!(back, mined);
    assert_eq!(back.verify(&world.chain.headers), mined.verify(&world.chain.headers));
}

/// `tests/vectors/evidence.json` is a whole file, for whoever writes another reader.
#[test]
fn the_golden_evidence_is_what_is_written_and_holds() {
    let mut world = World::new(5);
    let evidence = world.evidence(1, 4, Some(true));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/evidence.json");
    if std::env::var("SENSORA_WRITE_GOLDEN").is_ok_and(|value| value == "1") {
        std::fs::write(path, serde_json::to_string_pretty(&evidence).unwrap() + "\n").unwrap();
    }
    let golden: Evidence = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(golden, evidence, "the format has changed");
    assert!(matches!(golden.verify(&world.chain.headers).unwrap().standing, Standing::Mined { .. }));
    if let Some(holds) = agree(&golden, &world.chain.headers) {
        assert!(holds);
    }
}

fn refused(change: impl FnOnce(&mut Evidence)) -> EvidenceError {
    let (world, mut evidence) = world();
    change(&mut evidence);
    evidence.verify(&world.chain.headers).unwrap_err()
}

fn not_included(change: impl FnOnce(&mut Evidence)) -> ProofError {
    match refused(change) {
        EvidenceError::NotIncluded { size: 1500, source } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn altered_readings_are_rejected() {
    let wrong_root = |error| assert!(matches!(error, ProofError::WrongRoot { .. }), "{error:?}");
    wrong_root(not_included(|e| e.readings[7].values[0] = json!(99.5)));
    wrong_root(not_included(|e| e.readings[7].values[1] = json!(null)));
    wrong_root(not_included(|e| e.readings[7].values[2] = json!(e.readings[7].values[2] == json!(false))));
    wrong_root(not_included(|e| e.readings[7].values[3] = json!("calm ")));
    wrong_root(not_included(|e| e.readings[7].time_ns = "1789000000000000000".into()));
    wrong_root(not_included(|e| e.readings[7].salt = "00".repeat(16)));
    wrong_root(not_included(|e| {
        let (a, b) = (e.readings[7].clone(), e.readings[8].clone());
        e.readings[7] = EvidenceReading { seq: a.seq, ..b };
        e.readings[8] = EvidenceReading { seq: e.readings[8].seq, ..a };
    }));
}

#[test]
fn omitted_and_moved_readings_are_rejected() {
    let hole = refused(|e| drop(e.readings.remove(50)));
    assert_eq!(hole, EvidenceError::Hole { expected: 1050, found: 1051 });
    assert!(matches!(not_included(|e| drop(e.readings.remove(0))), ProofError::Length { .. }));
    not_included(|e| drop(e.readings.pop()));
    // The numbers closed up over the hole.
    not_included(|e| {
        e.readings.remove(50);
        for (seq, reading) in (1000..).zip(&mut e.readings) {
            reading.seq = seq;
        }
    });
    not_included(|e| e.readings.iter_mut().for_each(|reading| reading.seq += 1));
    not_included(|e| e.readings.iter_mut().for_each(|reading| reading.seq += 1000));
    assert_eq!(refused(|e| e.readings.clear()), EvidenceError::Empty);
    not_included(|e| e.range_proof.hashes.reverse());
    not_included(|e| e.range_proof.hashes.truncate(1));
}

#[test]
fn the_last_sequence_number_does_not_panic() {
    for count in [1, 2] {
        let error = refused(|e| {
            e.readings.truncate(count);
            e.readings[0].seq = u64::MAX;
        });
        assert!(matches!(error, EvidenceError::NotIncluded { .. } | EvidenceError::Hole { .. }), "{error}");
    }
}

#[test]
fn foreign_anchors_are_rejected() {
    let foreign = |error: &EvidenceError| matches!(error, EvidenceError::Anchor(AnchorError::Foreign { .. }));
    let (mut world, evidence) = world();
    let size = world.size();
    let checkpoint = world.stream.checkpoint(&world.seller, size);
    let with = |proof, world: &World, evidence: &Evidence| {
        let mut changed = evidence.clone();
        changed.anchor.as_mut().unwrap().proof = proof;
        changed.verify(&world.chain.headers).unwrap_err()
    };
    // Another seller's anchor, even of the very same checkpoint.
    let theirs = world.anchor(&identity(9), std::slice::from_ref(&checkpoint), 0, true);
    assert!(foreign(&with(theirs, &world, &evidence)));
    // Ours, of another checkpoint; ours, at another position; ours, said to be larger.
    let other = world.stream.checkpoint(&world.seller, 3);
    let seller = world.seller.clone();
    let ours = world.anchor(&seller, &[other.clone(), other.clone()], 1, true);
    let error = with(ours, &world, &evidence);
    assert!(matches!(error, EvidenceError::Anchor(AnchorError::NotIncluded { .. })), "{error}");
    let mut moved = evidence.anchor.as_ref().unwrap().proof.clone();
    moved.index = 0;
    let error = with(moved, &world, &evidence);
    assert!(matches!(error, EvidenceError::Anchor(AnchorError::NotIncluded { .. })), "{error}");
    let mut larger = evidence.anchor.as_ref().unwrap().proof.clone();
    larger.count = 3;
    assert!(foreign(&with(larger, &world, &evidence)));
    // Right, but another transaction than the file says.
    let again = world.anchor(&seller, &[other, checkpoint], 1, true);
    let error = with(again, &world, &evidence);
    assert_eq!(error, EvidenceError::Contradiction { field: "anchor.txid" });
    let error = refused(|e| e.anchor.as_mut().unwrap().proof.beef.truncate(60));
    assert!(matches!(error, EvidenceError::Anchor(AnchorError::Beef(_))), "{error}");
    // A block that our chain does not have.
    let mut branch = crate::world::Chain::new();
    for _ in 0..5 {
        branch.mine(&[]);
    }
    let error = evidence.verify(&branch.headers).unwrap_err();
    assert!(matches!(error, EvidenceError::Anchor(AnchorError::Spv(SpvError::WrongRoot { .. }))), "{error}");
}

#[test]
fn what_the_file_says_of_itself_must_be_so() {
    let contradicts = |field, error| assert_eq!(error, EvidenceError::Contradiction { field });
    contradicts("checkpoint.size", refused(|e| e.checkpoint.size = 1501));
    contradicts("checkpoint.root", refused(|e| e.checkpoint.root = Hash([0; 32])));
    contradicts("anchor.height", refused(|e| e.anchor.as_mut().unwrap().height = Some(1)));
    contradicts("anchor.height", refused(|e| e.anchor.as_mut().unwrap().height = None));
    contradicts("anchor.header", refused(|e| e.anchor.as_mut().unwrap().header = None));
    contradicts("anchor.header", refused(|e| e.anchor.as_mut().unwrap().header = Some("00".repeat(80))));
    contradicts(
        "checkpoint.signed.body.stream",
        refused(|e| {
            let seller = identity(1);
            e.checkpoint.signed = Stream::new(&seller, "cellar", 3).checkpoint(&seller, 3).into_bytes();
        }),
    );
    assert!(
        matches!(refused(|e| e.format = "x".repeat(1000)), EvidenceError::Format { format, .. } if format.len() == 40)
    );
    assert!(matches!(refused(|e| e.version = 2), EvidenceError::Format { version: 2, .. }));
    assert!(matches!(refused(|e| e.network = Network::Main), EvidenceError::StreamId { .. }));
    assert!(matches!(refused(|e| e.seller = *identity(9).public()), EvidenceError::StreamId { .. }));
    assert!(matches!(refused(|e| e.stream.id = StreamId([0; 16])), EvidenceError::StreamId { .. }));
    assert!(matches!(refused(|e| e.stream.name = "cellar".into()), EvidenceError::StreamId { .. }));
    assert!(matches!(refused(|e| e.stream.name = "\u{1b}[2J".into()), EvidenceError::Name(_)));
    let no_fields = refused(|e| e.stream.schema.fields.clear());
    assert_eq!(no_fields, EvidenceError::Schema(SchemaError::FieldCount { count: 0 }));
    assert!(matches!(refused(|e| e.checkpoint.signed.signature[5] ^= 1), EvidenceError::Statement(_)));
    assert!(matches!(refused(|e| e.checkpoint.signed.body[5] ^= 1), EvidenceError::Statement(_)));
}

#[test]
fn readings_that_cannot_be_are_named() {
    let field = |error: EvidenceError| match error {
        EvidenceError::Reading { seq: 1007, field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(refused(|e| e.readings[7].time_ns = "1e9".into())), "time_ns");
    assert_eq!(field(refused(|e| e.readings[7].time_ns = "9223372036854775808".into())), "time_ns");
    assert_eq!(field(refused(|e| e.readings[7].salt = "00".repeat(15))), "salt");
    assert_eq!(field(refused(|e| e.readings[7].salt = "zz".repeat(16))), "salt");
    assert_eq!(field(refused(|e| drop(e.readings[7].values.pop()))), "values");
    assert_eq!(field(refused(|e| e.readings[7].values[0] = json!("NaN"))), "temperature");
    assert_eq!(field(refused(|e| e.readings[7].values[1] = json!(1.5))), "count");
    assert_eq!(field(refused(|e| e.readings[7].values[1] = json!(u64::MAX))), "count");
    assert_eq!(field(refused(|e| e.readings[7].values[2] = json!(1))), "door");
    assert_eq!(field(refused(|e| e.readings[7].values[3] = json!(["x"]))), "note");
    let text = refused(|e| e.readings[7].values[3] = json!("\u{1b}[2J"));
    assert!(matches!(text, EvidenceError::Value { source: ReadingError::TextControl { .. }, .. }));

    // NaN and the infinities have no JSON; a file with them is no JSON file.
    let (_, evidence) = world();
    let text = serde_json::to_string(&evidence).unwrap();
    for number in ["NaN", "Infinity", "-Infinity", "1e999"] {
        let hostile = text.replacen("\"values\":[", &format!("\"values\":[{number},"), 1);
        assert!(serde_json::from_str::<Evidence>(&hostile).is_err(), "{number}");
    }
    // From Rust they come as null, which is no float the schema would have taken.
    let nan = Reading { seq: 1, time: 0, values: vec![Value::Float(f64::NAN)] };
    assert_eq!(EvidenceReading::new(&nan, &[0; 16]).values, [json!(null)]);
    for hostile in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let values = vec![Value::Float(hostile), Value::Null, Value::Null, Value::Null];
        let reading = Reading { seq: 1, time: 0, values };
        assert!(matches!(schema().check(&reading), Err(ReadingError::NotFinite { .. })));
    }
}

/// The years 1677, 1970, 2106 and 2262: a reading once recorded is carried exactly, whatever a clock thinks of it.
#[test]
fn every_time_and_number_is_carried_exactly() {
    let schema = schema();
    let salt = [7; 16];
    for time in [i64::MIN, -1, 0, 1, 4_294_967_296_000_000_000, i64::MAX] {
        for number in [0.0, -0.0, 5e-324, f64::MAX, 0.1 + 0.2, -1e-7] {
            for int in [i64::MIN, -1, 0, (1 << 53) + 1, i64::MAX] {
                let values =
                    vec![Value::Float(number), Value::Int(int), Value::Bool(true), Value::Text("é".into())];
                let reading = Reading { seq: u64::MAX, time, values };
                let text = serde_json::to_string(&EvidenceReading::new(&reading, &salt)).unwrap();
                let file: EvidenceReading = serde_json::from_str(&text).unwrap();
                let (back, back_salt) = file.open(&schema).unwrap();
                assert_eq!(leaf::row(&back, &back_salt), leaf::row(&reading, &salt), "{text}");
            }
        }
    }
}

/// Runs `docs/verify_evidence.py`; `None` where there is no Python.
fn python(evidence: &serde_json::Value, headers: Option<&str>) -> Option<(i32, String)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_evidence.py");
    let folder = std::env::temp_dir().join(format!("sensora-evidence-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = folder.join(format!("{number}.json"));
    std::fs::write(&file, evidence.to_string()).unwrap();
    let mut command = Command::new("python3");
    command.arg(script).arg(&file);
    if let Some(header) = headers {
        command.args(["--header", header]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("python3 cannot be run ({error}): the second implementation is not asked");
            return None;
        }
    };
    let _ = std::fs::remove_file(&file);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.code().unwrap(), text))
}

fn agree(evidence: &Evidence, headers: &HeaderChain) -> Option<bool> {
    let (code, text) = python(&serde_json::to_value(evidence).unwrap(), None)?;
    let ours = evidence.verify(headers);
    assert_eq!(code == 0, ours.is_ok(), "ours: {ours:?}; python: {code} {text}");
    assert_ne!(code, 2, "{text}");
    Some(code == 0)
}

#[test]
fn a_second_implementation_says_the_same() {
    let (mut world, evidence) = world();
    let headers = world.chain.headers.clone();
    let Some(holds) = agree(&evidence, &headers) else { return };
    assert!(holds);
    let header = evidence.anchor.as_ref().unwrap().header.clone().unwrap();
    let file = serde_json::to_value(&evidence).unwrap();
    assert_eq!(python(&file, Some(&header)).unwrap().0, 0);
    let (code, text) = python(&file, Some(&"00".repeat(80))).unwrap();
    assert!(code == 1 && text.contains("not on the chain"), "{text}");

    let changes: [&dyn Fn(&mut Evidence); 14] = [
        &|e| e.readings[7].values[0] = json!(99.5),
        &|e| e.readings[7].values[1] = json!(1.0),
        &|e| e.readings[7].time_ns = "5".into(),
        &|e| e.readings[7].salt = "00".repeat(16),
        &|e| drop(e.readings.remove(50)),
        &|e| drop(e.readings.pop()),
        &|e| e.range_proof.hashes.truncate(1),
        &|e| e.range_proof.hashes.push(Hash([0; 32])),
        &|e| e.checkpoint.size += 1,
        &|e| e.checkpoint.signed.signature[5] ^= 1,
        &|e| e.stream.name = "cellar".into(),
        &|e| e.network = Network::Main,
        &|e| e.anchor.as_mut().unwrap().proof.index = 0,
        &|e| e.anchor.as_mut().unwrap().height = None,
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut changed = evidence.clone();
        change(&mut changed);
        assert_eq!(agree(&changed, &headers), Some(false), "change {at}");
    }
    let theirs = world.anchor(&identity(9), &[world.stream.checkpoint(&world.seller, 1500)], 0, true);
    let mut foreign = evidence.clone();
    foreign.anchor.as_mut().unwrap().proof = theirs;
    assert_eq!(agree(&foreign, &world.chain.headers), Some(false));

    // Ranges of all shapes in logs of all shapes, anchored or not.
    for (size, first, end) in [
        (1, 0, 1),
        (2, 1, 2),
        (7, 0, 7),
        (7, 6, 7),
        (8, 3, 5),
        (13, 5, 12),
        (100, 37, 64),
        (1024, 1000, 1024),
    ] {
        let mut world = World::new(size);
        for anchored in [None, Some(false), Some(true)] {
            let evidence = world.evidence(first, end, anchored);
            assert_eq!(agree(&evidence, &world.chain.headers), Some(true), "{first}..{end} of {size}");
        }
    }
    assert_eq!(NETWORK, evidence.network);
}
