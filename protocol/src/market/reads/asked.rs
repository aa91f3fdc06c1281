//! Which readings have been answered in an order, and at which places: what was asked for before is not paid again.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most runs of consecutive readings in one order. A buyer that asks for readings in order has one; one that asks here and there has as many as it
/// has asked for. 4096 are 100 KiB in memory and 40 KiB on disk; after that many a new order begins, which takes some milliseconds.
pub const MAX_RUNS: usize = 4096;

/// Consecutive readings at consecutive places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedRun {
    /// Sequence number of the first; `None` for places of which only the number was not forgotten in a crash.
    pub first: Option<u64>,
    /// How many.
    pub count: u64,
}

/// No further reading has a place in this order: end it and begin another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the order holds {MAX_RUNS} separate runs of readings, which is all that one may hold: end it and begin another"
)]
pub struct Full;

/// The readings of one order by place, and the other way round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    runs: Vec<AskedRun>,
    count: u64,
    /// Ends of disjoint runs of sequence numbers, by where they begin.
    held: BTreeMap<u64, u64>,
}

impl Asked {
    /// Nothing was asked for.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: Vec::new(), count: 0, held: BTreeMap::new() }
    }

    /// As it was stored; what is there twice or is too much is left out.
    #[must_use]
    pub fn from_runs(runs: &[AskedRun]) -> Self {
        let mut asked = Self::new();
        for run in runs.iter().take(MAX_RUNS).filter(|run| run.count > 0) {
            asked.count = asked.count.saturating_add(run.count);
            asked.runs.push(*run);
            if let Some(first) = run.first {
                asked.hold(first, first.saturating_add(run.count));
            }
        }
        asked
    }

    /// To store it.
    #[must_use]
    pub fn runs(&self) -> &[AskedRun] {
        &self.runs
    }

    /// How many places there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether this reading has a place.
    #[must_use]
    pub fn contains(&self, seq: u64) -> bool {
        self.held.range(..=seq).next_back().is_some_and(|(_, end)| seq < *end)
    }

    /// Gives the next place to a reading that has none.
    ///
    /// # Errors
    /// [`Full`].
    pub fn push(&mut self, seq: u64) -> Result<(), Full> {
        let is_full = self.runs.len() >= MAX_RUNS;
        match self.runs.last_mut() {
            Some(AskedRun { first: Some(first), count }) if first.checked_add(*count) == Some(seq) => {
                *count = count.saturating_add(1);
            }
            _ if is_full => return Err(Full),
            _ => self.runs.push(AskedRun { first: Some(seq), count: 1 }),
        }
        self.count = self.count.saturating_add(1);
        self.hold(seq, seq.saturating_add(1));
        Ok(())
    }

    /// Whether a reading that has no place could have one.
    #[must_use]
    pub fn has_room_for(&self, seq: u64) -> bool {
        let goes_on = |run: &AskedRun| run.first.and_then(|first| first.checked_add(run.count)) == Some(seq);
        self.runs.len() < MAX_RUNS || self.runs.last().is_some_and(goes_on)
    }

    /// Adds places of which only the number is known.
    ///
    /// # Errors
    /// [`Full`].
    pub fn push_unknown(&mut self, count: u64) -> Result<(), Full> {
        if count == 0 {
            return Ok(());
        }
        if self.runs.len() >= MAX_RUNS {
            return Err(Full);
        }
        self.runs.push(AskedRun { first: None, count });
        self.count = self.count.saturating_add(count);
        Ok(())
    }

    /// Gives up places from `place` on of which only the number is known: nobody can say any more what had them.
    pub fn drop_unknown(&mut self, place: u64) {
        let mut at: u64 = 0;
        let mut kept = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let before = place.saturating_sub(at).min(run.count);
            at = at.saturating_add(run.count);
            let count = if run.first.is_some() { run.count } else { before };
            kept.push(AskedRun { first: run.first, count });
        }
        *self = Self::from_runs(&kept);
    }

    /// What has the places from `place` on: first sequence numbers and counts.
    #[must_use]
    pub fn from(&self, place: u64) -> Vec<(u64, u64)> {
        let mut at: u64 = 0;
        let mut found = Vec::new();
        for run in &self.runs {
            let skip = place.saturating_sub(at).min(run.count);
            at = at.saturating_add(run.count);
            if let Some(first) = run.first
                && skip < run.count
            {
                found.push((first.saturating_add(skip), run.count.saturating_sub(skip)));
            }
        }
        found
    }

    fn hold(&mut self, first: u64, end: u64) {
        let (mut first, mut end) = (first, end);
        if let Some((from, to)) = self.held.range(..=first).next_back().map(|(from, to)| (*from, *to))
            && to >= first
        {
            (first, end) = (from, end.max(to));
        }
        while let Some((from, to)) = self.held.range(first..=end).next_back().map(|(from, to)| (*from, *to)) {
            self.held.remove(&from);
            end = end.max(to);
            if from == first {
                break;
            }
        }
        self.held.insert(first, end);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn readings_in_order_are_one_run_however_many() {
        let mut asked = Asked::new();
        for seq in 100..100_000 {
            asked.push(seq).unwrap();
        }
        assert_eq!(asked.runs(), [AskedRun { first: Some(100), count: 99_900 }]);
        assert_eq!(asked.from(99_000), [(99_100, 900)]);
    }

    #[test]
    fn an_order_holds_so_many_runs_and_no_more() {
        let mut asked = Asked::new();
        for n in 0..MAX_RUNS as u64 {
            assert!(asked.has_room_for(n * 2));
            asked.push(n * 2).unwrap();
        }
        let last = (MAX_RUNS as u64 - 1) * 2;
        assert!(!asked.has_room_for(last + 2) && asked.has_room_for(last + 1));
        let before = asked.clone();
        assert_eq!((asked.push(last + 2), asked.push_unknown(1)), (Err(Full), Err(Full)));
        assert_eq!(asked, before);
        asked.push(last + 1).unwrap();
    }

    #[test]
    fn places_that_nobody_knows_are_given_up_where_the_buyer_has_them_not() {
        let mut asked = Asked::new();
        asked.push(5).unwrap();
        asked.push_unknown(4).unwrap();
        asked.push(9).unwrap();
        assert_eq!((asked.count(), asked.from(2)), (6, vec![(9, 1)]));
        asked.drop_unknown(3);
        assert_eq!((asked.count(), asked.from(3)), (4, vec![(9, 1)]));
        asked.drop_unknown(0);
        assert_eq!((asked.count(), asked.from(0)), (2, vec![(5, 1), (9, 1)]));
    }

    proptest! {
        #[test]
        fn each_reading_has_the_place_it_was_given(seqs in prop::collection::vec(0u64..60, 0..80), from in 0u64..90) {
            let mut asked = Asked::new();
            let (mut places, mut set) = (Vec::new(), BTreeSet::new());
            for seq in seqs {
                prop_assert_eq!(asked.contains(seq), !set.insert(seq));
                if !asked.contains(seq) {
                    asked.push(seq).unwrap();
                    places.push(seq);
                }
            }
            prop_assert_eq!(asked.count(), places.len() as u64);
            let again = Asked::from_runs(asked.runs());
            prop_assert_eq!(&again, &asked);
            let rest: Vec<u64> = asked.from(from).iter().flat_map(|(first, count)| *first..first + count).collect();
            prop_assert_eq!(rest.as_slice(), places.get(from as usize..).unwrap_or_default());
            for seq in 0..60 {
                prop_assert_eq!(asked.contains(seq), set.contains(&seq));
            }
        }
    }
}
