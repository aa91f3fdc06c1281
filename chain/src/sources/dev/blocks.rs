//! Making blocks: coinbase, Merkle root, and a header whose hash meets the regtest target.

use redb::ReadableTable;

use super::admit;
use super::store::{self, Tables, Waiting};
use super::{BLOCK_VERSION, BlockSummary, DevChainError, HALVING_INTERVAL, REGTEST_BITS, SUBSIDY};
use crate::header::Header;
use crate::merkle_path::merkle_root;
use crate::script::op;
use crate::{Network, OutPoint, Satoshis, Script, Transaction, TxIn, TxOut, Txid};

/// What miners of a block of this height may create.
pub(super) fn subsidy(height: u32) -> Satoshis {
    let halvings = height / HALVING_INTERVAL;
    Satoshis::from_sat(SUBSIDY.as_u64().checked_shr(halvings).unwrap_or(0))
}

impl Tables<'_> {
    /// Mines one block on the tip, with everything that waits or with nothing.
    pub(super) fn mine(
        &mut self,
        now: u32,
        with_waiting: bool,
        reward: &Script,
    ) -> Result<BlockSummary, DevChainError> {
        let (tip, previous) = store::tip(&self.headers)?;
        let height = tip.checked_add(1).ok_or(DevChainError::Corrupt("the chain is full"))?;
        let median = store::median_time(&self.headers, tip)?;
        let waiting = if with_waiting { self.take_minable(height, median)? } else { Vec::new() };

        let mut fees = 0u64;
        let mut txids = vec![Txid([0; 32])];
        let mut bytes = 0usize;
        for (txid, waiting) in &waiting {
            fees = fees.checked_add(waiting.fee).ok_or(store::MISSING)?;
            txids.push(*txid);
        }
        let fees = store::sat(fees)?;
        let value = subsidy(height).checked_add(fees).map_err(|_| store::MISSING)?;
        let coinbase = coinbase(height, self.next_arrival()?, value, reward);
        let coinbase_txid = coinbase.txid();
        if let Some(first) = txids.first_mut() {
            *first = coinbase_txid;
        }
        self.enter(&coinbase_txid, &coinbase)?;
        for (index, txid) in (0u32..).zip(&txids) {
            let tx = store::transaction(&self.txs, txid)?.ok_or(store::MISSING)?;
            bytes = bytes.saturating_add(tx.size());
            self.place(txid, &tx, height, index)?;
        }

        let time = now.max(median.saturating_add(1));
        let header = grind(&previous, merkle_root(&txids), time)?;
        let hash = header.hash();
        self.headers.insert(height, &header.0)?;
        self.heights.insert(&hash.0, height)?;
        let ids: Vec<u8> = txids.iter().flat_map(|txid| txid.0).collect();
        self.blocks.insert(height, ids.as_slice())?;
        Ok(BlockSummary { height, hash, header, txids, fees, bytes })
    }

    /// Empties the queue of what may be in the block at `height`; the rest stays in it.
    fn take_minable(&mut self, height: u32, median: u32) -> Result<Vec<(Txid, Waiting)>, DevChainError> {
        let queue = self.drain_queue()?;
        let mut taken = Vec::with_capacity(queue.len());
        let mut left = std::collections::BTreeSet::new();
        for (txid, waiting) in queue {
            let tx = store::transaction(&self.txs, &txid)?.ok_or(store::MISSING)?;
            let held = tx.inputs.iter().any(|input| left.contains(&input.previous.txid));
            if held || admit::check_final(&tx, height, median).is_err() {
                left.insert(txid);
                self.enqueue(&txid, tx.size(), waiting)?;
            } else {
                taken.push((txid, waiting));
            }
        }
        Ok(taken)
    }
}

/// The transaction that pays the miner (BIP34: its script starts with the height). `nonce` makes each one unique.
fn coinbase(height: u32, nonce: u64, value: Satoshis, reward: &Script) -> Transaction {
    let unlocking = Script::builder().push_int(i64::from(height)).push(&nonce.to_le_bytes()).build();
    let input = TxIn { previous: OutPoint::NULL, unlocking, sequence: u32::MAX };
    // Where subsidy and fees are nothing, an output of 0 satoshis must at least not be spendable.
    let unspendable = || Script::builder().op(op::FALSE).op(op::RETURN).build();
    let locking = if value.is_zero() { unspendable() } else { reward.clone() };
    Transaction::new(vec![input], vec![TxOut { value, locking }])
}

/// Tries nonces until the hash meets the target; on regtest every second one does.
fn grind(previous: &Header, root: [u8; 32], time: u32) -> Result<Header, DevChainError> {
    let header = Header::new(BLOCK_VERSION, previous.hash(), root, time, REGTEST_BITS, 0);
    (0..=u32::MAX)
        .map(|nonce| header.with_nonce(nonce))
        .find(|header| header.meets_target(Network::Regtest))
        .ok_or(DevChainError::Corrupt("no nonce meets the regtest target"))
}

/// The bytes of a whole block, as `submitblock` takes them.
pub(super) fn block_bytes(
    header: &Header,
    txids: &[Txid],
    txs: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
) -> Result<Vec<u8>, DevChainError> {
    let mut bytes = header.0.to_vec();
    crate::encode::write_varint(&mut bytes, txids.len() as u64);
    for txid in txids {
        bytes.extend_from_slice(txs.get(&txid.0)?.ok_or(store::MISSING)?.value());
    }
    Ok(bytes)
}
