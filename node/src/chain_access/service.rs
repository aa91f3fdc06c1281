//! Answers peers who ask about the chain: from the development chain of this node, from its own headers, and, where its owner lets
//! it, from its services.
//!
//! Headers prove themselves, so every node that follows a chain gives them on. Anything else is answered only from what this node
//! has itself or what its own services say, checked first like an answer for ourselves; what other peers say is not passed on.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use sensora_chain::Network;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::header::HeaderView as _;
use sensora_chain::sources::dev::DevChain;
use sensora_chain::spv::{self, SpvError};
use sensora_protocol::chain_access::message::{
    MAX_HEADERS, MAX_REQUEST_LEN, ScanPage, ScannedOutput, Spending, Standing, Tip,
};
use sensora_protocol::chain_access::{Answer, Refusal, Request, Response};

use super::dev::{self, NoAnswer};
use super::quota::FaucetQuota;
use super::{BroadcastError, ChainAccess, ChainError, SpentBy, TxStanding};
use crate::clock::Clock;
use crate::net::{self, PeerId, Protocol, Responder};

/// Requests that are answered at the same time, for all peers together. Each holds up to a megabyte for its answer.
pub const MAX_JOBS: usize = 32;

/// Requests of one peer that are answered at the same time, so that one peer's scans do not hold up the others.
pub const MAX_JOBS_PER_PEER: usize = 8;

/// When to try again after a refusal for lack of room: most answers take a few milliseconds.
const BUSY_RETRY_MS: u64 = 500;

/// When to try again after more requests than the quota allows: by then some of it is there again.
const QUOTA_RETRY_MS: u64 = 2_000;

/// What one peer's questions may cost in requests to services: a burst, which is a page of 64 outputs, and so many for each minute after that. Public services allow us three a second in all.
const PEER_COST: (u32, u32) = (320, 20);

/// What the questions of all peers together may cost: two peers' bursts, and a request for each second.
const ALL_COST: (u32, u32) = (640, 60);

/// Requests that where one transaction stands takes at most: its status, its proof, its block.
const PROOF_COST: usize = 3;

/// Requests that what spends one output takes at most: the spender's id, its bytes, and what [`PROOF_COST`] counts.
const SPENT_COST: usize = 5;

/// Peers whose cost is counted apart; beyond them the common quota alone holds them back.
const MAX_COST_PEERS: usize = 4096;

/// ARC's status code of Merkle roots that do not hold.
const UNPROVEN: u16 = 469;

/// The serving side of `/sensora/chain/1`. A cheap clone.
#[derive(Clone)]
pub struct ChainService {
    inner: Arc<Inner>,
}

struct Inner {
    chain: Option<DevChain>,
    /// Whose headers are served.
    followed: Option<ChainAccess>,
    /// What answers all else, if it is not the development chain.
    services: Option<ChainAccess>,
    clock: Clock,
    quota: Mutex<FaucetQuota>,
    cost: Option<Cost>,
    jobs: Mutex<HashMap<PeerId, usize>>,
}

/// What peers' questions have cost in requests to services.
struct Cost {
    peers: DefaultKeyedRateLimiter<PeerId>,
    all: DefaultDirectRateLimiter,
}

impl Cost {
    fn new() -> Self {
        let quota = |(burst, per_minute)| {
            let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
            Quota::per_minute(at_least_one(per_minute)).allow_burst(at_least_one(burst))
        };
        Self { peers: RateLimiter::keyed(quota(PEER_COST)), all: RateLimiter::direct(quota(ALL_COST)) }
    }

    /// Takes the cost of a request, all of it or nothing.
    fn take(&self, peer: &PeerId, requests: usize) -> Result<(), Refusal> {
        let requests = u32::try_from(requests).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        if self.peers.len() > MAX_COST_PEERS {
            self.peers.retain_recent();
        }
        let is_known_crowd = self.peers.len() > MAX_COST_PEERS;
        let of_peer = is_known_crowd || matches!(self.peers.check_key_n(peer, requests), Ok(Ok(())));
        if of_peer && matches!(self.all.check_n(requests), Ok(Ok(()))) {
            return Ok(());
        }
        Err(Refusal::Busy { retry_ms: QUOTA_RETRY_MS })
    }
}

impl ChainService {
    /// Serves `chain`; without one every request is answered with [`Refusal::NotServed`].
    #[must_use]
    pub fn new(chain: Option<DevChain>, clock: Clock) -> Self {
        Self::of(chain, None, None, clock)
    }

    /// Serves what this node has: its development chain if it has one; or else its headers, and with `with_services` what its
    /// services say.
    #[must_use]
    pub fn for_node(
        chain: Option<DevChain>,
        access: &ChainAccess,
        with_services: bool,
        clock: Clock,
    ) -> Self {
        let services = if with_services { access.for_peers() } else { None };
        Self::of(chain, Some(access.clone()), services, clock)
    }

    fn of(
        chain: Option<DevChain>,
        followed: Option<ChainAccess>,
        services: Option<ChainAccess>,
        clock: Clock,
    ) -> Self {
        // A node of one's own has no quota that a peer could use up, but what spends an output may cost it many blocks: on regtest they are small.
        let costs = services.as_ref().is_some_and(|services| {
            !services.has_only_own_services() || services.headers().chain().network() != Network::Regtest
        });
        let inner = Inner {
            chain,
            followed,
            services,
            clock,
            quota: Mutex::default(),
            cost: costs.then(Cost::new),
            jobs: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Answers a request of the swarm, beside the runtime's own threads. Returns at once; when there is too much to do, the
    /// answer is [`Refusal::Busy`].
    pub fn handle(&self, peer: PeerId, body: Bytes, responder: Responder) {
        if self.inner.chain.is_none() && self.inner.followed.is_none() {
            responder.respond(encode(Response::Refused(Refusal::NotServed)));
            return;
        }
        let Some(job) = Job::begin(&self.inner, peer) else {
            responder.respond(encode(Response::Refused(Refusal::Busy { retry_ms: BUSY_RETRY_MS })));
            return;
        };
        let service = self.clone();
        if self.inner.chain.is_none() && self.inner.services.is_some() {
            tokio::spawn(async move {
                if responder.is_open() {
                    responder.respond(service.answer_from_services(peer, &body).await);
                }
                drop(job);
            });
            return;
        }
        tokio::task::spawn_blocking(move || {
            // Who has left in the meantime needs no answer.
            if responder.is_open() {
                responder.respond(service.answer(peer, &body));
            }
            drop(job);
        });
    }

    /// The answer to one frame, as a frame, from the development chain or our own headers. Blocks on the database.
    #[must_use]
    pub fn answer(&self, peer: PeerId, body: &[u8]) -> Bytes {
        let request = match read(body) {
            Ok(request) => request,
            Err(refusal) => return encode(Response::Refused(refusal)),
        };
        let name = request.name();
        let answered = match &self.inner.chain {
            Some(chain) => self.respond(chain, peer, &request),
            None => self.headers(&request).map_err(NoAnswer::Refused),
        };
        let response = match answered {
            Ok(answer) => Response::Ok(answer),
            Err(NoAnswer::Refused(refusal)) => Response::Refused(refusal),
            Err(NoAnswer::Failed(error)) => {
                tracing::error!(%error, request = name, "the development chain failed");
                Response::Refused(Refusal::Unavailable)
            }
        };
        tracing::trace!(%peer, request = name, response = response.name(), "answered about the chain");
        encode(response)
    }

    /// The answer to one frame, as a frame, from our own headers and our services.
    pub async fn answer_from_services(&self, peer: PeerId, body: &[u8]) -> Bytes {
        let request = match read(body) {
            Ok(request) => request,
            Err(refusal) => return encode(Response::Refused(refusal)),
        };
        let name = request.name();
        let response = match self.respond_from_services(peer, request).await {
            Ok(answer) => Response::Ok(answer),
            Err(refusal) => Response::Refused(refusal.tamed()),
        };
        tracing::trace!(%peer, request = name, response = response.name(), "answered about the chain");
        encode(response)
    }

    fn respond(&self, chain: &DevChain, peer: PeerId, request: &Request) -> Result<Answer, NoAnswer> {
        let Request::Faucet { sat, .. } = request else { return dev::answer(chain, request) };
        request.check()?;
        lock(&self.inner.quota).take(peer, *sat, self.inner.clock.now_ms())?;
        let paid = dev::answer(chain, request);
        if paid.is_err() {
            lock(&self.inner.quota).give_back(peer, *sat);
        }
        paid
    }

    /// Tip and headers out of our own header chain.
    fn headers(&self, request: &Request) -> Result<Answer, Refusal> {
        request.check()?;
        let followed = self.inner.followed.as_ref().ok_or(Refusal::NotServed)?;
        let own = followed.headers();
        let tip = own.tip();
        // Who has not followed anybody since its start has nothing to tell: what ended there days ago would be taken for news of where the chain ends.
        if !followed.is_followed() {
            return Err(Refusal::Unavailable);
        }
        match request {
            Request::Tip => Ok(Answer::Tip(Tip { height: tip.height, hash: tip.hash })),
            Request::Headers { locator, count } => {
                let shared =
                    locator.iter().find_map(|hash| own.height_of(hash)).ok_or(Refusal::NoCommonBlock)?;
                let count = usize::try_from(*count).unwrap_or(MAX_HEADERS).min(MAX_HEADERS);
                let heights = (shared..=own.tip_height()).skip(1).take(count);
                let found = heights.map_while(|height| own.header_at(height));
                Ok(Answer::Headers { headers: found.flat_map(|header| header.0).collect() })
            }
            _ => Err(Refusal::NotServed),
        }
    }

    async fn respond_from_services(&self, peer: PeerId, request: Request) -> Result<Answer, Refusal> {
        request.check()?;
        if matches!(request, Request::Tip | Request::Headers { .. }) {
            let service = self.clone();
            let answered = tokio::task::spawn_blocking(move || service.headers(&request)).await;
            return answered.unwrap_or(Err(Refusal::Unavailable));
        }
        let services = self.inner.services.as_ref().ok_or(Refusal::NotServed)?;
        if let Some(cost) = &self.inner.cost {
            cost.take(&peer, requests_for(&request))?;
        }
        match request {
            Request::Proof { txids } => {
                let lines = services.proofs(&txids).await.map_err(refusal)?;
                let standing = |(_, standing)| match standing {
                    TxStanding::Unknown => Standing::Unknown,
                    TxStanding::Mempool => Standing::Mempool,
                    TxStanding::Mined(path) => Standing::Mined { path: path.to_bytes() },
                };
                Ok(Answer::Proof { standings: lines.into_iter().map(standing).collect() })
            }
            Request::Spent { outpoints } => {
                let lines = services.spent(&outpoints).await.map_err(refusal)?;
                let spending = |(_, spent)| match spent {
                    SpentBy::Unknown => Spending::Unknown,
                    SpentBy::Nothing => Spending::Unspent,
                    SpentBy::Transaction { tx, mined } => Spending::Spent {
                        transaction: tx.to_bytes(),
                        path: mined.map(|path| path.to_bytes()),
                    },
                };
                Ok(Answer::Spent { spendings: lines.into_iter().map(spending).collect() })
            }
            Request::Scan { prefix, from, limit } => {
                let max = usize::try_from(limit).unwrap_or(usize::MAX);
                let (found, next) = services.scan_page(&prefix, from, max).await.map_err(refusal)?;
                let outputs =
                    found.into_iter().map(|found| ScannedOutput { at: found.at, beef: found.beef }).collect();
                Ok(Answer::Scan(ScanPage { outputs, next }))
            }
            Request::Broadcast { beef } if self.inner.cost.is_some() && !holds(services, &beef).await => {
                let reason = "what it rests on is not proven".to_owned();
                Err(Refusal::Rejected { double_spent: false, code: UNPROVEN, reason })
            }
            Request::Broadcast { beef } => match services.broadcast(&beef).await {
                Ok(()) => {
                    let limits = sensora_chain::beef::BeefLimits::DEFAULT;
                    let parsed = sensora_chain::beef::Beef::parse(&beef, &limits);
                    let txid = parsed.ok().and_then(|beef| beef.subject()).ok_or(Refusal::Unavailable)?;
                    Ok(Answer::Accepted { txid })
                }
                Err(BroadcastError::Rejected { double_spent, code, reason }) => {
                    Err(Refusal::Rejected { double_spent, code, reason })
                }
                Err(BroadcastError::Failed(error)) => Err(refusal(error)),
                Err(BroadcastError::Unavailable { .. }) => Err(Refusal::Unavailable),
            },
            Request::Faucet { locking, sat } => {
                lock(&self.inner.quota).take(peer, sat, self.inner.clock.now_ms())?;
                match services.faucet(&locking, sat).await {
                    Ok(beef) => Ok(Answer::Funded { beef }),
                    Err(error) => {
                        lock(&self.inner.quota).give_back(peer, sat);
                        Err(refusal(error))
                    }
                }
            }
            Request::Tip | Request::Headers { .. } => Err(Refusal::NotServed),
        }
    }
}

/// Whether a transaction that a peer wants sent can be one at all: what cannot is not worth a request to a service.
async fn holds(services: &ChainAccess, bytes: &[u8]) -> bool {
    let verified = async || {
        let (headers, bytes) = (services.headers(), bytes.to_vec());
        let verify = move || {
            let beef = Beef::parse(&bytes, &BeefLimits::DEFAULT).ok()?;
            Some(spv::verify(&beef, &beef.subject()?, &headers).map(|_| ()))
        };
        super::blocking(verify).await.flatten()
    };
    match verified().await {
        // It rests on a block that we may not have heard of yet.
        Some(Err(SpvError::NoHeader { .. } | SpvError::WrongRoot { .. })) => {
            services.refresh().await.is_ok() && matches!(verified().await, Some(Ok(())))
        }
        verified => matches!(verified, Some(Ok(()))),
    }
}

fn read(body: &[u8]) -> Result<Request, Refusal> {
    Request::from_bytes(body).map_err(|error| Refusal::Malformed { reason: error.to_string() }.tamed())
}

/// Requests to services that a question costs at least.
fn requests_for(request: &Request) -> usize {
    match request {
        Request::Proof { txids } => txids.len().saturating_mul(PROOF_COST),
        Request::Spent { outpoints } => outpoints.len().saturating_mul(SPENT_COST),
        // Each unproven transaction is sent, to two broadcasters for example.
        Request::Broadcast { beef } => {
            Beef::parse(beef, &BeefLimits::DEFAULT).map_or(1, |beef| beef.txs().len().saturating_mul(2))
        }
        _ => 1,
    }
}

/// What a peer is told where we have no answer: nothing of who our services are.
fn refusal(error: ChainError) -> Refusal {
    match error {
        ChainError::Invalid(refusal) => refusal,
        ChainError::NoService { .. } | ChainError::NotDev | ChainError::NoSource => Refusal::NotServed,
        error => error.refusal().cloned().unwrap_or(Refusal::Unavailable),
    }
}

/// A place among the requests that are being answered.
struct Job {
    inner: Arc<Inner>,
    peer: PeerId,
}

impl Job {
    fn begin(inner: &Arc<Inner>, peer: PeerId) -> Option<Self> {
        let mut jobs = lock(&inner.jobs);
        let all: usize = jobs.values().sum();
        let of_peer = jobs.get(&peer).copied().unwrap_or(0);
        if all >= MAX_JOBS || of_peer >= MAX_JOBS_PER_PEER {
            return None;
        }
        jobs.insert(peer, of_peer.saturating_add(1));
        Some(Self { inner: inner.clone(), peer })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut jobs = lock(&self.inner.jobs);
        let left = jobs.get(&self.peer).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            jobs.remove(&self.peer);
        } else {
            jobs.insert(self.peer, left);
        }
    }
}

/// The frame with which the swarm itself refuses a request of this protocol; for
/// [`NetConfig::refusal_frame`](crate::net::NetConfig::refusal_frame). Empty for other protocols.
#[must_use]
pub fn refusal_frame(protocol: Protocol, refusal: net::Refusal) -> Bytes {
    if protocol != Protocol::Chain {
        return Bytes::new();
    }
    let max = u64::try_from(MAX_REQUEST_LEN).unwrap_or(u64::MAX);
    encode(Response::Refused(match refusal {
        net::Refusal::Busy => Refusal::Busy { retry_ms: BUSY_RETRY_MS },
        net::Refusal::QuotaExceeded => Refusal::Busy { retry_ms: QUOTA_RETRY_MS },
        net::Refusal::TooLarge => {
            Refusal::TooMany { what: "bytes of a request".to_owned(), asked: max.saturating_add(1), max }
        }
        net::Refusal::Malformed => {
            Refusal::Malformed { reason: "it is empty, or did not arrive in time".to_owned() }
        }
    }))
}

fn encode(response: Response) -> Bytes {
    let bytes = response.to_bytes().or_else(|_| Response::Refused(Refusal::AnswerTooLarge).to_bytes());
    bytes.unwrap_or_default().into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_use_up_what_services_allow_us() {
        let (cost, greedy, modest) = (Cost::new(), PeerId::random(), PeerId::random());
        cost.take(&greedy, 300).unwrap();
        assert!(matches!(cost.take(&greedy, 300), Err(Refusal::Busy { .. })));
        assert!(
            matches!(cost.take(&greedy, 1_000_000), Err(Refusal::Busy { .. })),
            "more than there ever is"
        );
        cost.take(&modest, 300).unwrap();
        let crowd = (0..50).filter(|_| cost.take(&PeerId::random(), 30).is_ok()).count();
        assert!(crowd <= 2, "a crowd of throw-away keys has no more than all together may: {crowd}");
    }
}
