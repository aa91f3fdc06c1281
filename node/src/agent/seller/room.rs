//! Who holds a place for a stream, and who gives it up: a node has so many in all, and none is held for ever while others wait.

use std::cmp::Reverse;
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
/// The same for an order that has never paid, and pays with its first readings.
pub(super) const FIRST_UNPAID_FOR: Duration = Duration::from_secs(20);
/// The same for a batch, which is paid when all of it is there.
pub(super) const BATCH_UNPAID_FOR: Duration = UNPAID_FOR;
/// The same for a stream that has not said what it is for. A buyer says so at once.
const SILENT_FOR: Duration = Duration::from_secs(5);
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

/// What a stream has shown, in the order in which they give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    /// Nothing.
    Nothing,
    /// An order.
    Order,
    /// A payment.
    Payment,
}

struct Kept {
    shown: Shown,
    /// Since when it has shown nothing more.
    since: Instant,
    /// How long it may hold its place without showing more.
    granted: Duration,
    gives_way: CancellationToken,
}

impl Kept {
    /// How long it has held its place for nothing, beyond what is granted to it.
    fn overdue(&self) -> Option<Duration> {
        self.since.elapsed().checked_sub(self.granted)
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
        let (shown, since, granted) = (Shown::Nothing, Instant::now(), SILENT_FOR);
        held.places.insert(number, Kept { shown, since, granted, gives_way: gives_way.clone() });
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

    /// Tells as many streams as there are too many to come again later, those first that have shown least, and then those that have held their place for
    /// nothing for longest: where all places are taken, nobody comes in who would ask for one. However many streams show no order, none that has
    /// shown one gives way to them.
    fn make_room(&self) {
        let held = self.held();
        let staying = || held.places.values().filter(|kept| !kept.gives_way.is_cancelled());
        let have_begun = |kept: &&Kept| kept.shown > Shown::Nothing;
        let mut silent_go = staying().count().saturating_sub(MANY);
        let mut orders_go = staying().filter(have_begun).count().saturating_sub(MANY);
        let mut overdue: Vec<_> = staying().filter_map(|kept| Some((kept.overdue()?, kept))).collect();
        overdue.sort_by_key(|(by, kept)| (kept.shown, Reverse(*by)));
        for (_, kept) in overdue {
            let left = if have_begun(&kept) { &mut orders_go } else { &mut silent_go };
            if let Some(less) = left.checked_sub(1) {
                *left = less;
                kept.gives_way.cancel();
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// It is held for an order, which may take so long until it pays.
    pub(super) fn begins(&self, unpaid_for: Duration) {
        self.shows(Shown::Order, unpaid_for);
    }

    /// What it is held for was paid for.
    pub(super) fn paid(&self) {
        self.shows(Shown::Payment, UNPAID_FOR);
    }

    fn shows(&self, shown: Shown, granted: Duration) {
        if let Some(kept) = self.room.held().places.get_mut(&self.number) {
            (kept.shown, kept.since, kept.granted) = (shown, Instant::now(), granted);
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

    fn order(room: &Arc<Room>) -> Place {
        let place = room.enter();
        place.begins(FIRST_UNPAID_FOR);
        place
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_only_holds_a_place_gives_it_up_where_there_are_many() {
        let room = Arc::<Room>::default();
        let mut held = Vec::new();
        for _ in 0..MANY {
            held.push(order(&room));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        tokio::time::advance(UNPAID_FOR).await;
        room.make_room();
        assert!(gone(&held).is_empty(), "there are places");
        // The first pays, all others rest.
        held[0].paid();
        held.extend((0..3).map(|_| order(&room)));
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
        let held: Vec<_> = (0..MANY + 10).map(|_| order(&room)).collect();
        tokio::time::advance(FIRST_UNPAID_FOR / 2).await;
        room.make_room();
        assert!(gone(&held).is_empty());
        (0..MANY).for_each(|n| held[n].paid());
        // Who has paid is overdue for longer.
        tokio::time::advance(2 * UNPAID_FOR).await;
        (MANY..MANY + 10).for_each(|n| held[n].begins(2 * UNPAID_FOR));
        tokio::time::advance(2 * UNPAID_FOR).await;
        room.make_room();
        assert_eq!(gone(&held), (MANY..MANY + 10).collect::<Vec<_>>(), "who has never paid goes first");
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_show_no_order_end_none_that_does() {
        let room = Arc::<Room>::default();
        let mut held: Vec<_> = (0..MANY).map(|_| order(&room)).collect();
        tokio::time::advance(2 * FIRST_UNPAID_FOR).await;
        held.extend((0..MAX_INBOUND_DELIVERIES - MANY).map(|_| room.enter()));
        room.make_room();
        assert!(gone(&held).is_empty(), "they may still show one");
        tokio::time::advance(SILENT_FOR).await;
        room.make_room();
        assert_eq!(gone(&held), (MANY..MAX_INBOUND_DELIVERIES).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_house_gets_room_although_nobody_can_come_in() {
        let (room, cancel) = (Arc::<Room>::default(), CancellationToken::new());
        let (mine, until) = (room.clone(), cancel.clone());
        let running = tokio::spawn(async move { mine.run(&until).await });
        let held: Vec<_> = (0..MAX_INBOUND_DELIVERIES).map(|_| order(&room)).collect();
        tokio::time::sleep(FIRST_UNPAID_FOR + 2 * LOOK_EVERY).await;
        assert_eq!(gone(&held).len(), MAX_INBOUND_DELIVERIES - MANY);
        cancel.cancel();
        running.await.unwrap();
    }
}
