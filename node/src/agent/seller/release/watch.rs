//! The coins of all orders on the chain: what follows when one becomes firm, is claimed, is taken back, or is lost in a reorganisation.

use std::time::Duration;

use sensora_chain::Transaction;
use sensora_protocol::OrderId;
use sensora_protocol::market::key_release::coin;
use sensora_protocol::market::key_release::sell::{BatchSale, BatchSaleState};
use sensora_protocol::market::order::Order;
use tokio_util::sync::CancellationToken;

use crate::agent::seller::{Seller, SellerParts};
use crate::release::{Seen, Watched, look};
use crate::store::release as records;

/// How often the chain is asked when no new block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Coins asked for at a time.
const ASK_AT_ONCE: usize = 32;

impl Seller {
    /// Until cancelled: follows the chain for all orders of batches, and claims what is firm.
    pub async fn run_releases(self, cancel: CancellationToken) {
        let mut tips = self.inner.parts.chain.tip_watch();
        loop {
            if cancel.run_until_cancelled(self.look_at_releases()).await.is_none() {
                return;
            }
            if let Err(error) = self.forget_old_releases() {
                tracing::error!(%error, "orders of batches whose time is over could not be forgotten");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = tips.changed() => if changed.is_err() { return },
                () = self.inner.releases.look.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Asks the chain about all orders once.
    pub async fn look_at_releases(&self) {
        let sales = match self.inner.parts.store.read(records::open_sales) {
            Ok(sales) => sales,
            Err(error) => {
                tracing::error!(%error, "the orders of batches cannot be read");
                return;
            }
        };
        let (paid, unpaid): (Vec<_>, Vec<_>) = sales.into_iter().partition(|sale| sale.coin().is_some());
        for sale in unpaid {
            self.see_release(sale.order, Seen::nothing(&self.inner.parts.chain)).await;
        }
        for some in paid.chunks(ASK_AT_ONCE) {
            let claimed = self.look_at_sales(some).await;
            // The network has a claim that it did not have: its buyer is told now, not with the next block.
            if !claimed.is_empty() {
                let again: Vec<_> =
                    some.iter().filter(|sale| claimed.contains(&sale.order)).cloned().collect();
                self.look_at_sales(&again).await;
            }
        }
    }

    /// Answers which claims the network has taken.
    async fn look_at_sales(&self, sales: &[BatchSale]) -> Vec<OrderId> {
        let watched: Vec<_> =
            sales.iter().filter_map(|sale| Some((sale.order, self.watched_sale(&sale.order)?))).collect();
        let (orders, coins): (Vec<_>, Vec<_>) = watched.into_iter().unzip();
        let seen = match look(&self.inner.parts.chain, &coins).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::debug!(%error, "the chain could not be asked about coins of batches");
                return Vec::new();
            }
        };
        let mut claimed = Vec::new();
        for (order, seen) in orders.into_iter().zip(seen) {
            if self.see_release(order, seen).await {
                claimed.push(order);
            }
        }
        claimed
    }

    /// The coin of an order as it is stored now, with what we have sent to claim it.
    fn watched_sale(&self, order: &OrderId) -> Option<Watched> {
        let SellerParts { network, identity, store, .. } = &self.inner.parts;
        let read = || -> Result<Option<Watched>, Box<dyn std::error::Error>> {
            let Some(sale) = store.read(|tx| records::sale(tx, order))? else { return Ok(None) };
            let Some(held) = sale.coin() else { return Ok(None) };
            let terms = sale.terms(*network)?;
            let signed = sale.signed_order.clone().verify_by::<Order>(*network, &sale.buyer)?;
            let (contract, _) = coin::for_seller(signed.value(), &terms, identity.key());
            let ours = match &sale.state {
                BatchSaleState::Claimed { claim, .. } => Some(Transaction::from_bytes(claim)?),
                _ => None,
            };
            Ok(Some(Watched { release: held.release(&contract), ours }))
        };
        read().unwrap_or_else(|error| {
            tracing::error!(%order, %error, "a stored order of a batch cannot be used");
            None
        })
    }

    /// Gives what is seen to a sale. Answers whether the network has taken its claim.
    async fn see_release(&self, order: OrderId, seen: Seen) -> bool {
        let Seen { view, coin_path, spend_path } = seen;
        let changed = self.change_release(order, spend_path, move |sale, terms, _, at| {
            sale.view(&view, terms, at).map_err(|error| super::failed(&error))
        });
        let carried_out = match changed.await {
            Ok(actions) => self.carry_out_release(order, actions, coin_path.as_ref()).await,
            Err(refusal) => Err(refusal),
        };
        carried_out.unwrap_or_else(|refusal| {
            tracing::warn!(%order, %refusal, "an order of a batch waits");
            false
        })
    }
}
