//! The channels that we pay with, on the chain: whether they have ended, and what is to be taken back.

use std::sync::Arc;

use sensora_chain::header::HeaderView as _;
use sensora_protocol::market::channel::buyer::{BuyerChannelEvent, BuyerChannelState};
use tokio_util::sync::CancellationToken;

use super::super::{BuyError, Buyer};
use super::{Open, ToOrders, lock};
use crate::store::channels::{self as records, Of};
use crate::watching::{ASK_AT_ONCE, Blocks, Sight, block_of, look, stands};

impl Buyer {
    /// Until cancelled: follows the chain for all channels, and takes back what is due.
    pub async fn run_channels(self, cancel: CancellationToken) {
        let mut blocks = Blocks::of(&self.inner.chain, cancel);
        while blocks.after(Box::pin(self.look_at_channels())).await {}
    }

    /// Asks the chain about all channels once.
    pub async fn look_at_channels(&self) {
        let all: Vec<_> = lock(&self.channels.open).values().cloned().collect();
        for some in all.chunks(ASK_AT_ONCE) {
            let asked: Vec<_> =
                some.iter().map(|open| (open.contract.outpoint(), open.may_be_void())).collect();
            match look(&self.inner.chain, &asked).await {
                Ok(sights) => {
                    for (open, sight) in some.iter().zip(sights) {
                        if let Err(error) = self.look_at_channel(open, sight).await {
                            tracing::debug!(channel = %open.id(), %error, "a channel waits");
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the chain could not be asked about channels");
                    // Our headers say what time it is all the same: no refund waits for an answer. Where something else spends the output,
                    // the network refuses it.
                    let tip = self.inner.chain.headers().tip_height();
                    for open in some.iter().filter(|open| tip >= open.offer.refund_height.get()) {
                        if let Err(error) = self.tell_height(open).await {
                            tracing::debug!(channel = %open.id(), %error, "a channel waits");
                        }
                    }
                }
            }
        }
    }

    async fn look_at_channel(&self, open: &Arc<Open>, sight: Sight) -> Result<(), BuyError> {
        let chain = &self.inner.chain;
        let state = lock(&open.record).state.clone();
        let Sight { spender, funding } = sight;
        if let BuyerChannelState::Ended { txid, .. } = state
            && spender.as_ref().is_none_or(|(tx, _)| tx.txid() != txid)
        {
            let id = open.id();
            let block = self.inner.store.read(|tx| records::block(tx, &id, Of::End))?;
            if block.is_some_and(|block| !stands(chain, &block)) {
                self.channel_event(open, BuyerChannelEvent::Unspent, None).await?;
            }
        }
        if let Some(path) = funding.filter(|_| open.may_be_void()) {
            self.channel_event(open, BuyerChannelEvent::Mined, Some((Of::Funding, path))).await?;
        }
        if let Some((tx, path)) = spender {
            let height = block_of(&path).height;
            let event = BuyerChannelEvent::Spent { transaction: Box::new(tx), height };
            self.channel_event(open, event, Some((Of::End, path))).await?;
        }
        self.tell_height(open).await
    }

    /// Tells a channel how far the chain is, by our headers.
    async fn tell_height(&self, open: &Arc<Open>) -> Result<(), BuyError> {
        let (height, rate) = (self.inner.chain.headers().tip_height(), self.inner.wallet.fees().rate);
        self.channel_event(open, BuyerChannelEvent::Tip { height, rate }, None).await?;
        if open.to_orders(height) == ToOrders::Closed {
            self.leave_orders(&open.id()).await?;
        }
        Ok(())
    }
}

impl Open {
    /// Whether its coins were taken back: the network may have preferred the funding, if only after a reorganisation.
    fn may_be_void(&self) -> bool {
        let state = &lock(&self.record).state;
        matches!(state, BuyerChannelState::Refused { .. } | BuyerChannelState::TakenBack { .. })
    }
}
