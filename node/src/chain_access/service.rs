//! Answers peers who ask about the chain, out of what this node has itself. What other peers say is not passed on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sensora_chain::sources::dev::DevChain;
use sensora_protocol::chain_access::message::MAX_REQUEST_LEN;
use sensora_protocol::chain_access::{Refusal, Request, Response};

use super::dev::{self, NoAnswer};
use super::quota::FaucetQuota;
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

/// The serving side of `/sensora/chain/1`. A cheap clone.
#[derive(Clone)]
pub struct ChainService {
    inner: Arc<Inner>,
}

struct Inner {
    chain: Option<DevChain>,
    clock: Clock,
    quota: Mutex<FaucetQuota>,
    jobs: Mutex<HashMap<PeerId, usize>>,
}

impl ChainService {
    /// Serves `chain`; without one every request is answered with [`Refusal::NotServed`].
    #[must_use]
    pub fn new(chain: Option<DevChain>, clock: Clock) -> Self {
        Self { inner: Arc::new(Inner { chain, clock, quota: Mutex::default(), jobs: Mutex::default() }) }
    }

    /// Answers a request of the swarm, on a thread that may block. Returns at once; when there is too much to do, the
    /// answer is [`Refusal::Busy`].
    pub fn handle(&self, peer: PeerId, body: Bytes, responder: Responder) {
        if self.inner.chain.is_none() {
            responder.respond(encode(Response::Refused(Refusal::NotServed)));
            return;
        }
        let Some(job) = Job::begin(&self.inner, peer) else {
            responder.respond(encode(Response::Refused(Refusal::Busy { retry_ms: BUSY_RETRY_MS })));
            return;
        };
        let service = self.clone();
        tokio::task::spawn_blocking(move || {
            // Who has left in the meantime needs no answer.
            if responder.is_open() {
                responder.respond(service.answer(peer, &body));
            }
            drop(job);
        });
    }

    /// The answer to one frame, as a frame. Blocks on the database.
    #[must_use]
    pub fn answer(&self, peer: PeerId, body: &[u8]) -> Bytes {
        let Some(chain) = &self.inner.chain else { return encode(Response::Refused(Refusal::NotServed)) };
        let request = match Request::from_bytes(body) {
            Ok(request) => request,
            Err(error) => {
                let refusal = Refusal::Malformed { reason: error.to_string() }.tamed();
                return encode(Response::Refused(refusal));
            }
        };
        let name = request.name();
        let response = match self.respond(chain, peer, &request) {
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

    fn respond(
        &self,
        chain: &DevChain,
        peer: PeerId,
        request: &Request,
    ) -> Result<sensora_protocol::chain_access::Answer, NoAnswer> {
        let Request::Faucet { sat, .. } = request else { return dev::answer(chain, request) };
        request.check()?;
        lock(&self.inner.quota).take(peer, *sat, self.inner.clock.now_ms())?;
        let paid = dev::answer(chain, request);
        if paid.is_err() {
            lock(&self.inner.quota).give_back(peer, *sat);
        }
        paid
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
