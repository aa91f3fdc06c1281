//! How long a service asks to be left alone: `Retry-After` of RFC 9110 §10.2.3, in seconds or as a date.

use std::time::Duration;

/// Without a word on how long: a few windows of the usual limits.
const UNSAID: Duration = Duration::from_secs(2);

/// Zero would mean to ask again at once, which is what brought the answer about.
const MIN: Duration = Duration::from_secs(1);

/// No service is lost for longer on its own word; it may be asked again and say the same.
const MAX: Duration = Duration::from_secs(600);

/// The wait that `value` asks for. A date is held against the answer's own `Date`, so that no clock of ours matters.
pub(super) fn parse(value: Option<&str>, date: Option<&str>) -> Duration {
    let said = value.map(str::trim).and_then(|value| {
        if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
            // More digits than fit are more than the longest wait.
            return Some(value.parse().map_or(MAX, Duration::from_secs));
        }
        let wait = http_date(value)?.saturating_sub(http_date(date?)?);
        Some(Duration::from_secs(u64::try_from(wait).unwrap_or_default()))
    });
    said.unwrap_or(UNSAID).clamp(MIN, MAX)
}

/// Seconds since 1970 of a date in the one form that is still allowed to be sent: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = text.trim().split_once(", ")?.1.strip_suffix(" GMT")?;
    let mut words = rest.split(' ');
    let mut next = || words.next();
    let day: i64 = next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = next()?;
    let month = i64::try_from(MONTHS.iter().position(|name| *name == month)?).ok()?;
    let year: i64 = next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = next()?.split(':').map(|part| part.parse::<i64>().ok().filter(|n| (0..=60).contains(n)));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);

    // Years that begin in March have their leap day at the end.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_taken_within_bounds() {
        let seconds = |text| parse(Some(text), None).as_secs();
        assert_eq!(seconds("7"), 7);
        assert_eq!(seconds(" 120 "), 120);
        assert_eq!(seconds("0"), 1);
        assert_eq!(seconds("86400"), 600);
        assert_eq!(seconds("99999999999999999999999999"), 600);
        for odd in ["", "-1", "1.5", "soon", "\u{665}"] {
            assert_eq!(parse(Some(odd), None), UNSAID, "{odd:?}");
        }
        assert_eq!(parse(None, None), UNSAID);
    }

    #[test]
    fn a_date_counts_from_the_date_of_the_answer() {
        let at = |text| http_date(text);
        assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(at("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(at("Tue, 29 Feb 2028 12:00:00 GMT"), Some(1_835_438_400));
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse(Some("Sun, 06 Nov 1994 08:50:07 GMT"), now).as_secs(), 30);
        assert_eq!(parse(Some("Sun, 06 Nov 1994 08:00:00 GMT"), now), MIN);
        assert_eq!(parse(Some("Fri, 31 Dec 9999 23:59:59 GMT"), now), MAX);
        assert_eq!(parse(Some("Sun, 06 Nov 1994 08:50:07 GMT"), None), UNSAID);
        for odd in [
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "x, y GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 9223372036854775807 08:49:37 GMT",
        ] {
            assert_eq!(at(odd), None, "{odd}");
        }
    }
}
