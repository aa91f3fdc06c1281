//! The seller's side of an order of single readings, as a state machine.
//!
//! ```text
//!            admit                 Stop, and what is open stored     Paid (all that was answered)
//!  Begin ───────────▶ Running ───────────────────────────▶ Stopped ───────────────────────────▶ Ended: the receipt
//!                      │   ▲
//!                      └───┘ questions are answered within the grant; a larger one is stored before it is used up
//! ```
//!
//! Invariant I2: readings go out for at most what is *granted*, the grant is on disk before they do, and it is never more than what is paid and the
//! seller's exposure. Vouchers are stored with the next grant, or a moment after the last one. A crash forgets those in between: what
//! they paid is at most the grant less what the disk says is paid, which is within the exposure, and a buyer sends its highest voucher again.
//! I3: a reading has one place and one price in an order, however often it is asked for.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::VecDeque;

use sensora_chain::{Network, Satoshis};

use super::asked::Asked;
use super::frame::{Cursor, ToBuyer, ToSeller};
use super::known::{Subtree, is_whole, subtrees};
use crate::identity::Identity;
use crate::market::delivery::frame::{Begin, ToBuyer as Frame};
use crate::market::delivery::supply::{ChannelSale, ChannelSaleState};
use crate::market::delivery::terms::Terms;
use crate::market::exposure::{Interval, OverLimit, Stakes};
use crate::market::price::{Price, PriceError};
use crate::market::receipt::ChannelReceipt;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes, StatementError};

/// Most questions of one order that are not answered. One is some dozen bytes; that many in flight fill any connection with readings.
pub const MAX_OPEN: usize = 256;

/// Answers that take work and are not paid, on one stream: how the log has grown, and readings that were answered before. A buyer asks for the log once on a stream and
/// when it wants a reading that is not there yet; with so many to begin with nobody who buys will notice.
const FREE_ANSWERS: u64 = 256;
/// So many more with each reading that takes a place: a buyer that awaits the next one may look so often.
const FREE_FOR_READING: u64 = 16;
/// Where none is left, there is one in so many milliseconds.
const FREE_EVERY_MS: i64 = 1000;

/// A question, as far as the machine needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Its id.
    pub id: u16,
    /// What is asked.
    pub what: What,
}

/// What is asked, with what the seller's log says to it at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A reading of the buyer's log, which the seller's log has.
    Reading {
        /// Sequence number.
        seq: u64,
        /// Hashes.
        levels: u8,
    },
    /// The newest reading, which is not in the buyer's log.
    Newest {
        /// Sequence number.
        seq: u64,
        /// Size of the buyer's log.
        from: u64,
    },
    /// The newest reading, which the buyer has.
    Same,
    /// How the log has grown.
    Grow {
        /// Size of the buyer's log.
        from: u64,
    },
}

impl Question {
    /// What a buyer's frame asks, when the log has `size` readings; `None` for a frame that is no question. `numbers` is where the buyer's questions are.
    ///
    /// # Errors
    /// [`Refusal`] for what no buyer asks that has verified what it was told.
    pub fn of(frame: &ToSeller, size: u64, numbers: &mut Cursor) -> Result<Option<Self>, Refusal> {
        let beyond = Refusal::RangeNotAvailable { size };
        let (id, what) = match *frame {
            ToSeller::Read { id, step, levels } => {
                let seq = Some(numbers.take(step)).filter(|seq| *seq < size).ok_or(beyond)?;
                (id, What::Reading { seq, levels })
            }
            ToSeller::Latest { size: from, .. } | ToSeller::Grow { size: from, .. }
                if from > size || size == 0 =>
            {
                return Err(beyond);
            }
            ToSeller::Latest { id, size: from, levels } if from == size => match levels {
                None => (id, What::Same),
                Some(levels) => (id, What::Reading { seq: size.saturating_sub(1), levels }),
            },
            ToSeller::Latest { id, size: from, .. } => {
                (id, What::Newest { seq: size.saturating_sub(1), from })
            }
            ToSeller::Grow { id, size } => (id, What::Grow { from: size }),
            ToSeller::Voucher(_) | ToSeller::Stop | ToSeller::Alive => return Ok(None),
        };
        if let What::Reading { seq, levels } = what
            && !is_whole(seq, levels, size)
        {
            let reason = format!("reading {seq} is in no whole subtree of level {levels} in a log of {size}");
            return Err(Refusal::Malformed { reason });
        }
        Ok(Some(Self { id, what }))
    }
}

impl What {
    /// The subtrees whose roots belong into the answer, when the log has `size` readings.
    #[must_use]
    pub fn hashes(self, size: u64) -> Vec<Subtree> {
        match self {
            Self::Reading { seq, levels } => {
                (0..levels).map(|level| Subtree { level, index: (seq >> level) ^ 1 }).collect()
            }
            Self::Newest { seq, from } => subtrees(from, seq),
            Self::Grow { from } => subtrees(from, size),
            Self::Same => Vec::new(),
        }
    }

    /// Whether the log is looked at for the answer.
    const fn takes_work(self) -> bool {
        !matches!(self, Self::Same)
    }

    const fn reading(self) -> Option<u64> {
        match self {
            Self::Reading { seq, .. } | Self::Newest { seq, .. } => Some(seq),
            Self::Same | Self::Grow { .. } => None,
        }
    }
}

/// What has happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeEvent {
    /// The buyer asks.
    Asked(Question),
    /// A voucher was verified: with it the order has paid so much in all.
    Paid(Satoshis),
    /// What was last to be stored is on disk.
    Stored,
    /// Less is open with this buyer than before, in another order.
    Room,
    /// Nothing has come for a moment: vouchers that are not on disk are stored.
    Rest,
    /// Nothing has come for long: what is granted and not used is taken back, so that it is room for other orders of this buyer.
    Idle,
    /// The buyer asks no more.
    Stop,
    /// The channel comes to its end: nothing new is answered, and what was is to be paid. Given at each tip, it means the same.
    Closing,
    /// No voucher is taken any more: [`SellerChannel::leaves_orders`](crate::market::channel::seller::SellerChannel::leaves_orders).
    Closed,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum ServeAction {
    /// Answer this question.
    Answer(Question),
    /// Make the sale and [`Serve::asked`] durable as they are now, with the channel's account, and come back with [`ServeEvent::Stored`]. What
    /// follows need not wait for it.
    Store,
    /// Send this frame.
    Frame(ToBuyer),
    /// The order has ended, with so much paid by its receipt: it is made durable, and its lane in the channel's account ends, in one stored step, before
    /// what follows.
    End(Satoshis),
}

/// Why an event is not followed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The buyer is told, and the stream ends.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// More would be open with this buyer than is allowed.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The price of what is answered is above all money.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// The receipt cannot be signed.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

/// An order of single readings under way.
#[derive(Debug, Clone)]
pub struct Serve {
    sale: ChannelSale,
    terms: Terms,
    price: Price,
    asked: Asked,
    interval: Interval,
    paid: Satoshis,
    budget: Satoshis,
    /// First place that the buyer has not.
    next: u64,
    /// The grant that is on disk.
    granted: Satoshis,
    /// Something is being stored: with this grant.
    storing: Option<Satoshis>,
    /// What is paid by what is on disk, or on its way there.
    kept_paid: Satoshis,
    /// How many places are.
    kept_count: u64,
    open: VecDeque<Question>,
    /// Answers that take work and that are still given for nothing, and when the last one was given beyond them.
    free: u64,
    paced_ms: i64,
    stops: bool,
    closed: bool,
}

impl Serve {
    /// Begins, or goes on after a break, with what [`ChannelSale::admit`] or [`ChannelSale::go_on`] has passed. `asked` is what is stored of the order,
    /// `paid` what the channel's account says.
    ///
    /// # Errors
    /// [`Refusal::InvalidOrder`] for a buyer that has more than it can have been given.
    pub fn new(
        mut sale: ChannelSale,
        terms: Terms,
        interval: Interval,
        paid: Satoshis,
        begin: &Begin,
        mut asked: Asked,
    ) -> Result<Self, Refusal> {
        let price = terms.tariff.price();
        let covered = price.covered_by(sale.granted.max(paid)).max(asked.count());
        let more = begin.next.saturating_sub(asked.count());
        let is_open = !sale.is_final();
        if begin.next > covered || (more > 0 && !is_open) {
            let reason = format!("{} readings are said to be there, at most {covered} can be", begin.next);
            return Err(Refusal::InvalidOrder { reason });
        }
        let kept_count = asked.count();
        if is_open {
            // After a crash of both sides nobody knows what was there: what cannot be delivered again is not charged.
            asked.drop_unknown(begin.next);
        }
        // Places from before a crash, of which the buyer knows and the disk does not.
        asked.push_unknown(more).map_err(|full| Refusal::InvalidOrder { reason: full.to_string() })?;
        if matches!(sale.state, ChannelSaleState::Stopped { .. }) {
            let end = asked.count();
            let due = price.due(end).map_err(|error| Refusal::InvalidOrder { reason: error.to_string() })?;
            sale.state = ChannelSaleState::Stopped { end, due };
        }
        // What the buyer has paid and lost it gets again.
        let free = FREE_ANSWERS.saturating_add(asked.count().saturating_sub(begin.next));
        let (budget, granted, next) = (begin.budget.max(paid), sale.granted, begin.next);
        Ok(Self {
            sale,
            terms,
            price,
            asked,
            interval,
            paid,
            budget,
            next,
            granted,
            storing: None,
            kept_paid: paid,
            kept_count,
            open: VecDeque::new(),
            free,
            paced_ms: i64::MIN,
            stops: false,
            closed: false,
        })
    }

    /// The durable record; [`Serve::asked`] belongs to it.
    #[must_use]
    pub const fn sale(&self) -> &ChannelSale {
        &self.sale
    }

    /// What was answered: stored with the sale.
    #[must_use]
    pub const fn asked(&self) -> &Asked {
        &self.asked
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

    /// Whether [`ServeEvent::Rest`] would store something.
    #[must_use]
    pub fn has_unkept(&self) -> bool {
        self.storing.is_none() && self.paid > self.kept_paid && !self.is_ended()
    }

    /// Whether sale, [`Serve::asked`] and account are to be stored when the stream ends without the order, so that what was answered last is not forgotten.
    #[must_use]
    pub fn is_to_be_left(&self) -> bool {
        let is_unkept = self.paid > self.kept_paid || self.asked.count() != self.kept_count;
        !self.is_ended() && (is_unkept || self.storing.is_some())
    }

    /// The sale as it is to be stored then. A grant that is not known to be on disk is none: nothing was answered within it.
    #[must_use]
    pub fn left(&self) -> ChannelSale {
        let granted = match self.storing {
            Some(_) => self.sale.granted.min(self.granted),
            None => self.sale.granted,
        };
        ChannelSale { granted, ..self.sale.clone() }
    }

    /// What to do first, on a new stream.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn start(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<ServeAction>, ServeError> {
        let count = self.asked.count();
        let mut actions = Vec::new();
        let mut credit = self.interval.now();
        if let ChannelSaleState::Ended { receipt } = &self.sale.state {
            if self.next >= count {
                return Ok(vec![order(Frame::Ended { receipt: receipt.clone() })]);
            }
            credit = Satoshis::ZERO;
        }
        actions.push(order(Frame::Begun { paid: self.paid, credit }));
        if self.next < count {
            actions.push(ServeAction::Frame(ToBuyer::Owed(self.asked.from(self.next))));
        }
        if let ChannelSaleState::Stopped { end, due } = self.sale.state {
            actions.push(order(Frame::Stopped { end, due }));
        }
        actions.extend(self.go_on(stakes, seller, network, now_ms)?);
        Ok(actions)
    }

    /// Takes an event; see the module for the states.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn handle(
        &mut self,
        event: ServeEvent,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<ServeAction>, ServeError> {
        match event {
            ServeEvent::Asked(question) => {
                if self.open.len() >= MAX_OPEN {
                    let reason = format!("more than {MAX_OPEN} questions are open in one order");
                    return Err(Refusal::Malformed { reason }.into());
                }
                self.open.push_back(question);
            }
            ServeEvent::Paid(paid) => {
                self.interval.answered(paid.saturating_sub(self.paid));
                self.paid = paid.max(self.paid);
                stakes.note(self.sale.order, self.sale.open(self.paid));
            }
            ServeEvent::Stored => {
                if let Some(granted) = self.storing.take() {
                    self.granted = granted;
                }
            }
            ServeEvent::Room => {}
            ServeEvent::Rest if self.has_unkept() => return Ok(vec![self.store()]),
            ServeEvent::Idle if self.storing.is_none() && self.open.is_empty() && self.is_running() => {
                let used = self.price.due(self.asked.count())?.max(self.paid).min(self.sale.granted);
                if used < self.sale.granted || self.has_unkept() {
                    self.sale.granted = used;
                    self.granted = used;
                    stakes.note(self.sale.order, self.sale.open(self.paid));
                    return Ok(vec![self.store()]);
                }
            }
            // There may be room that was not told of.
            ServeEvent::Rest | ServeEvent::Idle => {}
            ServeEvent::Stop => {
                if let ChannelSaleState::Ended { receipt } = &self.sale.state {
                    return Ok(vec![order(Frame::Ended { receipt: receipt.clone() })]);
                }
                self.stops = true;
            }
            ServeEvent::Closing | ServeEvent::Closed if self.is_ended() => return Ok(Vec::new()),
            ServeEvent::Closing => self.stops = true,
            ServeEvent::Closed => self.closed = true,
        }
        self.go_on(stakes, seller, network, now_ms)
    }

    fn is_running(&self) -> bool {
        self.sale.state == ChannelSaleState::Running
    }

    fn store(&mut self) -> ServeAction {
        self.storing = Some(self.sale.granted);
        (self.kept_paid, self.kept_count) = (self.paid, self.asked.count());
        ServeAction::Store
    }

    /// What follows from the state: answers within the grant, a larger grant, an end.
    fn go_on(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<ServeAction>, ServeError> {
        let mut actions = self.answer(now_ms)?;
        self.grant(stakes, &mut actions)?;
        if self.storing.is_some() {
            return Ok(actions);
        }
        if self.closed && !self.is_ended() {
            actions.extend(self.close(stakes, seller, network, now_ms)?);
            return Ok(actions);
        }
        if self.stops && self.is_running() {
            let end = self.asked.count();
            let due = self.price.due(end)?;
            self.sale.state = ChannelSaleState::Stopped { end, due };
            self.sale.granted = due.min(self.sale.granted);
            stakes.note(self.sale.order, self.sale.open(self.paid));
            actions.push(self.store());
            actions.push(order(Frame::Stopped { end, due }));
            return Ok(actions);
        }
        if let ChannelSaleState::Stopped { end, due } = self.sale.state
            && self.paid >= due
        {
            let receipt = self.receipt(end, due, seller, network, now_ms)?;
            self.sale.state = ChannelSaleState::Ended { receipt: receipt.clone() };
            stakes.note(self.sale.order, Satoshis::ZERO);
            actions.extend([ServeAction::End(due), order(Frame::Ended { receipt })]);
        }
        Ok(actions)
    }

    /// The channel is closed, with the vouchers that are on disk. Where they pay all that was answered, the order ends with its receipt; else as it is.
    fn close(
        &mut self,
        stakes: &mut Stakes,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Vec<ServeAction>, ServeError> {
        let end = match self.sale.state {
            ChannelSaleState::Stopped { end, .. } => end,
            _ => self.asked.count(),
        };
        let (due, paid) = (self.price.due(end)?, self.kept_paid);
        stakes.note(self.sale.order, Satoshis::ZERO);
        if paid >= due {
            let receipt = self.receipt(end, due, seller, network, now_ms)?;
            self.sale.state = ChannelSaleState::Ended { receipt: receipt.clone() };
            let stopped = order(Frame::Stopped { end, due });
            return Ok(vec![ServeAction::End(due), stopped, order(Frame::Ended { receipt })]);
        }
        self.sale.state = ChannelSaleState::Stopped { end, due };
        let paid = self.sale.leave(paid).unwrap_or(paid);
        let closed = Refusal::ChannelClosed { channel: self.sale.channel };
        Ok(vec![ServeAction::End(paid), order(Frame::Refused(closed))])
    }

    /// The questions that can be answered now, in their order.
    fn answer(&mut self, now_ms: i64) -> Result<Vec<ServeAction>, ServeError> {
        let mut actions = Vec::new();
        while let Some(question) = self.open.front().copied() {
            if let Some(seq) = question.what.reading().filter(|seq| !self.asked.contains(*seq)) {
                // The buyer hears that the order has stopped, and that these are not answered.
                if !self.is_running() || self.stops || self.closed {
                    self.open.pop_front();
                    continue;
                }
                if self.price.due(self.asked.count().saturating_add(1))? > self.granted {
                    break;
                }
                self.asked.push(seq).map_err(|full| Refusal::InvalidOrder { reason: full.to_string() })?;
                self.free = self.free.max(self.free.saturating_add(FREE_FOR_READING).min(FREE_ANSWERS));
            } else if question.what.takes_work() && !self.gives(now_ms) {
                break;
            }
            self.open.pop_front();
            actions.push(ServeAction::Answer(question));
        }
        Ok(actions)
    }

    /// Whether something is given for nothing now; where it is not, the question and those behind it wait.
    fn gives(&mut self, now_ms: i64) -> bool {
        if let Some(left) = self.free.checked_sub(1) {
            self.free = left;
            return true;
        }
        // A clock that was set back must not make it wait for long.
        let is_time = now_ms < self.paced_ms || now_ms.saturating_sub(self.paced_ms) >= FREE_EVERY_MS;
        if is_time {
            self.paced_ms = now_ms;
        }
        is_time
    }

    /// A larger grant is stored when a question waits for it, or half of what stands open is used up.
    fn grant(&mut self, stakes: &mut Stakes, actions: &mut Vec<ServeAction>) -> Result<(), ServeError> {
        if self.storing.is_some() || !self.is_running() || self.stops {
            return Ok(());
        }
        let window = self.interval.now().min(stakes.room(&self.sale.order));
        let allowed = self.paid.checked_add(window).unwrap_or(self.paid).min(self.budget);
        let allowed = self.price.due(self.price.covered_by(allowed))?;
        let used = self.price.due(self.asked.count())?;
        let left = self.granted.saturating_sub(used).as_u64();
        let is_low = left.saturating_mul(2) < window.as_u64();
        if allowed > self.sale.granted && (is_low || !self.open.is_empty()) {
            stakes.set(self.sale.order, allowed.saturating_sub(self.paid))?;
            self.sale.granted = allowed;
            actions.push(self.store());
        }
        Ok(())
    }

    /// What was paid ahead pays for other orders on the channel.
    fn receipt(
        &self,
        end: u64,
        due: Satoshis,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<SignedBytes, ServeError> {
        let receipt = ChannelReceipt {
            order: self.sale.order,
            offer: self.terms.offer,
            stream: self.terms.stream,
            first: 0,
            count: end,
            paid: due,
            channel: self.sale.channel,
            issued_ms: now_ms,
        };
        Ok(Signed::sign(receipt, seller, network)?.into_bytes())
    }
}

const fn order(frame: Frame) -> ServeAction {
    ServeAction::Frame(ToBuyer::Order(frame))
}
