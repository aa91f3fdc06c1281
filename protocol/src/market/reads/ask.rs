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

use std::collections::{BTreeSet, VecDeque};

use sensora_chain::{Network, Satoshis};

use super::asked::{Asked, AskedRun};
use super::frame::{Cursor, Row, Signing, ToBuyer, ToSeller};
use super::known::{Known, KnownError, Plan};
use crate::codec::{self, CodecError};
use crate::market::channel::spending::{Reservation, SpendingError};
use crate::market::delivery::frame::{Begin, ToBuyer as Frame};
use crate::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use crate::market::delivery::terms::Terms;
use crate::market::exposure::{Interval, OverLimit, Stakes};
use crate::market::price::{Price, PriceError};
use crate::market::receipt::ChannelReceipt;
use crate::market::refusal::Refusal;
use crate::statement::{SignedBytes, StatementError};
use crate::stream::checkpoint::Checkpoint;
use crate::stream::leaf::{self, Salt};
use crate::stream::reading::{Reading, ReadingError};

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

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// The reading with this sequence number.
    Seq(u64),
    /// The newest reading there is.
    Latest,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    /// Here it is, verified; it is kept with the next piece.
    Reading(Reading),
    /// It came in this order before: nothing is paid.
    Same {
        /// Its sequence number.
        seq: u64,
    },
    /// The log ends before it.
    Absent {
        /// Readings in the log.
        size: u64,
    },
    /// The budget does not hold another reading.
    Spent,
    /// The order holds no more runs of readings: another one can begin.
    Full,
    /// The order is ending.
    Ending,
}

/// What has happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum AskEvent {
    /// The seller has sent a frame.
    Frame(Box<ToBuyer>),
    /// A reading is wanted. At most [`MAX_WANTED`] at a time; see [`Ask::has_room`].
    Want(Want),
    /// The last piece is kept.
    Kept,
    /// Less is open with this seller than before, in another order.
    Room,
    /// Nothing has come for a moment: what is verified is kept.
    Rest,
    /// No more readings.
    Stop,
    /// The channel comes to its end: nothing more is asked. Given at each tip, it means the same.
    Closing,
    /// No receipt will come: [`BuyerChannel::leaves_orders`](crate::market::channel::buyer::BuyerChannel::leaves_orders).
    Closed,
}

/// Verified readings to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The readings and their salts, in the order in which they came.
    pub readings: Vec<(Reading, Salt)>,
    /// The newest signed checkpoint; all readings are below it.
    pub checkpoint: Option<SignedBytes>,
    /// The order as it is with them.
    pub purchase: ChannelPurchase,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum AskAction {
    /// Make this durable in one step and come back with [`AskEvent::Kept`]. What follows need not wait for it.
    Keep(Box<Piece>),
    /// Make the purchase durable before what follows.
    Store,
    /// Sign the channel's voucher for `amount` and send it.
    Voucher {
        /// What the order has paid with it.
        paid: Satoshis,
        /// What the channel has paid with it.
        amount: Satoshis,
    },
    /// Send this frame: the first of a stream.
    Begin(Box<Begin>),
    /// Send this frame.
    Send(ToSeller),
    /// Tell whoever wanted it.
    Got(Want, Got),
    /// The order has ended with so much paid, with a receipt or without one: its lane in the channel's account ends in the same stored step as the purchase.
    End(Satoshis),
}

/// Why a frame is not followed. Nothing more is to be paid on this stream.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The reading does not verify.
    #[error("the reading does not verify: {0}")]
    Known(#[from] KnownError),
    /// The reading does not fit the schema.
    #[error("the reading does not fit the stream's schema: {0}")]
    Reading(#[from] ReadingError),
    /// The checkpoint, or the receipt, is not the seller's.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The checkpoint cannot be written.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The answer is to another question.
    #[error("the seller answered with `{frame}` where {expected} was asked")]
    Unexpected {
        /// The frame.
        frame: &'static str,
        /// What was awaited.
        expected: &'static str,
    },
    /// The seller counts otherwise.
    #[error("the seller says that it has answered with {said} readings, {here} are here")]
    Counts {
        /// What it says.
        said: u64,
        /// What is here.
        here: u64,
    },
    /// The seller charges for what nobody wanted.
    #[error("the seller says that it has answered with reading {seq}, which was not asked for")]
    NotAsked {
        /// The reading.
        seq: u64,
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
    /// More is wanted at a time than is taken.
    #[error("{MAX_WANTED} readings are wanted already: wait for some of them")]
    TooMuch,
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

impl AskError {
    /// Whether the seller says that the order can never go on: then it is to be given up, or to wait until its channel is closed.
    #[must_use]
    pub const fn is_forgotten(&self) -> bool {
        matches!(
            self,
            Self::Refused(
                Refusal::OfferExpired { .. }
                    | Refusal::UnknownOrder { .. }
                    | Refusal::UnknownStream { .. }
                    | Refusal::UnknownChannel { .. }
                    | Refusal::ChannelClosed { .. }
                    | Refusal::ForeignOffer { .. }
            )
        )
    }
}

/// A question that was sent.
#[derive(Debug, Clone, Copy)]
struct Open {
    id: u16,
    asked: Question,
    /// It is for a reading of before a break, which the seller answers in any case.
    owed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Question {
    Reading { seq: u64, plan: Plan },
    Latest { last: Option<(u64, Plan)> },
    Grow,
}

impl Question {
    const fn name(self) -> &'static str {
        match self {
            Self::Reading { .. } => "a reading",
            Self::Latest { .. } => "the newest reading",
            Self::Grow => "the log's growth",
        }
    }

    const fn want(self) -> Option<Want> {
        match self {
            Self::Reading { seq, .. } => Some(Want::Seq(seq)),
            Self::Latest { .. } => Some(Want::Latest),
            Self::Grow => None,
        }
    }

    const fn resizes(self) -> bool {
        matches!(self, Self::Latest { .. } | Self::Grow)
    }
}

/// What a seller may have answered without that the answer is here: it asks the money for no other reading.
#[derive(Debug, Default)]
struct Unanswered {
    /// Readings that were asked for.
    numbers: BTreeSet<u64>,
    /// The newest was asked for so often: each answer may be any one reading from there on.
    newest: Vec<u64>,
    /// Which readings were asked for was forgotten in a crash.
    is_forgotten: bool,
}

impl Unanswered {
    fn note(&mut self, asked: Question, size: u64) {
        match asked {
            Question::Reading { seq, .. } => drop(self.numbers.insert(seq)),
            Question::Latest { last } => self.newest.push(last.map_or(size, |(seq, _)| seq)),
            Question::Grow => {}
        }
    }

    /// All of these readings, if each of them may have been answered.
    fn all_of(&self, runs: &[(u64, u64)], asked: &Asked) -> Result<BTreeSet<u64>, AskError> {
        let mut newest = self.newest.clone();
        let mut owed = BTreeSet::new();
        let numbers = runs.iter().flat_map(|(first, count)| *first..first.saturating_add(*count));
        for seq in numbers {
            let place = newest.iter().position(|from| seq >= *from);
            let may_be = self.is_forgotten || self.numbers.contains(&seq) || place.is_some();
            if !may_be || asked.contains(seq) || !owed.insert(seq) {
                return Err(AskError::NotAsked { seq });
            }
            if let Some(place) = place.filter(|_| !self.is_forgotten && !self.numbers.contains(&seq)) {
                newest.swap_remove(place);
            }
        }
        Ok(owed)
    }
}

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

    /// Whether it answers a question that was dropped when the seller stopped.
    fn is_late(&self, frame: &ToBuyer) -> bool {
        let (ToBuyer::Row { id, .. } | ToBuyer::Same { id }) = frame else { return false };
        self.stopped.is_some() && self.open.front().is_none_or(|open| open.id != *id)
    }

    /// The question that an answer is to: the first one that has none.
    fn answered(&mut self, id: u16, frame: &'static str) -> Result<Question, AskError> {
        match self.open.pop_front() {
            Some(open) if open.id == id => {
                self.answered = Some(open);
                Ok(open.asked)
            }
            Some(open) => Err(AskError::Unexpected { frame, expected: open.asked.name() }),
            None => Err(AskError::Unexpected { frame, expected: "nothing" }),
        }
    }

    fn begin(&mut self, paid: Satoshis, credit: Satoshis, reservation: &Reservation) -> Result<(), AskError> {
        (self.begun, self.told) = (true, paid);
        let (unit, limit) = (self.price.due(1)?, self.interval.now());
        let next = self.price.due(self.asked.count().saturating_add(1))?;
        let is_paid = next <= reservation.paid();
        let owes = reservation.paid() < self.price.due(self.purchase.next)?;
        if !self.is_stopping() && !is_paid && !owes && limit < unit && credit < unit {
            return Err(AskError::NobodyBegins { unit, limit });
        }
        Ok(())
    }

    /// What may be asked for with so much paid: as much more as is let stand open, and one reading, so that a seller that goes first can.
    fn beyond(&self, paid: Satoshis) -> Result<Satoshis, AskError> {
        let (limit, unit) = (self.interval.limit(), self.price.due(1)?);
        let most = paid.checked_add(limit).and_then(|most| most.checked_add(unit));
        Ok(most.unwrap_or(Satoshis::MAX))
    }

    /// What the seller has answered, and did not come or was forgotten. It is charged already: so it must have been asked for, or after a crash be as few and as
    /// cheap as what can have been asked for and not kept.
    fn owe(&mut self, runs: Vec<(u64, u64)>, paid: Satoshis) -> Result<(), AskError> {
        if !self.owed.is_empty() || self.looked > 0 {
            return Err(AskError::Unexpected { frame: "owed", expected: "something else" });
        }
        let more = runs.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        let count = self.asked.count().saturating_add(more);
        let due = self.price.due(count)?;
        if due > self.purchase.budget || runs.iter().any(|(_, count)| *count == 0) {
            return Err(AskError::Due { asked: due, due: self.purchase.budget });
        }
        let Unanswered { numbers, newest, is_forgotten } = &self.unanswered;
        let (most, most_due) = if *is_forgotten {
            // Before the crash as much may have been paid ahead as is let stand open, whatever the seller remembers of it.
            let kept = self.price.due(self.purchase.next)?;
            let ahead = kept.checked_add(self.interval.limit()).unwrap_or(Satoshis::MAX);
            (MAX_FORGOTTEN, self.beyond(paid.max(ahead))?)
        } else {
            (numbers.len().saturating_add(newest.len()) as u64, self.purchase.budget)
        };
        if more > most {
            return Err(AskError::Counts { said: count, here: self.asked.count() });
        }
        if due > most_due {
            return Err(AskError::Due { asked: due, due: most_due });
        }
        // From here on it is known what was answered.
        let numbers = self.unanswered.all_of(&runs, &self.asked)?;
        self.unanswered = Unanswered { numbers, ..Unanswered::default() };
        self.owed = runs.into();
        Ok(())
    }

    fn owed_numbers(&self) -> BTreeSet<u64> {
        self.owed.iter().flat_map(|(first, count)| *first..first.saturating_add(*count)).collect()
    }

    fn row(
        &mut self,
        seq: u64,
        plan: Plan,
        want: Want,
        row: Row,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        if want == Want::Latest {
            self.looked = self.looked.saturating_add(1);
        }
        let Row { step, values, salt, hashes } = row;
        let time = self.times.take(step).cast_signed();
        if self.asked.contains(seq) {
            actions.push(AskAction::Got(want, Got::Same { seq }));
            return Ok(());
        }
        let reading = Reading { seq, time, values };
        self.terms.schema.check(&reading)?;
        self.known.verify(seq, leaf::hash(&reading, &salt), plan, &hashes)?;
        self.took(reading, salt, want, actions)
    }

    fn newest(
        &mut self,
        signing: &Signing,
        row: Row,
        network: Network,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        let known = KnownError::Shrunk { old: self.known.size(), new: signing.size };
        let seq = signing.size.checked_sub(1).filter(|seq| *seq >= self.known.size()).ok_or(known)?;
        let Row { step, values, salt, hashes } = row;
        let time = self.times.take(step).cast_signed();
        let reading = Reading { seq, time, values };
        self.terms.schema.check(&reading)?;
        self.grow(signing, &hashes, Some(leaf::hash(&reading, &salt)), network)?;
        self.took(reading, salt, Want::Latest, actions)
    }

    /// The log has grown, and the seller has signed what it is.
    fn grow(
        &mut self,
        signing: &Signing,
        hashes: &[crate::id::Hash],
        leaf: Option<crate::id::Hash>,
        network: Network,
    ) -> Result<(), AskError> {
        let growth = self.known.grown(signing.size, hashes, leaf)?;
        let checkpoint = Checkpoint {
            stream: self.terms.stream,
            size: signing.size,
            root: growth.root(),
            issued_ms: signing.issued_ms,
        };
        let signed = SignedBytes {
            body: codec::encode(&checkpoint)?,
            key: self.purchase.seller,
            signature: signing.signature.compact().to_vec(),
        };
        signed.clone().verify_by::<Checkpoint>(network, &self.purchase.seller)?;
        self.known.take(growth, self.open.is_empty());
        self.checkpoint = Some(signed);
        self.looked = self.looked.saturating_add(1);
        Ok(())
    }

    /// A verified reading takes the next place.
    fn took(
        &mut self,
        reading: Reading,
        salt: Salt,
        want: Want,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        let count = self.asked.count();
        let price = self.price.due(count.saturating_add(1))?.saturating_sub(self.price.due(count)?);
        if self.asked.push(reading.seq).is_err() {
            // It was not to be asked for.
            return Err(AskError::Counts { said: count.saturating_add(1), here: count });
        }
        self.unanswered.numbers.remove(&reading.seq);
        self.interval.answered(price);
        actions.push(AskAction::Got(want, Got::Reading(reading.clone())));
        self.unkept.push((reading, salt));
        Ok(())
    }

    /// Sends what can be asked now.
    fn ask(&mut self, questions: &mut Vec<ToSeller>, actions: &mut Vec<AskAction>) -> Result<(), AskError> {
        if !self.begun {
            return Ok(());
        }
        if self.looked == 0 {
            // Before anything else: where there is nothing to verify a reading against, none is asked for.
            if self.open.is_empty() {
                self.ask_growth(questions);
            }
            return Ok(());
        }
        if !self.ask_owed(questions)? {
            return Ok(());
        }
        let mut waits = VecDeque::new();
        while let Some((want, looked)) = self.wanted.pop_front() {
            if self.open.len() >= MAX_IN_FLIGHT || self.unkept.len() >= MAX_UNKEPT {
                waits.push_back((want, looked));
                break;
            }
            match self.try_ask(want, looked, questions)? {
                Tried::Asked => {}
                Tried::Waits => waits.push_back((want, looked)),
                Tried::Got(got) => actions.push(AskAction::Got(want, got)),
            }
        }
        waits.append(&mut self.wanted);
        self.wanted = waits;
        // Before all is kept the receipt would come too early.
        if self.is_stopping() && self.open.is_empty() && self.is_kept() && !self.said_stop {
            self.said_stop = true;
            questions.push(ToSeller::Stop);
        }
        Ok(())
    }

    /// Places of before the break, first of all. Answers whether all of them are asked for.
    fn ask_owed(&mut self, questions: &mut Vec<ToSeller>) -> Result<bool, AskError> {
        while let Some((seq, count)) = self.owed.front().copied() {
            if self.open.len() >= MAX_IN_FLIGHT || self.unkept.len() >= MAX_UNKEPT {
                return Ok(false);
            }
            let plan = self.known.ask(seq)?;
            self.send_reading(seq, plan, questions);
            if let Some(open) = self.open.back_mut() {
                open.owed = true;
            }
            self.owed.pop_front();
            if let Some(left) = count.checked_sub(1).filter(|left| *left > 0) {
                self.owed.push_front((seq.saturating_add(1), left));
            }
        }
        Ok(true)
    }

    fn try_ask(&mut self, want: Want, looked: u64, questions: &mut Vec<ToSeller>) -> Result<Tried, AskError> {
        let size = self.known.size();
        let resizing = self.open.iter().any(|open| open.asked.resizes());
        let asks = |seq: u64| {
            self.open
                .iter()
                .any(|open| matches!(open.asked, Question::Reading { seq: other, .. } if other == seq))
        };
        match want {
            Want::Seq(seq) if self.asked.contains(seq) => return Ok(Tried::Got(Got::Same { seq })),
            Want::Seq(seq) if asks(seq) => return Ok(Tried::Waits),
            Want::Latest if resizing => return Ok(Tried::Waits),
            Want::Seq(seq) if seq >= size => {
                if resizing {
                    return Ok(Tried::Waits);
                }
                if looked < self.looked {
                    return Ok(Tried::Got(Got::Absent { size }));
                }
                self.ask_growth(questions);
                return Ok(Tried::Waits);
            }
            _ => {}
        }
        let charged = self.open.iter().filter(|open| !matches!(open.asked, Question::Grow)).count() as u64;
        let count = self.asked.count().saturating_add(charged).saturating_add(1);
        if self.price.due(count).map_or(true, |due| due > self.purchase.budget) {
            return Ok(if charged == 0 { Tried::Got(Got::Spent) } else { Tried::Waits });
        }
        if self.price.due(count)? > self.most_asked {
            return Ok(Tried::Waits);
        }
        match want {
            Want::Seq(seq) => {
                if !self.has_room_for(seq) {
                    return Ok(if charged == 0 { Tried::Got(Got::Full) } else { Tried::Waits });
                }
                let plan = self.known.ask(seq)?;
                self.send_reading(seq, plan, questions);
            }
            Want::Latest => {
                if self.asked.runs().len().saturating_add(self.open.len()) >= super::asked::MAX_RUNS {
                    return Ok(if charged == 0 { Tried::Got(Got::Full) } else { Tried::Waits });
                }
                let is_here = |last: u64| self.asked.contains(last) || self.held == Some(last);
                let last = size.checked_sub(1).filter(|last| !is_here(*last));
                if last.is_some_and(asks) {
                    return Ok(Tried::Waits);
                }
                let last = last.map(|last| self.known.look(last).map(|plan| (last, plan))).transpose()?;
                let id = self.id(Question::Latest { last });
                questions.push(ToSeller::Latest { id, size, levels: last.map(|(_, plan)| plan.levels) });
            }
        }
        Ok(Tried::Asked)
    }

    /// Whether the order has a place for this reading behind those that are in flight: each of them may take a run of its own.
    fn has_room_for(&self, seq: u64) -> bool {
        let goes_on = match self.open.back().map(|open| open.asked) {
            Some(Question::Reading { seq: last, .. }) => last.checked_add(1) == Some(seq),
            Some(_) => false,
            None => return self.asked.has_room_for(seq),
        };
        goes_on || self.asked.runs().len().saturating_add(self.open.len()) < super::asked::MAX_RUNS
    }

    fn send_reading(&mut self, seq: u64, plan: Plan, questions: &mut Vec<ToSeller>) {
        let id = self.id(Question::Reading { seq, plan });
        let step = self.numbers.step_to(seq);
        questions.push(ToSeller::Read { id, step, levels: plan.levels });
    }

    fn ask_growth(&mut self, questions: &mut Vec<ToSeller>) {
        let id = self.id(Question::Grow);
        questions.push(ToSeller::Grow { id, size: self.known.size() });
    }

    /// A small number, so that it takes few bytes: it is free again when its answer is here, for answers come in order.
    fn id(&mut self, asked: Question) -> u16 {
        let id = if self.open.is_empty() && self.stopped.is_none() { 0 } else { self.next_id };
        self.next_id = id.checked_add(1).filter(|next| usize::from(*next) < MAX_IN_FLIGHT).unwrap_or(0);
        self.open.push_back(Open { id, asked, owed: false });
        id
    }

    /// Keeps what is verified, when there is a piece of it.
    fn keep(&mut self, actions: &mut Vec<AskAction>) -> Result<(), AskError> {
        let rests = std::mem::take(&mut self.rests);
        if self.keeping.is_some() || self.unkept.is_empty() {
            return Ok(());
        }
        let count = self.asked.count();
        let open = self.price.due(count)?.saturating_sub(self.price.due(self.purchase.next)?);
        let is_piece = self.unkept.len() >= KEEP_AT
            || open.as_u64().saturating_mul(2) >= self.interval.now().as_u64().max(1);
        let ends = self.closed || (self.is_stopping() && self.open.is_empty() && self.owed.is_empty());
        if is_piece || rests || ends {
            self.keeping = Some(count);
            let purchase = ChannelPurchase { next: count, ..self.purchase.clone() };
            let readings = std::mem::take(&mut self.unkept);
            let checkpoint = self.checkpoint.clone();
            actions.push(AskAction::Keep(Box::new(Piece { readings, checkpoint, purchase })));
        }
        Ok(())
    }

    /// Pays what is due, and ahead of that as much as trust allows, when half of what stood ahead is used up by what is asked.
    fn pay(
        &mut self,
        reservation: &mut Reservation,
        stakes: &mut Stakes,
        actions: &mut Vec<AskAction>,
    ) -> Result<(), AskError> {
        if let Some(end) = self.stopped
            && self.is_kept()
            && self.open.is_empty()
            && self.owed.is_empty()
        {
            let here = self.asked.count();
            if end != here {
                return Err(AskError::Counts { said: end, here });
            }
        }
        let (order, paid) = (self.purchase.id, reservation.paid());
        let due = self.price.due(self.purchase.next)?;
        stakes.note(order, paid.saturating_sub(due));
        if !self.begun {
            return Ok(());
        }
        let stopping = self.is_stopping();
        let window = if stopping { Satoshis::ZERO } else { self.interval.now().min(stakes.room(&order)) };
        let ahead = due.checked_add(window).unwrap_or(due).min(self.purchase.budget);
        let most = self.price.due(self.price.covered_by(ahead))?;
        let charged = self.open.iter().filter(|open| !matches!(open.asked, Question::Grow)).count() as u64;
        let needed = self.price.due(self.asked.count().saturating_add(charged))?;
        let half = Satoshis::from_sat(window.as_u64() / 2);
        let is_low = window.is_zero() || paid < needed.checked_add(half).unwrap_or(Satoshis::MAX);
        let to = if most > paid && is_low { most } else { paid };
        let lost = self.told < paid && (!stopping || self.told < due);
        if to == paid && !lost {
            return Ok(());
        }
        if to > paid {
            stakes.set(order, to.saturating_sub(due))?;
        }
        let amount = reservation.pay_to(to)?;
        self.told = to;
        actions.push(AskAction::Voucher { paid: to, amount });
        Ok(())
    }

    /// What the order paid by its receipt: all that is due, or all that was signed where that is less, and in no case what was paid ahead.
    fn check_receipt(
        &self,
        receipt: &SignedBytes,
        paid: Satoshis,
        network: Network,
    ) -> Result<Satoshis, AskError> {
        let receipt = receipt.clone().verify_by::<ChannelReceipt>(network, &self.purchase.seller)?;
        let receipt = receipt.value();
        let count = self.asked.count();
        let due = self.price.due(count)?;
        let differs = [
            ("order", receipt.order != self.purchase.id),
            ("offer", receipt.offer != self.terms.offer),
            ("stream", receipt.stream != self.terms.stream),
            ("first", receipt.first != 0),
            ("count", receipt.count != count),
            ("paid", receipt.paid != due.min(paid)),
            ("channel", receipt.channel != self.purchase.channel),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            Some((field, _)) => Err(AskError::Receipt { field }),
            None => Ok(receipt.paid),
        }
    }
}

enum Tried {
    Asked,
    Waits,
    Got(Got),
}
