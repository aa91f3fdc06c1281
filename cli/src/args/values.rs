//! Values with a grammar of their own: times and ranges of sequence numbers.

use std::str::FromStr;

/// `FIRST..END` (without END) or `FIRST..=LAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeqRange {
    /// First sequence number.
    pub(crate) first: u64,
    /// How many, at least one.
    pub(crate) count: u64,
}

impl FromStr for SeqRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is not a range: write FIRST..END (without END) or FIRST..=LAST, such as 0..100")
        };
        let (first, end) = text.split_once("..").ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let first = number(first)?;
        let end = match end.strip_prefix('=') {
            Some(last) => number(last)?.checked_add(1).ok_or_else(wrong)?,
            None => number(end)?,
        };
        match end.checked_sub(first) {
            Some(count) if count > 0 => Ok(Self { first, count }),
            _ => Err(format!("the range `{text}` is empty: its end must be above its beginning")),
        }
    }
}

/// A point in time as people write it, in nanoseconds since the Unix epoch: RFC 3339 (`2013-12-02T21:15:00Z`), a date or
/// a date with a time (taken as UTC), `now`, or how long ago (`2h ago`, `3 days ago`).
pub(crate) fn parse_time(text: &str, now_ns: i64) -> Result<i64, String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "`{text}` is not a time: write 2013-12-02T21:15:00Z, 2013-12-02 (UTC), now, or how long ago, such as \"2h ago\""
        )
    };
    if text == "now" {
        return Ok(now_ns);
    }
    if text.ends_with("ago") {
        let ago: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        let ago = i64::try_from(ago.as_nanos()).map_err(|_| wrong())?;
        return now_ns.checked_add(ago).ok_or_else(wrong);
    }
    let time = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time,
        Err(_) => {
            let utc = text.parse::<jiff::civil::DateTime>().map_err(|_| wrong())?;
            utc.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?.timestamp()
        }
    };
    i64::try_from(time.as_nanosecond()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_an_end_with_and_without() {
        assert_eq!("5..8".parse(), Ok(SeqRange { first: 5, count: 3 }));
        assert_eq!("5..=8".parse(), Ok(SeqRange { first: 5, count: 4 }));
        for text in ["", "5", "5..5", "8..5", "..", "-1..3", "a..b", "0..=18446744073709551615", "1...3"] {
            assert!(text.parse::<SeqRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_as_utc() {
        let at = |text| parse_time(text, 1_000_000_000_000_000_000);
        assert_eq!(at("2013-12-02T21:15:00Z"), Ok(1_386_018_900_000_000_000));
        assert_eq!(at("2013-12-02T22:15:00+01:00"), Ok(1_386_018_900_000_000_000));
        assert_eq!(at("2013-12-02 21:15:00"), Ok(1_386_018_900_000_000_000));
        assert_eq!(at("2013-12-02"), Ok(1_385_942_400_000_000_000));
        assert_eq!(at("now"), Ok(1_000_000_000_000_000_000));
        assert_eq!(at("2h ago"), Ok(1_000_000_000_000_000_000 - 7_200_000_000_000));
        for text in ["", "yesterday", "2013-13-02", "12:00", "9999-12-31", "ago"] {
            assert!(at(text).is_err(), "{text}");
        }
    }
}
