//! Reorganisations of a real node, of depth 1 to 6: every answer is that of the new chain.

use sensora_chain::header::{HeaderChain, HeaderView};
use sensora_chain::sources::service::{Report, Service, Spender};
use sensora_chain::{Network, OutPoint, Transaction, TxOut, Txid};

use super::super::dev_chain::{lock, pay, sat, spend};
use super::node::{Node, submit};

fn first(tx: &Transaction) -> (OutPoint, TxOut) {
    (OutPoint { txid: tx.txid(), vout: 0 }, tx.outputs[0].clone())
}

async fn mined_at(service: &Service, headers: &HeaderChain, txid: &Txid) -> u32 {
    match service.report(txid).await.unwrap() {
        Report::Mined(path) => {
            let height = path.block_height();
            assert_eq!(path.root_for(txid), Some(headers.header_at(height).unwrap().merkle_root()));
            height
        }
        other => panic!("{txid} is not mined: {other:?}"),
    }
}

/// Takes the headers in that have come since; the answer is whether some left the chain.
async fn catch_up(service: &Service, headers: &mut HeaderChain) -> bool {
    let from = headers.tip().height.saturating_sub(20);
    let connected = headers.connect(&service.headers(from + 1, 2_000).await.unwrap()).unwrap();
    assert_eq!(headers.tip(), service.tip().await.unwrap());
    connected.reorged.is_some()
}

async fn all_depths(node: Node) {
    let (miner, service) = (node.miner().await, node.service());
    let mut headers = HeaderChain::genesis(Network::Regtest).unwrap();
    catch_up(&service, &mut headers).await;

    for depth in 1..=6u32 {
        // A coin below the branches, and in each block that will be replaced a generation of payments from it.
        let funding = miner.faucet(&lock(1), sat(100_000)).await.unwrap();
        let stable = miner.mine(1).await.unwrap().height;
        catch_up(&service, &mut headers).await;
        let mut coin = first(&funding);
        let mut generations = Vec::new();
        for step in 0..depth {
            let out = TxOut { value: sat(90_000 - 1_000 * u64::from(step)), locking: lock(1) };
            let tx = spend(&[coin], 1, vec![out]);
            assert_eq!(submit(&service, &tx).await, Report::Seen);
            coin = first(&tx);
            generations.push(tx);
            miner.mine(1).await.unwrap();
        }
        assert!(!catch_up(&service, &mut headers).await);
        for (step, tx) in (1..).zip(&generations) {
            assert_eq!(mined_at(&service, &headers, &tx.txid()).await, stable + step);
        }

        // A longer branch without them: they wait again, and nothing of the old branch is answered with.
        let tip = miner.reorg(depth, &[]).await.unwrap();
        assert_eq!(tip.height, stable + depth + 1);
        assert!(catch_up(&service, &mut headers).await);
        for tx in &generations {
            assert_eq!(service.report(&tx.txid()).await.unwrap(), Report::Seen);
            let waits = Spender::SpentBy { tx: tx.clone(), path: None };
            assert_eq!(service.spender(&tx.inputs[0].previous).await.unwrap(), waits);
        }
        assert_eq!(mined_at(&service, &headers, &funding.txid()).await, stable);
        for height in stable + 1..=tip.height {
            let block = service.block(height).await.unwrap().unwrap();
            assert_eq!(block.header, headers.at(height).unwrap());
            assert_eq!(block.txs.len(), 1, "the blocks of the branch are empty");
        }

        // The next block has them all, at another height than before.
        let tip = miner.mine(1).await.unwrap();
        assert!(!catch_up(&service, &mut headers).await);
        for tx in &generations {
            assert_eq!(mined_at(&service, &headers, &tx.txid()).await, tip.height);
            match service.spender(&tx.inputs[0].previous).await.unwrap() {
                Spender::SpentBy { tx: by, path: Some(path) } => {
                    assert_eq!((by.txid(), path.block_height()), (tx.txid(), tip.height));
                }
                other => panic!("{other:?}"),
            }
        }

        // A branch that pays the coin elsewhere makes them impossible.
        let rival = spend(&[first(&funding)], 1, vec![pay(50_000)]);
        miner.reorg(depth + 2, std::slice::from_ref(&rival)).await.unwrap();
        assert!(catch_up(&service, &mut headers).await);
        assert_eq!(mined_at(&service, &headers, &rival.txid()).await, stable + 1);
        for tx in &generations {
            let report = service.report(&tx.txid()).await.unwrap();
            assert_eq!(report, Report::Unknown, "depth {depth}");
        }
        let first_lost = &generations[0];
        let by_rival = Report::DoubleSpent { competing: vec![rival.txid()] };
        assert_eq!(submit(&service, first_lost).await, by_rival);
        match service.spender(&first(&funding).0).await.unwrap() {
            Spender::SpentBy { tx, path: Some(_) } => assert_eq!(tx, rival),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn every_answer_follows_a_reorganisation_with_an_index() {
    let Some(node) = Node::start(&["-txindex=1"]).await else { return };
    Box::pin(all_depths(node)).await;
}

#[tokio::test]
async fn every_answer_follows_a_reorganisation_without_an_index() {
    let Some(node) = Node::start(&["-txindex=0"]).await else { return };
    Box::pin(all_depths(node)).await;
}

#[tokio::test]
async fn the_faucet_goes_on_after_its_coins_left_the_chain() {
    let Some(node) = Node::start(&[]).await else { return };
    let (miner, service) = (node.miner().await, node.service());
    let tip = service.tip().await.unwrap();
    // Down to the block that cut its coins: all of them are gone, or wait again.
    for depth in [1, 2, 3] {
        miner.reorg(depth, &[]).await.unwrap();
        let paid = miner.faucet(&lock(1), sat(7_000)).await.unwrap();
        assert_eq!(service.report(&paid.txid()).await.unwrap(), Report::Seen);
        for input in &paid.inputs {
            assert!(matches!(service.report(&input.previous.txid).await.unwrap(), Report::Mined(_)));
        }
    }
    assert!(service.tip().await.unwrap().height > tip.height);
}
