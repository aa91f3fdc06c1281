//! Salts that grow on a tree, so that a few seeds stand for the salts of any consecutive readings of a chunk, and for no others.
//!
//! The chunk's seed has four children, each of these four, and so on for five levels: the 1,024 seeds at the bottom are the salts. The
//! children of a seed are the first 64 bytes of the ChaCha20 keystream (RFC 8439 §2.4, zero nonce, counter from 0) whose key is
//! the seed twice, as ChaCha has it for keys of 128 bits. A seed tells all that is below it; it tells nothing of what is above it or
//! beside it. So readings are handed over with the highest seeds that have no other readings below them: a whole chunk with one,
//! and a hundred readings with about a dozen, where a salt for each would be eight times as much.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};

use super::chunk::{CHUNK_LEN, CHUNK_LEVEL};
use super::leaf::{SALT_LEN, Salt};

/// Length of a seed in bytes: at the bottom a seed is a salt.
pub const SEED_LEN: usize = SALT_LEN;

/// From which salts grow.
pub type Seed = [u8; SEED_LEN];

/// Children of a seed: as many as come from one block of the cipher.
const CHILDREN: usize = 4;

/// Levels of a tree.
const LEVELS: usize = CHUNK_LEVEL as usize / 2;

/// Most seeds that the salts of some consecutive readings need: two below the root, and three at each end on each further level.
pub const MAX_SEEDS: usize = CHILDREN - 2 + 2 * (CHILDREN - 1) * (LEVELS - 1);

fn children(seed: &Seed) -> [Seed; CHILDREN] {
    let mut key = [0; 2 * SEED_LEN];
    key.as_chunks_mut().0.fill(*seed);
    let mut children = [[0; SEED_LEN]; CHILDREN];
    ChaCha20::new(&key.into(), &[0; 12].into()).apply_keystream(children.as_flattened_mut());
    children
}

/// Where the highest seeds of these readings begin, and how many readings are below each; in order.
fn pieces(position: u64, count: usize) -> Option<impl Iterator<Item = (u64, u64)>> {
    let end = position.checked_add(count as u64).filter(|end| count > 0 && *end <= CHUNK_LEN)?;
    let mut at = position;
    Some(std::iter::from_fn(move || {
        let fits = |width: &u64| at.is_multiple_of(*width) && at.saturating_add(*width) <= end;
        let levels = (0..=LEVELS).rev().map(|level| 1_u64 << (2 * level));
        let mut levels = levels;
        let width = levels.find(fits).filter(|_| at < end)?;
        let begins = at;
        at = at.saturating_add(width);
        Some((begins, width))
    }))
}

/// The highest seeds below `root` that the salts of the `count` readings from `position` in the chunk on grow from; `None` where they are not all
/// in the chunk.
pub(super) fn cover(root: &Seed, position: u64, count: usize) -> Option<Vec<Seed>> {
    Some(pieces(position, count)?.map(|(at, width)| descend(root, at, width)).collect())
}

/// The seed with these readings below it.
fn descend(root: &Seed, at: u64, width: u64) -> Seed {
    let (mut seed, mut below) = (*root, CHUNK_LEN);
    while below > width {
        below /= CHILDREN as u64;
        let which = usize::try_from(at / below).unwrap_or(0) % CHILDREN;
        seed = children(&seed).get(which).copied().unwrap_or_default();
    }
    seed
}

/// The salts of `count` readings from `position` in the chunk on: never more than are left in it.
pub(super) fn salts(root: &Seed, position: u64, count: usize) -> Vec<Salt> {
    let seeds = cover(root, position, count);
    seeds.and_then(|seeds| grow(position, count, &seeds)).unwrap_or_default()
}

/// The salts of the `count` readings from `position` in a chunk on, from their seeds; `None` where these are too many or too few for them.
#[must_use]
pub fn grow(position: u64, count: usize, seeds: &[Seed]) -> Option<Vec<Salt>> {
    // The readings are at most a chunk's, so this is at most 16 KiB.
    let mut salts = Vec::with_capacity(count.min(1 << CHUNK_LEVEL));
    let mut seeds = seeds.iter();
    for (_, width) in pieces(position, count)? {
        grow_one(seeds.next()?, width, &mut salts);
    }
    seeds.next().is_none().then_some(salts)
}

fn grow_one(seed: &Seed, width: u64, salts: &mut Vec<Salt>) {
    if width == 1 {
        salts.push(*seed);
        return;
    }
    for child in &children(seed) {
        grow_one(child, width / CHILDREN as u64, salts);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: Seed = [7; SEED_LEN];

    #[test]
    fn children_are_a_block_of_chacha20() {
        // RFC 8439 appendix A.1, test vector 1: zero key and nonce, counter 0.
        let block = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7\
                     da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586";
        assert_eq!(hex::encode(children(&[0; SEED_LEN]).as_flattened()), block);
    }

    #[test]
    fn a_chunk_has_one_seed_and_a_thousand_salts_that_differ() {
        assert_eq!(cover(&ROOT, 0, 1024).unwrap(), [ROOT]);
        let mut all = salts(&ROOT, 0, 1024);
        assert_eq!(all.len(), 1024);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1024);
    }

    #[test]
    fn the_longest_cover_has_the_most_seeds() {
        let most = (0..1024).flat_map(|first| (first + 1..=1024).map(move |end| (first, end - first)));
        let most = most.map(|(first, count)| pieces(first, count as usize).unwrap().count()).max();
        assert_eq!(most, Some(MAX_SEEDS));
    }

    #[test]
    fn what_is_outside_the_chunk_has_no_seeds() {
        for (first, count) in [(0, 0), (1024, 1), (1023, 2), (0, 1025), (u64::MAX, 1), (1, usize::MAX)] {
            assert_eq!(cover(&ROOT, first, count), None);
            assert_eq!(grow(first, count, &[ROOT]), None);
        }
    }

    proptest! {
        #[test]
        fn seeds_give_the_salts_of_their_readings_and_of_no_others(first in 0..1024_u64, count in 1..=1024_usize) {
            let count = count.min(1024 - first as usize);
            let all = salts(&ROOT, 0, 1024);
            let seeds = cover(&ROOT, first, count).unwrap();
            prop_assert!(seeds.len() <= MAX_SEEDS);
            let range = first as usize..first as usize + count;
            prop_assert_eq!(grow(first, count, &seeds).unwrap(), &all[range.clone()]);
            prop_assert_eq!(salts(&ROOT, first, count), &all[range]);
            // One too many or too few stands for other readings.
            prop_assert_eq!(grow(first, count, &seeds[1..]), None);
            prop_assert_eq!(grow(first, count, &[seeds.as_slice(), &[ROOT]].concat()), None);
        }
    }
}
