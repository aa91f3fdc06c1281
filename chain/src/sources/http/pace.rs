//! How often a service is asked: never faster than it allows, and not at all while it has asked to be left alone.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The pace of all questions to one service.
///
/// Requests are spread evenly, without bursts: services count in windows of a second whose beginning nobody knows, so
/// that only even spacing never exceeds them.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two requests; zero without a limit.
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The earliest moment for the request after those that have a turn.
    next: Option<Instant>,
    /// No requests before this, says the service.
    resting: Option<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: Option<f64>) -> Self {
        let interval = per_second.and_then(|rate| Duration::try_from_secs_f64(rate.recip()).ok());
        Pace { interval: interval.unwrap_or_default(), state: Mutex::default() }
    }

    /// Waits for a turn, if it comes before `by`.
    ///
    /// # Errors
    /// How long it takes until there can be a turn, if that is later, or if the service rests.
    pub(super) async fn turn(&self, by: Instant) -> Result<(), Duration> {
        let at = self.reserve(Instant::now(), by)?;
        sleep_until(at).await;
        // While this one waited, another may have been told to leave the service alone.
        self.rested(Instant::now())
    }

    /// Nothing is asked for `wait` from `now` on.
    pub(super) fn rest(&self, now: Instant, wait: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let until = now.checked_add(wait);
        state.resting = state.resting.max(until);
    }

    fn reserve(&self, now: Instant, by: Instant) -> Result<Instant, Duration> {
        self.rested(now)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let at = state.next.map_or(now, |next| next.max(now));
        if at > by {
            return Err(at.saturating_duration_since(now));
        }
        state.next = at.checked_add(self.interval);
        Ok(at)
    }

    fn rested(&self, now: Instant) -> Result<(), Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.resting {
            Some(until) if until > now => Err(until.saturating_duration_since(now)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn turns_are_spread_over_the_second() {
        let (pace, now) = (Pace::new(Some(4.0)), Instant::now());
        let by = now + SECOND;
        let turns: Vec<Duration> =
            (0..5).map(|_| pace.reserve(now, by).unwrap().duration_since(now)).collect();
        assert_eq!(turns, [0, 250, 500, 750, 1000].map(Duration::from_millis));
        // The next would come too late, and is not taken from those who come later.
        assert_eq!(pace.reserve(now, by), Err(SECOND + SECOND / 4));
        assert_eq!(pace.reserve(now, by), Err(SECOND + SECOND / 4));
        assert_eq!(pace.reserve(now + SECOND, by + SECOND), Ok(now + SECOND + SECOND / 4));
        // What was not used is not saved up.
        let later = now + 100 * SECOND;
        assert_eq!(pace.reserve(later, later), Ok(later));
        assert_eq!(pace.reserve(later, later), Err(SECOND / 4));
    }

    #[test]
    fn without_a_limit_there_is_always_a_turn() {
        let (pace, now) = (Pace::new(None), Instant::now());
        for _ in 0..1000 {
            assert_eq!(pace.reserve(now, now), Ok(now));
        }
    }

    #[test]
    fn a_resting_service_is_left_alone_as_long_as_the_longest_word() {
        let (pace, now) = (Pace::new(None), Instant::now());
        pace.rest(now, 5 * SECOND);
        pace.rest(now, SECOND);
        assert_eq!(pace.reserve(now + SECOND, now + 100 * SECOND), Err(4 * SECOND));
        assert_eq!(pace.reserve(now + 5 * SECOND, now + 5 * SECOND), Ok(now + 5 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_while_the_service_went_to_rest_does_not_go() {
        let pace = Pace::new(Some(1.0));
        let by = Instant::now() + 10 * SECOND;
        assert_eq!(pace.turn(by).await, Ok(()));
        let (waited, ()) = tokio::join!(pace.turn(by), async { pace.rest(Instant::now(), 3 * SECOND) });
        assert_eq!(waited, Err(2 * SECOND));
    }
}
