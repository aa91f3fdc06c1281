//! Bytes of strangers: whatever comes in, a decoder answers with a value or a typed error.
//!
//! The fuzz targets (see `docs/fuzzing.md`) drive the same entry points for as long as one likes; this runs with every test.

use proptest::prelude::*;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::payment::{pay_to_hash, sign_input};
use sensora_chain::contract::{
    Channel, ChannelTerms, CloseTerms, KeyRelease, KeyReleaseTerms, RefundHeight, Voucher, data_output,
    parse_data_output, verify_input,
};
use sensora_chain::header::{Header, HeaderChain, HeaderView};
use sensora_chain::keys::{PublicKey, Signature};
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::Wallet;
use sensora_chain::{
    FeeRate, Network, OutPoint, PrivateKey, Satoshis, Script, SighashCache, Transaction, TxIn, TxOut, Txid,
    spv,
};

/// A funded channel and a funded key release, both between these two.
fn contracts() -> (PrivateKey, PrivateKey, Channel, KeyRelease) {
    let [buyer, seller] = [1, 2].map(|mark| PrivateKey::from_bytes([mark; 32]).unwrap());
    let (refund_height, outpoint) = (RefundHeight::new(170).unwrap(), OutPoint::default());
    let terms = ChannelTerms { buyer: buyer.public(), seller: seller.public(), refund_height };
    let fee = CloseTerms::fee_at(FeeRate::DEFAULT);
    let close = CloseTerms { seller_hash: [1; 20], buyer_hash: [2; 20], fee };
    let channel = Channel::new(terms, close, outpoint, Satoshis::from_sat(10_000)).unwrap();
    let key_hash = sensora_chain::encode::sha256(&[7; 32]);
    let terms = KeyReleaseTerms { key_hash, seller: seller.public(), buyer: buyer.public(), refund_height };
    (buyer, seller, channel, KeyRelease::new(terms, outpoint, Satoshis::from_sat(10_000)))
}

/// Whatever a stranger says spends a contract.
fn read_spend(tx: &Transaction) {
    let (_, _, channel, release) = contracts();
    let _ = (channel.spend_in(tx), channel.voucher_of(tx), release.spend_in(tx));
    let cache = SighashCache::new(tx);
    for index in 0..=tx.inputs.len().min(3) {
        let _ = verify_input(tx, &cache, index, channel.output());
        let _ = verify_input(tx, &cache, index, release.output());
    }
}

/// Every decoder of this crate that a stranger's bytes, or a damaged disk, can reach.
fn decode_all(bytes: &[u8]) {
    if let Ok(tx) = Transaction::from_bytes(bytes) {
        assert_eq!(tx.to_bytes().len(), tx.size());
        assert_eq!(Transaction::from_bytes(&tx.to_bytes()).unwrap(), tx);
        let _ = (tx.txid(), tx.is_coinbase(), tx.is_final(), tx.output_sum());
        read_spend(&tx);
    }
    if let Ok((tx, spent)) = Transaction::from_extended(bytes) {
        let written = tx.to_extended(&spent).unwrap();
        assert_eq!(Transaction::from_extended(&written).unwrap(), (tx, spent));
    }
    let script = Script::new(bytes.to_vec());
    assert!(script.pushes().count() <= bytes.len());
    let _ = (script.p2pkh_hash(), parse_data_output(&script));
    if let Some(terms) = ChannelTerms::parse(&script) {
        assert_eq!(terms.locking(), script);
    }
    if let Some(terms) = KeyReleaseTerms::parse(&script) {
        assert_eq!(terms.locking(), script);
    }
    let _ = Voucher::from_script_signature(Satoshis::ZERO, bytes);
    if let Ok(path) = MerklePath::parse(bytes) {
        assert_eq!(MerklePath::parse(&path.to_bytes()).unwrap(), path);
        let _ = path.extract(&path.txids());
    }
    if let Ok(beef) = Beef::parse(bytes, &BeefLimits::DEFAULT) {
        let subject = beef.subject().unwrap_or_default();
        let headers = HeaderChain::genesis(Network::Regtest).unwrap();
        let _ = spv::verify(&beef, &subject, &headers);
        assert_eq!(Beef::parse(&beef.to_bytes_v2(), &BeefLimits::DEFAULT).unwrap().txs(), beef.txs());
    }
    if let Ok(headers) = Header::parse_run(bytes) {
        let mut chain = HeaderChain::genesis(Network::Regtest).unwrap();
        let _ = chain.connect(&headers);
        assert!(chain.tip_height() as usize <= headers.len());
    }
    if let Ok(wallet) = Wallet::from_bytes(bytes) {
        let _ = (wallet.balance(), wallet.audit(), wallet.history());
    }
    for txid in [Txid([9; 32]), Txid::default()] {
        assert!(Wallet::from_records(Some(bytes), None, [(txid, bytes)]).is_err(), "no bytes are both");
        let _ = Wallet::from_records(None, Some(bytes), [(txid, bytes)]);
    }
    let _ = (PublicKey::from_bytes(bytes), Signature::from_der_strict(bytes), Signature::from_compact(bytes));
}

/// One good input for each decoder.
fn samples() -> Vec<Vec<u8>> {
    let key = PrivateKey::from_bytes([3; 32]).unwrap();
    let sat = Satoshis::from_sat;
    let mine = |amount| pay_to_hash(&key.public().hash160(), sat(amount));
    let source = OutPoint { txid: Txid([9; 32]), vout: 0 };
    let parent = Transaction::new(vec![TxIn::new(source)], vec![mine(10_000), data_output(&[b"name", &[1]])]);
    let spent = parent.outputs[0].clone();
    let input = TxIn::new(OutPoint { txid: parent.txid(), vout: 0 });
    let mut child = Transaction::new(vec![input], vec![mine(9_000), mine(900)]);
    sign_input(&mut child, 0, &spent, &key).unwrap();

    let txids = [Txid([1; 32]), parent.txid(), Txid([2; 32])];
    let path = MerklePath::for_block(7, &txids, 1).unwrap();
    let mut beef = Beef::new();
    beef.add(parent.clone(), Some(&path)).unwrap();
    beef.add(child.clone(), None).unwrap();
    let mut wallet = Wallet::new();
    wallet.funding_address(&key, Network::Regtest).unwrap();
    let outputs: Vec<TxOut> = child.outputs.clone();
    let (buyer, seller, channel, release) = contracts();
    let voucher = channel.sign_voucher(sat(9), &buyer).unwrap();
    let rate = FeeRate::DEFAULT;
    vec![
        parent.to_bytes(),
        child.to_bytes(),
        child.to_extended(&[spent]).unwrap(),
        outputs[0].locking.as_bytes().to_vec(),
        parent.outputs[1].locking.as_bytes().to_vec(),
        child.inputs[0].unlocking.as_bytes().to_vec(),
        path.to_bytes(),
        beef.to_bytes_v1().unwrap(),
        beef.to_bytes_v2(),
        beef.to_atomic(&child.txid()).unwrap(),
        Header::regtest_genesis().0.to_vec(),
        wallet.to_bytes().unwrap(),
        key.sign(&[5; 32]).der(),
        voucher.script_signature(),
        channel.output().locking.as_bytes().to_vec(),
        release.output().locking.as_bytes().to_vec(),
        channel.complete(&voucher, &seller).unwrap().to_bytes(),
        channel.refund(&buyer, rate).unwrap().to_bytes(),
        release.claim(&[7; 32], &seller, &[1; 20], rate).unwrap().to_bytes(),
        release.refund(&buyer, &[1; 20], rate).unwrap().to_bytes(),
    ]
}

#[test]
fn good_input_is_read() {
    samples().iter().for_each(|bytes| decode_all(bytes));
    assert!(Beef::parse(&samples()[9], &BeefLimits::DEFAULT).is_ok());
    assert!(Wallet::from_bytes(&samples()[11]).is_ok());
}

#[test]
fn input_that_ends_anywhere_is_refused() {
    for bytes in samples() {
        for len in 0..bytes.len() {
            decode_all(&bytes[..len]);
        }
    }
}

/// Counts and lengths that are a lie: nothing is allocated for what is not there.
#[test]
fn counts_that_lie_cost_nothing() {
    let huge = [&[0xff; 9][..], &[0; 64]].concat();
    for head in [
        &b"\x01\x00\x00\x00"[..],
        b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\xef",
        b"\x01\x00\xbe\xef",
        b"\x02\x00\xbe\xef",
        b"\x01\x00\xbe\xef\x00",
        b"\x07\x01",
        b"\x4e",
        b"",
    ] {
        decode_all(&[head, &huge].concat());
    }
    let limits = BeefLimits::DEFAULT;
    assert!(Beef::parse(&vec![0; limits.max_bytes + 1], &limits).is_err());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        decode_all(&bytes);
    }

    #[test]
    fn changed_input_never_panics(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        more in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(more);
        decode_all(&bytes);
    }
}
