//! Why something was not bought, and why a proof does not hold.

use sensora_chain::spv::SpvError;
use sensora_chain::{Satoshis, Txid};
use sensora_protocol::anchor::AnchorError;
use sensora_protocol::codec::CodecError;
use sensora_protocol::market::budget::BudgetError;
use sensora_protocol::market::channel::buyer::BuyerChannelError;
use sensora_protocol::market::channel::offer::ChannelOfferError;
use sensora_protocol::market::channel::spending::SpendingError;
use sensora_protocol::market::choice::NoWay;
use sensora_protocol::market::delivery::DeliveryError;
use sensora_protocol::market::delivery::receive::ReceiveError;
use sensora_protocol::market::key_release::buy::BuyError as ReleaseError;
use sensora_protocol::market::key_release::offer::KeyReleaseOfferError;
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::purchase::PurchaseError;
use sensora_protocol::market::reads::ask::AskError;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::statement::StatementError;
use sensora_protocol::stream::ChunkError;
use sensora_protocol::stream::log::ProofError;
use sensora_protocol::{ChannelId, OrderId, StreamId};

use crate::freeze::Frozen;
use crate::net::RequestError;
use crate::store::StoreError;
use crate::wallet::WalletHandleError;

/// Why something was not bought. What has been paid is never lost sight of: see [`Buyer::resume`](super::Buyer::resume).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuyError {
    /// The seller cannot be asked.
    #[error(
        "seller {seller} does not answer: {source}. The order is kept; `sensora orders --resume` goes on with it"
    )]
    Request {
        /// Peer id.
        seller: String,
        /// Why.
        source: Box<RequestError>,
    },
    /// The seller says no.
    #[error("the seller refuses: {0}")]
    Refused(Refusal),
    /// The seller refused the payment; the coins are being taken back or are back.
    #[error("the seller refused the payment, and the coins are {}: {refusal}", if *.taken_back { "back" } else { "still being taken back" })]
    PaymentRefused {
        /// The order.
        order: OrderId,
        /// What the seller said.
        refusal: Refusal,
        /// The coins are back.
        taken_back: bool,
    },
    /// The buyer has given the order up; the coins are being taken back or are back.
    #[error("order {order} is given up, and the coins are {}", if *.taken_back { "back" } else { "still being taken back" })]
    GivenUp {
        /// The order.
        order: OrderId,
        /// The coins are back.
        taken_back: bool,
    },
    /// The coins of an order for the same readings are back, but not for good.
    #[error(
        "the coins of order {order} are back, but what took them is not 7 blocks deep yet, and its payment might still be taken: paying for the same readings anew might be paying twice. Wait for those blocks, or pay with `--mode direct` once the wallet can spend what came back: such a payment excludes the other"
    )]
    MayReturn {
        /// The order that was taken back.
        order: OrderId,
    },
    /// The seller took the payment and refuses all the same.
    #[error(
        "order {order}: the seller took the payment and does not deliver: {refusal}. The stored order is the evidence; try `sensora orders --resume` again later"
    )]
    Withheld {
        /// The order.
        order: OrderId,
        /// What the seller said.
        refusal: Refusal,
    },
    /// The offer is not acceptable.
    #[error(transparent)]
    Offer(Box<OfferError>),
    /// An answer does not fit or does not verify.
    #[error("order {order}: {source}")]
    Purchase {
        /// The order.
        order: OrderId,
        /// What does not fit.
        source: Box<PurchaseError>,
    },
    /// Every way of paying is closed or risks too much. Nothing was ordered.
    #[error(transparent)]
    NoWay(NoWay),
    /// The channel's seller is waited for.
    #[error("channel {channel} is not open yet: it waits for its seller; the same command goes on with it")]
    ChannelNotOpen {
        /// The channel.
        channel: ChannelId,
    },
    /// A block with the channel's funding is waited for.
    #[error(
        "channel {channel} waits for a block: its seller takes orders on one that holds so much only when its funding is in a block. Nothing is ordered and nothing is lost; after the next block the same command goes on with it"
    )]
    ChannelNotMined {
        /// The channel.
        channel: ChannelId,
    },
    /// A budget is used up. Nothing was ordered.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// A person has frozen the wallet. Nothing was paid.
    #[error(transparent)]
    Frozen(#[from] Frozen),
    /// The wallet cannot pay.
    #[error(transparent)]
    Wallet(Box<WalletHandleError>),
    /// The store failed.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// A stored record does not verify any more.
    #[error("a stored record is damaged: {0}")]
    Damaged(Box<StatementError>),
    /// Something cannot be encoded.
    #[error(transparent)]
    Encoding(#[from] CodecError),
    /// The answer is of another kind than the question.
    #[error("the seller answered `{got}` to `{asked}`")]
    Unexpected {
        /// What was asked.
        asked: &'static str,
        /// What came.
        got: &'static str,
    },
    /// The seller's proof does not hold.
    #[error(transparent)]
    Proof(Box<ProofFailure>),
    /// No readings are asked for.
    #[error("{count} readings from {first} on are none that there can be: ask for at least one")]
    Range {
        /// First sequence number.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Readings that are here or ordered already are not ordered again.
    #[error("readings {first} to {last} of the stream are here or ordered already{}", .order.map(|order| format!(", by order {order}: `sensora orders --resume` goes on with it")).unwrap_or_default())]
    AlreadyOrdered {
        /// First sequence number of the offer.
        first: u64,
        /// Last one.
        last: u64,
        /// The order that is under way.
        order: Option<OrderId>,
    },
    /// No such order.
    #[error("there is no order {0} in this home")]
    UnknownOrder(OrderId),
    /// The order is not complete.
    #[error("order {order} is {state}: nothing of it can be shown yet")]
    NotComplete {
        /// The order.
        order: OrderId,
        /// Its state.
        state: &'static str,
    },
    /// No open channel with the seller has enough left.
    #[error("no open channel with seller {seller} has {needed} left: open one, or pay directly")]
    NoChannel {
        /// Peer id.
        seller: String,
        /// What the order costs.
        needed: Satoshis,
    },
    /// A channel that is opened for the order would hold less than it may cost. None was opened.
    #[error(
        "the order may cost {needed}, and a channel that is opened for it holds {most} for sure (buyer.channel_sat without buyer.max_close_fee_sat): give it a smaller budget, raise buyer.channel_sat, or open a larger one with `sensora channels open --value`. Nothing was spent"
    )]
    AboveChannel {
        /// What the order may cost.
        needed: Satoshis,
        /// The most that a new channel is sure to have for it.
        most: Satoshis,
    },
    /// No such channel.
    #[error("there is no channel {0} in use in this home")]
    UnknownChannel(ChannelId),
    /// Orders run on the channel.
    #[error(
        "orders on channel {channel} may still pay {reserved}: finish them first, by buying the same readings again"
    )]
    ChannelInUse {
        /// The channel.
        channel: ChannelId,
        /// What they may pay.
        reserved: Satoshis,
    },
    /// The seller's offer of a channel is not acceptable.
    #[error(transparent)]
    ChannelOffer(#[from] Box<ChannelOfferError>),
    /// The channel cannot go on.
    #[error(transparent)]
    Channel(Box<BuyerChannelError>),
    /// The channel cannot pay.
    #[error(transparent)]
    Spending(Box<SpendingError>),
    /// A delivery ended before its order did.
    #[error("order {order}: {source}. The order is kept; buying the same readings again goes on with it")]
    Receive {
        /// The order.
        order: OrderId,
        /// Why.
        source: Box<ReceiveError>,
    },
    /// Single readings do not come as they must.
    #[error("order {order} of single readings: {source}")]
    Reads {
        /// The order.
        order: OrderId,
        /// What is wrong.
        source: Box<AskError>,
    },
    /// The stream to the seller broke and could not be made again.
    #[error(
        "order {order}: the stream to the seller ended: {source}. The order is kept; buying the same readings again goes on with it"
    )]
    Stream {
        /// The order.
        order: OrderId,
        /// Why.
        source: Box<crate::net::DeliveryError>,
    },
    /// The seller makes no offer of a batch.
    #[error(
        "seller {seller} makes no offer of a batch: {source}. Nothing is ordered; it may sell these readings another way"
    )]
    NoOffer {
        /// Peer id.
        seller: String,
        /// Why.
        source: Box<crate::net::DeliveryError>,
    },
    /// The seller's offer of a batch is not acceptable.
    #[error(transparent)]
    ReleaseOffer(#[from] Box<KeyReleaseOfferError>),
    /// A purchase by key release cannot go on.
    #[error("order {order}: {source}. The order is kept; buying the same readings again goes on with it")]
    Release {
        /// The order.
        order: OrderId,
        /// Why.
        source: Box<ReleaseError>,
    },
    /// The seller has not shown the key yet.
    #[error(
        "the coin of order {order} is locked, and the seller has not shown the key yet. With the key the readings come; without it the coin comes back at its refund height"
    )]
    KeyAwaited {
        /// The order.
        order: OrderId,
    },
    /// The seller has not shown the key in time.
    #[error("the seller has not shown the key of order {order} in time, and the coin is {}", if *.refunded { "back" } else { "on its way back" })]
    KeyNotShown {
        /// The order.
        order: OrderId,
        /// The coin is back, settled.
        refunded: bool,
    },
    /// The seller has sold what it did not have.
    #[error(
        "order {order}: part {part} is not what was sold. The seller is convicted by its own signature; the proof is kept with the order, and anybody can check it"
    )]
    Cheated {
        /// The order.
        order: OrderId,
        /// The part that shows it.
        part: u32,
    },
    /// The seller has taken the coin and hidden the key in a script.
    #[error(
        "order {order}: the seller has taken the coin with {txid}, whose script computes the key instead of showing it: whoever runs that script has the key"
    )]
    Unreadable {
        /// The order.
        order: OrderId,
        /// What took the coin.
        txid: Txid,
    },
    /// Nobody listens to a live stream any more.
    #[error(
        "order {order}: nobody listens to it any more. It is kept: subscribing again goes on with it, `sensora orders --resume` ends it"
    )]
    Left {
        /// The order.
        order: OrderId,
    },
    /// The order has ended without a receipt.
    #[error("order {order} is over: {state}. What has come of it is here; the rest can be ordered anew")]
    Over {
        /// The order.
        order: OrderId,
        /// Its state.
        state: &'static str,
    },
    /// Another task works on the order.
    #[error("order {order} is worked on already: wait for it, or end it there")]
    Busy {
        /// The order.
        order: OrderId,
    },
    /// The node is stopping.
    #[error("the node is stopping; the order is kept as it is on disk")]
    Stopping,
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Randomness(String),
}

/// Why the proof of readings we have does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofFailure {
    /// A signature.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The readings are not under the anchored checkpoint.
    #[error("the readings are not under the seller's anchored checkpoint: {0}")]
    Range(ProofError),
    /// The anchored log does not continue the one that was bought: the seller has rewritten its history.
    #[error(
        "the seller has rewritten its history: the anchored log of {anchored} readings does not continue the one of {bought} that was sold: {source}"
    )]
    Inconsistent {
        /// Size of the log that was sold.
        bought: u64,
        /// Size of the anchored log.
        anchored: u64,
        /// What the proof says.
        source: ProofError,
    },
    /// The anchored checkpoint is older than what was bought.
    #[error("the seller's proof is for {anchored} readings, {bought} are needed")]
    TooSmall {
        /// Size of the log that was sold.
        bought: u64,
        /// Size of the anchored log.
        anchored: u64,
    },
    /// Of another stream.
    #[error("the seller's proof is of stream {0}")]
    OtherStream(StreamId),
    /// The anchor does not hold.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// A kept run cannot be opened.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A kept delivery does not verify any more.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

impl From<OfferError> for BuyError {
    fn from(error: OfferError) -> Self {
        Self::Offer(Box::new(error))
    }
}

impl From<WalletHandleError> for BuyError {
    fn from(error: WalletHandleError) -> Self {
        Self::Wallet(Box::new(error))
    }
}

impl From<BuyerChannelError> for BuyError {
    fn from(error: BuyerChannelError) -> Self {
        Self::Channel(Box::new(error))
    }
}

impl From<SpendingError> for BuyError {
    fn from(error: SpendingError) -> Self {
        Self::Spending(Box::new(error))
    }
}

impl From<StatementError> for BuyError {
    fn from(error: StatementError) -> Self {
        Self::Damaged(Box::new(error))
    }
}

impl From<StoreError> for BuyError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<ProofFailure> for BuyError {
    fn from(failure: ProofFailure) -> Self {
        Self::Proof(Box::new(failure))
    }
}

impl BuyError {
    /// The seller's proof rests on a block that we have not seen: true or false, our headers cannot tell yet.
    #[must_use]
    pub fn is_ahead_of_headers(&self) -> bool {
        let Self::Proof(failure) = self else { return false };
        matches!(**failure, ProofFailure::Anchor(AnchorError::Spv(SpvError::NoHeader { .. })))
    }
}
