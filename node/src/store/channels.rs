//! Channels and the orders on them, on both sides. The record is written before the message that it is about.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::channel::buyer::BuyerChannel;
use sensora_protocol::market::channel::seller::SellerChannel;
use sensora_protocol::market::delivery::receive::ChannelPurchase;
use sensora_protocol::market::delivery::supply::{ChannelSale, ChannelSaleState};
use sensora_protocol::market::delivery::trail::Fork;
use sensora_protocol::{ChannelId, OrderId, SignedBytes};
use serde::{Deserialize, Serialize};

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
/// Ids of the sales that have ended: `ms ‖ order`.
const SALES_ENDED: Records = Records { name: "channel_sales_ended" };
/// What closed channels have left unpaid: `buyer ‖ order`.
const LEFT_UNPAID: Records = Records { name: "channel_sales_unpaid" };
const PURCHASES: Records = Records { name: "channel_purchases" };
const PURCHASES_OPEN: Records = Records { name: "channel_purchases_open" };
/// What the buyer of an order wants beside what the order says, under the order's id.
const WANTS: Records = Records { name: "channel_wants" };
/// What a live order's readings stand under, under the order's id.
const LIVE: Records = Records { name: "channel_live" };
/// Signed checkpoints that convict a seller, under the order that they came with.
const FORKS: Records = Records { name: "channel_forks" };
/// In which block a channel's funding or its end was proven to be: `channel ‖ 0` or `channel ‖ 1`.
const MINED_IN: Records = Records { name: "channel_blocks" };

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    let tables = [
        SOLD_ON,
        SOLD_ON_OPEN,
        BOUGHT_ON,
        BOUGHT_ON_OPEN,
        SALES,
        SALES_OPEN,
        SALES_ENDED,
        LEFT_UNPAID,
        PURCHASES,
        PURCHASES_OPEN,
        WANTS,
        LIVE,
        FORKS,
        MINED_IN,
    ];
    tables.iter().try_for_each(|table| table.create(tx))
}

/// What a buyer wants of an order beside what the order says. It is stored with the order, so that whoever goes on with it needs to ask nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wants {
    /// Most that may be paid ahead, over all orders with the seller.
    pub exposure: Satoshis,
    /// A live stream ends when so many readings are here.
    pub readings: Option<u64>,
    /// A live stream ends at this time, milliseconds since the Unix epoch.
    pub until_ms: Option<i64>,
}

/// What the readings of a live order stand under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveProof {
    /// The seller's signed checkpoint that came with the last readings: all readings of the order are proven under it.
    pub checkpoint: SignedBytes,
    /// Sequence number after the last reading that is proven under an anchor, where one is.
    pub anchored: Option<u64>,
}

/// The block in which a transaction was proven to be. As long as our best chain has a block with this root at this height, it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinedIn {
    /// Its height.
    pub height: u32,
    /// The root of its transactions, in internal order.
    pub root: [u8; 32],
}

/// Which transaction of a channel is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The one that pays into it.
    Funding,
    /// The one that ends it.
    End,
}

fn block_key(channel: &ChannelId, of: Of) -> Vec<u8> {
    let of = match of {
        Of::Funding => 0,
        Of::End => 1,
    };
    [channel.as_bytes().as_slice(), &[of]].concat()
}

/// Notes in which block a channel's funding or its end is.
///
/// # Errors
/// [`StoreError`].
pub fn put_block(
    tx: &WriteTransaction,
    channel: &ChannelId,
    of: Of,
    block: &MinedIn,
) -> Result<(), StoreError> {
    MINED_IN.put(tx, &block_key(channel, of), block)
}

/// In which block a channel's funding or its end was seen last.
///
/// # Errors
/// [`StoreError`].
pub fn block(tx: &ReadTransaction, channel: &ChannelId, of: Of) -> Result<Option<MinedIn>, StoreError> {
    MINED_IN.get(tx, &block_key(channel, of))
}

/// Stores what the buyer of an order wants.
///
/// # Errors
/// [`StoreError`].
pub fn put_wants(tx: &WriteTransaction, order: &OrderId, wants: &Wants) -> Result<(), StoreError> {
    WANTS.put(tx, order.as_bytes(), wants)
}

/// What the buyer of an order wants; without trust where nothing is stored.
///
/// # Errors
/// [`StoreError`].
pub fn wants(tx: &ReadTransaction, order: &OrderId) -> Result<Wants, StoreError> {
    Ok(WANTS.get(tx, order.as_bytes())?.unwrap_or_default())
}

/// Notes the checkpoint that came with the newest readings of a live order.
///
/// # Errors
/// [`StoreError`].
pub fn put_checkpoint(
    tx: &WriteTransaction,
    order: &OrderId,
    checkpoint: &SignedBytes,
) -> Result<(), StoreError> {
    let anchored = LIVE.get_in::<LiveProof>(tx, order.as_bytes())?.and_then(|known| known.anchored);
    LIVE.put(tx, order.as_bytes(), &LiveProof { checkpoint: checkpoint.clone(), anchored })
}

/// Keeps the evidence that a seller has rewritten a stream's history.
///
/// # Errors
/// [`StoreError`].
pub fn put_fork(tx: &WriteTransaction, order: &OrderId, fork: &Fork) -> Result<(), StoreError> {
    FORKS.put(tx, order.as_bytes(), fork)
}

/// The evidence that the seller of an order has rewritten its stream's history.
///
/// # Errors
/// [`StoreError`].
pub fn fork(tx: &ReadTransaction, order: &OrderId) -> Result<Option<Fork>, StoreError> {
    FORKS.get(tx, order.as_bytes())
}

/// Notes up to where a live order's readings stand under an anchor.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Damaged`] for an order without readings.
pub fn put_anchored_to(tx: &WriteTransaction, order: &OrderId, end: u64) -> Result<(), StoreError> {
    let known: Option<LiveProof> = LIVE.get_in(tx, order.as_bytes())?;
    let known = known.ok_or_else(|| StoreError::Damaged(format!("order {order} has no checkpoint")))?;
    LIVE.put(tx, order.as_bytes(), &LiveProof { anchored: Some(end), ..known })
}

/// What the readings of a live order stand under; none before the first have come.
///
/// # Errors
/// [`StoreError`].
pub fn live_proof(tx: &ReadTransaction, order: &OrderId) -> Result<Option<LiveProof>, StoreError> {
    LIVE.get(tx, order.as_bytes())
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

/// Stores a channel that we are to be paid with, where it is not known. Answers whether that is so; where it is known nothing has changed.
///
/// # Errors
/// [`StoreError`].
pub fn insert_seller(tx: &WriteTransaction, channel: &SellerChannel) -> Result<bool, StoreError> {
    let is_new = SOLD_ON.get_in::<SellerChannel>(tx, channel.id.as_bytes())?.is_none();
    if is_new {
        put_seller(tx, channel, false)?;
    }
    Ok(is_new)
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

/// What an order has left unpaid on a channel that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftUnpaid {
    /// Who has not paid.
    pub buyer: PublicKey,
    /// The order.
    pub order: OrderId,
    /// For how much readings may have gone out.
    pub unpaid: Satoshis,
}

fn left_key(sale: &ChannelSale) -> Vec<u8> {
    [sale.buyer.to_bytes().as_slice(), sale.order.as_bytes()].concat()
}

fn ended_key(ended_ms: i64, order: &OrderId) -> Vec<u8> {
    [time_prefix(ended_ms).as_slice(), order.as_bytes()].concat()
}

fn time_prefix(ms: i64) -> [u8; 8] {
    u64::try_from(ms).unwrap_or(0).to_be_bytes()
}

/// Stores an order that is paid to us through a channel. Where it has ended, that counts as `now_ms`, milliseconds since the Unix epoch.
///
/// # Errors
/// [`StoreError`].
pub fn put_sale(tx: &WriteTransaction, sale: &ChannelSale, now_ms: i64) -> Result<(), StoreError> {
    let id = sale.order.as_bytes();
    index(tx, &SALES_OPEN, id, !sale.is_final())?;
    if sale.is_final() && !SALES.get_in::<ChannelSale>(tx, id)?.is_some_and(|known| known.is_final()) {
        SALES_ENDED.put(tx, &ended_key(now_ms, &sale.order), &(now_ms, sale.order))?;
    }
    if let ChannelSaleState::LeftUnpaid { unpaid, .. } = sale.state
        && !unpaid.is_zero()
    {
        let left = LeftUnpaid { buyer: sale.buyer, order: sale.order, unpaid };
        LEFT_UNPAID.put(tx, &left_key(sale), &left)?;
    }
    SALES.put(tx, id, sale)
}

/// Forgets a sale that has not ended, as far as the store knows.
///
/// # Errors
/// [`StoreError`].
pub fn remove_sale(tx: &WriteTransaction, id: &OrderId) -> Result<(), StoreError> {
    SALES_OPEN.remove(tx, id.as_bytes())?;
    SALES.remove(tx, id.as_bytes())
}

/// Forgets a sale that has ended at `ended_ms`, with what it has left unpaid. Answers it.
///
/// # Errors
/// [`StoreError`].
pub fn forget_sale(
    tx: &WriteTransaction,
    ended_ms: i64,
    id: &OrderId,
) -> Result<Option<ChannelSale>, StoreError> {
    let sale = SALES.get_in::<ChannelSale>(tx, id.as_bytes())?;
    if let Some(sale) = &sale {
        LEFT_UNPAID.remove(tx, &left_key(sale))?;
    }
    SALES_ENDED.remove(tx, &ended_key(ended_ms, id))?;
    remove_sale(tx, id)?;
    Ok(sale)
}

/// Sales that ended before `ms`, each with when it did, oldest first, at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub fn sales_ended_before(
    tx: &ReadTransaction,
    ms: i64,
    limit: usize,
) -> Result<Vec<(i64, OrderId)>, StoreError> {
    let before = time_prefix(ms);
    let oldest = SALES_ENDED.scan(tx, &[], &[], limit)?.into_iter();
    oldest
        .take_while(|(key, _)| key.as_slice() < before.as_slice())
        .map(|(_, value)| super::from_record(SALES_ENDED.name, &value))
        .collect()
}

/// What a buyer has left unpaid on channels that are closed, over all sales that are kept.
///
/// # Errors
/// [`StoreError`].
pub fn left_unpaid_by(tx: &ReadTransaction, buyer: &PublicKey) -> Result<Satoshis, StoreError> {
    let prefix = buyer.to_bytes();
    let left = LEFT_UNPAID.scan(tx, &prefix, &prefix, usize::MAX)?;
    left.iter().try_fold(Satoshis::ZERO, |sum, (_, value)| {
        let left: LeftUnpaid = super::from_record(LEFT_UNPAID.name, value)?;
        Ok(sum.checked_add(left.unpaid).unwrap_or(Satoshis::MAX))
    })
}

/// All that is left unpaid on channels that are closed.
///
/// # Errors
/// [`StoreError`].
pub fn left_unpaid(tx: &ReadTransaction) -> Result<Vec<LeftUnpaid>, StoreError> {
    LEFT_UNPAID.all(tx)
}

/// Notes that a sale which has not ended is kept from `ms` on, milliseconds since the Unix epoch, though its channel is closed. Storing the sale ends that.
///
/// # Errors
/// [`StoreError`].
pub fn keep_sale(tx: &WriteTransaction, id: &OrderId, ms: i64) -> Result<(), StoreError> {
    SALES_OPEN.put_bytes(tx, id.as_bytes(), &time_prefix(ms))
}

/// From when on a sale is kept though its channel is closed, where it is.
///
/// # Errors
/// [`StoreError`].
pub fn kept_since(tx: &ReadTransaction, id: &OrderId) -> Result<Option<i64>, StoreError> {
    let noted = SALES_OPEN.get_bytes(tx, id.as_bytes())?;
    let ms = noted.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok());
    Ok(ms.and_then(|ms| i64::try_from(u64::from_be_bytes(ms)).ok()))
}

/// An order that is paid to us through a channel.
///
/// # Errors
/// [`StoreError`].
pub fn sale(tx: &ReadTransaction, id: &OrderId) -> Result<Option<ChannelSale>, StoreError> {
    SALES.get(tx, id.as_bytes())
}

/// All orders that are or were paid to us through a channel.
///
/// # Errors
/// [`StoreError`].
pub fn sales(tx: &ReadTransaction) -> Result<Vec<ChannelSale>, StoreError> {
    SALES.all(tx)
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
