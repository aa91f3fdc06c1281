//! The wallet's durable record, as a damaged disk may give it back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::wallet::Wallet;

fuzz_target!(|bytes: &[u8]| {
    let Ok(wallet) = Wallet::from_bytes(bytes) else { return };
    let _ = (wallet.balance(), wallet.audit(), wallet.history());
    let again = Wallet::from_bytes(&wallet.to_bytes().unwrap()).unwrap();
    assert_eq!(again, wallet);
});
