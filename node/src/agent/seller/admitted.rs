//! Orders whose payment the network has not answered: how many there may be, and which of them go out again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sensora_chain::keys::PublicKey;
use sensora_protocol::OrderId;
use sensora_protocol::market::refusal::Refusal;

use crate::pace::Pace;

/// Most of them. Each is up to 128 KiB on disk and costs whoever makes it nothing while the chain cannot be reached, so there must be an end.
pub(super) const MAX_ADMITTED: usize = 256;
/// Most of them of one buyer: many at a time while the network takes a moment, and few enough that it takes many buyers to fill all places.
const MAX_ADMITTED_OF_BUYER: usize = 32;

#[derive(Default)]
pub(super) struct Admitted {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    orders: BTreeMap<OrderId, PublicKey>,
    pace: Pace<OrderId>,
}

impl Admitted {
    /// Gives an order a place, or says that there is none.
    pub(super) fn take(&self, order: OrderId, buyer: PublicKey) -> Result<(), Refusal> {
        let mut waiting = self.waiting();
        if waiting.orders.contains_key(&order) {
            return Ok(());
        }
        if waiting.orders.len() >= MAX_ADMITTED {
            return Err(Refusal::ChainUnavailable);
        }
        if waiting.orders.values().filter(|other| **other == buyer).count() >= MAX_ADMITTED_OF_BUYER {
            return Err(Refusal::Busy { retry_ms: 5_000 });
        }
        waiting.orders.insert(order, buyer);
        Ok(())
    }

    /// Those of before a restart, however many they are.
    pub(super) fn extend(&self, orders: impl IntoIterator<Item = (OrderId, PublicKey)>) {
        self.waiting().orders.extend(orders);
    }

    /// The network has answered, or nothing was stored.
    pub(super) fn leave(&self, order: &OrderId) {
        let mut waiting = self.waiting();
        waiting.orders.remove(order);
        waiting.pace.forget(order);
    }

    /// Those whose payment goes out again now.
    pub(super) fn due(&self) -> Vec<OrderId> {
        let waiting = self.waiting();
        waiting.orders.keys().filter(|order| waiting.pace.is_due(order)).copied().collect()
    }

    /// Whoever was asked has said something of this payment that makes it wait: it is asked about it less and less often.
    pub(super) fn waits(&self, order: &OrderId) {
        self.waiting().pace.tries(order);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sensora_chain::PrivateKey;

    use super::*;

    fn order(n: usize) -> OrderId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        OrderId(id)
    }

    fn buyer(n: u8) -> PublicKey {
        PrivateKey::from_bytes([n; 32]).unwrap().public()
    }

    #[test]
    fn one_buyer_does_not_fill_all_places() {
        let admitted = Admitted::default();
        for n in 0..MAX_ADMITTED_OF_BUYER {
            assert_eq!(admitted.take(order(n), buyer(1)), Ok(()));
        }
        let more = order(MAX_ADMITTED_OF_BUYER);
        assert!(matches!(admitted.take(more, buyer(1)), Err(Refusal::Busy { .. })));
        assert_eq!(admitted.take(order(0), buyer(1)), Ok(()), "the same again");
        assert_eq!(admitted.take(more, buyer(2)), Ok(()));
        admitted.leave(&order(0));
        assert_eq!(admitted.take(order(1000), buyer(1)), Ok(()));
        admitted.extend((2000..2000 + MAX_ADMITTED).map(|n| (order(n), buyer(3))));
        assert_eq!(admitted.take(order(3000), buyer(4)), Err(Refusal::ChainUnavailable));
    }

    #[test]
    fn an_order_that_waits_does_not_hold_up_the_others() {
        let admitted = Admitted::default();
        admitted.extend([(order(1), buyer(1)), (order(2), buyer(1))]);
        admitted.waits(&order(1));
        assert_eq!(admitted.due(), [order(2)]);
        admitted.leave(&order(1));
        admitted.extend([(order(1), buyer(1))]);
        assert_eq!(admitted.due(), [order(1), order(2)]);
    }
}
