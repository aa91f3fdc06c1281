//! Who a peer says it is: whether it is one of ours, and where else it can be reached.

use libp2p::identify;
use tokio::time::Instant;

use crate::net::{
    KAD_PROTOCOL, NetEvent, PeerId, address,
    counters::inc,
    limits::{MAX_ADDRESSES_PER_PEER, MAX_AGENT_LEN},
    runner::NetRunner,
};

impl NetRunner {
    pub(in crate::net) fn on_identify(&mut self, event: identify::Event) {
        match event {
            identify::Event::Received { peer_id, info, .. } => self.on_identified(peer_id, info),
            identify::Event::Error { peer_id, error, .. } => {
                tracing::debug!(peer = %peer_id, %error, "a peer could not be identified");
            }
            event => tracing::trace!(?event, "identify"),
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        let now = Instant::now();
        if !same_network(&info.agent_version, &self.network) {
            self.let_go(peer, &info.agent_version, now);
            return;
        }
        let Some(live) = self.live.get_mut(&peer) else { return };
        let first = live.agent.replace(info.agent_version).is_none();
        let reached = live.connections.iter().find(|connection| connection.outbound);
        let reached = reached.map(|connection| connection.remote.clone());
        // A peer that came over loopback is on this machine, and its loopback is ours.
        let loopback = self.loopback
            || live.connections.iter().any(|connection| address::is_loopback(&connection.remote));
        let mut addresses: Vec<_> = info
            .listen_addrs
            .iter()
            .filter_map(|address| address::usable(address, &peer, loopback))
            .collect();
        addresses.truncate(MAX_ADDRESSES_PER_PEER);
        self.book.identified(peer, addresses.clone(), reached, now);
        // A peer without our DHT protocol would be asked in vain.
        if info.protocols.iter().any(|protocol| protocol.as_ref() == KAD_PROTOCOL) {
            let kad = &mut self.swarm.behaviour_mut().kad;
            for address in addresses {
                kad.add_address(&peer, address);
            }
            if first {
                self.dht_node_came();
            }
        } else {
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
        }
        if first {
            self.count_peers();
            self.tell(NetEvent::PeerConnected { peer });
        }
    }

    /// Parts with a node of another network, without blame.
    fn let_go(&mut self, peer: PeerId, agent: &str, now: Instant) {
        let cut = agent.floor_char_boundary(MAX_AGENT_LEN);
        let agent = agent.get(..cut).unwrap_or_default().to_owned();
        tracing::info!(%peer, %agent, network = %self.network, "a peer of another network is let go");
        inc(&self.counters.foreign_peers);
        self.swarm.behaviour_mut().kad.remove_peer(&peer);
        for bootstrap in self.bootstraps.iter_mut().filter(|bootstrap| bootstrap.peer == Some(peer)) {
            tracing::warn!(address = %bootstrap.address, %agent, "the bootstrap node is of another network");
            bootstrap.failed(now);
        }
        self.book.foreign(peer, agent, now);
        // An error only says that the connection ended meanwhile.
        let _ = self.swarm.disconnect_peer_id(peer);
    }
}

/// Whether an agent string is `sensora/<version>/<network>` with this network.
fn same_network(agent: &str, network: &str) -> bool {
    let mut parts = agent.split('/');
    agent.len() <= MAX_AGENT_LEN
        && parts.next() == Some("sensora")
        && parts.next().is_some_and(|version| !version.is_empty())
        && parts.next() == Some(network)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_strings() {
        assert!(same_network("sensora/0.1.0/regtest", "regtest"));
        for other in [
            "",
            "sensora",
            "sensora/0.1.0/main",
            "sensora//regtest",
            "sensora/0.1.0/regtest/x",
            "kubo/0.1.0/regtest",
            "Sensora/0.1.0/regtest",
        ] {
            assert!(!same_network(other, "regtest"), "{other}");
        }
        assert!(!same_network(&format!("sensora/{}/regtest", "1".repeat(200)), "regtest"));
    }
}
