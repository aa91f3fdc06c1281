//! Pages, prices and amounts that no honest seller sends: each is refused by name, nothing is kept of it, and nothing more is paid.

use sensora_protocol::codec::{self, CodecError};
use sensora_protocol::market::channel::offer::{ChannelOffer, ChannelOfferError};
use sensora_protocol::market::delivery::frame::{MAX_TO_BUYER_LEN, ToBuyer};
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ReceiveError};
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::delivery::{DeliveryError, MAX_RUNS, PROOF_UNIT, Page};
use sensora_protocol::market::live::{LiveOffer, LiveQuestion};
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::offer::{Offer, OfferError};
use sensora_protocol::market::price::{Price, PriceError, Tariff};
use sensora_protocol::stream::ChunkError;
use sensora_protocol::{Hash, Signed};

use super::pair::{Pair, READINGS, channel_id};
use super::range;
use crate::channel::market as channel;
use crate::world::{NETWORK, NOW_MS, Stream, World, sat};

/// The order is of the readings 5 to 45.
const END: u64 = 45;

fn delivery(error: &ReceiveError) -> &DeliveryError {
    match error {
        ReceiveError::Delivery(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_page_that_is_out_of_order_too_big_or_wrongly_proven_is_refused_and_not_paid() {
    let world = World::uneven(READINGS);
    let cellar = Stream::new(&world.seller, "cellar", READINGS);
    type Bad = Box<dyn Fn(u64) -> Page>;
    type Fits = fn(&DeliveryError) -> bool;
    let good = |at: u64| world.stream.page(at, at + 3, READINGS);
    let changed = |change: fn(&mut Page)| -> Bad {
        let world = World::uneven(READINGS);
        Box::new(move |at| {
            let mut page = world.stream.page(at, at + 3, READINGS);
            change(&mut page);
            page
        })
    };
    let of = |from: i64, to: Option<u64>, size: u64| -> Bad {
        let world = World::uneven(READINGS);
        Box::new(move |at| {
            let first = at.checked_add_signed(from).unwrap();
            world.stream.page(first, to.unwrap_or(first + 3), size)
        })
    };
    let begins: Fits = |error| matches!(error, DeliveryError::Begins { .. });
    let proof: Fits = |error| matches!(error, DeliveryError::NotProven { source, .. } if matches!(**source, ChunkError::Proof(_)));
    let not_proven: Fits = |error| matches!(error, DeliveryError::NotProven { .. });
    let too_many: Fits = |error| matches!(error, DeliveryError::TooMany { end: END, .. });
    let runs: Fits = |error| matches!(error, DeliveryError::Runs(_));
    let cases: Vec<(&str, Bad, Fits)> = vec![
        ("readings are passed over", of(3, None, READINGS), begins),
        ("readings of before come again", of(-3, None, READINGS), begins),
        ("more than was ordered", of(0, Some(END + 1), READINGS), too_many),
        ("all there is", of(0, Some(READINGS), READINGS), too_many),
        ("proven under an older checkpoint", of(0, None, 50), proof),
        ("of another stream", Box::new(move |at| cellar.page(at, at + 3, READINGS)), proof),
        ("no readings at all", changed(|page| page.runs.clear()), runs),
        (
            "more than a proof unit",
            changed(|page| {
                page.runs.push(page.runs[0].clone());
                page.runs[1].columns = vec![0; PROOF_UNIT];
            }),
            |error| matches!(error, DeliveryError::AboveUnit { bytes, runs: 2 } if *bytes > PROOF_UNIT),
        ),
        ("too many runs", changed(|page| page.runs = vec![page.runs[0].clone(); MAX_RUNS + 1]), runs),
        ("the same run twice", changed(|page| page.runs.push(page.runs[0].clone())), not_proven),
        ("numbered anew", changed(|page| page.runs[0].first = u64::MAX), |error| {
            matches!(error, DeliveryError::Begins { found: u64::MAX, .. })
        }),
        ("without its proof", changed(|page| page.proof.hashes.clear()), proof),
        ("with a hash too many", changed(|page| page.proof.hashes.push(Hash([0; 32]))), proof),
        ("with a hash that is another", changed(|page| page.proof.hashes[0].0[0] ^= 1), proof),
        ("with a value that is another", changed(|page| page.runs[0].columns[4] ^= 1), not_proven),
        ("cut off", changed(|page| assert!(page.runs[0].columns.pop().is_some())), not_proven),
    ];
    for (what, bad, fits) in cases {
        let mut pair = Pair::new(range());
        pair.start();
        while pair.kept() < 9 || !matches!(pair.to_buyer.front(), Some(ToBuyer::Page(_))) {
            assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
        }
        let before = (pair.signed(), pair.kept(), pair.vouchers);
        let at = 5 + pair.kept();
        assert_eq!(pair.to_buyer.front(), Some(&ToBuyer::Page(good(at))), "the page in whose place it comes");
        *pair.to_buyer.front_mut().unwrap() = ToBuyer::Page(bad(at));
        pair.deliver_to_buyer();
        let error = pair.errors.last().unwrap_or_else(|| panic!("{what}: it was taken"));
        assert!(fits(delivery(error)), "{what}: {error:?}");
        assert_eq!((pair.signed(), pair.kept(), pair.vouchers), before, "{what}");
        assert!(!pair.is_connected(), "{what}: the stream ends");
        // The truth still ends the order, charged once.
        pair.settle();
        pair.check_ended(40);
    }
}

#[test]
fn a_frame_of_more_than_a_mebibyte_is_not_read() {
    let world = World::new(READINGS);
    let mut page = world.stream.page(5, 8, READINGS);
    page.runs[0].columns = vec![0; MAX_TO_BUYER_LEN];
    assert!(matches!(ToBuyer::Page(page.clone()).to_bytes(), Err(CodecError::TooLong { .. })));
    let bytes = codec::encode(&ToBuyer::Page(page)).unwrap();
    let error = ToBuyer::from_bytes(&bytes).unwrap_err();
    assert!(matches!(error, CodecError::TooLong { .. }), "{error:?}");
}

/// A price as a stranger may send it: a number.
fn price(msat: u64) -> Price {
    serde_json::from_value(msat.into()).unwrap()
}

#[test]
fn a_price_of_nothing_or_of_more_than_all_money_is_none() {
    let world = World::new(READINGS);
    for msat in [0, Price::MAX.msat() + 1, 1 << 63, u64::MAX] {
        let refused = |error: &OfferError| matches!(error, OfferError::Price(PriceError::Range(found)) if *found == msat);
        // A range.
        let offer = Offer { price: price(msat), total: sat(60), ..world.offer(5, 40) };
        let signed = world.sign(offer);
        let agreed = ChannelPurchase::agree(
            Offered::Range(signed.bytes().clone()),
            world.seller.public(),
            channel_id(),
            sat(60),
            [5; 16],
            &world.buyer,
            NETWORK,
            NOW_MS,
        );
        assert!(agreed.as_ref().is_err_and(refused), "{msat}: {:?}", agreed.err());
        // A live stream, by the reading and by the second.
        for tariff in
            [Tariff::Reading(price(msat)), Tariff::Second { price: price(msat), longest_gap_ms: 1_000 }]
        {
            let offer = LiveOffer {
                stream: world.stream.id,
                name: world.stream.name.clone(),
                schema: world.stream.schema.clone(),
                buyer: *world.buyer.public(),
                first: 5,
                tariff,
                licence: "CC-BY-4.0".into(),
                nonce: [4; 16],
                issued_ms: NOW_MS,
                expires_ms: NOW_MS + 600_000,
            };
            let signed = Signed::sign(offer, &world.seller, NETWORK).unwrap();
            let question = LiveQuestion {
                stream: world.stream.id,
                from: LiveFrom::Seq(5),
                known_size: 0,
                max_reading: None,
                max_second: Some(Price::MAX),
            };
            let accepted = LiveOffer::accept(&signed, NETWORK, world.buyer.public(), &question, None, NOW_MS);
            assert!(accepted.as_ref().is_err_and(refused), "{msat}: {accepted:?}");
        }
    }
}

#[test]
fn an_offer_whose_sum_is_not_its_price_times_its_readings_is_refused() {
    let world = World::new(READINGS);
    for (total, count) in [(59, 40), (61, 40), (0, 40), (60, u64::MAX), (60, 1 << 63)] {
        let offer = Offer { total: sat(total), count, ..world.offer(5, 40) };
        let agreed = ChannelPurchase::agree(
            Offered::Range(world.sign(offer).into_bytes()),
            world.seller.public(),
            channel_id(),
            sat(60),
            [5; 16],
            &world.buyer,
            NETWORK,
            NOW_MS,
        );
        assert!(agreed.is_err(), "{total} for {count}");
    }
}

/// Channels that hold nothing, less than their close costs, or so little that its outputs are dust.
#[test]
fn a_channel_of_nothing_dust_or_more_than_was_asked_is_not_taken() {
    let world = World::new(1);
    let good = channel::offer(&world, 10);
    let accept = |value, close_fee, wanted| {
        let signed =
            Signed::sign(ChannelOffer { value, close_fee, ..good.clone() }, &world.seller, NETWORK).unwrap();
        ChannelOffer::accept(&signed, NETWORK, world.buyer.key(), wanted, channel::limits(), 10, NOW_MS)
    };
    let (fee, value) = (sat(channel::FEE), sat(channel::VALUE));
    assert_eq!(accept(value, fee, value), Ok(()));
    for small in [0, 1, channel::FEE - 1, channel::FEE] {
        let error = accept(sat(small), fee, sat(small)).unwrap_err();
        assert!(matches!(error, ChannelOfferError::Channel(_)), "{small}: {error:?}");
    }
    assert!(matches!(accept(sat(1 << 63), fee, value), Err(ChannelOfferError::Value { .. })));
    assert!(matches!(accept(value, sat(1 << 63), value), Err(ChannelOfferError::CloseFee { .. })));
}
