//! Starting and ending chain access: what follows the headers, and what mines the development chain.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sensora_chain::header::{HeaderChain, Tip};
use sensora_chain::sources::dev::DevChain;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::headers::{HeaderStore, Headers};
use super::source::{DevSource, Source, SwarmSource};
use super::{ChainAccess, ChainError, blocking};
use crate::clock::Clock;
use crate::net::{Multiaddr, Net, PeerId};

/// An empty block is mined after so many intervals without one: time goes on for whatever waits for a height, and with
/// blocks every second an idle chain still grows by less than 3,000 headers (230 kB) a day.
pub const IDLE_INTERVALS: u32 = 30;

/// Peers whose headers are followed at the same time: several, so that no single one decides what this node sees.
const MAX_FOLLOWED: usize = 4;

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

/// Starts chain access. With the development chain it returns when its faucet has coins and its headers are followed;
/// with peers at once, with the headers that were stored, and the rest comes as peers answer.
///
/// # Errors
/// [`ChainError::Headers`] when the stored headers cannot be read, [`ChainError::Dev`] when the development chain fails.
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
    let Source::Dev(dev) = &access.inner.source else { return Err(ChainError::NotDev) };
    if idle >= IDLE_INTERVALS || dev.has_waiting().await? {
        access.mine().await?;
    }
    Ok(())
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
                for peer in swarm.rested().await {
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
