//! How a batch is cut, sealed, and checked before it is paid.

use proptest::prelude::*;
use sensora_protocol::StreamId;
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::key_release::key::BatchKey;
use sensora_protocol::market::key_release::offer::{KeyReleaseOffer, KeyReleaseOfferError};
use sensora_protocol::market::key_release::parts::{
    Arrivals, Batch, MAX_PART_COUNT, MAX_PART_LEN, PartError, ProvenPart, SealError, Sealer,
};
use sensora_protocol::market::offer::Offer;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::log::{MemoryLog, range_proof};
use sensora_protocol::stream::{Field, Kind, Reading, Run, Schema, StreamSecret, Value, chunk};

use super::goods::{END, FIRST, page, prove};
use super::honest;
use crate::world::NETWORK;

#[test]
fn the_same_readings_are_sealed_the_same_again() {
    let batch = honest().seal_again();
    let terms = &honest().terms;
    assert_eq!((batch.root(), batch.parts(), batch.length()), (terms.root, terms.parts, terms.length));
    for proven in &honest().parts {
        assert_eq!(&batch.prove::<()>(proven.part.clone()).unwrap(), proven);
        let mut other = proven.part.clone();
        other.bytes[0] ^= 1;
        assert!(matches!(batch.prove::<()>(other), Err(SealError::Changed { .. })));
    }
}

#[test]
fn nothing_is_offered_of_a_damaged_store() {
    let goods = honest();
    let mut sealer = Sealer::new(&goods.key, &goods.terms.schema, &goods.terms.checkpoint, FIRST..END);
    let wrong = sealer.seal(|range| page(&goods.world.stream, range.start + 1..range.end + 1));
    assert!(matches!(wrong, Err(SealError::Damaged { first: FIRST, .. })));
    let unreadable: Result<_, SealError<&str>> = sealer.seal(|_| Err("disk"));
    assert_eq!(unreadable, Err(SealError::Readings("disk")));
}

/// What was sealed under one checkpoint is not offered under another.
#[test]
fn only_what_was_sealed_is_offered() {
    let goods = honest();
    let (batch, world) = (goods.seal_again(), &goods.world);
    let height = goods.terms.refund_height;
    let offer = |change: &dyn Fn(&mut Offer)| {
        let mut plain = world.offer(FIRST, END - FIRST);
        change(&mut plain);
        KeyReleaseOffer::of(plain, &batch, height, world.seller.public(), NETWORK)
    };
    assert_eq!(offer(&|_| ()).as_ref(), Ok(goods.offer.value()));
    let differs = |field| Err(KeyReleaseOfferError::NotSealed { field });
    let shorter = offer(&|plain| {
        plain.count -= 1;
        plain.total = plain.price.total(plain.count).unwrap();
    });
    assert_eq!(shorter, differs("range"));
    let older = world.stream.checkpoint(&world.seller, 2999).into_bytes();
    assert_eq!(offer(&|plain| plain.checkpoint = older.clone()), differs("checkpoint"));
}

#[test]
fn parts_are_taken_in_order_whole_and_as_they_were_offered() {
    let goods = honest();
    let (terms, parts) = (&goods.terms, &goods.parts);
    let mut arrivals = Arrivals::default();
    for (at, part) in parts.iter().enumerate() {
        let refused = |change: &dyn Fn(&mut ProvenPart)| {
            let (mut here, mut changed) = (arrivals, part.clone());
            change(&mut changed);
            let error = here.take(&changed, terms).unwrap_err();
            assert_eq!(here, arrivals, "nothing has changed");
            error
        };
        assert!(matches!(refused(&|p| p.part.index += 1), PartError::Index { .. }));
        assert!(matches!(refused(&|p| p.part.first += 1), PartError::Begins { .. }));
        assert!(matches!(
            refused(&|p| p.part.count += 1),
            PartError::Ends { .. } | PartError::NotOffered { .. }
        ));
        assert!(matches!(refused(&|p| p.part.count = 0), PartError::Ends { .. }));
        assert!(matches!(refused(&|p| p.part.count = u64::MAX), PartError::Ends { .. }));
        assert!(matches!(refused(&|p| p.part.bytes[0] ^= 1), PartError::NotOffered { .. }));
        assert!(matches!(refused(&|p| p.path.hashes.clear()), PartError::NotOffered { .. }));
        let long = refused(&|p| p.part.bytes.resize(MAX_PART_LEN + 1, 0));
        assert!(matches!(long, PartError::Len { .. } | PartError::Length { .. }), "{long:?}");
        let empty = refused(&|p| p.part.bytes.clear());
        assert!(matches!(empty, PartError::Len { .. } | PartError::Length { .. }), "{empty:?}");
        arrivals.take(part, terms).unwrap();
        assert_eq!(arrivals.is_complete(terms), at == 2);
        assert!(matches!(arrivals.clone().take(part, terms), Err(PartError::Index { .. })), "again");
    }
    assert_eq!((arrivals.seq, arrivals.length), (END, terms.length));
}

/// A seller may sign any tree. What the buyer sees in the clear must be the ordered range all the same.
#[test]
fn a_signed_tree_of_other_readings_is_not_paid() {
    let goods = honest();
    let sealed: Vec<_> = goods.parts.iter().map(|proven| proven.part.clone()).collect();
    let take_all = |change: &dyn Fn(&mut Vec<sensora_protocol::market::key_release::parts::Part>)| {
        let mut parts = sealed.clone();
        change(&mut parts);
        let (proven, root, length) = prove(&parts);
        let mut terms = goods.terms.clone();
        (terms.root, terms.parts, terms.length) = (root, parts.len() as u32, length);
        let mut arrivals = Arrivals::default();
        proven.iter().try_for_each(|part| arrivals.take(part, &terms))
    };
    assert_eq!(take_all(&|_| ()), Ok(()));
    assert!(matches!(take_all(&|parts| parts[1] = parts[0].clone()), Err(PartError::Index { .. })));
    assert!(matches!(take_all(&|parts| parts[1].first -= 1), Err(PartError::Begins { .. })));
    assert!(matches!(take_all(&|parts| parts[0].count -= 1), Err(PartError::Begins { .. })));
    assert!(matches!(take_all(&|parts| parts[2].count -= 1), Err(PartError::Ends { .. })));
    assert!(matches!(take_all(&|parts| drop(parts.pop())), Err(PartError::Ends { .. })));
    let one_more = take_all(&|parts| {
        let last = parts[2].clone();
        parts.push(sensora_protocol::market::key_release::parts::Part { index: 3, first: END, ..last });
    });
    assert!(matches!(one_more, Err(PartError::Ends { .. })));
}

/// Readings of the longest rows do not fit a chunk to a part.
#[test]
fn long_readings_are_cut_into_parts_that_fit() {
    let schema = Schema::new((0..2).map(|n| Field::new(format!("t{n}"), Kind::Text)).collect()).unwrap();
    let secret = StreamSecret::from_bytes([1; 32]);
    let text = |seq: u64, n: u64| {
        let word = sensora_protocol::Hash::of(&[seq.to_be_bytes(), n.to_be_bytes()].concat()).to_string();
        Value::Text(word.repeat(3))
    };
    let readings: Vec<Reading> = (0..1500)
        .map(|seq| Reading { seq, time: seq as i64, values: vec![text(seq, 0), text(seq, 1)] })
        .collect();
    let log = MemoryLog::from_leaves(chunk::salted_leaves(&readings, &secret));
    let checkpoint = Checkpoint { stream: StreamId([0; 16]), size: 1500, root: log.root(), issued_ms: 0 };
    let key = BatchKey::from_bytes([2; 32]);
    let mut sealer = Sealer::new(&key, &schema, &checkpoint, 100..1400);
    let make = |range: std::ops::Range<u64>| {
        let run = Run::new(&schema, &readings[range.start as usize..range.end as usize], &secret).unwrap();
        let proof = range_proof(&log, range.start, range.end - range.start, 1500).unwrap();
        Ok::<_, ()>(Page { runs: vec![run], proof })
    };
    let mut next = 100;
    while let Some(part) = sealer.seal(make).unwrap() {
        assert_eq!(part.first, next);
        assert!(part.bytes.len() <= MAX_PART_LEN && part.count > 4, "{} in {}", part.count, part.bytes.len());
        assert!(part.first / 1024 == (part.end() - 1) / 1024, "of one chunk");
        let opened = part.open(&key, &schema, &checkpoint).unwrap();
        assert_eq!(opened.readings, readings[part.first as usize..part.end() as usize]);
        next = part.end();
    }
    assert_eq!(next, 1400);
    let batch: Batch = sealer.finish();
    assert!(batch.parts() > 20, "{}", batch.parts());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever range is ordered, its parts are that range, arrive as offered, and open to what was sold.
    #[test]
    fn any_range_arrives_and_opens(first in 0..2990_u64, count in 1..2500_u64, seed: [u8; 32]) {
        let goods = honest();
        let end = (first + count).min(3000);
        let key = BatchKey::from_bytes(seed);
        let mut sealer = Sealer::new(&key, &goods.terms.schema, &goods.terms.checkpoint, first..end);
        let mut sealed = Vec::new();
        while let Some(part) = sealer.seal(|range| page(&goods.world.stream, range)).unwrap() {
            prop_assert!(part.count <= MAX_PART_COUNT);
            sealed.push(part);
        }
        let batch = sealer.finish();
        let mut terms = goods.terms.clone();
        (terms.first, terms.end) = (first, end);
        (terms.root, terms.parts, terms.length) = (batch.root(), batch.parts(), batch.length());
        let mut arrivals = Arrivals::default();
        let mut readings = Vec::new();
        for part in sealed {
            let part = batch.prove::<()>(part).unwrap();
            arrivals.take(&part, &terms).unwrap();
            readings.extend(part.open(&key, &terms).unwrap().readings);
        }
        prop_assert!(arrivals.is_complete(&terms));
        prop_assert_eq!(&readings, goods.world.stream.slice(first, end));
    }
}
