//! What is looked up about the records without walking them: derived from them alone, never stored.
//!
//! All maps here are persistent: a copy shares everything with the original until one of them changes, and then all but the path to the
//! change. A wallet of ten thousand coins is copied in no time, which is what makes a failed change cost nothing.

use std::sync::Arc;

use super::coin::CoinState;
use super::history::Status;
use super::ledger::Record;
use crate::{OutPoint, Txid};

/// A map that is cheap to copy.
pub(super) type Map<K, V> = rpds::RedBlackTreeMapSync<K, V>;
/// A set that is cheap to copy.
pub(super) type Set<T> = rpds::RedBlackTreeSetSync<T>;

/// Before and after all transactions, for ranges.
const FIRST: Txid = Txid([0; 32]);
const LAST: Txid = Txid([0xff; 32]);

#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// Every input of every kept transaction, whatever its state.
    spenders: Set<(OutPoint, Txid)>,
    /// Every output of ours that is not spent, with what it is worth.
    pub(super) coins: Map<OutPoint, (CoinState, u64)>,
    /// The spendable ones whose transaction is in a block, by value: what pays is found without looking at the others.
    pub(super) mined: Set<(u64, OutPoint)>,
    /// The spendable ones whose transaction is in no block.
    pub(super) unmined: Set<OutPoint>,
    /// Kept transactions that are in no block and may still come into one.
    pub(super) open: Set<Txid>,
    /// The Merkle root that each kept proof leads to, by height.
    pub(super) proofs: Map<(u32, Txid), [u8; 32]>,
    /// Lines of history whose transaction is forgotten, in their order.
    pub(super) finished: Set<(u64, Txid)>,
}

impl Index {
    pub(super) fn spenders_of(&self, outpoint: &OutPoint) -> impl Iterator<Item = &Txid> {
        self.spenders.range((*outpoint, FIRST)..=(*outpoint, LAST)).map(|(_, txid)| txid)
    }

    /// The transactions that use any output of `txid`, once for each output.
    pub(super) fn children_of(&self, txid: &Txid) -> impl Iterator<Item = &Txid> {
        let first = OutPoint { txid: *txid, vout: 0 };
        let last = OutPoint { txid: *txid, vout: u32::MAX };
        self.spenders.range((first, FIRST)..=(last, LAST)).map(|(_, child)| child)
    }

    pub(super) fn add(&mut self, txid: &Txid, record: &Record) {
        for input in record.inputs() {
            self.spenders.insert_mut((*input, *txid));
        }
        if is_open(record) {
            self.open.insert_mut(*txid);
        }
        if let Some(path) = &record.path {
            self.proofs.insert_mut((path.block_height(), *txid), *path.root());
        }
        if let Some(sequence) = finished(record) {
            self.finished.insert_mut((sequence, *txid));
        }
    }

    pub(super) fn remove(&mut self, txid: &Txid, record: &Record) {
        for input in record.inputs() {
            self.spenders.remove_mut(&(*input, *txid));
        }
        self.open.remove_mut(txid);
        if let Some(path) = &record.path {
            self.proofs.remove_mut(&(path.block_height(), *txid));
        }
        if let Some(sequence) = finished(record) {
            self.finished.remove_mut(&(sequence, *txid));
        }
    }

    /// Notes what can be done with a coin now.
    pub(super) fn set_coin(&mut self, outpoint: &OutPoint, now: Option<(CoinState, u64)>) {
        if self.coins.get(outpoint).copied() == now {
            return;
        }
        if let Some((_, sat)) = self.coins.get(outpoint).copied() {
            self.mined.remove_mut(&(sat, *outpoint));
            self.unmined.remove_mut(outpoint);
            self.coins.remove_mut(outpoint);
        }
        let Some((state, sat)) = now else { return };
        self.coins.insert_mut(*outpoint, (state, sat));
        match state {
            CoinState::Confirmed(_) => self.mined.insert_mut((sat, *outpoint)),
            CoinState::Unconfirmed => self.unmined.insert_mut(*outpoint),
            CoinState::Reserved | CoinState::Pending => {}
        }
    }

    /// How many coins can be spent now.
    pub(super) fn spendable(&self) -> usize {
        self.mined.size().saturating_add(self.unmined.size())
    }
}

fn is_open(record: &Record) -> bool {
    record.tx.is_some()
        && match record.status {
            Status::Mined { .. } => false,
            // What was refused may be sent on by whoever has it: of what touches our coins the chain goes on being asked.
            Status::Rejected { .. } => record.entry.is_some(),
            _ => true,
        }
}

fn finished(record: &Record) -> Option<u64> {
    record.entry.as_ref().filter(|_| record.tx.is_none()).map(|entry| entry.sequence)
}

/// The record, shared.
pub(super) type Shared = Arc<Record>;
