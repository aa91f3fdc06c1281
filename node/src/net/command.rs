//! What the handle asks of the runner. A command carries the permit that bounds its kind, so the bound holds until the
//! work is done or given up, whoever ends it.

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{
    DialError, FindError, Multiaddr, NetStatus, Offence, PeerId, Protocol, ProvideError, PublishError,
    RequestError, Topic, delivery::Open,
};

/// Peers with the addresses known of them.
pub(super) type Found = Vec<(PeerId, Vec<Multiaddr>)>;

/// Answers a command. Whoever asked may have given up waiting; then nobody is told.
pub(super) fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

/// A request of ours, from the handle until its answer.
#[derive(Debug)]
pub(super) struct OutboundRequest {
    pub(super) peer: PeerId,
    pub(super) protocol: Protocol,
    pub(super) body: Bytes,
    pub(super) reply: oneshot::Sender<Result<Bytes, RequestError>>,
    /// One place of all our requests and one of those to this peer.
    #[expect(dead_code, reason = "held until the answer")]
    pub(super) permits: [OwnedSemaphorePermit; 2],
}

#[derive(Debug)]
pub(super) enum Command {
    Dial {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<(), DialError>>,
        permit: OwnedSemaphorePermit,
    },
    Request {
        request: OutboundRequest,
        addresses: Vec<Multiaddr>,
    },
    OpenDelivery {
        open: Open,
        addresses: Vec<Multiaddr>,
    },
    Publish {
        topic: Topic,
        data: Bytes,
        reply: oneshot::Sender<Result<(), PublishError>>,
    },
    Provide {
        key: [u8; 32],
        reply: oneshot::Sender<Result<(), ProvideError>>,
    },
    StopProviding {
        key: [u8; 32],
        reply: oneshot::Sender<()>,
    },
    FindProviders {
        key: [u8; 32],
        deadline: Instant,
        reply: oneshot::Sender<Result<Found, FindError>>,
        permit: OwnedSemaphorePermit,
    },
    Report {
        peer: PeerId,
        offence: Offence,
    },
    ListenAddrs {
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    ConnectedPeers {
        reply: oneshot::Sender<Vec<PeerId>>,
    },
    KnownPeers {
        reply: oneshot::Sender<Found>,
    },
    Status {
        reply: oneshot::Sender<NetStatus>,
    },
}
