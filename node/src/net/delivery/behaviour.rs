//! The streams of all connections: opens ours, hands on those of others, and says who is to blame.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use libp2p::{
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    DeliveryError, DeliveryStream, StreamKind,
    handler::{Handler, OpenId, OpenOn, Report},
    places::Places,
    shared::{Node, Shared},
};
use crate::net::{
    Counters, Multiaddr, Offence, PeerId,
    command::answer,
    counters::inc,
    limits::{Limits, OPEN_DELIVERY_DEADLINE},
};

/// Faults that wait for the runner, whatever the limits say: it takes them in microseconds, and each costs a peer its stream.
const MAX_FAULTS: usize = 4096;

/// A stream of ours, from the handle until it is open.
#[derive(Debug)]
pub(in crate::net) struct Open {
    pub(in crate::net) peer: PeerId,
    pub(in crate::net) kind: StreamKind,
    pub(in crate::net) reply: oneshot::Sender<Result<DeliveryStream, DeliveryError>>,
    /// One place of all our streams and one of those to this peer.
    pub(in crate::net) permits: [OwnedSemaphorePermit; 2],
    /// One place of those being opened.
    #[expect(dead_code, reason = "held until the stream is open")]
    pub(in crate::net) pending: OwnedSemaphorePermit,
}

/// What the runner must know.
#[derive(Debug)]
pub(in crate::net) enum Event {
    /// A peer has opened a stream.
    Inbound(Arc<Shared>),
    /// Streams of a peer were refused: so many because of the peer, so many because this node is full.
    Refused { peer: PeerId, over_its_share: u64, full: u64 },
    /// A peer has done something wrong on a stream.
    Fault { peer: PeerId, offence: Offence },
}

/// See the module.
pub(in crate::net) struct Behaviour {
    node: Arc<Node>,
    faults: mpsc::Receiver<(PeerId, Offence)>,
    /// Ours that are being opened; bounded by their permits.
    opens: HashMap<OpenId, (ConnectionId, Open)>,
    next: OpenId,
    /// Emptied before anything more is taken in.
    actions: VecDeque<ToSwarm<Event, OpenOn>>,
}

impl Behaviour {
    pub(in crate::net) fn new(limits: &Limits, counters: Arc<Counters>, outbound: usize) -> Self {
        let (faults_to, faults) =
            mpsc::channel(limits.deliveries.saturating_add(outbound).clamp(1, MAX_FAULTS));
        let node = Node {
            places: Places::new(limits),
            counters,
            faults: faults_to,
            stopped: AtomicBool::new(false),
            first_frame: limits.first_frame,
        };
        Self { node: Arc::new(node), faults, opens: HashMap::new(), next: 0, actions: VecDeque::new() }
    }

    /// Who holds which places.
    pub(in crate::net) fn places(&self) -> &Arc<Places> {
        &self.node.places
    }

    /// From now on a stream that breaks off does so because this node stops.
    pub(in crate::net) fn stop(&self) {
        self.node.stopped.store(true, Relaxed);
    }

    /// Opens a stream over this connection.
    pub(in crate::net) fn open(&mut self, connection: ConnectionId, open: Open) {
        if open.reply.is_closed() {
            return;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let handler = NotifyHandler::One(connection);
        self.actions.push_back(ToSwarm::NotifyHandler {
            peer_id: open.peer,
            handler,
            event: OpenOn(id, open.kind),
        });
        self.opens.insert(id, (connection, open));
    }

    fn opened(&mut self, id: OpenId, outcome: Result<libp2p::Stream, io::ErrorKind>) {
        let Some((connection, open)) = self.opens.remove(&id) else { return };
        let Open { peer, kind, reply, permits, .. } = open;
        let outcome = match outcome {
            Ok(stream) => {
                inc(&self.node.counters.deliveries_opened);
                let place = self.node.places.outbound(connection, permits);
                Ok(DeliveryStream::new(Shared::new(self.node.clone(), peer, kind, true, stream, place)))
            }
            Err(io::ErrorKind::TimedOut) => {
                Err(DeliveryError::Timeout { peer, after: OPEN_DELIVERY_DEADLINE })
            }
            Err(io::ErrorKind::Unsupported) => Err(DeliveryError::Unsupported { peer, protocol: kind }),
            Err(_) => Err(DeliveryError::Reset { peer }),
        };
        answer(reply, outcome);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.node.clone(), peer, connection))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.node.clone(), peer, connection))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) = event {
            for (_, (_, open)) in self.opens.extract_if(|_, (connection, _)| *connection == connection_id) {
                answer(open.reply, Err(DeliveryError::Reset { peer: open.peer }));
            }
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, report: THandlerOutEvent<Self>) {
        match report {
            Report::Inbound(stream) => self.actions.push_back(ToSwarm::GenerateEvent(Event::Inbound(stream))),
            Report::Refused { over_its_share, full } => {
                self.actions.push_back(ToSwarm::GenerateEvent(Event::Refused { peer, over_its_share, full }));
            }
            Report::Opened(id, stream) => self.opened(id, Ok(stream)),
            Report::NotOpened(id, kind) => self.opened(id, Err(kind)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        match self.faults.poll_recv(cx) {
            Poll::Ready(Some((peer, offence))) => {
                Poll::Ready(ToSwarm::GenerateEvent(Event::Fault { peer, offence }))
            }
            // The sender is held by this behaviour itself.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
