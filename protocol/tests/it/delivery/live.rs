//! Live streams: what is asked and offered, and what their pages show with few bytes.

use sensora_protocol::ad::StreamAd;
use sensora_protocol::market::delivery::frame::ToBuyer;
use sensora_protocol::market::delivery::receive::ReceiveError;
use sensora_protocol::market::delivery::trail::LivePages;
use sensora_protocol::market::delivery::{DeliveryError, Page};
use sensora_protocol::market::live::{LiveOffer, LiveQuestion};
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::price::{Price, PriceError, Tariff};
use sensora_protocol::{Signed, codec};

use super::pair::{Goods, Pair, READINGS, Setup};
use crate::world::{FIRST_TIME, NETWORK, Stream, World, identity};

fn following(size: u64) -> Pair {
    let tariff = Tariff::Reading(Price::from_msat(100).unwrap());
    let mut pair =
        Pair::new(Setup { goods: Goods::Live { first: 3, tariff, budget: 500 }, size, ..Setup::default() });
    pair.settle();
    assert_eq!(pair.kept(), size - 3);
    pair
}

/// The frame of a page of this log under its checkpoint of `size`, with the whole proof.
fn frame(stream: &Stream, first: u64, end: u64, size: u64) -> ToBuyer {
    LivePages::new().frame(&stream.checkpoint(&identity(1), size), stream.page(first, end, size))
}

fn receive(pair: &mut Pair, frame: ToBuyer) -> Option<ReceiveError> {
    pair.errors.clear();
    pair.to_buyer.push_front(frame);
    pair.deliver_to_buyer();
    pair.errors.pop()
}

#[test]
fn another_root_of_the_same_size_convicts_the_seller() {
    let mut pair = following(10);
    let other = Stream::rewritten(&identity(1), "roof", READINGS, 0);
    let error = receive(&mut pair, frame(&other, 9, 10, 10)).unwrap();
    let ReceiveError::Forked { fork } = &error else { panic!("{error}") };
    assert!(fork.convicts(NETWORK, identity(1).public()));
    assert!(!fork.convicts(NETWORK, identity(2).public()));
    assert!(error.to_string().contains("evidence"));
    // Nothing of it counts: the honest log goes on.
    pair.settle();
    pair.grow(20);
    pair.settle();
    assert_eq!(pair.kept(), 17);
}

#[test]
fn a_log_that_does_not_continue_what_is_here_is_an_offence() {
    for rewritten_at in [0, 5, 9] {
        let mut pair = following(10);
        let other = Stream::rewritten(&identity(1), "roof", READINGS, rewritten_at);
        let error = receive(&mut pair, frame(&other, 10, 14, 14)).unwrap();
        assert!(matches!(error, ReceiveError::Forked { .. }), "{rewritten_at}: {error}");
        assert_eq!(pair.kept(), 7);
    }
    // Without the hashes left of it the page is just not proven.
    let mut pair = following(10);
    let other = Stream::rewritten(&identity(1), "roof", READINGS, 0);
    let checkpoint = other.checkpoint(&identity(1), 14);
    let mut page = other.page(10, 14, 14);
    page.proof.hashes.clear();
    let frame = ToBuyer::Live { checkpoint: Some(checkpoint.into_bytes()), page };
    let error = receive(&mut pair, frame).unwrap();
    assert!(matches!(error, ReceiveError::Delivery(DeliveryError::NotProven { .. })), "{error}");
}

#[test]
fn a_checkpoint_whose_readings_were_not_here_yet_is_held_to() {
    let mut pair = following(10);
    let honest = Stream::uneven(&identity(1), "roof", READINGS);
    assert_eq!(receive(&mut pair, frame(&honest, 10, 12, 20)), None, "two of the ten that it promises");
    // The same up to here, and others from there on.
    let other = Stream::rewritten(&identity(1), "roof", READINGS, 15);
    let error = receive(&mut pair, frame(&other, 12, 14, 20)).unwrap();
    assert!(matches!(&error, ReceiveError::Forked { fork } if fork.convicts(NETWORK, identity(1).public())));
    pair.start();
    while !pair.to_seller.is_empty() {
        pair.deliver_to_seller();
    }
    pair.to_buyer.retain(|frame| matches!(frame, ToBuyer::Begun { .. }));
    pair.deliver_to_buyer();
    let error = receive(&mut pair, frame(&other, 12, 22, 30)).unwrap();
    assert!(
        matches!(&error, ReceiveError::Forked { fork } if !fork.convicts(NETWORK, identity(1).public())),
        "{error}"
    );
    assert_eq!(pair.kept(), 9);
    // Also when the page ends before what was promised, and a later one reaches it.
    pair.grow(30);
    pair.settle();
    assert_eq!(pair.kept(), 27);
}

#[test]
fn an_older_checkpoint_and_one_that_was_not_said_are_refused() {
    let mut pair = following(10);
    let honest = Stream::uneven(&identity(1), "roof", READINGS);
    let error = receive(&mut pair, frame(&honest, 8, 9, 9)).unwrap();
    assert_eq!(error, ReceiveError::OlderCheckpoint { size: 9, last: 10 });
    pair.start();
    while pair.deliver_to_seller() {}
    pair.to_buyer.truncate(1);
    pair.deliver_to_buyer();
    let unsaid = ToBuyer::Live { checkpoint: None, page: honest.page(10, 11, 11) };
    let error = receive(&mut pair, unsaid).unwrap();
    assert!(matches!(error, ReceiveError::Unexpected { frame: "live", .. }), "{error}");
}

/// A frame is a checkpoint and a few bytes beside its readings, however long the log is, and a page under the same checkpoint not even that.
#[test]
fn a_live_frame_adds_a_checkpoint_to_its_readings_and_nothing_else() {
    let world = World::uneven(3_000);
    let len = |value: &Page| codec::encode(&value.runs).unwrap().len();
    let mut pages = LivePages::new();
    let (mut readings, mut bytes) = (0, 0);
    for (first, end) in [(1_500, 1_601), (1_601, 1_851), (1_851, 2_047), (2_047, 2_303), (2_303, 2_999)] {
        let page = world.stream.page(first, end, end);
        let data = len(&page);
        let frame = pages.frame(&world.stream.checkpoint(&world.seller, end), page).to_bytes().unwrap();
        if first > 1_500 {
            (readings, bytes) = (readings + end - first, bytes + frame.len() as u64);
            assert!(frame.len() - data < 300, "{} beside {data}", frame.len() - data);
        }
    }
    println!("{bytes} bytes for {readings} readings: {:.1} each", bytes as f64 / readings as f64);
    let checkpoint = world.stream.checkpoint(&world.seller, 3_000);
    let mut pages = LivePages::new();
    let whole = pages.frame(&checkpoint, world.stream.page(0, 1_024, 3_000)).to_bytes().unwrap();
    let again = world.stream.page(1_024, 2_048, 3_000);
    let data = len(&again);
    let again = pages.frame(&checkpoint, again).to_bytes().unwrap();
    assert!(again.len() - data < 200 && again.len() < whole.len(), "{}", again.len() - data);
}

fn offer(world: &World, first: u64, tariff: Tariff) -> Signed<LiveOffer> {
    let offer = LiveOffer {
        stream: world.stream.id,
        name: world.stream.name.clone(),
        schema: world.stream.schema.clone(),
        buyer: *world.buyer.public(),
        first,
        tariff,
        licence: "CC-BY-4.0".into(),
        nonce: [4; 16],
        issued_ms: world.now_ms,
        expires_ms: world.now_ms + 600_000,
    };
    Signed::sign(offer, &world.seller, NETWORK).unwrap()
}

fn question(world: &World, from: LiveFrom) -> LiveQuestion {
    LiveQuestion { stream: world.stream.id, from, known_size: 0, max_reading: None, max_second: None }
}

fn accept(
    world: &World,
    first: u64,
    tariff: Tariff,
    asked: LiveQuestion,
    ad: Option<&StreamAd>,
) -> Result<(), OfferError> {
    let signed = offer(world, first, tariff);
    LiveOffer::accept(&signed, NETWORK, world.buyer.public(), &asked, ad, world.now_ms)
}

#[test]
fn a_live_offer_charges_no_reading_for_more_than_a_few_times_the_cadence() {
    let world = World::new(40);
    let ad = world.stream.ad();
    let every = |cadence_ms| StreamAd { cadence_ms, ..ad.clone() };
    let cases = [
        (every(Some(1_000)), 3_000, 3_000),
        (every(Some(1_000)), 3_001, 3_000),
        (every(Some(10)), 1_000, 1_000),
        (every(Some(10)), 1_001, 1_000),
        (every(Some(600_000)), 1_800_000, 1_800_000),
        (every(Some(600_000)), 3_600_000, 1_800_000),
        (every(Some(1_300_000)), 3_600_000, 3_600_000),
        (every(None), 60_000, 60_000),
        (every(None), 60_001, 60_000),
    ];
    for (ad, offered_ms, most_ms) in cases {
        let tariff = Tariff::Second { price: msat(1), longest_gap_ms: offered_ms };
        let asked = LiveQuestion { max_second: Some(msat(1)), ..question(&world, LiveFrom::Seq(40)) };
        let cadence_ms = ad.cadence_ms;
        let expected = match offered_ms <= most_ms {
            true => Ok(()),
            false => Err(OfferError::Gap { offered_ms, most_ms, cadence_ms }),
        };
        assert_eq!(accept(&world, 40, tariff, asked, Some(&ad)), expected);
    }
    let unknown = LiveQuestion { max_second: Some(msat(1)), ..question(&world, LiveFrom::Seq(40)) };
    let long = Tariff::Second { price: msat(1), longest_gap_ms: 3_600_000 };
    assert!(matches!(accept(&world, 40, long, unknown, None), Err(OfferError::Gap { most_ms: 60_000, .. })));
}

fn msat(price: u64) -> Price {
    Price::from_msat(price).unwrap()
}

#[test]
fn a_live_offer_begins_where_it_was_asked_to() {
    let world = World::new(40);
    let ad = world.stream.ad();
    let at = |seq: i64| LiveFrom::Time(FIRST_TIME + seq * 1_000_000_000);
    let cases = [
        (LiveFrom::Seq(7), 7, true),
        (LiveFrom::Seq(7), 8, false),
        (LiveFrom::Seq(7), 6, false),
        (LiveFrom::Latest, 40, true),
        (LiveFrom::Latest, 44, true),
        (LiveFrom::Latest, 39, false),
        (at(-5), 0, true),
        (at(0), 0, true),
        (at(0), 1, false),
        (at(10), 10, true),
        (at(39), 39, true),
        (at(39), 40, false),
        (at(40), 40, true),
        (at(40), 57, true),
    ];
    for (from, first, fits) in cases {
        let accepted = accept(&world, first, Tariff::Reading(msat(1_500)), question(&world, from), Some(&ad));
        let expected =
            if fits { Ok(()) } else { Err(OfferError::LiveFirst { asked: from, first, size: 40 }) };
        assert_eq!(accepted, expected, "{from:?} {first}");
    }
    let known = LiveQuestion { known_size: 44, ..question(&world, LiveFrom::Latest) };
    assert!(accept(&world, 43, Tariff::Reading(msat(1_500)), known, Some(&ad)).is_err());
    assert_eq!(accept(&world, 44, Tariff::Reading(msat(1_500)), known, None), Ok(()));
}

#[test]
fn a_live_offer_costs_no_more_than_the_ad_or_the_limit() {
    let world = World::new(40);
    // 1.5 sat a reading, one each second.
    let ad = world.stream.ad();
    let slow = StreamAd { cadence_ms: Some(10_000), ..ad.clone() };
    let silent = StreamAd { cadence_ms: None, ..ad.clone() };
    let second = |price| Tariff::Second { price: msat(price), longest_gap_ms: 3_000 };
    let limit = |price| Some(msat(price));
    type Case<'a> = (Tariff, Option<Price>, Option<&'a StreamAd>, bool);
    let cases: [Case<'_>; 14] = [
        (Tariff::Reading(msat(1_500)), None, Some(&ad), true),
        (Tariff::Reading(msat(1_501)), None, Some(&ad), false),
        (Tariff::Reading(msat(1_500)), limit(1_499), Some(&ad), false),
        (Tariff::Reading(msat(1_500)), limit(1_500), None, true),
        (Tariff::Reading(msat(1_500)), limit(1_499), None, false),
        (second(1_500), None, Some(&ad), true),
        (second(1_501), None, Some(&ad), false),
        (second(150), None, Some(&slow), true),
        (second(151), None, Some(&slow), false),
        (second(151), limit(200), Some(&slow), false),
        (second(1), None, Some(&silent), false),
        (second(200), limit(200), Some(&silent), true),
        (second(1), None, None, false),
        (second(201), limit(200), None, false),
    ];
    for (tariff, limit, ad, fits) in cases {
        let asked =
            LiveQuestion { max_reading: limit, max_second: limit, ..question(&world, LiveFrom::Seq(40)) };
        let accepted = accept(&world, 40, tariff, asked, ad);
        assert_eq!(accepted.is_ok(), fits, "{tariff:?} {limit:?}: {accepted:?}");
    }
    let endless = Tariff::Second { price: msat(1), longest_gap_ms: u32::MAX };
    let accepted = accept(&world, 40, endless, question(&world, LiveFrom::Seq(40)), Some(&ad));
    assert_eq!(accepted, Err(OfferError::Price(PriceError::Gap(u32::MAX))));
}
