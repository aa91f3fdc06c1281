//! `sensora orders`: what was ordered, how far it came, and finishing what was interrupted.

use std::path::Path;

use sensora_chain::header::HeaderChain;
use sensora_chain::{Satoshis, Txid};
use sensora_node::buyer::BuyError;
use sensora_node::store;
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::purchase::{Purchase, PurchaseState};
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{OrderId, StreamId};
use serde::Serialize;
use serde_json::json;

use super::buy::is_mined;
use super::offline::{Offline, pick_order};
use super::session::Session;
use crate::args::OrdersArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, sat, short_id, time_ms};

/// One order in `--json`.
#[derive(Debug, Serialize)]
pub(super) struct OrderReport {
    pub(super) order: OrderId,
    pub(super) state: &'static str,
    /// Why the seller refused, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<String>,
    pub(super) seller: String,
    pub(super) stream: StreamId,
    pub(super) name: String,
    pub(super) first: u64,
    pub(super) count: u64,
    /// Readings that are here and verified.
    pub(super) received: u64,
    pub(super) price_sat: Satoshis,
    pub(super) txid: Option<Txid>,
    /// Whether the kept proof leads to a block.
    pub(super) anchored: bool,
    pub(super) agreed: String,
}

impl OrderReport {
    /// What the stored purchase says.
    pub(super) fn of(purchase: &Purchase, network: sensora_chain::Network, anchored: bool) -> Outcome<Self> {
        let offer = purchase.terms(network).map_err(|error| {
            Failure::new(Exit::Home, format!("the record of order {} is damaged: {error}", purchase.id))
        })?;
        let terms = offer.value();
        let refusal = match &purchase.state {
            PurchaseState::Refused { refusal }
            | PurchaseState::TakenBack { refusal }
            | PurchaseState::Withheld { refusal } => Some(refusal.to_string()),
            _ => None,
        };
        Ok(Self {
            order: purchase.id,
            state: purchase.state.name(),
            refusal,
            seller: peer_id(&purchase.seller),
            stream: terms.stream,
            name: terms.name.clone(),
            first: terms.first,
            count: terms.count,
            received: purchase.next.saturating_sub(terms.first),
            price_sat: terms.total,
            txid: purchase.payment.as_ref().map(|payment| payment.txid),
            anchored,
            agreed: time_ms(purchase.agreed_ms),
        })
    }
}

/// Lists or resumes.
pub(super) fn run(args: &OrdersArgs, context: &Context) -> Outcome<Exit> {
    if args.resume {
        return resume(args, context);
    }
    let home = Offline::open(context)?;
    if let Some(wanted) = &args.order {
        let order = pick_order(&home.store, wanted)?;
        if args.give_up {
            drop(home);
            return give_up(order, args, context);
        }
        if let Some(path) = &args.evidence {
            drop(home);
            return evidence(order, path, args, context);
        }
        let purchase = home.store.read(|tx| store::orders::purchase(tx, &order))?;
        let purchase = purchase.ok_or_else(|| Failure::not_found(format!("there is no order {order}")))?;
        return show(&report_of(&home, &home.headers()?, &purchase)?, context);
    }
    let mut purchases = home.store.read(store::orders::purchases)?;
    purchases.sort_by_key(|purchase| purchase.agreed_ms);
    let headers = home.headers()?;
    let reports = purchases.iter().map(|purchase| report_of(&home, &headers, purchase));
    list(&reports.collect::<Outcome<Vec<_>>>()?, context)
}

fn report_of(home: &Offline, headers: &HeaderChain, purchase: &Purchase) -> Outcome<OrderReport> {
    let proof = home.store.read(|tx| store::bought::anchored(tx, &purchase.id))?;
    let anchored = proof.is_some_and(|proof| {
        let checkpoint = proof.checkpoint.verify_by::<Checkpoint>(home.network, &purchase.seller);
        let standing = checkpoint.map(|checkpoint| proof.anchor.verify(&checkpoint, home.network, headers));
        matches!(standing, Ok(Ok(standing)) if is_mined(standing))
    });
    OrderReport::of(purchase, home.network, anchored)
}

fn list(reports: &[OrderReport], context: &Context) -> Outcome<Exit> {
    let out = &context.out;
    if out.is_json() {
        out.document(&json!({ "orders": reports }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new([
        "order",
        "agreed",
        "stream",
        "#first",
        "#readings",
        "#received",
        "#price",
        "state",
        "anchored",
    ]);
    for report in reports {
        table.row([
            short_id(&report.order),
            report.agreed.clone(),
            report.name.clone(),
            report.first.to_string(),
            report.count.to_string(),
            report.received.to_string(),
            sat(report.price_sat),
            report.state.to_owned(),
            if report.anchored { "yes" } else { "no" }.to_owned(),
        ]);
    }
    if table.is_empty() {
        out.note("nothing was ordered yet: `sensora search`, then `sensora buy`");
    } else {
        out.table(&table)?;
    }
    Ok(Exit::Ok)
}

fn show(report: &OrderReport, context: &Context) -> Outcome<Exit> {
    let out = &context.out;
    if out.is_json() {
        out.document(report)?;
        return Ok(Exit::Ok);
    }
    let last = report.first.saturating_add(report.count.saturating_sub(1));
    out.field("order", report.order)?;
    out.field("agreed", &report.agreed)?;
    out.field("seller", &report.seller)?;
    out.field("stream", format!("{} {}", report.name, out.paint().dim(&report.stream.to_string())))?;
    out.field(
        "readings",
        format!("{} ({} to {last}), {} received", report.count, report.first, report.received),
    )?;
    out.field("price", sat(report.price_sat))?;
    if let Some(txid) = report.txid {
        out.field("payment", txid)?;
    }
    out.field("state", report.state)?;
    if let Some(refusal) = &report.refusal {
        out.field("refusal", crate::output::printable(refusal))?;
    }
    out.field("anchored", if report.anchored { "yes" } else { "not yet" })?;
    Ok(Exit::Ok)
}

/// Writes the evidence of an order; where its anchor is still missing, asks the seller for it first.
fn evidence(order: OrderId, path: &Path, args: &OrdersArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start_alone(context, open, &args.network).await?;
        let made = async {
            let buyer = session.node.buyer();
            if !buyer.standing(&order).is_ok_and(is_mined) {
                let asked = async {
                    session.meet().await?;
                    Ok::<_, Failure>(buyer.upgrade(&order).await?)
                };
                if let Err(failure) = asked.await {
                    context.out.warn(format!("the anchor could not be asked for: {failure}"));
                }
            }
            let evidence = buyer.evidence(&order)?;
            super::buy::write_evidence(path, &evidence)?;
            Ok::<_, Failure>(evidence.anchor.is_some_and(|anchor| anchor.height.is_some()))
        };
        let made = made.await;
        session.stop().await;
        let anchored = made?;
        if context.out.is_json() {
            context.out.document(&json!({"order": order, "evidence": path, "anchored": anchored}))?;
        } else {
            context.out.note(format!("evidence of order {} in {}", short_id(&order), path.display()));
        }
        Ok(if anchored { Exit::Ok } else { Exit::NotAnchored })
    })
}

/// Takes the coins of an unanswered payment back, or says where the order stands when there is nothing to take back.
fn give_up(order: OrderId, args: &OrdersArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let given_up = async {
            let buyer = session.node.buyer();
            match buyer.give_up(&order).await {
                Ok(()) | Err(BuyError::GivenUp { taken_back: true, .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let anchored = buyer.standing(&order).is_ok_and(is_mined);
            OrderReport::of(&buyer.purchase(&order)?, session.network, anchored)
        };
        let given_up = given_up.await;
        session.stop().await;
        show(&given_up?, context)
    })
}

fn resume(args: &OrdersArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let resumed = async {
            let resumed = session.node.buyer().resume(|_| ()).await?;
            let mut reports = Vec::new();
            for (order, _) in &resumed {
                let anchored = session.node.buyer().standing(order).is_ok_and(is_mined);
                reports.push(OrderReport::of(
                    &session.node.buyer().purchase(order)?,
                    session.network,
                    anchored,
                )?);
            }
            Ok::<_, Failure>((resumed, reports))
        };
        let resumed = resumed.await;
        session.stop().await;
        let (resumed, reports) = resumed?;
        list(&reports, context)?;
        match resumed.into_iter().find_map(|(order, result)| result.err().map(|error| (order, error))) {
            Some((order, error)) => {
                let mut failure = Failure::from(error);
                failure.message = format!("order {}: {}", short_id(&order), failure.message);
                Err(failure)
            }
            None => Ok(Exit::Ok),
        }
    })
}
