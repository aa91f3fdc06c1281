//! Merkle paths (BUMP, BRC-74): the proof that transactions are in a block whose header is known.
//!
//! A path is checked when it is made: every hash in it leads to one and the same root, and nothing in it is left
//! over. What the root is worth is not decided here; see [`crate::spv`].

mod codec;
mod tree;
pub mod tsc;

use crate::encode::{DecodeError, Reader};
use crate::id::Txid;
use tree::{Node, Tree};

pub use tree::{merkle_root, parent};
pub use tsc::{TscError, TscProof};

/// The most levels a path can have: a block with 2⁶⁴ transactions, more than anybody can write.
pub const MAX_TREE_HEIGHT: u8 = 64;

/// Why bytes or leaves make no Merkle path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MerklePathError {
    /// The bytes are not a BUMP.
    #[error("the Merkle path cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// No transaction in it.
    #[error("the Merkle path holds no transaction")]
    Empty,
    /// Two leaves at one place.
    #[error("the Merkle path has two hashes for offset {offset} of level {level}")]
    DuplicateOffset {
        /// Level, 0 for the transactions.
        level: u8,
        /// Place in the level.
        offset: u64,
    },
    /// A hash that no transaction in the path needs, or a place outside the tree.
    #[error(
        "the Merkle path has a hash at offset {offset} of level {level} that none of its transactions needs"
    )]
    UselessOffset {
        /// Level, 0 for the transactions.
        level: u8,
        /// Place in the level.
        offset: u64,
    },
    /// A hash that is needed is not there.
    #[error("the Merkle path lacks the hash at offset {offset} of level {level}")]
    MissingSibling {
        /// Level, 0 for the transactions.
        level: u8,
        /// Place in the level.
        offset: u64,
    },
    /// A hash differs from what the level below gives.
    #[error("the hash at offset {offset} of level {level} of the Merkle path contradicts the level below")]
    Contradiction {
        /// Level, 0 for the transactions.
        level: u8,
        /// Place in the level.
        offset: u64,
    },
    /// Only the right one of two nodes can be a copy of the other.
    #[error(
        "the Merkle path marks offset {offset} of level {level} as a copy, which only an odd offset can be"
    )]
    BadDuplicate {
        /// Level, 0 for the transactions.
        level: u8,
        /// Place in the level.
        offset: u64,
    },
    /// The paths are of different blocks.
    #[error("the Merkle paths belong to different blocks (heights {0} and {1}) or their roots differ")]
    DifferentBlocks(u32, u32),
    /// The transaction is not in the path.
    #[error("the Merkle path does not prove transaction {0}")]
    NotProven(Txid),
}

/// One hash in a path, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaf {
    offset: u64,
    node: Node,
    /// The hash is a transaction that the path is there to prove.
    is_txid: bool,
}

/// A checked proof that transactions are in a block; see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MerklePath {
    block_height: u32,
    /// As written, so that bytes survive a round trip.
    levels: Vec<Vec<Leaf>>,
    root: [u8; 32],
}

impl MerklePath {
    /// Parses exactly one path.
    ///
    /// # Errors
    /// [`MerklePathError`] if the bytes are no path, or the path does not lead to one root.
    pub fn parse(bytes: &[u8]) -> Result<Self, MerklePathError> {
        let mut reader = Reader::new(bytes);
        let path = Self::read(&mut reader)?;
        reader.finish("the Merkle path")?;
        Ok(path)
    }

    /// The proof for one transaction in the form of getmerkleproof2 and "TSC": its place in the block, and the hash
    /// beside it on each level from below, `None` where the services write `*` for a copy.
    ///
    /// # Errors
    /// [`MerklePathError`] if the place does not fit the number of levels.
    pub fn from_tsc(
        block_height: u32,
        txid: Txid,
        index: u64,
        nodes: &[Option<[u8; 32]>],
    ) -> Result<Self, MerklePathError> {
        if nodes.len() > usize::from(MAX_TREE_HEIGHT) {
            return Err(DecodeError::TooMany {
                what: "levels",
                count: nodes.len() as u64,
                max: u64::from(MAX_TREE_HEIGHT),
            }
            .into());
        }
        let mut levels: Vec<Vec<Leaf>> = nodes
            .iter()
            .zip(0u32..)
            .map(|(node, level)| {
                let node = node.map_or(Node::Copy, Node::Hash);
                vec![Leaf { offset: index.wrapping_shr(level) ^ 1, node, is_txid: false }]
            })
            .collect();
        if levels.is_empty() {
            levels.push(Vec::new());
        }
        if let Some(first) = levels.first_mut() {
            first.push(Leaf { offset: index, node: Node::Hash(txid.0), is_txid: true });
            first.sort_by_key(|leaf| leaf.offset);
        }
        Self::checked(block_height, levels)
    }

    /// The proof for the transaction at `index` of a block with these transactions.
    ///
    /// # Errors
    /// [`MerklePathError::Empty`] if there is no such transaction.
    pub fn for_block(block_height: u32, txids: &[Txid], index: usize) -> Result<Self, MerklePathError> {
        let txid = *txids.get(index).ok_or(MerklePathError::Empty)?;
        Self::from_tsc(block_height, txid, index as u64, &tree::siblings(txids, index))
    }

    /// The height that the path says its block has.
    pub const fn block_height(&self) -> u32 {
        self.block_height
    }

    /// The Merkle root that every hash in the path leads to, in internal order.
    pub const fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// The root, if the path proves `txid`.
    pub fn root_for(&self, txid: &Txid) -> Option<[u8; 32]> {
        self.offset_of(txid).map(|_| self.root)
    }

    /// The transaction's place in the block, if the path proves it.
    pub fn offset_of(&self, txid: &Txid) -> Option<u64> {
        let hash = Node::Hash(txid.0);
        self.levels.first()?.iter().find(|leaf| leaf.node == hash).map(|leaf| leaf.offset)
    }

    /// The transactions that the path is there to prove (a neighbour's hash is proven too, but not meant).
    pub fn txids(&self) -> Vec<Txid> {
        let marked = |leaf: &Leaf| leaf.node.hash().filter(|_| leaf.is_txid).map(Txid);
        self.levels.iter().take(1).flatten().filter_map(marked).collect()
    }

    /// How many levels of hashes are written.
    pub fn tree_height(&self) -> usize {
        self.levels.len()
    }

    /// The shortest path for these transactions alone.
    ///
    /// # Errors
    /// [`MerklePathError::NotProven`] for one that the path does not prove, [`MerklePathError::Empty`] for none.
    pub fn extract(&self, txids: &[Txid]) -> Result<Self, MerklePathError> {
        let offsets: Vec<u64> = txids
            .iter()
            .map(|txid| self.offset_of(txid).ok_or(MerklePathError::NotProven(*txid)))
            .collect::<Result<_, _>>()?;
        if offsets.is_empty() {
            return Err(MerklePathError::Empty);
        }
        Self::checked(self.block_height, self.tree()?.shortest(offsets))
    }

    /// Joins the proofs of two paths of one block into the shortest path for the transactions of both.
    ///
    /// # Errors
    /// [`MerklePathError::DifferentBlocks`] if height or root differ.
    pub fn merge(&mut self, other: &MerklePath) -> Result<(), MerklePathError> {
        if self.block_height != other.block_height || self.root != other.root {
            return Err(MerklePathError::DifferentBlocks(self.block_height, other.block_height));
        }
        let mut tree = self.tree()?;
        tree.join(other.tree()?);
        let marked = self.levels.iter().take(1).chain(other.levels.iter().take(1)).flatten();
        let offsets = marked.filter(|leaf| leaf.is_txid).map(|leaf| leaf.offset).collect();
        *self = Self::checked(self.block_height, tree.shortest(offsets))?;
        Ok(())
    }

    fn checked(block_height: u32, levels: Vec<Vec<Leaf>>) -> Result<Self, MerklePathError> {
        let root = Tree::build(&levels)?.root()?;
        Ok(MerklePath { block_height, levels, root })
    }

    fn tree(&self) -> Result<Tree, MerklePathError> {
        Tree::build(&self.levels)
    }
}

crate::bytes_serde::impl_bytes_serde!(MerklePath, "a Merkle path", MerklePath::to_bytes, |b| {
    MerklePath::parse(b).map_err(|e| e.to_string())
});

#[cfg(test)]
mod tests;
