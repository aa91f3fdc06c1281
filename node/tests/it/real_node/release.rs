//! A batch whose key is released on a real node's chain: the coin, the claim that shows the key, and a refund.

use std::time::Duration;

use sensora_chain::contract::verify_input;
use sensora_chain::{OutPoint, SighashCache};
use sensora_node::buyer::{ReleaseLimits, Released};
use sensora_node::store::release;
use sensora_protocol::OrderId;
use sensora_protocol::market::key_release::sell::BatchSaleState;
use sensora_protocol::market::offer::Range;

use super::stage::{Layout, Stage, settled};
use crate::world::until;

/// Readings in one batch, at 2 sat each.
const COUNT: u64 = 600;
const PRICE: i64 = 1200;

impl Stage {
    async fn locked(&self, first: u64) -> OrderId {
        // An offer is made for the seller's height: one that is behind makes an offer that is late by the blocks that it lacks.
        until("all to follow", || async {
            self.look().await;
            let tip = self.bootstrap.chain().headers().tip();
            let follow = [&self.agent, &self.buyer].map(|node| node.chain().headers().tip() == tip);
            follow.into_iter().all(|follows| follows).then_some(())
        })
        .await;
        let request = self.request(Range::Seq { first, count: COUNT });
        let buyer = self.buyer.buyer();
        let bought =
            buyer.buy_by_key_release(&request, ReleaseLimits::default(), Duration::ZERO, |_| {}).await;
        let Released::Waiting { order, .. } = bought.unwrap() else { panic!("no key was shown yet") };
        order
    }

    fn release_state(&self, id: &OrderId) -> &'static str {
        self.buyer.buyer().release_purchase(id).unwrap().state.name()
    }

    async fn look_at_releases(&self) {
        self.look().await;
        self.agent.agent().unwrap().seller().look_at_releases().await;
        self.buyer.buyer().look_at_releases().await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_node_takes_the_coin_the_claim_that_shows_the_key_and_the_refund_at_its_height() {
    let Some(stage) = Stage::new(Layout::Each, false, 2000).await else { return };
    let order = stage.locked(0).await;
    stage.mine(7).await;
    until("the key", || async {
        stage.look_at_releases().await;
        (stage.release_state(&order) == "complete").then_some(())
    })
    .await;
    let sale = |id: &OrderId| stage.agent.store().read(|tx| release::sale(tx, id)).unwrap().unwrap();
    until("the claim to be settled", || async {
        stage.mine(1).await;
        stage.look_at_releases().await;
        matches!(sale(&order).state, BatchSaleState::Done { .. }).then_some(())
    })
    .await;
    let earned = settled(&stage.agent, &format!("sale {order}"));
    assert!(matches!(earned[..], [earned] if (PRICE - 30..PRICE).contains(&earned)), "{earned:?}");
    // Our own rules say of the claim what the node said.
    let coin = stage.buyer.buyer().release_purchase(&order).unwrap().coin.unwrap();
    let outpoint = OutPoint { txid: coin.txid, vout: coin.vout };
    let BatchSaleState::Done { claim, .. } = sale(&order).state else { unreachable!() };
    let claim = sensora_chain::Transaction::from_bytes(&claim).unwrap();
    let at = claim.inputs.iter().position(|input| input.previous == outpoint).unwrap();
    let beef = sensora_chain::beef::Beef::parse(&coin.beef, &Default::default()).unwrap();
    let spent = &beef.transaction(&coin.txid).unwrap().outputs[coin.vout as usize];
    verify_input(&claim, &SighashCache::new(&claim), at, spent).unwrap();

    // A second one whose seller is gone.
    let order = stage.locked(COUNT).await;
    stage.agent.shutdown().await;
    let height = stage.buyer.buyer().releases().unwrap()[1].refund_height;
    stage.buyer.chain().refresh().await.unwrap();
    let tip = stage.buyer.chain().headers().tip().height;
    stage.mine(height - tip).await;
    until("the refund, settled", || async {
        drop(stage.buyer.chain().refresh().await);
        stage.buyer.buyer().look_at_releases().await;
        stage.mine(1).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        (stage.release_state(&order) == "refunded").then_some(())
    })
    .await;
    let back = settled(&stage.buyer, &format!("order {order}, taken back"));
    assert!(matches!(back[..], [back] if (PRICE - 70..PRICE).contains(&back)), "{back:?}");
    let compared =
        until("an answer of the chain", || async { stage.buyer.wallet().audit_chain().await.ok() }).await;
    assert_eq!(compared.differences, [], "{compared:?}");
    stage.buyer.shutdown().await;
    stage.bootstrap.shutdown().await;
}
