//! What a selling node tells while it runs: that it is ready, what it recorded, anchored and sold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_node::agent::seller::earnings::EarnedBy;
use sensora_node::agent::{Agent, SourceEnd};
use sensora_node::store;
use sensora_node::store::anchors::AnchorRecord;
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::key_release::offer::KeyReleaseOffer;
use sensora_protocol::market::key_release::sell::BatchSaleState;
use sensora_protocol::{OrderId, StreamId};
use serde_json::json;

use super::super::session::Session;
use super::status;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{counted, printable, sat, short_id};

/// How often it looks what has changed.
const LOOK: Duration = Duration::from_millis(500);
/// How often the status is written down when nothing is sold: peers come and go, readings come in.
const WRITE_STATUS: Duration = Duration::from_secs(10);
/// How often the growth of the streams is told: a line for each reading would be noise.
const TELL_GROWTH: Duration = Duration::from_secs(30);

/// Anchors that are looked at now and then: with one each second, the newest of them is seldom the one that was just mined.
const ANCHORS: usize = 64;

/// What was told already.
#[derive(Default)]
struct Told {
    sizes: BTreeMap<StreamId, u64>,
    sales: BTreeSet<OrderId>,
    anchors: Option<u64>,
    mined: Option<u64>,
    ended: usize,
}

/// Tells until cancelled.
pub(super) async fn events(session: &Session, context: &Context) -> Outcome {
    let agent = session.node.agent().ok_or_else(|| Failure::other("this node does not sell"))?;
    let mut told = Told::default();
    ready(session, agent, context, &mut told)?;
    // What was sold and anchored before this run is no news.
    told.sales = sales(session, agent)?.into_iter().map(|sold| sold.order).collect();
    let newest = agent.anchorer().newest_anchors(ANCHORS)?;
    told.anchors = newest.first().map(|anchor| anchor.number);
    told.mined = newest.iter().find(|anchor| anchor.height.is_some()).map(|anchor| anchor.number);
    let mut growth = tokio::time::interval(TELL_GROWTH);
    growth.tick().await;
    let mut status = tokio::time::interval(WRITE_STATUS);
    // Sales made between the list above and this count are told with the first look.
    let mut seen = None;
    loop {
        let (mut write, mut anchors) = tokio::select! {
            _ = growth.tick() => {
                recorded(agent, context, &mut told)?;
                (false, 1)
            }
            _ = status.tick() => (true, ANCHORS),
            () = tokio::time::sleep(LOOK) => (false, 1),
        };
        if agent.anchorer().newest_anchors(1)?.first().map(|anchor| anchor.number) != told.anchors {
            anchors = ANCHORS;
        }
        // Going through the stored sales takes time that grows with them.
        let now = Some(agent.seller().sold_count());
        if now != seen {
            seen = now;
            sold(session, agent, context, &mut told)?;
            write = true;
        }
        anchored(agent, context, &mut told, anchors)?;
        ended(agent, context, &mut told).await?;
        if write {
            status::write(session);
        }
    }
}

fn ready(session: &Session, agent: &Agent, context: &Context, told: &mut Told) -> Outcome {
    let out = &context.out;
    let addresses = &session.addresses;
    let streams: Vec<_> = agent.streams().iter().filter_map(|id| agent.recorder().summary(id).ok()).collect();
    told.sizes = streams.iter().map(|stream| (stream.id, stream.size)).collect();
    if out.is_json() {
        let streams: Vec<_> =
            streams.iter().map(|s| json!({"id": s.id, "name": s.name, "readings": s.size})).collect();
        let peer = session.node.peer_id().to_string();
        return out.json_line(&json!({
            "event": "ready", "peer_id": peer, "network": session.network, "addresses": addresses, "streams": streams,
        }));
    }
    out.field("peer id", session.node.peer_id())?;
    for address in addresses {
        out.field("listening", address)?;
    }
    for stream in &streams {
        let id = out.paint().dim(&stream.id.to_string());
        out.field("stream", format!("{} {id} {}", stream.name, counted(stream.size, "reading")))?;
    }
    out.line(out.paint().good("ready"))
}

fn recorded(agent: &Agent, context: &Context, told: &mut Told) -> Outcome {
    for stream in agent.recorder().summaries() {
        let before = told.sizes.insert(stream.id, stream.size).unwrap_or(0);
        let new = stream.size.saturating_sub(before);
        if new == 0 {
            continue;
        }
        if context.out.is_json() {
            context.out.json_line(&json!({
                "event": "recorded", "stream": stream.id, "name": stream.name, "new": new, "readings": stream.size,
            }))?;
        } else {
            context.out.line(format!("recorded  {} {} new, {} in all", stream.name, new, stream.size))?;
        }
    }
    Ok(())
}

/// An order that was paid.
struct Sold {
    order: OrderId,
    buyer: String,
    paid: Satoshis,
    count: u64,
    name: String,
}

fn sales(session: &Session, agent: &Agent) -> Outcome<Vec<Sold>> {
    let sales = session.node.store().read(store::orders::sales)?;
    let network = session.network;
    let sold = sales.iter().filter(|sale| sale.is_sold()).filter_map(|sale| {
        let offer = sale.offer(network).ok()?;
        let terms = offer.value();
        let (buyer, name) = (peer_id(&sale.buyer), terms.name.clone());
        Some(Sold { order: sale.order, buyer, paid: sale.paid, count: terms.count, name })
    });
    let mut sold: Vec<_> = sold.collect();
    for sale in session.node.store().read(store::release::sales)? {
        // Its claim is in a block.
        let is_sold = matches!(
            sale.state,
            BatchSaleState::Done { .. } | BatchSaleState::Claimed { credited: Some(_), .. }
        );
        if let (true, Ok(offer)) = (is_sold, sale.offer.verify::<KeyReleaseOffer>(network)) {
            let terms = offer.value();
            let (buyer, name) = (peer_id(&sale.buyer), terms.name.clone());
            sold.push(Sold { order: sale.order, buyer, paid: terms.total, count: terms.count, name });
        }
    }
    for order in agent.seller().earnings()? {
        if let (EarnedBy::Channel { .. }, Some(_)) = (order.by, order.receipted_ms) {
            let name = agent.recorder().summary(&order.stream).map(|stream| stream.name);
            let name = name.unwrap_or_else(|_| order.stream.to_string());
            let (buyer, count) = (peer_id(&order.buyer), order.count.unwrap_or_default());
            sold.push(Sold { order: order.order, buyer, paid: order.paid, count, name });
        }
    }
    Ok(sold)
}

fn sold(session: &Session, agent: &Agent, context: &Context, told: &mut Told) -> Outcome {
    for Sold { order, buyer, paid, count, name } in sales(session, agent)? {
        if !told.sales.insert(order) {
            continue;
        }
        if context.out.is_json() {
            context.out.json_line(&json!({
                "event": "sold", "order": order, "buyer": buyer, "name": name, "count": count, "paid_sat": paid,
            }))?;
        } else {
            let (order, paid, readings) = (short_id(&order), sat(paid), counted(count, "reading"));
            context.out.line(format!("sold      {readings} of {name} for {paid} (order {order}…)"))?;
        }
    }
    Ok(())
}

fn anchored(agent: &Agent, context: &Context, told: &mut Told, most: usize) -> Outcome {
    let newest = agent.anchorer().newest_anchors(most)?;
    // A block may hold many: the newest of them says that those below it are in a block, too.
    let mined = newest.iter().find(|anchor| anchor.height.is_some()).map(|anchor| anchor.number);
    for anchor in newest.iter().rev() {
        let is_new = told.anchors.is_none_or(|number| number < anchor.number);
        let is_mined = Some(anchor.number) == mined && told.mined.is_none_or(|number| number < anchor.number);
        if is_new {
            told.anchors = Some(anchor.number);
        }
        if is_mined {
            told.mined = Some(anchor.number);
        }
        if is_new || is_mined {
            tell_anchor(anchor, context)?;
        }
    }
    Ok(())
}

fn tell_anchor(newest: &AnchorRecord, context: &Context) -> Outcome {
    let streams = newest.checkpoints.len();
    if context.out.is_json() {
        return context.out.json_line(&json!({
            "event": "anchored", "anchor": newest.number, "txid": newest.txid, "height": newest.height, "streams": streams,
        }));
    }
    let place = newest
        .height
        .map_or_else(|| "waits for a block".to_owned(), |height| format!("is in block {height}"));
    context.out.line(format!(
        "anchored  {} in {}…, which {place}",
        counted(streams as u64, "stream"),
        short_id(&newest.txid)
    ))
}

async fn ended(agent: &Agent, context: &Context, told: &mut Told) -> Outcome {
    let ended = agent.ended_sources().await;
    for SourceEnd { name, rows, outcome } in ended.iter().skip(told.ended) {
        let refused = rows.last_refused.as_ref().filter(|_| rows.refused > 0).map(ToString::to_string);
        if let Some(last) = &refused {
            let (passed, all) = (rows.refused, rows.refused.saturating_add(rows.accepted));
            context.out.warn(format!(
                "{passed} of {} of {name} were passed over, the last of them: {last}",
                counted(all, "row")
            ));
        }
        match outcome {
            Ok(()) if context.out.is_json() => {
                context.out.json_line(&json!({
                    "event": "source_ended", "source": name, "rows": rows.accepted, "refused": rows.refused, "last_refused": refused,
                }))?;
            }
            Ok(()) if rows.accepted == 0 && rows.refused > 0 => context.out.line(format!(
                "ended     {} has come to its end, and none of its rows was a reading: there is nothing of it for sale",
                printable(name)
            ))?,
            Ok(()) => context.out.line(format!(
                "ended     {} has come to its end; what it gave stays for sale",
                printable(name)
            ))?,
            Err(reason) => context.out.warn(format!("source {name} has failed: {reason}")),
        }
    }
    if ended.len() > told.ended {
        recorded(agent, context, told)?;
    }
    told.ended = ended.len();
    Ok(())
}
