//! `/sensora/delivery/1` and `/sensora/release/1`: long-lived, bounded streams of frames between two peers.
//!
//! Paid data moves over one such stream for each purchase: chunks one way, payments the other. This room is for the moving only: it knows frames of bytes, and
//! what they mean is decided above, and which protocol a stream speaks is all that tells them apart ([`StreamKind`]). A stream is opened with
//! [`Net::open_stream`](super::Net::open_stream); those that peers open come as
//! [`NetEvent::Delivery`](super::NetEvent::Delivery). The bytes go from the connection's task to the application's without passing the runner.
//!
//! ```text
//! Net ── Command::OpenDelivery ──▶ NetRunner ──▶ Behaviour ──▶ Handler (one for each connection)
//!  ▲                                  ▲              │  ▲           │
//!  └───────── DeliveryStream ─────────│──────────────┘  └─ streams ─┘
//!            NetEvent::Delivery ◀─────┘      faults ────▶
//! ```
//!
//! # What a peer can cost
//! * Places: so many streams for each peer and for all ([`places`](Places)), opened at a pace. One too many is refused where its connection is served; the runner hears of it once
//!   for any number of them.
//! * Memory: the frame in hand, as far as it has arrived, and a read buffer of 64 KiB at most; for sending the frame in hand and at most 20 KiB of small ones. Beside
//!   them stands the transport's own window for the stream, 256 KiB at first.
//! * Time: nobody waits in the queue to the application for long, the first frame has a deadline, and a frame under way a minimum rate in either direction. A stream
//!   between two frames may rest as long as the application likes.
//!
//! # Which connection
//! A stream runs over the best connection there is when it opens and stays there. A connection that carries one is not closed as a spare one. Only the other side can do that in the
//! moment before it hears of a new stream; the stream then ends with [`DeliveryError::Reset`], and opening another one works.

mod behaviour;
mod error;
mod frame;
mod handler;
mod places;
mod progress;
mod shared;
mod stream;

use std::{convert::Infallible, fmt, future, iter};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};

pub(super) use self::{
    behaviour::{Behaviour, Event, Open},
    error::LABELS,
    shared::Shared,
};
pub use self::{
    error::DeliveryError,
    stream::{DeliveryReceiver, DeliverySender, DeliveryStream},
};

/// What a stream is for. All kinds share the places, deadlines and limits: a peer has so many streams, whatever they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamKind {
    /// `/sensora/delivery/1`: readings that are paid through a channel while they come.
    Delivery,
    /// `/sensora/release/1`: batches whose key is released on the chain.
    Release,
}

impl StreamKind {
    /// All kinds, in a fixed order.
    pub const ALL: [Self; 2] = [Self::Delivery, Self::Release];

    /// The protocol id on the wire.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Delivery => super::DELIVERY_PROTOCOL,
            Self::Release => super::RELEASE_PROTOCOL,
        }
    }
}

impl fmt::Display for StreamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// What is agreed upon for each substream that a peer opens: one of the kinds.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnyKind;

/// What we propose for a substream of our own: this kind alone, so that the first frame travels with the proposal.
#[derive(Debug, Clone, Copy)]
pub(super) struct OneKind(StreamKind);

impl UpgradeInfo for AnyKind {
    type Info = KindName;
    type InfoIter = std::array::IntoIter<KindName, 2>;

    fn protocol_info(&self) -> Self::InfoIter {
        StreamKind::ALL.map(KindName).into_iter()
    }
}

impl UpgradeInfo for OneKind {
    type Info = KindName;
    type InfoIter = iter::Once<KindName>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(KindName(self.0))
    }
}

impl<S> InboundUpgrade<S> for AnyKind {
    type Output = (S, StreamKind);
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: S, KindName(kind): KindName) -> Self::Future {
        future::ready(Ok((stream, kind)))
    }
}

impl<S> OutboundUpgrade<S> for OneKind {
    type Output = S;
    type Error = Infallible;
    type Future = future::Ready<Result<S, Infallible>>;

    fn upgrade_outbound(self, stream: S, _: KindName) -> Self::Future {
        future::ready(Ok(stream))
    }
}

/// A kind as the negotiation names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct KindName(StreamKind);

impl AsRef<str> for KindName {
    fn as_ref(&self) -> &str {
        self.0.id()
    }
}
