//! `sensora orders`: what was ordered, how far it came, and finishing what was interrupted.

use std::path::Path;
use std::time::Duration;

use sensora_chain::{Satoshis, Txid};
use sensora_node::buyer::{BuyError, OrderSummary, PaidBy};
use sensora_node::store::{self, Store};
use sensora_protocol::identity::parse_peer_id;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::key_release::buy::BatchPurchaseState;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{ChannelId, OrderId, StreamId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::buy::is_mined;
use super::control::{self, Books, Question};
use super::offline::{Offline, pick};
use super::session::Session;
use crate::args::OrdersArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, counted, sat, short_id, time_ms};

/// One order in `--json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OrderReport {
    pub(super) order: OrderId,
    pub(super) state: String,
    /// Why the seller refused, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<String>,
    /// Why it is not paid, or not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    pub(super) seller: String,
    pub(super) stream: StreamId,
    pub(super) name: String,
    /// Whether it is a stream as it comes.
    pub(super) live: bool,
    /// Whether it is of single readings, which need not follow each other; `first` is 0 then.
    #[serde(default)]
    pub(super) single: bool,
    pub(super) first: u64,
    pub(super) count: u64,
    /// Readings that are here and verified.
    pub(super) received: u64,
    /// What all of it costs; of a live stream, what has come.
    pub(super) price_sat: Satoshis,
    /// The most that it may cost.
    pub(super) budget_sat: Satoshis,
    pub(super) paid_sat: Satoshis,
    /// How it is paid: `direct`, `channel` or `key-release`.
    pub(super) mode: String,
    /// The payment, what holds the coin of a key release, or the close of the channel once it is in a block.
    pub(super) txid: Option<Txid>,
    /// The channel whose vouchers pay it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) channel: Option<ChannelId>,
    /// What the channel's vouchers pay in all: the last of them pays for all orders on it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) voucher_sat: Option<Satoshis>,
    /// Whether the kept proof leads to a block.
    pub(super) anchored: bool,
    pub(super) agreed: String,
}

impl OrderReport {
    /// What the stored order says, and the channel that pays it.
    fn stored(order: &OrderSummary, anchored: bool, store: &Store) -> Outcome<Self> {
        let mut report = Self::of(order, anchored);
        if let PaidBy::Channel { channel } = order.by
            && let Some(channel) = store.read(|tx| store::channels::buyer(tx, &channel))?
        {
            let voucher = match channel.state {
                BuyerChannelState::Ended { txid, paid, .. } => {
                    // A refund has paid nobody.
                    report.txid = (!paid.is_zero()).then_some(txid);
                    Ok(paid)
                }
                _ => channel.spending.paid(),
            };
            let damaged = |error| Failure::from_error(Exit::Home, &error);
            report.voucher_sat = Some(voucher.map_err(damaged)?);
        }
        Ok(report)
    }

    /// What the stored order says.
    fn of(order: &OrderSummary, anchored: bool) -> Self {
        let (mode, channel) = match order.by {
            PaidBy::Channel { channel } => ("channel", Some(channel)),
            PaidBy::Transaction { .. } => ("direct", None),
            PaidBy::Coin { .. } => ("key-release", None),
        };
        Self {
            order: order.order,
            state: state(order).to_owned(),
            refusal: order.state.refusal().map(ToString::to_string),
            why: order.why.clone(),
            seller: order.seller.clone(),
            stream: order.stream,
            name: order.name.clone(),
            live: order.is_live,
            single: order.is_reads,
            first: order.first,
            count: order.count,
            received: order.received,
            price_sat: order.total,
            budget_sat: order.budget,
            paid_sat: order.paid,
            mode: mode.to_owned(),
            txid: order.txid(),
            channel,
            voucher_sat: None,
            anchored,
            agreed: time_ms(order.agreed_ms),
        }
    }
}

/// The state's name. What is ordered as a range is `complete` when all of it is here and paid, whichever way that was; a live stream and single readings
/// have no whole, so they have `ended`.
fn state(order: &OrderSummary) -> &'static str {
    let is_range = !order.is_live && !order.is_reads;
    if is_range && order.state.is_complete() { "complete" } else { order.state.name() }
}

/// Lists or resumes.
pub(super) fn run(args: &OrdersArgs, context: &Context) -> Outcome<Exit> {
    if args.resume {
        return resume(args, context);
    }
    if let (true, Some(order)) = (args.end, &args.order) {
        return super::earnings::end(order, &args.network, context);
    }
    let all = control::read(Question::Orders, context, reports)?;
    let Some(wanted) = &args.order else { return list(&all, context) };
    let among = all.iter().map(|report| (report.order.to_string(), None, report));
    let report = pick(wanted, among).one("order", wanted)?;
    if args.give_up {
        return give_up(report.order, args, context);
    }
    if let Some(path) = &args.misbehaviour {
        return misbehaviour(report.order, path, context);
    }
    match &args.evidence {
        Some(path) => evidence(report.order, path, args, context),
        None => show(report, context),
    }
}

/// Writes what shows anybody that the seller of an order has cheated.
fn misbehaviour(order: OrderId, path: &Path, context: &Context) -> Outcome<Exit> {
    let home = Offline::open(context)?;
    let purchase = home.store.read(|tx| store::release::purchase(tx, &order))?;
    let Some(BatchPurchaseState::Cheated { proof }) = purchase.map(|purchase| purchase.state) else {
        let text = format!("order {} holds no proof that its seller has cheated", short_id(&order));
        return Err(Failure::new(Exit::NotFound, text));
    };
    let text = proof.to_json().map_err(|error| Failure::from_error(Exit::Home, &error))?;
    std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error))?;
    if context.out.is_json() {
        context.out.document(&json!({"order": order, "misbehaviour": path}))?;
    } else {
        let file = path.display();
        context.out.note(format!(
            "the proof is in {file}: anybody checks it with `sensora verify --misbehaviour {file}`"
        ));
    }
    Ok(Exit::Ok)
}

/// All orders of the books, oldest first.
pub(super) fn reports(books: &Books<'_>) -> Outcome<Vec<OrderReport>> {
    let orders = OrderSummary::stored(books.store, books.network)?;
    orders.iter().map(|order| report_of(books, order)).collect()
}

fn report_of(books: &Books<'_>, order: &OrderSummary) -> Outcome<OrderReport> {
    let proof = books.store.read(|tx| store::bought::anchored(tx, &order.order))?;
    let anchored = proof.is_some_and(|proof| {
        let Ok(seller) = parse_peer_id(&order.seller) else { return false };
        let checkpoint = proof.checkpoint.verify_by::<Checkpoint>(books.network, &seller);
        let standing =
            checkpoint.map(|checkpoint| proof.anchor.verify(&checkpoint, books.network, &books.headers));
        matches!(standing, Ok(Ok(standing)) if is_mined(standing))
    });
    OrderReport::stored(order, anchored, books.store)
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
        "#paid",
        "by",
        "state",
        "anchored",
    ]);
    for report in reports {
        table.row([
            short_id(&report.order),
            report.agreed.clone(),
            match (report.live, report.single) {
                (true, _) => format!("{} (live)", report.name),
                (_, true) => format!("{} (single)", report.name),
                _ => report.name.clone(),
            },
            if report.single { "-".to_owned() } else { report.first.to_string() },
            report.count.to_string(),
            report.received.to_string(),
            sat(report.price_sat),
            sat(report.paid_sat),
            report.mode.clone(),
            report.state.clone(),
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
        match report.single {
            true => format!("{} single ones, all received", report.count),
            false => format!("{} ({} to {last}), {} received", report.count, report.first, report.received),
        },
    )?;
    let budget = if report.live || report.single {
        format!(", at most {}", sat(report.budget_sat))
    } else {
        String::new()
    };
    out.field("price", format!("{}{budget}", sat(report.price_sat)))?;
    out.field("paid", sat(report.paid_sat))?;
    if let Some(channel) = report.channel {
        out.field("channel", channel)?;
        out.field(
            "voucher",
            format!("{}, for all orders on the channel", sat(report.voucher_sat.unwrap_or_default())),
        )?;
    }
    if let Some(txid) = report.txid {
        out.field(if report.channel.is_some() { "close" } else { "payment" }, txid)?;
    }
    out.field("state", &report.state)?;
    if let Some(why) = &report.why {
        out.field("why", crate::output::printable(why))?;
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
            let mut written = Vec::new();
            for (number, evidence) in buyer.evidence_parts(&order)?.iter().enumerate() {
                let path = super::buy::numbered(path, number);
                super::buy::write_evidence(&path, evidence)?;
                let is_mined = evidence.anchor.as_ref().is_some_and(|anchor| anchor.height.is_some());
                written.push((path, evidence.readings.len(), is_mined));
            }
            Ok::<_, Failure>(written)
        };
        let made = made.await;
        session.stop().await;
        let written = made?;
        let anchored = written.iter().all(|(.., is_mined)| *is_mined);
        if context.out.is_json() {
            let paths: Vec<_> = written.iter().map(|(path, ..)| path).collect();
            context.out.document(&json!({"order": order, "evidence": paths, "anchored": anchored}))?;
        }
        for (path, readings, is_mined) in &written {
            let standing = if *is_mined { "anchored in a block" } else { "not anchored yet" };
            let (order, readings) = (short_id(&order), counted(*readings as u64, "reading"));
            context
                .out
                .note(format!("evidence of order {order} in {}: {readings}, {standing}", path.display()));
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
            OrderReport::stored(&buyer.summary(&order)?, anchored, session.node.store())
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
            let buyer = session.node.buyer();
            let progress = context.out.progress(0, "waiting for the keys of coins that are locked");
            let released = buyer.resume_releases(Duration::from_secs(args.wait), |_| ()).await?;
            drop(progress);
            let mut resumed = Vec::new();
            for (order, outcome) in released {
                let outcome = match outcome {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(BuyError::KeyAwaited { order }),
                    Err(error) => Err(error),
                };
                resumed.push((order, outcome));
            }
            for (order, outcome) in buyer.resume(|_| ()).await? {
                if resumed.iter().all(|(known, _)| known != &order) {
                    resumed.push((order, outcome));
                }
            }
            let mut reports = Vec::new();
            for (order, _) in &resumed {
                let anchored = session.node.buyer().standing(order).is_ok_and(is_mined);
                reports.push(OrderReport::of(&session.node.buyer().summary(order)?, anchored));
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
