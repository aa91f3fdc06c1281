//! A wallet beside a model of the chain that knows nothing but its blocks: payments, double spends, reorganisations, refusals and crashes in any order,
//! and after each step the wallet's mined money is what the blocks say, to the satoshi.

use std::collections::{BTreeMap, BTreeSet};

use super::records::Disk;
use super::*;
use proptest::sample::Index;
use sensora_chain::wallet::TidySpec;

#[derive(Debug, Clone)]
enum Event {
    /// A stranger pays us, and the network has it.
    Fund(u64),
    Build(u64),
    Broadcast(Index),
    Seen(Index),
    /// The network refuses what it never had.
    Refuse(Index),
    Reclaim(Index),
    /// Somebody, perhaps another copy of this wallet, signs another use of the same coin.
    Rival {
        of: Index,
        back_to_us: bool,
    },
    Mine(Index),
    Empty(u32),
    Reorganise(u32),
    ReceiveAgain(Index),
    Consolidate,
    Sweep(u64),
    Prune,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1_000u64..200_000).prop_map(Event::Fund),
        4 => (1u64..60_000).prop_map(Event::Build),
        4 => any::<Index>().prop_map(Event::Broadcast),
        2 => any::<Index>().prop_map(Event::Seen),
        1 => any::<Index>().prop_map(Event::Refuse),
        1 => any::<Index>().prop_map(Event::Reclaim),
        3 => (any::<Index>(), any::<bool>()).prop_map(|(of, back_to_us)| Event::Rival { of, back_to_us }),
        8 => any::<Index>().prop_map(Event::Mine),
        1 => (1u32..8).prop_map(Event::Empty),
        3 => (1u32..8).prop_map(Event::Reorganise),
        1 => any::<Index>().prop_map(Event::ReceiveAgain),
        1 => Just(Event::Consolidate),
        1 => (0u64..100_000).prop_map(Event::Sweep),
        2 => Just(Event::Prune),
    ]
}

#[derive(Default)]
struct Model {
    wallet: Wallet,
    disk: Disk,
    blocks: Blocks,
    /// Every transaction that has left its maker.
    txs: Vec<Transaction>,
    /// Every output that the wallet has called its own.
    ours: BTreeMap<OutPoint, u64>,
    /// The highest tip at which the wallet was pruned: what is deep below it cannot come undone.
    pruned_at: u32,
    tag: u64,
}

impl Model {
    /// One step of the node: on disk and in memory, or in neither.
    fn step<T>(&mut self, crash: bool, f: impl FnOnce(&mut Wallet) -> Result<T, WalletError>) -> Option<T> {
        let mut next = self.wallet.clone();
        let done = match f(&mut next) {
            Ok(done) => done,
            Err(error) => {
                assert_eq!(next, self.wallet, "an error changed the wallet: {error}");
                return None;
            }
        };
        let changes = next.take_changes().unwrap();
        if crash {
            assert_eq!(self.disk.wallet().unwrap(), self.wallet);
            self.wallet = self.disk.wallet().unwrap();
            return None;
        }
        self.disk.take(changes);
        self.wallet = next;
        self.ours.extend(self.wallet.coins().into_iter().map(|coin| (coin.outpoint, coin.value.as_u64())));
        Some(done)
    }

    fn tx(&self, txid: &Txid) -> Option<&Transaction> {
        self.txs.iter().find(|tx| tx.txid() == *txid)
    }

    fn mined(&self) -> impl Iterator<Item = &Transaction> {
        self.blocks.0.iter().filter_map(|txid| self.tx(txid))
    }

    fn spent_in_blocks(&self) -> BTreeMap<OutPoint, Txid> {
        let inputs = self.mined().flat_map(|tx| tx.inputs.iter().map(|input| (input.previous, tx.txid())));
        inputs.collect()
    }

    /// Whether a block could hold it.
    fn is_valid(&self, tx: &Transaction) -> bool {
        let spent = self.spent_in_blocks();
        tx.inputs.iter().all(|input| {
            let parent = input.previous.txid;
            let there = self.tx(&parent).is_none() || self.blocks.0.contains(&parent);
            there && !spent.contains_key(&input.previous)
        })
    }

    fn empty_block(&mut self) {
        self.tag += 1;
        let mut id = [0xbb; 32];
        id[..8].copy_from_slice(&self.tag.to_le_bytes());
        self.blocks.mine(Txid(id));
    }

    fn pick(&self, index: Index) -> Option<Transaction> {
        (!self.txs.is_empty()).then(|| self.txs[index.index(self.txs.len())].clone())
    }

    fn left(&mut self, built: Option<Built>) {
        if let Some(built) = built
            && self.tx(&built.txid).is_none()
        {
            self.txs.push(built.tx);
        }
    }

    fn tidy(&self) -> TidySpec {
        TidySpec { tip_height: self.blocks.tip(), fee: FeeRate::DEFAULT, max_fee: sat(10_000), now_ms: NOW }
    }

    fn happen(&mut self, event: Event, crash: bool) {
        match event {
            Event::Fund(amount) => {
                self.tag += 1;
                let tag = self.tag;
                let Some(tx) = self.step(false, |wallet| Ok(funding(wallet, tag, &[amount]))) else { return };
                self.txs.push(tx.clone());
                self.step(crash, |wallet| receive(wallet, &tx, None));
            }
            Event::Build(amount) => {
                let built = self.step(crash, |wallet| pay(wallet, amount));
                self.left(built);
            }
            Event::Reclaim(index) => {
                let Some(tx) = self.pick(index) else { return };
                let built = self.step(crash, |wallet| {
                    wallet.reclaim(&root(), &tx.txid(), FeeRate::DEFAULT, sat(10_000), NOW)
                });
                self.left(built);
            }
            Event::Broadcast(index) => {
                let Some(tx) = self.pick(index) else { return };
                let spent = self.spent_in_blocks();
                if tx.inputs.iter().all(|input| !spent.contains_key(&input.previous)) {
                    self.step(crash, |wallet| wallet.mark_broadcast(&tx.txid()));
                }
            }
            Event::Seen(index) => {
                let (Some(tx), tip) = (self.pick(index), self.blocks.tip()) else { return };
                self.step(crash, |wallet| wallet.mark_seen(&tx.txid(), tip));
            }
            Event::Refuse(index) => {
                let Some(tx) = self.pick(index) else { return };
                if self.wallet.status(&tx.txid()) == Some(&Status::Built) {
                    self.step(crash, |wallet| wallet.mark_rejected(&tx.txid(), "refused"));
                }
            }
            Event::Rival { of, back_to_us } => {
                let Some(tx) = self.pick(of) else { return };
                self.tag += 1;
                let tag = self.tag;
                let locking = match back_to_us {
                    true => {
                        let address = |w: &mut Wallet| w.funding_address(&root(), Network::Regtest);
                        let Some(address) = self.step(false, address) else { return };
                        address.locking_script()
                    }
                    false => Script::p2pkh(&[tag as u8; 20]),
                };
                let outputs = vec![TxOut { value: sat(500 + tag), locking }];
                self.txs.push(Transaction::new(vec![TxIn::new(tx.inputs[0].previous)], outputs));
            }
            Event::Mine(index) => {
                let Some(tx) = self.pick(index) else { return };
                if self.is_valid(&tx) && !self.blocks.0.contains(&tx.txid()) {
                    self.blocks.mine(tx.txid());
                }
            }
            Event::Empty(count) => (0..count).for_each(|_| self.empty_block()),
            Event::Reorganise(depth) => {
                let keep = self.blocks.0.len().saturating_sub(depth as usize);
                if keep as u32 > self.pruned_at.saturating_sub(PRUNE_DEPTH) {
                    self.blocks.0.truncate(keep);
                    self.empty_block();
                }
            }
            Event::ReceiveAgain(index) => {
                let Some(tx) = self.pick(index) else { return };
                if self.wallet.status(&tx.txid()).is_some_and(Status::is_settled) {
                    let before = self.wallet.clone();
                    let gained = self.step(crash, |wallet| receive(wallet, &tx, None));
                    assert!(crash || gained == Some(sat(0)));
                    assert_eq!(self.wallet, before);
                }
            }
            Event::Consolidate => {
                let spec = self.tidy();
                let built = self.step(crash, |wallet| wallet.consolidate(&root(), &spec)).flatten();
                self.left(built);
            }
            Event::Sweep(keep) => {
                let spec = self.tidy();
                let cold = Script::p2pkh(&[0xc0; 20]);
                let built = self
                    .step(crash, |wallet| wallet.sweep(&root(), cold, sat(keep), "sweep", &spec))
                    .flatten();
                self.left(built);
            }
            Event::Prune => {
                let tip = self.blocks.tip();
                if self.step(crash, |wallet| wallet.prune(tip)).is_some() {
                    self.pruned_at = self.pruned_at.max(tip);
                }
            }
        }
    }

    /// What a node does with each block.
    fn follow(&mut self) {
        if let Some(height) = self.wallet.lowest_stale_proof(&self.blocks) {
            self.step(false, |wallet| Ok(wallet.unmined(height)));
        }
        let blocks = self.blocks.clone();
        for tx in self.mined().cloned().collect::<Vec<_>>() {
            let txid = tx.txid();
            let path = blocks.path(&txid).unwrap();
            let kept = self.wallet.transaction(&txid).is_some();
            match self.wallet.status(&txid) {
                Some(Status::Mined { .. }) => {}
                Some(_) if kept => {
                    let done = self.step(false, |wallet| wallet.mark_mined(&txid, path, &blocks));
                    assert!(done.is_some(), "{txid} is in a block");
                }
                _ if self.concerns_us(&tx) => {
                    let done = self.step(false, |wallet| receive(wallet, &tx, Some(path)));
                    assert!(done.is_some(), "{txid} is in a block");
                }
                _ => {}
            }
        }
    }

    fn concerns_us(&self, tx: &Transaction) -> bool {
        let inputs: BTreeSet<OutPoint> = tx.inputs.iter().map(|input| input.previous).collect();
        let rival = |other: &Transaction| {
            let known = self.wallet.transaction(&other.txid()).is_some();
            known && other.inputs.iter().any(|input| inputs.contains(&input.previous))
        };
        !self.wallet.recognise(tx).is_empty()
            || inputs.iter().any(|input| self.ours.contains_key(input))
            || self.txs.iter().any(rival)
    }

    fn check(&self) {
        let balance = self.wallet.audit().unwrap();
        let lines = self.wallet.history();
        let settled = lines.iter().filter(|line| line.status.is_settled());
        assert_eq!(settled.map(|line| line.delta_sat).sum::<i64>(), balance.total.as_u64() as i64);
        assert_eq!(self.disk.wallet().unwrap(), self.wallet, "what is on disk is what is in memory");

        let spent = self.spent_in_blocks();
        let is_mined = |txid: &Txid| self.blocks.0.contains(txid);
        let taken: BTreeSet<OutPoint> = self
            .txs
            .iter()
            .filter(|tx| self.wallet.status(&tx.txid()).is_some_and(Status::is_settled))
            .flat_map(|tx| tx.inputs.iter().map(|input| input.previous))
            .collect();
        let by_blocks: u64 = self
            .ours
            .iter()
            .filter(|(coin, _)| is_mined(&coin.txid) && !spent.contains_key(coin) && !taken.contains(coin))
            .map(|(_, sat)| *sat)
            .sum();
        let mut by_wallet = 0;
        for coin in self.wallet.coins() {
            if let CoinState::Confirmed(height) = coin.state {
                assert_eq!(self.blocks.0.get(height as usize), Some(&coin.outpoint.txid));
            }
            if is_mined(&coin.outpoint.txid) {
                assert!(coin.state != CoinState::Pending, "{coin:?} is in a block");
                by_wallet += coin.value.as_u64();
            }
        }
        assert_eq!(by_wallet, by_blocks, "mined money");
        // Whatever lost against a block does not stand.
        for tx in &self.txs {
            let lost = tx.inputs.iter().any(|i| spent.get(&i.previous).is_some_and(|by| *by != tx.txid()));
            if let Some(status) = self.wallet.status(&tx.txid()).filter(|_| lost) {
                assert!(status.is_dead(), "{} is {status} although a block has another", tx.txid());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_mined_money_is_what_the_blocks_say(
        events in prop::collection::vec((event(), prop::bool::weighted(0.15)), 1..80),
    ) {
        let mut model = Model::default();
        model.empty_block();
        for (event, crash) in events {
            model.happen(event, crash);
            model.wallet.audit().unwrap();
            model.follow();
            model.check();
        }
    }
}
