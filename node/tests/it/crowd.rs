//! Crowds on one channel: the same order wanted by many at once is charged once, and many orders at once never have more than there is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sensora_chain::Satoshis;
use sensora_node::buyer::BuyRequest;
use sensora_node::store::channels;
use sensora_protocol::OrderId;
use sensora_protocol::market::channel::buyer::{BuyerChannel, BuyerChannelState};
use sensora_protocol::market::channel::offer::ChannelLimits;
use sensora_protocol::market::channel::seller::SellerChannel;
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::offer::{BuyerLimits, Range};
use sensora_protocol::market::receipt::ChannelReceipt;

use crate::world::{World, until};

/// How many come at once.
const CROWD: u64 = 64;
/// Readings of one order, at 2 sat each.
const READINGS: u64 = 30;
const PRICE: u64 = 2 * READINGS;
const VALUE: u64 = 20_000;

fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

async fn open(world: &World, value: u64) {
    let limits = ChannelLimits { max_value: sat(value), max_blocks: 1_000, max_close_fee: sat(100) };
    let seller = *world.agent.identity().public();
    world.stream().await;
    world.buyer.buyer().open_channel(&seller, sat(value), 500, limits).await.unwrap();
}

async fn request(world: &World, order: u64) -> BuyRequest {
    let range = Range::Seq { first: order * READINGS, count: READINGS };
    let limits = BuyerLimits { max_price: sat(1_000), exposure: sat(500) };
    BuyRequest { limits, ..world.request(range).await }
}

fn record(world: &World) -> BuyerChannel {
    world.buyer.store().read(channels::all_buyer).unwrap().remove(0)
}

fn earned(world: &World) -> SellerChannel {
    world.agent.store().read(channels::all_seller).unwrap().remove(0)
}

fn purchases(world: &World) -> Vec<ChannelPurchase> {
    world.buyer.store().read(channels::purchases).unwrap()
}

/// Every order has ended with a receipt of its price, both accounts say their sum, nothing is reserved, and no reading was bought twice.
fn books_agree(world: &World, orders: u64) {
    let purchases = purchases(world);
    assert_eq!(purchases.len() as u64, orders);
    let mut covered = BTreeSet::new();
    for purchase in &purchases {
        let ChannelPurchaseState::Ended { receipt, .. } = &purchase.state else {
            panic!("{:?}", purchase.state)
        };
        let receipt =
            receipt.clone().verify::<ChannelReceipt>(world.buyer.network()).unwrap().value().clone();
        assert_eq!((receipt.paid, receipt.count), (sat(PRICE), READINGS), "charged once, and exactly");
        for seq in receipt.first..receipt.first + receipt.count {
            assert!(covered.insert(seq), "reading {seq} was bought twice");
        }
        let sale = world.agent.store().read(|tx| channels::sale(tx, &purchase.id)).unwrap().unwrap();
        assert_eq!(sale.receipt(world.agent.network()).as_ref(), Some(&receipt), "the seller says the same");
    }
    let paid = sat(orders * PRICE);
    let (mine, theirs) = (record(world).spending, earned(world).earning);
    assert_eq!((mine.paid(), mine.reserved()), (Ok(paid), Ok(Satoshis::ZERO)));
    assert_eq!((mine.ended, theirs.ended, theirs.lanes.len()), (paid, paid, 0));
    assert!(theirs.highest >= paid && theirs.highest <= mine.highest, "{} {}", theirs.highest, mine.highest);
}

/// Looks at the buyer's account, on disk and in memory, as often as it can, until the crowd has gone. Answers how often it looked while something was
/// reserved.
fn watch(world: &World, gone: Arc<AtomicBool>) -> tokio::task::JoinHandle<(u64, u64)> {
    let (store, buyer) = (world.buyer.store().clone(), world.buyer.buyer().clone());
    tokio::task::spawn_blocking(move || {
        let (mut looks, mut busy) = (0, 0);
        while !gone.load(Ordering::Relaxed) {
            let stored = store.read(channels::all_buyer).unwrap().remove(0).spending;
            assert!(stored.promised().unwrap() <= stored.capacity, "on disk: {stored:?}");
            let said = buyer.channels().unwrap().remove(0);
            let all = Satoshis::sum([said.paid, said.reserved, said.free]).unwrap();
            assert!(all <= said.value, "in memory: {said:?}");
            looks += 1;
            busy += u64::from(!said.reserved.is_zero());
        }
        (looks, busy)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_who_want_one_range_through_a_channel_are_charged_for_it_once() {
    let world = World::new(500).await;
    open(&world, VALUE).await;
    let request = request(&world, 0).await;
    let tasks: Vec<_> = (0..CROWD)
        .map(|_| {
            let (buyer, request) = (world.buyer.buyer().clone(), request.clone());
            tokio::spawn(async move { buyer.buy_through_channel(&request, |_| {}).await })
        })
        .collect();
    let mut paid = 0;
    for task in tasks {
        let bought = task.await.unwrap().unwrap();
        assert_eq!((bought.first, bought.count), (0, READINGS));
        paid += bought.paid.as_u64();
    }
    assert_eq!(paid, PRICE, "one of them paid");
    books_agree(&world, 1);
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_retries_of_one_order_through_a_channel_are_charged_once() {
    let world = World::new(500).await;
    open(&world, VALUE).await;
    let request = request(&world, 0).await;
    // The order is made, and its delivery is broken off.
    let buying = world.buyer.buyer().clone();
    let first = tokio::spawn({
        let request = request.clone();
        async move { buying.buy_through_channel(&request, |_| {}).await }
    });
    until("the order", || async { (!purchases(&world).is_empty()).then_some(()) }).await;
    first.abort();
    drop(first.await);
    let order: OrderId = purchases(&world)[0].id;
    let tasks: Vec<_> = (0..CROWD)
        .map(|_| {
            let buyer = world.buyer.buyer().clone();
            tokio::spawn(async move { buyer.resume_order(&order, |_| {}).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    books_agree(&world, 1);
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_orders_on_one_channel_never_have_more_than_there_is() {
    let world = World::new(6_000).await;
    open(&world, VALUE).await;
    let gone = Arc::new(AtomicBool::new(false));
    let watching = watch(&world, gone.clone());
    let mut tasks = Vec::new();
    for n in 0..CROWD {
        let (buyer, request) = (world.buyer.buyer().clone(), request(&world, n).await);
        tasks.push(tokio::spawn(async move { buyer.buy_through_channel(&request, |_| {}).await }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().paid, sat(PRICE));
    }
    gone.store(true, Ordering::Relaxed);
    let (looks, busy) = watching.await.unwrap();
    assert!(busy > 0 && looks > busy, "looked {looks} times, {busy} while orders ran");
    books_agree(&world, CROWD);
    closed(&world, CROWD * PRICE).await;
    world.shutdown().await;
}

/// There is room for a part of the crowd at a time, and for less than all of it in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixty_four_orders_as_many_are_taken_as_the_channel_can_pay() {
    const ROOM: u64 = 20;
    let world = World::new(6_000).await;
    // What the close costs is a little less than the price of an order.
    open(&world, ROOM * PRICE + PRICE).await;
    let gone = Arc::new(AtomicBool::new(false));
    let watching = watch(&world, gone.clone());
    let mut tasks = Vec::new();
    for n in 0..CROWD {
        let (buyer, request) = (world.buyer.buyer().clone(), request(&world, n).await);
        tasks.push(tokio::spawn(async move { buyer.buy_through_channel(&request, |_| {}).await }));
    }
    let (mut taken, mut refused) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(bought) => taken += bought.paid.as_u64() / PRICE,
            Err(sensora_node::buyer::BuyError::NoChannel { needed, .. }) => {
                assert_eq!(needed, sat(PRICE));
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    gone.store(true, Ordering::Relaxed);
    watching.await.unwrap();
    assert_eq!((taken, refused), (ROOM, CROWD - ROOM));
    books_agree(&world, ROOM);
    closed(&world, ROOM * PRICE).await;
    world.shutdown().await;
}

/// The channel is closed, and the seller has exactly this by it.
async fn closed(world: &World, paid: u64) {
    let id = world.buyer.buyer().channels().unwrap()[0].id;
    world.buyer.buyer().close_channel(&id).await.unwrap();
    until("the close", || async {
        world.bootstrap.chain().mine().await.unwrap();
        world.buyer.chain().refresh().await.ok()?;
        world.agent.chain().refresh().await.ok()?;
        world.buyer.buyer().look_at_channels().await;
        let state = world.buyer.buyer().channels().unwrap().remove(0).state;
        matches!(state, BuyerChannelState::Ended { paid: found, .. } if found == sat(paid)).then_some(())
    })
    .await;
    until("the seller's part", || async {
        let history = world.agent.wallet().history().unwrap();
        let lines =
            history.iter().filter(|line| line.label.starts_with("channel ") && line.status.is_settled());
        let sum: i64 = lines.map(|line| line.delta_sat).sum();
        (sum == i64::try_from(paid).unwrap()).then_some(())
    })
    .await;
    world.buyer.wallet().audit().unwrap();
    world.agent.wallet().audit().unwrap();
}
