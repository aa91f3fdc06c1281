//! Delivery over `/sensora/delivery/1`: one stream for each order that is paid through a channel.
//!
//! What may go out is decided by [`sensora_protocol::market::delivery::supply`]; this room reads frames, stores vouchers and grants before
//! anything follows from them, reads pages from the log, and sends them.

mod leaving;
pub(super) mod running;

use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::delivery::frame::{Begin, MAX_TO_SELLER_LEN, OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::supply::{
    ChannelSale, ChannelSaleState, Supply, SupplyAction, SupplyAdmission, SupplyError, SupplyEvent,
};
use sensora_protocol::market::delivery::trail::LivePages;
use sensora_protocol::market::exposure::{Interval, Stakes};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{Identity, OrderId, Signed};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::running::{AllRunning, Running};
use super::channels::{Checked, Entry, Live, ToOrders};
use super::room::{FIRST_PATIENCE, FIRST_UNPAID_FOR, Place};
use super::{Seller, SellerParts, failed, is_full, storage};
use crate::net::{DeliveryError, DeliveryReceiver, DeliverySender, DeliveryStream, Offence};
use crate::stakes::{AllStakes, SharedStakes};
use crate::store::channels as records;

/// How long a buyer may say nothing. It says `alive` where it has nothing to pay.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How often the buyer hears that we are here, where there is nothing to send: well within its own patience of 60 seconds.
const ALIVE_EVERY: Duration = Duration::from_secs(20);

/// Values of the open chunk that a page is made of without a thread of its own: a fraction of a millisecond.
const AT_ONCE: u64 = 256;

/// Bytes of pages that are made in one go, so that no page waits for a thread, and written in one go. Those that are made while others go out make it twice that for an order, and
/// a chunk more.
const MADE_AT_ONCE: usize = 256 * 1024;

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
    /// What is open with each buyer, and what was left unpaid.
    stakes: AllStakes,
    /// Orders with a stream.
    running: AllRunning,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts against a buyer for this order, which has paid so much: what it left unpaid, too. A buyer that closes its channel and opens another is lent no
/// more than one that stays.
fn at_stake(sale: &ChannelSale, paid: Satoshis) -> Satoshis {
    match sale.state {
        ChannelSaleState::LeftUnpaid { unpaid, .. } => unpaid,
        _ => sale.open(paid),
    }
}

impl Supplies {
    pub(super) fn new(credit: Credit) -> Self {
        Self { credit, stakes: AllStakes::default(), running: AllRunning::default() }
    }

    /// What is let stand open.
    pub(super) const fn credit(&self) -> Credit {
        self.credit
    }

    /// What is open with a buyer: from before a restart, too.
    pub(super) fn stakes_of(&self, buyer: &PublicKey) -> Arc<SharedStakes> {
        let Ok(stakes) = self.stakes.of(buyer, || Ok::<_, Infallible>(SharedStakes::new(self.credit.limit)));
        stakes
    }

    /// Counts what an order that no stream serves leaves open.
    fn note(&self, sale: &ChannelSale, paid: Satoshis) {
        self.note_amount(&sale.buyer, sale.order, at_stake(sale, paid));
    }

    fn note_amount(&self, buyer: &PublicKey, order: OrderId, amount: Satoshis) {
        self.stakes_of(buyer).change(|stakes| stakes.note(order, amount));
    }
}

/// Why a delivery ended before its order did.
pub(super) enum Ended {
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
    /// The channel; none where it is settled. What is paid is delivered all the same, and a receipt is shown.
    live: Option<Arc<Live>>,
    stakes: Arc<SharedStakes>,
    supply: Supply,
    /// The voucher that the next stored step books.
    voucher: Option<Checked>,
    /// Its place among the streams.
    running: Running,
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
        let place = self.inner.room.enter();
        let first = tokio::select! {
            () = cancel.cancelled() => return,
            _ = place.is_needed() => return,
            first = receiver.next(FIRST_PATIENCE) => first,
        };
        let Ok(Some(bytes)) = first else { return };
        let Ok(ToSeller::Begin(begin)) = ToSeller::from_bytes(&bytes) else {
            self.inner.parts.net.report(peer, Offence::Malformed).await;
            return;
        };
        place.begins(FIRST_UNPAID_FOR);
        let outcome = match begin.order_id(self.inner.parts.network, &buyer) {
            Ok(id) => self.serve(buyer, id, *begin, (&mut sender, &mut receiver), (place, &cancel)).await,
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
        (place, cancel): (Place, &CancellationToken),
    ) -> Result<(), Ended> {
        // By a tip of days ago a channel that is the buyer's again still seems to pay.
        self.learn_end().await?;
        let supplies = &self.inner.supplies;
        let running = supplies.running.begin(id, cancel.child_token(), Some(Arc::new(place)));
        let mine = running.clone();
        let guard = running.served.lock().await;
        let outcome = match running.cancel.is_cancelled() {
            true => Err(Ended::Gone),
            false if begin.offer.is_reads() => {
                let served = self.serve_reads(buyer, id, begin, stream, &running).await;
                if served.is_err() {
                    self.note_stored(&buyer, id).await;
                }
                served
            }
            false => match self.blocking(move |seller| seller.session(buyer, id, &begin, mine)).await {
                Ok(mut session) => {
                    let served = session.serve(stream, &running).await;
                    if served.is_err() {
                        self.note_stored(&buyer, id).await;
                    }
                    served
                }
                Err(refusal) => Err(Ended::Refused(refusal)),
            },
        };
        drop(guard);
        supplies.running.end(&id, &running);
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
                    let paid = channels.paid_in_lane(&sale.channel, &id).map_err(|error| failed(&error))?;
                    seller.inner.supplies.note(&sale, paid);
                }
                None => seller.inner.supplies.note_amount(&buyer, id, Satoshis::ZERO),
            }
            Ok(())
        });
        drop(noted.await);
    }

    /// Finds or admits the order.
    fn session(
        &self,
        buyer: PublicKey,
        id: OrderId,
        begin: &Begin,
        running: Running,
    ) -> Result<Session, Refusal> {
        let SellerParts { recorder, store, identity, network, clock, channels, home, .. } = &self.inner.parts;
        let live = channels.get(&buyer, &begin.channel);
        let stored = store.read(|tx| records::sale(tx, &id)).map_err(|error| storage(error.into()))?;
        let stored = stored.filter(|sale| sale.buyer == buyer);
        let stakes = self.inner.supplies.stakes_of(&buyer);
        let left = store.read(|tx| records::left_unpaid_by(tx, &buyer)).map_err(|error| failed(&error))?;
        let credit = self.inner.supplies.credit;
        let (sale, terms, live) = match (stored, live) {
            (Some(sale), live) => {
                let terms = sale.go_on(begin, *network, identity)?;
                (sale, terms, live.ok())
            }
            (None, live) => {
                let live = live?;
                if is_full(home.as_deref()) {
                    return Err(Refusal::StorageUnavailable);
                }
                // What can never be paid any more does not forbid paying first.
                let open = stakes.read(|stakes| stakes.open().amount()).saturating_sub(left);
                if open > credit.limit {
                    return Err(Refusal::NotPaid { open, limit: credit.limit });
                }
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
                (sale, terms, Some(live))
            }
        };
        let paid = match sale.finally_paid(*network) {
            Some(paid) => paid,
            // Its lane begins with the first stored step.
            None => channels.paid_in_lane(&sale.channel, &id).map_err(|error| failed(&error))?,
        };
        let unit = terms.unit().map_err(|error| failed(&error))?;
        // Where no voucher is taken any more, what is paid is delivered and nothing is lent.
        let is_closed =
            live.as_ref().is_none_or(|live| live.to_orders(channels.tip()) == Ok(ToOrders::Closed));
        let lent = if is_closed { Satoshis::ZERO } else { credit.limit.saturating_sub(left) };
        let interval = Interval::new(credit.first, lent, unit).unwrap_or(Interval::none());
        let size = match &terms.checkpoint {
            Some(checkpoint) => checkpoint.size,
            None => recorder.summary(&terms.stream).map_err(storage)?.size,
        };
        let supply = Supply::new(sale, terms, interval, paid, begin, size);
        let (seller, pages) = (self.clone(), LivePages::new());
        Ok(Session { seller, live, stakes, supply, voucher: None, running, pages })
    }
}

impl Session {
    /// Between two steps it can be told to end; a step that has begun is done to its end, for what it stores is stored.
    async fn serve(
        &mut self,
        (sender, receiver): (&mut DeliverySender, &mut DeliveryReceiver),
        running: &Running,
    ) -> Result<(), Ended> {
        let is_live = self.supply.terms().end.is_none();
        let SellerParts { recorder, .. } = &self.seller.inner.parts;
        // From before the first step on: what is recorded and what is paid by another order in between is seen.
        let (mut grown, mut room) = (recorder.grown(), self.stakes.room());
        let actions = self.step(Supply::start)?;
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
                () = running.cancel.cancelled() => return Err(Ended::Gone),
                refusal = running.is_needed() => return Err(refusal.into()),
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
        let to_orders = match &self.live {
            Some(live) => live.to_orders(self.seller.inner.parts.channels.tip())?,
            // It is settled.
            None => ToOrders::Closed,
        };
        match to_orders {
            ToOrders::Open => Ok(()),
            ToOrders::Closing => self.event(SupplyEvent::Closing, sender).await,
            ToOrders::Closed => self.event(SupplyEvent::Closed, sender).await,
        }
    }

    /// A step of the state machine. What the order leaves unpaid stays at stake from that moment on.
    fn step(
        &mut self,
        f: impl FnOnce(
            &mut Supply,
            &mut Stakes,
            &Identity,
            Network,
            i64,
        ) -> Result<Vec<SupplyAction>, SupplyError>,
    ) -> Result<Vec<SupplyAction>, Refusal> {
        let SellerParts { identity, network, clock, .. } = &self.seller.inner.parts;
        let (supply, now_ms) = (&mut self.supply, clock.now_ms());
        let done = self.stakes.change(|stakes| {
            let done = f(supply, stakes, identity, *network, now_ms);
            if let ChannelSaleState::LeftUnpaid { unpaid, .. } = supply.sale().state {
                stakes.note(supply.sale().order, unpaid);
            }
            done
        });
        done.map_err(|error| failed(&error))
    }

    fn handle(&mut self, event: SupplyEvent) -> Result<Vec<SupplyAction>, Refusal> {
        self.step(|supply, stakes, seller, network, now_ms| {
            supply.handle(event, stakes, seller, network, now_ms)
        })
    }

    async fn event(&mut self, event: SupplyEvent, sender: &mut DeliverySender) -> Result<(), Ended> {
        let actions = self.handle(event)?;
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

    /// Takes a voucher. It is checked before anything follows from it, and booked in the next stored step, with the grant, before anything is delivered for it.
    async fn voucher(&mut self, voucher: OrderVoucher, sender: &mut DeliverySender) -> Result<(), Ended> {
        let ChannelSale { channel, order, .. } = *self.supply.sale();
        let live = self.live.as_ref().ok_or(Refusal::ChannelClosed { channel })?;
        live.takes_vouchers(self.seller.inner.parts.channels.tip())?;
        // One at a time.
        self.voucher = None;
        self.voucher = Some(live.check(order, voucher)?);
        self.running.paid();
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
                SupplyAction::End(paid) => {
                    self.store(Some(paid)).await?;
                    self.seller.inner.sold.fetch_add(1, Ordering::Relaxed);
                }
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
                    actions.extend(self.handle(SupplyEvent::Times { first, times })?);
                }
                SupplyAction::Frame(what) => sender.send(frame(&what)?).await?,
                SupplyAction::Send(readings) => {
                    let end = readings.end;
                    self.send(readings, sender).await?;
                    actions.extend(self.handle(SupplyEvent::Sent(end))?);
                }
            }
        }
        Ok(())
    }

    async fn store(&mut self, ends: Option<Satoshis>) -> Result<(), Refusal> {
        let (sale, channels) = (self.supply.sale().clone(), &self.seller.inner.parts.channels);
        match &self.live {
            Some(live) => {
                let entry = Entry { sale, voucher: self.voucher.take(), ends, answered: None };
                channels.book(live, entry).await
            }
            None => channels.store_alone(sale).await.map_err(|error| failed(&error)),
        }
    }

    /// Sends readings in pages: while some go out the next ones are made.
    async fn send(&mut self, readings: Range<u64>, sender: &mut DeliverySender) -> Result<(), Ended> {
        let Range { start: mut at, end } = readings;
        let mut made = self.pages(at..end).await?;
        loop {
            let next = made.next;
            if next <= at {
                return Err(Refusal::StorageUnavailable.into());
            }
            let frames = match made.pages {
                Pages::Range(frames) => frames,
                Pages::Live { pages, checkpoint } => {
                    let said = &mut self.pages;
                    let frames = pages.into_iter().map(|page| frame(&said.frame(&checkpoint, page)));
                    frames.collect::<Result<_, _>>()?
                }
            };
            if next >= end {
                return Ok(sender.send_all(frames).await?);
            }
            let (sent, more) = tokio::join!(sender.send_all(frames), self.pages(next..end));
            sent?;
            (at, made) = (next, more?);
        }
    }

    /// The first of these readings, in pages of a proof unit each, about [`MADE_AT_ONCE`] of them.
    async fn pages(&self, readings: Range<u64>) -> Result<Made, Refusal> {
        let (terms, Range { start, end }) = (self.supply.terms(), readings);
        let (stream, fixed) = (terms.stream, terms.checkpoint.as_ref().map(|checkpoint| checkpoint.size));
        let said = self.pages.checkpoint(start).cloned();
        let make = move |seller: &Seller| {
            let recorder = &seller.inner.parts.recorder;
            let make = |end, size| {
                let pages = recorder.units(&stream, (start, end), size, MADE_AT_ONCE).map_err(storage)?;
                Ok::<_, Refusal>((pages.last().map_or(0, end_of), pages))
            };
            if let Some(size) = fixed {
                let (next, pages) = make(end, size)?;
                let frames = pages.into_iter().map(|page| frame(&ToBuyer::Page(page)));
                return Ok(Made { next, pages: Pages::Range(frames.collect::<Result<_, _>>()?) });
            }
            let newest = || recorder.checkpoint(&stream).map_err(storage);
            let checkpoint = said.map_or_else(newest, |said| Ok(Some(said)))?;
            let checkpoint = checkpoint.ok_or(Refusal::RangeNotAvailable { size: 0 })?;
            let size = checkpoint.value().size;
            let (next, pages) = make(end.min(size), size)?;
            Ok(Made { next, pages: Pages::Live { pages, checkpoint } })
        };
        // A handful out of memory is made sooner than another thread is awake.
        let values = end.saturating_sub(start).saturating_mul(terms.schema.fields.len() as u64);
        if values <= AT_ONCE && self.seller.inner.parts.recorder.is_open(&stream, start) {
            return make(&self.seller);
        }
        self.seller.blocking(make).await
    }
}

/// Pages to be sent.
struct Made {
    /// Where the next ones begin.
    next: u64,
    pages: Pages,
}

enum Pages {
    /// Of a range: their frames.
    Range(Vec<Bytes>),
    /// Of a live stream, all under one checkpoint: what a frame leaves out depends on those before it.
    Live { pages: Vec<Page>, checkpoint: Signed<Checkpoint> },
}

/// Waits until the channel has changed.
pub(super) async fn change(changes: &mut Option<watch::Receiver<u64>>) {
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
