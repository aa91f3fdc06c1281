mod model;
mod rules;

use proptest::prelude::*;

use super::*;

/// A header on `previous` that regtest takes.
fn mine(previous: &Header, mark: u8) -> Header {
    let header = Header::new(4, previous.hash(), [mark; 32], previous.time() + 600, 0x207f_ffff, 0);
    (0..).map(|nonce| header.with_nonce(nonce)).find(|h| h.meets_target(Network::Regtest)).unwrap()
}

fn branch(from: Header, len: usize, mark: u8) -> Vec<Header> {
    std::iter::successors(Some(mine(&from, mark)), |last| Some(mine(last, mark))).take(len).collect()
}

fn regtest() -> HeaderChain {
    HeaderChain::genesis(Network::Regtest).unwrap()
}

#[test]
fn the_regtest_genesis_is_the_one_everybody_knows() {
    let genesis = Header::regtest_genesis();
    let hash = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206";
    assert_eq!(genesis.hash().to_string(), hash);
    assert!(genesis.meets_target(Network::Regtest));
    assert_eq!((genesis.version(), genesis.bits(), genesis.nonce()), (1, 0x207f_ffff, 2));
    assert_eq!(genesis.work().to_string(), "2");
    assert_eq!(regtest().tip(), Tip { height: 0, hash: genesis.hash() });
    assert!(matches!(HeaderChain::genesis(Network::Main), Err(HeaderError::NeedsCheckpoint(_))));
}

#[test]
fn short_targets_read_as_nodes_read_them() {
    for bits in [0x1d00_ffff, 0x1b04_04cb, 0x207f_ffff, 0x0312_3456, 0x0212_3400, 0x1800_9645] {
        assert_eq!(Target::from_bits(bits).unwrap().to_bits(), bits, "{bits:08x}");
    }
    for bits in [0, 0x0180_3456, 0x2100_ffff | 0x0080_0000, 0xff12_3456, 0x0100_3456, 0x2200_ffff] {
        assert_eq!(Target::from_bits(bits), None, "{bits:08x}");
    }
    assert_eq!(Target::limit(Network::Main).to_bits(), 0x1d00_ffff);
    assert_eq!(Target::limit(Network::Regtest).to_bits(), 0x207f_ffff);
    assert_eq!(Target::from_bits(0x1d00_ffff).unwrap().work().to_string(), "4295032833");
}

#[test]
fn headers_extend_the_chain() {
    let mut chain = regtest();
    let headers = branch(Header::regtest_genesis(), 20, 1);
    let connected = chain.connect(&headers).unwrap();
    assert_eq!((connected.tip.height, connected.added, connected.reorged), (20, 20, None));
    assert_eq!(chain.at(5), Some(headers[4]));
    assert_eq!(chain.height_of(&headers[4].hash()), Some(5));
    assert_eq!(chain.connect(&headers).unwrap().added, 0);
    assert!(chain.is_buried(15, 6) && !chain.is_buried(16, 6) && !chain.is_buried(21, 0));
    assert_eq!(chain.median_time_past(20), Some(headers[14].time()));
    let reread = Header::parse_run(&chain.to_bytes()).unwrap();
    assert_eq!(HeaderChain::from_checkpoint(Network::Regtest, 0, &reread).unwrap().tip(), chain.tip());
    assert_eq!(Header::parse_run(&[0; 81]), Err(HeaderError::Length(81)));
}

#[test]
fn the_branch_with_more_work_wins_at_any_depth() {
    let mut chain = regtest();
    let genesis = Header::regtest_genesis();
    let (first, second) = (branch(genesis, 50, 1), branch(genesis, 51, 2));
    chain.connect(&first).unwrap();
    let equal = chain.connect(&second[..50]).unwrap();
    assert_eq!((equal.tip.hash, equal.reorged), (first[49].hash(), None));
    let over = chain.connect(&second[50..]).unwrap();
    let disconnected: Vec<_> = first.iter().map(Header::hash).collect();
    assert_eq!(over.reorged, Some(Reorg { fork_height: 0, disconnected }));
    assert_eq!((chain.tip().height, chain.at(7)), (51, Some(second[6])));
    assert_eq!(chain.height_of(&first[3].hash()), None);
    // And back again, from the middle of what was left.
    let back = branch(first[49], 3, 3);
    let over = chain.connect(&back).unwrap();
    assert_eq!((over.tip.height, over.reorged.unwrap().disconnected.len()), (53, 51));
    assert_eq!(chain.at(10), Some(first[9]));
}

#[test]
fn a_bad_header_takes_its_whole_run_with_it() {
    let genesis = Header::regtest_genesis();
    let good = branch(genesis, 5, 1);
    let at = |index: usize, bad: Header| {
        let mut run = good.clone();
        run[index] = bad;
        let mut chain = regtest();
        let error = chain.connect(&run).unwrap_err();
        assert_eq!(chain.tip().height, 0);
        assert!(chain.connect(&good).is_ok());
        error
    };
    let parent = good[2];
    let no_work = (0..)
        .map(|n| Header::new(4, parent.hash(), [0; 32], parent.time() + 1, 0x207f_ffff, n))
        .find(|h| !h.meets_target(Network::Regtest))
        .unwrap();
    assert_eq!(at(3, no_work), HeaderError::ProofOfWork(no_work.hash()));
    let easier = Header::new(4, parent.hash(), [0; 32], parent.time() + 1, 0x2100_ffff, 0);
    assert!(matches!(at(3, easier), HeaderError::Bits { expected: 0x207f_ffff, found: 0x2100_ffff, .. }));
    let old = (0..)
        .map(|n| Header::new(4, parent.hash(), [0; 32], genesis.time(), 0x207f_ffff, n))
        .find(|h| h.meets_target(Network::Regtest))
        .unwrap();
    assert_eq!(at(3, old), HeaderError::TimeTooOld(old.hash()));
    let foreign = mine(&mine(&genesis, 9), 9);
    assert!(matches!(at(3, foreign), HeaderError::UnknownParent { .. }));
    // Between the headers of a run nothing else may stand, not even what is right.
    let mut chain = regtest();
    let beside = mine(&good[1], 7);
    let run = [&good[..3], &[beside], &good[3..]].concat();
    assert_eq!(chain.connect_run(&run), Err(HeaderError::NotInARow(beside.hash())));
    assert_eq!(chain.tip().height, 0);
    assert_eq!(chain.connect(&run).unwrap().added, 6);
    assert_eq!(chain.connect_run(&[]).unwrap().added, 0);
}

#[test]
fn nothing_goes_below_the_first_header_that_is_kept() {
    let trunk = branch(Header::regtest_genesis(), 10, 1);
    let mut chain = HeaderChain::from_checkpoint(Network::Regtest, 6, &trunk[5..]).unwrap();
    let before = chain.tip();
    let rival = branch(trunk[4], 20, 2);
    let beside = HeaderError::BesideBase { hash: rival[0].hash(), height: 6 };
    assert_eq!(chain.connect(&rival), Err(beside));
    let deeper = branch(trunk[2], 20, 2);
    assert!(matches!(chain.connect(&deeper), Err(HeaderError::UnknownParent { .. })));
    assert_eq!((chain.tip(), chain.height_of(&trunk[4].hash()), chain.at(5)), (before, None, None));
    assert_eq!((chain.hash_at(5), chain.hash_at(6)), (None, Some(trunk[5].hash())));
    assert!(chain.run(5, 3).is_empty() && chain.median_time_past(5).is_none());
    // From the first one on, all is as everywhere.
    let over = chain.connect(&branch(trunk[5], 6, 2)).unwrap();
    assert_eq!((over.tip.height, over.reorged.unwrap().fork_height), (12, 6));
}

#[test]
fn a_long_chain_keeps_its_heights_hashes_and_work_over_the_ends_of_its_pieces() {
    let mut chain = regtest();
    let headers = branch(Header::regtest_genesis(), 1_600, 1);
    chain.connect(&headers).unwrap();
    let snapshot = chain.snapshot();
    for (header, height) in headers.iter().zip(1..) {
        assert_eq!((chain.at(height), chain.height_of(&header.hash())), (Some(*header), Some(height)));
    }
    assert_eq!(chain.work().to_string(), "3202");
    for fork in [1_535u32, 1_023, 512, 511, 1] {
        let mut other = snapshot.clone();
        let rival = branch(headers[fork as usize - 1], 1_601 - fork as usize, 2);
        let over = other.connect_run(&rival).unwrap();
        assert_eq!((over.tip.height, over.reorged.unwrap().fork_height), (1_601, fork));
        assert_eq!(other.work().to_string(), "3204");
        assert_eq!(
            other.to_bytes()[80..],
            [&headers[..fork as usize], &rival].concat().iter().flat_map(|h| h.0).collect::<Vec<_>>()
        );
        assert_eq!(other.height_of(&headers[fork as usize].hash()), None);
        // Back, with what lies beside it now: all work is still known.
        let back = other.connect_run(&branch(headers[1_599], 2, 3)).unwrap();
        assert_eq!((back.tip.height, back.reorged.unwrap().fork_height), (1_602, fork));
        assert_eq!(other.work().to_string(), "3206");
    }
    assert_eq!(snapshot.tip(), chain.tip());
    assert_eq!(snapshot.to_bytes(), chain.to_bytes());
}

#[test]
fn a_locator_finds_the_fork() {
    let mut ours = regtest();
    let mut theirs = regtest();
    let shared = branch(Header::regtest_genesis(), 100, 1);
    ours.connect(&shared).unwrap();
    theirs.connect(&shared).unwrap();
    ours.connect(&branch(shared[99], 5, 2)).unwrap();
    theirs.connect(&branch(shared[99], 30, 3)).unwrap();
    let locator = ours.locator();
    assert!(locator.len() < 25);
    assert_eq!(locator.last(), Some(&Header::regtest_genesis().hash()));
    let connected = ours.connect(&theirs.after(&locator, 2000)).unwrap();
    assert_eq!(connected.tip, theirs.tip());
    assert_eq!(theirs.after(&[], 3), shared[..3]);
    assert_eq!(theirs.run(1, 2), shared[..2]);
    assert!(theirs.run(1000, 2).is_empty());
}

#[test]
fn branches_that_never_win_do_not_pile_up() {
    let mut chain = regtest();
    let genesis = Header::regtest_genesis();
    let long = branch(genesis, 40, 1);
    chain.connect(&long).unwrap();
    let beside = branch(genesis, 39, 2);
    chain.connect(&beside).unwrap();
    let mut made = 0;
    'outer: for parent in &long[..30] {
        let template = Header::new(4, parent.hash(), [7; 32], parent.time() + 600, 0x207f_ffff, 0);
        let mut batch = Vec::new();
        for nonce in 0..6_000 {
            let header = template.with_nonce(nonce);
            if header.meets_target(Network::Regtest) {
                batch.push(header);
                made += 1;
            }
        }
        chain.connect(&batch).unwrap();
        if made > MAX_SIDE_HEADERS {
            break 'outer;
        }
    }
    assert!(made > MAX_SIDE_HEADERS, "{made}");
    // The strong branch survived, and what is attached to it can still win.
    let over = chain.connect(&branch(beside[38], 2, 2)).unwrap();
    assert_eq!(over.tip.height, 41);
}

proptest! {
    #[test]
    fn fields_and_bytes_agree(version: u32, previous: [u8; 32], root: [u8; 32], time: u32, bits: u32, nonce: u32) {
        let header = Header::new(version, BlockHash(previous), root, time, bits, 0).with_nonce(nonce);
        let read = Header::parse(&header.0).unwrap();
        prop_assert_eq!((read.version(), read.previous().0, read.merkle_root()), (version, previous, root));
        prop_assert_eq!((read.time(), read.bits(), read.nonce()), (time, bits, nonce));
        let json = serde_json::to_string(&header).unwrap();
        prop_assert_eq!(serde_json::from_str::<Header>(&json).unwrap(), header);
        let _ = (header.work(), header.meets_target(Network::Main));
    }

    #[test]
    fn targets_and_work_are_the_other_implementations(exponent in 0u32..40, mantissa in 0u32..0x0100_0000, cut in 0u32..24) {
        use bsv_rs::block::{ChainWork, CompactTarget};
        let bits = exponent << 24 | mantissa >> cut;
        let theirs = CompactTarget::from_bits(bits);
        let ours = Target::from_bits(bits);
        prop_assert_eq!(ours.is_some(), theirs.is_valid());
        if let Some(ours) = ours {
            prop_assert_eq!(ours.to_bits(), theirs.target.to_compact());
            prop_assert_eq!(ours.work().to_be_bytes(), ChainWork::from_bits(bits).to_be_bytes());
        }
    }

    #[test]
    fn short_targets_never_panic_and_round_down(bits: u32) {
        if let Some(target) = Target::from_bits(bits) {
            let again = Target::from_bits(target.to_bits()).unwrap();
            prop_assert_eq!(again, target);
            prop_assert!(target.work() > Work::ZERO);
        }
    }
}
