//! The anchorer: puts the checkpoints of all streams that have grown into one transaction, each so often.
//!
//! An anchor is built, recorded and queued for the network in one stored step, so a crash leaves either no anchor or one that still goes out. What
//! the network refuses, or another transaction outdoes, is simply not counted: with the next tick the next anchor takes its place, and if a
//! reorganisation brings the first one back, both stand. A reorganisation that only takes an anchor out of its block changes nothing here: the
//! wallet brings it back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sensora_chain::wallet::{Status, WalletError};
use sensora_chain::{Network, Satoshis};
use sensora_protocol::anchor::{AnchorProof, AnchorTree};
use sensora_protocol::statement::StatementError;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{Identity, Signed, StreamId};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::recorder::{Recorder, RecorderError};
use crate::clock::{Clock, Stopwatch};
use crate::store::anchors::{self, AnchorRecord};
use crate::store::{Store, StoreError};
use crate::wallet::{WalletHandle, WalletHandleError};

/// Anchors whose transactions are looked after: more than are ever unmined or within reach of a reorganisation.
const LOOKED_AFTER: usize = 256;
/// What is taken from the development chain's faucet when the agent has nothing to pay anchors with: about 2,000 anchors.
const FAUCET_SAT: u64 = 100_000;
/// After an anchor that could not be made so long passes until new readings alone lead to another attempt: each of a stream's batches would
/// else try in vain and say so. The tick tries in any case.
const REST: Duration = Duration::from_secs(10);
/// Free space below which nothing new is begun.
pub const MIN_FREE_SPACE: u64 = crate::home::RESERVED_SPACE;

/// When anchors are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnchorPolicy {
    /// At latest so long after a reading was recorded.
    pub every: Duration,
    /// As soon as so many readings are not anchored.
    pub readings: u64,
}

/// How far the chain is behind the recording of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorLag {
    /// The stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// Readings that stand under no mined anchor.
    pub readings: u64,
    /// Milliseconds since the oldest of them was recorded; 0 when there is none. When a reading was recorded is not stored: it was not before its own
    /// time, and not before the last mined anchor was made, and the later of the two is what counts here.
    pub age_ms: u64,
}

/// Why an anchor was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorerError {
    /// The recorder failed.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// The wallet cannot pay it.
    #[error(transparent)]
    Wallet(#[from] WalletHandleError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored checkpoint does not verify.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The stored anchor tree does not have the checkpoint.
    #[error("the stored anchor {0} is damaged")]
    Damaged(u64),
}

/// Makes anchors for one agent. Cheap to clone.
#[derive(Clone)]
pub struct Anchorer {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: Recorder,
    wallet: WalletHandle,
    store: Store,
    identity: Identity,
    network: Network,
    clock: Clock,
    policy: AnchorPolicy,
    /// One anchor is made at a time.
    making: Mutex<()>,
    recorded: Notify,
    started: Stopwatch,
    home: Option<PathBuf>,
}

/// What an anchorer works with.
pub struct AnchorerParts {
    /// The streams.
    pub recorder: Recorder,
    /// Pays the transactions.
    pub wallet: WalletHandle,
    /// Keeps the anchors.
    pub store: Store,
    /// Signs the checkpoints.
    pub identity: Identity,
    /// The network.
    pub network: Network,
    /// The time.
    pub clock: Clock,
    /// When.
    pub policy: AnchorPolicy,
    /// Where the store is, to see how full the disk is.
    pub home: Option<PathBuf>,
}

impl Anchorer {
    /// An anchorer.
    #[must_use]
    pub fn new(parts: AnchorerParts) -> Self {
        let AnchorerParts { recorder, wallet, store, identity, network, clock, policy, home } = parts;
        let (making, recorded, started) = (Mutex::new(()), Notify::new(), Stopwatch::start());
        let inner = Inner {
            recorder,
            wallet,
            store,
            identity,
            network,
            clock,
            policy,
            making,
            recorded,
            started,
            home,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Readings have been recorded.
    pub fn recorded(&self) {
        self.inner.recorded.notify_one();
    }

    /// Anchors every stream that has grown since it was last anchored. `None` when none has.
    ///
    /// # Errors
    /// [`AnchorerError`].
    pub async fn anchor_now(&self) -> Result<Option<AnchorRecord>, AnchorerError> {
        let Inner { recorder, wallet, store, identity, network, clock, making, .. } = &*self.inner;
        let _one_at_a_time = making.lock().await;
        // While the network cannot be reached one anchor waits for it; more of them would say the same and cost more.
        if let Some(last) = store.read(|tx| anchors::newest(tx, 1))?.first()
            && wallet.status(&last.txid) == Some(Status::Built)
        {
            wallet.deliver(&last.txid, &last.beef).await?;
        }
        let mut streams = Vec::new();
        let mut checkpoints: Vec<Signed<Checkpoint>> = Vec::new();
        for stream in recorder.summaries() {
            if stream.size > self.anchored_size(&stream.id)?
                && let Some(checkpoint) = recorder.checkpoint(&stream.id)?
            {
                streams.push(stream.id);
                checkpoints.push(checkpoint);
            }
        }
        if checkpoints.is_empty() {
            return Ok(None);
        }
        let number =
            store.read(|tx| anchors::newest(tx, 1))?.first().map_or(0, |last| last.number.saturating_add(1));
        let output = AnchorTree::new(&checkpoints, *network).payload(identity.public()).to_output();
        let made_ms = clock.now_ms();
        let checkpoints: Vec<_> = checkpoints.into_iter().map(Signed::into_bytes).collect();
        let mut record = AnchorRecord {
            number,
            txid: Default::default(),
            checkpoints,
            beef: Vec::new(),
            height: None,
            made_ms,
        };
        let label = format!("anchor {number}");
        let built = wallet.post(vec![output], &label, |built, tx| {
            record.txid = built.txid;
            record.beef.clone_from(&built.beef);
            anchors::put(tx, &record, &streams)
        })?;
        wallet.deliver(&built.txid, &built.beef).await?;
        tracing::info!(anchor = number, txid = %built.txid, streams = record.checkpoints.len(), fee = %built.fee, "anchored");
        Ok(Some(record))
    }

    /// Readings of a stream that stand under an anchor which the network has not refused.
    fn anchored_size(&self, stream: &StreamId) -> Result<u64, AnchorerError> {
        Ok(self.best(stream, u64::MAX)?.map_or(0, |(_, _, checkpoint)| checkpoint.value().size))
    }

    /// The anchor of a stream that says most about its first `size` readings: the newest that is mined and holds them all, else
    /// the newest that the network has not refused.
    fn best(
        &self,
        stream: &StreamId,
        size: u64,
    ) -> Result<Option<(AnchorRecord, u32, Signed<Checkpoint>)>, AnchorerError> {
        let Inner { store, wallet, network, .. } = &*self.inner;
        let mut newest = None;
        let mut below = u64::MAX;
        for _ in 0..LOOKED_AFTER {
            let Some((anchor, index)) = store.read(|tx| anchors::newest_of(tx, stream, below))? else {
                break;
            };
            below = anchor.number;
            let Some(mined) = stands(&anchor, wallet.status(&anchor.txid)) else { continue };
            let checkpoint =
                usize::try_from(index).ok().and_then(|index| anchor.checkpoints.get(index)).cloned();
            let checkpoint = checkpoint.ok_or(AnchorerError::Damaged(anchor.number))?.verify(*network)?;
            let holds: &Checkpoint = checkpoint.value();
            if holds.size < size && newest.is_some() {
                break;
            }
            let found = (anchor, index, checkpoint);
            if mined {
                return Ok(Some(found));
            }
            if newest.is_none() {
                newest = Some(found);
            }
        }
        Ok(newest)
    }

    /// How far the chain is behind the recording of a stream. An anchor counts once it is mined.
    ///
    /// # Errors
    /// [`AnchorerError`].
    pub fn lag(&self, stream: &StreamId) -> Result<AnchorLag, AnchorerError> {
        let Inner { recorder, store, wallet, network, clock, .. } = &*self.inner;
        let summary = recorder.summary(stream)?;
        let (mut anchored, mut made_ms, mut below) = (0, i64::MIN, u64::MAX);
        for _ in 0..LOOKED_AFTER {
            let Some((anchor, index)) = store.read(|tx| anchors::newest_of(tx, stream, below))? else {
                break;
            };
            below = anchor.number;
            if stands(&anchor, wallet.status(&anchor.txid)) == Some(true) {
                let at = usize::try_from(index).ok();
                let checkpoint = at.and_then(|at| anchor.checkpoints.get(at)).cloned();
                let checkpoint: Signed<Checkpoint> =
                    checkpoint.ok_or(AnchorerError::Damaged(anchor.number))?.verify(*network)?;
                (anchored, made_ms) = (checkpoint.value().size, anchor.made_ms);
                break;
            }
        }
        let readings = summary.size.saturating_sub(anchored);
        let mut age_ms = 0;
        if readings > 0 {
            let oldest = recorder.readings(stream, anchored, anchored.saturating_add(1))?;
            let time_ms = oldest.first().map_or(i64::MIN, |reading| reading.time.div_euclid(1_000_000));
            let age = clock.now_ms().saturating_sub(time_ms.max(made_ms));
            age_ms = u64::try_from(age).unwrap_or(0);
        }
        Ok(AnchorLag { stream: *stream, name: summary.name, readings, age_ms })
    }

    /// [`Anchorer::lag`] of every stream.
    ///
    /// # Errors
    /// [`AnchorerError`].
    pub fn lags(&self) -> Result<Vec<AnchorLag>, AnchorerError> {
        self.inner.recorder.summaries().iter().map(|stream| self.lag(&stream.id)).collect()
    }

    /// The anchored checkpoint that says most about a stream's first `size` readings, and its way to the chain: one that is mined and
    /// holds them, where there is one.
    ///
    /// # Errors
    /// [`AnchorerError`].
    pub fn proof(
        &self,
        stream: &StreamId,
        size: u64,
    ) -> Result<Option<(Signed<Checkpoint>, AnchorProof)>, AnchorerError> {
        let Some((anchor, index, checkpoint)) = self.best(stream, size)? else { return Ok(None) };
        let network = self.inner.network;
        let checkpoints: Result<Vec<_>, _> =
            anchor.checkpoints.iter().map(|c| c.clone().verify(network)).collect();
        let checkpoints = checkpoints?;
        let tree = AnchorTree::new(&checkpoints, network);
        let path = tree.inclusion(index).map_err(|_| AnchorerError::Damaged(anchor.number))?;
        let count = u32::try_from(checkpoints.len()).map_err(|_| AnchorerError::Damaged(anchor.number))?;
        let beef = self.inner.wallet.beef_for(&anchor.txid).unwrap_or(anchor.beef);
        Ok(Some((checkpoint, AnchorProof { index, count, path, beef })))
    }

    /// The newest anchors, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn newest_anchors(&self, limit: usize) -> Result<Vec<AnchorRecord>, StoreError> {
        self.inner.store.read(|tx| anchors::newest(tx, limit))
    }

    /// About how long until the next anchor, in milliseconds.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        let every = u64::try_from(self.inner.policy.every.as_millis()).unwrap_or(u64::MAX).max(1);
        every.saturating_sub(self.inner.started.elapsed_ms().checked_rem(every).unwrap_or(0))
    }

    /// Keeps each anchor's transaction as the chain has it now: with its Merkle path once mined, without it after a reorganisation.
    fn look_after(&self) -> Result<(), AnchorerError> {
        let Inner { store, wallet, .. } = &*self.inner;
        for mut anchor in store.read(|tx| anchors::newest(tx, LOOKED_AFTER))? {
            let height = match wallet.status(&anchor.txid) {
                Some(Status::Mined { height }) => Some(height),
                Some(_) => None,
                None => continue,
            };
            if height == anchor.height {
                continue;
            }
            // A pruned transaction has no BEEF any more, and needs none: it was stored when it was mined.
            let Ok(beef) = wallet.beef_for(&anchor.txid) else { continue };
            (anchor.beef, anchor.height) = (beef, height);
            store.write(|tx| anchors::update(tx, &anchor))?;
        }
        Ok(())
    }

    /// Makes anchors until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let policy = self.inner.policy;
        let mut tick = tokio::time::interval(policy.every.max(Duration::from_millis(100)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failed: Option<Stopwatch> = None;
        loop {
            let (ticked, due) = tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => (true, true),
                () = self.inner.recorded.notified() => {
                    let rests = failed.as_ref().is_some_and(|failed| failed.elapsed() < REST);
                    (false, !rests && self.unanchored() >= policy.readings)
                }
            };
            if ticked && let Err(error) = self.look_after() {
                tracing::error!(%error, "the anchors could not be brought up to date");
            }
            // The chain may take half a minute to answer; an anchor is stored before it is asked, so stopping here loses nothing.
            if due {
                let Some(done) = cancel.run_until_cancelled(self.anchor_or_fund()).await else { return };
                failed = (!done).then(Stopwatch::start);
            }
        }
    }

    fn unanchored(&self) -> u64 {
        let grown = self.inner.recorder.summaries().into_iter();
        grown.map(|stream| stream.size.saturating_sub(self.anchored_size(&stream.id).unwrap_or(0))).sum()
    }

    /// Whether nothing stands in the way of the next anchor.
    async fn anchor_or_fund(&self) -> bool {
        let Inner { network, wallet, home, .. } = &*self.inner;
        if let Some(home) = home
            && crate::home::free_space(home).is_ok_and(|free| free < MIN_FREE_SPACE)
        {
            tracing::error!("the disk is nearly full: no anchor is made until there is space again");
            return false;
        }
        match self.anchor_now().await {
            Ok(_) => true,
            Err(AnchorerError::Wallet(WalletHandleError::Wallet(WalletError::Funds { .. })))
                if *network == Network::Regtest && wallet.is_poor() =>
            {
                let Ok(amount) = Satoshis::new(FAUCET_SAT) else { return false };
                match wallet.fund_from_faucet(amount).await {
                    Ok(txid) => {
                        tracing::info!(%txid, %amount, "took coins from the development chain's faucet");
                        let made = self.anchor_now().await;
                        if let Err(error) = &made {
                            tracing::warn!(%error, "no anchor was made");
                        }
                        made.is_ok()
                    }
                    Err(error) => {
                        tracing::warn!(%error, "there is nothing to pay anchors with");
                        false
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no anchor was made");
                false
            }
        }
    }
}

/// Whether an anchor is mined; `None` if it is none any more.
fn stands(anchor: &AnchorRecord, status: Option<Status>) -> Option<bool> {
    match status {
        Some(status) if status.is_dead() => None,
        Some(status) => Some(matches!(status, Status::Mined { .. })),
        // What the wallet has let go was mined long ago, or was refused and has a newer one in its place.
        None => Some(anchor.height.is_some()),
    }
}
