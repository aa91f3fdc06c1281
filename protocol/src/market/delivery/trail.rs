//! How a live stream proves itself with few bytes: what both sides know from the frames before is not said again.
//!
//! A buyer that has verified the readings before some position knows the log's frontier there, which are the hashes left of the next page in its range
//! proof. So only the hashes right of a page travel, and none where a page ends where its checkpoint does. This shows more than inclusion: the readings of
//! the new checkpoint follow exactly those that the buyer has. Whether a checkpoint continues the one before it (RFC 9162 §2.1.4) needs no proof of its
//! own either: when the readings under the older one are all here, its root must be that of the frontier.

#![warn(clippy::arithmetic_side_effects)]

use sensora_chain::Network;
use sensora_chain::keys::PublicKey;
use serde::{Deserialize, Serialize};

use super::frame::ToBuyer;
use super::receive::ReceiveError;
use super::{Page, ProvenPage};
use crate::id::Hash;
use crate::statement::{Signed, SignedBytes};
use crate::stream::checkpoint::Checkpoint;
use crate::stream::log::{Frontier, RangeProof};
use crate::stream::schema::Schema;

/// Most checkpoints that a buyer keeps for readings that are not here yet. A seller that sends all readings under one before it takes the next adds one for
/// each stream that broke. Beyond this the newest takes the place of the one before it; the oldest is always held to.
pub const MAX_PROMISED: usize = 4;

/// A signed checkpoint, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// Readings under it.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// What the seller signed.
    pub checkpoint: SignedBytes,
}

/// Two checkpoints of one stream, both signed by its seller, of which one does not continue the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The one that came first.
    pub earlier: SignedBytes,
    /// The one that came later.
    pub later: SignedBytes,
}

impl Fork {
    /// Whether the two convict the seller by themselves, before whoever reads them: the same stream and size, and two roots. Where the sizes differ, the
    /// readings between them are needed, too.
    #[must_use]
    pub fn convicts(&self, network: Network, seller: &PublicKey) -> bool {
        let open = |bytes: &SignedBytes| bytes.clone().verify_by::<Checkpoint>(network, seller);
        let (Ok(earlier), Ok(later)) = (open(&self.earlier), open(&self.later)) else { return false };
        let (earlier, later) = (earlier.value(), later.value());
        (earlier.stream, earlier.size) == (later.stream, later.size) && earlier.root != later.root
    }
}

/// What a buyer of a live stream holds the next page against. It is part of the purchase's durable record: stored with the readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// The frontier of the log before the next reading: the roots of its largest perfect subtrees.
    peaks: Vec<Hash>,
    /// The newest checkpoint.
    last: Promised,
    /// Checkpoints of readings that are not all here, by size.
    promised: Vec<Promised>,
}

impl Trail {
    /// Opens a page of a live stream, the readings from `first` on, and answers it with its whole proof, and the trail after it. `before` is the trail so
    /// far, none before the first page; `signed` the checkpoint that it comes under. At most up to `end`.
    pub(super) fn follow(
        before: Option<&Self>,
        page: &Page,
        schema: &Schema,
        signed: &Signed<Checkpoint>,
        (first, end): (u64, u64),
    ) -> Result<(ProvenPage, Self), ReceiveError> {
        let checkpoint = signed.value();
        let newest =
            Promised { size: checkpoint.size, root: checkpoint.root, checkpoint: signed.bytes().clone() };
        let forked = |earlier: &Promised| {
            let (earlier, later) = (earlier.checkpoint.clone(), newest.checkpoint.clone());
            ReceiveError::Forked { fork: Box::new(Fork { earlier, later }) }
        };
        let known = before.map(|before| &before.last).into_iter();
        let known = known.chain(before.iter().flat_map(|before| &before.promised));
        for earlier in known {
            if earlier.size == newest.size && earlier.root != newest.root {
                return Err(forked(earlier));
            }
        }
        if let Some(last) = before.map(|before| &before.last).filter(|last| last.size > newest.size) {
            return Err(ReceiveError::OlderCheckpoint { size: newest.size, last: last.size });
        }
        let whole = before.map(|before| before.whole(page, checkpoint.size, first)).transpose()?;
        let proof = whole.as_ref().unwrap_or(&page.proof);
        let open = before.map_or_else(Vec::new, |before| before.promised.clone());
        let stops: Vec<u64> = open.iter().map(|promised| promised.size).collect();
        let end = end.min(checkpoint.size);
        let (proven, frontiers) = page.open_with(proof, schema, checkpoint, (first, end), &stops)?;
        if let Some(before) = before
            && proof.hashes.get(..before.peaks.len()) != Some(before.peaks.as_slice())
        {
            return Err(forked(&before.last));
        }
        for frontier in &frontiers {
            let here = open.iter().filter(|promised| promised.size == frontier.size());
            for promised in here {
                if promised.root != frontier.root() {
                    return Err(forked(promised));
                }
            }
        }
        let peaks = frontiers.last().map_or_else(Vec::new, |frontier: &Frontier| frontier.peaks().to_vec());
        let mut promised = open;
        promised.retain(|promised| promised.size > proven.end());
        if newest.size > proven.end() && promised.last().is_none_or(|last| last.size < newest.size) {
            if promised.len() >= MAX_PROMISED {
                promised.pop();
            }
            promised.push(newest.clone());
        }
        Ok((proven, Self { peaks, last: newest, promised }))
    }

    /// The page's proof with the hashes left of it, which it may leave out.
    fn whole(&self, page: &Page, size: u64, first: u64) -> Result<RangeProof, ReceiveError> {
        let end = first.saturating_add(page.count_from(first)?);
        let right = RangeProof::right_of(end.min(size), size);
        if page.proof.hashes.len() != right {
            return Ok(page.proof.clone());
        }
        let hashes = self.peaks.iter().chain(&page.proof.hashes).copied().collect();
        Ok(RangeProof { hashes })
    }
}

/// What a seller has said on one stream of a live order, and need not say again. One for each stream: a new one begins with everything.
#[derive(Debug, Clone, Default)]
pub struct LivePages {
    last: Option<Signed<Checkpoint>>,
}

impl LivePages {
    /// Nothing is said.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: None }
    }

    /// The checkpoint for a page that begins with reading `first`: the one before as long as it has readings from there on. None where it takes a newer one,
    /// which then has them.
    #[must_use]
    pub fn checkpoint(&self, first: u64) -> Option<&Signed<Checkpoint>> {
        self.last.as_ref().filter(|last| first < last.value().size)
    }

    /// The frame for a page with its whole proof under this checkpoint. Pages follow each other without holes on one stream.
    pub fn frame(&mut self, checkpoint: &Signed<Checkpoint>, mut page: Page) -> ToBuyer {
        let is_first = self.last.is_none();
        let is_new = self.last.as_ref().is_none_or(|last| last.bytes() != checkpoint.bytes());
        if !is_first {
            let first = page.runs.first().map_or(0, |run| run.first);
            let left = RangeProof::left_of(first).min(page.proof.hashes.len());
            page.proof.hashes.drain(..left);
        }
        if is_new {
            self.last = Some(checkpoint.clone());
        }
        ToBuyer::Live { checkpoint: is_new.then(|| checkpoint.bytes().clone()), page }
    }
}
