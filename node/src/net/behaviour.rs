//! The protocols of a node, put together.

use std::{sync::Arc, time::Duration};

use libp2p::{
    StreamProtocol, allow_block_list,
    connection_limits::{self, ConnectionLimits},
    identify,
    identity::Keypair,
    kad, mdns, memory_connection_limits, ping,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use super::{
    Counters, IDENTIFY_PROTOCOL, KAD_PROTOCOL, KadMode, NetConfig, NetError, PROVIDER_RECORD_TTL, Protocol,
    Transport, address, delivery,
    gossip::{self, Gossip, Topics},
    limits::{
        INBOUND_BODY_BUDGET, MAX_OUTBOUND_DELIVERIES, MAX_PROVIDERS_PER_KEY, MAX_REQUEST_TIME,
        MAX_STREAMS_PER_CONNECTION,
    },
    providers::ProviderStore,
    requests::{budget::Budget, codec::Codec},
};

/// The order matters: the first three may refuse a connection, and a behaviour before them would have noted it as
/// established and never hear that it was not.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    connections: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) kad: kad::Behaviour<ProviderStore>,
    pub(super) gossip: Gossip,
    /// One behaviour for each protocol: a substream then proposes exactly one, which lets the request travel with the
    /// proposal.
    market: request_response::Behaviour<Codec>,
    chain: request_response::Behaviour<Codec>,
    pub(super) delivery: delivery::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    pub(super) fn new(
        config: &NetConfig,
        key: &Keypair,
        topics: &Topics,
        counters: Arc<Counters>,
    ) -> Result<Self, NetError> {
        let local = key.public().to_peer_id();
        let budget = Budget::new(INBOUND_BODY_BUDGET);
        Ok(Self {
            blocked: allow_block_list::Behaviour::default(),
            connections: connection_limits::Behaviour::new(connection_limits(config)),
            memory: memory_connection_limits::Behaviour::with_max_bytes(config.limits.memory_bytes),
            identify: identify::Behaviour::new(identify_config(config, key)),
            ping: ping::Behaviour::default(),
            kad: kademlia(config, local),
            gossip: gossip::behaviour(key, topics)?,
            market: request_response(config, Protocol::Market, &budget),
            chain: request_response(config, Protocol::Chain, &budget),
            delivery: delivery::Behaviour::new(&config.limits, counters, MAX_OUTBOUND_DELIVERIES),
            mdns: mdns(config, local).into(),
        })
    }

    pub(super) fn requests(&mut self, protocol: Protocol) -> &mut request_response::Behaviour<Codec> {
        match protocol {
            Protocol::Market => &mut self.market,
            Protocol::Chain => &mut self.chain,
        }
    }
}

fn connection_limits(config: &NetConfig) -> ConnectionLimits {
    let limits = &config.limits;
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_incoming))
        .with_max_pending_outgoing(Some(limits.pending_outgoing))
        .with_max_established_incoming(Some(limits.incoming))
        .with_max_established_outgoing(Some(limits.outgoing))
        .with_max_established_per_peer(Some(limits.per_peer))
}

fn identify_config(config: &NetConfig, key: &Keypair) -> identify::Config {
    identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), key.public())
        .with_agent_version(config.agent())
        .with_push_listen_addr_updates(true)
        // Where the operator says how others reach the node, nobody needs to know its addresses at home. Elsewhere
        // the listen addresses are all there is: on a loopback or local net, hiding them would hide the node.
        .with_hide_listen_addrs(!config.external.is_empty())
        // What peers say of their addresses is filtered before it is used for a dial; this cache is not.
        .with_cache_size(0)
}

fn kademlia(config: &NetConfig, local: super::PeerId) -> kad::Behaviour<ProviderStore> {
    let mut kad = kad::Config::new(StreamProtocol::new(KAD_PROTOCOL));
    // Twenty peers with eight addresses each fit into 16 KiB.
    kad.set_max_packet_size(16 * 1024)
        // Only what passed our filter enters the table and the store.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_record_ttl(Some(PROVIDER_RECORD_TTL))
        // The runner announces by itself, also when the table has grown.
        .set_provider_publication_interval(None)
        // Below the deadline of a lookup, so that a query always ends by itself.
        .set_query_timeout(Duration::from_secs(15))
        .set_substreams_timeout(Duration::from_secs(10));
    debug_assert_eq!(kad::K_VALUE.get(), MAX_PROVIDERS_PER_KEY);
    let mut kad = kad::Behaviour::with_config(local, ProviderStore::new(local), kad);
    let server = match config.kad_mode {
        KadMode::Auto => !config.listen.is_empty(),
        KadMode::Client => false,
        KadMode::Server => true,
    };
    kad.set_mode(Some(if server { kad::Mode::Server } else { kad::Mode::Client }));
    kad
}

fn request_response(
    config: &NetConfig,
    protocol: Protocol,
    budget: &Arc<Budget>,
) -> request_response::Behaviour<Codec> {
    request_response::Behaviour::with_codec(
        Codec::new(budget.clone(), config.limits.read_request),
        [(StreamProtocol::new(protocol.id()), ProtocolSupport::Full)],
        request_response::Config::default()
            .with_request_timeout(MAX_REQUEST_TIME)
            .with_max_concurrent_streams(MAX_STREAMS_PER_CONNECTION),
    )
}

fn mdns(config: &NetConfig, local: super::PeerId) -> Option<mdns::tokio::Behaviour> {
    let off_loopback = config.listen.iter().any(|address| !address::is_loopback(address));
    if !config.mdns || config.transport == Transport::Memory || !off_loopback {
        return None;
    }
    mdns::tokio::Behaviour::new(mdns::Config::default(), local)
        .inspect_err(|error| tracing::warn!(%error, "mDNS is off: the local network cannot be searched"))
        .ok()
}
