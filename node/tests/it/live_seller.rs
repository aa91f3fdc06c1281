//! Orders on a channel whose seller is what the test makes of it: it forgets, falls silent, rewrites its history, stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::{Network, Satoshis};
use sensora_node::buyer::{BuyError, BuyRequest, LiveEvent, OrderState, SubscribeRequest, Subscription};
use sensora_node::net::DeliveryStream;
use sensora_node::store::{Store, channels as records};
use sensora_node::supervisor::Node;
use sensora_protocol::id::Hash;
use sensora_protocol::market::budget::Budgets;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::channel::spending::Lane;
use sensora_protocol::market::delivery::frame::{Begin, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::{ChannelPurchaseState, ReceiveError};
use sensora_protocol::market::delivery::trail::LivePages;
use sensora_protocol::market::message::{LiveFrom, Request, Response};
use sensora_protocol::market::offer::{BuyerLimits, Range};
use sensora_protocol::market::price::Metered;
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{OrderId, Signed};
use tokio::sync::mpsc;

use crate::double::Double;
use crate::live::{channel_limits, sat};
use crate::world::{PATIENCE, Place, bootstrap_mining, fund, identity, limits, options, until};

/// An hour: blocks come when the test says so.
const NEVER: Duration = Duration::from_secs(3600);
/// What a reading costs.
const PRICE: u64 = 2;
/// Most that is paid ahead.
const EXPOSURE: u64 = 20;
/// What the channel holds.
const VALUE: u64 = 2_000;

/// A buyer with an open channel to a seller of the test's.
pub(crate) struct Stage {
    pub(crate) bootstrap: Node,
    pub(crate) buyer: Node,
    pub(crate) double: Double,
    /// The buyer's, also while it does not run.
    pub(crate) store: Store,
    home: Option<std::path::PathBuf>,
    budgets: Budgets,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(Budgets::UNLIMITED, None).await
    }

    pub(crate) async fn with(budgets: Budgets, home: Option<&std::path::Path>) -> Self {
        let stage = Self::without_channel(budgets, home).await;
        let seller = stage.double.key();
        stage.buyer.buyer().open_channel(&seller, sat(VALUE), 500, channel_limits()).await.unwrap();
        stage
    }

    pub(crate) async fn without_channel(budgets: Budgets, home: Option<&std::path::Path>) -> Self {
        let (bootstrap, addresses) = bootstrap_mining(NEVER).await;
        let mut config = options(3, &Place::Memory);
        config.bootstrap = addresses;
        (config.budgets, config.home) = (budgets, home.map(Into::into));
        let store = config.store.clone();
        let buyer = Node::start(config).await.unwrap();
        fund(&buyer, 1_000_000).await;
        let double = Double::new(9, &bootstrap, 300).await;
        let mut ad = double.ad();
        let mut other = ad.streams[0].clone();
        (other.id, other.name) = (double.streams[1], "other".into());
        ad.streams.push(other);
        double.seller.set_ad(double.sign(ad));
        double.meet(&buyer, Range::Seq { first: 0, count: 1 }).await;
        Self { bootstrap, buyer, double, store, home: home.map(Into::into), budgets }
    }

    /// The buyer stops, `changes` are made to its store, and it starts again.
    pub(crate) async fn restart(&mut self, changes: impl FnOnce(&Store)) {
        self.buyer.shutdown().await;
        changes(&self.store);
        let mut config = options(3, &Place::Memory);
        config.bootstrap = self.bootstrap.addresses().await;
        (config.store, config.budgets) = (self.store.clone(), self.budgets);
        config.home.clone_from(&self.home);
        self.buyer = Node::start(config).await.unwrap();
        self.double.meet(&self.buyer, Range::Seq { first: 0, count: 1 }).await;
    }

    pub(crate) fn request(&self, budget: u64) -> SubscribeRequest {
        SubscribeRequest {
            seller: self.double.key(),
            stream: self.double.streams[0],
            from: LiveFrom::Seq(0),
            budget: sat(budget),
            exposure: sat(EXPOSURE),
            ad: Some(self.double.ad().streams[0].clone()),
            by: Metered::Reading,
            max_reading: None,
            max_second: None,
            readings: None,
            until_ms: None,
        }
    }

    pub(crate) async fn subscribe(&self, budget: u64) -> Subscription {
        self.buyer.buyer().subscribe(&self.request(budget)).await.unwrap()
    }

    /// A range of the other stream.
    pub(crate) fn range(&self, first: u64, count: u64) -> BuyRequest {
        BuyRequest {
            seller: self.double.key(),
            stream: self.double.streams[1],
            range: Range::Seq { first, count },
            limits: BuyerLimits { max_price: sat(10_000), exposure: sat(EXPOSURE) },
            ad: None,
        }
    }

    /// What the channel has paid and reserved.
    pub(crate) fn channel(&self) -> (u64, u64) {
        let channel = self.buyer.buyer().channels().unwrap().remove(0);
        (channel.paid.as_u64(), channel.reserved.as_u64())
    }

    /// What of the budgets is used with the seller.
    pub(crate) fn used(&self) -> u64 {
        self.buyer.buyer().budgets(&self.double.key()).unwrap().1.seller_day.as_u64()
    }

    pub(crate) fn state(&self, order: &OrderId) -> ChannelPurchaseState {
        let OrderState::Channel(state) = self.buyer.buyer().summary(order).unwrap().state else { panic!() };
        state
    }

    pub(crate) async fn close(self) {
        self.buyer.wallet().audit().unwrap();
        self.buyer.shutdown().await;
        self.bootstrap.shutdown().await;
    }
}

/// The seller's end of one delivery.
pub(crate) struct Served {
    stream: DeliveryStream,
    pub(crate) begin: Begin,
    pages: LivePages,
    next: u64,
    /// The highest voucher that has come.
    pub(crate) paid: u64,
}

impl Served {
    /// The next delivery that is opened.
    pub(crate) async fn accept(streams: &mut mpsc::Receiver<DeliveryStream>) -> Self {
        let taken = tokio::time::timeout(PATIENCE, streams.recv()).await;
        let mut stream = taken.expect("a delivery in time").unwrap();
        let bytes = stream.next(PATIENCE).await.unwrap().unwrap();
        let ToSeller::Begin(begin) = ToSeller::from_bytes(&bytes).unwrap() else { panic!("no begin") };
        let (begin, next) = (*begin.clone(), begin.next);
        Self { stream, begin, pages: LivePages::new(), next, paid: 0 }
    }

    pub(crate) async fn say(&mut self, frame: ToBuyer) {
        self.stream.send(Bytes::from(frame.to_bytes().unwrap())).await.unwrap();
    }

    pub(crate) async fn begins(&mut self, paid: u64, credit: u64) {
        self.say(ToBuyer::Begun { paid: sat(paid), credit: sat(credit) }).await;
    }

    /// Sends some readings, as an honest seller does.
    pub(crate) async fn sends(&mut self, double: &Double, count: u64) {
        let stream = double.streams[0];
        let checkpoint = double.recorder.checkpoint(&stream).unwrap().unwrap();
        let (first, size) = (self.next, checkpoint.value().size);
        let page = double.recorder.page(&stream, first, first + count, size).unwrap();
        self.next += count;
        let frame = self.pages.frame(&checkpoint, page);
        self.say(frame).await;
    }

    /// Waits until so much is paid.
    pub(crate) async fn gets(&mut self, paid: u64) {
        while self.paid < paid {
            let bytes = self.stream.next(PATIENCE).await.unwrap().expect("a voucher");
            self.takes(&bytes);
        }
    }

    fn takes(&mut self, bytes: &[u8]) {
        if let ToSeller::Voucher(voucher) = ToSeller::from_bytes(bytes).unwrap() {
            self.paid = self.paid.max(voucher.paid.as_u64());
        }
    }

    /// Reads until the buyer has gone, and answers what it has paid.
    pub(crate) async fn gone(mut self) -> u64 {
        while let Ok(Some(bytes)) = self.stream.next(PATIENCE).await {
            self.takes(&bytes);
        }
        self.paid
    }

    pub(crate) async fn refuses(mut self, refusal: Refusal) {
        self.say(ToBuyer::Refused(refusal)).await;
        // The buyer may be gone as soon as it has heard that.
        drop(self.stream.finish().await);
    }

    /// Ends the order: what was sent is due.
    pub(crate) async fn ends(&mut self, double: &Double) {
        let terms = self.begin.offer.terms(Network::Regtest, &double.key()).unwrap();
        let count = self.next - terms.first;
        let due = sat(count * PRICE);
        self.say(ToBuyer::Stopped { end: self.next, due }).await;
        self.gets(due.as_u64()).await;
        let order = self.begin.order_id(Network::Regtest, identity(3).public()).unwrap();
        let receipt = ChannelReceipt {
            order,
            offer: terms.offer,
            stream: terms.stream,
            first: terms.first,
            count,
            paid: due,
            channel: self.begin.channel,
            issued_ms: double.clock.now_ms(),
        };
        let receipt = Signed::sign(receipt, &double.identity, Network::Regtest).unwrap();
        self.say(ToBuyer::Ended { receipt: receipt.into_bytes() }).await;
    }
}

pub(crate) async fn ended(live: &mut Subscription) -> Result<Signed<ChannelReceipt>, Arc<BuyError>> {
    tokio::time::timeout(PATIENCE, live.ended()).await.expect("an end in time")
}

fn why(error: &BuyError) -> &ReceiveError {
    let BuyError::Receive { source, .. } = error else { panic!("{error}") };
    source
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_stops_by_itself_is_paid_for_what_it_sent_and_nothing_more() {
    let stage = Stage::new().await;
    let mut streams = stage.double.takes_streams();
    let mut live = stage.subscribe(600).await;
    assert_eq!((stage.channel(), stage.used()), ((0, 600), 600));
    let mut served = Served::accept(&mut streams).await;
    served.begins(0, 100).await;
    served.sends(&stage.double, 5).await;
    served.ends(&stage.double).await;
    let receipt = ended(&mut live).await.unwrap();
    assert_eq!((receipt.value().count, receipt.value().paid), (5, sat(5 * PRICE)));
    assert!(served.gone().await <= 5 * PRICE + EXPOSURE);
    assert!(stage.buyer.buyer().summary(&live.order()).unwrap().state.is_complete());
    assert_eq!((stage.channel(), stage.used()), ((10, 0), 10), "what it did not cost is free");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_history_is_kept_as_evidence_reported_and_not_paid_for() {
    let stage = Stage::new().await;
    let mut streams = stage.double.takes_streams();
    let mut live = stage.subscribe(600).await;
    let mut served = Served::accept(&mut streams).await;
    served.begins(0, 100).await;
    served.sends(&stage.double, 5).await;
    served.gets(5 * PRICE).await;
    // The same size, and another root.
    let stream = stage.double.streams[0];
    let honest = stage.double.recorder.checkpoint(&stream).unwrap().unwrap();
    let other = Checkpoint { root: Hash([7; 32]), ..honest.value().clone() };
    let other = Signed::sign(other, &stage.double.identity, Network::Regtest).unwrap();
    let page = stage.double.recorder.page(&stream, 5, 10, honest.value().size).unwrap();
    served.say(ToBuyer::Live { checkpoint: Some(other.bytes().clone()), page }).await;

    let error = ended(&mut live).await.unwrap_err();
    assert!(matches!(why(&error), ReceiveError::Forked { .. }), "{error}");
    let fork = stage.store.read(|tx| records::fork(tx, &live.order())).unwrap().expect("both are kept");
    assert!(fork.convicts(Network::Regtest, &stage.double.key()));
    assert_eq!((&fork.earlier, &fork.later), (honest.bytes(), other.bytes()));
    // The swarm hears of it with its next turn.
    until("the offence to be counted", || async {
        let offences = stage.buyer.net().counters().offences;
        (offences.get("invalid_proof") == Some(&1)).then_some(())
    })
    .await;
    let summary = stage.buyer.buyer().summary(&live.order()).unwrap();
    assert_eq!(summary.received, 5, "nothing of the other history is here");
    let paid = served.gone().await;
    assert!(paid <= 5 * PRICE + EXPOSURE && stage.channel().0 == paid, "{paid}");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_its_seller_has_forgotten_is_given_up() {
    let stage = Stage::new().await;
    let mut streams = stage.double.takes_streams();
    let mut live = stage.subscribe(600).await;
    let mut served = Served::accept(&mut streams).await;
    served.begins(0, 100).await;
    served.sends(&stage.double, 5).await;
    served.gets(5 * PRICE).await;
    drop(served);
    let served = Served::accept(&mut streams).await;
    assert_eq!(served.begin.next, 5);
    served.refuses(Refusal::OfferExpired { expires_ms: 0 }).await;

    let error = ended(&mut live).await.unwrap_err();
    assert!(why(&error).is_forgotten(), "{error}");
    let ChannelPurchaseState::GivenUp { paid, due } = stage.state(&live.order()) else { panic!() };
    assert!(due == sat(5 * PRICE) && paid >= due && paid <= sat(5 * PRICE + EXPOSURE), "{paid}, {due}");
    assert_eq!((stage.channel(), stage.used()), ((paid.as_u64(), 0), paid.as_u64()));
    assert!(stage.buyer.buyer().resume(|_| {}).await.unwrap().is_empty(), "nothing is left of it");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_forgets_again_and_again_takes_no_more_than_the_exposure() {
    let mut stage = Stage::new().await;
    let mut streams = stage.double.takes_streams();
    let mut lost = 0;
    for _ in 0..EXPOSURE / PRICE {
        let mut live = stage.subscribe(100).await;
        let mut served = Served::accept(&mut streams).await;
        served.begins(0, 0).await;
        served.gets(PRICE).await;
        drop(served);
        Served::accept(&mut streams).await.refuses(Refusal::OfferExpired { expires_ms: 0 }).await;
        ended(&mut live).await.unwrap_err();
        let ChannelPurchaseState::GivenUp { paid, due } = stage.state(&live.order()) else { panic!() };
        lost += paid.as_u64() - due.as_u64();
    }
    assert_eq!(lost, EXPOSURE);
    for restarts in [false, true] {
        if restarts {
            stage.restart(|_| {}).await;
        }
        let mut live = stage.subscribe(100).await;
        let mut served = Served::accept(&mut streams).await;
        served.begins(0, 0).await;
        let error = ended(&mut live).await.unwrap_err();
        assert!(matches!(why(&error), ReceiveError::NobodyBegins { .. }), "{error}");
        assert_eq!(served.gone().await, 0, "after a restart: {restarts}");
        // Where the seller goes first it is paid.
        let mut live = stage.buyer.buyer().subscribe_again(&live.order()).unwrap();
        let mut served = Served::accept(&mut streams).await;
        served.begins(0, 100).await;
        served.sends(&stage.double, 1).await;
        served.ends(&stage.double).await;
        ended(&mut live).await.unwrap();
        assert_eq!(served.gone().await, PRICE, "and not a satoshi ahead");
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_stream_broke_keeps_what_is_reserved_for_it() {
    let mut stage = Stage::new().await;
    let mut streams = stage.double.takes_streams();
    let mut live = stage.subscribe(1_200).await;
    let order = live.order();
    let mut served = Served::accept(&mut streams).await;
    served.begins(0, 100).await;
    served.sends(&stage.double, 5).await;
    served.gets(5 * PRICE).await;
    drop(served);
    let looks = Arc::new(AtomicU64::new(0));
    let watched = async {
        loop {
            let (paid, reserved) = stage.channel();
            assert_eq!(paid + reserved, 1_200, "at each moment");
            looks.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut served = tokio::select! {
        () = watched => unreachable!(),
        served = Served::accept(&mut streams) => served,
    };
    assert!(looks.load(Ordering::Relaxed) > 2, "while no stream served it");
    served.begins(10, 100).await;
    served.sends(&stage.double, 5).await;
    served.gets(10 * PRICE).await;
    drop((live, served));
    for _ in 0..20 {
        let (paid, reserved) = stage.channel();
        assert_eq!(paid + reserved, 1_200, "nobody listens to it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // Where others have the rest of the channel, it goes on with what it has.
    let channel = stage.buyer.buyer().channel_purchase(&order).unwrap().channel;
    stage
        .restart(|store| {
            let mut record = store.read(|tx| records::buyer(tx, &channel)).unwrap().unwrap();
            let rest = record.spending.capacity.checked_sub(sat(100)).unwrap();
            let lane = Lane { paid: sat(20), reserved: sat(80) };
            record.spending.lanes.insert(order, lane);
            let other = Lane { paid: Satoshis::ZERO, reserved: rest };
            record.spending.lanes.insert(OrderId([8; 32]), other);
            store.write(|tx| records::put_buyer(tx, &record, false)).unwrap();
        })
        .await;
    live = stage.buyer.buyer().subscribe_again(&order).unwrap();
    let mut served = Served::accept(&mut streams).await;
    assert_eq!(served.begin.next, 10);
    served.begins(20, 100).await;
    served.sends(&stage.double, 5).await;
    served.gets(15 * PRICE).await;
    served.ends(&stage.double).await;
    assert_eq!(ended(&mut live).await.unwrap().value().paid, sat(15 * PRICE));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_given_up_with_what_it_has_paid() {
    let mut stage = Stage::new().await;
    let mut live = stage.subscribe(600).await;
    let order = live.order();
    while !matches!(live.next().await.unwrap(), Some(LiveEvent::Readings(_))) {}
    let busy = stage.buyer.buyer().give_up(&order).await.unwrap_err();
    assert!(matches!(busy, BuyError::Busy { .. }), "{busy}");
    drop(live);
    until("nobody to listen", || async {
        match stage.buyer.buyer().give_up(&order).await {
            Ok(()) => Some(()),
            Err(BuyError::Busy { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    let ChannelPurchaseState::GivenUp { paid, due } = stage.state(&order) else { panic!() };
    assert!(paid <= due.checked_add(sat(EXPOSURE)).unwrap() && due >= sat(PRICE), "{paid}, {due}");
    assert_eq!((stage.channel(), stage.used()), ((paid.as_u64(), 0), paid.as_u64()));
    assert!(stage.buyer.buyer().resume(|_| {}).await.unwrap().is_empty());

    // After a restart, and with nobody to ask, all that was reserved counts as paid.
    let live = stage.subscribe(100).await;
    let order = live.order();
    stage.double.intercepts(|request| match request {
        Request::AskChannel(_) => Some(Response::Refused(Refusal::NotSelling)),
        _ => None,
    });
    stage.restart(|_| {}).await;
    stage.buyer.buyer().give_up(&order).await.unwrap();
    let ChannelPurchaseState::GivenUp { paid: all, .. } = stage.state(&order) else { panic!() };
    assert_eq!((all, stage.used()), (sat(100), paid.as_u64() + 100));
    assert_eq!(stage.channel().1, 0);
    drop(live);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_channel_was_settled_meanwhile_frees_its_budget() {
    let mut stage = Stage::new().await;
    let mut streams = stage.double.takes_streams();
    let live = stage.subscribe(600).await;
    let order = live.order();
    let channel = stage.buyer.buyer().channel_purchase(&order).unwrap().channel;
    stage
        .restart(|store| {
            let mut record = store.read(|tx| records::buyer(tx, &channel)).unwrap().unwrap();
            record.state = BuyerChannelState::Ended { txid: record.funding.txid, height: 1, paid: sat(30) };
            store.write(|tx| records::put_buyer(tx, &record, true)).unwrap();
        })
        .await;
    assert_eq!(stage.used(), 600);
    let resumed = stage.buyer.buyer().resume(|_| {}).await.unwrap();
    assert!(matches!(&resumed[..], [(id, Err(BuyError::Over { .. }))] if *id == order), "{resumed:?}");
    let left = ChannelPurchaseState::LeftUnpaid { paid: sat(30), due: Satoshis::ZERO };
    assert_eq!((stage.state(&order), stage.used()), (left, 30), "no more than the seller took");
    drop((live, streams.try_recv()));
    stage.close().await;
}

/// In one thread, for it moves the clock.
#[tokio::test]
async fn a_seller_that_only_says_that_it_is_there_holds_up_no_other_order() {
    let mut stage = Stage::new().await;
    let mut streams = stage.double.takes_streams();
    let silent = stage.subscribe(100).await.order();
    // Nobody listens to it then.
    stage.restart(|_| {}).await;
    // A second order, that is paid with a transaction of its own.
    let offer = stage.buyer.buyer().quote(&stage.range(0, 10)).await.unwrap();
    let other = stage.buyer.buyer().order(&offer).unwrap().id;
    while streams.try_recv().is_ok() {}

    let silence = async {
        loop {
            let mut served = Served::accept(&mut streams).await;
            let begun = ToBuyer::Begun { paid: Satoshis::ZERO, credit: sat(100) };
            drop(served.stream.send(Bytes::from(begun.to_bytes().unwrap())).await);
            let alive = Bytes::from(ToBuyer::Alive.to_bytes().unwrap());
            while served.stream.send(alive.clone()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    };
    tokio::time::pause();
    let resumed = tokio::select! {
        () = silence => unreachable!(),
        resumed = stage.buyer.buyer().resume(|_| {}) => resumed.unwrap(),
    };
    tokio::time::resume();
    assert_eq!(resumed.len(), 2);
    for (order, outcome) in resumed {
        match outcome {
            Ok(()) => assert_eq!(order, other),
            Err(BuyError::NotComplete { state: "waiting for the seller", .. }) => assert_eq!(order, silent),
            Err(error) => panic!("{error}"),
        }
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_on_a_channel_commit_and_free_the_days_budgets() {
    let budgets = Budgets { seller_day: sat(100), day: sat(1_000) };
    let stage = Stage::with(budgets, None).await;
    let buyer = stage.buyer.buyer();
    let few = SubscribeRequest { readings: Some(10), ..stage.request(60) };
    let mut streams = stage.double.takes_streams();
    let mut live = buyer.subscribe(&few).await.unwrap();
    assert_eq!(stage.used(), 10 * PRICE, "ten readings cost no more");
    let full = buyer.buy_through_channel(&stage.range(0, 41), |_| {}).await.unwrap_err();
    assert!(matches!(full, BuyError::Budget(_)), "{full}");
    assert_eq!(buyer.orders().unwrap().len(), 1, "it was not made");
    assert_eq!(stage.channel(), (0, 20));
    let other = SubscribeRequest { stream: stage.double.streams[1], ad: None, ..stage.request(81) };
    let full = buyer.subscribe(&other).await.unwrap_err();
    assert!(matches!(full, BuyError::Budget(_)), "{full}");

    let mut served = Served::accept(&mut streams).await;
    served.begins(0, 100).await;
    served.sends(&stage.double, 3).await;
    served.ends(&stage.double).await;
    ended(&mut live).await.unwrap();
    assert_eq!(stage.used(), 3 * PRICE);
    drop(streams);
    let bought = buyer.buy_through_channel(&stage.range(0, 41), |_| {}).await.unwrap();
    assert_eq!((bought.paid, stage.used()), (sat(82), 88));
    assert_eq!(stage.channel(), (88, 0));
    // A payment of its own counts beside them.
    let direct = buyer.quote(&BuyRequest { limits: limits(), ..stage.range(41, 7) }).await;
    let full = buyer.order(&direct.unwrap()).unwrap_err();
    assert!(matches!(full, BuyError::Budget(_)), "{full}");
    stage.close().await;
}
