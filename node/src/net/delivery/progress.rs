//! The deadlines of one half of a stream: a minimum rate while the peer is at work, and a timer that costs nothing while it is not.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::net::limits::{MIN_DELIVERY_RATE, PROGRESS_WINDOW};

/// What must move in each window.
const MIN_IN_WINDOW: u64 = MIN_DELIVERY_RATE.saturating_mul(PROGRESS_WINDOW.as_secs());

/// Watches that enough moves in each [`PROGRESS_WINDOW`] while something is under way. It is asked only when nothing can be moved at once, so whatever the peer did
/// while the application was busy elsewhere is counted for it before it is judged.
#[derive(Debug, Default)]
pub(super) struct Progress {
    since: Option<Instant>,
    moved: u64,
}

/// Less than that moved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

impl Progress {
    /// Notes that bytes moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Nothing is under way.
    pub(super) fn rest(&mut self) {
        self.since = None;
    }

    /// Something is under way and nothing can be moved now. Returns when to look again.
    pub(super) fn wait(&mut self, now: Instant) -> Result<Instant, TooSlow> {
        let since = match self.since {
            Some(since) if now < since + PROGRESS_WINDOW => since,
            Some(_) if self.moved < MIN_IN_WINDOW => return Err(TooSlow),
            _ => {
                self.moved = 0;
                now
            }
        };
        self.since = Some(since);
        Ok(since + PROGRESS_WINDOW)
    }
}

/// Wakes a task at a time that moves with nearly every poll. The timer below is moved only when it would ring too late; when it rings too early it is set
/// again, so that a stream in full flow never touches the runtime's timers.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready once it is `at` or later.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        loop {
            if sleep.deadline() > at {
                sleep.as_mut().reset(at);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[test]
    fn enough_has_to_move_in_each_window() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        let end = start + PROGRESS_WINDOW;
        assert_eq!(progress.wait(start), Ok(end));
        progress.moved(MIN_IN_WINDOW as usize);
        // The next window begins when it is asked for: time without a wait is nobody's fault.
        let later = end + PROGRESS_WINDOW * 5;
        assert_eq!(progress.wait(later), Ok(later + PROGRESS_WINDOW));
        progress.moved(MIN_IN_WINDOW as usize - 1);
        assert_eq!(
            progress.wait(later + PROGRESS_WINDOW - Duration::from_millis(1)),
            Ok(later + PROGRESS_WINDOW)
        );
        assert_eq!(progress.wait(later + PROGRESS_WINDOW), Err(TooSlow));
    }

    #[test]
    fn a_rest_is_not_counted() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        progress.wait(start).unwrap();
        progress.rest();
        let later = start + PROGRESS_WINDOW * 9;
        assert_eq!(progress.wait(later), Ok(later + PROGRESS_WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_neither_early_nor_late() {
        let (mut alarm, start) = (Alarm::default(), Instant::now());
        for seconds in [5, 60, 30] {
            let at = start + Duration::from_secs(seconds);
            // Moved before it rings.
            poll_fn(|cx| Poll::Ready(alarm.poll(cx, at + Duration::from_secs(99))))
                .await
                .is_pending()
                .then_some(())
                .unwrap();
            poll_fn(|cx| alarm.poll(cx, at)).await;
            assert!(Instant::now() >= at);
        }
    }
}
