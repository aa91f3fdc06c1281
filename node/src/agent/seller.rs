//! The seller: answers `/sensora/market/1`.
//!
//! What may be sold, for how much and when an order counts as paid is decided by [`sensora_protocol::market::sale`]; this room stores,
//! broadcasts and answers in the order that the state machine asks for.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use sensora_chain::Network;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::keys::PublicKey;
use sensora_chain::wallet::{KeySource, OwnedOutput, Purpose, Received};
use sensora_protocol::ad::{Ad, PaymentMode, StreamAd};
use sensora_protocol::market::message::{AnchoredProof, Answer, Request, Response, Sample};
use sensora_protocol::market::offer::{DEFAULT_LIFETIME_MS, Offer, Range};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::{
    Admission, PurchaseRequest, Sale, SaleAction, SaleEvent, SaleState, order_of,
};
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{Identity, OrderId, Signed, SignedBytes, StreamId};
use tokio::sync::Mutex;

use super::anchorer::{Anchorer, MIN_FREE_SPACE};
use super::recorder::{Recorder, RecorderError};
use crate::chain_access::{BroadcastError, ChainAccess};
use crate::clock::Clock;
use crate::store::{self, Store, StoreError, orders};
use crate::wallet::{WalletHandle, WalletHandleError};

/// Orders are worked on one at a time each; two orders share a lock by chance once in so many.
const ORDER_LOCKS: usize = 256;
/// Most free readings in one answer.
const MAX_SAMPLE: u32 = 1000;
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
    locks: Vec<Mutex<()>>,
}

/// What a seller works with.
pub struct SellerParts {
    /// The streams.
    pub recorder: Recorder,
    /// Their anchors.
    pub anchorer: Anchorer,
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
        let locks = (0..ORDER_LOCKS).map(|_| Mutex::new(())).collect();
        Self { inner: Arc::new(Inner { parts, terms: RwLock::default(), locks }) }
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

    fn stream(&self, id: &StreamId) -> Result<StreamAd, Refusal> {
        let terms = self.inner.terms.read().unwrap_or_else(PoisonError::into_inner);
        if terms.streams.is_empty() {
            return Err(Refusal::NotSelling);
        }
        terms.streams.get(id).cloned().ok_or(Refusal::UnknownStream { stream: *id })
    }

    /// Answers one frame of `/sensora/market/1`.
    pub async fn answer_frame(&self, peer: &PublicKey, frame: &[u8]) -> Vec<u8> {
        let response = match Request::from_bytes(frame) {
            Ok(request) => self.answer(peer, request).await,
            Err(error) => Response::Refused(Refusal::Malformed { reason: error.to_string() }),
        };
        response.to_bytes().unwrap_or_else(|error| {
            tracing::error!(%error, "an answer does not fit its frame");
            Vec::new()
        })
    }

    /// Answers one request of the peer with this key.
    pub async fn answer(&self, peer: &PublicKey, request: Request) -> Response {
        let name = request.name();
        let answer = match request {
            Request::Ad => self.ad().map(|ad| Answer::Ad(ad.into_bytes())).ok_or(Refusal::NotSelling),
            Request::Sample { stream, count } => self.sample(peer, stream, count),
            Request::Quote { stream, range } => self.quote(peer, stream, range),
            Request::Purchase(request) => self.purchase(peer, request).await.map(Answer::Receipt),
            Request::Fetch { order, first } => self.fetch(peer, order, first),
            Request::Receipt { order } => self.receipt(peer, order),
            Request::Proof { stream, first, count, size } => self.proof(stream, first, count, size),
        };
        match answer {
            Ok(answer) => Response::Ok(answer),
            Err(refusal) => {
                tracing::debug!(request = name, code = refusal.code(), %refusal, "refused");
                Response::Refused(refusal)
            }
        }
    }

    fn quote(&self, peer: &PublicKey, id: StreamId, range: Range) -> Result<Answer, Refusal> {
        let SellerParts { recorder, identity, network, clock, .. } = &self.inner.parts;
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
        let offer = Offer {
            stream: id,
            name: stream.name,
            schema: stream.schema,
            buyer: peer.clone(),
            first,
            count,
            checkpoint: checkpoint.into_bytes(),
            price: stream.price,
            total: stream.price.total(count).map_err(|_| Refusal::TooManyReadings { asked: count, max })?,
            mode: PaymentMode::Direct,
            licence: stream.licence,
            nonce,
            issued_ms,
            expires_ms: issued_ms.saturating_add(DEFAULT_LIFETIME_MS),
        };
        let offer = Signed::sign(offer, identity, *network).map_err(|error| {
            tracing::error!(%error, "an offer could not be signed");
            Refusal::NotSelling
        })?;
        Ok(Answer::Offer(offer.into_bytes()))
    }

    /// The anchored checkpoint where it covers the range, else the newest: what is proven on chain is worth more.
    fn checkpoint_over(&self, id: &StreamId, end: u64, newest: Signed<Checkpoint>) -> Signed<Checkpoint> {
        match self.inner.parts.anchorer.proof(id) {
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
        let taken = store.write(|tx| {
            orders::forget_samples_before(tx, &day)?;
            let had = orders::samples_had(tx, &key)?;
            let taken = wanted.min(allowance.saturating_sub(had));
            orders::put_samples_had(tx, &key, had.saturating_add(taken))?;
            Ok::<_, StoreError>(taken)
        });
        let taken = taken.map_err(|error| storage(error.into()))?;
        if taken == 0 {
            return Err(Refusal::SampleUsedUp { allowance });
        }
        let first = size.saturating_sub(u64::from(taken));
        let page = recorder.page(&id, first, size, size).map_err(storage)?;
        Ok(Answer::Sample(Sample { checkpoint: checkpoint.into_bytes(), page }))
    }

    async fn purchase(&self, peer: &PublicKey, request: PurchaseRequest) -> Result<SignedBytes, Refusal> {
        let SellerParts { chain, store, identity, network, clock, home, .. } = &self.inner.parts;
        let id = order_of(&request, *network, peer)?.id(*network);
        let _one_at_a_time = self.lock(&id).lock().await;
        let stored = store.read(|tx| orders::sale(tx, &id)).map_err(|error| storage(error.into()))?;
        let sale = match stored {
            Some(sale) => sale,
            None => {
                let full =
                    |home: &PathBuf| crate::home::free_space(home).is_ok_and(|free| free < MIN_FREE_SPACE);
                if home.as_ref().is_some_and(full) {
                    return Err(Refusal::StorageUnavailable);
                }
                let headers = chain.headers();
                let now_ms = clock.now_ms();
                let at = Admission { seller: identity, network: *network, peer, headers: &headers, now_ms };
                let sale = Sale::admit(request, &at)?;
                store.write(|tx| orders::put_sale(tx, &sale)).map_err(|error| storage(error.into()))?;
                sale
            }
        };
        self.settle(sale).await
    }

    /// Brings a stored sale to its receipt, or to a refusal.
    async fn settle(&self, mut sale: Sale) -> Result<SignedBytes, Refusal> {
        let SellerParts { chain, identity, network, clock, wallet, .. } = &self.inner.parts;
        if let SaleAction::Receipt(receipt) = sale.resume() {
            return Ok(receipt);
        }
        let event = match chain.broadcast(&sale.request.payment).await {
            Ok(()) => SaleEvent::Accepted,
            Err(BroadcastError::Rejected { double_spent, reason, .. }) => {
                SaleEvent::Rejected { double_spent, reason }
            }
            Err(error) => {
                tracing::warn!(order = %sale.order, %error, "a payment could not be broadcast yet");
                SaleEvent::Unavailable
            }
        };
        let actions = sale.handle(event, identity, *network, clock.now_ms());
        let stored = wallet.update(|wallet, tx| {
            if actions.contains(&SaleAction::Forget) {
                orders::remove_sale(tx, &sale.order)?;
            } else {
                orders::put_sale(tx, &sale)?;
            }
            for action in &actions {
                let SaleAction::Credit { invoice } = action else { continue };
                if tx_is_archived(&self.inner.parts.store, &sale)? {
                    continue;
                }
                let beef = Beef::parse(&sale.request.payment, &BeefLimits::default())?;
                let paid = beef.transaction(&sale.txid).cloned().ok_or(WalletHandleError::NoTransaction)?;
                let label = format!("sale {}", sale.order);
                let output = OwnedOutput {
                    vout: sale.vout,
                    key: KeySource::peer(sale.buyer.clone(), invoice.clone()),
                    purpose: Purpose::Payment { label: label.clone() },
                };
                let received = Received {
                    tx: paid,
                    outputs: vec![output],
                    ancestors: Some(&beef),
                    path: beef.bump_of(&sale.txid).cloned(),
                    broadcast: true,
                    label,
                    now_ms: clock.now_ms(),
                };
                wallet.receive(identity.key(), received)?;
            }
            Ok::<_, WalletHandleError>(())
        });
        if let Err(error) = stored {
            tracing::error!(order = %sale.order, %error, "a sale could not be stored");
            return Err(Refusal::StorageUnavailable);
        }
        let answer = actions.into_iter().find_map(|action| match action {
            SaleAction::Receipt(receipt) => Some(Ok(receipt)),
            SaleAction::Refuse(refusal) => Some(Err(refusal)),
            SaleAction::Broadcast | SaleAction::Credit { .. } | SaleAction::Forget => None,
        });
        answer.unwrap_or(Err(Refusal::ChainUnavailable))
    }

    /// Goes on with sales that were admitted before a restart: their payments go out again, and are credited.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resume(&self) -> Result<(), StoreError> {
        for sale in self.inner.parts.store.read(orders::sales)? {
            if sale.state == SaleState::Admitted {
                let _one_at_a_time = self.lock(&sale.order).lock().await;
                let order = sale.order;
                if let Err(refusal) = self.settle(sale).await {
                    tracing::info!(%order, %refusal, "an order from before the restart is not paid");
                }
            }
        }
        Ok(())
    }

    fn lock(&self, order: &OrderId) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        order.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % (ORDER_LOCKS as u64)).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "`at` is below ORDER_LOCKS, which is the length")]
        &self.inner.locks[at]
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
        self.sold(peer, order).map(|(_, receipt)| Answer::Receipt(receipt))
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
        let anchored = anchorer.proof(&id).map_err(|error| damaged(&error))?;
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

fn tx_is_archived(store: &Store, sale: &Sale) -> Result<bool, StoreError> {
    store.read(|tx| store::wallet::is_archived(tx, &sale.txid))
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

fn damaged(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "a stored record cannot be used");
    Refusal::StorageUnavailable
}
