//! The swarm as the node uses it: several nodes in one process, over the memory transport and over real loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of a test may fail like the test itself; the lints only see that in functions marked as tests"
)]

mod raw;

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

#[tokio::test]
async fn both_protocols_carry_requests_of_every_size() {
    let (asker, server) = (Node::new().await, Node::new().await.echo());
    for protocol in Protocol::ALL {
        for len in [1, limits::FREE_REQUEST_BYTES + 1, limits::MAX_REQUEST] {
            let answer = asker.ask(&server.node, protocol, vec![7; len]).await.unwrap();
            assert_eq!(answer, vec![7; len]);
        }
    }
    let counters = until(&server.node.net, |counters| counters.responses_out == 6).await;
    assert_eq!(counters.requests_in.values().copied().collect::<Vec<_>>(), [3, 3]);
    assert_eq!(asker.net.counters().responses_in, 6);
}

#[tokio::test]
async fn an_answer_may_be_as_large_as_the_limit() {
    let (asker, mut server) = (Node::new().await, Node::new().await);
    let id = server.id();
    let ask = asker.net.request(id, server.addresses.clone(), Protocol::Chain, "all of it".into(), SHORT);
    let serve = async {
        let (body, protocol, peer, responder) = server
            .next(|event| match event {
                NetEvent::Request { body, protocol, peer, responder } => {
                    Some((body, protocol, peer, responder))
                }
                _ => None,
            })
            .await;
        assert_eq!((body, protocol, peer), ("all of it".into(), Protocol::Chain, asker.id()));
        responder.respond(vec![9; limits::MAX_RESPONSE]);
    };
    let (answer, ()) = tokio::join!(within(ask), serve);
    assert_eq!(answer.unwrap().len(), limits::MAX_RESPONSE);
}

async fn over(transport: &str) {
    let listen: Multiaddr = transport.parse().unwrap();
    let real = |config: &mut NetConfig| {
        config.transport = Transport::Real;
        config.listen = vec![listen.clone()];
    };
    let (asker, server) = (Node::start(config(real)).await, Node::start(config(real)).await.echo());
    let answer = asker.ask(&server.node, Protocol::Market, vec![5; limits::MAX_REQUEST]).await.unwrap();
    assert_eq!(answer, vec![5; limits::MAX_REQUEST]);
    let status = asker.net.status().await.unwrap();
    let (address, name) = &status.peers[0].connections[0];
    assert_eq!((address, transport.contains(name)), (&server.node.addresses[0], true));
}

#[tokio::test]
async fn requests_over_tcp() {
    over("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test]
async fn requests_over_quic() {
    over("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_home() {
    let (asker, server) = (Node::new().await, Node::new().await);
    let too_large = asker.ask(&server, Protocol::Market, vec![0; limits::MAX_REQUEST + 1]).await.unwrap_err();
    assert_eq!(too_large, RequestError::TooLarge { len: limits::MAX_REQUEST + 1 });
    let empty = asker.ask(&server, Protocol::Market, "").await.unwrap_err();
    assert_eq!(empty, RequestError::Empty);
    assert!(too_large.not_sent() && empty.not_sent());
    let big = vec![0; limits::MAX_GOSSIP + 1];
    assert!(matches!(asker.net.publish(Topic::Ads, big.into()).await, Err(PublishError::TooLarge { .. })));
}

#[tokio::test]
async fn a_request_the_application_lets_go_has_a_typed_end() {
    let (asker, mut server) = (Node::new().await, Node::new().await);
    let id = server.id();
    let ask = asker.net.request(id, server.addresses.clone(), Protocol::Market, "?".into(), SHORT);
    let let_go = server.next(|event| match event {
        NetEvent::Request { responder, .. } => {
            assert!(responder.is_open());
            drop(responder);
            Some(())
        }
        _ => None,
    });
    let (answer, ()) = tokio::join!(within(ask), let_go);
    assert_eq!(answer, Err(RequestError::NoAnswer { peer: id }));
    until(&server.net, |counters| counters.unanswered == 1).await;
}

#[tokio::test]
async fn an_application_that_answers_too_much_answers_nothing() {
    let (asker, mut server) = (Node::new().await, Node::new().await);
    let id = server.id();
    let ask = asker.net.request(id, server.addresses.clone(), Protocol::Market, "?".into(), SHORT);
    let serve = server.next(|event| match event {
        NetEvent::Request { responder, .. } => {
            responder.respond(vec![0; limits::MAX_RESPONSE + 1]);
            Some(())
        }
        _ => None,
    });
    let (answer, ()) = tokio::join!(within(ask), serve);
    assert_eq!(answer, Err(RequestError::NoAnswer { peer: id }));
}

#[tokio::test]
async fn a_peer_that_never_answers_ends_with_a_timeout() {
    let (asker, server) = (Node::new().await, Node::new().await);
    asker.dial(&server).await;
    let after = Duration::from_millis(200);
    let id = server.id();
    // The server's application takes nothing from its queue.
    let answer = within(asker.net.request(id, Vec::new(), Protocol::Market, "?".into(), after)).await;
    assert_eq!(answer, Err(RequestError::Timeout { peer: id, after }));
    assert_eq!(asker.net.counters().request_errors["timeout"], 1);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_answered_and_charged() {
    let server = Node::new().await.echo();
    let mut peer = raw::Peer::new();
    peer.dial(&server.node.net, &server.node.addresses).await;
    let answer = within(peer.ask(raw::Sends::Bytes(vec![0; limits::MAX_REQUEST + 1]))).await;
    assert_eq!(answer, Ok("refused: TooLarge".into()));
    until(&server.node.net, |counters| counters.offences.get("oversize") == Some(&1)).await;
    // It goes on being served: one offence is no ban.
    assert_eq!(within(peer.ask(raw::Sends::Bytes(vec![1]))).await, Ok(vec![1].into()));
}

#[tokio::test]
async fn empty_and_stalled_requests_are_answered_and_charged() {
    let patient = config(|config| config.limits.read_request = Duration::from_millis(100));
    let server = Node::start(patient).await.echo();
    let mut peer = raw::Peer::new();
    peer.dial(&server.node.net, &server.node.addresses).await;
    assert_eq!(within(peer.ask(raw::Sends::Bytes(Vec::new()))).await, Ok("refused: Malformed".into()));
    // Its half stays open, so it never comes to read the answer.
    let stalled = peer.ask(raw::Sends::Part(vec![1, 2, 3]));
    let counted = until(&server.node.net, |counters| counters.offences.len() == 2);
    let counters =
        tokio::select! { counters = counted => counters, answer = stalled => panic!("{answer:?}") };
    assert_eq!(counters.offences.keys().copied().collect::<Vec<_>>(), ["malformed", "stalled"]);
    assert_eq!(counters.refused_malformed, 2);
}

#[tokio::test]
async fn garbage_reaches_the_application_which_gets_the_peer_banned() {
    let (vandal, mut server) = (Node::new().await, Node::new().await);
    let needed = (offence::BAN_AT / Offence::Malformed.severity().points()).ceil() as usize;
    for _ in 0..needed {
        let id = server.id();
        let ask =
            vandal.net.request(id, server.addresses.clone(), Protocol::Market, vec![0xff; 9].into(), SHORT);
        let net = server.net.clone();
        let judge = server.next(|event| match event {
            NetEvent::Request { peer, body, responder, .. } => Some((peer, body, responder)),
            _ => None,
        });
        let (answer, ()) = tokio::join!(within(ask), async {
            let (peer, body, responder) = judge.await;
            assert_eq!((peer, body.len()), (vandal.id(), 9));
            responder.respond("that is no request");
            net.report(peer, Offence::Malformed).await;
        });
        // The ban may be faster than the last answer.
        assert!(answer.is_ok() || matches!(answer, Err(RequestError::ConnectionClosed { .. })), "{answer:?}");
    }
    until(&server.net, |counters| counters.bans == 1).await;
    assert_eq!(
        server.net.dial(vandal.id(), vandal.addresses.clone()).await,
        Err(DialError::Banned(vandal.id()))
    );
    let status = server.net.status().await.unwrap();
    assert_eq!((status.banned, status.peers.len()), (1, 0));
    assert!(vandal.ask(&server, Protocol::Market, "again").await.is_err());
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_a_typed_error() {
    let asker = Node::new().await;
    let mut peer = raw::Peer::new();
    peer.answers = vec![0; limits::MAX_RESPONSE + 1];
    peer.dial(&asker.net, &asker.addresses).await;
    let id = peer.id();
    let ask = asker.net.request(id, Vec::new(), Protocol::Market, "?".into(), SHORT);
    let answer = within(async {
        tokio::select! { answer = ask => answer, () = peer.serve() => unreachable!("it serves for ever") }
    })
    .await;
    assert_eq!(answer, Err(RequestError::ResponseTooLarge { peer: id }));
    assert_eq!(asker.net.counters().offences["oversize"], 1);
}

#[tokio::test]
async fn a_protocol_the_peer_does_not_offer_is_a_typed_error() {
    let asker = Node::new().await;
    let mut peer = raw::Peer::new();
    peer.dial(&asker.net, &asker.addresses).await;
    let id = peer.id();
    let ask = asker.net.request(id, Vec::new(), Protocol::Chain, "?".into(), SHORT);
    let answer = within(async {
        tokio::select! { answer = ask => answer, () = peer.serve() => unreachable!("it serves for ever") }
    })
    .await;
    assert_eq!(answer, Err(RequestError::Unsupported { peer: id, protocol: Protocol::Chain }));
}

#[tokio::test]
async fn an_application_that_does_not_take_its_events_looks_busy() {
    let Node { net, events, addresses, stop: _stop, .. } = Node::new().await;
    let mut peer = raw::Peer::new();
    peer.dial(&net, &addresses).await;
    // As many as one peer may have open are kept for the application; the rest is refused at once.
    let (kept, all) = (limits::MAX_INBOUND_REQUESTS_PER_PEER, limits::MAX_STREAMS_PER_CONNECTION);
    for n in 0..all {
        peer.send(raw::Sends::Bytes(vec![n as u8 + 1]));
    }
    for _ in kept..all {
        assert_eq!(within(peer.answer()).await, Ok("refused: Busy".into()));
    }
    assert_eq!(net.counters().refused_busy as usize, all - kept);
    // Without a receiver everything is refused, and those that waited are let go.
    drop(events);
    for _ in 0..kept {
        assert_eq!(within(peer.answer()).await, Ok(Bytes::new()));
    }
    assert_eq!(within(peer.ask(raw::Sends::Bytes(vec![1]))).await, Ok("refused: Busy".into()));
}

#[tokio::test]
async fn a_peer_over_its_quota_is_told_so() {
    let server = Node::new().await.echo();
    let mut peer = raw::Peer::new();
    peer.dial(&server.node.net, &server.node.addresses).await;
    let (burst, _) = quota::inbound(Protocol::Market);
    let mut answers = BTreeSet::new();
    // Not so many that it leads to a ban.
    for _ in 0..2 * burst {
        answers.insert(within(peer.ask(raw::Sends::Bytes(vec![1]))).await.unwrap());
    }
    assert!(answers.contains(&Bytes::from(format!("refused: {:?}", Refusal::QuotaExceeded))));
    assert!(answers.contains(&Bytes::from(vec![1])), "the burst itself is served");
}

#[tokio::test]
async fn an_honest_peer_is_never_over_its_quota() {
    let (asker, server) = (Node::new().await, Node::new().await.echo());
    let (burst, _) = quota::outbound(Protocol::Market);
    let asks: Vec<_> = (0..burst * 2)
        .map(|n| {
            let (net, to, id) = (asker.net.clone(), server.node.addresses.clone(), server.node.id());
            tokio::spawn(async move {
                net.request(id, to, Protocol::Market, n.to_be_bytes().to_vec().into(), PATIENCE).await
            })
        })
        .collect();
    for ask in asks {
        within(ask).await.unwrap().unwrap();
    }
    let counters = server.node.net.counters();
    assert_eq!((counters.refused_quota, counters.refused_busy, counters.bans), (0, 0, 0));
}

#[tokio::test]
async fn gossip_is_forwarded_only_when_it_is_valid() {
    let (author, middle, mut end) = (Node::client().await, Node::client().await, Node::client().await);
    author.dial(&middle).await;
    end.dial(&middle).await;
    // Both have subscribed.
    within(async {
        while middle.net.status().await.unwrap().mesh != Topic::ALL.map(|topic| (topic, 2)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let judge = tokio::spawn(async move {
        let Node { mut events, stop, net, .. } = middle;
        let _running = stop;
        let mut seen = Vec::new();
        while seen.len() < 3 {
            if let NetEvent::Gossip { peer, topic, data, verdict } = events.recv().await.unwrap() {
                assert_eq!(topic, Topic::Ads);
                match &data[..] {
                    b"invalid" => verdict.reject(),
                    b"useless" => verdict.ignore(),
                    _ => verdict.accept(),
                }
                seen.push((peer, data));
            }
        }
        (seen, net, _running)
    });
    for message in ["invalid", "useless", "valid"] {
        within(author.net.publish(Topic::Ads, message.into())).await.unwrap();
    }
    let (seen, net, _running) = within(judge).await.unwrap();
    assert!(seen.iter().all(|(peer, _)| *peer == author.id()));
    // Messages travel in order: had another been forwarded, it would have come first.
    let first = end
        .next(|event| match event {
            NetEvent::Gossip { data, verdict, .. } => {
                verdict.accept();
                Some(data)
            }
            _ => None,
        })
        .await;
    assert_eq!(first, "valid");
    let counters = net.counters();
    let verdicts = (counters.gossip_accepted, counters.gossip_ignored, counters.gossip_rejected);
    assert_eq!((verdicts, counters.offences["invalid_gossip"]), ((1, 1, 1), 1));
}

#[tokio::test]
async fn a_message_waits_for_its_first_subscriber() {
    let (author, mut reader) = (Node::new().await, Node::new().await);
    author.net.publish(Topic::Observations, "early".into()).await.unwrap();
    assert_eq!(author.net.publish(Topic::Observations, "early".into()).await, Err(PublishError::Duplicate));
    assert_eq!(author.net.status().await.unwrap().queued_publishes, 1);
    author.dial(&reader).await;
    let found = reader
        .next(|event| match event {
            NetEvent::Gossip { topic, data, .. } => Some((topic, data)),
            _ => None,
        })
        .await;
    assert_eq!(found, (Topic::Observations, "early".into()));
    assert_eq!(author.net.status().await.unwrap().queued_publishes, 0);
    assert_eq!(author.net.publish(Topic::Observations, "early".into()).await, Err(PublishError::Duplicate));
}

fn joins(bootstrap: &Node) -> impl Fn(&mut NetConfig) + use<> {
    let address = bootstrap.addresses[0].clone().with_p2p(bootstrap.id()).unwrap();
    move |config| config.bootstrap = vec![address.clone()]
}

#[tokio::test]
async fn a_provider_is_found_through_a_bootstrap_node() {
    let bootstrap = Node::new().await;
    let join = joins(&bootstrap);
    let seller = Node::start(config(&join)).await;
    let key = [42; 32];
    // Provided before anybody is there to be told.
    seller.net.provide(key).await.unwrap();
    let buyer = Node::start(config(|config| {
        join(config);
        config.listen = Vec::new();
    }))
    .await;
    let (peer, addresses) = within(async {
        loop {
            let found = buyer.net.find_providers(key).await.unwrap();
            if let Some(provider) = found.into_iter().next() {
                return provider;
            }
        }
    })
    .await;
    assert_eq!((peer, &addresses), (seller.id(), &seller.addresses));
    assert_eq!(buyer.net.find_providers([43; 32]).await, Ok(Vec::new()));
    let seller = seller.echo();
    let answer = within(buyer.net.request(peer, addresses, Protocol::Market, "quote".into(), SHORT)).await;
    assert_eq!(answer, Ok("quote".into()));
    assert_eq!(bootstrap.net.status().await.unwrap().provider_records, 1);
    seller.node.net.stop_providing(key).await;
    assert_eq!(seller.node.net.status().await.unwrap().provided, 0);
}

#[tokio::test]
async fn a_node_of_another_network_is_let_go() {
    let stranger = Node::start(config(|config| config.network = "main".into())).await;
    let mut node = Node::new().await;
    let error = within(async {
        loop {
            if let Err(error) = node.net.dial(stranger.id(), stranger.addresses.clone()).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!(
        error,
        DialError::OtherNetwork {
            peer: stranger.id(),
            agent: format!("sensora/{}/main", env!("CARGO_PKG_VERSION"))
        }
    );
    assert!(node.net.connected_peers().await.is_empty());
    assert!(node.net.known_peers().await.is_empty());
    assert!(node.events.try_recv().is_none(), "it was never reported as a peer");
    assert_eq!(node.net.counters().offences.len(), 0, "it is no offence");
}

#[tokio::test]
async fn a_restarted_bootstrap_node_is_met_again() {
    let key = secret();
    let mut bootstrap = Node::start(config(|config| config.secret_key = key.into())).await;
    let (id, address) = (bootstrap.id(), bootstrap.addresses.clone());
    let join = joins(&bootstrap);
    let mut node = Node::start(config(&join)).await;
    // Without the peer id in the address as well.
    let mut trusting = Node::start(config(|config| config.bootstrap = address.clone())).await;
    node.connected_to(id).await;
    trusting.connected_to(id).await;
    bootstrap.connected_to(node.id()).await;
    bootstrap.stop().await;
    node.disconnected_from(id).await;
    trusting.disconnected_from(id).await;
    assert_eq!(node.net.peer_count(), 0);
    let mut bootstrap = Node::start(config(|config| {
        config.secret_key = key.into();
        config.listen = address;
    }))
    .await;
    node.connected_to(id).await;
    trusting.connected_to(id).await;
    bootstrap.connected_to(trusting.id()).await;
    assert!(node.net.connected_peers().await.contains(&id));
}

#[tokio::test]
async fn known_peers_survive_a_restart() {
    let mut friend = Node::new().await;
    let mut node = Node::new().await;
    node.dial(&friend).await;
    node.connected_to(friend.id()).await;
    friend.connected_to(node.id()).await;
    let known = node.net.known_peers().await;
    assert_eq!(known, [(friend.id(), friend.addresses.clone())]);
    // The other side knows it by what it says of itself.
    assert_eq!(friend.net.known_peers().await, [(node.id(), node.addresses.clone())]);
    node.stop().await;
    let mut again = Node::start(config(|config| config.known_peers = known)).await;
    again.connected_to(friend.id()).await;
}

#[tokio::test]
async fn the_wrong_peer_at_an_address_is_named() {
    let (node, other) = (Node::new().await, Node::new().await);
    let expected = peer_id_from_secret_key(&secret()).unwrap();
    let address = other.addresses[0].clone();
    let wrong = DialError::WrongPeer { expected, obtained: other.id(), address: address.clone() };
    assert_eq!(within(node.net.dial(expected, vec![address.clone()])).await, Err(wrong.clone()));
    // The same without a dial, where the address names somebody else.
    let named = address.clone().with_p2p(other.id()).unwrap();
    let request = node.net.request(expected, vec![named], Protocol::Market, "?".into(), SHORT);
    assert_eq!(within(request).await, Err(RequestError::Dial(wrong)));
    assert_eq!(within(node.net.dial(node.id(), vec![address])).await, Err(DialError::ToSelf(node.id())));
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_says_why() {
    let (node, gone) = (Node::new().await, Node::new().await);
    let (id, address) = (gone.id(), gone.addresses.clone());
    gone.stop().await;
    assert_eq!(within(node.net.dial(id, Vec::new())).await, Err(DialError::NoAddresses(id)));
    let Err(DialError::Unreachable { peer, reasons }) = within(node.net.dial(id, address.clone())).await
    else {
        panic!("it is gone")
    };
    assert!(peer == id && reasons.contains(&address[0].to_string()), "{reasons}");
}

#[tokio::test]
async fn a_stopped_network_says_so() {
    let Node { net, mut events, stop, task, .. } = Node::new().await;
    drop(stop);
    within(task).await.unwrap();
    assert!(within(events.recv()).await.is_none());
    let peer = peer_id_from_secret_key(&secret()).unwrap();
    assert_eq!(net.dial(peer, Vec::new()).await, Err(DialError::Stopped));
    let request = net.request(peer, Vec::new(), Protocol::Chain, "?".into(), SHORT).await;
    assert_eq!(request, Err(RequestError::Stopped));
    assert_eq!(net.publish(Topic::Ads, "x".into()).await, Err(PublishError::Stopped));
    assert!(net.status().await.is_none() && net.listen_addrs().await.is_empty());
}

#[tokio::test]
async fn parallel_connections_are_closed_down_to_one() {
    let (mut a, mut b) = (Node::client().await, Node::client().await);
    let (to_b, to_a) = (a.net.dial(b.id(), b.addresses.clone()), b.net.dial(a.id(), a.addresses.clone()));
    let (ab, ba) = tokio::join!(within(to_b), within(to_a));
    ab.unwrap();
    ba.unwrap();
    a.connected_to(b.id()).await;
    b.connected_to(a.id()).await;
    within(async {
        loop {
            let (a, b) = (a.net.status().await.unwrap(), b.net.status().await.unwrap());
            if [a, b].iter().all(|status| status.peers[0].connections.len() == 1) {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let b = b.echo();
    assert_eq!(a.ask(&b.node, Protocol::Market, "still there").await, Ok("still there".into()));
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused() {
    let refused = |change: fn(&mut NetConfig)| Net::new(config(change)).map(drop).unwrap_err();
    assert!(matches!(refused(|config| config.network = "Main Net".into()), NetError::InvalidNetwork(_)));
    assert!(matches!(refused(|config| config.secret_key = [0; 32].into()), NetError::InvalidKey));
    let foreign = refused(|config| config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
    assert!(matches!(foreign, NetError::InvalidAddress { field: "listen", .. }), "{foreign}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Multiaddr =
        format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port()).parse().unwrap();
    let mut clash = NetConfig::new(secret().into(), "regtest");
    clash.listen = vec![address];
    assert!(matches!(Net::new(clash), Err(NetError::Listen { .. })));
}
