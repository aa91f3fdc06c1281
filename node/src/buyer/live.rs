//! Live streams: readings as they come, in one order, over any number of connections and restarts.
//!
//! ```text
//!  subscribe ──▶ a task of its own: receive, verify ──▶ keep ──▶ pay
//!                        ▲                     │          │
//!        pause, resume, stop              readings     store
//!                        │                     ▼          ▼
//!                    Subscription ◀──────── next: what is verified, or what is here
//! ```
//!
//! Whoever listens hears a reading as soon as it is verified: it does not wait for the disk, and nothing is paid for it before it is there. Whoever
//! is slow, or away, finds what it has missed in the store, so that next to nothing is held in memory for it. The protocol lets no reading be left
//! out: each page begins where the one before ended. Where the process is killed, what was heard last may not have come to the disk, and
//! comes once more; and what is on disk may not have been heard. A listener that must miss nothing notes the number it has come to, and rewinds to it.

mod fresh;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::ad::StreamAd;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::live::{LiveOffer, LiveQuestion};
use sensora_protocol::market::message::{Answer, LiveFrom, Request, Response};
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::price::{Metered, Price, Tariff};
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::stream::{Reading, Schema};
use sensora_protocol::{OrderId, Signed, StreamId};
use tokio::sync::{mpsc, watch};

use self::fresh::Fresh;
use super::proof::RUNS_AT_A_TIME;
use super::receive::{Command, Listener, Told};
use super::{BuyError, Buyer, BuyerParts, unexpected};
use crate::store::bought::{self, BoughtStream};
use crate::store::channels::{self as records, Wants};

/// Commands that wait: a person's, who presses a key at a time.
const MAX_COMMANDS: usize = 8;
/// How soon the seller is asked again whether an anchor covers more.
const SOONEST_UPGRADE: Duration = Duration::from_secs(1);
/// How late at most, whatever it says.
const LATEST_UPGRADE: Duration = Duration::from_secs(600);
/// How often it is asked where it says nothing.
const UPGRADE_EVERY: Duration = Duration::from_secs(30);

/// A live stream to subscribe to.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscribeRequest {
    /// From whom.
    pub seller: PublicKey,
    /// Which stream.
    pub stream: StreamId,
    /// From where on. Readings that are here already are not bought again, where they are the first of it.
    pub from: LiveFrom,
    /// The most that it may cost in all. So much of a channel is reserved for it.
    pub budget: Satoshis,
    /// Most that may be paid ahead, over all orders with the seller.
    pub exposure: Satoshis,
    /// The seller's ad of the stream: no offer dearer than it is taken.
    pub ad: Option<StreamAd>,
    /// What is paid for: readings, or seconds.
    pub by: Metered,
    /// Most that a reading may cost, beside what the ad says.
    pub max_reading: Option<Price>,
    /// Most that a second may cost. Needed where the ad does not say how often there is a reading.
    pub max_second: Option<Price>,
    /// It ends when so many readings are here. Those that are paid ahead may come on top.
    pub readings: Option<u64>,
    /// It ends at this time, milliseconds since the Unix epoch.
    pub until_ms: Option<i64>,
}

/// How a live stream stands.
#[derive(Debug, Clone)]
pub struct LiveStatus {
    /// First sequence number of the order.
    pub first: u64,
    /// Next sequence number that is missing on disk. Events may be ahead of it by what is on its way there.
    pub next: u64,
    /// What the order has paid.
    pub paid: Satoshis,
    /// The most that it may pay.
    pub budget: Satoshis,
    /// The readings before this one stand under an anchor, and how firmly.
    pub anchored: Option<(u64, Standing)>,
    /// Whether readings are not wanted for now.
    pub is_paused: bool,
    /// Why nothing comes just now.
    pub waits: Option<String>,
    /// What came of it, once it has ended.
    pub ended: Option<Result<Signed<ChannelReceipt>, Arc<BuyError>>>,
}

/// Readings that have come: verified, and proven under the seller's signed checkpoint. They are on disk, or on their way there.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveBatch {
    /// The readings, in order and without holes: at least one.
    pub readings: Vec<Reading>,
    /// How firmly they stand now.
    pub standing: Standing,
    /// What the order has paid.
    pub paid: Satoshis,
}

/// What happens on a live stream.
#[derive(Debug, Clone)]
pub enum LiveEvent {
    /// Readings of the stream that are older than this order, and not here: they were measured between the last one that is here and the first
    /// of the order. They can be bought as a range.
    Gap {
        /// First sequence number that is missing.
        first: u64,
        /// Sequence number after the last one.
        end: u64,
    },
    /// Readings have come.
    Readings(LiveBatch),
    /// The readings of the order before `end` stand more firmly.
    Standing {
        /// Sequence number after the last of them.
        end: u64,
        /// How firmly.
        standing: Standing,
    },
    /// Nothing comes just now; it is tried again.
    Waiting {
        /// Why.
        reason: String,
    },
    /// It has ended, with the seller's receipt or for this reason. The last event.
    Ended(Result<Signed<ChannelReceipt>, Arc<BuyError>>),
}

/// A live stream under way. Dropping it leaves the order as it is: subscribing again goes on with it, and [`Buyer::resume`] ends it.
#[must_use = "dropping a subscription ends the delivery"]
#[derive(Debug)]
pub struct Subscription {
    buyer: Buyer,
    order: OrderId,
    stream: StreamId,
    schema: Schema,
    status: watch::Receiver<LiveStatus>,
    commands: mpsc::Sender<Command>,
    gap: Option<(u64, u64)>,
    fresh: Arc<Mutex<Fresh>>,
    /// Next reading to show.
    next: u64,
    /// What was shown last.
    shown: Shown,
}

#[derive(Debug, Default)]
struct Shown {
    anchored: Option<(u64, Standing)>,
    waits: Option<String>,
    ended: bool,
}

impl std::fmt::Debug for Buyer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buyer").finish_non_exhaustive()
    }
}

impl Buyer {
    /// Subscribes to a stream as it comes: what is there of it from `from` on comes first, and then each reading, in one order that is paid
    /// through an open channel with the seller. What is here already is shown out of the store, and not bought again. Where a live order of the
    /// stream is under way and nobody listens to it, it is gone on with, on its own terms, from its first missing reading on; see
    /// [`Subscription::rewind`].
    ///
    /// # Errors
    /// [`BuyError::NoChannel`] where no channel with the seller has the budget left; [`BuyError::Busy`] where somebody listens to the stream
    /// already; the others as for [`Buyer::buy`].
    pub async fn subscribe(&self, request: &SubscribeRequest) -> Result<Subscription, BuyError> {
        let SubscribeRequest { stream, .. } = request;
        loop {
            let deciding = self.streams.lock(stream).await;
            if let Some(purchase) = self.live_order(stream)? {
                drop(deciding);
                return self.listen(purchase, None, None);
            }
            let (offer, first, from) = self.live_offer(request).await?;
            if let Some(open) = self.open_order(stream, first, u64::MAX)? {
                drop(deciding);
                self.go_on_with(&open, &mut |_| {}).await?;
                continue;
            }
            self.none_may_return(stream, first, u64::MAX)?;
            let terms = offer.value();
            let kept = self.inner.store.read(|tx| bought::last_before(tx, stream, first))?;
            let gap = kept.filter(|end| *end < first).map(|end| (end, first));
            let bought = BoughtStream {
                id: terms.stream,
                seller: *offer.key(),
                name: terms.name.clone(),
                schema: terms.schema.clone(),
                licence: terms.licence.clone(),
            };
            // So many readings cost no more than this; what is not needed stays free for other orders.
            let most = match (terms.tariff, request.readings) {
                (Tariff::Reading(price), Some(readings)) => price.due(readings).map_err(OfferError::from)?,
                _ => request.budget,
            };
            let wants =
                Wants { exposure: request.exposure, readings: request.readings, until_ms: request.until_ms };
            let offered = Offered::Live(offer.bytes().clone());
            let budget = request.budget.min(most);
            let purchase = self.order_through_channel(offered, bought, budget, wants, Some(deciding)).await?;
            return self.listen(purchase, gap, Some(from));
        }
    }

    /// Goes on with a live order, from its first missing reading on.
    ///
    /// # Errors
    /// [`BuyError::UnknownOrder`]; [`BuyError::Busy`] where somebody listens to it already.
    pub fn subscribe_again(&self, order: &OrderId) -> Result<Subscription, BuyError> {
        self.listen(self.channel_purchase(order)?, None, None)
    }

    /// The live order of a stream that is under way.
    fn live_order(&self, stream: &StreamId) -> Result<Option<ChannelPurchase>, BuyError> {
        for purchase in self.inner.store.read(records::open_purchases)? {
            let terms = purchase.offer.terms(self.inner.network, &purchase.seller)?;
            if matches!(purchase.offer, Offered::Live(_)) && &terms.stream == stream {
                return Ok(Some(purchase));
            }
        }
        Ok(None)
    }

    /// An offer that was accepted, from the first reading on that is not here, and which reading that is; and the first that was asked for: those between
    /// are here.
    async fn live_offer(
        &self,
        request: &SubscribeRequest,
    ) -> Result<(Signed<LiveOffer>, u64, u64), BuyError> {
        let SubscribeRequest { seller, stream, ad, by, max_reading, max_second, .. } = request;
        let (by, max_reading, max_second) = (*by, *max_reading, *max_second);
        let BuyerParts { identity, network, clock, store, .. } = &*self.inner;
        let (mut from, mut asked_for) = (request.from, None);
        loop {
            let question = Request::QuoteLive { stream: *stream, from, by };
            let offer = match self.ask(seller, &question).await? {
                Response::Ok(Answer::LiveOffer(offer)) => offer.verify_by::<LiveOffer>(*network, seller)?,
                other => return Err(unexpected(&question, other)),
            };
            let known_size = store.read(|tx| bought::last_before(tx, stream, u64::MAX))?.unwrap_or(0);
            let asked = LiveQuestion { stream: *stream, from, known_size, max_reading, max_second };
            let now_ms = clock.now_ms();
            LiveOffer::accept(&offer, *network, identity.public(), &asked, ad.as_ref(), now_ms)?;
            let is_by = match offer.value().tariff {
                Tariff::Reading(_) => Metered::Reading,
                Tariff::Second { .. } => Metered::Second,
            };
            if is_by != by {
                return Err(BuyError::Unexpected { asked: "another tariff", got: "a live offer" });
            }
            let first = offer.value().first;
            asked_for = asked_for.or(Some(first));
            let missing = store.read(|tx| bought::missing(tx, stream, first, u64::MAX))?;
            match missing.first() {
                Some((begins, _)) if *begins > first => from = LiveFrom::Seq(*begins),
                _ => return Ok((offer, first, asked_for.unwrap_or(first))),
            }
        }
    }

    /// Begins to receive a live order, and shows it from `from` on, or else from its first missing reading on.
    fn listen(
        &self,
        purchase: ChannelPurchase,
        gap: Option<(u64, u64)>,
        from: Option<u64>,
    ) -> Result<Subscription, BuyError> {
        let BuyerParts { network, store, .. } = &*self.inner;
        let terms = purchase.offer.terms(*network, &purchase.seller)?;
        if !matches!(purchase.offer, Offered::Live(_)) {
            return Err(BuyError::NotComplete { order: purchase.id, state: "no live stream" });
        }
        // Taken again by the task: whoever comes between the two waits for it.
        if !purchase.is_final() && self.turns.try_take(&purchase.id).is_none() {
            return Err(BuyError::Busy { order: purchase.id });
        }
        let proof = store.read(|tx| records::live_proof(tx, &purchase.id))?;
        let anchored = proof.and_then(|proof| proof.anchored);
        let anchored = anchored.and_then(|end| Some((end, self.standing_to(&purchase.id).ok()??.1)));
        let (status, watching) = watch::channel(LiveStatus {
            first: terms.first,
            next: purchase.next,
            paid: self.summary_on_channel(&purchase)?.paid,
            budget: purchase.budget,
            anchored,
            is_paused: false,
            waits: None,
            ended: None,
        });
        let (commands, wanted) = mpsc::channel(MAX_COMMANDS);
        let next = from.unwrap_or(purchase.next).min(purchase.next);
        let fresh = Arc::<Mutex<Fresh>>::default();
        let task = Driven { status, fresh: fresh.clone(), commands: wanted };
        let (buyer, order) = (self.clone(), purchase.id);
        tokio::spawn(async move { Box::pin(buyer.drive_live(order, task)).await });
        Ok(Subscription {
            buyer: self.clone(),
            order: purchase.id,
            stream: terms.stream,
            schema: terms.schema,
            status: watching,
            commands,
            gap,
            fresh,
            next,
            shown: Shown { anchored, ..Shown::default() },
        })
    }

    async fn drive_live(&self, order: OrderId, mut task: Driven) {
        let status = task.status.clone();
        let received = tokio::select! {
            received = self.receive(&order, false, &mut task) => received,
            () = self.keep_anchoring(&order, &status) => return,
        };
        let network = self.inner.network;
        let ended = received.and_then(|purchase| match &purchase.state {
            ChannelPurchaseState::Ended { receipt, .. } => {
                Ok((purchase.next, receipt.clone().verify_by::<ChannelReceipt>(network, &purchase.seller)?))
            }
            state => Err(BuyError::NotComplete { order, state: state.name() }),
        });
        if let Err(error) = &ended {
            tracing::debug!(%order, %error, "a live stream has ended");
        }
        let next = match &ended {
            Ok((next, _)) => Some(*next),
            // What was verified before the error was kept.
            Err(_) => self.channel_purchase(&order).ok().map(|purchase| purchase.next),
        };
        status.send_modify(|status| {
            status.next = next.unwrap_or(status.next);
            if let Ok((_, receipt)) = &ended {
                status.paid = receipt.value().paid;
            }
            status.waits = None;
            status.ended = Some(ended.map(|(_, receipt)| receipt).map_err(Arc::new));
        });
    }

    /// Asks the seller, as its anchors appear, for the proofs of what is here.
    async fn keep_anchoring(&self, order: &OrderId, status: &watch::Sender<LiveStatus>) {
        // There is nothing to ask for before the first reading is here.
        if status.subscribe().wait_for(|status| status.next > status.first).await.is_err() {
            return;
        }
        loop {
            let due = match self.upgrade_or_due(order).await {
                Ok((_, due)) => {
                    if let Ok(Some(anchored)) = self.standing_to(order) {
                        status.send_if_modified(|status| {
                            let is_more = status.anchored.as_ref() != Some(&anchored);
                            status.anchored = Some(anchored);
                            is_more
                        });
                    }
                    due.map(|due| Duration::from_millis(due.due_ms))
                }
                Err(error) => {
                    tracing::debug!(%order, %error, "the anchor of a live stream could not be asked for");
                    None
                }
            };
            let pause = due.unwrap_or(UPGRADE_EVERY).clamp(SOONEST_UPGRADE, LATEST_UPGRADE);
            tokio::time::sleep(pause).await;
        }
    }
}

fn lock(fresh: &Mutex<Fresh>) -> MutexGuard<'_, Fresh> {
    fresh.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The other end of a [`Subscription`].
struct Driven {
    status: watch::Sender<LiveStatus>,
    fresh: Arc<Mutex<Fresh>>,
    commands: mpsc::Receiver<Command>,
}

impl Listener for Driven {
    fn tell(&mut self, told: Told<'_>) {
        self.status.send_if_modified(|status| {
            let before = (status.next, status.paid, status.is_paused, status.waits.is_some());
            match told {
                Told::Verified(readings) => {
                    lock(&self.fresh).put(readings);
                    status.waits = None;
                    return true;
                }
                Told::Waits(reason) => {
                    let is_new = status.waits.as_deref() != Some(reason);
                    status.waits = Some(reason.to_owned());
                    return is_new;
                }
                Told::Stands { purchase, paid, paused, .. } => {
                    (status.next, status.is_paused, status.waits) = (purchase.next, paused, None);
                    status.paid = status.paid.max(paid);
                }
            }
            before != (status.next, status.paid, status.is_paused, status.waits.is_some())
        });
    }

    async fn command(&mut self) -> Command {
        self.commands.recv().await.unwrap_or(Command::Leave)
    }

    fn is_patient(&self) -> bool {
        true
    }

    fn wants_readings(&self) -> bool {
        true
    }
}

impl Subscription {
    /// The order.
    #[must_use]
    pub const fn order(&self) -> OrderId {
        self.order
    }

    /// The schema of its readings.
    #[must_use]
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> LiveStatus {
        self.status.borrow().clone()
    }

    /// Shows readings from this one on again, also those of before a restart, and those of before the order if all of them are here. Returns from which
    /// reading on.
    ///
    /// # Errors
    /// [`BuyError`] where the store cannot be read.
    pub fn rewind(&mut self, to: u64) -> Result<u64, BuyError> {
        let status = self.status.borrow();
        let (stream, store) = (&self.stream, &self.buyer.inner.store);
        let missing = store.read(|tx| bought::missing(tx, stream, to, status.first))?;
        let first = if missing.is_empty() { to.min(status.first) } else { status.first };
        // What was shown last may be ahead of what is on disk.
        self.next = to.clamp(first, status.next.max(self.next));
        self.shown.anchored = None;
        Ok(self.next)
    }

    /// No readings for now.
    pub async fn pause(&self) {
        self.want(Command::Pause).await;
    }

    /// Readings again.
    pub async fn resume(&self) {
        self.want(Command::Resume).await;
    }

    /// No more readings: what was sent is paid, and the order ends with its receipt. The events before the end still come.
    pub async fn stop(&self) {
        self.want(Command::Stop).await;
    }

    async fn want(&self, command: Command) {
        // A stream that has ended wants nothing more.
        let _ = self.commands.send(command).await;
    }

    /// The next thing that happens; `None` after [`LiveEvent::Ended`]. Safe to cancel.
    ///
    /// # Errors
    /// [`BuyError`] where the store cannot be read. The stream goes on.
    pub async fn next(&mut self) -> Result<Option<LiveEvent>, BuyError> {
        if let Some((first, end)) = self.gap.take() {
            return Ok(Some(LiveEvent::Gap { first, end }));
        }
        loop {
            let status = self.status.borrow_and_update().clone();
            let fresh = lock(&self.fresh).take(self.next);
            if let Some(readings) = fresh {
                return Ok(Some(self.batch(readings, &status)?));
            }
            if self.next < status.next {
                return self.kept(&status).await.map(Some);
            }
            if status.anchored != self.shown.anchored {
                self.shown.anchored = status.anchored;
                if let Some((end, standing)) = status.anchored {
                    return Ok(Some(LiveEvent::Standing { end, standing }));
                }
            }
            if status.waits != self.shown.waits {
                self.shown.waits.clone_from(&status.waits);
                if let Some(reason) = status.waits {
                    return Ok(Some(LiveEvent::Waiting { reason }));
                }
            }
            if let Some(ended) = status.ended {
                let is_new = !std::mem::replace(&mut self.shown.ended, true);
                return Ok(is_new.then_some(LiveEvent::Ended(ended)));
            }
            if self.status.changed().await.is_err() && self.status.borrow().ended.is_none() {
                // The task went with its node.
                let is_new = !std::mem::replace(&mut self.shown.ended, true);
                return Ok(is_new.then(|| LiveEvent::Ended(Err(Arc::new(BuyError::Stopping)))));
            }
        }
    }

    /// What is on disk of what is next.
    async fn kept(&mut self, status: &LiveStatus) -> Result<LiveEvent, BuyError> {
        let (stream, schema) = (self.stream, self.schema.clone());
        // What is here of before the order has a proof of its own.
        let (first, end) = (self.next, if self.next < status.first { status.first } else { status.next });
        let readings = self
            .buyer
            .blocking(move |buyer| buyer.readings(&stream, &schema, first, end, RUNS_AT_A_TIME))
            .await?;
        self.batch(readings, status)
    }

    fn batch(&mut self, readings: Vec<Reading>, status: &LiveStatus) -> Result<LiveEvent, BuyError> {
        // What the status says is here is on disk.
        let order = self.order;
        let last = readings.last().ok_or(BuyError::NotComplete { order, state: "damaged" })?.seq;
        self.next = last.saturating_add(1);
        let standing = match &status.anchored {
            Some((end, standing)) if self.next <= *end && self.next > status.first => *standing,
            _ => Standing::Signed,
        };
        Ok(LiveEvent::Readings(LiveBatch { readings, standing, paid: status.paid }))
    }

    /// Waits until it has ended, for who does not want to see what comes.
    ///
    /// # Errors
    /// Why it has ended without a receipt.
    pub async fn ended(&mut self) -> Result<Signed<ChannelReceipt>, Arc<BuyError>> {
        match self.status.wait_for(|status| status.ended.is_some()).await {
            Ok(status) => status.ended.clone().unwrap_or_else(|| Err(Arc::new(BuyError::Stopping))),
            Err(_) => Err(Arc::new(BuyError::Stopping)),
        }
    }
}
