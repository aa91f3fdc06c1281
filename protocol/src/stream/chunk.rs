//! Chunks and runs: how readings are sealed, kept and handed over.
//!
//! The readings of a stream are cut into chunks of [`CHUNK_LEN`] at multiples of it, so that a full chunk is one perfect subtree
//! of the stream's log: its root stands for it in every proof. A delivery is made of [`Run`]s: a whole chunk with the chunk's
//! secret, or some consecutive readings with what their salts follow from and no others: a few seeds, or a salt for each.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::columns::{self, ColumnsError, MAX_COUNT};
use super::completeness::{CompletenessError, Coverage};
use super::leaf::{ChunkSecret, LeafHasher, SALT_LEN, Salt, StreamSecret};
use super::log::{Frontier, ProofError, RangeProof, RangeVerifier, root_of_leaves};
use super::reading::Reading;
use super::schema::Schema;
use super::seeds::{self, MAX_SEEDS, SEED_LEN, Seed};
use crate::id::Hash;

/// Level of a full chunk's root in the log.
pub const CHUNK_LEVEL: u8 = 10;

/// Readings in a full chunk: 1024. Enough that the columns compress and a proof is small beside them, and few enough that
/// the longest rows still fit into a frame of 1 MiB.
pub const CHUNK_LEN: u64 = 1 << CHUNK_LEVEL;

/// Most readings that are opened at once: 64 chunks.
///
/// A frame bounds the bytes of a page, not its readings: columns that are all empty or all alike shrink to almost nothing.
/// Opened, a reading takes about 100 bytes and 32 for each further field, so that this is 7 MiB for one field and 70 MiB for the
/// most fields that a schema may have.
pub const MAX_PAGE_COUNT: u64 = 64 * CHUNK_LEN;

/// A full chunk as the seller keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedChunk {
    /// Which chunk: it begins with sequence number `index` · [`CHUNK_LEN`].
    pub index: u64,
    /// Its readings; see [`columns`].
    #[serde(with = "serde_bytes")]
    pub columns: Vec<u8>,
    /// Root of the subtree of its leaves.
    pub root: Hash,
}

/// Consecutive readings as they are handed over: at most a chunk of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Sequence number of the first reading.
    pub first: u64,
    /// The readings; see [`columns`].
    #[serde(with = "serde_bytes")]
    pub columns: Vec<u8>,
    /// What their leaves were salted with.
    pub salts: Salts,
}

/// The salts of a run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Salts {
    /// The secret of the chunk. Only for exactly one full chunk, because it tells the salts of all of it.
    Secret(
        #[serde(serialize_with = "serialize_secret", deserialize_with = "deserialize_secret")] ChunkSecret,
    ),
    /// The seeds that the salts of these readings grow from, and no others: see [`seeds`].
    Seeds(#[serde(serialize_with = "serialize_salts", deserialize_with = "deserialize_seeds")] Vec<Seed>),
    /// One salt for each reading.
    Each(#[serde(serialize_with = "serialize_salts", deserialize_with = "deserialize_salts")] Vec<Salt>),
}

/// Readings that were opened, with the leaves that they lead to.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenRun {
    /// The readings: at least one, at most a chunk, without holes.
    pub readings: Vec<Reading>,
    /// The leaf hash of each reading.
    pub leaves: Vec<Hash>,
}

/// Why a chunk or a run cannot be made or opened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// The readings cannot be encoded or decoded.
    #[error("the readings from {first} on cannot be read or written")]
    Columns {
        /// First sequence number.
        first: u64,
        /// What is wrong.
        #[source]
        error: ColumnsError,
    },
    /// Not exactly the readings of one full chunk.
    #[error("{count} readings from {first} on are not one full chunk of {CHUNK_LEN}")]
    NotOneChunk {
        /// First sequence number.
        first: u64,
        /// How many.
        count: usize,
    },
    /// Another number of salts than readings.
    #[error("the run from {first} on has {readings} readings and {salts} salts")]
    SaltCount {
        /// First sequence number.
        first: u64,
        /// Readings in the run.
        readings: usize,
        /// Salts in the run.
        salts: usize,
    },
    /// Seeds that are not those of exactly these readings.
    #[error("the run from {first} on has {seeds} seeds, which are not those of {readings} readings there")]
    SeedCount {
        /// First sequence number.
        first: u64,
        /// Readings in the run.
        readings: usize,
        /// Seeds in the run.
        seeds: usize,
    },
    /// The readings do not lead to the chunk's root.
    #[error("chunk {index} does not have the root {root}: the stored chunk or its secret is damaged")]
    WrongRoot {
        /// Which chunk.
        index: u64,
        /// The root it should have.
        root: Hash,
    },
    /// More readings than are opened at once.
    #[error("a page of {count} readings is over the limit of {MAX_PAGE_COUNT}; ask for it in several")]
    PageTooLarge {
        /// How many.
        count: u64,
    },
    /// Not the readings that were bought.
    #[error(transparent)]
    Incomplete(#[from] CompletenessError),
    /// The readings are not in the log.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl SealedChunk {
    /// Seals the readings of a full chunk.
    ///
    /// # Errors
    /// When they are not exactly those of one chunk, or do not fit the schema.
    pub fn seal(schema: &Schema, readings: &[Reading], secret: &ChunkSecret) -> Result<Self, ChunkError> {
        let first = readings.first().map_or(0, |reading| reading.seq);
        let count = readings.len();
        if !is_one_chunk(first, count) {
            return Err(ChunkError::NotOneChunk { first, count });
        }
        let columns = encode(schema, readings)?;
        let leaves = leaves(readings, &secret.salts(first, count));
        Ok(Self { index: first / CHUNK_LEN, columns, root: root_of_leaves(&leaves) })
    }

    /// Sequence number of its first reading.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.index.saturating_mul(CHUNK_LEN)
    }

    /// Opens the chunk and checks its root.
    ///
    /// # Errors
    /// When the bytes are damaged, or the secret is another chunk's.
    pub fn open(&self, schema: &Schema, secret: &ChunkSecret) -> Result<OpenRun, ChunkError> {
        let open = self.to_run(secret).open(schema)?;
        if root_of_leaves(&open.leaves) != self.root {
            return Err(ChunkError::WrongRoot { index: self.index, root: self.root });
        }
        Ok(open)
    }

    /// The whole chunk as it is handed over. The columns are passed on as they are stored.
    #[must_use]
    pub fn to_run(&self, secret: &ChunkSecret) -> Run {
        Run { first: self.first(), columns: self.columns.clone(), salts: Salts::Secret(secret.clone()) }
    }
}

impl Run {
    /// A run of these consecutive readings: with the chunk's secret if they are exactly one full chunk, else with a salt for
    /// each.
    ///
    /// # Errors
    /// When there are none or more than a chunk, they are not consecutive, or one does not fit the schema.
    pub fn new(schema: &Schema, readings: &[Reading], secret: &StreamSecret) -> Result<Self, ChunkError> {
        let columns = encode(schema, readings)?;
        let first = readings.first().map_or(0, |reading| reading.seq);
        let salts = if is_one_chunk(first, readings.len()) {
            Salts::Secret(secret.chunk(first / CHUNK_LEN))
        } else {
            let seeds = secret.chunk(first / CHUNK_LEN).seeds(first, readings.len());
            seeds.map_or_else(|| Salts::Each(salts(first, readings.len(), secret)), Salts::Seeds)
        };
        Ok(Self { first, columns, salts })
    }

    /// How many readings it says it has.
    ///
    /// # Errors
    /// When its columns do not begin as columns do.
    pub fn count(&self) -> Result<u64, ChunkError> {
        match columns::count(&self.columns) {
            Ok(count) => Ok(count as u64),
            Err(error) => Err(ChunkError::Columns { first: self.first, error }),
        }
    }

    /// Decodes the readings without their leaves, for who has made the run itself.
    ///
    /// # Errors
    /// When the bytes are damaged, or a reading does not fit the schema.
    pub fn readings(&self, schema: &Schema) -> Result<Vec<Reading>, ChunkError> {
        let first = self.first;
        let decoded = columns::decode(schema, &self.columns, first, MAX_COUNT);
        decoded.map_err(|error| ChunkError::Columns { first, error })
    }

    /// Decodes the readings and computes their leaves. Whether these are in the log is for a [`RangeProof`] to show.
    ///
    /// # Errors
    /// When the bytes are damaged, a reading does not fit the schema, or the salts do not fit the readings.
    pub fn open(&self, schema: &Schema) -> Result<OpenRun, ChunkError> {
        let first = self.first;
        let damaged = |error| ChunkError::Columns { first, error };
        let count = columns::count(&self.columns).map_err(damaged)?;
        let salts = match &self.salts {
            Salts::Secret(_) if !is_one_chunk(first, count) => {
                return Err(ChunkError::NotOneChunk { first, count });
            }
            Salts::Secret(secret) => &secret.salts(first, count),
            Salts::Seeds(seeds) => {
                let grown = seeds::grow(first % CHUNK_LEN, count, seeds);
                &grown.ok_or(ChunkError::SeedCount { first, readings: count, seeds: seeds.len() })?
            }
            Salts::Each(salts) if salts.len() != count => {
                return Err(ChunkError::SaltCount { first, readings: count, salts: salts.len() });
            }
            Salts::Each(salts) => salts,
        };
        let readings = self.readings(schema)?;
        let leaves = leaves(&readings, salts);
        Ok(OpenRun { readings, leaves })
    }
}

impl OpenRun {
    /// Sequence number of the first reading.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.readings.first().map_or(0, |reading| reading.seq)
    }
}

/// Opens the runs of a page and checks that they are the `count` readings from `first` on of the log of `size` readings
/// with this root: none altered, none left out, none from elsewhere. At most [`MAX_PAGE_COUNT`] readings; a longer range comes
/// in several pages, each with its own proof.
///
/// # Errors
/// The first thing that is wrong. Nothing of the page may be believed then.
pub fn open_page(
    schema: &Schema,
    runs: &[Run],
    first: u64,
    count: u64,
    proof: &RangeProof,
    size: u64,
    root: &Hash,
) -> Result<Vec<Reading>, ChunkError> {
    open_page_stopping(schema, runs, first, count, proof, size, root, &[]).map(|(readings, _)| readings)
}

/// As [`open_page`], and answers the log's frontier at each of `stops`, in rising order, that the page reaches, and at the page's end.
///
/// # Errors
/// As [`open_page`].
#[expect(clippy::too_many_arguments, reason = "each is a separate fact of the page")]
pub fn open_page_stopping(
    schema: &Schema,
    runs: &[Run],
    first: u64,
    count: u64,
    proof: &RangeProof,
    size: u64,
    root: &Hash,
    stops: &[u64],
) -> Result<(Vec<Reading>, Vec<Frontier>), ChunkError> {
    if count > MAX_PAGE_COUNT {
        return Err(ChunkError::PageTooLarge { count });
    }
    // What the runs say of themselves is cheap to check, so it comes before the work.
    let mut coverage = Coverage::new(first, count)?;
    for run in runs {
        coverage.add(run.first, run.count()?)?;
    }
    coverage.finish()?;
    let mut verifier = RangeVerifier::new(first, count, size, proof)?;
    let (mut readings, mut frontiers) = (Vec::new(), Vec::new());
    let mut stops = stops.iter().filter(|stop| **stop >= first).peekable();
    for run in runs {
        let open = run.open(schema)?;
        let mut leaves = open.leaves.as_slice();
        while let Some(stop) = stops.peek() {
            let until = usize::try_from(stop.saturating_sub(verifier.next())).unwrap_or(usize::MAX);
            let Some((before, after)) = leaves.split_at_checked(until) else { break };
            verifier.push_leaves(before)?;
            frontiers.push(verifier.frontier().clone());
            leaves = after;
            stops.next();
        }
        verifier.push_leaves(leaves)?;
        readings.extend(open.readings);
    }
    frontiers.push(verifier.frontier().clone());
    verifier.verify(root)?;
    Ok((readings, frontiers))
}

/// Leaf hashes of readings of any chunks, for the log's unsealed end.
#[must_use]
pub fn salted_leaves(readings: &[Reading], secret: &StreamSecret) -> Vec<Hash> {
    let first = readings.first().map_or(0, |reading| reading.seq);
    leaves(readings, &salts(first, readings.len(), secret))
}

/// Salts of consecutive readings, across chunks.
fn salts(first: u64, count: usize, secret: &StreamSecret) -> Vec<Salt> {
    let mut salts = Vec::with_capacity(count);
    let mut next = first;
    while salts.len() < count {
        let chunk = secret.chunk(next / CHUNK_LEN).salts(next, count - salts.len());
        next = next.saturating_add(chunk.len() as u64);
        salts.extend(chunk);
    }
    salts
}

fn leaves(readings: &[Reading], salts: &[Salt]) -> Vec<Hash> {
    let mut hasher = LeafHasher::new();
    readings.iter().zip(salts).map(|(reading, salt)| hasher.hash(reading, salt)).collect()
}

fn encode(schema: &Schema, readings: &[Reading]) -> Result<Vec<u8>, ChunkError> {
    let first = readings.first().map_or(0, |reading| reading.seq);
    columns::encode(schema, readings).map_err(|error| ChunkError::Columns { first, error })
}

const fn is_one_chunk(first: u64, count: usize) -> bool {
    first.is_multiple_of(CHUNK_LEN) && count as u64 == CHUNK_LEN
}

impl fmt::Debug for Salts {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret(…)"),
            Self::Seeds(seeds) => write!(f, "Seeds({} seeds)", seeds.len()),
            Self::Each(salts) => write!(f, "Each({} salts)", salts.len()),
        }
    }
}

fn serialize_secret<S: Serializer>(secret: &ChunkSecret, serializer: S) -> Result<S::Ok, S::Error> {
    serde_bytes::serialize(secret.as_bytes(), serializer)
}

fn deserialize_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ChunkSecret, D::Error> {
    let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
    let wrong = || serde::de::Error::invalid_length(bytes.len(), &"a secret of 32 bytes or a seed of 16");
    ChunkSecret::from_slice(&bytes).ok_or_else(wrong)
}

/// All salts, or seeds, in one byte string.
fn serialize_salts<S: Serializer>(salts: &[Salt], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(salts.as_flattened())
}

fn deserialize_salts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Salt>, D::Error> {
    let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
    match bytes.as_chunks::<SALT_LEN>() {
        (salts, []) if (1..=MAX_COUNT).contains(&salts.len()) => Ok(salts.to_vec()),
        _ => Err(serde::de::Error::invalid_length(bytes.len(), &"16 bytes for each of 1 to 1024 readings")),
    }
}

fn deserialize_seeds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Seed>, D::Error> {
    let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
    match bytes.as_chunks::<SEED_LEN>() {
        (seeds, []) if (1..=MAX_SEEDS).contains(&seeds.len()) => Ok(seeds.to_vec()),
        _ => Err(serde::de::Error::invalid_length(bytes.len(), &"1 to 26 seeds of 16 bytes")),
    }
}
