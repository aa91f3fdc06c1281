//! Two peers and a chain: found, bought, paid, delivered, verified.

use std::collections::BTreeSet;
use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_node::buyer::BuyError;
use sensora_node::discovery::{Query, Way};
use sensora_protocol::anchor::Standing;
use sensora_protocol::evidence::Evidence;
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::{OfferError, Range};
use sensora_protocol::market::purchase::PurchaseAction;

use crate::world::{PATIENCE, World, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_finds_buys_and_verifies_down_to_a_block_header() {
    let world = World::new(3000).await;
    let before = world.buyer.wallet().balance().unwrap().total.as_u64();
    let bought = world.buyer.buyer().buy(&world.request(Range::Last(2500)).await, |_| {}).await.unwrap();
    assert_eq!((bought.count, bought.paid.as_u64(), bought.orders.len()), (2500, 5000, 1));

    let stream = world.stream().await;
    let (first, end) = (bought.first, bought.first + bought.count);
    let buyer = world.buyer.buyer();
    let readings = buyer.readings(&bought.stream, &stream.schema, first, end, usize::MAX - 1).unwrap();
    let sold = world.agent.agent().unwrap().recorder().readings(&bought.stream, first, end).unwrap();
    assert_eq!(readings, sold);

    let order = bought.orders[0];
    let standing = until("the anchor in a block", || async {
        match buyer.upgrade(&order).await.unwrap() {
            standing @ Standing::Mined { .. } => Some(standing),
            _ => None,
        }
    })
    .await;
    let evidence = buyer.evidence(&order).unwrap();
    let json = serde_json::to_string(&evidence).unwrap();
    let evidence: Evidence = serde_json::from_str(&json).unwrap();
    let verified = evidence.verify(&world.buyer.chain().headers()).unwrap();
    assert_eq!((verified.standing, verified.count), (standing, 2500));

    // What is here is not bought again.
    let again = buyer.buy(&world.request(Range::Seq { first, count: 2500 }).await, |_| {}).await.unwrap();
    assert_eq!((again.orders.len(), again.kept, again.paid.as_u64()), (0, 2500, 0));

    // The buyer has paid the price and its fee, the seller has earned the price.
    let fee: u64 =
        world.buyer.wallet().history().unwrap().iter().filter_map(|line| line.fee).map(|f| f.as_u64()).sum();
    let after = world.buyer.wallet().balance().unwrap().total.as_u64();
    assert_eq!(before - after, 5000 + fee);
    let earned = world.agent.wallet().history().unwrap();
    let sale = earned.iter().find(|line| line.label == format!("sale {order}")).unwrap();
    assert_eq!(sale.delta_sat, 5000);
    world.buyer.wallet().audit().unwrap();
    world.agent.wallet().audit().unwrap();
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_of_discovery_finds_the_ad_alone() {
    let world = World::new(10).await;
    let seller = *world.agent.identity().public();
    let query = Query { kind: Some("temperature".into()), seller: Some(seller), ..Query::default() };
    for way in Way::all() {
        let only = BTreeSet::from([way]);
        until(&format!("{way}"), || async {
            let found = world.buyer.discovery().search(&query, &only, Duration::from_secs(5)).await.unwrap();
            found.iter().any(|found| found.ways.contains(&way) && found.ad.key() == &seller).then_some(())
        })
        .await;
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_retries_of_one_order_are_charged_once() {
    let world = World::new(100).await;
    let buyer = world.buyer.buyer();
    let request = world.request(Range::Last(50)).await;
    let offer = buyer.quote(&request).await.unwrap();
    let purchase = buyer.order(&offer).unwrap();
    let Some(PurchaseAction::Send(message)) = purchase.resume() else { panic!("nothing to send") };
    let retries = (0..64).map(|_| {
        let (buyer, seller, message) = (buyer.clone(), request.seller, message.clone());
        tokio::spawn(async move { buyer.ask(&seller, &message).await })
    });
    let mut receipts = BTreeSet::new();
    for retry in retries.collect::<Vec<_>>() {
        match tokio::time::timeout(PATIENCE, retry).await.unwrap().unwrap() {
            Ok(Response::Ok(Answer::Receipt(receipt))) => {
                receipts.insert(receipt.body);
            }
            Ok(other) => panic!("unexpected answer {}", other.name()),
            // A quota may turn some of them away; that is no charge.
            Err(error) => eprintln!("a retry was turned away: {error}"),
        }
    }
    assert_eq!(receipts.len(), 1, "the same receipt each time");
    let sales = world.agent.wallet().history().unwrap();
    let sales: Vec<_> = sales.iter().filter(|line| line.label.starts_with("sale")).collect();
    assert_eq!(sales.len(), 1);
    assert_eq!(sales[0].delta_sat, 100);
    buyer.resume_order(&purchase.id, |_| {}).await.unwrap();
    assert_eq!(buyer.summary(&purchase.id).unwrap().received, 50);
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_are_free_until_the_days_allowance_is_used_up() {
    let world = World::new(100).await;
    let stream = world.stream().await;
    let seller = *world.agent.identity().public();
    let buyer = world.buyer.buyer();
    let sample = buyer.sample(&seller, &stream, 6).await.unwrap();
    assert_eq!(sample.len(), 6);
    assert_eq!(buyer.sample(&seller, &stream, 6).await.unwrap().len(), 4);
    let refused = buyer.ask(&seller, &Request::Sample { stream: stream.id, count: 1 }).await.unwrap();
    assert_eq!(refused.name(), "sample_used_up");
    assert_eq!(
        world.agent.wallet().history().unwrap().iter().filter(|l| l.label.starts_with("sale")).count(),
        0
    );
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_orders_at_a_seller_count_against_the_exposure() {
    let world = World::new(200).await;
    let buyer = world.buyer.buyer();
    let offer = buyer.quote(&world.request(Range::Seq { first: 0, count: 50 }).await).await.unwrap();
    let open = buyer.order(&offer).unwrap();

    let mut next = world.request(Range::Seq { first: 50, count: 50 }).await;
    next.limits.exposure = Satoshis::from_sat(150);
    let before = world.buyer.wallet().balance().unwrap();
    match buyer.buy(&next, |_| {}).await {
        Err(BuyError::Offer(error)) => {
            assert!(matches!(*error, OfferError::OpenExposure { .. }), "{error}");
        }
        other => panic!("100 sat are open, 100 more were bought within an exposure of 150: {other:?}"),
    }
    assert_eq!(world.buyer.wallet().balance().unwrap(), before);

    buyer.resume_order(&open.id, |_| {}).await.unwrap();
    assert_eq!(buyer.buy(&next, |_| {}).await.unwrap().paid.as_u64(), 100);
    world.shutdown().await;
}
