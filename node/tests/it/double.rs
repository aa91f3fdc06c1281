//! A seller whose answers can be bent: the real one's rules on a swarm of its own, and a rule of the test between it and the buyer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sensora_chain::header::HeaderChain;
use sensora_chain::keys::PublicKey;
use sensora_chain::{FeeRate, Network, Satoshis};
use sensora_node::agent::anchorer::{AnchorPolicy, Anchorer, AnchorerParts};
use sensora_node::agent::recorder::Recorder;
use sensora_node::agent::seller::channels::{ChannelPolicy, Channels, ChannelsParts};
use sensora_node::agent::seller::release::ReleasePolicy;
use sensora_node::agent::seller::supply::Credit;
use sensora_node::agent::seller::{Seller, SellerParts};
use sensora_node::agent::source::RawReading;
use sensora_node::buyer::BuyRequest;
use sensora_node::chain_access::{
    self, ChainAccess, ChainOptions, ChainTasks, MemoryHeaderStore, SourceOptions,
};
use sensora_node::clock::Clock;
use sensora_node::fees::{FeePolicy, Fees};
use sensora_node::freeze::Freeze;
use sensora_node::net::{
    DeliveryStream, Multiaddr, Net, NetConfig, NetEvent, NetEvents, PeerId, Protocol, StreamKind, Transport,
    public_key_of,
};
use sensora_node::store::Store;
use sensora_node::supervisor::Node;
use sensora_node::wallet::WalletHandle;
use sensora_protocol::ad::{Ad, Limits, PaymentMode, StreamAd, kinds_of};
use sensora_protocol::market::message::{Request, Response};
use sensora_protocol::market::offer::Range;
use sensora_protocol::stream::{Field, Kind, Schema, Unit, Value};
use sensora_protocol::{Identity, Signed, StreamId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::world::{address, identity, limits};

/// What the double does with a request and its honest answer.
type Rule = Box<dyn FnMut(&Request, Response) -> Response + Send>;

/// Decides before the honest seller sees it: an answer in its place, or `None`.
type Guard = Box<dyn FnMut(&Request) -> Option<Response> + Send>;

/// Who takes the deliveries that are opened to it, in the honest seller's place.
type Taker = Arc<Mutex<Option<mpsc::Sender<DeliveryStream>>>>;

/// The streams of a double.
pub(crate) struct Pages {
    pub(crate) recorder: Recorder,
    pub(crate) streams: Vec<StreamId>,
}

/// A seller on the swarm that says what the test wants.
pub(crate) struct Double {
    pub(crate) identity: Identity,
    pub(crate) net: Net,
    pub(crate) address: Multiaddr,
    pub(crate) seller: Seller,
    pub(crate) anchorer: Anchorer,
    pub(crate) recorder: Recorder,
    pub(crate) wallet: WalletHandle,
    pub(crate) chain: ChainAccess,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) streams: Vec<StreamId>,
    rule: Arc<Mutex<Rule>>,
    guard: Arc<Mutex<Guard>>,
    taker: Taker,
    _tasks: ChainTasks,
    _stop: tokio_util::sync::DropGuard,
}

pub(crate) fn schema() -> Schema {
    Schema::new(vec![Field::new("temperature", Kind::Float).with_unit(Unit::new("Cel").unwrap())]).unwrap()
}

/// Readings with different values, one a second.
pub(crate) fn readings(first: i64, count: i64) -> Vec<RawReading> {
    let at = |n: i64| 1_700_000_000_000_000_000 + n * 1_000_000_000;
    (first..first + count)
        .map(|n| RawReading { time: at(n), values: vec![Value::Float(n as f64 / 8.0)] })
        .collect()
}

impl Double {
    /// A double with two streams of `count` readings, on the chain of `bootstrap`.
    pub(crate) async fn new(seed: u8, bootstrap: &Node, count: i64) -> Self {
        Self::on_disk_of(None, seed, bootstrap, count).await
    }

    /// One whose store is on the disk that `home` is on.
    pub(crate) async fn on_disk_of(home: Option<PathBuf>, seed: u8, bootstrap: &Node, count: i64) -> Self {
        let identity = identity(seed);
        let (network, clock) = (Network::Regtest, Clock::fixed(Clock::system().now_ns()));
        let cancel = CancellationToken::new();
        let address = address();
        let mut config = NetConfig::new(identity.key().to_bytes(), network.name());
        config.listen = vec![address.clone()];
        config.transport = Transport::Memory;
        let (net, runner, events) = Net::new(config).unwrap();
        tokio::spawn(runner.run(cancel.clone()));
        net.listen_addrs().await;
        let dev = bootstrap.chain().dev_chain().unwrap().clone();
        // It neither mines nor looks by itself.
        let never = Duration::from_secs(3600);
        let options = ChainOptions {
            base: HeaderChain::genesis(network).unwrap(),
            source: SourceOptions::Dev { chain: dev, block_interval: never },
            store: Box::new(MemoryHeaderStore::default()),
            clock: clock.clone(),
            poll_interval: never,
        };
        let (chain, tasks) = chain_access::start(options, cancel.clone()).await.unwrap();
        let store = Store::in_memory(network, identity.public()).unwrap();
        let fees = Fees::fixed(FeePolicy { rate: FeeRate::DEFAULT, max: Satoshis::from_sat(100_000) });
        let wallet = WalletHandle::open(
            store.clone(),
            identity.clone(),
            network,
            chain.clone(),
            clock.clone(),
            fees,
            Freeze::default(),
        )
        .unwrap();
        let recorder = Recorder::open(store.clone(), identity.clone(), network, clock.clone()).unwrap();
        let mut streams = Vec::new();
        for name in ["true", "other"] {
            let stream = recorder.stream(name, &schema(), None).unwrap().id;
            recorder.append(vec![(stream, readings(0, count))]).unwrap();
            streams.push(stream);
        }
        let anchorer = Anchorer::new(AnchorerParts {
            recorder: recorder.clone(),
            wallet: wallet.clone(),
            store: store.clone(),
            identity: identity.clone(),
            network,
            clock: clock.clone(),
            policy: AnchorPolicy { every: never, readings: u64::MAX },
            home: None,
        });
        let channels = Channels::open(ChannelsParts {
            wallet: wallet.clone(),
            chain: chain.clone(),
            store: store.clone(),
            identity: identity.clone(),
            network,
            clock: clock.clone(),
            policy: ChannelPolicy::default(),
            home: home.clone(),
        });
        let seller = Seller::new(SellerParts {
            net: net.clone(),
            channels: channels.unwrap(),
            credit: Credit::default(),
            releases: ReleasePolicy::default(),
            recorder: recorder.clone(),
            anchorer: anchorer.clone(),
            wallet: wallet.clone(),
            chain: chain.clone(),
            store: store.clone(),
            identity: identity.clone(),
            network,
            clock: clock.clone(),
            home,
        });
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_, answer| answer)));
        let guard: Arc<Mutex<Guard>> = Arc::new(Mutex::new(Box::new(|_| None)));
        let taker = Taker::default();
        tokio::spawn(serve(events, seller.clone(), rule.clone(), guard.clone(), taker.clone()));
        let stop = cancel.drop_guard();
        let double = Self {
            identity,
            net,
            address,
            seller,
            anchorer,
            recorder,
            wallet,
            chain,
            store,
            clock,
            streams,
            rule,
            guard,
            taker,
            _tasks: tasks,
            _stop: stop,
        };
        double.seller.set_ad(double.sign(double.ad()));
        double
    }

    pub(crate) fn key(&self) -> PublicKey {
        *self.identity.public()
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.net.peer_id()
    }

    /// Bends answers from now on.
    pub(crate) fn answers(&self, rule: impl FnMut(&Request, Response) -> Response + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Answers in the honest seller's place from now on, where it gives something.
    pub(crate) fn intercepts(&self, guard: impl FnMut(&Request) -> Option<Response> + Send + 'static) {
        *self.guard.lock().unwrap() = Box::new(guard);
    }

    /// Takes the long-lived streams that are opened to it from now on, as long as somebody waits for them.
    pub(crate) fn takes_streams(&self) -> mpsc::Receiver<DeliveryStream> {
        let (taker, taken) = mpsc::channel(8);
        *self.taker.lock().unwrap() = Some(taker);
        taken
    }

    /// Tells the truth from now on.
    pub(crate) fn repents(&self) {
        self.answers(|_, answer| answer);
        self.intercepts(|_| None);
    }

    /// An honest ad of the first stream.
    pub(crate) fn ad(&self) -> Ad {
        let issued_ms = self.clock.now_ms();
        let known = self.recorder.summary(&self.streams[0]).unwrap();
        let stream = StreamAd {
            id: known.id,
            name: known.name,
            kinds: kinds_of(&known.schema),
            schema: known.schema,
            place: None,
            cadence_ms: Some(1000),
            price: "2".parse().unwrap(),
            second: None,
            licence: "CC0-1.0".into(),
            sample: 10,
            modes: vec![PaymentMode::Direct],
            limits: Limits { max_readings: 100_000 },
            size: known.size,
            first_time: known.first_time,
            last_time: known.last_time,
        };
        Ad {
            name: "double".into(),
            version: u64::try_from(issued_ms).unwrap(),
            issued_ms,
            expires_ms: issued_ms + 3_600_000,
            withdrawn: false,
            addresses: vec![self.address.to_string()],
            streams: vec![stream],
        }
    }

    pub(crate) fn sign(&self, ad: Ad) -> Signed<Ad> {
        Signed::sign(ad, &self.identity, Network::Regtest).unwrap()
    }

    /// What a lie is made of.
    pub(crate) fn pages(&self) -> Pages {
        Pages { recorder: self.recorder.clone(), streams: self.streams.clone() }
    }

    /// Connects a buyer, and gives what it takes to buy of the first stream.
    pub(crate) async fn meet(&self, buyer: &Node, range: Range) -> BuyRequest {
        buyer.net().dial(self.peer(), vec![self.address.clone()]).await.unwrap();
        let stream = self.ad().streams[0].clone();
        BuyRequest { seller: self.key(), stream: stream.id, range, limits: limits(), ad: Some(stream) }
    }
}

async fn serve(
    mut events: NetEvents,
    seller: Seller,
    rule: Arc<Mutex<Rule>>,
    guard: Arc<Mutex<Guard>>,
    taker: Taker,
) {
    let cancel = CancellationToken::new();
    let _ends_with_this = cancel.clone().drop_guard();
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::Request { peer, protocol: Protocol::Market, body, responder } => {
                let (seller, rule, guard) = (seller.clone(), rule.clone(), guard.clone());
                tokio::spawn(async move {
                    let key = PublicKey::from_bytes(&public_key_of(&peer).unwrap()).unwrap();
                    let request = Request::from_bytes(&body).unwrap();
                    let instead = guard.lock().unwrap()(&request);
                    let answer = match instead {
                        Some(answer) => answer,
                        None => seller.answer(&key, request.clone()).await,
                    };
                    let answer = rule.lock().unwrap()(&request, answer);
                    responder.respond(answer.to_bytes().unwrap());
                });
            }
            NetEvent::Delivery { stream } => {
                let taker = taker.lock().unwrap().clone();
                let stream = match taker {
                    Some(taker) => match taker.send(stream).await {
                        Ok(()) => continue,
                        Err(unwanted) => unwanted.0,
                    },
                    None => stream,
                };
                if stream.kind() != StreamKind::Delivery {
                    stream.refuse();
                    continue;
                }
                let (seller, cancel) = (seller.clone(), cancel.clone());
                let key = PublicKey::from_bytes(&public_key_of(&stream.peer()).unwrap()).unwrap();
                tokio::spawn(async move { seller.deliver(key, stream, cancel).await });
            }
            NetEvent::Gossip { verdict, .. } => verdict.accept(),
            _ => {}
        }
    }
}
