//! What a delivery stream costs beside a bare libp2p substream that moves the same bytes.
//!
//! `cargo bench -p sensora-node --bench delivery`. Two nodes run in one process and talk over TCP, Noise and Yamux on loopback; beside them stand two bare libp2p
//! peers with the same transport. Each measurement is made with both in turn, several times; the table shows the median of each, and the ratio of the medians.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may stop")]

#[path = "../tests/it/net/bare.rs"]
mod bare;

use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::{
    Stream,
    futures::{AsyncReadExt, AsyncWriteExt},
};
use sensora_node::net::{DeliveryStream, Net, NetConfig, NetEvent, NetEvents};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const SMALL: usize = 100;
const LARGE: usize = 64 * 1024;
/// A small frame with its length.
const FRAMED: usize = 4 + SMALL;
/// Small frames handed over at a time.
const BATCH: usize = 256;

/// How much is moved in each round.
struct Size {
    rounds: usize,
    pings: usize,
    batches: usize,
    bulk: usize,
}

fn main() {
    // Without `--bench` this is a test run: does it work at all?
    let size = if std::env::args().any(|word| word == "--bench") {
        Size { rounds: 5, pings: 20_000, batches: 4_000, bulk: 8_192 }
    } else {
        Size { rounds: 1, pings: 20, batches: 2, bulk: 4 }
    };
    tokio::runtime::Runtime::new().unwrap().block_on(run(&size));
}

async fn run(size: &Size) {
    let (ours, bare) = (Ours::new().await, Bare::new().await);
    let (mut pings, mut batches, mut bulk) = (Pairs::default(), Pairs::default(), Pairs::default());
    let mut slow = Pairs::default();
    for _ in 0..size.rounds {
        let (mine, theirs) = (ours.pings(size.pings).await, bare.pings(size.pings).await);
        pings.push(at(&mine, 0.5), at(&theirs, 0.5));
        slow.push(at(&mine, 0.99), at(&theirs, 0.99));
        let frames = (size.batches * BATCH) as f64;
        batches.push(frames / ours.batches(size.batches).await, frames / bare.batches(size.batches).await);
        let megabytes = (size.bulk * LARGE) as f64 / 1e6;
        bulk.push(megabytes / ours.bulk(size.bulk).await, megabytes / bare.bulk(size.bulk).await);
    }
    println!("\n{:<44} {:>12} {:>12} {:>7}", "median of rounds", "delivery", "bare", "ratio");
    pings.print("ping-pong of 100 bytes, p50 µs");
    slow.print("ping-pong of 100 bytes, p99 µs");
    batches.print("one way, 100 bytes in batches, frames/s");
    bulk.print("one way, 64 KiB, MB/s");
}

/// Ours and theirs.
#[derive(Default)]
struct Pairs([Vec<f64>; 2]);

impl Pairs {
    fn push(&mut self, ours: f64, bare: f64) {
        self.0[0].push(ours);
        self.0[1].push(bare);
    }

    fn print(self, name: &str) {
        let [ours, bare] = self.0.map(|mut values| {
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        });
        println!("{name:<44} {ours:>12.1} {bare:>12.1} {:>7.2}", ours / bare);
    }
}

/// So many microseconds are not exceeded by this part of the times.
fn at(sorted: &[Duration], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1e6
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

/// Two nodes of ours.
struct Ours {
    from: Net,
    to: Net,
    events: tokio::sync::Mutex<NetEvents>,
    _stop: tokio_util::sync::DropGuard,
}

impl Ours {
    async fn new() -> Self {
        let stop = CancellationToken::new();
        let node = |secret: u8| {
            let mut config = NetConfig::new([secret; 32].into(), "regtest");
            config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
            let (net, runner, events) = Net::new(config).unwrap();
            tokio::spawn(runner.run(stop.clone()));
            (net, events)
        };
        let ((from, _), (to, events)) = (node(1), node(2));
        from.dial(to.peer_id(), to.listen_addrs().await).await.unwrap();
        Self { from, to, events: events.into(), _stop: stop.drop_guard() }
    }

    /// Both ends of a stream over which a frame has gone already.
    async fn stream(&self) -> (DeliveryStream, DeliveryStream) {
        let mut near = self.from.open_delivery(self.to.peer_id(), Vec::new(), PATIENCE).await.unwrap();
        near.send("hello".into()).await.unwrap();
        let mut events = self.events.lock().await;
        let mut far = loop {
            if let NetEvent::Delivery { stream } = events.recv().await.unwrap() {
                break stream;
            }
        };
        far.next(PATIENCE).await.unwrap();
        (near, far)
    }

    async fn pings(&self, count: usize) -> Vec<Duration> {
        let (mut near, mut far) = self.stream().await;
        let echo = tokio::spawn(async move {
            while let Some(frame) = far.next(PATIENCE).await.unwrap() {
                far.send(frame).await.unwrap();
            }
        });
        let frame = Bytes::from(vec![7; SMALL]);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            near.send(frame.clone()).await.unwrap();
            near.next(PATIENCE).await.unwrap();
            times.push(began.elapsed());
        }
        near.finish().await.unwrap();
        echo.await.unwrap();
        sorted(times)
    }

    /// Seconds until the last of so many frames is there.
    async fn one_way(&self, frame: Bytes, batches: usize, batch: usize) -> f64 {
        let (mut near, mut far) = self.stream().await;
        let began = Instant::now();
        let send = tokio::spawn(async move {
            for _ in 0..batches {
                near.send_all(std::iter::repeat_n(frame.clone(), batch)).await.unwrap();
            }
            near.finish().await.unwrap();
            near
        });
        let mut count = 0;
        while far.next(PATIENCE).await.unwrap().is_some() {
            count += 1;
        }
        let took = began.elapsed();
        assert_eq!(count, batches * batch);
        drop(send.await.unwrap());
        took.as_secs_f64()
    }

    async fn batches(&self, count: usize) -> f64 {
        self.one_way(vec![7; SMALL].into(), count, BATCH).await
    }

    async fn bulk(&self, count: usize) -> f64 {
        self.one_way(vec![7; LARGE].into(), count, 1).await
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

    async fn stream(&self) -> (Stream, Stream) {
        let mut to = self.to.lock().await;
        let mut near = self.from.open(to.id).await;
        near.write_all(&[1]).await.unwrap();
        near.flush().await.unwrap();
        let mut far = to.accept().await;
        far.read_exact(&mut [0]).await.unwrap();
        (near, far)
    }

    async fn pings(&self, count: usize) -> Vec<Duration> {
        let (mut near, mut far) = self.stream().await;
        let echo = tokio::spawn(async move {
            let mut frame = [0; FRAMED];
            for _ in 0..count {
                far.read_exact(&mut frame).await.unwrap();
                far.write_all(&frame).await.unwrap();
                far.flush().await.unwrap();
            }
            far
        });
        let mut frame = [7; FRAMED];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            near.write_all(&frame).await.unwrap();
            near.flush().await.unwrap();
            near.read_exact(&mut frame).await.unwrap();
            times.push(began.elapsed());
        }
        drop(echo.await.unwrap());
        sorted(times)
    }

    async fn one_way(&self, piece: Vec<u8>, count: usize) -> f64 {
        let (mut near, mut far) = self.stream().await;
        let total = piece.len() * count;
        let began = Instant::now();
        let send = tokio::spawn(async move {
            for _ in 0..count {
                near.write_all(&piece).await.unwrap();
            }
            near.flush().await.unwrap();
            near
        });
        let (mut buffer, mut read) = (vec![0; LARGE], 0);
        while read < total {
            let more = far.read(&mut buffer).await.unwrap();
            assert!(more > 0, "it is all there");
            read += more;
        }
        let took = began.elapsed();
        drop(send.await.unwrap());
        took.as_secs_f64()
    }

    async fn batches(&self, count: usize) -> f64 {
        self.one_way(vec![7; FRAMED * BATCH], count).await
    }

    async fn bulk(&self, count: usize) -> f64 {
        self.one_way(vec![7; 4 + LARGE], count).await
    }
}
