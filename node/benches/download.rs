//! A range that is bought through a channel, verified, kept and paid while it comes, beside a bare libp2p stream that moves the same bytes.
//!
//! `cargo bench -p sensora-node --bench download`. Seller and buyer run in this process, over TCP, Noise and Yamux on loopback, with stores on the disk of TMPDIR; two bare libp2p peers
//! with the same transport stand beside them and throw away what they receive. Ranges are bought in turn with the bare stream. Beside both stands what a buyer cannot do
//! without: writing the same bytes to a file and syncing it. Memory is the resident part of this process, so of both sides together.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may stop")]

#[path = "../tests/it/net/bare.rs"]
mod bare;
#[path = "live/market.rs"]
mod market;
#[path = "live/stats.rs"]
mod stats;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libp2p::futures::{AsyncReadExt, AsyncWriteExt};
use sensora_chain::Satoshis;
use sensora_node::agent::source::RawReading;
use sensora_node::buyer::BuyRequest;
use sensora_node::store::bought;
use sensora_protocol::market::offer::{BuyerLimits, Range};
use sensora_protocol::stream::Value;

use self::market::{Market, Plan};
use self::stats::median;

/// How long a bare connection may be idle: while ranges are bought.
const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of a page of whole chunks, as far as they are written at a time.
const PIECE: usize = 900 * 1024;
const MIB: f64 = (1 << 20) as f64;
/// Readings that are recorded at a time.
const BATCH: u64 = 8 * 1024;

/// What a stream's readings are.
#[derive(Clone, Copy)]
enum Kind {
    /// A text of 240 characters that does not compress: the data is nearly all of what moves.
    Text,
    /// A number with one decimal each second: a chunk of 1,024 is a few hundred bytes.
    Number,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "texts of 240 bytes",
            Self::Number => "1 number, compressed",
        }
    }

    fn reading(self, number: u64) -> RawReading {
        // A second apart, and all in the past.
        let time = 1_700_000_000_000_000_000 + i64::try_from(number).unwrap() * 1_000_000_000;
        let value = match self {
            Self::Text => {
                let mut state = number;
                let words = (0..15).map(|_| {
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    format!("{:016x}", mixed ^ (mixed >> 27))
                });
                Value::Text(words.collect())
            }
            Self::Number => {
                let degrees = 20.0 + (number as f64 / 300.0).sin() * 5.0;
                Value::Float((degrees * 10.0).round() / 10.0)
            }
        };
        RawReading { time, values: vec![value] }
    }
}

fn main() {
    // Without `--bench` this is a test run: does it work at all?
    let is_full = std::env::args().any(|word| word == "--bench");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for kind in [Kind::Text, Kind::Number] {
        // 120 MiB of texts, and 1 GiB; as many bytes of compressed numbers would take minutes.
        let (rounds, readings, long) = match (is_full, kind) {
            (false, _) => (1, 4_096, 8_192),
            (true, Kind::Text) => (3, 512 * 1024, 4_352 * 1024),
            (true, Kind::Number) => (3, 4_000_000, 8_000_000),
        };
        runtime.block_on(run(kind, rounds, readings, long));
    }
}

/// Buys `rounds` ranges of so many readings in turn with the bare stream, and one of `long` readings to see what memory does.
async fn run(kind: Kind, rounds: u64, readings: u64, long: u64) {
    let columns: &[&str] = match kind {
        Kind::Text => &["words:text"],
        Kind::Number => &[],
    };
    let first = match kind.reading(0).values.remove(0) {
        Value::Text(text) => text,
        Value::Float(number) => number.to_string(),
        _ => String::new(),
    };
    let csv = format!("time,words\n2020-01-01T00:00:00Z,{first}\n");
    let total = rounds * readings + long;
    // A hundredth of a satoshi for a reading, and the credit that agents give: 20,000 readings may be on their way.
    let value = Satoshis::from_sat(total / 100 + 2_000);
    let market = Market::new(Plan {
        csv: &csv,
        columns,
        price: "0.01",
        buyers: 1,
        value,
        folder: tempfile::tempdir().unwrap(),
    })
    .await;
    record(&market, kind, total).await;
    let bare = Bare::new().await;
    let (mut ours, mut theirs, mut disk, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let resting = resident();
    for round in 0..rounds {
        let took = market.buy(round * readings, readings).await;
        let moved = market.bytes(round * readings, readings);
        bytes = moved;
        ours.push(moved as f64 / MIB / took);
        theirs.push(moved as f64 / MIB / bare.one_way(moved).await);
        disk.push(moved as f64 / MIB / write(moved));
    }
    let (mine, its, disk) = (median(ours), median(theirs), median(disk));
    println!(
        "\n{}: {readings} readings, {:.1} MiB, median of {rounds} in turn",
        kind.name(),
        bytes as f64 / MIB
    );
    println!(
        "bought, verified, kept and paid {mine:>10.1} MiB/s {:>12.0} readings/s",
        mine * MIB / bytes as f64 * readings as f64
    );
    println!("a bare stream                   {its:>10.1} MiB/s   ratio {:.3}", mine / its);
    println!("written to a file and synced    {disk:>10.1} MiB/s");
    let before = resident();
    let watch = Watch::start();
    let took = market.buy(rounds * readings, long).await;
    let peak = watch.peak();
    let moved = market.bytes(rounds * readings, long);
    println!(
        "{long} readings, {:.0} MiB in {took:.1} s: resident {:.0} MiB before the first, {:.0} MiB before this, at most {:.0} MiB meanwhile",
        moved as f64 / MIB,
        resting as f64 / MIB,
        before as f64 / MIB,
        peak as f64 / MIB
    );
    market.shutdown().await;
}

async fn record(market: &Market, kind: Kind, count: u64) {
    let recorder = market.agent.agent().unwrap().recorder().clone();
    let stream = market.stream.id;
    let fill = move || {
        // The first is there already.
        let mut next = 1;
        while next < count {
            let end = count.min(next + BATCH);
            recorder
                .append(vec![(stream, (next..end).map(|number| kind.reading(number)).collect())])
                .unwrap();
            next = end;
        }
    };
    tokio::task::spawn_blocking(fill).await.unwrap();
}

impl Market {
    /// Buys a range; says how many seconds it took.
    async fn buy(&self, first: u64, count: u64) -> f64 {
        let all = Satoshis::from_sat(200);
        let request = BuyRequest {
            seller: *self.agent.identity().public(),
            stream: self.stream.id,
            range: Range::Seq { first, count },
            limits: BuyerLimits { max_price: Satoshis::from_sat(10_000_000), exposure: all },
            ad: Some(self.stream.clone()),
        };
        let began = Instant::now();
        let bought = self.buyers[0].buyer().buy_through_channel(&request, |_| {}).await.unwrap();
        let took = began.elapsed().as_secs_f64();
        assert_eq!((bought.count, bought.kept), (count, 0));
        assert_eq!(bought.paid, self.stream.price.due(count).unwrap());
        took
    }

    /// Bytes of the columns of bought readings. A few runs at a time: their memory is looked at.
    fn bytes(&self, first: u64, count: u64) -> u64 {
        let (end, mut at, mut bytes) = (first + count, first, 0);
        while at < end {
            let some =
                self.buyers[0].store().read(|tx| bought::runs(tx, &self.stream.id, at, end, 16)).unwrap();
            bytes += some.iter().map(|run| run.run.columns.len() as u64).sum::<u64>();
            at = some.last().map_or(end, |run| run.run.first + run.count);
        }
        bytes
    }
}

/// Writes and syncs so many bytes, and says how long it took.
fn write(bytes: u64) -> f64 {
    let mut file = tempfile::tempfile().unwrap();
    let piece = vec![7; PIECE];
    let began = Instant::now();
    let mut left = usize::try_from(bytes).unwrap();
    while left > 0 {
        let now = left.min(PIECE);
        file.write_all(&piece[..now]).unwrap();
        left -= now;
    }
    file.sync_data().unwrap();
    began.elapsed().as_secs_f64()
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// Looks at the memory fifty times a second.
struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
}

impl Watch {
    fn start() -> Self {
        let watch = Self { stop: Arc::default(), peak: Arc::default() };
        let (stop, peak) = (watch.stop.clone(), watch.peak.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        watch
    }

    fn peak(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.peak.load(Ordering::Relaxed)
    }
}

/// Two bare peers.
struct Bare {
    from: bare::Peer,
    to: tokio::sync::Mutex<bare::Peer>,
}

impl Bare {
    async fn new() -> Self {
        let peer = async || bare::Peer::new("/sensora/bare/1", "/ip4/127.0.0.1/tcp/0").await;
        let (from, to) = (peer().await, peer().await);
        from.dial(to.id, vec![to.address.clone()]).await;
        Self { from, to: to.into() }
    }

    /// Seconds until so many bytes are there.
    async fn one_way(&self, bytes: u64) -> f64 {
        let total = usize::try_from(bytes).unwrap();
        let mut to = self.to.lock().await;
        let mut near = self.from.open(to.id).await;
        let began = Instant::now();
        let send = tokio::spawn(async move {
            let piece = vec![7; PIECE];
            let mut left = total;
            while left > 0 {
                let now = left.min(PIECE);
                near.write_all(&piece[..now]).await.unwrap();
                left -= now;
            }
            near.flush().await.unwrap();
            near
        });
        let mut far = to.accept().await;
        let (mut buffer, mut read) = (vec![0; 64 * 1024], 0);
        while read < total {
            let more = far.read(&mut buffer).await.unwrap();
            assert!(more > 0, "it is all there");
            read += more;
        }
        let took = began.elapsed().as_secs_f64();
        drop(send.await.unwrap());
        took
    }
}
