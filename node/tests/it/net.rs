//! The swarm as the node uses it: several nodes in one process, over the memory transport and over real loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of a test may fail like the test itself; the lints only see that in functions marked as tests"
)]

mod bare;
mod delivery;
mod raw;
mod requests;
mod swarm;

use std::{collections::BTreeSet, future::Future, time::Duration};

use bytes::Bytes;
use sensora_node::net::{
    CountersSnapshot, DialError, KadMode, Multiaddr, Net, NetConfig, NetError, NetEvent, NetEvents, Offence,
    PeerId, Protocol, PublishError, Refusal, RequestError, Topic, Transport, limits, offence,
    peer_id_from_secret_key, quota,
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Far above what any of this takes on a slow, busy machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

const SHORT: Duration = Duration::from_secs(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it happens within a minute")
}

fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).unwrap();
    // Never zero, and below the order of the curve.
    (secret[0], secret[31]) = (1, 1);
    secret
}

fn config(change: impl FnOnce(&mut NetConfig)) -> NetConfig {
    let mut config = NetConfig::new(secret().into(), "regtest");
    config.transport = Transport::Memory;
    config.listen = vec!["/memory/0".parse().unwrap()];
    config.refusal_frame = |_, refusal| Bytes::from(format!("refused: {refusal:?}"));
    change(&mut config);
    config
}

struct Node {
    net: Net,
    events: NetEvents,
    addresses: Vec<Multiaddr>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Node {
    async fn start(config: NetConfig) -> Self {
        let (net, runner, events) = Net::new(config).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(runner.run(stop.clone()));
        let addresses = within(net.listen_addrs()).await;
        Self { net, events, addresses, stop: stop.drop_guard(), task }
    }

    async fn new() -> Self {
        Self::start(config(|_| {})).await
    }

    /// A node of the DHT's edge: nobody learns of it there, so nobody connects to it unasked.
    async fn client() -> Self {
        Self::start(config(|config| config.kad_mode = KadMode::Client)).await
    }

    fn id(&self) -> PeerId {
        self.net.peer_id()
    }

    async fn dial(&self, other: &Self) {
        within(self.net.dial(other.id(), other.addresses.clone())).await.unwrap();
    }

    /// Waits for the first event that `pick` accepts. The others are dropped.
    async fn next<T>(&mut self, mut pick: impl FnMut(NetEvent) -> Option<T>) -> T {
        within(async {
            loop {
                if let Some(found) = pick(self.events.recv().await.expect("the node runs")) {
                    return found;
                }
            }
        })
        .await
    }

    async fn connected_to(&mut self, other: PeerId) {
        self.next(|event| matches!(event, NetEvent::PeerConnected { peer } if peer == other).then_some(()))
            .await;
    }

    async fn disconnected_from(&mut self, other: PeerId) {
        self.next(|event| {
            matches!(event, NetEvent::PeerDisconnected { peer } if peer == other).then_some(())
        })
        .await;
    }

    async fn ask(
        &self,
        other: &Self,
        protocol: Protocol,
        body: impl Into<Bytes>,
    ) -> Result<Bytes, RequestError> {
        within(self.net.request(other.id(), other.addresses.clone(), protocol, body.into(), SHORT)).await
    }

    async fn stop(self) {
        drop(self.stop);
        within(self.task).await.unwrap();
    }

    /// Answers every request with its own bytes, and accepts every message, from now on.
    fn echo(self) -> Echo {
        let Self { net, mut events, addresses, stop, task } = self;
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    NetEvent::Request { body, responder, .. } => responder.respond(body),
                    NetEvent::Gossip { verdict, .. } => verdict.accept(),
                    _ => {}
                }
            }
        });
        Echo { node: Self { net, events: closed(), addresses, stop, task } }
    }
}

/// A receiver of nothing, in place of one that was given away.
fn closed() -> NetEvents {
    Net::new(config(|_| {})).unwrap().2
}

struct Echo {
    node: Node,
}

/// Asks for the counters until they show what is waited for. Each question goes through the runner, so that it can work.
async fn until(net: &Net, what: impl Fn(&CountersSnapshot) -> bool) -> CountersSnapshot {
    within(async {
        loop {
            net.connected_peers().await;
            let counters = net.counters();
            if what(&counters) {
                return counters;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
