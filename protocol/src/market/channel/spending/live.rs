//! The account in use: each order holds its own reservation, whichever task it runs in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sensora_chain::Satoshis;

use super::{Lane, SpendingError, SpendingRecord};
use crate::id::OrderId;

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
