//! The agent: the seller's side of a node. Where readings come from and how they are kept, anchored, advertised and sold.

pub mod advertiser;
pub mod anchorer;
pub mod recorder;
pub mod seller;
pub mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sensora_chain::wallet::WalletError;
use sensora_chain::{Network, Satoshis};
use sensora_protocol::ad::PaymentMode;
use sensora_protocol::market::price::Price;
use sensora_protocol::place::Place;
use sensora_protocol::{Identity, StreamId};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::advertiser::{Advertiser, AdvertiserError, AdvertiserParts, Listing};
use self::anchorer::{AnchorPolicy, Anchorer, AnchorerParts};
use self::recorder::{Recorder, RecorderError};
use self::seller::channels::{ChannelPolicy, Channels, ChannelsParts};
use self::seller::release::ReleasePolicy;
use self::seller::supply::Credit;
use self::seller::{Seller, SellerParts};
use self::source::{Fingerprint, RawReading, RowReport, Source, SourceError, SourceSpec};
use crate::chain_access::ChainAccess;
use crate::clock::Clock;
use crate::net::Net;
use crate::store::{Store, StoreError};
use crate::wallet::{WalletHandle, WalletHandleError};

/// Pause before readings are written again that the disk did not take.
const RETRY_RECORDING: Duration = Duration::from_secs(1);
/// Pause before an ad is published again that did not get out.
const RETRY_PUBLISH: Duration = Duration::from_secs(2);
/// What is taken from the development chain's faucet when there is nothing to pay for the ad with.
const FAUCET_SAT: u64 = 100_000;

/// Why an agent does not start or a source ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A source cannot be opened or has failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Readings cannot be recorded.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Two sources have a stream of the same name.
    #[error("two sources have a stream `{0}`: give one of them another `name`")]
    DuplicateName(String),
    /// The ad is not valid.
    #[error(transparent)]
    Advertiser(#[from] AdvertiserError),
    /// The mark that a recording began with cannot be read.
    #[error("the mark of the recording behind stream `{0}` is damaged")]
    Fingerprint(String),
}

/// How the streams of a source are offered.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// Price of a reading.
    pub price: Price,
    /// Price of a second of a stream as it comes; none: it is sold by the reading only.
    pub second: Option<Price>,
    /// Licence id.
    pub licence: String,
    /// Where it measures.
    pub place: Option<Place>,
    /// Free readings for each buyer and day.
    pub sample: u32,
    /// Most readings in one order.
    pub max_readings: u64,
    /// What it measures; empty: what follows from its units and names.
    pub kinds: Vec<String>,
    /// Usual time between two readings; where not given, what the source says.
    pub cadence: Option<Duration>,
}

/// A source and how it is offered.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceOptions {
    /// The source.
    pub spec: SourceSpec,
    /// Name of its stream, or what its streams' names begin with.
    pub name: Option<String>,
    /// How it is offered.
    pub terms: Terms,
}

/// What an agent is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentOptions {
    /// What it calls itself in its ad.
    pub name: String,
    /// When anchors are made.
    pub anchors: AnchorPolicy,
    /// Where readings come from.
    pub sources: Vec<SourceOptions>,
    /// Which channels are taken.
    pub channels: ChannelPolicy,
    /// What may stand open with buyers that pay through them.
    pub credit: Credit,
    /// Whether and how batches are sold whose key is released on the chain.
    pub releases: ReleasePolicy,
}

/// What an agent works with.
pub struct AgentParts {
    /// The swarm.
    pub net: Net,
    /// The chain.
    pub chain: ChainAccess,
    /// The money.
    pub wallet: WalletHandle,
    /// The store.
    pub store: Store,
    /// The key.
    pub identity: Identity,
    /// The network.
    pub network: Network,
    /// The time.
    pub clock: Clock,
    /// Where the store is.
    pub home: Option<PathBuf>,
}

/// A running agent. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: Recorder,
    anchorer: Anchorer,
    seller: Seller,
    advertiser: Advertiser,
    wallet: WalletHandle,
    network: Network,
    streams: Vec<StreamId>,
    ended: Mutex<Vec<SourceEnd>>,
}

/// A source that has come to its end.
#[derive(Debug, Clone)]
pub struct SourceEnd {
    /// What it is called.
    pub name: String,
    /// What became of its rows.
    pub rows: RowReport,
    /// Why it has failed, where it has.
    pub outcome: Result<(), String>,
}

impl Agent {
    /// Opens the sources, goes on with their streams, and starts recording, anchoring, advertising and selling.
    ///
    /// # Errors
    /// [`AgentError`] when a source cannot be opened or is not the one that was begun.
    pub async fn start(
        options: AgentOptions,
        parts: AgentParts,
        tasks: &mut JoinSet<()>,
        cancel: &CancellationToken,
    ) -> Result<Self, AgentError> {
        let AgentParts { net, chain, wallet, store, identity, network, clock, home } = parts;
        let recorder = Recorder::open(store.clone(), identity.clone(), network, clock.clone())?;
        let anchorer = Anchorer::new(AnchorerParts {
            recorder: recorder.clone(),
            wallet: wallet.clone(),
            store: store.clone(),
            identity: identity.clone(),
            network,
            clock: clock.clone(),
            policy: options.anchors,
            home: home.clone(),
        });
        let channels = Channels::open(ChannelsParts {
            wallet: wallet.clone(),
            chain: chain.clone(),
            store: store.clone(),
            identity: identity.clone(),
            network,
            clock: clock.clone(),
            policy: options.channels,
            home: home.clone(),
        })?;
        let seller = Seller::new(SellerParts {
            net: net.clone(),
            channels: channels.clone(),
            credit: options.credit,
            releases: options.releases,
            recorder: recorder.clone(),
            anchorer: anchorer.clone(),
            wallet: wallet.clone(),
            chain,
            store: store.clone(),
            identity: identity.clone(),
            network,
            clock: clock.clone(),
            home,
        });
        let mut modes = vec![PaymentMode::Direct];
        modes.extend(options.channels.is_taken().then_some(PaymentMode::Channel));
        modes.extend(options.releases.offered.then_some(PaymentMode::KeyRelease));
        let advertiser = Advertiser::new(AdvertiserParts {
            name: options.name,
            modes,
            recorder: recorder.clone(),
            seller: seller.clone(),
            wallet: wallet.clone(),
            store,
            net,
            identity,
            network,
            clock: clock.clone(),
        });
        let mut listings: Vec<Listing> = Vec::new();
        let mut pumps = Vec::new();
        let mut names = BTreeMap::new();
        for SourceOptions { spec, name, terms } in options.sources {
            let (streams, mut source) = Source::open(&spec, name.as_deref(), &clock).await?;
            let mut ids = Vec::with_capacity(streams.len());
            for (index, stream) in streams.into_iter().enumerate() {
                if names.insert(stream.name.clone(), ()).is_some() {
                    return Err(AgentError::DuplicateName(stream.name));
                }
                let fingerprint = stream.fingerprint.as_ref().map(ToString::to_string);
                let known = recorder.stream(&stream.name, &stream.schema, fingerprint)?;
                let begun = known.fingerprint.as_deref().map(Fingerprint::from_str).transpose();
                let begun = begun.map_err(|_| AgentError::Fingerprint(stream.name.clone()))?;
                source.resume(index, known.size, begun.as_ref())?;
                let cadence = terms.cadence.or(stream.cadence);
                listings.push(Listing {
                    stream: known.id,
                    kinds: if terms.kinds.is_empty() { stream.kinds } else { terms.kinds.clone() },
                    place: terms.place.clone(),
                    cadence_ms: cadence.map(|c| u64::try_from(c.as_millis()).unwrap_or(u64::MAX)),
                    price: terms.price,
                    second: terms.second,
                    licence: terms.licence.clone(),
                    sample: terms.sample,
                    max_readings: terms.max_readings,
                });
                ids.push(known.id);
            }
            let name = name.unwrap_or_else(|| spec.default_name());
            let is_live = matches!(spec, SourceSpec::Host(_) | SourceSpec::Exec(_) | SourceSpec::Stdin(_));
            pumps.push((name, source, ids, is_live));
        }
        let streams = listings.iter().map(|listing| listing.stream).collect();
        let ended = Mutex::default();
        let agent = Self {
            inner: Arc::new(Inner {
                recorder,
                anchorer,
                seller,
                advertiser,
                wallet,
                network,
                streams,
                ended,
            }),
        };
        agent.inner.seller.resume()?;
        tasks.spawn(agent.inner.seller.clone().run(cancel.clone()));
        tasks.spawn(channels.run(cancel.clone()));
        tasks.spawn(agent.inner.seller.clone().run_releases(cancel.clone()));
        for (name, mut source, ids, is_live) in pumps {
            let (pumping, cancel) = (agent.clone(), cancel.clone());
            tasks.spawn(async move {
                let outcome = pumping.pump(&mut source, &ids, is_live, cancel).await;
                match &outcome {
                    Ok(()) => tracing::info!(source = %name, "the source has come to its end"),
                    Err(error) => tracing::error!(source = %name, %error, "the source has failed"),
                }
                let (rows, outcome) = (source.rows(), outcome.map_err(|error| error.to_string()));
                pumping.inner.ended.lock().await.push(SourceEnd { name, rows, outcome });
                pumping.inner.advertiser.newcomer();
            });
        }
        tasks.spawn(agent.inner.anchorer.clone().run(cancel.clone()));
        if listings.is_empty() {
            return Ok(agent);
        }
        let (advertising, stop) = (agent.clone(), cancel.clone());
        tasks.spawn(async move { advertising.advertise(listings, stop).await });
        Ok(agent)
    }

    async fn pump(
        &self,
        source: &mut Source,
        ids: &[StreamId],
        is_live: bool,
        cancel: CancellationToken,
    ) -> Result<(), AgentError> {
        loop {
            let batch = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                batch = source.next() => batch?,
            };
            let Some(batch) = batch else { return Ok(()) };
            let mut by_stream: BTreeMap<StreamId, Vec<RawReading>> = BTreeMap::new();
            for (index, reading) in batch.readings {
                if let Some(id) = ids.get(index) {
                    by_stream.entry(*id).or_default().push(reading);
                }
            }
            if is_live {
                self.leave_out_impossible(&mut by_stream)?;
            }
            let batch: Vec<_> = by_stream.into_iter().collect();
            if cancel.run_until_cancelled(self.record(batch)).await.transpose()?.is_none() {
                return Ok(());
            }
            self.inner.anchorer.recorded();
        }
    }

    /// Passes over readings of a live source that cannot be recorded: a clock that is not set yet must not end it for good. A recording has no
    /// such readings to pass over, since its rows are counted.
    fn leave_out_impossible(
        &self,
        by_stream: &mut BTreeMap<StreamId, Vec<RawReading>>,
    ) -> Result<(), AgentError> {
        let recorder = &self.inner.recorder;
        for (id, readings) in by_stream {
            let (mut left_out, mut why) = (0_u64, None);
            let mut kept = Vec::with_capacity(readings.len());
            for reading in readings.drain(..) {
                match recorder.check(id, &reading)? {
                    Ok(()) => kept.push(reading),
                    Err(error) => {
                        left_out = left_out.saturating_add(1);
                        why = Some(error);
                    }
                }
            }
            *readings = kept;
            if let Some(error) = why {
                tracing::warn!(stream = %id, readings = left_out, %error, "readings were left out");
            }
        }
        Ok(())
    }

    /// Records a batch, waiting for the disk as long as it takes: a failed change has changed nothing, so nothing comes twice.
    async fn record(&self, batch: Vec<(StreamId, Vec<RawReading>)>) -> Result<(), AgentError> {
        loop {
            let (recorder, again) = (self.inner.recorder.clone(), batch.clone());
            // Compressing and writing to disk block; the runtime's threads do not.
            let recorded = tokio::task::spawn_blocking(move || recorder.append(again)).await;
            match recorded.map_err(|error| RecorderError::Damaged(error.to_string()))? {
                Err(RecorderError::Store(error @ (StoreError::DiskFull | StoreError::Database(_)))) => {
                    tracing::error!(%error, "readings wait for the disk");
                    tokio::time::sleep(RETRY_RECORDING).await;
                }
                recorded => return Ok(recorded?),
            }
        }
    }

    async fn advertise(&self, listings: Vec<Listing>, cancel: CancellationToken) {
        let Inner { advertiser, wallet, network, .. } = &*self.inner;
        loop {
            let published = tokio::select! {
                () = cancel.cancelled() => return,
                published = advertiser.offer(listings.clone()) => published,
            };
            match published {
                Ok(_) => break,
                Err(AdvertiserError::Wallet(WalletHandleError::Wallet(WalletError::Funds { .. })))
                    if *network == Network::Regtest && wallet.is_poor() =>
                {
                    let funded = match Satoshis::new(FAUCET_SAT) {
                        Ok(amount) => wallet.fund_from_faucet(amount).await,
                        Err(error) => Err(WalletError::from(error).into()),
                    };
                    match funded {
                        Ok(txid) => {
                            tracing::info!(%txid, "took coins from the development chain's faucet");
                            continue;
                        }
                        Err(error) => {
                            tracing::info!(%error, "the ad waits for coins to pay its place on chain");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "the ad was not published everywhere"),
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY_PUBLISH) => {}
            }
        }
        advertiser.clone().run(cancel).await;
    }

    /// The streams and their logs.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.inner.recorder
    }

    /// The anchors.
    #[must_use]
    pub fn anchorer(&self) -> &Anchorer {
        &self.inner.anchorer
    }

    /// The seller.
    #[must_use]
    pub fn seller(&self) -> &Seller {
        &self.inner.seller
    }

    /// The advertiser.
    #[must_use]
    pub fn advertiser(&self) -> &Advertiser {
        &self.inner.advertiser
    }

    /// The streams that this run offers.
    #[must_use]
    pub fn streams(&self) -> &[StreamId] {
        &self.inner.streams
    }

    /// The sources that have come to their end, in the order in which they did.
    pub async fn ended_sources(&self) -> Vec<SourceEnd> {
        self.inner.ended.lock().await.clone()
    }
}
