//! The buyer's side of a delivery that is paid through a channel, as a state machine.
//!
//! ```text
//!            agree             the last reading            receipt
//!  offer ───────────▶ Running ───────────────────▶ Settling ───────▶ Ended
//!                      │   ▲                          ▲
//!                      │   └── each verified page,    │ Stopped: pay what was sent
//!                      │       paid and a little      │
//!                      └────── ahead                  │
//!                      └────── stop ──────────────────┘
//! ```
//!
//! Invariant I1: the buyer signs for what it has verified and its exposure, and for nothing more. No voucher follows a page that does
//! not verify.

#![warn(clippy::arithmetic_side_effects)]

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use serde::{Deserialize, Serialize};

use crate::id::{ChannelId, OrderId};
use crate::identity::Identity;
use crate::market::channel::spending::{Reservation, SpendingError};
use crate::market::delivery::frame::{Begin, ToBuyer, ToSeller};
use crate::market::delivery::terms::{Offered, Terms};
use crate::market::delivery::{DeliveryError, Page, ProvenPage};
use crate::market::exposure::{Interval, OverLimit, Stakes};
use crate::market::offer::OfferError;
use crate::market::order::Order;
use crate::market::price::{PriceError, Tariff};
use crate::market::receipt::ChannelReceipt;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes, StatementError};
use crate::stream::checkpoint::Checkpoint;

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
    /// For how long the stream has run, in milliseconds.
    pub active_ms: u64,
    /// When it was agreed, milliseconds since the Unix epoch.
    pub agreed_ms: i64,
    /// How far it has come.
    pub state: ChannelPurchaseState,
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
    },
    /// All is here and paid.
    Ended {
        /// The seller's receipt.
        receipt: SignedBytes,
    },
    /// The seller has refused it before anything was paid.
    Refused {
        /// Why.
        refusal: Refusal,
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
            active_ms: 0,
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
        terms.due(self.next, self.active_ms)
    }

    /// What is paid and not received, given what the order has `paid`: after a restart the stakes with the seller begin with it, for every
    /// order that has not ended, before any goes on.
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn open(&self, terms: &Terms, paid: Satoshis) -> Result<Satoshis, PriceError> {
        if self.is_final() { Ok(Satoshis::ZERO) } else { Ok(paid.saturating_sub(self.due(terms)?)) }
    }

    /// Whether nothing more is to be done.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self.state, ChannelPurchaseState::Ended { .. } | ChannelPurchaseState::Refused { .. })
    }
}

/// What has happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceiveEvent {
    /// The seller has sent a frame.
    Frame(Box<ToBuyer>),
    /// The stream has run for so many milliseconds in all, counted on from [`ChannelPurchase::active_ms`].
    Active(u64),
    /// Less is open with this seller than before, in another order: there may be room for this one. Without it, orders that share
    /// one exposure would wait for each other.
    Room,
    /// No readings for now.
    Pause,
    /// Readings again.
    Resume,
    /// No more readings.
    Stop,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceiveAction {
    /// Keep these verified readings; in the same stored step as the purchase.
    Keep {
        /// The readings.
        page: Box<ProvenPage>,
        /// The signed checkpoint they are proven under, where it is not the offer's.
        checkpoint: Option<SignedBytes>,
    },
    /// Make the purchase durable.
    Store,
    /// Sign the channel's voucher for `amount` and send it.
    Voucher {
        /// What the order has paid with it.
        paid: Satoshis,
        /// What the channel has paid with it.
        amount: Satoshis,
    },
    /// Send this frame.
    Send(ToSeller),
    /// The order has ended with so much paid: its lane in the channel's account ends in the same stored step as the purchase.
    End(Satoshis),
}

/// Why a frame is not followed. Nothing has changed, and nothing more is to be paid on this stream.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The readings do not verify.
    #[error("the delivery does not verify: {0}")]
    Delivery(#[from] DeliveryError),
    /// The checkpoint of a page, or the receipt, is not the seller's.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The checkpoint is of another stream.
    #[error("a page came with the checkpoint of another stream")]
    OtherStream,
    /// The frame is not one for now.
    #[error("the seller sent `{frame}` while the order is {state}")]
    Unexpected {
        /// The frame.
        frame: &'static str,
        /// How far the order is.
        state: &'static str,
    },
    /// The seller says that less was sent than was.
    #[error("the seller says that it has sent the readings before {said}, {next} are here")]
    SentLess {
        /// What it says.
        said: u64,
        /// What is here.
        next: u64,
    },
    /// The seller asks for more than is due.
    #[error("the seller says that {asked} is due, by the offer it is {due}")]
    Due {
        /// What it asks.
        asked: Satoshis,
        /// What is due.
        due: Satoshis,
    },
    /// The receipt is for something else.
    #[error("the receipt does not fit the order: its {field} differs")]
    Receipt {
        /// First field that differs.
        field: &'static str,
    },
    /// Neither side could begin: one reading costs more than either lets stand open.
    #[error(
        "one reading costs {unit}, the seller gives no credit for that, and the buyer's exposure is {limit}: raise buyer.exposure_sat or --exposure"
    )]
    NobodyBegins {
        /// Price of one reading.
        unit: Satoshis,
        /// The buyer's limit.
        limit: Satoshis,
    },
    /// The seller refuses.
    #[error("the seller refuses to deliver: {0}")]
    Refused(Refusal),
    /// More would be open with this seller than is allowed.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The price is above all money.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// The channel's account does not allow it.
    #[error(transparent)]
    Spending(#[from] SpendingError),
}

/// By how much the times that both sides have counted may differ when a second is what is paid: the frames that begin and end a stream are
/// under way for a while.
const CLOCK_SLACK_MS: u64 = 2_000;
/// And the part of the time itself by which they may: good quartz drifts by 50 millionths, four seconds a day, and bad one by ten times that.
const CLOCK_DRIFT: u64 = 1_000;

/// A delivery under way: the purchase, and what need not survive a restart.
#[derive(Debug)]
pub struct Receive {
    purchase: ChannelPurchase,
    terms: Terms,
    interval: Interval,
    /// What the seller has vouchers for, as far as it says and as was sent to it since.
    known: Satoshis,
    begun: bool,
    paused: bool,
}

/// What an event changes, to have it back where the event cannot be followed: readings that were not kept must not count as received.
struct Before {
    next: u64,
    active_ms: u64,
    state: ChannelPurchaseState,
    interval: Interval,
    known: Satoshis,
    begun: bool,
}

impl Receive {
    /// Begins, or goes on after a stop. `interval` is what the buyer lets stand open; [`Interval::none`] where it pays only for what is here.
    #[must_use]
    pub const fn new(purchase: ChannelPurchase, terms: Terms, interval: Interval) -> Self {
        Self { purchase, terms, interval, known: Satoshis::ZERO, begun: false, paused: false }
    }

    /// The durable record.
    #[must_use]
    pub const fn purchase(&self) -> &ChannelPurchase {
        &self.purchase
    }

    /// The terms.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What is due for what is here.
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn due(&self) -> Result<Satoshis, PriceError> {
        self.purchase.due(&self.terms)
    }

    /// The first frame of a new stream.
    #[must_use]
    pub fn start(&mut self) -> ReceiveAction {
        self.begun = false;
        ReceiveAction::Send(ToSeller::Begin(Box::new(Begin {
            offer: self.purchase.offer.clone(),
            order: self.purchase.order.clone(),
            channel: self.purchase.channel,
            next: self.purchase.next,
            budget: self.purchase.budget,
        })))
    }

    /// The connection is gone, or the seller has sent what does not verify: trust begins small again.
    pub const fn interrupted(&mut self) {
        self.begun = false;
        self.interval.fall_back();
    }

    /// Takes an event; see the module for the states.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn handle(
        &mut self,
        event: ReceiveEvent,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        network: Network,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        if self.purchase.is_final() {
            return Ok(Vec::new());
        }
        let before = Before {
            next: self.purchase.next,
            active_ms: self.purchase.active_ms,
            state: self.purchase.state.clone(),
            interval: self.interval,
            known: self.known,
            begun: self.begun,
        };
        let followed = self.follow(event, reservation, stakes, network);
        if followed.is_err() {
            let Before { next, active_ms, state, interval, known, begun } = before;
            (self.purchase.next, self.purchase.active_ms, self.purchase.state) = (next, active_ms, state);
            (self.interval, self.known, self.begun) = (interval, known, begun);
            stakes.note(self.purchase.id, self.purchase.open(&self.terms, reservation.paid())?);
        }
        followed
    }

    fn follow(
        &mut self,
        event: ReceiveEvent,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        network: Network,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        match event {
            ReceiveEvent::Frame(frame) => self.frame(*frame, reservation, stakes, network),
            ReceiveEvent::Active(active_ms) => {
                let before = self.due()?;
                self.purchase.active_ms = self.purchase.active_ms.max(active_ms);
                let mut actions = self.stop_when_spent();
                if self.due()? > before {
                    // Like readings that are kept: forgotten in a crash, the time would be counted and paid again.
                    actions.push(ReceiveAction::Store);
                }
                actions.extend(self.pay(reservation, stakes)?);
                Ok(actions)
            }
            ReceiveEvent::Room => self.pay(reservation, stakes),
            ReceiveEvent::Pause if !self.paused => {
                self.paused = true;
                Ok(self.send_when_begun(ToSeller::Pause))
            }
            ReceiveEvent::Resume if self.paused => {
                self.paused = false;
                Ok(self.send_when_begun(ToSeller::Resume))
            }
            ReceiveEvent::Stop if self.purchase.state == ChannelPurchaseState::Running => Ok(self.stop()),
            ReceiveEvent::Pause | ReceiveEvent::Resume | ReceiveEvent::Stop => Ok(Vec::new()),
        }
    }

    /// Before the seller has begun nothing but the first frame is sent; what is wanted is said when it has.
    fn send_when_begun(&self, frame: ToSeller) -> Vec<ReceiveAction> {
        if self.begun { vec![ReceiveAction::Send(frame)] } else { Vec::new() }
    }

    fn stop(&mut self) -> Vec<ReceiveAction> {
        self.purchase.state = ChannelPurchaseState::Stopping { end: None };
        let mut actions = vec![ReceiveAction::Store];
        actions.extend(self.send_when_begun(ToSeller::Stop));
        actions
    }

    /// Whether readings are wanted and not here.
    fn wants_more(&self) -> bool {
        let missing = self.terms.end.is_none_or(|end| self.purchase.next < end);
        missing && self.purchase.state == ChannelPurchaseState::Running
    }

    /// What is due with the next reading, or in the next moment: `None` where that is above all money.
    fn next_due(&self) -> Option<Satoshis> {
        let (next, active_ms) =
            (self.purchase.next.saturating_add(1), self.purchase.active_ms.saturating_add(1));
        self.terms.due(next, active_ms).ok()
    }

    /// Stops where the budget holds no more: the seller delivers nothing beyond it, so both would wait.
    fn stop_when_spent(&mut self) -> Vec<ReceiveAction> {
        let spent = self.next_due().is_none_or(|due| due > self.purchase.budget);
        if spent && self.wants_more() { self.stop() } else { Vec::new() }
    }

    fn frame(
        &mut self,
        frame: ToBuyer,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        network: Network,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        let (name, state) = (frame.name(), self.purchase.state.name());
        let unexpected = ReceiveError::Unexpected { frame: name, state };
        match frame {
            ToBuyer::Alive => Ok(Vec::new()),
            ToBuyer::Refused(refusal)
                if self.begun || !reservation.paid().is_zero() || refusal.is_temporary() =>
            {
                Err(ReceiveError::Refused(refusal))
            }
            ToBuyer::Refused(refusal) => {
                self.purchase.state = ChannelPurchaseState::Refused { refusal };
                Ok(vec![ReceiveAction::End(Satoshis::ZERO)])
            }
            ToBuyer::Begun { paid, credit } if !self.begun => self.begin(paid, credit, reservation, stakes),
            ToBuyer::Ended { receipt } => {
                let receipted = self.check_receipt(&receipt, reservation.paid(), network)?;
                self.purchase.state = ChannelPurchaseState::Ended { receipt };
                stakes.note(self.purchase.id, Satoshis::ZERO);
                Ok(vec![ReceiveAction::End(receipted)])
            }
            _ if !self.begun => Err(unexpected),
            ToBuyer::Page(page) => {
                let Some(checkpoint) = self.terms.checkpoint.clone() else { return Err(unexpected) };
                self.page(&page, &checkpoint, None, reservation, stakes)
            }
            ToBuyer::Live { checkpoint, page } => {
                if self.terms.checkpoint.is_some() {
                    return Err(unexpected);
                }
                let signed = checkpoint.clone().verify_by::<Checkpoint>(network, &self.purchase.seller)?;
                if signed.value().stream != self.terms.stream {
                    return Err(ReceiveError::OtherStream);
                }
                self.page(&page, signed.value(), Some(checkpoint), reservation, stakes)
            }
            ToBuyer::Stopped { end, due } => self.stopped(end, due, reservation, stakes),
            ToBuyer::Begun { .. } => Err(unexpected),
        }
    }

    fn begin(
        &mut self,
        paid: Satoshis,
        credit: Satoshis,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        self.begun = true;
        self.known = paid;
        let mut actions = Vec::new();
        if matches!(self.purchase.state, ChannelPurchaseState::Stopping { .. }) {
            actions.push(ReceiveAction::Send(ToSeller::Stop));
        } else if self.paused {
            actions.push(ReceiveAction::Send(ToSeller::Pause));
        }
        actions.extend(self.stop_when_spent());
        // Who only pays what it owes, or waits for what it has paid, needs no trust.
        let owes = reservation.paid() < self.due()?;
        let ahead = self.next_due().is_some_and(|due| due <= reservation.paid());
        let (unit, limit) = (self.terms.unit()?, self.interval.now());
        if self.wants_more() && !owes && !ahead && limit < unit && credit < unit {
            return Err(ReceiveError::NobodyBegins { unit, limit });
        }
        actions.extend(self.pay(reservation, stakes)?);
        Ok(actions)
    }

    fn page(
        &mut self,
        page: &Page,
        checkpoint: &Checkpoint,
        signed: Option<SignedBytes>,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        let end = self.terms.end.unwrap_or(checkpoint.size);
        let before = self.due()?;
        let proven = page.open(&self.terms.schema, checkpoint, self.purchase.next, end)?;
        self.purchase.next = proven.end();
        self.interval.answered(self.due()?.saturating_sub(before));
        let mut actions = vec![ReceiveAction::Keep { page: Box::new(proven), checkpoint: signed }];
        actions.extend(self.stop_when_spent());
        actions.extend(self.pay(reservation, stakes)?);
        Ok(actions)
    }

    fn stopped(
        &mut self,
        end: u64,
        asked: Satoshis,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        if end < self.purchase.next {
            return Err(ReceiveError::SentLess { said: end, next: self.purchase.next });
        }
        let active_ms = self.purchase.active_ms;
        let slack = (active_ms / CLOCK_DRIFT).saturating_add(CLOCK_SLACK_MS);
        let mut due = self.terms.due(end, active_ms.saturating_add(slack))?;
        if let Tariff::Second(_) = self.terms.tariff {
            // Time that was counted and not stored before a crash is paid, and known from the voucher for it.
            due = due.max(reservation.paid());
        }
        if asked > due {
            return Err(ReceiveError::Due { asked, due });
        }
        // What both have counted differs by less than that: the seller's word is taken, or it would wait for the rest for ever.
        if let Tariff::Second(_) = self.terms.tariff
            && asked > self.due()?
        {
            self.purchase.active_ms = active_ms.max(self.terms.tariff.time_covered_by(asked));
        }
        self.purchase.state = ChannelPurchaseState::Stopping { end: Some(end) };
        let mut actions = vec![ReceiveAction::Store];
        actions.extend(self.pay(reservation, stakes)?);
        Ok(actions)
    }

    /// Pays what is due, and ahead of that as much as trust allows.
    fn pay(
        &mut self,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        let (due, paid) = (self.due()?, reservation.paid());
        let order = self.purchase.id;
        stakes.note(order, paid.saturating_sub(due));
        if !self.begun {
            return Ok(Vec::new());
        }
        let stopping = matches!(self.purchase.state, ChannelPurchaseState::Stopping { .. });
        let last = self.terms.end.is_some_and(|end| self.purchase.next >= end);
        let window =
            if stopping || last { Satoshis::ZERO } else { self.interval.now().min(stakes.room(&order)) };
        let ahead = due.checked_add(window).unwrap_or(due).min(self.purchase.budget);
        // What is more than whole readings would buy nothing: a range would cost more than its price, a budget be spent on air.
        let to = self.terms.tariff.whole(ahead)?;
        let to = self.terms.total().map_or(to, |total| to.min(total));
        // Not a voucher for each page: half of what stands ahead is used up first. But never so late that the next reading waits.
        let half = window.as_u64() / 2;
        let low = paid.saturating_sub(due).as_u64() < half;
        let next_due = self.terms.due(self.purchase.next.saturating_add(1), self.purchase.active_ms).ok();
        let waits = paid < due || (!window.is_zero() && next_due.is_none_or(|next_due| paid < next_due));
        let to = if to > paid && (low || waits) { to } else { paid };
        // A voucher that the seller never got is sent again; one that paid ahead, only where readings are still wanted.
        let lost = self.known < paid && (!stopping || self.known < due);
        if to == paid && !lost {
            return Ok(Vec::new());
        }
        if to > paid {
            stakes.set(order, to.saturating_sub(due))?;
        }
        let amount = reservation.pay_to(to)?;
        self.known = to;
        Ok(vec![ReceiveAction::Voucher { paid: to, amount }])
    }

    /// What the order paid by its receipt: all that is due, and no more than was signed. A voucher that was paid ahead may have been lost.
    fn check_receipt(
        &self,
        receipt: &SignedBytes,
        paid: Satoshis,
        network: Network,
    ) -> Result<Satoshis, ReceiveError> {
        let receipt = receipt.clone().verify_by::<ChannelReceipt>(network, &self.purchase.seller)?;
        let receipt = receipt.value();
        let count = self.purchase.next.saturating_sub(self.terms.first);
        let differs = [
            ("order", receipt.order != self.purchase.id),
            ("offer", receipt.offer != self.terms.offer),
            ("stream", receipt.stream != self.terms.stream),
            ("first", receipt.first != self.terms.first),
            ("count", receipt.count != count),
            ("paid", receipt.paid > paid || receipt.paid < self.terms.tariff.due(count, 0)?.min(paid)),
            ("channel", receipt.channel != self.purchase.channel),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            Some((field, _)) => Err(ReceiveError::Receipt { field }),
            None => Ok(receipt.paid),
        }
    }
}

impl ChannelPurchaseState {
    /// The state's name in lower case, for people and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping { .. } => "stopping",
            Self::Ended { .. } => "ended",
            Self::Refused { .. } => "refused",
        }
    }
}
