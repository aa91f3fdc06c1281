//! Delivery over `/sensora/delivery/1`: one stream for each order that is paid through a channel.
//!
//! What may go out is decided by [`sensora_protocol::market::delivery::supply`]; this room reads frames, stores vouchers and grants before
//! anything follows from them, reads pages from the log, and sends them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::delivery::frame::{Begin, MAX_TO_SELLER_LEN, OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::supply::{
    ChannelSale, Supply, SupplyAction, SupplyAdmission, SupplyEvent,
};
use sensora_protocol::market::delivery::trail::LivePages;
use sensora_protocol::market::exposure::Interval;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{OrderId, Signed};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::channels::{Entry, Live, ToOrders};
use super::{Seller, SellerParts, failed, storage};
use crate::net::{DeliveryError, DeliveryReceiver, DeliverySender, DeliveryStream, Offence};
use crate::stakes::{AllStakes, SharedStakes};
use crate::store::{StoreError, channels as records};

/// How long a buyer may say nothing. It says `alive` where it has nothing to pay.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How often the buyer hears that we are here, where there is nothing to send: well within its own patience of 60 seconds.
const ALIVE_EVERY: Duration = Duration::from_secs(20);

/// What the seller lets stand open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// With one buyer, over all its orders.
    pub limit: Satoshis,
    /// In the beginning of an order.
    pub first: Satoshis,
}

impl Default for Credit {
    /// 200 sat, beginning with one: a tenth of a US cent at most, for each buyer that has put money into a channel.
    fn default() -> Self {
        Self { limit: Satoshis::from_sat(200), first: Satoshis::from_sat(1) }
    }
}

/// Deliveries under way.
pub(super) struct Supplies {
    credit: Credit,
    /// What is open with each buyer.
    stakes: AllStakes,
    /// Orders with a stream.
    running: Mutex<BTreeMap<OrderId, Running>>,
}

/// The streams of one order: one is served, and those that come after it wait until it has ended.
#[derive(Clone)]
struct Running {
    /// Ends the one that is served when the buyer comes with another.
    cancel: CancellationToken,
    /// Held by the one that is served: what it stores must not come after what the next one stores.
    served: Arc<tokio::sync::Mutex<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supplies {
    pub(super) fn new(credit: Credit) -> Self {
        Self { credit, stakes: AllStakes::default(), running: Mutex::default() }
    }

    /// What is open with a buyer: from before a restart, too.
    fn stakes_of(&self, buyer: &PublicKey) -> Arc<SharedStakes> {
        let Ok(stakes) = self.stakes.of(buyer, || Ok::<_, Infallible>(SharedStakes::new(self.credit.limit)));
        stakes
    }

    /// Counts what orders of before a restart leave open.
    pub(super) fn note(&self, sale: &ChannelSale, paid: Satoshis) {
        self.stakes_of(&sale.buyer).change(|stakes| stakes.note(sale.order, sale.open(paid)));
    }
}

/// Why a delivery ended before its order did.
enum Ended {
    /// The stream did.
    Stream(DeliveryError),
    /// The buyer has gone, or came with another stream for the same order.
    Gone,
    /// The buyer is told why.
    Refused(Refusal),
}

impl From<DeliveryError> for Ended {
    fn from(error: DeliveryError) -> Self {
        Self::Stream(error)
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// One delivery: the state machine and what it stands on.
struct Session {
    seller: Seller,
    /// The channel; none where the order has ended and its channel is settled. Its receipt is shown all the same.
    live: Option<Arc<Live>>,
    stakes: Arc<SharedStakes>,
    supply: Supply,
    /// The voucher that the next stored step books.
    voucher: Option<OrderVoucher>,
    /// What of a live stream's proofs is said on this connection.
    pages: LivePages,
}

fn frame(frame: &ToBuyer) -> Result<Bytes, Refusal> {
    frame.to_bytes().map(Bytes::from).map_err(|error| failed(&error))
}

impl Seller {
    /// Serves one stream until its order has ended, or the stream has.
    pub async fn deliver(&self, buyer: PublicKey, mut stream: DeliveryStream, cancel: CancellationToken) {
        let peer = stream.peer();
        stream.limit_frames(MAX_TO_SELLER_LEN);
        let (mut sender, mut receiver) = stream.split();
        let first = cancel.run_until_cancelled(receiver.next(PATIENCE)).await;
        let Some(Ok(Some(bytes))) = first else { return };
        let Ok(ToSeller::Begin(begin)) = ToSeller::from_bytes(&bytes) else {
            self.inner.parts.net.report(peer, Offence::Malformed).await;
            return;
        };
        let outcome = match begin.order_id(self.inner.parts.network, &buyer) {
            Ok(id) => self.serve(buyer, id, *begin, (&mut sender, &mut receiver), &cancel).await,
            Err(refusal) => Err(Ended::Refused(refusal)),
        };
        match outcome {
            Ok(()) => drop(sender.finish().await),
            Err(Ended::Refused(refusal)) => {
                tracing::debug!(code = refusal.code(), %refusal, "a delivery is refused");
                if let Ok(bytes) = frame(&ToBuyer::Refused(refusal)) {
                    drop(sender.send(bytes).await);
                    drop(sender.finish().await);
                }
            }
            Err(Ended::Stream(error)) => tracing::debug!(%error, "a delivery was interrupted"),
            Err(Ended::Gone) => {}
        }
    }

    /// Serves an order on this stream alone: one that is served already for the same order ends first.
    async fn serve(
        &self,
        buyer: PublicKey,
        id: OrderId,
        begin: Begin,
        stream: (&mut DeliverySender, &mut DeliveryReceiver),
        cancel: &CancellationToken,
    ) -> Result<(), Ended> {
        let mine = cancel.child_token();
        let served = {
            let mut running = lock(&self.inner.supplies.running);
            let before = running.get(&id).cloned();
            if let Some(before) = &before {
                before.cancel.cancel();
            }
            let served = before.map_or_else(Arc::default, |before| before.served);
            running.insert(id, Running { cancel: mine.clone(), served: served.clone() });
            served
        };
        let guard = served.lock().await;
        let outcome = match mine.is_cancelled() {
            true => Err(Ended::Gone),
            false => match self.blocking(move |seller| seller.session(buyer, id, &begin)).await {
                Ok(mut session) => {
                    let served = session.serve(stream, &mine).await;
                    if served.is_err() {
                        self.note_stored(&buyer, id).await;
                    }
                    served
                }
                Err(refusal) => Err(Ended::Refused(refusal)),
            },
        };
        drop(guard);
        let mut running = lock(&self.inner.supplies.running);
        // Whoever came in the meantime has put its own in place.
        if !mine.is_cancelled() || cancel.is_cancelled() {
            running.remove(&id);
        }
        outcome
    }

    /// Counts what an order leaves open by what is on disk: the stream may have ended between a step and its storing.
    async fn note_stored(&self, buyer: &PublicKey, id: OrderId) {
        let buyer = *buyer;
        let noted = self.blocking(move |seller| {
            let SellerParts { store, channels, .. } = &seller.inner.parts;
            let stored = store.read(|tx| records::sale(tx, &id)).map_err(|error| storage(error.into()))?;
            match stored {
                Some(sale) => {
                    let live = channels.get(&buyer, &sale.channel);
                    let paid = live.map(|live| live.paid_by(&sale.order)).unwrap_or_default();
                    seller.inner.supplies.note(&sale, paid);
                }
                None => {
                    let stakes = seller.inner.supplies.stakes_of(&buyer);
                    stakes.change(|stakes| stakes.note(id, Satoshis::ZERO));
                }
            }
            Ok(())
        });
        drop(noted.await);
    }

    /// Ends the orders that are left when their channel takes no voucher any more, but for those that a stream serves: these hear of it themselves.
    pub(super) async fn leave_orders(&self) -> Result<(), StoreError> {
        let SellerParts { store, channels, .. } = &self.inner.parts;
        for mut sale in store.read(records::open_sales)? {
            let live = channels.get(&sale.buyer, &sale.channel).ok();
            let tip = channels.tip();
            let is_left = live.as_ref().is_none_or(|live| live.to_orders(tip) == Ok(ToOrders::Closed));
            if !is_left || lock(&self.inner.supplies.running).contains_key(&sale.order) {
                continue;
            }
            let paid = live.as_ref().map(|live| live.paid_by(&sale.order)).unwrap_or_default();
            let Some(paid) = sale.leave(paid) else { continue };
            let (order, buyer) = (sale.order, sale.buyer);
            match live {
                Some(live) => {
                    let entry = Entry { sale, voucher: None, ends: Some(paid) };
                    if let Err(refusal) = channels.book(&live, entry).await {
                        tracing::error!(%order, %refusal, "an order that is left could not be stored");
                        continue;
                    }
                }
                None => store.commit(move |tx| records::put_sale(tx, &sale)).await?,
            }
            self.inner.supplies.stakes_of(&buyer).change(|stakes| stakes.note(order, Satoshis::ZERO));
        }
        Ok(())
    }

    /// Finds or admits the order.
    fn session(&self, buyer: PublicKey, id: OrderId, begin: &Begin) -> Result<Session, Refusal> {
        let SellerParts { recorder, store, identity, network, clock, channels, .. } = &self.inner.parts;
        let live = channels.get(&buyer, &begin.channel);
        let stored = store.read(|tx| records::sale(tx, &id)).map_err(|error| storage(error.into()))?;
        let stored = stored.filter(|sale| sale.buyer == buyer);
        let (sale, terms, live) = match (stored, live) {
            (Some(sale), live) => {
                let terms = sale.go_on(begin, *network, identity)?;
                (sale, terms, live)
            }
            (None, live) => {
                let live = live?;
                let view = live.view(channels.tip())?;
                let now_ms = clock.now_ms();
                let at = SupplyAdmission {
                    seller: identity,
                    network: *network,
                    peer: &buyer,
                    channel: view,
                    now_ms,
                };
                let (sale, terms) = ChannelSale::admit(begin, &at)?;
                (sale, terms, Ok(live))
            }
        };
        let paid = match sale.finally_paid(*network) {
            Some(paid) => paid,
            // Its lane begins with the first stored step.
            None => live.clone()?.paid_by(&sale.order),
        };
        let credit = self.inner.supplies.credit;
        let unit = terms.unit().map_err(|error| failed(&error))?;
        let interval = Interval::new(credit.first, credit.limit, unit).unwrap_or(Interval::none());
        let size = match &terms.checkpoint {
            Some(checkpoint) => checkpoint.size,
            None => recorder.summary(&terms.stream).map_err(storage)?.size,
        };
        let stakes = self.inner.supplies.stakes_of(&buyer);
        let open = stakes.read(|stakes| stakes.open().amount());
        if open > credit.limit {
            return Err(Refusal::NotPaid { open, limit: credit.limit });
        }
        let supply = Supply::new(sale, terms, interval, paid, begin, size);
        let (seller, live, pages) = (self.clone(), live.ok(), LivePages::new());
        Ok(Session { seller, live, stakes, supply, voucher: None, pages })
    }
}

impl Session {
    /// Between two steps it can be told to end; a step that has begun is done to its end, for what it stores is stored.
    async fn serve(
        &mut self,
        (sender, receiver): (&mut DeliverySender, &mut DeliveryReceiver),
        cancel: &CancellationToken,
    ) -> Result<(), Ended> {
        let actions = self.step(|session, now_ms| {
            let SellerParts { identity, network, .. } = &session.seller.inner.parts;
            session.stakes.change(|stakes| session.supply.start(stakes, identity, *network, now_ms))
        })?;
        let is_live = self.supply.terms().end.is_none();
        let SellerParts { recorder, .. } = &self.seller.inner.parts;
        // From before the first look on: what is recorded in between is seen.
        let (mut grown, mut room) = (recorder.grown(), self.stakes.room());
        let mut changes = self.live.as_ref().map(|live| live.changes());
        let mut tips = self.seller.inner.parts.chain.tip_watch();
        // Before anything is delivered on it.
        if let Some(live) = self.live.as_ref().filter(|_| !self.supply.is_ended()) {
            live.to_orders(self.seller.inner.parts.channels.tip())?;
        }
        self.follow(actions, sender).await?;
        let mut alive = tokio::time::interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if !self.supply.is_ended() {
            self.at_block(sender).await?;
        }
        if is_live && !self.supply.is_ended() {
            self.look(sender).await?;
        }
        while !self.supply.is_ended() {
            tokio::select! {
                () = cancel.cancelled() => return Err(Ended::Gone),
                bytes = receiver.next(PATIENCE) => {
                    let Some(bytes) = bytes? else { return Err(Ended::Gone) };
                    let Ok(frame) = ToSeller::from_bytes(&bytes) else {
                        return Err(Refusal::Malformed { reason: "the frame is none of a buyer's".into() }.into());
                    };
                    self.frame(frame, sender).await?;
                }
                Ok(()) = grown.changed(), if is_live => self.look(sender).await?,
                () = room.more() => self.event(SupplyEvent::Room, sender).await?,
                () = change(&mut changes) => self.at_block(sender).await?,
                Ok(()) = tips.changed() => self.at_block(sender).await?,
                _ = alive.tick() => sender.send(frame(&ToBuyer::Alive)?).await?,
            }
        }
        Ok(())
    }

    /// What the newest block means for the order. Nothing is delivered on a channel whose funding has left its block, where it has to be in one.
    async fn at_block(&mut self, sender: &mut DeliverySender) -> Result<(), Ended> {
        let Some(live) = &self.live else { return Ok(()) };
        match live.to_orders(self.seller.inner.parts.channels.tip())? {
            ToOrders::Open => Ok(()),
            ToOrders::Closing => self.event(SupplyEvent::Closing, sender).await,
            ToOrders::Closed => self.event(SupplyEvent::Closed, sender).await,
        }
    }

    /// A step of the state machine.
    fn step<E: std::error::Error>(
        &mut self,
        f: impl FnOnce(&mut Self, i64) -> Result<Vec<SupplyAction>, E>,
    ) -> Result<Vec<SupplyAction>, Refusal> {
        let now_ms = self.seller.inner.parts.clock.now_ms();
        f(self, now_ms).map_err(|error| failed(&error))
    }

    async fn event(&mut self, event: SupplyEvent, sender: &mut DeliverySender) -> Result<(), Ended> {
        let actions = self.step(|session, now_ms| {
            let SellerParts { identity, network, .. } = &session.seller.inner.parts;
            session.stakes.change(|stakes| session.supply.handle(event, stakes, identity, *network, now_ms))
        })?;
        self.follow(actions, sender).await
    }

    async fn frame(&mut self, frame: ToSeller, sender: &mut DeliverySender) -> Result<(), Ended> {
        match frame {
            ToSeller::Voucher(voucher) => self.voucher(voucher, sender).await,
            ToSeller::Pause => self.event(SupplyEvent::Pause, sender).await,
            ToSeller::Resume => self.event(SupplyEvent::Resume, sender).await,
            ToSeller::Stop => self.event(SupplyEvent::Stop, sender).await,
            ToSeller::Alive => Ok(()),
            ToSeller::Begin(_) => {
                Err(Refusal::Malformed { reason: "the stream has begun already".into() }.into())
            }
        }
    }

    /// Takes a voucher: it is booked in the next stored step, with the grant, before anything is delivered for it.
    async fn voucher(&mut self, voucher: OrderVoucher, sender: &mut DeliverySender) -> Result<(), Ended> {
        let channel = self.supply.sale().channel;
        let live = self.live.as_ref().ok_or(Refusal::ChannelClosed { channel })?;
        live.takes_vouchers(self.seller.inner.parts.channels.tip())?;
        self.voucher = Some(voucher);
        self.event(SupplyEvent::Paid(voucher.paid), sender).await
    }

    /// A live stream: what there is now.
    async fn look(&mut self, sender: &mut DeliverySender) -> Result<(), Ended> {
        let stream = self.supply.terms().stream;
        let size = self.seller.inner.parts.recorder.summary(&stream).map_err(storage)?.size;
        self.event(SupplyEvent::Size(size), sender).await
    }

    /// Does what the state machine asks for, in its order.
    async fn follow(&mut self, actions: Vec<SupplyAction>, sender: &mut DeliverySender) -> Result<(), Ended> {
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                SupplyAction::Store => self.store(None).await?,
                SupplyAction::End(paid) => self.store(Some(paid)).await?,
                SupplyAction::Times(readings) => {
                    let (first, stream) = (readings.start, self.supply.terms().stream);
                    let times = self
                        .seller
                        .blocking(move |seller| {
                            let recorder = &seller.inner.parts.recorder;
                            let read = recorder.readings(&stream, first, readings.end).map_err(storage)?;
                            Ok(read.iter().map(|reading| reading.time).collect())
                        })
                        .await?;
                    let more = self.step(|session, now_ms| {
                        let SellerParts { identity, network, .. } = &session.seller.inner.parts;
                        let times = SupplyEvent::Times { first, times };
                        session
                            .stakes
                            .change(|stakes| session.supply.handle(times, stakes, identity, *network, now_ms))
                    })?;
                    actions.extend(more);
                }
                SupplyAction::Frame(what) => sender.send(frame(&what)?).await?,
                SupplyAction::Send(readings) => {
                    let end = readings.end;
                    self.send(readings, sender).await?;
                    let more = self.step(|session, now_ms| {
                        let SellerParts { identity, network, .. } = &session.seller.inner.parts;
                        let sent = SupplyEvent::Sent(end);
                        session
                            .stakes
                            .change(|stakes| session.supply.handle(sent, stakes, identity, *network, now_ms))
                    })?;
                    actions.extend(more);
                }
            }
        }
        Ok(())
    }

    async fn store(&mut self, ends: Option<Satoshis>) -> Result<(), Refusal> {
        let sale = self.supply.sale().clone();
        let live = self.live.clone().ok_or(Refusal::ChannelClosed { channel: sale.channel })?;
        let entry = Entry { sale, voucher: self.voucher.take(), ends };
        self.seller.inner.parts.channels.book(&live, entry).await
    }

    /// Sends readings in pages: while one goes out the next is made.
    async fn send(&mut self, readings: Range<u64>, sender: &mut DeliverySender) -> Result<(), Ended> {
        let Range { start: mut at, end } = readings;
        let mut made = self.page(at..end).await?;
        loop {
            let (next, page) = match made {
                Made::Range { next, bytes } => (next, bytes),
                Made::Live { page, checkpoint } => {
                    (end_of(&page), frame(&self.pages.frame(&checkpoint, page))?)
                }
            };
            if next <= at {
                return Err(Refusal::StorageUnavailable.into());
            }
            if next >= end {
                return Ok(sender.send(page).await?);
            }
            let (sent, more) = tokio::join!(sender.send(page), self.page(next..end));
            sent?;
            (at, made) = (next, more?);
        }
    }

    /// As many of these readings as fit in one page.
    async fn page(&self, readings: Range<u64>) -> Result<Made, Refusal> {
        let (terms, Range { start, end }) = (self.supply.terms(), readings);
        let (stream, fixed) = (terms.stream, terms.checkpoint.as_ref().map(|checkpoint| checkpoint.size));
        let said = self.pages.checkpoint(start).cloned();
        let made = self.seller.blocking(move |seller| {
            let recorder = &seller.inner.parts.recorder;
            if let Some(size) = fixed {
                let page = recorder.page(&stream, start, end, size).map_err(storage)?;
                return Ok(Made::Range { next: end_of(&page), bytes: frame(&ToBuyer::Page(page))? });
            }
            let newest = || recorder.checkpoint(&stream).map_err(storage);
            let checkpoint = said.map_or_else(newest, |said| Ok(Some(said)))?;
            let checkpoint = checkpoint.ok_or(Refusal::RangeNotAvailable { size: 0 })?;
            let size = checkpoint.value().size;
            let page = recorder.page(&stream, start, end.min(size), size).map_err(storage)?;
            Ok(Made::Live { page, checkpoint })
        });
        made.await
    }
}

/// A page to be sent.
enum Made {
    /// Of a range: the frame, and where the next page begins.
    Range { next: u64, bytes: Bytes },
    /// Of a live stream: what its frame leaves out depends on those before it.
    Live { page: Page, checkpoint: Signed<Checkpoint> },
}

/// Waits until the channel has changed.
async fn change(changes: &mut Option<watch::Receiver<u64>>) {
    if let Some(changes) = changes
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Sequence number after the last reading of a page.
fn end_of(page: &Page) -> u64 {
    let end = |run: &sensora_protocol::stream::Run| {
        run.count().map_or(run.first, |count| run.first.saturating_add(count))
    };
    page.runs.last().map_or(0, end)
}
