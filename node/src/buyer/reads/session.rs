//! The task of one order of single readings: who waits for what, over all its streams ([`line`]), and over the orders that go on where one is full.

mod line;
mod piece;

use std::collections::BTreeMap;
use std::sync::Arc;

use sensora_chain::Satoshis;
use sensora_protocol::OrderId;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::delivery::terms::Terms;
use sensora_protocol::market::exposure::Interval;
use sensora_protocol::market::reads::ask::{Ask, AskError, AskEvent, Got, Want};
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::reading::Reading;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::JoinHandle;

use super::super::{ATTEMPTS, BuyError, Buyer, FIRST_PAUSE};
use super::{Command, Read, ReadsError, ReadsReport, ReadsRequest, Told};
use crate::net::{Offence, peer_id_from_public_key};
use crate::store::StoreError;
use crate::store::bought;
use line::Line;
use piece::done;

/// How often what does not verify is asked for again before the seller counts as a cheat.
const BAD_ANSWERS: u32 = 2;

/// Why one stream of an order ended before the order.
enum Broken {
    /// Another stream may do better.
    Later(BuyError),
    /// What came does not verify.
    Bad(Box<AskError>),
    /// For good.
    Failed(BuyError),
}

macro_rules! for_good {
    ($($error:ty),*) => {$(
        impl From<$error> for Broken {
            fn from(error: $error) -> Self {
                Self::Failed(error.into())
            }
        }
    )*};
}
for_good!(BuyError, StoreError);

type Turn = Arc<OwnedMutexGuard<()>>;

/// One order, and those that wait for something of it.
pub(super) struct Session {
    buyer: Buyer,
    exposure: Satoshis,
    request: Option<ReadsRequest>,
    commands: Option<mpsc::Receiver<Command>>,
    ask: Ask,
    waiting: BTreeMap<Want, Vec<Told<Read>>>,
    /// They came when the newest was asked for already, and want to know what is newest after that.
    next_latest: Vec<Told<Read>>,
    /// Readings that are verified and not kept.
    recent: BTreeMap<u64, Reading>,
    keeping: Option<JoinHandle<Result<(), BuyError>>>,
    /// Those of them that are on their way to the disk.
    piece: Vec<u64>,
    closing: Vec<Told<ReadsReport>>,
    /// No more questions are taken.
    closes: bool,
    /// The order is full: another one goes on.
    renews: bool,
    report: ReadsReport,
}

impl Session {
    pub(super) fn new(buyer: Buyer, exposure: Satoshis, purchase: ChannelPurchase, terms: Terms) -> Self {
        let ask = ask_of(&buyer, purchase, terms, exposure);
        Self {
            buyer,
            exposure,
            request: None,
            commands: None,
            ask,
            waiting: BTreeMap::new(),
            next_latest: Vec::new(),
            recent: BTreeMap::new(),
            keeping: None,
            piece: Vec::new(),
            closing: Vec::new(),
            closes: false,
            renews: false,
            report: ReadsReport::default(),
        }
    }

    pub(super) fn with_request(self, request: ReadsRequest, commands: mpsc::Receiver<Command>) -> Self {
        Self { request: Some(request), commands: Some(commands), ..self }
    }

    /// Brings the order to its end.
    pub(super) async fn settle(mut self) -> Result<(), BuyError> {
        self.closes = true;
        self.ask = self.ask.resumed();
        self.one_order().await
    }

    /// Answers until the order is closed, or forgotten by those who asked.
    pub(super) async fn run(mut self) {
        loop {
            match self.one_order().await {
                Ok(()) => {
                    // Its channel comes to its end: whoever asks next has another order.
                    let waits = !self.renews && !self.closes;
                    // Whoever closes it may do so meanwhile.
                    let renews = self.renews || (waits && self.wait().await && !self.closes);
                    if renews {
                        match self.renew().await {
                            Ok(()) => continue,
                            Err(error) => return self.fail(error.into()),
                        }
                    }
                    self.fail(ReadsError::Closed);
                    let report = self.report.clone();
                    self.closing.drain(..).for_each(|told| drop(told.send(Ok(report.clone()))));
                    return;
                }
                Err(error) => {
                    let order = self.ask.purchase().id;
                    tracing::debug!(%order, %error, "an order of single readings waits");
                    let stays = !self.ask.purchase().is_final() && !self.closes;
                    self.fail(error.into());
                    // Whoever asks next has it tried again.
                    if !stays || !self.wait().await {
                        return;
                    }
                }
            }
        }
    }

    /// All who wait are told that it came to nothing.
    fn fail(&mut self, error: ReadsError) {
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        for told in waiting.chain(self.next_latest.drain(..)) {
            drop(told.send(Err(error.clone())));
        }
        if !matches!(error, ReadsError::Closed) {
            self.closing.drain(..).for_each(|told| drop(told.send(Err(error.clone()))));
        }
    }

    /// Waits for the next question without a stream; false when there will be none.
    async fn wait(&mut self) -> bool {
        let Some(commands) = self.commands.as_mut() else { return false };
        match commands.recv().await {
            Some(command) => {
                self.early(command);
                true
            }
            None => false,
        }
    }

    /// Takes a question before there is a stream for it.
    fn early(&mut self, command: Command) {
        match command {
            Command::Read(want, told) => self.waiting.entry(want).or_default().push(told),
            Command::Close(told) => {
                self.closes = true;
                self.closing.push(told);
            }
        }
    }

    /// A new order with what is left of the budget takes the place of one that is full.
    async fn renew(&mut self) -> Result<(), BuyError> {
        self.renews = false;
        let Some(request) = self.request.clone() else { return Ok(()) };
        let left = request.budget.saturating_sub(self.report.paid);
        let (purchase, terms) = self.buyer.order_reads(&request, left).await?;
        self.ask = ask_of(&self.buyer, purchase, terms, self.exposure);
        Ok(())
    }

    /// Streams, one after the other, until the order has ended.
    async fn one_order(&mut self) -> Result<(), BuyError> {
        let order = self.ask.purchase().id;
        let turn = self.buyer.turns.try_take(&order);
        let turn = Arc::new(turn.ok_or(BuyError::Busy { order })?);
        let (mut attempt, mut bad, mut pause) = (0, 0, FIRST_PAUSE);
        loop {
            let before = self.ask.count();
            let peer = peer_id_from_public_key(&self.ask.purchase().seller.to_bytes());
            let peer = peer.ok_or(BuyError::Unexpected { asked: "peer id", got: "no key" })?;
            let broken = self.one_stream(peer, &turn).await;
            // What is on its way to the disk is written, whatever became of the stream.
            if self.keeping.is_some() {
                done(&mut self.keeping).await?;
                self.kept();
            }
            let Err(broken) = broken else { return self.ended(order) };
            self.ask.interrupted();
            if self.ask.count() > before {
                (attempt, pause) = (0, FIRST_PAUSE);
            }
            attempt += 1;
            let error = match broken {
                Broken::Failed(error) => {
                    self.conclude(&error, turn).await?;
                    return Err(error);
                }
                Broken::Bad(source) => {
                    bad += 1;
                    let error = BuyError::Reads { order, source };
                    if bad > BAD_ANSWERS {
                        self.buyer.inner.net.report(peer, Offence::InvalidProof).await;
                        return Err(error);
                    }
                    tracing::warn!(%order, %error, "asking again");
                    error
                }
                Broken::Later(error) => error,
            };
            if attempt >= ATTEMPTS {
                return Err(error);
            }
            tracing::debug!(%order, %error, "a stream of single readings ended, opening another");
            self.buyer.inner.net.rest(peer, pause).await;
            pause = pause.saturating_mul(2);
        }
    }

    /// What follows from the end of a stream beside the error: an order that its seller does not know any more is given up.
    async fn conclude(&self, error: &BuyError, turn: Turn) -> Result<(), BuyError> {
        let BuyError::Reads { order, source } = error else { return Ok(()) };
        // Where its channel is closed, that is what ends it.
        let is_closed = matches!(
            &**source,
            AskError::Refused(Refusal::ChannelClosed { .. } | Refusal::UnknownChannel { .. })
        );
        if source.is_forgotten()
            && !is_closed
            && let Ok(turn) = Arc::try_unwrap(turn)
        {
            tracing::warn!(%order, %error, "the seller does not know an order any more: it is given up");
            self.buyer.leave_order(order, turn, ChannelPurchase::give_up).await?;
        }
        Ok(())
    }

    /// The order has ended: by a receipt, or by a refusal before anything was paid.
    fn ended(&mut self, order: OrderId) -> Result<(), BuyError> {
        let purchase = self.ask.purchase();
        match &purchase.state {
            ChannelPurchaseState::Refused { refusal } => Err(BuyError::Refused(refusal.clone())),
            ChannelPurchaseState::Ended { receipt, .. } => {
                let receipt = receipt
                    .clone()
                    .verify_by::<ChannelReceipt>(self.buyer.inner.network, &purchase.seller)?;
                self.report.orders.push(order);
                self.report.count = self.report.count.saturating_add(receipt.value().count);
                let paid = self.report.paid.checked_add(receipt.value().paid);
                self.report.paid = paid.unwrap_or(Satoshis::MAX);
                Ok(())
            }
            state => Err(BuyError::Over { order, state: state.name() }),
        }
    }

    /// A command that waits, while there is room for what it wants.
    fn ready(&mut self) -> Option<Command> {
        if self.closes || !self.ask.has_room() {
            return None;
        }
        self.commands.as_mut()?.try_recv().ok()
    }

    async fn command(&mut self, command: Command, line: &mut Line) -> Result<(), Broken> {
        match command {
            Command::Read(Want::Latest, told) => match self.waiting.get(&Want::Latest) {
                Some(_) => self.next_latest.push(told),
                None => {
                    self.waiting.insert(Want::Latest, vec![told]);
                    self.want(Want::Latest, line).await?;
                }
            },
            Command::Read(want @ Want::Seq(seq), told) => {
                if let Some(waiting) = self.waiting.get_mut(&want) {
                    waiting.push(told);
                } else if let Some(reading) = self.here(seq)? {
                    drop(told.send(Ok(read(reading, false))));
                } else {
                    self.waiting.insert(want, vec![told]);
                    self.want(want, line).await?;
                }
            }
            Command::Close(told) => {
                self.closes = true;
                self.closing.push(told);
            }
        }
        Ok(())
    }

    /// Wants a reading that somebody waits for.
    async fn want(&mut self, want: Want, line: &mut Line) -> Result<(), Broken> {
        if want == Want::Latest {
            let stream = self.ask.terms().stream;
            let newest = self.buyer.inner.store.read(|tx| bought::newest(tx, &stream))?;
            self.ask.hold(newest);
        }
        self.event(AskEvent::Want(want), line).await
    }

    /// A reading that is here already.
    fn here(&self, seq: u64) -> Result<Option<Reading>, BuyError> {
        if let Some(reading) = self.recent.get(&seq) {
            return Ok(Some(reading.clone()));
        }
        let Terms { stream, schema, .. } = self.ask.terms();
        let end = seq.saturating_add(1);
        Ok(self.buyer.readings(stream, schema, seq, end, 1)?.pop())
    }

    /// Tells whoever waits. Answers whether others want to know what is newest after that.
    fn got(&mut self, want: Want, got: Got) -> Result<bool, BuyError> {
        let told = match got {
            Got::Reading(reading) => {
                self.recent.insert(reading.seq, reading.clone());
                // Whoever waits for it by its number has it, too.
                if want == Want::Latest
                    && let Some(waiting) = self.waiting.remove(&Want::Seq(reading.seq))
                {
                    tell(waiting, &Ok(read(reading.clone(), true)));
                }
                Ok(read(reading, true))
            }
            Got::Same { seq } => match self.here(seq)? {
                Some(reading) => Ok(read(reading, false)),
                None => {
                    let error = StoreError::Damaged(format!("reading {seq} was bought and is not here"));
                    Err(BuyError::from(error).into())
                }
            },
            Got::Absent { size } => match want {
                Want::Seq(seq) => Err(ReadsError::Absent { seq, size }),
                Want::Latest => Err(ReadsError::Absent { seq: 0, size }),
            },
            Got::Spent => {
                let budget =
                    self.request.as_ref().map_or(self.ask.purchase().budget, |request| request.budget);
                Err(ReadsError::Spent { budget })
            }
            // They wait on, for the order that comes after this one.
            Got::Full | Got::Ending if !self.closes || self.renews => {
                self.renews = self.request.is_some();
                return Ok(false);
            }
            Got::Full | Got::Ending => Err(ReadsError::Closed),
        };
        tell(self.waiting.remove(&want).unwrap_or_default(), &told);
        Ok(want == Want::Latest && !self.next_latest.is_empty())
    }

    /// What was on its way to the disk is there.
    fn kept(&mut self) {
        // The machine hears of it with the next stream, where this one has ended.
        self.ask.kept();
        self.forget_recent();
    }

    /// Readings that are kept are found in the store.
    fn forget_recent(&mut self) {
        for seq in std::mem::take(&mut self.piece) {
            self.recent.remove(&seq);
        }
    }
}

/// What the seller has lost us is not paid ahead again; where that cannot be read, nothing is.
fn ask_of(buyer: &Buyer, purchase: ChannelPurchase, terms: Terms, exposure: Satoshis) -> Ask {
    let lost = buyer.lost_with(&purchase.seller).unwrap_or(Satoshis::MAX);
    let exposure = exposure.saturating_sub(lost);
    let unit = terms.tariff.price().due(1).unwrap_or(Satoshis::MAX);
    let interval = Interval::new(unit, exposure, unit).unwrap_or(Interval::none());
    Ask::new(purchase, terms, interval)
}

const fn read(reading: Reading, bought: bool) -> Read {
    Read { reading, bought, standing: Standing::Signed }
}

fn tell(waiting: Vec<Told<Read>>, told: &Result<Read, ReadsError>) {
    waiting.into_iter().for_each(|one| drop(one.send(told.clone())));
}
