//! What a buyer allows itself to spend in a day, with one seller and with all together. What one order may cost is agreed with the order.
//!
//! A budget remembers: what was committed in the last 24 hours counts, across restarts and commands, until it is a day old. An order
//! commits what it may come to cost when it is made, and what it did cost when it has ended; money that came back is free again.

#![warn(clippy::arithmetic_side_effects)]

use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use serde::{Deserialize, Serialize};

/// How long a commitment counts, in milliseconds: a day.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// What the orders of any 24 hours with one seller may cost.
    pub seller_day: Satoshis,
    /// What the orders of any 24 hours may cost in all.
    pub day: Satoshis,
}

impl Budgets {
    /// No limit at all.
    pub const UNLIMITED: Self = Self { seller_day: Satoshis::MAX, day: Satoshis::MAX };
}

/// What an order has committed, or has cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// Who sells.
    pub seller: PublicKey,
    /// When the order was made, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What it may cost while it runs, what it has cost afterwards.
    pub amount: Satoshis,
}

/// Why an order is not made. Nothing was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// This seller has had its part of the day.
    #[error(
        "the order may cost {asked}, and orders of the last 24 hours with this seller took {spent} of their budget of {limit}: wait, or raise buyer.seller_day_sat"
    )]
    SellerDay {
        /// What it may cost.
        asked: Satoshis,
        /// What is committed already.
        spent: Satoshis,
        /// The budget.
        limit: Satoshis,
    },
    /// The day's money is spent.
    #[error(
        "the order may cost {asked}, and orders of the last 24 hours took {spent} of their budget of {limit}: wait, or raise buyer.day_sat"
    )]
    Day {
        /// What it may cost.
        asked: Satoshis,
        /// What is committed already.
        spent: Satoshis,
        /// The budget.
        limit: Satoshis,
    },
}

/// What of the budgets is used at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Used {
    /// By orders with the seller.
    pub seller_day: Satoshis,
    /// By all orders.
    pub day: Satoshis,
}

impl Used {
    /// What the commitments that are less than a day old come to. A clock that was set back makes none younger than new.
    #[must_use]
    pub fn at<'a>(
        commitments: impl IntoIterator<Item = &'a Commitment>,
        seller: &PublicKey,
        now_ms: i64,
    ) -> Self {
        let mut used = Self { seller_day: Satoshis::ZERO, day: Satoshis::ZERO };
        for commitment in commitments {
            if now_ms.saturating_sub(commitment.at_ms) >= DAY_MS {
                continue;
            }
            let more = |sum: Satoshis| sum.checked_add(commitment.amount).unwrap_or(Satoshis::MAX);
            used.day = more(used.day);
            if &commitment.seller == seller {
                used.seller_day = more(used.seller_day);
            }
        }
        used
    }
}

impl Budgets {
    /// Whether an order with a seller that may cost `asked` fits beside what is used.
    ///
    /// # Errors
    /// [`BudgetError`] names the first budget that it does not fit.
    pub fn admit(&self, used: Used, asked: Satoshis) -> Result<(), BudgetError> {
        let fits = |spent: Satoshis, limit: Satoshis| spent.checked_add(asked).is_ok_and(|sum| sum <= limit);
        if !fits(used.seller_day, self.seller_day) {
            return Err(BudgetError::SellerDay { asked, spent: used.seller_day, limit: self.seller_day });
        }
        if !fits(used.day, self.day) {
            return Err(BudgetError::Day { asked, spent: used.day, limit: self.day });
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;
    use sensora_chain::PrivateKey;

    use super::*;

    fn sat(amount: u64) -> Satoshis {
        Satoshis::from_sat(amount)
    }

    fn seller(tag: u8) -> PublicKey {
        PrivateKey::from_bytes([tag; 32]).unwrap().public()
    }

    fn commitment(tag: u8, at_ms: i64, amount: u64) -> Commitment {
        Commitment { seller: seller(tag), at_ms, amount: sat(amount) }
    }

    const BUDGETS: Budgets = Budgets { seller_day: Satoshis::from_sat(80), day: Satoshis::from_sat(100) };

    #[test]
    fn each_budget_is_named_where_it_is_the_one_that_is_too_small() {
        let now = 10 * DAY_MS;
        let before =
            [commitment(1, now - 5, 40), commitment(2, now - 3, 30), commitment(1, now - DAY_MS, 500)];
        let used = Used::at(&before, &seller(1), now);
        assert_eq!(used, Used { seller_day: sat(40), day: sat(70) });
        assert_eq!(BUDGETS.admit(used, sat(30)), Ok(()));
        assert_eq!(
            BUDGETS.admit(used, sat(31)),
            Err(BudgetError::Day { asked: sat(31), spent: sat(70), limit: sat(100) })
        );
        assert_eq!(
            BUDGETS.admit(used, sat(41)),
            Err(BudgetError::SellerDay { asked: sat(41), spent: sat(40), limit: sat(80) })
        );
    }

    #[test]
    fn a_commitment_from_the_future_of_a_clock_that_was_set_back_still_counts() {
        let used = Used::at(&[commitment(1, 5 * DAY_MS, 40)], &seller(1), DAY_MS);
        assert_eq!(used.day, sat(40));
    }

    #[test]
    fn sums_above_all_money_admit_nothing() {
        let all = Satoshis::MAX.as_u64();
        let used = Used::at(&[commitment(1, 0, all), commitment(1, 0, all)], &seller(1), 1);
        assert_eq!(used.day, Satoshis::MAX);
        assert!(Budgets::UNLIMITED.admit(used, sat(1)).is_err());
    }

    proptest! {
        #[test]
        fn no_window_of_a_day_ever_holds_more_than_the_budgets(
            asked in prop::collection::vec((0u8..3, 1u64..60, 0i64..(DAY_MS / 3)), 1..60),
        ) {
            let sellers = [1, 2, 3].map(seller);
            let (mut made, mut now) = (Vec::<Commitment>::new(), 0);
            for (tag, amount, later) in asked {
                now += later;
                let used = Used::at(&made, &sellers[usize::from(tag)], now);
                if BUDGETS.admit(used, sat(amount)).is_ok() {
                    made.push(Commitment { seller: sellers[usize::from(tag)], at_ms: now, amount: sat(amount) });
                }
                let window = |by: Option<PublicKey>| -> u64 {
                    let inside = made.iter().filter(|one| now - one.at_ms < DAY_MS);
                    inside.filter(|one| by.is_none_or(|by| one.seller == by)).map(|one| one.amount.as_u64()).sum()
                };
                prop_assert!(window(None) <= 100);
                for seller in sellers {
                    prop_assert!(window(Some(seller)) <= 80);
                }
            }
        }
    }
}
