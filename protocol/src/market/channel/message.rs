//! What is asked and answered about channels over `/sensora/market/1`.

use sensora_chain::Satoshis;
use sensora_chain::keys::Signature;
use serde::{Deserialize, Serialize};

use crate::id::{ChannelId, OrderId};
use crate::statement::{SignedBytes, bytes_or_hex};

/// Opens a channel. Answered with a [`ChannelReport`]; the same each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenChannel {
    /// The seller's signed [`ChannelOffer`](super::offer::ChannelOffer), as it was received.
    pub offer: SignedBytes,
    /// The funding transaction: Atomic BEEF (BRC-95), within [`BeefLimits::PAYMENT`](sensora_chain::beef::BeefLimits::PAYMENT).
    #[serde(with = "bytes_or_hex")]
    pub funding: Vec<u8>,
}

/// Asks the seller to close a channel now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseChannel {
    /// The channel.
    pub channel: ChannelId,
    /// What has been paid, as the buyer sees it: where nothing has been, this is what the seller closes with.
    pub paid: Satoshis,
    /// The buyer's signature of the close with that amount.
    pub signature: Signature,
}

/// Asks what has been paid on a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskChannel {
    /// The channel.
    pub channel: ChannelId,
    /// The orders whose parts are asked for: at most [`MAX_LANES`](super::spending::MAX_LANES).
    pub orders: Vec<OrderId>,
}

/// How a channel stands with its seller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelStanding {
    /// Orders can be paid with it.
    Open,
    /// They can, when the funding is in a block.
    WaitsForBlock,
    /// The orders on it come to their end: vouchers are taken for what has been delivered, and no order begins.
    Ending,
    /// It is being closed, or will be left to the buyer's refund.
    Closing,
}

/// What the seller says of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelReport {
    /// How it stands.
    pub standing: ChannelStanding,
    /// The highest voucher.
    pub highest: Satoshis,
    /// What orders have paid by it, those that have ended included. The rest of the highest voucher was paid ahead, or its orders' own vouchers were lost.
    pub booked: Satoshis,
    /// The buyer's own signature under the highest voucher; none where nothing was paid.
    pub signature: Option<Signature>,
    /// What each order that was asked for has paid, in the order of the question.
    pub paid: Vec<Satoshis>,
}
