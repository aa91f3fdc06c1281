//! `sensora channels`: the payment channels of a home, on either side.

use std::time::Duration;

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use sensora_node::store;
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::channel::buyer::{BuyerChannel, BuyerChannelState};
use sensora_protocol::market::channel::offer::{ChannelLimits, ChannelOffer};
use sensora_protocol::market::channel::seller::{SellerChannel, SellerChannelState};
use sensora_protocol::{ChannelId, SignedBytes};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::control::{self, Books, Question};
use super::find;
use super::offline::pick;
use super::session::Session;
use crate::args::{ChannelsAction, ChannelsArgs, CloseChannelArgs, OpenChannelArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, sat, short_id, shortened, time_ms};

/// How long `open` waits until the channel can be used.
pub(super) const OPENS_WITHIN: Duration = Duration::from_secs(30);

/// One channel in `--json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChannelReport {
    channel: ChannelId,
    /// `buyer`: this home pays with it; `seller`: it is paid with it.
    role: String,
    /// Peer id of the other side.
    with: String,
    state: String,
    /// Why it ended otherwise than by its close.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    value_sat: Satoshis,
    paid_sat: Satoshis,
    /// What orders that run may still pay; as buyer only.
    reserved_sat: Satoshis,
    /// What no order has been promised.
    free_sat: Satoshis,
    /// From this block on no more is paid with it.
    closes_at: u32,
    /// From this block on the buyer can take back what is in it without the seller.
    refund_height: u32,
    opened: String,
}

fn offer_of(
    offer: &SignedBytes,
    network: Network,
    seller: &PublicKey,
    id: &ChannelId,
) -> Outcome<ChannelOffer> {
    let offer = offer.clone().verify_by::<ChannelOffer>(network, seller);
    let offer = offer.map_err(|error| {
        Failure::new(Exit::Home, format!("the record of channel {id} is damaged: {error}"))
    })?;
    Ok(offer.value().clone())
}

impl ChannelReport {
    fn of_buyer(channel: &BuyerChannel, network: Network) -> Outcome<Self> {
        let offer = offer_of(&channel.offer, network, &channel.seller, &channel.id)?;
        let damaged = |error: &dyn std::error::Error| {
            Failure::new(Exit::Home, format!("the record of channel {} is damaged: {error}", channel.id))
        };
        let spending = &channel.spending;
        let is_over = matches!(
            channel.state,
            BuyerChannelState::Ended { .. }
                | BuyerChannelState::TakenBack { .. }
                | BuyerChannelState::Refused { .. }
        );
        let free = if is_over { Satoshis::ZERO } else { spending.free().map_err(|error| damaged(&error))? };
        let reason = match &channel.state {
            BuyerChannelState::Refused { refusal: Some(refusal) }
            | BuyerChannelState::TakenBack { refusal: Some(refusal) } => Some(refusal.to_string()),
            _ => None,
        };
        let paid = match channel.state {
            BuyerChannelState::Ended { paid, .. } => paid,
            _ => spending.paid().map_err(|error| damaged(&error))?,
        };
        Ok(Self {
            channel: channel.id,
            role: "buyer".to_owned(),
            with: peer_id(&channel.seller),
            state: channel.state.name().to_owned(),
            reason,
            value_sat: offer.value,
            paid_sat: paid,
            reserved_sat: spending.reserved().map_err(|error| damaged(&error))?,
            free_sat: free,
            closes_at: offer.closes_at(),
            refund_height: offer.refund_height.get(),
            opened: time_ms(channel.opened_ms),
        })
    }

    fn of_seller(channel: &SellerChannel, network: Network, us: &PublicKey) -> Outcome<Self> {
        let offer = offer_of(&channel.offer, network, us, &channel.id)?;
        let capacity = offer.value.saturating_sub(offer.close_fee);
        let is_open = matches!(channel.state, SellerChannelState::Admitted | SellerChannelState::Open);
        let reason = match &channel.state {
            SellerChannelState::Gone { reason } => Some(reason.to_string()),
            _ => None,
        };
        let highest = channel.earning.highest;
        Ok(Self {
            channel: channel.id,
            role: "seller".to_owned(),
            with: peer_id(&channel.buyer),
            state: channel.state.name().to_owned(),
            reason,
            value_sat: offer.value,
            paid_sat: highest,
            reserved_sat: Satoshis::ZERO,
            free_sat: if is_open { capacity.saturating_sub(highest) } else { Satoshis::ZERO },
            closes_at: offer.closes_at(),
            refund_height: offer.refund_height.get(),
            opened: time_ms(channel.admitted_ms),
        })
    }
}

/// Does what was asked.
pub(super) fn run(args: &ChannelsArgs, context: &Context) -> Outcome<Exit> {
    match &args.action {
        None | Some(ChannelsAction::List) => list(context),
        Some(ChannelsAction::Open(args)) => open(args, context),
        Some(ChannelsAction::Close(args)) => close(args, context),
    }
}

fn list(context: &Context) -> Outcome<Exit> {
    let all = control::read(Question::Channels, context, reports)?;
    show(&all, context)?;
    Ok(Exit::Ok)
}

/// All channels of the books, oldest first.
pub(super) fn reports(books: &Books<'_>) -> Outcome<Vec<ChannelReport>> {
    let bought = books.store.read(store::channels::all_buyer)?;
    let sold = books.store.read(store::channels::all_seller)?;
    let bought =
        bought.iter().map(|channel| (channel.opened_ms, ChannelReport::of_buyer(channel, books.network)));
    let sold = sold
        .iter()
        .map(|channel| (channel.admitted_ms, ChannelReport::of_seller(channel, books.network, books.key)));
    let mut all: Vec<_> = bought.chain(sold).collect();
    all.sort_by_key(|(opened_ms, _)| *opened_ms);
    all.into_iter().map(|(_, report)| report).collect()
}

fn show(all: &[ChannelReport], context: &Context) -> Outcome {
    let out = &context.out;
    if out.is_json() {
        return out.document(&json!({ "channels": all }));
    }
    let mut table = Table::new([
        "channel",
        "opened",
        "as",
        "with",
        "state",
        "#value",
        "#paid",
        "#reserved",
        "#free",
        "#refund at",
    ]);
    for report in all {
        table.row([
            short_id(&report.channel),
            report.opened.clone(),
            report.role.clone(),
            shortened(&report.with, 16),
            report
                .reason
                .as_ref()
                .map_or_else(|| report.state.clone(), |why| format!("{}: {why}", report.state)),
            sat(report.value_sat),
            sat(report.paid_sat),
            sat(report.reserved_sat),
            sat(report.free_sat),
            report.refund_height.to_string(),
        ]);
    }
    if table.is_empty() {
        out.note(
            "there are no channels: `sensora buy` opens one where it is worth it, or `sensora channels open`",
        );
        return Ok(());
    }
    out.table(&table)
}

/// The limits of a channel: the flags before the configuration.
pub(super) fn limits(session: &Session, value: Option<u64>, blocks: Option<u32>) -> Outcome<ChannelLimits> {
    let configured = session.config.buyer.channel_limits();
    let value = value.map(Satoshis::new).transpose().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(ChannelLimits {
        max_value: value.unwrap_or(configured.max_value),
        max_blocks: blocks.unwrap_or(configured.max_blocks),
        ..configured
    })
}

fn one(session: &Session, id: &ChannelId, context: &Context) -> Outcome<Exit> {
    let stored = session.node.store().read(|tx| store::channels::buyer(tx, id))?;
    let stored = stored.ok_or_else(|| Failure::not_found(format!("there is no channel {id}")))?;
    let report = ChannelReport::of_buyer(&stored, session.network)?;
    let out = &context.out;
    if out.is_json() {
        out.document(&report)?;
        return Ok(Exit::Ok);
    }
    out.field("channel", report.channel)?;
    out.field("seller", &report.with)?;
    out.field("state", &report.state)?;
    out.field("value", sat(report.value_sat))?;
    out.field("paid", sat(report.paid_sat))?;
    out.field("free", sat(report.free_sat))?;
    out.field("refund", format!("from block {} on, if the seller does nothing", report.refund_height))?;
    Ok(Exit::Ok)
}

fn open(args: &OpenChannelArgs, context: &Context) -> Outcome<Exit> {
    let home = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, home, &args.network).await?;
        let opened = async {
            let limits = limits(&session, args.value, args.blocks)?;
            if limits.max_value.is_zero() {
                return Err(Failure::usage(
                    "buyer.channel_sat is 0: say with --value how much is put into the channel",
                ));
            }
            let stream = find::stream(&session, &args.stream).await?;
            let seller = *stream.found.ad.key();
            let buyer = session.node.buyer();
            let id = buyer.open_channel(&seller, limits.max_value, limits.max_blocks, limits).await?;
            let progress = context.out.progress(0, "waiting for the seller");
            // It is opened and kept; where it cannot be used yet, its state says so.
            let used = buyer
                .wait_for_channel(&id, OPENS_WITHIN, |what| progress.say(format!("waiting for {what}")))
                .await;
            drop(progress);
            if let Err(error) = used {
                context.out.warn(error.to_string());
            }
            one(&session, &id, context)
        };
        let opened = opened.await;
        session.stop().await;
        opened
    })
}

fn close(args: &CloseChannelArgs, context: &Context) -> Outcome<Exit> {
    let home = context.open_home()?;
    let all = home.store.read(store::channels::all_buyer)?;
    let id = pick(&args.channel, all.iter().map(|channel| (channel.id.to_string(), None, channel.id)))
        .one("channel", &args.channel)?;
    context.block_on(async {
        let session = Session::start(context, home, &args.network).await?;
        let closed = async {
            session.node.buyer().close_channel(&id).await?;
            one(&session, &id, context)
        };
        let closed = closed.await;
        session.stop().await;
        closed
    })
}
