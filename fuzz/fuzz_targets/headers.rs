//! Runs of headers from a peer, against a chain of our own.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Network;
use sensora_chain::header::{Header, HeaderChain, HeaderView};
use sensora_protocol::chain_access::sync::Walk;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(headers) = Header::parse_run(bytes) {
        assert_eq!(headers.len() * Header::SIZE, bytes.len());
    }
    let mut chain = HeaderChain::genesis(Network::Regtest).unwrap();
    let before = chain.tip();
    let mut walk = Walk::new();
    walk.ask(&chain);
    if walk.take(&mut chain, bytes, 1_790_000_000).is_err() {
        assert_eq!(chain.tip(), before);
    }
    assert!(chain.tip_height() as usize <= bytes.len() / Header::SIZE);
});
