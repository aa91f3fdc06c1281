//! Why a seller does not do what it was asked: one typed answer for each reason, the same on both sides.

use sensora_chain::spv::SpvError;
use sensora_chain::{Satoshis, Txid};
use serde::{Deserialize, Serialize};

use crate::id::{ChannelId, OrderId, StreamId};
use crate::market::key_release::coin::SETTLED;

/// Longest text of a refusal that is kept, in characters: a line or two on a terminal.
pub const MAX_TEXT: usize = 256;

/// A seller's refusal. Each variant is an error code of `/sensora/market/1` (its name in snake case) and a label in the metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// The request's bytes are not a request.
    #[error("the request is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// More requests than the seller takes now.
    #[error("the seller is busy: try again in {retry_ms} ms")]
    Busy {
        /// When to try again, in milliseconds.
        retry_ms: u64,
    },
    /// Nothing is for sale now.
    #[error("the seller offers nothing now: it has withdrawn its ad or has not begun yet")]
    NotSelling,
    /// The stream is not sold by the second.
    #[error("the stream is sold by the reading only: ask for that price")]
    NotBySecond,
    /// The seller does not have such a stream.
    #[error("the seller has no stream {stream}: take the id from its current ad")]
    UnknownStream {
        /// Stream that was asked for.
        stream: StreamId,
    },
    /// The range is not in the log (yet).
    #[error("the stream has no such readings: it holds {size}, numbered from 0")]
    RangeNotAvailable {
        /// Readings in the log.
        size: u64,
    },
    /// More readings than one order may hold.
    #[error("{asked} readings are more than one order may hold: order at most {max} at a time")]
    TooManyReadings {
        /// Readings asked for.
        asked: u64,
        /// Most in one order.
        max: u64,
    },
    /// The day's free readings have been had.
    #[error("the free sample of {allowance} readings a day has been used up: buy, or try again tomorrow")]
    SampleUsedUp {
        /// Free readings for each buyer and day.
        allowance: u32,
    },
    /// The offer is not this seller's, or not for this buyer.
    #[error("the offer is not by this seller for this buyer: {reason}")]
    ForeignOffer {
        /// What does not fit.
        reason: String,
    },
    /// The offer ended before it was paid.
    #[error(
        "the offer ended at {expires_ms} ms since the Unix epoch: ask for a new one; the payment was not taken"
    )]
    OfferExpired {
        /// When it ended.
        expires_ms: i64,
    },
    /// The order does not belong to the offer or the peer.
    #[error("the order is not valid: {reason}")]
    InvalidOrder {
        /// What does not fit.
        reason: String,
    },
    /// No output pays the key that belongs to the order.
    #[error("no output of {txid} pays the key of this order")]
    PaymentToWrongKey {
        /// The payment.
        txid: Txid,
    },
    /// Less than the price.
    #[error("{txid} pays {paid}, the order costs {price}")]
    PaymentTooSmall {
        /// The payment.
        txid: Txid,
        /// What it pays.
        paid: Satoshis,
        /// What it must pay.
        price: Satoshis,
    },
    /// The transaction or its ancestors do not verify.
    #[error("the payment does not verify: {reason}")]
    PaymentInvalid {
        /// What SPV says.
        reason: String,
    },
    /// The payment rests on a block that the seller has not seen yet, or that is not the one it has there near the end of its headers.
    #[error(
        "the payment rests on a block at height {height} that the seller does not have, its headers end at {tip}: send it again in a moment"
    )]
    HeadersBehind {
        /// Height of the block.
        height: u32,
        /// Height of the seller's newest header.
        tip: u32,
    },
    /// The network refuses the transaction.
    #[error("the network refuses the payment {txid}: {reason}")]
    PaymentRejected {
        /// The payment.
        txid: Txid,
        /// What the network says.
        reason: String,
    },
    /// An input has been spent by another transaction.
    #[error("the payment {txid} spends a coin that is already spent")]
    DoubleSpent {
        /// The payment.
        txid: Txid,
    },
    /// The seller cannot reach its chain source.
    #[error("the seller cannot reach the chain now; the order is kept: send it again")]
    ChainUnavailable,
    /// The seller cannot store anything now.
    #[error(
        "the seller cannot store the order now (disk full or failing): nothing was taken, send it again later"
    )]
    StorageUnavailable,
    /// No such order.
    #[error("the seller knows no order {order} of this buyer")]
    UnknownOrder {
        /// Order that was asked for.
        order: OrderId,
    },
    /// There is nothing on chain for this yet.
    #[error("not anchored yet: {size} readings are, the next anchor is due in about {due_ms} ms")]
    NotAnchored {
        /// Readings under the latest anchored checkpoint.
        size: u64,
        /// When the next anchor is due, in milliseconds.
        due_ms: u64,
    },
    /// No such channel.
    #[error("the seller has no channel {channel} with this buyer: open one")]
    UnknownChannel {
        /// Channel that was asked for.
        channel: ChannelId,
    },
    /// The seller takes no such channel.
    #[error("the seller takes channels of {min} to {max}, for {min_blocks} to {max_blocks} blocks")]
    ChannelNotOffered {
        /// Least value.
        min: Satoshis,
        /// Greatest value.
        max: Satoshis,
        /// Shortest time until the refund height.
        min_blocks: u32,
        /// Longest time until the refund height.
        max_blocks: u32,
    },
    /// The channel takes no orders any more.
    #[error(
        "channel {channel} takes no orders any more: it is closed, or too near to its refund height. Open another"
    )]
    ChannelClosed {
        /// The channel.
        channel: ChannelId,
    },
    /// The channel holds more than the seller takes before it is in a block.
    #[error("channel {channel} is used when it is in a block: try again then")]
    ChannelNotMined {
        /// The channel.
        channel: ChannelId,
    },
    /// The channel cannot pay the order.
    #[error("the order costs {price}, channel {channel} has {free} left: open another, or order less")]
    ChannelTooSmall {
        /// The channel.
        channel: ChannelId,
        /// What the order costs.
        price: Satoshis,
        /// What the channel has left.
        free: Satoshis,
    },
    /// A voucher is worth nothing.
    #[error("the voucher is not valid: {reason}")]
    VoucherInvalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The buyer owes for readings that it has.
    #[error(
        "readings for {open} are delivered to this buyer and not paid, the seller allows {limit}: go on with the orders that are open, and pay them"
    )]
    NotPaid {
        /// What is open.
        open: Satoshis,
        /// What the seller allows.
        limit: Satoshis,
    },
}

impl Refusal {
    /// The error code: the variant's name in snake case, also the label in the metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::Busy { .. } => "busy",
            Self::NotSelling => "not_selling",
            Self::NotBySecond => "not_by_second",
            Self::UnknownStream { .. } => "unknown_stream",
            Self::RangeNotAvailable { .. } => "range_not_available",
            Self::TooManyReadings { .. } => "too_many_readings",
            Self::SampleUsedUp { .. } => "sample_used_up",
            Self::ForeignOffer { .. } => "foreign_offer",
            Self::OfferExpired { .. } => "offer_expired",
            Self::InvalidOrder { .. } => "invalid_order",
            Self::PaymentToWrongKey { .. } => "payment_to_wrong_key",
            Self::PaymentTooSmall { .. } => "payment_too_small",
            Self::PaymentInvalid { .. } => "payment_invalid",
            Self::HeadersBehind { .. } => "headers_behind",
            Self::PaymentRejected { .. } => "payment_rejected",
            Self::DoubleSpent { .. } => "double_spent",
            Self::ChainUnavailable => "chain_unavailable",
            Self::StorageUnavailable => "storage_unavailable",
            Self::UnknownOrder { .. } => "unknown_order",
            Self::NotAnchored { .. } => "not_anchored",
            Self::UnknownChannel { .. } => "unknown_channel",
            Self::ChannelNotOffered { .. } => "channel_not_offered",
            Self::ChannelClosed { .. } => "channel_closed",
            Self::ChannelNotMined { .. } => "channel_not_mined",
            Self::ChannelTooSmall { .. } => "channel_too_small",
            Self::VoucherInvalid { .. } => "voucher_invalid",
            Self::NotPaid { .. } => "not_paid",
        }
    }

    /// The refusal with its words cut to [`MAX_TEXT`] and without control characters: they are a stranger's, and are going to be
    /// stored, logged and shown.
    #[must_use]
    pub fn tamed(self) -> Self {
        let tame = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect::<String>();
        match self {
            Self::Malformed { reason } => Self::Malformed { reason: tame(reason) },
            Self::ForeignOffer { reason } => Self::ForeignOffer { reason: tame(reason) },
            Self::InvalidOrder { reason } => Self::InvalidOrder { reason: tame(reason) },
            Self::PaymentInvalid { reason } => Self::PaymentInvalid { reason: tame(reason) },
            Self::VoucherInvalid { reason } => Self::VoucherInvalid { reason: tame(reason) },
            Self::PaymentRejected { txid, reason } => Self::PaymentRejected { txid, reason: tame(reason) },
            other => other,
        }
    }

    /// What is said to a payment that does not verify by headers that end at `tip`. Where it rests on a block that is too new, or on one near the
    /// end that is not ours, either side may be the one that has not seen the last reorganisation.
    pub(crate) fn unverified(error: &SpvError, tip: u32) -> Self {
        match error {
            // Below our tip a header is missing for good: it is older than our checkpoint.
            SpvError::NoHeader { height, tip, .. } if height > tip => {
                Self::HeadersBehind { height: *height, tip: *tip }
            }
            SpvError::WrongRoot { height, .. } if tip.saturating_sub(*height) < SETTLED => {
                Self::HeadersBehind { height: *height, tip }
            }
            error => Self::PaymentInvalid { reason: error.to_string() },
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::HeadersBehind { .. }
                | Self::ChainUnavailable
                | Self::StorageUnavailable
                | Self::ChannelNotMined { .. }
                | Self::NotAnchored { .. }
        )
    }
}
