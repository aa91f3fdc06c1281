//! Keeping the wallet in step with the chain: what waits goes out, what is mined gets its proof, what a reorganisation threw out goes out
//! again, and what can never be mined any more is noticed.
//!
//! What only somebody says about the chain changes nothing here. A coin counts as gone when a transaction spends it that is proven
//! to be mined, or that carries our own signature.

use std::time::Duration;

use sensora_chain::contract::payment::verify_p2pkh;
use sensora_chain::header::HeaderView;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{Received, Status, Wallet};
use sensora_chain::{OutPoint, SighashCache, Transaction, TxOut, Txid};
use tokio_util::sync::CancellationToken;

use super::{Inner, WalletHandle, WalletHandleError};
use crate::chain_access::{BroadcastError, SpentBy, TxStanding};
use crate::clock::Stopwatch;
use crate::store;
use crate::store::outbox::Outgoing;

/// How often the wallet looks at the chain when no new block is announced.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Merkle paths asked for at a time.
const PROOFS_AT_A_TIME: usize = 32;
/// How often transactions go out again that the network should have and whoever is asked does not know. Each costs one request.
const SEND_AGAIN_EVERY: Duration = Duration::from_secs(2);

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

/// What the watch remembers between two looks.
#[derive(Debug, Default)]
pub(super) struct Watch {
    sent_again: Option<Stopwatch>,
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
        self.empty_outbox().await;
        if let Err(error) = self.collect_proofs().await {
            tracing::debug!(%error, "Merkle paths are still missing");
        }
    }

    async fn empty_outbox(&self) {
        let waiting = match self.inner.store.read(store::outbox::all) {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "the outbox cannot be read");
                return;
            }
        };
        for Outgoing { txid, beef } in waiting {
            match self.deliver(&txid, &beef).await {
                Ok(()) | Err(WalletHandleError::Rejected { .. }) => {}
                // Whoever cannot be reached for one cannot be reached for the next.
                Err(error) => {
                    tracing::debug!(%txid, %error, "a transaction of ours has not gone out");
                    return;
                }
            }
        }
    }

    async fn collect_proofs(&self) -> Result<(), WalletHandleError> {
        let unproven = self.read(Wallet::unproven);
        let mut unknown = Vec::new();
        for txids in unproven.chunks(PROOFS_AT_A_TIME) {
            let mut mined = Vec::new();
            for (txid, standing) in self.inner.chain.proofs(txids).await? {
                match standing {
                    TxStanding::Mined(path) => mined.push((txid, path)),
                    TxStanding::Unknown => unknown.push(txid),
                    TxStanding::Mempool => {}
                }
            }
            self.mined(mined)?;
        }
        self.send_again(&unknown).await
    }

    /// Notes which transactions are mined. One that does not fit what the wallet knows is left out and keeps no other back.
    fn mined(&self, mined: Vec<(Txid, MerklePath)>) -> Result<(), WalletHandleError> {
        if mined.is_empty() {
            return Ok(());
        }
        let headers = self.inner.chain.headers();
        self.update(|wallet, tx| {
            for (txid, path) in mined {
                if let Err(error) = wallet.mark_mined(&txid, path, &headers) {
                    tracing::warn!(%txid, %error, "a proof does not fit the wallet");
                }
            }
            let pruned = wallet.prune(headers.tip_height())?;
            Ok(store::wallet::archive(tx, &pruned.archived)?)
        })
    }

    /// Brings to the network again what it has had and nobody knows any more: a reorganisation may have thrown it out.
    async fn send_again(&self, unknown: &[Txid]) -> Result<(), WalletHandleError> {
        let lost: Vec<Txid> =
            unknown.iter().filter(|txid| self.status(txid) == Some(Status::Broadcast)).copied().collect();
        if lost.is_empty() || !self.may_send_again() {
            return Ok(());
        }
        for txid in lost {
            // An ancestor that is not ours to prove goes out with what is built on it.
            let Ok(beef) = self.beef_for(&txid) else { continue };
            match self.inner.chain.broadcast(&beef).await {
                Ok(()) => tracing::info!(%txid, "a transaction that the network had lost went out again"),
                Err(BroadcastError::Rejected { reason, .. }) => {
                    tracing::warn!(%txid, %reason, "a transaction that the network had taken is refused now");
                    self.fate(&txid).await?;
                }
                Err(error) => return Err(WalletHandleError::Broadcast(error)),
            }
        }
        Ok(())
    }

    fn may_send_again(&self) -> bool {
        let mut watch = self.inner.watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = watch.sent_again.is_none_or(|last| last.elapsed() >= SEND_AGAIN_EVERY);
        if due {
            watch.sent_again = Some(Stopwatch::start());
        }
        due
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
                    self.mined(vec![(*txid, path)])?;
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
        let certain = self.read(|wallet| {
            let ours = wallet.coins().iter().any(|coin| &coin.outpoint == outpoint);
            let parent = wallet.transaction(&outpoint.txid).filter(|_| ours);
            let coin = parent.and_then(|tx| tx.outputs.get(usize::try_from(outpoint.vout).ok()?));
            let known = wallet.status(&other).is_some_and(Status::is_settled);
            mined.is_some() || known || coin.is_some_and(|coin| is_signed(&by, outpoint, coin))
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
                Some(Status::Rejected { .. }) | None => Ok(()),
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
