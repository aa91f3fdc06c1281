//! Buyers that open, order, pay and close as no honest one would: the seller lends each no more than it may, and keeps no place for nothing.

use std::time::Duration;

use sensora_chain::contract::channel::Channel;
use sensora_chain::sources::dev::{OnReorg, TxStatus};
use sensora_chain::{Network, Satoshis};
use sensora_node::agent::AgentOptions;
use sensora_node::agent::seller::supply::Credit;
use sensora_node::clock::Clock;
use sensora_node::net::{DeliveryReceiver, DeliverySender, Multiaddr};
use sensora_node::store::channels as records;
use sensora_node::supervisor::{Node, NodeOptions};
use sensora_protocol::market::channel::buyer::BuyerChannel;
use sensora_protocol::market::channel::message::{AskChannel, ChannelReport, CloseChannel, OpenChannel};
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::delivery::frame::{Begin, OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::ChannelPurchase;
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::message::{Answer, LiveFrom, Request, Response};
use sensora_protocol::market::price::Metered;
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{ChannelId, OrderId, StreamId};

use crate::disk::Disk;
use crate::double::Double;
use crate::live::{channel_limits, grow, sat};
use crate::world::{
    PATIENCE, Place, address, agent, bootstrap_mining, fund, identity, options, sim, try_options, until,
};

/// Readings that are measured in the beginning, at 2 sat each; some of them are left out.
const READINGS: u64 = 100;
/// Two readings.
const LENT: Credit = Credit { limit: Satoshis::from_sat(4), first: Satoshis::from_sat(4) };

/// A seller that can be started again, and a node that buys from it by hand.
struct Market {
    bootstrap: Node,
    addresses: Vec<Multiaddr>,
    buyer: Node,
    agent: Option<Node>,
    address: Multiaddr,
    disk: Disk,
    clock: Clock,
    stream: StreamId,
}

impl Market {
    async fn new(credit: Credit) -> Self {
        let (bootstrap, addresses) = bootstrap_mining(Duration::from_millis(100)).await;
        let mut config = options(3, &Place::Memory);
        config.bootstrap.clone_from(&addresses);
        let buyer = Node::start(config).await.unwrap();
        fund(&buyer, 1_000_000).await;
        let clock = Clock::fixed(Clock::system().now_ns());
        let (address, disk, stream) = (address(), Disk::new(), StreamId([0; 16]));
        let mut market = Self { bootstrap, addresses, buyer, agent: None, address, disk, clock, stream };
        market.start(credit).await;
        market
    }

    /// Starts the seller, or stops it and starts it again.
    async fn start(&mut self, credit: Credit) {
        if let Some(agent) = self.agent.take() {
            agent.shutdown().await;
        }
        let agent = Node::start(self.seller_options(credit)).await.unwrap();
        let agent = self.agent.insert(agent);
        let seller = *agent.identity().public();
        self.stream = until("the ad", || async {
            let found = self.buyer.discovery().ad_of(&seller).await.ok()?;
            found.ad.value().streams.first().map(|stream| stream.id)
        })
        .await;
        let agent = agent.agent().unwrap();
        until("the source to end", || async { (!agent.ended_sources().await.is_empty()).then_some(()) })
            .await;
        // An offer made before it has its headers would be over before it begins.
        self.mine(0).await;
    }

    fn seller_options(&self, credit: Credit) -> NodeOptions {
        let mut config = try_options(2, &Place::Disk(&self.disk), self.address.clone()).unwrap();
        config.bootstrap.clone_from(&self.addresses);
        config.clock = self.clock.clone();
        config.agent = Some(AgentOptions { credit, ..agent(vec![sim(READINGS)]) });
        config
    }

    fn agent(&self) -> &Node {
        self.agent.as_ref().unwrap()
    }

    async fn answer(&self, request: Request) -> Result<Answer, Refusal> {
        let buyer = self.buyer.identity().public();
        match self.agent().agent().unwrap().seller().answer(buyer, request).await {
            Response::Ok(answer) => Ok(answer),
            Response::Refused(refusal) => Err(refusal),
        }
    }

    async fn open(&self) -> Opened {
        let seller = *self.agent().identity().public();
        let opened = self.buyer.buyer().open_channel(&seller, sat(5_000), 80, channel_limits()).await;
        let id = opened.unwrap();
        let record = self.buyer.store().read(|tx| records::buyer(tx, &id)).unwrap().unwrap();
        let (_, contract) = record.contract(self.buyer.identity(), Network::Regtest).unwrap();
        Opened { id, record, contract }
    }

    fn sign(&self, on: &Opened, paid: u64, amount: u64) -> OrderVoucher {
        let voucher = on.record.sign(&on.contract, sat(amount), self.buyer.identity()).unwrap();
        OrderVoucher { paid: sat(paid), amount: sat(amount), signature: voucher.signature }
    }

    async fn ask(&self, on: &Opened, orders: Vec<OrderId>) -> Result<ChannelReport, Refusal> {
        let ask = AskChannel { channel: on.id, orders };
        match self.answer(Request::AskChannel(ask)).await? {
            Answer::Channel(report) => Ok(report),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for the close, whatever runs.
    async fn close(&self, on: &Opened) {
        let OrderVoucher { amount: paid, signature, .. } = self.sign(on, 0, 0);
        let close = CloseChannel { channel: on.id, paid, signature };
        self.answer(Request::CloseChannel(close)).await.unwrap();
        self.agent().agent().unwrap().seller().leave_orders().await.unwrap();
    }

    /// Agrees on an order, and sends nothing.
    async fn order(&self, on: &Opened, from: LiveFrom) -> (OrderId, Begin) {
        let quote = Request::QuoteLive { stream: self.stream, from, by: Metered::Reading };
        let Answer::LiveOffer(offer) = self.answer(quote).await.unwrap() else { panic!() };
        let (seller, budget) = (self.agent().identity().public(), sat(1_000));
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).unwrap();
        let now_ms = self.clock.now_ms();
        let (purchase, terms) = ChannelPurchase::agree(
            Offered::Live(offer),
            seller,
            on.id,
            budget,
            nonce,
            self.buyer.identity(),
            Network::Regtest,
            now_ms,
        )
        .unwrap();
        let ChannelPurchase { id, offer, order, channel, .. } = purchase;
        (id, Begin { offer, order, channel, next: terms.first, budget })
    }

    async fn stream(&self, begin: &Begin) -> Stream {
        let addresses = self.agent().net().listen_addrs().await;
        let opened = self.buyer.net().open_delivery(self.agent().peer_id(), addresses, PATIENCE).await;
        let (sender, receiver) = opened.unwrap().split();
        let mut stream = Stream { sender, receiver };
        stream.send(ToSeller::Begin(Box::new(begin.clone()))).await;
        stream
    }

    /// Mines some blocks, and waits until the seller has them.
    async fn mine(&self, blocks: u32) {
        for _ in 0..blocks {
            self.bootstrap.chain().mine().await.unwrap();
        }
        let height = self.bootstrap.chain().headers().tip().height;
        until("the seller to follow", || async {
            drop(self.agent().chain().refresh().await);
            (self.agent().chain().headers().tip().height >= height).then_some(())
        })
        .await;
    }

    async fn shutdown(self) {
        for node in [&self.buyer, self.agent(), &self.bootstrap] {
            node.shutdown().await;
        }
    }
}

/// A channel, with what signs on it.
struct Opened {
    id: ChannelId,
    record: BuyerChannel,
    contract: Channel,
}

/// One delivery, frame by frame.
struct Stream {
    sender: DeliverySender,
    receiver: DeliveryReceiver,
}

impl Stream {
    async fn send(&mut self, frame: ToSeller) {
        self.sender.send(frame.to_bytes().unwrap().into()).await.unwrap();
    }

    async fn next(&mut self) -> ToBuyer {
        loop {
            let bytes = self.receiver.next(PATIENCE).await.unwrap().expect("a frame");
            match ToBuyer::from_bytes(&bytes).unwrap() {
                ToBuyer::Alive => {}
                frame => return frame,
            }
        }
    }

    async fn begun(&mut self) -> (u64, u64) {
        match self.next().await {
            ToBuyer::Begun { paid, credit } => (paid.as_u64(), credit.as_u64()),
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&mut self) -> Refusal {
        match self.next().await {
            ToBuyer::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Reads until so many readings have come.
    async fn readings(&mut self, count: u64) {
        let mut came = 0;
        while came < count {
            match self.next().await {
                ToBuyer::Live { page, .. } => came += count_of(&page),
                other => panic!("{came} of {count}, then {other:?}"),
            }
        }
        assert_eq!(came, count, "no more than that");
    }

    /// Nothing comes: what is wrong here would come at once.
    async fn is_quiet(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(400), self.next()).await;
        assert!(next.is_err(), "{next:?}");
    }

    async fn receipt(&mut self, seller: &Node) -> ChannelReceipt {
        match self.next().await {
            ToBuyer::Ended { receipt } => {
                let key = seller.identity().public();
                receipt.verify_by::<ChannelReceipt>(Network::Regtest, key).unwrap().value().clone()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn count_of(page: &Page) -> u64 {
    page.runs.iter().map(|run| run.count().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_openings_of_one_channel_at_once_are_one_channel_that_goes_on() {
    let mut market = Market::new(LENT).await;
    let on = market.open().await;
    let stored = market.agent().store().read(|tx| records::seller(tx, &on.id)).unwrap().unwrap();
    let request = OpenChannel { offer: stored.offer, funding: stored.funding };
    // A seller that has lost its store knows nothing of the channel.
    market.disk = Disk::new();
    market.start(LENT).await;
    assert!(matches!(market.ask(&on, Vec::new()).await, Err(Refusal::UnknownChannel { .. })));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (seller, request) = (market.agent().agent().unwrap().seller().clone(), request.clone());
        let buyer = *market.buyer.identity().public();
        tasks.spawn(async move { seller.answer(&buyer, Request::OpenChannel(request)).await });
    }
    for answer in tasks.join_all().await {
        assert!(matches!(answer, Response::Ok(Answer::Channel(_))), "{answer:?}");
    }
    let open = || market.answer(Request::OpenChannel(request.clone()));
    let (id, begin) = market.order(&on, LiveFrom::Seq(0)).await;
    let mut stream = market.stream(&begin).await;
    stream.begun().await;
    stream.readings(2).await;
    // While it is paid and opened again, and again.
    for paid in 1..=8 {
        stream.send(ToSeller::Voucher(market.sign(&on, paid * 4, paid * 4))).await;
        let (opened, ()) = tokio::join!(open(), stream.readings(2));
        opened.unwrap();
    }
    let report = market.ask(&on, vec![id]).await.unwrap();
    assert_eq!((report.highest, report.booked, report.paid), (sat(32), sat(32), vec![sat(32)]));
    let stored = market.agent().store().read(|tx| records::seller(tx, &on.id)).unwrap().unwrap();
    assert_eq!(stored.earning.highest, sat(32), "and so it is on disk");
    let again = market.agent().store().write(|tx| records::insert_seller(tx, &stored)).unwrap();
    assert!(!again, "a record is put in nobody's place");
    market.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voucher_that_is_worth_nothing_frees_nothing() {
    let market = Market::new(LENT).await;
    let on = market.open().await;
    let (first, begin) = market.order(&on, LiveFrom::Seq(0)).await;
    let mut one = market.stream(&begin).await;
    assert_eq!(one.begun().await, (0, 4));
    one.readings(2).await;
    let (second, other) = market.order(&on, LiveFrom::Seq(0)).await;
    let mut two = market.stream(&other).await;
    two.begun().await;
    two.is_quiet().await;
    // Its signature is for less.
    let bad = OrderVoucher { signature: market.sign(&on, 4, 3).signature, ..market.sign(&on, 4, 4) };
    one.send(ToSeller::Voucher(bad)).await;
    assert!(matches!(one.refused().await, Refusal::VoucherInvalid { .. }));
    two.is_quiet().await;
    let paid = market.ask(&on, vec![first, second]).await.unwrap().paid;
    assert_eq!(paid, [Satoshis::ZERO; 2]);
    // What pays frees.
    let mut one = market.stream(&begin).await;
    assert_eq!(one.begun().await, (0, 4));
    one.send(ToSeller::Pause).await;
    one.send(ToSeller::Voucher(market.sign(&on, 4, 4))).await;
    two.readings(2).await;
    // One voucher pays for one order.
    two.send(ToSeller::Voucher(market.sign(&on, 4, 4))).await;
    assert!(matches!(two.refused().await, Refusal::VoucherInvalid { .. }));
    market.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_that_closes_and_opens_again_is_not_lent_the_same_again() {
    let mut market = Market::new(LENT).await;
    let on = market.open().await;
    let (_, begin) = market.order(&on, LiveFrom::Seq(0)).await;
    let mut stream = market.stream(&begin).await;
    assert_eq!(stream.begun().await, (0, 4));
    stream.readings(2).await;
    market.close(&on).await;
    assert!(matches!(stream.refused().await, Refusal::ChannelClosed { .. }));
    for restarted in [false, true] {
        if restarted {
            market.start(LENT).await;
        }
        let on = market.open().await;
        let (_, begin) = market.order(&on, LiveFrom::Seq(0)).await;
        let mut stream = market.stream(&begin).await;
        assert_eq!(stream.begun().await, (0, 0), "nothing is lent any more");
        stream.is_quiet().await;
        // Paying first is not forbidden.
        stream.send(ToSeller::Voucher(market.sign(&on, 6, 6))).await;
        stream.readings(3).await;
        stream.is_quiet().await;
    }
    // When the sale is forgotten, so is what was left unpaid.
    market.clock.advance(Duration::from_secs(32 * 86_400));
    market.agent().agent().unwrap().seller().forget_old().unwrap();
    let left = market.agent().store().read(records::left_unpaid).unwrap();
    assert_eq!(left, []);
    market.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_owes_more_than_is_lent_by_then_can_still_be_paid() {
    let mut market = Market::new(LENT).await;
    let on = market.open().await;
    let (_, begin) = market.order(&on, LiveFrom::Seq(0)).await;
    let mut stream = market.stream(&begin).await;
    stream.begun().await;
    stream.readings(2).await;
    drop(stream);
    market.start(Credit { limit: sat(3), first: sat(2) }).await;
    let (_, another) = market.order(&on, LiveFrom::Seq(0)).await;
    let refused = market.stream(&another).await.refused().await;
    assert_eq!(refused, Refusal::NotPaid { open: sat(4), limit: sat(3) });
    let mut stream = market.stream(&Begin { next: begin.next + 2, ..begin }).await;
    assert_eq!(stream.begun().await.0, 0);
    stream.send(ToSeller::Stop).await;
    assert!(matches!(stream.next().await, ToBuyer::Stopped { due, .. } if due == sat(4)));
    stream.send(ToSeller::Voucher(market.sign(&on, 4, 4))).await;
    let receipt = stream.receipt(market.agent()).await;
    assert_eq!((receipt.count, receipt.paid), (2, sat(4)));
    assert_eq!(market.stream(&another).await.begun().await, (0, 3));
    market.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_paid_ahead_is_delivered_after_the_channel_was_closed_and_settled() {
    let mut market = Market::new(LENT).await;
    for settled in [false, true] {
        let on = market.open().await;
        let (id, begin) = market.order(&on, LiveFrom::Latest).await;
        let mut stream = market.stream(&begin).await;
        stream.begun().await;
        stream.send(ToSeller::Voucher(market.sign(&on, 20, 20))).await;
        until("the voucher", || async {
            let paid = market.ask(&on, vec![id]).await.unwrap().paid;
            (paid == [sat(20)]).then_some(())
        })
        .await;
        // No stream serves it when its channel is closed.
        drop(stream);
        market.start(LENT).await;
        let seller = market.agent().agent().unwrap().seller();
        market.close(&on).await;
        let kept = market.agent().store().read(|tx| records::kept_since(tx, &id)).unwrap();
        assert_eq!(kept, Some(market.clock.now_ms()));
        until("the channel to be settled", || async {
            if !settled {
                return Some(());
            }
            market.mine(1).await;
            matches!(market.ask(&on, vec![id]).await, Err(Refusal::UnknownChannel { .. })).then_some(())
        })
        .await;
        seller.leave_orders().await.unwrap();
        grow(market.agent(), &market.stream, 15);
        let mut stream = market.stream(&begin).await;
        assert_eq!(stream.begun().await, (20, 0), "what is paid, and nothing beyond it");
        let mut came = 0;
        let receipt = loop {
            match stream.next().await {
                ToBuyer::Live { page, .. } => came += count_of(&page),
                ToBuyer::Stopped { end, due } => assert_eq!((end, due), (begin.next + 10, sat(20))),
                ToBuyer::Ended { receipt } => break receipt,
                other => panic!("{other:?}"),
            }
        };
        let receipt = receipt.verify::<ChannelReceipt>(Network::Regtest).unwrap().value().clone();
        assert_eq!((came, receipt.count, receipt.paid), (10, 10, sat(20)), "settled: {settled}");
        let earned = seller.earnings().unwrap();
        let earned = earned.iter().find(|earned| earned.order == id).unwrap();
        assert_eq!((earned.paid, earned.open, earned.count), (sat(20), Satoshis::ZERO, Some(10)));
    }
    market.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_brought_nothing_and_old_ones_are_forgotten() {
    let market = Market::new(LENT).await;
    let seller = market.agent().agent().unwrap().seller();
    let on = market.open().await;
    for _ in 0..20 {
        let (_, begin) = market.order(&on, LiveFrom::Latest).await;
        let mut stream = market.stream(&begin).await;
        stream.begun().await;
        stream.send(ToSeller::Stop).await;
        assert!(matches!(stream.next().await, ToBuyer::Stopped { .. }));
        assert_eq!(stream.receipt(market.agent()).await.count, 0);
    }
    assert_eq!(seller.earnings().unwrap(), [], "nothing of them is kept");

    let (id, begin) = market.order(&on, LiveFrom::Seq(0)).await;
    let mut stream = market.stream(&begin).await;
    stream.begun().await;
    stream.readings(2).await;
    stream.send(ToSeller::Stop).await;
    assert!(matches!(stream.next().await, ToBuyer::Stopped { .. }));
    stream.send(ToSeller::Voucher(market.sign(&on, 4, 4))).await;
    assert_eq!(stream.receipt(market.agent()).await.paid, sat(4));
    market.clock.advance(Duration::from_secs(30 * 86_400));
    seller.forget_old().unwrap();
    assert_eq!(seller.earnings().unwrap().len(), 1, "it is answered for");
    assert_eq!(market.stream(&begin).await.begun().await, (4, 0), "its readings are sent again");
    market.clock.advance(Duration::from_secs(2 * 86_400));
    seller.forget_old().unwrap();
    assert_eq!(seller.earnings().unwrap(), []);
    let report = market.ask(&on, vec![id]).await.unwrap();
    assert_eq!(report.booked, sat(4), "what was paid is paid");
    market.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_was_taken_back_gives_its_place_back() {
    let market = Market::new(LENT).await;
    let on = market.open().await;
    let open = || market.agent().store().read(records::open_seller).unwrap();
    assert_eq!(open().len(), 1);
    until("the place", || async {
        market.mine(4).await;
        drop(market.buyer.chain().refresh().await);
        market.buyer.buyer().look_at_channels().await;
        open().is_empty().then_some(())
    })
    .await;
    let gone = market.agent().store().read(|tx| records::seller(tx, &on.id)).unwrap().unwrap();
    assert!(["closing", "gone"].contains(&gone.state.name()), "{:?}", gone.state);
    assert!(matches!(market.ask(&on, Vec::new()).await, Err(Refusal::UnknownChannel { .. })));
    market.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_a_reorganisation_takes_away_leaves_the_channel_to_be_closed() {
    let mut market = Market::new(LENT).await;
    let dev = market.bootstrap.chain().dev_chain().unwrap().clone();
    let on = market.open().await;
    let (id, begin) = market.order(&on, LiveFrom::Latest).await;
    let mut stream = market.stream(&begin).await;
    stream.begun().await;
    stream.send(ToSeller::Voucher(market.sign(&on, 20, 20))).await;
    until("the voucher", || async {
        (market.ask(&on, vec![id]).await.unwrap().paid == [sat(20)]).then_some(())
    })
    .await;
    drop(stream);
    market.mine(1).await;
    // The seller is away when its time to close comes, and the buyer takes everything back.
    market.agent.take().unwrap().shutdown().await;
    let outpoint = on.contract.outpoint();
    let refund = until("the refund", || async {
        market.bootstrap.chain().mine().await.unwrap();
        drop(market.buyer.chain().refresh().await);
        market.buyer.buyer().look_at_channels().await;
        dev.spent_by(&outpoint).unwrap()
    })
    .await;
    market.buyer.shutdown().await;
    market.bootstrap.chain().mine().await.unwrap();
    let TxStatus::Mined { height, .. } = dev.status(&refund).unwrap() else { panic!("it is in a block") };

    let agent = Node::start(market.seller_options(LENT)).await.unwrap();
    let state = || agent.store().read(|tx| records::seller(tx, &on.id)).unwrap().unwrap().state.name();
    until("the loss", || async {
        drop(agent.chain().refresh().await);
        (state() == "gone").then_some(())
    })
    .await;
    let depth = dev.tip().unwrap().height - height + 1;
    dev.reorg(depth, Clock::system().now_ms(), OnReorg::Forget).unwrap();
    assert_eq!(dev.spent_by(&outpoint).unwrap(), None);
    until("the close", || async {
        drop(market.bootstrap.chain().mine().await);
        drop(agent.chain().refresh().await);
        (state() == "closed").then_some(())
    })
    .await;
    let label = format!("channel {}", on.id);
    let earned: i64 = agent
        .wallet()
        .history()
        .unwrap()
        .iter()
        .filter(|line| line.label.starts_with(&label))
        .map(|line| line.delta_sat)
        .sum();
    assert_eq!(earned, 20, "what was paid, after all");
    agent.shutdown().await;
    market.bootstrap.shutdown().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_takes_no_channel() {
    let (bootstrap, _) = bootstrap_mining(Duration::from_millis(100)).await;
    let buyer = identity(7);
    let quote = Request::QuoteChannel { value: sat(5_000), blocks: 80 };
    // A file system of the kernel, which says that it has no room.
    for (home, is_full) in [(None, false), (Some("/proc".into()), true)] {
        let double = Double::on_disk_of(home, 9, &bootstrap, 1).await;
        let answer = double.seller.answer(buyer.public(), quote.clone()).await;
        match answer {
            Response::Ok(Answer::ChannelOffer(_)) if !is_full => {}
            Response::Refused(Refusal::StorageUnavailable) if is_full => {}
            other => panic!("{is_full}: {other:?}"),
        }
    }
    bootstrap.shutdown().await;
}
