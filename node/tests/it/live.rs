//! Live streams: readings as they come, in one order, over broken connections and restarts, and every one of them paid once.

use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_node::agent::AgentOptions;
use sensora_node::agent::seller::channels::ChannelPolicy;
use sensora_node::agent::seller::earnings::EarnedBy;
use sensora_node::agent::source::RawReading;
use sensora_node::buyer::{BuyError, LiveEvent, OrderState, PaidBy, SubscribeRequest, Subscription};
use sensora_node::supervisor::Node;
use sensora_protocol::StreamId;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::channel::offer::ChannelLimits;
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::price::Metered;
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::stream::Reading;

use crate::disk::{Disk, Full};
use crate::world::{PATIENCE, Place, World, agent, sim, until};

pub(crate) fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

pub(crate) fn channel_limits() -> ChannelLimits {
    ChannelLimits { max_value: sat(100_000), max_blocks: 1_000, max_close_fee: sat(100) }
}

/// What a reading costs.
const PRICE: u64 = 2;

/// A world with an open channel, and a stream that grows when the test says so.
struct Live {
    world: World,
    stream: StreamId,
}

impl Live {
    async fn new(readings: u64) -> Self {
        Self::with(agent(vec![sim(readings)])).await
    }

    async fn with(options: AgentOptions) -> Self {
        Self::in_world(World::with(options).await).await
    }

    async fn in_world(world: World) -> Self {
        let stream = world.stream().await.id;
        let seller = *world.agent.identity().public();
        world.buyer.buyer().open_channel(&seller, sat(20_000), 500, channel_limits()).await.unwrap();
        Self { world, stream }
    }

    async fn request(&self, from: LiveFrom) -> SubscribeRequest {
        SubscribeRequest {
            seller: *self.world.agent.identity().public(),
            stream: self.stream,
            from,
            budget: sat(5_000),
            exposure: sat(20),
            ad: Some(self.world.stream().await),
            by: Metered::Reading,
            max_reading: None,
            max_second: None,
            readings: None,
            until_ms: None,
        }
    }

    async fn subscribe(&self, from: LiveFrom) -> Subscription {
        self.world.buyer.buyer().subscribe(&self.request(from).await).await.unwrap()
    }

    /// Measures some more.
    fn grow(&self, count: u64) {
        grow(&self.world.agent, &self.stream, count);
    }

    fn size(&self) -> u64 {
        self.world.agent.agent().unwrap().recorder().summary(&self.stream).unwrap().size
    }

    fn sold(&self, first: u64, end: u64) -> Vec<Reading> {
        self.world.agent.agent().unwrap().recorder().readings(&self.stream, first, end).unwrap()
    }

    /// What the buyer's channel says.
    fn paid(&self) -> u64 {
        let channels = self.world.buyer.buyer().channels().unwrap();
        channels.iter().map(|channel| channel.paid.as_u64()).sum()
    }
}

/// Measures some more: copies of the readings that are there, a second apart.
pub(crate) fn grow(agent: &Node, stream: &StreamId, count: u64) {
    let recorder = agent.agent().unwrap().recorder();
    let summary = recorder.summary(stream).unwrap();
    let old = recorder.readings(stream, 0, count.min(summary.size)).unwrap();
    let last = summary.last_time.unwrap();
    let readings = old.iter().cycle().zip(1..=count as i64);
    let more = readings
        .map(|(reading, n)| RawReading { time: last + n * 1_000_000_000, values: reading.values.clone() });
    recorder.append(vec![(*stream, more.collect())]).unwrap();
}

/// The next event.
async fn next(live: &mut Subscription) -> LiveEvent {
    let next = tokio::time::timeout(PATIENCE, live.next()).await.expect("an event in time");
    next.unwrap().expect("the stream goes on")
}

/// Reads until `count` readings have come.
async fn read(live: &mut Subscription, count: u64) -> Vec<Reading> {
    let mut readings = Vec::new();
    while (readings.len() as u64) < count {
        match next(live).await {
            LiveEvent::Readings(batch) => readings.extend(batch.readings),
            LiveEvent::Ended(ended) => panic!("ended after {}: {ended:?}", readings.len()),
            _ => {}
        }
    }
    readings
}

/// Waits until all before `end` is on disk.
async fn kept(live: &Subscription, end: u64) {
    until("the disk", || async { (live.status().next == end).then_some(()) }).await;
}

/// Reads to the end.
async fn rest(live: &mut Subscription) -> (Vec<Reading>, Result<ChannelReceipt, String>) {
    let mut readings = Vec::new();
    loop {
        match next(live).await {
            LiveEvent::Readings(batch) => readings.extend(batch.readings),
            LiveEvent::Ended(ended) => {
                assert!(live.next().await.unwrap().is_none(), "nothing follows the end");
                return (readings, ended.map(|r| r.value().clone()).map_err(|error| error.to_string()));
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_comes_from_the_next_reading_on_and_ends_with_a_receipt() {
    let market = Live::new(100).await;
    let size = market.size();
    let mut live = market.subscribe(LiveFrom::Latest).await;
    assert_eq!((live.status().first, live.status().next), (size, size));
    let mut seen = Vec::new();
    for count in [1, 3, 40] {
        market.grow(count);
        seen.extend(read(&mut live, count).await);
    }
    assert_eq!(seen, market.sold(size, size + 44));
    live.stop().await;
    let (more, receipt) = rest(&mut live).await;
    let receipt = receipt.unwrap();
    assert!(more.is_empty());
    assert_eq!((receipt.first, receipt.count, receipt.paid), (size, 44, sat(44 * PRICE)));
    assert_eq!(market.paid(), 44 * PRICE);
    let order = market.world.buyer.buyer().orders().unwrap().pop().unwrap();
    assert!(order.is_live && order.state.is_complete(), "{order:?}");
    assert!(matches!(order.by, PaidBy::Channel { .. }));
    assert_eq!((order.count, order.received, order.paid, order.why), (44, 44, sat(88), None));
    assert_eq!(order.exposure, Some(sat(20)));
    market.world.buyer.buyer().receipt(&order.order).await.unwrap();
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_measured_before_comes_first_and_is_not_bought_twice() {
    let market = Live::new(300).await;
    let size = market.size();
    let mut live = market.subscribe(LiveFrom::Seq(50)).await;
    market.grow(10);
    let seen = read(&mut live, size - 50 + 10).await;
    assert_eq!(seen, market.sold(50, size + 10));
    live.stop().await;
    rest(&mut live).await.1.unwrap();
    let paid = market.paid();
    assert_eq!(paid, (size - 50 + 10) * PRICE);

    // By time; what is here is shown out of the store, and not ordered again.
    let time = market.sold(60, 61)[0].time;
    let mut live = market.subscribe(LiveFrom::Time(time)).await;
    assert_eq!(live.status().first, size + 10);
    market.grow(2);
    assert_eq!(read(&mut live, size + 12 - 60).await, market.sold(60, size + 12));
    assert_eq!(live.rewind(55).unwrap(), 55, "all from there on are here");
    assert_eq!(read(&mut live, size + 12 - 55).await, market.sold(55, size + 12));
    assert_eq!(live.rewind(49).unwrap(), size + 10, "reading 49 is not");
    assert_eq!(read(&mut live, 2).await, market.sold(size + 10, size + 12));
    live.stop().await;
    rest(&mut live).await.1.unwrap();
    assert_eq!(market.paid(), paid + 2 * PRICE);

    // What nobody listened to is named.
    market.grow(5);
    let mut live = market.subscribe(LiveFrom::Latest).await;
    let LiveEvent::Gap { first, end } = next(&mut live).await else { panic!("no gap") };
    assert_eq!((first, end), (size + 12, size + 17));
    live.stop().await;
    let receipt = rest(&mut live).await.1.unwrap();
    assert_eq!((receipt.count, receipt.paid), (0, Satoshis::ZERO));
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_where_its_budget_or_its_count_does() {
    let market = Live::new(200).await;
    let size = market.size();
    let buyer = market.world.buyer.buyer();
    let small = SubscribeRequest { budget: sat(21), ..market.request(LiveFrom::Seq(0)).await };
    let mut live = buyer.subscribe(&small).await.unwrap();
    let (seen, receipt) = rest(&mut live).await;
    let receipt = receipt.unwrap();
    assert_eq!((seen.len(), receipt.count, receipt.paid), (10, 10, sat(20)), "not one reading beyond it");

    let few = SubscribeRequest { readings: Some(15), ..market.request(LiveFrom::Seq(0)).await };
    let mut live = buyer.subscribe(&few).await.unwrap();
    let (seen, receipt) = rest(&mut live).await;
    assert_eq!(seen, market.sold(0, 25), "what is here, and what is bought");
    assert_eq!(receipt.unwrap().paid, sat(30));

    let soon = SubscribeRequest { until_ms: Some(0), ..market.request(LiveFrom::Seq(size)).await };
    let mut live = buyer.subscribe(&soon).await.unwrap();
    assert_eq!(rest(&mut live).await.1.unwrap().count, 0, "its time was over");
    let too_dear = SubscribeRequest { budget: sat(50_000), ..market.request(LiveFrom::Latest).await };
    let error = buyer.subscribe(&too_dear).await.unwrap_err();
    assert!(matches!(error, BuyError::NoChannel { needed, .. } if needed == sat(50_000)), "{error}");
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_during_a_pause_and_nothing_is_missing_after_it() {
    let market = Live::new(100).await;
    let size = market.size();
    let mut live = market.subscribe(LiveFrom::Latest).await;
    market.grow(5);
    let mut seen = read(&mut live, 5).await;
    live.pause().await;
    until("the pause", || async { live.status().is_paused.then_some(()) }).await;
    // What is on its way still comes; after a moment nothing does.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = live.status().next;
    market.grow(30);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(live.status().next, before, "nothing comes");
    live.resume().await;
    seen.extend(read(&mut live, 30).await);
    assert_eq!(seen, market.sold(size, size + 35));
    live.stop().await;
    assert_eq!(rest(&mut live).await.1.unwrap().paid, sat(35 * PRICE));
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_listens_to_is_gone_on_with_or_ended() {
    let market = Live::new(100).await;
    let size = market.size();
    let buyer = market.world.buyer.buyer();
    let mut live = market.subscribe(LiveFrom::Latest).await;
    let order = live.order();
    market.grow(5);
    read(&mut live, 5).await;
    let error = buyer.subscribe(&market.request(LiveFrom::Latest).await).await.unwrap_err();
    assert!(matches!(error, BuyError::Busy { order: busy } if busy == order), "{error}");
    drop(live);
    market.grow(20);
    let again = until("the order to be free", || async {
        buyer.subscribe(&market.request(LiveFrom::Latest).await).await.ok()
    });
    let mut live = again.await;
    assert_eq!(live.order(), order, "the same order");
    assert_eq!(
        read(&mut live, 20).await,
        market.sold(size + 5, size + 25),
        "from the first missing reading on"
    );
    assert_eq!(live.rewind(0).unwrap(), size);
    assert_eq!(read(&mut live, 25).await, market.sold(size, size + 25), "and all of it again from the store");
    drop(live);
    let ended = until("the end", || async {
        let ended = buyer.resume(|_| {}).await.unwrap();
        (!ended.is_empty()).then_some(ended)
    });
    let ended = ended.await;
    assert!(matches!(&ended[..], [(id, Ok(()))] if *id == order), "{ended:?}");
    let summary = buyer.summary(&order).unwrap();
    assert!(summary.state.is_complete() && matches!(summary.state, OrderState::Channel(_)));
    assert_eq!(market.paid(), 25 * PRICE);
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_readings_are_anchored_bit_by_bit_and_proven_like_others() {
    let market = Live::new(100).await;
    let size = market.size();
    let buyer = market.world.buyer.buyer();
    let mut live = market.subscribe(LiveFrom::Latest).await;
    let order = live.order();
    market.grow(30);
    read(&mut live, 30).await;
    kept(&live, size + 30).await;
    assert!(buyer.evidence(&order).is_ok(), "while it runs");
    loop {
        if let LiveEvent::Standing { end, standing } = next(&mut live).await {
            assert!(end > size);
            if matches!(standing, Standing::Mined { .. }) {
                break;
            }
        }
    }
    // No anchor covers what comes now, before it is looked at.
    market.world.agent.agent().unwrap().anchorer().anchor_now().await.ok();
    market.grow(7);
    read(&mut live, 7).await;
    kept(&live, size + 37).await;
    let headers = market.world.buyer.chain().headers();
    let parts = buyer.evidence_parts(&order).unwrap();
    let mut at = size;
    for part in &parts {
        let verified = part.verify(&headers).unwrap();
        assert_eq!(verified.first, at, "no hole between two parts");
        at += verified.count;
    }
    assert_eq!(at, size + 37);
    live.stop().await;
    rest(&mut live).await.1.unwrap();
    until("all of it to be mined", || async {
        matches!(buyer.upgrade(&order).await.ok()?, Standing::Mined { .. }).then_some(())
    })
    .await;
    let evidence = buyer.evidence(&order).unwrap();
    let verified = evidence.verify(&market.world.buyer.chain().headers()).unwrap();
    assert_eq!((verified.first, verified.count), (size, 37));
    assert!(matches!(verified.standing, Standing::Mined { .. }));
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_by_the_second_costs_what_its_time_stamps_say() {
    let mut source = sim(100);
    source.terms.second = Some("0.5".parse().unwrap());
    source.terms.cadence = Some(Duration::from_secs(1));
    let market = Live::with(agent(vec![source])).await;
    let size = market.size();
    let request = SubscribeRequest { by: Metered::Second, ..market.request(LiveFrom::Latest).await };
    let mut live = market.world.buyer.buyer().subscribe(&request).await.unwrap();
    let mut seen = Vec::new();
    for count in [1, 9, 40] {
        market.grow(count);
        seen.extend(read(&mut live, count).await);
        // However long nothing is wanted: it is the readings that are charged.
        live.pause().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        live.resume().await;
    }
    assert_eq!(seen, market.sold(size, size + 50));
    live.stop().await;
    let receipt = rest(&mut live).await.1.unwrap();
    assert_eq!((receipt.count, receipt.paid), (50, sat(25)), "fifty seconds at half a satoshi");
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_has_earned_enough_is_closed_after_its_orders() {
    let policy = ChannelPolicy { settle_at: Some(sat(100)), ..ChannelPolicy::default() };
    let market = Live::with(AgentOptions { channels: policy, ..agent(vec![sim(100)]) }).await;
    let Live { world, .. } = &market;
    let seller = world.agent.agent().unwrap().seller().clone();
    let mut live = market.subscribe(LiveFrom::Latest).await;
    let order = live.order();
    market.grow(20);
    read(&mut live, 20).await;
    let [earned] = &seller.earnings().unwrap()[..] else { panic!("one order") };
    assert_eq!((earned.order, earned.count, earned.receipted_ms), (order, None, None));
    assert!(earned.paid >= sat(20) && earned.why.is_some(), "{earned:?}");
    world.bootstrap.chain().mine().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(live.status().ended.is_none(), "it has not earned enough");

    market.grow(40);
    let mut seen = read(&mut live, 40).await;
    let ended = until("the order to end", || async {
        world.bootstrap.chain().mine().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        live.status().ended
    })
    .await;
    let receipt = ended.unwrap().value().clone();
    seen.extend(rest(&mut live).await.0);
    assert_eq!((receipt.count, receipt.paid), (60, sat(120)), "paid to the last reading");
    until("the close", || async {
        world.bootstrap.chain().mine().await.unwrap();
        world.buyer.buyer().look_at_channels().await;
        let channel = world.buyer.buyer().channels().unwrap().remove(0);
        let BuyerChannelState::Ended { paid, .. } = channel.state else { return None };
        // The highest voucher may have been paid ahead.
        assert!((120..=140).contains(&paid.as_u64()), "{paid}");
        Some(())
    })
    .await;
    until("the books of the seller", || async {
        let earned = seller.earnings().unwrap().remove(0);
        assert_eq!((earned.paid, earned.open, earned.count), (sat(120), Satoshis::ZERO, Some(60)));
        matches!(earned.by, EarnedBy::Channel { closed_by: Some(_), voucher, .. } if voucher >= sat(120))
            .then_some(())
    })
    .await;
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_no_more_to_orders_than_it_is_before_its_end() {
    // 80 blocks in all, of which the seller keeps 36 for its close and 3 for the last orders.
    let world = World::new(100).await;
    let stream = world.stream().await.id;
    let seller = *world.agent.identity().public();
    world.buyer.buyer().open_channel(&seller, sat(20_000), 80, channel_limits()).await.unwrap();
    let market = Live { world, stream };
    let mut live = market.subscribe(LiveFrom::Latest).await;
    market.grow(10);
    read(&mut live, 10).await;
    let world = &market.world;
    let ended = until("the order to end", || async {
        world.bootstrap.chain().mine().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        live.status().ended
    })
    .await;
    assert_eq!(ended.unwrap().value().paid, sat(20), "with its receipt, before the channel closes");
    let state = world.buyer.buyer().channels().unwrap().remove(0).state;
    // Blocks come meanwhile, and a slow machine sees it closing, or closed, already: with what the order paid.
    match state {
        BuyerChannelState::Open | BuyerChannelState::Closing => {}
        BuyerChannelState::Ended { paid, .. } => {
            assert!(paid >= sat(20), "closed with what was paid: {paid}");
        }
        other => panic!("{other:?}"),
    }
    // The seller may have seen the block first.
    until("no order to begin", || async {
        world.buyer.chain().refresh().await.ok()?;
        let subscribed = world.buyer.buyer().subscribe(&market.request(LiveFrom::Latest).await).await;
        matches!(subscribed, Err(BuyError::NoChannel { .. })).then_some(())
    })
    .await;
    market.world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_are_heard_before_they_are_on_disk_and_paid_when_they_are() {
    let disk = Disk::new();
    let world = World::with_buyer_at(agent(vec![sim(100)]), &Place::Disk(&disk)).await;
    let market = Live::in_world(world).await;
    let size = market.size();
    let mut live = market.subscribe(LiveFrom::Latest).await;
    let order = live.order();
    market.grow(3);
    assert_eq!(read(&mut live, 3).await, market.sold(size, size + 3));
    kept(&live, size + 3).await;
    // What is here is paid for, and a little of what comes.
    until("the payment", || async { (market.paid() >= 3 * PRICE).then_some(()) }).await;
    let paid = market.paid();

    // The disk takes nothing: what comes is heard, and it is said that it was not kept.
    disk.set_full(Some(Full::ForAll));
    market.grow(2);
    let (heard, ended) = rest(&mut live).await;
    assert_eq!(heard, market.sold(size + 3, size + 5));
    let error = ended.unwrap_err();
    assert!(error.contains("disk"), "{error}");
    assert_eq!(live.status().next, size + 3);

    // It comes once more where it can be kept, and is paid once.
    disk.set_full(None);
    assert_eq!(market.paid(), paid);
    let mut live = market.subscribe(LiveFrom::Latest).await;
    assert_eq!((live.order(), live.status().next), (order, size + 3));
    assert_eq!(read(&mut live, 2).await, heard);
    live.stop().await;
    let (more, receipt) = rest(&mut live).await;
    let receipt = receipt.unwrap();
    assert_eq!((more.len(), receipt.count, receipt.paid), (0, 5, sat(5 * PRICE)));
    assert_eq!(market.paid(), 5 * PRICE);
    market.world.shutdown().await;
}
