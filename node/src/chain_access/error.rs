//! What can go wrong between this node and the chain, by operation.

use std::fmt;

use sensora_chain::sources::dev::DevChainError;
use sensora_protocol::chain_access::Refusal;
use sensora_protocol::chain_access::sync::Fault;

use super::memory::Grade;
use crate::net::{Offence, PeerId, RequestError};

/// One peer that was asked in vain, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The peer.
    pub peer: PeerId,
    /// What happened.
    pub failure: Failure,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.peer, self.failure)
    }
}

/// Why an answer of a peer is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No answer came.
    #[error(transparent)]
    Request(Box<RequestError>),
    /// The peer says no.
    #[error("it refuses: {0}")]
    Refused(Refusal),
    /// The answer is no answer of this protocol, or not one to what was asked.
    #[error("its answer is malformed: {0}")]
    Malformed(String),
    /// The answer claims something that is false.
    #[error("its answer is false: {0}")]
    False(String),
    /// Its headers cannot be followed.
    #[error("its headers: {0}")]
    Headers(#[from] Fault),
    /// The answer may be true, but speaks of a block whose header this node does not have.
    #[error("its answer rests on block {height}, whose header this node does not have")]
    OutOfReach {
        /// The block's height.
        height: u32,
    },
    /// The node is shutting down.
    #[error("this node is shutting down")]
    Stopped,
}

impl Failure {
    /// The metrics label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Request(error) => error.label(),
            Self::Refused(refusal) => refusal.code(),
            Self::Malformed(_) => "malformed",
            Self::False(_) => "false",
            Self::Headers(fault) if fault.is_hostile() => "false_headers",
            Self::Headers(_) => "headers",
            Self::OutOfReach { .. } => "out_of_reach",
            Self::Stopped => "stopped",
        }
    }

    /// What the peer is charged with, if it is to blame. The swarm has charged it already for what goes wrong below the message.
    pub(super) fn offence(&self) -> Option<Offence> {
        match self {
            Self::Malformed(_) => Some(Offence::Malformed),
            Self::False(_) => Some(Offence::InvalidProof),
            Self::Headers(fault) if fault.is_hostile() => Some(Offence::InvalidProof),
            _ => None,
        }
    }

    /// How long the peer is left alone; `None` where it did its part.
    pub(super) fn grade(&self) -> Option<Grade> {
        match self {
            Self::Refused(Refusal::NotServed | Refusal::NoCommonBlock) => Some(Grade::Lasting),
            Self::Refused(Refusal::Busy { .. } | Refusal::Unavailable) => Some(Grade::Passing),
            Self::Refused(_) | Self::Stopped | Self::Headers(Fault::TooLong) => None,
            Self::Request(error) => match **error {
                RequestError::Unsupported { .. } | RequestError::ResponseTooLarge { .. } => {
                    Some(Grade::Lasting)
                }
                _ => Some(Grade::Passing),
            },
            Self::Headers(Fault::TooNew { .. }) | Self::OutOfReach { .. } => Some(Grade::Passing),
            Self::Malformed(_) | Self::False(_) | Self::Headers(_) => Some(Grade::False),
        }
    }

    /// Whether the peer has no chain to be asked about: that it was asked is not worth a word.
    pub(super) fn is_no_server(&self) -> bool {
        match self {
            Self::Refused(Refusal::NotServed) => true,
            Self::Request(error) => matches!(**error, RequestError::Unsupported { .. }),
            _ => false,
        }
    }

    /// Whether it is this node that has stopped.
    pub(super) fn is_stopped(&self) -> bool {
        match self {
            Self::Stopped => true,
            Self::Request(error) => matches!(**error, RequestError::Stopped),
            _ => false,
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Request(Box::new(error))
    }
}

/// A question about the chain has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// There is nobody to ask.
    #[error("no peer with chain access is known: connect to one, or name one in `chain.peers`")]
    NoSource,
    /// Nobody gave an answer that holds.
    #[error("none of the peers asked gave an answer that holds: {}", list(.tried))]
    Unavailable {
        /// Who was asked, in that order.
        tried: Vec<Tried>,
    },
    /// The question is larger than the protocol allows.
    #[error(transparent)]
    Invalid(#[from] Refusal),
    /// The development chain of this node failed.
    #[error(transparent)]
    Dev(#[from] DevChainError),
    /// Only the development chain can do it.
    #[error("blocks are mined only by a node that runs the development chain")]
    NotDev,
    /// What the development chain of this node says does not fit its own headers.
    #[error("the development chain contradicts its own headers: {0}")]
    Contradiction(Failure),
    /// The header chain of this node could not be kept.
    #[error(transparent)]
    Headers(#[from] HeaderStoreError),
    /// The node is shutting down.
    #[error("chain access has stopped")]
    Stopped,
}

impl ChainError {
    /// The metrics label of this variant.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoSource => "no_source",
            Self::Unavailable { .. } => "unavailable",
            Self::Invalid(refusal) => refusal.code(),
            Self::Dev(_) => "dev_chain",
            Self::NotDev => "not_dev",
            Self::Contradiction(_) => "contradiction",
            Self::Headers(_) => "header_store",
            Self::Stopped => "stopped",
        }
    }

    /// The refusal that says most, where a peer or the request's own limits refused: why a faucet does not pay.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Invalid(refusal) => Some(refusal),
            Self::Unavailable { tried } => {
                let refusals = tried.iter().filter_map(|tried| match &tried.failure {
                    Failure::Refused(refusal) => Some(refusal),
                    _ => None,
                });
                refusals.min_by_key(|refusal| matches!(refusal, Refusal::NotServed | Refusal::Busy { .. }))
            }
            _ => None,
        }
    }
}

/// A transaction was not taken by the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The chain refuses it as things are: sending the same again helps only where an ancestor was missing.
    #[error("the chain refuses the transaction ({code}): {reason}")]
    Rejected {
        /// Whether an input is spent by another transaction.
        double_spent: bool,
        /// The status code that ARC has for the reason; see [`Refusal::Rejected`].
        code: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody could be reached who takes transactions. It may have been taken all the same; sending it again is safe.
    #[error("no chain peer took the transaction, send it again later: {}", list(.tried))]
    Unavailable {
        /// Who was asked.
        tried: Vec<Tried>,
    },
    /// It could not be sent at all.
    #[error("the transaction could not be broadcast: {0}")]
    Failed(#[source] ChainError),
}

impl BroadcastError {
    /// The metrics label of this variant.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Rejected { double_spent: true, .. } => "double_spent",
            Self::Rejected { .. } => "rejected",
            Self::Unavailable { .. } => "unavailable",
            Self::Failed(error) => error.label(),
        }
    }
}

/// The store for block headers failed.
#[derive(Debug, thiserror::Error)]
#[error("the block headers cannot be kept: {0}")]
pub struct HeaderStoreError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

fn list(tried: &[Tried]) -> String {
    tried.iter().map(Tried::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_each_peer_and_its_reason() {
        let peer = PeerId::random();
        let tried = vec![Tried { peer, failure: Failure::Refused(Refusal::NotServed) }];
        let error = ChainError::Unavailable { tried };
        let text = error.to_string();
        assert!(text.contains(&peer.to_string()) && text.contains("does not serve"), "{text}");
        assert_eq!(error.refusal(), Some(&Refusal::NotServed));
        assert_eq!(BroadcastError::Failed(error).label(), "unavailable");
    }
}
