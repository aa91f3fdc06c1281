//! A payment channel that goes one way: the buyer locks an amount once, and pays the seller any number of times without
//! the chain.
//!
//! The output can be spent by both together, or after the refund height by the buyer alone:
//!
//! ```text
//! IF    2 <buyer> <seller> 2 CHECKMULTISIG
//! ELSE  PUSHTX  LOCKTIME_GE(T)  <buyer> CHECKSIG
//! ENDIF
//! ```
//!
//! A [`Voucher`] is the buyer's signature of the *close*: the one transaction that gives the seller an amount and the
//! buyer the rest, less a fee that is fixed at opening. Each voucher pays all that was paid before and more, so the
//! seller keeps the highest and needs no other, and no old state can hurt anybody. To be paid it adds its own signature
//! and has the close mined before the refund height.
//!
//! The close has exactly one input, and that one is final. Both matter: a node that holds a refund back because it
//! comes too early replaces it only by a final transaction with the same inputs, so nobody may add an input for a higher
//! fee.
//!
//! # Who can change what
//! | spend | on the way to a miner | a miner |
//! |---|---|---|
//! | close `OP_0 <buyer's signature> <seller's signature> OP_1` | the id, by another true selector than `OP_1` | the same, and another dummy than `OP_0` |
//! | refund `<buyer's signature> <preimage> OP_0` | the id, by another false selector than `OP_0` | the same, and longer pushes |
//!
//! Nobody can change inputs, outputs, lock time or sequence. The selector is signed by nobody and nodes relay any true or
//! false value (`MINIMALIF` is no rule of BSV), so whoever waits for a spend watches the *outpoint* and reads what spends
//! it with [`Channel::spend_in`], and builds nothing on the outputs of a spend that is not mined. Only the canonical form
//! is believed without a Merkle proof.

#![warn(clippy::arithmetic_side_effects)]

mod voucher;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use voucher::{Voucher, VoucherError};

use super::height_lock::RefundHeight;
use super::payment::{OUTPUT_SIZE, pay_to_hash};
use super::refund::{self, BRANCH_OVERHEAD, RefundError};
use super::spend::{Party, SIGNATURE_PUSH, SpendError, TX_OVERHEAD, pushes, verify_signature};
use crate::amount::Satoshis;
use crate::encode::sha256;
use crate::fee::FeeRate;
use crate::id::OutPoint;
use crate::keys::{PrivateKey, PublicKey};
use crate::script::{Script, op};
use crate::sighash::{ALL_FORKID, SighashCache};
use crate::tx::{SEQUENCE_FINAL, Transaction, TxIn, TxOut, VERSION};

/// Bytes of the locking script beside the push of the refund height, which takes 1 to 5: 233 in all for the heights of
/// regtest from 128 to 32,767, 234 for those of the main network.
pub const LOCKING_OVERHEAD: usize = 3 + PublicKey::SIZE + 1 + PublicKey::SIZE + 3 + BRANCH_OVERHEAD + 2;

/// The most bytes a close takes: one input with two signatures, two outputs. It is 265 to 267 in nearly all cases,
/// and 34 less where all goes to one side.
pub const CLOSE_SIZE: usize =
    TX_OVERHEAD + OutPoint::SIZE + 1 + (1 + 2 * SIGNATURE_PUSH + 1) + 4 + 2 * OUTPUT_SIZE;

/// The last bytes of a preimage, from the hash of the outputs on: that, the lock time and the type.
const PREIMAGE_TAIL: usize = 32 + 4 + 4;

/// Who shares a channel, and from when on the buyer alone may take what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelTerms {
    /// Funds the channel and signs vouchers.
    pub buyer: PublicKey,
    /// Is paid by vouchers and closes the channel.
    pub seller: PublicKey,
    /// From this lock time on the buyer needs no seller. The close has to be mined before.
    pub refund_height: RefundHeight,
}

impl ChannelTerms {
    /// The locking script of the channel.
    pub fn locking(&self) -> Script {
        Script::builder()
            .op(op::IF)
            .op(op::N2)
            .push(&self.buyer.to_bytes())
            .push(&self.seller.to_bytes())
            .op(op::N2)
            .op(op::CHECKMULTISIG)
            .op(op::ELSE)
            .raw(&refund::branch(self.refund_height, &self.buyer))
            .op(op::CHECKSIG)
            .op(op::ENDIF)
            .build()
    }

    /// The terms in a script that is exactly [`ChannelTerms::locking`] of them.
    pub fn parse(script: &Script) -> Option<Self> {
        let (buyer, rest) =
            script.as_bytes().strip_prefix(&[op::IF, op::N2, 33])?.split_first_chunk::<33>()?;
        let (seller, rest) = rest.strip_prefix(&[33])?.split_first_chunk::<33>()?;
        let rest = rest.strip_prefix(&[op::N2, op::CHECKMULTISIG, op::ELSE])?;
        let (refund_height, again, rest) = refund::strip_branch(rest)?;
        if again != buyer || rest != [op::CHECKSIG, op::ENDIF] {
            return None;
        }
        let (buyer, seller) = (PublicKey::from_bytes(buyer).ok()?, PublicKey::from_bytes(seller).ok()?);
        Some(ChannelTerms { buyer, seller, refund_height })
    }

    /// The most bytes the refund of such a channel takes: 552 to 556, by the refund height.
    pub fn refund_size(&self) -> usize {
        refund::size(LOCKING_OVERHEAD.saturating_add(self.refund_height.push().len()))
    }
}

/// Where a close pays to and what it leaves to the miner: agreed when the channel is opened, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CloseTerms {
    /// The hash of the key that the seller is paid to.
    pub seller_hash: [u8; 20],
    /// The hash of the key that the rest goes back to.
    pub buyer_hash: [u8; 20],
    /// What the miner gets; see [`CloseTerms::fee_at`].
    pub fee: Satoshis,
}

impl CloseTerms {
    /// The fee of the largest close at a rate. Rates can rise while the channel is open and the fee cannot, so this is
    /// the least to agree on.
    pub fn fee_at(rate: FeeRate) -> Satoshis {
        rate.fee(CLOSE_SIZE)
    }
}

/// Why an output cannot be used as a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// A close would leave nothing to pay with.
    #[error("a channel of {value} pays nothing: its close costs {fee}; put more into it")]
    TooSmall {
        /// What is in it.
        value: Satoshis,
        /// The fee of the close.
        fee: Satoshis,
    },
    /// No miner takes a close for nothing.
    #[error("the fee of a close is nothing, so nobody would mine it; agree on at least 1 sat")]
    NoFee,
    /// It could not be told who is paid.
    #[error("a close would pay seller and buyer to the same key; agree on two")]
    SameHash,
}

/// What a transaction does to a channel; see [`Channel::spend_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelSpend {
    /// It settles the channel.
    Close {
        /// What the seller gets.
        paid: Satoshis,
    },
    /// The buyer takes it all back, alone, to wherever it likes.
    Refund,
    /// Both signed something else.
    Other,
}

/// A funded channel. What is the same for all its vouchers is computed once, here.
#[derive(Clone, Debug)]
pub struct Channel {
    terms: ChannelTerms,
    close: CloseTerms,
    outpoint: OutPoint,
    output: TxOut,
    /// The hash of a close's preimage up to the hash of its outputs, which is all that differs between vouchers.
    digest_start: Sha256,
}

impl Channel {
    /// The channel that is funded by the output of `value` at `outpoint`, whose locking script is that of `terms`.
    ///
    /// # Errors
    /// [`ChannelError`] if no voucher on it could be worth anything.
    pub fn new(
        terms: ChannelTerms,
        close: CloseTerms,
        outpoint: OutPoint,
        value: Satoshis,
    ) -> Result<Self, ChannelError> {
        if close.fee.is_zero() {
            return Err(ChannelError::NoFee);
        }
        if close.seller_hash == close.buyer_hash {
            return Err(ChannelError::SameHash);
        }
        if value <= close.fee {
            return Err(ChannelError::TooSmall { value, fee: close.fee });
        }
        let output = TxOut { value, locking: terms.locking() };
        let any_close = Transaction::new(vec![TxIn::new(outpoint)], Vec::new());
        let preimage = SighashCache::new(&any_close)
            .preimage(0, &output.locking, value, u32::from(ALL_FORKID))
            .unwrap_or_default();
        let start = preimage.len().saturating_sub(PREIMAGE_TAIL);
        let digest_start = Sha256::new_with_prefix(preimage.get(..start).unwrap_or_default());
        Ok(Channel { terms, close, outpoint, output, digest_start })
    }

    /// Who shares it, and until when.
    pub const fn terms(&self) -> &ChannelTerms {
        &self.terms
    }

    /// How it is closed.
    pub const fn close_terms(&self) -> &CloseTerms {
        &self.close
    }

    /// The output that funds it.
    pub const fn outpoint(&self) -> OutPoint {
        self.outpoint
    }

    /// The value and locking script of that output.
    pub const fn output(&self) -> &TxOut {
        &self.output
    }

    /// The most that vouchers on it can pay: its value less the fee of the close.
    pub const fn capacity(&self) -> Satoshis {
        self.output.value.saturating_sub(self.close.fee)
    }

    /// The close that pays `paid` to the seller, not signed yet. An output of nothing is left out.
    ///
    /// # Errors
    /// [`VoucherError::TooMuch`] above the capacity.
    pub fn close(&self, paid: Satoshis) -> Result<Transaction, VoucherError> {
        Ok(Transaction::new(vec![TxIn::new(self.outpoint)], self.close_outputs(paid)?))
    }

    fn close_outputs(&self, paid: Satoshis) -> Result<Vec<TxOut>, VoucherError> {
        let capacity = self.capacity();
        let rest = capacity.checked_sub(paid).map_err(|_| VoucherError::TooMuch { paid, capacity })?;
        let outputs = [(&self.close.seller_hash, paid), (&self.close.buyer_hash, rest)];
        let some = outputs.into_iter().filter(|(_, value)| !value.is_zero());
        Ok(some.map(|(hash, value)| pay_to_hash(hash, value)).collect())
    }

    /// The digest that both sign for the close which pays `paid`.
    fn close_digest(&self, paid: Satoshis) -> Result<[u8; 32], VoucherError> {
        let mut outputs = Vec::with_capacity(2 * OUTPUT_SIZE);
        self.close_outputs(paid)?.iter().for_each(|output| output.write(&mut outputs));
        let mut digest = self.digest_start.clone();
        digest.update(crate::encode::sha256d(&outputs));
        digest.update(0u32.to_le_bytes());
        digest.update(u32::from(ALL_FORKID).to_le_bytes());
        Ok(sha256(&digest.finalize()))
    }

    /// What `paid` is if the transaction is the close of this channel for that amount, whatever its unlocking script.
    fn paid_by(&self, tx: &Transaction) -> Result<Satoshis, VoucherError> {
        let [input] = tx.inputs.as_slice() else { return Err(VoucherError::NotTheClose(self.outpoint)) };
        let bare = tx.version == VERSION && tx.lock_time == 0;
        if !bare || input.previous != self.outpoint || input.sequence != SEQUENCE_FINAL {
            return Err(VoucherError::NotTheClose(self.outpoint));
        }
        let paid = match tx.outputs.first() {
            Some(first) if first.locking == Script::p2pkh(&self.close.seller_hash) => first.value,
            _ => Satoshis::ZERO,
        };
        match self.close_outputs(paid) {
            Ok(outputs) if outputs == tx.outputs => Ok(paid),
            _ => Err(VoucherError::Outputs(self.outpoint)),
        }
    }

    /// What a transaction does to the channel; `None` if it does not spend it. Believe the answer if the transaction
    /// is proven, in whatever form a miner put it into a block; unmined, if [`verify_input`](super::verify_input) accepts it too.
    pub fn spend_in(&self, tx: &Transaction) -> Option<ChannelSpend> {
        let input = tx.inputs.iter().find(|input| input.previous == self.outpoint)?;
        Some(match self.paid_by(tx) {
            Ok(paid) => ChannelSpend::Close { paid },
            Err(_) if refund::takes_branch(&input.unlocking) => ChannelSpend::Refund,
            Err(_) => ChannelSpend::Other,
        })
    }

    /// The buyer's refund to its hash, locked to the refund height: it is final in the block after that height and
    /// later, and nobody should be sent it before.
    ///
    /// # Errors
    /// [`RefundError`].
    pub fn refund(&self, buyer: &PrivateKey, rate: FeeRate) -> Result<Transaction, RefundError> {
        let lock = (self.terms.refund_height, self.terms.buyer);
        refund::sign_refund((self.outpoint, &self.output), lock, buyer, &self.close.buyer_hash, rate)
    }
}

/// Checks that the input at `index` spends `spent`, whose locking script is that of `terms`: both have signed, or the
/// buyer has and the lock is respected. `cache` is the one of the transaction.
///
/// # Errors
/// [`SpendError`] with what is wrong.
pub fn verify_channel_spend(
    cache: &SighashCache<'_>,
    index: usize,
    spent: &TxOut,
    terms: &ChannelTerms,
) -> Result<(), SpendError> {
    match pushes(cache.transaction(), index)?.as_slice() {
        [[], buyer, seller, [1]] => {
            let digest = cache.digest(index, &spent.locking, spent.value);
            verify_signature(index, Party::Buyer, &terms.buyer, &digest, buyer)?;
            verify_signature(index, Party::Seller, &terms.seller, &digest, seller)
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
