//! Reorganisations of a real node, 1 to 6 blocks deep, at random moments in the life of anchors, payments, purchases and sweeps: when all is quiet
//! again everything is right, whatever was thrown out, and what a branch has contradicted is named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sensora_chain::contract::payment::{pay_to_hash, sign_input};
use sensora_chain::sources::service::Report;
use sensora_chain::wallet::{Coin, CoinState, Status};
use sensora_chain::{Address, Network, OutPoint, Satoshis, Transaction, TxIn, TxOut, Txid};
use sensora_node::buyer::BuyError;
use sensora_node::store::anchors::AnchorRecord;
use sensora_node::supervisor::Node;
use sensora_node::wallet::SweepPolicy;
use sensora_protocol::OrderId;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::offer::Range;

use super::stage::{Layout, Stage, named};
use crate::world::{fund, until};

/// Where a transaction is in its life when the branch comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// Being built and handed over.
    Built,
    /// On the network, in no block.
    Waiting,
    /// In the newest block.
    Mined,
    /// Under so many blocks.
    Buried(u32),
    /// A payment that is signed and not sent.
    Ordered,
    /// Between order and receipt, or between receipt and delivery.
    Purchase,
    /// A sweep on its way.
    Sweep,
}

const MOMENTS: [Moment; 11] = [
    Moment::Built,
    Moment::Waiting,
    Moment::Mined,
    Moment::Buried(1),
    Moment::Buried(2),
    Moment::Buried(3),
    Moment::Buried(4),
    Moment::Buried(5),
    Moment::Ordered,
    Moment::Purchase,
    Moment::Sweep,
];

/// Readings in one order.
const COUNT: u64 = 10;

/// Numbers that are the same in each run (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    async fn pause(&mut self, below_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.below(below_ms))).await;
    }
}

/// What the rounds have come to.
#[derive(Debug, Default)]
struct Seen {
    moments: BTreeSet<Moment>,
    depths: BTreeSet<u32>,
    reorgs: u32,
    rivals: u32,
    outdone: BTreeMap<Txid, Txid>,
}

struct Walk {
    stage: Stage,
    dice: Dice,
    seen: Seen,
    /// The first reading that nobody has bought.
    next: u64,
}

/// What is in the middle of its life: whose it is, and a transaction that spends its coin elsewhere.
struct Victim<'a> {
    owner: &'a Node,
    txid: Txid,
}

impl Walk {
    fn newest_anchor(&self) -> AnchorRecord {
        self.stage.agent.agent().unwrap().anchorer().newest_anchors(1).unwrap().remove(0)
    }

    async fn fresh_anchor(&mut self) -> Txid {
        let before = self.newest_anchor().number;
        self.stage.append(COUNT);
        until("the next anchor", || async {
            let anchor = self.newest_anchor();
            (anchor.number > before).then_some(anchor.txid)
        })
        .await
    }

    async fn settled(&self, node: &Node, txid: &Txid) {
        until("the transaction to be out", || async {
            node.wallet().status(txid).is_some_and(|status| status.is_settled()).then_some(())
        })
        .await;
    }

    /// A transaction that spends a coin of the victim's to a stranger, if that coin is deeper in the chain than the branch goes.
    async fn rival(
        &self,
        victim: &Victim<'_>,
        coins: &BTreeMap<OutPoint, Coin>,
        fork: u32,
    ) -> Option<Transaction> {
        let wallet = victim.owner.wallet();
        // What the branch does not reach it cannot contradict.
        let report = self.stage.real.service().report(&victim.txid).await.unwrap();
        if matches!(&report, Report::Mined(path) if path.block_height() <= fork) {
            return None;
        }
        let tx = wallet.read(|wallet| wallet.transaction(&victim.txid).cloned())?;
        let coin = tx.inputs.iter().find_map(|input| coins.get(&input.previous))?;
        let CoinState::Confirmed(height) = coin.state else { return None };
        if height > fork || coin.value.as_u64() < 200 {
            return None;
        }
        let root = victim.owner.identity().key();
        let spent = TxOut { value: coin.value, locking: coin.key.locking_script(root) };
        let left = Satoshis::from_sat(coin.value.as_u64() - 100);
        let out = pay_to_hash(&[5; 20], left);
        let mut rival = Transaction::new(vec![TxIn::new(coin.outpoint)], vec![out]);
        sign_input(&mut rival, 0, &spent, &coin.key.private_key(root)).unwrap();
        Some(rival)
    }

    /// Replaces the newest `depth` blocks, by a branch that contradicts the victim where there is a way.
    async fn reorg(
        &mut self,
        depth: u32,
        victim: Option<Victim<'_>>,
        coins: &BTreeMap<OutPoint, Coin>,
    ) -> Option<(Txid, Txid)> {
        let tip = self.stage.real.service().tip().await.unwrap();
        let rival = match victim {
            Some(victim) => {
                let rival = self.rival(&victim, coins, tip.height - depth).await;
                rival.map(|rival| (victim.txid, rival))
            }
            None => None,
        };
        let first: Vec<Transaction> = rival.iter().map(|(_, rival)| rival.clone()).collect();
        self.stage.miner.reorg(depth, &first).await.unwrap();
        self.seen.reorgs += 1;
        rival.map(|(victim, rival)| (victim, rival.txid()))
    }

    /// Everybody has enough for the round, in coins that no branch of it reaches.
    async fn prepare(&mut self, depth: u32) {
        for (_, node) in self.stage.traders() {
            if node.wallet().balance().unwrap().total.as_u64() < 50_000 {
                fund(node, 200_000).await;
            }
        }
        self.stage.quiet("the start of a round").await;
        self.stage.mine(depth).await;
        self.stage.look().await;
    }

    async fn round(&mut self, moment: Moment, depth: u32, contradict: bool) {
        self.prepare(depth).await;
        let (agent, buyer) = (self.stage.agent.clone(), self.stage.buyer.clone());
        let agents = self.stage.coins(&agent);
        let buyers = self.stage.coins(&buyer);
        let range = Range::Seq { first: self.next, count: COUNT };
        let request = self.stage.request(range);
        let lost = match moment {
            Moment::Built => {
                self.stage.append(COUNT);
                self.dice.pause(400).await;
                let txid = self.newest_anchor().txid;
                let victim = contradict.then_some(Victim { owner: &agent, txid });
                self.reorg(depth, victim, &agents).await
            }
            Moment::Waiting | Moment::Mined | Moment::Buried(_) => {
                let txid = self.fresh_anchor().await;
                self.settled(&agent, &txid).await;
                let blocks = match moment {
                    Moment::Waiting => 0,
                    Moment::Buried(blocks) => 1 + blocks,
                    _ => 1,
                };
                if blocks > 0 {
                    self.stage.mine(blocks).await;
                }
                self.dice.pause(150).await;
                let victim = contradict.then_some(Victim { owner: &agent, txid });
                self.reorg(depth, victim, &agents).await
            }
            Moment::Ordered => {
                let offer = buyer.buyer().quote(&request).await.unwrap();
                let purchase = buyer.buyer().order(&offer).unwrap();
                let txid = purchase.payment.unwrap().txid;
                let victim = contradict.then_some(Victim { owner: &buyer, txid });
                self.reorg(depth, victim, &buyers).await
            }
            Moment::Purchase => {
                let buying = buyer.buyer().clone();
                let wanted = request.clone();
                let task = tokio::spawn(async move { buying.buy(&wanted, |_| {}).await });
                self.dice.pause(120).await;
                let paying = buyer.buyer().orders().unwrap().pop().and_then(|order| order.txid());
                let victim = paying.filter(|_| contradict).map(|txid| Victim { owner: &buyer, txid });
                let lost = self.reorg(depth, victim, &buyers).await;
                if let Err(error) = task.await.unwrap() {
                    eprintln!("a purchase in a reorganisation: {error}");
                }
                lost
            }
            Moment::Sweep => {
                fund(&agent, 60_000).await;
                self.stage.mine(7).await;
                let agents = self.stage.coins(&agent);
                let keep = Satoshis::from_sat(agent.wallet().balance().unwrap().total.as_u64() - 40_000);
                let to = Some(Address::new(Network::Regtest, [0xc0; 20]));
                agent.wallet().set_sweep(SweepPolicy { to, keep }).unwrap();
                self.stage.mine(1).await;
                let txid = until("the sweep", || async {
                    drop(agent.chain().refresh().await);
                    let history = agent.wallet().history().unwrap();
                    let swept = history.iter().rev().find(|line| line.label.starts_with("sweep"));
                    swept
                        .filter(|line| !agents.is_empty() && !self.seen.outdone.contains_key(&line.txid))
                        .filter(|line| !matches!(line.status, Status::Mined { .. }))
                        .map(|line| line.txid)
                })
                .await;
                let more = u32::try_from(self.dice.below(3)).unwrap();
                if more > 0 {
                    self.stage.mine(more).await;
                }
                self.dice.pause(100).await;
                let victim = contradict.then_some(Victim { owner: &agent, txid });
                let lost = self.reorg(depth, victim, &agents).await;
                agent.wallet().set_sweep(SweepPolicy::default()).unwrap();
                lost
            }
        };
        self.seen.moments.insert(moment);
        self.seen.depths.insert(depth);
        if let Some((victim, rival)) = lost {
            self.seen.rivals += 1;
            self.seen.outdone.insert(victim, rival);
        }
        // What a person does: gives the command again until it is done. Where the coin of a payment went to a stranger, nothing excludes that payment but
        // blocks on what took it.
        until("the purchase", || async {
            match buyer.buyer().buy(&request, |_| {}).await {
                Ok(bought) => return Some(bought),
                Err(error @ BuyError::MayReturn { .. }) => {
                    eprintln!("buy: {error}");
                    self.stage.mine(1).await;
                }
                Err(error) => eprintln!("buy: {error}"),
            }
            None
        })
        .await;
        self.next += COUNT;
        self.stage
            .quiet(&format!("quiet after {moment:?}, depth {depth}, contradicted {}", lost.is_some()))
            .await;
        self.check().await;
    }

    async fn check(&self) {
        self.stage.audit().await;
        self.stage.charged_once();
        self.anchors();
        for (victim, rival) in &self.seen.outdone {
            // Mined in the branch, and so the one that stands wherever the victim was known.
            let known = self.stage.traders().map(|(_, node)| node.wallet().status(victim));
            assert!(known.iter().any(Option::is_some), "{victim} is forgotten");
            for status in known.into_iter().filter(Option::is_some) {
                assert_eq!(named(&status), Some(*rival), "{victim} is {status:?}");
            }
        }
    }

    /// Each anchor that stands is in a block and says more than the one before it; the last one says all. Only what a branch has
    /// contradicted, and what was built on it, does not stand.
    fn anchors(&self) {
        let anchorer = self.stage.agent.agent().unwrap().anchorer();
        let mut anchors = anchorer.newest_anchors(1000).unwrap();
        anchors.reverse();
        let mut size = 0;
        let mut dead = 0;
        for (number, anchor) in (0..).zip(&anchors) {
            assert_eq!(anchor.number, number, "each has a number of its own");
            let status = self.stage.agent.wallet().status(&anchor.txid);
            if status.as_ref().is_some_and(Status::is_dead) {
                dead += 1;
                assert!(!self.seen.outdone.is_empty(), "{number} is {status:?}, and nobody contradicted it");
                continue;
            }
            assert!(matches!(status, None | Some(Status::Mined { .. })), "{number} is {status:?}");
            let of = anchor.checkpoints.iter().filter_map(|checkpoint| {
                let checkpoint = checkpoint
                    .clone()
                    .verify::<sensora_protocol::stream::checkpoint::Checkpoint>(Network::Regtest);
                let checkpoint = checkpoint.unwrap();
                let holds = checkpoint.value();
                (holds.stream == self.stage.stream_id()).then_some(holds.size)
            });
            for now in of {
                assert!(now > size, "anchor {number} says {now} readings, the one before it {size}");
                size = now;
            }
        }
        assert_eq!(size, self.stage.recorded(), "everything is anchored");
        assert!(dead <= self.seen.outdone.len() * 2, "{dead} anchors do not stand: {:?}", self.seen);
    }

    /// Everything that was ever sold leads to a header of the chain as it is now.
    async fn all_verified(&self) {
        let buyer = self.stage.buyer.buyer();
        let orders = buyer.orders().unwrap();
        let complete = orders.iter().filter(|order| order.state.is_complete());
        let complete: Vec<OrderId> = complete.map(|order| order.order).collect();
        assert!(complete.len() as u64 >= self.next / COUNT);
        for order in complete {
            until("the proof of an order", || async {
                match buyer.upgrade(&order).await {
                    Ok(Standing::Mined { .. }) => Some(()),
                    Ok(standing) => panic!("order {order} stands as {standing:?}"),
                    Err(error) => {
                        eprintln!("proof of {order}: {error}");
                        None
                    }
                }
            })
            .await;
            buyer.evidence(&order).unwrap().verify(&self.stage.buyer.chain().headers()).unwrap();
        }
    }
}

/// Rounds of one walk: each moment once, in an order and with depths that the seed gives; every other branch contradicts where it can.
async fn walk(layout: Layout, zmq: bool, seed: u64) {
    let Some(stage) = Stage::new(layout, zmq, 400).await else { return };
    let mut walk = Walk { stage, dice: Dice(seed), seen: Seen::default(), next: 0 };
    let mut moments = MOMENTS.to_vec();
    for at in (1..moments.len()).rev() {
        let other = usize::try_from(walk.dice.below(at as u64 + 1)).unwrap();
        moments.swap(at, other);
    }
    let shift = u32::try_from(walk.dice.below(6)).unwrap();
    for (number, moment) in (0u32..).zip(moments) {
        let depth = 1 + (number + shift) % 6;
        let contradict = walk.dice.below(2) == 0;
        eprintln!("seed {seed}, round {number}: {moment:?}, depth {depth}, contradict {contradict}");
        walk.round(moment, depth, contradict).await;
    }
    walk.all_verified().await;
    eprintln!("seed {seed}: {:?}", walk.seen);
    assert_eq!((walk.seen.moments.len(), walk.seen.depths.len()), (MOMENTS.len(), 6));
    walk.stage.shutdown().await;
}

/// The seed of a walk: `SENSORA_SEED` shifts all of them, to go where nobody has been.
fn seed(number: u64) -> u64 {
    let shift = std::env::var("SENSORA_SEED").ok().and_then(|shift| shift.parse().ok());
    number + 1000 * shift.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_right_after_reorganisations_at_random_moments_where_one_serves_the_others() {
    Box::pin(walk(Layout::Served, true, seed(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_right_after_reorganisations_at_random_moments_where_each_asks_the_node() {
    Box::pin(walk(Layout::Each, true, seed(2))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_right_after_reorganisations_at_random_moments_without_zmq() {
    Box::pin(walk(Layout::Each, false, seed(3))).await;
}
