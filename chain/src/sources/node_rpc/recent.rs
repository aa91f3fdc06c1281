//! What spends an output, and transactions that the node does not find by id: an index of what waits and of the newest
//! blocks, made as far as somebody asks.
//!
//! A node answers neither question for mined transactions. The index is kept by block hash, and every walk starts at
//! the tip the node has then, so a reorganisation needs no repair: blocks that left the chain are just not visited.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use serde_json::json;

use super::client::CallError;
use super::{FRAME, MAX_TX_BYTES, NodeRpc, SMALL};
use crate::header::Header;
use crate::sources::service::{Block, SourceError, Spender};
use crate::{BlockHash, OutPoint, Transaction, Txid};

/// How many blocks the index reaches back: about a day.
pub(super) const MAX_BLOCKS: usize = 144;

/// The most bytes of the index of blocks: 16 for each input and each transaction, so two million of them. Where the
/// newest blocks are so full that they need more, it reaches back less far.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The most waiting transactions that are indexed. A node of one's own on a busy network has more; then what spends an
/// output is known when it is mined.
const MAX_POOL: usize = 20_000;

/// The most outputs that the indexed waiting transactions spend, 8 bytes each.
const MAX_POOL_SPENDS: usize = 500_000;

/// The most bytes of the list of what waits: 67 characters for each, with five times [`MAX_POOL`] as reserve, since
/// the list comes whole or not at all.
pub(super) const POOL_ANSWER: usize = 5 * MAX_POOL * 67 + FRAME;

/// How many waiting transactions are fetched in one request …
const POOL_BATCH: usize = 100;
/// … and the most bytes they have together; if they have more, they are fetched one by one.
const POOL_BATCH_ANSWER: usize = 8 * 1024 * 1024;

/// What is looked for.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    Transaction(&'a Txid),
    SpendOf(&'a OutPoint),
}

impl Wanted<'_> {
    fn is_met_by(&self, tx: &Transaction) -> bool {
        match self {
            Self::Transaction(txid) => tx.txid() == **txid,
            Self::SpendOf(outpoint) => spends(tx, outpoint),
        }
    }
}

/// A transaction in its block.
pub(super) struct Found {
    pub(super) height: u32,
    pub(super) position: usize,
    pub(super) block: Block,
}

impl Found {
    pub(super) fn into_transaction(mut self) -> Option<Transaction> {
        (self.position < self.block.txs.len()).then(|| self.block.txs.swap_remove(self.position))
    }
}

/// The index. Ids and outpoints are kept as 64-bit hashes with a key of this process, so nobody can choose them to
/// collide; and a hit is held against the block itself before it is one.
pub(super) struct Recent {
    keys: RandomState,
    /// [`MAX_BYTES`], except in tests.
    max_bytes: usize,
    blocks: HashMap<BlockHash, Indexed>,
    bytes: usize,
    /// What each waiting transaction spends.
    pool: HashMap<Txid, Box<[u64]>>,
    pool_spends: usize,
}

/// What a block holds, sorted; empty for a block that cannot be read.
struct Indexed {
    height: u32,
    previous: BlockHash,
    txs: Box<[(u64, u32)]>,
    spends: Box<[(u64, u32)]>,
}

impl Indexed {
    fn bytes(&self) -> usize {
        let entries = self.txs.len().saturating_add(self.spends.len());
        entries.saturating_mul(size_of::<(u64, u32)>())
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            keys: RandomState::new(),
            max_bytes: MAX_BYTES,
            blocks: HashMap::new(),
            bytes: 0,
            pool: HashMap::new(),
            pool_spends: 0,
        }
    }
}

impl Recent {
    fn index(&self, height: u32, block: &Block) -> Indexed {
        let (mut txs, mut spent) = (Vec::with_capacity(block.txs.len()), Vec::new());
        for (position, tx) in (0u32..).zip(&block.txs) {
            txs.push((self.keys.hash_one(tx.txid()), position));
            spent.extend(tx.inputs.iter().map(|input| (self.keys.hash_one(input.previous), position)));
        }
        txs.sort_unstable();
        spent.sort_unstable();
        let previous = block.header.previous();
        Indexed { height, previous, txs: txs.into(), spends: spent.into() }
    }

    /// Takes a block in, if there is room beside those of the walk that goes on.
    fn take(&mut self, hash: BlockHash, indexed: Indexed, walked: &HashSet<BlockHash>) -> bool {
        let needed = indexed.bytes();
        while self.blocks.len() >= MAX_BLOCKS || self.bytes.saturating_add(needed) > self.max_bytes {
            let others = self.blocks.iter().filter(|(hash, _)| !walked.contains(*hash));
            let Some(lowest) = others.min_by_key(|(_, block)| block.height).map(|(hash, _)| *hash) else {
                return false;
            };
            if let Some(gone) = self.blocks.remove(&lowest) {
                self.bytes = self.bytes.saturating_sub(gone.bytes());
            }
        }
        self.bytes = self.bytes.saturating_add(needed);
        self.blocks.insert(hash, indexed);
        true
    }

    /// Where in an indexed block the wanted may be.
    fn candidates(&self, block: &Indexed, wanted: Wanted<'_>) -> Vec<usize> {
        let (entries, key) = match wanted {
            Wanted::Transaction(txid) => (&block.txs, self.keys.hash_one(txid)),
            Wanted::SpendOf(outpoint) => (&block.spends, self.keys.hash_one(outpoint)),
        };
        let start = entries.partition_point(|(entry, _)| *entry < key);
        let same = entries.iter().skip(start).take_while(|(entry, _)| *entry == key);
        same.filter_map(|(_, position)| usize::try_from(*position).ok()).collect()
    }

    fn take_waiting(&mut self, txid: Txid, tx: Option<&Transaction>) {
        let mut inputs = tx.map(|tx| tx.inputs.as_slice()).unwrap_or_default();
        if self.pool_spends.saturating_add(inputs.len()) > MAX_POOL_SPENDS {
            // It is known, so that it is not fetched again and again, and without what it spends.
            inputs = &[];
        }
        let spends: Box<[u64]> = inputs.iter().map(|input| self.keys.hash_one(input.previous)).collect();
        self.pool_spends = self.pool_spends.saturating_add(spends.len());
        self.pool.insert(txid, spends);
    }

    fn keep_waiting(&mut self, waiting: &HashSet<Txid>) {
        self.pool.retain(|txid, _| waiting.contains(txid));
        self.pool_spends = self.pool.values().map(|spends| spends.len()).sum();
    }

    fn waiting_candidates(&self, outpoint: &OutPoint) -> Vec<Txid> {
        let key = self.keys.hash_one(outpoint);
        self.pool.iter().filter(|(_, spends)| spends.contains(&key)).map(|(txid, _)| *txid).collect()
    }
}

fn spends(tx: &Transaction, outpoint: &OutPoint) -> bool {
    tx.inputs.iter().any(|input| input.previous == *outpoint)
}

impl NodeRpc {
    /// What spends an output, looked for in what waits and in the newest `depth` blocks.
    pub(super) async fn spender_now(&self, outpoint: &OutPoint, depth: usize) -> Result<Spender, CallError> {
        let question = json!([outpoint.txid, outpoint.vout, true]);
        // An output with a script of the largest size there is must not stop the answer.
        let limit = MAX_TX_BYTES * 5;
        if self.client.ask::<serde::de::IgnoredAny>("gettxout", question, limit).await?.is_some() {
            return Ok(Spender::Unspent);
        }
        if let Some(tx) = self.waiting_spender(outpoint).await? {
            return Ok(Spender::SpentBy { tx, path: None });
        }
        let Some(found) = self.find(Wanted::SpendOf(outpoint), depth).await? else {
            return Ok(Spender::Unknown);
        };
        let path = self.path_in(&found)?;
        Ok(found.into_transaction().map_or(Spender::Unknown, |tx| Spender::SpentBy { tx, path: Some(path) }))
    }

    /// Goes down from the tip through at most `depth` blocks, and indexes those that it has not yet.
    pub(super) async fn find(&self, wanted: Wanted<'_>, depth: usize) -> Result<Option<Found>, CallError> {
        let tip = self.best().await?;
        let (mut height, mut hash) = (tip.height, tip.hash);
        let mut recent = self.recent.lock().await;
        let mut walked = HashSet::new();
        for _ in 0..depth {
            let mut fresh = None;
            if !recent.blocks.contains_key(&hash) {
                let indexed = match self.read_block(&hash).await {
                    Ok(block) => recent.index(height, fresh.insert(block)),
                    Err(CallError::Source(SourceError::TooLarge { .. })) => {
                        self.unreadable(height, &hash).await?
                    }
                    // A node that keeps only the newest blocks has the header still.
                    Err(CallError::Fault(fault)) if fault.message.contains("pruned") => {
                        self.unreadable(height, &hash).await?
                    }
                    Err(error) => return Err(error),
                };
                if !recent.take(hash, indexed, &walked) {
                    return Ok(None);
                }
            }
            walked.insert(hash);
            let Some(indexed) = recent.blocks.get(&hash) else { return Ok(None) };
            let candidates = recent.candidates(indexed, wanted);
            if !candidates.is_empty() {
                let block = match fresh {
                    Some(block) => block,
                    None => self.read_block(&hash).await?,
                };
                let is_it =
                    |position: &usize| block.txs.get(*position).is_some_and(|tx| wanted.is_met_by(tx));
                if let Some(position) = candidates.into_iter().find(is_it) {
                    return Ok(Some(Found { height, position, block }));
                }
            }
            // Below the block that made an output nothing can spend it.
            let made_here = |outpoint: &OutPoint| {
                !recent.candidates(indexed, Wanted::Transaction(&outpoint.txid)).is_empty()
            };
            if matches!(wanted, Wanted::SpendOf(outpoint) if made_here(outpoint)) {
                return Ok(None);
            }
            let Some(below) = height.checked_sub(1) else { return Ok(None) };
            (height, hash) = (below, indexed.previous);
        }
        Ok(None)
    }

    /// The place of a block that is too large to be read, or not there any more: the walk goes on below it.
    async fn unreadable(&self, height: u32, hash: &BlockHash) -> Result<Indexed, CallError> {
        let header: Header = self.client.call("getblockheader", json!([hash, false]), SMALL).await?;
        let (txs, spends) = (Box::default(), Box::default());
        Ok(Indexed { height, previous: header.previous(), txs, spends })
    }

    async fn waiting_spender(&self, outpoint: &OutPoint) -> Result<Option<Transaction>, CallError> {
        let waiting: HashSet<Txid> = match self.client.call("getrawmempool", json!([]), POOL_ANSWER).await {
            Err(CallError::Source(SourceError::TooLarge { .. })) => return Ok(None),
            other => other?,
        };
        let mut recent = self.recent.lock().await;
        recent.keep_waiting(&waiting);
        for txid in recent.waiting_candidates(outpoint) {
            match self.raw_transaction(&txid).await? {
                Some(tx) if spends(&tx, outpoint) => return Ok(Some(tx)),
                _ => {}
            }
        }
        let room = MAX_POOL.saturating_sub(recent.pool.len());
        let new: Vec<Txid> =
            waiting.into_iter().filter(|txid| !recent.pool.contains_key(txid)).take(room).collect();
        for some in new.chunks(POOL_BATCH) {
            for (txid, tx) in self.waiting_transactions(some).await? {
                recent.take_waiting(txid, tx.as_ref());
                if let Some(tx) = tx.filter(|tx| spends(tx, outpoint)) {
                    return Ok(Some(tx));
                }
            }
        }
        Ok(None)
    }

    /// Transactions that wait; `None` for one that is too large to be read. What has gone meanwhile is left out.
    async fn waiting_transactions(
        &self,
        txids: &[Txid],
    ) -> Result<Vec<(Txid, Option<Transaction>)>, CallError> {
        let questions = txids.iter().map(|txid| json!([txid])).collect();
        let answers = match self.client.batch("getrawtransaction", questions, POOL_BATCH_ANSWER).await {
            Err(SourceError::TooLarge { .. }) => return self.one_by_one(txids).await,
            other => other?,
        };
        let mut found = Vec::with_capacity(txids.len());
        for (txid, answer) in txids.iter().zip(answers) {
            let Ok(Some(hex)) = answer else { continue };
            let hex: String = hex;
            let bytes = hex::decode(&hex).map_err(|e| self.client.malformed(format!("{txid}: {e}")))?;
            found.push((*txid, Some(self.parse_transaction(txid, &bytes)?)));
        }
        Ok(found)
    }

    async fn one_by_one(&self, txids: &[Txid]) -> Result<Vec<(Txid, Option<Transaction>)>, CallError> {
        let mut found = Vec::with_capacity(txids.len());
        for txid in txids {
            match self.raw_transaction(txid).await {
                Ok(Some(tx)) => found.push((*txid, Some(tx))),
                Ok(None) => {}
                Err(CallError::Source(SourceError::TooLarge { .. })) => found.push((*txid, None)),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Satoshis, Script, TxIn, TxOut};

    fn spend_of(n: u8, inputs: usize) -> Transaction {
        let coins = (0u32..).take(inputs).map(|vout| TxIn::new(OutPoint { txid: Txid([n; 32]), vout }));
        let paid = TxOut { value: Satoshis::from_sat(1), locking: Script::p2pkh(&[n; 20]) };
        Transaction::new(coins.collect(), vec![paid])
    }

    fn block(n: u8, inputs: usize) -> Block {
        Block { header: Header::regtest_genesis().with_nonce(n.into()), txs: vec![spend_of(n, inputs)] }
    }

    fn hash(n: u8) -> BlockHash {
        BlockHash([n; 32])
    }

    #[test]
    fn a_block_is_asked_for_what_it_holds() {
        let recent = Recent::default();
        let (one, two) = (spend_of(1, 3), spend_of(2, 1));
        let both = Block { header: Header::regtest_genesis(), txs: vec![one.clone(), two.clone()] };
        let indexed = recent.index(7, &both);
        let made = |txid: Txid| recent.candidates(&indexed, Wanted::Transaction(&txid));
        let spent = |outpoint: OutPoint| recent.candidates(&indexed, Wanted::SpendOf(&outpoint));
        assert_eq!(made(two.txid()), [1]);
        assert_eq!(spent(one.inputs[2].previous), [0]);
        assert_eq!(spent(two.inputs[0].previous), [1]);
        assert!(made(Txid([9; 32])).is_empty());
        assert!(spent(OutPoint { txid: Txid([1; 32]), vout: 3 }).is_empty());
    }

    #[test]
    fn the_index_holds_no_more_blocks_than_its_bound_and_drops_the_lowest() {
        let mut recent = Recent::default();
        let none = HashSet::new();
        for n in 0..=u8::try_from(MAX_BLOCKS).unwrap() {
            let indexed = recent.index(n.into(), &block(n, 2));
            assert!(recent.take(hash(n), indexed, &none));
        }
        assert_eq!(recent.blocks.len(), MAX_BLOCKS);
        assert!(!recent.blocks.contains_key(&hash(0)) && recent.blocks.contains_key(&hash(1)));
        assert_eq!(recent.bytes, recent.blocks.values().map(Indexed::bytes).sum::<usize>());
        // Blocks that the walk has been through stay; if there are only those, the walk has to end.
        let all: HashSet<BlockHash> = recent.blocks.keys().copied().collect();
        let indexed = recent.index(0, &block(0, 1));
        assert!(!recent.take(hash(0), indexed, &all));
    }

    #[test]
    fn the_index_holds_no_more_bytes_than_its_bound() {
        let mut recent = Recent { max_bytes: 1_600, ..Recent::default() };
        // 16 bytes for each of its 49 inputs and for the transaction.
        let half = block(1, 49);
        for n in 1..=3u8 {
            let indexed = recent.index(n.into(), &half);
            assert!(recent.take(hash(n), indexed, &HashSet::new()));
            assert!(recent.bytes <= 1_600);
        }
        assert_eq!(recent.blocks.len(), 2);
        let huge = recent.index(9, &block(1, 100));
        assert!(!recent.take(hash(9), huge, &HashSet::new()));
    }

    #[test]
    fn what_no_longer_waits_is_forgotten() {
        let mut recent = Recent::default();
        let (one, two) = (spend_of(1, 3), spend_of(2, 1));
        recent.take_waiting(one.txid(), Some(&one));
        recent.take_waiting(two.txid(), Some(&two));
        assert_eq!(recent.pool_spends, 4);
        assert_eq!(recent.waiting_candidates(&one.inputs[1].previous), [one.txid()]);
        recent.keep_waiting(&HashSet::from([two.txid()]));
        assert_eq!(recent.pool_spends, 1);
        assert!(recent.waiting_candidates(&one.inputs[1].previous).is_empty());
        let many = spend_of(3, MAX_POOL_SPENDS);
        recent.take_waiting(many.txid(), Some(&many));
        assert_eq!(recent.pool_spends, 1);
    }
}
