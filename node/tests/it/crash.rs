//! Killed at every step: whatever is on disk is enough to go on from, an order is charged once, and a log has no hole and no repeat.

mod channels;
mod life;
mod release;

use std::time::Duration;

use sensora_chain::sources::dev::{OnReorg, TxStatus};
use sensora_chain::wallet::{CoinState, Status};
use sensora_chain::{Address, Network, Satoshis};
use sensora_node::agent::source::{CsvSpec, SourceSpec};
use sensora_node::agent::{AgentOptions, SourceEnd, SourceOptions};
use sensora_node::buyer::{Bought, BuyError, BuyRequest, Progress};
use sensora_node::clock::Clock;
use sensora_node::net::Multiaddr;
use sensora_node::store::{orders, outbox};
use sensora_node::supervisor::Node;
use sensora_node::wallet::SweepPolicy;
use sensora_protocol::ad::StreamAd;
use sensora_protocol::market::offer::Range;
use sensora_protocol::market::purchase::PurchaseState;
use sensora_protocol::stream::Reading;

use crate::disk::{Disk, Kept};
use crate::world::{Place, address, agent, bootstrap_mining, fund, limits, sim, terms, try_options, until};

/// Seeds of the two keys.
const AGENT: u8 = 2;
const BUYER: u8 = 3;
/// Readings in one order, at 2 sat each.
const COUNT: u64 = 20;
const PRICE: i64 = 40;

/// A node that can be killed and started again: same key, same address, whatever its disk has kept.
pub(crate) struct Mortal {
    seed: u8,
    pub(crate) disk: Disk,
    address: Multiaddr,
    bootstrap: Vec<Multiaddr>,
    sources: Vec<SourceOptions>,
    node: Option<Node>,
}

impl Mortal {
    pub(crate) async fn new(seed: u8, bootstrap: &[Multiaddr], sources: Vec<SourceOptions>) -> Self {
        let (disk, address, bootstrap) = (Disk::new(), address(), bootstrap.to_vec());
        let mut mortal = Self { seed, disk, address, bootstrap, sources, node: None };
        mortal.start().await.unwrap();
        mortal
    }

    async fn start(&mut self) -> Result<(), String> {
        let options = try_options(self.seed, &Place::Disk(&self.disk), self.address.clone());
        let mut options = options.map_err(|error| error.to_string())?;
        options.bootstrap.clone_from(&self.bootstrap);
        let sources = self.sources.clone();
        options.agent = (!sources.is_empty()).then(|| AgentOptions { ..agent(sources) });
        self.node = Some(Node::start(options).await.map_err(|error| error.to_string())?);
        Ok(())
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown().await;
        }
    }

    /// Ends the process where its disk stopped, and starts it again.
    pub(crate) async fn revive(&mut self, kept: Kept) {
        self.stop().await;
        self.disk = self.disk.after_crash(kept);
        // The address of a node that did not get to start is free a moment later.
        for _ in 0..100 {
            match self.start().await {
                Ok(()) => return,
                Err(error) => eprintln!("not started yet: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the node does not start any more");
    }

    async fn recorded(&self) {
        let agent = self.node().agent().unwrap();
        until("the sources to end", || async {
            (agent.ended_sources().await.len() == self.sources.len()).then_some(())
        })
        .await;
        for SourceEnd { name, outcome, .. } in agent.ended_sources().await {
            outcome.unwrap_or_else(|error| panic!("source {name}: {error}"));
        }
    }

    /// The readings of each stream, by name.
    fn log(&self) -> Vec<(String, Vec<Reading>)> {
        let recorder = self.node().agent().unwrap().recorder();
        let mut log: Vec<_> = recorder
            .summaries()
            .into_iter()
            .map(|stream| (stream.name, recorder.readings(&stream.id, 0, stream.size).unwrap()))
            .collect();
        log.sort_by(|a, b| a.0.cmp(&b.0));
        log
    }
}

/// A seller and a buyer that may both die.
struct Market {
    bootstrap: Node,
    agent: Mortal,
    buyer: Mortal,
    stream: StreamAd,
    log: Vec<(String, Vec<Reading>)>,
    orders: u64,
}

impl Market {
    async fn new() -> Self {
        Self::with_readings(3000).await
    }

    async fn with_readings(steps: u64) -> Self {
        let (bootstrap, addresses) = bootstrap_mining(Duration::from_secs(3600)).await;
        let agent = Mortal::new(AGENT, &addresses, vec![sim(steps)]).await;
        agent.recorded().await;
        let buyer = Mortal::new(BUYER, &addresses, Vec::new()).await;
        fund(buyer.node(), 500_000).await;
        bootstrap.chain().mine().await.unwrap();
        let seller = *agent.node().identity().public();
        let stream = until("the ad", || async {
            let found = buyer.node().discovery().ad_of(&seller).await.ok()?;
            found.ad.value().streams.first().cloned()
        })
        .await;
        let log = agent.log();
        Self { bootstrap, agent, buyer, stream, log, orders: 0 }
    }

    fn request(&self, first: u64) -> BuyRequest {
        BuyRequest {
            seller: *self.agent.node().identity().public(),
            stream: self.stream.id,
            range: Range::Seq { first, count: COUNT },
            limits: limits(),
            ad: Some(self.stream.clone()),
        }
    }

    /// Buys a range of its own while the disks stop at these syncs. Answers who died.
    async fn buy(&mut self, agent_at: Option<u64>, buyer_at: Option<u64>, kept: Kept) -> (bool, bool) {
        let first = self.orders * COUNT;
        self.orders += 1;
        let request = self.request(first);
        if let Some(at) = agent_at {
            self.agent.disk.freeze_at_sync(at);
        }
        if let Some(at) = buyer_at {
            self.buyer.disk.freeze_at_sync(at);
        }
        let (agent_disk, buyer_disk) = (self.agent.disk.clone(), self.buyer.disk.clone());
        let buying = self.buyer.node().buyer().clone();
        let mut task = {
            let request = request.clone();
            tokio::spawn(async move { buying.buy(&request, |_| {}).await })
        };
        let (mut agent_died, mut buyer_died) = (false, false);
        let outcome: Option<Result<Bought, BuyError>> = loop {
            tokio::select! {
                biased;
                () = buyer_disk.frozen(), if !buyer_died => {
                    buyer_died = true;
                    task.abort();
                    break None;
                }
                () = agent_disk.frozen(), if !agent_died => {
                    agent_died = true;
                    self.agent.revive(kept).await;
                }
                outcome = &mut task => break Some(outcome.unwrap()),
            }
        };
        // Both before either is started again: in the meantime the other could stop.
        let (agent_stopped, buyer_stopped) = (self.agent.disk.disarm(), self.buyer.disk.disarm());
        if agent_stopped {
            agent_died = true;
            self.agent.revive(kept).await;
        }
        if buyer_stopped {
            buyer_died = true;
            self.buyer.revive(kept).await;
        }
        if !matches!(outcome, Some(Ok(_))) {
            self.go_on(&request).await;
        }
        self.check(first).await;
        (agent_died, buyer_died)
    }

    /// What a person does after a crash: give the same command again, or finish what was begun first.
    async fn go_on(&self, request: &BuyRequest) {
        let buyer = self.buyer.node().buyer();
        until("the open orders to finish", || async {
            if self.orders.is_multiple_of(2) {
                return Some(());
            }
            let outcomes = buyer.resume(|_| {}).await.unwrap();
            let failed = outcomes.into_iter().find_map(|(id, outcome)| Some((id, outcome.err()?)));
            failed.map(|(id, error)| eprintln!("order {id}: {error}")).is_none().then_some(())
        })
        .await;
        until("the purchase", || async {
            buyer.buy(request, |_| {}).await.map_err(|error| eprintln!("buy: {error}")).ok()
        })
        .await;
    }

    async fn check(&self, first: u64) {
        let (agent, buyer) = (self.agent.node(), self.buyer.node());
        // The same bytes.
        let end = first + COUNT;
        let bought =
            buyer.buyer().readings(&self.stream.id, &self.stream.schema, first, end, usize::MAX - 1).unwrap();
        let sold = agent.agent().unwrap().recorder().readings(&self.stream.id, first, end).unwrap();
        assert_eq!(bought, sold);
        assert_eq!(self.agent.log(), self.log, "the log is what it was");
        // One order, one payment, one sale.
        let purchases = buyer.store().read(orders::purchases).unwrap();
        assert_eq!(purchases.len() as u64, self.orders, "no order was made twice");
        let of_range = purchases.iter().find(|purchase| {
            let offer = purchase.terms(buyer.network()).unwrap();
            (offer.value().first, offer.value().count) == (first, COUNT)
        });
        let purchase = of_range.unwrap();
        let PurchaseState::Complete { receipt } = &purchase.state else { panic!("{:?}", purchase.state) };
        let again = buyer.buyer().receipt(&purchase.id).await.unwrap();
        assert_eq!(again.bytes(), receipt, "the seller shows the same receipt");
        let txid = purchase.payment.as_ref().unwrap().txid;
        let chain = self.bootstrap.chain().dev_chain().unwrap();
        assert!(matches!(chain.status(&txid).unwrap(), TxStatus::Mempool | TxStatus::Mined { .. }));
        let sales: Vec<_> = lines(agent, &format!("sale {}", purchase.id));
        assert_eq!(sales, [PRICE], "one sale");
        let paid: Vec<_> = lines(buyer, &format!("order {}", purchase.id));
        assert_eq!(paid.len(), 1, "one payment");
        self.balance();
    }

    /// Every satoshi is somewhere.
    fn balance(&self) {
        let (agent, buyer) = (self.agent.node(), self.buyer.node());
        let (mut total, mut fees, mut given) = (0, 0, 0);
        for node in [agent, buyer] {
            total += node.wallet().audit().unwrap().total.as_u64();
            for line in node.wallet().history().unwrap() {
                if !line.status.is_settled() {
                    continue;
                }
                fees += line.fee.map_or(0, Satoshis::as_u64);
                if line.label == "faucet" {
                    given += u64::try_from(line.delta_sat).unwrap();
                }
            }
            let chain = self.bootstrap.chain().dev_chain().unwrap();
            for coin in node.wallet().coins() {
                if matches!(coin.state, CoinState::Confirmed(_) | CoinState::Unconfirmed) {
                    assert!(chain.output(&coin.outpoint).unwrap().is_some(), "{coin:?} is on the chain");
                    assert_eq!(chain.spent_by(&coin.outpoint).unwrap(), None, "{coin:?} is unspent");
                }
            }
        }
        assert_eq!(total + fees, given, "to the satoshi");
        let sold: i64 = agent
            .wallet()
            .history()
            .unwrap()
            .iter()
            .filter(|line| line.label.starts_with("sale "))
            .map(|line| line.delta_sat)
            .sum();
        assert_eq!(sold, PRICE * i64::try_from(self.orders).unwrap());
    }

    async fn stop(mut self) {
        self.bootstrap.chain().mine().await.unwrap();
        self.balance();
        self.buyer.stop().await;
        self.agent.stop().await;
        self.bootstrap.shutdown().await;
    }
}

fn lines(node: &Node, label: &str) -> Vec<i64> {
    let history = node.wallet().history().unwrap();
    history
        .iter()
        .filter(|line| line.label == label && line.status.is_settled())
        .map(|line| line.delta_sat)
        .collect()
}

/// What is left of a disk, in turn.
pub(crate) const KEPT: [Kept; 3] = [Kept::Written, Kept::Synced, Kept::Torn(0x5a5a_a5a5_3c3c_c3c3)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_killed_at_any_step_is_charged_once() {
    let mut market = Market::new().await;
    for kept in KEPT {
        let mut steps = 0;
        for at in 1.. {
            let (_, died) = Box::pin(market.buy(None, Some(at), kept)).await;
            if !died {
                break;
            }
            steps += 1;
        }
        eprintln!("{kept:?}: killed at each of {steps} syncs");
        assert!(steps >= 3, "order, receipt and readings are three steps: {steps}");
    }
    market.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_step_charges_once() {
    let mut market = Market::new().await;
    for kept in KEPT {
        let mut steps = 0;
        for at in 1.. {
            let (died, _) = Box::pin(market.buy(Some(at), None, kept)).await;
            if !died {
                break;
            }
            steps += 1;
        }
        eprintln!("{kept:?}: killed at each of {steps} syncs");
        assert!(steps >= 2, "admission and sale are two steps: {steps}");
    }
    market.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buyer_and_agent_killed_in_the_same_purchase_charge_once() {
    let mut market = Market::new().await;
    for (round, agent_at) in (1..=4).enumerate() {
        for buyer_at in 1..=6 {
            Box::pin(market.buy(
                Some(agent_at),
                Some(buyer_at),
                KEPT[(round + buyer_at as usize) % KEPT.len()],
            ))
            .await;
        }
    }
    market.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_delivery_goes_on_with_the_page_that_was_missing() {
    let mut market = Market::with_readings(70_000).await;
    let count = market.log[0].1.len() as u64;
    assert!(count > 65 * 1024, "more than one page");
    let request = BuyRequest { range: Range::Last(count), ..market.request(0) };
    let pages = [0, 64 * 1024, count];
    for done in [pages[0], pages[1]] {
        let disk = market.buyer.disk.clone();
        let stop = |step| {
            if step == (Progress::Received { done, total: count }) {
                disk.freeze_at_sync(1);
            }
        };
        let buyer = market.buyer.node().buyer().clone();
        assert!(buyer.buy(&request, stop).await.is_err());
        market.buyer.revive(Kept::Synced).await;
        let orders = market.buyer.node().buyer().orders().unwrap();
        let [order] = orders.as_slice() else { panic!("{} orders", orders.len()) };
        assert_eq!((order.received, order.state.name()), (done, "delivering"));
    }
    let mut steps = Vec::new();
    let note = |step| {
        if let Progress::Received { done, .. } = step {
            steps.push(done);
        }
    };
    let bought = market.buyer.node().buyer().buy(&request, note).await.unwrap();
    assert_eq!(steps, [pages[2]], "the first page was not asked for again");
    assert_eq!((bought.kept, bought.orders.len()), (count, 0), "and the order was not made again");
    let readings = market.buyer.node().buyer();
    let readings = readings.readings(&market.stream.id, &market.stream.schema, 0, count, usize::MAX - 1);
    assert!(readings.unwrap() == market.log[0].1);
    market.buyer.node().wallet().audit().unwrap();
    market.buyer.stop().await;
    market.agent.stop().await;
    market.bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_goes_on_exactly_where_a_crash_left_it() {
    let (bootstrap, addresses) = bootstrap_mining(Duration::from_millis(100)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pump.csv");
    let rows = (0..2500).map(|row| format!("{},{}.5\n", 1_700_000_000 + row * 60, row % 17));
    std::fs::write(&path, ["time,pressure\n".to_owned()].into_iter().chain(rows).collect::<String>())
        .unwrap();
    let csv = SourceOptions {
        spec: SourceSpec::Csv(CsvSpec::new(&path)),
        name: Some("pump".into()),
        terms: terms(),
    };
    let sources = vec![csv, sim(2100)];
    let whole = Mortal::new(AGENT, &addresses, sources.clone()).await;
    whole.recorded().await;
    let expected = whole.log();
    assert_eq!(expected[0].1.len(), 2500);
    for (_, log) in &expected {
        assert!(log.iter().zip(0..).all(|(reading, seq)| reading.seq == seq));
    }
    let mut whole = whole;
    whole.stop().await;

    let mut died = true;
    let mut at = 0;
    while died {
        at += 1;
        let kept = KEPT[at as usize % KEPT.len()];
        let disk = Disk::new();
        disk.freeze_at_sync(at);
        let mut mortal = Mortal {
            seed: AGENT,
            disk,
            address: address(),
            bootstrap: addresses.clone(),
            sources: sources.clone(),
            node: None,
        };
        let done = async {
            if mortal.start().await.is_err() {
                return;
            }
            // Recorded, advertised on chain and anchored: then all has been written that would be.
            let agent = mortal.node().agent().unwrap().clone();
            until("an anchor of everything", || async {
                if mortal.disk.is_frozen() {
                    return Some(());
                }
                let anchors = agent.anchorer().newest_anchors(1).unwrap_or_default();
                let ended = agent.ended_sources().await.len() == sources.len();
                (ended && anchors.first().is_some_and(|anchor| anchor.height.is_some())).then_some(())
            })
            .await;
        };
        done.await;
        died = mortal.disk.disarm();
        if died {
            mortal.revive(kept).await;
        }
        mortal.recorded().await;
        let log = mortal.log();
        assert!(log.len() == expected.len(), "both streams are there");
        for ((name, found), (_, wanted)) in log.iter().zip(&expected) {
            assert!(found.iter().zip(0..).all(|(reading, seq)| reading.seq == seq), "{name} has no hole");
            assert!(found == wanted, "{name} has {} readings of {}", found.len(), wanted.len());
        }
        // Each anchor has a number of its own, and the last one holds both logs.
        let agent = mortal.node().agent().unwrap();
        for stream in agent.streams() {
            until("the anchor after the crash", || async {
                let (checkpoint, _) = agent.anchorer().proof(stream, 0).ok()??;
                let size = agent.recorder().summary(stream).ok()?.size;
                let newest = agent.anchorer().newest_anchors(100).ok()?;
                let numbers: Vec<u64> = newest.iter().map(|anchor| anchor.number).collect();
                let expected: Vec<u64> = (0..newest.len() as u64).rev().collect();
                assert_eq!(numbers, expected);
                (checkpoint.value().size == size).then_some(())
            })
            .await;
        }
        mortal.node().wallet().audit().unwrap();
        mortal.stop().await;
    }
    eprintln!("killed at each of {} syncs", at - 1);
    assert!(at > 5, "recording, advertising and anchoring are more than five steps: {at}");
    bootstrap.shutdown().await;
}

/// What stays in the wallet of [`Spender`].
const KEEP: u64 = 300_000;

/// A node with money, a cold address, and a chain whose blocks come when the test says so.
struct Spender {
    bootstrap: Node,
    mortal: Mortal,
}

impl Spender {
    async fn new() -> Self {
        let (bootstrap, addresses) = bootstrap_mining(Duration::from_secs(3600)).await;
        let mortal = Mortal::new(BUYER, &addresses, Vec::new()).await;
        fund(mortal.node(), KEEP).await;
        let spender = Self { bootstrap, mortal };
        spender.block().await;
        spender
    }

    async fn block(&self) {
        self.bootstrap.chain().mine().await.unwrap();
        // A node whose disk has stopped need not follow. And nobody asks so often that it is taken for an attack.
        drop(self.mortal.node().chain().refresh().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// Waits for something, or for the disk to stop. Whether the node is alive.
    async fn reaches(&self, what: &str, check: impl Fn(&Node) -> bool) -> bool {
        until(what, || async {
            let done = self.mortal.disk.is_frozen() || check(self.mortal.node());
            if !done {
                // Not so often that the peer that serves the chain finds it too much.
                tokio::time::sleep(Duration::from_millis(100)).await;
                drop(self.mortal.node().chain().refresh().await);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            done.then_some(())
        })
        .await;
        !self.mortal.disk.is_frozen()
    }

    fn is_mined(node: &Node) -> bool {
        let history = node.wallet().history().unwrap();
        history.iter().all(|line| matches!(line.status, Status::Mined { .. }) || line.status.is_dead())
    }

    /// A payment from the first step to the last: built, out, seen, mined, thrown out by a reorganisation, and mined again.
    async fn pay(&self) -> Option<()> {
        let wallet = self.mortal.node().wallet();
        let to = Address::new(Network::Regtest, [9; 20]);
        let sent = wallet.send(&to, Satoshis::from_sat(1_000)).await.ok()?;
        let seen = |node: &Node| node.wallet().status(&sent.txid) == Some(Status::Seen);
        self.reaches("the payment to be seen", seen).await.then_some(())?;
        self.block().await;
        self.reaches("the payment to be mined", Self::is_mined).await.then_some(())?;
        let chain = self.bootstrap.chain().dev_chain().unwrap();
        chain.reorg(1, Clock::system().now_ms(), OnReorg::Forget).unwrap();
        self.bootstrap.chain().refresh().await.unwrap();
        let lost = |node: &Node| !matches!(node.wallet().status(&sent.txid), Some(Status::Mined { .. }));
        self.reaches("the payment to be thrown out", lost).await.then_some(())?;
        self.reaches("the payment to go out again", seen).await.then_some(())?;
        self.block().await;
        self.reaches("the payment to be mined again", Self::is_mined).await.then_some(())
    }

    /// An excess that is mined, buried and swept.
    async fn earn(&self) -> Option<()> {
        let wallet = self.mortal.node().wallet();
        let to = Some(Address::new(Network::Regtest, [0xc0; 20]));
        wallet.set_sweep(SweepPolicy { to, keep: Satoshis::from_sat(KEEP) }).unwrap();
        wallet.fund_from_faucet(Satoshis::from_sat(50_000)).await.ok()?;
        for _ in 0..7 {
            self.block().await;
        }
        let swept = |node: &Node| node.wallet().balance().unwrap().total.as_u64() <= KEEP;
        self.reaches("the sweep", swept).await.then_some(())?;
        self.block().await;
        self.reaches("the sweep to be mined", Self::is_mined).await.then_some(())
    }

    /// Everything goes on by itself after the last crash, and chain and wallet agree to the satoshi.
    async fn check(&mut self, died: bool, kept: Kept) {
        self.back(died, kept).await;
        self.settled().await;
    }

    async fn back(&mut self, died: bool, kept: Kept) {
        if self.mortal.disk.disarm() || died {
            self.mortal.revive(kept).await;
        }
    }

    async fn settled(&self) {
        until("everything to be mined after the crash", || async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.block().await;
            let node = self.mortal.node();
            (Self::is_mined(node) && node.store().read(outbox::all).unwrap().is_empty()).then_some(())
        })
        .await;
        let node = self.mortal.node();
        node.wallet().audit().unwrap();
        let chain = self.bootstrap.chain().dev_chain().unwrap();
        for coin in node.wallet().coins() {
            assert!(matches!(coin.state, CoinState::Confirmed(_)), "{coin:?}");
            assert!(chain.output(&coin.outpoint).unwrap().is_some(), "{coin:?} is on the chain");
            assert_eq!(chain.spent_by(&coin.outpoint).unwrap(), None, "{coin:?} is unspent");
        }
        for line in node.wallet().history().unwrap().iter().filter(|line| line.status.is_settled()) {
            let TxStatus::Mined { height, .. } = chain.status(&line.txid).unwrap() else {
                panic!("{line:?}")
            };
            assert_eq!(line.status, Status::Mined { height });
        }
    }

    async fn stop(mut self) {
        self.mortal.stop().await;
        self.bootstrap.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_at_any_step_of_a_payments_life_is_right_to_the_satoshi() {
    let mut spender = Spender::new().await;
    for at in 1.. {
        let kept = KEPT[at as usize % KEPT.len()];
        spender.mortal.disk.freeze_at_sync(at);
        let done = spender.pay().await;
        let died = done.is_none() || spender.mortal.disk.is_frozen();
        spender.check(died, kept).await;
        let history = spender.mortal.node().wallet().history().unwrap();
        let sent = history.iter().filter(|line| line.label.starts_with("send to"));
        let sent = sent.filter(|line| line.status.is_settled()).count() as u64;
        assert!(sent <= at, "{sent} payments in {at} rounds");
        if !died {
            eprintln!("killed at each of {} syncs", at - 1);
            assert!(at > 4, "built, out, seen, mined, lost and found again are more than four: {at}");
            break;
        }
    }
    spender.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_at_any_step_of_a_sweep_sweeps_once() {
    let mut spender = Spender::new().await;
    for at in 1.. {
        let kept = KEPT[at as usize % KEPT.len()];
        spender.mortal.disk.freeze_at_sync(at);
        let done = spender.earn().await;
        let died = done.is_none() || spender.mortal.disk.is_frozen();
        spender.check(died, kept).await;
        // Whatever was there is swept in the end, and nothing below the bound.
        let to = Some(Address::new(Network::Regtest, [0xc0; 20]));
        let wallet = spender.mortal.node().wallet().clone();
        wallet.set_sweep(SweepPolicy { to, keep: Satoshis::from_sat(KEEP) }).unwrap();
        until("the wallet to be at its bound", || async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            spender.block().await;
            let total = wallet.audit().unwrap().total.as_u64();
            assert!(total >= KEEP, "{total} sat are left");
            (total == KEEP && Spender::is_mined(spender.mortal.node())).then_some(())
        })
        .await;
        if !died {
            eprintln!("killed at each of {} syncs", at - 1);
            assert!(at > 4, "paid, mined, swept, seen and mined are more than four: {at}");
            break;
        }
    }
    let history = spender.mortal.node().wallet().history().unwrap();
    let given: i64 = history.iter().filter(|line| line.label == "faucet").map(|line| line.delta_sat).sum();
    let settled = history.iter().filter(|line| line.label.starts_with("sweep") && line.status.is_settled());
    assert_eq!(given + settled.map(|line| line.delta_sat).sum::<i64>(), i64::try_from(KEEP).unwrap());
    spender.stop().await;
}
