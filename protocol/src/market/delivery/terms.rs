//! What was ordered, in the few numbers that delivery works with.

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use serde::{Deserialize, Serialize};

use crate::id::{Hash, StreamId};
use crate::market::live::LiveOffer;
use crate::market::offer::{Offer, OfferError};
use crate::market::price::{PriceError, Tariff};
use crate::market::reads::offer::ReadsOffer;
use crate::statement::SignedBytes;
use crate::stream::checkpoint::Checkpoint;
use crate::stream::schema::Schema;

/// A signed offer of any kind, as it was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offered {
    /// An [`Offer`]: readings that are there.
    Range(SignedBytes),
    /// A [`LiveOffer`]: readings as they come.
    Live(SignedBytes),
    /// A [`ReadsOffer`]: single readings, as they are asked for.
    Reads(SignedBytes),
}

/// The terms of one order.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// Digest of the offer.
    pub offer: Hash,
    /// The stream.
    pub stream: StreamId,
    /// How its readings look.
    pub schema: Schema,
    /// Who sells.
    pub seller: PublicKey,
    /// Who buys.
    pub buyer: PublicKey,
    /// First sequence number.
    pub first: u64,
    /// Sequence number after the last one; `None` for a live stream.
    pub end: Option<u64>,
    /// What it costs.
    pub tariff: Tariff,
    /// What all readings are proven under; `None` for a live stream, whose pages bring their own.
    pub checkpoint: Option<Checkpoint>,
    /// Last moment at which the order is taken, milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

impl Offered {
    /// The terms of an offer that `seller` has signed, checked as far as they are the same for everybody.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn terms(&self, network: Network, seller: &PublicKey) -> Result<Terms, OfferError> {
        match self {
            Self::Range(bytes) => {
                let signed = bytes.clone().verify_by::<Offer>(network, seller)?;
                let offer = signed.value();
                let checkpoint = offer.check(seller, network)?;
                Ok(Terms {
                    offer: signed.digest(network),
                    stream: offer.stream,
                    schema: offer.schema.clone(),
                    seller: *seller,
                    buyer: offer.buyer,
                    first: offer.first,
                    // The range lies below the checkpoint's size.
                    end: Some(offer.first.saturating_add(offer.count)),
                    tariff: Tariff::Reading(offer.price),
                    checkpoint: Some(checkpoint.value().clone()),
                    expires_ms: offer.expires_ms,
                })
            }
            Self::Live(bytes) => {
                let signed = bytes.clone().verify_by::<LiveOffer>(network, seller)?;
                let offer = signed.value();
                offer.check(seller, network)?;
                Ok(Terms {
                    offer: signed.digest(network),
                    stream: offer.stream,
                    schema: offer.schema.clone(),
                    seller: *seller,
                    buyer: offer.buyer,
                    first: offer.first,
                    end: None,
                    tariff: offer.tariff,
                    checkpoint: None,
                    expires_ms: offer.expires_ms,
                })
            }
            Self::Reads(bytes) => {
                let signed = bytes.clone().verify_by::<ReadsOffer>(network, seller)?;
                let offer = signed.value();
                offer.check(seller, network)?;
                Ok(Terms {
                    offer: signed.digest(network),
                    stream: offer.stream,
                    schema: offer.schema.clone(),
                    seller: *seller,
                    buyer: offer.buyer,
                    // Places in the order, not sequence numbers.
                    first: 0,
                    end: None,
                    tariff: Tariff::Reading(offer.price),
                    checkpoint: None,
                    expires_ms: offer.expires_ms,
                })
            }
        }
    }

    /// Whether it is of single readings: an order of it counts places and not sequence numbers, and is served by
    /// [`reads`](crate::market::reads).
    #[must_use]
    pub const fn is_reads(&self) -> bool {
        matches!(self, Self::Reads(_))
    }
}

impl Terms {
    /// What is due when all readings before `next` are delivered, which are charged for so many milliseconds: see
    /// [`Meter`](crate::market::delivery::meter::Meter); by the reading that does not matter.
    ///
    /// # Errors
    /// [`PriceError::Overflow`], [`PriceError::TimeOverflow`].
    pub fn due(&self, next: u64, charged_ms: u64) -> Result<Satoshis, PriceError> {
        self.tariff.due(next.saturating_sub(self.first), charged_ms)
    }

    /// What the whole range costs; `None` for a live stream.
    #[must_use]
    pub fn total(&self) -> Option<Satoshis> {
        self.end.and_then(|end| self.due(end, 0).ok())
    }

    /// The most that one reading costs.
    ///
    /// # Errors
    /// [`PriceError::Overflow`].
    pub fn unit(&self) -> Result<Satoshis, PriceError> {
        self.tariff.unit()
    }
}
