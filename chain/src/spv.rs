//! Simplified payment verification (BRC-67): whether to believe a transaction, given nothing but block headers.
//!
//! A transaction is believed if a Merkle path leads from it to a header of the best chain, or if all its inputs spend
//! outputs of transactions that are believed, under every rule that a miner will apply. What a verifier without the
//! set of all coins cannot see is whether an unproven transaction competes with another one somewhere else: until it
//! is mined, that risk remains, and [`SpvProof::is_mined`] says which case it is.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::{HashMap, HashSet};

use crate::amount::{AmountError, Satoshis};
use crate::beef::{Beef, BeefError, BeefTx, Proof};
use crate::contract::{self, TemplateError};
use crate::header::{HeaderView, confirmations};
use crate::id::{OutPoint, Txid};
use crate::merkle_path::MerklePath;
use crate::sighash::SighashCache;
use crate::tx::{Transaction, TxOut, VERSION};

/// New coins can be spent after this many confirmations (consensus).
pub const COINBASE_MATURITY: u32 = 100;

/// A transaction of this length could be two hashes of a Merkle tree that look like a transaction.
const INNER_NODE_SIZE: usize = 64;

/// Why a transaction is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpvError {
    /// The transaction is not there at all.
    #[error(transparent)]
    Beef(#[from] BeefError),
    /// Its block is not on the chain we follow, or we do not follow it that far yet.
    #[error(
        "transaction {txid} is said to be in block {height}, our headers end at {tip}; fetch headers and try again"
    )]
    NoHeader {
        /// The transaction.
        txid: Txid,
        /// The height of its Merkle path.
        height: u32,
        /// The height of our last header.
        tip: u32,
    },
    /// The Merkle path leads to another root than the header's.
    #[error(
        "the Merkle path of transaction {txid} does not lead to the header at height {height} of our best chain"
    )]
    WrongRoot {
        /// The transaction.
        txid: Txid,
        /// The height of its Merkle path.
        height: u32,
    },
    /// Could be an inner node of the Merkle tree.
    #[error("transaction {0} has exactly 64 bytes, so its Merkle path proves nothing")]
    AmbiguousSize(Txid),
    /// New coins that cannot be spent yet.
    #[error("transaction {txid} makes new coins and has {confirmations} confirmations, it needs 100")]
    ImmatureCoinbase {
        /// The transaction.
        txid: Txid,
        /// Its confirmations.
        confirmations: u32,
    },
    /// New coins without a block.
    #[error("transaction {0} makes new coins but no Merkle path proves it")]
    UnprovenCoinbase(Txid),
    /// Not version 1.
    #[error(
        "transaction {txid} has no Merkle path and version {version}; only version 1 keeps its id on the way to a miner"
    )]
    Version {
        /// The transaction.
        txid: Txid,
        /// Its version.
        version: u32,
    },
    /// Cannot be mined yet, or not as far as headers tell.
    #[error(
        "transaction {txid} is locked to {lock_time} and our headers end at {tip}; it is believed once they reach that height, or with a Merkle path"
    )]
    NotFinal {
        /// The transaction.
        txid: Txid,
        /// Its lock time: a height, or from 500,000,000 on a Unix time.
        lock_time: u32,
        /// The height of our last header.
        tip: u32,
    },
    /// Spends or makes nothing.
    #[error("transaction {0} has no inputs or no outputs")]
    Empty(Txid),
    /// A parent is missing, or is not believed itself.
    #[error("transaction {txid} spends {spent}, whose transaction is not in the BEEF")]
    MissingParent {
        /// The transaction.
        txid: Txid,
        /// What it spends.
        spent: OutPoint,
    },
    /// The parent has no such output.
    #[error("transaction {txid} spends {spent}, an output that does not exist")]
    MissingOutput {
        /// The transaction.
        txid: Txid,
        /// What it spends.
        spent: OutPoint,
    },
    /// One output is spent twice.
    #[error("output {0} is spent twice within the BEEF")]
    DoubleSpend(OutPoint),
    /// More goes out than comes in, or more than all coins.
    #[error("the amounts of transaction {txid} do not add up: {source}")]
    Amount {
        /// The transaction.
        txid: Txid,
        /// What does not add up.
        source: AmountError,
    },
    /// An output of nothing that could be spent: miners refuse it.
    #[error(
        "output {vout} of transaction {txid} is empty but could be spent, so no miner takes the transaction"
    )]
    Dust {
        /// The transaction.
        txid: Txid,
        /// The output.
        vout: usize,
    },
    /// The script was not satisfied, or is none that we can judge.
    #[error("transaction {txid}: {source}")]
    Script {
        /// The transaction.
        txid: Txid,
        /// What is wrong with which input.
        source: TemplateError,
    },
}

/// A transaction that a Merkle path ties to a header of the best chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mined {
    /// The transaction.
    pub txid: Txid,
    /// The height of its block.
    pub height: u32,
    /// Blocks that confirm it, its own included.
    pub confirmations: u32,
}

/// A transaction that follows from its parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmined {
    /// The transaction.
    pub txid: Txid,
    /// Its length in bytes.
    pub size: usize,
    /// What it leaves to the miner: to be compared with the fee rate, as nobody mines it for too little.
    pub fee: Satoshis,
}

/// Why a transaction is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpvProof {
    /// The transaction.
    pub subject: Txid,
    /// What headers prove, parents first.
    pub mined: Vec<Mined>,
    /// What follows from that, parents first.
    pub unmined: Vec<Unmined>,
}

impl SpvProof {
    /// The block of the transaction itself, if it is proven to be in one.
    pub fn is_mined(&self) -> Option<Mined> {
        self.mined.iter().find(|mined| mined.txid == self.subject).copied()
    }

    /// The height of the newest block that this rests on: if a reorganisation takes it, all is to be checked again.
    pub fn newest_height(&self) -> Option<u32> {
        self.mined.iter().map(|mined| mined.height).max()
    }
}

/// Checks that `subject` is believable, from what `beef` holds and the headers that we follow.
///
/// Transactions that the BEEF carries by id only were known and verified before, and are believed. The cheap checks
/// come first; signatures are looked at when all else holds.
///
/// # Errors
/// [`SpvError`] with the first thing that is wrong.
pub fn verify(beef: &Beef, subject: &Txid, headers: &impl HeaderView) -> Result<SpvProof, SpvError> {
    let needed: Vec<&BeefTx> =
        beef.needed_for(subject)?.into_iter().filter_map(|at| beef.txs().get(at)).collect();
    let mut proof = SpvProof { subject: *subject, mined: Vec::new(), unmined: Vec::new() };
    let mut spends = Spends::default();
    for entry in beef.txs() {
        spends.add(entry)?;
    }

    let mut believed: HashMap<Txid, &Transaction> = HashMap::with_capacity(needed.len());
    let mut to_check: Vec<(&BeefTx, Vec<&TxOut>)> = Vec::new();
    for entry in needed {
        let tx = entry.transaction();
        match entry.proof() {
            Proof::Known => {}
            Proof::Bump(_) => {
                let bump = beef.bump_of(&entry.txid()).ok_or(BeefError::NotInPath(entry.txid()))?;
                proof.mined.push(verify_mined(entry, bump, headers)?);
            }
            Proof::Unproven => {
                let spent = spent_outputs(entry, &believed)?;
                let fee = verify_unmined(entry, &spent, headers.tip_height())?;
                proof.unmined.push(Unmined { txid: entry.txid(), size: tx.size(), fee });
                to_check.push((entry, spent));
            }
        }
        believed.insert(entry.txid(), tx);
    }

    for (entry, spent) in to_check {
        let tx = entry.transaction();
        let cache = SighashCache::new(tx);
        for (index, spent) in spent.into_iter().enumerate() {
            contract::verify_input(tx, &cache, index, spent)
                .map_err(|source| SpvError::Script { txid: entry.txid(), source })?;
        }
    }
    Ok(proof)
}

/// Nothing is spent twice, by whatever transaction of the BEEF.
#[derive(Default)]
struct Spends(HashSet<OutPoint>);

impl Spends {
    fn add(&mut self, entry: &BeefTx) -> Result<(), SpvError> {
        for input in &entry.transaction().inputs {
            // All coinbases refer to the same: nothing.
            if input.previous != OutPoint::NULL && !self.0.insert(input.previous) {
                return Err(SpvError::DoubleSpend(input.previous));
            }
        }
        Ok(())
    }
}

fn verify_mined(entry: &BeefTx, bump: &MerklePath, headers: &impl HeaderView) -> Result<Mined, SpvError> {
    let (txid, height, tip) = (entry.txid(), bump.block_height(), headers.tip_height());
    if entry.transaction().size() == INNER_NODE_SIZE {
        return Err(SpvError::AmbiguousSize(txid));
    }
    let header = headers.header_at(height).ok_or(SpvError::NoHeader { txid, height, tip })?;
    if bump.root_for(&txid) != Some(header.merkle_root()) {
        return Err(SpvError::WrongRoot { txid, height });
    }
    let confirmations = confirmations(tip, height);
    let makes_coins = bump.offset_of(&txid) == Some(0) || entry.transaction().is_coinbase();
    if makes_coins && confirmations < COINBASE_MATURITY {
        return Err(SpvError::ImmatureCoinbase { txid, confirmations });
    }
    Ok(Mined { txid, height, confirmations })
}

/// The outputs that a transaction spends, all of them of transactions that are believed.
fn spent_outputs<'a>(
    entry: &BeefTx,
    believed: &HashMap<Txid, &'a Transaction>,
) -> Result<Vec<&'a TxOut>, SpvError> {
    let txid = entry.txid();
    if entry.transaction().is_coinbase() {
        return Err(SpvError::UnprovenCoinbase(txid));
    }
    let output_of = |spent: OutPoint| {
        let parent = believed.get(&spent.txid).ok_or(SpvError::MissingParent { txid, spent })?;
        let vout = usize::try_from(spent.vout).unwrap_or(usize::MAX);
        parent.outputs.get(vout).ok_or(SpvError::MissingOutput { txid, spent })
    };
    entry.transaction().inputs.iter().map(|input| output_of(input.previous)).collect()
}

/// Everything but the scripts; the answer is the fee.
///
/// A transaction that is locked to a height, such as the refund of a contract, is believed as soon as the next block may
/// hold it: that is the rule by which nodes and broadcasters take it, and from there on it is as good as any unmined
/// one. Before, it is a promise that its sender or a counterparty can break. A lock to a time stays refused: it is
/// decided by the median time of eleven headers, and nothing here makes one.
fn verify_unmined(entry: &BeefTx, spent: &[&TxOut], tip: u32) -> Result<Satoshis, SpvError> {
    let (txid, tx) = (entry.txid(), entry.transaction());
    if tx.inputs.is_empty() || tx.outputs.is_empty() {
        return Err(SpvError::Empty(txid));
    }
    if tx.version != VERSION {
        return Err(SpvError::Version { txid, version: tx.version });
    }
    if !tx.is_final_at(tip.saturating_add(1)) {
        return Err(SpvError::NotFinal { txid, lock_time: tx.lock_time, tip });
    }
    let dust = |output: &TxOut| output.value.is_zero() && !output.locking.is_unspendable();
    if let Some(vout) = tx.outputs.iter().position(dust) {
        return Err(SpvError::Dust { txid, vout });
    }
    let amount = |source| SpvError::Amount { txid, source };
    let input_sum = Satoshis::sum(spent.iter().map(|output| output.value)).map_err(amount)?;
    let output_sum = tx.output_sum().map_err(amount)?;
    input_sum.checked_sub(output_sum).map_err(amount)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests;
