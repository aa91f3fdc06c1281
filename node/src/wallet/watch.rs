//! Keeping the wallet in step with the chain: what waits goes out, what is mined gets its proof, what a reorganisation threw out goes out
//! again, and what can never be mined any more is noticed.
//!
//! What only somebody says about the chain changes nothing here. A coin counts as gone when a transaction spends it that is proven
//! to be mined, or that carries our own signature.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use sensora_chain::contract::payment::verify_p2pkh;
use sensora_chain::header::{HeaderView, Tip};
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{self, Received, Status, Wallet};
use sensora_chain::{BlockHash, FeeRate, OutPoint, SighashCache, Transaction, TxOut, Txid};
use tokio_util::sync::CancellationToken;

use super::{Inner, WalletHandle, WalletHandleError};
use crate::chain_access::{SpentBy, TxStanding};
use crate::clock::Stopwatch;
use crate::pace::Pace;
use crate::store;

/// How often the wallet looks at the chain when no new block is announced.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Merkle paths asked for at a time.
const PROOFS_AT_A_TIME: usize = 32;
/// How often what was reported to wait for a block is asked for again without a new block: it may have been lost, and services count questions.
const SEEN_AGAIN: Duration = Duration::from_secs(15);

/// What the chain says of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The network has it.
    Taken,
    /// Another transaction has spent one of its coins: it can never be taken.
    Impossible,
    /// Neither; it may still be taken.
    Open,
}

/// What the watch remembers between two looks. Nothing of it is missed after a restart.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) pace: Pace<Txid>,
    /// The block with which the wallet was last tidied.
    pub(super) tidied: Option<BlockHash>,
    /// The height at which it was last pruned.
    pruned_at: Option<u32>,
    /// When everything was last asked for, and with which tip.
    asked: Option<(Tip, Stopwatch)>,
    /// Transactions of which the log has said that no miner takes them.
    warned: BTreeSet<Txid>,
}

/// A transaction that the network has and no miner takes, and what miners ask for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The transaction.
    pub tx: wallet::Stuck,
    /// The fee rate of our policy now.
    pub policy: FeeRate,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tx, policy } = self;
        write!(
            f,
            "{} ({}) is in no block {} blocks after it was {}",
            tx.txid, tx.label, tx.blocks, tx.status
        )?;
        let asked = policy.sat_per_kb;
        match tx.rate_with_ancestors.or(tx.rate).map(|rate| rate.sat_per_kb) {
            Some(rate) if rate < asked => write!(
                f,
                "; with its unproven ancestors it pays {rate} sat/kB and the policy now is {asked}: it may wait for a miner who takes less; raise chain.fee_floor_sat_per_kb so that the next ones pay enough"
            ),
            Some(rate) => write!(
                f,
                "; it pays {rate} sat/kB and the policy now is {asked}, which should be enough: check with another service (chain.services) that the network has it"
            ),
            None => write!(
                f,
                "; what it pays is not known here, the policy now is {asked} sat/kB: check with another service (chain.services) that the network has it"
            ),
        }
    }
}

impl WalletHandle {
    /// Keeps the wallet in step with the chain until cancelled: empties the outbox, collects Merkle paths, follows reorganisations.
    pub async fn run(self, cancel: CancellationToken) {
        let mut tips = self.inner.chain.tip_watch();
        loop {
            // A question to the chain may take half a minute; every change behind it is made at once, so stopping here loses nothing.
            if cancel.run_until_cancelled(self.look()).await.is_none() {
                return;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = tips.changed() => if changed.is_err() { return },
                () = self.inner.outbox.notified() => {}
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
        }
    }

    async fn look(&self) {
        self.follow_reorganisation();
        // A restored wallet does not know yet what it has, nor what its owner did since: nothing goes out of itself before the chain has said.
        let known = self.knows_what_it_has();
        if known {
            self.empty_outbox().await;
        }
        if let Err(error) = self.collect_proofs().await {
            tracing::debug!(%error, "Merkle paths are still missing");
        }
        self.warn_of_stuck();
        if known {
            self.tidy();
        }
    }

    /// Whether what happened since a backup was put back has been looked up, where one was.
    pub(super) fn knows_what_it_has(&self) -> bool {
        match self.inner.store.read(store::restored::get) {
            Ok(note) => note.is_none_or(|note| note.followed),
            Err(error) => {
                tracing::error!(%error, "it is not known whether this home was restored");
                false
            }
        }
    }

    pub(super) fn watch<T>(&self, f: impl FnOnce(&mut Watch) -> T) -> T {
        f(&mut self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the chain is asked for in this look: all that is in no block, or between two blocks what has not arrived yet.
    fn wanted(&self) -> Vec<Txid> {
        let mut wanted = self.read(Wallet::unproven);
        let tip = self.inner.chain.headers().tip();
        let all = self.watch(|watch| {
            let all = watch.asked.is_none_or(|(last, since)| last != tip || since.elapsed() >= SEEN_AGAIN);
            if all {
                watch.asked = Some((tip, Stopwatch::start()));
            }
            all
        });
        if !all {
            self.read(|wallet| {
                wanted.retain(|txid| {
                    let status = wallet.status(txid);
                    !matches!(
                        status,
                        Some(Status::Seen | Status::Conflicted { .. } | Status::Rejected { .. })
                    )
                });
            });
        }
        wanted
    }

    async fn collect_proofs(&self) -> Result<(), WalletHandleError> {
        let mut unknown = Vec::new();
        for txids in self.wanted().chunks(PROOFS_AT_A_TIME) {
            let (mut mined, mut waiting) = (Vec::new(), Vec::new());
            for (txid, standing) in self.inner.chain.proofs(txids).await? {
                match standing {
                    TxStanding::Mined(path) => mined.push((txid, path)),
                    TxStanding::Unknown => unknown.push(txid),
                    TxStanding::Mempool => waiting.push(txid),
                }
            }
            self.note(mined, &waiting)?;
        }
        self.note_unknown(&unknown)?;
        self.read(|wallet| {
            let over = |status: &Status| matches!(status, Status::Mined { .. } | Status::Rejected { .. });
            let waits = |txid: &Txid| wallet.status(txid).is_some_and(|status| !over(status));
            self.pace(|pace| pace.keep(waits));
        });
        self.send_again(&unknown).await
    }

    /// Notes which transactions are mined, which is proven, and which are said to wait for a block. One that does not fit what the wallet knows is
    /// left out and keeps no other back.
    fn note(&self, mined: Vec<(Txid, MerklePath)>, waiting: &[Txid]) -> Result<(), WalletHandleError> {
        let arrived: Vec<Txid> = self.read(|wallet| {
            let news = |txid: &&Txid| match wallet.status(txid) {
                Some(Status::Broadcast) => true,
                Some(Status::Seen) => wallet.waits_since(txid).is_none(),
                _ => false,
            };
            waiting.iter().filter(news).copied().collect()
        });
        for txid in waiting {
            self.pace(|pace| pace.forget(txid));
        }
        if mined.is_empty() && arrived.is_empty() {
            return Ok(());
        }
        let headers = self.inner.chain.headers();
        let height = headers.tip_height();
        let prune = self.watch(|watch| watch.pruned_at) != Some(height);
        self.update(|wallet, tx| {
            for (txid, path) in mined {
                match wallet.mark_mined(&txid, path, &headers) {
                    Ok(()) => store::outbox::remove(tx, &txid)?,
                    Err(error) => tracing::warn!(%txid, %error, "a proof does not fit the wallet"),
                }
            }
            for txid in &arrived {
                wallet.mark_seen(txid, height)?;
                store::outbox::remove(tx, txid)?;
            }
            if prune {
                let pruned = wallet.prune(height)?;
                store::wallet::archive(tx, &pruned.archived)?;
            }
            Ok::<_, WalletHandleError>(())
        })?;
        self.watch(|watch| watch.pruned_at = Some(height));
        Ok(())
    }

    /// From now on it is counted how long those wait that nobody reports.
    fn note_unknown(&self, unknown: &[Txid]) -> Result<(), WalletHandleError> {
        let fresh: Vec<Txid> = self.read(|wallet| {
            let waits = |txid: &&Txid| {
                let sent = matches!(wallet.status(txid), Some(Status::Broadcast | Status::Seen));
                sent && wallet.waits_since(txid).is_none()
            };
            unknown.iter().filter(waits).copied().collect()
        });
        if fresh.is_empty() {
            return Ok(());
        }
        let height = self.inner.chain.headers().tip_height();
        self.update(|wallet, _| fresh.iter().try_for_each(|txid| Ok(wallet.mark_waiting(txid, height)?)))
    }

    /// Our transactions that the network has had for [`wallet::STUCK_BLOCKS`] blocks or more and no block has, the longest first.
    #[must_use]
    pub fn stuck(&self) -> Vec<Stuck> {
        let (height, policy) = (self.inner.chain.headers().tip_height(), self.fees().rate);
        let stuck = self.read(|wallet| wallet.stuck(height));
        stuck.into_iter().map(|tx| Stuck { tx, policy }).collect()
    }

    /// Says once of each in the log.
    fn warn_of_stuck(&self) {
        let stuck = self.stuck();
        let news: Vec<&Stuck> = self.watch(|watch| {
            let now: BTreeSet<Txid> = stuck.iter().map(|stuck| stuck.tx.txid).collect();
            watch.warned.retain(|txid| now.contains(txid));
            stuck.iter().filter(|stuck| watch.warned.insert(stuck.tx.txid)).collect()
        });
        for stuck in news {
            tracing::warn!(txid = %stuck.tx.txid, "{stuck}");
        }
    }

    /// Asks the chain what has become of a payment of ours or to us, and takes into the wallet what it finds out.
    ///
    /// # Errors
    /// [`WalletHandleError`]: the chain cannot be asked.
    pub async fn fate(&self, txid: &Txid) -> Result<Fate, WalletHandleError> {
        let chain = &self.inner.chain;
        for (_, standing) in chain.proofs(&[*txid]).await? {
            match standing {
                TxStanding::Mined(path) => {
                    self.note(vec![(*txid, path)], &[])?;
                    return Ok(Fate::Taken);
                }
                TxStanding::Mempool => return Ok(Fate::Taken),
                TxStanding::Unknown => {}
            }
        }
        let transaction = self.read(|wallet| wallet.transaction(txid).cloned());
        let Some(transaction) = transaction else { return Ok(Fate::Open) };
        let outpoints: Vec<OutPoint> = transaction.inputs.iter().map(|input| input.previous).collect();
        let mut impossible = false;
        for (outpoint, spent) in chain.spent(&outpoints).await? {
            let SpentBy::Transaction { tx, mined } = spent else { continue };
            if tx.txid() == *txid {
                return Ok(Fate::Taken);
            }
            impossible |= self.outdone(txid, &outpoint, tx, mined)?;
        }
        Ok(if impossible { Fate::Impossible } else { Fate::Open })
    }

    /// Takes note of a transaction that spends a coin which `txid` spends too. Whether that is certain.
    fn outdone(
        &self,
        txid: &Txid,
        outpoint: &OutPoint,
        by: Transaction,
        mined: Option<MerklePath>,
    ) -> Result<bool, WalletHandleError> {
        let Inner { identity, clock, chain, .. } = &*self.inner;
        let other = by.txid();
        // A coin of ours is gone once we have signed it away, here or on another copy of this wallet. What somebody who pays us has
        // signed says nothing before it is mined: he may have signed both.
        // And what the network had first stands until a block says otherwise.
        let certain = self.read(|wallet| {
            let ours = wallet.coin(outpoint).and_then(|_| wallet.transaction(&outpoint.txid));
            let coin = ours.and_then(|tx| tx.outputs.get(usize::try_from(outpoint.vout).ok()?));
            let known = wallet.status(&other).is_some_and(Status::is_settled);
            let first = wallet.status(txid).is_some_and(Status::is_settled);
            mined.is_some() || known || (!first && coin.is_some_and(|coin| is_signed(&by, outpoint, coin)))
        });
        if !certain {
            return Ok(false);
        }
        let (headers, now_ms) = (chain.headers(), clock.now_ms());
        let (known, outputs) = self.read(|wallet| (wallet.status(&other).is_some(), wallet.recognise(&by)));
        self.update(|wallet, _| {
            match (known, mined) {
                (true, Some(path)) => wallet.mark_mined(&other, path, &headers)?,
                (true, None) => wallet.mark_broadcast(&other)?,
                (false, path) => {
                    let label = "spent elsewhere".to_owned();
                    let received =
                        Received { tx: by, outputs, ancestors: None, path, broadcast: true, label, now_ms };
                    wallet.receive(identity.key(), received)?;
                }
            }
            match wallet.status(txid) {
                None => Ok(()),
                Some(status) if status.is_dead() => Ok(()),
                Some(_) => wallet.mark_rejected(txid, &format!("its coins were spent by {other}")),
            }
            .map_err(WalletHandleError::from)
        })?;
        tracing::warn!(%txid, %other, "another transaction has spent the coins of this one");
        Ok(true)
    }

    /// Takes back proofs from blocks that are no longer on the best chain.
    fn follow_reorganisation(&self) {
        let headers = self.inner.chain.headers();
        let Some(height) = self.read(|wallet| wallet.lowest_stale_proof(&headers)) else { return };
        // Headers that do not go so far yet, after a restart or where their file was lost, contradict nothing.
        if height > headers.tip_height() {
            return;
        }
        match self.update(|wallet, _| Ok::<_, store::StoreError>(wallet.unmined(height))) {
            Ok(txids) => tracing::warn!(height, transactions = txids.len(), "the chain was reorganised"),
            Err(error) => tracing::error!(%error, "the wallet could not follow a reorganisation"),
        }
    }
}

/// Whether the input of `tx` that spends `outpoint` is signed with the coin's key.
fn is_signed(tx: &Transaction, outpoint: &OutPoint, coin: &TxOut) -> bool {
    let index = tx.inputs.iter().position(|input| &input.previous == outpoint);
    index.is_some_and(|index| verify_p2pkh(tx, &SighashCache::new(tx), index, coin).is_ok())
}
