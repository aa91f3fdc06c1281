//! The streams of one connection: takes what the peer opens as long as there are places, and opens ours.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Stream,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, ConnectionId, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};

use super::{
    AnyKind, OneKind, StreamKind,
    places::NoPlace,
    shared::{Node, Shared, refuse},
};
use crate::net::PeerId;

/// Names one of our opens until it is decided.
pub(in crate::net) type OpenId = u64;

/// What the behaviour asks of a connection: to open a stream of this kind.
#[derive(Debug)]
pub(in crate::net) struct OpenOn(pub(super) OpenId, pub(super) StreamKind);

/// What a connection tells the behaviour.
#[derive(Debug)]
pub(in crate::net) enum Report {
    /// The peer has opened a stream.
    Inbound(Arc<Shared>),
    /// Some streams of the peer were refused.
    Refused {
        /// Because the peer is over its share.
        over_its_share: u64,
        /// Because all places are taken.
        full: u64,
    },
    /// One of ours is open.
    Opened(OpenId, Stream),
    /// One of ours is not.
    NotOpened(OpenId, io::ErrorKind),
}

/// See the module.
pub(in crate::net) struct Handler {
    node: Arc<Node>,
    peer: PeerId,
    connection: ConnectionId,
    /// What the behaviour does not know yet. Each holds a place, or answers an open.
    reports: VecDeque<Report>,
    /// Refusals the behaviour does not know of yet: a number, so that a flood of them is one report.
    over_its_share: u64,
    full: u64,
    /// Bounded by the permits of the opens.
    opens: VecDeque<OpenOn>,
}

impl Handler {
    pub(super) fn new(node: Arc<Node>, peer: PeerId, connection: ConnectionId) -> Self {
        Self {
            node,
            peer,
            connection,
            reports: VecDeque::new(),
            over_its_share: 0,
            full: 0,
            opens: VecDeque::new(),
        }
    }

    fn on_inbound(&mut self, mut stream: Stream, kind: StreamKind) {
        match self.node.places.inbound(self.peer, self.connection) {
            Ok(place) => {
                let shared = Shared::new(self.node.clone(), self.peer, kind, false, stream, place);
                self.reports.push_back(Report::Inbound(shared));
            }
            Err(no_place) => {
                refuse(&mut stream);
                let count = match no_place {
                    NoPlace::OverItsShare => &mut self.over_its_share,
                    NoPlace::Full => &mut self.full,
                };
                *count = count.saturating_add(1);
            }
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenOn;
    type ToBehaviour = Report;
    type InboundProtocol = AnyKind;
    type OutboundProtocol = OneKind;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenId;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(AnyKind, ())
    }

    fn on_behaviour_event(&mut self, open: OpenOn) {
        self.opens.push_back(open);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, OpenId, Report>> {
        if let Some(report) = self.reports.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        if self.over_its_share > 0 || self.full > 0 {
            let report = Report::Refused { over_its_share: self.over_its_share, full: self.full };
            (self.over_its_share, self.full) = (0, 0);
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        match self.opens.pop_front() {
            Some(OpenOn(id, kind)) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(OneKind(kind), id),
            }),
            // Whatever changes this is an event, after each of which the connection asks again.
            None => Poll::Pending,
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), OpenId>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, kind),
                ..
            }) => {
                self.on_inbound(stream, kind);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                self.reports.push_back(Report::Opened(info, stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let kind = match error {
                    StreamUpgradeError::Timeout => io::ErrorKind::TimedOut,
                    StreamUpgradeError::NegotiationFailed => io::ErrorKind::Unsupported,
                    StreamUpgradeError::Io(error) => error.kind(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.reports.push_back(Report::NotOpened(info, kind));
            }
            _ => {}
        }
    }
}
