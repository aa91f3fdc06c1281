//! Who is worth asking about the chain, from how it went before.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Failures that are remembered: more than there are connected peers or services. The one that is over first makes room.
pub const MAX_REMEMBERED: usize = 1024;

/// The rest after a first failure; it doubles with each one that follows …
pub const FIRST_REST: Duration = Duration::from_secs(1);

/// … up to this: whoever comes back is found within a minute.
pub const LONGEST_REST: Duration = Duration::from_secs(60);

/// The rest for who does not serve the chain at all, or answered with a falsehood: long against the traffic, short
/// against an operator who changes his configuration.
pub const LONG_REST: Duration = Duration::from_secs(10 * 60);

/// The longest that is waited because somebody asks for it: a day's quota is used up for an hour at least, and whoever asks for more
/// is asked again after that.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// How bad a failure was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grade {
    /// It may work the next time.
    Passing,
    /// It works again after so long, and not before.
    Wait(Duration),
    /// There is no use in asking soon.
    Lasting,
    /// What was said is not true: until its rest is over its word counts for nothing.
    False,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    failures: u32,
    until: Instant,
    why: Grade,
}

/// The failures of each, by `K`, since its last success.
#[derive(Debug)]
pub(super) struct Memory<K> {
    records: HashMap<K, Record>,
}

impl<K> Default for Memory<K> {
    fn default() -> Self {
        Self { records: HashMap::new() }
    }
}

impl<K: Eq + Hash + Copy> Memory<K> {
    /// Whether it should be left alone now.
    pub(super) fn is_resting(&self, key: &K, now: Instant) -> bool {
        self.records.get(key).is_some_and(|record| record.until > now)
    }

    /// Whether it is to be believed in nothing now, not even in what cannot be checked.
    pub(super) fn is_distrusted(&self, key: &K, now: Instant) -> bool {
        self.records.get(key).is_some_and(|record| record.why == Grade::False && record.until > now)
    }

    /// Whether it may be asked although it rests: somebody waits, and it has neither lied nor asked to be left alone.
    pub(super) fn may_be_tried(&self, key: &K, now: Instant) -> bool {
        let must_rest = |record: &Record| matches!(record.why, Grade::False | Grade::Wait(_));
        !self.records.get(key).is_some_and(|record| record.until > now && must_rest(record))
    }

    /// Failures since the last success.
    pub(super) fn failures(&self, key: &K) -> u32 {
        self.records.get(key).map_or(0, |record| record.failures)
    }

    /// How much longer it rests; `None` if it does not.
    pub(super) fn rest_left(&self, key: &K, now: Instant) -> Option<Duration> {
        let until = self.records.get(key)?.until;
        (until > now).then(|| until.saturating_duration_since(now))
    }

    /// Forgets its failures. Who lied is not forgiven for a right answer to another question.
    pub(super) fn succeeded(&mut self, key: &K, now: Instant) {
        if !self.is_distrusted(key, now) {
            self.records.remove(key);
        }
    }

    pub(super) fn failed(&mut self, key: K, grade: Grade, now: Instant) {
        let before = self.records.get(&key).copied();
        let failures = self.failures(&key).saturating_add(u32::from(!matches!(grade, Grade::Wait(_))));
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let rest = match grade {
            Grade::Passing => FIRST_REST.saturating_mul(doubled).min(LONGEST_REST),
            Grade::Wait(asked) => asked.min(LONGEST_WAIT),
            Grade::Lasting | Grade::False => LONG_REST,
        };
        if self.records.len() >= MAX_REMEMBERED && !self.records.contains_key(&key) {
            let first = self.records.iter().min_by_key(|(_, record)| record.until).map(|(key, _)| *key);
            if let Some(first) = first {
                self.records.remove(&first);
            }
        }
        let mut record = Record { failures, until: now + rest, why: grade };
        if let Some(before) = before.filter(|before| before.why == Grade::False && before.until > now) {
            // A lie is not forgotten for a time-out after it.
            record.why = Grade::False;
            record.until = record.until.max(before.until);
        }
        self.records.insert(key, record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::PeerId;

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
        memory.succeeded(&peer, now);
        assert!(!memory.is_resting(&peer, now));
        assert_eq!(memory.failures(&peer), 0);
        memory.failed(peer, Grade::Lasting, now);
        assert!(memory.is_resting(&peer, now + LONG_REST / 2) && !memory.is_distrusted(&peer, now));
        memory.failed(peer, Grade::False, now);
        assert!(memory.is_distrusted(&peer, now) && !memory.is_distrusted(&peer, now + LONG_REST));
        memory.failed(peer, Grade::Passing, now);
        memory.succeeded(&peer, now);
        assert!(memory.is_distrusted(&peer, now + LONG_REST / 2), "a lie is not forgotten so soon");
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept_to_and_bounded() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let asked = Duration::from_secs(7);
        memory.failed(1usize, Grade::Wait(asked), now);
        assert_eq!(memory.rest_left(&1, now), Some(asked));
        assert_eq!(memory.rest_left(&1, now + asked), None);
        assert_eq!(memory.failures(&1), 0, "to be asked to wait is no failure");
        assert!(!memory.may_be_tried(&1, now), "whoever asks to be left alone is");
        assert!(memory.may_be_tried(&1, now + asked) && memory.may_be_tried(&2, now));
        memory.failed(1, Grade::Wait(Duration::MAX), now);
        assert_eq!(memory.rest_left(&1, now), Some(LONGEST_WAIT));
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
