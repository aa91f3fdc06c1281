//! BEEF of all versions, and what simplified payment verification says to it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Network;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::header::HeaderChain;
use sensora_chain::spv;

fuzz_target!(|bytes: &[u8]| {
    let Ok(beef) = Beef::parse(bytes, &BeefLimits::DEFAULT) else { return };
    assert_eq!(Beef::parse(&beef.to_bytes_v2(), &BeefLimits::DEFAULT).unwrap().txs(), beef.txs());
    let headers = HeaderChain::genesis(Network::Regtest).unwrap();
    if let Some(subject) = beef.subject() {
        let _ = spv::verify(&beef, &subject, &headers);
        let _ = beef.to_atomic(&subject);
    }
});
