//! Buying through a channel: an order's delivery over a stream of its own, paid while it comes.
//!
//! What is paid and when is decided by [`sensora_protocol::market::delivery::receive`]; this room opens streams, stores what has been verified
//! before anything more is paid for it, and goes on where a stream or the process broke off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::ad::PaymentMode;
use sensora_protocol::market::channel::spending::Reservation;
use sensora_protocol::market::delivery::frame::{MAX_TO_BUYER_LEN, OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::{
    ChannelPurchase, ChannelPurchaseState, Receive, ReceiveAction, ReceiveError, ReceiveEvent,
};
use sensora_protocol::market::delivery::terms::{Offered, Terms};
use sensora_protocol::market::exposure::Interval;
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::{BuyerLimits, Offer, OfferError, Range};
use sensora_protocol::{OrderId, Signed};

use super::channels::Open;
use super::drive::keep;
use super::{ATTEMPTS, Bought, BuyError, BuyRequest, Buyer, BuyerParts, FIRST_PAUSE, Progress, unexpected};
use crate::net::{DeliverySender, Offence, PeerId, peer_id_from_public_key};
use crate::stakes::SharedStakes;
use crate::store::bought::{self, BoughtStream};
use crate::store::{StoreError, channels as records, orders};

/// How long the seller may take to answer the opening of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the seller may send nothing while readings are owed. Longer than a slow disk takes for a page.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a delivery that does not verify is asked for again before the seller counts as a cheat.
const BAD_DELIVERIES: u32 = 2;

/// What is open with each seller.
#[derive(Default)]
pub(super) struct OpenStakes {
    sellers: Mutex<BTreeMap<PublicKey, Arc<SharedStakes>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why one stream of an order ended.
enum Broken {
    /// The stream did; another may do better.
    Stream(Box<crate::net::DeliveryError>),
    /// The seller ended it without a word, or with one that says "later".
    Later(String, u64),
    /// What came does not verify.
    Bad(Box<ReceiveError>),
    /// For good.
    Failed(BuyError),
}

impl From<BuyError> for Broken {
    fn from(error: BuyError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<crate::net::DeliveryError> for Broken {
    fn from(error: crate::net::DeliveryError) -> Self {
        Self::Stream(Box::new(error))
    }
}

/// One order in delivery.
struct Session<'a> {
    buyer: &'a Buyer,
    open: Arc<Open>,
    stakes: Arc<SharedStakes>,
    receive: Receive,
    reservation: Option<Reservation>,
}

impl Buyer {
    /// Buys what of a range is not here yet through an open channel with its seller, verifies it and keeps it. Orders under way are gone on
    /// with, whichever way they are paid.
    ///
    /// # Errors
    /// [`BuyError::NoChannel`] where no channel with the seller has enough left; the others as for [`Buyer::buy`].
    pub async fn buy_through_channel(
        &self,
        request: &BuyRequest,
        mut progress: impl FnMut(Progress),
    ) -> Result<Bought, BuyError> {
        let BuyRequest { seller, stream, range, limits, ad } = request;
        let asked = self.channel_offer(seller, request, *range).await?;
        let (first, count) = (asked.value().first, asked.value().count);
        let end = first.checked_add(count).filter(|_| count > 0).ok_or(BuyError::Range { first, count })?;
        let (mut kept, mut orders, mut paid) = (None, Vec::new(), Satoshis::ZERO);
        let mut quoted = Some(asked);
        loop {
            let deciding = self.streams.lock(stream).await;
            if let Some(open) = self.open_order(stream, first, end)? {
                drop(deciding);
                self.go_on_with(&open, limits.exposure, &mut progress).await?;
                continue;
            }
            let missing = self.inner.store.read(|tx| bought::missing(tx, stream, first, end))?;
            let wanted: u64 = missing.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
            kept.get_or_insert(count.saturating_sub(wanted));
            let Some((from, to)) = missing.first().copied() else { break };
            let seq = Range::Seq { first: from, count: to.saturating_sub(from) };
            let (offer, range) = match quoted.take() {
                Some(offer) if (from, to) == (first, end) => (offer, *range),
                _ => (self.channel_offer(seller, request, seq).await?, seq),
            };
            let left = limits.max_price.saturating_sub(paid);
            self.accept(&offer, *stream, range, ad.as_ref(), BuyerLimits { max_price: left, ..*limits })?;
            let total = offer.value().total;
            progress(Progress::Quoted { count: offer.value().count, total });
            let id = self.order_through_channel(&offer, limits.exposure).await?;
            drop(deciding);
            self.receive(&id, limits.exposure, &mut progress).await?;
            paid = paid.checked_add(total).unwrap_or(paid);
            orders.push(id);
        }
        Ok(Bought { stream: *stream, first, count, orders, kept: kept.unwrap_or(count), paid })
    }

    /// Goes on with an order, whichever way it is paid.
    pub(super) async fn go_on_with(
        &self,
        id: &OrderId,
        exposure: Satoshis,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), BuyError> {
        if self.inner.store.read(|tx| records::purchase(tx, id))?.is_some() {
            return self.receive(id, exposure, progress).await.map(|_| ());
        }
        match self.drive(id, progress).await {
            // It was refused before, and the coins are back: ordering anew is not ordering twice.
            Ok(_)
            | Err(
                BuyError::PaymentRefused { taken_back: true, .. }
                | BuyError::GivenUp { taken_back: true, .. },
            ) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn channel_offer(
        &self,
        seller: &PublicKey,
        request: &BuyRequest,
        range: Range,
    ) -> Result<Signed<Offer>, BuyError> {
        let question = Request::Quote { stream: request.stream, range, mode: PaymentMode::Channel };
        match self.ask(seller, &question).await? {
            Response::Ok(Answer::Offer(offer)) => {
                Ok(offer.verify_by::<Offer>(self.inner.network, seller).map_err(OfferError::from)?)
            }
            other => Err(unexpected(&question, other)),
        }
    }

    /// Orders through a channel: order, reservation and what the stream is are on disk when this returns, and nothing has been sent yet.
    async fn order_through_channel(
        &self,
        offer: &Signed<Offer>,
        exposure: Satoshis,
    ) -> Result<OrderId, BuyError> {
        let BuyerParts { identity, network, clock, .. } = &*self.inner;
        let terms = offer.value();
        let seller = *offer.key();
        let none = || BuyError::NoChannel {
            seller: sensora_protocol::identity::peer_id(&seller),
            needed: terms.total,
        };
        let open = self.channel_with(&seller, terms.total).ok_or_else(none)?;
        self.learn(&open, exposure).await?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| BuyError::Randomness(error.to_string()))?;
        let offered = Offered::Range(offer.bytes().clone());
        let channel = super::channels::id_of(&open);
        let now_ms = clock.now_ms();
        let (purchase, _) = ChannelPurchase::agree(
            offered,
            &seller,
            channel,
            terms.total,
            nonce,
            identity,
            *network,
            now_ms,
        )?;
        let stream = BoughtStream {
            id: terms.stream,
            seller,
            name: terms.name.clone(),
            schema: terms.schema.clone(),
            licence: terms.licence.clone(),
        };
        let reservation = self.reserve(&open, purchase.id, terms.total, |tx| {
            bought::put_stream(tx, &stream)?;
            records::put_purchase(tx, &purchase)?;
            Ok(())
        })?;
        // It is taken up again by whoever drives the order.
        reservation.leave();
        Ok(purchase.id)
    }

    /// The stored purchase of an order that is paid through a channel.
    ///
    /// # Errors
    /// [`BuyError::UnknownOrder`].
    pub fn channel_purchase(&self, id: &OrderId) -> Result<ChannelPurchase, BuyError> {
        self.inner.store.read(|tx| records::purchase(tx, id))?.ok_or(BuyError::UnknownOrder(*id))
    }

    /// What is open with a seller over all orders.
    fn stakes_of(&self, seller: &PublicKey, limit: Satoshis) -> Result<Arc<SharedStakes>, BuyError> {
        let stakes = {
            let mut all = lock(&self.stakes.sellers);
            all.entry(*seller).or_insert_with(|| Arc::new(SharedStakes::new(limit))).clone()
        };
        let mut known = stakes.lock();
        known.set_limit(limit);
        for direct in self.inner.store.read(orders::open_purchases)? {
            if &direct.seller == seller {
                known.note(direct.id, direct.at_risk(self.inner.network)?);
            }
        }
        drop(known);
        Ok(stakes)
    }

    /// Receives, verifies, keeps and pays until the order has ended.
    pub(super) async fn receive(
        &self,
        order: &OrderId,
        exposure: Satoshis,
        progress: &mut impl FnMut(Progress),
    ) -> Result<ChannelPurchase, BuyError> {
        let order = *order;
        let _one_at_a_time = self.orders.lock(&order).await;
        let (mut attempt, mut bad, mut pause) = (0, 0, FIRST_PAUSE);
        loop {
            let purchase = self.channel_purchase(&order)?;
            match &purchase.state {
                ChannelPurchaseState::Ended { .. } => return Ok(purchase),
                ChannelPurchaseState::Refused { refusal } => return Err(BuyError::Refused(refusal.clone())),
                left @ (ChannelPurchaseState::LeftUnpaid { .. } | ChannelPurchaseState::GivenUp { .. }) => {
                    return Err(BuyError::NotComplete { order, state: left.name() });
                }
                ChannelPurchaseState::Running | ChannelPurchaseState::Stopping { .. } => {}
            }
            let before = purchase.next;
            let peer = peer_id_from_public_key(&purchase.seller.to_bytes());
            let peer = peer.ok_or(BuyError::Unexpected { asked: "peer id", got: "no key" })?;
            let broken = match self.one_stream(peer, purchase, exposure, progress).await {
                Ok(()) => continue,
                Err(broken) => broken,
            };
            // A seller that goes on has all its patience again.
            if self.channel_purchase(&order)?.next > before {
                (attempt, pause) = (0, FIRST_PAUSE);
            }
            attempt += 1;
            match broken {
                Broken::Failed(error) => return Err(error),
                Broken::Bad(source) => {
                    bad += 1;
                    if bad > BAD_DELIVERIES {
                        self.inner.net.report(peer, Offence::InvalidProof).await;
                        return Err(BuyError::Receive { order, source });
                    }
                    tracing::warn!(%order, error = %source, "a delivery does not verify, asking again");
                }
                Broken::Later(reason, retry_ms) => {
                    if attempt >= ATTEMPTS {
                        return Err(BuyError::NotComplete { order, state: "waiting for the seller" });
                    }
                    progress(Progress::Waiting { reason });
                    tokio::time::sleep(Duration::from_millis(retry_ms)).await;
                }
                Broken::Stream(source) => {
                    if attempt >= ATTEMPTS {
                        return Err(BuyError::Stream { order, source });
                    }
                    tracing::debug!(%order, error = %source, "a stream ended, opening another");
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2);
                }
            }
        }
    }

    /// One stream of an order, until the order or the stream has ended.
    async fn one_stream(
        &self,
        peer: PeerId,
        purchase: ChannelPurchase,
        exposure: Satoshis,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), Broken> {
        let BuyerParts { net, discovery, network, .. } = &*self.inner;
        let open = self.channel(&purchase.channel)?;
        self.learn(&open, exposure).await?;
        let terms = purchase.offer.terms(*network, &purchase.seller).map_err(BuyError::from)?;
        let reservation = self.take_up(&open, &purchase)?;
        let unit = terms.unit().map_err(OfferError::from).map_err(BuyError::from)?;
        let interval = Interval::new(unit, exposure, unit).unwrap_or(Interval::none());
        let stakes = self.stakes_of(&purchase.seller, exposure)?;
        let addresses = discovery.addresses(&purchase.seller);
        let mut stream = net.open_delivery(peer, addresses, OPEN_TIMEOUT).await?;
        stream.limit_frames(MAX_TO_BUYER_LEN);
        let (mut sender, mut receiver) = stream.split();
        let receive = Receive::new(purchase, terms, interval);
        let mut session = Session { buyer: self, open, stakes, receive, reservation: Some(reservation) };
        let begin = session.receive.start();
        session.follow(vec![begin], &mut sender).await?;
        loop {
            let stakes = session.stakes.clone();
            let bytes = tokio::select! {
                bytes = receiver.next(PATIENCE) => bytes?,
                () = stakes.room() => {
                    let actions = session.event(ReceiveEvent::Room)?;
                    session.follow(actions, &mut sender).await?;
                    continue;
                }
            };
            let Some(bytes) = bytes else {
                return Err(Broken::Later("the seller has ended the delivery".into(), 500));
            };
            let Ok(frame) = ToBuyer::from_bytes(&bytes) else {
                net.report(peer, Offence::Malformed).await;
                return Err(Broken::Later("the seller sent what is no frame".into(), 500));
            };
            let actions = session.event(ReceiveEvent::Frame(Box::new(frame)))?;
            session.follow(actions, &mut sender).await?;
            session.show(progress);
            if session.receive.purchase().is_final() {
                drop(sender.finish().await);
                return Ok(());
            }
        }
    }

    /// The reservation of an order: as it was before, filled up to what the order may cost.
    fn take_up(&self, open: &Open, purchase: &ChannelPurchase) -> Result<Reservation, BuyError> {
        let spending = lock(&open.spending).clone();
        let Some(mut held) = spending.take_up(purchase.id) else {
            return self.reserve(open, purchase.id, purchase.budget, |_| Ok(()));
        };
        let has = held.paid().checked_add(held.left()).unwrap_or(Satoshis::MAX);
        let missing = purchase.budget.saturating_sub(has);
        if !missing.is_zero() {
            held.extend(missing, |next| self.store_spending(open, next, |_| Ok::<_, BuyError>(())))?;
        }
        Ok(held)
    }
}

impl Session<'_> {
    fn event(&mut self, event: ReceiveEvent) -> Result<Vec<ReceiveAction>, Broken> {
        let order = self.receive.purchase().id;
        let Some(reservation) = self.reservation.as_mut() else { return Ok(Vec::new()) };
        let network = self.buyer.inner.network;
        let handled = self.stakes.change(|stakes| self.receive.handle(event, reservation, stakes, network));
        handled.map_err(|error| match error {
            ReceiveError::Refused(refusal) if refusal.is_temporary() => {
                Broken::Later(refusal.to_string(), 500)
            }
            bad @ (ReceiveError::Delivery(_) | ReceiveError::OtherStream) => Broken::Bad(Box::new(bad)),
            source => Broken::Failed(BuyError::Receive { order, source: Box::new(source) }),
        })
    }

    async fn follow(
        &mut self,
        actions: Vec<ReceiveAction>,
        sender: &mut DeliverySender,
    ) -> Result<(), Broken> {
        for action in actions {
            match action {
                ReceiveAction::Keep { page, .. } => {
                    let (purchase, terms) = (self.receive.purchase(), self.receive.terms());
                    let first = page.readings.first().map_or(0, |reading| reading.seq);
                    self.buyer.inner.store.write(|tx| {
                        keep(tx, &purchase.id, &terms.stream, terms.first, first, &page)?;
                        records::put_purchase(tx, purchase)
                    })?;
                }
                ReceiveAction::Store => {
                    let purchase = self.receive.purchase();
                    self.buyer.inner.store.write(|tx| records::put_purchase(tx, purchase))?;
                }
                ReceiveAction::Voucher { paid, amount } => {
                    let record = lock(&self.open.record).clone();
                    let voucher = record.sign(&self.open.contract, amount, &self.buyer.inner.identity);
                    let voucher = voucher.map_err(|error| BuyError::Channel(Box::new(error.into())))?;
                    let frame =
                        ToSeller::Voucher(OrderVoucher { paid, amount, signature: voucher.signature });
                    self.send(&frame, sender).await?;
                }
                ReceiveAction::Send(frame) => self.send(&frame, sender).await?,
                ReceiveAction::End(paid) => self.end(paid)?,
            }
        }
        Ok(())
    }

    async fn send(&self, frame: &ToSeller, sender: &mut DeliverySender) -> Result<(), Broken> {
        let bytes = frame.to_bytes().map_err(BuyError::from)?;
        Ok(sender.send(Bytes::from(bytes)).await?)
    }

    /// The order's lane ends in the same stored step as the order.
    fn end(&mut self, paid: Satoshis) -> Result<(), Broken> {
        let Some(reservation) = self.reservation.take() else { return Ok(()) };
        reservation.end(paid).map_err(BuyError::from)?;
        let spending = lock(&self.open.spending).record();
        let purchase = self.receive.purchase();
        self.buyer.store_spending(&self.open, &spending, |tx| Ok(records::put_purchase(tx, purchase)?))?;
        Ok(())
    }

    fn show(&self, progress: &mut impl FnMut(Progress)) {
        let (purchase, terms): (_, &Terms) = (self.receive.purchase(), self.receive.terms());
        if let Some(end) = terms.end {
            let done = purchase.next.saturating_sub(terms.first);
            progress(Progress::Received { done, total: end.saturating_sub(terms.first) });
        }
    }
}
