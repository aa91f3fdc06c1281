//! What a node of the network says when it does not take a transaction, as text, and what that means.
//!
//! Explorers and broadcasters pass the node's words on, with words of their own around them. The node has fixed words
//! for its reasons (`validation.cpp`, `policy.cpp` of the SV node); they are looked for anywhere in the text.

use std::ops::ControlFlow;

use super::service::Report;
use crate::Txid;

/// The code for a reason that has none of its own (Arcade's "generic error").
pub(super) const GENERIC: u16 = 467;

/// Another transaction in the block template or mempool spends the same output.
pub(super) const CONFLICT: u16 = 466;

/// The codes that ARC and Arcade have for reasons.
pub(super) const CODES: std::ops::RangeInclusive<u16> = 460..=476;

/// What a node means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It has the transaction already.
    Known,
    /// The transaction is in a block already.
    Mined,
    /// Another transaction spends the same.
    Conflict,
    /// It does not have what the transaction spends: not yet, or no more.
    MissingInputs,
    /// The transaction itself is at fault; ARC's code for it.
    Refused(u16),
}

/// Words, the more telling first: some texts have several.
const WORDS: &[(&str, Meaning)] = &[
    ("already in block chain", Meaning::Mined),
    ("already-in-block", Meaning::Mined),
    ("txn-already-known", Meaning::Known),
    ("txn-already-in-mempool", Meaning::Known),
    ("already in the mempool", Meaning::Known),
    ("already in mempool", Meaning::Known),
    ("txn-mempool-conflict", Meaning::Conflict),
    ("txn-double-spend-detected", Meaning::Conflict),
    ("bad-txns-inputs-missingorspent", Meaning::MissingInputs),
    ("bad-txns-inputs-spent", Meaning::MissingInputs),
    ("missing-inputs", Meaning::MissingInputs),
    ("missing inputs", Meaning::MissingInputs),
    ("missinginputs", Meaning::MissingInputs),
    ("mempool min fee not met", Meaning::Refused(465)),
    ("min relay fee not met", Meaning::Refused(465)),
    ("insufficient priority", Meaning::Refused(465)),
    ("insufficient fee", Meaning::Refused(465)),
    ("absurdly-high-fee", Meaning::Refused(465)),
    ("bad-txns-fee", Meaning::Refused(465)),
    ("script-verify-flag-failed", Meaning::Refused(461)),
    ("bad-txns-nonstandard-inputs", Meaning::Refused(461)),
    ("scriptsig-", Meaning::Refused(461)),
    ("frozen", Meaning::Refused(471)),
    ("non-bip68-final", Meaning::Refused(476)),
    ("bad-txns-nonfinal", Meaning::Refused(476)),
    ("non-final", Meaning::Refused(476)),
    ("bad-txns-in", Meaning::Refused(462)),
    ("bad-txns-vout", Meaning::Refused(464)),
    ("bad-txns-txouttotal", Meaning::Refused(464)),
    ("scriptpubkey", Meaning::Refused(464)),
    ("multi-op-return", Meaning::Refused(464)),
    ("bare-multisig", Meaning::Refused(464)),
    ("dust", Meaning::Refused(464)),
    ("bad-txns-oversize", Meaning::Refused(474)),
    ("tx-size", Meaning::Refused(474)),
    ("bad-txns", Meaning::Refused(463)),
    ("bad-tx-", Meaning::Refused(463)),
    ("tx decode failed", Meaning::Refused(463)),
    ("64: version", Meaning::Refused(463)),
];

/// What the words in `text` mean; `None` for none that say anything about the transaction (a busy node, a full
/// mempool, a page of a proxy).
pub(super) fn meaning(text: &str) -> Option<Meaning> {
    let text = text.to_ascii_lowercase();
    WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, meaning)| *meaning)
}

/// The report that follows from `text` about `txid`.
pub(super) fn report(txid: &Txid, text: &str) -> Option<Report> {
    Some(match meaning(text)? {
        Meaning::Known => Report::Seen,
        Meaning::Mined => Report::MinedUnproven { height: None },
        Meaning::Conflict => Report::DoubleSpent { competing: Vec::new() },
        Meaning::MissingInputs => Report::Orphan,
        Meaning::Refused(code) => Report::Rejected { txid: *txid, code, reason: super::http::tame(text) },
    })
}

/// What the report about one of several transactions that were sent means for all of them: go on, or stop with this.
pub(super) fn go_on(report: Report, txid: &Txid, is_last: bool) -> ControlFlow<Report, Report> {
    match report {
        Report::Rejected { .. } | Report::Orphan => ControlFlow::Break(report),
        // What spends an output of a transaction that has lost can never be taken. As `DoubleSpent` it would be taken for
        // a report about the last one.
        Report::DoubleSpent { .. } if !is_last => ControlFlow::Break(Report::Rejected {
            txid: *txid,
            code: CONFLICT,
            reason: "another transaction spends one of its inputs".into(),
        }),
        other => ControlFlow::Continue(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_nodes_are_understood() {
        use Meaning::{Conflict, Known, Mined, MissingInputs, Refused};
        for (text, expected) in [
            ("unexpected response code 500: 257: txn-already-known", Some(Known)),
            ("Transaction already in the mempool", Some(Known)),
            ("-27: transaction already in block chain", Some(Mined)),
            ("unexpected response code 500: 258: txn-mempool-conflict", Some(Conflict)),
            ("txn-double-spend-detected", Some(Conflict)),
            ("unexpected response code 500: Missing inputs", Some(MissingInputs)),
            ("16: bad-txns-inputs-missingorspent", Some(MissingInputs)),
            ("66: mempool min fee not met", Some(Refused(465))),
            ("66: insufficient priority", Some(Refused(465))),
            (
                "16: mandatory-script-verify-flag-failed (Script evaluated without error but finished with a false)",
                Some(Refused(461)),
            ),
            ("64: non-mandatory-script-verify-flag-failed (No error)", Some(Refused(461))),
            ("64: non-final", Some(Refused(476))),
            ("64: dust", Some(Refused(464))),
            ("64: tx-size", Some(Refused(474))),
            ("16: bad-txns-in-belowout", Some(Refused(462))),
            ("16: bad-txns-vout-toolarge", Some(Refused(464))),
            ("16: bad-txns-prevout-null", Some(Refused(463))),
            ("TX decode failed", Some(Refused(463))),
            ("mempool full", None),
            ("too-long-mempool-chain", None),
            ("<html>502 Bad Gateway</html>", None),
            ("", None),
        ] {
            assert_eq!(meaning(text), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_carries_the_words_tamed() {
        let txid = Txid([1; 32]);
        let report = report(&txid, "64: \x1b[2Jdust\n").unwrap();
        assert_eq!(report, Report::Rejected { txid, code: 464, reason: "64: [2Jdust".into() });
    }
}
