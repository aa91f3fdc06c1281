//! A wallet on a real node that is killed at every step of a payment's life, and one whose coins went elsewhere long ago.

use std::time::Duration;

use sensora_chain::sources::node_rpc::Regtest;
use sensora_chain::wallet::Status;
use sensora_chain::{Address, Network, PrivateKey, Satoshis, Script, TxOut, Txid};
use sensora_node::store::outbox;
use sensora_node::supervisor::{ChainRole, Node, ServicesRole};
use sensora_node::wallet::WalletHandleError;

use super::node::Node as RealNode;
use super::stage::{NEVER, services};
use crate::crash::{KEPT, Mortal};
use crate::world::{Place, fund, options, until};

/// A mortal node that asks a bootstrap node, which asks a real node.
struct Life {
    _real: RealNode,
    miner: Regtest,
    bootstrap: Node,
    mortal: Mortal,
}

impl Life {
    async fn new() -> Option<Self> {
        let real = RealNode::start(&[]).await?;
        let miner = Regtest::new(real.client(), PrivateKey::from_bytes([0x51; 32]).unwrap()).await.unwrap();
        let mut config = options(1, &Place::Memory);
        config.chain = ChainRole::Services(ServicesRole { mine: Some(NEVER), ..services(&real, true) });
        let bootstrap = Node::start(config).await.unwrap();
        let mortal = Mortal::new(3, &bootstrap.addresses().await, Vec::new()).await;
        fund(mortal.node(), 500_000).await;
        let life = Self { _real: real, miner, bootstrap, mortal };
        life.quiet().await;
        Some(life)
    }

    /// Looks, at a pace that nobody takes for an attack.
    async fn look(&self) {
        drop(self.bootstrap.chain().refresh().await);
        drop(self.mortal.node().chain().refresh().await);
        tokio::time::sleep(Duration::from_millis(80)).await;
    }

    fn is_quiet(&self) -> bool {
        let node = self.mortal.node();
        let over = |status: &Status| matches!(status, Status::Mined { .. }) || status.is_dead();
        let history = node.wallet().history().unwrap_or_default();
        history.iter().all(|line| over(&line.status))
            && node.store().read(outbox::all).is_ok_and(|waiting| waiting.is_empty())
            && node.chain().headers().tip() == self.bootstrap.chain().headers().tip()
    }

    async fn quiet(&self) {
        until("everything to be in a block", || async {
            self.miner.mine(1).await.unwrap();
            self.look().await;
            self.look().await;
            self.is_quiet().then_some(())
        })
        .await;
    }

    /// Waits for it, or for the disk to stop. Whether the node is alive.
    async fn reaches(&self, what: &str, txid: &Txid, wanted: impl Fn(&Status) -> bool) -> bool {
        until(what, || async {
            let status = self.mortal.node().wallet().status(txid);
            let done = self.mortal.disk.is_frozen() || status.as_ref().is_some_and(&wanted);
            if !done {
                self.look().await;
            }
            done.then_some(())
        })
        .await;
        !self.mortal.disk.is_frozen()
    }

    async fn pays(&self, depth: u32) -> Option<()> {
        let to = Address::new(Network::Regtest, [9; 20]);
        let sent = self.mortal.node().wallet().send(&to, Satoshis::from_sat(1_000)).await.ok()?.txid;
        let mined = |status: &Status| matches!(status, Status::Mined { .. });
        self.reaches("the payment to be seen", &sent, |s| *s == Status::Seen).await.then_some(())?;
        self.miner.mine(depth).await.unwrap();
        self.reaches("the payment to be mined", &sent, mined).await.then_some(())?;
        self.miner.reorg(depth, &[]).await.unwrap();
        self.reaches("the payment to be thrown out", &sent, |s| !mined(s)).await.then_some(())?;
        self.reaches("the payment to wait again", &sent, |s| *s == Status::Seen).await.then_some(())?;
        self.miner.mine(1).await.unwrap();
        self.reaches("the payment to be mined again", &sent, mined).await.then_some(())
    }

    async fn stop(mut self) {
        self.mortal.stop().await;
        self.bootstrap.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_killed_at_any_step_of_a_payments_life_agrees_with_the_node() {
    let Some(mut life) = Life::new().await else { return };
    for at in 1.. {
        life.mortal.disk.freeze_at_sync(at);
        let done = life.pays(1 + u32::try_from(at).unwrap() % 6).await;
        let died = life.mortal.disk.disarm() || done.is_none();
        if died {
            life.mortal.revive(KEPT[usize::try_from(at).unwrap() % KEPT.len()]).await;
        }
        life.quiet().await;
        let wallet = life.mortal.node().wallet().clone();
        let total = wallet.audit().unwrap().total.as_u64();
        let settled = wallet.history().unwrap().into_iter().filter(|line| line.status.is_settled());
        let sum: i64 = settled.map(|line| line.delta_sat).sum();
        assert_eq!(total.cast_signed(), sum);
        let compared = until("an answer of the chain", || async { wallet.audit_chain().await.ok() }).await;
        assert_eq!(compared.differences, [], "{compared:?}");
        if !died {
            eprintln!("killed at each of {} syncs", at - 1);
            assert!(at > 4, "built, out, seen, mined, thrown out and mined again are more than four: {at}");
            break;
        }
    }
    life.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coin_that_was_spent_too_long_ago_for_the_node_to_say_by_whom_keeps_nothing_waiting() {
    let Some(life) = Life::new().await else { return };
    let node = life.mortal.node();
    let wallet = node.wallet();
    // Another copy of this wallet has spent everything; what is on top of that is more than a node looks through.
    let all = TxOut { value: Satoshis::from_sat(499_980), locking: Script::p2pkh(&[9; 20]) };
    let spec = wallet.spec(vec![all], "elsewhere").unwrap();
    let elsewhere = wallet.read(Clone::clone).build(node.identity().key(), spec, 0).unwrap();
    life.bootstrap.chain().broadcast(&elsewhere.beef).await.unwrap();
    let late = TxOut { value: Satoshis::from_sat(1_000), locking: Script::p2pkh(&[7; 20]) };
    let spec = wallet.spec(vec![late], "late").unwrap();
    let late = wallet.read(Clone::clone).build(node.identity().key(), spec, 0).unwrap();
    life.miner.mine(20).await.unwrap();
    life.look().await;
    // Who is paid with such a coin is told so, and does not wait for a parent that is there.
    let refused = life.bootstrap.chain().broadcast(&late.beef).await.unwrap_err();
    assert_eq!(refused.label(), "double_spent", "{refused}");

    let to = Address::new(Network::Regtest, [8; 20]);
    let error = wallet.send(&to, Satoshis::from_sat(1_000)).await.unwrap_err();
    assert!(matches!(error, WalletHandleError::Rejected { .. }), "{error}");
    assert!(node.store().read(outbox::all).unwrap().is_empty(), "nothing waits for what can never be");
    assert_eq!(wallet.audit().unwrap().total, Satoshis::ZERO, "the wallet knows that the coin is gone");
    // What comes after it goes out.
    fund(node, 20_000).await;
    wallet.send(&to, Satoshis::from_sat(1_000)).await.unwrap();
    life.quiet().await;
    assert_eq!(wallet.audit_chain().await.unwrap().differences, []);
    life.stop().await;
}
