//! `sensora earnings`: what was sold, who paid it and by what, and what is open and why.

use sensora_chain::{Satoshis, Txid};
use sensora_node::agent::seller::earnings::{Earned, EarnedBy};
use sensora_protocol::identity::peer_id;
use sensora_protocol::{ChannelId, OrderId, StreamId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::control::{self, Act, Books, Question};
use super::owner;
use crate::args::{EarningsArgs, NetworkArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{Table, counted, sat, short_id, shortened, time_ms};

/// One order in `--json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EarningReport {
    pub(super) order: OrderId,
    /// How far it has come: `running`, `ending` (to be ended, when its buyer is here), `stopped` (what is due is not all paid), `complete`, `ended`,
    /// `ended early`, `left unpaid`; before a payment is answered `admitted`; the states of a key release.
    state: String,
    buyer: String,
    stream: StreamId,
    first: u64,
    /// Whether they are single readings, which need not follow each other; `first` is 0 then.
    #[serde(default)]
    single: bool,
    /// Readings that were sold; null while a live stream runs.
    count: Option<u64>,
    paid_sat: Satoshis,
    /// What may have been delivered and is not paid; of an order that was left unpaid, what never will be.
    open_sat: Satoshis,
    /// How it is paid: `direct`, `channel` or `key-release`.
    mode: String,
    /// What brought the money to the chain: the payment, the close of the channel once it is in a block, or the claim that shows the key.
    txid: Option<Txid>,
    channel: Option<ChannelId>,
    /// The channel's highest voucher, which pays for all orders on it.
    voucher_sat: Option<Satoshis>,
    admitted: String,
    /// When its receipt was signed.
    receipted: Option<String>,
    /// Why it is not paid to the end.
    why: Option<String>,
}

impl EarningReport {
    fn of(earned: &Earned) -> Self {
        let (mode, txid, channel, voucher_sat) = match earned.by {
            EarnedBy::Transaction { txid } => ("direct", Some(txid), None, None),
            EarnedBy::Claim { txid } => ("key-release", txid, None, None),
            EarnedBy::Channel { channel, voucher, closed_by } => {
                ("channel", closed_by, Some(channel), Some(voucher))
            }
        };
        Self {
            order: earned.order,
            state: earned.state.to_owned(),
            buyer: peer_id(&earned.buyer),
            stream: earned.stream,
            first: earned.first,
            single: earned.is_reads,
            count: earned.count,
            paid_sat: earned.paid,
            open_sat: earned.open,
            mode: mode.to_owned(),
            txid,
            channel,
            voucher_sat,
            admitted: time_ms(earned.admitted_ms),
            receipted: earned.receipted_ms.map(time_ms),
            why: earned.why.clone(),
        }
    }
}

impl EarningReport {
    /// Whether it is paid by the vouchers of a channel.
    pub(super) fn is_on_channel(&self) -> bool {
        self.channel.is_some()
    }

    /// Whether nothing more comes of it.
    pub(super) fn is_over(&self) -> bool {
        self.receipted.is_some() || ["ended", "left unpaid"].contains(&self.state.as_str())
    }

    /// The same order, which has ended before anything was delivered: the books keep nothing of it, and what was paid ahead is free again.
    pub(super) fn ended_with_nothing(self) -> Self {
        let (state, paid_sat, open_sat) = ("ended".to_owned(), Satoshis::ZERO, Satoshis::ZERO);
        Self { state, count: Some(0), paid_sat, open_sat, why: None, ..self }
    }
}

/// All orders of the books, oldest first.
pub(super) fn reports(books: &Books<'_>) -> Outcome<Vec<EarningReport>> {
    let earned = Earned::stored(books.store, books.network, books.key)?;
    Ok(earned.iter().map(EarningReport::of).collect())
}

/// Ends an order, as its seller.
pub(super) fn end(wanted: &str, flags: &NetworkArgs, context: &Context) -> Outcome<Exit> {
    let ended: EarningReport = owner::act(Act::EndOrder, wanted, (flags, context), async |session, id| {
        owner::end_order(session, id).await
    })?;
    let exit = if ended.is_over() { Exit::Ok } else { Exit::Waiting };
    let out = &context.out;
    if out.is_json() {
        out.document(&ended)?;
        return Ok(exit);
    }
    out.field("order", ended.order)?;
    out.field("buyer", &ended.buyer)?;
    out.field("state", &ended.state)?;
    let count = ended.count.map_or_else(|| "as they come".to_owned(), |count| counted(count, "reading"));
    out.field("sold", count)?;
    out.field("paid", sat(ended.paid_sat))?;
    if !ended.open_sat.is_zero() {
        out.field("open", sat(ended.open_sat))?;
    }
    if let Some(receipted) = &ended.receipted {
        out.field("receipt", receipted)?;
    } else if !ended.is_over() {
        out.note("nothing more is delivered than is paid: it ends when its buyer is here and has paid what is due, at the latest with its channel");
    }
    Ok(exit)
}

/// Lists and adds up.
pub(super) fn run(args: &EarningsArgs, context: &Context) -> Outcome<Exit> {
    let mut all = control::read(Question::Earnings, context, reports)?;
    if let Some(buyer) = &args.buyer {
        all.retain(|order| order.buyer.starts_with(buyer.as_str()));
    }
    if args.unpaid {
        all.retain(|order| order.why.is_some());
    }
    let sum = |of: fn(&EarningReport) -> Satoshis| Satoshis::sum(all.iter().map(of)).unwrap_or(Satoshis::MAX);
    let (paid, open) = (sum(|order| order.paid_sat), sum(|order| order.open_sat));
    let out = &context.out;
    if out.is_json() {
        out.document(&json!({ "orders": all, "paid_sat": paid, "open_sat": open }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new([
        "order",
        "admitted",
        "buyer",
        "state",
        "#first",
        "#readings",
        "#paid",
        "#open",
        "by",
        "why not paid",
    ]);
    for order in &all {
        let by = match (order.channel, order.txid) {
            (Some(_), Some(txid)) => format!("close {}", short_id(&txid)),
            (Some(channel), None) => format!(
                "voucher of {}, channel {}",
                sat(order.voucher_sat.unwrap_or_default()),
                short_id(&channel)
            ),
            (None, Some(txid)) if order.mode == "key-release" => format!("claim {}", short_id(&txid)),
            (None, Some(txid)) => format!("payment {}", short_id(&txid)),
            (None, None) => order.mode.clone(),
        };
        table.row([
            short_id(&order.order),
            order.admitted.clone(),
            shortened(&order.buyer, 16),
            order.state.clone(),
            if order.single { "-".to_owned() } else { order.first.to_string() },
            order.count.map_or_else(|| "live".to_owned(), |count| count.to_string()),
            sat(order.paid_sat),
            sat(order.open_sat),
            by,
            order.why.clone().unwrap_or_default(),
        ]);
    }
    if table.is_empty() {
        out.note("nothing was sold yet");
        return Ok(Exit::Ok);
    }
    out.table(&table)?;
    out.note(format!("{}: {} paid, {} open", counted(all.len() as u64, "order"), sat(paid), sat(open)));
    Ok(Exit::Ok)
}
