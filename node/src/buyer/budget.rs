//! What orders commit of the buyer's budgets, and give back when they end.

use redb::WriteTransaction;
use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::OrderId;
use sensora_protocol::market::budget::{Budgets, Commitment, Used};
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

/// Gives back what an order that has ended did not cost.
pub(super) fn settle(tx: &WriteTransaction, purchase: &Purchase, total: Satoshis) -> Result<(), StoreError> {
    match purchase.state {
        PurchaseState::TakenBack { .. } => budget::settle(tx, &purchase.id, Satoshis::ZERO),
        PurchaseState::Complete { .. } => budget::settle(tx, &purchase.id, total),
        _ => Ok(()),
    }
}

/// The same of a batch. A coin that its cheating seller has taken may still be had back as long as the order is looked after.
pub(super) fn settle_release(
    tx: &WriteTransaction,
    purchase: &BatchPurchase,
    total: Satoshis,
    watched: bool,
) -> Result<(), StoreError> {
    let cost = match &purchase.state {
        BatchPurchaseState::Dropped | BatchPurchaseState::TakenBack { .. } | BatchPurchaseState::Refunded => {
            Satoshis::ZERO
        }
        BatchPurchaseState::Complete | BatchPurchaseState::Unreadable { .. } => total,
        BatchPurchaseState::Cheated { .. } if watched => return Ok(()),
        BatchPurchaseState::Cheated { .. } if purchase.credited.is_some() => Satoshis::ZERO,
        BatchPurchaseState::Cheated { .. } => total,
        _ => return Ok(()),
    };
    budget::settle(tx, &purchase.id, cost)
}
