//! What a single paid reading takes on loopback: how long, how many bytes, and how many a second one seller has for 64 buyers.
//!
//! `cargo bench -p sensora-node --bench reads`. All nodes run in one process and talk over TCP, Noise and Yamux: one with the development chain, an agent, and
//! buyers with a key, a wallet, a channel and a store each. Stores are in a folder for temporary files (TMPDIR): on a disk, what is durable is really written. The
//! first buyer is connected through a relay that counts bytes: what is measured is all that goes over TCP, both ways, with Noise and Yamux.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may stop")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sensora_chain::keys::PrivateKey;
use sensora_chain::{FeeRate, Network, Satoshis};
use sensora_node::agent::anchorer::AnchorPolicy;
use sensora_node::agent::seller::release::ReleasePolicy;
use sensora_node::agent::source::{RawReading, Replay, SimSpec, SourceSpec};
use sensora_node::agent::{AgentOptions, SourceOptions, Terms};
use sensora_node::buyer::{Reads, ReadsRequest, Want};
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
use sensora_protocol::stream::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const BUYERS: u64 = 64;
const READINGS: u64 = 250_000;
/// What each buyer puts into its channel, and what stays for the close.
const CHANNEL: u64 = 45_000;
const BUDGET: u64 = 40_000;

struct Size {
    buyers: u64,
    /// Readings of one buyer, one after the other.
    singles: u64,
    /// The newest readings.
    newest: u64,
    /// Readings of each buyer in each round with all of them.
    each: u64,
}

fn main() {
    // Without `--bench` this is a test run: does it work at all? `--few` is in between: bytes are the same however few buyers there are.
    let has = |flag: &str| std::env::args().any(|word| word == flag);
    let size = if has("--few") {
        Size { buyers: 4, singles: 1_024, newest: 100, each: 1_000 }
    } else if has("--bench") {
        Size { buyers: BUYERS, singles: 5_000, newest: 500, each: 3_000 }
    } else {
        Size { buyers: 2, singles: 20, newest: 2, each: 20 }
    };
    let disk = tempfile::tempdir().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(run(disk.path(), &size));
}

async fn run(folder: &Path, size: &Size) {
    let market = Market::new(folder, size.buyers).await;
    println!(
        "\n{:<58} {:>9} {:>9} {:>9} {:>12}",
        "one buyer, one reading at a time", "p50 ms", "p99", "max", "bytes each"
    );
    println!("a reading has {} fields", market.stream.schema.fields.len());
    let reads = market.open(0).await;
    // Trust has to grow first.
    for seq in 0..500.min(size.singles) {
        reads.read(Want::Seq(seq)).await.unwrap();
    }
    let in_order = (0..size.singles).map(|n| Want::Seq(10_000 + n));
    market.one_by_one("by number, in order", &reads, in_order).await;
    let in_a_chunk = (0..size.singles.min(1_000)).map(|n| Want::Seq(102_400 + n * 389 % 1_024));
    market.one_by_one("by number, here and there in one chunk of 1,024", &reads, in_a_chunk).await;
    let far = (0..size.singles.min(2_000)).map(|n| Want::Seq(110_000 + n * 7_919 % 130_000));
    market.one_by_one("by number, here and there among 130,000", &reads, far).await;
    market.newest(&reads, size.newest).await;
    market.in_flight(&reads, 32, 90_000, size.singles.min(2_000)).await;
    let report = reads.close().await.unwrap();
    println!("receipted: {} readings, {}", report.count, report.paid);

    println!(
        "\n{:<58} {:>12} {:>12} {:>14}",
        format!("{} buyers, all cores", size.buyers),
        "readings/s",
        "p50 ms",
        "CPU µs each"
    );
    let mut all = Vec::new();
    for buyer in 0..market.buyers.len() {
        all.push(market.open(buyer).await);
    }
    for (round, in_flight) in [1, 4, 16, 64].into_iter().enumerate() {
        market.together(&all, round as u64, in_flight, size.each).await;
    }
    for reads in &all {
        reads.close().await.unwrap();
    }
    market.shutdown().await;
}

/// So many milliseconds are not exceeded by this part of the times.
fn at(sorted: &[Duration], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1e3
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
        price: "1".parse().unwrap(),
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

/// Passes connections on to an address and counts what goes through.
struct Relay {
    address: std::net::SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Relay {
    async fn to(target: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bytes: Arc<AtomicU64> = Arc::default();
        let counter = bytes.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (near, far) = (near.into_split(), far.into_split());
                for (mut from, mut to) in [(near.0, far.1), (far.0, near.1)] {
                    let counter = counter.clone();
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 64 * 1024];
                        while let Ok(count @ 1..) = from.read(&mut buffer).await {
                            counter.fetch_add(count as u64, Ordering::Relaxed);
                            if to.write_all(&buffer[..count]).await.is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        Self { address, bytes }
    }

    fn count(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Bootstrap with the development chain, an agent with a history, and buyers with a channel each.
struct Market {
    bootstrap: Node,
    agent: Node,
    buyers: Vec<Node>,
    stream: StreamAd,
    relay: Relay,
}

impl Market {
    async fn new(folder: &Path, count: u64) -> Self {
        let mut options = node(1, folder);
        let path = folder.join("chain.redb");
        options.chain = ChainRole::DevChain { path: Some(path), block_interval: Duration::from_secs(2) };
        let bootstrap = Node::start(options).await.unwrap();
        let known = bootstrap.addresses().await;

        let mut options = node(2, folder);
        options.bootstrap.clone_from(&known);
        options.agent = Some(AgentOptions {
            name: "agent".into(),
            anchors: AnchorPolicy { every: Duration::from_secs(600), readings: 1_000_000_000 },
            sources: vec![thermometer()],
            channels: Default::default(),
            releases: ReleasePolicy::none(),
            credit: Default::default(),
        });
        let agent = Node::start(options).await.unwrap();
        while agent.agent().unwrap().ended_sources().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let listens = agent.addresses().await;
        let port = listens.iter().find_map(tcp_port).unwrap();
        let relay = Relay::to(([127, 0, 0, 1], port).into()).await;
        let through =
            format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", relay.address.port(), agent.identity().peer_id());

        let (mut buyers, mut stream) = (Vec::new(), None);
        for number in 0..count {
            let mut options = node(u8::try_from(10 + number).unwrap(), folder);
            options.bootstrap.clone_from(&known);
            if number == 0 {
                options.bootstrap.insert(0, through.parse().unwrap());
            }
            let buyer = Node::start(options).await.unwrap();
            let money = Satoshis::from_sat(CHANNEL + 5_000);
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
            let limits = ChannelLimits {
                max_value: Satoshis::from_sat(CHANNEL),
                max_blocks: 4_000,
                max_close_fee: Satoshis::from_sat(200),
            };
            let value = Satoshis::from_sat(CHANNEL);
            while let Err(error) = buyer.buyer().open_channel(seller, value, 3_000, limits).await {
                eprintln!("channel: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            stream = Some(ad.value().streams[0].clone());
            buyers.push(buyer);
        }
        Self { bootstrap, agent, buyers, stream: stream.unwrap(), relay }
    }

    async fn open(&self, buyer: usize) -> Reads {
        let used = if buyer == 0 { 12_000 } else { 0 };
        let request = ReadsRequest {
            seller: *self.agent.identity().public(),
            stream: self.stream.id,
            budget: Satoshis::from_sat(BUDGET - if self.relay.count() > 0 { used } else { 0 }),
            exposure: Satoshis::from_sat(200),
            ad: Some(self.stream.clone()),
        };
        let budgets = [request.budget, Satoshis::from_sat(20_000)];
        for budget in budgets {
            match self.buyers[buyer].buyer().open_reads(ReadsRequest { budget, ..request.clone() }).await {
                Ok(reads) => return reads,
                Err(error) => eprintln!("buyer {buyer}: {error}"),
            }
        }
        std::process::exit(1)
    }

    async fn one_by_one(&self, name: &str, reads: &Reads, wants: impl Iterator<Item = Want>) {
        let (mut times, mut bought, before) = (Vec::new(), 0, self.relay.count());
        for want in wants {
            let began = Instant::now();
            bought += u64::from(reads.read(want).await.unwrap().bought);
            times.push(began.elapsed());
        }
        self.print(name, times, bought, before);
    }

    /// One buyer with so many questions in flight.
    async fn in_flight(&self, reads: &Reads, lanes: u64, first: u64, count: u64) {
        let before = self.relay.count();
        let mut tasks = tokio::task::JoinSet::new();
        for lane in 0..lanes {
            let reads = reads.clone();
            tasks.spawn(async move {
                let mut times = Vec::new();
                for n in (lane..count).step_by(usize::try_from(lanes).unwrap()) {
                    let began = Instant::now();
                    assert!(reads.read(Want::Seq(first + n)).await.unwrap().bought);
                    times.push(began.elapsed());
                }
                times
            });
        }
        let mut times = Vec::new();
        while let Some(some) = tasks.join_next().await {
            times.extend(some.unwrap());
        }
        self.print(&format!("by number, in order, {lanes} in flight"), times, count, before);
    }

    fn print(&self, name: &str, mut times: Vec<Duration>, bought: u64, before: u64) {
        times.sort_unstable();
        let bytes = (self.relay.count() - before) as f64 / bought.max(1) as f64;
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| at(&times, part));
        println!("{:<58} {p50:>9.3} {p99:>9.3} {max:>9.3} {bytes:>12.1}", format!("{name}, {bought} bought"));
    }

    /// The newest reading, each time after another one is recorded.
    async fn newest(&self, reads: &Reads, count: u64) {
        let recorder = self.agent.agent().unwrap().recorder();
        let (mut times, mut bought, before) = (Vec::new(), 0, self.relay.count());
        for number in 0..count {
            let time = 1_790_000_000_000_000_000 + number as i64;
            let values = vec![Value::Float(number as f64); self.stream.schema.fields.len()];
            recorder.append(vec![(self.stream.id, vec![RawReading { time, values }])]).unwrap();
            let began = Instant::now();
            bought += u64::from(reads.read(Want::Latest).await.unwrap().bought);
            times.push(began.elapsed());
        }
        self.print("the newest, under a new checkpoint each time", times, bought, before);
    }

    /// All buyers at once, each with so many questions in flight.
    async fn together(&self, all: &[Reads], round: u64, in_flight: u64, each: u64) {
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let mut tasks = tokio::task::JoinSet::new();
        for (buyer, reads) in all.iter().enumerate() {
            for lane in 0..in_flight {
                let reads = reads.clone();
                tasks.spawn(async move {
                    let mut times = Vec::new();
                    let first = 20_000 + buyer as u64 * 3_500;
                    // Each round its own quarter, so that nothing is here already.
                    let part = each / 4;
                    for n in (lane..part).step_by(usize::try_from(in_flight).unwrap()) {
                        let began = Instant::now();
                        assert!(reads.read(Want::Seq(first + round * part + n)).await.unwrap().bought);
                        times.push(began.elapsed());
                    }
                    times
                });
            }
        }
        let mut times = Vec::new();
        while let Some(some) = tasks.join_next().await {
            times.extend(some.unwrap());
        }
        let took = began.elapsed().as_secs_f64();
        times.sort_unstable();
        let rate = times.len() as f64 / took;
        let cpu = (cpu_seconds() - cpu) * 1e6 / times.len() as f64;
        let name = format!("{in_flight} in flight each, {} bought", times.len());
        println!("{name:<58} {rate:>12.0} {:>12.3} {cpu:>14.1}", at(&times, 0.5));
    }

    async fn shutdown(self) {
        for node in self.buyers.iter().chain([&self.agent, &self.bootstrap]) {
            node.shutdown().await;
        }
    }
}

/// What this process has used of all processors, of both sides: what counts where something else runs beside it.
fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of proc(5), in hundredths of a second on Linux; after the name in parentheses they are 12 and 13.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// The port of an address on loopback.
fn tcp_port(address: &Multiaddr) -> Option<u16> {
    let text = address.to_string();
    let rest = text.strip_prefix("/ip4/127.0.0.1/tcp/")?;
    rest.split('/').next()?.parse().ok()
}
