//! The headers of the best chain, by height and by hash: 80 bytes each and an index of 8, and cheap to share.
//!
//! A copy shares everything with the original until one of them is changed, and then all but what the change touches:
//! the piece of the chain at its end, and the parts of the index that hold the new hashes. So a reader can hold the chain
//! as it was while blocks come, and neither waits for the other.

use std::sync::Arc;

use super::work::Work;
use super::{Header, Tip};
use crate::id::BlockHash;

/// Headers in one piece, 40 kB: little to copy with each block, few enough pieces that copying the list of them does not
/// matter (2,000 for a million headers).
const PIECE: usize = 512;

/// Parts of the index. A block touches one of them: 8 kB of a million headers.
const PARTS: usize = 1024;

#[derive(Clone, Debug)]
struct Piece {
    /// All work of the chain before this piece.
    before: Work,
    /// Full, except in the last piece.
    headers: Vec<Header>,
}

impl Piece {
    fn empty(before: Work) -> Arc<Self> {
        Arc::new(Self { before, headers: Vec::with_capacity(PIECE) })
    }
}

/// Headers in a row, of which there is always one.
#[derive(Clone, Debug)]
pub(super) struct Best {
    base_height: u32,
    pieces: Vec<Arc<Piece>>,
    tip: Tip,
    /// All work, from the first header on.
    work: Work,
    index: Index,
}

impl Best {
    /// Begins with one header.
    pub(super) fn new(base_height: u32, header: Header) -> Self {
        let hash = header.hash();
        let tip = Tip { height: base_height, hash };
        let mut best = Self {
            base_height,
            pieces: vec![Piece::empty(Work::ZERO)],
            tip,
            work: Work::ZERO,
            index: Index::new(),
        };
        best.put(tip, header, header.work());
        best
    }

    pub(super) const fn base_height(&self) -> u32 {
        self.base_height
    }

    pub(super) const fn tip(&self) -> Tip {
        self.tip
    }

    pub(super) const fn work(&self) -> Work {
        self.work
    }

    /// The header after the last; `work` is all of it up to and with this one. False if there is no height for it.
    pub(super) fn push(&mut self, hash: BlockHash, header: Header, work: Work) -> bool {
        let Some(height) = self.tip.height.checked_add(1) else { return false };
        self.put(Tip { height, hash }, header, work);
        true
    }

    fn put(&mut self, tip: Tip, header: Header, work: Work) {
        if self.pieces.last().is_none_or(|last| last.headers.len() >= PIECE) {
            self.pieces.push(Piece::empty(self.work));
        }
        if let Some(last) = self.pieces.last_mut() {
            let last = Arc::make_mut(last);
            // A copy of a piece has only the room for what is in it.
            last.headers.reserve_exact(PIECE.saturating_sub(last.headers.len()));
            last.headers.push(header);
        }
        self.tip = tip;
        self.work = work;
        self.index.insert(&tip.hash, tip.height);
    }

    /// Where a height is: the piece, and the place in it.
    fn place(&self, height: u32) -> Option<(usize, usize)> {
        if height > self.tip.height {
            return None;
        }
        let index = usize::try_from(height.checked_sub(self.base_height)?).ok()?;
        Some((index / PIECE, index % PIECE))
    }

    pub(super) fn at(&self, height: u32) -> Option<Header> {
        let (piece, place) = self.place(height)?;
        self.pieces.get(piece)?.headers.get(place).copied()
    }

    /// The hash of the header at `height`; the one after it names it.
    pub(super) fn hash_at(&self, height: u32) -> Option<BlockHash> {
        if height == self.tip.height {
            return Some(self.tip.hash);
        }
        // Not the hash of what comes before the first header, which the first names.
        self.place(height)?;
        Some(self.at(height.checked_add(1)?)?.previous())
    }

    pub(super) fn height_of(&self, hash: &BlockHash) -> Option<u32> {
        self.index.candidates(hash).find(|height| self.hash_at(*height).is_some_and(|found| found == *hash))
    }

    /// All work from the first header up to and with the one at `height`.
    pub(super) fn work_at(&self, height: u32) -> Option<Work> {
        if height == self.tip.height {
            return Some(self.work);
        }
        let (piece, place) = self.place(height)?;
        let piece = self.pieces.get(piece)?;
        let mut adder = Adder::new(piece.before);
        for header in piece.headers.get(..=place)? {
            adder.add(header);
        }
        Some(adder.sum)
    }

    /// Headers from `height` to the last, in their order.
    pub(super) fn from(&self, height: u32) -> impl Iterator<Item = &Header> {
        let (piece, place) = self.place(height.max(self.base_height)).unwrap_or((usize::MAX, 0));
        let pieces = self.pieces.iter().skip(piece);
        pieces.flat_map(|piece| piece.headers.iter()).skip(place)
    }

    /// Takes off everything above `height`, which stays; gives it from below, each with its hash and all work up to it.
    pub(super) fn truncate(&mut self, height: u32) -> Vec<(BlockHash, Header, Work)> {
        let (Some((piece, place)), Some(work), Some(hash)) =
            (self.place(height), self.work_at(height), self.hash_at(height))
        else {
            return Vec::new();
        };
        let above = height.saturating_add(1);
        let mut adder = Adder::new(work);
        let mut taken: Vec<(BlockHash, Header, Work)> = Vec::new();
        for header in self.from(above) {
            if let Some((last, ..)) = taken.last_mut() {
                *last = header.previous();
            }
            adder.add(header);
            taken.push((self.tip.hash, *header, adder.sum));
        }
        for ((hash, ..), height) in taken.iter().zip(above..) {
            self.index.remove(hash, height);
        }
        self.pieces.truncate(piece.saturating_add(1));
        if let Some(last) = self.pieces.last_mut() {
            Arc::make_mut(last).headers.truncate(place.saturating_add(1));
        }
        self.tip = Tip { height, hash };
        self.work = work;
        taken
    }
}

/// Adds up the work of headers in a row; neighbours often have the same difficulty, and reading one is a long division.
#[derive(Debug)]
pub(super) struct Adder {
    sum: Work,
    last: Option<(u32, Work)>,
}

impl Adder {
    /// From what there was before.
    pub(super) const fn new(sum: Work) -> Self {
        Self { sum, last: None }
    }

    /// All work with that of this header.
    pub(super) fn add(&mut self, header: &Header) -> Work {
        let bits = header.bits();
        let own = match self.last {
            Some((last, own)) if last == bits => own,
            _ => header.work(),
        };
        self.last = Some((bits, own));
        self.sum = self.sum.plus(own);
        self.sum
    }
}

/// From hashes to heights, without the hashes: they are in the headers.
///
/// An entry is 32 bits of the hash above 32 bits of height, sorted. Hashes that share those bits and the part are told
/// apart by looking at their headers. Among a million there is hardly a pair; who makes one on purpose tries 2⁴² hashes to
/// cost us one more look.
#[derive(Clone, Debug)]
struct Index {
    parts: Vec<Arc<Vec<u64>>>,
}

impl Index {
    fn new() -> Self {
        // All the same empty part, until something is put in.
        Self { parts: vec![Arc::default(); PARTS] }
    }

    /// The part that a hash belongs to, and its entry at height 0. The first bytes of a block's hash are those that its
    /// work leaves to chance.
    fn entry(hash: &BlockHash) -> (usize, u64) {
        let [a, b, tag @ .., _, _] = hash.0.first_chunk::<8>().copied().unwrap_or_default();
        let part = usize::from(u16::from_le_bytes([a, b])) % PARTS;
        (part, u64::from(u32::from_le_bytes(tag)) << 32)
    }

    fn insert(&mut self, hash: &BlockHash, height: u32) {
        let (part, tag) = Self::entry(hash);
        let Some(part) = self.parts.get_mut(part) else { return };
        let part = Arc::make_mut(part);
        let entry = tag | u64::from(height);
        if part.len() == part.capacity() {
            // An eighth more, where doubling would leave half of the index empty.
            part.reserve_exact((part.len() / 8).max(4));
        }
        if let Err(place) = part.binary_search(&entry) {
            part.insert(place, entry);
        }
    }

    fn remove(&mut self, hash: &BlockHash, height: u32) {
        let (part, tag) = Self::entry(hash);
        let Some(part) = self.parts.get_mut(part) else { return };
        if let Ok(place) = part.binary_search(&(tag | u64::from(height))) {
            Arc::make_mut(part).remove(place);
        }
    }

    /// Heights at which the hash may be.
    fn candidates(&self, hash: &BlockHash) -> impl Iterator<Item = u32> {
        let (part, tag) = Self::entry(hash);
        let part = self.parts.get(part).map(|part| part.as_slice()).unwrap_or_default();
        let start = part.partition_point(|entry| *entry < tag);
        let same =
            part.get(start..).unwrap_or_default().iter().take_while(move |entry| *entry >> 32 == tag >> 32);
        // The lower half is the height.
        same.map(|entry| u32::try_from(entry & u64::from(u32::MAX)).unwrap_or(u32::MAX))
    }
}
