//! New channels: offered, and opened where there is a place for them.

use std::sync::Arc;

use sensora_chain::Satoshis;
use sensora_chain::contract::RefundHeight;
use sensora_chain::contract::channel::CloseTerms;
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::channel::message::{ChannelReport, OpenChannel};
use sensora_protocol::market::channel::offer::ChannelOffer;
use sensora_protocol::market::channel::seller::{SellerChannel, SellerChannelState};
use sensora_protocol::market::offer::DEFAULT_LIFETIME_MS;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::Admission;
use sensora_protocol::{ChannelId, Signed};

use super::{Channels, ChannelsParts, InUse, failed, lock};
use crate::agent::seller::admitted::MAX_ADMITTED;
use crate::agent::seller::is_full;
use crate::store::channels;

/// Most channels that are opened or watched at a time. Each is a few KiB and one question for each block.
const MAX_CHANNELS: usize = 10_000;
/// When to try again where all places are taken, in milliseconds: some are free with one of the next blocks.
const RETRY_MS: u64 = 60_000;

impl Channels {
    /// Whether channels of this value and life are offered.
    ///
    /// # Errors
    /// [`Refusal::ChannelNotOffered`], with those that are.
    pub fn is_offered(&self, value: Satoshis, blocks: u32) -> Result<(), Refusal> {
        let ChannelsParts { policy, .. } = &self.inner.parts;
        let fits = (policy.min_value..=policy.max_value).contains(&value)
            && (policy.least_blocks()..=policy.max_blocks).contains(&blocks);
        if fits { Ok(()) } else { Err(self.not_offered()) }
    }

    fn not_offered(&self) -> Refusal {
        let ChannelsParts { policy, .. } = &self.inner.parts;
        Refusal::ChannelNotOffered {
            min: policy.min_value,
            max: policy.max_value,
            min_blocks: policy.least_blocks(),
            max_blocks: policy.max_blocks,
        }
    }

    /// An offer of a channel.
    ///
    /// # Errors
    /// [`Refusal::ChannelNotOffered`] for a value or a time that is not taken.
    pub fn quote(
        &self,
        buyer: &PublicKey,
        value: Satoshis,
        blocks: u32,
    ) -> Result<Signed<ChannelOffer>, Refusal> {
        let ChannelsParts { identity, network, clock, wallet, policy, .. } = &self.inner.parts;
        self.is_offered(value, blocks)?;
        let height = RefundHeight::new(self.tip().saturating_add(blocks));
        let refund_height = height.map_err(|_| self.not_offered())?;
        self.has_place()?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| Refusal::Busy { retry_ms: 1000 })?;
        let issued_ms = clock.now_ms();
        // Rates may rise before it is closed, and its fee cannot: half as much again.
        let fee = CloseTerms::fee_at(wallet.fees().rate).as_u64();
        let close_fee = Satoshis::from_sat(fee.saturating_add(fee.div_ceil(2)));
        let offer = ChannelOffer {
            buyer: *buyer,
            value,
            refund_height,
            margin: policy.margin,
            close_fee,
            when_mined: value > policy.unmined_up_to,
            nonce,
            issued_ms,
            expires_ms: issued_ms.saturating_add(DEFAULT_LIFETIME_MS),
        };
        Signed::sign(offer, identity, *network).map_err(|error| failed(&error))
    }

    /// Opens a channel: verified, stored, then given to the network. The same request again has the same answer.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn open_channel(
        &self,
        buyer: &PublicKey,
        request: OpenChannel,
    ) -> Result<ChannelReport, Refusal> {
        let ChannelsParts { identity, network, .. } = &self.inner.parts;
        let offer = request.offer.clone().verify_by::<ChannelOffer>(*network, identity.public());
        let offer = offer.map_err(|error| Refusal::ForeignOffer { reason: error.to_string() })?;
        let id = offer.channel_id(*network);
        // To its end: two that find nothing both begin anew, and the second would put an empty account in the place of one that is in use.
        let turn = Arc::new(self.inner.opening.lock(&id).await);
        let live = match self.in_use(buyer, &id) {
            Ok(live) => live,
            Err(_) => {
                let (channels, buyer, turn) = (self.clone(), *buyer, turn.clone());
                let admitted = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    channels.admit(&buyer, id, request)
                });
                admitted.await.unwrap_or_else(|error| Err(failed(&error)))?
            }
        };
        let resumed = self.change(&live, |record, seller, network| record.resume(seller, network), None);
        let refusal = resumed.await;
        drop(turn);
        match refusal {
            Some(refusal) => Err(refusal),
            None => Ok(self.report(&live, Vec::new())),
        }
    }

    /// Verifies and stores a channel that is not in use.
    fn admit(&self, buyer: &PublicKey, id: ChannelId, request: OpenChannel) -> Result<Arc<InUse>, Refusal> {
        let ChannelsParts { identity, network, chain, store, clock, .. } = &self.inner.parts;
        let known = store.read(|tx| channels::seller(tx, &id)).map_err(|error| failed(&error))?;
        if known.is_some() {
            return Err(Refusal::ChannelClosed { channel: id });
        }
        self.has_place()?;
        let (headers, now_ms) = (chain.headers(), clock.now_ms());
        let at = Admission { seller: identity, network: *network, peer: buyer, headers: &headers, now_ms };
        let record = SellerChannel::admit(request, &at)?;
        // Those beside this one look for a place when it has taken its own.
        let _place = lock(&self.inner.places);
        self.has_place()?;
        let is_new =
            store.write(|tx| channels::insert_seller(tx, &record)).map_err(|error| failed(&error))?;
        if !is_new {
            return Err(Refusal::ChannelClosed { channel: id });
        }
        self.take_in(record).map_err(|error| failed(&error))
    }

    /// Whether another channel is taken: each is something on disk, in memory and to ask the chain about.
    fn has_place(&self) -> Result<(), Refusal> {
        if is_full(self.inner.parts.home.as_deref()) {
            return Err(Refusal::StorageUnavailable);
        }
        let live = lock(&self.inner.live);
        let admitted = live.values().filter(|live| lock(&live.record).state == SellerChannelState::Admitted);
        places_left(live.len(), admitted.count())
    }
}

/// Whether there is a place beside so many channels, of which so many have a funding that the network has not answered.
const fn places_left(all: usize, admitted: usize) -> Result<(), Refusal> {
    if all >= MAX_CHANNELS {
        return Err(Refusal::Busy { retry_ms: RETRY_MS });
    }
    if admitted >= MAX_ADMITTED {
        return Err(Refusal::ChainUnavailable);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_have_an_end_also_while_the_chain_cannot_be_reached() {
        assert_eq!(places_left(MAX_CHANNELS - 1, MAX_ADMITTED - 1), Ok(()));
        assert_eq!(places_left(MAX_ADMITTED, MAX_ADMITTED), Err(Refusal::ChainUnavailable));
        assert_eq!(places_left(MAX_CHANNELS, 0), Err(Refusal::Busy { retry_ms: RETRY_MS }));
    }
}
