//! What a seller has signed about a stream: so many readings, with this root.
//!
//! Size and root fix every reading up to that size, and, as sequence numbers have no holes, that none is left out. Two checkpoints of
//! one stream that are not one log's prefix of the other prove that the seller rewrote its history.

use sensora_chain::Network;
use sensora_chain::keys::PublicKey;
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::id::{Hash, StreamId};
use crate::statement::{Statement, digest};
use crate::stream::schema::Schema;

/// A seller's signed word on the state of one stream's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The stream.
    pub stream: StreamId,
    /// Number of readings in the log; their sequence numbers are `0..size`.
    pub size: u64,
    /// Root of the log at that size (RFC 9162 §2.1.1).
    pub root: Hash,
    /// When it was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
}

impl Statement for Checkpoint {
    const NAME: &'static str = "sensora/checkpoint";
    const MAX_LEN: usize = 160;
}

impl StreamId {
    /// The id of the stream `name` of `seller` with this schema.
    ///
    /// First 16 bytes of the digest of the statement `sensora/stream` with the body `{name, schema, seller}`. A changed
    /// schema is another stream: readings of two shapes never share a log.
    ///
    /// # Errors
    /// When the schema cannot be encoded.
    pub fn derive(
        network: Network,
        seller: &PublicKey,
        name: &str,
        schema: &Schema,
    ) -> Result<Self, CodecError> {
        #[derive(Serialize)]
        struct Genesis<'a> {
            name: &'a str,
            schema: &'a Schema,
            seller: &'a PublicKey,
        }
        let body = codec::encode(&Genesis { name, schema, seller })?;
        let digest = digest("sensora/stream", 1, network, &body);
        let mut id = [0; StreamId::LEN];
        for (to, from) in id.iter_mut().zip(digest.as_bytes()) {
            *to = *from;
        }
        Ok(Self(id))
    }
}
