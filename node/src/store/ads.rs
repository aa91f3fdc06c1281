//! Ads we have seen, the newest version of each seller. A withdrawn ad stays until it expires, so that an older version cannot come back.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::Txid;
use sensora_chain::keys::PublicKey;
use sensora_protocol::{Hash, SignedBytes};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::kinds::Records;

const ADS: Records = Records { name: "ads" };
const OWN: Records = Records { name: "own_ad" };
const OWN_KEY: &[u8] = b"own";

/// What we have said of ourselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnAd {
    /// Version of our last ad.
    pub version: u64,
    /// Digest of the offer that is on chain.
    pub on_chain_offer: Option<Hash>,
    /// When the ad on chain ends, milliseconds since the Unix epoch.
    pub on_chain_expires_ms: i64,
    /// Its transaction.
    pub on_chain_txid: Option<Txid>,
}

/// An ad and how it reached us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAd {
    /// The signed ad.
    pub ad: SignedBytes,
    /// When it ends, milliseconds since the Unix epoch.
    pub expires_ms: i64,
    /// Its version.
    pub version: u64,
    /// Heard by gossip.
    pub gossip: bool,
    /// Found at a provider of the DHT.
    pub dht: bool,
    /// Asked of its author.
    pub direct: bool,
    /// Found on chain: transaction and height.
    pub chain: Option<(Txid, u32)>,
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    ADS.create(tx)?;
    OWN.create(tx)
}

/// What we have said of ourselves.
///
/// # Errors
/// [`StoreError`].
pub fn own(tx: &ReadTransaction) -> Result<OwnAd, StoreError> {
    Ok(OWN.get(tx, OWN_KEY)?.unwrap_or_default())
}

/// Stores what we have said of ourselves.
///
/// # Errors
/// [`StoreError`].
pub fn put_own(tx: &WriteTransaction, own: &OwnAd) -> Result<(), StoreError> {
    OWN.put(tx, OWN_KEY, own)
}

/// Stores the ad of a seller.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, ad: &StoredAd) -> Result<(), StoreError> {
    ADS.put(tx, &ad.ad.key.to_bytes(), ad)
}

/// The ad of a seller, as this change sees it.
///
/// # Errors
/// [`StoreError`].
pub fn get_in(tx: &WriteTransaction, seller: &PublicKey) -> Result<Option<StoredAd>, StoreError> {
    ADS.get_in(tx, &seller.to_bytes())
}

/// The ad of a seller.
///
/// # Errors
/// [`StoreError`].
pub fn get(tx: &ReadTransaction, seller: &PublicKey) -> Result<Option<StoredAd>, StoreError> {
    ADS.get(tx, &seller.to_bytes())
}

/// How many sellers' ads are kept.
///
/// # Errors
/// [`StoreError`].
pub fn count(tx: &ReadTransaction) -> Result<u64, StoreError> {
    ADS.len(tx)
}

/// How many sellers' ads are kept, as this change sees it.
///
/// # Errors
/// [`StoreError`].
pub fn count_in(tx: &WriteTransaction) -> Result<u64, StoreError> {
    ADS.len_in(tx)
}

/// Forgets the ad of a seller.
///
/// # Errors
/// [`StoreError`].
pub fn remove(tx: &WriteTransaction, seller: &PublicKey) -> Result<(), StoreError> {
    ADS.remove(tx, &seller.to_bytes())
}

/// All ads.
///
/// # Errors
/// [`StoreError`].
pub fn all(tx: &ReadTransaction) -> Result<Vec<StoredAd>, StoreError> {
    ADS.all(tx)
}
