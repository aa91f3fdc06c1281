//! Killed at any step of the life of every kind of transaction: built, out, seen, mined, buried, thrown out by a reorganisation, out again and
//! mined again. Afterwards everything goes on by itself, and wallet and chain agree to the satoshi.

use std::collections::BTreeSet;
use std::time::Duration;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::payment::sign_input;
use sensora_chain::sources::dev::{DevChain, OnReorg};
use sensora_chain::wallet::{CONSOLIDATE_ABOVE, Status, TIDY_DEPTH};
use sensora_chain::{
    Address, Network, OutPoint, PrivateKey, Satoshis, Script, Transaction, TxIn, TxOut, Txid,
};
use sensora_node::agent::advertiser::Listing;
use sensora_node::agent::source::RawReading;
use sensora_node::clock::Clock;
use sensora_node::store::{orders, outbox};
use sensora_node::supervisor::Node;
use sensora_node::wallet::WalletHandleError;
use sensora_protocol::market::purchase::PurchaseState;
use sensora_protocol::stream::checkpoint::Checkpoint;
use tokio_util::sync::CancellationToken;

use super::{AGENT, COUNT, KEEP, KEPT, Kept, Market, Mortal, PRICE, Spender, lines};
use crate::world::{bootstrap_mining, fund, sim, until};

/// What a small coin is worth.
const SMALL: u64 = 1_000;
/// Blocks on top of a transaction before it is thrown out again.
const BURIED: u32 = 2;

fn now() -> i64 {
    Clock::system().now_ms()
}

impl Spender {
    /// A node that sells, with money, on a chain that waits for the test.
    async fn selling() -> Self {
        let (bootstrap, addresses) = bootstrap_mining(Duration::from_secs(3600)).await;
        let mortal = Mortal::new(AGENT, &addresses, vec![sim(40)]).await;
        mortal.recorded().await;
        fund(mortal.node(), KEEP).await;
        let spender = Self { bootstrap, mortal };
        until("the first anchor and ad in a block", || async {
            spender.block().await;
            let anchored =
                spender.mortal.node().agent().unwrap().anchorer().newest_anchors(1).unwrap().len() == 1;
            (anchored && Self::is_mined(spender.mortal.node())).then_some(())
        })
        .await;
        spender
    }

    fn chain(&self) -> &DevChain {
        self.bootstrap.chain().dev_chain().unwrap()
    }

    /// All of a life that comes after it was built. `None` where the disk stopped in it.
    async fn lives(&self, txid: Txid, dropped: OnReorg) -> Option<()> {
        let out = move |node: &Node| {
            matches!(node.wallet().status(&txid), Some(Status::Seen | Status::Mined { .. }))
        };
        self.reaches("it to be seen", out).await.then_some(())?;
        self.block().await;
        self.reaches("it to be mined", Self::is_mined).await.then_some(())?;
        for _ in 0..BURIED {
            self.chain().mine_empty(now()).unwrap();
        }
        drop(self.mortal.node().chain().refresh().await);
        self.chain().reorg(BURIED + 1, now(), dropped).unwrap();
        self.bootstrap.chain().refresh().await.unwrap();
        let lost = move |node: &Node| !matches!(node.wallet().status(&txid), Some(Status::Mined { .. }));
        self.reaches("it to be thrown out", lost).await.then_some(())?;
        self.reaches("it to be out again", out).await.then_some(())?;
        self.block().await;
        self.reaches("it to be mined again", Self::is_mined).await.then_some(())
    }

    /// Kills it at its first step, at its second, and so on until it lives through all of it. Each time the disk keeps something else.
    async fn at_every_step(
        mut self,
        what: &str,
        least: u64,
        prepare: impl AsyncFn(&Self),
        begin: impl AsyncFn(&Self) -> Option<Txid>,
        check: impl AsyncFn(&Self),
    ) {
        for at in 1.. {
            prepare(&self).await;
            self.mortal.disk.freeze_at_sync(at);
            let dropped = if at % 2 == 0 { OnReorg::Requeue } else { OnReorg::Forget };
            let done = match begin(&self).await {
                Some(txid) => self.lives(txid, dropped).await,
                None => None,
            };
            let died = done.is_none() || self.mortal.disk.is_frozen();
            self.back(died, KEPT[usize::try_from(at).unwrap() % KEPT.len()]).await;
            check(&self).await;
            self.settled().await;
            if !died {
                eprintln!("{what}: killed at each of {} syncs", at - 1);
                assert!(at > least, "{what}: {} steps are fewer than there are", at - 1);
                break;
            }
        }
        self.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_step_of_an_anchors_life_anchors_once() {
    let spender = Spender::selling().await;
    let begin = async |spender: &Spender| {
        let agent = spender.mortal.node().agent().unwrap().clone();
        let stream = agent.streams()[0];
        let size = agent.recorder().summary(&stream).ok()?.size;
        let last = agent.recorder().readings(&stream, size - 1, size).ok()?.pop()?;
        let reading = RawReading { time: last.time + 1_000_000, values: last.values };
        agent.recorder().append(vec![(stream, vec![reading])]).ok()?;
        // By itself, or because it is told to.
        drop(agent.anchorer().anchor_now().await);
        agent.anchorer().newest_anchors(1).ok()?.pop().map(|anchor| anchor.txid)
    };
    let check = async |spender: &Spender| {
        let agent = spender.mortal.node().agent().unwrap();
        until("an anchor of everything", || async {
            spender.block().await;
            let lags = agent.anchorer().lags().unwrap();
            (lags.iter().all(|lag| lag.readings == 0) && Spender::is_mined(spender.mortal.node()))
                .then_some(())
        })
        .await;
        let anchors = agent.anchorer().newest_anchors(100).unwrap();
        let mut said = BTreeSet::new();
        for (anchor, number) in anchors.iter().rev().zip(0..) {
            assert_eq!(anchor.number, number, "each has a number of its own");
            assert!(anchor.height.is_some() || spender.mortal.node().wallet().status(&anchor.txid).is_some());
            for checkpoint in &anchor.checkpoints {
                let checkpoint = checkpoint.clone().verify::<Checkpoint>(Network::Regtest).unwrap();
                let says = (checkpoint.value().stream, checkpoint.value().size);
                assert!(said.insert(says), "anchor {number} says again what was said before: {says:?}");
            }
        }
    };
    spender.at_every_step("anchor", 5, async |_| {}, begin, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_step_of_an_ads_life_is_right_to_the_satoshi() {
    let spender = Spender::selling().await;
    let begin = async |spender: &Spender| {
        let node = spender.mortal.node();
        let agent = node.agent()?;
        let before = node.wallet().history().ok()?.len();
        let price = format!("{}", 3 + spender.mortal.disk.syncs() % 1000);
        let listing = Listing {
            stream: agent.streams()[0],
            kinds: vec!["temperature".into()],
            place: None,
            cadence_ms: None,
            price: price.parse().unwrap(),
            second: None,
            licence: "CC0-1.0".into(),
            sample: 1,
            max_readings: 1000,
        };
        drop(agent.advertiser().offer(vec![listing]).await);
        let history = node.wallet().history().ok()?;
        history.get(before..)?.iter().find(|line| line.label == "ad").map(|line| line.txid)
    };
    let check = async |spender: &Spender| {
        // After a start the agent offers what it was started with, once.
        let ads = spender.mortal.node().wallet().history().unwrap();
        let waiting = ads.iter().filter(|line| line.label == "ad" && line.status == Status::Built).count();
        assert!(waiting <= 1, "{waiting} ads wait");
    };
    spender.at_every_step("ad", 5, async |_| {}, begin, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_at_any_step_of_gathering_gathers_once() {
    let spender = Spender::new().await;
    let prepare = async |spender: &Spender| {
        // One transaction of a stranger with many small coins for us, deep in the chain but for one block.
        let wallet = spender.mortal.node().wallet();
        let small = CONSOLIDATE_ABOVE + 5 - wallet.coins().len();
        let stranger = PrivateKey::from_bytes([0x77; 32]).unwrap();
        let theirs = Script::p2pkh(&stranger.public().hash160());
        let beef = spender.bootstrap.chain().faucet(&theirs, Satoshis::from_sat(200_000)).await.unwrap();
        let mut beef = Beef::parse(&beef, &BeefLimits::default()).unwrap();
        let paid = beef.subject().unwrap();
        let spent = beef.transaction(&paid).unwrap().outputs[0].clone();
        let ours = wallet.address().unwrap().locking_script();
        let coin = TxOut { value: Satoshis::from_sat(SMALL), locking: ours };
        let input = TxIn::new(OutPoint { txid: paid, vout: 0 });
        let mut tx = Transaction::new(vec![input], vec![coin; small]);
        sign_input(&mut tx, 0, &spent, &stranger).unwrap();
        let txid = beef.add(tx, None).unwrap();
        let beef = beef.to_atomic(&txid).unwrap();
        spender.bootstrap.chain().broadcast(&beef).await.unwrap();
        wallet.receive_funds(&beef, "many").unwrap();
        spender.block().await;
        for _ in 0..TIDY_DEPTH - 2 {
            spender.chain().mine_empty(now()).unwrap();
        }
        until("the coins to be mined", || async {
            drop(spender.mortal.node().chain().refresh().await);
            let mined = matches!(wallet.status(&txid), Some(Status::Mined { .. }));
            mined.then_some(())
        })
        .await;
    };
    let begin = async |spender: &Spender| {
        spender.chain().mine_empty(now()).unwrap();
        let wallet = spender.mortal.node().wallet().clone();
        let gathers = |node: &Node| {
            let history = node.wallet().history().unwrap();
            history
                .iter()
                .any(|line| line.label.contains("into one") && !matches!(line.status, Status::Mined { .. }))
        };
        spender.reaches("the gathering", gathers).await.then_some(())?;
        let history = wallet.history().ok()?;
        history.iter().rev().find(|line| line.label.contains("into one")).map(|line| line.txid)
    };
    let check = async |spender: &Spender| {
        let wallet = spender.mortal.node().wallet().clone();
        until("the coins to be one", || async {
            spender.block().await;
            (wallet.coins().len() <= CONSOLIDATE_ABOVE && Spender::is_mined(spender.mortal.node()))
                .then_some(())
        })
        .await;
        // Each gathering makes one of several, each several was one once, and nothing is gathered without need.
        let history = wallet.history().unwrap();
        let many: i64 = lines(spender.mortal.node(), "many").iter().sum();
        let gathered =
            history.iter().filter(|line| line.label.contains("into one") && line.status.is_settled());
        let made: Vec<i64> =
            gathered.map(|line| line.label.split(' ').next().unwrap().parse::<i64>().unwrap() - 1).collect();
        let coins = wallet.coins().len() as i64;
        assert_eq!(coins, 1 + many / SMALL as i64 - made.iter().sum::<i64>());
        assert!(made.last().is_none_or(|last| coins + last > CONSOLIDATE_ABOVE as i64), "{coins}: {made:?}");
    };
    spender.at_every_step("gathering", 3, prepare, begin, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_at_any_step_of_taking_back_a_payment_has_its_coins_back() {
    let spender = Spender::new().await;
    let payment = std::sync::Mutex::new(None);
    let begin = async |spender: &Spender| {
        *payment.lock().unwrap() = None;
        let wallet = spender.mortal.node().wallet().clone();
        let out = TxOut { value: Satoshis::from_sat(700), locking: Script::p2pkh(&[9; 20]) };
        // As an order is paid: stored, and not in the outbox, for its payee brings it out.
        let spec = wallet.spec(vec![out], "order").unwrap();
        let key = spender.mortal.node().identity().key().clone();
        let built = wallet.update(|wallet, _| Ok::<_, WalletHandleError>(wallet.build(&key, spec, 0)?));
        let txid = built.ok()?.txid;
        *payment.lock().unwrap() = Some(txid);
        let taken = wallet.take_back(&txid).await.ok()?;
        Some(taken.txid)
    };
    let check = async |spender: &Spender| {
        let wallet = spender.mortal.node().wallet().clone();
        let paid = payment.lock().unwrap().take();
        // Where it was killed before the coins were asked back, they are asked back now.
        let open = paid.filter(|txid| wallet.status(txid) == Some(Status::Built));
        if let Some(txid) = open {
            wallet.take_back(&txid).await.unwrap();
        }
        until("the coins to be back", || async {
            spender.block().await;
            Spender::is_mined(spender.mortal.node()).then_some(())
        })
        .await;
        if let Some(txid) = paid {
            assert!(wallet.status(&txid).is_none_or(|status| status.is_dead()), "it can never be taken");
        }
        assert_eq!(wallet.audit().unwrap().reserved, Satoshis::ZERO);
    };
    spender.at_every_step("taking back", 5, async |_| {}, begin, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_whose_headers_are_gone_keeps_its_proofs() {
    let mut spender = Spender::new().await;
    let funded = spender.mortal.node().wallet().history().unwrap()[0].txid;
    assert!(spender.reaches("the money to be mined", Spender::is_mined).await);
    // Its headers are in memory, and nobody is there to give them again.
    spender.bootstrap.shutdown().await;
    spender.mortal.revive(Kept::Written).await;
    let node = spender.mortal.node();
    assert_eq!(node.chain().headers().tip().height, 0);
    // The first thing of each look is whether proofs have become stale.
    let looking = node.wallet().clone().run(CancellationToken::new());
    let _ = tokio::time::timeout(Duration::from_millis(50), looking).await;
    assert!(matches!(node.wallet().status(&funded), Some(Status::Mined { .. })));
    let address = Address::new(Network::Regtest, [9; 20]);
    assert!(node.wallet().send(&address, Satoshis::from_sat(1_000)).await.is_err(), "nobody takes it");
    let waiting = node.store().read(outbox::all).unwrap();
    assert_eq!(waiting.len(), 1, "but it is built, with its proofs, and waits");
    node.wallet().audit().unwrap();
    spender.mortal.stop().await;
}

/// A purchase from its order to the second time its payment is mined.
impl Market {
    async fn lives(&mut self, agent_at: Option<u64>, buyer_at: Option<u64>, round: u64) -> bool {
        let first = self.orders * COUNT;
        self.orders += 1;
        let request = self.request(first);
        let kept = KEPT[usize::try_from(round).unwrap() % KEPT.len()];
        for (mortal, at) in [(&self.agent, agent_at), (&self.buyer, buyer_at)] {
            if let Some(at) = at {
                mortal.disk.freeze_at_sync(at);
            }
        }
        let dropped = if round.is_multiple_of(2) { OnReorg::Requeue } else { OnReorg::Forget };
        // In a task of its own time; whoever dies in it, the rest of it goes on without.
        let buyer = self.buyer.node().buyer().clone();
        let buying = tokio::time::timeout(Duration::from_secs(2), buyer.buy(&request, |_| {}));
        drop(buying.await);
        let frozen = |market: &Self| market.agent.disk.is_frozen() || market.buyer.disk.is_frozen();
        for step in 0..4 {
            if frozen(self) {
                break;
            }
            match step {
                0 | 3 => drop(self.bootstrap.chain().mine().await.unwrap()),
                1 => drop(self.bootstrap.chain().dev_chain().unwrap().mine_empty(now()).unwrap()),
                _ => {
                    let chain = self.bootstrap.chain().dev_chain().unwrap();
                    chain.reorg(2, now(), dropped).unwrap();
                }
            }
            drop(self.bootstrap.chain().refresh().await);
            for mortal in [&self.agent, &self.buyer] {
                drop(mortal.node().chain().refresh().await);
            }
            // Both have looked, or one has died.
            let tip = self.bootstrap.chain().headers().tip();
            until("both to follow", || async {
                let follow = |mortal: &Mortal| mortal.node().chain().headers().tip() == tip;
                for mortal in [&self.agent, &self.buyer] {
                    drop(mortal.node().chain().refresh().await);
                }
                (frozen(self) || follow(&self.agent) && follow(&self.buyer)).then_some(())
            })
            .await;
            let settled = async |mortal: &Mortal| {
                for _ in 0..20 {
                    let history = mortal.node().wallet().history().unwrap_or_default();
                    let waits = |status: &Status| matches!(status, Status::Mined { .. }) == (step == 2);
                    if mortal.disk.is_frozen() || !history.iter().any(|line| waits(&line.status)) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            settled(&self.agent).await;
            settled(&self.buyer).await;
        }
        let (agent_stopped, buyer_stopped) = (self.agent.disk.disarm(), self.buyer.disk.disarm());
        let died = agent_stopped || buyer_stopped;
        if agent_stopped {
            self.agent.revive(kept).await;
        }
        if buyer_stopped {
            self.buyer.revive(kept).await;
        }
        self.go_on(&request).await;
        until("the purchases to be mined on both sides", || async {
            drop(self.bootstrap.chain().mine().await);
            let both = [&self.agent, &self.buyer];
            for mortal in both {
                drop(mortal.node().chain().refresh().await);
            }
            both.iter().all(|mortal| Spender::is_mined(mortal.node())).then_some(())
        })
        .await;
        self.paid_once().await;
        died
    }

    /// Each range has one complete order, and each order one payment and one sale, on the chain.
    async fn paid_once(&self) {
        let (agent, buyer) = (self.agent.node(), self.buyer.node());
        for purchase in buyer.store().read(orders::purchases).unwrap() {
            assert!(matches!(purchase.state, PurchaseState::Complete { .. }), "{:?}", purchase.state);
            assert_eq!(lines(agent, &format!("sale {}", purchase.id)), [PRICE], "one sale");
            assert_eq!(lines(buyer, &format!("order {}", purchase.id)).len(), 1, "one payment");
        }
        assert_eq!(buyer.store().read(orders::purchases).unwrap().len() as u64, self.orders);
        self.balance();
        for node in [agent, buyer] {
            let compared =
                until("an answer of the chain", || async { node.wallet().audit_chain().await.ok() }).await;
            assert_eq!(compared.differences, [], "{compared:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_killed_at_any_step_of_a_payments_life_has_earned_it_once() {
    let mut market = Market::new().await;
    let mut at = 1;
    while Box::pin(market.lives(Some(at), None, at)).await {
        at += 1;
    }
    eprintln!("the seller was killed at each of {} syncs", at - 1);
    assert!(at > 4, "admitted, sold, mined, thrown out and mined again are more than four: {at}");
    market.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_killed_at_any_step_of_a_payments_life_has_paid_it_once() {
    let mut market = Market::new().await;
    let mut at = 1;
    while Box::pin(market.lives(None, Some(at), at)).await {
        at += 1;
    }
    eprintln!("the buyer was killed at each of {} syncs", at - 1);
    assert!(at > 4, "ordered, paid, delivered, mined, thrown out and mined again are more than four: {at}");
    market.stop().await;
}
