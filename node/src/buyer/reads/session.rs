//! The task of one order of single readings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::futures::FutureExt as _;
use sensora_chain::Satoshis;
use sensora_chain::header::HeaderView as _;
use sensora_protocol::anchor::Standing;
use sensora_protocol::codec::CodecError;
use sensora_protocol::market::channel::spending::{Reservation, Spending, SpendingError};
use sensora_protocol::market::delivery::frame::{OrderVoucher, ToSeller as Opening};
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::delivery::terms::Terms;
use sensora_protocol::market::exposure::Interval;
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::reads::ask::{Ask, AskAction, AskError, AskEvent, Got, Piece, Want};
use sensora_protocol::market::reads::frame::{MAX_TO_BUYER_LEN, ToBuyer, ToSeller};
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::leaf::Salt;
use sensora_protocol::stream::reading::Reading;
use sensora_protocol::stream::{CHUNK_LEN, Run, Salts, columns};
use sensora_protocol::{OrderId, StreamId};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::JoinHandle;

use super::super::channels::{Open, ToOrders};
use super::super::{ATTEMPTS, BuyError, Buyer, BuyerParts, FIRST_PAUSE};
use super::{Command, Read, ReadsError, ReadsReport, ReadsRequest, Told};
use crate::buyer::budget::settle_on_channel;
use crate::net::{DeliveryError, DeliveryReceiver, DeliverySender, Offence, PeerId, peer_id_from_public_key};
use crate::stakes::SharedStakes;
use crate::store::bought::{self, BoughtRun};
use crate::store::{Store, StoreError, channels as records, reads};

/// How long the seller may take to answer the opening of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the seller may send nothing while an answer is awaited.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether anything has come: after one quiet round what is verified is kept.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After so many rounds it is kept in any case.
const KEEP_ROUNDS: u32 = 10;
/// After so many quiet rounds the seller is told that we are there: it gives up after 90 s.
const ALIVE_ROUNDS: u32 = 300;
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
for_good!(BuyError, StoreError, SpendingError);

/// What is behind an order while it has a stream.
struct Line {
    open: Arc<Open>,
    stakes: Arc<SharedStakes>,
    reservation: Option<Reservation>,
    sender: DeliverySender,
    /// Goes along with each change on its way to the disk, so that whoever takes the order next comes after it.
    turn: Turn,
}

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
            tokio::time::sleep(pause).await;
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

    async fn one_stream(&mut self, peer: PeerId, turn: &Turn) -> Result<(), Broken> {
        let buyer = self.buyer.clone();
        let BuyerParts { net, discovery, .. } = &*buyer.inner;
        let purchase = self.ask.purchase().clone();
        let open = buyer.channel(&purchase.channel)?;
        buyer.learn(&open, self.exposure).await.map_err(later)?;
        let stakes = buyer.stakes_of(&purchase.seller, self.exposure)?;
        let addresses = discovery.addresses(&purchase.seller);
        let order = purchase.id;
        let stream = net.open_delivery(peer, addresses, OPEN_TIMEOUT).await;
        let mut stream = stream.map_err(|error| broken(order, error))?;
        stream.limit_frames(MAX_TO_BUYER_LEN);
        let (sender, mut receiver) = stream.split();
        let due = purchase.due(self.ask.terms()).map_err(OfferError::from).map_err(BuyError::from)?;
        let reservation = Some(buyer.take_up(&open, &purchase, due).await?);
        let mut line = Line { open, stakes, reservation, sender, turn: turn.clone() };
        let outcome = self.talk(&mut line, &mut receiver, peer).await;
        // The lane stays as it is for the next stream.
        if let Some(reservation) = line.reservation.take() {
            reservation.leave();
        }
        if outcome.is_ok() {
            drop(line.sender.finish().await);
        }
        outcome
    }

    /// Asks and pays until the order has ended.
    async fn talk(
        &mut self,
        line: &mut Line,
        receiver: &mut DeliveryReceiver,
        peer: PeerId,
    ) -> Result<(), Broken> {
        let order = self.ask.purchase().id;
        let chain = self.buyer.inner.chain.clone();
        let (mut room, mut changes, mut tips) = (line.stakes.room(), line.open.changes(), chain.tip_watch());
        let begin = self.ask.start();
        self.follow(vec![begin], line).await?;
        self.at_block(line).await?;
        for want in self.waiting.keys().copied().collect::<Vec<_>>() {
            if !self.ask.is_wanted(want) {
                self.want(want, line).await?;
            }
        }
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut rounds, mut quiet) = (0_u32, 0_u32);
        loop {
            if self.ask.purchase().is_final() {
                return Ok(());
            }
            if self.keeping.as_ref().is_some_and(JoinHandle::is_finished) {
                done(&mut self.keeping).await?;
                self.kept_on(line).await?;
            }
            self.close_when_done(line).await?;
            if let Some(command) = self.ready() {
                quiet = 0;
                self.command(command, line).await?;
                continue;
            }
            let bytes = match receiver.next(PATIENCE).now_or_never() {
                Some(bytes) => bytes,
                None => {
                    line.sender.flush().await.map_err(|error| broken(order, error))?;
                    tokio::select! {
                        biased;
                        bytes = receiver.next(PATIENCE) => bytes,
                        command = next(&mut self.commands), if !self.closes && self.ask.has_room() => {
                            quiet = 0;
                            match command {
                                Some(command) => self.command(command, line).await?,
                                None => self.closes = true,
                            }
                            continue;
                        }
                        kept = done(&mut self.keeping) => {
                            kept?;
                            self.kept_on(line).await?;
                            continue;
                        }
                        () = room.more() => {
                            self.event(AskEvent::Room, line).await?;
                            continue;
                        }
                        Ok(()) = changes.changed() => {
                            self.at_block(line).await?;
                            continue;
                        }
                        Ok(()) = tips.changed() => {
                            self.at_block(line).await?;
                            continue;
                        }
                        _ = looks.tick() => {
                            (rounds, quiet) = (rounds.wrapping_add(1), quiet.saturating_add(1));
                            if self.ask.has_unkept() && (quiet > 1 || rounds.is_multiple_of(KEEP_ROUNDS)) {
                                self.event(AskEvent::Rest, line).await?;
                            } else if quiet.is_multiple_of(ALIVE_ROUNDS) {
                                self.send(&ToSeller::Alive, line).await?;
                            } else if quiet.is_multiple_of(KEEP_ROUNDS) {
                                // There may be room that was not told of.
                                self.event(AskEvent::Room, line).await?;
                            }
                            continue;
                        }
                    }
                }
            };
            let bytes = match bytes {
                // Nobody has asked anything.
                Err(DeliveryError::Idle { .. }) if !self.ask.waits() => continue,
                bytes => bytes.map_err(|error| broken(order, error))?,
            };
            let Some(bytes) = bytes else {
                return Err(Broken::Later(BuyError::NotComplete { order, state: "left by the seller" }));
            };
            quiet = 0;
            let frame = match ToBuyer::from_bytes(&bytes) {
                Ok(frame) => frame,
                Err(error) => {
                    self.buyer.inner.net.report(peer, Offence::Malformed).await;
                    return Err(Broken::Later(error.into()));
                }
            };
            self.event(AskEvent::Frame(Box::new(frame)), line).await?;
        }
    }

    /// What the newest block means for the order.
    async fn at_block(&mut self, line: &mut Line) -> Result<(), Broken> {
        let tip = self.buyer.inner.chain.headers().tip_height();
        match line.open.to_orders(tip) {
            ToOrders::Open => Ok(()),
            ToOrders::Closing => self.event(AskEvent::Closing, line).await,
            ToOrders::Closed => self.event(AskEvent::Closed, line).await,
        }
    }

    /// A command that waits, while there is room for what it wants.
    fn ready(&mut self) -> Option<Command> {
        if self.closes || !self.ask.has_room() {
            return None;
        }
        self.commands.as_mut()?.try_recv().ok()
    }

    /// When nobody waits for anything any more, an order that closes is stopped.
    async fn close_when_done(&mut self, line: &mut Line) -> Result<(), Broken> {
        let runs = self.ask.purchase().state == ChannelPurchaseState::Running;
        let waits = !self.waiting.is_empty() || !self.next_latest.is_empty();
        if runs && (self.renews || (self.closes && !waits)) {
            self.event(AskEvent::Stop, line).await?;
        }
        Ok(())
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

    async fn event(&mut self, event: AskEvent, line: &mut Line) -> Result<(), Broken> {
        // Before the machine counts a voucher as paid.
        if may_pay(&event) {
            self.buyer.inner.wallet.freeze().check().map_err(BuyError::from)?;
        }
        let order = self.ask.purchase().id;
        let Some(reservation) = line.reservation.as_mut() else { return Ok(()) };
        let network = self.buyer.inner.network;
        let (ask, stakes) = (&mut self.ask, &line.stakes);
        let handled = stakes.change(|stakes| ask.handle(event, reservation, stakes, network));
        let actions = handled.map_err(|error| match error {
            AskError::Refused(refusal) if refusal.is_temporary() => Broken::Later(BuyError::Refused(refusal)),
            bad @ (AskError::Known(_)
            | AskError::Reading(_)
            | AskError::Statement(_)
            | AskError::NotAsked { .. }
            | AskError::Unexpected { .. }) => Broken::Bad(Box::new(bad)),
            source => Broken::Failed(BuyError::Reads { order, source: Box::new(source) }),
        })?;
        self.follow(actions, line).await
    }

    async fn follow(&mut self, actions: Vec<AskAction>, line: &mut Line) -> Result<(), Broken> {
        let mut again = false;
        for action in actions {
            match action {
                AskAction::Keep(piece) => {
                    let (store, terms) = (self.buyer.inner.store.clone(), self.ask.terms().clone());
                    self.piece = piece.readings.iter().map(|(reading, _)| reading.seq).collect();
                    self.keeping = Some(tokio::spawn(keep(store, terms, *piece, line.turn.clone())));
                }
                AskAction::Store => {
                    let (purchase, turn) = (self.ask.purchase().clone(), line.turn.clone());
                    let stored = self.buyer.inner.store.commit(move |tx| {
                        let _turn = &turn;
                        records::put_purchase(tx, &purchase)
                    });
                    stored.await?;
                }
                AskAction::Voucher { paid, amount } => {
                    self.buyer.inner.wallet.freeze().check().map_err(BuyError::from)?;
                    let voucher = line.open.sign(amount, &self.buyer.inner.identity)?;
                    let voucher = OrderVoucher { paid, amount, signature: voucher.signature };
                    self.send(&ToSeller::Voucher(voucher), line).await?;
                }
                AskAction::Begin(begin) => {
                    let bytes = Opening::Begin(begin).to_bytes().map_err(BuyError::from)?;
                    self.send_bytes(bytes, line).await?;
                }
                AskAction::Send(frame) => self.send(&frame, line).await?,
                AskAction::Got(want, got) => again |= self.got(want, got)?,
                AskAction::End(paid) => self.end(paid, line).await?,
            }
        }
        if again {
            let latest = std::mem::take(&mut self.next_latest);
            self.waiting.insert(Want::Latest, latest);
            Box::pin(self.want(Want::Latest, line)).await?;
        }
        Ok(())
    }

    async fn send(&self, frame: &ToSeller, line: &mut Line) -> Result<(), Broken> {
        let bytes = frame.to_bytes().map_err(|error: CodecError| BuyError::from(error))?;
        self.send_bytes(bytes, line).await
    }

    async fn send_bytes(&self, bytes: Vec<u8>, line: &mut Line) -> Result<(), Broken> {
        let order = self.ask.purchase().id;
        line.sender.feed(Bytes::from(bytes)).await.map_err(|error| broken(order, error))
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

    async fn kept_on(&mut self, line: &mut Line) -> Result<(), Broken> {
        self.forget_recent();
        self.event(AskEvent::Kept, line).await
    }

    /// Readings that are kept are found in the store.
    fn forget_recent(&mut self) {
        for seq in std::mem::take(&mut self.piece) {
            self.recent.remove(&seq);
        }
    }

    /// The order's lane ends in the same stored step as the order.
    async fn end(&mut self, paid: Satoshis, line: &mut Line) -> Result<(), Broken> {
        let Some(reservation) = line.reservation.take() else { return Ok(()) };
        let (open, purchase, turn) = (line.open.clone(), self.ask.purchase().clone(), line.turn.clone());
        let exposure = self.exposure;
        let ended = self.buyer.in_turn(&line.open, move |buyer| {
            let _turn = turn;
            // First as it will be, to store it; then as it is.
            let next = Spending::new(open.spending().record());
            let ended = next.take_up(purchase.id).map_or(Ok(()), |held| held.end(paid));
            let stored = ended.map_err(BuyError::from).and_then(|()| {
                buyer.store_spending(&open, &next.record(), |tx| {
                    settle_on_channel(tx, &purchase, (paid, exposure), buyer.inner.clock.now_ms())?;
                    Ok(records::put_purchase(tx, &purchase)?)
                })
            });
            if let Err(error) = stored {
                reservation.leave();
                return Err(error);
            }
            reservation.end(paid)?;
            buyer.note_lost(&purchase, exposure);
            Ok(())
        });
        ended.await?;
        Ok(())
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

/// Whether the machine may answer with a voucher. What ends an order may, too, but mostly does not.
fn may_pay(event: &AskEvent) -> bool {
    use sensora_protocol::market::delivery::frame::ToBuyer::{Alive, Ended, Refused};
    match event {
        AskEvent::Frame(frame) => !matches!(**frame, ToBuyer::Order(Ended { .. } | Refused(_) | Alive)),
        AskEvent::Want(_) | AskEvent::Kept | AskEvent::Room | AskEvent::Rest => true,
        AskEvent::Stop | AskEvent::Closing | AskEvent::Closed => false,
    }
}

const fn read(reading: Reading, bought: bool) -> Read {
    Read { reading, bought, standing: Standing::Signed }
}

fn tell(waiting: Vec<Told<Read>>, told: &Result<Read, ReadsError>) {
    waiting.into_iter().for_each(|one| drop(one.send(told.clone())));
}

fn later(error: BuyError) -> Broken {
    match error {
        error @ BuyError::Request { .. } => Broken::Later(error),
        error => Broken::Failed(error),
    }
}

fn broken(order: OrderId, error: DeliveryError) -> Broken {
    let error = BuyError::Stream { order, source: Box::new(error) };
    Broken::Later(error)
}

async fn next(commands: &mut Option<mpsc::Receiver<Command>>) -> Option<Command> {
    match commands {
        Some(commands) => commands.recv().await,
        None => std::future::pending().await,
    }
}

/// Ends when what is being kept is; never where nothing is. Nothing is lost where it is dropped.
async fn done(keeping: &mut Option<JoinHandle<Result<(), BuyError>>>) -> Result<(), BuyError> {
    let Some(handle) = keeping.as_mut() else { return std::future::pending().await };
    let kept = handle.await.unwrap_or_else(|error| Err(StoreError::Damaged(error.to_string()).into()));
    *keeping = None;
    kept
}

/// Keeps a piece: readings as runs, with their salts; the newest checkpoint; and how far the order is.
async fn keep(store: Store, terms: Terms, piece: Piece, turn: Turn) -> Result<(), BuyError> {
    let Piece { readings, checkpoint, purchase } = piece;
    let (stream, order): (StreamId, OrderId) = (terms.stream, purchase.id);
    let made = tokio::task::spawn_blocking(move || runs(&terms, order, readings)).await;
    let runs = made.unwrap_or_else(|error| Err(StoreError::Damaged(error.to_string())))?;
    let stored = store.commit(move |tx| {
        let _turn = &turn;
        runs.iter().try_for_each(|run| bought::put_run(tx, &stream, run))?;
        if let Some(checkpoint) = &checkpoint {
            reads::put_checkpoint(tx, &order, checkpoint)?;
        }
        records::put_purchase(tx, &purchase)
    });
    Ok(stored.await?)
}

/// Readings that follow each other in a chunk are kept as one run.
fn runs(
    terms: &Terms,
    order: OrderId,
    mut readings: Vec<(Reading, Salt)>,
) -> Result<Vec<BoughtRun>, StoreError> {
    readings.sort_unstable_by_key(|(reading, _)| reading.seq);
    let mut runs = Vec::new();
    let follows = |(a, _): &(Reading, Salt), (b, _): &(Reading, Salt)| {
        a.seq.checked_add(1) == Some(b.seq) && a.seq / CHUNK_LEN == b.seq / CHUNK_LEN
    };
    for run in readings.chunk_by(follows) {
        let (readings, salts): (Vec<Reading>, Vec<Salt>) = run.iter().cloned().unzip();
        let first = readings.first().map_or(0, |reading| reading.seq);
        let columns = columns::encode(&terms.schema, &readings).map_err(|error| {
            StoreError::Damaged(format!("readings from {first} on cannot be kept: {error}"))
        })?;
        let count = readings.len() as u64;
        runs.push(BoughtRun { run: Run { first, columns, salts: Salts::Each(salts) }, count, order });
    }
    Ok(runs)
}
