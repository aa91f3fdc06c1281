//! Bytes of strangers: whatever comes in, a decoder answers with a value or a typed error, and what it takes it writes the same.
//!
//! The fuzz targets (see `docs/fuzzing.md`) drive the same entry points for as long as one likes; this runs with every test.

use proptest::prelude::*;
use sensora_protocol::ad::{self, Ad};
use sensora_protocol::anchor::{AnchorPayload, ProofV1};
use sensora_protocol::chain_access;
use sensora_protocol::codec::{self, CodecError, MAX_DEPTH, MAX_FRAME};
use sensora_protocol::evidence::Evidence;
use sensora_protocol::market::key_release::buy::BatchPurchase;
use sensora_protocol::market::key_release::frame::{ToBuyer, ToSeller};
use sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof;
use sensora_protocol::market::key_release::offer::KeyReleaseOffer;
use sensora_protocol::market::key_release::sell::BatchSale;
use sensora_protocol::market::message::{MAX_REQUEST_LEN, Request, Response};
use sensora_protocol::market::offer::Offer;
use sensora_protocol::market::order::Order;
use sensora_protocol::market::purchase::Purchase;
use sensora_protocol::market::receipt::Receipt;
use sensora_protocol::market::sale::Sale;
use sensora_protocol::statement::{SignedBytes, Statement};
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::{Run, SealedChunk, columns};

use crate::golden;
use crate::world::{NETWORK, NOW_MS, no_headers, schema};

fn body<T: Statement>(bytes: &[u8]) {
    if let Ok(value) = codec::decode_exact::<T>(bytes, T::MAX_LEN) {
        assert_eq!(codec::encode(&value).unwrap(), bytes);
    }
}

/// Every decoder of this crate that a stranger's bytes can reach.
fn decode_all(bytes: &[u8]) {
    let _ = codec::check(bytes, MAX_FRAME);
    if let Ok(request) = Request::from_bytes(bytes) {
        assert_eq!(request.to_bytes().unwrap(), bytes);
    }
    if let Ok(response) = Response::from_bytes(bytes) {
        let _ = response.to_bytes();
        let _ = response.name();
    }
    if let Ok(request) = chain_access::Request::from_bytes(bytes) {
        assert_eq!(request.to_bytes().unwrap(), bytes);
        let _ = request.check();
    }
    if let Ok(response) = chain_access::Response::from_bytes(bytes) {
        assert_eq!(response.to_bytes().unwrap(), bytes);
    }
    if let Ok(ad) = ad::open(bytes, NETWORK, NOW_MS) {
        assert_eq!(ad::to_bytes(&ad).unwrap(), bytes);
    }
    if let Ok(signed) = codec::decode_exact::<SignedBytes>(bytes, MAX_FRAME) {
        let _ = signed.verify::<Receipt>(NETWORK);
    }
    if let Ok(frame) = ToSeller::from_bytes(bytes) {
        assert_eq!(frame.to_bytes().unwrap(), bytes);
    }
    if let Ok(frame) = ToBuyer::from_bytes(bytes) {
        let _ = (frame.to_bytes(), frame.name());
    }
    if let Ok(proof) = MisbehaviourProof::from_bytes(bytes) {
        assert_eq!(proof.to_bytes().unwrap(), bytes);
        let file = proof.to_json().unwrap();
        assert_eq!(MisbehaviourProof::from_json(file.as_bytes()).unwrap(), proof);
        let _ = proof.verify();
    }
    let _ = MisbehaviourProof::from_json(bytes);
    body::<KeyReleaseOffer>(bytes);
    body::<Ad>(bytes);
    body::<Offer>(bytes);
    body::<Order>(bytes);
    body::<Receipt>(bytes);
    body::<Checkpoint>(bytes);
    let schema = schema();
    let _ = columns::decode(&schema, bytes, 0, columns::MAX_COUNT);
    if let Ok(run) = codec::decode::<Run>(bytes, MAX_FRAME) {
        let _ = run.open(&schema);
    }
    let _ = codec::decode::<SealedChunk>(bytes, MAX_FRAME);
    let _ = codec::decode::<Sale>(bytes, MAX_FRAME);
    let _ = codec::decode::<Purchase>(bytes, MAX_FRAME);
    if let Ok(purchase) = codec::decode::<BatchPurchase>(bytes, MAX_FRAME) {
        let _ = purchase.resume();
    }
    if let Ok(sale) = codec::decode::<BatchSale>(bytes, MAX_FRAME) {
        let _ = sale.resume();
    }
    if let Some(payload) = AnchorPayload::from_bytes(bytes) {
        assert_eq!(payload.to_bytes(), bytes);
    }
    if let Some(proof) = ProofV1::from_bytes(bytes) {
        let _ = proof.matches(20.0, 50.0);
    }
    if let Ok(evidence) = serde_json::from_slice::<Evidence>(bytes) {
        let _ = evidence.verify(&no_headers());
    }
}

/// All golden bytes: the best place to start from.
fn samples() -> Vec<Vec<u8>> {
    golden::all().into_iter().map(|vector| vector.bytes).collect()
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decode_all(&bytes);
    }

    /// Small CBOR items one after the other come far more often through the first check than random bytes.
    #[test]
    fn random_items_never_panic(parts in prop::collection::vec((0..8_u8, 0..24_u8), 0..80)) {
        let bytes: Vec<u8> = parts.into_iter().map(|(major, info)| major << 5 | info).collect();
        decode_all(&bytes);
    }

    #[test]
    fn changed_golden_bytes_never_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(), do_cut in any::<bool>(),
    ) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if do_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        decode_all(&bytes);
    }
}

#[test]
fn golden_bytes_cut_anywhere_are_refused() {
    for bytes in samples() {
        for len in 0..bytes.len().min(400) {
            decode_all(&bytes[..len]);
        }
    }
}

#[test]
fn what_is_too_long_or_too_deep_is_refused_before_it_is_read() {
    let long = vec![0x40; MAX_REQUEST_LEN + 1];
    assert_eq!(
        Request::from_bytes(&long),
        Err(CodecError::TooLong { len: MAX_REQUEST_LEN + 1, max: MAX_REQUEST_LEN })
    );
    let deep = [vec![0x81; MAX_DEPTH + 1], vec![0]].concat();
    assert!(matches!(Request::from_bytes(&deep), Err(CodecError::TooDeep { .. })));
    assert!(codec::check(&[vec![0x81; MAX_DEPTH], vec![0]].concat(), MAX_FRAME).is_ok());
    // A megabyte of nesting is refused without going down into it.
    assert!(matches!(Response::from_bytes(&vec![0x81; MAX_FRAME]), Err(CodecError::TooDeep { .. })));
    // Lengths that are a lie: a byte string, a text, an array and a map of 2^63 items.
    for head in [0x5b_u8, 0x7b, 0x9b, 0xbb] {
        let lie = [&[head, 0x7f][..], &[0xff; 7], &[0; 16]].concat();
        assert!(Request::from_bytes(&lie).is_err() && Response::from_bytes(&lie).is_err());
    }
}

/// Readings whose numbers end just below the largest: counting one further must not overflow.
#[test]
fn the_last_sequence_numbers_do_not_panic() {
    let schema = schema();
    let readings: Vec<_> = (0..5).map(crate::world::reading).collect();
    let bytes = columns::encode(&schema, &readings).unwrap();
    let last = columns::decode(&schema, &bytes, u64::MAX - 5, 5).unwrap();
    assert_eq!(last[4].seq, u64::MAX - 1);
    assert!(columns::decode(&schema, &bytes, u64::MAX - 4, 5).is_err());
}
