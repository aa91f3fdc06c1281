//! The transactions the wallet knows and what follows from their states.
//!
//! Nothing here says of a coin that it is spent: that is read off the states of the transactions that use it. So a
//! transaction that is rejected, mined or undone by a reorganisation changes one word, and every coin is right again.

use std::collections::{BTreeMap, BTreeSet};

use super::coin::{CoinState, KeySource, Purpose};
use super::history::{Entry, Status};
use super::{WalletError, bounded};
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
    pub(super) tx: Option<Transaction>,
    /// Its proof, exactly while it is mined and its body is kept.
    pub(super) path: Option<MerklePath>,
    pub(super) status: Status,
    /// Its line in the history; ancestors that do not touch our coins have none.
    pub(super) entry: Option<Entry>,
    pub(super) outputs: BTreeMap<u32, Owned>,
    /// The refused payment whose coins this one takes back.
    pub(super) reclaims: Option<Txid>,
    /// It was so deep in the chain that the coins it spends are forgotten: it may lose its proof, never its effect.
    pub(super) sealed: bool,
}

/// All records, and who spends what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    records: BTreeMap<Txid, Record>,
    /// Every input of every kept transaction, whatever its state. Derived, never stored.
    spenders: BTreeMap<OutPoint, BTreeSet<Txid>>,
}

impl Ledger {
    pub(super) fn get(&self, txid: &Txid) -> Option<&Record> {
        self.records.get(txid)
    }

    pub(super) fn get_mut(&mut self, txid: &Txid) -> Option<&mut Record> {
        self.records.get_mut(txid)
    }

    pub(super) fn require(&self, txid: &Txid) -> Result<&Record, WalletError> {
        self.records.get(txid).ok_or(WalletError::UnknownTransaction(*txid))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Txid, &Record)> {
        self.records.iter()
    }

    pub(super) fn insert(&mut self, txid: Txid, record: Record) {
        if let Some(tx) = &record.tx {
            for input in &tx.inputs {
                self.spenders.entry(input.previous).or_default().insert(txid);
            }
        }
        self.records.insert(txid, record);
    }

    /// Forgets the body of a transaction, and all of it when it has no line in the history.
    pub(super) fn drop_body(&mut self, txid: &Txid) {
        let Some(record) = self.records.get_mut(txid) else { return };
        record.path = None;
        record.outputs.clear();
        if let Some(tx) = record.tx.take() {
            for input in &tx.inputs {
                if let Some(set) = self.spenders.get_mut(&input.previous) {
                    set.remove(txid);
                    if set.is_empty() {
                        self.spenders.remove(&input.previous);
                    }
                }
            }
        }
        if record.entry.is_none() {
            self.records.remove(txid);
        }
    }

    /// Forgets a record whose body is gone already.
    pub(super) fn remove(&mut self, txid: &Txid) -> Option<Record> {
        self.records.remove(txid)
    }

    pub(super) fn owned(&self, outpoint: &OutPoint) -> Option<&Owned> {
        self.records.get(&outpoint.txid)?.outputs.get(&outpoint.vout)
    }

    /// The kept transactions that use `outpoint`, with their states.
    pub(super) fn spenders(&self, outpoint: &OutPoint) -> impl Iterator<Item = (&Txid, &Record)> {
        self.spenders
            .get(outpoint)
            .into_iter()
            .flatten()
            .filter_map(|txid| self.records.get(txid).map(|record| (txid, record)))
    }

    /// The kept transactions that use any output of `txid`.
    pub(super) fn children<'a>(&'a self, txid: &'a Txid) -> impl Iterator<Item = (&'a Txid, &'a Record)> {
        let first = OutPoint { txid: *txid, vout: 0 };
        let last = OutPoint { txid: *txid, vout: u32::MAX };
        self.spenders
            .range(first..=last)
            .flat_map(|(_, set)| set)
            .filter_map(|child| self.records.get(child).map(|record| (child, record)))
    }

    /// What can be done with the coin at `outpoint`; `None` when it is spent or was never one.
    pub(super) fn state(&self, outpoint: &OutPoint) -> Option<CoinState> {
        let record = self.records.get(&outpoint.txid)?;
        if record.outputs.get(&outpoint.vout)?.gone {
            return None;
        }
        let mut reserved = false;
        for (_, spender) in self.spenders(outpoint) {
            match spender.status {
                Status::Broadcast | Status::Mined { .. } => return None,
                Status::Built | Status::Reclaiming { .. } => reserved = true,
                Status::Rejected { .. } => {}
            }
        }
        match record.status {
            Status::Rejected { .. } => None,
            Status::Built | Status::Reclaiming { .. } => Some(CoinState::Pending),
            Status::Broadcast | Status::Mined { .. } if reserved => Some(CoinState::Reserved),
            Status::Broadcast => Some(CoinState::Unconfirmed),
            Status::Mined { height } => Some(CoinState::Confirmed(height)),
        }
    }

    /// Every output of ours that is not spent.
    pub(super) fn coins(&self) -> impl Iterator<Item = (OutPoint, &Owned, CoinState)> {
        self.records.iter().flat_map(move |(txid, record)| {
            record.outputs.iter().filter_map(move |(vout, owned)| {
                let outpoint = OutPoint { txid: *txid, vout: *vout };
                self.state(&outpoint).map(|state| (outpoint, owned, state))
            })
        })
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
            if let Some(record) = self.records.get_mut(&txid) {
                record.entry.get_or_insert_with(|| new_entry(FOUND)).add(0i64.saturating_sub(value))?;
            }
        }
        if let Some(record) = self.records.get_mut(&outpoint.txid) {
            record.entry.get_or_insert_with(|| new_entry("")).add(value)?;
            record.outputs.insert(outpoint.vout, owned);
        }
        Ok(())
    }

    /// Records that the network has `txid`: in a block when `path` is given. Its unseen ancestors must be on the
    /// network too; whatever contradicts any of them is rejected. Nothing changes on an error.
    pub(super) fn settle(&mut self, txid: &Txid, path: Option<MerklePath>) -> Result<(), WalletError> {
        let mut lifted = BTreeSet::from([*txid]);
        let mut queue = vec![*txid];
        while let Some(next) = queue.pop() {
            for input in self.require(&next)?.tx.iter().flat_map(|tx| &tx.inputs) {
                let parent = input.previous.txid;
                let Some(record) = self.records.get(&parent) else { continue };
                if record.status.is_settled() {
                    continue;
                }
                if record.tx.is_none() {
                    return Err(WalletError::Pruned(parent));
                }
                if lifted.insert(parent) {
                    queue.push(parent);
                }
            }
        }
        let mut conflicts = BTreeSet::new();
        for ours in &lifted {
            let record = self.require(ours)?;
            for input in record.tx.iter().flat_map(|tx| &tx.inputs) {
                if !record.sealed && self.owned(&input.previous).is_some_and(|owned| owned.gone) {
                    return Err(WalletError::Pruned(input.previous.txid));
                }
                for (other, record) in self.spenders(&input.previous) {
                    if other == ours || matches!(record.status, Status::Rejected { .. }) {
                        continue;
                    }
                    let stands = match record.status {
                        _ if record.sealed => true,
                        Status::Mined { .. } => true,
                        Status::Broadcast => path.is_none(),
                        _ => lifted.contains(other),
                    };
                    if stands {
                        return Err(WalletError::Conflict {
                            txid: *ours,
                            other: *other,
                            outpoint: input.previous,
                        });
                    }
                    conflicts.insert(*other);
                }
            }
        }
        self.reject(conflicts, &format!("its coins were spent by {txid}"))?;
        for txid in &lifted {
            if let Some(record) = self.records.get_mut(txid)
                && !record.status.is_settled()
            {
                record.status = Status::Broadcast;
            }
        }
        if let (Some(path), Some(record)) = (path, self.records.get_mut(txid)) {
            record.status = Status::Mined { height: path.block_height() };
            record.path = Some(path);
        }
        Ok(())
    }

    /// Rejects transactions and everything that builds on them. Nothing changes on an error.
    pub(super) fn reject(
        &mut self,
        txids: impl IntoIterator<Item = Txid>,
        reason: &str,
    ) -> Result<(), WalletError> {
        let mut queue: Vec<(Txid, String)> = txids.into_iter().map(|t| (t, bounded(reason))).collect();
        let mut dead = BTreeMap::new();
        while let Some((txid, reason)) = queue.pop() {
            if let Status::Mined { height } = self.require(&txid)?.status {
                return Err(WalletError::AlreadyMined { txid, height });
            }
            if self.require(&txid)?.sealed {
                return Err(WalletError::Sealed(txid));
            }
            if dead.contains_key(&txid) {
                continue;
            }
            for (child, record) in self.children(&txid) {
                if !matches!(record.status, Status::Rejected { .. }) {
                    queue.push((*child, format!("it builds on {txid}, which was rejected")));
                }
            }
            dead.insert(txid, reason);
        }
        for (txid, reason) in dead {
            let Some(record) = self.records.get_mut(&txid) else { continue };
            record.status = Status::Rejected { reason };
            // The payment it was to take back is open again, unless it is among the dead itself.
            if let Some(payment) = record.reclaims
                && let Some(payment) = self.records.get_mut(&payment)
                && payment.status == (Status::Reclaiming { by: txid })
            {
                payment.status = Status::Built;
            }
        }
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
            let unproven = self
                .records
                .get(&top)
                .filter(|r| !matches!(r.status, Status::Mined { .. }))
                .and_then(|r| r.tx.as_ref());
            let Some(tx) = unproven else {
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
