//! Verified readings on their way from whoever receives a live stream to whoever listens to it.

use std::collections::VecDeque;

use sensora_protocol::stream::{Reading, Value};

/// Most bytes that wait for a listener, counted roughly. One that is slower finds what did not fit in the store.
const MAX_WAITING: usize = 2 << 20;

/// Readings that were verified and not listened to yet, in order and without holes; the newest of a stream, if any.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    batches: VecDeque<Vec<Reading>>,
    bytes: usize,
    /// Sequence number after the last reading that was put here, ever.
    end: u64,
}

/// What a reading takes in memory, roughly.
fn bytes_of(reading: &Reading) -> usize {
    let texts = reading.values.iter().map(|value| match value {
        Value::Text(text) => text.len(),
        _ => 0,
    });
    size_of::<Reading>().saturating_add(texts.map(|text| text.saturating_add(size_of::<Value>())).sum())
}

impl Fresh {
    /// Puts readings behind those that are here. What was here once does not come again, as after a stream that broke before they were kept; where there
    /// are too many, the ones before them go.
    pub(super) fn put(&mut self, mut readings: Vec<Reading>) {
        let known = readings.partition_point(|reading| reading.seq < self.end);
        readings.drain(..known);
        let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return };
        let bytes = readings.iter().map(bytes_of).sum::<usize>();
        if first.seq != self.end || self.bytes.saturating_add(bytes) > MAX_WAITING {
            self.batches.clear();
            self.bytes = 0;
        }
        self.end = last.seq.saturating_add(1);
        if bytes <= MAX_WAITING {
            self.bytes = self.bytes.saturating_add(bytes);
            self.batches.push_back(readings);
        }
    }

    /// The readings from `next` on that are here, as far as they came together.
    pub(super) fn take(&mut self, next: u64) -> Option<Vec<Reading>> {
        loop {
            let first = self.batches.front()?.first().map(|reading| reading.seq)?;
            if first > next {
                return None;
            }
            let mut batch = self.batches.pop_front()?;
            self.bytes = self.bytes.saturating_sub(batch.iter().map(bytes_of).sum());
            batch.drain(..batch.partition_point(|reading| reading.seq < next));
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(first: u64, end: u64, text: usize) -> Vec<Reading> {
        let values = || vec![Value::Text("x".repeat(text))];
        (first..end).map(|seq| Reading { seq, time: 0, values: values() }).collect()
    }

    fn taken(fresh: &mut Fresh, next: u64) -> Option<(u64, u64)> {
        let batch = fresh.take(next)?;
        assert!(batch.iter().zip(batch[0].seq..).all(|(reading, seq)| reading.seq == seq));
        Some((batch[0].seq, batch.last().unwrap().seq + 1))
    }

    #[test]
    fn readings_come_once_and_in_order() {
        let mut fresh = Fresh::default();
        fresh.put(readings(10, 12, 1));
        fresh.put(readings(12, 15, 1));
        // A stream that broke before they were kept brings them again.
        fresh.put(readings(11, 16, 1));
        assert_eq!(taken(&mut fresh, 9), None, "what is before them is elsewhere");
        assert_eq!(taken(&mut fresh, 10), Some((10, 12)));
        assert_eq!(taken(&mut fresh, 13), Some((13, 15)));
        assert_eq!(taken(&mut fresh, 15), Some((15, 16)));
        assert_eq!((taken(&mut fresh, 16), fresh.bytes), (None, 0));
    }

    #[test]
    fn nothing_is_taken_over_a_hole() {
        let mut fresh = Fresh::default();
        fresh.put(readings(10, 12, 1));
        fresh.put(readings(20, 22, 1));
        assert_eq!(taken(&mut fresh, 10), None);
        assert_eq!(taken(&mut fresh, 20), Some((20, 22)));
    }

    #[test]
    fn a_listener_that_is_slow_makes_nothing_grow() {
        let mut fresh = Fresh::default();
        for first in (0..1_000).step_by(10) {
            fresh.put(readings(first, first + 10, 10_000));
            assert!(fresh.bytes <= MAX_WAITING, "{}", fresh.bytes);
        }
        let first = fresh.batches[0][0].seq;
        assert!(first > 0);
        assert_eq!(taken(&mut fresh, first - 1), None);
        assert_eq!(taken(&mut fresh, first), Some((first, first + 10)));
        // One batch alone is more than may wait.
        fresh.put(readings(1_000, 1_300, 10_000));
        assert_eq!((taken(&mut fresh, 990), fresh.bytes), (None, 0));
        fresh.put(readings(1_300, 1_301, 1));
        assert_eq!(taken(&mut fresh, 1_300), Some((1_300, 1_301)));
    }
}
