//! Payments whose coins were taken back, until they are back for good.
//!
//! That the network has taken what spends the coins instead is no block: whoever kept the payment may bring it into one, and a reorganisation may
//! turn a block round. Such an order is kept in view until what outdid its payment is [`SETTLED`] blocks deep (I6). The same readings are ordered anew
//! meanwhile only with a payment that excludes the old one, so that nobody is charged twice.

use std::collections::HashMap;
use std::time::Duration;

use sensora_chain::wallet::{Status, Wallet};
use sensora_chain::{OutPoint, Txid};
use sensora_protocol::market::key_release::coin::SETTLED;
use sensora_protocol::market::purchase::{Purchase, PurchaseEvent};
use sensora_protocol::{OrderId, StreamId};
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{BuyError, Buyer};
use crate::pace::Pace;
use crate::store::orders;

/// How often the orders are looked at when no new block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Most sellers that are asked at a time: one that keeps us waiting holds up no other.
const MAX_ASKED: usize = 8;

/// The sellers that are asked for what they were paid for, and when they were asked last.
#[derive(Default)]
struct Asking {
    tasks: JoinSet<Result<(), BuyError>>,
    orders: HashMap<task::Id, OrderId>,
    pace: Pace<OrderId>,
}

impl Asking {
    fn begin(&mut self, buyer: &Buyer, orders: &[OrderId]) {
        self.pace.keep(|order| orders.contains(order));
        for order in orders {
            if self.orders.len() >= MAX_ASKED {
                return;
            }
            let is_asked = self.orders.values().any(|asked| asked == order);
            if !is_asked && self.pace.is_due(order) {
                self.pace.tries(order);
                let (buyer, order) = (buyer.clone(), *order);
                let asking = self.tasks.spawn(async move { buyer.drive(&order, &mut |_| {}).await.map(|_| ()) });
                self.orders.insert(asking.id(), order);
            }
        }
    }

    /// Comes back when one has ended; never where none is asked.
    async fn next(&mut self) {
        let Some(ended) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
        let task = ended.as_ref().map_or_else(task::JoinError::id, |(task, _)| *task);
        let Some(order) = self.orders.remove(&task) else { return };
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((_, Err(error))) => {
                tracing::warn!(%order, %error, "a payment that had been taken back is not settled; its seller is asked again later");
            }
            Err(error) => tracing::error!(%order, %error, "asking a seller has ended early"),
        }
    }
}

impl Buyer {
    /// Until cancelled: looks with each block whether coins that were taken back are back for good. Where the payment was mined after all, its seller
    /// is asked for what it was paid for, until the order is over.
    pub async fn run_taken_back(self, cancel: CancellationToken) {
        let (mut tips, mut asking) = (self.inner.chain.tip_watch(), Asking::default());
        loop {
            let to_ask = self.blocking(|buyer| Ok(buyer.look_at_taken_back())).await;
            asking.begin(&self, &to_ask.unwrap_or_default());
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = tips.changed() => if changed.is_err() { return },
                () = asking.next() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Looks at all orders whose coins were taken back once, stores what follows, and says whose sellers are to be asked. Those that somebody works on
    /// are looked at by whoever does.
    pub fn look_at_taken_back(&self) -> Vec<OrderId> {
        let open = match self.inner.store.read(orders::open_purchases) {
            Ok(open) => open,
            Err(error) => {
                tracing::error!(%error, "the orders cannot be read");
                return Vec::new();
            }
        };
        let mut to_ask = Vec::new();
        for purchase in open.into_iter().filter(|purchase| purchase.may_return() || purchase.is_asked_for()) {
            let order = purchase.id;
            let Some(_turn) = self.turns.try_take(&order) else { continue };
            let looked = self.purchase(&order).and_then(|mut purchase| {
                self.look_back(&mut purchase)?;
                Ok(purchase)
            });
            match looked {
                Ok(purchase) if purchase.is_asked_for() => to_ask.push(order),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%order, %error, "what has become of a payment that was taken back is not stored");
                }
            }
        }
        to_ask
    }

    /// As [`Buyer::look_back`], with what is stored when it is this task's turn.
    pub(super) async fn look_back_at(&self, purchase: Purchase) -> Result<Purchase, BuyError> {
        let _one_at_a_time = self.turns.take(&purchase.id).await;
        let mut purchase = self.purchase(&purchase.id)?;
        self.look_back(&mut purchase)?;
        Ok(purchase)
    }

    /// Whether the coins of an order that were taken back are back for good, or lost to its payment after all, or back once more. Whoever calls has
    /// the order's turn.
    pub(super) fn look_back(&self, purchase: &mut Purchase) -> Result<(), BuyError> {
        let wallet = &self.inner.wallet;
        let (order, payment) = (purchase.id, purchase.payment.as_ref().map(|payment| payment.txid));
        let Some(txid) = payment else { return Ok(()) };
        let status = wallet.status(&txid);
        if purchase.may_be_back() && status.as_ref().is_some_and(Status::is_dead) {
            tracing::warn!(%order, %txid, "what takes the coins of a payment back has outdone it once more");
            self.follow(purchase, PurchaseEvent::TakenBack)?;
        }
        if !purchase.may_return() {
            return Ok(());
        }
        let event = match status {
            Some(status) if status.is_settled() => {
                tracing::warn!(%order, %txid, "the network has a payment whose coins had been taken back");
                PurchaseEvent::NotTakenBack
            }
            _ if wallet.is_outdone(&txid, SETTLED) => PurchaseEvent::Outdone,
            _ => return Ok(()),
        };
        self.follow(purchase, event)
    }

    /// Gives a purchase its payment with the Merkle path, where it is in a block and the seller has not answered: proven so, it is taken whatever the seller
    /// had said to it.
    pub(super) fn prove_payment(&self, purchase: &mut Purchase) -> Result<(), BuyError> {
        let wallet = &self.inner.wallet;
        let Some(payment) = &purchase.payment else { return Ok(()) };
        if !matches!(wallet.status(&payment.txid), Some(Status::Mined { .. })) {
            return Ok(());
        }
        match wallet.beef_for(&payment.txid) {
            Ok(beef) if beef != payment.beef => self.follow(purchase, PurchaseEvent::Mined(beef)),
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(order = %purchase.id, %error, "a payment is not proven to its seller");
                Ok(())
            }
        }
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
        let wallet = &self.inner.wallet;
        let held = self.may_return(stream, first, end)?;
        let mut held =
            held.iter().filter_map(|purchase| Some((purchase.id, purchase.payment.as_ref()?.txid)));
        match held.find(|(_, txid)| !wallet.is_outdone(txid, SETTLED)) {
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
        let headers = self.inner.chain.headers();
        let is_outdone =
            |txid: &Txid| wallet.status(txid).is_none() || wallet.is_outdone(txid, SETTLED, &headers);
        let mut coins = Vec::new();
        for purchase in self.may_return(stream, first, end)? {
            let Some(payment) = &purchase.payment else { continue };
            if !is_outdone(&payment.txid) {
                let coin = wallet.excluding(&payment.txid);
                coins.push(coin.ok_or(BuyError::MayReturn { order: purchase.id })?);
            }
        }
        Ok(coins)
    }
}
