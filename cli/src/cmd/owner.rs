//! What a person wants of the node on a home while it runs: to close a channel, to end an order as its seller.
//!
//! The running agent does it when it is asked over its socket; where none runs, the command's own node does.

use std::time::Duration;

use sensora_node::agent::Agent;
use sensora_node::store;
use sensora_protocol::ChannelId;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::channels::{self, ChannelReport};
use super::control::{self, Act, Books};
use super::earnings::{self, EarningReport};
use super::offline::{Picked, pick};
use super::session::Session;
use crate::args::NetworkArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// How long it is waited for the end of an order: a buyer that is here has ended it long before.
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How often the books are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// There is no such channel.
pub(super) fn no_channel(id: &str) -> Failure {
    Failure::not_found(format!("there is no channel `{id}`")).hint("`sensora channels` lists them")
}

/// There is no such order.
pub(super) fn no_order(id: &str) -> Failure {
    Failure::not_found(format!("nothing was sold by an order `{id}`")).hint("`sensora earnings` lists them")
}

/// Has something done by the agent that runs on the home, else by a node of this command.
pub(super) fn act<T: DeserializeOwned>(
    act: Act,
    id: &str,
    (flags, context): (&NetworkArgs, &Context),
    here: impl AsyncFnOnce(&Session, &str) -> Outcome<T>,
) -> Outcome<T> {
    let open = match context.open_home() {
        Ok(open) => open,
        Err(held) if held.is_in_use => return control::act(act, id, context).unwrap_or(Err(held)),
        Err(failure) => return Err(failure),
    };
    // It sells nothing new: there is no source, and so no ad.
    let mut agent = open.config.agent_options();
    agent.sources.clear();
    context.block_on(async {
        let session = Session::start_as(context, open, flags, Some(agent)).await?;
        if let Err(failure) = session.ready(context).await {
            session.stop().await;
            return Err(failure);
        }
        let done = here(&session, id).await;
        session.stop().await;
        done
    })
}

/// Closes a channel, on whichever side of it this home is. As seller it waits a moment for the orders on it to end.
pub(super) async fn close_channel(session: &Session, wanted: &str) -> Outcome<ChannelReport> {
    let (id, is_seller) = channel(session, wanted)?;
    if is_seller {
        agent(session)?.seller().channels().end_channel(&id).await?;
    } else {
        session.node.buyer().close_channel(&id).await?;
    }
    let ends = Instant::now() + ENDS_WITHIN;
    loop {
        let report = with_books(session, |books| channels::report(books, &id))?;
        if !report.is_ending() || Instant::now() >= ends {
            return Ok(report);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Which channel is meant, and whether it pays this home.
fn channel(session: &Session, wanted: &str) -> Outcome<(ChannelId, bool)> {
    let bought = session.node.store().read(store::channels::all_buyer)?;
    let sold = session.node.store().read(store::channels::all_seller)?;
    let bought = bought.iter().map(|channel| (channel.id, false));
    let all = bought.chain(sold.iter().map(|channel| (channel.id, true)));
    match pick(wanted, all.map(|(id, is_seller)| (id.to_string(), None, (id, is_seller)))) {
        Picked::None => Err(no_channel(wanted)),
        picked => picked.one("channel", wanted),
    }
}

/// Ends an order that was sold, and waits a moment for its receipt.
pub(super) async fn end_order(session: &Session, wanted: &str) -> Outcome<EarningReport> {
    let sold = with_books(session, earnings::reports)?;
    let report = match pick(wanted, sold.iter().map(|report| (report.order.to_string(), None, report))) {
        Picked::None => return Err(not_sold(session, wanted)?),
        picked => picked.one("order", wanted)?,
    };
    let order = report.order;
    if !report.is_on_channel() {
        let text = format!("order {order} is not paid through a channel: it has nothing to end");
        return Err(Failure::new(Exit::Usage, text)
            .hint("a direct payment and a key release are paid and delivered as a whole"));
    }
    agent(session)?.seller().channels().end_order(&order).await?;
    let ends = Instant::now() + ENDS_WITHIN;
    loop {
        let sold = with_books(session, earnings::reports)?;
        let Some(now) = sold.into_iter().find(|report| report.order == order) else {
            // Nothing was delivered, so it has left nothing behind.
            return Ok(report.clone().ended_with_nothing());
        };
        if now.is_over() || Instant::now() >= ends {
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why there is no such order among those that were sold: it may be one that this home has made.
fn not_sold(session: &Session, wanted: &str) -> Outcome<Failure> {
    let made = session.node.buyer().orders()?;
    Ok(match pick(wanted, made.iter().map(|order| (order.order.to_string(), None, order.order))) {
        Picked::One(order) => {
            let text =
                format!("order {order} was made by this home, and only its seller is asked to end one so");
            Failure::new(Exit::Usage, text).hint(
                "Ctrl-C in the command that receives it ends it; where its seller is gone, `sensora orders ORDER --give-up`",
            )
        }
        _ => no_order(wanted),
    })
}

fn agent(session: &Session) -> Outcome<&Agent> {
    session.node.agent().ok_or_else(|| Failure::other("no agent runs on this home: start `sensora agent`"))
}

fn with_books<T>(session: &Session, of: impl FnOnce(&Books<'_>) -> Outcome<T>) -> Outcome<T> {
    let (node, headers) = (&session.node, session.node.chain().headers());
    of(&Books {
        store: node.store(),
        network: session.network,
        key: node.identity().public(),
        headers: &headers,
    })
}
