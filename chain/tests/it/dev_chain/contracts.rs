//! Channels and key releases on the development chain: opened, closed, claimed and refunded under the rules of finality.

use sensora_chain::beef::Beef;
use sensora_chain::contract::channel::ChannelSpend;
use sensora_chain::contract::key_release::KeyReleaseSpend;
use sensora_chain::contract::{
    Channel, ChannelTerms, CloseTerms, KeyRelease, KeyReleaseTerms, RefundHeight, SpendError, TemplateError,
};
use sensora_chain::encode::sha256;
use sensora_chain::sources::dev::{DevChain, Reject, Submitted};
use sensora_chain::spv::{self, SpvError};
use sensora_chain::{FeeRate, OutPoint, Script, Transaction, TxIn, TxOut};

use super::{NOW, chain, key, pay, refused, sat};

const SECRET: [u8; 32] = [7; 32];
const RATE: FeeRate = FeeRate::DEFAULT;

fn height(height: u32) -> RefundHeight {
    RefundHeight::new(height).unwrap()
}

/// A channel of 50,000 sat from `key(1)` to `key(2)`, and what funds it.
pub(crate) fn channel(chain: &DevChain, refund_height: RefundHeight) -> (Transaction, Channel) {
    let terms = ChannelTerms { buyer: key(1).public(), seller: key(2).public(), refund_height };
    let close = CloseTerms { seller_hash: [2; 20], buyer_hash: [1; 20], fee: CloseTerms::fee_at(RATE) };
    let funding = chain.faucet(&terms.locking(), sat(50_000)).unwrap();
    let outpoint = OutPoint { txid: funding.txid(), vout: 0 };
    (funding, Channel::new(terms, close, outpoint, sat(50_000)).unwrap())
}

/// A key of `key(2)` sold to `key(1)` for 50,000 sat.
pub(crate) fn key_release(chain: &DevChain, refund_height: RefundHeight) -> KeyRelease {
    let (seller, buyer) = (key(2).public(), key(1).public());
    let terms = KeyReleaseTerms { key_hash: sha256(&SECRET), seller, buyer, refund_height };
    let funding = chain.faucet(&terms.locking(), sat(50_000)).unwrap();
    KeyRelease::new(terms, OutPoint { txid: funding.txid(), vout: 0 }, sat(50_000))
}

/// Every spend of both contracts, the refunds final now.
pub(crate) fn all_spends(chain: &DevChain) -> [Transaction; 4] {
    let past = height(chain.tip().unwrap().height);
    let (_, open) = channel(chain, past);
    let close = open.complete(&open.sign_voucher(sat(12_345), &key(1)).unwrap(), &key(2)).unwrap();
    let refund = channel(chain, past).1.refund(&key(1), RATE).unwrap();
    let claim = key_release(chain, past).claim(&SECRET, &key(2), &[2; 20], RATE).unwrap();
    let taken_back = key_release(chain, past).refund(&key(1), &[1; 20], RATE).unwrap();
    [close, refund, claim, taken_back]
}

#[test]
fn every_spend_of_a_contract_is_mined() {
    let chain = chain();
    let spends = all_spends(&chain);
    for tx in &spends {
        assert!(matches!(chain.submit(tx).unwrap(), Submitted::Accepted { .. }));
    }
    let block = chain.mine(NOW).unwrap();
    assert!(spends.iter().all(|tx| block.txids.contains(&tx.txid())));
}

#[test]
fn a_refund_is_taken_when_the_next_block_may_have_it() {
    let chain = chain();
    let tip = chain.tip().unwrap().height;
    let refunds = [
        channel(&chain, height(tip + 2)).1.refund(&key(1), RATE).unwrap(),
        key_release(&chain, height(tip + 2)).refund(&key(1), &[1; 20], RATE).unwrap(),
    ];
    for mined in 0..2 {
        for tx in &refunds {
            let not_final = |reject: Reject| match reject {
                Reject::NotFinal { lock_time, height, .. } => (lock_time, height),
                other => panic!("{other}"),
            };
            assert_eq!(not_final(refused(&chain, tx)), (tip + 2, tip + 1 + mined));
        }
        chain.mine(NOW).unwrap();
    }
    refunds.iter().for_each(|tx| assert!(chain.submit(tx).is_ok()));
}

#[test]
fn the_first_spend_of_a_channel_wins() {
    let chain = chain();
    let (_, open) = channel(&chain, height(chain.tip().unwrap().height));
    let close = open.complete(&open.sign_voucher(sat(1), &key(1)).unwrap(), &key(2)).unwrap();
    let refund = open.refund(&key(1), RATE).unwrap();
    chain.submit(&close).unwrap();
    assert!(matches!(refused(&chain, &refund), Reject::MempoolConflict { by, .. } if by == close.txid()));
    let spender = chain.spent_by(&open.outpoint()).unwrap().unwrap();
    let spender = chain.transaction(&spender).unwrap().unwrap();
    assert_eq!(open.spend_in(&spender), Some(ChannelSpend::Close { paid: sat(1) }));
}

#[test]
fn a_spend_in_another_form_and_unknown_scripts_are_refused() {
    let chain = chain();
    let release = key_release(&chain, height(1));
    let mut claim = release.claim(&SECRET, &key(2), &[2; 20], RATE).unwrap();
    let script = claim.inputs[0].unlocking.as_bytes();
    claim.inputs[0].unlocking = Script::new([&script[..script.len() - 1], &[0x52]].concat());
    let form = TemplateError::Contract(SpendError::Unlocking(0));
    assert_eq!(refused(&chain, &claim), Reject::Script(form));
    assert_eq!(Reject::Script(form).reason(), "mandatory-script-verify-flag-failed");
    assert!(matches!(release.spend_in(&claim), Some(KeyReleaseSpend::Claim { key: SECRET })));

    // One byte beside a channel.
    let mut locking = channel(&chain, height(1)).1.output().locking.as_bytes().to_vec();
    locking.push(0x61);
    let funding = chain.faucet(&Script::new(locking), sat(50_000)).unwrap();
    let input = TxIn::new(OutPoint { txid: funding.txid(), vout: 0 });
    let tx = Transaction::new(vec![input], vec![pay(40_000)]);
    assert_eq!(refused(&chain, &tx), Reject::UnsupportedScript { input: 0 });
}

/// A payment verifier believes the same: the close at once, the refund from its height on.
#[test]
fn spends_are_believed_from_headers_alone() {
    let chain = chain();
    let tip = chain.tip().unwrap().height;
    let (funding, open) = channel(&chain, height(tip + 2));
    chain.mine(NOW).unwrap();
    let path = chain.merkle_path(&funding.txid()).unwrap().unwrap();
    let close = open.complete(&open.sign_voucher(sat(9), &key(1)).unwrap(), &key(2)).unwrap();
    let refund = open.refund(&key(1), RATE).unwrap();
    let verdict = |tx: &Transaction| {
        let mut beef = Beef::new();
        beef.add(funding.clone(), Some(&path)).unwrap();
        beef.add(tx.clone(), None).unwrap();
        spv::verify(&beef, &tx.txid(), &chain).map(|proof| proof.unmined[0].fee)
    };
    assert_eq!(verdict(&close), Ok(CloseTerms::fee_at(RATE)));
    let early = SpvError::NotFinal { txid: refund.txid(), lock_time: tip + 2, tip: tip + 1 };
    assert_eq!(verdict(&refund), Err(early));
    chain.mine(NOW).unwrap();
    assert_eq!(verdict(&refund), Ok(RATE.fee(open.terms().refund_size())));
    let mut stolen = close;
    stolen.outputs[0] = TxOut { locking: Script::p2pkh(&[3; 20]), ..stolen.outputs[0].clone() };
    assert!(matches!(verdict(&stolen), Err(SpvError::Script { .. })));
}
