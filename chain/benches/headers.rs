//! What following a header chain costs: the rules, the best chain, and readers that hold it as it was.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use divan::Bencher;
use divan::counter::ItemsCount;
use sensora_chain::Network;
use sensora_chain::header::{CHECKPOINT_HEADERS, Header, HeaderChain};

/// 887,501 to 888,000 of the main network.
const MAIN: &[u8] = include_bytes!("../tests/data/main-887501.bin");

/// Headers in one answer of a peer.
const RUN: usize = 2_000;

fn main() {
    divan::main();
}

fn regtest() -> HeaderChain {
    HeaderChain::genesis(Network::Regtest).expect("regtest")
}

fn mined(count: usize) -> Vec<Header> {
    let mut headers = Vec::with_capacity(count);
    let mut last = Header::regtest_genesis();
    let mut hash = last.hash();
    for _ in 0..count {
        let next = Header::new(4, hash, [1; 32], last.time() + 600, last.bits(), 0);
        last = (0..).map(|n| next.with_nonce(n)).find(|h| h.meets_target(Network::Regtest)).expect("regtest");
        hash = last.hash();
        headers.push(last);
    }
    headers
}

/// A run as a source sends it: hashes, links, proof of work, difficulty, time, most work.
#[divan::bench]
fn connect_1000_regtest(bencher: Bencher<'_, '_>) {
    let headers = mined(1_000);
    bencher
        .counter(ItemsCount::new(headers.len()))
        .with_inputs(regtest)
        .bench_local_values(|mut chain| chain.connect_run(&headers).map(|connected| connected.tip));
}

/// Real headers, each with a difficulty of its own that is computed from the 144 before it.
#[divan::bench]
fn connect_353_main(bencher: Bencher<'_, '_>) {
    let headers = Header::parse_run(MAIN).expect("whole headers");
    let (base, headers) = headers.split_at(CHECKPOINT_HEADERS);
    bencher
        .counter(ItemsCount::new(headers.len()))
        .with_inputs(|| HeaderChain::from_checkpoint(Network::Main, 887_501, base).expect("real"))
        .bench_local_values(|mut chain| chain.connect_run(headers).map(|connected| connected.tip));
}

/// A first start: run after run, and after each a reader takes the chain as it is then and holds it.
#[divan::bench(args = [0, 1], max_time = 10)]
fn connect_100_000_regtest_in_runs(bencher: Bencher<'_, '_>, readers: usize) {
    let headers = mined(100_000);
    bencher.counter(ItemsCount::new(headers.len())).with_inputs(regtest).bench_local_values(|mut chain| {
        let mut held = Vec::new();
        for run in headers.chunks(RUN) {
            chain.connect_run(run).expect("mined");
            held.clear();
            held.extend((0..readers).map(|_| chain.snapshot()));
        }
        (chain, held)
    });
}

/// One block on a long chain while a reader holds it: what a day on a public network consists of.
#[divan::bench(args = [10_000, 100_000])]
fn connect_one_while_held(bencher: Bencher<'_, '_>, length: usize) {
    let headers = mined(length + 1);
    let mut chain = regtest();
    chain.connect_run(&headers[..length]).expect("mined");
    bencher.with_inputs(|| (chain.snapshot(), chain.snapshot())).bench_local_values(|(mut chain, held)| {
        (chain.connect_run(&headers[length..]).map(|c| c.tip), chain, held)
    });
}

/// A branch that is one longer, as deep as a day of blocks.
#[divan::bench]
fn reorganise_144_deep(bencher: Bencher<'_, '_>) {
    let headers = mined(10_000);
    let fork = headers.len() - 144;
    let mut rival = vec![headers[fork - 1]];
    for _ in 0..145 {
        let last = rival[rival.len() - 1];
        let next = Header::new(4, last.hash(), [2; 32], last.time() + 600, last.bits(), 0);
        rival.push(
            (0..).map(|n| next.with_nonce(n)).find(|h| h.meets_target(Network::Regtest)).expect("regtest"),
        );
    }
    let mut chain = regtest();
    chain.connect_run(&headers).expect("mined");
    bencher
        .with_inputs(|| chain.snapshot())
        .bench_local_values(|mut chain| (chain.connect_run(&rival[1..]).map(|c| c.reorged), chain));
}
