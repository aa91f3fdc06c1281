//! Portable evidence: everything that shows that these readings were made by this seller and existed by that block, in one JSON file.
//!
//! Whoever has the file and the block headers can check it without us, the seller or the network: SHA-256 for the leaves and trees, one
//! ECDSA signature for the checkpoint, and any BSV library for the Atomic BEEF. The format is described field by field in
//! `docs/evidence.md`.

use sensora_chain::header::HeaderView;
use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Txid};
use serde::{Deserialize, Serialize};

use crate::ad::{MAX_NAME_LEN, check_line};
use crate::anchor::{AnchorError, AnchorProof, Standing};
use crate::codec::CodecError;
use crate::id::{Hash, StreamId};
use crate::identity::peer_id;
use crate::statement::{SignedBytes, StatementError};
use crate::stream::checkpoint::Checkpoint;
use crate::stream::leaf::{self, SALT_LEN, Salt};
use crate::stream::log::{ProofError, RangeProof, verify_range};
use crate::stream::reading::{Reading, ReadingError, Value};
use crate::stream::schema::{Kind, Schema, SchemaError};

/// What `format` says.
pub const FORMAT: &str = "sensora-evidence";
/// What `version` says.
pub const VERSION: u16 = 1;

/// An evidence file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Always [`FORMAT`].
    pub format: String,
    /// Version of the format.
    pub version: u16,
    /// Network of the statements and the chain: `main`, `test` or `regtest`.
    pub network: Network,
    /// Public key of the seller.
    pub seller: PublicKey,
    /// The stream.
    pub stream: EvidenceStream,
    /// The readings, in order and without holes.
    pub readings: Vec<EvidenceReading>,
    /// That the readings are in the log at the checkpoint.
    pub range_proof: RangeProof,
    /// The seller's signed word on the log.
    pub checkpoint: EvidenceCheckpoint,
    /// The way to the chain, where there is one yet.
    pub anchor: Option<EvidenceAnchor>,
}

/// The stream that readings are of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceStream {
    /// Id: follows from seller, name and schema.
    pub id: StreamId,
    /// The seller's name for it.
    pub name: String,
    /// What a reading holds.
    pub schema: Schema,
}

/// One reading and its salt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceReading {
    /// Sequence number.
    pub seq: u64,
    /// Nanoseconds since the Unix epoch, in decimal digits: more than many JSON readers keep exactly in a number.
    pub time_ns: String,
    /// One value for each field: number, boolean, text or null. Integers above 2⁵³ are exact only for readers that keep 64 bits.
    pub values: Vec<serde_json::Value>,
    /// Salt of the leaf, 16 bytes in hex.
    pub salt: String,
}

/// A signed checkpoint, with what it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceCheckpoint {
    /// Readings in the log.
    pub size: u64,
    /// Root of the log.
    pub root: Hash,
    /// The signed bytes; `size` and `root` repeat what they say.
    pub signed: SignedBytes,
}

/// The anchor, with what it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceAnchor {
    /// The anchor transaction.
    pub txid: Txid,
    /// Height of its block; null while it is not mined.
    pub height: Option<u32>,
    /// Header of that block, 80 bytes in hex; null while it is not mined. It repeats what a header chain says at `height`.
    pub header: Option<String>,
    /// Position, tree path and Atomic BEEF.
    pub proof: AnchorProof,
}

/// What a valid evidence file shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Peer id of the seller.
    pub seller: String,
    /// The stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// First sequence number.
    pub first: u64,
    /// Number of readings.
    pub count: u64,
    /// How firmly the readings stand.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Why an evidence file shows nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Another file.
    #[error("this is not a sensora evidence file of version {VERSION}: format `{format}`, version {version}")]
    Format {
        /// What it says it is.
        format: String,
        /// Which version.
        version: u16,
    },
    /// No readings.
    #[error("the evidence has no readings")]
    Empty,
    /// A hole in the sequence numbers.
    #[error("reading {expected} is missing: {found} follows (an omitted reading)")]
    Hole {
        /// Sequence number that has to come.
        expected: u64,
        /// Sequence number that comes.
        found: u64,
    },
    /// A reading that cannot be one.
    #[error("reading {seq}, field `{field}`: {reason}")]
    Reading {
        /// Its sequence number.
        seq: u64,
        /// The field of the file.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A value that the schema does not allow.
    #[error("reading {seq}: {source}")]
    Value {
        /// Its sequence number.
        seq: u64,
        /// What is wrong.
        source: ReadingError,
    },
    /// The name of the stream is none.
    #[error("the name of the stream {0}")]
    Name(String),
    /// The schema is not valid.
    #[error("the schema: {0}")]
    Schema(#[from] SchemaError),
    /// Something cannot be encoded.
    #[error("the evidence: {0}")]
    Encoding(#[from] CodecError),
    /// Id, name and schema do not belong together.
    #[error("the stream id {found} is not the one that seller, name and schema give ({expected})")]
    StreamId {
        /// Id in the file.
        found: StreamId,
        /// Id that follows.
        expected: StreamId,
    },
    /// The checkpoint is not signed by the seller.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The file's own summary contradicts the signed bytes.
    #[error("`{field}` in the file is not what the signed or proven bytes say")]
    Contradiction {
        /// Which field.
        field: &'static str,
    },
    /// The readings are not in the log: altered, omitted or of another stream.
    #[error(
        "the readings are not in the seller's log at {size} readings (altered, omitted or foreign): {source}"
    )]
    NotIncluded {
        /// Size of the checkpoint.
        size: u64,
        /// What the proof says.
        source: ProofError,
    },
    /// The anchor does not hold.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
}

impl EvidenceReading {
    /// The reading and its salt, as the file has them.
    #[must_use]
    pub fn new(reading: &Reading, salt: &Salt) -> Self {
        let values = reading.values.iter().map(to_json).collect();
        Self { seq: reading.seq, time_ns: reading.time.to_string(), values, salt: hex::encode(salt) }
    }

    /// The reading and its salt, as the leaf has them.
    ///
    /// # Errors
    /// [`EvidenceError::Reading`], [`EvidenceError::Value`].
    pub fn open(&self, schema: &Schema) -> Result<(Reading, Salt), EvidenceError> {
        let seq = self.seq;
        let wrong =
            |field: &str, reason: String| EvidenceError::Reading { seq, field: field.to_owned(), reason };
        let time = self.time_ns.parse().map_err(|_| {
            wrong("time_ns", format!("`{:.40}` is not a number of nanoseconds", self.time_ns))
        })?;
        let mut salt = [0; SALT_LEN];
        hex::decode_to_slice(&self.salt, &mut salt)
            .map_err(|_| wrong("salt", "is not 16 bytes of hex".into()))?;
        if self.values.len() != schema.fields.len() {
            let reason = format!("{} values for {} fields", self.values.len(), schema.fields.len());
            return Err(wrong("values", reason));
        }
        let values = schema.fields.iter().zip(&self.values);
        let values = values.map(|(field, value)| {
            of_json(field.kind, value).ok_or_else(|| {
                wrong(&field.name, format!("`{value:.60}` is no value of kind {:?}", field.kind))
            })
        });
        let reading = Reading { seq, time, values: values.collect::<Result<_, _>>()? };
        schema.check(&reading).map_err(|source| EvidenceError::Value { seq, source })?;
        Ok((reading, salt))
    }
}

/// A value as JSON has it.
#[must_use]
pub fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Text(value) => value.clone().into(),
    }
}

/// A value of a field of this kind from JSON; `None` where it is of another kind.
fn of_json(kind: Kind, value: &serde_json::Value) -> Option<Value> {
    match (kind, value) {
        (_, serde_json::Value::Null) => Some(Value::Null),
        (Kind::Bool, value) => value.as_bool().map(Value::Bool),
        (Kind::Int, value) => value.as_i64().map(Value::Int),
        (Kind::Float, value) => value.as_f64().map(Value::Float),
        (Kind::Text, value) => value.as_str().map(|text| Value::Text(text.to_owned())),
    }
}

impl Evidence {
    /// Checks all of it against block headers.
    ///
    /// # Errors
    /// [`EvidenceError`] names the first thing that does not hold.
    pub fn verify<H: HeaderView>(&self, headers: &H) -> Result<Verified, EvidenceError> {
        if self.format != FORMAT || self.version != VERSION {
            let format = self.format.chars().take(40).collect();
            return Err(EvidenceError::Format { format, version: self.version });
        }
        let (seller, stream) = (&self.seller, &self.stream);
        check_line(&stream.name, MAX_NAME_LEN, false).map_err(EvidenceError::Name)?;
        stream.schema.validate()?;
        let expected = StreamId::derive(self.network, seller, &stream.name, &stream.schema)?;
        if stream.id != expected {
            return Err(EvidenceError::StreamId { found: stream.id, expected });
        }
        let checkpoint = self.checkpoint.signed.clone().verify_by::<Checkpoint>(self.network, seller)?;
        let signed = checkpoint.value();
        let contradictions = [
            ("checkpoint.signed.body.stream", signed.stream != stream.id),
            ("checkpoint.size", signed.size != self.checkpoint.size),
            ("checkpoint.root", signed.root != self.checkpoint.root),
        ];
        if let Some((field, _)) = contradictions.into_iter().find(|(_, differs)| *differs) {
            return Err(EvidenceError::Contradiction { field });
        }
        let first = self.readings.first().ok_or(EvidenceError::Empty)?.seq;
        let mut leaves = Vec::with_capacity(self.readings.len());
        for (expected, reading) in (first..=u64::MAX).zip(&self.readings) {
            if reading.seq != expected {
                return Err(EvidenceError::Hole { expected, found: reading.seq });
            }
            let (reading, salt) = reading.open(&stream.schema)?;
            leaves.push(leaf::hash(&reading, &salt));
        }
        let size = signed.size;
        verify_range(&leaves, first, size, &self.range_proof, &signed.root)
            .map_err(|source| EvidenceError::NotIncluded { size, source })?;
        let standing = match &self.anchor {
            None => Standing::Signed,
            Some(anchor) => anchor.verify(&checkpoint, self.network, headers)?,
        };
        Ok(Verified {
            seller: peer_id(seller),
            stream: stream.id,
            name: stream.name.clone(),
            first,
            count: self.readings.len() as u64,
            standing,
        })
    }
}

impl EvidenceAnchor {
    fn verify<H: HeaderView>(
        &self,
        checkpoint: &crate::Signed<Checkpoint>,
        network: Network,
        headers: &H,
    ) -> Result<Standing, EvidenceError> {
        let standing = self.proof.verify(checkpoint, network, headers)?;
        let (txid, height) = match standing {
            Standing::Mined { txid, height } => (txid, Some(height)),
            Standing::Broadcast { txid } => (txid, None),
            Standing::Signed => return Err(EvidenceError::Contradiction { field: "anchor" }),
        };
        let header = height.and_then(|height| headers.header_at(height)).map(|header| hex::encode(header.0));
        let contradictions = [
            ("anchor.txid", self.txid != txid),
            ("anchor.height", self.height != height),
            ("anchor.header", self.header != header),
        ];
        match contradictions.into_iter().find(|(_, differs)| *differs) {
            Some((field, _)) => Err(EvidenceError::Contradiction { field }),
            None => Ok(standing),
        }
    }
}
