//! Buying batches whose key is released on the chain.
//!
//! What is checked, paid and taken back when is decided by [`sensora_protocol::market::key_release::buy`]; here each change of a purchase
//! is stored, with what it does to wallet, parts and readings, before anything follows from it. One task at a time speaks with the seller of an
//! order; the chain is followed beside it, by [`Buyer::run_releases`], for as long as a coin may still move.
//!
//! | room | what it is for |
//! |---|---|
//! | [`drive`] | the stream with the seller: parts in, coin out, waiting for the key |
//! | [`step`] | each change of a purchase, and what follows from it |
//! | [`watch`] | coins, claims and refunds on the chain |

mod drive;
mod step;
mod watch;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_chain::{Satoshis, Txid};
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::key_release::buy::{BatchPurchase, BatchPurchaseState};
use sensora_protocol::market::key_release::frame::{MAX_TO_BUYER_LEN, ToBuyer, ToSeller};
use sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof;
use sensora_protocol::market::key_release::offer::{
    BatchLimits, BatchTerms, KeyReleaseOffer, KeyReleaseOfferError,
};
use sensora_protocol::market::offer::{OfferError, Range};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{OrderId, Signed, StreamId};
use tokio::time::Instant;

use super::{ATTEMPTS, Bought, BuyError, BuyRequest, Buyer, BuyerParts, FIRST_PAUSE, Progress};
use crate::home::{RESERVED_SPACE, free_space};
use crate::net::{DeliveryError, Offence, StreamKind, peer_id_from_public_key};
use crate::store::bought::{self, BoughtStream};
use crate::store::release as records;
use crate::stripes::Stripes;

/// How long the seller may take to answer the opening of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the seller may take for an offer: it seals the batch first, and others may be before us.
const QUOTE_PATIENCE: Duration = Duration::from_secs(60);

/// What a buyer lets itself in for beside price and exposure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseLimits {
    /// Most bytes that are stored before the key is there. What the disk has free bounds it too.
    pub max_length: u64,
    /// Most blocks for which the coin may be locked.
    pub max_lock: u32,
}

impl Default for ReleaseLimits {
    /// 256 MiB, and two days.
    fn default() -> Self {
        Self { max_length: 256 << 20, max_lock: 2 * 144 + 12 }
    }
}

/// What came of buying.
#[derive(Debug, Clone, PartialEq)]
pub enum Released {
    /// All of it is here.
    Bought(Bought),
    /// A coin is locked, and its key is not shown yet. [`Buyer::run_releases`] goes on with it, and buying the same readings again.
    Waiting {
        /// The order.
        order: OrderId,
        /// What holds the coin.
        txid: Option<Txid>,
        /// How far the order is.
        state: &'static str,
        /// What is here up to now.
        so_far: Bought,
    },
}

/// A purchase by key release, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseSummary {
    /// The order.
    pub order: OrderId,
    /// Peer id of the seller.
    pub seller: String,
    /// The stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// First sequence number.
    pub first: u64,
    /// Number of readings.
    pub count: u64,
    /// Encrypted parts that are here.
    pub parts_here: u32,
    /// Parts in all.
    pub parts: u32,
    /// Price of all.
    pub total: Satoshis,
    /// What holds the coin, once signed.
    pub txid: Option<Txid>,
    /// From when on the coin can be taken back.
    pub refund_height: u32,
    /// How far it has come.
    pub state: BatchPurchaseState,
    /// When it was agreed, milliseconds since the Unix epoch.
    pub agreed_ms: i64,
}

/// What the room keeps in memory.
#[derive(Default)]
pub(super) struct Releases {
    /// An order is changed by one task at a time, for no longer than a change takes. Who speaks with its seller has its turn besides.
    steps: Stripes,
    /// The order whose seller was reminded last: the next round begins after it.
    reminded: Mutex<Option<OrderId>>,
}

impl Buyer {
    /// Buys what of a range is not here yet, as batches whose key is released on the chain: the encrypted readings first, then a coin that
    /// the seller can take only by showing the key. Waits for each key for `patience`; an hour is usual, for the seller waits until the coin is
    /// firm. Orders under way are gone on with, whichever way they are paid.
    ///
    /// # Errors
    /// [`BuyError`]. What is locked is never lost sight of: without the key it comes back at the refund height.
    pub async fn buy_by_key_release(
        &self,
        request: &BuyRequest,
        limits: ReleaseLimits,
        patience: Duration,
        mut progress: impl FnMut(Progress),
    ) -> Result<Released, BuyError> {
        let BuyRequest { stream, range, limits: money, .. } = request;
        let (first, end, mut quoted) = match *range {
            Range::Seq { first, count } => {
                let end = first.checked_add(count).filter(|_| count > 0);
                (first, end.ok_or(BuyError::Range { first, count })?, None)
            }
            range => {
                let offer = self.release_offer(request, range).await?;
                let (first, count) = (offer.value().first, offer.value().count);
                let end = first.checked_add(count).filter(|_| count > 0);
                (first, end.ok_or(BuyError::Range { first, count })?, Some(offer))
            }
        };
        let count = end.saturating_sub(first);
        let mut bought =
            Bought { stream: *stream, first, count, orders: Vec::new(), kept: count, paid: Satoshis::ZERO };
        let mut is_first_look = true;
        loop {
            let deciding = self.streams.lock(stream).await;
            if let Some(open) = self.open_order(stream, first, end)? {
                drop(deciding);
                if self.inner.store.read(|tx| records::purchase(tx, &open))?.is_none() {
                    self.go_on_with(&open, &mut progress).await?;
                    continue;
                }
                match self.drive_release(&open, patience, &mut progress).await {
                    // Its coin is not outdone for good: ordering anew might be paying twice.
                    Err(BuyError::GivenUp { taken_back: true, .. }) if self.is_held(&open)? => {
                        return Err(BuyError::GivenUp { order: open, taken_back: false });
                    }
                    Ok(true) | Err(BuyError::GivenUp { taken_back: true, .. }) => continue,
                    Ok(false) => return self.waiting(&open, bought),
                    // Its offer was over before anything was paid: it is dropped, and another is asked for.
                    Err(BuyError::Refused(_)) if self.is_dropped(&open)? => continue,
                    Err(error) => return Err(error),
                }
            }
            let missing = self.inner.store.read(|tx| bought::missing(tx, stream, first, end))?;
            let wanted: u64 = missing.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
            if std::mem::take(&mut is_first_look) {
                bought.kept = count.saturating_sub(wanted);
            }
            let Some((from, to)) = missing.first().copied() else { return Ok(Released::Bought(bought)) };
            self.not_live(stream, from, to)?;
            self.none_may_return(stream, from, to)?;
            let seq = Range::Seq { first: from, count: to.saturating_sub(from) };
            let (offer, asked) = match quoted.take() {
                Some(offer) if (from, to) == (first, end) => (offer, *range),
                _ => (self.release_offer(request, seq).await?, seq),
            };
            let left = money.max_price.saturating_sub(bought.paid);
            let terms = self.accept_release(&offer, request, asked, limits, left)?;
            progress(Progress::Quoted { count: offer.value().count, total: terms.total });
            let (signed, agreed, exposure) = (offer.clone(), terms.clone(), money.exposure);
            let ordered = self.blocking(move |buyer| {
                // Until it is stored, also where the caller is dropped: whoever decides next sees it.
                let _deciding = deciding;
                buyer.order_release(&signed, &agreed, exposure)
            });
            let id = ordered.await?;
            let is_complete = self.drive_release(&id, patience, &mut progress).await?;
            bought.orders.push(id);
            bought.paid = bought.paid.checked_add(terms.total).unwrap_or(bought.paid);
            if !is_complete {
                return self.waiting(&id, bought);
            }
        }
    }

    fn is_dropped(&self, id: &OrderId) -> Result<bool, BuyError> {
        Ok(self.release_purchase(id)?.state == BatchPurchaseState::Dropped)
    }

    fn waiting(&self, id: &OrderId, so_far: Bought) -> Result<Released, BuyError> {
        let purchase = self.release_purchase(id)?;
        let (txid, state) = (purchase.coin.map(|coin| coin.txid), purchase.state.name());
        Ok(Released::Waiting { order: *id, txid, state, so_far })
    }

    /// The seller's offer of a batch.
    async fn release_offer(
        &self,
        request: &BuyRequest,
        range: Range,
    ) -> Result<Signed<KeyReleaseOffer>, BuyError> {
        let (seller, network) = (&request.seller, self.inner.network);
        let (mut attempt, mut pause) = (1_u32, FIRST_PAUSE);
        loop {
            let wait = match self.ask_for_offer(seller, request.stream, range).await {
                Ok(ToBuyer::Offer(offer)) => {
                    let offer = offer.verify_by::<KeyReleaseOffer>(network, seller);
                    return Ok(offer.map_err(OfferError::from)?);
                }
                Ok(ToBuyer::Refused(Refusal::Busy { retry_ms })) if attempt < ATTEMPTS => {
                    Duration::from_millis(retry_ms.clamp(10, 10_000))
                }
                Ok(ToBuyer::Refused(refusal)) => return Err(BuyError::Refused(refusal)),
                Ok(other) => return Err(BuyError::Unexpected { asked: "quote", got: other.name() }),
                Err(source) => {
                    let for_good = matches!(
                        source,
                        DeliveryError::Unsupported { .. }
                            | DeliveryError::Refused { .. }
                            | DeliveryError::Stopped
                    );
                    if attempt >= ATTEMPTS || for_good {
                        return Err(BuyError::NoOffer { seller: peer_id(seller), source: Box::new(source) });
                    }
                    pause = pause.saturating_mul(2);
                    pause
                }
            };
            attempt = attempt.saturating_add(1);
            tokio::time::sleep(wait).await;
        }
    }

    async fn ask_for_offer(
        &self,
        seller: &PublicKey,
        stream: StreamId,
        range: Range,
    ) -> Result<ToBuyer, DeliveryError> {
        let BuyerParts { net, discovery, .. } = &*self.inner;
        // A key that is no peer id names nobody who could answer.
        let peer = peer_id_from_public_key(&seller.to_bytes()).ok_or(DeliveryError::Stopped)?;
        let addresses = discovery.addresses(seller);
        let mut asked = net.open_stream(StreamKind::Release, peer, addresses, OPEN_TIMEOUT).await?;
        asked.limit_frames(MAX_TO_BUYER_LEN);
        let question = ToSeller::Quote { stream, range }.to_bytes().unwrap_or_default();
        asked.send(Bytes::from(question)).await?;
        let answer = asked.next(QUOTE_PATIENCE).await?.ok_or(DeliveryError::Reset { peer })?;
        match ToBuyer::from_bytes(&answer) {
            Ok(answer) => {
                drop(asked.finish().await);
                Ok(answer)
            }
            Err(error) => {
                net.report(peer, Offence::Malformed).await;
                Err(DeliveryError::Io { peer, reason: format!("the seller's answer is no frame: {error}") })
            }
        }
    }

    /// Holds an offer against what was asked for, the limits, the chain and the disk.
    fn accept_release(
        &self,
        offer: &Signed<KeyReleaseOffer>,
        request: &BuyRequest,
        asked: Range,
        limits: ReleaseLimits,
        max_price: Satoshis,
    ) -> Result<BatchTerms, BuyError> {
        let BuyerParts { identity, network, clock, chain, home, .. } = &*self.inner;
        // The encrypted parts, and as much again for the readings that come out of them.
        let room = |free: u64| free.saturating_sub(RESERVED_SPACE) / 2;
        let free = home.as_ref().and_then(|home| free_space(home).ok()).map_or(u64::MAX, room);
        let limits = BatchLimits {
            max_price,
            exposure: request.limits.exposure,
            max_length: limits.max_length.min(free),
            max_lock: limits.max_lock,
        };
        let (tip, now_ms) = (chain.headers().tip_height(), clock.now_ms());
        let (buyer, ad) = (identity.public(), request.ad.as_ref());
        KeyReleaseOffer::accept(offer, *network, buyer, request.stream, asked, ad, limits, tip, now_ms)
            .map_err(|error| BuyError::ReleaseOffer(Box::new(error)))
    }

    /// Orders a batch: the order, what it commits of the budgets and what the stream is are on disk when this returns. Nothing is sent yet, and
    /// nothing is owed.
    fn order_release(
        &self,
        offer: &Signed<KeyReleaseOffer>,
        terms: &BatchTerms,
        exposure: Satoshis,
    ) -> Result<OrderId, BuyError> {
        let BuyerParts { identity, network, clock, store, .. } = &*self.inner;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| BuyError::Randomness(error.to_string()))?;
        let purchase = BatchPurchase::agree(offer, nonce, identity, *network, clock.now_ms())?;
        let plain = offer.value();
        let stream = BoughtStream {
            id: plain.stream,
            seller: terms.seller,
            name: plain.name.clone(),
            schema: plain.schema.clone(),
            licence: plain.licence.clone(),
        };
        let stakes = self.stake(&terms.seller, purchase.id, terms.total, exposure)?;
        let stored = store.write(|tx| {
            self.commit(tx, &purchase.id, &terms.seller, terms.total)?;
            bought::put_stream(tx, &stream)?;
            records::put_purchase(tx, &purchase, true)?;
            Ok::<_, BuyError>(())
        });
        if stored.is_err() {
            stakes.change(|stakes| stakes.note(purchase.id, Satoshis::ZERO));
        }
        stored.map(|()| purchase.id)
    }

    /// The purchases by key release that may still bring readings.
    pub(super) fn open_releases(&self) -> Result<Vec<(BatchPurchase, BatchTerms)>, BuyError> {
        let held = self.held_releases()?;
        Ok(held.into_iter().filter(|(purchase, _)| brings(&purchase.state)).collect())
    }

    /// These, and those whose coin is taken back but not for good: their readings are not ordered again meanwhile.
    pub(super) fn held_releases(&self) -> Result<Vec<(BatchPurchase, BatchTerms)>, BuyError> {
        let watched = self.inner.store.read(records::watched_purchases)?;
        let held = watched.into_iter().filter(|purchase| {
            brings(&purchase.state) || matches!(purchase.state, BatchPurchaseState::TakenBack { .. })
        });
        held.map(|purchase| Ok((self.release_terms(&purchase)?, purchase)))
            .map(|found: Result<_, BuyError>| found.map(|(terms, purchase)| (purchase, terms)))
            .collect()
    }

    /// Whether an order still stands in the way of another for the same readings.
    pub(super) fn is_held(&self, id: &OrderId) -> Result<bool, BuyError> {
        Ok(self.held_releases()?.iter().any(|(purchase, _)| &purchase.id == id))
    }

    fn release_terms(&self, purchase: &BatchPurchase) -> Result<BatchTerms, BuyError> {
        purchase
            .terms(self.inner.network)
            .map_err(|error: KeyReleaseOfferError| BuyError::ReleaseOffer(Box::new(error)))
    }

    /// Goes on with every purchase by key release that is not finished, and waits for their keys for `patience` in all. `true`: it is complete;
    /// `false`: its key is not shown yet.
    ///
    /// # Errors
    /// [`BuyError`].
    pub async fn resume_releases(
        &self,
        patience: Duration,
        mut progress: impl FnMut(Progress),
    ) -> Result<Vec<(OrderId, Result<bool, BuyError>)>, BuyError> {
        let begun = Instant::now();
        let mut outcomes = Vec::new();
        for (purchase, _) in self.open_releases()? {
            let left = patience.saturating_sub(begun.elapsed());
            outcomes.push((purchase.id, self.drive_release(&purchase.id, left, &mut progress).await));
        }
        Ok(outcomes)
    }

    /// The stored purchase of an order by key release.
    ///
    /// # Errors
    /// [`BuyError::UnknownOrder`].
    pub fn release_purchase(&self, id: &OrderId) -> Result<BatchPurchase, BuyError> {
        self.inner.store.read(|tx| records::purchase(tx, id))?.ok_or(BuyError::UnknownOrder(*id))
    }

    /// All purchases by key release, oldest first.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn releases(&self) -> Result<Vec<ReleaseSummary>, BuyError> {
        let mut summaries = Vec::new();
        for purchase in self.inner.store.read(records::purchases)? {
            let terms = self.release_terms(&purchase)?;
            let offer =
                purchase.offer.clone().verify_by::<KeyReleaseOffer>(self.inner.network, &purchase.seller)?;
            summaries.push(ReleaseSummary {
                order: purchase.id,
                seller: peer_id(&purchase.seller),
                stream: terms.stream,
                name: offer.value().name.clone(),
                first: terms.first,
                count: terms.end.saturating_sub(terms.first),
                parts_here: purchase.arrivals.next,
                parts: terms.parts,
                total: terms.total,
                txid: purchase.coin.as_ref().map(|coin| coin.txid),
                refund_height: terms.refund_height.get(),
                state: purchase.state,
                agreed_ms: purchase.agreed_ms,
            });
        }
        summaries.sort_by_key(|summary| summary.agreed_ms);
        Ok(summaries)
    }

    /// What shows anybody that the seller of an order has cheated, if it has.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn misbehaviour(&self, id: &OrderId) -> Result<Option<MisbehaviourProof>, BuyError> {
        Ok(match self.release_purchase(id)?.state {
            BatchPurchaseState::Cheated { proof } => Some(*proof),
            _ => None,
        })
    }
}

/// Whether a purchase in this state may still bring readings.
pub(super) fn brings(state: &BatchPurchaseState) -> bool {
    !state.is_final() && !matches!(state, BatchPurchaseState::Unreadable { .. })
}
