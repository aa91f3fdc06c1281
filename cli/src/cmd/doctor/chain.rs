//! What `doctor` finds out about the chain's services: each by itself, and each beside the others.

use sensora_chain::FeeRate;
use sensora_node::chain_access::{Disagreement, ServiceCheck, ServiceState, TipWord};
use sensora_node::fees::FeeState;

use super::{Findings, Grade};
use crate::cmd::session::Session;
use crate::context::Context;
use crate::output::{counted, sat, time_ms};

/// A service that is so many blocks behind the others does not follow the chain.
const FAR_BEHIND: u32 = 3;
/// How far the clock may be from what the services' newest blocks say before it is a finding, in seconds: blocks come every ten minutes,
/// and a gap of an hour is one in four hundred.
const CLOCK_OFF_SECS: i64 = 3600;
/// A block from after our own time by so much says that the clock is behind, in seconds.
const CLOCK_BEHIND_SECS: i64 = 20 * 60;

/// Asks each service.
pub(super) async fn services(session: &Session, context: &Context, findings: &mut Findings) {
    let access = session.node.chain();
    let (checks, states) = (access.check_services().await, access.services());
    for check in &checks {
        one(check, states.iter().find(|state| state.name == check.name), session, findings);
    }
    clock(&checks, session, context, findings);
    for Disagreement { one, other, what, count, last_ms } in access.disagreements() {
        let text = format!("{one} {what} (against {other}; seen {count} times, last {})", time_ms(last_ms));
        let advice = "take the one that is wrong out of [[chain.services]]";
        findings.add("services", Grade::Warning, text, Some(advice));
    }
}

fn one(check: &ServiceCheck, state: Option<&ServiceState>, session: &Session, findings: &mut Findings) {
    let name = format!("{} ({}, {})", check.name, check.kind, session.network);
    let mut parts: Vec<String> = Vec::new();
    let mut grade = Grade::Good;
    let mut advice = None;
    let mut worse = |to: Grade, with: &'static str| {
        if grade != Grade::Bad {
            grade = to;
            advice = Some(with);
        }
    };
    match &check.tip {
        Some(Ok((tip, _))) => parts.push(format!("ends at {}", tip.height)),
        Some(Err(error)) => {
            parts.push(error.to_string());
            worse(Grade::Bad, "is the address right, and is the service up? others are asked in its place");
        }
        None => {}
    }
    match check.stands {
        Some(TipWord::Agrees { behind: 0 }) => parts.push("as our headers do".to_owned()),
        Some(TipWord::Agrees { behind }) => {
            parts.push(format!("{} behind our headers", counted(u64::from(behind), "block")));
            if behind >= FAR_BEHIND {
                worse(Grade::Warning, "it is behind: it may not know what is new");
            }
        }
        Some(TipWord::Ahead { by }) => {
            parts.push(format!("{} ahead of our headers", counted(u64::from(by), "block")));
            if by >= FAR_BEHIND {
                worse(Grade::Warning, "its headers have not been followed yet, or do not hold");
            }
        }
        Some(TipWord::Differs) => {
            parts.push("has another block there than the chain with the most work".to_owned());
            worse(Grade::Warning, "it follows a branch that has lost, or another network");
        }
        None => {}
    }
    match &check.quote {
        Some(Ok(quote)) => parts.push(format!("asks for {}", rate(quote.rate))),
        Some(Err(error)) if check.tip.is_none() => {
            parts.push(error.to_string());
            worse(Grade::Bad, "is the address right, and is the service up? others are asked in its place");
        }
        Some(Err(error)) => parts.push(format!("no fee rate: {error}")),
        None => {}
    }
    if let Some(state) = state.filter(|state| state.lies > 0) {
        parts.push(format!("{} did not hold", counted(state.lies, "answer")));
        if let Some((last, at_ms)) = &state.last_failure {
            parts.push(format!("last {}: {last}", time_ms(*at_ms)));
        }
        worse(Grade::Bad, "do not use it: take it out of [[chain.services]]");
    }
    findings.add("service", grade, format!("{name}: {}", parts.join(", ")), advice);
}

/// Our clock against the median of the services' newest blocks.
fn clock(checks: &[ServiceCheck], session: &Session, context: &Context, findings: &mut Findings) {
    let time = |check: &ServiceCheck| match &check.tip {
        Some(Ok((_, time))) => time.map(i64::from),
        _ => None,
    };
    let mut times: Vec<i64> = checks.iter().filter_map(time).collect();
    times.sort_unstable();
    let Some(median) = times.get(times.len() / 2) else { return };
    let age = context.clock.now_ms().div_euclid(1000).saturating_sub(*median);
    let is_public = session.network != sensora_chain::Network::Regtest;
    if age < -CLOCK_BEHIND_SECS {
        let text = format!(
            "the services' newest block is of {}, {} min after the time here",
            time_ms(median.saturating_mul(1000)),
            age.saturating_neg() / 60
        );
        findings.add("clock", Grade::Bad, text, Some("the clock here is behind: set it, best by NTP"));
    } else if is_public && age > CLOCK_OFF_SECS {
        let text = format!(
            "the services' newest block is of {}, {} min ago",
            time_ms(median.saturating_mul(1000)),
            age / 60
        );
        let advice = "either no block was found since, which is rare, or the clock here is ahead: compare it";
        findings.add("clock", Grade::Warning, text, Some(advice));
    }
}

/// The fee policy in force, and whose word it is.
pub(super) fn fees(session: &Session, findings: &mut Findings) {
    let FeeState { policy, limits, quoted } = session.node.fees().state();
    let word = match &quoted {
        Some((by, asked, at_ms)) => format!("{by} asks for {} ({})", rate(*asked), time_ms(*at_ms)),
        None => "no service has said what miners ask for".to_owned(),
    };
    let text = format!(
        "{} in force; {word}; floor {}, cap {}, at most {} for one transaction",
        rate(policy.rate),
        rate(limits.floor),
        rate(limits.cap),
        sat(limits.max)
    );
    match quoted {
        Some((_, asked, _)) if asked > limits.cap => {
            let advice =
                "transactions may not be mined: raise chain.fee_cap_sat_per_kb if you want to pay that";
            findings.add("fees", Grade::Warning, text, Some(advice));
        }
        _ => findings.good("fees", text),
    }
}

fn rate(rate: FeeRate) -> String {
    format!("{} sat/kB", rate.sat_per_kb)
}
