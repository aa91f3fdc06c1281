//! What peers do that the application must know: the receiving side of the swarm.

use std::fmt;

use bytes::Bytes;
use libp2p::{
    gossipsub::{MessageAcceptance, MessageId},
    request_response::{InboundRequestId, ResponseChannel},
};
use tokio::sync::mpsc;

use super::{DeliveryStream, PeerId, Protocol, Topic, limits::MAX_RESPONSE};

/// Something a peer did.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetEvent {
    /// A peer of our network is connected and has identified itself. The application may miss this when it is
    /// behind; [`Net::connected_peers`](super::Net::connected_peers) is the truth.
    PeerConnected {
        /// The peer.
        peer: PeerId,
    },
    /// The last connection to such a peer ended. May be missed like [`NetEvent::PeerConnected`].
    PeerDisconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer asks something. It may do so before it is reported as connected.
    Request {
        /// Who asks. Proven by the connection.
        peer: PeerId,
        /// In which protocol.
        protocol: Protocol,
        /// The frame, 1 to [`MAX_REQUEST`](super::limits::MAX_REQUEST) bytes.
        body: Bytes,
        /// Where the answer goes. Dropping it closes the substream without an answer.
        responder: Responder,
    },
    /// A peer has opened a delivery stream, of the kind that it says itself. It may do so before it is reported as connected. A stream that is not taken within
    /// [`Limits::accept_delivery`](super::limits::Limits::accept_delivery) is refused, and then does not appear here.
    Delivery {
        /// The stream. Dropping it resets it; [`DeliveryStream::refuse`] says that nobody takes it.
        stream: DeliveryStream,
    },
    /// A gossip message came in for the first time. It is forwarded only after [`Verdict::accept`].
    Gossip {
        /// The neighbour it came from, who is to blame if it is invalid. The author's signature is inside `data`.
        peer: PeerId,
        /// The topic.
        topic: Topic,
        /// The payload, at most [`MAX_GOSSIP`](super::limits::MAX_GOSSIP) bytes.
        data: Bytes,
        /// What becomes of it. Dropping it ignores the message.
        verdict: Verdict,
    },
}

/// The receiver of [`NetEvent`]s. Dropping it lets the swarm refuse all requests as busy.
#[derive(Debug)]
pub struct NetEvents {
    pub(super) queue: mpsc::Receiver<NetEvent>,
}

impl NetEvents {
    /// The next event; `None` when the runner has ended and all events are taken. Safe to cancel.
    pub async fn recv(&mut self) -> Option<NetEvent> {
        loop {
            match self.queue.recv().await? {
                NetEvent::Delivery { stream } if !stream.take() => {}
                event => return Some(event),
            }
        }
    }

    /// The next event if one waits.
    pub fn try_recv(&mut self) -> Option<NetEvent> {
        loop {
            match self.queue.try_recv().ok()? {
                NetEvent::Delivery { stream } if !stream.take() => {}
                event => return Some(event),
            }
        }
    }
}

/// An answer on its way from the application to the runner.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) peer: PeerId,
    pub(super) protocol: Protocol,
    pub(super) id: InboundRequestId,
    /// `None`: the application let the request go.
    pub(super) reply: Option<(ResponseChannel<Bytes>, Bytes)>,
}

/// Where the answer to one request goes. It holds its place in the queue to the runner, so answering never waits.
#[must_use = "dropping a responder closes the request without an answer"]
pub struct Responder {
    inner: Option<(ResponseChannel<Bytes>, mpsc::OwnedPermit<Answer>)>,
    peer: PeerId,
    protocol: Protocol,
    id: InboundRequestId,
}

impl Responder {
    pub(super) fn new(
        peer: PeerId,
        protocol: Protocol,
        id: InboundRequestId,
        channel: ResponseChannel<Bytes>,
        permit: mpsc::OwnedPermit<Answer>,
    ) -> Self {
        Self { inner: Some((channel, permit)), peer, protocol, id }
    }

    /// Sends the answer. It must be at most [`MAX_RESPONSE`] bytes: a larger one is an error of the
    /// application, is logged, and closes the request without an answer.
    pub fn respond(mut self, body: impl Into<Bytes>) {
        let body = body.into();
        if body.len() > MAX_RESPONSE {
            tracing::error!(peer = %self.peer, len = body.len(), "answer over the size limit was not sent");
            return;
        }
        if let Some((channel, permit)) = self.inner.take() {
            permit.send(self.answer(Some((channel, body))));
        }
    }

    fn answer(&self, reply: Option<(ResponseChannel<Bytes>, Bytes)>) -> Answer {
        Answer { peer: self.peer, protocol: self.protocol, id: self.id, reply }
    }

    /// Whether the asker still waits.
    pub fn is_open(&self) -> bool {
        self.inner.as_ref().is_some_and(|(channel, _)| channel.is_open())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some((channel, permit)) = self.inner.take() {
            drop(channel);
            permit.send(self.answer(None));
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("peer", &self.peer).field("open", &self.is_open()).finish()
    }
}

/// A verdict on its way from the application to the runner.
#[derive(Debug)]
pub(super) struct Ruling {
    pub(super) message: MessageId,
    pub(super) source: PeerId,
    pub(super) acceptance: MessageAcceptance,
}

/// What becomes of one gossip message. It holds its place in the queue to the runner, so deciding never waits.
#[must_use = "dropping a verdict leaves the message unforwarded"]
pub struct Verdict {
    inner: Option<(MessageId, mpsc::OwnedPermit<Ruling>)>,
    source: PeerId,
}

impl Verdict {
    pub(super) fn new(source: PeerId, message: MessageId, permit: mpsc::OwnedPermit<Ruling>) -> Self {
        Self { inner: Some((message, permit)), source }
    }

    /// The message is valid: forward it.
    pub fn accept(mut self) {
        self.rule(MessageAcceptance::Accept);
    }

    /// The message is of no use here, for no fault of the sender's (old, known, out of our interest).
    pub fn ignore(mut self) {
        self.rule(MessageAcceptance::Ignore);
    }

    /// The message is invalid. The neighbour it came from loses gossip score and is charged
    /// [`Offence::InvalidGossip`](super::Offence::InvalidGossip).
    pub fn reject(mut self) {
        self.rule(MessageAcceptance::Reject);
    }

    fn rule(&mut self, acceptance: MessageAcceptance) {
        if let Some((message, permit)) = self.inner.take() {
            permit.send(Ruling { message, source: self.source, acceptance });
        }
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.rule(MessageAcceptance::Ignore);
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdict").field("source", &self.source).finish_non_exhaustive()
    }
}
