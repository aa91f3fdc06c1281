//! `sensora show STREAM`: all that a seller says of one stream.

use std::time::Duration;

use super::find;
use super::search::StreamReport;
use super::session::Session;
use crate::args::ShowArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{Table, duration, printable, time_ms};

/// Shows it.
pub(super) fn run(args: &ShowArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let stream = find::stream(&session, &args.stream).await;
        session.stop().await;
        let stream = stream?;
        show(&StreamReport::of(&stream.found, &stream.ad), context)?;
        Ok(Exit::Ok)
    })
}

fn show(report: &StreamReport<'_>, context: &Context) -> Outcome {
    let out = &context.out;
    if out.is_json() {
        return out.document(report);
    }
    let dim = |text: &str| out.paint().dim(text);
    out.field(
        "stream",
        format!("{} {}", out.paint().bold(&printable(report.name)), dim(&report.id.to_string())),
    )?;
    let seller = format!("{} {}", report.seller, dim(&printable(report.seller_name)));
    out.field("seller", seller.trim_end())?;
    out.field("kinds", printable(&report.kinds.join(", ")))?;
    if let Some(place) = report.place {
        out.field("place", format!("{} ({:.4}, {:.4})", place.geohash, place.lat(), place.lon()))?;
    }
    if let Some(ms) = report.cadence_ms {
        out.field("every", duration(Duration::from_millis(ms)))?;
    }
    let span = match (&report.first_time, &report.last_time) {
        (Some(first), Some(last)) => format!(", {first} to {last}"),
        _ => String::new(),
    };
    out.field("readings", format!("{}{span}", report.readings))?;
    let second = report.second_msat.map(|price| format!(" or {price} for a second of it as it comes"));
    out.field(
        "price",
        format!(
            "{} for a reading{}, at most {} readings in an order",
            report.price_msat,
            second.unwrap_or_default(),
            report.max_readings
        ),
    )?;
    let modes: Vec<String> = report.modes.iter().map(ToString::to_string).collect();
    out.field("paid by", modes.join(", "))?;
    out.field("sample", format!("{} readings a day for nothing", report.sample))?;
    out.field("licence", printable(report.licence))?;
    let ways: Vec<String> = report.found_by.iter().map(ToString::to_string).collect();
    let chain = report.ad_height.map(|height| format!(" (block {height})")).unwrap_or_default();
    out.field("found by", format!("{}{chain}", ways.join(", ")))?;
    out.field("ad ends", time_ms(report.expires_ms))?;
    out.line("")?;
    let mut table = Table::new(["field", "kind", "unit"]);
    for field in &report.schema.fields {
        table.row([
            field.name.clone(),
            field.kind.to_string(),
            field.unit.map(|unit| unit.to_string()).unwrap_or_default(),
        ]);
    }
    out.table(&table)
}
