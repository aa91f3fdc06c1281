//! Who holds a place for a stream, and who gives it up: a node has so many in all, and none is held for ever while others wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sensora_protocol::market::refusal::Refusal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::net::limits::MAX_INBOUND_DELIVERIES;

/// From so many streams on, one that begins may end another. A quarter of all places is left to those that begin meanwhile.
const MANY: usize = MAX_INBOUND_DELIVERIES / 4 * 3;
/// A stream that was paid for within this time is not ended for another. An order that pays at all pays more often, where there is something to pay.
const UNPAID_FOR: Duration = Duration::from_secs(60);
/// How long a stream may say nothing before it has said what it is for. A buyer says it with its opening.
pub(super) const FIRST_PATIENCE: Duration = Duration::from_secs(20);

/// All streams that are served, whatever for. There are no more of them than the swarm lets in.
#[derive(Default)]
pub(super) struct Room {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    places: BTreeMap<u64, Kept>,
}

struct Kept {
    /// When it began, or was paid for last.
    paid_at: Instant,
    gives_way: CancellationToken,
}

/// The place of one stream, given back on drop.
pub(super) struct Place {
    room: Arc<Room>,
    number: u64,
    gives_way: CancellationToken,
}

impl Room {
    /// A stream begins.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let gives_way = CancellationToken::new();
        let mut held = self.held();
        let number = held.next;
        held.next = number.saturating_add(1);
        held.places.insert(number, Kept { paid_at: Instant::now(), gives_way: gives_way.clone() });
        drop(held);
        Place { room: self.clone(), number, gives_way }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What it is held for was paid for.
    pub(super) fn paid(&self) {
        if let Some(kept) = self.room.held().places.get_mut(&self.number) {
            kept.paid_at = Instant::now();
        }
    }

    /// An order is going to be served here. Where there are many streams, the one that has paid nothing for longest is told to come again later:
    /// whoever only holds a place must not keep others from theirs.
    pub(super) fn make_room(&self) {
        let held = self.room.held();
        let staying = || held.places.iter().filter(|(_, kept)| !kept.gives_way.is_cancelled());
        if staying().count() <= MANY {
            return;
        }
        let oldest =
            staying().filter(|(number, _)| **number != self.number).min_by_key(|(_, kept)| kept.paid_at);
        if let Some((_, kept)) = oldest
            && kept.paid_at.elapsed() >= UNPAID_FOR
        {
            kept.gives_way.cancel();
        }
    }

    /// Comes back when another order needs the place, with what the buyer is told.
    pub(super) async fn is_needed(&self) -> Refusal {
        self.gives_way.cancelled().await;
        Refusal::Busy { retry_ms: u64::try_from(UNPAID_FOR.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.held().places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(held: &[Place]) -> Vec<usize> {
        (0..held.len()).filter(|n| held[*n].gives_way.is_cancelled()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_only_holds_a_place_gives_it_to_an_order_that_begins() {
        let room = Arc::<Room>::default();
        let mut held = Vec::new();
        for _ in 0..MANY {
            held.push(room.enter());
            tokio::time::advance(Duration::from_millis(1)).await;
            held.last().unwrap().make_room();
        }
        assert!(gone(&held).is_empty(), "there are places");
        // The first pays, all others rest.
        tokio::time::advance(UNPAID_FOR).await;
        held[0].paid();
        for _ in 0..3 {
            held.push(room.enter());
            held.last().unwrap().make_room();
        }
        assert_eq!(gone(&held), [1, 2, 3], "one for each that came, those that rest for longest");
        assert!(matches!(held[1].is_needed().await, Refusal::Busy { retry_ms: 60_000 }));
        held.clear();
        assert!(room.held().places.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gives_way_who_has_paid_a_moment_ago() {
        let room = Arc::<Room>::default();
        let held: Vec<_> = (0..MANY + 10).map(|_| room.enter()).collect();
        tokio::time::advance(UNPAID_FOR / 2).await;
        held[0].make_room();
        assert!(gone(&held).is_empty());
    }
}
