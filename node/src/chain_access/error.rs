//! What can go wrong between this node and the chain, by operation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sensora_chain::sources::dev::DevChainError;
use sensora_chain::sources::node_rpc::RegtestError;
use sensora_chain::sources::service::{Need, SourceError};
use sensora_protocol::chain_access::Refusal;
use sensora_protocol::chain_access::sync::Fault;

use super::memory::Grade;
use crate::net::{Offence, PeerId, RequestError};

/// Who is asked about the chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asked {
    /// A peer.
    Peer(PeerId),
    /// A configured service, by its name.
    Service(Arc<str>),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Service(name) => f.write_str(name),
        }
    }
}

/// One peer or service that was asked in vain, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Who.
    pub asked: Asked,
    /// What happened.
    pub failure: Failure,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            // These name the service themselves.
            Failure::Service(error) => error.fmt(f),
            failure => write!(f, "{}: {failure}", self.asked),
        }
    }
}

/// Why an answer of a peer or a service is of no use.
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
    /// A service gave no answer.
    #[error(transparent)]
    Service(Box<SourceError>),
    /// A service lacks a parent of the transaction that was sent with it.
    #[error("it says that it lacks a parent of the transaction")]
    Orphan,
    /// A service has the transaction, and has not seen the network take it.
    #[error("it has the transaction, and has not seen the network take it yet")]
    Pending,
    /// A service was not asked: what it said before did not hold, or it has asked to be left alone.
    #[error("it is not asked for {} s more, after what it said last", .0.as_secs())]
    Resting(Duration),
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
            Self::Service(error) => error.label(),
            Self::Orphan => "orphan",
            Self::Pending => "pending",
            Self::Resting(_) => "resting",
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
            Self::Refused(_)
            | Self::Stopped
            | Self::Orphan
            | Self::Pending
            | Self::Resting(_)
            | Self::Headers(Fault::TooLong) => None,
            Self::Service(error) => service_grade(error),
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

    /// Whether the answer is longer than its frame, or than is taken: that is about what was asked, and not about whoever was asked.
    pub(super) fn is_too_large(&self) -> bool {
        match self {
            Self::Refused(refusal) => *refusal == Refusal::AnswerTooLarge,
            Self::Service(error) => matches!(**error, SourceError::TooLarge { .. }),
            _ => false,
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

fn service_grade(error: &SourceError) -> Option<Grade> {
    match error {
        SourceError::Limited { retry_after, .. } => Some(Grade::Wait(*retry_after)),
        SourceError::Unauthorized { .. } | SourceError::Config { .. } => Some(Grade::Lasting),
        SourceError::Unsupported { .. } => None,
        // A body that is cut off is no lie yet.
        _ => Some(Grade::Passing),
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Service(Box::new(error))
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
    #[error(
        "no peer with chain access is known: connect to one, name one in `chain.peers`, or a service with --chain KIND=URL"
    )]
    NoSource,
    /// No service of the configuration can do this.
    #[error(
        "none of the configured chain services can be asked for {need}: add one that can to [[chain.services]], such as one of kind node-rpc"
    )]
    NoService {
        /// What for.
        need: Need,
    },
    /// A service of the configuration cannot be used.
    #[error(transparent)]
    Service(Box<SourceError>),
    /// The order of services names one that is not there.
    #[error("chain.order.{need} names the service `{name}`, which is not in [[chain.services]]")]
    UnknownService {
        /// For what.
        need: Need,
        /// The name.
        name: String,
    },
    /// Nobody gave an answer that holds.
    #[error("nobody who was asked gave an answer that holds: {}", list(.tried))]
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
    #[error(
        "blocks are mined only by a node that runs the development chain, or has a regtest node as its service"
    )]
    NotDev,
    /// What the development chain of this node says does not fit its own headers.
    #[error("the development chain contradicts its own headers: {0}")]
    Contradiction(Failure),
    /// A regtest node that this node mines on failed.
    #[error(transparent)]
    Regtest(Box<RegtestError>),
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
            Self::NoService { .. } => "no_service",
            Self::Service(error) => error.label(),
            Self::Regtest(_) => "regtest",
            Self::UnknownService { .. } => "unknown_service",
            Self::Unavailable { .. } => "unavailable",
            Self::Invalid(refusal) => refusal.code(),
            Self::Dev(_) => "dev_chain",
            Self::NotDev => "not_dev",
            Self::Contradiction(_) => "contradiction",
            Self::Headers(_) => "header_store",
            Self::Stopped => "stopped",
        }
    }

    /// Whether somebody has an answer, and it is longer than its frame: a smaller question may be answered.
    pub(super) fn is_too_large(&self) -> bool {
        match self {
            Self::Invalid(refusal) => *refusal == Refusal::AnswerTooLarge,
            Self::Unavailable { tried } => tried.iter().any(|tried| tried.failure.is_too_large()),
            _ => false,
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
    #[error("nobody took the transaction, send it again later: {}", list(.tried))]
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

    /// Whether another transaction would fare the same now: nobody who was asked has said anything about this one.
    #[must_use]
    pub fn holds_for_all(&self) -> bool {
        match self {
            Self::Rejected { .. } => false,
            Self::Unavailable { tried } => {
                !tried.iter().any(|tried| matches!(tried.failure, Failure::Orphan | Failure::Pending))
            }
            Self::Failed(_) => true,
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
        let tried = vec![Tried { asked: Asked::Peer(peer), failure: Failure::Refused(Refusal::NotServed) }];
        let error = ChainError::Unavailable { tried };
        let text = error.to_string();
        assert!(text.contains(&peer.to_string()) && text.contains("does not serve"), "{text}");
        assert_eq!(error.refusal(), Some(&Refusal::NotServed));
        assert_eq!(BroadcastError::Failed(error).label(), "unavailable");
    }

    #[test]
    fn what_a_service_says_of_one_transaction_does_not_hold_for_all() {
        let asked = Asked::Service("arc".into());
        let tried = |failure| Tried { asked: asked.clone(), failure };
        let unavailable = |tried| BroadcastError::Unavailable { tried };
        let resting = || tried(Failure::Resting(Duration::from_secs(9)));
        assert!(unavailable(vec![resting(), tried(Failure::Malformed("no answer".into()))]).holds_for_all());
        assert!(!unavailable(vec![resting(), tried(Failure::Orphan)]).holds_for_all());
        assert!(!unavailable(vec![tried(Failure::Pending), resting()]).holds_for_all());
        assert!(BroadcastError::Failed(ChainError::NoSource).holds_for_all());
        let rejected = BroadcastError::Rejected { double_spent: true, code: 466, reason: String::new() };
        assert!(!rejected.holds_for_all());
    }
}
