//! What a seller keeps of an order that is paid through a channel.

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use serde::{Deserialize, Serialize};

use crate::id::{ChannelId, OrderId};
use crate::identity::Identity;
use crate::market::delivery::frame::Begin;
use crate::market::delivery::meter::Meter;
use crate::market::delivery::terms::{Offered, Terms};
use crate::market::receipt::ChannelReceipt;
use crate::market::refusal::Refusal;
use crate::statement::SignedBytes;

/// One order that is paid through a channel, at its seller. This is the durable record; what it has paid is in the channel's account until it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelSale {
    /// The order's id.
    pub order: OrderId,
    /// Who buys.
    pub buyer: PublicKey,
    /// The offer that is ordered.
    pub offer: Offered,
    /// The buyer's signed order.
    pub signed_order: SignedBytes,
    /// The channel that pays.
    pub channel: ChannelId,
    /// For how much readings may have gone out, where that is more than was paid then.
    pub granted: Satoshis,
    /// Where the last stream of the order began, and what the readings before that are charged for. By the second a later stream is counted on from there,
    /// out of the log: so nothing about time has to be stored with each voucher, and no crash can lose it.
    pub mark: Mark,
    /// When it was admitted, milliseconds since the Unix epoch.
    pub admitted_ms: i64,
    /// How far it has come.
    pub state: ChannelSaleState,
}

/// A position in an order, and what the readings before it are charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Sequence number of the next reading.
    pub next: u64,
    /// What those before it are charged for.
    pub meter: Meter,
}

/// How far a sale has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelSaleState {
    /// Readings go out as they are paid.
    Running,
    /// No more readings are wanted, or budget or channel hold no more; what was sent is to be paid.
    Stopped {
        /// Sequence number after the last reading that is sent.
        end: u64,
        /// What is due for those before it.
        due: Satoshis,
    },
    /// All is paid.
    Ended {
        /// The seller's signed receipt.
        receipt: SignedBytes,
    },
    /// The channel was closed before all was paid. It can never be paid: for as long as the sale is kept, it lessens what is lent to its buyer.
    LeftUnpaid {
        /// What was paid.
        paid: Satoshis,
        /// For how much more readings may have gone out.
        unpaid: Satoshis,
    },
}

/// What a seller's channel is to an order that wants to be paid through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelView {
    /// The channel.
    pub id: ChannelId,
    /// Who pays with it.
    pub buyer: PublicKey,
    /// What no order has been charged yet.
    pub free: Satoshis,
}

/// What an order is held against.
pub struct SupplyAdmission<'a> {
    /// The seller.
    pub seller: &'a Identity,
    /// The network.
    pub network: Network,
    /// Who sends the request, as the transport knows it.
    pub peer: &'a PublicKey,
    /// The channel that is named.
    pub channel: ChannelView,
    /// Now, milliseconds since the Unix epoch.
    pub now_ms: i64,
}

impl ChannelSale {
    /// Admits an order that begins: the offer is ours, for this peer and still holds; the order is of it; the channel is the peer's
    /// and can pay. Answers the sale to store.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing is to be stored then.
    pub fn admit(begin: &Begin, at: &SupplyAdmission<'_>) -> Result<(Self, Terms), Refusal> {
        let invalid = |reason: &str| Refusal::InvalidOrder { reason: reason.into() };
        let foreign = |reason: String| Refusal::ForeignOffer { reason };
        let order = begin.order_of(at.network, at.peer)?;
        let terms = begin.offer.terms(at.network, at.seller.public());
        let terms = terms.map_err(|error| foreign(error.to_string()))?;
        if order.value().offer != terms.offer {
            return Err(invalid("it is for another offer"));
        }
        if &terms.buyer != at.peer {
            return Err(foreign("it was made to another buyer".into()));
        }
        if terms.expires_ms <= at.now_ms {
            return Err(Refusal::OfferExpired { expires_ms: terms.expires_ms });
        }
        let ChannelView { id: channel, buyer, free } = at.channel;
        if channel != begin.channel || &buyer != at.peer {
            return Err(Refusal::UnknownChannel { channel: begin.channel });
        }
        let unit = terms.unit().map_err(|error| foreign(error.to_string()))?;
        let price = terms.total().unwrap_or(unit);
        if price > free {
            return Err(Refusal::ChannelTooSmall { channel, price, free });
        }
        let sale = Self {
            order: order.id(at.network),
            buyer: *at.peer,
            offer: begin.offer.clone(),
            signed_order: begin.order.clone(),
            channel,
            granted: Satoshis::ZERO,
            mark: Mark { next: terms.first, meter: Meter::default() },
            admitted_ms: at.now_ms,
            state: ChannelSaleState::Running,
        };
        Ok((sale, terms))
    }

    /// Whether nothing more is to be done.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self.state, ChannelSaleState::Ended { .. } | ChannelSaleState::LeftUnpaid { .. })
    }

    /// What the order has paid, where that is final: then it has no lane in the channel's account any more.
    #[must_use]
    pub fn finally_paid(&self, network: Network) -> Option<Satoshis> {
        match self.state {
            ChannelSaleState::LeftUnpaid { paid, .. } => Some(paid),
            _ => self.receipt(network).map(|receipt| receipt.paid),
        }
    }

    /// The channel has been closed, and the order, which no stream serves, has `paid` so much: what is open in it stays unpaid. Where this answers
    /// an amount, its lane is to [end](crate::market::channel::earning::Earning::end) with that in the step in which the sale is stored; it answers none
    /// where the order had ended before.
    pub fn leave(&mut self, paid: Satoshis) -> Option<Satoshis> {
        let unpaid = match self.state {
            ChannelSaleState::Running => self.granted.saturating_sub(paid),
            ChannelSaleState::Stopped { due, .. } => due.saturating_sub(paid),
            ChannelSaleState::Ended { .. } | ChannelSaleState::LeftUnpaid { .. } => return None,
        };
        self.state = ChannelSaleState::LeftUnpaid { paid, unpaid };
        Some(paid)
    }

    /// The receipt, once the order has ended.
    #[must_use]
    pub fn receipt(&self, network: Network) -> Option<ChannelReceipt> {
        let ChannelSaleState::Ended { receipt } = &self.state else { return None };
        receipt.clone().verify::<ChannelReceipt>(network).ok().map(|signed| signed.value().clone())
    }

    /// Lets an order go on that was admitted before, by the sale that is stored under [`Begin::order_id`]: it goes on with its buyer and on its
    /// channel, though the offer may have expired meanwhile and the channel have less left than the order's price.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing is to be delivered then.
    pub fn go_on(&self, begin: &Begin, network: Network, seller: &Identity) -> Result<Terms, Refusal> {
        let order = self.order;
        if begin.order_id(network, &self.buyer)? != order {
            return Err(Refusal::UnknownOrder { order });
        }
        if begin.channel != self.channel {
            return Err(Refusal::InvalidOrder {
                reason: format!("it is paid through channel {}", self.channel),
            });
        }
        if let ChannelSaleState::LeftUnpaid { .. } = self.state {
            return Err(Refusal::ChannelClosed { channel: self.channel });
        }
        let terms = self.offer.terms(network, seller.public());
        terms.map_err(|error| Refusal::ForeignOffer { reason: error.to_string() })
    }

    /// What may have been delivered and is not paid, given what the order has `paid`.
    #[must_use]
    pub fn open(&self, paid: Satoshis) -> Satoshis {
        match self.state {
            ChannelSaleState::Ended { .. } | ChannelSaleState::LeftUnpaid { .. } => Satoshis::ZERO,
            ChannelSaleState::Running | ChannelSaleState::Stopped { .. } => self.granted.saturating_sub(paid),
        }
    }
}
