//! The key of a batch.
//!
//! There is one key for each offer. It follows from a secret of the seller and from what the offer binds, so the seller keeps none
//! of them: an old backup and the offer, which the buyer sends back, are enough to be paid. Part `i` is encrypted with the ChaCha20
//! keystream (RFC 8439 §2.4, zero nonce, counter from 0) under a key of its own.
//!
//! There is no authentication tag. What a ciphertext is, is bound by the offer's root; which key opens it, by the offer's hash of
//! the key; what comes out, by the checkpoint. A tag could only fail where one of these fails already.

use std::fmt;
use std::ops::Range;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use sensora_chain::keys::PublicKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::id::Hash;
use crate::statement::{SignedBytes, bytes_or_hex};

/// Length of a key in bytes: what the contract's script asks for.
pub const KEY_LEN: usize = sensora_chain::contract::key_release::KEY_SIZE;

/// Domains of the two derivations; a key derived for anything else can never be equal to one.
const BATCH_DOMAIN: &[u8] = b"sensora/1/batch-key";
const PART_DOMAIN: &[u8] = b"sensora/1/part-key";

/// The secret from which a seller derives the keys of all its batches. It never leaves the seller.
#[derive(Clone)]
pub struct BatchSecret([u8; 32]);

/// The key of one batch: the seller's until it is paid, then the buyer's, and everybody's who watches the chain.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchKey(#[serde(with = "bytes_or_hex")] [u8; KEY_LEN]);

impl BatchSecret {
    /// A secret of 32 random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of an offer: SHA-256 of the domain, the secret, the buyer, the SHA-256 of the checkpoint's body, first and end of the
    /// range (big-endian), and the nonce, each of a fixed length.
    ///
    /// `nonce` has to be a new one for each offer: a key that was shown for one order must open no other.
    #[must_use]
    pub fn key(
        &self,
        buyer: &PublicKey,
        checkpoint: &SignedBytes,
        range: Range<u64>,
        nonce: &[u8; 16],
    ) -> BatchKey {
        let hasher = Sha256::new().chain_update(BATCH_DOMAIN).chain_update(self.0);
        let hasher = hasher.chain_update(buyer.to_bytes()).chain_update(Hash::of(&checkpoint.body).0);
        let hasher = hasher.chain_update(range.start.to_be_bytes()).chain_update(range.end.to_be_bytes());
        BatchKey(hasher.chain_update(nonce).finalize().into())
    }
}

impl BatchKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, to show them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// What an offer says of the key: its SHA-256.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.0)
    }

    /// Encrypts or decrypts the part with this index: its keystream is added either way.
    pub fn apply(&self, index: u32, bytes: &mut [u8]) {
        let hasher = Sha256::new().chain_update(PART_DOMAIN).chain_update(self.0);
        let mut key: [u8; 32] = hasher.chain_update(index.to_be_bytes()).finalize().into();
        ChaCha20::new(&key.into(), &[0; 12].into()).apply_keystream(bytes);
        key.zeroize();
    }
}

impl Drop for BatchSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for BatchKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for BatchSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BatchSecret(…)")
    }
}

impl fmt::Debug for BatchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchKey(of hash {})", self.hash())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensora_chain::keys::PrivateKey;

    use super::*;

    fn checkpoint(mark: u8) -> SignedBytes {
        let key = PrivateKey::from_bytes([1; 32]).unwrap().public();
        SignedBytes { body: vec![mark], key, signature: vec![] }
    }

    #[test]
    fn whatever_an_offer_binds_gives_another_key() {
        let buyers = [2, 3].map(|seed| PrivateKey::from_bytes([seed; 32]).unwrap().public());
        let secret = BatchSecret::from_bytes([7; 32]);
        let first = secret.key(&buyers[0], &checkpoint(1), 5..9, &[1; 16]);
        assert_eq!(first, secret.key(&buyers[0], &checkpoint(1), 5..9, &[1; 16]));
        let others = [
            BatchSecret::from_bytes([8; 32]).key(&buyers[0], &checkpoint(1), 5..9, &[1; 16]),
            secret.key(&buyers[1], &checkpoint(1), 5..9, &[1; 16]),
            secret.key(&buyers[0], &checkpoint(2), 5..9, &[1; 16]),
            secret.key(&buyers[0], &checkpoint(1), 4..9, &[1; 16]),
            secret.key(&buyers[0], &checkpoint(1), 5..10, &[1; 16]),
            secret.key(&buyers[0], &checkpoint(1), 5..9, &[2; 16]),
        ];
        for other in &others {
            assert_ne!(&first, other);
        }
        assert!(!format!("{first:?} {secret:?}").contains(&hex::encode(first.as_bytes())));
    }

    /// Two parts under one keystream would show their difference to whoever has not paid.
    #[test]
    fn no_two_parts_share_a_keystream() {
        let key = BatchKey::from_bytes([9; 32]);
        let streams = [0, 1, 2, 255, 256, 65_535].map(|index| {
            let mut bytes = [0; 64];
            key.apply(index, &mut bytes);
            bytes
        });
        for (at, stream) in streams.iter().enumerate() {
            assert!(streams[..at].iter().all(|other| other[..32] != stream[..32]));
        }
    }

    proptest! {
        #[test]
        fn what_is_encrypted_is_decrypted(key: [u8; 32], index: u32, bytes: Vec<u8>) {
            let key = BatchKey::from_bytes(key);
            let mut twice = bytes.clone();
            key.apply(index, &mut twice);
            key.apply(index, &mut twice);
            prop_assert_eq!(twice, bytes);
        }
    }
}
