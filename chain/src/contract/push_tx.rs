//! OP_PUSH_TX: a script that reads the transaction which spends it.
//!
//! BSV has no opcode for that, and CHECKLOCKTIMEVERIFY does nothing there since Genesis. But `CHECKSIG` compares a
//! signature with the digest of the spending transaction, and a signature can be made inside the script: with a private
//! key that everybody knows and the nonce 1, `r` is a constant and `s` is the digest plus one. So the spender pushes the
//! bytes that are hashed for its input (the *preimage*), the script hashes them, makes the signature and checks it: it
//! passes only if the pushed bytes are those of this very transaction, with the type 0x41. What is in them (lock time,
//! sequence, hash of the outputs) can be trusted from there on.
//!
//! The script builds `s` with the cheapest opcodes, which work for a quarter of all digests. The spender *grinds*: it
//! tries sequence numbers until its digest is one of those.

use crate::encode::sha256d;
use crate::script::op;
use crate::sighash::{ALL_FORKID, SighashCache};
use crate::tx::{SEQUENCE_FINAL, Transaction, TxOut};

/// The bytes of the block: it takes the preimage from the stack, ends the script unless it is that of the transaction,
/// and leaves it there.
#[rustfmt::skip]
pub const BLOCK: [u8; 86] = [
    // The digest plus one, by its last byte: the digest is big-endian for ECDSA, and there is no carry.
    op::DUP, op::HASH256, 1, 31, op::SPLIT, op::ADD1, op::CAT,
    // 30 44 02 20 r 02 20 before it: DER of a signature whose r is the x of the curve's generator.
    38, 0x30, 0x44, 0x02, 0x20,
    0x79, 0xbe, 0x66, 0x7e, 0xf9, 0xdc, 0xbb, 0xac, 0x55, 0xa0, 0x62, 0x95, 0xce, 0x87, 0x0b, 0x07,
    0x02, 0x9b, 0xfc, 0xdb, 0x2d, 0xce, 0x28, 0xd9, 0x59, 0xf2, 0x81, 0x5b, 0x16, 0xf8, 0x17, 0x98,
    0x02, 0x20, op::SWAP, op::CAT,
    // The type after it, and the public key of 1/r: with it and the nonce 1, s = (z + r/r) / 1.
    1, ALL_FORKID, op::CAT,
    33, 0x03, 0x8f, 0xf8, 0x3d, 0x8c, 0xf1, 0x21, 0x21, 0x49, 0x16, 0x09, 0xc4, 0x93, 0x9d, 0xc1, 0x1c,
    0x4a, 0xa3, 0x55, 0x03, 0x50, 0x8f, 0xe4, 0x32, 0xdc, 0x5a, 0x5c, 0x19, 0x05, 0x60, 0x8b, 0x92, 0x18,
    op::CHECKSIGVERIFY,
];

/// How many sequence numbers are tried. One fits with probability (126/256)², about a quarter, so four are tried on
/// average, and that none of 512 fits has a chance of 1 in 2²⁰⁴. All of them keep bit 31, which switches off what
/// sequence numbers of version 2 once meant (BIP68).
pub const MAX_TRIES: u32 = 512;

/// Bytes of a preimage beside the locking script in it, whose length takes one byte below 253.
pub(super) const PREIMAGE_OVERHEAD: usize = 157;

/// Why a preimage cannot be pushed, or was pushed in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushTxError {
    /// The transaction has no such input.
    #[error("the transaction has no input {0}")]
    NoInput(usize),
    /// Practically impossible.
    #[error(
        "none of {MAX_TRIES} sequence numbers of input {0} gives a digest that the script can use; change an output by a satoshi"
    )]
    Exhausted(usize),
    /// The script would fail on it.
    #[error("what input {0} pushes is not the preimage of this transaction")]
    OtherTransaction(usize),
    /// The script cannot make a canonical signature from it.
    #[error("the digest of input {0} is none that the script can use; grind another sequence number")]
    NotGround(usize),
}

/// What is pushed for an input, and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preimage {
    /// The bytes of the BIP143 form.
    pub bytes: Vec<u8>,
    /// Their double SHA-256, which signatures of the input sign.
    pub digest: [u8; 32],
}

impl Preimage {
    /// The preimage of the input at `index`, which spends `spent`, for the type 0x41; `None` where there is no such
    /// input. `cache` is the one of the transaction.
    pub fn new(cache: &SighashCache<'_>, index: usize, spent: &TxOut) -> Option<Self> {
        let bytes = cache.preimage(index, &spent.locking, spent.value, u32::from(ALL_FORKID))?;
        let digest = sha256d(&bytes);
        Some(Preimage { bytes, digest })
    }

    /// Whether the script makes a valid signature from the digest: its first byte keeps `s` 32 bytes long, positive
    /// and low, its last can be counted up without a carry and is a minimal number before and after.
    ///
    /// The rules would allow a few more (a first byte of 0 before a high second one, or of 0x7f): one form is enough.
    pub const fn is_ground(&self) -> bool {
        let [first, .., last] = self.digest;
        matches!(first, 0x01..=0x7e) && matches!(last, 0x01..=0x7e)
    }
}

/// Sets the sequence number of the input at `index`, which spends `spent`, to the highest one that is not final and
/// whose digest the script can use. All else has to be in place; the unlocking script does not matter.
///
/// # Errors
/// [`PushTxError::NoInput`]; [`PushTxError::Exhausted`] if none of [`MAX_TRIES`] fits.
pub fn grind(tx: &mut Transaction, index: usize, spent: &TxOut) -> Result<Preimage, PushTxError> {
    for back in 1..=MAX_TRIES {
        let input = tx.inputs.get_mut(index).ok_or(PushTxError::NoInput(index))?;
        input.sequence = SEQUENCE_FINAL.saturating_sub(back);
        let preimage = Preimage::new(&SighashCache::new(tx), index, spent);
        if let Some(preimage) = preimage.filter(Preimage::is_ground) {
            return Ok(preimage);
        }
    }
    Err(PushTxError::Exhausted(index))
}

/// Checks what the input at `index`, which spends `spent`, pushes for the block; the answer is the digest.
///
/// # Errors
/// [`PushTxError::NoInput`], [`PushTxError::OtherTransaction`], [`PushTxError::NotGround`].
pub fn verify(
    cache: &SighashCache<'_>,
    index: usize,
    spent: &TxOut,
    pushed: &[u8],
) -> Result<[u8; 32], PushTxError> {
    let preimage = Preimage::new(cache, index, spent).ok_or(PushTxError::NoInput(index))?;
    if preimage.bytes != pushed {
        return Err(PushTxError::OtherTransaction(index));
    }
    if !preimage.is_ground() {
        return Err(PushTxError::NotGround(index));
    }
    Ok(preimage.digest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::amount::Satoshis;
    use crate::contract::payment::pay_to_hash;
    use crate::id::{OutPoint, Txid};
    use crate::keys::{PublicKey, Signature};
    use crate::script::Script;
    use crate::tx::TxIn;

    fn spend(mark: u8, inputs: usize) -> (Transaction, TxOut) {
        let spent = TxOut { value: Satoshis::from_sat(5_000), locking: Script::new(BLOCK.to_vec()) };
        let input = |n| TxIn::new(OutPoint { txid: Txid([mark; 32]), vout: n });
        let inputs = (0..inputs as u32).map(input).collect();
        (Transaction::new(inputs, vec![pay_to_hash(&[mark; 20], Satoshis::from_sat(4_000))]), spent)
    }

    /// What the block computes, step by step.
    fn signature_in_script(digest: &[u8; 32]) -> Option<(PublicKey, Signature)> {
        let mut der = BLOCK[8..46].to_vec();
        let (last, head) = digest.split_last().unwrap();
        der.extend_from_slice(head);
        // Only a number that stays one byte can be counted up in place.
        if !(1..0x7f).contains(last) {
            return None;
        }
        der.push(last + 1);
        let key = PublicKey::from_bytes(&BLOCK[52..85]).unwrap();
        Some((key, Signature::from_der_strict(&der).ok()?))
    }

    #[test]
    fn the_block_is_the_published_one() {
        let published = "76aa011f7f8b7e263044022079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f8179802207c7e\
                         01417e21038ff83d8cf12121491609c4939dc11c4aa35503508fe432dc5a5c1905608b9218ad";
        assert_eq!(hex::encode(BLOCK), published);
    }

    #[test]
    fn an_input_that_is_not_there_is_said() {
        let (mut tx, spent) = spend(1, 1);
        assert_eq!(grind(&mut tx, 1, &spent), Err(PushTxError::NoInput(1)));
        assert_eq!(verify(&SighashCache::new(&tx), 1, &spent, &[]), Err(PushTxError::NoInput(1)));
    }

    proptest! {
        #[test]
        fn the_signature_of_a_ground_digest_is_canonical_and_verifies(mark: u8, inputs in 1usize..4, at: prop::sample::Index) {
            let (mut tx, spent) = spend(mark, inputs);
            let index = at.index(inputs);
            let preimage = grind(&mut tx, index, &spent).unwrap();
            let sequence = tx.inputs[index].sequence;
            prop_assert!((SEQUENCE_FINAL - MAX_TRIES..SEQUENCE_FINAL).contains(&sequence));
            let (key, signature) = signature_in_script(&preimage.digest).unwrap();
            prop_assert!(key.verify(&preimage.digest, &signature));
            let cache = SighashCache::new(&tx);
            prop_assert_eq!(cache.digest(index, &spent.locking, spent.value), preimage.digest);
            prop_assert_eq!(verify(&cache, index, &spent, &preimage.bytes), Ok(preimage.digest));
        }

        #[test]
        fn whatever_passes_for_ground_works_in_the_script(mut digest: [u8; 32], first: u8, last: u8) {
            (digest[0], digest[31]) = (first, last);
            let preimage = Preimage { bytes: Vec::new(), digest };
            let Some((key, signature)) = signature_in_script(&digest) else {
                prop_assert!(!preimage.is_ground());
                return Ok(());
            };
            prop_assert!(key.verify(&digest, &signature));
            prop_assert!(preimage.is_ground() || matches!(first, 0 | 0x7f));
        }

        #[test]
        fn any_other_preimage_is_refused(at: prop::sample::Index, mask in 1u8.., cut: bool) {
            let (mut tx, spent) = spend(7, 2);
            let mut pushed = grind(&mut tx, 1, &spent).unwrap().bytes;
            let at = at.index(pushed.len());
            if cut { pushed.truncate(at) } else { pushed[at] ^= mask }
            let verdict = verify(&SighashCache::new(&tx), 1, &spent, &pushed);
            prop_assert_eq!(verdict, Err(PushTxError::OtherTransaction(1)));
        }

        #[test]
        fn a_digest_that_is_not_ground_is_refused(sequence: u32) {
            let (mut tx, spent) = spend(7, 1);
            tx.inputs[0].sequence = sequence;
            let cache = SighashCache::new(&tx);
            let preimage = Preimage::new(&cache, 0, &spent).unwrap();
            let verdict = verify(&cache, 0, &spent, &preimage.bytes);
            let expected = if preimage.is_ground() { Ok(preimage.digest) } else { Err(PushTxError::NotGround(0)) };
            prop_assert_eq!(verdict, expected);
        }
    }
}
