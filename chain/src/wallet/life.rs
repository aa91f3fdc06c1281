//! The life of a transaction: what the network's word and the chain's word make of it and of all that contradicts it or builds on it.
//!
//! Two transactions that spend one output exclude each other. Between two that are in no block, the one that the network had first stands; the
//! chain has the last word. What had been on the network and loses is *conflicted*, not rejected: its name stays watched, because a
//! reorganisation may turn the verdict round, and then everything that followed from it turns with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::history::Status;
use super::ledger::Ledger;
use super::{WalletError, bounded};
use crate::Txid;
use crate::merkle_path::MerklePath;

/// Why a transaction falls.
#[derive(Debug, Clone)]
enum Cause {
    /// It will be in no block, whoever says so.
    Refused(String),
    /// This transaction stands in its place.
    Outdone(Txid),
}

impl Ledger {
    /// Records that the network has `txid`: in a block when `path` is given. Its unseen ancestors must be on the
    /// network too; whatever contradicts any of them falls. Nothing changes on an error.
    pub(super) fn settle(&mut self, txid: &Txid, path: Option<MerklePath>) -> Result<(), WalletError> {
        let lifted = self.to_lift(txid)?;
        let mut fall = BTreeMap::new();
        for ours in &lifted {
            let record = self.require(ours)?;
            for input in record.inputs() {
                if !record.sealed && self.owned(input).is_some_and(|owned| owned.gone) {
                    return Err(WalletError::Pruned(input.txid));
                }
                for (other, record) in self.spenders(input) {
                    if other == ours || record.status.is_dead() {
                        continue;
                    }
                    let stands = match record.status {
                        _ if record.sealed => true,
                        Status::Mined { .. } => true,
                        Status::Broadcast | Status::Seen => path.is_none(),
                        _ => lifted.contains(other),
                    };
                    if stands {
                        return Err(WalletError::Conflict { txid: *ours, other: *other, outpoint: *input });
                    }
                    fall.insert(*other, Cause::Outdone(*ours));
                }
            }
        }
        let fallen = self.fall(fall)?;
        for txid in &lifted {
            self.change(txid, |record| {
                if !record.status.is_settled() {
                    (record.status, record.since) = (Status::Broadcast, None);
                }
            });
        }
        if let Some(path) = path {
            self.change(txid, |record| {
                record.status = Status::Mined { height: path.block_height() };
                (record.path, record.since) = (Some(Arc::new(path)), None);
            });
        }
        self.raise_after(&fallen);
        Ok(())
    }

    /// The transaction and those of its ancestors that are not known to be on the network.
    fn to_lift(&self, txid: &Txid) -> Result<BTreeSet<Txid>, WalletError> {
        let mut lifted = BTreeSet::from([*txid]);
        let mut queue = vec![*txid];
        while let Some(next) = queue.pop() {
            for input in self.require(&next)?.inputs() {
                let parent = input.txid;
                let Some(record) = self.get(&parent) else { continue };
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
        Ok(lifted)
    }

    /// Rejects a transaction and everything that builds on it. Nothing changes on an error.
    pub(super) fn reject(&mut self, txid: &Txid, reason: &str) -> Result<(), WalletError> {
        let fallen = self.fall(BTreeMap::from([(*txid, Cause::Refused(bounded(reason)))]))?;
        self.raise_after(&fallen);
        Ok(())
    }

    /// Lets transactions fall, and everything that builds on them. Returns all that fell. Nothing changes on an error.
    fn fall(&mut self, causes: BTreeMap<Txid, Cause>) -> Result<BTreeSet<Txid>, WalletError> {
        let mut queue: VecDeque<(Txid, Cause)> = causes.into_iter().collect();
        let mut falling: BTreeMap<Txid, Cause> = BTreeMap::new();
        while let Some((txid, cause)) = queue.pop_front() {
            let record = self.require(&txid)?;
            if let Status::Mined { height } = record.status {
                return Err(WalletError::AlreadyMined { txid, height });
            }
            if record.sealed {
                return Err(WalletError::Sealed(txid));
            }
            if falling.contains_key(&txid) {
                continue;
            }
            for (child, record) in self.children(&txid) {
                if !record.status.is_dead() {
                    let cause = match (&cause, record.status.is_settled()) {
                        (Cause::Outdone(by), true) => Cause::Outdone(*by),
                        (Cause::Outdone(_), false) => {
                            Cause::Refused(format!("it builds on {txid}, which was outdone"))
                        }
                        (Cause::Refused(_), _) => {
                            Cause::Refused(format!("it builds on {txid}, which was rejected"))
                        }
                    };
                    queue.push_back((*child, cause));
                }
            }
            falling.insert(txid, cause);
        }
        for (txid, cause) in &falling {
            let Some(record) = self.get(txid) else { continue };
            let (had, reclaims, ours) = (record.status.is_settled(), record.reclaims, record.entry.is_some());
            let status = match cause {
                Cause::Outdone(by) if had => Status::Conflicted { by: *by },
                Cause::Outdone(by) => Status::Rejected { reason: format!("its coins were spent by {by}") },
                Cause::Refused(reason) => Status::Rejected { reason: reason.clone() },
            };
            if let (Status::Conflicted { by }, true) = (&status, ours) {
                let by = *by;
                self.outdone.insert_mut(*txid, by);
            }
            self.change(txid, |record| (record.status, record.since) = (status, None));
            // The payment it was to take back is open again, unless it is among the fallen itself.
            if let Some(payment) = reclaims {
                self.change(&payment, |payment| {
                    if payment.status == (Status::Reclaiming { by: *txid }) {
                        payment.status = Status::Built;
                    }
                });
            }
        }
        Ok(falling.into_keys().collect())
    }

    /// What the fallen had outdone stands again where nothing else is in its place: the other half of a verdict that turns round.
    fn raise_after(&mut self, fallen: &BTreeSet<Txid>) {
        for by in fallen {
            let outdone = Status::Conflicted { by: *by };
            let mut queue: VecDeque<Txid> = self.rivals(by).map(|(rival, _)| *rival).collect();
            let mut opened = BTreeSet::new();
            while let Some(txid) = queue.pop_front() {
                let Some(record) = self.get(&txid) else { continue };
                if record.status == outdone && !fallen.contains(&txid) && self.may_stand(&txid) {
                    self.change(&txid, |record| (record.status, record.since) = (Status::Broadcast, None));
                    self.outdone.remove_mut(&txid);
                }
                // A child is looked at again with each parent that stands.
                if self.get(&txid).is_some_and(|record| record.status.is_settled()) && opened.insert(txid) {
                    let children = self.children(&txid).filter(|(_, record)| record.status == outdone);
                    queue.extend(children.map(|(child, _)| *child));
                }
            }
        }
    }

    /// Whether everything a transaction spends is there and nobody else's.
    fn may_stand(&self, txid: &Txid) -> bool {
        let Some(record) = self.get(txid) else { return false };
        record.inputs().all(|input| {
            let there = self.get(&input.txid).is_none_or(|parent| parent.status.is_settled());
            let gone = self.owned(input).is_some_and(|owned| owned.gone);
            there && !gone && self.spenders(input).all(|(other, r)| other == txid || r.status.is_dead())
        })
    }
}
