//! Forgetting what nothing can need any more, so that a wallet is as large as what it holds and not as what it has done.

use super::history::{HistoryEntry, Status};
use super::ledger::Record;
use super::{Wallet, WalletError};
use crate::{OutPoint, Txid};

/// How deep a transaction must be before what it spends is forgotten: twice the six blocks whose reorganisation must
/// change no conclusion.
pub const PRUNE_DEPTH: u32 = 12;

/// How many lines of finished history stay in the wallet: at about 100 bytes each, what a small device keeps in memory without feeling it.
/// Older ones are handed over in [`Pruned::archived`].
pub const HISTORY_KEPT: usize = 1_000;

/// What pruning removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many transactions were forgotten; their history is still there.
    pub transactions: usize,
    /// Lines of history that left the wallet, oldest first. Keep them: they are the only trace of these payments,
    /// and their transactions must not be received again.
    pub archived: Vec<HistoryEntry>,
}

impl Wallet {
    /// Forgets transactions whose coins are all spent for good, and ancestors whose children are all proven for good;
    /// "for good" is [`PRUNE_DEPTH`] blocks below `tip_height`. Balance, coins and audit stay the same.
    ///
    /// # Errors
    /// [`WalletError::Overflow`] if the archived history sums to more than there can be; nothing is removed then.
    pub fn prune(&mut self, tip_height: u32) -> Result<Pruned, WalletError> {
        let mut next = self.clone();
        let pruned = Pruned { transactions: next.prune_bodies(tip_height), archived: next.archive()? };
        *self = next;
        Ok(pruned)
    }

    fn prune_bodies(&mut self, tip_height: u32) -> usize {
        let below = tip_height.checked_sub(PRUNE_DEPTH);
        let deep: Vec<Txid> = below.map_or_else(Vec::new, |height| {
            let proofs = self.ledger.index.proofs.range(..=(height, Txid([0xff; 32])));
            let deep = proofs.filter(|((_, txid), _)| self.ledger.get(txid).is_some_and(|r| !r.sealed));
            deep.map(|((_, txid), _)| *txid).collect()
        });
        for txid in deep {
            self.seal(&txid);
        }
        let done: Vec<Txid> = self
            .ledger
            .iter()
            .filter(|(txid, record)| record.tx.is_some() && self.is_done(txid, record, tip_height))
            .map(|(txid, _)| *txid)
            .collect();
        for txid in &done {
            self.ledger.drop_body(txid);
        }
        done.len()
    }

    /// Forgets the coins that a buried transaction spends.
    fn seal(&mut self, txid: &Txid) {
        self.ledger.change(txid, |record| record.sealed = true);
        let spent: Vec<OutPoint> =
            self.ledger.get(txid).into_iter().flat_map(Record::inputs).copied().collect();
        for outpoint in spent {
            if self.ledger.owned(&outpoint).is_some() {
                self.ledger.change(&outpoint.txid, |parent| {
                    if let Some(owned) = parent.outputs.get_mut(&outpoint.vout) {
                        owned.gone = true;
                    }
                });
            }
        }
    }

    fn is_done(&self, txid: &Txid, record: &Record, tip_height: u32) -> bool {
        match &record.status {
            Status::Rejected { .. } => return self.is_dead_for_good(txid, record, tip_height),
            Status::Conflicted { by } => return self.is_outdone_for_good(txid, record, by, tip_height),
            _ => {}
        }
        let foreign = record.entry.is_none();
        let buried_now = buried(record, tip_height);
        record.outputs.values().all(|owned| owned.gone)
            && (buried_now || (foreign && !self.has_outdone(txid)))
            && self.ledger.children(txid).all(|(_, child)| {
                matches!(child.status, Status::Rejected { .. }) || buried(child, tip_height)
            })
    }

    /// Whether a kept transaction waits for what becomes of this one, which took its place.
    fn has_outdone(&self, txid: &Txid) -> bool {
        self.ledger.rivals(txid).any(|(_, rival)| matches!(rival.status, Status::Conflicted { .. }))
    }

    /// Whether what took the place of a conflicted transaction is too deep to come undone.
    fn is_outdone_for_good(&self, txid: &Txid, record: &Record, by: &Txid, tip_height: u32) -> bool {
        let by = self.ledger.get(by);
        let final_word = by.is_none_or(|by| by.sealed || buried(by, tip_height));
        final_word && (record.entry.is_some() || self.ledger.children(txid).next().is_none())
    }

    /// Whether a rejected transaction need not be kept in case it is mined after all. One of our own can come back as
    /// long as its coins could still be its own; a stranger's can be received again, unless something that builds on
    /// it is kept.
    fn is_dead_for_good(&self, txid: &Txid, record: &Record, tip_height: u32) -> bool {
        let orphaned = record.inputs().any(|outpoint| {
            let parent = self.ledger.get(&outpoint.txid);
            parent.is_some_and(|parent| parent.tx.is_none() && !parent.status.is_settled())
        });
        let outdone = || self.ledger.rivals(txid).any(|(_, rival)| buried(rival, tip_height));
        let ours = || record.inputs().any(|outpoint| self.ledger.owned(outpoint).is_some());
        let alone = || self.ledger.children(txid).next().is_none();
        orphaned || outdone() || (!ours() && alone())
    }

    fn archive(&mut self) -> Result<Vec<HistoryEntry>, WalletError> {
        let surplus = self.ledger.index.finished.size().saturating_sub(HISTORY_KEPT);
        let oldest: Vec<Txid> = self
            .ledger
            .index
            .finished
            .iter()
            .map(|(_, txid)| *txid)
            .filter(|txid| {
                // As long as a child is kept, the name of its dead parent says that it can never come back.
                let settled = self.ledger.get(txid).is_some_and(|record| record.status.is_settled());
                settled || self.ledger.children(txid).next().is_none()
            })
            .take(surplus)
            .collect();
        let mut archived = Vec::with_capacity(oldest.len());
        for txid in oldest {
            let Some(Record { entry: Some(entry), status, .. }) = self.ledger.get(&txid).cloned() else {
                continue;
            };
            self.ledger.put(&txid, None);
            if status.is_settled() {
                self.carried_sat =
                    self.carried_sat.checked_add(entry.delta_sat).ok_or(WalletError::Overflow)?;
            }
            archived.push(entry.line(txid, status));
        }
        Ok(archived)
    }
}

fn buried(record: &Record, tip_height: u32) -> bool {
    matches!(record.status, Status::Mined { height } if tip_height.saturating_sub(height) >= PRUNE_DEPTH)
}
