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
    /// The latest time stamp since the clock last went back by more than the longest gap, in milliseconds since the Unix epoch; none before the first
    /// reading.
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
        // A clock that is that far behind was set back: one stamp from far ahead must not make all that follow it free.
        let kept =
            self.latest_ms.filter(|latest_ms| time_ms >= latest_ms.saturating_sub(longest_gap_ms.into()));
        Self { charged_ms, latest_ms: Some(kept.map_or(time_ms, |latest_ms| latest_ms.max(time_ms))) }
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
        let cases: [(&[i64], u64); 9] = [
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
            // Back by as much as the longest gap is free until it is made up for; by more, the clock counts on from where it was set to.
            (&[20_000 * ms, 10_000 * ms, 11_000 * ms, 9_999 * ms, 10_500 * ms], 1_501),
        ];
        for (times, expected) in cases {
            assert_eq!(charged(by_second(10_000), times), expected, "{times:?}");
        }
        assert_eq!(charged(Tariff::Reading(Price::from_msat(1).unwrap()), &[0, ms]), 0);
    }

    #[test]
    fn a_first_reading_from_far_ahead_does_not_make_all_that_follow_it_free() {
        let second = 1_000 * NANOS_PER_MS;
        let mut times: Vec<i64> = (0..100).map(|at| at * second).collect();
        let right = charged(by_second(3_000), &times);
        times[0] = 3_000_000_000 * second;
        assert_eq!((right, charged(by_second(3_000), &times)), (100_000, 99_000));
    }

    proptest! {
        #[test]
        fn one_wrong_time_stamp_costs_the_seller_no_more_than_one_gap(
            steps in prop::collection::vec(0i64..20_000, 1..50),
            at in 0usize..50,
            wrong in -100_000_i64..2_000_000,
            gap in MIN_GAP_MS..10_000,
        ) {
            let mut time = 0;
            let mut times: Vec<i64> = steps.iter().map(|step| { time += step * NANOS_PER_MS; time }).collect();
            let right = charged(by_second(gap), &times);
            times.insert(at.min(times.len()), wrong * NANOS_PER_MS);
            prop_assert!(charged(by_second(gap), &times) + u64::from(gap) >= right);
        }

        #[test]
        fn no_reading_is_charged_for_more_than_the_longest_gap_nor_all_for_more_than_their_steps(
            times in prop_oneof![
                prop::collection::vec(-5_000_000_000_000_i64..5_000_000_000_000, 1..50),
                prop::collection::vec(0..20_000_000_000_i64, 1..50),
            ],
            gap in MIN_GAP_MS..100_000,
        ) {
            let charged_ms = charged(by_second(gap), &times);
            prop_assert!(charged_ms <= 1_000 + (times.len() as u64 - 1) * u64::from(gap));
            let steps = times.windows(2).map(|two| (two[1].div_euclid(NANOS_PER_MS) - two[0].div_euclid(NANOS_PER_MS)).max(0));
            prop_assert!(charged_ms <= 1_000 + steps.sum::<i64>() as u64);
            // Where no clock was set back, all together cost no more than they span.
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            if (most - least) / NANOS_PER_MS < i64::from(gap) {
                prop_assert!(charged_ms <= 1_001 + ((most - least) / NANOS_PER_MS) as u64);
            }
        }
    }
}
