//! Forgetting what nothing can need any more, since the whole wallet is written for each payment.

use super::history::{HistoryEntry, Status};
use super::ledger::Record;
use super::{Wallet, WalletError};
use crate::{OutPoint, Txid};

/// How deep a transaction must be before what it spends is forgotten: twice the six blocks whose reorganisation must
/// change no conclusion.
pub const PRUNE_DEPTH: u32 = 12;

/// How many lines of finished history stay in the wallet: at about 100 bytes each, what can be written for every
/// payment without being felt. Older ones are handed over in [`Pruned::archived`].
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
        let deep: Vec<Txid> = self
            .ledger
            .iter()
            .filter(|(_, record)| record.tx.is_some() && buried(record, tip_height))
            .map(|(txid, _)| *txid)
            .collect();
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
        let Some(record) = self.ledger.get_mut(txid) else { return };
        record.sealed = true;
        let spent: Vec<OutPoint> =
            record.tx.iter().flat_map(|tx| &tx.inputs).map(|input| input.previous).collect();
        for outpoint in spent {
            let parent = self.ledger.get_mut(&outpoint.txid);
            if let Some(owned) = parent.and_then(|record| record.outputs.get_mut(&outpoint.vout)) {
                owned.gone = true;
            }
        }
    }

    fn is_done(&self, txid: &Txid, record: &Record, tip_height: u32) -> bool {
        let dead = |record: &Record| matches!(record.status, Status::Rejected { .. });
        if dead(record) {
            return self.is_dead_for_good(txid, record, tip_height);
        }
        let foreign = record.entry.is_none();
        record.outputs.values().all(|owned| owned.gone)
            && (foreign || buried(record, tip_height))
            && self.ledger.children(txid).all(|(_, child)| dead(child) || buried(child, tip_height))
    }

    /// Whether a rejected transaction need not be kept in case it is mined after all. One of our own can come back as
    /// long as its coins could still be its own; a stranger's can be received again, unless something that builds on
    /// it is kept.
    fn is_dead_for_good(&self, txid: &Txid, record: &Record, tip_height: u32) -> bool {
        let inputs = || record.tx.iter().flat_map(|tx| &tx.inputs).map(|input| input.previous);
        let orphaned = inputs().any(|outpoint| {
            let parent = self.ledger.get(&outpoint.txid);
            parent.is_some_and(|parent| parent.tx.is_none() && !parent.status.is_settled())
        });
        let outdone = || {
            let mut rivals = inputs().flat_map(|outpoint| {
                self.ledger.spenders(&outpoint).map(|(_, rival)| rival).collect::<Vec<_>>()
            });
            rivals.any(|rival| buried(rival, tip_height))
        };
        let ours = || inputs().any(|outpoint| self.ledger.owned(&outpoint).is_some());
        let alone = || self.ledger.children(txid).next().is_none();
        orphaned || outdone() || (!ours() && alone())
    }

    fn archive(&mut self) -> Result<Vec<HistoryEntry>, WalletError> {
        let mut finished: Vec<(u64, Txid)> = self
            .ledger
            .iter()
            .filter(|(txid, record)| {
                // As long as a child is kept, the name of its dead parent says that it can never come back.
                let needed = !record.status.is_settled() && self.ledger.children(txid).next().is_some();
                record.tx.is_none() && !needed
            })
            .filter_map(|(txid, record)| record.entry.as_ref().map(|entry| (entry.sequence, *txid)))
            .collect();
        finished.sort_unstable();
        let surplus = finished.len().saturating_sub(HISTORY_KEPT);
        let mut archived = Vec::with_capacity(surplus);
        for (_, txid) in finished.into_iter().take(surplus) {
            let Some(Record { entry: Some(entry), status, .. }) = self.ledger.remove(&txid) else { continue };
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
