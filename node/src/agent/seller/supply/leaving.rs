//! What becomes of orders whose channel takes no voucher any more, and when sales are forgotten.

use sensora_chain::Satoshis;
use sensora_protocol::OrderId;
use sensora_protocol::market::delivery::supply::{ChannelSale, ChannelSaleState};

use crate::agent::seller::channels::{Entry, ToOrders};
use crate::agent::seller::{FORGET_AT_ONCE, KEEP_SOLD_MS, Seller, SellerParts};
use crate::store::{StoreError, channels as records};

impl Seller {
    /// Counts what was delivered and not paid before a restart.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in super::super) fn note_open(&self) -> Result<(), StoreError> {
        let SellerParts { store, channels, .. } = &self.inner.parts;
        let supplies = &self.inner.supplies;
        for sale in store.read(records::open_sales)? {
            supplies.note(&sale, channels.paid_in_lane(&sale.channel, &sale.order)?);
        }
        for left in store.read(records::left_unpaid)? {
            supplies.note_amount(&left.buyer, left.order, left.unpaid);
        }
        Ok(())
    }

    /// Ends the orders that are left when their channel takes no voucher any more, but for those that a stream serves: these hear of it themselves.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leave_orders(&self) -> Result<(), StoreError> {
        let SellerParts { store, channels, .. } = &self.inner.parts;
        let supplies = &self.inner.supplies;
        for sale in store.read(records::open_sales)? {
            let live = channels.get(&sale.buyer, &sale.channel).ok();
            let tip = channels.tip();
            if live.is_some_and(|live| live.to_orders(tip) != Ok(ToOrders::Closed)) {
                continue;
            }
            // Its buyer may come at any moment: then one of the two waits.
            let Some(running) = supplies.running.begin_alone(sale.order) else { continue };
            let left = {
                let _alone = running.served.lock().await;
                self.leave_order(&sale.order).await
            };
            supplies.running.end(&sale.order, &running);
            left?;
        }
        Ok(())
    }

    /// Ends an order whose channel is closed, as far as something is unpaid. What was paid is still to be delivered, for as long as orders are answered for.
    async fn leave_order(&self, id: &OrderId) -> Result<(), StoreError> {
        let SellerParts { store, channels, clock, .. } = &self.inner.parts;
        let Some(mut sale) = store.read(|tx| records::sale(tx, id))? else { return Ok(()) };
        let paid = channels.paid_in_lane(&sale.channel, id)?;
        let Some(paid) = sale.leave(paid) else { return Ok(()) };
        let (now_ms, order) = (clock.now_ms(), *id);
        if is_paid(&sale) {
            match store.read(|tx| records::kept_since(tx, id))? {
                None => return store.commit(move |tx| records::keep_sale(tx, &order, now_ms)).await,
                Some(since_ms) if now_ms.saturating_sub(since_ms) < KEEP_SOLD_MS => return Ok(()),
                Some(_) => {}
            }
        }
        let left = sale.clone();
        match channels.get(&sale.buyer, &sale.channel) {
            Ok(live) => {
                let entry = Entry { sale, voucher: None, ends: Some(paid) };
                if let Err(refusal) = channels.book(&live, entry).await {
                    tracing::error!(%order, %refusal, "an order that is left could not be stored");
                    return Ok(());
                }
            }
            Err(_) => channels.store_alone(sale).await?,
        }
        self.inner.supplies.note(&left, paid);
        Ok(())
    }

    /// Forgets sales that ended long enough ago, with what they left unpaid.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in super::super) fn forget_ended(&self) -> Result<(), StoreError> {
        let SellerParts { store, clock, .. } = &self.inner.parts;
        let before = clock.now_ms().saturating_sub(KEEP_SOLD_MS);
        let old = store.read(|tx| records::sales_ended_before(tx, before, FORGET_AT_ONCE))?;
        if old.is_empty() {
            return Ok(());
        }
        let forgotten = store.write(|tx| {
            let forget = |(ended_ms, order): &(i64, OrderId)| records::forget_sale(tx, *ended_ms, order);
            old.iter().filter_map(|ended| forget(ended).transpose()).collect::<Result<Vec<_>, StoreError>>()
        })?;
        for sale in forgotten {
            if let ChannelSaleState::LeftUnpaid { .. } = sale.state {
                self.inner.supplies.note_amount(&sale.buyer, sale.order, Satoshis::ZERO);
            }
        }
        Ok(())
    }
}

/// Whether all is paid that may have been delivered in an order that was left, and something was.
fn is_paid(sale: &ChannelSale) -> bool {
    matches!(sale.state, ChannelSaleState::LeftUnpaid { paid, unpaid } if unpaid.is_zero() && !paid.is_zero())
}
