//! Configured services: for each need a list that is asked in its order, failing over; a transaction goes to all of them at once.
//!
//! What services say becomes the same answers that peers give, and passes the same checks. What cannot be proven stays
//! their word; where two of them contradict each other, both are named.

mod ask;
mod blocks;
mod health;
mod items;
mod regtest;
mod send;
mod walk;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sensora_chain::sources::service::{Need, Service, ServiceConfig, ServiceKind, SourceError};
use sensora_chain::{Network, PrivateKey};
use tokio::time::Instant;

use super::swarm::{ASK_DEADLINE, SwarmSource};
use crate::chain_access::ChainPeer;
use crate::chain_access::error::{Asked, ChainError, Failure};
use crate::chain_access::memory::{Grade, Memory};
use crate::clock::Clock;
use crate::net::Net;

use blocks::Matches;
use health::Ledger;
pub use health::{Disagreement, ServiceCheck, ServiceState, TipWord};
pub(super) use items::Item;
use regtest::Miner;

/// Most services in one configuration: more than there are to choose from.
pub const MAX_SERVICES: usize = 16;

/// The services of a node.
#[derive(Debug, Clone, Default)]
pub struct ServicesOptions {
    /// The services, in the order in which they are asked.
    pub services: Vec<ServiceConfig>,
    /// Another order for single needs, by the services' names.
    pub order: BTreeMap<Need, Vec<String>>,
    /// The key of the faucet that a regtest node among the services gives; without it there is none.
    pub faucet_key: Option<PrivateKey>,
}

impl ServicesOptions {
    /// Whether no service is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}

/// Services as a source.
#[derive(Clone)]
pub(in crate::chain_access) struct ServicesSource {
    inner: Arc<Inner>,
    /// Peers, where the services have no answer.
    swarm: Option<SwarmSource>,
}

struct Inner {
    services: Vec<Arc<Service>>,
    names: Vec<Arc<str>>,
    order: BTreeMap<Need, Vec<usize>>,
    /// The first regtest node among the services.
    miner: Option<Miner>,
    memory: Mutex<Memory<usize>>,
    ledger: Mutex<Ledger>,
    matches: Mutex<Matches>,
    clock: Clock,
}

impl ServicesSource {
    /// Clients for these services. Nothing is sent yet.
    pub(in crate::chain_access) fn new(
        options: ServicesOptions,
        swarm: Option<(Net, Vec<ChainPeer>)>,
        clock: Clock,
    ) -> Result<Self, ChainError> {
        let failed = |error| ChainError::Service(Box::new(error));
        let ServicesOptions { services: configs, order: wanted, faucet_key } = options;
        let names: Vec<Arc<str>> = configs.iter().map(|config| config.name.as_str().into()).collect();
        let mut order = BTreeMap::new();
        for need in Need::ALL {
            let able = |index: &usize| configs.get(*index).is_some_and(|config| config.kind.can(need));
            let of_need: Vec<usize> = match wanted.get(&need) {
                None => (0..configs.len()).filter(able).collect(),
                Some(named) => {
                    let find = |name: &String| {
                        let found = names.iter().position(|known| **known == **name);
                        found.ok_or_else(|| ChainError::UnknownService { need, name: name.clone() })
                    };
                    let found: Vec<usize> = named.iter().map(find).collect::<Result<_, _>>()?;
                    found.into_iter().filter(able).collect()
                }
            };
            order.insert(need, of_need);
        }
        let is_regtest_node = |(_, config): &(usize, &ServiceConfig)| {
            config.kind == ServiceKind::NodeRpc && config.network == Network::Regtest
        };
        let node = configs.iter().enumerate().find(is_regtest_node);
        let miner = faucet_key.zip(node).map(|(key, (index, config))| Miner::new(index, config.clone(), key));
        let services: Vec<Arc<Service>> = configs
            .into_iter()
            .map(|config| Service::new(config).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let inner = Inner {
            ledger: Mutex::new(Ledger::new(services.len())),
            services,
            names,
            order,
            miner,
            memory: Mutex::default(),
            matches: Mutex::default(),
            clock,
        };
        let swarm = swarm.map(|(net, peers)| SwarmSource::beside_services(net, peers));
        Ok(Self { inner: Arc::new(inner), swarm })
    }

    /// The same services without the peers: what is asked for a peer must not be asked of peers again.
    pub(in crate::chain_access) fn alone(&self) -> Self {
        Self { inner: self.inner.clone(), swarm: None }
    }

    /// The peers behind the services.
    pub(in crate::chain_access) fn swarm(&self) -> Option<&SwarmSource> {
        self.swarm.as_ref()
    }

    /// Whether every service is a node of one's own, which has no quota to be used up.
    pub(in crate::chain_access) fn are_all_own(&self) -> bool {
        self.inner.services.iter().all(|service| service.config().kind == ServiceKind::NodeRpc)
    }

    /// The clients that are asked for `need`, in their order.
    pub(in crate::chain_access) fn clients(&self, need: Need) -> Vec<Arc<Service>> {
        self.of(need).iter().filter_map(|index| self.inner.services.get(*index)).cloned().collect()
    }

    /// Their names.
    pub(in crate::chain_access) fn names(&self) -> &[Arc<str>] {
        &self.inner.names
    }

    fn of(&self, need: Need) -> &[usize] {
        self.inner.order.get(&need).map_or(&[], Vec::as_slice)
    }

    fn service(&self, index: usize) -> Result<&Arc<Service>, Failure> {
        self.inner.services.get(index).ok_or(Failure::Stopped)
    }

    /// What the service is called.
    pub(super) fn asked(&self, index: usize) -> Asked {
        Asked::Service(self.inner.names.get(index).cloned().unwrap_or_else(|| "".into()))
    }

    /// Whom to ask for `need`: in their order, first those that do not rest; then those that rest after a failure, for somebody
    /// waits for an answer. Who has lied, and who has asked to be left alone, is not asked.
    fn candidates(&self, need: Need) -> Vec<usize> {
        let now = Instant::now();
        let memory = lock(&self.inner.memory);
        let (rested, resting): (Vec<usize>, Vec<usize>) =
            self.of(need).iter().partition(|index| !memory.is_resting(index, now));
        let again = resting.into_iter().filter(|index| memory.may_be_tried(index, now));
        rested.into_iter().chain(again).collect()
    }

    /// As [`ServicesSource::candidates`], without those that rest.
    fn rested(&self, need: Need) -> Vec<usize> {
        let now = Instant::now();
        let memory = lock(&self.inner.memory);
        self.of(need).iter().copied().filter(|index| !memory.is_resting(index, now)).collect()
    }

    /// Remembers how it went.
    pub(super) fn note<T>(&self, index: usize, outcome: &Result<T, Failure>) {
        let (now, now_ms) = (Instant::now(), self.inner.clock.now_ms());
        let failure = match outcome {
            Ok(_) => {
                lock(&self.inner.memory).succeeded(&index, now);
                lock(&self.inner.ledger).succeeded(index);
                return;
            }
            Err(failure) => failure,
        };
        let service = self.asked(index);
        let Some(grade) = failure.grade() else {
            // It did its part: a refusal is an answer.
            lock(&self.inner.ledger).succeeded(index);
            tracing::debug!(%service, %failure, "a chain service refuses");
            return;
        };
        let lied = grade == Grade::False;
        lock(&self.inner.memory).failed(index, grade, now);
        lock(&self.inner.ledger).failed(index, failure.to_string(), lied, now_ms);
        if lied {
            tracing::warn!(%service, %failure, "what a chain service says does not hold; it is not asked for a while");
        } else {
            tracing::debug!(%service, %failure, "a chain service has no answer");
        }
    }

    /// Reports by name that two contradict each other.
    pub(super) fn disagree(&self, one: &Asked, other: &Asked, what: String) {
        let is_new = lock(&self.inner.ledger).disagree(one, other, &what, self.inner.clock.now_ms());
        if is_new {
            tracing::warn!(%one, %other, "chain services disagree: {one} {what}");
        } else {
            tracing::debug!(%one, %other, %what, "chain services still disagree");
        }
    }

    /// It has not answered before the question's time was over.
    pub(super) fn too_late(&self, index: usize) -> Failure {
        let service = self.asked(index).to_string();
        SourceError::Timeout { service, after: ASK_DEADLINE }.into()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
