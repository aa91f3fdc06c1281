//! Answers to the questions of `/sensora/chain/1` out of the embedded development chain: for the node it runs in and
//! for peers alike.
//!
//! Everything here blocks on the database; callers run it off the swarm's and the runtime's threads.

pub(super) mod history;
mod reject;

use sensora_chain::beef::{Beef, BeefLimits, Proof};
use sensora_chain::header::Header;
use sensora_chain::sources::dev::{DataPlace, DevChain, DevChainError, Reject, TxStatus};
use sensora_chain::{BlockHash, OutPoint, Satoshis, Script, Txid};
use sensora_protocol::chain_access::message::{
    MAX_BEEF_LEN, MAX_RESPONSE_LEN, ScanPage, ScanPosition, ScannedOutput, Spending, Standing, Tip,
};
use sensora_protocol::chain_access::{Answer, Refusal, Request};

/// Bytes of an answer that may be filled with proofs; the rest of the frame is for the maps around them.
const ANSWER_BUDGET: usize = MAX_RESPONSE_LEN - 64 * 1024;

/// Bytes around each item of an answer: keys, lengths, numbers.
const ITEM_OVERHEAD: usize = 128;

/// How often headers are read again when a reorganisation comes between the locator and them.
const READ_AGAIN: usize = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The request is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The chain itself failed.
    #[error(transparent)]
    Failed(DevChainError),
}

impl From<DevChainError> for NoAnswer {
    fn from(error: DevChainError) -> Self {
        Self::Failed(error)
    }
}

/// Answers a request that keeps within its limits.
pub(super) fn answer(chain: &DevChain, request: &Request) -> Result<Answer, NoAnswer> {
    request.check()?;
    match request {
        Request::Tip => {
            let tip = chain.tip()?;
            Ok(Answer::Tip(Tip { height: tip.height, hash: tip.hash }))
        }
        Request::Headers { locator, count } => headers(chain, locator, *count as usize),
        Request::Broadcast { beef } => broadcast(chain, beef),
        Request::Proof { txids } => proof(chain, txids),
        Request::Spent { outpoints } => spent(chain, outpoints),
        Request::Scan { prefix, from, limit } => scan(chain, prefix, *from, *limit as usize),
        Request::Faucet { locking, sat } => faucet(chain, locking, *sat),
    }
}

fn headers(chain: &DevChain, locator: &[BlockHash], count: usize) -> Result<Answer, NoAnswer> {
    for _ in 0..READ_AGAIN {
        let mut common = None;
        for hash in locator {
            if let Some(height) = chain.height_of(hash)? {
                common = Some((*hash, height));
                break;
            }
        }
        let (hash, height) = common.ok_or(Refusal::NoCommonBlock)?;
        let found = chain.headers(height.saturating_add(1), count)?;
        // Headers that do not follow the locator would make a liar of an honest node.
        if found.first().is_none_or(|first| first.previous() == hash) {
            let headers = found.iter().flat_map(|Header(bytes)| *bytes).collect();
            return Ok(Answer::Headers { headers });
        }
    }
    Err(Refusal::Unavailable.into())
}

fn broadcast(chain: &DevChain, bytes: &[u8]) -> Result<Answer, NoAnswer> {
    let beef = Beef::parse(bytes, &BeefLimits::DEFAULT).map_err(|error| reject::beef(&error))?;
    let Some(subject) = beef.subject().filter(|_| beef.is_atomic()) else {
        return Err(reject::not_atomic().into());
    };
    for entry in beef.txs().iter().filter(|entry| entry.proof() == Proof::Unproven) {
        match chain.submit(entry.transaction()) {
            Ok(_) => {}
            Err(DevChainError::Reject(reason)) => {
                let double_spent = is_double_spend(chain, &reason)?;
                return Err(reject::transaction(&reason, entry.txid(), double_spent).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    match chain.status(&subject)? {
        TxStatus::Mempool | TxStatus::Mined { .. } => Ok(Answer::Accepted { txid: subject }),
        // It came with a Merkle path, and that of a block which is not on this chain.
        TxStatus::Unknown | TxStatus::Conflicted => Err(reject::foreign_proof(subject).into()),
    }
}

fn is_double_spend(chain: &DevChain, reason: &Reject) -> Result<bool, DevChainError> {
    match reason {
        Reject::MempoolConflict { .. } => Ok(true),
        Reject::MissingInputs { outpoint, .. } => Ok(chain.spent_by(outpoint)?.is_some()),
        _ => Ok(false),
    }
}

fn proof(chain: &DevChain, txids: &[Txid]) -> Result<Answer, NoAnswer> {
    let mut room = Room::default();
    let mut standings = Vec::with_capacity(txids.len());
    for txid in txids {
        let standing = match chain.status(txid)? {
            TxStatus::Unknown | TxStatus::Conflicted => Standing::Unknown,
            TxStatus::Mempool => Standing::Mempool,
            // Between the two questions the block may have been replaced.
            TxStatus::Mined { .. } => match chain.merkle_path(txid)? {
                Some(path) => Standing::Mined { path: path.to_bytes() },
                None => Standing::Mempool,
            },
        };
        room.take(if let Standing::Mined { path } = &standing { path.len() } else { 0 })?;
        standings.push(standing);
    }
    Ok(Answer::Proof { standings })
}

fn spent(chain: &DevChain, outpoints: &[OutPoint]) -> Result<Answer, NoAnswer> {
    let mut room = Room::default();
    let mut spendings = Vec::with_capacity(outpoints.len());
    for outpoint in outpoints {
        let spender = match chain.spent_by(outpoint)? {
            Some(by) => chain.transaction(&by)?.map(|transaction| (by, transaction)),
            None => None,
        };
        let spending = match spender {
            Some((by, transaction)) => {
                let path = chain.merkle_path(&by)?.map(|path| path.to_bytes());
                let transaction = transaction.to_bytes();
                room.take(transaction.len().saturating_add(path.as_ref().map_or(0, Vec::len)))?;
                Spending::Spent { transaction, path }
            }
            None if chain.output(outpoint)?.is_some() => Spending::Unspent,
            None => Spending::Unknown,
        };
        spendings.push(spending);
    }
    Ok(Answer::Spent { spendings })
}

fn scan(chain: &DevChain, prefix: &[u8], from: ScanPosition, limit: usize) -> Result<Answer, NoAnswer> {
    let start = DataPlace { height: from.height, index: from.index, vout: from.vout };
    // One more than fits the page tells whether there is another one.
    let found = chain.data_places(prefix, start, limit.saturating_add(1))?;
    let mut room = Room::default();
    let mut page = ScanPage { outputs: Vec::new(), next: None };
    for DataPlace { height, index, vout } in found {
        let at = ScanPosition { height, index, vout };
        if page.outputs.len() >= limit {
            page.next = Some(at);
            break;
        }
        // Replaced by a reorganisation since it was found, or too large for anybody to ask for: a page can do without it.
        let Some(beef) = proven_at(chain, height, index)? else { continue };
        if room.take(beef.len()).is_err() {
            page.next = Some(at);
            break;
        }
        page.outputs.push(ScannedOutput { at, beef });
    }
    Ok(Answer::Scan(page))
}

/// Atomic BEEF of the transaction at this place, if there is one that can be sent.
fn proven_at(chain: &DevChain, height: u32, index: u32) -> Result<Option<Vec<u8>>, DevChainError> {
    let txids = chain.block_txids(height)?.unwrap_or_default();
    let Some(txid) = txids.get(index as usize) else { return Ok(None) };
    let (Some(tx), Some(path)) = (chain.transaction(txid)?, chain.merkle_path(txid)?) else {
        return Ok(None);
    };
    Ok(history::proven(tx, &path).ok().filter(|beef| beef.len() <= MAX_BEEF_LEN))
}

fn faucet(chain: &DevChain, locking: &Script, sat: Satoshis) -> Result<Answer, NoAnswer> {
    let paid = match chain.faucet(locking, sat) {
        Ok(paid) => paid,
        Err(DevChainError::FaucetEmpty { .. }) => {
            return Err(Refusal::FaucetDry { asked: sat.as_u64() }.into());
        }
        Err(DevChainError::Reject(reason)) => {
            return Err(reject::transaction(&reason, Txid::default(), false).into());
        }
        Err(error) => return Err(error.into()),
    };
    let beef = history::atomic(chain, &paid)?;
    if beef.len() > MAX_BEEF_LEN {
        return Err(Refusal::AnswerTooLarge.into());
    }
    Ok(Answer::Funded { beef })
}

/// What is left of a frame.
struct Room {
    left: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { left: ANSWER_BUDGET }
    }
}

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        let needed = bytes.saturating_add(ITEM_OVERHEAD);
        self.left = self.left.checked_sub(needed).ok_or(Refusal::AnswerTooLarge)?;
        Ok(())
    }
}
