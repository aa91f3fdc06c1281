//! A buyer that has a real channel and sends whatever it likes on a delivery stream: each frame that is worth nothing is refused by name, nothing is
//! booked or delivered for it, and the order goes on with the next good voucher.

use std::time::Duration;

use bytes::Bytes;
use sensora_chain::contract::channel::{Channel, CloseTerms};
use sensora_chain::encode::sha256d;
use sensora_chain::{PrivateKey, Satoshis, SighashCache, Signature};
use sensora_node::net::{DeliveryReceiver, DeliverySender};
use sensora_node::store::channels;
use sensora_protocol::ad::PaymentMode;
use sensora_protocol::market::channel::buyer::BuyerChannel;
use sensora_protocol::market::channel::message::OpenChannel;
use sensora_protocol::market::channel::offer::{ChannelLimits, signing_invoice};
use sensora_protocol::market::delivery::frame::{Begin, OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::{Offer, Range};
use sensora_protocol::market::order::Order;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{ChannelId, Signed};

use crate::world::{Place, World, options, until};

const PATIENCE: Duration = Duration::from_secs(20);
/// Readings of the order, at 2 sat each.
const READINGS: u64 = 10;
const VALUE: u64 = 1_000;

fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

/// A channel of the buyer's, and what it can sign with.
struct Hostile<'a> {
    world: &'a World,
    record: BuyerChannel,
    contract: Channel,
    key: PrivateKey,
}

impl<'a> Hostile<'a> {
    async fn open(world: &'a World) -> Self {
        let limits = ChannelLimits { max_value: sat(VALUE), max_blocks: 1_000, max_close_fee: sat(100) };
        let seller = *world.agent.identity().public();
        let id = world.buyer.buyer().open_channel(&seller, sat(VALUE), 500, limits).await.unwrap();
        let record = world.buyer.store().read(|tx| channels::buyer(tx, &id)).unwrap().unwrap();
        let identity = world.buyer.identity();
        let (_, contract) = record.contract(identity, world.buyer.network()).unwrap();
        let key = identity.key().child(&seller, &signing_invoice(&id));
        Self { world, record, contract, key }
    }

    async fn offer(&self, range: Range) -> Signed<Offer> {
        let stream = self.world.stream().await.id;
        let seller = self.world.agent.identity().public();
        let question = Request::Quote { stream, range, mode: PaymentMode::Channel };
        match self.world.buyer.buyer().ask(seller, &question).await.unwrap() {
            Response::Ok(Answer::Offer(offer)) => offer.verify(self.world.buyer.network()).unwrap(),
            other => panic!("{}", other.name()),
        }
    }

    fn begin(&self, offer: &Signed<Offer>, nonce: u8) -> Begin {
        let network = self.world.buyer.network();
        let identity = self.world.buyer.identity();
        let order = Order { offer: offer.digest(network), buyer: *identity.public(), nonce: [nonce; 16] };
        Begin {
            offer: Offered::Range(offer.bytes().clone()),
            order: Signed::sign(order, identity, network).unwrap().into_bytes(),
            channel: self.record.id,
            budget: offer.value().total,
            next: offer.value().first,
        }
    }

    /// A voucher that is good, if the amounts are.
    fn voucher(&self, paid: u64, amount: u64) -> OrderVoucher {
        let signature = self.contract.sign_voucher(sat(amount), &self.key).unwrap().signature;
        OrderVoucher { paid: sat(paid), amount: sat(amount), signature }
    }

    async fn stream(&self) -> Stream {
        let (peer, net) = (self.world.agent.peer_id(), self.world.buyer.net());
        let addresses = self.world.agent.net().listen_addrs().await;
        let (sender, receiver) = net.open_delivery(peer, addresses, PATIENCE).await.unwrap().split();
        Stream { sender, receiver }
    }

    /// A stream on which the order has begun, and what the seller says that it has paid.
    async fn begun(&self, begin: &Begin) -> (Stream, Satoshis) {
        let mut stream = self.stream().await;
        stream.say(&ToSeller::Begin(Box::new(begin.clone()))).await;
        match stream.hear().await {
            Some(ToBuyer::Begun { paid, .. }) => (stream, paid),
            other => panic!("{other:?}"),
        }
    }
}

struct Stream {
    sender: DeliverySender,
    receiver: DeliveryReceiver,
}

impl Stream {
    async fn say(&mut self, frame: &ToSeller) {
        self.send(frame.to_bytes().unwrap()).await;
    }

    async fn send(&mut self, bytes: Vec<u8>) {
        self.sender.send(Bytes::from(bytes)).await.unwrap();
    }

    async fn hear(&mut self) -> Option<ToBuyer> {
        let bytes = self.receiver.next(PATIENCE).await.ok()??;
        Some(ToBuyer::from_bytes(&bytes).unwrap())
    }

    /// The refusal that ends the stream, and how many readings came before it.
    async fn refusal(&mut self) -> (Refusal, u64) {
        let mut readings = 0;
        loop {
            match self.hear().await {
                Some(ToBuyer::Refused(refusal)) => return (refusal, readings),
                Some(ToBuyer::Page(page)) => {
                    readings += page.runs.iter().map(|run| run.count().unwrap()).sum::<u64>();
                }
                Some(ToBuyer::Alive) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Bytes of a frame with one number in the place of another, both as eight bytes.
fn with_number(frame: &ToSeller, found: u64, instead: u64) -> Vec<u8> {
    let mut bytes = frame.to_bytes().unwrap();
    let found = found.to_be_bytes();
    let at = bytes.windows(8).position(|window| window == found).expect("the number is in the frame");
    bytes[at..at + 8].copy_from_slice(&instead.to_be_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voucher_that_is_worth_nothing_is_refused_by_name_and_the_order_goes_on() {
    let world = World::new(1_000).await;
    world.stream().await;
    let hostile = Hostile::open(&world).await;
    let other = Hostile::open(&world).await;
    let begin = hostile.begin(&hostile.offer(Range::Seq { first: 0, count: READINGS }).await, 1);
    let (mut stream, paid) = hostile.begun(&begin).await;
    assert_eq!(paid, Satoshis::ZERO);
    stream.say(&ToSeller::Voucher(hostile.voucher(4, 4))).await;
    // What is on its way when a stream is dropped may be lost, so it is kept until the seller has booked.
    until("the first voucher booked", || async {
        let booked = world.agent.store().read(channels::all_seller).unwrap();
        booked.iter().any(|channel| channel.earning.highest == sat(4)).then_some(())
    })
    .await;
    drop(stream);

    let signed = |signature: Signature| OrderVoucher { paid: sat(6), amount: sat(6), signature };
    let of = |contract: &Channel| signed(contract.sign_voucher(sat(6), &hostile.key).unwrap().signature);
    let elsewhere = CloseTerms { seller_hash: [7; 20], ..*hostile.contract.close_terms() };
    let (terms, output) = (*hostile.contract.terms(), hostile.contract.output().value);
    let outputs = Channel::new(terms, elsewhere, hostile.contract.outpoint(), output).unwrap();
    let dearer = CloseTerms { fee: sat(1), ..*hostile.contract.close_terms() };
    let dearer = Channel::new(terms, dearer, hostile.contract.outpoint(), output).unwrap();
    let close = hostile.contract.close(sat(6)).unwrap();
    let typed = |sighash: u32| {
        let cache = SighashCache::new(&close);
        let preimage = cache.preimage(0, &hostile.contract.output().locking, output, sighash).unwrap();
        signed(hostile.key.sign(&sha256d(&preimage)))
    };
    let foreign = other.voucher(6, 6);
    let cases: Vec<(&str, OrderVoucher, &str)> = vec![
        ("the last one again", hostile.voucher(4, 4), "already"),
        ("lower than the last one", hostile.voucher(2, 2), "already"),
        ("nothing", hostile.voucher(0, 4), "already"),
        ("more for the order than for the channel", hostile.voucher(8, 6), "voucher"),
        ("for another channel", foreign, "signature"),
        ("with another seller's output", of(&outputs), "signature"),
        ("with another fee", of(&dearer), "signature"),
        ("signed for any other output", typed(0x43), "signature"),
        ("signed for one output", typed(0xc3), "signature"),
        ("signed without FORKID", typed(0x01), "signature"),
        ("signed by somebody else", signed(world.agent.identity().key().sign(&[1; 32])), "signature"),
        (
            "above what is in the channel",
            OrderVoucher { amount: sat(VALUE), ..hostile.voucher(6, 6) },
            "can pay",
        ),
        (
            "all there is",
            OrderVoucher { paid: Satoshis::MAX, amount: Satoshis::MAX, ..hostile.voucher(6, 6) },
            "can pay",
        ),
    ];
    for (what, voucher, says) in cases {
        // A stream takes the place of the one before it, which may still be served.
        let (mut stream, paid) = hostile.begun(&begin).await;
        assert_eq!(paid, sat(4), "{what}: nothing was booked before it");
        stream.say(&ToSeller::Voucher(voucher)).await;
        let (refusal, readings) = stream.refusal().await;
        let Refusal::VoucherInvalid { reason } = &refusal else { panic!("{what}: {refusal:?}") };
        assert!(reason.contains(says), "{what}: {reason}");
        assert!(readings < READINGS, "{what}: {readings} readings came for 4 sat");
    }

    // A number that is no amount does not become one.
    for number in [Satoshis::MAX.as_u64() + 1, 1 << 63, u64::MAX] {
        let (mut stream, paid) = hostile.begun(&begin).await;
        assert_eq!(paid, sat(4));
        let frame = ToSeller::Voucher(OrderVoucher { amount: Satoshis::MAX, ..hostile.voucher(6, 6) });
        stream.send(with_number(&frame, Satoshis::MAX.as_u64(), number)).await;
        let (refusal, _) = stream.refusal().await;
        assert!(matches!(refusal, Refusal::Malformed { .. }), "{number}: {refusal:?}");
    }

    // And the good one, for all of it.
    let (mut stream, paid) = hostile.begun(&begin).await;
    assert_eq!(paid, sat(4));
    stream.say(&ToSeller::Voucher(hostile.voucher(2 * READINGS, 2 * READINGS))).await;
    until_ended(&mut stream).await;
    let earning = world.agent.store().read(channels::all_seller).unwrap();
    let earning = &earning.iter().find(|channel| channel.id == hostile.record.id).unwrap().earning;
    assert_eq!((earning.highest, earning.ended), (sat(2 * READINGS), sat(2 * READINGS)));
    world.shutdown().await;
}

async fn until_ended(stream: &mut Stream) {
    loop {
        match stream.hear().await {
            Some(ToBuyer::Ended { .. }) => return,
            Some(ToBuyer::Page(_) | ToBuyer::Alive) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_cannot_begin_is_told_why_and_nothing_is_kept_of_it() {
    let world = World::new(1_000).await;
    world.stream().await;
    let hostile = Hostile::open(&world).await;
    let offer = hostile.offer(Range::Seq { first: 0, count: READINGS }).await;
    let good = hostile.begin(&offer, 1);
    // An offer to somebody else, as it could be overheard.
    let mut config = options(7, &Place::Memory);
    config.bootstrap.clone_from(&world.addresses);
    let stranger = sensora_node::supervisor::Node::start(config).await.unwrap();
    let stream = world.stream().await.id;
    let question = Request::Quote {
        stream,
        range: Range::Seq { first: 0, count: READINGS },
        mode: PaymentMode::Channel,
    };
    let seller = *world.agent.identity().public();
    let overheard = until("the stranger's offer", || async {
        match stranger.buyer().ask(&seller, &question).await.ok()? {
            Response::Ok(Answer::Offer(offer)) => Some(offer.verify::<Offer>(stranger.network()).unwrap()),
            _ => None,
        }
    })
    .await;
    let large = hostile.offer(Range::Seq { first: 0, count: VALUE / 2 }).await;
    let forged = Signed::sign(offer.value().clone(), world.buyer.identity(), world.buyer.network()).unwrap();
    type Fits = fn(&Refusal) -> bool;
    let cases: Vec<(&str, Begin, Fits)> = vec![
        ("a channel that is not there", Begin { channel: ChannelId([1; 32]), ..good.clone() }, |refusal| {
            matches!(refusal, Refusal::UnknownChannel { .. })
        }),
        ("an offer to another buyer", hostile.begin(&overheard, 2), |refusal| {
            matches!(refusal, Refusal::ForeignOffer { .. })
        }),
        ("an offer that the buyer has signed itself", hostile.begin(&forged, 3), |refusal| {
            matches!(refusal, Refusal::ForeignOffer { .. })
        }),
        (
            "an order of another offer",
            Begin { order: hostile.begin(&large, 4).order, ..good.clone() },
            |refusal| matches!(refusal, Refusal::InvalidOrder { .. }),
        ),
        ("more than the channel holds", hostile.begin(&large, 5), |refusal| {
            matches!(refusal, Refusal::ChannelTooSmall { .. })
        }),
    ];
    for (what, begin, fits) in cases {
        let mut stream = hostile.stream().await;
        stream.say(&ToSeller::Begin(Box::new(begin))).await;
        let (refusal, readings) = stream.refusal().await;
        assert!(fits(&refusal) && readings == 0, "{what}: {refusal:?}");
    }
    assert!(world.agent.store().read(channels::open_sales).unwrap().is_empty(), "nothing is kept");

    // Frames at the wrong moment, and frames that are none.
    let (mut stream, _) = hostile.begun(&good).await;
    stream.say(&ToSeller::Begin(Box::new(good.clone()))).await;
    assert!(matches!(stream.refusal().await.0, Refusal::Malformed { .. }));
    for bytes in [vec![], vec![0xff], vec![0x9b; 9], vec![0x61; 70_000]] {
        let (mut stream, _) = hostile.begun(&good).await;
        if stream.sender.send(Bytes::from(bytes.clone())).await.is_err() {
            continue;
        }
        // A frame over the limit ends the stream without a word.
        loop {
            match stream.hear().await {
                Some(ToBuyer::Refused(Refusal::Malformed { .. })) | None => break,
                Some(ToBuyer::Page(_) | ToBuyer::Alive) => {}
                other => panic!("{bytes:x?}: {other:?}"),
            }
        }
    }
    let mut stream = hostile.stream().await;
    stream.say(&ToSeller::Voucher(hostile.voucher(2, 2))).await;
    assert!(stream.hear().await.is_none(), "a stream that does not begin is ended");

    // The order itself is none the worse for it.
    let (mut stream, paid) = hostile.begun(&good).await;
    assert_eq!(paid, Satoshis::ZERO);
    stream.say(&ToSeller::Voucher(hostile.voucher(2 * READINGS, 2 * READINGS))).await;
    until_ended(&mut stream).await;
    stranger.shutdown().await;
    world.shutdown().await;
}

/// Whoever sends the offer of a channel again, with the same funding or another, gets the answer of the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_of_a_channel_opens_one_however_often_it_is_sent() {
    let world = World::new(200).await;
    world.stream().await;
    let (first, second) = (Hostile::open(&world).await, Hostile::open(&world).await);
    let seller = *world.agent.identity().public();
    let ask = async |request: OpenChannel| {
        world.buyer.buyer().ask(&seller, &Request::OpenChannel(request)).await.unwrap()
    };
    let stored = || -> Vec<_> {
        let all = world.agent.store().read(channels::all_seller).unwrap();
        all.into_iter()
            .map(|channel| (channel.id, channel.outpoint, channel.funding, channel.earning))
            .collect()
    };
    let before = stored();
    assert_eq!(before.len(), 2);
    let good = OpenChannel { offer: first.record.offer.clone(), funding: first.record.funding.beef.clone() };
    let again: Vec<_> = (0..16).map(|_| ask(good.clone())).collect();
    for answer in again {
        let Response::Ok(Answer::Channel(report)) = answer.await else { panic!("refused") };
        assert_eq!(report.highest, Satoshis::ZERO);
    }
    // With the funding of another channel, and with none: the first one's is what counts.
    for funding in [second.record.funding.beef.clone(), vec![1, 2, 3]] {
        let answer = ask(OpenChannel { funding, ..good.clone() }).await;
        assert!(matches!(answer, Response::Ok(Answer::Channel(_))), "{}", answer.name());
    }
    // A new offer is not funded with what funds another, or with nothing.
    let question = Request::QuoteChannel { value: sat(VALUE), blocks: 500 };
    let offer = match world.buyer.buyer().ask(&seller, &question).await.unwrap() {
        Response::Ok(Answer::ChannelOffer(offer)) => offer,
        other => panic!("{}", other.name()),
    };
    for funding in [second.record.funding.beef.clone(), vec![1, 2, 3], vec![]] {
        let answer = ask(OpenChannel { funding, offer: offer.clone() }).await;
        let Response::Refused(refusal) = answer else { panic!("taken: {}", answer.name()) };
        let fits = matches!(refusal, Refusal::PaymentInvalid { .. } | Refusal::PaymentToWrongKey { .. });
        assert!(fits, "{refusal:?}");
    }
    // Somebody else's channel is nobody's but its buyer's.
    let mut config = options(7, &Place::Memory);
    config.bootstrap.clone_from(&world.addresses);
    let stranger = sensora_node::supervisor::Node::start(config).await.unwrap();
    let refusal = until("an answer to the stranger", || async {
        match stranger.buyer().ask(&seller, &Request::OpenChannel(good.clone())).await.ok()? {
            Response::Refused(refusal) => Some(refusal),
            other => panic!("{}", other.name()),
        }
    })
    .await;
    assert!(matches!(refusal, Refusal::ForeignOffer { .. } | Refusal::ChannelClosed { .. }), "{refusal:?}");
    assert_eq!(stored(), before, "nothing has changed");
    stranger.shutdown().await;
    world.shutdown().await;
}
