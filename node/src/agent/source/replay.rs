//! At what pace a recording is given out.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::columns::serde_as_text;
use super::{MAX_BATCH, RawBatch, RawReading};

/// The pace of a recording: `at-once`, `real-time` or `faster=N`. The readings keep their recorded times in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Replay {
    /// As fast as it can be recorded.
    #[default]
    AtOnce,
    /// With the pauses that lie between its times, divided by this factor; 1 is real time.
    Paced(f64),
}

/// A text that is no pace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no pace: it is at-once, real-time, or faster=N with N above 0")]
pub struct UnknownReplay(String);

impl FromStr for Replay {
    type Err = UnknownReplay;

    fn from_str(text: &str) -> Result<Self, UnknownReplay> {
        let unknown = || UnknownReplay(super::error::quote(text));
        match text {
            "at-once" => Ok(Self::AtOnce),
            "real-time" => Ok(Self::Paced(1.0)),
            _ => {
                let factor = text.strip_prefix("faster=").and_then(|factor| factor.parse::<f64>().ok());
                match factor.filter(|factor| factor.is_finite() && *factor > 0.0) {
                    Some(factor) => Ok(Self::Paced(factor)),
                    None => Err(unknown()),
                }
            }
        }
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtOnce => f.write_str("at-once"),
            #[expect(clippy::float_cmp, reason = "exactly one is written as real time")]
            Self::Paced(factor) if *factor == 1.0 => f.write_str("real-time"),
            Self::Paced(factor) => write!(f, "faster={factor}"),
        }
    }
}

serde_as_text!(Replay, UnknownReplay);

/// Holds readings back until they are due.
#[derive(Debug)]
pub(super) struct Pacer {
    replay: Replay,
    /// When the first reading was given out, and its time.
    begun: Option<(Instant, i64)>,
    waiting: VecDeque<(usize, RawReading)>,
}

impl Pacer {
    pub(super) fn new(replay: Replay) -> Self {
        Self { replay, begun: None, waiting: VecDeque::new() }
    }

    pub(super) fn push(&mut self, readings: impl IntoIterator<Item = (usize, RawReading)>) {
        self.waiting.extend(readings);
    }

    /// The readings that are due, waiting for the first of them; `None` where none is left.
    pub(super) async fn next(&mut self) -> Option<RawBatch> {
        if let Some(due) = self.due(self.waiting.front()?.1.time) {
            tokio::time::sleep_until(due).await;
        }
        let now = Instant::now();
        let mut batch = RawBatch::default();
        while batch.readings.len() < MAX_BATCH
            && let Some((stream, reading)) = self.waiting.pop_front()
        {
            if !batch.readings.is_empty() && self.due(reading.time).is_some_and(|due| due > now) {
                self.waiting.push_front((stream, reading));
                break;
            }
            batch.readings.push((stream, reading));
        }
        Some(batch)
    }

    /// When a reading of `time` is due; `None` is at once. Times that step back are due at once.
    fn due(&mut self, time: i64) -> Option<Instant> {
        let Replay::Paced(factor) = self.replay else { return None };
        let (start, first) = *self.begun.get_or_insert_with(|| (Instant::now(), time));
        let after = Duration::from_nanos(u64::try_from(time.saturating_sub(first)).unwrap_or(0));
        let after = Duration::try_from_secs_f64(after.as_secs_f64() / factor).unwrap_or(Duration::MAX);
        // A pause longer than a century is one that is not waited for.
        Some(start.checked_add(after.min(Duration::from_secs(100 * 365 * 86_400))).unwrap_or(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_are_written_as_they_are_read() {
        for text in ["at-once", "real-time", "faster=60", "faster=0.5"] {
            assert_eq!(text.parse::<Replay>().unwrap().to_string(), text);
        }
        for text in ["", "fast", "faster", "faster=", "faster=0", "faster=-1", "faster=NaN", "faster=inf"] {
            assert!(text.parse::<Replay>().is_err(), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn readings_come_when_they_are_due_and_a_step_back_is_not_waited_for() {
        let mut pacer = Pacer::new(Replay::Paced(2.0));
        let seconds = [100, 110, 110, 90, 112];
        pacer.push(seconds.map(|s| (0, RawReading { time: s * 1_000_000_000, values: vec![] })));
        let start = Instant::now();
        let mut came = Vec::new();
        while let Some(batch) = pacer.next().await {
            came.push((start.elapsed().as_secs(), batch.readings.len()));
        }
        assert_eq!(came, [(0, 1), (5, 3), (6, 1)]);
    }
}
