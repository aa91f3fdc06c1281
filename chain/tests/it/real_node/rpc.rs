//! Every question to a real node, with and without an index of all transactions, and what becomes of it when the node
//! is not there or is not the right one.

use std::time::Duration;

use sensora_chain::contract::data_output;
use sensora_chain::header::{Header, HeaderChain, HeaderView};
use sensora_chain::sources::node_rpc::{Regtest, RegtestError};
use sensora_chain::sources::service::{FeeQuote, Need, Report, Service, ServiceConfig, SourceError, Spender};
use sensora_chain::{
    BlockHash, FeeRate, Network, OutPoint, PrivateKey, Satoshis, Script, Transaction, TxIn, TxOut, Txid,
};
use serde_json::json;

use super::super::dev_chain::{lock, pay, sat, signed, spend};
use super::node::{Node, RATE, submission, submit};

const UNKNOWN: Txid = Txid([7; 32]);

/// The first output of a transaction.
fn first(tx: &Transaction) -> (OutPoint, TxOut) {
    (OutPoint { txid: tx.txid(), vout: 0 }, tx.outputs[0].clone())
}

fn code_of(report: Report) -> (Txid, u16) {
    match report {
        Report::Rejected { txid, code, reason } if !reason.is_empty() => (txid, code),
        other => panic!("not refused: {other:?}"),
    }
}

async fn mined(service: &Service, headers: &HeaderChain, txid: &Txid) -> u32 {
    match service.report(txid).await.unwrap() {
        Report::Mined(path) => {
            let height = path.block_height();
            assert_eq!(path.root_for(txid), Some(headers.header_at(height).unwrap().merkle_root()));
            height
        }
        other => panic!("{txid} is not mined: {other:?}"),
    }
}

/// All headers, checked.
async fn headers(service: &Service) -> HeaderChain {
    let mut chain = HeaderChain::genesis(Network::Regtest).unwrap();
    loop {
        let run = service.headers(chain.tip().height + 1, 2_000).await.unwrap();
        if run.is_empty() {
            assert_eq!(chain.tip(), service.tip().await.unwrap());
            return chain;
        }
        chain.connect(&run).unwrap();
    }
}

async fn every_question(node: Node) {
    let (miner, service) = (node.miner().await, node.service());

    // Headers.
    let tip = service.tip().await.unwrap();
    let chain = headers(&service).await;
    assert_eq!(service.headers(0, 1).await.unwrap(), [Header::regtest_genesis()]);
    assert_eq!(service.headers(5, 3).await.unwrap(), chain.run(5, 3));
    assert_eq!(service.headers(tip.height, 9).await.unwrap().len(), 1);
    assert!(service.headers(tip.height + 1, 9).await.unwrap().is_empty());
    assert!(service.headers(u32::MAX, 9).await.unwrap().is_empty());
    assert!(service.headers(0, 0).await.unwrap().is_empty());

    // Fees.
    let quote = FeeQuote { rate: FeeRate::new(RATE), max_tx_size: Some(10_000_000) };
    assert_eq!(service.fee_quote().await.unwrap(), quote);

    // What is nowhere.
    assert_eq!(service.report(&UNKNOWN).await.unwrap(), Report::Unknown);
    assert_eq!(service.transaction(&UNKNOWN).await.unwrap(), None);
    let nothing = OutPoint { txid: UNKNOWN, vout: 0 };
    assert_eq!(service.spender(&nothing).await.unwrap(), Spender::Unknown);
    assert_eq!(service.submit(&[]).await.unwrap(), Report::Unknown);

    // A coinbase, alone in its block and not.
    let block = service.block(1).await.unwrap().unwrap();
    assert_eq!(block.header, chain.at(1).unwrap());
    assert_eq!(block.txs.len(), 1);
    assert_eq!(mined(&service, &chain, &block.txs[0].txid()).await, 1);
    assert_eq!(service.block(tip.height + 1).await.unwrap(), None);
    assert_eq!(service.block(u32::MAX).await.unwrap(), None);

    // A transaction waits, then is mined.
    let paid = miner.faucet(&lock(1), sat(50_000)).await.unwrap();
    let (txid, coin) = (paid.txid(), first(&paid));
    assert_eq!(service.report(&txid).await.unwrap(), Report::Seen);
    assert_eq!(submit(&service, &paid).await, Report::Seen);
    assert_eq!(service.transaction(&txid).await.unwrap(), Some(paid.clone()));
    assert_eq!(service.spender(&coin.0).await.unwrap(), Spender::Unspent);
    let before = paid.inputs[0].previous;
    let waits = Spender::SpentBy { tx: paid.clone(), path: None };
    assert_eq!(service.spender(&before).await.unwrap(), waits);
    let beyond = OutPoint { txid, vout: 999 };
    assert_eq!(service.spender(&beyond).await.unwrap(), Spender::Unknown);

    let tip = miner.mine(1).await.unwrap();
    let chain = headers(&service).await;
    assert_eq!(mined(&service, &chain, &txid).await, tip.height);
    assert_eq!(submit(&service, &paid).await, service.report(&txid).await.unwrap());
    let block = service.block(tip.height).await.unwrap().unwrap();
    assert!(block.txs.contains(&paid));
    assert_eq!(mined(&service, &chain, &block.txs[0].txid()).await, tip.height);
    match service.spender(&before).await.unwrap() {
        Spender::SpentBy { tx, path: Some(path) } => {
            assert_eq!(tx, paid);
            assert_eq!(path.root_for(&txid), Some(block.header.merkle_root()));
        }
        other => panic!("{other:?}"),
    }

    // Two generations in one request; then nothing is unspent of the first.
    let parent = spend(std::slice::from_ref(&coin), 1, vec![TxOut { value: sat(49_000), locking: lock(2) }]);
    let child = spend(&[first(&parent)], 2, vec![pay(48_000), data_output(&[b"SENSORA_TEST", &[7; 900]])]);
    let both = [submission(&parent), submission(&child)];
    assert_eq!(service.submit(&both).await.unwrap(), Report::Seen);
    assert_eq!(service.submit(&both).await.unwrap(), Report::Seen);
    let tip = miner.mine(1).await.unwrap();
    let chain = headers(&service).await;
    assert_eq!(mined(&service, &chain, &parent.txid()).await, tip.height);
    assert_eq!(service.transaction(&parent.txid()).await.unwrap(), Some(parent.clone()));
    match service.submit(&both).await.unwrap() {
        Report::Mined(path) => assert_eq!(path.block_height(), tip.height),
        other => panic!("{other:?}"),
    }
    assert!(matches!(submit(&service, &parent).await, Report::Mined(_)));

    // Refusals.
    let double = spend(std::slice::from_ref(&coin), 1, vec![pay(40_000)]);
    let by_parent = Report::DoubleSpent { competing: vec![parent.txid()] };
    assert_eq!(submit(&service, &double).await, by_parent);
    let paid = miner.faucet(&lock(1), sat(50_000)).await.unwrap();
    let coin = first(&paid);
    let orphan = spend(&[(nothing, coin.1.clone())], 1, vec![pay(1_000)]);
    assert_eq!(submit(&service, &orphan).await, Report::Orphan);
    let edited = |edit: &dyn Fn(&mut Transaction)| {
        let mut tx = Transaction::new(vec![TxIn::new(coin.0)], vec![pay(40_000)]);
        edit(&mut tx);
        signed(tx, std::slice::from_ref(&coin), 1)
    };
    let mut forged = edited(&|_| {});
    forged.outputs[0].value = sat(39_999);
    let script_hash = Script::new([&[0xa9, 20], [1; 20].as_slice(), &[0x87]].concat());
    let twice = [coin.clone(), coin.clone()];
    for (tx, code) in [
        (forged, 461),
        (edited(&|tx| tx.outputs[0].value = sat(50_001)), 462),
        (spend(&twice, 1, vec![pay(60_000)]), 462),
        (edited(&|tx| tx.outputs[0].value = sat(0)), 464),
        (edited(&|tx| tx.outputs[0].locking = script_hash.clone()), 464),
        (edited(&|tx| tx.version = 9), 463),
    ] {
        assert_eq!(code_of(submit(&service, &tx).await), (tx.txid(), code));
    }
    // The first that is refused is named, not what depends on it.
    let bad = edited(&|tx| tx.outputs = vec![TxOut { value: sat(30_000), locking: lock(3) }, pay(0)]);
    let after = spend(&[first(&bad)], 3, vec![pay(20_000)]);
    let chain_of_two = [submission(&paid), submission(&bad), submission(&after)];
    assert_eq!(code_of(service.submit(&chain_of_two).await.unwrap()), (bad.txid(), 464));
    // One whose time has not come is kept by the node, and is not seen by the network.
    let later = edited(&|tx| {
        tx.lock_time = tip.height + 50;
        tx.inputs[0].sequence = 0;
    });
    assert_eq!(submit(&service, &later).await, Report::Pending);
    assert_eq!(submit(&service, &later).await, Report::Pending);
    assert_eq!(service.report(&later.txid()).await.unwrap(), Report::Pending);
    let other = miner.faucet(&lock(1), sat(50_000)).await.unwrap();
    let (one, two) = (first(&other), spend(&[first(&other)], 1, vec![pay(40_000)]));
    assert_eq!(submit(&service, &two).await, Report::Seen);
    let double = spend(&[one], 1, vec![pay(39_000)]);
    let by_two = Report::DoubleSpent { competing: vec![two.txid()] };
    assert_eq!(submit(&service, &double).await, by_two);

    // A node has no index of scripts.
    match service.unspent(&lock(1)).await {
        Err(SourceError::Unsupported { need: Need::Outputs, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_question_has_its_answer_with_an_index() {
    let Some(node) = Node::start(&["-txindex=1"]).await else { return };
    Box::pin(every_question(node)).await;
}

#[tokio::test]
async fn every_question_has_its_answer_without_an_index() {
    let Some(node) = Node::start(&["-txindex=0"]).await else { return };
    Box::pin(every_question(node)).await;
}

#[tokio::test]
async fn a_wrong_password_port_or_network_is_named() {
    let Some(node) = Node::start(&[]).await else { return };
    let with = |change: &dyn Fn(&mut ServiceConfig)| {
        let mut config = node.config();
        change(&mut config);
        Service::new(config).unwrap()
    };
    let wrong = with(&|config| config.url = format!("http://u:hidden@127.0.0.1:{}", node.rpc));
    let error = wrong.tip().await.unwrap_err();
    assert_eq!(error, SourceError::Unauthorized { service: "node".into(), status: 401 });
    let by_key = with(&|config| {
        config.url = format!("http://127.0.0.1:{}", node.rpc);
        config.key = Some("u:p".into());
    });
    assert_eq!(by_key.tip().await.unwrap().height, 0);

    // The port of the other nodes speaks no HTTP; at the one of ZMQ nobody may be.
    let other_port = with(&|config| config.url = format!("http://u:hidden@127.0.0.1:{}", node.p2p));
    let error = other_port.tip().await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. } | SourceError::Timeout { .. }), "{error}");
    let nobody = with(&|config| config.url = "http://u:hidden@127.0.0.1:1".to_owned());
    let error = nobody.tip().await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
    assert!(!error.to_string().contains("hidden") && error.to_string().contains("refused"), "{error}");

    let main = with(&|config| config.network = Network::Main);
    match main.tip().await.unwrap_err() {
        SourceError::Config { service, reason } => {
            assert_eq!(service, "node");
            assert!(reason.contains("network regtest") && reason.contains("network main"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let Service::NodeRpc(main) = main else { panic!("another kind") };
    let refused = Regtest::new(main, PrivateKey::from_bytes([1; 32]).unwrap()).await;
    assert!(matches!(refused, Err(RegtestError::NotRegtest { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_node_that_was_away_is_asked_again() {
    let Some(mut node) = Node::start(&[]).await else { return };
    let miner = node.miner().await;
    let paid = miner.faucet(&lock(1), sat(5_000)).await.unwrap();
    let tip = miner.mine(1).await.unwrap();
    let service = node.service();
    assert_eq!(service.tip().await.unwrap(), tip);

    node.stop().await;
    for error in [
        service.tip().await.map(|_| ()),
        service.headers(0, 1).await.map(|_| ()),
        service.report(&paid.txid()).await.map(|_| ()),
        service.submit(&[submission(&paid)]).await.map(|_| ()),
        service.block(1).await.map(|_| ()),
        service.fee_quote().await.map(|_| ()),
    ] {
        assert!(matches!(error, Err(SourceError::Unreachable { .. })), "{error:?}");
    }

    assert!(node.run().await);
    assert_eq!(service.tip().await.unwrap(), tip);
    assert!(matches!(service.report(&paid.txid()).await.unwrap(), Report::Mined(_)));
    // A faucet that starts anew finds its coins on the chain instead of mining new ones.
    let again = node.miner().await;
    assert_eq!(service.tip().await.unwrap(), tip);
    let paid = again.faucet(&lock(2), sat(5_000)).await.unwrap();
    assert_eq!(service.report(&paid.txid()).await.unwrap(), Report::Seen);
    assert_eq!(service.tip().await.unwrap(), tip);
}

#[tokio::test]
async fn requests_are_paced_as_configured() {
    let Some(node) = Node::start(&[]).await else { return };
    let slow = Service::new(ServiceConfig {
        requests_per_second: Some(20.0),
        timeout: Duration::from_millis(400),
        ..node.config()
    });
    let slow = slow.unwrap();
    // Three requests the first time, two then: what does not fit into the time is not sent.
    slow.tip().await.unwrap();
    let many = slow.headers(0, 1).await.unwrap();
    assert_eq!(many.len(), 1);
    let block = BlockHash::default();
    let Service::NodeRpc(rpc) = &slow else { panic!("another kind") };
    let error = rpc.call("getblock", json!([block, 0]), 1_000).await.unwrap_err();
    assert!(matches!(error, SourceError::Server { status: -5, .. }), "{error:?}");
    let asked = (0..20).map(|_| slow.tip());
    let mut late = 0;
    for answer in join_all(asked).await {
        late += u32::from(matches!(answer, Err(SourceError::Timeout { .. })));
    }
    assert!(late > 10, "{late} of 20 did not wait");
}

/// Runs all at once.
async fn join_all<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(move |context| {
        let mut done = true;
        for (future, answer) in &mut all {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *answer = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        match done {
            true => std::task::Poll::Ready(all.iter_mut().filter_map(|(_, answer)| answer.take()).collect()),
            false => std::task::Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn the_faucet_pays_many_between_two_blocks_each_from_mined_coins() {
    let Some(node) = Node::start(&[]).await else { return };
    let (miner, service) = (node.miner().await, node.service());
    let start = service.tip().await.unwrap();
    let mut paid = Vec::new();
    for n in 0..40u8 {
        let tx = miner.faucet(&lock(n), sat(1_000 + u64::from(n))).await.unwrap();
        assert_eq!(tx.outputs[0], TxOut { value: sat(1_000 + u64::from(n)), locking: lock(n) });
        for input in &tx.inputs {
            let parent = service.report(&input.previous.txid).await.unwrap();
            let Report::Mined(path) = parent else { panic!("{parent:?}") };
            let parent = service.transaction(&input.previous.txid).await.unwrap().unwrap();
            assert!(!parent.is_coinbase() && path.block_height() <= start.height);
        }
        paid.push(tx.txid());
    }
    assert_eq!(service.tip().await.unwrap(), start);
    // More than the cut coins have together is found all the same, or is refused with what there is.
    let large = miner.faucet(&lock(1), sat(12_000_000_000)).await.unwrap();
    assert_eq!(large.outputs[0].value, sat(12_000_000_000));
    let chain = {
        miner.mine(1).await.unwrap();
        headers(&service).await
    };
    for txid in &paid {
        mined(&service, &chain, txid).await;
    }
    match miner.faucet(&lock(1), Satoshis::MAX).await {
        Err(RegtestError::FaucetEmpty { available, .. }) => assert!(available > sat(1_000_000_000)),
        other => panic!("{other:?}"),
    }
    for count in [0, 1_001] {
        assert!(matches!(miner.mine(count).await, Err(RegtestError::Count { .. })));
    }
    assert!(matches!(miner.reorg(0, &[]).await, Err(RegtestError::Count { .. })));
    assert!(matches!(miner.submit_block(&[1; 90]).await, Err(RegtestError::Source(_))));
}
