//! Orders on both sides: what we bought and what we sold. The record is written before the message that it is about.

use redb::{ReadTransaction, WriteTransaction};
use sensora_protocol::OrderId;
use sensora_protocol::market::purchase::Purchase;
use sensora_protocol::market::sale::Sale;

use super::StoreError;
use super::kinds::Records;

const PURCHASES: Records = Records { name: "purchases" };
/// Ids of the purchases of which something may still change: few, however many there have been.
const OPEN: Records = Records { name: "purchases_open" };
const SALES: Records = Records { name: "sales" };
/// Ids of the sales whose payment the network has not answered.
const ADMITTED: Records = Records { name: "sales_admitted" };
/// Ids of all sales under the time of their admission: `milliseconds ‖ id`, big-endian, from which the oldest are found.
const SALES_BY_TIME: Records = Records { name: "sales_by_time" };
const SAMPLES: Records = Records { name: "samples" };

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    PURCHASES.create(tx)?;
    OPEN.create(tx)?;
    SALES.create(tx)?;
    ADMITTED.create(tx)?;
    SALES_BY_TIME.create(tx)?;
    SAMPLES.create(tx)
}

/// Stores a purchase.
///
/// # Errors
/// [`StoreError`].
pub fn put_purchase(tx: &WriteTransaction, purchase: &Purchase) -> Result<(), StoreError> {
    if purchase.is_final() {
        OPEN.remove(tx, purchase.id.as_bytes())?;
    } else {
        OPEN.put(tx, purchase.id.as_bytes(), &purchase.id)?;
    }
    PURCHASES.put(tx, purchase.id.as_bytes(), purchase)
}

/// Forgets a purchase for which nothing was ever signed away.
///
/// # Errors
/// [`StoreError`].
pub fn remove_purchase(tx: &WriteTransaction, id: &OrderId) -> Result<(), StoreError> {
    OPEN.remove(tx, id.as_bytes())?;
    PURCHASES.remove(tx, id.as_bytes())
}

/// A purchase.
///
/// # Errors
/// [`StoreError`].
pub fn purchase(tx: &ReadTransaction, id: &OrderId) -> Result<Option<Purchase>, StoreError> {
    PURCHASES.get(tx, id.as_bytes())
}

/// The purchases of which something may still change: those that are not finished, and those whose coins are back but not for good.
///
/// # Errors
/// [`StoreError`].
pub fn open_purchases(tx: &ReadTransaction) -> Result<Vec<Purchase>, StoreError> {
    let ids: Vec<OrderId> = OPEN.all(tx)?;
    let found = ids.iter().filter_map(|id| purchase(tx, id).transpose());
    found.collect()
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
    if sale.is_sold() {
        ADMITTED.remove(tx, sale.order.as_bytes())?;
    } else {
        ADMITTED.put(tx, sale.order.as_bytes(), &sale.order)?;
    }
    SALES_BY_TIME.put(tx, &time_key(sale), &sale.order)?;
    SALES.put(tx, sale.order.as_bytes(), sale)
}

fn time_key(sale: &Sale) -> Vec<u8> {
    [time_prefix(sale.admitted_ms).as_slice(), sale.order.as_bytes()].concat()
}

fn time_prefix(ms: i64) -> [u8; 8] {
    u64::try_from(ms).unwrap_or(0).to_be_bytes()
}

/// Forgets a sale that was never charged, or whose time is over.
///
/// # Errors
/// [`StoreError`].
pub fn remove_sale(tx: &WriteTransaction, id: &OrderId) -> Result<(), StoreError> {
    if let Some(sale) = sale_in(tx, id)? {
        SALES_BY_TIME.remove(tx, &time_key(&sale))?;
    }
    ADMITTED.remove(tx, id.as_bytes())?;
    SALES.remove(tx, id.as_bytes())
}

/// A sale.
///
/// # Errors
/// [`StoreError`].
pub fn sale(tx: &ReadTransaction, id: &OrderId) -> Result<Option<Sale>, StoreError> {
    SALES.get(tx, id.as_bytes())
}

/// A sale, as this change sees it.
///
/// # Errors
/// [`StoreError`].
pub fn sale_in(tx: &WriteTransaction, id: &OrderId) -> Result<Option<Sale>, StoreError> {
    SALES.get_in(tx, id.as_bytes())
}

/// The sales whose payment the network has not answered.
///
/// # Errors
/// [`StoreError`].
pub fn admitted_sales(tx: &ReadTransaction) -> Result<Vec<Sale>, StoreError> {
    let ids: Vec<OrderId> = ADMITTED.all(tx)?;
    let found = ids.iter().filter_map(|id| sale(tx, id).transpose());
    found.collect()
}

/// Sales that were admitted before `ms`, oldest first, at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub fn sales_admitted_before(
    tx: &ReadTransaction,
    ms: i64,
    limit: usize,
) -> Result<Vec<OrderId>, StoreError> {
    let before = time_prefix(ms);
    let oldest = SALES_BY_TIME.scan(tx, &[], &[], limit)?.into_iter();
    oldest
        .take_while(|(key, _)| key.as_slice() < before.as_slice())
        .map(|(_, id)| super::from_record("sales_by_time", &id))
        .collect()
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

/// As [`samples_had`], without changing anything.
///
/// # Errors
/// [`StoreError`].
pub fn samples_had_before(tx: &ReadTransaction, key: &[u8]) -> Result<u32, StoreError> {
    Ok(SAMPLES.get(tx, key)?.unwrap_or(0))
}

/// How many lines of free readings are kept.
///
/// # Errors
/// [`StoreError`].
pub fn sample_lines(tx: &WriteTransaction) -> Result<u64, StoreError> {
    SAMPLES.len_in(tx)
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
