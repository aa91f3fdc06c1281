//! What moves over `/sensora/release/1`: one stream for a quote, or for an order whose key is released on the chain. The buyer begins;
//! after that encrypted parts go one way and the coin the other, and nobody waits for an answer. A stream that breaks begins again
//! where it stopped, and every frame may come twice.

use sensora_chain::Txid;
use serde::{Deserialize, Serialize};

use super::parts::{MAX_PART_LEN, ProvenPart};
use crate::codec::{self, CodecError, MAX_FRAME};
use crate::id::StreamId;
use crate::market::offer::Range;
use crate::market::refusal::Refusal;
use crate::statement::{SignedBytes, bytes_or_hex};

/// Protocol id.
pub const PROTOCOL: &str = "/sensora/release/1";
/// Longest frame to a seller in bytes: a coin with its ancestors (64 KiB), or an offer and an order, with room to spare.
pub const MAX_TO_SELLER_LEN: usize = 128 * 1024;
/// Longest frame to a buyer in bytes.
pub const MAX_TO_BUYER_LEN: usize = MAX_FRAME;
/// Parts that a seller puts into one frame at most: so many of the longest fit, each with the longest path (16 hashes), and there is
/// one durable step for three quarters of a megabyte instead of one for each part.
pub const MAX_FRAME_PARTS: usize = 48;

const _: () = assert!(MAX_FRAME_PARTS * (MAX_PART_LEN + 16 * 34 + 100) < MAX_TO_BUYER_LEN);

/// Which order is to be delivered, and from where on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The seller's signed [`KeyReleaseOffer`](super::offer::KeyReleaseOffer), as it was received.
    pub offer: SignedBytes,
    /// The buyer's signed order.
    pub order: SignedBytes,
    /// The part that is missing next: where the stream stopped before, it goes on.
    pub next: u32,
}

/// From the buyer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSeller {
    /// What a range costs as a batch. It is answered with an offer.
    Quote {
        /// The stream.
        stream: StreamId,
        /// Which readings.
        range: Range,
    },
    /// The first frame of an order.
    Begin(Box<Begin>),
    /// The coin of the order: Atomic BEEF (BRC-95), within [`BeefLimits::PAYMENT`](sensora_chain::beef::BeefLimits::PAYMENT). The buyer has stored it before.
    Lock(#[serde(with = "bytes_or_hex")] Vec<u8>),
    /// Nothing to say, but there.
    Alive,
}

/// From the seller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToBuyer {
    /// The signed offer of a batch.
    Offer(SignedBytes),
    /// The first frame of an order: it is taken, or goes on.
    Begun {
        /// The coin that the seller has for the order, if it has one: a buyer that was restored from an old backup makes no second.
        coin: Option<AtomicBeef>,
    },
    /// Encrypted parts, in order.
    Parts(Vec<ProvenPart>),
    /// The network has taken the coin; the key follows when it is firm.
    Locked {
        /// The transaction that holds the coin.
        txid: Txid,
    },
    /// The key is shown: the transaction that takes the coin, and the receipt.
    Claimed {
        /// The transaction's bytes.
        #[serde(with = "bytes_or_hex")]
        claim: Vec<u8>,
        /// The signed [`Receipt`](crate::market::receipt::Receipt).
        receipt: SignedBytes,
    },
    /// The order is not taken, or goes no further.
    Refused(Refusal),
    /// Nothing new, but there.
    Alive,
}

/// A transaction with its unproven ancestors: Atomic BEEF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AtomicBeef(#[serde(with = "bytes_or_hex")] pub Vec<u8>);

impl ToSeller {
    /// The bytes of the frame.
    ///
    /// # Errors
    /// [`CodecError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        encode_up_to(self, MAX_TO_SELLER_LEN)
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_exact(bytes, MAX_TO_SELLER_LEN)
    }

    /// What it is, in snake case: a label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Quote { .. } => "quote",
            Self::Begin(_) => "begin",
            Self::Lock(_) => "lock",
            Self::Alive => "alive",
        }
    }
}

impl ToBuyer {
    /// The bytes of the frame.
    ///
    /// # Errors
    /// [`CodecError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        encode_up_to(self, MAX_TO_BUYER_LEN)
    }

    /// Reads a frame. The words of a refusal are a stranger's: they come [tamed](Refusal::tamed).
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(match codec::decode_exact(bytes, MAX_TO_BUYER_LEN)? {
            Self::Refused(refusal) => Self::Refused(refusal.tamed()),
            frame => frame,
        })
    }

    /// What it is, in snake case: a label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Offer(_) => "offer",
            Self::Begun { .. } => "begun",
            Self::Parts(_) => "parts",
            Self::Locked { .. } => "locked",
            Self::Claimed { .. } => "claimed",
            Self::Refused(_) => "refused",
            Self::Alive => "alive",
        }
    }
}

fn encode_up_to<T: Serialize>(value: &T, max: usize) -> Result<Vec<u8>, CodecError> {
    let bytes = codec::encode(value)?;
    if bytes.len() > max { Err(CodecError::TooLong { len: bytes.len(), max }) } else { Ok(bytes) }
}
