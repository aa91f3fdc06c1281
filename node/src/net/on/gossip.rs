//! Gossip: messages in, verdicts back, our own messages out.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use libp2p::gossipsub::{Event, MessageAcceptance, PublishError as GossipError};

use crate::net::{
    NetEvent, Offence, PublishError, Topic, Verdict,
    counters::inc,
    event::Ruling,
    limits::{EVENT_QUEUE, MAX_GOSSIP, MAX_QUEUED_PUBLISHES},
    runner::NetRunner,
};

/// Places in the event queue that gossip leaves free, so that a flood of it does not shut out requests.
const KEPT_FOR_REQUESTS: usize = EVENT_QUEUE / 4;

impl NetRunner {
    pub(in crate::net) fn on_gossip(&mut self, event: Event) {
        match event {
            Event::Message { propagation_source: source, message_id, message } => {
                inc(&self.counters.gossip_in);
                let Some(topic) = self.topics.by_hash(&message.topic) else { return };
                if message.data.len() > MAX_GOSSIP {
                    let acceptance = MessageAcceptance::Reject;
                    return self.on_ruling(Ruling { message: message_id, source, acceptance });
                }
                let room = self.events.capacity() > KEPT_FOR_REQUESTS;
                let ruling = self.rulings_to.clone().try_reserve_owned();
                let event = self.events.try_reserve();
                if let (true, Ok(ruling), Ok(event)) = (room, ruling, event) {
                    let verdict = Verdict::new(source, message_id, ruling);
                    event.send(NetEvent::Gossip { peer: source, topic, data: message.data.into(), verdict });
                } else {
                    inc(&self.counters.events_dropped);
                    let acceptance = MessageAcceptance::Ignore;
                    self.on_ruling(Ruling { message: message_id, source, acceptance });
                }
            }
            Event::Subscribed { peer_id, topic } => {
                tracing::debug!(peer = %peer_id, %topic, "subscribed");
                self.publish_queued();
            }
            Event::SlowPeer { peer_id, failed_messages } => {
                tracing::debug!(peer = %peer_id, ?failed_messages, "a neighbour does not keep up with gossip");
            }
            event => tracing::trace!(?event, "gossip"),
        }
    }

    /// Passes on what the application decided.
    pub(in crate::net) fn on_ruling(&mut self, ruling: Ruling) {
        let Ruling { message, source, acceptance } = ruling;
        inc(match acceptance {
            MessageAcceptance::Accept => &self.counters.gossip_accepted,
            MessageAcceptance::Ignore => &self.counters.gossip_ignored,
            MessageAcceptance::Reject => &self.counters.gossip_rejected,
        });
        let rejected = matches!(acceptance, MessageAcceptance::Reject);
        // False only says that the message is too old to be forwarded.
        self.swarm.behaviour_mut().gossip.report_message_validation_result(&message, &source, acceptance);
        if rejected {
            self.charge(source, Offence::InvalidGossip);
        }
    }

    pub(in crate::net) fn publish(&mut self, topic: Topic, data: Bytes) -> Result<(), PublishError> {
        if self.unpublished.contains(&(topic, data.clone())) {
            return Err(PublishError::Duplicate);
        }
        match self.try_publish(topic, &data) {
            Err(GossipError::NoPeersSubscribedToTopic) if self.unpublished.len() < MAX_QUEUED_PUBLISHES => {
                self.unpublished.push_back((topic, data));
                Ok(())
            }
            Err(GossipError::NoPeersSubscribedToTopic) => Err(PublishError::QueueFull),
            Err(GossipError::Duplicate) => Err(PublishError::Duplicate),
            Err(GossipError::MessageTooLarge) => Err(PublishError::TooLarge { len: data.len() }),
            Err(GossipError::AllQueuesFull(peers)) => Err(PublishError::PeersBusy(peers)),
            Err(error @ (GossipError::SigningError(_) | GossipError::TransformFailed(_))) => {
                Err(PublishError::Internal(error.to_string()))
            }
            Ok(()) => Ok(()),
        }
    }

    fn try_publish(&mut self, topic: Topic, data: &Bytes) -> Result<(), GossipError> {
        self.swarm.behaviour_mut().gossip.publish(self.topics.hash(topic), data.clone())?;
        self.counters.published.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Sends what waited for a subscriber. What has one now leaves the queue, whatever comes of it.
    pub(in crate::net) fn publish_queued(&mut self) {
        for _ in 0..self.unpublished.len() {
            let Some((topic, data)) = self.unpublished.pop_front() else { break };
            match self.try_publish(topic, &data) {
                Err(GossipError::NoPeersSubscribedToTopic) => self.unpublished.push_back((topic, data)),
                Err(error) => tracing::warn!(%topic, %error, "a waiting message was not published"),
                Ok(()) => {}
            }
        }
    }
}
