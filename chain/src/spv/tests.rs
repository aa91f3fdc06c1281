use super::*;
use crate::contract::PaymentError;
use crate::contract::payment::{pay_to_hash, sign_input};
use crate::header::Header;
use crate::id::BlockHash;
use crate::keys::PrivateKey;
use crate::merkle_path::merkle_root;
use crate::script::Script;
use crate::tx::TxIn;

/// Headers of blocks that hold these transactions, nothing more: what they prove is tested elsewhere.
struct Blocks(Vec<Vec<Transaction>>);

impl HeaderView for Blocks {
    fn header_at(&self, height: u32) -> Option<Header> {
        let txids: Vec<Txid> = self.0.get(height as usize)?.iter().map(Transaction::txid).collect();
        Some(Header::new(1, BlockHash([0; 32]), merkle_root(&txids), 0, 0, 0))
    }

    fn tip_height(&self) -> u32 {
        self.0.len() as u32 - 1
    }
}

impl Blocks {
    fn path(&self, height: usize, index: usize) -> MerklePath {
        let txids: Vec<Txid> = self.0[height].iter().map(Transaction::txid).collect();
        MerklePath::for_block(height as u32, &txids, index).unwrap()
    }
}

fn key(mark: u8) -> PrivateKey {
    PrivateKey::from_bytes([mark; 32]).unwrap()
}

fn to(mark: u8, sat: u64) -> TxOut {
    pay_to_hash(&key(mark).public().hash160(), Satoshis::from_sat(sat))
}

/// Spends the given outputs with the keys that own them.
fn spend(coins: &[(&Transaction, u32, u8)], outputs: Vec<TxOut>) -> Transaction {
    let input =
        |(tx, vout, _): &(&Transaction, u32, u8)| TxIn::new(OutPoint { txid: tx.txid(), vout: *vout });
    let mut tx = Transaction::new(coins.iter().map(input).collect(), outputs);
    resign(&mut tx, coins);
    tx
}

fn resign(tx: &mut Transaction, coins: &[(&Transaction, u32, u8)]) {
    for (index, (parent, vout, mark)) in coins.iter().enumerate() {
        sign_input(tx, index, &parent.outputs[*vout as usize], &key(*mark)).unwrap();
    }
}

struct Scene {
    blocks: Blocks,
    /// Mined in block 1 at place 1; pays 1000 to key 1, twice.
    funding: Transaction,
    /// The rest is not mined: 1000 → 900 to key 2, then → 800 to key 3.
    first: Transaction,
    second: Transaction,
}

fn scene() -> Scene {
    let coinbase = Transaction::new(vec![TxIn::new(OutPoint::NULL)], vec![to(9, 5000)]);
    let funding = Transaction::new(
        vec![TxIn::new(OutPoint { txid: Txid([8; 32]), vout: 0 })],
        vec![to(1, 1000), to(1, 1000)],
    );
    let first = spend(&[(&funding, 0, 1)], vec![to(2, 900)]);
    let second = spend(&[(&first, 0, 2)], vec![to(3, 800)]);
    let blocks = Blocks(vec![vec![coinbase.clone()], vec![coinbase, funding.clone()], vec![]]);
    Scene { blocks, funding, first, second }
}

impl Scene {
    fn beef(&self, unmined: &[&Transaction]) -> Beef {
        let mut beef = Beef::new();
        beef.add(self.funding.clone(), Some(&self.blocks.path(1, 1))).unwrap();
        for tx in unmined {
            beef.add((*tx).clone(), None).unwrap();
        }
        beef
    }

    /// Verifies a transaction that spends the first output of `funding`, after a change to it.
    fn after(&self, change: impl FnOnce(&mut Transaction)) -> Result<SpvProof, SpvError> {
        let mut tx = self.first.clone();
        change(&mut tx);
        verify(&self.beef(&[&tx]), &tx.txid(), &self.blocks)
    }

    fn after_resigned(&self, change: impl FnOnce(&mut Transaction)) -> Result<SpvProof, SpvError> {
        self.after(|tx| {
            change(tx);
            resign(tx, &[(&self.funding, 0, 1)]);
        })
    }
}

#[test]
fn a_chain_of_payments_on_a_mined_one_is_believed() {
    let scene = scene();
    let beef = scene.beef(&[&scene.first, &scene.second]);
    let proof = verify(&beef, &scene.second.txid(), &scene.blocks).unwrap();
    assert_eq!(proof.mined, [Mined { txid: scene.funding.txid(), height: 1, confirmations: 2 }]);
    let fees: Vec<_> = proof.unmined.iter().map(|tx| (tx.txid, tx.fee.as_u64(), tx.size)).collect();
    let sizes = (scene.first.size(), scene.second.size());
    assert_eq!(fees, [(scene.first.txid(), 100, sizes.0), (scene.second.txid(), 100, sizes.1)]);
    assert_eq!((proof.is_mined(), proof.newest_height()), (None, Some(1)));

    let of_mined = verify(&beef, &scene.funding.txid(), &scene.blocks).unwrap();
    assert_eq!(of_mined.is_mined().map(|mined| mined.height), Some(1));
    let nothing = Txid([1; 32]);
    assert_eq!(verify(&beef, &nothing, &scene.blocks), Err(BeefError::NoSubject(nothing).into()));
}

#[test]
fn a_path_that_leads_elsewhere_proves_nothing() {
    let mut scene = scene();
    let (txid, beef) = (scene.funding.txid(), scene.beef(&[]));
    scene.blocks.0.swap(1, 2);
    assert_eq!(verify(&beef, &txid, &scene.blocks), Err(SpvError::WrongRoot { txid, height: 1 }));
    scene.blocks.0.truncate(1);
    assert_eq!(verify(&beef, &txid, &scene.blocks), Err(SpvError::NoHeader { txid, height: 1, tip: 0 }));
}

#[test]
fn new_coins_need_a_hundred_confirmations() {
    let mut scene = scene();
    let coinbase = scene.blocks.0[0][0].clone();
    let txid = coinbase.txid();
    let mut beef = Beef::new();
    beef.add(coinbase.clone(), Some(&scene.blocks.path(0, 0))).unwrap();
    scene.blocks.0.resize(99, vec![]);
    let immature = SpvError::ImmatureCoinbase { txid, confirmations: 99 };
    assert_eq!(verify(&beef, &txid, &scene.blocks), Err(immature));
    scene.blocks.0.push(vec![]);
    assert!(verify(&beef, &txid, &scene.blocks).is_ok());

    let mut unproven = Beef::new();
    unproven.add(coinbase, None).unwrap();
    assert_eq!(verify(&unproven, &txid, &scene.blocks), Err(SpvError::UnprovenCoinbase(txid)));
}

#[test]
fn sixty_four_bytes_are_no_proof() {
    let mut scene = scene();
    let mut tx = Transaction::new(vec![TxIn::new(OutPoint::default())], vec![TxOut::default()]);
    tx.outputs[0].locking = Script::new(vec![0; 4]);
    assert_eq!(tx.size(), 64);
    scene.blocks.0[2] = vec![scene.funding.clone(), tx.clone()];
    let mut beef = Beef::new();
    beef.add(tx.clone(), Some(&scene.blocks.path(2, 1))).unwrap();
    assert_eq!(verify(&beef, &tx.txid(), &scene.blocks), Err(SpvError::AmbiguousSize(tx.txid())));
}

#[test]
fn a_parent_has_to_be_there_and_have_the_output() {
    let scene = scene();
    let mut beef = Beef::new();
    beef.add(scene.second.clone(), None).unwrap();
    let missing = verify(&beef, &scene.second.txid(), &scene.blocks);
    assert!(matches!(missing, Err(SpvError::MissingParent { .. })));
    let no_output = scene.after(|tx| tx.inputs[0].previous.vout = 2);
    assert!(matches!(no_output, Err(SpvError::MissingOutput { .. })));
    assert!(matches!(scene.after(|tx| tx.inputs.clear()), Err(SpvError::Empty(_))));
    assert!(matches!(scene.after_resigned(|tx| tx.outputs.clear()), Err(SpvError::Empty(_))));
}

#[test]
fn nothing_is_spent_twice() {
    let scene = scene();
    let spent = scene.first.inputs[0].previous;
    let twice = scene.after(|tx| tx.inputs.push(tx.inputs[0].clone()));
    assert_eq!(twice, Err(SpvError::DoubleSpend(spent)));
    let rival = spend(&[(&scene.funding, 0, 1)], vec![to(4, 700)]);
    let beef = scene.beef(&[&scene.first, &rival]);
    assert_eq!(verify(&beef, &rival.txid(), &scene.blocks), Err(SpvError::DoubleSpend(spent)));
}

#[test]
fn amounts_add_up() {
    let scene = scene();
    let more = scene.after_resigned(|tx| tx.outputs[0].value = Satoshis::from_sat(1001));
    assert!(matches!(more, Err(SpvError::Amount { source: AmountError::Insufficient(..), .. })));
    let huge = scene.after_resigned(|tx| tx.outputs = vec![to(2, u64::MAX), to(2, u64::MAX)]);
    assert!(matches!(huge, Err(SpvError::Amount { source: AmountError::SumTooLarge(..), .. })));
    let empty = scene.after_resigned(|tx| tx.outputs.push(to(2, 0)));
    assert!(matches!(empty, Err(SpvError::Dust { vout: 1, .. })));
    let data = scene.after_resigned(|tx| tx.outputs.push(contract::data_output(&[b"data"])));
    assert!(data.is_ok());
}

#[test]
fn only_final_version_1_transactions_are_believed_unmined() {
    let scene = scene();
    let version = scene.after_resigned(|tx| tx.version = 2);
    assert!(matches!(version, Err(SpvError::Version { version: 2, .. })));
    let locked = scene.after_resigned(|tx| (tx.lock_time, tx.inputs[0].sequence) = (500, 0));
    assert!(matches!(locked, Err(SpvError::NotFinal { lock_time: 500, tip: 2, .. })));
    assert!(scene.after_resigned(|tx| tx.lock_time = 500).is_ok());
}

/// The headers end at height 2: the next block is 3, and holds what is locked to 2.
#[test]
fn a_lock_to_a_height_holds_until_the_next_block_may_have_it() {
    let scene = scene();
    let locked_to = |lock_time| {
        scene.after_resigned(|tx| (tx.lock_time, tx.inputs[0].sequence) = (lock_time, 0xffff_fffe))
    };
    assert!(locked_to(1).is_ok() && locked_to(2).is_ok());
    assert!(matches!(locked_to(3), Err(SpvError::NotFinal { lock_time: 3, tip: 2, .. })));
    // A time, even one long past: heights do not say when it is over.
    assert!(matches!(locked_to(500_000_000), Err(SpvError::NotFinal { .. })));
}

#[test]
fn scripts_are_satisfied_or_refused() {
    let scene = scene();
    let stolen = scene.after(|tx| tx.outputs[0] = to(4, 900));
    assert!(matches!(
        stolen,
        Err(SpvError::Script { source: TemplateError::Payment(PaymentError::BadSignature(0)), .. })
    ));
    let unsigned = scene.after(|tx| tx.inputs[0].unlocking = Script::default());
    assert!(matches!(unsigned, Err(SpvError::Script { .. })));

    // Anybody may spend this, but that is for miners to know.
    let anyone = spend(
        &[(&scene.funding, 1, 1)],
        vec![TxOut { value: Satoshis::from_sat(900), locking: Script::new(vec![0x51]) }],
    );
    let taken =
        Transaction::new(vec![TxIn::new(OutPoint { txid: anyone.txid(), vout: 0 })], vec![to(4, 800)]);
    let beef = scene.beef(&[&anyone, &taken]);
    assert!(verify(&beef, &anyone.txid(), &scene.blocks).is_ok());
    let source = TemplateError::UnknownScript { index: 0 };
    let expected = SpvError::Script { txid: taken.txid(), source };
    assert_eq!(verify(&beef, &taken.txid(), &scene.blocks), Err(expected));
}

#[test]
fn what_both_sides_know_needs_no_proof() {
    let scene = scene();
    let mut beef = Beef::new();
    beef.add_known(scene.funding.clone()).unwrap();
    beef.add(scene.first.clone(), None).unwrap();
    let proof = verify(&beef, &scene.first.txid(), &scene.blocks).unwrap();
    assert_eq!((proof.mined.len(), proof.unmined.len()), (0, 1));
}
