//! Receiving an order that is paid through a channel: its delivery over a stream of its own, paid while it comes.
//!
//! What is paid and when is decided by [`sensora_protocol::market::delivery::receive`]; this room opens streams, stores what has been verified
//! before anything more is paid for it, and goes on where a stream or the process broke off. Ranges and live streams go the same way; who
//! listens says how long to wait for a seller, and may pause or stop.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::Satoshis;
use sensora_chain::header::HeaderView as _;
use sensora_protocol::OrderId;
use sensora_protocol::market::channel::spending::{Reservation, Spending};
use sensora_protocol::market::delivery::ProvenPage;
use sensora_protocol::market::delivery::frame::{MAX_TO_BUYER_LEN, OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::{
    ChannelPurchase, ChannelPurchaseState, Receive, ReceiveAction, ReceiveError, ReceiveEvent,
};
use sensora_protocol::market::delivery::terms::Terms;
use sensora_protocol::market::exposure::Interval;
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::refusal::Refusal;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, MissedTickBehavior};

use super::channels::{Open, ToOrders};
use super::drive::keep;
use super::{ATTEMPTS, BuyError, Buyer, BuyerParts, FIRST_PAUSE};
use crate::net::{DeliveryError, DeliverySender, Offence, PeerId, peer_id_from_public_key};
use crate::stakes::SharedStakes;
use crate::store::channels::{self as records, Wants};
use crate::store::{StoreError, budget};

/// How long the seller may take to answer the opening of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the seller may say nothing. It says `alive` where it has nothing to send; a slow disk takes less for a page.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the seller hears that we are here, where there is nothing to pay: well within its own patience of 90 seconds.
const ALIVE_EVERY: Duration = Duration::from_secs(25);
/// How often a delivery that does not verify is asked for again before the seller counts as a cheat.
const BAD_DELIVERIES: u32 = 2;
/// Where a live stream breaks, another is tried after this, and the pause doubles up to [`LONGEST_PAUSE`].
const FIRST_LIVE_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts: what a stream is late when its seller comes back.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long is waited where the seller says "later" and not when.
const LATER: Duration = Duration::from_millis(500);

/// What whoever listens is told.
pub(super) enum Told<'a> {
    /// The order has come so far.
    Stands { purchase: &'a ChannelPurchase, terms: &'a Terms, paid: Satoshis, paused: bool },
    /// Nothing comes just now, and why.
    Waits(&'a str),
}

/// What whoever listens wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// No readings for now.
    Pause,
    /// Readings again.
    Resume,
    /// No more readings: the order is to end.
    Stop,
    /// Nobody listens any more. The order stays as it is.
    Leave,
}

/// Who listens to an order while it comes.
pub(super) trait Listener {
    /// Something has changed.
    fn tell(&mut self, told: Told<'_>);
    /// What is wanted next. Safe to cancel.
    fn command(&mut self) -> impl Future<Output = Command> + Send;
    /// Whether a seller that cannot be reached is waited for as long as it takes.
    fn is_patient(&self) -> bool;
}

/// What is wanted of an order, over all its streams.
#[derive(Debug, Clone, Copy, Default)]
struct Course {
    paused: bool,
    stop: bool,
}

/// Why one stream of an order ended.
enum Broken {
    /// The stream did; another may do better.
    Stream(Box<DeliveryError>),
    /// The seller ended it without a word, or with one that says "later".
    Later(String),
    /// What came does not verify.
    Bad(Box<ReceiveError>),
    /// For good.
    Failed(BuyError),
}

impl From<BuyError> for Broken {
    fn from(error: BuyError) -> Self {
        match error {
            BuyError::Refused(refusal) if refusal.is_temporary() => Self::Later(refusal.to_string()),
            error => Self::Failed(error),
        }
    }
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<DeliveryError> for Broken {
    fn from(error: DeliveryError) -> Self {
        Self::Stream(Box::new(error))
    }
}

/// One order on one stream.
struct Session {
    buyer: Buyer,
    open: Arc<Open>,
    stakes: Arc<SharedStakes>,
    receive: Receive,
    reservation: Option<Reservation>,
    /// Goes along with each change on its way to the disk, so that whoever takes the order next comes after it.
    turn: Arc<OwnedMutexGuard<()>>,
}

/// What a session does next.
enum Next {
    Frame(Option<Bytes>),
    Event(ReceiveEvent),
    Command(Command),
    Alive,
    Block,
}

impl Buyer {
    /// Receives, verifies, keeps and pays until the order has ended. A live stream whose `stop` is asked for ends as soon as its seller answers.
    pub(super) async fn receive(
        &self,
        order: &OrderId,
        stop: bool,
        listener: &mut impl Listener,
    ) -> Result<ChannelPurchase, BuyError> {
        let order = *order;
        let turn = Arc::new(self.turns.take(&order).await);
        let wants = self.inner.store.read(|tx| records::wants(tx, &order))?;
        let mut course = Course { paused: false, stop };
        let first_pause = if listener.is_patient() { FIRST_LIVE_PAUSE } else { FIRST_PAUSE };
        let (mut attempt, mut bad, mut pause) = (0_u32, 0, first_pause);
        loop {
            let purchase = self.channel_purchase(&order)?;
            match &purchase.state {
                ChannelPurchaseState::Ended { .. } => return Ok(purchase),
                ChannelPurchaseState::Refused { refusal } => return Err(BuyError::Refused(refusal.clone())),
                ChannelPurchaseState::LeftUnpaid { .. } | ChannelPurchaseState::GivenUp { .. } => {
                    return Err(BuyError::Over { order, state: purchase.state.name() });
                }
                ChannelPurchaseState::Running | ChannelPurchaseState::Stopping { .. } => {}
            }
            let before = purchase.next;
            let peer = peer_id_from_public_key(&purchase.seller.to_bytes());
            let peer = peer.ok_or(BuyError::Unexpected { asked: "peer id", got: "no key" })?;
            let broken = match self.one_stream(peer, purchase, wants, &mut course, &turn, listener).await {
                Ok(Some(Command::Leave)) => return Err(BuyError::Left { order }),
                Ok(_) => continue,
                Err(broken) => broken,
            };
            // A seller that goes on has all its patience again.
            if self.channel_purchase(&order)?.next > before {
                (attempt, bad, pause) = (0, 0, first_pause);
            }
            attempt = attempt.saturating_add(1);
            let is_over = attempt >= ATTEMPTS && !listener.is_patient();
            let wait = match broken {
                Broken::Failed(BuyError::Request { source, .. })
                    if listener.is_patient() && !matches!(*source, crate::net::RequestError::Stopped) =>
                {
                    listener.tell(Told::Waits(&source.to_string()));
                    pause
                }
                Broken::Failed(error) => {
                    self.conclude(&order, peer, &error, turn).await?;
                    return Err(error);
                }
                Broken::Bad(source) => {
                    bad += 1;
                    if bad > BAD_DELIVERIES {
                        self.inner.net.report(peer, Offence::InvalidProof).await;
                        return Err(BuyError::Receive { order, source });
                    }
                    tracing::warn!(%order, error = %source, "a delivery does not verify, asking again");
                    continue;
                }
                Broken::Later(_) if is_over => {
                    return Err(BuyError::NotComplete { order, state: "waiting for the seller" });
                }
                Broken::Later(reason) => {
                    listener.tell(Told::Waits(&reason));
                    LATER.max(pause)
                }
                Broken::Stream(source) if is_over || *source == DeliveryError::Stopped => {
                    return Err(BuyError::Stream { order, source });
                }
                Broken::Stream(source) => {
                    tracing::debug!(%order, error = %source, "a stream ended, opening another");
                    listener.tell(Told::Waits(&source.to_string()));
                    pause
                }
            };
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            if rest(wait, &mut course, listener).await == Some(Command::Leave) {
                return Err(BuyError::Left { order });
            }
        }
    }

    /// What follows from the end of an order's delivery beside the error.
    async fn conclude(
        &self,
        order: &OrderId,
        peer: PeerId,
        error: &BuyError,
        turn: Arc<OwnedMutexGuard<()>>,
    ) -> Result<(), BuyError> {
        let BuyError::Receive { source, .. } = error else { return Ok(()) };
        if let ReceiveError::Forked { fork } = &**source {
            self.inner.net.report(peer, Offence::InvalidProof).await;
            let (order, fork) = (*order, fork.clone());
            self.inner.store.commit(move |tx| records::put_fork(tx, &order, &fork)).await?;
        }
        // Where its channel is closed, that is what ends it.
        let is_closed = |refusal: &Refusal| {
            matches!(refusal, Refusal::ChannelClosed { .. } | Refusal::UnknownChannel { .. })
        };
        if source.is_forgotten()
            && !matches!(&**source, ReceiveError::Refused(refusal) if is_closed(refusal))
            && let Ok(turn) = Arc::try_unwrap(turn)
        {
            tracing::warn!(%order, %error, "the seller does not know an order any more: it is given up");
            self.leave_order(order, turn, ChannelPurchase::give_up).await?;
        }
        Ok(())
    }

    /// One stream of an order, until the order or the stream has ended, or nobody listens any more.
    async fn one_stream(
        &self,
        peer: PeerId,
        purchase: ChannelPurchase,
        wants: Wants,
        course: &mut Course,
        turn: &Arc<OwnedMutexGuard<()>>,
        listener: &mut impl Listener,
    ) -> Result<Option<Command>, Broken> {
        let BuyerParts { net, discovery, network, chain, .. } = &*self.inner;
        let open = self.channel(&purchase.channel)?;
        self.learn(&open, wants.exposure).await?;
        let terms = purchase.offer.terms(*network, &purchase.seller).map_err(BuyError::from)?;
        let stakes = self.stakes_of(&purchase.seller, wants.exposure)?;
        let (mut room, mut changes, mut tips) = (stakes.room(), open.changes(), chain.tip_watch());
        let addresses = discovery.addresses(&purchase.seller);
        let opening = net.open_delivery(peer, addresses, OPEN_TIMEOUT);
        let mut stream = match while_opening(opening, course, listener).await {
            Ok(stream) => stream?,
            Err(command) => return Ok(Some(command)),
        };
        stream.limit_frames(MAX_TO_BUYER_LEN);
        let (mut sender, mut receiver) = stream.split();
        let reservation = self.take_up(&open, &purchase).await?;
        let unit = terms.unit().map_err(OfferError::from).map_err(BuyError::from)?;
        let interval = Interval::new(unit, wants.exposure, unit).unwrap_or(Interval::none());
        let receive = Receive::new(purchase, terms, interval);
        let (buyer, turn) = (self.clone(), turn.clone());
        let mut session = Session { buyer, open, stakes, receive, reservation: Some(reservation), turn };
        let begin = session.receive.start();
        session.follow(vec![begin], &mut sender).await?;
        session.at_block(&mut sender).await?;
        if session.receive.purchase().is_final() {
            return Ok(None);
        }
        if course.paused {
            let actions = session.event(ReceiveEvent::Pause)?;
            session.follow(actions, &mut sender).await?;
        }
        let mut alive = tokio::time::interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if course.stop || session.has_enough(&wants) {
                course.stop = true;
                let actions = session.event(ReceiveEvent::Stop)?;
                session.follow(actions, &mut sender).await?;
            }
            let is_running = session.receive.purchase().state == ChannelPurchaseState::Running;
            let next = tokio::select! {
                bytes = receiver.next(PATIENCE) => Next::Frame(bytes?),
                command = listener.command() => Next::Command(command),
                () = room.more() => Next::Event(ReceiveEvent::Room),
                _ = alive.tick() => Next::Alive,
                Ok(()) = changes.changed() => Next::Block,
                Ok(()) = tips.changed() => Next::Block,
                () = self.until(wants.until_ms), if is_running => Next::Event(ReceiveEvent::Stop),
            };
            let event = match next {
                Next::Frame(None) => return Err(Broken::Later("the seller has ended the delivery".into())),
                Next::Frame(Some(bytes)) => match ToBuyer::from_bytes(&bytes) {
                    Ok(frame) => ReceiveEvent::Frame(Box::new(frame)),
                    Err(_) => {
                        net.report(peer, Offence::Malformed).await;
                        return Err(Broken::Later("the seller sent what is no frame".into()));
                    }
                },
                Next::Event(event) => event,
                Next::Command(Command::Leave) => return Ok(Some(Command::Leave)),
                Next::Command(command) => match course.take(command) {
                    Some(event) => event,
                    None => continue,
                },
                Next::Block => {
                    session.at_block(&mut sender).await?;
                    if session.receive.purchase().is_final() {
                        return Ok(None);
                    }
                    continue;
                }
                Next::Alive => {
                    session.send(&ToSeller::Alive, &mut sender).await?;
                    continue;
                }
            };
            let actions = session.event(event)?;
            session.follow(actions, &mut sender).await?;
            session.show(course, listener);
            if session.receive.purchase().is_final() {
                drop(sender.finish().await);
                return Ok(None);
            }
        }
    }

    /// Waits for a time of day, where there is one to wait for.
    async fn until(&self, until_ms: Option<i64>) {
        let Some(until_ms) = until_ms else { return std::future::pending().await };
        let left = until_ms.saturating_sub(self.inner.clock.now_ms());
        tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0))).await;
    }

    /// The reservation of an order: as it was before, filled up to what the order may cost.
    async fn take_up(&self, open: &Arc<Open>, purchase: &ChannelPurchase) -> Result<Reservation, BuyError> {
        let (of, order, budget) = (open.clone(), purchase.id, purchase.budget);
        self.in_turn(open, move |buyer| {
            let Some(mut held) = of.spending().take_up(order) else {
                return buyer.reserve(&of, order, budget, |_| Ok(()));
            };
            let has = held.paid().checked_add(held.left()).unwrap_or(Satoshis::MAX);
            let missing = budget.saturating_sub(has);
            if !missing.is_zero() {
                held.extend(missing, |next| buyer.store_spending(&of, next, |_| Ok::<_, BuyError>(())))?;
            }
            Ok(held)
        })
        .await
    }
}

impl Course {
    /// Takes note of a command. The event that follows from it on an open stream; a stop is made by whoever looks at the course.
    fn take(&mut self, command: Command) -> Option<ReceiveEvent> {
        match command {
            Command::Pause => {
                self.paused = true;
                Some(ReceiveEvent::Pause)
            }
            Command::Resume => {
                self.paused = false;
                Some(ReceiveEvent::Resume)
            }
            Command::Stop => {
                self.stop = true;
                None
            }
            Command::Leave => None,
        }
    }
}

/// Waits, and takes note of what is wanted meanwhile. [`Command::Leave`] where nobody listens any more.
async fn rest(wait: Duration, course: &mut Course, listener: &mut impl Listener) -> Option<Command> {
    while_opening(tokio::time::sleep(wait), course, listener).await.err()
}

/// Waits for `work`, and takes note of what is wanted meanwhile. An error where nobody listens any more.
async fn while_opening<T>(
    work: impl Future<Output = T>,
    course: &mut Course,
    listener: &mut impl Listener,
) -> Result<T, Command> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            command = listener.command() => {
                if command == Command::Leave {
                    return Err(command);
                }
                course.take(command);
            }
        }
    }
}

impl Session {
    fn event(&mut self, event: ReceiveEvent) -> Result<Vec<ReceiveAction>, Broken> {
        let order = self.receive.purchase().id;
        let Some(reservation) = self.reservation.as_mut() else { return Ok(Vec::new()) };
        let (network, now_ms) = (self.buyer.inner.network, self.buyer.inner.clock.now_ms());
        let handled =
            self.stakes.change(|stakes| self.receive.handle(event, reservation, stakes, network, now_ms));
        handled.map_err(|error| match error {
            ReceiveError::Refused(refusal) if refusal.is_temporary() => Broken::Later(refusal.to_string()),
            bad @ (ReceiveError::Delivery(_)
            | ReceiveError::OtherStream
            | ReceiveError::OlderCheckpoint { .. }) => Broken::Bad(Box::new(bad)),
            source => Broken::Failed(BuyError::Receive { order, source: Box::new(source) }),
        })
    }

    async fn follow(
        &mut self,
        actions: Vec<ReceiveAction>,
        sender: &mut DeliverySender,
    ) -> Result<(), Broken> {
        // Each stored step holds the purchase as all these actions leave it.
        let mut is_stored = false;
        for action in actions {
            match action {
                ReceiveAction::Keep { page, checkpoint } => {
                    self.keep(*page, checkpoint).await?;
                    is_stored = true;
                }
                ReceiveAction::Store if is_stored => {}
                ReceiveAction::Store => {
                    let (purchase, turn) = (self.receive.purchase().clone(), self.turn.clone());
                    let stored = self.buyer.inner.store.commit(move |tx| {
                        let _turn = &turn;
                        records::put_purchase(tx, &purchase)
                    });
                    stored.await?;
                    is_stored = true;
                }
                ReceiveAction::Voucher { paid, amount } => {
                    self.buyer.inner.wallet.freeze().check().map_err(BuyError::from)?;
                    let voucher = self.open.sign(amount, &self.buyer.inner.identity)?;
                    let frame =
                        ToSeller::Voucher(OrderVoucher { paid, amount, signature: voucher.signature });
                    self.send(&frame, sender).await?;
                }
                ReceiveAction::Send(frame) => self.send(&frame, sender).await?,
                ReceiveAction::End(paid) => self.end(paid).await?,
            }
        }
        Ok(())
    }

    /// Keeps verified readings, with the checkpoint that they came with, in the same stored step as the purchase.
    async fn keep(
        &self,
        page: ProvenPage,
        checkpoint: Option<sensora_protocol::SignedBytes>,
    ) -> Result<(), Broken> {
        let (purchase, turn) = (self.receive.purchase().clone(), self.turn.clone());
        let terms = self.receive.terms();
        let (stream, begins) = (terms.stream, terms.first);
        let first = page.readings.first().map_or(0, |reading| reading.seq);
        let stored = self.buyer.inner.store.commit(move |tx| {
            let _turn = &turn;
            keep(tx, &purchase.id, &stream, begins, first, &page)?;
            if let Some(checkpoint) = &checkpoint {
                records::put_checkpoint(tx, &purchase.id, checkpoint)?;
            }
            records::put_purchase(tx, &purchase)
        });
        Ok(stored.await?)
    }

    /// What the newest block means for the order.
    async fn at_block(&mut self, sender: &mut DeliverySender) -> Result<(), Broken> {
        let tip = self.buyer.inner.chain.headers().tip_height();
        let event = match self.open.to_orders(tip) {
            ToOrders::Open => return Ok(()),
            ToOrders::Closing => ReceiveEvent::Closing,
            ToOrders::Closed => ReceiveEvent::Closed,
        };
        let actions = self.event(event)?;
        self.follow(actions, sender).await
    }

    async fn send(&self, frame: &ToSeller, sender: &mut DeliverySender) -> Result<(), Broken> {
        let bytes = frame.to_bytes().map_err(BuyError::from)?;
        Ok(sender.send(Bytes::from(bytes)).await?)
    }

    /// The order's lane ends in the same stored step as the order, and in memory when that is on disk.
    async fn end(&mut self, paid: Satoshis) -> Result<(), Broken> {
        let Some(reservation) = self.reservation.take() else { return Ok(()) };
        let (open, purchase) = (self.open.clone(), self.receive.purchase().clone());
        let turn = self.turn.clone();
        let ended = self.buyer.in_turn(&self.open, move |buyer| {
            let _turn = turn;
            // First as it will be, to store it; then as it is.
            let next = Spending::new(open.spending().record());
            if let Some(held) = next.take_up(purchase.id) {
                held.end(paid)?;
            }
            buyer.store_spending(&open, &next.record(), |tx| {
                budget::settle(tx, &purchase.id, paid)?;
                Ok(records::put_purchase(tx, &purchase)?)
            })?;
            reservation.end(paid)?;
            Ok(())
        });
        Ok(ended.await?)
    }

    /// Whether so many readings are here as were wanted.
    fn has_enough(&self, wants: &Wants) -> bool {
        let here = self.receive.purchase().next.saturating_sub(self.receive.terms().first);
        self.receive.terms().end.is_none() && wants.readings.is_some_and(|most| here >= most)
    }

    fn show(&self, course: &Course, listener: &mut impl Listener) {
        let (purchase, terms) = (self.receive.purchase(), self.receive.terms());
        let paid = match &self.reservation {
            Some(reservation) => reservation.paid(),
            // It has ended: the receipt says it.
            None => Satoshis::ZERO,
        };
        listener.tell(Told::Stands { purchase, terms, paid, paused: course.paused });
    }
}
