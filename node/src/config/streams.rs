//! A stream's section: its source and how it is offered.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sensora_protocol::ad::{MAX_KINDS, MAX_NAME_LEN, is_kind};
use sensora_protocol::market::price::Price;
use sensora_protocol::place::{Place, PlaceError};
use serde::{Deserialize, Serialize};

use super::Config;
use super::error::ConfigError;
use super::licence::validate_licence;
use crate::agent::Terms;
use crate::agent::source::{SourceSpec, is_stream_name};

/// A tenth of a satoshi for a reading: ten thousand readings cost about what one anchor does, times twenty.
pub(super) fn default_price() -> Price {
    // In range, as the test that reads the default file shows.
    Price::from_msat(100).unwrap_or(Price::MAX)
}

/// `[[streams]]`: a source and how its streams are offered. What is not given is as in `[agent]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The stream's name, or what the names of the source's streams begin with; from the source where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where its readings come from.
    pub source: SourceSpec,
    /// What it measures, in lower-case words; from its units and fields where not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Price of one reading in thousandths of a satoshi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_msat: Option<Price>,
    /// Price of one second of the stream as it comes, in thousandths of a satoshi; by the reading only where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_msat: Option<Price>,
    /// Licence of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Where it is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<PlaceText>,
    /// Free readings for each buyer and day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// Usual time between two readings in milliseconds; from the source where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cadence_ms: Option<u64>,
    /// Most readings in one order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_readings: Option<u64>,
}

impl StreamConfig {
    /// A source offered as `[agent]` says.
    #[must_use]
    pub fn new(source: SourceSpec) -> Self {
        Self {
            name: None,
            source,
            kinds: Vec::new(),
            price_msat: None,
            second_msat: None,
            licence: None,
            place: None,
            sample: None,
            cadence_ms: None,
            max_readings: None,
        }
    }

    /// How the streams are offered, with what `[agent]` says where nothing is said here.
    #[must_use]
    pub fn terms(&self, config: &Config) -> Terms {
        let general = config.terms();
        Terms {
            price: self.price_msat.unwrap_or(general.price),
            second: self.second_msat,
            licence: self.licence.clone().unwrap_or(general.licence),
            place: self.place.as_ref().map_or(general.place, |place| place.place().cloned()),
            sample: self.sample.unwrap_or(general.sample),
            max_readings: self.max_readings.unwrap_or(general.max_readings),
            kinds: self.kinds.clone(),
            cadence: self.cadence_ms.map(Duration::from_millis),
        }
    }

    pub(super) fn validate(&self, section: &str) -> Result<(), ConfigError> {
        let invalid = |key: &str, reason: String| Err(ConfigError::invalid(section, key, reason));
        if let Some(name) = self.name.as_deref().filter(|name| !is_stream_name(name)) {
            let reason =
                format!("`{name}` is not 1 to 64 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit");
            return invalid("name", reason);
        }
        if self.kinds.len() > MAX_KINDS || !self.kinds.iter().all(|kind| is_kind(kind)) {
            return invalid("kinds", format!("it is up to {MAX_KINDS} words of a-z, 0-9 and -"));
        }
        if self.cadence_ms == Some(0) {
            return invalid("cadence_ms", "it is 1 at least".to_owned());
        }
        self.source.validate().or_else(|error| invalid("source", error.to_string()))
    }
}

/// Checks the values that sections `[agent]` and `[[streams]]` share.
pub(super) fn check_terms(section: &str, terms: &Terms) -> Result<(), ConfigError> {
    let invalid = |key: &str, reason: String| ConfigError::invalid(section, key, reason);
    terms.price.validate().map_err(|error| invalid("price_msat", error.to_string()))?;
    if let Some(second) = terms.second {
        second.validate().map_err(|error| invalid("second_msat", error.to_string()))?;
    }
    validate_licence(&terms.licence).map_err(|error| invalid("licence", error.to_string()))?;
    if terms.max_readings == 0 {
        return Err(invalid("max_readings", "nothing could be ordered; it is 1 at least".to_owned()));
    }
    Ok(())
}

/// Whether a text can stand in an ad.
pub(super) fn check_text(text: &str) -> Result<(), String> {
    if text.len() > MAX_NAME_LEN {
        return Err(format!("it has {} bytes, at most {MAX_NAME_LEN} are allowed", text.len()));
    }
    match text.chars().find(|character| character.is_control()) {
        Some(control) => Err(format!("it has the control character U+{:04X}", u32::from(control))),
        None => Ok(()),
    }
}

/// A place as a person writes it: `LAT,LON`, `LAT,LON,PRECISION`, a geohash, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlaceText(Option<Place>);

impl PlaceText {
    /// The place, where one is told.
    #[must_use]
    pub const fn place(&self) -> Option<&Place> {
        self.0.as_ref()
    }
}

impl From<Option<Place>> for PlaceText {
    fn from(place: Option<Place>) -> Self {
        Self(place)
    }
}

impl FromStr for PlaceText {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if text.trim().is_empty() { Ok(Self(None)) } else { text.parse().map(|place| Self(Some(place))) }
    }
}

impl TryFrom<String> for PlaceText {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        text.parse()
    }
}

impl fmt::Display for PlaceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("", |place| &place.geohash))
    }
}

impl From<PlaceText> for String {
    fn from(place: PlaceText) -> Self {
        place.to_string()
    }
}
