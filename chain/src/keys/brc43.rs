//! BRC-43 invoice numbers: what the derived keys of [`PrivateKey::child`](super::PrivateKey::child) are for; and
//! the ones of BRC-29 payments.

use std::fmt;

/// The protocol name of payments between peers (BRC-29).
pub const BRC29_PROTOCOL: &str = "3241645161d8";

/// How much a wallet asks its person before it uses such a key (BRC-43).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecurityLevel {
    /// Anybody may use it.
    Silent,
    /// Asked once for each application.
    App,
    /// Asked once for each application and counterparty.
    Counterparty,
}

impl SecurityLevel {
    const fn digit(self) -> char {
        match self {
            SecurityLevel::Silent => '0',
            SecurityLevel::App => '1',
            SecurityLevel::Counterparty => '2',
        }
    }
}

/// A valid invoice number `<level>-<protocol>-<key id>`; its text is the message that BRC-42 derives with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Invoice {
    level: SecurityLevel,
    protocol: String,
    key_id: String,
}

/// Why a name makes no invoice number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvoiceError {
    /// Outside 5..=280 characters.
    #[error("a protocol name has 5 to 280 characters, this has {0}")]
    ProtocolLength(usize),
    /// Something else than lower-case letters, digits and single spaces between them.
    #[error(
        "the protocol name \"{0}\" may hold only lower-case letters, digits and single spaces between words"
    )]
    ProtocolCharacters(String),
    /// The word that every name would end with.
    #[error("the protocol name \"{0}\" must not end with \" protocol\"")]
    ProtocolSuffix(String),
    /// Outside 1..=1033 bytes.
    #[error("a key id has 1 to 1033 bytes, this has {0}")]
    KeyIdLength(usize),
}

impl Invoice {
    /// The invoice number of `key_id` in `protocol`.
    ///
    /// # Errors
    /// [`InvoiceError`] if a name is not as BRC-43 wants it.
    pub fn new(
        level: SecurityLevel,
        protocol: impl Into<String>,
        key_id: impl Into<String>,
    ) -> Result<Self, InvoiceError> {
        let (protocol, key_id) = (protocol.into(), key_id.into());
        if !(5..=280).contains(&protocol.len()) {
            return Err(InvoiceError::ProtocolLength(protocol.len()));
        }
        let characters = protocol.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b' '));
        if !characters || protocol.contains("  ") || protocol.starts_with(' ') || protocol.ends_with(' ') {
            return Err(InvoiceError::ProtocolCharacters(protocol));
        }
        if protocol.ends_with(" protocol") {
            return Err(InvoiceError::ProtocolSuffix(protocol));
        }
        if !(1..=1033).contains(&key_id.len()) {
            return Err(InvoiceError::KeyIdLength(key_id.len()));
        }
        Ok(Invoice { level, protocol, key_id })
    }
}

impl fmt::Display for Invoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.level.digit(), self.protocol, self.key_id)
    }
}

/// The invoice number of a BRC-29 payment: `2-3241645161d8-<prefix> <suffix>`. Prefix and suffix are the payment's
/// nonces as base64 text.
///
/// # Errors
/// [`InvoiceError::KeyIdLength`] if both together are longer than a key id may be.
pub fn brc29_invoice(prefix: &str, suffix: &str) -> Result<Invoice, InvoiceError> {
    Invoice::new(SecurityLevel::Counterparty, BRC29_PROTOCOL, format!("{prefix} {suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_level_protocol_key() {
        let invoice = Invoice::new(SecurityLevel::App, "sensora order", "7").unwrap();
        assert_eq!(invoice.to_string(), "1-sensora order-7");
        assert_eq!(brc29_invoice("cHJl", "c3Vm").unwrap().to_string(), "2-3241645161d8-cHJl c3Vm");
    }

    #[test]
    fn names_that_brc43_forbids_are_refused() {
        let new = |protocol: &str, key: &str| Invoice::new(SecurityLevel::Silent, protocol, key).unwrap_err();
        assert_eq!(new("four", "1"), InvoiceError::ProtocolLength(4));
        assert!(matches!(new("Upper case", "1"), InvoiceError::ProtocolCharacters(_)));
        assert!(matches!(new("two  spaces", "1"), InvoiceError::ProtocolCharacters(_)));
        assert!(matches!(new("a-dash", "1"), InvoiceError::ProtocolCharacters(_)));
        assert!(matches!(new(" spaced ", "1"), InvoiceError::ProtocolCharacters(_)));
        assert!(matches!(new("my protocol", "1"), InvoiceError::ProtocolSuffix(_)));
        assert_eq!(new("hello", ""), InvoiceError::KeyIdLength(0));
        assert_eq!(new("hello", &"k".repeat(1034)), InvoiceError::KeyIdLength(1034));
    }
}
