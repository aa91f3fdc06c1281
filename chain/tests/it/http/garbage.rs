//! Bytes of strangers as answers of services: what `fuzz/fuzz_targets/services.rs` drives for longer.

use proptest::prelude::*;
use sensora_chain::Txid;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::answers::{Answers, read_all};
use sensora_chain::sources::service::{MAX_REASON, Report};

const TXID: &str = "b68b064b336b9a4abdb173f3e32f27b38a222cb2102f51b8c92563e816b12b4a";

/// What holds for whatever is read.
fn read(bytes: &[u8]) -> Answers {
    let txid: Txid = TXID.parse().unwrap();
    let answers = read_all(bytes, &txid);
    for report in &answers.reports {
        match report {
            Report::Mined(path) => {
                assert_eq!(path.txids(), [txid]);
                assert_eq!(MerklePath::parse(&path.to_bytes()).as_ref(), Ok(path));
            }
            Report::Rejected { txid: which, code, reason } => {
                assert_eq!(*which, txid);
                assert!((460..=476).contains(code));
                plain(reason);
            }
            Report::DoubleSpent { competing } => assert!(!competing.contains(&txid)),
            _ => {}
        }
    }
    assert!(answers.headers.len() <= 1 + bytes.len() / 80);
    answers.refusals.iter().for_each(|text| plain(text));
    answers
}

fn plain(text: &str) {
    assert!(text.chars().count() <= MAX_REASON && !text.chars().any(char::is_control), "{text:?}");
}

/// A good answer to each kind of question.
fn samples() -> Vec<String> {
    const BUMP: &str = "fe54251800020400028d97f9ebeddd9f9aa8e0e953b3a76f316298ab05e9834aa811716e9d397564e501025f64aa8e012e26a5c5803c9f94d1c2c8ea68ecef1415011e1c2e26b9c966b6ad02021f5fa39607ca3b48d53c902bd5bb4bbf6a7ac99cf9fda45cc21b71e6e2f7889603024a2bb116e86325c9b8512f10b22c228ab3272fe3f373b1bd4a9a6b334b068bb602000061793b278303101a1390ceae5a713de0eabd9cda63702fe84c928970acf7c45e0100a567e3d066e38638b27897559302eabc85eb69b202c2e86d4338bab73008f460";
    const HEADER: &str = r#"{"hash":"000000000000000004a288072ebb35e37233f419918f9783d499979cb6ac33eb","confirmations":74834,"height":575045,"version":536928256,"versionHex":"2000e000","merkleroot":"4ebcba09addd720991d03473f39dce4b9a72cc164e505cd446687a54df9b1585","time":1553416668,"mediantime":1553414858,"nonce":87914848,"bits":"180997ee","previousblockhash":"00000000000000000988156c7075dc9147a5b62922f1310862e8b9000d46dd9b"}"#;
    vec![
        format!(
            r#"{{"blockHash":"{TXID}","blockHeight":1582420,"extraInfo":"","merklePath":"{BUMP}","status":200,"title":"OK","txStatus":"MINED","txid":"{TXID}","competingTxs":null}}"#
        ),
        format!(
            r#"{{"txid":"{TXID}","txStatus":"DOUBLE_SPEND_ATTEMPTED","competingTxs":["{TXID}","{}"]}}"#,
            "11".repeat(32)
        ),
        format!(
            r#"{{"txid":"{TXID}","status":465,"title":"Fee too low","detail":"d","extraInfo":"arc error 465: x"}}"#
        ),
        r#"{"policy":{"maxtxsizepolicy":10000000,"miningFee":{"satoshis":1,"bytes":1000}},"timestamp":"t"}"#
            .into(),
        format!(r#"{{"chain":"main","blocks":575191,"bestblockhash":"{TXID}","height":5,"hash":"{TXID}"}}"#),
        HEADER.into(),
        format!(r#"[{{"txid":"{TXID}","blockhash":"{TXID}","blockheight":575191,"confirmations":2}}]"#),
        format!(r#"[{{"index":1,"txOrId":"{TXID}","target":"{TXID}","nodes":["{}","*"]}}]"#, "22".repeat(32)),
        format!(r#"{{"txid":"{TXID}","vin":0,"status":"confirmed"}}"#),
        format!(
            r#"{{"result":[{{"height":8,"tx_pos":1,"tx_hash":"{TXID}","value":1,"status":"confirmed"}}],"error":"","nextPageToken":"t"}}"#
        ),
        format!("\"{TXID}\""),
        "true".into(),
        "unexpected response code 500: 64: dust".into(),
    ]
}

#[test]
fn good_answers_are_read() {
    let read: Vec<Answers> = samples().iter().map(|sample| read(sample.as_bytes())).collect();
    let reports = read.iter().flat_map(|answers| &answers.reports);
    let mut kinds = [false; 3];
    for report in reports {
        match report {
            Report::Mined(_) => kinds[0] = true,
            Report::Rejected { code: 465, .. } => kinds[1] = true,
            Report::DoubleSpent { competing } if !competing.is_empty() => kinds[2] = true,
            _ => {}
        }
    }
    assert_eq!(kinds, [true; 3]);
    assert_eq!(read.iter().map(|answers| answers.headers.len()).sum::<usize>(), 1);
}

#[test]
fn answers_that_end_anywhere_are_read_or_refused() {
    for sample in samples() {
        for end in 0..sample.len() {
            read(&sample.as_bytes()[..end]);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read(&bytes);
    }

    #[test]
    fn changed_answers_never_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].clone().into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read(&bytes);
    }

    /// Values of another kind in the place of a value: what a change of single bytes seldom gives.
    #[test]
    fn answers_with_other_values_never_panic(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), value in 0usize..12) {
        const VALUES: [&str; 12] = [
            "null", "0", "-1", "1e400", "18446744073709551616", "\"\"", "\"\\u0000\\ud83d\\ude00\"", "[]", "{}", "[[]]", "true", "\"00\"",
        ];
        let samples = samples();
        let sample = &samples[which.index(samples.len())];
        let colons: Vec<usize> = sample.match_indices(':').map(|(at, _)| at + 1).collect();
        if !colons.is_empty() {
            let start = colons[at.index(colons.len())];
            let rest = &sample[start..];
            let end = rest.find([',', '}']).map_or(sample.len(), |end| start + end);
            read(format!("{}{}{}", &sample[..start], VALUES[value], &sample[end..]).as_bytes());
        }
    }
}
