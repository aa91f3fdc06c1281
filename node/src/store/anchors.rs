//! The anchors we have made: which checkpoints stand under which transaction.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::Txid;
use sensora_protocol::statement::bytes_or_hex;
use sensora_protocol::{SignedBytes, StreamId};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::kinds::Records;
use super::streams::key;

const ANCHORS: Records = Records { name: "anchors" };
const BY_STREAM: Records = Records { name: "anchors_by_stream" };

/// One anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorRecord {
    /// Counts our anchors from 0.
    pub number: u64,
    /// The transaction.
    pub txid: Txid,
    /// The signed checkpoints under it, in the order of the anchor tree.
    pub checkpoints: Vec<SignedBytes>,
    /// The transaction as Atomic BEEF, as short as it was when last looked at: with its Merkle path once it is mined.
    #[serde(with = "bytes_or_hex")]
    pub beef: Vec<u8>,
    /// Height of its block.
    pub height: Option<u32>,
    /// When it was made, milliseconds since the Unix epoch.
    pub made_ms: i64,
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    ANCHORS.create(tx)?;
    BY_STREAM.create(tx)
}

/// Stores an anchor, and for each stream under it its position in the tree.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, anchor: &AnchorRecord, streams: &[StreamId]) -> Result<(), StoreError> {
    for (stream, index) in streams.iter().zip(0_u32..) {
        BY_STREAM.put(tx, &key(stream, anchor.number), &index)?;
    }
    update(tx, anchor)
}

/// Stores what has changed of an anchor.
///
/// # Errors
/// [`StoreError`].
pub fn update(tx: &WriteTransaction, anchor: &AnchorRecord) -> Result<(), StoreError> {
    ANCHORS.put(tx, &anchor.number.to_be_bytes(), anchor)
}

/// The anchor with this number.
///
/// # Errors
/// [`StoreError`].
pub fn get(tx: &ReadTransaction, number: u64) -> Result<Option<AnchorRecord>, StoreError> {
    ANCHORS.get(tx, &number.to_be_bytes())
}

/// The newest anchor below `below` that holds a checkpoint of the stream, and the checkpoint's position in it.
///
/// # Errors
/// [`StoreError`].
pub fn newest_of(
    tx: &ReadTransaction,
    stream: &StreamId,
    below: u64,
) -> Result<Option<(AnchorRecord, u32)>, StoreError> {
    let Some(to) = below.checked_sub(1) else { return Ok(None) };
    let Some((found, index)) = BY_STREAM.last_up_to(tx, stream.as_bytes(), &key(stream, to))? else {
        return Ok(None);
    };
    let number = found.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    let anchor = number.map(|number| get(tx, number)).transpose()?.flatten();
    let anchor =
        anchor.ok_or_else(|| StoreError::Damaged(format!("an anchor of stream {stream} is missing")))?;
    Ok(Some((anchor, super::from_record("anchors_by_stream", &index)?)))
}

/// The newest anchors, newest first, at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub fn newest(tx: &ReadTransaction, limit: usize) -> Result<Vec<AnchorRecord>, StoreError> {
    let mut found = Vec::new();
    let mut to = u64::MAX;
    while found.len() < limit {
        let Some((at, bytes)) = ANCHORS.last_up_to(tx, &[], &to.to_be_bytes())? else { break };
        found.push(super::from_record("anchors", &bytes)?);
        let Some(next) = at.try_into().ok().map(u64::from_be_bytes).and_then(|n| n.checked_sub(1)) else {
            break;
        };
        to = next;
    }
    Ok(found)
}
