//! The seller: answers `/sensora/market/1`.
//!
//! What may be sold, for how much and when an order counts as paid is decided by [`sensora_protocol::market::sale`]; this room stores,
//! broadcasts and answers in the order that the state machine asks for.

mod admitted;
pub mod channels;
pub mod earnings;
mod payments;
mod reads;
pub mod release;
mod room;
pub mod supply;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use sensora_protocol::ad::{Ad, PaymentMode, StreamAd};
use sensora_protocol::market::channel::message::{ChannelReport, OpenChannel};
use sensora_protocol::market::delivery::supply::ChannelSaleState;
use sensora_protocol::market::live::LiveOffer;
use sensora_protocol::market::message::{AnchoredProof, Answer, LiveFrom, Request, Response, Sample};
use sensora_protocol::market::offer::{DEFAULT_LIFETIME_MS, Offer, Range};
use sensora_protocol::market::price::{Metered, Tariff, usual_gap_ms};
use sensora_protocol::market::receipt::HOLD_MS;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::{Sale, SaleState};
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{Identity, OrderId, Signed, SignedBytes, StreamId};
use tokio_util::sync::CancellationToken;

use self::admitted::Admitted;
use self::room::Room;
use super::anchorer::{Anchorer, MIN_FREE_SPACE};
use super::recorder::{Recorder, RecorderError};
use crate::chain_access::ChainAccess;
use crate::clock::{Clock, Stopwatch};
use crate::net::Net;
use crate::store::{Store, StoreError, channels as records, orders};
use crate::stripes::Stripes;
use crate::wallet::WalletHandle;
use channels::Channels;
use release::{ReleasePolicy, Releases};
use supply::{Credit, Supplies};

/// How often the payments of such orders go out again, and old orders are looked for.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// How long a buyer waits for the node to learn where the chain ends, after its start.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How often headers are asked for because a payment rests on a block that is not known: whoever says so may be lying.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an order is kept: as long as it is answered for, and a day for what lay between its admission and its payment.
const KEEP_SOLD_MS: i64 = HOLD_MS + DAY_MS;
/// Most orders that are forgotten in one change.
const FORGET_AT_ONCE: usize = 1000;
/// Most free readings in one answer.
const MAX_SAMPLE: u32 = 1000;
/// Most buyers and streams in one day whose free readings are counted: about 10 MB. Who comes after them has to buy.
const MAX_SAMPLE_LINES: u64 = 100_000;
/// Milliseconds in a day.
const DAY_MS: i64 = 24 * 3600 * 1000;

/// What is sold now.
#[derive(Debug, Default)]
struct Terms {
    streams: BTreeMap<StreamId, StreamAd>,
    ad: Option<Signed<Ad>>,
}

/// Sells the streams of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Seller {
    inner: Arc<Inner>,
}

struct Inner {
    parts: SellerParts,
    terms: RwLock<Terms>,
    /// An order is worked on by one task at a time.
    orders: Stripes,
    /// Orders whose payment the network has not answered.
    admitted: Admitted,
    looked: Mutex<Option<Stopwatch>>,
    /// Held by who looks where the chain ends, as long as that is not known.
    first_look: Arc<tokio::sync::Mutex<()>>,
    /// Orders that were paid since the start.
    sold: AtomicU64,
    /// Deliveries that are paid through channels.
    supplies: Supplies,
    /// Batches whose key is released on the chain.
    releases: Releases,
    /// Checkpoints that single readings were last proven under.
    signatures: reads::Signatures,
    /// Streams that are served.
    room: Arc<Room>,
}

/// What a seller works with.
pub struct SellerParts {
    /// The streams.
    pub recorder: Recorder,
    /// Their anchors.
    pub anchorer: Anchorer,
    /// The swarm, in which misbehaviour is reported.
    pub net: Net,
    /// What buyers pay with beside single payments.
    pub channels: Channels,
    /// What may stand open with buyers that pay through channels.
    pub credit: Credit,
    /// Whether and how batches are sold whose key is released on the chain.
    pub releases: ReleasePolicy,
    /// Takes the coins.
    pub wallet: WalletHandle,
    /// Broadcasts payments and has the headers.
    pub chain: ChainAccess,
    /// Keeps the orders.
    pub store: Store,
    /// Signs.
    pub identity: Identity,
    /// The network.
    pub network: Network,
    /// The time.
    pub clock: Clock,
    /// Where the store is, to see how full the disk is.
    pub home: Option<PathBuf>,
}

impl Seller {
    /// A seller that offers nothing yet.
    #[must_use]
    pub fn new(parts: SellerParts) -> Self {
        let (terms, orders, admitted, looked) =
            (RwLock::default(), Stripes::default(), Admitted::default(), Mutex::default());
        let (sold, supplies) = (AtomicU64::new(0), Supplies::new(parts.credit));
        let (releases, signatures, room) =
            (Releases::default(), reads::Signatures::default(), Arc::<Room>::default());
        let first_look = Arc::default();
        let inner = Inner {
            parts,
            terms,
            orders,
            admitted,
            looked,
            first_look,
            sold,
            supplies,
            releases,
            signatures,
            room,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sets what is offered. An ad that is withdrawn ends all quotes; orders that are paid are still delivered.
    pub fn set_ad(&self, ad: Signed<Ad>) {
        let streams = ad.value().streams.iter().map(|stream| (stream.id, stream.clone())).collect();
        *self.inner.terms.write().unwrap_or_else(PoisonError::into_inner) = Terms { streams, ad: Some(ad) };
    }

    /// The current ad.
    #[must_use]
    pub fn ad(&self) -> Option<Signed<Ad>> {
        self.inner.terms.read().unwrap_or_else(PoisonError::into_inner).ad.clone()
    }

    /// The channels that it is paid with.
    #[must_use]
    pub fn channels(&self) -> &Channels {
        &self.inner.parts.channels
    }

    fn stream(&self, id: &StreamId) -> Result<StreamAd, Refusal> {
        let terms = self.inner.terms.read().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.inner.parts.clock.now_ms();
        let on_offer = |ad: &Signed<Ad>| ad.value().check_on_offer(ad.key(), now_ms).is_ok();
        // It has just started and offers nothing yet: whoever asks now is not sent away for good.
        let ad = terms.ad.as_ref().ok_or(Refusal::Busy { retry_ms: 500 })?;
        if !on_offer(ad) {
            return Err(Refusal::NotSelling);
        }
        terms.streams.get(id).cloned().ok_or(Refusal::UnknownStream { stream: *id })
    }

    /// Whether it delivers over streams, which are paid through channels.
    #[must_use]
    pub fn delivers(&self) -> bool {
        self.inner.parts.channels.are_served()
    }

    /// Answers one frame of `/sensora/market/1`, and says whether it was one.
    pub async fn answer_frame(&self, peer: &PublicKey, frame: &[u8]) -> (Vec<u8>, bool) {
        let (response, is_request) = match Request::from_bytes(frame) {
            Ok(request) => (self.answer(peer, request).await, true),
            Err(error) => {
                (Response::Refused(Refusal::Malformed { reason: error.to_string() }.tamed()), false)
            }
        };
        let bytes = response.to_bytes().unwrap_or_else(|error| {
            tracing::error!(%error, "an answer does not fit its frame");
            Vec::new()
        });
        (bytes, is_request)
    }

    /// Answers one request of the peer with this key. Disk, signatures and proofs are worked on where waiting holds nobody up.
    pub async fn answer(&self, peer: &PublicKey, request: Request) -> Response {
        let name = request.name();
        let answer = match request {
            Request::Purchase(request) => self.purchase(peer, request).await.map(Answer::Receipt),
            Request::OpenChannel(request) => self.open_channel(peer, request).await.map(Answer::Channel),
            Request::CloseChannel(request) => {
                self.inner.parts.channels.close_channel(peer, request).await.map(Answer::Channel)
            }
            Request::QuoteChannel { value, blocks } => self.quote_channel(peer, value, blocks).await,
            request => {
                let peer = *peer;
                self.blocking(move |seller| seller.look_up(&peer, request)).await
            }
        };
        match answer {
            Ok(answer) => Response::Ok(answer),
            Err(refusal) => {
                tracing::debug!(request = name, code = refusal.code(), %refusal, "refused");
                Response::Refused(refusal)
            }
        }
    }

    async fn open_channel(&self, peer: &PublicKey, request: OpenChannel) -> Result<ChannelReport, Refusal> {
        let SellerParts { channels, chain, .. } = &self.inner.parts;
        match channels.open_channel(peer, request.clone()).await {
            // Our headers are what is behind, not the buyer: look, and judge again.
            Err(Refusal::HeadersBehind { .. }) if self.may_look() => {
                if let Err(error) = chain.refresh().await {
                    tracing::debug!(%error, "the headers could not be brought up to date");
                }
                channels.open_channel(peer, request).await
            }
            opened => opened,
        }
    }

    async fn quote_channel(&self, peer: &PublicKey, value: Satoshis, blocks: u32) -> Result<Answer, Refusal> {
        self.inner.parts.channels.is_offered(value, blocks)?;
        self.learn_end().await?;
        let peer = *peer;
        self.blocking(move |seller| {
            let offer = seller.inner.parts.channels.quote(&peer, value, blocks)?;
            Ok(Answer::ChannelOffer(offer.into_bytes()))
        })
        .await
    }

    /// Learns where the chain ends, where that is not known. Refund heights are counted from the tip, and one that was stored before the start may be
    /// days old: an offer may be over before it is made, and what a channel pays with may be the buyer's again.
    ///
    /// # Errors
    /// [`Refusal::Busy`] where nobody says so in time; who looks goes on.
    async fn learn_end(&self) -> Result<(), Refusal> {
        let chain = &self.inner.parts.chain;
        if chain.knows_end() {
            return Ok(());
        }
        if let Ok(looking) = self.inner.first_look.clone().try_lock_owned()
            && self.may_look()
        {
            let chain = chain.clone();
            tokio::spawn(async move {
                let _looking = looking;
                if let Err(error) = chain.refresh().await {
                    tracing::debug!(%error, "nobody says where the chain ends");
                }
            });
        }
        // Whoever waits has others to ask.
        let known = tokio::time::timeout(FIRST_LOOK, chain.end_known()).await;
        known.map_err(|_| Refusal::Busy { retry_ms: 1_000 })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let seller = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&seller)).await;
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "a request could not be worked on");
            Err(Refusal::StorageUnavailable)
        })
    }

    fn look_up(&self, peer: &PublicKey, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Ad => self.ad().map(|ad| Answer::Ad(ad.into_bytes())).ok_or(Refusal::NotSelling),
            Request::Sample { stream, count } => self.sample(peer, stream, count),
            Request::Quote { stream, range, mode } => self.quote(peer, stream, range, mode),
            Request::QuoteLive { stream, from, by } => self.quote_live(peer, stream, from, by),
            Request::QuoteReads { stream } => self.quote_reads(peer, stream),
            Request::AskChannel(request) => {
                self.inner.parts.channels.ask(peer, &request).map(Answer::Channel)
            }
            Request::Fetch { order, first } => self.fetch(peer, order, first),
            Request::Receipt { order } => self.receipt(peer, order),
            Request::Proof { stream, first, count, size } => self.proof(stream, first, count, size),
            Request::Purchase(_)
            | Request::QuoteChannel { .. }
            | Request::OpenChannel(_)
            | Request::CloseChannel(_) => Err(Refusal::Malformed { reason: "it is no question".into() }),
        }
    }

    /// What a stream costs as it comes.
    fn quote_live(
        &self,
        peer: &PublicKey,
        id: StreamId,
        from: LiveFrom,
        by: Metered,
    ) -> Result<Answer, Refusal> {
        let SellerParts { recorder, identity, network, clock, .. } = &self.inner.parts;
        let stream = self.stream(&id)?;
        let tariff = match by {
            Metered::Reading => Tariff::Reading(stream.price),
            Metered::Second => {
                let price = stream.second.ok_or(Refusal::NotBySecond)?;
                Tariff::Second { price, longest_gap_ms: usual_gap_ms(stream.cadence_ms) }
            }
        };
        let size = recorder.summary(&id).map_err(storage)?.size;
        let first = match from {
            LiveFrom::Latest => size,
            LiveFrom::Seq(first) if first <= size => first,
            LiveFrom::Seq(_) => return Err(Refusal::RangeNotAvailable { size }),
            LiveFrom::Time(from) => {
                let found = recorder.resolve(&id, Range::Time { from, to: i64::MAX }).map_err(storage)?;
                found.map_or(size, |(first, _)| first)
            }
        };
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| Refusal::Busy { retry_ms: 1000 })?;
        let issued_ms = clock.now_ms();
        let offer = LiveOffer {
            stream: id,
            name: stream.name,
            schema: stream.schema,
            buyer: *peer,
            first,
            tariff,
            licence: stream.licence,
            nonce,
            issued_ms,
            expires_ms: issued_ms.saturating_add(DEFAULT_LIFETIME_MS),
        };
        let offer = Signed::sign(offer, identity, *network).map_err(|error| failed(&error))?;
        Ok(Answer::LiveOffer(offer.into_bytes()))
    }

    fn quote(
        &self,
        peer: &PublicKey,
        id: StreamId,
        range: Range,
        mode: PaymentMode,
    ) -> Result<Answer, Refusal> {
        let SellerParts { identity, network, .. } = &self.inner.parts;
        let offer = self.plain_offer(peer, id, range, mode)?;
        let offer = Signed::sign(offer, identity, *network).map_err(|error| {
            tracing::error!(%error, "an offer could not be signed");
            Refusal::NotSelling
        })?;
        Ok(Answer::Offer(offer.into_bytes()))
    }

    /// What a range costs and which checkpoint it is sold under, not signed yet.
    fn plain_offer(
        &self,
        peer: &PublicKey,
        id: StreamId,
        range: Range,
        mode: PaymentMode,
    ) -> Result<Offer, Refusal> {
        let SellerParts { recorder, clock, .. } = &self.inner.parts;
        let stream = self.stream(&id)?;
        let found = recorder.resolve(&id, range).map_err(storage)?;
        let newest = recorder.checkpoint(&id).map_err(storage)?;
        let size = newest.as_ref().map_or(0, |checkpoint| checkpoint.value().size);
        let unavailable = Refusal::RangeNotAvailable { size };
        let (Some(newest), Some((first, end))) = (newest, found) else { return Err(unavailable) };
        let (checkpoint, first, end) = match range {
            // "The newest" is what is newest under the checkpoint, so that the buyer can check it.
            Range::Latest => (newest, size.saturating_sub(1), size),
            Range::Last(count) => (newest, size.saturating_sub(count), size),
            Range::Seq { .. } | Range::Time { .. } => (self.checkpoint_over(&id, end, newest), first, end),
        };
        let count = end.saturating_sub(first);
        let max = stream.limits.max_readings;
        if count > max {
            return Err(Refusal::TooManyReadings { asked: count, max });
        }
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| Refusal::Busy { retry_ms: 1000 })?;
        let issued_ms = clock.now_ms();
        Ok(Offer {
            stream: id,
            name: stream.name,
            schema: stream.schema,
            buyer: *peer,
            first,
            count,
            checkpoint: checkpoint.into_bytes(),
            price: stream.price,
            total: stream.price.total(count).map_err(|_| Refusal::TooManyReadings { asked: count, max })?,
            mode,
            licence: stream.licence,
            nonce,
            issued_ms,
            expires_ms: issued_ms.saturating_add(DEFAULT_LIFETIME_MS),
        })
    }

    /// The anchored checkpoint where it covers the range, else the newest: what is proven on chain is worth more.
    fn checkpoint_over(&self, id: &StreamId, end: u64, newest: Signed<Checkpoint>) -> Signed<Checkpoint> {
        match self.inner.parts.anchorer.proof(id, end) {
            Ok(Some((anchored, _))) if anchored.value().size >= end => anchored,
            _ => newest,
        }
    }

    fn sample(&self, peer: &PublicKey, id: StreamId, count: u32) -> Result<Answer, Refusal> {
        let SellerParts { recorder, store, clock, .. } = &self.inner.parts;
        let stream = self.stream(&id)?;
        let allowance = stream.sample;
        let checkpoint = recorder.checkpoint(&id).map_err(storage)?;
        let checkpoint = checkpoint.ok_or(Refusal::RangeNotAvailable { size: 0 })?;
        let size = checkpoint.value().size;
        let wanted = count.clamp(1, MAX_SAMPLE).min(u32::try_from(size).unwrap_or(u32::MAX));
        let day = u32::try_from(clock.now_ms().div_euclid(DAY_MS)).unwrap_or(0).to_be_bytes();
        let key = [day.as_slice(), &peer.to_bytes(), id.as_bytes()].concat();
        let take = |tx: &redb::WriteTransaction| {
            orders::forget_samples_before(tx, &day)?;
            let had = orders::samples_had(tx, &key)?;
            let taken = wanted.min(allowance.saturating_sub(had));
            if had == 0 && orders::sample_lines(tx)? >= MAX_SAMPLE_LINES {
                return Ok(0);
            }
            orders::put_samples_had(tx, &key, had.saturating_add(taken))?;
            Ok::<_, StoreError>(taken)
        };
        // Most who ask again have had theirs: that is seen without writing anything.
        let had = store.read(|tx| orders::samples_had_before(tx, &key));
        if had.map_err(|error| storage(error.into()))? >= allowance {
            return Err(Refusal::SampleUsedUp { allowance });
        }
        let taken = store.write(take).map_err(|error| storage(error.into()))?;
        if taken == 0 {
            return Err(Refusal::SampleUsedUp { allowance });
        }
        let first = size.saturating_sub(u64::from(taken));
        let page = recorder.page(&id, first, size, size).map_err(storage)?;
        Ok(Answer::Sample(Sample { checkpoint: checkpoint.into_bytes(), page }))
    }

    /// How many orders were paid since the start: whoever shows sales looks at the stored ones only when this has changed.
    #[must_use]
    pub fn sold_count(&self) -> u64 {
        self.inner.sold.load(Ordering::Relaxed)
    }

    /// Looks up which payments of before a restart the network has not answered.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn resume(&self) -> Result<(), StoreError> {
        let SellerParts { store, .. } = &self.inner.parts;
        let admitted = store.read(orders::admitted_sales)?;
        self.inner.admitted.extend(admitted.into_iter().map(|sale| (sale.order, sale.buyer)));
        self.load_releases()?;
        self.note_open()
    }

    /// Until cancelled: brings payments to the network that it has not answered, from before a restart too, and forgets orders
    /// that have been answered for long enough. Streams give way where there are too many.
    pub async fn run(self, cancel: CancellationToken) {
        tokio::join!(self.run_orders(&cancel), self.inner.room.run(&cancel));
    }

    async fn run_orders(&self, cancel: &CancellationToken) {
        loop {
            if cancel.run_until_cancelled(self.settle_admitted()).await.is_none() {
                return;
            }
            if let Err(error) = self.leave_orders().await {
                tracing::error!(%error, "orders on closed channels could not be ended");
            }
            if let Err(error) = self.forget_old() {
                tracing::error!(%error, "orders whose time is over could not be forgotten");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(SETTLE_EVERY) => {}
            }
        }
    }

    /// Forgets orders that have been answered for long enough.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn forget_old(&self) -> Result<(), StoreError> {
        self.forget_ended()?;
        let SellerParts { store, clock, .. } = &self.inner.parts;
        let before = clock.now_ms().saturating_sub(KEEP_SOLD_MS);
        let old = store.read(|tx| orders::sales_admitted_before(tx, before, FORGET_AT_ONCE))?;
        if old.is_empty() {
            return Ok(());
        }
        store.write(|tx| old.iter().try_for_each(|order| orders::remove_sale(tx, order)))?;
        for order in old {
            self.inner.admitted.leave(&order);
        }
        Ok(())
    }

    fn sold(&self, peer: &PublicKey, order: OrderId) -> Result<(Sale, SignedBytes), Refusal> {
        let sale = self.inner.parts.store.read(|tx| orders::sale(tx, &order));
        let sale = sale.map_err(|error| storage(error.into()))?.filter(|sale| &sale.buyer == peer);
        let sale = sale.ok_or(Refusal::UnknownOrder { order })?;
        match sale.state.clone() {
            SaleState::Sold { receipt } => Ok((sale, receipt)),
            SaleState::Admitted => Err(Refusal::ChainUnavailable),
        }
    }

    fn receipt(&self, peer: &PublicKey, order: OrderId) -> Result<Answer, Refusal> {
        let on_channel = self.inner.parts.store.read(|tx| records::sale(tx, &order));
        let on_channel = on_channel.map_err(|error| storage(error.into()))?;
        match on_channel.filter(|sale| &sale.buyer == peer).map(|sale| sale.state) {
            Some(ChannelSaleState::Ended { receipt }) => Ok(Answer::Receipt(receipt)),
            _ => self.sold(peer, order).map(|(_, receipt)| Answer::Receipt(receipt)),
        }
    }

    fn fetch(&self, peer: &PublicKey, order: OrderId, first: u64) -> Result<Answer, Refusal> {
        let SellerParts { recorder, network, .. } = &self.inner.parts;
        let (sale, _) = self.sold(peer, order)?;
        let offer = sale.offer(*network).map_err(|error| damaged(&error))?;
        let terms = offer.value();
        let checkpoint =
            terms.checkpoint.clone().verify::<Checkpoint>(*network).map_err(|error| damaged(&error))?;
        let (end, size) = (terms.first.saturating_add(terms.count), checkpoint.value().size);
        if first < terms.first || first >= end {
            return Err(Refusal::RangeNotAvailable { size });
        }
        recorder.page(&terms.stream, first, end, size).map(Answer::Page).map_err(storage)
    }

    fn proof(&self, id: StreamId, first: u64, count: u64, size: u64) -> Result<Answer, Refusal> {
        let SellerParts { recorder, anchorer, .. } = &self.inner.parts;
        let now = recorder.summary(&id).map_err(|_| Refusal::UnknownStream { stream: id })?.size;
        let end = first.checked_add(count).filter(|end| count > 0 && *end <= size && size <= now);
        let end = end.ok_or(Refusal::RangeNotAvailable { size: now })?;
        let anchored = anchorer.proof(&id, size).map_err(|error| damaged(&error))?;
        let anchored_size = anchored.as_ref().map_or(0, |(checkpoint, _)| checkpoint.value().size);
        let Some((checkpoint, anchor)) = anchored.filter(|_| anchored_size >= size) else {
            return Err(Refusal::NotAnchored { size: anchored_size, due_ms: anchorer.due_ms() });
        };
        let range = recorder.range_proof(&id, first, end, anchored_size).map_err(storage)?;
        let consistency = recorder.consistency_proof(&id, size, anchored_size).map_err(storage)?;
        let checkpoint = checkpoint.into_bytes();
        Ok(Answer::Proof(Box::new(AnchoredProof { checkpoint, range, consistency, anchor })))
    }
}

/// Whether the disk has room only for what is under way. One that does not say is not full.
fn is_full(home: Option<&Path>) -> bool {
    home.is_some_and(|home| crate::home::free_space(home).is_ok_and(|free| free < MIN_FREE_SPACE))
}

fn storage(error: RecorderError) -> Refusal {
    match error {
        RecorderError::UnknownStream(stream) => Refusal::UnknownStream { stream },
        RecorderError::Range { size, .. } => Refusal::RangeNotAvailable { size },
        error => {
            tracing::error!(%error, "the store failed while answering a buyer");
            Refusal::StorageUnavailable
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "a request could not be worked on");
    Refusal::StorageUnavailable
}

fn damaged(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "a stored record cannot be used");
    Refusal::StorageUnavailable
}
