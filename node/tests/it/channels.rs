//! Channels: orders that are paid while they come, two transactions for all of them, and every satoshi accounted for.

use std::time::Duration;

use sensora_chain::sources::dev::TxStatus;
use sensora_chain::{Network, Satoshis};
use sensora_node::buyer::{BuyError, Progress, SubscribeRequest};
use sensora_node::net::{PeerId, peer_id_from_public_key};
use sensora_node::store::channels as records;
use sensora_node::supervisor::{ChainRole, Node};
use sensora_protocol::ChannelId;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::channel::offer::{ChannelLimits, ChannelOffer, ChannelOfferError};
use sensora_protocol::market::message::{Answer, LiveFrom, Request, Response};
use sensora_protocol::market::offer::{BuyerLimits, OfferError, Range};
use sensora_protocol::market::price::Metered;
use sensora_protocol::market::refusal::Refusal;

use crate::chain_access::http::{Fake, Mood};
use crate::disk::Disk;
use crate::world::{PATIENCE, Place, World, address, agent, fund, identity, options, sim, until};

const VALUE: u64 = 20_000;
/// Blocks until the refund height.
const BLOCKS: u32 = 80;

fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

fn peer_id(seed: u8) -> PeerId {
    peer_id_from_public_key(&identity(seed).public().to_bytes()).unwrap()
}

fn limits() -> ChannelLimits {
    ChannelLimits { max_value: sat(100_000), max_blocks: 1_000, max_close_fee: sat(100) }
}

fn seq(first: u64, count: u64) -> Range {
    Range::Seq { first, count }
}

fn total(node: &Node) -> u64 {
    node.wallet().audit().unwrap().total.as_u64()
}

async fn open(world: &World, value: u64) -> ChannelId {
    world.stream().await;
    let seller = *world.agent.identity().public();
    world.buyer.buyer().open_channel(&seller, sat(value), BLOCKS, limits()).await.unwrap()
}

async fn mine(world: &World, blocks: u32) {
    for _ in 0..blocks {
        world.bootstrap.chain().mine().await.unwrap();
    }
    let tip = world.bootstrap.chain().headers().tip();
    until("both to follow", || async {
        drop(world.agent.chain().refresh().await);
        drop(world.buyer.chain().refresh().await);
        let same =
            [&world.agent, &world.buyer].iter().all(|node| node.chain().headers().tip().height >= tip.height);
        same.then_some(())
    })
    .await;
}

fn state(world: &World, id: &ChannelId) -> BuyerChannelState {
    let all = world.buyer.buyer().channels().unwrap();
    all.into_iter().find(|channel| &channel.id == id).unwrap().state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_paid_through_a_channel_while_they_come_and_closed_with_one_transaction() {
    let world = World::new(3000).await;
    let id = open(&world, VALUE).await;
    let request = world.request(seq(0, 1000)).await;
    let small = BuyerLimits { exposure: sat(10), ..request.limits };
    let request = sensora_node::buyer::BuyRequest { limits: small, ..request };
    let mut steps = 0;
    let count = |step| steps += u64::from(matches!(step, Progress::Received { .. }));
    let bought = world.buyer.buyer().buy_through_channel(&request, count).await.unwrap();
    assert_eq!((bought.paid, bought.kept, bought.orders.len()), (sat(2000), 0, 1));
    assert!(steps > 10, "not in one piece: {steps}");
    // What is here is not bought again, and what is missing is.
    let wider = sensora_node::buyer::BuyRequest { range: seq(0, 2500), ..request.clone() };
    let again = world.buyer.buyer().buy_through_channel(&wider, |_| {}).await.unwrap();
    assert_eq!((again.paid, again.kept), (sat(3000), 1000));
    let schema = &request.ad.as_ref().unwrap().schema;
    let here = world.buyer.buyer().readings(&request.stream, schema, 0, 2500, usize::MAX - 1).unwrap();
    assert_eq!(here, world.agent.agent().unwrap().recorder().readings(&request.stream, 0, 2500).unwrap());
    let channel = world.buyer.buyer().channels().unwrap().remove(0);
    assert_eq!((channel.paid, channel.reserved), (sat(5000), Satoshis::ZERO));

    // The readings are proven like others.
    let order = bought.orders[0];
    until("the anchor", || async {
        let standing = world.buyer.buyer().upgrade(&order).await.ok()?;
        matches!(standing, Standing::Mined { .. }).then_some(())
    })
    .await;
    assert!(world.buyer.buyer().evidence(&order).is_ok());

    world.buyer.buyer().close_channel(&id).await.unwrap();
    mine(&world, 1).await;
    until("both to have their part", || async {
        world.buyer.buyer().look_at_channels().await;
        matches!(state(&world, &id), BuyerChannelState::Ended { paid, .. } if paid == sat(5000)).then_some(())
    })
    .await;
    until("the seller's part", || async { (earned(&world.agent) == 5000).then_some(()) }).await;
    let both = [&world.buyer, &world.agent];
    let close_fee = VALUE - 5000 - earned(&world.buyer);
    assert!((27..=60).contains(&close_fee), "{close_fee}");
    let has: u64 = both.map(total).iter().sum();
    let fees: u64 = both.map(fees).iter().sum();
    let given: u64 = both.map(given).iter().sum();
    assert_eq!(has + fees + close_fee, given, "to the satoshi");
    world.shutdown().await;
}

/// What the channel brought, from the wallet's history.
fn earned(node: &Node) -> u64 {
    let history = node.wallet().history().unwrap();
    let lines = history.iter().filter(|line| line.label.starts_with("channel ") && line.delta_sat > 0);
    lines.map(|line| u64::try_from(line.delta_sat).unwrap()).sum()
}

/// What the faucet gave.
fn given(node: &Node) -> u64 {
    let history = node.wallet().history().unwrap();
    let lines = history.iter().filter(|line| line.label == "faucet" && line.status.is_settled());
    lines.map(|line| u64::try_from(line.delta_sat).unwrap()).sum()
}

fn fees(node: &Node) -> u64 {
    let history = node.wallet().history().unwrap();
    let settled = history.iter().filter(|line| line.status.is_settled());
    settled.filter_map(|line| line.fee).map(Satoshis::as_u64).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_is_gone_keeps_nothing_that_was_not_paid() {
    let world = World::new(100).await;
    let id = open(&world, VALUE).await;
    let request = world.request(seq(0, 50)).await;
    world.buyer.buyer().buy_through_channel(&request, |_| {}).await.unwrap();
    world.agent.shutdown().await;
    for _ in 0..=BLOCKS {
        world.bootstrap.chain().mine().await.unwrap();
    }
    until("the refund", || async {
        world.buyer.chain().refresh().await.ok()?;
        world.buyer.buyer().look_at_channels().await;
        world.bootstrap.chain().mine().await.unwrap();
        matches!(state(&world, &id), BuyerChannelState::Ended { .. }).then_some(())
    })
    .await;
    let BuyerChannelState::Ended { paid, .. } = state(&world, &id) else { panic!() };
    assert_eq!(paid, Satoshis::ZERO);
    assert!(earned(&world.buyer) >= VALUE - 60, "{}", earned(&world.buyer));
    world.buyer.wallet().audit().unwrap();
    world.buyer.shutdown().await;
    world.bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_channel_cannot_do_is_said() {
    let world = World::new(100).await;
    let request = world.request(seq(0, 50)).await;
    let buyer = world.buyer.buyer();
    let none = buyer.buy_through_channel(&request, |_| {}).await.unwrap_err();
    assert!(matches!(none, BuyError::NoChannel { needed, .. } if needed == sat(100)), "{none}");
    let seller = request.seller;
    let small = buyer.open_channel(&seller, sat(10), BLOCKS, limits()).await.unwrap_err();
    assert!(matches!(small, BuyError::Refused(Refusal::ChannelNotOffered { .. })), "{small}");
    let long = buyer.open_channel(&seller, sat(VALUE), 2_000, limits()).await.unwrap_err();
    let BuyError::ChannelOffer(long) = long else { panic!("{long}") };
    assert!(matches!(*long, ChannelOfferError::Height { .. }), "{long}");
    assert_eq!(total(&world.buyer), 1_000_000, "nothing was spent");

    open(&world, 1_000).await;
    let dear = sensora_node::buyer::BuyRequest {
        limits: BuyerLimits { max_price: sat(99), exposure: sat(10) },
        ..request.clone()
    };
    let error = buyer.buy_through_channel(&dear, |_| {}).await.unwrap_err();
    assert!(
        matches!(&error, BuyError::Offer(source) if matches!(**source, OfferError::MaxPrice { .. })),
        "{error}"
    );
    fund(&world.buyer, 1_000).await;
    world.shutdown().await;
}

/// Buys `count` readings from `first` on through the channel.
async fn buy(world: &World, first: u64, count: u64) -> Result<Satoshis, BuyError> {
    let request = world.request(seq(first, count)).await;
    let limits = BuyerLimits { exposure: sat(10), ..request.limits };
    let request = sensora_node::buyer::BuyRequest { limits, ..request };
    Ok(world.buyer.buyer().buy_through_channel(&request, |_| {}).await?.paid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_retries_of_one_order_are_one_charge() {
    let world = std::sync::Arc::new(World::new(200).await);
    open(&world, VALUE).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let world = world.clone();
        tasks.spawn(async move { buy(&world, 0, 100).await });
    }
    let paid = tasks.join_all().await.into_iter().map(|paid| paid.unwrap().as_u64()).sum::<u64>();
    assert_eq!(paid, 200, "one of them has paid");
    let [order] = &world.buyer.buyer().orders().unwrap()[..] else { panic!("more than one order") };
    assert!(order.state.is_complete());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (world, order) = (world.clone(), order.order);
        tasks.spawn(async move { world.buyer.buyer().resume_order(&order, |_| {}).await.unwrap() });
    }
    tasks.join_all().await;
    let channel = world.buyer.buyer().channels().unwrap().remove(0);
    assert_eq!((channel.paid, channel.reserved), (sat(200), Satoshis::ZERO));
    std::sync::Arc::into_inner(world).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_orders_at_once_never_promise_more_than_the_channel_holds() {
    let world = std::sync::Arc::new(World::new(800).await);
    // Not enough for all of them.
    open(&world, 1_000).await;
    let capacity = {
        let channel = world.buyer.buyer().channels().unwrap().remove(0);
        channel.free
    };
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let world = world.clone();
        tasks.spawn(async move { buy(&world, n * 10, 10).await });
    }
    let (mut bought, mut refused) = (0, 0);
    let mut looked = 0_u64;
    while !tasks.is_empty() {
        let channel = world.buyer.buyer().channels().unwrap().remove(0);
        let promised = channel.paid.checked_add(channel.reserved).unwrap();
        assert!(promised <= capacity, "{promised} of {capacity}");
        looked += 1;
        while let Some(done) = tasks.try_join_next() {
            match done.unwrap() {
                Ok(paid) => bought += paid.as_u64(),
                Err(BuyError::NoChannel { .. } | BuyError::Spending(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(looked > 10, "looked at while they run: {looked}");
    assert_eq!(bought, capacity.as_u64() / 20 * 20, "as many as it holds");
    assert_eq!(refused, 64 - bought / 20);
    let channel = world.buyer.buyer().channels().unwrap().remove(0);
    assert_eq!((channel.paid, channel.reserved), (sat(bought), Satoshis::ZERO));
    std::sync::Arc::into_inner(world).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_channel_is_opened_that_is_too_small_for_the_budget() {
    let world = World::with_blocks_on_demand(agent(vec![sim(100)])).await;
    mine(&world, 0).await;
    let ad = world.stream().await;
    let (seller, buyer) = (*world.agent.identity().public(), world.buyer.buyer());
    let money = || world.buyer.wallet().balance().map(|balance| (balance.total, balance.reserved)).unwrap();
    let before = money();
    let limits = ChannelLimits { max_value: sat(VALUE), ..limits() };
    let most = limits.max_value.saturating_sub(limits.max_close_fee);
    // All that goes into a channel is too much, too: its close costs something.
    for budget in [sat(VALUE + 10_000), sat(VALUE)] {
        let error = buyer.channel_for(&seller, budget, limits, PATIENCE, |_| ()).await.unwrap_err();
        let BuyError::AboveChannel { needed, most: said } = error else { panic!("{error}") };
        assert_eq!((needed, said), (budget, most));
        assert!(error.to_string().contains("buyer.channel_sat"), "{error}");
    }
    assert!(buyer.channels().unwrap().is_empty());
    assert_eq!(money(), before, "nothing was locked");

    // What fits has room for the order that it was opened for, and one channel does.
    let id = buyer.channel_for(&seller, most, limits, PATIENCE, |_| ()).await.unwrap();
    assert_eq!(buyer.channel_for(&seller, most, limits, PATIENCE, |_| ()).await.unwrap(), id);
    assert_eq!(buyer.channels().unwrap().len(), 1);
    let request = SubscribeRequest {
        seller,
        stream: ad.id,
        from: LiveFrom::Seq(0),
        budget: most,
        exposure: sat(20),
        ad: Some(ad),
        by: Metered::Reading,
        max_reading: None,
        max_second: None,
        readings: Some(10),
        until_ms: None,
    };
    drop(buyer.subscribe(&request).await.unwrap());
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_opens_when_it_is_mined_is_waited_for_and_then_used() {
    let mut options = agent(vec![sim(100)]);
    options.channels.unmined_up_to = sat(5_000);
    let world = World::with_blocks_on_demand(options).await;
    mine(&world, 0).await;
    let request = world.request(seq(0, 50)).await;
    let buyer = world.buyer.buyer();
    let limits = ChannelLimits { max_value: sat(VALUE), max_blocks: BLOCKS, ..limits() };
    let mut waited_for = Vec::new();
    let bound = std::time::Duration::from_secs(3);
    let opened = buyer
        .channel_for(&request.seller, sat(100), limits, bound, |what| waited_for.push(what.to_owned()))
        .await;
    let error = opened.unwrap_err();
    let BuyError::ChannelNotMined { channel } = error else { panic!("{error}") };
    assert!(error.to_string().contains("waits for a block"), "{error}");
    assert!(waited_for.iter().any(|what| what.contains("block")), "{waited_for:?}");
    assert_eq!(state(&world, &channel), BuyerChannelState::Open);
    assert!(buyer.orders().unwrap().is_empty(), "nothing was ordered");

    // The same call goes on with the same channel, and orders when the block is there.
    let (ready, ()) = tokio::join!(
        buyer.channel_for(&request.seller, sat(100), limits, PATIENCE, |_| ()),
        mine(&world, 1),
    );
    assert_eq!(ready.unwrap(), channel);
    assert_eq!(buyer.channels().unwrap().len(), 1, "no second one was opened");
    assert_eq!(buy(&world, 0, 50).await.unwrap(), sat(100));
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_whose_headers_are_behind_opens_a_channel_for_as_long_as_it_may() {
    let world = World::with_blocks_on_demand(agent(vec![sim(10)])).await;
    world.stream().await;
    mine(&world, 0).await;
    for _ in 0..2 {
        world.bootstrap.chain().mine().await.unwrap();
    }
    let tip = world.bootstrap.chain().headers().tip();
    until("the seller to follow", || async {
        drop(world.agent.chain().refresh().await);
        (world.agent.chain().headers().tip() == tip).then_some(())
    })
    .await;
    let limits = ChannelLimits { max_blocks: BLOCKS, ..limits() };
    let seller = *world.agent.identity().public();
    let id = world.buyer.buyer().open_channel(&seller, sat(VALUE), BLOCKS, limits).await.unwrap();
    let record = world.buyer.store().read(|tx| records::buyer(tx, &id)).unwrap().unwrap();
    let offer = record.offer.clone().verify::<ChannelOffer>(Network::Regtest).unwrap();
    assert_eq!(offer.value().refund_height.get(), tip.height + BLOCKS);
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_knows_no_tip_yet_offers_no_channel_that_is_over_before_it_begins() {
    // Two that only know one another: neither has a chain, and neither takes that of the other for one.
    let mut config = options(2, &Place::Memory);
    let (home, later) = (config.listen.clone(), address());
    config.bootstrap = vec![later.clone().with_p2p(peer_id(1)).unwrap()];
    config.agent = Some(agent(vec![sim(1)]));
    let seller = Node::start(config).await.unwrap();
    let mut config = options(3, &Place::Memory);
    config.bootstrap = vec![home[0].clone().with_p2p(peer_id(2)).unwrap()];
    let buyer = Node::start(config).await.unwrap();
    let question = Request::QuoteChannel { value: sat(VALUE), blocks: BLOCKS };
    let ask = async || buyer.buyer().ask(seller.identity().public(), &question).await;
    let refused = ask().await.unwrap();
    assert!(matches!(refused, Response::Refused(Refusal::Busy { .. })), "{refused:?}");

    // The chain comes, and is long.
    let mut config = options(1, &Place::Memory);
    config.listen = vec![later];
    config.chain = ChainRole::DevChain { path: None, block_interval: Duration::from_secs(3600) };
    let chain = Node::start(config).await.unwrap();
    for _ in 0..2 * BLOCKS {
        chain.chain().mine().await.unwrap();
    }
    let tip = chain.chain().headers().tip().height;
    until("an offer that counts from the tip", || async {
        drop(seller.chain().refresh().await);
        match ask().await.unwrap() {
            Response::Ok(Answer::ChannelOffer(offer)) => {
                let by = seller.identity().public();
                let offer = offer.verify_by::<ChannelOffer>(Network::Regtest, by).unwrap();
                // While it still catches up it counts from where it is.
                (offer.value().refund_height.get() == tip + BLOCKS).then_some(())
            }
            other => {
                assert!(matches!(other, Response::Refused(Refusal::Busy { .. })), "{other:?}");
                None
            }
        }
    })
    .await;
    for node in [&buyer, &seller, &chain] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_goes_out_at_its_height_when_nobody_says_what_spends_outputs() {
    let disk = Disk::new();
    let world = World::with_buyer_at(agent(vec![sim(10)]), &Place::Disk(&disk)).await;
    let id = open(&world, VALUE).await;
    let World { bootstrap, agent, buyer, .. } = world;
    let dev = bootstrap.chain().dev_chain().unwrap().clone();
    let record = buyer.store().read(|tx| records::buyer(tx, &id)).unwrap().unwrap();
    until("the funding", || async {
        (dev.status(&record.funding.txid).unwrap() != TxStatus::Unknown).then_some(())
    })
    .await;
    agent.shutdown().await;
    buyer.shutdown().await;
    drop((agent, buyer));

    let fake = Fake::start(&dev, Mood::Fair).await;
    let mut config = options(3, &Place::Disk(&disk));
    config.chain = fake.blind_to_outputs();
    let buyer = Node::start(config).await.unwrap();
    let (_, contract) = record.contract(buyer.identity(), Network::Regtest).unwrap();
    let outpoint = contract.outpoint();
    assert!(buyer.chain().spent(&[outpoint]).await.is_err(), "nobody says");
    for _ in 0..=BLOCKS {
        bootstrap.chain().mine().await.unwrap();
    }
    until("the refund", || async {
        drop(buyer.chain().refresh().await);
        buyer.buyer().look_at_channels().await;
        dev.spent_by(&outpoint).unwrap()
    })
    .await;
    let channel = buyer.buyer().channels().unwrap().remove(0);
    assert_eq!(channel.id, id);
    assert!(matches!(channel.state, BuyerChannelState::Refunding { .. }), "{:?}", channel.state);
    buyer.shutdown().await;
    bootstrap.shutdown().await;
}
