//! Peers and what they tell each other: meeting, parting, gossip, the DHT.

use super::*;

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
async fn who_waits_for_a_peer_is_woken_by_its_connection_whoever_opens_it() {
    let (waiting, stranger, awaited) = (Node::client().await, Node::client().await, Node::client().await);
    let mut arrivals = waiting.net.arrivals();
    let mut all = waiting.net.arrivals();
    stranger.dial(&waiting).await;
    within(all.of(stranger.id())).await;
    let early = tokio::select! {
        biased;
        () = arrivals.of(awaited.id()) => true,
        () = std::future::ready(()) => false,
    };
    assert!(!early, "not by somebody else's");
    awaited.dial(&waiting).await;
    within(arrivals.of(awaited.id())).await;
    // Our own connections as well.
    let other = Node::client().await;
    waiting.dial(&other).await;
    within(arrivals.of(other.id())).await;
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
