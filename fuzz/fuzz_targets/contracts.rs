//! Channels and key releases: a locking script that is read is written the same, and whatever spends one is told and
//! checked. The first byte chooses what the rest is.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sensora_chain::contract::key_release::KeyReleaseSpend;
use sensora_chain::contract::{
    Channel, ChannelTerms, CloseTerms, KeyRelease, KeyReleaseTerms, RefundHeight, Voucher, channel,
    verify_input,
};
use sensora_chain::{FeeRate, OutPoint, PrivateKey, Satoshis, Script, SighashCache, Transaction};

static CONTRACTS: LazyLock<(Channel, KeyRelease)> = LazyLock::new(|| {
    let [buyer, seller] = [1, 2].map(|mark| PrivateKey::from_bytes([mark; 32]).unwrap().public());
    let (refund_height, value) = (RefundHeight::new(170).unwrap(), Satoshis::from_sat(10_000));
    let fee = CloseTerms::fee_at(FeeRate::DEFAULT);
    let close = CloseTerms { seller_hash: [1; 20], buyer_hash: [2; 20], fee };
    let terms = ChannelTerms { buyer, seller, refund_height };
    let channel = Channel::new(terms, close, OutPoint::default(), value).unwrap();
    let key_hash = sensora_chain::encode::sha256(&[7; 32]);
    let terms = KeyReleaseTerms { key_hash, seller, buyer, refund_height };
    (channel, KeyRelease::new(terms, OutPoint::default(), value))
});

fn locking(bytes: &[u8]) {
    let script = Script::new(bytes.to_vec());
    if let Some(terms) = ChannelTerms::parse(&script) {
        assert_eq!(terms.locking(), script);
    }
    if let Some(terms) = KeyReleaseTerms::parse(&script) {
        assert_eq!(terms.locking(), script);
    }
}

fn spend(tx: &Transaction) {
    let (channel, release) = &*CONTRACTS;
    let told = channel.spend_in(tx);
    if let Ok(voucher) = channel.voucher_of(tx) {
        assert_eq!(told, Some(channel::ChannelSpend::Close { paid: voucher.paid }));
    }
    if let Some(KeyReleaseSpend::Claim { key }) = release.spend_in(tx) {
        assert!(release.terms().is_key(&key));
    }
    let cache = SighashCache::new(tx);
    for index in 0..tx.inputs.len().min(4) {
        let _ = verify_input(tx, &cache, index, channel.output());
        let _ = verify_input(tx, &cache, index, release.output());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => locking(bytes),
        1 => {
            if let Ok(tx) = Transaction::from_bytes(bytes) {
                spend(&tx);
            }
        }
        2 => {
            // An unlocking script in a transaction that spends both.
            let (channel, _) = &*CONTRACTS;
            let mut tx = channel.close(Satoshis::from_sat(9)).unwrap();
            tx.inputs[0].unlocking = Script::new(bytes.to_vec());
            spend(&tx);
        }
        _ => {
            if let Ok(voucher) = Voucher::from_script_signature(Satoshis::from_sat(9), bytes) {
                assert_eq!(voucher.script_signature(), bytes);
                let _ = CONTRACTS.0.verify_voucher(&voucher);
            }
        }
    }
});
