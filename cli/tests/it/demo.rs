//! `sensora demo --json` prints exactly the document that is promised.

use std::path::Path;

use serde_json::Value;

use crate::real_node::RealNode;
use crate::support::{World, run};

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_demo_sees_everything_it_claims() {
    sees_everything("");
}

#[test]
fn the_demo_sees_the_same_on_a_real_node() {
    let Some(node) = RealNode::start() else { return };
    sees_everything(&format!(" --chain {}", node.chain()));
}

#[test]
fn a_node_that_cannot_be_used_is_said_at_once() {
    let port = crate::real_node::free_port();
    let error =
        run(&format!("demo --json --chain node-rpc=http://u:secret@127.0.0.1:{port}")).ends_with(9).error();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("cannot be reached") && !message.contains("secret"), "{message}");
    let error = run("demo --json --chain arc=https://arc.example.org").ends_with(2).error();
    assert!(error["hint"].as_str().unwrap().contains("node-rpc"), "{error}");
}

fn sees_everything(flags: &str) {
    let world = World::new();
    let recording = world.recording("lathe.csv", 500);
    let keep = world.path("kept");
    let line = format!("demo --json --csv {} --keep {}{flags}", recording.display(), keep.display());
    let ran = run(&line).ends_with(0);
    let document = ran.json();
    assert_eq!(
        keys(&document),
        ["ad", "balance", "charged_once", "network", "orders", "peers", "rejected", "streams"]
    );
    assert_eq!(keys(&document["peers"]), ["agent", "bootstrap", "buyer"]);
    assert_eq!(keys(&document["ad"]), ["found_by", "height", "txid"]);
    assert_eq!(document["ad"]["found_by"], serde_json::json!(["gossip", "dht", "chain"]));
    assert_eq!(document["rejected"], serde_json::json!(["altered", "omitted", "foreign_anchor"]));
    assert_eq!(document["charged_once"], true);
    for stream in document["streams"].as_array().unwrap() {
        assert_eq!(keys(stream), ["id", "name", "readings"]);
    }
    let orders = document["orders"].as_array().unwrap();
    assert_eq!(orders.len(), 3);
    let mut paid = 0;
    for order in orders {
        let fields = [
            "count",
            "evidence",
            "first",
            "height",
            "millis",
            "order",
            "price_sat",
            "stream",
            "txid",
            "verified",
        ];
        assert_eq!(keys(order), fields);
        assert_eq!(order["verified"], true);
        assert!(Path::new(order["evidence"].as_str().unwrap()).exists());
        paid += order["price_sat"].as_i64().unwrap();
    }
    // The newest reading, the next ones as they come, and a whole recording.
    assert_eq!((orders[0]["count"].as_u64(), orders[2]["count"].as_u64()), (Some(1), Some(500)));
    assert!(orders[1]["count"].as_u64() > Some(1), "{orders:#?}");
    let balance = &document["balance"];
    let fields =
        ["agent_after_sat", "agent_before_sat", "buyer_after_sat", "buyer_before_sat", "fees_sat", "ok"];
    assert_eq!(keys(balance), fields);
    let sat = |field: &str| balance[field].as_i64().unwrap();
    let moved =
        sat("buyer_before_sat") + sat("agent_before_sat") - sat("buyer_after_sat") - sat("agent_after_sat");
    assert_eq!(moved, sat("fees_sat"));
    assert!(sat("buyer_before_sat") - sat("buyer_after_sat") > paid);

    // The kept homes are homes like any other.
    let evidence = orders[2]["evidence"].as_str().unwrap();
    let buyer = keep.join("buyer");
    let verified = run(&format!("--home {} verify {evidence} --json", buyer.display())).ends_with(0).json();
    assert_eq!((verified["count"].as_u64(), verified["anchored"].as_bool()), (Some(500), Some(true)));
    run(&format!("--home {} wallet audit", buyer.display())).ends_with(0);
}

#[test]
fn a_recording_that_is_not_there_is_said_at_once() {
    let error = run("demo --json --csv /nonexistent.csv").ends_with(3).error();
    assert_eq!(error["code"], "not_found");
}
