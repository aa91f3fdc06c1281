//! What moves over `/sensora/market/1`: one request, one response, each one deterministic CBOR item.

use serde::{Deserialize, Serialize};

use sensora_chain::Satoshis;

use crate::ad::{MAX_SIGNED_AD_LEN, PaymentMode};
use crate::anchor::AnchorProof;
use crate::codec::{self, CodecError, MAX_FRAME};
use crate::id::{OrderId, StreamId};
use crate::market::channel::message::{AskChannel, ChannelReport, CloseChannel, OpenChannel};
use crate::market::delivery::Page;
use crate::market::offer::Range;
use crate::market::price::Metered;
use crate::market::refusal::Refusal;
use crate::market::sale::PurchaseRequest;
use crate::statement::SignedBytes;
use crate::stream::log::{ConsistencyProof, RangeProof};

/// Protocol id of request and response.
pub const PROTOCOL: &str = "/sensora/market/1";
/// Longest request in bytes: an offer, an order, and a payment of 64 KiB with room to spare.
pub const MAX_REQUEST_LEN: usize = 128 * 1024;
/// Longest response in bytes.
pub const MAX_RESPONSE_LEN: usize = MAX_FRAME;

const _: () = assert!(MAX_SIGNED_AD_LEN < MAX_RESPONSE_LEN);

/// What is asked of a seller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The seller's current signed ad.
    Ad,
    /// A few of the newest readings, free of charge, within the ad's allowance.
    Sample {
        /// The stream.
        stream: StreamId,
        /// How many at most.
        count: u32,
    },
    /// The price of a range.
    Quote {
        /// The stream.
        stream: StreamId,
        /// Which readings.
        range: Range,
        /// How they would be paid.
        mode: PaymentMode,
    },
    /// The price of a stream as it comes.
    QuoteLive {
        /// The stream.
        stream: StreamId,
        /// From where on.
        from: LiveFrom,
        /// What is counted.
        by: Metered,
    },
    /// The price of single readings.
    QuoteReads {
        /// The stream.
        stream: StreamId,
    },
    /// A channel of this value.
    QuoteChannel {
        /// What would be put into it.
        value: Satoshis,
        /// How long it should last, in blocks, until its refund height.
        blocks: u32,
    },
    /// Opens a channel. Answered with a report, the same each time.
    OpenChannel(OpenChannel),
    /// Closes a channel now. Answered with a report.
    CloseChannel(CloseChannel),
    /// What has been paid on a channel.
    AskChannel(AskChannel),
    /// Order and payment. Answered with the receipt, the same each time.
    Purchase(PurchaseRequest),
    /// The readings of a paid order from sequence number `first` on, as many as fit.
    Fetch {
        /// The order.
        order: OrderId,
        /// First sequence number that is missing.
        first: u64,
    },
    /// The receipt of a paid order.
    Receipt {
        /// The order.
        order: OrderId,
    },
    /// A proof of readings under a checkpoint that is anchored on chain.
    Proof {
        /// The stream.
        stream: StreamId,
        /// First sequence number.
        first: u64,
        /// Readings.
        count: u64,
        /// Size of the checkpoint that the asker already has: the answer proves that it is a prefix of the anchored one.
        size: u64,
    },
}

/// Where a live stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveFrom {
    /// With the next reading.
    Latest,
    /// With this sequence number: what is there of it comes first.
    Seq(u64),
    /// With the first reading from this time on (nanoseconds since the Unix epoch).
    Time(i64),
}

/// A seller's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The signed ad.
    Ad(SignedBytes),
    /// Free readings.
    Sample(Sample),
    /// The signed offer.
    Offer(SignedBytes),
    /// The signed live offer.
    LiveOffer(SignedBytes),
    /// The signed offer of single readings.
    ReadsOffer(SignedBytes),
    /// The signed offer of a channel.
    ChannelOffer(SignedBytes),
    /// How a channel stands.
    Channel(ChannelReport),
    /// The signed receipt.
    Receipt(SignedBytes),
    /// Readings with their proof.
    Page(Page),
    /// Readings proven under an anchored checkpoint.
    Proof(Box<AnchoredProof>),
}

/// Free readings: the newest ones, proven like bought ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The signed checkpoint they are proven under.
    pub checkpoint: SignedBytes,
    /// The readings.
    pub page: Page,
}

/// What ties readings that somebody already has to the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnchoredProof {
    /// The anchored, signed checkpoint.
    pub checkpoint: SignedBytes,
    /// Proof of the range under it.
    pub range: RangeProof,
    /// Proof that the asker's checkpoint is a prefix of it.
    pub consistency: ConsistencyProof,
    /// The anchor of the checkpoint.
    pub anchor: AnchorProof,
}

/// What comes back: an answer or a refusal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The answer.
    Ok(Answer),
    /// Why not.
    Refused(Refusal),
}

impl Request {
    /// The bytes to send.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] for a payment that is too large.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        encode_up_to(self, MAX_REQUEST_LEN)
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_exact(bytes, MAX_REQUEST_LEN)
    }

    /// What is asked for, in snake case: a label.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ad => "ad",
            Self::Sample { .. } => "sample",
            Self::Quote { .. } => "quote",
            Self::QuoteLive { .. } => "quote_live",
            Self::QuoteReads { .. } => "quote_reads",
            Self::QuoteChannel { .. } => "quote_channel",
            Self::OpenChannel(_) => "open_channel",
            Self::CloseChannel(_) => "close_channel",
            Self::AskChannel(_) => "ask_channel",
            Self::Purchase(_) => "purchase",
            Self::Fetch { .. } => "fetch",
            Self::Receipt { .. } => "receipt",
            Self::Proof { .. } => "proof",
        }
    }
}

impl Response {
    /// The bytes to send.
    ///
    /// # Errors
    /// [`CodecError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        encode_up_to(self, MAX_RESPONSE_LEN)
    }

    /// Reads a response. The words of a refusal are a stranger's: they come [tamed](Refusal::tamed).
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(match codec::decode_exact(bytes, MAX_RESPONSE_LEN)? {
            Self::Refused(refusal) => Self::Refused(refusal.tamed()),
            answer => answer,
        })
    }

    /// What kind of answer it is, in snake case: a label.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ok(Answer::Ad(_)) => "ad",
            Self::Ok(Answer::Sample(_)) => "sample",
            Self::Ok(Answer::Offer(_)) => "offer",
            Self::Ok(Answer::LiveOffer(_)) => "live_offer",
            Self::Ok(Answer::ReadsOffer(_)) => "reads_offer",
            Self::Ok(Answer::ChannelOffer(_)) => "channel_offer",
            Self::Ok(Answer::Channel(_)) => "channel",
            Self::Ok(Answer::Receipt(_)) => "receipt",
            Self::Ok(Answer::Page(_)) => "page",
            Self::Ok(Answer::Proof(_)) => "proof",
            Self::Refused(refusal) => refusal.code(),
        }
    }
}

fn encode_up_to<T: Serialize>(value: &T, max: usize) -> Result<Vec<u8>, CodecError> {
    let bytes = codec::encode(value)?;
    if bytes.len() > max { Err(CodecError::TooLong { len: bytes.len(), max }) } else { Ok(bytes) }
}
