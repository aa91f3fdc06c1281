//! Requests and responses of `/sensora/chain/1`: what is read is written the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_protocol::chain_access::{Request, Response};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::from_bytes(bytes) {
        assert_eq!(request.to_bytes().unwrap(), bytes);
        let _ = request.check();
    }
    if let Ok(response) = Response::from_bytes(bytes) {
        assert_eq!(response.to_bytes().unwrap(), bytes);
    }
});
