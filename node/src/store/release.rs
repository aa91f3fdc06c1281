//! Batches whose key is released on the chain, on both sides. The record is written before the message that it is about.
//!
//! A buyer's encrypted parts lie beside its purchase until each is opened. The seller keeps one secret, from which the keys of all its
//! batches follow.

use redb::{ReadTransaction, WriteTransaction};
use sensora_protocol::OrderId;
use sensora_protocol::market::key_release::buy::BatchPurchase;
use sensora_protocol::market::key_release::parts::ProvenPart;
use sensora_protocol::market::key_release::sell::{BatchSale, BatchSaleState};
use zeroize::Zeroizing;

use super::kinds::Records;
use super::{StoreError, from_record};

const SECRET: Records = Records { name: "release_secret" };
const SALES: Records = Records { name: "release_sales" };
/// Ids of the sales that still have something before them.
const SALES_OPEN: Records = Records { name: "release_sales_open" };
/// Ids of all sales under the time of their admission: `milliseconds ‖ id`, big-endian, from which the oldest are found.
const SALES_BY_TIME: Records = Records { name: "release_sales_by_time" };
const PURCHASES: Records = Records { name: "release_purchases" };
/// Ids of the purchases whose coin, or whose end, is still looked after.
const PURCHASES_WATCHED: Records = Records { name: "release_purchases_watched" };
/// Encrypted parts under `order ‖ index`, big-endian.
const PARTS: Records = Records { name: "release_parts" };

/// Under which the one secret stands.
const THE_SECRET: &[u8] = b"secret";

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    let tables = [SECRET, SALES, SALES_OPEN, SALES_BY_TIME, PURCHASES, PURCHASES_WATCHED, PARTS];
    tables.iter().try_for_each(|table| table.create(tx))
}

/// The seller's secret, once there is one.
///
/// # Errors
/// [`StoreError`].
pub fn secret(tx: &ReadTransaction) -> Result<Option<Zeroizing<[u8; 32]>>, StoreError> {
    SECRET.get_bytes(tx, THE_SECRET)?.map(|bytes| read_secret(&bytes)).transpose()
}

/// The seller's secret: the one that is there, else `fresh`, which is stored.
///
/// # Errors
/// [`StoreError`].
pub fn secret_or(tx: &WriteTransaction, fresh: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, StoreError> {
    match SECRET.get_bytes_in(tx, THE_SECRET)? {
        Some(bytes) => read_secret(&bytes),
        None => {
            SECRET.put_bytes(tx, THE_SECRET, fresh)?;
            Ok(Zeroizing::new(*fresh))
        }
    }
}

fn read_secret(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, StoreError> {
    let secret = <[u8; 32]>::try_from(bytes).map(Zeroizing::new);
    secret.map_err(|_| StoreError::Damaged("the secret of batches has not 32 bytes".into()))
}

/// Stores a sale. `open` says that something is still before it: the chain is asked about its coin, and it is not forgotten.
///
/// # Errors
/// [`StoreError`].
pub fn put_sale(tx: &WriteTransaction, sale: &BatchSale, open: bool) -> Result<(), StoreError> {
    let id = sale.order.as_bytes();
    if open {
        SALES_OPEN.put_bytes(tx, id, &[])?;
    } else {
        SALES_OPEN.remove(tx, id)?;
    }
    SALES_BY_TIME.put(tx, &time_key(sale), &sale.order)?;
    SALES.put(tx, id, sale)
}

fn time_key(sale: &BatchSale) -> Vec<u8> {
    [time_prefix(sale.admitted_ms).as_slice(), sale.order.as_bytes()].concat()
}

fn time_prefix(ms: i64) -> [u8; 8] {
    u64::try_from(ms).unwrap_or(0).to_be_bytes()
}

/// Forgets a sale that was never paid, or whose time is over.
///
/// # Errors
/// [`StoreError`].
pub fn remove_sale(tx: &WriteTransaction, id: &OrderId) -> Result<(), StoreError> {
    if let Some(sale) = SALES.get_in::<BatchSale>(tx, id.as_bytes())? {
        SALES_BY_TIME.remove(tx, &time_key(&sale))?;
    }
    SALES_OPEN.remove(tx, id.as_bytes())?;
    SALES.remove(tx, id.as_bytes())
}

/// Forgets a sale that is not paid. Answers whether it was so: a coin may have come since it was chosen.
///
/// # Errors
/// [`StoreError`].
pub fn remove_unpaid_sale(tx: &WriteTransaction, id: &OrderId) -> Result<bool, StoreError> {
    let sale = SALES.get_in::<BatchSale>(tx, id.as_bytes())?;
    let is_unpaid = sale.is_none_or(|sale| sale.state == BatchSaleState::Delivering);
    if is_unpaid {
        remove_sale(tx, id)?;
    }
    Ok(is_unpaid)
}

/// A sale.
///
/// # Errors
/// [`StoreError`].
pub fn sale(tx: &ReadTransaction, id: &OrderId) -> Result<Option<BatchSale>, StoreError> {
    SALES.get(tx, id.as_bytes())
}

/// The sales that still have something before them.
///
/// # Errors
/// [`StoreError`].
pub fn open_sales(tx: &ReadTransaction) -> Result<Vec<BatchSale>, StoreError> {
    indexed(tx, &SALES_OPEN, &SALES)
}

/// Whether something is still before a sale.
///
/// # Errors
/// [`StoreError`].
pub fn is_open_sale(tx: &ReadTransaction, id: &OrderId) -> Result<bool, StoreError> {
    Ok(SALES_OPEN.get_bytes(tx, id.as_bytes())?.is_some())
}

/// All sales.
///
/// # Errors
/// [`StoreError`].
pub fn sales(tx: &ReadTransaction) -> Result<Vec<BatchSale>, StoreError> {
    SALES.all(tx)
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
        .map(|(_, id)| from_record("release_sales_by_time", &id))
        .collect()
}

/// Stores a purchase. `watched` says that its coin, or its end, is still looked after.
///
/// # Errors
/// [`StoreError`].
pub fn put_purchase(
    tx: &WriteTransaction,
    purchase: &BatchPurchase,
    watched: bool,
) -> Result<(), StoreError> {
    let id = purchase.id.as_bytes();
    if watched {
        PURCHASES_WATCHED.put_bytes(tx, id, &[])?;
    } else {
        PURCHASES_WATCHED.remove(tx, id)?;
    }
    PURCHASES.put(tx, id, purchase)
}

/// A purchase.
///
/// # Errors
/// [`StoreError`].
pub fn purchase(tx: &ReadTransaction, id: &OrderId) -> Result<Option<BatchPurchase>, StoreError> {
    PURCHASES.get(tx, id.as_bytes())
}

/// The purchases that are still looked after: every one that is not final, and those whose coin may still move.
///
/// # Errors
/// [`StoreError`].
pub fn watched_purchases(tx: &ReadTransaction) -> Result<Vec<BatchPurchase>, StoreError> {
    indexed(tx, &PURCHASES_WATCHED, &PURCHASES)
}

/// All purchases.
///
/// # Errors
/// [`StoreError`].
pub fn purchases(tx: &ReadTransaction) -> Result<Vec<BatchPurchase>, StoreError> {
    PURCHASES.all(tx)
}

fn part_key(order: &OrderId, index: u32) -> [u8; 36] {
    let mut key = [0; 36];
    let (id, at) = key.split_at_mut(32);
    id.copy_from_slice(order.as_bytes());
    at.copy_from_slice(&index.to_be_bytes());
    key
}

/// Keeps an encrypted part of a purchase.
///
/// # Errors
/// [`StoreError`].
pub fn put_part(tx: &WriteTransaction, order: &OrderId, part: &ProvenPart) -> Result<(), StoreError> {
    PARTS.put(tx, &part_key(order, part.part.index), part)
}

/// An encrypted part of a purchase, if it is here and can be read.
///
/// # Errors
/// [`StoreError`].
pub fn part(tx: &ReadTransaction, order: &OrderId, index: u32) -> Result<Option<ProvenPart>, StoreError> {
    PARTS.get(tx, &part_key(order, index))
}

/// Drops the encrypted parts of a purchase below `end`: they are opened, or of no use any more.
///
/// # Errors
/// [`StoreError`].
pub fn remove_parts(tx: &WriteTransaction, order: &OrderId, end: u32) -> Result<(), StoreError> {
    PARTS.remove_range(tx, &part_key(order, 0), &part_key(order, end))
}

/// The records whose ids are in an index.
fn indexed<T: serde::de::DeserializeOwned>(
    tx: &ReadTransaction,
    index: &Records,
    records: &Records,
) -> Result<Vec<T>, StoreError> {
    let ids = index.scan(tx, &[], &[], usize::MAX)?;
    ids.iter().filter_map(|(id, _)| records.get(tx, id).transpose()).collect()
}
