//! The buyer's side: each state against each event, receipts that differ, and deliveries that are not what was ordered.

use sensora_chain::Txid;
use sensora_protocol::codec;
use sensora_protocol::market::delivery::{DeliveryError, MAX_RUNS, Page};
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::Offer;
use sensora_protocol::market::purchase::{
    Purchase, PurchaseAction, PurchaseError, PurchaseEvent, PurchaseState, SignedPayment,
};
use sensora_protocol::market::receipt::Receipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::PurchaseRequest;
use sensora_protocol::stream::{ChunkError, Run, Salts, Value};
use sensora_protocol::{Hash, OrderId, Signed, SignedBytes, StreamId};

use crate::world::{NETWORK, NOW_MS, Stream, World, identity, sat};

/// An order of readings 1000 to 2100 of 3000: the end of a chunk, a whole one, and the beginning of one.
struct Bought {
    world: World,
    offer: Signed<Offer>,
    payment: SignedPayment,
    agreed: Purchase,
}

const FIRST: u64 = 1000;
const END: u64 = 2100;

fn bought() -> Bought {
    let mut world = World::new(3000);
    let offer = world.sign(world.offer(FIRST, END - FIRST));
    let agreed = Purchase::agree(&offer, [4; 16], &world.buyer, NETWORK, NOW_MS).unwrap();
    let order = agreed.signed_order(NETWORK).unwrap();
    let coin = world.coin(100_000);
    let payment = world.pay(&coin, order.value(), offer.value().total.as_u64());
    Bought { world, offer, payment, agreed }
}

impl Bought {
    fn receipt_value(&self) -> Receipt {
        Receipt {
            order: self.agreed.id,
            offer: self.offer.digest(NETWORK),
            stream: self.world.stream.id,
            first: FIRST,
            count: END - FIRST,
            paid: self.offer.value().total,
            txid: self.payment.txid,
            issued_ms: NOW_MS,
        }
    }

    fn receipt(&self) -> SignedBytes {
        Signed::sign(self.receipt_value(), &self.world.seller, NETWORK).unwrap().into_bytes()
    }

    fn page(&self, first: u64, end: u64) -> Page {
        self.world.stream.page(first, end, 3000)
    }

    fn at(&self, state: PurchaseState) -> Purchase {
        let payment = (state != PurchaseState::Agreed).then(|| self.payment.clone());
        let next = if matches!(state, PurchaseState::Complete { .. }) { END } else { FIRST };
        Purchase { payment, next, state, ..self.agreed.clone() }
    }

    fn states(&self) -> Vec<Purchase> {
        let receipt = self.receipt();
        let refusal = Refusal::OfferExpired { expires_ms: 1 };
        [
            PurchaseState::Agreed,
            PurchaseState::Paying,
            PurchaseState::Delivering { receipt: receipt.clone() },
            PurchaseState::Complete { receipt },
            PurchaseState::Refused { refusal: refusal.clone() },
            PurchaseState::TakenBack { refusal: refusal.clone() },
            PurchaseState::Withheld { refusal },
            PurchaseState::GivingUp,
            PurchaseState::GivenUp,
        ]
        .map(|state| self.at(state))
        .to_vec()
    }

    fn events(&self) -> Vec<(&'static str, PurchaseEvent)> {
        let response = |response| PurchaseEvent::Response(Box::new(response));
        let answer = |answer| response(Response::Ok(answer));
        let refused = |refusal| response(Response::Refused(refusal));
        let mut other = self.receipt_value();
        other.order = OrderId([9; 32]);
        let other = Signed::sign(other, &self.world.seller, NETWORK).unwrap().into_bytes();
        let other_payment = SignedPayment { txid: Txid([8; 32]), beef: vec![1] };
        vec![
            ("paid", PurchaseEvent::Paid(self.payment.clone())),
            ("paid again", PurchaseEvent::Paid(other_payment)),
            ("receipt", answer(Answer::Receipt(self.receipt()))),
            ("receipt of another", answer(Answer::Receipt(other))),
            ("page", answer(Answer::Page(self.page(FIRST, 1024)))),
            ("last page", answer(Answer::Page(self.page(FIRST, END)))),
            ("another page", answer(Answer::Page(self.page(FIRST + 1, END)))),
            ("ad", answer(Answer::Ad(self.offer.bytes().clone()))),
            ("busy", refused(Refusal::Busy { retry_ms: 70_000_000 })),
            ("behind", refused(Refusal::HeadersBehind { height: 2, tip: 1 })),
            ("no", refused(Refusal::UnknownOrder { order: self.agreed.id })),
            ("give up", PurchaseEvent::GiveUp),
            ("taken back", PurchaseEvent::TakenBack),
            ("not taken back", PurchaseEvent::NotTakenBack),
            ("outdone", PurchaseEvent::Outdone),
            ("proven", PurchaseEvent::Proven(vec![7])),
        ]
    }
}

fn action(action: &PurchaseAction) -> String {
    match action {
        PurchaseAction::Send(request) => match &**request {
            Request::Fetch { first, .. } => format!("fetch {first}"),
            request => request.name().to_owned(),
        },
        PurchaseAction::Keep(page) => format!("keep to {}", page.end()),
        PurchaseAction::PaymentTaken(_) => "payment taken".into(),
        PurchaseAction::TakeBack(_) => "take back".into(),
        PurchaseAction::Wait { retry_ms, .. } => format!("wait {retry_ms}"),
        PurchaseAction::Finished => "finished".into(),
    }
}

/// What each event does in each state: the new state and the actions, `-` for nothing at all, `!` for an error. Everything that is
/// not here is an answer that nobody asked for.
const TABLE: &[(&str, &str, &str)] = &[
    ("agreed", "paid", "paying: purchase"),
    ("agreed", "paid again", "paying: purchase"),
    ("agreed", "give up", "-"),
    ("agreed", "taken back", "-"),
    ("agreed", "not taken back", "-"),
    ("agreed", "outdone", "-"),
    ("agreed", "proven", "-"),
    ("agreed", "busy", "agreed: wait 60000"),
    ("agreed", "behind", "agreed: wait 500"),
    ("paying", "paid", "-"),
    ("paying", "paid again", "-"),
    ("paying", "receipt", "delivering: payment taken, fetch 1000"),
    ("paying", "receipt of another", "! the receipt does not fit the order: its order differs"),
    ("paying", "busy", "paying: wait 60000"),
    ("paying", "behind", "paying: wait 500"),
    ("paying", "no", "refused: take back"),
    ("paying", "give up", "giving up: take back"),
    ("paying", "taken back", "-"),
    ("paying", "not taken back", "-"),
    ("paying", "outdone", "-"),
    ("paying", "proven", "paying: purchase"),
    ("delivering", "paid", "-"),
    ("delivering", "paid again", "-"),
    ("delivering", "page", "delivering: keep to 1024, fetch 1024"),
    ("delivering", "last page", "complete: keep to 2100, finished"),
    ("delivering", "another page", "! the delivery does not verify"),
    ("delivering", "busy", "delivering: wait 60000"),
    ("delivering", "behind", "delivering: wait 500"),
    ("delivering", "no", "! the order is paid and the seller refuses to deliver"),
    ("delivering", "give up", "-"),
    ("delivering", "taken back", "-"),
    ("delivering", "not taken back", "-"),
    ("delivering", "outdone", "-"),
    ("delivering", "proven", "-"),
    ("complete", "paid", "-"),
    ("complete", "paid again", "-"),
    ("complete", "busy", "complete: wait 60000"),
    ("complete", "behind", "complete: wait 500"),
    ("complete", "give up", "-"),
    ("complete", "taken back", "-"),
    ("complete", "not taken back", "-"),
    ("complete", "outdone", "-"),
    ("complete", "proven", "-"),
    ("refused", "paid", "-"),
    ("refused", "paid again", "-"),
    ("refused", "busy", "refused: wait 60000"),
    ("refused", "behind", "refused: wait 500"),
    ("refused", "give up", "-"),
    ("refused", "taken back", "taken back: "),
    ("refused", "not taken back", "withheld: payment taken"),
    ("refused", "outdone", "-"),
    ("refused", "proven", "-"),
    ("taken back", "paid", "-"),
    ("taken back", "paid again", "-"),
    ("taken back", "busy", "taken back: wait 60000"),
    ("taken back", "behind", "taken back: wait 500"),
    ("taken back", "give up", "-"),
    ("taken back", "taken back", "-"),
    ("taken back", "not taken back", "withheld: payment taken"),
    ("taken back", "outdone", "taken back: "),
    ("taken back", "proven", "-"),
    ("withheld", "paid", "-"),
    ("withheld", "paid again", "-"),
    ("withheld", "receipt", "delivering: payment taken, fetch 1000"),
    ("withheld", "receipt of another", "! the receipt does not fit the order: its order differs"),
    ("withheld", "busy", "withheld: wait 60000"),
    ("withheld", "behind", "withheld: wait 500"),
    ("withheld", "no", "-"),
    ("withheld", "give up", "-"),
    ("withheld", "taken back", "taken back: "),
    ("withheld", "not taken back", "-"),
    ("withheld", "outdone", "-"),
    ("withheld", "proven", "withheld: purchase"),
    ("giving up", "paid", "-"),
    ("giving up", "paid again", "-"),
    ("giving up", "busy", "giving up: wait 60000"),
    ("giving up", "behind", "giving up: wait 500"),
    ("giving up", "give up", "-"),
    ("giving up", "taken back", "given up: "),
    ("giving up", "not taken back", "paying: payment taken, purchase"),
    ("giving up", "outdone", "-"),
    ("giving up", "proven", "-"),
    ("given up", "paid", "-"),
    ("given up", "paid again", "-"),
    ("given up", "busy", "given up: wait 60000"),
    ("given up", "behind", "given up: wait 500"),
    ("given up", "give up", "-"),
    ("given up", "taken back", "-"),
    ("given up", "not taken back", "paying: payment taken, purchase"),
    ("given up", "outdone", "given up: "),
    ("given up", "proven", "-"),
];

#[test]
fn every_event_in_every_state() {
    let bought = bought();
    for purchase in bought.states() {
        for (name, event) in bought.events() {
            let state = purchase.state.name();
            let row = TABLE.iter().find(|(in_state, on, _)| (*in_state, *on) == (state, name));
            let expected = row.map_or("! the seller answered", |(_, _, outcome)| outcome);
            let mut after = purchase.clone();
            let outcome = after.handle(event, NETWORK);
            let found = match &outcome {
                Err(error) => format!("! {error}"),
                Ok(actions) if actions.is_empty() && after == purchase => "-".into(),
                Ok(actions) => {
                    format!(
                        "{}: {}",
                        after.state.name(),
                        actions.iter().map(action).collect::<Vec<_>>().join(", ")
                    )
                }
            };
            let same =
                if expected.starts_with('!') { found.starts_with(expected) } else { found == expected };
            assert!(same, "{state} × {name}: {found}, expected {expected}");
            if outcome.is_err() {
                assert_eq!(after, purchase, "{state} × {name} is an error and changed the purchase");
            }
            let name_is_final = ["complete", "taken back", "given up"].contains(&after.state.name());
            assert_eq!(after.state.is_final(), name_is_final);
        }
    }
}

#[test]
fn coins_that_are_back_for_good_are_never_lost_again() {
    let bought = bought();
    let refusal = Refusal::OfferExpired { expires_ms: 1 };
    for state in [PurchaseState::TakenBack { refusal }, PurchaseState::GivenUp] {
        let mut purchase = bought.at(state);
        assert!(purchase.may_return() && !purchase.is_final(), "a reorganisation may bring the payment back");
        purchase.handle(PurchaseEvent::Outdone, NETWORK).unwrap();
        assert!(!purchase.may_return() && purchase.is_final());
        let deep = purchase.clone();
        assert_eq!(purchase.handle(PurchaseEvent::NotTakenBack, NETWORK), Ok(Vec::new()));
        assert_eq!(purchase, deep);
    }
}

#[test]
fn a_payment_goes_back_and_forth_as_often_as_the_network_changes_its_mind() {
    let bought = bought();
    let refusal = Refusal::OfferExpired { expires_ms: 1 };
    for (back, lost) in [
        (PurchaseState::TakenBack { refusal: refusal.clone() }, PurchaseState::Withheld { refusal }),
        (PurchaseState::GivenUp, PurchaseState::Paying),
    ] {
        let mut purchase = bought.at(back.clone());
        for _ in 0..3 {
            assert!(purchase.may_return() && !purchase.is_asked_for() && !purchase.may_be_back());
            purchase.handle(PurchaseEvent::NotTakenBack, NETWORK).unwrap();
            assert_eq!(purchase.state, lost);
            assert!(purchase.is_asked_for() && purchase.may_be_back() && !purchase.is_final());
            purchase.handle(PurchaseEvent::TakenBack, NETWORK).unwrap();
            assert_eq!(purchase.state, back);
        }
        // Once the seller is asked with the path, it is not asked without it again.
        purchase.handle(PurchaseEvent::NotTakenBack, NETWORK).unwrap();
        purchase.handle(PurchaseEvent::Proven(vec![7]), NETWORK).unwrap();
        let Some(PurchaseAction::Send(request)) = purchase.resume() else { panic!() };
        assert!(matches!(*request, Request::Purchase(request) if request.payment == [7]));
    }
}

#[test]
fn what_comes_next_follows_from_the_state_alone() {
    let bought = bought();
    let expected = [
        None,
        Some("purchase"),
        Some("fetch 1000"),
        None,
        Some("take back"),
        None,
        Some("purchase"),
        Some("take back"),
        None,
    ];
    for (purchase, expected) in bought.states().into_iter().zip(expected) {
        let stored = codec::encode(&purchase).unwrap();
        let back: Purchase = codec::decode(&stored, codec::MAX_FRAME).unwrap();
        assert_eq!(back, purchase);
        assert_eq!(back.resume().as_ref().map(action).as_deref(), expected, "{}", purchase.state.name());
        if let Some(PurchaseAction::Send(request)) = back.resume()
            && let Request::Purchase(PurchaseRequest { offer, order, payment }) = *request
        {
            assert_eq!((&offer, &order), (bought.offer.bytes(), &bought.agreed.order));
            assert_eq!(payment, bought.payment.beef);
        }
    }
}

#[test]
fn a_receipt_that_differs_in_anything_is_no_receipt() {
    let bought = bought();
    let refused = |change: &dyn Fn(&mut Receipt)| {
        let mut receipt = bought.receipt_value();
        change(&mut receipt);
        let receipt = Signed::sign(receipt, &bought.world.seller, NETWORK).unwrap().into_bytes();
        take(&bought, receipt)
    };
    let differs = |field| Err(PurchaseError::Receipt { field });
    assert_eq!(refused(&|_| ()), Ok("delivering"));
    assert_eq!(refused(&|r| r.order = OrderId([1; 32])), differs("order"));
    assert_eq!(refused(&|r| r.offer = Hash([1; 32])), differs("offer"));
    assert_eq!(refused(&|r| r.stream = StreamId([1; 16])), differs("stream"));
    assert_eq!(refused(&|r| r.first += 1), differs("first"));
    assert_eq!(refused(&|r| r.count -= 1), differs("count"));
    assert_eq!(refused(&|r| r.paid = sat(1)), differs("paid"));
    assert_eq!(refused(&|r| r.txid = Txid([1; 32])), differs("txid"));

    let foreign = Signed::sign(bought.receipt_value(), &identity(7), NETWORK).unwrap().into_bytes();
    assert!(matches!(take(&bought, foreign), Err(PurchaseError::Statement(_))));
    let elsewhere = Signed::sign(bought.receipt_value(), &bought.world.seller, sensora_chain::Network::Main);
    assert!(matches!(take(&bought, elsewhere.unwrap().into_bytes()), Err(PurchaseError::Statement(_))));
    let mut torn = bought.receipt();
    torn.signature.pop();
    assert!(matches!(take(&bought, torn), Err(PurchaseError::Statement(_))));
}

fn take(bought: &Bought, receipt: SignedBytes) -> Result<&'static str, PurchaseError> {
    let mut purchase = bought.at(PurchaseState::Paying);
    let response = Response::Ok(Answer::Receipt(receipt));
    purchase.handle(PurchaseEvent::Response(Box::new(response)), NETWORK)?;
    Ok(purchase.state.name())
}

/// A page with one reading changed and everything else as it was.
fn altered(page: &Page, stream: &Stream, change: &dyn Fn(&mut Vec<Value>, &mut i64)) -> Page {
    let mut page = page.clone();
    let mut readings = page.runs[0].open(&stream.schema).unwrap().readings;
    let reading = &mut readings[1];
    change(&mut reading.values, &mut reading.time);
    let columns = sensora_protocol::stream::columns::encode(&stream.schema, &readings).unwrap();
    page.runs[0].columns = columns;
    page
}

#[test]
fn a_delivery_that_is_not_what_was_ordered_is_refused() {
    let bought = bought();
    let stream = &bought.world.stream;
    let checkpoint = stream.checkpoint(&bought.world.seller, 3000);
    let open = |page: &Page| page.open(&stream.schema, checkpoint.value(), FIRST, END).map(|page| page.end());
    let not_proven = |page: &Page| match open(page) {
        Err(DeliveryError::NotProven { source, .. }) => *source,
        other => panic!("{other:?}"),
    };
    let good = bought.page(FIRST, END);
    assert!(matches!(good.runs[1].salts, Salts::Secret(_)));
    assert_eq!(open(&good), Ok(END));
    assert_eq!(open(&bought.page(FIRST, 1500)), Ok(1500));

    // Altered: a value, a time, a salt.
    let value = altered(&good, stream, &|values, _| values[0] = Value::Float(99.0));
    assert!(matches!(not_proven(&value), ChunkError::Proof(_)));
    let time = altered(&good, stream, &|_, time| *time += 1);
    assert!(matches!(not_proven(&time), ChunkError::Proof(_)));
    let gone = altered(&good, stream, &|values, _| values[3] = Value::Null);
    assert!(matches!(not_proven(&gone), ChunkError::Proof(_)));
    let mut salted = good.clone();
    let Salts::Each(salts) = &mut salted.runs[0].salts else { panic!("the first run is no whole chunk") };
    salts[0][0] ^= 1;
    assert!(matches!(not_proven(&salted), ChunkError::Proof(_)));
    let mut secret = good.clone();
    secret.runs[1].salts = Salts::Secret(stream.secret.chunk(0));
    assert!(matches!(not_proven(&secret), ChunkError::Proof(_)));

    // Omitted: a run in the middle, the readings at the end of a run, the last run.
    let mut hole = good.clone();
    hole.runs.remove(1);
    assert!(matches!(not_proven(&hole), ChunkError::Incomplete(_)));
    let mut short = good.clone();
    short.runs[0] = Run::new(&stream.schema, stream.slice(FIRST, 1020), &stream.secret).unwrap();
    assert!(matches!(not_proven(&short), ChunkError::Incomplete(_)));
    let mut cut = good.clone();
    cut.runs.pop();
    assert!(matches!(not_proven(&cut), ChunkError::Proof(_)));

    // Swapped runs, and readings swapped under their sequence numbers.
    let mut swapped = good.clone();
    swapped.runs.swap(1, 2);
    assert!(matches!(not_proven(&swapped), ChunkError::Incomplete(_)));
    let mut readings = stream.slice(FIRST, 1024).to_vec();
    let (a, b) = (readings[3].clone(), readings[4].clone());
    (readings[3].time, readings[3].values) = (b.time, b.values);
    (readings[4].time, readings[4].values) = (a.time, a.values);
    let mut exchanged = good.clone();
    exchanged.runs[0] = Run::new(&stream.schema, &readings, &stream.secret).unwrap();
    assert!(matches!(not_proven(&exchanged), ChunkError::Proof(_)));

    // From another stream of the same seller, and from another time of this one.
    let cellar = Stream::new(&bought.world.seller, "cellar", 3000).page(FIRST, END, 3000);
    assert!(matches!(not_proven(&cellar), ChunkError::Proof(_)));
    let older = stream.page(FIRST, END, 2500);
    assert!(matches!(not_proven(&older), ChunkError::Proof(_)));

    // Begins elsewhere, or goes on too long.
    assert_eq!(open(&bought.page(1001, END)), Err(DeliveryError::Begins { found: 1001, expected: FIRST }));
    assert_eq!(open(&bought.page(999, END)), Err(DeliveryError::Begins { found: 999, expected: FIRST }));
    let long = bought.page(FIRST, END + 1);
    assert_eq!(open(&long), Err(DeliveryError::TooMany { first: FIRST, count: END + 1 - FIRST, end: END }));

    // Without its proof, with another, with too much of it.
    for change in [
        |page: &mut Page| page.proof.hashes.clear(),
        |page: &mut Page| page.proof.hashes.reverse(),
        |page: &mut Page| page.proof.hashes.push(Hash([0; 32])),
        |page: &mut Page| page.proof.hashes[0].0[0] ^= 1,
    ] {
        let mut wrong = good.clone();
        change(&mut wrong);
        assert!(matches!(not_proven(&wrong), ChunkError::Proof(_)));
    }
    let none = Page { runs: vec![], proof: good.proof.clone() };
    assert_eq!(open(&none), Err(DeliveryError::Runs(0)));
    let many = Page { runs: vec![good.runs[0].clone(); MAX_RUNS + 1], proof: good.proof.clone() };
    assert_eq!(open(&many), Err(DeliveryError::Runs(MAX_RUNS + 1)));
    let mut torn = good;
    torn.runs[2].columns.pop();
    assert!(matches!(not_proven(&torn), ChunkError::Columns { .. }));
}

#[test]
fn a_sellers_words_do_not_reach_the_terminal() {
    let hostile = Refusal::PaymentRejected { txid: Txid([1; 32]), reason: "\u{1b}[2J".repeat(10_000) };
    let bytes = Response::Refused(hostile).to_bytes().unwrap();
    let Response::Refused(Refusal::PaymentRejected { reason, .. }) = Response::from_bytes(&bytes).unwrap()
    else {
        panic!("another answer")
    };
    assert!(reason.len() <= 256 && !reason.contains('\u{1b}'), "{reason:?}");
}
