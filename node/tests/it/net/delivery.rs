//! Delivery streams: frames both ways, bounds, and what each end of a stream is called.

use libp2p::{
    futures::{AsyncReadExt as _, AsyncWriteExt as _},
    swarm::NotifyHandler,
};
use sensora_node::net::{
    DELIVERY_PROTOCOL, DeliveryError, DeliveryReceiver, DeliverySender, DeliveryStream, StreamKind,
};

use super::{bare, *};

impl Node {
    async fn open(&self, other: &Self) -> Result<DeliveryStream, DeliveryError> {
        within(self.net.open_delivery(other.id(), other.addresses.clone(), SHORT)).await
    }

    /// The next stream that a peer opened.
    async fn accept(&mut self) -> DeliveryStream {
        self.next(|event| match event {
            NetEvent::Delivery { stream } => Some(stream),
            _ => None,
        })
        .await
    }

    /// A stream from here to another node, both ends.
    async fn stream_to(&self, other: &mut Self) -> (DeliveryStream, DeliveryStream) {
        let mut ours = self.open(other).await.unwrap();
        ours.send("hello".into()).await.unwrap();
        let mut theirs = other.accept().await;
        assert_eq!((theirs.peer(), theirs.is_outbound()), (self.id(), false));
        assert_eq!(within(theirs.next(PATIENCE)).await, Ok(Some("hello".into())));
        (ours, theirs)
    }
}

/// Two nodes that do not find each other by the DHT.
async fn two() -> (Node, Node) {
    (Node::client().await, Node::client().await)
}

/// A bare peer that is connected to a node.
async fn bare_to(node: &Node) -> bare::Peer {
    let peer = bare::Peer::new(DELIVERY_PROTOCOL, "/memory/0").await;
    within(peer.dial(node.id(), node.addresses.clone())).await;
    peer
}

/// Sends back what comes, until the other side is finished.
async fn echo(mut stream: DeliveryStream) {
    while let Some(frame) = stream.next(PATIENCE).await.unwrap() {
        stream.send(frame).await.unwrap();
    }
    stream.finish().await.unwrap();
}

fn frame(len: usize) -> Bytes {
    (0..len).map(|n| n as u8).collect()
}

async fn offence(net: &Net, label: &str) {
    until(net, |counters| counters.offences.get(label) == Some(&1)).await;
}

#[tokio::test]
async fn frames_of_every_size_come_back_in_order() {
    let (a, mut b) = two().await;
    let (ours, theirs) = a.stream_to(&mut b).await;
    let echo = tokio::spawn(echo(theirs));
    let lens = [1, 3, 4, 5, 100, 4096, 4097, 16_380, 16_384, 65_532, 65_536, 65_537, 262_144];
    let lens: Vec<_> =
        lens.into_iter().chain([limits::MAX_DELIVERY_FRAME - 1, limits::MAX_DELIVERY_FRAME]).collect();
    let (mut sender, mut receiver) = ours.split();
    let frames: Vec<_> = lens.into_iter().map(frame).collect();
    let send = async {
        sender.send_all(frames.clone()).await.unwrap();
        sender.finish().await.unwrap();
    };
    let receive = async {
        let mut received = Vec::new();
        while let Some(frame) = receiver.next(PATIENCE).await.unwrap() {
            received.push(frame);
        }
        received
    };
    let ((), received) = within(async { tokio::join!(send, receive) }).await;
    assert!(received == frames);
    within(echo).await.unwrap();
    assert_eq!((a.net.counters().deliveries_opened, b.net.counters().deliveries_accepted), (1, 1));
    assert!(a.net.counters().delivery_errors.is_empty() && b.net.counters().delivery_errors.is_empty());
}

#[tokio::test]
async fn a_finished_direction_leaves_the_other_one_open() {
    let (a, mut b) = two().await;
    let (mut ours, mut theirs) = a.stream_to(&mut b).await;
    ours.finish().await.unwrap();
    ours.finish().await.unwrap();
    assert_eq!(ours.send("more".into()).await, Err(DeliveryError::Finished { peer: b.id() }));
    assert_eq!(within(theirs.next(PATIENCE)).await, Ok(None));
    for n in 0..3_u8 {
        theirs.send(vec![n].into()).await.unwrap();
        assert_eq!(within(ours.next(PATIENCE)).await, Ok(Some(vec![n].into())));
    }
    theirs.finish().await.unwrap();
    // What is dropped now was finished, and is no reset.
    drop(theirs);
    assert_eq!(within(ours.next(PATIENCE)).await, Ok(None));
    assert_eq!(within(ours.next(PATIENCE)).await, Ok(None));
}

#[tokio::test]
async fn dropping_a_stream_is_a_reset_for_the_other_side() {
    let (a, mut b) = two().await;
    let (ours, mut theirs) = a.stream_to(&mut b).await;
    drop(ours);
    let reset = DeliveryError::Reset { peer: a.id() };
    assert_eq!(within(theirs.next(PATIENCE)).await, Err(reset.clone()));
    assert_eq!(theirs.send("?".into()).await, Err(reset));
    assert_eq!(b.net.counters().delivery_errors["reset"], 1, "counted once");
    // A half alone is enough, and what came before it can be read.
    let (ours, theirs) = a.stream_to(&mut b).await;
    let (mut sender, mut receiver) = ours.split();
    sender.send("last words".into()).await.unwrap();
    drop(sender);
    assert_eq!(within(receiver.next(PATIENCE)).await, Err(DeliveryError::Abandoned { peer: b.id() }));
    let (mut sender, mut receiver) = theirs.split();
    assert_eq!(within(receiver.next(PATIENCE)).await, Ok(Some("last words".into())));
    let reset = DeliveryError::Reset { peer: a.id() };
    assert_eq!(within(receiver.next(PATIENCE)).await, Err(reset.clone()));
    assert_eq!(sender.send("?".into()).await, Err(reset));
}

#[tokio::test]
async fn what_was_said_before_a_reset_can_still_be_heard_by_who_fails_to_send() {
    let (a, mut b) = two().await;
    let (ours, mut theirs) = a.stream_to(&mut b).await;
    theirs.send("that was too little".into()).await.unwrap();
    theirs.finish().await.unwrap();
    drop(theirs);
    let (mut sender, mut receiver) = ours.split();
    // It goes on until the reset is there.
    let failed = within(async {
        loop {
            if let Err(error) = sender.send("and more".into()).await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(failed.await, DeliveryError::Reset { peer: b.id() });
    drop(sender);
    assert_eq!(within(receiver.next(PATIENCE)).await, Ok(Some("that was too little".into())));
    assert_eq!(within(receiver.next(PATIENCE)).await, Ok(None));
}

/// Sends `count` large frames and receives as many.
async fn full_load(stream: DeliveryStream, count: usize) {
    let (mut sender, mut receiver) = stream.split();
    let send = tokio::spawn(async move {
        for n in 0..count {
            // Large, small, and in between.
            sender.feed(frame([262_144, 100, 5_000][n % 3])).await.unwrap();
        }
        sender.finish().await.unwrap();
    });
    let mut received = 0;
    while let Some(frame) = receiver.next(PATIENCE).await.unwrap() {
        assert_eq!(frame.len(), [262_144, 100, 5_000][received % 3]);
        received += 1;
    }
    assert_eq!(received, count);
    send.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_at_full_load_do_not_lock_each_other() {
    let (a, mut b) = two().await;
    let (ours, theirs) = a.stream_to(&mut b).await;
    within(async { tokio::join!(full_load(ours, 90), full_load(theirs, 90)) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_at_full_load_before_the_protocol_is_agreed_upon_does_not_stop() {
    let (a, mut b) = two().await;
    a.dial(&b).await;
    // What is sent fills the way to the connection while the receiving half still waits for the peer's consent.
    for _ in 0..20 {
        let ours = a.open(&b).await.unwrap();
        within(async { tokio::join!(full_load(ours, 12), async { full_load(b.accept().await, 12).await }) })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn neither_half_takes_the_wake_of_the_other() {
    let (a, mut b) = two().await;
    a.dial(&b).await;
    let (mut sender, mut receiver) = a.open(&b).await.unwrap().split();
    let began = tokio::time::Instant::now();
    // First the sender fills the way to the connection, then the receiver, too, waits for room there: for the question whether the peer speaks the protocol.
    let send = tokio::spawn(async move {
        for _ in 0..40 {
            sender.feed(frame(65_536)).await.unwrap();
        }
        sender.finish().await.unwrap();
    });
    let receive = tokio::spawn(async move { receiver.next(PATIENCE).await });
    let mut theirs = b.accept().await;
    while theirs.next(PATIENCE).await.unwrap().is_some() {}
    theirs.finish().await.unwrap();
    assert_eq!(receive.await.unwrap(), Ok(None));
    send.await.unwrap();
    // This clock moves only while everybody waits: nobody waited until a deadline woke him.
    assert!(began.elapsed() < limits::PROGRESS_WINDOW);
}

#[tokio::test]
async fn a_peer_has_so_many_streams_and_is_told_about_one_more() {
    let a = Node::client().await;
    let mut b = Node::start(config(|config| {
        config.kad_mode = KadMode::Client;
        config.limits.deliveries_per_peer = 5;
    }))
    .await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(a.stream_to(&mut b).await);
    }
    let refused = DeliveryError::Refused { peer: b.id() };
    // Whether it hears of it when it asks …
    let mut one_more = a.open(&b).await.unwrap();
    assert_eq!(within(one_more.next(PATIENCE)).await, Err(refused.clone()));
    // … or when it only tells.
    let mut one_more = a.open(&b).await.unwrap();
    let told = within(async {
        loop {
            if let Err(error) = one_more.send("?".into()).await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(told.await, refused);
    until(&b.net, |counters| counters.deliveries_refused == 2).await;
    assert_eq!(b.net.counters().offences["quota_exceeded"], 2);
    assert_eq!(a.net.counters().delivery_errors["refused"], 2);
    // Those that are open go on, and one that ends makes room.
    let (mut ours, theirs) = streams.pop().unwrap();
    drop(theirs);
    assert!(within(ours.next(PATIENCE)).await.is_err());
    drop(ours);
    streams.push(a.stream_to(&mut b).await);
    for (mut ours, mut theirs) in streams {
        ours.send("still there".into()).await.unwrap();
        assert_eq!(within(theirs.next(PATIENCE)).await, Ok(Some("still there".into())));
    }
}

#[tokio::test]
async fn sixty_four_streams_to_one_peer_and_no_more() {
    let (a, mut b) = two().await;
    a.dial(&b).await;
    let max = limits::MAX_OUTBOUND_DELIVERIES_PER_PEER;
    let opens: Vec<_> = (0..max)
        .map(|n| {
            let (net, id) = (a.net.clone(), b.id());
            tokio::spawn(async move {
                let mut stream = net.open_delivery(id, Vec::new(), PATIENCE).await.unwrap();
                stream.send(vec![n as u8].into()).await.unwrap();
                assert_eq!(stream.next(PATIENCE).await, Ok(Some(vec![n as u8].into())));
                stream
            })
        })
        .collect();
    let mut echoes = Vec::new();
    for _ in 0..max {
        echoes.push(tokio::spawn(echo(b.accept().await)));
    }
    let mut streams = Vec::new();
    for open in opens {
        streams.push(within(open).await.unwrap());
    }
    assert_eq!(a.open(&b).await.unwrap_err(), DeliveryError::TooManyToPeer { peer: b.id(), limit: max });
    assert_eq!(a.net.counters().delivery_errors["too_many_to_peer"], 1);
    streams.pop();
    let _one_more = a.open(&b).await.unwrap();
    for mut stream in streams {
        stream.finish().await.unwrap();
        assert_eq!(within(stream.next(PATIENCE)).await, Ok(None));
    }
    // All but the one that was dropped ended well.
    let mut broken = 0;
    for echo in echoes {
        broken += usize::from(within(echo).await.is_err());
    }
    assert_eq!(broken, 1);
}

#[tokio::test]
async fn what_is_no_frame_ends_the_stream_and_is_charged() {
    let over = u32::try_from(limits::MAX_DELIVERY_FRAME).unwrap() + 1;
    for (word, offence_label) in [(0, "malformed"), (over, "oversize"), (0x4745_5420, "oversize")] {
        let mut node = Node::client().await;
        let peer = bare_to(&node).await;
        let mut io = peer.open(node.id()).await;
        // Garbage after a frame: that one is still given.
        let bytes = [&b"\0\0\0\x01a"[..], &u32::to_be_bytes(word), &[0; 99]].concat();
        within(io.write_all(&bytes)).await.unwrap();
        within(io.flush()).await.unwrap();
        let mut stream = node.accept().await;
        assert_eq!(within(stream.next(PATIENCE)).await, Ok(Some("a".into())));
        let expected = match word {
            0 => DeliveryError::ZeroLength { peer: peer.id },
            len => DeliveryError::Oversize { peer: peer.id, len, max: limits::MAX_DELIVERY_FRAME },
        };
        assert_eq!(within(stream.next(PATIENCE)).await, Err(expected.clone()));
        assert_eq!(stream.send("?".into()).await, Err(expected), "both halves know why");
        // The peer sees the end before the application has let go of the stream.
        let mut rest = Vec::new();
        assert_eq!(within(io.read_to_end(&mut rest)).await.unwrap(), 0);
        offence(&node.net, offence_label).await;
    }
}

#[tokio::test]
async fn who_expects_small_frames_takes_no_large_ones() {
    let (a, mut b) = two().await;
    let (mut ours, mut theirs) = a.stream_to(&mut b).await;
    theirs.limit_frames(100);
    ours.send_all([frame(100), frame(101)]).await.unwrap();
    assert_eq!(within(theirs.next(PATIENCE)).await, Ok(Some(frame(100))));
    let oversize = DeliveryError::Oversize { peer: a.id(), len: 101, max: 100 };
    assert_eq!(within(theirs.next(PATIENCE)).await, Err(oversize));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_home_and_the_stream_goes_on() {
    let (a, mut b) = two().await;
    let (mut ours, mut theirs) = a.stream_to(&mut b).await;
    let len = limits::MAX_DELIVERY_FRAME + 1;
    let (empty, large) =
        (ours.send(Bytes::new()).await.unwrap_err(), ours.send(frame(len)).await.unwrap_err());
    assert_eq!((&empty, &large), (&DeliveryError::FrameEmpty, &DeliveryError::FrameTooLarge { len }));
    assert!(empty.goes_on() && large.goes_on());
    ours.send("fine".into()).await.unwrap();
    assert_eq!(within(theirs.next(PATIENCE)).await, Ok(Some("fine".into())));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_announces_much_and_sends_little_is_slow() {
    let mut node = Node::client().await;
    let peer = bare_to(&node).await;
    let mut io = peer.open(node.id()).await;
    io.write_all(&[0, 0x10, 0, 0, 7]).await.unwrap();
    io.flush().await.unwrap();
    let mut stream = node.accept().await;
    let began = tokio::time::Instant::now();
    // Its patience is for frames that have not begun; and a call that is dropped does not begin anew.
    let mut outcome = None;
    while outcome.is_none() {
        let wait = tokio::time::timeout(limits::PROGRESS_WINDOW / 4, stream.next(PATIENCE * 1000));
        outcome = wait.await.ok();
    }
    assert_eq!(outcome, Some(Err(DeliveryError::SlowSending { peer: peer.id })));
    assert!(began.elapsed() >= limits::PROGRESS_WINDOW);
    offence(&node.net, "slow_sending").await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_slowly_but_steadily_is_waited_for() {
    let mut node = Node::client().await;
    let peer = bare_to(&node).await;
    let mut io = peer.open(node.id()).await;
    let len = 64 * 1024_u32;
    let drip = tokio::spawn(async move {
        io.write_all(&len.to_be_bytes()).await.unwrap();
        for _ in 0..len / 1024 {
            io.write_all(&[7; 1024]).await.unwrap();
            io.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
        io
    });
    let mut stream = node.accept().await;
    let frame = stream.next(Duration::from_secs(1)).await.unwrap().unwrap();
    assert_eq!(frame.len(), len as usize);
    drip.await.unwrap();
    assert!(node.net.counters().offences.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_slow() {
    let node = Node::client().await;
    let mut peer = bare_to(&node).await;
    let mut stream = node.net.open_delivery(peer.id, Vec::new(), SHORT).await.unwrap();
    stream.send("hello".into()).await.unwrap();
    let _unread = peer.accept().await;
    let error = loop {
        if let Err(error) = stream.send(frame(65_536)).await {
            break error;
        }
    };
    assert_eq!(error, DeliveryError::SlowReading { peer: peer.id });
    assert_eq!(stream.next(PATIENCE).await, Err(error));
    offence(&node.net, "slow_reading").await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_first_frame_ends() {
    let mut node = Node::client().await;
    let peer = bare_to(&node).await;
    let mut io = peer.open(node.id()).await;
    io.flush().await.unwrap();
    let mut stream = node.accept().await;
    let after = limits::FIRST_FRAME_DEADLINE;
    assert_eq!(stream.next(PATIENCE * 1000).await, Err(DeliveryError::NoFirstFrame { peer: peer.id, after }));
    offence(&node.net, "stalled").await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_rest_as_long_as_both_like() {
    let (a, mut b) = two().await;
    let (mut ours, mut theirs) = a.stream_to(&mut b).await;
    let after = Duration::from_secs(3600);
    assert_eq!(ours.next(after).await, Err(DeliveryError::Idle { peer: b.id(), after }));
    theirs.send("after an hour".into()).await.unwrap();
    assert_eq!(ours.next(after).await, Ok(Some("after an hour".into())));
    assert!(a.net.counters().delivery_errors.is_empty() && a.net.counters().offences.is_empty());
}

#[tokio::test]
async fn an_application_that_takes_no_streams_refuses_them() {
    let a = Node::client().await;
    let b = Node::start(config(|config| {
        config.kad_mode = KadMode::Client;
        config.limits.accept_delivery = Duration::from_millis(1);
    }))
    .await;
    let mut stream = a.open(&b).await.unwrap();
    stream.send("anybody?".into()).await.unwrap();
    assert_eq!(within(stream.next(PATIENCE)).await, Err(DeliveryError::Refused { peer: b.id() }));
    assert_eq!((b.net.counters().deliveries_unaccepted, b.net.counters().deliveries_accepted), (1, 0));
    assert!(b.net.counters().offences.is_empty(), "it is no fault of the peer's");
    let Node { mut events, .. } = b;
    while let Some(event) = events.try_recv() {
        assert!(!matches!(event, NetEvent::Delivery { .. }), "it came too late");
    }
}

#[tokio::test]
async fn the_queue_of_streams_that_nobody_takes_has_an_end() {
    let (a, b) = two().await;
    let c = Node::client().await;
    let mut waiting = Vec::new();
    for opener in [&a, &c] {
        for _ in 0..limits::MAX_QUEUED_DELIVERIES / 2 {
            let mut stream = opener.open(&b).await.unwrap();
            stream.send("anybody?".into()).await.unwrap();
            waiting.push(stream);
        }
    }
    let d = Node::client().await;
    let mut one_more = d.open(&b).await.unwrap();
    one_more.send("anybody?".into()).await.unwrap();
    assert_eq!(within(one_more.next(PATIENCE)).await, Err(DeliveryError::Refused { peer: b.id() }));
    assert_eq!(b.net.counters().deliveries_refused, 1);
    // The others still wait.
    let after = Duration::from_millis(1);
    assert_eq!(waiting[0].next(after).await, Err(DeliveryError::Idle { peer: b.id(), after }));
}

#[tokio::test]
async fn a_stream_the_application_declines_is_refused() {
    let (a, mut b) = two().await;
    let mut ours = a.open(&b).await.unwrap();
    ours.send("hello".into()).await.unwrap();
    b.accept().await.refuse();
    assert_eq!(within(ours.next(PATIENCE)).await, Err(DeliveryError::Refused { peer: b.id() }));
}

#[tokio::test]
async fn a_flood_of_streams_costs_only_the_peer_that_makes_it() {
    let (a, mut b) = two().await;
    let (mut ours, mut theirs) = a.stream_to(&mut b).await;
    let flood = bare_to(&b).await;
    // It holds those it gets, and goes on until it is banned.
    let id = b.id();
    let storm = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(mut io) = flood.try_open(id, NotifyHandler::Any).await {
            let _ = io.write_all(b"\0\0\0\x01a").await;
            let _ = io.flush().await;
            held.push(io);
        }
    });
    until(&b.net, |counters| counters.bans == 1).await;
    within(storm).await.unwrap();
    ours.send("undisturbed".into()).await.unwrap();
    assert_eq!(within(theirs.next(PATIENCE)).await, Ok(Some("undisturbed".into())));
    let counters = b.net.counters();
    assert!(counters.deliveries_refused > 0 && counters.delivery_errors.is_empty(), "{counters:?}");
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_of_a_frame_has_a_name_and_a_new_stream_works() {
    let mut node = Node::client().await;
    let peer = bare_to(&node).await;
    let mut io = peer.open(node.id()).await;
    within(io.write_all(b"\0\0\0\x05he")).await.unwrap();
    within(io.flush()).await.unwrap();
    let mut stream = node.accept().await;
    let id = peer.id;
    drop(peer);
    assert_eq!(within(stream.next(PATIENCE)).await, Err(DeliveryError::ClosedMidFrame { peer: id }));
    // Between two of ours, and again.
    let key = secret();
    let keyed = |config: &mut NetConfig| {
        config.kad_mode = KadMode::Client;
        config.secret_key = key.into();
    };
    let mut b = Node::start(config(keyed)).await;
    let (mut ours, _theirs) = node.stream_to(&mut b).await;
    let (id, addresses) = (b.id(), b.addresses.clone());
    b.stop().await;
    assert_eq!(within(ours.next(PATIENCE)).await, Err(DeliveryError::Reset { peer: id }));
    let mut b = Node::start(config(|config| {
        keyed(config);
        config.listen = addresses;
    }))
    .await;
    let _both = node.stream_to(&mut b).await;
}

#[tokio::test]
async fn a_peer_without_the_protocol_is_named() {
    let node = Node::client().await;
    let peer = bare::Peer::new("/something/else/1", "/memory/0").await;
    let unsupported = DeliveryError::Unsupported { peer: peer.id, protocol: StreamKind::Delivery };
    let address = vec![peer.address.clone()];
    let mut asks = within(node.net.open_delivery(peer.id, address, SHORT)).await.unwrap();
    asks.send("hello".into()).await.unwrap();
    assert_eq!(within(asks.next(PATIENCE)).await, Err(unsupported.clone()));
    let mut tells = within(node.net.open_delivery(peer.id, Vec::new(), SHORT)).await.unwrap();
    let told = within(async {
        loop {
            if let Err(error) = tells.send("hello".into()).await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(told.await, unsupported);
    assert_eq!(node.net.counters().delivery_errors["unsupported"], 2);
}

#[tokio::test]
async fn a_stream_that_cannot_be_opened_says_why() {
    let (node, gone) = two().await;
    let id = gone.id();
    gone.stop().await;
    let none = within(node.net.open_delivery(id, Vec::new(), SHORT)).await.unwrap_err();
    assert_eq!(none, DeliveryError::Dial(DialError::NoAddresses(id)));
    let ours = within(node.net.open_delivery(node.id(), Vec::new(), SHORT)).await.unwrap_err();
    assert_eq!(ours, DeliveryError::Dial(DialError::ToSelf(node.id())));
    assert_eq!(
        node.net.counters().delivery_errors.keys().copied().collect::<Vec<_>>(),
        ["no_addresses", "to_self"]
    );
}

#[tokio::test]
async fn a_node_that_stops_ends_its_streams() {
    let (a, mut b) = two().await;
    let (mut ours, mut theirs) = a.stream_to(&mut b).await;
    let (net, a_id) = (a.net.clone(), a.id());
    a.stop().await;
    assert_eq!(within(ours.next(PATIENCE)).await, Err(DeliveryError::Stopped));
    assert_eq!(within(theirs.next(PATIENCE)).await, Err(DeliveryError::Reset { peer: a_id }));
    let stopped = within(net.open_delivery(b.id(), Vec::new(), SHORT)).await.unwrap_err();
    assert_eq!(stopped, DeliveryError::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_spare_connection_that_carries_a_stream_is_kept() {
    let mut node = Node::client().await;
    // Only the side with the smaller id closes spare connections.
    let peer = loop {
        let peer = bare_to(&node).await;
        if node.id() < peer.id {
            break peer;
        }
    };
    let net = node.net.clone();
    let connections = async |expected: usize| {
        within(async {
            loop {
                let status = net.status().await.unwrap();
                let of_peer = status.peers.iter().find(|status| status.peer == peer.id).unwrap();
                if of_peer.connections.len() == expected {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    };
    // The second carries a stream, the third nothing.
    let second = peer.dial(node.id(), node.addresses.clone()).await;
    let mut io = peer.try_open(node.id(), NotifyHandler::One(second)).await.unwrap();
    io.write_all(b"\0\0\0\x01a").await.unwrap();
    io.flush().await.unwrap();
    let mut stream = node.accept().await;
    peer.dial(node.id(), node.addresses.clone()).await;
    connections(3).await;
    connections(2).await;
    // Many ticks later it is still there.
    tokio::time::sleep(Duration::from_secs(30)).await;
    connections(2).await;
    io.write_all(b"\0\0\0\x01b").await.unwrap();
    io.flush().await.unwrap();
    for expected in ["a", "b"] {
        assert_eq!(stream.next(PATIENCE).await, Ok(Some(expected.into())));
    }
    drop(stream);
    connections(1).await;
}

#[tokio::test]
async fn streams_run_over_tcp_and_quic() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let real = |config: &mut NetConfig| {
            config.transport = Transport::Real;
            config.listen = vec![listen.parse().unwrap()];
        };
        let (a, mut b) = (Node::start(config(real)).await, Node::start(config(real)).await);
        let (ours, theirs) = a.stream_to(&mut b).await;
        within(async { tokio::join!(full_load(ours, 30), full_load(theirs, 30)) }).await;
        let (ours, mut theirs) = a.stream_to(&mut b).await;
        drop(ours);
        assert_eq!(within(theirs.next(PATIENCE)).await, Err(DeliveryError::Reset { peer: a.id() }));
        let mut ours = a.open(&b).await.unwrap();
        ours.send("hello".into()).await.unwrap();
        b.accept().await.refuse();
        assert_eq!(within(ours.next(PATIENCE)).await, Err(DeliveryError::Refused { peer: b.id() }));
    }
}

/// Halves can live in different tasks.
#[test]
fn halves_can_be_sent_to_other_tasks() {
    fn sendable<T: Send + 'static>() {}
    sendable::<DeliverySender>();
    sendable::<DeliveryReceiver>();
    sendable::<DeliveryStream>();
}
