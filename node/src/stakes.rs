//! What is open with one counterparty, shared by the orders that run with it at the same time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sensora_chain::Satoshis;
use sensora_protocol::market::exposure::Stakes;
use tokio::sync::Notify;

/// [`Stakes`] that several tasks change, and that tell the others when there is more room.
#[derive(Debug)]
pub(crate) struct SharedStakes {
    stakes: Mutex<Stakes>,
    less: Notify,
}

impl SharedStakes {
    /// Nothing is open.
    pub(crate) fn new(limit: Satoshis) -> Self {
        Self { stakes: Mutex::new(Stakes::new(limit)), less: Notify::new() }
    }

    /// To look at, and to note what is a fact.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Stakes> {
        self.stakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is open. Where it has become less, whoever waits for [`SharedStakes::room`] hears of it.
    pub(crate) fn change<T>(&self, f: impl FnOnce(&mut Stakes) -> T) -> T {
        let mut stakes = self.lock();
        let before = stakes.open();
        let value = f(&mut stakes);
        let is_less = stakes.open() < before;
        drop(stakes);
        if is_less {
            self.less.notify_waiters();
        }
        value
    }

    /// Waits until less is open than before.
    pub(crate) async fn room(&self) {
        self.less.notified().await;
    }
}
