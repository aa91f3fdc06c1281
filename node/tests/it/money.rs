//! Money: who refuses, who withholds, who spends twice, and blocks that vanish. Every satoshi stays accounted for.

use std::collections::BTreeSet;
use std::time::Duration;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::dev::{OnReorg, TxStatus};
use sensora_chain::wallet::{HistoryEntry, Status, WalletError};
use sensora_chain::{Satoshis, Script, TxOut, Txid};
use sensora_node::agent::source::RawReading;
use sensora_node::buyer::{BuyError, BuyRequest, OrderState};
use sensora_node::clock::Clock;
use sensora_node::store::{orders, wallet};
use sensora_node::supervisor::{ChainRole, Node};
use sensora_node::wallet::WalletHandleError;
use sensora_protocol::ad::PaymentMode;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::Range;
use sensora_protocol::market::purchase::PurchaseState;
use sensora_protocol::market::receipt::HOLD_MS;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::PurchaseRequest;

use crate::double::Double;
use crate::expiry::subscription;
use crate::world::{
    Place, World, address, agent, bootstrap_mining, fund, limits, options, sim, try_options, until,
};

/// An hour: blocks come when the test says so.
const NEVER: Duration = Duration::from_secs(3600);

/// A chain that waits for the test, a buyer with money, and a seller whose answers can be bent.
async fn stage() -> (Node, Node, Double) {
    let (bootstrap, addresses) = bootstrap_mining(NEVER).await;
    let mut config = options(3, &Place::Memory);
    config.bootstrap = addresses;
    let buyer = Node::start(config).await.unwrap();
    fund(&buyer, 1_000_000).await;
    let double = Double::new(9, &bootstrap, 300).await;
    (bootstrap, buyer, double)
}

async fn close(bootstrap: Node, buyer: Node) {
    buyer.wallet().audit().unwrap();
    buyer.shutdown().await;
    bootstrap.shutdown().await;
}

fn total(node: &Node) -> u64 {
    node.wallet().audit().unwrap().total.as_u64()
}

fn state(node: &Node, index: usize) -> PurchaseState {
    let OrderState::Direct(state) = node.buyer().orders().unwrap()[index].state.clone() else { panic!() };
    state
}

fn seq(first: u64, count: u64) -> Range {
    Range::Seq { first, count }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coins_of_a_refused_payment_are_back_and_the_payment_can_never_be_taken() {
    let (bootstrap, buyer, double) = stage().await;
    let before = total(&buyer);
    let request = double.meet(&buyer, seq(0, 50)).await;
    double.intercepts(|request| match request {
        Request::Purchase(_) => Some(Response::Refused(Refusal::NotSelling)),
        _ => None,
    });
    let error = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(error, BuyError::PaymentRefused { taken_back: true, .. }), "{error}");
    assert!(matches!(state(&buyer, 0), PurchaseState::TakenBack { .. }));
    let purchase = buyer.buyer().purchase(&buyer.buyer().orders().unwrap()[0].order).unwrap();
    let payment = purchase.payment.unwrap();
    let refused = bootstrap.chain().broadcast(&payment.beef).await.unwrap_err();
    assert_eq!(refused.label(), "double_spent", "the seller cannot use it any more");
    let fees: u64 = buyer
        .wallet()
        .history()
        .unwrap()
        .iter()
        .filter(|l| l.status.is_settled())
        .filter_map(|l| l.fee)
        .map(Satoshis::as_u64)
        .sum();
    assert_eq!(total(&buyer), before - fees);
    assert_eq!(buyer.wallet().balance().unwrap().reserved, Satoshis::ZERO);
    // The same command again orders anew, and is served by a seller that sells.
    double.repents();
    let bought = buyer.buyer().buy(&request, |_| {}).await.unwrap();
    assert_eq!((bought.orders.len(), bought.paid), (1, Satoshis::from_sat(100)));
    close(bootstrap, buyer).await;
}

/// The seller refuses a payment and keeps it; the coins come back, the same readings are bought again, and then a miner takes the first payment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_payment_that_is_mined_after_all_takes_the_place_of_the_one_after_it() {
    let (bootstrap, buyer, double) = stage().await;
    let chain = bootstrap.chain().dev_chain().unwrap();
    bootstrap.chain().mine().await.unwrap();
    let request = double.meet(&buyer, seq(0, 50)).await;
    double.intercepts(|request| match request {
        Request::Purchase(_) => Some(Response::Refused(Refusal::NotSelling)),
        _ => None,
    });
    let error = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(error, BuyError::PaymentRefused { taken_back: true, .. }), "{error}");
    let first = buyer.buyer().orders().unwrap()[0].order;
    let payment = buyer.buyer().purchase(&first).unwrap().payment.unwrap();
    let used = |buyer: &Node| buyer.buyer().budgets(double.identity.public()).unwrap().1.day.as_u64();
    assert_eq!(used(&buyer), 0, "what is back is free to be spent");
    double.repents();

    // A channel's money excludes nothing.
    let by_channel = buyer.buyer().buy_through_channel(&request, |_| {}).await.unwrap_err();
    assert!(matches!(by_channel, BuyError::MayReturn { order } if order == first), "{by_channel}");
    let live = buyer.buyer().subscribe(&subscription(&request, 0, 100, 100)).await.map(drop).unwrap_err();
    assert!(matches!(live, BuyError::MayReturn { order } if order == first), "{live}");
    let bought = buyer.buyer().buy(&request, |_| {}).await.unwrap();
    let second = buyer.buyer().purchase(&bought.orders[0]).unwrap();
    assert_eq!((bought.paid.as_u64(), used(&buyer)), (100, 100));

    // The seller has forgotten the order, and its offer is long over.
    double.clock.advance(Duration::from_secs(24 * 3600));
    let now = Clock::system().now_ms();
    chain.mine(now).unwrap();
    chain.reorg(1, now, OnReorg::Forget).unwrap();
    bootstrap.chain().broadcast(&payment.beef).await.unwrap();
    let outdone = bootstrap.chain().broadcast(&second.payment.as_ref().unwrap().beef).await;
    assert_eq!(outdone.unwrap_err().label(), "double_spent", "only one of the two can be taken");
    bootstrap.chain().mine().await.unwrap();
    until("the first payment to be known as paid", || async {
        drop(buyer.chain().refresh().await);
        drop(buyer.buyer().look_at_taken_back());
        matches!(state(&buyer, 0), PurchaseState::Complete { .. }).then_some(())
    })
    .await;
    assert_eq!(used(&buyer), 200, "a budget counts what was committed until it is known to be free");
    let fees: u64 = {
        let history = buyer.wallet().history().unwrap();
        let settled = history.iter().filter(|line| line.status.is_settled());
        settled.filter_map(|line| line.fee).map(Satoshis::as_u64).sum()
    };
    assert_eq!(total(&buyer), 1_000_000 - 100 - fees, "charged once");
    assert_eq!(double.wallet.audit().unwrap().total.as_u64(), 100, "and credited once");
    close(bootstrap, buyer).await;
}

/// The wallet keeps a thousand finished lines: what it has let go was settled, or never will be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_the_wallet_has_let_go_as_settled_is_not_outdone() {
    let (bootstrap, buyer, _double) = stage().await;
    let (mined, dead, unknown) = (Txid([7; 32]), Txid([8; 32]), Txid([9; 32]));
    let line = |txid, status| HistoryEntry {
        txid,
        label: "buy".into(),
        delta_sat: -1,
        fee: None,
        time_ms: 0,
        status,
    };
    let lines = [line(mined, Status::Mined { height: 1 }), line(dead, Status::Conflicted { by: mined })];
    buyer.store().write(|tx| wallet::archive(tx, &lines)).unwrap();
    let wallet = buyer.wallet();
    let outdone = [mined, dead, unknown].map(|txid| wallet.is_outdone(&txid, 7).unwrap());
    assert_eq!(outdone, [false, true, true]);
    let last = [mined, dead, unknown].map(|txid| wallet.last_status(&txid).unwrap());
    assert_eq!(last, [Some(lines[0].status.clone()), Some(lines[1].status.clone()), None]);
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coins_that_are_back_are_back_for_good_seven_blocks_later() {
    let (bootstrap, buyer, double) = stage().await;
    let request = double.meet(&buyer, seq(0, 50)).await;
    double.intercepts(|request| match request {
        Request::Purchase(_) => Some(Response::Refused(Refusal::NotSelling)),
        _ => None,
    });
    buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    let order = buyer.buyer().orders().unwrap()[0].order;
    let why = || buyer.buyer().orders().unwrap()[0].why.clone().unwrap();
    assert!(why().contains("7 blocks deep"), "{}", why());
    assert!(buyer.buyer().resume(|_| {}).await.unwrap().is_empty(), "nothing is to be done");
    let reclaim = format!("reclaim {}", buyer.buyer().purchase(&order).unwrap().payment.unwrap().txid);
    for _ in 0..6 {
        bootstrap.chain().mine().await.unwrap();
    }
    until("the reclaim to be known as mined", || async {
        drop(buyer.chain().refresh().await);
        let history = buyer.wallet().history().unwrap();
        history
            .iter()
            .any(|line| line.label == reclaim && matches!(line.status, Status::Mined { .. }))
            .then_some(())
    })
    .await;
    drop(buyer.buyer().look_at_taken_back());
    assert!(buyer.buyer().purchase(&order).unwrap().may_return(), "6 blocks are not 7");
    bootstrap.chain().mine().await.unwrap();
    until("the reclaim to be deep", || async {
        drop(buyer.chain().refresh().await);
        drop(buyer.buyer().look_at_taken_back());
        buyer.buyer().purchase(&order).unwrap().is_final().then_some(())
    })
    .await;
    assert!(!why().contains("7 blocks deep"), "{}", why());
    assert!(buyer.store().read(orders::open_purchases).unwrap().is_empty());
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_takes_the_money_and_refuses_is_seen_through_and_not_paid_again() {
    let (bootstrap, buyer, double) = stage().await;
    let request = double.meet(&buyer, seq(0, 50)).await;
    double.answers(|request, answer| match request {
        Request::Purchase(_) => Response::Refused(Refusal::OfferExpired { expires_ms: 0 }),
        _ => answer,
    });
    let error = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(error, BuyError::Withheld { .. }), "{error}");
    assert!(matches!(state(&buyer, 0), PurchaseState::Withheld { .. }));
    let paid = total(&buyer);
    // Neither resuming nor buying pays a second time.
    for _ in 0..2 {
        assert!(matches!(buyer.buyer().buy(&request, |_| {}).await, Err(BuyError::Withheld { .. })));
        let resumed = buyer.buyer().resume(|_| {}).await.unwrap();
        assert!(matches!(resumed.as_slice(), [(_, Err(BuyError::Withheld { .. }))]));
    }
    assert_eq!(total(&buyer), paid);
    assert_eq!(buyer.buyer().orders().unwrap().len(), 1);
    double.repents();
    let bought = buyer.buyer().buy(&request, |_| {}).await.unwrap();
    assert_eq!((bought.kept, bought.paid), (50, Satoshis::ZERO), "what was paid is delivered after all");
    assert_eq!(total(&buyer), paid);
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_seller_binds_no_coins_for_ever() {
    let (bootstrap, buyer, double) = stage().await;
    let request = double.meet(&buyer, seq(0, 10)).await;
    // It says nothing that helps; the honest seller never sees the payment.
    double.intercepts(|request| match request {
        Request::Purchase(_) => Some(Response::Refused(Refusal::ChainUnavailable)),
        _ => None,
    });
    let offer = buyer.buyer().quote(&request).await.unwrap();
    let order = buyer.buyer().order(&offer).unwrap().id;
    assert!(buyer.wallet().balance().unwrap().reserved > Satoshis::ZERO);
    let error = buyer.buyer().give_up(&order).await.unwrap_err();
    assert!(matches!(error, BuyError::GivenUp { taken_back: true, .. }), "{error}");
    assert_eq!(buyer.wallet().balance().unwrap().reserved, Satoshis::ZERO);
    // One that had broadcast it is asked for the goods.
    double.repents();
    let offer = buyer.buyer().quote(&request).await.unwrap();
    let purchase = buyer.buyer().order(&offer).unwrap();
    bootstrap.chain().broadcast(&purchase.payment.as_ref().unwrap().beef).await.unwrap();
    buyer.buyer().give_up(&purchase.id).await.unwrap();
    assert!(matches!(buyer.buyer().purchase(&purchase.id).unwrap().state, PurchaseState::Complete { .. }));
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coin_that_was_spent_elsewhere_is_noticed_and_ends_the_order() {
    let (bootstrap, buyer, double) = stage().await;
    let request = double.meet(&buyer, seq(0, 10)).await;
    // Another copy of this wallet spends everything: an old backup, put back.
    let copy = buyer.wallet().read(Clone::clone);
    let offer = buyer.buyer().quote(&request).await.unwrap();
    let order = buyer.buyer().order(&offer).unwrap().id;
    let mut copy = copy;
    let all = TxOut { value: Satoshis::from_sat(999_980), locking: Script::p2pkh(&[9; 20]) };
    let spec = buyer.wallet().spec(vec![all], "elsewhere").unwrap();
    let elsewhere = copy.build(buyer.identity().key(), spec, 0).unwrap();
    bootstrap.chain().broadcast(&elsewhere.beef).await.unwrap();

    let error = buyer.buyer().resume_order(&order, |_| {}).await.unwrap_err();
    let refused = matches!(
        &error,
        BuyError::PaymentRefused { refusal: Refusal::DoubleSpent { .. }, taken_back: true, .. }
    );
    assert!(refused, "{error}");
    assert_eq!(total(&buyer), 0, "the wallet knows that the coin is gone");
    let lines = buyer.wallet().history().unwrap();
    assert!(lines.iter().any(|line| line.label == "spent elsewhere" && line.txid == elsewhere.txid));
    assert!(double.store.read(orders::sales).unwrap().is_empty());
    let broke = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(broke, BuyError::MayReturn { order: other } if other == order), "{broke}");
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_offer_ordered_twice_and_one_range_ordered_by_many_are_paid_once() {
    let (bootstrap, buyer, double) = stage().await;
    let request = double.meet(&buyer, seq(0, 50)).await;
    let offer = buyer.buyer().quote(&request).await.unwrap();
    let first = buyer.buyer().order(&offer).unwrap();
    let error = buyer.buyer().order(&offer).unwrap_err();
    assert!(
        matches!(&error, BuyError::AlreadyOrdered { order: Some(order), .. } if *order == first.id),
        "{error}"
    );
    // Ten tasks want overlapping parts at the same time.
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let (buyer, request) =
                (buyer.buyer().clone(), BuyRequest { range: seq(n * 5, 50), ..request.clone() });
            tokio::spawn(async move { buyer.buy(&request, |_| {}).await })
        })
        .collect();
    let mut paid = 0;
    for task in tasks {
        paid += task.await.unwrap().unwrap().paid.as_u64();
    }
    // 0 to 95: the first 50 by the order that was there, each further reading once.
    assert_eq!(paid, 90);
    let orders = buyer.buyer().orders().unwrap();
    assert_eq!(orders.iter().map(|order| order.count).sum::<u64>(), 95);
    assert!(orders.iter().all(|order| order.state.is_complete()));
    let earned: i64 = double.wallet.history().unwrap().iter().map(|line| line.delta_sat).sum();
    assert_eq!(earned, 190);
    assert!(matches!(buyer.buyer().order(&offer), Err(BuyError::AlreadyOrdered { order: None, .. })));
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_orders_at_once_never_reserve_more_than_there_is() {
    let (bootstrap, buyer, double) = stage().await;
    // 64 orders of 2 readings; many coins, but not enough for all of it.
    let mut config = options(4, &Place::Memory);
    config.bootstrap = bootstrap.addresses().await;
    let poor = Node::start(config).await.unwrap();
    for _ in 0..5 {
        fund(&poor, 500).await;
    }
    let request = double.meet(&poor, seq(0, 1)).await;
    let mut offers = Vec::new();
    for n in 0..64 {
        // At the seller itself: over the swarm our own pace would make this a long test.
        let quote =
            Request::Quote { stream: request.stream, range: seq(n * 4, 4), mode: PaymentMode::Direct };
        match double.seller.answer(poor.identity().public(), quote).await {
            Response::Ok(Answer::Offer(offer)) => {
                offers.push(offer.verify(sensora_chain::Network::Regtest).unwrap());
            }
            other => panic!("{}", other.name()),
        }
    }
    let before = total(&poor);
    let ordering: Vec<_> = offers
        .into_iter()
        .map(|offer| {
            let buyer = poor.buyer().clone();
            tokio::task::spawn_blocking(move || buyer.order(&offer))
        })
        .collect();
    let mut ordered = Vec::new();
    for order in ordering {
        match order.await.unwrap() {
            Ok(purchase) => ordered.push(purchase),
            Err(BuyError::Wallet(error))
                if matches!(&*error, WalletHandleError::Wallet(WalletError::Funds { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!ordered.is_empty() && ordered.len() < 64, "{}", ordered.len());
    let balance = poor.wallet().audit().unwrap();
    assert_eq!(balance.total.as_u64(), before);
    assert!(balance.reserved <= balance.total);
    // No coin is in two payments.
    let mut spent = BTreeSet::new();
    for purchase in &ordered {
        let payment = purchase.payment.as_ref().unwrap();
        let beef = Beef::parse(&payment.beef, &BeefLimits::default()).unwrap();
        for input in &beef.transaction(&payment.txid).unwrap().inputs {
            assert!(spent.insert(input.previous), "{} is in two payments", input.previous);
        }
    }
    let resumed = poor.buyer().resume(|_| {}).await.unwrap();
    assert!(resumed.iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(resumed.len(), ordered.len());
    let sold: i64 = double.wallet.history().unwrap().iter().map(|line| line.delta_sat).sum();
    assert_eq!(sold, 8 * i64::try_from(ordered.len()).unwrap());
    let fees: u64 = poor.wallet().history().unwrap().iter().filter_map(|l| l.fee).map(Satoshis::as_u64).sum();
    assert_eq!(total(&poor) + fees + u64::try_from(sold).unwrap(), before);
    poor.shutdown().await;
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_buyers_of_the_same_readings_each_pay_once_and_know_nothing_of_each_other() {
    let world = World::new(100).await;
    let mut config = options(4, &Place::Memory);
    config.bootstrap.clone_from(&world.addresses);
    let second = Node::start(config).await.unwrap();
    fund(&second, 100_000).await;
    let request = world.request(seq(0, 40)).await;
    let (one, two) =
        tokio::join!(world.buyer.buyer().buy(&request, |_| {}), second.buyer().buy(&request, |_| {}));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.orders, two.orders);
    let sales = world.agent.wallet().history().unwrap();
    let sales: Vec<i64> = sales.iter().filter(|l| l.label.starts_with("sale")).map(|l| l.delta_sat).collect();
    assert_eq!(sales, [80, 80]);
    let theirs = Request::Fetch { order: one.orders[0], first: 0 };
    let answer = second.buyer().ask(&request.seller, &theirs).await.unwrap();
    assert_eq!(answer.name(), "unknown_order");
    second.wallet().audit().unwrap();
    second.shutdown().await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_rests_on_a_block_the_seller_has_not_seen_is_taken() {
    let (bootstrap, buyer, double) = stage().await;
    bootstrap.chain().mine().await.unwrap();
    let funded = buyer.wallet().history().unwrap()[0].txid;
    until("the proof of the coin", || async {
        matches!(buyer.wallet().status(&funded), Some(Status::Mined { .. })).then_some(())
    })
    .await;
    let behind = double.chain.headers().tip().height;
    assert!(behind < bootstrap.chain().headers().tip().height);
    let request = double.meet(&buyer, seq(0, 10)).await;
    buyer.buyer().buy(&request, |_| {}).await.unwrap();
    assert!(double.chain.headers().tip().height > behind, "it looked");
    // A block that nobody has is no reason to look all the time: it is said to be so, and the payment is not taken.
    let offer = buyer.buyer().quote(&BuyRequest { range: seq(10, 10), ..request.clone() }).await.unwrap();
    let purchase = buyer.buyer().order(&offer).unwrap();
    let payment = purchase.payment.as_ref().unwrap();
    let real = Beef::parse(&payment.beef, &BeefLimits::default()).unwrap();
    let tx = real.transaction(&payment.txid).unwrap().clone();
    let mut dream = Beef::new();
    let path = MerklePath::for_block(1_000_000, &[payment.txid], 0).unwrap();
    dream.add(tx, Some(&path)).unwrap();
    let request = PurchaseRequest {
        offer: purchase.offer.clone(),
        order: purchase.order.clone(),
        payment: dream.to_atomic(&payment.txid).unwrap(),
    };
    let seller = double.key();
    let answer = buyer.buyer().ask(&seller, &Request::Purchase(request)).await.unwrap();
    assert!(matches!(answer, Response::Refused(Refusal::HeadersBehind { height: 1_000_000, .. })));
    buyer.buyer().resume_order(&purchase.id, |_| {}).await.unwrap();
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_kept_for_thirty_days_and_then_forgotten() {
    let (bootstrap, buyer, double) = stage().await;
    let request = double.meet(&buyer, seq(0, 10)).await;
    let order = buyer.buyer().buy(&request, |_| {}).await.unwrap().orders[0];
    double.clock.advance(Duration::from_millis(HOLD_MS.unsigned_abs()));
    double.seller.forget_old().unwrap();
    buyer.buyer().receipt(&order).await.unwrap();
    double.clock.advance(Duration::from_secs(2 * 86_400));
    double.seller.forget_old().unwrap();
    let error = buyer.buyer().receipt(&order).await.unwrap_err();
    assert!(matches!(error, BuyError::Refused(Refusal::UnknownOrder { .. })), "{error}");
    assert!(double.store.read(orders::sales).unwrap().is_empty());
    // An order that comes back from the past is not charged a second time: its offer is over.
    let purchase = buyer.buyer().purchase(&order).unwrap();
    let again = PurchaseRequest {
        offer: purchase.offer,
        order: purchase.order,
        payment: purchase.payment.unwrap().beef,
    };
    let answer = buyer.buyer().ask(&double.key(), &Request::Purchase(again)).await.unwrap();
    assert_eq!(answer.name(), "offer_expired");
    assert_eq!(double.wallet.history().unwrap().len(), 1);
    close(bootstrap, buyer).await;
}

/// A market whose blocks come on demand.
async fn slow_world() -> World {
    let (bootstrap, addresses) = bootstrap_mining(NEVER).await;
    let mut config = options(2, &Place::Memory);
    config.bootstrap.clone_from(&addresses);
    config.agent = Some(agent(vec![sim(200)]));
    let agent = Node::start(config).await.unwrap();
    let mut config = options(3, &Place::Memory);
    config.bootstrap.clone_from(&addresses);
    let buyer = Node::start(config).await.unwrap();
    fund(&buyer, 100_000).await;
    let world = World { bootstrap, agent, buyer, addresses };
    world.recorded().await;
    world
}

/// Waits until the chain has these transactions, mines them, and waits until both wallets know.
async fn mined(world: &World, txids: &[Txid]) {
    let chain = world.bootstrap.chain();
    let dev = chain.dev_chain().unwrap();
    until("the transactions to be on the chain", || async {
        let there = |txid| matches!(dev.status(txid).unwrap(), TxStatus::Mempool | TxStatus::Mined { .. });
        if !txids.iter().all(there) {
            // Time goes on, and with each block the wallets look.
            dev.mine_empty(Clock::system().now_ms()).unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            return None;
        }
        Some(())
    })
    .await;
    chain.mine().await.unwrap();
    for (node, name) in [(&world.buyer, "buyer"), (&world.agent, "agent")] {
        until(&format!("the {name} to see its transactions mined"), || async {
            let mut statuses = txids.iter().filter_map(|txid| node.wallet().status(txid));
            statuses.all(|status| matches!(status, Status::Mined { .. })).then_some(())
        })
        .await;
    }
}

/// What a wallet has, and what its transactions so far have paid to miners: an ad or an anchor may be made at any moment.
fn before_fees(node: &Node) -> u64 {
    node.wallet().read(|wallet| {
        let settled = wallet.history().into_iter().filter(|line| line.status.is_settled());
        let fees: u64 = settled.filter_map(|line| line.fee).map(Satoshis::as_u64).sum();
        wallet.audit().unwrap().total.as_u64() + fees
    })
}

async fn reorganised(dropped: OnReorg) {
    let world = slow_world().await;
    let bought = world.buyer.buyer().buy(&world.request(seq(0, 50)).await, |_| {}).await.unwrap();
    let order = bought.orders[0];
    let payment = world.buyer.buyer().purchase(&order).unwrap().payment.unwrap().txid;
    let anchorer = world.agent.agent().unwrap().anchorer().clone();
    let anchor = until("an anchor", || async {
        let newest = anchorer.newest_anchors(1).ok()?.into_iter().next()?;
        world.agent.wallet().status(&newest.txid)?.is_settled().then_some(newest.txid)
    })
    .await;
    mined(&world, &[payment, anchor]).await;
    let upgraded = async || {
        until("the proof in a block", || async {
            match world.buyer.buyer().upgrade(&order).await {
                Ok(standing @ Standing::Mined { .. }) => Some(standing),
                _ => None,
            }
        })
        .await
    };
    upgraded().await;
    let totals = || (before_fees(&world.buyer), before_fees(&world.agent));
    let before = totals();
    let chain = world.bootstrap.chain().dev_chain().unwrap().clone();
    for depth in 1..=6 {
        // Blocks on top, so that the depth is what counts.
        let TxStatus::Mined { height, .. } = chain.status(&payment).unwrap() else { panic!("not mined") };
        while chain.tip().unwrap().height < height + depth - 1 {
            chain.mine_empty(Clock::system().now_ms()).unwrap();
        }
        chain.reorg(depth, Clock::system().now_ms(), dropped).unwrap();
        world.bootstrap.chain().refresh().await.unwrap();
        assert!(!matches!(chain.status(&payment).unwrap(), TxStatus::Mined { .. }), "the block is gone");
        for node in [&world.buyer, &world.agent] {
            until("the reorganisation to be seen", || async {
                let seen = node.chain().headers().tip() == world.bootstrap.chain().headers().tip();
                let mined = matches!(node.wallet().status(&payment), Some(Status::Mined { .. }));
                (seen && !mined).then_some(())
            })
            .await;
        }
        assert_eq!(totals(), before, "unmined is not unpaid");
        // What the kept proof says is checked against the chain as it is now.
        let standing = world.buyer.buyer().standing(&order);
        assert!(!matches!(standing, Ok(Standing::Mined { .. })), "{standing:?}");
        mined(&world, &[payment, anchor]).await;
        assert_eq!(totals(), before);
        upgraded().await;
        world.buyer.buyer().evidence(&order).unwrap().verify(&world.buyer.chain().headers()).unwrap();
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorganisation_that_puts_transactions_back_changes_no_conclusion() {
    reorganised(OnReorg::Requeue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorganisation_that_forgets_transactions_changes_no_conclusion() {
    reorganised(OnReorg::Forget).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_whose_coin_was_spent_elsewhere_is_made_anew_from_another_coin() {
    let (bootstrap, buyer, double) = stage().await;
    double.wallet.fund_from_faucet(Satoshis::from_sat(10_000)).await.unwrap();
    let mut copy = double.wallet.read(Clone::clone);
    let all = TxOut { value: Satoshis::from_sat(9_980), locking: Script::p2pkh(&[9; 20]) };
    let elsewhere =
        copy.build(double.identity.key(), double.wallet.spec(vec![all], "elsewhere").unwrap(), 0).unwrap();
    bootstrap.chain().broadcast(&elsewhere.beef).await.unwrap();
    let error = double.anchorer.anchor_now().await.unwrap_err();
    assert!(error.to_string().contains("refuses"), "{error}");
    assert_eq!(double.wallet.audit().unwrap().total, Satoshis::ZERO, "the coin is known to be gone");
    let stream = double.streams[0];
    assert!(double.anchorer.proof(&stream, 0).unwrap().is_none(), "what was refused is no anchor");
    double.wallet.fund_from_faucet(Satoshis::from_sat(10_000)).await.unwrap();
    let anchor = double.anchorer.anchor_now().await.unwrap().unwrap();
    assert_eq!(anchor.number, 1);
    let (checkpoint, _) = double.anchorer.proof(&stream, 0).unwrap().unwrap();
    assert_eq!(checkpoint.value().size, 300);
    assert!(double.anchorer.anchor_now().await.unwrap().is_none(), "nothing has grown");
    double.wallet.audit().unwrap();
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_chain_cannot_be_reached_one_anchor_and_one_payment_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = address();
    let start_chain = async || {
        until("the chain to start", || async {
            let mut config = try_options(1, &Place::Memory, place.clone()).unwrap();
            let path = Some(folder.path().join("chain.redb"));
            config.chain = ChainRole::DevChain { path, block_interval: NEVER };
            Node::start(config).await.map_err(|error| eprintln!("{error}")).ok()
        })
        .await
    };
    let bootstrap = start_chain().await;
    let addresses = bootstrap.addresses().await;
    let mut config = options(2, &Place::Memory);
    config.bootstrap.clone_from(&addresses);
    config.agent = Some(agent(vec![sim(200)]));
    let selling = Node::start(config).await.unwrap();
    let mut config = options(3, &Place::Memory);
    config.bootstrap = addresses;
    let buyer = Node::start(config).await.unwrap();
    fund(&buyer, 100_000).await;
    let seller = *selling.identity().public();
    let ad = until("the ad", || async {
        let found = buyer.discovery().ad_of(&seller).await.ok()?;
        found.ad.value().streams.first().filter(|stream| stream.size >= 100).cloned()
    })
    .await;
    let stream = ad.id;
    let request = BuyRequest { seller, stream, range: seq(0, 10), limits: limits(), ad: Some(ad) };
    let agent = selling.agent().unwrap();
    until("everything to be anchored", || async {
        let newest = agent.anchorer().newest_anchors(1).ok()?.into_iter().next()?;
        let ended = !agent.ended_sources().await.is_empty();
        (ended && selling.wallet().status(&newest.txid)?.is_settled()).then_some(())
    })
    .await;
    let anchors = agent.anchorer().newest_anchors(100).unwrap().len();
    bootstrap.shutdown().await;
    drop(bootstrap);

    // The agent goes on recording, and tries to anchor each time.
    let size = agent.recorder().summary(&stream).unwrap().size;
    for n in 0..4 {
        let last = agent.recorder().readings(&stream, size - 1, size).unwrap().remove(0);
        let reading = RawReading { time: last.time + n, values: last.values };
        agent.recorder().append(vec![(stream, vec![reading])]).unwrap();
        assert!(agent.anchorer().anchor_now().await.is_err());
    }
    assert!(agent.anchorer().newest_anchors(100).unwrap().len() <= anchors + 2, "they do not pile up");
    // An order is kept, and neither charged nor lost.
    let error = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(error, BuyError::Refused(Refusal::ChainUnavailable)), "{error}");
    assert_eq!(selling.store().read(orders::admitted_sales).unwrap().len(), 1);
    let sold = || {
        let lines = selling.wallet().history().unwrap();
        lines.iter().filter(|line| line.label.starts_with("sale") && line.status.is_settled()).count()
    };
    assert_eq!(sold(), 0);

    // The chain comes back: all of it goes out by itself, and the buyer need not ask for it.
    let bootstrap = start_chain().await;
    until("the sale", || async { (sold() == 1).then_some(()) }).await;
    let bought = buyer.buyer().buy(&request, |_| {}).await.unwrap();
    assert_eq!((bought.kept, bought.paid), (10, Satoshis::ZERO));
    until("an anchor of everything", || async {
        let (checkpoint, _) = agent.anchorer().proof(&stream, 0).unwrap()?;
        (checkpoint.value().size == size + 4).then_some(())
    })
    .await;
    for node in [&buyer, &selling, &bootstrap] {
        node.wallet().audit().unwrap();
        node.shutdown().await;
    }
}
