//! Units of measurement, so that a buyer knows what a number means without asking.
//!
//! The names are those of the IANA SenML units registry: the primary units of RFC 8428 §12.1 with the additions of
//! RFC 8798 §2, and the secondary units of RFC 8798 §3. They are case-sensitive. A name outside the registry is refused, with the
//! registered name that was most likely meant, because two sellers who invent two names for the same unit cannot be compared.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest unit name in the registry, in bytes.
pub const MAX_UNIT_LEN: usize = 8;

/// How much of an unknown unit an error quotes, in characters: the text may come from a stranger.
const QUOTED_CHARS: usize = 16;

/// A registered SenML unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    name: &'static str,
}

/// The text is not the name of a registered SenML unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a SenML unit (RFC 8428, RFC 8798); did you mean `{nearest}` ({meaning})?")]
pub struct UnknownUnit {
    /// The beginning of what was given.
    pub text: String,
    /// The registered unit that looks most like it.
    pub nearest: Unit,
    /// What the nearest unit measures in.
    pub meaning: &'static str,
}

impl Unit {
    /// The unit with this registered name.
    ///
    /// # Errors
    /// [`UnknownUnit`] names the registered unit that is nearest.
    pub fn new(name: &str) -> Result<Self, UnknownUnit> {
        match UNITS.iter().find(|(known, _)| *known == name) {
            Some((known, _)) => Ok(Self { name: known }),
            None => {
                let nearest = nearest(name);
                Err(UnknownUnit {
                    text: name.chars().take(QUOTED_CHARS).collect(),
                    nearest,
                    meaning: nearest.meaning(),
                })
            }
        }
    }

    /// The registered name, for example `Cel`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The unit in words, for example `degree Celsius`.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        UNITS.iter().find(|(name, _)| *name == self.name).map_or("", |(_, meaning)| meaning)
    }

    /// Every registered unit, primary units first.
    pub fn all() -> impl Iterator<Item = Self> {
        UNITS.iter().map(|(name, _)| Self { name })
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unit({})", self.name)
    }
}

impl FromStr for Unit {
    type Err = UnknownUnit;
    fn from_str(text: &str) -> Result<Self, UnknownUnit> {
        Self::new(text)
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UnitVisitor;
        impl serde::de::Visitor<'_> for UnitVisitor {
            type Value = Unit;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a SenML unit")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Unit, E> {
                Unit::new(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(UnitVisitor)
    }
}

/// The registered unit that `text` most likely means: what people write for it, then its words, then the smallest edit.
fn nearest(text: &str) -> Unit {
    let typed: String = text.trim().chars().take(QUOTED_CHARS).collect();
    let lower = typed.to_lowercase();
    if let Some((_, name)) = ALIASES.iter().find(|(alias, _)| *alias == lower) {
        return Unit { name };
    }
    let singular = lower.strip_suffix('s').unwrap_or(&lower);
    if let Some((name, _)) = UNITS.iter().find(|(_, meaning)| *meaning == lower || *meaning == singular) {
        return Unit { name };
    }
    UNITS
        .iter()
        .min_by_key(|(name, _)| {
            // A wrong letter weighs more than a letter of the wrong case.
            (edit_distance(&name.to_lowercase(), &lower), edit_distance(name, &typed))
        })
        .map_or(Unit { name: "/" }, |(name, _)| Unit { name })
}

/// Levenshtein distance in characters. Both texts are short: one is from the table, the other was cut to [`QUOTED_CHARS`].
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, b) in row.iter_mut().skip(1).zip(to.chars()) {
            let substituted = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = substituted.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// What people write, in lower case, and the registered name for it.
const ALIASES: &[(&str, &str)] = &[
    ("°c", "Cel"),
    ("c°", "Cel"),
    ("℃", "Cel"),
    ("degc", "Cel"),
    ("deg_c", "Cel"),
    ("celsius", "Cel"),
    ("°", "deg"),
    ("°k", "K"),
    ("percent", "/100"),
    ("pct", "/100"),
    ("rh", "%RH"),
    ("humidity", "%RH"),
    ("mbar", "hPa"),
    ("ω", "Ohm"),
    ("µg/m3", "ug/m3"),
    ("µg/m³", "ug/m3"),
    ("μg/m³", "ug/m3"),
    ("m²", "m2"),
    ("m³", "m3"),
    ("m/s²", "m/s2"),
    ("w/m²", "W/m2"),
    ("lux", "lx"),
    ("sec", "s"),
    ("second", "s"),
    ("hr", "h"),
    ("bytes", "B"),
    ("bpm", "beat/min"),
    ("kph", "km/h"),
    ("latitude", "lat"),
    ("longitude", "lon"),
    ("battery", "%EL"),
    ("1", "/"),
    ("", "/"),
];

/// The registry: name and meaning. Names the registry marks as not recommended are still registered.
const UNITS: &[(&str, &str)] = &[
    // RFC 8428 §12.1
    ("m", "metre"),
    ("kg", "kilogram"),
    ("g", "gram"),
    ("s", "second"),
    ("A", "ampere"),
    ("K", "kelvin"),
    ("cd", "candela"),
    ("mol", "mole"),
    ("Hz", "hertz"),
    ("rad", "radian"),
    ("sr", "steradian"),
    ("N", "newton"),
    ("Pa", "pascal"),
    ("J", "joule"),
    ("W", "watt"),
    ("C", "coulomb"),
    ("V", "volt"),
    ("F", "farad"),
    ("Ohm", "ohm"),
    ("S", "siemens"),
    ("Wb", "weber"),
    ("T", "tesla"),
    ("H", "henry"),
    ("Cel", "degree Celsius"),
    ("lm", "lumen"),
    ("lx", "lux"),
    ("Bq", "becquerel"),
    ("Gy", "gray"),
    ("Sv", "sievert"),
    ("kat", "katal"),
    ("m2", "square metre"),
    ("m3", "cubic metre"),
    ("l", "litre"),
    ("m/s", "metre per second"),
    ("m/s2", "metre per square second"),
    ("m3/s", "cubic metre per second"),
    ("l/s", "litre per second"),
    ("W/m2", "watt per square metre"),
    ("cd/m2", "candela per square metre"),
    ("bit", "bit"),
    ("bit/s", "bit per second"),
    ("lat", "degrees latitude (WGS 84)"),
    ("lon", "degrees longitude (WGS 84)"),
    ("pH", "pH value (acidity)"),
    ("dB", "decibel"),
    ("dBW", "decibel relative to 1 W"),
    ("Bspl", "bel (sound pressure level)"),
    ("count", "counter value"),
    ("/", "ratio"),
    ("%", "ratio, whose value is to be multiplied by 0.01 in another representation"),
    ("%RH", "percentage of relative humidity"),
    ("%EL", "percentage of remaining battery energy"),
    ("EL", "seconds of remaining battery energy"),
    ("1/s", "event per second"),
    ("1/min", "event per minute"),
    ("beat/min", "heart beat per minute"),
    ("beats", "cumulative number of heart beats"),
    ("S/m", "siemens per metre (conductivity)"),
    // RFC 8798 §2
    ("B", "byte"),
    ("VA", "volt-ampere (apparent power)"),
    ("VAs", "volt-ampere second (apparent energy)"),
    ("var", "volt-ampere reactive (reactive power)"),
    ("vars", "volt-ampere-reactive second (reactive energy)"),
    ("J/m", "joule per metre (energy per distance)"),
    ("kg/m3", "kilogram per cubic metre"),
    ("deg", "degree (angle)"),
    // RFC 8798 §3, secondary units
    ("ms", "millisecond"),
    ("min", "minute"),
    ("h", "hour"),
    ("MHz", "megahertz"),
    ("kW", "kilowatt"),
    ("kVA", "kilovolt-ampere"),
    ("kvar", "kilovar"),
    ("Ah", "ampere-hour"),
    ("Wh", "watt-hour"),
    ("kWh", "kilowatt-hour"),
    ("varh", "var-hour"),
    ("kvarh", "kilovar-hour"),
    ("kVAh", "kilovolt-ampere-hour"),
    ("Wh/km", "watt-hour per kilometre"),
    ("KiB", "kibibyte"),
    ("GB", "gigabyte"),
    ("Mbit/s", "megabit per second"),
    ("B/s", "byte per second"),
    ("MB/s", "megabyte per second"),
    ("mV", "millivolt"),
    ("mA", "milliampere"),
    ("dBm", "decibel relative to 1 mW"),
    ("ug/m3", "microgram per cubic metre"),
    ("mm/h", "millimetre per hour"),
    ("m/h", "metre per hour"),
    ("ppm", "part per million"),
    ("/100", "percent"),
    ("/1000", "permille"),
    ("hPa", "hectopascal"),
    ("mm", "millimetre"),
    ("cm", "centimetre"),
    ("km", "kilometre"),
    ("km/h", "kilometre per hour"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registered_unit_parses_once() {
        let names: std::collections::BTreeSet<_> = Unit::all().map(Unit::name).collect();
        assert_eq!(names.len(), UNITS.len(), "a unit is listed twice");
        for unit in Unit::all() {
            assert_eq!(unit.name().parse(), Ok(unit));
            assert!(unit.name().len() <= MAX_UNIT_LEN, "{unit} is longer than MAX_UNIT_LEN");
            assert!(!unit.meaning().is_empty());
        }
        assert!(ALIASES.iter().all(|(_, name)| names.contains(name)));
    }

    #[test]
    fn an_unknown_unit_is_answered_with_the_one_that_was_meant() {
        for (typed, meant) in [
            ("°C", "Cel"),
            ("celsius", "Cel"),
            ("cel", "Cel"),
            ("lux", "lx"),
            ("volts", "V"),
            ("hpa", "hPa"),
            ("KWH", "kWh"),
            ("RH", "%RH"),
            ("pa", "Pa"),
            ("percent", "/100"),
            ("metre", "m"),
        ] {
            assert_eq!(Unit::new(typed).unwrap_err().nearest.name(), meant, "for {typed}");
        }
    }

    #[test]
    fn an_error_quotes_only_the_beginning_of_a_long_text() {
        let error = Unit::new(&"x".repeat(1_000_000)).unwrap_err();
        assert_eq!(error.text.len(), QUOTED_CHARS);
    }
}
