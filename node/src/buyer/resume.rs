//! Going on with orders after a stop, and giving them up.

use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_protocol::OrderId;
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::purchase::PurchaseEvent;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::order::Progress;
use super::{BuyError, Buyer, through};
use crate::store::{self, channels as records, orders, release as releases};

/// Orders that are gone on with at the same time after a stop: a few silent sellers hold up nobody, and each is a stream and a page in memory.
const RESUMED_AT_ONCE: usize = 16;
/// Steps of theirs that wait to be shown.
const MANY_STEPS: usize = 64;

impl Buyer {
    /// Goes on with every order that is not finished, whichever way it is paid, but for those that another task works on. A live stream that
    /// nobody listens to any more is ended: what came of it is paid, and its receipt fetched. So are single readings. A key that is not shown yet is not waited for, see
    /// [`Buyer::resume_releases`]. Returns what became of each.
    ///
    /// # Errors
    /// [`BuyError`].
    pub async fn resume(
        &self,
        mut progress: impl FnMut(Progress),
    ) -> Result<Vec<(OrderId, Result<(), BuyError>)>, BuyError> {
        let mut all = Vec::new();
        for purchase in self.inner.store.read(orders::open_purchases)? {
            let id = purchase.id;
            if purchase.may_return() && self.look_back_at(purchase.clone()).await?.state.is_final() {
                continue;
            }
            if purchase.payment.is_some() {
                all.push((id, false));
                continue;
            }
            let now_ms = self.inner.clock.now_ms();
            let removed = self.inner.store.commit(move |tx| {
                store::budget::settle(tx, &id, Satoshis::ZERO, now_ms)?;
                orders::remove_purchase(tx, &id)
            });
            removed.await?;
        }
        all.extend(
            self.inner.store.read(records::open_purchases)?.iter().map(|purchase| (purchase.id, true)),
        );
        all.extend(self.open_releases()?.iter().map(|(purchase, _)| (purchase.id, true)));
        self.resume_all(all, &mut progress).await
    }

    /// Goes on with some orders at a time, so that none waits for the seller of another. Those on a channel that another task works on are left out.
    async fn resume_all(
        &self,
        orders: Vec<(OrderId, bool)>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Vec<(OrderId, Result<(), BuyError>)>, BuyError> {
        let (told, mut telling) = mpsc::channel(MANY_STEPS);
        let mut waiting = orders.into_iter().enumerate();
        let (mut tasks, mut outcomes) = (JoinSet::new(), Vec::new());
        loop {
            while tasks.len() < RESUMED_AT_ONCE
                && let Some((place, (id, is_on_channel))) = waiting.next()
            {
                let (buyer, told) = (self.clone(), told.clone());
                tasks.spawn(async move {
                    if is_on_channel && buyer.turns.try_take(&id).is_none() {
                        return None;
                    }
                    // A step that nobody has time to look at is followed by others.
                    let resumed = buyer.resume_order(&id, |step| drop(told.try_send(step)));
                    Some((place, id, resumed.await))
                });
            }
            tokio::select! {
                Some(step) = telling.recv() => progress(step),
                done = tasks.join_next() => match done {
                    None => break,
                    Some(Ok(outcome)) => outcomes.extend(outcome),
                    Some(Err(error)) => {
                        tracing::error!(%error, "an order was not gone on with to its end");
                        return Err(BuyError::Stopping);
                    }
                },
            }
        }
        while let Ok(step) = telling.try_recv() {
            progress(step);
        }
        outcomes.sort_by_key(|(place, ..)| *place);
        Ok(outcomes.into_iter().map(|(_, id, outcome)| (id, outcome)).collect())
    }

    /// Goes on with one order, as [`Buyer::resume`] does.
    ///
    /// # Errors
    /// [`BuyError`].
    pub async fn resume_order(
        &self,
        id: &OrderId,
        mut progress: impl FnMut(Progress),
    ) -> Result<(), BuyError> {
        let Some(purchase) = self.inner.store.read(|tx| records::purchase(tx, id))? else {
            if self.inner.store.read(|tx| releases::purchase(tx, id))?.is_some() {
                return match Box::pin(self.drive_release(id, Duration::ZERO, &mut progress)).await? {
                    true => Ok(()),
                    false => Err(BuyError::KeyAwaited { order: *id }),
                };
            }
            return self.drive(id, &mut progress).await.map(|_| ());
        };
        if purchase.offer.is_reads() {
            return self.settle_reads(id).await.map(|_| ());
        }
        let is_live = matches!(purchase.offer, Offered::Live(_));
        self.receive(id, is_live, &mut through::Showing(&mut progress)).await.map(|_| ())
    }

    /// Waits no longer for the seller's word on a payment: takes the coins back, so that it can never be taken.
    ///
    /// # Errors
    /// [`BuyError::GivenUp`] with how far that has come, which is the good end; the others where the seller has the money all the same.
    pub async fn give_up(&self, id: &OrderId) -> Result<(), BuyError> {
        if self.inner.store.read(|tx| records::purchase(tx, id))?.is_some() {
            return self.give_up_on_channel(id).await;
        }
        if self.inner.store.read(|tx| releases::purchase(tx, id))?.is_some() {
            return self.give_up_release(id).await;
        }
        {
            let _one_at_a_time = self.turns.take(id).await;
            let mut purchase = self.purchase(id)?;
            let given_up = purchase.handle(PurchaseEvent::GiveUp, self.inner.network);
            given_up.map_err(|source| BuyError::Purchase { order: *id, source: Box::new(source) })?;
            self.inner.store.commit(move |tx| orders::put_purchase(tx, &purchase)).await?;
        }
        self.drive(id, &mut |_| {}).await.map(|_| ())
    }
}
