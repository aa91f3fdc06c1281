//! What a payee must see to believe a payment: its unproven ancestors and the Merkle paths of the proven ones.

use std::collections::BTreeSet;

use super::history::Status;
use super::{Wallet, WalletError};
use crate::beef::{Beef, Proof};
use crate::merkle_path::MerklePath;
use crate::{Transaction, Txid};

/// The largest BEEF the wallet makes, in bytes: what a peer takes by default ([`crate::beef::BeefLimits::DEFAULT`]).
pub const MAX_BEEF_BYTES: usize = 64 * 1024;

/// The transactions of a BEEF with their paths, each path cut down to its own transaction.
pub(super) fn parts(beef: &Beef) -> Result<Vec<(Transaction, Option<MerklePath>)>, WalletError> {
    let sent = beef.txs().iter().filter(|entry| entry.proof() != Proof::Known);
    let part = sent.map(|entry| {
        let txid = entry.txid();
        let path = beef.bump_of(&txid).map(|path| path.extract(&[txid])).transpose()?;
        Ok((entry.transaction().clone(), path))
    });
    part.collect()
}

impl Wallet {
    /// A known transaction as Atomic BEEF (BRC-95): with its ancestors up to the proven ones and not further.
    ///
    /// # Errors
    /// [`WalletError::UnknownTransaction`], [`WalletError::Pruned`], [`WalletError::MissingAncestor`] and
    /// [`WalletError::BeefTooLarge`] above [`MAX_BEEF_BYTES`].
    pub fn beef_for(&self, txid: &Txid) -> Result<Vec<u8>, WalletError> {
        let tx = self.ledger.require(txid)?.tx.as_deref().ok_or(WalletError::Pruned(*txid))?;
        self.assemble_beef(tx, txid, MAX_BEEF_BYTES)
    }

    /// The transactions whose Merkle path is wanted: ours that are in no block as far as we know (built ones too,
    /// since a payee may broadcast them, and conflicted ones, since they may win after all), and the ancestors that a BEEF could
    /// not do without.
    pub fn unproven(&self) -> Vec<Txid> {
        let open = self.ledger.index.open.iter();
        let ours = |txid: &&Txid| self.ledger.get(txid).is_some_and(|record| record.entry.is_some());
        let mut queue: Vec<Txid> = open.filter(ours).copied().collect();
        let mut wanted = BTreeSet::new();
        while let Some(txid) = queue.pop() {
            let Some(record) = self.ledger.get(&txid) else { continue };
            let Some(tx) = &record.tx else { continue };
            let finished = match record.status {
                Status::Mined { .. } => true,
                Status::Rejected { .. } => record.entry.is_none(),
                _ => false,
            };
            if !finished && wanted.insert(txid) {
                queue.extend(tx.inputs.iter().map(|input| input.previous.txid));
            }
        }
        wanted.into_iter().collect()
    }

    /// Atomic BEEF of a transaction that need not be in the wallet yet, of at most `limit` bytes.
    pub(super) fn assemble_beef(
        &self,
        tx: &Transaction,
        txid: &Txid,
        limit: usize,
    ) -> Result<Vec<u8>, WalletError> {
        let too_large = WalletError::BeefTooLarge { txid: *txid, limit };
        let mut beef = Beef::new();
        let mut added = BTreeSet::new();
        let mut bytes = 0usize;
        // Depth first, children waiting on the stack until their parents are in.
        let mut stack = vec![(*txid, tx)];
        while let Some((id, tx)) = stack.last().copied() {
            if added.contains(&id) {
                stack.pop();
                continue;
            }
            let path = self.ledger.get(&id).and_then(|record| record.path.as_deref());
            let before = stack.len();
            if path.is_none() {
                for input in &tx.inputs {
                    let parent = input.previous.txid;
                    if !added.contains(&parent) {
                        let known = self.ledger.get(&parent).and_then(|record| record.tx.as_deref());
                        stack.push((parent, known.ok_or(WalletError::MissingAncestor { txid: id, parent })?));
                    }
                }
            }
            // Every entry is a distinct transaction of at least 60 bytes or a repetition of one that is pushed by
            // each of its children, so this bounds the work as well.
            if bytes.saturating_add(stack.len()) > limit {
                return Err(too_large);
            }
            if stack.len() == before {
                bytes = bytes.saturating_add(tx.size());
                if bytes > limit {
                    return Err(too_large);
                }
                beef.add(tx.clone(), path)?;
                added.insert(id);
                stack.pop();
            }
        }
        let encoded = beef.to_atomic(txid)?;
        if encoded.len() > limit { Err(too_large) } else { Ok(encoded) }
    }
}
