//! Single readings between two nodes: paid one by one, each once, across broken connections and restarts.

use std::collections::BTreeSet;

use sensora_chain::Satoshis;
use sensora_node::buyer::{BuyError, Reads, ReadsError, ReadsRequest, Want};
use sensora_node::supervisor::Node;
use sensora_protocol::market::channel::offer::ChannelLimits;
use sensora_protocol::market::delivery::receive::ChannelPurchaseState;

use crate::disk::Disk;
use crate::world::{Place, World, agent, bootstrap, fund, options, sim, until};

const BLOCKS: u32 = 500;

fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

fn limits() -> ChannelLimits {
    ChannelLimits { max_value: sat(100_000), max_blocks: 1_000, max_close_fee: sat(100) }
}

/// Readings that the agent has: a simulated source loses some.
fn size(world: &World) -> u64 {
    world.agent.agent().unwrap().recorder().summaries()[0].size
}

async fn request(world: &World, budget: u64, exposure: u64) -> ReadsRequest {
    let stream = world.stream().await;
    ReadsRequest {
        seller: *world.agent.identity().public(),
        stream: stream.id,
        budget: sat(budget),
        exposure: sat(exposure),
        ad: Some(stream),
    }
}

async fn open(world: &World, budget: u64, exposure: u64) -> Reads {
    let request = request(world, budget, exposure).await;
    world.buyer.buyer().open_channel(&request.seller, sat(40_000), BLOCKS, limits()).await.unwrap();
    world.buyer.buyer().open_reads(request).await.unwrap()
}

/// The channel's paid and reserved amounts at the buyer.
fn standing(buyer: &Node) -> (u64, u64) {
    let channel = buyer.buyer().channels().unwrap().remove(0);
    (channel.paid.as_u64(), channel.reserved.as_u64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_are_bought_one_by_one_and_receipted_together() {
    let world = World::new(3000).await;
    let reads = open(&world, 10_000, 200).await;
    let size = size(&world);
    let theirs = world.agent.agent().unwrap().recorder().readings(&reads.stream(), 0, size).unwrap();
    let wanted = [0, 1, 2, 3, 1023, 1024, size - 1, 2047, 2048, 5, 17];
    for seq in wanted {
        let read = reads.read(Want::Seq(seq)).await.unwrap();
        assert_eq!((&read.reading, read.bought), (&theirs[seq as usize], true));
    }
    for seq in wanted {
        assert!(!reads.read(Want::Seq(seq)).await.unwrap().bought, "it is here");
    }
    // The newest is here: it is told and costs nothing.
    let newest = reads.read(Want::Latest).await.unwrap();
    assert_eq!((newest.reading.seq, newest.bought), (size - 1, false));
    let beyond = reads.read(Want::Seq(size)).await;
    assert!(matches!(beyond, Err(ReadsError::Absent { seq, size: all }) if seq == size && all == size));
    let report = reads.close().await.unwrap();
    assert_eq!(
        (report.count, report.paid, report.orders.as_slice()),
        (11, sat(22), [reads.order()].as_slice())
    );
    assert_eq!(standing(&world.buyer), (22, 0), "what was paid ahead is free again");
    let kept = world.buyer.buyer().readings(&reads.stream(), reads.schema(), 0, size, 4000).unwrap();
    assert_eq!(kept.len(), 11);
    assert!(kept.iter().all(|reading| reading == &theirs[reading.seq as usize]));
    assert!(matches!(reads.read(Want::Seq(7)).await, Err(ReadsError::Closed)));
    // The channel goes on, with vouchers below the one that paid ahead.
    let again = world.buyer.buyer().open_reads(request(&world, 10_000, 200).await).await.unwrap();
    assert!(!again.read(Want::Latest).await.unwrap().bought, "it is here from the order before");
    for seq in 100..200 {
        assert!(again.read(Want::Seq(seq)).await.unwrap().bought);
    }
    assert!(!again.read(Want::Seq(17)).await.unwrap().bought);
    let report = again.close().await.unwrap();
    assert_eq!((report.count, report.paid), (100, sat(200)));
    assert_eq!(standing(&world.buyer), (222, 0));
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_reading_asked_for_sixty_four_times_at_once_is_paid_once() {
    let world = World::new(100).await;
    let reads = open(&world, 1_000, 200).await;
    let last = size(&world) - 1;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let reads = reads.clone();
        let want = if n % 2 == 0 { Want::Seq(last) } else { Want::Latest };
        tasks.spawn(async move { reads.read(want).await.unwrap().reading.seq });
    }
    while let Some(seq) = tasks.join_next().await {
        assert_eq!(seq.unwrap(), last);
    }
    let report = reads.close().await.unwrap();
    assert_eq!((report.count, report.paid), (1, sat(2)));
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_readers_share_one_order() {
    let world = World::new(2000).await;
    let reads = open(&world, 10_000, 100).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64_u64 {
        let reads = reads.clone();
        tasks.spawn(async move {
            for k in 0..20 {
                let seq = (n * 31 + k * 7) % 1500;
                assert_eq!(reads.read(Want::Seq(seq)).await.unwrap().reading.seq, seq);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let distinct: BTreeSet<u64> =
        (0..64).flat_map(|n| (0..20).map(move |k| (n * 31 + k * 7) % 1500)).collect();
    let report = reads.close().await.unwrap();
    assert_eq!((report.count, report.paid), (distinct.len() as u64, sat(2 * distinct.len() as u64)));
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_ends_and_one_side_may_trust_alone() {
    let world = World::new(100).await;
    let reads = open(&world, 20, 200).await;
    for seq in 0..10 {
        reads.read(Want::Seq(seq)).await.unwrap();
    }
    assert!(
        matches!(reads.read(Want::Seq(10)).await, Err(ReadsError::Spent { budget }) if budget == sat(20))
    );
    assert_eq!(reads.close().await.unwrap().paid, sat(20));
    let dear = ReadsRequest { budget: sat(50_000), ..request(&world, 0, 200).await };
    let error = world.buyer.buyer().open_reads(dear).await.unwrap_err();
    assert!(matches!(error, BuyError::NoChannel { .. }), "{error}");
    // A buyer that trusts nobody is served by a seller that does.
    let careful = world.buyer.buyer().open_reads(request(&world, 100, 0).await).await.unwrap();
    for seq in 50..60 {
        careful.read(Want::Seq(seq)).await.unwrap();
    }
    assert_eq!(careful.close().await.unwrap().paid, sat(20));
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_that_are_dropped_are_paid_in_the_background() {
    let world = World::new(100).await;
    let reads = open(&world, 1_000, 200).await;
    let order = reads.order();
    for seq in 0..30 {
        reads.read(Want::Seq(seq)).await.unwrap();
    }
    drop(reads);
    until("the receipt", || async {
        let purchase = world.buyer.buyer().channel_purchase(&order).unwrap();
        matches!(purchase.state, ChannelPurchaseState::Ended { .. }).then_some(())
    })
    .await;
    until("the lane to end", || async { (standing(&world.buyer) == (60, 0)).then_some(()) }).await;
    world.shutdown().await;
}

/// Both sides come back from their disks: the seller in the middle of an order that goes on, the buyer to bring it to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_outlives_restarts_of_either_side() {
    let (disk, (bootstrap, addresses)) = ([Disk::new(), Disk::new()], bootstrap().await);
    let start_agent = async |address| {
        let mut config = options(2, &Place::Disk(&disk[0]));
        config.listen = vec![address];
        config.bootstrap.clone_from(&addresses);
        config.agent = Some(agent(vec![sim(500)]));
        Node::start(config).await.unwrap()
    };
    let start_buyer = async || {
        let mut config = options(3, &Place::Disk(&disk[1]));
        config.bootstrap.clone_from(&addresses);
        Node::start(config).await.unwrap()
    };
    let address = crate::world::address();
    let (agent, buyer) = (start_agent(address.clone()).await, start_buyer().await);
    fund(&buyer, 1_000_000).await;
    let world = World { bootstrap, agent, buyer, addresses: addresses.clone() };
    world.recorded().await;
    let reads = open(&world, 1_000, 40).await;
    for seq in 0..60 {
        reads.read(Want::Seq(seq)).await.unwrap();
    }
    let World { bootstrap, agent, buyer, .. } = world;
    agent.shutdown().await;
    drop(agent);
    let agent = start_agent(address).await;
    let world = World { bootstrap, agent, buyer, addresses: addresses.clone() };
    // It is found again at the same address; what was asked meanwhile waits or is asked again.
    let read = until("the seller to be back", || async { reads.read(Want::Seq(70)).await.ok() }).await;
    assert_eq!(read.reading.seq, 70);
    for seq in 80..100 {
        reads.read(Want::Seq(seq)).await.unwrap();
    }
    let order = reads.order();
    let World { bootstrap, agent, buyer, .. } = world;
    buyer.shutdown().await;
    assert!(reads.read(Want::Seq(200)).await.is_err(), "the node is gone");
    drop((reads, buyer));
    let buyer = until("the store to be free", || async {
        let mut config =
            crate::world::try_options(3, &Place::Disk(&disk[1]), crate::world::address()).ok()?;
        config.bootstrap.clone_from(&addresses);
        Node::start(config).await.ok()
    })
    .await;
    let seller = *agent.identity().public();
    until("the ad", || async { buyer.discovery().ad_of(&seller).await.ok() }).await;
    let outcomes = buyer.buyer().resume(|_| ()).await.unwrap();
    for (id, outcome) in &outcomes {
        assert!(outcome.is_ok(), "{id}: {outcome:?}");
    }
    let purchase = buyer.buyer().channel_purchase(&order).unwrap();
    assert!(matches!(purchase.state, ChannelPurchaseState::Ended { .. }), "{:?}", purchase.state);
    assert_eq!(purchase.next, 81, "each reading once");
    assert_eq!(standing(&buyer), (162, 0));
    let stream = agent.agent().unwrap().recorder().summaries().remove(0);
    let kept = buyer.buyer().readings(&stream.id, &stream.schema, 0, 500, 1000).unwrap();
    assert_eq!(kept.len(), 81);
    let world = World { bootstrap, agent, buyer, addresses };
    world.shutdown().await;
}
