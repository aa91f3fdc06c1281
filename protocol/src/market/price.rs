//! What readings cost.
//!
//! A price is given in thousandths of a satoshi for one reading, because one satoshi for each of a million readings is too much for some
//! streams. It becomes whole satoshis once, for a whole order, rounded up and never below one: the buyer sees the exact
//! sum before it pays, and nobody gains by splitting an order.

use std::fmt;

use sensora_chain::{AmountError, Satoshis};
use serde::{Deserialize, Serialize};

/// Price of one reading in thousandths of a satoshi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Price(u64);

/// Why a price cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PriceError {
    /// Zero or above the greatest price.
    #[error("a price of {0} msat for a reading is out of range: 1 to {max} msat", max = Price::MAX.0)]
    Range(u64),
    /// The order costs more than there is money.
    #[error("{count} readings at {price} cost more than can be paid: order fewer")]
    Overflow {
        /// Readings in the order.
        count: u64,
        /// Price of one.
        price: Price,
    },
    /// More time than there is money for.
    #[error("{charged_ms} ms at {price} a second cost more than can be paid: end the order earlier")]
    TimeOverflow {
        /// Milliseconds that are charged.
        charged_ms: u64,
        /// Price of a second.
        price: Price,
    },
    /// The longest gap is out of range.
    #[error("a longest gap of {0} ms is out of range: {MIN_GAP_MS} to {MAX_GAP_MS} ms")]
    Gap(u32),
    /// The text is not a price.
    #[error("`{0}` is not a price: write satoshis for a reading, such as 2 or 0.25 (at most three decimals)")]
    Text(String),
}

impl Price {
    /// Thousandths in a satoshi.
    pub const PER_SATOSHI: u64 = 1000;
    /// Highest price: one bitcoin for one reading.
    pub const MAX: Self = Self(100_000_000 * Self::PER_SATOSHI);

    /// A price in thousandths of a satoshi for one reading.
    ///
    /// # Errors
    /// [`PriceError::Range`] for zero and above [`Price::MAX`].
    pub fn from_msat(msat: u64) -> Result<Self, PriceError> {
        if (1..=Self::MAX.0).contains(&msat) { Ok(Self(msat)) } else { Err(PriceError::Range(msat)) }
    }

    /// Thousandths of a satoshi for one reading.
    #[must_use]
    pub const fn msat(self) -> u64 {
        self.0
    }

    /// A price that came from outside is in range.
    ///
    /// # Errors
    /// [`PriceError::Range`].
    pub fn validate(self) -> Result<(), PriceError> {
        Self::from_msat(self.0).map(|_| ())
    }

    /// What `count` readings cost: rounded up to whole satoshis, at least one.
    ///
    /// # Errors
    /// [`PriceError::Overflow`] when that is more than all the money there is.
    pub fn total(self, count: u64) -> Result<Satoshis, PriceError> {
        let overflow = PriceError::Overflow { count, price: self };
        let msat = self.0.checked_mul(count).ok_or(overflow.clone())?;
        let sat = msat.div_ceil(Self::PER_SATOSHI).max(1);
        Satoshis::new(sat).map_err(|_: AmountError| overflow)
    }

    /// What is due for the first `count` readings of an order: nothing for none, else as [`Price::total`]. Paid bit by bit, an
    /// order costs what it costs at once: what is due for a part is rounded up, but never twice.
    ///
    /// # Errors
    /// [`PriceError::Overflow`].
    pub fn due(self, count: u64) -> Result<Satoshis, PriceError> {
        if count == 0 { Ok(Satoshis::ZERO) } else { self.total(count) }
    }

    /// What is due for so many milliseconds at this price for a second: rounded up to whole satoshis, nothing for none.
    ///
    /// # Errors
    /// [`PriceError::TimeOverflow`] when that is more than all the money there is.
    pub fn due_for(self, charged_ms: u64) -> Result<Satoshis, PriceError> {
        const PER: u128 = Price::PER_SATOSHI as u128 * 1000;
        let overflow = PriceError::TimeOverflow { charged_ms, price: self };
        let product = u128::from(self.0).checked_mul(u128::from(charged_ms)).ok_or(overflow.clone())?;
        let sat = u64::try_from(product.div_ceil(PER)).map_err(|_| overflow.clone())?;
        Satoshis::new(sat).map_err(|_: AmountError| overflow)
    }

    /// The most readings for which no more than `amount` is due.
    #[must_use]
    pub fn covered_by(self, amount: Satoshis) -> u64 {
        // No amount times 1000 wraps 64 bits; a price is never zero, but a record that was altered may say so.
        amount.as_u64().saturating_mul(Self::PER_SATOSHI).checked_div(self.0).unwrap_or(0)
    }
}

/// The least that the longest gap of a [`Tariff::Second`] may be, in milliseconds: the second that the first reading is charged as.
pub const MIN_GAP_MS: u32 = 1_000;
/// The most that it may be: an hour. Streams that rest for longer are priced by the reading, and an exposure must hold what one reading may cost.
pub const MAX_GAP_MS: u32 = 3_600_000;

/// How many times the usual distance of two readings the longest gap is: a late one is paid, an outage is not.
pub const GAP_CADENCES: u64 = 3;
/// The longest gap where nobody says how often a stream is measured.
pub const UNKNOWN_GAP_MS: u32 = 60_000;

/// The longest gap of a stream that is measured each `cadence_ms`, as sellers offer it and the most that buyers take: [`GAP_CADENCES`] times that, within
/// what a tariff may say; [`UNKNOWN_GAP_MS`] where nothing is known.
#[must_use]
pub fn usual_gap_ms(cadence_ms: Option<u64>) -> u32 {
    let usual = cadence_ms.map(|ms| u32::try_from(ms.saturating_mul(GAP_CADENCES)).unwrap_or(MAX_GAP_MS));
    usual.unwrap_or(UNKNOWN_GAP_MS).clamp(MIN_GAP_MS, MAX_GAP_MS)
}

/// What a live stream costs: so much for each reading, or for each second that its readings span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tariff {
    /// Price of one reading.
    Reading(Price),
    /// By the time stamps of the readings that are delivered, in their order. The first costs as much as one second; each other one the time since
    /// the latest time stamp among those before it, which is nothing where a clock went back, and never more than the longest gap. Where a clock went back
    /// by more than that, the readings after it count from there on.
    Second {
        /// Price of one second.
        price: Price,
        /// The most that one reading is charged for, in milliseconds: [`MIN_GAP_MS`] to [`MAX_GAP_MS`]. So the price of the next reading has a
        /// bound before it is known, and an hour in which nothing was measured is not paid.
        longest_gap_ms: u32,
    },
}

/// What a tariff counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metered {
    /// Readings.
    #[default]
    Reading,
    /// Seconds.
    Second,
}

impl Tariff {
    /// The price of one unit: a reading or a second.
    #[must_use]
    pub const fn price(self) -> Price {
        match self {
            Self::Reading(price) | Self::Second { price, .. } => price,
        }
    }

    /// A tariff that came from outside is in range.
    ///
    /// # Errors
    /// [`PriceError::Range`], [`PriceError::Gap`].
    pub fn validate(self) -> Result<(), PriceError> {
        if let Self::Second { longest_gap_ms, .. } = self
            && !(MIN_GAP_MS..=MAX_GAP_MS).contains(&longest_gap_ms)
        {
            return Err(PriceError::Gap(longest_gap_ms));
        }
        self.price().validate()
    }

    /// What is due for so many readings that are charged for so many milliseconds in all: rounded up to whole satoshis, once, and nothing for no
    /// readings. By the reading the time does not matter, by the second nothing else does.
    ///
    /// # Errors
    /// [`PriceError::Overflow`], [`PriceError::TimeOverflow`].
    pub fn due(self, readings: u64, charged_ms: u64) -> Result<Satoshis, PriceError> {
        match self {
            Self::Reading(price) => price.due(readings),
            Self::Second { price, .. } => price.due_for(charged_ms),
        }
    }

    /// The most that one more reading adds to what is due.
    ///
    /// # Errors
    /// [`PriceError::Overflow`].
    pub fn unit(self) -> Result<Satoshis, PriceError> {
        self.due(1, u64::from(self.longest_gap_ms()))
    }

    /// The most milliseconds that one reading is charged for: none by the reading.
    #[must_use]
    pub const fn longest_gap_ms(self) -> u32 {
        match self {
            Self::Reading(_) => 0,
            Self::Second { longest_gap_ms, .. } => longest_gap_ms,
        }
    }

    /// The part of `amount` that can pay for anything: whole readings, or any time at all.
    ///
    /// # Errors
    /// [`PriceError::Overflow`].
    pub fn whole(self, amount: Satoshis) -> Result<Satoshis, PriceError> {
        match self {
            Self::Reading(price) => price.due(price.covered_by(amount)),
            Self::Second { .. } => Ok(amount),
        }
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / Self::PER_SATOSHI, self.0 % Self::PER_SATOSHI);
        if part == 0 {
            write!(f, "{whole} sat")
        } else {
            let part = format!("{part:03}");
            write!(f, "{whole}.{} sat", part.trim_end_matches('0'))
        }
    }
}

impl std::str::FromStr for Price {
    type Err = PriceError;

    /// Satoshis for a reading, with at most three decimals: `2`, `0.25`.
    fn from_str(text: &str) -> Result<Self, PriceError> {
        let wrong = || PriceError::Text(text.chars().take(40).collect());
        let number = text.trim().trim_end_matches("sat").trim();
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
        if !digits(whole) || part.len() > 3 || !(part.is_empty() || digits(part)) {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let part: u64 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
        let msat =
            whole.checked_mul(Self::PER_SATOSHI).and_then(|w| w.checked_add(part)).ok_or_else(wrong)?;
        Self::from_msat(msat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prices_read_and_write_as_satoshis() {
        for (text, msat, shown) in
            [("2", 2000, "2 sat"), ("0.25", 250, "0.25 sat"), ("1.005 sat", 1005, "1.005 sat")]
        {
            let price: Price = text.parse().unwrap();
            assert_eq!((price.msat(), price.to_string().as_str()), (msat, shown));
        }
        for text in ["", "0", "-1", "1.0001", "1e3", ".5", "1.", "99999999999999999999", "100000001"] {
            let parsed = text.parse::<Price>();
            assert!(parsed.is_err() || text == "1.", "{text}: {parsed:?}");
        }
    }

    #[test]
    fn an_order_costs_at_least_one_satoshi_and_never_wraps() {
        let price = Price::from_msat(1).unwrap();
        assert_eq!(price.total(1).unwrap().as_u64(), 1);
        assert_eq!(price.total(1000).unwrap().as_u64(), 1);
        assert_eq!(price.total(1001).unwrap().as_u64(), 2);
        assert!(matches!(Price::MAX.total(u64::MAX), Err(PriceError::Overflow { .. })));
        assert!(matches!(Price::MAX.total(30_000_000), Err(PriceError::Overflow { .. })));
        assert!(Price::from_msat(0).is_err() && Price::from_msat(1 << 63).is_err());
    }

    #[test]
    fn a_tariff_out_of_range_is_refused_and_no_time_wraps() {
        let price = Price::from_msat(3_000).unwrap();
        for (longest_gap_ms, holds) in
            [(0, false), (999, false), (1_000, true), (3_600_000, true), (3_600_001, false)]
        {
            let tariff = Tariff::Second { price, longest_gap_ms };
            assert_eq!(tariff.validate().is_ok(), holds, "{longest_gap_ms}");
        }
        assert!(matches!(Price::MAX.due_for(u64::MAX), Err(PriceError::TimeOverflow { .. })));
        assert!(matches!(Price(u64::MAX).due_for(u64::MAX), Err(PriceError::TimeOverflow { .. })));
        assert_eq!(price.due_for(0), Ok(Satoshis::ZERO));
        assert_eq!(price.due_for(1), Ok(Satoshis::from_sat(1)));
        assert_eq!(price.due_for(1_001), Ok(Satoshis::from_sat(4)));
    }

    proptest! {
        #[test]
        fn splitting_an_order_never_makes_it_cheaper(msat in 1..10_000_000_u64, a in 1..1_000_000_u64, b in 1..1_000_000_u64) {
            let price = Price::from_msat(msat).unwrap();
            let whole = price.total(a + b).unwrap().as_u64();
            prop_assert!(price.total(a).unwrap().as_u64() + price.total(b).unwrap().as_u64() >= whole);
        }

        #[test]
        fn what_is_due_and_what_is_covered_are_each_others_inverse(msat in 1..=Price::MAX.msat(), count in 0..100_000_u64, sat in 0..1_000_000_u64) {
            let price = Price::from_msat(msat).unwrap();
            if let Ok(due) = price.due(count) {
                prop_assert!(price.covered_by(due) >= count);
                if let (true, Ok(less)) = (count > 0, due.checked_sub(Satoshis::from_sat(1))) {
                    prop_assert!(price.covered_by(less) < count);
                }
            }
            let covered = price.covered_by(Satoshis::from_sat(sat));
            prop_assert!(price.due(covered).unwrap().as_u64() <= sat);
            prop_assert!(price.due(covered + 1).map_or(true, |due| due.as_u64() > sat));
        }

        #[test]
        fn time_is_rounded_up_once_and_one_reading_never_adds_more_than_a_unit(
            msat in 1..=Price::MAX.msat(),
            longest_gap_ms in MIN_GAP_MS..=MAX_GAP_MS,
            before in 0..10_000_000_000_u64,
            part in 0.0..=1.0_f64,
        ) {
            let tariff = Tariff::Second { price: Price::from_msat(msat).unwrap(), longest_gap_ms };
            let more = (f64::from(longest_gap_ms) * part) as u64;
            if let (Ok(due), Ok(next)) = (tariff.due(1, before), tariff.due(2, before + more)) {
                prop_assert!(next <= due.checked_add(tariff.unit().unwrap()).unwrap());
                let exact = u128::from(msat) * u128::from(before);
                prop_assert!(u128::from(due.as_u64()) * 1_000_000 >= exact);
                prop_assert!(u128::from(due.as_u64()) * 1_000_000 < exact + 1_000_000);
            }
        }

        #[test]
        fn what_is_shown_parses_back(msat in 1..=Price::MAX.msat()) {
            let price = Price::from_msat(msat).unwrap();
            prop_assert_eq!(price.to_string().parse::<Price>().unwrap(), price);
        }
    }
}
