//! What a payment in a channel costs: a voucher is signed once and verified once, thousands of times for each channel.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use divan::Bencher;
use sensora_chain::contract::{
    Channel, ChannelTerms, CloseTerms, KeyRelease, KeyReleaseTerms, RefundHeight, verify_input,
};
use sensora_chain::encode::sha256;
use sensora_chain::{
    FeeRate, OutPoint, PrivateKey, Satoshis, SighashCache, Signature, Transaction, TxOut, Txid,
};

fn main() {
    divan::main();
}

fn key(mark: u8) -> PrivateKey {
    PrivateKey::from_bytes([mark; 32]).expect("in range")
}

fn outpoint() -> OutPoint {
    OutPoint { txid: Txid([7; 32]), vout: 0 }
}

/// The terms of a channel as one is on the main network.
fn terms() -> (ChannelTerms, CloseTerms) {
    let refund_height = RefundHeight::new(950_000).expect("a height");
    let terms = ChannelTerms { buyer: key(1).public(), seller: key(2).public(), refund_height };
    let fee = CloseTerms::fee_at(FeeRate::DEFAULT);
    (terms, CloseTerms { seller_hash: [1; 20], buyer_hash: [2; 20], fee })
}

fn channel_of((terms, close): (ChannelTerms, CloseTerms)) -> Channel {
    Channel::new(terms, close, outpoint(), Satoshis::from_sat(1_000_000)).expect("worth something")
}

fn channel() -> Channel {
    channel_of(terms())
}

fn key_release() -> KeyRelease {
    let refund_height = RefundHeight::new(950_000).expect("a height");
    let (seller, buyer) = (key(2).public(), key(1).public());
    let terms = KeyReleaseTerms { key_hash: sha256(&[7; 32]), seller, buyer, refund_height };
    KeyRelease::new(terms, outpoint(), Satoshis::from_sat(1_000_000))
}

/// Nothing but the signature: what a voucher cannot be verified faster than.
#[divan::bench]
fn verify_a_signature_alone(bencher: Bencher<'_, '_>) {
    let (key, digest) = (key(1), [9; 32]);
    let (public, signature): (_, Signature) = (key.public(), key.sign(&digest));
    bencher.bench_local(|| public.verify(&digest, &signature));
}

#[divan::bench]
fn verify_a_voucher(bencher: Bencher<'_, '_>) {
    let channel = channel();
    let voucher = channel.sign_voucher(Satoshis::from_sat(5_000), &key(1)).expect("within it");
    bencher.bench_local(|| channel.verify_voucher(&voucher).is_ok());
}

#[divan::bench]
fn sign_a_voucher(bencher: Bencher<'_, '_>) {
    let (channel, buyer) = (channel(), key(1));
    bencher.bench_local(|| channel.sign_voucher(Satoshis::from_sat(5_000), &buyer).is_ok());
}

/// The seller's signature of the highest voucher, which is verified once more.
#[divan::bench]
fn complete_a_close(bencher: Bencher<'_, '_>) {
    let (channel, seller) = (channel(), key(2));
    let voucher = channel.sign_voucher(Satoshis::from_sat(5_000), &key(1)).expect("within it");
    bencher.bench_local(|| channel.complete(&voucher, &seller).is_ok());
}

/// What is the same for all vouchers.
#[divan::bench]
fn prepare_a_channel(bencher: Bencher<'_, '_>) {
    let terms = terms();
    bencher.bench_local(|| channel_of(terms));
}

/// Grinds until the script can use the digest: four tries on average.
#[divan::bench]
fn make_a_refund(bencher: Bencher<'_, '_>) {
    let (channel, buyer) = (channel(), key(1));
    bencher.bench_local(|| channel.refund(&buyer, FeeRate::DEFAULT).is_ok());
}

fn verify(bencher: Bencher<'_, '_>, tx: &Transaction, spent: &TxOut) {
    bencher.bench_local(|| verify_input(tx, &SighashCache::new(tx), 0, spent).is_ok());
}

#[divan::bench]
fn verify_a_close(bencher: Bencher<'_, '_>) {
    let channel = channel();
    let voucher = channel.sign_voucher(Satoshis::from_sat(5_000), &key(1)).expect("within it");
    let close = channel.complete(&voucher, &key(2)).expect("signed");
    verify(bencher, &close, channel.output());
}

#[divan::bench]
fn verify_a_refund(bencher: Bencher<'_, '_>) {
    let channel = channel();
    let refund = channel.refund(&key(1), FeeRate::DEFAULT).expect("worth something");
    verify(bencher, &refund, channel.output());
}

#[divan::bench]
fn verify_a_claim(bencher: Bencher<'_, '_>) {
    let release = key_release();
    let claim = release.claim(&[7; 32], &key(2), &[1; 20], FeeRate::DEFAULT).expect("the key");
    verify(bencher, &claim, release.output());
}
