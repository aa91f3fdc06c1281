//! What happens to an order of single readings, what is to be done about it, and why a frame is not followed.

use sensora_chain::Satoshis;

use super::MAX_WANTED;
use crate::codec::CodecError;
use crate::market::channel::spending::SpendingError;
use crate::market::delivery::frame::Begin;
use crate::market::delivery::receive::ChannelPurchase;
use crate::market::exposure::OverLimit;
use crate::market::price::PriceError;
use crate::market::reads::frame::{ToBuyer, ToSeller};
use crate::market::reads::known::KnownError;
use crate::market::refusal::Refusal;
use crate::statement::{SignedBytes, StatementError};
use crate::stream::leaf::Salt;
use crate::stream::reading::{Reading, ReadingError};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// The reading with this sequence number.
    Seq(u64),
    /// The newest reading there is.
    Latest,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    /// Here it is, verified; it is kept with the next piece.
    Reading(Reading),
    /// It came in this order before: nothing is paid.
    Same {
        /// Its sequence number.
        seq: u64,
    },
    /// The log ends before it.
    Absent {
        /// Readings in the log.
        size: u64,
    },
    /// The budget does not hold another reading.
    Spent,
    /// The order holds no more runs of readings: another one can begin.
    Full,
    /// The order is ending.
    Ending,
}

/// What has happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum AskEvent {
    /// The seller has sent a frame.
    Frame(Box<ToBuyer>),
    /// A reading is wanted. At most [`MAX_WANTED`] at a time; see [`Ask::has_room`](super::Ask::has_room).
    Want(Want),
    /// The last piece is kept.
    Kept,
    /// Less is open with this seller than before, in another order.
    Room,
    /// Nothing has come for a moment: what is verified is kept.
    Rest,
    /// No more readings.
    Stop,
    /// The channel comes to its end: nothing more is asked. Given at each tip, it means the same.
    Closing,
    /// No receipt will come: [`BuyerChannel::leaves_orders`](crate::market::channel::buyer::BuyerChannel::leaves_orders).
    Closed,
}

/// Verified readings to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The readings and their salts, in the order in which they came.
    pub readings: Vec<(Reading, Salt)>,
    /// The newest signed checkpoint; all readings are below it.
    pub checkpoint: Option<SignedBytes>,
    /// The order as it is with them.
    pub purchase: ChannelPurchase,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum AskAction {
    /// Make this durable in one step and come back with [`AskEvent::Kept`]. What follows need not wait for it.
    Keep(Box<Piece>),
    /// Make the purchase durable before what follows.
    Store,
    /// Sign the channel's voucher for `amount` and send it.
    Voucher {
        /// What the order has paid with it.
        paid: Satoshis,
        /// What the channel has paid with it.
        amount: Satoshis,
    },
    /// Send this frame: the first of a stream.
    Begin(Box<Begin>),
    /// Send this frame.
    Send(ToSeller),
    /// Tell whoever wanted it.
    Got(Want, Got),
    /// The order has ended with so much paid, with a receipt or without one: its lane in the channel's account ends in the same stored step as the purchase.
    End(Satoshis),
}

/// Why a frame is not followed. Nothing more is to be paid on this stream.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The reading does not verify.
    #[error("the reading does not verify: {0}")]
    Known(#[from] KnownError),
    /// The reading does not fit the schema.
    #[error("the reading does not fit the stream's schema: {0}")]
    Reading(#[from] ReadingError),
    /// The checkpoint, or the receipt, is not the seller's.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The checkpoint cannot be written.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The answer is to another question.
    #[error("the seller answered with `{frame}` where {expected} was asked")]
    Unexpected {
        /// The frame.
        frame: &'static str,
        /// What was awaited.
        expected: &'static str,
    },
    /// The seller counts otherwise.
    #[error("the seller says that it has answered with {said} readings, {here} are here")]
    Counts {
        /// What it says.
        said: u64,
        /// What is here.
        here: u64,
    },
    /// The seller charges for what nobody wanted.
    #[error("the seller says that it has answered with reading {seq}, which was not asked for")]
    NotAsked {
        /// The reading.
        seq: u64,
    },
    /// The seller asks for more than is due.
    #[error("the seller says that {asked} is due, by the offer it is {due}")]
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
    /// More is wanted at a time than is taken.
    #[error("{MAX_WANTED} readings are wanted already: wait for some of them")]
    TooMuch,
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

impl AskError {
    /// Whether the seller says that the order can never go on: then it is to be given up, or to wait until its channel is closed.
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
