//! Which coins pay: the shallowest ancestry that suffices, so that what the payee must verify stays small.
//!
//! Coins whose transaction is mined need one Merkle path and nothing else, hence they go first; coins of unmined
//! transactions follow by the number of unproven generations behind them. Within that, one coin that suffices beats
//! several, and the smallest such coin beats a larger one, which keeps large coins whole for large payments and lets
//! payments made close together use coins that have nothing to do with each other.

use std::collections::{BTreeMap, BTreeSet};

use super::coin::{CoinState, KeySource};
use super::ledger::Ledger;
use crate::OutPoint;

/// The most inputs of one transaction: 500 of them are 74 kB, more than a BEEF may hold anyway.
pub(super) const MAX_INPUTS: usize = 500;

/// A coin that can be spent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) outpoint: OutPoint,
    pub(super) sat: u64,
    pub(super) key: KeySource,
    generations: u32,
}

impl Candidate {
    /// A coin that is an input whatever stands behind it.
    pub(super) fn forced(outpoint: OutPoint, sat: u64, key: KeySource) -> Self {
        Self { outpoint, sat, key, generations: 0 }
    }
}

/// Every coin that can be spent now, best first.
pub(super) fn candidates(ledger: &Ledger) -> Vec<Candidate> {
    let mut known = BTreeMap::new();
    let mut coins: Vec<Candidate> = ledger
        .coins()
        .filter(|(_, _, state)| matches!(state, CoinState::Confirmed(_) | CoinState::Unconfirmed))
        .map(|(outpoint, owned, _)| Candidate {
            outpoint,
            sat: owned.value.as_u64(),
            key: owned.key.clone(),
            generations: ledger.generations(&outpoint.txid, &mut known),
        })
        .collect();
    coins.sort_by_key(|coin| (coin.generations, coin.sat, coin.outpoint));
    coins
}

/// Chooses coins worth at least `needed(number of chosen coins)` satoshis. `None`: all of them are not enough, or it
/// would take more than [`MAX_INPUTS`].
pub(super) fn select(candidates: &[Candidate], needed: impl Fn(usize) -> u64) -> Option<Vec<Candidate>> {
    let depths: BTreeSet<u32> = candidates.iter().map(|coin| coin.generations).collect();
    depths.into_iter().find_map(|depth| {
        let allowed = candidates.partition_point(|coin| coin.generations <= depth);
        let allowed = candidates.get(..allowed)?;
        one(allowed, needed(1)).or_else(|| several(allowed, &needed))
    })
}

fn one(allowed: &[Candidate], needed: u64) -> Option<Vec<Candidate>> {
    let sufficient = allowed.iter().filter(|coin| coin.sat >= needed);
    sufficient.min_by_key(|coin| (coin.generations, coin.sat, coin.outpoint)).map(|coin| vec![coin.clone()])
}

/// The largest first: the fewest inputs.
fn several(allowed: &[Candidate], needed: &impl Fn(usize) -> u64) -> Option<Vec<Candidate>> {
    let mut largest: Vec<&Candidate> = allowed.iter().collect();
    largest.sort_by(|a, b| b.sat.cmp(&a.sat).then(a.outpoint.cmp(&b.outpoint)));
    let mut sum = 0u64;
    for (index, coin) in largest.iter().take(MAX_INPUTS).enumerate() {
        sum = sum.saturating_add(coin.sat);
        let count = index.saturating_add(1);
        if sum >= needed(count) {
            return Some(largest.into_iter().take(count).cloned().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Txid;

    fn coin(tag: u8, sat: u64, generations: u32) -> Candidate {
        let outpoint = OutPoint { txid: Txid([tag; 32]), vout: 0 };
        Candidate { outpoint, sat, key: KeySource::myself("2-sensora wallet-0"), generations }
    }

    fn pick(mut coins: Vec<Candidate>, needed: u64) -> Option<Vec<u8>> {
        coins.sort_by_key(|c| (c.generations, c.sat, c.outpoint));
        let chosen = select(&coins, |count| (count as u64).saturating_mul(15).saturating_add(needed))?;
        Some(chosen.iter().map(|c| c.outpoint.txid.0[0]).collect())
    }

    #[test]
    fn prefers_the_smallest_sufficient_mined_coin() {
        let coins = vec![coin(1, 10_000, 0), coin(2, 2_000, 0), coin(3, 1_100, 1), coin(4, 500, 0)];
        assert_eq!(pick(coins, 1_000), Some(vec![2]));
    }

    #[test]
    fn several_mined_coins_beat_one_unmined() {
        let coins = vec![coin(1, 600, 0), coin(2, 700, 0), coin(3, 100, 0), coin(4, 9_000, 1)];
        assert_eq!(pick(coins, 1_000), Some(vec![2, 1]));
    }

    #[test]
    fn goes_only_as_deep_as_needed() {
        let coins = vec![coin(1, 600, 0), coin(2, 5_000, 3), coin(3, 6_000, 1)];
        assert_eq!(pick(coins, 1_000), Some(vec![3]));
    }

    #[test]
    fn says_when_there_is_not_enough() {
        assert_eq!(pick(vec![coin(1, 500, 0), coin(2, 500, 4)], 1_000), None);
        assert_eq!(pick(vec![], 1), None);
    }
}
