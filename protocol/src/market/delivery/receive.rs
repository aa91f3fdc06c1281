//! The buyer's side of a delivery that is paid through a channel, as a state machine.
//!
//! ```text
//!            agree             the last reading            receipt
//!  offer ───────────▶ Running ───────────────────▶ Settling ───────▶ Ended
//!                      │   ▲                          ▲
//!                      │   └── each verified page,    │ Stopped: pay what was sent
//!                      │       paid and a little      │
//!                      └────── ahead                  │
//!                      └────── stop, Closing ─────────┘      Closed ─▶ LeftUnpaid, GiveUp ─▶ GivenUp: from any of these
//! ```
//!
//! Invariant I1: the buyer signs for what it has verified and its exposure, and for nothing more. No voucher follows a page that does
//! not verify. From when an order is stopped on it comes to no more than what was paid or due by then and the seller's credit ([`Bound`]).

#![warn(clippy::arithmetic_side_effects)]

mod event;
mod record;

use sensora_chain::{Network, Satoshis};

use crate::ad::CLOCK_TOLERANCE_MS;
use crate::market::channel::spending::Reservation;
use crate::market::delivery::frame::{Begin, ToBuyer, ToSeller};
use crate::market::delivery::meter::Meter;
use crate::market::delivery::terms::Terms;
use crate::market::delivery::trail::Trail;
use crate::market::delivery::{Page, ProvenPage};
use crate::market::exposure::{Interval, Stakes};
use crate::market::price::{PriceError, Tariff};
use crate::market::receipt::ChannelReceipt;
use crate::statement::{Signed, SignedBytes};
use crate::stream::checkpoint::Checkpoint;
use crate::stream::reading::Reading;

pub use event::{ReceiveAction, ReceiveError, ReceiveEvent};
pub use record::{Bound, ChannelPurchase, ChannelPurchaseState};

/// A delivery under way: the purchase, and what need not survive a restart.
#[derive(Debug)]
pub struct Receive {
    purchase: ChannelPurchase,
    terms: Terms,
    interval: Interval,
    /// What the seller has vouchers for, as far as it says and as was sent to it since.
    known: Satoshis,
    begun: bool,
    /// The most that the seller lets stand open, as it says.
    credit: Satoshis,
    paused: bool,
    /// Of a live stream: the checkpoint of the last page on this connection.
    checkpoint: Option<Signed<Checkpoint>>,
}

/// What an event changes, to have it back where the event cannot be followed: readings that were not kept must not count as received.
struct Before {
    next: u64,
    meter: Meter,
    trail: Option<Trail>,
    state: ChannelPurchaseState,
    interval: Interval,
    known: Satoshis,
    begun: bool,
    credit: Satoshis,
}

impl Receive {
    /// Begins, or goes on after a stop. `interval` is what the buyer lets stand open; [`Interval::none`] where it pays only for what is here.
    #[must_use]
    pub const fn new(purchase: ChannelPurchase, terms: Terms, interval: Interval) -> Self {
        Self {
            purchase,
            terms,
            interval,
            known: Satoshis::ZERO,
            begun: false,
            credit: Satoshis::ZERO,
            paused: false,
            checkpoint: None,
        }
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
        self.checkpoint = None;
        ReceiveAction::Send(ToSeller::Begin(Box::new(Begin {
            offer: self.purchase.offer.clone(),
            order: self.purchase.order.clone(),
            channel: self.purchase.channel,
            next: self.purchase.next,
            budget: self.purchase.budget,
        })))
    }

    /// The connection is gone, or the seller has sent what does not verify: trust begins small again.
    pub fn interrupted(&mut self) {
        self.begun = false;
        self.checkpoint = None;
        self.interval.fall_back();
    }

    /// Takes an event; see the module for the states. `now_ms` is what the buyer's own clock says, milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn handle(
        &mut self,
        event: ReceiveEvent,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        if self.purchase.is_final() {
            return Ok(Vec::new());
        }
        let before = Before {
            next: self.purchase.next,
            meter: self.purchase.meter,
            trail: self.purchase.trail.clone(),
            state: self.purchase.state.clone(),
            interval: self.interval,
            known: self.known,
            begun: self.begun,
            credit: self.credit,
        };
        let followed = self.follow(event, reservation, stakes, network, now_ms);
        if followed.is_err() {
            let Before { next, meter, trail, state, interval, known, begun, credit } = before;
            (self.purchase.next, self.purchase.meter, self.purchase.trail) = (next, meter, trail);
            self.purchase.state = state;
            (self.interval, self.known, self.begun, self.credit) = (interval, known, begun, credit);
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
        now_ms: i64,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        match event {
            ReceiveEvent::Frame(frame) => self.frame(*frame, reservation, stakes, network, now_ms),
            ReceiveEvent::Room => self.pay(reservation, stakes),
            ReceiveEvent::Pause if !self.paused => {
                self.paused = true;
                Ok(self.send_when_begun(ToSeller::Pause))
            }
            ReceiveEvent::Resume if self.paused => {
                self.paused = false;
                Ok(self.send_when_begun(ToSeller::Resume))
            }
            ReceiveEvent::Stop | ReceiveEvent::Closing
                if self.purchase.state == ChannelPurchaseState::Running =>
            {
                self.stop(reservation.paid())
            }
            ReceiveEvent::Closed => {
                let paid = reservation.paid();
                self.purchase.channel_closed(&self.terms, paid)?;
                Ok(self.leave(paid, stakes))
            }
            ReceiveEvent::GiveUp => {
                let paid = reservation.paid();
                self.purchase.give_up(&self.terms, paid)?;
                Ok(self.leave(paid, stakes))
            }
            ReceiveEvent::Pause | ReceiveEvent::Resume | ReceiveEvent::Stop | ReceiveEvent::Closing => {
                Ok(Vec::new())
            }
        }
    }

    /// Before the seller has begun nothing but the first frame is sent; what is wanted is said when it has.
    fn send_when_begun(&self, frame: ToSeller) -> Vec<ReceiveAction> {
        if self.begun { vec![ReceiveAction::Send(frame)] } else { Vec::new() }
    }

    /// The order has ended without a receipt, with what was paid.
    fn leave(&self, paid: Satoshis, stakes: &mut Stakes) -> Vec<ReceiveAction> {
        stakes.note(self.purchase.id, Satoshis::ZERO);
        vec![ReceiveAction::End(paid)]
    }

    fn stop(&mut self, paid: Satoshis) -> Result<Vec<ReceiveAction>, ReceiveError> {
        let bound = if self.begun { Some(self.bound(paid)?) } else { None };
        self.purchase.state = ChannelPurchaseState::Stopping { end: None, bound };
        let mut actions = vec![ReceiveAction::Store];
        actions.extend(self.send_when_begun(ToSeller::Stop));
        Ok(actions)
    }

    /// What the order may still come to: the bound that is fixed, or the one that would be fixed now.
    fn bound(&self, paid: Satoshis) -> Result<Bound, PriceError> {
        if let ChannelPurchaseState::Stopping { bound: Some(bound), .. } = self.purchase.state {
            return Ok(bound);
        }
        // An honest seller has vouchers for no more than was paid, and delivers for that and its credit.
        let at_once = self.due()?.max(paid);
        let in_all = at_once.max(self.known).checked_add(self.credit).unwrap_or(Satoshis::MAX);
        Ok(Bound { at_once, in_all: in_all.min(self.purchase.budget).max(at_once) })
    }

    /// Once the order is stopped nothing is taken for which it could not be paid.
    fn check_bound(&self, due: Satoshis) -> Result<(), ReceiveError> {
        match self.purchase.state {
            ChannelPurchaseState::Stopping { bound: Some(Bound { in_all: most, .. }), .. } if due > most => {
                Err(ReceiveError::AfterStop { due, most })
            }
            _ => Ok(()),
        }
    }

    /// Whether readings are wanted and not here.
    fn wants_more(&self) -> bool {
        let missing = self.terms.end.is_none_or(|end| self.purchase.next < end);
        missing && self.purchase.state == ChannelPurchaseState::Running
    }

    /// The most that is due with the next reading: `None` where that is above all money.
    fn next_due(&self) -> Option<Satoshis> {
        let gap_ms = u64::from(self.terms.tariff.longest_gap_ms());
        let charged_ms = self.purchase.meter.charged_ms.saturating_add(gap_ms);
        self.terms.due(self.purchase.next.saturating_add(1), charged_ms).ok()
    }

    /// Stops where the budget holds no more: the seller delivers nothing beyond it, so both would wait. By the second only the seller sees what the next
    /// reading costs, and says when that is too much.
    fn stop_when_spent(&mut self, paid: Satoshis) -> Result<Vec<ReceiveAction>, ReceiveError> {
        let spent = match self.terms.tariff {
            Tariff::Reading(_) => self.next_due().is_none_or(|due| due > self.purchase.budget),
            Tariff::Second { .. } => self.due()? >= self.purchase.budget,
        };
        if spent && self.wants_more() { self.stop(paid) } else { Ok(Vec::new()) }
    }

    fn frame(
        &mut self,
        frame: ToBuyer,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        let (name, state) = (frame.name(), self.purchase.state.name());
        let unexpected = ReceiveError::Unexpected { frame: name, state };
        match frame {
            ToBuyer::Alive => Ok(Vec::new()),
            // An order that has paid or brought anything is no longer one that was just not taken.
            ToBuyer::Refused(refusal)
                if self.begun
                    || refusal.is_temporary()
                    || !reservation.paid().is_zero()
                    || self.purchase.next > self.terms.first =>
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
                let missing = self.terms.end.map_or(0, |end| end.saturating_sub(self.purchase.next));
                self.purchase.state = ChannelPurchaseState::Ended { receipt, missing };
                stakes.note(self.purchase.id, Satoshis::ZERO);
                Ok(vec![ReceiveAction::End(receipted)])
            }
            _ if !self.begun => Err(unexpected),
            ToBuyer::Page(page) => {
                let Some(checkpoint) = self.terms.checkpoint.clone() else { return Err(unexpected) };
                page.check_unit()?;
                let range = (self.purchase.next, self.last_wanted(checkpoint.size));
                let (proven, _) = page.open_with(&page.proof, &self.terms.schema, &checkpoint, range, &[])?;
                self.page(proven, None, reservation, stakes, now_ms)
            }
            ToBuyer::Live { checkpoint, page } => {
                if self.terms.checkpoint.is_some() {
                    return Err(unexpected);
                }
                page.check_unit()?;
                let signed = match checkpoint {
                    Some(bytes) => bytes.verify_by::<Checkpoint>(network, &self.purchase.seller)?,
                    None => self.checkpoint.clone().ok_or(unexpected)?,
                };
                self.live(&signed, &page, reservation, stakes, now_ms)
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
        (self.begun, self.known, self.credit) = (true, paid, credit);
        let mut actions = Vec::new();
        if let ChannelPurchaseState::Stopping { end, bound } = self.purchase.state {
            if bound.is_none() {
                let bound = Some(self.bound(reservation.paid())?);
                self.purchase.state = ChannelPurchaseState::Stopping { end, bound };
                actions.push(ReceiveAction::Store);
            }
            actions.push(ReceiveAction::Send(ToSeller::Stop));
        } else if self.paused {
            actions.push(ReceiveAction::Send(ToSeller::Pause));
        }
        actions.extend(self.stop_when_spent(reservation.paid())?);
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

    /// Sequence number after the last reading that is taken.
    fn last_wanted(&self, size: u64) -> u64 {
        let end = self.terms.end.unwrap_or(size);
        match self.purchase.state {
            ChannelPurchaseState::Stopping { end: Some(last), .. } => end.min(last),
            _ => end,
        }
    }

    fn live(
        &mut self,
        signed: &Signed<Checkpoint>,
        page: &Page,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        now_ms: i64,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        if signed.value().stream != self.terms.stream {
            return Err(ReceiveError::OtherStream);
        }
        let range = (self.purchase.next, self.last_wanted(signed.value().size));
        let before = self.purchase.trail.as_ref();
        let (proven, trail) = Trail::follow(before, page, &self.terms.schema, signed, range)?;
        self.purchase.trail = Some(trail);
        let actions = self.page(proven, Some(signed.bytes().clone()), reservation, stakes, now_ms)?;
        self.checkpoint = Some(signed.clone());
        Ok(actions)
    }

    fn page(
        &mut self,
        proven: ProvenPage,
        signed: Option<SignedBytes>,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        now_ms: i64,
    ) -> Result<Vec<ReceiveAction>, ReceiveError> {
        let before = self.due()?;
        self.purchase.next = proven.end();
        if let tariff @ Tariff::Second { .. } = self.terms.tariff {
            check_times(&proven.readings, now_ms)?;
            let times = proven.readings.iter().map(|reading| reading.time);
            self.purchase.meter = times.fold(self.purchase.meter, |meter, time| meter.after(tariff, time));
        }
        let due = self.due()?;
        self.check_bound(due)?;
        self.interval.answered(due.saturating_sub(before));
        let mut actions = vec![ReceiveAction::Keep { page: Box::new(proven), checkpoint: signed }];
        actions.extend(self.stop_when_spent(reservation.paid())?);
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
        let next = self.purchase.next;
        if end < next {
            return Err(ReceiveError::SentLess { said: end, next });
        }
        if let ChannelPurchaseState::Stopping { end: Some(before), .. } = self.purchase.state
            && end > before
        {
            return Err(ReceiveError::LaterEnd { said: end, before });
        }
        // By the second the readings that are under way have a most that they may cost. What is paid is what is due for those that come.
        let gap_ms = u64::from(self.terms.tariff.longest_gap_ms());
        let under_way_ms = end.saturating_sub(next).saturating_mul(gap_ms);
        let due = self.terms.due(end, self.purchase.meter.charged_ms.saturating_add(under_way_ms))?;
        if asked > due {
            return Err(ReceiveError::Due { asked, due });
        }
        let bound = Some(self.bound(reservation.paid())?);
        self.purchase.state = ChannelPurchaseState::Stopping { end: Some(end), bound };
        self.check_bound(match self.terms.tariff {
            Tariff::Reading(_) => due,
            // What it will be only the time stamps say: each page is held against the bound, too.
            Tariff::Second { .. } => asked,
        })?;
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
        // Before it is known where a stopped order ends its seller is paid nothing that it could deliver more for.
        let to = match self.purchase.state {
            ChannelPurchaseState::Stopping { end: None, bound: Some(bound) } => to.min(bound.at_once),
            _ => to,
        };
        // Not a voucher for each page: half of what stands ahead is used up first. But never so late that the next reading waits.
        let half = window.as_u64() / 2;
        let low = paid.saturating_sub(due).as_u64() < half;
        let next_due = self.next_due();
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

    /// What the order has paid by its receipt: what is due, whatever was paid ahead.
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
            ("paid", receipt.paid > paid || receipt.paid != self.due()?),
            ("channel", receipt.channel != self.purchase.channel),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            Some((field, _)) => Err(ReceiveError::Receipt { field }),
            None => Ok(receipt.paid),
        }
    }
}

/// By the second a time stamp is money: none is taken that lies further ahead than two clocks may differ.
fn check_times(readings: &[Reading], now_ms: i64) -> Result<(), ReceiveError> {
    const NANOS_PER_MS: i64 = 1_000_000;
    let ahead_ms = |reading: &Reading| reading.time.div_euclid(NANOS_PER_MS).saturating_sub(now_ms);
    match readings.iter().find(|reading| ahead_ms(reading) > CLOCK_TOLERANCE_MS) {
        Some(reading) => {
            Err(ReceiveError::Ahead { seq: reading.seq, ahead_s: ahead_ms(reading).div_euclid(1_000) })
        }
        None => Ok(()),
    }
}
