//! Starting and ending chain access: what follows the headers, and what mines the development chain.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sensora_chain::header::{HeaderChain, Tip};
use sensora_chain::sources::dev::DevChain;
use sensora_chain::sources::node_rpc::{Event, Notifications};
use sensora_chain::sources::service::{Need, Service};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::headers::{HeaderStore, Headers};
use super::source::{DevSource, Part, ServicesOptions, ServicesSource, Source, SwarmSource};
use super::{ChainAccess, ChainError, blocking};
use crate::clock::Clock;
use crate::net::{Multiaddr, Net, PeerId};

/// An empty block is mined after so many intervals without one: time goes on for whatever waits for a height, and with
/// blocks every second an idle chain still grows by less than 3,000 headers (230 kB) a day.
pub const IDLE_INTERVALS: u32 = 30;

/// Peers whose headers are followed at the same time: several, so that no single one decides what this node sees.
const MAX_FOLLOWED: usize = 4;

/// How long a regtest node may take to get ready for being mined on: its first hundred blocks take seconds.
const FIRST_FUNDING: Duration = Duration::from_secs(60);

/// A peer to ask about the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPeer {
    /// The peer.
    pub peer: PeerId,
    /// Where it may be reached, beside what the swarm knows.
    pub addresses: Vec<Multiaddr>,
}

/// Where the chain is reached.
pub enum SourceOptions {
    /// This node runs the development chain and mines it.
    Dev {
        /// The chain.
        chain: DevChain,
        /// How often a block is mined if transactions wait for one.
        block_interval: Duration,
    },
    /// Configured services are asked.
    Services {
        /// Which, and in which order.
        services: ServicesOptions,
        /// Peers, for what no service answers.
        swarm: Option<(Net, Vec<ChainPeer>)>,
        /// Mine on the regtest node among the services, and fund its faucet: how often a block is mined if transactions wait for one.
        mine: Option<Duration>,
    },
    /// Peers are asked.
    Swarm {
        /// The swarm.
        net: Net,
        /// Whom to ask first; others that are connected come after them.
        peers: Vec<ChainPeer>,
    },
}

/// What chain access needs to start.
pub struct ChainOptions {
    /// Headers that are believed without proof: a network's first block or a checkpoint.
    pub base: HeaderChain,
    /// Where the chain is reached.
    pub source: SourceOptions,
    /// Where headers survive a restart.
    pub store: Box<dyn HeaderStore>,
    /// The time of day.
    pub clock: Clock,
    /// How often tips are asked for: a second where blocks come every second, half a minute on a public network.
    pub poll_interval: Duration,
}

/// The tasks behind a [`ChainAccess`]. They end when their token is cancelled; dropping this ends them at once.
#[must_use = "dropping the tasks ends them"]
pub struct ChainTasks {
    tasks: JoinSet<()>,
}

impl ChainTasks {
    /// Waits until all have ended.
    pub async fn finished(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a task of chain access has failed");
            }
        }
    }
}

/// Starts chain access. With the development chain, and with a regtest node to mine on, it returns when its faucet has coins and its
/// headers are followed; with other services and with peers at once, with the headers that were stored, and the rest comes as they answer.
///
/// # Errors
/// [`ChainError::Headers`] when the stored headers cannot be read, [`ChainError::Dev`] when the development chain fails,
/// [`ChainError::Service`] for a service that cannot be used as it is configured, [`ChainError::Regtest`] where a regtest node is to be
/// mined on and does not do it.
pub async fn start(
    options: ChainOptions,
    cancel: CancellationToken,
) -> Result<(ChainAccess, ChainTasks), ChainError> {
    let ChainOptions { base, source, store, clock, poll_interval } = options;
    let opening = clock.clone();
    let opened = blocking(move || Headers::open(base, store, opening)).await.ok_or(ChainError::Stopped)?;
    let headers = Arc::new(opened?);
    let mut tasks = JoinSet::new();
    let access = match source {
        SourceOptions::Dev { chain, block_interval } => {
            let dev = DevSource::new(chain, clock);
            dev.ensure_funded().await?;
            dev.follow(&headers).await?;
            let access = ChainAccess::new(headers, Source::Dev(dev));
            tasks.spawn(run_until(cancel.clone(), follow_dev(access.clone(), poll_interval)));
            tasks.spawn(run_until(cancel, mine(access.clone(), block_interval)));
            access
        }
        SourceOptions::Services { services: options, swarm, mine: mining } => {
            let services = ServicesSource::new(options, swarm, clock)?;
            let access = ChainAccess::new(headers.clone(), Source::Services(services.clone()));
            if let Some(block_interval) = mining {
                tokio::time::timeout(FIRST_FUNDING, services.ensure_funded())
                    .await
                    .unwrap_or(Err(ChainError::Stopped))?;
                access.refresh().await?;
                tasks.spawn(run_until(cancel.clone(), mine(access.clone(), block_interval)));
            }
            let news = Arc::new(Notify::new());
            for client in services.clients(Need::Headers) {
                let Service::NodeRpc(node) = &*client else { continue };
                if let Some(heard) = node.notifications() {
                    tasks.spawn(run_until(cancel.clone(), listen(heard, news.clone())));
                }
            }
            if let Some(swarm) = services.swarm() {
                let following = follow_peers(swarm.clone(), headers.clone(), poll_interval);
                tasks.spawn(run_until(cancel.clone(), following));
            }
            tasks.spawn(run_until(cancel, follow_services(services, headers, news, poll_interval)));
            access
        }
        SourceOptions::Swarm { net, peers } => {
            let swarm = SwarmSource::new(net, peers);
            tasks.spawn(run_until(cancel, follow_peers(swarm.clone(), headers.clone(), poll_interval)));
            ChainAccess::new(headers, Source::Swarm(swarm))
        }
    };
    Ok((access, ChainTasks { tasks }))
}

async fn run_until(cancel: CancellationToken, work: impl Future<Output = ()>) {
    let _ = cancel.run_until_cancelled(work).await;
}

/// Interval of at least a millisecond that does not catch up on what it missed.
fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn follow_dev(access: ChainAccess, period: Duration) {
    let mut ticks = every(period);
    loop {
        ticks.tick().await;
        if let Err(error) = access.refresh().await {
            tracing::warn!(%error, "the headers of the development chain could not be followed");
        }
    }
}

async fn mine(access: ChainAccess, period: Duration) {
    let mut ticks = every(period);
    let mut idle = 0u32;
    let mut last: Option<Tip> = None;
    // The first tick of an interval comes at once, and is none.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let tip = access.headers().tip();
        idle = if last == Some(tip) { idle.saturating_add(1) } else { 0 };
        last = Some(tip);
        if let Err(error) = mine_if_due(&access, idle).await {
            tracing::warn!(%error, "no block could be mined");
        }
    }
}

async fn mine_if_due(access: &ChainAccess, idle: u32) -> Result<(), ChainError> {
    let waits = match &access.inner.source {
        Source::Dev(dev) => dev.has_waiting().await?,
        Source::Services(services) => services.has_waiting().await?,
        Source::Swarm(_) => return Err(ChainError::NotDev),
    };
    if waits || idle >= IDLE_INTERVALS {
        access.mine().await?;
    }
    Ok(())
}

/// Hears what a node publishes, so that its blocks are followed as they come. Where it cannot be heard, the interval is enough.
async fn listen(mut heard: Notifications, news: Arc<Notify>) {
    loop {
        if heard.next().await == Event::Block {
            news.notify_one();
        }
    }
}

/// Follows the headers of the services at each interval, and when there is news.
async fn follow_services(
    services: ServicesSource,
    headers: Arc<Headers>,
    news: Arc<Notify>,
    period: Duration,
) {
    let mut ticks = every(period);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = news.notified() => {}
        }
        services.follow_all(&headers).await;
    }
}

/// Follows the headers of a few peers at a time, so that a slow one holds nobody up.
async fn follow_peers(swarm: SwarmSource, headers: Arc<Headers>, period: Duration) {
    let mut ticks = every(period);
    let mut walks: JoinSet<PeerId> = JoinSet::new();
    let mut walking: HashSet<PeerId> = HashSet::new();
    loop {
        tokio::select! {
            Some(ended) = walks.join_next() => match ended {
                Ok(peer) => { walking.remove(&peer); }
                // Whose walk it was is not known; all that still run are among the others.
                Err(_) => walking.clear(),
            },
            _ = ticks.tick() => {
                for peer in swarm.rested(Part::Headers).await {
                    if walks.len() >= MAX_FOLLOWED {
                        break;
                    }
                    if walking.insert(peer.peer) {
                        let (swarm, headers) = (swarm.clone(), headers.clone());
                        walks.spawn(async move {
                            swarm.follow(&headers, &peer).await;
                            peer.peer
                        });
                    }
                }
            }
        }
    }
}
