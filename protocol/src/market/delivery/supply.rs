//! The seller's side of a delivery that is paid through a channel, as a state machine.
//!
//! ```text
//!            admit                 Sent (the last), Paid (all)
//!  Begin ───────────▶ Running ───────────────────────────────▶ Ended: the receipt, for 30 days
//!    │                 │   ▲                                      ▲
//!    │ Refusal         │   └── Paid: more readings go out         │ Paid (all that was sent)
//!    ▼                 │                                          │
//!  nothing kept        └── Stop, Closing, ─▶ Stopped ─────────────┘
//!                          the budget is        │
//!                          spent                └── Closed ─▶ LeftUnpaid
//! ```
//!
//! Invariant I2: readings go out only for what is paid, and beyond that for what is *granted*, which is never more than what is paid and the seller's
//! exposure. Voucher and grant are stored before the first reading for them goes out, so that no crash forgets what a buyer owes.
//!
//! By the second a reading's price follows from its time stamp and those before it ([`Meter`]), so the machine asks for the time stamps of what it may
//! send next ([`SupplyAction::Times`]), at most [`LOOK_AHEAD`] at a time.

#![warn(clippy::arithmetic_side_effects)]

mod record;

use std::collections::VecDeque;
use std::ops::Range;

use sensora_chain::{Network, Satoshis};

use crate::identity::Identity;
use crate::market::delivery::frame::{Begin, ToBuyer};
use crate::market::delivery::meter::Meter;
use crate::market::delivery::terms::Terms;
use crate::market::exposure::{Interval, OverLimit, Stakes};
use crate::market::price::{PriceError, Tariff};
use crate::market::receipt::ChannelReceipt;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes, StatementError};
use crate::stream::CHUNK_LEN;

pub use record::{ChannelSale, ChannelSaleState, ChannelView, Mark, SupplyAdmission};

/// Most readings whose time stamps are asked for and held at a time: a chunk, which is what a log opens at once.
pub const LOOK_AHEAD: u64 = CHUNK_LEN;

/// What has happened outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupplyEvent {
    /// A voucher was verified: with it the order has paid so much in all. The account with it is to be stored together with the sale.
    Paid(Satoshis),
    /// The log has so many readings.
    Size(u64),
    /// The time stamps that were asked for.
    Times {
        /// Sequence number of the first.
        first: u64,
        /// Nanoseconds since the Unix epoch, one for each reading without holes: the whole range that was asked for, or its beginning.
        times: Vec<i64>,
    },
    /// The readings before this one are on their way.
    Sent(u64),
    /// Less is open with this buyer than before, in another order: there may be room for this one. Without it, orders that share one
    /// exposure would wait for each other.
    Room,
    /// The buyer wants no readings for now.
    Pause,
    /// The buyer wants readings again.
    Resume,
    /// The buyer wants no more readings.
    Stop,
    /// The orders on the channel come to their end: the newest block is at
    /// [`ChannelOffer::orders_end_at`](crate::market::channel::offer::ChannelOffer::orders_end_at).
    Closing,
    /// No voucher is taken any more:
    /// [`SellerChannel::leaves_orders`](crate::market::channel::seller::SellerChannel::leaves_orders).
    Closed,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum SupplyAction {
    /// Make the sale durable, with the channel's account where a voucher has come.
    Store,
    /// Read the time stamps of these readings, and come back with [`SupplyEvent::Times`]. At most [`LOOK_AHEAD`], all of them in the log.
    Times(Range<u64>),
    /// Send these readings, and come back with [`SupplyEvent::Sent`].
    Send(Range<u64>),
    /// Send this frame.
    Frame(ToBuyer),
    /// The order has ended, having paid so much: its lane in the channel's account ends with that in the same stored step as the sale.
    End(Satoshis),
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
    paused: bool,
    /// It is to be stopped, when it is known what that comes to.
    stopping: bool,
    times: Times,
}

/// What is known of time stamps, by the second.
#[derive(Debug, Clone)]
struct Times {
    /// What the readings before `counted` are charged for. In the beginning that is behind what has been handed out, and from then on the same.
    meter: Meter,
    counted: u64,
    /// The time stamps from there on.
    ahead: VecDeque<i64>,
    /// Those of the readings before this one are here, or asked for.
    asked: u64,
}

impl Times {
    fn known(&self) -> u64 {
        self.counted.saturating_add(self.ahead.len() as u64)
    }

    /// Counts the readings before `to`, as far as their time stamps are known.
    fn count(&mut self, tariff: Tariff, to: u64) {
        while self.counted < to
            && let Some(time) = self.ahead.pop_front()
        {
            self.meter = self.meter.after(tariff, time);
            self.counted = self.counted.saturating_add(1);
        }
    }
}

/// The sale is stored before these frames and what follows; where it ends, in the one step in which its lane ends, too: a sale that is stored as
/// ended with a lane that is not would keep the lane for ever.
fn stored_first(frames: Vec<SupplyAction>, more: Vec<SupplyAction>) -> Vec<SupplyAction> {
    let mut rest = more;
    let stores = matches!(rest.first(), Some(SupplyAction::End(_) | SupplyAction::Store));
    let mut stored = if stores { vec![rest.remove(0)] } else { vec![SupplyAction::Store] };
    stored.extend(frames);
    stored.extend(rest);
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
        // Nobody has readings that are not there, whatever it says.
        let next = begin.next.min(terms.end.unwrap_or(size)).max(terms.first);
        let budget = begin.budget.max(paid);
        // A buyer that had an old backup may begin before it began the last time.
        let Mark { next: counted, meter } = match sale.mark.next <= next {
            true => sale.mark,
            false => Mark { next: terms.first, meter: Meter::default() },
        };
        let times = Times { meter, counted, ahead: VecDeque::new(), asked: counted };
        Self {
            sale,
            terms,
            interval,
            paid,
            budget,
            next,
            handed: next,
            size,
            paused: false,
            stopping: false,
            times,
        }
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
        self.sale.is_final()
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
        if let ChannelSaleState::LeftUnpaid { .. } = self.sale.state {
            return Ok(vec![SupplyAction::Frame(self.closed())]);
        }
        // What went out on earlier streams counts whatever the limit is by now.
        let credit = self.interval.limit().max(self.sale.granted.saturating_sub(self.paid));
        let begun = ToBuyer::Begun { paid: self.paid, credit };
        let mut frames = vec![SupplyAction::Frame(begun)];
        if let ChannelSaleState::Stopped { end, due } = self.sale.state {
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
        // A buyer that has stopped the order waits to hear where it ends before it goes on.
        let stopped = ToBuyer::Stopped { end, due: paid };
        let send = SupplyAction::Send(self.next..end);
        Ok(vec![SupplyAction::Frame(begun), SupplyAction::Frame(stopped), send])
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
        if self.is_ended() {
            return Ok(Vec::new());
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
            SupplyEvent::Times { first, times } => {
                let none = times.is_empty();
                self.take_times(first, times);
                if none {
                    // Asking again at once would be asking for ever.
                    return Ok(Vec::new());
                }
            }
            SupplyEvent::Sent(to) => self.next = to.min(self.handed).max(self.next),
            SupplyEvent::Pause => self.paused = true,
            SupplyEvent::Resume => self.paused = false,
            SupplyEvent::Stop | SupplyEvent::Closing => self.stopping = true,
            SupplyEvent::Closed => return self.close(stakes, seller, network, now_ms),
        }
        self.go_on(stakes, seller, network, now_ms)
    }

    fn is_by_second(&self) -> bool {
        matches!(self.terms.tariff, Tariff::Second { .. })
    }

    /// Whether it is known what the readings that were handed out are charged for.
    fn is_counted(&self) -> bool {
        !self.is_by_second() || self.times.counted >= self.handed
    }

    /// Time stamps come in order; what was not asked for is not taken.
    fn take_times(&mut self, first: u64, times: Vec<i64>) {
        let room = LOOK_AHEAD.saturating_sub(self.times.ahead.len() as u64);
        if first == self.times.known() {
            self.times.ahead.extend(times.into_iter().take(usize::try_from(room).unwrap_or(0)));
        }
        self.times.asked = self.times.known();
        if self.is_by_second() && self.times.counted < self.handed {
            self.times.count(self.terms.tariff, self.handed);
            if self.is_counted() {
                self.sale.mark = Mark { next: self.handed, meter: self.times.meter };
            }
        }
    }

    /// Asks for the next time stamps, unless they are asked for already or are not there.
    fn ask_times(&mut self) -> Vec<SupplyAction> {
        let known = self.times.known();
        let room = LOOK_AHEAD.saturating_sub(self.times.ahead.len() as u64);
        let to = known.saturating_add(room).min(self.size);
        if self.times.asked > known || to <= known {
            return Vec::new();
        }
        self.times.asked = to;
        vec![SupplyAction::Times(known..to)]
    }

    /// The most for which readings may go out now.
    fn allowed(&self, stakes: &Stakes) -> Satoshis {
        let window = self.interval.now().min(stakes.room(&self.sale.order));
        self.paid.checked_add(window).unwrap_or(self.paid).min(self.budget)
    }

    /// Sequence number after the last reading that is ordered and there.
    fn there(&self) -> u64 {
        self.terms.end.map_or(self.size, |end| end.min(self.size))
    }

    /// How far `amount` reaches beyond what has been handed out, and what is due there; none where it does not. By the second it reaches no further than
    /// time stamps are known.
    fn reach(&self, amount: Satoshis) -> Result<Option<(u64, Satoshis)>, PriceError> {
        let there = self.there();
        if let Tariff::Reading(price) = self.terms.tariff {
            let to = self.terms.first.saturating_add(price.covered_by(amount)).min(there);
            return Ok(if to > self.handed { Some((to, self.terms.due(to, 0)?)) } else { None });
        }
        let (mut to, mut meter, mut reached) = (self.times.counted, self.times.meter, None);
        for time in &self.times.ahead {
            to = to.saturating_add(1);
            meter = meter.after(self.terms.tariff, *time);
            match self.terms.due(to, meter.charged_ms) {
                Ok(due) if due <= amount && to <= there => reached = Some((to, due)),
                // More than all money is more than the amount.
                _ => break,
            }
        }
        Ok(reached)
    }

    /// No more readings than those that were handed out, and those that are paid already and there. Answers the frame that says so.
    fn stop(&mut self) -> Result<SupplyAction, PriceError> {
        let (end, due) = match self.reach(self.paid)? {
            Some(reached) => reached,
            None => (self.handed, self.terms.due(self.handed, self.times.meter.charged_ms)?),
        };
        self.sale.state = ChannelSaleState::Stopped { end, due };
        self.stopping = false;
        Ok(SupplyAction::Frame(ToBuyer::Stopped { end, due }))
    }

    fn closed(&self) -> ToBuyer {
        ToBuyer::Refused(Refusal::ChannelClosed { channel: self.sale.channel })
    }

    /// The channel is closed. What is paid is still delivered and receipted; else the order ends as it is.
    fn close(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<SupplyAction>, SupplyError> {
        let mut frames = Vec::new();
        if self.sale.state == ChannelSaleState::Running
            && self.terms.end.is_none_or(|end| self.handed < end)
            && self.is_counted()
        {
            frames.push(self.stop()?);
        }
        let last = self.last()?;
        if last.is_some_and(|(_, due)| due <= self.paid) {
            let more = self.go_on(stakes, seller, network, now_ms)?;
            return Ok(stored_first(frames, more));
        }
        if let (ChannelSaleState::Running, Some((end, due))) = (&self.sale.state, last) {
            self.sale.state = ChannelSaleState::Stopped { end, due };
        }
        let paid = self.sale.leave(self.paid).unwrap_or(self.paid);
        stakes.note(self.sale.order, Satoshis::ZERO);
        Ok(vec![SupplyAction::End(paid), SupplyAction::Frame(self.closed())])
    }

    /// Where the order ends, as far as that is settled: after its last reading, and what is due there.
    fn last(&self) -> Result<Option<(u64, Satoshis)>, PriceError> {
        Ok(match (&self.sale.state, self.terms.end) {
            (ChannelSaleState::Stopped { end, due }, _) => Some((*end, *due)),
            (ChannelSaleState::Running, Some(end)) if self.handed >= end => {
                Some((end, self.terms.due(end, 0)?))
            }
            _ => None,
        })
    }

    /// What follows from the state: an end, or readings for what is paid and trusted.
    fn go_on(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<SupplyAction>, SupplyError> {
        if self.is_ended() {
            return Ok(Vec::new());
        }
        if self.sale.state == ChannelSaleState::Running && !self.is_counted() {
            // Whoever says that it has more than was ever granted is counted no further than that, until it has paid.
            let due = self.terms.due(self.times.counted, self.times.meter.charged_ms)?;
            let most = self.allowed(stakes).max(self.sale.granted).max(self.paid);
            return Ok(if due > most { Vec::new() } else { self.ask_times() });
        }
        if self.stopping && self.sale.state == ChannelSaleState::Running {
            let stopped = self.stop()?;
            let more = self.finish(stakes, seller, network, now_ms)?;
            return Ok(stored_first(vec![stopped], more));
        }
        if self.last()?.is_some() {
            return self.finish(stakes, seller, network, now_ms);
        }
        if self.handed > self.next || self.paused {
            return Ok(Vec::new());
        }
        let Some((to, due)) = self.reach(self.allowed(stakes).max(self.sale.granted))? else {
            return self.wait(stakes, seller, network, now_ms);
        };
        let mut actions = Vec::new();
        // What is paid needs no grant, and nothing to be stored before it goes out: the voucher is on disk.
        if due > self.sale.granted.max(self.paid) {
            stakes.set(self.sale.order, due.saturating_sub(self.paid))?;
            self.sale.granted = due;
            actions.push(SupplyAction::Store);
        }
        self.hand_out(to, &mut actions);
        Ok(actions)
    }

    fn hand_out(&mut self, to: u64, actions: &mut Vec<SupplyAction>) {
        self.handed = to;
        if self.is_by_second() {
            self.times.count(self.terms.tariff, to);
        }
        actions.push(SupplyAction::Send(self.next..to));
    }

    /// Nothing can go out now. By the second that may be because the next time stamps are not known, or because they say that the budget is spent: the buyer
    /// does not see them, so it is told.
    fn wait(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<SupplyAction>, SupplyError> {
        if !self.is_by_second() {
            return Ok(Vec::new());
        }
        let Some(time) = self.times.ahead.front() else { return Ok(self.ask_times()) };
        let meter = self.times.meter.after(self.terms.tariff, *time);
        let next_due = self.terms.due(self.handed.saturating_add(1), meter.charged_ms);
        if next_due.is_ok_and(|due| due <= self.budget) {
            return Ok(Vec::new());
        }
        let stopped = self.stop()?;
        let more = self.finish(stakes, seller, network, now_ms)?;
        Ok(stored_first(vec![stopped], more))
    }

    /// The order has a last reading: what is missing before it goes out, as far as it is granted, and when all is paid the receipt follows.
    fn finish(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<SupplyAction>, SupplyError> {
        let Some((end, due)) = self.last()? else { return Ok(Vec::new()) };
        if self.handed > self.next {
            return Ok(Vec::new());
        }
        if self.next < end {
            // Where the order ends may be what the buyer said that it had: that is not granted, and does not go out when it says that it has less.
            if due > self.allowed(stakes).max(self.sale.granted).max(self.paid) {
                return Ok(Vec::new());
            }
            let mut actions = Vec::new();
            if due > self.sale.granted {
                stakes.set(self.sale.order, due.saturating_sub(self.paid))?;
                self.sale.granted = due;
                actions.push(SupplyAction::Store);
            }
            self.hand_out(end, &mut actions);
            return Ok(actions);
        }
        if self.paid < due {
            return Ok(Vec::new());
        }
        let receipt = self.receipt(end, due, seller, network, now_ms)?;
        self.sale.state = ChannelSaleState::Ended { receipt: receipt.clone() };
        stakes.note(self.sale.order, Satoshis::ZERO);
        Ok(vec![SupplyAction::End(due), SupplyAction::Frame(ToBuyer::Ended { receipt })])
    }

    fn receipt(
        &self,
        end: u64,
        due: Satoshis,
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
            paid: due,
            channel: self.sale.channel,
            issued_ms: now_ms,
        };
        Ok(Signed::sign(receipt, seller, network)?.into_bytes())
    }
}
