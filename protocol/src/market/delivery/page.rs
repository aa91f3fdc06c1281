//! Pages: readings with the proof that they are the ones that were ordered.
//!
//! A page is some runs of consecutive readings and one range proof under the order's checkpoint. The buyer keeps nothing of a page before
//! all of it verifies.

use serde::{Deserialize, Serialize};

use crate::stream::checkpoint::Checkpoint;
use crate::stream::chunk::{ChunkError, Run, Salts, open_page_stopping};
use crate::stream::leaf::{SALT_LEN, Salt};
use crate::stream::log::{Frontier, RangeProof};
use crate::stream::reading::Reading;
use crate::stream::schema::Schema;
use crate::stream::{CHUNK_LEN, seeds};

/// Most runs in one page.
pub const MAX_RUNS: usize = 64;

/// The proof unit of readings that are paid while they come: most bytes of columns and salts in a page of several runs. A single run, which is a chunk at
/// most, may be longer, because a chunk is what a seller keeps and what one secret opens. So nothing more than this, or one chunk, has come for nothing when
/// it shows that it is corrupt.
pub const PROOF_UNIT: usize = 16 * 1024;

/// Consecutive readings with their proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The readings, in order and without holes.
    pub runs: Vec<Run>,
    /// That they are in the log.
    pub proof: RangeProof,
}

/// A page that has been verified.
#[derive(Debug, Clone, PartialEq)]
pub struct ProvenPage {
    /// The readings: at least one, in order and without holes.
    pub readings: Vec<Reading>,
    /// The runs they came in, to keep.
    pub runs: Vec<Run>,
    /// The proof that they are in the log, to keep.
    pub proof: RangeProof,
}

/// Why a page is not what was ordered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// No runs, or too many.
    #[error("a page has 1 to {MAX_RUNS} runs, this one has {0}")]
    Runs(usize),
    /// Longer than a page that is paid while it comes may be.
    #[error(
        "the page has {bytes} bytes in {runs} runs: one that is paid while it comes has {PROOF_UNIT} at most, or a single run"
    )]
    AboveUnit {
        /// Bytes of columns and salts.
        bytes: usize,
        /// Runs in the page.
        runs: usize,
    },
    /// Begins elsewhere.
    #[error("the page begins with reading {found}, expected {expected}: readings are missing or repeated")]
    Begins {
        /// First sequence number in it.
        found: u64,
        /// Sequence number that is missing.
        expected: u64,
    },
    /// More than was ordered.
    #[error("the page has {count} readings from {first} on, only those below {end} are ordered")]
    TooMany {
        /// First sequence number.
        first: u64,
        /// Readings in the page.
        count: u64,
        /// End of the order.
        end: u64,
    },
    /// Readings, salts or proof do not lead to the checkpoint's root.
    #[error("the readings from {first} on: {source}")]
    NotProven {
        /// First sequence number.
        first: u64,
        /// What does not fit.
        source: Box<ChunkError>,
    },
}

impl Page {
    /// Opens the page and checks that it holds the readings from `first` on, at most up to `end`, of the log at `checkpoint`.
    ///
    /// # Errors
    /// [`DeliveryError`]; nothing of the page may be believed then.
    pub fn open(
        &self,
        schema: &Schema,
        checkpoint: &Checkpoint,
        first: u64,
        end: u64,
    ) -> Result<ProvenPage, DeliveryError> {
        let proof = &self.proof;
        self.open_with(proof, schema, checkpoint, (first, end), &[]).map(|(page, _)| page)
    }

    /// As [`Page::open`], with a proof from elsewhere, and answers the log's frontier at each of `stops`, in rising order, that the page reaches, and at its
    /// end.
    pub(super) fn open_with(
        &self,
        proof: &RangeProof,
        schema: &Schema,
        checkpoint: &Checkpoint,
        (first, end): (u64, u64),
        stops: &[u64],
    ) -> Result<(ProvenPage, Vec<Frontier>), DeliveryError> {
        let not_proven = |source| DeliveryError::NotProven { first, source: Box::new(source) };
        let count = self.count_from(first)?;
        if first.saturating_add(count) > end {
            return Err(DeliveryError::TooMany { first, count, end });
        }
        let (size, root) = (checkpoint.size, &checkpoint.root);
        let (readings, frontiers) =
            open_page_stopping(schema, &self.runs, first, count, proof, size, root, stops)
                .map_err(not_proven)?;
        Ok((ProvenPage { readings, runs: self.runs.clone(), proof: proof.clone() }, frontiers))
    }

    /// Checks that it is no more than a [`PROOF_UNIT`], as each page is that is paid while it comes. It costs nothing, so it comes before all other checks.
    pub(super) fn check_unit(&self) -> Result<(), DeliveryError> {
        let runs = self.runs.len();
        let bytes = self.runs.iter().map(bytes_of).fold(0, usize::saturating_add);
        if runs > 1 && bytes > PROOF_UNIT {
            return Err(DeliveryError::AboveUnit { bytes, runs });
        }
        Ok(())
    }

    /// How many readings the page says it has, which begins with `first`.
    pub(super) fn count_from(&self, first: u64) -> Result<u64, DeliveryError> {
        let Some(begins) = self.runs.first().map(|run| run.first).filter(|_| self.runs.len() <= MAX_RUNS)
        else {
            return Err(DeliveryError::Runs(self.runs.len()));
        };
        if begins != first {
            return Err(DeliveryError::Begins { found: begins, expected: first });
        }
        let mut count: u64 = 0;
        for run in &self.runs {
            let more = run.count();
            let more = more.map_err(|source| DeliveryError::NotProven { first, source: Box::new(source) })?;
            count = count.saturating_add(more);
        }
        Ok(count)
    }
}

impl ProvenPage {
    /// Sequence number after the last reading.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.readings.last().map_or(0, |reading| reading.seq.saturating_add(1))
    }
}

/// Bytes of a run as they count for a [`PROOF_UNIT`]: its columns, and what its salts follow from.
#[must_use]
pub fn bytes_of(run: &Run) -> usize {
    let salts = match &run.salts {
        Salts::Secret(secret) => secret.as_bytes().len(),
        Salts::Seeds(seeds) => seeds.len().saturating_mul(SALT_LEN),
        Salts::Each(salts) => salts.len().saturating_mul(SALT_LEN),
    };
    run.columns.len().saturating_add(salts)
}

/// The salt of each reading of a run; `count` is the number of its readings.
#[must_use]
pub fn salts_of(run: &Run, count: usize) -> Vec<Salt> {
    match &run.salts {
        Salts::Secret(secret) => secret.salts(run.first, count),
        Salts::Seeds(seeds) => seeds::grow(run.first % CHUNK_LEN, count, seeds).unwrap_or_default(),
        Salts::Each(salts) => salts.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(runs: &[(usize, usize)]) -> Page {
        let run = |&(columns, salts): &(usize, usize)| Run {
            first: 0,
            columns: vec![0; columns],
            salts: Salts::Seeds(vec![[0; SALT_LEN]; salts]),
        };
        Page { runs: runs.iter().map(run).collect(), proof: RangeProof { hashes: Vec::new() } }
    }

    #[test]
    fn several_runs_are_no_more_than_a_proof_unit_and_one_is_as_long_as_it_is() {
        let unit = |runs: &[(usize, usize)]| page(runs).check_unit();
        assert_eq!(unit(&[(20 * PROOF_UNIT, 0)]), Ok(()), "a chunk is not cut");
        assert_eq!(unit(&[(PROOF_UNIT - 1, 0), (1, 0)]), Ok(()));
        let above = |bytes, runs| Err(DeliveryError::AboveUnit { bytes, runs });
        assert_eq!(unit(&[(PROOF_UNIT, 0), (1, 0)]), above(PROOF_UNIT + 1, 2));
        // Salts are sent as well.
        assert_eq!(unit(&[(PROOF_UNIT - SALT_LEN, 0), (0, 1)]), Ok(()));
        assert_eq!(unit(&[(PROOF_UNIT - SALT_LEN, 1), (0, 1)]), above(PROOF_UNIT + SALT_LEN, 2));
    }
}
