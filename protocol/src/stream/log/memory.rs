//! Logs whose nodes are in memory: whole ones, and those of a store that keeps only the roots of full chunks.

use std::sync::{Mutex, PoisonError};

use super::{MAX_SIZE, Nodes, node_hash};
use crate::id::Hash;
use crate::stream::chunk::{CHUNK_LEN, CHUNK_LEVEL};

/// The log has no perfect subtree there (yet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log has no full subtree of level {level} at index {index}")]
pub struct MissingNode {
    /// Level of the subtree.
    pub level: u8,
    /// Its index on that level.
    pub index: u64,
}

/// A log with all its nodes in memory: 64 bytes for each leaf. For small trees, tests, and the upper levels of large ones.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    levels: Vec<Vec<Hash>>,
}

impl MemoryLog {
    /// The empty log.
    #[must_use]
    pub const fn new() -> Self {
        Self { levels: Vec::new() }
    }

    /// A log of these leaves.
    #[must_use]
    pub fn from_leaves(leaves: impl IntoIterator<Item = Hash>) -> Self {
        let mut log = Self::new();
        for leaf in leaves {
            log.push(leaf);
        }
        log
    }

    /// Leaves in the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// Appends a leaf and returns its position.
    pub fn push(&mut self, leaf: Hash) -> u64 {
        let index = self.size();
        debug_assert!(index < MAX_SIZE, "a log never grows beyond its limit");
        let mut node = leaf;
        let mut level = 0;
        loop {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let Some(nodes) = self.levels.get_mut(level) else { return index };
            nodes.push(node);
            // A pair is complete when the level has an even number of nodes.
            match nodes.as_chunks::<2>() {
                (pairs, []) => match pairs.last() {
                    Some([left, right]) => node = node_hash(left, right),
                    None => return index,
                },
                _ => return index,
            }
            level += 1;
        }
    }

    /// Root of the whole log.
    #[must_use]
    pub fn root(&self) -> Hash {
        // The peaks are the last nodes of the levels that have an odd number of them.
        let peaks = self.levels.iter().filter(|nodes| nodes.len() % 2 == 1).filter_map(|nodes| nodes.last());
        peaks.copied().reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(super::empty_root)
    }
}

impl Nodes for MemoryLog {
    type Error = MissingNode;

    fn node(&self, level: u8, index: u64) -> Result<Hash, MissingNode> {
        let nodes = self.levels.get(usize::from(level));
        let node = nodes.and_then(|nodes| nodes.get(usize::try_from(index).ok()?));
        node.copied().ok_or(MissingNode { level, index })
    }
}

/// Where a [`ChunkedLog`] gets the leaf hashes of a full chunk: from the stored chunk, by opening it.
pub trait ChunkLeaves {
    /// Why they cannot be had.
    type Error: From<MissingNode>;

    /// The leaf hashes of the full chunk with this index.
    ///
    /// # Errors
    /// When the store fails.
    fn leaves(&self, chunk: u64) -> Result<Vec<Hash>, Self::Error>;
}

/// A log of which only the roots of full chunks and the leaves after them are kept; the nodes inside a full chunk are computed
/// again from its readings when a proof cuts through it.
///
/// It takes 64 bytes for each chunk of 1024 readings, so a hundred million readings take 6 MiB; and 64 KiB for the nodes of one chunk.
#[derive(Debug)]
pub struct ChunkedLog<L> {
    /// Leaves of this log are roots of chunks.
    chunks: MemoryLog,
    /// Leaves after the last full chunk.
    tail: MemoryLog,
    leaves: L,
    /// The chunk that a proof cut through last, or that was filled since: a proof asks for up to ten of its nodes, one after the other.
    opened: Mutex<Option<(u64, MemoryLog)>>,
}

impl<L> ChunkedLog<L> {
    /// A log of these chunk roots and, after them, these leaves (fewer than a chunk, or they are sealed at once).
    pub fn new(
        roots: impl IntoIterator<Item = Hash>,
        tail: impl IntoIterator<Item = Hash>,
        leaves: L,
    ) -> Self {
        let mut log = Self {
            chunks: MemoryLog::from_leaves(roots),
            tail: MemoryLog::new(),
            leaves,
            opened: Mutex::new(None),
        };
        for leaf in tail {
            log.push(leaf);
        }
        log
    }

    /// Leaves in the log.
    pub fn size(&self) -> u64 {
        self.chunks.size() * CHUNK_LEN + self.tail.size()
    }

    /// Appends a leaf. Returns the root of the chunk that it completes, if it does.
    pub fn push(&mut self, leaf: Hash) -> Option<Hash> {
        self.tail.push(leaf);
        if self.tail.size() < CHUNK_LEN {
            return None;
        }
        let chunk = std::mem::take(&mut self.tail);
        let root = chunk.root();
        // Whoever follows the log is a little behind: it is this chunk that the next proofs cut through.
        *self.opened.get_mut().unwrap_or_else(PoisonError::into_inner) = Some((self.chunks.size(), chunk));
        self.chunks.push(root);
        Some(root)
    }

    /// Root of the whole log.
    pub fn root(&self) -> Hash {
        match (self.chunks.size(), self.tail.size()) {
            (0, _) => self.tail.root(),
            (_, 0) => self.chunks.root(),
            // The tail is smaller than any peak of the chunks: each peak is the left sibling of all that follows it.
            _ => self.chunks.root_followed_by(self.tail.root()),
        }
    }
}

impl MemoryLog {
    fn root_followed_by(&self, last: Hash) -> Hash {
        let peaks = self.levels.iter().filter(|nodes| nodes.len() % 2 == 1).filter_map(|nodes| nodes.last());
        peaks.fold(last, |right, left| node_hash(left, &right))
    }
}

impl<L: ChunkLeaves> Nodes for ChunkedLog<L> {
    type Error = L::Error;

    fn node(&self, level: u8, index: u64) -> Result<Hash, L::Error> {
        if let Some(above) = level.checked_sub(CHUNK_LEVEL) {
            return Ok(self.chunks.node(above, index).map_err(|_| MissingNode { level, index })?);
        }
        // Below the chunks: which chunk, and which node in it.
        let in_chunk = CHUNK_LEVEL - level;
        let chunk = index >> in_chunk;
        let inside = index & ((1 << in_chunk) - 1);
        if chunk >= self.chunks.size() {
            let is_tail = chunk == self.chunks.size();
            let node = if is_tail { self.tail.node(level, inside).ok() } else { None };
            return Ok(node.ok_or(MissingNode { level, index })?);
        }
        // What is kept here is complete whenever it is set, so a panic elsewhere cannot have left half of it.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let log = match &mut *opened {
            Some((at, log)) if *at == chunk => log,
            other => &mut other.insert((chunk, MemoryLog::from_leaves(self.leaves.leaves(chunk)?))).1,
        };
        Ok(log.node(level, inside).map_err(|_| MissingNode { level, index })?)
    }
}
