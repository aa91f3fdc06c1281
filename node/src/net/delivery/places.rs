//! How many streams there may be, and over which connections they run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::swarm::ConnectionId;
use tokio::sync::OwnedSemaphorePermit;

use crate::net::{PeerId, limits::Limits, quota::Opens};

/// The account of all streams of a node.
pub(in crate::net) struct Places {
    inbound: usize,
    inbound_per_peer: usize,
    opens: Opens,
    taken: Mutex<Taken>,
}

/// Each map has an entry only for whom there is a stream.
#[derive(Debug, Default)]
struct Taken {
    inbound: usize,
    by_peer: HashMap<PeerId, usize>,
    by_connection: HashMap<ConnectionId, usize>,
}

/// Why a peer gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// It has as many streams as it may, or opens them too fast: its own doing.
    OverItsShare,
    /// All places are taken.
    Full,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            inbound: limits.deliveries,
            inbound_per_peer: limits.deliveries_per_peer,
            opens: Opens::inbound(),
            taken: Mutex::default(),
        })
    }

    /// A place for a stream that the peer has opened.
    pub(super) fn inbound(
        self: &Arc<Self>,
        peer: PeerId,
        connection: ConnectionId,
    ) -> Result<Place, NoPlace> {
        self.opens.take(&peer).map_err(|_| NoPlace::OverItsShare)?;
        let mut taken = self.taken();
        let of_peer = taken.by_peer.get(&peer).copied().unwrap_or(0);
        if of_peer >= self.inbound_per_peer {
            return Err(NoPlace::OverItsShare);
        }
        if taken.inbound >= self.inbound {
            return Err(NoPlace::Full);
        }
        taken.inbound = taken.inbound.saturating_add(1);
        taken.by_peer.insert(peer, of_peer.saturating_add(1));
        Ok(self.place(taken, connection, Held::Inbound(peer)))
    }

    /// A place for a stream of our own.
    pub(super) fn outbound(
        self: &Arc<Self>,
        connection: ConnectionId,
        permits: [OwnedSemaphorePermit; 2],
    ) -> Place {
        self.place(self.taken(), connection, Held::Outbound(permits))
    }

    fn place(
        self: &Arc<Self>,
        mut taken: MutexGuard<'_, Taken>,
        connection: ConnectionId,
        held: Held,
    ) -> Place {
        let count = taken.by_connection.entry(connection).or_default();
        *count = count.saturating_add(1);
        Place { places: self.clone(), connection, held }
    }

    /// Whether a stream runs over this connection.
    pub(in crate::net) fn is_carrying(&self, connection: ConnectionId) -> bool {
        self.taken().by_connection.contains_key(&connection)
    }

    /// Forgets whose bucket is full again.
    pub(in crate::net) fn sweep(&self) {
        self.opens.sweep();
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum Held {
    Inbound(PeerId),
    Outbound(#[expect(dead_code, reason = "held until the stream ends")] [OwnedSemaphorePermit; 2]),
}

/// One stream's place, given back on drop.
pub(super) struct Place {
    places: Arc<Places>,
    connection: ConnectionId,
    held: Held,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Held::Inbound(peer) = &self.held {
            taken.inbound = taken.inbound.saturating_sub(1);
            give_back(&mut taken.by_peer, peer);
        }
        give_back(&mut taken.by_connection, &self.connection);
    }
}

fn give_back<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_with_its_stream() {
        let places = Places::new(&Limits { deliveries: 3, deliveries_per_peer: 2, ..Limits::default() });
        let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
        let line = ConnectionId::new_unchecked;
        let first = places.inbound(a, line(1)).ok().unwrap();
        let second = places.inbound(a, line(1)).ok().unwrap();
        assert_eq!(places.inbound(a, line(2)).err(), Some(NoPlace::OverItsShare));
        let third = places.inbound(b, line(3)).ok().unwrap();
        assert_eq!(places.inbound(c, line(4)).err(), Some(NoPlace::Full));
        drop(first);
        assert!(places.is_carrying(line(1)) && !places.is_carrying(line(2)));
        assert!(places.inbound(c, line(4)).is_ok());
        drop((second, third));
        let taken = places.taken();
        assert!(taken.inbound == 0 && taken.by_peer.is_empty() && taken.by_connection.is_empty());
    }

    #[test]
    fn a_peer_that_opens_too_fast_is_over_its_share() {
        let places = Places::new(&Limits::default());
        let (hasty, other) = (PeerId::random(), PeerId::random());
        let mut opened = 0;
        while places.inbound(hasty, ConnectionId::new_unchecked(1)).is_ok() {
            opened += 1;
            assert!(opened < 100_000, "it has no bound");
        }
        assert!(places.inbound(other, ConnectionId::new_unchecked(2)).is_ok());
    }
}
