//! The seller's account of a channel: the highest voucher, and what each order has paid by it.
//!
//! A voucher pays for everything before it, too. With it comes what the order it is for has paid in all. Orders run beside each other,
//! so vouchers may come in another order than they were signed in: what counts is that no more is booked than the highest voucher
//! covers, Σ paid ≤ highest ≤ capacity.
//!
//! An order that has ended has paid what its receipt says. What it had paid ahead of that is free: the highest voucher covers it, and the next vouchers
//! of other orders use it up.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet};

use sensora_chain::{AmountError, Satoshis};
use serde::{Deserialize, Serialize};

use super::spending::MAX_LANES;
use crate::id::OrderId;

/// The account, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earning {
    /// What can be paid at all: the channel's value less the fee of its close.
    pub capacity: Satoshis,
    /// The highest voucher.
    pub highest: Satoshis,
    /// What was paid by orders that have ended.
    pub ended: Satoshis,
    /// What the orders that run have paid.
    pub lanes: BTreeMap<OrderId, Satoshis>,
    /// Those of them that their seller wants ended: it is remembered until they have, however long their buyers are away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    ending: BTreeSet<OrderId>,
}

/// Why a voucher is not booked. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EarningError {
    /// More than the channel holds.
    #[error("the voucher is for {amount}, the channel can pay {capacity}: open another")]
    AboveCapacity {
        /// The voucher.
        amount: Satoshis,
        /// What the channel can pay.
        capacity: Satoshis,
    },
    /// The order had paid as much before.
    #[error(
        "the order has paid {paid} already, the voucher says {said}: a voucher is for more than the one before"
    )]
    NotHigher {
        /// What it had paid.
        paid: Satoshis,
        /// What the voucher says.
        said: Satoshis,
    },
    /// The voucher does not cover what all orders have paid by then.
    #[error("the orders on the channel would have paid {paid}, the highest voucher is for {highest}")]
    NotCovered {
        /// With what the voucher says of its order.
        paid: Satoshis,
        /// The highest voucher, this one included.
        highest: Satoshis,
    },
    /// The order does not run on this channel.
    #[error("order {0} does not run on this channel")]
    UnknownOrder(OrderId),
    /// More orders than a channel carries.
    #[error("{MAX_LANES} orders run on the channel already: wait until one of them ends")]
    TooManyOrders,
    /// A sum above all money.
    #[error(transparent)]
    Amount(#[from] AmountError),
}

impl Earning {
    /// Nothing is paid.
    #[must_use]
    pub const fn new(capacity: Satoshis) -> Self {
        Self {
            capacity,
            highest: Satoshis::ZERO,
            ended: Satoshis::ZERO,
            lanes: BTreeMap::new(),
            ending: BTreeSet::new(),
        }
    }

    /// What is booked: never more than the highest voucher.
    ///
    /// # Errors
    /// [`EarningError::Amount`] for a record that was altered.
    pub fn paid(&self) -> Result<Satoshis, EarningError> {
        Ok(self.ended.checked_add(Satoshis::sum(self.lanes.values().copied())?)?)
    }

    /// What an order has paid so far.
    #[must_use]
    pub fn paid_by(&self, order: &OrderId) -> Satoshis {
        self.lanes.get(order).copied().unwrap_or(Satoshis::ZERO)
    }

    /// An order begins, or goes on, with what it had paid before.
    ///
    /// # Errors
    /// [`EarningError::TooManyOrders`].
    pub fn begin(&mut self, order: OrderId) -> Result<(), EarningError> {
        if !self.lanes.contains_key(&order) && self.lanes.len() >= MAX_LANES {
            return Err(EarningError::TooManyOrders);
        }
        self.lanes.entry(order).or_insert(Satoshis::ZERO);
        Ok(())
    }

    /// The seller wants an order ended.
    ///
    /// # Errors
    /// [`EarningError::UnknownOrder`] for one that does not run on this channel.
    pub fn ask_to_end(&mut self, order: OrderId) -> Result<(), EarningError> {
        if !self.lanes.contains_key(&order) {
            return Err(EarningError::UnknownOrder(order));
        }
        self.ending.insert(order);
        Ok(())
    }

    /// Whether the seller wants this order ended, and it has not.
    #[must_use]
    pub fn is_to_end(&self, order: &OrderId) -> bool {
        self.ending.contains(order)
    }

    /// What a voucher for `amount` would make of the account, if its signature holds: `order` has then paid `paid` in all.
    ///
    /// # Errors
    /// [`EarningError`].
    pub fn with(&self, order: &OrderId, paid: Satoshis, amount: Satoshis) -> Result<Self, EarningError> {
        if amount > self.capacity {
            return Err(EarningError::AboveCapacity { amount, capacity: self.capacity });
        }
        let before = *self.lanes.get(order).ok_or(EarningError::UnknownOrder(*order))?;
        if paid <= before {
            return Err(EarningError::NotHigher { paid: before, said: paid });
        }
        let highest = self.highest.max(amount);
        let sum = self.paid()?.checked_add(paid.checked_sub(before)?)?;
        if sum > highest {
            return Err(EarningError::NotCovered { paid: sum, highest });
        }
        let mut next = Self { highest, ..self.clone() };
        next.lanes.insert(*order, paid);
        Ok(next)
    }

    /// Whether these vouchers can all be booked, whichever of them comes first and whichever never does. Each is for another order: it, what it has then
    /// paid in all, and the amount that is signed. Those of orders that run no more are booked already.
    ///
    /// # Errors
    /// [`EarningError::NotCovered`]; [`EarningError::Amount`] for a record that was altered.
    pub fn covers(
        &self,
        vouchers: impl IntoIterator<Item = (OrderId, Satoshis, Satoshis)>,
    ) -> Result<(), EarningError> {
        let more = |(order, paid, amount): (OrderId, Satoshis, Satoshis)| {
            self.lanes.get(&order).map(|before| (amount, paid.saturating_sub(*before)))
        };
        let mut more: Vec<_> = vouchers.into_iter().filter_map(more).collect();
        more.sort_unstable();
        let mut paid = self.paid()?;
        // What is signed for an amount pays for all that is signed for less.
        for (amount, part) in more {
            paid = paid.checked_add(part)?;
            let highest = self.highest.max(amount);
            if paid > highest {
                return Err(EarningError::NotCovered { paid, highest });
            }
        }
        Ok(())
    }

    /// The buyer wants the channel closed with this amount. It is taken where it pays all that is booked: above the highest voucher the rest is paid all the
    /// same, below it the buyer has back what it paid ahead. Answers whether it is.
    ///
    /// # Errors
    /// [`EarningError::Amount`] for a record that was altered.
    pub fn close_with(&mut self, amount: Satoshis) -> Result<bool, EarningError> {
        let pays_all = amount >= self.paid()? && amount <= self.capacity;
        if pays_all {
            self.highest = amount;
        }
        Ok(pays_all)
    }

    /// The order has ended and has paid `final_paid` by its receipt: all that is due, and never more than it had paid. The rest is free for the vouchers
    /// that come. Returns what is booked as paid.
    ///
    /// # Errors
    /// [`EarningError::Amount`] for a record that was altered.
    pub fn end(&mut self, order: &OrderId, final_paid: Satoshis) -> Result<Satoshis, EarningError> {
        let paid = self.paid_by(order).min(final_paid);
        self.ended = self.ended.checked_add(paid)?;
        self.lanes.remove(order);
        self.ending.remove(order);
        Ok(paid)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::channel::spending::{Claim, Spending, SpendingError, SpendingRecord};

    fn sat(amount: u64) -> Satoshis {
        Satoshis::from_sat(amount)
    }

    fn order(tag: u8) -> OrderId {
        OrderId([tag; 32])
    }

    fn with_orders(capacity: u64, orders: &[u8]) -> Earning {
        let mut earning = Earning::new(sat(capacity));
        for tag in orders {
            earning.begin(order(*tag)).unwrap();
        }
        earning
    }

    #[test]
    fn each_bad_voucher_has_its_error_and_changes_nothing() {
        let account = with_orders(100, &[1, 2]).with(&order(1), sat(30), sat(30)).unwrap();
        let cases = [
            (1, 31, 101, EarningError::AboveCapacity { amount: sat(101), capacity: sat(100) }),
            (1, 30, 40, EarningError::NotHigher { paid: sat(30), said: sat(30) }),
            (1, 0, 40, EarningError::NotHigher { paid: sat(30), said: Satoshis::ZERO }),
            (2, 1, 30, EarningError::NotCovered { paid: sat(31), highest: sat(30) }),
            (2, 1, 0, EarningError::NotCovered { paid: sat(31), highest: sat(30) }),
            (3, 1, 31, EarningError::UnknownOrder(order(3))),
        ];
        for (tag, paid, amount, error) in cases {
            assert_eq!(account.with(&order(tag), sat(paid), sat(amount)), Err(error));
        }
    }

    #[test]
    fn vouchers_of_orders_beside_each_other_may_overtake() {
        // Signed: order 1 pays 10 (voucher 10), order 2 pays 5 (voucher 15). They arrive the other way round.
        let account = with_orders(100, &[1, 2]);
        let account = account.with(&order(2), sat(5), sat(15)).unwrap();
        let account = account.with(&order(1), sat(10), sat(10)).unwrap();
        assert_eq!((account.highest, account.paid()), (sat(15), Ok(sat(15))));
    }

    #[test]
    fn one_voucher_does_not_pay_for_two_orders_while_both_wait_for_the_disk() {
        let account = with_orders(100, &[1, 2, 3]).with(&order(3), sat(10), sat(10)).unwrap();
        let voucher = |tag, paid, amount| (order(tag), sat(paid), sat(amount));
        // Each alone is booked; together they are not.
        for tag in [1, 2] {
            assert!(account.with(&order(tag), sat(10), sat(20)).is_ok());
        }
        let both = [voucher(1, 10, 20), voucher(2, 10, 20)];
        let beyond = EarningError::NotCovered { paid: sat(30), highest: sat(20) };
        assert_eq!(account.covers(both), Err(beyond));
        assert_eq!(account.covers([voucher(1, 10, 20), voucher(2, 10, 30)]), Ok(()));
        // A third for more would cover them, and may never come to be booked.
        assert_eq!(account.covers([both[0], both[1], voucher(3, 11, 100)]), Err(beyond));
        // An order that has ended is booked.
        assert_eq!(account.covers([both[0], voucher(4, 90, 90)]), Ok(()));
    }

    #[test]
    fn a_channel_carries_as_many_orders_as_the_buyer_may_begin() {
        let mut account = Earning::new(sat(1));
        for n in 0..MAX_LANES {
            account
                .begin(OrderId([(n / 256) as u8, (n % 256) as u8].repeat(16).try_into().unwrap()))
                .unwrap();
        }
        assert_eq!(account.begin(OrderId([0xee; 32])), Err(EarningError::TooManyOrders));
        account.end(&OrderId([0; 32]), Satoshis::ZERO).unwrap();
        assert_eq!(account.begin(OrderId([0xee; 32])), Ok(()));
    }

    #[test]
    fn an_order_is_asked_to_end_once_it_runs_and_until_it_has() {
        let mut account = with_orders(100, &[1]).with(&order(1), sat(30), sat(30)).unwrap();
        assert_eq!(account.ask_to_end(order(2)), Err(EarningError::UnknownOrder(order(2))));
        account.ask_to_end(order(1)).unwrap();
        let account = account.with(&order(1), sat(31), sat(31)).unwrap();
        assert!(account.is_to_end(&order(1)), "what is due is paid still");
        let mut account = account;
        account.end(&order(1), sat(31)).unwrap();
        assert!(!account.is_to_end(&order(1)));
        assert_eq!(account.ask_to_end(order(1)), Err(EarningError::UnknownOrder(order(1))));
    }

    #[test]
    fn what_was_paid_ahead_of_an_order_that_ended_pays_for_the_next() {
        let mut account = with_orders(100, &[1, 2]).with(&order(1), sat(30), sat(30)).unwrap();
        assert_eq!(account.end(&order(1), sat(25)), Ok(sat(25)));
        assert_eq!((account.paid(), account.highest), (Ok(sat(25)), sat(30)));
        // Signed after the first had ended: 25 and 4, which is less than the voucher before.
        let mut account = account.with(&order(2), sat(4), sat(29)).unwrap();
        assert_eq!((account.paid(), account.highest), (Ok(sat(29)), sat(30)));
        let beyond = EarningError::NotCovered { paid: sat(31), highest: sat(30) };
        assert_eq!(account.with(&order(2), sat(6), sat(30)), Err(beyond));
        assert_eq!(account.close_with(sat(28)), Ok(false), "less than is booked");
        assert_eq!(account.close_with(sat(101)), Ok(false), "more than there is");
        assert_eq!(account.highest, sat(30));
        assert_eq!(account.close_with(sat(29)), Ok(true));
        assert_eq!(account.highest, sat(29));
    }

    proptest! {
        /// Both accounts of one channel: vouchers in any order, some lost and some twice, crashes of the buyer.
        #[test]
        fn both_sides_agree_whatever_comes_in_which_order(
            capacity in 1u64..300,
            steps in prop::collection::vec((0u8..7, 0u8..4, 0u64..120), 1..120),
        ) {
            let tags = [0u8, 1, 2, 3];
            let mut disk = SpendingRecord::new(sat(capacity));
            let mut spending = Spending::new(disk.clone());
            let mut held = BTreeMap::new();
            let mut account = with_orders(capacity, &tags);
            let mut out: Vec<(u8, Satoshis, Satoshis)> = Vec::new();
            let mut signed = Satoshis::ZERO;
            for (what, tag, amount) in steps {
                match what {
                    0 => {
                        let reserved = spending.reserve(order(tag), sat(amount), |record| {
                            disk = record.clone();
                            Ok::<_, SpendingError>(())
                        });
                        if let Ok(reservation) = reserved {
                            held.insert(tag, reservation);
                        }
                    }
                    1 | 2 => if let Some(reservation) = held.get_mut(&tag) {
                        let to = sat(reservation.paid().as_u64() + amount % 20);
                        if let Ok(voucher) = reservation.pay_to(to) {
                            signed = signed.max(voucher);
                            out.push((tag, to, voucher));
                        }
                    },
                    3 | 4 => if !out.is_empty() {
                        let at = amount as usize % out.len();
                        let (tag, paid, voucher) = if what == 3 { out.remove(at) } else { out[at] };
                        if let Ok(next) = account.with(&order(tag), paid, voucher) {
                            account = next;
                        }
                    },
                    5 => {
                        // An order ends with what is due, at most what it has paid; vouchers of it that are under way are lost with its stream.
                        let order = order(tag);
                        if let Some(reservation) = held.remove(&tag) {
                            let due = account.paid_by(&order).min(sat(amount));
                            out.retain(|(of, _, _)| *of != tag);
                            prop_assert_eq!(account.end(&order, due), Ok(due));
                            reservation.end(due).unwrap();
                            account.begin(order).unwrap();
                            disk = spending.record();
                        }
                    }
                    _ => {
                        // The buyer crashes, comes back with what is on disk, and learns from the seller.
                        held.into_values().for_each(std::mem::forget);
                        held = BTreeMap::new();
                        let claims = tags.map(|tag| {
                            let (order, due) = (order(tag), Satoshis::ZERO);
                            Claim { order, paid: account.paid_by(&order), due }
                        });
                        let booked = account.paid().unwrap();
                        // A lane of before that holds more than the seller has heard of may make up for it; nothing else is booked to nobody.
                        let unclaimed = disk.learn(account.highest, booked, &claims, Satoshis::MAX, true).unwrap();
                        prop_assert_eq!(unclaimed, Satoshis::ZERO);
                        prop_assert!(disk.paid().unwrap() >= booked);
                        spending = Spending::new(disk.clone());
                        for tag in tags {
                            drop(spending.take_up(order(tag)));
                        }
                        disk = spending.record();
                        out.clear();
                    }
                }
                prop_assert!(account.paid().unwrap() <= account.highest);
                prop_assert!(signed <= disk.highest.max(disk.promised().unwrap()), "no voucher proves that our memory is lost");
                prop_assert!(account.highest <= signed, "the seller has no voucher that was not signed");
                prop_assert!(signed <= sat(capacity));
                for tag in tags {
                    let theirs = spending.record().lanes.get(&order(tag)).map_or(Satoshis::ZERO, |lane| lane.paid);
                    prop_assert!(account.paid_by(&order(tag)) <= theirs);
                }
            }
        }
    }
}
