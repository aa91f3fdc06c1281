//! Broadcast to several at once, peers and services alike: one that accepts is enough, unless another one shows a double spend.

use std::sync::Arc;
use std::time::Duration;

use sensora_chain::OutPoint;
use sensora_chain::beef::Beef;
use sensora_protocol::chain_access::message::MAX_OUTPOINTS;
use sensora_protocol::chain_access::{Answer, Refusal, Request};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::services::ServicesSource;
use super::swarm::{ASK_DEADLINE, MAX_ASKED, Part, SwarmSource};
use crate::chain_access::error::{Asked, BroadcastError, ChainError, Failure, Tried};
use crate::chain_access::headers::Headers;
use crate::chain_access::{ChainPeer, check};
use crate::net::RequestError;

/// Peers that a transaction goes to at once: enough that one liar among them does not decide.
pub(super) const AT_ONCE: usize = 4;

/// How long the others have once one has accepted: a double spend that somebody can show is shown by then (ARC is asked to hold its
/// answer back for up to 5 s, until it has seen what the network makes of it), and a service that hangs holds no payment up.
const OTHERS_HAVE: Duration = Duration::from_secs(7);

/// Somebody who takes transactions.
#[derive(Clone)]
pub(super) enum Taker {
    /// A peer.
    Peer(SwarmSource, ChainPeer),
    /// The service with this number.
    Service(ServicesSource, usize),
}

impl Taker {
    pub(super) fn name(&self) -> Asked {
        match self {
            Self::Peer(_, peer) => Asked::Peer(peer.peer),
            Self::Service(services, index) => services.asked(*index),
        }
    }

    /// Sends it, and remembers how that went.
    async fn send(&self, headers: &Arc<Headers>, cargo: &Cargo, deadline: Instant) -> Result<(), Failure> {
        let subject = cargo.beef.subject().unwrap_or_default();
        match self {
            Self::Peer(swarm, peer) => {
                let check = move |_: &_, answer: Answer| check::accepted(&subject, &answer);
                let asking = swarm.ask_and_judge(headers, peer, &cargo.request, check);
                let outcome = timeout_at(deadline, asking).await.unwrap_or_else(|_| {
                    Err(RequestError::Timeout { peer: peer.peer, after: ASK_DEADLINE }.into())
                });
                swarm.note(peer.peer, Part::Answers, &outcome).await;
                outcome
            }
            Self::Service(services, index) => {
                let sending = services.send(headers, *index, &cargo.beef);
                let outcome =
                    timeout_at(deadline, sending).await.unwrap_or_else(|_| Err(services.too_late(*index)));
                services.note(*index, &outcome);
                outcome
            }
        }
    }

    /// What it says spends these outputs, checked.
    async fn shows_conflict(&self, headers: &Arc<Headers>, parsed: &Beef) -> bool {
        let Some(subject) = parsed.subject().and_then(|subject| parsed.transaction(&subject)) else {
            return false;
        };
        let spends: Vec<OutPoint> = subject.inputs.iter().map(|input| input.previous).collect();
        for outpoints in spends.chunks(MAX_OUTPOINTS) {
            let spent = match self {
                Self::Peer(swarm, peer) => {
                    let outpoints: Arc<[OutPoint]> = outpoints.into();
                    let request = Request::Spent { outpoints: outpoints.to_vec() };
                    let check = move |chain: &_, answer| check::spent(chain, &outpoints, &answer);
                    let outcome = swarm.ask_and_judge(headers, peer, &request, check).await;
                    swarm.note(peer.peer, Part::Answers, &outcome).await;
                    outcome.unwrap_or_default()
                }
                Self::Service(services, index) => services.spent_by_word_of(headers, *index, outpoints).await,
            };
            if check::is_conflict(parsed, subject, &spent) {
                return true;
            }
        }
        false
    }
}

/// A transaction on its way.
pub(super) struct Cargo {
    pub(super) beef: Beef,
    request: Request,
}

impl Cargo {
    pub(super) fn new(beef: Beef, bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self { beef, request: Request::Broadcast { beef: bytes.to_vec() } })
    }
}

/// What those of one round said.
#[derive(Default)]
pub(super) struct Round {
    pub(super) accepted: Vec<Asked>,
    pub(super) rejected: Vec<(Taker, Refusal)>,
    pub(super) tried: Vec<Tried>,
}

impl Round {
    /// Whether anybody has an opinion.
    pub(super) fn is_decided(&self) -> bool {
        !self.accepted.is_empty() || !self.rejected.is_empty()
    }

    /// Leaves out what peers accept where a service of our own choice has an opinion: any peer may be the payer's friend, and must not make a
    /// payment of what our services refuse. A double spend that a peer can show still counts against what a service accepts.
    fn heed_services(&mut self) {
        let accepts = self.accepted.iter().any(|asked| matches!(asked, Asked::Service(_)));
        let refuses = self.rejected.iter().any(|(taker, _)| matches!(taker, Taker::Service(..)));
        // Who lacks a parent may lack it because its coin is long spent: that is a doubt, and no silence.
        let doubts = self.tried.iter().any(|tried| {
            matches!((&tried.asked, &tried.failure), (Asked::Service(_), Failure::Orphan | Failure::Pending))
        });
        if accepts || refuses || doubts {
            self.accepted.retain(|asked| matches!(asked, Asked::Service(_)));
        }
        if refuses && !accepts {
            self.rejected.retain(|(taker, _)| matches!(taker, Taker::Service(..)));
        }
    }
}

/// Sends the transaction to all of them at once. Those who are slow are left to it once somebody has accepted: what is under way arrives.
pub(super) async fn round(
    headers: &Arc<Headers>,
    cargo: &Arc<Cargo>,
    takers: &[Taker],
    deadline: Instant,
) -> Result<Round, BroadcastError> {
    let (said, mut hear) = mpsc::channel(takers.len().max(1));
    for taker in takers {
        let (headers, cargo, taker, said) = (headers.clone(), cargo.clone(), taker.clone(), said.clone());
        tokio::spawn(async move {
            let outcome = taker.send(&headers, &cargo, deadline).await;
            // Nobody listens any more where the others have decided.
            let _ = said.send((taker, outcome)).await;
        });
    }
    drop(said);
    let mut round = Round::default();
    let mut until = deadline + OTHERS_HAVE;
    // A peer that is quick to accept must not keep the services from having their say.
    let by_services = takers.iter().any(|taker| matches!(taker, Taker::Service(..)));
    while let Ok(Some((taker, outcome))) = timeout_at(until, hear.recv()).await {
        match outcome {
            Ok(()) => {
                round.accepted.push(taker.name());
                if !by_services || matches!(taker, Taker::Service(..)) {
                    until = until.min(Instant::now() + OTHERS_HAVE);
                }
            }
            Err(Failure::Refused(refusal @ Refusal::Rejected { .. })) => {
                round.rejected.push((taker, refusal));
            }
            Err(failure) if failure.is_stopped() => {
                return Err(BroadcastError::Failed(ChainError::Stopped));
            }
            Err(failure) => round.tried.push(Tried { asked: taker.name(), failure }),
        }
    }
    round.heed_services();
    Ok(round)
}

/// Weighs acceptance against rejection. That a transaction is refused is easily said; that it is a double spend can be
/// shown, and who accepts it then has not seen the other one, or lies to a seller.
pub(super) async fn decide(
    headers: &Arc<Headers>,
    parsed: &Beef,
    round: Round,
) -> Result<(), BroadcastError> {
    let mut verdict = None;
    for (taker, refusal) in round.rejected {
        let Refusal::Rejected { double_spent, code, reason } = refusal else { continue };
        if let Some(accepted_by) = round.accepted.first() {
            let shown = double_spent && taker.shows_conflict(headers, parsed).await;
            if let Taker::Service(services, _) = &taker {
                let txid = parsed.subject().unwrap_or_default();
                let what = if shown {
                    format!("shows that transaction {txid} is a double spend, which {accepted_by} accepts")
                } else {
                    format!("refuses transaction {txid} ({code}), which {accepted_by} accepts")
                };
                services.disagree(&taker.name(), accepted_by, what);
            }
            if !shown {
                tracing::debug!(by = %taker.name(), %reason, "a transaction that others accept was refused");
                continue;
            }
        }
        // Of several refusals a double spend says most.
        if verdict.is_none() || double_spent {
            verdict = Some(BroadcastError::Rejected { double_spent, code, reason });
        }
    }
    verdict.map_or(Ok(()), Err)
}

impl SwarmSource {
    /// The first peers that a transaction would go to; with `chosen` only those that somebody has named.
    pub(super) async fn takers(&self, chosen: bool) -> Vec<Taker> {
        let mut candidates = self.candidates(Part::Answers).await;
        candidates.retain(|peer| !chosen || self.is_configured(&peer.peer));
        candidates.into_iter().map(|peer| Taker::Peer(self.clone(), peer)).collect()
    }

    /// Sends the transaction to several peers at once, and to further ones until some have decided.
    pub(super) async fn broadcast(
        &self,
        headers: &Arc<Headers>,
        parsed: Beef,
        bytes: &[u8],
    ) -> Result<(), BroadcastError> {
        let deadline = Instant::now() + ASK_DEADLINE;
        let cargo = Cargo::new(parsed, bytes);
        let mut tried: Vec<Tried> = Vec::new();
        for takers in self.takers(false).await.chunks(AT_ONCE) {
            let round = round(headers, &cargo, takers, deadline).await?;
            if round.is_decided() {
                return decide(headers, &cargo.beef, round).await;
            }
            tried.extend(round.tried);
            let counted = tried.iter().filter(|tried| !tried.failure.is_no_server()).count();
            if counted >= MAX_ASKED || Instant::now() >= deadline {
                break;
            }
        }
        tried.truncate(MAX_ASKED);
        if tried.is_empty() {
            return Err(BroadcastError::Failed(ChainError::NoSource));
        }
        Err(BroadcastError::Unavailable { tried })
    }
}
