//! What is known of the services: how they do, what they contradict each other in, and what each says when asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sensora_chain::header::{HeaderView as _, Tip};
use sensora_chain::sources::service::{FeeQuote, Need, Service, ServiceKind, SourceError};
use sensora_chain::{OutPoint, Txid};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{ServicesSource, lock};
use crate::chain_access::HeaderSnapshot;
use crate::chain_access::error::Asked;

/// Contradictions that are kept; the one that was seen last the longest ago makes room.
const MAX_DISAGREEMENTS: usize = 32;

/// Transactions of which is kept since when they wait, or who refuses them: more than a wallet has under way.
const MAX_TRANSACTIONS: usize = 4096;

/// Two services, or a service and this node's headers, that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// Who says so.
    pub one: Asked,
    /// Who contradicts.
    pub other: Asked,
    /// What `one` says, as the rest of a sentence about it.
    pub what: String,
    /// How often it was seen.
    pub count: u64,
    /// When it was seen last, milliseconds since the Unix epoch.
    pub last_ms: i64,
}

/// How a service does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// What it is called.
    pub name: String,
    /// What it speaks.
    pub kind: ServiceKind,
    /// The end of its chain when last asked, in its word.
    pub tip: Option<Tip>,
    /// Questions that it has answered.
    pub answered: u64,
    /// Questions that it has not answered.
    pub failed: u64,
    /// Answers that did not hold.
    pub lies: u64,
    /// Its last failure, and when that was, in milliseconds since the Unix epoch.
    pub last_failure: Option<(String, i64)>,
    /// How much longer it is left alone.
    pub rests_for: Option<Duration>,
    /// Whether its word counts for nothing now.
    pub is_distrusted: bool,
}

/// A service's tip beside this node's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TipWord {
    /// It is on our best chain, so many blocks below its end.
    Agrees {
        /// Blocks.
        behind: u32,
    },
    /// It is higher than our headers go.
    Ahead {
        /// Blocks.
        by: u32,
    },
    /// We have another block at that height.
    Differs,
}

/// What a service says when it is asked for everything that it can do.
#[derive(Debug, Clone)]
pub struct ServiceCheck {
    /// What it is called.
    pub name: String,
    /// What it speaks.
    pub kind: ServiceKind,
    /// The end of its chain, and the time in its last header in seconds since the Unix epoch; `None` where it is not asked for headers.
    pub tip: Option<Result<(Tip, Option<u32>), SourceError>>,
    /// How that tip stands beside our headers.
    pub stands: Option<TipWord>,
    /// What it says miners ask for; `None` where it is not asked for that.
    pub quote: Option<Result<FeeQuote, SourceError>>,
}

#[derive(Debug, Clone, Default)]
struct Health {
    tip: Option<Tip>,
    answered: u64,
    failed: u64,
    lies: u64,
    last_failure: Option<(String, i64)>,
}

/// Everything that is kept about the services.
#[derive(Debug)]
pub(super) struct Ledger {
    health: Vec<Health>,
    disagreements: Vec<Disagreement>,
    /// The height at which a transaction was first said to wait.
    waiting: HashMap<Txid, u32>,
    /// Which service says that a transaction is refused.
    denied: HashMap<Txid, usize>,
    /// The height at which services that were asked called an output unspent.
    unspent: HashMap<OutPoint, u32>,
}

impl Ledger {
    pub(super) fn new(services: usize) -> Self {
        Self {
            health: vec![Health::default(); services],
            disagreements: Vec::new(),
            waiting: HashMap::new(),
            denied: HashMap::new(),
            unspent: HashMap::new(),
        }
    }

    pub(super) fn succeeded(&mut self, index: usize) {
        if let Some(health) = self.health.get_mut(index) {
            health.answered = health.answered.saturating_add(1);
        }
    }

    pub(super) fn failed(&mut self, index: usize, failure: String, lied: bool, now_ms: i64) {
        let Some(health) = self.health.get_mut(index) else { return };
        health.failed = health.failed.saturating_add(1);
        health.lies = health.lies.saturating_add(u64::from(lied));
        health.last_failure = Some((failure, now_ms));
    }

    pub(super) fn has_tip(&mut self, index: usize, tip: Tip) {
        if let Some(health) = self.health.get_mut(index) {
            health.tip = Some(tip);
        }
    }

    pub(super) fn tips(&self) -> Vec<(usize, Tip)> {
        let tips = self.health.iter().enumerate();
        tips.filter_map(|(index, health)| health.tip.map(|tip| (index, tip))).collect()
    }

    /// Counts a contradiction; whether it is a new one.
    pub(super) fn disagree(&mut self, one: &Asked, other: &Asked, what: &str, now_ms: i64) -> bool {
        let known =
            self.disagreements.iter_mut().find(|d| d.one == *one && d.other == *other && d.what == what);
        if let Some(known) = known {
            known.count = known.count.saturating_add(1);
            known.last_ms = now_ms;
            return false;
        }
        if self.disagreements.len() >= MAX_DISAGREEMENTS {
            let oldest = self.disagreements.iter().enumerate().min_by_key(|(_, d)| d.last_ms);
            if let Some((oldest, _)) = oldest {
                self.disagreements.swap_remove(oldest);
            }
        }
        let (one, other, what) = (one.clone(), other.clone(), what.to_owned());
        self.disagreements.push(Disagreement { one, other, what, count: 1, last_ms: now_ms });
        true
    }

    pub(super) fn waits(&mut self, txid: Txid, height: u32) {
        bound(&mut self.waiting);
        self.waiting.entry(txid).or_insert(height);
    }

    pub(super) fn waits_since(&self, txid: &Txid) -> Option<u32> {
        self.waiting.get(txid).copied()
    }

    pub(super) fn waits_no_more(&mut self, txid: &Txid) {
        self.waiting.remove(txid);
    }

    pub(super) fn deny(&mut self, txid: Txid, index: usize) {
        bound(&mut self.denied);
        self.denied.insert(txid, index);
    }

    pub(super) fn is_unspent(&mut self, outpoint: OutPoint, height: u32) {
        bound(&mut self.unspent);
        self.unspent.insert(outpoint, height);
    }

    pub(super) fn unspent_at(&self, outpoint: &OutPoint) -> Option<u32> {
        self.unspent.get(outpoint).copied()
    }

    pub(super) fn denied_by(&mut self, txid: &Txid) -> Option<usize> {
        self.denied.remove(txid)
    }
}

/// Makes room by forgetting all: what matters is said again.
fn bound<K, T>(map: &mut HashMap<K, T>) {
    if map.len() >= MAX_TRANSACTIONS {
        map.clear();
    }
}

impl ServicesSource {
    /// How the services do, in the order of the configuration.
    pub(in crate::chain_access) fn states(&self) -> Vec<ServiceState> {
        let now = Instant::now();
        let memory = lock(&self.inner.memory);
        let ledger = lock(&self.inner.ledger);
        let state = |(index, (service, health)): (usize, (&Arc<Service>, &Health))| ServiceState {
            name: service.name().to_owned(),
            kind: service.config().kind,
            tip: health.tip,
            answered: health.answered,
            failed: health.failed,
            lies: health.lies,
            last_failure: health.last_failure.clone(),
            rests_for: memory.rest_left(&index, now),
            is_distrusted: memory.is_distrusted(&index, now),
        };
        self.inner.services.iter().zip(&ledger.health).enumerate().map(state).collect()
    }

    /// What was seen of contradictions, the newest last.
    pub(in crate::chain_access) fn disagreements(&self) -> Vec<Disagreement> {
        let mut seen = lock(&self.inner.ledger).disagreements.clone();
        seen.sort_by_key(|disagreement| disagreement.last_ms);
        seen
    }

    /// Asks every service, all at once, for its tip and its fee rate.
    pub(in crate::chain_access) async fn check(&self, headers: HeaderSnapshot) -> Vec<ServiceCheck> {
        let mut asking = JoinSet::new();
        for (index, service) in self.inner.services.iter().cloned().enumerate() {
            asking.spawn(async move { (index, check_one(&service).await) });
        }
        let mut checks = Vec::with_capacity(self.inner.services.len());
        while let Some(done) = asking.join_next().await {
            let Ok((index, mut check)) = done else { continue };
            if let Some(Ok((tip, _))) = &check.tip {
                check.stands = Some(stands(&headers, tip));
            }
            checks.push((index, check));
        }
        checks.sort_by_key(|(index, _)| *index);
        checks.into_iter().map(|(_, check)| check).collect()
    }
}

async fn check_one(service: &Service) -> ServiceCheck {
    let kind = service.config().kind;
    let tip = if kind.can(Need::Headers) {
        Some(match service.tip().await {
            Ok(tip) => {
                let last = service.headers(tip.height, 1).await;
                Ok((tip, last.ok().and_then(|run| run.first().map(|header| header.time()))))
            }
            Err(error) => Err(error),
        })
    } else {
        None
    };
    let quote = if kind.can(Need::Fees) { Some(service.fee_quote().await) } else { None };
    ServiceCheck { name: service.name().to_owned(), kind, tip, stands: None, quote }
}

/// How a tip stands beside our headers.
pub(super) fn stands(headers: &HeaderSnapshot, tip: &Tip) -> TipWord {
    let own = headers.tip();
    if tip.height > own.height {
        return TipWord::Ahead { by: tip.height.saturating_sub(own.height) };
    }
    match headers.header_at(tip.height) {
        Some(header) if header.hash() == tip.hash => {
            TipWord::Agrees { behind: own.height.saturating_sub(tip.height) }
        }
        // Below the first header that is kept nothing can be compared; it is a service that has hardly begun.
        None => TipWord::Agrees { behind: own.height.saturating_sub(tip.height) },
        Some(_) => TipWord::Differs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_counted_and_bounded() {
        let mut ledger = Ledger::new(2);
        let (one, other) = (Asked::Service("a".into()), Asked::Service("b".into()));
        assert!(ledger.disagree(&one, &other, "says so", 1));
        assert!(!ledger.disagree(&one, &other, "says so", 2), "it is the same again");
        assert_eq!((ledger.disagreements[0].count, ledger.disagreements[0].last_ms), (2, 2));
        for n in 0..i64::try_from(MAX_DISAGREEMENTS).unwrap() {
            assert!(ledger.disagree(&one, &other, &format!("says {n}"), 3 + n));
        }
        assert_eq!(ledger.disagreements.len(), MAX_DISAGREEMENTS);
        assert!(ledger.disagreements.iter().all(|d| d.what != "says so"), "the oldest has made room");
    }

    #[test]
    fn transactions_that_wait_are_bounded() {
        let mut ledger = Ledger::new(1);
        for n in 0..u32::try_from(MAX_TRANSACTIONS + 10).unwrap() {
            let mut txid = [0; 32];
            txid[..4].copy_from_slice(&n.to_be_bytes());
            ledger.waits(Txid(txid), n);
            ledger.deny(Txid(txid), 0);
        }
        assert!(ledger.waiting.len() <= MAX_TRANSACTIONS && ledger.denied.len() <= MAX_TRANSACTIONS);
    }
}
