//! Batches whose key is released on the chain, with either side killed at any step from the quote to the settled claim: paid once, claimed once, and
//! nothing that was bought is lost.

use sensora_node::buyer::{ReleaseLimits, Released};
use sensora_node::store::release;
use sensora_protocol::market::key_release::buy::BatchPurchaseState;
use sensora_protocol::market::key_release::sell::BatchSaleState;

use super::*;

/// Readings of one batch, at 2 sat each.
const READINGS: u64 = 600;
const TOTAL: u64 = 1200;
const LONG: Duration = Duration::from_secs(60);

struct ReleaseMarket {
    market: Market,
    orders: u64,
}

impl ReleaseMarket {
    async fn new() -> Self {
        Self { market: Market::with_readings(20_000).await, orders: 0 }
    }

    fn request(&self) -> BuyRequest {
        let range = Range::Seq { first: self.orders * READINGS, count: READINGS };
        BuyRequest { range, ..self.market.request(0) }
    }

    async fn block(&self) {
        self.market.bootstrap.chain().mine().await.unwrap();
        for mortal in [&self.market.agent, &self.market.buyer] {
            if !mortal.disk.is_frozen() {
                drop(mortal.node().chain().refresh().await);
            }
        }
        // Nobody asks so often that it is taken for an attack.
        tokio::time::sleep(Duration::from_millis(120)).await;
    }

    /// Whether the seller is done with all orders, and the buyer looks after none.
    fn is_settled(&self) -> bool {
        let (agent, buyer) = (self.market.agent.node(), self.market.buyer.node());
        let sales = agent.store().read(release::sales).unwrap_or_default();
        let done = sales.iter().filter(|sale| matches!(sale.state, BatchSaleState::Done { .. })).count();
        let watched = buyer.store().read(release::watched_purchases).map_or(1, |watched| watched.len());
        done as u64 == self.orders && watched == 0
    }

    /// Buys a range of its own while a disk stops at this sync. Answers whether it did.
    async fn buy(&mut self, agent_at: Option<u64>, buyer_at: Option<u64>, kept: Kept) -> bool {
        let request = self.request();
        self.orders += 1;
        for (mortal, at) in [(&self.market.agent, agent_at), (&self.market.buyer, buyer_at)] {
            if let Some(at) = at {
                mortal.disk.freeze_at_sync(at);
            }
        }
        let buying = self.market.buyer.node().buyer().clone();
        let task = {
            let request = request.clone();
            let limits = ReleaseLimits::default();
            tokio::spawn(async move { buying.buy_by_key_release(&request, limits, LONG, |_| {}).await })
        };
        let frozen = |market: &Market| market.agent.disk.is_frozen() || market.buyer.disk.is_frozen();
        until("the batch to be settled, or a disk to stop", || async {
            let over = frozen(&self.market) || (task.is_finished() && self.is_settled());
            if !over {
                self.block().await;
            }
            over.then_some(())
        })
        .await;
        task.abort();
        let Market { agent, buyer, .. } = &mut self.market;
        let (agent_stopped, buyer_stopped) = (agent.disk.disarm(), buyer.disk.disarm());
        if agent_stopped {
            agent.revive(kept).await;
        }
        if buyer_stopped {
            buyer.revive(kept).await;
        }
        let buyer = self.market.buyer.node().buyer().clone();
        until("the purchase", || async {
            let limits = ReleaseLimits::default();
            let bought = buyer.buy_by_key_release(&request, limits, Duration::from_millis(50), |_| {}).await;
            match bought {
                Ok(Released::Bought(_)) => Some(()),
                Ok(Released::Waiting { .. }) => {
                    self.block().await;
                    None
                }
                Err(error) => {
                    eprintln!("buy: {error}");
                    None
                }
            }
        })
        .await;
        until("the batch to be settled after the crash", || async {
            if !self.is_settled() {
                self.block().await;
                return None;
            }
            Some(())
        })
        .await;
        self.check();
        agent_stopped || buyer_stopped
    }

    fn check(&self) {
        let (agent, buyer) = (self.market.agent.node(), self.market.buyer.node());
        let end = self.orders * READINGS;
        let (stream, schema) = (&self.market.stream.id, &self.market.stream.schema);
        let bought = buyer.buyer().readings(stream, schema, 0, end, usize::MAX - 1).unwrap();
        assert_eq!(bought, agent.agent().unwrap().recorder().readings(stream, 0, end).unwrap());
        let purchases = buyer.store().read(release::purchases).unwrap();
        let complete: Vec<_> =
            purchases.iter().filter(|purchase| purchase.state == BatchPurchaseState::Complete).collect();
        assert_eq!(complete.len() as u64, self.orders, "no order was made twice");
        // Others may only be such for which nothing was signed away.
        let others = purchases.iter().filter(|purchase| purchase.state != BatchPurchaseState::Complete);
        for other in others {
            assert_eq!(other.state, BatchPurchaseState::Dropped);
        }
        let (mut claim_fees, mut total, mut fees, mut given) = (0, 0, 0, 0);
        for purchase in &complete {
            assert_eq!(lines(buyer, &format!("order {}", purchase.id)).len(), 1, "one payment");
            let earned = lines(agent, &format!("sale {}", purchase.id));
            let [earned] = earned[..] else { panic!("one claim: {earned:?}") };
            let fee = TOTAL - u64::try_from(earned).unwrap();
            assert!((10..=30).contains(&fee), "{fee}");
            claim_fees += fee;
            assert!(buyer.buyer().standing(&purchase.id).is_ok(), "its proof holds");
        }
        for node in [agent, buyer] {
            total += node.wallet().audit().unwrap().total.as_u64();
            for line in node.wallet().history().unwrap() {
                if line.status.is_settled() {
                    fees += line.fee.map_or(0, Satoshis::as_u64);
                    if line.label == "faucet" {
                        given += u64::try_from(line.delta_sat).unwrap();
                    }
                }
            }
        }
        assert_eq!(total + fees + claim_fees, given, "to the satoshi");
    }

    async fn stop(mut self) {
        self.market.buyer.stop().await;
        self.market.agent.stop().await;
        self.market.bootstrap.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_killed_at_any_step_of_a_key_release_pays_once() {
    let mut market = ReleaseMarket::new().await;
    let mut steps = 0;
    for at in 1.. {
        if !market.buy(None, Some(at), KEPT[at as usize % KEPT.len()]).await {
            break;
        }
        steps += 1;
    }
    eprintln!("the buyer was killed at each of {steps} syncs");
    assert!(steps >= 5, "order, parts, coin, key and readings are several steps: {steps}");
    market.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_step_of_a_key_release_is_paid_once() {
    let mut market = ReleaseMarket::new().await;
    let mut steps = 0;
    for at in 1.. {
        if !market.buy(Some(at), None, KEPT[at as usize % KEPT.len()]).await {
            break;
        }
        steps += 1;
    }
    eprintln!("the agent was killed at each of {steps} syncs");
    assert!(steps >= 5, "order, coin, claim, credit and end are several steps: {steps}");
    market.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buyer_and_agent_killed_in_the_same_key_release_pay_once() {
    let mut market = ReleaseMarket::new().await;
    for (agent_at, buyer_at) in [(1, 2), (2, 4), (3, 5), (4, 3), (5, 6)] {
        market.buy(Some(agent_at), Some(buyer_at), KEPT[(agent_at + buyer_at) as usize % KEPT.len()]).await;
    }
    market.stop().await;
}
