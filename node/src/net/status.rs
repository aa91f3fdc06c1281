//! What the swarm looks like at one moment, for people and for `status --json`.

use std::time::Duration;

use super::{Multiaddr, PeerId, Topic};

/// A picture of the swarm as this node sees it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NetStatus {
    /// This node.
    pub peer_id: PeerId,
    /// Its agent string.
    pub agent: String,
    /// Addresses it listens on.
    pub listen: Vec<Multiaddr>,
    /// Addresses it tells others, where configured.
    pub external: Vec<Multiaddr>,
    /// Connected peers, by PeerId.
    pub peers: Vec<PeerStatus>,
    /// Peers in the gossip mesh of each topic.
    pub mesh: Vec<(Topic, usize)>,
    /// Whether this node stores and answers in the DHT.
    pub dht_server: bool,
    /// Peers in the DHT's routing table.
    pub routing_table: usize,
    /// Keys this node provides.
    pub provided: usize,
    /// Provider records kept for others.
    pub provider_records: usize,
    /// Peers in the address book.
    pub known_peers: usize,
    /// Bans in force.
    pub banned: usize,
    /// Messages of ours that wait for a first subscriber.
    pub queued_publishes: usize,
}

/// One connected peer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer.
    pub peer: PeerId,
    /// What it calls itself; `None` until it has identified itself.
    pub agent: Option<String>,
    /// The remote address of each connection, with the transport's name: `tcp`, `quic`, `relay` or `memory`.
    pub connections: Vec<(Multiaddr, &'static str)>,
    /// Whether we opened the first of them.
    pub outbound: bool,
    /// The last round-trip time.
    pub rtt: Option<Duration>,
    /// Its offence score, see [`Offence`](super::Offence).
    pub score: f64,
}
