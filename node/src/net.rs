//! The swarm: finds peers, keeps connections to them and moves opaque frames between them.
//!
//! This module is for everything that touches libp2p, and it is the only one that does. The rest of the node
//! sees bytes with a sender: what a frame means, what it costs and whether it is true is decided elsewhere.
//!
//! ```text
//! Net (cheap clone) ── Command ──▶ NetRunner (owns the swarm) ── NetEvent ──▶ NetEvents
//!        ▲                              │        ▲
//!        └────────── answers ───────────┘        └── Responder / Verdict
//! ```
//!
//! [`Net::new`] gives three values: the handle, the runner that must be polled ([`NetRunner::run`]) and the
//! receiver of what peers send. The runner never waits for the application: when the application is behind,
//! requests are answered with [`NetConfig::refusal_frame`], gossip is left unforwarded, and both are counted. What moves in bulk does not pass it at all: a
//! [`DeliveryStream`] goes from the connection's task to the application's.
//!
//! # What a peer can cost
//! Every queue and every map keyed by a peer has a named bound in [`limits`]; inbound requests pass a quota for each
//! peer and protocol ([`quota`]), delivery streams have places, deadlines and a minimum rate, misbehaviour is scored ([`Offence`]) and leads to a ban that ends by itself.
//!
//! # Networks
//! Nodes say `sensora/<version>/<network>` in identify. A node of another network, or of no network of ours, is
//! let go and not dialled again for a while. Gossip topics carry the network's name as a suffix.

pub mod limits;
pub mod quota;

mod address;
mod behaviour;
mod command;
mod config;
mod counters;
mod delivery;
mod dial;
mod error;
mod event;
mod gossip;
mod handle;
pub mod offence;
mod on;
mod peers;
mod providers;
mod requests;
mod runner;
mod status;
mod transport;

use std::{fmt, time::Duration};

pub use libp2p::{Multiaddr, PeerId};

pub use self::{
    address::{peer_id_from_public_key, peer_id_from_secret_key, public_key_of, split_peer_id},
    config::{KadMode, NetConfig, Refusal, Transport},
    counters::{Counters, CountersSnapshot},
    delivery::{DeliveryError, DeliveryReceiver, DeliverySender, DeliveryStream, StreamKind},
    error::{DialError, FindError, NetError, ProvideError, PublishError, RequestError},
    event::{NetEvent, NetEvents, Responder, Verdict},
    handle::{Arrivals, Net},
    offence::{Offence, Severity},
    runner::NetRunner,
    status::{NetStatus, PeerStatus},
};

/// The protocol id of the DHT: provider records and routing, never values.
pub const KAD_PROTOCOL: &str = "/sensora/kad/1";

/// The protocol id of delivery streams: frames of at most [`limits::MAX_DELIVERY_FRAME`] bytes, both ways, for as long as both sides like.
pub const DELIVERY_PROTOCOL: &str = "/sensora/delivery/1";

/// The protocol id of streams on which a batch is sold whose key is released on the chain; the same framing and limits.
pub const RELEASE_PROTOCOL: &str = "/sensora/release/1";

/// How long a provider record lives at the nodes that store it. A provider announces again four times in that time, and
/// one that is gone is forgotten before a buyer has tried it often.
pub const PROVIDER_RECORD_TTL: Duration = Duration::from_secs(2 * 60 * 60);

/// The `protocolVersion` said in identify. It names the family; compatibility is decided by the agent string and by
/// the protocol ids a peer offers.
pub const IDENTIFY_PROTOCOL: &str = "/sensora/id/1";

/// A request-response protocol. Its frames are opaque here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// `/sensora/market/1`: ads, samples, quotes, orders, proofs, receipts.
    Market,
    /// `/sensora/chain/1`: headers, broadcast, Merkle paths and outputs for peers without chain access.
    Chain,
}

impl Protocol {
    /// All protocols, in a fixed order.
    pub const ALL: [Self; 2] = [Self::Market, Self::Chain];

    /// The protocol id on the wire.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Market => "/sensora/market/1",
            Self::Chain => "/sensora/chain/1",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// A gossip topic. On the wire its name is [`Topic::base`] followed by `/<network>`, so that two networks never mix
/// even where they share a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// `/sensora/ads/1`: signed ads and withdrawals.
    Ads,
    /// `/sensora/observations/1`: signed observations of network sensors.
    Observations,
}

impl Topic {
    /// All topics, in a fixed order. Only these can be subscribed to by anybody.
    pub const ALL: [Self; 2] = [Self::Ads, Self::Observations];

    /// The topic without its network.
    pub const fn base(self) -> &'static str {
        match self {
            Self::Ads => "/sensora/ads/1",
            Self::Observations => "/sensora/observations/1",
        }
    }

    /// The name on the wire, e.g. `/sensora/ads/1/regtest`.
    pub fn on_network(self, network: &str) -> String {
        format!("{}/{network}", self.base())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base())
    }
}
