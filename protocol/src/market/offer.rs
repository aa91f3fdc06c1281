//! The offer: a seller's signed word on what a range of readings costs one buyer, until when, and under which checkpoint.
//!
//! An offer stands alone: it carries the stream's name and schema (which the stream's id is a hash of) and the signed checkpoint that
//! the readings will be proven against, so that nothing the seller says later can change what was ordered.

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use serde::{Deserialize, Serialize};

use crate::ad::{CLOCK_TOLERANCE_MS, MAX_LICENCE_LEN, MAX_NAME_LEN, PaymentMode, StreamAd, check_line};
use crate::codec::CodecError;
use crate::id::StreamId;
use crate::market::message::LiveFrom;
use crate::market::price::{Price, PriceError};
use crate::statement::{Signed, SignedBytes, Statement, StatementError, bytes_or_hex};
use crate::stream::checkpoint::Checkpoint;
use crate::stream::schema::{Schema, SchemaError};

/// An offer holds for at most an hour.
pub const MAX_LIFETIME_MS: i64 = 3600 * 1000;
/// How long a seller's offer holds when it says nothing else: ten minutes, enough for a person to decide and a slow link to pay.
pub const DEFAULT_LIFETIME_MS: i64 = 10 * 60 * 1000;

/// Which readings are asked for. The seller answers with the exact sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// The newest reading.
    Latest,
    /// The newest `n` readings.
    Last(u64),
    /// `count` readings from sequence number `first`.
    Seq {
        /// First sequence number.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The readings with `from` ≤ time < `to` (nanoseconds since the Unix epoch): the shortest run of sequence numbers that holds all of them. Where a
    /// recording's clock jumped back the run may hold a few readings outside the time range.
    Time {
        /// Earliest time.
        from: i64,
        /// First time that is not wanted any more.
        to: i64,
    },
}

/// What a seller offers to one buyer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Schema,
    /// Who may buy.
    pub buyer: PublicKey,
    /// First sequence number.
    pub first: u64,
    /// Number of readings, above zero.
    pub count: u64,
    /// The seller's signed checkpoint; the range lies below its size.
    pub checkpoint: SignedBytes,
    /// Price of one reading.
    pub price: Price,
    /// Price of all: `price` × `count`, rounded up to whole satoshis.
    pub total: Satoshis,
    /// How it is paid.
    pub mode: PaymentMode,
    /// Licence under which the data is sold: an SPDX or Creative Commons id.
    pub licence: String,
    /// Makes each offer one of its kind.
    #[serde(with = "bytes_or_hex")]
    pub nonce: [u8; 16],
    /// When it was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// Last moment at which a payment for it is taken, milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

impl Statement for Offer {
    const NAME: &'static str = "sensora/offer";
    const MAX_LEN: usize = 8192;
}

/// What a buyer lets itself in for. Both are checked against the offer before anything is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuyerLimits {
    /// Highest total price of an order.
    pub max_price: Satoshis,
    /// Most that may be paid before the goods are there (direct payments only).
    pub exposure: Satoshis,
}

/// Why a buyer does not take an offer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// Offer or checkpoint are not signed by the seller.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// A part cannot be encoded.
    #[error("the offer: {0}")]
    Encoding(#[from] CodecError),
    /// A text that would not be what it looks like on a screen.
    #[error("the offer's {field} {reason}")]
    Text {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The schema is not valid.
    #[error("the offer's schema: {0}")]
    Schema(#[from] SchemaError),
    /// The price is not valid.
    #[error("the offer's price: {0}")]
    Price(#[from] PriceError),
    /// Another stream than was asked for.
    #[error("asked for stream {asked}, offered {offered}")]
    Stream {
        /// What was asked for.
        asked: StreamId,
        /// What was offered.
        offered: StreamId,
    },
    /// The id does not follow from seller, name and schema.
    #[error("stream {0} is not the one that the offer's name and schema give")]
    StreamId(StreamId),
    /// For somebody else.
    #[error("the offer is for buyer {0}, not for this node")]
    Buyer(String),
    /// Not the readings that were asked for.
    #[error("asked for {asked:?}, offered {count} readings from {first} of {size}")]
    Range {
        /// What was asked for.
        asked: Range,
        /// First sequence number offered.
        first: u64,
        /// Readings offered.
        count: u64,
        /// Size of the checkpoint.
        size: u64,
    },
    /// Not the newest readings: the seller's own ad says there are more.
    #[error(
        "the newest readings were asked for, the offer ends at {size}, but the seller's ad says there are {advertised}"
    )]
    Stale {
        /// Size of the offer's checkpoint.
        size: u64,
        /// Readings according to the ad.
        advertised: u64,
    },
    /// The checkpoint is of another stream.
    #[error("the offer's checkpoint is of stream {0}")]
    Checkpoint(StreamId),
    /// The total is not price × count.
    #[error("the offer asks {total} for {count} readings at {price}, which make {expected}")]
    Total {
        /// What it asks.
        total: Satoshis,
        /// Readings.
        count: u64,
        /// Price of one.
        price: Price,
        /// What it must ask.
        expected: Satoshis,
    },
    /// Dearer than the ad.
    #[error("the offer asks {offered} for a reading, the seller's ad says {advertised}")]
    DearerThanAd {
        /// Price in the offer.
        offered: Price,
        /// Price in the ad.
        advertised: Price,
    },
    /// A second costs more than the readings in it would by the ad.
    #[error(
        "the offer asks {offered} for a second, the seller's ad says {advertised} for a reading and one each {cadence_ms} ms"
    )]
    SecondDearerThanAd {
        /// Price of a second in the offer.
        offered: Price,
        /// Price of a reading in the ad.
        advertised: Price,
        /// How often there is one, in milliseconds.
        cadence_ms: u64,
    },
    /// A reading or a second costs more than the buyer lets it.
    #[error("the offer asks {offered} for each, the limit is {limit}")]
    DearerThanLimit {
        /// Price in the offer.
        offered: Price,
        /// The buyer's limit.
        limit: Price,
    },
    /// By the second, one reading may be charged for more time than usually lies between a few.
    #[error(
        "the offer charges a reading for up to {offered_ms} ms, with {cadence} in the seller's ad at most {most_ms} ms is taken: buy by the reading, or ask the seller to advertise its cadence",
        cadence = cadence_ms.map_or_else(|| "no cadence".to_owned(), |ms| format!("one reading each {ms} ms"))
    )]
    Gap {
        /// The longest gap in the offer, in milliseconds.
        offered_ms: u32,
        /// The most that is taken.
        most_ms: u32,
        /// How often there is a reading by the ad, in milliseconds.
        cadence_ms: Option<u64>,
    },
    /// Nothing says what a second may cost.
    #[error(
        "the offer asks {offered} for a second, and the seller's ad does not say how often it measures: say what a second may cost"
    )]
    NoLimit {
        /// Price in the offer.
        offered: Price,
    },
    /// A live stream that begins elsewhere.
    #[error(
        "the stream was asked for from {asked:?} on, it is offered from reading {first} on, and {size} readings are known to be there"
    )]
    LiveFirst {
        /// What was asked for.
        asked: LiveFrom,
        /// First sequence number offered.
        first: u64,
        /// Readings that are known to be in the log.
        size: u64,
    },
    /// Other terms than the ad.
    #[error("the offer's licence is `{offered}`, the seller's ad says `{advertised}`")]
    Licence {
        /// Licence in the offer.
        offered: String,
        /// Licence in the ad.
        advertised: String,
    },
    /// Above `--max-price`.
    #[error("{total} is above the maximum price of {max}: raise --max-price to buy")]
    MaxPrice {
        /// Price.
        total: Satoshis,
        /// The buyer's maximum.
        max: Satoshis,
    },
    /// Above the exposure.
    #[error(
        "{total} would be paid before anything is delivered, above the exposure of {exposure}: raise buyer.exposure_sat or --exposure, or order fewer readings at a time"
    )]
    Exposure {
        /// Price.
        total: Satoshis,
        /// The buyer's exposure.
        exposure: Satoshis,
    },
    /// Above the exposure, together with what is paid and not delivered yet.
    #[error(
        "{total} would be paid before anything is delivered, and {open} are paid to this seller and not delivered yet: together above the exposure of {exposure}. Finish the open orders first (`sensora orders --resume`), or raise buyer.exposure_sat or --exposure"
    )]
    OpenExposure {
        /// Price.
        total: Satoshis,
        /// Paid to this seller and not delivered.
        open: Satoshis,
        /// The buyer's exposure.
        exposure: Satoshis,
    },
    /// Already over, too long, or signed in the future.
    #[error(
        "the offer holds until {expires_ms} ms, now is {now_ms} ms: it is over, holds longer than an hour, or one of the two clocks is wrong"
    )]
    Lifetime {
        /// When it ends.
        expires_ms: i64,
        /// Now.
        now_ms: i64,
    },
}

impl Offer {
    /// Checks an offer against what was asked for, the seller's ad (when known) and the buyer's limits. After this the buyer may pay it.
    ///
    /// # Errors
    /// [`OfferError`] names the first thing that does not fit.
    #[expect(clippy::too_many_arguments, reason = "each is a separate fact that the offer is held against")]
    pub fn accept(
        signed: &Signed<Self>,
        network: Network,
        buyer: &PublicKey,
        stream: StreamId,
        asked: Range,
        ad: Option<&StreamAd>,
        limits: BuyerLimits,
        now_ms: i64,
    ) -> Result<Signed<Checkpoint>, OfferError> {
        let seller = signed.key();
        signed.value().accept_by(seller, network, buyer, stream, asked, ad, limits, now_ms)
    }

    /// As [`Offer::accept`], of what `seller` has signed in whatever statement.
    #[expect(clippy::too_many_arguments, reason = "each is a separate fact that the offer is held against")]
    pub(crate) fn accept_by(
        &self,
        seller: &PublicKey,
        network: Network,
        buyer: &PublicKey,
        stream: StreamId,
        asked: Range,
        ad: Option<&StreamAd>,
        limits: BuyerLimits,
        now_ms: i64,
    ) -> Result<Signed<Checkpoint>, OfferError> {
        let offer = self;
        if offer.stream != stream {
            return Err(OfferError::Stream { asked: stream, offered: offer.stream });
        }
        let checkpoint = offer.check(seller, network)?;
        if &offer.buyer != buyer {
            return Err(OfferError::Buyer(crate::identity::peer_id(&offer.buyer)));
        }
        let size = checkpoint.value().size;
        let end = offer.first.saturating_add(offer.count);
        let fits = match asked {
            Range::Latest => offer.count == 1 && end == size,
            Range::Last(n) => offer.count == n.min(size) && end == size,
            Range::Seq { first, count } => offer.first == first && offer.count == count,
            Range::Time { .. } => true,
        };
        if !fits {
            return Err(OfferError::Range { asked, first: offer.first, count: offer.count, size });
        }
        if let Some(ad) = ad {
            if matches!(asked, Range::Latest | Range::Last(_)) && size < ad.size {
                return Err(OfferError::Stale { size, advertised: ad.size });
            }
            if offer.price > ad.price {
                return Err(OfferError::DearerThanAd { offered: offer.price, advertised: ad.price });
            }
            if offer.licence != ad.licence {
                let (offered, advertised) = (offer.licence.clone(), ad.licence.clone());
                return Err(OfferError::Licence { offered, advertised });
            }
        }
        let total = offer.total;
        if total > limits.max_price {
            return Err(OfferError::MaxPrice { total, max: limits.max_price });
        }
        // Through a channel nothing is paid far ahead: there the exposure bounds each voucher.
        if offer.mode == PaymentMode::Direct && total > limits.exposure {
            return Err(OfferError::Exposure { total, exposure: limits.exposure });
        }
        let (expires_ms, lifetime) = (offer.expires_ms, offer.expires_ms.saturating_sub(offer.issued_ms));
        let ahead_ms = offer.issued_ms.saturating_sub(now_ms);
        let holds = expires_ms > now_ms && ahead_ms <= CLOCK_TOLERANCE_MS;
        if !holds || !(1..=MAX_LIFETIME_MS).contains(&lifetime) {
            return Err(OfferError::Lifetime { expires_ms, now_ms });
        }
        Ok(checkpoint)
    }

    /// What must hold for any offer of `seller`, whoever reads it: the id fits name and schema, the checkpoint is the seller's and covers the
    /// range, the total is the price of the range. Returns the checkpoint.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn check(&self, seller: &PublicKey, network: Network) -> Result<Signed<Checkpoint>, OfferError> {
        let texts = [("name", &self.name, MAX_NAME_LEN), ("licence", &self.licence, MAX_LICENCE_LEN)];
        for (field, text, max) in texts {
            check_line(text, max, false).map_err(|reason| OfferError::Text { field, reason })?;
        }
        self.schema.validate()?;
        self.price.validate()?;
        if StreamId::derive(network, seller, &self.name, &self.schema)? != self.stream {
            return Err(OfferError::StreamId(self.stream));
        }
        let checkpoint = self.checkpoint.clone().verify_by::<Checkpoint>(network, seller)?;
        if checkpoint.value().stream != self.stream {
            return Err(OfferError::Checkpoint(checkpoint.value().stream));
        }
        let size = checkpoint.value().size;
        let covered = self.first.checked_add(self.count).is_some_and(|end| end <= size);
        if self.count == 0 || !covered {
            let asked = Range::Seq { first: self.first, count: self.count };
            return Err(OfferError::Range { asked, first: self.first, count: self.count, size });
        }
        let expected = self.price.total(self.count)?;
        if self.total != expected {
            let (total, count, price) = (self.total, self.count, self.price);
            return Err(OfferError::Total { total, count, price, expected });
        }
        Ok(checkpoint)
    }
}
