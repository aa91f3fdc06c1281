//! What the owner of a seller wants of its channels: to have one closed, or an order on one ended, before its buyer does.
//!
//! The rules are the channel's ([`SellerChannelEvent::EndAsked`], [`SellerChannelEvent::EndOrder`]); both wishes are on disk when they are answered, and
//! hold across restarts.

use std::sync::Arc;

use sensora_protocol::market::channel::seller::SellerChannelEvent;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{ChannelId, OrderId};

use super::{Channels, InUse, lock};
use crate::store::{StoreError, channels as records};

/// Why a channel is not closed, or an order not ended, for its seller's owner.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerError {
    /// No channel of this id pays us.
    #[error("channel {0} is none that this home is paid with: `sensora channels` lists them")]
    UnknownChannel(ChannelId),
    /// The channel is over.
    #[error("channel {channel} is {state} already: nothing is to be closed")]
    ChannelOver {
        /// The channel.
        channel: ChannelId,
        /// How it ended.
        state: &'static str,
    },
    /// The network has not answered the channel's funding.
    #[error("channel {0} is not open yet: it can be closed when the network has taken its funding")]
    NotOpen(ChannelId),
    /// No order of this id is paid through a channel here.
    #[error("order {0} is none that is paid to this home through a channel: `sensora earnings` lists them")]
    UnknownOrder(OrderId),
    /// The order is over.
    #[error("order {0} has ended already: `sensora earnings` says what it has paid")]
    OrderOver(OrderId),
    /// The order is to end with its channel.
    #[error("order {order} ends with channel {channel}, which is closed already")]
    ChannelClosed {
        /// The order.
        order: OrderId,
        /// Its channel.
        channel: ChannelId,
    },
    /// The wish could not be stored.
    #[error("it could not be stored, and nothing has changed: {0}")]
    Refused(Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Channels {
    /// Closes a channel when the orders on it have come to their end, at the latest some blocks from now; at once where none runs. While the wallet is
    /// frozen, too: a close brings money in.
    ///
    /// # Errors
    /// [`OwnerError`].
    pub async fn end_channel(&self, id: &ChannelId) -> Result<(), OwnerError> {
        let Some(live) = self.find(id) else {
            let record = self.inner.parts.store.read(|tx| records::seller(tx, id))?;
            return Err(match record {
                Some(record) => OwnerError::ChannelOver { channel: *id, state: record.state.name() },
                None => OwnerError::UnknownChannel(*id),
            });
        };
        let (channel, state) = (*id, live.record().state);
        if state.is_final() {
            return Err(OwnerError::ChannelOver { channel, state: state.name() });
        }
        match self.take(&live, SellerChannelEvent::EndAsked(self.tip()), None).await {
            None => Ok(()),
            Some(Refusal::ChannelNotMined { .. }) => Err(OwnerError::NotOpen(channel)),
            Some(refusal) => Err(OwnerError::Refused(refusal)),
        }
    }

    /// Ends an order that is paid through a channel. Where its buyer is here it is told at once, pays what is due, and has a receipt; else when it comes
    /// back, and at the latest with its channel.
    ///
    /// # Errors
    /// [`OwnerError`].
    pub async fn end_order(&self, order: &OrderId) -> Result<(), OwnerError> {
        let order = *order;
        let sale = self.inner.parts.store.read(|tx| records::sale(tx, &order))?;
        let sale = sale.ok_or(OwnerError::UnknownOrder(order))?;
        if sale.is_final() {
            return Err(OwnerError::OrderOver(order));
        }
        let channel = sale.channel;
        let live = self.find(&channel).ok_or(OwnerError::ChannelClosed { order, channel })?;
        match self.take(&live, SellerChannelEvent::EndOrder(order), None).await {
            None => Ok(()),
            // It has ended in between.
            Some(Refusal::UnknownOrder { .. }) => Err(OwnerError::OrderOver(order)),
            Some(Refusal::ChannelClosed { .. }) => Err(OwnerError::ChannelClosed { order, channel }),
            Some(refusal) => Err(OwnerError::Refused(refusal)),
        }
    }

    fn find(&self, id: &ChannelId) -> Option<Arc<InUse>> {
        lock(&self.inner.live).get(id).cloned()
    }
}
