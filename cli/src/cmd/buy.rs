//! `sensora buy`: quote, pay, receive, verify, keep; and the files a person wants of it.

mod report;

pub(super) use report::rows_table;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_node::buyer::{
    AnchorDue, Bought, BuyError, BuyRequest, OrderSummary, Progress as Step, ReleaseLimits, Released,
};
use sensora_protocol::OrderId;
use sensora_protocol::anchor::Standing;
use sensora_protocol::evidence::Evidence;
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::choice::Mode;
use sensora_protocol::market::offer::{BuyerLimits, Range};
use tokio::time::Instant;

use super::find;
use super::session::{Session, stop_signals};
use super::terms::Terms;
use crate::args::{BuyArgs, parse_time};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Progress, counted, duration, printable, sat, short_id};

/// How long a purchase waits until its channel can be used.
const CHANNEL_OPENS: Duration = Duration::from_secs(60);
/// How often the seller is asked whether the anchor is there, while `--wait-anchor` lasts.
const ASK_ANCHOR: Duration = Duration::from_millis(500);

/// What was meant.
struct Plan {
    range: Range,
    limits: BuyerLimits,
    wait_anchor: Option<Duration>,
}

impl Plan {
    fn of(args: &BuyArgs, session: &Session, now_ns: i64) -> Outcome<Self> {
        let amount = |sat: u64| Satoshis::new(sat).map_err(|error| Failure::usage(error.to_string()));
        let buyer = &session.config.buyer;
        let limits = BuyerLimits {
            max_price: args.max_price.map(amount).transpose()?.unwrap_or(buyer.max_price_sat),
            exposure: args.exposure.map(amount).transpose()?.unwrap_or(buyer.exposure_sat),
        };
        Ok(Self {
            range: range(args, now_ns)?,
            limits,
            wait_anchor: args.wait_anchor.map(Duration::from_secs),
        })
    }
}

fn range(args: &BuyArgs, now_ns: i64) -> Outcome<Range> {
    if let Some(count) = args.last {
        return Ok(Range::Last(count));
    }
    if let Some(seq) = args.seq {
        return Ok(Range::Seq { first: seq.first, count: seq.count });
    }
    let Some(from) = &args.from else { return Ok(Range::Latest) };
    let time = |text: &str| parse_time(text, now_ns).map_err(Failure::usage);
    let (from, to) = (time(from)?, args.to.as_deref().map_or(Ok(now_ns), time)?);
    if from >= to {
        return Err(Failure::usage("--to must be later than --from"));
    }
    Ok(Range::Time { from, to })
}

/// Buys.
pub(super) fn run(args: &BuyArgs, context: &Context) -> Outcome<Exit> {
    // What is wrong with the command line is said before a node is started.
    range(args, context.clock.now_ns())?;
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let mut stops = stop_signals()?;
        let bought = tokio::select! {
            bought = buy(args, context, &session) => bought,
            () = stops.next() => Err(Failure::new(Exit::Interrupted, "stopped before the order was finished")
                .hint("what was paid is kept: the same command, or `sensora orders --resume`, finishes it")),
        };
        session.stop().await;
        bought
    })
}

async fn buy(args: &BuyArgs, context: &Context, session: &Session) -> Outcome<Exit> {
    let plan = Plan::of(args, session, context.clock.now_ns())?;
    let buyer = session.node.buyer();
    let progress = context.out.progress(0, &format!("looking for {}", args.stream.stream));
    let stream = find::stream(session, &args.stream).await?;
    finish_interrupted(session, stream.found.ad.key(), context).await?;
    let request = BuyRequest {
        seller: *stream.found.ad.key(),
        stream: stream.ad.id,
        range: plan.range,
        limits: plan.limits,
        ad: Some(stream.ad.clone()),
    };
    let channel = super::channels::limits(session, None, None)?;
    let planned = buyer.plan(&request, args.mode.asked(), channel).await?;
    if args.dry_run {
        drop(progress);
        return report::quote(&planned, context);
    }
    if let Some(choice) = &planned.choice {
        let what = format!("{} of {}", counted(planned.missing, "reading"), stream.ad.name);
        Terms::chosen(what, planned.total, choice).tell(context);
    }
    let bought = match planned.choice.as_ref().map(|choice| choice.mode) {
        Some(Mode::Channel) => {
            let waiting = |what: &str| progress.say(format!("waiting for {what}"));
            buyer.channel_for(&request.seller, planned.total, channel, CHANNEL_OPENS, waiting).await?;
            buyer.buy_through_channel(&request, |step| tell(&progress, &step)).await?
        }
        Some(Mode::KeyRelease) => {
            let (limits, patience) = (ReleaseLimits::default(), Duration::from_secs(args.wait));
            let released =
                buyer.buy_by_key_release(&request, limits, patience, |step| tell(&progress, &step));
            match released.await? {
                Released::Bought(bought) => bought,
                Released::Waiting { order, state, .. } => {
                    drop(progress);
                    return report::waiting(&buyer.summary(&order)?, state, context);
                }
            }
        }
        Some(Mode::Direct) | None => buyer.buy(&request, |step| tell(&progress, &step)).await?,
    };
    let orders = covering_orders(session, &bought)?;
    let (mut anchored, mut due) = (true, None);
    let ends = Instant::now() + plan.wait_anchor.unwrap_or_default();
    for order in &orders {
        let waited = wait_for_anchor(session, &order.order, ends, &progress).await?;
        anchored &= matches!(waited, Waited::Mined);
        if let Waited::Not(Some(told)) = waited {
            due = Some(told);
        }
    }
    drop(progress);
    let mut report = report::Report::of(&bought, &orders, &stream.ad, anchored, due);
    report.paid_by(planned.choice.as_ref());
    report.write_files(args, session, context)?;
    report.show(args, session, context)?;
    Ok(if plan.wait_anchor.is_some() && !anchored { Exit::NotAnchored } else { Exit::Ok })
}

/// Orders at this seller that a crash or Ctrl-C left unfinished come first: they are paid, or may be.
async fn finish_interrupted(session: &Session, seller: &PublicKey, context: &Context) -> Outcome {
    let buyer = session.node.buyer();
    let seller = peer_id(seller);
    let mut elsewhere = 0_usize;
    // A live stream is gone on with by who subscribes to it.
    for order in buyer.orders()?.into_iter().filter(|order| !order.state.is_final() && !order.is_live) {
        if order.seller != seller {
            elsewhere = elsewhere.saturating_add(1);
            continue;
        }
        match buyer.resume_order(&order.order, |_| ()).await {
            Ok(()) => context
                .out
                .note(format!("order {} was interrupted and is finished now", short_id(&order.order))),
            Err(error) => {
                let text = format!("order {} is still unfinished: {error}", short_id(&order.order));
                context.out.warn(text);
            }
        }
    }
    if elsewhere > 0 {
        let text = format!(
            "{} at other sellers were interrupted: `sensora orders --resume`",
            counted(elsewhere as u64, "order")
        );
        context.out.note(text);
    }
    Ok(())
}

fn tell(progress: &Progress, step: &Step) {
    match step {
        Step::Quoted { count, total } => {
            progress.say(format!("{} for {}", counted(*count, "reading"), sat(*total)));
        }
        Step::Paying { .. } => progress.say("paying"),
        Step::Received { done, total } => {
            progress.say("receiving");
            progress.total(*total);
            progress.at(*done);
        }
        Step::Waiting { reason } => progress.say(format!("waiting: {}", printable(reason))),
    }
}

/// The finished orders that hold what was bought, whether they were made now or before.
fn covering_orders(session: &Session, bought: &Bought) -> Outcome<Vec<OrderSummary>> {
    let end = bought.first.saturating_add(bought.count);
    let mut orders = session.node.buyer().orders()?;
    orders.retain(|order| {
        // Single readings have no proof that could be tied to the chain.
        let is_here = order.state.is_complete() && order.stream == bought.stream && !order.is_reads;
        is_here && order.first < end && order.first.saturating_add(order.count) > bought.first
    });
    orders.sort_by_key(|order| order.first);
    Ok(orders)
}

/// What came of waiting for an order's anchor.
enum Waited {
    /// It is in a block.
    Mined,
    /// Not yet; with the seller's last word on when.
    Not(Option<AnchorDue>),
}

/// Ties an order to the chain: asks the seller until its proof leads to a block, or the time is over. Asks at least once.
async fn wait_for_anchor(
    session: &Session,
    order: &OrderId,
    ends: Instant,
    progress: &Progress,
) -> Outcome<Waited> {
    let buyer = session.node.buyer();
    if buyer.standing(order).is_ok_and(is_mined) {
        return Ok(Waited::Mined);
    }
    let mut due = None;
    loop {
        match buyer.upgrade_or_due(order).await {
            Ok((standing, _)) if is_mined(standing) => return Ok(Waited::Mined),
            Ok((_, told)) => due = told,
            // The readings are here and verified; what a seller that went away keeps from us is only their anchor.
            Err(error @ (BuyError::Request { .. } | BuyError::Refused(_))) => {
                tracing::info!(%order, %error, "no anchored proof yet");
            }
            // Headers that lag behind the seller's catch up.
            Err(error) if error.is_ahead_of_headers() && Instant::now() < ends => {
                tracing::info!(%order, %error, "the anchor does not verify yet");
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= ends {
            return Ok(Waited::Not(due));
        }
        progress.say(due.map_or_else(
            || "waiting for the block of the anchor".to_owned(),
            |AnchorDue { due_ms, .. }| {
                format!("waiting for the anchor, due in about {}", duration(Duration::from_millis(due_ms)))
            },
        ));
        tokio::time::sleep(ASK_ANCHOR).await;
    }
}

/// Whether readings stand in a block.
pub(super) fn is_mined(standing: Standing) -> bool {
    matches!(standing, Standing::Mined { .. })
}

/// Writes an evidence file.
pub(super) fn write_evidence(path: &Path, evidence: &Evidence) -> Outcome {
    let mut text = serde_json::to_vec_pretty(evidence)
        .map_err(|error| Failure::other(format!("cannot write the evidence as JSON: {error}")))?;
    text.push(b'\n');
    std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error))
}

/// The files of one name: after `dir/name.json`, which is the first, comes `dir/name-2.json`.
pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.file_stem().map(OsString::from).unwrap_or_default();
    name.push(format!("-{}", number.saturating_add(1)));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_evidence_files_are_numbered() {
        assert_eq!(numbered(Path::new("a/e.json"), 0), Path::new("a/e.json"));
        assert_eq!(numbered(Path::new("a/e.json"), 1), Path::new("a/e-2.json"));
        assert_eq!(numbered(Path::new("e"), 2), Path::new("e-3"));
    }
}
