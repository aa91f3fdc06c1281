//! Money, so that a wrong sum cannot be written: whole satoshis, never negative, never above all coins that can exist.

#![warn(clippy::arithmetic_side_effects)]

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of money in satoshis (1 BSV = 100,000,000 satoshis), from 0 to [`Satoshis::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Satoshis(u64);

/// Why an amount could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// More than all coins that can exist.
    #[error("{0} sat is more than the 21 million BSV that can exist")]
    TooLarge(u64),
    /// A sum left the range.
    #[error("{0} + {1} is more than the 21 million BSV that can exist")]
    SumTooLarge(Satoshis, Satoshis),
    /// A difference would be negative.
    #[error("{0} is not enough to take {1} from")]
    Insufficient(Satoshis, Satoshis),
}

impl Satoshis {
    /// Nothing.
    pub const ZERO: Satoshis = Satoshis(0);
    /// All coins that can exist: 21 million BSV, the consensus bound on every value and sum.
    pub const MAX: Satoshis = Satoshis(2_100_000_000_000_000);

    /// An amount of `sat` satoshis.
    ///
    /// # Errors
    /// [`AmountError::TooLarge`] above [`Satoshis::MAX`].
    pub const fn new(sat: u64) -> Result<Self, AmountError> {
        if sat > Self::MAX.0 { Err(AmountError::TooLarge(sat)) } else { Ok(Satoshis(sat)) }
    }

    /// An amount for constants and tests. What lies above [`Satoshis::MAX`] becomes [`Satoshis::MAX`]; values that
    /// come from anywhere else belong in [`Satoshis::new`].
    pub const fn from_sat(sat: u64) -> Self {
        if sat > Self::MAX.0 { Self::MAX } else { Satoshis(sat) }
    }

    /// The number of satoshis.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `self + other`.
    ///
    /// # Errors
    /// [`AmountError::SumTooLarge`] above [`Satoshis::MAX`].
    pub const fn checked_add(self, other: Self) -> Result<Self, AmountError> {
        // Two amounts of at most 2.1e15 cannot wrap 64 bits.
        match Self::new(self.0.saturating_add(other.0)) {
            Ok(sum) => Ok(sum),
            Err(_) => Err(AmountError::SumTooLarge(self, other)),
        }
    }

    /// `self - other`.
    ///
    /// # Errors
    /// [`AmountError::Insufficient`] if `other` is larger.
    pub const fn checked_sub(self, other: Self) -> Result<Self, AmountError> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Ok(Satoshis(rest)),
            None => Err(AmountError::Insufficient(self, other)),
        }
    }

    /// `self * times`.
    ///
    /// # Errors
    /// [`AmountError::TooLarge`] above [`Satoshis::MAX`].
    pub const fn checked_mul(self, times: u64) -> Result<Self, AmountError> {
        Self::new(self.0.saturating_mul(times))
    }

    /// `self - other`, or nothing if `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Satoshis(self.0.saturating_sub(other.0))
    }

    /// The sum of all amounts.
    ///
    /// # Errors
    /// [`AmountError::SumTooLarge`] as soon as a partial sum is above [`Satoshis::MAX`].
    pub fn sum(amounts: impl IntoIterator<Item = Self>) -> Result<Self, AmountError> {
        amounts.into_iter().try_fold(Self::ZERO, Self::checked_add)
    }
}

impl TryFrom<u64> for Satoshis {
    type Error = AmountError;

    fn try_from(sat: u64) -> Result<Self, Self::Error> {
        Self::new(sat)
    }
}

impl From<Satoshis> for u64 {
    fn from(amount: Satoshis) -> u64 {
        amount.0
    }
}

impl fmt::Display for Satoshis {
    /// Groups of three digits and the unit: `1,234 sat`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(26);
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && digits.len().saturating_sub(i).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text.push_str(" sat");
        f.pad(&text)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn display_groups_digits() {
        for (sat, text) in
            [(0, "0 sat"), (999, "999 sat"), (1_234, "1,234 sat"), (1_234_567, "1,234,567 sat")]
        {
            assert_eq!(Satoshis::from_sat(sat).to_string(), text);
        }
    }

    #[test]
    fn nothing_above_all_coins() {
        assert_eq!(Satoshis::new(Satoshis::MAX.as_u64()), Ok(Satoshis::MAX));
        assert!(Satoshis::new(Satoshis::MAX.as_u64() + 1).is_err());
        assert!(Satoshis::MAX.checked_add(Satoshis::from_sat(1)).is_err());
        assert!(Satoshis::ZERO.checked_sub(Satoshis::from_sat(1)).is_err());
        assert!(Satoshis::MAX.checked_mul(u64::MAX).is_err());
        assert!(serde_json::from_str::<Satoshis>("2100000000000001").is_err());
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_wide_integers(a: u64, b: u64, n: u64) {
            let (a, b) = (Satoshis::from_sat(a % 3_000_000_000_000_000), Satoshis::from_sat(b % 3_000_000_000_000_000));
            let max = u128::from(Satoshis::MAX.as_u64());
            let (wide_a, wide_b) = (u128::from(a.as_u64()), u128::from(b.as_u64()));
            prop_assert_eq!(a.checked_add(b).ok().map(|s| u128::from(s.as_u64())), Some(wide_a + wide_b).filter(|s| *s <= max));
            prop_assert_eq!(a.checked_sub(b).ok().map(|s| u128::from(s.as_u64())), wide_a.checked_sub(wide_b));
            prop_assert_eq!(a.checked_mul(n).ok().map(|s| u128::from(s.as_u64())), Some(wide_a * u128::from(n)).filter(|s| *s <= max));
            if let Ok(sum) = a.checked_add(b) {
                prop_assert_eq!(sum.checked_sub(b), Ok(a));
            }
        }

        #[test]
        fn serde_keeps_the_number(sat in 0..=2_100_000_000_000_000u64) {
            let text = serde_json::to_string(&Satoshis::from_sat(sat)).unwrap();
            prop_assert_eq!(&text, &sat.to_string());
            prop_assert_eq!(serde_json::from_str::<Satoshis>(&text).unwrap().as_u64(), sat);
        }
    }
}
