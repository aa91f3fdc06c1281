//! Which orders are served now: each by one stream at a time, and none of them for ever while others wait for a place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sensora_protocol::OrderId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lock;
use crate::net::limits::MAX_INBOUND_DELIVERIES;

/// From so many streams on, one that begins may end another. A quarter of all places is left to those that begin meanwhile.
const MANY: usize = MAX_INBOUND_DELIVERIES / 4 * 3;
/// A stream that was paid for within this time is not ended for another. An order that pays at all pays more often, where there is something to pay.
pub(super) const UNPAID_FOR: Duration = Duration::from_secs(60);

/// The streams of one order: one is served, and those that come after it wait until it has ended.
#[derive(Clone)]
pub(super) struct Running {
    /// Ends the one that is served when the buyer comes with another.
    pub(super) cancel: CancellationToken,
    /// Ends it when another order needs its place.
    pub(super) make_room: CancellationToken,
    /// Held by the one that is served: what it stores must not come after what the next one stores.
    pub(super) served: Arc<tokio::sync::Mutex<()>>,
    /// When it began, or was paid for last.
    paid_at: Arc<Mutex<Instant>>,
}

impl Running {
    /// It was paid for.
    pub(super) fn paid(&self) {
        *lock(&self.paid_at) = Instant::now();
    }
}

/// Orders with a stream. There are no more of them than streams.
#[derive(Default)]
pub(super) struct AllRunning {
    orders: Mutex<BTreeMap<OrderId, Running>>,
}

impl AllRunning {
    /// A stream of an order begins, which `cancel` ends. One that is served already is told to end; this one's turn comes with [`Running::served`].
    pub(super) fn begin(&self, id: OrderId, cancel: CancellationToken) -> Running {
        let mut orders = lock(&self.orders);
        let before = orders.get(&id);
        if let Some(before) = before {
            before.cancel.cancel();
        }
        let served = before.map_or_else(Arc::default, |before| before.served.clone());
        let make_room = CancellationToken::new();
        let running = Running { cancel, make_room, served, paid_at: Arc::new(Mutex::new(Instant::now())) };
        orders.insert(id, running.clone());
        running
    }

    /// As [`AllRunning::begin`], where no stream serves the order.
    pub(super) fn begin_alone(&self, id: OrderId) -> Option<Running> {
        let is_served = lock(&self.orders).contains_key(&id);
        (!is_served).then(|| self.begin(id, CancellationToken::new()))
    }

    /// The stream has ended.
    pub(super) fn end(&self, id: &OrderId, ended: &Running) {
        let mut orders = lock(&self.orders);
        // Whoever came in the meantime has put its own in place.
        if orders.get(id).is_some_and(|running| Arc::ptr_eq(&running.paid_at, &ended.paid_at)) {
            orders.remove(id);
        }
    }

    /// An order is going to be served. Where there are many, the one that has paid nothing for longest is told to come again later: whoever only holds a place
    /// must not keep others from theirs.
    pub(super) fn make_room_for(&self, id: &OrderId) {
        let orders = lock(&self.orders);
        let staying = || orders.iter().filter(|(_, running)| !running.make_room.is_cancelled());
        if staying().count() <= MANY {
            return;
        }
        let oldest = staying()
            .filter(|(other, _)| *other != id)
            .map(|(_, running)| (*lock(&running.paid_at), running))
            .min_by_key(|(paid_at, _)| *paid_at);
        if let Some((paid_at, running)) = oldest
            && paid_at.elapsed() >= UNPAID_FOR
        {
            running.make_room.cancel();
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

    #[tokio::test(start_paused = true)]
    async fn whoever_only_holds_a_place_gives_it_to_an_order_that_begins() {
        let all = AllRunning::default();
        let mut held = Vec::new();
        for n in 0..MANY {
            held.push(all.begin(order(n), CancellationToken::new()));
            tokio::time::advance(Duration::from_millis(1)).await;
            all.make_room_for(&order(n));
        }
        assert!(held.iter().all(|running| !running.make_room.is_cancelled()), "there are places");
        // The first pays, all others rest.
        tokio::time::advance(UNPAID_FOR).await;
        held[0].paid();
        for n in MANY..MANY + 3 {
            drop(all.begin(order(n), CancellationToken::new()));
            all.make_room_for(&order(n));
        }
        let gone: Vec<_> = (0..MANY).filter(|n| held[*n].make_room.is_cancelled()).collect();
        assert_eq!(gone, [1, 2, 3], "one for each that came, those that rest for longest");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gives_way_who_has_paid_a_moment_ago() {
        let all = AllRunning::default();
        let held: Vec<_> = (0..MANY + 10).map(|n| all.begin(order(n), CancellationToken::new())).collect();
        tokio::time::advance(UNPAID_FOR / 2).await;
        all.make_room_for(&order(0));
        assert!(held.iter().all(|running| !running.make_room.is_cancelled()));
    }

    #[tokio::test]
    async fn a_stream_that_ends_late_leaves_the_one_that_took_its_place() {
        let all = AllRunning::default();
        let first = all.begin(order(1), CancellationToken::new());
        let second = all.begin(order(1), CancellationToken::new());
        assert!(first.cancel.is_cancelled() && !second.cancel.is_cancelled());
        assert!(Arc::ptr_eq(&first.served, &second.served));
        all.end(&order(1), &first);
        assert!(all.begin_alone(order(1)).is_none(), "it is served");
        all.end(&order(1), &second);
        assert!(all.begin_alone(order(1)).is_some());
    }
}
