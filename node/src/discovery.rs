//! Finding sellers: by gossip, by the DHT, on chain, or by asking one that is known.
//!
//! Every ad, whichever way it came, goes through [`AdBook::take`]: verified, compared with the newest version that is known, stored.
//! A withdrawn ad stays as a tombstone until it ends. Each way stands alone: a search by one of them needs none of the others.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Txid};
use sensora_protocol::ad::{self, ADV_PREFIX, Ad, AdError, StreamAd};
use sensora_protocol::chain_access::message::ScanPosition;
use sensora_protocol::codec;
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::price::Price;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::place::Place;
use sensora_protocol::{Hash, Signed};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::chain_access::{ChainAccess, ChainError};
use crate::clock::{Clock, Stopwatch};
use crate::net::{Multiaddr, Net, PeerId, Protocol, RequestError, peer_id_from_public_key, public_key_of};
use crate::store::ads::{self, StoredAd};
use crate::store::{Store, StoreError};

/// Most sellers whose ads are kept. An ad is at most 4 KiB, so they take at most 40 MiB.
const MAX_ADS: u64 = 10_000;
/// How often ended ads are looked for while there is no place.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Most outputs of the chain that are looked at in one search.
const MAX_SCANNED: usize = 10_000;
/// Blocks that are searched again each time: twice the six whose reorganisation changes no conclusion.
const LOOK_BACK: u32 = 12;
/// How long one seller may take to answer with its ad.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Providers of one key that are asked. The DHT keeps at most twenty.
const MAX_PROVIDERS: usize = 20;

/// A way by which an ad was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Heard on the topic.
    Gossip,
    /// From a provider of a kind and place.
    Dht,
    /// In a data output.
    Chain,
    /// Asked of the seller.
    Direct,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gossip => "gossip",
            Self::Dht => "dht",
            Self::Chain => "chain",
            Self::Direct => "direct",
        })
    }
}

impl Way {
    /// The three ways of finding a seller that is not known.
    #[must_use]
    pub fn all() -> BTreeSet<Self> {
        BTreeSet::from([Self::Gossip, Self::Dht, Self::Chain])
    }
}

/// What is looked for. Everything that is given must fit; an empty query finds all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    /// A kind, such as `temperature`.
    pub kind: Option<String>,
    /// A place, and how far from it in kilometres.
    pub near: Option<(Place, f64)>,
    /// Words in the name of the seller, the stream or its fields, in any letter case.
    pub text: Option<String>,
    /// Highest price of a reading.
    pub max_price: Option<Price>,
    /// One seller.
    pub seller: Option<PublicKey>,
}

impl Query {
    /// Whether a stream of an ad fits.
    #[must_use]
    pub fn fits(&self, ad: &Signed<Ad>, stream: &StreamAd) -> bool {
        let kind = self.kind.as_ref().is_none_or(|kind| stream.kinds.contains(kind));
        let near = self.near.as_ref().is_none_or(|(place, radius_km)| {
            stream.place.as_ref().is_some_and(|found| found.distance_km(place) <= *radius_km)
        });
        let text = self.text.as_ref().is_none_or(|text| {
            let fields = stream.schema.fields.iter().map(|field| field.name.as_str());
            let texts = [ad.value().name.as_str(), &stream.name].into_iter().chain(fields);
            let all: Vec<String> =
                texts.chain(stream.kinds.iter().map(String::as_str)).map(str::to_lowercase).collect();
            text.to_lowercase().split_whitespace().all(|word| all.iter().any(|text| text.contains(word)))
        });
        let price = self.max_price.is_none_or(|max| stream.price <= max);
        let seller = self.seller.as_ref().is_none_or(|seller| seller == ad.key());
        kind && near && text && price && seller
    }

    fn fits_any(&self, ad: &Signed<Ad>) -> bool {
        ad.value().streams.iter().any(|stream| self.fits(ad, stream))
    }

    /// The DHT key that finds what is looked for; none without a kind, because the DHT knows only kinds and places.
    fn key(&self, network: Network) -> Option<Hash> {
        let kind = self.kind.as_ref()?;
        let cell = self.near.as_ref().and_then(|(place, radius_km)| covering_cell(place, *radius_km));
        Some(ad::discovery_key(network, kind, cell.as_deref()))
    }
}

/// A discovery cell around `place` that holds everything within the radius; `None` where only the whole world does.
fn covering_cell(place: &Place, radius_km: f64) -> Option<String> {
    // A place may lie near the edge of its cell, and only one key is asked: so the four corners of the circle's square must be in the cell too.
    let dlat = radius_km / 111.0;
    let dlon = radius_km / (111.0 * place.lat().to_radians().cos().max(0.01));
    let corner = |lat: f64, lon: f64| Place::at(lat.clamp(-90.0, 90.0), lon.clamp(-180.0, 180.0), 5).ok();
    let corners = [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)];
    ad::DISCOVERY_PREFIXES.iter().rev().find_map(|len| {
        let cell = place.geohash.get(..*len)?;
        let whole = corners.iter().all(|(y, x)| {
            corner(place.lat() + y * dlat, place.lon() + x * dlon).is_some_and(|corner| corner.is_in(cell))
        });
        whole.then(|| cell.to_owned())
    })
}

/// An ad and the ways it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The ad, newest version.
    pub ad: Signed<Ad>,
    /// The ways.
    pub ways: BTreeSet<Way>,
    /// Transaction and height of an ad of this seller on chain.
    pub anchored: Option<(Txid, u32)>,
}

/// Why a seller's ad cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The seller cannot be asked.
    #[error("seller {seller} cannot be asked: {source}")]
    Request {
        /// Peer id.
        seller: String,
        /// Why.
        source: RequestError,
    },
    /// The seller says no.
    #[error("seller {seller}: {refusal}")]
    Refused {
        /// Peer id.
        seller: String,
        /// Its answer.
        refusal: Refusal,
    },
    /// What the seller says is no ad, or no longer one.
    #[error("the ad of seller {seller}: {source}")]
    Ad {
        /// Peer id.
        seller: String,
        /// What is wrong.
        source: AdError,
    },
    /// The seller answered something else.
    #[error("seller {seller} answered something else than its ad")]
    Unexpected {
        /// Peer id.
        seller: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chain cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// What became of an ad that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is new.
    New,
    /// It, or a newer one, is known.
    Known,
    /// There is no place for another seller.
    Full,
}

/// The ads we know.
#[derive(Clone)]
pub struct AdBook {
    store: Store,
    network: Network,
    clock: Clock,
    /// When ended ads were last looked for.
    swept: Arc<Mutex<Option<Stopwatch>>>,
    /// Told when something has been learned.
    heard: Arc<Notify>,
}

/// What is kept when `signed` comes by `way`, and whether it is new.
fn merged(
    signed: &Signed<Ad>,
    known: Option<&StoredAd>,
    way: Way,
    at: Option<(Txid, u32)>,
) -> (Taken, StoredAd) {
    let ad = signed.value();
    let newest = known.filter(|known| known.version >= ad.version);
    let (bytes, expires_ms, version) = match newest {
        Some(newest) => (newest.ad.clone(), newest.expires_ms, newest.version),
        None => (signed.bytes().clone(), ad.expires_ms, ad.version),
    };
    let stored = StoredAd {
        ad: bytes,
        expires_ms,
        version,
        gossip: way == Way::Gossip || known.is_some_and(|known| known.gossip),
        dht: way == Way::Dht || known.is_some_and(|known| known.dht),
        direct: way == Way::Direct || known.is_some_and(|known| known.direct),
        chain: at.or(known.and_then(|known| known.chain)),
    };
    (if newest.is_some() { Taken::Known } else { Taken::New }, stored)
}

impl AdBook {
    /// The book of this store.
    #[must_use]
    pub fn new(store: Store, network: Network, clock: Clock) -> Self {
        Self { store, network, clock, swept: Arc::default(), heard: Arc::default() }
    }

    /// Takes in the bytes of a signed ad that came by `way`.
    ///
    /// # Errors
    /// The outer error is the store's; the inner one says why the ad is not taken in.
    pub fn take(
        &self,
        bytes: &[u8],
        way: Way,
        at: Option<(Txid, u32)>,
    ) -> Result<Result<Taken, AdError>, StoreError> {
        let now_ms = self.clock.now_ms();
        let signed = match ad::open(bytes, self.network, now_ms) {
            Ok(signed) => signed,
            Err(error) => return Ok(Err(error)),
        };
        let seller = *signed.key();
        let known = self.store.read(|tx| ads::get(tx, &seller))?.filter(|known| known.expires_ms > now_ms);
        let (taken, stored) = merged(&signed, known.as_ref(), way, at);
        if known.as_ref() == Some(&stored) {
            return Ok(Ok(taken));
        }
        if known.is_none() {
            self.make_room(now_ms)?;
        }
        // Another version may have come meanwhile: what counts is what is there when this one is written.
        let taken = self.store.write(|tx| {
            let known = ads::get_in(tx, &seller)?;
            if known.is_none() && ads::count_in(tx)? >= MAX_ADS {
                return Ok(Taken::Full);
            }
            let known = known.filter(|known| known.expires_ms > now_ms);
            let (taken, stored) = merged(&signed, known.as_ref(), way, at);
            ads::put(tx, &stored)?;
            Ok::<_, StoreError>(taken)
        })?;
        self.heard.notify_waiters();
        Ok(Ok(taken))
    }

    /// Forgets ads that have ended, when there is no place for another one. Looking through all of them is not done for each
    /// stranger that comes by.
    fn make_room(&self, now_ms: i64) -> Result<(), StoreError> {
        if self.store.read(ads::count)? < MAX_ADS {
            return Ok(());
        }
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.as_ref().is_some_and(|last| last.elapsed() < SWEEP_EVERY) {
            return Ok(());
        }
        *swept = Some(Stopwatch::start());
        let all = self.store.read(ads::all)?;
        let ended: Vec<_> = all.iter().filter(|ad| ad.expires_ms <= now_ms).collect();
        if ended.is_empty() {
            return Ok(());
        }
        self.store.write(|tx| ended.iter().try_for_each(|ad| ads::remove(tx, &ad.ad.key)))
    }

    /// The ad of a seller that is still on offer.
    ///
    /// # Errors
    /// [`StoreError`] outside; [`AdError`] inside when it is withdrawn or over.
    pub fn get(&self, seller: &PublicKey) -> Result<Option<Result<Found, AdError>>, StoreError> {
        let stored = self.store.read(|tx| ads::get(tx, seller))?;
        Ok(stored.map(|stored| self.found(stored)))
    }

    fn found(&self, stored: StoredAd) -> Result<Found, AdError> {
        let ad = stored.ad.verify::<Ad>(self.network).map_err(AdError::Statement)?;
        ad.value().check_on_offer(ad.key(), self.clock.now_ms())?;
        let ways = [(Way::Gossip, stored.gossip), (Way::Dht, stored.dht), (Way::Direct, stored.direct)];
        let ways = ways.into_iter().filter(|(_, by)| *by).map(|(way, _)| way);
        let ways = ways.chain(stored.chain.map(|_| Way::Chain)).collect();
        Ok(Found { ad, ways, anchored: stored.chain })
    }

    /// All ads on offer that fit.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn search(&self, query: &Query) -> Result<Vec<Found>, StoreError> {
        let all = self.store.read(ads::all)?;
        let found = all.into_iter().filter_map(|stored| self.found(stored).ok());
        Ok(found.filter(|found| query.fits_any(&found.ad)).collect())
    }
}

/// Finds sellers. Cheap to clone.
#[derive(Clone)]
pub struct Discovery {
    inner: Arc<Inner>,
}

struct Inner {
    book: AdBook,
    net: Net,
    chain: ChainAccess,
    network: Network,
    /// Height up to which the chain has been searched for ads since the start.
    scanned: Mutex<u32>,
}

impl Discovery {
    /// Discovery of one node.
    #[must_use]
    pub fn new(book: AdBook, net: Net, chain: ChainAccess, network: Network) -> Self {
        Self { inner: Arc::new(Inner { book, net, chain, network, scanned: Mutex::default() }) }
    }

    /// The ads we know.
    #[must_use]
    pub fn book(&self) -> &AdBook {
        &self.inner.book
    }

    /// Searches by these ways, each on its own, for at most `within`; what is known already counts for the way it came by. A way that fails is logged, and the
    /// others go on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn search(
        &self,
        query: &Query,
        ways: &BTreeSet<Way>,
        within: Duration,
    ) -> Result<Vec<Found>, StoreError> {
        let dht = async {
            if !ways.contains(&Way::Dht) {
                return;
            }
            if let Err(error) = self.by_dht(query).await {
                tracing::debug!(%error, "the DHT was of no help");
            }
        };
        let chain = async {
            if !ways.contains(&Way::Chain) {
                return;
            }
            if let Err(error) = self.by_chain().await {
                tracing::debug!(%error, "the chain was of no help");
            }
        };
        // Gossip cannot be asked for: whoever has just come waits a moment for the sellers to notice.
        let gossip = async {
            while ways.contains(&Way::Gossip) {
                let heard = self.inner.book.heard.notified();
                tokio::pin!(heard);
                heard.as_mut().enable();
                if self.has(query, Way::Gossip) {
                    return;
                }
                heard.await;
                // In a crowd of sellers each look costs a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let direct = async {
            if let Some(seller) = query.seller.as_ref().filter(|_| ways.contains(&Way::Direct)) {
                let _ = self.ask(seller, Way::Direct).await;
            }
        };
        let all = async { tokio::join!(dht, chain, gossip, direct) };
        let _ = tokio::time::timeout(within, all).await;
        let mut found = self.inner.book.search(query)?;
        found.retain(|found| found.ways.iter().any(|way| ways.contains(way)));
        Ok(found)
    }

    fn has(&self, query: &Query, way: Way) -> bool {
        self.inner.book.search(query).is_ok_and(|found| found.iter().any(|found| found.ways.contains(&way)))
    }

    /// The current ad of a seller: asked of it, or else the newest that is known and still holds.
    ///
    /// # Errors
    /// [`DiscoveryError`].
    pub async fn ad_of(&self, seller: &PublicKey) -> Result<Found, DiscoveryError> {
        let asked = self.ask(seller, Way::Direct).await;
        let named = || peer_id(seller);
        match self.inner.book.get(seller)? {
            Some(Ok(found)) => Ok(found),
            Some(Err(source)) => Err(DiscoveryError::Ad { seller: named(), source }),
            None => Err(asked.err().unwrap_or_else(|| DiscoveryError::Unexpected { seller: named() })),
        }
    }

    /// Addresses of a seller, from its ad.
    #[must_use]
    pub fn addresses(&self, seller: &PublicKey) -> Vec<Multiaddr> {
        let known = self.inner.book.get(seller).ok().flatten().and_then(Result::ok);
        let addresses = known.map(|found| found.ad.value().addresses.clone()).unwrap_or_default();
        addresses.iter().filter_map(|address| address.parse().ok()).collect()
    }

    async fn ask(&self, seller: &PublicKey, way: Way) -> Result<Taken, DiscoveryError> {
        let named = peer_id(seller);
        let unexpected = || DiscoveryError::Unexpected { seller: named.clone() };
        let peer = peer_id_from_public_key(&seller.to_bytes()).ok_or_else(unexpected)?;
        let request = Request::Ad.to_bytes().map_err(|_| unexpected())?;
        let answer = self
            .inner
            .net
            .request(peer, self.addresses(seller), Protocol::Market, Bytes::from(request), ASK_TIMEOUT)
            .await
            .map_err(|source| DiscoveryError::Request { seller: named.clone(), source })?;
        let ad = match Response::from_bytes(&answer) {
            Ok(Response::Ok(Answer::Ad(ad))) if &ad.key == seller => ad,
            Ok(Response::Refused(refusal)) => return Err(DiscoveryError::Refused { seller: named, refusal }),
            _ => return Err(unexpected()),
        };
        let bytes = codec::encode(&ad).map_err(|_| unexpected())?;
        let taken = self.inner.book.take(&bytes, way, None)?;
        taken.map_err(|source| DiscoveryError::Ad { seller: named, source })
    }

    async fn by_dht(&self, query: &Query) -> Result<(), DiscoveryError> {
        let Some(key) = query.key(self.inner.network) else { return Ok(()) };
        let providers = self.inner.net.find_providers(key.0).await.unwrap_or_default();
        // There are at most twenty, and a search has a deadline: all are asked at the same time.
        let mut asked = tokio::task::JoinSet::new();
        for (peer, addresses) in providers.into_iter().take(MAX_PROVIDERS) {
            let discovery = self.clone();
            asked.spawn(async move {
                let key = public_key_of(&peer).and_then(|key| PublicKey::from_bytes(&key).ok());
                let Some(seller) = key else { return };
                // The DHT's addresses help where no ad is known yet.
                let _ = discovery.inner.net.dial(peer, addresses).await;
                if let Err(error) = discovery.ask(&seller, Way::Dht).await {
                    tracing::debug!(%peer, %error, "a provider has no ad for us");
                }
            });
        }
        asked.join_all().await;
        Ok(())
    }

    async fn by_chain(&self) -> Result<(), DiscoveryError> {
        let from = *self.inner.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        // A reorganisation may have put an ad below where the last search ended.
        let mut next = Some(ScanPosition::at_height(from.saturating_sub(LOOK_BACK)));
        let mut left = MAX_SCANNED;
        while let Some(from) = next
            && left > 0
        {
            let (page, then) = self.inner.chain.scan_page(ADV_PREFIX, from, left).await?;
            left = left.saturating_sub(page.len().max(1));
            // What is no ad is passed as well: outputs that only look like one must not hide what comes after them.
            let reached = page.iter().map(|output| output.height).chain(then.map(|then| then.height)).max();
            for output in page {
                let [_, _, bytes] = output.pushes.as_slice() else { continue };
                let at = (output.txid, output.height);
                if let Err(error) = self.inner.book.take(bytes, Way::Chain, Some(at))? {
                    tracing::debug!(txid = %output.txid, %error, "an output that is no ad on offer");
                }
            }
            let mut scanned = self.inner.scanned.lock().unwrap_or_else(PoisonError::into_inner);
            *scanned = reached.unwrap_or_default().max(*scanned);
            next = then;
        }
        Ok(())
    }

    /// Takes in an ad that was heard; says what is to become of the message.
    #[must_use]
    pub fn heard(&self, from: PeerId, data: &[u8]) -> Heard {
        match self.inner.book.take(data, Way::Gossip, None) {
            Ok(Ok(Taken::New)) => Heard::Forward,
            Ok(Ok(Taken::Known | Taken::Full)) => Heard::Ignore,
            // Clocks differ: what is over or early here may be right elsewhere, and is nobody's fault.
            Ok(Err(AdError::Expired { .. } | AdError::Future { .. })) => Heard::Ignore,
            Ok(Err(error)) => {
                tracing::debug!(%from, %error, "an invalid ad was gossiped");
                Heard::Reject
            }
            Err(error) => {
                tracing::error!(%error, "an ad could not be stored");
                Heard::Ignore
            }
        }
    }
}

/// What is to become of a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Pass it on.
    Forward,
    /// Do not pass it on; nobody is to blame.
    Ignore,
    /// Do not pass it on; who sent it is to blame.
    Reject,
}
