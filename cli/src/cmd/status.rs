//! `sensora status`: what this home has and does.
//!
//! A home in use is locked, so a running agent writes what it does to `status.json` in its home now and then, and `status` reads that.

use std::path::Path;

use sensora_chain::FeeRate;
use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_chain::wallet::{Status as TxStatus, Wallet};
use sensora_node::agent::seller::earnings::Earned;
use sensora_node::buyer::OrderSummary;
use sensora_node::config::{ChainSource, Config};
use sensora_node::fees::Fees;
use sensora_node::freeze::Freeze;
use sensora_node::home::{Home, HomeError, HomePaths};
use sensora_node::store;
use sensora_node::store::Store;
use sensora_node::wallet::Stuck;
use sensora_protocol::StreamId;
use sensora_protocol::identity::peer_id;
use serde::{Deserialize, Serialize};

use super::offline::Offline;
use super::session::Session;
use super::wallet::{BalanceReport, offline_wallet};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{Table, counted, duration, sat, time_ms};

/// What `--json` prints.
#[derive(Debug, Serialize, Deserialize)]
struct Status {
    home: std::path::PathBuf,
    network: sensora_chain::Network,
    peer_id: String,
    /// The process that has the home open; null where none has.
    running: Option<u32>,
    /// When this was so.
    as_of_ms: i64,
    /// Connected peers; null where no node runs.
    peers: Option<usize>,
    addresses: Vec<String>,
    /// Where the chain is.
    chain_source: String,
    chain_height: u32,
    /// Headers that are still to come, as far as somebody says so; null where no node runs.
    chain_behind: Option<u32>,
    balance: BalanceReport,
    /// Transactions that the network has and no block takes.
    stuck: Vec<String>,
    /// Transactions that the network had and that another one has outdone.
    conflicted: Vec<String>,
    streams: Vec<Stream>,
    sales: Sums,
    orders: Sums,
    /// Orders that were interrupted.
    unfinished: usize,
    /// Whether no money leaves the home.
    frozen: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stream {
    id: StreamId,
    name: String,
    readings: Option<u64>,
    /// Readings that stand under no mined anchor, and for how long the oldest of them has; null where no node runs.
    unanchored: Option<u64>,
    anchor_lag_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sums {
    count: usize,
    sat: sensora_chain::Satoshis,
}

fn file(paths: &HomePaths) -> std::path::PathBuf {
    paths.root().join("status.json")
}

/// Tells.
pub(super) fn run(context: &Context) -> Outcome<Exit> {
    let paths = context.paths()?;
    // Only whether it is free: what is free is opened again below.
    let holder = match Home::open(paths.clone()) {
        Err(HomeError::InUse { pid, .. }) => Some(pid),
        Err(error) => return Err(error.into()),
        Ok(home) => {
            drop(home);
            None
        }
    };
    let status = match holder {
        None => of_rest(&Offline::open(context)?, context)?,
        // Only what the process that holds the home has written says what it does.
        Some(pid) => match read(&file(&paths)).filter(|status| status.running == pid) {
            // The switch is looked at now: it may have been set since.
            Some(status) => Status { frozen: is_frozen(&paths), ..status },
            None => return Err(HomeError::InUse { path: paths.root().to_owned(), pid }.into()),
        },
    };
    show(&status, context)?;
    Ok(Exit::Ok)
}

fn read(path: &Path) -> Option<Status> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// A home on which no node runs.
fn of_rest(home: &Offline, context: &Context) -> Outcome<Status> {
    let streams = home.store.read(store::streams::all)?;
    let streams = streams.iter().map(|stream| Stream {
        id: stream.id,
        name: stream.name.clone(),
        readings: None,
        unanchored: None,
        anchor_lag_ms: None,
    });
    let (wallet, height) = (offline_wallet(home)?, home.headers()?.tip_height());
    let policy = Fees::new(context.config(home.home.paths())?.chain.fees()).now().rate;
    let (sales, orders, unfinished) = sums(&home.store, home.network, &home.key)?;
    Ok(Status {
        home: home.home.paths().root().to_owned(),
        network: home.network,
        peer_id: peer_id(&home.key),
        running: None,
        as_of_ms: context.clock.now_ms(),
        peers: None,
        addresses: Vec::new(),
        chain_source: configured_source(&context.config(home.home.paths())?),
        chain_height: height,
        chain_behind: None,
        balance: wallet.balance()?.into(),
        stuck: stuck_in(&wallet, height, policy),
        conflicted: conflicted_in(&wallet),
        streams: streams.collect(),
        sales,
        orders,
        unfinished,
        frozen: is_frozen(home.home.paths()),
    })
}

fn is_frozen(paths: &HomePaths) -> bool {
    Freeze::of(Some(paths.root())).check().is_err()
}

/// A line for each transaction that no block takes.
pub(super) fn stuck_in(wallet: &Wallet, height: u32, policy: FeeRate) -> Vec<String> {
    wallet.stuck(height).into_iter().map(|tx| Stuck { tx, policy }.to_string()).collect()
}

/// A line for each transaction that was outdone.
pub(super) fn conflicted_in(wallet: &Wallet) -> Vec<String> {
    let outdone =
        wallet.history().into_iter().filter(|line| matches!(line.status, TxStatus::Conflicted { .. }));
    outdone.map(|line| format!("{} ({}) is {}", line.txid, line.label, line.status)).collect()
}

/// Where a node on this home would have the chain from.
fn configured_source(config: &Config) -> String {
    match config.chain.source {
        ChainSource::Dev => "the development chain of this node".to_owned(),
        ChainSource::Services => {
            let names: Vec<&str> = config.chain.services.iter().map(|service| service.name()).collect();
            format!("services {}", names.join(", "))
        }
        _ => "peers".to_owned(),
    }
}

fn sums(store: &Store, network: sensora_chain::Network, key: &PublicKey) -> Outcome<(Sums, Sums, usize)> {
    let sales = store.read(store::orders::sales)?;
    let mut sold: Vec<_> = sales.iter().filter(|sale| sale.is_sold()).map(|sale| sale.paid).collect();
    let batches = Earned::stored_batches(store, network, key)?;
    sold.extend(batches.iter().map(|batch| batch.paid).filter(|paid| !paid.is_zero()));
    // What was paid through channels is what their highest vouchers say, whichever orders it was for.
    let streamed = store.read(store::channels::sales)?.len();
    let channels = store.read(store::channels::all_seller)?;
    let earned = channels.iter().map(|channel| channel.earning.highest);
    let earned = sensora_chain::Satoshis::sum(earned).unwrap_or(sensora_chain::Satoshis::MAX);
    let orders_sold = sold.len().saturating_add(streamed);
    sold.push(earned);
    let orders = OrderSummary::stored(store, network)?;
    let paid: Vec<_> =
        orders.iter().filter(|order| order.state.is_complete()).map(|order| order.paid).collect();
    let unfinished = orders.iter().filter(|order| !order.state.is_final()).count();
    let sums = |amounts: Vec<sensora_chain::Satoshis>| Sums {
        count: amounts.len(),
        sat: sensora_chain::Satoshis::sum(amounts).unwrap_or(sensora_chain::Satoshis::MAX),
    };
    Ok((Sums { count: orders_sold, ..sums(sold) }, sums(paid), unfinished))
}

/// Writes what a running agent does to its home, for `sensora status`. A disk that does not take it is no reason to stop selling.
pub(super) fn write(session: &Session) {
    if let Err(failure) = try_write(session) {
        tracing::debug!(error = %failure, "the status was not written");
    }
}

fn try_write(session: &Session) -> Outcome {
    let node = &session.node;
    let summaries = node.agent().map(|agent| agent.recorder().summaries()).unwrap_or_default();
    let lags = match node.agent().map(|agent| agent.anchorer().lags()) {
        Some(Ok(lags)) => lags,
        Some(Err(error)) => {
            tracing::debug!(%error, "how far the anchors are behind is not known");
            Vec::new()
        }
        None => Vec::new(),
    };
    let stream = |s: sensora_node::agent::recorder::StreamSummary| {
        let lag = lags.iter().find(|lag| lag.stream == s.id);
        Stream {
            id: s.id,
            name: s.name,
            readings: Some(s.size),
            unanchored: lag.map(|lag| lag.readings),
            anchor_lag_ms: lag.map(|lag| lag.age_ms),
        }
    };
    let (sales, orders, unfinished) = sums(node.store(), session.network, node.identity().public())?;
    let progress = *node.chain().sync_progress().borrow();
    let paths = session.paths();
    let status = Status {
        home: paths.root().to_owned(),
        network: session.network,
        peer_id: node.peer_id().to_string(),
        running: Some(std::process::id()),
        as_of_ms: session.clock.now_ms(),
        peers: Some(node.net().peer_count()),
        addresses: session.addresses.clone(),
        chain_source: node.chain().source_name(),
        chain_height: node.chain().headers().tip_height(),
        chain_behind: Some(progress.target.saturating_sub(progress.height)),
        balance: node.wallet().balance()?.into(),
        stuck: node.wallet().stuck().iter().map(ToString::to_string).collect(),
        conflicted: node.wallet().read(conflicted_in),
        streams: summaries.into_iter().map(stream).collect(),
        sales,
        orders,
        unfinished,
        frozen: is_frozen(paths),
    };
    let text =
        serde_json::to_vec(&status).map_err(|error| crate::failure::Failure::other(error.to_string()))?;
    // Whole or not at all, for whoever reads it meanwhile.
    let (path, part) = (file(paths), paths.root().join("status.json.part"));
    let failed = |error: std::io::Error| crate::failure::Failure::file("write", &path, &error);
    std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path)).map_err(failed)
}

fn show(status: &Status, context: &Context) -> Outcome {
    let out = &context.out;
    if out.is_json() {
        return out.document(status);
    }
    out.field("home", status.home.display())?;
    out.field("peer id", &status.peer_id)?;
    out.field("network", status.network)?;
    let state = match status.chain_behind {
        Some(0) => ", up to date",
        Some(_) => ", catching up",
        None => "",
    };
    let left = status.chain_behind.filter(|left| *left > 0);
    let left = left.map(|left| format!(" ({left} to come)")).unwrap_or_default();
    out.field(
        "chain",
        format!("{}, headers up to {}{state}{left}", status.chain_source, status.chain_height),
    )?;
    match status.running {
        Some(pid) => {
            let peers = status.peers.unwrap_or_default();
            out.field(
                "running",
                format!(
                    "process {pid}, {} (as of {})",
                    counted(peers as u64, "peer"),
                    time_ms(status.as_of_ms)
                ),
            )?;
        }
        None => out.field("running", "no")?,
    }
    for address in &status.addresses {
        out.field("listening", address)?;
    }
    let balance = &status.balance;
    let reserved = if balance.reserved_sat.is_zero() {
        String::new()
    } else {
        format!(", {} reserved", sat(balance.reserved_sat))
    };
    out.field("balance", format!("{}{reserved}", sat(balance.total_sat)))?;
    out.field(
        "sold",
        format!("{} for {}", counted(status.sales.count as u64, "order"), sat(status.sales.sat)),
    )?;
    out.field(
        "bought",
        format!("{} for {}", counted(status.orders.count as u64, "order"), sat(status.orders.sat)),
    )?;
    if status.unfinished > 0 {
        out.field(
            "unfinished",
            format!("{}: `sensora orders --resume`", counted(status.unfinished as u64, "order")),
        )?;
    }
    if status.frozen {
        out.field("frozen", out.paint().warn("no money leaves this home: `sensora wallet unfreeze`"))?;
    }
    for stuck in &status.stuck {
        out.field("not mined", out.paint().warn(stuck))?;
    }
    for outdone in &status.conflicted {
        out.field("outdone", out.paint().warn(outdone))?;
    }
    if status.streams.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut table = Table::new(["stream", "id", "#readings", "#not anchored", "#for"]);
    for stream in &status.streams {
        let text = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        let lag = stream.anchor_lag_ms.filter(|_| stream.unanchored.is_some_and(|readings| readings > 0));
        let lag = lag.map(|ms| duration(std::time::Duration::from_millis(ms))).unwrap_or_default();
        table.row([
            stream.name.clone(),
            stream.id.to_string(),
            text(stream.readings),
            text(stream.unanchored),
            lag,
        ]);
    }
    out.table(&table)
}
