//! Proof of misbehaviour: that a seller offered a part which is not what it sold, for anybody to check without a network.
//!
//! It has the signed offer, one encrypted part with its path, and the key. The offer binds all of these, so what the part decrypts to
//! is the seller's own doing: if that is not the readings which the offer's checkpoint commits to, the offer was a lie. Nothing of
//! an honest seller's can be put together to such a proof, short of a collision of SHA-256 or a forged signature; the argument is in
//! `docs/payments.md`. Whether the seller was paid is another question, which the chain answers.

use sensora_chain::Network;
use sensora_chain::keys::PublicKey;
use serde::{Deserialize, Serialize};

use super::key::BatchKey;
use super::offer::{BatchTerms, KeyReleaseOffer, KeyReleaseOfferError};
use super::parts::{MAX_PART_LEN, PartError, PartFault, ProvenPart};
use crate::codec::{self, CodecError};
use crate::id::{Hash, StreamId};
use crate::identity::peer_id;
use crate::market::refusal::MAX_TEXT;
use crate::statement::{SignedBytes, Statement, StatementError};
use crate::stream::log::MAX_INCLUSION_HASHES;

/// What `format` says.
pub const FORMAT: &str = "sensora-misbehaviour";
/// What `version` says.
pub const VERSION: u16 = 1;

/// Longest proof in bytes: a part of 16 KiB, an offer of 8 KiB, a path, and room for what holds them together.
pub const MAX_PROOF_LEN: usize = 32 * 1024;
/// Longest proof as JSON, where a byte is two hex digits.
pub const MAX_JSON_LEN: usize = 2 * MAX_PROOF_LEN;

const _: () =
    assert!(MAX_PART_LEN + KeyReleaseOffer::MAX_LEN + 34 * MAX_INCLUSION_HASHES + 1024 < MAX_PROOF_LEN);

/// A proof of misbehaviour: one deterministic CBOR item, or a JSON file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MisbehaviourProof {
    /// Always [`FORMAT`].
    pub format: String,
    /// Version of the format.
    pub version: u16,
    /// Network of the offer: `main`, `test` or `regtest`.
    pub network: Network,
    /// Who is accused.
    pub seller: PublicKey,
    /// The signed [`KeyReleaseOffer`].
    pub offer: SignedBytes,
    /// The encrypted part and its path.
    pub part: ProvenPart,
    /// The key that was shown for it.
    pub key: BatchKey,
}

/// What a valid proof shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conviction {
    /// Peer id of the seller.
    pub seller: String,
    /// Digest of the offer.
    pub offer: Hash,
    /// The stream.
    pub stream: StreamId,
    /// Which part.
    pub part: u32,
    /// First of the readings that were sold with it.
    pub first: u64,
    /// Their number.
    pub count: u64,
    /// What is wrong with it, in words.
    pub fault: String,
}

/// Why a proof shows nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MisbehaviourError {
    /// Not a proof at all.
    #[error("this is not a proof of misbehaviour: {0}")]
    Encoding(#[from] CodecError),
    /// Another file.
    #[error(
        "this is not a sensora proof of misbehaviour of version {VERSION}: format `{format}`, version {version}"
    )]
    Format {
        /// What it says it is.
        format: String,
        /// Which version.
        version: u16,
    },
    /// The offer is not signed by the accused.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// No buyer would have taken the offer.
    #[error("the offer is none that a buyer could take, so it shows nothing: {0}")]
    Offer(Box<KeyReleaseOfferError>),
    /// Another key.
    #[error("the key is not the one of the offer: its SHA-256 is {found}, offered is {offered}")]
    Key {
        /// Hash of the key in the proof.
        found: Hash,
        /// Hash in the offer.
        offered: Hash,
    },
    /// The part is not the seller's.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The part is what was sold.
    #[error(
        "part {index} decrypts to the {count} readings from {first} on, as they were sold: the seller did nothing wrong with it"
    )]
    Innocent {
        /// Which part.
        index: u32,
        /// First sequence number.
        first: u64,
        /// Number of readings.
        count: u64,
    },
}

impl MisbehaviourProof {
    /// Puts a proof together. Whether it shows anything is for [`MisbehaviourProof::verify`] to say.
    #[must_use]
    pub fn new(network: Network, offer: SignedBytes, part: ProvenPart, key: BatchKey) -> Self {
        let seller = offer.key;
        Self { format: FORMAT.into(), version: VERSION, network, seller, offer, part, key }
    }

    /// Checks all of it. The cheap checks come first; the part is opened when all else holds.
    ///
    /// # Errors
    /// [`MisbehaviourError`]: the proof shows nothing against the seller.
    pub fn verify(&self) -> Result<Conviction, MisbehaviourError> {
        if self.format != FORMAT || self.version != VERSION {
            let format = self.format.chars().take(40).collect();
            return Err(MisbehaviourError::Format { format, version: self.version });
        }
        let offer = self.offer.clone().verify_by::<KeyReleaseOffer>(self.network, &self.seller)?;
        let terms =
            BatchTerms::of(&offer, self.network).map_err(|e| MisbehaviourError::Offer(Box::new(e)))?;
        let (found, offered) = (self.key.hash(), terms.key_hash);
        if found != offered {
            return Err(MisbehaviourError::Key { found, offered });
        }
        self.part.check(&terms)?;
        let part = &self.part.part;
        let (index, first, count) = (part.index, part.first, part.count);
        match self.part.open(&self.key, &terms) {
            Ok(_) => Err(MisbehaviourError::Innocent { index, first, count }),
            Err(fault) => Ok(Conviction {
                seller: peer_id(&self.seller),
                offer: terms.offer,
                stream: terms.stream,
                part: index,
                first,
                count,
                fault: in_words(&fault),
            }),
        }
    }

    /// The bytes of the proof.
    ///
    /// # Errors
    /// [`CodecError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        let bytes = codec::encode(self)?;
        if bytes.len() > MAX_PROOF_LEN {
            return Err(CodecError::TooLong { len: bytes.len(), max: MAX_PROOF_LEN });
        }
        Ok(bytes)
    }

    /// Reads a proof.
    ///
    /// # Errors
    /// [`MisbehaviourError::Encoding`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MisbehaviourError> {
        Ok(codec::decode_exact(bytes, MAX_PROOF_LEN)?)
    }

    /// The proof as a JSON file.
    ///
    /// # Errors
    /// [`MisbehaviourError::Encoding`].
    pub fn to_json(&self) -> Result<String, MisbehaviourError> {
        Ok(serde_json::to_string_pretty(self).map_err(|error| json_error(&error))?)
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// [`MisbehaviourError::Encoding`].
    pub fn from_json(text: &[u8]) -> Result<Self, MisbehaviourError> {
        if text.len() > MAX_JSON_LEN {
            return Err(CodecError::TooLong { len: text.len(), max: MAX_JSON_LEN }.into());
        }
        Ok(serde_json::from_slice(text).map_err(|error| json_error(&error))?)
    }
}

fn json_error(error: &serde_json::Error) -> CodecError {
    CodecError::Type { what: "proof of misbehaviour", reason: error.to_string() }
}

/// A fault with its causes. A name in what the part decrypts to may be quoted in it, which is a stranger's text: it is cut to
/// [`MAX_TEXT`] and has no control characters.
fn in_words(fault: &PartFault) -> String {
    let mut words = fault.to_string();
    let mut cause = std::error::Error::source(fault);
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.ends_with(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}
