//! Bytes on the wire for each paid reading: what the kernel counts on the connection between buyer and seller, both ways, with everything that Noise, Yamux
//! and the node's other protocols put on it meanwhile.

use std::process::Command;
use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_node::agent::source::RawReading;
use sensora_node::buyer::SubscribeRequest;
use sensora_node::net::Multiaddr;
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::price::Metered;
use sensora_protocol::stream::Value;

use super::market::{Market, Plan};
use super::{EXPOSURE, PRICE, now_ns};

/// A thermometer with one decimal each second, and the reading that is measured with the broker.
const KINDS: [&str; 2] = ["1 number", "11 numbers"];

/// Bytes that the seller's node has sent and received on connections that were made to it.
struct Counted {
    sent: u64,
    received: u64,
}

impl Counted {
    fn at(port: u16) -> Option<Self> {
        let output = Command::new("ss").args(["-tinH", "sport", "=", &format!(":{port}")]).output().ok()?;
        let text = String::from_utf8(output.stdout).unwrap();
        let sum = |name: &str| {
            let words = text.split_whitespace().filter_map(|word| word.strip_prefix(name));
            words.map(|number| number.parse::<u64>().unwrap()).sum()
        };
        Some(Self { sent: sum("bytes_sent:"), received: sum("bytes_received:") })
    }
}

fn port_of(address: &Multiaddr) -> Option<u16> {
    address.iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    })
}

fn thermometer(time: i64, number: u64) -> RawReading {
    let degrees = 20.0 + (number as f64 / 300.0).sin() * 5.0;
    RawReading { time, values: vec![Value::Float((degrees * 10.0).round() / 10.0)] }
}

pub(super) async fn print(is_full: bool) {
    println!("\nwire bytes for each paid reading, both ways, by readings recorded at a time");
    println!(
        "{:<14} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "", "readings", "at a time", "to buyer", "to seller", "together"
    );
    for kind in KINDS {
        let is_small = kind == KINDS[0];
        let csv =
            if is_small { "time,celsius\n2026-01-01T00:00:00Z,20.5\n".to_owned() } else { super::csv() };
        let value = Satoshis::from_sat(20_000);
        let market = Market::new(Plan {
            csv: &csv,
            columns: &[],
            price: PRICE,
            buyers: 1,
            value,
            folder: tempfile::tempdir().unwrap(),
        })
        .await;
        let addresses = market.agent.net().listen_addrs().await;
        let port = addresses.iter().find_map(port_of).unwrap();
        for batch in [1, 10, 100, 1_000] {
            let rounds = if is_full { (10_000 / batch).min(200) } else { 3 };
            let count = rounds * batch;
            let request = SubscribeRequest {
                seller: *market.agent.identity().public(),
                stream: market.stream.id,
                from: LiveFrom::Latest,
                budget: market.stream.price.due(2 * count).unwrap(),
                exposure: Satoshis::from_sat(EXPOSURE),
                ad: Some(market.stream.clone()),
                readings: None,
                until_ms: None,
                by: Metered::Reading,
                max_reading: None,
                max_second: None,
            };
            let mut subscription = market.buyers[0].buyer().subscribe(&request).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let first = subscription.status().next;
            let recorder = market.agent.agent().unwrap().recorder().clone();
            let Some(before) = Counted::at(port) else {
                return println!(
                    "ss is not installed (Debian: apt-get install iproute2): nothing counts bytes here"
                );
            };
            for round in 0..rounds {
                let make = |number| {
                    let time = now_ns() / 1_000_000_000 * 1_000_000_000;
                    if is_small { thermometer(time, number) } else { super::reading(time, number) }
                };
                let readings = (0..batch).map(|at| make(round * batch + at)).collect();
                recorder.append(vec![(market.stream.id, readings)]).unwrap();
                while subscription.status().next < first + (round + 1) * batch {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            // The last vouchers.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let after = Counted::at(port).unwrap();
            let each = |bytes: u64| bytes as f64 / count as f64;
            let (to_buyer, to_seller) =
                (each(after.sent - before.sent), each(after.received - before.received));
            println!(
                "{kind:<14} {count:>10} {batch:>10} {to_buyer:>10.1} {to_seller:>10.1} {:>10.1}",
                to_buyer + to_seller
            );
            subscription.stop().await;
            subscription.ended().await.unwrap();
        }
        market.shutdown().await;
    }
}
