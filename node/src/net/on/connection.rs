//! Connections: made, lost, made again, and closed where there is one too many.

use std::time::Duration;

use libp2p::{
    core::ConnectedPoint,
    mdns, ping,
    swarm::{
        ConnectionId, DialError as SwarmDialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use crate::net::{
    DialError, Multiaddr, NetEvent, PeerId, address,
    behaviour::BehaviourEvent,
    command::answer,
    counters::inc,
    dial::{Attempt, Waiter, explain},
    limits::{MAX_ADDRESSES_PER_PEER, TARGET_PEERS},
    peers::LASTING,
    runner::{Connection, Live, NetRunner},
};

/// Addresses tried in one dial: those a caller gave and those in the book.
const MAX_DIAL_ADDRESSES: usize = 2 * MAX_ADDRESSES_PER_PEER;

/// Known peers dialled at each tick while there are too few connections.
const DIALS_PER_TICK: usize = 4;

/// Ticks to wait for listeners that have no address yet.
const LISTENERS_FIRST: u64 = 3;

/// A spare connection is left for this long: what its opener sent over it at once is through by then.
const SURPLUS_GRACE: Duration = Duration::from_secs(3);

impl NetRunner {
    pub(in crate::net) fn on_connection(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                inc(&self.counters.dial_failures);
                self.on_dial_failed(peer_id, connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                inc(&self.counters.connections_refused);
                tracing::debug!(from = %send_back_addr, %error, "an inbound connection was not taken");
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                tracing::info!(%address, "listening");
                // Where all is on one machine the listen address is the address others reach us at; saying so puts it
                // into provider records. Elsewhere this needs a test from outside.
                if self.only_loopback {
                    self.swarm.add_external_address(address);
                }
                self.listener_spoke(listener_id);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.swarm.remove_external_address(&address),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                tracing::warn!(?addresses, ?reason, "a listener is closed");
                self.listener_spoke(listener_id);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener has trouble"),
            event => tracing::trace!(?event, "swarm"),
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        inc(&self.counters.connections_opened);
        let remote = address::split_peer_id(endpoint.get_remote_address().clone()).0;
        tracing::debug!(%peer, address = %remote, "a peer is connected");
        let connection = Connection { id, remote, outbound: endpoint.is_dialer(), since: Instant::now() };
        self.live.entry(peer).or_insert_with(|| Live::new(connection.since)).connections.push(connection);
        // An error only says that nobody waits for a peer.
        let _ = self.arrivals.send(peer);
        for bootstrap in &mut self.bootstraps {
            if bootstrap.dialing == Some(id) {
                bootstrap.dialing = None;
                bootstrap.peer = Some(peer);
            }
        }
        if let Some(attempt) = self.attempts.remove(&peer) {
            for waiter in attempt.waiters {
                self.admit(waiter);
            }
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, left: u32) {
        inc(&self.counters.connections_closed);
        self.inbound.retain(|_, inbound| inbound.connection != id);
        if left > 0 {
            if let Some(live) = self.live.get_mut(&peer) {
                live.connections.retain(|connection| connection.id != id);
            }
            return;
        }
        let now = Instant::now();
        let Some(live) = self.live.remove(&peer) else { return };
        let lasted = live.agent.is_some() && now.saturating_duration_since(live.since) >= LASTING;
        if lasted {
            self.book.disconnected(&peer, now);
        } else {
            self.book.failed(&peer, now);
        }
        for bootstrap in self.bootstraps.iter_mut().filter(|bootstrap| bootstrap.peer == Some(peer)) {
            if lasted { bootstrap.disconnected(now) } else { bootstrap.failed(now) }
        }
        if live.agent.is_some() {
            self.count_peers();
            self.tell(NetEvent::PeerDisconnected { peer });
        }
    }

    fn on_dial_failed(&mut self, peer: Option<PeerId>, id: ConnectionId, error: &SwarmDialError) {
        let now = Instant::now();
        for bootstrap in self.bootstraps.iter_mut().filter(|bootstrap| bootstrap.dialing == Some(id)) {
            tracing::info!(address = %bootstrap.address, %error, "the bootstrap node is not reached");
            bootstrap.failed(now);
        }
        // Dials of the DHT are not ours to judge.
        let Some(peer) = peer.filter(|peer| self.attempts.get(peer).is_some_and(|a| a.connection == id))
        else {
            return;
        };
        let Some(attempt) = self.attempts.remove(&peer) else { return };
        if self.swarm.is_connected(&peer) {
            attempt.waiters.into_iter().for_each(|waiter| self.admit(waiter));
        } else if attempt.next.is_empty() {
            self.give_up(peer, attempt.waiters, &explain(self.local, peer, error));
        } else {
            self.start_dial(peer, attempt.next, attempt.waiters);
        }
    }

    fn give_up(&mut self, peer: PeerId, waiters: Vec<Waiter>, error: &DialError) {
        let now = Instant::now();
        tracing::debug!(%peer, %error, "dial failed");
        self.book.failed(&peer, now);
        for bootstrap in self.bootstraps.iter_mut().filter(|bootstrap| bootstrap.peer == Some(peer)) {
            tracing::info!(address = %bootstrap.address, %error, "the bootstrap node is not reached");
            bootstrap.failed(now);
        }
        waiters.into_iter().for_each(|waiter| waiter.fail(error.clone()));
    }

    /// Serves the waiter at once where the peer is connected, else dials with these addresses and those known.
    pub(in crate::net) fn connect(&mut self, peer: PeerId, given: &[Multiaddr], waiter: Waiter) {
        let now = Instant::now();
        if peer == self.local {
            return waiter.fail(DialError::ToSelf(peer));
        }
        if self.offenders.is_banned(&peer, now) {
            return waiter.fail(DialError::Banned(peer));
        }
        if let Some(agent) = self.book.foreign_agent(&peer, now) {
            let error = DialError::OtherNetwork { peer, agent: agent.to_owned() };
            return waiter.fail(error);
        }
        if self.swarm.is_connected(&peer) {
            return self.admit(waiter);
        }
        let mut addresses = Vec::new();
        for address in given {
            let (bare, named) = address::split_peer_id(address.clone());
            if let Some(obtained) = named.filter(|named| *named != peer) {
                return waiter.fail(DialError::WrongPeer { expected: peer, obtained, address: bare });
            }
            // Whoever gives an address on this machine means it.
            if let Some(address) = address::usable(&bare, &peer, true)
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
        addresses.truncate(MAX_DIAL_ADDRESSES);
        self.add_known(&peer, &mut addresses);
        match self.attempts.get_mut(&peer) {
            Some(attempt) => {
                addresses.retain(|a| !attempt.tried.contains(a) && !attempt.next.contains(a));
                attempt.next.extend(addresses);
                attempt.next.truncate(MAX_DIAL_ADDRESSES);
                attempt.waiters.push(waiter);
            }
            None => self.start_dial(peer, addresses, vec![waiter]),
        }
    }

    fn add_known(&self, peer: &PeerId, addresses: &mut Vec<Multiaddr>) {
        let bootstraps = self.bootstraps.iter().filter(|bootstrap| bootstrap.peer == Some(*peer));
        let known = bootstraps.map(|bootstrap| &bootstrap.address).chain(self.book.addresses(peer));
        for address in known {
            if addresses.len() < MAX_DIAL_ADDRESSES && !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
    }

    fn start_dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, waiters: Vec<Waiter>) {
        // Addresses the behaviours know are left out: they are unfiltered, and one that leads to somebody else fails
        // the whole dial.
        let dial = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .addresses(addresses.clone())
            .build();
        let connection = dial.connection_id();
        match self.swarm.dial(dial) {
            Ok(()) => {
                let attempt = Attempt { connection, tried: addresses, next: Vec::new(), waiters };
                self.attempts.insert(peer, attempt);
            }
            Err(error) => {
                inc(&self.counters.dial_failures);
                self.give_up(peer, waiters, &explain(self.local, peer, &error));
            }
        }
    }

    /// Gives the waiter what it waited for: the peer is connected.
    fn admit(&mut self, waiter: Waiter) {
        match waiter {
            Waiter::Dial { reply, .. } => answer(reply, Ok(())),
            Waiter::Request(request) => self.send_request(request),
            Waiter::Delivery(open) => self.open_delivery(open),
        }
    }

    /// Dials bootstrap nodes that are due, and known peers while there are too few connections.
    pub(in crate::net) fn reconnect(&mut self, now: Instant) {
        // A dial from the port we listen on goes through more NATs, and only works once the listener is there.
        if !self.silent_listeners.is_empty() && self.ticks < LISTENERS_FIRST {
            return;
        }
        for index in 0..self.bootstraps.len() {
            let Some(bootstrap) = self.bootstraps.get_mut(index) else { break };
            if bootstrap.due > now || bootstrap.dialing.is_some() {
                continue;
            }
            if let Some(peer) = bootstrap.peer {
                let idle = !self.live.contains_key(&peer) && !self.attempts.contains_key(&peer);
                if idle && !self.offenders.is_banned(&peer, now) {
                    let mut addresses = Vec::new();
                    self.add_known(&peer, &mut addresses);
                    self.start_dial(peer, addresses, Vec::new());
                }
                continue;
            }
            let dial = DialOpts::unknown_peer_id().address(bootstrap.address.clone()).build();
            bootstrap.dialing = Some(dial.connection_id());
            if let Err(error) = self.swarm.dial(dial) {
                tracing::info!(address = %bootstrap.address, %error, "the bootstrap node is not reached");
                bootstrap.failed(now);
            }
        }
        let identified = self.live.values().filter(|live| live.agent.is_some()).count();
        if identified >= TARGET_PEERS {
            return;
        }
        let due = self.book.due(now, DIALS_PER_TICK, |peer| {
            self.live.contains_key(peer)
                || self.attempts.contains_key(peer)
                || self.offenders.is_banned(peer, now)
        });
        for peer in due {
            let mut addresses = Vec::new();
            self.add_known(&peer, &mut addresses);
            self.start_dial(peer, addresses, Vec::new());
        }
    }

    /// Closes all but the best of several connections to one peer. Only the side with the smaller PeerId does: both
    /// sides may number and time their connections differently, and would close each other's choice.
    pub(in crate::net) fn close_surplus(&mut self, now: Instant) {
        let mut surplus = Vec::new();
        for (peer, live) in
            self.live.iter().filter(|(peer, live)| self.local < **peer && live.connections.len() > 1)
        {
            // A request of ours may run over any of them.
            if self.outbound.values().any(|request| request.peer == *peer) {
                continue;
            }
            let best = best(live);
            let places = self.swarm.behaviour().delivery.places();
            surplus.extend(live.connections.iter().filter_map(|connection| {
                let busy = self.inbound.values().any(|inbound| inbound.connection == connection.id)
                    || places.is_carrying(connection.id);
                let young = now.saturating_duration_since(connection.since) < SURPLUS_GRACE;
                (Some(connection.id) != best && !busy && !young).then_some(connection.id)
            }));
        }
        for id in surplus {
            if self.swarm.close_connection(id) {
                inc(&self.counters.connections_surplus);
            }
        }
    }

    pub(in crate::net) fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(rtt) => {
                if let Some(live) = self.live.get_mut(&event.peer) {
                    live.rtt = Some(rtt);
                }
            }
            // Nothing came back for twenty seconds: the line is dead, and TCP may not notice for a quarter of an hour.
            Err(ping::Failure::Timeout) => {
                tracing::debug!(peer = %event.peer, "a connection is dead");
                self.swarm.close_connection(event.connection);
            }
            Err(error) => tracing::trace!(peer = %event.peer, %error, "ping"),
        }
    }

    pub(in crate::net) fn on_mdns(&mut self, event: mdns::Event) {
        if let mdns::Event::Discovered(found) = event {
            let now = Instant::now();
            for (peer, address) in found {
                if let Some(address) = address::usable(&address, &peer, self.loopback)
                    && peer != self.local
                {
                    self.book.hint(peer, [address], now);
                }
            }
        }
    }
}

/// The connection to keep when there are several, and to open delivery streams on.
pub(super) fn best(live: &Live) -> Option<ConnectionId> {
    let best = live.connections.iter().min_by_key(|connection| (rank(&connection.remote), connection.since));
    best.map(|connection| connection.id)
}

/// Which connection to keep, lowest first: direct before relayed, and TCP before QUIC, which moves bulk data faster
/// on the machines measured and is the same choice at every node.
fn rank(remote: &Multiaddr) -> u8 {
    match address::transport_name(remote) {
        "tcp" | "memory" => 0,
        "quic" => 1,
        "relay" => 3,
        _ => 2,
    }
}
