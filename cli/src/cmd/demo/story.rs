//! The demo's voice: a calm line for each thing that was seen.

use std::path::Path;

use sensora_chain::{Satoshis, Txid};
use sensora_node::clock::Stopwatch;
use sensora_node::discovery::Way;
use sensora_node::supervisor::Node;
use sensora_protocol::OrderId;

use super::balance::Balance;
use super::channel::Live;
use super::{Ledgers, Stage, streams};
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{Progress, counted, duration, sat, short_id, shortened};

/// So much of the verifier's reason is shown.
const REASON: usize = 88;

/// Tells the story, or nothing with `--json`.
pub(super) struct Story<'a> {
    context: &'a Context,
    progress: Progress,
    begun: Stopwatch,
}

impl<'a> Story<'a> {
    /// The first words.
    pub(super) fn begin(context: &'a Context) -> Outcome<Self> {
        let out = &context.out;
        out.line(out.paint().bold("A device sells its readings to a buyer who trusts nobody"))?;
        out.line("")?;
        Ok(Self { context, progress: out.progress(0, "starting"), begun: Stopwatch::start() })
    }

    /// What is under way; seen only on a terminal, and gone when it is done.
    pub(super) fn now(&self, what: &str) {
        self.progress.say(what);
    }

    fn who(&self, name: &str, node: &Node, does: &str) -> Outcome {
        let id = node.peer_id().to_string();
        let end: String = id.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
        let paint = self.context.out.paint();
        self.tell(&format!(
            "  {} {}  {does}",
            paint.bold(&format!("{name:<10}")),
            paint.dim(&format!("…{end}"))
        ))
    }

    /// Something was seen to be so.
    pub(super) fn seen(&self, what: &str, text: &str) -> Outcome {
        let paint = self.context.out.paint();
        self.tell(&format!("{} {} {text}", paint.good("✓"), paint.bold(&format!("{what:<10}"))))
    }

    /// The line above the spinner, so that neither disturbs the other.
    fn tell(&self, text: &str) -> Outcome {
        self.progress.aside(|| self.context.out.line(text))
    }

    /// Who plays.
    pub(super) async fn peers(
        &self,
        stage: &Stage,
        before: &Ledgers,
        chain: &str,
        transports: usize,
    ) -> Outcome {
        let Stage { bootstrap, agent, buyer } = stage;
        self.who("bootstrap", bootstrap, &format!("mines {chain} and introduces the others"))?;
        let names: Vec<String> = streams(agent).into_iter().map(|stream| stream.name).collect();
        self.who("agent", agent, &format!("sells {}", names.join(", ")))?;
        self.who("buyer", buyer, &format!("has {}", sat(before.buyer.total)))?;
        self.tell("")?;
        tracing::debug!(transports, "listening");
        Ok(())
    }

    /// The ad was found.
    pub(super) fn found(&self, ways: &[Way], txid: Txid, height: u32) -> Outcome {
        let ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
        self.seen(
            "found",
            &format!(
                "the ad by {}, each alone; on chain in block {height} ({}…)",
                ways.join(", "),
                short_id(&txid)
            ),
        )
    }

    /// Readings were bought.
    pub(super) fn bought(
        &self,
        what: &str,
        goods: &str,
        price: Satoshis,
        txid: Txid,
        millis: u64,
    ) -> Outcome {
        self.seen(
            what,
            &format!(
                "{goods} for {}, paid by {}…, delivered and verified in {millis} ms",
                sat(price),
                short_id(&txid)
            ),
        )
    }

    /// Readings were received as they came.
    pub(super) fn streamed(&self, live: &Live, name: &str) -> Outcome {
        self.seen(
            "live",
            &format!(
                "{} of {name} as they came, for {} by vouchers, in {} ms; channel of {} opened by {}…, closed by {}… in block {}",
                counted(live.count, "reading"),
                sat(live.paid_sat),
                live.millis,
                sat(live.value_sat),
                short_id(&live.opened),
                short_id(&live.closed),
                live.height
            ),
        )
    }

    /// A forgery was refused.
    pub(super) fn refused(&self, what: &str, why: &str) -> Outcome {
        let why = shortened(why, REASON);
        self.seen("refused", &format!("{what}: {}", self.context.out.paint().dim(&why)))
    }

    /// An order was sent again.
    pub(super) fn charged_once(&self, order: OrderId) -> Outcome {
        self.seen(
            "once",
            &format!("order {}… was sent again: the same receipt, and no satoshi moved", short_id(&order)),
        )
    }

    /// Every satoshi is accounted for.
    pub(super) fn balance(&self, balance: &Balance) -> Outcome {
        let Balance { buyer_before_sat, buyer_after_sat, agent_before_sat, agent_after_sat, .. } = balance;
        let plain = |amount: Satoshis| sat(amount).trim_end_matches(" sat").to_owned();
        self.seen(
            "balanced",
            &format!(
                "buyer {} − {} price − {} fees = {}",
                plain(*buyer_before_sat),
                plain(balance.price),
                plain(balance.buyer_fees),
                sat(*buyer_after_sat)
            ),
        )?;
        let indent = " ".repeat(13);
        self.tell(&format!(
            "{indent}agent {} + {} price − {} fees = {}",
            plain(*agent_before_sat),
            plain(balance.price),
            plain(balance.agent_fees),
            sat(*agent_after_sat)
        ))
    }

    /// The last words.
    pub(super) fn end(self, kept: Option<&Path>) -> Outcome {
        let took = duration(self.begun.elapsed());
        let out = &self.context.out;
        drop(self.progress);
        out.line("")?;
        out.line(format!("Each line was seen to be so before it was printed. {took}."))?;
        if let Some(dir) = kept {
            out.line(format!("The three homes and the evidence are in {}.", dir.display()))?;
        }
        Ok(())
    }
}
