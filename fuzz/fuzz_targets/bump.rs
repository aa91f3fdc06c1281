//! Merkle paths (BUMP).

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::merkle_path::MerklePath;

fuzz_target!(|bytes: &[u8]| {
    let Ok(path) = MerklePath::parse(bytes) else { return };
    assert_eq!(MerklePath::parse(&path.to_bytes()).unwrap(), path);
    let txids = path.txids();
    if let Ok(part) = path.extract(&txids) {
        assert_eq!(part.root(), path.root());
    }
    txids.iter().for_each(|txid| assert_eq!(path.root_for(txid), Some(*path.root())));
});
