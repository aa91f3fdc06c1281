//! Licences are named by SPDX, so that a buyer's program knows what it may do with the data.

use sensora_protocol::ad::MAX_LICENCE_LEN;
use spdx::identifiers::LICENSES;
use spdx::{Expression, ParseMode};

use crate::agent::source::nearest;

/// A licence that is not named as SPDX names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LicenceError {
    /// Not an SPDX expression.
    #[error("`{text}` is no SPDX licence{}: write one such as CC-BY-4.0, CC0-1.0, ODbL-1.0 or MIT, or LicenseRef-… for your own", did_you_mean(nearest.as_deref()))]
    Unknown {
        /// What was given.
        text: String,
        /// The SPDX id that looks most like it.
        nearest: Option<String>,
    },
    /// Longer than an ad may carry.
    #[error("the licence has {length} bytes, an ad carries at most {MAX_LICENCE_LEN}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
}

/// Checks that `text` is an SPDX licence expression (version 2, the list that the `spdx` crate carries, which has the
/// Creative Commons and Open Data Commons licences); ids that SPDX has retired are read as well.
///
/// # Errors
/// [`LicenceError`] names the id that was probably meant.
pub fn validate_licence(text: &str) -> Result<(), LicenceError> {
    if text.len() > MAX_LICENCE_LEN {
        return Err(LicenceError::TooLong { length: text.len() });
    }
    let mode = ParseMode { allow_deprecated: true, ..ParseMode::STRICT };
    Expression::parse_mode(text, mode).map(|_| ()).map_err(|_| LicenceError::Unknown {
        text: text.to_owned(),
        nearest: nearest(text, LICENSES.iter().map(|licence| licence.name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_named_as_spdx_names_them() {
        for text in
            ["CC-BY-4.0", "CC0-1.0", "ODbL-1.0", "PDDL-1.0", "MIT", "MIT OR Apache-2.0", "LicenseRef-house"]
        {
            validate_licence(text).unwrap();
        }
        for (text, near) in [("CC-BY-40", "CC-BY-4.0"), ("cc-by-4.0", "CC-BY-4.0"), ("ODBL-1.0", "ODbL-1.0")]
        {
            let Err(LicenceError::Unknown { nearest, .. }) = validate_licence(text) else { panic!("{text}") };
            assert_eq!(nearest.as_deref(), Some(near));
        }
        for text in ["", "all rights reserved", "CC-BY-4.0 OR", "\u{1b}[2J"] {
            assert!(validate_licence(text).is_err(), "{text}");
        }
        let long = "MIT OR ".repeat(20);
        assert!(matches!(validate_licence(&long), Err(LicenceError::TooLong { .. })));
    }
}
