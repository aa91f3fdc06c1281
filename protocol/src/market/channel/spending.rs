//! The buyer's account of a channel: what each order has been promised and paid out of it.
//!
//! Many orders run on one channel at a time, each in a lane of its own. An order first *reserves* what it may come to cost; what
//! it pays is moved out of its own reservation; what it does not need is released when it ends. So
//! Σ paid + Σ reserved ≤ capacity, whatever runs at the same time.
//!
//! A voucher is for Σ paid. When an order ends, it has paid what its receipt says, which is what is due; what it had paid ahead is free again, whether the
//! voucher for it has arrived or not. The next voucher may then be for less than one that is out. A seller that closes by itself takes the highest that
//! it has, one that is asked to close takes what is booked; [`SpendingRecord::highest`] keeps in sight what it could.
//!
//! A reservation is stored before the first voucher out of it, and no voucher needs the disk
//! after that: a crash can only forget payments that were reserved, and the seller shows by our own signature how far it got.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sensora_chain::{AmountError, Satoshis};
use serde::{Deserialize, Serialize};

use crate::id::OrderId;

/// Most orders that run on one channel at a time. Each is about a hundred bytes in the channel's record.
pub const MAX_LANES: usize = 256;

/// One order's part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// What its vouchers have paid. In a record that was read after a crash: at least so much.
    pub paid: Satoshis,
    /// What it may still pay. In a record that was read after a crash: some of it may have been paid.
    pub reserved: Satoshis,
}

/// The account as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendingRecord {
    /// What may be paid at all: the channel's value less the fee of its close.
    pub capacity: Satoshis,
    /// What was paid by orders that have ended.
    pub ended: Satoshis,
    /// The orders that run.
    pub lanes: BTreeMap<OrderId, Lane>,
    /// No voucher that was signed is for more than this, or than what is paid and reserved, if that is more.
    pub highest: Satoshis,
}

/// What an order has paid when the buyer's own memory of it was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The order.
    pub order: OrderId,
    /// What it has paid in all, as the seller says.
    pub paid: Satoshis,
    /// What is due for the readings that the buyer has of it, by its own record.
    pub due: Satoshis,
}

/// Why an order gets nothing (more) out of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpendingError {
    /// Others have reserved or paid the rest.
    #[error(
        "the channel has {free} left of its capacity, the order asks for {asked}: open another, or wait until another order ends"
    )]
    Insufficient {
        /// What was asked for.
        asked: Satoshis,
        /// What is left.
        free: Satoshis,
    },
    /// More orders than a channel carries.
    #[error("{MAX_LANES} orders run on the channel already: wait until one of them ends")]
    TooManyOrders,
    /// The order has a reservation already.
    #[error("order {0} runs on this channel already")]
    AlreadyReserved(OrderId),
    /// The order pays less than before.
    #[error("the order has paid {paid} already, {asked} is less")]
    Lower {
        /// What was asked for.
        asked: Satoshis,
        /// What was paid.
        paid: Satoshis,
    },
    /// The order pays more than it has reserved.
    #[error("the order may pay {limit} in all, {asked} is more")]
    AboveReservation {
        /// What was asked for.
        asked: Satoshis,
        /// What is paid and reserved.
        limit: Satoshis,
    },
    /// The seller says that orders have paid more than it has a voucher for.
    #[error("the seller says that {claimed} was paid on the channel, its highest voucher is for {highest}")]
    Claims {
        /// What it says.
        claimed: Satoshis,
        /// What it can prove.
        highest: Satoshis,
    },
    /// A sum above all money: the record was altered.
    #[error(transparent)]
    Amount(#[from] AmountError),
}

impl SpendingRecord {
    /// Nothing is spent.
    #[must_use]
    pub const fn new(capacity: Satoshis) -> Self {
        Self { capacity, ended: Satoshis::ZERO, lanes: BTreeMap::new(), highest: Satoshis::ZERO }
    }

    /// What has been paid: the amount of the next voucher, less what that pays.
    ///
    /// # Errors
    /// [`SpendingError::Amount`] for a record that was altered.
    pub fn paid(&self) -> Result<Satoshis, SpendingError> {
        Ok(self.ended.checked_add(Satoshis::sum(self.lanes.values().map(|lane| lane.paid))?)?)
    }

    /// What is promised to orders and not paid.
    ///
    /// # Errors
    /// [`SpendingError::Amount`] for a record that was altered.
    pub fn reserved(&self) -> Result<Satoshis, SpendingError> {
        Ok(Satoshis::sum(self.lanes.values().map(|lane| lane.reserved))?)
    }

    /// The most that can have been paid by vouchers that are out.
    ///
    /// # Errors
    /// [`SpendingError::Amount`] for a record that was altered.
    pub fn promised(&self) -> Result<Satoshis, SpendingError> {
        Ok(self.paid()?.checked_add(self.reserved()?)?)
    }

    /// What no order has been promised.
    ///
    /// # Errors
    /// [`SpendingError::Amount`] for a record that was altered.
    pub fn free(&self) -> Result<Satoshis, SpendingError> {
        Ok(self.capacity.saturating_sub(self.promised()?))
    }

    fn reserve(&mut self, order: OrderId, amount: Satoshis) -> Result<(), SpendingError> {
        let free = self.free()?;
        if amount > free {
            return Err(SpendingError::Insufficient { asked: amount, free });
        }
        if !self.lanes.contains_key(&order) && self.lanes.len() >= MAX_LANES {
            return Err(SpendingError::TooManyOrders);
        }
        let lane = self.lanes.entry(order).or_default();
        lane.reserved = lane.reserved.checked_add(amount)?;
        Ok(())
    }

    fn pay_to(&mut self, order: &OrderId, to: Satoshis) -> Result<Satoshis, SpendingError> {
        let lane = self.lanes.get(order).copied().unwrap_or_default();
        let more =
            to.checked_sub(lane.paid).map_err(|_| SpendingError::Lower { asked: to, paid: lane.paid })?;
        let Ok(reserved) = lane.reserved.checked_sub(more) else {
            let limit = lane.paid.checked_add(lane.reserved)?;
            return Err(SpendingError::AboveReservation { asked: to, limit });
        };
        // An old record may have promised what orders that it does not know have paid.
        let free = self.capacity.saturating_sub(self.paid()?);
        if more > free {
            return Err(SpendingError::Insufficient { asked: more, free });
        }
        if !more.is_zero() {
            self.lanes.insert(*order, Lane { paid: to, reserved });
        }
        let paid = self.paid()?;
        self.highest = self.highest.max(paid);
        Ok(paid)
    }

    /// After a crash: finds again what the vouchers that are out have paid, from what the seller says: of each order, and `booked` of all of them, up to
    /// `highest`, which our own signature proves. What the highest voucher pays beyond `booked` was paid ahead, and pays for what comes.
    ///
    /// What of `booked` belongs to none of the claims was paid by orders that an old backup does not know. It is booked as paid to no order, and returned, where
    /// this record may be such a backup: `restored` says so, or a voucher that is higher than any that it can have signed. Else no such order exists, and
    /// nothing is returned: `booked` is the seller's bare word, and by it what orders that have ended had paid ahead would be taken once more.
    ///
    /// The seller's word alone would let it deny what an order has paid and be paid for the same readings once more. But an order has
    /// paid what is due for its readings, the last voucher perhaps excepted, and never more than `exposure`, the buyer's with this
    /// seller, beyond it. So a claim is believed up to there; then what is due goes before what is claimed.
    ///
    /// # Errors
    /// [`SpendingError::Claims`] where the seller says more than the voucher; nothing has changed then.
    pub fn learn(
        &mut self,
        highest: Satoshis,
        booked: Satoshis,
        claims: &[Claim],
        exposure: Satoshis,
        restored: bool,
    ) -> Result<Satoshis, SpendingError> {
        if booked > highest {
            return Err(SpendingError::Claims { claimed: booked, highest });
        }
        let before = self.paid()?;
        // The reservations cover what was signed since the record was stored, whether the seller shows it now or keeps it for later.
        let signed = self.highest.max(self.promised()?);
        let mut all = self.clone();
        let mut next = self.clone();
        for claim in claims {
            all.raise(&claim.order, claim.paid, all.capacity)?;
        }
        let claimed = all.paid()?;
        if claimed > highest.max(before) {
            return Err(SpendingError::Claims { claimed, highest });
        }
        for claim in claims {
            let most = claim.due.checked_add(exposure).unwrap_or(Satoshis::MAX);
            next.raise(&claim.order, claim.paid.min(most), highest)?;
        }
        for claim in claims {
            next.raise(&claim.order, claim.due, highest)?;
        }
        for claim in claims {
            next.raise(&claim.order, claim.paid, highest)?;
        }
        let unclaimed = match restored || highest > signed {
            true => booked.saturating_sub(next.paid()?),
            false => Satoshis::ZERO,
        };
        next.ended = next.ended.checked_add(unclaimed)?;
        next.highest = next.highest.max(highest).max(signed);
        *self = next;
        Ok(unclaimed)
    }

    /// An order has paid as much as `to`, as far as it had reserved that and all orders together have not paid more than `most`.
    fn raise(&mut self, order: &OrderId, to: Satoshis, most: Satoshis) -> Result<(), SpendingError> {
        let Some(lane) = self.lanes.get(order).copied() else { return Ok(()) };
        let most = lane.paid.checked_add(most.saturating_sub(self.paid()?).min(lane.reserved))?;
        self.pay_to(order, to.min(most).max(lane.paid)).map(|_| ())
    }

    fn release(&mut self, order: &OrderId) {
        if let Some(lane) = self.lanes.get_mut(order) {
            lane.reserved = Satoshis::ZERO;
            if lane.paid.is_zero() {
                self.lanes.remove(order);
            }
        }
    }

    fn forfeit(&mut self, order: &OrderId) -> Result<Satoshis, SpendingError> {
        let lane = self.lanes.get(order).copied().unwrap_or_default();
        let all = lane.paid.checked_add(lane.reserved)?;
        self.ended = self.ended.checked_add(all)?;
        self.lanes.remove(order);
        Ok(all)
    }

    fn end(&mut self, order: &OrderId, receipted: Satoshis) -> Result<(), SpendingError> {
        let paid = self.lanes.get(order).map_or(Satoshis::ZERO, |lane| lane.paid);
        if receipted > paid {
            return Err(SpendingError::Claims { claimed: receipted, highest: paid });
        }
        self.ended = self.ended.checked_add(receipted)?;
        self.lanes.remove(order);
        Ok(())
    }
}

/// The account in use. Cheap to clone; orders in different tasks share it.
#[derive(Debug, Clone)]
pub struct Spending {
    record: Arc<Mutex<SpendingRecord>>,
}

impl Spending {
    /// The account with this record.
    #[must_use]
    pub fn new(record: SpendingRecord) -> Self {
        Self { record: Arc::new(Mutex::new(record)) }
    }

    fn lock(&self) -> MutexGuard<'_, SpendingRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account as it is now. A stored one may be behind: then it has more reserved and less paid, never more free.
    #[must_use]
    pub fn record(&self) -> SpendingRecord {
        self.lock().clone()
    }

    /// Reserves `amount` for an order, in addition to what it has paid before. `store` makes the new record durable before the
    /// reservation exists; where it fails, nothing is reserved.
    ///
    /// # Errors
    /// [`SpendingError`], or what `store` says.
    pub fn reserve<E: From<SpendingError>>(
        &self,
        order: OrderId,
        amount: Satoshis,
        store: impl FnOnce(&SpendingRecord) -> Result<(), E>,
    ) -> Result<Reservation, E> {
        let mut record = self.lock();
        if record.lanes.get(&order).is_some_and(|lane| !lane.reserved.is_zero()) {
            return Err(SpendingError::AlreadyReserved(order).into());
        }
        let mut next = record.clone();
        next.reserve(order, amount)?;
        store(&next)?;
        *record = next;
        Ok(Reservation { spending: self.clone(), order, left: false })
    }

    /// Takes up the reservation of an order that ran when the node stopped, as it was stored.
    #[must_use]
    pub fn take_up(&self, order: OrderId) -> Option<Reservation> {
        let known = self.lock().lanes.contains_key(&order);
        known.then(|| Reservation { spending: self.clone(), order, left: false })
    }
}

/// What one order may pay. Dropping it releases what was not paid; the lane stays, so that the order can go on later.
#[derive(Debug)]
#[must_use = "dropping a reservation releases it"]
pub struct Reservation {
    spending: Spending,
    order: OrderId,
    left: bool,
}

impl Reservation {
    fn lane(&self) -> Lane {
        self.spending.lock().lanes.get(&self.order).copied().unwrap_or_default()
    }

    /// The order.
    #[must_use]
    pub fn order(&self) -> OrderId {
        self.order
    }

    /// What the order has paid.
    #[must_use]
    pub fn paid(&self) -> Satoshis {
        self.lane().paid
    }

    /// What it may still pay.
    #[must_use]
    pub fn left(&self) -> Satoshis {
        self.lane().reserved
    }

    /// Pays until the order has paid `to` in all. Returns the amount of the channel's voucher for it, which is higher than any before unless
    /// the order had paid as much already.
    ///
    /// # Errors
    /// [`SpendingError::Lower`], [`SpendingError::AboveReservation`]; nothing has changed then.
    pub fn pay_to(&mut self, to: Satoshis) -> Result<Satoshis, SpendingError> {
        self.spending.lock().pay_to(&self.order, to)
    }

    /// Reserves more for the same order; as [`Spending::reserve`].
    ///
    /// # Errors
    /// [`SpendingError`], or what `store` says.
    pub fn extend<E: From<SpendingError>>(
        &mut self,
        amount: Satoshis,
        store: impl FnOnce(&SpendingRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut record = self.spending.lock();
        let mut next = record.clone();
        next.reserve(self.order, amount)?;
        store(&next)?;
        *record = next;
        Ok(())
    }

    /// Leaves the reservation as it is, for whoever takes the order up with [`Spending::take_up`].
    pub fn leave(self) {
        let mut left = self;
        left.left = true;
    }

    /// The order has ended, and the seller's receipt says that it paid `receipted`. That is final; all else that it had is free.
    ///
    /// # Errors
    /// [`SpendingError::Claims`] for a receipt over more than was paid.
    pub fn end(self, receipted: Satoshis) -> Result<(), SpendingError> {
        self.spending.lock().end(&self.order, receipted)
    }
}

impl Reservation {
    /// The order is given up, and nobody can be asked what its vouchers have paid: this record is from before a start, and the seller does not
    /// answer. All that it had reserved counts as paid, for the vouchers may be out. Returns how much that is.
    ///
    /// # Errors
    /// [`SpendingError::Amount`] for a record that was altered.
    pub fn forfeit(self) -> Result<Satoshis, SpendingError> {
        self.spending.lock().forfeit(&self.order)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        self.spending.lock().release(&self.order);
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

    fn order(tag: u8) -> OrderId {
        OrderId([tag; 32])
    }

    fn stored(_: &SpendingRecord) -> Result<(), SpendingError> {
        Ok(())
    }

    #[test]
    fn an_order_pays_out_of_its_own_reservation_only() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
        let mut b = spending.reserve(order(2), sat(40), stored).unwrap();
        let refused = spending.reserve(order(3), sat(1), stored).unwrap_err();
        assert_eq!(refused, SpendingError::Insufficient { asked: sat(1), free: Satoshis::ZERO });
        assert_eq!(a.pay_to(sat(10)), Ok(sat(10)));
        assert_eq!(b.pay_to(sat(40)), Ok(sat(50)));
        assert_eq!(
            a.pay_to(sat(61)),
            Err(SpendingError::AboveReservation { asked: sat(61), limit: sat(60) })
        );
        assert_eq!(a.pay_to(sat(9)), Err(SpendingError::Lower { asked: sat(9), paid: sat(10) }));
        assert_eq!(a.pay_to(sat(10)), Ok(sat(50)), "paying nothing more is the same voucher");
        assert_eq!(b.end(sat(40)), Ok(()));
        drop(a);
        let record = spending.record();
        assert_eq!((record.paid(), record.free()), (Ok(sat(50)), Ok(sat(50))));
    }

    #[test]
    fn an_order_whose_last_voucher_was_lost_has_paid_what_its_receipt_says() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
        a.pay_to(sat(30)).unwrap();
        assert_eq!(a.end(sat(25)), Ok(()));
        let record = spending.record();
        assert_eq!((record.ended, record.highest, record.free()), (sat(25), sat(30), Ok(sat(75))));
        let mut b = spending.reserve(order(2), sat(10), stored).unwrap();
        assert_eq!(b.pay_to(sat(3)), Ok(sat(28)));
        let more = SpendingError::Claims { claimed: sat(4), highest: sat(3) };
        assert_eq!(b.end(sat(4)), Err(more));
    }

    #[test]
    fn nothing_is_reserved_that_is_not_stored() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        let before = spending.record();
        let failed = spending.reserve(order(1), sat(60), |_| Err(SpendingError::TooManyOrders));
        assert_eq!(failed.unwrap_err(), SpendingError::TooManyOrders);
        assert_eq!(spending.record(), before);
        let mut seen = None;
        let reservation = spending.reserve(order(1), sat(60), |record| {
            seen = Some(record.clone());
            Ok::<_, SpendingError>(())
        });
        assert_eq!(seen, Some(spending.record()));
        drop(reservation);
        assert_eq!(spending.record(), before);
    }

    #[test]
    fn a_channel_carries_so_many_orders_and_no_more() {
        let spending = Spending::new(SpendingRecord::new(sat(10_000)));
        let id = |n: usize| OrderId([(n / 256) as u8, (n % 256) as u8].repeat(16).try_into().unwrap());
        let held: Vec<_> = (0..MAX_LANES).map(|n| spending.reserve(id(n), sat(1), stored).unwrap()).collect();
        let refused = spending.reserve(id(MAX_LANES), sat(1), stored).unwrap_err();
        assert_eq!(refused, SpendingError::TooManyOrders);
        assert_eq!(
            spending.reserve(id(0), sat(1), stored).unwrap_err(),
            SpendingError::AlreadyReserved(id(0))
        );
        drop(held);
        assert!(spending.reserve(id(MAX_LANES), sat(1), stored).is_ok());
    }

    #[test]
    fn after_a_crash_the_sellers_word_is_believed_within_what_was_reserved() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
        let record = spending.record();
        a.pay_to(sat(25)).unwrap();
        // The crash: what is on disk knows nothing of the 25.
        std::mem::forget(a);
        let claims = Err(SpendingError::Claims { claimed: sat(30), highest: sat(25) });
        let cases = [
            (25, 25, Ok(0), 25),
            (80, 80, Ok(20), 60),
            (0, 25, Ok(0), 0),
            (30, 25, claims, 0),
            (60, 60, Ok(0), 60),
        ];
        for (claimed, highest, unclaimed, paid) in cases {
            let mut again = record.clone();
            let claim = Claim { order: order(1), paid: sat(claimed), due: Satoshis::ZERO };
            let learned = again.learn(sat(highest), sat(highest), &[claim], Satoshis::MAX, false);
            assert_eq!(learned, unclaimed.map(sat));
            let again = Spending::new(again);
            assert_eq!(again.take_up(order(1)).unwrap().paid(), sat(paid), "{claimed} of {highest}");
        }
        assert!(Spending::new(record).take_up(order(2)).is_none());
    }

    #[test]
    fn a_seller_that_denies_what_it_was_paid_is_not_paid_again() {
        // Two orders have brought readings for 60 each and paid for them, one of them 4 ahead; the crash has forgotten all of it.
        let spending = Spending::new(SpendingRecord::new(sat(300)));
        let a = spending.reserve(order(1), sat(100), stored).unwrap();
        let b = spending.reserve(order(2), sat(100), stored).unwrap();
        let record = spending.record();
        std::mem::forget((a, b));
        let learned = |highest, exposure, said: [u64; 2]| {
            let mut again = record.clone();
            let claim = |tag: u8, paid| Claim { order: order(tag), paid: sat(paid), due: sat(60) };
            let claims = [claim(1, said[0]), claim(2, said[1])];
            let mut restored = record.clone();
            let unclaimed = restored.learn(sat(highest), sat(highest), &claims, sat(exposure), true).unwrap();
            assert_eq!(restored.paid(), Ok(sat(highest)));
            let nothing = again.learn(sat(highest), sat(highest), &claims, sat(exposure), false);
            assert_eq!((nothing, &again.lanes), (Ok(Satoshis::ZERO), &restored.lanes));
            assert_eq!(again.ended, Satoshis::ZERO, "no order is unknown where nothing was restored");
            ([1, 2].map(|tag| again.lanes[&order(tag)].paid.as_u64()), unclaimed.as_u64())
        };
        assert_eq!(learned(124, 8, [60, 64]), ([60, 64], 0), "the truth is believed");
        assert_eq!(
            learned(124, 8, [60, 50]),
            ([60, 60], 4),
            "a lost voucher was for what is due, or a little ahead"
        );
        assert_eq!(learned(124, 8, [0, 0]), ([60, 60], 4), "denied");
        assert_eq!(learned(124, 8, [100, 24]), ([68, 56], 0), "moved: by no more than the exposure");
        assert_eq!(learned(120, 8, [60, 60]), ([60, 60], 0));
        assert_eq!(learned(115, 8, [51, 64]), ([51, 64], 0), "the voucher for the last readings was lost");
    }

    #[test]
    fn a_lost_voucher_that_another_orders_covers_is_booked_to_no_order() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        let mut a = spending.reserve(order(1), sat(40), stored).unwrap();
        let mut b = spending.reserve(order(2), sat(40), stored).unwrap();
        let record = spending.record();
        // The voucher of the first is lost, the one of the second covers it; both are forgotten in the crash.
        assert_eq!((a.pay_to(sat(10)), b.pay_to(sat(5))), (Ok(sat(10)), Ok(sat(15))));
        std::mem::forget((a, b));
        let claim = |tag: u8, paid, due| Claim { order: order(tag), paid: sat(paid), due: sat(due) };
        let learn = |booked, claims: &[Claim]| {
            let mut again = record.clone();
            again
                .learn(sat(15), sat(booked), claims, sat(8), true)
                .map(|unclaimed| (unclaimed, again.paid().unwrap()))
        };
        let nothing = Satoshis::ZERO;
        assert_eq!(
            learn(5, &[claim(1, 0, 0), claim(2, 5, 4)]),
            Ok((nothing, sat(5))),
            "the 10 pay for what comes"
        );
        assert_eq!(
            learn(5, &[claim(1, 0, 8), claim(2, 5, 4)]),
            Ok((nothing, sat(13))),
            "what is due goes first"
        );
        assert_eq!(
            learn(15, &[claim(1, 0, 0), claim(2, 5, 4)]),
            Ok((sat(10), sat(15))),
            "an order that is not known"
        );
        let more = Err(SpendingError::Claims { claimed: sat(16), highest: sat(15) });
        assert_eq!(learn(16, &[claim(1, 0, 0), claim(2, 5, 4)]), more);
    }

    #[test]
    fn an_order_that_is_given_up_unasked_has_paid_all_that_it_had_reserved() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        let mut a = spending.reserve(order(1), sat(40), stored).unwrap();
        a.pay_to(sat(10)).unwrap();
        assert_eq!(a.forfeit(), Ok(sat(40)));
        let record = spending.record();
        assert_eq!((record.ended, record.lanes.len(), record.free()), (sat(40), 0, Ok(sat(60))));
    }

    #[test]
    fn an_old_record_never_pays_more_than_there_is() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        std::mem::forget(spending.reserve(order(1), sat(60), stored).unwrap());
        let mut record = spending.record();
        // Orders that the record does not know have paid 70.
        assert_eq!(record.learn(sat(70), sat(70), &[], Satoshis::ZERO, false), Ok(sat(70)));
        let mut a = Spending::new(record).take_up(order(1)).unwrap();
        assert_eq!(a.pay_to(sat(30)), Ok(sat(100)));
        let nothing = SpendingError::Insufficient { asked: sat(1), free: Satoshis::ZERO };
        assert_eq!(a.pay_to(sat(31)), Err(nothing));
    }

    #[test]
    fn what_an_order_had_paid_ahead_is_not_taken_again_at_the_next_start() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
        a.pay_to(sat(50)).unwrap();
        a.end(sat(30)).unwrap();
        let mut record = spending.record();
        for _ in 0..3 {
            // The seller says that the 20 which are free again were paid by somebody.
            let learned = record.learn(sat(50), sat(50), &[], sat(20), false);
            assert_eq!((learned, record.ended, record.free()), (Ok(Satoshis::ZERO), sat(30), Ok(sat(70))));
        }
        assert_eq!(
            record.learn(sat(50), sat(50), &[], sat(20), true),
            Ok(sat(20)),
            "after an old backup it may be so"
        );
    }

    #[test]
    fn a_voucher_that_was_kept_back_does_not_prove_later_that_a_record_is_old() {
        let spending = Spending::new(SpendingRecord::new(sat(100)));
        let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
        let mut record = spending.record();
        a.pay_to(sat(50)).unwrap();
        // The crash; the seller shows nothing of the 50, and the order ends with 42.
        std::mem::forget(a);
        let claim = Claim { order: order(1), paid: Satoshis::ZERO, due: sat(42) };
        record.learn(Satoshis::ZERO, Satoshis::ZERO, &[claim], sat(8), false).unwrap();
        let spending = Spending::new(record);
        let mut a = spending.take_up(order(1)).unwrap();
        a.pay_to(sat(42)).unwrap();
        a.end(sat(42)).unwrap();
        let mut record = spending.record();
        assert_eq!(record.learn(sat(50), sat(50), &[], sat(8), false), Ok(Satoshis::ZERO));
        assert_eq!(record.paid(), Ok(sat(42)));
    }

    #[test]
    fn sixty_four_orders_at_once_never_reserve_more_than_there_is() {
        let spending = Spending::new(SpendingRecord::new(sat(1_000)));
        std::thread::scope(|scope| {
            for tag in 0..64 {
                let spending = spending.clone();
                scope.spawn(move || {
                    for round in 0..50 {
                        let Ok(mut mine) = spending.reserve(order(tag), sat(40), stored) else { continue };
                        let before = mine.paid().as_u64();
                        let to = sat(before + (round % 3));
                        let voucher = mine.pay_to(to).unwrap();
                        let record = spending.record();
                        assert!(voucher <= record.paid().unwrap());
                        assert!(record.promised().unwrap() <= record.capacity);
                    }
                });
            }
        });
        let record = spending.record();
        assert_eq!(record.reserved(), Ok(Satoshis::ZERO));
        assert!(record.paid().unwrap() <= record.capacity);
    }

    proptest! {
        #[test]
        fn vouchers_only_grow_and_nothing_is_promised_twice(
            capacity in 0u64..500,
            steps in prop::collection::vec((0u8..5, 0u8..4, 0u64..200), 1..80),
        ) {
            let spending = Spending::new(SpendingRecord::new(sat(capacity)));
            let mut held: BTreeMap<u8, Reservation> = BTreeMap::new();
            let (mut highest, mut disk) = (0, spending.record());
            for (what, tag, amount) in steps {
                match what {
                    0 => {
                        let result = spending.reserve(order(tag), sat(amount), |record| {
                            disk = record.clone();
                            Ok::<_, SpendingError>(())
                        });
                        if let Ok(reservation) = result {
                            held.insert(tag, reservation);
                        }
                    }
                    1 | 2 => {
                        if let Some(reservation) = held.get_mut(&tag)
                            && let Ok(voucher) = reservation.pay_to(sat(amount))
                        {
                            prop_assert!(voucher.as_u64() >= highest);
                            highest = voucher.as_u64();
                        }
                    }
                    3 => drop(held.remove(&tag)),
                    _ => if let Some(reservation) = held.remove(&tag) {
                        let paid = reservation.paid();
                        reservation.end(paid).unwrap();
                    },
                }
                let record = spending.record();
                prop_assert!(record.promised().unwrap() <= sat(capacity));
                prop_assert_eq!(record.paid().unwrap().as_u64(), highest);
                // What a crash would leave covers every voucher that is out.
                prop_assert!(disk.promised().unwrap().max(disk.highest).as_u64() >= highest);
            }
        }
    }
}
