//! A buyer, a seller and a chain, driven by bytes: channels and batches through lost messages, reorganisations and old backups; paid deliveries, one
//! or several on a channel, and single readings through lost frames, broken connections and crashes. The first byte says which. After each action
//! the invariants of money hold, and in the end every satoshi is where it belongs. The same models run, bounded, with every `cargo test`.

#![no_main]
#![allow(dead_code, reason = "the models are those of the tests, which use more of them")]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sensora_protocol::market::price::{Price, Tariff};

#[path = "../../protocol/tests/it/world.rs"]
mod world;

#[path = "../../protocol/tests/it/delivery"]
mod delivery {
    #[path = "many/orders.rs"]
    pub(crate) mod orders;
    pub(crate) mod pair;
}

#[path = "../../protocol/tests/it/channel"]
mod channel {
    pub(crate) mod chain;
    mod invariants;
    pub(crate) mod market;
}

#[path = "../../protocol/tests/it/reads"]
mod reads {
    pub(crate) mod pair;
}

#[path = "../../protocol/tests/it/key_release"]
mod key_release {
    mod chain;
    pub(crate) mod goods;
    pub(crate) mod pair;
}

use channel::market::Market;
use delivery::orders::Many;
use delivery::pair::{Goods, Pair, Setup};
use key_release::goods::{CHEATS, Goods as Batch};

/// What each model takes from the bytes before the actions.
struct Chosen {
    kind: u8,
    limits: (u64, u64),
    msat: u64,
}

fuzz_target!(|bytes: &[u8]| {
    let [kind, buyer_limit, seller_limit, price, actions @ ..] = bytes else { return };
    let actions = &actions[..actions.len().min(400)];
    let limits = (u64::from(buyer_limit % 30), u64::from(seller_limit % 30));
    let chosen = Chosen { kind: kind / 5, limits, msat: u64::from(*price) * 40 + 1 };
    match kind % 5 {
        0 => channel_of(actions),
        1 => order(&chosen, actions),
        2 => orders(&chosen, actions),
        3 => single_readings(&chosen, actions),
        _ => batch(&chosen, actions),
    }
});

fn channel_of(actions: &[u8]) {
    let mut market = Market::new();
    actions.iter().for_each(|action| market.act(*action));
    market.end();
    market.check_end();
}

fn goods(kind: u8, first: u64, msat: u64) -> Goods {
    let price = Price::from_msat(msat).unwrap();
    match kind % 3 {
        0 => Goods::Range { first, count: 50 },
        1 => Goods::Live { first, tariff: Tariff::Reading(price), budget: 200 },
        _ => Goods::Live { first, tariff: Tariff::Second { price, longest_gap_ms: 2_500 }, budget: 200 },
    }
}

fn order(chosen: &Chosen, actions: &[u8]) {
    let Chosen { kind, limits: (buyer_limit, seller_limit), msat } = *chosen;
    let (goods, endings) = (goods(kind, 3, msat), kind / 3 % 2 == 1);
    let mut pair =
        Pair::new(Setup { goods, buyer_limit, seller_limit, msat, size: 20, budget: None, endings });
    actions.iter().for_each(|action| pair.act(*action));
    pair.come_to_an_end();
}

fn orders(chosen: &Chosen, actions: &[u8]) {
    // So that the channel has room for all of them.
    let (kind, limits, msat) = (chosen.kind, chosen.limits, chosen.msat % 4_000 + 1);
    let goods =
        |at: u8| (goods(kind / 3u8.pow(at.into()), u64::from(at), msat / u64::from(at + 1) + 1), None, msat);
    let mut many = Many::new(&[goods(0), goods(1), goods(2)], limits, 20);
    actions.iter().for_each(|action| many.act(*action));
    many.come_to_an_end();
}

fn single_readings(chosen: &Chosen, actions: &[u8]) {
    let Chosen { kind, limits: (buyer_limit, seller_limit), msat } = *chosen;
    let (size, endings) = (1 + u64::from(kind / 2) * 7, kind % 2 == 1);
    let setup = reads::pair::Setup { buyer_limit, seller_limit, msat, size, budget: 300, endings };
    let mut pair = reads::pair::Pair::new(setup);
    actions.iter().for_each(|action| pair.act(*action));
    pair.come_to_an_end();
}

/// Bytes choose honest goods as often as a way to cheat, and whether the buyer spends its coin elsewhere.
fn batch(chosen: &Chosen, actions: &[u8]) {
    static GOODS: [OnceLock<Batch>; CHEATS.len() + 1] = [const { OnceLock::new() }; CHEATS.len() + 1];
    let at = usize::from(chosen.kind) % (2 * CHEATS.len());
    let cheat = (at < CHEATS.len()).then(|| (CHEATS[at], at % 3));
    let goods = GOODS[at.min(CHEATS.len())].get_or_init(|| Batch::new(cheat));
    let mut pair = key_release::pair::Pair::new(goods);
    let (after, double_spends) = (chosen.limits.0 as usize * 8, chosen.limits.1 < 6);
    for (at, action) in actions.iter().enumerate() {
        pair.act(*action);
        if double_spends && at >= after {
            pair.double_spend();
        }
    }
    pair.settle();
    pair.check_over(cheat.is_none());
}
