//! A channel that comes to its end while orders run on it: they end before it, each with its receipt, and nothing of it stands in the way of the next.

use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_node::agent::source::RawReading;
use sensora_node::buyer::{BuyRequest, LiveEvent, SubscribeRequest};
use sensora_node::store::channels;
use sensora_protocol::StreamId;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::channel::offer::ChannelLimits;
use sensora_protocol::market::channel::seller::SellerChannelState;
use sensora_protocol::market::delivery::supply::ChannelSaleState;
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::offer::Range;
use sensora_protocol::market::price::Metered;

use crate::world::{World, until};

const VALUE: u64 = 20_000;
/// The shortest channel: the seller closes it a margin of 36 blocks before, and orders end a little before that.
const BLOCKS: u32 = 80;

fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

async fn open(world: &World) {
    let limits = ChannelLimits { max_value: sat(VALUE), max_blocks: 1_000, max_close_fee: sat(100) };
    let seller = *world.agent.identity().public();
    world.buyer.buyer().open_channel(&seller, sat(VALUE), BLOCKS, limits).await.unwrap();
}

/// A subscription to the stream of a request, by the reading, from `first` on.
pub(crate) fn subscription(request: &BuyRequest, first: u64, budget: u64, exposure: u64) -> SubscribeRequest {
    SubscribeRequest {
        seller: request.seller,
        stream: request.stream,
        from: LiveFrom::Seq(first),
        budget: sat(budget),
        exposure: sat(exposure),
        ad: request.ad.clone(),
        by: Metered::Reading,
        max_reading: None,
        max_second: None,
        readings: None,
        until_ms: None,
    }
}

fn size(world: &World, stream: StreamId) -> u64 {
    world.agent.agent().unwrap().recorder().summary(&stream).unwrap().size
}

/// One more reading in the stream's log.
fn measure(world: &World, stream: StreamId) {
    let recorder = world.agent.agent().unwrap().recorder();
    let size = recorder.summary(&stream).unwrap().size;
    let last = recorder.readings(&stream, size - 1, size).unwrap().remove(0);
    let next = RawReading { time: last.time + 1_000_000_000, values: last.values };
    recorder.append(vec![(stream, vec![next])]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_order_ends_with_its_receipt_before_its_channel_closes() {
    let world = World::new(100).await;
    let request = world.request(Range::Latest).await;
    open(&world).await;
    let before = size(&world, request.stream);
    let wanted = subscription(&request, 0, 10_000, 50);
    let mut live = world.buyer.buyer().subscribe(&wanted).await.unwrap();
    let order = live.order();
    let mut count = 0;
    let ended = loop {
        match tokio::time::timeout(Duration::from_millis(50), live.next()).await {
            Ok(event) => match event.unwrap().unwrap() {
                LiveEvent::Readings(batch) => count += batch.readings.len() as u64,
                LiveEvent::Ended(ended) => break ended,
                _ => {}
            },
            // A reading every now and then, for longer than the channel lasts.
            Err(_) => measure(&world, request.stream),
        }
    };
    let receipt = ended.unwrap().value().clone();
    assert!(count > before, "{count} of {before}: it was live");
    assert_eq!((receipt.count, receipt.paid), (count, sat(2 * count)), "what came is paid, and no more");

    // The channel is closed without anybody asking, and both have what the receipt says.
    until("the close", || async {
        world.buyer.chain().refresh().await.ok()?;
        let closed = world.buyer.buyer().channels().unwrap().remove(0).state;
        matches!(closed, BuyerChannelState::Ended { .. }).then_some(())
    })
    .await;
    let sold = until("the close at the seller", || async {
        world.agent.chain().refresh().await.ok()?;
        let sold = world.agent.store().read(channels::all_seller).unwrap().remove(0);
        matches!(sold.state, SellerChannelState::Closed { .. }).then_some(sold)
    })
    .await;
    assert_eq!(sold.earning.ended, receipt.paid);
    let sale = world.agent.store().read(|tx| channels::sale(tx, &order)).unwrap().unwrap();
    assert!(matches!(sale.state, ChannelSaleState::Ended { .. }));

    // The next one finds nothing in its way.
    open(&world).await;
    let more = world.request(Range::Seq { first: 0, count: count + 1 }).await;
    measure(&world, request.stream);
    let bought = world.buyer.buyer().buy_through_channel(&more, |_| {}).await.unwrap();
    assert_eq!((bought.kept, bought.paid), (count, sat(2)));
    world.buyer.wallet().audit().unwrap();
    world.agent.wallet().audit().unwrap();
    world.shutdown().await;
}

/// A pause outlasts the channel: the order ends all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_order_ends_before_its_channel_closes() {
    let world = World::new(100).await;
    let request = world.request(Range::Latest).await;
    open(&world).await;
    let (first, size) = (50, size(&world, request.stream));
    let wanted = subscription(&request, first, 10_000, 50);
    let mut live = world.buyer.buyer().subscribe(&wanted).await.unwrap();
    let mut count = 0;
    while count < size - first {
        if let LiveEvent::Readings(batch) = live.next().await.unwrap().unwrap() {
            count += batch.readings.len() as u64;
        }
    }
    live.pause().await;
    measure(&world, request.stream);
    // Nothing else happens on the chain, so that blocks would come seldom.
    let looking = async {
        loop {
            world.bootstrap.chain().mine().await.unwrap();
            drop(world.buyer.chain().refresh().await);
            drop(world.agent.chain().refresh().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = tokio::select! {
        ended = live.ended() => ended,
        () = looking => unreachable!(),
    };
    let receipt = ended.unwrap().value().clone();
    assert!(receipt.paid <= sat(2 * (count + 1)), "{}", receipt.paid);
    assert_eq!(receipt.paid, sat(2 * receipt.count));
    world.shutdown().await;
}
