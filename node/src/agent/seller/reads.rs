//! Single readings over `/sensora/delivery/1`, each paid by a voucher that may be for many of them.
//!
//! What may be answered is decided by [`sensora_protocol::market::reads::serve`]; this room reads questions, books vouchers, stores grants while it goes on
//! answering within the one before, and takes readings and hashes from the log. Answers to what has come are gathered and go out together.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use libp2p::futures::FutureExt as _;
use sensora_chain::keys::{PublicKey, Signature};
use sensora_chain::{Network, Satoshis};
use sensora_protocol::market::delivery::frame::{self as delivery, Begin, OrderVoucher};
use sensora_protocol::market::delivery::supply::{ChannelSale, ChannelSaleState, SupplyAdmission};
use sensora_protocol::market::exposure::{Interval, Stakes};
use sensora_protocol::market::message::Answer;
use sensora_protocol::market::offer::DEFAULT_LIFETIME_MS;
use sensora_protocol::market::reads::asked::Asked;
use sensora_protocol::market::reads::frame::{Cursor, MAX_TO_SELLER_LEN, Row, Signing, ToBuyer, ToSeller};
use sensora_protocol::market::reads::offer::ReadsOffer;
use sensora_protocol::market::reads::serve::{Question, Serve, ServeAction, ServeError, ServeEvent, What};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{Identity, OrderId, Signed, StreamId};
use tokio::task::JoinHandle;

use super::channels::{Channels, Checked, Entry, Live, ToOrders};
use super::supply::running::Running;
use super::supply::{Ended, PATIENCE, change};
use super::{Seller, SellerParts, failed, is_full, storage};
use crate::net::{DeliveryReceiver, DeliverySender};
use crate::stakes::SharedStakes;
use crate::store::{StoreError, channels as records, reads};

/// How often is looked whether anything has come: after one quiet round vouchers are stored that are not on disk.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After so many quiet rounds a grant that is not used is taken back.
const IDLE_ROUNDS: u32 = 50;

/// The newest checkpoint of each of our streams: buyers that ask for the newest reading at the same time are told the same.
#[derive(Default)]
pub(super) struct Signatures(Mutex<BTreeMap<StreamId, Signing>>);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One order under way.
struct Session {
    seller: Seller,
    /// The channel; none where the order has ended and its channel is settled.
    live: Option<Arc<Live>>,
    stakes: Arc<SharedStakes>,
    serve: Serve,
    /// Whether nothing is stored of it.
    is_new: bool,
    /// Its place among the streams.
    running: Running,
    /// A voucher that came while the one before it was on its way to the disk.
    waiting: Option<OrderVoucher>,
    /// The last voucher that was checked: the next stored step books it, and with it what the ones before paid.
    voucher: Option<Checked>,
    storing: Option<JoinHandle<Result<(), Refusal>>>,
    /// Where the questions of this stream are, by sequence number, and the answers, by time.
    numbers: Cursor,
    times: Cursor,
    /// The receipt is sent.
    has_ended: bool,
}

impl From<ServeError> for Ended {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Refused(refusal) => refusal.into(),
            error => failed(&error).into(),
        }
    }
}

impl Seller {
    /// What single readings of a stream cost.
    pub(super) fn quote_reads(&self, peer: &PublicKey, id: StreamId) -> Result<Answer, Refusal> {
        let SellerParts { recorder, identity, network, clock, .. } = &self.inner.parts;
        let stream = self.stream(&id)?;
        if recorder.size(&id).map_err(storage)? == 0 {
            return Err(Refusal::RangeNotAvailable { size: 0 });
        }
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| Refusal::Busy { retry_ms: 1000 })?;
        let issued_ms = clock.now_ms();
        let offer = ReadsOffer {
            stream: id,
            name: stream.name,
            schema: stream.schema,
            buyer: *peer,
            price: stream.price,
            licence: stream.licence,
            nonce,
            issued_ms,
            expires_ms: issued_ms.saturating_add(DEFAULT_LIFETIME_MS),
        };
        let offer = Signed::sign(offer, identity, *network).map_err(|error| failed(&error))?;
        Ok(Answer::ReadsOffer(offer.into_bytes()))
    }

    /// Serves an order of single readings on this stream, until one of both has ended.
    pub(super) async fn serve_reads(
        &self,
        buyer: PublicKey,
        id: OrderId,
        begin: Begin,
        (sender, receiver): (&mut DeliverySender, &mut DeliveryReceiver),
        running: &Running,
    ) -> Result<(), Ended> {
        receiver.limit_frames(MAX_TO_SELLER_LEN);
        let place = running.clone();
        let mut session = self.blocking(move |seller| seller.reads_session(buyer, id, &begin, place)).await?;
        if session.is_new {
            // Its lane begins with the first stored step, before it is paid for.
            let entry = session.entry(None);
            session.book(entry).await?;
        }
        let outcome = session.serve(sender, receiver).await;
        // What was answered last must not be forgotten, whyever the stream has ended.
        if let Err(refusal) = session.stored().await {
            tracing::debug!(order = %id, %refusal, "a step was not stored");
        }
        session.take_voucher().unwrap_or_else(|error| tracing::debug!(order = %id, %error, "not booked"));
        let is_to_be_left = session.serve.is_to_be_left() || session.voucher.is_some();
        if is_to_be_left && !session.serve.is_ended() && session.leave().await.is_err() {
            // A voucher that cannot be booked is gone with this.
            session.leave().await?;
        }
        outcome
    }

    /// Finds or admits the order.
    fn reads_session(
        &self,
        buyer: PublicKey,
        id: OrderId,
        begin: &Begin,
        running: Running,
    ) -> Result<Session, Refusal> {
        let SellerParts { store, identity, network, clock, channels, home, .. } = &self.inner.parts;
        let live = channels.get(&buyer, &begin.channel);
        let stored = store.read(|tx| {
            let sale = records::sale(tx, &id)?.filter(|sale| sale.buyer == buyer);
            Ok((sale, reads::answered(tx, &id)?, records::left_unpaid_by(tx, &buyer)?))
        });
        let (stored, answered, left) = stored.map_err(|error: StoreError| storage(error.into()))?;
        let stakes = self.inner.supplies.stakes_of(&buyer);
        let credit = self.inner.supplies.credit();
        let is_new = stored.is_none();
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
                let channel = live.view(channels.tip())?;
                let now_ms = clock.now_ms();
                let at =
                    SupplyAdmission { seller: identity, network: *network, peer: &buyer, channel, now_ms };
                let (sale, terms) = ChannelSale::admit(begin, &at)?;
                (sale, terms, Some(live))
            }
        };
        let paid = match sale.finally_paid(*network) {
            Some(paid) => paid,
            None => channels.paid_in_lane(&sale.channel, &id).map_err(|error| failed(&error))?,
        };
        let unit = terms.unit().map_err(|error| failed(&error))?;
        let is_closed =
            live.as_ref().is_none_or(|live| live.to_orders(channels.tip()) == Ok(ToOrders::Closed));
        let lent = if is_closed { Satoshis::ZERO } else { credit.limit.saturating_sub(left) };
        let interval = Interval::new(credit.first, lent, unit).unwrap_or(Interval::none());
        let serve = Serve::new(sale, terms, interval, paid, begin, Asked::from_runs(&answered))?;
        Ok(Session {
            seller: self.clone(),
            live,
            stakes,
            serve,
            is_new,
            running,
            waiting: None,
            voucher: None,
            storing: None,
            numbers: Cursor::default(),
            times: Cursor::default(),
            has_ended: false,
        })
    }

    /// The seller's word on a log of this size; made once for all who ask at the same time.
    fn signing(&self, stream: &StreamId, size: u64) -> Result<Signing, Refusal> {
        let signatures = &self.inner.signatures.0;
        if let Some(signing) = lock(signatures).get(stream).filter(|signing| signing.size == size) {
            return Ok(signing.clone());
        }
        let signed = self.inner.parts.recorder.checkpoint_at(stream, size).map_err(storage)?;
        let signature = Signature::from_compact(&signed.bytes().signature).map_err(|error| failed(&error))?;
        let signing = Signing { size, issued_ms: signed.value().issued_ms, signature };
        let mut signatures = lock(signatures);
        if signatures.get(stream).is_none_or(|other| other.size < size) {
            signatures.insert(*stream, signing.clone());
        }
        Ok(signing)
    }

    /// The answer to a question, which the log has; its time is a step from 0 still.
    fn answer_read(&self, stream: &StreamId, Question { id, what }: Question) -> Result<ToBuyer, Refusal> {
        let recorder = &self.inner.parts.recorder;
        let size = match what {
            What::Newest { seq, .. } => seq.saturating_add(1),
            What::Grow { .. } => recorder.size(stream).map_err(storage)?,
            What::Reading { .. } | What::Same => 0,
        };
        let hashes = recorder.roots(stream, &what.hashes(size)).map_err(storage)?;
        let row = |seq, hashes| {
            let single = recorder.single(stream, seq).map_err(storage)?;
            let (step, values) = (single.reading.time, single.reading.values);
            Ok::<_, Refusal>(Row { step, values, salt: single.salt, hashes })
        };
        Ok(match what {
            What::Reading { seq, .. } => ToBuyer::Row { id, row: row(seq, hashes)? },
            What::Newest { seq, .. } => {
                ToBuyer::Newest { id, signing: self.signing(stream, size)?, row: row(seq, hashes)? }
            }
            What::Same => ToBuyer::Same { id },
            What::Grow { .. } => ToBuyer::Grown { id, signing: self.signing(stream, size)?, hashes },
        })
    }
}

impl Session {
    async fn serve(
        &mut self,
        sender: &mut DeliverySender,
        receiver: &mut DeliveryReceiver,
    ) -> Result<(), Ended> {
        let mut room = self.stakes.room();
        let mut changes = self.live.as_ref().map(|live| live.changes());
        let mut tips = self.seller.inner.parts.chain.tip_watch();
        // Before anything is delivered on it.
        if let Some(live) = self.live.as_ref().filter(|_| !self.serve.is_ended()) {
            live.to_orders(self.seller.inner.parts.channels.tip())?;
        }
        let actions = self.step(Serve::start)?;
        self.follow(actions, sender).await?;
        self.at_block(sender).await?;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut quiet, running) = (0, self.running.clone());
        while !self.has_ended {
            if self.storing.as_ref().is_some_and(JoinHandle::is_finished) {
                self.stored().await?;
                self.was_stored(sender).await?;
            }
            if running.cancel.is_cancelled() {
                return Err(Ended::Gone);
            }
            let bytes = match receiver.next(PATIENCE).now_or_never() {
                Some(bytes) => bytes,
                None => {
                    sender.flush().await?;
                    tokio::select! {
                        biased;
                        () = running.cancel.cancelled() => return Err(Ended::Gone),
                        refusal = running.is_needed() => return Err(refusal.into()),
                        bytes = receiver.next(PATIENCE) => bytes,
                        stored = done(&mut self.storing) => {
                            stored?;
                            self.was_stored(sender).await?;
                            continue;
                        }
                        () = room.more() => {
                            self.event(ServeEvent::Room, sender).await?;
                            continue;
                        }
                        () = change(&mut changes) => {
                            self.at_block(sender).await?;
                            continue;
                        }
                        Ok(()) = tips.changed() => {
                            self.at_block(sender).await?;
                            continue;
                        }
                        _ = looks.tick() => {
                            quiet += 1;
                            let event = if quiet % IDLE_ROUNDS == 0 { ServeEvent::Idle } else { ServeEvent::Rest };
                            if quiet > 1 {
                                self.event(event, sender).await?;
                            }
                            continue;
                        }
                    }
                }
            };
            quiet = 0;
            let Some(bytes) = bytes? else { return Err(Ended::Gone) };
            self.frame(&bytes, sender).await?;
        }
        sender.flush().await?;
        Ok(())
    }

    async fn frame(&mut self, bytes: &[u8], sender: &mut DeliverySender) -> Result<(), Ended> {
        let malformed = |error: &dyn std::error::Error| Refusal::Malformed { reason: error.to_string() };
        let frame = ToSeller::from_bytes(bytes).map_err(|error| malformed(&error))?;
        let stream = self.serve.terms().stream;
        let size = self.seller.inner.parts.recorder.size(&stream).map_err(storage)?;
        match (Question::of(&frame, size, &mut self.numbers)?, frame) {
            (Some(question), _) => self.event(ServeEvent::Asked(question), sender).await,
            (None, ToSeller::Voucher(voucher)) => self.voucher(voucher, sender).await,
            (None, ToSeller::Stop) => self.event(ServeEvent::Stop, sender).await,
            (None, _) => Ok(()),
        }
    }

    /// What the newest block means for the order.
    async fn at_block(&mut self, sender: &mut DeliverySender) -> Result<(), Ended> {
        if self.serve.is_ended() {
            return Ok(());
        }
        let to_orders = match &self.live {
            Some(live) => live.to_orders(self.seller.inner.parts.channels.tip())?,
            // It is settled.
            None => ToOrders::Closed,
        };
        match to_orders {
            ToOrders::Open => Ok(()),
            ToOrders::Closing => self.event(ServeEvent::Closing, sender).await,
            ToOrders::Closed => {
                // It can be booked no more.
                (self.voucher, self.waiting) = (None, None);
                self.event(ServeEvent::Closed, sender).await
            }
        }
    }

    async fn event(&mut self, event: ServeEvent, sender: &mut DeliverySender) -> Result<(), Ended> {
        let actions = self.step(|serve, stakes, seller, network, now_ms| {
            serve.handle(event, stakes, seller, network, now_ms)
        })?;
        self.follow(actions, sender).await
    }

    /// A step of the state machine. What the order leaves unpaid stays at stake from that moment on.
    fn step(
        &mut self,
        f: impl FnOnce(&mut Serve, &mut Stakes, &Identity, Network, i64) -> Result<Vec<ServeAction>, ServeError>,
    ) -> Result<Vec<ServeAction>, ServeError> {
        let Self { seller, stakes, serve, .. } = self;
        let SellerParts { identity, network, clock, .. } = &seller.inner.parts;
        let now_ms = clock.now_ms();
        stakes.change(|stakes| {
            let done = f(serve, stakes, identity, *network, now_ms);
            if let ChannelSaleState::LeftUnpaid { unpaid, .. } = serve.sale().state {
                stakes.note(serve.sale().order, unpaid);
            }
            done
        })
    }

    /// What was last to be stored is on disk. A voucher that has waited for that counts first.
    async fn was_stored(&mut self, sender: &mut DeliverySender) -> Result<(), Ended> {
        if let Some(paid) = self.waiting.map(|voucher| voucher.paid) {
            self.take_voucher()?;
            self.event(ServeEvent::Paid(paid), sender).await?;
        }
        self.event(ServeEvent::Stored, sender).await
    }

    /// Takes a voucher. It is checked before anything follows from it, and booked with the next grant, which rests on it: what is answered meanwhile is within
    /// the one before.
    async fn voucher(&mut self, voucher: OrderVoucher, sender: &mut DeliverySender) -> Result<(), Ended> {
        self.waiting = Some(voucher);
        // One at a time.
        if self.storing.is_some() {
            return Ok(());
        }
        self.take_voucher()?;
        self.event(ServeEvent::Paid(voucher.paid), sender).await
    }

    /// Checks the voucher that waits.
    fn take_voucher(&mut self) -> Result<(), Refusal> {
        let Some(voucher) = self.waiting.take() else { return Ok(()) };
        let ChannelSale { channel, order, .. } = *self.serve.sale();
        let live = self.live.as_ref().ok_or(Refusal::ChannelClosed { channel })?;
        live.takes_vouchers(self.seller.inner.parts.channels.tip())?;
        self.voucher = None;
        self.voucher = Some(live.check(order, voucher)?);
        self.running.paid();
        Ok(())
    }

    async fn follow(&mut self, actions: Vec<ServeAction>, sender: &mut DeliverySender) -> Result<(), Ended> {
        for action in actions {
            match action {
                ServeAction::Store => {
                    let entry = self.entry(None);
                    self.storing = Some(self.store(entry));
                }
                ServeAction::End(paid) => {
                    let entry = self.entry(Some(paid));
                    self.book(entry).await?;
                    self.seller.inner.sold.fetch_add(1, Ordering::Relaxed);
                }
                ServeAction::Frame(frame) => {
                    send(&frame, sender).await?;
                    self.has_ended |= matches!(
                        frame,
                        ToBuyer::Order(delivery::ToBuyer::Ended { .. } | delivery::ToBuyer::Refused(_))
                    );
                }
                ServeAction::Answer(question) => {
                    let stream = self.serve.terms().stream;
                    let mut answer = if self.is_at_hand(&stream, question.what) {
                        self.seller.answer_read(&stream, question)?
                    } else {
                        self.seller.blocking(move |seller| seller.answer_read(&stream, question)).await?
                    };
                    if let ToBuyer::Row { row, .. } | ToBuyer::Newest { row, .. } = &mut answer {
                        row.step = self.times.step_to(row.step.cast_unsigned());
                    }
                    send(&answer, sender).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether a question is answered from memory.
    fn is_at_hand(&self, stream: &StreamId, what: What) -> bool {
        let recorder = &self.seller.inner.parts.recorder;
        match what {
            What::Reading { seq, .. } => recorder.is_at_hand(stream, Some(seq), &what.hashes(0)),
            What::Newest { seq, .. } => {
                recorder.is_at_hand(stream, Some(seq), &what.hashes(seq.saturating_add(1)))
            }
            What::Same => true,
            What::Grow { .. } => false,
        }
    }

    /// Sale, answers and the voucher that is not booked; with the lane's end where the order ends.
    fn entry(&mut self, ends: Option<Satoshis>) -> Entry {
        let answered = Some(self.serve.asked().runs().to_vec());
        Entry { sale: self.serve.sale().clone(), voucher: self.voucher.take(), ends, answered }
    }

    /// Stores it with the channel's account in one step.
    async fn book(&self, entry: Entry) -> Result<(), Refusal> {
        book(&self.seller.inner.parts.channels, self.live.as_ref(), entry).await
    }

    /// The same, while answers go on.
    fn store(&self, entry: Entry) -> JoinHandle<Result<(), Refusal>> {
        let (live, channels) = (self.live.clone(), self.seller.inner.parts.channels.clone());
        tokio::spawn(async move { book(&channels, live.as_ref(), entry).await })
    }

    /// Stores what the stream leaves behind.
    async fn leave(&mut self) -> Result<(), Refusal> {
        let entry = Entry { sale: self.serve.left(), ..self.entry(None) };
        self.book(entry).await
    }

    /// Waits until what is being stored is.
    async fn stored(&mut self) -> Result<(), Refusal> {
        if self.storing.is_some() { done(&mut self.storing).await } else { Ok(()) }
    }
}

/// Ends when what is being stored is; never where nothing is. Nothing is lost where it is dropped.
async fn done(storing: &mut Option<JoinHandle<Result<(), Refusal>>>) -> Result<(), Refusal> {
    let Some(handle) = storing.as_mut() else { return std::future::pending().await };
    let stored = handle.await.unwrap_or_else(|error| Err(failed(&error)));
    *storing = None;
    stored
}

async fn send(frame: &ToBuyer, sender: &mut DeliverySender) -> Result<(), Ended> {
    let bytes = frame.to_bytes().map_err(|error| failed(&error))?;
    Ok(sender.feed(Bytes::from(bytes)).await?)
}

async fn book(channels: &Channels, live: Option<&Arc<Live>>, entry: Entry) -> Result<(), Refusal> {
    match live {
        Some(live) => channels.book(live, entry).await,
        None => channels.store_alone(entry.sale).await.map_err(|error| failed(&error)),
    }
}
