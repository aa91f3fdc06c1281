//! The append-only log of a stream: a Merkle tree over its leaves (RFC 9162 §2.1), so that one hash commits to every reading.
//!
//! Three proofs follow from the hash of the tree, and each is checked by a pure function:
//! - *inclusion* (§2.1.3): this leaf is in the tree at this position;
//! - *consistency* (§2.1.4): the old tree is the beginning of the new one, so history was not rewritten;
//! - *range*: these consecutive leaves are in the tree from this position on. It is what a buyer gets with a delivery: one proof
//!   for a whole page instead of one for each reading.
//!
//! Positions and sizes are up to [`MAX_SIZE`]. The hash of a tree does not contain its size: whoever checks a proof takes the
//! size from where the root came from (a signed checkpoint has both), never from the proof's author.
//!
//! A maker of proofs needs the hashes of *perfect* subtrees: the node at level `l` with index `i` covers the leaves
//! `[i·2^l, (i+1)·2^l)`, and never changes once they are all there. Where these hashes come from is behind [`Nodes`].

mod frontier;
mod memory;
mod proof;
mod range;

pub use frontier::{Frontier, FrontierError};
pub use memory::{ChunkLeaves, ChunkedLog, MemoryLog, MissingNode};
pub use proof::{
    ConsistencyProof, InclusionProof, MAX_CONSISTENCY_HASHES, MAX_INCLUSION_HASHES, consistency_proof,
    inclusion_proof, root_from_inclusion, verify_consistency, verify_inclusion,
};
pub use range::{MAX_RANGE_HASHES, RangeProof, RangeVerifier, range_proof, verify_range};

use sha2::{Digest, Sha256};

use crate::id::Hash;

/// Most leaves in a log: 2^48, a reading each microsecond for nine years. It keeps every proof below 100 hashes and all
/// arithmetic on positions far from overflow.
pub const MAX_SIZE: u64 = 1 << 48;

/// Prefix of an inner node in the tree's hash (RFC 9162 §2.1.1); a leaf has 0x00.
const NODE_PREFIX: u8 = 0x01;

/// Where the hashes of perfect subtrees come from: memory, or a store.
pub trait Nodes {
    /// Why a hash cannot be had.
    type Error;

    /// The hash of the perfect subtree over the leaves `[index·2^level, (index+1)·2^level)`.
    ///
    /// # Errors
    /// When the log has no such subtree, or the store fails.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The question cannot be asked of a log of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Larger than any log may be.
    #[error("a log of {size} leaves is larger than the limit of {MAX_SIZE}")]
    SizeTooLarge {
        /// The size.
        size: u64,
    },
    /// A leaf beyond the end.
    #[error("leaf {index} is not in a log of {size} leaves")]
    IndexBeyondEnd {
        /// Position of the leaf.
        index: u64,
        /// Size of the log.
        size: u64,
    },
    /// A range of no leaves.
    #[error("a range of no leaves has no proof")]
    EmptyRange,
    /// A range that ends beyond the end.
    #[error("the {count} leaves from {first} on are not all in a log of {size} leaves")]
    RangeBeyondEnd {
        /// First leaf of the range.
        first: u64,
        /// Leaves in the range.
        count: u64,
        /// Size of the log.
        size: u64,
    },
    /// The older of two sizes is the larger.
    #[error("a log of {new} leaves cannot continue one of {old} leaves")]
    Shrunk {
        /// The older size.
        old: u64,
        /// The newer size.
        new: u64,
    },
}

/// A proof cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MakeError<E> {
    /// The question is wrong.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A hash cannot be had.
    #[error("a node of the log cannot be read")]
    Nodes(#[source] E),
}

/// A proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The question is wrong.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A proof for this question has another number of hashes.
    #[error("the proof has {found} hashes, a proof of this has {expected}")]
    Length {
        /// How many it must have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// Another number of leaves than the range has.
    #[error("the range has {expected} leaves, {found} were given")]
    LeafCount {
        /// Leaves in the range.
        expected: u64,
        /// Leaves that were given.
        found: u64,
    },
    /// A subtree that does not begin at a multiple of its size.
    #[error("a subtree of level {level} cannot begin at leaf {at}")]
    NotAligned {
        /// Level of the subtree.
        level: u8,
        /// Where it was to begin.
        at: u64,
    },
    /// The hashes do not lead to the root: something was altered, omitted or moved, or the root is another's.
    #[error("the proof leads to another root than {root}")]
    WrongRoot {
        /// The root that was to be reached.
        root: Hash,
    },
}

/// Hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let hasher = Sha256::new().chain_update([NODE_PREFIX]).chain_update(left.0);
    Hash(hasher.chain_update(right.0).finalize().into())
}

/// Root of the tree of no leaves: SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> Hash {
    Hash::of(b"")
}

/// Root of a tree over these leaf hashes.
#[must_use]
pub fn root_of_leaves(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    for leaf in leaves {
        frontier.push_leaf(*leaf);
    }
    frontier.root()
}

/// Root of the log's first `size` leaves.
///
/// # Errors
/// When a node cannot be had, or the size is beyond [`MAX_SIZE`].
pub fn root<N: Nodes>(nodes: &N, size: u64) -> Result<Hash, MakeError<N::Error>> {
    check_size(size)?;
    if size == 0 {
        return Ok(empty_root());
    }
    subtree_root(nodes, 0, size).map_err(MakeError::Nodes)
}

fn check_size(size: u64) -> Result<(), RequestError> {
    if size > MAX_SIZE {
        return Err(RequestError::SizeTooLarge { size });
    }
    Ok(())
}

/// Root of the subtree over `[start, end)`, which is a subtree of the log: `start` is a multiple of a power of two that is no
/// less than its length. Its perfect parts are its length's binary digits, the largest first, and fold from the right.
fn subtree_root<N: Nodes>(nodes: &N, start: u64, end: u64) -> Result<Hash, N::Error> {
    let mut parts = Vec::new();
    let mut at = start;
    while let Some(level) = end.saturating_sub(at).checked_ilog2() {
        parts.push(nodes.node(small(level), at >> level)?);
        at += 1 << level;
    }
    Ok(fold(&parts))
}

/// Root over consecutive subtrees of falling size.
fn fold(parts: &[Hash]) -> Hash {
    let mut right_to_left = parts.iter().rev();
    match right_to_left.next() {
        Some(last) => right_to_left.fold(*last, |right, left| node_hash(left, &right)),
        None => empty_root(),
    }
}

/// A level as the narrow type: levels are logarithms of positions, so at most 63.
#[expect(clippy::cast_possible_truncation, reason = "the logarithm of a u64 is at most 63")]
const fn small(level: u32) -> u8 {
    level as u8
}
