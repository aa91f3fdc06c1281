//! The buyer: quote, pay, receive, verify, keep.
//!
//! The rules are in [`sensora_protocol::market::purchase`]; this room stores the purchase, and with it the wallet and the readings, before each message
//! goes out, and sends the very same bytes again after a crash. What is bought is kept as it was delivered, can be proven again at any time, and is
//! not bought twice.

mod books;
mod budget;
mod channels;
mod choose;
mod drive;
mod error;
mod lane;
mod live;
mod order;
mod proof;
mod reads;
mod receive;
mod release;
mod resume;
mod taken_back;
mod through;
mod turns;

pub use channels::ChannelSummary;
pub use choose::Plan;
pub use error::{BuyError, ProofFailure};
pub use live::{LiveBatch, LiveEvent, LiveStatus, SubscribeRequest, Subscription};
pub use order::{Bought, BuyRequest, OrderReceipt, OrderState, OrderSummary, PaidBy, Progress};
pub use proof::{AnchorDue, Part};
pub use reads::{Read, Reads, ReadsError, ReadsReport, ReadsRequest, Want};
pub use release::{ReleaseLimits, ReleaseSummary, Released};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis, TxOut};
use sensora_protocol::ad::{PaymentMode, StreamAd};
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::budget::Budgets;
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::{BuyerLimits, Offer, OfferError, Range};
use sensora_protocol::market::payment;
use sensora_protocol::market::purchase::{Purchase, PurchaseEvent, SignedPayment};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::Reading;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{Identity, OrderId, Signed, StreamId};

use crate::chain_access::ChainAccess;
use crate::clock::Clock;
use crate::discovery::Discovery;
use crate::net::{Net, Offence, Protocol, RequestError, peer_id_from_public_key};
use crate::stakes::AllStakes;
use crate::store::bought::{self, BoughtStream};
use crate::store::{Store, channels as records, orders, release as releases};
use crate::stripes::Stripes;
use crate::wallet::{WalletHandle, WalletHandleError};
use turns::Turns;

/// How long one answer of a seller may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a request is sent again when no answer comes, before the purchase is left for later.
const ATTEMPTS: u32 = 5;
/// Pause before the first repetition; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Buys for one node. Cheap to clone.
///
/// An order is worked on by one task at a time, whoever asks for it, and what to order of a stream is decided by one at a time: so
/// nothing is ordered twice, and no answer meets a state that is already past.
#[derive(Clone)]
pub struct Buyer {
    inner: Arc<BuyerParts>,
    turns: Arc<Turns>,
    streams: Arc<Stripes>,
    channels: Arc<channels::Channels>,
    releases: Arc<release::Releases>,
    /// What is open with each seller, over all orders however they are paid.
    stakes: Arc<AllStakes>,
}

/// What a buyer works with.
pub struct BuyerParts {
    /// The swarm.
    pub net: Net,
    /// Knows where sellers are.
    pub discovery: Discovery,
    /// Pays.
    pub wallet: WalletHandle,
    /// Has the headers.
    pub chain: ChainAccess,
    /// Keeps orders and readings.
    pub store: Store,
    /// Signs.
    pub identity: Identity,
    /// The network.
    pub network: Network,
    /// The time.
    pub clock: Clock,
    /// Where the store is, to see how full the disk is.
    pub home: Option<PathBuf>,
    /// What may be spent in a day.
    pub budgets: Budgets,
}

impl Buyer {
    /// A buyer.
    #[must_use]
    pub fn new(parts: BuyerParts) -> Self {
        Self {
            inner: Arc::new(parts),
            turns: Arc::default(),
            streams: Arc::default(),
            channels: Arc::default(),
            releases: Arc::default(),
            stakes: Arc::default(),
        }
    }

    /// Works on the blocking pool, to the end also where the caller is dropped.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, BuyError> + Send + 'static,
    ) -> Result<T, BuyError> {
        let buyer = self.clone();
        match tokio::task::spawn_blocking(move || work(&buyer)).await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "a step of a purchase was not done to its end");
                Err(BuyError::Stopping)
            }
        }
    }

    /// Asks a seller, again where no answer comes: each request means the same when it comes twice.
    ///
    /// # Errors
    /// [`BuyError::Request`].
    pub async fn ask(&self, seller: &PublicKey, request: &Request) -> Result<Response, BuyError> {
        let BuyerParts { net, discovery, .. } = &*self.inner;
        let named = || peer_id(seller);
        let peer = peer_id_from_public_key(&seller.to_bytes());
        let peer = peer.ok_or(BuyError::Unexpected { asked: "peer id", got: "no key" })?;
        let body = Bytes::from(request.to_bytes()?);
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let addresses = discovery.addresses(seller);
            let answer = net.request(peer, addresses, Protocol::Market, body.clone(), ASK_TIMEOUT).await;
            let source = match answer {
                Ok(bytes) => match Response::from_bytes(&bytes) {
                    Ok(Response::Refused(Refusal::Busy { retry_ms })) if attempt < ATTEMPTS => {
                        tokio::time::sleep(Duration::from_millis(retry_ms.clamp(10, 10_000))).await;
                        continue;
                    }
                    Ok(response) => return Ok(response),
                    Err(error) => {
                        net.report(peer, Offence::Malformed).await;
                        return Err(error.into());
                    }
                },
                Err(error) => error,
            };
            if attempt >= ATTEMPTS || matches!(source, RequestError::TooLarge { .. } | RequestError::Stopped)
            {
                return Err(BuyError::Request { seller: named(), source: Box::new(source) });
            }
            tracing::debug!(%source, attempt, "no answer, asking again");
            net.rest(peer, pause).await;
            pause = pause.saturating_mul(2);
        }
        Err(BuyError::Unexpected { asked: request.name(), got: "nothing" })
    }

    /// Free readings of a stream, verified.
    ///
    /// # Errors
    /// [`BuyError`].
    pub async fn sample(
        &self,
        seller: &PublicKey,
        stream: &StreamAd,
        count: u32,
    ) -> Result<Vec<Reading>, BuyError> {
        let request = Request::Sample { stream: stream.id, count };
        let sample = match self.ask(seller, &request).await? {
            Response::Ok(Answer::Sample(sample)) => sample,
            other => return Err(unexpected(&request, other)),
        };
        let checkpoint = sample.checkpoint.verify_by::<Checkpoint>(self.inner.network, seller);
        let checkpoint = checkpoint.map_err(ProofFailure::from)?;
        let checkpoint = checkpoint.value();
        if checkpoint.stream != stream.id {
            return Err(ProofFailure::OtherStream(checkpoint.stream).into());
        }
        let first = sample.page.runs.first().map_or(0, |run| run.first);
        let proven = sample.page.open(&stream.schema, checkpoint, first, checkpoint.size);
        Ok(proven.map_err(ProofFailure::Delivery)?.readings)
    }

    /// The seller's offer for a range, checked against limits and ad.
    ///
    /// # Errors
    /// [`BuyError`].
    pub async fn quote(&self, request: &BuyRequest) -> Result<Signed<Offer>, BuyError> {
        let BuyRequest { seller, stream, range, limits, ad } = request;
        let offer = self.offer(seller, *stream, *range, PaymentMode::Direct).await?;
        self.accept(&offer, *stream, *range, ad.as_ref(), *limits)?;
        Ok(offer)
    }

    async fn offer(
        &self,
        seller: &PublicKey,
        stream: StreamId,
        range: Range,
        mode: PaymentMode,
    ) -> Result<Signed<Offer>, BuyError> {
        let question = Request::Quote { stream, range, mode };
        match self.ask(seller, &question).await? {
            Response::Ok(Answer::Offer(offer)) => {
                Ok(offer.verify_by::<Offer>(self.inner.network, seller).map_err(OfferError::from)?)
            }
            other => Err(unexpected(&question, other)),
        }
    }

    fn accept(
        &self,
        offer: &Signed<Offer>,
        stream: StreamId,
        range: Range,
        ad: Option<&StreamAd>,
        limits: BuyerLimits,
    ) -> Result<(), OfferError> {
        let BuyerParts { identity, network, clock, .. } = &*self.inner;
        Offer::accept(offer, *network, identity.public(), stream, range, ad, limits, clock.now_ms())
            .map(|_| ())
    }

    /// Buys what of a range is not here yet with a transaction for each order, verifies it and keeps it. An order for a part of it that is under
    /// way, from before a crash or by another task, is gone on with and not made again.
    ///
    /// # Errors
    /// [`BuyError`]. Orders that have been paid go on with [`Buyer::resume`].
    pub async fn buy(
        &self,
        request: &BuyRequest,
        mut progress: impl FnMut(Progress),
    ) -> Result<Bought, BuyError> {
        self.buy_by(PaymentMode::Direct, request, &mut progress).await
    }

    /// As [`Buyer::buy`], paid through an open channel with the seller while it comes.
    ///
    /// # Errors
    /// [`BuyError::NoChannel`] where no channel with the seller has enough left; the others as for [`Buyer::buy`].
    pub async fn buy_through_channel(
        &self,
        request: &BuyRequest,
        mut progress: impl FnMut(Progress),
    ) -> Result<Bought, BuyError> {
        self.buy_by(PaymentMode::Channel, request, &mut progress).await
    }

    async fn buy_by(
        &self,
        mode: PaymentMode,
        request: &BuyRequest,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Bought, BuyError> {
        let BuyRequest { seller, stream, range, limits, ad } = request;
        let (first, end, mut quoted) = match *range {
            Range::Seq { first, count } => {
                let end = first.checked_add(count).filter(|_| count > 0);
                (first, end.ok_or(BuyError::Range { first, count })?, None)
            }
            _ => {
                // What is here already does not have to be within the limits: they are checked for what is paid.
                let offer = self.offer(seller, *stream, *range, mode).await?;
                let terms = offer.value();
                let (first, count) = (terms.first, terms.count);
                let end = first.checked_add(count).filter(|_| count > 0);
                (first, end.ok_or(BuyError::Range { first, count })?, Some(offer))
            }
        };
        let count = end.saturating_sub(first);
        let mut kept = None;
        let mut orders = Vec::new();
        let mut paid = Satoshis::ZERO;
        loop {
            let deciding = self.streams.lock(stream).await;
            if let Some(open) = self.open_order(stream, first, end)? {
                drop(deciding);
                self.go_on_with(&open, progress).await?;
                continue;
            }
            let missing = self.inner.store.read(|tx| bought::missing(tx, stream, first, end))?;
            let wanted: u64 = missing.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
            kept.get_or_insert(count.saturating_sub(wanted));
            let Some((from, to)) = missing.first().copied() else { break };
            self.not_live(stream, from, to)?;
            if mode != PaymentMode::Direct {
                self.none_may_return(stream, from, to)?;
            }
            let seq = Range::Seq { first: from, count: to.saturating_sub(from) };
            let (offer, asked) = match quoted.take() {
                Some(offer) if (from, to) == (first, end) => (offer, *range),
                _ => (self.offer(seller, *stream, seq, mode).await?, seq),
            };
            let left = limits.max_price.checked_sub(paid).unwrap_or(Satoshis::ZERO);
            self.accept(&offer, *stream, asked, ad.as_ref(), BuyerLimits { max_price: left, ..*limits })?;
            let terms = offer.value();
            progress(Progress::Quoted { count: terms.count, total: terms.total });
            let total = terms.total;
            let id = match mode {
                PaymentMode::Channel => {
                    self.order_range_through_channel(&offer, limits.exposure, deciding).await?
                }
                _ => {
                    let (exposure, signed) = (limits.exposure, offer.clone());
                    let ordered = self.blocking(move |buyer| {
                        // Until it is stored, also where the caller is dropped: whoever decides next sees it.
                        let _deciding = deciding;
                        buyer.order_within(&signed, Some(exposure))
                    });
                    let purchase = ordered.await?;
                    if let Some(payment) = &purchase.payment {
                        progress(Progress::Paying { order: purchase.id, txid: payment.txid });
                    }
                    purchase.id
                }
            };
            paid = paid.checked_add(total).unwrap_or(paid);
            // Refused, it is told: ordering anew is for whoever asks again.
            match mode {
                PaymentMode::Channel => self.go_on_with(&id, progress).await?,
                _ => drop(self.drive(&id, progress).await?),
            }
            orders.push(id);
        }
        let kept = kept.unwrap_or(count);
        Ok(Bought { stream: *stream, first, count, orders, kept, paid })
    }

    /// Goes on with an order, whichever way it is paid.
    async fn go_on_with(&self, id: &OrderId, progress: &mut impl FnMut(Progress)) -> Result<(), BuyError> {
        if self.inner.store.read(|tx| records::purchase(tx, id))?.is_some() {
            return self.receive(id, false, &mut through::Showing(progress)).await.map(|_| ());
        }
        if self.inner.store.read(|tx| releases::purchase(tx, id))?.is_some() {
            return match Box::pin(self.drive_release(id, Duration::ZERO, progress)).await {
                Err(BuyError::GivenUp { taken_back: true, .. }) if self.is_held(id)? => {
                    Err(BuyError::GivenUp { order: *id, taken_back: false })
                }
                Ok(true) | Err(BuyError::GivenUp { taken_back: true, .. }) => Ok(()),
                Ok(false) => Err(BuyError::KeyAwaited { order: *id }),
                Err(error) => Err(error),
            };
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

    /// The order under way that is to bring readings of `[first, end)`, if there is one. Live streams are not asked: nobody knows when they bring what.
    fn open_order(&self, stream: &StreamId, first: u64, end: u64) -> Result<Option<OrderId>, BuyError> {
        let direct = self.inner.store.read(orders::open_purchases)?;
        for purchase in direct.into_iter().filter(|purchase| !purchase.may_return()) {
            let offer = purchase.terms(self.inner.network)?;
            let terms = offer.value();
            let missing = purchase.next.max(first)..terms.first.saturating_add(terms.count).min(end);
            if &terms.stream == stream && !missing.is_empty() {
                return Ok(Some(purchase.id));
            }
        }
        for purchase in self.inner.store.read(records::open_purchases)? {
            let terms = purchase.offer.terms(self.inner.network, &purchase.seller)?;
            // Also where all readings are here: the last of them may not be paid yet, and its receipt is missing.
            let Some(last) = terms.end else { continue };
            let wanted = terms.first.max(first)..last.min(end);
            if &terms.stream == stream && !wanted.is_empty() {
                return Ok(Some(purchase.id));
            }
        }
        for (purchase, terms) in self.held_releases()? {
            let wanted = terms.first.max(first)..terms.end.min(end);
            if &terms.stream == stream && !wanted.is_empty() {
                return Ok(Some(purchase.id));
            }
        }
        Ok(None)
    }

    /// No live stream is to bring readings of `[first, end)`.
    fn not_live(&self, stream: &StreamId, first: u64, end: u64) -> Result<(), BuyError> {
        for purchase in self.inner.store.read(records::open_purchases)? {
            let terms = purchase.offer.terms(self.inner.network, &purchase.seller)?;
            if terms.end.is_none() && &terms.stream == stream && purchase.next < end {
                let last = end.saturating_sub(1);
                return Err(BuyError::AlreadyOrdered { first, last, order: Some(purchase.id) });
            }
        }
        Ok(())
    }

    /// Orders and pays: order, payment and the wallet's reservation are on disk when this returns, and nothing has been sent yet.
    ///
    /// # Errors
    /// [`BuyError`]; [`BuyError::AlreadyOrdered`] for readings that are here or under way.
    pub fn order(&self, offer: &Signed<Offer>) -> Result<Purchase, BuyError> {
        self.order_within(offer, None)
    }

    /// As [`Buyer::order`], if the price and all that is paid to this seller and not delivered yet are within `exposure`.
    fn order_within(&self, offer: &Signed<Offer>, exposure: Option<Satoshis>) -> Result<Purchase, BuyError> {
        let BuyerParts { wallet, identity, network, clock, .. } = &*self.inner;
        let terms = offer.value();
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| BuyError::Randomness(error.to_string()))?;
        let now_ms = clock.now_ms();
        let mut purchase = Purchase::agree(offer, nonce, identity, *network, now_ms)?;
        let order = purchase.signed_order(*network)?;
        let locking = payment::script_for_buyer(order.value(), identity.key(), offer.key());
        let outputs = vec![TxOut { value: terms.total, locking }];
        let mut spec = wallet.spec(outputs, &format!("order {}", purchase.id))?;
        let stream = BoughtStream {
            id: terms.stream,
            seller: *offer.key(),
            name: terms.name.clone(),
            schema: terms.schema.clone(),
            licence: terms.licence.clone(),
        };
        let (first, end) = (terms.first, terms.first.saturating_add(terms.count));
        let staked = exposure.map(|exposure| self.stake(offer.key(), purchase.id, terms.total, exposure));
        let staked = staked.transpose()?;
        let stored = wallet.update(|wallet, tx| {
            // Nobody else changes anything meanwhile, so what is stored now is what there is.
            let open = self.open_order(&terms.stream, first, end)?;
            let missing = self.inner.store.read(|tx| bought::missing(tx, &terms.stream, first, end))?;
            if open.is_some() || missing != [(first, end)] {
                let last = end.saturating_sub(1);
                return Err(BuyError::AlreadyOrdered { first, last, order: open });
            }
            spec.spends = self.excluding(wallet, &terms.stream, first, end)?;
            self.commit(tx, &purchase.id, offer.key(), terms.total)?;
            let built = wallet.build(identity.key(), spec, now_ms).map_err(WalletHandleError::from)?;
            let payment = SignedPayment { txid: built.txid, beef: built.beef };
            let id = purchase.id;
            let paid = purchase.handle(PurchaseEvent::Paid(payment), *network);
            paid.map_err(|source| BuyError::Purchase { order: id, source: Box::new(source) })?;
            bought::put_stream(tx, &stream)?;
            orders::put_purchase(tx, &purchase)?;
            Ok::<_, BuyError>(())
        });
        if let (Err(_), Some(stakes)) = (&stored, staked) {
            stakes.change(|stakes| stakes.note(purchase.id, Satoshis::ZERO));
        }
        stored?;
        self.note_direct(&purchase)?;
        Ok(purchase)
    }
}

fn unexpected(request: &Request, response: Response) -> BuyError {
    match response {
        Response::Refused(refusal) => BuyError::Refused(refusal),
        response => BuyError::Unexpected { asked: request.name(), got: response.name() },
    }
}
