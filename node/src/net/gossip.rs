//! How gossip is set: topics, sizes, and the score by which gossipsub judges neighbours. Each number has its reason.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use libp2p::{
    gossipsub::{
        self, ConfigBuilder, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAuthenticity,
        MessageId, PeerScoreParams, PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode,
        WhitelistSubscriptionFilter, score_parameter_decay,
    },
    identity::Keypair,
};
use sha2::{Digest, Sha256};

use super::{NetError, Topic, limits::MAX_GOSSIP_RPC};

/// Gossip with our topics as the only ones anybody may subscribe to.
pub(super) type Gossip =
    gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>>;

/// The topics of one network.
#[derive(Debug, Clone)]
pub(super) struct Topics([(Topic, IdentTopic); Topic::ALL.len()]);

impl Topics {
    pub(super) fn of(network: &str) -> Self {
        Self(Topic::ALL.map(|topic| (topic, IdentTopic::new(topic.on_network(network)))))
    }

    pub(super) fn by_hash(&self, hash: &TopicHash) -> Option<Topic> {
        self.0.iter().find(|(_, ident)| ident.hash() == *hash).map(|(topic, _)| *topic)
    }

    pub(super) fn hash(&self, topic: Topic) -> TopicHash {
        let ident = self.0.iter().find(|(known, _)| *known == topic).map(|(_, ident)| ident.hash());
        ident.unwrap_or_else(|| TopicHash::from_raw(topic.base()))
    }

    fn hashes(&self) -> HashSet<TopicHash> {
        self.0.iter().map(|(_, ident)| ident.hash()).collect()
    }
}

/// The behaviour, subscribed to both topics.
pub(super) fn behaviour(key: &Keypair, topics: &Topics) -> Result<Gossip, NetError> {
    let setup = |error: &dyn std::fmt::Display| NetError::Setup(format!("gossip: {error}"));
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        // Nothing is forwarded before the application has judged it.
        .validate_messages()
        .max_transmit_size(MAX_GOSSIP_RPC)
        // The same statement is the same message, whoever sends it on and however often.
        .message_id_fn(|message| MessageId::new(&Sha256::digest(&message.data)))
        // Our own messages go to all who subscribed, not to the mesh alone: they are few, and an ad should not
        // depend on the goodwill of six neighbours.
        .flood_publish(true)
        // An id is 34 bytes in an RPC: so many fit into MAX_GOSSIP_RPC beside their envelope.
        .max_control_messages_sent(200)
        // A node publishes a message in seconds, not in milliseconds: queues far below the default of 5,000 are
        // enough, and a neighbour that does not read costs at most 256 times MAX_GOSSIP_RPC.
        .connection_handler_queue_len(256)
        .build()
        .map_err(|error| setup(&error))?;
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(topics.hashes()),
        max_subscribed_topics: Topic::ALL.len(),
        // Each topic subscribed and unsubscribed in one RPC.
        max_subscriptions_per_request: 2 * Topic::ALL.len(),
    };
    let author = MessageAuthenticity::Signed(key.clone());
    let mut gossip =
        Gossip::new_with_subscription_filter_and_transform(author, config, filter, IdentityTransform)
            .map_err(|error| setup(&error))?;
    gossip.with_peer_score(score(topics), thresholds()).map_err(|error| setup(&error))?;
    for (_, topic) in &topics.0 {
        gossip.subscribe(topic).map_err(|error| setup(&error))?;
    }
    Ok(gossip)
}

/// What follows from a score.
fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        // One invalid message (−10) and a little more: no more gossip about what we have.
        gossip_threshold: -15.0,
        // Two invalid messages (−40): our own messages do not go there.
        publish_threshold: -40.0,
        // Three invalid messages (−90): the peer is no longer listened to.
        graylist_threshold: -80.0,
        // Peer exchange is off on our side; only a peer with a perfect record could suggest others.
        accept_px_threshold: 50.0,
        // A mesh whose median neighbour never delivered anything first looks for better ones.
        opportunistic_graft_threshold: 1.0,
    }
}

fn score(topics: &Topics) -> PeerScoreParams {
    PeerScoreParams {
        topics: topics.hashes().into_iter().map(|hash| (hash, topic_score())).collect::<HashMap<_, _>>(),
        // Good deeds make up for at most two invalid messages, not for a stream of them.
        topic_score_cap: 50.0,
        // The application's own score leads to a ban instead.
        app_specific_weight: 0.0,
        // A site with dozens of sensors behind one router is one address: the first 50 cost nothing. 59 reach the
        // graylist. Throw-away identities from one address are what this is against.
        ip_colocation_factor_weight: -1.0,
        ip_colocation_factor_threshold: 50.0,
        // Everything on one machine is a test or a demonstration.
        ip_colocation_factor_whitelist: [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            .into(),
        // Six broken promises (a graft too early, an id without its message) are a bad line; the square of what is
        // above, times ten, reaches the graylist with three more. Forgotten in ten minutes.
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: score_parameter_decay(Duration::from_secs(600)),
        decay_interval: Duration::from_secs(1),
        decay_to_zero: 0.01,
        // As long as a ban: reconnecting washes nothing off.
        retain_score: Duration::from_secs(3600),
        // A slow neighbour is not an evil one, and what it missed may be a burst of ours. With the default a burst
        // of 250 lost messages would shut out our only neighbour; here it takes 800 above a threshold of 100.
        slow_peer_weight: -0.05,
        slow_peer_threshold: 100.0,
        slow_peer_decay: 0.2,
    }
}

fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        // Both topics count the same and together once.
        topic_weight: 0.5,
        // A point for each minute in the mesh, ten at most: an old neighbour is worth a little more than a new one.
        time_in_mesh_weight: 1.0,
        time_in_mesh_quantum: Duration::from_secs(60),
        time_in_mesh_cap: 10.0,
        // A point for each message it brought first, 50 at most, forgotten in an hour.
        first_message_deliveries_weight: 1.0,
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(3600)),
        first_message_deliveries_cap: 50.0,
        // Nobody is blamed for not delivering: ads are so rare that an honest neighbour may bring none for an hour.
        mesh_message_deliveries_weight: 0.0,
        mesh_message_deliveries_decay: 0.5,
        mesh_message_deliveries_cap: 1.0,
        mesh_message_deliveries_threshold: 1.0,
        mesh_message_deliveries_window: Duration::from_millis(10),
        mesh_message_deliveries_activation: Duration::from_secs(3600),
        mesh_failure_penalty_weight: 0.0,
        mesh_failure_penalty_decay: 0.5,
        // The square of the invalid messages, times 20, times the topic's half: 1 → −10, 2 → −40, 3 → −90. Forgotten
        // in ten minutes. An honest node forwards nothing invalid, for it validates by the same rules.
        invalid_message_deliveries_weight: -20.0,
        invalid_message_deliveries_decay: score_parameter_decay(Duration::from_secs(600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_parameters_are_consistent() {
        let topics = Topics::of("regtest");
        score(&topics).validate().unwrap();
        thresholds().validate().unwrap();
        assert_eq!(topics.by_hash(&topics.hash(Topic::Ads)), Some(Topic::Ads));
        assert_eq!(topics.hash(Topic::Ads).as_str(), "/sensora/ads/1/regtest");
        assert_eq!(topics.by_hash(&Topics::of("main").hash(Topic::Ads)), None);
        behaviour(&Keypair::generate_secp256k1(), &topics).unwrap();
    }
}
