//! Peers that serve their chain: asked in turn, believed in nothing, remembered for their failures.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sensora_chain::Network;
use sensora_protocol::chain_access::{Answer, Request, Response};
use tokio::time::{Instant, timeout_at};

use super::{Check, judge, may_be_newer};
use crate::chain_access::error::{Asked, ChainError, Failure, Tried};
use crate::chain_access::headers::Headers;
use crate::chain_access::memory::{Grade, Memory};
use crate::chain_access::{ChainPeer, sync};
use crate::net::{Net, PeerId, Protocol, RequestError};

/// How long one peer may take for one answer, connecting included. A page of proofs of a megabyte at 1 Mbit/s takes 8 s.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// How long a question may take, with all peers that are asked one after the other.
pub const ASK_DEADLINE: Duration = Duration::from_secs(30);

/// Peers that may fail before a question is given up. Those that serve no chain do not count; they are left out the
/// next time.
pub const MAX_ASKED: usize = 8;

/// Longest list of peers to ask that is made: who is not among the first is not reached in time anyway.
const MAX_CANDIDATES: usize = 256;

/// Longest text about a peer's bytes that is kept, in characters.
const MAX_REASON: usize = 256;

/// What a peer is asked for. Every node that follows the chain has headers, few have more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::chain_access) enum Part {
    /// The tip and runs of headers.
    Headers,
    /// All else.
    Answers,
}

/// Peers as a source.
#[derive(Clone)]
pub(in crate::chain_access) struct SwarmSource {
    net: Net,
    configured: Arc<[ChainPeer]>,
    /// On regtest work costs nothing, so that anybody can show the longest chain, and two development chains that meet on one local
    /// network would overwrite each other. There, whoever names peers means their chain and no other.
    only_configured: bool,
    memory: Arc<Mutex<Memory<(PeerId, Part)>>>,
}

impl SwarmSource {
    pub(in crate::chain_access) fn new(net: Net, peers: Vec<ChainPeer>) -> Self {
        let only_configured = net.network() == Network::Regtest.name() && !peers.is_empty();
        Self { net, configured: peers.into(), only_configured, memory: Arc::default() }
    }

    /// Peers beside services: on regtest only those that are named, even if none is.
    pub(super) fn beside_services(net: Net, peers: Vec<ChainPeer>) -> Self {
        let only_configured = net.network() == Network::Regtest.name();
        Self { only_configured, ..Self::new(net, peers) }
    }

    /// Whether somebody has named this peer.
    pub(super) fn is_configured(&self, peer: &PeerId) -> bool {
        self.configured.iter().any(|known| known.peer == *peer)
    }

    fn with_memory<T>(&self, work: impl FnOnce(&mut Memory<(PeerId, Part)>, Instant) -> T) -> T {
        work(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }

    /// Whom to ask, best first: the configured peers in their order, then connected ones, those with the fewest failures
    /// first. Who rests after a failure is left out.
    pub(in crate::chain_access) async fn rested(&self, part: Part) -> Vec<ChainPeer> {
        let connected = self.net.connected_peers().await;
        self.with_memory(|memory, now| {
            let mut others: Vec<PeerId> = connected
                .into_iter()
                .filter(|_| !self.only_configured)
                .filter(|peer| self.configured.iter().all(|known| known.peer != *peer))
                .filter(|peer| !memory.is_resting(&(*peer, part), now))
                .collect();
            others.sort_by_key(|peer| memory.failures(&(*peer, part)));
            let is_rested = |known: &&ChainPeer| !memory.is_resting(&(known.peer, part), now);
            let configured = self.configured.iter().filter(is_rested).cloned();
            let others = others.into_iter().map(|peer| ChainPeer { peer, addresses: Vec::new() });
            configured.chain(others).take(MAX_CANDIDATES).collect()
        })
    }

    /// As [`SwarmSource::rested`], and at the end the configured peers that rest without having lied: somebody waits for an
    /// answer, so they are tried when nobody else has one.
    pub(super) async fn candidates(&self, part: Part) -> Vec<ChainPeer> {
        let mut candidates = self.rested(part).await;
        self.with_memory(|memory, now| {
            for known in
                self.configured.iter().filter(|known| !memory.is_distrusted(&(known.peer, part), now))
            {
                if candidates.iter().all(|candidate| candidate.peer != known.peer) {
                    candidates.push(known.clone());
                }
            }
        });
        candidates
    }

    /// One request to one peer. The answer is of the protocol; nothing else is known of it.
    pub(super) async fn ask_peer(&self, peer: &ChainPeer, request: &Request) -> Result<Answer, Failure> {
        let body = request.to_bytes().map_err(|error| Failure::Malformed(error.to_string()))?;
        let ChainPeer { peer, addresses } = peer;
        let bytes = self
            .net
            .request(*peer, addresses.clone(), Protocol::Chain, body.into(), REQUEST_DEADLINE)
            .await?;
        match Response::from_bytes(&bytes) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Refused(refusal)) => Err(Failure::Refused(refusal.tamed())),
            // The error may quote the peer's bytes.
            Err(error) => Err(Failure::Malformed(error.to_string().chars().take(MAX_REASON).collect())),
        }
    }

    /// Asks one peer and checks the answer, if need be against newer headers of that same peer.
    pub(super) async fn ask_and_judge<T: Send + 'static>(
        &self,
        headers: &Arc<Headers>,
        peer: &ChainPeer,
        request: &Request,
        check: impl Check<T>,
    ) -> Result<T, Failure> {
        let answer = self.ask_peer(peer, request).await?;
        match judge(headers, answer.clone(), check.clone()).await {
            Err(failure) if may_be_newer(&failure) => match self.walk(headers, peer).await {
                Ok(()) => judge(headers, answer, check).await,
                // Its headers may be a lie, too; that they did not come is no excuse for the first.
                Err(second) => Err(if second.offence().is_some() { second } else { failure }),
            },
            judged => judged,
        }
    }

    async fn walk(&self, headers: &Arc<Headers>, peer: &ChainPeer) -> Result<(), Failure> {
        sync::follow(headers, async |request| self.ask_peer(peer, &request).await).await
    }

    /// Remembers how it went, and charges the peer where it is to blame.
    pub(super) async fn note<T>(&self, peer: PeerId, part: Part, outcome: &Result<T, Failure>) {
        let Err(failure) = outcome else {
            self.with_memory(|memory, now| memory.succeeded(&(peer, part), now));
            return;
        };
        match failure.grade() {
            // Who lies in one thing is believed in nothing.
            Some(Grade::False) => self.with_memory(|memory, now| {
                memory.failed((peer, Part::Headers), Grade::False, now);
                memory.failed((peer, Part::Answers), Grade::False, now);
            }),
            Some(grade) => self.with_memory(|memory, now| memory.failed((peer, part), grade, now)),
            None => {}
        }
        match failure.offence() {
            Some(offence) => {
                tracing::warn!(%peer, %failure, "a peer's answer about the chain does not hold");
                self.net.report(peer, offence).await;
            }
            None => tracing::debug!(%peer, %failure, "a peer has no answer about the chain"),
        }
    }

    /// Asks one peer after the other until an answer passes `check`.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        headers: &Arc<Headers>,
        request: &Request,
        check: impl Check<T>,
    ) -> Result<T, ChainError> {
        let deadline = Instant::now() + ASK_DEADLINE;
        let mut tried: Vec<Tried> = Vec::new();
        let mut counted = 0usize;
        for candidate in self.candidates(Part::Answers).await {
            let asking = self.ask_and_judge(headers, &candidate, request, check.clone());
            let outcome = timeout_at(deadline, asking).await.unwrap_or_else(|_| {
                Err(RequestError::Timeout { peer: candidate.peer, after: ASK_DEADLINE }.into())
            });
            self.note(candidate.peer, Part::Answers, &outcome).await;
            match outcome {
                Ok(believed) => return Ok(believed),
                Err(failure) if failure.is_stopped() => return Err(ChainError::Stopped),
                Err(failure) => {
                    counted = counted.saturating_add(usize::from(!failure.is_no_server()));
                    if tried.len() < MAX_ASKED {
                        tried.push(Tried { asked: Asked::Peer(candidate.peer), failure });
                    }
                }
            }
            if counted >= MAX_ASKED || Instant::now() >= deadline {
                break;
            }
        }
        if tried.is_empty() { Err(ChainError::NoSource) } else { Err(ChainError::Unavailable { tried }) }
    }

    /// Follows the headers of one peer.
    pub(in crate::chain_access) async fn follow(&self, headers: &Arc<Headers>, peer: &ChainPeer) {
        let outcome = self.walk(headers, peer).await;
        self.note(peer.peer, Part::Headers, &outcome).await;
    }

    /// Follows the headers of the first peer that has some.
    pub(super) async fn refresh(&self, headers: &Arc<Headers>) -> Result<(), ChainError> {
        let mut tried: Vec<Tried> = Vec::new();
        for candidate in self.candidates(Part::Headers).await {
            let outcome = self.walk(headers, &candidate).await;
            self.note(candidate.peer, Part::Headers, &outcome).await;
            match outcome {
                Ok(()) => return Ok(()),
                Err(failure) => tried.push(Tried { asked: Asked::Peer(candidate.peer), failure }),
            }
            if tried.len() >= MAX_ASKED {
                break;
            }
        }
        if tried.is_empty() { Err(ChainError::NoSource) } else { Err(ChainError::Unavailable { tried }) }
    }
}
