//! `sensora export`: readings that were bought, or the block headers this home has checked.

use std::io::Write as _;

use sensora_chain::header::HeaderView as _;
use sensora_node::buyer::OrderSummary;
use sensora_node::store;
use sensora_protocol::StreamId;
use sensora_protocol::stream::Run;
use serde_json::json;

use super::offline::{Offline, Picked, pick_bought, pick_order};
use super::rows::{self, RowStyle, RowWriter};
use crate::args::{ExportArgs, parse_time};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Runs read at a time: a run is at most a chunk, so memory stays small however much was bought.
const RUNS_AT_A_TIME: usize = 16;

/// Writes what was asked for.
pub(super) fn run(args: &ExportArgs, context: &Context) -> Outcome<Exit> {
    let home = Offline::open(context)?;
    match &args.what {
        Some(what) if !args.headers => readings(args, what, &home, context),
        _ => headers(args, &home, context),
    }
}

fn readings(args: &ExportArgs, what: &str, home: &Offline, context: &Context) -> Outcome<Exit> {
    let (stream, first, end) = choose(home, what)?;
    let now = context.clock.now_ns();
    let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now)).transpose();
    let from = time(&args.from).map_err(Failure::usage)?.unwrap_or(i64::MIN);
    let to = time(&args.to).map_err(Failure::usage)?.unwrap_or(i64::MAX);
    let known = home.store.read(|tx| store::bought::stream(tx, &stream))?;
    let known = known.ok_or_else(|| Failure::not_found(format!("nothing was bought of stream {stream}")))?;

    let style = RowStyle { format: args.format, spreadsheet_safe: args.spreadsheet_safe };
    let failed = |error: std::io::Error| match &args.out {
        Some(path) => Failure::file("write", path, &error),
        None => Failure::stdout(&error),
    };
    let mut writer =
        RowWriter::new(style, &known.schema, rows::open(args.out.as_deref())?).map_err(failed)?;
    let mut at = first;
    while at < end {
        let found = home.store.read(|tx| store::bought::runs(tx, &stream, at, end, RUNS_AT_A_TIME))?;
        if found.is_empty() {
            break;
        }
        for bought in found {
            let readings = open(&bought.run, &known.schema)?;
            let wanted = readings.iter().filter(|reading| (at..end).contains(&reading.seq));
            for reading in wanted.filter(|reading| (from..to).contains(&reading.time)) {
                writer.write(reading).map_err(failed)?;
            }
            at = at.max(bought.run.first.saturating_add(bought.count));
        }
    }
    let count = writer.finish().map_err(failed)?;
    if let Some(path) = &args.out {
        if context.out.is_json() {
            context.out.document(&json!({"stream": stream, "readings": count, "file": path}))?;
        } else {
            context.out.note(format!("{count} readings of {} in {}", known.name, path.display()));
        }
    }
    Ok(Exit::Ok)
}

/// The stream and its range of sequence numbers that `what` names.
fn choose(home: &Offline, what: &str) -> Outcome<(StreamId, u64, u64)> {
    match pick_bought(&home.store, what)? {
        Picked::None => {}
        picked => return Ok((picked.one("stream", what)?, 0, u64::MAX)),
    }
    let orders = OrderSummary::stored(&home.store, home.network)?;
    let order = pick_order(&orders, what).map_err(|failure| {
        if failure.exit == Exit::NotFound && failure.hint.is_none() {
            Failure::not_found(format!("this home has bought no stream and has no order `{what}`"))
                .hint("`sensora orders` lists what it has")
        } else {
            failure
        }
    })?;
    Ok((order.stream, order.first, order.first.saturating_add(order.count)))
}

/// The readings of a kept run.
pub(super) fn open(
    run: &Run,
    schema: &sensora_protocol::stream::Schema,
) -> Outcome<Vec<sensora_protocol::stream::Reading>> {
    let opened = run.open(schema).map_err(|error| {
        Failure::new(
            Exit::Unverified,
            format!("the kept readings from {} on cannot be read: {error}", run.first),
        )
    })?;
    Ok(opened.readings)
}

fn headers(args: &ExportArgs, home: &Offline, context: &Context) -> Outcome<Exit> {
    let chain = home.headers()?;
    let failed = |error: std::io::Error| match &args.out {
        Some(path) => Failure::file("write", path, &error),
        None => Failure::stdout(&error),
    };
    let mut to = rows::open(args.out.as_deref())?;
    to.write_all(&chain.to_bytes()).and_then(|()| to.flush()).map_err(failed)?;
    if let Some(path) = &args.out {
        let (from, tip) = (chain.base_height(), chain.tip_height());
        if context.out.is_json() {
            context.out.document(&json!({"first_height": from, "tip_height": tip, "file": path}))?;
        } else {
            context.out.note(format!("headers {from} to {tip} of {} in {}", home.network, path.display()));
        }
    }
    Ok(Exit::Ok)
}
