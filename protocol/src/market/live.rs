//! The live offer: a seller's signed word on what the readings of a stream cost one buyer from some reading on, for as long as both want.
//!
//! There is no checkpoint in it, for most of what it sells is not measured yet: each page of a live stream brings the checkpoint that it is
//! proven under.

use sensora_chain::Network;
use sensora_chain::keys::PublicKey;
use serde::{Deserialize, Serialize};

use crate::ad::{CLOCK_TOLERANCE_MS, MAX_LICENCE_LEN, MAX_NAME_LEN, StreamAd, check_line};
use crate::id::StreamId;
use crate::market::message::LiveFrom;
use crate::market::offer::{MAX_LIFETIME_MS, OfferError};
use crate::market::price::{Price, Tariff, usual_gap_ms};
use crate::statement::{Signed, Statement, bytes_or_hex};
use crate::stream::schema::Schema;

/// What a seller offers to one buyer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveOffer {
    /// The stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Schema,
    /// Who may buy.
    pub buyer: PublicKey,
    /// First sequence number: history is delivered first, up to what is newest, and then each reading as it comes.
    pub first: u64,
    /// What it costs.
    pub tariff: Tariff,
    /// Licence under which the data is sold: an SPDX or Creative Commons id.
    pub licence: String,
    /// Makes each offer one of its kind.
    #[serde(with = "bytes_or_hex")]
    pub nonce: [u8; 16],
    /// When it was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// Last moment at which an order of it is taken, milliseconds since the Unix epoch. The stream may run longer.
    pub expires_ms: i64,
}

/// What a buyer asked for, and the prices it lets itself in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveQuestion {
    /// The stream.
    pub stream: StreamId,
    /// From where on.
    pub from: LiveFrom,
    /// Readings that the buyer knows to be in the log, from whatever it has of it; 0 where it has nothing.
    pub known_size: u64,
    /// Most that a reading may cost, where that is what costs.
    pub max_reading: Option<Price>,
    /// Most that a second may cost, where that is what costs.
    pub max_second: Option<Price>,
}

impl LiveQuestion {
    /// Whether the stream begins where it was asked to, as far as that can be told before it comes.
    ///
    /// A sequence number is exact. *Latest* is the log's size when the offer is signed, which only the seller knows: it is no less than what the ad or the
    /// buyer's own readings show. For a *time* the ad tells two cases apart: where its first reading is late enough the stream begins with reading 0, and
    /// where its last one is, no later than with that. A first reading that is too far ahead costs nothing: what is not delivered is not paid.
    fn check_first(&self, first: u64, ad: Option<&StreamAd>) -> Result<(), OfferError> {
        let size = ad.map_or(self.known_size, |ad| self.known_size.max(ad.size));
        let fits = match (self.from, ad) {
            (LiveFrom::Seq(asked), _) => first == asked,
            (LiveFrom::Latest, _) => first >= size,
            (LiveFrom::Time(_), None) => true,
            (LiveFrom::Time(from), Some(ad)) => {
                let all = ad.first_time.is_some_and(|time| time >= from);
                let some = ad.last_time.is_some_and(|time| time >= from);
                if all { first == 0 } else { !some || first < ad.size }
            }
        };
        if fits { Ok(()) } else { Err(OfferError::LiveFirst { asked: self.from, first, size }) }
    }

    /// Whether one reading is charged for no more time than usually lies between a few: else one that is late, or one whose stamp jumps, would cost what
    /// nobody measured.
    fn check_gap(tariff: Tariff, ad: Option<&StreamAd>) -> Result<(), OfferError> {
        let cadence_ms = ad.and_then(|ad| ad.cadence_ms);
        let (offered_ms, most_ms) = (tariff.longest_gap_ms(), usual_gap_ms(cadence_ms));
        if offered_ms <= most_ms { Ok(()) } else { Err(OfferError::Gap { offered_ms, most_ms, cadence_ms }) }
    }

    /// Whether it costs what it may. An ad has a price for a reading, and one for a second where it sells so. Where it has none, a price for a second can be compared with the one for a reading if the ad says how often there is one:
    /// a second is then no dearer than the readings in it. Where it does not, the buyer's own limit is all there is, so there must be one.
    fn check_price(&self, tariff: Tariff, ad: Option<&StreamAd>) -> Result<(), OfferError> {
        let (price, limit) = match tariff {
            Tariff::Reading(price) => (price, self.max_reading),
            Tariff::Second { price, .. } => (price, self.max_second),
        };
        if let Some(limit) = limit
            && price > limit
        {
            return Err(OfferError::DearerThanLimit { offered: price, limit });
        }
        if let (Tariff::Second { .. }, Some(advertised)) = (tariff, ad.and_then(|ad| ad.second)) {
            return match price > advertised {
                true => Err(OfferError::DearerThanAd { offered: price, advertised }),
                false => Ok(()),
            };
        }
        match (tariff, ad, ad.and_then(|ad| ad.cadence_ms)) {
            (Tariff::Reading(_), Some(ad), _) if price > ad.price => {
                Err(OfferError::DearerThanAd { offered: price, advertised: ad.price })
            }
            (Tariff::Second { .. }, Some(ad), Some(cadence_ms)) if cadence_ms > 0 => {
                let for_each = u128::from(price.msat()).saturating_mul(u128::from(cadence_ms));
                let advertised = u128::from(ad.price.msat()).saturating_mul(1_000);
                match for_each > advertised {
                    true => Err(OfferError::SecondDearerThanAd {
                        offered: price,
                        advertised: ad.price,
                        cadence_ms,
                    }),
                    false => Ok(()),
                }
            }
            (Tariff::Second { .. }, _, _) if limit.is_none() => Err(OfferError::NoLimit { offered: price }),
            _ => Ok(()),
        }
    }
}

impl Statement for LiveOffer {
    const NAME: &'static str = "sensora/live-offer";
    const MAX_LEN: usize = 8192;
}

impl LiveOffer {
    /// Checks an offer against what was asked for and the seller's ad (when known). What may be paid in all is the buyer's budget.
    ///
    /// # Errors
    /// [`OfferError`] names the first thing that does not fit.
    pub fn accept(
        signed: &Signed<Self>,
        network: Network,
        buyer: &PublicKey,
        asked: &LiveQuestion,
        ad: Option<&StreamAd>,
        now_ms: i64,
    ) -> Result<(), OfferError> {
        let offer = signed.value();
        if offer.stream != asked.stream {
            return Err(OfferError::Stream { asked: asked.stream, offered: offer.stream });
        }
        offer.check(signed.key(), network)?;
        if &offer.buyer != buyer {
            return Err(OfferError::Buyer(crate::identity::peer_id(&offer.buyer)));
        }
        asked.check_first(offer.first, ad)?;
        asked.check_price(offer.tariff, ad)?;
        LiveQuestion::check_gap(offer.tariff, ad)?;
        if let Some(ad) = ad
            && offer.licence != ad.licence
        {
            let (offered, advertised) = (offer.licence.clone(), ad.licence.clone());
            return Err(OfferError::Licence { offered, advertised });
        }
        let (expires_ms, lifetime) = (offer.expires_ms, offer.expires_ms.saturating_sub(offer.issued_ms));
        let ahead_ms = offer.issued_ms.saturating_sub(now_ms);
        let holds = expires_ms > now_ms && ahead_ms <= CLOCK_TOLERANCE_MS;
        if !holds || !(1..=MAX_LIFETIME_MS).contains(&lifetime) {
            return Err(OfferError::Lifetime { expires_ms, now_ms });
        }
        Ok(())
    }

    /// What must hold for any live offer of `seller`, whoever reads it.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn check(&self, seller: &PublicKey, network: Network) -> Result<(), OfferError> {
        let texts = [("name", &self.name, MAX_NAME_LEN), ("licence", &self.licence, MAX_LICENCE_LEN)];
        for (field, text, max) in texts {
            check_line(text, max, false).map_err(|reason| OfferError::Text { field, reason })?;
        }
        self.schema.validate()?;
        self.tariff.validate()?;
        if StreamId::derive(network, seller, &self.name, &self.schema)? != self.stream {
            return Err(OfferError::StreamId(self.stream));
        }
        Ok(())
    }
}
