use proptest::prelude::*;

use super::*;
use crate::contract::height_lock::HeightLockError;
use crate::contract::height_lock::tests::any_height;
use crate::contract::push_tx::{self, PushTxError};
use crate::contract::{TemplateError, verify_input};
use crate::id::Txid;
use crate::keys::Signature;

pub(crate) const RATE: FeeRate = FeeRate::DEFAULT;

fn sat(value: u64) -> Satoshis {
    Satoshis::from_sat(value)
}

fn key(mark: u8) -> PrivateKey {
    PrivateKey::from_bytes([mark; 32]).unwrap()
}

fn buyer() -> PrivateKey {
    key(1)
}

fn seller() -> PrivateKey {
    key(2)
}

fn terms(height: u32) -> ChannelTerms {
    let refund_height = RefundHeight::new(height).unwrap();
    ChannelTerms { buyer: buyer().public(), seller: seller().public(), refund_height }
}

fn close_terms() -> CloseTerms {
    CloseTerms { seller_hash: [0x5e; 20], buyer_hash: [0xb0; 20], fee: CloseTerms::fee_at(RATE) }
}

fn funded_with(terms: ChannelTerms, value: u64) -> Channel {
    let outpoint = OutPoint { txid: Txid([9; 32]), vout: 1 };
    Channel::new(terms, close_terms(), outpoint, sat(value)).unwrap()
}

/// 100,000 sat, of which 27 are for the close.
fn funded() -> Channel {
    funded_with(terms(170), 100_000)
}

fn closed(channel: &Channel, paid: u64) -> Transaction {
    let voucher = channel.sign_voucher(sat(paid), &buyer()).unwrap();
    channel.complete(&voucher, &seller()).unwrap()
}

fn check(channel: &Channel, tx: &Transaction) -> Result<(), TemplateError> {
    verify_input(tx, &SighashCache::new(tx), 0, channel.output())
}

/// A signature of a transaction as it is, pushed as scripts carry it.
fn signature(channel: &Channel, tx: &Transaction, key: &PrivateKey) -> Vec<u8> {
    let digest = SighashCache::new(tx).digest(0, &channel.output().locking, channel.output().value);
    crate::contract::spend::sign(key, &digest)
}

/// Signed by both, whatever it is.
fn signed_by_both(channel: &Channel, mut tx: Transaction) -> Transaction {
    let (a, b) = (signature(channel, &tx, &buyer()), signature(channel, &tx, &seller()));
    tx.inputs[0].unlocking = Script::builder().op(op::FALSE).push(&a).push(&b).op(op::TRUE).build();
    tx
}

#[test]
fn the_locking_script_is_the_published_one() {
    let (c, p) = (buyer().public(), seller().public());
    let expected = format!(
        "635221{c}21{p}52ae67{}82012c947f77547f7c04ffffffff87916901207f77547f7501007e8102aa00040065cd1da56921{c}ac68",
        hex::encode(push_tx::BLOCK)
    );
    let locking = terms(170).locking();
    assert_eq!(locking.to_string(), expected);
    assert_eq!(locking.len(), 233);
    for (height, push) in [(16, 1), (127, 2), (32_767, 3), (943_816, 4), (499_999_999, 5)] {
        assert_eq!(terms(height).locking().len(), LOCKING_OVERHEAD + push);
    }
}

#[test]
fn sizes_are_bounded_by_what_is_said() {
    assert_eq!((CLOSE_SIZE, terms(170).refund_size()), (267, 554));
    assert_eq!((terms(1).refund_size(), terms(499_999_999).refund_size()), (552, 556));
    let (mut close, mut refund) = ((usize::MAX, 0), (usize::MAX, 0));
    for n in 0..200 {
        let channel = funded_with(terms(170), 100_000 + n);
        let size = closed(&channel, 500 + n).size();
        close = (close.0.min(size), close.1.max(size));
        let size = channel.refund(&buyer(), RATE).unwrap().size();
        refund = (refund.0.min(size), refund.1.max(size));
    }
    // A signature has 70 or 71 bytes in DER; one of 256 is a byte shorter.
    assert!(close.0 >= CLOSE_SIZE - 4 && close.1 == CLOSE_SIZE, "{close:?}");
    assert!(refund.0 >= 554 - 2 && refund.1 == 554, "{refund:?}");
}

#[test]
fn a_voucher_is_half_a_close() {
    let channel = funded();
    assert_eq!(channel.capacity(), sat(99_973));
    let tx = closed(&channel, 1_000);
    assert_eq!(check(&channel, &tx), Ok(()));
    let paid = [pay_to_hash(&[0x5e; 20], sat(1_000)), pay_to_hash(&[0xb0; 20], sat(98_973))];
    assert_eq!(tx.outputs, paid);
    assert_eq!((tx.version, tx.lock_time, tx.inputs[0].sequence), (1, 0, SEQUENCE_FINAL));
    // Nothing and everything leave one output out.
    assert_eq!(closed(&channel, 0).outputs, [pay_to_hash(&[0xb0; 20], sat(99_973))]);
    assert_eq!(closed(&channel, 99_973).outputs, [pay_to_hash(&[0x5e; 20], sat(99_973))]);
}

#[test]
fn a_channel_that_could_pay_nothing_is_not_opened() {
    let (outpoint, fee) = (OutPoint::default(), sat(27));
    let open = |close, value| Channel::new(terms(170), close, outpoint, sat(value)).map(|_| ());
    assert_eq!(open(close_terms(), 27), Err(ChannelError::TooSmall { value: sat(27), fee }));
    assert_eq!(open(close_terms(), 28), Ok(()));
    assert_eq!(open(CloseTerms { fee: sat(0), ..close_terms() }, 28), Err(ChannelError::NoFee));
    let same = CloseTerms { buyer_hash: [0x5e; 20], ..close_terms() };
    assert_eq!(open(same, 28), Err(ChannelError::SameHash));
}

#[test]
fn a_voucher_that_pays_nothing_here_says_why() {
    let channel = funded();
    let capacity = channel.capacity();
    let too_much = |paid| Err(VoucherError::TooMuch { paid, capacity });
    let more = sat(99_974);
    assert_eq!(channel.sign_voucher(more, &buyer()), too_much(more));
    let good = channel.sign_voucher(sat(500), &buyer()).unwrap();
    for paid in [more, Satoshis::MAX] {
        assert_eq!(channel.verify_voucher(&Voucher { paid, ..good }), too_much(paid).map(|_: Voucher| ()));
    }
    assert_eq!(channel.verify_voucher(&good), Ok(()));
    for paid in [499, 501, 0].map(sat) {
        let verdict = channel.verify_voucher(&Voucher { paid, ..good });
        assert_eq!(verdict, Err(VoucherError::BadSignature(paid)));
    }
    // Of the same parties, but another channel, another fee, another payout.
    let other = Channel::new(terms(170), close_terms(), OutPoint::default(), sat(100_000)).unwrap();
    assert_eq!(other.verify_voucher(&good), Err(VoucherError::BadSignature(sat(500))));
    for close in [
        CloseTerms { fee: sat(28), ..close_terms() },
        CloseTerms { seller_hash: [1; 20], ..close_terms() },
        CloseTerms { buyer_hash: [1; 20], ..close_terms() },
    ] {
        let other = Channel::new(terms(170), close, channel.outpoint(), sat(100_000)).unwrap();
        assert_eq!(other.verify_voucher(&good), Err(VoucherError::BadSignature(sat(500))));
    }
    let by_seller =
        Voucher { paid: sat(500), signature: seller().sign(&channel.close_digest(sat(500)).unwrap()) };
    assert_eq!(channel.verify_voucher(&by_seller), Err(VoucherError::BadSignature(sat(500))));
    assert_eq!(channel.complete(&by_seller, &seller()), Err(VoucherError::BadSignature(sat(500))));
    let (buyer_key, seller_key) = (buyer().public(), seller().public());
    assert_eq!(channel.sign_voucher(sat(500), &seller()), Err(VoucherError::WrongKey(buyer_key)));
    assert_eq!(channel.complete(&good, &buyer()), Err(VoucherError::WrongKey(seller_key)));
}

#[test]
fn a_voucher_is_read_from_its_one_form_only() {
    let voucher = funded().sign_voucher(sat(500), &buyer()).unwrap();
    let push = voucher.script_signature();
    assert_eq!(Voucher::from_script_signature(sat(500), &push), Ok(voucher));
    let read = |push: &[u8]| Voucher::from_script_signature(sat(500), push);
    let (_, der) = push.split_last().unwrap();
    for other in [0x01, 0x40, 0x42, 0x43, 0x61, 0xc1] {
        assert_eq!(read(&[der, &[other]].concat()), Err(VoucherError::SighashType(other)));
    }
    let long = [der, &[0, 0x41]].concat();
    for other in [&[][..], &[0x41], &push[1..], &long] {
        assert!(matches!(read(other), Err(VoucherError::NotCanonical(_))), "{other:?}");
    }
}

#[test]
fn the_voucher_is_found_again_in_a_close() {
    let channel = funded();
    let tx = closed(&channel, 700);
    assert_eq!(channel.voucher_of(&tx), channel.sign_voucher(sat(700), &buyer()));
    let after = |change: fn(&mut Transaction)| {
        let mut tx = tx.clone();
        change(&mut tx);
        channel.voucher_of(&tx)
    };
    let (no_close, outputs) =
        (Err(VoucherError::NotTheClose(channel.outpoint())), Err(VoucherError::Outputs(channel.outpoint())));
    assert_eq!(after(|tx| tx.version = 2), no_close);
    assert_eq!(after(|tx| tx.lock_time = 1), no_close);
    assert_eq!(after(|tx| tx.inputs[0].sequence -= 1), no_close);
    assert_eq!(after(|tx| tx.inputs[0].previous.vout = 0), no_close);
    assert_eq!(after(|tx| tx.inputs.push(TxIn::new(OutPoint::default()))), no_close);
    assert_eq!(after(|tx| tx.inputs.clear()), no_close);
    assert_eq!(after(|tx| tx.outputs[1].value = Satoshis::from_sat(1)), outputs);
    assert_eq!(after(|tx| tx.outputs.swap(0, 1)), outputs);
    assert_eq!(after(|tx| tx.outputs.truncate(1)), outputs);
    assert_eq!(after(|tx| tx.outputs.push(pay_to_hash(&[1; 20], Satoshis::from_sat(1)))), outputs);
    assert_eq!(after(|tx| tx.outputs.clear()), outputs);
    assert_eq!(after(|tx| tx.inputs[0].unlocking = Script::default()), Err(VoucherError::Unlocking));
    // Signed by the buyer for another amount.
    let other = closed(&channel, 701).inputs.remove(0).unlocking;
    let mut swapped = tx.clone();
    swapped.inputs[0].unlocking = other;
    assert_eq!(channel.voucher_of(&swapped), Err(VoucherError::BadSignature(sat(700))));
}

#[test]
fn a_refund_goes_back_to_the_buyer_alone() {
    let channel = funded();
    let tx = channel.refund(&buyer(), RATE).unwrap();
    assert_eq!(check(&channel, &tx), Ok(()));
    assert_eq!(tx.outputs, [pay_to_hash(&[0xb0; 20], sat(100_000 - 56))]);
    assert!(!tx.is_final() && !tx.is_final_at(170) && tx.is_final_at(171));
    let not_buyer = Err(RefundError::WrongKey(buyer().public()));
    assert_eq!(channel.refund(&seller(), RATE), not_buyer);
    let small = funded_with(terms(170), 56);
    let too_small = RefundError::TooSmall { value: sat(56), fee: sat(56) };
    assert_eq!(small.refund(&buyer(), RATE), Err(too_small));
    assert!(funded_with(terms(170), 57).refund(&buyer(), RATE).is_ok());
}

/// As a buyer would make it that does not keep to the lock.
fn forged_refund(channel: &Channel, lock_time: u32, last: bool) -> Transaction {
    let outputs = vec![pay_to_hash(&[0xb0; 20], sat(90_000))];
    let mut tx = Transaction::new(vec![TxIn::new(channel.outpoint())], outputs);
    tx.lock_time = lock_time;
    let preimage = loop {
        let preimage = match last {
            false => push_tx::grind(&mut tx, 0, channel.output()).unwrap(),
            true => push_tx::Preimage::new(&SighashCache::new(&tx), 0, channel.output()).unwrap(),
        };
        if preimage.is_ground() {
            break preimage;
        }
        tx.outputs[0].value = sat(tx.outputs[0].value.as_u64() - 1);
    };
    let signed = crate::contract::spend::sign(&buyer(), &preimage.digest);
    tx.inputs[0].unlocking = Script::builder().push(&signed).push(&preimage.bytes).op(op::FALSE).build();
    tx
}

#[test]
fn a_refund_that_evades_the_lock_is_refused() {
    let channel = funded();
    assert_eq!(check(&channel, &forged_refund(&channel, 170, false)), Ok(()));
    assert_eq!(check(&channel, &forged_refund(&channel, 499_999_999, false)), Ok(()));
    let refused = |lock_time, last| match check(&channel, &forged_refund(&channel, lock_time, last)) {
        Err(TemplateError::Contract(SpendError::Lock(error))) => error,
        other => panic!("{other:?}"),
    };
    let needed = RefundHeight::new(170).unwrap();
    for found in [0, 169, 500_000_000, 1_000_000_000, u32::MAX] {
        assert_eq!(refused(found, false), HeightLockError::LockTime { found, needed });
    }
    assert_eq!(refused(170, true), HeightLockError::FinalSequence(0));
}

#[test]
fn a_refund_has_to_show_itself() {
    let channel = funded();
    let tx = forged_refund(&channel, 170, false);
    let other = forged_refund(&channel, 171, false);
    let pushes = |tx: &Transaction| -> Vec<Vec<u8>> {
        tx.inputs[0].unlocking.pushes().map(|op| op.unwrap().data().unwrap().to_vec()).collect()
    };
    let (own, foreign) = (pushes(&tx), pushes(&other));
    let unlock = |signature: &[u8], preimage: &[u8]| {
        let mut tx = tx.clone();
        tx.inputs[0].unlocking = Script::builder().push(signature).push(preimage).op(op::FALSE).build();
        check(&channel, &tx)
    };
    assert_eq!(unlock(&own[0], &own[1]), Ok(()));
    assert_eq!(unlock(&own[0], &foreign[1]), Err(SpendError::from(PushTxError::OtherTransaction(0)).into()));
    let bad = SpendError::BadSignature { index: 0, party: Party::Buyer };
    assert_eq!(unlock(&foreign[0], &own[1]), Err(bad.into()));
    assert_eq!(unlock(&signature(&channel, &tx, &seller()), &own[1]), Err(bad.into()));
    // One of four sequence numbers gives a digest that the script can use.
    let mut tx = tx.clone();
    loop {
        tx.inputs[0].sequence -= 1;
        let preimage = push_tx::Preimage::new(&SighashCache::new(&tx), 0, channel.output()).unwrap();
        if !preimage.is_ground() {
            let signed = crate::contract::spend::sign(&buyer(), &preimage.digest);
            tx.inputs[0].unlocking =
                Script::builder().push(&signed).push(&preimage.bytes).op(op::FALSE).build();
            break;
        }
    }
    assert_eq!(check(&channel, &tx), Err(SpendError::from(PushTxError::NotGround(0)).into()));
}

#[test]
fn other_forms_of_a_close_are_refused() {
    let channel = funded();
    let tx = closed(&channel, 500);
    let (a, b) = (signature(&channel, &tx, &buyer()), signature(&channel, &tx, &seller()));
    let unlock = |script: Script| {
        let mut tx = tx.clone();
        tx.inputs[0].unlocking = script;
        check(&channel, &tx)
    };
    let start = || Script::builder().op(op::FALSE);
    assert_eq!(unlock(start().push(&a).push(&b).op(op::TRUE).build()), Ok(()));
    let form = Err(SpendError::Unlocking(0).into());
    assert_eq!(unlock(start().push(&a).push(&b).op(op::N2).build()), form, "another true selector");
    assert_eq!(unlock(start().push(&a).push(&b).raw(&[1, 1]).build()), form, "a longer push of it");
    assert_eq!(unlock(start().push(&a).push(&b).op(op::FALSE).build()), form, "the other branch");
    assert_eq!(
        unlock(Script::builder().op(op::TRUE).push(&a).push(&b).op(op::TRUE).build()),
        form,
        "a dummy"
    );
    assert_eq!(unlock(Script::builder().push(&a).push(&b).op(op::TRUE).build()), form, "no dummy");
    assert_eq!(unlock(start().push(&[7]).push(&a).push(&b).op(op::TRUE).build()), form, "a push more");
    assert_eq!(unlock(start().push(&a).push(&b).op(op::TRUE).op(0x61).build()), form, "a NOP");
    assert_eq!(unlock(Script::default()), form);
    let by = |party| Err(SpendError::BadSignature { index: 0, party }.into());
    assert_eq!(unlock(start().push(&b).push(&a).op(op::TRUE).build()), by(Party::Buyer), "the other order");
    assert_eq!(unlock(start().push(&a).push(&a).op(op::TRUE).build()), by(Party::Seller), "one for both");
    let (_, der) = b.split_last().unwrap();
    let typed = [der, &[0xc1]].concat();
    let wrong_type = SpendError::SighashType { index: 0, party: Party::Seller, found: 0xc1 };
    assert_eq!(unlock(start().push(&a).push(&typed).op(op::TRUE).build()), Err(wrong_type.into()));
    let mut version_2 = tx.clone();
    version_2.version = 2;
    let version_2 = signed_by_both(&channel, version_2);
    assert_eq!(check(&channel, &version_2), Err(SpendError::Version(2).into()));
    assert_eq!(
        verify_input(&tx, &SighashCache::new(&tx), 1, channel.output()),
        Err(SpendError::NoInput(1).into())
    );
}

#[test]
fn whatever_spends_the_channel_is_told() {
    let channel = funded();
    let spend = |tx: &Transaction| channel.spend_in(tx);
    let close = closed(&channel, 500);
    assert_eq!(spend(&close), Some(ChannelSpend::Close { paid: sat(500) }));
    for paid in [0, 99_973] {
        assert_eq!(spend(&closed(&channel, paid)), Some(ChannelSpend::Close { paid: sat(paid) }));
    }
    let mut changed = close.clone();
    // What a miner or a relay may have made of it.
    changed.inputs[0].unlocking = Script::new([close.inputs[0].unlocking.as_bytes(), &[0x52]].concat());
    assert_eq!(spend(&changed), Some(ChannelSpend::Close { paid: sat(500) }));
    let mut refund = channel.refund(&buyer(), RATE).unwrap();
    assert_eq!(spend(&refund), Some(ChannelSpend::Refund));
    refund.outputs.push(pay_to_hash(&[3; 20], sat(1)));
    refund.inputs.insert(0, TxIn::new(OutPoint::default()));
    assert_eq!(spend(&refund), Some(ChannelSpend::Refund), "the buyer may do as it likes");
    let mut agreed = close;
    agreed.outputs.push(pay_to_hash(&[3; 20], sat(1)));
    let agreed = signed_by_both(&channel, agreed);
    assert_eq!(check(&channel, &agreed), Ok(()));
    assert_eq!(spend(&agreed), Some(ChannelSpend::Other));
    assert_eq!(spend(&Transaction::default()), None);
    let elsewhere = closed(&funded_with(terms(171), 100_000), 500);
    assert_eq!(spend(&elsewhere), Some(ChannelSpend::Close { paid: sat(500) }), "scripts are not looked at");
    assert!(check(&channel, &elsewhere).is_err());
}

#[test]
fn terms_and_vouchers_are_kept_as_they_are() {
    let text = serde_json::to_string(&(terms(170), close_terms())).unwrap();
    assert_eq!(
        serde_json::from_str::<(ChannelTerms, CloseTerms)>(&text).unwrap(),
        (terms(170), close_terms())
    );
    let voucher = funded().sign_voucher(sat(5), &buyer()).unwrap();
    let bytes = cbor4ii::serde::to_vec(Vec::new(), &voucher).unwrap();
    assert_eq!(cbor4ii::serde::from_slice::<Voucher>(&bytes).unwrap(), voucher);
    let text = serde_json::to_string(&terms(170)).unwrap().replace("170", "0");
    assert!(serde_json::from_str::<ChannelTerms>(&text).is_err());
}

fn any_terms() -> impl Strategy<Value = ChannelTerms> {
    (1u8..200, 1u8..200, any_height()).prop_map(|(buyer, seller, refund_height)| ChannelTerms {
        buyer: key(buyer).public(),
        seller: key(seller).public(),
        refund_height,
    })
}

proptest! {
    #[test]
    fn terms_round_trip(terms in any_terms()) {
        let locking = terms.locking();
        prop_assert_eq!(ChannelTerms::parse(&locking), Some(terms));
        prop_assert_eq!(locking.len(), LOCKING_OVERHEAD + terms.refund_height.push().len());
    }

    #[test]
    fn nothing_else_is_a_channel(terms in any_terms(), at: prop::sample::Index, mask in 1u8.., more: Vec<u8>) {
        let bytes = terms.locking().into_bytes();
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= mask;
        // Another key or height is another channel; it is written the same again.
        if let Some(read) = ChannelTerms::parse(&Script::new(changed.clone())) {
            prop_assert_eq!(read.locking().into_bytes(), changed);
            prop_assert_ne!(read, terms);
        }
        prop_assert_eq!(ChannelTerms::parse(&Script::new(bytes[..at.index(bytes.len())].to_vec())), None);
        if !more.is_empty() {
            prop_assert_eq!(ChannelTerms::parse(&Script::new([bytes, more].concat())), None);
        }
    }

    #[test]
    fn no_script_makes_the_parser_panic(bytes: Vec<u8>) {
        prop_assert_eq!(ChannelTerms::parse(&Script::new(bytes)), None);
    }

    #[test]
    fn any_amount_up_to_the_capacity_can_be_paid(value in 28u64..=Satoshis::MAX.as_u64(), paid: u64, terms in any_height()) {
        let channel = funded_with(ChannelTerms { refund_height: terms, ..self::terms(1) }, value);
        let paid = sat(paid % (channel.capacity().as_u64() + 1));
        let voucher = channel.sign_voucher(paid, &buyer()).unwrap();
        prop_assert_eq!(channel.verify_voucher(&voucher), Ok(()));
        let tx = channel.complete(&voucher, &seller()).unwrap();
        prop_assert_eq!(check(&channel, &tx), Ok(()));
        prop_assert_eq!(channel.spend_in(&tx), Some(ChannelSpend::Close { paid }));
        prop_assert_eq!(channel.voucher_of(&tx), Ok(voucher));
        let fee = sat(value).checked_sub(tx.output_sum().unwrap()).unwrap();
        prop_assert_eq!(fee, channel.close_terms().fee);
        prop_assert!(tx.size() <= CLOSE_SIZE && fee >= RATE.fee(tx.size()));
        // The digest with a prepared start is that of the whole transaction.
        let digest = SighashCache::new(&tx).digest(0, &channel.output().locking, channel.output().value);
        prop_assert_eq!(channel.close_digest(paid), Ok(digest));
    }

    #[test]
    fn a_refund_of_any_height_is_valid_from_then_on(height in any_height(), value in 100u64..1_000_000) {
        let channel = funded_with(ChannelTerms { refund_height: height, ..terms(1) }, value);
        let tx = channel.refund(&buyer(), RATE).unwrap();
        prop_assert_eq!(check(&channel, &tx), Ok(()));
        prop_assert!(!tx.is_final_at(height.get()) && tx.is_final_at(height.get() + 1));
        let fee = sat(value).checked_sub(tx.output_sum().unwrap()).unwrap();
        prop_assert!(tx.size() <= channel.terms().refund_size() && fee >= RATE.fee(tx.size()));
        prop_assert_eq!(channel.spend_in(&tx), Some(ChannelSpend::Refund));
    }

    #[test]
    fn any_change_of_a_spend_is_refused(refund: bool, at: prop::sample::Index, mask in 1u8..) {
        let channel = funded();
        let tx = if refund { channel.refund(&buyer(), RATE).unwrap() } else { closed(&channel, 500) };
        let mut bytes = tx.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        if let Ok(changed) = Transaction::from_bytes(&bytes) {
            prop_assert!(check(&channel, &changed).is_err());
        }
    }

    #[test]
    fn any_change_of_a_voucher_is_refused(paid in 0u64..=99_973, at in 0usize..64, mask in 1u8..) {
        let channel = funded();
        let voucher = channel.sign_voucher(sat(paid), &buyer()).unwrap();
        let mut compact = voucher.signature.compact();
        compact[at] ^= mask;
        if let Ok(signature) = Signature::from_compact(&compact) {
            let changed = Voucher { signature, ..voucher };
            prop_assert_eq!(channel.verify_voucher(&changed), Err(VoucherError::BadSignature(sat(paid))));
        }
    }
}
