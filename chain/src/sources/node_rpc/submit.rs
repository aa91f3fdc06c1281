//! Giving transactions to the node, and what its refusals mean.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::client::{CallError, clip, code};
use super::recent::Wanted;
use super::{FRAME, NodeRpc};
use crate::sources::service::{Report, SourceError, Spender, Submission};
use crate::{Transaction, Txid};

/// The most transactions of one request.
const MAX_IN_REQUEST: usize = 1_000;

/// The most bytes of the transactions of one request, whose hex is twice as long. Nodes take requests of 32 MB.
const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// The most bytes of the answer. It can hold whole transactions of others that conflict with ours; with larger ones
/// the answer is asked for again in a form that leaves them out.
const ANSWER: usize = 4 * 1024 * 1024;

/// How many of the newest blocks are searched for what spent an input that the node does not have any more: twice the
/// depth at which a payment counts as buried.
const CONFLICT_DEPTH: usize = 12;

/// The most inputs of a refused transaction that are looked at to say why it is refused.
const MAX_EXAMINED: usize = 50;

/// How long after a first look a coin is looked at again that seems to be spent by nobody, and a transaction that collides with nothing that is named: a block
/// is connected, and a transaction checked, in a fraction of that.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The code of a node's error for a transaction that it does not take (`RPC_VERIFY_REJECTED`).
const REFUSED: i64 = -26;

/// What the node says to `sendrawtransactions`. What is in none of the lists was taken.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    known: Vec<Txid>,
    evicted: Vec<Txid>,
    invalid: Vec<Invalid>,
}

#[derive(Deserialize)]
struct Invalid {
    txid: Txid,
    #[serde(default)]
    reject_reason: String,
    #[serde(default, rename = "collidedWith")]
    collided_with: Vec<Collided>,
}

#[derive(Deserialize)]
struct Collided {
    txid: Txid,
}

/// What became of one transaction.
enum Outcome {
    Taken,
    Known,
    Refused { reason: String, competing: Vec<Txid> },
}

impl NodeRpc {
    pub(super) async fn submit_now(&self, txs: &[Submission]) -> Result<Report, CallError> {
        let mut last = None;
        let mut rest = txs;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(fitting(rest));
            rest = later;
            for (submission, outcome) in now.iter().zip(self.send(now).await?) {
                if let Outcome::Refused { reason, competing } = outcome {
                    match self.refused(&submission.tx, &reason, competing).await? {
                        // It is refused because it is mined, and all that it made is spent.
                        Report::Mined(_) | Report::Seen | Report::MinedUnproven { .. } => {
                            last = Some((&submission.tx, true));
                        }
                        report => return Ok(report),
                    }
                } else {
                    last = Some((&submission.tx, matches!(outcome, Outcome::Known)));
                }
            }
        }
        let Some((tx, known)) = last else { return Ok(Report::Unknown) };
        if known {
            self.report_now(&tx.txid()).await
        } else if tx.is_final() || self.waits(&tx.txid()).await? {
            Ok(Report::Seen)
        } else {
            // The node keeps it apart until its lock time has come.
            Ok(Report::Pending)
        }
    }

    /// Sends transactions in one request; one outcome for each. A node's own guard against absurd fees stays on.
    async fn send(&self, txs: &[Submission]) -> Result<Vec<Outcome>, CallError> {
        let list: Vec<_> = txs.iter().map(|submission| json!({ "hex": submission.tx.to_string() })).collect();
        let answer: Answer = match self.client.call("sendrawtransactions", json!([list]), ANSWER).await {
            Err(CallError::Source(SourceError::TooLarge { .. })) => return self.send_each(txs).await,
            // Only nodes of the SV family have it.
            Err(CallError::Fault(fault)) if fault.code == code::NO_METHOD => {
                return self.send_each(txs).await;
            }
            other => other?,
        };
        let known: BTreeSet<Txid> = answer.known.into_iter().collect();
        let evicted: BTreeSet<Txid> = answer.evicted.into_iter().collect();
        let mut invalid: HashMap<Txid, Invalid> =
            answer.invalid.into_iter().map(|invalid| (invalid.txid, invalid)).collect();
        let outcomes = txs.iter().map(|submission| {
            let txid = submission.tx.txid();
            if let Some(Invalid { reject_reason, collided_with, .. }) = invalid.remove(&txid) {
                let competing = collided_with.into_iter().map(|other| other.txid).collect();
                Outcome::Refused { reason: reject_reason, competing }
            } else if evicted.contains(&txid) {
                Outcome::Refused { reason: "mempool min fee not met".to_owned(), competing: Vec::new() }
            } else if known.contains(&txid) {
                Outcome::Known
            } else {
                Outcome::Taken
            }
        });
        Ok(outcomes.collect())
    }

    /// As [`NodeRpc::send`], with a question for each transaction: the answers do not hold those of others.
    async fn send_each(&self, txs: &[Submission]) -> Result<Vec<Outcome>, CallError> {
        let list = txs.iter().map(|submission| json!([submission.tx.to_string()])).collect();
        let limit = MAX_IN_REQUEST * FRAME;
        let answers = self.client.batch::<Txid>("sendrawtransaction", list, limit).await?;
        let outcome = |answer: Result<Option<Txid>, super::client::Fault>| match answer {
            Ok(_) => Outcome::Taken,
            Err(fault) if is_known(&fault.message) => Outcome::Known,
            Err(fault) => Outcome::Refused { reason: fault.message, competing: Vec::new() },
        };
        Ok(answers.into_iter().map(outcome).collect())
    }

    async fn refused(
        &self,
        tx: &Transaction,
        reason: &str,
        competing: Vec<Txid>,
    ) -> Result<Report, CallError> {
        let lower = reason.to_ascii_lowercase();
        if is_known(&lower) {
            return self.report_now(&tx.txid()).await;
        }
        if ["missing inputs", "missing-inputs", "missingorspent"].iter().any(|text| lower.contains(text)) {
            return self.missing_inputs(tx).await;
        }
        if is_conflict(&lower) {
            return self.conflict(tx, reason, competing).await;
        }
        if is_passing(&lower) {
            return Err(self.not_now(reason));
        }
        Ok(Report::Rejected { txid: tx.txid(), code: arc_code(&lower), reason: clip(reason) })
    }

    fn not_now(&self, reason: &str) -> CallError {
        let service = self.config.name.clone();
        SourceError::Server { service, status: REFUSED, reason: clip(reason) }.into()
    }

    /// The node says that another transaction spends the same. Where two give it the same transaction at the same moment, it may say so of the second:
    /// the other one is then this one.
    async fn conflict(
        &self,
        tx: &Transaction,
        reason: &str,
        mut competing: Vec<Txid>,
    ) -> Result<Report, CallError> {
        let txid = tx.txid();
        let named = competing.len();
        competing.retain(|other| *other != txid);
        let mut own = self.report_now(&txid).await?;
        if own == Report::Unknown && competing.is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
            own = self.report_now(&txid).await?;
        }
        match own {
            // What it collided with was still being checked, and was not taken.
            Report::Unknown if competing.is_empty() && named > 0 => Err(self.not_now(reason)),
            Report::Unknown => Ok(Report::DoubleSpent { competing }),
            own => Ok(own),
        }
    }

    /// The node lacks an output that `tx` spends: it never knew it, or another has spent it, or `tx` itself did.
    async fn missing_inputs(&self, tx: &Transaction) -> Result<Report, CallError> {
        let first = self.examine_inputs(tx).await?;
        match &first {
            // While a block comes, what it holds is in neither place for some milliseconds, and a coin that nobody is named for looks spent.
            Report::DoubleSpent { competing } if competing.is_empty() => {
                tokio::time::sleep(LOOK_AGAIN).await;
                self.examine_inputs(tx).await
            }
            _ => Ok(first),
        }
    }

    async fn examine_inputs(&self, tx: &Transaction) -> Result<Report, CallError> {
        let txid = tx.txid();
        let own = self.report_now(&txid).await?;
        if own != Report::Unknown {
            return Ok(own);
        }
        let mut spent = false;
        let mut competing = BTreeSet::new();
        for input in tx.inputs.iter().take(MAX_EXAMINED) {
            match self.spender_now(&input.previous, CONFLICT_DEPTH).await? {
                Spender::Unspent => {}
                Spender::SpentBy { tx, .. } => {
                    spent = true;
                    competing.insert(tx.txid());
                }
                Spender::Unknown => {
                    let parent = match self.raw_transaction(&input.previous.txid).await? {
                        Some(parent) => Some(parent),
                        None => self
                            .find(Wanted::Transaction(&input.previous.txid), CONFLICT_DEPTH)
                            .await?
                            .and_then(super::recent::Found::into_transaction),
                    };
                    // The node knows what made the output, and does not have the output: it is spent.
                    spent |= parent.is_some_and(|parent| {
                        usize::try_from(input.previous.vout).is_ok_and(|vout| vout < parent.outputs.len())
                    });
                }
            }
        }
        Ok(match spent {
            true => Report::DoubleSpent { competing: competing.into_iter().collect() },
            false => Report::Orphan,
        })
    }
}

/// How many of the first transactions go into one request; at least one.
fn fitting(txs: &[Submission]) -> usize {
    let mut bytes = 0usize;
    let fits = |submission: &&Submission| {
        bytes = bytes.saturating_add(submission.tx.size());
        bytes <= MAX_REQUEST_BYTES
    };
    txs.iter().take(MAX_IN_REQUEST).take_while(fits).count().max(1).min(txs.len())
}

/// The node has it, waiting or mined.
fn is_known(reason: &str) -> bool {
    let lower = reason.to_ascii_lowercase();
    ["already-known", "already-in-mempool", "already in the mempool", "already in block chain"]
        .iter()
        .any(|text| lower.contains(text))
}

/// Another transaction was first.
fn is_conflict(reason: &str) -> bool {
    ["txn-mempool-conflict", "txn-double-spend-detected", "double-spend"].iter().any(|t| reason.contains(t))
}

/// The node cannot take it now; nothing is wrong with it.
fn is_passing(reason: &str) -> bool {
    // A script took longer than the few milliseconds it may on a busy machine; too much waits already.
    [
        "too-long-validation-time",
        "too-long-mempool-chain",
        "too-long-non-final-chain",
        "mempool full",
        "mempool-sizelimit-exceeded",
        "non-final-pool-full",
        "non-final-txn-replacement-rate",
    ]
    .iter()
    .any(|text| reason.contains(text))
}

/// The status that ARC gives for what the node gives a reason for. The texts are those of `validation.cpp`,
/// `tx_verify.cpp` and `policy.cpp`; the first that occurs decides.
fn arc_code(reason: &str) -> u16 {
    const CODES: [(&str, u16); 26] = [
        // 476: not final yet.
        ("bad-txns-nonfinal", 476),
        ("non-final", 476),
        ("non-bip68-final", 476),
        // 465: the fee.
        ("insufficient fee", 465),
        ("insufficient priority", 465),
        ("min fee not met", 465),
        // 474: the size.
        ("oversize", 474),
        ("undersize", 474),
        ("tx-size", 474),
        ("too-big", 474),
        // 471: the inputs are frozen.
        ("inputs-frozen", 471),
        // 462: the inputs.
        ("bad-txns-inputs", 462),
        ("bad-txns-inputvalues", 462),
        ("bad-txns-prevout-null", 462),
        ("bad-txns-in-belowout", 462),
        ("premature-spend-of-coinbase", 462),
        ("bad-txns-vin", 462),
        // 464: the outputs.
        ("dust", 464),
        ("bad-txns-vout", 464),
        ("bad-txns-txouttotal", 464),
        ("scriptpubkey", 464),
        ("datacarrier", 464),
        // 461: the scripts.
        ("script", 461),
        // 463: no transaction that a node reads.
        ("tx decode failed", 463),
        ("coinbase", 463),
        ("version", 463),
    ];
    CODES.iter().find(|(text, _)| reason.contains(text)).map_or(467, |(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::dev::Reject;
    use crate::{OutPoint, Satoshis};

    #[test]
    fn each_reason_of_a_node_has_the_code_that_arc_gives() {
        for (reason, code) in [
            ("64: dust", 464),
            ("16: bad-txns-vout-p2sh", 464),
            ("16: mandatory-script-verify-flag-failed (Signature must use SIGHASH_FORKID)", 461),
            ("64: non-mandatory-script-verify-flag (Data push larger than necessary)", 461),
            ("64: scriptsig-not-pushonly", 461),
            ("64: version", 463),
            ("16: bad-txns-in-belowout", 462),
            ("64: bad-txns-nonfinal", 476),
            ("66: mempool min fee not met", 465),
            ("64: tx-size", 474),
            ("16: bad-txns-inputs-frozen", 471),
            ("256: absurdly-high-fee", 467),
        ] {
            assert_eq!(arc_code(reason), code, "{reason}");
        }
        // The development chain speaks with the same words.
        let premature = Reject::ImmatureCoinbase { input: 0, height: 1, mature: 101 };
        assert_eq!(arc_code(premature.reason()), 462);
        assert_eq!(arc_code(Reject::Dust(0).reason()), 464);
    }

    #[test]
    fn what_is_known_already_and_what_was_outdone_is_told_apart() {
        assert!(is_known("257: txn-already-known") && is_known("Transaction already in the mempool"));
        assert!(is_passing("64: too-long-mempool-chain") && !is_passing("64: dust"));
        assert!(is_known("257: txn-already-in-mempool") && is_known("transaction already in block chain"));
        assert!(!is_known("258: txn-mempool-conflict") && is_conflict("258: txn-mempool-conflict"));
    }

    #[test]
    fn a_request_holds_what_fits_and_at_least_one() {
        let of = |inputs: usize| {
            let input = crate::TxIn::new(OutPoint { txid: Txid([1; 32]), vout: 0 });
            let paid = crate::TxOut { value: Satoshis::from_sat(1), ..Default::default() };
            Submission { tx: Transaction::new(vec![input; inputs], vec![paid]), spent: Vec::new() }
        };
        let small = vec![of(1); MAX_IN_REQUEST + 5];
        assert_eq!(fitting(&small), MAX_IN_REQUEST);
        assert_eq!(fitting(&small[..3]), 3);
        let large = vec![of(MAX_REQUEST_BYTES / 41 / 2); 4];
        assert_eq!(fitting(&large), 1);
        assert_eq!(fitting(&[of(MAX_REQUEST_BYTES)]), 1);
    }
}
