//! What the chain costs a node: signatures, keys, proofs and headers.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use divan::Bencher;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::payment::{pay_to_hash, sign_input, sign_p2pkh};
use sensora_chain::contract::verify_p2pkh;
use sensora_chain::header::{Header, HeaderView};
use sensora_chain::merkle_path::{MerklePath, merkle_root};
use sensora_chain::{
    BlockHash, OutPoint, PrivateKey, Satoshis, SighashCache, Transaction, TxIn, TxOut, Txid, spv,
};

fn main() {
    divan::main();
}

fn key(mark: u8) -> PrivateKey {
    PrivateKey::from_bytes([mark; 32]).expect("in range")
}

/// A transaction with many inputs, signed, and the coin that each input spends.
fn signed(inputs: usize) -> (Transaction, TxOut) {
    let key = key(1);
    let coin = pay_to_hash(&key.public().hash160(), Satoshis::from_sat(1_000));
    let input = |n: usize| TxIn::new(OutPoint { txid: Txid([7; 32]), vout: n as u32 });
    let mut tx = Transaction::new((0..inputs).map(input).collect(), vec![coin.clone(), coin.clone()]);
    let cache = SighashCache::new(&tx);
    let scripts: Vec<_> =
        (0..inputs).map(|n| sign_p2pkh(&key, cache.digest(n, &coin.locking, coin.value))).collect();
    for (input, script) in tx.inputs.iter_mut().zip(scripts) {
        input.unlocking = script;
    }
    (tx, coin)
}

/// One input of a transaction that has a hundred.
#[divan::bench]
fn sign_an_input(bencher: Bencher<'_, '_>) {
    let (tx, coin) = signed(100);
    let (cache, key) = (SighashCache::new(&tx), key(1));
    bencher.bench_local(|| sign_p2pkh(&key, cache.digest(50, &coin.locking, coin.value)));
}

/// One input of a transaction that has a hundred.
#[divan::bench]
fn verify_an_input(bencher: Bencher<'_, '_>) {
    let (tx, coin) = signed(100);
    let cache = SighashCache::new(&tx);
    bencher.bench_local(|| verify_p2pkh(&tx, &cache, 50, &coin).is_ok());
}

#[divan::bench]
fn brc42_public_child(bencher: Bencher<'_, '_>) {
    let (sender, recipient) = (key(1), key(2).public());
    bencher.bench_local(|| recipient.child(&sender, "2-3241645161d8-cHJlZml4 c3VmZml4"));
}

#[divan::bench]
fn brc42_private_child(bencher: Bencher<'_, '_>) {
    let (sender, recipient) = (key(1).public(), key(2));
    bencher.bench_local(|| recipient.child(&sender, "2-3241645161d8-cHJlZml4 c3VmZml4"));
}

struct OneRoot([u8; 32]);

impl HeaderView for OneRoot {
    fn header_at(&self, _height: u32) -> Option<Header> {
        Some(Header::new(1, BlockHash([0; 32]), self.0, 0, 0, 0))
    }

    fn tip_height(&self) -> u32 {
        1_000
    }
}

/// A payment of a chain of unproven ones, on one that a block of a thousand transactions holds.
#[divan::bench(args = [1, 10, 100])]
fn beef_parse_and_verify(bencher: Bencher<'_, '_>, payments: u64) {
    let key = key(1);
    let pay = |sat| pay_to_hash(&key.public().hash160(), Satoshis::from_sat(sat));
    let mut last = Transaction::new(vec![TxIn::new(OutPoint::default())], vec![pay(100_000)]);
    let mut txids: Vec<Txid> = (0..1_000u32).map(|n| Txid([n as u8; 32])).collect();
    txids[500] = last.txid();
    let mut beef = Beef::new();
    let path = MerklePath::for_block(500, &txids, 500).expect("in the block");
    beef.add(last.clone(), Some(&path)).expect("proven");
    for n in 1..=payments {
        let coin = last.outputs[0].clone();
        let mut tx = Transaction::new(
            vec![TxIn::new(OutPoint { txid: last.txid(), vout: 0 })],
            vec![pay(100_000 - n * 30)],
        );
        sign_input(&mut tx, 0, &coin, &key).expect("our coin");
        beef.add(tx.clone(), None).expect("in order");
        last = tx;
    }
    let subject = last.txid();
    let bytes = beef.to_atomic(&subject).expect("in it");
    let headers = OneRoot(merkle_root(&txids));
    bencher.counter(divan::counter::BytesCount::new(bytes.len())).bench_local(|| {
        let beef = Beef::parse(&bytes, &BeefLimits::DEFAULT).expect("ours");
        spv::verify(&beef, &subject, &headers).expect("ours")
    });
}
