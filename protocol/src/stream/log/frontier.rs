//! The right edge of a log, which is all that appending needs.

use super::{MAX_SIZE, RequestError, check_size, fold, node_hash};
use crate::id::Hash;

/// The peaks of a log: the roots of its largest perfect subtrees, one for each binary digit of its size.
///
/// It takes memory for at most 48 hashes, however large the log, and is enough to append to it and to know its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// From the largest subtree to the smallest, which is from left to right.
    peaks: Vec<Hash>,
}

/// The peaks or the subtree do not fit the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrontierError {
    /// Too large a log.
    #[error(transparent)]
    Size(#[from] RequestError),
    /// Another number of peaks than the size has binary digits.
    #[error("a log of {size} leaves has {expected} peaks, {found} were given")]
    PeakCount {
        /// Size of the log.
        size: u64,
        /// Peaks it has.
        expected: usize,
        /// Peaks that were given.
        found: usize,
    },
    /// A subtree that does not begin at a multiple of its size.
    #[error("a subtree of level {level} cannot follow {size} leaves")]
    NotAligned {
        /// Level of the subtree.
        level: u8,
        /// Size of the log before it.
        size: u64,
    },
}

impl Frontier {
    /// The frontier of the empty log.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, peaks: Vec::new() }
    }

    /// The frontier of a log of this size with these peaks, the largest first.
    ///
    /// # Errors
    /// When the number of peaks does not fit the size.
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Result<Self, FrontierError> {
        check_size(size)?;
        let expected = size.count_ones() as usize;
        if peaks.len() != expected {
            return Err(FrontierError::PeakCount { size, expected, found: peaks.len() });
        }
        Ok(Self { size, peaks })
    }

    /// Leaves in the log.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees, the largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Appends one leaf.
    pub fn push_leaf(&mut self, leaf: Hash) {
        self.push(0, leaf);
    }

    /// Appends the 2^`level` leaves below the root of a perfect subtree.
    ///
    /// # Errors
    /// When the log's size is not a multiple of the subtree's, or would exceed [`MAX_SIZE`].
    pub fn push_subtree(&mut self, level: u8, root: Hash) -> Result<(), FrontierError> {
        let len = 1_u64.checked_shl(level.into()).unwrap_or(u64::MAX);
        check_size(self.size.saturating_add(len))?;
        if !self.size.is_multiple_of(len) {
            return Err(FrontierError::NotAligned { level, size: self.size });
        }
        self.push(level, root);
        Ok(())
    }

    fn push(&mut self, level: u8, root: Hash) {
        debug_assert!(self.size < MAX_SIZE, "a log never grows beyond its limit");
        let mut root = root;
        let mut digits = self.size >> level;
        while digits & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                root = node_hash(&left, &root);
            }
            digits >>= 1;
        }
        self.peaks.push(root);
        self.size += 1 << level;
    }

    /// Root of the log.
    #[must_use]
    pub fn root(&self) -> Hash {
        fold(&self.peaks)
    }

    /// Root of the log when what follows its leaves is one smaller subtree, perfect or not.
    pub(super) fn root_followed_by(&self, last: Hash) -> Hash {
        self.peaks.iter().rev().fold(last, |right, left| node_hash(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::super::root_of_leaves;
    use super::*;

    #[test]
    fn subtrees_and_leaves_lead_to_the_same_root() {
        let leaves: Vec<Hash> = (0_u8..23).map(|i| Hash([i; 32])).collect();
        let mut frontier = Frontier::new();
        frontier.push_subtree(3, root_of_leaves(&leaves[..8])).unwrap();
        frontier.push_subtree(2, root_of_leaves(&leaves[8..12])).unwrap();
        assert_eq!(
            frontier.push_subtree(3, Hash([0; 32])),
            Err(FrontierError::NotAligned { level: 3, size: 12 })
        );
        for leaf in &leaves[12..] {
            frontier.push_leaf(*leaf);
        }
        assert_eq!(frontier.root(), root_of_leaves(&leaves));
        let copy = Frontier::from_peaks(23, frontier.peaks().to_vec()).unwrap();
        assert_eq!(copy, frontier);
        assert!(Frontier::from_peaks(24, frontier.peaks().to_vec()).is_err());
        assert!(frontier.push_subtree(200, Hash([0; 32])).is_err());
    }

    #[test]
    fn the_empty_log_has_the_root_of_nothing() {
        assert_eq!(
            Frontier::new().root().to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
