//! Batches whose key is released on the chain: sold, paid, claimed, refunded, and what becomes of each lie and each silence.

mod crook;
mod frames;
mod limits;
mod reorg;

use std::time::Duration;

use sensora_chain::sources::dev::{DevChain, TxStatus};
use sensora_chain::{OutPoint, Satoshis, Txid};
use sensora_node::buyer::{BuyError, BuyRequest, ReleaseLimits, Released};
use sensora_node::store::release;
use sensora_node::supervisor::{Node, NodeOptions};
use sensora_protocol::OrderId;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::key_release::buy::BatchPurchase;
use sensora_protocol::market::key_release::offer::KeyReleaseOfferError;
use sensora_protocol::market::key_release::sell::{BatchSale, BatchSaleState};
use sensora_protocol::market::offer::{BuyerLimits, Range};
use sensora_protocol::market::refusal::Refusal;
use tokio::task::JoinHandle;

use crate::chain_access::http::{Fake, Mood};
use crate::disk::Disk;
use crate::world::{Place, World, agent, bootstrap_mining, fund, options, sim, until};

/// Readings in one batch, at 2 sat each.
const COUNT: u64 = 1500;
const PRICE: u64 = 3000;
/// What the faucet gives the buyer.
const MONEY: u64 = 500_000;
/// No waiting: the key comes in the background.
const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);

pub(crate) fn seq(first: u64, count: u64) -> Range {
    Range::Seq { first, count }
}

/// A market on a chain whose blocks come when the test says so.
pub(crate) async fn market(readings: u64) -> World {
    market_with(readings, |_| ()).await
}

/// The same with a buyer that is set up otherwise.
async fn market_with(readings: u64, set_up: impl FnOnce(&mut NodeOptions)) -> World {
    let (bootstrap, addresses) = bootstrap_mining(Duration::from_secs(3600)).await;
    let mut config = options(2, &Place::Memory);
    config.bootstrap.clone_from(&addresses);
    config.agent = Some(agent(vec![sim(readings)]));
    let agent = Node::start(config).await.unwrap();
    let mut config = options(3, &Place::Memory);
    config.bootstrap.clone_from(&addresses);
    set_up(&mut config);
    let buyer = Node::start(config).await.unwrap();
    fund(&buyer, MONEY).await;
    let world = World { bootstrap, agent, buyer, addresses };
    world.recorded().await;
    world.stream().await;
    mine(&world.bootstrap, &[&world.agent, &world.buyer], 1).await;
    world
}

/// Mines blocks with all that waits, and lets the others follow.
pub(crate) async fn mine(bootstrap: &Node, others: &[&Node], blocks: u32) {
    for _ in 0..blocks {
        bootstrap.chain().mine().await.unwrap();
    }
    follow(bootstrap, others).await;
}

pub(crate) async fn follow(bootstrap: &Node, others: &[&Node]) {
    let tip = bootstrap.chain().headers().tip();
    until("all to follow", || async {
        for node in others {
            drop(node.chain().refresh().await);
        }
        others.iter().all(|node| node.chain().headers().tip() == tip).then_some(())
    })
    .await;
}

impl World {
    async fn mine(&self, blocks: u32) {
        mine(&self.bootstrap, &[&self.agent, &self.buyer], blocks).await;
    }

    pub(crate) fn dev_chain(&self) -> &DevChain {
        self.bootstrap.chain().dev_chain().unwrap()
    }

    /// Buys in a task of its own.
    fn buying(&self, request: &BuyRequest, patience: Duration) -> JoinHandle<Result<Released, BuyError>> {
        let (buyer, request) = (self.buyer.buyer().clone(), request.clone());
        tokio::spawn(async move {
            buyer.buy_by_key_release(&request, ReleaseLimits::default(), patience, |_| {}).await
        })
    }

    /// Orders, and returns when the network has the coin.
    async fn locked(&self, request: &BuyRequest) -> OrderId {
        let bought = self.buying(request, NOW).await.unwrap().unwrap();
        let Released::Waiting { order, state: "waiting", .. } = bought else { panic!("{bought:?}") };
        order
    }
}

pub(crate) fn purchase(node: &Node, id: &OrderId) -> BatchPurchase {
    node.buyer().release_purchase(id).unwrap()
}

pub(crate) fn state(node: &Node, id: &OrderId) -> &'static str {
    purchase(node, id).state.name()
}

pub(crate) fn sale(node: &Node, id: &OrderId) -> BatchSale {
    node.store().read(|tx| release::sale(tx, id)).unwrap().unwrap()
}

/// Waits for a purchase to come to a state, while the node looks at the chain.
pub(crate) async fn reaches(node: &Node, id: &OrderId, wanted: &str) {
    until(&format!("the order to be {wanted}"), || async {
        node.buyer().look_at_releases().await;
        (state(node, id) == wanted).then_some(())
    })
    .await;
}

/// The settled lines of history with this label.
pub(crate) fn lines(node: &Node, label: &str) -> Vec<i64> {
    let history = node.wallet().history().unwrap();
    let lines = history.iter().filter(|line| line.label == label && line.status.is_settled());
    lines.map(|line| line.delta_sat).collect()
}

fn fees(node: &Node) -> u64 {
    let history = node.wallet().history().unwrap();
    let settled = history.iter().filter(|line| line.status.is_settled());
    settled.filter_map(|line| line.fee).map(Satoshis::as_u64).sum()
}

fn given(node: &Node) -> u64 {
    u64::try_from(lines(node, "faucet").iter().sum::<i64>()).unwrap()
}

/// Every satoshi of both is somewhere; what claims and refunds have paid to miners is `taken`.
pub(crate) fn balance(nodes: &[&Node], taken: u64) {
    let total: u64 = nodes.iter().map(|node| node.wallet().audit().unwrap().total.as_u64()).sum();
    let fees: u64 = nodes.iter().map(|node| fees(node)).sum();
    let given: u64 = nodes.iter().map(|node| given(node)).sum();
    assert_eq!(total + fees + taken, given, "to the satoshi");
}

/// What is left of the price when the claim's miner is paid.
pub(crate) fn claim_fee(agent: &Node, order: &OrderId) -> u64 {
    let earned = lines(agent, &format!("sale {order}"));
    let [earned] = earned[..] else { panic!("one sale: {earned:?}") };
    let fee = PRICE - u64::try_from(earned).unwrap();
    assert!((10..=30).contains(&fee), "192 bytes at the usual rate: {fee}");
    fee
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_bought_with_its_key_and_the_books_of_both_are_right_to_the_satoshi() {
    let world = market(3000).await;
    let request = world.request(Range::Last(COUNT)).await;
    let buying = world.buying(&request, LONG);
    let order = until("an order with its coin out", || async {
        let all = world.buyer.buyer().releases().unwrap();
        all.iter().find(|order| order.state.name() == "waiting").map(|order| order.order)
    })
    .await;
    assert!(purchase(&world.buyer, &order).key.is_none(), "no key before the coin is firm");
    world.mine(6).await;
    world.agent.agent().unwrap().seller().look_at_releases().await;
    assert!(!sale(&world.agent, &order).state.is_shown(), "six confirmations are not seven");
    world.mine(1).await;
    let Released::Bought(bought) = buying.await.unwrap().unwrap() else { panic!() };
    assert_eq!((bought.count, bought.kept, bought.orders.len()), (COUNT, 0, 1));
    assert_eq!((bought.paid.as_u64(), bought.orders[0]), (PRICE, order));

    let schema = &request.ad.as_ref().unwrap().schema;
    let (first, end) = (bought.first, bought.first + COUNT);
    let here = world.buyer.buyer().readings(&request.stream, schema, first, end, usize::MAX - 1).unwrap();
    let sold = world.agent.agent().unwrap().recorder().readings(&request.stream, first, end).unwrap();
    assert_eq!(here, sold);
    assert!(purchase(&world.buyer, &order).receipt.is_some());
    // They are proven like others.
    until("the anchor", || async {
        world.mine(1).await;
        let standing = world.buyer.buyer().upgrade(&order).await.ok()?;
        matches!(standing, Standing::Mined { .. }).then_some(())
    })
    .await;
    let evidence = world.buyer.buyer().evidence(&order).unwrap();
    assert_eq!(evidence.verify(&world.buyer.chain().headers()).unwrap().count, COUNT);
    // What is here is not bought again.
    let again = world.buying(&request, NOW).await.unwrap().unwrap();
    let Released::Bought(again) = again else { panic!() };
    assert_eq!((again.kept, again.paid, again.orders.len()), (COUNT, Satoshis::ZERO, 0));

    world.mine(7).await;
    until("both to be done", || async {
        world.agent.agent().unwrap().seller().look_at_releases().await;
        world.buyer.buyer().look_at_releases().await;
        let done = matches!(sale(&world.agent, &order).state, BatchSaleState::Done { .. });
        let watched = world.buyer.store().read(release::watched_purchases).unwrap();
        (done && watched.is_empty()).then_some(())
    })
    .await;
    assert!(world.agent.store().read(release::open_sales).unwrap().is_empty());
    let left = world.buyer.store().read(|tx| release::part(tx, &order, 0)).unwrap();
    assert_eq!(left, None, "encrypted parts are not kept for ever");
    assert_eq!(lines(&world.buyer, &format!("order {order}")).len(), 1, "one payment");
    balance(&[&world.agent, &world.buyer], claim_fee(&world.agent, &order));
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_that_does_not_wait_has_its_readings_in_the_background() {
    let world = market(3000).await;
    let request = world.request(seq(0, COUNT)).await;
    let order = world.locked(&request).await;
    // Neither the same way nor another orders it twice.
    let again = world.buying(&request, NOW).await.unwrap().unwrap();
    assert!(matches!(again, Released::Waiting { order: same, .. } if same == order), "{again:?}");
    let direct = world.buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(direct, BuyError::KeyAwaited { order: same } if same == order), "{direct}");
    world.mine(7).await;
    reaches(&world.buyer, &order, "complete").await;
    let bought = world.buyer.buyer().buy(&request, |_| {}).await.unwrap();
    assert_eq!((bought.kept, bought.orders.len()), (COUNT, 0));
    assert_eq!(world.buyer.buyer().releases().unwrap().len(), 1);
    world.mine(1).await;
    until("the claim's coin", || async {
        world.agent.agent().unwrap().seller().look_at_releases().await;
        (!lines(&world.agent, &format!("sale {order}")).is_empty()).then_some(())
    })
    .await;
    balance(&[&world.agent, &world.buyer], claim_fee(&world.agent, &order));
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_is_gone_with_the_coin_locked_costs_nothing_but_time_and_a_fee() {
    let world = market(3000).await;
    let request = world.request(seq(0, COUNT)).await;
    let order = world.locked(&request).await;
    world.agent.shutdown().await;
    let both = [&world.buyer];
    mine(&world.bootstrap, &both, 1).await;
    let height = world.buyer.buyer().releases().unwrap()[0].refund_height;
    let early = crook::refund(&world.buyer, &order);
    assert!(world.buyer.chain().broadcast(&early).await.is_err(), "a refund before its height is refused");
    while world.bootstrap.chain().headers().tip().height < height - 1 {
        world.bootstrap.chain().mine().await.unwrap();
    }
    follow(&world.bootstrap, &both).await;
    world.buyer.buyer().look_at_releases().await;
    assert_eq!(state(&world.buyer, &order), "waiting", "it is not its time yet");
    mine(&world.bootstrap, &both, 1).await;
    reaches(&world.buyer, &order, "refunding").await;
    until("the refund, settled", || async {
        mine(&world.bootstrap, &both, 1).await;
        world.buyer.buyer().look_at_releases().await;
        (state(&world.buyer, &order) == "refunded").then_some(())
    })
    .await;
    let back = lines(&world.buyer, &format!("order {order}, taken back"));
    let [back] = back[..] else { panic!("one refund: {back:?}") };
    let fee = PRICE - u64::try_from(back).unwrap();
    assert!((40..=70).contains(&fee), "558 bytes at the usual rate: {fee}");
    balance(&both, fee);
    // The seller comes to no harm by being away, and the range can be bought again.
    assert!(world.buyer.store().read(release::watched_purchases).unwrap().is_empty());
    world.buyer.shutdown().await;
    world.bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_that_is_gone_once_its_coin_is_out_has_paid() {
    let world = market(3000).await;
    let request = world.request(seq(0, COUNT)).await;
    let order = world.locked(&request).await;
    world.buyer.shutdown().await;
    let agent = [&world.agent];
    mine(&world.bootstrap, &agent, 7).await;
    until("the claim to be settled", || async {
        world.agent.agent().unwrap().seller().look_at_releases().await;
        let done = matches!(sale(&world.agent, &order).state, BatchSaleState::Done { .. });
        if !done {
            mine(&world.bootstrap, &agent, 1).await;
        }
        done.then_some(())
    })
    .await;
    claim_fee(&world.agent, &order);
    world.agent.wallet().audit().unwrap();
    world.agent.shutdown().await;
    world.bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_never_paid_is_forgotten_by_both() {
    let world = market(3000).await;
    let request = world.request(seq(0, COUNT)).await;
    // Nothing to pay with: it stops when all parts are here.
    let all = world.buyer.wallet().balance().unwrap().total;
    let elsewhere = world.agent.wallet().address().unwrap();
    let most = Satoshis::from_sat(all.as_u64() - 500);
    world.buyer.wallet().send(&elsewhere, most).await.unwrap();
    let poor = world.buying(&request, NOW).await.unwrap().unwrap_err();
    assert!(matches!(poor, BuyError::Wallet(_)), "{poor}");
    let order = world.buyer.buyer().releases().unwrap()[0].order;
    assert_eq!(state(&world.buyer, &order), "received");
    assert!(matches!(sale(&world.agent, &order).state, BatchSaleState::Delivering));
    world.mine(144).await;
    until("both to forget it", || async {
        world.agent.agent().unwrap().seller().look_at_releases().await;
        world.buyer.buyer().look_at_releases().await;
        let sold = world.agent.store().read(|tx| release::sale(tx, &order)).unwrap();
        (sold.is_none() && state(&world.buyer, &order) == "dropped").then_some(())
    })
    .await;
    let left = world.buyer.store().read(|tx| release::part(tx, &order, 0)).unwrap();
    assert_eq!(left, None);
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_cannot_be_is_said_before_anything_is_ordered() {
    let world = market(3000).await;
    let few = world.request(seq(0, 400)).await;
    let refused = world.buying(&few, NOW).await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, BuyError::Refused(Refusal::InvalidOrder { reason }) if reason.contains("at least")),
        "{refused}"
    );
    let request = world.request(seq(0, COUNT)).await;
    let dear = BuyRequest {
        limits: BuyerLimits { exposure: Satoshis::from_sat(PRICE - 1), ..request.limits },
        ..request.clone()
    };
    let error = world.buying(&dear, NOW).await.unwrap().unwrap_err();
    let BuyError::ReleaseOffer(error) = error else { panic!("{error}") };
    assert!(matches!(*error, KeyReleaseOfferError::Exposure { .. }), "{error}");
    let small = ReleaseLimits { max_length: 1000, ..ReleaseLimits::default() };
    let error = world.buyer.buyer().buy_by_key_release(&request, small, NOW, |_| {}).await.unwrap_err();
    let BuyError::ReleaseOffer(error) = error else { panic!("{error}") };
    assert!(matches!(*error, KeyReleaseOfferError::TooLong { max: 1000, .. }), "{error}");
    let short = ReleaseLimits { max_lock: 100, ..ReleaseLimits::default() };
    let error = world.buyer.buyer().buy_by_key_release(&request, short, NOW, |_| {}).await.unwrap_err();
    let BuyError::ReleaseOffer(error) = error else { panic!("{error}") };
    assert!(matches!(*error, KeyReleaseOfferError::RefundHeight { .. }), "{error}");
    assert!(world.buyer.buyer().releases().unwrap().is_empty());
    assert_eq!(world.buyer.wallet().audit().unwrap().total.as_u64(), MONEY);
    // Somebody who sells nothing says so.
    let nobody = BuyRequest { seller: *world.bootstrap.identity().public(), ..request };
    let error = world.buying(&nobody, NOW).await.unwrap().unwrap_err();
    assert!(matches!(error, BuyError::NoOffer { .. }), "{error}");
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_orders_at_a_seller_count_against_the_exposure() {
    let world = market(4000).await;
    let request = world.request(seq(0, COUNT)).await;
    world.locked(&request).await;
    let mut next = world.request(seq(COUNT, COUNT)).await;
    next.limits.exposure = Satoshis::from_sat(2 * PRICE - 1);
    let error = world.buying(&next, NOW).await.unwrap().unwrap_err();
    assert!(matches!(error, BuyError::Offer(_)), "{error}");
    next.limits.exposure = Satoshis::from_sat(2 * PRICE);
    world.locked(&next).await;
    world.shutdown().await;
}

pub(crate) fn is_mined(chain: &DevChain, txid: &Txid) -> bool {
    matches!(chain.status(txid).unwrap(), TxStatus::Mined { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_goes_out_at_its_height_when_nobody_says_what_spends_coins() {
    let disk = Disk::new();
    let world = market_with(3000, |config| config.store = disk.store(3).unwrap()).await;
    let request = world.request(seq(0, COUNT)).await;
    let order = world.locked(&request).await;
    let height = world.buyer.buyer().releases().unwrap()[0].refund_height;
    let dev = world.dev_chain().clone();
    let World { bootstrap, agent, buyer, addresses } = world;
    agent.shutdown().await;
    buyer.shutdown().await;
    drop((agent, buyer));

    let fake = Fake::start(&dev, Mood::Fair).await;
    let mut config = options(3, &Place::Disk(&disk));
    config.chain = fake.blind_to_outputs();
    let buyer = Node::start(config).await.unwrap();
    let coin = purchase(&buyer, &order).coin.unwrap();
    let coin = OutPoint { txid: coin.txid, vout: coin.vout };
    while bootstrap.chain().headers().tip().height < height - 1 {
        bootstrap.chain().mine().await.unwrap();
    }
    follow(&bootstrap, &[&buyer]).await;
    buyer.buyer().look_at_releases().await;
    assert_eq!(dev.spent_by(&coin).unwrap(), None, "it is not its time yet");
    mine(&bootstrap, &[&buyer], 1).await;
    until("the refund", || async {
        buyer.buyer().look_at_releases().await;
        dev.spent_by(&coin).unwrap()
    })
    .await;
    assert_eq!(state(&buyer, &order), "waiting", "its seller is still asked for the key");
    mine(&bootstrap, &[&buyer], 7).await;
    buyer.shutdown().await;
    drop(buyer);

    // As soon as somebody says what has spent the coin, it is settled.
    let mut config = options(3, &Place::Disk(&disk));
    config.bootstrap = addresses;
    let buyer = Node::start(config).await.unwrap();
    follow(&bootstrap, &[&buyer]).await;
    reaches(&buyer, &order, "refunded").await;
    buyer.shutdown().await;
    bootstrap.shutdown().await;
}
