//! Channels and the orders on them, on both sides. The record is written before the message that it is about.

use redb::{ReadTransaction, WriteTransaction};
use sensora_protocol::market::channel::buyer::BuyerChannel;
use sensora_protocol::market::channel::seller::SellerChannel;
use sensora_protocol::market::delivery::receive::ChannelPurchase;
use sensora_protocol::market::delivery::supply::ChannelSale;
use sensora_protocol::{ChannelId, OrderId};

use super::StoreError;
use super::kinds::Records;

const SOLD_ON: Records = Records { name: "channels_seller" };
/// Ids of the seller's channels that still have something before them.
const SOLD_ON_OPEN: Records = Records { name: "channels_seller_open" };
const BOUGHT_ON: Records = Records { name: "channels_buyer" };
const BOUGHT_ON_OPEN: Records = Records { name: "channels_buyer_open" };
const SALES: Records = Records { name: "channel_sales" };
/// Ids of the sales that are not paid to the end.
const SALES_OPEN: Records = Records { name: "channel_sales_open" };
const PURCHASES: Records = Records { name: "channel_purchases" };
const PURCHASES_OPEN: Records = Records { name: "channel_purchases_open" };

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    let tables =
        [SOLD_ON, SOLD_ON_OPEN, BOUGHT_ON, BOUGHT_ON_OPEN, SALES, SALES_OPEN, PURCHASES, PURCHASES_OPEN];
    tables.iter().try_for_each(|table| table.create(tx))
}

/// Notes under an id that something is still before it, or no longer.
fn index(tx: &WriteTransaction, table: &Records, id: &[u8; 32], open: bool) -> Result<(), StoreError> {
    if open { table.put_bytes(tx, id, &[]) } else { table.remove(tx, id) }
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

/// Stores a channel that we are paid with. `settled` says that it is final and buried: it is not looked at any more.
///
/// # Errors
/// [`StoreError`].
pub fn put_seller(tx: &WriteTransaction, channel: &SellerChannel, settled: bool) -> Result<(), StoreError> {
    index(tx, &SOLD_ON_OPEN, channel.id.as_bytes(), !settled)?;
    SOLD_ON.put(tx, channel.id.as_bytes(), channel)
}

/// Forgets a channel that was never opened.
///
/// # Errors
/// [`StoreError`].
pub fn remove_seller(tx: &WriteTransaction, id: &ChannelId) -> Result<(), StoreError> {
    SOLD_ON_OPEN.remove(tx, id.as_bytes())?;
    SOLD_ON.remove(tx, id.as_bytes())
}

/// A channel that we are paid with.
///
/// # Errors
/// [`StoreError`].
pub fn seller(tx: &ReadTransaction, id: &ChannelId) -> Result<Option<SellerChannel>, StoreError> {
    SOLD_ON.get(tx, id.as_bytes())
}

/// The channels that we are paid with and that are not settled.
///
/// # Errors
/// [`StoreError`].
pub fn open_seller(tx: &ReadTransaction) -> Result<Vec<SellerChannel>, StoreError> {
    indexed(tx, &SOLD_ON_OPEN, &SOLD_ON)
}

/// All channels that we are or were paid with.
///
/// # Errors
/// [`StoreError`].
pub fn all_seller(tx: &ReadTransaction) -> Result<Vec<SellerChannel>, StoreError> {
    SOLD_ON.all(tx)
}

/// Stores a channel that we pay with. `settled` as in [`put_seller`].
///
/// # Errors
/// [`StoreError`].
pub fn put_buyer(tx: &WriteTransaction, channel: &BuyerChannel, settled: bool) -> Result<(), StoreError> {
    index(tx, &BOUGHT_ON_OPEN, channel.id.as_bytes(), !settled)?;
    BOUGHT_ON.put(tx, channel.id.as_bytes(), channel)
}

/// A channel that we pay with.
///
/// # Errors
/// [`StoreError`].
pub fn buyer(tx: &ReadTransaction, id: &ChannelId) -> Result<Option<BuyerChannel>, StoreError> {
    BOUGHT_ON.get(tx, id.as_bytes())
}

/// The channels that we pay with and that are not settled.
///
/// # Errors
/// [`StoreError`].
pub fn open_buyer(tx: &ReadTransaction) -> Result<Vec<BuyerChannel>, StoreError> {
    indexed(tx, &BOUGHT_ON_OPEN, &BOUGHT_ON)
}

/// All channels that we pay or paid with.
///
/// # Errors
/// [`StoreError`].
pub fn all_buyer(tx: &ReadTransaction) -> Result<Vec<BuyerChannel>, StoreError> {
    BOUGHT_ON.all(tx)
}

/// Stores an order that is paid to us through a channel.
///
/// # Errors
/// [`StoreError`].
pub fn put_sale(tx: &WriteTransaction, sale: &ChannelSale) -> Result<(), StoreError> {
    index(tx, &SALES_OPEN, sale.order.as_bytes(), !sale.is_final())?;
    SALES.put(tx, sale.order.as_bytes(), sale)
}

/// An order that is paid to us through a channel.
///
/// # Errors
/// [`StoreError`].
pub fn sale(tx: &ReadTransaction, id: &OrderId) -> Result<Option<ChannelSale>, StoreError> {
    SALES.get(tx, id.as_bytes())
}

/// The orders that are paid to us through a channel and not to the end.
///
/// # Errors
/// [`StoreError`].
pub fn open_sales(tx: &ReadTransaction) -> Result<Vec<ChannelSale>, StoreError> {
    indexed(tx, &SALES_OPEN, &SALES)
}

/// Stores an order of ours that is paid through a channel.
///
/// # Errors
/// [`StoreError`].
pub fn put_purchase(tx: &WriteTransaction, purchase: &ChannelPurchase) -> Result<(), StoreError> {
    index(tx, &PURCHASES_OPEN, purchase.id.as_bytes(), !purchase.is_final())?;
    PURCHASES.put(tx, purchase.id.as_bytes(), purchase)
}

/// An order of ours that is paid through a channel.
///
/// # Errors
/// [`StoreError`].
pub fn purchase(tx: &ReadTransaction, id: &OrderId) -> Result<Option<ChannelPurchase>, StoreError> {
    PURCHASES.get(tx, id.as_bytes())
}

/// Our orders that are paid through a channel and not ended.
///
/// # Errors
/// [`StoreError`].
pub fn open_purchases(tx: &ReadTransaction) -> Result<Vec<ChannelPurchase>, StoreError> {
    indexed(tx, &PURCHASES_OPEN, &PURCHASES)
}

/// All our orders that were paid through a channel.
///
/// # Errors
/// [`StoreError`].
pub fn purchases(tx: &ReadTransaction) -> Result<Vec<ChannelPurchase>, StoreError> {
    PURCHASES.all(tx)
}
