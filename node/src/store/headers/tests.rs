use std::fs;

use proptest::prelude::*;
use sensora_chain::header::HeaderView;

use super::*;
use crate::chain_access::{Restored, restore};

fn mine(previous: &Header, salt: u8) -> Header {
    let header = Header::new(1, previous.hash(), [salt; 32], previous.time() + 1, 0x207f_ffff, 0);
    (0..).map(|nonce| header.with_nonce(nonce)).find(|header| header.meets_target(Network::Regtest)).unwrap()
}

fn branch(from: &Header, count: usize, salt: u8) -> Vec<Header> {
    let mut headers: Vec<Header> = Vec::new();
    for _ in 0..count {
        headers.push(mine(headers.last().unwrap_or(from), salt));
    }
    headers
}

fn flat(headers: &[Header]) -> Vec<[u8; 80]> {
    headers.iter().map(|header| header.0).collect()
}

fn genesis() -> HeaderChain {
    HeaderChain::genesis(Network::Regtest).unwrap()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("headers.bin")
    }

    fn open(&self) -> FileHeaderStore {
        FileHeaderStore::open(self.path(), &genesis()).unwrap()
    }

    /// What a node would start with.
    fn restored(&self) -> Restored {
        restore(genesis(), &self.open()).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }
}

#[test]
fn headers_are_appended_and_cut_where_branches_part() {
    let place = Place::new();
    let store = place.open();
    assert!(store.load().unwrap().is_empty() && !place.path().exists(), "opening makes nothing");
    let first = branch(&Header::regtest_genesis(), 10, 1);
    store.replace_from(1, &flat(&first[..6])).unwrap();
    store.replace_from(7, &flat(&first[6..])).unwrap();
    assert_eq!(store.load().unwrap(), flat(&first));
    assert_eq!(place.bytes().len(), 11 * 80);
    let second = branch(&first[3], 8, 2);
    store.replace_from(5, &flat(&second)).unwrap();
    let whole = [&first[..4], &second].concat();
    assert_eq!(place.open().load().unwrap(), flat(&whole));
    let restored = place.restored();
    assert_eq!((restored.chain.tip_height(), restored.differs_from, restored.damaged), (12, None, None));
    store.replace_from(3, &[]).unwrap();
    assert_eq!(place.open().load().unwrap(), flat(&first[..2]));
    // Neither a gap nor anything at or below the base.
    for height in [4, 100, u32::MAX, 0] {
        let error = store.replace_from(height, &flat(&first)).unwrap_err().to_string();
        assert!(error.contains("headers.bin, which end at 2"), "{error}");
    }
    assert_eq!(place.open().load().unwrap(), flat(&first[..2]));
}

#[test]
fn a_file_of_an_older_checkpoint_goes_on_and_one_of_another_network_is_begun_anew() {
    let place = Place::new();
    let all = branch(&Header::regtest_genesis(), 10, 1);
    place.open().replace_from(1, &flat(&all)).unwrap();
    let later = HeaderChain::from_checkpoint(Network::Regtest, 3, &all[2..5]).unwrap();
    let store = FileHeaderStore::open(place.path(), &later).unwrap();
    let restored = restore(later.clone(), &store).unwrap();
    assert_eq!((restored.chain.tip_height(), restored.differs_from), (10, Some(6)));
    assert!(store.replace_from(7, &flat(&all[6..])).is_err(), "it is written anew from the base on");
    store.replace_from(6, &flat(&all[5..])).unwrap();
    let store = FileHeaderStore::open(place.path(), &later).unwrap();
    assert_eq!((store.load().unwrap(), place.bytes().len()), (flat(&all[5..]), 6 * 80));
    assert_eq!(restore(later, &store).unwrap().differs_from, None);
    // Of what follows a later checkpoint nothing follows the earlier one.
    let restored = place.restored();
    assert_eq!((restored.chain.tip_height(), restored.differs_from), (0, Some(1)));

    let other = HeaderChain::checkpoint(Network::Main).unwrap();
    let store = FileHeaderStore::open(place.path(), &other).unwrap();
    assert!(store.load().unwrap().is_empty());
    store.replace_from(other.tip_height() + 1, &[]).unwrap();
    assert_eq!(place.bytes().len(), 80);
    assert!(place.open().load().unwrap().is_empty());
}

#[test]
fn what_cannot_be_opened_is_named() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    let error = FileHeaderStore::open(place.path(), &genesis()).unwrap_err();
    assert!(
        error.to_string().contains("cannot open") && error.to_string().contains("headers.bin"),
        "{error}"
    );
}

/// A damaged header at the end may still have work, one in two on regtest: then it is a header that nobody else has, and goes when the
/// real chain has more work. In the middle nothing can be damaged unseen.
fn is_honest(chain: &HeaderChain, honest: &[&[Header]]) -> bool {
    let found = chain.run(1, usize::MAX);
    let sound = &found[..found.len().saturating_sub(1)];
    honest.iter().any(|honest| honest.starts_with(sound))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// A crash in the middle of a reorganisation leaves any mixture of both: cut, partly overwritten, zeros where blocks of the
    /// disk were not written, torn within a header.
    #[test]
    fn no_crash_makes_a_wrong_chain(
        fork in 0usize..12,
        added in 1usize..12,
        length in 0usize..26 * 80,
        zeros in prop::option::of((0usize..26 * 80, 0usize..400)),
        written in 0usize..26 * 80,
        flipped in prop::option::of((0usize..26 * 80, 0u8..8)),
    ) {
        let place = Place::new();
        let first = branch(&Header::regtest_genesis(), 12, 1);
        let second = branch(first[..fork].last().unwrap_or(&Header::regtest_genesis()), added, 2);
        let other = [&first[..fork], &second].concat();
        place.open().replace_from(1, &flat(&first)).unwrap();
        let mut bytes = place.bytes();
        // As much of the other branch as was written, over the old one.
        let new = flat(&second).as_flattened().to_vec();
        let at = (fork + 1) * 80;
        for (index, byte) in new.iter().take(written).enumerate() {
            if at + index < bytes.len() { bytes[at + index] = *byte } else { bytes.push(*byte) }
        }
        if let Some((from, count)) = zeros {
            for byte in bytes.iter_mut().skip(from).take(count) { *byte = 0 }
        }
        if let Some((at, bit)) = flipped
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte ^= 1 << bit;
        }
        bytes.truncate(length.max(1));
        fs::write(place.path(), &bytes).unwrap();

        let store = place.open();
        let restored = restore(genesis(), &store).unwrap();
        prop_assert!(is_honest(&restored.chain, &[&first, &other]));
        // What the node does with it: it cuts the file there, and goes on with what it is told.
        let mut chain = restored.chain;
        if let Some(height) = restored.differs_from {
            store.replace_from(height, &flat(&chain.run(height, usize::MAX))).unwrap();
        }
        let long = branch(&first[11], 14, 3);
        let before = chain.tip();
        let connected = chain.connect_run(&[&first[..], &long].concat()).unwrap();
        let from = connected.reorged.map_or(before.height, |reorg| reorg.fork_height) + 1;
        store.replace_from(from, &flat(&chain.run(from, usize::MAX))).unwrap();
        let again = place.restored();
        prop_assert_eq!((again.chain.tip(), again.differs_from, again.damaged), (chain.tip(), None, None));
    }

    #[test]
    fn any_bytes_are_read_as_no_more_than_they_are(bytes in prop::collection::vec(any::<u8>(), 0..400), ours: bool) {
        let place = Place::new();
        let start = if ours { place.open().prefix().to_vec() } else { Vec::new() };
        fs::write(place.path(), [start, bytes].concat()).unwrap();
        prop_assert!(place.restored().chain.tip_height() <= 1);
        let all = branch(&Header::regtest_genesis(), 3, 1);
        let store = place.open();
        store.replace_from(1, &flat(&all)).unwrap();
        prop_assert_eq!(place.open().load().unwrap(), flat(&all));
    }
}
