//! Quotes. A batch has to be sealed before it can be offered, which takes seconds of a core, and who asks pays nothing: so one is sealed at a
//! time, the same question has the same answer while that holds, and one buyer has few offers at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use sensora_chain::contract::RefundHeight;
use sensora_chain::keys::PublicKey;
use sensora_protocol::ad::PaymentMode;
use sensora_protocol::market::key_release::offer::{BatchTerms, KeyReleaseOffer, MIN_TOTAL};
use sensora_protocol::market::key_release::parts::SealError;
use sensora_protocol::market::offer::{Offer, Range};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{Hash, Signed, SignedBytes, StreamId};

use super::batch::{Goods, Sealed};
use super::lock;
use crate::agent::recorder::RecorderError;
use crate::agent::seller::{Seller, SellerParts, damaged, failed, storage};

/// Most offers that hold at a time: 8 KiB each at the most.
const MAX_OFFERS: usize = 512;
/// Most of them to one buyer that it has not ordered: a person who looks around, and a rate at which one stranger makes us seal.
const MAX_OFFERS_TO_BUYER: usize = 8;

/// The offers that hold, by their digest.
#[derive(Default)]
pub(super) struct Offers {
    standing: BTreeMap<Hash, Signed<KeyReleaseOffer>>,
}

impl Offers {
    /// The offer that was made for the same question and still holds for a while: a buyer that asks again does not make us work again.
    fn same(&mut self, plain: &Offer, tip: u32) -> Option<SignedBytes> {
        let now_ms = plain.issued_ms;
        self.standing.retain(|_, offer| offer.value().expires_ms > now_ms);
        let found = self.standing.values().find(|offer| {
            let offer = offer.value();
            let lasts = offer.expires_ms.saturating_sub(now_ms)
                > offer.expires_ms.saturating_sub(offer.issued_ms) / 2;
            let same = offer.buyer == plain.buyer
                && offer.stream == plain.stream
                && (offer.first, offer.count) == (plain.first, plain.count)
                && offer.checkpoint == plain.checkpoint
                && (offer.price, &offer.licence) == (plain.price, &plain.licence);
            // A chain that has grown fast has used up the buyer's time.
            same && lasts && offer.refund_height.get() > tip
        });
        found.map(|offer| offer.bytes().clone())
    }

    /// The offer is ordered.
    pub(super) fn forget(&mut self, offer: &Hash) {
        self.standing.remove(offer);
    }

    fn room_for(&self, buyer: &PublicKey) -> Result<(), Refusal> {
        let of_buyer = self.standing.values().filter(|offer| &offer.value().buyer == buyer).count();
        match of_buyer < MAX_OFFERS_TO_BUYER && self.standing.len() < MAX_OFFERS {
            true => Ok(()),
            false => Err(Refusal::Busy { retry_ms: 30_000 }),
        }
    }
}

impl Seller {
    /// The signed offer of a batch.
    pub(super) async fn quote_release(
        &self,
        buyer: PublicKey,
        stream: StreamId,
        range: Range,
    ) -> Result<SignedBytes, Refusal> {
        let releases = &self.inner.releases;
        let policy = self.inner.parts.releases;
        if !policy.offered || !policy.can_be_paid() {
            return Err(Refusal::NotSelling);
        }
        self.learn_end().await?;
        let _one_at_a_time = releases.quoting.lock(&buyer).await;
        let plain = self.blocking(move |seller| {
            let plain = seller.plain_offer(&buyer, stream, range, PaymentMode::Direct)?;
            if plain.total < MIN_TOTAL {
                let reason = format!(
                    "a batch costs at least {MIN_TOTAL}, these {} readings cost {}: order more, or pay directly",
                    plain.count, plain.total
                );
                return Err(Refusal::InvalidOrder { reason });
            }
            Ok(plain)
        });
        let plain = plain.await?;
        {
            let mut offers = lock(&releases.offers);
            if let Some(offer) = offers.same(&plain, self.inner.parts.chain.headers().tip().height) {
                return Ok(offer);
            }
            offers.room_for(&buyer)?;
        }
        let seller = self.clone();
        let sealed = releases.turns.run(move || {
            let (offer, sealed) = seller.seal_offer(plain)?;
            let (digest, releases) = (offer.digest(seller.inner.parts.network), &seller.inner.releases);
            lock(&releases.batches).keep(digest, sealed);
            let bytes = offer.bytes().clone();
            lock(&releases.offers).standing.insert(digest, offer);
            Ok(bytes)
        });
        sealed.await
    }

    /// Seals a batch and signs what it is.
    fn seal_offer(&self, plain: Offer) -> Result<(Signed<KeyReleaseOffer>, Arc<Sealed>), Refusal> {
        let SellerParts { recorder, identity, network, chain, releases, .. } = &self.inner.parts;
        let checkpoint = plain.checkpoint.clone().verify::<Checkpoint>(*network);
        let range = plain.first..plain.first.saturating_add(plain.count);
        let key = self.batch_secret()?.key(&plain.buyer, &plain.checkpoint, range.clone(), &plain.nonce);
        let goods = Goods {
            recorder: recorder.clone(),
            stream: plain.stream,
            schema: plain.schema.clone(),
            checkpoint: checkpoint.map_err(|error| damaged(&error))?.value().clone(),
            range,
            key,
        };
        let sealed = Sealed::make(&goods).map_err(cannot_seal)?;
        let height = chain.headers().tip().height.saturating_add(releases.refund_after);
        let height = RefundHeight::new(height).map_err(|error| failed(&error))?;
        let offer = KeyReleaseOffer::of(plain, &sealed.batch, height, identity.public(), *network);
        let offer = offer.map_err(|error| failed(&error))?;
        let offer = Signed::sign(offer, identity, *network).map_err(|error| failed(&error))?;
        Ok((offer, Arc::new(sealed)))
    }

    /// The batch of an order: kept, or sealed again from the log, which must give what was offered.
    pub(super) async fn batch_of(&self, terms: &BatchTerms, goods: &Goods) -> Result<Arc<Sealed>, Refusal> {
        let releases = &self.inner.releases;
        if let Some(sealed) = lock(&releases.batches).get(&terms.offer) {
            return Ok(sealed);
        }
        let (goods, offer, root) = (goods.clone(), terms.offer, terms.root);
        let seller = self.clone();
        let sealed = releases.turns.run(move || {
            // Whoever was before us may have sealed the same.
            if let Some(sealed) = lock(&seller.inner.releases.batches).get(&offer) {
                return Ok(sealed);
            }
            let sealed = Sealed::make(&goods).map_err(cannot_seal)?;
            if sealed.batch.root() != root {
                tracing::error!(%offer, "a batch is not sealed as it was when it was offered");
                return Err(Refusal::InvalidOrder {
                    reason: "the batch cannot be made again: ask for a new offer".into(),
                });
            }
            let sealed = Arc::new(sealed);
            lock(&seller.inner.releases.batches).keep(offer, sealed.clone());
            Ok(sealed)
        });
        sealed.await
    }
}

/// Why a batch is not offered or sent.
pub(super) fn cannot_seal(error: SealError<RecorderError>) -> Refusal {
    match error {
        SealError::Readings(error) => storage(error),
        SealError::TooMany => {
            Refusal::InvalidOrder { reason: "these readings make too many parts: order fewer".into() }
        }
        error => failed(&error),
    }
}
