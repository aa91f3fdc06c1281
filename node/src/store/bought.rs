//! What we have bought: the runs as they were delivered, so that they can be shown and proven again, and are never bought twice.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::message::AnchoredProof;
use sensora_protocol::stream::log::RangeProof;
use sensora_protocol::stream::{Run, Schema};
use sensora_protocol::{Hash, OrderId, StreamId};
use serde::{Deserialize, Serialize};

use super::kinds::Records;
use super::streams::key;
use super::{StoreError, from_record};

const STREAMS: Records = Records { name: "bought_streams" };
const RUNS: Records = Records { name: "bought_runs" };
const PROOFS: Records = Records { name: "bought_proofs" };
const ANCHORED: Records = Records { name: "bought_anchored" };

/// A stream we have readings of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoughtStream {
    /// The stream.
    pub id: StreamId,
    /// Its seller.
    pub seller: PublicKey,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Schema,
    /// The licence it was last bought under.
    pub licence: String,
}

/// A run of readings we have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoughtRun {
    /// The readings and their salts, as delivered.
    pub run: Run,
    /// How many readings.
    pub count: u64,
    /// The order they were bought in.
    pub order: OrderId,
}

/// The hashes beside an order's range at the order's checkpoint, gathered from its pages: a range proof's left hashes depend only on where the
/// range begins, its right ones only on where it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderProof {
    /// Left of the first page.
    pub left: Vec<Hash>,
    /// Right of the last page.
    pub right: Vec<Hash>,
}

impl OrderProof {
    /// Takes note of a page that begins at `first`.
    pub fn page(&mut self, first: u64, is_first: bool, proof: &RangeProof) {
        let left = (first.count_ones() as usize).min(proof.hashes.len());
        let (left, right) = proof.hashes.split_at(left);
        if is_first {
            self.left = left.to_vec();
        }
        self.right = right.to_vec();
    }

    /// The proof of the whole range.
    #[must_use]
    pub fn whole(&self) -> RangeProof {
        RangeProof { hashes: [self.left.as_slice(), &self.right].concat() }
    }
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    STREAMS.create(tx)?;
    RUNS.create(tx)?;
    PROOFS.create(tx)?;
    ANCHORED.create(tx)
}

/// Stores what a bought stream is.
///
/// # Errors
/// [`StoreError`].
pub fn put_stream(tx: &WriteTransaction, stream: &BoughtStream) -> Result<(), StoreError> {
    STREAMS.put(tx, stream.id.as_bytes(), stream)
}

/// A bought stream.
///
/// # Errors
/// [`StoreError`].
pub fn stream(tx: &ReadTransaction, id: &StreamId) -> Result<Option<BoughtStream>, StoreError> {
    STREAMS.get(tx, id.as_bytes())
}

/// All bought streams.
///
/// # Errors
/// [`StoreError`].
pub fn streams(tx: &ReadTransaction) -> Result<Vec<BoughtStream>, StoreError> {
    STREAMS.all(tx)
}

/// Keeps a run.
///
/// # Errors
/// [`StoreError`].
pub fn put_run(tx: &WriteTransaction, stream: &StreamId, run: &BoughtRun) -> Result<(), StoreError> {
    RUNS.put(tx, &key(stream, run.run.first), run)
}

/// The runs of a stream that hold readings of `[first, end)`, in order, at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub fn runs(
    tx: &ReadTransaction,
    stream: &StreamId,
    first: u64,
    end: u64,
    limit: usize,
) -> Result<Vec<BoughtRun>, StoreError> {
    // The run that `first` lies in may begin before it.
    let from = RUNS.last_up_to(tx, stream.as_bytes(), &key(stream, first))?;
    let from = from.map_or_else(|| key(stream, first).to_vec(), |(at, _)| at);
    let mut found = Vec::new();
    for (_, bytes) in RUNS.scan(tx, stream.as_bytes(), &from, limit.saturating_add(1))? {
        let run: BoughtRun = from_record("bought_runs", &bytes)?;
        if run.run.first >= end {
            break;
        }
        if run.run.first.saturating_add(run.count) > first && found.len() < limit {
            found.push(run);
        }
    }
    Ok(found)
}

/// The newest reading of a stream that we have.
///
/// # Errors
/// [`StoreError`].
pub fn newest(tx: &ReadTransaction, stream: &StreamId) -> Result<Option<u64>, StoreError> {
    let Some((_, bytes)) = RUNS.last_up_to(tx, stream.as_bytes(), &key(stream, u64::MAX))? else {
        return Ok(None);
    };
    let run: BoughtRun = from_record("bought_runs", &bytes)?;
    Ok(run.run.first.saturating_add(run.count).checked_sub(1))
}

/// Which readings of `[first, end)` we do not have, as ranges in order.
///
/// # Errors
/// [`StoreError`].
pub fn missing(
    tx: &ReadTransaction,
    stream: &StreamId,
    first: u64,
    end: u64,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut missing = Vec::new();
    let mut at = first;
    for run in runs(tx, stream, first, end, usize::MAX - 1)? {
        if run.run.first > at {
            missing.push((at, run.run.first));
        }
        at = at.max(run.run.first.saturating_add(run.count));
    }
    if at < end {
        missing.push((at, end));
    }
    Ok(missing)
}

/// The proof hashes of an order, as this change sees them.
///
/// # Errors
/// [`StoreError`].
pub fn proof_in(tx: &WriteTransaction, order: &OrderId) -> Result<OrderProof, StoreError> {
    Ok(PROOFS.get_in(tx, order.as_bytes())?.unwrap_or_default())
}

/// Stores the proof hashes of an order.
///
/// # Errors
/// [`StoreError`].
pub fn put_proof(tx: &WriteTransaction, order: &OrderId, proof: &OrderProof) -> Result<(), StoreError> {
    PROOFS.put(tx, order.as_bytes(), proof)
}

/// The proof hashes of an order.
///
/// # Errors
/// [`StoreError`].
pub fn proof(tx: &ReadTransaction, order: &OrderId) -> Result<OrderProof, StoreError> {
    Ok(PROOFS.get(tx, order.as_bytes())?.unwrap_or_default())
}

/// Keeps the proof that ties an order's readings to the chain.
///
/// # Errors
/// [`StoreError`].
pub fn put_anchored(tx: &WriteTransaction, order: &OrderId, proof: &AnchoredProof) -> Result<(), StoreError> {
    ANCHORED.put(tx, order.as_bytes(), proof)
}

/// The proof that ties an order's readings to the chain.
///
/// # Errors
/// [`StoreError`].
pub fn anchored(tx: &ReadTransaction, order: &OrderId) -> Result<Option<AnchoredProof>, StoreError> {
    ANCHORED.get(tx, order.as_bytes())
}
