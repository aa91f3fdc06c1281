//! When something that did not work is tried again: twice as long after each time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Stopwatch;

/// How long after the first time something is tried again.
pub const FIRST_AGAIN: Duration = Duration::from_secs(2);
/// The longest time between two: about a block, after which whoever would not take it may.
pub const LONGEST_AGAIN: Duration = Duration::from_secs(600);

/// When things were tried last, and how long to wait before they are tried again. In memory only: after a restart everything is tried once at once.
/// Whoever keeps one forgets what is over, so that it is no larger than what waits.
#[derive(Debug)]
pub(crate) struct Pace<K> {
    tried: BTreeMap<K, (Stopwatch, Duration)>,
}

impl<K> Default for Pace<K> {
    fn default() -> Self {
        Self { tried: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Pace<K> {
    /// Whether it may be tried now.
    pub(crate) fn is_due(&self, key: &K) -> bool {
        self.tried.get(key).is_none_or(|(last, wait)| last.elapsed() >= *wait)
    }

    /// How long ago it was tried last; the longest time there is where it never was.
    pub(crate) fn since(&self, key: &K) -> Duration {
        self.tried.get(key).map_or(Duration::MAX, |(last, _)| last.elapsed())
    }

    /// It is tried now.
    pub(crate) fn tries(&mut self, key: &K) {
        let wait = self.tried.get(key).map_or(FIRST_AGAIN, |(_, wait)| wait.saturating_mul(2));
        self.tried.insert(*key, (Stopwatch::start(), wait.min(LONGEST_AGAIN)));
    }

    /// What does not wait any more begins anew should it come back.
    pub(crate) fn keep(&mut self, waits: impl Fn(&K) -> bool) {
        self.tried.retain(|key, _| waits(key));
    }

    /// As [`Pace::keep`], of one.
    pub(crate) fn forget(&mut self, key: &K) {
        self.tried.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_waits_twice_as_long_each_time() {
        let mut pace = Pace::default();
        let key = 1;
        assert!(pace.is_due(&key), "at once after a start");
        assert_eq!(pace.since(&key), Duration::MAX);
        let mut waits = Vec::new();
        for _ in 0..12 {
            pace.tries(&key);
            assert!(!pace.is_due(&key) && pace.since(&key) < Duration::MAX);
            waits.push(pace.tried[&key].1);
        }
        assert_eq!(waits[..3], [FIRST_AGAIN, FIRST_AGAIN * 2, FIRST_AGAIN * 4]);
        assert_eq!(waits.last(), Some(&LONGEST_AGAIN));
        pace.forget(&key);
        assert!(pace.is_due(&key));
        pace.tries(&key);
        pace.keep(|_| false);
        assert!(pace.is_due(&key));
    }
}
