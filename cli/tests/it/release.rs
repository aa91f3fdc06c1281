//! Key release with real processes: batches come encrypted, and a coin shows their key.

use std::time::{Duration, Instant};

use sensora_chain::Network;
use sensora_node::keystore;
use sensora_node::store::{Store, release};
use sensora_protocol::OrderId;
use sensora_protocol::market::key_release::buy::{BatchPurchase, BatchPurchaseState};
use sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof;
use sensora_protocol::market::key_release::parts::Arrivals;
use serde_json::Value;

use crate::support::{Home, Running, World, run};

/// At a tenth of a satoshi each: the least that a batch is sold for.
const ROWS: u32 = 10_000;

/// Sells a recording; keys are shown when there are so many blocks on a coin.
fn market(world: &World, confirmations: u32) -> (Home<'_>, Home<'_>, Running) {
    let recording = world.recording("machine.csv", ROWS);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let config = seller.path.join("config.toml");
    let (key, value) = ("#confirmations = 7", format!("confirmations = {confirmations}"));
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(key));
    std::fs::write(&config, text.replace(key, &value)).unwrap();
    let agent = seller.sell(&recording, u64::from(ROWS));
    (seller, buyer, agent)
}

fn order_of(home: &Home<'_>) -> Value {
    home.run("orders --json").ends_with(0).json()["orders"][0].clone()
}

#[test]
fn a_batch_is_bought_with_its_key_and_proven_and_the_books_of_both_say_so() {
    let world = World::new();
    let (seller, buyer, agent) = market(&world, 1);
    let modes = buyer.run("show machine --json").ends_with(0).json()["modes"].clone();
    assert!(modes.as_array().unwrap().iter().any(|mode| mode == "key-release"), "{modes}");
    let line = "buy machine --seq 0..10000 --mode key-release --wait 60 --out all.csv --evidence all.json --wait-anchor 30 --json";
    let bought = buyer.run(line).ends_with(0).json();
    assert_eq!(bought.pointer("/payment/mode"), Some(&"key-release".into()), "{bought:#}");
    assert_eq!(
        (bought["count"].as_u64(), bought["paid_sat"].as_u64(), bought["anchored"].as_bool()),
        (Some(10_000), Some(1000), Some(true)),
        "{bought:#}"
    );
    let (rows, sent) = (world.path("all.csv"), world.path("machine.csv"));
    let (rows, sent) = (std::fs::read_to_string(rows).unwrap(), std::fs::read_to_string(sent).unwrap());
    assert_eq!(rows.lines().count(), sent.lines().count());
    for (row, (got, sent)) in rows.lines().zip(sent.lines()).enumerate().skip(1) {
        assert_eq!(got, format!("{},{sent}", row - 1));
    }
    let again = buyer.run("buy machine --seq 0..10000 --mode key-release --json").ends_with(0).json();
    assert_eq!((again["paid_sat"].as_u64(), again["kept"].as_u64()), (Some(0), Some(10_000)));

    buyer.run("export --headers --out headers.bin").ends_with(0);
    let (evidence, headers) = (world.path("all.json"), world.path("headers.bin"));
    let check =
        format!("--home /nonexistent verify {} --headers {} --json", evidence.display(), headers.display());
    assert_eq!(run(&check).ends_with(0).json()["count"], 10_000);

    let order = order_of(&buyer);
    assert_eq!((&order["mode"], &order["state"]), (&"key-release".into(), &"complete".into()), "{order:#}");
    assert_eq!((order["paid_sat"].as_u64(), order["received"].as_u64()), (Some(1000), Some(10_000)));
    assert!(order["txid"].is_string() && order["why"].is_null(), "{order:#}");
    let id = order["order"].as_str().unwrap();
    let error = buyer.run(&format!("orders {id} --misbehaviour proof.json --json")).ends_with(3).error();
    assert!(error["message"].as_str().unwrap().contains("no proof"), "{error:#}");

    let deadline = Instant::now() + Duration::from_secs(30);
    let earned = loop {
        let earned = seller.run("earnings --json").ends_with(0).json()["orders"][0].clone();
        if earned["paid_sat"] == 1000 || Instant::now() > deadline {
            break earned;
        }
        std::thread::sleep(Duration::from_millis(300));
    };
    assert_eq!(
        (&earned["mode"], earned["paid_sat"].as_u64()),
        (&"key-release".into(), Some(1000)),
        "{earned:#}"
    );
    assert!(earned["order"] == order["order"] && earned["txid"].is_string(), "{earned:#}");
    let history = buyer.run("wallet history --json").ends_with(0).json();
    let lines = history["history"].as_array().unwrap();
    let fees: i64 = lines.iter().filter_map(|line| line["fee_sat"].as_i64()).sum();
    assert_eq!(1_000_000 - buyer.number("wallet balance --json", "/total_sat"), 1000 + fees);
    buyer.run("wallet audit").ends_with(0);
    assert_eq!(agent.interrupt(), 0);
    seller.run("wallet audit").ends_with(0);
}

#[test]
fn a_coin_that_waits_for_its_key_is_told_and_gone_on_with() {
    let world = World::new();
    let (_seller, buyer, agent) = market(&world, 50);
    let waiting = buyer.run("buy machine --seq 0..10000 --mode key-release --wait 1 --json").ends_with(12);
    let waiting = waiting.json();
    assert_eq!((&waiting["waiting"], &waiting["state"]), (&true.into(), &"waiting".into()), "{waiting:#}");
    let order = order_of(&buyer);
    assert_eq!(order["order"], waiting["order"]);
    assert_eq!(
        (order["state"].as_str(), order["paid_sat"].as_u64()),
        (Some("waiting"), Some(0)),
        "{order:#}"
    );
    let id = order["order"].as_str().unwrap();
    // Neither another way of paying nor giving up makes two orders of it, or none.
    for line in [
        "orders --resume --wait 1 --json",
        "buy machine --seq 0..100 --mode direct --json",
        &format!("orders {id} --give-up --json"),
    ] {
        assert_eq!(buyer.run(line).ends_with(12).error()["code"], "waiting", "{line}");
    }
    world.mine(50);
    let resumed = buyer.run("orders --resume --wait 60 --json").ends_with(0).json();
    let order = &resumed["orders"][0];
    assert_eq!((&order["order"], &order["state"]), (&waiting["order"], &"complete".into()), "{resumed:#}");
    assert_eq!(buyer.run("orders --json").ends_with(0).json()["orders"].as_array().unwrap().len(), 1);
    assert_eq!(buyer.run("buy machine --seq 0..100 --json").ends_with(0).json()["paid_sat"], 0);
    assert_eq!(agent.interrupt(), 0);
}

#[test]
fn the_proof_against_a_cheat_is_handed_out_for_anybody_to_check() {
    let world = World::new();
    let buyer = world.home("buyer");
    let proof = MisbehaviourProof::from_bytes(&crate::verify::golden()).unwrap();
    assert_eq!(proof.network, Network::Regtest);
    let key = keystore::inspect(&buyer.path.join("key")).unwrap().public_key;
    let purchase = BatchPurchase {
        id: OrderId([7; 32]),
        seller: proof.seller,
        offer: proof.offer.clone(),
        order: proof.offer.clone(),
        arrivals: Arrivals::default(),
        coin: None,
        taken: false,
        key: None,
        receipt: None,
        credited: None,
        agreed_ms: 0,
        state: BatchPurchaseState::Cheated { proof: Box::new(proof.clone()) },
    };
    let store = Store::open(&buyer.path.join("store.redb"), Network::Regtest, &key).unwrap();
    store.write(|tx| release::put_purchase(tx, &purchase, false)).unwrap();
    drop(store);
    let order = order_of(&buyer);
    assert_eq!((order["state"].as_str(), order["mode"].as_str()), (Some("cheated"), Some("key-release")));
    let id = order["order"].as_str().unwrap();
    buyer.run(&format!("orders {id} --misbehaviour proof.json --json")).ends_with(0);
    let path = world.path("proof.json");
    let shown = run(&format!("verify --misbehaviour {} --json", path.display())).ends_with(0).json();
    assert_eq!(shown["seller"], proof.verify().unwrap().seller);
}
