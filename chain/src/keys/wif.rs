//! Wallet import format: a private key as text, with a checksum and the network in it.

use zeroize::Zeroizing;

use super::PrivateKey;
use crate::network::Network;

/// Why a text is no private key. The text itself is never repeated in an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WifError {
    /// A wrong character, length or checksum.
    #[error("this is no private key in wallet import format: a character is wrong or missing; copy it again")]
    Text,
    /// A key of another network.
    #[error("this private key belongs to another network than {0}")]
    Network(Network),
    /// The old form, whose addresses differ.
    #[error("this private key is of the old kind with uncompressed public keys, which is not supported")]
    Uncompressed,
}

impl PrivateKey {
    /// The key in wallet import format.
    pub fn wif(&self, network: Network) -> Zeroizing<String> {
        let mut payload = Zeroizing::new([0u8; 34]);
        let [prefix, middle @ .., suffix] = &mut *payload;
        *prefix = network.wif_prefix();
        middle.copy_from_slice(self.to_bytes().as_slice());
        *suffix = 0x01;
        Zeroizing::new(bs58::encode(payload.as_slice()).with_check().into_string())
    }

    /// A key from wallet import format; it has to belong to `network`.
    ///
    /// # Errors
    /// [`WifError`] if it is none, another network's, or of the old uncompressed kind.
    pub fn from_wif(text: &str, network: Network) -> Result<Self, WifError> {
        // Prefix, key, suffix and checksum.
        let mut payload = Zeroizing::new([0u8; 38]);
        let len =
            bs58::decode(text).with_check(None).onto(payload.as_mut_slice()).map_err(|_| WifError::Text)?;
        match payload.get(..len) {
            Some([prefix @ (0x80 | 0xef), ..]) if *prefix != network.wif_prefix() => {
                Err(WifError::Network(network))
            }
            Some([0x80 | 0xef, key @ .., 0x01]) if key.len() == 32 => {
                let key = key.try_into().map_err(|_| WifError::Text)?;
                PrivateKey::from_bytes(key).map_err(|_| WifError::Text)
            }
            Some([0x80 | 0xef, key @ ..]) if key.len() == 32 => Err(WifError::Uncompressed),
            _ => Err(WifError::Text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_key_one() {
        let mut one = [0u8; 32];
        one[31] = 1;
        let key = PrivateKey::from_bytes(one).unwrap();
        let main = "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWn";
        assert_eq!(key.wif(Network::Main).as_str(), main);
        assert_eq!(PrivateKey::from_wif(main, Network::Main).unwrap().to_bytes(), key.to_bytes());
        assert_eq!(
            PrivateKey::from_wif(main, Network::Regtest).unwrap_err(),
            WifError::Network(Network::Regtest)
        );
        let test = key.wif(Network::Regtest);
        assert_eq!(PrivateKey::from_wif(&test, Network::Test).unwrap().to_bytes(), key.to_bytes());
    }

    #[test]
    fn slips_and_old_keys_are_refused() {
        let slip = "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWm";
        assert_eq!(PrivateKey::from_wif(slip, Network::Main).unwrap_err(), WifError::Text);
        let old = "5HpHagT65TZzG1PH3CSu63k8DbpvD8s5ip4nEB3kEsreAnchuDf";
        assert_eq!(PrivateKey::from_wif(old, Network::Main).unwrap_err(), WifError::Uncompressed);
        assert_eq!(PrivateKey::from_wif("", Network::Main).unwrap_err(), WifError::Text);
    }
}
