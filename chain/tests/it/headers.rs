//! Headers of the real networks: what the program starts from, and what follows by the rules.

use sensora_chain::Network;
use sensora_chain::header::{CHECKPOINT_HEADERS, Header, HeaderChain, HeaderError, HeaderView};

/// 887,501 to 888,000 of the main network.
const MAIN: &[u8] = include_bytes!("../data/main-887501.bin");
/// 1,602,530 to 1,602,710 of the test network.
const TEST: &[u8] = include_bytes!("../data/test-1602530.bin");

fn real(network: Network) -> (u32, Vec<Header>) {
    match network {
        Network::Main => (887_501, Header::parse_run(MAIN).unwrap()),
        Network::Test => (1_602_530, Header::parse_run(TEST).unwrap()),
        Network::Regtest => (0, vec![Header::regtest_genesis()]),
    }
}

#[test]
fn the_checkpoints_are_the_blocks_that_everybody_knows() {
    for (network, height, hash) in [
        (Network::Main, 887_900, "0000000000000000078738b360a35f0247325b3e8d50e80e7e9fa7729620e70a"),
        (Network::Test, 1_602_676, "000000000000251766e0b2e4696b6d8a9b0723943dacce51c5324abc87c3fab2"),
        (Network::Regtest, 0, "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"),
    ] {
        // Making it checks the links and the proof of work of each header.
        let chain = HeaderChain::checkpoint(network).unwrap();
        assert_eq!((chain.tip().height, chain.tip().hash.to_string()), (height, hash.to_owned()));
        let (first, headers) = real(network);
        for height in chain.base_height()..=chain.tip_height() {
            let header = chain.at(height).unwrap();
            assert_eq!(header, headers[(height - first) as usize]);
            assert!(header.meets_target(network));
        }
    }
}

#[test]
fn real_headers_follow_the_checkpoints() {
    for (network, height, hash) in [
        (Network::Main, 888_000, "000000000000000004026d10802cf1132fc67cc7a0c340eb4686869edaf48f38"),
        (Network::Test, 1_602_710, "0000000000002535d989228969dc8c131c7f771f4845df3275ea43da144b899a"),
    ] {
        let mut chain = HeaderChain::checkpoint(network).unwrap();
        let (first, headers) = real(network);
        let after = (chain.tip_height() + 1 - first) as usize;
        let connected = chain.connect_run(&headers[after..]).unwrap();
        assert_eq!((connected.tip.height, connected.tip.hash.to_string()), (height, hash.to_owned()));
        assert_eq!(connected.added, headers.len() - after);
        // What is exported begins with the checkpoint, which is known.
        let exported = Header::parse_run(&chain.to_bytes()).unwrap();
        let mut again = HeaderChain::checkpoint(network).unwrap();
        assert_eq!(again.connect_run(&exported).unwrap().tip, connected.tip);
    }
}

#[test]
fn every_real_header_has_the_difficulty_of_the_rules_and_no_other() {
    for (network, rules) in [(Network::Main, 353), (Network::Test, 34)] {
        let (first, headers) = real(network);
        let (base, rest) = headers.split_at(CHECKPOINT_HEADERS);
        let mut chain = HeaderChain::from_checkpoint(network, first, base).unwrap();
        for header in rest {
            // One bit off, easier or harder: the difficulty is looked at before the work.
            for bits in [header.bits() - 1, header.bits() + 1] {
                let mut wrong = *header;
                wrong.0[72..76].copy_from_slice(&bits.to_le_bytes());
                let expected = header.bits();
                let refused = HeaderError::Bits { hash: wrong.hash(), expected, found: bits };
                assert_eq!(chain.connect(&[wrong]), Err(refused));
            }
            assert_eq!(
                chain.connect(&[header.with_nonce(header.nonce() ^ 1)]).map(|c| c.added),
                Err(HeaderError::ProofOfWork(header.with_nonce(header.nonce() ^ 1).hash()))
            );
            chain.connect(&[*header]).unwrap();
        }
        assert_eq!(rest.len(), rules);
        assert_eq!(chain.tip_height() as usize, first as usize + headers.len() - 1);
    }
}

#[test]
fn a_checkpoint_must_hold_together() {
    let (first, headers) = real(Network::Main);
    let base = &headers[..CHECKPOINT_HEADERS];
    let from =
        |headers: &[Header]| HeaderChain::from_checkpoint(Network::Main, first, headers).map(|c| c.tip());
    let short = |found| Err(HeaderError::CheckpointTooShort { found, need: CHECKPOINT_HEADERS });
    assert_eq!(from(&base[1..]), short(146));
    assert_eq!(from(&[]), short(0));
    let mut gap = headers[..=CHECKPOINT_HEADERS].to_vec();
    gap.remove(100);
    assert!(matches!(from(&gap), Err(HeaderError::UnknownParent { .. })));
    for place in [0, 146] {
        let mut idle = base.to_vec();
        idle[place] = idle[place].with_nonce(7);
        assert_eq!(from(&idle), Err(HeaderError::ProofOfWork(idle[place].hash())));
    }
    // What lies beside it never replaces it.
    let mut chain =
        HeaderChain::from_checkpoint(Network::Main, first + 1, &headers[1..=CHECKPOINT_HEADERS]).unwrap();
    let hash = headers[0].hash();
    assert!(
        matches!(chain.connect(&headers[..1]), Err(HeaderError::UnknownParent { hash: at, .. }) if at == hash)
    );
    // Of another network they are worth nothing: nobody works so little there, or at so much.
    assert!(HeaderChain::checkpoint(Network::Test).unwrap().connect(&headers).is_err());
    assert!(HeaderChain::genesis(Network::Regtest).unwrap().connect(&headers).is_err());
}
