//! The transactions the wallet knows and what follows from their states.
//!
//! Nothing here says of a coin that it is spent: that is read off the states of the transactions that use it. So a
//! transaction that is rejected, mined or undone by a reorganisation changes one word, and every coin is right again.
//!
//! Every change goes through [`Ledger::put`], which keeps the index right and remembers what has to be stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::WalletError;
use super::coin::{CoinState, KeySource, Purpose};
use super::history::{Entry, Status};
use super::index::{Index, Map, Set, Shared};
use crate::merkle_path::MerklePath;
use crate::{OutPoint, Satoshis, Transaction, Txid};

/// An output of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) value: Satoshis,
    pub(super) key: KeySource,
    pub(super) purpose: Purpose,
    /// Spent by a transaction too deep in the chain to come undone; kept so that it is not taken in twice.
    pub(super) gone: bool,
}

/// A transaction: ours, or the ancestor of one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The transaction itself, until pruning finds that nothing can need it any more.
    pub(super) tx: Option<Arc<Transaction>>,
    /// Its proof, exactly while it is mined and its body is kept.
    pub(super) path: Option<Arc<MerklePath>>,
    pub(super) status: Status,
    /// Its line in the history; ancestors that do not touch our coins have none.
    pub(super) entry: Option<Entry>,
    pub(super) outputs: BTreeMap<u32, Owned>,
    /// The refused payment whose coins this one takes back.
    pub(super) reclaims: Option<Txid>,
    /// It was so deep in the chain that the coins it spends are forgotten: it may lose its proof, never its effect.
    pub(super) sealed: bool,
    /// Height of the chain when the network was first known to have it, while it waits for a block.
    pub(super) since: Option<u32>,
    /// What the wallet made it for by itself.
    pub(super) task: Option<super::Task>,
}

impl Record {
    /// A transaction of which nothing is known but itself.
    pub(super) fn new(tx: Transaction, entry: Option<Entry>) -> Self {
        Self {
            tx: Some(Arc::new(tx)),
            path: None,
            status: Status::Built,
            entry,
            outputs: BTreeMap::new(),
            reclaims: None,
            sealed: false,
            since: None,
            task: None,
        }
    }

    /// The outputs it spends; none once its body is forgotten.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &OutPoint> {
        self.tx.iter().flat_map(|tx| &tx.inputs).map(|input| &input.previous)
    }
}

/// All records, what is looked up about them, and what of them is not stored yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    records: Map<Txid, Shared>,
    pub(super) index: Index,
    /// Records that changed or went since the changes were last taken.
    pub(super) changed: Set<Txid>,
    /// Transactions that were outdone since the changes were last taken, and by which.
    pub(super) outdone: Map<Txid, Txid>,
}

/// The index follows from the records, and what is not stored yet says nothing about money.
impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        self.records.size() == other.records.size() && self.iter().eq(other.iter())
    }
}

impl Eq for Ledger {}

impl Ledger {
    pub(super) fn get(&self, txid: &Txid) -> Option<&Record> {
        self.records.get(txid).map(AsRef::as_ref)
    }

    pub(super) fn require(&self, txid: &Txid) -> Result<&Record, WalletError> {
        self.get(txid).ok_or(WalletError::UnknownTransaction(*txid))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Txid, &Record)> {
        self.records.iter().map(|(txid, record)| (txid, record.as_ref()))
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.records.size()
    }

    /// The one way to change anything: this record in place of the one that is there.
    pub(super) fn put(&mut self, txid: &Txid, record: Option<Record>) {
        let old = self.records.get(txid).cloned();
        if old.as_deref() == record.as_ref() {
            return;
        }
        let mut coins = BTreeSet::new();
        let mut touch = |record: &Record| {
            coins.extend(record.inputs().copied());
            coins.extend(record.outputs.keys().map(|vout| OutPoint { txid: *txid, vout: *vout }));
        };
        if let Some(old) = &old {
            touch(old);
            self.index.remove(txid, old);
        }
        match record {
            Some(record) => {
                touch(&record);
                self.index.add(txid, &record);
                self.records.insert_mut(*txid, Arc::new(record));
            }
            None => drop(self.records.remove_mut(txid)),
        }
        self.changed.insert_mut(*txid);
        for coin in coins {
            let now = self.state(&coin).zip(self.owned(&coin).map(|owned| owned.value.as_u64()));
            self.index.set_coin(&coin, now);
        }
    }

    /// Changes a record that is there.
    pub(super) fn change(&mut self, txid: &Txid, f: impl FnOnce(&mut Record)) {
        let Some(mut record) = self.get(txid).cloned() else { return };
        f(&mut record);
        self.put(txid, Some(record));
    }

    /// Forgets the body of a transaction, and all of it when it has no line in the history.
    pub(super) fn drop_body(&mut self, txid: &Txid) {
        let Some(mut record) = self.get(txid).cloned() else { return };
        (record.path, record.tx, record.since) = (None, None, None);
        record.outputs.clear();
        let kept = record.entry.is_some().then_some(record);
        self.put(txid, kept);
    }

    pub(super) fn owned(&self, outpoint: &OutPoint) -> Option<&Owned> {
        self.get(&outpoint.txid)?.outputs.get(&outpoint.vout)
    }

    /// The kept transactions that use `outpoint`, with their states.
    pub(super) fn spenders(&self, outpoint: &OutPoint) -> impl Iterator<Item = (&Txid, &Record)> {
        self.index.spenders_of(outpoint).filter_map(|txid| self.get(txid).map(|record| (txid, record)))
    }

    /// The kept transactions that use any output of `txid`.
    pub(super) fn children(&self, txid: &Txid) -> impl Iterator<Item = (&Txid, &Record)> {
        self.index.children_of(txid).filter_map(|child| self.get(child).map(|record| (child, record)))
    }

    /// The other kept transactions that use an output which `txid` uses.
    pub(super) fn rivals<'a>(&'a self, txid: &'a Txid) -> impl Iterator<Item = (&'a Txid, &'a Record)> {
        let inputs = self.get(txid).into_iter().flat_map(Record::inputs);
        inputs.flat_map(|outpoint| self.spenders(outpoint)).filter(move |(rival, _)| *rival != txid)
    }

    /// What can be done with the coin at `outpoint`; `None` when it is spent or was never one.
    pub(super) fn state(&self, outpoint: &OutPoint) -> Option<CoinState> {
        let record = self.get(&outpoint.txid)?;
        if record.outputs.get(&outpoint.vout)?.gone {
            return None;
        }
        let mut reserved = false;
        for (_, spender) in self.spenders(outpoint) {
            match spender.status {
                Status::Broadcast | Status::Seen | Status::Mined { .. } => return None,
                Status::Built | Status::Reclaiming { .. } => reserved = true,
                Status::Rejected { .. } | Status::Conflicted { .. } => {}
            }
        }
        match record.status {
            Status::Rejected { .. } | Status::Conflicted { .. } => None,
            Status::Built | Status::Reclaiming { .. } => Some(CoinState::Pending),
            _ if reserved => Some(CoinState::Reserved),
            Status::Broadcast | Status::Seen => Some(CoinState::Unconfirmed),
            Status::Mined { height } => Some(CoinState::Confirmed(height)),
        }
    }

    /// Every output of ours that is not spent.
    pub(super) fn coins(&self) -> impl Iterator<Item = (OutPoint, &Owned, CoinState)> {
        let coins = self.index.coins.iter();
        coins.filter_map(|(outpoint, (state, _))| Some((*outpoint, self.owned(outpoint)?, *state)))
    }

    /// Adds an output of ours to a known transaction and corrects the lines of history it changes.
    pub(super) fn add_owned(
        &mut self,
        outpoint: OutPoint,
        owned: Owned,
        mut new_entry: impl FnMut(&str) -> Entry,
    ) -> Result<(), WalletError> {
        let value = owned.value.as_u64().cast_signed();
        let spenders: Vec<Txid> = self.spenders(&outpoint).map(|(txid, _)| *txid).collect();
        for txid in spenders {
            let mut record = self.require(&txid)?.clone();
            record.entry.get_or_insert_with(|| new_entry(FOUND)).add(0i64.saturating_sub(value))?;
            self.put(&txid, Some(record));
        }
        let mut record = self.require(&outpoint.txid)?.clone();
        record.entry.get_or_insert_with(|| new_entry("")).add(value)?;
        record.outputs.insert(outpoint.vout, owned);
        self.put(&outpoint.txid, Some(record));
        Ok(())
    }

    /// How many generations of unproven ancestors a transaction of this id carries: 0 when it is mined.
    /// `known` remembers what was worked out, so that asking for every coin is linear.
    pub(super) fn generations(&self, txid: &Txid, known: &mut BTreeMap<Txid, u32>) -> u32 {
        let mut stack = vec![*txid];
        while let Some(top) = stack.last().copied() {
            if known.contains_key(&top) {
                stack.pop();
                continue;
            }
            let unproven = self.get(&top).filter(|r| !matches!(r.status, Status::Mined { .. }));
            let Some(tx) = unproven.and_then(|record| record.tx.as_ref()) else {
                known.insert(top, 0);
                stack.pop();
                continue;
            };
            let parents = || tx.inputs.iter().map(|input| input.previous.txid);
            let open: Vec<Txid> = parents().filter(|p| !known.contains_key(p)).collect();
            if open.is_empty() {
                let deepest = parents().filter_map(|p| known.get(&p)).max().copied().unwrap_or(0);
                known.insert(top, deepest.saturating_add(1));
                stack.pop();
            } else {
                stack.extend(open);
            }
        }
        known.get(txid).copied().unwrap_or(0)
    }
}

/// The label of a transaction that turns out to spend our coins though this wallet did not make it.
pub(super) const FOUND: &str = "spent elsewhere";
