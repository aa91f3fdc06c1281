//! Every kind of transaction that is made here, in the shape it has on the wire: the node takes it, sends it to another
//! node, and both have it in a block.

use sensora_chain::contract::data_output;
use sensora_chain::contract::payment::pay_to_hash;
use sensora_chain::sources::node_rpc::Regtest;
use sensora_chain::sources::service::{Report, Service};
use sensora_chain::wallet::{Built, PaymentSpec, Received, Wallet};
use sensora_chain::{FeeRate, Network, OutPoint, PrivateKey, Transaction, TxOut};
use serde_json::json;

use super::super::dev_chain::{NOW, lock, pay, sat, spend};
use super::node::{Node, RATE, submit};

const RATE_HERE: FeeRate = FeeRate::new(RATE);

/// A coin for `key(tag)` of the other tests' keys.
pub(crate) async fn coin(miner: &Regtest, tag: u8, value: u64) -> (OutPoint, TxOut) {
    let tx = miner.faucet(&lock(tag), sat(value)).await.unwrap();
    (OutPoint { txid: tx.txid(), vout: 0 }, tx.outputs[0].clone())
}

/// A signed spend that pays exactly the fee which the node's rate asks for: change takes the rest.
fn at_rate(coins: &[(OutPoint, TxOut)], tag: u8, mut outputs: Vec<TxOut>) -> Transaction {
    let brought: u64 = coins.iter().map(|(_, out)| out.value.as_u64()).sum();
    let paid: u64 = outputs.iter().map(|out| out.value.as_u64()).sum();
    outputs.push(TxOut { value: sat(1), locking: lock(tag) });
    let last = outputs.len() - 1;
    // A signature has 70 to 72 bytes; two rounds settle the size, and the fee is that of the larger.
    let mut size = spend(coins, tag, outputs.clone()).size() + 2 * coins.len();
    for _ in 0..2 {
        outputs[last].value = sat(brought - paid - RATE_HERE.fee(size).as_u64());
        size = size.max(spend(coins, tag, outputs.clone()).size());
    }
    spend(coins, tag, outputs)
}

struct World {
    first: Node,
    second: Node,
    miner: Regtest,
}

impl World {
    /// Sends to one node, hears it from the other, and finds it mined on both.
    async fn check(&self, kinds: &[(&str, Transaction)]) {
        let (here, there) = (self.first.service(), self.second.service());
        for (kind, tx) in kinds {
            assert_eq!(submit(&here, tx).await, Report::Seen, "{kind}");
        }
        for (kind, tx) in kinds {
            let txid = tx.txid();
            let seen = async |_: &Node| there.report(&txid).await.unwrap() == Report::Seen;
            self.second.until(&format!("the {kind}"), seen).await;
        }
        let tip = self.miner.mine(1).await.unwrap();
        self.second.until("the block", async |_| there.tip().await.unwrap() == tip).await;
        for (kind, tx) in kinds {
            let [path, same] = [mined(&here, tx).await, mined(&there, tx).await];
            assert_eq!(path, same, "{kind}");
            assert_eq!(path, tip.height, "{kind} is in the next block: its fee is enough");
        }
    }
}

async fn mined(service: &Service, tx: &Transaction) -> u32 {
    match service.report(&tx.txid()).await.unwrap() {
        Report::Mined(path) => path.block_height(),
        other => panic!("{other:?}"),
    }
}

async fn world() -> Option<World> {
    let first = Node::start(&[]).await?;
    let miner = first.miner().await;
    // A node that has only the genesis block believes that it is far behind, and relays nothing until it is not.
    let second = Node::start(&[]).await?;
    second.follow(&first).await;
    Some(World { first, second, miner })
}

#[tokio::test]
async fn payments_and_data_are_taken_relayed_and_mined() {
    let Some(world) = world().await else { return };
    let miner = &world.miner;
    let mut coins = Vec::new();
    for _ in 0..70 {
        coins.push(coin(miner, 1, 20_000).await);
    }
    miner.mine(1).await.unwrap();
    let mut take = |n: usize| coins.drain(..n).collect::<Vec<_>>();

    // One payment for each number of inputs and outputs.
    let mut kinds = Vec::new();
    for (inputs, outputs) in [(1, 1), (1, 5), (2, 1), (5, 20), (1, 400)] {
        let paid = (0..outputs).map(|_| pay(5)).collect();
        kinds.push(("payment", at_rate(&take(inputs), 1, paid)));
    }
    kinds.push(("change in pieces", at_rate(&take(1), 1, (0..4).map(|_| pay(3_000)).collect())));
    // The smallest output there is, and an exact payment without change.
    kinds.push(("payment of 1 sat", at_rate(&take(1), 1, vec![pay(1)])));
    let exact = take(1);
    kinds.push(("payment without change", spend(&exact, 1, vec![pay(20_000 - 20)])));
    // An anchor holds a root of 32 bytes beside some numbers; an advertisement holds a signed record.
    let anchor = data_output(&[b"SENSORA_PROOF", &[2], &[7; 32], &[1, 2, 3, 4]]);
    kinds.push(("anchor", at_rate(&take(1), 1, vec![anchor])));
    for size in [0, 1, 75, 76, 255, 256, 600, 4_096] {
        let ad = data_output(&[b"SENSORA_ADV", &[2], &vec![0x5a; size]]);
        kinds.push(("advertisement", at_rate(&take(1), 1, vec![ad])));
    }
    kinds.push((
        "data that could be a script",
        at_rate(&take(1), 1, vec![data_output(&[&[0x4d, 0xff, 0xff, 0x6a]])]),
    ));
    kinds.push(("consolidation", at_rate(&take(40), 1, Vec::new())));
    kinds.push(("sweep", spend(&take(2), 1, vec![pay_to_hash(&[0xc0; 20], sat(40_000 - 40))])));
    world.check(&kinds).await;
}

/// The wallet's own: funded by the faucet, it pays, cuts its change, anchors, and takes a payment back.
#[tokio::test]
async fn what_the_wallet_builds_is_taken_relayed_and_mined() {
    let Some(world) = world().await else { return };
    let (miner, service) = (&world.miner, world.first.service());
    let root = PrivateKey::from_bytes([0x77; 32]).unwrap();
    let mut wallet = Wallet::new();
    let mut funding = Vec::new();
    for _ in 0..5 {
        let address = wallet.funding_address(&root, Network::Regtest).unwrap();
        funding.push(miner.faucet(&address.locking_script(), sat(100_000)).await.unwrap());
    }
    miner.mine(1).await.unwrap();
    for tx in funding {
        let Report::Mined(path) = service.report(&tx.txid()).await.unwrap() else { panic!("not mined") };
        let received = Received {
            outputs: wallet.recognise(&tx),
            tx,
            ancestors: None,
            path: Some(path),
            broadcast: true,
            label: "funding".into(),
            now_ms: NOW,
        };
        assert_eq!(wallet.receive(&root, received).unwrap(), sat(100_000));
    }
    let build = |wallet: &mut Wallet, outputs: Vec<TxOut>| -> Built {
        let spec = PaymentSpec {
            outputs,
            label: "a test".into(),
            fee: RATE_HERE,
            max_fee: sat(10_000),
            spends: Vec::new(),
        };
        wallet.build(&root, spec, NOW).unwrap()
    };
    let payment = build(&mut wallet, vec![pay(12_345)]);
    let many = build(&mut wallet, (0..30).map(|_| pay(700)).collect());
    let anchor = build(&mut wallet, vec![data_output(&[b"SENSORA_PROOF", &[3; 64]])]);
    let refused = build(&mut wallet, vec![pay(50_000)]);
    let back = wallet.reclaim(&root, &refused.txid, RATE_HERE, sat(10_000), NOW).unwrap();
    assert!(payment.tx.outputs.len() > 2, "the change is cut");
    let kinds = [
        ("payment", payment.tx),
        ("payment to many", many.tx),
        ("anchor", anchor.tx),
        ("coins taken back", back.tx.clone()),
    ];
    world.check(&kinds).await;
    // The payment that was taken back can never be taken any more.
    let by_back = Report::DoubleSpent { competing: vec![back.txid] };
    assert_eq!(submit(&service, &refused.tx).await, by_back);
}

/// What this file believes of the node's rules, so that a node with laxer ones does not make its tests say nothing.
#[tokio::test]
async fn the_node_refuses_what_the_main_network_refuses() {
    let Some(node) = Node::start(&[]).await else { return };
    let (miner, service) = (node.miner().await, node.service());
    let from = [coin(&miner, 1, 20_000).await];
    miner.mine(1).await.unwrap();
    let mut bare_return = pay(0);
    bare_return.locking = sensora_chain::Script::new(vec![0x6a, 1, 7]);
    for (what, outputs) in [("no value", vec![pay(0)]), ("data that can be spent", vec![bare_return])] {
        let tx = spend(&from, 1, outputs);
        assert!(matches!(submit(&service, &tx).await, Report::Rejected { code: 464, .. }), "{what}");
    }
    // Without a fee it is taken, and never mined: "seen" says nothing of the fee.
    let free = spend(&from, 1, vec![pay(20_000)]);
    assert_eq!(submit(&service, &free).await, Report::Seen);
    miner.mine(2).await.unwrap();
    assert_eq!(service.report(&free.txid()).await.unwrap(), Report::Seen);
    let waiting = node.call("getrawmempool", json!([])).await;
    assert_eq!(waiting, json!([free.txid()]));
}
