//! Which coins pay: the shallowest ancestry that suffices, so that what the payee must verify stays small.
//!
//! Coins whose transaction is mined need one Merkle path and nothing else, hence they go first; coins of unmined
//! transactions follow by the number of unproven generations behind them. Within that, one coin that suffices beats
//! several, and the smallest such coin beats a larger one, which keeps large coins whole for large payments and lets
//! payments made close together use coins that have nothing to do with each other.
//!
//! Mined coins are never walked: they stand in the index in the order of their value.

use std::collections::{BTreeMap, BTreeSet};

use super::coin::{CoinState, KeySource};
use super::index::Set;
use super::ledger::{Ledger, Record};
use crate::{OutPoint, Txid};

/// The most inputs of one transaction: 500 of them are 74 kB, more than a BEEF may hold anyway.
pub(super) const MAX_INPUTS: usize = 500;

/// A payment is not built on more generations of unproven transactions than this: the payee has to check every one of them, broadcasters count
/// them too, and a wallet with [`TARGET_COINS`](super::TARGET_COINS) coins makes a few hundred payments before it comes to that. With the next
/// block it is 0 again.
pub const MAX_BEEF_DEPTH: u32 = 50;

/// The first outpoint there can be.
pub(super) const FIRST_OUTPOINT: OutPoint = OutPoint { txid: Txid([0; 32]), vout: 0 };

/// A coin whose proof is longer than this many bytes is heavy: four of them would fill a BEEF. Whoever pays decides how long the transaction is, so a heavy
/// coin is taken only where the others do not suffice, or it would stand in the way of all payments of its size.
const HEAVY: usize = 16 * 1024;

/// A coin that becomes an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) outpoint: OutPoint,
    pub(super) sat: u64,
    pub(super) key: KeySource,
}

/// A coin of a transaction that is in no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Deep {
    generations: u32,
    sat: u64,
    outpoint: OutPoint,
}

/// Why no coins were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// All of them are not enough, or too many would be needed.
    Funds,
    /// They would be enough, but the ones that are missing stand on more than [`MAX_BEEF_DEPTH`] generations.
    Depth,
}

/// What can be spent now, in satoshis.
pub(super) fn available(ledger: &Ledger) -> u64 {
    let mined = ledger.index.mined.iter().map(|(sat, _)| *sat);
    let unmined = ledger.index.unmined.iter().filter_map(|coin| ledger.owned(coin)).map(|o| o.value.as_u64());
    mined.chain(unmined).fold(0, u64::saturating_add)
}

/// Which coins are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Those that are not heavy.
    Light,
    /// All.
    All,
}

/// Chooses coins worth at least `needed(number of chosen coins)` satoshis.
///
/// None of `forced` is among them.
pub(super) fn select(
    ledger: &Ledger,
    taken: Taken,
    forced: &[Candidate],
    needed: impl Fn(usize) -> u64,
) -> Result<Vec<Candidate>, Short> {
    let mined = &ledger.index.mined;
    let is_taken = |coin: &OutPoint| {
        (taken == Taken::All || ledger.get(&coin.txid).is_some_and(is_light))
            && !forced.iter().any(|other| &other.outpoint == coin)
    };
    let chosen = match of_mined(mined, is_taken, &needed) {
        Some(chosen) => chosen,
        None => {
            let deep = deep(ledger).into_iter().filter(|coin| is_taken(&coin.outpoint)).collect();
            of_all(mined, deep, is_taken, &needed)?
        }
    };
    Ok(chosen.into_iter().filter_map(|outpoint| candidate(ledger, outpoint)).collect())
}

fn is_light(record: &Record) -> bool {
    record.tx.as_ref().is_none_or(|tx| tx.size() <= HEAVY)
}

/// A coin of ours as an input.
pub(super) fn candidate(ledger: &Ledger, outpoint: OutPoint) -> Option<Candidate> {
    let owned = ledger.owned(&outpoint)?;
    Some(Candidate { outpoint, sat: owned.value.as_u64(), key: owned.key.clone() })
}

/// The same, where it can be spent now.
pub(super) fn spendable(ledger: &Ledger, outpoint: OutPoint) -> Option<Candidate> {
    match ledger.state(&outpoint)? {
        CoinState::Confirmed(_) | CoinState::Unconfirmed => candidate(ledger, outpoint),
        CoinState::Reserved | CoinState::Pending => None,
    }
}

fn deep(ledger: &Ledger) -> Vec<Deep> {
    let mut known = BTreeMap::new();
    let coins = ledger.index.unmined.iter().filter_map(|outpoint| {
        let sat = ledger.owned(outpoint)?.value.as_u64();
        Some(Deep { generations: ledger.generations(&outpoint.txid, &mut known), sat, outpoint: *outpoint })
    });
    coins.collect()
}

fn of_mined(
    mined: &Set<(u64, OutPoint)>,
    is_taken: impl Fn(&OutPoint) -> bool,
    needed: &impl Fn(usize) -> u64,
) -> Option<Vec<OutPoint>> {
    let mut enough = mined.range((needed(1), FIRST_OUTPOINT)..).map(|(_, outpoint)| *outpoint);
    let one = enough.find(&is_taken).map(|outpoint| vec![outpoint]);
    one.or_else(|| several(mined.iter().rev().filter(|(_, coin)| is_taken(coin)).copied(), needed))
}

fn of_all(
    mined: &Set<(u64, OutPoint)>,
    mut deep: Vec<Deep>,
    is_taken: impl Fn(&OutPoint) -> bool,
    needed: &impl Fn(usize) -> u64,
) -> Result<Vec<OutPoint>, Short> {
    deep.sort_unstable();
    let depths: BTreeSet<u32> = deep.iter().map(|coin| coin.generations).collect();
    for depth in depths {
        let allowed = deep.partition_point(|coin| coin.generations <= depth);
        let allowed = deep.get(..allowed).unwrap_or_default();
        let one = allowed.iter().find(|coin| coin.sat >= needed(1)).map(|coin| vec![coin.outpoint]);
        let chosen = one.or_else(|| {
            let taken = mined.iter().rev().filter(|(_, coin)| is_taken(coin));
            let mut largest: Vec<(u64, OutPoint)> = taken.take(MAX_INPUTS).copied().collect();
            largest.extend(allowed.iter().map(|coin| (coin.sat, coin.outpoint)));
            largest.sort_unstable_by(|a, b| b.cmp(a));
            several(largest.into_iter(), needed)
        });
        if let Some(chosen) = chosen {
            return if depth < MAX_BEEF_DEPTH { Ok(chosen) } else { Err(Short::Depth) };
        }
    }
    Err(Short::Funds)
}

/// The largest first: the fewest inputs.
fn several(
    largest: impl Iterator<Item = (u64, OutPoint)>,
    needed: &impl Fn(usize) -> u64,
) -> Option<Vec<OutPoint>> {
    let mut sum = 0u64;
    let mut chosen = Vec::new();
    for (sat, outpoint) in largest.take(MAX_INPUTS) {
        sum = sum.saturating_add(sat);
        chosen.push(outpoint);
        if sum >= needed(chosen.len()) {
            return Some(chosen);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(coins: &[(u8, u64, u32)], needed: u64) -> Result<Vec<u8>, Short> {
        let mut mined = Set::default();
        let mut deep = Vec::new();
        for (tag, sat, generations) in coins {
            let outpoint = OutPoint { txid: Txid([*tag; 32]), vout: 0 };
            match generations {
                0 => mined.insert_mut((*sat, outpoint)),
                _ => deep.push(Deep { generations: *generations, sat: *sat, outpoint }),
            }
        }
        let needed = |count: usize| (count as u64).saturating_mul(15).saturating_add(needed);
        let chosen = of_mined(&mined, |_| true, &needed);
        let chosen = chosen.map_or_else(|| of_all(&mined, deep, |_| true, &needed), Ok)?;
        Ok(chosen.iter().map(|outpoint| outpoint.txid.0[0]).collect())
    }

    #[test]
    fn prefers_the_smallest_sufficient_mined_coin() {
        assert_eq!(pick(&[(1, 10_000, 0), (2, 2_000, 0), (3, 1_100, 1), (4, 500, 0)], 1_000), Ok(vec![2]));
    }

    #[test]
    fn several_mined_coins_beat_one_unmined() {
        assert_eq!(pick(&[(1, 600, 0), (2, 700, 0), (3, 100, 0), (4, 9_000, 1)], 1_000), Ok(vec![2, 1]));
    }

    #[test]
    fn goes_only_as_deep_as_needed() {
        assert_eq!(pick(&[(1, 600, 0), (2, 5_000, 3), (3, 6_000, 1)], 1_000), Ok(vec![3]));
        assert_eq!(pick(&[(1, 600, 0), (2, 5_000, 3), (3, 450, 1)], 1_000), Ok(vec![1, 3]), "together");
    }

    #[test]
    fn says_when_there_is_not_enough() {
        assert_eq!(pick(&[(1, 500, 0), (2, 500, 4)], 1_000), Err(Short::Funds));
        assert_eq!(pick(&[], 1), Err(Short::Funds));
        assert_eq!(pick(&[(1, 500, 0), (2, 5_000, MAX_BEEF_DEPTH)], 1_000), Err(Short::Depth));
        assert_eq!(pick(&[(2, 5_000, MAX_BEEF_DEPTH - 1)], 1_000), Ok(vec![2]));
    }
}
