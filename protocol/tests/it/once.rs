//! An order is charged once and answered the same, whatever gets lost, repeated or restarted between the two.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sensora_chain::contract::payment::pay_to_hash;
use sensora_chain::{OutPoint, Transaction};
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::purchase::{
    Purchase, PurchaseAction, PurchaseEvent, PurchaseState, SignedPayment,
};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::{PurchaseRequest, Sale, SaleAction, SaleEvent, order_of};
use sensora_protocol::stream::Reading;
use sensora_protocol::{OrderId, SignedBytes, codec};

use crate::world::{Coin, NETWORK, NOW_MS, World, beef, sat};

const FIRST: u64 = 5;
const END: u64 = 45;
const PRICE: u64 = 60;

/// Where one exchange breaks off.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    RequestLost,
    /// The seller dies with the sale stored and nothing sent.
    CrashAfterStore,
    /// The seller dies with the payment at the network and its answer not stored.
    CrashAfterBroadcast,
    AnswerLost,
    /// The buyer dies before it has stored what the answer changed.
    BuyerCrash,
}

#[derive(Debug, Clone)]
enum Step {
    Exchange {
        fault: Fault,
        readings: u64,
    },
    /// An answer of before comes once more.
    OldAnswer(prop::sample::Index),
    /// The wallet says a second time that something is paid, with another transaction.
    PaidAgain,
    SellerRestart,
    /// The seller's chain source is there, or not.
    ChainUp(bool),
    /// The buyer's coin is spent by a copy of its wallet.
    CoinGone,
    Reorganised,
    /// What took the coins back becomes too deep for a reorganisation.
    Deep,
    Later {
        ms: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::RequestLost),
        1 => Just(Fault::CrashAfterStore),
        1 => Just(Fault::CrashAfterBroadcast),
        1 => Just(Fault::AnswerLost),
        1 => Just(Fault::BuyerCrash),
    ];
    prop_oneof![
        12 => (fault, 1..30_u64).prop_map(|(fault, readings)| Step::Exchange { fault, readings }),
        3 => any::<prop::sample::Index>().prop_map(Step::OldAnswer),
        1 => Just(Step::PaidAgain),
        2 => Just(Step::SellerRestart),
        2 => any::<bool>().prop_map(Step::ChainUp),
        1 => Just(Step::CoinGone),
        1 => Just(Step::Reorganised),
        1 => Just(Step::Deep),
        1 => (0..400_000_i64).prop_map(|ms| Step::Later { ms }),
    ]
}

/// Both sides as a node drives them: what is durable is bytes, each event changes it in one step, and only then does anything go out.
struct Market {
    world: World,
    coin: Coin,
    chain_up: bool,
    purchase: Vec<u8>,
    kept: Vec<Reading>,
    sales: BTreeMap<OrderId, Vec<u8>>,
    credits: Vec<(OrderId, OutPoint)>,
    receipts: Vec<SignedBytes>,
    answers: Vec<Response>,
    delivered: bool,
    payment: Transaction,
    reclaim: Transaction,
    /// Whether what took the coins back is too deep for a reorganisation.
    deep: bool,
    /// The payment with its Merkle path, once it is in a block.
    proven: Option<Vec<u8>>,
}

impl Market {
    fn new() -> Self {
        let mut world = World::new(60);
        let offer = world.sign(world.offer(FIRST, END - FIRST));
        let mut purchase = Purchase::agree(&offer, [4; 16], &world.buyer, NETWORK, NOW_MS).unwrap();
        let order = purchase.signed_order(NETWORK).unwrap();
        let coin = world.coin(100_000);
        let signed = world.pay(&coin, order.value(), PRICE);
        let reclaim = world.spend(&coin, vec![pay_to_hash(&world.buyer.public().hash160(), sat(99_900))]);
        let beef = sensora_chain::beef::Beef::parse(&signed.beef, &Default::default()).unwrap();
        let payment = beef.transaction(&signed.txid).unwrap().clone();
        purchase.handle(PurchaseEvent::Paid(signed), NETWORK).unwrap();
        Self {
            world,
            coin,
            chain_up: true,
            purchase: codec::encode(&purchase).unwrap(),
            kept: Vec::new(),
            sales: BTreeMap::new(),
            credits: Vec::new(),
            receipts: Vec::new(),
            answers: Vec::new(),
            delivered: false,
            payment,
            reclaim,
            deep: false,
            proven: None,
        }
    }

    fn purchase(&self) -> Purchase {
        codec::decode(&self.purchase, codec::MAX_FRAME).unwrap()
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Exchange { fault, readings } => self.exchange(fault, readings),
            Step::OldAnswer(index) if !self.answers.is_empty() => {
                let answer = self.answers[index.index(self.answers.len())].clone();
                self.buyer_takes(PurchaseEvent::Response(Box::new(answer)), false);
            }
            Step::OldAnswer(_) => {}
            Step::PaidAgain => {
                let order = self.purchase().signed_order(NETWORK).unwrap();
                let again: SignedPayment = self.world.pay(&self.coin, order.value(), PRICE + 1);
                self.buyer_takes(PurchaseEvent::Paid(again), false);
            }
            Step::SellerRestart => {
                let stored: Vec<Sale> = self
                    .sales
                    .values()
                    .map(|bytes| codec::decode(bytes, codec::MAX_FRAME).unwrap())
                    .collect();
                for sale in stored.into_iter().filter(|sale| !sale.is_sold()) {
                    self.settle(sale, Fault::None);
                }
            }
            Step::ChainUp(up) => self.chain_up = up,
            Step::CoinGone => {
                let copy = self.world.spend(&self.coin, vec![pay_to_hash(&[7; 20], sat(99_000))]);
                self.world.chain.submit(&copy);
            }
            // Somebody has kept the payment, and it is mined in place of what took its coins back.
            Step::Reorganised if self.world.chain.is_taken(&self.reclaim) && !self.deep => {
                self.world.chain.replace(&self.payment);
                let path = self.world.chain.mine(&[&self.payment]).remove(0);
                let mined = Coin { transaction: self.payment.clone(), path };
                self.proven = Some(beef(&mined, &self.payment));
            }
            Step::Deep if self.world.chain.is_taken(&self.reclaim) => self.deep = true,
            Step::Reorganised | Step::Deep => {}
            Step::Later { ms } => self.world.now_ms += ms,
        }
    }

    /// The buyer does what follows from its stored state.
    fn exchange(&mut self, fault: Fault, readings: u64) {
        if let (true, Some(proven)) = (self.chain_up, self.proven.clone()) {
            self.buyer_takes(PurchaseEvent::Proven(proven), false);
        }
        let request = match self.purchase().resume() {
            Some(PurchaseAction::Send(request)) => *request,
            Some(PurchaseAction::TakeBack(_)) => {
                let back = self.chain_up && self.world.chain.submit(&self.reclaim);
                let event = match (back, self.world.chain.is_taken(&self.payment)) {
                    (true, _) => PurchaseEvent::TakenBack,
                    (false, true) if self.chain_up => PurchaseEvent::NotTakenBack,
                    _ => return,
                };
                return self.buyer_takes(event, fault == Fault::BuyerCrash);
            }
            None if self.purchase().may_return() && self.chain_up => {
                let event = match (self.world.chain.is_taken(&self.payment), self.deep) {
                    (true, _) => PurchaseEvent::NotTakenBack,
                    (false, true) => PurchaseEvent::Outdone,
                    (false, false) => return,
                };
                return self.buyer_takes(event, fault == Fault::BuyerCrash);
            }
            _ => return,
        };
        if fault == Fault::RequestLost {
            return;
        }
        let bytes = request.to_bytes().unwrap();
        let Some(answer) = self.seller_answers(Request::from_bytes(&bytes).unwrap(), fault, readings) else {
            return;
        };
        if let Response::Ok(Answer::Receipt(receipt)) = &answer {
            self.receipts.push(receipt.clone());
        }
        let answer = Response::from_bytes(&answer.to_bytes().unwrap()).unwrap();
        self.answers.push(answer.clone());
        if fault != Fault::AnswerLost {
            self.buyer_takes(PurchaseEvent::Response(Box::new(answer)), fault == Fault::BuyerCrash);
        }
    }

    fn buyer_takes(&mut self, event: PurchaseEvent, crash: bool) {
        let mut purchase = self.purchase();
        let before = purchase.clone();
        let outcome = purchase.handle(event, NETWORK);
        if crash {
            return;
        }
        let Ok(actions) = outcome else {
            assert_eq!(purchase, before);
            return;
        };
        let txid = |purchase: &Purchase| purchase.payment.as_ref().map(|payment| payment.txid);
        assert_eq!(txid(&purchase), txid(&before), "a payment is never replaced");
        for action in &actions {
            if let PurchaseAction::Keep(page) = action {
                self.kept.extend(page.readings.clone());
            }
        }
        self.purchase = codec::encode(&purchase).unwrap();
    }

    fn seller_answers(&mut self, request: Request, fault: Fault, readings: u64) -> Option<Response> {
        match request {
            Request::Purchase(request) => self.sells(request, fault),
            Request::Fetch { order, first } => {
                let refused = Some(Response::Refused(Refusal::UnknownOrder { order }));
                let Some(stored) = self.sales.get(&order) else { return refused };
                let sale: Sale = codec::decode(stored, codec::MAX_FRAME).unwrap();
                if !sale.is_sold() {
                    return Some(Response::Refused(Refusal::ChainUnavailable));
                }
                self.delivered = true;
                let end = END.min(first + readings);
                Some(Response::Ok(Answer::Page(self.world.stream.page(first, end, 60))))
            }
            other => panic!("{}", other.name()),
        }
    }

    fn sells(&mut self, request: PurchaseRequest, fault: Fault) -> Option<Response> {
        let order = match order_of(&request, NETWORK, self.world.buyer.public()) {
            Ok(order) => order.id(NETWORK),
            Err(refusal) => return Some(Response::Refused(refusal)),
        };
        let sale = match self.sales.get(&order) {
            Some(stored) => {
                let mut sale = codec::decode::<Sale>(stored, codec::MAX_FRAME).unwrap();
                sale.prove(request.payment, &self.world.chain.headers);
                sale
            }
            None => match Sale::admit(request, &self.world.admission()) {
                Ok(sale) => sale,
                Err(refusal) => return Some(Response::Refused(refusal)),
            },
        };
        if let SaleAction::Receipt(receipt) = sale.resume() {
            return Some(Response::Ok(Answer::Receipt(receipt)));
        }
        self.sales.insert(order, codec::encode(&sale).unwrap());
        if fault == Fault::CrashAfterStore {
            return None;
        }
        self.settle(sale, fault)
    }

    fn settle(&mut self, mut sale: Sale, fault: Fault) -> Option<Response> {
        let paying = sale.transaction().unwrap();
        let event = if !self.chain_up {
            SaleEvent::Unavailable
        } else if self.world.chain.submit(&paying) {
            SaleEvent::Accepted
        } else {
            SaleEvent::Rejected { double_spent: true, reason: "its coin is spent".into() }
        };
        if fault == Fault::CrashAfterBroadcast {
            return None;
        }
        let actions = sale.handle(event, &self.world.seller, NETWORK, self.world.now_ms);
        if actions.contains(&SaleAction::Forget) {
            self.sales.remove(&sale.order);
        } else {
            self.sales.insert(sale.order, codec::encode(&sale).unwrap());
        }
        let mut answer = None;
        for action in actions {
            match action {
                SaleAction::Credit { .. } => {
                    self.credits.push((sale.order, OutPoint { txid: sale.txid, vout: sale.vout }));
                }
                SaleAction::Receipt(receipt) => answer = Some(Response::Ok(Answer::Receipt(receipt))),
                SaleAction::Refuse(refusal) => answer = Some(Response::Refused(refusal)),
                SaleAction::Broadcast | SaleAction::Forget => {}
            }
        }
        answer
    }

    fn check(&self) {
        let purchase = self.purchase();
        assert!(self.credits.len() <= 1, "an order is credited once: {:?}", self.credits);
        assert!(self.receipts.iter().all(|receipt| Some(receipt) == self.receipts.first()), "one receipt");
        let paid = self.world.chain.is_taken(&self.payment);
        let back = self.world.chain.is_taken(&self.reclaim);
        assert!(!(paid && back), "paid or taken back, never both");
        assert!(self.credits.is_empty() || paid, "what is credited is paid");
        assert!(!self.delivered || !self.credits.is_empty(), "what is delivered is credited");
        let expected = &self.world.stream.readings[FIRST as usize..][..self.kept.len()];
        assert_eq!(self.kept, expected, "kept in order, each once");
        assert_eq!(purchase.next, FIRST + self.kept.len() as u64);
        match purchase.state {
            PurchaseState::Complete { .. } => assert_eq!(self.kept.len() as u64, END - FIRST),
            PurchaseState::TakenBack { .. } => {
                assert!(back || (paid && purchase.may_return()), "conclusions wait until they are deep (I6)");
            }
            PurchaseState::Withheld { .. } => assert!(paid),
            _ => {}
        }
    }
}

/// Somebody brings a refused payment into a block when its offer is over: only with its Merkle path does its seller take it.
#[test]
fn a_payment_that_is_mined_after_its_offer_is_over_is_delivered_for() {
    let exchange = || Step::Exchange { fault: Fault::None, readings: 30 };
    let mut market = Market::new();
    for step in [Step::Later { ms: 600_000 }, exchange(), exchange(), Step::Reorganised] {
        market.run(step);
        market.check();
    }
    assert_eq!(market.purchase().state.name(), "taken back");
    for _ in 0..8 {
        market.run(exchange());
        market.check();
    }
    assert_eq!(market.purchase().state.name(), "complete");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn an_order_is_charged_once(steps in prop::collection::vec(step(), 1..40)) {
        let mut market = Market::new();
        for step in steps {
            market.run(step);
            market.check();
        }
        // When everything works again, it comes to an end.
        market.chain_up = true;
        for _ in 0..8 {
            market.run(Step::Exchange { fault: Fault::None, readings: 30 });
            market.run(Step::SellerRestart);
            market.check();
        }
        let purchase = market.purchase();
        let gone = !market.world.chain.is_taken(&market.payment) && !market.world.chain.is_taken(&market.reclaim);
        prop_assert!(purchase.state.is_final() || gone, "{:?}", purchase.state);
        if market.world.chain.is_taken(&market.payment) {
            prop_assert_eq!(purchase.state.name(), "complete");
        }
    }
}
