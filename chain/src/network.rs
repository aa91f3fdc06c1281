//! Which BSV network a key, address, header or peer belongs to, so that they are never mixed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A BSV network. Its name is the text used in configuration, in signed statements and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Coins with a price.
    Main,
    /// The public test network.
    Test,
    /// A private chain with the lowest difficulty; the embedded development chain is one.
    Regtest,
}

impl Network {
    /// Every network, for help texts and parsers.
    pub const ALL: [Network; 3] = [Network::Main, Network::Test, Network::Regtest];

    /// The network's name: `main`, `test` or `regtest`.
    pub const fn name(self) -> &'static str {
        match self {
            Network::Main => "main",
            Network::Test => "test",
            Network::Regtest => "regtest",
        }
    }

    /// The version byte of a pay-to-public-key-hash address. Regtest shares the test network's.
    pub const fn address_prefix(self) -> u8 {
        match self {
            Network::Main => 0x00,
            Network::Test | Network::Regtest => 0x6f,
        }
    }

    /// The version byte of a private key in wallet import format. Regtest shares the test network's.
    pub const fn wif_prefix(self) -> u8 {
        match self {
            Network::Main => 0x80,
            Network::Test | Network::Regtest => 0xef,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no BSV network; use main, test or regtest")]
pub struct UnknownNetwork(pub String);

impl FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Network::ALL
            .into_iter()
            .find(|network| network.name() == text)
            .ok_or_else(|| UnknownNetwork(text.chars().take(32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_display_parse_and_serde_agree() {
        for network in Network::ALL {
            assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
            assert_eq!(serde_json::to_string(&network).unwrap(), format!("\"{network}\""));
        }
        assert!("Main".parse::<Network>().is_err());
    }
}
