//! Requests and answers: what arrives, what is refused, and what each end is called.

use super::{raw, *};

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
