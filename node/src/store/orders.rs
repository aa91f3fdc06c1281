//! Orders on both sides: what we bought and what we sold. The record is written before the message that it is about.

use redb::{ReadTransaction, WriteTransaction};
use sensora_protocol::OrderId;
use sensora_protocol::market::purchase::Purchase;
use sensora_protocol::market::sale::Sale;

use super::StoreError;
use super::kinds::Records;

const PURCHASES: Records = Records { name: "purchases" };
const SALES: Records = Records { name: "sales" };
const SAMPLES: Records = Records { name: "samples" };

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    PURCHASES.create(tx)?;
    SALES.create(tx)?;
    SAMPLES.create(tx)
}

/// Stores a purchase.
///
/// # Errors
/// [`StoreError`].
pub fn put_purchase(tx: &WriteTransaction, purchase: &Purchase) -> Result<(), StoreError> {
    PURCHASES.put(tx, purchase.id.as_bytes(), purchase)
}

/// Forgets a purchase for which nothing was ever signed away.
///
/// # Errors
/// [`StoreError`].
pub fn remove_purchase(tx: &WriteTransaction, id: &OrderId) -> Result<(), StoreError> {
    PURCHASES.remove(tx, id.as_bytes())
}

/// A purchase.
///
/// # Errors
/// [`StoreError`].
pub fn purchase(tx: &ReadTransaction, id: &OrderId) -> Result<Option<Purchase>, StoreError> {
    PURCHASES.get(tx, id.as_bytes())
}

/// All purchases.
///
/// # Errors
/// [`StoreError`].
pub fn purchases(tx: &ReadTransaction) -> Result<Vec<Purchase>, StoreError> {
    PURCHASES.all(tx)
}

/// Stores a sale.
///
/// # Errors
/// [`StoreError`].
pub fn put_sale(tx: &WriteTransaction, sale: &Sale) -> Result<(), StoreError> {
    SALES.put(tx, sale.order.as_bytes(), sale)
}

/// Forgets a sale that was never charged, or whose time is over.
///
/// # Errors
/// [`StoreError`].
pub fn remove_sale(tx: &WriteTransaction, id: &OrderId) -> Result<(), StoreError> {
    SALES.remove(tx, id.as_bytes())
}

/// A sale.
///
/// # Errors
/// [`StoreError`].
pub fn sale(tx: &ReadTransaction, id: &OrderId) -> Result<Option<Sale>, StoreError> {
    SALES.get(tx, id.as_bytes())
}

/// All sales.
///
/// # Errors
/// [`StoreError`].
pub fn sales(tx: &ReadTransaction) -> Result<Vec<Sale>, StoreError> {
    SALES.all(tx)
}

/// Free readings that a buyer had of a stream on one day: `key` is the buyer's key, the stream and the day.
///
/// # Errors
/// [`StoreError`].
pub fn samples_had(tx: &WriteTransaction, key: &[u8]) -> Result<u32, StoreError> {
    Ok(SAMPLES.get_in(tx, key)?.unwrap_or(0))
}

/// Notes free readings that a buyer has had.
///
/// # Errors
/// [`StoreError`].
pub fn put_samples_had(tx: &WriteTransaction, key: &[u8], had: u32) -> Result<(), StoreError> {
    SAMPLES.put(tx, key, &had)
}

/// Forgets the free readings of all days but those whose key begins with `day`.
///
/// # Errors
/// [`StoreError`].
pub fn forget_samples_before(tx: &WriteTransaction, day: &[u8]) -> Result<(), StoreError> {
    SAMPLES.remove_before(tx, day)
}
