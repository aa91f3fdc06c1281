//! Gathering small coins, sweeping to a cold address, and the wallet beside the chain.

use super::*;
use sensora_chain::wallet::{
    CONSOLIDATE_ABOVE, Difference, MIN_SWEEP, OnChain, Place, TIDY_DEPTH, Task, TidySpec,
};

const COLD: [u8; 20] = [0xc0; 20];

fn at(tip_height: u32) -> TidySpec {
    TidySpec { tip_height, fee: FeeRate::DEFAULT, max_fee: sat(10_000), now_ms: NOW }
}

fn sweep(wallet: &mut Wallet, keep: u64, spec: &TidySpec) -> Result<Option<Built>, WalletError> {
    wallet.sweep(&root(), Script::p2pkh(&COLD), sat(keep), "sweep", spec)
}

/// Height at which every coin of `blocks` is deep enough.
fn deep(blocks: &Blocks) -> TidySpec {
    at(blocks.tip() + TIDY_DEPTH - 1)
}

fn settle(wallet: &mut Wallet, blocks: &mut Blocks, txid: &Txid) {
    let path = blocks.mine(*txid);
    wallet.mark_mined(txid, path, blocks).unwrap();
}

#[test]
fn many_small_coins_become_one_and_nothing_is_lost() {
    let (mut wallet, mut blocks) = funded(&vec![40; 2 * CONSOLIDATE_ABOVE]);
    let before = wallet.audit().unwrap().total;
    assert_eq!(wallet.consolidate(&root(), &at(TIDY_DEPTH)).unwrap(), None, "too few are deep enough");
    let built = wallet.consolidate(&root(), &deep(&blocks)).unwrap().unwrap();
    check_built(&wallet, &built, FeeRate::DEFAULT);
    assert!(built.tx.inputs.len() > 20 && built.tx.outputs.len() == 1, "{}", built.tx.inputs.len());
    assert!(built.fee <= built.tx.outputs[0].value, "it brings more than it costs");
    assert_eq!(wallet.under_way(Task::Consolidation), Some(built.txid));
    assert_eq!(wallet.consolidate(&root(), &deep(&blocks)).unwrap(), None, "one at a time");
    let restored = Wallet::from_bytes(&wallet.to_bytes().unwrap()).unwrap();
    assert_eq!(restored.under_way(Task::Consolidation), Some(built.txid), "after a crash too");
    wallet.mark_broadcast(&built.txid).unwrap();
    assert_eq!(wallet.audit().unwrap().total.as_u64(), before.as_u64() - built.fee.as_u64());
    let change = wallet.coins().into_iter().find(|coin| coin.outpoint.txid == built.txid).unwrap();
    assert_eq!((change.purpose, change.key), (Purpose::Change, KeySource::myself("2-sensora wallet-0")));
    settle(&mut wallet, &mut blocks, &built.txid);
    assert_eq!(wallet.under_way(Task::Consolidation), None);
    let mut rounds = 0;
    while let Some(built) = wallet.consolidate(&root(), &deep(&blocks)).unwrap() {
        settle(&mut wallet, &mut blocks, &built.txid);
        rounds += 1;
    }
    assert!(rounds < 20 && wallet.coins().len() <= CONSOLIDATE_ABOVE, "it comes to an end");
    wallet.audit().unwrap();
}

/// A stranger pays with a transaction that is nearly as long as a BEEF may be.
fn receive_heavy(wallet: &mut Wallet, blocks: &mut Blocks, amount: u64) {
    let mut tx = funding(wallet, 0xfa77, &[amount]);
    tx.outputs.push(data_output(&[&vec![0; 60_000]]));
    let path = blocks.mine(tx.txid());
    receive(wallet, &tx, Some(path)).unwrap();
}

#[test]
fn a_coin_with_a_long_proof_stands_in_nobodys_way() {
    let (mut wallet, mut blocks) = funded(&[5_000, 6_000]);
    receive_heavy(&mut wallet, &mut blocks, 1_500);
    // It would be the smallest that suffices, and then the largest.
    let built = pay(&mut wallet, 1_000).unwrap();
    check_built(&wallet, &built, FeeRate::DEFAULT);
    assert!(built.beef.len() < 1_000, "{} bytes", built.beef.len());
    let (mut wallet, mut blocks) = funded(&[5_000, 6_000]);
    receive_heavy(&mut wallet, &mut blocks, 100_000);
    let built = pay(&mut wallet, 10_000).unwrap();
    assert!(built.beef.len() < 1_000, "two light ones: {} bytes", built.beef.len());
    // Where nothing else suffices, it is spent all the same.
    let (mut wallet, mut blocks) = funded(&[500]);
    receive_heavy(&mut wallet, &mut blocks, 100_000);
    let built = pay(&mut wallet, 1_000).unwrap();
    assert!(built.beef.len() > 60_000);
    wallet.audit().unwrap();

    let (mut wallet, mut blocks) = funded(&vec![40; 2 * CONSOLIDATE_ABOVE]);
    receive_heavy(&mut wallet, &mut blocks, 20);
    let built = wallet.consolidate(&root(), &deep(&blocks)).unwrap().expect("the small ones are gathered");
    assert!(built.tx.inputs.len() > 20, "{}", built.tx.inputs.len());
}

#[test]
fn coins_are_left_alone_that_are_few_worthless_claimed_or_too_dear_to_gather() {
    let (mut wallet, blocks) = funded(&[40; CONSOLIDATE_ABOVE]);
    assert_eq!(wallet.consolidate(&root(), &deep(&blocks)).unwrap(), None, "few");
    let (mut wallet, blocks) = funded(&[15; CONSOLIDATE_ABOVE + 50]);
    assert_eq!(
        wallet.consolidate(&root(), &deep(&blocks)).unwrap(),
        None,
        "worth no more than an input costs"
    );
    let (mut wallet, blocks) = funded(&[20; CONSOLIDATE_ABOVE + 50]);
    assert_eq!(wallet.consolidate(&root(), &deep(&blocks)).unwrap(), None, "costs more than it brings");
    let (mut wallet, blocks) = funded(&[40; CONSOLIDATE_ABOVE + 1]);
    let tight = TidySpec { max_fee: sat(10), ..deep(&blocks) };
    let before = wallet.clone();
    assert!(matches!(wallet.consolidate(&root(), &tight), Err(WalletError::FeeAboveLimit { .. })));
    assert_eq!(wallet, before);
    let claimed = pay(&mut wallet, 10).unwrap();
    assert_eq!(wallet.consolidate(&root(), &deep(&blocks)).unwrap(), None, "one is reserved");
    wallet.mark_rejected(&claimed.txid, "no").unwrap();
    assert!(wallet.consolidate(&root(), &deep(&blocks)).unwrap().is_some());
}

#[test]
fn what_exceeds_the_bound_goes_to_the_cold_address_and_the_bound_stays() {
    let (mut wallet, mut blocks) = funded(&[30_000, 100_000, 500]);
    let keep = 60_000;
    assert_eq!(sweep(&mut wallet, keep, &at(blocks.tip())).unwrap(), None, "not deep enough");
    let built = sweep(&mut wallet, keep, &deep(&blocks)).unwrap().unwrap();
    check_built(&wallet, &built, FeeRate::DEFAULT);
    assert_eq!(built.tx.outputs[0].locking, Script::p2pkh(&COLD));
    assert_eq!(built.tx.outputs[0].value.as_u64(), 70_500 - built.fee.as_u64());
    assert_eq!(sweep(&mut wallet, keep, &deep(&blocks)).unwrap(), None, "one at a time");
    wallet.mark_broadcast(&built.txid).unwrap();
    assert_eq!(wallet.audit().unwrap().total, sat(keep), "to the satoshi");
    assert_eq!(sweep(&mut wallet, keep, &deep(&blocks)).unwrap(), None, "still under way");
    settle(&mut wallet, &mut blocks, &built.txid);
    assert_eq!(sweep(&mut wallet, keep, &deep(&blocks)).unwrap(), None, "nothing is left to sweep");
    assert_eq!(sweep(&mut wallet, keep - MIN_SWEEP + 1, &deep(&blocks)).unwrap(), None, "not worth it");
    // What is deep enough is less than the excess: it goes, the rest follows later.
    let more = funding(&mut wallet, 77, &[1_000_000]);
    receive(&mut wallet, &more, None).unwrap();
    let part = sweep(&mut wallet, 20_000, &deep(&blocks)).unwrap().unwrap();
    wallet.mark_broadcast(&part.txid).unwrap();
    assert!(part.tx.inputs.iter().all(|input| input.previous.txid != more.txid()));
    assert!(wallet.audit().unwrap().total >= sat(20_000));
}

#[test]
fn what_is_in_no_block_does_not_count_as_kept() {
    let (mut wallet, blocks) = funded(&[40_000, 50_000]);
    // Paid to us on the network's word alone: a block may hold another transaction in its place.
    let promised = funding(&mut wallet, 77, &[1_000_000]);
    receive(&mut wallet, &promised, None).unwrap();
    sweep(&mut wallet, 60_000, &deep(&blocks)).unwrap().unwrap();
    let kept: u64 = wallet
        .coins()
        .iter()
        .filter(|coin| coin.purpose == Purpose::Change)
        .map(|coin| coin.value.as_u64())
        .sum();
    let untouched: u64 = wallet
        .coins()
        .iter()
        .filter(|coin| matches!(coin.state, CoinState::Confirmed(_)))
        .map(|coin| coin.value.as_u64())
        .sum();
    assert_eq!(kept + untouched, 60_000);
}

#[test]
fn a_sweep_never_takes_what_a_payment_has_reserved() {
    let (mut wallet, blocks) = funded(&[50_000, 80_000]);
    let payment = pay(&mut wallet, 60_000).unwrap();
    let built = sweep(&mut wallet, 0, &deep(&blocks)).unwrap().unwrap();
    let spent = |tx: &Transaction| tx.inputs.iter().map(|input| input.previous).collect::<Vec<_>>();
    assert!(spent(&built.tx).iter().all(|coin| !spent(&payment.tx).contains(coin)));
    wallet.mark_rejected(&built.txid, "no").unwrap();
    assert_eq!(wallet.under_way(Task::Sweep), None);
    assert!(sweep(&mut wallet, 0, &deep(&blocks)).unwrap().is_some(), "what was refused is made anew");
    wallet.audit().unwrap();
}

#[test]
fn every_disagreement_with_the_chain_is_named() {
    let (mut wallet, mut blocks) = funded(&[50_000, 60_000]);
    let built = pay(&mut wallet, 55_000).unwrap();
    let coins: Vec<OutPoint> = wallet.coins_on_chain().iter().map(|coin| coin.outpoint).collect();
    assert_eq!(coins.len(), 2, "what is not on the network is not asked for");
    let unspent: Vec<_> = coins.iter().map(|coin| (*coin, OnChain::Unspent)).collect();
    let places: Vec<_> = wallet
        .settled()
        .iter()
        .map(|txid| (*txid, Place::Mined(blocks.path(txid).unwrap().block_height())))
        .collect();
    assert_eq!(wallet.compare(&unspent, &places, &blocks), vec![]);
    let claimed = built.tx.inputs[0].previous;
    let free = *coins.iter().find(|coin| **coin != claimed).unwrap();
    let word = |coin, by, mined| wallet.compare(&[(coin, OnChain::Spent { by, mined })], &[], &blocks);
    assert_eq!(word(claimed, built.txid, false), vec![], "our payment, brought there by its payee");
    let stranger = Txid([5; 32]);
    for mined in [true, false] {
        let found = word(free, stranger, mined);
        let expected = Difference::SpentElsewhere { outpoint: free, value: sat(50_000), by: stranger, mined };
        assert_eq!(found, vec![expected]);
        assert!(found[0].to_string().contains(&stranger.to_string()), "{}", found[0]);
    }
    let unknown = wallet.compare(&[(free, OnChain::Unknown)], &[], &blocks);
    assert_eq!(unknown, vec![Difference::UnknownCoin { outpoint: free, value: sat(50_000) }]);
    let moved = wallet.compare(&[], &[(free.txid, Place::Mined(9)), (claimed.txid, Place::Unknown)], &blocks);
    assert_eq!(moved.len(), 2);
    assert!(
        matches!(&moved[0], Difference::Misplaced { txid, place: Place::Mined(9), .. } if *txid == free.txid)
    );
    let before = wallet.clone();
    blocks.0[1] = Txid([6; 32]);
    assert!(matches!(wallet.compare(&[], &[], &blocks)[..], [Difference::StaleProof { height: 1, .. }]));
    assert_eq!(wallet, before);
}
