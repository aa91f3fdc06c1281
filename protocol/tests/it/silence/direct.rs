//! A direct payment: the buyer pays first, so all that it can lose is the price.

use sensora_chain::contract::payment::pay_to_hash;
use sensora_chain::{OutPoint, Satoshis};
use sensora_protocol::codec;
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::payment::script_for_buyer;
use sensora_protocol::market::price::Price;
use sensora_protocol::market::purchase::{Purchase, PurchaseAction, PurchaseEvent};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::{Sale, SaleAction, SaleEvent};

use super::{Gate, Outcome, Side};
use crate::channel::chain::Chain;
use crate::world::{NETWORK, NOW_MS, World, sat};

const FIRST: u64 = 5;
const COUNT: u64 = 40;
const COIN: u64 = 100_000;
/// Readings in one page, so that a delivery is several messages.
const PAGE: u64 = 15;

/// What the seller has and has sent.
#[derive(Default)]
struct Seller {
    sale: Option<Sale>,
    /// Readings that left it.
    sent: u64,
}

pub(super) fn run(gate: &mut Gate) -> Outcome {
    let mut world = World::new(60);
    let coin = world.coin(COIN);
    let mine = pay_to_hash(&world.buyer.public().hash160(), Satoshis::ZERO).locking;
    let mut chain = Chain::new(1);
    chain.give(OutPoint { txid: coin.transaction.txid(), vout: 0 }, coin.transaction.outputs[0].clone());
    let (mut seller, mut kept, mut price) = (Seller::default(), 0, sat(0));
    let mut theirs = None;
    if gate.passes(Side::Buyer, "quote") && gate.passes(Side::Seller, "offer") {
        let offer = world.sign(world.offer(FIRST, COUNT));
        price = offer.value().total;
        let mut purchase = Purchase::agree(&offer, [4; 16], &world.buyer, NETWORK, NOW_MS).unwrap();
        let order = purchase.signed_order(NETWORK).unwrap();
        theirs = Some(script_for_buyer(order.value(), world.buyer.key(), world.seller.public()));
        let payment = world.pay(&coin, order.value(), price.as_u64());
        purchase.handle(PurchaseEvent::Paid(payment), NETWORK).unwrap();
        while let Some(PurchaseAction::Send(request)) = purchase.resume() {
            if !gate.passes(Side::Buyer, request.name()) {
                break;
            }
            let answer = seller.answers(&world, &mut chain, *request);
            if !gate.passes(Side::Seller, answer.name()) {
                break;
            }
            let actions = purchase.handle(PurchaseEvent::Response(Box::new(answer)), NETWORK).unwrap();
            for action in actions {
                if let PurchaseAction::Keep(page) = action {
                    kept += page.readings.len() as u64;
                }
            }
        }
        if gate.silent == Side::Seller && gate.withheld.is_some() {
            // The buyer wants its money back. That goes as long as the payment is not at the network.
            let actions = purchase.handle(PurchaseEvent::GiveUp, NETWORK).unwrap();
            if actions.iter().any(|action| matches!(action, PurchaseAction::TakeBack(_))) {
                let back =
                    world.spend(&coin, vec![pay_to_hash(&world.buyer.public().hash160(), sat(COIN - 60))]);
                let taken = chain.submit(&back).is_ok();
                let event = if taken { PurchaseEvent::TakenBack } else { PurchaseEvent::NotTakenBack };
                purchase.handle(event, NETWORK).unwrap();
            }
        }
    }
    chain.mine();
    let paid = theirs.map_or(Satoshis::ZERO, |script| chain.balance(&script));
    let worth = |count| Price::from_msat(1_500).unwrap().due(count).unwrap();
    Outcome {
        buyer_lost: paid.saturating_sub(worth(kept)).as_u64(),
        seller_lost: worth(seller.sent).saturating_sub(paid).as_u64(),
        limits: (price.as_u64(), 0),
        fees: COIN - paid.as_u64() - chain.balance(&mine).as_u64(),
    }
}

impl Seller {
    fn answers(&mut self, world: &World, chain: &mut Chain, request: Request) -> Response {
        match Request::from_bytes(&request.to_bytes().unwrap()).unwrap() {
            Request::Purchase(request) => {
                let mut sale = match self.sale.take() {
                    Some(sale) => sale,
                    None => Sale::admit(request, &world.admission()).unwrap(),
                };
                let paying = sale.transaction().unwrap();
                let event = match chain.submit(&paying) {
                    Ok(()) => SaleEvent::Accepted,
                    Err(refused) => {
                        SaleEvent::Rejected { double_spent: true, reason: format!("{refused:?}") }
                    }
                };
                let actions = sale.handle(event, &world.seller, NETWORK, world.now_ms);
                self.sale = Some(codec::decode(&codec::encode(&sale).unwrap(), codec::MAX_FRAME).unwrap());
                let receipt = actions.into_iter().find_map(|action| match action {
                    SaleAction::Receipt(receipt) => Some(receipt),
                    _ => None,
                });
                Response::Ok(Answer::Receipt(receipt.unwrap()))
            }
            Request::Fetch { order, first } => {
                let sold = self.sale.as_ref().is_some_and(|sale| sale.order == order && sale.is_sold());
                if !sold {
                    return Response::Refused(Refusal::UnknownOrder { order });
                }
                let end = (first + PAGE).min(FIRST + COUNT);
                self.sent = self.sent.max(end - FIRST);
                Response::Ok(Answer::Page(world.stream.page(first, end, world.size())))
            }
            other => panic!("{}", other.name()),
        }
    }
}
