//! Signed statements: who said exactly these bytes, about what, on which network.
//!
//! What is signed is the SHA-256 of the deterministic CBOR array
//! `[name, version, network, body]`, where `body` is a byte string that holds the statement's own CBOR. Name, version and network keep a
//! signature from being valid for any other kind of statement, any later meaning of it, or any other chain. The body's
//! received bytes are hashed as they came, never re-encoded, so that a statement means the same to every reader.

use std::fmt;

use sensora_chain::Network;
use sensora_chain::keys::{PublicKey, Signature};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::id::Hash;
use crate::identity::Identity;

/// A kind of statement that can be signed.
pub trait Statement: Serialize + DeserializeOwned {
    /// Name in the signed bytes, `sensora/<kind>`.
    const NAME: &'static str;
    /// Version of the body's meaning. A change of meaning is a new version, and old signatures do not carry over.
    const VERSION: u16 = 1;
    /// Longest body, in bytes.
    const MAX_LEN: usize;
}

/// Why a statement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The body is not the CBOR of such a statement.
    #[error("the body of {name}: {source}")]
    Body {
        /// Kind of statement.
        name: &'static str,
        /// What is wrong with the bytes.
        source: CodecError,
    },
    /// The signature is not the signer's over these bytes on this network.
    #[error("the signature on {name} is not by {signer} for network {network}")]
    Signature {
        /// Kind of statement.
        name: &'static str,
        /// Peer id of the key that is named as signer.
        signer: String,
        /// Network that was expected.
        network: Network,
    },
    /// The statement is signed, but by somebody else than the one whose word it must be.
    #[error("{name} is signed by {found}, expected {expected}")]
    Signer {
        /// Kind of statement.
        name: &'static str,
        /// Peer id that signed.
        found: String,
        /// Peer id that had to sign.
        expected: String,
    },
}

/// A statement as it moves and is stored: bytes that nobody has checked yet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBytes {
    /// CBOR of the statement.
    #[serde(with = "bytes_or_hex")]
    pub body: Vec<u8>,
    /// Who says so.
    pub key: PublicKey,
    /// ECDSA over secp256k1, compact (r ‖ s, 64 bytes), low S.
    #[serde(with = "bytes_or_hex")]
    pub signature: Vec<u8>,
}

impl fmt::Debug for SignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignedBytes({} bytes by {})", self.body.len(), crate::identity::peer_id(&self.key))
    }
}

/// A statement whose signature has been checked.
#[derive(Clone, PartialEq)]
pub struct Signed<T> {
    value: T,
    bytes: SignedBytes,
}

impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("value", &self.value)
            .field("by", &crate::identity::peer_id(&self.bytes.key))
            .finish()
    }
}

/// The digest that is signed for a statement with this body.
#[must_use]
pub fn digest(name: &str, version: u16, network: Network, body: &[u8]) -> Hash {
    // Written by hand because it cannot fail: four items, each with its shortest head.
    let mut bytes = Vec::with_capacity(body.len().saturating_add(64));
    bytes.push(0x84);
    push_head(&mut bytes, 3, name.len() as u64);
    bytes.extend_from_slice(name.as_bytes());
    push_head(&mut bytes, 0, u64::from(version));
    push_head(&mut bytes, 3, network.name().len() as u64);
    bytes.extend_from_slice(network.name().as_bytes());
    push_head(&mut bytes, 2, body.len() as u64);
    bytes.extend_from_slice(body);
    Hash::of(&bytes)
}

/// The shortest CBOR head of `major` with `argument` (RFC 8949 §3).
pub(crate) fn push_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    if let Ok(small) = u8::try_from(argument) {
        if small < 24 {
            out.push(major | small);
        } else {
            out.extend_from_slice(&[major | 24, small]);
        }
    } else if let Ok(short) = u16::try_from(argument) {
        out.push(major | 25);
        out.extend_from_slice(&short.to_be_bytes());
    } else if let Ok(word) = u32::try_from(argument) {
        out.push(major | 26);
        out.extend_from_slice(&word.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&argument.to_be_bytes());
    }
}

impl SignedBytes {
    /// Checks the signature and decodes the body.
    ///
    /// # Errors
    /// [`StatementError`] when the body is not such a statement or the signature is not by `key` for `network`.
    pub fn verify<T: Statement>(self, network: Network) -> Result<Signed<T>, StatementError> {
        let value = codec::decode_exact::<T>(&self.body, T::MAX_LEN)
            .map_err(|source| StatementError::Body { name: T::NAME, source })?;
        let digest = digest(T::NAME, T::VERSION, network, &self.body);
        let valid = Signature::from_compact(&self.signature)
            .is_ok_and(|signature| self.key.verify(digest.as_bytes(), &signature));
        if !valid {
            let signer = crate::identity::peer_id(&self.key);
            return Err(StatementError::Signature { name: T::NAME, signer, network });
        }
        Ok(Signed { value, bytes: self })
    }

    /// As [`SignedBytes::verify`], and the signer must be `signer`.
    ///
    /// # Errors
    /// Also [`StatementError::Signer`].
    pub fn verify_by<T: Statement>(
        self,
        network: Network,
        signer: &PublicKey,
    ) -> Result<Signed<T>, StatementError> {
        if &self.key != signer {
            return Err(StatementError::Signer {
                name: T::NAME,
                found: crate::identity::peer_id(&self.key),
                expected: crate::identity::peer_id(signer),
            });
        }
        self.verify(network)
    }
}

impl<T: Statement> Signed<T> {
    /// Signs `value` with the identity's key.
    ///
    /// # Errors
    /// [`StatementError::Body`] when the value cannot be encoded or is longer than [`Statement::MAX_LEN`].
    pub fn sign(value: T, identity: &Identity, network: Network) -> Result<Self, StatementError> {
        let body_error = |source| StatementError::Body { name: T::NAME, source };
        let body = codec::encode(&value).map_err(body_error)?;
        if body.len() > T::MAX_LEN {
            return Err(body_error(CodecError::TooLong { len: body.len(), max: T::MAX_LEN }));
        }
        let digest = digest(T::NAME, T::VERSION, network, &body);
        let signature = identity.key().sign(digest.as_bytes()).compact().to_vec();
        Ok(Self { value, bytes: SignedBytes { body, key: *identity.public(), signature } })
    }

    /// The digest that the signature covers: the statement's name everywhere.
    #[must_use]
    pub fn digest(&self, network: Network) -> Hash {
        digest(T::NAME, T::VERSION, network, &self.bytes.body)
    }
}

impl<T> Signed<T> {
    /// The statement.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Who signed it.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.bytes.key
    }

    /// The bytes as they are sent and stored.
    #[must_use]
    pub fn bytes(&self) -> &SignedBytes {
        &self.bytes
    }

    /// Gives up the decoded value for the bytes.
    #[must_use]
    pub fn into_bytes(self) -> SignedBytes {
        self.bytes
    }
}

/// A byte string in CBOR, hex in JSON: for serde's `with`.
pub mod bytes_or_hex {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the bytes.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer, B: AsRef<[u8]>>(bytes: &B, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(bytes))
        } else {
            serializer.serialize_bytes(bytes.as_ref())
        }
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// When they are not a byte string (CBOR) or not hex (JSON), or of a length the target does not take.
    pub fn deserialize<'de, D: Deserializer<'de>, B: TryFrom<Vec<u8>>>(
        deserializer: D,
    ) -> Result<B, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            hex::decode(text).map_err(D::Error::custom)?
        } else {
            serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec()
        };
        let len = bytes.len();
        B::try_from(bytes).map_err(|_| D::Error::custom(format!("{len} bytes is not the expected length")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensora_chain::keys::PrivateKey;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Claim {
        text: String,
    }
    impl Statement for Claim {
        const NAME: &'static str = "sensora/test";
        const MAX_LEN: usize = 64;
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Other {
        text: String,
    }
    impl Statement for Other {
        const NAME: &'static str = "sensora/other";
        const MAX_LEN: usize = 64;
    }

    fn identity(seed: u8) -> Identity {
        Identity::new(PrivateKey::from_bytes([seed; 32]).unwrap())
    }

    #[test]
    fn a_signature_counts_for_one_kind_one_network_one_signer_and_these_bytes() {
        let signed = Signed::sign(Claim { text: "it is so".into() }, &identity(1), Network::Regtest).unwrap();
        let bytes = signed.bytes().clone();
        assert_eq!(bytes.clone().verify::<Claim>(Network::Regtest).unwrap().value(), signed.value());

        assert!(matches!(
            bytes.clone().verify::<Claim>(Network::Main),
            Err(StatementError::Signature { .. })
        ));
        assert!(matches!(
            bytes.clone().verify::<Other>(Network::Regtest),
            Err(StatementError::Signature { .. })
        ));
        assert!(matches!(
            bytes.clone().verify_by::<Claim>(Network::Regtest, identity(2).public()),
            Err(StatementError::Signer { .. })
        ));
        let mut altered = bytes.clone();
        altered.body = codec::encode(&Claim { text: "it is no".into() }).unwrap();
        assert!(matches!(altered.verify::<Claim>(Network::Regtest), Err(StatementError::Signature { .. })));
        let mut foreign = bytes.clone();
        foreign.key = *identity(2).public();
        assert!(foreign.verify::<Claim>(Network::Regtest).is_err());
        let mut padded = bytes;
        padded.body.push(0);
        assert!(matches!(padded.verify::<Claim>(Network::Regtest), Err(StatementError::Body { .. })));
    }

    #[test]
    fn a_statement_over_its_limit_is_not_signed() {
        let long = Claim { text: "x".repeat(80) };
        assert!(matches!(
            Signed::sign(long, &identity(1), Network::Regtest),
            Err(StatementError::Body { source: CodecError::TooLong { .. }, .. })
        ));
    }

    #[test]
    fn heads_are_the_shortest() {
        for (argument, hex) in
            [(0, "40"), (23, "57"), (24, "5818"), (255, "58ff"), (256, "590100"), (65536, "5a00010000")]
        {
            let mut out = Vec::new();
            push_head(&mut out, 2, argument);
            assert_eq!(hex::encode(out), hex);
        }
    }
}
