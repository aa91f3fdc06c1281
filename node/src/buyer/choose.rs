//! Which way of paying a purchase takes; the rule is [`sensora_protocol::market::choice`].

use std::time::Duration;

use sensora_chain::keys::PublicKey;
use sensora_chain::{FeeRate, Satoshis};
use sensora_protocol::ad::PaymentMode;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::channel::offer::ChannelLimits;
use sensora_protocol::market::choice::{Choice, Closed, Mode, Way};
use sensora_protocol::market::key_release::offer::MIN_TOTAL;
use sensora_protocol::market::offer::{BuyerLimits, Offer, OfferError};
use sensora_protocol::{ChannelId, Signed};

use super::{BuyError, BuyRequest, Buyer};
use crate::store::bought;

/// Size of a payment with one input and change, in bytes. Several small coins make it larger: then the choice is a little too kind to it.
const PAYMENT_BYTES: usize = 226;
/// Size of the funding of a channel or a key release: a contract's output in the place of one to a key.
const FUNDING_BYTES: usize = 426;
/// How often a channel that waits for its seller or a block is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a purchase would mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The seller's offer, checked against limits and ad, but for the exposure.
    pub offer: Signed<Offer>,
    /// Readings that are not here yet.
    pub missing: u64,
    /// What they cost.
    pub total: Satoshis,
    /// How they are paid; none where all is here.
    pub choice: Option<Choice>,
}

/// What a new channel is sure to have for orders. The seller says what its close costs when it is asked for a channel; it is within the limit, or none is
/// opened.
const fn room(limits: ChannelLimits) -> Satoshis {
    limits.max_value.saturating_sub(limits.max_close_fee)
}

impl Buyer {
    /// Asks the price and chooses how to pay: the cheapest way whose exposure is within the limits, or the one that was asked for.
    ///
    /// # Errors
    /// [`BuyError::NoWay`] says of each way why not; the others as for [`Buyer::quote`].
    pub async fn plan(
        &self,
        request: &BuyRequest,
        asked: Option<Mode>,
        channel: ChannelLimits,
    ) -> Result<Plan, BuyError> {
        let BuyRequest { seller, stream, range, limits, ad } = request;
        let offer = self.offer(seller, *stream, *range, PaymentMode::Direct).await?;
        let terms = offer.value();
        let (first, count) = (terms.first, terms.count);
        let end = first.checked_add(count).filter(|_| count > 0).ok_or(BuyError::Range { first, count })?;
        let gaps = self.inner.store.read(|tx| bought::missing(tx, stream, first, end))?;
        let missing = gaps.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
        let mut total = Satoshis::ZERO;
        for (from, to) in &gaps {
            let part = terms.price.total(to.saturating_sub(*from));
            let part = part.map_err(OfferError::from)?;
            total = total.checked_add(part).unwrap_or(Satoshis::MAX);
        }
        // What is here already does not have to be within the limits; the exposure is what the choice is about.
        let max_price = if missing == count { limits.max_price } else { Satoshis::MAX };
        let limits_now = BuyerLimits { max_price, exposure: Satoshis::MAX };
        self.accept(&offer, *stream, *range, ad.as_ref(), limits_now)?;
        if missing == 0 {
            return Ok(Plan { offer, missing, total, choice: None });
        }
        let modes = ad.as_ref().map(|ad| ad.modes.as_slice());
        let takes = |mode| modes.is_none_or(|modes| modes.contains(&mode));
        let rate = self.inner.wallet.fees().rate;
        let committed = self.open_exposure(seller)?;
        let at_once = total.checked_add(committed).unwrap_or(Satoshis::MAX);
        let direct =
            if takes(PaymentMode::Direct) { Ok(rate.fee(PAYMENT_BYTES)) } else { Err(Closed::NotTaken) };
        let through = if takes(PaymentMode::Channel) {
            self.channel_fees(seller, total, channel, rate)
        } else {
            Err(Closed::NotTaken)
        };
        let batch = match takes(PaymentMode::KeyRelease) {
            true if total < MIN_TOTAL => Err(Closed::BelowLeast { least: MIN_TOTAL }),
            true => Ok(rate.fee(FUNDING_BYTES)),
            false => Err(Closed::NotTaken),
        };
        let unit = terms.price.total(1).map_err(OfferError::from)?;
        let ways = [
            Way { mode: Mode::Direct, fees: direct, exposure: at_once },
            Way { mode: Mode::Channel, fees: through, exposure: total.min(limits.exposure).max(unit) },
            // The coin is taken only with the key. A key that opens nothing convicts its seller, and does not bring the coin back.
            Way { mode: Mode::KeyRelease, fees: batch, exposure: at_once },
        ];
        let choice = Choice::of(&ways, limits.exposure, asked).map_err(BuyError::NoWay)?;
        Ok(Plan { offer, missing, total, choice: Some(choice) })
    }

    fn waits_for_block(&self, id: &ChannelId) -> bool {
        self.channel(id).is_ok_and(|open| open.waits_for_block())
    }

    fn channel_state(&self, id: &ChannelId) -> Result<BuyerChannelState, BuyError> {
        let found = self.channels()?.into_iter().find(|channel| &channel.id == id);
        found.map(|channel| channel.state).ok_or(BuyError::UnknownChannel(*id))
    }

    /// What a channel would cost: nothing where one is open that has enough left, else its two transactions.
    fn channel_fees(
        &self,
        seller: &PublicKey,
        total: Satoshis,
        limits: ChannelLimits,
        rate: FeeRate,
    ) -> Result<Satoshis, Closed> {
        if self.channel_with(seller, total).is_some() {
            return Ok(Satoshis::ZERO);
        }
        let room = room(limits);
        if total > room {
            return Err(Closed::AboveMost { most: room });
        }
        let fees =
            rate.fee(FUNDING_BYTES).checked_add(rate.fee(sensora_chain::contract::channel::CLOSE_SIZE));
        Ok(fees.unwrap_or(Satoshis::MAX))
    }

    /// A channel with the seller that has `total` left: one that is open, or a new one with all that the limits allow. Waits for the seller,
    /// and for a block where the seller wants one, at most `patience`.
    ///
    /// # Errors
    /// [`BuyError::AboveChannel`] where a new one would hold less than `total`: none is opened. [`BuyError::ChannelNotOpen`] and
    /// [`BuyError::ChannelNotMined`]: it is kept, and the same call goes on with it later.
    pub async fn channel_for(
        &self,
        seller: &PublicKey,
        total: Satoshis,
        limits: ChannelLimits,
        patience: Duration,
        waiting: impl FnMut(&str),
    ) -> Result<ChannelId, BuyError> {
        if let Some(open) = self.channel_with(seller, total) {
            let id = open.id();
            return self.wait_for_channel(&id, patience, waiting).await.map(|()| id);
        }
        let under_way = self.channels()?.into_iter().find(|channel| {
            let waits = matches!(channel.state, BuyerChannelState::Funding);
            waits && &channel.seller == seller && channel.free >= total
        });
        let id = match under_way {
            Some(channel) => channel.id,
            // Money in a channel that is too small for what it is opened for would be locked for nothing, and again with each try.
            None if total > room(limits) => {
                return Err(BuyError::AboveChannel { needed: total, most: room(limits) });
            }
            None => self.open_channel(seller, limits.max_value, limits.max_blocks, limits).await?,
        };
        self.wait_for_channel(&id, patience, waiting).await.map(|()| id)
    }

    /// Waits until a channel can be used: for its seller, and for a block where the seller wants one.
    ///
    /// # Errors
    /// [`BuyError::ChannelNotOpen`] or [`BuyError::ChannelNotMined`] after `patience`; [`BuyError::Refused`] where the seller does not take it.
    pub async fn wait_for_channel(
        &self,
        id: &ChannelId,
        patience: Duration,
        mut waiting: impl FnMut(&str),
    ) -> Result<(), BuyError> {
        let id = *id;
        // Why its seller has not said whether the channel waits for a block.
        let mut unheard = None;
        let waited = tokio::time::timeout(patience, async {
            loop {
                match self.channel_state(&id)? {
                    BuyerChannelState::Funding => {}
                    BuyerChannelState::Open if self.waits_for_block(&id) => {
                        // What the seller has seen since it was asked last.
                        unheard = self.ask_standing(&*self.channel(&id)?).await.err();
                        if let Some(BuyError::Refused(refusal)) = &unheard
                            && !refusal.is_temporary()
                        {
                            return Err(BuyError::Refused(refusal.clone()));
                        }
                        if !self.waits_for_block(&id) {
                            return Ok(());
                        }
                        waiting("a block with the channel's funding");
                        tokio::time::sleep(LOOK_EVERY).await;
                        continue;
                    }
                    BuyerChannelState::Refused { refusal } | BuyerChannelState::TakenBack { refusal } => {
                        return Err(refusal.map_or(BuyError::UnknownChannel(id), BuyError::Refused));
                    }
                    _ => return Ok(()),
                }
                waiting("the channel's funding");
                tokio::time::sleep(LOOK_EVERY).await;
                for (of, outcome) in self.resume_channels().await {
                    if let (true, Err(error)) = (of == id, outcome) {
                        tracing::debug!(channel = %id, %error, "not open yet");
                    }
                }
            }
        });
        match waited.await {
            Ok(done) => done,
            Err(_) if self.waits_for_block(&id) => {
                Err(unheard.unwrap_or(BuyError::ChannelNotMined { channel: id }))
            }
            Err(_) => Err(BuyError::ChannelNotOpen { channel: id }),
        }
    }
}
