//! What the demo buys, proves, forges and orders again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sensora_chain::header::HeaderView;
use sensora_chain::wallet::Status;
use sensora_chain::{Satoshis, Txid};
use sensora_node::buyer::BuyRequest;
use sensora_node::clock::Stopwatch;
use sensora_protocol::OrderId;
use sensora_protocol::ad::StreamAd;
use sensora_protocol::anchor::{AnchorProof, AnchorTree, Standing};
use sensora_protocol::evidence::{Evidence, EvidenceAnchor};
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::{BuyerLimits, Range};
use sensora_protocol::market::purchase::PurchaseState;
use sensora_protocol::market::sale::PurchaseRequest;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::{Reading, Value};
use serde::Serialize;

use super::balance::Ledger;
use super::channel::{self, Live};
use super::story::Story;
use super::{HOST_BATCH, NETWORK, Stage, eventually, tamper};
use crate::cmd::buy::{is_mined, write_evidence};
use crate::cmd::verify::read_evidence;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{counted, printable, sat, time_ms};

/// What the demo's buyer lets itself in for.
const LIMITS: BuyerLimits =
    BuyerLimits { max_price: Satoshis::from_sat(100_000), exposure: Satoshis::from_sat(100_000) };

/// One order in `--json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct OrderLine {
    pub(super) order: OrderId,
    pub(super) stream: String,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) price_sat: Satoshis,
    /// What pays it: a transaction of its own, or the close of the channel.
    pub(super) txid: Txid,
    /// The block it was mined in.
    pub(super) height: u32,
    /// Whether the readings, their completeness and their anchor were verified.
    pub(super) verified: bool,
    /// The evidence file.
    pub(super) evidence: PathBuf,
    /// From the question for the price to the last verified reading.
    pub(super) millis: u64,
}

/// A stream in the agent's ad.
pub(super) struct Chosen {
    pub(super) ad: StreamAd,
}

/// What is to be bought.
pub(super) struct Choice {
    pub(super) latest: Chosen,
    pub(super) batch: Chosen,
    pub(super) count: u64,
}

/// Chooses a stream of the host for its latest reading, and for the batch the longest recording, else the host again. Waits until there
/// are so many readings, and one more, so that the latest is not in the batch: nothing is sold twice.
pub(super) async fn choose(stage: &Stage, story: &Story<'_>) -> Outcome<Choice> {
    story.now("recording readings");
    let agent = stage.agent.agent().ok_or_else(|| Failure::other("the agent does not sell"))?;
    let ad = eventually("the agent's ad", async || Ok(agent.seller().ad())).await?;
    let host = ad.value().streams.iter().filter(|stream| stream.name.starts_with("host."));
    // A stream with numbers that move is better to look at than one of totals.
    let rank = |stream: &&StreamAd| {
        ["temperature", "cpu"].iter().position(|kind| stream.kinds.iter().any(|k| k == kind))
    };
    let latest = host.min_by_key(|stream| rank(stream).unwrap_or(usize::MAX)).cloned();
    let latest = latest.ok_or_else(|| Failure::other("this machine shows no sensors"))?;
    let recordings = ad.value().streams.iter().filter(|stream| !stream.name.starts_with("host."));
    let batch = recordings.max_by_key(|stream| stream.size).cloned();
    let is_recording = batch.is_some();
    let batch = batch.unwrap_or_else(|| latest.clone());
    let count = eventually("a batch of readings", async || {
        let size =
            agent.recorder().summary(&batch.id).map_err(|error| Failure::other(error.to_string()))?.size;
        let ended = agent.ended_sources().await;
        if let Some((name, reason)) =
            ended.iter().find_map(|end| Some((&end.name, end.outcome.as_ref().err()?)))
        {
            return Err(Failure::other(format!("the source {name} failed: {reason}")));
        }
        let is_enough =
            if is_recording { ended.iter().any(|end| batch.name == end.name) } else { size > HOST_BATCH };
        Ok((is_enough && size > 0).then_some(size))
    })
    .await?;
    let count = if is_recording { count.min(batch.limits.max_readings) } else { HOST_BATCH };
    Ok(Choice { latest: Chosen { ad: latest }, batch: Chosen { ad: batch }, count })
}

/// The orders made so far.
pub(super) struct Orders<'a> {
    stage: &'a Stage,
    dir: &'a Path,
    story: &'a Story<'a>,
    made: Vec<OrderLine>,
}

impl<'a> Orders<'a> {
    /// None yet.
    pub(super) fn new(stage: &'a Stage, dir: &'a Path, story: &'a Story<'a>) -> Self {
        Self { stage, dir, story, made: Vec::new() }
    }

    /// Buys the newest reading.
    pub(super) async fn buy_latest(&mut self, stream: &Chosen) -> Outcome {
        self.story.now("buying the latest reading");
        let readings = self.buy(stream, Range::Latest, 1).await?;
        let Some((order, reading)) = self.made.last().zip(readings.first()) else { return Ok(()) };
        let goods = format!(
            "{} at {}: {}",
            stream.ad.name,
            time_ms(reading.time / 1_000_000),
            values(stream, reading)
        );
        self.story.bought("latest", &goods, order.price_sat, order.txid, order.millis)
    }

    /// Buys `count` readings at once.
    pub(super) async fn buy_batch(&mut self, stream: &Chosen, count: u64) -> Outcome {
        self.story.now("buying a batch");
        self.buy(stream, Range::Seq { first: 0, count }, count).await?;
        let Some(order) = self.made.last() else { return Ok(()) };
        let goods = format!("{} of {}", counted(order.count, "reading"), stream.ad.name);
        self.story.bought("batch", &goods, order.price_sat, order.txid, order.millis)
    }

    /// Receives readings as they come, paid through a channel that is closed afterwards.
    pub(super) async fn receive_live(&mut self, stream: &Chosen) -> Outcome<Live> {
        let live = channel::stream(self.stage, stream, self.story).await?;
        let number = self.made.len().saturating_add(1);
        self.made.push(OrderLine {
            order: live.order,
            stream: stream.ad.id.to_string(),
            first: live.first,
            count: live.count,
            price_sat: live.paid_sat,
            txid: live.closed,
            height: 0,
            verified: false,
            evidence: self.dir.join(format!("evidence-{number}.json")),
            millis: live.millis,
        });
        Ok(live)
    }

    async fn buy(&mut self, stream: &Chosen, range: Range, count: u64) -> Outcome<Vec<Reading>> {
        let buyer = self.stage.buyer.buyer();
        let seller = *self.stage.agent.identity().public();
        let request =
            BuyRequest { seller, stream: stream.ad.id, range, limits: LIMITS, ad: Some(stream.ad.clone()) };
        let watch = Stopwatch::start();
        let bought = buyer.buy(&request, |_| ()).await?;
        let millis = watch.elapsed_ms();
        let [order] = bought.orders.as_slice() else {
            return Err(Failure::other(format!("{} orders were made instead of one", bought.orders.len())));
        };
        let summary = buyer.summary(order)?;
        let end = bought.first.saturating_add(bought.count);
        let schema = &stream.ad.schema;
        let mut readings: Vec<Reading> = Vec::new();
        while let Some(from) =
            readings.last().map_or(Some(bought.first), |last| last.seq.checked_add(1)).filter(|s| *s < end)
        {
            let more = buyer.readings(&bought.stream, schema, from, end, 16)?;
            if more.is_empty() {
                break;
            }
            readings.extend(more);
        }
        let is_whole = readings.len() as u64 == count
            && bought.kept == 0
            && summary.count == count
            && bought.paid == summary.total;
        let txid = summary.txid().filter(|_| is_whole);
        let txid =
            txid.ok_or_else(|| Failure::new(Exit::Unverified, "what was bought is not what was ordered"))?;
        check_equal(self.stage, stream, &readings)?;
        let number = self.made.len().saturating_add(1);
        self.made.push(OrderLine {
            order: *order,
            stream: bought.stream.to_string(),
            first: bought.first,
            count: bought.count,
            price_sat: summary.total,
            txid,
            height: 0,
            verified: false,
            evidence: self.dir.join(format!("evidence-{number}.json")),
            millis,
        });
        Ok(readings)
    }

    /// Waits until payments are mined and readings anchored, writes each order's evidence to a file, and verifies the file.
    pub(super) async fn prove(mut self) -> Outcome<(Vec<OrderLine>, Evidence)> {
        let mut last = None;
        for order in &mut self.made {
            self.story.now("waiting for the anchor in a block");
            let buyer = self.stage.buyer.buyer();
            eventually("the anchor", async || {
                let standing = buyer.upgrade(&order.order).await;
                Ok(standing.ok().filter(|standing| is_mined(*standing)))
            })
            .await?;
            order.height = eventually("the payment in a block", async || {
                Ok(match self.stage.buyer.wallet().status(&order.txid) {
                    Some(Status::Mined { height }) => Some(height),
                    _ => None,
                })
            })
            .await?;
            write_evidence(&order.evidence, &buyer.evidence(&order.order)?)?;
            let evidence = read_evidence(&order.evidence)?;
            let verified = evidence
                .verify(&self.stage.buyer.chain().headers())
                .map_err(|error| Failure::from_error(Exit::Unverified, &error))?;
            order.verified = is_mined(verified.standing) && verified.count == order.count;
            if !order.verified {
                return Err(Failure::new(Exit::Unverified, format!("order {} is not anchored", order.order)));
            }
            last = Some((evidence, verified.standing));
        }
        let (evidence, standing) = last.ok_or_else(|| Failure::other("nothing was bought"))?;
        let height = match standing {
            Standing::Mined { height, .. } => height,
            _ => 0,
        };
        self.story.seen(
            "verified",
            &format!("every reading, none missing, from its leaf to the header of block {height}, trusting no server"),
        )?;
        Ok((self.made, evidence))
    }
}

/// What the buyer has is what the agent recorded, value for value.
pub(super) fn check_equal(stage: &Stage, stream: &Chosen, readings: &[Reading]) -> Outcome {
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return Ok(()) };
    let agent = stage.agent.agent().ok_or_else(|| Failure::other("the agent does not sell"))?;
    let recorded = agent.recorder().readings(&stream.ad.id, first.seq, last.seq.saturating_add(1));
    let recorded = recorded.map_err(|error| Failure::other(error.to_string()))?;
    if recorded == readings {
        Ok(())
    } else {
        Err(Failure::new(Exit::Unverified, "the readings that arrived are not those that were recorded"))
    }
}

fn values(stream: &Chosen, reading: &Reading) -> String {
    const SHOWN: usize = 3;
    let fields = stream.ad.schema.fields.iter().zip(&reading.values).filter(|(_, value)| !value.is_null());
    let text = |(field, value): (&sensora_protocol::stream::Field, &Value)| {
        let number = match value {
            Value::Float(number) => format!("{number:.2}"),
            other => printable(&other.to_string()),
        };
        let unit = match field.unit {
            // RFC 8798 writes a percentage so.
            Some(unit) if unit.name() == "/100" => " %".to_owned(),
            Some(unit) => format!(" {unit}"),
            None => String::new(),
        };
        format!("{} {number}{unit}", field.name)
    };
    fields.take(SHOWN).map(text).collect::<Vec<_>>().join(", ")
}

/// Alters, omits and puts somebody else's anchor under the readings, and sees each refused.
pub(super) async fn refuse_forgeries(
    stage: &Stage,
    evidence: &Evidence,
    story: &Story<'_>,
) -> Outcome<Vec<&'static str>> {
    let headers = stage.buyer.chain().headers();
    story.refused("an altered reading", &tamper::altered(evidence, &headers)?)?;
    story.refused("an omitted reading", &tamper::omitted(evidence, &headers)?)?;
    story.now("anchoring the same checkpoint with a stranger's key");
    let anchor = foreign_anchor(stage, evidence).await?;
    let headers = stage.buyer.chain().headers();
    story.refused("a foreign anchor", &tamper::foreign_anchor(evidence, anchor, &headers)?)?;
    Ok(vec!["altered", "omitted", "foreign_anchor"])
}

/// An anchor of the very same checkpoint, mined in the very same chain, by somebody who is not the seller.
async fn foreign_anchor(stage: &Stage, evidence: &Evidence) -> Outcome<EvidenceAnchor> {
    let stranger = &stage.bootstrap;
    let checkpoint = evidence.checkpoint.signed.clone().verify_by::<Checkpoint>(NETWORK, &evidence.seller);
    let checkpoint = checkpoint.map_err(|error| Failure::from_error(Exit::Unverified, &error))?;
    let tree = AnchorTree::new(std::slice::from_ref(&checkpoint), NETWORK);
    let output = tree.payload(stranger.identity().public()).to_output();
    let built = stranger.wallet().post(vec![output], "a stranger's anchor", |_, _| Ok(()))?;
    let height = eventually("the stranger's anchor in a block", async || {
        let seen = stage.buyer.chain().headers().tip_height();
        Ok(match stranger.wallet().status(&built.txid) {
            Some(Status::Mined { height }) if height <= seen => Some(height),
            _ => None,
        })
    })
    .await?;
    let header = stage.buyer.chain().headers().header_at(height).map(|header| hex::encode(header.0));
    let path = tree.inclusion(0).map_err(|error| Failure::other(error.to_string()))?;
    let beef = stranger.wallet().beef_for(&built.txid)?;
    let proof = AnchorProof { index: 0, count: 1, path, beef };
    Ok(EvidenceAnchor { txid: built.txid, height: Some(height), header, proof })
}

/// Sends the bytes of the last order again, as a buyer would that has heard nothing, and sees that nothing is charged.
pub(super) async fn retry(stage: &Stage, orders: &[OrderLine], story: &Story<'_>) -> Outcome {
    story.now("sending an order again");
    let broken = |what: &str| {
        Failure::new(Exit::Unverified, format!("a repeated order was not the same order: {what}"))
    };
    let order = orders.last().ok_or_else(|| Failure::other("nothing was bought"))?;
    let buyer = stage.buyer.buyer();
    let purchase = buyer.purchase(&order.order)?;
    let PurchaseState::Complete { receipt } = &purchase.state else {
        return Err(broken("it is not complete"));
    };
    let payment = purchase.payment.as_ref().ok_or_else(|| broken("it has no payment"))?.beef.clone();
    let request = PurchaseRequest { offer: purchase.offer.clone(), order: purchase.order.clone(), payment };
    let before = (Ledger::of(&stage.buyer)?.total, Ledger::of(&stage.agent)?.income());
    for _ in 0..3 {
        match buyer.ask(&purchase.seller, &Request::Purchase(request.clone())).await? {
            Response::Ok(Answer::Receipt(again)) if again == *receipt => {}
            Response::Ok(Answer::Receipt(_)) => return Err(broken("the receipt is another one")),
            other => return Err(broken(other.name())),
        }
    }
    // Time for a payment that should not be there to show itself.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = (Ledger::of(&stage.buyer)?.total, Ledger::of(&stage.agent)?.income());
    if before != after {
        return Err(broken(&format!("the buyer had {} and has {}", sat(before.0), sat(after.0))));
    }
    story.charged_once(order.order)
}
