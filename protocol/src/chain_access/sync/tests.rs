use super::*;
use sensora_chain::header::{HeaderChain, HeaderView};

fn mine(previous: &Header, salt: u8) -> Header {
    let root = [salt; 32];
    let header = Header::new(1, previous.hash(), root, previous.time() + 1, 0x207f_ffff, 0);
    (0..).map(|nonce| header.with_nonce(nonce)).find(|header| header.meets_target(Network::Regtest)).unwrap()
}

fn branch(from: &Header, count: usize, salt: u8) -> Vec<Header> {
    let mut headers: Vec<Header> = Vec::new();
    for _ in 0..count {
        headers.push(mine(headers.last().unwrap_or(from), salt));
    }
    headers
}

fn regtest() -> HeaderChain {
    HeaderChain::genesis(Network::Regtest).unwrap()
}

fn bytes(headers: &[Header]) -> Vec<u8> {
    headers.iter().flat_map(|header| header.0).collect()
}

/// What an honest peer with this chain answers.
fn answer(theirs: &HeaderChain, request: &Request) -> Vec<u8> {
    assert_eq!(request.check(), Ok(()));
    match request {
        Request::Headers { locator, count } => bytes(&theirs.after(locator, *count as usize)),
        other => panic!("{other:?}"),
    }
}

/// Walks with an honest peer to the end; returns the lowest height that changed.
fn walk(ours: &mut HeaderChain, theirs: &HeaderChain) -> Option<u32> {
    let (mut walk, mut lowest) = (Walk::new(), None::<u32>);
    for _ in 0..100 {
        let request = walk.ask(ours);
        let taken = walk.take(ours, &answer(theirs, &request), 0).unwrap();
        lowest = match (lowest, taken.changed_from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if !taken.more {
            return lowest;
        }
    }
    panic!("the walk does not end");
}

#[test]
fn a_long_chain_comes_in_runs() {
    let (mut ours, mut theirs) = (regtest(), regtest());
    theirs.connect(&branch(&Header::regtest_genesis(), 4_500, 1)).unwrap();
    assert_eq!(walk(&mut ours, &theirs), Some(1));
    assert_eq!(ours.tip(), theirs.tip());
    let tip = Tip { height: 4_500, hash: theirs.tip().hash };
    assert!(is_known(&ours, &tip));
    assert_eq!(walk(&mut ours, &theirs), None);
    assert_eq!(flat_from(&ours, 4_499), [theirs.at(4_499).unwrap().0, theirs.at(4_500).unwrap().0]);
    // Somebody who is behind has nothing for us, and is not at fault.
    assert_eq!(walk(&mut ours, &regtest()), None);
}

#[test]
fn the_branch_with_more_work_wins_also_when_it_comes_in_pieces() {
    let genesis = Header::regtest_genesis();
    let shared = branch(&genesis, 10, 1);
    let (mut ours, mut theirs) = (regtest(), regtest());
    ours.connect(&shared).unwrap();
    theirs.connect(&shared).unwrap();
    ours.connect(&branch(&shared[6], 2_500, 2)).unwrap();
    theirs.connect(&branch(&shared[6], 2_501, 3)).unwrap();
    let before = ours.tip();
    assert_eq!(walk(&mut ours, &theirs), Some(8), "everything above height 7 is another block");
    assert_eq!(ours.tip(), theirs.tip());
    // The losing branch is not taken back.
    let mut loser = regtest();
    loser.connect(&shared).unwrap();
    loser.connect(&branch(&shared[6], 2_500, 2)).unwrap();
    assert_eq!(loser.tip(), before);
    assert_eq!(walk(&mut ours, &loser), None);
    assert_eq!(ours.tip(), theirs.tip());
}

#[test]
fn headers_without_work_are_refused_whole() {
    let genesis = Header::regtest_genesis();
    let good = branch(&genesis, 3, 1);
    let idle = Header::new(1, good[2].hash(), [9; 32], good[2].time() + 1, 0x207f_ffff, 0);
    let idle = (0..).map(|n| idle.with_nonce(n)).find(|h| !h.meets_target(Network::Regtest)).unwrap();
    let (mut ours, mut walk) = (regtest(), Walk::new());
    walk.ask(&ours);
    let run = [good, vec![idle]].concat();
    let fault = walk.take(&mut ours, &bytes(&run), 0).unwrap_err();
    assert_eq!(fault, Fault::Invalid(HeaderError::ProofOfWork(idle.hash())));
    assert!(fault.is_hostile());
    assert_eq!(ours.tip_height(), 0);
}

#[test]
fn a_run_must_follow_the_locator_and_itself() {
    let genesis = Header::regtest_genesis();
    let run = branch(&genesis, 5, 1);
    let mut ours = regtest();
    let mut take = |answer: &[u8]| {
        let mut walk = Walk::new();
        walk.ask(&ours);
        walk.take(&mut ours, answer, 0).unwrap_err()
    };
    assert_eq!(take(&bytes(&run[1..])), Fault::NotAChain(run[1].hash()));
    assert_eq!(take(&bytes(&[run[0], run[2]])), Fault::NotAChain(run[2].hash()));
    assert_eq!(take(&bytes(&run)[1..]), Fault::Length { len: 399, asked: 2000 });
    let endless = vec![0; (MAX_HEADERS + 1) * Header::SIZE];
    assert!(matches!(take(&endless), Fault::Length { .. }));
    assert_eq!(ours.tip_height(), 0);
}

#[test]
fn the_same_answer_again_and_again_ends_the_walk() {
    let genesis = Header::regtest_genesis();
    let run = branch(&genesis, MAX_HEADERS, 1);
    let (mut ours, mut walk) = (regtest(), Walk::new());
    for round in 0.. {
        walk.ask(&ours);
        match walk.take(&mut ours, &bytes(&run), 0) {
            Ok(taken) => assert_eq!(taken.connected.added, if round == 0 { MAX_HEADERS } else { 0 }),
            Err(fault) => {
                assert_eq!(fault, Fault::NoProgress(MAX_IDLE_RUNS));
                break;
            }
        }
        assert!(round <= MAX_IDLE_RUNS);
    }
}

#[test]
fn a_locator_keeps_to_its_limit_and_to_the_first_block() {
    let mut ours = regtest();
    ours.connect(&branch(&Header::regtest_genesis(), 3_000, 1)).unwrap();
    let mut walk = Walk { last: Some(BlockHash([1; 32])), ..Walk::new() };
    let Request::Headers { locator, .. } = walk.ask(&ours) else { panic!("it asks for headers") };
    assert!(locator.len() <= MAX_LOCATOR);
    assert_eq!(locator.first(), Some(&BlockHash([1; 32])));
    assert_eq!(locator.last(), Some(&Header::regtest_genesis().hash()));
}

#[test]
fn headers_from_the_future_are_nobodys_crime() {
    let header = Header::new(1, BlockHash::default(), [0; 32], 10_000, 0x207f_ffff, 0);
    assert_eq!(check_time(&[header], 10_000 - MAX_AHEAD_SECS), Ok(()));
    let fault = check_time(&[header], 9_999 - MAX_AHEAD_SECS).unwrap_err();
    assert!(matches!(fault, Fault::TooNew { ahead_secs: 7_201, .. }) && !fault.is_hostile());
}

#[test]
fn a_block_from_the_future_leaves_the_chain_as_it_was() {
    let real = Header::parse_run(include_bytes!("../../../../chain/tests/data/main-887501.bin")).unwrap();
    let (after, last) = (&real[400..], i64::from(real[499].time()));
    let take = |now_secs: i64| {
        let mut chain = HeaderChain::checkpoint(Network::Main).unwrap();
        let mut walk = Walk::new();
        walk.ask(&chain);
        let taken = walk.take(&mut chain, &bytes(after), now_secs);
        (taken.map(|taken| taken.connected.added), chain.tip_height())
    };
    assert_eq!(take(last - MAX_AHEAD_SECS), (Ok(100), 888_000));
    let (fault, height) = take(last - MAX_AHEAD_SECS - 1);
    assert_eq!(height, 887_900);
    let fault = fault.unwrap_err();
    assert!(matches!(fault, Fault::TooNew { ahead_secs: 7_201, .. }) && !fault.is_hostile());
}

#[test]
fn a_rival_of_the_checkpoint_is_no_chain_to_follow() {
    let trunk = branch(&Header::regtest_genesis(), 10, 1);
    let base = || HeaderChain::from_checkpoint(Network::Regtest, 6, &trunk[5..]).unwrap();
    // With more work, from the block before the first that is kept, and from far below.
    for fork in [4, 1] {
        let (mut chain, mut walk) = (base(), Walk::new());
        walk.ask(&chain);
        let rival = branch(&trunk[fork], 50, 2);
        let fault = walk.take(&mut chain, &bytes(&rival), 0).unwrap_err();
        assert_eq!(fault, Fault::NotAChain(rival[0].hash()));
        assert_eq!(chain.tip(), base().tip());
    }
}
