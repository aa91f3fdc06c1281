//! `sensora agent`: sells until Ctrl-C, and says what happens.

mod sources;
mod watch;

use std::time::{Duration, Instant};

use sensora_node::agent::source::SourceSpec;
use sensora_node::config::StreamConfig;
use sensora_protocol::Signed;
use sensora_protocol::ad::Ad;

use super::control;
use super::session::{Session, stop_signals};
use super::status;
use crate::args::AgentArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Sells.
pub(super) fn run(args: &AgentArgs, context: &Context) -> Outcome<Exit> {
    // What is wrong with the flags is said before the home is touched.
    if args.withdraw {
        return withdraw(args, context);
    }
    let from_flags = sources::of(args)?;
    if let Some(path) = args.csv.as_ref().filter(|path| path.as_os_str() != "-") {
        std::fs::metadata(path).map_err(|error| Failure::file("read", path, &error))?;
    }
    let mut open = context.open_home()?;
    if let Some(seconds) = args.anchor_every {
        open.config.anchor.every_s = seconds;
    }
    if !from_flags.is_empty() {
        open.config.streams =
            from_flags.into_iter().map(|(name, source)| stream(args, name, source)).collect();
    }
    open.config.validate().map_err(|error| Failure::usage(error.to_string()))?;
    if open.config.streams.is_empty() {
        return Err(Failure::usage(
            "there is nothing to sell: no source was named and config.toml has no [[streams]]",
        )
        .hint("begin with `sensora agent --host`, or --csv FILE"));
    }
    let options = open.config.agent_options();
    context.block_on(async {
        let session = Session::start_as(context, open, &args.network, Some(options)).await?;
        let mut stops = stop_signals()?;
        let watched = tokio::select! {
            watched = watch::events(&session, context) => watched,
            never = control::serve(&session) => match never {},
            () = stops.next() => Ok(()),
        };
        context.out.note("\nstopping; Ctrl-C again stops at once");
        let json = context.out.is_json();
        tokio::select! {
            () = session.stop() => {}
            () = stops.interrupted() => return Err(Failure::new(Exit::Interrupted, "stopped at once")
                .hint("what was acknowledged is on disk")),
        }
        watched?;
        if json {
            context.out.json_line(&serde_json::json!({"event": "stopped"}))?;
        }
        Ok(Exit::Ok)
    })
}

/// How long a withdrawal waits for somebody to tell.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(20);

/// Says everywhere that nothing is for sale any more.
fn withdraw(args: &AgentArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    let mut options = open.config.agent_options();
    options.sources.clear();
    context.block_on(async {
        let session = Session::start_as(context, open, &args.network, Some(options)).await?;
        let withdrawn = withdraw_from(&session).await;
        session.stop().await;
        let ad = withdrawn?;
        let version = ad.value().version;
        if context.out.is_json() {
            context.out.document(&serde_json::json!({"withdrawn": true, "version": version}))?;
        } else {
            context
                .out
                .field("withdrawn", format!("the ad, by version {version}, in gossip, DHT and chain"))?;
        }
        Ok(Exit::Ok)
    })
}

async fn withdraw_from(session: &Session) -> Outcome<Signed<Ad>> {
    let Some(agent) = session.node.agent() else { return Err(Failure::other("the agent did not start")) };
    let ends = Instant::now() + WITHDRAW_WITHIN;
    while session.node.net().peer_count() == 0 && Instant::now() < ends {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if session.node.net().peer_count() == 0 {
        return Err(Failure::new(Exit::Unreachable, "there is no peer to tell of the withdrawal")
            .hint("--bootstrap ADDR names one; an ad that is not renewed ends by itself within a day"));
    }
    let ad = agent.advertiser().withdraw().await.map_err(|error| Failure::other(error.to_string()))?;
    // Gossip goes out with the next turn of the swarm.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(ad)
}

/// One source of the flags, with the terms of the flags.
fn stream(args: &AgentArgs, name: Option<String>, source: SourceSpec) -> StreamConfig {
    StreamConfig {
        name,
        price_msat: args.price,
        second_msat: args.second,
        licence: args.licence.clone(),
        place: args.place.clone().map(|place| Some(place).into()),
        sample: args.sample,
        ..StreamConfig::new(source)
    }
}
