//! The log's proofs against the definitions of RFC 9162 §2.1, written down naively, and against forgeries.

use proptest::prelude::*;
use sensora_protocol::Hash;
use sensora_protocol::codec;
use sensora_protocol::stream::chunk::CHUNK_LEN;
use sensora_protocol::stream::log::{
    ChunkLeaves, ChunkedLog, ConsistencyProof, Frontier, InclusionProof, MAX_SIZE, MakeError, MemoryLog,
    MissingNode, ProofError, RangeProof, RangeVerifier, RequestError, consistency_proof, empty_root,
    inclusion_proof, node_hash, range_proof, root, root_of_leaves, verify_consistency, verify_inclusion,
    verify_range,
};

/// The functions of RFC 9162, as they stand there.
mod rfc9162 {
    use super::*;

    fn split(len: usize) -> usize {
        let mut k = 1;
        while k * 2 < len {
            k *= 2;
        }
        k
    }

    /// MTH, §2.1.1, over leaf hashes.
    pub(super) fn mth(d: &[Hash]) -> Hash {
        match d {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = d.split_at(split(d.len()));
                node_hash(&mth(left), &mth(right))
            }
        }
    }

    /// PATH, §2.1.3.1.
    pub(super) fn path(m: usize, d: &[Hash]) -> Vec<Hash> {
        if d.len() == 1 {
            return vec![];
        }
        let k = split(d.len());
        let (mut path, last) =
            if m < k { (path(m, &d[..k]), mth(&d[k..])) } else { (path(m - k, &d[k..]), mth(&d[..k])) };
        path.push(last);
        path
    }

    /// SUBPROOF, §2.1.4.1.
    pub(super) fn subproof(m: usize, d: &[Hash], whole: bool) -> Vec<Hash> {
        if m == d.len() {
            return if whole { vec![] } else { vec![mth(d)] };
        }
        let k = split(d.len());
        let (mut proof, last) = if m <= k {
            (subproof(m, &d[..k], whole), mth(&d[k..]))
        } else {
            (subproof(m - k, &d[k..], false), mth(&d[..k]))
        };
        proof.push(last);
        proof
    }

    /// The range proof by its definition: subtrees without a leaf of the range, from left to right.
    pub(super) fn range(d: &[Hash], at: usize, first: usize, end: usize, proof: &mut Vec<Hash>) {
        if at + d.len() <= first || end <= at {
            proof.push(mth(d));
        } else if at < first || end < at + d.len() {
            let (left, right) = d.split_at(split(d.len()));
            range(left, at, first, end, proof);
            range(right, at + left.len(), first, end, proof);
        }
    }
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count as u64).map(|i| Hash::of(&i.to_be_bytes())).collect()
}

fn log_of(count: usize) -> (Vec<Hash>, MemoryLog) {
    let leaves = leaves(count);
    let log = MemoryLog::from_leaves(leaves.iter().copied());
    (leaves, log)
}

fn flipped(hash: &Hash) -> Hash {
    let mut bytes = hash.0;
    bytes[17] ^= 0x40;
    Hash(bytes)
}

#[test]
fn roots_are_those_of_the_rfc() {
    let (leaves, log) = log_of(70);
    let mut frontier = Frontier::new();
    for size in 0..=70 {
        let expected = rfc9162::mth(&leaves[..size]);
        assert_eq!(root(&log, size as u64).unwrap(), expected, "size {size}");
        assert_eq!(root_of_leaves(&leaves[..size]), expected);
        assert_eq!(MemoryLog::from_leaves(leaves[..size].iter().copied()).root(), expected);
        assert_eq!(frontier.root(), expected);
        assert_eq!(frontier.size(), size as u64);
        if size < 70 {
            frontier.push_leaf(leaves[size]);
        }
    }
    assert_eq!(root(&log, 71), Err(MakeError::Nodes(MissingNode { level: 0, index: 70 })));
    assert_eq!(root(&log, MAX_SIZE + 1), Err(RequestError::SizeTooLarge { size: MAX_SIZE + 1 }.into()));
}

#[test]
fn known_roots_of_certificate_transparency() {
    // The tree that Certificate Transparency implementations share as a reference: 8 leaves of given bytes.
    let data =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves: Vec<Hash> =
        data.iter().map(|leaf| Hash::of_parts(&[&[0], &hex::decode(leaf).unwrap()])).collect();
    for (size, expected) in (1..).zip(roots) {
        assert_eq!(root_of_leaves(&leaves[..size]).to_string(), expected);
    }
}

#[test]
fn inclusion_proofs_are_those_of_the_rfc() {
    let (leaves, log) = log_of(70);
    for size in 1..=70 {
        let root = rfc9162::mth(&leaves[..size]);
        for (index, leaf) in leaves[..size].iter().enumerate() {
            let proof = inclusion_proof(&log, index as u64, size as u64).unwrap();
            assert_eq!(proof.hashes, rfc9162::path(index, &leaves[..size]), "{index} of {size}");
            let verify = |leaf: &Hash, index, proof: &InclusionProof, root: &Hash| {
                verify_inclusion(leaf, index as u64, size as u64, proof, root)
            };
            assert_eq!(verify(leaf, index, &proof, &root), Ok(()));
            assert!(verify(&flipped(leaf), index, &proof, &root).is_err());
            assert!(verify(leaf, index, &proof, &flipped(&root)).is_err());
            for other in (0..=size).filter(|other| *other != index) {
                assert!(verify(leaf, other, &proof, &root).is_err(), "{index} shown as {other} of {size}");
            }
            for forged in forgeries(&proof.hashes) {
                assert!(verify(leaf, index, &InclusionProof { hashes: forged }, &root).is_err());
            }
        }
        assert!(inclusion_proof(&log, size as u64, size as u64).is_err());
    }
}

#[test]
fn consistency_proofs_are_those_of_the_rfc() {
    let (leaves, log) = log_of(70);
    for new in 0..=70 {
        let new_root = rfc9162::mth(&leaves[..new]);
        for old in 0..=new {
            let old_root = rfc9162::mth(&leaves[..old]);
            let proof = consistency_proof(&log, old as u64, new as u64).unwrap();
            if old > 0 {
                assert_eq!(proof.hashes, rfc9162::subproof(old, &leaves[..new], true), "{old} to {new}");
            }
            let verify = |old_root: &Hash, new_root: &Hash, proof: &ConsistencyProof| {
                verify_consistency(old as u64, old_root, new as u64, new_root, proof)
            };
            assert_eq!(verify(&old_root, &new_root, &proof), Ok(()), "{old} to {new}");
            assert!(verify(&flipped(&old_root), &new_root, &proof).is_err());
            if old > 0 {
                assert!(verify(&old_root, &flipped(&new_root), &proof).is_err());
            }
            for forged in forgeries(&proof.hashes) {
                assert!(verify(&old_root, &new_root, &ConsistencyProof { hashes: forged }).is_err());
            }
        }
        assert_eq!(
            consistency_proof(&log, new as u64 + 1, new as u64),
            Err(RequestError::Shrunk { old: new as u64 + 1, new: new as u64 }.into())
        );
    }
}

/// The proof with each hash changed, removed or doubled, neighbours swapped, and one too many.
fn forgeries(hashes: &[Hash]) -> Vec<Vec<Hash>> {
    let mut forgeries = Vec::new();
    let mut forge = |change: &dyn Fn(&mut Vec<Hash>)| {
        let mut forged = hashes.to_vec();
        change(&mut forged);
        forgeries.push(forged);
    };
    for at in 0..hashes.len() {
        forge(&|hashes| hashes[at] = flipped(&hashes[at]));
        forge(&|hashes| {
            hashes.remove(at);
        });
        forge(&|hashes| hashes.insert(at, hashes[at]));
        if at > 0 {
            forge(&|hashes| hashes.swap(at - 1, at));
        }
    }
    forge(&|hashes| hashes.push(Hash([0; 32])));
    forgeries
}

#[test]
fn range_proofs_hold_for_every_range_of_small_logs() {
    let (leaves, log) = log_of(70);
    for size in 1..=70_usize {
        let root = rfc9162::mth(&leaves[..size]);
        for first in 0..size {
            for count in 1..=size - first {
                let proof = range_proof(&log, first as u64, count as u64, size as u64).unwrap();
                let mut expected = Vec::new();
                rfc9162::range(&leaves[..size], 0, first, first + count, &mut expected);
                assert_eq!(proof.hashes, expected, "{first}+{count} of {size}");
                let range = &leaves[first..first + count];
                assert_eq!(verify_range(range, first as u64, size as u64, &proof, &root), Ok(()));
            }
        }
    }
}

#[test]
fn forged_ranges_are_refused() {
    let (leaves, log) = log_of(33);
    for size in [1_usize, 2, 7, 8, 21, 32, 33] {
        let root = rfc9162::mth(&leaves[..size]);
        for first in 0..size {
            for count in 1..=size - first {
                let proof = range_proof(&log, first as u64, count as u64, size as u64).unwrap();
                let range = leaves[first..first + count].to_vec();
                let verify = |leaves: &[Hash], first: usize, proof: &RangeProof| {
                    verify_range(leaves, first as u64, size as u64, proof, &root)
                };
                for at in 0..count {
                    let mut altered = range.clone();
                    altered[at] = flipped(&altered[at]);
                    assert!(verify(&altered, first, &proof).is_err());
                    let mut omitted = range.clone();
                    omitted.remove(at);
                    assert!(verify(&omitted, first, &proof).is_err());
                    let mut repeated = range.clone();
                    repeated.insert(at, range[at]);
                    assert!(verify(&repeated, first, &proof).is_err());
                    if at > 0 {
                        let mut swapped = range.clone();
                        swapped.swap(at - 1, at);
                        assert!(verify(&swapped, first, &proof).is_err());
                    }
                }
                for other in (0..=size).filter(|other| *other != first) {
                    assert!(verify(&range, other, &proof).is_err(), "{first} shown as {other}");
                }
                for forged in forgeries(&proof.hashes) {
                    assert!(verify(&range, first, &RangeProof { hashes: forged }).is_err());
                }
                assert_eq!(
                    verify_range(&range, first as u64, size as u64, &proof, &flipped(&root)),
                    Err(ProofError::WrongRoot { root: flipped(&root) })
                );
            }
        }
    }
}

#[test]
fn impossible_requests_are_named() {
    let (leaves, log) = log_of(10);
    assert_eq!(range_proof(&log, 3, 0, 10), Err(RequestError::EmptyRange.into()));
    let beyond = RequestError::RangeBeyondEnd { first: 5, count: 6, size: 10 };
    assert_eq!(range_proof(&log, 5, 6, 10), Err(beyond.into()));
    let huge = RequestError::RangeBeyondEnd { first: u64::MAX, count: 2, size: 10 };
    assert_eq!(range_proof(&log, u64::MAX, 2, 10), Err(huge.into()));
    let none = RangeProof::default();
    assert!(RangeVerifier::new(0, u64::MAX, u64::MAX, &none).is_err());
    assert!(RangeVerifier::new(MAX_SIZE - 1, 1, MAX_SIZE, &none).is_err());
    assert!(
        verify_inclusion(&leaves[0], u64::MAX, u64::MAX, &InclusionProof::default(), &leaves[0]).is_err()
    );
    assert!(verify_inclusion(&leaves[0], 0, 0, &InclusionProof::default(), &leaves[0]).is_err());
    let lone = ConsistencyProof::default();
    assert!(verify_consistency(u64::MAX, &leaves[0], u64::MAX, &leaves[0], &lone).is_err());
    assert!(verify_consistency(3, &leaves[0], MAX_SIZE, &leaves[0], &lone).is_err());
}

#[test]
fn proofs_are_bounded_when_they_are_read() {
    let proof = RangeProof { hashes: leaves(128) };
    let bytes = codec::encode(&proof).unwrap();
    assert_eq!(codec::decode::<RangeProof>(&bytes, codec::MAX_FRAME).unwrap(), proof);
    assert!(codec::decode::<InclusionProof>(&bytes, codec::MAX_FRAME).is_err());
    assert!(codec::decode::<ConsistencyProof>(&bytes, codec::MAX_FRAME).is_err());
    let too_long = codec::encode(&RangeProof { hashes: leaves(129) }).unwrap();
    assert!(codec::decode::<RangeProof>(&too_long, codec::MAX_FRAME).is_err());
    let json = serde_json::to_string(&InclusionProof { hashes: leaves(3) }).unwrap();
    assert_eq!(serde_json::from_str::<InclusionProof>(&json).unwrap().hashes, leaves(3));
}

/// A store that keeps the leaves of full chunks, and counts how often it is asked for them.
struct Kept {
    leaves: Vec<Hash>,
    asked: std::cell::Cell<usize>,
}

impl ChunkLeaves for &Kept {
    type Error = MissingNode;
    fn leaves(&self, chunk: u64) -> Result<Vec<Hash>, MissingNode> {
        self.asked.set(self.asked.get() + 1);
        let first = (chunk * CHUNK_LEN) as usize;
        Ok(self.leaves[first..first + CHUNK_LEN as usize].to_vec())
    }
}

#[test]
fn a_log_of_chunk_roots_makes_the_same_proofs() {
    let count = 5000;
    let (leaves, memory) = log_of(count);
    let kept = Kept { leaves: leaves.clone(), asked: 0.into() };
    let mut chunked = ChunkedLog::new([], [], &kept);
    let mut roots = Vec::new();
    for (size, leaf) in (1..).zip(&leaves) {
        roots.extend(chunked.push(*leaf));
        if size % 509 == 0 || size % 1024 < 2 {
            assert_eq!(chunked.root(), root(&memory, size).unwrap(), "size {size}");
            assert_eq!(root(&chunked, size).unwrap(), chunked.root());
        }
    }
    assert_eq!(roots.len(), 4);
    assert_eq!(kept.asked.get(), 0, "roots need no chunk to be opened");
    assert_eq!(range_proof(&chunked, 3100, 1500, 5000), range_proof(&memory, 3100, 1500, 5000));
    assert_eq!(kept.asked.get(), 0, "nor does a proof that cuts through the chunk filled last");
    let tail = leaves[4096..].iter().copied();
    let reopened = ChunkedLog::new(roots, tail, &kept);
    assert_eq!((reopened.size(), reopened.root()), (5000, memory.root()));
    for (first, count) in [(0, 5000), (1024, 2048), (1000, 2000), (1, 1), (4095, 2), (4999, 1), (100, 4000)] {
        assert_eq!(range_proof(&reopened, first, count, 5000), range_proof(&memory, first, count, 5000));
    }
    for index in [0, 1023, 1024, 3333, 4096, 4999] {
        assert_eq!(inclusion_proof(&reopened, index, 5000), inclusion_proof(&memory, index, 5000));
    }
    assert_eq!(consistency_proof(&reopened, 3000, 5000), consistency_proof(&memory, 3000, 5000));
    assert!(inclusion_proof(&reopened, 4999, 5002).is_err());
    let before = kept.asked.get();
    range_proof(&reopened, 2049, 1, 5000).unwrap();
    assert!(kept.asked.get() - before <= 1, "one chunk is opened once for a proof");
}

#[test]
fn whole_chunks_stand_for_their_leaves() {
    let (leaves, log) = log_of(5000);
    let proof = range_proof(&log, 1000, 3200, 5000).unwrap();
    let mut verifier = RangeVerifier::new(1000, 3200, 5000, &proof).unwrap();
    verifier.push_leaves(&leaves[1000..1024]).unwrap();
    verifier.push_subtree(10, root_of_leaves(&leaves[1024..2048])).unwrap();
    assert_eq!(verifier.next(), 2048);
    assert_eq!(
        verifier.clone().push_subtree(12, leaves[0]),
        Err(ProofError::LeafCount { expected: 3200, found: 1048 + 4096 })
    );
    assert_eq!(verifier.clone().push_subtree(63, leaves[0]).map_err(|_| ()), Err(()));
    assert_eq!(verifier.clone().push_subtree(255, leaves[0]).map_err(|_| ()), Err(()));
    verifier.push_subtree(11, root_of_leaves(&leaves[2048..4096])).unwrap();
    assert_eq!(
        verifier.clone().verify(&log.root()),
        Err(ProofError::LeafCount { expected: 3200, found: 3096 })
    );
    verifier.push_leaves(&leaves[4096..4200]).unwrap();
    assert!(verifier.push_leaf(leaves[4200]).is_err());
    assert_eq!(verifier.verify(&log.root()), Ok(()));

    let unaligned = range_proof(&log, 1000, 1100, 5000).unwrap();
    let mut verifier = RangeVerifier::new(1000, 1100, 5000, &unaligned).unwrap();
    assert_eq!(verifier.push_subtree(10, leaves[0]), Err(ProofError::NotAligned { level: 10, at: 1000 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn proofs_hold_in_larger_logs(size in 71..5000_usize, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        let (leaves, log) = log_of(size);
        let root = rfc9162::mth(&leaves);
        prop_assert_eq!(log.root(), root);
        let (first, last) = (a.index(size).min(b.index(size)), a.index(size).max(b.index(size)));
        let (index, total) = (first as u64, size as u64);

        let inclusion = inclusion_proof(&log, index, total).unwrap();
        prop_assert_eq!(&inclusion.hashes, &rfc9162::path(first, &leaves));
        prop_assert_eq!(verify_inclusion(&leaves[first], index, total, &inclusion, &root), Ok(()));

        let old = last + 1;
        let consistency = consistency_proof(&log, old as u64, total).unwrap();
        prop_assert_eq!(&consistency.hashes, &rfc9162::subproof(old, &leaves, true));
        let old_root = rfc9162::mth(&leaves[..old]);
        prop_assert_eq!(verify_consistency(old as u64, &old_root, total, &root, &consistency), Ok(()));

        let range = &leaves[first..=last];
        let proof = range_proof(&log, index, range.len() as u64, total).unwrap();
        prop_assert_eq!(verify_range(range, index, total, &proof, &root), Ok(()));
        if let Some(hash) = proof.hashes.first() {
            let mut forged = proof.clone();
            forged.hashes[0] = flipped(hash);
            prop_assert!(verify_range(range, index, total, &forged, &root).is_err());
        }
        let mut altered = range.to_vec();
        let at = b.index(altered.len());
        altered[at] = flipped(&altered[at]);
        prop_assert!(verify_range(&altered, index, total, &proof, &root).is_err());
        prop_assert!(verify_range(&range[1..], index + 1, total, &proof, &root).is_err());
        prop_assert!(verify_range(&range[..range.len() - 1], index, total, &proof, &root).is_err());
    }

    #[test]
    fn forged_numbers_never_panic(
        first in any::<u64>(), count in any::<u64>(), size in any::<u64>(), old in any::<u64>(), hashes in 0..70_usize
    ) {
        let hashes = leaves(hashes);
        for shift in [0, 16, 40, 56] {
            let (first, count, size, old) = (first >> shift, count >> shift, size >> shift, old >> shift);
            let range = RangeProof { hashes: hashes.clone() };
            if let Ok(mut verifier) = RangeVerifier::new(first, count, size, &range) {
                let _ = verifier.push_leaf(Hash([0; 32]));
                let _ = verifier.push_subtree((first % 70) as u8, Hash([0; 32]));
                let _ = verifier.root();
            }
            let root = Hash([0; 32]);
            let _ = verify_inclusion(&root, first, size, &InclusionProof { hashes: hashes.clone() }, &root);
            let _ = verify_consistency(old, &root, size, &root, &ConsistencyProof { hashes: hashes.clone() });
        }
    }
}
