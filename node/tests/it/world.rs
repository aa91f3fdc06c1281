//! A small market in one process: a bootstrap node with the development chain, agents and buyers, over the memory transport.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sensora_chain::keys::PrivateKey;
use sensora_chain::{FeeRate, Network, Satoshis};
use sensora_node::agent::anchorer::AnchorPolicy;
use sensora_node::agent::seller::channels::ChannelPolicy;
use sensora_node::agent::seller::release::ReleasePolicy;
use sensora_node::agent::seller::supply::Credit;
use sensora_node::agent::source::{Replay, SimSpec, SourceSpec};
use sensora_node::agent::{AgentOptions, SourceEnd, SourceOptions, Terms};
use sensora_node::buyer::BuyRequest;
use sensora_node::clock::Clock;
use sensora_node::fees::FeeLimits;
use sensora_node::net::{Multiaddr, Transport};
use sensora_node::store::{Store, StoreError};
use sensora_node::supervisor::{ChainRole, Node, NodeOptions};
use sensora_node::wallet::SweepPolicy;
use sensora_protocol::Identity;
use sensora_protocol::ad::StreamAd;
use sensora_protocol::market::budget::Budgets;
use sensora_protocol::market::offer::{BuyerLimits, Range};

use crate::disk::Disk;

/// Longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static PORT: AtomicU64 = AtomicU64::new(10_000);

pub(crate) fn identity(seed: u8) -> Identity {
    Identity::new(PrivateKey::from_bytes([seed; 32]).unwrap())
}

/// Shows the log where `RUST_LOG` says which.
pub(crate) fn show_log() {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        let _ =
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_test_writer().try_init();
    }
}

/// Waits until `check` gives something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where a node keeps its things: in memory, or on a disk that may fail.
pub(crate) enum Place<'a> {
    Memory,
    Disk(&'a Disk),
}

/// An address that no other node of this process has.
pub(crate) fn address() -> Multiaddr {
    format!("/memory/{}", PORT.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
}

pub(crate) fn options(seed: u8, place: &Place<'_>) -> NodeOptions {
    try_options(seed, place, address()).unwrap()
}

/// Options for a node at `address`; fails where the store cannot be opened.
pub(crate) fn try_options(
    seed: u8,
    place: &Place<'_>,
    address: Multiaddr,
) -> Result<NodeOptions, StoreError> {
    show_log();
    let identity = identity(seed);
    let store = match place {
        Place::Memory => Store::in_memory(Network::Regtest, identity.public())?,
        Place::Disk(disk) => disk.store(seed)?,
    };
    Ok(NodeOptions {
        identity,
        network: Network::Regtest,
        store,
        home: None,
        clock: Clock::system(),
        listen: vec![address],
        external: Vec::new(),
        bootstrap: Vec::new(),
        mdns: false,
        transport: Transport::Memory,
        chain: ChainRole::Peers(Vec::new()),
        fees: FeeLimits::fixed(FeeRate::DEFAULT, Satoshis::from_sat(100_000)),
        sweep: SweepPolicy::default(),
        budgets: Budgets::UNLIMITED,
        agent: None,
    })
}

pub(crate) fn terms() -> Terms {
    Terms {
        price: "2".parse().unwrap(),
        second: None,
        licence: "CC-BY-4.0".into(),
        place: Some("52.52,13.40,5".parse().unwrap()),
        sample: 10,
        max_readings: 100_000,
        kinds: vec!["temperature".into()],
        cadence: None,
    }
}

pub(crate) fn sim(count: u64) -> SourceOptions {
    let spec = SimSpec {
        seed: 7,
        count: Some(count),
        start: Some("2026-01-01T00:00:00Z".into()),
        replay: Replay::AtOnce,
        ..SimSpec::default()
    };
    SourceOptions { spec: SourceSpec::Sim(spec), name: Some("weather".into()), terms: terms() }
}

pub(crate) fn agent(sources: Vec<SourceOptions>) -> AgentOptions {
    let anchors = AnchorPolicy { every: Duration::from_millis(300), readings: 1_000_000 };
    AgentOptions {
        name: "test agent".into(),
        anchors,
        sources,
        channels: ChannelPolicy::default(),
        credit: Credit::default(),
        releases: ReleasePolicy::default(),
    }
}

/// Bootstrap, one agent, one buyer.
pub(crate) struct World {
    pub(crate) bootstrap: Node,
    pub(crate) agent: Node,
    pub(crate) buyer: Node,
    pub(crate) addresses: Vec<Multiaddr>,
}

pub(crate) async fn bootstrap() -> (Node, Vec<Multiaddr>) {
    bootstrap_mining(Duration::from_millis(100)).await
}

/// Bootstrap whose chain gets a block each `block_interval`.
pub(crate) async fn bootstrap_mining(block_interval: Duration) -> (Node, Vec<Multiaddr>) {
    let mut config = options(1, &Place::Memory);
    config.chain = ChainRole::DevChain { path: None, block_interval };
    let node = Node::start(config).await.unwrap();
    let addresses = node.addresses().await;
    (node, addresses)
}

impl World {
    /// A world in which the agent has recorded `count` simulated readings and the buyer has money.
    pub(crate) async fn new(count: u64) -> Self {
        Self::with(agent(vec![sim(count)])).await
    }

    /// The same with an agent of these options.
    pub(crate) async fn with(agent: AgentOptions) -> Self {
        Self::with_buyer_at(agent, &Place::Memory).await
    }

    /// The same with a buyer that keeps its things there.
    pub(crate) async fn with_buyer_at(agent: AgentOptions, place: &Place<'_>) -> Self {
        Self::on(bootstrap().await, agent, place).await
    }

    /// The same on a chain that gets a block when the test says so.
    pub(crate) async fn with_blocks_on_demand(agent: AgentOptions) -> Self {
        let an_hour = Duration::from_secs(3600);
        Self::on(bootstrap_mining(an_hour).await, agent, &Place::Memory).await
    }

    async fn on(
        (bootstrap, addresses): (Node, Vec<Multiaddr>),
        agent: AgentOptions,
        place: &Place<'_>,
    ) -> Self {
        let mut config = options(2, &Place::Memory);
        config.bootstrap.clone_from(&addresses);
        config.agent = Some(agent);
        let agent = Node::start(config).await.unwrap();
        let mut config = options(3, place);
        config.bootstrap.clone_from(&addresses);
        let buyer = Node::start(config).await.unwrap();
        fund(&buyer, 1_000_000).await;
        let world = Self { bootstrap, agent, buyer, addresses };
        world.recorded().await;
        world
    }

    pub(crate) async fn recorded(&self) {
        let agent = self.agent.agent().unwrap();
        until("the source to end", || async { (!agent.ended_sources().await.is_empty()).then_some(()) })
            .await;
        for SourceEnd { name, outcome, .. } in agent.ended_sources().await {
            outcome.unwrap_or_else(|error| panic!("source {name}: {error}"));
        }
    }

    /// The agent's stream, as its ad has it.
    pub(crate) async fn stream(&self) -> StreamAd {
        let seller = *self.agent.identity().public();
        until("the ad", || async {
            let found = self.buyer.discovery().ad_of(&seller).await.ok()?;
            found.ad.value().streams.first().cloned()
        })
        .await
    }

    pub(crate) async fn request(&self, range: Range) -> BuyRequest {
        let stream = self.stream().await;
        BuyRequest {
            seller: *self.agent.identity().public(),
            stream: stream.id,
            range,
            limits: limits(),
            ad: Some(stream),
        }
    }

    pub(crate) async fn shutdown(self) {
        for node in [&self.buyer, &self.agent, &self.bootstrap] {
            node.shutdown().await;
        }
    }
}

pub(crate) fn limits() -> BuyerLimits {
    BuyerLimits { max_price: Satoshis::from_sat(500_000), exposure: Satoshis::from_sat(500_000) }
}

pub(crate) async fn fund(node: &Node, sat: u64) {
    until("the faucet", || async {
        match node.wallet().fund_from_faucet(Satoshis::from_sat(sat)).await {
            Ok(_) => Some(()),
            Err(error) => {
                eprintln!("faucet: {error}");
                None
            }
        }
    })
    .await;
}
