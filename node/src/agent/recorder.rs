//! The recorder: gives readings their numbers, makes them durable, and knows the log of each stream.
//!
//! It is the only one that appends. A batch is numbered, stored in one transaction, and only then part of the log that is signed, so a
//! restart goes on exactly behind what was stored: no hole, no repeat. Memory holds 64 bytes for each chunk of 1024 readings and the readings of the
//! open chunk; everything else is computed again from the store when a proof needs it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use sensora_chain::Network;
use sensora_protocol::codec::CodecError;
use sensora_protocol::market::delivery::page::bytes_of;
use sensora_protocol::market::delivery::{MAX_RUNS, PROOF_UNIT, Page};
use sensora_protocol::market::offer::Range;
use sensora_protocol::statement::StatementError;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::leaf::SALT_LEN;
use sensora_protocol::stream::log::{
    ConsistencyProof, MakeError, MissingNode, RangeProof, consistency_proof, range_proof, root,
};
use sensora_protocol::stream::reading::DEFAULT_TOLERANCE;
use sensora_protocol::stream::{CHUNK_LEN, ChunkError, Reading, ReadingError, Run, Salting, Salts, Schema};
use sensora_protocol::{Hash, Identity, Signed, StreamId};
use tokio::sync::watch;
use zeroize::Zeroizing;

use recorded::{Append, Recorded};
use single::OpenedChunks;

use super::source::RawReading;
use crate::clock::Clock;
use crate::store::streams::{self, StreamRecord};
use crate::store::{Store, StoreError};

mod recorded;
mod single;

pub use single::Single;

/// Bytes of runs in one page. With one more chunk, which is at most 960 KiB and its salts, a page could pass the frame of 1 MiB; so a page takes another
/// run only while it stays below this.
const PAGE_BYTES: usize = 900 * 1024;

/// Why readings were not recorded or cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecorderError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A reading does not fit its stream.
    #[error("reading {index} of the batch for stream `{stream}`: {source}")]
    Reading {
        /// Name of the stream.
        stream: String,
        /// Position in the batch.
        index: usize,
        /// What is wrong.
        source: ReadingError,
    },
    /// An earlier copy of this home recorded it, and its readings are not here.
    #[error(
        "stream `{name}` was begun before this home was restored from a backup, and its readings are not in backups: a second history under its name would contradict the first; give it another name (--name)"
    )]
    Closed {
        /// Name of the stream.
        name: String,
    },
    /// No such stream.
    #[error("stream {0} is not recorded here")]
    UnknownStream(StreamId),
    /// Readings that are not there.
    #[error("readings {first} to {end} are not all in the log of {size}")]
    Range {
        /// First sequence number.
        first: u64,
        /// One after the last.
        end: u64,
        /// Readings in the log.
        size: u64,
    },
    /// A chunk cannot be sealed or opened.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The stored chunks and the log disagree.
    #[error("the stored log is damaged: {0}")]
    Damaged(String),
    /// A checkpoint cannot be signed.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The stream's id cannot be derived.
    #[error(transparent)]
    Encoding(#[from] CodecError),
    /// No randomness for the stream's secret.
    #[error("the system gives no randomness: {0}")]
    Randomness(String),
}

impl From<MissingNode> for RecorderError {
    fn from(error: MissingNode) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn make_error(error: MakeError<RecorderError>) -> RecorderError {
    match error {
        MakeError::Nodes(error) => error,
        other => RecorderError::Damaged(other.to_string()),
    }
}

/// All streams of an agent. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    identity: Identity,
    network: Network,
    clock: Clock,
    streams: RwLock<BTreeMap<StreamId, Arc<Stream>>>,
    /// Counts the batches that were recorded.
    grown: watch::Sender<u64>,
    /// Chunks that single readings were asked of.
    opened: OpenedChunks,
}

/// What is known of a stream without opening a chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSummary {
    /// The stream.
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Schema,
    /// Readings in its log.
    pub size: u64,
    /// Time of the first reading, nanoseconds since the Unix epoch.
    pub first_time: Option<i64>,
    /// Time of the last reading.
    pub last_time: Option<i64>,
    /// Tells the recording it began with from another one.
    pub fingerprint: Option<String>,
}

/// Who answers a buyer reads a stream together with others. Who appends holds `appends` from the first step to the last, and keeps readers away only while it
/// adds what is on disk already: nobody who reads waits for the disk.
struct Stream {
    appends: Mutex<()>,
    recorded: RwLock<Recorded>,
}

impl Stream {
    fn new(recorded: Recorded) -> Arc<Self> {
        Arc::new(Self { appends: Mutex::default(), recorded: RwLock::new(recorded) })
    }

    fn apply(&self, append: Append) {
        self.recorded.write().unwrap_or_else(PoisonError::into_inner).apply(append);
    }
}

impl Recorder {
    /// Opens the streams that the store has.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn open(
        store: Store,
        identity: Identity,
        network: Network,
        clock: Clock,
    ) -> Result<Self, RecorderError> {
        let mut found = BTreeMap::new();
        for record in store.read(streams::all)? {
            found.insert(record.id, Stream::new(Recorded::open(&store, record)?));
        }
        let (streams, grown) = (RwLock::new(found), watch::Sender::new(0));
        let opened = OpenedChunks::default();
        Ok(Self { inner: Arc::new(Inner { store, identity, network, clock, streams, grown, opened }) })
    }

    /// Begins the stream `name` with this schema, or goes on with it where it was begun before.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn stream(
        &self,
        name: &str,
        schema: &Schema,
        fingerprint: Option<String>,
    ) -> Result<StreamSummary, RecorderError> {
        let Inner { store, identity, network, .. } = &*self.inner;
        let id = StreamId::derive(*network, identity.public(), name, schema)?;
        // Held to the end: a stream has one secret, and whoever begins it a moment later goes on with it.
        let mut streams = self.inner.streams.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = streams.get(&id) {
            return Ok(look(found).summary());
        }
        if store.read(|tx| streams::is_closed(tx, &id))? {
            return Err(RecorderError::Closed { name: name.to_owned() });
        }
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice()).map_err(|e| RecorderError::Randomness(e.to_string()))?;
        let (name, schema) = (name.to_owned(), schema.clone());
        let salting = Salting::Tree;
        let record = StreamRecord { id, name, schema, secret: *secret, salting, fingerprint };
        store.write(|tx| streams::put(tx, &record))?;
        let recorded = Recorded::open(store, record)?;
        let summary = recorded.summary();
        streams.insert(id, Stream::new(recorded));
        Ok(summary)
    }

    /// Whether a reading could be recorded now.
    ///
    /// # Errors
    /// [`RecorderError::UnknownStream`] outside; inside, what is wrong with the reading.
    pub fn check(&self, id: &StreamId, raw: &RawReading) -> Result<Result<(), ReadingError>, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        let reading = Reading { seq: stream.log.size(), time: raw.time, values: raw.values.clone() };
        let now = self.inner.clock.now_ns();
        let fits = stream.record.schema.check(&reading);
        Ok(fits.and_then(|()| reading.check_time(now, DEFAULT_TOLERANCE)))
    }

    fn get(&self, id: &StreamId) -> Result<Arc<Stream>, RecorderError> {
        let streams = self.inner.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(id).cloned().ok_or(RecorderError::UnknownStream(*id))
    }

    /// What is known of a stream.
    ///
    /// # Errors
    /// [`RecorderError::UnknownStream`].
    pub fn summary(&self, id: &StreamId) -> Result<StreamSummary, RecorderError> {
        Ok(look(&*self.get(id)?).summary())
    }

    /// What is known of all streams.
    #[must_use]
    pub fn summaries(&self) -> Vec<StreamSummary> {
        let streams: Vec<_> = {
            let streams = self.inner.streams.read().unwrap_or_else(PoisonError::into_inner);
            streams.values().cloned().collect()
        };
        streams.iter().map(|stream| look(stream).summary()).collect()
    }

    /// Appends readings to streams, all of them or none. They are on disk when this returns.
    ///
    /// # Errors
    /// [`RecorderError`]; nothing is recorded then.
    pub fn append(&self, batches: Vec<(StreamId, Vec<RawReading>)>) -> Result<(), RecorderError> {
        // One order of locking for everybody, and one lock for a stream that comes twice.
        let mut by_stream: BTreeMap<StreamId, Vec<RawReading>> = BTreeMap::new();
        for (id, readings) in batches {
            by_stream.entry(id).or_default().extend(readings);
        }
        let streams: Vec<_> = by_stream.keys().map(|id| self.get(id)).collect::<Result<_, _>>()?;
        let turns: Vec<MutexGuard<'_, ()>> = streams
            .iter()
            .map(|stream| stream.appends.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let now = self.inner.clock.now_ns();
        let mut prepared = Vec::with_capacity(streams.len());
        for (stream, (id, readings)) in streams.iter().zip(by_stream) {
            prepared.push((id, look(stream).prepare(readings, now)?));
        }
        self.inner.store.write(|tx| prepared.iter().try_for_each(|(id, append)| append.store(tx, id)))?;
        for (stream, (_, append)) in streams.iter().zip(prepared) {
            stream.apply(append);
        }
        drop(turns);
        self.inner.grown.send_modify(|batches| *batches = batches.wrapping_add(1));
        Ok(())
    }

    /// Hears of each batch that is recorded from here on, whichever its stream: for those that sell readings as they come.
    #[must_use]
    pub fn grown(&self) -> watch::Receiver<u64> {
        self.inner.grown.subscribe()
    }

    /// Signs the state of a stream's log; `None` while it is empty.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn checkpoint(&self, id: &StreamId) -> Result<Option<Signed<Checkpoint>>, RecorderError> {
        let Inner { identity, network, clock, .. } = &*self.inner;
        let (size, root) = {
            let stream = self.get(id)?;
            let stream = look(&stream);
            (stream.log.size(), stream.log.root())
        };
        if size == 0 {
            return Ok(None);
        }
        let checkpoint = Checkpoint { stream: *id, size, root, issued_ms: clock.now_ms() };
        Ok(Some(Signed::sign(checkpoint, identity, *network)?))
    }

    /// The sequence numbers `[first, end)` that a range means now; `None` when there are no such readings.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn resolve(&self, id: &StreamId, range: Range) -> Result<Option<(u64, u64)>, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        let size = stream.log.size();
        let found = match range {
            Range::Latest => size.checked_sub(1).map(|first| (first, size)),
            Range::Last(count) => Some((size.saturating_sub(count), size)),
            Range::Seq { first, count } => first.checked_add(count).map(|end| (first, end)),
            Range::Time { from, to } => stream.time_range(&self.inner.store, from, to)?,
        };
        Ok(found.filter(|(first, end)| first < end && *end <= size))
    }

    /// Whether the readings from `first` on are in memory: a page of few of them is made without a look at the disk.
    #[must_use]
    pub fn is_open(&self, id: &StreamId, first: u64) -> bool {
        let sealed = |stream: &Stream| (look(stream).chunks.len() as u64).saturating_mul(CHUNK_LEN);
        self.get(id).is_ok_and(|stream| first >= sealed(&stream))
    }

    /// As many of the readings `[first, end)` as fit in one page, proven in the log at `size`.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn page(&self, id: &StreamId, first: u64, end: u64, size: u64) -> Result<Page, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        stream.check_range(first, end, size)?;
        let mut runs = Vec::new();
        let (mut at, mut bytes) = (first, 0_usize);
        while at < end && runs.len() < MAX_RUNS {
            let stop = end.min((at / CHUNK_LEN).saturating_add(1).saturating_mul(CHUNK_LEN));
            let run = stream.run(&self.inner.store, at, stop)?;
            bytes = bytes.saturating_add(run_len(&run));
            if !runs.is_empty() && bytes > PAGE_BYTES {
                break;
            }
            runs.push(run);
            at = stop;
        }
        let proof = range_proof(&stream.log, first, at.saturating_sub(first), size).map_err(make_error)?;
        Ok(Page { runs, proof })
    }

    /// The readings `[first, end)` in pages of no more than a [`PROOF_UNIT`] each, proven in the log at `size`: until there are `most` bytes, and at least one.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn units(
        &self,
        id: &StreamId,
        (first, end): (u64, u64),
        size: u64,
        most: usize,
    ) -> Result<Vec<Page>, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        stream.check_range(first, end, size)?;
        let close = |runs: Vec<Run>, first: u64, end: u64| {
            let proof = range_proof(&stream.log, first, end.saturating_sub(first), size);
            proof.map(|proof| Page { runs, proof }).map_err(make_error)
        };
        let (mut pages, mut runs) = (Vec::new(), Vec::new());
        let (mut begins, mut at, mut bytes, mut total) = (first, first, 0_usize, 0_usize);
        while at < end && total < most {
            let stop = end.min((at / CHUNK_LEN).saturating_add(1).saturating_mul(CHUNK_LEN));
            let run = stream.run(&self.inner.store, at, stop)?;
            let len = bytes_of(&run);
            let is_full = runs.len() >= MAX_RUNS || bytes.saturating_add(len) > PROOF_UNIT;
            if is_full && !runs.is_empty() {
                pages.push(close(std::mem::take(&mut runs), begins, at)?);
                (begins, bytes) = (at, 0);
            }
            (bytes, total) = (bytes.saturating_add(len), total.saturating_add(len));
            runs.push(run);
            at = stop;
        }
        if !runs.is_empty() {
            pages.push(close(runs, begins, at)?);
        }
        Ok(pages)
    }

    /// Proof of the readings `[first, end)` in the log at `size`, without the readings.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn range_proof(
        &self,
        id: &StreamId,
        first: u64,
        end: u64,
        size: u64,
    ) -> Result<RangeProof, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        stream.check_range(first, end, size)?;
        range_proof(&stream.log, first, end.saturating_sub(first), size).map_err(make_error)
    }

    /// Proof that the log at `old` is a prefix of the log at `new`.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn consistency_proof(
        &self,
        id: &StreamId,
        old: u64,
        new: u64,
    ) -> Result<ConsistencyProof, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        stream.check_range(0, old, new)?;
        consistency_proof(&stream.log, old, new).map_err(make_error)
    }

    /// The root of a stream's log when it had `size` readings.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn root_at(&self, id: &StreamId, size: u64) -> Result<Hash, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        stream.check_range(0, size, size)?;
        root(&stream.log, size).map_err(make_error)
    }

    /// The readings `[first, end)`.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn readings(&self, id: &StreamId, first: u64, end: u64) -> Result<Vec<Reading>, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        stream.check_range(first, end, stream.log.size())?;
        stream.readings(&self.inner.store, first, end)
    }
}

/// Bytes of a run in a page, with some for what stands around it.
fn run_len(run: &Run) -> usize {
    let salts = match &run.salts {
        Salts::Secret(_) => 32,
        Salts::Seeds(seeds) => seeds.len().saturating_mul(SALT_LEN),
        Salts::Each(salts) => salts.len().saturating_mul(SALT_LEN.saturating_add(1)),
    };
    run.columns.len().saturating_add(salts).saturating_add(64)
}

fn look(stream: &Stream) -> RwLockReadGuard<'_, Recorded> {
    stream.recorded.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
