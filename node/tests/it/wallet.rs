//! The wallet of a node: what waits for the network, what no miner takes, what was outdone, what is swept, and the chain's word on all of it.

use std::time::Duration;

use sensora_chain::sources::dev::{DevChain, OnReorg};
use sensora_chain::wallet::{Built, Difference, STUCK_BLOCKS, Status, TIDY_DEPTH};
use sensora_chain::{Address, Network, Satoshis, Script, TxOut, Txid};
use sensora_node::clock::Clock;
use sensora_node::store::outbox;
use sensora_node::supervisor::Node;
use sensora_node::wallet::{SweepPolicy, WalletHandle, WalletHandleError};
use tokio_util::sync::CancellationToken;

use crate::double::Double;
use crate::world::{bootstrap_mining, fund, until};

/// A node with money in a block, on a chain of its own whose blocks come when the test says so.
async fn rich(sat: u64) -> (Node, DevChain) {
    let (node, _) = bootstrap_mining(Duration::from_secs(3600)).await;
    fund(&node, sat).await;
    let chain = node.chain().dev_chain().unwrap().clone();
    mine(&node).await;
    (node, chain)
}

/// Mines all that waits, and waits until the wallet knows.
async fn mine(node: &Node) {
    node.chain().mine().await.unwrap();
    until("everything to be mined", || async {
        let history = node.wallet().history().unwrap();
        let mined = |status: &Status| matches!(status, Status::Mined { .. }) || status.is_dead();
        history.iter().all(|line| mined(&line.status)).then_some(())
    })
    .await;
}

/// Blocks that hold nothing: what waits goes on waiting.
async fn empty(node: &Node, count: u32) {
    for _ in 0..count {
        node.chain().dev_chain().unwrap().mine_empty(Clock::system().now_ms()).unwrap();
    }
    node.chain().refresh().await.unwrap();
}

fn stranger() -> Address {
    Address::new(Network::Regtest, [9; 20])
}

fn cold(keep: u64) -> SweepPolicy {
    SweepPolicy { to: Some(Address::new(Network::Regtest, [0xc0; 20])), keep: Satoshis::from_sat(keep) }
}

fn status(wallet: &WalletHandle, txid: &Txid) -> Status {
    wallet.status(txid).unwrap()
}

/// What another copy of a wallet makes of all it has.
fn elsewhere(wallet: &WalletHandle, key: &sensora_chain::PrivateKey, sat: u64) -> Built {
    let all = TxOut { value: Satoshis::from_sat(sat), locking: Script::p2pkh(&[9; 20]) };
    wallet.read(Clone::clone).build(key, wallet.spec(vec![all], "elsewhere").unwrap(), 0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_stays_in_the_outbox_until_somebody_reports_it() {
    let (bootstrap, _) = bootstrap_mining(Duration::from_secs(3600)).await;
    let double = Double::new(9, &bootstrap, 1).await;
    double.wallet.fund_from_faucet(Satoshis::from_sat(10_000)).await.unwrap();
    let sent = double.wallet.send(&stranger(), Satoshis::from_sat(1_000)).await.unwrap();
    assert_eq!(status(&double.wallet, &sent.txid), Status::Broadcast, "handed over is not arrived");
    assert_eq!(double.store.read(outbox::all).unwrap().len(), 1);
    let stop = CancellationToken::new();
    let running = tokio::spawn(double.wallet.clone().run(stop.clone()));
    until("the report", || async {
        let seen = status(&double.wallet, &sent.txid) == Status::Seen;
        (seen && double.store.read(outbox::all).unwrap().is_empty()).then_some(())
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    double.wallet.audit().unwrap();
    bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_miner_takes_is_reported_with_what_it_pays_and_what_to_do() {
    let (node, _) = rich(100_000).await;
    let sent = node.wallet().send(&stranger(), Satoshis::from_sat(1_000)).await.unwrap();
    until("the payment to be seen", || async {
        (status(node.wallet(), &sent.txid) == Status::Seen).then_some(())
    })
    .await;
    empty(&node, STUCK_BLOCKS - 1).await;
    assert!(node.wallet().stuck().is_empty());
    empty(&node, 1).await;
    let stuck = node.wallet().stuck();
    let [stuck] = stuck.as_slice() else { panic!("{stuck:?}") };
    assert_eq!((stuck.tx.txid, stuck.tx.blocks, stuck.tx.fee), (sent.txid, STUCK_BLOCKS, Some(sent.fee)));
    let text = stuck.to_string();
    for part in [sent.txid.to_string().as_str(), "sat/kB", "the policy now is 100", "chain.services"] {
        assert!(text.contains(part), "{text}");
    }
    mine(&node).await;
    assert!(node.wallet().stuck().is_empty());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exceeds_the_bound_is_swept_by_itself_once_it_is_buried() {
    let (node, _) = rich(500_000).await;
    let wallet = node.wallet();
    assert!(matches!(wallet.sweep_now().await, Err(WalletHandleError::NoSweepAddress)));
    let foreign = SweepPolicy { to: Some(Address::new(Network::Main, [0xc0; 20])), ..cold(0) };
    let error = wallet.set_sweep(foreign).unwrap_err();
    assert!(error.to_string().contains("wallet.sweep_to"), "{error}");
    wallet.set_sweep(cold(100_000)).unwrap();
    assert!(wallet.sweep_now().await.unwrap().is_none(), "not buried yet");
    empty(&node, TIDY_DEPTH).await;
    until("the sweep", || async { (wallet.balance().unwrap().total.as_u64() == 100_000).then_some(()) })
        .await;
    let swept = || {
        let lines = wallet.history().unwrap();
        lines.into_iter().filter(|line| line.label.starts_with("sweep to")).count()
    };
    empty(&node, 2).await;
    assert!(wallet.sweep_now().await.unwrap().is_none(), "one at a time");
    mine(&node).await;
    empty(&node, TIDY_DEPTH).await;
    assert!(wallet.sweep_now().await.unwrap().is_none(), "nothing exceeds the bound");
    assert_eq!((swept(), wallet.audit().unwrap().total.as_u64()), (1, 100_000));
    wallet.set_sweep(SweepPolicy::default()).unwrap();
    fund(&node, 20_000).await;
    mine(&node).await;
    empty(&node, TIDY_DEPTH).await;
    wallet.set_sweep(cold(100_000)).unwrap();
    // When a person asks for it. The node sweeps by itself, too, and may be the first, or just about to.
    until("the second sweep", || async {
        wallet.sweep_now().await.unwrap();
        // What was posted and is not out yet still counts.
        (swept() == 2 && wallet.balance().unwrap().total.as_u64() == 100_000).then_some(())
    })
    .await;
    assert_eq!((swept(), wallet.audit().unwrap().total.as_u64()), (2, 100_000));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_against_the_chain_names_the_coin_that_is_gone_and_changes_nothing() {
    let (node, _) = rich(100_000).await;
    let wallet = node.wallet();
    let copied = elsewhere(wallet, node.identity().key(), 99_950);
    let audit = wallet.audit_chain().await.unwrap();
    assert_eq!((audit.coins, audit.transactions), (1, 2), "the faucet's own is an ancestor");
    assert_eq!(audit.differences, []);
    node.chain().broadcast(&copied.beef).await.unwrap();
    for mined in [false, true] {
        if mined {
            node.chain().mine().await.unwrap();
        }
        let before = wallet.read(Clone::clone);
        let audit = wallet.audit_chain().await.unwrap();
        let [Difference::SpentElsewhere { by, mined: proven, .. }] = audit.differences.as_slice() else {
            panic!("{audit:?}");
        };
        assert_eq!((*by, *proven), (copied.txid, mined));
        assert_eq!(wallet.read(Clone::clone), before);
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_that_another_transaction_outdid_is_named_and_made_anew_once() {
    let (bootstrap, _) = bootstrap_mining(Duration::from_secs(3600)).await;
    let double = Double::new(9, &bootstrap, 300).await;
    let (wallet, anchorer, stream) = (&double.wallet, &double.anchorer, double.streams[0]);
    let dev = bootstrap.chain().dev_chain().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(wallet.clone().run(stop.clone()));
    let block = async || {
        bootstrap.chain().mine().await.unwrap();
        double.chain.refresh().await.unwrap();
    };
    let mined = async |txid: Txid| {
        block().await;
        until("the transaction to be mined", || async {
            matches!(status(wallet, &txid), Status::Mined { .. }).then_some(())
        })
        .await;
    };
    let funded = wallet.fund_from_faucet(Satoshis::from_sat(10_000)).await.unwrap();
    mined(funded).await;
    let lag = anchorer.lag(&stream).unwrap();
    assert_eq!((lag.readings, lag.name.as_str()), (300, "true"));
    assert!(lag.age_ms > 0);
    let copied = elsewhere(wallet, double.identity.key(), 9_950);
    let first = anchorer.anchor_now().await.unwrap().unwrap();
    assert_eq!(anchorer.lag(&stream).unwrap().readings, 300, "an anchor counts once it is mined");
    mined(first.txid).await;
    assert_eq!(
        anchorer.lags().unwrap().iter().map(|lag| (lag.readings, lag.age_ms)).collect::<Vec<_>>(),
        [(0, 0); 2]
    );

    // Another branch, on which the other copy of the wallet was faster.
    dev.reorg(1, Clock::system().now_ms(), OnReorg::Forget).unwrap();
    bootstrap.chain().broadcast(&copied.beef).await.unwrap();
    block().await;
    until("the conflict to be seen", || async {
        (status(wallet, &first.txid) == Status::Conflicted { by: copied.txid }).then_some(())
    })
    .await;
    assert_eq!(wallet.audit().unwrap().total, Satoshis::ZERO);
    assert_eq!(wallet.conflicted(), [(first.txid, copied.txid)]);
    assert!(anchorer.proof(&stream, 0).unwrap().is_none(), "what was outdone is no anchor");
    assert_eq!(anchorer.lag(&stream).unwrap().readings, 300);

    let funded = wallet.fund_from_faucet(Satoshis::from_sat(10_000)).await.unwrap();
    mined(funded).await;
    let second = anchorer.anchor_now().await.unwrap().unwrap();
    assert_eq!(second.number, 1);
    assert!(anchorer.anchor_now().await.unwrap().is_none(), "not twice");
    mined(second.txid).await;
    assert!(anchorer.anchor_now().await.unwrap().is_none());
    let (checkpoint, _) = anchorer.proof(&stream, 0).unwrap().unwrap();
    assert_eq!((checkpoint.value().size, anchorer.lag(&stream).unwrap().readings), (300, 0));
    wallet.audit().unwrap();
    stop.cancel();
    running.await.unwrap();
    bootstrap.shutdown().await;
}
