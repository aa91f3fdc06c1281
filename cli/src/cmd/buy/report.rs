//! What a purchase leaves behind: files, and a few lines about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sensora_chain::{Satoshis, Txid};
use sensora_node::buyer::{AnchorDue, Bought, OrderSummary, Plan};
use sensora_protocol::ad::StreamAd;
use sensora_protocol::market::choice::{Choice, Mode};
use sensora_protocol::stream::{Reading, Schema};
use sensora_protocol::{OrderId, StreamId};
use serde::Serialize;
use serde_json::json;

use super::super::rows::{self, RowStyle, RowWriter};
use super::super::session::Session;
use super::numbered;
use crate::args::BuyArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, counted, duration, sat, short_id, time_ms, time_ns};

/// Readings that are shown where no file was asked for.
const SHOWN: u64 = 10;
/// Readings that are told in `--json` where no file was asked for.
const TOLD: u64 = 1000;
/// Runs read at a time.
const RUNS_AT_A_TIME: usize = 16;

/// A finished purchase in `--json`.
#[derive(Serialize)]
pub(super) struct Report {
    stream: StreamId,
    name: String,
    first: u64,
    count: u64,
    /// Readings that were here before and were not paid again.
    kept: u64,
    /// What was paid now.
    paid_sat: Satoshis,
    /// How; none where all was here.
    payment: Option<Payment>,
    verified: bool,
    anchored: bool,
    /// Where it is not: readings of the seller's log that are under no anchor yet, in its word.
    #[serde(skip_serializing_if = "Option::is_none")]
    anchor_behind: Option<u64>,
    /// About how long until the seller's next anchor, in its word.
    #[serde(skip_serializing_if = "Option::is_none")]
    anchor_due_ms: Option<u64>,
    orders: Vec<OrderLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    evidence: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    readings: Vec<serde_json::Value>,
    #[serde(skip)]
    schema: Schema,
}

/// How it was or would be paid.
#[derive(Serialize)]
struct Payment {
    mode: Mode,
    fees_sat: Satoshis,
    exposure_sat: Satoshis,
    why: String,
}

impl Payment {
    fn of(choice: &Choice) -> Self {
        Self { mode: choice.mode, fees_sat: choice.fees, exposure_sat: choice.exposure, why: choice.why() }
    }
}

#[derive(Serialize)]
struct OrderLine {
    order: OrderId,
    first: u64,
    count: u64,
    price_sat: Satoshis,
    txid: Option<Txid>,
    /// Whether it was made by this command.
    new: bool,
}

/// Says that a coin is locked and its key is still to be shown.
pub(super) fn waiting(order: &OrderSummary, state: &str, context: &Context) -> Outcome<Exit> {
    let out = &context.out;
    if out.is_json() {
        out.document(&json!({
            "waiting": true,
            "order": order.order,
            "state": state,
            "why": order.why,
            "first": order.first,
            "count": order.count,
            "price_sat": order.total,
            "txid": order.txid(),
        }))?;
        return Ok(Exit::Waiting);
    }
    out.field("order", order.order)?;
    out.field("state", state)?;
    if let Some(txid) = order.txid() {
        out.field("coin", format!("{} in {txid}", sat(order.total)))?;
    }
    if let Some(why) = &order.why {
        out.field("why", why)?;
    }
    out.note("the seller shows the key when the coin is some blocks deep, 6 by default; `sensora orders --resume` goes on with the order");
    Ok(Exit::Waiting)
}

impl Report {
    /// What was bought, by which orders.
    pub(super) fn of(
        bought: &Bought,
        orders: &[OrderSummary],
        stream: &StreamAd,
        anchored: bool,
        due: Option<AnchorDue>,
    ) -> Self {
        let line = |order: &OrderSummary| OrderLine {
            order: order.order,
            first: order.first,
            count: order.count,
            price_sat: order.total,
            txid: order.txid(),
            new: bought.orders.contains(&order.order),
        };
        Self {
            stream: bought.stream,
            name: stream.name.clone(),
            first: bought.first,
            count: bought.count,
            kept: bought.kept,
            paid_sat: bought.paid,
            payment: None,
            // Nothing is kept that does not verify.
            verified: true,
            anchored,
            anchor_behind: due.map(|due| due.behind),
            anchor_due_ms: due.map(|due| due.due_ms),
            orders: orders.iter().map(line).collect(),
            out: None,
            evidence: Vec::new(),
            readings: Vec::new(),
            schema: stream.schema.clone(),
        }
    }

    /// Notes how it was paid.
    pub(super) fn paid_by(&mut self, choice: Option<&Choice>) {
        self.payment = choice.map(Payment::of);
    }

    fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// Calls `f` with the readings from `first` on, a few runs at a time.
    fn each(&self, session: &Session, first: u64, mut f: impl FnMut(&Reading) -> Outcome) -> Outcome {
        let mut at = first;
        loop {
            let readings =
                session.node.buyer().readings(&self.stream, &self.schema, at, self.end(), RUNS_AT_A_TIME)?;
            let Some(last) = readings.last().map(|reading| reading.seq) else { return Ok(()) };
            readings.iter().try_for_each(&mut f)?;
            at = last.saturating_add(1);
        }
    }

    /// Writes the files that were asked for.
    pub(super) fn write_files(&mut self, args: &BuyArgs, session: &Session, context: &Context) -> Outcome {
        if let Some(path) = &args.out {
            let failed = |error: std::io::Error| match path.as_os_str() == "-" {
                true => Failure::stdout(&error),
                false => Failure::file("write", path, &error),
            };
            let style = RowStyle { format: args.format, spreadsheet_safe: false };
            let mut writer = RowWriter::new(style, &self.schema, rows::open(Some(path))?).map_err(failed)?;
            self.each(session, self.first, |reading| writer.write(reading).map_err(failed))?;
            writer.finish().map_err(failed)?;
            self.out = Some(path.clone());
        }
        if let Some(path) = &args.evidence {
            for (number, order) in self.orders.iter().enumerate() {
                let path = numbered(path, number);
                super::write_evidence(&path, &session.node.buyer().evidence(&order.order)?)?;
                self.evidence.push(path);
            }
            if self.evidence.len() > 1 {
                context.out.note(format!(
                    "{} orders hold these readings: one evidence file for each",
                    self.evidence.len()
                ));
            }
        }
        Ok(())
    }

    /// Says what was bought.
    pub(super) fn show(&mut self, args: &BuyArgs, session: &Session, context: &Context) -> Outcome {
        let out = &context.out;
        if out.is_json() {
            if self.out.is_none() && self.count <= TOLD {
                let mut readings = Vec::new();
                self.each(session, self.first, |reading| {
                    readings.push(rows::json(&self.schema, reading));
                    Ok(())
                })?;
                self.readings = readings;
            }
            return out.document(self);
        }
        let last = self.end().saturating_sub(1);
        let kept =
            if self.kept > 0 { format!(", {} of them were here already", self.kept) } else { String::new() };
        let lines = [
            (
                "bought",
                format!(
                    "{} of {} ({} to {last}){kept}",
                    counted(self.count, "reading"),
                    self.name,
                    self.first
                ),
            ),
            (
                "paid",
                match &self.payment {
                    Some(payment) if self.kept < self.count => {
                        format!("{} ({})", sat(self.paid_sat), payment.mode)
                    }
                    _ => sat(self.paid_sat),
                },
            ),
            ("verified", "all of them, none missing".to_owned()),
            (
                "anchored",
                match (self.anchored, self.anchor_behind, self.anchor_due_ms) {
                    (true, ..) => "in a block".to_owned(),
                    (false, Some(behind), Some(ms)) => format!(
                        "not yet: the seller is {} behind, its next anchor is due in about {}; --wait-anchor SECONDS waits",
                        counted(behind, "reading"),
                        duration(Duration::from_millis(ms))
                    ),
                    (false, ..) => "not yet: --wait-anchor SECONDS waits".to_owned(),
                },
            ),
        ];
        let orders = self.orders.iter().map(|order| ("order", order.order.to_string()));
        let files = self.out.iter().map(|path| ("readings in", path.display().to_string()));
        let evidence = self.evidence.iter().map(|path| ("evidence in", path.display().to_string()));
        let lines = lines.into_iter().chain(orders).chain(files).chain(evidence);
        let to_stdout = args.out.as_deref() == Some(Path::new("-"));
        for (name, value) in lines {
            if to_stdout {
                out.note(format!("{name:<12} {value}"));
            } else {
                out.field(name, value)?;
            }
        }
        if self.out.is_some() {
            return Ok(());
        }
        out.line("")?;
        self.show_newest(session, context)
    }

    fn show_newest(&self, session: &Session, context: &Context) -> Outcome {
        let first = self.first.max(self.end().saturating_sub(SHOWN));
        let mut lines = Vec::new();
        self.each(session, first, |reading| {
            let values = reading.values.iter().map(ToString::to_string);
            lines.push((reading.seq, time_ns(reading.time), values.collect::<Vec<_>>()));
            Ok(())
        })?;
        rows_table(&self.schema, &lines, context)?;
        if self.count > SHOWN {
            context.out.note(format!(
                "… and {} before them: sensora export {}",
                self.count - SHOWN,
                short_id(&self.stream)
            ));
        }
        Ok(())
    }
}

/// Readings as a table.
pub(in crate::cmd) fn rows_table(
    schema: &Schema,
    lines: &[(u64, String, Vec<String>)],
    context: &Context,
) -> Outcome {
    let mut table = Table::with_headings(["#seq".to_owned(), "time".to_owned()].into_iter().chain(
        schema.fields.iter().map(|field| {
            let unit = field.unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
            format!("#{}{unit}", field.name)
        }),
    ));
    for (seq, time, values) in lines {
        table.push([seq.to_string(), time.clone()].into_iter().chain(values.iter().cloned()));
    }
    context.out.table(&table)
}

/// Tells an offer and how it would be paid, and buys nothing.
pub(super) fn quote(plan: &Plan, context: &Context) -> Outcome<Exit> {
    let (out, offer) = (&context.out, plan.offer.value());
    if out.is_json() {
        out.document(&json!({
            "stream": offer.stream, "name": offer.name, "first": offer.first, "count": offer.count, "price_msat": offer.price,
            "price_sat": offer.total, "licence": offer.licence, "expires_ms": offer.expires_ms,
            "missing": plan.missing, "missing_sat": plan.total, "payment": plan.choice.as_ref().map(Payment::of),
        }))?;
        return Ok(Exit::Ok);
    }
    let last = offer.first.saturating_add(offer.count.saturating_sub(1));
    out.field(
        "offered",
        format!("{} of {} ({} to {last})", counted(offer.count, "reading"), offer.name, offer.first),
    )?;
    out.field("price", format!("{} ({} for a reading)", sat(offer.total), offer.price))?;
    if plan.missing < offer.count {
        out.field("missing", format!("{} for {}", counted(plan.missing, "reading"), sat(plan.total)))?;
    }
    if let Some(choice) = &plan.choice {
        out.field("payment", choice.why())?;
    }
    out.field("licence", &offer.licence)?;
    out.field("holds until", time_ms(offer.expires_ms))?;
    Ok(Exit::Ok)
}
