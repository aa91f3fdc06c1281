//! A secret under a passphrase: Argon2id (RFC 9106) makes the key, XChaCha20-Poly1305 seals.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::KeystoreError;

/// What guessing one passphrase costs: the parameters of Argon2id, kept beside what they seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PassphraseCost {
    /// The second recommended option of RFC 9106 §4: 64 MiB, three passes, four lanes. It fits a Raspberry Pi and
    /// takes it about a second.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    /// The most that a key file may ask for; a file is not trusted to take all memory or all day.
    const MOST: Self = Self { memory_kib: 1024 * 1024, passes: 64, lanes: 64 };

    fn is_bearable(self) -> bool {
        self.memory_kib <= Self::MOST.memory_kib
            && self.passes <= Self::MOST.passes
            && self.lanes <= Self::MOST.lanes
    }
}

/// A sealed secret as it stands in the key file; byte strings are hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sealed {
    kdf: Kdf,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    cipher: Cipher,
    nonce: String,
    ciphertext: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kdf {
    #[serde(rename = "argon2id")]
    Argon2id,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Cipher {
    #[serde(rename = "xchacha20poly1305")]
    XChaCha20Poly1305,
}

impl Sealed {
    /// Seals `secret`; `context` must be the same to open it again, so that nothing beside it can be exchanged.
    pub(super) fn seal(
        secret: &[u8],
        passphrase: &str,
        context: &[u8],
        cost: PassphraseCost,
    ) -> Result<Self, KeystoreError> {
        let mut salt = [0; 16];
        let mut nonce = [0; 24];
        getrandom::fill(&mut salt).map_err(KeystoreError::Randomness)?;
        getrandom::fill(&mut nonce).map_err(KeystoreError::Randomness)?;
        let key = derive(passphrase, &salt, cost).ok_or(KeystoreError::PassphraseCost)?;
        let ciphertext = XChaCha20Poly1305::new(&Key::from(*key))
            .encrypt(&XNonce::from(nonce), Payload { msg: secret, aad: context })
            .map_err(|_| KeystoreError::PassphraseCost)?;
        Ok(Self {
            kdf: Kdf::Argon2id,
            memory_kib: cost.memory_kib,
            passes: cost.passes,
            lanes: cost.lanes,
            salt: hex::encode(salt),
            cipher: Cipher::XChaCha20Poly1305,
            nonce: hex::encode(nonce),
            ciphertext: hex::encode(ciphertext),
        })
    }

    /// Opens what [`Sealed::seal`] sealed.
    ///
    /// The outer `None`: the fields are not what a key file holds. The inner one: the passphrase is wrong (or a
    /// field was exchanged for another well-formed one, which cannot be told apart).
    pub(super) fn open(&self, passphrase: &str, context: &[u8]) -> Option<Option<Zeroizing<Vec<u8>>>> {
        let cost = PassphraseCost { memory_kib: self.memory_kib, passes: self.passes, lanes: self.lanes };
        if !cost.is_bearable() {
            return None;
        }
        let salt: [u8; 16] = hex::decode(&self.salt).ok()?.try_into().ok()?;
        let nonce: [u8; 24] = hex::decode(&self.nonce).ok()?.try_into().ok()?;
        let ciphertext = hex::decode(&self.ciphertext).ok()?;
        let key = derive(passphrase, &salt, cost)?;
        let opened = XChaCha20Poly1305::new(&Key::from(*key))
            .decrypt(&XNonce::from(nonce), Payload { msg: &ciphertext, aad: context });
        Some(opened.ok().map(Zeroizing::new))
    }
}

fn derive(passphrase: &str, salt: &[u8], cost: PassphraseCost) -> Option<Zeroizing<[u8; 32]>> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .ok()?;
    Some(key)
}
