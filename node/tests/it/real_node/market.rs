//! The whole main job on a real node: found on the chain, bought, paid once, anchored, verified down to a header, and to the satoshi.

use std::collections::BTreeSet;
use std::time::Duration;

use sensora_chain::header::HeaderView as _;
use sensora_chain::{Address, Network, Satoshis, Transaction, Txid};
use sensora_node::agent::advertiser::Listing;
use sensora_node::buyer::BuyError;
use sensora_node::discovery::{Query, Way};
use sensora_node::store::orders;
use sensora_node::wallet::WalletHandleError;
use sensora_protocol::OrderId;
use sensora_protocol::anchor::Standing;
use sensora_protocol::evidence::Evidence;
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::Range;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::PurchaseRequest;
use serde_json::json;

use super::stage::{Layout, Stage, settled};
use crate::world::{fund, until};

/// Steps of the simulated sensors; some give no reading.
const STEPS: u64 = 2000;
/// Readings of the large order.
const BATCH: u64 = 500;

/// The ad is found by nothing but looking through the blocks.
async fn found_on_chain(stage: &Stage) {
    let seller = *stage.agent.identity().public();
    let query = Query { kind: Some("temperature".into()), seller: Some(seller), ..Query::default() };
    let only = BTreeSet::from([Way::Chain]);
    let (txid, height) = until("the ad on the chain", || async {
        let found = stage.buyer.discovery().search(&query, &only, Duration::from_secs(5)).await.unwrap();
        found.into_iter().find_map(|found| found.anchored)
    })
    .await;
    let hash = stage.real.call("getblockhash", json!([height])).await;
    let block = stage.real.call("getblock", json!([hash, 1])).await;
    let has = block["tx"].as_array().unwrap().iter().any(|id| *id == json!(txid.to_string()));
    assert!(has, "the real node has {txid} in block {height}");
}

/// Evidence that goes through a file and leads to a header that the real node has, too.
async fn verified(stage: &Stage, order: &OrderId, count: u64) {
    let standing = until("the proof in a block", || async {
        match stage.buyer.buyer().upgrade(order).await {
            Ok(standing @ Standing::Mined { .. }) => Some(standing),
            _ => None,
        }
    })
    .await;
    let text = serde_json::to_string(&stage.buyer.buyer().evidence(order).unwrap()).unwrap();
    let evidence: Evidence = serde_json::from_str(&text).unwrap();
    let headers = stage.buyer.chain().headers();
    let verified = evidence.verify(&headers).unwrap();
    assert_eq!((verified.standing, verified.count), (standing, count));
    let Standing::Mined { height, .. } = standing else { panic!("{standing:?}") };
    let hash = stage.real.call("getblockhash", json!([height])).await;
    assert_eq!(hash, json!(headers.header_at(height).unwrap().hash().to_string()));
}

/// The stored order again, several times at once: the same receipt, and one sale.
async fn sent_again(stage: &Stage, order: &OrderId) {
    let purchase = stage.buyer.buyer().purchase(order).unwrap();
    let payment = purchase.payment.unwrap();
    let request = Request::Purchase(PurchaseRequest {
        offer: purchase.offer,
        order: purchase.order,
        payment: payment.beef,
    });
    let receipt = stage.buyer.buyer().receipt(order).await.unwrap();
    let again = (0..6).map(|_| {
        let (buyer, seller, request) =
            (stage.buyer.buyer().clone(), *stage.agent.identity().public(), request.clone());
        tokio::spawn(async move { buyer.ask(&seller, &request).await })
    });
    for answer in again.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            Ok(Response::Ok(Answer::Receipt(again))) => assert_eq!(&again, receipt.bytes()),
            Ok(other) => panic!("unexpected answer {}", other.name()),
            // A quota may turn some of them away; that is no charge.
            Err(error) => eprintln!("a retry was turned away: {error}"),
        }
    }
    assert_eq!(settled(&stage.agent, &format!("sale {order}")).len(), 1);
}

/// The ad with another price, as a transaction that waits.
async fn offered_for(stage: &Stage, price: &str) -> Transaction {
    let agent = stage.agent.agent().unwrap();
    let listing = Listing {
        stream: stage.stream.id,
        kinds: vec!["temperature".into()],
        place: None,
        cadence_ms: None,
        price: price.parse().unwrap(),
        second: None,
        licence: "CC-BY-4.0".into(),
        sample: 10,
        max_readings: 1000,
    };
    agent.advertiser().offer(vec![listing]).await.unwrap();
    let wallet = stage.agent.wallet();
    let lines = wallet.history().unwrap();
    let ad = lines.iter().rev().find(|line| line.label == "ad").unwrap();
    wallet.read(|wallet| wallet.transaction(&ad.txid).cloned()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ad_that_a_reorganisation_put_below_the_last_search_is_found() {
    let Some(stage) = Stage::new(Layout::Each, true, 100).await else { return };
    stage.quiet("the first ad in a block").await;
    found_on_chain(&stage).await;
    stage.mine(3).await;
    let higher = offered_for(&stage, "3").await;
    stage.quiet("the second ad in a block").await;
    let anchored = async || {
        let seller = *stage.agent.identity().public();
        let query = Query { seller: Some(seller), ..Query::default() };
        let only = BTreeSet::from([Way::Chain]);
        stage.look().await;
        let found = stage.buyer.discovery().search(&query, &only, Duration::from_secs(5)).await.unwrap();
        found.into_iter().find_map(|found| found.anchored)
    };
    let at = async |wanted: Txid| {
        until("the ad on the chain", || async { anchored().await.filter(|(txid, _)| *txid == wanted) }).await
    };
    let (_, last) = at(higher.txid()).await;
    let lower = offered_for(&stage, "4").await;
    let tip = stage.real.service().tip().await.unwrap().height;
    stage.miner.reorg(tip - last + 3, &[higher, lower.clone()]).await.unwrap();
    let (_, now) = at(lower.txid()).await;
    assert!(now < last, "at {now}, below the {last} where the search had ended");
    stage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_while_the_node_was_away_goes_out_when_it_is_back() {
    let Some(mut stage) = Stage::new(Layout::Each, true, 200).await else { return };
    // A coin for the order, and one for the payment.
    fund(&stage.buyer, 50_000).await;
    stage.quiet("the start in a block").await;
    let request = stage.request(Range::Seq { first: 0, count: 20 });
    let offer = stage.buyer.buyer().quote(&request).await.unwrap();
    let order = stage.buyer.buyer().order(&offer).unwrap().id;
    stage.real.stop().await;
    let to = Address::new(Network::Regtest, [9; 20]);
    let error = stage.buyer.wallet().send(&to, Satoshis::from_sat(1_000)).await.unwrap_err();
    assert!(matches!(error, WalletHandleError::Broadcast(_)), "{error}");
    stage.append(10);
    let kept = stage.buyer.buyer().resume_order(&order, |_| {}).await.unwrap_err();
    assert!(matches!(kept, BuyError::Refused(Refusal::ChainUnavailable)), "{kept}");

    assert!(stage.real.run().await);
    until("the order", || async { stage.buyer.buyer().resume_order(&order, |_| {}).await.ok() }).await;
    stage.quiet("everything in a block after the node was away").await;
    assert_eq!(settled(&stage.buyer, &format!("send to {to}")).len(), 1, "sent once");
    stage.charged_once();
    stage.audit().await;
    stage.shutdown().await;
}

fn sum<'a>(values: impl IntoIterator<Item = &'a i64>) -> i64 {
    values.into_iter().sum()
}

async fn whole_job(layout: Layout, zmq: bool) {
    let Some(stage) = Stage::new(layout, zmq, STEPS).await else { return };
    stage.quiet("the first anchor and the ad in a block").await;
    found_on_chain(&stage).await;
    let recorded = stage.recorded();

    let buyer = stage.buyer.buyer();
    let latest = buyer.buy(&stage.request(Range::Latest), |_| {}).await.unwrap();
    assert_eq!((latest.count, latest.paid.as_u64(), latest.orders.len()), (1, 2, 1));
    let batch = buyer.buy(&stage.request(Range::Last(BATCH)), |_| {}).await.unwrap();
    assert_eq!((batch.count, batch.kept, batch.paid.as_u64()), (BATCH, 1, 2 * (BATCH - 1)));
    let rest = Range::Seq { first: 0, count: recorded - BATCH };
    let rest = buyer.buy(&stage.request(rest), |_| {}).await.unwrap();
    assert_eq!((rest.count, rest.kept, rest.paid.as_u64()), (recorded - BATCH, 0, 2 * (recorded - BATCH)));
    let read = buyer.readings(&stage.stream_id(), &stage.stream.schema, 0, recorded, usize::MAX - 1).unwrap();
    let sold = stage.agent.agent().unwrap().recorder().readings(&stage.stream_id(), 0, recorded).unwrap();
    assert!(read == sold, "what was recorded is what was bought");

    let orders: Vec<OrderId> = [latest.orders, batch.orders, rest.orders].concat();
    stage.quiet("the payments in a block").await;
    for order in &orders {
        let count = buyer.summary(order).unwrap().count;
        verified(&stage, order, count).await;
    }
    sent_again(&stage, &orders[1]).await;

    // The books: what was given, what was paid, what miners got.
    stage.charged_once();
    stage.audit().await;
    assert_eq!(stage.buyer.store().read(orders::purchases).unwrap().len(), orders.len());
    let price = i64::try_from(2 * recorded).unwrap();
    let mut fees = Vec::new();
    for (_, node) in stage.traders() {
        let lines = node.wallet().history().unwrap();
        let stands = lines.iter().filter(|line| line.status.is_settled());
        fees.push(stands.filter_map(|line| line.fee).map(Satoshis::as_u64).sum::<u64>().cast_signed());
    }
    let total =
        |node: &sensora_node::supervisor::Node| node.wallet().balance().unwrap().total.as_u64().cast_signed();
    let given = |node| sum(&settled(node, "faucet"));
    assert_eq!(given(&stage.buyer), 1_000_000);
    assert_eq!(total(&stage.buyer), given(&stage.buyer) - price - fees[1], "what the buyer had left");
    assert_eq!(total(&stage.agent), given(&stage.agent) + price - fees[0], "what the seller has earned");
    stage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_job_where_one_node_serves_the_others_with_zmq() {
    Box::pin(whole_job(Layout::Served, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_job_where_each_asks_the_node_without_zmq() {
    Box::pin(whole_job(Layout::Each, false)).await;
}
