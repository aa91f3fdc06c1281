//! Block headers, and the chain of them that has the most work: what a Merkle root is worth.
//!
//! The proof of work and the difficulty rules of every header are checked here. What is not: that a header's time is
//! plausible against today's clock, which the caller has.

mod best;
mod chain;
mod checkpoint;
mod rules;
mod work;

use std::fmt;

use crate::encode::sha256d;
use crate::id::BlockHash;
use crate::network::Network;

pub(crate) use chain::confirmations;
pub use chain::{Connected, HeaderChain, MAX_SIDE_HEADERS, Reorg, Tip};
pub use rules::CHECKPOINT_HEADERS;
pub use work::{Target, Work};

/// Why headers were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not a run of whole headers.
    #[error("a run of headers has a multiple of 80 bytes, this has {0}")]
    Length(usize),
    /// Nothing to attach it to.
    #[error("header {hash} builds on {previous}, which is not known; send the headers before it")]
    UnknownParent {
        /// The header.
        hash: BlockHash,
        /// Its parent.
        previous: BlockHash,
    },
    /// The hash is not below the target.
    #[error("header {0} does not have the proof of work that it claims")]
    ProofOfWork(BlockHash),
    /// Another difficulty than the rules ask for.
    #[error("header {hash} has difficulty bits {found:08x}, the rules ask for {expected:08x}")]
    Bits {
        /// The header.
        hash: BlockHash,
        /// What the rules ask for.
        expected: u32,
        /// What it has.
        found: u32,
    },
    /// A fork from before the first header that is kept.
    #[error(
        "header {hash} competes with the header at height {height} that everything here builds on, and never can \
         replace it; a node that has it follows another chain"
    )]
    BesideBase {
        /// The header.
        hash: BlockHash,
        /// The first height that is kept.
        height: u32,
    },
    /// One does not follow the one before it.
    #[error("header {0} does not follow the header before it")]
    NotInARow(BlockHash),
    /// Not after the median of the eleven headers before it.
    #[error("header {0} is dated before the median of the eleven headers before it")]
    TimeTooOld(BlockHash),
    /// The heights are used up.
    #[error("header {0} has a height that cannot exist")]
    Height(BlockHash),
    /// The chain cannot be followed from its first block.
    #[error(
        "the {0} network changed its rules too often to follow it from its first block; start from its checkpoint"
    )]
    NeedsCheckpoint(Network),
    /// The checkpoint has too few headers to compute the next difficulty from.
    #[error("a checkpoint needs {need} headers in a row to compute the difficulty from, this has {found}")]
    CheckpointTooShort {
        /// How many there are.
        found: usize,
        /// How many it takes.
        need: usize,
    },
}

/// The 80 bytes of a block's header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header(pub [u8; 80]);

impl Header {
    /// Bytes of a header.
    pub const SIZE: usize = 80;

    /// A header of these fields; `previous` and `merkle_root` in internal order.
    pub fn new(
        version: u32,
        previous: BlockHash,
        merkle_root: [u8; 32],
        time: u32,
        bits: u32,
        nonce: u32,
    ) -> Self {
        let mut bytes = Vec::with_capacity(Self::SIZE);
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&previous.0);
        bytes.extend_from_slice(&merkle_root);
        for field in [time, bits, nonce] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        // The fields have 80 bytes in all.
        Header(bytes.try_into().unwrap_or([0; 80]))
    }

    /// A header from its 80 bytes.
    ///
    /// # Errors
    /// [`HeaderError::Length`] for any other number.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        bytes.try_into().map(Header).map_err(|_| HeaderError::Length(bytes.len()))
    }

    /// Headers from a run of them without anything between.
    ///
    /// # Errors
    /// [`HeaderError::Length`] if the last is not whole.
    pub fn parse_run(bytes: &[u8]) -> Result<Vec<Self>, HeaderError> {
        let (headers, rest) = bytes.as_chunks::<80>();
        if rest.is_empty() {
            Ok(headers.iter().copied().map(Header).collect())
        } else {
            Err(HeaderError::Length(bytes.len()))
        }
    }

    /// The first header of the regtest network.
    pub fn regtest_genesis() -> Self {
        const MERKLE_ROOT: [u8; 32] = [
            0x3b, 0xa3, 0xed, 0xfd, 0x7a, 0x7b, 0x12, 0xb2, 0x7a, 0xc7, 0x2c, 0x3e, 0x67, 0x76, 0x8f, 0x61,
            0x7f, 0xc8, 0x1b, 0xc3, 0x88, 0x8a, 0x51, 0x32, 0x3a, 0x9f, 0xb8, 0xaa, 0x4b, 0x1e, 0x5e, 0x4a,
        ];
        Header::new(1, BlockHash([0; 32]), MERKLE_ROOT, 1_296_688_602, 0x207f_ffff, 2)
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        // Every caller names a field inside the 80 bytes.
        self.0.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    /// The block's version bits.
    pub fn version(&self) -> u32 {
        u32::from_le_bytes(self.field(0))
    }

    /// The hash of the header before this.
    pub fn previous(&self) -> BlockHash {
        BlockHash(self.field(4))
    }

    /// The root of the block's transactions, in internal order.
    pub fn merkle_root(&self) -> [u8; 32] {
        self.field(36)
    }

    /// When the miner says the block was made, in seconds since the Unix epoch.
    pub fn time(&self) -> u32 {
        u32::from_le_bytes(self.field(68))
    }

    /// The target in its short form.
    pub fn bits(&self) -> u32 {
        u32::from_le_bytes(self.field(72))
    }

    /// The number that was searched for.
    pub fn nonce(&self) -> u32 {
        u32::from_le_bytes(self.field(76))
    }

    /// The same header with another nonce, for whoever mines.
    #[must_use]
    pub fn with_nonce(mut self, nonce: u32) -> Self {
        if let Some(field) = self.0.last_chunk_mut::<4>() {
            *field = nonce.to_le_bytes();
        }
        self
    }

    /// The block's hash.
    pub fn hash(&self) -> BlockHash {
        BlockHash(sha256d(&self.0))
    }

    /// The expected number of hashes it took to find this header; none if its target is not valid.
    pub fn work(&self) -> Work {
        Target::from_bits(self.bits()).map_or(Work::ZERO, |target| target.work())
    }

    /// Whether the hash is not above the target that the header itself names, and that target not above the
    /// network's limit.
    pub fn meets_target(&self, network: Network) -> bool {
        self.meets_target_with(network, &self.hash())
    }

    /// As [`Header::meets_target`], where the hash is known.
    fn meets_target_with(&self, network: Network, hash: &BlockHash) -> bool {
        Target::from_bits(self.bits())
            .is_some_and(|target| target <= Target::limit(network) && target.is_met_by(hash))
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({})", self.hash())
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

crate::bytes_serde::impl_bytes_serde!(Header, "a block header", |h: &Header| h.0, |b| {
    Header::parse(b).map_err(|e| e.to_string())
});

/// The headers that a verifier believes.
pub trait HeaderView {
    /// The header at `height` of the best chain, if there is one and it is kept.
    fn header_at(&self, height: u32) -> Option<Header>;

    /// The height of the best chain's last header.
    fn tip_height(&self) -> u32;
}

impl<V: HeaderView + ?Sized> HeaderView for &V {
    fn header_at(&self, height: u32) -> Option<Header> {
        (**self).header_at(height)
    }

    fn tip_height(&self) -> u32 {
        (**self).tip_height()
    }
}

#[cfg(test)]
mod tests;
