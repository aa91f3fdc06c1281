//! A channel at its seller, as a state machine.
//!
//! ```text
//!           admit              Accepted                CloseAsked, or the tip is at refund height − margin
//!  request ───────▶ Admitted ───────────▶ Open ──────────────────────────────────────▶ Closing
//!    │               │  ▲                  │ ▲                                          │  ▲
//!    │ Refusal       │  └ Unavailable      │ └ vouchers are booked                      │  └ each block: the close
//!    ▼               │ Rejected            │                                            │    goes out again
//!  nothing kept      ▼                     │ Spent (not by our close)                   │ Spent
//!                 forgotten                ▼                                            ▼
//!                                         Gone ◀───────────────────────────────────── Closed
//!                                                 Unspent: a reorganisation, back ────▶ Closing
//! ```
//!
//! One that is still `Admitted` when it would have to be closed is forgotten.
//!
//! Invariant I4: the booked amount only grows, and the highest voucher settles all; a buyer that asks for the close itself may have back what it paid
//! ahead. I6: the close goes out [`ChannelOffer::margin`] blocks before
//! the buyer could take everything back, and nothing is sold on the channel any more.

#![warn(clippy::arithmetic_side_effects)]

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::channel::{Channel, ChannelSpend, Voucher, VoucherError};
use sensora_chain::header::HeaderView;
use sensora_chain::keys::{PublicKey, Signature};
use sensora_chain::spv::{self, SpvError};
use sensora_chain::{Network, OutPoint, Satoshis, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::earning::{Earning, EarningError};
use super::message::{ChannelReport, ChannelStanding, CloseChannel, OpenChannel};
use super::offer::{ChannelKeys, ChannelOffer, signing_invoice};
use crate::id::{ChannelId, OrderId};
use crate::identity::Identity;
use crate::market::delivery::frame::OrderVoucher;
use crate::market::delivery::supply::ChannelView;
use crate::market::refusal::Refusal;
use crate::market::sale::Admission;
use crate::statement::{SignedBytes, StatementError, bytes_or_hex};

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
    /// When it was admitted, milliseconds since the Unix epoch.
    pub admitted_ms: i64,
    /// How far it has come.
    pub state: SellerChannelState,
}

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
    /// Buyer or owner want it closed.
    CloseAsked(Option<CloseChannel>),
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
    /// Answer the buyer with [`SellerChannel::report`].
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
        spv::verify(&beef, &txid, at.headers).map_err(|error| match error {
            SpvError::NoHeader { height, tip, .. } if height > tip => Refusal::HeadersBehind { height, tip },
            error => invalid(error.to_string()),
        })?;
        Ok(Self {
            id,
            buyer: *at.peer,
            offer: request.offer,
            funding: request.funding,
            outpoint,
            earning: Earning::new(channel.capacity()),
            signature: None,
            mined: None,
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
                let due = self.state == SellerChannelState::Closing || tip >= offer.closes_at();
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
