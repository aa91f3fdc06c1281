//! BRC-42: keys that two parties derive for one invoice, each from its own private and the other's public key.

use hmac::{Hmac, KeyInit, Mac};
use secp256k1::Scalar;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{PrivateKey, PublicKey};

/// Why none of the failures below can be brought about: each needs the output of HMAC-SHA256, or the sum of it and a
/// key, to hit one of fewer than 2¹²⁹ values out of 2²⁵⁶.
const NEGLIGIBLE: &str = "HMAC-SHA256 met a value of probability 2^-127 that nobody can steer towards";

impl PrivateKey {
    /// The private key whose public key the counterparty gets from [`PublicKey::child`] with its own private key and
    /// the same invoice number.
    #[must_use]
    #[expect(clippy::expect_used, reason = "see NEGLIGIBLE")]
    pub fn child(&self, counterparty: &PublicKey, invoice: &str) -> PrivateKey {
        let tweak = shared_tweak(self, counterparty, invoice);
        Self::from_secret(self.secret.add_tweak(&tweak).expect(NEGLIGIBLE))
    }
}

impl PublicKey {
    /// The key that only the owner of `self` can sign for, derived by `sender` for this invoice number.
    #[must_use]
    #[expect(clippy::expect_used, reason = "see NEGLIGIBLE")]
    pub fn child(&self, sender: &PrivateKey, invoice: &str) -> PublicKey {
        let tweak = shared_tweak(sender, self, invoice);
        PublicKey(self.0.add_exp_tweak(&tweak).expect(NEGLIGIBLE))
    }
}

/// HMAC-SHA256 with the shared point as key and the invoice number as message, as a scalar.
#[expect(clippy::expect_used, reason = "see NEGLIGIBLE; HMAC takes a key of any length")]
fn shared_tweak(own: &PrivateKey, other: &PublicKey, invoice: &str) -> Scalar {
    let own = Scalar::from(own.secret);
    let shared = Zeroizing::new(other.0.mul_tweak(&own).expect("a private key is never zero").serialize());
    let mut mac = Hmac::<Sha256>::new_from_slice(shared.as_slice()).expect("HMAC takes a key of any length");
    mac.update(invoice.as_bytes());
    Scalar::from_be_bytes(mac.finalize().into_bytes().into()).expect(NEGLIGIBLE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::keys::tests::any_key;

    proptest! {
        #[test]
        fn both_sides_derive_the_same_key(a in any_key(), b in any_key(), invoice in ".{0,40}") {
            let private = b.child(&a.public(), &invoice);
            prop_assert_eq!(private.public(), b.public().child(&a, &invoice));
            prop_assert_ne!(private.public(), b.public().child(&a, &format!("{invoice}!")));
        }
    }
}
