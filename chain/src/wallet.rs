//! The wallet: which coins are ours, what they may be used for, and what became of every payment.
//!
//! It is pure: keys, time, proofs and the network's answers are handed in. It knows what has changed since it was last
//! stored ([`Wallet::changes`]): a few small records, one for each transaction, that a node stores in the same database
//! transaction as the order it pays for. A copy costs nothing, so a change that fails is simply dropped. It holds no
//! secret; the root key is lent to the calls that derive or sign.
//!
//! ```text
//! Built ──▶ Broadcast ──▶ Seen ──▶ Mined ──▶ (buried: 6 deep, 12 deep its coins are forgotten)
//!   │           ▲   a reorganisation   │
//!   │           └──────────────────────┘
//!   ├──▶ Reclaiming ──▶ Rejected        the payee refused it, and we took the coins back
//!   ├──▶ Rejected                       the network never had it and never will
//!   └ ─ ─ ─ Broadcast, Seen ──▶ Conflicted   another one was taken in its place; the proof of either turns it round
//! ```
//! A transaction's state alone says what its inputs and outputs are worth (see [`Wallet::coins`]):
//! - what it spends is *reserved* while it is built, gone once it is broadcast, free again if it is rejected or conflicted;
//! - what it creates for us can be spent once it is broadcast, not before.
//!
//! Change and funding addresses are numbered keys of the root key, so they are found again from the words alone. What a peer
//! paid us is locked to a key that also follows from the peer's key and the invoice number: without the records it cannot be
//! found. [`Wallet::consolidate`] and [`Wallet::sweep`] turn such coins into own change, or into a cold address's, as they
//! gather; until then the records (a backup of them) are what a restore needs.
//!
//! Every call can be repeated: telling the wallet the same thing twice changes nothing.
//!
//! ```
//! use sensora_chain::{wallet::Wallet, Network, PrivateKey};
//!
//! let root = PrivateKey::from_bytes([7; 32])?;
//! let mut wallet = Wallet::new();
//! let address = wallet.funding_address(&root, Network::Regtest)?;
//! assert_ne!(address, wallet.funding_address(&root, Network::Regtest)?, "an address is used once");
//! let restored = Wallet::from_bytes(&wallet.to_bytes()?)?;
//! assert_eq!(restored, wallet);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(clippy::arithmetic_side_effects)]

mod ancestry;
mod build;
mod coin;
mod compare;
mod error;
mod history;
mod index;
mod ledger;
mod life;
mod prune;
mod recover;
mod selection;
mod stored;
mod tidy;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;

pub use ancestry::MAX_BEEF_BYTES;
pub use build::{Built, MAX_CHANGE, MAX_OUTPUTS, MIN_SPLIT, PaymentSpec, TARGET_COINS};
pub use coin::{Balance, Coin, CoinState, Counterparty, KeySource, OwnedOutput, Purpose};
pub use compare::{Difference, OnChain, Place};
pub use error::WalletError;
pub use history::{AuditError, HistoryEntry, Status};
pub use prune::{HISTORY_KEPT, PRUNE_DEPTH, Pruned};
pub use recover::KeyRow;
pub use selection::MAX_BEEF_DEPTH;
pub use stored::Changes;
pub use tidy::{CONSOLIDATE_ABOVE, MIN_SWEEP, TIDY_DEPTH, Task, TidySpec};
pub use waiting::{STUCK_BLOCKS, Stuck};

use crate::beef::Beef;
use crate::header::HeaderView;
use crate::keys::{Address, PrivateKey};
use crate::merkle_path::MerklePath;
use crate::{Network, OutPoint, Satoshis, Transaction, Txid};
use history::Entry;
use ledger::{Ledger, Owned, Record};

/// The longest label and reason, in bytes: a line of text.
pub const MAX_LABEL: usize = 256;

/// How many of the newest funding addresses are recognised in transactions. Each costs a few dozen bytes of state;
/// money sent to an older one is not lost, [`Wallet::receive`] takes it with its [`KeySource`].
pub const FUNDING_WATCHED: usize = 1_000;

/// A transaction that pays us.
///
/// The caller has verified it ([`crate::spv::verify`]); the wallet checks only that the outputs are really ours.
#[derive(Debug, Clone)]
pub struct Received<'a> {
    /// The transaction.
    pub tx: Transaction,
    /// Which outputs are ours.
    pub outputs: Vec<OwnedOutput>,
    /// The verified BEEF it came in: the ancestors whoever we pay will want to see.
    pub ancestors: Option<&'a Beef>,
    /// Its own Merkle path, if it is mined.
    pub path: Option<MerklePath>,
    /// Whether the network is known to have it. If not, its coins wait for [`Wallet::mark_broadcast`].
    pub broadcast: bool,
    /// The line of history, at most [`MAX_LABEL`] bytes.
    pub label: String,
    /// The time of receipt, in milliseconds since the Unix epoch.
    pub now_ms: i64,
}

/// The wallet. See the [module](self) for what it is for.
#[derive(Debug, Clone, Default)]
pub struct Wallet {
    next_change: u64,
    next_funding: u64,
    next_sequence: u64,
    /// The newest funding addresses, as (number, hash).
    funding: Arc<VecDeque<(u64, [u8; 20])>>,
    /// The sum of the archived history.
    carried_sat: i64,
    ledger: Ledger,
    saved: stored::Saved,
}

/// What of it is stored already says nothing about the money.
impl PartialEq for Wallet {
    fn eq(&self, other: &Self) -> bool {
        let counters =
            |w: &Self| (w.next_change, w.next_funding, w.next_sequence, w.carried_sat, w.funding.clone());
        counters(self) == counters(other) && self.ledger == other.ledger
    }
}

impl Eq for Wallet {}

impl Wallet {
    /// An empty wallet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next funding address. Each is given out once.
    ///
    /// # Errors
    /// [`WalletError::Overflow`] after 2⁶⁴ addresses.
    pub fn funding_address(&mut self, root: &PrivateKey, network: Network) -> Result<Address, WalletError> {
        let number = self.next_funding;
        self.next_funding = number.checked_add(1).ok_or(WalletError::Overflow)?;
        let hash = funding_key(number).private_key(root).public().hash160();
        let funding = Arc::make_mut(&mut self.funding);
        while funding.len() >= FUNDING_WATCHED {
            funding.pop_front();
        }
        funding.push_back((number, hash));
        self.saved.funding_changed = true;
        Ok(Address::new(network, hash))
    }

    /// The outputs of `tx` that pay one of the newest [`FUNDING_WATCHED`] funding addresses, ready for
    /// [`Wallet::receive`].
    pub fn recognise(&self, tx: &Transaction) -> Vec<OwnedOutput> {
        let mut found = Vec::new();
        for (vout, output) in (0u32..).zip(&tx.outputs) {
            let hash = output.locking.p2pkh_hash();
            if let Some((number, _)) = self.funding.iter().find(|(_, funding)| Some(*funding) == hash) {
                found.push(OwnedOutput { vout, key: funding_key(*number), purpose: Purpose::Funding });
            }
        }
        found
    }

    /// Takes in a transaction that pays us, with the ancestors its own proof needs. Returns what it newly adds to
    /// the wallet: nothing when it was received before.
    ///
    /// An archived transaction ([`Pruned::archived`]) is a new one to the wallet; whoever archives the history keeps
    /// such a transaction from being received again.
    ///
    /// # Errors
    /// [`WalletError::NotOurs`], [`WalletError::Coinbase`], [`WalletError::Conflict`].
    pub fn receive(&mut self, root: &PrivateKey, received: Received<'_>) -> Result<Satoshis, WalletError> {
        let Received { tx, outputs, ancestors, path, broadcast, label, now_ms } = received;
        check_label(&label)?;
        let txid = tx.txid();
        if tx.is_coinbase() {
            return Err(WalletError::Coinbase(txid));
        }
        let pruned = self.ledger.get(&txid).filter(|record| record.tx.is_none());
        let rejected = pruned.is_some_and(|record| matches!(record.status, Status::Rejected { .. }));
        if pruned.is_some() && !rejected {
            return Ok(Satoshis::ZERO);
        }
        let mut next = self.clone();
        if rejected {
            next.ledger.put(&txid, None);
        }
        let mut unseen = vec![txid];
        for (ancestor, ancestor_path) in ancestors.map(ancestry::parts).transpose()?.unwrap_or_default() {
            unseen.extend(next.take_ancestor(ancestor, ancestor_path, &txid, now_ms)?);
        }
        next.add(tx, &txid, &label, now_ms)?;
        let mut gained = Satoshis::ZERO;
        for output in outputs {
            let value = next.take_output(root, &txid, output, &label, now_ms)?;
            gained = gained.checked_add(value)?;
        }
        if path.is_some() || broadcast {
            next.ledger.settle(&txid, path)?;
        } else {
            unseen.iter().try_for_each(|txid| next.refuse_conflicts(txid))?;
        }
        *self = next;
        Ok(gained)
    }

    /// Records that the network accepted a transaction: its inputs are gone, its outputs can be spent. A payment of
    /// ours that contradicts it and that the network never saw is rejected.
    ///
    /// # Errors
    /// [`WalletError::UnknownTransaction`]; [`WalletError::Conflict`] when the network is known to have another
    /// transaction that spends the same coin.
    pub fn mark_broadcast(&mut self, txid: &Txid) -> Result<(), WalletError> {
        if self.ledger.require(txid)?.tx.is_none() {
            return Ok(());
        }
        self.ledger.settle(txid, None)
    }

    /// Records that a transaction is in a block. The chain has the last word: a transaction that spends the same coin
    /// and is in no block is conflicted, or rejected if the network never had it.
    ///
    /// # Errors
    /// [`WalletError::WrongProof`], [`WalletError::NoHeader`], [`WalletError::UnknownTransaction`], and
    /// [`WalletError::Conflict`] when another transaction that spends the same coin is recorded as mined.
    pub fn mark_mined(
        &mut self,
        txid: &Txid,
        path: MerklePath,
        headers: &impl HeaderView,
    ) -> Result<(), WalletError> {
        if self.ledger.require(txid)?.tx.is_none() {
            return Ok(());
        }
        let height = path.block_height();
        let header = headers.header_at(height).ok_or(WalletError::NoHeader { txid: *txid, height })?;
        if path.root_for(txid) != Some(header.merkle_root()) {
            return Err(WalletError::WrongProof { txid: *txid, height });
        }
        self.ledger.settle(txid, Some(path))
    }

    /// Records that a transaction will never be in a block. Its inputs are free again; what builds on it is rejected
    /// with it. A payment that only the *payee* refused may still be broadcast by him: use [`Wallet::reclaim`].
    ///
    /// # Errors
    /// [`WalletError::AlreadyMined`] if it or something that builds on it is in a block.
    pub fn mark_rejected(&mut self, txid: &Txid, reason: &str) -> Result<(), WalletError> {
        if self.ledger.require(txid)?.status.is_dead() {
            return Ok(());
        }
        self.ledger.reject(txid, reason)
    }

    /// Takes back every proof from a block at `height` or above, because a reorganisation replaced those blocks.
    /// Returns the transactions that are unproven now. Pruned ones stay: they were [`PRUNE_DEPTH`] deep, and what was
    /// that deep can be proven again but not rejected any more.
    pub fn unmined(&mut self, height: u32) -> Vec<Txid> {
        let proofs = self.ledger.index.proofs.range((height, Txid([0; 32]))..);
        let lost: Vec<Txid> = proofs.map(|((_, txid), _)| *txid).collect();
        for txid in &lost {
            self.ledger.change(txid, |record| {
                (record.status, record.path, record.since) = (Status::Broadcast, None, None);
            });
        }
        lost
    }

    /// The lowest height at which a proof no longer leads to the Merkle root of the block: the blocks from there on
    /// were replaced, and [`Wallet::unmined`] is to be called with it. `None` when all proofs hold.
    pub fn lowest_stale_proof(&self, headers: &impl HeaderView) -> Option<u32> {
        let mut proofs = self.ledger.index.proofs.iter();
        let stale = proofs.find(|((height, _), root)| is_stale(*height, root, headers));
        stale.map(|((height, _), _)| *height)
    }

    /// Every output of ours that is not spent, in the order of their outpoints.
    pub fn coins(&self) -> Vec<Coin> {
        self.ledger.coins().map(coin).collect()
    }

    /// The coin at this place, if it is ours and not spent.
    pub fn coin(&self, outpoint: &OutPoint) -> Option<Coin> {
        Some(coin((*outpoint, self.ledger.owned(outpoint)?, self.ledger.state(outpoint)?)))
    }

    /// Where a transaction stands; `None` when the wallet does not know it.
    pub fn status(&self, txid: &Txid) -> Option<&Status> {
        self.ledger.get(txid).map(|record| &record.status)
    }

    /// A transaction the wallet keeps.
    pub fn transaction(&self, txid: &Txid) -> Option<&Transaction> {
        self.ledger.get(txid).and_then(|record| record.tx.as_deref())
    }

    /// Adds a transaction whose inputs may be ours. Known ones stay as they are.
    fn add(&mut self, tx: Transaction, txid: &Txid, label: &str, now_ms: i64) -> Result<(), WalletError> {
        if self.ledger.get(txid).is_some() {
            return Ok(());
        }
        let mut spent = 0i64;
        let mut touches = false;
        for input in &tx.inputs {
            if let Some(owned) = self.ledger.owned(&input.previous) {
                touches = true;
                spent = spent.checked_add(owned.value.as_u64().cast_signed()).ok_or(WalletError::Overflow)?;
            }
        }
        let entry = if touches {
            let mut entry = self.entry(label, now_ms)?;
            entry.add(0i64.saturating_sub(spent))?;
            Some(entry)
        } else {
            None
        };
        self.ledger.put(txid, Some(Record::new(tx, entry)));
        Ok(())
    }

    /// Takes in a transaction of a verified BEEF other than its subject. Returns its id unless it is proven.
    fn take_ancestor(
        &mut self,
        tx: Transaction,
        path: Option<MerklePath>,
        subject: &Txid,
        now_ms: i64,
    ) -> Result<Option<Txid>, WalletError> {
        let txid = tx.txid();
        let settled = self.ledger.get(&txid).is_some_and(|r| r.tx.is_none() || r.path.is_some());
        if txid == *subject || settled {
            return Ok(None);
        }
        self.add(tx, &txid, ledger::FOUND, now_ms)?;
        if path.is_some() {
            self.ledger.settle(&txid, path)?;
            return Ok(None);
        }
        Ok(Some(txid))
    }

    fn take_output(
        &mut self,
        root: &PrivateKey,
        txid: &Txid,
        output: OwnedOutput,
        label: &str,
        now_ms: i64,
    ) -> Result<Satoshis, WalletError> {
        let outpoint = OutPoint { txid: *txid, vout: output.vout };
        if self.ledger.owned(&outpoint).is_some() {
            return Ok(Satoshis::ZERO);
        }
        let tx = self.transaction(txid).ok_or(WalletError::UnknownTransaction(*txid))?;
        let found = usize::try_from(output.vout).ok().and_then(|vout| tx.outputs.get(vout));
        let found = found.filter(|found| found.locking == output.key.locking_script(root));
        let value = found.ok_or(WalletError::NotOurs(outpoint))?.value;
        if let Purpose::Payment { label } = &output.purpose {
            check_label(label)?;
        }
        let owned = Owned { value, key: output.key, purpose: output.purpose, gone: false };
        let mut sequence = self.next_sequence;
        self.ledger.add_owned(outpoint, owned, |found| {
            let label = if found.is_empty() { label } else { found };
            let entry = Entry { sequence, label: label.to_owned(), delta_sat: 0, fee: None, time_ms: now_ms };
            sequence = sequence.saturating_add(1);
            entry
        })?;
        self.next_sequence = sequence;
        Ok(value)
    }

    /// A transaction the network may not have must not claim a coin that another one claims.
    fn refuse_conflicts(&self, txid: &Txid) -> Result<(), WalletError> {
        for input in self.ledger.require(txid)?.inputs() {
            for (other, record) in self.ledger.spenders(input) {
                if other != txid && !record.status.is_dead() {
                    return Err(WalletError::Conflict { txid: *txid, other: *other, outpoint: *input });
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, label: &str, now_ms: i64) -> Result<Entry, WalletError> {
        let sequence = self.take_sequence()?;
        Ok(Entry { sequence, label: label.to_owned(), delta_sat: 0, fee: None, time_ms: now_ms })
    }

    fn take_sequence(&mut self) -> Result<u64, WalletError> {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.checked_add(1).ok_or(WalletError::Overflow)?;
        Ok(sequence)
    }
}

fn coin((outpoint, owned, state): (OutPoint, &Owned, CoinState)) -> Coin {
    Coin { outpoint, value: owned.value, key: owned.key.clone(), purpose: owned.purpose.clone(), state }
}

/// Whether a proof does not lead to the block that is at its height. Below the first header that is known nothing contradicts it: a checkpoint
/// that is newer than the coin was put there because the chain is what it is.
fn is_stale(height: u32, root: &[u8; 32], headers: &impl HeaderView) -> bool {
    match headers.header_at(height) {
        Some(header) => header.merkle_root() != *root,
        None => height > headers.tip_height(),
    }
}

fn change_key(number: u64) -> KeySource {
    KeySource::myself(format!("2-sensora wallet-{number}"))
}

fn funding_key(number: u64) -> KeySource {
    KeySource::myself(format!("2-sensora funding-{number}"))
}

fn check_label(label: &str) -> Result<(), WalletError> {
    if label.len() > MAX_LABEL { Err(WalletError::LabelTooLong { len: label.len() }) } else { Ok(()) }
}

/// The text, cut to [`MAX_LABEL`] bytes at a character boundary.
fn bounded(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_LABEL)).unwrap_or_default().to_owned()
}
