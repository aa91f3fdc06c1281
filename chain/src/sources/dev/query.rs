//! What can be asked of the chain. Every answer is from one consistent view of the database.

use std::ops::Bound;

use redb::{ReadOnlyTable, ReadableTable};

use super::store::{self, BLOCKS, DATA, DROPPED, HEADERS, HEIGHTS, PLACES, SPENT, TAG_BYTES, TXS, WAITING};
use super::{DevChain, DevChainError, MAX_HEADERS, blocks};
use crate::contract::parse_data_output;
use crate::header::{Header, HeaderView};
use crate::merkle_path::MerklePath;
use crate::{BlockHash, OutPoint, Satoshis, Transaction, TxOut, Txid};

/// The newest block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// Its height.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
    /// Its header.
    pub header: Header,
}

/// Where a transaction stands on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStatus {
    /// The chain has never accepted it, or has forgotten it.
    Unknown,
    /// It waits for a block.
    Mempool,
    /// It is in a block.
    Mined {
        /// The block's height.
        height: u32,
        /// The block's hash.
        block: BlockHash,
    },
    /// A reorganisation threw it out and what it spends is spent by another transaction or gone.
    Conflicted,
}

/// A mined data output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedOutput {
    /// The block's height.
    pub height: u32,
    /// The transaction's id.
    pub txid: Txid,
    /// The transaction.
    pub tx: Transaction,
    /// Which of its outputs.
    pub vout: u32,
    /// The output's pushes, the one searched for included.
    pub pushes: Vec<Vec<u8>>,
}

/// Where a mined data output is. In the order of the fields is the order of the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataPlace {
    /// The block's height.
    pub height: u32,
    /// The transaction's position in the block.
    pub index: u32,
    /// Which of its outputs.
    pub vout: u32,
}

/// All the money of the chain, for checking that none is lost or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    /// The subsidies of all blocks.
    pub issued: Satoshis,
    /// The unspent outputs, those of waiting transactions included.
    pub unspent: Satoshis,
    /// Fees of waiting transactions, which no coinbase has claimed yet. `issued` is always `unspent` plus this.
    pub waiting_fees: Satoshis,
}

impl DevChain {
    /// The newest block.
    ///
    /// # Errors
    /// [`DevChainError::Store`], as for every question here.
    pub fn tip(&self) -> Result<Tip, DevChainError> {
        let (height, header) = store::tip(&self.read()?.open_table(HEADERS)?)?;
        Ok(Tip { height, hash: header.hash(), header })
    }

    /// The header of the block at `height`.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn header(&self, height: u32) -> Result<Option<Header>, DevChainError> {
        store::header(&self.read()?.open_table(HEADERS)?, height)
    }

    /// Up to `count` headers (at most [`MAX_HEADERS`]) from height `from` upwards.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn headers(&self, from: u32, count: usize) -> Result<Vec<Header>, DevChainError> {
        let table = self.read()?.open_table(HEADERS)?;
        let lines = table.range(from..)?.take(count.min(MAX_HEADERS));
        lines.map(|line| Ok(Header(*line?.1.value()))).collect()
    }

    /// The height of a block of the chain that stands.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn height_of(&self, block: &BlockHash) -> Result<Option<u32>, DevChainError> {
        Ok(self.read()?.open_table(HEIGHTS)?.get(&block.0)?.map(|guard| guard.value()))
    }

    /// The ids in the block at `height`, coinbase first. Empty for the genesis block.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn block_txids(&self, height: u32) -> Result<Option<Vec<Txid>>, DevChainError> {
        store::block_txids(&self.read()?.open_table(BLOCKS)?, height)
    }

    /// The whole block at `height`, as the RPC `submitblock` of a node takes it. There is none for height 0, which
    /// every regtest node has.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn block_bytes(&self, height: u32) -> Result<Option<Vec<u8>>, DevChainError> {
        let txn = self.read()?;
        let header = store::header(&txn.open_table(HEADERS)?, height)?;
        let txids = store::block_txids(&txn.open_table(BLOCKS)?, height)?;
        let (Some(header), Some(txids)) = (header, txids.filter(|txids| !txids.is_empty())) else {
            return Ok(None);
        };
        blocks::block_bytes(&header, &txids, &txn.open_table(TXS)?).map(Some)
    }

    /// The Merkle path of a mined transaction.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn merkle_path(&self, txid: &Txid) -> Result<Option<MerklePath>, DevChainError> {
        let txn = self.read()?;
        let place = txn.open_table(PLACES)?.get(&txid.0)?.map(|guard| guard.value());
        let Some((height, index)) = place else { return Ok(None) };
        let txids = store::block_txids(&txn.open_table(BLOCKS)?, height)?.ok_or(store::MISSING)?;
        let path = MerklePath::for_block(height, &txids, index as usize);
        path.map(Some).map_err(|_| DevChainError::Corrupt("a block's Merkle path cannot be built"))
    }

    /// A transaction, mined or waiting.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn transaction(&self, txid: &Txid) -> Result<Option<Transaction>, DevChainError> {
        store::transaction(&self.read()?.open_table(TXS)?, txid)
    }

    /// Where a transaction stands.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn status(&self, txid: &Txid) -> Result<TxStatus, DevChainError> {
        let txn = self.read()?;
        if let Some((height, _)) = txn.open_table(PLACES)?.get(&txid.0)?.map(|guard| guard.value()) {
            let header = store::header(&txn.open_table(HEADERS)?, height)?.ok_or(store::MISSING)?;
            return Ok(TxStatus::Mined { height, block: header.hash() });
        }
        if txn.open_table(WAITING)?.get(&txid.0)?.is_some() {
            return Ok(TxStatus::Mempool);
        }
        let Some(tx) = store::transaction(&txn.open_table(DROPPED)?, txid)? else {
            return Ok(TxStatus::Unknown);
        };
        let (spent, txs) = (txn.open_table(SPENT)?, txn.open_table(TXS)?);
        for input in &tx.inputs {
            let taken = spent.get(&store::outpoint_key(&input.previous))?.is_some();
            if taken || txs.get(&input.previous.txid.0)?.is_none() {
                return Ok(TxStatus::Conflicted);
            }
        }
        Ok(TxStatus::Unknown)
    }

    /// The transaction, mined or waiting, that spends an output.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn spent_by(&self, outpoint: &OutPoint) -> Result<Option<Txid>, DevChainError> {
        let table = self.read()?.open_table(SPENT)?;
        Ok(table.get(&store::outpoint_key(outpoint))?.map(|guard| Txid(*guard.value())))
    }

    /// An output, spent or not.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn output(&self, outpoint: &OutPoint) -> Result<Option<TxOut>, DevChainError> {
        let tx = self.transaction(&outpoint.txid)?;
        Ok(tx.and_then(|tx| store::output_of(&tx, outpoint.vout).cloned()))
    }

    /// Every transaction that waits for a block, in order of arrival.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn mempool(&self) -> Result<Vec<Txid>, DevChainError> {
        let table = self.read()?.open_table(store::QUEUE)?;
        let lines = table.iter()?;
        lines.map(|line| Ok(Txid(*line?.1.value()))).collect()
    }

    /// Mined data outputs whose first push starts with `prefix` (of which the first 64 bytes count), from `from_height`
    /// upwards, in the order of the chain. About `limit` of them: the last block is always complete, so the next
    /// question starts at the height after the last answer's.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn scan_data(
        &self,
        prefix: &[u8],
        from_height: u32,
        limit: usize,
    ) -> Result<Vec<ScannedOutput>, DevChainError> {
        let txn = self.read()?;
        let places = scan(&txn.open_table(DATA)?, prefix, from_height, limit.max(1))?;
        let (blocks, txs) = (txn.open_table(BLOCKS)?, txn.open_table(TXS)?);
        let mut found = Vec::with_capacity(places.len());
        let mut block = (u32::MAX, Vec::new());
        for (height, index, vout) in places {
            if block.0 != height {
                block = (height, store::block_txids(&blocks, height)?.ok_or(store::MISSING)?);
            }
            let txid = *block.1.get(index as usize).ok_or(store::MISSING)?;
            let tx = store::transaction(&txs, &txid)?.ok_or(store::MISSING)?;
            let output = store::output_of(&tx, vout).ok_or(store::MISSING)?;
            let pushes = parse_data_output(&output.locking).ok_or(store::MISSING)?;
            found.push(ScannedOutput { height, txid, tx, vout, pushes });
        }
        Ok(found)
    }

    /// Where mined data outputs are whose first push starts with `prefix` (of which the first 64 bytes count), from `from`
    /// on, in the order of the chain: the first `limit`. Unlike [`DevChain::scan_data`] it may end inside a block, and
    /// holds no more than was asked for, so it can be asked on behalf of strangers.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn data_places(
        &self,
        prefix: &[u8],
        from: DataPlace,
        limit: usize,
    ) -> Result<Vec<DataPlace>, DevChainError> {
        let data = self.read()?.open_table(DATA)?;
        let mut found = Vec::new();
        each_tag(&data, prefix, |tag| {
            let start = (tag, from.height, from.index, from.vout);
            for line in data.range::<Place<'_>>(start..=(tag, u32::MAX, u32::MAX, u32::MAX))?.take(limit) {
                let (_, height, index, vout) = line?.0.value();
                found.push(DataPlace { height, index, vout });
            }
            found.sort_unstable();
            found.truncate(limit);
            Ok(())
        })?;
        Ok(found)
    }

    /// Adds up all the money there is. Walks through the whole chain: for tests and for `doctor`.
    ///
    /// # Errors
    /// As [`DevChain::tip`].
    pub fn supply(&self) -> Result<Supply, DevChainError> {
        let txn = self.read()?;
        let (tip, _) = store::tip(&txn.open_table(HEADERS)?)?;
        let (mut issued, mut unspent, mut fees) = (0u64, 0u64, 0u64);
        for height in 1..=tip {
            issued = issued.saturating_add(blocks::subsidy(height).as_u64());
        }
        let spent = txn.open_table(SPENT)?;
        for line in txn.open_table(TXS)?.iter()? {
            let (txid, bytes) = line?;
            let tx = Transaction::from_bytes(bytes.value())?;
            for (vout, output) in (0u32..).zip(&tx.outputs) {
                let outpoint = OutPoint { txid: Txid(*txid.value()), vout };
                if spent.get(&store::outpoint_key(&outpoint))?.is_none() {
                    unspent = unspent.saturating_add(output.value.as_u64());
                }
            }
        }
        for line in txn.open_table(WAITING)?.iter()? {
            fees = fees.saturating_add(line?.1.value().1);
        }
        Ok(Supply {
            issued: store::sat(issued)?,
            unspent: store::sat(unspent)?,
            waiting_fees: store::sat(fees)?,
        })
    }

    /// Whether a transaction is mined or waits.
    pub(super) fn knows(&self, txid: &Txid) -> Result<bool, DevChainError> {
        Ok(self.read()?.open_table(TXS)?.get(&txid.0)?.is_some())
    }
}

/// Where data outputs are that match: (height, position in the block, output), in that order. The index is sorted by
/// first push, so each distinct one is asked for its first `limit` and the answers are merged.
fn scan(
    data: &ReadOnlyTable<(&'static [u8], u32, u32, u32), ()>,
    prefix: &[u8],
    from_height: u32,
    limit: usize,
) -> Result<Vec<(u32, u32, u32)>, DevChainError> {
    let mut found: Vec<(u32, u32, u32)> = Vec::new();
    each_tag(data, prefix, |tag| {
        let range = (tag, from_height, 0, 0)..=(tag, u32::MAX, u32::MAX, u32::MAX);
        let mut last = None;
        for (taken, line) in data.range::<Place<'_>>(range)?.enumerate() {
            let (_, height, index, vout) = line?.0.value();
            if taken >= limit && last != Some(height) {
                break;
            }
            last = Some(height);
            found.push((height, index, vout));
        }
        found.sort_unstable();
        // Beyond the block in which the limit is reached nothing will be answered.
        if let Some(&(height, ..)) = found.get(limit.saturating_sub(1)) {
            found.retain(|place| place.0 <= height);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Calls `visit` for each distinct first push in the index that starts with `prefix`.
fn each_tag(
    data: &ReadOnlyTable<(&'static [u8], u32, u32, u32), ()>,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8]) -> Result<(), DevChainError>,
) -> Result<(), DevChainError> {
    let prefix = prefix.get(..TAG_BYTES).unwrap_or(prefix);
    let mut done: Option<Vec<u8>> = None;
    loop {
        let from = match &done {
            Some(tag) => Bound::Excluded((tag.as_slice(), u32::MAX, u32::MAX, u32::MAX)),
            None => Bound::Included((prefix, 0, 0, 0)),
        };
        let Some(first) = data.range::<Place<'_>>((from, Bound::Unbounded))?.next() else { return Ok(()) };
        let tag = first?.0.value().0.to_vec();
        if !tag.starts_with(prefix) {
            return Ok(());
        }
        visit(&tag)?;
        done = Some(tag);
    }
}

/// A line of the index of data outputs: first push, height, position in the block, output.
type Place<'a> = (&'a [u8], u32, u32, u32);

impl HeaderView for DevChain {
    fn header_at(&self, height: u32) -> Option<Header> {
        self.header(height).ok().flatten()
    }

    fn tip_height(&self) -> u32 {
        self.tip().map_or(0, |tip| tip.height)
    }
}
