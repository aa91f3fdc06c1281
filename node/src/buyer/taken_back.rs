//! Payments whose coins were taken back, until they are back for good.
//!
//! That the network has taken what spends the coins instead is no block: whoever kept the payment may bring it into one, and a reorganisation may
//! turn a block round. Such an order is kept in view until what outdid its payment is [`SETTLED`] blocks deep (I6). The same readings are ordered anew
//! meanwhile only with a payment that excludes the old one, so that nobody is charged twice.

use std::time::Duration;

use sensora_chain::header::HeaderView as _;
use sensora_chain::wallet::Wallet;
use sensora_chain::{OutPoint, Txid};
use sensora_protocol::StreamId;
use sensora_protocol::market::key_release::coin::SETTLED;
use sensora_protocol::market::purchase::{Purchase, PurchaseEvent};
use tokio_util::sync::CancellationToken;

use super::{BuyError, Buyer, BuyerParts};
use crate::store::orders;

/// How often the orders are looked at when no new block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(30);

impl Buyer {
    /// Until cancelled: looks with each block whether coins that were taken back are back for good. Where the payment was mined after all, its seller
    /// is asked for what it was paid for.
    pub async fn run_taken_back(self, cancel: CancellationToken) {
        let mut tips = self.inner.chain.tip_watch();
        loop {
            if cancel.run_until_cancelled(self.look_at_taken_back()).await.is_none() {
                return;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = tips.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Looks at all orders whose coins were taken back once, and does what follows.
    pub async fn look_at_taken_back(&self) {
        let open = match self.inner.store.read(orders::open_purchases) {
            Ok(open) => open,
            Err(error) => {
                tracing::error!(%error, "the orders cannot be read");
                return;
            }
        };
        for purchase in open.into_iter().filter(Purchase::may_return) {
            let order = purchase.id;
            let asked = match self.look_back_at(purchase).await {
                Ok(purchase) if purchase.state.is_final() => continue,
                Ok(_) => self.drive(&order, &mut |_| {}).await.map(|_| ()),
                Err(error) => Err(error),
            };
            if let Err(error) = asked {
                tracing::warn!(%order, %error, "a payment that had been taken back is not settled");
            }
        }
    }

    /// As [`Buyer::look_back`], with what is stored when it is this task's turn.
    pub(super) async fn look_back_at(&self, purchase: Purchase) -> Result<Purchase, BuyError> {
        let _one_at_a_time = self.turns.take(&purchase.id).await;
        let mut purchase = self.purchase(&purchase.id)?;
        self.look_back(&mut purchase)?;
        Ok(purchase)
    }

    /// Whether the coins of an order that were taken back are back for good, or lost to its payment after all. Whoever calls has the order's turn.
    pub(super) fn look_back(&self, purchase: &mut Purchase) -> Result<(), BuyError> {
        let BuyerParts { wallet, chain, .. } = &*self.inner;
        let (order, payment) = (purchase.id, purchase.payment.as_ref().map(|payment| payment.txid));
        let Some(txid) = payment.filter(|_| purchase.may_return()) else { return Ok(()) };
        let event = match wallet.status(&txid) {
            Some(status) if status.is_settled() => {
                tracing::warn!(%order, %txid, "the network has a payment whose coins had been taken back");
                PurchaseEvent::NotTakenBack
            }
            Some(_) if !wallet.is_outdone(&txid, SETTLED, chain.headers().tip_height()) => return Ok(()),
            // The wallet forgets a payment only after what outdid it is buried.
            Some(_) | None => PurchaseEvent::Outdone,
        };
        self.follow(purchase, event)
    }

    /// Orders for readings of `[first, end)` whose coins are back, and may still be lost to the payment.
    pub(super) fn may_return(
        &self,
        stream: &StreamId,
        first: u64,
        end: u64,
    ) -> Result<Vec<Purchase>, BuyError> {
        let mut held = Vec::new();
        for purchase in self.inner.store.read(orders::open_purchases)? {
            let terms = purchase.terms(self.inner.network)?;
            let terms = terms.value();
            let wanted = terms.first.max(first)..terms.first.saturating_add(terms.count).min(end);
            if purchase.may_return() && &terms.stream == stream && !wanted.is_empty() {
                held.push(purchase);
            }
        }
        Ok(held)
    }

    /// No payment for readings of `[first, end)` may still come back.
    ///
    /// # Errors
    /// [`BuyError::MayReturn`].
    pub(super) fn none_may_return(&self, stream: &StreamId, first: u64, end: u64) -> Result<(), BuyError> {
        let (wallet, tip) = (&self.inner.wallet, self.inner.chain.headers().tip_height());
        let returns = |txid: &Txid| !wallet.is_outdone(txid, SETTLED, tip);
        let held = self.may_return(stream, first, end)?;
        let mut held =
            held.iter().filter_map(|purchase| Some((purchase.id, purchase.payment.as_ref()?.txid)));
        match held.find(|(_, txid)| returns(txid)) {
            Some((order, _)) => Err(BuyError::MayReturn { order }),
            None => Ok(()),
        }
    }

    /// Coins that a payment for readings of `[first, end)` must spend, so that no payment for them that may still come back is taken beside it.
    ///
    /// # Errors
    /// [`BuyError::MayReturn`] where there is no such coin.
    pub(super) fn excluding(
        &self,
        wallet: &Wallet,
        stream: &StreamId,
        first: u64,
        end: u64,
    ) -> Result<Vec<OutPoint>, BuyError> {
        let tip = self.inner.chain.headers().tip_height();
        let mut coins = Vec::new();
        for purchase in self.may_return(stream, first, end)? {
            let Some(payment) = &purchase.payment else { continue };
            if !wallet.is_outdone(&payment.txid, SETTLED, tip) {
                let coin = wallet.excluding(&payment.txid);
                coins.push(coin.ok_or(BuyError::MayReturn { order: purchase.id })?);
            }
        }
        Ok(coins)
    }
}
