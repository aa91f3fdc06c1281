//! The advertisement: what a seller offers, signed, with a version and an end.
//!
//! The same bytes travel every way — gossip, a request to the author, an output on chain — so an ad found one way is the ad
//! found any other. A higher version replaces a lower one; a withdrawn version ends the offer and must be remembered until it expires, so that
//! an old version cannot be played back. Everything in an ad is the seller's claim; what makes it more than that is bought and verified.

use std::fmt;

use sensora_chain::contract::data_output::{data_output, parse_data_output};
use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, TxOut};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::id::{Hash, StreamId};
use crate::market::price::{Price, PriceError};
use crate::place::{Place, PlaceError};
use crate::statement::{Signed, SignedBytes, Statement, StatementError};
use crate::stream::schema::{Schema, SchemaError};

/// Longest ad: the CBOR of the body, in bytes. Small enough for one gossip message and for a data output that costs about 400 sat.
pub const MAX_AD_LEN: usize = 4096;
/// Longest signed ad on the wire: body, key, signature and their heads.
pub const MAX_SIGNED_AD_LEN: usize = MAX_AD_LEN + 160;
/// An ad may end at most so long after it was signed (30 days): what is not renewed disappears.
pub const MAX_LIFETIME_MS: i64 = 30 * 24 * 3600 * 1000;
/// How far ahead of our clock an ad's time of signing may be.
pub const CLOCK_TOLERANCE_MS: i64 = 2 * 60 * 1000;
/// Most streams in one ad.
pub const MAX_STREAMS: usize = 64;
/// Most addresses in one ad.
pub const MAX_ADDRESSES: usize = 8;
/// Longest address in bytes.
pub const MAX_ADDRESS_LEN: usize = 128;
/// Longest name of a seller or a stream, in bytes.
pub const MAX_NAME_LEN: usize = 64;
/// Longest licence id in bytes.
pub const MAX_LICENCE_LEN: usize = 64;
/// Most kinds of one stream.
pub const MAX_KINDS: usize = 8;
/// Longest kind in bytes.
pub const MAX_KIND_LEN: usize = 32;

/// First push of an advertisement on chain.
pub const ADV_PREFIX: &[u8] = b"SENSORA_ADV";
/// Version of the on-chain layout that is written and read.
pub const ADV_VERSION: u8 = 2;

/// How an order can be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PaymentMode {
    /// One transaction to a key derived from the order, before delivery.
    Direct,
    /// Vouchers of a payment channel, while the readings come.
    Channel,
    /// A coin that can be taken only by showing the key of what was delivered encrypted.
    KeyRelease,
}

impl fmt::Display for PaymentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Channel => f.write_str("channel"),
            Self::KeyRelease => f.write_str("key release"),
        }
    }
}

/// What a seller takes in one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most readings in one order.
    pub max_readings: u64,
}

/// One stream in an ad.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamAd {
    /// Id of the stream; follows from seller, name and schema ([`StreamId::derive`]).
    pub id: StreamId,
    /// The seller's name for it, unique in the ad.
    pub name: String,
    /// What a reading holds.
    pub schema: Schema,
    /// What it measures, in lower-case words (`temperature`, `humidity`): the keys it is found by.
    pub kinds: Vec<String>,
    /// Where, as exactly as the seller says.
    pub place: Option<Place>,
    /// Usual time between two readings in milliseconds.
    pub cadence_ms: Option<u64>,
    /// Price of one reading, in thousandths of a satoshi.
    pub price: Price,
    /// Price of one second of the stream as it comes, in thousandths of a satoshi, where that is sold by time too.
    pub second: Option<Price>,
    /// Licence of the data: an SPDX or Creative Commons id.
    pub licence: String,
    /// Readings that one buyer may have free of charge in a day.
    pub sample: u32,
    /// Ways to pay.
    pub modes: Vec<PaymentMode>,
    /// What one order may hold.
    pub limits: Limits,
    /// Readings in the log when the ad was signed.
    pub size: u64,
    /// Time of the first reading then, nanoseconds since the Unix epoch.
    pub first_time: Option<i64>,
    /// Time of the last reading then, nanoseconds since the Unix epoch.
    pub last_time: Option<i64>,
}

/// A seller's advertisement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ad {
    /// What the seller calls itself.
    pub name: String,
    /// Grows with each ad of this seller: the time of signing in milliseconds, or one more than the last.
    pub version: u64,
    /// When it was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// When it ends, milliseconds since the Unix epoch.
    pub expires_ms: i64,
    /// The seller offers nothing any more.
    pub withdrawn: bool,
    /// Multiaddrs at which the seller listens.
    pub addresses: Vec<String>,
    /// What is for sale.
    pub streams: Vec<StreamAd>,
}

impl Statement for Ad {
    const NAME: &'static str = "sensora/ad";
    const VERSION: u16 = 2;
    const MAX_LEN: usize = MAX_AD_LEN;
}

/// Why an ad is not taken in.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AdError {
    /// Longer than an ad may be.
    #[error("the ad is {len} bytes, over the limit of {max}: shorten names or advertise fewer streams")]
    TooLong {
        /// Length in bytes.
        len: usize,
        /// Longest that is allowed.
        max: usize,
    },
    /// Bytes that are not a signed ad.
    #[error("not a signed ad: {0}")]
    Encoding(CodecError),
    /// Signature or body.
    #[error(transparent)]
    Statement(StatementError),
    /// Its end has passed.
    #[error("the ad ended at {expires_ms} ms, {ago_s} s ago: ask the seller for its current one")]
    Expired {
        /// When it ended.
        expires_ms: i64,
        /// How long ago, in seconds.
        ago_s: i64,
    },
    /// Signed in the future.
    #[error("the ad is signed {ahead_s} s ahead of this machine's clock: check the clock (more than {max} s is refused)", max = CLOCK_TOLERANCE_MS / 1000)]
    Future {
        /// How far ahead, in seconds.
        ahead_s: i64,
    },
    /// Ends before it begins or too long after.
    #[error(
        "the ad lives {lifetime_ms} ms: it must be above zero and at most {MAX_LIFETIME_MS} ms (30 days)"
    )]
    Lifetime {
        /// Its lifetime.
        lifetime_ms: i64,
    },
    /// The seller has ended its offer.
    #[error("the seller {seller} has withdrawn its ad (version {version})")]
    Withdrawn {
        /// Peer id.
        seller: String,
        /// Version of the withdrawal.
        version: u64,
    },
    /// A newer version is known.
    #[error("version {version} of the ad is older than version {known}, which is known")]
    Superseded {
        /// Version that was received.
        version: u64,
        /// Version that is known.
        known: u64,
    },
    /// A text is too long or has characters that do not belong there.
    #[error("field `{field}` of the ad: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A schema that is not valid.
    #[error("stream `{stream}`: {source}")]
    Schema {
        /// Name of the stream.
        stream: String,
        /// What is wrong.
        source: SchemaError,
    },
    /// A price out of range.
    #[error("stream `{stream}`: {source}")]
    Price {
        /// Name of the stream.
        stream: String,
        /// What is wrong.
        source: PriceError,
    },
    /// A place that is not one.
    #[error("stream `{stream}`: {source}")]
    Place {
        /// Name of the stream.
        stream: String,
        /// What is wrong.
        source: PlaceError,
    },
    /// The id does not follow from seller, name and schema.
    #[error("stream `{stream}`: its id is {found}, but seller, name and schema give {expected}")]
    StreamId {
        /// Name of the stream.
        stream: String,
        /// Id in the ad.
        found: StreamId,
        /// Id it must have.
        expected: StreamId,
    },
}

/// A line of text that is safe on a screen, in a file and in a log: no controls, no invisible or direction-changing characters. The error says
/// what is wrong.
pub(crate) fn check_line(text: &str, max: usize, may_be_empty: bool) -> Result<(), String> {
    if text.len() > max {
        return Err(format!("{} bytes, at most {max}", text.len()));
    }
    if text.is_empty() && !may_be_empty {
        return Err("is empty".into());
    }
    let unsafe_char = |c: &char| c.is_control() || is_invisible(*c);
    match text.chars().find(unsafe_char) {
        Some(c) => {
            let code = u32::from(c);
            Err(format!("has the character U+{code:04X}, which is invisible or changes the line"))
        }
        None => Ok(()),
    }
}

fn check_text(field: &'static str, text: &str, max: usize, may_be_empty: bool) -> Result<(), AdError> {
    check_line(text, max, may_be_empty).map_err(|reason| AdError::Field { field, reason })
}

/// Characters that are not seen or change the direction of what follows: the format characters of Unicode (category Cf), the line and
/// paragraph separators, and the fillers that look like nothing.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{115f}' | '\u{1160}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// A kind is a lower-case word: `[a-z0-9-]`, 1 to 32.
#[must_use]
pub fn is_kind(text: &str) -> bool {
    (1..=MAX_KIND_LEN).contains(&text.len())
        && text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

impl StreamAd {
    fn validate(&self, network: Network, seller: &PublicKey) -> Result<(), AdError> {
        check_text("streams.name", &self.name, MAX_NAME_LEN, false)?;
        check_text("streams.licence", &self.licence, MAX_LICENCE_LEN, false)?;
        let named = |_| self.name.clone();
        self.schema.validate().map_err(|source| AdError::Schema { stream: named(()), source })?;
        for price in [Some(self.price), self.second].into_iter().flatten() {
            price.validate().map_err(|source| AdError::Price { stream: named(()), source })?;
        }
        if let Some(place) = &self.place {
            place.validate().map_err(|source| AdError::Place { stream: named(()), source })?;
        }
        let field = |field, reason: &str| Err(AdError::Field { field, reason: reason.to_owned() });
        if self.kinds.is_empty()
            || self.kinds.len() > MAX_KINDS
            || !self.kinds.iter().all(|kind| is_kind(kind))
        {
            return field(
                "streams.kinds",
                "1 to 8 lower-case words of a-z, 0-9 and -, at most 32 bytes each",
            );
        }
        if self.modes.is_empty() || self.modes.len() > 8 {
            return field("streams.modes", "1 to 8 ways to pay");
        }
        if self.limits.max_readings == 0 {
            return field("streams.limits.max_readings", "is zero: nothing could be ordered");
        }
        let expected =
            StreamId::derive(network, seller, &self.name, &self.schema).map_err(AdError::Encoding)?;
        if expected == self.id {
            Ok(())
        } else {
            Err(AdError::StreamId { stream: self.name.clone(), found: self.id, expected })
        }
    }
}

impl Ad {
    /// Checks everything that can be checked without asking anybody: bounds, texts, schemas, prices, places, ids and times.
    ///
    /// # Errors
    /// [`AdError`] names the first thing that is wrong. A withdrawn ad is valid; see [`Ad::check_on_offer`].
    pub fn validate(&self, network: Network, seller: &PublicKey, now_ms: i64) -> Result<(), AdError> {
        let lifetime_ms = self.expires_ms.saturating_sub(self.issued_ms);
        if !(1..=MAX_LIFETIME_MS).contains(&lifetime_ms) {
            return Err(AdError::Lifetime { lifetime_ms });
        }
        let ahead_ms = self.issued_ms.saturating_sub(now_ms);
        if ahead_ms > CLOCK_TOLERANCE_MS {
            return Err(AdError::Future { ahead_s: ahead_ms / 1000 });
        }
        if self.expires_ms <= now_ms {
            let ago_s = now_ms.saturating_sub(self.expires_ms) / 1000;
            return Err(AdError::Expired { expires_ms: self.expires_ms, ago_s });
        }
        check_text("name", &self.name, MAX_NAME_LEN, true)?;
        let field = |field, reason: String| Err(AdError::Field { field, reason });
        if self.addresses.len() > MAX_ADDRESSES {
            return field(
                "addresses",
                format!("{} addresses, at most {MAX_ADDRESSES}", self.addresses.len()),
            );
        }
        for address in &self.addresses {
            check_text("addresses", address, MAX_ADDRESS_LEN, false)?;
            if !address.starts_with('/') {
                return field("addresses", format!("`{address}` is not a multiaddr: it begins with /"));
            }
        }
        if self.streams.len() > MAX_STREAMS {
            return field("streams", format!("{} streams, at most {MAX_STREAMS}", self.streams.len()));
        }
        match (self.withdrawn, self.streams.is_empty()) {
            (true, false) => return field("streams", "a withdrawn ad offers streams".into()),
            (false, true) => return field("streams", "no stream is offered".into()),
            _ => {}
        }
        let mut names: Vec<&str> = self.streams.iter().map(|stream| stream.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find_map(|pair| match pair {
            [a, b] if a == b => Some(*a),
            _ => None,
        }) {
            return field("streams.name", format!("`{twice}` is there twice"));
        }
        self.streams.iter().try_for_each(|stream| stream.validate(network, seller))
    }

    /// The seller still offers what is in it.
    ///
    /// # Errors
    /// [`AdError::Withdrawn`], [`AdError::Expired`].
    pub fn check_on_offer(&self, seller: &PublicKey, now_ms: i64) -> Result<(), AdError> {
        if self.withdrawn {
            return Err(AdError::Withdrawn {
                seller: crate::identity::peer_id(seller),
                version: self.version,
            });
        }
        if self.expires_ms <= now_ms {
            let ago_s = now_ms.saturating_sub(self.expires_ms) / 1000;
            return Err(AdError::Expired { expires_ms: self.expires_ms, ago_s });
        }
        Ok(())
    }

    /// The stream with this id.
    #[must_use]
    pub fn stream(&self, id: &StreamId) -> Option<&StreamAd> {
        self.streams.iter().find(|stream| &stream.id == id)
    }
}

/// Reads a signed ad from the bytes that travel, and checks all of it.
///
/// # Errors
/// [`AdError`].
pub fn open(bytes: &[u8], network: Network, now_ms: i64) -> Result<Signed<Ad>, AdError> {
    if bytes.len() > MAX_SIGNED_AD_LEN {
        return Err(AdError::TooLong { len: bytes.len(), max: MAX_SIGNED_AD_LEN });
    }
    let signed: SignedBytes = codec::decode_exact(bytes, MAX_SIGNED_AD_LEN).map_err(AdError::Encoding)?;
    if signed.body.len() > MAX_AD_LEN {
        return Err(AdError::TooLong { len: signed.body.len(), max: MAX_AD_LEN });
    }
    let signed = signed.verify::<Ad>(network).map_err(AdError::Statement)?;
    signed.value().validate(network, signed.key(), now_ms)?;
    Ok(signed)
}

/// The bytes of a signed ad, as they travel.
///
/// # Errors
/// [`AdError::TooLong`]; otherwise never for an ad that was signed or verified.
pub fn to_bytes(ad: &Signed<Ad>) -> Result<Vec<u8>, AdError> {
    let bytes = codec::encode(ad.bytes()).map_err(AdError::Encoding)?;
    if bytes.len() > MAX_SIGNED_AD_LEN {
        return Err(AdError::TooLong { len: bytes.len(), max: MAX_SIGNED_AD_LEN });
    }
    Ok(bytes)
}

/// The advertisement as a data output (`SENSORA_ADV` version 2): the whole signed ad is on chain, so that whoever reads the chain has
/// everything to verify it and to call the seller.
///
/// # Errors
/// As [`to_bytes`].
pub fn to_output(ad: &Signed<Ad>) -> Result<TxOut, AdError> {
    let bytes = to_bytes(ad)?;
    Ok(data_output(&[ADV_PREFIX, &[ADV_VERSION], &bytes]))
}

/// The signed ad's bytes in a `SENSORA_ADV` version 2 output, if that is what it is. They are not verified: see [`open`].
#[must_use]
pub fn bytes_in_output(output: &TxOut) -> Option<Vec<u8>> {
    let pushes = parse_data_output(&output.locking)?;
    match pushes.as_slice() {
        [prefix, version, bytes] if prefix == ADV_PREFIX && version == &[ADV_VERSION] => Some(bytes.clone()),
        _ => None,
    }
}

/// Lengths of the geohash prefixes under which an ad's streams are announced in the DHT: about 1,250 km, 156 km, 39 km and 5 km.
pub const DISCOVERY_PREFIXES: [usize; 4] = [2, 3, 4, 5];

/// The DHT key of all sellers of a `kind`, anywhere (`cell` is `None`) or in a geohash cell.
///
/// SHA-256 of `sensora/find/1`, network, kind and cell, each followed by a zero byte.
#[must_use]
pub fn discovery_key(network: Network, kind: &str, cell: Option<&str>) -> Hash {
    let zero: &[u8] = &[0];
    Hash::of_parts(&[
        b"sensora/find/1",
        zero,
        network.name().as_bytes(),
        zero,
        kind.as_bytes(),
        zero,
        cell.unwrap_or_default().as_bytes(),
        zero,
    ])
}

/// Every key under which the seller of `ad` announces itself.
#[must_use]
pub fn discovery_keys(network: Network, ad: &Ad) -> Vec<Hash> {
    let mut keys = Vec::new();
    for stream in &ad.streams {
        for kind in &stream.kinds {
            keys.push(discovery_key(network, kind, None));
            let Some(place) = &stream.place else { continue };
            let cells = DISCOVERY_PREFIXES.iter().filter_map(|len| place.geohash.get(..*len));
            keys.extend(cells.map(|cell| discovery_key(network, kind, Some(cell))));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The longest cell in which a search for `geohash` can be answered by the DHT, if there is one.
#[must_use]
pub fn discovery_cell(geohash: &str) -> Option<&str> {
    DISCOVERY_PREFIXES.iter().rev().find_map(|len| geohash.get(..*len))
}

/// Kinds that follow from a schema when the seller names none: what the units say, else the fields' own names.
#[must_use]
pub fn kinds_of(schema: &Schema) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for field in &schema.fields {
        let unit = field.unit.map(|unit| unit.name()).unwrap_or_default();
        let kind = match unit {
            "Cel" | "K" => "temperature".to_owned(),
            "%RH" => "humidity".to_owned(),
            "lx" => "light".to_owned(),
            "Pa" | "hPa" => "pressure".to_owned(),
            "W" | "kW" => "power".to_owned(),
            "J" | "kWh" | "Wh" => "energy".to_owned(),
            "V" | "mV" => "voltage".to_owned(),
            "A" | "mA" => "current".to_owned(),
            "dB" | "dBm" => "level".to_owned(),
            _ => field
                .name
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
                .take(MAX_KIND_LEN)
                .collect(),
        };
        if is_kind(&kind) && !kinds.contains(&kind) && kinds.len() < MAX_KINDS {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        kinds.push("reading".to_owned());
    }
    kinds
}
