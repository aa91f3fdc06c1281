use proptest::prelude::*;

use super::*;

fn txids(count: usize) -> Vec<Txid> {
    (0..count).map(|i| Txid(crate::encode::sha256(&(i as u64).to_le_bytes()))).collect()
}

fn hash_leaf(offset: u64) -> Leaf {
    Leaf { offset, node: Node::Hash([offset as u8; 32]), is_txid: false }
}

fn checked(levels: Vec<Vec<Leaf>>) -> Result<MerklePath, MerklePathError> {
    MerklePath::checked(1, levels)
}

#[test]
fn a_lone_transaction_is_its_own_root() {
    let txids = txids(1);
    let path = MerklePath::for_block(7, &txids, 0).unwrap();
    assert_eq!(path.root_for(&txids[0]), Some(txids[0].0));
    assert_eq!((path.tree_height(), path.block_height()), (1, 7));
    assert_eq!(
        checked(vec![vec![hash_leaf(1)]]),
        Err(MerklePathError::MissingSibling { level: 0, offset: 0 })
    );
}

#[test]
fn what_does_not_fit_together_is_refused() {
    use MerklePathError as E;
    let copy = |offset| Leaf { offset, node: Node::Copy, is_txid: false };
    assert_eq!(checked(vec![]), Err(E::Empty));
    assert_eq!(checked(vec![vec![]]), Err(E::Empty));
    assert_eq!(checked(vec![vec![], vec![hash_leaf(1)]]), Err(E::Empty));
    let twice = vec![vec![hash_leaf(0), hash_leaf(0)], vec![hash_leaf(1)]];
    assert_eq!(checked(twice), Err(E::DuplicateOffset { level: 0, offset: 0 }));
    assert_eq!(
        checked(vec![vec![hash_leaf(0), hash_leaf(0)]]),
        Err(E::DuplicateOffset { level: 0, offset: 0 })
    );
    let useless = vec![vec![hash_leaf(0), hash_leaf(1)], vec![hash_leaf(1), hash_leaf(3)]];
    assert_eq!(checked(useless), Err(E::UselessOffset { level: 1, offset: 3 }));
    let lonely = vec![vec![hash_leaf(0), hash_leaf(1)], vec![]];
    assert_eq!(checked(lonely), Err(E::MissingSibling { level: 1, offset: 1 }));
    let all_four = vec![hash_leaf(0), hash_leaf(1), hash_leaf(2), hash_leaf(3)];
    assert_eq!(checked(vec![all_four, vec![hash_leaf(0)]]), Err(E::Contradiction { level: 1, offset: 0 }));
    let left_copy = vec![vec![copy(0), hash_leaf(1)], vec![hash_leaf(1)]];
    assert_eq!(checked(left_copy), Err(E::BadDuplicate { level: 0, offset: 0 }));
    let outside = vec![vec![hash_leaf(4), hash_leaf(5)], vec![hash_leaf(3)]];
    assert!(matches!(checked(outside), Err(E::UselessOffset { level: 2, offset: 1 })));
}

#[test]
fn bytes_that_promise_too_much_are_refused() {
    use DecodeError::TooMany;
    let error = |bytes: &[u8]| match MerklePath::parse(bytes) {
        Err(MerklePathError::Decode(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(error(&[1, 65]), TooMany { what: "levels", .. }));
    assert!(matches!(error(&[1, 1, 0xfe, 0, 0, 0, 0x80]), TooMany { what: "hashes", .. }));
    assert!(matches!(
        error(&[1, 1, 1, 0, 3]),
        DecodeError::UnexpectedEnd { .. } | TooMany { .. } | DecodeError::OutOfRange { .. }
    ));
    assert!(matches!(error(&[0xff, 0, 0, 0, 0, 1, 0, 0, 0, 1]), DecodeError::OutOfRange { .. }));
}

#[test]
fn paths_of_different_blocks_do_not_merge() {
    let txids = txids(4);
    let mut path = MerklePath::for_block(1, &txids, 0).unwrap();
    let other_height = MerklePath::for_block(2, &txids, 1).unwrap();
    let other_root = MerklePath::for_block(1, &txids[..3], 1).unwrap();
    assert!(matches!(path.merge(&other_height), Err(MerklePathError::DifferentBlocks(1, 2))));
    assert!(matches!(path.merge(&other_root), Err(MerklePathError::DifferentBlocks(1, 1))));
    assert_eq!(path.extract(&[Txid([9; 32])]), Err(MerklePathError::NotProven(Txid([9; 32]))));
    assert_eq!(path.extract(&[]), Err(MerklePathError::Empty));
}

proptest! {
    #[test]
    fn every_transaction_of_a_block_is_proven(count in 1usize..40, at: prop::sample::Index) {
        let txids = txids(count);
        let index = at.index(count);
        let path = MerklePath::for_block(100, &txids, index).unwrap();
        prop_assert_eq!(path.root_for(&txids[index]), Some(merkle_root(&txids)));
        prop_assert_eq!(path.offset_of(&txids[index]), Some(index as u64));
        prop_assert_eq!(path.txids(), vec![txids[index]]);
        prop_assert_eq!(MerklePath::parse(&path.to_bytes()).unwrap(), path);
    }

    #[test]
    fn merged_paths_prove_all_and_extract_again(count in 1usize..40, picks in prop::collection::vec(any::<prop::sample::Index>(), 1..6)) {
        let txids = txids(count);
        let mut picks: Vec<usize> = picks.into_iter().map(|p| p.index(count)).collect();
        picks.sort_unstable();
        picks.dedup();
        let mut merged = MerklePath::for_block(100, &txids, picks[0]).unwrap();
        for pick in &picks {
            merged.merge(&MerklePath::for_block(100, &txids, *pick).unwrap()).unwrap();
        }
        let expected: Vec<Txid> = picks.iter().map(|p| txids[*p]).collect();
        prop_assert_eq!(merged.txids(), expected);
        prop_assert_eq!(*merged.root(), merkle_root(&txids));
        prop_assert_eq!(MerklePath::parse(&merged.to_bytes()).unwrap(), merged.clone());
        for pick in picks {
            let alone = merged.extract(&[txids[pick]]).unwrap();
            prop_assert_eq!(alone, MerklePath::for_block(100, &txids, pick).unwrap());
        }
    }

    #[test]
    fn a_changed_byte_does_not_move_a_transaction(count in 2usize..40, at: prop::sample::Index, byte: prop::sample::Index) {
        let txids = txids(count);
        let path = MerklePath::for_block(100, &txids, at.index(count)).unwrap();
        let mut bytes = path.to_bytes();
        let byte = byte.index(bytes.len());
        bytes[byte] ^= 1;
        if let Ok(changed) = MerklePath::parse(&bytes) {
            let same_claim = changed.block_height() == path.block_height()
                && changed.root_for(&txids[at.index(count)]) == Some(*path.root())
                && changed.offset_of(&txids[at.index(count)]) != path.offset_of(&txids[at.index(count)]);
            prop_assert!(!same_claim);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
        if let Ok(path) = MerklePath::parse(&bytes) {
            prop_assert_eq!(path.to_bytes(), bytes);
        }
    }
}
