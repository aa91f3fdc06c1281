//! Evidence files from strangers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Network;
use sensora_chain::header::HeaderChain;
use sensora_protocol::evidence::Evidence;

fuzz_target!(|bytes: &[u8]| {
    let Ok(evidence) = serde_json::from_slice::<Evidence>(bytes) else { return };
    let headers = HeaderChain::genesis(Network::Regtest).unwrap();
    let _ = evidence.verify(&headers);
    let text = serde_json::to_vec(&evidence).unwrap();
    assert_eq!(serde_json::from_slice::<Evidence>(&text).unwrap(), evidence);
});
