//! `sensora doctor`: looks for what is wrong, and says how to mend it.

use sensora_chain::header::HeaderView as _;
use sensora_chain::wallet::Wallet;
use sensora_node::buyer::OrderSummary;
use sensora_node::config::{ChainSource, Config};
use sensora_node::fees::Fees;
use sensora_node::home::{Home, HomePaths, RESERVED_SPACE, free_space};
use sensora_node::keystore;
use sensora_node::net::split_peer_id;
use sensora_node::store;
use serde::Serialize;
use serde_json::json;

mod chain;

use super::offline::Offline;
use super::session::Session;
use crate::args::DoctorArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{counted, printable, sat, time_ms};

/// 2026-01-01: a clock that says less was never set.
const EARLIEST_MS: i64 = 1_767_225_600_000;
/// A tip that is older than this on a public network says that the chain is not followed.
const OLD_TIP_MS: i64 = 6 * 3600 * 1000;
/// A header from later than this after our own time says that the clock here is behind.
const FAR_AHEAD_MS: i64 = 20 * 60 * 1000;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Grade {
    Good,
    Warning,
    Bad,
}

/// One check.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    grade: Grade,
    finding: String,
    /// What to do.
    advice: Option<String>,
}

/// All checks so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, grade: Grade, finding: impl Into<String>, advice: Option<&str>) {
        self.0.push(Finding { check, grade, finding: finding.into(), advice: advice.map(str::to_owned) });
    }

    fn good(&mut self, check: &'static str, finding: impl Into<String>) {
        self.add(check, Grade::Good, finding, None);
    }

    fn failed(&mut self, check: &'static str, failure: &Failure) {
        self.add(check, Grade::Bad, &failure.message, failure.hint.as_deref());
    }
}

/// Looks.
pub(super) fn run(args: &DoctorArgs, context: &Context) -> Outcome<Exit> {
    let mut findings = Findings::default();
    let paths = context.paths()?;
    clock(context, &mut findings);
    let config = config(context, &paths, &mut findings);
    key(&paths, &mut findings);
    disk(&paths, &mut findings);
    let is_free = home(&paths, &mut findings);
    if is_free && config.is_some() {
        match Offline::open(context) {
            Ok(home) => at_rest(&home, context, &mut findings),
            Err(failure) => findings.failed("store", &failure),
        }
        if !args.offline {
            network(args, context, &mut findings);
        }
    }
    show(&findings, context)?;
    let is_bad = findings.0.iter().any(|finding| finding.grade == Grade::Bad);
    Ok(if is_bad { Exit::Failure } else { Exit::Ok })
}

fn clock(context: &Context, findings: &mut Findings) {
    let now_ms = context.clock.now_ms();
    if now_ms < EARLIEST_MS {
        let advice = "set the clock, best by NTP: signatures and readings carry its time";
        findings.add("clock", Grade::Bad, format!("it is {} here", time_ms(now_ms)), Some(advice));
    } else {
        findings.good("clock", time_ms(now_ms));
    }
}

fn config(context: &Context, paths: &HomePaths, findings: &mut Findings) -> Option<Config> {
    match context.config(paths) {
        Ok(config) => {
            let nameless =
                config.net.bootstrap.iter().filter(|a| split_peer_id((*a).clone()).1.is_none()).count();
            if nameless > 0 {
                let text = format!(
                    "{nameless} addresses in net.bootstrap have no /p2p/ and the peer id at their end"
                );
                findings.add(
                    "config",
                    Grade::Warning,
                    text,
                    Some("a node without its id cannot be told from an impostor"),
                );
            } else {
                findings.good(
                    "config",
                    format!(
                        "{} streams, {} bootstrap nodes",
                        config.streams.len(),
                        config.net.bootstrap.len()
                    ),
                );
            }
            Some(config)
        }
        Err(failure) => {
            findings.failed("config", &failure);
            None
        }
    }
}

fn key(paths: &HomePaths, findings: &mut Findings) {
    match keystore::inspect(&paths.key()) {
        Ok(info) if info.is_sealed => findings.good("key", "sealed under a passphrase"),
        Ok(_) => findings.good("key", "readable by this user only, not sealed"),
        Err(error) => findings.failed("key", &error.into()),
    }
}

fn disk(paths: &HomePaths, findings: &mut Findings) {
    match free_space(paths.root()) {
        Ok(free) if free < RESERVED_SPACE => {
            let text = format!(
                "{} MB are free, {} MB are kept for what is under way",
                free >> 20,
                RESERVED_SPACE >> 20
            );
            findings.add("disk", Grade::Bad, text, Some("free some space: nothing new is taken on"));
        }
        Ok(free) => findings.good("disk", format!("{} MB are free", free >> 20)),
        Err(error) => {
            findings.add("disk", Grade::Warning, format!("the free space is not known: {error}"), None);
        }
    }
}

fn home(paths: &HomePaths, findings: &mut Findings) -> bool {
    match Home::open(paths.clone()) {
        Ok(home) => {
            findings.good("home", home.paths().root().display().to_string());
            true
        }
        Err(error @ sensora_node::home::HomeError::InUse { .. }) => {
            let advice = "stop it for the checks of store and network";
            findings.add("home", Grade::Warning, error.to_string(), Some(advice));
            false
        }
        Err(error) => {
            findings.failed("home", &error.into());
            false
        }
    }
}

/// Transactions that no block takes, and those that another one has outdone: both are for a person to know of.
fn unsettled(home: &Offline, context: &Context, findings: &mut Findings) {
    let looked = home.store.read(store::wallet::get).map_err(Failure::from).and_then(|wallet| {
        let policy = Fees::new(context.config(home.home.paths())?.chain.fees()).now().rate;
        let stuck = super::status::stuck_in(&wallet, home.headers()?.tip_height(), policy);
        Ok((stuck, super::status::conflicted_in(&wallet)))
    });
    match looked {
        Ok((stuck, outdone)) => {
            for text in stuck {
                findings.add("not mined", Grade::Warning, text, None);
            }
            for text in outdone {
                let advice = "the money is counted as if it never was; if it was a sale, the buyer has spent the coin elsewhere";
                findings.add("outdone", Grade::Warning, text, Some(advice));
            }
        }
        Err(failure) => findings.failed("transactions", &failure),
    }
}

fn at_rest(home: &Offline, context: &Context, findings: &mut Findings) {
    unsettled(home, context, findings);
    let audited = home.store.read(store::wallet::get).map(|wallet| Wallet::audit(&wallet));
    match audited {
        Ok(Ok(balance)) if balance.total.is_zero() => {
            let advice = "an agent needs a little for its anchors, a buyer for what it buys: `sensora wallet fund`, or send to `sensora wallet address`";
            findings.add(
                "wallet",
                Grade::Warning,
                "coins and history agree: there is nothing in it",
                Some(advice),
            );
        }
        Ok(Ok(balance)) => {
            findings.good("wallet", format!("coins and history agree: {}", sat(balance.total)));
        }
        Ok(Err(error)) => {
            let advice = "stop using this home and keep a copy of it";
            findings.add("wallet", Grade::Bad, format!("it contradicts itself: {error}"), Some(advice));
        }
        Err(error) => findings.failed("wallet", &error.into()),
    }
    match OrderSummary::stored(&home.store, home.network) {
        Ok(orders) => {
            let unfinished = orders.iter().filter(|order| !order.state.is_final()).count();
            if unfinished > 0 {
                let text = format!("{unfinished} orders were interrupted");
                findings.add("orders", Grade::Warning, text, Some("`sensora orders --resume` finishes them"));
            } else {
                findings.good("orders", format!("{}, all finished", counted(orders.len() as u64, "order")));
            }
        }
        Err(error) => findings.failed("orders", &error.into()),
    }
}

fn network(args: &DoctorArgs, context: &Context, findings: &mut Findings) {
    let looked = context.open_home().and_then(|open| {
        context.block_on(async {
            let session = Session::start_alone(context, open, &args.network).await?;
            reach(&session, context, findings).await;
            session.stop().await;
            Ok(())
        })
    });
    if let Err(failure) = looked {
        findings.failed("network", &failure);
    }
}

async fn reach(session: &Session, context: &Context, findings: &mut Findings) {
    findings.good("listening", session.addresses.join(", "));
    let has_services = session.config.chain.source == ChainSource::Services;
    if let Err(failure) = session.meet().await {
        if !has_services {
            findings.failed("peers", &failure);
            return;
        }
        // The chain is there without them; selling and buying are not.
        findings.add("peers", Grade::Warning, &failure.message, failure.hint.as_deref());
    } else {
        peers(session, findings).await;
    }
    session.catch_up(context).await;
    match session.sync().await {
        Ok(()) => headers(session, context, findings),
        Err(failure) => findings.failed("chain", &failure),
    }
    if has_services {
        chain::services(session, context, findings).await;
    }
    chain::fees(session, findings);
}

async fn peers(session: &Session, findings: &mut Findings) {
    let status = session.node.net().status().await;
    let agents: Vec<String> =
        status.iter().flat_map(|status| &status.peers).filter_map(|peer| peer.agent.clone()).collect();
    findings.good(
        "peers",
        format!("{} connected {}", session.node.net().peer_count(), printable(&agents.join(", "))),
    );
}

fn headers(session: &Session, context: &Context, findings: &mut Findings) {
    let headers = session.node.chain().headers();
    let height = headers.tip_height();
    let tip_ms = headers.header_at(height).map_or(0, |tip| i64::from(tip.time()).saturating_mul(1000));
    let age_ms = context.clock.now_ms().saturating_sub(tip_ms);
    let progress = *session.node.chain().sync_progress().borrow();
    let left = progress.target.saturating_sub(progress.height);
    let state = if left > 0 { format!(", {left} are still to come") } else { String::new() };
    let source = session.node.chain().source_name();
    let text = format!("headers up to {height} from {source}, the last of {}{state}", time_ms(tip_ms));
    if age_ms < -FAR_AHEAD_MS {
        let text = format!("{text}: {} min after the time here", age_ms.saturating_neg() / 60_000);
        findings.add("chain", Grade::Bad, text, Some("this machine's clock is behind: set it, best by NTP"));
    } else if session.network != sensora_chain::Network::Regtest && age_ms > OLD_TIP_MS {
        findings.add(
            "chain",
            Grade::Warning,
            text,
            Some("either whoever was asked is behind (name others in chain.peers or chain.services), or the clock here is ahead"),
        );
    } else {
        findings.good("chain", text);
    }
}

fn show(findings: &Findings, context: &Context) -> Outcome {
    let out = &context.out;
    if out.is_json() {
        let ok = findings.0.iter().all(|finding| finding.grade != Grade::Bad);
        return out.document(&json!({"ok": ok, "checks": findings.0}));
    }
    let paint = out.paint();
    for Finding { check, grade, finding, advice } in &findings.0 {
        let mark = match grade {
            Grade::Good => paint.good("good   "),
            Grade::Warning => paint.warn("warning"),
            Grade::Bad => paint.bad("bad    "),
        };
        out.line(format!("{mark} {check:<10} {}", printable(finding)))?;
        if let Some(advice) = advice {
            out.line(format!("{:18} {}", "", paint.dim(advice)))?;
        }
    }
    Ok(())
}
