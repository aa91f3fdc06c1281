//! Why a peer does not answer about the chain, and why the chain does not take a transaction.

use sensora_chain::Satoshis;
use serde::{Deserialize, Serialize};

/// Longest text of a refusal that is kept, in characters: a line or two on a terminal.
pub const MAX_TEXT: usize = 256;

/// A peer's refusal. Each variant is an error code of `/sensora/chain/1` (its name in snake case) and a label in the metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// The request's bytes are not a request.
    #[error("the request is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The peer has no chain of its own, or not what was asked for. It does not pass on what others say.
    #[error("the peer does not serve the chain: ask one that has a chain source")]
    NotServed,
    /// More requests than the peer takes now.
    #[error("the peer is busy: try again in {retry_ms} ms")]
    Busy {
        /// When to try again, in milliseconds.
        retry_ms: u64,
    },
    /// More than one request may ask for.
    #[error("{asked} {what} are more than one request may have: at most {max}")]
    TooMany {
        /// Of what.
        what: String,
        /// How much was asked for.
        asked: u64,
        /// The limit.
        max: u64,
    },
    /// None of the locator's blocks is on the peer's chain: it follows another network or another checkpoint.
    #[error("the peer's chain has none of the blocks in the locator: it follows another chain")]
    NoCommonBlock,
    /// The chain does not take the transaction.
    #[error("the transaction is rejected ({code}): {reason}")]
    Rejected {
        /// Whether an input is spent by another transaction.
        double_spent: bool,
        /// The status code that ARC has for the reason: 461 script, 462 inputs, 463 malformed, 464 outputs, 465 fee, 466 conflict,
        /// 468 BEEF, 476 not final.
        code: u16,
        /// What is wrong, in words.
        reason: String,
    },
    /// The answer to this request does not fit a frame.
    #[error("the answer does not fit a frame: ask for fewer at a time")]
    AnswerTooLarge,
    /// This chain has no coins to give away, now or ever.
    #[error("the faucet is dry: it has fewer than {asked} satoshis that are ready to be spent")]
    FaucetDry {
        /// Satoshis asked for.
        asked: u64,
    },
    /// The peer has had its coins for today.
    #[error(
        "the faucet pays at most {per_day} to one peer in a day, {left} are left: ask for less, or again tomorrow"
    )]
    FaucetUsedUp {
        /// Most for one peer and day.
        per_day: Satoshis,
        /// What the peer may still have today.
        left: Satoshis,
    },
    /// The peer's chain fails (a disk, a part that has stopped).
    #[error("the peer cannot read its chain now: ask another one, or again later")]
    Unavailable,
}

impl Refusal {
    /// The error code: the variant's name in snake case, also the label in the metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::NotServed => "not_served",
            Self::Busy { .. } => "busy",
            Self::TooMany { .. } => "too_many",
            Self::NoCommonBlock => "no_common_block",
            Self::Rejected { .. } => "rejected",
            Self::AnswerTooLarge => "answer_too_large",
            Self::FaucetDry { .. } => "faucet_dry",
            Self::FaucetUsedUp { .. } => "faucet_used_up",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether the same request may succeed later at the same peer.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. } | Self::FaucetDry { .. } | Self::FaucetUsedUp { .. } | Self::Unavailable
        )
    }

    /// The refusal with its words cut to [`MAX_TEXT`] and without control characters: they are a stranger's, and are going to be
    /// logged and shown.
    #[must_use]
    pub fn tamed(self) -> Self {
        let tame = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect::<String>();
        match self {
            Self::Malformed { reason } => Self::Malformed { reason: tame(reason) },
            Self::TooMany { what, asked, max } => Self::TooMany { what: tame(what), asked, max },
            Self::Rejected { double_spent, code, reason } => {
                Self::Rejected { double_spent, code, reason: tame(reason) }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_words_are_tamed() {
        let reason = format!("\u{1b}[2J{}", "x".repeat(100_000));
        let refusal = Refusal::Rejected { double_spent: true, code: 466, reason }.tamed();
        let Refusal::Rejected { reason, .. } = &refusal else { panic!("{refusal:?}") };
        assert!(reason.starts_with("[2Jxx") && reason.len() == MAX_TEXT);
        assert_eq!(refusal.code(), "rejected");
        assert_eq!(Refusal::NotServed.tamed(), Refusal::NotServed);
    }
}
