//! The channels that we are paid with, on the chain: whether their funding is in a block, when to close them, and whether they are closed.

use std::sync::Arc;

use sensora_protocol::market::channel::seller::{
    Loss, SellerChannel, SellerChannelEvent, SellerChannelState,
};
use tokio_util::sync::CancellationToken;

use super::{Channels, InUse, lock};
use crate::store::channels::{self, Of};
use crate::watching::{ASK_AT_ONCE, Blocks, Sight, block_of, look, stands};

impl Channels {
    /// Until cancelled: follows the chain for all channels, and closes those whose time has come.
    pub async fn run(self, cancel: CancellationToken) {
        let mut blocks = Blocks::of(&self.inner.parts.chain, cancel);
        while blocks.after(Box::pin(self.look())).await {}
    }

    /// Asks the chain about all channels once.
    pub async fn look(&self) {
        let all: Vec<Arc<InUse>> = lock(&self.inner.live).values().cloned().collect();
        for some in all.chunks(ASK_AT_ONCE) {
            let asked: Vec<_> = some.iter().map(|live| (lock(&live.record).outpoint, true)).collect();
            match look(&self.inner.parts.chain, &asked).await {
                Ok(sights) => {
                    for (live, sight) in some.iter().zip(sights) {
                        self.look_at(live, sight).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the chain could not be asked about channels");
                    // Our headers say what time it is all the same: nothing that is due waits for an answer.
                    let tip = self.tip();
                    for live in some.iter().filter(|live| tip >= live.offer.closes_at()) {
                        self.take(live, SellerChannelEvent::Tip(tip), None).await;
                    }
                }
            }
        }
    }

    async fn look_at(&self, live: &Arc<InUse>, sight: Sight) {
        let (id, state, mined) = {
            let record = lock(&live.record);
            (record.id, record.state.clone(), record.mined)
        };
        let Sight { spender, funding } = sight;
        // What took it from us can be undone as much as our close: then our close may still win.
        let end = match state {
            SellerChannelState::Closed { txid, .. }
            | SellerChannelState::Gone { reason: Loss::Refunded(txid) | Loss::Spent(txid) } => Some(txid),
            _ => None,
        };
        if let Some(txid) = end
            && spender.as_ref().is_none_or(|(tx, _)| tx.txid() != txid)
            && self.is_gone(live, Of::End)
        {
            self.take(live, SellerChannelEvent::Unspent, None).await;
        }
        match funding {
            Some(path) => {
                let block = block_of(&path);
                let known = self.inner.parts.store.read(|tx| channels::block(tx, &id, Of::Funding));
                if mined != Some(block.height) || !known.is_ok_and(|known| known == Some(block)) {
                    let event = SellerChannelEvent::Mined(Some(block.height));
                    self.take(live, event, Some((Of::Funding, path))).await;
                }
            }
            None if mined.is_some() && spender.is_none() && self.is_gone(live, Of::Funding) => {
                self.take(live, SellerChannelEvent::Mined(None), None).await;
            }
            None => {}
        }
        if let Some((tx, path)) = spender {
            let height = block_of(&path).height;
            let event = SellerChannelEvent::Spent { transaction: Box::new(tx), height };
            self.take(live, event, Some((Of::End, path))).await;
        }
        self.settle(live).await;
        self.take(live, SellerChannelEvent::Tip(self.tip()), None).await;
    }

    /// Whether the block that a transaction of the channel was proven to be in is none of our best chain any more.
    fn is_gone(&self, live: &InUse, of: Of) -> bool {
        let id = lock(&live.record).id;
        let block = self.inner.parts.store.read(|tx| channels::block(tx, &id, of));
        matches!(block, Ok(Some(block)) if !stands(&self.inner.parts.chain, &block))
    }

    /// Ends a channel whose owner wants what was earned on it in the wallet.
    async fn settle(&self, live: &Arc<InUse>) {
        let record = live.record();
        if record.ends_from.is_none() && self.is_to_settle(&record) {
            tracing::info!(channel = %record.id, "a channel has earned enough, or is old enough: it is closed when its orders have ended");
            self.take(live, SellerChannelEvent::EndAsked(self.tip()), None).await;
        }
    }

    /// Whether the owner wants what was earned on it in the wallet.
    fn is_to_settle(&self, record: &SellerChannel) -> bool {
        let (policy, clock) = (&self.inner.parts.policy, &self.inner.parts.clock);
        let age_ms = u128::try_from(clock.now_ms().saturating_sub(record.admitted_ms)).unwrap_or(0);
        let is_enough = policy.settle_at.is_some_and(|enough| record.earning.highest >= enough);
        let is_old = policy.settle_after.is_some_and(|old| age_ms >= old.as_millis());
        record.state == SellerChannelState::Open && !record.earning.highest.is_zero() && (is_enough || is_old)
    }
}
