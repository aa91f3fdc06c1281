//! The advertiser: keeps the seller's ad current and carries it out by gossip, DHT and chain.
//!
//! The ad is signed anew when what it offers changes, when it has used up half its life, and, with fresh sizes, for each announcement; the
//! version always grows, across restarts too. On chain goes only what is worth its fee: an ad whose offer has changed or whose last one there ends soon.

use std::sync::Arc;
use std::time::Duration;

use sensora_chain::Network;
use sensora_protocol::ad::{self, Ad, AdError, Limits, PaymentMode, StreamAd};
use sensora_protocol::codec::{self, CodecError};
use sensora_protocol::market::price::Price;
use sensora_protocol::place::Place;
use sensora_protocol::statement::StatementError;
use sensora_protocol::{Hash, Identity, Signed, StreamId};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::recorder::{Recorder, RecorderError};
use super::seller::Seller;
use crate::clock::Clock;
use crate::net::{Net, ProvideError, PublishError, Topic};
use crate::store::ads::{self, OwnAd};
use crate::store::{Store, StoreError};
use crate::wallet::{WalletHandle, WalletHandleError};

/// How long an ad holds: a day, so that a seller that has gone is forgotten soon, and a node that restarts is still known.
const LIFETIME_MS: i64 = 24 * 3600 * 1000;
/// An ad on chain is renewed when less than this is left of it.
pub const RENEW_ON_CHAIN_MS: i64 = 2 * 3600 * 1000;
/// An ad on chain holds a week: each costs its fee.
pub const LIFETIME_ON_CHAIN_MS: i64 = 7 * 24 * 3600 * 1000;
/// The ad is said again so often: above the minute in which gossip drops a repeated message, and often enough that newcomers hear it.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(5 * 60);
/// Newcomers make us say it again, but not more often than this.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(5);
/// Most keys that are announced in the DHT: each is kept by twenty peers and renewed by us.
const MAX_KEYS: usize = 256;

/// Why the ad was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdvertiserError {
    /// The ad is not valid.
    #[error(transparent)]
    Ad(#[from] AdError),
    /// It cannot be signed.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// It cannot be encoded.
    #[error(transparent)]
    Encoding(#[from] CodecError),
    /// The recorder failed.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The transaction cannot be made.
    #[error(transparent)]
    Wallet(#[from] WalletHandleError),
    /// Gossip failed.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The DHT failed.
    #[error(transparent)]
    Provide(#[from] ProvideError),
}

/// How a stream is offered: what the ad says besides what the recorder knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The stream.
    pub stream: StreamId,
    /// What it measures.
    pub kinds: Vec<String>,
    /// Where.
    pub place: Option<Place>,
    /// Usual time between two readings in milliseconds.
    pub cadence_ms: Option<u64>,
    /// Price of a reading.
    pub price: Price,
    /// Price of a second of the stream as it comes.
    pub second: Option<Price>,
    /// Licence id.
    pub licence: String,
    /// Free readings for each buyer and day.
    pub sample: u32,
    /// Most readings in one order.
    pub max_readings: u64,
}

/// Advertises one agent. Cheap to clone.
#[derive(Clone)]
pub struct Advertiser {
    inner: Arc<Inner>,
}

struct Inner {
    parts: AdvertiserParts,
    listings: Mutex<Vec<Listing>>,
    newcomer: Notify,
}

/// What an advertiser works with.
pub struct AdvertiserParts {
    /// What the seller calls itself.
    pub name: String,
    /// How orders can be paid.
    pub modes: Vec<PaymentMode>,
    /// The streams.
    pub recorder: Recorder,
    /// Who sells what the ad says.
    pub seller: Seller,
    /// Pays for ads on chain.
    pub wallet: WalletHandle,
    /// Keeps the last version.
    pub store: Store,
    /// The swarm.
    pub net: Net,
    /// Signs.
    pub identity: Identity,
    /// The network.
    pub network: Network,
    /// The time.
    pub clock: Clock,
}

impl Advertiser {
    /// An advertiser that offers nothing yet.
    #[must_use]
    pub fn new(parts: AdvertiserParts) -> Self {
        Self { inner: Arc::new(Inner { parts, listings: Mutex::default(), newcomer: Notify::new() }) }
    }

    /// Sets what is offered, and publishes it.
    ///
    /// # Errors
    /// [`AdvertiserError`]; the ad before stays in force when the new one is not valid.
    pub async fn offer(&self, listings: Vec<Listing>) -> Result<Signed<Ad>, AdvertiserError> {
        *self.inner.listings.lock().await = listings;
        self.publish().await
    }

    /// A peer has come that may not know the ad.
    pub fn newcomer(&self) {
        self.inner.newcomer.notify_one();
    }

    /// Signs the ad as things are now and says it by gossip and DHT, and on chain where what is there is not enough.
    ///
    /// # Errors
    /// [`AdvertiserError`]. The seller offers the new ad even when a way of telling of it failed; the chain is tried again with the next.
    pub async fn publish(&self) -> Result<Signed<Ad>, AdvertiserError> {
        let listings = self.inner.listings.lock().await;
        let signed = self.announce(&listings, false, LIFETIME_MS).await?;
        for key in ad::discovery_keys(self.inner.parts.network, signed.value()).iter().take(MAX_KEYS) {
            self.inner.parts.net.provide(key.0).await?;
        }
        self.post(&listings).await?;
        Ok(signed)
    }

    /// Withdraws the offer everywhere.
    ///
    /// # Errors
    /// [`AdvertiserError`].
    pub async fn withdraw(&self) -> Result<Signed<Ad>, AdvertiserError> {
        let AdvertiserParts { seller, network, net, .. } = &self.inner.parts;
        let mut listings = self.inner.listings.lock().await;
        let keys = seller.ad().map(|ad| ad::discovery_keys(*network, ad.value())).unwrap_or_default();
        listings.clear();
        let signed = self.announce(&listings, true, LIFETIME_ON_CHAIN_MS).await?;
        for key in keys {
            net.stop_providing(key.0).await;
        }
        self.post_ad(&signed, Hash::of(b"withdrawn")).await?;
        Ok(signed)
    }

    async fn announce(
        &self,
        listings: &[Listing],
        withdrawn: bool,
        lifetime_ms: i64,
    ) -> Result<Signed<Ad>, AdvertiserError> {
        let AdvertiserParts { seller, net, .. } = &self.inner.parts;
        let signed = self.sign(listings, withdrawn, lifetime_ms).await?;
        seller.set_ad(signed.clone());
        match net.publish(Topic::Ads, ad::to_bytes(&signed)?.into()).await {
            // A few announcements may wait for the first subscriber; more of them say nothing new.
            Ok(()) | Err(PublishError::QueueFull | PublishError::Duplicate) => {}
            Err(error) => tracing::warn!(%error, "the ad was not gossiped"),
        }
        Ok(signed)
    }

    async fn sign(
        &self,
        listings: &[Listing],
        withdrawn: bool,
        lifetime_ms: i64,
    ) -> Result<Signed<Ad>, AdvertiserError> {
        let AdvertiserParts { name, modes, recorder, store, net, identity, network, clock, .. } =
            &self.inner.parts;
        let issued_ms = clock.now_ms();
        let mut own = store.read(ads::own)?;
        let now = u64::try_from(issued_ms).unwrap_or(0);
        own.version = now.max(own.version.saturating_add(1));
        let mut streams = Vec::with_capacity(listings.len());
        for listing in listings {
            let known = recorder.summary(&listing.stream)?;
            streams.push(StreamAd {
                id: known.id,
                name: known.name,
                schema: known.schema,
                kinds: listing.kinds.clone(),
                place: listing.place.clone(),
                cadence_ms: listing.cadence_ms,
                price: listing.price,
                second: listing.second,
                licence: listing.licence.clone(),
                sample: listing.sample,
                modes: modes.clone(),
                limits: Limits { max_readings: listing.max_readings },
                size: known.size,
                first_time: known.first_time,
                last_time: known.last_time,
            });
        }
        let addresses = net.listen_addrs().await;
        let addresses =
            addresses.into_iter().map(|address| address.to_string()).take(ad::MAX_ADDRESSES).collect();
        let ad = Ad {
            name: name.clone(),
            version: own.version,
            issued_ms,
            expires_ms: issued_ms.saturating_add(lifetime_ms),
            withdrawn,
            addresses,
            streams,
        };
        ad.validate(*network, identity.public(), issued_ms)?;
        let signed = Signed::sign(ad, identity, *network)?;
        // The version is on disk before anybody sees it.
        store.write(|tx| ads::put_own(tx, &own))?;
        Ok(signed)
    }

    /// Puts the ad on chain, unless one with the same offer is there and lasts.
    async fn post(&self, listings: &[Listing]) -> Result<(), AdvertiserError> {
        let AdvertiserParts { store, clock, .. } = &self.inner.parts;
        if listings.is_empty() {
            return Ok(());
        }
        let signed = self.sign(listings, false, LIFETIME_ON_CHAIN_MS).await?;
        let offer = offer_of(signed.value())?;
        let own = store.read(ads::own)?;
        let lasts = own.on_chain_expires_ms.saturating_sub(clock.now_ms()) > RENEW_ON_CHAIN_MS;
        if own.on_chain_offer == Some(offer) && lasts {
            return Ok(());
        }
        self.post_ad(&signed, offer).await
    }

    async fn post_ad(&self, signed: &Signed<Ad>, offer: Hash) -> Result<(), AdvertiserError> {
        let AdvertiserParts { wallet, store, .. } = &self.inner.parts;
        let own = store.read(ads::own)?;
        let expires_ms = signed.value().expires_ms;
        let built = wallet.post(vec![ad::to_output(signed)?], "ad", |built, tx| {
            let on_chain = OwnAd {
                on_chain_offer: Some(offer),
                on_chain_expires_ms: expires_ms,
                on_chain_txid: Some(built.txid),
                ..own
            };
            ads::put_own(tx, &on_chain)
        })?;
        if let Err(error) = wallet.deliver(&built.txid, &built.beef).await {
            if matches!(error, WalletHandleError::Rejected { .. }) {
                let own = store.read(ads::own)?;
                store.write(|tx| {
                    ads::put_own(tx, &OwnAd { on_chain_offer: None, on_chain_txid: None, ..own })
                })?;
            }
            return Err(error.into());
        }
        tracing::info!(txid = %built.txid, fee = %built.fee, "the ad is on chain");
        Ok(())
    }

    async fn say_everywhere(&self) {
        if !self.inner.listings.lock().await.is_empty()
            && let Err(error) = self.publish().await
        {
            tracing::warn!(%error, "the ad was not published everywhere");
        }
    }

    async fn say_to_newcomers(&self) {
        let listings = self.inner.listings.lock().await;
        if !listings.is_empty()
            && let Err(error) = self.announce(&listings, false, LIFETIME_MS).await
        {
            tracing::warn!(%error, "the ad was not announced");
        }
    }

    /// Says the ad again from time to time and to newcomers, until cancelled. Version and transaction of an ad are stored before anybody sees them,
    /// so it stops also while the network or the chain is waited for.
    pub async fn run(self, cancel: CancellationToken) {
        let says = async {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(ANNOUNCE_EVERY) => self.say_everywhere().await,
                    () = self.inner.newcomer.notified() => self.say_to_newcomers().await,
                }
                tokio::time::sleep(ANNOUNCE_PAUSE).await;
            }
        };
        cancel.run_until_cancelled(says).await;
    }
}

/// What is offered, apart from what changes with each reading and each signature.
fn offer_of(ad: &Ad) -> Result<Hash, CodecError> {
    let mut offer = ad.clone();
    (offer.version, offer.issued_ms, offer.expires_ms) = (0, 0, 0);
    for stream in &mut offer.streams {
        (stream.size, stream.first_time, stream.last_time) = (0, None, None);
    }
    codec::encode(&offer).map(|bytes| Hash::of(&bytes))
}
