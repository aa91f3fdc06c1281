//! Numbers, times and foreign texts as people read them.

use std::time::Duration;

use sensora_chain::Satoshis;

/// An amount: `1,234 sat`.
pub(crate) fn sat(amount: Satoshis) -> String {
    amount.to_string()
}

/// A change of the balance: `+1,234 sat`, `-5 sat`.
pub(crate) fn signed_sat(delta: i64) -> String {
    let sign = if delta < 0 { '-' } else { '+' };
    format!("{sign}{}", Satoshis::from_sat(delta.unsigned_abs()))
}

/// A time in nanoseconds since the Unix epoch as RFC 3339 in UTC.
pub(crate) fn time_ns(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map_or_else(|_| format!("{ns} ns"), |time| time.to_string())
}

/// A time in milliseconds since the Unix epoch as RFC 3339 in UTC, to the second.
pub(crate) fn time_ms(ms: i64) -> String {
    jiff::Timestamp::from_second(ms.div_euclid(1000))
        .map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

/// A duration with the two units that matter: `2 d 3 h`, `4 min 10 s`, `1.2 s`, `85 ms`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=59 => format!("{:.1} s", duration.as_secs_f64()),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number of things: `1 reading`, `2 readings`.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("{count} {thing}") } else { format!("{count} {thing}s") }
}

/// At most `most` characters of a text, with a mark where it was cut.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The beginning of an id, enough to tell it from the others on a screen.
pub(crate) fn short_id(id: &impl std::fmt::Display) -> String {
    const SHOWN: usize = 12;
    id.to_string().chars().take(SHOWN).collect()
}

/// A text from elsewhere without what could rewrite a terminal: control and direction-changing characters become `�`.
/// Line breaks stay, as they are our own doing in help texts.
pub(crate) fn printable(text: &str) -> String {
    let is_harmful = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_read_well() {
        assert_eq!(sat(Satoshis::from_sat(1_234_567)), "1,234,567 sat");
        assert_eq!(signed_sat(-1500), "-1,500 sat");
        assert_eq!(signed_sat(0), "+0 sat");
        assert_eq!(signed_sat(i64::MIN), format!("-{}", Satoshis::MAX));
        assert_eq!(time_ns(1_386_018_900_000_000_000), "2013-12-02T21:15:00Z");
        assert_eq!(time_ns(1_386_018_900_250_000_000), "2013-12-02T21:15:00.25Z");
        assert_eq!(time_ms(1_386_018_900_999), "2013-12-02T21:15:00Z");
        assert_eq!(time_ms(i64::MAX), format!("{} ms", i64::MAX));
        assert_eq!(duration(Duration::from_millis(85)), "85 ms");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 1 h");
        assert_eq!((counted(1, "order"), counted(0, "order")), ("1 order".to_owned(), "0 orders".to_owned()));
        assert_eq!((shortened("abcd", 4), shortened("äbcde", 4)), ("abcd".to_owned(), "äbc…".to_owned()));
    }

    #[test]
    fn a_foreign_text_cannot_rewrite_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\u{202e}c\nd"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\nd");
    }
}
