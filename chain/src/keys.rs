//! Keys and signatures on secp256k1, and the standards that derive one key from another.
//!
//! A Sensora node has one root key. From it and a counterparty's public key come as many others as there are
//! invoices (BRC-42): both sides can compute them, nobody else can link them.

mod address;
mod brc42;
mod brc43;
mod wif;

use std::fmt;
use std::str::FromStr;

use secp256k1::{Message, SecretKey, ecdsa};
use zeroize::Zeroizing;

pub use address::{Address, AddressError};
pub use brc43::{BRC29_PROTOCOL, Invoice, InvoiceError, SecurityLevel, brc29_invoice};
pub use wif::WifError;

use crate::encode::hash160;
use crate::network::Network;

/// Why bytes are no key or signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Zero, or not below the order of the curve.
    #[error("these 32 bytes are not a private key of secp256k1")]
    PrivateKey,
    /// Not a compressed point.
    #[error("these bytes are not a compressed public key of secp256k1 (33 bytes, the first 02 or 03)")]
    PublicKey,
    /// Not a canonical signature.
    #[error("these bytes are not a signature in its one canonical form (strict DER or 64 bytes, low S)")]
    Signature,
}

/// A private key. It is wiped from memory when dropped and never printed.
#[derive(Clone)]
pub struct PrivateKey {
    secret: SecretKey,
    public: PublicKey,
}

impl PrivateKey {
    /// A key from 32 bytes, big-endian.
    ///
    /// # Errors
    /// [`KeyError::PrivateKey`] if they are zero or not below the curve's order.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(bytes);
        SecretKey::from_secret_bytes(*bytes).map(Self::from_secret).map_err(|_| KeyError::PrivateKey)
    }

    fn from_secret(secret: SecretKey) -> Self {
        let public = PublicKey(secp256k1::PublicKey::from_secret_key(&secret));
        PrivateKey { secret, public }
    }

    /// The key's 32 bytes, big-endian.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_secret_bytes())
    }

    /// The public key.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs a 32-byte digest: deterministic (RFC 6979), low S.
    pub fn sign(&self, digest: &[u8; 32]) -> Signature {
        Signature(ecdsa::sign(Message::from_digest(*digest), &self.secret))
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.secret.non_secure_erase();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public)
    }
}

/// A public key, as a point that is known to be on the curve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(secp256k1::PublicKey);

impl PublicKey {
    /// Bytes of a compressed public key.
    pub const SIZE: usize = 33;

    /// A key from its 33 compressed bytes.
    ///
    /// # Errors
    /// [`KeyError::PublicKey`] for any other form, and where no point has this x.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: &[u8; 33] = bytes.try_into().map_err(|_| KeyError::PublicKey)?;
        secp256k1::PublicKey::from_byte_array_compressed(*bytes)
            .map(PublicKey)
            .map_err(|_| KeyError::PublicKey)
    }

    /// The 33 compressed bytes.
    pub fn to_bytes(&self) -> [u8; 33] {
        self.0.serialize()
    }

    /// The hash in an address and in a pay-to-public-key-hash script.
    pub fn hash160(&self) -> [u8; 20] {
        hash160(&self.to_bytes())
    }

    /// The key's address.
    pub fn address(&self, network: Network) -> Address {
        Address::new(network, self.hash160())
    }

    /// Whether `signature` over `digest` is this key's.
    pub fn verify(&self, digest: &[u8; 32], signature: &Signature) -> bool {
        verify_point(&self.0, digest, signature)
    }
}

fn verify_point(point: &secp256k1::PublicKey, digest: &[u8; 32], signature: &Signature) -> bool {
    ecdsa::verify(&signature.0, Message::from_digest(*digest), point).is_ok()
}

/// Verifies with a public key as scripts carry it: compressed, or uncompressed as in old coins (never "hybrid").
pub(crate) fn verify_encoded(key: &[u8], digest: &[u8; 32], signature: &Signature) -> Result<bool, KeyError> {
    match key {
        [0x02 | 0x03, ..] => Ok(PublicKey::from_bytes(key)?.verify(digest, signature)),
        [0x04, ..] if key.len() == 65 => {
            let point = secp256k1::PublicKey::from_slice(key).map_err(|_| KeyError::PublicKey)?;
            Ok(verify_point(&point, digest, signature))
        }
        _ => Err(KeyError::PublicKey),
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.to_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0u8; 33];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError::PublicKey)?;
        Self::from_bytes(&bytes)
    }
}

crate::bytes_serde::impl_bytes_serde!(PublicKey, "a public key", PublicKey::to_bytes, |b| {
    PublicKey::from_bytes(b).map_err(|e| e.to_string())
});

/// An ECDSA signature in its one canonical form (low S).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(ecdsa::Signature);

impl Signature {
    /// Bytes of [`Signature::compact`].
    pub const COMPACT_SIZE: usize = 64;

    /// R and S, 32 bytes each, big-endian.
    pub fn compact(&self) -> [u8; 64] {
        self.0.serialize_compact()
    }

    /// A signature from its compact form.
    ///
    /// # Errors
    /// [`KeyError::Signature`] if it is not 64 bytes, out of range, or has a high S.
    pub fn from_compact(bytes: &[u8]) -> Result<Self, KeyError> {
        ecdsa::Signature::from_compact(bytes).map_err(|_| KeyError::Signature).and_then(Self::low_s)
    }

    /// The DER form that scripts carry: 70 or 71 bytes, now and then fewer.
    pub fn der(&self) -> Vec<u8> {
        self.0.serialize_der().to_vec()
    }

    /// A signature from DER, only in the one encoding that [`Signature::der`] gives for it (BIP66 and low S).
    ///
    /// # Errors
    /// [`KeyError::Signature`] for anything else.
    pub fn from_der_strict(bytes: &[u8]) -> Result<Self, KeyError> {
        let signature =
            ecdsa::Signature::from_der(bytes).map_err(|_| KeyError::Signature).and_then(Self::low_s)?;
        // The library reads numbers that are out of range as zero; writing them again tells.
        if signature.der() == bytes { Ok(signature) } else { Err(KeyError::Signature) }
    }

    fn low_s(signature: ecdsa::Signature) -> Result<Self, KeyError> {
        let mut normal = signature;
        normal.normalize_s();
        if normal == signature { Ok(Signature(signature)) } else { Err(KeyError::Signature) }
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(self.compact()))
    }
}

crate::bytes_serde::impl_bytes_serde!(Signature, "a signature", Signature::compact, |b| {
    Signature::from_compact(b).map_err(|e| e.to_string())
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_key() -> impl Strategy<Value = PrivateKey> {
        any::<[u8; 32]>().prop_filter_map("in range", |bytes| PrivateKey::from_bytes(bytes).ok())
    }

    #[test]
    fn keys_out_of_range_are_refused() {
        assert!(PrivateKey::from_bytes([0; 32]).is_err());
        assert!(PrivateKey::from_bytes([0xff; 32]).is_err());
        assert!(PublicKey::from_bytes(&[2; 32]).is_err());
        assert!(PublicKey::from_bytes(&[4; 65]).is_err());
        assert!(PublicKey::from_bytes(&[0; 33]).is_err());
    }

    #[test]
    fn a_private_key_is_never_printed() {
        let key = PrivateKey::from_bytes([0x42; 32]).unwrap();
        assert!(!format!("{key:?}").contains("4242"));
    }

    #[test]
    fn high_s_is_refused() {
        let signature = PrivateKey::from_bytes([1; 32]).unwrap().sign(&[2; 32]);
        let mut compact = signature.compact();
        // n - s, with n the order of the curve.
        let order = hex::decode("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").unwrap();
        let mut borrow = 0i16;
        for i in (0..32).rev() {
            let digit = i16::from(order[i]) - i16::from(compact[32 + i]) - borrow;
            borrow = i16::from(digit < 0);
            compact[32 + i] = digit.rem_euclid(256) as u8;
        }
        assert_eq!(Signature::from_compact(&compact), Err(KeyError::Signature));
    }

    proptest! {
        #[test]
        fn signatures_verify_and_round_trip(key in any_key(), digest: [u8; 32], other: [u8; 32]) {
            let signature = key.sign(&digest);
            prop_assert!(key.public().verify(&digest, &signature));
            prop_assert!(digest == other || !key.public().verify(&other, &signature));
            prop_assert_eq!(Signature::from_compact(&signature.compact()).unwrap(), signature);
            prop_assert_eq!(Signature::from_der_strict(&signature.der()).unwrap(), signature);
            let mut longer = signature.der();
            longer.push(0);
            prop_assert!(Signature::from_der_strict(&longer).is_err());
        }

        #[test]
        fn public_keys_round_trip(key in any_key()) {
            let public = key.public();
            prop_assert_eq!(PublicKey::from_bytes(&public.to_bytes()).unwrap(), public);
            prop_assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
            let json = serde_json::to_string(&public).unwrap();
            prop_assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), public);
            let cbor = cbor4ii::serde::to_vec(Vec::new(), &public).unwrap();
            prop_assert_eq!(&cbor[..2], &[0x58, 33]);
            prop_assert_eq!(cbor4ii::serde::from_slice::<PublicKey>(&cbor).unwrap(), public);
        }

        #[test]
        fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>) {
            let _ = Signature::from_der_strict(&bytes);
            let _ = Signature::from_compact(&bytes);
            let _ = PublicKey::from_bytes(&bytes);
        }
    }
}
