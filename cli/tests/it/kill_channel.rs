//! `kill -9` in the middle of what is paid through a channel: nothing is paid twice, no reading is lost, and the books of both sides hold.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Home, Ran, Running, World};

/// Readings of the recording; ten cost a satoshi.
const ROWS: u64 = 6000;
const PRICE: i64 = 600;
/// What is put into the channel.
const VALUE: i64 = 20_000;

/// A seller of a recording, and a buyer with a channel to it.
struct Market<'a> {
    world: &'a World,
    seller: Home<'a>,
    buyer: Home<'a>,
    recording: std::path::PathBuf,
    peer: String,
    agent: Option<Running>,
}

impl<'a> Market<'a> {
    fn new(world: &'a World) -> Self {
        let recording = world.recording("machine.csv", u32::try_from(ROWS).unwrap());
        let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
        let agent = Some(seller.sell(&recording, ROWS));
        let found = buyer.run("search --json").ends_with(0).json();
        let peer = found["streams"][0]["seller"].as_str().unwrap().to_owned();
        let line = format!("channels open machine --seller {peer} --value {VALUE} --blocks 900 --json");
        let opened = buyer.run(&line).ends_with(0).json();
        assert_eq!(opened["state"], "open", "{opened:#}");
        Self { world, seller, buyer, recording, peer, agent }
    }

    fn kill_agent(&mut self) {
        self.agent.take().unwrap().kill();
        self.agent = Some(self.seller.sell(&self.recording, ROWS));
    }

    fn line(&self, first: u64, end: u64) -> String {
        let peer = &self.peer;
        // A small exposure makes many vouchers.
        format!("buy machine --seller {peer} --seq {first}..{end} --mode channel --exposure 20 --json")
    }

    /// What was bought is what was recorded, each reading once.
    fn assert_nothing_lost(&self) {
        self.buyer.run("export machine --out all.csv").ends_with(0);
        let rows = fs::read_to_string(self.world.path("all.csv")).unwrap();
        assert_eq!(rows.lines().skip(1).collect::<Vec<_>>(), sent(&self.recording));
    }

    fn channel(home: &Home<'_>) -> Value {
        let listed = home.run("channels list --json").ends_with(0).json();
        let [channel] = listed["channels"].as_array().unwrap().as_slice() else { panic!("{listed:#}") };
        channel.clone()
    }

    /// Closes the channel, and asserts that `paid` of it is the seller's, the rest the buyer's but for the close's fee, and that every wallet agrees with
    /// itself and the chain.
    fn assert_books(mut self, paid: i64) {
        let before = Self::channel(&self.buyer);
        assert_eq!(
            (before["paid_sat"].as_i64(), before["reserved_sat"].as_i64()),
            (Some(paid), Some(0)),
            "{before:#}"
        );
        let id = before["channel"].as_str().unwrap().to_owned();
        self.buyer.run(&format!("channels close {id} --json")).ends_with(0);
        for round in 0.. {
            self.world.mine(1);
            // Whatever runs a node looks after the channels.
            self.buyer.run("orders --resume --json").ends_with(0);
            if Self::channel(&self.buyer)["state"] == "closed" {
                break;
            }
            assert!(round < 40, "the close is never seen: {:#}", Self::channel(&self.buyer));
        }
        // The seller sees it too, sooner or later; while it runs its home is its own.
        for round in 0.. {
            self.world.mine(1);
            sleep(Duration::from_secs(1));
            assert_eq!(self.agent.take().unwrap().interrupt(), 0);
            if Self::channel(&self.seller)["state"] == "closed" {
                break;
            }
            assert!(round < 40, "the seller never sees it: {:#}", Self::channel(&self.seller));
            self.agent = Some(self.seller.sell(&self.recording, ROWS));
        }
        let (bought, sold) = (Self::channel(&self.buyer), Self::channel(&self.seller));
        assert_eq!(bought["paid_sat"].as_i64(), Some(paid), "by the chain: {bought:#}");
        assert_eq!(
            (sold["paid_sat"].as_i64(), sold["state"].as_str()),
            (Some(paid), Some("closed")),
            "{sold:#}"
        );
        let (earned, _) = brought(&self.seller);
        assert_eq!(earned, paid, "what the seller's wallet got");
        let (back, fees) = brought(&self.buyer);
        let close_fee = VALUE - paid - back;
        assert!((20..=100).contains(&close_fee), "{close_fee}");
        let total = self.buyer.number("wallet balance --json", "/total_sat");
        assert_eq!(total, 1_000_000 - paid - fees - close_fee, "what the buyer has left");
        self.buyer.run("wallet audit --on-chain").ends_with(0);
        self.seller.run("wallet audit --on-chain").ends_with(0);
    }
}

fn sent(recording: &Path) -> Vec<String> {
    let source = fs::read_to_string(recording).unwrap();
    source.lines().skip(1).enumerate().map(|(seq, line)| format!("{seq},{line}")).collect()
}

/// What channels brought into a wallet, and all fees it paid.
fn brought(home: &Home<'_>) -> (i64, i64) {
    let history = home.run("wallet history --json").ends_with(0).json();
    let lines = history["history"].as_array().unwrap();
    let fees = lines.iter().filter_map(|line| line["fee_sat"].as_i64()).sum();
    let ours =
        lines.iter().filter(|line| line["label"].as_str().is_some_and(|label| label.starts_with("channel ")));
    (ours.filter_map(|line| line["delta_sat"].as_i64()).filter(|delta| *delta > 0).sum(), fees)
}

#[test]
fn a_buyer_killed_at_any_moment_of_a_channel_purchase_pays_once() {
    let world = World::new();
    let market = Market::new(&world);
    let line = market.line(0, ROWS);
    for pause in [60, 120, 180, 240, 300, 360, 450, 600, 900, 1300] {
        let buying = market.buyer.spawn(&line);
        sleep(Duration::from_millis(pause));
        buying.kill();
    }
    let bought = market.buyer.run(&line).ends_with(0).json();
    assert_eq!(bought["count"], ROWS, "{bought:#}");
    market.assert_nothing_lost();
    market.assert_books(PRICE);
}

#[test]
fn a_seller_killed_at_any_moment_of_a_channel_purchase_is_paid_once() {
    let world = World::new();
    let mut market = Market::new(&world);
    let part = ROWS / 4;
    for (round, pause) in [300, 600, 900, 1200].into_iter().enumerate() {
        let first = round as u64 * part;
        let buying = market.buyer.spawn(&market.line(first, first + part));
        sleep(Duration::from_millis(pause));
        market.kill_agent();
        let ran = buying.finish();
        // It went on by itself, or it says that the order is kept.
        assert!([0, 3, 9].contains(&ran.code), "{ran:#?}");
    }
    market.buyer.run("orders --resume --json").ends_with(0);
    market.buyer.run(&market.line(0, ROWS)).ends_with(0);
    market.assert_nothing_lost();
    market.assert_books(PRICE);
}

/// What a subscription has shown.
fn seqs(ran: &Ran) -> Vec<u64> {
    let events = ran.events();
    let readings = events.iter().filter(|event| event["event"] == "readings");
    readings
        .flat_map(|event| event["readings"].as_array().cloned().unwrap_or_default())
        .map(|reading| reading["seq"].as_u64().unwrap())
        .collect()
}

fn subscribe(market: &Market<'_>) -> String {
    let peer = &market.peer;
    format!("subscribe machine --seller {peer} --from 0 --count {ROWS} --budget {PRICE} --exposure 20 --json")
}

#[test]
fn a_subscriber_killed_at_any_moment_pays_once_and_misses_nothing() {
    let world = World::new();
    let market = Market::new(&world);
    let line = subscribe(&market);
    // Whoever subscribes again when all is here waits for what is measured next.
    let is_here = || {
        let channel = Market::channel(&market.buyer);
        (channel["paid_sat"].as_i64(), channel["reserved_sat"].as_i64()) == (Some(PRICE), Some(0))
    };
    for pause in [60, 120, 180, 240, 300, 360, 450, 600, 900, 1300] {
        let buying = market.buyer.spawn(&line);
        sleep(Duration::from_millis(pause));
        buying.kill();
        if is_here() {
            break;
        }
    }
    if !is_here() {
        let ran = market.buyer.run(&line).ends_with(0);
        let shown = seqs(&ran);
        // What came to the disk and was not shown is shown again, with all the rest.
        assert_eq!(shown, (0..ROWS).collect::<Vec<_>>(), "from --from on, in order and without holes");
    }
    market.assert_nothing_lost();
    market.assert_books(PRICE);
}

#[test]
fn a_subscription_whose_seller_is_killed_goes_on_by_itself_and_misses_nothing() {
    let world = World::new();
    let mut market = Market::new(&world);
    let line = subscribe(&market);
    let buying = market.buyer.spawn(&line);
    // A command whose seller is gone before there is an order finds nobody, and says so.
    for round in 0.. {
        let earnings = market.seller.run("earnings --json").ends_with(0).json();
        if earnings["orders"].as_array().is_some_and(|orders| !orders.is_empty()) {
            break;
        }
        assert!(round < 600, "there is no order: {earnings:#}");
        sleep(Duration::from_millis(50));
    }
    for pause in [400, 700, 500] {
        sleep(Duration::from_millis(pause));
        market.kill_agent();
    }
    let ran = buying.finish().ends_with(0);
    let shown = seqs(&ran);
    assert_eq!(shown, (0..ROWS).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(shown.iter().collect::<BTreeSet<_>>().len() as u64, ROWS);
    market.assert_nothing_lost();
    market.assert_books(PRICE);
}

/// One home, one process: whoever comes second is told who has it, and changes nothing.
#[test]
fn a_home_that_sells_or_subscribes_is_not_used_by_a_second_process() {
    let world = World::new();
    let mut market = Market::new(&world);
    let peer = market.peer.clone();
    let subscribe = format!("subscribe machine --seller {peer} --from 0 --count 10 --json");
    for line in [
        subscribe.as_str(),
        &format!("buy machine --seller {peer} --seq 0..10 --mode channel --json"),
        &format!("channels open machine --seller {peer} --json"),
        "agent --sim --json",
        "wallet balance --json",
    ] {
        let error = market.seller.run(line).ends_with(8).error();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("in use by process"), "{line}: {message}");
    }
    // The other way round: an agent beside a subscription that waits for the next reading.
    let mut subscription =
        market.buyer.spawn(&format!("subscribe machine --seller {peer} --from 5990 --budget 100 --json"));
    subscription.wait_for(|event| event["event"] == "readings");
    for line in ["agent --sim --json", "wallet balance --json"] {
        let error = market.buyer.run(line).ends_with(8).error();
        assert!(error["message"].as_str().unwrap().contains("in use by process"), "{line}: {error:#}");
    }
    assert_eq!(subscription.interrupt(), 0, "it ends with a receipt");
    market.buyer.run("wallet balance --json").ends_with(0);
    assert_eq!(market.agent.take().unwrap().interrupt(), 0);
}
