//! Channels on a real node: opened, paid through, closed and taken back, to the satoshi by the node's own unspent outputs.

use sensora_chain::contract::channel::Channel;
use sensora_chain::{FeeRate, OutPoint, Satoshis, Script};
use sensora_node::buyer::{BuyRequest, LiveEvent, SubscribeRequest};
use sensora_node::store::channels;
use sensora_node::supervisor::Node;
use sensora_protocol::ChannelId;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::channel::offer::{ChannelLimits, signing_invoice};
use sensora_protocol::market::channel::seller::SellerChannelState;
use sensora_protocol::market::offer::{BuyerLimits, Range};
use serde_json::json;

use super::stage::{Layout, Stage, settled};
use crate::expiry::subscription;
use crate::world::until;

const VALUE: u64 = 20_000;
/// Blocks until the refund height.
const BLOCKS: u32 = 80;

fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

async fn open(stage: &Stage) -> ChannelId {
    let limits = ChannelLimits { max_value: sat(VALUE), max_blocks: 1_000, max_close_fee: sat(100) };
    let seller = *stage.agent.identity().public();
    stage.buyer.buyer().open_channel(&seller, sat(VALUE), BLOCKS, limits).await.unwrap()
}

/// The channel as the chain knows it.
fn contract(stage: &Stage, id: &ChannelId) -> Channel {
    let record = stage.buyer.store().read(|tx| channels::buyer(tx, id)).unwrap().unwrap();
    record.contract(stage.buyer.identity(), stage.buyer.network()).unwrap().1
}

fn state(stage: &Stage, id: &ChannelId) -> BuyerChannelState {
    stage.buyer.store().read(|tx| channels::buyer(tx, id)).unwrap().unwrap().state
}

/// What the real node has at an output: none where it is spent, or never was.
async fn unspent(stage: &Stage, at: OutPoint) -> Option<Satoshis> {
    let said = stage.real.call("gettxout", json!([at.txid.to_string(), at.vout])).await;
    said["value"].as_f64().map(|value| sat((value * 1e8).round() as u64))
}

fn fees(node: &Node) -> i64 {
    let lines = node.wallet().history().unwrap();
    let stands = lines.iter().filter(|line| line.status.is_settled());
    stands.filter_map(|line| line.fee).map(Satoshis::as_u64).sum::<u64>().cast_signed()
}

fn total(node: &Node) -> i64 {
    node.wallet().balance().unwrap().total.as_u64().cast_signed()
}

fn given(node: &Node) -> i64 {
    settled(node, "faucet").iter().sum()
}

/// What channels brought.
fn by_channels(node: &Node) -> i64 {
    let lines = node.wallet().history().unwrap();
    let ours = lines.iter().filter(|line| line.label.starts_with("channel ") && line.status.is_settled());
    ours.map(|line| line.delta_sat).filter(|delta| *delta > 0).sum()
}

fn small(stage: &Stage, range: Range) -> BuyRequest {
    let request = stage.request(range);
    BuyRequest { limits: BuyerLimits { exposure: sat(20), ..request.limits }, ..request }
}

/// Two transactions on the real node for a range and a live stream, and every satoshi in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_market_through_a_channel_on_a_real_node() {
    const RANGE: u64 = 400;
    const LIVE: u64 = 60;
    let Some(stage) = Stage::new(Layout::Each, true, 1_000).await else { return };
    stage.quiet("the first anchor in a block").await;
    let id = open(&stage).await;
    stage.quiet("the funding in a block").await;
    let channel = contract(&stage, &id);
    assert_eq!(unspent(&stage, channel.outpoint()).await, Some(sat(VALUE)), "the real node holds it");

    let buyer = stage.buyer.buyer();
    let request = small(&stage, Range::Seq { first: 0, count: RANGE });
    let bought = buyer.buy_through_channel(&request, |_| {}).await.unwrap();
    assert_eq!((bought.count, bought.paid), (RANGE, sat(2 * RANGE)));

    let recorded = stage.recorded();
    let wanted = SubscribeRequest { readings: Some(LIVE), ..subscription(&request, recorded, 2 * LIVE, 20) };
    let mut live = buyer.subscribe(&wanted).await.unwrap();
    let mut came = Vec::new();
    let ended = loop {
        if stage.recorded() < recorded + LIVE {
            stage.append(7);
        }
        match live.next().await.unwrap().unwrap() {
            LiveEvent::Readings(batch) => came.extend(batch.readings),
            LiveEvent::Ended(ended) => break ended.unwrap(),
            _ => {}
        }
    };
    let sold = stage.agent.agent().unwrap().recorder();
    let sold = sold.readings(&request.stream, recorded, recorded + LIVE).unwrap();
    assert_eq!(
        (came.len() as u64, &came[..]),
        (LIVE, &sold[..]),
        "each as it was measured, and none left out"
    );
    assert_eq!(ended.value().paid, sat(2 * LIVE));

    let paid = 2 * (RANGE + LIVE);
    let record = buyer.channels().unwrap().remove(0);
    assert_eq!((record.paid, record.reserved), (sat(paid), Satoshis::ZERO));
    buyer.close_channel(&id).await.unwrap();
    until("the close in a block", || async {
        stage.mine(1).await;
        stage.look().await;
        buyer.look_at_channels().await;
        matches!(state(&stage, &id), BuyerChannelState::Ended { .. }).then_some(())
    })
    .await;
    stage.quiet("both parts in the wallets").await;
    let BuyerChannelState::Ended { txid, paid: by_chain, .. } = state(&stage, &id) else { panic!() };
    assert_eq!(by_chain, sat(paid));
    assert_eq!(unspent(&stage, channel.outpoint()).await, None, "spent, for the real node");

    // The close as the real node has it: the seller's output, the buyer's, and the miner's fee.
    let close = stage.real.call("getrawtransaction", json!([txid.to_string(), true])).await;
    let outputs = |hash: &[u8; 20]| -> u64 {
        let script = hex::encode(Script::p2pkh(hash).as_bytes());
        let ours = close["vout"].as_array().unwrap().iter();
        let ours = ours.filter(|output| output["scriptPubKey"]["hex"] == script.as_str());
        ours.map(|output| (output["value"].as_f64().unwrap() * 1e8).round() as u64).sum()
    };
    let terms = *channel.close_terms();
    assert_eq!(outputs(&terms.seller_hash), paid);
    assert_eq!(outputs(&terms.buyer_hash), VALUE - paid - terms.fee.as_u64());

    stage.audit().await;
    let paid = paid.cast_signed();
    let close_fee = terms.fee.as_u64().cast_signed();
    assert_eq!(by_channels(&stage.agent), paid);
    assert_eq!(total(&stage.agent), given(&stage.agent) + paid - fees(&stage.agent));
    assert_eq!(total(&stage.buyer), given(&stage.buyer) - paid - close_fee - fees(&stage.buyer));
    stage.shutdown().await;
}

/// Where the seller is gone: the real node refuses the refund as long as it is early, and takes it from the running buyer when it is time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_is_refused_early_and_mined_late_by_the_running_buyer() {
    let Some(stage) = Stage::new(Layout::Each, true, 200).await else { return };
    stage.quiet("the first anchor in a block").await;
    let id = open(&stage).await;
    stage.quiet("the funding in a block").await;
    let channel = contract(&stage, &id);
    let request = small(&stage, Range::Seq { first: 0, count: 50 });
    let bought = stage.buyer.buyer().buy_through_channel(&request, |_| {}).await.unwrap();
    assert_eq!(bought.paid, sat(100));
    // The seller never closes: it is gone before its time comes.
    stage.agent.shutdown().await;

    let record = stage.buyer.store().read(|tx| channels::buyer(tx, &id)).unwrap().unwrap();
    let seller = record.seller;
    let key = stage.buyer.identity().key().child(&seller, &signing_invoice(&id));
    // The refund as somebody would send it that does not wait: final at once.
    let mut early = channel.refund(&key, FeeRate::DEFAULT).unwrap();
    (early.lock_time, early.inputs[0].sequence) = (0, u32::MAX);
    let height = channel.terms().refund_height.get();
    let send = async |tx: &sensora_chain::Transaction| {
        stage.real.ask("sendrawtransaction", json!([hex::encode(tx.to_bytes())])).await
    };
    let mut refused = 0;
    loop {
        let tip = stage.real.service().tip().await.unwrap().height;
        if tip >= height {
            break;
        }
        assert_eq!(unspent(&stage, channel.outpoint()).await, Some(sat(VALUE)), "at {tip} of {height}");
        let error = send(&early).await.unwrap_err();
        assert!(error.to_string().contains("script"), "at {tip} of {height}: {error}");
        // The real node would keep one that waits for its height apart. The buyer sends none before it is time.
        for pool in ["getrawmempool", "getrawnonfinalmempool"] {
            let waits = stage.real.call(pool, json!([])).await;
            assert!(waits.as_array().is_some_and(Vec::is_empty), "{pool} at {tip} of {height}: {waits}");
        }
        refused += 1;
        let state = state(&stage, &id);
        assert!(matches!(state, BuyerChannelState::Open), "at {tip} of {height}: {}", state.name());
        let step = if tip + 6 < height { 5 } else { 1 };
        stage.mine(step).await;
        drop(stage.buyer.chain().refresh().await);
    }
    assert!(refused > 10, "{refused}");

    // Nobody tells the buyer to do it: it follows the chain by itself.
    let waiting = until("the refund among what waits at the real node", || async {
        let pool = stage.real.call("getrawmempool", json!([])).await;
        pool.as_array().unwrap().first().cloned()
    })
    .await;
    let refund = stage.real.call("getrawtransaction", json!([waiting, true])).await;
    let spends = &refund["vin"][0];
    assert_eq!(spends["txid"], json!(channel.outpoint().txid.to_string()));
    until("the refund in a block", || async {
        stage.mine(1).await;
        drop(stage.buyer.chain().refresh().await);
        matches!(state(&stage, &id), BuyerChannelState::Ended { .. }).then_some(())
    })
    .await;
    let BuyerChannelState::Ended { paid, .. } = state(&stage, &id) else { panic!() };
    assert_eq!(paid, Satoshis::ZERO, "a seller that closes nothing gets nothing");
    assert_eq!(unspent(&stage, channel.outpoint()).await, None);
    let back = sat((refund["vout"][0]["value"].as_f64().unwrap() * 1e8).round() as u64);
    let txid = waiting.as_str().unwrap().parse().unwrap();
    assert_eq!(unspent(&stage, OutPoint { txid, vout: 0 }).await, Some(back));
    assert!(back >= sat(VALUE - 60), "{back}");
    until("it in the wallet", || async {
        drop(stage.buyer.chain().refresh().await);
        (by_channels(&stage.buyer).cast_unsigned() == back.as_u64()).then_some(())
    })
    .await;
    let refund_fee = (VALUE - back.as_u64()).cast_signed();
    assert_eq!(total(&stage.buyer), given(&stage.buyer) - refund_fee - fees(&stage.buyer), "to the satoshi");
    stage.buyer.wallet().audit().unwrap();
    for node in [&stage.buyer, &stage.bootstrap] {
        node.shutdown().await;
    }
}

/// Where the buyer is gone: the seller closes by itself a margin before the refund height, with the highest voucher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_closes_by_itself_before_the_refund_height() {
    let Some(stage) = Stage::new(Layout::Each, true, 200).await else { return };
    stage.quiet("the first anchor in a block").await;
    let id = open(&stage).await;
    stage.quiet("the funding in a block").await;
    let channel = contract(&stage, &id);
    let request = small(&stage, Range::Seq { first: 0, count: 50 });
    stage.buyer.buyer().buy_through_channel(&request, |_| {}).await.unwrap();
    stage.buyer.shutdown().await;
    let sold = || stage.agent.store().read(|tx| channels::seller(tx, &id)).unwrap().unwrap();
    let height = channel.terms().refund_height.get();
    let closed_at = until("the close", || async {
        stage.mine(1).await;
        drop(stage.agent.chain().refresh().await);
        match sold().state {
            SellerChannelState::Closed { height, .. } => Some(height),
            _ => None,
        }
    })
    .await;
    assert!(closed_at < height, "closed at {closed_at}, and at {height} it would have been too late");
    assert_eq!(unspent(&stage, channel.outpoint()).await, None);
    until("the money in the wallet", || async {
        drop(stage.agent.chain().refresh().await);
        (by_channels(&stage.agent) == 100).then_some(())
    })
    .await;
    stage.agent.wallet().audit().unwrap();
    for node in [&stage.agent, &stage.bootstrap] {
        node.shutdown().await;
    }
}
