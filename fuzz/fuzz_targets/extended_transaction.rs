//! Transactions in Extended Format.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Transaction;

fuzz_target!(|bytes: &[u8]| {
    let Ok((tx, spent)) = Transaction::from_extended(bytes) else { return };
    let written = tx.to_extended(&spent).unwrap();
    assert_eq!(Transaction::from_extended(&written).unwrap(), (tx, spent));
});
