use proptest::prelude::*;

use super::*;
use crate::contract::height_lock::HeightLockError;
use crate::contract::height_lock::tests::any_height;
use crate::contract::{TemplateError, push_tx, verify_input};
use crate::id::Txid;

const RATE: FeeRate = FeeRate::DEFAULT;
const KEY: [u8; 32] = [7; 32];

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

fn terms(height: u32) -> KeyReleaseTerms {
    let refund_height = RefundHeight::new(height).unwrap();
    let (seller, buyer) = (seller().public(), buyer().public());
    KeyReleaseTerms { key_hash: sha256(&KEY), seller, buyer, refund_height }
}

fn funded_with(terms: KeyReleaseTerms, value: u64) -> KeyRelease {
    KeyRelease::new(terms, OutPoint { txid: Txid([9; 32]), vout: 1 }, sat(value))
}

fn funded() -> KeyRelease {
    funded_with(terms(170), 100_000)
}

fn claimed(release: &KeyRelease) -> Transaction {
    release.claim(&KEY, &seller(), &[0x5e; 20], RATE).unwrap()
}

fn refunded(release: &KeyRelease) -> Transaction {
    release.refund(&buyer(), &[0xb0; 20], RATE).unwrap()
}

fn check(release: &KeyRelease, tx: &Transaction) -> Result<(), TemplateError> {
    verify_input(tx, &SighashCache::new(tx), 0, release.output())
}

#[test]
fn the_locking_script_is_the_published_one_with_the_length_of_the_key() {
    let (c, p, h) = (buyer().public(), seller().public(), hex::encode(sha256(&KEY)));
    let expected = format!(
        "6382012088a820{h}8821{p}67{}82012c947f77547f7c04ffffffff87916901207f77547f7501007e8102aa00040065cd1da56921{c}68ac",
        hex::encode(push_tx::BLOCK)
    );
    let locking = terms(170).locking();
    assert_eq!(locking.to_string(), expected);
    assert_eq!(locking.len(), 235);
    for (height, push) in [(16, 1), (127, 2), (32_767, 3), (943_816, 4), (499_999_999, 5)] {
        assert_eq!(terms(height).locking().len(), LOCKING_OVERHEAD + push);
    }
}

#[test]
fn sizes_are_bounded_by_what_is_said() {
    assert_eq!((CLAIM_SIZE, terms(170).refund_size()), (192, 556));
    assert_eq!((terms(1).refund_size(), terms(499_999_999).refund_size()), (554, 558));
    let (mut claim, mut refund) = ((usize::MAX, 0), (usize::MAX, 0));
    for n in 0..200 {
        let release = funded_with(terms(170), 100_000 + n);
        let size = claimed(&release).size();
        claim = (claim.0.min(size), claim.1.max(size));
        let size = refunded(&release).size();
        refund = (refund.0.min(size), refund.1.max(size));
    }
    assert!(claim.0 >= CLAIM_SIZE - 3 && claim.1 == CLAIM_SIZE, "{claim:?}");
    assert!(refund.0 >= 556 - 3 && refund.1 == 556, "{refund:?}");
}

#[test]
fn a_claim_reveals_the_key() {
    let release = funded();
    let tx = claimed(&release);
    assert_eq!(check(&release, &tx), Ok(()));
    assert_eq!(tx.outputs, [pay_to_hash(&[0x5e; 20], sat(100_000 - 20))]);
    assert!(tx.is_final());
    assert_eq!(release.spend_in(&tx), Some(KeyReleaseSpend::Claim { key: KEY }));
    assert_eq!(release.claim(&[8; 32], &seller(), &[1; 20], RATE), Err(ClaimError::WrongKey));
    let not_seller = Err(ClaimError::NotTheSeller(seller().public()));
    assert_eq!(release.claim(&KEY, &buyer(), &[1; 20], RATE), not_seller);
    let too_small = Err(ClaimError::TooSmall { value: sat(20), fee: sat(20) });
    assert_eq!(funded_with(terms(170), 20).claim(&KEY, &seller(), &[1; 20], RATE), too_small);
    assert!(funded_with(terms(170), 21).claim(&KEY, &seller(), &[1; 20], RATE).is_ok());
}

#[test]
fn a_refund_goes_back_to_the_buyer_alone() {
    let release = funded();
    let tx = refunded(&release);
    assert_eq!(check(&release, &tx), Ok(()));
    assert_eq!(tx.outputs, [pay_to_hash(&[0xb0; 20], sat(100_000 - 56))]);
    assert_eq!(release.spend_in(&tx), Some(KeyReleaseSpend::Refund));
    let not_buyer = Err(RefundError::WrongKey(buyer().public()));
    assert_eq!(release.refund(&seller(), &[1; 20], RATE), not_buyer);
    // With all the rest right, an earlier lock time is seen.
    let other = funded_with(terms(169), 100_000);
    let early = refunded(&other);
    let needed = RefundHeight::new(170).unwrap();
    let error = HeightLockError::LockTime { found: 169, needed };
    assert_eq!(check(&release, &early), Err(SpendError::from(error).into()));
}

#[test]
fn a_claim_with_another_key_is_refused() {
    let release = funded();
    let tx = claimed(&release);
    let digest = SighashCache::new(&tx).digest(0, &release.output().locking, release.output().value);
    let signature = sign(&seller(), &digest);
    let unlock = |script: Script| {
        let mut tx = tx.clone();
        tx.inputs[0].unlocking = script;
        check(&release, &tx)
    };
    let start = || Script::builder().push(&signature);
    assert_eq!(unlock(start().push(&KEY).op(op::TRUE).build()), Ok(()));
    assert_eq!(unlock(start().push(&[8; 32]).op(op::TRUE).build()), Err(SpendError::WrongKey(0).into()));
    for found in [0, 1, 31, 33, 64] {
        let error = SpendError::KeyLength { index: 0, found };
        assert_eq!(unlock(start().push(&vec![7; found]).op(op::TRUE).build()), Err(error.into()));
    }
    let form = Err(SpendError::Unlocking(0).into());
    assert_eq!(unlock(start().push(&KEY).op(op::N2).build()), form, "another true selector");
    assert_eq!(unlock(start().push(&KEY).raw(&[1, 1]).build()), form, "a longer push of it");
    assert_eq!(unlock(start().raw(&[0x4c, 32]).raw(&KEY).op(op::TRUE).build()), form, "a longer push");
    assert_eq!(unlock(Script::builder().push(&[1]).push(&signature).push(&KEY).op(op::TRUE).build()), form);
    assert_eq!(unlock(start().push(&KEY).op(op::TRUE).op(0x61).build()), form);
    assert_eq!(unlock(Script::default()), form);
    let by_buyer = sign(&buyer(), &digest);
    let bad = SpendError::BadSignature { index: 0, party: Party::Seller };
    assert_eq!(unlock(Script::builder().push(&by_buyer).push(&KEY).op(op::TRUE).build()), Err(bad.into()));
    let mut version_2 = tx.clone();
    version_2.version = 2;
    assert_eq!(check(&release, &version_2), Err(SpendError::Version(2).into()));
}

#[test]
fn the_key_is_found_in_whatever_form_it_was_mined() {
    let release = funded();
    let spend = |unlocking: &[u8]| {
        let mut tx = claimed(&release);
        tx.inputs[0].unlocking = Script::new(unlocking.to_vec());
        release.spend_in(&tx)
    };
    let found = Some(KeyReleaseSpend::Claim { key: KEY });
    let signature = [2, 0x30, 0x41];
    assert_eq!(spend(&[&signature[..], &[32], &KEY, &[0x52]].concat()), found, "another selector");
    assert_eq!(spend(&[&[1, 9], &signature[..], &[32], &KEY, &[0x51]].concat()), found, "junk in front");
    assert_eq!(spend(&[&signature[..], &[0x4c, 32], &KEY, &[0x51]].concat()), found, "a longer push");
    assert_eq!(spend(&[&signature[..], &[32], &KEY, &[0x61, 0x51]].concat()), found, "version 2");
    assert_eq!(spend(&[&signature[..], &[32], &[8; 32], &[0x51]].concat()), Some(KeyReleaseSpend::Other));
    let halves = [&signature[..], &[16], &KEY[..16], &[16], &KEY[16..], &[op::CAT, 0x51]].concat();
    assert_eq!(spend(&halves), Some(KeyReleaseSpend::Other), "only an interpreter could read it");
    assert_eq!(spend(&[&signature[..], &[32], &KEY, &[0]].concat()), Some(KeyReleaseSpend::Refund));
    assert_eq!(release.spend_in(&Transaction::default()), None);
}

#[test]
fn terms_are_kept_as_they_are() {
    let text = serde_json::to_string(&terms(170)).unwrap();
    assert_eq!(serde_json::from_str::<KeyReleaseTerms>(&text).unwrap(), terms(170));
}

fn any_terms() -> impl Strategy<Value = KeyReleaseTerms> {
    (any::<[u8; 32]>(), 1u8..200, 1u8..200, any_height()).prop_map(
        |(key_hash, seller, buyer, refund_height)| {
            let (seller, buyer) = (key(seller).public(), key(buyer).public());
            KeyReleaseTerms { key_hash, seller, buyer, refund_height }
        },
    )
}

proptest! {
    #[test]
    fn terms_round_trip(terms in any_terms()) {
        let locking = terms.locking();
        prop_assert_eq!(KeyReleaseTerms::parse(&locking), Some(terms));
        prop_assert_eq!(locking.len(), LOCKING_OVERHEAD + terms.refund_height.push().len());
    }

    #[test]
    fn nothing_else_is_a_key_release(terms in any_terms(), at: prop::sample::Index, mask in 1u8.., more: Vec<u8>) {
        let bytes = terms.locking().into_bytes();
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= mask;
        if let Some(read) = KeyReleaseTerms::parse(&Script::new(changed.clone())) {
            prop_assert_eq!(read.locking().into_bytes(), changed);
            prop_assert_ne!(read, terms);
        }
        prop_assert_eq!(KeyReleaseTerms::parse(&Script::new(bytes[..at.index(bytes.len())].to_vec())), None);
        if !more.is_empty() {
            prop_assert_eq!(KeyReleaseTerms::parse(&Script::new([bytes, more].concat())), None);
        }
    }

    #[test]
    fn no_script_makes_the_parser_panic(bytes: Vec<u8>) {
        prop_assert_eq!(KeyReleaseTerms::parse(&Script::new(bytes)), None);
    }

    #[test]
    fn any_key_can_be_sold_and_any_height_waited_for(secret: [u8; 32], height in any_height(), value in 100u64..1_000_000) {
        let terms = KeyReleaseTerms { key_hash: sha256(&secret), refund_height: height, ..terms(1) };
        let release = funded_with(terms, value);
        let claim = release.claim(&secret, &seller(), &[1; 20], RATE).unwrap();
        prop_assert_eq!(check(&release, &claim), Ok(()));
        prop_assert_eq!(release.spend_in(&claim), Some(KeyReleaseSpend::Claim { key: secret }));
        let refund = refunded(&release);
        prop_assert_eq!(check(&release, &refund), Ok(()));
        prop_assert!(!refund.is_final_at(height.get()) && refund.is_final_at(height.get() + 1));
        for (tx, most) in [(claim, CLAIM_SIZE), (refund, terms.refund_size())] {
            let fee = sat(value).checked_sub(tx.output_sum().unwrap()).unwrap();
            prop_assert!(tx.size() <= most && fee == RATE.fee(most));
        }
    }

    #[test]
    fn any_change_of_a_spend_is_refused(refund: bool, at: prop::sample::Index, mask in 1u8..) {
        let release = funded();
        let tx = if refund { refunded(&release) } else { claimed(&release) };
        let mut bytes = tx.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        if let Ok(changed) = Transaction::from_bytes(&bytes) {
            prop_assert!(check(&release, &changed).is_err());
        }
    }
}
