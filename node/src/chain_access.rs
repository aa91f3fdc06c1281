//! Chain access: headers, broadcast, proofs and data outputs for a node, wherever they come from, believed only as far
//! as they can be checked against the node's own header chain.
//!
//! [`start`] follows the headers of a source and gives a [`ChainAccess`] to ask with. The source is the development
//! chain in this process, configured services (a node of one's own, public APIs), or peers that serve theirs over
//! `/sensora/chain/1` (which [`ChainService`] does). Whatever their answers are made of, they pass the same checks.
//!
//! ```text
//! ChainAccess ── question ──▶ Source ─┬─ Dev: the database of this node
//!      │                              ├─ Services: in their order for each need; a transaction goes to all at once
//!      │                              └─ Swarm: peers in turn, until an answer holds
//!      └── checked answer ◀── check ◀── headers ◀── sync (proof of work, most work)
//! ```

mod check;
mod dev;
mod error;
mod headers;
mod memory;
mod progress;
mod quota;
mod service;
mod source;
mod sync;
mod tasks;

use std::sync::Arc;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::header::Tip;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::dev::{DevChain, DevChainError};
use sensora_chain::sources::service::{FeeQuote, Need, Service};
use sensora_chain::{OutPoint, Satoshis, Script, Transaction, Txid};
use sensora_protocol::chain_access::Refusal;
use sensora_protocol::chain_access::message::{
    MAX_BEEF_LEN, MAX_OUTPOINTS, MAX_SCANNED, MAX_TXIDS, ScanPosition,
};
use tokio::sync::watch;

pub use error::{Asked, BroadcastError, ChainError, Failure, HeaderStoreError, Tried};
pub use headers::{HeaderSnapshot, HeaderStore, MemoryHeaderStore, Restored, restore};
pub use memory::{FIRST_REST, LONG_REST, LONGEST_REST, LONGEST_WAIT, MAX_REMEMBERED};
pub use progress::SyncProgress;
pub use quota::MAX_FAUCET_PEERS;
pub use service::{ChainService, MAX_JOBS, MAX_JOBS_PER_PEER, refusal_frame};
pub use source::{
    ASK_DEADLINE, Disagreement, MAX_ASKED, MAX_SERVICES, REQUEST_DEADLINE, ServiceCheck, ServiceState,
    ServicesOptions, TipWord,
};
pub use tasks::{ChainOptions, ChainPeer, ChainTasks, IDLE_INTERVALS, SourceOptions, start};

use headers::Headers;
use source::{ServicesSource, Source};

/// Where a transaction stands, as far as it can be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxStanding {
    /// Whoever was asked does not know it. A hint: others may.
    Unknown,
    /// Whoever was asked says that it waits for a block. A hint.
    Mempool,
    /// It is in a block. Proven: the path leads to a header of this node's best chain.
    Mined(MerklePath),
}

/// What spends an output, as far as it can be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpentBy {
    /// Whoever was asked does not know the output. A hint.
    Unknown,
    /// Whoever was asked knows of nothing that spends it. A hint.
    Nothing,
    /// This transaction has it as an input.
    Transaction {
        /// The transaction. Its scripts are not checked here.
        tx: Transaction,
        /// Its Merkle path, which leads to a header of this node's best chain; `None` if it is said to wait for a block.
        mined: Option<MerklePath>,
    },
}

/// A data output that is proven to be mined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Height of its block.
    pub height: u32,
    /// Where exactly it is on the chain; the scan goes on at [`ScanPosition::next`].
    pub at: ScanPosition,
    /// The transaction.
    pub txid: Txid,
    /// The output's position in it.
    pub vout: u32,
    /// What the output carries, push by push; the first begins with the prefix asked for.
    pub pushes: Vec<Vec<u8>>,
    /// Atomic BEEF (BRC-95) of the transaction with its Merkle path.
    pub beef: Vec<u8>,
}

/// The chain as this node sees it. A cheap clone; all methods end by a deadline and are safe to cancel.
#[derive(Clone)]
pub struct ChainAccess {
    inner: Arc<Inner>,
}

struct Inner {
    headers: Arc<Headers>,
    source: Source,
}

impl ChainAccess {
    fn new(headers: Arc<Headers>, source: Source) -> Self {
        Self { inner: Arc::new(Inner { headers, source }) }
    }

    /// The header chain as it is now, to check proofs against.
    #[must_use]
    pub fn headers(&self) -> HeaderSnapshot {
        self.inner.headers.snapshot()
    }

    /// The best chain's last header; changes as blocks come. After a reorganisation the height may stay while the hash
    /// changes.
    #[must_use]
    pub fn tip_watch(&self) -> watch::Receiver<Tip> {
        self.inner.headers.watch()
    }

    /// How far the headers are; changes with each run of them.
    #[must_use]
    pub fn sync_progress(&self) -> watch::Receiver<SyncProgress> {
        self.inner.headers.progress()
    }

    /// The development chain, if this node runs it.
    #[must_use]
    pub fn dev_chain(&self) -> Option<&DevChain> {
        match &self.inner.source {
            Source::Dev(dev) => Some(dev.chain()),
            Source::Services(_) | Source::Swarm(_) => None,
        }
    }

    /// Where answers come from, in a few words.
    #[must_use]
    pub fn source_name(&self) -> String {
        match &self.inner.source {
            Source::Dev(_) => "the development chain of this node".to_owned(),
            Source::Services(services) => {
                let peers = if services.swarm().is_some() { ", then peers" } else { "" };
                format!("services {}{peers}", services.names().join(", "))
            }
            Source::Swarm(_) => "peers".to_owned(),
        }
    }

    /// How the configured services do; none where other sources are used.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceState> {
        self.as_services().map(ServicesSource::states).unwrap_or_default()
    }

    /// What configured services have contradicted each other in since the start, the newest last; a bounded number.
    #[must_use]
    pub fn disagreements(&self) -> Vec<Disagreement> {
        self.as_services().map(ServicesSource::disagreements).unwrap_or_default()
    }

    /// Whether somebody's chain was followed to its end since the start. Before, the tip is what was stored, and may be days old.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.inner.headers.is_followed()
    }

    /// Whether heights can be counted from our tip: somebody's chain was followed to its end since the start, and on the main network the newest
    /// block is not hours old.
    #[must_use]
    pub fn knows_end(&self) -> bool {
        self.is_followed() && !self.inner.headers.is_stale()
    }

    /// Comes back when [`ChainAccess::knows_end`].
    pub async fn end_known(&self) {
        let (mut followed, mut tips) = (self.inner.headers.followed(), self.tip_watch());
        while !self.knows_end() {
            tokio::select! {
                // We hold what sends on both.
                _ = followed.changed() => {}
                _ = tips.changed() => {}
            }
        }
    }

    /// Asks every configured service for its tip and its fee rate, and compares the tips with our headers.
    pub async fn check_services(&self) -> Vec<ServiceCheck> {
        match self.as_services() {
            Some(services) => services.check(self.headers()).await,
            None => Vec::new(),
        }
    }

    /// The clients of the configured services that can be asked for `need`, in the order in which they are asked.
    #[must_use]
    pub fn clients(&self, need: Need) -> Vec<Arc<Service>> {
        self.as_services().map(|services| services.clients(need)).unwrap_or_default()
    }

    /// What miners ask for, in the word of the first configured service that says so; with its name.
    ///
    /// # Errors
    /// [`ChainError::NoService`] where none can be asked; as [`ChainAccess::proofs`].
    pub async fn fee_quote(&self) -> Result<(String, FeeQuote), ChainError> {
        match self.as_services() {
            Some(services) => services.fee_quote().await,
            None => Err(ChainError::NoService { need: Need::Fees }),
        }
    }

    fn as_services(&self) -> Option<&ServicesSource> {
        match &self.inner.source {
            Source::Services(services) => Some(services),
            Source::Dev(_) | Source::Swarm(_) => None,
        }
    }

    fn has_only_own_services(&self) -> bool {
        self.as_services().is_some_and(ServicesSource::are_all_own)
    }

    /// What answers peers: the same headers and services, without the peers behind them. `None` where there are no services.
    fn for_peers(&self) -> Option<Self> {
        let services = self.as_services()?.alone();
        Some(Self::new(self.inner.headers.clone(), Source::Services(services)))
    }

    /// Sends a transaction, as Atomic BEEF, to the chain. Sending it again is no error. That it was taken is the word of
    /// whoever was asked; the proof comes with its block, see [`ChainAccess::proofs`].
    ///
    /// # Errors
    /// [`BroadcastError::Rejected`] where the chain refuses it. Several peers are asked where there are several: one
    /// that accepts outweighs those that refuse, unless a double spend is shown and not just said.
    pub async fn broadcast(&self, beef: &[u8]) -> Result<(), BroadcastError> {
        let parsed = match Beef::parse(beef, &BeefLimits { max_bytes: MAX_BEEF_LEN, ..BeefLimits::DEFAULT }) {
            Ok(parsed) if parsed.is_atomic() => parsed,
            Ok(_) => return Err(malformed("the BEEF is not atomic")),
            Err(error) => return Err(malformed(&error.to_string())),
        };
        self.inner.source.broadcast(&self.inner.headers, parsed, beef).await
    }

    /// Where transactions stand; one line for each, in their order. See [`TxStanding`] for what of it is proven. Where the answer about one
    /// is too large to be had, that one is unknown.
    ///
    /// # Errors
    /// [`ChainError`] where nobody gives an answer that holds.
    pub async fn proofs(&self, txids: &[Txid]) -> Result<Vec<(Txid, TxStanding)>, ChainError> {
        let mut all = Vec::with_capacity(txids.len());
        for some in txids.chunks(MAX_TXIDS) {
            all.extend(self.inner.source.proofs(&self.inner.headers, some).await?);
        }
        Ok(all)
    }

    /// What spends these outputs; one line for each, in their order. See [`SpentBy`] for what of it is proven. What is spent by a transaction
    /// that is too large to be had is unknown.
    ///
    /// # Errors
    /// As [`ChainAccess::proofs`].
    pub async fn spent(&self, outpoints: &[OutPoint]) -> Result<Vec<(OutPoint, SpentBy)>, ChainError> {
        let mut all = Vec::with_capacity(outpoints.len());
        for some in outpoints.chunks(MAX_OUTPOINTS) {
            all.extend(self.inner.source.spent(&self.inner.headers, some).await?);
        }
        Ok(all)
    }

    /// Mined data outputs whose first push begins with `prefix` (1 to 32 bytes), from `from_height` upwards, in the order of
    /// the chain: at most `max`. Each is proven; that none was left out is the word of whoever was asked.
    ///
    /// # Errors
    /// As [`ChainAccess::proofs`].
    pub async fn scan(
        &self,
        prefix: &[u8],
        from_height: u32,
        max: usize,
    ) -> Result<Vec<Scanned>, ChainError> {
        let mut found: Vec<Scanned> = Vec::new();
        let mut next = Some(ScanPosition::at_height(from_height));
        while let Some(from) = next
            && found.len() < max
        {
            let (page, then) = self.scan_page(prefix, from, max.saturating_sub(found.len())).await?;
            found.extend(page);
            next = then;
        }
        Ok(found)
    }

    /// One page of a scan: at most `max` outputs (and never more than [`MAX_SCANNED`]) from `from` on, and where the next
    /// page begins; `None` at the end of the chain. To look for new ones later, begin at the height after the last tip.
    ///
    /// # Errors
    /// As [`ChainAccess::proofs`].
    pub async fn scan_page(
        &self,
        prefix: &[u8],
        from: ScanPosition,
        max: usize,
    ) -> Result<(Vec<Scanned>, Option<ScanPosition>), ChainError> {
        let max = max.clamp(1, MAX_SCANNED);
        self.inner.source.scan(&self.inner.headers, prefix.into(), from, max).await
    }

    /// Coins from a development chain: Atomic BEEF of a transaction that pays `sat` to `locking` and can be spent at once.
    ///
    /// # Errors
    /// As [`ChainAccess::proofs`]; [`ChainError::refusal`] says why the faucet does not pay.
    pub async fn faucet(&self, locking: &Script, sat: Satoshis) -> Result<Vec<u8>, ChainError> {
        self.inner.source.faucet(&self.inner.headers, locking.clone(), sat).await
    }

    /// Mines a block with everything that waits, and follows it. Only on the development chain of this node, or on a regtest node that
    /// is its service.
    ///
    /// # Errors
    /// [`ChainError::NotDev`] elsewhere.
    pub async fn mine(&self) -> Result<Tip, ChainError> {
        match &self.inner.source {
            Source::Dev(dev) => dev.mine().await?,
            Source::Services(services) => services.mine().await?,
            Source::Swarm(_) => return Err(ChainError::NotDev),
        }
        self.refresh().await?;
        Ok(self.headers().tip())
    }

    /// Follows the source's headers now instead of at the next interval.
    ///
    /// # Errors
    /// As [`ChainAccess::proofs`].
    pub async fn refresh(&self) -> Result<(), ChainError> {
        self.inner.source.refresh(&self.inner.headers).await
    }
}

impl std::fmt::Debug for ChainAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainAccess").field("tip", &self.headers().tip()).finish_non_exhaustive()
    }
}

pub(crate) fn malformed(reason: &str) -> BroadcastError {
    BroadcastError::Failed(ChainError::Invalid(Refusal::Malformed { reason: reason.to_owned() }))
}

/// Runs what blocks on the database or on arithmetic off the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn dev_failed(error: DevChainError) -> ChainError {
    ChainError::Dev(error)
}
