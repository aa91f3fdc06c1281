//! The one place that reads the time of day.
//!
//! Everything else is handed a [`Clock`] or a time, so that a rule about expiry or a deadline can be tested at any
//! moment in history. The time of day may jump, in both directions, when a machine's clock is set; durations are
//! therefore measured with [`Stopwatch`], which cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds in a millisecond.
const NS_PER_MS: i64 = 1_000_000;

/// Tells the time of day: the machine's, or one that a test sets.
///
/// Clones of a fixed clock share their time.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System,
    Fixed(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// A clock that stands at `now_ns` nanoseconds since the Unix epoch until it is moved.
    #[must_use]
    pub fn fixed(now_ns: i64) -> Self {
        Self(Kind::Fixed(Arc::new(AtomicI64::new(now_ns))))
    }

    /// Nanoseconds since the Unix epoch, negative before it; times that do not fit (outside 1677 to 2262) saturate.
    #[must_use]
    pub fn now_ns(&self) -> i64 {
        match &self.0 {
            Kind::System => system_now_ns(),
            Kind::Fixed(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now_ns().div_euclid(NS_PER_MS)
    }

    /// Moves a fixed clock forward; the machine's clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Kind::Fixed(now) = &self.0 {
            let by = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
            now.store(now.load(Ordering::SeqCst).saturating_add(by), Ordering::SeqCst);
        }
    }

    /// Sets a fixed clock, also backwards; the machine's clock is left alone.
    pub fn set_ns(&self, now_ns: i64) {
        if let Kind::Fixed(now) = &self.0 {
            now.store(now_ns, Ordering::SeqCst);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the place that reads it for everybody else")]
fn system_now_ns() -> i64 {
    let now = SystemTime::now();
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos())
            .map_or(i64::MIN, |ns| ns.checked_neg().unwrap_or(i64::MIN)),
    }
}

/// Measures a duration on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// The time since the start in whole milliseconds.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_moves_only_when_told_and_together_with_its_clones() {
        let clock = Clock::fixed(-1);
        let twin = clock.clone();
        assert_eq!((clock.now_ns(), clock.now_ms()), (-1, -1));
        twin.advance(Duration::from_millis(2));
        assert_eq!((clock.now_ns(), clock.now_ms()), (1_999_999, 1));
        twin.set_ns(-5_000_001);
        assert_eq!(clock.now_ms(), -6);
        twin.set_ns(i64::MAX);
        clock.advance(Duration::from_secs(1));
        assert_eq!(twin.now_ns(), i64::MAX);
    }

    #[test]
    fn the_system_clock_is_past_the_year_2020_and_ignores_being_set() {
        let clock = Clock::system();
        clock.set_ns(0);
        assert!(clock.now_ms() > 1_577_836_800_000);
    }
}
