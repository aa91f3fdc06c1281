//! Scripts: their steps end, and cover no more than the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Script;
use sensora_chain::contract::parse_data_output;

fuzz_target!(|bytes: &[u8]| {
    let script = Script::new(bytes.to_vec());
    assert!(script.pushes().count() <= bytes.len());
    let pushed: usize = script.pushes().flatten().filter_map(|op| op.data().map(<[u8]>::len)).sum();
    assert!(pushed <= bytes.len());
    let _ = (script.p2pkh_hash(), script.is_unspendable());
    if let Some(items) = parse_data_output(&script) {
        let slices: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
        let again = sensora_chain::contract::data_output(&slices);
        assert_eq!(parse_data_output(&again.locking), Some(items));
    }
});
