//! Where every satoshi went: the wallets before and after, and a reason for each difference.

use std::collections::BTreeMap;

use sensora_chain::wallet::HistoryEntry;
use sensora_chain::{Satoshis, Txid};
use sensora_node::supervisor::Node;
use serde::Serialize;

use super::channel::Live;
use super::orders::OrderLine;
use super::{Ledgers, Stage};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::signed_sat;

/// What a wallet holds, and every settled line of its history, read at one moment.
pub(super) struct Ledger {
    pub(super) total: Satoshis,
    lines: BTreeMap<Txid, HistoryEntry>,
}

impl Ledger {
    /// The wallet of a node, which must agree with itself.
    pub(super) fn of(node: &Node) -> Outcome<Self> {
        let (audited, lines) = node.wallet().read(|wallet| (wallet.audit(), wallet.history()));
        let balance = audited.map_err(|error| {
            Failure::new(Exit::Unverified, format!("a wallet contradicts itself: {error}"))
        })?;
        let settled = lines.into_iter().filter(|line| line.status.is_settled());
        Ok(Self { total: balance.total, lines: settled.map(|line| (line.txid, line)).collect() })
    }

    /// The lines that are not in an earlier ledger.
    fn since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a HistoryEntry> {
        self.lines.values().filter(|line| !before.lines.contains_key(&line.txid))
    }

    /// Money that came in, by transaction.
    pub(super) fn income(&self) -> BTreeMap<Txid, i64> {
        self.lines
            .values()
            .filter(|line| line.delta_sat > 0)
            .map(|line| (line.txid, line.delta_sat))
            .collect()
    }
}

/// The sums in `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Balance {
    pub(super) buyer_before_sat: Satoshis,
    pub(super) buyer_after_sat: Satoshis,
    pub(super) agent_before_sat: Satoshis,
    pub(super) agent_after_sat: Satoshis,
    /// What both paid to miners.
    pub(super) fees_sat: Satoshis,
    pub(super) ok: bool,
    /// What was paid for readings.
    #[serde(skip)]
    pub(super) price: Satoshis,
    /// The buyer's part of the fees.
    #[serde(skip)]
    pub(super) buyer_fees: Satoshis,
    /// The agent's part of the fees.
    #[serde(skip)]
    pub(super) agent_fees: Satoshis,
}

fn unexplained(who: &str, line: &HistoryEntry) -> Failure {
    let text =
        format!("{who}: {} in {} ({}) has no explanation", signed_sat(line.delta_sat), line.txid, line.label);
    Failure::new(Exit::Unverified, text)
}

fn signed(amount: Satoshis) -> Outcome<i64> {
    i64::try_from(amount.as_u64()).map_err(|_| Failure::other("an amount is out of range"))
}

/// Explains every line of both wallets since they were filled, and compares the sums with the balances.
pub(super) fn settle(before: &Ledgers, stage: &Stage, orders: &[OrderLine], live: &Live) -> Outcome<Balance> {
    let (buyer, agent) = (Ledger::of(&stage.buyer)?, Ledger::of(&stage.agent)?);
    // The close of the channel is what pays for the live order.
    let paid_in: BTreeMap<Txid, Satoshis> =
        orders.iter().map(|order| (order.txid, order.price_sat)).collect();
    let mut paid_out = paid_in.clone();
    paid_out.insert(live.opened, live.value_sat);
    let mut buyer_fees = Satoshis::ZERO;
    for line in buyer.since(&before.buyer) {
        if line.txid == live.closed {
            let (taken, back) = (add(live.paid_sat, live.close_fee_sat)?, live.value_sat);
            let back = back.checked_sub(taken).map_err(|_| unexplained("the buyer", line))?;
            if line.delta_sat != signed(back)? {
                return Err(unexplained("the buyer", line));
            }
            buyer_fees = add(buyer_fees, live.close_fee_sat)?;
            continue;
        }
        let price = paid_out.get(&line.txid).ok_or_else(|| unexplained("the buyer", line))?;
        let fee = line.fee.ok_or_else(|| unexplained("the buyer", line))?;
        let cost = signed(add(*price, fee)?)?;
        if line.delta_sat.checked_neg() != Some(cost) {
            return Err(unexplained("the buyer", line));
        }
        buyer_fees = add(buyer_fees, fee)?;
    }
    let mut agent_fees = Satoshis::ZERO;
    let mut received = 0_usize;
    for line in agent.since(&before.agent) {
        match (paid_in.get(&line.txid), line.fee) {
            (Some(price), None) if line.delta_sat == signed(*price)? => received = received.saturating_add(1),
            // An anchor or an ad: it pays nobody but the miners.
            (None, Some(fee)) if line.delta_sat.checked_neg() == Some(signed(fee)?) => {
                agent_fees = add(agent_fees, fee)?;
            }
            _ => return Err(unexplained("the agent", line)),
        }
    }
    let price =
        Satoshis::sum(paid_in.values().copied()).map_err(|error| Failure::other(error.to_string()))?;
    let paid = add(price, buyer_fees)?;
    let buyer_fits = add(buyer.total, paid)? == before.buyer.total;
    let agent_fits = add(agent.total, agent_fees)? == add(before.agent.total, price)?;
    if !(buyer_fits && agent_fits && received == paid_in.len() && paid_in.len() == orders.len()) {
        return Err(Failure::new(Exit::Unverified, "the balances do not agree with what was sold and paid"));
    }
    Ok(Balance {
        buyer_before_sat: before.buyer.total,
        buyer_after_sat: buyer.total,
        agent_before_sat: before.agent.total,
        agent_after_sat: agent.total,
        fees_sat: add(buyer_fees, agent_fees)?,
        ok: true,
        price,
        buyer_fees,
        agent_fees,
    })
}

fn add(a: Satoshis, b: Satoshis) -> Outcome<Satoshis> {
    a.checked_add(b).map_err(|error| Failure::other(error.to_string()))
}
