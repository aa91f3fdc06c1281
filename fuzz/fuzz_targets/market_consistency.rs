//! A buyer, a seller and a chain, driven by bytes: paid deliveries through lost frames, broken connections and crashes; channels through lost
//! messages, reorganisations and old backups. After each action the invariants of money hold, and in the end every satoshi is where it
//! belongs. The same models run, bounded, with every `cargo test`.

#![no_main]
#![allow(dead_code, reason = "the models are those of the tests, which use more of them")]

use libfuzzer_sys::fuzz_target;
use sensora_protocol::market::price::{Price, Tariff};

#[path = "../../protocol/tests/it/world.rs"]
mod world;

#[path = "../../protocol/tests/it/delivery/pair.rs"]
mod pair;

#[path = "../../protocol/tests/it/channel/chain.rs"]
mod chain;

#[path = "../../protocol/tests/it/channel/market.rs"]
mod market;

use market::Market;
use pair::{Goods, Pair, Setup};

fuzz_target!(|bytes: &[u8]| {
    let [kind, buyer_limit, seller_limit, price, actions @ ..] = bytes else { return };
    let actions = &actions[..actions.len().min(400)];
    if kind % 3 == 0 {
        let mut market = Market::new();
        actions.iter().for_each(|action| market.act(*action));
        market.end();
        market.check_end();
        return;
    }
    let msat = u64::from(*price) * 40 + 1;
    let price = Price::from_msat(msat).unwrap();
    let goods = match kind % 9 {
        1 | 4 => Goods::Live { first: 3, tariff: Tariff::Reading(price), budget: 200 },
        2 | 5 => Goods::Live { first: 3, tariff: Tariff::Second { price, longest_gap_ms: 2_500 }, budget: 200 },
        _ => Goods::Range { first: 3, count: 50 },
    };
    let (buyer_limit, seller_limit) = (u64::from(buyer_limit % 30), u64::from(seller_limit % 30));
    let endings = *kind >= 128;
    let mut pair = Pair::new(Setup { goods, buyer_limit, seller_limit, msat, size: 20, budget: None, endings });
    actions.iter().for_each(|action| pair.act(*action));
    pair.come_to_an_end();
});
