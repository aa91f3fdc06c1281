//! One key for everything: who a peer is on the wire, what it signs, and the root of the keys it is paid to.
//!
//! The secp256k1 key of a node is its libp2p key, so a [`PublicKey`] and a peer id are two spellings of one fact
//! ([`peer_id`]), and knowing a peer is enough to derive a key that only this peer can spend (BRC-42).

use std::fmt;

use sensora_chain::keys::{PrivateKey, PublicKey};

/// The key a node acts with.
#[derive(Clone)]
pub struct Identity {
    key: PrivateKey,
    public: PublicKey,
}

impl Identity {
    /// The identity of `key`.
    #[must_use]
    pub fn new(key: PrivateKey) -> Self {
        let public = key.public();
        Self { key, public }
    }

    /// The private key: signs statements, and is the BRC-42 root of the wallet.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The public key, by which others know this node.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The libp2p peer id of this node.
    #[must_use]
    pub fn peer_id(&self) -> String {
        peer_id(&self.public)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

/// Multihash code "identity", length 37, then the protobuf of a libp2p public key: type 2 (secp256k1), 33 bytes of data.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x25, 0x08, 0x02, 0x12, 0x21];

/// The libp2p peer id of `key` in its text form (base58btc of the identity multihash, libp2p specs `peer-ids`).
#[must_use]
pub fn peer_id(key: &PublicKey) -> String {
    let mut bytes = PEER_ID_PREFIX.to_vec();
    bytes.extend_from_slice(&key.to_bytes());
    bs58::encode(bytes).into_string()
}

/// The text is not the peer id of a secp256k1 key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the peer id of a Sensora node: expected about 53 base58 characters beginning with 16Uiu2HA"
)]
pub struct ParsePeerIdError(String);

/// The public key in a peer id, as printed by [`peer_id`], or in 66 hex digits.
///
/// # Errors
/// When the text is neither.
pub fn parse_peer_id(text: &str) -> Result<PublicKey, ParsePeerIdError> {
    let wrong = || ParsePeerIdError(text.chars().take(80).collect());
    if text.len() > 80 {
        return Err(wrong());
    }
    if let Ok(bytes) = hex::decode(text) {
        return PublicKey::from_bytes(&bytes).map_err(|_| wrong());
    }
    let bytes = bs58::decode(text).into_vec().map_err(|_| wrong())?;
    let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or_else(wrong)?;
    PublicKey::from_bytes(key).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_names_the_key_and_back() {
        let identity = Identity::new(PrivateKey::from_bytes([7; 32]).unwrap());
        let text = identity.peer_id();
        assert!(text.starts_with("16Uiu2HA"), "{text}");
        assert_eq!(&parse_peer_id(&text).unwrap(), identity.public());
        assert_eq!(&parse_peer_id(&hex::encode(identity.public().to_bytes())).unwrap(), identity.public());
        assert!(parse_peer_id("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN").is_err());
        assert!(parse_peer_id("").is_err());
    }
}
