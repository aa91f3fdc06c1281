//! Payments whose coins were taken back, until they are back for good.
//!
//! That the network has taken what spends the coins instead is no block: whoever kept the payment may bring it into one, and a reorganisation may
//! turn a block round. Such an order is kept in view until what outdid its payment is [`SETTLED`] blocks deep (I6). The same readings are ordered anew
//! meanwhile only with a payment that excludes the old one, so that nobody is charged twice.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use sensora_chain::OutPoint;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::keys::PublicKey;
use sensora_chain::spv;
use sensora_chain::wallet::{Status, Wallet};
use sensora_protocol::market::key_release::coin::SETTLED;
use sensora_protocol::market::purchase::{Purchase, PurchaseEvent};
use sensora_protocol::{OrderId, StreamId};
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{BuyError, Buyer, BuyerParts};
use crate::pace::Pace;
use crate::store::orders;

/// How often the orders are looked at when no new block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Most sellers that are asked at a time: one that keeps us waiting holds up no other.
const MAX_ASKED: usize = 8;
/// Most of them for one seller: who holds many orders up leaves places to others.
const MAX_ASKED_OF_ONE: usize = 2;

/// An order, and who sells.
type Asked = (OrderId, PublicKey);

/// The sellers that are asked for what they were paid for, and when they were asked last.
#[derive(Default)]
struct Asking {
    tasks: JoinSet<Result<(), BuyError>>,
    asked: HashMap<task::Id, Asked>,
    pace: Pace<OrderId>,
}

impl Asking {
    fn begin(&mut self, buyer: &Buyer, orders: &[Asked]) {
        for (order, seller) in self.next_of(orders) {
            let buyer = buyer.clone();
            let asking = self.tasks.spawn(async move { buyer.drive(&order, &mut |_| {}).await.map(|_| ()) });
            self.asked.insert(asking.id(), (order, seller));
        }
    }

    /// Which of these orders are asked for now, those that were not for longest first. Whoever lists them leaves out those that are asked for already.
    fn next_of(&mut self, orders: &[Asked]) -> Vec<Asked> {
        let asked = &self.asked;
        let is_asked = |order: &OrderId| asked.values().any(|(asked, _)| asked == order);
        self.pace.keep(|order| is_asked(order) || orders.iter().any(|(waits, _)| waits == order));
        let waits = orders.iter().filter(|(order, _)| !is_asked(order) && self.pace.is_due(order));
        let mut due: Vec<Asked> = waits.copied().collect();
        due.sort_by_key(|(order, _)| Reverse(self.pace.since(order)));
        let mut begun: Vec<Asked> = Vec::new();
        for (order, seller) in due {
            let of_one = asked.values().chain(&begun).filter(|(_, of)| *of == seller).count();
            if asked.len().saturating_add(begun.len()) < MAX_ASKED && of_one < MAX_ASKED_OF_ONE {
                begun.push((order, seller));
            }
        }
        begun.iter().for_each(|(order, _)| self.pace.tries(order));
        begun
    }

    /// Comes back when one has ended; never where none is asked.
    async fn next(&mut self) {
        let Some(ended) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
        let task = ended.as_ref().map_or_else(task::JoinError::id, |(task, _)| *task);
        let Some((order, _)) = self.asked.remove(&task) else { return };
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
            if let Ok(to_ask) = self.blocking(|buyer| Ok(buyer.look_at_taken_back())).await {
                asking.begin(&self, &to_ask);
            }
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
    #[must_use]
    pub fn look_at_taken_back(&self) -> Vec<(OrderId, PublicKey)> {
        let (network, now_ms) = (self.inner.network, self.inner.clock.now_ms());
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
                Ok((purchase.is_asked_for() && !purchase.is_lapsed(network, now_ms)?, purchase.seller))
            });
            match looked {
                Ok((true, seller)) => to_ask.push((order, seller)),
                Ok((false, _)) => {}
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
        let status = wallet.last_status(&txid)?;
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
            _ if wallet.is_outdone(&txid, SETTLED)? => PurchaseEvent::Outdone,
            _ => return Ok(()),
        };
        self.follow(purchase, event)
    }

    /// Gives a purchase its payment with the Merkle path, where it is in a block and the seller has not answered: proven so, it is taken whatever the seller
    /// had said to it. With its ancestors, where the block whose path it has was replaced.
    pub(super) fn prove_payment(&self, purchase: &mut Purchase) -> Result<(), BuyError> {
        let BuyerParts { wallet, chain, .. } = &*self.inner;
        let Some(payment) = &purchase.payment else { return Ok(()) };
        let (txid, headers) = (payment.txid, chain.headers());
        let parsed = |beef: &[u8]| Beef::parse(beef, &BeefLimits::default()).ok();
        let verifies =
            |beef: &[u8]| parsed(beef).is_some_and(|beef| spv::verify(&beef, &txid, &headers).is_ok());
        let is_mined = matches!(wallet.status(&txid), Some(Status::Mined { .. }));
        let has_path = || parsed(&payment.beef).is_some_and(|beef| beef.bump_of(&txid).is_some());
        if !is_mined && (!has_path() || verifies(&payment.beef)) {
            return Ok(());
        }
        match wallet.beef_for(&txid) {
            // The wallet may not know yet that a block was replaced.
            Ok(beef) if beef != payment.beef && verifies(&beef) => {
                self.follow(purchase, PurchaseEvent::Proven(beef))
            }
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
        for purchase in self.may_return(stream, first, end)? {
            let Some(payment) = &purchase.payment else { continue };
            if !wallet.is_outdone(&payment.txid, SETTLED)? {
                return Err(BuyError::MayReturn { order: purchase.id });
            }
        }
        Ok(())
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
        let mut coins = Vec::new();
        for purchase in self.may_return(stream, first, end)? {
            let Some(payment) = &purchase.payment else { continue };
            if !self.inner.wallet.is_outdone_in(wallet, &payment.txid, SETTLED)? {
                let coin = wallet.excluding(&payment.txid);
                coins.push(coin.ok_or(BuyError::MayReturn { order: purchase.id })?);
            }
        }
        Ok(coins)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sensora_chain::PrivateKey;

    use super::*;

    fn asked(order: u8, seller: u8) -> Asked {
        (OrderId([order; 32]), PrivateKey::from_bytes([seller; 32]).unwrap().public())
    }

    /// Begins what is to be asked now, as tasks that never end.
    fn begin(asking: &mut Asking, orders: &[Asked]) -> Vec<u8> {
        let begun = asking.next_of(orders);
        for one in &begun {
            let task = asking.tasks.spawn(std::future::pending());
            asking.asked.insert(task.id(), *one);
        }
        begun.iter().map(|(order, _)| order.0[0]).collect()
    }

    #[tokio::test]
    async fn a_seller_that_keeps_us_waiting_holds_up_its_own_orders_only() {
        let mut asking = Asking::default();
        let mut orders: Vec<_> = (1..=40).map(|order| asked(order, 1)).collect();
        orders.push(asked(41, 2));
        assert_eq!(begin(&mut asking, &orders), [1, 2, 41]);
        assert!(begin(&mut asking, &orders).is_empty());
    }

    #[tokio::test]
    async fn with_all_places_taken_those_come_next_that_were_not_asked_for_longest() {
        let mut asking = Asking::default();
        let orders: Vec<_> = (1..=20).map(|order| asked(order, order)).collect();
        assert_eq!(begin(&mut asking, &orders), (1..=8).collect::<Vec<_>>());
        // Whoever lists the orders leaves out those that somebody works on.
        let mut waiting = orders[8..].to_vec();
        assert!(begin(&mut asking, &waiting).is_empty());
        // The first ends, and waits again.
        asking.asked.retain(|_, (order, _)| order.0[0] != 1);
        waiting.push(orders[0]);
        assert!(!asking.pace.is_due(&orders[0].0), "its pace was kept while it was asked");
        assert_eq!(begin(&mut asking, &waiting), [9]);
        let mut seen = BTreeSet::from([9]);
        while seen.len() < 12 {
            asking.asked.clear();
            seen.extend(begin(&mut asking, &orders[8..]));
        }
    }

    #[tokio::test]
    async fn a_question_that_ends_in_a_panic_gives_its_place_back() {
        let mut asking = Asking::default();
        let one = asked(1, 1);
        let task = asking.tasks.spawn(async { panic!("it ends early") });
        asking.asked.insert(task.id(), one);
        asking.next().await;
        assert!(asking.asked.is_empty());
    }
}
