//! Ads: what is refused, what is found, and that an ad on chain is the ad anywhere else.

use sensora_chain::Network;
use sensora_protocol::ad::{
    self, Ad, AdError, CLOCK_TOLERANCE_MS, Limits, MAX_AD_LEN, MAX_LIFETIME_MS, StreamAd, discovery_cell,
    discovery_key, discovery_keys, kinds_of,
};
use sensora_protocol::codec::{self, CodecError};
use sensora_protocol::place::Place;
use sensora_protocol::statement::{Signed, SignedBytes, Statement, StatementError, digest};
use sensora_protocol::stream::{Field, Kind, Schema, Unit};
use sensora_protocol::{Hash, Identity, StreamId};

use crate::world::{NETWORK, NOW_MS, World, identity};

/// Signs an ad whatever its length.
fn sign(ad: &Ad, seller: &Identity) -> SignedBytes {
    let body = codec::encode(ad).unwrap();
    let hash = digest(Ad::NAME, Ad::VERSION, NETWORK, &body);
    let signature = seller.key().sign(hash.as_bytes()).compact().to_vec();
    SignedBytes { body, key: *seller.public(), signature }
}

fn open(ad: &Ad, seller: &Identity) -> Result<Signed<Ad>, AdError> {
    ad::open(&codec::encode(&sign(ad, seller)).unwrap(), NETWORK, NOW_MS)
}

fn with(change: &dyn Fn(&mut Ad)) -> Result<Signed<Ad>, AdError> {
    let world = World::new(3);
    let mut ad = world.ad();
    change(&mut ad);
    open(&ad, &world.seller)
}

fn field(change: &dyn Fn(&mut Ad)) -> &'static str {
    match with(change) {
        Err(AdError::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_ad_opens_or_the_first_fault_is_named() {
    assert_eq!(with(&|_| ()).unwrap().value().streams.len(), 1);

    assert!(matches!(with(&|a| a.expires_ms = NOW_MS - 5_000), Err(AdError::Lifetime { .. })));
    let over = |a: &mut Ad| (a.issued_ms, a.expires_ms) = (NOW_MS - 90_000, NOW_MS - 60_000);
    assert!(matches!(with(&over), Err(AdError::Expired { ago_s: 60, .. })));
    let now = |a: &mut Ad| (a.issued_ms, a.expires_ms) = (NOW_MS - 90_000, NOW_MS);
    assert!(matches!(with(&now), Err(AdError::Expired { ago_s: 0, .. })));
    assert!(with(&|a| a.issued_ms = NOW_MS + CLOCK_TOLERANCE_MS).is_ok());
    let future = |a: &mut Ad| a.issued_ms = NOW_MS + CLOCK_TOLERANCE_MS + 1_000;
    assert!(matches!(with(&future), Err(AdError::Future { ahead_s: 121 })));
    assert!(with(&|a| a.expires_ms = a.issued_ms + MAX_LIFETIME_MS).is_ok());
    let eternal = |a: &mut Ad| a.expires_ms = a.issued_ms + MAX_LIFETIME_MS + 1;
    assert!(matches!(with(&eternal), Err(AdError::Lifetime { .. })));
    let absurd = |a: &mut Ad| (a.issued_ms, a.expires_ms) = (i64::MIN, i64::MAX);
    assert!(matches!(with(&absurd), Err(AdError::Lifetime { .. })));

    assert_eq!(field(&|a| a.addresses = vec!["/ip4/1.2.3.4/tcp/1".into(); 9]), "addresses");
    assert_eq!(field(&|a| a.addresses = vec!["1.2.3.4:5".into()]), "addresses");
    assert_eq!(field(&|a| a.addresses = vec![format!("/{}", "a".repeat(128))]), "addresses");
    assert_eq!(field(&|a| a.streams.clear()), "streams");
    assert_eq!(field(&|a| a.withdrawn = true), "streams");
    assert_eq!(field(&|a| a.streams.push(a.streams[0].clone())), "streams.name");
    assert_eq!(field(&|a| a.streams[0].kinds.clear()), "streams.kinds");
    assert_eq!(field(&|a| a.streams[0].kinds = vec!["a".into(); 9]), "streams.kinds");
    for kind in ["", "Temperature", "wind speed", "grün", &"k".repeat(33)] {
        assert_eq!(field(&|a| a.streams[0].kinds = vec![kind.into()]), "streams.kinds");
    }
    assert_eq!(field(&|a| a.streams[0].modes.clear()), "streams.modes");
    assert_eq!(field(&|a| a.streams[0].limits = Limits { max_readings: 0 }), "streams.limits.max_readings");
    assert_eq!(field(&|a| a.streams[0].licence = String::new()), "streams.licence");
    assert_eq!(field(&|a| a.streams[0].name = String::new()), "streams.name");
    assert_eq!(field(&|a| a.name = "x".repeat(65)), "name");

    let schema = |a: &mut Ad| a.streams[0].schema.fields.clear();
    assert!(matches!(with(&schema), Err(AdError::Schema { stream, .. }) if stream == "roof"));
    let price = |a: &mut Ad| a.streams[0].price = codec::decode(&[0], 9).unwrap();
    assert!(matches!(with(&price), Err(AdError::Price { .. })));
    let moved = |a: &mut Ad| a.streams[0].place.as_mut().unwrap().lat_e7 += 1;
    assert!(matches!(with(&moved), Err(AdError::Place { .. })));
    let nowhere = |a: &mut Ad| a.streams[0].place.as_mut().unwrap().geohash = "ail".into();
    assert!(matches!(with(&nowhere), Err(AdError::Place { .. })));
    assert!(matches!(with(&|a| a.streams[0].id = StreamId([1; 16])), Err(AdError::StreamId { .. })));
    assert!(matches!(with(&|a| a.streams[0].name = "cellar".into()), Err(AdError::StreamId { .. })));
    let unit = |a: &mut Ad| a.streams[0].schema.fields[0].unit = Some(Unit::new("K").unwrap());
    assert!(matches!(with(&unit), Err(AdError::StreamId { .. })));
}

#[test]
fn texts_that_would_lie_on_a_screen_are_refused() {
    let hostile = [
        '\n',
        '\u{7}',
        '\u{1b}',
        '\u{7f}',
        '\u{85}',
        '\u{ad}',
        '\u{61c}',
        '\u{200b}',
        '\u{200d}',
        '\u{200e}',
        '\u{200f}',
        '\u{2028}',
        '\u{202a}',
        '\u{202e}',
        '\u{2066}',
        '\u{2069}',
        '\u{3164}',
        '\u{feff}',
        '\u{fffb}',
        '\u{e0041}',
    ];
    for c in hostile {
        let text = format!("a{c}b");
        assert_eq!(field(&|a| a.name = text.clone()), "name", "{:04x}", u32::from(c));
        assert_eq!(field(&|a| a.streams[0].name = text.clone()), "streams.name");
        assert_eq!(field(&|a| a.streams[0].licence = text.clone()), "streams.licence");
        assert_eq!(field(&|a| a.addresses = vec![format!("/{text}")]), "addresses");
    }
    for fine in ["", "Wetterstation Zürich №4", "気温 — ☀", "قياس الحرارة"] {
        assert!(with(&|a| a.name = fine.into()).is_ok(), "{fine}");
    }
}

#[test]
fn signatures_count_for_this_seller_and_network() {
    let world = World::new(3);
    let good = sign(&world.ad(), &world.seller);
    let bytes = |signed: &SignedBytes| codec::encode(signed).unwrap();
    let opened = |signed: &SignedBytes| ad::open(&bytes(signed), NETWORK, NOW_MS);
    assert!(opened(&good).is_ok());
    let on_main = ad::open(&bytes(&good), Network::Main, NOW_MS);
    assert!(matches!(on_main, Err(AdError::Statement(StatementError::Signature { .. }))));
    let foreign = SignedBytes { key: *identity(9).public(), ..good.clone() };
    assert!(matches!(opened(&foreign), Err(AdError::Statement(StatementError::Signature { .. }))));
    // Signed by another, who then also claims the stream: the id says whose it is.
    assert!(matches!(open(&world.ad(), &identity(9)), Err(AdError::StreamId { .. })));
    let torn = SignedBytes { body: good.body[1..].to_vec(), ..good.clone() };
    assert!(matches!(opened(&torn), Err(AdError::Statement(StatementError::Body { .. }))));
    let cut = bytes(&good);
    assert!(matches!(ad::open(&cut[..cut.len() - 1], NETWORK, NOW_MS), Err(AdError::Encoding(_))));
    // The same ad in a second spelling would pass the gossip as another message.
    let mut padded = cut;
    padded[0] += 1;
    padded.extend(b"\x6azzzzzzzzzz\xf6");
    assert!(codec::check(&padded, 9999).is_ok());
    assert!(matches!(ad::open(&padded, NETWORK, NOW_MS), Err(AdError::Encoding(_))));
}

/// An ad with a body of exactly `len` bytes.
fn ad_of(len: usize, world: &World) -> Ad {
    let stream = |i: usize, name: String| {
        let schema = Schema::new(vec![Field::new(format!("f{i}"), Kind::Int)]).unwrap();
        let id = StreamId::derive(NETWORK, world.seller.public(), &name, &schema).unwrap();
        StreamAd { id, name, schema, place: None, ..world.stream.ad() }
    };
    let mut ad = world.ad();
    ad.streams.clear();
    while codec::encode(&ad).unwrap().len() + 400 < len {
        ad.streams.push(stream(ad.streams.len(), format!("stream {:02}", ad.streams.len())));
    }
    // What is left goes into addresses and the name: neither has an id that depends on it.
    ad.addresses.clear();
    ad.name.clear();
    while codec::encode(&ad).unwrap().len() + 110 < len {
        ad.addresses.push(format!("/{}", "a".repeat(99)));
    }
    for fill in 1..127 {
        let mut fuller = ad.clone();
        fuller.addresses.push(format!("/{}", "b".repeat(fill)));
        if codec::encode(&fuller).unwrap().len() == len {
            return fuller;
        }
    }
    panic!("no ad of {len} bytes");
}

#[test]
fn an_ad_of_4096_bytes_is_taken_and_one_byte_more_is_not() {
    let world = World::new(3);
    let fits = ad_of(MAX_AD_LEN, &world);
    let signed = open(&fits, &world.seller).unwrap();
    assert_eq!(signed.bytes().body.len(), MAX_AD_LEN);
    assert!(ad::to_bytes(&signed).unwrap().len() <= ad::MAX_SIGNED_AD_LEN);
    assert!(Signed::sign(fits, &world.seller, NETWORK).is_ok());

    let long = ad_of(MAX_AD_LEN + 1, &world);
    assert_eq!(open(&long, &world.seller), Err(AdError::TooLong { len: 4097, max: 4096 }));
    assert!(matches!(
        Signed::sign(long, &world.seller, NETWORK),
        Err(StatementError::Body { source: CodecError::TooLong { len: 4097, max: 4096 }, .. })
    ));
    let huge = ad::open(&vec![0; 1 << 20], NETWORK, NOW_MS);
    assert_eq!(huge, Err(AdError::TooLong { len: 1 << 20, max: ad::MAX_SIGNED_AD_LEN }));
}

#[test]
fn a_withdrawn_ad_is_valid_and_offers_nothing() {
    let withdrawn = with(&|a| {
        a.withdrawn = true;
        a.streams.clear();
    })
    .unwrap();
    let on_offer = |signed: &Signed<Ad>, now| signed.value().check_on_offer(signed.key(), now);
    assert!(matches!(on_offer(&withdrawn, NOW_MS), Err(AdError::Withdrawn { version, .. }) if version > 0));
    let signed = with(&|_| ()).unwrap();
    assert_eq!(on_offer(&signed, NOW_MS), Ok(()));
    let end = signed.value().expires_ms;
    assert!(matches!(on_offer(&signed, end), Err(AdError::Expired { .. })));
    assert!(signed.value().stream(&World::new(3).stream.id).is_some());
    assert!(signed.value().stream(&StreamId([0; 16])).is_none());
}

#[test]
fn an_ad_on_chain_is_the_same_ad() {
    let signed = with(&|_| ()).unwrap();
    let output = ad::to_output(&signed).unwrap();
    assert!(output.value.is_zero());
    let bytes = ad::bytes_in_output(&output).unwrap();
    assert_eq!(bytes, ad::to_bytes(&signed).unwrap());
    assert_eq!(ad::open(&bytes, NETWORK, NOW_MS).unwrap(), signed);

    let data = |items: &[&[u8]]| sensora_chain::contract::data_output(items);
    for other in [
        data(&[b"SENSORA_ADV", &[1], &bytes]),
        data(&[b"SENSORA_ADV", &[2]]),
        data(&[b"SENSORA_ADV", &[2], &bytes, b"more"]),
        data(&[b"SENSORA_AD", &[2], &bytes]),
        data(&[&[2], b"SENSORA_ADV", &bytes]),
        sensora_chain::contract::payment::pay_to_hash(&[1; 20], sensora_chain::Satoshis::ZERO),
    ] {
        assert_eq!(ad::bytes_in_output(&other), None);
    }
}

#[test]
fn an_ad_is_announced_under_its_kinds_anywhere_and_in_its_cells() {
    let ad = World::new(3).ad();
    let keys = discovery_keys(NETWORK, &ad);
    let kinds = ["temperature", "door"];
    let mut expected = Vec::new();
    for kind in kinds {
        expected.push(discovery_key(NETWORK, kind, None));
        expected.extend(["u3", "u33", "u33d", "u33db"].map(|cell| discovery_key(NETWORK, kind, Some(cell))));
    }
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let text = b"sensora/find/1\0regtest\0temperature\0u33\0";
    assert_eq!(discovery_key(NETWORK, "temperature", Some("u33")), Hash::of(text));
    assert_eq!(discovery_key(NETWORK, "door", None), Hash::of(b"sensora/find/1\0regtest\0door\0\0"));
    assert_ne!(discovery_key(Network::Main, "door", None), discovery_key(NETWORK, "door", None));

    // Coarser places have fewer cells, and a stream without a place only the world.
    let with_place = |place: Option<&str>| {
        let mut ad = ad.clone();
        ad.streams[0].place = place.map(|cell| Place::of_cell(cell).unwrap());
        discovery_keys(NETWORK, &ad).len()
    };
    let counts = [None, Some("u"), Some("u3"), Some("u33dbcdefgh")].map(with_place);
    assert_eq!(counts, [2, 2, 4, 10]);
    let cells = ["u", "u3", "u33d", "u33dbc"].map(discovery_cell);
    assert_eq!(cells, [None, Some("u3"), Some("u33d"), Some("u33db")]);
}

#[test]
fn kinds_follow_from_units_and_names() {
    let field = |name: &str, unit: &str| Field::new(name, Kind::Float).with_unit(Unit::new(unit).unwrap());
    let schema = Schema::new(vec![
        field("t_out", "Cel"),
        field("t_in", "Cel"),
        field("rh", "%RH"),
        Field::new("Rain.Total", Kind::Float),
    ])
    .unwrap();
    assert_eq!(kinds_of(&schema), ["temperature", "humidity", "rain-total"]);
    let many = Schema::new((0..20).map(|i| Field::new(format!("f{i}"), Kind::Int)).collect()).unwrap();
    assert_eq!(kinds_of(&many).len(), 8);
    assert!(kinds_of(&many).iter().all(|kind| ad::is_kind(kind)));
}
