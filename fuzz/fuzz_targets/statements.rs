//! Bodies of all signed statements, and the statement around them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::{Network, PrivateKey};
use sensora_protocol::ad::Ad;
use sensora_protocol::codec::{self, MAX_FRAME};
use sensora_protocol::market::{offer::Offer, order::Order, receipt::Receipt};
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{SignedBytes, Statement};

fn body<T: Statement>(bytes: &[u8]) -> Option<T> {
    let value = codec::decode_exact::<T>(bytes, T::MAX_LEN).ok()?;
    assert_eq!(codec::encode(&value).unwrap(), bytes);
    Some(value)
}

fuzz_target!(|bytes: &[u8]| {
    let seller = PrivateKey::from_bytes([1; 32]).unwrap().public();
    body::<Ad>(bytes);
    body::<Order>(bytes);
    body::<Receipt>(bytes);
    body::<Checkpoint>(bytes);
    if let Some(offer) = body::<Offer>(bytes) {
        let _ = offer.check(&seller, Network::Regtest);
    }
    if let Ok(signed) = codec::decode_exact::<SignedBytes>(bytes, MAX_FRAME) {
        let _ = signed.verify_by::<Receipt>(Network::Regtest, &seller);
    }
});
