//! Bringing our own transactions to the network, and bringing them again until it is known to have them.
//!
//! What waits is on disk: the outbox, and the states of the wallet's transactions. Only the pace is in memory, so that after a restart everything
//! that is not known to be on the network goes out once at once.

use std::sync::PoisonError;

use sensora_chain::Txid;
use sensora_chain::wallet::{Status, Wallet};

use super::{Fate, WalletHandle, WalletHandleError};
use crate::chain_access::BroadcastError;
use crate::freeze::Frozen;
use crate::pace::Pace;
use crate::store::outbox::{self, Outgoing};

impl WalletHandle {
    /// Brings a stored transaction to the network and notes the outcome. It stays in the outbox until somebody reports that the network has it.
    ///
    /// # Errors
    /// [`WalletHandleError::Rejected`] (it is out of the outbox then); [`WalletHandleError::Broadcast`] and [`WalletHandleError::Frozen`] (it
    /// stays there).
    pub async fn deliver(&self, txid: &Txid, beef: &[u8]) -> Result<(), WalletHandleError> {
        self.may_go_out(txid)?;
        let reason = match self.inner.chain.broadcast(beef).await {
            Ok(()) => return self.delivered(txid),
            Err(BroadcastError::Rejected { reason, .. }) => reason,
            // Whoever misses what it spends says neither yes nor no; the chain may say that another one has spent it.
            Err(error) => match self.fate(txid).await {
                Ok(Fate::Taken) => return self.delivered(txid),
                Ok(Fate::Impossible) => error.to_string(),
                Ok(Fate::Open) | Err(_) => return Err(WalletHandleError::Broadcast(error)),
            },
        };
        // Somebody who refuses it may do so because it is in a block already, before a crash perhaps, and spends what it has spent itself. And
        // whose coin is gone elsewhere must not be tried with the next transaction again. The chain says what became of it.
        if self.fate(txid).await? == Fate::Taken {
            return self.delivered(txid);
        }
        tracing::warn!(%txid, %reason, "the network refuses our transaction");
        self.update(|wallet, tx| {
            // What the network had before is not undone by a refusal: a block, or another transaction in one, has the last word.
            if wallet.status(txid).is_some_and(Status::is_settled) {
                return Ok(());
            }
            wallet.mark_rejected(txid, &reason)?;
            Ok::<_, WalletHandleError>(outbox::remove(tx, txid)?)
        })?;
        match self.status(txid) {
            Some(status) if status.is_settled() => Ok(()),
            _ => Err(WalletHandleError::Rejected { txid: *txid, reason }),
        }
    }

    /// While the wallet is frozen nothing goes out that was signed before, but for what the network has already and what takes coins back.
    ///
    /// # Errors
    /// [`Frozen`].
    pub fn may_go_out(&self, txid: &Txid) -> Result<(), Frozen> {
        let Err(frozen) = self.inner.freeze.check() else { return Ok(()) };
        let takes_back = |wallet: &Wallet| {
            let reclaimed = Status::Reclaiming { by: *txid };
            wallet.history().iter().any(|line| line.status == reclaimed)
        };
        let is_out = self.status(txid).is_some_and(|status| status.is_settled());
        if is_out || self.read(takes_back) { Ok(()) } else { Err(frozen) }
    }

    fn delivered(&self, txid: &Txid) -> Result<(), WalletHandleError> {
        self.pace(|pace| {
            pace.forget(txid);
            pace.tries(txid);
        });
        if self.status(txid).is_some_and(|status| status.is_settled()) {
            return Ok(());
        }
        self.update(|wallet, _| Ok(wallet.mark_broadcast(txid)?))
    }

    /// Sends what has not gone out yet or is not known to have arrived, and strikes out what needs no sending any more.
    pub(super) async fn empty_outbox(&self) {
        let waiting = match self.inner.store.read(outbox::all) {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "the outbox cannot be read");
                return;
            }
        };
        let mut done = Vec::new();
        for Outgoing { txid, beef } in waiting {
            match self.status(&txid) {
                Some(Status::Built) if !self.pace(|pace| pace.is_due(&txid)) => {}
                Some(Status::Built) => match self.deliver(&txid, &beef).await {
                    Ok(()) | Err(WalletHandleError::Rejected { .. } | WalletHandleError::Frozen(_)) => {}
                    // One that lacks a parent, or that somebody holds and the network has not taken, holds up nothing behind it.
                    Err(WalletHandleError::Broadcast(error)) if !error.holds_for_all() => {
                        tracing::debug!(%txid, %error, "a transaction of ours has not arrived");
                        self.pace(|pace| pace.tries(&txid));
                    }
                    // Whoever cannot be reached for one cannot be reached for the next.
                    Err(error) => {
                        tracing::debug!(%txid, %error, "a transaction of ours has not gone out");
                        break;
                    }
                },
                Some(Status::Broadcast | Status::Reclaiming { .. }) => {}
                None | Some(_) => done.push(txid),
            }
        }
        if done.is_empty() {
            return;
        }
        if let Err(error) =
            self.inner.store.write(|tx| done.iter().try_for_each(|txid| outbox::remove(tx, txid)))
        {
            tracing::error!(%error, "the outbox cannot be changed");
        }
    }

    /// Brings to the network again what it should have and whoever is asked does not know: it may not have arrived, or a reorganisation has
    /// thrown it out. What another transaction had outdone goes out again once that one is in no block any more.
    ///
    /// # Errors
    /// [`WalletHandleError`]: the chain cannot be asked.
    pub(super) async fn send_again(&self, unknown: &[Txid]) -> Result<(), WalletHandleError> {
        let mut lost: Vec<Txid> = unknown
            .iter()
            .filter(|txid| matches!(self.status(txid), Some(Status::Broadcast | Status::Seen)))
            .copied()
            .collect();
        lost.extend(self.read(sensora_chain::wallet::Wallet::may_come_back));
        for txid in lost {
            if !self.pace(|pace| pace.is_due(&txid)) {
                continue;
            }
            // An ancestor that is not ours to prove goes out with what is built on it.
            let Some(beef) = self.beef_to_send(&txid) else { continue };
            self.pace(|pace| pace.tries(&txid));
            match self.inner.chain.broadcast(&beef).await {
                Ok(()) => tracing::info!(%txid, "a transaction that the network did not know went out again"),
                Err(BroadcastError::Rejected { reason, .. }) => {
                    tracing::warn!(%txid, %reason, "a transaction that the network had taken is refused now");
                    self.fate(&txid).await?;
                }
                Err(error) => {
                    if self.fate(&txid).await? == Fate::Open && error.holds_for_all() {
                        return Err(WalletHandleError::Broadcast(error));
                    }
                }
            }
        }
        Ok(())
    }

    /// As short as it can be now; else as it was when it was built.
    fn beef_to_send(&self, txid: &Txid) -> Option<Vec<u8>> {
        if let Ok(beef) = self.beef_for(txid) {
            return Some(beef);
        }
        let waiting = self.inner.store.read(outbox::all).ok()?;
        waiting.into_iter().find(|outgoing| &outgoing.txid == txid).map(|outgoing| outgoing.beef)
    }

    pub(super) fn pace<T>(&self, f: impl FnOnce(&mut Pace<Txid>) -> T) -> T {
        f(&mut self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner).pace)
    }
}
