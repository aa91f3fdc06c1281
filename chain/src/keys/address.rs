//! Addresses: a public key's hash as text that people copy, with a checksum and the network in it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::script::Script;

/// A pay-to-public-key-hash address. Test network and regtest share one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    prefix: u8,
    hash: [u8; 20],
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// A wrong character, length or checksum.
    #[error("\"{0}\" is no address: a character is wrong or missing; copy it again")]
    Text(String),
    /// An address of another kind, such as pay to script hash.
    #[error(
        "an address with version byte {0:#04x} is not pay-to-public-key-hash, the one kind that BSV uses"
    )]
    Kind(u8),
    /// An address of another network.
    #[error("the address {0} does not belong to the {1} network")]
    Network(Address, Network),
}

impl Address {
    /// The address of a public key's hash.
    pub const fn new(network: Network, hash: [u8; 20]) -> Self {
        Address { prefix: network.address_prefix(), hash }
    }

    /// The public key's hash.
    pub const fn hash160(&self) -> &[u8; 20] {
        &self.hash
    }

    /// The locking script that pays to this address.
    pub fn locking_script(&self) -> Script {
        Script::p2pkh(&self.hash)
    }

    /// Whether the address may be used on `network`.
    pub fn belongs_to(&self, network: Network) -> bool {
        self.prefix == network.address_prefix()
    }

    /// Parses an address that has to belong to `network`.
    ///
    /// # Errors
    /// [`AddressError`] if it is none, or another network's.
    pub fn parse(text: &str, network: Network) -> Result<Self, AddressError> {
        let address: Address = text.parse()?;
        if address.belongs_to(network) { Ok(address) } else { Err(AddressError::Network(address, network)) }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = || AddressError::Text(text.chars().take(64).collect());
        let mut payload = [0u8; 25];
        let len = bs58::decode(text).with_check(None).onto(&mut payload).map_err(|_| refuse())?;
        match payload.get(..len) {
            Some([prefix @ (0x00 | 0x6f), hash @ ..]) => {
                Ok(Address { prefix: *prefix, hash: hash.try_into().map_err(|_| refuse())? })
            }
            Some([kind, ..]) => Err(AddressError::Kind(*kind)),
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&bs58::encode(self.hash).with_check_version(self.prefix).into_string())
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::PrivateKey;

    #[test]
    fn the_address_of_private_key_one() {
        let mut one = [0u8; 32];
        one[31] = 1;
        let public = PrivateKey::from_bytes(one).unwrap().public();
        assert_eq!(public.address(Network::Main).to_string(), "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH");
        assert_eq!(public.address(Network::Regtest).to_string(), "mrCDrCybB6J1vRfbwM5hemdJz73FwDBC8r");
    }

    #[test]
    fn another_network_kind_or_a_slip_is_refused() {
        let main = "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH";
        assert!(matches!(Address::parse(main, Network::Test), Err(AddressError::Network(..))));
        assert!(matches!(
            "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMJ".parse::<Address>(),
            Err(AddressError::Text(_))
        ));
        assert!(matches!(
            "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy".parse::<Address>(),
            Err(AddressError::Kind(5))
        ));
    }

    proptest! {
        #[test]
        fn text_round_trips(hash: [u8; 20]) {
            for network in Network::ALL {
                let address = Address::new(network, hash);
                prop_assert_eq!(Address::parse(&address.to_string(), network).unwrap(), address);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}") {
            let _ = text.parse::<Address>();
        }
    }
}
