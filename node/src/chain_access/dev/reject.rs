//! What the development chain refuses, in the codes that broadcasters have for it.

use sensora_chain::Txid;
use sensora_chain::beef::BeefError;
use sensora_chain::sources::dev::Reject;
use sensora_protocol::chain_access::Refusal;

/// ARC's status codes; see [`Refusal::Rejected`].
mod code {
    pub(super) const SCRIPTS: u16 = 461;
    pub(super) const INPUTS: u16 = 462;
    pub(super) const MALFORMED: u16 = 463;
    pub(super) const OUTPUTS: u16 = 464;
    pub(super) const FEE: u16 = 465;
    pub(super) const CONFLICT: u16 = 466;
    pub(super) const GENERIC: u16 = 467;
    pub(super) const BEEF: u16 = 468;
    pub(super) const PROOF: u16 = 469;
    pub(super) const SIZE: u16 = 474;
    pub(super) const NOT_FINAL: u16 = 476;
}

/// When to send a transaction again that found no room: a block comes about every second.
const FULL_RETRY_MS: u64 = 2_000;

/// The transaction `txid`, or an ancestor of the one that was sent, breaks a rule.
pub(super) fn transaction(reason: &Reject, txid: Txid, double_spent: bool) -> Refusal {
    let code = match reason {
        Reject::MempoolFull => return Refusal::Busy { retry_ms: FULL_RETRY_MS },
        _ if double_spent => code::CONFLICT,
        Reject::MempoolConflict { .. } => code::CONFLICT,
        Reject::TooLarge { .. } => code::SIZE,
        Reject::TooSmall { .. } | Reject::Version(_) | Reject::Coinbase => code::MALFORMED,
        Reject::NoInputs
        | Reject::NullInput(_)
        | Reject::DuplicateInput(_)
        | Reject::MissingInputs { .. }
        | Reject::ImmatureCoinbase { .. } => code::INPUTS,
        Reject::NoOutputs
        | Reject::OutputSum
        | Reject::Dust(_)
        | Reject::DataValue(_)
        | Reject::PayToScriptHash(_) => code::OUTPUTS,
        Reject::InBelowOut { .. } | Reject::FeeTooLow { .. } | Reject::AbsurdFee { .. } => code::FEE,
        Reject::UnsupportedScript { .. } | Reject::Script(_) => code::SCRIPTS,
        Reject::NotFinal { .. } => code::NOT_FINAL,
        _ => code::GENERIC,
    };
    let label = reason.reason();
    Refusal::Rejected { double_spent, code, reason: format!("{label}: {reason} (transaction {txid})") }
}

/// The bytes are no BEEF.
pub(super) fn beef(error: &BeefError) -> Refusal {
    Refusal::Rejected { double_spent: false, code: code::BEEF, reason: error.to_string() }
}

/// The BEEF names no subject.
pub(super) fn not_atomic() -> Refusal {
    let reason = "the BEEF is not atomic: it does not name the transaction to broadcast".to_owned();
    Refusal::Rejected { double_spent: false, code: code::BEEF, reason }
}

/// The transaction comes with a proof that it is mined, but not on this chain.
pub(super) fn foreign_proof(txid: Txid) -> Refusal {
    let reason = format!("transaction {txid} comes with a Merkle path of a block that is not on this chain");
    Refusal::Rejected { double_spent: false, code: code::PROOF, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensora_chain::{OutPoint, Satoshis};

    #[test]
    fn reasons_have_the_codes_of_arc() {
        let code = |reason: Reject, double: bool| match transaction(&reason, Txid::default(), double) {
            Refusal::Rejected { code, double_spent, reason: text } => {
                assert_eq!(double_spent, double);
                assert!(text.starts_with(reason.reason()));
                code
            }
            other => panic!("{other:?}"),
        };
        let missing = || Reject::MissingInputs { input: 0, outpoint: OutPoint::default() };
        assert_eq!(code(missing(), false), 462);
        assert_eq!(code(missing(), true), 466);
        assert_eq!(
            code(Reject::FeeTooLow { fee: Satoshis::ZERO, needed: Satoshis::from_sat(1) }, false),
            465
        );
        assert_eq!(code(Reject::NotFinal { lock_time: 9, height: 1, median_time: 1 }, false), 476);
        assert!(matches!(transaction(&Reject::MempoolFull, Txid::default(), false), Refusal::Busy { .. }));
    }
}
