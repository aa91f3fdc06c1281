//! What a stranger can send to a seller of batches, and what it gets for it.

use std::time::Duration;

use bytes::Bytes;
use sensora_node::net::{DeliveryError, DeliveryStream, StreamKind};
use sensora_node::store::release;
use sensora_node::supervisor::Node;
use sensora_protocol::Signed;
use sensora_protocol::market::key_release::frame::{Begin, ToBuyer, ToSeller};
use sensora_protocol::market::key_release::offer::KeyReleaseOffer;
use sensora_protocol::market::order::Order;
use sensora_protocol::market::refusal::Refusal;

use super::{COUNT, market, sale, seq};
use crate::world::{Place, World, options, until};

const PATIENCE: Duration = Duration::from_secs(20);

async fn open(from: &Node, world: &World) -> DeliveryStream {
    let to = world.agent.peer_id();
    let addresses = world.agent.addresses().await;
    from.net().open_stream(StreamKind::Release, to, addresses, PATIENCE).await.unwrap()
}

async fn send(stream: &mut DeliveryStream, frame: &ToSeller) {
    stream.send(Bytes::from(frame.to_bytes().unwrap())).await.unwrap();
}

async fn next(stream: &mut DeliveryStream) -> Option<ToBuyer> {
    let bytes = stream.next(PATIENCE).await.ok()??;
    Some(ToBuyer::from_bytes(&bytes).unwrap())
}

async fn quote(from: &Node, world: &World) -> Signed<KeyReleaseOffer> {
    let mut stream = open(from, world).await;
    send(&mut stream, &ToSeller::Quote { stream: world.stream().await.id, range: seq(0, COUNT) }).await;
    let Some(ToBuyer::Offer(offer)) = next(&mut stream).await else { panic!("no offer") };
    offer.verify_by(world.agent.network(), world.agent.identity().public()).unwrap()
}

fn begin(offer: &Signed<KeyReleaseOffer>, by: &Node, nonce: u8, next: u32) -> ToSeller {
    let network = by.network();
    let order = Order { offer: offer.digest(network), buyer: *by.identity().public(), nonce: [nonce; 16] };
    let order = Signed::sign(order, by.identity(), network).unwrap().into_bytes();
    ToSeller::Begin(Box::new(Begin { offer: offer.bytes().clone(), order, next }))
}

fn offences(node: &Node) -> u64 {
    node.net().counters().offences.get("malformed").copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_are_none_end_the_stream_and_are_counted() {
    let world = market(3000).await;
    let offer = quote(&world.buyer, &world).await;
    let first_frames = [
        Bytes::from_static(b"\xff"),
        Bytes::from_static(b"\x00"),
        Bytes::from(ToSeller::Lock(vec![1; 40]).to_bytes().unwrap()),
        Bytes::from(ToSeller::Alive.to_bytes().unwrap()),
        Bytes::from(ToBuyer::Alive.to_bytes().unwrap()).slice(1..),
    ];
    for (count, first) in (1..).zip(first_frames) {
        // Each from a stranger of its own: who does it often is turned away before it is heard.
        let mut config = options(20 + count, &Place::Memory);
        config.bootstrap.clone_from(&world.addresses);
        let stranger = Node::start(config).await.unwrap();
        let mut stream = open(&stranger, &world).await;
        stream.send(first.clone()).await.unwrap();
        assert_eq!(next(&mut stream).await, None, "{first:?}");
        until("the offence", || async { (offences(&world.agent) >= count.into()).then_some(()) }).await;
        stranger.shutdown().await;
    }
    // In the middle of an order.
    let quoted = ToSeller::Quote { stream: world.stream().await.id, range: seq(0, COUNT) };
    for second in [begin(&offer, &world.buyer, 1, 0), quoted] {
        let mut stream = open(&world.buyer, &world).await;
        send(&mut stream, &begin(&offer, &world.buyer, 1, u32::MAX)).await;
        assert_eq!(next(&mut stream).await, Some(ToBuyer::Begun { coin: None }));
        send(&mut stream, &second).await;
        let refused = next(&mut stream).await;
        assert!(matches!(refused, Some(ToBuyer::Refused(Refusal::Malformed { .. }))), "{refused:?}");
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_question_has_the_same_offer_and_one_buyer_has_few() {
    let world = market(6000).await;
    // The first anchor changes under which checkpoint the readings are sold.
    until("an anchor of everything", || async {
        // It may come after any block that is made by itself.
        super::mine(&world.bootstrap, &[&world.agent, &world.buyer], 1).await;
        let lags = world.agent.agent().unwrap().anchorer().lags().unwrap();
        lags.iter().all(|lag| lag.readings == 0).then_some(())
    })
    .await;
    let first = quote(&world.buyer, &world).await;
    assert_eq!(quote(&world.buyer, &world).await.bytes(), first.bytes(), "no batch is sealed twice");
    let id = world.stream().await.id;
    let mut refused = None;
    for from in 1..10 {
        let mut stream = open(&world.buyer, &world).await;
        send(&mut stream, &ToSeller::Quote { stream: id, range: seq(from, COUNT) }).await;
        match next(&mut stream).await {
            Some(ToBuyer::Offer(_)) => {}
            other => {
                refused = other;
                break;
            }
        }
    }
    assert!(matches!(refused, Some(ToBuyer::Refused(Refusal::Busy { .. }))), "{refused:?}");
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_serves_whom_it_was_made_to_and_parts_come_from_where_they_are_missing() {
    let world = market(3000).await;
    let offer = quote(&world.buyer, &world).await;
    let mut config = options(9, &Place::Memory);
    config.bootstrap.clone_from(&world.addresses);
    let other = Node::start(config).await.unwrap();
    let mut stream = open(&other, &world).await;
    send(&mut stream, &begin(&offer, &other, 1, 0)).await;
    let refused = next(&mut stream).await;
    assert!(matches!(refused, Some(ToBuyer::Refused(Refusal::ForeignOffer { .. }))), "{refused:?}");
    // An order that somebody else has signed.
    let mut stream = open(&other, &world).await;
    send(&mut stream, &begin(&offer, &world.buyer, 1, 0)).await;
    let refused = next(&mut stream).await;
    assert!(matches!(refused, Some(ToBuyer::Refused(Refusal::InvalidOrder { .. }))), "{refused:?}");

    let parts = offer.value().parts;
    assert!(parts >= 2);
    let mut whole = Vec::new();
    for from in 0..=parts {
        // Sent twice, it is the same order.
        let mut stream = open(&world.buyer, &world).await;
        send(&mut stream, &begin(&offer, &world.buyer, 2, from)).await;
        assert_eq!(next(&mut stream).await, Some(ToBuyer::Begun { coin: None }));
        if from < parts {
            let Some(ToBuyer::Parts(sent)) = next(&mut stream).await else { panic!("no parts") };
            assert_eq!(sent.len() as u32, parts - from);
            if from == 0 {
                whole = sent;
            } else {
                assert_eq!(sent, whole[from as usize..], "the same bytes, sealed again or not");
            }
        }
        // A coin that is none ends nothing.
        send(&mut stream, &ToSeller::Lock(vec![7; 50])).await;
        let refused = next(&mut stream).await;
        assert!(matches!(refused, Some(ToBuyer::Refused(Refusal::PaymentInvalid { .. }))), "{refused:?}");
    }
    assert_eq!(world.agent.store().read(release::sales).unwrap().len(), 1);
    other.shutdown().await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_that_begins_without_end_finds_an_end() {
    let world = market(3000).await;
    let offer = quote(&world.buyer, &world).await;
    let mut taken = 0;
    let refused = loop {
        let mut stream = open(&world.buyer, &world).await;
        send(&mut stream, &begin(&offer, &world.buyer, taken, u32::MAX)).await;
        match next(&mut stream).await {
            Some(ToBuyer::Begun { .. }) => taken += 1,
            other => break other,
        }
        assert!(taken < 50, "it has no bound");
    };
    assert!(matches!(refused, Some(ToBuyer::Refused(Refusal::Busy { .. }))), "{refused:?}");
    assert_eq!(world.agent.store().read(release::sales).unwrap().len(), usize::from(taken));
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_begins_anew_ends_the_stream_it_had() {
    let world = market(3000).await;
    let offer = quote(&world.buyer, &world).await;
    let mut before = open(&world.buyer, &world).await;
    send(&mut before, &begin(&offer, &world.buyer, 1, u32::MAX)).await;
    assert_eq!(next(&mut before).await, Some(ToBuyer::Begun { coin: None }));
    let mut after = open(&world.buyer, &world).await;
    send(&mut after, &begin(&offer, &world.buyer, 1, u32::MAX)).await;
    assert_eq!(next(&mut after).await, Some(ToBuyer::Begun { coin: None }));
    let ended = before.next(PATIENCE).await;
    assert!(matches!(ended, Err(DeliveryError::Reset { .. })), "{ended:?}");
    send(&mut after, &ToSeller::Lock(vec![1])).await;
    assert!(matches!(next(&mut after).await, Some(ToBuyer::Refused(_))), "the new one is served");
    let order = begin(&offer, &world.buyer, 1, 0);
    let ToSeller::Begin(begun) = order else { unreachable!() };
    let order = begun.order.verify::<Order>(world.buyer.network()).unwrap();
    assert_eq!(sale(&world.agent, &order.id(world.buyer.network())).state.name(), "delivering");
    world.shutdown().await;
}

/// An order that was chosen to give way has its coin before it is removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_paid_meanwhile_does_not_give_way() {
    let world = market(3000).await;
    let request = world.request(seq(0, COUNT)).await;
    let order = world.locked(&request).await;
    let removed = world.agent.store().write(|tx| release::remove_unpaid_sale(tx, &order)).unwrap();
    assert!(!removed);
    assert_eq!(sale(&world.agent, &order).state.name(), "locked");
    world.shutdown().await;
}

/// The coins of an order are counted on all its streams: a new stream does not bring free ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coins_that_are_none_are_paced_whichever_stream_brings_them() {
    let world = market(3000).await;
    let offer = quote(&world.buyer, &world).await;
    let started = std::time::Instant::now();
    let mut streams = Vec::new();
    for _ in 0..6 {
        let mut stream = open(&world.buyer, &world).await;
        send(&mut stream, &begin(&offer, &world.buyer, 1, u32::MAX)).await;
        assert_eq!(next(&mut stream).await, Some(ToBuyer::Begun { coin: None }));
        send(&mut stream, &ToSeller::Lock(vec![7; 50])).await;
        assert!(matches!(next(&mut stream).await, Some(ToBuyer::Refused(_))));
        streams.push(stream);
    }
    // Three are free; what follows the fourth and the fifth waits a second each.
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    world.shutdown().await;
}
