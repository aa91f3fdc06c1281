//! A market as its users have it: a bootstrap node with the development chain, an agent, and buyers with open channels. All in this process, over TCP, Noise
//! and Yamux on loopback.

use std::path::Path;
use std::time::Duration;

use sensora_chain::keys::{PrivateKey, PublicKey};
use sensora_chain::{FeeRate, Network, Satoshis};
use sensora_node::agent::anchorer::AnchorPolicy;
use sensora_node::agent::seller::supply::Credit;
use sensora_node::agent::source::{CsvSpec, SourceSpec};
use sensora_node::agent::{AgentOptions, SourceOptions, Terms};
use sensora_node::clock::Clock;
use sensora_node::fees::FeeLimits;
use sensora_node::net::{Multiaddr, Transport};
use sensora_node::store::Store;
use sensora_node::supervisor::{ChainRole, Node, NodeOptions};
use sensora_node::wallet::SweepPolicy;
use sensora_protocol::Identity;
use sensora_protocol::ad::StreamAd;
use sensora_protocol::market::budget::Budgets;
use sensora_protocol::market::channel::offer::ChannelLimits;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Blocks until a channel's refund height: nobody comes near it.
const BLOCKS: u32 = 1_000;
/// Buyers that are made ready at once.
const AT_ONCE: usize = 10;
/// Money of a buyer beside its channel.
const CHANGE: u64 = 10_000;

pub(super) struct Market {
    bootstrap: Node,
    pub(super) agent: Node,
    pub(super) buyers: Vec<Node>,
    pub(super) stream: StreamAd,
    _folder: TempDir,
}

/// What is sold and to how many.
pub(super) struct Plan<'a> {
    /// A CSV file's text: its header names the fields, its first rows begin the stream.
    pub(super) csv: &'a str,
    /// Columns, where they are not all numbers.
    pub(super) columns: &'a [&'a str],
    /// Price of a reading in satoshis.
    pub(super) price: &'a str,
    pub(super) buyers: usize,
    /// What each buyer puts into its channel.
    pub(super) value: Satoshis,
    /// Where the stores are.
    pub(super) folder: TempDir,
}

impl Market {
    pub(super) async fn new(plan: Plan<'_>) -> Self {
        let folder = plan.folder.path().to_owned();
        let folder = folder.as_path();
        let mut options = node(0, folder);
        let block_interval = Duration::from_secs(10);
        let path = Some(folder.join("chain.redb"));
        options.chain = ChainRole::DevChain { path, block_interval };
        let bootstrap = Node::start(options).await.unwrap();
        let known = bootstrap.addresses().await;
        let agent = agent(&plan, folder, &known).await;
        let seller = *agent.identity().public();
        let mut buyers = Vec::new();
        let numbers: Vec<usize> = (0..plan.buyers).collect();
        for some in numbers.chunks(AT_ONCE) {
            let mut opening = JoinSet::new();
            for number in some {
                let options = node(u16::try_from(2 + number).unwrap(), folder);
                opening.spawn(buyer(options, known.clone(), seller, plan.value));
            }
            buyers.extend(opening.join_all().await);
        }
        bootstrap.chain().mine().await.unwrap();
        let ad = buyers[0].discovery().ad_of(&seller).await.unwrap().ad;
        let stream = ad.value().streams[0].clone();
        // Until the seller has seen the block: above a value it takes no voucher before.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Self { bootstrap, agent, buyers, stream, _folder: plan.folder }
    }

    pub(super) async fn shutdown(self) {
        for node in self.buyers.iter().chain([&self.agent, &self.bootstrap]) {
            node.shutdown().await;
        }
    }
}

/// A buyer with an open channel.
async fn buyer(mut options: NodeOptions, known: Vec<Multiaddr>, seller: PublicKey, value: Satoshis) -> Node {
    options.bootstrap = known;
    let buyer = Node::start(options).await.unwrap();
    let money = Satoshis::from_sat(value.as_u64() + CHANGE);
    while let Err(error) = buyer.wallet().fund_from_faucet(money).await {
        eprintln!("faucet: {error}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    while buyer.discovery().ad_of(&seller).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let limits =
        ChannelLimits { max_value: value, max_blocks: 2 * BLOCKS, max_close_fee: Satoshis::from_sat(100) };
    buyer.buyer().open_channel(&seller, value, BLOCKS, limits).await.unwrap();
    buyer
}

fn node(number: u16, folder: &Path) -> NodeOptions {
    let mut seed = [1; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    let identity = Identity::new(PrivateKey::from_bytes(seed).unwrap());
    let home = folder.join(number.to_string());
    std::fs::create_dir_all(&home).unwrap();
    let store = Store::open(&home.join("node.redb"), Network::Regtest, identity.public()).unwrap();
    NodeOptions {
        identity,
        network: Network::Regtest,
        store,
        home: Some(home),
        clock: Clock::system(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        external: Vec::new(),
        bootstrap: Vec::new(),
        mdns: false,
        transport: Transport::Real,
        chain: ChainRole::Peers(Vec::new()),
        fees: FeeLimits::fixed(FeeRate::DEFAULT, Satoshis::from_sat(100_000)),
        sweep: SweepPolicy::default(),
        budgets: Budgets::UNLIMITED,
        agent: None,
    }
}

async fn agent(plan: &Plan<'_>, folder: &Path, known: &[Multiaddr]) -> Node {
    let file = folder.join("first.csv");
    std::fs::write(&file, plan.csv).unwrap();
    let mut csv = CsvSpec::new(&file);
    csv.columns = plan.columns.iter().map(|column| column.parse().unwrap()).collect();
    let terms = Terms {
        price: plan.price.parse().unwrap(),
        second: None,
        licence: "CC-BY-4.0".into(),
        place: None,
        sample: 10,
        max_readings: 100_000_000,
        kinds: vec!["temperature".into()],
        cadence: None,
    };
    let mut options = node(1, folder);
    options.bootstrap = known.to_vec();
    options.agent = Some(AgentOptions {
        name: "agent".into(),
        anchors: AnchorPolicy { every: Duration::from_secs(60), readings: 1_000_000_000 },
        sources: vec![SourceOptions { spec: SourceSpec::Csv(csv), name: Some("machine".into()), terms }],
        channels: Default::default(),
        releases: Default::default(),
        credit: Credit::default(),
    });
    let agent = Node::start(options).await.unwrap();
    let ended = loop {
        match agent.agent().unwrap().ended_sources().await.pop() {
            Some(end) => break end.outcome,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    ended.unwrap();
    agent
}
