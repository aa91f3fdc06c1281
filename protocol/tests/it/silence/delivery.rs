//! Orders through a channel. In the end the seller closes it with the highest voucher it has, whoever was silent.

use sensora_chain::contract::channel::Voucher;
use sensora_chain::script::Script;
use sensora_protocol::market::delivery::frame::{ToBuyer, ToSeller};
use sensora_protocol::market::price::{Price, Tariff};

use super::{Gate, Outcome, Side};
use crate::channel::chain::Chain;
use crate::delivery::pair::{Goods, Pair, READINGS, Setup, funded};
use crate::world::World;

/// Thousandths of a satoshi for a reading.
const MSAT: u64 = 1_500;

/// Every kind of order, with the exposures of 8 that both sides have, and with those of one side alone.
pub(super) fn cases() -> [(&'static str, Setup); 5] {
    let range = Setup { goods: Goods::Range { first: 5, count: 40 }, msat: MSAT, ..Setup::default() };
    let price = Price::from_msat(MSAT).unwrap();
    let tariff = Tariff::Reading(price);
    let second = Tariff::Second { price, longest_gap_ms: 2_000 };
    let live = Setup { goods: Goods::Live { first: 5, tariff, budget: 45 }, size: 10, ..range };
    [
        ("a range through a channel", range),
        ("a range, and only the buyer trusts", Setup { seller_limit: 0, ..range }),
        ("a range, and only the seller trusts", Setup { buyer_limit: 0, ..range }),
        ("a live stream by the reading", live),
        (
            "a live stream by the second",
            Setup { goods: Goods::Live { first: 5, tariff: second, budget: 45 }, ..live },
        ),
    ]
}

pub(super) fn run(gate: &mut Gate, setup: Setup) -> Outcome {
    let limits = (setup.buyer_limit, setup.seller_limit);
    let mut pair = Pair::new(setup);
    let mut highest = None;
    pair.start();
    exchange(&mut pair, gate, &mut highest);
    let mut size = setup.size;
    while matches!(setup.goods, Goods::Live { .. }) && size < READINGS && gate.withheld.is_none() {
        size += 7;
        pair.grow(size);
        exchange(&mut pair, gate, &mut highest);
    }

    // The seller closes with what it has.
    let world = World::new(READINGS);
    let contract = funded(&world);
    let mut chain = Chain::new(1);
    chain.give(contract.outpoint(), contract.output().clone());
    if let Some(voucher) = highest {
        chain.submit(&contract.complete(&voucher, world.seller.key()).unwrap()).unwrap();
    }
    chain.mine();
    let terms = contract.close_terms();
    let paid = chain.balance(&Script::p2pkh(&terms.seller_hash));
    let back = chain.balance(&Script::p2pkh(&terms.buyer_hash));
    let (Goods::Range { first, .. } | Goods::Live { first, .. }) = setup.goods;
    let worth = |count| pair.price_of(first + count);
    let fees =
        if highest.is_some() { contract.output().value.as_u64() - paid.as_u64() - back.as_u64() } else { 0 };
    Outcome {
        buyer_lost: paid.saturating_sub(worth(pair.kept())).as_u64(),
        seller_lost: worth(pair.sent_readings()).saturating_sub(paid).as_u64(),
        limits,
        fees,
    }
}

/// Messages go to and fro until there are none.
fn exchange(pair: &mut Pair, gate: &mut Gate, highest: &mut Option<Voucher>) {
    loop {
        let to_seller = pair.to_seller.front().cloned();
        if let Some(frame) = &to_seller {
            if !gate.passes(Side::Buyer, name_of_buyers(frame)) {
                pair.to_seller.pop_front();
            } else {
                pair.deliver_to_seller();
                if let ToSeller::Voucher(voucher) = frame
                    && pair.paid() == voucher.amount
                {
                    *highest = Some(Voucher { paid: voucher.amount, signature: voucher.signature });
                }
            }
        }
        let to_buyer = pair.to_buyer.front().cloned();
        if let Some(frame) = &to_buyer {
            if gate.passes(Side::Seller, name_of_sellers(frame)) {
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

fn name_of_buyers(frame: &ToSeller) -> &'static str {
    match frame {
        ToSeller::Begin(_) => "begin",
        ToSeller::Voucher(_) => "voucher",
        ToSeller::Pause => "pause",
        ToSeller::Resume => "resume",
        ToSeller::Stop => "stop",
        _ => "alive",
    }
}

fn name_of_sellers(frame: &ToBuyer) -> &'static str {
    match frame {
        ToBuyer::Begun { .. } => "begun",
        ToBuyer::Page(_) => "page",
        ToBuyer::Live { .. } => "live",
        ToBuyer::Stopped { .. } => "stopped",
        ToBuyer::Ended { .. } => "ended",
        ToBuyer::Refused(_) => "refusal",
        _ => "alive",
    }
}
