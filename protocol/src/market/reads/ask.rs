//! The buyer's side of an order of single readings, as a state machine.
//!
//! ```text
//!           agree            Stop, all kept                receipt
//!  offer ──────────▶ Running ───────────────▶ Stopping ───────────▶ Ended
//!                     │   ▲
//!                     └───┘ each answer is verified; verified readings are kept in pieces, and paid for
//! ```
//!
//! Invariant I1: the buyer signs for the readings that it has *kept* and its exposure, and for nothing more. So a crash, which forgets what was verified
//! and not kept, costs at most the exposure, and with a seller that remembers nothing: the order is gone on with at the first place that was not kept.

#![warn(clippy::arithmetic_side_effects)]

mod event;
mod money;
mod questions;
mod verify;

use std::collections::VecDeque;

use sensora_chain::{Network, Satoshis};

use super::asked::{Asked, AskedRun};
use super::frame::{Cursor, ToBuyer};
use super::known::Known;
use crate::market::channel::spending::Reservation;
use crate::market::delivery::frame::{Begin, ToBuyer as Frame};
use crate::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use crate::market::delivery::terms::Terms;
use crate::market::exposure::{Interval, Stakes};
use crate::market::price::Price;
use crate::statement::SignedBytes;
use crate::stream::leaf::Salt;
use crate::stream::reading::Reading;

pub use event::{AskAction, AskError, AskEvent, Got, Piece, Want};
use questions::{Open, Question, Unanswered};

/// Most questions in flight: half of what a seller takes, for those that a broken connection asks again.
pub const MAX_IN_FLIGHT: usize = super::serve::MAX_OPEN / 2;
/// Most questions that wait to be asked, in one order.
pub const MAX_WANTED: usize = 1024;
/// Verified readings are kept when there are so many, whatever they cost: some 20 KiB in one write.
const KEEP_AT: usize = 256;
/// Most readings that are verified and not kept: where the disk does not follow, nothing more is asked.
const MAX_UNKEPT: usize = 4 * KEEP_AT;
/// Most readings that a crash can have taken: one piece on its way to the disk and the next one, each as large as it gets.
const MAX_FORGOTTEN: u64 = 2 * (MAX_UNKEPT as u64 + MAX_IN_FLIGHT as u64);

/// An order of single readings under way: the purchase, and what need not survive a restart.
#[derive(Debug)]
pub struct Ask {
    purchase: ChannelPurchase,
    terms: Terms,
    price: Price,
    interval: Interval,
    /// What has been verified.
    asked: Asked,
    known: Known,
    checkpoint: Option<SignedBytes>,
    /// What the seller has vouchers for, as far as it says and as was sent to it since.
    told: Satoshis,
    begun: bool,
    /// How often the log's size was asked on this stream.
    looked: u64,
    open: VecDeque<Open>,
    /// The question whose answer is being looked at: where it does not hold, it is asked again.
    answered: Option<Open>,
    next_id: u16,
    /// Where the questions of this stream are, by sequence number, and the answers, by time.
    numbers: Cursor,
    times: Cursor,
    /// Readings at places that are not here, to be asked for first.
    owed: VecDeque<(u64, u64)>,
    /// Readings that the seller may say were answered, on the next stream.
    unanswered: Unanswered,
    /// No reading is asked for that makes what is due more than this: a crash forgets what was asked for, and what the seller says then is bounded by it.
    most_asked: Satoshis,
    /// What is wanted, and how often the log's size had been asked when it came.
    wanted: VecDeque<(Want, u64)>,
    unkept: Vec<(Reading, Salt)>,
    /// So many places are kept when the piece that is on its way is.
    keeping: Option<u64>,
    rests: bool,
    said_stop: bool,
    stopped: Option<u64>,
    /// A reading that is here from elsewhere.
    held: Option<u64>,
    /// The receipt, which came before all was kept.
    early: Option<SignedBytes>,
    /// The channel is closed.
    closed: bool,
}

impl Ask {
    /// Begins, or brings an order to its end after a restart, see [`Ask::resumed`]: what it has brought is not remembered by number, so nothing new is asked in it.
    /// `interval` is what the buyer lets stand open; [`Interval::none`] where it pays only for what is kept.
    #[must_use]
    pub fn new(mut purchase: ChannelPurchase, terms: Terms, interval: Interval) -> Self {
        let asked = Asked::from_runs(&[AskedRun { first: None, count: purchase.next }]);
        if purchase.next > 0 && purchase.state == ChannelPurchaseState::Running {
            purchase.state = ChannelPurchaseState::Stopping { end: None, bound: None };
        }
        let price = terms.tariff.price();
        let unanswered = Unanswered { is_forgotten: purchase.next > 0, ..Unanswered::default() };
        Self {
            purchase,
            terms,
            price,
            interval,
            asked,
            known: Known::new(),
            checkpoint: None,
            told: Satoshis::ZERO,
            begun: false,
            looked: 0,
            open: VecDeque::new(),
            answered: None,
            next_id: 0,
            numbers: Cursor::default(),
            times: Cursor::default(),
            owed: VecDeque::new(),
            unanswered,
            most_asked: Satoshis::ZERO,
            wanted: VecDeque::new(),
            unkept: Vec::new(),
            keeping: None,
            rests: false,
            said_stop: false,
            stopped: None,
            held: None,
            early: None,
            closed: false,
        }
    }

    /// The order may have begun before a restart: the seller may have answered what is not remembered here.
    #[must_use]
    pub const fn resumed(mut self) -> Self {
        self.unanswered.is_forgotten = true;
        self
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

    /// Readings that are verified, those of before a restart included.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.asked.count()
    }

    /// Readings in the seller's log, as far as is known.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.known.size()
    }

    /// Whether this is wanted already and not answered.
    #[must_use]
    pub fn is_wanted(&self, want: Want) -> bool {
        let asked = self.open.iter().any(|open| match open.asked {
            Question::Reading { seq, .. } => want == Want::Seq(seq),
            Question::Latest { .. } => want == Want::Latest,
            Question::Grow => false,
        });
        asked || self.wanted.iter().any(|(other, _)| *other == want)
    }

    /// As [`AskEvent::Kept`] while there is no stream.
    pub const fn kept(&mut self) {
        if let Some(kept) = self.keeping.take() {
            self.purchase.next = kept;
        }
    }

    /// Whether another reading can be wanted now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.wanted.len() < MAX_WANTED
    }

    /// Whether [`AskEvent::Rest`] would keep something.
    #[must_use]
    pub const fn has_unkept(&self) -> bool {
        !self.unkept.is_empty() && self.keeping.is_none()
    }

    /// Whether an answer or a receipt is awaited.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.open.is_empty() || self.said_stop || !self.begun
    }

    /// A reading that is here from elsewhere: where it still is the newest, it is not bought again.
    pub const fn hold(&mut self, seq: Option<u64>) {
        self.held = seq;
    }

    /// The first frame of a new stream.
    #[must_use]
    pub fn start(&mut self) -> AskAction {
        self.interrupted();
        AskAction::Begin(Box::new(Begin {
            offer: self.purchase.offer.clone(),
            order: self.purchase.order.clone(),
            channel: self.purchase.channel,
            next: self.asked.count(),
            budget: self.purchase.budget,
        }))
    }

    /// The connection is gone, or the seller has sent what does not verify: trust begins small again, and questions without an answer are asked again.
    pub fn interrupted(&mut self) {
        if self.begun {
            self.interval.fall_back();
        }
        let size = self.known.size();
        for open in self.answered.take().into_iter().chain(self.open.drain(..)).rev() {
            self.unanswered.note(open.asked, size);
            if let Some(want) = open.asked.want() {
                self.wanted.push_front((want, 0));
            }
        }
        self.known.forget_questions();
        self.owed.clear();
        (self.begun, self.looked, self.said_stop) = (false, 0, false);
        (self.stopped, self.early, self.closed) = (None, None, false);
        (self.numbers, self.times) = (Cursor::default(), Cursor::default());
        self.wanted.iter_mut().for_each(|(_, looked)| *looked = 0);
    }

    /// Takes an event; see the module for the states. After an error [`Ask::interrupted`] is to be called before anything else.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn handle(
        &mut self,
        event: AskEvent,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        network: Network,
    ) -> Result<Vec<AskAction>, AskError> {
        if self.purchase.is_final() {
            return Ok(Vec::new());
        }
        let mut actions = Vec::new();
        match event {
            AskEvent::Frame(frame) => {
                self.frame(*frame, reservation, stakes, network, &mut actions)?;
                self.answered = None;
            }
            AskEvent::Want(_) if !self.has_room() => return Err(AskError::TooMuch),
            AskEvent::Want(want) if self.is_stopping() => actions.push(AskAction::Got(want, Got::Ending)),
            AskEvent::Want(want) => self.wanted.push_back((want, self.looked)),
            AskEvent::Kept => {
                self.kept();
                if let Some(receipt) = self.early.take_if(|_| self.unkept.is_empty()) {
                    self.end(receipt, reservation, stakes, network, &mut actions)?;
                }
            }
            AskEvent::Room => {}
            AskEvent::Rest => self.rests = true,
            AskEvent::Stop => {
                self.wanted.clear();
                if self.purchase.state == ChannelPurchaseState::Running {
                    self.purchase.state = ChannelPurchaseState::Stopping { end: None, bound: None };
                    actions.push(AskAction::Store);
                }
            }
            AskEvent::Closing => self.stop(&mut actions),
            AskEvent::Closed => self.closed = true,
        }
        if self.purchase.is_final() {
            return Ok(actions);
        }
        if self.closed {
            self.leave(reservation, stakes, &mut actions)?;
            return Ok(actions);
        }
        let paid = reservation.paid().max(self.price.due(self.purchase.next)?);
        self.most_asked = self.beyond(paid)?;
        let mut questions = Vec::new();
        self.ask(&mut questions, &mut actions)?;
        self.keep(&mut actions)?;
        // A payment goes before the questions that it pays for.
        self.pay(reservation, stakes, &mut actions)?;
        actions.extend(questions.into_iter().map(AskAction::Send));
        Ok(actions)
    }

    /// No more readings, whoever waits for some.
    fn stop(&mut self, actions: &mut Vec<AskAction>) {
        if self.purchase.state != ChannelPurchaseState::Running {
            return;
        }
        let wanted = self.wanted.drain(..).map(|(want, _)| AskAction::Got(want, Got::Ending));
        actions.extend(wanted);
        self.purchase.state = ChannelPurchaseState::Stopping { end: None, bound: None };
        actions.push(AskAction::Store);
    }

    /// The channel is closed: what is verified is kept, and then the order ends as it is.
    fn leave(
        &mut self,
        reservation: &Reservation,
        stakes: &mut Stakes,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        if !self.is_kept() {
            return self.keep(actions);
        }
        let paid = reservation.paid();
        self.purchase.channel_closed(&self.terms, paid)?;
        stakes.note(self.purchase.id, Satoshis::ZERO);
        actions.push(AskAction::End(paid));
        Ok(())
    }

    /// Whether all that is verified is kept.
    const fn is_kept(&self) -> bool {
        self.unkept.is_empty() && self.keeping.is_none()
    }

    fn is_stopping(&self) -> bool {
        matches!(self.purchase.state, ChannelPurchaseState::Stopping { .. })
    }

    fn frame(
        &mut self,
        frame: ToBuyer,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        network: Network,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        let (name, is_first) = (frame.name(), self.looked == 0);
        let unexpected = AskError::Unexpected { frame: name, expected: "nothing" };
        match frame {
            ToBuyer::Order(Frame::Alive) => Ok(()),
            ToBuyer::Order(Frame::Refused(refusal))
                if self.begun
                    || !reservation.paid().is_zero()
                    || self.asked.count() > 0
                    || refusal.is_temporary() =>
            {
                Err(AskError::Refused(refusal))
            }
            ToBuyer::Order(Frame::Refused(refusal)) => {
                self.purchase.state = ChannelPurchaseState::Refused { refusal };
                actions.push(AskAction::End(Satoshis::ZERO));
                Ok(())
            }
            ToBuyer::Order(Frame::Ended { receipt }) if !self.is_kept() => {
                self.early = Some(receipt);
                Ok(())
            }
            ToBuyer::Order(Frame::Ended { receipt }) => {
                self.end(receipt, reservation, stakes, network, actions)
            }
            ToBuyer::Order(Frame::Begun { paid, credit }) if !self.begun => {
                self.begin(paid, credit, reservation)
            }
            _ if !self.begun => Err(unexpected),
            ToBuyer::Order(Frame::Stopped { end, due: asked }) => {
                let due = self.price.due(end)?;
                if asked > due {
                    return Err(AskError::Due { asked, due });
                }
                if end < self.asked.count() {
                    return Err(AskError::Counts { said: end, here: self.asked.count() });
                }
                self.stopped = Some(end);
                // Nothing new is answered after it.
                let is_answered = |open: &Open| open.owed || matches!(open.asked, Question::Grow);
                let dropped: Vec<Open> =
                    self.open.iter().copied().filter(|open| !is_answered(open)).collect();
                self.open.retain(is_answered);
                let wants = dropped.into_iter().filter_map(|open| open.asked.want());
                actions.extend(wants.map(|want| AskAction::Got(want, Got::Ending)));
                self.stop(actions);
                Ok(())
            }
            ToBuyer::Order(_) => Err(unexpected),
            ToBuyer::Owed(runs) => self.owe(runs, reservation.paid()),
            // To a question that is not asked any more.
            frame if self.is_late(&frame) => {
                if let ToBuyer::Row { row, .. } = &frame {
                    self.times.take(row.step);
                }
                Ok(())
            }
            ToBuyer::Row { id, row } => match self.answered(id, name)? {
                Question::Reading { seq, plan } => self.row(seq, plan, Want::Seq(seq), row, actions),
                Question::Latest { last: Some((seq, plan)) } => {
                    self.row(seq, plan, Want::Latest, row, actions)
                }
                other => Err(AskError::Unexpected { frame: name, expected: other.name() }),
            },
            ToBuyer::Newest { id, signing, row } => match self.answered(id, name)? {
                Question::Latest { .. } => self.newest(&signing, row, network, actions),
                other => Err(AskError::Unexpected { frame: name, expected: other.name() }),
            },
            ToBuyer::Same { id } => match (self.answered(id, name)?, self.known.size().checked_sub(1)) {
                (Question::Latest { last: None }, Some(seq)) => {
                    actions.push(AskAction::Got(Want::Latest, Got::Same { seq }));
                    self.looked = self.looked.saturating_add(1);
                    Ok(())
                }
                (other, _) => Err(AskError::Unexpected { frame: name, expected: other.name() }),
            },
            ToBuyer::Grown { id, signing, hashes } => match self.answered(id, name)? {
                Question::Grow => {
                    self.grow(&signing, &hashes, None, network)?;
                    if is_first {
                        // Before it the seller has said which readings of before were answered: no others were.
                        self.unanswered =
                            Unanswered { numbers: self.owed_numbers(), ..Unanswered::default() };
                    }
                    Ok(())
                }
                other => Err(AskError::Unexpected { frame: name, expected: other.name() }),
            },
        }
    }

    fn end(
        &mut self,
        receipt: SignedBytes,
        reservation: &Reservation,
        stakes: &mut Stakes,
        network: Network,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        let receipted = self.check_receipt(&receipt, reservation.paid(), network)?;
        self.purchase.state = ChannelPurchaseState::Ended { receipt, missing: 0 };
        self.purchase.next = self.asked.count();
        stakes.note(self.purchase.id, Satoshis::ZERO);
        actions.push(AskAction::End(receipted));
        Ok(())
    }
}
