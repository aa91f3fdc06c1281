//! What a buyer keeps of an order that is paid through a channel.

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use serde::{Deserialize, Serialize};

use crate::id::{ChannelId, OrderId};
use crate::identity::Identity;
use crate::market::delivery::meter::Meter;
use crate::market::delivery::terms::{Offered, Terms};
use crate::market::delivery::trail::Trail;
use crate::market::offer::OfferError;
use crate::market::order::Order;
use crate::market::price::PriceError;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes};

/// One order that is paid through a channel, at its buyer. This is the durable record; what it has paid is in the channel's account until it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelPurchase {
    /// The order's id.
    pub id: OrderId,
    /// Who sells.
    pub seller: PublicKey,
    /// The offer that was accepted.
    pub offer: Offered,
    /// The order.
    pub order: SignedBytes,
    /// The channel that pays.
    pub channel: ChannelId,
    /// The most that the order may cost.
    pub budget: Satoshis,
    /// Next sequence number that is missing.
    pub next: u64,
    /// What the readings before it are charged for, by the second.
    pub meter: Meter,
    /// Of a live stream: what the next page is held against.
    pub trail: Option<Trail>,
    /// When it was agreed, milliseconds since the Unix epoch.
    pub agreed_ms: i64,
    /// How far it has come.
    pub state: ChannelPurchaseState,
}

/// What an order may still come to when it has been stopped, fixed once: whatever its seller says or sends later raises neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// What was paid or due when it was stopped. No more is paid before the seller has said where the order ends.
    pub at_once: Satoshis,
    /// What it may come to in all: beyond that, the readings that an honest seller can have had under way, which is its credit.
    pub in_all: Satoshis,
}

/// How far a purchase has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelPurchaseState {
    /// Readings come and are paid.
    Running,
    /// No more readings are wanted; those before `end`, where it is known, are still to be received and paid.
    Stopping {
        /// Sequence number after the last reading, as the seller says.
        end: Option<u64>,
        /// What it may still come to; none before its seller has begun.
        #[serde(default)]
        bound: Option<Bound>,
    },
    /// It has ended with its receipt, and what is here is paid.
    Ended {
        /// The seller's receipt.
        receipt: SignedBytes,
        /// How many readings of a range it ended without: the buyer, its budget or the channel's end has stopped it, or its seller has.
        #[serde(default)]
        missing: u64,
    },
    /// The seller has refused it before anything was paid.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// The channel was closed before the receipt came. What was paid stays paid; what was due beyond that can never be paid.
    LeftUnpaid {
        /// What was paid.
        paid: Satoshis,
        /// What was due for the readings that came.
        due: Satoshis,
    },
    /// The buyer has given it up: its seller has forgotten it, or is gone. What was paid stays paid, for the seller may have the vouchers; nothing is paid
    /// for it any more.
    GivenUp {
        /// What was paid, or may have been.
        paid: Satoshis,
        /// What was due for the readings that came.
        due: Satoshis,
    },
}

impl ChannelPurchase {
    /// Takes an offer that was accepted: signs the order. Nothing is owed yet.
    ///
    /// # Errors
    /// [`OfferError`] where offer or order do not hold.
    #[expect(clippy::too_many_arguments, reason = "each is a separate fact of the order")]
    pub fn agree(
        offer: Offered,
        seller: &PublicKey,
        channel: ChannelId,
        budget: Satoshis,
        nonce: [u8; 16],
        buyer: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<(Self, Terms), OfferError> {
        let terms = offer.terms(network, seller)?;
        let order = Order { offer: terms.offer, buyer: *buyer.public(), nonce };
        let order = Signed::sign(order, buyer, network)?;
        let budget = terms.total().map_or(budget, |total| total.min(budget));
        let purchase = Self {
            id: order.id(network),
            seller: *seller,
            offer,
            order: order.into_bytes(),
            channel,
            budget,
            next: terms.first,
            meter: Meter::default(),
            trail: None,
            agreed_ms: now_ms,
            state: ChannelPurchaseState::Running,
        };
        Ok((purchase, terms))
    }

    /// What is due for what is here.
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn due(&self, terms: &Terms) -> Result<Satoshis, PriceError> {
        terms.due(self.next, self.meter.charged_ms)
    }

    /// What is paid and not received, given what the order has `paid`: after a restart the stakes with the seller begin with it, for every
    /// order that has not ended, before any goes on.
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn open(&self, terms: &Terms, paid: Satoshis) -> Result<Satoshis, PriceError> {
        if self.is_final() { Ok(Satoshis::ZERO) } else { Ok(paid.saturating_sub(self.due(terms)?)) }
    }

    /// Gives the order up, which no stream serves: see [`ReceiveEvent::GiveUp`](super::ReceiveEvent::GiveUp). `paid` is what the account says that it has
    /// paid, if that was asked of the seller since the start, and then its lane ends with that
    /// ([`Reservation::end`](crate::market::channel::spending::Reservation::end)); else what
    /// [`Reservation::forfeit`](crate::market::channel::spending::Reservation::forfeit) answers. In one stored step. Answers whether it was open before.
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn give_up(&mut self, terms: &Terms, paid: Satoshis) -> Result<bool, PriceError> {
        let due = self.due(terms)?;
        Ok(self.leave(ChannelPurchaseState::GivenUp { paid, due }))
    }

    /// The channel has been closed, and no stream serves the order: as [`ChannelPurchase::give_up`].
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn channel_closed(&mut self, terms: &Terms, paid: Satoshis) -> Result<bool, PriceError> {
        let due = self.due(terms)?;
        Ok(self.leave(ChannelPurchaseState::LeftUnpaid { paid, due }))
    }

    fn leave(&mut self, state: ChannelPurchaseState) -> bool {
        let open = !self.is_final();
        if open {
            self.state = state;
        }
        open
    }

    /// Whether nothing more is to be done.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self.state {
            ChannelPurchaseState::Running | ChannelPurchaseState::Stopping { .. } => false,
            ChannelPurchaseState::Ended { .. }
            | ChannelPurchaseState::Refused { .. }
            | ChannelPurchaseState::LeftUnpaid { .. }
            | ChannelPurchaseState::GivenUp { .. } => true,
        }
    }
}

impl ChannelPurchaseState {
    /// Whether all that was ordered is here and paid, with the seller's receipt. A live order has no more than what came.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        matches!(self, Self::Ended { missing: 0, .. })
    }

    /// The state's name in lower case, for people and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping { .. } => "stopping",
            Self::Ended { missing: 0, .. } => "ended",
            Self::Ended { .. } => "ended early",
            Self::Refused { .. } => "refused",
            Self::LeftUnpaid { .. } => "left unpaid",
            Self::GivenUp { .. } => "given up",
        }
    }
}
