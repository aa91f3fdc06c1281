//! Coins, claims and refunds on the chain.

use std::sync::PoisonError;
use std::time::Duration;

use sensora_chain::Transaction;
use sensora_chain::header::HeaderView as _;
use sensora_protocol::OrderId;
use sensora_protocol::market::key_release::buy::{BatchPurchase, BatchPurchaseState, BuyEvent};
use sensora_protocol::market::key_release::coin;
use sensora_protocol::market::order::Order;
use tokio_util::sync::CancellationToken;

use super::step::{Stopped, Then};
use crate::buyer::{BuyError, Buyer, BuyerParts, Progress};
use crate::net::DeliverySender;
use crate::release::{Seen, Watched, look};
use crate::store::{StoreError, release as records};

/// How often the chain is asked when no new block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Coins asked for at a time.
const ASK_AT_ONCE: usize = 32;
/// Sellers that are reminded in one round, each for half a minute at the most where it does not answer: refunds must not wait for all of them.
const REMIND_AT_ONCE: usize = 4;

impl Buyer {
    /// Until cancelled: follows the chain for all purchases by key release. Keys are read where they are shown, what is due is taken back, and
    /// what a seller has not heard is brought to it.
    pub async fn run_releases(self, cancel: CancellationToken) {
        let mut tips = self.inner.chain.tip_watch();
        loop {
            if cancel.run_until_cancelled(self.look_at_releases()).await.is_none() {
                return;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = tips.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Asks the chain about all purchases by key release once, and does what follows.
    pub async fn look_at_releases(&self) {
        let watched = match self.inner.store.read(records::watched_purchases) {
            Ok(watched) => watched,
            Err(error) => {
                tracing::error!(%error, "the purchases of batches cannot be read");
                return;
            }
        };
        let mut to_remind = Vec::new();
        let (paid, unpaid): (Vec<_>, Vec<_>) =
            watched.into_iter().partition(|purchase| purchase.coin.is_some());
        for purchase in unpaid {
            let seen = Seen::nothing(&self.inner.chain);
            self.note_seen(&purchase.id, seen, &mut to_remind).await;
        }
        for some in paid.chunks(ASK_AT_ONCE) {
            let coins =
                some.iter().map(|purchase| self.watched_coin(purchase)).collect::<Result<Vec<_>, _>>();
            let coins = match coins {
                Ok(coins) => coins,
                Err(error) => {
                    tracing::error!(%error, "a stored purchase of a batch cannot be used");
                    continue;
                }
            };
            match look(&self.inner.chain, &coins).await {
                Ok(seen) => {
                    for (purchase, seen) in some.iter().zip(seen) {
                        self.note_seen(&purchase.id, seen, &mut to_remind).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the chain could not be asked about coins of batches");
                    for purchase in some {
                        if let Err(error) = self.see_nothing(&purchase.id).await {
                            tracing::warn!(order = %purchase.id, %error, "a purchase of a batch waits");
                        }
                    }
                }
            }
        }
        // Not the same ones each time: who never answers would leave the others without a word.
        to_remind.sort_unstable();
        let last = *self.releases.reminded.lock().unwrap_or_else(PoisonError::into_inner);
        let after = to_remind.partition_point(|id| Some(*id) <= last);
        to_remind.rotate_left(after);
        for id in to_remind.into_iter().take(REMIND_AT_ONCE) {
            *self.releases.reminded.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
            if let Err(error) = self.remind_seller(&id).await {
                tracing::debug!(order = %id, %error, "the seller of a batch was not reached");
            }
        }
    }

    /// Gives what is seen to a purchase, and notes whether its seller is to be reminded.
    async fn note_seen(&self, id: &OrderId, seen: Seen, to_remind: &mut Vec<OrderId>) {
        match Box::pin(self.see_release(id, seen, None, &mut |_| {})).await {
            Ok(then) => {
                let unheard = self.release_purchase(id).is_ok_and(|purchase| {
                    purchase.state == BatchPurchaseState::Locking
                        || (then.wants_stream
                            && matches!(purchase.state, BatchPurchaseState::Revealed { .. }))
                });
                if unheard {
                    to_remind.push(*id);
                }
            }
            Err(Stopped::Stream(error)) => tracing::debug!(order = %id, %error, "a stream ended"),
            Err(Stopped::Failed(error)) => tracing::warn!(order = %id, %error, "a purchase of a batch waits"),
        }
    }

    /// Asks the chain about one purchase. A chain that cannot be asked is no error: it is asked again.
    pub(super) async fn look_at_release(
        &self,
        id: &OrderId,
        sender: Option<&mut DeliverySender>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), BuyError> {
        let purchase = self.release_purchase(id)?;
        let seen = match purchase.coin {
            None => Seen::nothing(&self.inner.chain),
            Some(_) => match look(&self.inner.chain, &[self.watched_coin(&purchase)?]).await {
                Ok(mut seen) => match seen.pop() {
                    Some(seen) => seen,
                    None => return Ok(()),
                },
                Err(error) => {
                    tracing::debug!(order = %id, %error, "the chain could not be asked about a coin");
                    return self.see_nothing(id).await;
                }
            },
        };
        match self.see_release(id, seen, sender, progress).await {
            Ok(_) => Ok(()),
            // Whoever reads the stream sees why it ended.
            Err(Stopped::Stream(_)) => Ok(()),
            Err(Stopped::Failed(error)) => Err(error),
        }
    }

    /// What is due at a height goes out also where nobody can be asked about the coin.
    async fn see_nothing(&self, id: &OrderId) -> Result<(), BuyError> {
        let tip = self.inner.chain.headers().tip_height();
        let actions = self.release_event(id, BuyEvent::Blind { tip }, None).await?;
        match self.carry_out_release(id, actions, None, None, &mut |_| {}).await {
            Ok(_) | Err(Stopped::Stream(_)) => Ok(()),
            Err(Stopped::Failed(error)) => Err(error),
        }
    }

    async fn see_release(
        &self,
        id: &OrderId,
        seen: Seen,
        sender: Option<&mut DeliverySender>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Then, Stopped> {
        let Seen { view, coin_path, spend_path } = seen;
        let before = self.release_purchase(id)?.state;
        let mut actions = self.release_event(id, BuyEvent::View(Box::new(view)), spend_path.as_ref()).await?;
        // What was begun before a restart goes on: nobody else may be there to do it.
        let purchase = self.release_purchase(id)?;
        let goes_on = matches!(
            purchase.state,
            BatchPurchaseState::TakingBack { .. } | BatchPurchaseState::Revealed { .. }
        );
        if goes_on && purchase.state == before {
            actions.extend(purchase.resume());
        }
        self.carry_out_release(id, actions, sender, coin_path.as_ref(), progress).await
    }

    /// The coin of a purchase, with what we have sent to take it back.
    fn watched_coin(&self, purchase: &BatchPurchase) -> Result<Watched, BuyError> {
        let BuyerParts { identity, network, .. } = &*self.inner;
        let terms = self.release_terms(purchase)?;
        let order = purchase.order.clone().verify_by::<Order>(*network, identity.public())?;
        let (contract, _) = coin::for_buyer(order.value(), &terms, identity.key());
        let none = || StoreError::Damaged(format!("order {} has no coin", purchase.id));
        let held = purchase.coin.as_ref().ok_or_else(none)?;
        let ours = match &purchase.state {
            BatchPurchaseState::Refunding { refund } => Transaction::from_bytes(refund).ok(),
            _ => None,
        };
        Ok(Watched { release: held.release(&contract), ours })
    }
}
