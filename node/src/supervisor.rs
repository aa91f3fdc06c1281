//! The supervisor: starts and stops the parts of one node, in one cancellation tree.
//!
//! ```text
//! swarm events ──▶ router ──▶ market frames ──▶ seller      (a bounded number at a time)
//!                       ├──▶ chain frames  ──▶ chain service
//!                       └──▶ gossiped ads  ──▶ discovery ──▶ verdict
//! ```
//!
//! A part that is down takes only its own function down: a node without chain access still records and answers, one without peers still
//! records, one without an agent still buys.

mod router;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::{Database, DatabaseError};
use sensora_chain::Network;
use sensora_chain::header::{HeaderChain, HeaderError};
use sensora_chain::keys::PrivateKey;
use sensora_chain::sources::dev::{DevChain, DevChainConfig, DevChainError};
use sensora_protocol::Identity;
use sensora_protocol::market::budget::Budgets;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, AgentError, AgentOptions, AgentParts};
use crate::buyer::{BuyError, Buyer, BuyerParts};
use crate::chain_access::{
    self, ChainAccess, ChainError, ChainOptions, ChainPeer, ChainService, ChainTasks, HeaderStore,
    MemoryHeaderStore, ServicesOptions, SourceOptions,
};
use crate::clock::Clock;
use crate::discovery::{AdBook, Discovery};
use crate::fees::{FeeLimits, Fees};
use crate::freeze::Freeze;
use crate::home::HomePaths;
use crate::net::{Multiaddr, Net, NetConfig, NetError, PeerId, Transport, split_peer_id};
use crate::store::headers::{FileHeaderStore, HeaderFileError};
use crate::store::peers::{self, KnownPeer};
use crate::store::{Store, StoreError};
use crate::wallet::{SweepPolicy, WalletHandle, WalletHandleError};
use router::{Router, refusal_frame};

/// Market requests that are worked on at the same time: each takes some milliseconds of a core and up to two frames of memory.
const MAX_MARKET_REQUESTS: usize = 32;
/// Gossiped ads that are checked at the same time.
const MAX_ADS_CHECKED: usize = 8;
/// How often the peers worth knowing are written down.
const SAVE_PEERS_EVERY: Duration = Duration::from_secs(60);
/// How long the parts may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How often tips are asked for on the development chain.
const POLL_DEV: Duration = Duration::from_millis(500);
/// How often tips are asked for on a public network.
const POLL_PUBLIC: Duration = Duration::from_secs(30);

/// Where a node's chain is.
#[derive(Debug, Clone)]
pub enum ChainRole {
    /// The node runs the development chain, mines it and serves it to peers.
    DevChain {
        /// Its file; in memory when not given.
        path: Option<PathBuf>,
        /// How often a block is mined while transactions wait.
        block_interval: Duration,
    },
    /// The node asks configured services.
    Services(ServicesRole),
    /// The node asks peers: these first, then any that is connected.
    Peers(Vec<Multiaddr>),
}

/// How a node uses chain services.
#[derive(Debug, Clone, Default)]
pub struct ServicesRole {
    /// Which, and in which order.
    pub services: ServicesOptions,
    /// Peers for what no service answers; the bootstrap nodes where none are given.
    pub peers: Vec<Multiaddr>,
    /// Answer peers' questions from the services. Headers are given to them in any case.
    pub serve: bool,
    /// Mine on the regtest node among the services: how often, while transactions wait.
    pub mine: Option<Duration>,
}

/// What a node is to be.
pub struct NodeOptions {
    /// Its key.
    pub identity: Identity,
    /// Its network.
    pub network: Network,
    /// Its store.
    pub store: Store,
    /// The directory of the store: for the block headers beside it, and to see how full the disk is. Without one the headers are
    /// kept in memory.
    pub home: Option<PathBuf>,
    /// The time.
    pub clock: Clock,
    /// Where it listens; empty: it only dials.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach it, where known.
    pub external: Vec<Multiaddr>,
    /// Nodes to meet first.
    pub bootstrap: Vec<Multiaddr>,
    /// Find nodes on the local network.
    pub mdns: bool,
    /// What carries the connections.
    pub transport: Transport,
    /// Where its chain is.
    pub chain: ChainRole,
    /// What it may pay to miners.
    pub fees: FeeLimits,
    /// Where its excess money goes.
    pub sweep: SweepPolicy,
    /// What it may spend in a day.
    pub budgets: Budgets,
    /// What it sells, if it sells.
    pub agent: Option<AgentOptions>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The swarm.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A channel in the store cannot be used.
    #[error("the stored channels cannot be read: {0}")]
    Channels(#[from] Box<BuyError>),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The development chain.
    #[error(transparent)]
    DevChain(#[from] DevChainError),
    /// The development chain's file.
    #[error("cannot open the development chain at {path}: {source}")]
    DevChainFile {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: DatabaseError,
    },
    /// The development chain is for regtest only.
    #[error(
        "the development chain runs on network regtest, not on {0}: leave out --dev-chain or give --network regtest"
    )]
    DevChainNetwork(Network),
    /// A service of another network.
    #[error("chain service {service} is configured for network {of}, this node is on {network}")]
    ServiceNetwork {
        /// The service.
        service: String,
        /// Its network.
        of: Network,
        /// Ours.
        network: Network,
    },
    /// No header to start from.
    #[error("network {network} cannot be followed: {source}")]
    Headers {
        /// The network.
        network: Network,
        /// Why.
        source: HeaderError,
    },
    /// The file of block headers.
    #[error(transparent)]
    HeaderFile(#[from] HeaderFileError),
    /// The wallet.
    #[error(transparent)]
    Wallet(#[from] WalletHandleError),
    /// A source or the ad.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// A running node. Cheap to clone; [`Node::shutdown`] ends it for all clones.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    network: Network,
    net: Net,
    chain: ChainAccess,
    wallet: WalletHandle,
    fees: Fees,
    store: Store,
    discovery: Discovery,
    buyer: Buyer,
    agent: Option<Agent>,
    cancel: CancellationToken,
    stop_net: CancellationToken,
    tasks: Mutex<Option<Tasks>>,
}

struct Tasks {
    parts: JoinSet<()>,
    chain: ChainTasks,
    net: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Starts a node. When this returns it listens, and its agent, if it has one, records.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub async fn start(options: NodeOptions) -> Result<Self, NodeError> {
        let NodeOptions { identity, network, store, home, clock, chain, fees, agent, .. } = &options;
        let mut config = NetConfig::new(identity.key().to_bytes(), network.name());
        config.listen.clone_from(&options.listen);
        config.external.clone_from(&options.external);
        config.bootstrap.clone_from(&options.bootstrap);
        config.mdns = options.mdns;
        config.transport = options.transport;
        config.refusal_frame = refusal_frame;
        config.known_peers = known_peers(store)?;
        let base = HeaderChain::checkpoint(*network)
            .map_err(|source| NodeError::Headers { network: *network, source })?;
        let headers = header_store(home.as_deref(), &base)?;
        let dev_chain = dev_chain(chain, *network)?;
        let (net, runner, events) = Net::new(config)?;

        let (cancel, stop_net) = (CancellationToken::new(), CancellationToken::new());
        // Whatever fails from here on, the tasks that run already end.
        let guard = (cancel.clone().drop_guard(), stop_net.clone().drop_guard());
        let running = tokio::spawn(runner.run(stop_net.clone()));
        net.listen_addrs().await;
        let source = match (&dev_chain, chain) {
            (Some(chain), ChainRole::DevChain { block_interval, .. }) => {
                SourceOptions::Dev { chain: chain.clone(), block_interval: *block_interval }
            }
            (_, ChainRole::Peers(peers)) => {
                SourceOptions::Swarm { net: net.clone(), peers: chain_peers(peers, &options.bootstrap) }
            }
            (_, ChainRole::Services(role)) => SourceOptions::Services {
                services: with_faucet(role.services.clone(), identity, *network)?,
                swarm: peers_behind(&net, *network, &role.peers, &options.bootstrap),
                mine: role.mine,
            },
            (None, ChainRole::DevChain { .. }) => {
                SourceOptions::Swarm { net: net.clone(), peers: Vec::new() }
            }
        };
        let poll_interval = if *network == Network::Regtest { POLL_DEV } else { POLL_PUBLIC };
        let serves = matches!(chain, ChainRole::Services(role) if role.serve);
        let has_services = matches!(chain, ChainRole::Services(_));
        let chain = ChainOptions { base, source, store: headers, clock: clock.clone(), poll_interval };
        let (chain, chain_tasks) = chain_access::start(chain, cancel.clone()).await?;
        let fees = Fees::restored(*fees, store)?;
        let wallet = WalletHandle::open(
            store.clone(),
            identity.clone(),
            *network,
            chain.clone(),
            clock.clone(),
            fees.clone(),
            Freeze::of(home.as_deref()),
        )?;
        let book = AdBook::new(store.clone(), *network, clock.clone());
        let discovery = Discovery::new(book, net.clone(), chain.clone(), *network);
        let buyer = Buyer::new(BuyerParts {
            net: net.clone(),
            discovery: discovery.clone(),
            wallet: wallet.clone(),
            chain: chain.clone(),
            store: store.clone(),
            identity: identity.clone(),
            network: *network,
            clock: clock.clone(),
            home: home.clone(),
            budgets: options.budgets,
        });
        buyer.load_channels().map_err(Box::new)?;
        let mut parts = JoinSet::new();
        parts.spawn(buyer.clone().run_channels(cancel.clone()));
        parts.spawn(buyer.clone().run_releases(cancel.clone()));
        parts.spawn(buyer.clone().run_taken_back(cancel.clone()));
        wallet.set_sweep(options.sweep)?;
        parts.spawn(wallet.clone().run(cancel.clone()));
        if has_services {
            let following = fees.clone().follow(chain.clone(), store.clone(), clock.clone(), cancel.clone());
            parts.spawn(following);
        }
        let agent = match agent.clone() {
            Some(agent) => {
                let works_with = AgentParts {
                    net: net.clone(),
                    chain: chain.clone(),
                    wallet: wallet.clone(),
                    store: store.clone(),
                    identity: identity.clone(),
                    network: *network,
                    clock: clock.clone(),
                    home: home.clone(),
                };
                Some(Agent::start(agent, works_with, &mut parts, &cancel).await?)
            }
            None => None,
        };
        let router = Router {
            net: net.clone(),
            chain: ChainService::for_node(dev_chain, &chain, serves, clock.clone()),
            agent: agent.clone(),
            discovery: discovery.clone(),
            cancel: cancel.clone(),
            market_slots: Arc::new(Semaphore::new(MAX_MARKET_REQUESTS)),
            ad_slots: Arc::new(Semaphore::new(MAX_ADS_CHECKED)),
        };
        parts.spawn(router.run(events, cancel.clone()));
        parts.spawn(save_peers(net.clone(), store.clone(), cancel.clone()));
        let _ = guard.0.disarm();
        let _ = guard.1.disarm();
        let tasks = Mutex::new(Some(Tasks { parts, chain: chain_tasks, net: running }));
        let (identity, network, store) = (identity.clone(), *network, store.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                identity,
                network,
                net,
                chain,
                wallet,
                fees,
                store,
                discovery,
                buyer,
                agent,
                cancel,
                stop_net,
                tasks,
            }),
        })
    }

    /// Stops all parts and waits for them. What was acknowledged is on disk.
    pub async fn shutdown(&self) {
        let tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Tasks { mut parts, chain, net }) = tasks else { return };
        self.inner.cancel.cancel();
        let stopped = async {
            while parts.join_next().await.is_some() {}
            chain.finished().await;
            self.inner.stop_net.cancel();
            let _ = net.await;
        };
        if tokio::time::timeout(STOP_WITHIN, stopped).await.is_err() {
            tracing::warn!("some parts did not stop in time and were ended");
            self.inner.stop_net.cancel();
        }
    }

    /// Who this node is in the swarm.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.inner.net.peer_id()
    }

    /// Its key.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Its network.
    #[must_use]
    pub fn network(&self) -> Network {
        self.inner.network
    }

    /// Where others reach it, each address with its peer id.
    pub async fn addresses(&self) -> Vec<Multiaddr> {
        let listening = self.inner.net.listen_addrs().await;
        listening.into_iter().filter_map(|address| address.with_p2p(self.peer_id()).ok()).collect()
    }

    /// The swarm.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.inner.net
    }

    /// The chain.
    #[must_use]
    pub fn chain(&self) -> &ChainAccess {
        &self.inner.chain
    }

    /// The money.
    #[must_use]
    pub fn wallet(&self) -> &WalletHandle {
        &self.inner.wallet
    }

    /// What it pays to miners, and whose word that is.
    #[must_use]
    pub fn fees(&self) -> &Fees {
        &self.inner.fees
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Finds sellers.
    #[must_use]
    pub fn discovery(&self) -> &Discovery {
        &self.inner.discovery
    }

    /// Buys.
    #[must_use]
    pub fn buyer(&self) -> &Buyer {
        &self.inner.buyer
    }

    /// Sells, if it does.
    #[must_use]
    pub fn agent(&self) -> Option<&Agent> {
        self.inner.agent.as_ref()
    }
}

/// Where the headers survive a restart: in the home, if there is one.
fn header_store(home: Option<&Path>, base: &HeaderChain) -> Result<Box<dyn HeaderStore>, HeaderFileError> {
    Ok(match home {
        Some(home) => Box::new(FileHeaderStore::open(HomePaths::new(home).headers(), base)?),
        None => Box::new(MemoryHeaderStore::default()),
    })
}

/// On regtest, the key that a faucet of this node's regtest node is paid to: coins worth nothing, under a key that nothing else uses.
fn with_faucet(
    mut services: ServicesOptions,
    identity: &Identity,
    network: Network,
) -> Result<ServicesOptions, NodeError> {
    if let Some(other) = services.services.iter().find(|service| service.network != network) {
        let (service, of) = (other.name.clone(), other.network);
        return Err(NodeError::ServiceNetwork { service, of, network });
    }
    if network == Network::Regtest {
        let seed = Sha256::new_with_prefix(b"sensora regtest faucet").chain_update(identity.key().to_bytes());
        services.faucet_key = PrivateKey::from_bytes(seed.finalize().into()).ok();
    }
    Ok(services)
}

/// Peers behind services, where some are named. On regtest work costs nothing, so that there only they are asked.
fn peers_behind(
    net: &Net,
    network: Network,
    peers: &[Multiaddr],
    bootstrap: &[Multiaddr],
) -> Option<(Net, Vec<ChainPeer>)> {
    let named = chain_peers(peers, bootstrap);
    let is_wanted = match network {
        Network::Regtest => !named.is_empty(),
        _ => !peers.is_empty() || !bootstrap.is_empty(),
    };
    is_wanted.then(|| (net.clone(), named))
}

fn dev_chain(role: &ChainRole, network: Network) -> Result<Option<DevChain>, NodeError> {
    let ChainRole::DevChain { path, .. } = role else { return Ok(None) };
    if network != Network::Regtest {
        return Err(NodeError::DevChainNetwork(network));
    }
    let db = match path {
        Some(path) => Database::create(path),
        None => Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()),
    };
    let path = path.clone().unwrap_or_default();
    let db = db.map_err(|source| NodeError::DevChainFile { path, source })?;
    Ok(Some(DevChain::open(Arc::new(db), DevChainConfig::default())?))
}

fn chain_peers(configured: &[Multiaddr], bootstrap: &[Multiaddr]) -> Vec<ChainPeer> {
    let all = configured.iter().chain(bootstrap).cloned().map(split_peer_id);
    let mut peers: Vec<ChainPeer> = Vec::new();
    for (address, peer) in all {
        let Some(peer) = peer else { continue };
        match peers.iter_mut().find(|known| known.peer == peer) {
            Some(known) => known.addresses.push(address),
            None => peers.push(ChainPeer { peer, addresses: vec![address] }),
        }
    }
    peers
}

fn known_peers(store: &Store) -> Result<Vec<(PeerId, Vec<Multiaddr>)>, StoreError> {
    let known = store.read(peers::get)?;
    let parsed = known.iter().filter_map(|known| {
        let addresses = known.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        Some((known.peer.parse().ok()?, addresses))
    });
    Ok(parsed.collect())
}

async fn save_peers(net: Net, store: Store, cancel: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = cancel.cancelled() => true,
            () = tokio::time::sleep(SAVE_PEERS_EVERY) => false,
        };
        let known = net.known_peers().await.into_iter().map(|(peer, addresses)| KnownPeer {
            peer: peer.to_string(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        });
        let known: Vec<_> = known.collect();
        if let Err(error) = store.write(|tx| peers::put(tx, &known)) {
            tracing::warn!(%error, "the known peers were not written down");
        }
        if stopping {
            return;
        }
    }
}
