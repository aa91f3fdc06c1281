//! The receipt: the seller's signed word that an order has been paid.

use sensora_chain::{Satoshis, Txid};
use serde::{Deserialize, Serialize};

use crate::id::{ChannelId, Hash, OrderId, StreamId};
use crate::statement::Statement;

/// How long a seller answers for an order: its receipt can be shown and its readings fetched again for 30 days.
pub const HOLD_MS: i64 = 30 * 24 * 3600 * 1000;

/// An order has been paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The order.
    pub order: OrderId,
    /// Digest of the offer that was ordered.
    pub offer: Hash,
    /// The stream.
    pub stream: StreamId,
    /// First sequence number that was bought.
    pub first: u64,
    /// Readings that were bought.
    pub count: u64,
    /// What was paid.
    pub paid: Satoshis,
    /// The transaction that paid.
    pub txid: Txid,
    /// When the receipt was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
}

impl Statement for Receipt {
    const NAME: &'static str = "sensora/receipt";
    const MAX_LEN: usize = 320;
}

/// An order has been paid through a channel, and delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelReceipt {
    /// The order.
    pub order: OrderId,
    /// Digest of the offer that was ordered.
    pub offer: Hash,
    /// The stream.
    pub stream: StreamId,
    /// First sequence number that was bought.
    pub first: u64,
    /// Readings that were delivered.
    pub count: u64,
    /// What the order paid.
    pub paid: Satoshis,
    /// The channel that paid it.
    pub channel: ChannelId,
    /// When the receipt was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
}

impl Statement for ChannelReceipt {
    const NAME: &'static str = "sensora/channel-receipt";
    const MAX_LEN: usize = 320;
}
