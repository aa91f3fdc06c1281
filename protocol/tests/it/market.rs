//! Offers and sales: what each side refuses, and that an order is charged once.

use sensora_chain::beef::Beef;
use sensora_chain::contract::payment::pay_to_hash;
use sensora_chain::header::{HeaderChain, HeaderView};
use sensora_chain::{Satoshis, Transaction, TxOut};
use sensora_protocol::ad::StreamAd;
use sensora_protocol::codec;
use sensora_protocol::market::key_release::coin::SETTLED;
use sensora_protocol::market::offer::{BuyerLimits, MAX_LIFETIME_MS, Offer, OfferError, Range};
use sensora_protocol::market::order::Order;
use sensora_protocol::market::payment::{self, script_for_buyer, script_for_seller};
use sensora_protocol::market::price::Price;
use sensora_protocol::market::receipt::{HOLD_MS, Receipt};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::{Admission, PurchaseRequest, Sale, SaleAction, SaleEvent, SaleState};
use sensora_protocol::statement::{SignedBytes, digest};
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{Signed, StreamId};

use crate::world::{Chain, Coin, NETWORK, NOW_MS, Stream, World, beef, identity, no_headers, sat};

const RICH: BuyerLimits =
    BuyerLimits { max_price: Satoshis::from_sat(1_000_000), exposure: Satoshis::from_sat(1_000_000) };

fn accept(
    world: &World,
    offer: &Offer,
    asked: Range,
    limits: BuyerLimits,
) -> Result<Signed<Checkpoint>, OfferError> {
    let signed = world.sign(offer.clone());
    let ad = world.stream.ad();
    let (buyer, stream) = (world.buyer.public(), world.stream.id);
    Offer::accept(&signed, NETWORK, buyer, stream, asked, Some(&ad), limits, world.now_ms)
}

#[test]
fn the_newest_readings_are_not_older_than_the_ad_says() {
    let world = World::new(100);
    let signed = world.sign(world.offer(80, 20));
    let (buyer, stream) = (world.buyer.public(), world.stream.id);
    let mut ad = world.stream.ad();
    let accept = |ad: &StreamAd, asked| {
        Offer::accept(&signed, NETWORK, buyer, stream, asked, Some(ad), RICH, world.now_ms).map(|_| ())
    };
    ad.size = 100;
    assert_eq!(accept(&ad, Range::Last(20)), Ok(()));
    ad.size = 101;
    assert_eq!(accept(&ad, Range::Last(20)), Err(OfferError::Stale { size: 100, advertised: 101 }));
    assert_eq!(accept(&ad, Range::Seq { first: 80, count: 20 }), Ok(()));
}

#[test]
fn an_offer_is_accepted_or_the_first_difference_is_named() {
    let world = World::new(100);
    let good = world.offer(10, 20);
    let asked = Range::Seq { first: 10, count: 20 };
    let try_it = |change: &dyn Fn(&mut Offer)| {
        let mut offer = good.clone();
        change(&mut offer);
        accept(&world, &offer, asked, RICH).map(|checkpoint| checkpoint.value().size)
    };
    assert_eq!(try_it(&|_| ()), Ok(100));

    // An offer may come without an ad, and is shown to a person.
    assert!(matches!(try_it(&|o| o.name = "\u{1b}[2J".into()), Err(OfferError::Text { field: "name", .. })));
    let reversed = |o: &mut Offer| o.licence = "\u{202e}TIM".into();
    assert!(matches!(try_it(&reversed), Err(OfferError::Text { field: "licence", .. })));
    let stream = StreamId([9; 16]);
    assert!(
        matches!(try_it(&|o| o.stream = stream), Err(OfferError::Stream { offered, .. }) if offered == stream)
    );
    assert!(matches!(try_it(&|o| o.name = "cellar".into()), Err(OfferError::StreamId(_))));
    assert!(matches!(
        try_it(&|o| o.schema.fields.truncate(2)),
        Err(OfferError::StreamId(id)) if id == world.stream.id
    ));
    assert!(matches!(try_it(&|o| o.schema.fields.clear()), Err(OfferError::Schema(_))));
    assert!(matches!(try_it(&|o| o.buyer = *identity(7).public()), Err(OfferError::Buyer(_))));
    assert!(matches!(try_it(&|o| o.first = 11), Err(OfferError::Range { first: 11, .. })));
    let total = |o: &mut Offer| o.total = o.price.total(o.count).unwrap();
    let fewer = |o: &mut Offer| {
        o.count = 19;
        total(o);
    };
    assert!(matches!(try_it(&fewer), Err(OfferError::Range { count: 19, .. })));
    assert!(matches!(try_it(&|o| o.count = 0), Err(OfferError::Range { count: 0, .. })));
    assert!(matches!(try_it(&|o| o.first = 81), Err(OfferError::Range { first: 81, size: 100, .. })));
    assert!(matches!(try_it(&|o| o.first = u64::MAX), Err(OfferError::Range { .. })));
    assert!(matches!(try_it(&|o| o.total = sat(29)), Err(OfferError::Total { .. })));
    assert!(matches!(try_it(&|o| o.total = sat(31)), Err(OfferError::Total { .. })));
    let dearer = |o: &mut Offer| {
        o.price = Price::from_msat(1501).unwrap();
        total(o);
    };
    assert!(matches!(try_it(&dearer), Err(OfferError::DearerThanAd { .. })));
    assert!(matches!(try_it(&|o| o.licence = "MIT".into()), Err(OfferError::Licence { .. })));
    assert!(matches!(try_it(&|o| o.expires_ms = NOW_MS), Err(OfferError::Lifetime { .. })));
    assert!(matches!(
        try_it(&|o| o.expires_ms = NOW_MS + MAX_LIFETIME_MS + 1),
        Err(OfferError::Lifetime { .. })
    ));
    assert_eq!(try_it(&|o| o.expires_ms = NOW_MS + MAX_LIFETIME_MS), Ok(100));

    let cellar = Stream::new(&world.seller, "cellar", 100).checkpoint(&world.seller, 100).into_bytes();
    assert!(matches!(try_it(&|o| o.checkpoint = cellar.clone()), Err(OfferError::Checkpoint(_))));
    let foreign = world.stream.checkpoint(&identity(7), 100).into_bytes();
    assert!(matches!(try_it(&|o| o.checkpoint = foreign.clone()), Err(OfferError::Statement(_))));
}

#[test]
fn an_offer_from_the_future_does_not_hold_for_years() {
    let world = World::new(10);
    let mut offer = world.offer(0, 10);
    let years = 10 * 365 * 24 * 3600 * 1000;
    offer.issued_ms += years;
    offer.expires_ms += years;
    let asked = Range::Last(10);
    assert!(matches!(accept(&world, &offer, asked, RICH), Err(OfferError::Lifetime { .. })));
}

#[test]
fn the_buyers_limits_hold() {
    let world = World::new(100);
    let offer = world.offer(0, 100);
    assert_eq!(offer.total, sat(150));
    let limits = |max_price, exposure| BuyerLimits { max_price: sat(max_price), exposure: sat(exposure) };
    let with = |limits| accept(&world, &offer, Range::Last(100), limits).map(|_| ());
    assert_eq!(with(limits(150, 150)), Ok(()));
    assert_eq!(with(limits(149, 150)), Err(OfferError::MaxPrice { total: sat(150), max: sat(149) }));
    assert_eq!(with(limits(150, 149)), Err(OfferError::Exposure { total: sat(150), exposure: sat(149) }));
}

#[test]
fn what_is_asked_for_is_what_is_offered() {
    let world = World::new(100);
    let fits = |first, count, asked| accept(&world, &world.offer(first, count), asked, RICH).is_ok();
    assert!(fits(99, 1, Range::Latest));
    assert!(!fits(98, 1, Range::Latest) && !fits(98, 2, Range::Latest));
    assert!(fits(90, 10, Range::Last(10)) && fits(0, 100, Range::Last(1_000)));
    assert!(!fits(89, 10, Range::Last(10)) && !fits(91, 9, Range::Last(10)));
    assert!(fits(3, 4, Range::Seq { first: 3, count: 4 }) && !fits(3, 4, Range::Seq { first: 3, count: 5 }));
    // Which readings a time range means is known when they are there.
    assert!(fits(3, 4, Range::Time { from: 0, to: 1 }));
}

#[test]
fn an_order_has_the_same_id_however_often_it_is_made() {
    let world = World::new(10);
    let offer = world.sign(world.offer(0, 10));
    let (one, again, other) = (world.order(&offer, 4), world.order(&offer, 4), world.order(&offer, 5));
    assert_eq!((one.id(NETWORK), one.bytes()), (again.id(NETWORK), again.bytes()));
    assert_ne!(one.id(NETWORK), other.id(NETWORK));
    assert_ne!(one.id(NETWORK), one.id(sensora_chain::Network::Main));
}

/// Two orders that differ in nothing but a key nobody reads would have two ids and one payment key: one payment, two sales.
#[test]
fn one_payment_does_not_pay_two_orders() {
    let mut world = World::new(10);
    let offer = world.sign(world.offer(0, 10));
    let request = world.purchase(&offer, 4);
    Sale::admit(request.clone(), &world.admission()).unwrap();

    let value = world.order(&offer, 4).value().clone();
    let mut body = codec::encode(&value).unwrap();
    // The same map with one more key: {"buyer", "nonce", "offer", "zzzzz": null}.
    body[0] += 1;
    body.extend(b"\x65zzzzz\xf6");
    assert_eq!(codec::decode::<Order>(&body, 160), Ok(value), "serde alone does not mind");
    let hash = digest("sensora/order", 1, NETWORK, &body);
    let signature = world.buyer.key().sign(hash.as_bytes()).compact().to_vec();
    let twin = SignedBytes { body, key: *world.buyer.public(), signature };
    let request = PurchaseRequest { order: twin, ..request };
    let refused = Sale::admit(request, &world.admission()).unwrap_err();
    assert!(matches!(&refused, Refusal::InvalidOrder { reason } if reason.contains("one way")), "{refused}");
}

#[test]
fn buyer_and_seller_derive_one_key_for_each_order() {
    let world = World::new(10);
    let offer = world.sign(world.offer(0, 10));
    let order = world.order(&offer, 4);
    let script = script_for_buyer(order.value(), world.buyer.key(), world.seller.public());
    assert_eq!(script, script_for_seller(order.value(), world.seller.key()));
    let other = world.order(&offer, 5);
    assert_ne!(script, script_for_seller(other.value(), world.seller.key()));
    let stranger = Order { buyer: *identity(7).public(), ..order.value().clone() };
    assert_ne!(script, script_for_seller(&stranger, world.seller.key()));
    assert!(payment::invoice(order.value()).starts_with("2-3241645161d8-"));
}

fn refusal(world: &World, request: &PurchaseRequest) -> Refusal {
    Sale::admit(request.clone(), &world.admission()).unwrap_err()
}

#[test]
fn a_payment_is_admitted_or_the_reason_is_named() {
    let mut world = World::new(100);
    let offer = world.sign(world.offer(10, 20));
    let good = world.purchase(&offer, 4);
    let sale = Sale::admit(good.clone(), &world.admission()).unwrap();
    assert_eq!((sale.paid, sale.vout, &sale.buyer), (sat(30), 0, world.buyer.public()));
    assert_eq!(sale.state, SaleState::Admitted);
    assert_eq!(sale.transaction().unwrap().txid(), sale.txid);

    let admit = |at: Admission<'_, HeaderChain>| Sale::admit(good.clone(), &at).map(|_| ());
    let (other, none) = (identity(7), no_headers());
    let peer = Admission { peer: other.public(), ..world.admission() };
    assert!(matches!(admit(peer), Err(Refusal::InvalidOrder { .. })));
    let seller = Admission { seller: &other, ..world.admission() };
    assert!(matches!(admit(seller), Err(Refusal::ForeignOffer { .. })));
    let network = Admission { network: sensora_chain::Network::Test, ..world.admission() };
    assert!(matches!(admit(network), Err(Refusal::InvalidOrder { .. })));
    let expires_ms = offer.value().expires_ms;
    let over = Admission { now_ms: expires_ms, ..world.admission() };
    assert_eq!(admit(over), Err(Refusal::OfferExpired { expires_ms }));
    assert_eq!(admit(Admission { now_ms: expires_ms - 1, ..world.admission() }), Ok(()));
    let behind = Admission { headers: &none, ..world.admission() };
    assert_eq!(admit(behind), Err(Refusal::HeadersBehind { height: 1, tip: 0 }));

    // Of somebody else's offer, and of another offer of ours.
    let theirs = Signed::sign(world.offer(10, 20), &other, NETWORK).unwrap().into_bytes();
    let request = PurchaseRequest { offer: theirs, ..good.clone() };
    assert!(matches!(refusal(&world, &request), Refusal::ForeignOffer { .. }));
    let cheap = world.sign(world.offer(10, 1)).into_bytes();
    let request = PurchaseRequest { offer: cheap, ..good.clone() };
    assert!(matches!(refusal(&world, &request), Refusal::InvalidOrder { .. }));
    // Made to another buyer.
    let mut to_other = world.offer(10, 20);
    to_other.buyer = *other.public();
    let to_other = world.sign(to_other);
    let request = world.purchase(&to_other, 4);
    assert!(matches!(refusal(&world, &request), Refusal::ForeignOffer { .. }));
    // An order that another key signed, and one that names another buyer.
    let order = Order { offer: offer.digest(NETWORK), buyer: *world.buyer.public(), nonce: [4; 16] };
    let order = Signed::sign(order, &other, NETWORK).unwrap().into_bytes();
    let request = PurchaseRequest { order, ..good.clone() };
    assert!(matches!(refusal(&world, &request), Refusal::InvalidOrder { .. }));
    let order = Order { offer: offer.digest(NETWORK), buyer: *other.public(), nonce: [4; 16] };
    let order = Signed::sign(order, &world.buyer, NETWORK).unwrap().into_bytes();
    let request = PurchaseRequest { order, ..good.clone() };
    assert!(matches!(refusal(&world, &request), Refusal::InvalidOrder { .. }));
}

#[test]
fn a_payment_that_is_none_is_refused() {
    let mut world = World::new(100);
    let offer = world.sign(world.offer(10, 20));
    let order = world.order(&offer, 4);
    let coin = world.coin(100_000);
    let request = |payment: Vec<u8>| PurchaseRequest {
        offer: offer.bytes().clone(),
        order: order.bytes().clone(),
        payment,
    };
    let script = script_for_seller(order.value(), world.seller.key());
    let pays = |amount| TxOut { value: sat(amount), locking: script.clone() };

    let short = world.pay(&coin, order.value(), 29);
    assert_eq!(
        refusal(&world, &request(short.beef)),
        Refusal::PaymentTooSmall { txid: short.txid, paid: sat(29), price: sat(30) }
    );
    // Two outputs of half the price are no payment of the price.
    let halves = world.spend(&coin, vec![pays(15), pays(15)]);
    assert!(matches!(refusal(&world, &request(beef(&coin, &halves))), Refusal::PaymentTooSmall { .. }));
    let elsewhere = world.spend(&coin, vec![pay_to_hash(&world.seller.public().hash160(), sat(30))]);
    assert_eq!(
        refusal(&world, &request(beef(&coin, &elsewhere))),
        Refusal::PaymentToWrongKey { txid: elsewhere.txid() }
    );
    // The larger of two outputs counts, wherever it stands.
    let twice = world.spend(&coin, vec![pays(1), pays(50)]);
    let sale = Sale::admit(request(beef(&coin, &twice)), &world.admission()).unwrap();
    assert_eq!((sale.vout, sale.paid), (1, sat(50)));

    let invalid = |payment: Vec<u8>| match refusal(&world, &request(payment)) {
        Refusal::PaymentInvalid { reason } => reason,
        other => panic!("{other}"),
    };
    let good = world.pay(&coin, order.value(), 30);
    let whole = Transaction::from_bytes(
        &Beef::parse(&good.beef, &Default::default()).unwrap().transaction(&good.txid).unwrap().to_bytes(),
    )
    .unwrap();
    invalid(Vec::new());
    invalid(whole.to_bytes());
    invalid(good.beef[..good.beef.len() - 1].to_vec());
    assert!(invalid(vec![0xff; 65_537]).contains("65537"));
    // A bomb: sixty thousand transactions promised in a few bytes.
    let bomb = [b"\x01\x00\xbe\xef\x00\xfd\x60\xea".as_slice(), &[0; 100]].concat();
    invalid(bomb);
    let mut unsigned = whole.clone();
    unsigned.inputs[0].unlocking = sensora_chain::Script::default();
    invalid(beef(&coin, &unsigned));
    let mut swollen = whole.clone();
    swollen.outputs[0].value = sat(31);
    invalid(beef(&coin, &swollen));
    // A coin that is in no block.
    let mut orphan = Beef::new();
    orphan.add(whole, None).unwrap();
    assert!(Beef::to_atomic(&orphan, &good.txid).is_ok_and(|bytes| !invalid(bytes).is_empty()));
}

/// A seller that has refused a payment, and forgotten the order, is asked again when the payment is in a block after all: long after its offer.
#[test]
fn a_payment_in_a_block_is_taken_although_its_offer_is_over() {
    let mut world = World::new(100);
    let offer = world.sign(world.offer(10, 20));
    let order = world.order(&offer, 4);
    let coin = world.coin(100_000);
    let paid = world.pay(&coin, order.value(), 30);
    let transaction = Beef::parse(&paid.beef, &Default::default()).unwrap();
    let transaction = transaction.transaction(&paid.txid).unwrap().clone();
    let path = world.chain.mine(&[&transaction]).remove(0);
    let mined = beef(&Coin { transaction: transaction.clone(), path }, &transaction);
    let request = |payment: &[u8]| PurchaseRequest {
        offer: offer.bytes().clone(),
        order: order.bytes().clone(),
        payment: payment.to_vec(),
    };
    let expires_ms = offer.value().expires_ms;
    let admit = |payment: &[u8], now_ms| {
        Sale::admit(request(payment), &Admission { now_ms, ..world.admission() }).map(|sale| sale.paid)
    };
    let expired = Err(Refusal::OfferExpired { expires_ms });
    assert_eq!(admit(&paid.beef, expires_ms), expired);
    assert_eq!(admit(&mined, expires_ms), Ok(sat(30)));
    assert_eq!(admit(&mined, expires_ms + HOLD_MS - 1), Ok(sat(30)));
    assert_eq!(admit(&mined, expires_ms + HOLD_MS), expired, "nobody answers for it any more");

    // One that waits for the network's answer has it.
    let mut sale = Sale::admit(request(&paid.beef), &world.admission()).unwrap();
    let (headers, none) = (&world.chain.headers, no_headers());
    assert!(!sale.is_mined(headers) && !sale.prove(mined.clone(), &none), "a block that is not known");
    let coin = world.coin(100_000);
    let other = Beef::parse(&world.pay(&coin, order.value(), 31).beef, &Default::default()).unwrap();
    let other = other.transaction(&other.subject().unwrap()).unwrap().clone();
    let path = world.chain.mine(&[&other]).remove(0);
    let other = beef(&Coin { transaction: other.clone(), path }, &other);
    let headers = &world.chain.headers;
    assert!(!sale.prove(other, headers), "another payment, in a block as well");
    assert!(sale.prove(mined.clone(), headers) && sale.is_mined(headers));
    assert!(!sale.prove(mined, headers), "it is known");
    assert!(!sale.prove(paid.beef, headers), "it is proven better");
    assert!(!sale.is_unproven(headers) && sale.is_unproven(&none));
}

/// A payment was proven by a block that was replaced: it is no less paid, and which of the two sides has not seen the newer block yet nobody knows.
#[test]
fn a_payment_whose_block_was_replaced_is_not_refused_for_good() {
    let mut world = World::new(100);
    let offer = world.sign(world.offer(10, 20));
    let order = world.order(&offer, 4);
    let coin = world.coin(100_000);
    let paid = world.pay(&coin, order.value(), 30);
    let transaction = Beef::parse(&paid.beef, &Default::default()).unwrap();
    let transaction = transaction.transaction(&paid.txid).unwrap().clone();
    let before = world.chain.headers.clone();
    let path = world.chain.mine(&[&transaction]).remove(0);
    let mined = beef(&Coin { transaction: transaction.clone(), path }, &transaction);
    let request = |payment: &[u8]| PurchaseRequest {
        offer: offer.bytes().clone(),
        order: order.bytes().clone(),
        payment: payment.to_vec(),
    };
    let mut sale = Sale::admit(request(&mined), &world.admission()).unwrap();
    assert!(sale.is_mined(&world.chain.headers));
    // Another block takes the place of the one with the payment, and more follow.
    let height = before.tip_height() + 1;
    let mut branch = Chain::new();
    branch.headers = before;
    for tip in height..=height + SETTLED {
        branch.mine(&[]);
        let at = Admission { headers: &branch.headers, ..world.admission() };
        let refused = Sale::admit(request(&mined), &at).unwrap_err();
        match tip - height < SETTLED {
            true => assert_eq!(refused, Refusal::HeadersBehind { height, tip }),
            false => assert!(matches!(refused, Refusal::PaymentInvalid { .. }), "{tip}: {refused}"),
        }
    }
    let branch = &branch.headers;
    assert!(sale.is_unproven(branch) && !sale.is_mined(branch));
    assert!(sale.prove(paid.beef, branch), "with its ancestors it verifies again");
    assert!(!sale.is_unproven(branch) && !sale.is_mined(branch));
}

/// A missing header below the tip never comes: "try again in a moment" would hold the buyer's coin for ever.
#[test]
fn a_block_before_the_checkpoint_is_no_reason_to_wait() {
    let mut world = World::new(10);
    let offer = world.sign(world.offer(0, 10));
    let request = world.purchase(&offer, 4);
    world.chain.mine(&[]);
    let tip = world.chain.headers.tip();
    let later = [world.chain.headers.at(tip.height).unwrap()];
    let later = HeaderChain::from_checkpoint(NETWORK, tip.height, &later).unwrap();
    let at = Admission {
        seller: &world.seller,
        network: NETWORK,
        peer: world.buyer.public(),
        headers: &later,
        now_ms: world.now_ms,
    };
    let refused = Sale::admit(request, &at).unwrap_err();
    assert!(matches!(refused, Refusal::PaymentInvalid { .. }) && !refused.is_temporary(), "{refused}");
}

#[test]
fn a_block_of_another_branch_is_refused() {
    let mut world = World::new(10);
    let offer = world.sign(world.offer(0, 10));
    let request = world.purchase(&offer, 4);
    let mut branch = Chain::new();
    (0..=world.chain.headers.tip_height() + SETTLED).for_each(|_| drop(branch.mine(&[])));
    let at = Admission {
        seller: &world.seller,
        network: NETWORK,
        peer: world.buyer.public(),
        headers: &branch.headers,
        now_ms: world.now_ms,
    };
    assert!(matches!(Sale::admit(request, &at), Err(Refusal::PaymentInvalid { .. })));
}

#[test]
fn a_sale_answers_each_event_and_charges_once() {
    let mut world = World::new(10);
    let offer = world.sign(world.offer(0, 10));
    let request = world.purchase(&offer, 4);
    let order = world.order(&offer, 4);
    let admitted = Sale::admit(request, &world.admission()).unwrap();
    let handle = |sale: &mut Sale, event, now_ms| sale.handle(event, &world.seller, NETWORK, now_ms);
    let rejected = |double_spent| SaleEvent::Rejected { double_spent, reason: "so".into() };
    assert_eq!(admitted.resume(), SaleAction::Broadcast);

    // Nothing is known: the sale stays, and may still be taken or not.
    let mut sale = admitted.clone();
    let waits = [SaleAction::Refuse(Refusal::ChainUnavailable)];
    assert_eq!(handle(&mut sale, SaleEvent::Unavailable, NOW_MS), waits);
    assert_eq!(sale, admitted);

    let txid = sale.txid;
    let spent = [SaleAction::Forget, SaleAction::Refuse(Refusal::DoubleSpent { txid })];
    assert_eq!(handle(&mut sale.clone(), rejected(true), NOW_MS), spent);
    let refused = Refusal::PaymentRejected { txid, reason: "so".into() };
    assert_eq!(
        handle(&mut sale.clone(), rejected(false), NOW_MS),
        [SaleAction::Forget, SaleAction::Refuse(refused)]
    );

    let actions = handle(&mut sale, SaleEvent::Accepted, NOW_MS + 5);
    let [SaleAction::Credit { invoice }, SaleAction::Receipt(receipt)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(invoice, &payment::invoice(order.value()));
    assert!(sale.is_sold() && sale.resume() == SaleAction::Receipt(receipt.clone()));
    let value = receipt.clone().verify_by::<Receipt>(NETWORK, world.seller.public()).unwrap().value().clone();
    assert_eq!(
        value,
        Receipt {
            order: order.id(NETWORK),
            offer: offer.digest(NETWORK),
            stream: world.stream.id,
            first: 0,
            count: 10,
            paid: sat(15),
            txid,
            issued_ms: NOW_MS + 5,
        }
    );
    // Later words of the network change nothing: the same receipt, and no second credit.
    for event in [SaleEvent::Accepted, SaleEvent::Unavailable, rejected(true), rejected(false)] {
        let stored: Sale = codec::decode(&codec::encode(&sale).unwrap(), codec::MAX_FRAME).unwrap();
        assert_eq!(stored, sale);
        sale = stored;
        assert_eq!(handle(&mut sale, event, NOW_MS + 999), [SaleAction::Receipt(receipt.clone())]);
    }
}
