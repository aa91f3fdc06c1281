//! Key release: batches, and proofs of misbehaviour.

pub(crate) mod goods;
mod offer;
mod parts;
mod proof;

use std::sync::OnceLock;

use goods::{CHEATS, Goods};

fn honest() -> &'static Goods {
    static GOODS: OnceLock<Goods> = OnceLock::new();
    GOODS.get_or_init(Goods::honest)
}

/// One batch for each way to cheat, each in another part.
fn cheats() -> &'static [Goods] {
    static GOODS: OnceLock<Vec<Goods>> = OnceLock::new();
    GOODS.get_or_init(|| {
        CHEATS.iter().enumerate().map(|(at, cheat)| Goods::new(Some((*cheat, at % 3)))).collect()
    })
}
