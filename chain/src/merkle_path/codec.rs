//! The bytes of a path: block height, number of levels, and for each level its hashes with their places (BRC-74).

use super::{Leaf, MAX_TREE_HEIGHT, MerklePath, MerklePathError, Node};
use crate::encode::{DecodeError, Reader, write_varint};

const FLAG_HASH: u8 = 0;
const FLAG_COPY: u8 = 1;
const FLAG_TXID: u8 = 2;

/// Offset and flag.
const MIN_LEAF_SIZE: usize = 2;

impl MerklePath {
    /// Reads one path out of a longer run of bytes.
    ///
    /// # Errors
    /// As [`MerklePath::parse`].
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, MerklePathError> {
        let height = reader.varint("a block height")?;
        let block_height = u32::try_from(height)
            .map_err(|_| DecodeError::OutOfRange { what: "a block height", value: height })?;
        let tree_height = reader.u8("a tree height")?;
        if tree_height > MAX_TREE_HEIGHT {
            let (count, max) = (u64::from(tree_height), u64::from(MAX_TREE_HEIGHT));
            return Err(DecodeError::TooMany { what: "levels", count, max }.into());
        }
        let mut levels = Vec::with_capacity(usize::from(tree_height));
        for _ in 0..tree_height {
            let count = reader.count(MIN_LEAF_SIZE, "hashes")?;
            let mut leaves = Vec::with_capacity(count);
            for _ in 0..count {
                leaves.push(read_leaf(reader)?);
            }
            levels.push(leaves);
        }
        Self::checked(block_height, levels)
    }

    /// The path's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Appends the path's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_varint(out, u64::from(self.block_height));
        // Every way to make a path bounds its levels by `MAX_TREE_HEIGHT`.
        out.push(u8::try_from(self.levels.len()).unwrap_or(u8::MAX));
        for level in &self.levels {
            write_varint(out, level.len() as u64);
            for leaf in level {
                write_varint(out, leaf.offset);
                match leaf.node {
                    Node::Copy => out.push(FLAG_COPY),
                    Node::Hash(hash) => {
                        out.push(if leaf.is_txid { FLAG_TXID } else { FLAG_HASH });
                        out.extend_from_slice(&hash);
                    }
                }
            }
        }
    }
}

fn read_leaf(reader: &mut Reader<'_>) -> Result<Leaf, DecodeError> {
    let offset = reader.varint("an offset")?;
    let flag = reader.u8("a leaf's flag")?;
    let node = match flag {
        FLAG_HASH | FLAG_TXID => Node::Hash(reader.array("a hash")?),
        FLAG_COPY => Node::Copy,
        _ => return Err(DecodeError::OutOfRange { what: "a leaf's flag", value: u64::from(flag) }),
    };
    Ok(Leaf { offset, node, is_txid: flag == FLAG_TXID })
}
