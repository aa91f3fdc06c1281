//! What miners are paid for a transaction's bytes.

#![warn(clippy::arithmetic_side_effects)]

use serde::{Deserialize, Serialize};

use crate::amount::Satoshis;

/// A price for transaction bytes.
///
/// The fee is rounded up, so that no miner who rounds up finds it short; nodes round down (`CFeeRate::GetFee`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeeRate {
    /// Satoshis for each 1,000 bytes.
    pub sat_per_kb: u64,
}

impl FeeRate {
    /// 100 satoshis for each 1,000 bytes: the minimum of the current broadcasters.
    pub const DEFAULT: FeeRate = FeeRate { sat_per_kb: 100 };

    /// A price of `sat_per_kb` satoshis for each 1,000 bytes.
    pub const fn new(sat_per_kb: u64) -> Self {
        FeeRate { sat_per_kb }
    }

    /// The fee for `size` bytes: `max(1, ceil(size · rate / 1000))`, at most [`Satoshis::MAX`].
    pub fn fee(self, size: usize) -> Satoshis {
        // 64 bit times 64 bit fits 128 bit.
        let fee = (size as u128).saturating_mul(u128::from(self.sat_per_kb)).div_ceil(1000).max(1);
        u64::try_from(fee).map_or(Satoshis::MAX, Satoshis::from_sat)
    }
}

impl Default for FeeRate {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use super::*;

    #[test]
    fn rounds_up_and_is_never_free() {
        let fee = |size, rate| FeeRate::new(rate).fee(size).as_u64();
        assert_eq!(fee(226, 100), 23);
        assert_eq!(fee(412, 100), 42);
        assert_eq!(fee(1000, 100), 100);
        assert_eq!(fee(1001, 100), 101);
        assert_eq!(fee(10, 1), 1);
        assert_eq!(fee(10, 0), 1);
        assert_eq!(fee(usize::MAX, u64::MAX), Satoshis::MAX.as_u64());
    }
}
