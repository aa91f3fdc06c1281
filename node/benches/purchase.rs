//! How long a direct purchase takes on loopback, from the question for a price to readings that are paid, verified and kept.
//!
//! `cargo bench -p sensora-node --bench purchase`. Three nodes run in one process and talk over TCP, Noise and Yamux: one with the development chain, an agent
//! and a buyer, each with its store (and the chain with its own) in a folder for temporary files. It runs on the disk (TMPDIR) and, where there is one, on the
//! RAM disk /dev/shm, where a durable write is free: the difference is what the disk takes. Beside it stand the two things a purchase is made of, in the
//! same run: a bare request and answer between the same peers, and a durable commit of one row in the same folder.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may stop")]

use std::path::Path;
use std::time::{Duration, Instant};

use redb::{Database, TableDefinition};
use sensora_chain::keys::PrivateKey;
use sensora_chain::{FeeRate, Network, Satoshis};
use sensora_node::agent::anchorer::AnchorPolicy;
use sensora_node::agent::source::{Replay, SimSpec, SourceSpec};
use sensora_node::agent::{AgentOptions, SourceOptions, Terms};
use sensora_node::buyer::{BuyRequest, Progress};
use sensora_node::clock::Clock;
use sensora_node::fees::FeeLimits;
use sensora_node::net::Transport;
use sensora_node::store::Store;
use sensora_node::supervisor::{ChainRole, Node, NodeOptions};
use sensora_node::wallet::SweepPolicy;
use sensora_protocol::ad::StreamAd;
use sensora_protocol::market::budget::Budgets;
use sensora_protocol::market::message::Request;
use sensora_protocol::market::offer::{BuyerLimits, Range};
use sensora_protocol::{Identity, OrderId};

/// A purchase is three requests, and a peer may send 21 a second: so far apart no purchase waits for the quota.
const PACE: Duration = Duration::from_millis(150);
const READINGS: u64 = 250_000;

fn main() {
    // Without `--bench` this is a test run: does it work at all?
    let count = if std::env::args().any(|word| word == "--bench") { 200 } else { 2 };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let disk = tempfile::tempdir().unwrap();
    runtime.block_on(run("disk", disk.path(), count));
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        runtime.block_on(run("RAM disk", memory.path(), count));
    }
}

async fn run(name: &str, folder: &Path, count: u64) {
    let market = Market::new(folder).await;
    let bare = Bare::new(folder);
    let (mut commits, mut round_trips) = (Vec::new(), Vec::new());
    let mut purchases: [[Vec<Duration>; 5]; 2] = Default::default();
    for number in 0..count {
        commits.push(bare.commit(number));
        round_trips.push(market.round_trip().await);
        for (stages, (first, readings)) in
            purchases.iter_mut().zip([(number, 1), (1000 * (number + 1), 1000)])
        {
            tokio::time::sleep(PACE).await;
            for (stage, took) in stages.iter_mut().zip(market.buy(first, readings).await) {
                stage.push(took);
            }
        }
        tokio::time::sleep(PACE).await;
    }
    println!(
        "\nstores on the {name}, {count} times each{:>17} {:>9} {:>9} {:>9}",
        "p50 ms", "p90", "p99", "max"
    );
    print("durable commit of one row", commits);
    print("request and answer", round_trips);
    for (readings, stages) in ["1 reading", "1000 readings"].into_iter().zip(purchases) {
        println!("purchase of {readings}");
        let names =
            ["price", "order and payment, stored", "receipt", "readings, verified and stored", "in all"];
        for (name, took) in names.into_iter().zip(stages) {
            print(&format!("  {name}"), took);
        }
    }
    market.shutdown().await;
}

fn print(name: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1000.0;
    println!("{name:<40} {:>9.2} {:>9.2} {:>9.2} {:>9.2}", at(0.5), at(0.9), at(0.99), at(1.0));
}

/// The store without anything of ours.
struct Bare(Database);

impl Bare {
    fn new(folder: &Path) -> Self {
        let path = folder.join("bare.redb");
        Self(Database::builder().set_cache_size(4 << 20).create(path).unwrap())
    }

    fn commit(&self, number: u64) -> Duration {
        const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
        let began = Instant::now();
        let tx = self.0.begin_write().unwrap();
        tx.open_table(ROWS).unwrap().insert(number, [7; 200].as_slice()).unwrap();
        tx.commit().unwrap();
        began.elapsed()
    }
}

fn node(seed: u8, folder: &Path) -> NodeOptions {
    let identity = Identity::new(PrivateKey::from_bytes([seed; 32]).unwrap());
    let home = folder.join(seed.to_string());
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

fn thermometer() -> SourceOptions {
    let spec = SimSpec {
        seed: 7,
        count: Some(READINGS),
        start: Some("2026-01-01T00:00:00Z".into()),
        replay: Replay::AtOnce,
        ..SimSpec::default()
    };
    let terms = Terms {
        price: "2".parse().unwrap(),
        second: None,
        licence: "CC-BY-4.0".into(),
        place: None,
        sample: 10,
        max_readings: 100_000,
        kinds: vec!["temperature".into()],
        cadence: None,
    };
    SourceOptions { spec: SourceSpec::Sim(spec), name: Some("weather".into()), terms }
}

/// Bootstrap with the development chain, an agent with a long history, and a buyer with money.
struct Market {
    bootstrap: Node,
    agent: Node,
    buyer: Node,
    stream: StreamAd,
}

impl Market {
    async fn new(folder: &Path) -> Self {
        let mut options = node(1, folder);
        let path = folder.join("chain.redb");
        options.chain = ChainRole::DevChain { path: Some(path), block_interval: Duration::from_secs(2) };
        let bootstrap = Node::start(options).await.unwrap();
        let known = bootstrap.addresses().await;

        let mut options = node(2, folder);
        options.bootstrap.clone_from(&known);
        let anchors = AnchorPolicy { every: Duration::from_secs(60), readings: 1_000_000_000 };
        options.agent = Some(AgentOptions {
            name: "agent".into(),
            anchors,
            sources: vec![thermometer()],
            channels: Default::default(),
            credit: Default::default(),
            releases: Default::default(),
        });
        let agent = Node::start(options).await.unwrap();
        while agent.agent().unwrap().ended_sources().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        let mut options = node(3, folder);
        options.bootstrap.clone_from(&known);
        let buyer = Node::start(options).await.unwrap();
        let money = Satoshis::from_sat(5_000_000);
        while let Err(error) = buyer.wallet().fund_from_faucet(money).await {
            eprintln!("faucet: {error}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let seller = agent.identity().public();
        let ad = loop {
            match buyer.discovery().ad_of(seller).await {
                Ok(found) => break found.ad,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let stream = ad.value().streams[0].clone();
        Self { bootstrap, agent, buyer, stream }
    }

    /// A question that the seller answers from its store: for the receipt of an order that it does not have.
    async fn round_trip(&self) -> Duration {
        let request = Request::Receipt { order: OrderId([9; 32]) };
        let began = Instant::now();
        self.buyer.buyer().ask(self.agent.identity().public(), &request).await.unwrap();
        began.elapsed()
    }

    /// Buys `count` readings from `first` on. Returns how long each stage took, and all of them.
    async fn buy(&self, first: u64, count: u64) -> [Duration; 5] {
        let request = BuyRequest {
            seller: *self.agent.identity().public(),
            stream: self.stream.id,
            range: Range::Seq { first, count },
            limits: BuyerLimits {
                max_price: Satoshis::from_sat(10_000),
                exposure: Satoshis::from_sat(10_000),
            },
            ad: Some(self.stream.clone()),
        };
        let began = Instant::now();
        let mut reached = Vec::new();
        let progress = |progress| match progress {
            Progress::Waiting { reason } => eprintln!("waiting: {reason}"),
            _ => reached.push(began.elapsed()),
        };
        let bought = self.buyer.buyer().buy(&request, progress).await.unwrap();
        let all = began.elapsed();
        assert_eq!((bought.count, bought.orders.len(), reached.len()), (count, 1, 4));
        let [price, stored, receipt, verified] = [reached[0], reached[1], reached[2], reached[3]];
        [price, stored - price, receipt - stored, verified - receipt, all]
    }

    async fn shutdown(self) {
        for node in [&self.buyer, &self.agent, &self.bootstrap] {
            node.shutdown().await;
        }
    }
}
