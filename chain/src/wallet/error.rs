//! What the wallet refuses, and why.

use super::{MAX_LABEL, MAX_OUTPUTS, Status};
use crate::beef::BeefError;
use crate::keys::KeyError;
use crate::merkle_path::MerklePathError;
use crate::{AmountError, OutPoint, Satoshis, Txid};

/// Why the wallet did not do what it was asked. It is unchanged whenever one of these is returned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WalletError {
    /// Not enough spendable coins.
    #[error(
        "{needed} sat are needed, fee included, and {available} sat can be spent now; fund the wallet, or wait until reserved coins are released"
    )]
    Funds {
        /// Payment and least fee.
        needed: u64,
        /// What is spendable.
        available: u64,
    },
    /// The fee would exceed what the caller allows.
    #[error("the fee would be {fee}, above the limit of {limit}; raise the limit or lower the fee rate")]
    FeeAboveLimit {
        /// The lowest fee found.
        fee: Satoshis,
        /// The caller's `max_fee`.
        limit: Satoshis,
    },
    /// An output that would not be relayed.
    #[error("output {index}: {reason}")]
    Output {
        /// Its position.
        index: usize,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// Too few or too many outputs.
    #[error("a payment has between 1 and {MAX_OUTPUTS} outputs, not {count}")]
    OutputCount {
        /// How many there are.
        count: usize,
    },
    /// The label is longer than [`MAX_LABEL`].
    #[error("the label has {len} bytes, the limit is {MAX_LABEL}")]
    LabelTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The wallet has no such transaction.
    #[error("the wallet does not know transaction {0}")]
    UnknownTransaction(Txid),
    /// The transaction's bytes are no longer kept.
    #[error("transaction {0} is finished and pruned; only its line in the history is left")]
    Pruned(Txid),
    /// Two transactions use one coin and the other one stands.
    #[error("{txid} spends {outpoint}, which {other} spends already")]
    Conflict {
        /// The transaction of the call, or an ancestor of it.
        txid: Txid,
        /// The one that stands.
        other: Txid,
        /// The coin.
        outpoint: OutPoint,
    },
    /// What is in a block cannot be rejected.
    #[error("{txid} is in the block at height {height}; if that block is gone, call `unmined` first")]
    AlreadyMined {
        /// The transaction.
        txid: Txid,
        /// The block's height.
        height: u32,
    },
    /// What is this deep can no longer be undone, since the coins it spent are forgotten.
    #[error("{0} was buried in the chain and its coins were forgotten; it cannot be rejected any more")]
    Sealed(Txid),
    /// Only an unbroadcast payment of our own can be reclaimed.
    #[error("{txid} cannot be reclaimed: it is {status}")]
    NotReclaimable {
        /// The payment.
        txid: Txid,
        /// Where it stands.
        status: Status,
    },
    /// A payment is to spend this output, and cannot.
    #[error("output {0} cannot be spent now: it is spent, reserved or not ours")]
    NotSpendable(OutPoint),
    /// The output does not pay the key it is said to pay.
    #[error(
        "output {0} is not locked to the key it was announced for; check counterparty and invoice number"
    )]
    NotOurs(OutPoint),
    /// A coinbase cannot be spent for 100 blocks and may vanish.
    #[error("{0} is a coinbase; have it paid on once it is mature")]
    Coinbase(Txid),
    /// No header at that height is known.
    #[error(
        "the proof of {txid} is for height {height}, where no header is known yet; sync headers and try again"
    )]
    NoHeader {
        /// The transaction.
        txid: Txid,
        /// The block's height.
        height: u32,
    },
    /// The proof leads to another Merkle root.
    #[error("the proof of {txid} does not lead to the Merkle root of the block at height {height}")]
    WrongProof {
        /// The transaction.
        txid: Txid,
        /// The block's height.
        height: u32,
    },
    /// An ancestor that a BEEF needs is not in the wallet.
    #[error("{txid} is unproven and its parent {parent} is not in the wallet; wait for its Merkle path")]
    MissingAncestor {
        /// The child.
        txid: Txid,
        /// The parent.
        parent: Txid,
    },
    /// A BEEF would be larger than allowed.
    #[error("{txid} with its unproven ancestors takes more than {limit} bytes; wait for a block")]
    BeefTooLarge {
        /// The subject.
        txid: Txid,
        /// The limit in bytes.
        limit: usize,
    },
    /// What a payment could be made of rests on too many unproven transactions.
    #[error(
        "the coins that are left rest on more than {limit} transactions in a row that are in no block; wait for a block"
    )]
    AncestryTooDeep {
        /// The limit in generations, [`MAX_BEEF_DEPTH`](super::MAX_BEEF_DEPTH).
        limit: u32,
    },
    /// The stored state is not a wallet, or not of a version this program reads.
    #[error("the stored wallet cannot be read: {0}")]
    Stored(String),
    /// The stored record of one transaction is damaged or another one's.
    #[error(
        "the wallet's stored record of transaction {txid} cannot be read: {reason}; restore a backup of this home"
    )]
    StoredRecord {
        /// The transaction under whose id the record stands.
        txid: Txid,
        /// What is wrong with it.
        reason: String,
    },
    /// A sum or counter leaves its range.
    #[error("an amount or a counter of the wallet leaves its range")]
    Overflow,
    /// An amount is out of range.
    #[error(transparent)]
    Amount(#[from] AmountError),
    /// A Merkle path is malformed.
    #[error(transparent)]
    MerklePath(#[from] MerklePathError),
    /// A BEEF could not be made.
    #[error(transparent)]
    Beef(#[from] BeefError),
    /// A key could not be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}
