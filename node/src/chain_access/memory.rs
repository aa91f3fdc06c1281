//! Which peers are worth asking about the chain, from how it went before.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::net::PeerId;

/// Peers whose failures are remembered: more than are ever connected. The one that is free first makes room.
pub const MAX_REMEMBERED: usize = 1024;

/// The rest after a first failure; it doubles with each one that follows …
pub const FIRST_REST: Duration = Duration::from_secs(1);

/// … up to this: a chain peer that comes back is found within a minute.
pub const LONGEST_REST: Duration = Duration::from_secs(60);

/// The rest for a peer that does not serve the chain at all, or answered with a falsehood: long against the traffic, short
/// against an operator who changes his configuration.
pub const LONG_REST: Duration = Duration::from_secs(10 * 60);

/// How bad a failure was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grade {
    /// It may work the next time.
    Passing,
    /// There is no use in asking soon.
    Lasting,
    /// The peer said what is not true: until its rest is over its word counts for nothing.
    False,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    failures: u32,
    until: Instant,
    lied: bool,
}

/// The failures of each peer since its last success.
#[derive(Debug, Default)]
pub(super) struct Memory {
    records: HashMap<PeerId, Record>,
}

impl Memory {
    /// Whether the peer should be left alone now.
    pub(super) fn is_resting(&self, peer: &PeerId, now: Instant) -> bool {
        self.records.get(peer).is_some_and(|record| record.until > now)
    }

    /// Whether the peer is to be believed in nothing now, not even in what cannot be checked.
    pub(super) fn is_distrusted(&self, peer: &PeerId, now: Instant) -> bool {
        self.records.get(peer).is_some_and(|record| record.lied && record.until > now)
    }

    /// Failures since the last success.
    pub(super) fn failures(&self, peer: &PeerId) -> u32 {
        self.records.get(peer).map_or(0, |record| record.failures)
    }

    pub(super) fn succeeded(&mut self, peer: &PeerId) {
        self.records.remove(peer);
    }

    pub(super) fn failed(&mut self, peer: PeerId, grade: Grade, now: Instant) {
        let failures = self.failures(&peer).saturating_add(1);
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let rest = match grade {
            Grade::Passing => FIRST_REST.saturating_mul(doubled).min(LONGEST_REST),
            Grade::Lasting | Grade::False => LONG_REST,
        };
        if self.records.len() >= MAX_REMEMBERED && !self.records.contains_key(&peer) {
            let first = self.records.iter().min_by_key(|(_, record)| record.until).map(|(peer, _)| *peer);
            if let Some(first) = first {
                self.records.remove(&first);
            }
        }
        self.records.insert(peer, Record { failures, until: now + rest, lied: grade == Grade::False });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_and_end_with_a_success() {
        let (mut memory, peer, now) = (Memory::default(), PeerId::random(), Instant::now());
        memory.failed(peer, Grade::Passing, now);
        assert!(memory.is_resting(&peer, now));
        assert!(!memory.is_resting(&peer, now + FIRST_REST));
        for _ in 0..40 {
            memory.failed(peer, Grade::Passing, now);
        }
        assert!(memory.is_resting(&peer, now + LONGEST_REST / 2));
        assert!(!memory.is_resting(&peer, now + LONGEST_REST));
        memory.succeeded(&peer);
        assert!(!memory.is_resting(&peer, now));
        assert_eq!(memory.failures(&peer), 0);
        memory.failed(peer, Grade::Lasting, now);
        assert!(memory.is_resting(&peer, now + LONG_REST / 2) && !memory.is_distrusted(&peer, now));
        memory.failed(peer, Grade::False, now);
        assert!(memory.is_distrusted(&peer, now) && !memory.is_distrusted(&peer, now + LONG_REST));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let gone = PeerId::random();
        memory.failed(gone, Grade::Lasting, now);
        for _ in 0..MAX_REMEMBERED + 10 {
            memory.failed(PeerId::random(), Grade::Passing, now);
        }
        assert_eq!(memory.records.len(), MAX_REMEMBERED);
        assert!(memory.is_resting(&gone, now), "what rests longest is kept");
    }
}
