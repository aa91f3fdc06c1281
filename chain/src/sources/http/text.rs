//! Words of strangers, made fit for a log and a terminal.

use crate::sources::service::MAX_REASON;

/// At most [`MAX_REASON`] characters on one line, without control characters and without those that are not seen or
/// turn the direction of what follows.
pub(in crate::sources) fn tame(text: &str) -> String {
    let mut out = String::new();
    let mut length = 0usize;
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            gap = length > 0;
            continue;
        }
        if is_invisible(c) {
            continue;
        }
        if length.saturating_add(usize::from(gap)) >= MAX_REASON {
            break;
        }
        if gap {
            out.push(' ');
            length = length.saturating_add(1);
        }
        gap = false;
        out.push(c);
        length = length.saturating_add(1);
    }
    out
}

/// Joiners, marks of direction, and the like (Unicode's default ignorable characters that texts are forged with).
const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_moves_the_cursor_is_gone() {
        assert_eq!(tame("\n fee\r\n\ttoo \x1b[31mlow\u{7}\u{202e} \0"), "fee too [31mlow");
        assert_eq!(tame(""), "");
        assert_eq!(tame(&"ä".repeat(1000)), "ä".repeat(MAX_REASON));
    }

    proptest! {
        #[test]
        fn all_text_becomes_short_and_plain(text in "\\PC{0,40}|(?s).{0,400}") {
            let tamed = tame(&text);
            prop_assert!(tamed.chars().count() <= MAX_REASON);
            prop_assert!(!tamed.chars().any(|c| c.is_control() || is_invisible(c)));
            prop_assert_eq!(tame(&tamed), tamed);
        }
    }
}
