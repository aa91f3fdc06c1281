//! Paying as it comes, with real processes: channels, live streams, budgets and the kill switch, as a person meets them.

use std::cell::RefCell;

use serde_json::Value;

use crate::support::{Home, World};

/// Sells a recording of so many rows.
fn market<'a>(world: &'a World, rows: u32) -> (Home<'a>, Home<'a>, crate::support::Running) {
    let recording = world.recording("machine.csv", rows);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let agent = seller.sell(&recording, u64::from(rows));
    (seller, buyer, agent)
}

#[test]
fn a_channel_is_opened_used_by_several_orders_and_closed_to_the_satoshi() {
    let world = World::new();
    let (seller, buyer, mut agent) = market(&world, 2000);
    let bought = buyer.run("buy machine --seq 0..500 --mode channel --json").ends_with(0).json();
    assert_eq!(bought.pointer("/payment/mode"), Some(&"channel".into()), "{bought:#}");
    assert_eq!(bought["paid_sat"], 50);

    // With a channel open there is nothing cheaper, and nothing is asked for twice.
    let quote = buyer.run("buy machine --seq 400..600 --dry-run --json").ends_with(0).json();
    assert_eq!(quote.pointer("/payment/mode"), Some(&"channel".into()), "{quote:#}");
    assert_eq!((quote["missing"].as_u64(), quote["missing_sat"].as_u64()), (Some(100), Some(10)));
    let events =
        buyer.run("subscribe machine --from 500 --count 300 --budget 100 --json").ends_with(0).events();
    let ended = events.last().unwrap();
    assert_eq!((&ended["event"], ended["first"].as_u64()), (&"ended".into(), Some(500)), "{ended:#}");
    assert!(ended["count"].as_u64().unwrap() >= 300, "{ended:#}");
    let seqs: Vec<u64> = events
        .iter()
        .filter_map(|event| event["readings"].as_array())
        .flatten()
        .map(|reading| reading["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, (500..500 + ended["count"].as_u64().unwrap()).collect::<Vec<_>>());

    let sold = agent.wait_for(|event| event["event"] == "sold" && event["order"] == ended["order"]);
    assert_eq!((&sold["count"], &sold["paid_sat"]), (&ended["count"], &ended["paid_sat"]), "{sold:#}");

    // Both sides have the same books, also while the agent runs.
    let orders = buyer.run("orders --json").ends_with(0).json();
    let earned = seller.run("earnings --json").ends_with(0).json();
    let paid = |document: &Value| -> Vec<(String, u64)> {
        let orders = document["orders"].as_array().unwrap().iter();
        orders
            .map(|one| (one["order"].as_str().unwrap().to_owned(), one["paid_sat"].as_u64().unwrap()))
            .collect()
    };
    assert_eq!(paid(&orders), paid(&earned));
    assert_eq!(paid(&orders).len(), 2);
    let sum: u64 = paid(&orders).iter().map(|(_, sat)| sat).sum();
    let channel = buyer.run("channels --json").ends_with(0).json()["channels"][0].clone();
    assert_eq!((channel["state"].as_str(), channel["paid_sat"].as_u64()), (Some("open"), Some(sum)));
    for order in orders["orders"].as_array().unwrap() {
        assert_eq!((order["voucher_sat"].as_u64(), &order["txid"]), (Some(sum), &Value::Null), "{order:#}");
    }
    let theirs = seller.run("channels --json").ends_with(0).json()["channels"][0].clone();
    assert_eq!(theirs["channel"], channel["channel"]);

    let id = channel["channel"].as_str().unwrap();
    buyer.run(&format!("channels close {} --json", &id[..10])).ends_with(0);
    world.mine(2);
    let state = || {
        buyer.run("wallet balance --refresh --json").ends_with(0);
        buyer.run("channels --json").ends_with(0).json()["channels"][0]["state"].as_str().unwrap().to_owned()
    };
    for _ in 0..20 {
        if state() == "closed" {
            break;
        }
    }
    assert_eq!(state(), "closed");
    // What was paid by vouchers came to the chain with the close, in the books of both.
    let orders = buyer.run("orders --json").ends_with(0).json();
    let close = orders["orders"][0]["txid"].as_str().expect("the close");
    assert_eq!(orders["orders"][1]["txid"].as_str(), Some(close));
    let earned = || seller.run("earnings --json").ends_with(0).json()["orders"].clone();
    for _ in 0..40 {
        if earned()[0]["txid"].is_string() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    assert!(earned().as_array().unwrap().iter().all(|order| order["txid"] == close), "{:#}", earned());
    let history = buyer.run("wallet history --json").ends_with(0).json();
    let fees: i64 =
        history["history"].as_array().unwrap().iter().filter_map(|line| line["fee_sat"].as_i64()).sum();
    let spent = 1_000_000 - buyer.number("wallet balance --json", "/total_sat");
    let close_fee = spent - fees - i64::try_from(sum).unwrap();
    assert!((1..500).contains(&close_fee), "{spent} spent, {fees} for funding, {sum} for readings");
    buyer.run("wallet audit").ends_with(0);
    assert_eq!(agent.interrupt(), 0);
    seller.run("wallet audit").ends_with(0);
}

#[test]
fn ctrl_c_ends_a_live_stream_with_its_receipt_and_a_frozen_wallet_pays_nothing() {
    let world = World::new();
    let (_seller, buyer, agent) = market(&world, 1200);
    let mut live = buyer.spawn("subscribe machine --from 1000 --budget 500 --json");
    live.wait_for(|event| event["event"] == "readings");
    assert_eq!(live.interrupt(), 0);
    let order = buyer.run("orders --json").ends_with(0).json()["orders"][0].clone();
    assert_eq!((order["state"].as_str(), order["live"].as_bool()), (Some("ended"), Some(true)), "{order:#}");
    assert_eq!(order["paid_sat"], order["price_sat"]);

    buyer.run("wallet freeze --json").ends_with(0);
    assert_eq!(buyer.run("status --json").ends_with(0).json()["frozen"], true);
    let elsewhere = world.home("elsewhere").run("wallet address").ends_with(0).stdout;
    let send = format!("wallet send {} 1000 --json", elsewhere.trim());
    for line in [
        "buy machine --seq 0..100 --json",
        "buy machine --seq 0..100 --mode direct --json",
        "subscribe machine --from 100 --budget 20 --json",
        "channels open machine --json",
        &send,
    ] {
        let error = buyer.run(line).ends_with(11).error();
        assert_eq!(error["code"], "frozen", "{line}: {error:#}");
    }
    buyer.run("wallet unfreeze --json").ends_with(0);
    buyer.run("buy machine --seq 0..100 --json").ends_with(0);
    assert_eq!(agent.interrupt(), 0);
}

#[test]
fn a_subscription_after_a_kill_shows_what_is_here_again_from_where_it_is_told() {
    let world = World::new();
    let (_seller, buyer, agent) = market(&world, 1200);
    let mut live = buyer.spawn("subscribe machine --from 1000 --budget 500 --json");
    live.wait_for(|event| event["event"] == "readings");
    live.kill();
    let shown = RefCell::new(Vec::new());
    let mut live = buyer.spawn("subscribe machine --from 1000 --budget 500 --json");
    live.wait_for(|event| {
        let readings = event["readings"].as_array().into_iter().flatten();
        shown.borrow_mut().extend(readings.map(|reading| reading["seq"].as_u64().unwrap()));
        shown.borrow().last() == Some(&1199)
    });
    assert_eq!(shown.into_inner(), (1000..1200).collect::<Vec<_>>(), "each once, from --from on");
    assert_eq!(live.interrupt(), 0);
    let orders = buyer.run("orders --json").ends_with(0).json();
    assert_eq!(orders["orders"].as_array().unwrap().len(), 1, "it is one order: {orders:#}");
    assert_eq!(orders["orders"][0]["paid_sat"], orders["orders"][0]["price_sat"]);
    assert_eq!(agent.interrupt(), 0);
}

#[test]
fn a_budget_remembers_what_other_commands_have_spent() {
    let world = World::new();
    let (_seller, buyer, agent) = market(&world, 1200);
    let config = buyer.path.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("#seller_day_sat = 50000", "seller_day_sat = 60");
    std::fs::write(&config, text).unwrap();
    buyer.run("buy machine --seq 0..300 --mode direct --json").ends_with(0);
    let error = buyer.run("buy machine --seq 300..700 --mode direct --json").ends_with(5).error();
    assert!(error["message"].as_str().unwrap().contains("seller_day_sat"), "{error:#}");
    buyer.run("buy machine --seq 300..600 --mode direct --json").ends_with(0);
    let error = buyer.run("buy machine --seq 600..601 --mode direct --json").ends_with(5).error();
    assert!(error["message"].as_str().unwrap().contains("60 sat"), "{error:#}");
    assert_eq!(agent.interrupt(), 0);
}

#[test]
fn wrong_flags_of_channels_and_streams_are_said_before_anything_happens() {
    let world = World::new();
    let home = world.home("buyer");
    home.run("subscribe machine --from yesterday --json").ends_with(2);
    home.run("subscribe machine --rate hour --json").ends_with(2);
    home.run("subscribe machine --count 0 --json").ends_with(2);
    home.run("channels close abcd --json").ends_with(3);
    home.run("buy machine --latest --mode barter --json").ends_with(2);
    assert_eq!(home.run("channels --json").ends_with(0).json()["channels"], Value::Array(Vec::new()));
    assert_eq!(home.run("earnings --json").ends_with(0).json()["paid_sat"], 0);
}
