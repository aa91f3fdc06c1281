//! Payloads of anchors, both versions, alone and in scripts, and the proof that leads to one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::{Satoshis, Script, TxOut};
use sensora_protocol::anchor::{AnchorPayload, AnchorProof, ProofV1};
use sensora_protocol::codec::{self, MAX_FRAME};

fuzz_target!(|bytes: &[u8]| {
    if let Some(payload) = AnchorPayload::from_bytes(bytes) {
        assert_eq!(payload.to_bytes(), bytes);
        assert_eq!(AnchorPayload::from_output(&payload.to_output()), Some(payload));
    }
    if let Some(proof) = ProofV1::from_bytes(bytes) {
        assert_eq!(bytes.len(), ProofV1::LEN);
        let _ = proof.matches(21.5, 48.2);
    }
    let output = TxOut { value: Satoshis::ZERO, locking: Script::new(bytes.to_vec()) };
    let _ = AnchorPayload::from_output(&output);
    let _ = codec::decode_exact::<AnchorProof>(bytes, MAX_FRAME);
});
