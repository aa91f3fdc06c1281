//! What a node must be told to join a swarm.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::{Multiaddr, PeerId, Protocol, limits::Limits};

/// What carries the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// TCP with Noise and Yamux, QUIC, names resolved by DNS.
    #[default]
    Real,
    /// Channels inside the process (`/memory/<port>`), with the same Noise and Yamux on top. For tests.
    Memory,
}

/// Which part a node takes in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KadMode {
    /// [`KadMode::Server`] when there is an address to listen on, else [`KadMode::Client`].
    #[default]
    Auto,
    /// Asks and provides, but does not store or answer.
    Client,
    /// Stores provider records and answers.
    Server,
}

/// Why the swarm answers a request itself, without the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The application, or the memory for requests, is full. Try again a little later.
    Busy,
    /// The peer sent more requests than its quota allows. Try again after the bucket refills.
    QuotaExceeded,
    /// The request is larger than [`MAX_REQUEST`](super::limits::MAX_REQUEST).
    TooLarge,
    /// The request is empty, or did not arrive within
    /// [`READ_REQUEST_DEADLINE`](super::limits::READ_REQUEST_DEADLINE).
    Malformed,
}

/// The settings of a [`Net`](super::Net).
#[derive(Clone)]
pub struct NetConfig {
    /// The node's secp256k1 secret key. Its public half is the PeerId.
    pub secret_key: Zeroizing<[u8; 32]>,
    /// The name of the network, e.g. `regtest`. Only nodes of the same network stay connected.
    pub network: String,
    /// The version in the agent string `sensora/<version>/<network>`.
    pub agent_version: String,
    /// Where to listen. Empty: the node only dials.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node, where that is known (a forwarded port, a public name). When set,
    /// only these are told to others.
    pub external: Vec<Multiaddr>,
    /// Nodes to meet first, best with `/p2p/<peer id>` at the end. They are dialled again for ever.
    pub bootstrap: Vec<Multiaddr>,
    /// Find nodes on the local network by mDNS. Without effect when all of `listen` is loopback.
    pub mdns: bool,
    /// Peers known from an earlier run, see [`Net::known_peers`](super::Net::known_peers).
    pub known_peers: Vec<(PeerId, Vec<Multiaddr>)>,
    /// Bounds on connections.
    pub limits: Limits,
    /// What carries the connections.
    pub transport: Transport,
    /// Which part to take in the DHT.
    pub kad_mode: KadMode,
    /// The bytes to answer with when the swarm refuses a request by itself. An empty answer closes the substream, which
    /// the asker sees as [`RequestError::NoAnswer`](super::RequestError::NoAnswer).
    pub refusal_frame: fn(Protocol, Refusal) -> Bytes,
}

impl NetConfig {
    /// A node of `network` that listens nowhere and knows nobody; set the fields that should differ.
    pub fn new(secret_key: Zeroizing<[u8; 32]>, network: impl Into<String>) -> Self {
        Self {
            secret_key,
            network: network.into(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            mdns: false,
            known_peers: Vec::new(),
            limits: Limits::default(),
            transport: Transport::Real,
            kad_mode: KadMode::Auto,
            refusal_frame: |_, _| Bytes::new(),
        }
    }

    /// The agent string said in identify: `sensora/<version>/<network>`.
    pub fn agent(&self) -> String {
        format!("sensora/{}/{}", self.agent_version, self.network)
    }
}

impl std::fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetConfig")
            .field("secret_key", &"[redacted]")
            .field("network", &self.network)
            .field("agent_version", &self.agent_version)
            .field("listen", &self.listen)
            .field("external", &self.external)
            .field("bootstrap", &self.bootstrap)
            .field("mdns", &self.mdns)
            .field("known_peers", &self.known_peers.len())
            .field("limits", &self.limits)
            .field("transport", &self.transport)
            .field("kad_mode", &self.kad_mode)
            .finish_non_exhaustive()
    }
}
