//! A peer that speaks `/sensora/market/1` without our node's manners: it sends what it likes, as fast as it likes.

use std::io;

use bytes::Bytes;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, Transport as _,
    core::{transport::MemoryTransport, upgrade::Version},
    futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt, future},
    noise,
    request_response::{self, Behaviour, Event, Message, ProtocolSupport},
    swarm::{SwarmEvent, dial_opts::DialOpts},
    yamux,
};
use sensora_node::net::{Multiaddr, Net, PeerId, Protocol};

/// What it sends as a request.
#[derive(Debug)]
pub(super) enum Sends {
    /// These bytes, and then the end.
    Bytes(Vec<u8>),
    /// These bytes, and no end.
    Part(Vec<u8>),
}

#[derive(Clone, Default)]
struct Codec;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Sends;
    type Response = Bytes;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Sends>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut body = Vec::new();
        io.read_to_end(&mut body).await?;
        Ok(Sends::Bytes(body))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut body = Vec::new();
        io.read_to_end(&mut body).await?;
        Ok(body.into())
    }

    async fn write_request<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        sends: Sends,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match sends {
            Sends::Bytes(body) => self.write_response(protocol, io, body.into()).await,
            Sends::Part(body) => {
                io.write_all(&body).await?;
                io.flush().await?;
                future::pending().await
            }
        }
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, body: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&body).await
    }
}

pub(super) struct Peer {
    swarm: Swarm<Behaviour<Codec>>,
    to: Option<PeerId>,
    /// What it answers to every request.
    pub(super) answers: Vec<u8>,
}

impl Peer {
    pub(super) fn new() -> Self {
        let protocol = (StreamProtocol::new(Protocol::Market.id()), ProtocolSupport::Full);
        let swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_other_transport(|key| {
                MemoryTransport::default()
                    .upgrade(Version::V1)
                    .authenticate(noise::Config::new(key).unwrap())
                    .multiplex(yamux::Config::default())
            })
            .unwrap()
            .with_behaviour(|_| Behaviour::<Codec>::new([protocol], request_response::Config::default()))
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(super::PATIENCE))
            .build();
        Self { swarm, to: None, answers: Vec::new() }
    }

    pub(super) fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    pub(super) async fn dial(&mut self, net: &Net, addresses: &[Multiaddr]) {
        let dial = DialOpts::peer_id(net.peer_id()).addresses(addresses.to_vec()).build();
        self.swarm.dial(dial).unwrap();
        while !matches!(self.swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
        self.to = Some(net.peer_id());
    }

    pub(super) fn send(&mut self, sends: Sends) {
        self.swarm.behaviour_mut().send_request(&self.to.unwrap(), sends);
    }

    /// The next answer to any of its requests.
    pub(super) async fn answer(&mut self) -> Result<Bytes, String> {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(Event::Message {
                    message: Message::Response { response, .. }, ..
                }) => return Ok(response),
                SwarmEvent::Behaviour(Event::OutboundFailure { error, .. }) => return Err(error.to_string()),
                _ => {}
            }
        }
    }

    pub(super) async fn ask(&mut self, sends: Sends) -> Result<Bytes, String> {
        self.send(sends);
        self.answer().await
    }

    pub(super) async fn serve(&mut self) {
        loop {
            if let SwarmEvent::Behaviour(Event::Message {
                message: Message::Request { channel, .. }, ..
            }) = self.swarm.select_next_some().await
            {
                let answer = self.answers.clone().into();
                let _ = self.swarm.behaviour_mut().send_response(channel, answer);
            }
        }
    }
}
