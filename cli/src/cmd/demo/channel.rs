//! The demo's live stream: a channel is opened, readings are paid as they come, the channel is closed, and both sides have what is theirs.

use sensora_chain::{Satoshis, Txid};
use sensora_node::buyer::{LiveEvent, SubscribeRequest};
use sensora_node::clock::Stopwatch;
use sensora_node::store;
use sensora_protocol::OrderId;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::channel::offer::{ChannelLimits, ChannelOffer};
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::price::Metered;
use sensora_protocol::stream::Reading;

use super::orders::{Chosen, check_equal};
use super::story::Story;
use super::{NETWORK, PATIENCE, Stage, eventually};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// What is put into the channel.
const VALUE: Satoshis = Satoshis::from_sat(2_000);
/// The readings that are received as they come: at the demo's price a few satoshis.
const READINGS: u64 = 8;
/// The most that they may cost.
const BUDGET: Satoshis = Satoshis::from_sat(100);
/// The most that is paid ahead of them.
const EXPOSURE: Satoshis = Satoshis::from_sat(10);
/// About how long the channel could last, in blocks: a day.
const BLOCKS: u32 = 144;

/// The live order and its channel.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) order: OrderId,
    pub(super) first: u64,
    pub(super) count: u64,
    /// What was paid for the readings, by vouchers.
    pub(super) paid_sat: Satoshis,
    pub(super) value_sat: Satoshis,
    /// What the close left to the miner.
    pub(super) close_fee_sat: Satoshis,
    /// The two transactions.
    pub(super) opened: Txid,
    pub(super) closed: Txid,
    /// The block of the close.
    pub(super) height: u32,
    pub(super) millis: u64,
}

/// Receives a stream as it comes, and closes the channel that it was paid through.
pub(super) async fn stream(stage: &Stage, stream: &Chosen, story: &Story<'_>) -> Outcome<Live> {
    let buyer = stage.buyer.buyer();
    let seller = *stage.agent.identity().public();
    story.now("opening a channel");
    let limits = ChannelLimits { max_value: VALUE, max_blocks: BLOCKS, max_close_fee: VALUE };
    let channel = buyer.open_channel(&seller, VALUE, BLOCKS, limits).await?;
    buyer.wait_for_channel(&channel, PATIENCE, |_| ()).await?;

    story.now("receiving readings as they come");
    let watch = Stopwatch::start();
    let request = SubscribeRequest {
        seller,
        stream: stream.ad.id,
        from: LiveFrom::Latest,
        by: Metered::Reading,
        max_reading: None,
        max_second: None,
        budget: BUDGET,
        exposure: EXPOSURE,
        ad: Some(stream.ad.clone()),
        readings: Some(READINGS),
        until_ms: None,
    };
    let mut subscription = buyer.subscribe(&request).await?;
    let order = subscription.order();
    let mut readings: Vec<Reading> = Vec::new();
    let receipt = loop {
        match subscription.next().await? {
            Some(LiveEvent::Readings(batch)) => readings.extend(batch.readings),
            Some(LiveEvent::Ended(Ok(receipt))) => break receipt.value().clone(),
            Some(LiveEvent::Ended(Err(error))) => return Err(Failure::of_shared(&error)),
            Some(_) => {}
            None => return Err(Failure::other("the live stream ended without a word")),
        }
    };
    let millis = watch.elapsed_ms();
    check_equal(stage, stream, &readings)?;
    if receipt.count != readings.len() as u64 || receipt.count < READINGS {
        return Err(Failure::new(Exit::Unverified, "the receipt is not for the readings that came"));
    }

    story.now("closing the channel");
    buyer.close_channel(&channel).await?;
    let (closed, height, paid) = eventually("the channel's close in a block", async || {
        let stored = stage.buyer.store().read(|tx| store::channels::buyer(tx, &channel))?;
        Ok(stored.and_then(|stored| match stored.state {
            BuyerChannelState::Ended { txid, height, paid } => Some((txid, height, paid)),
            _ => None,
        }))
    })
    .await?;
    if paid != receipt.paid {
        return Err(Failure::new(Exit::Unverified, "the close pays something else than the receipt says"));
    }
    let stored = stage.buyer.store().read(|tx| store::channels::buyer(tx, &channel))?;
    let stored = stored.ok_or_else(|| Failure::other("the channel is not in the store"))?;
    let offer = stored.offer.verify_by::<ChannelOffer>(NETWORK, &seller);
    let offer = offer.map_err(|error| Failure::from_error(Exit::Unverified, &error))?;
    let line = Live {
        order,
        first: receipt.first,
        count: receipt.count,
        paid_sat: paid,
        value_sat: VALUE,
        close_fee_sat: offer.value().close_fee,
        opened: stored.funding.txid,
        closed,
        height,
        millis,
    };
    // The agent, too, has seen what came in before the satoshis are counted.
    eventually("what the close pays the agent", async || {
        Ok(stage.agent.wallet().status(&closed).filter(|status| status.is_settled()))
    })
    .await?;
    story.streamed(&line, &stream.ad.name)?;
    Ok(line)
}
