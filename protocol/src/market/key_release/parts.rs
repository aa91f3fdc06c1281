//! A batch in parts, each of which can be checked alone.
//!
//! The ordered range is cut at readings: part `i` holds some consecutive readings of one chunk and their range proof under the offer's
//! checkpoint, which is a [`Page`] of one run, in at most [`MAX_PART_LEN`] bytes. It is encrypted whole. The leaf of the tree that the
//! offer's root is of binds what stays in the clear with it:
//!
//! ```text
//! leaf = SHA-256(0x00 ‖ first (8 bytes) ‖ count (8 bytes) ‖ encrypted bytes)       integers big-endian
//! ```
//!
//! So the buyer sees before it pays that the parts follow each other and are the whole range ([`Arrivals`]), and one part with its path
//! is all that is needed to say, once the key is there, whether it is what was sold ([`ProvenPart::open`]).

#![warn(clippy::arithmetic_side_effects)]

use std::ops::Range;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::key::BatchKey;
use super::offer::BatchTerms;
use crate::codec::{self, CodecError};
use crate::id::Hash;
use crate::market::delivery::{DeliveryError, Page, ProvenPage};
use crate::statement::bytes_or_hex;
use crate::stream::CHUNK_LEN;
use crate::stream::checkpoint::Checkpoint;
use crate::stream::log::{InclusionProof, MemoryLog, ProofError, inclusion_proof, verify_inclusion};
use crate::stream::schema::Schema;

/// Longest part in bytes: 16 KiB hold a usual chunk whole, and keep a proof of misbehaviour, which has one part in it, small. A single
/// reading always fits: its row has at most 512 bytes and its proof 96 hashes.
pub const MAX_PART_LEN: usize = 16 * 1024;

/// Most readings in a part: a chunk. A part of 16 KiB that opened to more could cost its reader any amount of memory.
pub const MAX_PART_COUNT: u64 = CHUNK_LEN;

/// Most parts in a batch: 1 GiB of the longest. The seller keeps 64 bytes for each of them while it delivers.
pub const MAX_PARTS: u32 = 1 << 16;

/// Prefix of a leaf in the tree's hash (RFC 9162 §2.1.1).
const LEAF_PREFIX: u8 = 0x00;

/// An encrypted part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Which one, from 0.
    pub index: u32,
    /// Sequence number of its first reading.
    pub first: u64,
    /// Number of its readings.
    pub count: u64,
    /// The encrypted bytes.
    #[serde(with = "bytes_or_hex")]
    pub bytes: Vec<u8>,
}

/// An encrypted part, and that it is the one that was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenPart {
    /// The part.
    pub part: Part,
    /// That its leaf is in the offer's tree at its index.
    pub path: InclusionProof,
}

/// Why an encrypted part is not the one that comes next. Nothing was paid for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// Another part.
    #[error("part {found} came, part {expected} of {parts} is next")]
    Index {
        /// Which one came.
        found: u32,
        /// Which one is missing.
        expected: u32,
        /// How many there are.
        parts: u32,
    },
    /// Readings are left out or come twice.
    #[error("part {index} says that it begins with reading {found}, expected {expected}")]
    Begins {
        /// Which part.
        index: u32,
        /// What it says.
        found: u64,
        /// What is missing.
        expected: u64,
    },
    /// It ends where it cannot.
    #[error(
        "part {index} says that it has {count} readings from {first} on; {parts} parts end with reading {end}"
    )]
    Ends {
        /// Which part.
        index: u32,
        /// First sequence number.
        first: u64,
        /// Readings in it.
        count: u64,
        /// Parts of the batch.
        parts: u32,
        /// Sequence number after the last one of the batch.
        end: u64,
    },
    /// Too long, or empty.
    #[error("part {index} has {len} bytes, a part has 1 to {MAX_PART_LEN}")]
    Len {
        /// Which part.
        index: u32,
        /// Its bytes.
        len: usize,
    },
    /// Not the length that was offered.
    #[error("the parts up to {index} have {found} bytes, {offered} are offered for all of them")]
    Length {
        /// Which part.
        index: u32,
        /// Bytes up to here.
        found: u64,
        /// Bytes that were offered.
        offered: u64,
    },
    /// Not a part of this batch.
    #[error("part {index} is not in the offered batch: {source}")]
    NotOffered {
        /// Which part.
        index: u32,
        /// What its path says.
        source: ProofError,
    },
}

/// Why a decrypted part is not what was sold: each of these convicts the seller.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PartFault {
    /// What comes out is no page.
    #[error("it decrypts to no readings at all: {0}")]
    Garbage(#[from] CodecError),
    /// The readings are others, damaged, or not in the seller's log.
    #[error(transparent)]
    Readings(#[from] DeliveryError),
    /// Fewer readings than it says.
    #[error("it decrypts to the readings up to {found}, those up to {expected} are sold with it")]
    Short {
        /// Sequence number after the last one.
        found: u64,
        /// What that was to be.
        expected: u64,
    },
}

/// Why a batch cannot be sealed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError<E> {
    /// The readings cannot be had.
    #[error("the readings of the batch cannot be read")]
    Readings(#[source] E),
    /// They cannot be encoded.
    #[error(transparent)]
    Encoding(#[from] CodecError),
    /// A single reading with its proof is too long. It cannot be, unless the page is not of what was asked for.
    #[error("reading {first} takes {len} bytes with its proof, a part has at most {MAX_PART_LEN}")]
    TooLong {
        /// Its sequence number.
        first: u64,
        /// The bytes.
        len: usize,
    },
    /// More parts than a batch may have.
    #[error("the batch has more than {MAX_PARTS} parts: order fewer readings")]
    TooMany,
    /// What is stored is not what the checkpoint says. Whoever offered it would be convicted.
    #[error("the readings from {first} on are not what the checkpoint says, nothing is offered: {source}")]
    Damaged {
        /// First sequence number.
        first: u64,
        /// What is wrong.
        source: PartFault,
    },
    /// The part is not the one that was offered.
    #[error(
        "part {index} is not sealed as it was when it was offered: the stored readings or this program have changed; make a new offer"
    )]
    Changed {
        /// Which part.
        index: u32,
    },
}

impl Part {
    /// The leaf of the offer's tree.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        let hasher = Sha256::new().chain_update([LEAF_PREFIX]);
        let hasher = hasher.chain_update(self.first.to_be_bytes()).chain_update(self.count.to_be_bytes());
        Hash(hasher.chain_update(&self.bytes).finalize().into())
    }

    /// Sequence number after its last reading, as far as it says.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// Decrypts the part and checks that it holds exactly its readings, as they are in the log at the checkpoint. The same function
    /// for the seller before it offers, the buyer after it has paid, and whoever judges between them.
    ///
    /// # Errors
    /// [`PartFault`].
    pub fn open(
        &self,
        key: &BatchKey,
        schema: &Schema,
        checkpoint: &Checkpoint,
    ) -> Result<ProvenPage, PartFault> {
        let mut bytes = self.bytes.clone();
        key.apply(self.index, &mut bytes);
        let page: Page = codec::decode_exact(&bytes, MAX_PART_LEN)?;
        let end = self.first.saturating_add(self.count.min(MAX_PART_COUNT));
        let proven = page.open(schema, checkpoint, self.first, end)?;
        if proven.end() != self.end() {
            return Err(PartFault::Short { found: proven.end(), expected: self.end() });
        }
        Ok(proven)
    }
}

impl ProvenPart {
    /// Checks that the part is the one that was offered at its index.
    ///
    /// # Errors
    /// [`PartError::NotOffered`], [`PartError::Len`].
    pub fn check(&self, terms: &BatchTerms) -> Result<(), PartError> {
        let (index, len) = (self.part.index, self.part.bytes.len());
        if !(1..=MAX_PART_LEN).contains(&len) {
            return Err(PartError::Len { index, len });
        }
        verify_inclusion(&self.part.leaf(), index.into(), terms.parts.into(), &self.path, &terms.root)
            .map_err(|source| PartError::NotOffered { index, source })
    }

    /// Opens the part with the key; see [`Part::open`]. Nothing is said here of whether it is the one that was offered.
    ///
    /// # Errors
    /// [`PartFault`].
    pub fn open(&self, key: &BatchKey, terms: &BatchTerms) -> Result<ProvenPage, PartFault> {
        self.part.open(key, &terms.schema, &terms.checkpoint)
    }
}

/// How much of a batch has arrived. It takes three numbers, whatever the offer says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrivals {
    /// The part that is missing next.
    pub next: u32,
    /// Its first reading; 0 before the first part.
    pub seq: u64,
    /// Bytes of those that are here.
    pub length: u64,
}

impl Arrivals {
    /// Takes the next part: it is the one that was offered, begins where the one before it ends, and the last one ends the range and
    /// the length.
    ///
    /// # Errors
    /// [`PartError`]; nothing has changed.
    pub fn take(&mut self, part: &ProvenPart, terms: &BatchTerms) -> Result<(), PartError> {
        let (here, parts) = (&part.part, terms.parts);
        let (index, first, count) = (here.index, here.first, here.count);
        if index != self.next || index >= parts {
            return Err(PartError::Index { found: index, expected: self.next, parts });
        }
        let expected = if self.next == 0 { terms.first } else { self.seq };
        if first != expected {
            return Err(PartError::Begins { index, found: first, expected });
        }
        let (is_last, end) = (index.saturating_add(1) == parts, terms.end);
        let fits = if is_last { here.end() == end } else { here.end() < end };
        if !fits || !(1..=MAX_PART_COUNT).contains(&count) {
            return Err(PartError::Ends { index, first, count, parts, end });
        }
        let (length, offered) = (self.length.saturating_add(here.bytes.len() as u64), terms.length);
        if length > offered || (is_last && length != offered) {
            return Err(PartError::Length { index, found: length, offered });
        }
        part.check(terms)?;
        *self = Self { next: index.saturating_add(1), seq: here.end(), length };
        Ok(())
    }

    /// Whether all parts are here.
    #[must_use]
    pub const fn is_complete(&self, terms: &BatchTerms) -> bool {
        self.next >= terms.parts
    }
}

/// Cuts and encrypts a batch, part by part, in memory for one part and the tree. The same readings under the same key give the same
/// parts, so that nothing has to be kept between the offer and the delivery.
#[derive(Debug)]
pub struct Sealer<'a> {
    key: &'a BatchKey,
    schema: &'a Schema,
    checkpoint: &'a Checkpoint,
    first: u64,
    next: u64,
    end: u64,
    tree: MemoryLog,
    length: u64,
    /// Readings that are tried for one part at most: a chunk, or where that was too long, about as many as have fit.
    most: u64,
}

impl<'a> Sealer<'a> {
    /// Begins a batch of these readings.
    #[must_use]
    pub const fn new(
        key: &'a BatchKey,
        schema: &'a Schema,
        checkpoint: &'a Checkpoint,
        range: Range<u64>,
    ) -> Self {
        let (first, next, end) = (range.start, range.start, range.end);
        Self {
            key,
            schema,
            checkpoint,
            first,
            next,
            end,
            tree: MemoryLog::new(),
            length: 0,
            most: MAX_PART_COUNT,
        }
    }

    /// The next part; `None` after the last one. `page` makes the page of some readings of one chunk, proven under the checkpoint. The
    /// part is opened again before it is given out: whoever offers what it has not checked risks a conviction for its own disk.
    ///
    /// # Errors
    /// [`SealError`]; the batch is not to be offered.
    pub fn seal<E>(
        &mut self,
        mut page: impl FnMut(Range<u64>) -> Result<Page, E>,
    ) -> Result<Option<Part>, SealError<E>> {
        let first = self.next;
        if first >= self.end {
            return Ok(None);
        }
        let index = u32::try_from(self.tree.size()).ok().filter(|index| *index < MAX_PARTS);
        let index = index.ok_or(SealError::TooMany)?;
        // Halves of a chunk are subtrees of the log, which keeps their proofs short.
        let in_chunk = CHUNK_LEN.saturating_sub(first.checked_rem(CHUNK_LEN).unwrap_or(0));
        let whole = in_chunk.min(self.end.saturating_sub(first));
        let mut count = whole.min(self.most);
        let (count, mut bytes) = loop {
            let page = page(first..first.saturating_add(count)).map_err(SealError::Readings)?;
            let bytes = codec::encode(&page)?;
            match (bytes.len(), count) {
                (..=MAX_PART_LEN, _) => break (count, bytes),
                (len, ..=1) => return Err(SealError::TooLong { first, len }),
                _ => count = count.div_ceil(2),
            }
        };
        if count < whole {
            // The next one is about as large. Twice as many are tried again, for readings differ.
            self.most = count.saturating_mul(2);
        }
        self.key.apply(index, &mut bytes);
        let part = Part { index, first, count, bytes };
        part.open(self.key, self.schema, self.checkpoint)
            .map_err(|source| SealError::Damaged { first, source })?;
        self.next = part.end();
        self.length = self.length.saturating_add(part.bytes.len() as u64);
        self.tree.push(part.leaf());
        Ok(Some(part))
    }

    /// The sealed batch, after the last part.
    #[must_use]
    pub fn finish(self) -> Batch {
        Batch {
            tree: self.tree,
            length: self.length,
            range: self.first..self.next,
            key_hash: self.key.hash(),
            schema: self.schema.clone(),
            checkpoint: self.checkpoint.clone(),
        }
    }
}

/// A sealed batch: what an offer says of it, and the paths of its parts.
#[derive(Debug, Clone)]
pub struct Batch {
    tree: MemoryLog,
    length: u64,
    range: Range<u64>,
    key_hash: Hash,
    schema: Schema,
    checkpoint: Checkpoint,
}

impl Batch {
    /// Seals a whole batch and drops the parts: what an offer needs. See [`Sealer::seal`].
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal<E>(
        mut sealer: Sealer<'_>,
        mut page: impl FnMut(Range<u64>) -> Result<Page, E>,
    ) -> Result<Self, SealError<E>> {
        while sealer.seal(&mut page)?.is_some() {}
        Ok(sealer.finish())
    }

    /// Root of the tree over the parts.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// Number of parts.
    #[must_use]
    pub fn parts(&self) -> u32 {
        // The sealer refuses more than MAX_PARTS.
        u32::try_from(self.tree.size()).unwrap_or(u32::MAX)
    }

    /// Bytes of all parts.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The readings that are sealed.
    #[must_use]
    pub const fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// SHA-256 of the key that opens it.
    #[must_use]
    pub const fn key_hash(&self) -> Hash {
        self.key_hash
    }

    /// The schema and the checkpoint that every part was opened under.
    #[must_use]
    pub const fn opened_under(&self) -> (&Schema, &Checkpoint) {
        (&self.schema, &self.checkpoint)
    }

    /// The part with its path, as it is sent.
    ///
    /// # Errors
    /// [`SealError::Changed`]: it is not a part of this batch.
    pub fn prove<E>(&self, part: Part) -> Result<ProvenPart, SealError<E>> {
        let (index, size) = (part.index, self.tree.size());
        let path =
            inclusion_proof(&self.tree, index.into(), size).map_err(|_| SealError::Changed { index })?;
        verify_inclusion(&part.leaf(), index.into(), size, &path, &self.root())
            .map_err(|_| SealError::Changed { index })?;
        Ok(ProvenPart { part, path })
    }
}
