//! What happens to an order while it comes, what is to be done about it, and why a frame is not followed.

use sensora_chain::Satoshis;

use crate::ad::CLOCK_TOLERANCE_MS;
use crate::market::channel::spending::SpendingError;
use crate::market::delivery::frame::{ToBuyer, ToSeller};
use crate::market::delivery::trail::Fork;
use crate::market::delivery::{DeliveryError, ProvenPage};
use crate::market::exposure::OverLimit;
use crate::market::price::PriceError;
use crate::market::refusal::Refusal;
use crate::statement::{SignedBytes, StatementError};

/// What has happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceiveEvent {
    /// The seller has sent a frame.
    Frame(Box<ToBuyer>),
    /// Less is open with this seller than before, in another order: there may be room for this one. Without it, orders that share
    /// one exposure would wait for each other.
    Room,
    /// No readings for now.
    Pause,
    /// Readings again.
    Resume,
    /// No more readings.
    Stop,
    /// The orders on the channel come to their end: the newest block is at
    /// [`ChannelOffer::orders_end_at`](crate::market::channel::offer::ChannelOffer::orders_end_at), or the channel is to be closed.
    Closing,
    /// The channel is spent, or being taken back: no receipt will come.
    /// [`BuyerChannel::leaves_orders`](crate::market::channel::buyer::BuyerChannel::leaves_orders).
    Closed,
    /// The order is given up, because its seller has forgotten it or is gone. It ends with what was paid, which is no more counted as open with the
    /// seller; nothing is ever paid for it again. The account must be one that was [learned](crate::market::channel::buyer::BuyerChannel::learn) since the
    /// start; where nobody answers, see [`ChannelPurchase::give_up`](super::ChannelPurchase::give_up).
    GiveUp,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceiveAction {
    /// Keep these verified readings; in the same stored step as the purchase.
    Keep {
        /// The readings.
        page: Box<ProvenPage>,
        /// The signed checkpoint they are proven under, where it is not the offer's.
        checkpoint: Option<SignedBytes>,
    },
    /// Make the purchase durable.
    Store,
    /// Sign the channel's voucher for `amount` and send it.
    Voucher {
        /// What the order has paid with it.
        paid: Satoshis,
        /// What the channel has paid with it.
        amount: Satoshis,
    },
    /// Send this frame.
    Send(ToSeller),
    /// The order has ended with so much paid: its lane in the channel's account ends in the same stored step as the purchase.
    End(Satoshis),
}

/// Why a frame is not followed. Nothing has changed, and nothing more is to be paid on this stream.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The readings do not verify.
    #[error("the delivery does not verify: {0}")]
    Delivery(#[from] DeliveryError),
    /// The checkpoint of a page, or the receipt, is not the seller's.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The seller has rewritten the stream's history.
    #[error(
        "the seller has signed two logs of the stream that do not continue each other: keep both checkpoints as evidence, and buy no more of it"
    )]
    Forked {
        /// Both.
        fork: Box<Fork>,
    },
    /// A checkpoint that says less than the one before.
    #[error("a page came under a checkpoint of {size} readings, after one of {last}")]
    OlderCheckpoint {
        /// Readings under it.
        size: u64,
        /// Readings under the one before.
        last: u64,
    },
    /// The checkpoint is of another stream.
    #[error("a page came with the checkpoint of another stream")]
    OtherStream,
    /// The frame is not one for now.
    #[error("the seller sent `{frame}` while the order is {state}")]
    Unexpected {
        /// The frame.
        frame: &'static str,
        /// How far the order is.
        state: &'static str,
    },
    /// The seller says that less was sent than was.
    #[error("the seller says that it has sent the readings before {said}, {next} are here")]
    SentLess {
        /// What it says.
        said: u64,
        /// What is here.
        next: u64,
    },
    /// The order is stopped, and its seller goes on.
    #[error(
        "the order is stopped and may come to {most}, the seller goes on until {due} is due: nothing more of it is taken or paid (`sensora orders --give-up` ends it without its receipt)"
    )]
    AfterStop {
        /// What would be due.
        due: Satoshis,
        /// What the order may come to.
        most: Satoshis,
    },
    /// The seller puts the end of a stopped order further away.
    #[error("the seller said that the order ends before reading {before}, and then before reading {said}")]
    LaterEnd {
        /// What it says.
        said: u64,
        /// What it said first.
        before: u64,
    },
    /// A reading that is paid by its time stamp was not measured yet.
    #[error(
        "reading {seq} is stamped {ahead_s} s ahead of this machine's clock, and is charged by that: check the clock, or buy by the reading (more than {max} s is refused)",
        max = CLOCK_TOLERANCE_MS / 1000
    )]
    Ahead {
        /// The reading.
        seq: u64,
        /// How far ahead its time stamp is, in seconds.
        ahead_s: i64,
    },
    /// The seller asks for more than is due.
    #[error("the seller says that {asked} is due, by the offer it is at most {due}")]
    Due {
        /// What it asks.
        asked: Satoshis,
        /// What is due.
        due: Satoshis,
    },
    /// The receipt is for something else.
    #[error("the receipt does not fit the order: its {field} differs")]
    Receipt {
        /// First field that differs.
        field: &'static str,
    },
    /// Neither side could begin: one reading costs more than either lets stand open.
    #[error(
        "one reading costs {unit}, the seller gives no credit for that, and the buyer's exposure is {limit}: raise buyer.exposure_sat or --exposure"
    )]
    NobodyBegins {
        /// Price of one reading.
        unit: Satoshis,
        /// The buyer's limit.
        limit: Satoshis,
    },
    /// The seller refuses.
    #[error("the seller refuses to deliver: {0}")]
    Refused(Refusal),
    /// More would be open with this seller than is allowed.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The price is above all money.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// The channel's account does not allow it.
    #[error(transparent)]
    Spending(#[from] SpendingError),
}

impl ReceiveError {
    /// Whether the seller says that the order cannot go on, ever: it does not know it and its offer is over, or its channel takes nothing. What is left is to
    /// [give it up](ReceiveEvent::GiveUp), or to wait until the channel is [closed](ReceiveEvent::Closed).
    #[must_use]
    pub const fn is_forgotten(&self) -> bool {
        matches!(
            self,
            Self::Refused(
                Refusal::OfferExpired { .. }
                    | Refusal::UnknownOrder { .. }
                    | Refusal::UnknownStream { .. }
                    | Refusal::UnknownChannel { .. }
                    | Refusal::ChannelClosed { .. }
                    | Refusal::ForeignOffer { .. }
            )
        )
    }
}
