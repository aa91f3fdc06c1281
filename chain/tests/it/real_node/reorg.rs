//! Reorganisations of a real node, of depth 1 to 6: every answer is that of the new chain.

use std::collections::{BTreeMap, BTreeSet};

use sensora_chain::header::{HeaderChain, HeaderView};
use sensora_chain::sources::service::{Report, Service, Spender};
use sensora_chain::{Network, OutPoint, Transaction, TxOut, Txid};

use serde_json::json;

use super::super::dev_chain::{lock, pay, sat, spend};
use super::node::{Node, submit};
use super::scripts::Random;

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

/// What the node's blocks and its list of what waits say, without any of the questions that are tested.
struct Truth {
    headers: HeaderChain,
    mined: BTreeMap<Txid, u32>,
    waiting: BTreeSet<Txid>,
}

impl Truth {
    async fn of(node: &Node, service: &Service, from: u32) -> Self {
        let mut headers = HeaderChain::genesis(Network::Regtest).unwrap();
        catch_up(service, &mut headers).await;
        let mut mined = BTreeMap::new();
        for height in from..=headers.tip().height {
            let block = service.block(height).await.unwrap().unwrap();
            mined.extend(block.txs.iter().map(|tx| (tx.txid(), height)));
        }
        let waiting = node.call("getrawmempool", json!([])).await;
        Truth { headers, mined, waiting: serde_json::from_value(waiting).unwrap() }
    }

    fn has(&self, txid: &Txid) -> bool {
        self.mined.contains_key(txid) || self.waiting.contains(txid)
    }

    /// Holds every answer about these transactions against what is so.
    async fn check(&self, service: &Service, txs: &[Transaction]) {
        for tx in txs {
            let txid = tx.txid();
            match self.mined.get(&txid) {
                Some(height) => assert_eq!(mined_at(service, &self.headers, &txid).await, *height),
                None if self.waiting.contains(&txid) => {
                    assert_eq!(service.report(&txid).await.unwrap(), Report::Seen);
                }
                None => assert_eq!(service.report(&txid).await.unwrap(), Report::Unknown),
            }
            let known = Some(tx.clone()).filter(|_| self.has(&txid));
            assert_eq!(service.transaction(&txid).await.unwrap(), known);
        }
        let coins: BTreeSet<OutPoint> = txs.iter().map(|tx| first(tx).0).collect();
        for coin in coins {
            let by = |tx: &&Transaction| tx.inputs[0].previous == coin && self.has(&tx.txid());
            let answer = service.spender(&coin).await.unwrap();
            match (txs.iter().find(by), answer) {
                (Some(by), Spender::SpentBy { tx, path }) => {
                    assert_eq!(tx, *by);
                    let height = path.map(|path| path.block_height());
                    assert_eq!(height, self.mined.get(&tx.txid()).copied());
                }
                (None, Spender::Unspent) => assert!(self.has(&coin.txid)),
                (None, Spender::Unknown) => assert!(!self.has(&coin.txid)),
                (by, answer) => panic!("{coin}: {answer:?}, but {:?} spends it", by.map(Transaction::txid)),
            }
        }
    }
}

/// Payments, rivals, blocks and branches in any order, on a node that does not index transactions: after each step the
/// answers are those of the chain as it is then.
#[tokio::test]
async fn every_answer_is_right_after_any_order_of_payments_blocks_and_branches() {
    let Some(node) = Node::start(&["-txindex=0"]).await else { return };
    let (miner, service) = (node.miner().await, node.service());
    let base = service.tip().await.unwrap().height + 1;
    let mut random = Random(0x0bad_cafe);
    let mut txs: Vec<Transaction> = Vec::new();
    let mut depths = BTreeSet::new();
    for step in 0..60u64 {
        match random.below(10) {
            0 | 1 => txs.push(miner.faucet(&lock(1), sat(100_000 + step)).await.unwrap()),
            2..=4 if !txs.is_empty() => {
                // A child of any of them, or a rival of its child: the value makes them differ.
                let (at, coin) = first(&txs[random.below(txs.len())]);
                let value = coin.value.as_u64().saturating_sub(200 + step);
                if value > 1_000 {
                    let paid = TxOut { value: sat(value), locking: lock(1) };
                    let tx = spend(&[(at, coin)], 1, vec![paid]);
                    let report = submit(&service, &tx).await;
                    let expected =
                        matches!(report, Report::Seen | Report::DoubleSpent { .. } | Report::Orphan);
                    assert!(expected, "{report:?}");
                    txs.push(tx);
                }
            }
            5 | 6 => drop(miner.mine(1).await.unwrap()),
            7 => drop(miner.mine_empty(1).await.unwrap()),
            _ => {
                let tip = service.tip().await.unwrap().height;
                let depth = 1 + random.below(6) as u32;
                if tip >= base + depth {
                    miner.reorg(depth, &[]).await.unwrap();
                    depths.insert(depth);
                }
            }
        }
        Truth::of(&node, &service, base).await.check(&service, &txs).await;
    }
    let truth = Truth::of(&node, &service, base).await;
    assert!(depths.len() >= 4 && txs.len() >= 15, "{depths:?}, {} transactions", txs.len());
    assert!(txs.iter().any(|tx| truth.mined.contains_key(&tx.txid())));
    assert!(txs.iter().any(|tx| !truth.has(&tx.txid())), "no rival lost");
}
