//! Single readings of a log, with the hashes that prove them, as fast as memory is.
//!
//! A sealed chunk is a compressed whole: to take one reading out of it all of it is decoded and hashed. Whoever asks for single readings
//! asks for many of the same chunk, so the chunks that were asked of last stay open.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sensora_protocol::market::reads::known::Subtree;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::chunk::CHUNK_LEVEL;
use sensora_protocol::stream::leaf::Salt;
use sensora_protocol::stream::log::{MemoryLog, Nodes, root};
use sensora_protocol::stream::{CHUNK_LEN, ChunkSecret, Reading, Run, Salts};
use sensora_protocol::{Hash, Signed, StreamId};

use super::recorded::{Recorded, secret};
use super::{Recorder, RecorderError, look, make_error};
use crate::store::streams;

/// Most chunks that stay open, over all streams: enough for 64 buyers that each read somewhere else. One is about 160 KiB for a stream of one field, so these
/// are at most 15 MiB, and as many as are asked of.
const MAX_OPENED: usize = 96;

/// A sealed chunk in memory.
struct Opened {
    readings: Vec<Reading>,
    /// The nodes inside the chunk.
    log: MemoryLog,
    secret: ChunkSecret,
}

type Key = (StreamId, u64);

/// The chunks that were asked of last, the last one at the end.
#[derive(Default)]
pub(super) struct OpenedChunks(Mutex<VecDeque<(Key, Arc<Opened>)>>);

impl OpenedChunks {
    fn get(&self, key: &Key) -> Option<Arc<Opened>> {
        let mut chunks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = chunks.iter().rposition(|(other, _)| other == key)?;
        // One that was asked of a moment ago need not be moved.
        if at.saturating_add(MAX_OPENED / 2) < chunks.len()
            && let Some(chunk) = chunks.remove(at)
        {
            chunks.push_back(chunk);
            return chunks.back().map(|(_, opened)| opened.clone());
        }
        chunks.get(at).map(|(_, opened)| opened.clone())
    }

    fn put(&self, key: Key, opened: Arc<Opened>) {
        let mut chunks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chunks.iter().all(|(other, _)| *other != key) {
            if chunks.len() >= MAX_OPENED {
                chunks.pop_front();
            }
            chunks.push_back((key, opened));
        }
    }
}

/// One reading, and what its leaf is salted with.
#[derive(Debug, Clone, PartialEq)]
pub struct Single {
    /// The reading.
    pub reading: Reading,
    /// Its salt.
    pub salt: Salt,
}

impl Recorder {
    /// Readings in a stream's log.
    ///
    /// # Errors
    /// [`RecorderError::UnknownStream`].
    pub fn size(&self, id: &StreamId) -> Result<u64, RecorderError> {
        Ok(look(&*self.get(id)?).log.size())
    }

    /// Whether this reading and these roots can be had without the disk.
    #[must_use]
    pub fn is_at_hand(&self, id: &StreamId, seq: Option<u64>, subtrees: &[Subtree]) -> bool {
        let Ok(stream) = self.get(id) else { return true };
        let sealed = look(&stream).chunks.len() as u64;
        let below = subtrees.iter().filter_map(chunk_of);
        let mut last = None;
        seq.map(|seq| seq / CHUNK_LEN).into_iter().chain(below).all(|chunk| {
            let is_here =
                chunk >= sealed || last == Some(chunk) || self.inner.opened.get(&(*id, chunk)).is_some();
            last = Some(chunk);
            is_here
        })
    }

    /// One reading.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn single(&self, id: &StreamId, seq: u64) -> Result<Single, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        let end = seq.saturating_add(1);
        stream.check_range(seq, end, stream.log.size())?;
        let index = seq / CHUNK_LEN;
        let beyond = RecorderError::Range { first: seq, end, size: stream.log.size() };
        let inside = usize::try_from(seq % CHUNK_LEN).unwrap_or(usize::MAX);
        if index < stream.chunks.len() as u64 {
            let opened = self.opened(&stream, index)?;
            let reading = opened.readings.get(inside).cloned().ok_or(beyond)?;
            return Ok(Single { reading, salt: opened.secret.salt(seq) });
        }
        let reading = stream.tail.get(inside).cloned().ok_or(beyond)?;
        Ok(Single { reading, salt: secret(&stream.record).chunk(index).salt(seq) })
    }

    /// The roots of whole subtrees of a stream's log.
    ///
    /// # Errors
    /// [`RecorderError`]; [`RecorderError::Damaged`] also for a subtree that is not whole.
    pub fn roots(&self, id: &StreamId, subtrees: &[Subtree]) -> Result<Vec<Hash>, RecorderError> {
        let stream = self.get(id)?;
        let stream = look(&stream);
        let sealed = stream.chunks.len() as u64;
        let mut roots = Vec::with_capacity(subtrees.len());
        let mut last: Option<(u64, Arc<Opened>)> = None;
        for subtree in subtrees {
            let Subtree { level, index } = *subtree;
            let root = match chunk_of(subtree).filter(|chunk| *chunk < sealed) {
                None => stream.log.node(level, index)?,
                Some(chunk) => {
                    let opened = match last.take() {
                        Some((at, opened)) if at == chunk => opened,
                        _ => self.opened(&stream, chunk)?,
                    };
                    let inside = index & (1_u64 << (CHUNK_LEVEL - level)).saturating_sub(1);
                    let root = opened.log.node(level, inside)?;
                    last = Some((chunk, opened));
                    root
                }
            };
            roots.push(root);
        }
        Ok(roots)
    }

    /// Signs the state of a stream's log when it had `size` readings.
    ///
    /// # Errors
    /// [`RecorderError`].
    pub fn checkpoint_at(&self, id: &StreamId, size: u64) -> Result<Signed<Checkpoint>, RecorderError> {
        let root = {
            let stream = self.get(id)?;
            let stream = look(&stream);
            stream.check_range(0, size, size)?;
            if size == stream.log.size() {
                stream.log.root()
            } else {
                root(&stream.log, size).map_err(make_error)?
            }
        };
        let checkpoint = Checkpoint { stream: *id, size, root, issued_ms: self.inner.clock.now_ms() };
        Ok(Signed::sign(checkpoint, &self.inner.identity, self.inner.network)?)
    }

    fn opened(&self, stream: &Recorded, index: u64) -> Result<Arc<Opened>, RecorderError> {
        let key = (stream.record.id, index);
        if let Some(opened) = self.inner.opened.get(&key) {
            return Ok(opened);
        }
        let columns = self.inner.store.read(|tx| streams::chunk(tx, &stream.record.id, index))?;
        let secret = secret(&stream.record).chunk(index);
        let run =
            Run { first: index.saturating_mul(CHUNK_LEN), columns, salts: Salts::Secret(secret.clone()) };
        let open = run.open(&stream.record.schema)?;
        let log = MemoryLog::from_leaves(open.leaves);
        let opened = Arc::new(Opened { readings: open.readings, log, secret });
        self.inner.opened.put(key, opened.clone());
        Ok(opened)
    }
}

/// The chunk that a subtree is inside of; none for a chunk or more.
fn chunk_of(subtree: &Subtree) -> Option<u64> {
    let in_chunk = CHUNK_LEVEL.checked_sub(subtree.level).filter(|levels| *levels > 0)?;
    Some(subtree.index >> in_chunk)
}
