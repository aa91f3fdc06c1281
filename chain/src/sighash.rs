//! What a signature in a transaction signs: the BIP143 digest with FORKID that BSV uses since 2017.
//!
//! Everything made here, and everything accepted from a counterparty, is signed with [`ALL_FORKID`] (0x41): all
//! inputs, all outputs and the value that is spent. The other types exist for the chain's history.

use sha2::{Digest, Sha256};

use crate::amount::Satoshis;
use crate::encode::{sha256d, write_var_bytes};
use crate::script::Script;
use crate::tx::Transaction;

/// `SIGHASH_ALL | SIGHASH_FORKID`: the one type that is used here.
pub const ALL_FORKID: u8 = 0x41;

const FORKID: u32 = 0x40;
const CHRONICLE: u32 = 0x20;
const ANYONE_CAN_PAY: u32 = 0x80;
/// The low five bits say which outputs are signed.
const BASE_MASK: u32 = 0x1f;
const NONE: u32 = 2;
const SINGLE: u32 = 3;

/// The digests of one transaction, with what they share computed once. Without the cache the work for a transaction
/// grows with the square of its inputs.
#[derive(Clone, Debug)]
pub struct SighashCache<'tx> {
    tx: &'tx Transaction,
    hash_prevouts: [u8; 32],
    hash_sequence: [u8; 32],
    hash_outputs: [u8; 32],
}

impl<'tx> SighashCache<'tx> {
    /// Hashes what all inputs' digests share.
    pub fn new(tx: &'tx Transaction) -> Self {
        let mut prevouts = Vec::with_capacity(tx.inputs.len().saturating_mul(36));
        let mut sequences = Vec::with_capacity(tx.inputs.len().saturating_mul(4));
        for input in &tx.inputs {
            input.previous.write(&mut prevouts);
            sequences.extend_from_slice(&input.sequence.to_le_bytes());
        }
        let mut outputs = Vec::new();
        for output in &tx.outputs {
            output.write(&mut outputs);
        }
        SighashCache {
            tx,
            hash_prevouts: sha256d(&prevouts),
            hash_sequence: sha256d(&sequences),
            hash_outputs: sha256d(&outputs),
        }
    }

    /// The transaction whose digests these are.
    pub const fn transaction(&self) -> &'tx Transaction {
        self.tx
    }

    /// The digest that a signature of type [`ALL_FORKID`] signs for the input at `input_index`, which spends `value`
    /// locked by `script_code`. Where there is no such input the answer is a digest that no transaction has, so a
    /// signature over it spends nothing.
    pub fn digest(&self, input_index: usize, script_code: &Script, value: Satoshis) -> [u8; 32] {
        self.digest_with_type(input_index, script_code, value, u32::from(ALL_FORKID))
            .unwrap_or_else(|| Sha256::digest(b"sensora: this transaction has no such input").into())
    }

    /// The bytes of the BIP143 form, whose double SHA-256 is the digest; `None` where there is no such input. Whether
    /// the chain uses this form for `sighash_type` is for [`SighashCache::digest_with_type`] to say.
    pub fn preimage(
        &self,
        input_index: usize,
        script_code: &Script,
        value: Satoshis,
        sighash_type: u32,
    ) -> Option<Vec<u8>> {
        let input = self.tx.inputs.get(input_index)?;
        let base = sighash_type & BASE_MASK;
        let anyone_can_pay = sighash_type & ANYONE_CAN_PAY != 0;
        let hash_prevouts = if anyone_can_pay { [0; 32] } else { self.hash_prevouts };
        let hash_sequence =
            if anyone_can_pay || base == NONE || base == SINGLE { [0; 32] } else { self.hash_sequence };
        let hash_outputs = match base {
            NONE => [0; 32],
            SINGLE => self.tx.outputs.get(input_index).map_or([0; 32], |output| {
                let mut bytes = Vec::with_capacity(output.size());
                output.write(&mut bytes);
                sha256d(&bytes)
            }),
            _ => self.hash_outputs,
        };

        // 156 fixed bytes, and at most nine for the script's length.
        let mut out = Vec::with_capacity(script_code.len().saturating_add(165));
        out.extend_from_slice(&self.tx.version.to_le_bytes());
        out.extend_from_slice(&hash_prevouts);
        out.extend_from_slice(&hash_sequence);
        input.previous.write(&mut out);
        write_var_bytes(&mut out, script_code.as_bytes());
        out.extend_from_slice(&value.as_u64().to_le_bytes());
        out.extend_from_slice(&input.sequence.to_le_bytes());
        out.extend_from_slice(&hash_outputs);
        out.extend_from_slice(&self.tx.lock_time.to_le_bytes());
        out.extend_from_slice(&sighash_type.to_le_bytes());
        Some(out)
    }

    /// The digest for any type that uses the BIP143 form: FORKID set and CHRONICLE not. `None` for other types, whose
    /// digest does not commit to the spent value, and where there is no such input.
    pub fn digest_with_type(
        &self,
        input_index: usize,
        script_code: &Script,
        value: Satoshis,
        sighash_type: u32,
    ) -> Option<[u8; 32]> {
        if sighash_type & FORKID == 0 || sighash_type & CHRONICLE != 0 {
            return None;
        }
        self.preimage(input_index, script_code, value, sighash_type).map(|bytes| sha256d(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tx::{TxIn, TxOut};

    #[test]
    fn the_digest_commits_to_value_script_and_input() {
        let tx = Transaction::new(vec![TxIn::default(), TxIn::default()], vec![TxOut::default()]);
        let cache = SighashCache::new(&tx);
        let script = Script::p2pkh(&[1; 20]);
        let one = Satoshis::from_sat(1);
        let digest = cache.digest(0, &script, one);
        assert_ne!(digest, cache.digest(0, &script, Satoshis::from_sat(2)));
        assert_ne!(digest, cache.digest(0, &Script::p2pkh(&[2; 20]), one));
        assert_eq!(cache.preimage(0, &script, one, 0x41).unwrap().len(), 156 + 1 + 25);
    }

    #[test]
    fn types_that_do_not_commit_to_the_value_have_no_digest_here() {
        let tx = Transaction::new(vec![TxIn::default()], vec![]);
        let cache = SighashCache::new(&tx);
        for sighash_type in [0x01, 0x61, 0x21] {
            assert_eq!(cache.digest_with_type(0, &Script::default(), Satoshis::ZERO, sighash_type), None);
        }
        assert_eq!(cache.digest_with_type(1, &Script::default(), Satoshis::ZERO, 0x41), None);
        assert_ne!(cache.digest(1, &Script::default(), Satoshis::ZERO), [0; 32]);
    }
}
