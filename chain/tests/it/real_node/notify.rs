//! What a real node publishes wakes, and without it the chain is followed all the same.

use std::time::Duration;

use sensora_chain::sources::node_rpc::{Event, NodeRpc, Notifications};
use sensora_chain::sources::service::{Report, ServiceConfig};

use super::super::dev_chain::{lock, sat};
use super::node::Node;

/// The next event of a kind. The bound only ends a test that has failed.
async fn next(on: &mut Notifications, kind: Event) {
    let found = async { while on.next().await != kind {} };
    tokio::time::timeout(Duration::from_secs(30), found).await.unwrap_or_else(|_| panic!("no {kind:?}"));
}

async fn connected(on: &Notifications) {
    while !on.is_connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_transaction_and_a_block_wake_before_and_after_a_restart() {
    let Some(mut node) = Node::start(&[]).await else { return };
    let miner = node.miner().await;
    let mut on = node.client().notifications().unwrap();
    connected(&on).await;
    let service = node.service();
    // The subscription may reach the node after the connection was made: blocks until one is heard.
    let heard = async {
        loop {
            miner.mine(1).await.unwrap();
            let wait = tokio::time::timeout(Duration::from_millis(200), next(&mut on, Event::Block));
            if wait.await.is_ok() {
                return;
            }
        }
    };
    heard.await;
    let paid = miner.faucet(&lock(1), sat(5_000)).await.unwrap();
    next(&mut on, Event::Transaction).await;
    assert_eq!(service.report(&paid.txid()).await.unwrap(), Report::Seen);
    let tip = miner.mine(1).await.unwrap();
    next(&mut on, Event::Block).await;
    assert_eq!(service.tip().await.unwrap(), tip);

    node.stop().await;
    while on.is_connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(node.run().await);
    connected(&on).await;
    loop {
        miner.mine(1).await.unwrap();
        let wait = tokio::time::timeout(Duration::from_millis(200), next(&mut on, Event::Block));
        if wait.await.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn without_zmq_asking_again_finds_what_has_come() {
    let Some(node) = Node::start(&[]).await else { return };
    let miner = node.miner().await;
    let silent = NodeRpc::new(ServiceConfig { zmq: None, ..node.config() }).unwrap();
    assert!(silent.notifications().is_none());
    // A publisher that is not there says nothing, and disturbs nothing.
    let nobody = ServiceConfig { zmq: Some(format!("tcp://127.0.0.1:{}", node.rpc)), ..node.config() };
    let mut on = NodeRpc::new(nobody).unwrap().notifications().unwrap();

    let service = node.service();
    let before = service.tip().await.unwrap();
    let paid = miner.faucet(&lock(1), sat(5_000)).await.unwrap();
    let tip = miner.mine(1).await.unwrap();
    assert_eq!(tip.height, before.height + 1);
    assert_eq!(service.tip().await.unwrap(), tip);
    assert!(matches!(service.report(&paid.txid()).await.unwrap(), Report::Mined(_)));
    assert!(tokio::time::timeout(Duration::from_millis(100), on.next()).await.is_err());
    assert!(!on.is_connected());
}
