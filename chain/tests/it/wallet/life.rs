//! The life of a transaction: seen, stuck, outdone, and turned round again by a reorganisation.

use super::*;
use sensora_chain::wallet::{MAX_BEEF_BYTES, STUCK_BLOCKS, Stuck};

/// A stranger's transaction that spends what `tx` spends first.
fn rival(tx: &Transaction, tag: u8) -> Transaction {
    let outputs = vec![TxOut { value: sat(1_000), locking: Script::p2pkh(&[tag; 20]) }];
    Transaction::new(vec![TxIn::new(tx.inputs[0].previous)], outputs)
}

/// Takes in a transaction that was found in a block.
fn found(wallet: &mut Wallet, tx: &Transaction, path: MerklePath) {
    let outputs = wallet.recognise(tx);
    let received = Received {
        tx: tx.clone(),
        outputs,
        ancestors: None,
        path: Some(path),
        broadcast: true,
        label: "found on the chain".into(),
        now_ms: NOW,
    };
    wallet.receive(&root(), received).unwrap();
}

fn status(wallet: &Wallet, txid: &Txid) -> Status {
    wallet.status(txid).cloned().unwrap()
}

/// A wallet with a payment on the network, one that builds on it, and a copy of the wallet's transaction that spends the same coin.
struct Quarrel {
    wallet: Wallet,
    blocks: Blocks,
    payment: Built,
    child: Built,
    other: Transaction,
}

fn quarrel() -> Quarrel {
    let (mut wallet, blocks) = funded(&[50_000]);
    let payment = pay(&mut wallet, 1_000).unwrap();
    wallet.mark_broadcast(&payment.txid).unwrap();
    let child = pay(&mut wallet, 40_000).unwrap();
    wallet.mark_broadcast(&child.txid).unwrap();
    wallet.mark_seen(&child.txid, 1).unwrap();
    wallet.take_changes().unwrap();
    let other = rival(&payment.tx, 7);
    Quarrel { wallet, blocks, payment, child, other }
}

#[test]
fn what_another_transaction_outdoes_is_named_and_so_is_what_builds_on_it() {
    let Quarrel { mut wallet, mut blocks, payment, child, other } = quarrel();
    let path = blocks.mine(other.txid());
    found(&mut wallet, &other, path);
    let by = other.txid();
    for txid in [payment.txid, child.txid] {
        assert_eq!(status(&wallet, &txid), Status::Conflicted { by });
        assert!(wallet.unproven().contains(&txid), "it may win after all");
    }
    let mut named = vec![(payment.txid, by), (child.txid, by)];
    named.sort();
    assert_eq!(wallet.conflicted(), named);
    assert_eq!(wallet.take_changes().unwrap().outdone, named);
    assert!(wallet.changes().unwrap().outdone.is_empty(), "said once");
    assert_eq!(wallet.audit().unwrap().total, sat(0));
    assert_eq!(wallet.history().len(), 4, "the lines stay");
    assert!(matches!(wallet.mark_broadcast(&payment.txid), Err(WalletError::Conflict { .. })));
    wallet.mark_seen(&payment.txid, 3).unwrap();
    assert_eq!(status(&wallet, &payment.txid), Status::Conflicted { by }, "a report is no proof");
}

#[test]
fn a_reorganisation_turns_a_conflict_round_and_back_again() {
    let Quarrel { mut wallet, mut blocks, payment, child, other } = quarrel();
    let before = wallet.audit().unwrap();
    for _ in 0..3 {
        let path = blocks.mine(other.txid());
        match wallet.status(&other.txid()) {
            Some(_) => wallet.mark_mined(&other.txid(), path, &blocks).unwrap(),
            None => found(&mut wallet, &other, path),
        }
        assert_eq!(wallet.audit().unwrap().total, sat(0));
        assert_eq!(status(&wallet, &child.txid), Status::Conflicted { by: other.txid() });

        blocks.0.truncate(1);
        let height = wallet.lowest_stale_proof(&blocks).unwrap();
        assert_eq!(wallet.unmined(height), vec![other.txid()]);
        assert_eq!(status(&wallet, &payment.txid), Status::Conflicted { by: other.txid() }, "no proof yet");
        wallet.audit().unwrap();

        let path = blocks.mine(payment.txid);
        wallet.mark_mined(&payment.txid, path, &blocks).unwrap();
        assert_eq!(status(&wallet, &payment.txid), Status::Mined { height: 1 });
        assert_eq!(status(&wallet, &other.txid()), Status::Conflicted { by: payment.txid });
        assert_eq!(status(&wallet, &child.txid), Status::Broadcast, "what builds on it follows");
        assert_eq!(wallet.audit().unwrap().total, before.total);

        blocks.0.truncate(1);
        wallet.unmined(1);
        assert_eq!(wallet.audit().unwrap().total, before.total, "unmined is not undone");
    }
}

#[test]
fn a_payment_to_us_that_was_spent_twice_comes_back_when_its_rival_is_thrown_out() {
    let (mut wallet, mut blocks) = funded(&[1_000]);
    let payment = funding(&mut wallet, 9, &[700]);
    receive(&mut wallet, &payment, None).unwrap();
    let (paid, double) = (payment.txid(), rival(&payment, 8));
    let path = blocks.mine(double.txid());
    found(&mut wallet, &double, path);
    assert_eq!(status(&wallet, &paid), Status::Conflicted { by: double.txid() });
    assert_eq!(wallet.audit().unwrap().total, sat(1_000));
    wallet.prune(blocks.tip()).unwrap();
    assert!(
        wallet.transaction(&paid).is_some() && wallet.transaction(&double.txid()).is_some(),
        "both are kept"
    );
    assert!(wallet.may_come_back().is_empty());

    blocks.0.truncate(1);
    wallet.unmined(1);
    assert_eq!(wallet.may_come_back(), vec![paid], "it is worth offering again");
    let path = blocks.mine(paid);
    wallet.mark_mined(&paid, path, &blocks).unwrap();
    assert_eq!(wallet.audit().unwrap().total, sat(1_700));
    assert!(wallet.conflicted().is_empty(), "the stranger's is not our affair");
}

#[test]
fn a_conflict_is_kept_until_it_cannot_turn_round_any_more() {
    let Quarrel { mut wallet, mut blocks, payment, child, other } = quarrel();
    let path = blocks.mine(other.txid());
    found(&mut wallet, &other, path);
    let height = blocks.tip();
    wallet.prune(height + PRUNE_DEPTH - 1).unwrap();
    assert!(wallet.transaction(&payment.txid).is_some());
    wallet.prune(height + PRUNE_DEPTH).unwrap();
    for txid in [payment.txid, child.txid, other.txid()] {
        assert!(wallet.transaction(&txid).is_none(), "{txid} is kept");
    }
    assert_eq!(status(&wallet, &payment.txid), Status::Conflicted { by: other.txid() }, "its line is kept");
    assert!(wallet.unproven().is_empty());
    wallet.audit().unwrap();
}

#[test]
fn a_report_moves_only_what_was_broadcast() {
    let (mut wallet, mut blocks) = funded(&[50_000]);
    let built = pay(&mut wallet, 1_000).unwrap();
    wallet.mark_seen(&built.txid, 5).unwrap();
    assert_eq!(status(&wallet, &built.txid), Status::Built, "somebody's word frees no coin");
    assert_eq!(wallet.waits_since(&built.txid), None);
    wallet.mark_broadcast(&built.txid).unwrap();
    wallet.mark_waiting(&built.txid, 5).unwrap();
    wallet.mark_seen(&built.txid, 6).unwrap();
    assert_eq!(status(&wallet, &built.txid), Status::Seen);
    assert_eq!(wallet.waits_since(&built.txid), Some(5), "since it was first known");
    let once = wallet.clone();
    wallet.mark_seen(&built.txid, 7).unwrap();
    wallet.mark_broadcast(&built.txid).unwrap();
    assert_eq!(wallet, once);
    let path = blocks.mine(built.txid);
    wallet.mark_mined(&built.txid, path, &blocks).unwrap();
    wallet.mark_seen(&built.txid, 8).unwrap();
    assert_eq!(status(&wallet, &built.txid), Status::Mined { height: 1 });
    wallet.unmined(1);
    assert_eq!((status(&wallet, &built.txid), wallet.waits_since(&built.txid)), (Status::Broadcast, None));
    assert!(matches!(wallet.mark_seen(&Txid([1; 32]), 1), Err(WalletError::UnknownTransaction(_))));
}

#[test]
fn what_no_miner_takes_is_listed_with_what_it_pays() {
    let (mut wallet, _) = funded(&[50_000]);
    let cheap = PaymentSpec { fee: FeeRate::new(1), ..spec(1_000) };
    let parent = wallet.build(&root(), cheap, NOW).unwrap();
    wallet.mark_broadcast(&parent.txid).unwrap();
    let child = pay(&mut wallet, 40_000).unwrap();
    wallet.mark_broadcast(&child.txid).unwrap();
    assert!(wallet.stuck(1_000).is_empty(), "nobody has looked yet");
    wallet.mark_seen(&parent.txid, 100).unwrap();
    wallet.mark_waiting(&child.txid, 102).unwrap();
    assert!(wallet.stuck(99 + STUCK_BLOCKS).is_empty());
    assert!(wallet.stuck(3).is_empty(), "a chain that is shorter now is no reason");
    let restored = Wallet::from_bytes(&wallet.to_bytes().unwrap()).unwrap();
    let stuck = restored.stuck(102 + STUCK_BLOCKS);
    let [first, second] = stuck.as_slice() else { panic!("{stuck:?}") };
    let size = parent.tx.size();
    let rate = FeeRate::new(parent.fee.as_u64() * 1_000 / size as u64);
    assert_eq!(
        *first,
        Stuck {
            txid: parent.txid,
            label: "a payment".into(),
            status: Status::Seen,
            since: 100,
            blocks: 8,
            size,
            fee: Some(parent.fee),
            rate: Some(rate),
            rate_with_ancestors: Some(rate),
        }
    );
    assert_eq!((second.txid, second.blocks), (child.txid, STUCK_BLOCKS));
    let both = (parent.fee.as_u64() + child.fee.as_u64()) * 1_000 / (size + child.tx.size()) as u64;
    assert_eq!(second.rate_with_ancestors, Some(FeeRate::new(both)));
    assert!(second.rate > second.rate_with_ancestors, "a miner has to take both");
}

#[test]
fn two_hundred_payments_between_two_blocks_stay_small_or_are_told_to_wait() {
    let (mut wallet, mut blocks) = funded(&[10_000_000]);
    let (mut made, mut largest, mut last) = (0, 0, None);
    while made < 200 {
        match pay(&mut wallet, 500) {
            Ok(built) => {
                largest = largest.max(built.beef.len());
                wallet.mark_broadcast(&built.txid).unwrap();
                last = Some(built);
                made += 1;
            }
            Err(error) => panic!("after {made} payments, the largest of {largest} bytes: {error}"),
        }
    }
    assert!(largest <= MAX_BEEF_BYTES / 2, "{largest} bytes");
    // Many more come to the limit of depth or of bytes, which says what to do, and a block sets all back.
    let error = loop {
        match pay(&mut wallet, 500) {
            Ok(built) => wallet.mark_broadcast(&built.txid).unwrap(),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("wait for a block"), "{error}");
    for txid in wallet.unproven() {
        let path = blocks.mine(txid);
        wallet.mark_mined(&txid, path, &blocks).unwrap();
    }
    let built = pay(&mut wallet, 500).unwrap();
    assert_eq!(Beef::parse(&built.beef, &BeefLimits::DEFAULT).unwrap().txs().len(), 2);
    let last = last.unwrap();
    assert!(
        wallet.beef_for(&last.txid).unwrap().len() < last.beef.len() / 2,
        "a proof replaces the ancestors"
    );
    wallet.audit().unwrap();
}
