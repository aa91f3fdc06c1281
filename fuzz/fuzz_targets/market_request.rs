//! Requests of `/sensora/market/1`: what is read is written the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::{Network, PrivateKey};
use sensora_protocol::market::message::Request;
use sensora_protocol::market::sale::order_of;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = Request::from_bytes(bytes) else { return };
    assert_eq!(request.to_bytes().unwrap(), bytes);
    if let Request::Purchase(purchase) = &request {
        let peer = PrivateKey::from_bytes([2; 32]).unwrap().public();
        let _ = order_of(purchase, Network::Regtest, &peer);
    }
});
