//! A live stream that is verified, kept and paid, beside MQTT at QoS 1, which is neither: mosquitto with the client library rumqttc.
//!
//! `cargo bench -p sensora-node --bench live [stream|fanout|bytes]`. A producer makes readings of a time and eleven numbers, 104 bytes with their sequence number; the MQTT message of
//! one has 100 bytes. Both ways are measured in turn in one run, with publisher and subscribers in this process, over TCP on loopback:
//!
//! - ours: producer → recorder, durable → signed checkpoint, page with proof → Noise and Yamux → verified → kept, durable → paid by a voucher → handed to the subscriber.
//!   A run ends with the seller's receipt for all of it. Terms are those an agent has unless told otherwise: 200 sat of credit, here 2,000 readings.
//! - MQTT: producer → mosquitto → subscriber, each hop acknowledged. A run ends with the last message. Nothing is encrypted, signed, stored or paid.
//!
//! Lateness is from a reading's making to its arrival at the subscriber.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark that fails may stop"
)]

#[path = "live/broker.rs"]
mod broker;
#[path = "live/market.rs"]
mod market;
#[path = "live/stats.rs"]
mod stats;
#[path = "live/wire.rs"]
mod wire;

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use sensora_chain::Satoshis;
use sensora_node::agent::recorder::Recorder;
use sensora_node::agent::source::RawReading;
use sensora_node::buyer::{LiveEvent, SubscribeRequest};
use sensora_node::clock::Clock;
use sensora_protocol::StreamId;
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::price::Metered;
use sensora_protocol::stream::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::broker::Broker;
use self::market::{Market, Plan};
use self::stats::median;

/// Bytes of an MQTT message.
const MESSAGE: usize = 100;
/// Numbers in a reading.
const FIELDS: usize = 11;
/// Most readings that are made durable at a time; as many as an agent's sources hand over.
const BATCH: usize = 4096;
/// Readings that wait for the recorder.
const QUEUED: usize = 1024;
/// Satoshis for a reading.
const PRICE: &str = "0.1";
const EXPOSURE: u64 = 200;

/// One run: how long it took, and how late each message was.
struct Run {
    count: u64,
    /// From the first message to the last.
    took: Duration,
    /// Nanoseconds from a message's making to its arrival.
    late: Vec<u64>,
}

impl Run {
    fn per_second(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }

    /// The lateness below which this part of all is, in milliseconds.
    fn late_ms(&mut self, part: f64) -> f64 {
        self.late.sort_unstable();
        let at = (self.late.len().saturating_sub(1) as f64 * part).round() as usize;
        self.late.get(at).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
    }
}

/// How fast readings are made.
#[derive(Clone, Copy)]
enum Pace {
    /// As fast as they are taken.
    Full,
    /// So many a second; those of a millisecond at once.
    Rate(u64),
}

/// How much is measured.
struct Size {
    rounds: usize,
    /// Readings at full speed to one subscriber.
    full: u64,
    /// Paces, and for how many seconds each.
    paces: &'static [u64],
    seconds: u64,
    subscribers: usize,
    /// Readings at full speed to each of many.
    each: u64,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Without `--bench` this is a test run: does it work at all?
    let size = if words.iter().any(|word| word == "--bench") {
        Size {
            rounds: 3,
            full: 200_000,
            paces: &[100, 1_000, 10_000],
            seconds: 3,
            subscribers: 100,
            each: 20_000,
        }
    } else {
        Size { rounds: 1, full: 200, paces: &[100], seconds: 1, subscribers: 2, each: 100 }
    };
    let part = words.iter().find(|word| !word.starts_with('-')).map(String::as_str);
    let wanted = |name| part.is_none_or(|part| part == name);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = Broker::start();
    if broker.is_none() {
        eprintln!("mosquitto is not installed (Debian: apt-get install mosquitto): nothing to compare with");
    }
    runtime.block_on(async {
        for (name, folder) in places().into_iter().filter(|_| wanted("stream")) {
            stream(broker.as_ref(), &size, name, folder).await;
        }
        if wanted("fanout") {
            fan_out(broker.as_ref(), &size).await;
        }
        if wanted("bytes") {
            wire::print(size.rounds > 1).await;
        }
    });
}

fn now_ns() -> i64 {
    Clock::system().now_ns()
}

/// The numbers of a reading: which one it is, and ten that drift a little with two decimals, as a machine's sensors do.
fn values(number: u64) -> [f64; FIELDS] {
    std::array::from_fn(|field| match field {
        0 => number as f64,
        _ => {
            let mixed = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (field * 5)) & 0x3f;
            let drift = ((number as f64) / (50.0 * field as f64)).sin() * 20.0;
            ((drift + 50.0 * field as f64) * 100.0 + mixed as f64).round() / 100.0
        }
    })
}

fn reading(time: i64, number: u64) -> RawReading {
    RawReading { time, values: values(number).map(Value::Float).to_vec() }
}

/// A file that begins the stream.
fn csv() -> String {
    let names: Vec<String> = (0..FIELDS).map(|field| format!("value{field}")).collect();
    let row = |number: u64| {
        let cells: Vec<String> = values(number).iter().map(ToString::to_string).collect();
        format!("2026-01-01T00:00:0{number}Z,{}", cells.join(","))
    };
    format!("time,{}\n{}\n{}\n", names.join(","), row(0), row(1))
}

/// Makes readings at a pace. Each is stamped when it is made, before it waits for anything.
async fn produce(count: u64, pace: Pace, mut emit: impl AsyncFnMut(i64, u64)) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut made = 0;
    let began = Instant::now();
    while made < count {
        let until = match pace {
            Pace::Full => count,
            Pace::Rate(rate) => {
                ticks.tick().await;
                (began.elapsed().as_secs_f64() * rate as f64) as u64
            }
        };
        while made < until.min(count) {
            emit(now_ns(), made).await;
            made += 1;
        }
    }
}

/// Records what comes, as an agent does with what its sources hand over.
async fn record(recorder: Recorder, stream: StreamId, mut from: mpsc::Receiver<RawReading>) {
    let mut batch = Vec::new();
    while from.recv_many(&mut batch, BATCH).await > 0 {
        let (recorder, readings) = (recorder.clone(), std::mem::take(&mut batch));
        let append = move || recorder.append(vec![(stream, readings)]);
        tokio::task::spawn_blocking(append).await.unwrap().unwrap();
    }
}

impl Market {
    /// Sells so many readings to each buyer as they are made, and waits for the last receipt.
    async fn run(&self, count: u64, pace: Pace) -> Vec<Run> {
        let price = self.stream.price.due(count).unwrap();
        let mut receiving = JoinSet::new();
        for buyer in &self.buyers {
            let request = SubscribeRequest {
                seller: *self.agent.identity().public(),
                stream: self.stream.id,
                from: LiveFrom::Latest,
                budget: price,
                exposure: Satoshis::from_sat(EXPOSURE),
                ad: Some(self.stream.clone()),
                readings: Some(count),
                until_ms: None,
                by: Metered::Reading,
                max_reading: None,
                max_second: None,
            };
            let mut subscription = buyer.buyer().subscribe(&request).await.unwrap();
            receiving.spawn(async move {
                let mut late = Vec::with_capacity(usize::try_from(count).unwrap());
                loop {
                    match subscription.next().await.unwrap().unwrap() {
                        LiveEvent::Readings(batch) => {
                            let now = now_ns();
                            for reading in batch.readings {
                                let number = Value::Float(late.len() as f64);
                                assert_eq!(reading.values[0], number, "in order and without loss");
                                late.push(now.abs_diff(reading.time));
                            }
                        }
                        LiveEvent::Ended(receipt) => {
                            let receipt = receipt.unwrap();
                            let receipt = receipt.value();
                            assert_eq!((receipt.count, late.len() as u64), (count, count));
                            assert_eq!(receipt.paid, price, "all of it is paid");
                            return (Instant::now(), late);
                        }
                        LiveEvent::Gap { first, end } => panic!("readings {first} to {end} are missing"),
                        LiveEvent::Waiting { reason } => eprintln!("waiting: {reason}"),
                        _ => {}
                    }
                }
            });
        }
        // The deliveries have begun, as the broker's subscribers have subscribed.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (sender, waiting) = mpsc::channel(QUEUED);
        let recorder = self.agent.agent().unwrap().recorder().clone();
        tokio::spawn(record(recorder, self.stream.id, waiting));
        let began = Instant::now();
        produce(count, pace, async |time, number| sender.send(reading(time, number)).await.unwrap()).await;
        drop(sender);
        let mut runs = Vec::new();
        while let Some(received) = receiving.join_next().await {
            let (ended, late) = received.unwrap();
            runs.push(Run { count, took: ended - began, late });
        }
        runs
    }
}

/// A market of this benchmark's readings in which each buyer can pay for so many.
async fn market(folder: TempDir, buyers: usize, readings: u64) -> Market {
    let value = Satoshis::from_sat(readings / 10 + 2_000);
    Market::new(Plan { csv: &csv(), columns: &[], price: PRICE, buyers, value, folder }).await
}

/// Where stores can be: on the disk of TMPDIR, and, where there is one, on the RAM disk, where a sync is free: the difference is what the disk takes.
fn places() -> Vec<(&'static str, TempDir)> {
    let memory = tempfile::tempdir_in("/dev/shm").ok().map(|folder| ("RAM disk", folder));
    [("disk", tempfile::tempdir().unwrap())].into_iter().chain(memory).collect()
}

/// Milliseconds that a page of 4 KiB takes to a file there and is synced: the median of 100.
fn sync_ms(folder: &Path) -> f64 {
    let mut file = tempfile::tempfile_in(folder).unwrap();
    file.write_all(&vec![0; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    let took = (0..100).map(|page| {
        let began = Instant::now();
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
        began.elapsed().as_secs_f64() * 1e3
    });
    median(took.collect())
}

/// What else the machine has to do: processes that run or wait for the disk, over the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

fn ratio(ours: f64, theirs: f64) -> String {
    if theirs.is_nan() { "–".into() } else { format!("{:.2}", ours / theirs) }
}

async fn stream(broker: Option<&Broker>, size: &Size, place: &str, folder: TempDir) {
    let sync = sync_ms(folder.path());
    let paced: u64 = size.paces.iter().map(|rate| rate * size.seconds).sum();
    let market = market(folder, 1, size.rounds as u64 * (size.full + paced) + size.full).await;
    // Once for everything that is warm afterwards: allocator, code, files.
    market.run(size.full / 10, Pace::Full).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        ours.push(market.run(size.full, Pace::Full).await.remove(0).per_second());
        if let Some(broker) = broker {
            theirs.push(broker.run(1, size.full, Pace::Full).await.remove(0).per_second());
        }
    }
    println!(
        "\nlive stream, 1 to 1, median of {} rounds in turn; stores on the {place}, where a sync takes {sync:.2} ms, load {}",
        size.rounds,
        load()
    );
    println!("{:<44} {:>12} {:>12} {:>7}", "", "sensora", "mosquitto", "ratio");
    let (mine, his) = (median(ours), median(theirs));
    println!("{:<44} {mine:>12.0} {his:>12.0} {:>7}", "readings/s at full speed", ratio(mine, his));
    for &rate in size.paces {
        let count = rate * size.seconds;
        let (mut ours, mut theirs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..size.rounds {
            let mut run = market.run(count, Pace::Rate(rate)).await.remove(0);
            [0.5, 0.99].into_iter().zip(&mut ours).for_each(|(part, to)| to.push(run.late_ms(part)));
            if let Some(broker) = broker {
                let mut run = broker.run(1, count, Pace::Rate(rate)).await.remove(0);
                [0.5, 0.99].into_iter().zip(&mut theirs).for_each(|(part, to)| to.push(run.late_ms(part)));
            }
        }
        for (part, (ours, theirs)) in ["p50", "p99"].into_iter().zip(ours.into_iter().zip(theirs)) {
            let (mine, his) = (median(ours), median(theirs));
            let name = format!("{rate} readings/s, late by, {part} ms");
            println!("{name:<44} {mine:>12.2} {his:>12.2} {:>7}", ratio(mine, his));
        }
    }
    market.shutdown().await;
}

async fn fan_out(broker: Option<&Broker>, size: &Size) {
    let (buyers, count) = (size.subscribers, size.each);
    let market = market(tempfile::tempdir().unwrap(), buyers, size.rounds as u64 * count + count).await;
    market.run(count / 10, Pace::Full).await;
    // All of them together, until the last has everything.
    let together = |runs: &[Run]| {
        let slowest = runs.iter().map(|run| run.took).max().unwrap();
        (count * runs.len() as u64) as f64 / slowest.as_secs_f64()
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds.min(3) {
        ours.push(together(&market.run(count, Pace::Full).await));
        if let Some(broker) = broker {
            theirs.push(together(&broker.run(buyers, count, Pace::Full).await));
        }
    }
    let (mine, his) = (median(ours), median(theirs));
    println!("\nlive stream, 1 to {buyers}, {count} readings to each, load {}", load());
    println!("{:<44} {:>12} {:>12} {:>7}", "", "sensora", "mosquitto", "ratio");
    println!("{:<44} {mine:>12.0} {his:>12.0} {:>7}", "deliveries/s, all together", ratio(mine, his));
    market.shutdown().await;
}
