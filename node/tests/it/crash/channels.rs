//! Orders through a channel, with either side killed at any step: what was paid is received, and nothing is paid twice.

use sensora_chain::Satoshis;
use sensora_node::buyer::SubscribeRequest;
use sensora_node::store::channels;
use sensora_protocol::market::channel::offer::ChannelLimits;
use sensora_protocol::market::delivery::receive::ChannelPurchaseState;
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::offer::BuyerLimits;
use sensora_protocol::market::price::Metered;
use sensora_protocol::market::receipt::ChannelReceipt;

use super::*;

/// Readings of one order, at 2 sat each.
const READINGS: u64 = 60;

struct ChannelMarket {
    market: Market,
    orders: u64,
}

impl ChannelMarket {
    async fn new() -> Self {
        let market = Market::with_readings(6000).await;
        let seller = *market.agent.node().identity().public();
        let limits = ChannelLimits {
            max_value: Satoshis::from_sat(100_000),
            max_blocks: 1_000,
            max_close_fee: Satoshis::from_sat(100),
        };
        let buyer = market.buyer.node().buyer();
        buyer.open_channel(&seller, Satoshis::from_sat(30_000), 500, limits).await.unwrap();
        Self { market, orders: 0 }
    }

    fn request(&self) -> BuyRequest {
        BuyRequest {
            range: Range::Seq { first: self.orders * READINGS, count: READINGS },
            limits: BuyerLimits { max_price: Satoshis::from_sat(1_000), exposure: Satoshis::from_sat(9) },
            ..self.market.request(0)
        }
    }

    /// Buys a range of its own while a disk stops at this sync. Answers whether it did.
    async fn buy(&mut self, agent_at: Option<u64>, buyer_at: Option<u64>, kept: Kept) -> bool {
        let request = self.request();
        self.orders += 1;
        let Market { agent, buyer, .. } = &mut self.market;
        if let Some(at) = agent_at {
            agent.disk.freeze_at_sync(at);
        }
        if let Some(at) = buyer_at {
            buyer.disk.freeze_at_sync(at);
        }
        let (agent_disk, buyer_disk) = (agent.disk.clone(), buyer.disk.clone());
        let buying = buyer.node().buyer().clone();
        let task = {
            let request = request.clone();
            tokio::spawn(async move { buying.buy_through_channel(&request, |_| {}).await })
        };
        let abort = task.abort_handle();
        tokio::select! {
            _ = task => {}
            () = agent_disk.frozen() => {}
            () = buyer_disk.frozen() => {}
        }
        abort.abort();
        let (agent_stopped, buyer_stopped) = (agent.disk.disarm(), buyer.disk.disarm());
        if agent_stopped {
            agent.revive(kept).await;
        }
        if buyer_stopped {
            buyer.revive(kept).await;
        }
        let buyer = self.market.buyer.node().buyer();
        until("the purchase", || async {
            let bought = buyer.buy_through_channel(&request, |_| {}).await;
            bought.map_err(|error| eprintln!("buy: {error}")).ok()
        })
        .await;
        self.check();
        agent_stopped || buyer_stopped
    }

    fn subscription(&self) -> SubscribeRequest {
        SubscribeRequest {
            seller: *self.market.agent.node().identity().public(),
            stream: self.market.stream.id,
            from: LiveFrom::Seq(self.orders * READINGS),
            budget: Satoshis::from_sat(1_000),
            exposure: Satoshis::from_sat(9),
            ad: Some(self.market.stream.clone()),
            by: Metered::Reading,
            max_reading: None,
            max_second: None,
            readings: Some(READINGS),
            until_ms: None,
        }
    }

    /// Takes some readings of the stream as they come, while a disk stops at this sync. Answers whether it did. A buyer that lives goes on by itself.
    async fn listen(&mut self, agent_at: Option<u64>, buyer_at: Option<u64>, kept: Kept) -> bool {
        let request = self.subscription();
        self.orders += 1;
        let Market { agent, buyer, .. } = &mut self.market;
        if let Some(at) = agent_at {
            agent.disk.freeze_at_sync(at);
        }
        if let Some(at) = buyer_at {
            buyer.disk.freeze_at_sync(at);
        }
        let (agent_disk, buyer_disk) = (agent.disk.clone(), buyer.disk.clone());
        let listening = buyer.node().buyer().clone();
        let mut task = {
            let request = request.clone();
            tokio::spawn(async move {
                let mut live = listening.subscribe(&request).await.map_err(|error| error.to_string())?;
                live.ended().await.map_err(|error| error.to_string())
            })
        };
        let mut done = None;
        let (mut agent_stopped, mut buyer_stopped) = (false, false);
        tokio::select! {
            ended = &mut task => done = Some(ended.unwrap()),
            () = agent_disk.frozen() => {}
            () = buyer_disk.frozen() => {}
        }
        if agent.disk.disarm() {
            agent_stopped = true;
            agent.revive(kept).await;
        }
        if buyer.disk.disarm() {
            buyer_stopped = true;
            task.abort();
            buyer.revive(kept).await;
        } else if done.is_none() {
            let ended = tokio::time::timeout(crate::world::PATIENCE, &mut task).await;
            done = Some(ended.expect("it goes on by itself").unwrap());
        }
        if !matches!(done, Some(Ok(_))) {
            let buyer = self.market.buyer.node().buyer();
            until("the stream", || async {
                // Where it had ended before the disk stopped, whoever subscribes begins another order.
                if self.is_over(buyer) {
                    return Some(());
                }
                let mut live = match buyer.subscribe(&request).await {
                    Ok(live) => live,
                    Err(error) => {
                        eprintln!("subscribe: {error}");
                        return None;
                    }
                };
                live.ended().await.map_err(|error| eprintln!("ended: {error}")).ok().map(|_| ())
            })
            .await;
        }
        self.check();
        agent_stopped || buyer_stopped
    }

    fn is_over(&self, buyer: &sensora_node::buyer::Buyer) -> bool {
        let orders = buyer.orders().unwrap();
        orders.len() as u64 == self.orders && orders.iter().all(|order| order.state.is_complete())
    }

    fn check(&self) {
        let (agent, buyer) = (self.market.agent.node(), self.market.buyer.node());
        let end = self.orders * READINGS;
        let (stream, schema) = (&self.market.stream.id, &self.market.stream.schema);
        let bought = buyer.buyer().readings(stream, schema, 0, end, usize::MAX - 1).unwrap();
        assert_eq!(bought, agent.agent().unwrap().recorder().readings(stream, 0, end).unwrap());
        assert_eq!(self.market.agent.log(), self.market.log, "the log is what it was");
        let purchases = buyer.store().read(channels::purchases).unwrap();
        assert_eq!(purchases.len() as u64, self.orders, "no order was made twice");
        let mut paid = 0;
        for purchase in &purchases {
            let ChannelPurchaseState::Ended { receipt, .. } = &purchase.state else {
                panic!("{:?}", purchase.state)
            };
            let sale = agent.store().read(|tx| channels::sale(tx, &purchase.id)).unwrap().unwrap();
            let receipt = receipt.clone().verify::<ChannelReceipt>(buyer.network()).unwrap();
            assert_eq!(sale.receipt(agent.network()).as_ref(), Some(receipt.value()), "the same receipt");
            assert_eq!(receipt.value().paid, Satoshis::from_sat(2 * READINGS), "charged once, and exactly");
            paid += receipt.value().paid.as_u64();
        }
        let [mine] = &buyer.store().read(channels::all_buyer).unwrap()[..] else { panic!() };
        let [theirs] = &agent.store().read(channels::all_seller).unwrap()[..] else { panic!() };
        assert_eq!(mine.spending.paid().unwrap(), Satoshis::from_sat(paid), "the buyer's account");
        assert_eq!(theirs.earning.ended, Satoshis::from_sat(paid), "the seller's account");
        assert!(theirs.earning.highest >= theirs.earning.ended);
        assert!(mine.spending.highest >= theirs.earning.highest, "nothing is booked that was not signed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_killed_at_any_step_of_a_paid_delivery_pays_once() {
    let mut market = ChannelMarket::new().await;
    let mut steps = 0;
    for at in 1.. {
        if !market.buy(None, Some(at), KEPT[at as usize % KEPT.len()]).await {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 4, "order, readings and receipt are several steps: {steps}");
    market.market.buyer.stop().await;
    market.market.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_step_of_a_paid_delivery_is_paid_once() {
    let mut market = ChannelMarket::new().await;
    let mut steps = 0;
    for at in 1.. {
        if !market.buy(Some(at), None, KEPT[at as usize % KEPT.len()]).await {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 4, "order, vouchers and receipt are several steps: {steps}");
    market.market.buyer.stop().await;
    market.market.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_killed_at_any_step_of_a_live_stream_goes_on_with_the_same_order() {
    let mut market = ChannelMarket::new().await;
    let mut steps = 0;
    for at in 1.. {
        if !market.listen(None, Some(at), KEPT[at as usize % KEPT.len()]).await {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 4, "order, readings and receipt are several steps: {steps}");
    market.market.buyer.stop().await;
    market.market.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_step_of_a_live_stream_is_waited_for() {
    let mut market = ChannelMarket::new().await;
    let mut steps = 0;
    for at in 1.. {
        if !market.listen(Some(at), None, KEPT[at as usize % KEPT.len()]).await {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 4, "order, vouchers and receipt are several steps: {steps}");
    market.market.buyer.stop().await;
    market.market.agent.stop().await;
}
