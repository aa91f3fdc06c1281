//! Reorganisations that take the coin or the claim away: the same bytes go out again, and nothing is charged or credited twice.

use sensora_chain::Transaction;
use sensora_chain::sources::dev::OnReorg;
use sensora_node::clock::Clock;
use sensora_protocol::market::key_release::sell::BatchSaleState;

use super::{
    COUNT, balance, claim_fee, follow, is_mined, lines, market, purchase, reaches, sale, seq, state,
};
use crate::world::{World, until};

async fn reorganise(world: &World, depth: u32, dropped: OnReorg) {
    world.dev_chain().reorg(depth, Clock::system().now_ms(), dropped).unwrap();
    world.bootstrap.chain().refresh().await.unwrap();
    follow(&world.bootstrap, &[&world.agent, &world.buyer]).await;
}

async fn look(world: &World) {
    world.agent.agent().unwrap().seller().look_at_releases().await;
    world.buyer.buyer().look_at_releases().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coin_that_a_reorganisation_takes_away_goes_out_again_and_shows_no_key_before_it_is_firm() {
    for dropped in [OnReorg::Forget, OnReorg::Requeue] {
        let world = market(3000).await;
        let request = world.request(seq(0, COUNT)).await;
        let order = world.locked(&request).await;
        world.mine(3).await;
        look(&world).await;
        let txid = purchase(&world.buyer, &order).coin.unwrap().txid;
        assert!(is_mined(world.dev_chain(), &txid));
        reorganise(&world, 3, dropped).await;
        assert!(!is_mined(world.dev_chain(), &txid));
        until("the coin to be out again", || async {
            look(&world).await;
            world.bootstrap.chain().mine().await.unwrap();
            is_mined(world.dev_chain(), &txid).then_some(())
        })
        .await;
        assert!(!sale(&world.agent, &order).state.is_shown());
        world.mine(7).await;
        reaches(&world.buyer, &order, "complete").await;
        world.mine(7).await;
        until("the claim to be settled", || async {
            look(&world).await;
            matches!(sale(&world.agent, &order).state, BatchSaleState::Done { .. }).then_some(())
        })
        .await;
        balance(&[&world.agent, &world.buyer], claim_fee(&world.agent, &order));
        world.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_a_reorganisation_takes_away_goes_out_again_and_is_credited_once() {
    for dropped in [OnReorg::Forget, OnReorg::Requeue] {
        let world = market(3000).await;
        let request = world.request(seq(0, COUNT)).await;
        let order = world.locked(&request).await;
        world.mine(7).await;
        reaches(&world.buyer, &order, "complete").await;
        world.mine(2).await;
        until("the claim to be credited", || async {
            look(&world).await;
            (lines(&world.agent, &format!("sale {order}")).len() == 1).then_some(())
        })
        .await;
        let BatchSaleState::Claimed { claim, credited: Some(_), .. } = sale(&world.agent, &order).state
        else {
            panic!("{:?}", sale(&world.agent, &order).state)
        };
        let claim = Transaction::from_bytes(&claim).unwrap().txid();
        reorganise(&world, 4, dropped).await;
        assert!(!is_mined(world.dev_chain(), &claim));
        assert_eq!(state(&world.buyer, &order), "complete", "what was bought stays bought");
        until("the claim to be settled", || async {
            look(&world).await;
            world.mine(1).await;
            matches!(sale(&world.agent, &order).state, BatchSaleState::Done { .. }).then_some(())
        })
        .await;
        assert!(is_mined(world.dev_chain(), &claim));
        until("all to be mined", || async {
            world.mine(1).await;
            let history = world.buyer.wallet().history().unwrap();
            history.iter().all(|line| line.status.is_settled() || line.status.is_dead()).then_some(())
        })
        .await;
        balance(&[&world.agent, &world.buyer], claim_fee(&world.agent, &order));
        world.shutdown().await;
    }
}
