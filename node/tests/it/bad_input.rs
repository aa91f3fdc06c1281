//! What a hostile or broken peer may send: each is refused with a typed error, blamed on who sent it, and nothing is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::{Network, OutPoint, Satoshis, Script, Transaction, TxIn, TxOut, Txid};
use sensora_node::agent::SourceOptions;
use sensora_node::agent::recorder::RecorderError;
use sensora_node::agent::source::{HostGroup, HostSpec, RawReading, SourceSpec};
use sensora_node::buyer::{BuyError, BuyRequest};
use sensora_node::clock::Clock;
use sensora_node::discovery::{DiscoveryError, Query, Way};
use sensora_node::net::{Offence, PeerId, Protocol, Topic, peer_id_from_public_key};
use sensora_node::store::peers::{self, KnownPeer};
use sensora_node::store::{Store, StoreError, bought, orders};
use sensora_node::supervisor::Node;
use sensora_node::wallet::WalletHandleError;
use sensora_protocol::ad::PaymentMode;
use sensora_protocol::ad::{self, Ad, AdError, MAX_AD_LEN, StreamAd};
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::message::{Answer, MAX_REQUEST_LEN, Request, Response};
use sensora_protocol::market::offer::{Offer, OfferError, Range};
use sensora_protocol::market::payment;
use sensora_protocol::market::purchase::{Purchase, PurchaseAction, PurchaseError};
use sensora_protocol::market::receipt::Receipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::PurchaseRequest;
use sensora_protocol::statement::{SignedBytes, Statement as _, digest};
use sensora_protocol::stream::{Run, Value, columns};
use sensora_protocol::{Hash, OrderId, Signed, StreamId};

use crate::disk::{Disk, Full};
use crate::double::{Double, Pages, readings};
use crate::world::{Place, World, agent, bootstrap, fund, identity, limits, options, sim, terms, until};

/// A bootstrap, a buyer with money, and a seller whose answers can be bent.
async fn stage(count: i64) -> (Node, Node, Double) {
    let (bootstrap, addresses) = bootstrap().await;
    let mut config = options(3, &Place::Memory);
    config.bootstrap = addresses;
    let buyer = Node::start(config).await.unwrap();
    fund(&buyer, 1_000_000).await;
    let double = Double::new(9, &bootstrap, count).await;
    (bootstrap, buyer, double)
}

async fn close(bootstrap: Node, buyer: Node) {
    buyer.wallet().audit().unwrap();
    buyer.shutdown().await;
    bootstrap.shutdown().await;
}

async fn score(node: &Node, peer: &PeerId) -> f64 {
    let status = node.net().status().await.unwrap();
    status.peers.iter().find(|found| &found.peer == peer).map_or(0.0, |found| found.score)
}

/// A bare peer that is connected to the agent of `world`.
async fn stranger(world: &World) -> Node {
    let mut config = options(7, &Place::Memory);
    config.bootstrap.clone_from(&world.addresses);
    let node = Node::start(config).await.unwrap();
    node.net().dial(world.agent.peer_id(), world.agent.net().listen_addrs().await).await.unwrap();
    node
}

async fn send(from: &Node, to: &Node, frame: Vec<u8>) -> Response {
    let addresses = to.net().listen_addrs().await;
    let body = Bytes::from(frame);
    let answer =
        from.net().request(to.peer_id(), addresses, Protocol::Market, body, Duration::from_secs(10)).await;
    Response::from_bytes(&answer.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_are_no_requests_are_refused_and_charged() {
    let world = World::new(100).await;
    let stream = world.stream().await;
    let quote = Request::Quote { stream: stream.id, range: Range::Last(3), mode: PaymentMode::Direct }
        .to_bytes()
        .unwrap();
    let truncated = quote[..quote.len() - 1].to_vec();
    let trailing = [quote.as_slice(), &[0]].concat();
    let deep = [vec![0x81; 40], vec![0]].concat();
    let indefinite = vec![0xbf, 0xff];
    let not_minimal = vec![0x18, 0x05];
    let unsorted = vec![0xa2, 0x61, b'b', 0x01, 0x61, b'a', 0x01];
    let lying_length = vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let oversized = vec![0x40; MAX_REQUEST_LEN + 1];
    let frames = [
        ("truncated", truncated),
        ("trailing", trailing),
        ("deep", deep),
        ("indefinite", indefinite),
        ("not minimal", not_minimal),
        ("unsorted", unsorted),
        ("a length that is a lie", lying_length),
        ("oversized", oversized),
    ];
    // Four at a time: with the fifth a peer is banned.
    for (seed, frames) in (20..).zip(frames.chunks(4)) {
        let mut config = options(seed, &Place::Memory);
        config.bootstrap.clone_from(&world.addresses);
        let stranger = Node::start(config).await.unwrap();
        for (number, (what, frame)) in frames.iter().enumerate() {
            let answer = send(&stranger, &world.agent, frame.clone()).await;
            assert!(
                matches!(&answer, Response::Refused(Refusal::Malformed { .. })),
                "{what}: {}",
                answer.name()
            );
            let points = (number + 1) as f64 * Offence::Malformed.severity().points();
            until("the offence", || async {
                (score(&world.agent, &stranger.peer_id()).await > points - 1.0).then_some(())
            })
            .await;
        }
        // An honest request is still answered.
        assert_eq!(send(&stranger, &world.agent, quote.clone()).await.name(), "offer");
        stranger.shutdown().await;
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_at_the_address_is_an_error_that_says_so() {
    let world = World::new(10).await;
    let wrong = peer_id_from_public_key(&identity(99).public().to_bytes()).unwrap();
    let addresses = world.agent.net().listen_addrs().await;
    let error = world
        .buyer
        .net()
        .request(
            wrong,
            addresses,
            Protocol::Market,
            Request::Ad.to_bytes().unwrap().into(),
            Duration::from_secs(10),
        )
        .await
        .unwrap_err();
    assert_eq!(error.label(), "wrong_peer", "{error}");
    world.shutdown().await;
}

/// Leaves out, alters or exchanges what a page holds.
fn bent(page: &Page, double: &Pages, how: &str) -> Page {
    let schema = crate::double::schema();
    let mut page = page.clone();
    let run = page.runs[0].clone();
    let mut readings = run.open(&schema).unwrap().readings;
    match how {
        "altered" => {
            readings[2].values = vec![Value::Float(-40.0)];
            page.runs[0].columns = columns::encode(&schema, &readings).unwrap();
        }
        "omitted" => {
            readings.remove(2);
            for (reading, seq) in readings.iter_mut().zip(run.first..) {
                reading.seq = seq;
            }
            let columns = columns::encode(&schema, &readings).unwrap();
            let mut salts = sensora_protocol::market::delivery::salts_of(&run, readings.len() + 1);
            salts.remove(2);
            page.runs[0] =
                Run { first: run.first, columns, salts: sensora_protocol::stream::Salts::Each(salts) };
        }
        "of another stream" => {
            let size = double.recorder.summary(&double.streams[1]).unwrap().size;
            let end = readings.last().unwrap().seq + 1;
            return double.recorder.page(&double.streams[1], run.first, end, size).unwrap();
        }
        "of other readings" => {
            let size = double.recorder.summary(&double.streams[0]).unwrap().size;
            return double.recorder.page(&double.streams[0], run.first + 1, run.first + 5, size).unwrap();
        }
        "empty" => page.runs.clear(),
        "damaged" => page.runs[0].columns.truncate(5),
        other => panic!("{other}"),
    }
    page
}

async fn missing(buyer: &Node, request: &BuyRequest) -> bool {
    let Range::Seq { first, count } = request.range else { panic!("a range by numbers") };
    let missing =
        buyer.store().read(|tx| bought::missing(tx, &request.stream, first, first + count)).unwrap();
    missing == [(first, first + count)]
}

/// After a lie: nothing is kept, the seller is charged, and the order goes on as soon as it tells the truth. Paid once.
async fn recovers(buyer: &Node, double: &Double, request: &BuyRequest, state: &str) {
    assert!(missing(buyer, request).await, "nothing of a lie is kept");
    until("the offence", || async { (score(buyer, &double.peer()).await > 15.0).then_some(()) }).await;
    let Range::Seq { first, count } = request.range else { panic!("a range by numbers") };
    let orders = buyer.buyer().orders().unwrap();
    let order = orders.iter().find(|order| (order.stream, order.first) == (request.stream, first)).unwrap();
    assert_eq!(order.state.name(), state);
    double.repents();
    buyer.buyer().resume_order(&order.order, |_| {}).await.unwrap();
    let schema = crate::double::schema();
    let bought = buyer.buyer().readings(&request.stream, &schema, first, first + count, 1000).unwrap();
    assert_eq!(bought, double.recorder.readings(&request.stream, first, first + count).unwrap());
    let lines = buyer.wallet().history().unwrap();
    let label = format!("order {}", order.order);
    assert_eq!(lines.iter().filter(|line| line.label == label).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_delivery_is_not_kept_and_the_order_goes_on_when_the_truth_comes() {
    let (bootstrap, buyer, _) = stage(1).await;
    for (seed, lies) in
        (30..).zip([["altered", "omitted", "of another stream"], ["of other readings", "empty", "damaged"]])
    {
        let double = Double::new(seed, &bootstrap, 200).await;
        for (number, lie) in (0..).zip(lies) {
            let request = double.meet(&buyer, Range::Seq { first: number * 20, count: 20 }).await;
            let pages = double.pages();
            double.answers(move |_, answer| match answer {
                Response::Ok(Answer::Page(page)) => Response::Ok(Answer::Page(bent(&page, &pages, lie))),
                answer => answer,
            });
            let error = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
            assert!(
                matches!(&error, BuyError::Purchase { source, .. } if matches!(**source, PurchaseError::Delivery(_))),
                "{lie}: {error}"
            );
            recovers(&buyer, &double, &request, "delivering").await;
        }
    }
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_that_does_not_fit_its_order_is_no_receipt() {
    let (bootstrap, buyer, double) = stage(200).await;
    type Bend = fn(&mut Receipt);
    let bends: [(&str, Bend); 4] = [
        ("order", |receipt| receipt.order = OrderId([7; 32])),
        ("paid", |receipt| receipt.paid = Satoshis::from_sat(1)),
        ("txid", |receipt| receipt.txid = Txid([7; 32])),
        ("signature", |_| ()),
    ];
    for (number, (field, bend)) in (0..).zip(bends) {
        let request = double.meet(&buyer, Range::Seq { first: number * 10, count: 10 }).await;
        let signer = if field == "signature" { identity(77) } else { double.identity.clone() };
        double.answers(move |_, answer| match answer {
            Response::Ok(Answer::Receipt(receipt)) => {
                let mut receipt = receipt.verify::<Receipt>(Network::Regtest).unwrap().value().clone();
                bend(&mut receipt);
                let signed = Signed::sign(receipt, &signer, Network::Regtest).unwrap();
                Response::Ok(Answer::Receipt(signed.into_bytes()))
            }
            answer => answer,
        });
        let error = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
        let BuyError::Purchase { source, .. } = &error else { panic!("{field}: {error}") };
        match &**source {
            PurchaseError::Receipt { field: found } => assert_eq!(*found, field),
            PurchaseError::Statement(_) => assert_eq!(field, "signature"),
            other => panic!("{field}: {other}"),
        }
        recovers(&buyer, &double, &request, "paying").await;
    }
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_is_not_what_was_asked_and_advertised_is_not_paid() {
    let (bootstrap, buyer, double) = stage(200).await;
    let request = double.meet(&buyer, Range::Seq { first: 5, count: 10 }).await;
    type Bend = Box<dyn Fn(&mut Offer) + Send>;
    let other = double.streams[1];
    let bends: Vec<(&str, Bend)> = vec![
        (
            "dearer than the ad",
            Box::new(|o| {
                o.price = "3".parse().unwrap();
                o.total = Satoshis::from_sat(30);
            }),
        ),
        ("wrong total", Box::new(|o| o.total = Satoshis::from_sat(21))),
        ("for another buyer", Box::new(|o| o.buyer = *identity(50).public())),
        ("another stream", Box::new(move |o| o.stream = other)),
        ("another name", Box::new(|o| o.name = "other".into())),
        ("other terms", Box::new(|o| o.licence = "proprietary".into())),
        ("too long", Box::new(|o| o.expires_ms += 2 * 3_600_000)),
        (
            "over",
            Box::new(|o| {
                o.issued_ms -= 3_600_000;
                o.expires_ms = o.issued_ms + 60_000;
            }),
        ),
        ("other readings", Box::new(|o| o.first = 6)),
        ("no readings", Box::new(|o| o.count = 0)),
        (
            "more than there are",
            Box::new(|o| {
                o.first = u64::MAX - 1;
                o.count = 5;
            }),
        ),
        ("half of all numbers", Box::new(|o| o.count = 1 << 63)),
    ];
    for (what, bend) in bends {
        let signer = double.identity.clone();
        double.answers(move |_, answer| match answer {
            Response::Ok(Answer::Offer(offer)) => {
                let mut offer = offer.verify::<Offer>(Network::Regtest).unwrap().value().clone();
                bend(&mut offer);
                let signed = Signed::sign(offer, &signer, Network::Regtest).unwrap();
                Response::Ok(Answer::Offer(signed.into_bytes()))
            }
            answer => answer,
        });
        let error = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
        let BuyError::Offer(error) = &error else { panic!("{what}: {error}") };
        let fits = match what {
            "dearer than the ad" => matches!(**error, OfferError::DearerThanAd { .. }),
            "wrong total" => matches!(**error, OfferError::Total { .. }),
            "for another buyer" => matches!(**error, OfferError::Buyer(_)),
            "another stream" => matches!(**error, OfferError::Stream { .. }),
            "another name" => matches!(**error, OfferError::StreamId(_)),
            "other terms" => matches!(**error, OfferError::Licence { .. }),
            "too long" | "over" => matches!(**error, OfferError::Lifetime { .. }),
            _ => matches!(**error, OfferError::Range { .. }),
        };
        assert!(fits, "{what}: {error}");
    }
    // Signed by somebody else.
    let stranger = identity(51);
    double.answers(move |_, answer| match answer {
        Response::Ok(Answer::Offer(offer)) => {
            let offer = offer.verify::<Offer>(Network::Regtest).unwrap().value().clone();
            Response::Ok(Answer::Offer(
                Signed::sign(offer, &stranger, Network::Regtest).unwrap().into_bytes(),
            ))
        }
        answer => answer,
    });
    let error = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(&error, BuyError::Offer(e) if matches!(**e, OfferError::Statement(_))), "{error}");
    // Above what the buyer set itself, with an honest seller.
    double.repents();
    let mut dear = request.clone();
    dear.limits.max_price = Satoshis::from_sat(19);
    let error = buyer.buyer().buy(&dear, |_| {}).await.unwrap_err();
    assert!(matches!(&error, BuyError::Offer(e) if matches!(**e, OfferError::MaxPrice { .. })), "{error}");
    let mut exposed = request.clone();
    exposed.limits.exposure = Satoshis::from_sat(19);
    let error = buyer.buyer().buy(&exposed, |_| {}).await.unwrap_err();
    assert!(matches!(&error, BuyError::Offer(e) if matches!(**e, OfferError::Exposure { .. })), "{error}");
    // What cannot be asked for.
    for range in [Range::Seq { first: 0, count: 0 }, Range::Seq { first: u64::MAX, count: 2 }] {
        let none = BuyRequest { range, ..request.clone() };
        assert!(matches!(buyer.buyer().buy(&none, |_| {}).await, Err(BuyError::Range { .. })));
    }
    let beyond = BuyRequest { range: Range::Seq { first: 190, count: 11 }, ..request.clone() };
    let error = buyer.buyer().buy(&beyond, |_| {}).await.unwrap_err();
    assert!(matches!(error, BuyError::Refused(Refusal::RangeNotAvailable { size: 200 })), "{error}");
    // Of all that nothing was ordered or reserved.
    assert!(buyer.buyer().orders().unwrap().is_empty());
    assert_eq!(buyer.wallet().balance().unwrap().reserved, Satoshis::ZERO);
    assert_eq!(buyer.wallet().history().unwrap().len(), 1, "only the faucet");
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ad_that_is_over_or_withdrawn_sells_nothing_and_does_not_come_back() {
    let (bootstrap, buyer, double) = stage(100).await;
    let request = double.meet(&buyer, Range::Seq { first: 0, count: 10 }).await;
    let honest = double.ad();
    assert!(buyer.discovery().ad_of(&double.key()).await.is_ok());
    let offer = buyer.buyer().quote(&request).await.unwrap();

    let withdrawn =
        Ad { withdrawn: true, streams: Vec::new(), version: honest.version + 5, ..honest.clone() };
    double.seller.set_ad(double.sign(withdrawn));
    let error = buyer.discovery().ad_of(&double.key()).await.unwrap_err();
    assert!(matches!(&error, DiscoveryError::Ad { source: AdError::Withdrawn { .. }, .. }), "{error}");
    let refused = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(refused, BuyError::Refused(Refusal::NotSelling)), "{refused}");
    // The old ad, said again, does not bring it back.
    let old = ad::to_bytes(&double.sign(honest.clone())).unwrap();
    buyer.discovery().book().take(&old, Way::Gossip, None).unwrap().unwrap();
    assert!(matches!(buyer.discovery().ad_of(&double.key()).await, Err(DiscoveryError::Ad { .. })));
    let query = Query { seller: Some(double.key()), ..Query::default() };
    let ways = BTreeSet::from([Way::Gossip]);
    assert!(buyer.discovery().search(&query, &ways, Duration::from_millis(1)).await.unwrap().is_empty());
    // An offer that was given still holds, and what it buys is delivered.
    let purchase = buyer.buyer().order(&offer).unwrap();
    buyer.buyer().resume_order(&purchase.id, |_| {}).await.unwrap();

    let other = Double::new(10, &bootstrap, 100).await;
    let request = other.meet(&buyer, Range::Seq { first: 0, count: 10 }).await;
    let mut over = other.ad();
    (over.issued_ms, over.expires_ms) = (over.issued_ms - 7_200_000, over.issued_ms - 1000);
    other.seller.set_ad(other.sign(over));
    let error = buyer.discovery().ad_of(&other.key()).await.unwrap_err();
    assert!(matches!(&error, DiscoveryError::Ad { source: AdError::Expired { .. }, .. }), "{error}");
    let refused = buyer.buyer().buy(&request, |_| {}).await.unwrap_err();
    assert!(matches!(refused, BuyError::Refused(Refusal::NotSelling)), "{refused}");
    close(bootstrap, buyer).await;
}

/// An order of an offer, and a payment with these outputs that is signed and goes nowhere by itself.
fn order_and_pay(
    buyer: &Node,
    offer: &Signed<Offer>,
    outputs: impl Fn(Script) -> Vec<TxOut>,
) -> PurchaseRequest {
    let (identity, wallet) = (buyer.identity(), buyer.wallet());
    let purchase = Purchase::agree(offer, [9; 16], identity, Network::Regtest, 0).unwrap();
    let order = purchase.signed_order(Network::Regtest).unwrap();
    let script = payment::script_for_buyer(order.value(), identity.key(), offer.key());
    let spec = wallet.spec(outputs(script), "by hand").unwrap();
    let built = wallet.update(|wallet, _| {
        let built = wallet.build(identity.key(), spec, 0).map_err(WalletHandleError::from)?;
        // Its coins are free again: each of these payments is another use of them.
        wallet.mark_rejected(&built.txid, "by hand")?;
        Ok::<_, WalletHandleError>(built)
    });
    PurchaseRequest { offer: offer.bytes().clone(), order: purchase.order, payment: built.unwrap().beef }
}

fn output(value: Satoshis, locking: Script) -> Vec<TxOut> {
    vec![TxOut { value, locking }]
}

/// A chain of unmined transactions with a Merkle path at its root that is a lie.
fn deep_beef(depth: usize, height: u32) -> Vec<u8> {
    let mut beef = Beef::new();
    let locking = Script::p2pkh(&[3; 20]);
    let out = || output(Satoshis::from_sat(1000), locking.clone());
    let mut tx = Transaction::new(vec![TxIn::new(OutPoint { txid: Txid([1; 32]), vout: 0 })], out());
    let path = MerklePath::for_block(height, &[tx.txid()], 0).unwrap();
    beef.add(tx.clone(), Some(&path)).unwrap();
    for _ in 0..depth {
        tx = Transaction::new(vec![TxIn::new(OutPoint { txid: tx.txid(), vout: 0 })], out());
        beef.add(tx.clone(), None).unwrap();
    }
    beef.to_atomic(&tx.txid()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_is_none_is_refused_and_nothing_is_kept() {
    let (bootstrap, buyer, double) = stage(100).await;
    bootstrap.chain().mine().await.unwrap();
    double.chain.refresh().await.unwrap();
    let request = double.meet(&buyer, Range::Seq { first: 0, count: 50 }).await;
    let offer = buyer.buyer().quote(&request).await.unwrap();
    let total = offer.value().total;
    let ask = |request: PurchaseRequest| {
        let (buyer, seller) = (buyer.buyer().clone(), double.key());
        async move {
            match buyer.ask(&seller, &Request::Purchase(request)).await.unwrap() {
                Response::Refused(refusal) => refusal,
                Response::Ok(answer) => panic!("{answer:?}"),
            }
        }
    };
    let good = order_and_pay(&buyer, &offer, |script| output(total, script));
    let with = |payment: Vec<u8>| PurchaseRequest { payment, ..good.clone() };

    let wrong_key = order_and_pay(&buyer, &offer, |_| output(total, Script::p2pkh(&[7; 20])));
    assert!(matches!(ask(wrong_key).await, Refusal::PaymentToWrongKey { .. }));
    let less = total.checked_sub(Satoshis::from_sat(1)).unwrap();
    let small = order_and_pay(&buyer, &offer, |script| output(less, script));
    assert!(matches!(ask(small).await, Refusal::PaymentTooSmall { .. }));
    let halves = order_and_pay(&buyer, &offer, |script| {
        [output(Satoshis::from_sat(50), script.clone()), output(Satoshis::from_sat(50), script)].concat()
    });
    assert!(matches!(ask(halves).await, Refusal::PaymentTooSmall { .. }), "one output pays all");

    // Bombs: too long, too deep, more paths than there are bytes, nothing at all.
    let mut many_paths = vec![0x01, 0x00, 0xbe, 0xef, 0xfe, 0x00, 0x00, 0x00, 0x10];
    many_paths.resize(60_000, 0);
    let invalid = [
        ("empty", Vec::new()),
        ("noise", vec![0x42; 500]),
        ("too long", good.payment.iter().copied().cycle().take(70_000).collect()),
        ("too many transactions", deep_beef(600, 1)),
        ("a false path", deep_beef(400, 1)),
        ("paths without end", many_paths),
        ("cut off", good.payment[..good.payment.len() - 1].to_vec()),
    ];
    for (what, payment) in invalid {
        let refusal = ask(with(payment)).await;
        let expected = matches!(refusal, Refusal::PaymentInvalid { .. } | Refusal::PaymentToWrongKey { .. });
        assert!(expected, "{what}: {refusal}");
    }
    // A signature that is not the coin's.
    let mut beef = Beef::parse(&good.payment, &BeefLimits::default()).unwrap();
    let subject = beef.subject().unwrap();
    let mut forged = beef.transaction(&subject).unwrap().clone();
    forged.outputs[0].value = total.checked_add(Satoshis::from_sat(1)).unwrap();
    beef.add(forged.clone(), None).unwrap();
    let refusal = ask(with(beef.to_atomic(&forged.txid()).unwrap())).await;
    assert!(matches!(refusal, Refusal::PaymentInvalid { .. }), "{refusal}");
    // Somebody else's offer, somebody else's order, another offer's order.
    let other_seller = identity(60);
    let other = Signed::sign(offer.value().clone(), &other_seller, Network::Regtest).unwrap();
    let foreign = PurchaseRequest {
        offer: other.bytes().clone(),
        ..order_and_pay(&buyer, &other, |s| output(total, s))
    };
    assert!(matches!(ask(foreign).await, Refusal::ForeignOffer { .. }));
    let second = buyer.buyer().quote(&request).await.unwrap();
    let mixed = PurchaseRequest { offer: second.bytes().clone(), ..good.clone() };
    assert!(matches!(ask(mixed).await, Refusal::InvalidOrder { .. }));
    let mut not_mine = good.clone();
    let theirs = Purchase::agree(&offer, [1; 16], &identity(61), Network::Regtest, 0).unwrap();
    not_mine.order = theirs.order;
    assert!(matches!(ask(not_mine).await, Refusal::InvalidOrder { .. }));
    // A coin that is spent already.
    let spec = buyer
        .wallet()
        .spec(output(Satoshis::from_sat(900_000), Script::p2pkh(&[8; 20])), "elsewhere")
        .unwrap();
    let spent = buyer.wallet().read(Clone::clone).build(buyer.identity().key(), spec, 0).unwrap();
    bootstrap.chain().broadcast(&spent.beef).await.unwrap();
    assert!(matches!(ask(good.clone()).await, Refusal::DoubleSpent { .. }));
    assert!(matches!(ask(good.clone()).await, Refusal::DoubleSpent { .. }), "and again");
    // Too late.
    double.clock.advance(Duration::from_secs(11 * 60));
    assert!(matches!(ask(good).await, Refusal::OfferExpired { .. }));
    // Nothing of all this is kept, and nothing was delivered.
    assert!(double.store.read(orders::sales).unwrap().is_empty());
    assert!(double.wallet.history().unwrap().is_empty());
    buyer.shutdown().await;
    bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_buyer_has_its_order_receipt_and_readings() {
    let world = World::new(100).await;
    let thief = stranger(&world).await;
    let request = world.request(Range::Seq { first: 0, count: 10 }).await;
    let offer = world.buyer.buyer().quote(&request).await.unwrap();
    let purchase = world.buyer.buyer().order(&offer).unwrap();
    let stolen = PurchaseRequest {
        offer: purchase.offer.clone(),
        order: purchase.order.clone(),
        payment: purchase.payment.clone().unwrap().beef,
    };
    let ask = async |request: Request| thief.buyer().ask(&request_seller(&world), &request).await.unwrap();
    // Whoever sees an order on its way cannot use it, before or after it is paid.
    assert_eq!(ask(Request::Purchase(stolen.clone())).await.name(), "invalid_order");
    world.buyer.buyer().resume_order(&purchase.id, |_| {}).await.unwrap();
    assert_eq!(ask(Request::Purchase(stolen)).await.name(), "invalid_order");
    assert_eq!(ask(Request::Fetch { order: purchase.id, first: 0 }).await.name(), "unknown_order");
    assert_eq!(ask(Request::Receipt { order: purchase.id }).await.name(), "unknown_order");
    // And who has bought gets what it bought and nothing beside it.
    let seller = request_seller(&world);
    let beyond = Request::Fetch { order: purchase.id, first: 10 };
    assert_eq!(world.buyer.buyer().ask(&seller, &beyond).await.unwrap().name(), "range_not_available");
    let overflow = Request::Fetch { order: purchase.id, first: u64::MAX };
    assert_eq!(world.buyer.buyer().ask(&seller, &overflow).await.unwrap().name(), "range_not_available");
    thief.shutdown().await;
    world.shutdown().await;
}

fn request_seller(world: &World) -> sensora_chain::keys::PublicKey {
    *world.agent.identity().public()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_at_their_ends_are_refused_and_break_nothing() {
    let world = World::new(100).await;
    let stream = world.stream().await.id;
    let size = world.agent.agent().unwrap().recorder().summary(&stream).unwrap().size;
    let seller = request_seller(&world);
    let ends = [0, 1, size, size + 1, 1 << 48, 1 << 63, u64::MAX - 1, u64::MAX];
    let mut requests = Vec::new();
    for a in ends {
        requests.push(Request::Quote { stream, range: Range::Last(a), mode: PaymentMode::Direct });
        for b in ends {
            requests.push(Request::Quote {
                stream,
                range: Range::Seq { first: a, count: b },
                mode: PaymentMode::Direct,
            });
            requests.push(Request::Proof { stream, first: a, count: b, size: a.max(b) });
            let (from, to) = (a.cast_signed(), b.cast_signed());
            requests.push(Request::Quote {
                stream,
                range: Range::Time { from, to },
                mode: PaymentMode::Direct,
            });
        }
    }
    for request in requests {
        // At the seller itself: over the swarm the quota would make this a long test.
        let answer = world
            .agent
            .agent()
            .unwrap()
            .seller()
            .answer(world.buyer.identity().public(), request.clone())
            .await;
        let Response::Ok(Answer::Offer(offer)) = answer else { continue };
        let offer = offer.verify_by::<Offer>(Network::Regtest, &seller).unwrap();
        offer.value().check(&seller, Network::Regtest).unwrap();
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_something_else_proves_nothing() {
    let (bootstrap, buyer, double) = stage(200).await;
    double.wallet.fund_from_faucet(Satoshis::from_sat(100_000)).await.unwrap();
    let request = double.meet(&buyer, Range::Seq { first: 0, count: 10 }).await;
    let bought = buyer.buyer().buy(&request, |_| {}).await.unwrap();
    let order = bought.orders[0];
    assert_eq!(buyer.buyer().upgrade(&order).await.unwrap(), Standing::Signed, "not anchored yet");
    double.anchorer.anchor_now().await.unwrap().unwrap();
    // Both streams are under the anchor.
    let (count, size) = (10, 200);
    let honest = Request::Proof { stream: double.streams[0], first: 0, count, size };
    let foreign = Request::Proof { stream: double.streams[1], first: 0, count, size };
    let proof = async |request| match double.seller.answer(buyer.identity().public(), request).await {
        Response::Ok(Answer::Proof(proof)) => proof,
        other => panic!("{}", other.name()),
    };
    let (honest, foreign) = (proof(honest).await, proof(foreign).await);
    let mut other_range = honest.clone();
    other_range.range.hashes[0] = Hash([3; 32]);
    let mut rewritten = honest.clone();
    rewritten.checkpoint = foreign.checkpoint.clone();
    let mut other_anchor = honest.clone();
    other_anchor.anchor.index = foreign.anchor.index;
    let mut no_beef = honest.clone();
    no_beef.anchor.beef.truncate(50);
    let mut unsigned = honest.clone();
    unsigned.checkpoint.signature[5] ^= 1;
    let lies = [
        ("another stream", foreign),
        ("another range", other_range),
        ("another checkpoint", rewritten),
        ("another place in the anchor", other_anchor),
        ("half a transaction", no_beef),
        ("a forged checkpoint", unsigned),
    ];
    for (what, lie) in lies {
        double.answers(move |request, answer| match request {
            Request::Proof { .. } => Response::Ok(Answer::Proof(lie.clone())),
            _ => answer,
        });
        let error = buyer.buyer().upgrade(&order).await.unwrap_err();
        assert!(matches!(error, BuyError::Proof(_)), "{what}: {error}");
        assert_eq!(buyer.buyer().standing(&order).unwrap(), Standing::Signed, "{what}: nothing is kept");
    }
    double.repents();
    assert!(matches!(
        buyer.buyer().upgrade(&order).await.unwrap(),
        Standing::Broadcast { .. } | Standing::Mined { .. }
    ));
    close(bootstrap, buyer).await;
}

/// Says an ad of which the body has exactly `len` bytes, whatever the rules are.
fn ad_of_length(double: &Double, len: usize, version: u64) -> SignedBytes {
    let mut ad = double.ad();
    ad.version = version;
    let template = ad.streams[0].clone();
    let body = |ad: &Ad| sensora_protocol::codec::encode(ad).unwrap();
    let (identity, network) = (&double.identity, Network::Regtest);
    // Streams until there is no place for another one, then addresses that are as long as it takes.
    ad.addresses = vec![format!("/memory/{:030}", 1); 8];
    loop {
        let name = format!("stream-{:04}", ad.streams.len());
        let id = StreamId::derive(network, identity.public(), &name, &template.schema).unwrap();
        ad.streams.push(StreamAd { id, name, ..template.clone() });
        if body(&ad).len() > len {
            ad.streams.pop();
            break;
        }
    }
    let short = len - body(&ad).len();
    for (index, address) in ad.addresses.iter_mut().enumerate() {
        address.push_str(&"0".repeat(short / 8 + usize::from(index < short % 8)));
    }
    let body = body(&ad);
    assert_eq!(body.len(), len, "{} addresses", ad.addresses.len());
    let digest = digest(Ad::NAME, Ad::VERSION, network, &body);
    let signature = identity.key().sign(digest.as_bytes()).compact().to_vec();
    SignedBytes { body, key: *identity.public(), signature }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ad_of_4096_bytes_goes_through_the_swarm_and_one_of_4097_does_not() {
    let (bootstrap, buyer, double) = stage(10).await;
    double.meet(&buyer, Range::Latest).await;
    let now = double.ad().version;
    let book = buyer.discovery().book().clone();
    let version = || book.get(&double.key()).unwrap().map(|found| found.unwrap().ad.value().version);
    let say = async |ad: SignedBytes| {
        let bytes = sensora_protocol::codec::encode(&ad).unwrap();
        double.net.publish(Topic::Ads, bytes.into()).await.unwrap();
    };
    let longest = ad_of_length(&double, MAX_AD_LEN, now + 1);
    let bytes = sensora_protocol::codec::encode(&longest).unwrap();
    ad::open(&bytes, Network::Regtest, double.clock.now_ms()).unwrap();
    say(longest).await;
    until("the longest ad", || async { (version() == Some(now + 1)).then_some(()) }).await;
    let rejected = buyer.net().counters().gossip_rejected;
    say(ad_of_length(&double, MAX_AD_LEN + 1, now + 2)).await;
    until("the refusal", || async { (buyer.net().counters().gossip_rejected > rejected).then_some(()) })
        .await;
    assert_eq!(version(), Some(now + 1), "it is not taken in");
    until("the offence", || async { (score(&buyer, &double.peer()).await > 15.0).then_some(()) }).await;
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_with_an_impossible_reading_is_not_recorded_at_all() {
    let (bootstrap, buyer, double) = stage(100).await;
    let [first, second] = [double.streams[0], double.streams[1]];
    let year = 365 * 86_400 * 1_000_000_000_i64;
    let good = readings(100, 3);
    let with = |time: i64, value: Value| {
        let mut batch = good.clone();
        batch[1] = RawReading { time, values: vec![value] };
        batch
    };
    let (now, one) = (good[1].time, Value::Float(1.0));
    let batches = [
        ("NaN", with(now, Value::Float(f64::NAN))),
        ("+Inf", with(now, Value::Float(f64::INFINITY))),
        ("-Inf", with(now, Value::Float(f64::NEG_INFINITY))),
        ("1970", with(0, one.clone())),
        ("before 1970", with(-1, one.clone())),
        ("2106", with(136 * year, one.clone())),
        ("the end of time", with(i64::MAX, one.clone())),
        ("the beginning of time", with(i64::MIN, one.clone())),
        ("a text", with(now, Value::Text("warm".into()))),
        ("no value", vec![good[0].clone(), RawReading { time: now, values: Vec::new() }]),
    ];
    let sizes = || [first, second].map(|id| double.recorder.summary(&id).unwrap().size);
    let before = sizes();
    for (what, batch) in batches {
        // The other stream's readings are good, and come first.
        let error = double.recorder.append(vec![(second, good.clone()), (first, batch)]).unwrap_err();
        assert!(matches!(error, RecorderError::Reading { index: 1, .. }), "{what}: {error}");
        assert_eq!(sizes(), before, "{what}");
    }
    double.recorder.append(vec![(second, good.clone()), (first, good)]).unwrap();
    assert_eq!(sizes(), before.map(|size| size + 3));
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_a_sale_and_loses_nothing() {
    let (bootstrap, addresses) = bootstrap().await;
    for full in [Full::ForMore, Full::ForAll] {
        let (agent_disk, buyer_disk) = (Disk::new(), Disk::new());
        let mut config = options(2, &Place::Disk(&agent_disk));
        config.bootstrap.clone_from(&addresses);
        config.agent = Some(agent(vec![sim(200)]));
        let selling = Node::start(config).await.unwrap();
        let mut config = options(3, &Place::Disk(&buyer_disk));
        config.bootstrap.clone_from(&addresses);
        let buyer = Node::start(config).await.unwrap();
        fund(&buyer, 100_000).await;
        let seller = *selling.identity().public();
        let stream = until("the ad", || async {
            let found = buyer.discovery().ad_of(&seller).await.ok()?;
            found.ad.value().streams.first().filter(|stream| stream.size >= 20).cloned()
        })
        .await;
        let request = |first| BuyRequest {
            seller,
            stream: stream.id,
            range: Range::Seq { first, count: 10 },
            limits: limits(),
            ad: Some(stream.clone()),
        };
        let offer = buyer.buyer().quote(&request(0)).await.unwrap();

        // The seller's disk is full: it takes nothing, and says why.
        let purchase = buyer.buyer().order(&offer).unwrap();
        let Some(PurchaseAction::Send(message)) = purchase.resume() else { panic!("nothing to send") };
        agent_disk.set_full(Some(full));
        fill(selling.store());
        let answer = buyer.buyer().ask(&seller, &message).await.unwrap();
        // A file that cannot grow has free pages inside, and a small sale may fit into them: then it is a whole sale.
        let fits = full == Full::ForMore && answer.name() == "receipt";
        assert!(fits || answer.name() == "storage_unavailable", "{full:?}: {}", answer.name());
        agent_disk.set_full(None);
        buyer.buyer().resume_order(&purchase.id, |_| {}).await.unwrap();
        assert_eq!(
            selling.wallet().history().unwrap().iter().filter(|line| line.label.starts_with("sale")).count(),
            1
        );

        // The buyer's disk is full: nothing is signed, nobody is blamed.
        buyer_disk.set_full(Some(full));
        fill(buyer.store());
        let outcome = buyer.buyer().buy(&request(10), |_| {}).await;
        let paid_then = match &outcome {
            Ok(bought) if full == Full::ForMore => bought.paid,
            Ok(bought) => panic!("bought {bought:?} on a full disk"),
            Err(BuyError::Store(error)) if matches!(**error, StoreError::DiskFull) => Satoshis::ZERO,
            Err(BuyError::Wallet(error))
                if matches!(&**error, WalletHandleError::Store(StoreError::DiskFull)) =>
            {
                Satoshis::ZERO
            }
            Err(error) => panic!("{full:?}: {error}"),
        };
        assert!(score(&buyer, &selling.peer_id()).await < 1.0, "a full disk of ours is nobody's offence");
        buyer_disk.set_full(None);
        let bought = buyer.buyer().buy(&request(10), |_| {}).await.unwrap();
        assert_eq!(bought.paid.checked_add(paid_then).unwrap(), Satoshis::from_sat(20), "{full:?}");

        // A disk that fills up while readings come in.
        buyer.buyer().readings(&stream.id, &stream.schema, 0, 20, 100).unwrap();
        for node in [&buyer, &selling] {
            node.wallet().audit().unwrap();
            node.shutdown().await;
        }
    }
    bootstrap.shutdown().await;
}

/// Writes until nothing more fits.
fn fill(store: &Store) {
    let filler = vec![0x61; 50_000];
    for number in 0..1000 {
        let peer = KnownPeer { peer: String::from_utf8(filler.clone()).unwrap(), addresses: Vec::new() };
        let peers = vec![peer; number + 1];
        if store.write(|tx| peers::put(tx, &peers)).is_err() {
            return;
        }
    }
    panic!("the disk does not fill up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ads_that_come_at_the_same_time_the_newest_stays() {
    let (bootstrap, buyer, double) = stage(10).await;
    let honest = double.ad();
    for round in 0..10 {
        let first = honest.version + 1 + round * 100;
        let versions: Vec<u64> = (first..first + 16).collect();
        let taking: Vec<_> = versions
            .iter()
            .map(|version| {
                let bytes = ad::to_bytes(&double.sign(Ad { version: *version, ..honest.clone() })).unwrap();
                let book = buyer.discovery().book().clone();
                tokio::task::spawn_blocking(move || book.take(&bytes, Way::Gossip, None).unwrap().unwrap())
            })
            .collect();
        for take in taking {
            take.await.unwrap();
        }
        let found = buyer.discovery().book().get(&double.key()).unwrap().unwrap().unwrap();
        assert_eq!(found.ad.value().version, first + 15);
    }
    close(bootstrap, buyer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_not_set_yet_ends_no_live_source() {
    let clock = Clock::fixed(0);
    let mut config = options(2, &Place::Memory);
    config.clock = clock.clone();
    let spec = SourceSpec::Host(HostSpec { interval_ms: 250, only: vec![HostGroup::Memory] });
    let source = SourceOptions { spec, name: Some("box".into()), terms: terms() };
    config.agent = Some(agent(vec![source]));
    let node = Node::start(config).await.unwrap();
    let selling = node.agent().unwrap();
    let size = || selling.recorder().summaries().first().map_or(0, |stream| stream.size);
    // Long enough for a reading or two; if there were none yet, the test shows less and fails nothing.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(size(), 0);
    clock.set_ns(Clock::system().now_ns());
    until("a reading with a time", || async { (size() > 0).then_some(()) }).await;
    assert!(selling.ended_sources().await.is_empty());
    node.shutdown().await;
}
