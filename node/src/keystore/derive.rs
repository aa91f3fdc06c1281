//! From a BIP39 seed to the node's key, by BIP32.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secp256k1::{Scalar, SecretKey};
use sha2::Sha512;
use zeroize::{Zeroize as _, Zeroizing};

/// The path as people write it: BIP44 with the coin type 236 that SLIP-44 gives to BSV, the first account's first key.
pub const DERIVATION_PATH: &str = "m/44'/236'/0'/0/0";

const HARDENED: u32 = 1 << 31;

/// [`DERIVATION_PATH`] as BIP32 child numbers.
const PATH: [u32; 5] = [44 | HARDENED, 236 | HARDENED, HARDENED, 0, 0];

/// An extended private key of BIP32: the key and the chain code.
struct Extended {
    key: SecretKey,
    chain_code: Zeroizing<[u8; 32]>,
}

impl Drop for Extended {
    fn drop(&mut self) {
        self.key.non_secure_erase();
    }
}

/// The private key at [`DERIVATION_PATH`] below the master key of `seed`.
///
/// `None` where BIP32 calls a step invalid, which no seed is known to meet (its chance is below 2^-127).
pub(super) fn node_key(seed: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    key_at(seed, &PATH)
}

fn key_at(seed: &[u8], path: &[u32]) -> Option<Zeroizing<[u8; 32]>> {
    let mut extended = {
        let (left, chain_code) = hmac_halves(b"Bitcoin seed", &[seed])?;
        Extended { key: SecretKey::from_secret_bytes(*left).ok()?, chain_code }
    };
    for number in path {
        extended = child(&extended, *number)?;
    }
    Some(Zeroizing::new(extended.key.to_secret_bytes()))
}

/// `CKDpriv` of BIP32.
fn child(parent: &Extended, number: u32) -> Option<Extended> {
    let number_bytes = number.to_be_bytes();
    let (left, chain_code) = if number & HARDENED == 0 {
        let public = parent.key.public_key().serialize();
        hmac_halves(&*parent.chain_code, &[&public, &number_bytes])?
    } else {
        let secret = Zeroizing::new(parent.key.to_secret_bytes());
        hmac_halves(&*parent.chain_code, &[&[0], &*secret, &number_bytes])?
    };
    let tweak = Scalar::from_be_bytes(*left).ok()?;
    Some(Extended { key: parent.key.add_tweak(&tweak).ok()?, chain_code })
}

/// Half of a SHA-512.
type Half = Zeroizing<[u8; 32]>;

/// HMAC-SHA512, cut into its left and right half.
fn hmac_halves(key: &[u8], parts: &[&[u8]]) -> Option<(Half, Half)> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(part);
    }
    let mut output = mac.finalize().into_bytes();
    let halves = output.split_at_checked(32).and_then(|(left, right)| {
        Some((Zeroizing::new(left.try_into().ok()?), Zeroizing::new(right.try_into().ok()?)))
    });
    output.as_mut_slice().zeroize();
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_test_vector_of_bip32() {
        let seed = hex::decode("000102030405060708090a0b0c0d0e0f").unwrap();
        let steps: [(&[u32], &str); 6] = [
            (&[], "e8f32e723decf4051aefac8e2c93c9c5b214313817cdb01a1494b917c8436b35"),
            (&[HARDENED], "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea"),
            (&[HARDENED, 1], "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368"),
            (
                &[HARDENED, 1, HARDENED | 2],
                "cbce0d719ecf7431d88e6a89fa1483e02e35092af60c042b1df2ff59fa424dca",
            ),
            (
                &[HARDENED, 1, HARDENED | 2, 2],
                "0f479245fb19a38a1954c5c7c0ebab2f9bdfd96a17563ef28a6a4b1a2a764ef4",
            ),
            (
                &[HARDENED, 1, HARDENED | 2, 2, 1_000_000_000],
                "471b76e389e528d6de6d816857e012c5455051cad6660850e58372a6c3e6e7c8",
            ),
        ];
        for (path, expected) in steps {
            assert_eq!(hex::encode(*key_at(&seed, path).unwrap()), expected);
        }
    }
}
