//! What is recorded of one stream: the log, the chunks on disk, and the readings of the open chunk.

use redb::WriteTransaction;
use sensora_protocol::stream::chunk::salted_leaves;
use sensora_protocol::stream::log::{ChunkLeaves, ChunkedLog};
use sensora_protocol::stream::reading::DEFAULT_TOLERANCE;
use sensora_protocol::stream::{CHUNK_LEN, Reading, Run, Salts, SealedChunk, StreamSecret};
use sensora_protocol::{Hash, StreamId};

use super::super::source::RawReading;
use super::{RecorderError, StreamSummary};
use crate::store::streams::{self, ChunkEntry, StreamRecord};
use crate::store::{Store, StoreError};

/// A stream as far as it is on disk. It opens chunks, and changes nothing there: an append is prepared here, stored by the recorder, and applied.
pub(super) struct Recorded {
    pub(super) record: StreamRecord,
    pub(super) log: ChunkedLog<StoredLeaves>,
    pub(super) chunks: Vec<ChunkEntry>,
    pub(super) tail: Vec<Reading>,
    first_time: Option<i64>,
    last_time: Option<i64>,
}

/// Leaf hashes of a stored chunk, by opening it.
pub(super) struct StoredLeaves {
    store: Store,
    record: StreamRecord,
}

impl ChunkLeaves for StoredLeaves {
    type Error = RecorderError;

    fn leaves(&self, index: u64) -> Result<Vec<Hash>, RecorderError> {
        let columns = self.store.read(|tx| streams::chunk(tx, &self.record.id, index))?;
        let first = index.saturating_mul(CHUNK_LEN);
        let salts = Salts::Secret(secret(&self.record).chunk(index));
        Ok(Run { first, columns, salts }.open(&self.record.schema)?.leaves)
    }
}

pub(super) fn secret(record: &StreamRecord) -> StreamSecret {
    StreamSecret::new(record.secret, record.salting)
}

/// Readings that have their numbers and leaves and wait to be stored.
pub(super) struct Append {
    readings: Vec<Reading>,
    leaves: Vec<Hash>,
    chunks: Vec<(SealedChunk, ChunkEntry)>,
    /// How many of `readings` are after the last of `chunks`.
    left: usize,
}

impl Append {
    pub(super) fn store(&self, tx: &WriteTransaction, id: &StreamId) -> Result<(), StoreError> {
        for (chunk, entry) in &self.chunks {
            streams::put_chunk(tx, id, chunk, *entry)?;
        }
        let left = self.readings.len().saturating_sub(self.left);
        streams::put_tail(tx, id, self.readings.get(left..).unwrap_or_default())
    }
}

impl Recorded {
    pub(super) fn open(store: &Store, record: StreamRecord) -> Result<Self, RecorderError> {
        let (chunks, tail) = store.read(|tx| {
            Ok::<_, StoreError>((streams::chunk_index(tx, &record.id)?, streams::tail(tx, &record.id)?))
        })?;
        let begin = (chunks.len() as u64).saturating_mul(CHUNK_LEN);
        let whole = tail.len() as u64 <= CHUNK_LEN
            && tail.iter().zip(begin..).all(|(reading, seq)| reading.seq == seq);
        if !whole {
            return Err(RecorderError::Damaged(format!(
                "the open chunk of stream `{}` has a hole",
                record.name
            )));
        }
        let leaves = salted_leaves(&tail, &secret(&record));
        let stored = StoredLeaves { store: store.clone(), record: record.clone() };
        let log = ChunkedLog::new(chunks.iter().map(|chunk| chunk.root), leaves, stored);
        let mut stream = Self { record, log, chunks, tail, first_time: None, last_time: None };
        if let Some(last) = stream.log.size().checked_sub(1) {
            let time = |seq: u64| {
                let readings = stream.readings(store, seq, seq.saturating_add(1))?;
                Ok::<_, RecorderError>(readings.first().map(|reading| reading.time))
            };
            (stream.first_time, stream.last_time) = (time(0)?, time(last)?);
        }
        Ok(stream)
    }

    pub(super) fn summary(&self) -> StreamSummary {
        StreamSummary {
            id: self.record.id,
            name: self.record.name.clone(),
            schema: self.record.schema.clone(),
            size: self.log.size(),
            first_time: self.first_time,
            last_time: self.last_time,
            fingerprint: self.record.fingerprint.clone(),
        }
    }

    pub(super) fn prepare(&self, raw: Vec<RawReading>, now: i64) -> Result<Append, RecorderError> {
        let mut readings = Vec::with_capacity(raw.len());
        for ((index, raw), seq) in raw.into_iter().enumerate().zip(self.log.size()..) {
            let reading = Reading { seq, time: raw.time, values: raw.values };
            let check =
                self.record.schema.check(&reading).and_then(|()| reading.check_time(now, DEFAULT_TOLERANCE));
            check.map_err(|source| RecorderError::Reading {
                stream: self.record.name.clone(),
                index,
                source,
            })?;
            readings.push(reading);
        }
        let secret = secret(&self.record);
        let leaves = salted_leaves(&readings, &secret);
        let mut chunks = Vec::new();
        // The open chunk is the tail and what comes now; `rest` is what is not in a sealed chunk yet.
        let mut rest = readings.as_slice();
        let mut tail = self.tail.as_slice();
        let length = usize::try_from(CHUNK_LEN).unwrap_or(usize::MAX);
        while let Some((fill, after)) = rest.split_at_checked(length.saturating_sub(tail.len())) {
            let open = [tail, fill].concat();
            (tail, rest) = (&[], after);
            let index = (self.chunks.len() as u64).saturating_add(chunks.len() as u64);
            let chunk = SealedChunk::seal(&self.record.schema, &open, &secret.chunk(index))?;
            let times = || open.iter().map(|reading| reading.time);
            let (min_time, max_time) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
            let entry = ChunkEntry { root: chunk.root, min_time, max_time };
            chunks.push((chunk, entry));
        }
        let left = rest.len();
        Ok(Append { readings, leaves, chunks, left })
    }

    pub(super) fn apply(&mut self, append: Append) {
        for leaf in append.leaves {
            self.log.push(leaf);
        }
        if let Some(first) = append.readings.first() {
            self.first_time.get_or_insert(first.time);
        }
        if let Some(last) = append.readings.last() {
            self.last_time = Some(last.time);
        }
        if !append.chunks.is_empty() {
            self.tail.clear();
        }
        self.chunks.extend(append.chunks.iter().map(|(_, entry)| *entry));
        let left = append.readings.len().saturating_sub(append.left);
        self.tail.extend(append.readings.into_iter().skip(left));
    }

    pub(super) fn check_range(&self, first: u64, end: u64, size: u64) -> Result<(), RecorderError> {
        if first < end && end <= size && size <= self.log.size() {
            Ok(())
        } else {
            Err(RecorderError::Range { first, end, size: size.min(self.log.size()) })
        }
    }

    /// The readings `[first, end)` of one chunk, as they are handed over.
    pub(super) fn run(&self, store: &Store, first: u64, end: u64) -> Result<Run, RecorderError> {
        let index = first / CHUNK_LEN;
        let is_sealed = index < self.chunks.len() as u64;
        if is_sealed && first.is_multiple_of(CHUNK_LEN) && end.saturating_sub(first) == CHUNK_LEN {
            let columns = store.read(|tx| streams::chunk(tx, &self.record.id, index))?;
            return Ok(Run { first, columns, salts: Salts::Secret(secret(&self.record).chunk(index)) });
        }
        let readings = self.readings(store, first, end)?;
        Ok(Run::new(&self.record.schema, &readings, &secret(&self.record))?)
    }

    pub(super) fn readings(
        &self,
        store: &Store,
        first: u64,
        end: u64,
    ) -> Result<Vec<Reading>, RecorderError> {
        let mut readings = Vec::new();
        let sealed = (self.chunks.len() as u64).saturating_mul(CHUNK_LEN);
        let mut at = first;
        while at < end.min(sealed) {
            let index = at / CHUNK_LEN;
            readings.extend(self.chunk(store, index)?.into_iter().filter(|r| (first..end).contains(&r.seq)));
            at = index.saturating_add(1).saturating_mul(CHUNK_LEN);
        }
        readings.extend(self.tail.iter().filter(|reading| (first..end).contains(&reading.seq)).cloned());
        Ok(readings)
    }

    fn chunk(&self, store: &Store, index: u64) -> Result<Vec<Reading>, RecorderError> {
        let columns = store.read(|tx| streams::chunk(tx, &self.record.id, index))?;
        let first = index.saturating_mul(CHUNK_LEN);
        let salts = Salts::Secret(secret(&self.record).chunk(index));
        Ok(Run { first, columns, salts }.readings(&self.record.schema)?)
    }

    /// The shortest run of sequence numbers that holds every reading with `from` ≤ time < `to`.
    pub(super) fn time_range(
        &self,
        store: &Store,
        from: i64,
        to: i64,
    ) -> Result<Option<(u64, u64)>, RecorderError> {
        let fits = |reading: &&Reading| (from..to).contains(&reading.time);
        let touches = |entry: &&(u64, &ChunkEntry)| entry.1.max_time >= from && entry.1.min_time < to;
        let chunks: Vec<(u64, &ChunkEntry)> = (0..).zip(&self.chunks).collect();
        let mut first = None;
        for (index, _) in chunks.iter().filter(|entry| touches(entry)) {
            first = self.chunk(store, *index)?.iter().find(fits).map(|reading| reading.seq);
            if first.is_some() {
                break;
            }
        }
        let first = first.or_else(|| self.tail.iter().find(fits).map(|reading| reading.seq));
        let mut last = self.tail.iter().rfind(fits).map(|reading| reading.seq);
        for (index, _) in chunks.iter().rev().filter(|entry| touches(entry)) {
            if last.is_some() {
                break;
            }
            last = self.chunk(store, *index)?.iter().rfind(fits).map(|reading| reading.seq);
        }
        Ok(first.zip(last).map(|(first, last)| (first, last.saturating_add(1))))
    }
}
