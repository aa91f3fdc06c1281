//! The offer of a batch: all that the seller can be held to, in one signed statement.
//!
//! Beside what an [`Offer`] says it binds the hash of the key, the root over the encrypted parts, their number and length, and the
//! refund height. With it, one part and the key, anybody decides whether the part is what was sold; nothing else is needed, and
//! nothing that the seller says later changes it. The meaning of version 1 of the statement includes the encodings of
//! [`Page`](crate::market::delivery::Page) and [`columns`](crate::stream::columns) as they are: a seller that writes a newer one signs a
//! newer version, so that no older program convicts it for what it cannot read.

#![warn(clippy::arithmetic_side_effects)]

use sensora_chain::contract::height_lock::RefundHeight;
use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use serde::{Deserialize, Serialize};

use super::key::{BatchKey, BatchSecret};
use super::parts::{Batch, MAX_PART_COUNT, MAX_PART_LEN, MAX_PARTS};
use crate::ad::{PaymentMode, StreamAd};
use crate::id::{Hash, StreamId};
use crate::market::offer::{BuyerLimits, Offer, OfferError, Range};
use crate::market::price::Price;
use crate::statement::{Signed, SignedBytes, Statement, StatementError, bytes_or_hex};
use crate::stream::checkpoint::Checkpoint;
use crate::stream::schema::Schema;

/// The least that a batch costs: 1,000 satoshis. The refund of the coin takes up to 558 bytes and the claim 192, so that either can
/// still be paid when miners ask seventeen times the usual rate. What is cheaper is sold through a channel, which costs less.
pub const MIN_TOTAL: Satoshis = Satoshis::from_sat(1_000);

/// Blocks before the refund height in which the seller no longer shows the key: six hours. A claim that pays the usual fee is in one of
/// the next blocks; this leaves room for a reorganisation of 6, for a node that was down, and for a rise of fees. Nearer, claim and
/// refund would race.
pub const CLAIM_MARGIN: u32 = 36;

/// How far away a seller sets the refund height when it says nothing else: a day of blocks.
pub const DEFAULT_REFUND_AFTER: u32 = 144;

/// What a seller offers to one buyer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyReleaseOffer {
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
    /// The seller's signed checkpoint; the range lies below its size. It is what is committed of the readings.
    pub checkpoint: SignedBytes,
    /// Price of one reading.
    pub price: Price,
    /// Price of all: `price` × `count`, rounded up to whole satoshis. The coin holds at least that.
    pub total: Satoshis,
    /// Licence under which the data is sold: an SPDX or Creative Commons id.
    pub licence: String,
    /// SHA-256 of the key.
    pub key_hash: Hash,
    /// Root of the tree (RFC 9162 §2.1.1) over the encrypted parts.
    pub root: Hash,
    /// Number of parts.
    pub parts: u32,
    /// Bytes of all encrypted parts together.
    pub length: u64,
    /// From when on the buyer may take its coin back.
    pub refund_height: RefundHeight,
    /// Makes each offer, and so each key, one of its kind.
    #[serde(with = "bytes_or_hex")]
    pub nonce: [u8; 16],
    /// When it was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// Last moment at which an order of it is begun, milliseconds since the Unix epoch. What is begun may be paid until
    /// [`CLAIM_MARGIN`] before the refund height.
    pub expires_ms: i64,
}

impl Statement for KeyReleaseOffer {
    const NAME: &'static str = "sensora/key-release-offer";
    const MAX_LEN: usize = 8192;
}

/// What a buyer lets itself in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Highest price of a batch.
    pub max_price: Satoshis,
    /// Most that may be lost to a seller that can be shown to have cheated.
    pub exposure: Satoshis,
    /// Most bytes that are stored before the key is there.
    pub max_length: u64,
    /// Most blocks for which the coin may be locked.
    pub max_lock: u32,
}

/// Why a buyer does not take an offer of a batch.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyReleaseOfferError {
    /// Something that any offer must hold to.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// Less than the coin costs to move.
    #[error(
        "the batch costs {0}; below {MIN_TOTAL} a coin may not pay for its own refund: order more readings, or pay through a channel"
    )]
    TooCheap(Satoshis),
    /// The batch was sealed for something else. To sign that would be a lie.
    #[error("the batch was not sealed for this offer: its {field} differs")]
    NotSealed {
        /// First thing that differs.
        field: &'static str,
    },
    /// Above the exposure.
    #[error(
        "{total} would be lost if the seller cheats, above the exposure of {exposure}: raise buyer.exposure_sat or --exposure, or order fewer readings"
    )]
    Exposure {
        /// Price.
        total: Satoshis,
        /// The buyer's exposure.
        exposure: Satoshis,
    },
    /// No such number of parts.
    #[error(
        "{count} readings in {parts} parts: a part has 1 to {MAX_PART_COUNT}, a batch 1 to {MAX_PARTS} parts"
    )]
    Parts {
        /// Parts that are offered.
        parts: u32,
        /// Readings.
        count: u64,
    },
    /// The parts cannot have this length.
    #[error("{parts} parts of together {length} bytes: a part has 1 to {MAX_PART_LEN}")]
    Length {
        /// Parts that are offered.
        parts: u32,
        /// Bytes that are offered.
        length: u64,
    },
    /// More than the buyer stores.
    #[error(
        "the batch takes {length} bytes, at most {max} are stored before a key is there: order fewer readings"
    )]
    TooLong {
        /// Bytes that are offered.
        length: u64,
        /// The buyer's limit.
        max: u64,
    },
    /// The coin would be locked for too long, or too short for the seller to take it.
    #[error(
        "the coin would be locked until height {height}, {tip} is the newest: more than {CLAIM_MARGIN} and at most {max} blocks are taken"
    )]
    RefundHeight {
        /// The refund height.
        height: RefundHeight,
        /// Height of the newest block.
        tip: u32,
        /// The buyer's limit.
        max: u32,
    },
}

impl From<StatementError> for KeyReleaseOfferError {
    fn from(error: StatementError) -> Self {
        Self::Offer(error.into())
    }
}

/// What was offered, checked, in the few things that all else works with.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchTerms {
    /// Digest of the offer.
    pub offer: Hash,
    /// The stream.
    pub stream: StreamId,
    /// How its readings look.
    pub schema: Schema,
    /// What they are proven under.
    pub checkpoint: Checkpoint,
    /// Who sells.
    pub seller: PublicKey,
    /// Who buys.
    pub buyer: PublicKey,
    /// First sequence number.
    pub first: u64,
    /// Sequence number after the last one.
    pub end: u64,
    /// The price.
    pub total: Satoshis,
    /// SHA-256 of the key.
    pub key_hash: Hash,
    /// Root over the encrypted parts.
    pub root: Hash,
    /// Their number.
    pub parts: u32,
    /// Their length.
    pub length: u64,
    /// From when on the buyer may take its coin back.
    pub refund_height: RefundHeight,
    /// Last moment at which an order is begun, milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

impl BatchTerms {
    /// The terms of an offer that `seller` has signed, checked as far as they are the same for everybody: for buyer, seller and
    /// whoever judges between them.
    ///
    /// # Errors
    /// [`KeyReleaseOfferError`].
    pub fn of(offer: &Signed<KeyReleaseOffer>, network: Network) -> Result<Self, KeyReleaseOfferError> {
        let (signed, offer) = (offer, offer.value());
        let checkpoint = offer.check(signed.key(), network)?;
        Ok(Self {
            offer: signed.digest(network),
            stream: offer.stream,
            schema: offer.schema.clone(),
            checkpoint: checkpoint.value().clone(),
            seller: *signed.key(),
            buyer: offer.buyer,
            first: offer.first,
            // The range lies below the checkpoint's size.
            end: offer.first.saturating_add(offer.count),
            total: offer.total,
            key_hash: offer.key_hash,
            root: offer.root,
            parts: offer.parts,
            length: offer.length,
            refund_height: offer.refund_height,
            expires_ms: offer.expires_ms,
        })
    }

    /// As [`BatchTerms::of`], from bytes that nobody has checked yet.
    ///
    /// # Errors
    /// [`KeyReleaseOfferError`].
    pub fn read(
        offer: &SignedBytes,
        network: Network,
        seller: &PublicKey,
    ) -> Result<Self, KeyReleaseOfferError> {
        Self::of(&offer.clone().verify_by(network, seller)?, network)
    }

    /// Whether the seller may still show the key when `tip` is the newest block.
    #[must_use]
    pub const fn may_claim(&self, tip: u32) -> bool {
        tip.saturating_add(CLAIM_MARGIN) < self.refund_height.get()
    }

    /// Whether the buyer's refund can be in the next block.
    #[must_use]
    pub const fn may_refund(&self, tip: u32) -> bool {
        tip >= self.refund_height.get()
    }
}

impl KeyReleaseOffer {
    /// The offer of a sealed batch; `plain` says to whom, for how much, and until when. Only what the batch was opened under when it
    /// was sealed is offered: whoever signs anything else can be convicted for it.
    ///
    /// # Errors
    /// [`KeyReleaseOfferError`].
    pub fn of(
        plain: Offer,
        batch: &Batch,
        refund_height: RefundHeight,
        seller: &PublicKey,
        network: Network,
    ) -> Result<Self, KeyReleaseOfferError> {
        let offer = Self {
            key_hash: batch.key_hash(),
            root: batch.root(),
            parts: batch.parts(),
            length: batch.length(),
            refund_height,
            stream: plain.stream,
            name: plain.name,
            schema: plain.schema,
            buyer: plain.buyer,
            first: plain.first,
            count: plain.count,
            checkpoint: plain.checkpoint,
            price: plain.price,
            total: plain.total,
            licence: plain.licence,
            nonce: plain.nonce,
            issued_ms: plain.issued_ms,
            expires_ms: plain.expires_ms,
        };
        let checkpoint = offer.check(seller, network)?;
        let range = offer.first..offer.first.saturating_add(offer.count);
        let differs = [
            ("range", batch.range() != &range),
            ("schema", batch.opened_under().0 != &offer.schema),
            ("checkpoint", batch.opened_under().1 != checkpoint.value()),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            Some((field, _)) => Err(KeyReleaseOfferError::NotSealed { field }),
            None => Ok(offer),
        }
    }

    /// Checks an offer against what was asked for, the seller's ad (when known), the buyer's limits and the chain. After this the
    /// buyer may fetch the parts, and pay when all of them are there.
    ///
    /// # Errors
    /// [`KeyReleaseOfferError`] names the first thing that does not fit.
    #[expect(clippy::too_many_arguments, reason = "each is a separate fact that the offer is held against")]
    pub fn accept(
        signed: &Signed<Self>,
        network: Network,
        buyer: &PublicKey,
        stream: StreamId,
        asked: Range,
        ad: Option<&StreamAd>,
        limits: BatchLimits,
        tip: u32,
        now_ms: i64,
    ) -> Result<BatchTerms, KeyReleaseOfferError> {
        let offer = signed.value();
        let BatchLimits { max_price, exposure, max_length, max_lock } = limits;
        // Data and money pass each other here, so the exposure is held against another risk below.
        let plain = BuyerLimits { max_price, exposure: Satoshis::MAX };
        offer.plain().accept_by(signed.key(), network, buyer, stream, asked, ad, plain, now_ms)?;
        let terms = BatchTerms::of(signed, network)?;
        if terms.total > exposure {
            return Err(KeyReleaseOfferError::Exposure { total: terms.total, exposure });
        }
        if terms.length > max_length {
            return Err(KeyReleaseOfferError::TooLong { length: terms.length, max: max_length });
        }
        let (height, max) = (terms.refund_height, max_lock);
        if !terms.may_claim(tip) || height.get() > tip.saturating_add(max) {
            return Err(KeyReleaseOfferError::RefundHeight { height, tip, max });
        }
        Ok(terms)
    }

    /// What must hold for any such offer of `seller`, whoever reads it. Returns the checkpoint.
    ///
    /// # Errors
    /// [`KeyReleaseOfferError`].
    pub fn check(
        &self,
        seller: &PublicKey,
        network: Network,
    ) -> Result<Signed<Checkpoint>, KeyReleaseOfferError> {
        let checkpoint = self.plain().check(seller, network)?;
        if self.total < MIN_TOTAL {
            return Err(KeyReleaseOfferError::TooCheap(self.total));
        }
        let (parts, count, length) = (self.parts, self.count, self.length);
        let least = count.div_ceil(MAX_PART_COUNT);
        if !(1..=MAX_PARTS).contains(&parts) || !(least..=count).contains(&u64::from(parts)) {
            return Err(KeyReleaseOfferError::Parts { parts, count });
        }
        let most = u64::from(parts).saturating_mul(MAX_PART_LEN as u64);
        if !(u64::from(parts)..=most).contains(&length) {
            return Err(KeyReleaseOfferError::Length { parts, length });
        }
        Ok(checkpoint)
    }

    /// The key of the offer, as its seller derives it.
    #[must_use]
    pub fn key(&self, secret: &BatchSecret) -> BatchKey {
        let range = self.first..self.first.saturating_add(self.count);
        secret.key(&self.buyer, &self.checkpoint, range, &self.nonce)
    }

    /// What it has in common with an [`Offer`], so that both are held to the same rules.
    #[must_use]
    pub fn plain(&self) -> Offer {
        Offer {
            stream: self.stream,
            name: self.name.clone(),
            schema: self.schema.clone(),
            buyer: self.buyer,
            first: self.first,
            count: self.count,
            checkpoint: self.checkpoint.clone(),
            price: self.price,
            total: self.total,
            mode: PaymentMode::Direct,
            licence: self.licence.clone(),
            nonce: self.nonce,
            issued_ms: self.issued_ms,
            expires_ms: self.expires_ms,
        }
    }
}
