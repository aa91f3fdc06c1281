//! From the texts in which devices write times to nanoseconds since the Unix epoch.
//!
//! What a format means is settled once, when the source is opened, and then holds for all its rows: a recording whose
//! times change their meaning half way would be worse than one that is refused.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::{Offset, TimeZone};
use serde::{Deserialize, Serialize};

use super::columns::serde_as_text;
use super::error::quote;

const NS_PER_S: i64 = 1_000_000_000;

/// How times are written: `auto`, `rfc3339`, `unix`, `unix_ms`, `unix_us`, `unix_ns`, or a strftime pattern such as
/// `%d.%m.%Y %H:%M`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TimeFormat {
    /// Learnt from the first time: RFC 3339; a date and a time without an offset (`2015-02-02 14:19:00`, with `T` or
    /// a space, seconds and their fraction optional), read in the source's [`Zone`]; or a Unix time whose size tells
    /// its unit.
    #[default]
    Auto,
    /// RFC 3339, with its offset: `2015-02-02T14:19:00+01:00`.
    Rfc3339,
    /// Seconds since the Unix epoch, with or without decimals.
    Unix,
    /// Milliseconds since the Unix epoch, with or without decimals.
    UnixMs,
    /// Microseconds since the Unix epoch, with or without decimals.
    UnixUs,
    /// Nanoseconds since the Unix epoch.
    UnixNs,
    /// A strftime pattern; without an offset (`%z`) in it, times are read in the source's [`Zone`].
    Pattern(String),
}

/// A text that is no time format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no time format: it is auto, rfc3339, unix, unix_ms, unix_us, unix_ns, or a pattern with % such as `%d.%m.%Y %H:%M`"
)]
pub struct UnknownTimeFormat(String);

impl FromStr for TimeFormat {
    type Err = UnknownTimeFormat;

    fn from_str(text: &str) -> Result<Self, UnknownTimeFormat> {
        Ok(match text {
            "auto" => Self::Auto,
            "rfc3339" => Self::Rfc3339,
            "unix" => Self::Unix,
            "unix_ms" => Self::UnixMs,
            "unix_us" => Self::UnixUs,
            "unix_ns" => Self::UnixNs,
            pattern if pattern.contains('%') => Self::Pattern(pattern.to_owned()),
            other => return Err(UnknownTimeFormat(quote(other))),
        })
    }
}

impl fmt::Display for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Rfc3339 => "rfc3339",
            Self::Unix => "unix",
            Self::UnixMs => "unix_ms",
            Self::UnixUs => "unix_us",
            Self::UnixNs => "unix_ns",
            Self::Pattern(pattern) => pattern,
        })
    }
}

serde_as_text!(TimeFormat, UnknownTimeFormat);

/// The time zone of times that are written without an offset: `UTC` (the default), `+02:00`, a name of the IANA
/// database such as `Europe/Berlin`, or `local`.
///
/// Where clocks are set back, the repeated hour is read as its first pass; an hour that was skipped is read as if
/// the clock had not been set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    text: String,
    zone: TimeZone,
}

/// A text that is no time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no time zone that this machine knows: write UTC, +02:00, local, or a name such as Europe/Berlin"
)]
pub struct UnknownZone(String);

impl Default for Zone {
    fn default() -> Self {
        Self { text: "UTC".to_owned(), zone: TimeZone::UTC }
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(text: &str) -> Result<Self, UnknownZone> {
        let unknown = || UnknownZone(quote(text));
        let zone = match text {
            "UTC" | "utc" | "Z" => TimeZone::UTC,
            "local" => TimeZone::try_system().map_err(|_| unknown())?,
            offset if offset.starts_with(['+', '-']) => {
                TimeZone::fixed(offset_seconds(offset).ok_or_else(unknown)?)
            }
            name => TimeZone::get(name).map_err(|_| unknown())?,
        };
        Ok(Self { text: text.to_owned(), zone })
    }
}

/// `+HH:MM` or `+HHMM` or `+HH`, up to a day.
fn offset_seconds(text: &str) -> Option<Offset> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("-", digits) => (-1, digits),
        (_, digits) => (1, digits),
    };
    let digits = digits.replacen(':', "", 1);
    let (hours, minutes) = match digits.len() {
        2 => (digits.as_str(), "00"),
        4 => digits.split_at_checked(2)?,
        _ => return None,
    };
    let number = |part: &str| part.bytes().all(|c| c.is_ascii_digit()).then(|| part.parse::<i32>().ok())?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

serde_as_text!(Zone, UnknownZone);

/// A time that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// It is not written in the source's format.
    #[error("the time `{text}` is not {expected}")]
    Format {
        /// The beginning of the text.
        text: String,
        /// How it should be written.
        expected: String,
    },
    /// No format is recognised.
    #[error(
        "the time `{text}` is in no format that is recognised: give `time_format`, e.g. \"%d.%m.%Y %H:%M:%S\""
    )]
    Unrecognised {
        /// The beginning of the text.
        text: String,
    },
    /// It is before 1677 or after 2262.
    #[error(
        "the time `{text}` does not fit 64 bits of nanoseconds: it must lie between the years 1678 and 2262"
    )]
    Range {
        /// The beginning of the text.
        text: String,
    },
}

/// Reads times of one format.
#[derive(Clone, Debug)]
pub(super) struct TimeParser {
    format: Settled,
    zone: TimeZone,
}

#[derive(Clone, Debug)]
enum Settled {
    Rfc3339,
    /// A date and time without an offset.
    Civil,
    /// A decimal number of units of so many nanoseconds.
    Unix(i64),
    Pattern(String),
}

impl TimeParser {
    /// Settles `format`, for `auto` by the look of `sample`, and checks that it reads `sample`.
    pub(super) fn settle(format: &TimeFormat, zone: &Zone, sample: &str) -> Result<Self, TimeError> {
        let settled = match format {
            TimeFormat::Rfc3339 => Settled::Rfc3339,
            TimeFormat::Unix => Settled::Unix(NS_PER_S),
            TimeFormat::UnixMs => Settled::Unix(1_000_000),
            TimeFormat::UnixUs => Settled::Unix(1_000),
            TimeFormat::UnixNs => Settled::Unix(1),
            TimeFormat::Pattern(pattern) => Settled::Pattern(pattern.clone()),
            TimeFormat::Auto => {
                guess(sample.trim()).ok_or_else(|| TimeError::Unrecognised { text: quote(sample.trim()) })?
            }
        };
        let parser = Self { format: settled, zone: zone.zone.clone() };
        parser.parse(sample)?;
        Ok(parser)
    }

    /// Whether times are numbers, which other columns may be as well.
    pub(super) fn is_number(&self) -> bool {
        matches!(self.format, Settled::Unix(_))
    }

    /// Nanoseconds since the Unix epoch.
    pub(super) fn parse(&self, text: &str) -> Result<i64, TimeError> {
        let text = text.trim();
        let timestamp = match &self.format {
            Settled::Unix(unit) => {
                return match decimal(text, *unit) {
                    Decimal::Number(ns) => Ok(ns),
                    Decimal::TooLarge => Err(TimeError::Range { text: quote(text) }),
                    Decimal::NoNumber => Err(self.wrong(text)),
                };
            }
            Settled::Rfc3339 => Timestamp::from_str(text).ok(),
            Settled::Civil => civil(text).and_then(|time| self.zone.to_timestamp(time).ok()),
            Settled::Pattern(pattern) => self.by_pattern(pattern, text),
        };
        let timestamp = timestamp.ok_or_else(|| self.wrong(text))?;
        i64::try_from(timestamp.as_nanosecond()).map_err(|_| TimeError::Range { text: quote(text) })
    }

    fn by_pattern(&self, pattern: &str, text: &str) -> Option<Timestamp> {
        let broken_down = BrokenDownTime::parse(pattern, text).ok()?;
        if broken_down.offset().is_some() || broken_down.timestamp().is_some() {
            return broken_down.to_timestamp().ok();
        }
        let time = broken_down
            .to_datetime()
            .or_else(|_| broken_down.to_date().map(|date| date.to_datetime(jiff::civil::Time::midnight())));
        self.zone.to_timestamp(time.ok()?).ok()
    }

    fn wrong(&self, text: &str) -> TimeError {
        let expected = match &self.format {
            Settled::Rfc3339 => "RFC 3339 (2015-02-02T14:19:00+01:00)".to_owned(),
            Settled::Civil => "a date and a time (2015-02-02 14:19:00)".to_owned(),
            Settled::Unix(NS_PER_S) => "a Unix time in seconds".to_owned(),
            Settled::Unix(1_000_000) => "a Unix time in milliseconds".to_owned(),
            Settled::Unix(1_000) => "a Unix time in microseconds".to_owned(),
            Settled::Unix(_) => "a Unix time in nanoseconds".to_owned(),
            Settled::Pattern(pattern) => format!("written as `{pattern}`"),
        };
        TimeError::Format { text: quote(text), expected }
    }
}

fn civil(text: &str) -> Option<DateTime> {
    // jiff would read over an offset or a zone here; it must not be lost.
    let (_, time) = text.split_at_checked(10)?;
    if time.contains(['Z', 'z', '+', '-', '[']) {
        return None;
    }
    DateTime::from_str(text).ok()
}

fn guess(text: &str) -> Option<Settled> {
    if let Decimal::Number(whole) = decimal(text.split('.').next().unwrap_or_default(), 1) {
        // Each unit covers the years 1973 to 5138 (as far as they can be kept); earlier times need the format given.
        return Some(Settled::Unix(match whole.unsigned_abs() {
            100_000_000..100_000_000_000 => NS_PER_S,
            100_000_000_000..100_000_000_000_000 => 1_000_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1_000,
            100_000_000_000_000_000.. => 1,
            _ => return None,
        }));
    }
    if civil(text).is_some() {
        return Some(Settled::Civil);
    }
    Timestamp::from_str(text).is_ok().then_some(Settled::Rfc3339)
}

enum Decimal {
    Number(i64),
    TooLarge,
    NoNumber,
}

/// A decimal number times `unit`, exactly: a Unix time in floating point would lose its last digits. Decimals beyond
/// a nanosecond are cut off.
fn decimal(text: &str, unit: i64) -> Decimal {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return Decimal::NoNumber;
    }
    let mut total = whole.parse::<i64>().ok().and_then(|whole| whole.checked_mul(unit));
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        if place == 0 {
            break;
        }
        let part = place.checked_mul(i64::from(digit.saturating_sub(b'0')));
        total = total.zip(part).and_then(|(total, part)| total.checked_add(part));
    }
    match total.and_then(|total| if negative { total.checked_neg() } else { Some(total) }) {
        Some(total) => Decimal::Number(total),
        None => Decimal::TooLarge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2015-02-02T14:19:00Z
    const THEN: i64 = 1_422_886_740 * NS_PER_S;

    fn read(format: &str, zone: &str, text: &str) -> Result<i64, TimeError> {
        TimeParser::settle(&format.parse().unwrap(), &zone.parse().unwrap(), text).and_then(|p| p.parse(text))
    }

    #[test]
    fn one_moment_in_many_writings() {
        for (format, zone, text) in [
            ("auto", "UTC", "2015-02-02 14:19:00"),
            ("auto", "UTC", "2015-02-02T14:19"),
            ("auto", "+01:00", "2015-02-02 15:19:00.000"),
            ("auto", "-0530", "2015-02-02 08:49:00"),
            ("auto", "Europe/Berlin", "2015-02-02 15:19:00"),
            ("auto", "+09", "2015-02-02T14:19:00Z"),
            ("auto", "+09", "2015-02-02 14:19:00+00:00"),
            ("auto", "+09", "2015-02-02T15:19:00+01:00"),
            ("auto", "UTC", "1422886740"),
            ("auto", "UTC", "1422886740000"),
            ("auto", "UTC", "1422886740000000"),
            ("auto", "UTC", "1422886740000000000"),
            ("rfc3339", "UTC", "2015-02-02T15:19:00+01:00"),
            ("unix", "UTC", "1422886740.000000000"),
            ("unix_ms", "UTC", "1422886740000.0"),
            ("%d.%m.%Y %H:%M", "+01:00", "02.02.2015 15:19"),
            ("%m/%d/%y %I:%M %p", "UTC", "02/02/15 02:19 PM"),
            ("%Y%m%dT%H%M%S%z", "+09:00", "20150202T151900+0100"),
            ("%s", "+09:00", "1422886740"),
        ] {
            assert_eq!(read(format, zone, text), Ok(THEN), "{format} {zone} {text}");
        }
        assert_eq!(read("%Y-%m-%d", "UTC", "1971-01-01"), Ok(365 * 86_400 * NS_PER_S));
        assert_eq!(read("unix", "UTC", "-0.5"), Ok(-NS_PER_S / 2));
        assert_eq!(read("unix", "UTC", "1.1234567899"), Ok(1_123_456_789));
    }

    #[test]
    fn the_ends_of_time_are_errors_or_exact() {
        assert_eq!(read("auto", "UTC", "1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(read("auto", "UTC", "2106-02-07 06:28:15"), Ok(i64::from(u32::MAX) * NS_PER_S));
        assert_eq!(read("unix", "UTC", "0"), Ok(0));
        assert_eq!(read("unix_ns", "UTC", "-9223372036854775807"), Ok(-i64::MAX));
        for (format, text) in
            [("auto", "2500-01-01T00:00:00Z"), ("unix", "9300000000"), ("unix", "-99999999999999999999")]
        {
            assert!(matches!(read(format, "UTC", text), Err(TimeError::Range { .. })), "{format} {text}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_senseless_is_refused() {
        for text in
            ["", "noon", "02/03/2015 14:00", "12345", "1.5", "2015-02-30 00:00:00", "NaN", "1e9", "0x10"]
        {
            assert!(matches!(read("auto", "UTC", text), Err(TimeError::Unrecognised { .. })), "{text}");
        }
        for (format, text) in [
            ("unix", "1e9"),
            ("unix", "NaN"),
            ("unix", "--1"),
            ("rfc3339", "2015-02-02 14:19"),
            ("%H:%M", "12:30"),
        ] {
            assert!(matches!(read(format, "UTC", text), Err(TimeError::Format { .. })), "{format} {text}");
        }
        let naive = TimeParser::settle(&TimeFormat::Auto, &Zone::default(), "2015-02-02 14:19:00").unwrap();
        assert!(naive.parse("2015-02-02 14:19:00+01:00").is_err(), "an offset is not lost");
        let error = naive.parse("\u{1b}[2Jgone").unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error}");
        for zone in ["Mars/Base", "+25:00", "+1", "+01:60", "-aa:bb", ""] {
            assert!(zone.parse::<Zone>().is_err(), "{zone}");
        }
        assert!("seconds".parse::<TimeFormat>().is_err());
    }

    #[test]
    fn hours_that_come_twice_or_not_at_all_are_settled() {
        let at = |text| read("auto", "Europe/Berlin", text).unwrap() / NS_PER_S;
        // 2015-10-25: the hour from 02:00 comes twice, first at +02:00.
        assert_eq!(at("2015-10-25 02:30:00"), 1_445_733_000);
        // 2015-03-29: there is no 02:30; the clock that was not set stood at +01:00.
        assert_eq!(at("2015-03-29 02:30:00"), 1_427_592_600);
    }

    proptest! {
        #[test]
        fn unix_times_are_exact(ns in any::<i64>()) {
            let text = format!("{}{}.{:09}", if ns < 0 { "-" } else { "" }, ns.unsigned_abs() / 1_000_000_000, ns.unsigned_abs() % 1_000_000_000);
            let read = read("unix", "UTC", &text);
            // The least number is out of reach of a sign read first.
            prop_assert!(read == Ok(ns) || ns == i64::MIN);
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            for format in ["auto", "unix", "rfc3339", "%d.%m.%Y %H:%M"] {
                let _ = read(format, "UTC", &text);
            }
        }
    }
}
