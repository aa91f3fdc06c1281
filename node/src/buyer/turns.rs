//! Whose turn it is: an order is worked on by one task at a time, for as long as that takes.
//!
//! A live stream holds its turn for days, so each order needs a lock of its own: where two shared one by chance, the second would wait for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sensora_protocol::OrderId;
use tokio::sync::OwnedMutexGuard;

/// When there are so many locks, those that nobody holds or waits for are let go. There are as many in use as orders that are worked on.
const MANY_LOCKS: usize = 256;

/// The locks of the orders that are worked on.
#[derive(Debug, Default)]
pub(super) struct Turns {
    locks: Mutex<BTreeMap<OrderId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    fn of(&self, order: &OrderId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = locks.get(order).and_then(Weak::upgrade) {
            return known;
        }
        if locks.len() >= MANY_LOCKS {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::default();
        locks.insert(*order, Arc::downgrade(&lock));
        lock
    }

    /// Waits until nobody else works on the order. The guard may go along with work on another thread, that outlives whoever has begun it.
    pub(super) async fn take(&self, order: &OrderId) -> OwnedMutexGuard<()> {
        self.of(order).lock_owned().await
    }

    /// The same, where nobody works on it now.
    pub(super) fn try_take(&self, order: &OrderId) -> Option<OwnedMutexGuard<()>> {
        self.of(order).try_lock_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(n: u32) -> OrderId {
        OrderId(n.to_be_bytes().repeat(8).try_into().unwrap())
    }

    #[tokio::test]
    async fn no_order_waits_for_another_and_locks_are_let_go() {
        let turns = Turns::default();
        let held: Vec<_> = (0..2_000).map(|n| turns.try_take(&order(n)).unwrap()).collect();
        assert!(turns.try_take(&order(7)).is_none());
        drop(held);
        let _again = turns.take(&order(7)).await;
        let _more: Vec<_> = (3_000..3_300).map(|n| turns.try_take(&order(n)).unwrap()).collect();
        assert!(turns.locks.lock().unwrap().len() < 2 * MANY_LOCKS);
        assert!(turns.try_take(&order(7)).is_none(), "a lock that is held stays");
    }
}
