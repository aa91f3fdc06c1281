//! Which orders are served now: each by one stream at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sensora_protocol::OrderId;
use sensora_protocol::market::refusal::Refusal;
use tokio_util::sync::CancellationToken;

use super::lock;
use crate::agent::seller::room::Place;

/// The streams of one order: one is served, and those that come after it wait until it has ended.
#[derive(Clone)]
pub(in super::super) struct Running {
    /// Ends the one that is served when the buyer comes with another.
    pub(in super::super) cancel: CancellationToken,
    /// Its place, which another order may need. None where no stream serves it.
    pub(in super::super) place: Option<Arc<Place>>,
    /// Held by the one that is served: what it stores must not come after what the next one stores.
    pub(super) served: Arc<tokio::sync::Mutex<()>>,
}

impl Running {
    /// It was paid for.
    pub(in super::super) fn paid(&self) {
        if let Some(place) = &self.place {
            place.paid();
        }
    }

    /// Comes back when another order needs its place, with what the buyer is told.
    pub(in super::super) async fn is_needed(&self) -> Refusal {
        match &self.place {
            Some(place) => place.is_needed().await,
            None => std::future::pending().await,
        }
    }
}

/// Orders with a stream. There are no more of them than streams.
#[derive(Default)]
pub(super) struct AllRunning {
    orders: Mutex<BTreeMap<OrderId, Running>>,
}

impl AllRunning {
    /// A stream of an order begins, which `cancel` ends. One that is served already is told to end; this one's turn comes with [`Running::served`].
    pub(super) fn begin(&self, id: OrderId, cancel: CancellationToken, place: Option<Arc<Place>>) -> Running {
        let mut orders = lock(&self.orders);
        let before = orders.get(&id);
        if let Some(before) = before {
            before.cancel.cancel();
        }
        let served = before.map_or_else(Arc::default, |before| before.served.clone());
        let running = Running { cancel, place, served };
        orders.insert(id, running.clone());
        running
    }

    /// As [`AllRunning::begin`], where no stream serves the order.
    pub(super) fn begin_alone(&self, id: OrderId) -> Option<Running> {
        let is_served = lock(&self.orders).contains_key(&id);
        (!is_served).then(|| self.begin(id, CancellationToken::new(), None))
    }

    /// The stream has ended.
    pub(super) fn end(&self, id: &OrderId, ended: &Running) {
        let mut orders = lock(&self.orders);
        // Whoever came in the meantime has put its own in place.
        if orders.get(id).is_some_and(|running| running.cancel == ended.cancel) {
            orders.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(n: usize) -> OrderId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        OrderId(id)
    }

    #[tokio::test]
    async fn a_stream_that_ends_late_leaves_the_one_that_took_its_place() {
        let all = AllRunning::default();
        let first = all.begin(order(1), CancellationToken::new(), None);
        let second = all.begin(order(1), CancellationToken::new(), None);
        assert!(first.cancel.is_cancelled() && !second.cancel.is_cancelled());
        assert!(Arc::ptr_eq(&first.served, &second.served));
        all.end(&order(1), &first);
        assert!(all.begin_alone(order(1)).is_none(), "it is served");
        all.end(&order(1), &second);
        assert!(all.begin_alone(order(1)).is_some());
    }
}
