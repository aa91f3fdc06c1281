//! The wallet's durable records, as a damaged disk may give them back: the whole state in one, and a single record of a transaction beside an
//! honest head.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::Txid;
use sensora_chain::wallet::Wallet;

fn use_it(wallet: &Wallet) {
    let _ = (wallet.balance(), wallet.audit(), wallet.history(), wallet.unproven(), wallet.stuck(u32::MAX));
    let again = Wallet::from_bytes(&wallet.to_bytes().unwrap()).unwrap();
    assert_eq!(again, *wallet);
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(wallet) = Wallet::from_bytes(bytes) {
        use_it(&wallet);
    }
    // A record names its transaction in its own bytes; it is tried under that id, and under another one, where it is refused.
    let txids = bytes.windows(32).take(64).filter_map(|id| id.try_into().ok().map(Txid));
    for txid in txids.chain([Txid([7; 32])]) {
        let Err(missing) = Wallet::from_records(None, None, [(txid, bytes)]) else { panic!("no head") };
        drop(missing);
    }
});
