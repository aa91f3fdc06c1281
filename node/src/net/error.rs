//! What can go wrong in the swarm, by operation.

use std::time::Duration;

use super::{Multiaddr, PeerId, Protocol, limits};

/// The swarm could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The secret key is zero or not below the order of the curve.
    #[error("the node's secret key is not a valid secp256k1 key; restore it from its words")]
    InvalidKey,
    /// The network's name cannot be part of an agent string.
    #[error("the network name {0:?} must be 1 to 32 lower-case letters, digits or dashes")]
    InvalidNetwork(String),
    /// An address of the configuration cannot be used.
    #[error("the address {address} in `{field}` cannot be used: {reason}")]
    InvalidAddress {
        /// The address.
        address: Multiaddr,
        /// The field of [`NetConfig`](super::NetConfig) that holds it.
        field: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A listener could not be opened.
    #[error("cannot listen on {address}: {source}; is another process using the port?")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the transport says.
        source: std::io::Error,
    },
    /// The transport or a behaviour refused its settings.
    #[error("the swarm could not be set up: {0}")]
    Setup(String),
}

/// A connection could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The peer is this node.
    #[error("peer {0} is this node itself")]
    ToSelf(PeerId),
    /// No usable address is known.
    #[error("no address is known for peer {0}; give one, or connect to a bootstrap node to look it up")]
    NoAddresses(PeerId),
    /// Somebody else answers there.
    #[error(
        "expected peer {expected} at {address}, but {obtained} answered; correct the peer id in the address"
    )]
    WrongPeer {
        /// The peer that was asked for.
        expected: PeerId,
        /// The peer that answered, or that the address names.
        obtained: PeerId,
        /// The address.
        address: Multiaddr,
    },
    /// None of the addresses answered.
    #[error("peer {peer} could not be reached: {reasons}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// One line: each address tried and what happened there.
        reasons: String,
    },
    /// The peer belongs to another network.
    #[error("peer {peer} is not of this network: it calls itself {agent:?}")]
    OtherNetwork {
        /// The peer.
        peer: PeerId,
        /// Its agent string.
        agent: String,
    },
    /// The peer is banned for its offences.
    #[error("peer {0} is banned for a while because of its offences")]
    Banned(PeerId),
    /// Our own connection or memory limit is reached.
    #[error("peer {peer} was not connected: {reason}; raise the limit in the configuration or try later")]
    Limit {
        /// The peer.
        peer: PeerId,
        /// Which limit.
        reason: String,
    },
    /// Nothing was decided in time.
    #[error("no connection to peer {peer} within {after:?}")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The deadline.
        after: Duration,
    },
    /// The runner is gone.
    #[error("the network is stopped")]
    Stopped,
}

impl DialError {
    /// The metrics label of this variant.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ToSelf(_) => "to_self",
            Self::NoAddresses(_) => "no_addresses",
            Self::WrongPeer { .. } => "wrong_peer",
            Self::Unreachable { .. } => "unreachable",
            Self::OtherNetwork { .. } => "other_network",
            Self::Banned(_) => "banned",
            Self::Limit { .. } => "limit",
            Self::Timeout { .. } => "dial_timeout",
            Self::Stopped => "stopped",
        }
    }
}

/// A request brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection. The request was not sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The body is too large. It was not sent.
    #[error("a request of {len} bytes is over the limit of {}", limits::MAX_REQUEST)]
    TooLarge {
        /// The body's length.
        len: usize,
    },
    /// The body is empty. It was not sent: an empty request means nothing in any protocol.
    #[error("an empty request cannot be sent")]
    Empty,
    /// The answer is larger than allowed. The peer may have acted on the request.
    #[error("peer {peer} answered with more than {} bytes", limits::MAX_RESPONSE)]
    ResponseTooLarge {
        /// The peer.
        peer: PeerId,
    },
    /// The peer closed the substream without an answer. It may have acted on the request.
    #[error("peer {peer} closed the request without an answer")]
    NoAnswer {
        /// The peer.
        peer: PeerId,
    },
    /// The peer does not offer the protocol.
    #[error("peer {peer} does not offer {protocol}")]
    Unsupported {
        /// The peer.
        peer: PeerId,
        /// The protocol.
        protocol: Protocol,
    },
    /// The connection ended first. The peer may have acted on the request: ask again with the same identifiers.
    #[error("the connection to peer {peer} ended before the answer came")]
    ConnectionClosed {
        /// The peer.
        peer: PeerId,
    },
    /// The substream failed. The peer may have acted on the request.
    #[error("the request to peer {peer} failed: {reason}")]
    Io {
        /// The peer.
        peer: PeerId,
        /// What the transport says.
        reason: String,
    },
    /// No answer in time. The peer may have acted on the request.
    #[error("no answer from peer {peer} within {after:?}")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The deadline.
        after: Duration,
    },
    /// The runner is gone.
    #[error("the network is stopped")]
    Stopped,
}

impl RequestError {
    /// Whether it is certain that the peer never saw the request.
    pub fn not_sent(&self) -> bool {
        matches!(self, Self::Dial(_) | Self::TooLarge { .. } | Self::Empty | Self::Unsupported { .. })
    }

    /// The metrics label of this variant.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Dial(error) => error.label(),
            Self::TooLarge { .. } => "too_large",
            Self::Empty => "empty",
            Self::ResponseTooLarge { .. } => "response_too_large",
            Self::NoAnswer { .. } => "no_answer",
            Self::Unsupported { .. } => "unsupported",
            Self::ConnectionClosed { .. } => "connection_closed",
            Self::Io { .. } => "io",
            Self::Timeout { .. } => "timeout",
            Self::Stopped => "stopped",
        }
    }
}

/// A message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The payload is too large.
    #[error("a gossip message of {len} bytes is over the limit of {}", limits::MAX_GOSSIP)]
    TooLarge {
        /// The payload's length.
        len: usize,
    },
    /// The same bytes went out within the last minute, and peers would drop them.
    #[error("the same message was published a moment ago; put a sequence number or a time in it")]
    Duplicate,
    /// Too many messages wait for a first subscriber.
    #[error(
        "{} messages already wait for a first subscriber; is the node connected?",
        limits::MAX_QUEUED_PUBLISHES
    )]
    QueueFull,
    /// The queues to all peers are full.
    #[error("the queues to all {0} peers are full; publish more slowly")]
    PeersBusy(usize),
    /// The message could not be made.
    #[error("the message could not be signed or encoded: {0}")]
    Internal(String),
    /// Publishing is paced, and the message's turn did not come in time.
    #[error("the message did not get its turn within {after:?}; publish more slowly")]
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// The runner is gone.
    #[error("the network is stopped")]
    Stopped,
}

/// A key could not be provided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvideError {
    /// The node provides as many keys as it may.
    #[error("this node already provides {} keys; stop providing one first", limits::MAX_PROVIDED_KEYS)]
    TooMany,
    /// The runner is gone.
    #[error("the network is stopped")]
    Stopped,
}

/// Providers could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The query did not end in time and found nobody.
    #[error("no provider was found within {after:?}; the query had not ended")]
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// The runner is gone.
    #[error("the network is stopped")]
    Stopped,
}
