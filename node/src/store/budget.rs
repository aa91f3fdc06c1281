//! What the buyer has committed to spend.
//!
//! Sums by quarter of an hour and seller, so that a decision reads a hundred numbers for each seller and not each order of a day. A quarter counts
//! until its last moment is a day old: a budget holds for a little more than 24 hours, never for less.
//!
//! An order that runs counts as what it may cost, however old it is; one that has ended as what it has cost, from its end on: a live stream may
//! run for weeks and pay at its last moment.
//!
//! What orders have lost, which is what was paid ahead to a seller that has not delivered for it, is kept here too.

use redb::WriteTransaction;
use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::OrderId;
use sensora_protocol::market::budget::{BudgetError, Budgets, Commitment, DAY_MS, Used};
use serde::{Deserialize, Serialize};

use super::kinds::Records;
use super::{StoreError, from_record};

/// A quarter of an hour in milliseconds.
const QUARTER_MS: i64 = 15 * 60 * 1000;

/// Sums, under quarter (8 bytes, big-endian) and seller.
const SUMS: Records = Records { name: "budget_sums" };
/// What each order that runs has committed, under its id.
const RUNNING: Records = Records { name: "budget_running" };
/// What each order has cost whose coins may still come back, as it is counted, under its id.
const WITHHELD: Records = Records { name: "budget_withheld" };
/// What orders have lost, under seller and order.
const LOST: Records = Records { name: "budget_lost" };

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sum {
    seller: PublicKey,
    amount: Satoshis,
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    [SUMS, RUNNING, WITHHELD, LOST].iter().try_for_each(|table| table.create(tx))
}

fn quarter_of(at_ms: i64) -> u64 {
    // A clock before 1970 is wrong by more than a budget can mend.
    u64::try_from(at_ms.div_euclid(QUARTER_MS)).unwrap_or(0)
}

fn key(at_ms: i64, seller: &PublicKey) -> Vec<u8> {
    [quarter_of(at_ms).to_be_bytes().as_slice(), seller.to_bytes().as_slice()].concat()
}

/// What a quarter's sum counts as: all of it committed in its last moment.
fn commitment(key: &[u8], sum: Sum) -> Commitment {
    let quarter = key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let next = i64::try_from(quarter.saturating_add(1)).unwrap_or(i64::MAX);
    let at_ms = next.saturating_mul(QUARTER_MS).saturating_sub(1);
    Commitment { seller: sum.seller, at_ms, amount: sum.amount }
}

/// Whether the sum of an order's quarter counts.
fn is_in_window(at_ms: i64, now_ms: i64) -> bool {
    quarter_of(at_ms) >= quarter_of(now_ms.saturating_sub(DAY_MS))
}

/// What an order that runs counts as beside the sums: nothing while its quarter is among them, else as if it had been made now.
fn outlasting(running: Commitment, now_ms: i64) -> Option<Commitment> {
    (!is_in_window(running.at_ms, now_ms)).then_some(Commitment { at_ms: now_ms, ..running })
}

/// What of the budgets is used, as this change sees it.
///
/// # Errors
/// [`StoreError`].
pub fn used_in(tx: &WriteTransaction, seller: &PublicKey, now_ms: i64) -> Result<Used, StoreError> {
    let from = quarter_of(now_ms.saturating_sub(DAY_MS)).to_be_bytes();
    let mut commitments = Vec::new();
    SUMS.each_from_in(tx, &from, |key, bytes| {
        commitments.push(commitment(key, from_record(SUMS.name, bytes)?));
        Ok(())
    })?;
    RUNNING.each_from_in(tx, &[], |_, bytes| {
        commitments.extend(outlasting(from_record(RUNNING.name, bytes)?, now_ms));
        Ok(())
    })?;
    Ok(Used::at(&commitments, seller, now_ms))
}

/// What of the budgets is used.
///
/// # Errors
/// [`StoreError`].
pub fn used(tx: &redb::ReadTransaction, seller: &PublicKey, now_ms: i64) -> Result<Used, StoreError> {
    let from = quarter_of(now_ms.saturating_sub(DAY_MS)).to_be_bytes();
    let found = SUMS.scan(tx, &[], &from, usize::MAX)?;
    let commitments = found.iter().map(|(key, bytes)| Ok(commitment(key, from_record(SUMS.name, bytes)?)));
    let mut commitments = commitments.collect::<Result<Vec<_>, StoreError>>()?;
    let running = RUNNING.all::<Commitment>(tx)?;
    commitments.extend(running.into_iter().filter_map(|running| outlasting(running, now_ms)));
    Ok(Used::at(&commitments, seller, now_ms))
}

fn change(
    tx: &WriteTransaction,
    at_ms: i64,
    seller: &PublicKey,
    f: impl FnOnce(Satoshis) -> Satoshis,
) -> Result<(), StoreError> {
    let key = key(at_ms, seller);
    let before: Option<Sum> = SUMS.get_in(tx, &key)?;
    let amount = f(before.map_or(Satoshis::ZERO, |sum| sum.amount));
    if amount.is_zero() {
        SUMS.remove(tx, &key)
    } else {
        SUMS.put(tx, &key, &Sum { seller: *seller, amount })
    }
}

/// Commits what an order may cost, where the budgets allow it; in the same change as the order.
///
/// # Errors
/// [`BudgetError`] through `E`; the change is not to be made then.
pub fn commit<E: From<StoreError> + From<BudgetError>>(
    tx: &WriteTransaction,
    budgets: &Budgets,
    order: &OrderId,
    commitment: &Commitment,
) -> Result<(), E> {
    let Commitment { seller, at_ms, amount } = commitment;
    budgets.admit(used_in(tx, seller, *at_ms)?, *amount)?;
    change(tx, *at_ms, seller, |sum| sum.checked_add(*amount).unwrap_or(Satoshis::MAX))?;
    let forgotten = quarter_of(at_ms.saturating_sub(DAY_MS.saturating_mul(2)));
    SUMS.remove_before(tx, &forgotten.to_be_bytes())?;
    Ok(RUNNING.put(tx, order.as_bytes(), commitment)?)
}

/// Commits what an order costs that had given it back, whatever the budgets allow: it is paid.
///
/// # Errors
/// [`StoreError`].
pub fn commit_again(
    tx: &WriteTransaction,
    order: &OrderId,
    commitment: &Commitment,
) -> Result<(), StoreError> {
    if RUNNING.get_in::<Commitment>(tx, order.as_bytes())?.is_some() {
        return Ok(());
    }
    let Commitment { seller, at_ms, amount } = commitment;
    change(tx, *at_ms, seller, |sum| sum.checked_add(*amount).unwrap_or(Satoshis::MAX))?;
    RUNNING.put(tx, order.as_bytes(), commitment)
}

/// The order has ended at `now_ms` and has cost `amount`: what else it had committed is free again. A second time it changes nothing.
///
/// # Errors
/// [`StoreError`].
pub fn settle(
    tx: &WriteTransaction,
    order: &OrderId,
    amount: Satoshis,
    now_ms: i64,
) -> Result<(), StoreError> {
    if let Some(withheld) = WITHHELD.get_in::<Commitment>(tx, order.as_bytes())? {
        // It counts from when it was paid.
        recount(tx, &withheld, withheld.at_ms, amount)?;
        return WITHHELD.remove(tx, order.as_bytes());
    }
    let Some(running) = RUNNING.get_in::<Commitment>(tx, order.as_bytes())? else { return Ok(()) };
    recount(tx, &running, running.at_ms.max(now_ms), amount)?;
    RUNNING.remove(tx, order.as_bytes())
}

/// As [`settle`], of an order that has cost `amount` and may still give it back: it is settled once more then.
///
/// # Errors
/// [`StoreError`].
pub fn withhold(
    tx: &WriteTransaction,
    order: &OrderId,
    amount: Satoshis,
    now_ms: i64,
) -> Result<(), StoreError> {
    let Some(running) = RUNNING.get_in::<Commitment>(tx, order.as_bytes())? else { return Ok(()) };
    let at_ms = running.at_ms.max(now_ms);
    recount(tx, &running, at_ms, amount)?;
    RUNNING.remove(tx, order.as_bytes())?;
    WITHHELD.put(tx, order.as_bytes(), &Commitment { at_ms, amount, ..running })
}

/// Counts `amount` at `at_ms` in place of what was counted. A clock that was set back makes nothing older than it was: `at_ms` is no earlier.
fn recount(
    tx: &WriteTransaction,
    counted: &Commitment,
    at_ms: i64,
    amount: Satoshis,
) -> Result<(), StoreError> {
    change(tx, counted.at_ms, &counted.seller, |sum| sum.saturating_sub(counted.amount))?;
    change(tx, at_ms, &counted.seller, |sum| sum.checked_add(amount).unwrap_or(Satoshis::MAX))
}

/// Notes what an order has lost: it was paid ahead, and nothing will come for it.
///
/// # Errors
/// [`StoreError`].
pub fn lose(tx: &WriteTransaction, order: &OrderId, lost: &Commitment) -> Result<(), StoreError> {
    let key = [lost.seller.to_bytes().as_slice(), order.as_bytes().as_slice()].concat();
    if lost.amount.is_zero() { LOST.remove(tx, &key) } else { LOST.put(tx, &key, lost) }
}

/// What orders with a seller have lost, oldest ones included. There are as many as orders of ours that were given up or left unpaid.
///
/// # Errors
/// [`StoreError`].
pub fn lost(
    tx: &redb::ReadTransaction,
    seller: &PublicKey,
) -> Result<Vec<(OrderId, Commitment)>, StoreError> {
    let prefix = seller.to_bytes();
    let found = LOST.scan(tx, &prefix, &prefix, usize::MAX)?;
    let lost = found.iter().filter_map(|(key, bytes)| {
        let order = OrderId(*key.get(prefix.len()..)?.first_chunk()?);
        Some(from_record(LOST.name, bytes).map(|lost| (order, lost)))
    });
    lost.collect()
}

#[cfg(test)]
mod tests {
    use sensora_chain::{Network, PrivateKey};

    use super::*;
    use crate::store::Store;

    #[derive(Debug, thiserror::Error)]
    enum Error {
        #[error(transparent)]
        Store(#[from] StoreError),
        #[error(transparent)]
        Budget(#[from] BudgetError),
    }

    const BUDGETS: Budgets = Budgets { seller_day: Satoshis::from_sat(80), day: Satoshis::from_sat(100) };

    fn seller(tag: u8) -> PublicKey {
        PrivateKey::from_bytes([tag; 32]).unwrap().public()
    }

    fn store() -> Store {
        Store::in_memory(Network::Regtest, &seller(9)).unwrap()
    }

    fn try_to(store: &Store, order: u8, tag: u8, at_ms: i64, sat: u64) -> Result<(), Error> {
        let commitment = Commitment { seller: seller(tag), at_ms, amount: Satoshis::from_sat(sat) };
        store.write(|tx| commit(tx, &BUDGETS, &OrderId([order; 32]), &commitment))
    }

    #[test]
    fn budgets_remember_what_was_committed_until_it_is_a_day_old() {
        let (store, start) = (store(), 1_700_000_000_000);
        try_to(&store, 1, 1, start, 60).unwrap();
        let full = try_to(&store, 2, 1, start + 1, 21).unwrap_err();
        assert!(matches!(full, Error::Budget(BudgetError::SellerDay { .. })), "{full}");
        try_to(&store, 3, 2, start + 2, 40).unwrap();
        let full = try_to(&store, 4, 3, start + DAY_MS - 1, 1).unwrap_err();
        assert!(matches!(full, Error::Budget(BudgetError::Day { .. })), "{full}");
        for (order, sat) in [(1, 60), (3, 40)] {
            store.write(|tx| settle(tx, &OrderId([order; 32]), Satoshis::from_sat(sat), start + 3)).unwrap();
        }
        let full = try_to(&store, 4, 3, start + DAY_MS - 1, 1).unwrap_err();
        assert!(matches!(full, Error::Budget(BudgetError::Day { .. })), "{full}");
        try_to(&store, 5, 3, start + DAY_MS + QUARTER_MS, 60).unwrap();
    }

    #[test]
    fn what_an_order_did_not_cost_is_free_again_once() {
        let (store, start) = (store(), 1_700_000_000_000);
        try_to(&store, 1, 1, start, 60).unwrap();
        for _ in 0..2 {
            store.write(|tx| settle(tx, &OrderId([1; 32]), Satoshis::from_sat(10), start)).unwrap();
        }
        let used = store.read(|tx| used(tx, &seller(1), start)).unwrap();
        assert_eq!(used.seller_day, Satoshis::from_sat(10));
        try_to(&store, 2, 1, start, 60).unwrap();
        store.write(|tx| settle(tx, &OrderId([2; 32]), Satoshis::ZERO, start)).unwrap();
        try_to(&store, 3, 1, start, 60).unwrap();
    }

    #[test]
    fn what_the_network_changes_its_mind_about_is_counted_once_or_not_at_all() {
        let (store, start) = (store(), 1_700_000_000_000);
        let (order, price) = (OrderId([1; 32]), Satoshis::from_sat(60));
        let paid = Commitment { seller: seller(1), at_ms: start, amount: price };
        let day = |now_ms| store.read(|tx| used(tx, &seller(1), now_ms)).unwrap().day;
        try_to(&store, 1, 1, start, 60).unwrap();
        for turn in 0..3 {
            let at_ms = start + turn * QUARTER_MS;
            for _ in 0..2 {
                store.write(|tx| withhold(tx, &order, price, at_ms)).unwrap();
                assert_eq!(day(at_ms), price, "the seller has it");
            }
            for _ in 0..2 {
                store.write(|tx| settle(tx, &order, Satoshis::ZERO, at_ms)).unwrap();
                assert_eq!(day(at_ms), Satoshis::ZERO, "it is back");
            }
            store.write(|tx| commit_again(tx, &order, &Commitment { at_ms, ..paid })).unwrap();
        }
        store.write(|tx| withhold(tx, &order, price, start)).unwrap();
        store.write(|tx| settle(tx, &order, price, start + DAY_MS / 2)).unwrap();
        assert_eq!(day(start + DAY_MS / 2), price, "it is delivered");
        assert_eq!(day(start + DAY_MS + 4 * QUARTER_MS), Satoshis::ZERO, "and counts from when it was paid");
    }

    #[test]
    fn an_order_that_runs_longer_than_a_day_still_counts_and_does_so_for_a_day_after_its_end() {
        let (store, start) = (store(), 1_700_000_000_000);
        try_to(&store, 1, 1, start, 60).unwrap();
        let later = start + 10 * DAY_MS;
        let used_at = |now_ms| store.read(|tx| used(tx, &seller(1), now_ms)).unwrap();
        for now_ms in [start + DAY_MS - 1, start + DAY_MS + QUARTER_MS, later] {
            assert_eq!(used_at(now_ms).seller_day, Satoshis::from_sat(60), "once, after {}", now_ms - start);
        }
        let full = try_to(&store, 2, 1, later, 21).unwrap_err();
        assert!(matches!(full, Error::Budget(BudgetError::SellerDay { .. })), "{full}");
        try_to(&store, 3, 1, later, 20).unwrap();
        store.write(|tx| settle(tx, &OrderId([1; 32]), Satoshis::from_sat(50), later)).unwrap();
        assert_eq!(used_at(later).seller_day, Satoshis::from_sat(70), "it may have paid just now");
        assert_eq!(used_at(later + DAY_MS + QUARTER_MS).seller_day, Satoshis::from_sat(20), "the other runs");
    }

    #[test]
    fn what_was_lost_is_found_by_seller() {
        let store = store();
        let lose_to = |order: u8, tag: u8, sat| {
            let lost = Commitment { seller: seller(tag), at_ms: 7, amount: Satoshis::from_sat(sat) };
            store.write(|tx| lose(tx, &OrderId([order; 32]), &lost)).unwrap();
        };
        for (order, tag, sat) in [(1, 1, 5), (2, 2, 6), (3, 1, 7), (4, 1, 0)] {
            lose_to(order, tag, sat);
        }
        let of = |tag| {
            let lost = store.read(|tx| lost(tx, &seller(tag))).unwrap();
            lost.into_iter().map(|(order, lost)| (order.0[0], lost.amount.as_u64())).collect::<Vec<_>>()
        };
        assert_eq!((of(1), of(2), of(3)), (vec![(1, 5), (3, 7)], vec![(2, 6)], Vec::new()));
    }

    #[test]
    fn a_refused_order_commits_nothing() {
        let (store, start) = (store(), 1_700_000_000_000);
        assert!(try_to(&store, 1, 1, start, 81).is_err());
        assert_eq!(store.read(|tx| used(tx, &seller(1), start)).unwrap().day, Satoshis::ZERO);
    }
}
