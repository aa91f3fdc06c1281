//! Inclusion and consistency proofs (RFC 9162 §2.1.3 and §2.1.4).

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserializer, Serialize, Serializer};

use super::{
    MakeError, Nodes, ProofError, RequestError, check_size, empty_root, node_hash, small, subtree_root,
};
use crate::id::Hash;

/// Most hashes in an inclusion proof that is read; a log of [`super::MAX_SIZE`] needs 48.
pub const MAX_INCLUSION_HASHES: usize = 64;

/// Most hashes in a consistency proof that is read; a log of [`super::MAX_SIZE`] needs 49.
pub const MAX_CONSISTENCY_HASHES: usize = 64;

/// The hashes beside the way from a leaf to the root, from the leaf up (RFC 9162 §2.1.3.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InclusionProof {
    /// The hashes.
    pub hashes: Vec<Hash>,
}

/// The hashes that show that one log continues another, in the order of RFC 9162 §2.1.4.1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The hashes.
    pub hashes: Vec<Hash>,
}

/// Serializes a proof as the array of its hashes, and reads no more of them than the bound.
macro_rules! bounded_hashes {
    ($name:ident, $max:expr) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::stream::log::proof::serialize_hashes(&self.hashes, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let hashes = $crate::stream::log::proof::deserialize_hashes(deserializer, $max)?;
                Ok(Self { hashes })
            }
        }
    };
}
pub(super) use bounded_hashes;

bounded_hashes!(InclusionProof, MAX_INCLUSION_HASHES);
bounded_hashes!(ConsistencyProof, MAX_CONSISTENCY_HASHES);

pub(super) fn serialize_hashes<S: Serializer>(hashes: &[Hash], serializer: S) -> Result<S::Ok, S::Error> {
    hashes.serialize(serializer)
}

pub(super) fn deserialize_hashes<'de, D: Deserializer<'de>>(
    deserializer: D,
    max: usize,
) -> Result<Vec<Hash>, D::Error> {
    struct HashesVisitor {
        max: usize,
    }
    impl<'de> Visitor<'de> for HashesVisitor {
        type Value = Vec<Hash>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of at most {} hashes", self.max)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Hash>, A::Error> {
            let mut hashes = Vec::new();
            while let Some(hash) = items.next_element()? {
                if hashes.len() == self.max {
                    return Err(serde::de::Error::invalid_length(self.max + 1, &self));
                }
                hashes.push(hash);
            }
            Ok(hashes)
        }
    }
    deserializer.deserialize_seq(HashesVisitor { max })
}

/// Proof that the leaf at `index` is in the log's first `size` leaves.
///
/// # Errors
/// When there is no such leaf, or a node cannot be had.
pub fn inclusion_proof<N: Nodes>(
    nodes: &N,
    index: u64,
    size: u64,
) -> Result<InclusionProof, MakeError<N::Error>> {
    check_index(index, size)?;
    let mut hashes = Vec::new();
    let mut level = 0;
    while size.saturating_sub(1) >> level > 0 {
        let position = index >> level;
        if position & 1 == 1 {
            hashes.push(nodes.node(small(level), position - 1).map_err(MakeError::Nodes)?);
        } else {
            // The sibling may be cut off by the end of the log, or be missing: then this node is handed up as it is.
            let start = (position + 1) << level;
            if start < size {
                let end = size.min(start + (1 << level));
                hashes.push(subtree_root(nodes, start, end).map_err(MakeError::Nodes)?);
            }
        }
        level += 1;
    }
    Ok(InclusionProof { hashes })
}

/// The root that an inclusion proof leads to (RFC 9162 §2.1.3.2), for whoever has the root only inside a further proof.
///
/// # Errors
/// When the proof does not have the number of hashes that such a leaf's proof has.
pub fn root_from_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &InclusionProof,
) -> Result<Hash, ProofError> {
    check_index(index, size)?;
    let mut position = index;
    let mut last = size - 1;
    let expected = inclusion_len(index, size);
    if proof.hashes.len() != expected {
        return Err(ProofError::Length { expected, found: proof.hashes.len() });
    }
    let mut root = *leaf;
    for hash in &proof.hashes {
        if position & 1 == 1 || position == last {
            root = node_hash(hash, &root);
            if position & 1 == 0 {
                // No sibling on these levels: up to where the node is a right child.
                let levels = position.trailing_zeros();
                position >>= levels;
                last >>= levels;
            }
        } else {
            root = node_hash(&root, hash);
        }
        position >>= 1;
        last >>= 1;
    }
    Ok(root)
}

/// Checks that `leaf` is at `index` in the log of `size` leaves with this root (RFC 9162 §2.1.3.2).
///
/// # Errors
/// [`ProofError`] when it is not shown.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &InclusionProof,
    root: &Hash,
) -> Result<(), ProofError> {
    expect_root(root_from_inclusion(leaf, index, size, proof)?, root)
}

/// Hashes in an inclusion proof: one for each level on which the node has a sibling.
fn inclusion_len(index: u64, size: u64) -> usize {
    let last = size - 1;
    // Below the level where the ways to this leaf and to the last one meet, each level has a sibling; above it, only those
    // where the way comes from the right.
    let meet = u64::BITS - (index ^ last).leading_zeros();
    let above = index.checked_shr(meet).unwrap_or(0).count_ones();
    (meet + above) as usize
}

fn check_index(index: u64, size: u64) -> Result<(), RequestError> {
    check_size(size)?;
    if index >= size {
        return Err(RequestError::IndexBeyondEnd { index, size });
    }
    Ok(())
}

pub(super) fn expect_root(found: Hash, root: &Hash) -> Result<(), ProofError> {
    if found == *root { Ok(()) } else { Err(ProofError::WrongRoot { root: *root }) }
}

/// Proof that the log's first `new` leaves begin with its first `old` leaves. Empty when the sizes are equal or `old` is 0.
///
/// # Errors
/// When `old` is larger than `new`, or a node cannot be had.
pub fn consistency_proof<N: Nodes>(
    nodes: &N,
    old: u64,
    new: u64,
) -> Result<ConsistencyProof, MakeError<N::Error>> {
    check_sizes(old, new)?;
    let mut hashes = Vec::new();
    if old > 0 {
        // SUBPROOF of RFC 9162 §2.1.4.1, from the root down: the old log ends inside `[start, stop)`.
        let (mut start, mut stop) = (0, new);
        let mut old_is_whole = true;
        while old != stop {
            let half = largest_power_below(stop - start);
            let middle = start + half;
            let beside = if old <= middle {
                let beside = (middle, stop);
                stop = middle;
                beside
            } else {
                let beside = (start, middle);
                start = middle;
                old_is_whole = false;
                beside
            };
            hashes.push(subtree_root(nodes, beside.0, beside.1).map_err(MakeError::Nodes)?);
        }
        if !old_is_whole {
            hashes.push(subtree_root(nodes, start, stop).map_err(MakeError::Nodes)?);
        }
        hashes.reverse();
    }
    Ok(ConsistencyProof { hashes })
}

/// Checks that the log of `new` leaves continues the log of `old` leaves (RFC 9162 §2.1.4.2).
///
/// # Errors
/// [`ProofError`] when it is not shown; [`ProofError::WrongRoot`] names the root that is not reached.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &ConsistencyProof,
) -> Result<(), ProofError> {
    check_sizes(old, new)?;
    let found = proof.hashes.len();
    if old == 0 || old == new {
        if found != 0 {
            return Err(ProofError::Length { expected: 0, found });
        }
        let expected = if old == 0 { empty_root() } else { *new_root };
        return expect_root(expected, old_root);
    }
    let mut hashes = proof.hashes.iter();
    // A whole subtree of the new log is its own first hash.
    let first = if old.is_power_of_two() { Some(old_root) } else { hashes.next() };
    let (expected, above) = consistency_len(old, new);
    let Some(first) = first.filter(|_| found == expected) else {
        return Err(ProofError::Length { expected, found });
    };
    let mut position = (old - 1) >> above;
    let mut last = (new - 1) >> above;
    let (mut from_old, mut from_new) = (*first, *first);
    for hash in hashes {
        if position & 1 == 1 || position == last {
            from_old = node_hash(hash, &from_old);
            from_new = node_hash(hash, &from_new);
            if position & 1 == 0 {
                let levels = position.trailing_zeros();
                position >>= levels;
                last >>= levels;
            }
        } else {
            from_new = node_hash(&from_new, hash);
        }
        position >>= 1;
        last >>= 1;
    }
    expect_root(from_old, old_root)?;
    expect_root(from_new, new_root)
}

/// Hashes in a consistency proof, and the level of the subtree at the end of the old log that it begins with.
fn consistency_len(old: u64, new: u64) -> (usize, u32) {
    let level = old.trailing_zeros();
    let beside = inclusion_len((old - 1) >> level, ((new - 1) >> level) + 1);
    (beside + usize::from(!old.is_power_of_two()), level)
}

fn check_sizes(old: u64, new: u64) -> Result<(), RequestError> {
    check_size(new)?;
    if old > new {
        return Err(RequestError::Shrunk { old, new });
    }
    Ok(())
}

/// The largest power of two below `len`, which is at least 2: where RFC 9162 splits a tree.
fn largest_power_below(len: u64) -> u64 {
    1 << len.saturating_sub(1).checked_ilog2().unwrap_or(0)
}
