//! What one side has at stake with the other, and how much it lets that be.
//!
//! Whoever goes first, by delivering or by paying, trusts the other with what is not answered yet. That is its *exposure*: a
//! number of satoshis which it chose, shows before the purchase, and never lets grow above its limit. Trust is given in an
//! [`Interval`] that begins small, grows with each answer and falls back on trouble. [`Stakes`] adds up what is open with one
//! counterparty over all orders, so that many orders at once do not multiply the limit.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use sensora_chain::{AmountError, Satoshis};

use crate::id::OrderId;

/// What is given and not answered. It has no arithmetic with balances, and two ways to be made: what *is*, for settling,
/// and what *would be*, for admitting. Both questions that are asked of it, "could I?" and "I do", are [`Exposure::is_within`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exposure(Satoshis);

impl Exposure {
    /// What is open now: `given` less what was `answered`; nothing where the answer is ahead.
    #[must_use]
    pub const fn committed(given: Satoshis, answered: Satoshis) -> Self {
        Self(given.saturating_sub(answered))
    }

    /// What would be open if `more` were given beside all that is `open` already.
    ///
    /// # Errors
    /// [`AmountError`] for a sum above all money.
    pub fn would_be(open: Self, more: Satoshis) -> Result<Self, AmountError> {
        Ok(Self(open.0.checked_add(more)?))
    }

    /// Whether it may be.
    #[must_use]
    pub fn is_within(self, limit: Satoshis) -> bool {
        self.0 <= limit
    }

    /// To show it.
    #[must_use]
    pub const fn amount(self) -> Satoshis {
        self.0
    }
}

/// The limit is too small for anything to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an exposure of {limit} is less than the {unit} that one reading costs: neither side could begin")]
pub struct TooSmall {
    /// The limit.
    pub limit: Satoshis,
    /// Price of the smallest thing that is delivered.
    pub unit: Satoshis,
}

/// How much a side lets stand open in one order. It begins with little, is doubled each time that as much was answered, and
/// falls back to the beginning on trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    first: Satoshis,
    now: Satoshis,
    limit: Satoshis,
    /// What was answered since it last grew.
    answered: Satoshis,
}

/// By how much an interval grows: after ten answers a first satoshi has become a thousand.
const GROWTH: u64 = 2;

impl Interval {
    /// An interval from `first` up to `limit`, but never below `unit`, the price of the smallest thing that is delivered.
    ///
    /// # Errors
    /// [`TooSmall`] for a limit below `unit`.
    pub fn new(first: Satoshis, limit: Satoshis, unit: Satoshis) -> Result<Self, TooSmall> {
        if limit < unit {
            return Err(TooSmall { limit, unit });
        }
        let first = first.clamp(unit, limit);
        Ok(Self { first, now: first, limit, answered: Satoshis::ZERO })
    }

    /// No trust at all: for the side that goes second.
    #[must_use]
    pub const fn none() -> Self {
        Self { first: Satoshis::ZERO, now: Satoshis::ZERO, limit: Satoshis::ZERO, answered: Satoshis::ZERO }
    }

    /// What may stand open now.
    #[must_use]
    pub const fn now(&self) -> Satoshis {
        self.now
    }

    /// The most that it ever lets stand open.
    #[must_use]
    pub const fn limit(&self) -> Satoshis {
        self.limit
    }

    /// The other side has answered for `amount`.
    pub fn answered(&mut self, amount: Satoshis) {
        self.answered = self.answered.checked_add(amount).unwrap_or(Satoshis::MAX);
        // One answer for much is one answer: it does not make up for many.
        if self.answered >= self.now {
            self.answered = Satoshis::ZERO;
            self.now = self.now.checked_mul(GROWTH).unwrap_or(self.limit).min(self.limit);
        }
    }

    /// Something went wrong: begin small again.
    pub const fn fall_back(&mut self) {
        self.now = self.first;
        self.answered = Satoshis::ZERO;
    }
}

/// More would be open with a counterparty than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{more} would be open beside {open} that is open already, above the exposure of {limit}")]
pub struct OverLimit {
    /// What would come.
    pub more: Satoshis,
    /// What is open with this counterparty in other orders.
    pub open: Satoshis,
    /// The most that may be.
    pub limit: Satoshis,
}

/// What is open with one counterparty, by order. Their sum is never above the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stakes {
    limit: Satoshis,
    orders: BTreeMap<OrderId, Satoshis>,
}

impl Stakes {
    /// Nothing is open; at most `limit` may be.
    #[must_use]
    pub const fn new(limit: Satoshis) -> Self {
        Self { limit, orders: BTreeMap::new() }
    }

    /// The most that may be open.
    #[must_use]
    pub const fn limit(&self) -> Satoshis {
        self.limit
    }

    /// Another limit; what is open above it can only shrink.
    pub const fn set_limit(&mut self, limit: Satoshis) {
        self.limit = limit;
    }

    /// What is open in all orders.
    #[must_use]
    pub fn open(&self) -> Exposure {
        self.open_beside(None)
    }

    fn open_beside(&self, order: Option<&OrderId>) -> Exposure {
        let others = self.orders.iter().filter(|(id, _)| Some(*id) != order);
        Exposure(
            others.fold(Satoshis::ZERO, |sum, (_, part)| sum.checked_add(*part).unwrap_or(Satoshis::MAX)),
        )
    }

    /// What may be open in this order, with all others as they are.
    #[must_use]
    pub fn room(&self, order: &OrderId) -> Satoshis {
        self.limit.saturating_sub(self.open_beside(Some(order)).amount())
    }

    /// Lets `amount` be open in this order, in place of what was open in it before. Less than before is always allowed, also
    /// above a limit that was lowered meanwhile.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing has changed then.
    pub fn set(&mut self, order: OrderId, amount: Satoshis) -> Result<(), OverLimit> {
        let before = self.orders.get(&order).copied().unwrap_or(Satoshis::ZERO);
        let open = self.open_beside(Some(&order));
        let allowed = Exposure::would_be(open, amount).is_ok_and(|sum| sum.is_within(self.limit));
        if amount > before && !allowed {
            return Err(OverLimit { more: amount, open: open.amount(), limit: self.limit });
        }
        self.note(order, amount);
        Ok(())
    }

    /// Counts what is open in an order, whatever the limit: it is a fact and no request.
    pub fn note(&mut self, order: OrderId, amount: Satoshis) {
        if amount.is_zero() {
            self.orders.remove(&order);
        } else {
            self.orders.insert(order, amount);
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sat(amount: u64) -> Satoshis {
        Satoshis::from_sat(amount)
    }

    #[test]
    fn an_interval_doubles_with_each_answer_and_falls_back() {
        let mut interval = Interval::new(sat(1), sat(10), sat(1)).unwrap();
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(interval.now().as_u64());
            interval.answered(interval.now());
        }
        assert_eq!(seen, [1, 2, 4, 8, 10, 10]);
        interval.answered(sat(9));
        interval.fall_back();
        assert_eq!(interval.now(), sat(1));
        interval.answered(Satoshis::MAX);
        assert_eq!(interval.now(), sat(2), "one answer is one step, however large");
    }

    #[test]
    fn an_interval_holds_at_least_one_reading_or_is_refused() {
        assert_eq!(Interval::new(sat(1), sat(10), sat(7)).unwrap().now(), sat(7));
        assert_eq!(Interval::new(sat(50), sat(10), sat(7)).unwrap().now(), sat(10));
        assert_eq!(Interval::new(sat(1), sat(6), sat(7)), Err(TooSmall { limit: sat(6), unit: sat(7) }));
        assert_eq!(Interval::none().now(), Satoshis::ZERO);
    }

    #[test]
    fn what_was_open_before_a_restart_counts_and_can_only_shrink() {
        let (a, b) = (OrderId([1; 32]), OrderId([2; 32]));
        let mut stakes = Stakes::new(sat(10));
        stakes.note(a, sat(12));
        assert_eq!(stakes.room(&b), Satoshis::ZERO);
        assert_eq!(stakes.set(b, sat(1)), Err(OverLimit { more: sat(1), open: sat(12), limit: sat(10) }));
        stakes.set(a, sat(11)).unwrap();
        assert_eq!(stakes.set(a, sat(12)).unwrap_err().open, Satoshis::ZERO);
        stakes.set(a, sat(4)).unwrap();
        assert_eq!(stakes.room(&b), sat(6));
        stakes.set(b, sat(6)).unwrap();
        assert_eq!(stakes.open().amount(), sat(10));
    }

    proptest! {
        #[test]
        fn the_sum_over_all_orders_never_passes_the_limit(
            limit in 0u64..1000,
            steps in prop::collection::vec((0u8..8, 0u64..600), 1..60),
        ) {
            let mut stakes = Stakes::new(sat(limit));
            let mut model = BTreeMap::new();
            for (order, amount) in steps {
                let order = OrderId([order; 32]);
                let others: u64 = model.iter().filter(|(id, _)| **id != order).map(|(_, part)| *part).sum();
                let allowed = others + amount <= limit;
                prop_assert_eq!(stakes.room(&order), sat(limit - others));
                prop_assert_eq!(stakes.set(order, sat(amount)).is_ok(), allowed);
                if allowed {
                    model.insert(order, amount);
                }
                prop_assert_eq!(stakes.open().amount(), sat(model.values().sum()));
                prop_assert!(stakes.open().is_within(sat(limit)));
            }
        }
    }
}
