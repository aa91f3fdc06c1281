//! Dials under way, who waits for them, and the nodes that are dialled again for ever.

use std::error::Error;

use libp2p::{
    TransportError, allow_block_list, connection_limits, memory_connection_limits,
    swarm::{ConnectionId, DialError as SwarmDialError},
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{
    DialError, Multiaddr, PeerId, RequestError,
    address::split_peer_id,
    command::{OutboundRequest, answer},
    delivery::{DeliveryError, Open},
    peers::{backoff, jitter},
};

/// Who waits for a connection.
#[derive(Debug)]
pub(super) enum Waiter {
    Dial {
        reply: oneshot::Sender<Result<(), DialError>>,
        #[expect(dead_code, reason = "held until the dial is decided")]
        permit: OwnedSemaphorePermit,
    },
    Request(OutboundRequest),
    Delivery(Open),
}

impl Waiter {
    pub(super) fn fail(self, error: DialError) {
        match self {
            Self::Dial { reply, .. } => answer(reply, Err(error)),
            Self::Request(request) => answer(request.reply, Err(RequestError::Dial(error))),
            Self::Delivery(open) => answer(open.reply, Err(DeliveryError::Dial(error))),
        }
    }
}

/// One dial under way. Attempts are bounded by the permits of their waiters and by the background dials.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) connection: ConnectionId,
    /// The addresses being tried.
    pub(super) tried: Vec<Multiaddr>,
    /// Addresses later waiters brought, for a second try.
    pub(super) next: Vec<Multiaddr>,
    pub(super) waiters: Vec<Waiter>,
}

/// A node to meet first, dialled again for ever.
#[derive(Debug)]
pub(super) struct Bootstrap {
    /// Without `/p2p`.
    pub(super) address: Multiaddr,
    /// Who answers there: given in the address, or learned when it answered.
    pub(super) peer: Option<PeerId>,
    named: bool,
    /// The dial under way, where the peer is not known.
    pub(super) dialing: Option<ConnectionId>,
    failures: u32,
    pub(super) due: Instant,
}

impl Bootstrap {
    pub(super) fn new(address: Multiaddr, now: Instant) -> Self {
        let (address, peer) = split_peer_id(address);
        Self { address, peer, named: peer.is_some(), dialing: None, failures: 0, due: now }
    }

    /// A dial failed, or the connection did not last.
    pub(super) fn failed(&mut self, now: Instant) {
        self.dialing = None;
        self.due = now + backoff(self.failures, jitter());
        self.failures = self.failures.saturating_add(1);
        if !self.named {
            // Another node may answer at this address by now.
            self.peer = None;
        }
    }

    /// A connection ended that had lasted.
    pub(super) fn disconnected(&mut self, now: Instant) {
        self.failures = 0;
        self.due = now + backoff(0, jitter());
        if !self.named {
            self.peer = None;
        }
    }
}

/// Longest text of reasons in an error: a few addresses and what happened there.
const MAX_REASONS: usize = 600;

/// What a failed dial means, in our words.
pub(super) fn explain(local: PeerId, peer: PeerId, error: &SwarmDialError) -> DialError {
    match error {
        SwarmDialError::NoAddresses => DialError::NoAddresses(peer),
        SwarmDialError::LocalPeerId { address } => DialError::WrongPeer {
            expected: peer,
            obtained: local,
            address: split_peer_id(address.clone()).0,
        },
        SwarmDialError::WrongPeerId { obtained, address } => DialError::WrongPeer {
            expected: peer,
            obtained: *obtained,
            address: split_peer_id(address.clone()).0,
        },
        SwarmDialError::Denied { cause } => {
            if cause.downcast_ref::<allow_block_list::Blocked>().is_some() {
                DialError::Banned(peer)
            } else if let Some(limit) = cause.downcast_ref::<connection_limits::Exceeded>() {
                DialError::Limit { peer, reason: limit.to_string() }
            } else if let Some(limit) =
                cause.downcast_ref::<memory_connection_limits::MemoryUsageLimitExceeded>()
            {
                DialError::Limit { peer, reason: limit.to_string() }
            } else {
                DialError::Limit { peer, reason: cause.to_string() }
            }
        }
        SwarmDialError::Transport(failures) => {
            let mut reasons = String::new();
            for (address, error) in failures {
                let reason = match error {
                    TransportError::MultiaddrNotSupported(_) => "no transport for this address".to_owned(),
                    TransportError::Other(error) => causes(error),
                };
                let address = split_peer_id(address.clone()).0;
                let separator = if reasons.is_empty() { "" } else { "; " };
                reasons.push_str(&format!("{separator}{address}: {reason}"));
                if reasons.len() > MAX_REASONS {
                    let cut = reasons.floor_char_boundary(MAX_REASONS);
                    reasons.truncate(cut);
                    reasons.push('…');
                    break;
                }
            }
            DialError::Unreachable { peer, reasons }
        }
        SwarmDialError::Aborted => {
            DialError::Unreachable { peer, reasons: "the dial was given up".to_owned() }
        }
        SwarmDialError::DialPeerConditionFalse(_) => {
            DialError::Unreachable { peer, reasons: "another dial was under way".to_owned() }
        }
    }
}

/// The innermost cause that says something: transports wrap an `io::Error` several times in phrases like "other error".
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    for _ in 0..8 {
        let Some(error) = inner else { break };
        let more = error.to_string();
        if !more.is_empty() && !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        inner = error.source();
    }
    text
}
