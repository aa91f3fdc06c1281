//! `/sensora/delivery/1`: long-lived, bounded streams of frames between two peers.
//!
//! Paid data moves over one such stream for each purchase: chunks one way, payments the other. This room is for the moving only: it knows frames of bytes, and
//! what they mean is decided above. A stream is opened with [`Net::open_delivery`](super::Net::open_delivery); those that peers open come as
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

use libp2p::StreamProtocol;

pub(super) use self::{
    behaviour::{Behaviour, Event, Open},
    error::LABELS,
    shared::Shared,
};
pub use self::{
    error::DeliveryError,
    stream::{DeliveryReceiver, DeliverySender, DeliveryStream},
};

/// The protocol id.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new(super::DELIVERY_PROTOCOL);
