//! The development chain against a real node: the node takes every transaction and every block of it.

use sensora_chain::contract::data_output;
use sensora_chain::sources::dev::{DevChain, OnReorg, Reject};
use sensora_chain::sources::node_rpc::Regtest;
use sensora_chain::sources::service::{Report, SourceError};
use sensora_chain::{OutPoint, PrivateKey, Script, TxOut};
use serde_json::json;

use super::super::dev_chain::contracts::all_spends;
use super::super::dev_chain::{NOW, chain, coin, lock, pay, refused, sat, signed, spend};
use super::node::{Node, submit};

/// Gives the node all blocks from a height upwards, each transaction before its block.
async fn give(node: &Node, miner: &Regtest, chain: &DevChain, from: u32, send: bool) {
    let service = node.service();
    for height in from..=chain.tip().unwrap().height {
        for txid in chain.block_txids(height).unwrap().unwrap().iter().skip(1).filter(|_| send) {
            let tx = chain.transaction(txid).unwrap().unwrap();
            assert_eq!(submit(&service, &tx).await, Report::Seen, "at height {height}");
        }
        let block = chain.block_bytes(height).unwrap().unwrap();
        miner.submit_block(&block).await.unwrap_or_else(|e| panic!("block {height}: {e}"));
    }
    let (ours, theirs) = (chain.tip().unwrap(), service.tip().await.unwrap());
    assert_eq!((theirs.height, theirs.hash), (ours.height, ours.hash));
}

#[tokio::test]
async fn a_real_node_takes_every_transaction_and_block() {
    let Some(node) = Node::start(&["-txindex=1"]).await else { return };
    let miner = Regtest::new(node.client(), PrivateKey::from_bytes([9; 32]).unwrap()).await.unwrap();
    let chain = chain();
    give(&node, &miner, &chain, 1, true).await;

    let first = chain.tip().unwrap().height + 1;
    for round in 0..6u8 {
        for n in 0..=round {
            let mut from = coin(&chain, n, 10_000);
            for step in 0..3u64 {
                let mut outputs = vec![pay(100), data_output(&[b"TAG", &[n; 300]])];
                outputs[0].locking = lock(n);
                outputs[0].value = sat(9_000 - step * 1_000);
                let tx = spend(&[from], n, outputs);
                chain.submit(&tx).unwrap();
                from = (OutPoint { txid: tx.txid(), vout: 0 }, tx.outputs[0].clone());
            }
        }
        for tx in all_spends(&chain) {
            chain.submit(&tx).unwrap();
        }
        chain.mine(NOW).unwrap();
    }
    give(&node, &miner, &chain, first, true).await;

    // What is refused here for a rule of the network, the node refuses in the same words.
    let from = [coin(&chain, 1, 10_000)];
    chain.mine(NOW).unwrap();
    give(&node, &miner, &chain, chain.tip().unwrap().height, true).await;
    let mut dust = spend(&from, 1, vec![pay(9_000), pay(1)]);
    dust.outputs[1].value = sat(0);
    let dust = signed(dust, &from, 1);
    let greedy = spend(&from, 1, vec![pay(10_001)]);
    let mut forged = spend(&from, 1, vec![pay(9_000)]);
    forged.outputs[0].value = sat(8_000);
    let hash = [&[0xa9, 20], [1; 20].as_slice(), &[0x87]].concat();
    let script_hash = TxOut { value: sat(500), locking: Script::new(hash) };
    let p2sh = spend(&from, 1, vec![pay(9_000), script_hash]);
    for tx in [&dust, &greedy, &forged, &p2sh] {
        let reject: Reject = refused(&chain, tx);
        match node.ask("sendrawtransaction", json!([tx.to_string()])).await {
            Err(SourceError::Server { reason, .. }) => {
                assert!(reason.contains(reject.reason()), "{} here, {reason} there", reject.reason());
            }
            other => panic!("{}: {other:?}", reject.reason()),
        }
    }
    let (good, service) = (spend(&from, 1, vec![pay(9_000)]), node.service());
    chain.submit(&good).unwrap();
    assert_eq!(submit(&service, &good).await, Report::Seen);
    let double = spend(&from, 1, vec![pay(8_000)]);
    assert_eq!(refused(&chain, &double).reason(), "txn-mempool-conflict");
    assert_eq!(submit(&service, &double).await, Report::DoubleSpent { competing: vec![good.txid()] });

    // A reorganisation is one for the node, too.
    let reorged = chain.reorg(3, NOW, OnReorg::Requeue).unwrap();
    give(&node, &miner, &chain, reorged.first_height, false).await;
    let height = chain.mine(NOW).unwrap().height;
    give(&node, &miner, &chain, height, false).await;
    assert_eq!(service.tip().await.unwrap().height, height);
}
