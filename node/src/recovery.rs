//! Finding coins again: after an old backup was put back, or with nothing but the words.
//!
//! Four ways, from the cheapest to the one that needs most:
//! - [`catch_up`] follows the coins of a wallet along the chain: what spent them, what came back from it, what spent that. It needs chain
//!   access and nothing else, and brings an old backup up to date.
//! - [`find_signposts`] finds a seller's own anchors and ads, and with them the change that came back; then `catch_up` goes on.
//! - [`Scan`] asks a service that knows scripts (WhatsOnChain) for one key after the other.
//! - [`BlockScan`] reads blocks, of a node of one's own or of the development chain.
//!
//! The words find keys that follow from a number ([`KeyRow`]): addresses given out, and change. A payment that a buyer made is
//! under a key that takes the buyer's public key and the order to find (BRC-29), so the words find it only after it was moved
//! into change: by a payment, an anchor, a consolidation or a sweep. A backup has all of them.
//!
//! Nothing that is said is believed: a coin is taken into the wallet with a Merkle path to a header of ours, or as change of a transaction that
//! carries our own signature.

mod blocks;
mod drive;
mod follow;
mod keys;
mod scan;

use std::collections::BTreeMap;

use sensora_chain::header::HeaderView;
use sensora_chain::keys::PrivateKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::dev::DevChainError;
use sensora_chain::sources::service::SourceError;
use sensora_chain::wallet::{KeyRow, OwnedOutput, Received, Wallet, WalletError};
use sensora_chain::{OutPoint, Satoshis, Transaction, Txid};

pub use blocks::BlockScan;
pub use drive::{Progress, scan_blocks, scan_dev_chain, scan_scripts};
pub use follow::{Followed, catch_up, find_signposts, follow_restored, mark_followed};
pub use keys::{DEFAULT_GAP, KeyWindow, MAX_GAP};
pub use scan::{Ask, Scan, Told};

use crate::chain_access::ChainError;
use crate::store::StoreError;
use crate::wallet::WalletHandleError;

/// The most coins that are gathered in one go: each holds its transaction and its path in memory, a few kB at most of the usual kind.
pub const MAX_FOUND: usize = 100_000;

/// The label of what was found again in the wallet's history.
pub const LABEL: &str = "found again";

/// Why a recovery stopped. What was credited before stays, and the same command goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// No service can be asked.
    #[error("no service answers: {0}")]
    Source(#[from] SourceError),
    /// The development chain cannot be read.
    #[error(transparent)]
    Dev(#[from] DevChainError),
    /// The chain cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// An answer contradicts itself or our headers.
    #[error("an answer about {what} is false: {reason}")]
    False {
        /// The transaction, output or block.
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The headers end before the block.
    #[error("no header is known at height {height}: bring the headers up to date and try again")]
    NoHeader {
        /// The height.
        height: u32,
    },
    /// The blocks begin above the wallet's first coins, or a block is missing.
    #[error("there is no block at height {height}")]
    NoBlock {
        /// The height.
        height: u32,
    },
    /// More coins than are gathered in one go.
    #[error("more than {MAX_FOUND} coins were found: begin higher with --from-height, and go on from there")]
    TooMany,
    /// The driver gave an answer to another question than was asked.
    #[error("the scan was told something that it had not asked")]
    OutOfTurn,
    /// The wallet refuses.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The wallet cannot be changed.
    #[error(transparent)]
    Handle(#[from] WalletHandleError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A mined transaction with coins of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTx {
    /// The transaction.
    pub tx: Transaction,
    /// Its Merkle path, which leads to a header of ours.
    pub path: MerklePath,
    /// Its outputs that are ours and, as far as was said, unspent.
    pub outputs: Vec<OwnedOutput>,
}

/// What a scan has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Transactions with unspent outputs of ours.
    pub transactions: BTreeMap<Txid, FoundTx>,
    /// Outputs of ours that wait for a block: looking again later finds them.
    pub waiting: Vec<OutPoint>,
    /// One above the highest change key in use.
    pub next_change: u64,
    /// One above the highest funding key in use.
    pub next_funding: u64,
}

impl Found {
    /// How many coins there are, and what they are worth together; saturating.
    #[must_use]
    pub fn coins(&self) -> (usize, Satoshis) {
        let (mut count, mut sum) = (0_usize, 0_u64);
        for found in self.transactions.values() {
            for output in &found.outputs {
                let value = usize::try_from(output.vout).ok().and_then(|vout| found.tx.outputs.get(vout));
                count = count.saturating_add(1);
                sum = sum.saturating_add(value.map_or(0, |output| output.value.as_u64()));
            }
        }
        (count, Satoshis::new(sum).unwrap_or(Satoshis::MAX))
    }

    /// Puts it into a wallet and leaves the keys that were found in use out from now on. What the wallet has already stays as it
    /// is. How much came in.
    ///
    /// # Errors
    /// [`WalletError`]; what was put in before the error stays only if the caller keeps the wallet.
    pub fn credit(
        &self,
        wallet: &mut Wallet,
        root: &PrivateKey,
        now_ms: i64,
    ) -> Result<Satoshis, WalletError> {
        let mut gained = Satoshis::ZERO;
        for found in self.transactions.values() {
            let received = Received {
                tx: found.tx.clone(),
                outputs: found.outputs.clone(),
                ancestors: None,
                path: Some(found.path.clone()),
                broadcast: true,
                label: LABEL.to_owned(),
                now_ms,
            };
            gained = gained.checked_add(wallet.receive(root, received)?)?;
        }
        wallet.advance_counters(root, self.next_change, self.next_funding);
        Ok(gained)
    }

    fn add(&mut self, tx: Transaction, path: MerklePath, output: OwnedOutput) -> Result<(), RecoveryError> {
        let txid = tx.txid();
        if self.transactions.len() >= MAX_FOUND && !self.transactions.contains_key(&txid) {
            return Err(RecoveryError::TooMany);
        }
        let found = self.transactions.entry(txid).or_insert(FoundTx { tx, path, outputs: Vec::new() });
        if !found.outputs.iter().any(|known| known.vout == output.vout) {
            found.outputs.push(output);
        }
        Ok(())
    }

    fn remove(&mut self, outpoint: &OutPoint) {
        let Some(found) = self.transactions.get_mut(&outpoint.txid) else { return };
        found.outputs.retain(|output| output.vout != outpoint.vout);
        if found.outputs.is_empty() {
            self.transactions.remove(&outpoint.txid);
        }
    }

    fn numbers(mut self, window: &KeyWindow) -> Self {
        self.next_change = window.next(KeyRow::Change);
        self.next_funding = window.next(KeyRow::Funding);
        self
    }
}

/// Whether a path leads from the transaction to a header of ours.
fn check_path(txid: &Txid, path: &MerklePath, headers: &impl HeaderView) -> Result<(), RecoveryError> {
    let height = path.block_height();
    let header = headers.header_at(height).ok_or(RecoveryError::NoHeader { height })?;
    if path.root_for(txid) == Some(header.merkle_root()) {
        return Ok(());
    }
    let reason = "its Merkle path does not lead to the header at its height";
    Err(RecoveryError::False { what: format!("transaction {txid}"), reason })
}

#[cfg(test)]
mod tests;
