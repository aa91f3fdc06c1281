//! Offers of batches: what a buyer takes, and what it does not.

use sensora_chain::Satoshis;
use sensora_chain::contract::RefundHeight;
use sensora_protocol::market::key_release::offer::{
    BatchLimits, BatchTerms, CLAIM_MARGIN, KeyReleaseOffer, KeyReleaseOfferError as E,
};
use sensora_protocol::market::offer::{OfferError, Range};
use sensora_protocol::market::price::Price;
use sensora_protocol::{Signed, StreamId};

use super::goods::{END, FIRST, LOCK};
use super::honest;
use crate::world::{NETWORK, identity, sat};

const LIMITS: BatchLimits = BatchLimits {
    max_price: Satoshis::from_sat(2_000),
    exposure: Satoshis::from_sat(2_000),
    max_length: 100_000,
    max_lock: LOCK,
};

fn accept_at(signed: &Signed<KeyReleaseOffer>, limits: BatchLimits, blocks: u32) -> Result<BatchTerms, E> {
    let world = &honest().world;
    let tip = honest().terms.refund_height.get() - LOCK + blocks;
    let asked = Range::Seq { first: FIRST, count: END - FIRST };
    let (buyer, stream) = (world.buyer.public(), world.stream.id);
    KeyReleaseOffer::accept(signed, NETWORK, buyer, stream, asked, None, limits, tip, world.now_ms)
}

fn refused(change: impl FnOnce(&mut KeyReleaseOffer)) -> E {
    accept_at(&honest().sign(change), LIMITS, 0).unwrap_err()
}

#[test]
fn an_offer_is_taken_or_the_first_difference_is_named() {
    assert_eq!(accept_at(&honest().offer, LIMITS, 0).as_ref(), Ok(&honest().terms));
    assert!(matches!(refused(|o| o.stream = StreamId([1; 16])), E::Offer(OfferError::Stream { .. })));
    assert!(matches!(refused(|o| o.name = "cellar".into()), E::Offer(OfferError::StreamId(_))));
    assert!(matches!(refused(|o| o.buyer = *identity(9).public()), E::Offer(OfferError::Buyer(_))));
    assert!(matches!(refused(|o| o.first += 1), E::Offer(OfferError::Range { .. })));
    assert!(matches!(refused(|o| o.count = 5000), E::Offer(OfferError::Range { .. })));
    assert!(matches!(refused(|o| o.total = sat(1)), E::Offer(OfferError::Total { .. })));
    assert!(matches!(refused(|o| o.issued_ms += 1 << 40), E::Offer(OfferError::Lifetime { .. })));
    assert!(matches!(refused(|o| o.licence = "a\nb".into()), E::Offer(OfferError::Text { .. })));
    assert!(matches!(refused(|o| o.checkpoint.signature[0] ^= 1), E::Offer(OfferError::Statement(_))));
    for parts in [0, 1, 1101, u32::MAX] {
        assert!(matches!(refused(|o| o.parts = parts), E::Parts { .. }), "{parts}");
    }
    for length in [0, 2, 3 * 16 * 1024 + 1, u64::MAX] {
        assert!(matches!(refused(|o| o.length = length), E::Length { .. }), "{length}");
    }
}

#[test]
fn a_batch_that_could_not_pay_for_its_refund_is_refused() {
    let cheap = |offer: &mut KeyReleaseOffer| {
        offer.price = Price::from_msat(900).unwrap();
        offer.total = offer.price.total(END - FIRST).unwrap();
    };
    assert_eq!(refused(cheap), E::TooCheap(sat(990)));
}

#[test]
fn the_buyers_limits_hold() {
    let verdict = |limits| accept_at(&honest().offer, limits, 0).unwrap_err();
    let total = sat(1650);
    let max_price = BatchLimits { max_price: sat(1649), ..LIMITS };
    assert_eq!(verdict(max_price), E::Offer(OfferError::MaxPrice { total, max: sat(1649) }));
    let exposure = BatchLimits { exposure: sat(1649), ..LIMITS };
    assert_eq!(verdict(exposure), E::Exposure { total, exposure: sat(1649) });
    let length = honest().terms.length;
    let max_length = BatchLimits { max_length: length - 1, ..LIMITS };
    assert_eq!(verdict(max_length), E::TooLong { length, max: length - 1 });
    assert!(matches!(verdict(BatchLimits { max_lock: LOCK - 1, ..LIMITS }), E::RefundHeight { .. }));
    let edge = LOCK - CLAIM_MARGIN;
    assert!(accept_at(&honest().offer, LIMITS, edge - 1).is_ok());
    assert!(matches!(accept_at(&honest().offer, LIMITS, edge), Err(E::RefundHeight { .. })));
    let far = honest().sign(|offer| offer.refund_height = RefundHeight::MAX);
    assert!(matches!(accept_at(&far, LIMITS, 0), Err(E::RefundHeight { .. })));
}
