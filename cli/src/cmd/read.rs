//! `sensora read STREAM`: single readings, each paid by itself.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use sensora_chain::Satoshis;
use sensora_node::buyer::{BuyError, Read, Reads, ReadsError, ReadsReport, ReadsRequest, Want};
use sensora_protocol::StreamId;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::find;
use super::rows::{self, RowStyle, RowWriter};
use super::session::{Session, stop_signals};
use super::terms::Terms;
use crate::args::ReadArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Out, counted, printable, sat, short_id};

/// Most readings that are asked for before the first of them is shown.
const ASKED_AHEAD: usize = 64;

/// Reads until all is here, or something ends it.
pub(super) fn run(args: &ReadArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let done = read(args, context, &session).await;
        session.stop().await;
        done
    })
}

async fn read(args: &ReadArgs, context: &Context, session: &Session) -> Outcome<Exit> {
    let amount = |sat: u64| Satoshis::new(sat).map_err(|error| Failure::usage(error.to_string()));
    let (buyer, configured) = (session.node.buyer(), &session.config.buyer);
    let budget = args.budget.map(amount).transpose()?.unwrap_or(configured.max_price_sat);
    let exposure = args.exposure.map(amount).transpose()?.unwrap_or(configured.exposure_sat);
    let stream = find::stream(session, &args.stream).await?;
    let seller = *stream.found.ad.key();
    settle_interrupted(session, &stream.ad.id, context).await?;
    Terms::while_it_comes(format!("single readings of {}", stream.ad.name), budget, exposure).tell(context);
    {
        let progress = context.out.progress(0, "opening a channel");
        let limits = super::channels::limits(session, None, None)?;
        let waiting = |what: &str| progress.say(format!("waiting for {what}"));
        buyer.channel_for(&seller, budget, limits, super::channels::OPENS_WITHIN, waiting).await?;
    }
    let request =
        ReadsRequest { seller, stream: stream.ad.id, budget, exposure, ad: Some(stream.ad.clone()) };
    let reads = buyer.open_reads(request).await?;
    let mut stops = stop_signals()?;
    if args.every.is_some() {
        context.out.note(format!(
            "reading {}, order {}; Ctrl-C ends it with a receipt",
            stream.ad.name,
            short_id(&reads.order())
        ));
    }
    let mut sink = Sink::new(args, &context.out, &reads)?;
    let asked = tokio::select! {
        biased;
        () = stops.next() => Ok(()),
        asked = ask(args, &reads, &mut sink) => asked,
    };
    let closed = tokio::select! {
        closed = reads.close() => closed,
        () = stops.next() => {
            return Err(Failure::new(Exit::Interrupted, "stopped before the order was settled")
                .hint("what was received is kept: `sensora orders --resume` settles it"));
        }
    };
    let report = match closed {
        Ok(report) => report,
        // It has ended by itself, with its channel.
        Err(ReadsError::Closed) => {
            let order = buyer.summary(&reads.order())?;
            ReadsReport { orders: vec![order.order], count: order.count, paid: order.paid }
        }
        Err(error) => return Err(asked.err().unwrap_or_else(|| error.into())),
    };
    sink.ended(&report)?;
    asked.map(|()| Exit::Ok)
}

/// Orders of single readings that were interrupted hold a part of the channel: they end first.
async fn settle_interrupted(session: &Session, stream: &StreamId, context: &Context) -> Outcome {
    let buyer = session.node.buyer();
    let open = buyer.orders()?.into_iter();
    for order in open.filter(|order| order.is_reads && &order.stream == stream && !order.state.is_final()) {
        if let Err(error) = buyer.resume_order(&order.order, |_| ()).await {
            let id = short_id(&order.order);
            context.out.warn(format!("order {id} of before could not be settled: {error}"));
        }
    }
    Ok(())
}

/// Asks for all that is wanted, and shows each reading as soon as it and those before it are here.
async fn ask(args: &ReadArgs, reads: &Reads, sink: &mut Sink<'_>) -> Outcome {
    if let Some(every) = args.every {
        return ask_again(every, args.count.unwrap_or(u64::MAX), reads, sink).await;
    }
    let mut wanted: VecDeque<Want> = args.seq.iter().copied().map(Want::Seq).collect();
    if args.latest {
        wanted.push_back(Want::Latest);
    }
    let mut asked = VecDeque::new();
    loop {
        while asked.len() < ASKED_AHEAD
            && let Some(want) = wanted.pop_front()
        {
            let reads = reads.clone();
            asked.push_back(tokio::spawn(async move { reads.read(want).await }));
        }
        let Some(next) = asked.pop_front() else { return Ok(()) };
        let read = next.await.map_err(|error| Failure::new(Exit::Failure, error.to_string()))?;
        sink.show(&read?)?;
    }
}

/// The newest reading each `every`.
async fn ask_again(every: Duration, times: u64, reads: &Reads, sink: &mut Sink<'_>) -> Outcome {
    let mut due = tokio::time::interval(every.max(Duration::from_millis(1)));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut asked, mut last) = (0, None);
    while asked < times {
        due.tick().await;
        match reads.read(Want::Latest).await {
            Ok(read) if last == Some(read.reading.seq) => sink.unchanged(read.reading.seq)?,
            Ok(read) => {
                last = Some(read.reading.seq);
                sink.show(&read)?;
            }
            Err(ReadsError::Failed(error)) if passes(&error) => {
                sink.waiting(&error.to_string())?;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        asked += 1;
    }
    Ok(())
}

/// Whether the seller may just be away.
fn passes(error: &BuyError) -> bool {
    match error {
        BuyError::Request { .. } | BuyError::Stream { .. } | BuyError::NotComplete { .. } => true,
        BuyError::Refused(refusal) => refusal.is_temporary(),
        _ => false,
    }
}

/// Where the readings go.
struct Sink<'a> {
    out: &'a Out,
    reads: &'a Reads,
    rows: Option<RowWriter<Box<dyn Write>>>,
}

impl<'a> Sink<'a> {
    fn new(args: &ReadArgs, out: &'a Out, reads: &'a Reads) -> Outcome<Self> {
        let style = RowStyle { format: args.format, spreadsheet_safe: false };
        let rows = match out.is_json() {
            true => None,
            false => {
                let writer = RowWriter::new(style, reads.schema(), rows::open(None)?);
                Some(writer.map_err(|error| Failure::stdout(&error))?)
            }
        };
        Ok(Self { out, reads, rows })
    }

    fn show(&mut self, read: &Read) -> Outcome {
        if let Some(rows) = &mut self.rows {
            let written = rows.write(&read.reading).and_then(|()| rows.flush());
            return written.map_err(|error| Failure::stdout(&error));
        }
        let reading = rows::json(self.reads.schema(), &read.reading);
        self.out.json_line(&json!({
            "event": "reading", "reading": reading, "bought": read.bought, "standing": "signed",
        }))
    }

    fn unchanged(&self, seq: u64) -> Outcome {
        if self.out.is_json() {
            return self.out.json_line(&json!({ "event": "unchanged", "seq": seq }));
        }
        self.out.note(format!("unchanged: reading {seq} is the newest still"));
        Ok(())
    }

    fn waiting(&self, reason: &str) -> Outcome {
        if self.out.is_json() {
            return self.out.json_line(&json!({ "event": "waiting", "reason": printable(reason) }));
        }
        self.out.note(format!("waiting: {}", printable(reason)));
        Ok(())
    }

    fn ended(self, report: &ReadsReport) -> Outcome {
        let Self { out, rows, .. } = self;
        if let Some(rows) = rows {
            rows.finish().map_err(|error| Failure::stdout(&error))?;
        }
        if out.is_json() {
            return out.json_line(&json!({
                "event": "ended", "orders": report.orders, "count": report.count, "paid_sat": report.paid,
            }));
        }
        let orders: Vec<String> = report.orders.iter().map(short_id).collect();
        out.note(format!(
            "{} bought, all verified, {} paid; the seller's receipt is kept (`sensora orders {}`)",
            counted(report.count, "reading"),
            sat(report.paid),
            orders.join(" ")
        ));
        Ok(())
    }
}
