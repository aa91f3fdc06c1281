//! Ordering through a channel, and what is open with its seller.

use std::sync::Arc;

use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::budget::Commitment;
use sensora_protocol::market::channel::buyer::{BuyerChannel, BuyerChannelState};
use sensora_protocol::market::channel::spending::{Spending, SpendingError};
use sensora_protocol::market::delivery::receive::ChannelPurchase;
use sensora_protocol::market::delivery::terms::{Offered, Terms};
use sensora_protocol::market::key_release::buy::{BatchPurchase, BatchPurchaseState};
use sensora_protocol::market::key_release::offer::BatchTerms;
use sensora_protocol::market::offer::{Offer, OfferError};
use sensora_protocol::market::price::PriceError;
use sensora_protocol::market::purchase::Purchase;
use sensora_protocol::market::receipt::HOLD_MS;
use sensora_protocol::{ChannelId, OrderId, Signed};
use tokio::sync::OwnedMutexGuard;

use super::budget::{lost_by, settle_on_channel};
use super::receive::{Command, Listener, Told};
use super::release::brings;
use super::{BuyError, Buyer, BuyerParts, Progress};
use crate::stakes::SharedStakes;
use crate::store::bought::{self, BoughtStream};
use crate::store::channels::{self as records, Wants};
use crate::store::{budget, orders};

/// Shows how far a range has come, and wants nothing.
pub(super) struct Showing<'a, F>(pub(super) &'a mut F);

impl<F: FnMut(Progress)> Listener for Showing<'_, F> {
    fn tell(&mut self, told: Told<'_>) {
        match told {
            Told::Verified(_) => {}
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

    fn wants_readings(&self) -> bool {
        false
    }
}

impl Buyer {
    /// Orders a range through a channel: order, reservation and what the stream is are on disk when this returns, and nothing has been sent yet.
    pub(super) async fn order_range_through_channel(
        &self,
        offer: &Signed<Offer>,
        exposure: Satoshis,
        deciding: OwnedMutexGuard<()>,
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
        Ok(self.order_through_channel(offered, stream, terms.total, wants, Some(deciding)).await?.id)
    }

    /// As [`Buyer::order_range_through_channel`], for an offer of any kind that was accepted. Whoever is `deciding` what to order of a stream hands its
    /// turn over: it lasts until the order is stored, also where the caller is dropped, so that the next one to decide sees the order.
    pub(super) async fn order_through_channel(
        &self,
        offered: Offered,
        stream: BoughtStream,
        budget: Satoshis,
        wants: Wants,
        deciding: Option<OwnedMutexGuard<()>>,
    ) -> Result<ChannelPurchase, BuyError> {
        let seller = stream.seller;
        let none =
            || BuyError::NoChannel { seller: sensora_protocol::identity::peer_id(&seller), needed: budget };
        let open = self.channel_with(&seller, budget).ok_or_else(none)?;
        self.learn(&open, wants.exposure).await?;
        let of = open.clone();
        self.in_turn(&open, move |buyer| {
            let _deciding = deciding;
            let BuyerParts { identity, network, clock, .. } = &*buyer.inner;
            let mut nonce = [0; 16];
            getrandom::fill(&mut nonce).map_err(|error| BuyError::Randomness(error.to_string()))?;
            let (channel, now_ms) = (of.id(), clock.now_ms());
            let (purchase, _) =
                ChannelPurchase::agree(offered, &seller, channel, budget, nonce, identity, *network, now_ms)?;
            let reservation = buyer.reserve(&of, purchase.id, purchase.budget, |tx| {
                bought::put_stream(tx, &stream)?;
                buyer.commit(tx, &purchase.id, &seller, purchase.budget)?;
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

    /// Gives up an order that is paid through a channel: what was paid stays paid, and nothing is ever paid for it again. Where its seller does not
    /// answer, all that was reserved for it counts as paid, for the vouchers may be out.
    pub(super) async fn give_up_on_channel(&self, id: &OrderId) -> Result<(), BuyError> {
        let purchase = self.channel_purchase(id)?;
        let wants = self.inner.store.read(|tx| records::wants(tx, id))?;
        if let Ok(open) = self.channel(&purchase.channel)
            && let Err(error) = self.learn(&open, wants.exposure).await
        {
            tracing::debug!(order = %id, %error, "what was paid could not be asked for");
        }
        // Whoever listens to a live stream has its turn for days: it is not waited for.
        let turn = self.turns.try_take(id).ok_or(BuyError::Busy { order: *id })?;
        self.leave_order(id, turn, ChannelPurchase::give_up).await
    }

    /// Ends an order that no stream serves, without a receipt: its lane ends in the same stored step.
    pub(super) async fn leave_order(
        &self,
        id: &OrderId,
        turn: OwnedMutexGuard<()>,
        leave: fn(&mut ChannelPurchase, &Terms, Satoshis) -> Result<bool, PriceError>,
    ) -> Result<(), BuyError> {
        let mut purchase = self.channel_purchase(id)?;
        let (network, id) = (self.inner.network, *id);
        let terms = purchase.offer.terms(network, &purchase.seller)?;
        let exposure = self.inner.store.read(|tx| records::wants(tx, &id))?.exposure;
        let Ok(open) = self.channel(&purchase.channel) else {
            let channel = self.inner.store.read(|tx| records::buyer(tx, &purchase.channel))?;
            let paid = channel.map_or(Ok(Satoshis::ZERO), |channel| most_paid(&channel, &id))?;
            if leave(&mut purchase, &terms, paid).map_err(OfferError::from)? {
                let (left, now_ms) = (purchase.clone(), self.inner.clock.now_ms());
                let stored = self.inner.store.commit(move |tx| {
                    settle_on_channel(tx, &left, (paid, exposure), now_ms)?;
                    records::put_purchase(tx, &left)
                });
                stored.await?;
                self.note_lost(&purchase, exposure);
            }
            return Ok(());
        };
        let (of, is_learned) = (open.clone(), open.is_learned());
        self.in_turn(&open, move |buyer| {
            let _turn = turn;
            let end = |spending: &Spending| match spending.take_up(id) {
                None => Ok(Satoshis::ZERO),
                Some(held) if is_learned => {
                    let paid = held.paid();
                    held.end(paid).map(|()| paid)
                }
                Some(held) => held.forfeit(),
            };
            // First as it will be, to store it; then as it is.
            let next = Spending::new(of.spending().record());
            let paid = end(&next)?;
            if !leave(&mut purchase, &terms, paid).map_err(OfferError::from)? {
                return Ok(());
            }
            buyer.store_spending(&of, &next.record(), |tx| {
                settle_on_channel(tx, &purchase, (paid, exposure), buyer.inner.clock.now_ms())?;
                Ok(records::put_purchase(tx, &purchase)?)
            })?;
            end(&of.spending())?;
            buyer.note_lost(&purchase, exposure);
            Ok(())
        })
        .await
    }

    /// Counts as open with its seller what an order that has ended has lost, and nothing else of it.
    pub(super) fn note_lost(&self, purchase: &ChannelPurchase, exposure: Satoshis) {
        if let Some(stakes) = self.stakes.known(&purchase.seller) {
            let lost = lost_by(&purchase.state, exposure);
            stakes.change(|stakes| stakes.note(purchase.id, lost));
        }
    }

    /// What orders have lost with a seller in the time for which a seller answers for them.
    pub(super) fn lost_with(&self, seller: &PublicKey) -> Result<Satoshis, BuyError> {
        let now_ms = self.inner.clock.now_ms();
        let lost = self.inner.store.read(|tx| budget::lost(tx, seller))?;
        let lost = lost.iter().map(|(_, lost)| still_lost(lost, now_ms));
        Ok(lost.fold(Satoshis::ZERO, |sum, part| sum.checked_add(part).unwrap_or(Satoshis::MAX)))
    }

    /// Ends the orders on a channel that is closed, but for those that a stream serves: these hear of it themselves.
    pub(super) async fn leave_orders(&self, channel: &ChannelId) -> Result<(), BuyError> {
        for purchase in self.inner.store.read(records::open_purchases)? {
            if &purchase.channel == channel
                && let Some(turn) = self.turns.try_take(&purchase.id)
            {
                self.leave_order(&purchase.id, turn, ChannelPurchase::channel_closed).await?;
            }
        }
        Ok(())
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
            for (purchase, terms) in self.held_releases()? {
                if &purchase.seller == seller {
                    made.change(|stakes| stakes.note(purchase.id, staked_on(&purchase, &terms, true)));
                }
            }
            Ok::<_, BuyError>(made)
        })?;
        let (lost, now_ms) = (store.read(|tx| budget::lost(tx, seller))?, self.inner.clock.now_ms());
        stakes.change(|stakes| {
            stakes.set_limit(limit);
            for (order, lost) in &lost {
                stakes.note(*order, still_lost(lost, now_ms));
            }
        });
        Ok(stakes)
    }

    /// What is paid to a seller, or may be taken by it, and not delivered yet, over all orders.
    pub(super) fn open_exposure(&self, seller: &PublicKey) -> Result<Satoshis, BuyError> {
        let stakes = self.stakes_of(seller, Satoshis::ZERO)?;
        Ok(stakes.read(|stakes| stakes.open().amount()))
    }

    /// Counts the price of a direct order or a batch as open, if that is within `exposure` with all that is open with the seller.
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

    /// Counts what of a batch is open now: nothing once it has ended.
    pub(super) fn note_release(&self, purchase: &BatchPurchase, terms: &BatchTerms, watched: bool) {
        if let Some(stakes) = self.stakes.known(&purchase.seller) {
            stakes.change(|stakes| stakes.note(purchase.id, staked_on(purchase, terms, watched)));
        }
    }
}

/// What a batch may cost and has not brought yet. Its price counts before the coin is signed: all that is missing for that comes by itself.
fn staked_on(purchase: &BatchPurchase, terms: &BatchTerms, watched: bool) -> Satoshis {
    let may_return = watched && matches!(purchase.state, BatchPurchaseState::TakenBack { .. });
    if brings(&purchase.state) || may_return { terms.total.max(purchase.at_risk()) } else { Satoshis::ZERO }
}

/// What of a loss still counts: as long as a seller answers for an order, and then it is forgiven.
fn still_lost(lost: &Commitment, now_ms: i64) -> Satoshis {
    if now_ms.saturating_sub(lost.at_ms) < HOLD_MS { lost.amount } else { Satoshis::ZERO }
}

/// The most that an order can have paid on a channel that has ended, where nobody can be asked any more: all that was reserved for it, as far as the
/// seller has taken it.
fn most_paid(channel: &BuyerChannel, order: &OrderId) -> Result<Satoshis, SpendingError> {
    let lane = channel.spending.lanes.get(order).copied().unwrap_or_default();
    let all = lane.paid.checked_add(lane.reserved)?;
    Ok(match channel.state {
        BuyerChannelState::Ended { paid, .. } => all.min(paid.saturating_sub(channel.spending.ended)),
        BuyerChannelState::TakenBack { .. } => Satoshis::ZERO,
        _ => all,
    })
}
