//! The part of a block's Merkle tree that a path knows, computed from below, level by level.
//!
//! Nothing here is recursive, and the work is linear in the hashes that were given.

use std::collections::{BTreeMap, BTreeSet};

use super::{Leaf, MerklePathError};
use crate::encode::sha256d;
use crate::id::Txid;

/// What stands at one place of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Hash([u8; 32]),
    /// The same as its left neighbour, because the level has an odd number of nodes.
    Copy,
}

impl Node {
    pub(super) const fn hash(&self) -> Option<[u8; 32]> {
        match self {
            Node::Hash(hash) => Some(*hash),
            Node::Copy => None,
        }
    }
}

type Level = BTreeMap<u64, Node>;

/// All nodes that are given or follow, from the transactions up to the level below the root, and the root.
pub(super) struct Tree {
    levels: Vec<Level>,
    root: Option<[u8; 32]>,
}

impl Tree {
    /// Computes what follows from `given`, and that it fits together.
    ///
    /// A path of one level lists all transactions of a small block, so there an odd number is completed as the block
    /// itself does it. Longer paths say where a node is a copy.
    pub(super) fn build(given: &[Vec<Leaf>]) -> Result<Tree, MerklePathError> {
        let first = given.first().ok_or(MerklePathError::Empty)?;
        let last_offset = first.iter().map(|leaf| leaf.offset).max().ok_or(MerklePathError::Empty)?;
        let whole_block = given.len() == 1;
        let height = if whole_block {
            u64::BITS.saturating_sub(last_offset.leading_zeros())
        } else {
            given.len() as u32
        };

        let mut tree = Tree { levels: Vec::new(), root: None };
        // What follows from the level below; at level 0 nothing does.
        let mut computed = Level::new();
        for level in 0..height {
            let name = u8::try_from(level).unwrap_or(u8::MAX);
            let mut nodes = Level::new();
            for leaf in given.get(level as usize).into_iter().flatten() {
                admit(&mut nodes, &computed, leaf, name)?;
            }
            nodes.append(&mut computed);
            if whole_block
                && let Some((&last, _)) = nodes.last_key_value()
                && last & 1 == 0
            {
                nodes.insert(last | 1, Node::Copy);
            }
            computed = parents(&nodes, name)?;
            tree.levels.push(nodes);
        }

        if height == 0 {
            // A block of one transaction, whose id is the root.
            let leaf = first.first().ok_or(MerklePathError::Empty)?;
            if first.len() > 1 {
                return Err(MerklePathError::DuplicateOffset { level: 0, offset: leaf.offset });
            }
            tree.root = leaf.node.hash();
            tree.levels.push(BTreeMap::from([(leaf.offset, leaf.node)]));
            return Ok(tree);
        }
        // All nodes met at offset 0 of the level above the last; any other offset is outside the tree.
        if let Some((&offset, _)) = computed.last_key_value()
            && offset > 0
        {
            return Err(MerklePathError::UselessOffset {
                level: u8::try_from(height).unwrap_or(u8::MAX),
                offset,
            });
        }
        tree.root = computed.get(&0).and_then(Node::hash);
        Ok(tree)
    }

    pub(super) fn root(&self) -> Result<[u8; 32], MerklePathError> {
        self.root.ok_or(MerklePathError::Empty)
    }

    /// Adds what another path of the same block knows.
    pub(super) fn join(&mut self, other: Tree) {
        // A path of one level computes as many levels as it needs, so the heights can differ only by what one of
        // them does not know; both have the same root.
        for (at, level) in other.levels.into_iter().enumerate() {
            match self.levels.get_mut(at) {
                Some(nodes) => {
                    for (offset, node) in level {
                        nodes.entry(offset).or_insert(node);
                    }
                }
                None => self.levels.push(level),
            }
        }
    }

    /// The hashes that prove the transactions at `offsets` and do not follow from each other.
    pub(super) fn shortest(&self, offsets: Vec<u64>) -> Vec<Vec<Leaf>> {
        let wanted: BTreeSet<u64> = offsets.into_iter().collect();
        let mut known = wanted.clone();
        let mut levels = Vec::with_capacity(self.levels.len());
        for (at, nodes) in self.levels.iter().enumerate() {
            let siblings = known.iter().map(|offset| offset ^ 1).filter(|offset| !known.contains(offset));
            let mut places: BTreeSet<u64> = siblings.collect();
            if at == 0 {
                places.extend(&wanted);
            }
            let leaf = |offset: u64| {
                let node = *nodes.get(&offset)?;
                Some(Leaf { offset, node, is_txid: at == 0 && wanted.contains(&offset) })
            };
            levels.push(places.into_iter().filter_map(leaf).collect());
            known = known.iter().map(|offset| offset >> 1).collect();
        }
        levels
    }
}

/// Takes a given node in, if it is needed and agrees with what follows from below.
fn admit(nodes: &mut Level, computed: &Level, leaf: &Leaf, level: u8) -> Result<(), MerklePathError> {
    let Leaf { offset, node, .. } = *leaf;
    if node == Node::Copy && offset & 1 == 0 {
        return Err(MerklePathError::BadDuplicate { level, offset });
    }
    if level > 0 && !computed.contains_key(&(offset ^ 1)) {
        return Err(MerklePathError::UselessOffset { level, offset });
    }
    match computed.get(&offset) {
        Some(known) if *known != node => return Err(MerklePathError::Contradiction { level, offset }),
        _ => {}
    }
    match nodes.insert(offset, node) {
        Some(_) => Err(MerklePathError::DuplicateOffset { level, offset }),
        None => Ok(()),
    }
}

/// The level above: every node needs its neighbour.
fn parents(nodes: &Level, level: u8) -> Result<Level, MerklePathError> {
    let mut above = Level::new();
    for (&offset, node) in nodes {
        let missing = || MerklePathError::MissingSibling { level, offset: offset ^ 1 };
        let neighbour = nodes.get(&(offset ^ 1)).ok_or_else(missing)?;
        if offset & 1 == 1 {
            // The left neighbour came first and did the work.
            continue;
        }
        let left = node.hash().ok_or(MerklePathError::BadDuplicate { level, offset })?;
        let right = neighbour.hash().unwrap_or(left);
        above.insert(offset >> 1, Node::Hash(parent(&left, &right)));
    }
    Ok(above)
}

/// The node above two nodes: the double SHA-256 of both.
pub fn parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut both = [0u8; 64];
    let (head, tail) = both.split_at_mut(32);
    head.copy_from_slice(left);
    tail.copy_from_slice(right);
    sha256d(&both)
}

fn level_above(level: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let pair = |pair: &[[u8; 32]]| match pair {
        [left, right] => Some(parent(left, right)),
        [last] => Some(parent(last, last)),
        _ => None,
    };
    level.chunks(2).filter_map(pair).collect()
}

/// The Merkle root of a block with these transactions, in internal order; all zero for none.
pub fn merkle_root(txids: &[Txid]) -> [u8; 32] {
    let mut level: Vec<[u8; 32]> = txids.iter().map(|txid| txid.0).collect();
    while level.len() > 1 {
        level = level_above(&level);
    }
    level.first().copied().unwrap_or_default()
}

/// For each level of a block's tree the node beside the way from the transaction at `index` to the root.
pub(super) fn siblings(txids: &[Txid], index: usize) -> Vec<Option<[u8; 32]>> {
    let mut level: Vec<[u8; 32]> = txids.iter().map(|txid| txid.0).collect();
    let mut at = index;
    let mut siblings = Vec::new();
    while level.len() > 1 {
        siblings.push(level.get(at ^ 1).copied());
        level = level_above(&level);
        at >>= 1;
    }
    siblings
}
