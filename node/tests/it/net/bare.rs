//! A libp2p peer that hands out bare substreams of one protocol: for a peer without manners, and for what a stream costs without ours.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use libp2p::{
    Stream, StreamProtocol, Swarm, SwarmBuilder, Transport as _,
    core::{
        Endpoint,
        transport::{MemoryTransport, PortUse},
        upgrade::{ReadyUpgrade, Version},
    },
    futures::StreamExt,
    noise,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, SwarmEvent, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        dial_opts::{DialOpts, PeerCondition},
        handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
    tcp, yamux,
};
use sensora_node::net::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

/// Who gets a substream that is open.
type Reply = oneshot::Sender<Stream>;

pub(super) struct Handler {
    protocol: StreamProtocol,
    opens: VecDeque<Reply>,
    inbound: VecDeque<Stream>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Reply;
    type ToBehaviour = Stream;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn on_behaviour_event(&mut self, reply: Reply) {
        self.opens.push_back(reply);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Reply, Stream>> {
        if let Some(stream) = self.inbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        self.opens.pop_front().map_or(Poll::Pending, |reply| {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), reply);
            Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
        })
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Reply>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                self.inbound.push_back(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                let _ = info.send(stream);
            }
            _ => {}
        }
    }
}

pub(super) struct Behaviour {
    protocol: StreamProtocol,
    actions: VecDeque<ToSwarm<Stream, Reply>>,
}

impl Behaviour {
    fn handler(&self) -> Handler {
        Handler { protocol: self.protocol.clone(), opens: VecDeque::new(), inbound: VecDeque::new() }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Stream;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, stream: THandlerOutEvent<Self>) {
        self.actions.push_back(ToSwarm::GenerateEvent(stream));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Stream, THandlerInEvent<Self>>> {
        self.actions.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

enum Command {
    Dial(PeerId, Vec<Multiaddr>, oneshot::Sender<ConnectionId>),
    Open(PeerId, NotifyHandler, Reply),
}

/// The peer. It ends when this is dropped.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) address: Multiaddr,
    commands: mpsc::Sender<Command>,
    inbound: mpsc::Receiver<Stream>,
}

impl Peer {
    /// Listens at `/memory/0` or a TCP address.
    pub(super) async fn new(protocol: &'static str, listen: &str) -> Self {
        let behaviour = Behaviour { protocol: StreamProtocol::new(protocol), actions: VecDeque::new() };
        let key = libp2p::identity::Keypair::generate_secp256k1();
        let builder = SwarmBuilder::with_existing_identity(key).with_tokio();
        let config = |config: libp2p::swarm::Config| {
            config
                .with_idle_connection_timeout(super::PATIENCE)
                .with_substream_upgrade_protocol_override(Version::V1Lazy)
        };
        let mut swarm = if listen.contains("memory") {
            let transport = |key: &libp2p::identity::Keypair| {
                MemoryTransport::default()
                    .upgrade(Version::V1Lazy)
                    .authenticate(noise::Config::new(key).unwrap())
                    .multiplex(yamux::Config::default())
            };
            builder
                .with_other_transport(transport)
                .unwrap()
                .with_behaviour(|_| behaviour)
                .unwrap()
                .with_swarm_config(config)
                .build()
        } else {
            let tcp = tcp::Config::default().nodelay(true);
            builder
                .with_tcp(tcp, noise::Config::new, yamux::Config::default)
                .unwrap()
                .with_behaviour(|_| behaviour)
                .unwrap()
                .with_swarm_config(config)
                .build()
        };
        swarm.listen_on(listen.parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let (commands, commands_from) = mpsc::channel(64);
        let (inbound_to, inbound) = mpsc::channel(256);
        let id = *swarm.local_peer_id();
        tokio::spawn(run(swarm, commands_from, inbound_to));
        Self { id, address, commands, inbound }
    }

    /// Makes a connection, also where there is one.
    pub(super) async fn dial(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> ConnectionId {
        let (reply, connection) = oneshot::channel();
        assert!(self.commands.send(Command::Dial(peer, addresses, reply)).await.is_ok());
        connection.await.unwrap()
    }

    /// A substream to a peer, unless its connection ends meanwhile.
    pub(super) async fn try_open(&self, peer: PeerId, on: NotifyHandler) -> Option<Stream> {
        let (reply, stream) = oneshot::channel();
        assert!(self.commands.send(Command::Open(peer, on, reply)).await.is_ok());
        stream.await.ok()
    }

    /// A substream to a peer that is connected.
    pub(super) async fn open(&self, peer: PeerId) -> Stream {
        self.try_open(peer, NotifyHandler::Any).await.unwrap()
    }

    /// The next substream that somebody opened to here.
    pub(super) async fn accept(&mut self) -> Stream {
        self.inbound.recv().await.unwrap()
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut commands: mpsc::Receiver<Command>,
    inbound: mpsc::Sender<Stream>,
) {
    let mut dialing = None;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Dial(peer, addresses, reply)) => {
                    let dial = DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Always);
                    swarm.dial(dial.build()).unwrap();
                    dialing = Some(reply);
                }
                Some(Command::Open(peer_id, handler, event)) => {
                    let open = ToSwarm::NotifyHandler { peer_id, handler, event };
                    swarm.behaviour_mut().actions.push_back(open);
                }
                None => break,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(stream) => drop(inbound.try_send(stream)),
                SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                    if let Some(reply) = dialing.take() {
                        let _ = reply.send(connection_id);
                    }
                }
                _ => {}
            },
        }
    }
}
