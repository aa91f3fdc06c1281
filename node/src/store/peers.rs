//! Peers worth dialling after a restart.

use redb::{ReadTransaction, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::kinds::Records;

const PEERS: Records = Records { name: "peers" };
const KEY: &[u8] = b"known";

/// A peer and the addresses at which it was last reached, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// Peer id.
    pub peer: String,
    /// Multiaddrs, best first.
    pub addresses: Vec<String>,
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    PEERS.create(tx)
}

/// Replaces the known peers.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, peers: &[KnownPeer]) -> Result<(), StoreError> {
    PEERS.put(tx, KEY, &peers)
}

/// The known peers.
///
/// # Errors
/// [`StoreError`].
pub fn get(tx: &ReadTransaction) -> Result<Vec<KnownPeer>, StoreError> {
    Ok(PEERS.get(tx, KEY)?.unwrap_or_default())
}
