//! Answers of chain services: whatever is sent is read as the answer to every question that is ever asked.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Txid;
use sensora_chain::sources::answers::read_all;
use sensora_chain::sources::service::{MAX_REASON, Report};

/// The transaction that all questions are about; the seeds prove it.
const TXID: &str = "b68b064b336b9a4abdb173f3e32f27b38a222cb2102f51b8c92563e816b12b4a";

fn plain(text: &str) {
    assert!(text.chars().count() <= MAX_REASON && !text.chars().any(char::is_control));
}

fuzz_target!(|bytes: &[u8]| {
    let txid: Txid = TXID.parse().unwrap();
    let answers = read_all(bytes, &txid);
    for report in &answers.reports {
        match report {
            Report::Mined(path) => assert_eq!(path.txids(), [txid]),
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
});
