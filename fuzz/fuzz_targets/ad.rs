//! Signed ads as they come over gossip, and in outputs on chain. The body is also tried without its signature, which no fuzzer finds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::{Network, PrivateKey, Satoshis, Script, TxOut};
use sensora_protocol::ad::{self, Ad, MAX_AD_LEN};
use sensora_protocol::codec;

const NOW_MS: i64 = 1_790_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = ad::open(bytes, Network::Regtest, NOW_MS) {
        assert_eq!(ad::to_bytes(&signed).unwrap(), bytes);
    }
    if let Ok(ad) = codec::decode_exact::<Ad>(bytes, MAX_AD_LEN) {
        let seller = PrivateKey::from_bytes([1; 32]).unwrap().public();
        let _ = ad.validate(Network::Regtest, &seller, NOW_MS);
        let _ = ad::discovery_keys(Network::Regtest, &ad);
        ad.streams.iter().for_each(|stream| drop(ad::kinds_of(&stream.schema)));
    }
    let output = TxOut { value: Satoshis::ZERO, locking: Script::new(bytes.to_vec()) };
    if let Some(found) = ad::bytes_in_output(&output) {
        let _ = ad::open(&found, Network::Regtest, NOW_MS);
    }
});
