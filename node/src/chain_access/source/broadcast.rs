//! Broadcast to several peers: one that accepts is enough, unless another one shows a double spend.

use std::sync::Arc;

use sensora_chain::OutPoint;
use sensora_chain::beef::Beef;
use sensora_protocol::chain_access::message::MAX_OUTPOINTS;
use sensora_protocol::chain_access::{Answer, Refusal, Request};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::swarm::{ASK_DEADLINE, MAX_ASKED, SwarmSource};
use crate::chain_access::error::{BroadcastError, ChainError, Failure, Tried};
use crate::chain_access::headers::Headers;
use crate::chain_access::{ChainPeer, check};
use crate::net::RequestError;

/// Peers that a transaction goes to at once: enough that one liar among them does not decide.
const AT_ONCE: usize = 4;

/// What the peers of one round said.
#[derive(Default)]
struct Round {
    accepted: bool,
    rejected: Vec<(ChainPeer, Refusal)>,
    tried: Vec<Tried>,
}

impl SwarmSource {
    /// Sends the transaction to several peers at once, and to further ones until some have decided.
    pub(super) async fn broadcast(
        &self,
        headers: &Arc<Headers>,
        parsed: Beef,
        bytes: &[u8],
    ) -> Result<(), BroadcastError> {
        let deadline = Instant::now() + ASK_DEADLINE;
        let request = Arc::new(Request::Broadcast { beef: bytes.to_vec() });
        let candidates = self.candidates().await;
        let mut tried: Vec<Tried> = Vec::new();
        for peers in candidates.chunks(AT_ONCE) {
            let round = self.round(headers, &parsed, &request, peers, deadline).await?;
            if round.accepted || !round.rejected.is_empty() {
                return self.decide(headers, &parsed, round).await;
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

    async fn round(
        &self,
        headers: &Arc<Headers>,
        parsed: &Beef,
        request: &Arc<Request>,
        peers: &[ChainPeer],
        deadline: Instant,
    ) -> Result<Round, BroadcastError> {
        let subject = parsed.subject().unwrap_or_default();
        let mut asked = JoinSet::new();
        for peer in peers {
            let (source, headers, peer, request) =
                (self.clone(), headers.clone(), peer.clone(), request.clone());
            let check = move |_: &_, answer: Answer| check::accepted(&subject, &answer);
            asked.spawn(async move {
                let asking = source.ask_and_judge(&headers, &peer, &request, check);
                let outcome = timeout_at(deadline, asking).await.unwrap_or_else(|_| {
                    Err(RequestError::Timeout { peer: peer.peer, after: ASK_DEADLINE }.into())
                });
                source.note(peer.peer, &outcome).await;
                (peer, outcome)
            });
        }
        let mut round = Round::default();
        while let Some(done) = asked.join_next().await {
            let Ok((peer, outcome)) = done else { continue };
            match outcome {
                Ok(()) => round.accepted = true,
                Err(Failure::Refused(refusal @ Refusal::Rejected { .. })) => {
                    round.rejected.push((peer, refusal));
                }
                Err(failure) if failure.is_stopped() => {
                    return Err(BroadcastError::Failed(ChainError::Stopped));
                }
                Err(failure) => round.tried.push(Tried { peer: peer.peer, failure }),
            }
        }
        Ok(round)
    }

    /// Weighs acceptance against rejection. That a transaction is refused is easily said; that it is a double spend can be
    /// shown, and who accepts it then has not seen the other one, or lies to a seller.
    async fn decide(
        &self,
        headers: &Arc<Headers>,
        parsed: &Beef,
        round: Round,
    ) -> Result<(), BroadcastError> {
        let mut verdict = None;
        for (peer, refusal) in round.rejected {
            let Refusal::Rejected { double_spent, code, reason } = refusal else { continue };
            if round.accepted && !(double_spent && self.shows_conflict(headers, parsed, &peer).await) {
                tracing::debug!(peer = %peer.peer, %reason, "a transaction that others accept was refused");
                continue;
            }
            // Of several refusals a double spend says most.
            if verdict.is_none() || double_spent {
                verdict = Some(BroadcastError::Rejected { double_spent, code, reason });
            }
        }
        verdict.map_or(Ok(()), Err)
    }

    async fn shows_conflict(&self, headers: &Arc<Headers>, parsed: &Beef, peer: &ChainPeer) -> bool {
        let Some(subject) = parsed.subject().and_then(|subject| parsed.transaction(&subject)) else {
            return false;
        };
        let spends: Vec<OutPoint> = subject.inputs.iter().map(|input| input.previous).collect();
        for outpoints in spends.chunks(MAX_OUTPOINTS) {
            let outpoints: Arc<[OutPoint]> = outpoints.into();
            let request = Request::Spent { outpoints: outpoints.to_vec() };
            let check = move |chain: &_, answer| check::spent(chain, &outpoints, &answer);
            let outcome = self.ask_and_judge(headers, peer, &request, check).await;
            self.note(peer.peer, &outcome).await;
            if outcome.is_ok_and(|spent| check::is_conflict(parsed, subject, &spent)) {
                return true;
            }
        }
        false
    }
}
