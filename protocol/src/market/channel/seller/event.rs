//! How far a channel has come at its seller, what happens to it, and what follows from that.

use sensora_chain::{Satoshis, Transaction, Txid};
use serde::{Deserialize, Serialize};

use crate::id::OrderId;
use crate::market::channel::message::CloseChannel;
use crate::market::refusal::Refusal;

/// How far a channel has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SellerChannelState {
    /// The funding verifies; the network has not answered yet.
    Admitted,
    /// Vouchers are taken.
    Open,
    /// The close is out, or nothing was paid and the rest is the buyer's.
    Closing,
    /// The close is in a block.
    Closed {
        /// The close.
        txid: Txid,
        /// Its block.
        height: u32,
    },
    /// The output was spent otherwise: the buyer has taken it back, or the funding is void.
    Gone {
        /// What happened.
        reason: Loss,
    },
}

/// How a channel ended without our close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Loss {
    /// The buyer took everything back.
    #[error("the buyer has taken it back with {0}")]
    Refunded(Txid),
    /// Something that we never signed.
    #[error("it was spent by {0}, which is no close of it")]
    Spent(Txid),
    /// The funding was double-spent.
    #[error("its funding was spent otherwise")]
    NeverFunded,
}

/// What has happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum SellerChannelEvent {
    /// The network has taken the funding (or had it already).
    Accepted,
    /// The network refuses the funding.
    Rejected {
        /// Another transaction has spent an input.
        double_spent: bool,
        /// What the network says.
        reason: String,
    },
    /// No chain source answered: nothing is known.
    Unavailable,
    /// The funding is in the block at this height; none after a reorganisation that took it out.
    Mined(Option<u32>),
    /// The newest block has this height.
    Tip(u32),
    /// Buyer or owner want it closed at once, whatever runs on it.
    CloseAsked(Option<CloseChannel>),
    /// Its owner wants it closed, and the newest block has this height: the orders on it end first.
    EndAsked(u32),
    /// The seller wants this order ended, which runs on it: no more readings go out than are paid, and what was sent is to be paid.
    EndOrder(OrderId),
    /// The output was spent, in the block at this height.
    Spent {
        /// By this transaction.
        transaction: Box<Transaction>,
        /// In this block.
        height: u32,
    },
    /// It is unspent again, after a reorganisation.
    Unspent,
}

/// What the driver is to do, after storing the channel.
#[derive(Debug, Clone, PartialEq)]
pub enum SellerChannelAction {
    /// Give the funding to the network and come back with an event.
    BroadcastFunding,
    /// Give the close to the network; it is repeated until it is in a block.
    BroadcastClose(Box<Transaction>),
    /// Answer the buyer with [`SellerChannel::report`](super::SellerChannel::report).
    Report,
    /// Answer the buyer with this refusal.
    Refuse(Refusal),
    /// Remove the stored channel: nothing was taken.
    Forget,
    /// Take our part of the mined close into the wallet, in the same stored step as the channel.
    Credit {
        /// The close.
        transaction: Box<Transaction>,
        /// Its block.
        height: u32,
        /// What is ours in it.
        paid: Satoshis,
    },
    /// The wallet's coin of a close is void, in the same stored step as the channel: the close left its block.
    Uncredit(Txid),
    /// Money is lost, or may be: tell the owner.
    Alarm(Loss),
}

impl SellerChannelState {
    /// The state's name in lower case, for people and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed { .. } => "closed",
            Self::Gone { .. } => "gone",
        }
    }

    /// Whether nothing more is to be done, unless a reorganisation comes.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Gone { .. })
    }
}
