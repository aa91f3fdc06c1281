//! `sensora channels`: the payment channels of a home, on either side.

use std::time::Duration;

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis};
use sensora_node::store;
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::channel::buyer::{BuyerChannel, BuyerChannelState};
use sensora_protocol::market::channel::offer::{ChannelLimits, ChannelOffer, LAST_ORDERS};
use sensora_protocol::market::channel::seller::{SellerChannel, SellerChannelState};
use sensora_protocol::{ChannelId, SignedBytes};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::control::{self, Act, Books, Question};
use super::session::Session;
use super::{find, owner};
use crate::args::{ChannelsAction, ChannelsArgs, CloseChannelArgs, OpenChannelArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, counted, sat, short_id, shortened, time_ms};

/// How long `open` waits until the channel can be used.
pub(super) const OPENS_WITHIN: Duration = Duration::from_secs(30);

/// The role of whoever pays with a channel.
const BUYER: &str = "buyer";
/// The state of a channel that its seller closes when the orders on it have ended.
const ENDING: &str = "ending";

/// One channel in `--json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChannelReport {
    channel: ChannelId,
    /// `buyer`: this home pays with it; `seller`: it is paid with it.
    role: String,
    /// Peer id of the other side.
    with: String,
    /// `funding`, `admitted`, `open`, `ending` (it is closed when its orders have ended), `closing`, `closed`; `refunding`, `refused`, `taken back`, `gone`.
    state: String,
    /// Why it ended otherwise than by its close, or what it waits for.
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
            BuyerChannelState::Ended { paid, .. } if paid.is_zero() => {
                Some("all of it has come back".to_owned())
            }
            _ => None,
        };
        // One word for both sides: its output is spent, in a block.
        let state = match &channel.state {
            BuyerChannelState::Ended { .. } => "closed",
            state => state.name(),
        };
        let paid = match channel.state {
            BuyerChannelState::Ended { paid, .. } => paid,
            _ => spending.paid().map_err(|error| damaged(&error))?,
        };
        Ok(Self {
            channel: channel.id,
            role: BUYER.to_owned(),
            with: peer_id(&channel.seller),
            state: state.to_owned(),
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
            SellerChannelState::Open => channel.ends_from.map(|from| {
                let orders = counted(channel.earning.lanes.len() as u64, "order");
                let last = from.saturating_add(LAST_ORDERS);
                format!("{orders} on it end first; it is closed at block {last} at the latest")
            }),
            // Without a voucher there is no close that the seller could send.
            SellerChannelState::Closing if channel.signature.is_none() => {
                Some("nothing was paid with it: what is in it is its buyer's, to take back".to_owned())
            }
            _ => None,
        };
        let is_ending = channel.state == SellerChannelState::Open && channel.ends_from.is_some();
        let state = if is_ending { ENDING } else { channel.state.name() };
        let highest = channel.earning.highest;
        Ok(Self {
            channel: channel.id,
            role: "seller".to_owned(),
            with: peer_id(&channel.buyer),
            state: state.to_owned(),
            reason,
            value_sat: offer.value,
            paid_sat: highest,
            reserved_sat: Satoshis::ZERO,
            free_sat: if is_open && !is_ending { capacity.saturating_sub(highest) } else { Satoshis::ZERO },
            closes_at: offer.closes_at(),
            refund_height: offer.refund_height.get(),
            opened: time_ms(channel.admitted_ms),
        })
    }
}

impl ChannelReport {
    /// Whether it is to be closed, when the orders on it have ended.
    pub(super) fn is_ending(&self) -> bool {
        self.state == ENDING
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

/// One channel of the books.
pub(super) fn report(books: &Books<'_>, id: &ChannelId) -> Outcome<ChannelReport> {
    if let Some(bought) = books.store.read(|tx| store::channels::buyer(tx, id))? {
        return ChannelReport::of_buyer(&bought, books.network);
    }
    match books.store.read(|tx| store::channels::seller(tx, id))? {
        Some(sold) => ChannelReport::of_seller(&sold, books.network, books.key),
        None => Err(owner::no_channel(&id.to_string())),
    }
}

fn one(report: &ChannelReport, context: &Context) -> Outcome {
    let out = &context.out;
    if out.is_json() {
        return out.document(report);
    }
    let is_buyer = report.role == BUYER;
    out.field("channel", report.channel)?;
    out.field(if is_buyer { "seller" } else { "buyer" }, &report.with)?;
    out.field("state", &report.state)?;
    if let Some(reason) = &report.reason {
        out.field("why", crate::output::printable(reason))?;
    }
    out.field("value", sat(report.value_sat))?;
    out.field("paid", sat(report.paid_sat))?;
    out.field("free", sat(report.free_sat))?;
    // What pays this home closes by itself in time: only its buyer has to know when it can do without the seller.
    if is_buyer {
        out.field("refund", format!("from block {} on, if the seller does nothing", report.refund_height))?;
    }
    Ok(())
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
            let stored = session.node.store().read(|tx| store::channels::buyer(tx, &id))?;
            let stored = stored.ok_or_else(|| owner::no_channel(&id.to_string()))?;
            one(&ChannelReport::of_buyer(&stored, session.network)?, context)
        };
        let opened = opened.await;
        session.stop().await;
        opened.map(|()| Exit::Ok)
    })
}

fn close(args: &CloseChannelArgs, context: &Context) -> Outcome<Exit> {
    let flags = (&args.network, context);
    let closed: ChannelReport = owner::act(Act::CloseChannel, &args.channel, flags, async |session, id| {
        owner::close_channel(session, id).await
    })?;
    one(&closed, context)?;
    Ok(if closed.is_ending() { Exit::Waiting } else { Exit::Ok })
}
