//! Why a delivery stream could not be opened, or ended.

use std::time::Duration;

use super::StreamKind;
use crate::net::{
    DialError, Offence, PeerId,
    limits::{MAX_DELIVERY_FRAME, MIN_DELIVERY_RATE, PROGRESS_WINDOW},
};

/// A delivery stream was not opened, or does not go on. Which frames the peer has seen is for the layer above to find out: a new stream begins where its own
/// messages say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// There is no connection. Nothing was sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// This node has as many streams open as it may. Nothing was sent.
    #[error("this node already has {limit} delivery streams of its own open; finish one first")]
    TooMany {
        /// How many it may have.
        limit: usize,
    },
    /// This node has as many streams to the peer open as it may. Nothing was sent.
    #[error("this node already has {limit} delivery streams to peer {peer} open; finish one first")]
    TooManyToPeer {
        /// The peer.
        peer: PeerId,
        /// How many it may have.
        limit: usize,
    },
    /// The peer does not offer the protocol.
    #[error("peer {peer} does not offer {protocol}")]
    Unsupported {
        /// The peer.
        peer: PeerId,
        /// What was proposed to it.
        protocol: StreamKind,
    },
    /// The peer did not take the stream: it has too many, of ours or of all, or nobody there takes them. Nothing was read of what was sent.
    #[error("peer {peer} does not take another delivery stream now; finish one with it, or try again later")]
    Refused {
        /// The peer.
        peer: PeerId,
    },
    /// The stream was not open in time. Nothing was sent.
    #[error("no delivery stream to peer {peer} within {after:?}")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The deadline.
        after: Duration,
    },
    /// The stream ended between two frames without being finished: the peer dropped it, or the connection is lost.
    #[error("the delivery stream with peer {peer} broke off between two frames; open a new one to go on")]
    Reset {
        /// The peer.
        peer: PeerId,
    },
    /// The same in the middle of a frame.
    #[error(
        "the delivery stream with peer {peer} broke off in the middle of a frame; open a new one to go on"
    )]
    ClosedMidFrame {
        /// The peer.
        peer: PeerId,
    },
    /// The peer opened a stream and sent nothing.
    #[error("peer {peer} opened a delivery stream and sent nothing within {after:?}")]
    NoFirstFrame {
        /// The peer.
        peer: PeerId,
        /// How long it may take.
        after: Duration,
    },
    /// The peer began a frame and sends the rest too slowly.
    #[error(
        "peer {peer} sends a frame at less than {MIN_DELIVERY_RATE} bytes a second for {PROGRESS_WINDOW:?}"
    )]
    SlowSending {
        /// The peer.
        peer: PeerId,
    },
    /// The peer takes what is sent to it too slowly.
    #[error("peer {peer} takes less than {MIN_DELIVERY_RATE} bytes a second for {PROGRESS_WINDOW:?}")]
    SlowReading {
        /// The peer.
        peer: PeerId,
    },
    /// The peer announced a frame that is longer than allowed.
    #[error("peer {peer} announced a frame of {len} bytes, over the limit of {max}")]
    Oversize {
        /// The peer.
        peer: PeerId,
        /// The announced length.
        len: u32,
        /// The limit.
        max: usize,
    },
    /// The peer announced a frame of no bytes.
    #[error("peer {peer} announced a frame of no bytes")]
    ZeroLength {
        /// The peer.
        peer: PeerId,
    },
    /// The transport failed in a way of its own.
    #[error("the delivery stream with peer {peer} failed: {reason}; open a new one to go on")]
    Io {
        /// The peer.
        peer: PeerId,
        /// What the transport says.
        reason: String,
    },
    /// This node dropped the stream's other half before its direction had ended.
    #[error(
        "this node dropped the other half of the delivery stream with peer {peer} before it was finished"
    )]
    Abandoned {
        /// The peer.
        peer: PeerId,
    },
    /// No frame came in the time the caller gave. The stream goes on.
    #[error("no frame from peer {peer} within {after:?}")]
    Idle {
        /// The peer.
        peer: PeerId,
        /// The caller's patience.
        after: Duration,
    },
    /// The frame is too large. It was not sent; the stream goes on.
    #[error("a frame of {len} bytes is over the limit of {MAX_DELIVERY_FRAME}")]
    FrameTooLarge {
        /// Its length.
        len: usize,
    },
    /// The frame is empty. It was not sent; the stream goes on.
    #[error("an empty frame cannot be sent")]
    FrameEmpty,
    /// This node has said that it sends no more.
    #[error("the delivery stream to peer {peer} is finished; a frame was sent after it")]
    Finished {
        /// The peer.
        peer: PeerId,
    },
    /// The runner is gone.
    #[error("the network is stopped")]
    Stopped,
}

/// The labels of [`DeliveryError`] beside those of [`DialError`], of which each is a counter.
pub(in crate::net) const LABELS: [&str; 27] = [
    "abandoned",
    "banned",
    "closed_mid_frame",
    "dial_timeout",
    "finished",
    "frame_empty",
    "frame_too_large",
    "idle",
    "io",
    "limit",
    "no_addresses",
    "no_first_frame",
    "other_network",
    "oversize",
    "refused",
    "reset",
    "slow_reading",
    "slow_sending",
    "stopped",
    "timeout",
    "to_self",
    "too_many",
    "too_many_to_peer",
    "unreachable",
    "unsupported",
    "wrong_peer",
    "zero_length",
];

impl DeliveryError {
    /// Whether the stream can still be used.
    pub fn goes_on(&self) -> bool {
        matches!(self, Self::Idle { .. } | Self::FrameTooLarge { .. } | Self::FrameEmpty)
    }

    /// The metrics label of this variant.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Dial(error) => error.label(),
            Self::TooMany { .. } => "too_many",
            Self::TooManyToPeer { .. } => "too_many_to_peer",
            Self::Unsupported { .. } => "unsupported",
            Self::Refused { .. } => "refused",
            Self::Timeout { .. } => "timeout",
            Self::Reset { .. } => "reset",
            Self::ClosedMidFrame { .. } => "closed_mid_frame",
            Self::NoFirstFrame { .. } => "no_first_frame",
            Self::SlowSending { .. } => "slow_sending",
            Self::SlowReading { .. } => "slow_reading",
            Self::Oversize { .. } => "oversize",
            Self::ZeroLength { .. } => "zero_length",
            Self::Io { .. } => "io",
            Self::Abandoned { .. } => "abandoned",
            Self::Idle { .. } => "idle",
            Self::FrameTooLarge { .. } => "frame_too_large",
            Self::FrameEmpty => "frame_empty",
            Self::Finished { .. } => "finished",
            Self::Stopped => "stopped",
        }
    }

    /// What the peer is to blame for in it.
    pub fn offence(&self) -> Option<Offence> {
        match self {
            Self::NoFirstFrame { .. } => Some(Offence::Stalled),
            Self::SlowSending { .. } => Some(Offence::SlowSending),
            Self::SlowReading { .. } => Some(Offence::SlowReading),
            Self::Oversize { .. } => Some(Offence::Oversize),
            Self::ZeroLength { .. } => Some(Offence::Malformed),
            _ => None,
        }
    }
}
