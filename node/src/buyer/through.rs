//! Ordering through a channel, and what is open with its seller.

use std::sync::Arc;

use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::delivery::receive::ChannelPurchase;
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::offer::{Offer, OfferError};
use sensora_protocol::market::purchase::Purchase;
use sensora_protocol::{OrderId, Signed};

use super::receive::{Command, Listener, Told};
use super::{BuyError, Buyer, BuyerParts, Progress};
use crate::stakes::SharedStakes;
use crate::store::bought::{self, BoughtStream};
use crate::store::channels::{self as records, Wants};
use crate::store::orders;

/// Shows how far a range has come, and wants nothing.
pub(super) struct Showing<'a, F>(pub(super) &'a mut F);

impl<F: FnMut(Progress)> Listener for Showing<'_, F> {
    fn tell(&mut self, told: Told<'_>) {
        match told {
            Told::Waits(reason) => self.0(Progress::Waiting { reason: reason.to_owned() }),
            Told::Stands { purchase, terms, .. } => {
                if let Some(end) = terms.end {
                    let done = purchase.next.saturating_sub(terms.first);
                    self.0(Progress::Received { done, total: end.saturating_sub(terms.first) });
                }
            }
        }
    }

    fn command(&mut self) -> impl Future<Output = Command> + Send {
        std::future::pending()
    }

    fn is_patient(&self) -> bool {
        false
    }
}

impl Buyer {
    /// Orders a range through a channel: order, reservation and what the stream is are on disk when this returns, and nothing has been sent yet.
    pub(super) async fn order_range_through_channel(
        &self,
        offer: &Signed<Offer>,
        exposure: Satoshis,
    ) -> Result<OrderId, BuyError> {
        let terms = offer.value();
        let stream = BoughtStream {
            id: terms.stream,
            seller: *offer.key(),
            name: terms.name.clone(),
            schema: terms.schema.clone(),
            licence: terms.licence.clone(),
        };
        let wants = Wants { exposure, ..Wants::default() };
        let offered = Offered::Range(offer.bytes().clone());
        Ok(self.order_through_channel(offered, stream, terms.total, wants).await?.id)
    }

    /// As [`Buyer::order_range_through_channel`], for an offer of either kind that was accepted.
    pub(super) async fn order_through_channel(
        &self,
        offered: Offered,
        stream: BoughtStream,
        budget: Satoshis,
        wants: Wants,
    ) -> Result<ChannelPurchase, BuyError> {
        let seller = stream.seller;
        let none =
            || BuyError::NoChannel { seller: sensora_protocol::identity::peer_id(&seller), needed: budget };
        let open = self.channel_with(&seller, budget).ok_or_else(none)?;
        self.learn(&open, wants.exposure).await?;
        let of = open.clone();
        self.in_turn(&open, move |buyer| {
            let BuyerParts { identity, network, clock, .. } = &*buyer.inner;
            let mut nonce = [0; 16];
            getrandom::fill(&mut nonce).map_err(|error| BuyError::Randomness(error.to_string()))?;
            let (channel, now_ms) = (of.id(), clock.now_ms());
            let (purchase, _) =
                ChannelPurchase::agree(offered, &seller, channel, budget, nonce, identity, *network, now_ms)?;
            let reservation = buyer.reserve(&of, purchase.id, purchase.budget, |tx| {
                bought::put_stream(tx, &stream)?;
                records::put_wants(tx, &purchase.id, &wants)?;
                records::put_purchase(tx, &purchase)?;
                Ok(())
            })?;
            // It is taken up again by whoever drives the order.
            reservation.leave();
            Ok(purchase)
        })
        .await
    }

    /// The stored purchase of an order that is paid through a channel.
    ///
    /// # Errors
    /// [`BuyError::UnknownOrder`].
    pub fn channel_purchase(&self, id: &OrderId) -> Result<ChannelPurchase, BuyError> {
        self.inner.store.read(|tx| records::purchase(tx, id))?.ok_or(BuyError::UnknownOrder(*id))
    }

    /// Ends an order that is paid through a channel: no more readings are wanted; what came is paid, and the receipt fetched.
    pub(super) async fn give_up_on_channel(&self, id: &OrderId) -> Result<(), BuyError> {
        self.receive(id, true, &mut Showing(&mut |_| {})).await.map(|_| ())
    }

    /// What is open with a seller over all orders, from before a restart too. Its limit is the greatest of the exposures that the orders which
    /// run were made with, and of `exposure`: no order goes beyond its own.
    pub(super) fn stakes_of(
        &self,
        seller: &PublicKey,
        exposure: Satoshis,
    ) -> Result<Arc<SharedStakes>, BuyError> {
        let BuyerParts { store, network, .. } = &*self.inner;
        let on_channels = store.read(records::open_purchases)?;
        let mut limit = exposure;
        for purchase in on_channels.iter().filter(|purchase| &purchase.seller == seller) {
            limit = limit.max(store.read(|tx| records::wants(tx, &purchase.id))?.exposure);
        }
        let stakes = self.stakes.of(seller, || {
            let made = SharedStakes::new(limit);
            for purchase in on_channels.iter().filter(|purchase| &purchase.seller == seller) {
                let terms = purchase.offer.terms(*network, seller)?;
                let lane = match self.channel(&purchase.channel) {
                    Ok(open) => open.spending().record().lanes.get(&purchase.id).copied(),
                    Err(_) => None,
                };
                let open = purchase.open(&terms, lane.unwrap_or_default().paid).map_err(OfferError::from)?;
                made.change(|stakes| stakes.note(purchase.id, open));
            }
            for direct in store.read(orders::open_purchases)? {
                if &direct.seller == seller {
                    let at_risk = direct.at_risk(*network)?;
                    made.change(|stakes| stakes.note(direct.id, at_risk));
                }
            }
            Ok::<_, BuyError>(made)
        })?;
        stakes.change(|stakes| stakes.set_limit(limit));
        Ok(stakes)
    }

    /// Counts the price of a direct order as open, if that is within `exposure` with all that is open with the seller.
    pub(super) fn stake(
        &self,
        seller: &PublicKey,
        order: OrderId,
        total: Satoshis,
        exposure: Satoshis,
    ) -> Result<Arc<SharedStakes>, BuyError> {
        let stakes = self.stakes_of(seller, exposure)?;
        stakes.change(|stakes| {
            let open = stakes.open().amount();
            if total.checked_add(open).map_or(true, |sum| sum > exposure) {
                return Err(OfferError::OpenExposure { total, open, exposure });
            }
            stakes.note(order, total);
            Ok(())
        })?;
        Ok(stakes)
    }

    /// Counts what of a direct order is open now: nothing once it has ended.
    pub(super) fn note_direct(&self, purchase: &Purchase) -> Result<(), BuyError> {
        if let Some(stakes) = self.stakes.known(&purchase.seller) {
            let at_risk = purchase.at_risk(self.inner.network)?;
            stakes.change(|stakes| stakes.note(purchase.id, at_risk));
        }
        Ok(())
    }
}
