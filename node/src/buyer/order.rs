//! What is asked for, how far it has come, and what came of it.

use sensora_chain::keys::PublicKey;
use sensora_chain::{Satoshis, Txid};
use sensora_protocol::ad::StreamAd;
use sensora_protocol::market::offer::{BuyerLimits, Range};
use sensora_protocol::market::purchase::PurchaseState;
use sensora_protocol::{OrderId, StreamId};

/// What to buy.
#[derive(Debug, Clone, PartialEq)]
pub struct BuyRequest {
    /// From whom.
    pub seller: PublicKey,
    /// Which stream.
    pub stream: StreamId,
    /// Which readings.
    pub range: Range,
    /// What may be spent.
    pub limits: BuyerLimits,
    /// The seller's ad of the stream: no offer dearer than it is taken.
    pub ad: Option<StreamAd>,
}

/// How far a purchase has come, for a person who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The seller's price is known and within the limits.
    Quoted {
        /// Readings.
        count: u64,
        /// Price of all.
        total: Satoshis,
    },
    /// The payment is signed and stored.
    Paying {
        /// The order.
        order: OrderId,
        /// The payment.
        txid: Txid,
    },
    /// Readings have come in and are verified.
    Received {
        /// So many of this order.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// Waiting for the seller.
    Waiting {
        /// Why.
        reason: String,
    },
}

/// What was bought.
#[derive(Debug, Clone, PartialEq)]
pub struct Bought {
    /// The stream.
    pub stream: StreamId,
    /// First sequence number.
    pub first: u64,
    /// Number of readings.
    pub count: u64,
    /// Orders that were made for it; none when all was there.
    pub orders: Vec<OrderId>,
    /// Readings that were here before and were not paid again.
    pub kept: u64,
    /// What was paid to the seller.
    pub paid: Satoshis,
}

/// An order, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderSummary {
    /// The order.
    pub order: OrderId,
    /// Peer id of the seller.
    pub seller: String,
    /// The stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// First sequence number.
    pub first: u64,
    /// Number of readings.
    pub count: u64,
    /// Readings that are here.
    pub received: u64,
    /// Price of all.
    pub total: Satoshis,
    /// The payment, once signed.
    pub txid: Option<Txid>,
    /// State of the purchase.
    pub state: PurchaseState,
    /// When it was made, milliseconds since the Unix epoch.
    pub agreed_ms: i64,
}
