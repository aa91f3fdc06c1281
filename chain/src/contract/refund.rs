//! The buyer's way out of a contract, the same in both: after the refund height it takes back what is there, alone.
//!
//! `PUSHTX LOCKTIME_GE(T) <buyer>` in the locking script, and `<buyer's signature> <preimage> OP_0` to spend it. Nothing
//! has to be signed in advance, so the refund does not depend on the id of the funding transaction, or on the seller.

#![warn(clippy::arithmetic_side_effects)]

use super::height_lock::{LOCK_OVERHEAD, RefundHeight};
use super::payment::{OUTPUT_SIZE, pay_to_hash};
use super::push_tx::{self, PREIMAGE_OVERHEAD, PushTxError};
use super::spend::{Party, SIGNATURE_PUSH, SpendError, TX_OVERHEAD, sign, verify_signature};
use crate::amount::Satoshis;
use crate::fee::FeeRate;
use crate::id::OutPoint;
use crate::keys::{PrivateKey, PublicKey};
use crate::script::{Op, Script, op};
use crate::sighash::SighashCache;
use crate::tx::{Transaction, TxIn, TxOut};

/// Bytes of the branch in a locking script, beside the push of the height.
pub(super) const BRANCH_OVERHEAD: usize = push_tx::BLOCK.len() + LOCK_OVERHEAD + 1 + PublicKey::SIZE;

/// Why a refund cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefundError {
    /// The key is not the buyer's.
    #[error("this key cannot take the refund: the contract's buyer is {0}")]
    WrongKey(PublicKey),
    /// There is nothing left for an output.
    #[error(
        "the contract holds {value}, which does not pay for its refund: that costs {fee}; lower the fee rate"
    )]
    TooSmall {
        /// What the contract holds.
        value: Satoshis,
        /// What the miner is to get.
        fee: Satoshis,
    },
    /// Practically impossible.
    #[error(transparent)]
    PushTx(#[from] PushTxError),
}

/// The branch, up to the buyer's key.
pub(super) fn branch(height: RefundHeight, buyer: &PublicKey) -> Vec<u8> {
    let key = buyer.to_bytes();
    [push_tx::BLOCK.as_slice(), &height.locking(), &[33], &key].concat()
}

/// Reads exactly what [`branch`] writes: the height, the buyer's key in bytes, and what comes after it.
pub(super) fn strip_branch(script: &[u8]) -> Option<(RefundHeight, &[u8; PublicKey::SIZE], &[u8])> {
    let (height, script) = RefundHeight::strip(script.strip_prefix(&push_tx::BLOCK)?)?;
    let (buyer, script) = script.strip_prefix(&[33])?.split_first_chunk()?;
    Some((height, buyer, script))
}

/// The most bytes that the refund of an output with a locking script of this length takes: 321 and the script, which
/// is in the preimage.
pub(super) const fn size(locking: usize) -> usize {
    let preimage = PREIMAGE_OVERHEAD.saturating_add(locking);
    // The preimage is pushed with OP_PUSHDATA2, and the selector is one byte.
    let unlocking = SIGNATURE_PUSH.saturating_add(3).saturating_add(preimage).saturating_add(1);
    // The length of such an unlocking script takes three bytes.
    TX_OVERHEAD.saturating_add(OutPoint::SIZE + 3 + 4).saturating_add(unlocking).saturating_add(OUTPUT_SIZE)
}

/// The refund: one input, one output to `to`, locked to exactly the refund height.
pub(super) fn sign_refund(
    (outpoint, spent): (OutPoint, &TxOut),
    (height, buyer): (RefundHeight, PublicKey),
    key: &PrivateKey,
    to: &[u8; 20],
    rate: FeeRate,
) -> Result<Transaction, RefundError> {
    if key.public() != buyer {
        return Err(RefundError::WrongKey(buyer));
    }
    let fee = rate.fee(size(spent.locking.len()));
    let back = spent.value.saturating_sub(fee);
    if back.is_zero() {
        return Err(RefundError::TooSmall { value: spent.value, fee });
    }
    let mut tx = Transaction::new(vec![TxIn::new(outpoint)], vec![pay_to_hash(to, back)]);
    tx.lock_time = height.get();
    let preimage = push_tx::grind(&mut tx, 0, spent)?;
    let unlocking =
        Script::builder().push(&sign(key, &preimage.digest)).push(&preimage.bytes).op(op::FALSE).build();
    if let Some(input) = tx.inputs.first_mut() {
        input.unlocking = unlocking;
    }
    Ok(tx)
}

/// Checks what the branch checks.
pub(super) fn verify(
    cache: &SighashCache<'_>,
    index: usize,
    spent: &TxOut,
    (height, buyer): (RefundHeight, &PublicKey),
    (signature, preimage): (&[u8], &[u8]),
) -> Result<(), SpendError> {
    height.verify(cache.transaction(), index)?;
    let digest = push_tx::verify(cache, index, spent, preimage)?;
    verify_signature(index, Party::Buyer, buyer, &digest, signature)
}

/// Whether the script takes the buyer's branch, in whatever form a miner may have put it into a block: nothing but
/// pushes, and the last of them counts as false.
pub(super) fn takes_branch(unlocking: &Script) -> bool {
    let mut last = None;
    for step in unlocking.pushes() {
        match step {
            Ok(Op::Push { data, .. }) => last = Some(data),
            _ => return false,
        }
    }
    // Negative zero is false, too.
    last.is_some_and(|data| match data.split_last() {
        Some((end, rest)) => matches!(end, 0 | 0x80) && rest.iter().all(|byte| *byte == 0),
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_false_selector_takes_the_branch() {
        let script = |bytes: &[u8]| Script::new([&[2, 7, 7], bytes].concat());
        for taken in [&[0][..], &[1, 0], &[1, 0x80], &[2, 0, 0], &[2, 0, 0x80], &[0x4c, 0]] {
            assert!(takes_branch(&script(taken)), "{taken:?}");
        }
        for other in [&[0x51][..], &[0x4f], &[1, 1], &[2, 0x80, 0], &[0x61], &[0, 0x61], &[2, 0]] {
            assert!(!takes_branch(&script(other)), "{other:?}");
        }
        assert!(!takes_branch(&Script::default()));
    }
}
