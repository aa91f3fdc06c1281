//! Reading blocks for coins of ours: the way that takes a node of one's own and asks nobody about our addresses.

use sensora_chain::header::HeaderView;
use sensora_chain::keys::PrivateKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::service::Block;
use sensora_chain::wallet::KeyRow;
use sensora_chain::{Transaction, Txid};

use super::keys::KeyWindow;
use super::{Found, RecoveryError};

/// A scan over blocks, from one height upwards. Keys are looked for up to a gap above the highest that was found.
#[derive(Debug)]
pub struct BlockScan {
    window: KeyWindow,
    next: u32,
    found: Found,
}

impl BlockScan {
    /// A scan that begins with the block at `from`.
    #[must_use]
    pub fn new(root: &PrivateKey, gap: u64, from: u32) -> Self {
        Self { window: KeyWindow::new(root, gap), next: from, found: Found::default() }
    }

    /// The height of the block that is wanted next.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Takes the block at [`BlockScan::next`].
    ///
    /// # Errors
    /// [`RecoveryError::False`] where it is not the block of our header chain; [`RecoveryError::NoHeader`], [`RecoveryError::TooMany`].
    /// Nothing changes then.
    pub fn block(&mut self, block: &Block, headers: &impl HeaderView) -> Result<(), RecoveryError> {
        let height = self.next;
        let lie = |reason| RecoveryError::False { what: format!("block {height}"), reason };
        let header = headers.header_at(height).ok_or(RecoveryError::NoHeader { height })?;
        if header != block.header {
            return Err(lie("it is not the block of our header chain at this height"));
        }
        let txids: Vec<Txid> = block.txs.iter().map(Transaction::txid).collect();
        let path_of =
            |index| MerklePath::for_block(height, &txids, index).map_err(|_| lie("it has no transactions"));
        if *path_of(0)?.root() != header.merkle_root() {
            return Err(lie("its transactions have another Merkle root than its header"));
        }
        for (index, tx) in block.txs.iter().enumerate() {
            for input in &tx.inputs {
                self.found.remove(&input.previous);
            }
            let outputs = self.window.recognise(tx);
            if outputs.is_empty() || tx.is_coinbase() {
                continue;
            }
            for output in outputs {
                self.found.add(tx.clone(), path_of(index)?, output)?;
            }
        }
        self.next = height.saturating_add(1);
        Ok(())
    }

    /// Goes on with the first block after the genesis block, which every node has and which pays nobody.
    #[must_use]
    pub fn above_genesis(mut self) -> Self {
        self.next = self.next.max(1);
        self
    }

    /// One above the highest key in use.
    #[must_use]
    pub fn used(&self, row: KeyRow) -> u64 {
        self.window.next(row)
    }

    /// What was found up to here.
    #[must_use]
    pub fn finish(self) -> Found {
        self.found.numbers(&self.window)
    }
}
