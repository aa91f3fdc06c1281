//! Receiving an order that is paid through a channel: its delivery over a stream of its own, paid while it comes.
//!
//! What is paid and when is decided by [`sensora_protocol::market::delivery::receive`]; this room opens streams, stores what has been verified
//! before anything more is paid for it, and goes on where a stream or the process broke off. Ranges and live streams go the same way; who
//! listens says how long to wait for a seller, and may pause or stop.
//!
//! While the disk takes one page the next ones are received and verified, and then go to the disk together ([`session`]). What follows from a page, its
//! voucher and that it is here to stay, waits until the page is there.

mod session;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::Satoshis;
use sensora_protocol::OrderId;
use sensora_protocol::market::delivery::frame::{MAX_TO_BUYER_LEN, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::{
    ChannelPurchase, ChannelPurchaseState, Receive, ReceiveError, ReceiveEvent,
};
use sensora_protocol::market::delivery::terms::Terms;
use sensora_protocol::market::exposure::Interval;
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::Reading;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, MissedTickBehavior};

use super::{ATTEMPTS, BuyError, Buyer, BuyerParts, FIRST_PAUSE};
use crate::net::{DeliveryError, Offence, PeerId, peer_id_from_public_key};
use crate::store::StoreError;
use crate::store::channels::{self as records, Wants};
use session::{Session, SessionParts};

/// How long the seller may take to answer the opening of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the seller may say nothing. It says `alive` where it has nothing to send; a slow disk takes less for a page.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an order that somebody waits for may come no further on a stream, however often its seller says `alive`. Room that another order with
/// the seller makes counts as well: with one exposure they wait for each other.
const PROGRESS: Duration = Duration::from_secs(60);
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

/// Bytes of pages that may be verified while others, no more than these, are on their way to the disk: another page is taken below this. A page is at most a
/// frame of 1 MiB, so that an order holds 8 MiB; more would not make a disk faster that is slower than this.
const BYTES_AHEAD: usize = 3 * 1024 * 1024;
/// The same in pages. Most are a proof unit of 16 KiB or less, and the purchase that is stored with each takes some kilobytes.
const PAGES_AHEAD: usize = 128;

/// What whoever listens is told.
pub(super) enum Told<'a> {
    /// These readings are verified, and on their way to the disk.
    Verified(Vec<Reading>),
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
    /// Whether readings are wanted as soon as they are verified.
    fn wants_readings(&self) -> bool;
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

/// What a session does next.
enum Next {
    Stored(Result<(), StoreError>),
    Frame(Option<Bytes>),
    Event(ReceiveEvent),
    Command(Command),
    Alive,
    Block,
    Silent,
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
        let purchase = self.channel_purchase(&order)?;
        if !purchase.is_final() && self.channel(&purchase.channel).is_err() {
            // Its channel was settled while nobody worked on it.
            let turn = self.turns.take(&order).await;
            self.leave_order(&order, turn, ChannelPurchase::channel_closed).await?;
        }
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
            if self.rest(peer, wait, &mut course, listener).await == Some(Command::Leave) {
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
        // What the seller has lost us is not paid ahead again.
        let lost = self.lost_with(&purchase.seller)?;
        if !lost.is_zero() {
            tracing::info!(order = %purchase.id, %lost, "this seller was paid ahead and has not delivered: so much less is paid ahead to it");
        }
        let unit = terms.unit().map_err(OfferError::from).map_err(BuyError::from)?;
        let (mut room, mut changes, mut tips) = (stakes.room(), open.changes(), chain.tip_watch());
        let addresses = discovery.addresses(&purchase.seller);
        let opening = net.open_delivery(peer, addresses, OPEN_TIMEOUT);
        let mut stream = match while_opening(opening, course, listener).await {
            Ok(stream) => stream?,
            Err(command) => return Ok(Some(command)),
        };
        stream.limit_frames(MAX_TO_BUYER_LEN);
        let (mut sender, mut receiver) = stream.split();
        let due = purchase.due(&terms).map_err(OfferError::from).map_err(BuyError::from)?;
        let reservation = self.take_up(&open, &purchase, due).await?;
        let most = wants.exposure.saturating_sub(lost);
        let interval = Interval::new(unit, most, unit).unwrap_or(Interval::none());
        let receive = Receive::new(purchase, terms, interval);
        let (buyer, turn, exposure) = (self.clone(), turn.clone(), wants.exposure);
        let parts = SessionParts { buyer, open, stakes, exposure, turn };
        let mut session = Session::new(parts, receive, reservation, listener.wants_readings());
        session.at_block()?;
        if course.paused {
            session.handle(ReceiveEvent::Pause)?;
        }
        session.work(&mut sender).await?;
        let mut alive = tokio::time::interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        let ended = loop {
            if course.stop || session.has_enough(&wants) {
                course.stop = true;
                let stopped = match session.handle(ReceiveEvent::Stop) {
                    Ok(()) => session.work(&mut sender).await,
                    Err(broken) => Err(broken),
                };
                if let Err(broken) = stopped {
                    break Err(broken);
                }
            }
            let is_running = session.purchase().state == ChannelPurchaseState::Running;
            let is_final = session.purchase().is_final();
            let takes_more = !is_final && session.has_room();
            let next = tokio::select! {
                stored = session.stored() => Next::Stored(stored),
                bytes = receiver.next(PATIENCE), if takes_more => match bytes {
                    Ok(bytes) => Next::Frame(bytes),
                    Err(error) => break Err(error.into()),
                },
                command = listener.command() => Next::Command(command),
                () = room.more() => Next::Event(ReceiveEvent::Room),
                _ = alive.tick() => Next::Alive,
                Ok(()) = changes.changed() => Next::Block,
                Ok(()) = tips.changed() => Next::Block,
                () = self.until(wants.until_ms), if is_running => Next::Event(ReceiveEvent::Stop),
                () = tokio::time::sleep_until(last + PROGRESS), if !listener.is_patient() => Next::Silent,
            };
            let before = session.comes_to();
            let handled = match next {
                Next::Stored(Ok(())) => {
                    session.is_stored();
                    Ok(())
                }
                // With the session goes what waits for it: it would say that this is here, too.
                Next::Stored(Err(error)) => return Err(error.into()),
                Next::Frame(None) => break Err(Broken::Later("the seller has ended the delivery".into())),
                Next::Frame(Some(bytes)) => match ToBuyer::from_bytes(&bytes) {
                    Ok(frame) => session.handle(ReceiveEvent::Frame(Box::new(frame))),
                    Err(_) => {
                        net.report(peer, Offence::Malformed).await;
                        break Err(Broken::Later("the seller sent what is no frame".into()));
                    }
                },
                Next::Event(event) => {
                    last = Instant::now();
                    session.handle(event)
                }
                Next::Silent => {
                    let order = session.purchase().id;
                    break Err(BuyError::NotComplete { order, state: "waiting for the seller" }.into());
                }
                Next::Command(Command::Leave) => break Ok(Some(Command::Leave)),
                Next::Command(command) => match course.take(command) {
                    Some(event) => session.handle(event),
                    None => continue,
                },
                Next::Block => session.at_block(),
                Next::Alive => {
                    session.plan_frame(ToSeller::Alive);
                    Ok(())
                }
            };
            session.tell_verified(listener);
            let worked = match handled {
                Ok(()) => session.work(&mut sender).await,
                Err(broken) => Err(broken),
            };
            if let Err(broken) = worked {
                break Err(broken);
            }
            if session.comes_to() != before {
                last = Instant::now();
            }
            session.show(course, listener);
            if session.is_done() {
                drop(sender.finish().await);
                return Ok(None);
            }
        };
        // What is verified is kept, though nothing more is paid for it on this stream.
        session.keep_rest().await?;
        ended
    }

    /// Waits until the seller connects, but no longer than `wait`, and takes note of what is wanted meanwhile. [`Command::Leave`] where nobody listens any more.
    ///
    /// The pauses grow all the same: a seller that connects and breaks off is asked once for each of its connections.
    async fn rest(
        &self,
        seller: PeerId,
        wait: Duration,
        course: &mut Course,
        listener: &mut impl Listener,
    ) -> Option<Command> {
        while_opening(self.inner.net.rest(seller, wait), course, listener).await.err()
    }

    /// Waits for a time of day, where there is one to wait for.
    async fn until(&self, until_ms: Option<i64>) {
        let Some(until_ms) = until_ms else { return std::future::pending().await };
        let left = until_ms.saturating_sub(self.inner.clock.now_ms());
        tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0))).await;
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
