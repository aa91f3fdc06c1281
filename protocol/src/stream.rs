//! Streams of readings: what a seller records, commits to and delivers, and how a buyer checks each of them.
//!
//! A [`reading::Reading`] that fits the stream's [`schema::Schema`] is hashed into a [`leaf`] of the stream's append-only
//! [`log`]. Readings are kept and moved in [`chunk`]s, column by column ([`columns`]). A buyer opens what it received, recomputes
//! the leaves, and checks with one range proof that they are in the log ([`log::RangeVerifier`]) and that none was left out
//! ([`completeness`]).

pub mod checkpoint;
pub mod chunk;
pub mod columns;
pub mod completeness;
pub mod leaf;
pub mod log;
pub mod reading;
pub mod schema;
pub mod seeds;
pub mod unit;

pub use chunk::{CHUNK_LEN, ChunkError, OpenRun, Run, Salts, SealedChunk};
pub use leaf::{ChunkSecret, Salting, StreamSecret};
pub use log::{Frontier, MemoryLog, Nodes, RangeProof, RangeVerifier};
pub use reading::{Reading, ReadingError, Value};
pub use schema::{Field, Kind, Schema, SchemaError};
pub use unit::Unit;
