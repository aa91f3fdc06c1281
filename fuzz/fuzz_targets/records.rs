//! Stored sales and purchases, as a damaged disk may give them back: what to do next follows without a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_protocol::codec::{self, MAX_FRAME};
use sensora_protocol::market::purchase::Purchase;
use sensora_protocol::market::sale::Sale;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(sale) = codec::decode::<Sale>(bytes, MAX_FRAME) {
        let _ = (sale.resume(), sale.transaction());
    }
    if let Ok(purchase) = codec::decode::<Purchase>(bytes, MAX_FRAME) {
        let _ = purchase.resume();
    }
});
