//! The seller's side of a delivery that is paid through a channel, as a state machine.
//!
//! ```text
//!            admit                 Sent (the last), Paid (all)
//!  Begin ───────────▶ Running ───────────────────────────────▶ Ended: the receipt, for 30 days
//!    │                 │   ▲                                      ▲
//!    │ Refusal         │   └── Paid: more readings go out         │ Paid (all that was sent)
//!    ▼                 │                                          │
//!  nothing kept        └── Stop ─▶ Stopped ───────────────────────┘
//! ```
//!
//! Invariant I2: readings go out only for what is *granted*, and what is granted is never more than what is paid and the seller's exposure.
//! The grant is stored before the first reading for it goes out, so that no crash forgets what a buyer owes.

#![warn(clippy::arithmetic_side_effects)]

use std::ops::Range;

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use serde::{Deserialize, Serialize};

use crate::id::{ChannelId, OrderId};
use crate::identity::Identity;
use crate::market::delivery::frame::{Begin, ToBuyer};
use crate::market::delivery::terms::{Offered, Terms};
use crate::market::exposure::{Interval, OverLimit, Stakes};
use crate::market::price::PriceError;
use crate::market::receipt::ChannelReceipt;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes, StatementError};

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
    /// For how much readings may have gone out.
    pub granted: Satoshis,
    /// For how long the stream has run and is charged, in milliseconds.
    pub active_ms: u64,
    /// When it was admitted, milliseconds since the Unix epoch.
    pub admitted_ms: i64,
    /// How far it has come.
    pub state: ChannelSaleState,
}

/// How far a sale has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelSaleState {
    /// Readings go out as they are paid.
    Running,
    /// The buyer wants no more; what was sent is to be paid.
    Stopped {
        /// Sequence number after the last reading that was sent.
        end: u64,
    },
    /// All is paid.
    Ended {
        /// The seller's signed receipt.
        receipt: SignedBytes,
    },
}

/// What a seller's channel is to an order that wants to be paid through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelView {
    /// The channel.
    pub id: ChannelId,
    /// Who pays with it.
    pub buyer: PublicKey,
    /// What no voucher has paid yet.
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
            active_ms: 0,
            admitted_ms: at.now_ms,
            state: ChannelSaleState::Running,
        };
        Ok((sale, terms))
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
        let terms = self.offer.terms(network, seller.public());
        terms.map_err(|error| Refusal::ForeignOffer { reason: error.to_string() })
    }

    /// What may have been delivered and is not paid, given what the order has `paid`.
    #[must_use]
    pub fn open(&self, paid: Satoshis) -> Satoshis {
        match self.state {
            ChannelSaleState::Ended { .. } => Satoshis::ZERO,
            _ => self.granted.saturating_sub(paid),
        }
    }
}

/// What has happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupplyEvent {
    /// A voucher was verified: with it the order has paid so much in all. The account with it is to be stored together with the sale.
    Paid(Satoshis),
    /// The log has so many readings.
    Size(u64),
    /// The readings before this one are on their way.
    Sent(u64),
    /// The stream has run for so many milliseconds in all, counted on from [`ChannelSale::active_ms`].
    Active(u64),
    /// Less is open with this buyer than before, in another order: there may be room for this one. Without it, orders that share one
    /// exposure would wait for each other.
    Room,
    /// The buyer wants no readings for now.
    Pause,
    /// The buyer wants readings again.
    Resume,
    /// The buyer wants no more readings.
    Stop,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum SupplyAction {
    /// Make the sale durable, with the channel's account where a voucher has come.
    Store,
    /// Send these readings, and come back with [`SupplyEvent::Sent`].
    Send(Range<u64>),
    /// Send this frame.
    Frame(ToBuyer),
    /// The order has ended: its lane in the channel's account ends in the same stored step as the sale.
    End,
}

/// Why an event is not followed. The sale is as it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SupplyError {
    /// More would be open with this buyer than is allowed.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The price of what is delivered is above all money.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// The receipt cannot be signed.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

/// A delivery under way: the sale, and what need not survive a restart.
#[derive(Debug, Clone)]
pub struct Supply {
    sale: ChannelSale,
    terms: Terms,
    interval: Interval,
    paid: Satoshis,
    /// The most that the buyer will pay.
    budget: Satoshis,
    /// Next reading to send: those before it are on their way.
    next: u64,
    /// Those before it have been handed out to be sent.
    handed: u64,
    /// Readings there are.
    size: u64,
    /// For how long the stream has run, whether that is charged or not.
    ran_ms: u64,
    paused: bool,
}

/// The sale is stored before these frames and what follows; where it ends, in the one step in which its lane ends, too: a sale that is stored as
/// ended with a lane that is not would keep the lane for ever.
fn stored_first(frames: Vec<SupplyAction>, more: Vec<SupplyAction>) -> Vec<SupplyAction> {
    let (mut stored, rest) = match more.split_first() {
        Some((SupplyAction::End, rest)) => (vec![SupplyAction::End], rest),
        Some((SupplyAction::Store, rest)) => (vec![SupplyAction::Store], rest),
        _ => (vec![SupplyAction::Store], more.as_slice()),
    };
    stored.extend(frames);
    stored.extend_from_slice(rest);
    stored
}

impl Supply {
    /// Begins, or goes on after a stop, with what [`ChannelSale::admit`] or [`ChannelSale::go_on`] has passed. There is one of it for an order: where
    /// the buyer begins anew, the one before is dropped. `paid` is what the channel's account says, `begin` what the buyer misses and would pay, `size` how many readings there are.
    #[must_use]
    pub fn new(
        sale: ChannelSale,
        terms: Terms,
        interval: Interval,
        paid: Satoshis,
        begin: &Begin,
        size: u64,
    ) -> Self {
        let next = begin.next.max(terms.first);
        let budget = begin.budget.max(paid);
        let ran_ms = sale.active_ms;
        Self { sale, terms, interval, paid, budget, next, handed: next, size, ran_ms, paused: false }
    }

    /// The durable record.
    #[must_use]
    pub const fn sale(&self) -> &ChannelSale {
        &self.sale
    }

    /// The terms.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What the order has paid.
    #[must_use]
    pub const fn paid(&self) -> Satoshis {
        self.paid
    }

    /// Whether all is done.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.sale.state, ChannelSaleState::Ended { .. })
    }

    /// What to do first, on a new stream.
    ///
    /// # Errors
    /// [`SupplyError`].
    pub fn start(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<SupplyAction>, SupplyError> {
        if let ChannelSaleState::Ended { receipt } = &self.sale.state {
            return self.start_again(receipt.clone(), seller, network);
        }
        let begun = ToBuyer::Begun { paid: self.paid, credit: self.interval.now() };
        let mut frames = vec![SupplyAction::Frame(begun)];
        if let ChannelSaleState::Stopped { end } = self.sale.state {
            let due = self.terms.due(end, self.sale.active_ms)?;
            frames.push(SupplyAction::Frame(ToBuyer::Stopped { end, due }));
        }
        let more = self.go_on(stakes, seller, network, now_ms)?;
        Ok(stored_first(frames, more))
    }

    /// The order has ended, but its last readings or its receipt were lost on their way.
    fn start_again(
        &mut self,
        receipt: SignedBytes,
        seller: &Identity,
        network: Network,
    ) -> Result<Vec<SupplyAction>, SupplyError> {
        let ended = receipt.clone().verify_by::<ChannelReceipt>(network, seller.public())?;
        let ChannelReceipt { first, count, paid, .. } = *ended.value();
        let end = first.saturating_add(count);
        if self.next >= end {
            return Ok(vec![SupplyAction::Frame(ToBuyer::Ended { receipt })]);
        }
        self.handed = end;
        let begun = ToBuyer::Begun { paid, credit: Satoshis::ZERO };
        Ok(vec![SupplyAction::Frame(begun), SupplyAction::Send(self.next..end)])
    }

    /// Takes an event; see the module for the states.
    ///
    /// # Errors
    /// [`SupplyError`].
    pub fn handle(
        &mut self,
        event: SupplyEvent,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<SupplyAction>, SupplyError> {
        if let ChannelSaleState::Ended { receipt } = &self.sale.state {
            let again = self.handed > self.next && event == SupplyEvent::Sent(self.handed);
            self.next = if again { self.handed } else { self.next };
            let ended = SupplyAction::Frame(ToBuyer::Ended { receipt: receipt.clone() });
            return Ok(if again { vec![ended] } else { Vec::new() });
        }
        match event {
            SupplyEvent::Room => {}
            SupplyEvent::Paid(paid) => {
                self.interval.answered(paid.saturating_sub(self.paid));
                self.paid = paid.max(self.paid);
                stakes.note(self.sale.order, self.sale.open(self.paid));
                // The voucher is stored whether anything follows from it or not.
                let more = self.go_on(stakes, seller, network, now_ms)?;
                return Ok(stored_first(Vec::new(), more));
            }
            SupplyEvent::Size(size) => self.size = self.size.max(size),
            SupplyEvent::Sent(to) => self.next = to.min(self.handed).max(self.next),
            SupplyEvent::Active(ran_ms) => self.run(ran_ms, stakes),
            SupplyEvent::Pause => self.paused = true,
            SupplyEvent::Resume => self.paused = false,
            SupplyEvent::Stop => {
                if self.sale.state == ChannelSaleState::Running {
                    // What is paid already and there goes out before the end.
                    let paid_for = self.terms.covered_by(self.paid, self.sale.active_ms).min(self.there());
                    let end = self.handed.max(paid_for);
                    let due = self.terms.due(end, self.sale.active_ms)?;
                    self.sale.state = ChannelSaleState::Stopped { end };
                    let stopped = vec![SupplyAction::Frame(ToBuyer::Stopped { end, due })];
                    let more = self.go_on(stakes, seller, network, now_ms)?;
                    return Ok(stored_first(stopped, more));
                }
            }
        }
        self.go_on(stakes, seller, network, now_ms)
    }

    /// The connection is gone: what was handed out may not have arrived, and trust begins small again.
    pub const fn interrupted(&mut self) {
        self.handed = self.next;
        self.interval.fall_back();
    }

    /// The most for which readings may go out now.
    fn allowed(&self, stakes: &Stakes) -> Satoshis {
        let window = self.interval.now().min(stakes.room(&self.sale.order));
        self.paid.checked_add(window).unwrap_or(self.paid).min(self.budget)
    }

    /// The stream has run. Time is charged only as far as it is paid or trusted: beyond that nothing goes out, and the stream does not run. So a
    /// buyer whose clock is behind, or who was away, owes no more than what stands open.
    fn run(&mut self, ran_ms: u64, stakes: &Stakes) {
        let more = ran_ms.saturating_sub(self.ran_ms);
        self.ran_ms = self.ran_ms.max(ran_ms);
        let most = self.terms.tariff.time_covered_by(self.allowed(stakes));
        let charged = self.sale.active_ms.saturating_add(more).min(most);
        self.sale.active_ms = self.sale.active_ms.max(charged);
    }

    /// Sequence number after the last reading that is ordered and there.
    fn there(&self) -> u64 {
        self.terms.end.map_or(self.size, |end| end.min(self.size))
    }

    /// What follows from the state: an end, or readings for what is paid and trusted.
    fn go_on(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<SupplyAction>, SupplyError> {
        let last = match self.sale.state {
            ChannelSaleState::Stopped { end } => Some(end),
            ChannelSaleState::Running => self.terms.end,
            ChannelSaleState::Ended { .. } => return Ok(Vec::new()),
        };
        if let Some(end) = last.filter(|end| self.next >= *end) {
            if self.paid < self.terms.due(end, self.sale.active_ms)? {
                return Ok(Vec::new());
            }
            let receipt = self.receipt(end, seller, network, now_ms)?;
            self.sale.state = ChannelSaleState::Ended { receipt: receipt.clone() };
            stakes.note(self.sale.order, Satoshis::ZERO);
            return Ok(vec![SupplyAction::End, SupplyAction::Frame(ToBuyer::Ended { receipt })]);
        }
        let stopped = matches!(self.sale.state, ChannelSaleState::Stopped { .. });
        if self.handed > self.next || (self.paused && !stopped) {
            return Ok(Vec::new());
        }
        let mut actions = Vec::new();
        let there = last.map_or(self.size, |end| end.min(self.size));
        let allowed = self.allowed(stakes);
        // A log may be longer than all money would buy.
        let wanted = self.terms.due(there, self.sale.active_ms).unwrap_or(allowed);
        if wanted > self.sale.granted {
            // Part of a reading's price would send nothing, and take the room from an order beside this one that needs no more.
            let granted = self.terms.tariff.whole(allowed.min(wanted))?;
            if granted > self.sale.granted {
                stakes.set(self.sale.order, granted.saturating_sub(self.paid))?;
                self.sale.granted = granted;
                actions.push(SupplyAction::Store);
            }
        }
        let covered = self.sale.granted.max(self.paid);
        let to = self.terms.covered_by(covered, self.sale.active_ms).min(there);
        if to > self.next {
            self.handed = to;
            actions.push(SupplyAction::Send(self.next..to));
        }
        Ok(actions)
    }

    fn receipt(
        &self,
        end: u64,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<SignedBytes, StatementError> {
        let receipt = ChannelReceipt {
            order: self.sale.order,
            offer: self.terms.offer,
            stream: self.terms.stream,
            first: self.terms.first,
            count: end.saturating_sub(self.terms.first),
            paid: self.paid,
            channel: self.sale.channel,
            issued_ms: now_ms,
        };
        Ok(Signed::sign(receipt, seller, network)?.into_bytes())
    }
}
