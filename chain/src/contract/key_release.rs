//! Pay for a key: the seller can take the money only by showing the key that opens what it has delivered.
//!
//! ```text
//! IF    SIZE <32> EQUALVERIFY SHA256 <hash of the key> EQUALVERIFY <seller>
//! ELSE  PUSHTX  LOCKTIME_GE(T)  <buyer>
//! ENDIF CHECKSIG
//! ```
//!
//! The buyer locks the price to the hash of a 32-byte key. The seller's *claim* pushes the key, so whoever sees the claim
//! has it; if none comes, the buyer takes its money back after the refund height. The hash says nothing of what the key
//! opens: that is for whoever agreed on it to bind.
//!
//! # Who can change what
//! | spend | on the way to a miner | a miner |
//! |---|---|---|
//! | claim `<seller's signature> <key> OP_1` | the id, by another true selector than `OP_1` | the same, and longer pushes |
//! | refund `<buyer's signature> <preimage> OP_0` | the id, by another false selector than `OP_0` | the same, and longer pushes |
//!
//! Nobody can change inputs, outputs, lock time or sequence, or hide the key. As with a
//! [channel](super::channel), whoever waits for a spend watches the outpoint, not an id. Only the canonical form is
//! believed without a Merkle proof.
//!
//! A seller can make its claim of version 2, where an unlocking script may compute: the key is on the chain then, but as
//! the result of opcodes. [`KeyRelease::spend_in`] finds it wherever it is pushed whole, and says
//! [`Other`](KeyReleaseSpend::Other) where it is not; then it takes an interpreter of scripts to read it.

#![warn(clippy::arithmetic_side_effects)]

use serde::{Deserialize, Serialize};

use super::height_lock::RefundHeight;
use super::payment::{OUTPUT_SIZE, pay_to_hash};
use super::refund::{self, BRANCH_OVERHEAD, RefundError};
use super::spend::{Party, SIGNATURE_PUSH, SpendError, TX_OVERHEAD, pushes, sign, verify_signature};
use crate::amount::Satoshis;
use crate::encode::sha256;
use crate::fee::FeeRate;
use crate::id::OutPoint;
use crate::keys::{PrivateKey, PublicKey};
use crate::script::{Op, Script, op};
use crate::sighash::SighashCache;
use crate::tx::{Transaction, TxIn, TxOut};

/// Bytes of a key.
pub const KEY_SIZE: usize = 32;

/// How the locking script begins: the key has 32 bytes, and this hash.
const CHECK_KEY: [u8; 7] = [op::IF, op::SIZE, 1, 32, op::EQUALVERIFY, op::SHA256, 32];

/// Bytes of the locking script beside the push of the refund height, which takes 1 to 5: 235 in all for the heights of
/// regtest from 128 to 32,767, 236 for those of the main network.
pub const LOCKING_OVERHEAD: usize = CHECK_KEY.len() + 32 + 2 + PublicKey::SIZE + 1 + BRANCH_OVERHEAD + 2;

/// The most bytes a claim takes: one input with a signature and the key, one output.
pub const CLAIM_SIZE: usize =
    TX_OVERHEAD + OutPoint::SIZE + 1 + (SIGNATURE_PUSH + 1 + KEY_SIZE + 1) + 4 + OUTPUT_SIZE;

/// Who sells a key to whom, and from when on the buyer may take its money back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyReleaseTerms {
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// Reveals the key and is paid for it.
    pub seller: PublicKey,
    /// Funds the contract.
    pub buyer: PublicKey,
    /// From this lock time on the buyer needs no seller. The claim has to be mined before.
    pub refund_height: RefundHeight,
}

impl KeyReleaseTerms {
    /// The locking script of the contract.
    pub fn locking(&self) -> Script {
        Script::builder()
            .raw(&CHECK_KEY)
            .raw(&self.key_hash)
            .op(op::EQUALVERIFY)
            .push(&self.seller.to_bytes())
            .op(op::ELSE)
            .raw(&refund::branch(self.refund_height, &self.buyer))
            .op(op::ENDIF)
            .op(op::CHECKSIG)
            .build()
    }

    /// The terms in a script that is exactly [`KeyReleaseTerms::locking`] of them.
    pub fn parse(script: &Script) -> Option<Self> {
        let (key_hash, rest) = script.as_bytes().strip_prefix(&CHECK_KEY)?.split_first_chunk::<32>()?;
        let (seller, rest) = rest.strip_prefix(&[op::EQUALVERIFY, 33])?.split_first_chunk::<33>()?;
        let (refund_height, buyer, rest) = refund::strip_branch(rest.strip_prefix(&[op::ELSE])?)?;
        if rest != [op::ENDIF, op::CHECKSIG] {
            return None;
        }
        let (seller, buyer) = (PublicKey::from_bytes(seller).ok()?, PublicKey::from_bytes(buyer).ok()?);
        Some(KeyReleaseTerms { key_hash: *key_hash, seller, buyer, refund_height })
    }

    /// The most bytes the refund of such a contract takes: 554 to 558, by the refund height.
    pub fn refund_size(&self) -> usize {
        refund::size(LOCKING_OVERHEAD.saturating_add(self.refund_height.push().len()))
    }

    /// Whether this is the key that is sold.
    pub fn is_key(&self, key: &[u8; KEY_SIZE]) -> bool {
        sha256(key) == self.key_hash
    }
}

/// Why a claim cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another key was sold.
    #[error("this is not the key that was sold: its hash is another than the contract's")]
    WrongKey,
    /// The signing key is not the seller's.
    #[error("this key cannot sign the claim: the contract's seller is {0}")]
    NotTheSeller(PublicKey),
    /// There is nothing left for an output.
    #[error(
        "the contract holds {value}, which does not pay for its claim: that costs {fee}; lower the fee rate"
    )]
    TooSmall {
        /// What the contract holds.
        value: Satoshis,
        /// What the miner is to get.
        fee: Satoshis,
    },
}

/// What a transaction does to the contract; see [`KeyRelease::spend_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyReleaseSpend {
    /// The seller takes the money.
    Claim {
        /// The key that it reveals.
        key: [u8; KEY_SIZE],
    },
    /// The buyer takes it back.
    Refund,
    /// Neither can be seen: valid, it is a claim whose key is the result of opcodes, or a refund whose selector is.
    Other,
}

/// A funded contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRelease {
    terms: KeyReleaseTerms,
    outpoint: OutPoint,
    output: TxOut,
}

impl KeyRelease {
    /// The contract that is funded by the output of `value` at `outpoint`, whose locking script is that of `terms`.
    pub fn new(terms: KeyReleaseTerms, outpoint: OutPoint, value: Satoshis) -> Self {
        KeyRelease { terms, outpoint, output: TxOut { value, locking: terms.locking() } }
    }

    /// Who sells what to whom.
    pub const fn terms(&self) -> &KeyReleaseTerms {
        &self.terms
    }

    /// The output that funds it.
    pub const fn outpoint(&self) -> OutPoint {
        self.outpoint
    }

    /// The value and locking script of that output.
    pub const fn output(&self) -> &TxOut {
        &self.output
    }

    /// The claim: reveals `key`, and pays what is left after the fee to `to`.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn claim(
        &self,
        key: &[u8; KEY_SIZE],
        seller: &PrivateKey,
        to: &[u8; 20],
        rate: FeeRate,
    ) -> Result<Transaction, ClaimError> {
        if seller.public() != self.terms.seller {
            return Err(ClaimError::NotTheSeller(self.terms.seller));
        }
        if !self.terms.is_key(key) {
            return Err(ClaimError::WrongKey);
        }
        let (value, fee) = (self.output.value, rate.fee(CLAIM_SIZE));
        let left = value.saturating_sub(fee);
        if left.is_zero() {
            return Err(ClaimError::TooSmall { value, fee });
        }
        let mut tx = Transaction::new(vec![TxIn::new(self.outpoint)], vec![pay_to_hash(to, left)]);
        let digest = SighashCache::new(&tx).digest(0, &self.output.locking, value);
        if let Some(input) = tx.inputs.first_mut() {
            input.unlocking = Script::builder().push(&sign(seller, &digest)).push(key).op(op::TRUE).build();
        }
        Ok(tx)
    }

    /// The buyer's refund to `to`, locked to the refund height: it is final in the block after that height and later,
    /// and nobody should be sent it before.
    ///
    /// # Errors
    /// [`RefundError`].
    pub fn refund(
        &self,
        buyer: &PrivateKey,
        to: &[u8; 20],
        rate: FeeRate,
    ) -> Result<Transaction, RefundError> {
        let lock = (self.terms.refund_height, self.terms.buyer);
        refund::sign_refund((self.outpoint, &self.output), lock, buyer, to, rate)
    }

    /// What a transaction does to the contract; `None` if it does not spend it. A key that is found is the right one,
    /// whether the claim is ever mined or not. Believe the rest if the transaction is proven, in whatever form a miner
    /// put it into a block; unmined, if [`verify_input`](super::verify_input) accepts it too.
    pub fn spend_in(&self, tx: &Transaction) -> Option<KeyReleaseSpend> {
        let input = tx.inputs.iter().find(|input| input.previous == self.outpoint)?;
        if refund::takes_branch(&input.unlocking) {
            return Some(KeyReleaseSpend::Refund);
        }
        Some(
            self.key_in(&input.unlocking)
                .map_or(KeyReleaseSpend::Other, |key| KeyReleaseSpend::Claim { key }),
        )
    }

    /// The key, wherever it is pushed: what counts is that it is the one.
    fn key_in(&self, unlocking: &Script) -> Option<[u8; KEY_SIZE]> {
        let pushed = unlocking.pushes().map_while(Result::ok).filter_map(|op: Op<'_>| op.data());
        pushed.filter_map(|data| data.try_into().ok()).find(|key| self.terms.is_key(key))
    }
}

/// Checks that the input at `index` spends `spent`, whose locking script is that of `terms`: the seller has signed and
/// shows the key, or the buyer has signed and the lock is respected. `cache` is the one of the transaction.
///
/// # Errors
/// [`SpendError`] with what is wrong.
pub fn verify_key_release_spend(
    cache: &SighashCache<'_>,
    index: usize,
    spent: &TxOut,
    terms: &KeyReleaseTerms,
) -> Result<(), SpendError> {
    match pushes(cache.transaction(), index)?.as_slice() {
        [signature, key, [1]] => {
            let key = <&[u8; KEY_SIZE]>::try_from(*key)
                .map_err(|_| SpendError::KeyLength { index, found: key.len() })?;
            if !terms.is_key(key) {
                return Err(SpendError::WrongKey(index));
            }
            let digest = cache.digest(index, &spent.locking, spent.value);
            verify_signature(index, Party::Seller, &terms.seller, &digest, signature)
        }
        [signature, preimage, []] => {
            let lock = (terms.refund_height, &terms.buyer);
            refund::verify(cache, index, spent, lock, (signature, preimage))
        }
        _ => Err(SpendError::Unlocking(index)),
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests;
