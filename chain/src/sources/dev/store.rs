//! The tables of the chain and the few changes they know: a transaction comes, is mined, goes back, is forgotten.
//!
//! Outputs are not stored apart: an output is read out of its transaction and is unspent when `dev_spent` has no line
//! for it. That leaves little that could disagree.

use std::collections::BTreeSet;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::DevChainError;
use crate::contract::parse_data_output;
use crate::header::Header;
use crate::{OutPoint, Satoshis, Script, Transaction, TxOut, Txid};

/// `dev_meta`: schema version and counters by name.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("dev_meta");
/// Height → header.
pub(super) const HEADERS: TableDefinition<'_, u32, &[u8; 80]> = TableDefinition::new("dev_headers");
/// Block hash → height, of the chain that stands.
pub(super) const HEIGHTS: TableDefinition<'_, &[u8; 32], u32> = TableDefinition::new("dev_heights");
/// Height → the block's transaction ids, one after another.
pub(super) const BLOCKS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("dev_blocks");
/// Txid → bytes, mined and waiting.
pub(super) const TXS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("dev_txs");
/// Txid → (height, position in the block).
pub(super) const PLACES: TableDefinition<'_, &[u8; 32], (u32, u32)> = TableDefinition::new("dev_places");
/// Order of arrival → txid, of what waits for a block.
pub(super) const QUEUE: TableDefinition<'_, u64, &[u8; 32]> = TableDefinition::new("dev_queue");
/// Txid → (order of arrival, fee, generation), of what waits for a block.
pub(super) const WAITING: TableDefinition<'_, &[u8; 32], (u64, u64, u32)> =
    TableDefinition::new("dev_waiting");
/// Outpoint → the transaction that spends it, mined or waiting.
pub(super) const SPENT: TableDefinition<'_, &[u8; 36], &[u8; 32]> = TableDefinition::new("dev_spent");
/// (first push, height, position in the block, output) of every mined data output.
pub(super) const DATA: TableDefinition<'_, (&[u8], u32, u32, u32), ()> = TableDefinition::new("dev_data");
/// The faucet's unspent coins: outpoint → (value, whether it is a coinbase).
pub(super) const FAUCET: TableDefinition<'_, &[u8; 36], (u64, bool)> = TableDefinition::new("dev_faucet");
/// Txid → bytes, of what a reorganisation threw out.
pub(super) const DROPPED: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("dev_dropped");

/// How many bytes of a first push the index of data outputs keeps. Protocol tags are shorter.
pub(super) const TAG_BYTES: usize = 64;

/// Below this value a coin is not worth the faucet's while (and its table stays short when subsidies have run out).
pub(super) const FAUCET_LEAST: u64 = 10_000;

const ARRIVALS: &str = "arrivals";
const WAITING_BYTES: &str = "waiting_bytes";

/// Where a transaction that waits for a block stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) fee: u64,
    pub(super) depth: u32,
}

/// All tables, open in one write transaction.
pub(super) struct Tables<'txn> {
    pub(super) meta: Table<'txn, &'static str, u64>,
    pub(super) headers: Table<'txn, u32, &'static [u8; 80]>,
    pub(super) heights: Table<'txn, &'static [u8; 32], u32>,
    pub(super) blocks: Table<'txn, u32, &'static [u8]>,
    pub(super) txs: Table<'txn, &'static [u8; 32], &'static [u8]>,
    pub(super) places: Table<'txn, &'static [u8; 32], (u32, u32)>,
    pub(super) queue: Table<'txn, u64, &'static [u8; 32]>,
    pub(super) waiting: Table<'txn, &'static [u8; 32], (u64, u64, u32)>,
    pub(super) spent: Table<'txn, &'static [u8; 36], &'static [u8; 32]>,
    pub(super) data: Table<'txn, (&'static [u8], u32, u32, u32), ()>,
    pub(super) faucet: Table<'txn, &'static [u8; 36], (u64, bool)>,
    pub(super) dropped: Table<'txn, &'static [u8; 32], &'static [u8]>,
    faucet_script: Script,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction, faucet_script: Script) -> Result<Self, DevChainError> {
        Ok(Self {
            meta: txn.open_table(META)?,
            headers: txn.open_table(HEADERS)?,
            heights: txn.open_table(HEIGHTS)?,
            blocks: txn.open_table(BLOCKS)?,
            txs: txn.open_table(TXS)?,
            places: txn.open_table(PLACES)?,
            queue: txn.open_table(QUEUE)?,
            waiting: txn.open_table(WAITING)?,
            spent: txn.open_table(SPENT)?,
            data: txn.open_table(DATA)?,
            faucet: txn.open_table(FAUCET)?,
            dropped: txn.open_table(DROPPED)?,
            faucet_script,
        })
    }

    fn counter(&self, name: &str) -> Result<u64, DevChainError> {
        Ok(self.meta.get(name)?.map_or(0, |guard| guard.value()))
    }

    /// A number that was never given out before.
    pub(super) fn next_arrival(&mut self) -> Result<u64, DevChainError> {
        let next = self.counter(ARRIVALS)?.saturating_add(1);
        self.meta.insert(ARRIVALS, next)?;
        Ok(next)
    }

    /// Bytes of all transactions that wait for a block.
    pub(super) fn waiting_bytes(&self) -> Result<u64, DevChainError> {
        self.counter(WAITING_BYTES)
    }

    /// Writes down a new transaction and what it spends. It is neither waiting nor mined yet.
    pub(super) fn enter(&mut self, txid: &Txid, tx: &Transaction) -> Result<(), DevChainError> {
        self.txs.insert(&txid.0, tx.to_bytes().as_slice())?;
        self.dropped.remove(&txid.0)?;
        let coinbase = tx.is_coinbase();
        if !coinbase {
            for input in &tx.inputs {
                let key = outpoint_key(&input.previous);
                self.spent.insert(&key, &txid.0)?;
                self.faucet.remove(&key)?;
            }
        }
        for (vout, output) in (0u32..).zip(&tx.outputs) {
            self.offer_to_faucet(&OutPoint { txid: *txid, vout }, output, coinbase)?;
        }
        Ok(())
    }

    /// Undoes [`Tables::enter`]. What spends its outputs must be gone already or go with it.
    pub(super) fn forget(&mut self, txid: &Txid, tx: &Transaction) -> Result<(), DevChainError> {
        self.txs.remove(&txid.0)?;
        for vout in 0..u32::try_from(tx.outputs.len()).unwrap_or(u32::MAX) {
            self.faucet.remove(&outpoint_key(&OutPoint { txid: *txid, vout }))?;
        }
        if tx.is_coinbase() {
            return Ok(());
        }
        self.dropped.insert(&txid.0, tx.to_bytes().as_slice())?;
        for input in &tx.inputs {
            self.spent.remove(&outpoint_key(&input.previous))?;
            if let Some(parent) = transaction(&self.txs, &input.previous.txid)? {
                let coinbase = parent.is_coinbase();
                if let Some(output) = output_of(&parent, input.previous.vout) {
                    self.offer_to_faucet(&input.previous, output, coinbase)?;
                }
            }
        }
        Ok(())
    }

    fn offer_to_faucet(
        &mut self,
        outpoint: &OutPoint,
        output: &TxOut,
        coinbase: bool,
    ) -> Result<(), DevChainError> {
        if output.value.as_u64() >= FAUCET_LEAST && output.locking == self.faucet_script {
            self.faucet.insert(&outpoint_key(outpoint), (output.value.as_u64(), coinbase))?;
        }
        Ok(())
    }

    /// Puts a transaction into the queue for the next block.
    pub(super) fn enqueue(
        &mut self,
        txid: &Txid,
        size: usize,
        waiting: Waiting,
    ) -> Result<(), DevChainError> {
        let arrival = self.next_arrival()?;
        self.queue.insert(arrival, &txid.0)?;
        self.waiting.insert(&txid.0, (arrival, waiting.fee, waiting.depth))?;
        let bytes = self.waiting_bytes()?.saturating_add(size as u64);
        self.meta.insert(WAITING_BYTES, bytes)?;
        Ok(())
    }

    /// Empties the queue and returns it in order.
    pub(super) fn drain_queue(&mut self) -> Result<Vec<(Txid, Waiting)>, DevChainError> {
        let mut drained = Vec::new();
        while let Some((_, txid)) = self.queue.pop_first()? {
            let txid = Txid(*txid.value());
            let Some(line) = self.waiting.remove(&txid.0)? else {
                return Err(DevChainError::Corrupt("a queued transaction has no fee"));
            };
            let (_, fee, depth) = line.value();
            drained.push((txid, Waiting { fee, depth }));
        }
        self.meta.insert(WAITING_BYTES, 0)?;
        Ok(drained)
    }

    /// Writes down the place of a transaction in the block at `height`.
    pub(super) fn place(
        &mut self,
        txid: &Txid,
        tx: &Transaction,
        height: u32,
        index: u32,
    ) -> Result<(), DevChainError> {
        self.places.insert(&txid.0, (height, index))?;
        for (vout, tag) in tags(tx) {
            self.data.insert((tag.as_slice(), height, index, vout), ())?;
        }
        Ok(())
    }

    /// Undoes [`Tables::place`].
    pub(super) fn unplace(&mut self, txid: &Txid, tx: &Transaction) -> Result<(), DevChainError> {
        let Some(place) = self.places.remove(&txid.0)?.map(|guard| guard.value()) else { return Ok(()) };
        for (vout, tag) in tags(tx) {
            self.data.remove((tag.as_slice(), place.0, place.1, vout))?;
        }
        Ok(())
    }

    /// The transactions of `candidates`, in their order, that depend on one of `doomed`, and `doomed` itself.
    pub(super) fn dependants(
        &self,
        candidates: &[Txid],
        doomed: BTreeSet<Txid>,
    ) -> Result<BTreeSet<Txid>, DevChainError> {
        let mut doomed = doomed;
        for txid in candidates {
            let tx = transaction(&self.txs, txid)?.ok_or(MISSING)?;
            if tx.inputs.iter().any(|input| doomed.contains(&input.previous.txid)) {
                doomed.insert(*txid);
            }
        }
        Ok(doomed)
    }
}

/// The tables contradict each other.
pub(super) const MISSING: DevChainError = DevChainError::Corrupt("a transaction's bytes are missing");

/// The data outputs of a transaction with what they are found by.
fn tags(tx: &Transaction) -> Vec<(u32, Vec<u8>)> {
    let pushes = |output: &TxOut| parse_data_output(&output.locking)?.into_iter().next();
    let tagged = (0u32..).zip(&tx.outputs).filter_map(|(vout, output)| Some((vout, pushes(output)?)));
    tagged.map(|(vout, mut tag)| (vout, (tag.truncate(TAG_BYTES), tag).1)).collect()
}

/// An outpoint as 36 bytes, as it stands in a transaction.
pub(super) fn outpoint_key(outpoint: &OutPoint) -> [u8; 36] {
    let mut key = [0; 36];
    let (txid, vout) = key.split_at_mut(32);
    txid.copy_from_slice(&outpoint.txid.0);
    vout.copy_from_slice(&outpoint.vout.to_le_bytes());
    key
}

/// The outpoint of such a key.
pub(super) fn outpoint_of(key: &[u8; 36]) -> OutPoint {
    let mut reader = crate::encode::Reader::new(key);
    OutPoint::read(&mut reader).unwrap_or(OutPoint::NULL)
}

pub(super) fn transaction(
    txs: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    txid: &Txid,
) -> Result<Option<Transaction>, DevChainError> {
    let Some(bytes) = txs.get(&txid.0)? else { return Ok(None) };
    let parsed = Transaction::from_bytes(bytes.value());
    parsed.map(Some).map_err(|_| DevChainError::Corrupt("a stored transaction cannot be read"))
}

pub(super) fn output_of(tx: &Transaction, vout: u32) -> Option<&TxOut> {
    usize::try_from(vout).ok().and_then(|vout| tx.outputs.get(vout))
}

pub(super) fn header(
    headers: &impl ReadableTable<u32, &'static [u8; 80]>,
    height: u32,
) -> Result<Option<Header>, DevChainError> {
    Ok(headers.get(height)?.map(|guard| Header(*guard.value())))
}

/// The highest block.
pub(super) fn tip(
    headers: &impl ReadableTable<u32, &'static [u8; 80]>,
) -> Result<(u32, Header), DevChainError> {
    let (height, header) =
        headers.last()?.ok_or(DevChainError::Corrupt("there is not even a genesis block"))?;
    Ok((height.value(), Header(*header.value())))
}

/// The ids in the block at `height`; empty for the genesis block, whose coinbase cannot be spent.
pub(super) fn block_txids(
    blocks: &impl ReadableTable<u32, &'static [u8]>,
    height: u32,
) -> Result<Option<Vec<Txid>>, DevChainError> {
    let Some(bytes) = blocks.get(height)? else { return Ok(None) };
    let (ids, _) = bytes.value().as_chunks::<32>();
    Ok(Some(ids.iter().map(|id| Txid(*id)).collect()))
}

/// The median time of the last eleven blocks up to `height` (BIP113).
pub(super) fn median_time(
    headers: &impl ReadableTable<u32, &'static [u8; 80]>,
    height: u32,
) -> Result<u32, DevChainError> {
    let mut times = Vec::with_capacity(11);
    for at in height.saturating_sub(10)..=height {
        times.extend(header(headers, at)?.map(|header| header.time()));
    }
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied().unwrap_or(0))
}

/// What a sum of satoshis is, or that the tables cannot be right.
pub(super) fn sat(value: u64) -> Result<Satoshis, DevChainError> {
    Satoshis::new(value).map_err(|_| DevChainError::Corrupt("an amount is out of range"))
}
