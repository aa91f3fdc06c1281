//! `kill -9` in the middle: one charge, the same readings, and nothing lost on either side.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::real_node::RealNode;
use crate::support::{Home, World};

/// Asserts that the buyer's orders cover the readings once, and that what it paid is what the seller was paid.
fn assert_charged_once(buyer: &Home<'_>, seller: &Home<'_>, rows: u64) {
    let orders = buyer.run("orders --json").ends_with(0).json();
    let orders = orders["orders"].as_array().unwrap();
    let mut covered = BTreeSet::new();
    let mut price = 0;
    for order in orders {
        assert_eq!(order["state"], "complete", "{order:#}");
        let (first, count) = (order["first"].as_u64().unwrap(), order["count"].as_u64().unwrap());
        for seq in first..first + count {
            assert!(covered.insert(seq), "reading {seq} was bought twice: {orders:#?}");
        }
        price += order["price_sat"].as_i64().unwrap();
    }
    assert_eq!(covered.len() as u64, rows);
    let history = buyer.run("wallet history --json").ends_with(0).json();
    let lines = history["history"].as_array().unwrap();
    let fees: i64 = lines.iter().filter_map(|line| line["fee_sat"].as_i64()).sum();
    assert_eq!(buyer.number("wallet balance --json", "/total_sat"), 1_000_000 - price - fees, "{lines:#?}");
    assert_eq!(seller.number("status --json", "/sales/sat"), price);
    assert_eq!(seller.number("status --json", "/sales/count"), orders.len() as i64);
    buyer.run("wallet audit --on-chain").ends_with(0);
    seller.run("wallet audit --on-chain").ends_with(0);
}

fn assert_same_rows(world: &World, out: &str, recording: &std::path::Path) {
    let rows = fs::read_to_string(world.path(out)).unwrap();
    let source = fs::read_to_string(recording).unwrap();
    let sent: Vec<String> =
        source.lines().skip(1).enumerate().map(|(seq, line)| format!("{seq},{line}")).collect();
    assert_eq!(rows.lines().skip(1).collect::<Vec<_>>(), sent);
}

#[test]
fn a_buyer_killed_at_any_moment_pays_once() {
    const ROWS: u64 = 6000;
    let world = World::new();
    let recording = world.recording("machine.csv", 6000);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let agent = seller.sell(&recording, ROWS);
    let peer = peer_of(&buyer);
    let line = format!("buy machine --seller {peer} --seq 0..{ROWS} --out all.csv --json");
    // From before the order to behind its end, on fast machines (where all of it takes a third of a second) and slow ones.
    for pause in [60, 100, 130, 160, 190, 220, 260, 300, 400, 600, 900] {
        let buying = buyer.spawn(&line);
        sleep(Duration::from_millis(pause));
        buying.kill();
    }
    let bought = buyer.run(&line).ends_with(0).json();
    assert_eq!(bought["count"], ROWS, "{bought:#}");
    assert_same_rows(&world, "all.csv", &recording);
    assert_eq!(agent.interrupt(), 0);
    assert_charged_once(&buyer, &seller, ROWS);
}

#[test]
fn a_seller_killed_at_any_moment_charges_once_and_forgets_nothing() {
    const ROWS: u64 = 6000;
    let world = World::new();
    let recording = world.recording("machine.csv", 6000);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let mut agent = seller.sell(&recording, ROWS);
    let peer = peer_of(&buyer);
    for (round, pause) in [(0, 600), (1, 900), (2, 1200)] {
        let (first, end) = (round * 2000, round * 2000 + 2000);
        let buying = buyer.spawn(&format!("buy machine --seller {peer} --seq {first}..{end} --json"));
        sleep(Duration::from_millis(pause));
        agent.kill();
        agent = seller.sell(&recording, ROWS);
        let ran = buying.finish();
        // It went on by itself, or it says that the order is kept.
        assert!([0, 3, 9].contains(&ran.code), "{ran:#?}");
    }
    buyer.run("orders --resume --json").ends_with(0);
    let line = format!("buy machine --seller {peer} --seq 0..{ROWS} --out all.csv --json");
    buyer.run(&line).ends_with(0);
    assert_same_rows(&world, "all.csv", &recording);
    assert_eq!(agent.interrupt(), 0);
    assert_charged_once(&buyer, &seller, ROWS);
}

#[test]
fn both_sides_killed_ten_times_on_a_real_node_agree_with_it() {
    const ROWS: u64 = 6000;
    const ROUNDS: u64 = 10;
    let Some(node) = RealNode::start() else { return };
    let world = World::on_node(&node);
    let recording = world.recording("machine.csv", 6000);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let mut agent = seller.sell(&recording, ROWS);
    let peer = peer_of(&buyer);
    for round in 0..ROUNDS {
        let (first, end) = (round * ROWS / ROUNDS, (round + 1) * ROWS / ROUNDS);
        let buying = buyer.spawn(&format!("buy machine --seller {peer} --seq {first}..{end} --json"));
        // From before the order to behind the delivery, in an order without a pattern.
        sleep(Duration::from_millis(40 + (round * 7 + 3) % ROUNDS * 70));
        // In turn the buyer, the seller, and both.
        if round % 3 != 1 {
            buying.kill();
        } else {
            agent.kill();
            agent = seller.sell(&recording, ROWS);
            let ran = buying.finish();
            assert!([0, 3, 9].contains(&ran.code), "{ran:#?}");
            continue;
        }
        if round % 3 == 2 {
            agent.kill();
            agent = seller.sell(&recording, ROWS);
        }
    }
    buyer.run("orders --resume --json").ends_with(0);
    let line = format!("buy machine --seller {peer} --seq 0..{ROWS} --out all.csv --json");
    buyer.run(&line).ends_with(0);
    assert_same_rows(&world, "all.csv", &recording);
    assert_eq!(agent.interrupt(), 0);
    assert_charged_once(&buyer, &seller, ROWS);
}

fn peer_of(buyer: &Home<'_>) -> String {
    let found: Value = buyer.run("search --json").ends_with(0).json();
    found["streams"][0]["seller"].as_str().unwrap().to_owned()
}
