//! `sensora demo`: the whole of it in one command, on loopback, with nothing shortened.
//!
//! Whatever the demo says it has seen first: each line comes after the check that it tells of, and a check that fails ends the
//! demo with its exit code.

mod balance;
mod channel;
mod orders;
mod peers;
mod real;
mod story;
mod tamper;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sensora_chain::{Network, Satoshis, Txid};
use sensora_node::discovery::{Found, Query, Way};
use sensora_node::supervisor::{ChainRole, Node};
use sensora_protocol::StreamId;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use self::balance::{Balance, Ledger};
use self::orders::OrderLine;
use self::peers::{NETWORK, Place};
use self::real::Ground;
use self::story::Story;
use super::session::stop_signals;
use crate::args::DemoArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// The coins that each wallet begins with: several, so that an ad and an anchor can be paid at the same moment.
const FUNDS: [Satoshis; 4] = [Satoshis::from_sat(250_000); 4];
/// Readings of the host's sensors that are bought as a batch where there is no recording to buy.
const HOST_BATCH: u64 = 12;
/// The longest that any step may take before the demo gives up: each takes a few seconds at most.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    network: Network,
    peers: Peers,
    streams: Vec<StreamLine>,
    ad: AdLine,
    orders: Vec<OrderLine>,
    charged_once: bool,
    rejected: Vec<&'static str>,
    balance: Balance,
}

#[derive(Serialize)]
struct Peers {
    bootstrap: String,
    agent: String,
    buyer: String,
}

#[derive(Clone, Debug, Serialize)]
struct StreamLine {
    id: StreamId,
    name: String,
    readings: u64,
}

#[derive(Serialize)]
struct AdLine {
    txid: Txid,
    height: u32,
    found_by: Vec<Way>,
}

/// The nodes, all running.
struct Stage {
    bootstrap: Node,
    agent: Node,
    buyer: Node,
}

/// Runs the demo.
pub(super) fn run(args: &DemoArgs, context: &Context) -> Outcome<Exit> {
    if context.global.network.is_some_and(|network| network != NETWORK) {
        return Err(
            Failure::usage("the demo has a chain of its own, of network regtest").hint("leave out --network")
        );
    }
    for path in &args.csv {
        std::fs::metadata(path).map_err(|error| Failure::file("read", path, &error))?;
    }
    let temporary = match &args.keep {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|error| Failure::file("make", dir, &error))?;
            None
        }
        None => Some(
            tempfile::tempdir()
                .map_err(|error| Failure::other(format!("cannot make a directory: {error}")))?,
        ),
    };
    let dir = match (&args.keep, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => PathBuf::new(),
    };
    let node = args.chain.as_ref().map(|chain| real::service(&chain.0)).transpose()?;
    context.block_on(async {
        let chain = match node {
            Some(node) => real::chain(node).await?,
            None => Ground::DevChain,
        };
        let story = Story::begin(context)?;
        let mut stops = stop_signals()?;
        let document = tokio::select! {
            document = perform(&dir, &args.csv, &chain, &story) => document?,
            () = stops.next() => return Err(Failure::new(Exit::Interrupted, "stopped")),
        };
        story.end(args.keep.as_deref())?;
        if context.out.is_json() {
            context.out.document(&document)?;
        }
        Ok(Exit::Ok)
    })
}

async fn perform(
    dir: &Path,
    recordings: &[PathBuf],
    ground: &Ground,
    story: &Story<'_>,
) -> Outcome<Document> {
    let (bootstrap_home, agent_home, buyer_home) =
        (Place::make(dir, "bootstrap")?, Place::make(dir, "agent")?, Place::make(dir, "buyer")?);

    story.now("starting three nodes");
    let fees = ground.fees();
    let bootstrap = bootstrap_home.start(ground.role(&bootstrap_home), fees, &[], None).await?;
    let meet = bootstrap.addresses().await;
    let chain = || ChainRole::Peers(meet.clone());
    let buyer = buyer_home.start(chain(), fees, &meet, None).await?;
    // The agent's wallet is filled before it sells, so that what it has afterwards is explained by what it sold and paid.
    let agent = agent_home.start(chain(), fees, &meet, None).await?;
    story.now("filling the wallets");
    tokio::try_join!(fund(&buyer), fund(&agent), fund(&bootstrap))?;
    let before = Ledgers { buyer: Ledger::of(&buyer)?, agent: Ledger::of(&agent)? };
    agent.shutdown().await;
    drop(agent);
    let agent = agent_home.start(chain(), fees, &meet, Some(peers::for_sale(recordings)?)).await?;
    let stage = Stage { bootstrap, agent, buyer };
    story.peers(&stage, &before, ground.words(), meet.len()).await?;

    let told = tell(&stage, dir, story, &before).await;
    let Stage { bootstrap, agent, buyer } = stage;
    tokio::join!(agent.shutdown(), buyer.shutdown(), bootstrap.shutdown());
    told
}

struct Ledgers {
    buyer: Ledger,
    agent: Ledger,
}

async fn tell(stage: &Stage, dir: &Path, story: &Story<'_>, before: &Ledgers) -> Outcome<Document> {
    let chosen = orders::choose(stage, story).await?;
    let ad = find(stage, &chosen.latest.ad.kinds, story).await?;
    let mut orders = orders::Orders::new(stage, dir, story);
    orders.buy_latest(&chosen.latest).await?;
    let live = orders.receive_live(&chosen.latest).await?;
    orders.buy_batch(&chosen.batch, chosen.count).await?;
    let (lines, evidence) = orders.prove().await?;
    let rejected = orders::refuse_forgeries(stage, &evidence, story).await?;
    orders::retry(stage, &lines, story).await?;
    let streams = streams(&stage.agent);

    // Nothing moves any more while the satoshis are counted.
    stage.agent.shutdown().await;
    stage.buyer.shutdown().await;
    let balance = balance::settle(before, stage, &lines, &live)?;
    story.balance(&balance)?;
    let (bootstrap, agent, buyer) = (&stage.bootstrap, &stage.agent, &stage.buyer);
    let id = |node: &Node| node.peer_id().to_string();
    Ok(Document {
        network: NETWORK,
        peers: Peers { bootstrap: id(bootstrap), agent: id(agent), buyer: id(buyer) },
        streams,
        ad,
        orders: lines,
        charged_once: true,
        rejected,
        balance,
    })
}

/// Fills a wallet from the faucet.
async fn fund(node: &Node) -> Outcome {
    for coin in FUNDS {
        eventually("the faucet of the chain", async || match node.wallet().fund_from_faucet(coin).await {
            Ok(txid) => Ok(Some(txid)),
            Err(error) => {
                tracing::info!(%error, "no coins yet");
                Ok(None)
            }
        })
        .await?;
    }
    Ok(())
}

/// The agent's streams as they are now.
fn streams(agent: &Node) -> Vec<StreamLine> {
    let summaries = agent.agent().map(|agent| agent.recorder().summaries()).unwrap_or_default();
    summaries.into_iter().map(|s| StreamLine { id: s.id, name: s.name, readings: s.size }).collect()
}

/// Finds the agent's ad by each of the three ways, none helped by another.
async fn find(stage: &Stage, kinds: &[String], story: &Story<'_>) -> Outcome<AdLine> {
    let seller = stage.agent.identity().public();
    let query = Query { kind: kinds.first().cloned(), seller: Some(*seller), ..Query::default() };
    let mut found_by = Vec::new();
    let mut anchored = None;
    for way in Way::all() {
        story.now(&format!("looking for the ad by {way} alone"));
        let alone = BTreeSet::from([way]);
        let found: Found = eventually(&format!("the ad by {way} alone"), async || {
            let found = stage.buyer.discovery().search(&query, &alone, Duration::from_secs(1)).await?;
            let is_by_way = |found: &Found| found.ad.key() == seller && found.ways.contains(&way);
            Ok(found.into_iter().find(is_by_way))
        })
        .await?;
        anchored = anchored.or(found.anchored.filter(|_| way == Way::Chain));
        found_by.push(way);
    }
    let (txid, height) = anchored.ok_or_else(|| Failure::other("the ad on chain has no transaction"))?;
    story.found(&found_by, txid, height)?;
    Ok(AdLine { txid, height, found_by })
}

/// Looks again and again until there is something to see, or patience ends.
async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> Outcome<T>
where
    F: Future<Output = Outcome<Option<T>>>,
{
    let ends = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if Instant::now() >= ends {
            return Err(Failure::new(
                Exit::Unreachable,
                format!("{what} was not seen in {} s", PATIENCE.as_secs()),
            ));
        }
        sleep(LOOK).await;
    }
}
