//! Responses of `/sensora/market/1`: what is read is written the same, but for the words of a refusal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_protocol::market::message::Response;

fuzz_target!(|bytes: &[u8]| {
    let Ok(response) = Response::from_bytes(bytes) else { return };
    let written = response.to_bytes().unwrap();
    match response {
        Response::Ok(_) => assert_eq!(written, bytes),
        Response::Refused(refusal) => assert!(refusal.to_string().chars().all(|c| !c.is_control())),
    }
});
