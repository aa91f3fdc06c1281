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
    let file: serde_json::Value = serde_json::from_str(include_str!("answers.json")).unwrap();
    assert_eq!(file["txid"], TXID);
    serde_json::from_value(file["answers"].clone()).unwrap()
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
        for end in (0..sample.len()).step_by(3) {
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
