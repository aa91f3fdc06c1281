//! Owns the swarm and everything the node knows of its peers. One task, one loop: it never waits for the application.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use libp2p::{
    Swarm, TransportError,
    core::transport::ListenerId,
    futures::StreamExt,
    kad::QueryId,
    request_response::{InboundRequestId, OutboundRequestId},
    swarm::{ConnectionId, SwarmEvent},
};
use tokio::{
    sync::{Semaphore, broadcast, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, KadMode, Multiaddr, Net, NetConfig, NetError, NetEvent, NetEvents, NetStatus, Offence, PeerId,
    PeerStatus, Protocol, Refusal, Topic, Transport, address,
    behaviour::{Behaviour, BehaviourEvent},
    command::{Command, OutboundRequest, answer},
    counters::inc,
    delivery::Shared,
    dial::{Attempt, Bootstrap, Waiter},
    event::{Answer, Ruling},
    gossip::Topics,
    limits::{
        ARRIVAL_QUEUE, COMMAND_QUEUE, EVENT_QUEUE, MAX_INBOUND_REQUESTS, MAX_PENDING_VERDICTS,
        MAX_QUEUED_DELIVERIES,
    },
    offence::{Consequence, Offenders},
    peers::Book,
    quota::Quotas,
    transport,
};
use crate::net::on::kad::{Find, Provided, Query};

/// How often the runner looks at what is due: dials, announcements, bans that end. A second is fine for all of them
/// and costs a sleeping device nothing worth measuring.
const TICK: Duration = Duration::from_secs(1);

/// How often expired records, buckets and scores are swept out, in ticks.
const SWEEP_EVERY: u64 = 30;

/// How long closing the connections may hold up a stop. A round trip around the world is a third of a second.
const GOODBYE: Duration = Duration::from_millis(500);

/// Most bootstrap addresses a configuration may name.
const MAX_BOOTSTRAP: usize = 64;

/// A peer with at least one connection. As many as the connection limits allow.
#[derive(Debug)]
pub(super) struct Live {
    /// When the first of its connections was made.
    pub(super) since: Instant,
    /// Oldest first.
    pub(super) connections: Vec<Connection>,
    /// Its agent string, once it has identified itself as one of our network.
    pub(super) agent: Option<String>,
    pub(super) rtt: Option<Duration>,
}

impl Live {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, connections: Vec::new(), agent: None, rtt: None }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    /// Without `/p2p`.
    pub(super) remote: Multiaddr,
    pub(super) outbound: bool,
    pub(super) since: Instant,
}

/// A request of a peer that is not answered to the last byte.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    /// The application has answered; the answer is on its way.
    pub(super) answered: bool,
}

/// Drives the swarm; nothing happens until [`NetRunner::run`] is polled.
#[must_use = "the swarm does nothing unless the runner runs"]
pub struct NetRunner {
    pub(super) swarm: Box<Swarm<Behaviour>>,
    pub(super) local: PeerId,
    pub(super) network: String,
    agent: String,
    /// Whether addresses that only lead to this machine mean something here.
    pub(super) loopback: bool,
    /// Whether no others do.
    pub(super) only_loopback: bool,
    pub(super) refusal_frame: fn(Protocol, Refusal) -> Bytes,
    pub(super) topics: Topics,
    pub(super) counters: Arc<Counters>,
    pub(super) arrivals: broadcast::Sender<PeerId>,

    commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<NetEvent>,
    answers: mpsc::Receiver<Answer>,
    pub(super) answers_to: mpsc::Sender<Answer>,
    rulings: mpsc::Receiver<Ruling>,
    pub(super) rulings_to: mpsc::Sender<Ruling>,

    pub(super) live: HashMap<PeerId, Live>,
    pub(super) book: Book,
    pub(super) bootstraps: Vec<Bootstrap>,
    pub(super) attempts: HashMap<PeerId, Attempt>,
    pub(super) offenders: Offenders,
    pub(super) quotas: Quotas,

    /// Our requests without an answer; bounded by their permits.
    pub(super) outbound: HashMap<(Protocol, OutboundRequestId), OutboundRequest>,
    /// Requests handed to the application; at most [`MAX_INBOUND_REQUESTS`].
    pub(super) inbound: HashMap<(Protocol, InboundRequestId), Inbound>,

    /// Delivery streams that wait for the application to take them, and until when; at most [`MAX_QUEUED_DELIVERIES`] and those taken since the last tick.
    pub(super) queued_deliveries: Vec<(Instant, Weak<Shared>)>,
    pub(super) delivery_queue: Arc<Semaphore>,
    pub(super) accept_delivery: Duration,

    /// Messages that wait for a subscriber; at most
    /// [`MAX_QUEUED_PUBLISHES`](super::limits::MAX_QUEUED_PUBLISHES).
    pub(super) unpublished: VecDeque<(Topic, Bytes)>,

    /// Our DHT queries; bounded by the permits of the lookups and the announcements at once.
    pub(super) queries: HashMap<QueryId, Query>,
    pub(super) finds: HashMap<u64, Find>,
    pub(super) next_find: u64,
    pub(super) provided: HashMap<[u8; 32], Provided>,

    listeners: Vec<ListenerId>,
    /// Listeners that have no address yet, and who waits for them to have one.
    pub(super) silent_listeners: Vec<ListenerId>,
    listen_waiters: Vec<oneshot::Sender<Vec<Multiaddr>>>,
    pub(super) ticks: u64,
}

impl Net {
    /// Sets up a node of the swarm. Listeners are opened at once; everything else starts with
    /// [`NetRunner::run`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn new(config: NetConfig) -> Result<(Self, NetRunner, NetEvents), NetError> {
        let key = address::keypair(&config.secret_key).ok_or(NetError::InvalidKey)?;
        let local = key.public().to_peer_id();
        check(&config)?;
        let topics = Topics::of(&config.network);
        let counters = Arc::new(Counters::default());
        let behaviour = Behaviour::new(&config, &key, &topics, counters.clone())?;
        let mut swarm = Box::new(transport::swarm(&config, key, behaviour)?);
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = swarm.listen_on(address.clone()).map_err(|error| listen_error(address, error))?;
            listeners.push(listener);
        }
        for address in &config.external {
            swarm.add_external_address(address::split_peer_id(address.clone()).0);
        }

        let now = Instant::now();
        let loopback = config.listen.iter().chain(&config.bootstrap).any(address::is_loopback);
        let only_loopback = config.listen.iter().all(address::is_loopback);
        let mut book = Book::default();
        for (peer, addresses) in &config.known_peers {
            let usable = addresses.iter().filter_map(|address| address::usable(address, peer, loopback));
            if *peer != local {
                book.hint(*peer, usable, now);
            }
        }
        let bootstraps: Vec<Bootstrap> = config
            .bootstrap
            .iter()
            .map(|address| Bootstrap::new(address.clone(), now))
            .filter(|bootstrap| bootstrap.peer != Some(local))
            .collect();

        let (commands_to, commands) = mpsc::channel(COMMAND_QUEUE);
        let (events, events_from) = mpsc::channel(EVENT_QUEUE);
        let (arrivals, _) = broadcast::channel(ARRIVAL_QUEUE);
        let (answers_to, answers) = mpsc::channel(MAX_INBOUND_REQUESTS);
        let (rulings_to, rulings) = mpsc::channel(MAX_PENDING_VERDICTS);
        let agent = config.agent();
        let net =
            Self::from_parts(local, config.network.clone(), commands_to, counters.clone(), arrivals.clone());
        let runner = NetRunner {
            swarm,
            local,
            network: config.network,
            agent,
            loopback,
            only_loopback,
            refusal_frame: config.refusal_frame,
            topics,
            counters,
            arrivals,
            commands,
            events,
            answers,
            answers_to,
            rulings,
            rulings_to,
            live: HashMap::new(),
            book,
            bootstraps,
            attempts: HashMap::new(),
            offenders: Offenders::default(),
            quotas: Quotas::inbound(),
            outbound: HashMap::new(),
            inbound: HashMap::new(),
            queued_deliveries: Vec::new(),
            delivery_queue: Arc::new(Semaphore::new(MAX_QUEUED_DELIVERIES)),
            accept_delivery: config.limits.accept_delivery,
            unpublished: VecDeque::new(),
            queries: HashMap::new(),
            finds: HashMap::new(),
            next_find: 0,
            provided: HashMap::new(),
            silent_listeners: listeners.clone(),
            listeners,
            listen_waiters: Vec::new(),
            ticks: 0,
        };
        Ok((net, runner, NetEvents { queue: events_from }))
    }
}

/// Refuses what cannot work, before anything is opened.
fn check(config: &NetConfig) -> Result<(), NetError> {
    let name = config.network.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    if !(1..=32).contains(&name.len()) || !name.iter().all(plain) {
        return Err(NetError::InvalidNetwork(config.network.clone()));
    }
    let bad = |field, address: &Multiaddr, reason| {
        Err(NetError::InvalidAddress { field, address: address.clone(), reason })
    };
    if let Some(address) = config.bootstrap.get(MAX_BOOTSTRAP) {
        return bad("bootstrap", address, "there are too many; 64 are enough");
    }
    let fields =
        [("listen", &config.listen), ("external", &config.external), ("bootstrap", &config.bootstrap)];
    for (field, addresses) in fields {
        for address in addresses {
            let memory = address::transport_name(address) == "memory";
            if memory != (config.transport == Transport::Memory) {
                return bad(field, address, "it does not fit the transport in use");
            }
        }
    }
    let dead_end = config.kad_mode == KadMode::Server && config.listen.is_empty();
    if dead_end && let Some(address) = config.external.first() {
        return bad("external", address, "the node listens nowhere; set `listen` as well");
    }
    Ok(())
}

fn listen_error(address: &Multiaddr, error: TransportError<std::io::Error>) -> NetError {
    match error {
        TransportError::MultiaddrNotSupported(address) => {
            NetError::InvalidAddress { field: "listen", address, reason: "no transport can listen on it" }
        }
        TransportError::Other(source) => NetError::Listen { address: address.clone(), source },
    }
}

impl NetRunner {
    /// Runs until `stop` is cancelled. Then all connections are closed, what was asked ends with `Stopped`, and
    /// [`NetEvents::recv`] gives `None`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // What was begun here comes before what others begin.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(answer) = self.answers.recv() => self.on_answer(answer),
                Some(ruling) = self.rulings.recv() => self.on_ruling(ruling),
                _ = tick.tick() => self.on_tick(),
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
            }
        }
        self.say_goodbye().await;
        tracing::debug!(peer = %self.local, "the network is stopped");
    }

    /// Closes listeners and connections in order, so that peers notice at once and not by a timeout.
    async fn say_goodbye(&mut self) {
        // Nobody is answered from here on: who waits for something learns that the network is stopped.
        self.commands.close();
        self.swarm.behaviour().delivery.stop();
        for listener in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error only says that the connection ended meanwhile.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(GOODBYE, closed).await.is_err() {
            tracing::debug!("some connections did not close in time");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { peer, addresses, reply, permit } => {
                self.connect(peer, &addresses, Waiter::Dial { reply, permit });
            }
            Command::Request { request, addresses } => {
                self.connect(request.peer, &addresses, Waiter::Request(request));
            }
            Command::OpenDelivery { open, addresses } => {
                self.connect(open.peer, &addresses, Waiter::Delivery(open));
            }
            Command::Publish { topic, data, reply } => answer(reply, self.publish(topic, data)),
            Command::Provide { key, reply } => answer(reply, self.provide(key)),
            Command::StopProviding { key, reply } => {
                self.stop_providing(&key);
                answer(reply, ());
            }
            Command::FindProviders { key, deadline, reply, permit } => {
                self.find_providers(key, deadline, reply, permit);
            }
            Command::Report { peer, offence } => self.charge(peer, offence),
            Command::ListenAddrs { reply } => {
                if self.silent_listeners.is_empty() || self.listen_waiters.len() >= COMMAND_QUEUE {
                    answer(reply, self.listen_addrs());
                } else {
                    self.listen_waiters.push(reply);
                }
            }
            Command::ConnectedPeers { reply } => {
                let identified = self.live.iter().filter(|(_, live)| live.agent.is_some());
                answer(reply, identified.map(|(peer, _)| *peer).collect());
            }
            Command::KnownPeers { reply } => answer(reply, self.book.export()),
            Command::Status { reply } => answer(reply, self.status()),
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.ticks = self.ticks.wrapping_add(1);
        self.reconnect(now);
        self.close_surplus(now);
        self.refuse_unaccepted(now);
        self.publish_queued();
        self.announce(now);
        self.end_overdue_finds(now);
        if self.ticks.is_multiple_of(SWEEP_EVERY) {
            self.quotas.sweep();
            self.swarm.behaviour().delivery.places().sweep();
            self.book.sweep(now);
            self.swarm.behaviour_mut().kad.store_mut().sweep(now.into_std());
            for peer in self.offenders.sweep(now) {
                self.swarm.behaviour_mut().blocked.unblock_peer(peer);
            }
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => match event {
                BehaviourEvent::Identify(event) => self.on_identify(event),
                BehaviourEvent::Kad(event) => self.on_kad(event),
                BehaviourEvent::Gossip(event) => self.on_gossip(event),
                BehaviourEvent::Market(event) => self.on_requests(Protocol::Market, event),
                BehaviourEvent::Chain(event) => self.on_requests(Protocol::Chain, event),
                BehaviourEvent::Delivery(event) => self.on_delivery(event),
                BehaviourEvent::Ping(event) => self.on_ping(event),
                BehaviourEvent::Mdns(event) => self.on_mdns(event),
                // These three have no events.
                BehaviourEvent::Blocked(never) => match never {},
                BehaviourEvent::Connections(never) => match never {},
                BehaviourEvent::Memory(never) => match never {},
            },
            event => self.on_connection(event),
        }
    }

    /// Charges a peer with an offence and bans it where that is enough.
    pub(super) fn charge(&mut self, peer: PeerId, offence: Offence) {
        if peer == self.local {
            return;
        }
        self.counters.offence(offence);
        tracing::debug!(%peer, offence = offence.label(), "offence");
        if let Consequence::Banned { pardoned } = self.offenders.record(peer, offence, Instant::now()) {
            inc(&self.counters.bans);
            tracing::info!(%peer, offence = offence.label(), "peer is banned for its offences");
            let blocked = &mut self.swarm.behaviour_mut().blocked;
            blocked.block_peer(peer);
            if let Some(pardoned) = pardoned {
                blocked.unblock_peer(pardoned);
            }
        }
    }

    /// Tells the application; counts it where the application is too far behind.
    pub(super) fn tell(&self, event: NetEvent) {
        if self.events.try_send(event).is_err() {
            inc(&self.counters.events_dropped);
        }
    }

    pub(super) fn listener_spoke(&mut self, listener: ListenerId) {
        self.silent_listeners.retain(|silent| *silent != listener);
        if self.silent_listeners.is_empty() {
            let addresses = self.listen_addrs();
            for waiter in self.listen_waiters.drain(..) {
                answer(waiter, addresses.clone());
            }
            self.reconnect(Instant::now());
        }
    }

    fn listen_addrs(&self) -> Vec<Multiaddr> {
        let mut addresses: Vec<_> = self.swarm.listeners().cloned().collect();
        addresses.sort_unstable();
        addresses
    }

    fn status(&mut self) -> NetStatus {
        let now = Instant::now();
        let mut peers: Vec<PeerStatus> = self
            .live
            .iter()
            .map(|(peer, live)| PeerStatus {
                peer: *peer,
                agent: live.agent.clone(),
                connections: live
                    .connections
                    .iter()
                    .map(|connection| {
                        (connection.remote.clone(), address::transport_name(&connection.remote))
                    })
                    .collect(),
                outbound: live.connections.first().is_some_and(|connection| connection.outbound),
                rtt: live.rtt,
                score: self.offenders.score(peer, now),
            })
            .collect();
        peers.sort_unstable_by_key(|status| status.peer);
        let routing_table = self.routing_table();
        let behaviour = self.swarm.behaviour_mut();
        NetStatus {
            peer_id: self.local,
            agent: self.agent.clone(),
            peers,
            mesh: Topic::ALL
                .map(|topic| (topic, behaviour.gossip.mesh_peers(&self.topics.hash(topic)).count()))
                .to_vec(),
            dht_server: behaviour.kad.mode() == libp2p::kad::Mode::Server,
            routing_table,
            provided: self.provided.len(),
            provider_records: behaviour.kad.store_mut().len(),
            known_peers: self.book.len(),
            banned: self.offenders.banned(),
            queued_publishes: self.unpublished.len(),
            listen: self.listen_addrs(),
            external: self.swarm.external_addresses().cloned().collect(),
        }
    }

    /// Sets the gauge of identified peers.
    pub(super) fn count_peers(&self) {
        let peers = self.live.values().filter(|live| live.agent.is_some()).count();
        self.counters.peers.store(peers as u64, Relaxed);
    }
}

impl std::fmt::Debug for NetRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetRunner")
            .field("local", &self.local)
            .field("network", &self.network)
            .field("peers", &self.live.len())
            .finish_non_exhaustive()
    }
}
