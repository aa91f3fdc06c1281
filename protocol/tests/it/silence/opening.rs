//! A channel that is opened and closed without any order: the money in it is locked, and nobody's.

use sensora_chain::Satoshis;
use sensora_chain::script::Script;
use sensora_protocol::market::channel::buyer::BuyerChannelEvent;

use super::{Gate, Outcome, Side};
use crate::channel::market::{Market, ToBuyer, ToSeller};

/// `alive`: a silent seller still looks after the channel on the chain; otherwise it is gone for ever.
pub(super) fn run(gate: &mut Gate, alive: bool) -> Outcome {
    if !(gate.passes(Side::Buyer, "ask") && gate.passes(Side::Seller, "offer")) {
        return Outcome::default();
    }
    let mut market = Market::new();
    let change = market.take_back.outputs[0].locking.clone();
    let funds = market.take_back.inputs[0].previous;
    let put_in = market.chain.output(&funds).unwrap().value;
    deliver(&mut market, gate);
    market.chain.mine();
    market.look();
    if market.buyer.channel.is_open() {
        market.buyer_event(BuyerChannelEvent::CloseAsked);
        deliver(&mut market, gate);
    }
    if gate.silent == Side::Seller && gate.withheld.is_some() && !alive {
        market.seller.channel = None;
    }
    if gate.silent == Side::Buyer && gate.withheld.is_some() {
        // A buyer that is gone looks at nothing either; it comes back when all blocks are there.
        while market.chain.tip() < market.offer.value().refund_height.get() + 8 {
            market.chain.mine();
            market.look_as_seller();
        }
    } else {
        market.buyer_event(BuyerChannelEvent::GiveUp);
    }
    while market.chain.tip() < market.offer.value().refund_height.get() + 16 {
        (market.to_seller, market.to_buyer) = (Vec::new(), Vec::new());
        market.chain.mine();
        market.look();
    }
    assert!(market.buyer.channel.state.is_final(), "{:?}", market.buyer.channel.state);
    let terms = *market.contract.close_terms();
    let balance = |script: &Script| market.chain.balance(script);
    let paid = balance(&Script::p2pkh(&terms.seller_hash));
    let back = Satoshis::sum([balance(&change), balance(&Script::p2pkh(&terms.buyer_hash))]).unwrap();
    Outcome {
        buyer_lost: paid.as_u64(),
        seller_lost: 0,
        limits: (0, 0),
        fees: put_in.as_u64() - paid.as_u64() - back.as_u64(),
    }
}

fn deliver(market: &mut Market, gate: &mut Gate) {
    while !(market.to_seller.is_empty() && market.to_buyer.is_empty()) {
        if !market.to_seller.is_empty() {
            let message = market.to_seller.remove(0);
            let name = match &message {
                ToSeller::Open(_) => "open",
                ToSeller::Close(_) => "close",
                ToSeller::Voucher(..) => "voucher",
                ToSeller::Ask(_) => "question",
            };
            if gate.passes(Side::Buyer, name) {
                market.deliver_to_seller(message);
            }
        }
        if !market.to_buyer.is_empty() {
            let message = market.to_buyer.remove(0);
            let name = match &message {
                ToBuyer::Report(_) | ToBuyer::Learned(..) => "report",
                ToBuyer::Refused(_) => "refusal",
            };
            if gate.passes(Side::Seller, name) {
                market.deliver_to_buyer(message);
            }
        }
    }
}
