//! Replacing the newest blocks, as a real chain does when a longer branch appears.

use std::collections::BTreeSet;

use redb::ReadableTable;

use super::store::{self, Tables, Waiting};
use super::{BlockSummary, DevChainError, OnReorg, Reorged};
use crate::{Script, Transaction, Txid};

impl Tables<'_> {
    /// Takes off `depth` blocks and puts `depth + 1` empty ones in their place.
    pub(super) fn reorg(
        &mut self,
        depth: u32,
        now: u32,
        dropped: OnReorg,
        reward: &Script,
    ) -> Result<Reorged, DevChainError> {
        let (tip, _) = store::tip(&self.headers)?;
        if depth == 0 || depth > tip {
            return Err(DevChainError::ReorgDepth { depth, height: tip });
        }
        let first = tip.saturating_sub(depth).saturating_add(1);
        let mut coinbases = BTreeSet::new();
        let mut returned = Vec::new();
        for height in first..=tip {
            let txids = self.disconnect(height)?;
            let (coinbase, rest) = txids.split_first().ok_or(store::MISSING)?;
            coinbases.insert(*coinbase);
            returned.extend_from_slice(rest);
        }
        let mut doomed = coinbases.clone();
        if dropped == OnReorg::Forget {
            doomed.extend(&returned);
        }
        let waiting = self.drain_queue()?.into_iter().map(|(txid, _)| txid);
        let candidates: Vec<Txid> = returned.iter().copied().chain(waiting).collect();
        let doomed = self.dependants(&candidates, doomed)?;
        // Children first, so that a coin the faucet gets back is never one whose transaction goes too.
        for txid in candidates.iter().rev().filter(|txid| doomed.contains(txid)) {
            let tx = self.require(txid)?;
            self.forget(txid, &tx)?;
        }
        for txid in &coinbases {
            let tx = self.require(txid)?;
            self.forget(txid, &tx)?;
        }
        let kept: Vec<Txid> = candidates.into_iter().filter(|txid| !doomed.contains(txid)).collect();
        for txid in &kept {
            self.wait_again(txid)?;
        }
        let mut blocks: Vec<BlockSummary> = Vec::new();
        for _ in 0..=depth {
            blocks.push(self.mine(now, false, reward)?);
        }
        let forgotten = returned.iter().filter(|txid| doomed.contains(txid)).copied().collect();
        returned.retain(|txid| !doomed.contains(txid));
        Ok(Reorged { first_height: first, blocks, returned, forgotten })
    }

    /// Removes the block at `height` and returns what was in it. The transactions' bytes stay.
    fn disconnect(&mut self, height: u32) -> Result<Vec<Txid>, DevChainError> {
        let txids = store::block_txids(&self.blocks, height)?.ok_or(store::MISSING)?;
        for txid in &txids {
            let tx = self.require(txid)?;
            self.unplace(txid, &tx)?;
        }
        let header = store::header(&self.headers, height)?.ok_or(store::MISSING)?;
        self.heights.remove(&header.hash().0)?;
        self.headers.remove(height)?;
        self.blocks.remove(height)?;
        Ok(txids)
    }

    /// Puts a transaction whose inputs all exist back into the queue.
    fn wait_again(&mut self, txid: &Txid) -> Result<(), DevChainError> {
        let tx = self.require(txid)?;
        let (mut brought, mut depth) = (0u64, 1u32);
        for input in &tx.inputs {
            let parent = self.require(&input.previous.txid)?;
            let output = store::output_of(&parent, input.previous.vout).ok_or(store::MISSING)?;
            brought = brought.checked_add(output.value.as_u64()).ok_or(store::MISSING)?;
            if let Some(line) = self.waiting.get(&input.previous.txid.0)? {
                depth = depth.max(line.value().2.saturating_add(1));
            }
        }
        let taken = tx.output_sum().map_err(|_| store::MISSING)?;
        let fee = brought.checked_sub(taken.as_u64()).ok_or(store::MISSING)?;
        self.enqueue(txid, tx.size(), Waiting { fee, depth })
    }

    fn require(&self, txid: &Txid) -> Result<Transaction, DevChainError> {
        store::transaction(&self.txs, txid)?.ok_or(store::MISSING)
    }
}
