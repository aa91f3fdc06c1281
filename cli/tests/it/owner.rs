//! What a seller's owner ends before its buyers do: an order, a channel; with real processes.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::support::{Home, Running, World};

/// Rows of the recording.
const ROWS: u32 = 1200;
/// Ten readings a satoshi; the stream stands at its end, so what is behind this comes at once and nothing after it.
const LIVE: &str = "subscribe machine --from 1000 --budget 500 --json";

/// An agent that sells, and a buyer with money.
fn market(world: &World) -> (Home<'_>, Home<'_>, Running) {
    let recording = world.recording("machine.csv", ROWS);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let agent = seller.sell(&recording, u64::from(ROWS));
    (seller, buyer, agent)
}

fn readings(live: &mut Running) {
    live.wait_for(|event| event["event"] == "readings");
}

/// The newest order that the seller's books have.
fn sold(seller: &Home<'_>) -> String {
    let earned = seller.run("earnings --json").ends_with(0).json();
    earned["orders"].as_array().unwrap().last().unwrap()["order"].as_str().unwrap().to_owned()
}

fn channel(home: &Home<'_>) -> Value {
    home.run("channels --json").ends_with(0).json()["channels"][0].clone()
}

/// Mines until the channel is over for both.
fn closed(world: &World, homes: [&Home<'_>; 2]) {
    for home in homes {
        for _ in 0..60 {
            if channel(home)["state"] == "closed" {
                break;
            }
            world.mine(1);
            // What runs on the home looks by itself, else this does.
            home.run("wallet balance --refresh --json");
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
        assert_eq!(channel(home)["state"], "closed", "{:#}", channel(home));
    }
}

#[test]
fn a_frozen_seller_ends_an_order_and_closes_its_channel_and_is_paid() {
    let world = World::new();
    let (seller, buyer, agent) = market(&world);
    seller.run("wallet freeze --json").ends_with(0);
    let before = seller.run("wallet balance --json");
    assert_ne!(before.code, 0, "the agent has the home");

    let mut live = buyer.spawn(LIVE);
    readings(&mut live);
    let order = sold(&seller);
    let ended = seller.run(&format!("orders {} --end --json", &order[..10])).ends_with(0).json();
    assert_eq!(
        (ended["order"].as_str(), ended["state"].as_str()),
        (Some(&*order), Some("ended")),
        "{ended:#}"
    );
    assert!(ended["receipted"].is_string() && ended["open_sat"] == 0, "{ended:#}");
    // Its buyer has the receipt, over the same, and pays no more.
    let told = live.wait_for(|event| event["event"] == "ended");
    assert_eq!((&told["order"], &told["paid_sat"]), (&ended["order"], &ended["paid_sat"]), "{told:#}");
    assert_eq!(live.finish().code, 0);
    let made = buyer.run("orders --json").ends_with(0).json()["orders"][0].clone();
    assert_eq!((&made["state"], &made["paid_sat"]), (&"ended".into(), &ended["paid_sat"]), "{made:#}");
    let again = seller.run(&format!("orders {order} --end --json")).ends_with(1).error();
    assert!(again["message"].as_str().unwrap().contains("has ended already"), "{again:#}");

    // The channel goes on: another order runs on it, and ends before it is closed.
    let mut live = buyer.spawn(LIVE);
    readings(&mut live);
    let id = channel(&seller)["channel"].as_str().unwrap().to_owned();
    let closing = seller.run(&format!("channels close {} --json", &id[..10])).ends_with(0).json();
    assert_eq!(
        (closing["channel"].as_str(), &closing["role"]),
        (Some(&*id), &"seller".into()),
        "{closing:#}"
    );
    assert!(["closing", "closed"].contains(&closing["state"].as_str().unwrap()), "{closing:#}");
    live.wait_for(|event| event["event"] == "ended");
    assert_eq!(live.finish().code, 0);
    closed(&world, [&seller, &buyer]);
    let paid = channel(&seller)["paid_sat"].as_i64().unwrap();
    let over = seller.run(&format!("channels close {id} --json")).ends_with(1).error();
    assert!(over["message"].as_str().unwrap().contains("closed already"), "{over:#}");
    assert_eq!(agent.interrupt(), 0);
    // What the vouchers promised is in the wallet, though no money may leave it.
    assert_eq!(seller.run("status --json").ends_with(0).json()["frozen"], true);
    let history = seller.run("wallet history --json").ends_with(0).json();
    let label = format!("channel {id}");
    let credited = history["history"].as_array().unwrap().iter().find(|line| line["label"] == *label);
    assert_eq!(credited.map(|line| line["delta_sat"].as_i64()), Some(Some(paid)), "{history:#}");
    seller.run("wallet audit").ends_with(0);
    buyer.run("wallet audit").ends_with(0);
}

#[test]
fn an_order_of_single_readings_is_ended_as_one_of_a_stream() {
    let world = World::new();
    let (seller, buyer, agent) = market(&world);
    let mut reads = buyer.spawn("read machine --latest --every 1s --count 1000 --budget 100 --json");
    reads.wait_for(|event| event["event"] == "unchanged");
    let order = sold(&seller);
    let ended = seller.run(&format!("orders {order} --end --json")).ends_with(0).json();
    assert_eq!((&ended["single"], &ended["state"]), (&true.into(), &"ended".into()), "{ended:#}");
    assert_eq!((&ended["count"], &ended["paid_sat"]), (&1.into(), &1.into()), "{ended:#}");
    reads.kill();
    // The newest reading is here: of an order that brings nothing nothing is kept, and it has ended all the same.
    let mut reads = buyer.spawn("read machine --latest --every 1s --count 1000 --budget 100 --json");
    reads.wait_for(|event| event["event"] == "unchanged");
    let order = sold(&seller);
    assert_ne!(Some(&*order), ended["order"].as_str());
    let nothing = seller.run(&format!("orders {order} --end --json")).ends_with(0).json();
    assert_eq!((&nothing["state"], &nothing["count"]), (&"ended".into(), &0.into()), "{nothing:#}");
    assert_eq!((&nothing["paid_sat"], &nothing["receipted"]), (&0.into(), &Value::Null), "{nothing:#}");
    reads.kill();
    assert_eq!(agent.interrupt(), 0);
}

#[test]
fn an_order_whose_buyer_is_away_ends_when_it_comes_back_also_after_a_restart() {
    let world = World::new();
    let (seller, buyer, agent) = market(&world);
    let mut live = buyer.spawn(LIVE);
    readings(&mut live);
    live.kill();
    let order = sold(&seller);
    let ending = seller.run(&format!("orders {order} --end --json")).ends_with(12).json();
    assert_eq!(
        (ending["state"].as_str(), &ending["receipted"]),
        (Some("ending"), &Value::Null),
        "{ending:#}"
    );
    agent.kill();

    let agent = seller.sell(&world.path("machine.csv"), u64::from(ROWS));
    let mut live = buyer.spawn(LIVE);
    let told = live.wait_for(|event| event["event"] == "ended");
    assert_eq!(told["order"].as_str(), Some(&*order), "{told:#}");
    assert_eq!(live.finish().code, 0);
    let earned = seller.run("earnings --json").ends_with(0).json()["orders"][0].clone();
    assert_eq!((&earned["state"], &earned["paid_sat"]), (&"ended".into(), &told["paid_sat"]), "{earned:#}");

    // With no agent the command closes the channel itself.
    assert_eq!(agent.interrupt(), 0);
    let id = channel(&seller)["channel"].as_str().unwrap().to_owned();
    let closing = seller.run(&format!("channels close {id} --json")).ends_with(0).json();
    assert_eq!(closing["state"], "closing", "{closing:#}");
    let agent = seller.sell(&world.path("machine.csv"), u64::from(ROWS));
    closed(&world, [&seller, &buyer]);
    assert_eq!(agent.interrupt(), 0);
    seller.run("wallet audit").ends_with(0);
}

#[test]
fn what_cannot_be_ended_says_why() {
    let world = World::new();
    let (seller, buyer, agent) = market(&world);
    let bought = buyer.run("buy machine --seq 0..10 --mode direct --json").ends_with(0).json();
    let order = bought.pointer("/orders/0/order").and_then(Value::as_str).unwrap().to_owned();
    let cases = [
        (&seller, format!("orders {order} --end --json"), 2, "not paid through a channel", "as a whole"),
        (&buyer, format!("orders {order} --end --json"), 2, "made by this home", "--give-up"),
        (&seller, "orders abcd --end --json".to_owned(), 3, "`abcd`", "sensora earnings"),
        (&seller, "orders no-id --end --json".to_owned(), 3, "`no-id`", "sensora earnings"),
        (&seller, "channels close abcd --json".to_owned(), 3, "`abcd`", "sensora channels"),
        (&buyer, "channels close no-id --json".to_owned(), 3, "`no-id`", "sensora channels"),
        (&seller, format!("channels close {} --json", "a".repeat(500)), 3, "aaa", "sensora channels"),
    ];
    for (home, line, code, message, hint) in cases {
        let error = home.run(&line).ends_with(code).error();
        assert!(error["message"].as_str().unwrap().contains(message), "{line}: {error:#}");
        assert!(error["hint"].as_str().unwrap().contains(hint), "{line}: {error:#}");
    }
    seller.run("orders --end --json").ends_with(2);
    assert_eq!(agent.interrupt(), 0);
}

#[test]
fn the_socket_of_an_agent_is_its_owners_and_reads_no_more_than_a_line() {
    let world = World::new();
    let (seller, _buyer, agent) = market(&world);
    let socket = seller.path.join("control.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let asked = |line: &[u8]| -> Value {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(line).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    };
    // The last never ends its line.
    for line in
        [&b"nonsense\n"[..], b"\n", b"close-channel\n", b"end-order not-hex\n", b"\xff\xfe\n", &[b'a'; 96]]
    {
        let answer = asked(line);
        assert_eq!(answer.pointer("/error/code"), Some(&"usage".into()), "{line:?}: {answer:#}");
    }
    let unknown = asked(b"close-channel abcd\n");
    assert_eq!(unknown.pointer("/error/code"), Some(&"not_found".into()), "{unknown:#}");
    assert!(asked(b"earnings\n")["ok"].is_array());
    assert_eq!(agent.interrupt(), 0);
}
