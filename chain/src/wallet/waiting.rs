//! Transactions that wait for a block: since when, and what to think of one that waits for too long. "In the mempool" is not "fee enough".

use std::collections::{BTreeSet, VecDeque};

use super::history::Status;
use super::ledger::Record;
use super::{Wallet, WalletError, is_stale, selection};
use crate::fee::FeeRate;
use crate::header::HeaderView;
use crate::{OutPoint, Satoshis, Txid};

/// Blocks after which a transaction that the network has should have been mined: an hour on average. Whoever pays the rate that miners ask for
/// is in the next block or two.
pub const STUCK_BLOCKS: u32 = 6;

/// Transactions that are looked at for a coin that excludes a payment: the coins that come back are of the first few, and a wallet may have spent
/// them on through thousands.
const MAX_DESCENDANTS: usize = 1_000;

/// A transaction that the network has and no miner takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The transaction.
    pub txid: Txid,
    /// What the caller called it.
    pub label: String,
    /// Broadcast or seen.
    pub status: Status,
    /// Height of the chain when the network was first known to have it.
    pub since: u32,
    /// Blocks since then.
    pub blocks: u32,
    /// Its size in bytes.
    pub size: usize,
    /// Its fee, where all it spends is known.
    pub fee: Option<Satoshis>,
    /// What it pays for 1,000 bytes, rounded down.
    pub rate: Option<FeeRate>,
    /// The same for it and all its unproven ancestors together, which a miner has to take with it.
    pub rate_with_ancestors: Option<FeeRate>,
}

impl Wallet {
    /// Records that somebody reported a transaction to wait for a block, while the chain had this height. Only one that was broadcast becomes
    /// [`Status::Seen`]: a report is no proof, so it never frees or binds a coin.
    ///
    /// # Errors
    /// [`WalletError::UnknownTransaction`].
    pub fn mark_seen(&mut self, txid: &Txid, height: u32) -> Result<(), WalletError> {
        if self.ledger.require(txid)?.status == Status::Broadcast {
            self.ledger.change(txid, |record| record.status = Status::Seen);
        }
        self.mark_waiting(txid, height)
    }

    /// Records that a transaction which the network has was in no block when the chain had this height, unless an earlier height is recorded.
    ///
    /// # Errors
    /// [`WalletError::UnknownTransaction`].
    pub fn mark_waiting(&mut self, txid: &Txid, height: u32) -> Result<(), WalletError> {
        if self.ledger.require(txid).map(waits)? {
            self.ledger.change(txid, |record| record.since = record.since.or(Some(height)));
        }
        Ok(())
    }

    /// The height of the chain when a transaction that waits for a block was first known to be on the network.
    pub fn waits_since(&self, txid: &Txid) -> Option<u32> {
        self.ledger.get(txid).filter(|record| waits(record)).and_then(|record| record.since)
    }

    /// Our transactions that have waited for [`STUCK_BLOCKS`] blocks or more, the longest first.
    pub fn stuck(&self, tip_height: u32) -> Vec<Stuck> {
        let waiting = self.ledger.index.open.iter().filter_map(|txid| {
            let record = self.ledger.get(txid).filter(|record| waits(record))?;
            let (entry, tx, since) = (record.entry.as_ref()?, record.tx.as_ref()?, record.since?);
            let blocks = tip_height.checked_sub(since).filter(|blocks| *blocks >= STUCK_BLOCKS)?;
            let fee = self.fee(record);
            Some(Stuck {
                txid: *txid,
                label: entry.label.clone(),
                status: record.status.clone(),
                since,
                blocks,
                size: tx.size(),
                fee: fee.and_then(|fee| Satoshis::new(fee).ok()),
                rate: fee.and_then(|fee| rate(fee, tx.size())),
                rate_with_ancestors: self.rate_with_ancestors(txid),
            })
        });
        let mut stuck: Vec<Stuck> = waiting.collect();
        stuck.sort_by_key(|stuck| (stuck.since, stuck.txid));
        stuck
    }

    /// Our transactions that another one has outdone, with that other one.
    pub fn conflicted(&self) -> Vec<(Txid, Txid)> {
        let open = self.ledger.index.open.iter();
        let conflicted = open.filter_map(|txid| match self.ledger.get(txid)? {
            Record { status: Status::Conflicted { by }, entry: Some(_), .. } => Some((*txid, *by)),
            _ => None,
        });
        conflicted.collect()
    }

    /// Whether a transaction of ours does not stand, and what spends one of its coins instead is at least `depth` blocks deep: a reorganisation of
    /// fewer does not bring it back. A block counts only while it is one of these headers: the wallet may not know yet that they were replaced.
    pub fn is_outdone(&self, txid: &Txid, depth: u32, headers: &impl HeaderView) -> bool {
        let is_deep = |rival: &Txid, record: &Record| {
            let Status::Mined { height } = record.status else { return false };
            let above = headers.tip_height().checked_sub(height);
            // The proof of what is buried far deeper is not kept.
            let root = self.ledger.index.proofs.get(&(height, *rival));
            above.is_some_and(|above| above.saturating_add(1) >= depth)
                && root.is_none_or(|root| !is_stale(height, root, headers))
        };
        // What builds on one that is outdone is outdone with it.
        let (mut queue, mut seen) = (vec![*txid], BTreeSet::from([*txid]));
        while let Some(txid) = queue.pop() {
            let Some(record) = self.ledger.get(&txid).filter(|record| record.status.is_dead()) else {
                continue;
            };
            // Its body is forgotten only once what outdid it is buried.
            let outdone = record.tx.is_none()
                || self.ledger.rivals(&txid).any(|(rival, record)| is_deep(rival, record));
            if outdone {
                return true;
            }
            queue.extend(record.inputs().map(|input| input.txid).filter(|parent| seen.insert(*parent)));
        }
        false
    }

    /// A coin with which only one of two can ever be taken: `payment`, or what spends this coin. It is one that `payment` spends itself, or it
    /// comes, over however many transactions, from one that does. `None` where no such coin can be spent now.
    #[must_use]
    pub fn excluding(&self, payment: &Txid) -> Option<OutPoint> {
        let spendable = |outpoint: &OutPoint| selection::spendable(&self.ledger, *outpoint).is_some();
        if let Some(own) = self.ledger.get(payment)?.inputs().find(|input| spendable(input)) {
            return Some(*own);
        }
        let mut queue: VecDeque<Txid> = self.ledger.rivals(payment).map(|(rival, _)| *rival).collect();
        let mut seen = BTreeSet::from([*payment]);
        while let Some(txid) = queue.pop_front() {
            if !seen.insert(txid) || seen.len() > MAX_DESCENDANTS {
                continue;
            }
            let Some(record) = self.ledger.get(&txid).filter(|record| record.status.is_settled()) else {
                continue;
            };
            let mut outputs = record.outputs.keys().map(|vout| OutPoint { txid, vout: *vout });
            if let Some(coin) = outputs.find(spendable) {
                return Some(coin);
            }
            queue.extend(self.ledger.children(&txid).map(|(child, _)| *child));
        }
        None
    }

    /// Transactions that are in the place of a conflicted one: if it is not proven any more, the other one may be offered to the network again.
    pub fn may_come_back(&self) -> Vec<Txid> {
        let lost = |by: &Txid| {
            let by = self.ledger.get(by);
            by.is_some_and(|by| by.entry.is_none() && !matches!(by.status, Status::Mined { .. }))
        };
        self.conflicted().into_iter().filter(|(_, by)| lost(by)).map(|(txid, _)| txid).collect()
    }

    /// What a transaction pays to miners: `None` if an output it spends is not known here.
    fn fee(&self, record: &Record) -> Option<u64> {
        let tx = record.tx.as_ref()?;
        let mut brought = 0u64;
        for input in &tx.inputs {
            let parent = self.transaction(&input.previous.txid)?;
            let spent = parent.outputs.get(usize::try_from(input.previous.vout).ok()?)?;
            brought = brought.checked_add(spent.value.as_u64())?;
        }
        brought.checked_sub(tx.output_sum().ok()?.as_u64())
    }

    fn rate_with_ancestors(&self, txid: &Txid) -> Option<FeeRate> {
        let (mut fees, mut bytes) = (0u64, 0usize);
        let (mut queue, mut seen) = (vec![*txid], BTreeSet::from([*txid]));
        while let Some(txid) = queue.pop() {
            let record = self.ledger.get(&txid)?;
            if matches!(record.status, Status::Mined { .. }) {
                continue;
            }
            fees = fees.checked_add(self.fee(record)?)?;
            bytes = bytes.checked_add(record.tx.as_ref()?.size())?;
            queue.extend(record.inputs().map(|input| input.txid).filter(|parent| seen.insert(*parent)));
        }
        rate(fees, bytes)
    }
}

/// Whether the network has it and no block does.
fn waits(record: &Record) -> bool {
    record.tx.is_some() && matches!(record.status, Status::Broadcast | Status::Seen)
}

fn rate(fee: u64, size: usize) -> Option<FeeRate> {
    fee.checked_mul(1_000)?.checked_div(u64::try_from(size).ok()?).map(FeeRate::new)
}
