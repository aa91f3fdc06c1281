//! `sensora subscribe STREAM`: a stream as it comes, paid while it does.

use std::path::Path;

use sensora_chain::Satoshis;
use sensora_node::buyer::{LiveEvent, LiveStatus, SubscribeRequest, Subscription};
use sensora_node::signals::StopSignals;
use sensora_protocol::OrderId;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::price::Metered;
use sensora_protocol::market::receipt::ChannelReceipt;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

use super::find;
use super::rows::{self, RowStyle, RowWriter};
use super::session::{Session, stop_signals};
use super::terms::Terms;
use crate::args::{SubscribeArgs, parse_time};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Out, counted, printable, sat, short_id};

fn from(args: &SubscribeArgs, now_ns: i64) -> Outcome<LiveFrom> {
    let text = args.from.trim();
    if text == "latest" {
        return Ok(LiveFrom::Latest);
    }
    if let Ok(seq) = text.parse::<u64>() {
        return Ok(LiveFrom::Seq(seq));
    }
    parse_time(text, now_ns)
        .map(LiveFrom::Time)
        .map_err(|error| Failure::usage(format!("{error}; --from takes latest and a sequence number, too")))
}

/// Receives until something ends it.
pub(super) fn run(args: &SubscribeArgs, context: &Context) -> Outcome<Exit> {
    // What is wrong with the command line is said before a node is started.
    from(args, context.clock.now_ns())?;
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let received = subscribe(args, context, &session).await;
        session.stop().await;
        received
    })
}

async fn subscribe(args: &SubscribeArgs, context: &Context, session: &Session) -> Outcome<Exit> {
    let amount = |sat: u64| Satoshis::new(sat).map_err(|error| Failure::usage(error.to_string()));
    let (buyer, configured) = (session.node.buyer(), &session.config.buyer);
    let budget = args.budget.map(amount).transpose()?.unwrap_or(configured.max_price_sat);
    let exposure = args.exposure.map(amount).transpose()?.unwrap_or(configured.exposure_sat);
    let stream = find::stream(session, &args.stream).await?;
    let seller = *stream.found.ad.key();
    let until_ms = args.span.map(|span| {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        context.clock.now_ms().saturating_add(span)
    });
    let request = SubscribeRequest {
        seller,
        stream: stream.ad.id,
        from: from(args, context.clock.now_ns())?,
        by: args.rate.by,
        max_reading: args.rate.most.filter(|_| args.rate.by == Metered::Reading),
        max_second: args.rate.most.filter(|_| args.rate.by == Metered::Second),
        budget,
        exposure,
        ad: Some(stream.ad.clone()),
        readings: args.count,
        until_ms,
    };
    let under_way = buyer
        .orders()?
        .into_iter()
        .find(|order| order.is_live && order.stream == stream.ad.id && !order.state.is_final());
    let what = format!("{} as it comes", stream.ad.name);
    let (budget, exposure) = match &under_way {
        // It keeps its own, whatever is asked for now.
        Some(order) => (order.budget, order.exposure.unwrap_or(exposure)),
        None => (budget, exposure),
    };
    Terms::while_it_comes(what, budget, exposure).tell(context);
    let under_way = under_way.is_some();
    if !under_way {
        let progress = context.out.progress(0, "opening a channel");
        let limits = super::channels::limits(session, None, None)?;
        let waiting = |what: &str| progress.say(format!("waiting for {what}"));
        buyer.channel_for(&seller, budget, limits, super::channels::OPENS_WITHIN, waiting).await?;
    }
    let mut subscription = buyer.subscribe(&request).await?;
    let stops = stop_signals()?;
    let order = subscription.order();
    let status = subscription.status();
    let verb = if under_way { "going on with" } else { "receiving" };
    context.out.note(format!(
        "{verb} {} as it comes, order {}; Ctrl-C ends it with a receipt",
        stream.ad.name,
        short_id(&order)
    ));
    if under_way {
        context.out.note("the order keeps its own terms and budget; end it with Ctrl-C to make another");
        if let LiveFrom::Seq(from) = request.from {
            show_again(from, &status, &mut subscription, &context.out)?;
        }
    }
    follow(args, context, &mut subscription, (stops, status.next)).await
}

/// Whoever says from which reading on has it again, and all behind it: what came to the disk just before a kill may not have been shown.
fn show_again(from: u64, status: &LiveStatus, subscription: &mut Subscription, out: &Out) -> Outcome {
    let shown = subscription.rewind(from)?;
    if from < shown {
        out.note(format!("the order begins with reading {shown}, and of those before it not all are here"));
    }
    if shown < status.next {
        out.note(format!("readings from {shown} on are shown again; they are not paid again"));
    }
    Ok(())
}

/// Where the readings go.
struct Sink<'a> {
    out: &'a Out,
    rows: Option<RowWriter<Box<dyn std::io::Write>>>,
    to: Option<&'a Path>,
}

impl Sink<'_> {
    fn failed(&self, error: &std::io::Error) -> Failure {
        match self.to {
            Some(path) => Failure::file("write", path, error),
            None => Failure::stdout(error),
        }
    }
}

/// Shows what comes, until something ends it. Readings from `new` on were not here before.
async fn follow(
    args: &SubscribeArgs,
    context: &Context,
    subscription: &mut Subscription,
    (mut stops, new): (StopSignals, u64),
) -> Outcome<Exit> {
    let out = &context.out;
    let to = args.out.as_deref().filter(|path| *path != Path::new("-"));
    let mut sink = Sink { out, rows: None, to };
    if !out.is_json() || to.is_some() {
        let style = RowStyle { format: args.format, spreadsheet_safe: false };
        let writer = RowWriter::new(style, subscription.schema(), rows::open(to)?);
        sink.rows = Some(writer.map_err(|error| sink.failed(&error))?);
    }
    let mut typed = Typed::new();
    let (mut received, mut stopping) = (0_u64, false);
    loop {
        let event = tokio::select! {
            event = subscription.next() => event?,
            command = typed.next() => {
                match command.as_str() {
                    "p" | "pause" => subscription.pause().await,
                    "r" | "resume" => subscription.resume().await,
                    "q" | "stop" => subscription.stop().await,
                    _ => out.note("p pauses, r resumes, q ends"),
                }
                continue;
            }
            () = stops.next() => {
                if stopping {
                    return Err(Failure::new(Exit::Interrupted, "stopped before the order was settled")
                        .hint("what was received is kept: `sensora orders --resume` settles it"));
                }
                stopping = true;
                out.note("ending: what was sent is still received and paid; Ctrl-C again leaves at once");
                subscription.stop().await;
                continue;
            }
        };
        let Some(event) = event else { return Ok(Exit::Ok) };
        match event {
            LiveEvent::Readings(batch) => {
                let fresh = batch.readings.iter().filter(|reading| reading.seq >= new).count();
                received = received.saturating_add(fresh as u64);
                if let Some(rows) = &mut sink.rows {
                    let written = batch.readings.iter().try_for_each(|reading| rows.write(reading));
                    written.and_then(|()| rows.flush()).map_err(|error| sink.failed(&error))?;
                }
                if sink.out.is_json() {
                    let readings: Vec<_> = batch
                        .readings
                        .iter()
                        .map(|reading| rows::json(subscription.schema(), reading))
                        .collect();
                    out.json_line(&json!({
                        "event": "readings", "readings": readings, "standing": named(&batch.standing), "paid_sat": batch.paid,
                    }))?;
                }
            }
            LiveEvent::Gap { first, end } => {
                if out.is_json() {
                    out.json_line(&json!({ "event": "gap", "first": first, "end": end }))?;
                }
                out.note(format!(
                    "{} before the first of this order are not here: `sensora buy {} --seq {first}..{end}` fills the gap",
                    counted(end.saturating_sub(first), "reading"),
                    args.stream.stream
                ));
            }
            LiveEvent::Standing { end, standing } => {
                if out.is_json() {
                    out.json_line(&json!({ "event": "standing", "end": end, "standing": named(&standing) }))?;
                } else if let Standing::Mined { height, .. } = standing {
                    out.note(format!("readings before {end} stand in block {height}"));
                }
            }
            LiveEvent::Waiting { reason } => {
                if out.is_json() {
                    out.json_line(&json!({ "event": "waiting", "reason": printable(&reason) }))?;
                }
                out.note(format!("waiting: {}", printable(&reason)));
            }
            LiveEvent::Ended(ended) => {
                if let Some(rows) = sink.rows.take() {
                    rows.finish().map_err(|error| sink.failed(&error))?;
                }
                return match ended {
                    Ok(receipt) => told(out, subscription.order(), receipt.value(), received),
                    Err(error) => Err(Failure::of_shared(&error)),
                };
            }
        }
    }
}

/// The standing's name in lower case.
fn named(standing: &Standing) -> serde_json::Value {
    match standing {
        Standing::Mined { height, .. } => json!({ "mined": height }),
        Standing::Broadcast { .. } => json!("broadcast"),
        _ => json!("signed"),
    }
}

fn told(out: &Out, order: OrderId, receipt: &ChannelReceipt, received: u64) -> Outcome<Exit> {
    if out.is_json() {
        out.json_line(&json!({
            "event": "ended", "order": order, "first": receipt.first, "count": receipt.count, "paid_sat": receipt.paid,
            "channel": receipt.channel, "received_now": received,
        }))?;
        return Ok(Exit::Ok);
    }
    out.note(format!(
        "ended: {} from {} on, all verified, {} paid; the seller's receipt is kept (`sensora orders {}`)",
        counted(receipt.count, "reading"),
        receipt.first,
        sat(receipt.paid),
        short_id(&order)
    ));
    Ok(Exit::Ok)
}

/// Lines that a person types; nothing where nobody is there.
struct Typed(Option<Lines<BufReader<Stdin>>>);

impl Typed {
    fn new() -> Self {
        use std::io::IsTerminal as _;
        Self(std::io::stdin().is_terminal().then(|| BufReader::new(tokio::io::stdin()).lines()))
    }

    /// The next line. Safe to cancel.
    async fn next(&mut self) -> String {
        if let Some(lines) = &mut self.0 {
            match lines.next_line().await {
                Ok(Some(line)) => return line.trim().to_owned(),
                _ => self.0 = None,
            }
        }
        std::future::pending().await
    }
}
