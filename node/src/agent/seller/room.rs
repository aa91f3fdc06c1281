//! Who holds a place for a stream, and who gives it up: a node has so many in all, and none is held for ever while others wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sensora_protocol::market::refusal::Refusal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::net::limits::MAX_INBOUND_DELIVERIES;

/// Where more streams are served, those give way that hold their place for nothing: a quarter of all places is left to those that begin.
const MANY: usize = MAX_INBOUND_DELIVERIES / 4 * 3;
/// A stream that was paid for within this time does not give way. An order that pays at all pays more often, where there is something to pay.
const UNPAID_FOR: Duration = Duration::from_secs(60);
/// The same for one that has never paid: the first payment comes with the first readings.
const FIRST_UNPAID_FOR: Duration = Duration::from_secs(20);
/// How often those that hold a place for nothing are looked for. With all places taken none begins that would look.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    has_paid: bool,
    gives_way: CancellationToken,
}

impl Kept {
    /// How long it has held its place for nothing, beyond what is granted to it.
    fn overdue(&self) -> Option<Duration> {
        let granted = if self.has_paid { UNPAID_FOR } else { FIRST_UNPAID_FOR };
        self.paid_at.elapsed().checked_sub(granted)
    }
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
        held.places
            .insert(number, Kept { paid_at: Instant::now(), has_paid: false, gives_way: gives_way.clone() });
        drop(held);
        Place { room: self.clone(), number, gives_way }
    }

    /// Until cancelled: makes room where it is needed.
    pub(super) async fn run(&self, cancel: &CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => self.make_room(),
            }
        }
    }

    /// Tells as many streams as there are too many to come again later, those that have held their place for nothing for longest first: where all
    /// places are taken, nobody comes in who would ask for one.
    fn make_room(&self) {
        let held = self.held();
        let staying = || held.places.values().filter(|kept| !kept.gives_way.is_cancelled());
        let many = staying().count().saturating_sub(MANY);
        let mut overdue: Vec<_> = staying().filter_map(|kept| Some((kept.overdue()?, kept))).collect();
        overdue.sort_by_key(|(by, _)| std::cmp::Reverse(*by));
        overdue.iter().take(many).for_each(|(_, kept)| kept.gives_way.cancel());
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What it is held for was paid for.
    pub(super) fn paid(&self) {
        if let Some(kept) = self.room.held().places.get_mut(&self.number) {
            (kept.paid_at, kept.has_paid) = (Instant::now(), true);
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
    async fn whoever_only_holds_a_place_gives_it_up_where_there_are_many() {
        let room = Arc::<Room>::default();
        let mut held = Vec::new();
        for _ in 0..MANY {
            held.push(room.enter());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        tokio::time::advance(UNPAID_FOR).await;
        room.make_room();
        assert!(gone(&held).is_empty(), "there are places");
        // The first pays, all others rest.
        held[0].paid();
        held.extend((0..3).map(|_| room.enter()));
        room.make_room();
        assert_eq!(gone(&held), [1, 2, 3], "one for each that came, those that rest for longest");
        room.make_room();
        assert_eq!(gone(&held), [1, 2, 3], "they are going already");
        assert!(matches!(held[1].is_needed().await, Refusal::Busy { retry_ms: 60_000 }));
        held.clear();
        assert!(room.held().places.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gives_way_who_has_paid_a_moment_ago_or_has_just_come() {
        let room = Arc::<Room>::default();
        let held: Vec<_> = (0..MANY + 10).map(|_| room.enter()).collect();
        tokio::time::advance(FIRST_UNPAID_FOR / 2).await;
        room.make_room();
        assert!(gone(&held).is_empty());
        (0..MANY).for_each(|n| held[n].paid());
        tokio::time::advance(UNPAID_FOR - FIRST_UNPAID_FOR).await;
        room.make_room();
        assert_eq!(gone(&held), (MANY..MANY + 10).collect::<Vec<_>>(), "who has never paid goes first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_house_gets_room_although_nobody_can_come_in() {
        let (room, cancel) = (Arc::<Room>::default(), CancellationToken::new());
        let (mine, until) = (room.clone(), cancel.clone());
        let running = tokio::spawn(async move { mine.run(&until).await });
        let held: Vec<_> = (0..MAX_INBOUND_DELIVERIES).map(|_| room.enter()).collect();
        tokio::time::sleep(FIRST_UNPAID_FOR + 2 * LOOK_EVERY).await;
        assert_eq!(gone(&held).len(), MAX_INBOUND_DELIVERIES - MANY);
        cancel.cancel();
        running.await.unwrap();
    }
}
