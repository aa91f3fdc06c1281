//! A batch sold encrypted. The coin is locked until the key is shown, and comes back where it is not.

use std::sync::OnceLock;

use sensora_protocol::market::key_release::buy::BuyEvent;

use super::{Gate, Outcome, Side};
use crate::key_release::goods::{END, FIRST, Goods, LOCK};
use crate::key_release::pair::Pair;

fn goods() -> &'static Goods {
    static GOODS: OnceLock<Goods> = OnceLock::new();
    GOODS.get_or_init(Goods::honest)
}

/// `claims`: a silent seller still watches the chain, and shows its key there.
pub(super) fn run(gate: &mut Gate, claims: bool) -> Outcome {
    let price = goods().terms.total.as_u64();
    if !(gate.passes(Side::Buyer, "quote") && gate.passes(Side::Seller, "offer")) {
        return Outcome { limits: (price, price), ..Outcome::default() };
    }
    let mut pair = Pair::new(goods());
    pair.connect();
    exchange(&mut pair, gate);
    pair.pay();
    exchange(&mut pair, gate);
    let is_silent = |gate: &Gate, side| gate.silent == side && gate.withheld.is_some();
    for block in 0..LOCK + 20 {
        if is_silent(gate, Side::Seller) {
            pair.offline = !claims;
            if block == 12 {
                // Whoever waits for a seller that says nothing asks to be let out.
                pair.buyer_event(BuyEvent::GiveUp);
                pair.take_back();
            }
        }
        pair.mine(true);
        pair.seller_looks();
        pair.buyer_looks();
        pair.take_back();
        exchange(&mut pair, gate);
        pair.check();
    }
    let all = if pair.kept() == END - FIRST { price } else { 0 };
    let (paid, fees) = pair.settled();
    Outcome {
        buyer_lost: paid.saturating_sub(all),
        seller_lost: all.saturating_sub(paid),
        limits: (price, price),
        fees,
    }
}

fn exchange(pair: &mut Pair<'_>, gate: &mut Gate) {
    loop {
        let to_seller = pair.to_seller.front().map(|frame| frame.name());
        if let Some(name) = to_seller {
            if gate.passes(Side::Buyer, name) {
                pair.deliver_to_seller();
            } else {
                pair.to_seller.pop_front();
            }
        }
        let to_buyer = pair.to_buyer.front().map(|frame| frame.name());
        if let Some(name) = to_buyer {
            if gate.passes(Side::Seller, name) {
                pair.deliver_to_buyer();
            } else {
                pair.to_buyer.pop_front();
            }
        }
        if to_seller.is_none() && to_buyer.is_none() {
            return;
        }
    }
}
