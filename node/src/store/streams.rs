//! The streams we sell: full chunks column by column, and the readings of the open chunk as they came, those of one append together.

use redb::{ReadTransaction, WriteTransaction};
use sensora_protocol::statement::bytes_or_hex;
use sensora_protocol::stream::chunk::SealedChunk;
use sensora_protocol::stream::{Reading, Salting, Schema};
use sensora_protocol::{Hash, StreamId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::kinds::Records;
use super::{StoreError, from_record};

const STREAMS: Records = Records { name: "streams" };
const CHUNKS: Records = Records { name: "chunks" };
const CHUNK_INDEX: Records = Records { name: "chunk_index" };
const TAIL: Records = Records { name: "tail" };
/// Names of streams that are not here and must not be begun again, under their ids.
pub(crate) const CLOSED: Records = Records { name: "streams_closed" };

/// What a stream is, apart from its readings.
#[derive(Clone, PartialEq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct StreamRecord {
    /// The stream's id.
    #[zeroize(skip)]
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// Its schema.
    #[zeroize(skip)]
    pub schema: Schema,
    /// The secret that its salts follow from.
    #[serde(with = "bytes_or_hex")]
    pub secret: [u8; 32],
    /// How they do. Records that do not say so are of streams with keystreams.
    #[serde(default)]
    #[zeroize(skip)]
    pub salting: Salting,
    /// Tells the recording it began with from another one.
    pub fingerprint: Option<String>,
}

/// What is kept of a chunk besides its columns: 48 bytes for 1024 readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Root of its subtree.
    pub root: Hash,
    /// Earliest time in it, nanoseconds since the Unix epoch.
    pub min_time: i64,
    /// Latest time in it.
    pub max_time: i64,
}

impl ChunkEntry {
    fn to_bytes(self) -> [u8; 48] {
        let mut bytes = [0; 48];
        let parts =
            [self.root.as_bytes().as_slice(), &self.min_time.to_be_bytes(), &self.max_time.to_be_bytes()];
        for (to, from) in bytes.iter_mut().zip(parts.concat()) {
            *to = from;
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (root, rest) = bytes.split_first_chunk::<32>()?;
        let (min, rest) = rest.split_first_chunk::<8>()?;
        let max = rest.try_into().ok()?;
        Some(Self {
            root: Hash(*root),
            min_time: i64::from_be_bytes(*min),
            max_time: i64::from_be_bytes(max),
        })
    }
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    STREAMS.create(tx)?;
    CHUNKS.create(tx)?;
    CHUNK_INDEX.create(tx)?;
    TAIL.create(tx)?;
    CLOSED.create(tx)
}

/// Whether the stream was recorded by an earlier copy of this home whose readings are not here. Its checkpoints are signed and in
/// others' hands: a second log under the same id would contradict them.
///
/// # Errors
/// [`StoreError`].
pub fn is_closed(tx: &ReadTransaction, id: &StreamId) -> Result<bool, StoreError> {
    Ok(CLOSED.get_bytes(tx, id.as_bytes())?.is_some())
}

/// `stream ‖ number`, big-endian, so that a stream's entries stand together and in order.
pub(super) fn key(stream: &StreamId, number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    for (to, from) in key.iter_mut().zip(stream.as_bytes().iter().chain(&number.to_be_bytes())) {
        *to = *from;
    }
    key
}

/// Stores what a stream is.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, record: &StreamRecord) -> Result<(), StoreError> {
    STREAMS.put(tx, record.id.as_bytes(), record)
}

/// What a stream is.
///
/// # Errors
/// [`StoreError`].
pub fn get(tx: &ReadTransaction, id: &StreamId) -> Result<Option<StreamRecord>, StoreError> {
    STREAMS.get(tx, id.as_bytes())
}

/// All streams.
///
/// # Errors
/// [`StoreError`].
pub fn all(tx: &ReadTransaction) -> Result<Vec<StreamRecord>, StoreError> {
    STREAMS.all(tx)
}

/// Appends consecutive readings to the open chunk.
///
/// # Errors
/// [`StoreError`].
pub fn put_tail(tx: &WriteTransaction, stream: &StreamId, readings: &[Reading]) -> Result<(), StoreError> {
    match readings.first() {
        Some(first) => TAIL.put(tx, &key(stream, first.seq), &readings),
        None => Ok(()),
    }
}

/// Makes of each reading of an open chunk an append of one, in a store of before they stood together.
pub(super) fn gather_tails(tx: &WriteTransaction) -> Result<(), StoreError> {
    let mut alone = Vec::new();
    TAIL.each_from_in(tx, &[], |key, bytes| {
        alone.push((key.to_vec(), from_record::<Reading>(TAIL.name, bytes)?));
        Ok(())
    })?;
    alone.iter().try_for_each(|(key, reading)| TAIL.put(tx, key, &[reading]))
}

/// Stores a full chunk and forgets the appends that it is made of.
///
/// # Errors
/// [`StoreError`].
pub fn put_chunk(
    tx: &WriteTransaction,
    stream: &StreamId,
    chunk: &SealedChunk,
    entry: ChunkEntry,
) -> Result<(), StoreError> {
    CHUNKS.put_bytes(tx, &key(stream, chunk.index), &chunk.columns)?;
    CHUNK_INDEX.put_bytes(tx, &key(stream, chunk.index), &entry.to_bytes())?;
    let end = chunk.first().saturating_add(sensora_protocol::stream::CHUNK_LEN);
    TAIL.remove_range(tx, &key(stream, chunk.first()), &key(stream, end))
}

/// The columns of a full chunk.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Damaged`] when it is not there.
pub fn chunk(tx: &ReadTransaction, stream: &StreamId, index: u64) -> Result<Vec<u8>, StoreError> {
    let columns = CHUNKS.get_bytes(tx, &key(stream, index))?;
    columns.ok_or_else(|| StoreError::Damaged(format!("chunk {index} of stream {stream} is missing")))
}

/// What is kept of each full chunk, in order.
///
/// # Errors
/// [`StoreError`].
pub fn chunk_index(tx: &ReadTransaction, stream: &StreamId) -> Result<Vec<ChunkEntry>, StoreError> {
    let entries = CHUNK_INDEX.scan(tx, stream.as_bytes(), &key(stream, 0), usize::MAX)?;
    let entries = entries.into_iter().zip(0_u64..).map(|((found, bytes), index)| {
        let entry = ChunkEntry::from_bytes(&bytes).filter(|_| found == key(stream, index));
        entry.ok_or_else(|| StoreError::Damaged(format!("the index of stream {stream} has no chunk {index}")))
    });
    entries.collect()
}

/// The readings of the open chunk, in order.
///
/// # Errors
/// [`StoreError`].
pub fn tail(tx: &ReadTransaction, stream: &StreamId) -> Result<Vec<Reading>, StoreError> {
    let appends = TAIL.scan(tx, stream.as_bytes(), &key(stream, 0), usize::MAX)?;
    let mut readings = Vec::new();
    for (_, bytes) in appends {
        readings.extend(from_record::<Vec<Reading>>(TAIL.name, &bytes)?);
    }
    Ok(readings)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use sensora_protocol::stream::Value;

    pub(in crate::store) const STREAM: StreamId = StreamId([5; 16]);

    pub(in crate::store) fn reading(seq: u64) -> Reading {
        Reading { seq, time: 1_000 + seq.cast_signed(), values: vec![Value::Float(0.5)] }
    }

    /// The open chunk as it was kept by stores of version 1.
    pub(in crate::store) fn put_alone(
        tx: &WriteTransaction,
        seqs: std::ops::Range<u64>,
    ) -> Result<(), StoreError> {
        seqs.into_iter().try_for_each(|seq| TAIL.put(tx, &key(&STREAM, seq), &reading(seq)))
    }
}
