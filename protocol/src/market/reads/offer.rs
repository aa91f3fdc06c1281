//! The offer of single readings: a seller's signed word on what each reading of a stream costs one buyer.
//!
//! It is a statement of its own and no [`LiveOffer`](crate::market::live::LiveOffer): that one says where a stream begins and that
//! everything from there on is delivered, and may be charged by the second. Here the buyer says which readings, in any order, and each has its price.

use sensora_chain::Network;
use sensora_chain::keys::PublicKey;
use serde::{Deserialize, Serialize};

use crate::ad::{CLOCK_TOLERANCE_MS, MAX_LICENCE_LEN, MAX_NAME_LEN, StreamAd, check_line};
use crate::id::StreamId;
use crate::market::offer::{MAX_LIFETIME_MS, OfferError};
use crate::market::price::Price;
use crate::statement::{Signed, Statement, bytes_or_hex};
use crate::stream::schema::Schema;

/// What a seller offers to one buyer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadsOffer {
    /// The stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Schema,
    /// Who may buy.
    pub buyer: PublicKey,
    /// What each reading costs.
    pub price: Price,
    /// Licence under which the data is sold: an SPDX or Creative Commons id.
    pub licence: String,
    /// Makes each offer one of its kind.
    #[serde(with = "bytes_or_hex")]
    pub nonce: [u8; 16],
    /// When it was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// Last moment at which an order of it is taken, milliseconds since the Unix epoch. The order may run longer.
    pub expires_ms: i64,
}

impl Statement for ReadsOffer {
    const NAME: &'static str = "sensora/reads-offer";
    const MAX_LEN: usize = 8192;
}

impl ReadsOffer {
    /// Checks an offer against what was asked for and the seller's ad (when known). What may be paid is the buyer's budget.
    ///
    /// # Errors
    /// [`OfferError`] names the first thing that does not fit.
    pub fn accept(
        signed: &Signed<Self>,
        network: Network,
        buyer: &PublicKey,
        stream: StreamId,
        ad: Option<&StreamAd>,
        now_ms: i64,
    ) -> Result<(), OfferError> {
        let offer = signed.value();
        if offer.stream != stream {
            return Err(OfferError::Stream { asked: stream, offered: offer.stream });
        }
        offer.check(signed.key(), network)?;
        if &offer.buyer != buyer {
            return Err(OfferError::Buyer(crate::identity::peer_id(&offer.buyer)));
        }
        if let Some(ad) = ad {
            if offer.price > ad.price {
                return Err(OfferError::DearerThanAd { offered: offer.price, advertised: ad.price });
            }
            if offer.licence != ad.licence {
                let (offered, advertised) = (offer.licence.clone(), ad.licence.clone());
                return Err(OfferError::Licence { offered, advertised });
            }
        }
        let (expires_ms, lifetime) = (offer.expires_ms, offer.expires_ms.saturating_sub(offer.issued_ms));
        let ahead_ms = offer.issued_ms.saturating_sub(now_ms);
        let holds = expires_ms > now_ms && ahead_ms <= CLOCK_TOLERANCE_MS;
        if !holds || !(1..=MAX_LIFETIME_MS).contains(&lifetime) {
            return Err(OfferError::Lifetime { expires_ms, now_ms });
        }
        Ok(())
    }

    /// What must hold for any such offer of `seller`, whoever reads it.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn check(&self, seller: &PublicKey, network: Network) -> Result<(), OfferError> {
        let texts = [("name", &self.name, MAX_NAME_LEN), ("licence", &self.licence, MAX_LICENCE_LEN)];
        for (field, text, max) in texts {
            check_line(text, max, false).map_err(|reason| OfferError::Text { field, reason })?;
        }
        self.schema.validate()?;
        self.price.validate()?;
        if StreamId::derive(network, seller, &self.name, &self.schema)? != self.stream {
            return Err(OfferError::StreamId(self.stream));
        }
        Ok(())
    }
}
