//! `sensora search`: streams for sale, by three ways that need none of each other.

use std::collections::BTreeSet;
use std::time::Duration;

use sensora_chain::Txid;
use sensora_node::discovery::{Found, Query, Way};
use sensora_protocol::StreamId;
use sensora_protocol::ad::{PaymentMode, StreamAd};
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::choice::Mode;
use sensora_protocol::market::price::Price;
use sensora_protocol::place::Place;
use sensora_protocol::stream::Schema;
use serde::Serialize;
use serde_json::json;

use super::find::seller_key;
use super::session::Session;
use crate::args;
use crate::args::SearchArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, duration, short_id, time_ms, time_ns};

/// One stream in `--json`.
#[derive(Serialize)]
pub(super) struct StreamReport<'a> {
    pub(super) id: StreamId,
    pub(super) name: &'a str,
    pub(super) kinds: &'a [String],
    pub(super) seller: String,
    pub(super) seller_name: &'a str,
    /// Thousandths of a satoshi for one reading.
    pub(super) price_msat: Price,
    /// Thousandths of a satoshi for one second of the stream as it comes; null where it is sold by the reading only.
    pub(super) second_msat: Option<Price>,
    /// How orders can be paid.
    pub(super) modes: Vec<Mode>,
    pub(super) licence: &'a str,
    /// Readings each buyer may have free of charge in a day.
    pub(super) sample: u32,
    pub(super) place: Option<&'a Place>,
    pub(super) cadence_ms: Option<u64>,
    pub(super) readings: u64,
    pub(super) first_time: Option<String>,
    pub(super) last_time: Option<String>,
    pub(super) schema: &'a Schema,
    pub(super) max_readings: u64,
    pub(super) found_by: &'a BTreeSet<Way>,
    pub(super) ad_version: u64,
    pub(super) ad_txid: Option<Txid>,
    pub(super) ad_height: Option<u32>,
    pub(super) expires_ms: i64,
}

/// By the word that `--mode` takes, too; on the wire it is another. What this program does not know it cannot pay by.
const fn mode(of: PaymentMode) -> Option<Mode> {
    match of {
        PaymentMode::Direct => Some(Mode::Direct),
        PaymentMode::Channel => Some(Mode::Channel),
        PaymentMode::KeyRelease => Some(Mode::KeyRelease),
        _ => None,
    }
}

impl<'a> StreamReport<'a> {
    /// What a seller's ad says of one of its streams.
    pub(super) fn of(found: &'a Found, stream: &'a StreamAd) -> Self {
        let ad = found.ad.value();
        Self {
            id: stream.id,
            name: &stream.name,
            kinds: &stream.kinds,
            seller: peer_id(found.ad.key()),
            seller_name: &ad.name,
            price_msat: stream.price,
            second_msat: stream.second,
            modes: stream.modes.iter().copied().filter_map(mode).collect(),
            licence: &stream.licence,
            sample: stream.sample,
            place: stream.place.as_ref(),
            cadence_ms: stream.cadence_ms,
            readings: stream.size,
            first_time: stream.first_time.map(time_ns),
            last_time: stream.last_time.map(time_ns),
            schema: &stream.schema,
            max_readings: stream.limits.max_readings,
            found_by: &found.ways,
            ad_version: ad.version,
            ad_txid: found.anchored.map(|(txid, _)| txid),
            ad_height: found.anchored.map(|(_, height)| height),
            expires_ms: ad.expires_ms,
        }
    }
}

/// Searches.
pub(super) fn run(args: &SearchArgs, context: &Context) -> Outcome<Exit> {
    let query = query(args)?;
    let ways = ways(&args.way);
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let progress = context.out.progress(0, "searching");
        let searched = session.node.discovery().search(&query, &ways, Duration::from_secs(args.within)).await;
        drop(progress);
        session.stop().await;
        show(&query, &searched?, context)
    })
}

fn query(args: &SearchArgs) -> Outcome<Query> {
    if !(args.radius.is_finite() && args.radius > 0.0) {
        return Err(Failure::usage("--radius must be above 0 kilometres"));
    }
    Ok(Query {
        kind: args.kind.as_ref().map(|kind| kind.to_lowercase()),
        near: args.near.clone().map(|place| (place, args.radius)),
        text: args.text.clone(),
        max_price: args.max_price,
        seller: args.seller.as_deref().map(seller_key).transpose()?,
    })
}

fn ways(chosen: &[args::Way]) -> BTreeSet<Way> {
    if chosen.is_empty() {
        return Way::all();
    }
    let way = |way: &args::Way| match way {
        args::Way::Gossip => Way::Gossip,
        args::Way::Dht => Way::Dht,
        args::Way::Chain => Way::Chain,
    };
    chosen.iter().map(way).collect()
}

fn show(query: &Query, found: &[Found], context: &Context) -> Outcome<Exit> {
    let out = &context.out;
    let streams =
        found.iter().flat_map(|found| found.ad.value().streams.iter().map(move |stream| (found, stream)));
    let fitting: Vec<_> = streams.filter(|(found, stream)| query.fits(&found.ad, stream)).collect();
    if out.is_json() {
        let streams: Vec<_> = fitting.iter().map(|(found, stream)| StreamReport::of(found, stream)).collect();
        out.document(&json!({ "streams": streams }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new([
        "id",
        "name",
        "kinds",
        "#price",
        "#readings",
        "every",
        "newest",
        "place",
        "licence",
        "found by",
    ]);
    for (found, stream) in &fitting {
        table.row([
            short_id(&stream.id),
            stream.name.clone(),
            stream.kinds.join(" "),
            stream.price.to_string(),
            stream.size.to_string(),
            stream.cadence_ms.map(|ms| duration(Duration::from_millis(ms))).unwrap_or_default(),
            stream.last_time.map(|ns| time_ms(ns / 1_000_000)).unwrap_or_default(),
            stream.place.as_ref().map(|place| place.geohash.clone()).unwrap_or_default(),
            stream.licence.clone(),
            found.ways.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        ]);
    }
    if table.is_empty() {
        out.note("nothing that fits is for sale");
    } else {
        out.table(&table)?;
    }
    Ok(Exit::Ok)
}
