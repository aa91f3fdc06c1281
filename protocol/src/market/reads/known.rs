//! What a buyer knows of a log, so that a single reading needs as few hashes as possible.
//!
//! A buyer that has verified a checkpoint knows the roots of the perfect subtrees of its log, and each reading lies below one of them. The hashes
//! from the reading up to that root prove it, and afterwards the siblings on the way are known, too: together with what was known before they
//! cover exactly the readings that were not read yet. So the buyer keeps a *partition* of the unread part into perfect subtrees whose
//! roots it has verified, and asks for the hashes up to the one that its reading is in: `levels` of them. Readings in order take one hash each on
//! average, and each second one none; a first reading somewhere takes as many as the tree is high.
//!
//! Answers come in the order of the questions, so a question can rest on what the answers before it will have shown: the partition
//! is kept twice, as it will be (`shape`) and as it is proven.
//!
//! When the log has grown, the subtrees behind the old size together with the new checkpoint's signature show both that the new log continues the
//! old one and that they are in it: what a consistency proof shows, without its hashes of the old part.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use crate::id::Hash;
use crate::stream::log::{Frontier, MAX_SIZE, node_hash};

/// Most subtrees in the partition: about a megabyte. Beyond it readings are proven up to the subtree they are in, which stays whole.
pub const MAX_SUBTREES: usize = 16_384;

/// Most levels of a log.
pub const MAX_LEVELS: u8 = 48;

/// A perfect subtree: the leaves `[index·2^level, (index+1)·2^level)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subtree {
    /// Its height.
    pub level: u8,
    /// Its index on that level.
    pub index: u64,
}

/// The largest perfect subtrees that cover the leaves `[from, to)`, from left to right. At most 96, and none where the range is none.
#[must_use]
pub fn subtrees(from: u64, to: u64) -> Vec<Subtree> {
    let mut found = Vec::new();
    let mut at = from;
    while let Some(largest) = to.min(MAX_SIZE).saturating_sub(at).checked_ilog2() {
        let level = at.trailing_zeros().min(largest);
        found.push(Subtree { level: u8::try_from(level).unwrap_or(MAX_LEVELS), index: at >> level });
        at = at.saturating_add(1 << level);
    }
    found
}

/// Whether the subtree of this level over leaf `seq` is whole in a log of `size` leaves: only then can its hashes be asked for.
#[must_use]
pub fn is_whole(seq: u64, level: u8, size: u64) -> bool {
    if level > MAX_LEVELS || seq >= size || size > MAX_SIZE {
        return false;
    }
    let after = (seq >> level).saturating_add(1);
    after.checked_mul(1 << level).is_some_and(|end| end <= size)
}

/// How a question is to be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Hashes to ask for.
    pub levels: u8,
    /// Whether the subtree is divided, so that what is beside the reading is known afterwards.
    divides: bool,
}

/// The log has grown, if the root is the right one.
#[derive(Debug, Clone)]
pub struct Growth {
    frontier: Frontier,
    added: Vec<(u64, u8, Hash)>,
}

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KnownError {
    /// The reading is not in the log as far as it is known.
    #[error("reading {seq} is not in the log of {size} that is known")]
    Beyond {
        /// The reading.
        seq: u64,
        /// Size of the log.
        size: u64,
    },
    /// The reading was proven already, or is asked for already.
    #[error("reading {seq} was read before")]
    Read {
        /// The reading.
        seq: u64,
    },
    /// Fewer or more hashes than were asked for.
    #[error("{found} hashes came, {expected} were asked for")]
    Count {
        /// Asked for.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The hashes do not lead to what is known.
    #[error("reading {seq} does not lead to the log that is known: it was altered, or is another")]
    Wrong {
        /// The reading.
        seq: u64,
    },
    /// The log has not grown.
    #[error("a log of {old} cannot become one of {new}")]
    Shrunk {
        /// Size that is known.
        old: u64,
        /// Size that was said.
        new: u64,
    },
}

/// What a buyer knows of a log.
#[derive(Debug, Clone, Default)]
pub struct Known {
    frontier: Frontier,
    /// Level and root of each subtree of the partition, by its first leaf.
    proven: BTreeMap<u64, (u8, Hash)>,
    /// The same without roots, as it will be when all questions are answered.
    shape: BTreeMap<u64, u8>,
}

impl Known {
    /// Nothing: the empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Readings in the log, as far as it is known.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// How the next question for this reading is to be proven; the answers to those before it are awaited.
    ///
    /// # Errors
    /// [`KnownError::Beyond`], [`KnownError::Read`].
    pub fn ask(&mut self, seq: u64) -> Result<Plan, KnownError> {
        let mut plan = self.look(seq)?;
        let found = self.shape.range(..=seq).next_back().map(|(first, _)| *first);
        if self.shape.len().saturating_add(plan.levels.into()) <= MAX_SUBTREES
            && let Some(first) = found
        {
            plan.divides = true;
            self.shape.remove(&first);
            for level in 0..plan.levels {
                self.shape.insert(sibling(seq, level), level);
            }
        }
        Ok(plan)
    }

    /// As [`Known::ask`] for a question that may have another answer: nothing rests on it.
    ///
    /// # Errors
    /// [`KnownError::Beyond`], [`KnownError::Read`].
    pub fn look(&self, seq: u64) -> Result<Plan, KnownError> {
        if seq >= self.size() {
            return Err(KnownError::Beyond { seq, size: self.size() });
        }
        let found = self.shape.range(..=seq).next_back();
        let found = found.filter(|(first, level)| **first >> **level == seq >> **level);
        found.map(|(_, level)| Plan { levels: *level, divides: false }).ok_or(KnownError::Read { seq })
    }

    /// All that was asked and not answered never will be.
    pub fn forget_questions(&mut self) {
        self.shape = self.proven.iter().map(|(first, (level, _))| (*first, *level)).collect();
    }

    /// Verifies an answer: the leaf of reading `seq`, and hashes as planned.
    ///
    /// # Errors
    /// [`KnownError`]; nothing has changed then.
    pub fn verify(&mut self, seq: u64, leaf: Hash, plan: Plan, hashes: &[Hash]) -> Result<(), KnownError> {
        if hashes.len() != usize::from(plan.levels) {
            return Err(KnownError::Count { expected: plan.levels.into(), found: hashes.len() });
        }
        let found =
            self.proven.range(..=seq).next_back().map(|(first, (level, root))| (*first, *level, *root));
        let Some((first, level, root)) = found.filter(|_| seq < self.size()) else {
            return Err(KnownError::Beyond { seq, size: self.size() });
        };
        let way = hashes.get(..level.into()).ok_or(KnownError::Wrong { seq })?;
        let is_in = seq >> level == first >> level;
        let top = way.iter().zip(0_u32..).fold(leaf, |node, (hash, at)| match seq >> at & 1 {
            0 => node_hash(&node, hash),
            _ => node_hash(hash, &node),
        });
        if !is_in || top != root {
            return Err(KnownError::Wrong { seq });
        }
        if plan.divides {
            self.proven.remove(&first);
            for (hash, at) in way.iter().zip(0_u8..) {
                self.proven.insert(sibling(seq, at), (at, *hash));
            }
        }
        Ok(())
    }

    /// What the log would be with these roots of [`subtrees`] behind it, and behind those, perhaps, the leaf of a reading that comes with them.
    ///
    /// # Errors
    /// [`KnownError`].
    pub fn grown(&self, size: u64, hashes: &[Hash], leaf: Option<Hash>) -> Result<Growth, KnownError> {
        let old = self.size();
        let shrunk = KnownError::Shrunk { old, new: size };
        let end = if leaf.is_some() { size.checked_sub(1).ok_or(shrunk)? } else { size };
        if end < old || size > MAX_SIZE {
            return Err(shrunk);
        }
        let added = subtrees(old, end);
        if added.len() != hashes.len() {
            return Err(KnownError::Count { expected: added.len(), found: hashes.len() });
        }
        let mut growth = Growth { frontier: self.frontier.clone(), added: Vec::with_capacity(added.len()) };
        for (Subtree { level, index }, hash) in added.into_iter().zip(hashes) {
            growth.frontier.push_subtree(level, *hash).map_err(|_| shrunk)?;
            growth.added.push((index << level, level, *hash));
        }
        if let Some(leaf) = leaf {
            growth.frontier.push_leaf(leaf);
        }
        Ok(growth)
    }

    /// Takes what the log has grown by, once its root is signed. `idle` says that no question is open: then the partition can be made small again.
    pub fn take(&mut self, growth: Growth, idle: bool) {
        self.frontier = growth.frontier;
        for (first, level, hash) in growth.added {
            self.proven.insert(first, (level, hash));
            self.shape.insert(first, level);
        }
        if idle && self.proven.len() > MAX_SUBTREES {
            // Readings that were passed over for ever: the largest subtrees cover them as well.
            let peaks = self.frontier.peaks().iter();
            let whole = subtrees(0, self.size()).into_iter().zip(peaks);
            self.proven =
                whole.map(|(Subtree { level, index }, root)| (index << level, (level, *root))).collect();
            self.forget_questions();
        }
    }
}

impl Growth {
    /// The root of the grown log: what the checkpoint must say.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }
}

/// First leaf of the subtree beside the one of this level that leaf `seq` is in.
const fn sibling(seq: u64, level: u8) -> u64 {
    ((seq >> level) ^ 1) << level
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::log::{MemoryLog, Nodes};

    fn leaf(seq: u64) -> Hash {
        Hash::of(&seq.to_be_bytes())
    }

    fn log(size: u64) -> MemoryLog {
        MemoryLog::from_leaves((0..size).map(leaf))
    }

    fn nodes(log: &MemoryLog, subtrees: &[Subtree]) -> Vec<Hash> {
        subtrees.iter().map(|at| log.node(at.level, at.index).unwrap()).collect()
    }

    fn way(log: &MemoryLog, seq: u64, levels: u8) -> Vec<Hash> {
        (0..levels).map(|level| log.node(level, (seq >> level) ^ 1).unwrap()).collect()
    }

    fn known(log: &MemoryLog, size: u64) -> Known {
        let mut known = Known::new();
        let growth = known.grown(size, &nodes(log, &subtrees(0, size)), None).unwrap();
        assert_eq!(growth.root(), crate::stream::log::root(log, size).unwrap());
        known.take(growth, true);
        known
    }

    #[test]
    fn readings_in_order_take_one_hash_each() {
        let log = log(1 << 12);
        let mut known = known(&log, 1 << 12);
        let mut hashes = 0;
        for seq in 0..1 << 12 {
            let plan = known.ask(seq).unwrap();
            hashes += u64::from(plan.levels);
            known.verify(seq, leaf(seq), plan, &way(&log, seq, plan.levels)).unwrap();
        }
        assert_eq!(hashes, (1 << 12) - 1);
        assert!(known.proven.is_empty() && known.shape.is_empty());
    }

    #[test]
    fn what_is_not_proven_is_said_and_changes_nothing() {
        let log = log(21);
        let mut known = known(&log, 21);
        assert_eq!(known.ask(21), Err(KnownError::Beyond { seq: 21, size: 21 }));
        let plan = known.ask(5).unwrap();
        let mut hashes = way(&log, 5, plan.levels);
        assert_eq!(known.verify(5, leaf(6), plan, &hashes), Err(KnownError::Wrong { seq: 5 }));
        assert_eq!(known.verify(4, leaf(5), plan, &hashes), Err(KnownError::Wrong { seq: 4 }));
        hashes[2].0[0] ^= 1;
        assert_eq!(known.verify(5, leaf(5), plan, &hashes), Err(KnownError::Wrong { seq: 5 }));
        hashes[2].0[0] ^= 1;
        let short = known.verify(5, leaf(5), plan, &hashes[1..]);
        assert_eq!(short, Err(KnownError::Count { expected: 4, found: 3 }));
        assert_eq!(known.verify(5, leaf(5), plan, &hashes), Ok(()));
        assert!(known.grown(20, &[], None).is_err() && known.grown(21, &[], Some(leaf(20))).is_err());
        assert!(known.grown(24, &[leaf(21)], None).is_err());
    }

    #[test]
    fn only_whole_subtrees_can_be_asked_for() {
        assert!(is_whole(5, 3, 8) && !is_whole(5, 3, 7) && is_whole(20, 0, 21) && !is_whole(20, 1, 21));
        assert!(!is_whole(0, 49, MAX_SIZE) && is_whole(0, 48, MAX_SIZE) && !is_whole(u64::MAX, 0, u64::MAX));
        assert!(!is_whole(u64::MAX - 1, 255, u64::MAX));
    }

    proptest! {
        /// Questions that overtake the answers, a log that grows, connections that break: each reading verifies with the hashes that were
        /// asked for, and no other one in its place.
        #[test]
        fn every_reading_verifies_whatever_was_read_before(
            sizes in prop::collection::vec(1u64..40, 1..6),
            steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 1..120),
        ) {
            let total: u64 = sizes.iter().sum();
            let log = log(total);
            let mut sizes = sizes.into_iter();
            let mut known = known(&log, sizes.next().unwrap());
            let mut read = std::collections::BTreeSet::new();
            let mut open: std::collections::VecDeque<(u64, Plan)> = Default::default();
            for (what, at) in steps {
                match what {
                    0 => if let Some(more) = sizes.next() {
                        let size = known.size() + more;
                        let with_leaf = more % 2 == 0;
                        let end = if with_leaf { size - 1 } else { size };
                        let hashes = nodes(&log, &subtrees(known.size(), end));
                        let last = with_leaf.then(|| leaf(end));
                        let growth = known.grown(size, &hashes, last).unwrap();
                        prop_assert_eq!(growth.root(), crate::stream::log::root(&log, size).unwrap());
                        known.take(growth, open.is_empty());
                        if with_leaf {
                            read.insert(end);
                        }
                    },
                    1 => {
                        for (seq, _) in open.drain(..) {
                            read.remove(&seq);
                        }
                        known.forget_questions();
                    }
                    2..=5 => {
                        let seq = at.index(known.size() as usize) as u64;
                        if read.insert(seq) {
                            open.push_back((seq, known.ask(seq).unwrap()));
                        }
                    }
                    _ => if let Some((seq, plan)) = open.pop_front() {
                        let hashes = way(&log, seq, plan.levels);
                        prop_assert!(is_whole(seq, plan.levels, known.size()));
                        prop_assert_eq!(known.verify(seq, leaf(seq + 1), plan, &hashes), Err(KnownError::Wrong { seq }));
                        prop_assert_eq!(known.verify(seq, leaf(seq), plan, &hashes), Ok(()));
                    },
                }
            }
        }
    }
}
