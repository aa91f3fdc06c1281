//! Transactions: what is read is written the same, as long as it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Transaction;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tx) = Transaction::from_bytes(bytes) else { return };
    let written = tx.to_bytes();
    assert_eq!(written.len(), tx.size());
    assert_eq!(Transaction::from_bytes(&written).unwrap(), tx);
    let _ = (tx.txid(), tx.is_coinbase(), tx.is_final(), tx.output_sum());
});
