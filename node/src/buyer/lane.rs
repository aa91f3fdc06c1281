//! An order's lane in the account of its channel: every stream of the order takes it up, and it ends with the order.

use std::sync::Arc;

use sensora_chain::Satoshis;
use sensora_protocol::market::channel::spending::{Reservation, Spending, SpendingError};
use sensora_protocol::market::delivery::receive::ChannelPurchase;
use tokio::sync::OwnedMutexGuard;

use super::budget::settle_on_channel;
use super::channels::Open;
use super::{BuyError, Buyer};
use crate::store::channels as records;

impl Buyer {
    /// The reservation of an order: as it was before, filled up to what the order may cost. Where others have the rest of the channel, it goes on
    /// with what it has, if that pays what is `due`.
    pub(super) async fn take_up(
        &self,
        open: &Arc<Open>,
        purchase: &ChannelPurchase,
        due: Satoshis,
    ) -> Result<Reservation, BuyError> {
        let (of, order, budget) = (open.clone(), purchase.id, purchase.budget);
        self.in_turn(open, move |buyer| {
            let Some(mut held) = of.spending().take_up(order) else {
                return buyer.reserve(&of, order, budget, |_| Ok(())).map(Reservation::leave);
            };
            let has = held.paid().checked_add(held.left()).unwrap_or(Satoshis::MAX);
            let missing = budget.saturating_sub(has);
            let filled = match missing.is_zero() {
                true => Ok(()),
                false => held.extend(missing, |next| buyer.store_spending(&of, next, |_| Ok(()))),
            };
            held.leave();
            match filled {
                Err(BuyError::Spending(source))
                    if has >= due && matches!(*source, SpendingError::Insufficient { .. }) =>
                {
                    Ok(())
                }
                filled => filled,
            }
        })
        .await?;
        // Not handed over by the task: whoever is dropped while it waits for that would release it.
        open.spending().take_up(order).ok_or(BuyError::UnknownOrder(order))
    }

    /// The order's lane ends with so much `paid`, in the same stored step as the order, and in memory when that is on disk.
    pub(super) async fn end_lane(
        &self,
        open: &Arc<Open>,
        reservation: Reservation,
        purchase: ChannelPurchase,
        (paid, exposure): (Satoshis, Satoshis),
        turn: Arc<OwnedMutexGuard<()>>,
    ) -> Result<(), BuyError> {
        let of = open.clone();
        // Whoever is dropped while it waits for its turn would release it.
        reservation.leave();
        self.in_turn(open, move |buyer| {
            let _turn = turn;
            // First as it will be, to store it; then as it is.
            let next = Spending::new(of.spending().record());
            let ended = next.take_up(purchase.id).map_or(Ok(()), |held| held.end(paid));
            ended?;
            buyer.store_spending(&of, &next.record(), |tx| {
                settle_on_channel(tx, &purchase, (paid, exposure), buyer.inner.clock.now_ms())?;
                Ok(records::put_purchase(tx, &purchase)?)
            })?;
            if let Some(held) = of.spending().take_up(purchase.id) {
                held.end(paid)?;
            }
            buyer.note_lost(&purchase, exposure);
            Ok(())
        })
        .await
    }
}
