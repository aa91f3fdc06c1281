//! Frames, offers, proofs and records of batches whose key is released on the chain.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Network;
use sensora_protocol::codec::{self, MAX_FRAME};
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::key_release::buy::BatchPurchase;
use sensora_protocol::market::key_release::frame::{ToBuyer, ToSeller};
use sensora_protocol::market::key_release::key::BatchKey;
use sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof;
use sensora_protocol::market::key_release::offer::{BatchTerms, KeyReleaseOffer};
use sensora_protocol::market::key_release::parts::{Part, ProvenPart};
use sensora_protocol::market::key_release::sell::BatchSale;
use sensora_protocol::statement::{SignedBytes, Statement};
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::{Field, Kind, Schema};
use sensora_protocol::{Hash, StreamId};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = ToSeller::from_bytes(bytes) {
        assert_eq!(frame.to_bytes().unwrap(), bytes);
    }
    if let Ok(frame) = ToBuyer::from_bytes(bytes) {
        let _ = (frame.to_bytes(), frame.name());
    }
    if let Ok(signed) = codec::decode_exact::<SignedBytes>(bytes, MAX_FRAME)
        && let Ok(offer) = signed.verify::<KeyReleaseOffer>(Network::Regtest)
    {
        let _ = BatchTerms::of(&offer, Network::Regtest);
    }
    if let Ok(offer) = codec::decode_exact::<KeyReleaseOffer>(bytes, KeyReleaseOffer::MAX_LEN) {
        let seller = offer.checkpoint.key;
        let _ = offer.check(&seller, Network::Regtest);
    }
    proof(MisbehaviourProof::from_bytes(bytes).ok());
    proof(MisbehaviourProof::from_json(bytes).ok());
    let part = codec::decode_exact::<ProvenPart>(bytes, MAX_FRAME).map(|proven| proven.part);
    if let Ok(part) = part {
        open(&part);
    }
    // What a seller encrypts is a stranger's choice, too.
    if codec::decode_exact::<Page>(bytes, MAX_FRAME).is_ok() {
        let mut encrypted = bytes.to_vec();
        key().apply(0, &mut encrypted);
        open(&Part { index: 0, first: 1, count: 3, bytes: encrypted });
    }
    if let Ok(purchase) = codec::decode::<BatchPurchase>(bytes, MAX_FRAME) {
        let _ = (purchase.resume(), purchase.terms(Network::Regtest), purchase.at_risk());
    }
    if let Ok(sale) = codec::decode::<BatchSale>(bytes, MAX_FRAME) {
        let _ = (sale.resume(), sale.terms(Network::Regtest));
    }
});

fn proof(proof: Option<MisbehaviourProof>) {
    let Some(proof) = proof else { return };
    let _ = proof.verify();
    if let Ok(bytes) = proof.to_bytes() {
        assert_eq!(MisbehaviourProof::from_bytes(&bytes).unwrap(), proof);
    }
    if let Ok(file) = proof.to_json() {
        assert_eq!(MisbehaviourProof::from_json(file.as_bytes()).unwrap(), proof);
    }
}

fn key() -> BatchKey {
    BatchKey::from_bytes([7; 32])
}

fn open(part: &Part) {
    let schema = Schema::new(vec![Field::new("a", Kind::Float), Field::new("b", Kind::Text)]).unwrap();
    let checkpoint =
        Checkpoint { stream: StreamId([0; 16]), size: 1 << 40, root: Hash([0; 32]), issued_ms: 0 };
    assert!(part.open(&key(), &schema, &checkpoint).is_err(), "a root of zeros");
}
