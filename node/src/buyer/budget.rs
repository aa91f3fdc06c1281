//! What orders commit of the buyer's budgets, and give back when they end.

use redb::WriteTransaction;
use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::OrderId;
use sensora_protocol::market::budget::{Budgets, Commitment, Used};
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::key_release::buy::{BatchPurchase, BatchPurchaseState};
use sensora_protocol::market::purchase::{Purchase, PurchaseState};

use super::{BuyError, Buyer};
use crate::store::{StoreError, budget};

impl Buyer {
    /// Commits what an order may cost; in the same change as the order.
    ///
    /// # Errors
    /// [`BuyError::Budget`], [`BuyError::Frozen`]; nothing is to be stored then.
    pub(super) fn commit(
        &self,
        tx: &WriteTransaction,
        order: &OrderId,
        seller: &PublicKey,
        amount: Satoshis,
    ) -> Result<(), BuyError> {
        self.inner.wallet.freeze().check()?;
        let commitment = Commitment { seller: *seller, at_ms: self.inner.clock.now_ms(), amount };
        budget::commit(tx, &self.inner.budgets, order, &commitment)
    }

    /// The budgets, and what of them is used with a seller and in all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn budgets(&self, seller: &PublicKey) -> Result<(Budgets, Used), StoreError> {
        let now_ms = self.inner.clock.now_ms();
        let used = self.inner.store.read(|tx| budget::used(tx, seller, now_ms))?;
        Ok((self.inner.budgets, used))
    }
}

/// Gives back what an order did not cost, once that is known.
pub(super) fn settle(
    tx: &WriteTransaction,
    purchase: &Purchase,
    total: Satoshis,
    now_ms: i64,
) -> Result<(), StoreError> {
    match purchase.state {
        PurchaseState::TakenBack { .. } | PurchaseState::GivenUp => {
            budget::settle(tx, &purchase.id, Satoshis::ZERO, now_ms)
        }
        // The seller has the money, whatever still comes for it.
        PurchaseState::Delivering { .. } | PurchaseState::Complete { .. } => {
            budget::settle(tx, &purchase.id, total, now_ms)
        }
        // As far as is known: the network may change its mind.
        PurchaseState::Withheld { .. } => budget::withhold(tx, &purchase.id, total, now_ms),
        PurchaseState::Agreed
        | PurchaseState::Paying
        | PurchaseState::Refused { .. }
        | PurchaseState::GivingUp => Ok(()),
    }
}

/// Settles what an order on a channel has committed once it has ended with `paid`. What it has paid ahead to a seller that was left or has closed
/// is noted as lost: with that seller so much less is paid ahead from then on. No order pays more ahead than its `exposure`, whatever its
/// reservation may have paid.
pub(super) fn settle_on_channel(
    tx: &WriteTransaction,
    purchase: &ChannelPurchase,
    (paid, exposure): (Satoshis, Satoshis),
    now_ms: i64,
) -> Result<(), StoreError> {
    budget::settle(tx, &purchase.id, paid, now_ms)?;
    let lost = lost_by(&purchase.state, exposure);
    budget::lose(tx, &purchase.id, &Commitment { seller: purchase.seller, at_ms: now_ms, amount: lost })
}

/// What an order that is in this state has lost.
pub(super) fn lost_by(state: &ChannelPurchaseState, exposure: Satoshis) -> Satoshis {
    match state {
        ChannelPurchaseState::LeftUnpaid { paid, due } | ChannelPurchaseState::GivenUp { paid, due } => {
            paid.saturating_sub(*due).min(exposure)
        }
        ChannelPurchaseState::Running
        | ChannelPurchaseState::Stopping { .. }
        | ChannelPurchaseState::Ended { .. }
        | ChannelPurchaseState::Refused { .. } => Satoshis::ZERO,
    }
}

/// The same of a batch. A coin that its cheating seller has taken may still be had back as long as the order is looked after.
pub(super) fn settle_release(
    tx: &WriteTransaction,
    purchase: &BatchPurchase,
    total: Satoshis,
    watched: bool,
    now_ms: i64,
) -> Result<(), StoreError> {
    let cost = match &purchase.state {
        // What took its place is not deep yet: the seller may still win the coin.
        BatchPurchaseState::TakenBack { .. } if watched => return Ok(()),
        BatchPurchaseState::Dropped | BatchPurchaseState::TakenBack { .. } | BatchPurchaseState::Refunded => {
            Satoshis::ZERO
        }
        BatchPurchaseState::Complete | BatchPurchaseState::Unreadable { .. } => total,
        BatchPurchaseState::Cheated { .. } if watched => return Ok(()),
        BatchPurchaseState::Cheated { .. } if purchase.credited.is_some() => Satoshis::ZERO,
        BatchPurchaseState::Cheated { .. } => total,
        _ => return Ok(()),
    };
    budget::settle(tx, &purchase.id, cost, now_ms)
}
