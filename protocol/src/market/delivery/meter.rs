//! What an order by the second has come to: a sum over the time stamps of its readings, which both sides compute alike.
//!
//! Nobody's clock is asked. A pause changes nothing, for its readings come afterwards; a stream that breaks goes on with the sum where it was.

#![warn(clippy::arithmetic_side_effects)]

use serde::{Deserialize, Serialize};

use crate::market::price::{MIN_GAP_MS, Tariff};

/// Nanoseconds in a millisecond. Time stamps are cut to whole milliseconds before they are compared, so that gaps of any size add up to the whole.
const NANOS_PER_MS: i64 = 1_000_000;

/// What the readings before some position are charged for. By the reading it stays as it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Milliseconds in all.
    pub charged_ms: u64,
    /// The latest time stamp among them, in milliseconds since the Unix epoch; none before the first reading.
    pub latest_ms: Option<i64>,
}

impl Meter {
    /// With one more reading, whose time stamp is `time` (nanoseconds since the Unix epoch).
    #[must_use]
    pub fn after(self, tariff: Tariff, time: i64) -> Self {
        let Tariff::Second { longest_gap_ms, .. } = tariff else { return self };
        let time_ms = time.div_euclid(NANOS_PER_MS);
        let gap_ms = match self.latest_ms {
            None => u64::from(MIN_GAP_MS),
            Some(latest_ms) => u64::try_from(time_ms.saturating_sub(latest_ms)).unwrap_or(0),
        };
        let charged_ms = self.charged_ms.saturating_add(gap_ms.min(u64::from(longest_gap_ms)));
        Self {
            charged_ms,
            latest_ms: Some(self.latest_ms.map_or(time_ms, |latest_ms| latest_ms.max(time_ms))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::price::Price;

    fn by_second(longest_gap_ms: u32) -> Tariff {
        Tariff::Second { price: Price::from_msat(1_000).unwrap(), longest_gap_ms }
    }

    fn charged(tariff: Tariff, times: &[i64]) -> u64 {
        times.iter().fold(Meter::default(), |meter, time| meter.after(tariff, *time)).charged_ms
    }

    #[test]
    fn the_first_reading_is_a_second_and_each_other_the_time_since_the_latest() {
        let ms = NANOS_PER_MS;
        let cases: [(&[i64], u64); 8] = [
            (&[], 0),
            (&[5 * ms], 1_000),
            (&[5 * ms, 505 * ms], 1_500),
            // The clock went back, and came again to where it was.
            (&[5 * ms, 505 * ms, 100 * ms, 505 * ms, 605 * ms], 1_600),
            // An hour without a reading is charged as the longest gap.
            (&[0, 3_600_000 * ms, 3_600_100 * ms], 1_000 + 10_000 + 100),
            // Ten thousand readings a second: parts of a millisecond are not lost.
            (&[0, ms / 10 * 9, ms / 10 * 18, ms / 10 * 27], 1_002),
            (&[-ms - 1, -1, 0], 1_002),
            (&[i64::MIN, i64::MAX, i64::MIN], 11_000),
        ];
        for (times, expected) in cases {
            assert_eq!(charged(by_second(10_000), times), expected, "{times:?}");
        }
        assert_eq!(charged(Tariff::Reading(Price::from_msat(1).unwrap()), &[0, ms]), 0);
    }

    proptest! {
        #[test]
        fn no_reading_is_charged_for_more_than_the_longest_gap_nor_all_for_more_than_they_span(
            times in prop::collection::vec(-5_000_000_000_000_i64..5_000_000_000_000, 1..50),
            gap in MIN_GAP_MS..100_000,
        ) {
            let charged_ms = charged(by_second(gap), &times);
            prop_assert!(charged_ms <= 1_000 + (times.len() as u64 - 1) * u64::from(gap));
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            prop_assert!(charged_ms <= 1_001 + ((most - least) / NANOS_PER_MS) as u64);
            let mut sorted = times.clone();
            sorted.sort_unstable();
            prop_assert!(charged(by_second(u32::MAX), &times) <= charged(by_second(u32::MAX), &sorted));
        }
    }
}
