//! Range proofs: many consecutive leaves, one proof.
//!
//! RFC 9162 has none, so this is what we mean by it. In the tree over `size` leaves, take the largest subtrees that have no
//! leaf of `[first, first + count)`. Their hashes are the proof, from left to right, and no smaller set would do:
//! - those left of the range are perfect, one for each binary digit 1 of `first`, the largest first;
//! - those right of it begin at `first + count` and are as large as their position's alignment allows; the last one may be cut
//!   off by the end of the log.
//!
//! For one leaf these are the hashes of its inclusion proof, in another order; for the whole log there are none. How many there
//! are follows from the three numbers, so nothing in a proof says where a hash belongs.

use super::proof::{bounded_hashes, expect_root};
use super::{
    Frontier, FrontierError, MakeError, Nodes, ProofError, RequestError, check_size, small, subtree_root,
};
use crate::id::Hash;

/// Most hashes in a range proof that is read; a log of [`super::MAX_SIZE`] needs at most 96.
pub const MAX_RANGE_HASHES: usize = 128;

/// The hashes beside a range of leaves, from left to right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeProof {
    /// The hashes.
    pub hashes: Vec<Hash>,
}

impl RangeProof {
    /// How many of the hashes are left of a range that begins with leaf `first`: they are the [`Frontier::peaks`] of the log before it.
    #[must_use]
    pub const fn left_of(first: u64) -> usize {
        first.count_ones() as usize
    }

    /// How many are right of a range that ends before leaf `end`, in a log of `size` leaves.
    #[must_use]
    pub fn right_of(end: u64, size: u64) -> usize {
        if end == 0 { 0 } else { right_of(end, size).count() }
    }
}

bounded_hashes!(RangeProof, MAX_RANGE_HASHES);

/// Proof that the `count` leaves from `first` on are in the log's first `size` leaves.
///
/// # Errors
/// When the range is empty or ends beyond the log, or a node cannot be had.
pub fn range_proof<N: Nodes>(
    nodes: &N,
    first: u64,
    count: u64,
    size: u64,
) -> Result<RangeProof, MakeError<N::Error>> {
    let end = check_range(first, count, size)?;
    let mut hashes = Vec::new();
    let mut at = 0;
    while let Some(level) = (first - at).checked_ilog2() {
        hashes.push(nodes.node(small(level), at >> level).map_err(MakeError::Nodes)?);
        at += 1 << level;
    }
    for (start, stop) in right_of(end, size) {
        hashes.push(subtree_root(nodes, start, stop).map_err(MakeError::Nodes)?);
    }
    Ok(RangeProof { hashes })
}

/// Checks that these leaves are at `first` and on in the log of `size` leaves with this root.
///
/// # Errors
/// [`ProofError`] when it is not shown.
pub fn verify_range(
    leaves: &[Hash],
    first: u64,
    size: u64,
    proof: &RangeProof,
    root: &Hash,
) -> Result<(), ProofError> {
    let mut verifier = RangeVerifier::new(first, leaves.len() as u64, size, proof)?;
    verifier.push_leaves(leaves)?;
    verifier.verify(root)
}

/// Checks a range as it arrives, in memory for about a hundred hashes: leaves, or roots of whole chunks, in order.
///
/// A subtree's root shows something of its leaves only if it was computed from them; pass on no root that a stranger says.
#[derive(Debug, Clone)]
pub struct RangeVerifier {
    frontier: Frontier,
    right: Vec<Hash>,
    first: u64,
    end: u64,
    size: u64,
}

impl RangeVerifier {
    /// Prepares to check the `count` leaves from `first` on in a log of `size` leaves.
    ///
    /// # Errors
    /// When there is no such range, or the proof does not have its number of hashes.
    pub fn new(first: u64, count: u64, size: u64, proof: &RangeProof) -> Result<Self, ProofError> {
        let end = check_range(first, count, size)?;
        let left_len = RangeProof::left_of(first);
        let length = ProofError::Length {
            expected: left_len + right_of(end, size).count(),
            found: proof.hashes.len(),
        };
        let (left, right) = proof.hashes.split_at_checked(left_len).ok_or(length)?;
        if right.len() != right_of(end, size).count() {
            return Err(length);
        }
        let frontier = Frontier::from_peaks(first, left.to_vec()).map_err(|_| length)?;
        Ok(Self { frontier, right: right.to_vec(), first, end, size })
    }

    /// Position of the leaf that is expected next.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.frontier.size()
    }

    /// The log before that position. It is the real one only if all leaves of the range and the proof [verify](Self::verify) in the end.
    #[must_use]
    pub const fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Takes the next leaf.
    ///
    /// # Errors
    /// When the range has no more leaves.
    pub fn push_leaf(&mut self, leaf: Hash) -> Result<(), ProofError> {
        self.push_subtree(0, leaf)
    }

    /// Takes the next leaves.
    ///
    /// # Errors
    /// When the range has fewer leaves left.
    pub fn push_leaves(&mut self, leaves: &[Hash]) -> Result<(), ProofError> {
        self.check_left(leaves.len() as u64)?;
        for leaf in leaves {
            self.frontier.push_leaf(*leaf);
        }
        Ok(())
    }

    /// Takes the next 2^`level` leaves by the root of their perfect subtree, which the caller computed from them.
    ///
    /// # Errors
    /// When the subtree does not begin at a multiple of its size, or the range has fewer leaves left.
    pub fn push_subtree(&mut self, level: u8, root: Hash) -> Result<(), ProofError> {
        self.check_left(1_u64.checked_shl(level.into()).unwrap_or(u64::MAX))?;
        self.frontier.push_subtree(level, root).map_err(|error| match error {
            FrontierError::Size(error) => ProofError::Request(error),
            _ => ProofError::NotAligned { level, at: self.frontier.size() },
        })
    }

    fn check_left(&self, more: u64) -> Result<(), ProofError> {
        if more > self.end - self.frontier.size() {
            let found = (self.frontier.size() - self.first).saturating_add(more);
            return Err(ProofError::LeafCount { expected: self.end - self.first, found });
        }
        Ok(())
    }

    /// The root that all leaves of the range and the proof lead to.
    ///
    /// # Errors
    /// When leaves of the range are still missing.
    pub fn root(mut self) -> Result<Hash, ProofError> {
        if self.frontier.size() != self.end {
            let found = self.frontier.size() - self.first;
            return Err(ProofError::LeafCount { expected: self.end - self.first, found });
        }
        for ((start, stop), hash) in right_of(self.end, self.size).zip(self.right) {
            let level = small(start.trailing_zeros());
            if stop - start < 1 << level {
                // Cut off by the end of the log, so it is the last.
                return Ok(self.frontier.root_followed_by(hash));
            }
            self.frontier
                .push_subtree(level, hash)
                .map_err(|_| ProofError::NotAligned { level, at: start })?;
        }
        Ok(self.frontier.root())
    }

    /// Checks that all leaves of the range and the proof lead to this root.
    ///
    /// # Errors
    /// [`ProofError::LeafCount`] while leaves are missing, [`ProofError::WrongRoot`] when they do not.
    pub fn verify(self, root: &Hash) -> Result<(), ProofError> {
        expect_root(self.root()?, root)
    }
}

/// The subtrees right of a range that ends at `end`, as `[start, stop)`: each as large as the alignment of its start allows.
///
/// `end` is never 0, for a range has at least one leaf.
fn right_of(end: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    let stop = move |start: u64| size.min(start + (1 << start.trailing_zeros()));
    let starts = std::iter::successors(Some(end), move |start| Some(stop(*start)));
    starts.take_while(move |start| *start < size).map(move |start| (start, stop(start)))
}

/// The end of the range.
fn check_range(first: u64, count: u64, size: u64) -> Result<u64, RequestError> {
    check_size(size)?;
    if count == 0 {
        return Err(RequestError::EmptyRange);
    }
    match first.checked_add(count) {
        Some(end) if end <= size => Ok(end),
        _ => Err(RequestError::RangeBeyondEnd { first, count, size }),
    }
}
