//! Where a transaction stands, with the path of a mined one, and transactions by id.

use std::fmt::Display;

use serde::Deserialize;
use serde_json::json;

use super::client::{CallError, clip, code};
use super::recent::{self, Wanted};
use super::{FRAME, MAX_BLOCK_BYTES, NodeRpc, SMALL};
use crate::merkle_path::{MAX_TREE_HEIGHT, MerklePath, TscProof};
use crate::sources::service::{Report, SourceError};
use crate::{BlockHash, Transaction, Txid};

/// The most bytes of a Merkle proof: a hash for each level of the highest tree.
const PROOF_ANSWER: usize = MAX_TREE_HEIGHT as usize * 80 + FRAME;

/// The most bytes of the list of a block's transactions: as many ids as the smallest transactions of the largest
/// block that is read here, 67 characters each.
const BLOCK_IDS_ANSWER: usize = MAX_BLOCK_BYTES / super::MIN_TX_BYTES * 67 + FRAME;

/// The most bytes of a transaction that is written out in JSON, where only its block is wanted. A script stands in it
/// twice, as hex and as words.
const VERBOSE_ANSWER: usize = 5 * super::MAX_TX_BYTES;

/// Where the node says a transaction is.
enum Known {
    /// In this block.
    In(BlockHash),
    /// It has it, and it is in no block.
    Waiting,
    /// It is in no block and does not wait, and the node would know: it indexes all transactions.
    Nowhere,
    /// It does not say.
    Unsaid,
}

impl NodeRpc {
    pub(super) async fn report_now(&self, txid: &Txid) -> Result<Report, CallError> {
        // A block or a reorganisation may come between the two questions; then the second round has the answer.
        for _ in 0..2 {
            if self.waits(txid).await? {
                return Ok(Report::Seen);
            }
            let report = self.mined(txid).await?;
            if report != Report::Unknown {
                return Ok(report);
            }
        }
        // What is not final yet is kept apart, and sent to nobody.
        let early: Vec<Txid> =
            match self.client.call("getrawnonfinalmempool", json!([]), recent::POOL_ANSWER).await {
                Err(CallError::Source(SourceError::TooLarge { .. })) => Vec::new(),
                Err(CallError::Fault(fault)) if fault.code == code::NO_METHOD => Vec::new(),
                other => other?,
            };
        Ok(if early.contains(txid) { Report::Pending } else { Report::Unknown })
    }

    /// Whether a transaction waits for a block.
    pub(super) async fn waits(&self, txid: &Txid) -> Result<bool, CallError> {
        match self.client.ask::<serde::de::IgnoredAny>("getmempoolentry", json!([txid]), SMALL).await {
            Ok(entry) => Ok(entry.is_some()),
            Err(CallError::Fault(fault)) if fault.code == code::NOT_FOUND => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn mined(&self, txid: &Txid) -> Result<Report, CallError> {
        if let Some(path) = self.proof(txid).await? {
            return Ok(Report::Mined(path));
        }
        // Without -txindex the node finds only what has an unspent output, and v1.0.13 makes no proof for a coinbase
        // that is alone in its block.
        let block = match self.whereabouts(txid).await? {
            Known::In(block) => block,
            Known::Waiting | Known::Nowhere => return Ok(Report::Unknown),
            Known::Unsaid => match self.find(Wanted::Transaction(txid), recent::MAX_BLOCKS).await? {
                Some(found) => return Ok(Report::Mined(self.path_in(&found)?)),
                None => return Ok(Report::Unknown),
            },
        };
        let placed = self.placed(&block).await?;
        if placed.confirmations < 0 {
            return Ok(Report::Unknown);
        }
        match self.path_from_ids(txid, &block, placed.height).await {
            Err(CallError::Source(SourceError::TooLarge { .. })) => {
                Ok(Report::MinedUnproven { height: Some(placed.height) })
            }
            other => other.map(Report::Mined),
        }
    }

    /// The node's own proof; `None` where it has none on its best chain.
    async fn proof(&self, txid: &Txid) -> Result<Option<MerklePath>, CallError> {
        // Without a block's hash the node looks for the block itself.
        let proof: TscProof = match self.client.call("getmerkleproof2", json!(["", txid]), PROOF_ANSWER).await
        {
            Err(CallError::Fault(fault)) if fault.code == code::NOT_FOUND => return Ok(None),
            other => other?,
        };
        let wrong = |what: &dyn Display| self.client.malformed(clip(&format!("the proof of {txid}: {what}")));
        let block: BlockHash = proof.target.parse().map_err(|e| wrong(&e))?;
        let placed = self.placed(&block).await?;
        if placed.confirmations < 0 {
            return Ok(None);
        }
        let path = proof.path(placed.height, txid).map_err(|e| wrong(&e))?;
        if *path.root() != placed.merkleroot.0 {
            return Err(wrong(&format_args!("its root is not that of block {block}")).into());
        }
        Ok(Some(path))
    }

    async fn whereabouts(&self, txid: &Txid) -> Result<Known, CallError> {
        #[derive(Deserialize)]
        struct Verbose {
            blockhash: Option<BlockHash>,
        }
        let question = self.client.call("getrawtransaction", json!([txid, true]), VERBOSE_ANSWER);
        match question.await {
            Ok(Verbose { blockhash: Some(hash) }) => Ok(Known::In(hash)),
            Ok(Verbose { blockhash: None }) => Ok(Known::Waiting),
            // "No such mempool or blockchain transaction", where without the index it is "No such mempool
            // transaction. Use -txindex to enable blockchain transaction queries".
            Err(CallError::Fault(fault))
                if fault.code == code::NOT_FOUND && fault.message.contains("or blockchain") =>
            {
                Ok(Known::Nowhere)
            }
            Err(CallError::Fault(fault)) if fault.code == code::NOT_FOUND => Ok(Known::Unsaid),
            Err(error) => Err(error),
        }
    }

    /// The path from the list of all transactions of a block.
    async fn path_from_ids(
        &self,
        txid: &Txid,
        block: &BlockHash,
        height: u32,
    ) -> Result<MerklePath, CallError> {
        #[derive(Deserialize)]
        struct Ids {
            tx: Vec<Txid>,
            merkleroot: Txid,
        }
        let ids: Ids = self.client.call("getblock", json!([block, 1]), BLOCK_IDS_ANSWER).await?;
        let wrong =
            |what: &str| self.client.malformed(format!("block {block} and transaction {txid}: {what}"));
        let index = ids.tx.iter().position(|id| id == txid).ok_or_else(|| wrong("it is not in it"))?;
        let path = MerklePath::for_block(height, &ids.tx, index).map_err(|e| wrong(&e.to_string()))?;
        if *path.root() != ids.merkleroot.0 {
            return Err(wrong("the list of transactions does not have the block's root").into());
        }
        Ok(path)
    }

    pub(super) fn path_in(&self, found: &recent::Found) -> Result<MerklePath, CallError> {
        let txids: Vec<Txid> = found.block.txs.iter().map(Transaction::txid).collect();
        MerklePath::for_block(found.height, &txids, found.position)
            .map_err(|e| self.client.malformed(format!("block at height {}: {e}", found.height)).into())
    }

    pub(super) async fn transaction_now(&self, txid: &Txid) -> Result<Option<Transaction>, CallError> {
        if let Some(tx) = self.raw_transaction(txid).await? {
            return Ok(Some(tx));
        }
        match self.whereabouts(txid).await? {
            Known::Unsaid => {
                let found = self.find(Wanted::Transaction(txid), recent::MAX_BLOCKS).await?;
                Ok(found.and_then(recent::Found::into_transaction))
            }
            Known::Nowhere => Ok(None),
            // It came between the two questions.
            Known::In(_) | Known::Waiting => self.raw_transaction(txid).await,
        }
    }
}
