//! What we have bought: the runs as they were delivered, so that they can be shown and proven again, and are never bought twice.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::message::AnchoredProof;
use sensora_protocol::stream::log::RangeProof;
use sensora_protocol::stream::{Run, Schema};
use sensora_protocol::{Hash, OrderId, StreamId};
use serde::{Deserialize, Serialize};

use super::kinds::Records;
use super::streams::key;
use super::{StoreError, from_record};

const STREAMS: Records = Records { name: "bought_streams" };
const RUNS: Records = Records { name: "bought_runs" };
/// Where each run ends, under the same key: what is here is known without reading it.
const SPANS: Records = Records { name: "bought_spans" };
const PROOFS: Records = Records { name: "bought_proofs" };
const ANCHORED: Records = Records { name: "bought_anchored" };

/// Most readings in a run: one chunk.
const MAX_RUN: u64 = sensora_protocol::stream::CHUNK_LEN;
/// Spans that are read from the table at a time.
const SCAN_AT_ONCE: usize = 256;

/// A stream we have readings of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoughtStream {
    /// The stream.
    pub id: StreamId,
    /// Its seller.
    pub seller: PublicKey,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Schema,
    /// The licence it was last bought under.
    pub licence: String,
}

/// A run of readings we have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoughtRun {
    /// The readings and their salts, as delivered.
    pub run: Run,
    /// How many readings.
    pub count: u64,
    /// The order they were bought in.
    pub order: OrderId,
}

/// The hashes beside an order's range at the order's checkpoint, gathered from its pages: a range proof's left hashes depend only on where the
/// range begins, its right ones only on where it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderProof {
    /// Left of the first page.
    pub left: Vec<Hash>,
    /// Right of the last page.
    pub right: Vec<Hash>,
}

impl OrderProof {
    /// Takes note of a page that begins at `first`.
    pub fn page(&mut self, first: u64, is_first: bool, proof: &RangeProof) {
        let left = (first.count_ones() as usize).min(proof.hashes.len());
        let (left, right) = proof.hashes.split_at(left);
        if is_first {
            self.left = left.to_vec();
        }
        self.right = right.to_vec();
    }

    /// The proof of the whole range.
    #[must_use]
    pub fn whole(&self) -> RangeProof {
        RangeProof { hashes: [self.left.as_slice(), &self.right].concat() }
    }
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    STREAMS.create(tx)?;
    RUNS.create(tx)?;
    SPANS.create(tx)?;
    PROOFS.create(tx)?;
    ANCHORED.create(tx)
}

/// Stores what a bought stream is.
///
/// # Errors
/// [`StoreError`].
pub fn put_stream(tx: &WriteTransaction, stream: &BoughtStream) -> Result<(), StoreError> {
    STREAMS.put(tx, stream.id.as_bytes(), stream)
}

/// A bought stream.
///
/// # Errors
/// [`StoreError`].
pub fn stream(tx: &ReadTransaction, id: &StreamId) -> Result<Option<BoughtStream>, StoreError> {
    STREAMS.get(tx, id.as_bytes())
}

/// All bought streams.
///
/// # Errors
/// [`StoreError`].
pub fn streams(tx: &ReadTransaction) -> Result<Vec<BoughtStream>, StoreError> {
    STREAMS.all(tx)
}

/// Notes where each run ends, in a store of before there were such notes.
pub(super) fn note_spans(tx: &WriteTransaction) -> Result<(), StoreError> {
    let mut spans = Vec::new();
    RUNS.each_from_in(tx, &[], |key, bytes| {
        let run: BoughtRun = from_record(RUNS.name, bytes)?;
        spans.push((key.to_vec(), run.run.first.saturating_add(run.count)));
        Ok(())
    })?;
    spans.iter().try_for_each(|(key, end)| SPANS.put_bytes(tx, key, &end.to_be_bytes()))
}

/// A run's first reading and the one after its last.
fn span((key, end): (&[u8], &[u8])) -> Result<(u64, u64), StoreError> {
    let number = |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    let span = number(key.last_chunk::<8>().map(<[u8; 8]>::as_slice)).zip(number(Some(end)));
    span.ok_or_else(|| StoreError::Damaged(format!("{}: an entry is no span", SPANS.name)))
}

/// Keeps a run, unless all of its readings are in one run that is here, as those of a live stream that brings its beginning again, or a reading that was bought
/// alone. Runs that are inside of it go. So no run is inside of another, and the one that begins last is the one that ends last: [`newest`] and [`last_before`] rest on
/// that.
///
/// # Errors
/// [`StoreError`].
pub fn put_run(tx: &WriteTransaction, stream: &StreamId, run: &BoughtRun) -> Result<(), StoreError> {
    let (first, end) = (run.run.first, run.run.first.saturating_add(run.count));
    let (at, after) = (key(stream, first), key(stream, end));
    if let Some((key, bytes)) = SPANS.last_up_to_in(tx, stream.as_bytes(), &at)? {
        let (known, known_end) = span((&key, &bytes))?;
        if known_end > end || (known < first && known_end == end) {
            return Ok(());
        }
    }
    for (inside, bytes) in SPANS.between_in(tx, &at, &after)? {
        if span((&inside, &bytes))?.1 > end {
            break;
        }
        RUNS.remove(tx, &inside)?;
        SPANS.remove(tx, &inside)?;
    }
    RUNS.put(tx, &at, run)?;
    SPANS.put_bytes(tx, &at, &end.to_be_bytes())
}

/// Shows `f` the runs that hold readings of `[first, end)`, as their first reading and the one after their last, in order, for as long as it wants more.
fn each_span(
    tx: &ReadTransaction,
    stream: &StreamId,
    first: u64,
    end: u64,
    mut f: impl FnMut(u64, u64) -> bool,
) -> Result<(), StoreError> {
    // The runs that `first` lies in begin before it, but never by more than their length.
    let mut at = first.saturating_sub(MAX_RUN.saturating_sub(1));
    loop {
        let some = SPANS.scan(tx, stream.as_bytes(), &key(stream, at), SCAN_AT_ONCE)?;
        let is_last = some.len() < SCAN_AT_ONCE;
        for (key, bytes) in some {
            let (begins, ends) = span((&key, &bytes))?;
            if begins >= end || (ends > first && !f(begins, ends)) {
                return Ok(());
            }
            at = begins.saturating_add(1);
        }
        if is_last {
            return Ok(());
        }
    }
}

/// The runs of a stream that hold readings of `[first, end)`, in the order of their first readings, at most `limit`. Runs of different orders may
/// have readings in common. A run is at most a megabyte: all of them at once is more than memory has to hold.
///
/// # Errors
/// [`StoreError`].
pub fn runs(
    tx: &ReadTransaction,
    stream: &StreamId,
    first: u64,
    end: u64,
    limit: usize,
) -> Result<Vec<BoughtRun>, StoreError> {
    let mut begins = Vec::new();
    if limit > 0 {
        each_span(tx, stream, first, end, |first, _| {
            begins.push(first);
            begins.len() < limit
        })?;
    }
    let run = |first: u64| {
        let run = RUNS.get(tx, &key(stream, first))?;
        run.ok_or_else(|| StoreError::Damaged(format!("{}: no run begins at {first}", RUNS.name)))
    };
    begins.into_iter().map(run).collect()
}

/// The newest span of a stream that begins at or before `seq`.
fn last_span(tx: &ReadTransaction, stream: &StreamId, seq: u64) -> Result<Option<(u64, u64)>, StoreError> {
    let found = SPANS.last_up_to(tx, stream.as_bytes(), &key(stream, seq))?;
    found.map(|(key, bytes)| span((&key, &bytes))).transpose()
}

/// The newest reading of a stream that we have.
///
/// # Errors
/// [`StoreError`].
pub fn newest(tx: &ReadTransaction, stream: &StreamId) -> Result<Option<u64>, StoreError> {
    Ok(last_span(tx, stream, u64::MAX)?.and_then(|(_, end)| end.checked_sub(1)))
}

/// Which readings of `[first, end)` we do not have, as ranges in order.
///
/// # Errors
/// [`StoreError`].
pub fn missing(
    tx: &ReadTransaction,
    stream: &StreamId,
    first: u64,
    end: u64,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut missing = Vec::new();
    let mut at = first;
    each_span(tx, stream, first, end, |begins, ends| {
        if begins > at {
            missing.push((at, begins));
        }
        at = at.max(ends);
        true
    })?;
    if at < end {
        missing.push((at, end));
    }
    Ok(missing)
}

/// Sequence number after the last reading we have of a stream before `seq`, of the run that begins last; none where there is no such run.
///
/// # Errors
/// [`StoreError`].
pub fn last_before(tx: &ReadTransaction, stream: &StreamId, seq: u64) -> Result<Option<u64>, StoreError> {
    let Some(before) = seq.checked_sub(1) else { return Ok(None) };
    Ok(last_span(tx, stream, before)?.map(|(_, end)| end.min(seq)))
}

/// The proof hashes of an order, as this change sees them.
///
/// # Errors
/// [`StoreError`].
pub fn proof_in(tx: &WriteTransaction, order: &OrderId) -> Result<OrderProof, StoreError> {
    Ok(PROOFS.get_in(tx, order.as_bytes())?.unwrap_or_default())
}

/// Stores the proof hashes of an order.
///
/// # Errors
/// [`StoreError`].
pub fn put_proof(tx: &WriteTransaction, order: &OrderId, proof: &OrderProof) -> Result<(), StoreError> {
    PROOFS.put(tx, order.as_bytes(), proof)
}

/// The proof hashes of an order.
///
/// # Errors
/// [`StoreError`].
pub fn proof(tx: &ReadTransaction, order: &OrderId) -> Result<OrderProof, StoreError> {
    Ok(PROOFS.get(tx, order.as_bytes())?.unwrap_or_default())
}

/// Keeps the proof that ties an order's readings to the chain.
///
/// # Errors
/// [`StoreError`].
pub fn put_anchored(tx: &WriteTransaction, order: &OrderId, proof: &AnchoredProof) -> Result<(), StoreError> {
    ANCHORED.put(tx, order.as_bytes(), proof)
}

/// The proof that ties an order's readings to the chain.
///
/// # Errors
/// [`StoreError`].
pub fn anchored(tx: &ReadTransaction, order: &OrderId) -> Result<Option<AnchoredProof>, StoreError> {
    ANCHORED.get(tx, order.as_bytes())
}

#[cfg(test)]
mod tests {
    use sensora_chain::Network;
    use sensora_chain::keys::PrivateKey;
    use sensora_protocol::stream::Salts;

    use super::*;
    use crate::store::Store;

    const STREAM: StreamId = StreamId([7; 16]);

    fn store() -> Store {
        Store::in_memory(Network::Regtest, &PrivateKey::from_bytes([1; 32]).unwrap().public()).unwrap()
    }

    fn put(store: &Store, order: u8, first: u64, end: u64) {
        let run =
            Run { first, columns: Vec::new(), salts: Salts::Each(vec![[0; 16]; (end - first) as usize]) };
        let run = BoughtRun { run, count: end - first, order: OrderId([order; 32]) };
        store.write(|tx| put_run(tx, &STREAM, &run)).unwrap();
    }

    fn here(store: &Store) -> Vec<(u8, u64, u64)> {
        let runs = store.read(|tx| runs(tx, &STREAM, 0, u64::MAX, usize::MAX - 1)).unwrap();
        runs.iter().map(|run| (run.order.0[0], run.run.first, run.run.first + run.count)).collect()
    }

    #[test]
    fn a_reading_bought_alone_hides_no_run_that_holds_it() {
        let store = store();
        put(&store, 1, 10, 30);
        for (first, end) in [(10, 11), (15, 16), (28, 30)] {
            put(&store, 2, first, end);
        }
        assert_eq!(here(&store), [(1, 10, 30)]);
        let newest = store.read(|tx| newest(tx, &STREAM)).unwrap();
        let last = store.read(|tx| last_before(tx, &STREAM, 100)).unwrap();
        assert_eq!((newest, last), (Some(29), Some(30)));
    }

    #[test]
    fn a_run_takes_the_place_of_readings_that_were_bought_alone() {
        let store = store();
        for first in [4, 10, 12, 19, 20] {
            put(&store, 2, first, first + 1);
        }
        put(&store, 1, 10, 20);
        assert_eq!(here(&store), [(2, 4, 5), (1, 10, 20), (2, 20, 21)]);
        put(&store, 3, 18, 25);
        assert_eq!(here(&store), [(2, 4, 5), (1, 10, 20), (3, 18, 25)]);
        assert_eq!(store.read(|tx| newest(tx, &STREAM)).unwrap(), Some(24));
        assert_eq!(store.read(|tx| missing(tx, &STREAM, 0, 30)).unwrap(), [(0, 4), (5, 10), (25, 30)]);
    }

    #[test]
    fn a_store_of_before_there_were_spans_learns_them() {
        let store = store();
        for (first, end) in [(4, 5), (10, 20), (18, 25)] {
            put(&store, 1, first, end);
        }
        let before = here(&store);
        store.write(|tx| SPANS.clear(tx)).unwrap();
        assert_eq!(here(&store), []);
        store.write(note_spans).unwrap();
        assert_eq!(here(&store), before);
        assert_eq!(store.read(|tx| missing(tx, &STREAM, 0, 30)).unwrap(), [(0, 4), (5, 10), (25, 30)]);
    }

    #[test]
    fn runs_are_given_out_so_many_at_a_time_however_many_there_are() {
        let store = store();
        for first in 0..2 * SCAN_AT_ONCE as u64 {
            put(&store, 1, first * 3, first * 3 + 2);
        }
        let some = |first, limit| store.read(|tx| runs(tx, &STREAM, first, 1_000, limit)).unwrap();
        assert_eq!(some(4, 0), []);
        assert_eq!(some(4, 2).iter().map(|run| run.run.first).collect::<Vec<_>>(), [3, 6]);
        assert_eq!(some(0, usize::MAX).len(), 334);
        let missing = store.read(|tx| missing(tx, &STREAM, 1, 1_000)).unwrap();
        assert_eq!((missing.len(), missing[0], missing[332]), (333, (2, 3), (998, 999)));
    }

    #[test]
    fn a_live_run_grows_and_does_not_shrink() {
        let store = store();
        for end in [12, 20, 15] {
            put(&store, 1, 10, end);
        }
        assert_eq!(here(&store), [(1, 10, 20)]);
    }
}
