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

mod live;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use sensora_chain::{AmountError, Satoshis};
use serde::{Deserialize, Serialize};

pub use self::live::{Reservation, Spending};
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
