use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use redb::Database;
use redb::backends::InMemoryBackend;
use sensora_chain::sources::dev::{DevChain, DevChainConfig};
use sensora_chain::sources::service::{Block, Unspent};
use sensora_chain::wallet::{CoinState, PaymentSpec};
use sensora_chain::{FeeRate, Network, Script, TxOut};

use super::*;

const GAP: u64 = 20;

fn root() -> PrivateKey {
    PrivateKey::from_bytes([0x51; 32]).unwrap()
}

fn dev_chain() -> DevChain {
    let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
    let chain = DevChain::open(Arc::new(db), DevChainConfig::default()).unwrap();
    chain.ensure_funded(1_700_000_000_000).unwrap();
    chain
}

/// A wallet on the development chain that follows every block at once.
struct Life {
    chain: DevChain,
    wallet: Wallet,
    now: i64,
}

impl Life {
    fn new() -> Self {
        Self { chain: dev_chain(), wallet: Wallet::new(), now: 1_700_000_000_000 }
    }

    fn fund(&mut self, sat: u64) {
        let address = self.wallet.funding_address(&root(), Network::Regtest).unwrap();
        let tx = self.chain.faucet(&address.locking_script(), Satoshis::from_sat(sat)).unwrap();
        let outputs = self.wallet.recognise(&tx);
        let received = Received {
            tx,
            outputs,
            ancestors: None,
            path: None,
            broadcast: true,
            label: "faucet".into(),
            now_ms: self.now,
        };
        self.wallet.receive(&root(), received).unwrap();
        self.mine();
    }

    fn pay(&mut self, sat: u64) {
        let outputs = vec![TxOut { value: Satoshis::from_sat(sat), locking: Script::p2pkh(&[8; 20]) }];
        let spec = PaymentSpec {
            outputs,
            label: "pay".into(),
            fee: FeeRate::DEFAULT,
            max_fee: Satoshis::from_sat(10_000),
            spends: Vec::new(),
        };
        let Ok(built) = self.wallet.build(&root(), spec, self.now) else { return };
        self.chain.submit(&built.tx).unwrap();
        self.wallet.mark_broadcast(&built.txid).unwrap();
    }

    fn mine(&mut self) {
        self.now += 1_000;
        for txid in self.chain.mine(self.now).unwrap().txids {
            if self.wallet.status(&txid).is_some() {
                let path = self.chain.merkle_path(&txid).unwrap().unwrap();
                self.wallet.mark_mined(&txid, path, &self.chain).unwrap();
            }
        }
    }

    fn coins(&self) -> BTreeMap<OutPoint, Satoshis> {
        let coins = self.wallet.coins().into_iter();
        let mined = coins.filter(|coin| matches!(coin.state, CoinState::Confirmed(_)));
        mined.map(|coin| (coin.outpoint, coin.value)).collect()
    }
}

/// What a service that knows scripts would say of a chain.
struct Index {
    unspent: BTreeMap<Script, Vec<Unspent>>,
    used: BTreeSet<Script>,
    asked: usize,
}

impl Index {
    fn of(chain: &DevChain) -> Self {
        let (mut unspent, mut used): (BTreeMap<Script, Vec<Unspent>>, _) = (BTreeMap::new(), BTreeSet::new());
        for height in 1..=chain.tip().unwrap().height {
            for txid in chain.block_txids(height).unwrap().unwrap() {
                let tx = chain.transaction(&txid).unwrap().unwrap();
                for (vout, output) in (0..).zip(&tx.outputs) {
                    used.insert(output.locking.clone());
                    let outpoint = OutPoint { txid, vout };
                    if chain.spent_by(&outpoint).unwrap().is_none() {
                        let coin = Unspent { outpoint, value: output.value, height: Some(height) };
                        unspent.entry(output.locking.clone()).or_default().push(coin);
                    }
                }
            }
        }
        Self { unspent, used, asked: 0 }
    }

    fn tell(&mut self, chain: &DevChain, ask: &Ask) -> Told {
        self.asked += 1;
        match ask {
            Ask::Used(script) => Told::Used(self.used.contains(script)),
            Ask::Unspent(script) => Told::Unspent(self.unspent.get(script).cloned().unwrap_or_default()),
            Ask::Transaction(txid) => Told::Transaction(chain.transaction(txid).unwrap()),
            Ask::Path(txid) => Told::Path(chain.merkle_path(txid).unwrap()),
        }
    }
}

fn by_scripts(chain: &DevChain) -> Found {
    let mut index = Index::of(chain);
    let mut scan = Scan::new(&root(), GAP);
    while let Some(ask) = scan.ask() {
        let told = index.tell(chain, &ask);
        scan.told(told, chain).unwrap();
    }
    scan.finish()
}

fn restored(found: &Found) -> Wallet {
    let mut wallet = Wallet::new();
    let (_, value) = found.coins();
    assert_eq!(found.credit(&mut wallet, &root(), 5).unwrap(), value);
    wallet.audit().unwrap();
    // Putting it in again changes nothing.
    let once = wallet.clone();
    assert_eq!(found.credit(&mut wallet, &root(), 6).unwrap(), Satoshis::ZERO);
    assert_eq!(wallet, once);
    wallet
}

fn worth(wallet: &Wallet) -> BTreeMap<OutPoint, Satoshis> {
    wallet.coins().into_iter().map(|coin| (coin.outpoint, coin.value)).collect()
}

#[test]
fn the_words_find_every_coin_in_either_way_and_can_spend_it() {
    let mut life = Life::new();
    life.fund(100_000);
    for _ in 0..12 {
        life.pay(700);
        life.mine();
    }
    life.fund(30_000);
    let by_scripts = by_scripts(&life.chain);
    let by_blocks = scan_dev_chain(BlockScan::new(&root(), GAP, 0), &life.chain, &life.chain).unwrap();
    assert_eq!(by_scripts, by_blocks);
    let mut wallet = restored(&by_scripts);
    assert_eq!(worth(&wallet), life.coins());
    for row in KeyRow::ALL {
        assert_eq!(wallet.next_number(row), life.wallet.next_number(row), "an address would be used again");
    }
    // What was found is spent: the chain takes it.
    let all = wallet.balance().unwrap().total.as_u64();
    let outputs = vec![TxOut { value: Satoshis::from_sat(all - 1_000), locking: Script::p2pkh(&[1; 20]) }];
    let spec = PaymentSpec {
        outputs,
        label: String::new(),
        fee: FeeRate::DEFAULT,
        max_fee: Satoshis::from_sat(10_000),
        spends: Vec::new(),
    };
    let built = wallet.build(&root(), spec, 0).unwrap();
    life.chain.submit(&built.tx).unwrap();
}

#[test]
fn a_hole_as_wide_as_the_gap_ends_the_search_and_a_narrower_one_does_not() {
    let mut life = Life::new();
    life.fund(1_000);
    for _ in 0..GAP - 1 {
        life.wallet.funding_address(&root(), Network::Regtest).unwrap();
    }
    life.fund(2_000);
    assert_eq!(by_scripts(&life.chain).coins().0, 2);
    for _ in 0..GAP {
        life.wallet.funding_address(&root(), Network::Regtest).unwrap();
    }
    life.fund(4_000);
    let narrow = by_scripts(&life.chain);
    assert_eq!(narrow.coins(), (2, Satoshis::from_sat(3_000)));
    let wide = scan_dev_chain(BlockScan::new(&root(), GAP + 1, 0), &life.chain, &life.chain).unwrap();
    assert_eq!(wide.coins(), (3, Satoshis::from_sat(7_000)));
}

#[test]
fn what_waits_for_a_block_is_said_and_not_credited() {
    let mut life = Life::new();
    life.fund(50_000);
    let address = life.wallet.funding_address(&root(), Network::Regtest).unwrap();
    let tx = life.chain.faucet(&address.locking_script(), Satoshis::from_sat(9_000)).unwrap();
    let mut index = Index::of(&life.chain);
    let (txid, vout) = (tx.txid(), life.wallet.recognise(&tx)[0].vout);
    let outpoint = OutPoint { txid, vout };
    index.used.insert(address.locking_script());
    let coin = Unspent { outpoint, value: Satoshis::from_sat(9_000), height: None };
    index.unspent.insert(address.locking_script(), vec![coin]);
    let mut scan = Scan::new(&root(), GAP);
    while let Some(ask) = scan.ask() {
        let told = index.tell(&life.chain, &ask);
        scan.told(told, &life.chain).unwrap();
    }
    let found = scan.finish();
    assert_eq!((found.coins().1, found.waiting.as_slice()), (Satoshis::from_sat(50_000), &[outpoint][..]));
    assert_eq!(found.next_funding, 2, "its address is in use all the same");
}

#[test]
fn a_service_that_lies_is_refused_and_the_next_one_goes_on_from_there() {
    let mut life = Life::new();
    life.fund(100_000);
    life.pay(1_000);
    life.mine();
    let stranger = life.chain.faucet(&Script::p2pkh(&[3; 20]), Satoshis::from_sat(5)).unwrap();
    life.mine();
    let honest = by_scripts(&life.chain);
    let mut index = Index::of(&life.chain);
    let mut scan = Scan::new(&root(), GAP);
    let mut refused = 0;
    while let Some(ask) = scan.ask() {
        let lies = match &ask {
            Ask::Used(_) => vec![Told::Unspent(Vec::new())],
            Ask::Unspent(_) => {
                let coin = Unspent { outpoint: OutPoint::default(), value: Satoshis::ZERO, height: None };
                vec![Told::Unspent(vec![coin; 1_001]), Told::Used(true)]
            }
            Ask::Transaction(_) => {
                vec![Told::Transaction(None), Told::Transaction(Some(stranger.clone())), Told::Path(None)]
            }
            Ask::Path(_) => {
                let other = life.chain.merkle_path(&stranger.txid()).unwrap();
                vec![Told::Path(other), Told::Transaction(None)]
            }
        };
        for lie in lies {
            scan.told(lie, &life.chain).unwrap_err();
            assert_eq!(scan.ask().as_ref(), Some(&ask), "a lie has moved the scan");
            refused += 1;
        }
        let told = index.tell(&life.chain, &ask);
        scan.told(told, &life.chain).unwrap();
    }
    assert!(refused > 40);
    assert_eq!(scan.finish(), honest);
}

#[test]
fn an_output_that_is_not_ours_is_not_taken() {
    let mut life = Life::new();
    life.fund(100_000);
    let stranger = life.chain.faucet(&Script::p2pkh(&[3; 20]), Satoshis::from_sat(5)).unwrap();
    life.mine();
    let mut scan = Scan::new(&root(), GAP);
    scan.told(Told::Used(true), &life.chain).unwrap();
    let outpoint = OutPoint { txid: stranger.txid(), vout: 0 };
    let coin = Unspent { outpoint, value: Satoshis::from_sat(5), height: Some(1) };
    scan.told(Told::Unspent(vec![coin]), &life.chain).unwrap();
    let error = scan.told(Told::Transaction(Some(stranger)), &life.chain).unwrap_err();
    assert!(matches!(error, RecoveryError::False { .. }), "{error}");
}

#[test]
fn a_block_that_is_not_of_our_chain_is_refused() {
    let mut life = Life::new();
    life.fund(100_000);
    let height = life.chain.tip().unwrap().height;
    let header = life.chain.header(height).unwrap().unwrap();
    let txids = life.chain.block_txids(height).unwrap().unwrap();
    let txs: Vec<_> = txids.iter().map(|txid| life.chain.transaction(txid).unwrap().unwrap()).collect();
    let mut scan = BlockScan::new(&root(), GAP, height);
    let below = life.chain.header(height - 1).unwrap().unwrap();
    for wrong in [
        Block { header: below, txs: txs.clone() },
        Block { header, txs: txs[..1].to_vec() },
        Block { header, txs: Vec::new() },
    ] {
        let error = scan.block(&wrong, &life.chain).unwrap_err();
        assert!(matches!(error, RecoveryError::False { .. }), "{error}");
        assert_eq!(scan.next(), height);
    }
    scan.block(&Block { header, txs }, &life.chain).unwrap();
    assert!(matches!(
        scan.block(&Block { header, txs: Vec::new() }, &life.chain),
        Err(RecoveryError::NoHeader { .. })
    ));
    assert_eq!(scan.finish().coins().1, Satoshis::from_sat(100_000));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever a wallet has done, its words find what it has, in both ways.
    #[test]
    fn words_find_what_a_wallet_of_any_history_has(steps in prop::collection::vec((0_u8..5, 600_u64..20_000), 1..16)) {
        let mut life = Life::new();
        for (step, sat) in steps {
            match step {
                0 => life.fund(sat),
                1 | 2 => life.pay(sat),
                3 => { life.wallet.funding_address(&root(), Network::Regtest).unwrap(); }
                _ => life.mine(),
            }
        }
        life.mine();
        let by_scripts = by_scripts(&life.chain);
        let by_blocks = scan_dev_chain(BlockScan::new(&root(), GAP, 0), &life.chain, &life.chain).unwrap();
        prop_assert_eq!(&by_scripts, &by_blocks);
        let wallet = restored(&by_scripts);
        prop_assert_eq!(worth(&wallet), life.coins());
        prop_assert_eq!(wallet.next_number(KeyRow::Change), life.wallet.next_number(KeyRow::Change));
    }
}
