//! BEEF: a transaction together with all that is needed to believe it (BRC-62, BRC-96, BRC-95).
//!
//! Each transaction in it either has a Merkle path or has its parents in it too, and parents come first. Parsing
//! checks this shape within the limits that are given; whether the proofs hold is for [`crate::spv`] to say.

mod codec;
mod graph;

use std::collections::HashMap;

use crate::encode::DecodeError;
use crate::id::Txid;
use crate::merkle_path::{MerklePath, MerklePathError};
use crate::tx::Transaction;

/// Why bytes or transactions make no BEEF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeefError {
    /// The bytes are not a BEEF.
    #[error("the BEEF cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// One of its Merkle paths is none.
    #[error("Merkle path {index} of the BEEF: {source}")]
    MerklePath {
        /// Its position.
        index: usize,
        /// What is wrong with it.
        source: MerklePathError,
    },
    /// Longer than the limit.
    #[error("the BEEF has {size} bytes, the limit is {max}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The first four bytes belong to no version.
    #[error("the bytes do not start as a BEEF does (0100beef, 0200beef or 01010101), but with {0:08x}")]
    Magic(u32),
    /// A reference to a Merkle path that is not there.
    #[error("transaction {txid} refers to Merkle path {index}, which is not in the BEEF")]
    NoSuchPath {
        /// The transaction.
        txid: Txid,
        /// The position it names.
        index: u64,
    },
    /// A Merkle path that proves other transactions.
    #[error("transaction {0} is not in the Merkle path it refers to")]
    NotInPath(Txid),
    /// The transaction is in it twice.
    #[error("transaction {0} is in the BEEF twice")]
    Duplicate(Txid),
    /// Only its id is there, and we do not know it.
    #[error("transaction {0} is in the BEEF by its id only, and is not known here")]
    UnknownTxid(Txid),
    /// A parent comes after its child.
    #[error("transaction {child} comes before its parent {parent} in the BEEF")]
    ParentAfterChild {
        /// The transaction that spends.
        child: Txid,
        /// The transaction that is spent.
        parent: Txid,
    },
    /// The subject is not there.
    #[error("the subject {0} is not in the BEEF")]
    NoSubject(Txid),
    /// Something is neither the subject nor an ancestor of it.
    #[error("transaction {0} in the Atomic BEEF is not an ancestor of the subject")]
    Unrelated(Txid),
    /// Version 1 has no way to leave a known transaction out.
    #[error("transaction {0} is known to both sides; only BEEF version 2 can say so")]
    KnownInVersion1(Txid),
}

/// What is accepted from a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeefLimits {
    /// Bytes in all.
    pub max_bytes: usize,
    /// Transactions.
    pub max_txs: usize,
    /// Merkle paths.
    pub max_bumps: usize,
}

impl BeefLimits {
    /// 64 KiB carry some hundred ordinary transactions with their proofs: many times what a payment needs whose
    /// wallet spends proven coins. The counts keep the bookkeeping for tiny entries as small.
    pub const DEFAULT: BeefLimits = BeefLimits { max_bytes: 64 * 1024, max_txs: 512, max_bumps: 512 };

    /// What a payee takes as a payment. Whoever is paid must be able to send what spends the payment with all that it rests on, also while it is in no
    /// block, and whoever pays decides how long that is: so there is room left up to [`BeefLimits::DEFAULT`] for a spend, and for a Merkle path
    /// (a kilobyte at most, the 33 levels of a tree).
    pub const PAYMENT: BeefLimits = BeefLimits { max_bytes: 60 * 1024, max_txs: 500, max_bumps: 500 };
}

impl Default for BeefLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a transaction in a BEEF needs no parents, if it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The Merkle path at this position of [`Beef::bumps`] proves it.
    Bump(usize),
    /// Both sides know it already: only its id is sent.
    Known,
    /// Nothing yet: its parents are in the BEEF.
    Unproven,
}

/// A transaction in a BEEF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeefTx {
    txid: Txid,
    tx: Transaction,
    proof: Proof,
}

impl BeefTx {
    /// The transaction's id.
    pub const fn txid(&self) -> Txid {
        self.txid
    }

    /// The transaction.
    pub const fn transaction(&self) -> &Transaction {
        &self.tx
    }

    /// Why it needs no parents, if it does not.
    pub const fn proof(&self) -> Proof {
        self.proof
    }
}

/// Transactions with their proofs, parents first; see the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beef {
    bumps: Vec<MerklePath>,
    txs: Vec<BeefTx>,
    subject: Option<Txid>,
    index: HashMap<Txid, usize>,
}

impl Beef {
    /// An empty BEEF to add to.
    pub fn new() -> Self {
        Self::default()
    }

    /// The Merkle paths.
    pub fn bumps(&self) -> &[MerklePath] {
        &self.bumps
    }

    /// The transactions, each unproven one after its parents.
    pub fn txs(&self) -> &[BeefTx] {
        &self.txs
    }

    /// The transaction that the BEEF is about: the one an Atomic BEEF names, otherwise the last.
    pub fn subject(&self) -> Option<Txid> {
        self.subject.or_else(|| self.txs.last().map(|entry| entry.txid))
    }

    /// Whether the BEEF names its subject and holds nothing but it and its ancestors (BRC-95).
    pub const fn is_atomic(&self) -> bool {
        self.subject.is_some()
    }

    /// The entry with this id.
    pub fn get(&self, txid: &Txid) -> Option<&BeefTx> {
        self.index.get(txid).and_then(|at| self.txs.get(*at))
    }

    /// The transaction with this id.
    pub fn transaction(&self, txid: &Txid) -> Option<&Transaction> {
        self.get(txid).map(|entry| &entry.tx)
    }

    /// The Merkle path that proves the transaction with this id, if there is one.
    pub fn bump_of(&self, txid: &Txid) -> Option<&MerklePath> {
        match self.get(txid)?.proof {
            Proof::Bump(at) => self.bumps.get(at),
            Proof::Known | Proof::Unproven => None,
        }
    }

    /// Adds a transaction, with the Merkle path that proves it or after its parents. One that is there already gains
    /// the proof. Paths of one block are joined.
    ///
    /// # Errors
    /// [`BeefError::NotInPath`] if `bump` does not prove it, [`BeefError::ParentAfterChild`] if a transaction that
    /// spends it is there without proof.
    pub fn add(&mut self, tx: Transaction, bump: Option<&MerklePath>) -> Result<Txid, BeefError> {
        let txid = tx.txid();
        let proof = match bump {
            Some(bump) => self.add_bump(txid, bump)?,
            None => Proof::Unproven,
        };
        self.add_entry(BeefTx { txid, tx, proof })?;
        Ok(txid)
    }

    /// Adds a transaction that the receiver knows and believes: only its id is sent, in version 2.
    ///
    /// # Errors
    /// As [`Beef::add`].
    pub fn add_known(&mut self, tx: Transaction) -> Result<Txid, BeefError> {
        let txid = tx.txid();
        self.add_entry(BeefTx { txid, tx, proof: Proof::Known })?;
        Ok(txid)
    }

    /// Adds all that another BEEF holds.
    ///
    /// # Errors
    /// As [`Beef::add`].
    pub fn merge(&mut self, other: &Beef) -> Result<(), BeefError> {
        for entry in &other.txs {
            let proof = match entry.proof {
                Proof::Bump(at) => match other.bumps.get(at) {
                    Some(bump) => self.add_bump(entry.txid, bump)?,
                    None => Proof::Unproven,
                },
                other => other,
            };
            self.add_entry(BeefTx { proof, ..entry.clone() })?;
        }
        Ok(())
    }

    fn add_bump(&mut self, txid: Txid, bump: &MerklePath) -> Result<Proof, BeefError> {
        if bump.offset_of(&txid).is_none() {
            return Err(BeefError::NotInPath(txid));
        }
        let same_block =
            |known: &MerklePath| known.block_height() == bump.block_height() && known.root() == bump.root();
        let at = self.bumps.iter().position(same_block);
        let index = at.unwrap_or(self.bumps.len());
        let only_this = |source| BeefError::MerklePath { index, source };
        let bump =
            if bump.txids() == [txid] { bump.clone() } else { bump.extract(&[txid]).map_err(only_this)? };
        match self.bumps.get_mut(index) {
            Some(known) => known.merge(&bump).map_err(only_this)?,
            None => self.bumps.push(bump),
        }
        Ok(Proof::Bump(index))
    }

    /// Adds an entry, or improves the proof of the one that is there.
    fn add_entry(&mut self, entry: BeefTx) -> Result<(), BeefError> {
        if let Some(known) = self.index.get(&entry.txid).and_then(|at| self.txs.get_mut(*at)) {
            if known.proof == Proof::Unproven || matches!(entry.proof, Proof::Bump(_)) {
                known.proof = entry.proof;
            }
            return Ok(());
        }
        let spends_it = |child: &&BeefTx| {
            child.proof == Proof::Unproven && child.tx.inputs.iter().any(|i| i.previous.txid == entry.txid)
        };
        if let Some(child) = self.txs.iter().find(spends_it) {
            return Err(BeefError::ParentAfterChild { child: child.txid, parent: entry.txid });
        }
        self.index.insert(entry.txid, self.txs.len());
        self.txs.push(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
