//! Requests of others and answers to ours.

use bytes::Bytes;
use libp2p::{
    core::upgrade::NegotiationError,
    request_response::{Event, InboundFailure, InboundRequestId, Message, OutboundFailure, ResponseChannel},
    swarm::ConnectionId,
};

use crate::net::{
    NetEvent, Offence, PeerId, Protocol, Refusal, RequestError, Responder,
    command::{OutboundRequest, answer},
    counters::inc,
    event::Answer,
    limits::{MAX_INBOUND_REQUESTS, MAX_INBOUND_REQUESTS_PER_PEER, MAX_REQUEST_TIME},
    requests::codec::{Frame, Malformed, ResponseTooLarge},
    runner::{Inbound, NetRunner},
};

type Request = Result<Frame, Malformed>;

impl NetRunner {
    pub(in crate::net) fn on_requests(&mut self, protocol: Protocol, event: Event<Request, Frame>) {
        match event {
            Event::Message { peer, connection_id, message } => match message {
                Message::Request { request_id, request, channel } => {
                    self.on_request(protocol, peer, connection_id, request_id, request, channel);
                }
                Message::Response { request_id, response } => {
                    if let Some(request) = self.outbound.remove(&(protocol, request_id)) {
                        self.on_response(request, response);
                    }
                }
            },
            Event::OutboundFailure { peer, request_id, error, .. } => {
                if let Some(request) = self.outbound.remove(&(protocol, request_id)) {
                    self.on_request_failed(peer, protocol, request, error);
                }
            }
            Event::InboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(%peer, %protocol, %error, "a request was not answered");
                let answered =
                    self.inbound.remove(&(protocol, request_id)).is_some_and(|inbound| inbound.answered);
                // It asked and does not read the answer.
                if answered && matches!(error, InboundFailure::Timeout) {
                    self.charge(peer, Offence::Stalled);
                }
            }
            Event::ResponseSent { request_id, .. } => {
                if self.inbound.remove(&(protocol, request_id)).is_some() {
                    inc(&self.counters.responses_out);
                }
            }
        }
    }

    /// Sends one of our requests over an open connection.
    pub(in crate::net) fn send_request(&mut self, request: OutboundRequest) {
        if request.reply.is_closed() {
            return;
        }
        self.counters.request_out(request.protocol);
        let protocol = request.protocol;
        let body = Ok(request.body.clone());
        let id = self.swarm.behaviour_mut().requests(protocol).send_request(&request.peer, body);
        self.outbound.insert((protocol, id), request);
    }

    fn on_response(&mut self, request: OutboundRequest, response: Bytes) {
        let OutboundRequest { peer, reply, .. } = request;
        inc(&self.counters.responses_in);
        if reply.is_closed() {
            self.charge(peer, Offence::Timeout);
            return;
        }
        // No message of any protocol is empty: the peer closed its half without one.
        let outcome = if response.is_empty() { Err(RequestError::NoAnswer { peer }) } else { Ok(response) };
        answer(reply, outcome);
    }

    fn on_request_failed(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        request: OutboundRequest,
        error: OutboundFailure,
    ) {
        let error = match error {
            OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => {
                RequestError::ConnectionClosed { peer }
            }
            OutboundFailure::Timeout => {
                self.charge(peer, Offence::Timeout);
                RequestError::Timeout { peer, after: MAX_REQUEST_TIME }
            }
            OutboundFailure::UnsupportedProtocols => RequestError::Unsupported { peer, protocol },
            OutboundFailure::Io(error) => {
                let inner = error.get_ref();
                if inner.is_some_and(|inner| inner.is::<ResponseTooLarge>()) {
                    self.charge(peer, Offence::Oversize);
                    RequestError::ResponseTooLarge { peer }
                } else if inner.is_some_and(|inner| inner.is::<NegotiationError>()) {
                    // The request travels with the proposal of its protocol, so the refusal comes in place of the answer.
                    RequestError::Unsupported { peer, protocol }
                } else {
                    RequestError::Io { peer, reason: error.to_string() }
                }
            }
        };
        answer(request.reply, Err(error));
    }

    fn on_request(
        &mut self,
        protocol: Protocol,
        peer: PeerId,
        connection: ConnectionId,
        id: InboundRequestId,
        request: Request,
        channel: ResponseChannel<Frame>,
    ) {
        self.counters.request_in(protocol);
        let body = match request {
            Ok(body) => body,
            Err(malformed) => {
                let (refusal, offence) = match malformed {
                    Malformed::Empty => (Refusal::Malformed, Some(Offence::Malformed)),
                    Malformed::Oversize => (Refusal::TooLarge, Some(Offence::Oversize)),
                    Malformed::Stalled => (Refusal::Malformed, Some(Offence::Stalled)),
                    Malformed::NoMemory => (Refusal::Busy, None),
                };
                self.refuse(protocol, channel, refusal);
                if let Some(offence) = offence {
                    self.charge(peer, offence);
                }
                return;
            }
        };
        if self.quotas.take(&peer, protocol).is_err() {
            self.refuse(protocol, channel, Refusal::QuotaExceeded);
            self.charge(peer, Offence::QuotaExceeded);
            return;
        }
        // Places are taken before anything is promised; none of this waits.
        let of_peer = self.inbound.values().filter(|inbound| inbound.peer == peer).count();
        let full = of_peer >= MAX_INBOUND_REQUESTS_PER_PEER || self.inbound.len() >= MAX_INBOUND_REQUESTS;
        let answer = self.answers_to.clone().try_reserve_owned();
        let event = self.events.try_reserve();
        if let (false, Ok(answer), Ok(event)) = (full, answer, event) {
            let responder = Responder::new(peer, protocol, id, channel, answer);
            event.send(NetEvent::Request { peer, protocol, body, responder });
            self.inbound.insert((protocol, id), Inbound { peer, connection, answered: false });
        } else {
            self.refuse(protocol, channel, Refusal::Busy);
        }
    }

    /// Answers at once in the application's stead.
    fn refuse(&mut self, protocol: Protocol, channel: ResponseChannel<Frame>, refusal: Refusal) {
        inc(match refusal {
            Refusal::Busy => &self.counters.refused_busy,
            Refusal::QuotaExceeded => &self.counters.refused_quota,
            Refusal::TooLarge | Refusal::Malformed => &self.counters.refused_malformed,
        });
        let frame = (self.refusal_frame)(protocol, refusal);
        if !frame.is_empty() {
            // An error only says that the peer no longer waits.
            let _ = self.swarm.behaviour_mut().requests(protocol).send_response(channel, frame);
        }
    }

    /// Sends what the application answered.
    pub(in crate::net) fn on_answer(&mut self, answer: Answer) {
        match answer.reply {
            Some((channel, body)) => {
                if let Some(inbound) = self.inbound.get_mut(&(answer.protocol, answer.id)) {
                    inbound.answered = true;
                }
                let requests = self.swarm.behaviour_mut().requests(answer.protocol);
                if requests.send_response(channel, body).is_err() {
                    tracing::debug!(peer = %answer.peer, "an answer came too late");
                }
            }
            None => inc(&self.counters.unanswered),
        }
    }
}
