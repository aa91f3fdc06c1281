//! Any bytes against the strict walk over CBOR: it ends, and what it lets pass is one item.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_protocol::codec::{MAX_FRAME, check};

fuzz_target!(|bytes: &[u8]| {
    if check(bytes, MAX_FRAME).is_ok() {
        // One item: with a byte more it is none.
        let longer = [bytes, &[0]].concat();
        assert!(check(&longer, MAX_FRAME + 1).is_err());
    }
});
