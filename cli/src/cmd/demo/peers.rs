//! The three nodes of the demo, each with a home, a key, a store and sockets of its own.
//!
//! They run in one process, because one process is what a person who tries something can look at and stop. Nothing is
//! shortened for that: what one knows of another it has from TCP and QUIC on loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sensora_chain::Network;
use sensora_node::agent::anchorer::AnchorPolicy;
use sensora_node::agent::seller::channels::ChannelPolicy;
use sensora_node::agent::seller::release::ReleasePolicy;
use sensora_node::agent::seller::supply::Credit;
use sensora_node::agent::source::{CsvSpec, HostSpec, SourceSpec};
use sensora_node::agent::{AgentOptions, SourceOptions, Terms};
use sensora_node::clock::Clock;
use sensora_node::fees::FeeLimits;
use sensora_node::home::{Home, HomePaths};
use sensora_node::keystore::{Key, WordCount};
use sensora_node::net::{Multiaddr, Transport};
use sensora_node::store::Store;
use sensora_node::supervisor::{ChainRole, Node, NodeOptions};
use sensora_node::wallet::SweepPolicy;
use sensora_protocol::Identity;
use sensora_protocol::market::budget::Budgets;
use sensora_protocol::market::price::Price;

use crate::failure::{Failure, Outcome};

/// The demo's money is that of the development chain.
pub(super) const NETWORK: Network = Network::Regtest;
/// A block each second while transactions wait, so that nobody has to.
pub(super) const BLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// The host's sensors are read as often as they can be, so that there is a batch to buy after a few seconds.
const HOST_INTERVAL_MS: u64 = 250;
/// Anchors come so often only here: on a real network each costs a fee.
const ANCHORS: AnchorPolicy = AnchorPolicy { every: Duration::from_secs(3), readings: 1_000_000 };
/// A satoshi for four readings.
const PRICE_MSAT: u64 = 250;
/// Free readings for each buyer and day.
const SAMPLE: u32 = 5;
/// Most readings in one order.
const MAX_READINGS: u64 = 100_000;

/// A node's directory, key and store, before and after it runs.
pub(super) struct Place {
    /// Held for its lock.
    _home: Home,
    root: PathBuf,
    identity: Identity,
    store: Store,
}

impl Place {
    /// Makes a home with a new key in `dir`.
    pub(super) fn make(dir: &Path, name: &str) -> Outcome<Self> {
        let paths = HomePaths::new(dir.join(name));
        let home = Home::create(paths.clone())?;
        let key = Key::generate(WordCount::Twelve)?;
        key.create(&paths.key(), None)?;
        let identity = Identity::new(key.into_private_key());
        let store = Store::open(&paths.store(), NETWORK, identity.public())?;
        Ok(Self { _home: home, root: paths.root().to_owned(), identity, store })
    }

    /// The directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Starts a node here.
    pub(super) async fn start(
        &self,
        chain: ChainRole,
        fees: FeeLimits,
        bootstrap: &[Multiaddr],
        agent: Option<AgentOptions>,
    ) -> Outcome<Node> {
        let options = NodeOptions {
            identity: self.identity.clone(),
            network: NETWORK,
            store: self.store.clone(),
            home: Some(self.root.clone()),
            clock: Clock::system(),
            listen: loopback()?,
            external: Vec::new(),
            bootstrap: bootstrap.to_vec(),
            mdns: false,
            transport: Transport::Real,
            chain,
            fees,
            sweep: SweepPolicy::default(),
            budgets: Budgets::UNLIMITED,
            agent,
        };
        Ok(Node::start(options).await?)
    }
}

/// TCP and QUIC on ports that the system chooses.
fn loopback() -> Outcome<Vec<Multiaddr>> {
    ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]
        .into_iter()
        .map(|text| text.parse().map_err(|error| Failure::other(format!("{text}: {error}"))))
        .collect()
}

/// The chain of the bootstrap node: mined in its home.
pub(super) fn dev_chain(place: &Place) -> ChainRole {
    let path = HomePaths::new(place.root()).dev_chain();
    ChainRole::DevChain { path: Some(path), block_interval: BLOCK_INTERVAL }
}

/// The host's sensors and the recordings.
pub(super) fn for_sale(recordings: &[PathBuf]) -> Outcome<AgentOptions> {
    let price = Price::from_msat(PRICE_MSAT).map_err(|error| Failure::other(error.to_string()))?;
    let terms = Terms {
        price,
        second: None,
        licence: "CC-BY-4.0".to_owned(),
        place: None,
        sample: SAMPLE,
        max_readings: MAX_READINGS,
        kinds: Vec::new(),
        cadence: None,
    };
    let host = SourceSpec::Host(HostSpec { interval_ms: HOST_INTERVAL_MS, ..HostSpec::default() });
    let recordings = recordings.iter().map(|path| SourceSpec::Csv(CsvSpec::new(path)));
    let source = |spec| SourceOptions { spec, name: None, terms: terms.clone() };
    let sources = std::iter::once(host).chain(recordings).map(source).collect();
    Ok(AgentOptions {
        name: "sensora demo".to_owned(),
        anchors: ANCHORS,
        sources,
        channels: ChannelPolicy::default(),
        credit: Credit::default(),
        releases: ReleasePolicy::default(),
    })
}
