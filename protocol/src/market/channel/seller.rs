//! A channel at its seller, as a state machine.
//!
//! ```text
//!           admit              Accepted, Mined            it is to be closed
//!  request ───────▶ Admitted ───────────────────▶ Open ───────────────────────▶ Closing
//!    │               │  ▲                          │ ▲                           │  ▲
//!    │ Refusal       │  └ Unavailable              │ └ vouchers are booked       │  └ each block: the close
//!    ▼               │ Rejected                    │                             │    goes out again
//!  nothing kept      ▼                             ├─────────────────────────────┤
//!                 forgotten                        │ Spent by a close            │ Spent otherwise, or the
//!                                                  ▼                             ▼ funding is double-spent
//!                                                Closed                         Gone
//!                                                  │ Unspent                     │ Unspent, Mined
//!                                                  └─────────▶ Closing ◀─────────┘
//! ```
//!
//! It is to be closed when its buyer asks for it, at the refund height less the margin, and when its owner wants it closed. Back to `Closing` leads a
//! reorganisation that takes out what had spent it, or one that brings a funding back. One that is still `Admitted` when it would have to be closed is
//! forgotten.
//!
//! Orders end before their channel: where its owner wants it closed, from [`SellerChannelEvent::EndAsked`] on none begins on it and those that run
//! come to their end; the close goes out when the last of them has, or [`LAST_ORDERS`] blocks later.
//!
//! Invariant I4: the booked amount only grows, and the highest voucher settles all; a buyer that asks for the close itself may have back what it paid
//! ahead. I6: the close goes out [`ChannelOffer::margin`] blocks before
//! the buyer could take everything back, and nothing is sold on the channel any more.

#![warn(clippy::arithmetic_side_effects)]

mod event;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::channel::{Channel, ChannelSpend, Voucher, VoucherError};
use sensora_chain::header::HeaderView;
use sensora_chain::keys::{PublicKey, Signature};
use sensora_chain::spv;
use sensora_chain::{Network, OutPoint, Satoshis, Transaction};
use serde::{Deserialize, Serialize};

use super::earning::{Earning, EarningError};
use super::message::{ChannelReport, ChannelStanding, OpenChannel};
use super::offer::{ChannelKeys, ChannelOffer, LAST_ORDERS, signing_invoice};
use crate::id::{ChannelId, OrderId};
use crate::identity::Identity;
use crate::market::delivery::frame::OrderVoucher;
use crate::market::delivery::supply::ChannelView;
use crate::market::refusal::Refusal;
use crate::market::sale::Admission;
use crate::statement::{SignedBytes, StatementError, bytes_or_hex};

pub use event::{Loss, SellerChannelAction, SellerChannelEvent, SellerChannelState};

/// A channel at its seller. This is the durable record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SellerChannel {
    /// The channel.
    pub id: ChannelId,
    /// Who pays with it.
    pub buyer: PublicKey,
    /// Our signed offer of it.
    pub offer: SignedBytes,
    /// Its funding: Atomic BEEF.
    #[serde(with = "bytes_or_hex")]
    pub funding: Vec<u8>,
    /// The output that funds it.
    pub outpoint: OutPoint,
    /// What was paid.
    pub earning: Earning,
    /// The buyer's signature under the highest voucher.
    pub signature: Option<Signature>,
    /// The block of the funding, once it is in one.
    pub mined: Option<u32>,
    /// The height of the chain at which its owner wanted it closed, where it did: orders come to their end from then on.
    #[serde(default)]
    pub ends_from: Option<u32>,
    /// When it was admitted, milliseconds since the Unix epoch.
    pub admitted_ms: i64,
    /// How far it has come.
    pub state: SellerChannelState,
}

/// Why a voucher is not booked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BookError {
    /// The channel takes none now.
    #[error("the channel takes no vouchers now")]
    NotOpen,
    /// The sums do not fit.
    #[error(transparent)]
    Earning(#[from] EarningError),
    /// The signature is worth nothing.
    #[error(transparent)]
    Voucher(#[from] VoucherError),
}

impl SellerChannel {
    /// Admits a request: the offer is ours, for this peer and still holds, and a transaction that verifies down to block headers pays what it asks
    /// for to the channel's script. Answers the channel to store and whose funding then to broadcast.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing is to be stored then.
    pub fn admit<H: HeaderView>(request: OpenChannel, at: &Admission<'_, H>) -> Result<Self, Refusal> {
        let foreign = |reason: String| Refusal::ForeignOffer { reason };
        let offer = request.offer.clone().verify_by::<ChannelOffer>(at.network, at.seller.public());
        let offer = offer.map_err(|error| foreign(error.to_string()))?;
        let (id, terms) = (offer.channel_id(at.network), offer.value());
        if &terms.buyer != at.peer {
            return Err(foreign("it was made to another buyer".into()));
        }
        if terms.expires_ms <= at.now_ms {
            return Err(Refusal::OfferExpired { expires_ms: terms.expires_ms });
        }
        if at.headers.tip_height() >= terms.closes_at() {
            return Err(Refusal::ChannelClosed { channel: id });
        }
        let invalid = |reason: String| Refusal::PaymentInvalid { reason };
        let beef = Beef::parse(&request.funding, &BeefLimits::PAYMENT).map_err(|e| invalid(e.to_string()))?;
        let txid = beef.subject().ok_or_else(|| invalid("it holds no transaction".into()))?;
        let funding =
            beef.transaction(&txid).ok_or_else(|| invalid("it has no subject transaction".into()))?;
        let keys = ChannelKeys::for_seller(&id, at.seller.key(), at.peer);
        let locking = terms.locking(&keys);
        let found = funding.outputs.iter().position(|output| output.locking == locking);
        let vout = found.ok_or(Refusal::PaymentToWrongKey { txid })?;
        let paid = funding.outputs.get(vout).map_or(Satoshis::ZERO, |output| output.value);
        if paid != terms.value {
            return Err(Refusal::PaymentTooSmall { txid, paid, price: terms.value });
        }
        let vout = u32::try_from(vout).map_err(|_| invalid("too many outputs".into()))?;
        let outpoint = OutPoint { txid, vout };
        let channel = terms.channel(&keys, outpoint).map_err(|error| foreign(error.to_string()))?;
        spv::verify(&beef, &txid, at.headers)
            .map_err(|error| Refusal::unverified(&error, at.headers.tip_height()))?;
        Ok(Self {
            id,
            buyer: *at.peer,
            offer: request.offer,
            funding: request.funding,
            outpoint,
            earning: Earning::new(channel.capacity()),
            signature: None,
            mined: None,
            ends_from: None,
            admitted_ms: at.now_ms,
            state: SellerChannelState::Admitted,
        })
    }

    /// The offer, and the channel as the chain knows it.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn contract(
        &self,
        seller: &Identity,
        network: Network,
    ) -> Result<(ChannelOffer, Channel), StatementError> {
        let offer = self.offer.clone().verify_by::<ChannelOffer>(network, seller.public())?;
        let keys = ChannelKeys::for_seller(&self.id, seller.key(), &self.buyer);
        let altered = |_| StatementError::Signature {
            name: <ChannelOffer as crate::statement::Statement>::NAME,
            signer: seller.peer_id(),
            network,
        };
        let channel = offer.value().channel(&keys, self.outpoint).map_err(altered)?;
        Ok((offer.value().clone(), channel))
    }

    /// How it stands, when the newest block is at `tip`.
    #[must_use]
    pub fn standing(&self, offer: &ChannelOffer, tip: u32) -> ChannelStanding {
        match self.state {
            SellerChannelState::Open if tip >= offer.closes_at() => ChannelStanding::Closing,
            SellerChannelState::Open if tip >= offer.orders_end_at() => ChannelStanding::Ending,
            SellerChannelState::Open if offer.when_mined && self.mined.is_none() => {
                ChannelStanding::WaitsForBlock
            }
            SellerChannelState::Open if self.ends_from.is_some() => ChannelStanding::Ending,
            SellerChannelState::Open => ChannelStanding::Open,
            SellerChannelState::Admitted => ChannelStanding::WaitsForBlock,
            _ => ChannelStanding::Closing,
        }
    }

    /// What the buyer is told.
    #[must_use]
    pub fn report(&self, standing: ChannelStanding, paid: Vec<Satoshis>) -> ChannelReport {
        let Earning { highest, .. } = self.earning;
        // Only a record that was altered has no sum.
        let booked = self.earning.paid().unwrap_or(highest);
        ChannelReport { standing, highest, booked, signature: self.signature, paid }
    }

    /// Whether it takes vouchers for orders that run, which it does longer than it takes orders.
    ///
    /// # Errors
    /// [`Refusal::ChannelClosed`], [`Refusal::ChannelNotMined`].
    pub fn takes_vouchers(&self, standing: ChannelStanding) -> Result<(), Refusal> {
        if standing == ChannelStanding::Ending { Ok(()) } else { self.view(standing).map(|_| ()) }
    }

    /// Whether its owner wants it closed and nothing is to be waited for any more: the next [`SellerChannelEvent::Tip`] closes it.
    #[must_use]
    pub fn has_ended(&self, tip: u32) -> bool {
        let waited = |from: u32| self.earning.lanes.is_empty() || tip >= from.saturating_add(LAST_ORDERS);
        self.state == SellerChannelState::Open && self.ends_from.is_some_and(waited)
    }

    /// Whether no voucher for an order is ever taken again, whatever the chain does: the orders that run are told
    /// [`SupplyEvent::Closed`](crate::market::delivery::supply::SupplyEvent::Closed).
    #[must_use]
    pub const fn leaves_orders(&self) -> bool {
        !matches!(self.state, SellerChannelState::Admitted | SellerChannelState::Open)
    }

    /// What an order that wants to begin on it is held against.
    ///
    /// # Errors
    /// [`Refusal::ChannelClosed`], [`Refusal::ChannelNotMined`].
    pub fn view(&self, standing: ChannelStanding) -> Result<ChannelView, Refusal> {
        match standing {
            ChannelStanding::Open => {
                // Not what the highest voucher leaves: what orders that have ended had paid ahead pays for the next. Only a record that was altered has no sum.
                let paid = self.earning.paid().unwrap_or(self.earning.highest);
                let free = self.earning.capacity.saturating_sub(paid);
                Ok(ChannelView { id: self.id, buyer: self.buyer, free })
            }
            ChannelStanding::WaitsForBlock => Err(Refusal::ChannelNotMined { channel: self.id }),
            ChannelStanding::Ending | ChannelStanding::Closing => {
                Err(Refusal::ChannelClosed { channel: self.id })
            }
        }
    }

    /// The channel with a voucher booked for an order, to be stored before anything is delivered for it, in the same step as the order's sale.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn book(
        &self,
        channel: &Channel,
        order: &OrderId,
        voucher: &OrderVoucher,
    ) -> Result<Self, BookError> {
        let next = self.book_verified(order, voucher)?;
        if next.earning.highest > self.earning.highest {
            channel.verify_voucher(&Voucher { paid: voucher.amount, signature: voucher.signature })?;
        }
        Ok(next)
    }

    /// As [`SellerChannel::book`], for a voucher whose signature was verified before.
    ///
    /// # Errors
    /// [`BookError::NotOpen`], [`BookError::Earning`].
    pub fn book_verified(&self, order: &OrderId, voucher: &OrderVoucher) -> Result<Self, BookError> {
        if self.state != SellerChannelState::Open {
            return Err(BookError::NotOpen);
        }
        let earning = self.earning.with(order, voucher.paid, voucher.amount)?;
        let is_highest = earning.highest > self.earning.highest;
        let signature = if is_highest { Some(voucher.signature) } else { self.signature };
        Ok(Self { earning, signature, ..self.clone() })
    }

    /// Takes an event; see the module for the states.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn handle(
        &mut self,
        event: SellerChannelEvent,
        seller: &Identity,
        network: Network,
    ) -> Result<Vec<SellerChannelAction>, StatementError> {
        use SellerChannelAction as Action;
        let (offer, channel) = self.contract(seller, network)?;
        Ok(match (event, &self.state) {
            (SellerChannelEvent::Accepted, SellerChannelState::Admitted) => {
                self.state = SellerChannelState::Open;
                vec![Action::Report]
            }
            (SellerChannelEvent::Accepted, _) => Vec::new(),
            (SellerChannelEvent::Rejected { double_spent, reason }, SellerChannelState::Admitted) => {
                let txid = self.outpoint.txid;
                let refusal = match double_spent {
                    true => Refusal::DoubleSpent { txid },
                    false => Refusal::PaymentRejected { txid, reason },
                };
                vec![Action::Forget, Action::Refuse(refusal)]
            }
            (SellerChannelEvent::Unavailable, SellerChannelState::Admitted) => {
                vec![Action::Refuse(Refusal::ChainUnavailable)]
            }
            (
                SellerChannelEvent::Rejected { double_spent: true, .. },
                SellerChannelState::Open | SellerChannelState::Closing,
            ) if self.mined.is_none() => self.lose(Loss::NeverFunded),
            (SellerChannelEvent::Rejected { .. } | SellerChannelEvent::Unavailable, _) => Vec::new(),
            (SellerChannelEvent::Mined(height), _) => {
                self.mined = height;
                match (height, &self.state) {
                    (Some(_), SellerChannelState::Admitted) => {
                        self.state = SellerChannelState::Open;
                        Vec::new()
                    }
                    // It was given up, and a reorganisation brought it back.
                    (Some(_), SellerChannelState::Gone { reason: Loss::NeverFunded }) => {
                        self.close(&channel, seller)
                    }
                    _ => Vec::new(),
                }
            }
            (SellerChannelEvent::Tip(tip), SellerChannelState::Open | SellerChannelState::Closing) => {
                // Whoever has forgotten the funding, or lost it in a reorganisation, hears of it again; and if it was spent
                // otherwise, we hear of that.
                let again = self.mined.is_none().then_some(Action::BroadcastFunding);
                let is_closing = self.state == SellerChannelState::Closing;
                let due = is_closing || tip >= offer.closes_at() || self.has_ended(tip);
                let close = if due { self.close(&channel, seller) } else { Vec::new() };
                again.into_iter().chain(close).collect()
            }
            // Nothing was sold on it, and nothing will be.
            (SellerChannelEvent::Tip(tip), SellerChannelState::Admitted) if tip >= offer.closes_at() => {
                vec![Action::Forget]
            }
            (SellerChannelEvent::Tip(_), _) => Vec::new(),
            (
                SellerChannelEvent::CloseAsked(asked),
                SellerChannelState::Open | SellerChannelState::Closing,
            ) => {
                if let Some(asked) = asked {
                    // Whoever asks shows by the signature that it is the buyer, whether the amount is used or not.
                    if asked.channel != self.id {
                        return Ok(vec![Action::Refuse(Refusal::UnknownChannel { channel: asked.channel })]);
                    }
                    let voucher = Voucher { paid: asked.paid, signature: asked.signature };
                    if let Err(error) = channel.verify_voucher(&voucher) {
                        return Ok(vec![Action::Refuse(Refusal::VoucherInvalid {
                            reason: error.to_string(),
                        })]);
                    }
                    // Where nothing was paid, the buyer's signature is what gives it everything back at once; a seller whose record is older than its
                    // last vouchers gets the highest here; and a buyer that paid ahead has that back, as far as no order has been charged for it.
                    // Once a close is out, another amount would only conflict with it.
                    let first = self.signature.is_none() || self.state == SellerChannelState::Open;
                    if first && self.earning.close_with(asked.paid).unwrap_or(false) {
                        self.signature = Some(asked.signature);
                    }
                }
                let mut actions = self.close(&channel, seller);
                actions.push(Action::Report);
                actions
            }
            (SellerChannelEvent::CloseAsked(_), _) => vec![Action::Report],
            (SellerChannelEvent::EndAsked(tip), SellerChannelState::Open) => {
                self.ends_from.get_or_insert(tip);
                if self.has_ended(tip) { self.close(&channel, seller) } else { Vec::new() }
            }
            // Nothing can be closed that may be no channel.
            (SellerChannelEvent::EndAsked(_), SellerChannelState::Admitted) => {
                vec![Action::Refuse(Refusal::ChannelNotMined { channel: self.id })]
            }
            // It is on its way, or over.
            (SellerChannelEvent::EndAsked(_), _) => Vec::new(),
            (SellerChannelEvent::EndOrder(order), SellerChannelState::Open) => {
                match self.earning.ask_to_end(order) {
                    Ok(()) => Vec::new(),
                    Err(_) => vec![Action::Refuse(Refusal::UnknownOrder { order })],
                }
            }
            // No order runs on it, or each of them hears of its end with the channel's.
            (SellerChannelEvent::EndOrder(_), _) => {
                vec![Action::Refuse(Refusal::ChannelClosed { channel: self.id })]
            }
            (SellerChannelEvent::Spent { transaction, height }, state) => {
                let known =
                    matches!(state, SellerChannelState::Closed { .. } | SellerChannelState::Gone { .. });
                if known { Vec::new() } else { self.spent(*transaction, height, &channel) }
            }
            (SellerChannelEvent::Unspent, SellerChannelState::Closed { txid, .. }) => {
                let mut actions = vec![Action::Uncredit(*txid)];
                actions.extend(self.close(&channel, seller));
                actions
            }
            (SellerChannelEvent::Unspent, SellerChannelState::Gone { .. }) => self.close(&channel, seller),
            (SellerChannelEvent::Unspent, _) => Vec::new(),
        })
    }

    /// What to do for a stored channel after a restart.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn resume(
        &mut self,
        seller: &Identity,
        network: Network,
    ) -> Result<Vec<SellerChannelAction>, StatementError> {
        match self.state {
            SellerChannelState::Admitted => Ok(vec![SellerChannelAction::BroadcastFunding]),
            SellerChannelState::Closing => {
                let (_, channel) = self.contract(seller, network)?;
                Ok(self.close(&channel, seller))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn lose(&mut self, reason: Loss) -> Vec<SellerChannelAction> {
        self.state = SellerChannelState::Gone { reason };
        // Where nothing was paid, nothing is lost.
        if self.earning.highest.is_zero() { Vec::new() } else { vec![SellerChannelAction::Alarm(reason)] }
    }

    fn close(&mut self, channel: &Channel, seller: &Identity) -> Vec<SellerChannelAction> {
        self.state = SellerChannelState::Closing;
        let Some(signature) = self.signature else { return Vec::new() };
        let voucher = Voucher { paid: self.earning.highest, signature };
        let key = seller.key().child(&self.buyer, &signing_invoice(&self.id));
        match channel.complete(&voucher, &key) {
            Ok(close) => vec![SellerChannelAction::BroadcastClose(Box::new(close))],
            // Only vouchers that verify are booked.
            Err(_) => Vec::new(),
        }
    }

    fn spent(
        &mut self,
        transaction: Transaction,
        height: u32,
        channel: &Channel,
    ) -> Vec<SellerChannelAction> {
        let txid = transaction.txid();
        match channel.spend_in(&transaction) {
            None => Vec::new(),
            Some(ChannelSpend::Close { paid }) => {
                self.state = SellerChannelState::Closed { txid, height };
                if paid.is_zero() {
                    return Vec::new();
                }
                let transaction = Box::new(transaction);
                vec![SellerChannelAction::Credit { transaction, height, paid }]
            }
            Some(ChannelSpend::Refund) => self.lose(Loss::Refunded(txid)),
            Some(ChannelSpend::Other) => self.lose(Loss::Spent(txid)),
        }
    }
}

#[cfg(test)]
mod tests;
