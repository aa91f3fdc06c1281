//! The stream of one order: encrypted parts come in, the coin goes out, and the key is waited for, there and on the chain.

use std::time::Duration;

use bytes::Bytes;
use sensora_protocol::OrderId;
use sensora_protocol::market::key_release::buy::{
    BatchPurchase, BatchPurchaseState, BuyError as Fault, BuyEvent,
};
use sensora_protocol::market::key_release::frame::{MAX_TO_BUYER_LEN, ToBuyer, ToSeller};
use sensora_protocol::market::refusal::Refusal;
use tokio::time::{Instant, MissedTickBehavior};

use super::OPEN_TIMEOUT;
use super::step::Stopped;
use crate::buyer::{ATTEMPTS, BuyError, Buyer, BuyerParts, FIRST_PAUSE, Progress};
use crate::net::{
    DeliveryError, DeliveryReceiver, DeliverySender, Offence, StreamKind, peer_id_from_public_key,
};

/// How long the seller may send nothing while parts are owed: it may have to seal the batch again first.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the seller has to bring the coin to the network, however short the caller's patience for the key is.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// How long the seller's receipt is waited for when all else is here.
const RECEIPT_PATIENCE: Duration = Duration::from_secs(3);
/// How often the chain is asked about the coin while its key is waited for and no new block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the seller hears that we are still there.
const ALIVE_EVERY: Duration = Duration::from_secs(30);
/// How long one seller is reminded at the most, whatever it says meanwhile: refunds of other orders wait behind it.
const REMIND_FOR: Duration = Duration::from_secs(30);
/// How often parts that do not verify are asked for again before the seller counts as a cheat.
const BAD_DELIVERIES: u32 = 2;

/// Why one stream of an order ended before the order did.
enum Broken {
    /// The stream did; another may do better.
    Stream(DeliveryError),
    /// "Later", in the seller's word or its silence.
    Later(String, u64),
    /// What came is not what was offered.
    Bad(BuyError),
    /// The seller has nothing more to say; the chain has.
    Silent(String),
    /// The caller waits no longer.
    Patience,
    /// For good.
    Failed(BuyError),
}

impl From<Stopped> for Broken {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Stream(error) => Self::Stream(error),
            Stopped::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<BuyError> for Broken {
    fn from(error: BuyError) -> Self {
        Self::Failed(error)
    }
}

impl From<DeliveryError> for Broken {
    fn from(error: DeliveryError) -> Self {
        Self::Stream(error)
    }
}

/// How long the key is waited for.
pub(super) struct Deadline {
    patience: Duration,
    locking: Option<Instant>,
    waiting: Option<Instant>,
    /// When nothing is waited for any more, whatever the state.
    end: Option<Instant>,
}

impl Deadline {
    pub(super) fn after(patience: Duration) -> Self {
        Self { patience, locking: None, waiting: None, end: None }
    }

    /// The same, and no longer than `most` in all.
    fn within(patience: Duration, most: Duration) -> Self {
        Self { end: Instant::now().checked_add(most), ..Self::after(patience) }
    }

    /// Until when an order in this state is waited for; for ever as long as nothing is paid.
    fn of(&mut self, state: &BatchPurchaseState) -> Option<Instant> {
        let now = Instant::now();
        let (kept, patience) = match state {
            BatchPurchaseState::Locking => (&mut self.locking, self.patience.max(LOCK_PATIENCE)),
            BatchPurchaseState::Waiting => (&mut self.waiting, self.patience),
            _ => return None,
        };
        Some(*kept.get_or_insert(now.checked_add(patience).unwrap_or(now)))
    }
}

/// What came of an order, if something has.
fn outcome(purchase: &BatchPurchase) -> Option<Result<(), BuyError>> {
    let order = purchase.id;
    Some(match &purchase.state {
        BatchPurchaseState::Receiving
        | BatchPurchaseState::Received
        | BatchPurchaseState::Locking
        | BatchPurchaseState::Waiting
        | BatchPurchaseState::Revealed { .. } => return None,
        BatchPurchaseState::Complete => Ok(()),
        BatchPurchaseState::Dropped => Err(BuyError::GivenUp { order, taken_back: true }),
        BatchPurchaseState::TakingBack { refusal } | BatchPurchaseState::TakenBack { refusal } => {
            let taken_back = matches!(purchase.state, BatchPurchaseState::TakenBack { .. });
            Err(match refusal.clone() {
                Some(refusal) => BuyError::PaymentRefused { order, refusal, taken_back },
                None => BuyError::GivenUp { order, taken_back },
            })
        }
        BatchPurchaseState::Refunding { .. } => Err(BuyError::KeyNotShown { order, refunded: false }),
        BatchPurchaseState::Refunded => Err(BuyError::KeyNotShown { order, refunded: true }),
        BatchPurchaseState::Cheated { proof } => {
            Err(BuyError::Cheated { order, part: proof.part.part.index })
        }
        BatchPurchaseState::Unreadable { claim } => {
            let txid =
                sensora_chain::Transaction::from_bytes(claim).map(|claim| claim.txid()).unwrap_or_default();
            Err(BuyError::Unreadable { order, txid })
        }
    })
}

impl Buyer {
    /// Receives, pays, waits and opens until the order is complete (`true`), the key is not shown within the patience (`false`), or it cannot
    /// go on.
    pub(in crate::buyer) async fn drive_release(
        &self,
        id: &OrderId,
        patience: Duration,
        progress: &mut impl FnMut(Progress),
    ) -> Result<bool, BuyError> {
        let _turn = self.turns.take(id).await;
        let mut deadline = Deadline::after(patience);
        let (mut attempt, mut bad, mut pause) = (0_u32, 0_u32, FIRST_PAUSE);
        loop {
            // Another task, or the chain, may have brought it further.
            self.look_at_release(id, None, progress).await?;
            let purchase = self.release_purchase(id)?;
            if let Some(outcome) = outcome(&purchase) {
                return outcome.map(|()| true);
            }
            let before = purchase.arrivals.next;
            let broken = match Box::pin(self.release_stream(id, &mut deadline, progress)).await {
                Ok(()) => continue,
                Err(broken) => broken,
            };
            let purchase = self.release_purchase(id)?;
            if purchase.arrivals.next > before {
                // A seller that goes on has all its patience again.
                (attempt, pause) = (0, FIRST_PAUSE);
            }
            attempt = attempt.saturating_add(1);
            // What the network has is decided on the chain, with or without the seller.
            let has_coin = purchase.state == BatchPurchaseState::Waiting;
            let is_paid = has_coin || purchase.state == BatchPurchaseState::Locking;
            match broken {
                Broken::Patience => return Ok(false),
                Broken::Failed(error) => return Err(error),
                Broken::Bad(error) => {
                    bad = bad.saturating_add(1);
                    if bad > BAD_DELIVERIES {
                        if let Some(peer) = peer_id_from_public_key(&purchase.seller.to_bytes()) {
                            self.inner.net.report(peer, Offence::InvalidProof).await;
                        }
                        return Err(error);
                    }
                    tracing::warn!(order = %id, %error, "encrypted parts do not verify, asking again");
                }
                Broken::Silent(reason) if has_coin => {
                    progress(Progress::Waiting { reason });
                    self.wait_on_chain(id, &mut deadline, progress).await?;
                }
                Broken::Stream(_) | Broken::Later(..) | Broken::Silent(_)
                    if attempt >= ATTEMPTS && has_coin =>
                {
                    self.wait_on_chain(id, &mut deadline, progress).await?;
                }
                Broken::Stream(_) | Broken::Later(..) | Broken::Silent(_)
                    if attempt >= ATTEMPTS && is_paid =>
                {
                    return Ok(false);
                }
                Broken::Stream(source) => {
                    if attempt >= ATTEMPTS {
                        return Err(BuyError::Stream { order: *id, source: Box::new(source) });
                    }
                    tracing::debug!(order = %id, error = %source, "a stream ended, opening another");
                    match peer_id_from_public_key(&purchase.seller.to_bytes()) {
                        Some(peer) => self.inner.net.rest(peer, pause).await,
                        None => tokio::time::sleep(pause).await,
                    }
                    pause = pause.saturating_mul(2);
                }
                Broken::Later(reason, retry_ms) => {
                    if attempt >= ATTEMPTS {
                        return Err(BuyError::NotComplete { order: *id, state: "waiting for the seller" });
                    }
                    progress(Progress::Waiting { reason });
                    tokio::time::sleep(Duration::from_millis(retry_ms)).await;
                }
                Broken::Silent(reason) => {
                    progress(Progress::Waiting { reason });
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2);
                }
            }
        }
    }

    /// One stream of an order, until the order has an outcome or the stream ends.
    async fn release_stream(
        &self,
        id: &OrderId,
        deadline: &mut Deadline,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), Broken> {
        let BuyerParts { net, discovery, chain, .. } = &*self.inner;
        let purchase = self.release_purchase(id)?;
        let parts = self.release_terms(&purchase)?.parts;
        let peer = peer_id_from_public_key(&purchase.seller.to_bytes());
        let peer = peer.ok_or(BuyError::Unexpected { asked: "peer id", got: "no key" })?;
        let addresses = discovery.addresses(&purchase.seller);
        let mut stream = net.open_stream(StreamKind::Release, peer, addresses, OPEN_TIMEOUT).await?;
        stream.limit_frames(MAX_TO_BUYER_LEN);
        let (mut sender, mut receiver) = stream.split();
        self.carry_out_release(id, purchase.resume(), Some(&mut sender), None, progress).await?;
        let mut tips = chain.tip_watch();
        let every = |period| {
            let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut looks, mut alive) = (every(LOOK_EVERY), every(ALIVE_EVERY));
        let mut shown = (purchase.state.name(), purchase.arrivals.next);
        loop {
            let purchase = self.release_purchase(id)?;
            if outcome(&purchase).is_some() {
                self.await_receipt(&purchase, &mut sender, &mut receiver).await;
                drop(sender.finish().await);
                return Ok(());
            }
            let now = (purchase.state.name(), purchase.arrivals.next);
            if now != shown {
                show(&purchase, parts, progress);
                shown = now;
            }
            let until = deadline.of(&purchase.state);
            let (is_waiting, end) = (until.is_some(), deadline.end);
            let patience = async move {
                match until.into_iter().chain(end).min() {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                bytes = receiver.next(PATIENCE) => match bytes {
                    Ok(Some(bytes)) => self.release_frame(id, &bytes, &mut sender, progress).await?,
                    Ok(None) => return Err(Broken::Later("the seller has ended the stream".into(), 500)),
                    // While a coin becomes firm there is nothing to say.
                    Err(DeliveryError::Idle { .. }) if is_waiting => {}
                    Err(error) => return Err(error.into()),
                },
                changed = tips.changed(), if is_waiting => {
                    if changed.is_err() {
                        return Err(DeliveryError::Stopped.into());
                    }
                    self.look_at_release(id, Some(&mut sender), progress).await?;
                }
                _ = looks.tick(), if is_waiting => {
                    self.look_at_release(id, Some(&mut sender), progress).await?;
                }
                _ = alive.tick() => {
                    let bytes = ToSeller::Alive.to_bytes().map_err(BuyError::from)?;
                    sender.send(Bytes::from(bytes)).await?;
                }
                () = patience => return Err(Broken::Patience),
            }
        }
    }

    /// The key may be on the chain a moment before the seller says so, and its receipt comes with its word. Nothing depends on it.
    async fn await_receipt(
        &self,
        purchase: &BatchPurchase,
        sender: &mut DeliverySender,
        receiver: &mut DeliveryReceiver,
    ) {
        if purchase.state != BatchPurchaseState::Complete || purchase.receipt.is_some() {
            return;
        }
        let id = purchase.id;
        let until = Instant::now() + RECEIPT_PATIENCE;
        let heard = async {
            while self.release_purchase(&id).is_ok_and(|purchase| purchase.receipt.is_none()) {
                let Ok(Some(bytes)) = receiver.next(RECEIPT_PATIENCE).await else { return };
                if self.release_frame(&id, &bytes, sender, &mut |_| {}).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout_at(until, heard).await.is_err() {
            tracing::debug!(order = %id, "the seller sends no receipt");
        }
    }

    /// Takes a frame of the seller's.
    async fn release_frame(
        &self,
        id: &OrderId,
        bytes: &[u8],
        sender: &mut DeliverySender,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), Broken> {
        let Ok(frame) = ToBuyer::from_bytes(bytes) else {
            self.inner.net.report(sender.peer(), Offence::Malformed).await;
            return Err(Broken::Later("the seller sent what is no frame".into(), 500));
        };
        let says_locked = matches!(frame, ToBuyer::Locked { .. });
        let actions = match self.release_event(id, BuyEvent::Frame(Box::new(frame)), None).await {
            Ok(actions) => actions,
            Err(BuyError::Release { order, source }) => return Err(self.release_fault(order, *source).await),
            Err(error) => return Err(error.into()),
        };
        let then = self.carry_out_release(id, actions, Some(sender), None, progress).await?;
        if says_locked {
            // It is the seller's word; the chain says whether it is true.
            self.look_at_release(id, Some(sender), progress).await?;
        }
        match then.wait {
            Some((retry_ms, refusal)) => Err(Broken::Later(refusal.to_string(), retry_ms)),
            None => Ok(()),
        }
    }

    /// What follows from a frame that does not fit.
    async fn release_fault(&self, order: OrderId, fault: Fault) -> Broken {
        match fault {
            Fault::Refused(refusal) => self.release_refused(order, refusal).await,
            Fault::Part(_) | Fault::Coin { .. } => {
                Broken::Bad(BuyError::Release { order, source: Box::new(fault) })
            }
            Fault::NoKey | Fault::Unexpected { .. } => Broken::Silent(fault.to_string()),
            // The other coin pays; ours goes back, unless the network has it.
            Fault::OtherCoin { .. } => match self.give_up_quietly(&order).await {
                Ok(()) => Broken::Later(fault.to_string(), 500),
                Err(error) => Broken::Failed(error),
            },
            fault => Broken::Failed(BuyError::Release { order, source: Box::new(fault) }),
        }
    }

    /// The seller refuses for good: what is not paid is given up, what the network has is decided on the chain.
    async fn release_refused(&self, order: OrderId, refusal: Refusal) -> Broken {
        let state = match self.release_purchase(&order) {
            Ok(purchase) => purchase.state,
            Err(error) => return Broken::Failed(error),
        };
        match state {
            BatchPurchaseState::Receiving | BatchPurchaseState::Received => {
                match self.give_up_quietly(&order).await {
                    Ok(()) => Broken::Failed(BuyError::Refused(refusal)),
                    Err(error) => Broken::Failed(error),
                }
            }
            _ => Broken::Silent(refusal.to_string()),
        }
    }

    async fn give_up_quietly(&self, id: &OrderId) -> Result<(), BuyError> {
        let actions = self.release_event(id, BuyEvent::GiveUp, None).await?;
        match self.carry_out_release(id, actions, None, None, &mut |_| {}).await {
            Ok(_) | Err(Stopped::Stream(_)) => Ok(()),
            Err(Stopped::Failed(error)) => Err(error),
        }
    }

    /// Gives an order up of which the network has no coin: what was signed is taken back. An order whose coin is out waits for its key or its
    /// refund height, whatever anybody wants.
    ///
    /// # Errors
    /// [`BuyError::GivenUp`] with how far that has come, which is the good end where a coin was signed; [`BuyError::KeyAwaited`] where the network
    /// has it.
    pub async fn give_up_release(&self, id: &OrderId) -> Result<(), BuyError> {
        self.give_up_quietly(id).await?;
        let purchase = self.release_purchase(id)?;
        match (&purchase.state, outcome(&purchase)) {
            (BatchPurchaseState::Dropped, _) => Ok(()),
            (_, Some(outcome)) => outcome,
            (BatchPurchaseState::Revealed { .. }, None) => {
                Err(BuyError::NotComplete { order: *id, state: purchase.state.name() })
            }
            (_, None) => Err(BuyError::KeyAwaited { order: *id }),
        }
    }

    /// Waits for the key without the seller.
    async fn wait_on_chain(
        &self,
        id: &OrderId,
        deadline: &mut Deadline,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), BuyError> {
        let mut tips = self.inner.chain.tip_watch();
        loop {
            self.look_at_release(id, None, progress).await?;
            let state = self.release_purchase(id)?.state;
            let Some(until) = deadline.of(&state).filter(|until| *until > Instant::now()) else {
                return Ok(());
            };
            tokio::select! {
                changed = tips.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = tokio::time::sleep_until(until) => return Ok(()),
            }
        }
    }

    /// Brings what the seller has not heard to it, if nobody else speaks with it: a coin that the network does not have, or a question for a
    /// part that was damaged here.
    pub(super) async fn remind_seller(&self, id: &OrderId) -> Result<(), BuyError> {
        let Some(_turn) = self.turns.try_take(id) else { return Ok(()) };
        let mut deadline = Deadline::within(Duration::ZERO, REMIND_FOR);
        match Box::pin(self.release_stream(id, &mut deadline, &mut |_| {})).await {
            Ok(()) | Err(Broken::Patience) => Ok(()),
            Err(Broken::Failed(error) | Broken::Bad(error)) => Err(error),
            Err(Broken::Stream(source)) => Err(BuyError::Stream { order: *id, source: Box::new(source) }),
            Err(Broken::Later(reason, _) | Broken::Silent(reason)) => {
                tracing::debug!(order = %id, %reason, "the seller of a batch does not go on");
                Ok(())
            }
        }
    }
}

fn show(purchase: &BatchPurchase, parts: u32, progress: &mut impl FnMut(Progress)) {
    match (&purchase.state, &purchase.coin) {
        (BatchPurchaseState::Receiving | BatchPurchaseState::Received, _) => {
            let reason = format!("{} of {parts} encrypted parts are here", purchase.arrivals.next);
            progress(Progress::Waiting { reason });
        }
        (BatchPurchaseState::Locking, Some(coin)) => {
            progress(Progress::Paying { order: purchase.id, txid: coin.txid });
        }
        (BatchPurchaseState::Waiting, _) => {
            let reason = "the coin is out; the seller shows the key when it is firm".into();
            progress(Progress::Waiting { reason });
        }
        _ => {}
    }
}
