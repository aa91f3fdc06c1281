//! Values with a grammar of their own: times and ranges of sequence numbers.

use std::str::FromStr;
use std::time::Duration;

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

/// A length of time, such as `90s`, `10m`, `1h`, `30d` or `1y`: one number and one unit. A year has 365 days here.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("`{text}` is not a length of time: write a number and a unit, such as 10s, 5m, 1h, 30d or 1y")
    };
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at_checked(at).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        _ => return Err(wrong()),
    };
    let seconds =
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).ok_or_else(wrong)?;
    // A hundred years: what is longer is a slip of the finger.
    if seconds == 0 || seconds > 100 * 365 * 86_400 {
        return Err(format!("`{text}` is out of range: it is one second to a hundred years"));
    }
    Ok(Duration::from_secs(seconds))
}

/// A number above zero.
pub(crate) fn parse_positive(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("`{text}` is not a number above zero")),
    }
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
    fn spans_have_one_number_and_one_unit() {
        for (text, seconds) in
            [("10s", 10), ("1m", 60), ("2min", 120), ("1h", 3_600), ("30d", 2_592_000), ("1y", 31_536_000)]
        {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "10", "m", "1.5h", "-1s", "0s", "1y2d", "101y", "99999999999999999999s", "1month", "1 h"]
        {
            assert!(parse_span(text).is_err(), "{text}");
        }
        assert_eq!(parse_positive("42.5"), Ok(42.5));
        for text in ["0", "-1", "NaN", "inf", "x"] {
            assert!(parse_positive(text).is_err(), "{text}");
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
