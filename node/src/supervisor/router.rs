//! Brings what peers do to the part that it concerns.

use std::sync::Arc;

use bytes::Bytes;
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::message::{MAX_REQUEST_LEN, Response};
use sensora_protocol::market::refusal::Refusal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::chain_access::{self, ChainService};
use crate::discovery::{Discovery, Heard};
use crate::net::{self, Net, NetEvent, NetEvents, Offence, Protocol, StreamKind, Topic, public_key_of};

/// What a refused peer is told to wait.
const BUSY_RETRY_MS: u64 = 200;
/// What a peer over its quota is told to wait.
const QUOTA_RETRY_MS: u64 = 1000;

pub(super) fn refusal_frame(protocol: Protocol, refusal: net::Refusal) -> Bytes {
    let refused = match (protocol, refusal) {
        (Protocol::Chain, _) => return chain_access::refusal_frame(protocol, refusal),
        (Protocol::Market, net::Refusal::Busy) => Refusal::Busy { retry_ms: BUSY_RETRY_MS },
        (Protocol::Market, net::Refusal::QuotaExceeded) => Refusal::Busy { retry_ms: QUOTA_RETRY_MS },
        (Protocol::Market, net::Refusal::TooLarge) => {
            Refusal::Malformed { reason: format!("a request is at most {MAX_REQUEST_LEN} bytes") }
        }
        (Protocol::Market, net::Refusal::Malformed) => {
            Refusal::Malformed { reason: "it is empty, or did not arrive in time".to_owned() }
        }
    };
    Response::Refused(refused).to_bytes().unwrap_or_default().into()
}

/// Brings what peers do to the part that it concerns, without ever waiting for it.
pub(super) struct Router {
    pub(super) net: Net,
    pub(super) chain: ChainService,
    pub(super) agent: Option<Agent>,
    pub(super) discovery: Discovery,
    /// Ends deliveries, which would go on for ever.
    pub(super) cancel: CancellationToken,
    pub(super) market_slots: Arc<Semaphore>,
    pub(super) ad_slots: Arc<Semaphore>,
}

impl Router {
    pub(super) async fn run(self, mut events: NetEvents, cancel: CancellationToken) {
        let mut working = JoinSet::new();
        loop {
            let event = tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = working.join_next() => continue,
                event = events.recv() => event,
            };
            match event {
                Some(event) => self.route(event, &mut working),
                None => break,
            }
        }
        // Whoever was promised an answer gets it, or the connection ends with the swarm.
        while working.join_next().await.is_some() {}
    }

    fn route(&self, event: NetEvent, working: &mut JoinSet<()>) {
        match event {
            NetEvent::Request { peer, protocol: Protocol::Chain, body, responder } => {
                self.chain.handle(peer, body, responder);
            }
            NetEvent::Request { peer, protocol: Protocol::Market, body, responder } => {
                let Some(agent) = &self.agent else {
                    let refused = Response::Refused(Refusal::NotSelling).to_bytes().unwrap_or_default();
                    return responder.respond(refused);
                };
                let Ok(slot) = Arc::clone(&self.market_slots).try_acquire_owned() else {
                    return responder.respond(refusal_frame(Protocol::Market, net::Refusal::Busy));
                };
                let key = public_key_of(&peer).and_then(|key| PublicKey::from_bytes(&key).ok());
                // The swarm lets only secp256k1 peers identify as ours; another kind of key cannot buy.
                let Some(key) = key else { return };
                let (seller, net) = (agent.seller().clone(), self.net.clone());
                working.spawn(async move {
                    let (answer, is_request) = seller.answer_frame(&key, &body).await;
                    responder.respond(answer);
                    drop(slot);
                    if !is_request {
                        net.report(peer, Offence::Malformed).await;
                    }
                });
            }
            NetEvent::Gossip { peer, topic: Topic::Ads, data, verdict } => {
                let Ok(slot) = Arc::clone(&self.ad_slots).try_acquire_owned() else {
                    return verdict.ignore();
                };
                let discovery = self.discovery.clone();
                working.spawn_blocking(move || {
                    match discovery.heard(peer, &data) {
                        Heard::Forward => verdict.accept(),
                        Heard::Ignore => verdict.ignore(),
                        Heard::Reject => verdict.reject(),
                    }
                    drop(slot);
                });
            }
            NetEvent::Gossip { verdict, .. } => verdict.ignore(),
            NetEvent::Delivery { stream } => {
                let key = public_key_of(&stream.peer()).and_then(|key| PublicKey::from_bytes(&key).ok());
                let (Some(agent), Some(key)) = (&self.agent, key) else { return stream.refuse() };
                let (seller, cancel) = (agent.seller().clone(), self.cancel.clone());
                // Whoever takes no channels has nothing to deliver, and the same with batches: the other side should hear that, and not wait.
                match stream.kind() {
                    StreamKind::Delivery if seller.delivers() => {
                        working.spawn(async move { seller.deliver(key, stream, cancel).await });
                    }
                    StreamKind::Release if seller.releases() => {
                        working.spawn(async move { seller.release(key, stream, cancel).await });
                    }
                    StreamKind::Delivery | StreamKind::Release => stream.refuse(),
                }
            }
            NetEvent::PeerConnected { .. } => {
                if let Some(agent) = &self.agent {
                    agent.advertiser().newcomer();
                }
            }
            _ => {}
        }
    }
}
