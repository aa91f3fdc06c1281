//! A market on a real node: who asks it, who mines, and when all is quiet.

use std::collections::BTreeMap;
use std::time::Duration;

use sensora_chain::sources::node_rpc::Regtest;
use sensora_chain::wallet::{Coin, Status};
use sensora_chain::{OutPoint, PrivateKey, Satoshis, Txid};
use sensora_node::agent::source::RawReading;
use sensora_node::buyer::BuyRequest;
use sensora_node::chain_access::ServicesOptions;
use sensora_node::store::{orders, outbox};
use sensora_node::supervisor::{ChainRole, Node, NodeOptions, ServicesRole};
use sensora_protocol::StreamId;
use sensora_protocol::ad::StreamAd;
use sensora_protocol::market::offer::Range;
use sensora_protocol::market::purchase::PurchaseState;
use serde_json::json;

use super::node::Node as RealNode;
use crate::world::{Place, agent, fund, limits, options, sim, until};

/// An hour: blocks come when the test says so.
pub(super) const NEVER: Duration = Duration::from_secs(3600);

/// Who asks the real node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// The bootstrap node, and the others ask it.
    Served,
    /// Every node for itself.
    Each,
}

/// Bootstrap, agent and buyer on a real node.
pub(super) struct Stage {
    pub(super) real: RealNode,
    pub(super) miner: Regtest,
    pub(super) bootstrap: Node,
    pub(super) agent: Node,
    pub(super) buyer: Node,
    pub(super) stream: StreamAd,
}

/// The real node as a node's only chain service.
pub(super) fn services(real: &RealNode, zmq: bool) -> ServicesRole {
    let mut config = real.config();
    if !zmq {
        config.zmq = None;
    }
    let services = ServicesOptions { services: vec![config], ..ServicesOptions::default() };
    ServicesRole { services, peers: Vec::new(), serve: true, mine: None }
}

impl Stage {
    /// A market in which the agent has recorded `readings` and the buyer has a million satoshis; `None` where the test is skipped.
    pub(super) async fn new(layout: Layout, zmq: bool, readings: u64) -> Option<Self> {
        let real = RealNode::start(&[]).await?;
        let miner = Regtest::new(real.client(), PrivateKey::from_bytes([0x51; 32]).unwrap()).await.unwrap();
        let mut config = options(1, &Place::Memory);
        config.chain = ChainRole::Services(ServicesRole { mine: Some(NEVER), ..services(&real, zmq) });
        let bootstrap = Node::start(config).await.unwrap();
        let addresses = bootstrap.addresses().await;
        let with = |seed| -> NodeOptions {
            let mut config = options(seed, &Place::Memory);
            config.bootstrap.clone_from(&addresses);
            if layout == Layout::Each {
                config.chain = ChainRole::Services(services(&real, zmq));
            }
            config
        };
        let mut config = with(2);
        config.agent = Some(agent(vec![sim(readings)]));
        let agent = Node::start(config).await.unwrap();
        let buyer = Node::start(with(3)).await.unwrap();
        fund(&buyer, 1_000_000).await;
        until("the source to end", || async {
            let ended = agent.agent().unwrap().ended_sources().await;
            (!ended.is_empty() && ended.iter().all(|end| end.outcome.is_ok())).then_some(())
        })
        .await;
        let seller = *agent.identity().public();
        let stream = until("the ad", || async {
            let found = buyer.discovery().ad_of(&seller).await.ok()?;
            found.ad.value().streams.first().cloned()
        })
        .await;
        Some(Self { real, miner, bootstrap, agent, buyer, stream })
    }

    pub(super) fn nodes(&self) -> [(&'static str, &Node); 3] {
        [("bootstrap", &self.bootstrap), ("agent", &self.agent), ("buyer", &self.buyer)]
    }

    pub(super) fn traders(&self) -> [(&'static str, &Node); 2] {
        [("agent", &self.agent), ("buyer", &self.buyer)]
    }

    pub(super) fn stream_id(&self) -> StreamId {
        self.stream.id
    }

    pub(super) fn request(&self, range: Range) -> BuyRequest {
        let seller = *self.agent.identity().public();
        let ad = Some(self.stream.clone());
        BuyRequest { seller, stream: self.stream.id, range, limits: limits(), ad }
    }

    /// Records more readings.
    pub(super) fn append(&self, count: u64) {
        let recorder = self.agent.agent().unwrap().recorder();
        let id = self.stream.id;
        let size = recorder.summary(&id).unwrap().size;
        let last = recorder.readings(&id, size - 1, size).unwrap().remove(0);
        let more = (1..=i64::try_from(count).unwrap())
            .map(|n| RawReading { time: last.time + n * 1_000_000, values: last.values.clone() })
            .collect();
        recorder.append(vec![(id, more)]).unwrap();
    }

    pub(super) fn recorded(&self) -> u64 {
        self.agent.agent().unwrap().recorder().summary(&self.stream.id).unwrap().size
    }

    /// Mines blocks with everything that waits.
    pub(super) async fn mine(&self, count: u32) {
        self.miner.mine(count).await.unwrap();
    }

    /// Every node looks at the chain now.
    pub(super) async fn look(&self) {
        for (name, node) in self.nodes() {
            if let Err(error) = node.chain().refresh().await {
                eprintln!("{name}: {error}");
            }
        }
    }

    /// Mines until nothing is under way any more: every transaction is in a block or does not stand, everything is anchored, and every order has
    /// come to an end.
    pub(super) async fn quiet(&self, what: &str) {
        let rounds = std::cell::Cell::new(0);
        until(what, || async {
            // A few blocks at once; then not so many that what happened is long ago for the node.
            if rounds.get() < 3 || rounds.get() % 10 == 0 {
                self.mine(1).await;
            }
            self.look().await;
            tokio::time::sleep(Duration::from_millis(60)).await;
            let Some(restless) = self.restless() else { return Some(()) };
            rounds.set(rounds.get() + 1);
            if rounds.get() % 50 == 0 {
                eprintln!("{what}: {restless}");
            }
            None
        })
        .await;
    }

    /// What is still under way.
    pub(super) fn restless(&self) -> Option<String> {
        for (name, node) in self.nodes() {
            for line in node.wallet().history().unwrap() {
                if !matches!(line.status, Status::Mined { .. }) && !line.status.is_dead() {
                    return Some(format!("{name}: {} is {}", line.label, line.status));
                }
            }
            if !node.store().read(outbox::all).unwrap().is_empty() {
                return Some(format!("{name}: something waits in the outbox"));
            }
            if node.chain().headers().tip() != self.bootstrap.chain().headers().tip() {
                return Some(format!("{name} has another tip"));
            }
        }
        let anchorer = self.agent.agent().unwrap().anchorer();
        let lag = anchorer.lag(&self.stream.id).unwrap();
        if lag.readings > 0 {
            return Some(format!("{} readings are not anchored", lag.readings));
        }
        None
    }

    /// The coins of a node and their keys.
    pub(super) fn coins(&self, node: &Node) -> BTreeMap<OutPoint, Coin> {
        node.wallet().coins().into_iter().map(|coin| (coin.outpoint, coin)).collect()
    }

    /// Every wallet agrees with itself and with the chain, and the real node has each coin, unspent and of the same value.
    pub(super) async fn audit(&self) {
        for (name, node) in self.nodes() {
            let balance = node.wallet().audit().unwrap_or_else(|error| panic!("{name}: {error}"));
            let compared = node.wallet().audit_chain().await.unwrap();
            assert_eq!(compared.differences, [], "{name}: {compared:?}");
            let mut held = 0;
            for coin in node.wallet().coins() {
                let at = coin.outpoint;
                let said = self.real.call("gettxout", json!([at.txid.to_string(), at.vout])).await;
                let value = said["value"].as_f64();
                let value = value.unwrap_or_else(|| panic!("{name}: the node does not have {coin:?}"));
                let sat = Satoshis::from_sat((value * 1e8).round() as u64);
                assert_eq!(sat, coin.value, "{name}: {coin:?}");
                held += sat.as_u64();
            }
            assert_eq!(held, balance.total.as_u64(), "{name}: to the satoshi");
            assert_eq!(balance.reserved, Satoshis::ZERO, "{name}: nothing is reserved for ever");
        }
    }

    /// The buyer's complete orders: each with one payment, each with one sale where its payment stands, and no reading in two of them.
    pub(super) fn charged_once(&self) {
        let mut covered = BTreeMap::new();
        for purchase in self.buyer.store().read(orders::purchases).unwrap() {
            let offer = purchase.terms(self.buyer.network()).unwrap();
            let terms = offer.value();
            let paid = settled(&self.buyer, &format!("order {}", purchase.id));
            let sold = settled(&self.agent, &format!("sale {}", purchase.id));
            let Some(payment) = &purchase.payment else { continue };
            let here = self.buyer.wallet().status(&payment.txid);
            match &purchase.state {
                PurchaseState::Complete { .. } => {
                    for seq in terms.first..terms.first + terms.count {
                        let before = covered.insert(seq, purchase.id);
                        assert_eq!(before, None, "reading {seq} was bought twice");
                    }
                    let there = self.agent.wallet().status(&payment.txid);
                    let stands = |status: &Option<Status>| status.as_ref().is_some_and(Status::is_settled);
                    assert_eq!(stands(&here), stands(&there), "both sides say the same: {here:?}, {there:?}");
                    if stands(&here) {
                        assert_eq!(sold, [terms.total.as_u64().cast_signed()], "one sale");
                        assert_eq!(paid.len(), 1, "one payment");
                    } else {
                        assert!(named(&here).is_some(), "what outdid it has a name: {here:?}");
                    }
                }
                PurchaseState::TakenBack { .. } => {
                    assert_eq!((sold.as_slice(), paid.as_slice()), ([].as_slice(), [].as_slice()));
                }
                other => panic!("order {} is {}", purchase.id, other.name()),
            }
        }
    }

    pub(super) async fn shutdown(self) {
        for node in [&self.buyer, &self.agent, &self.bootstrap] {
            node.shutdown().await;
        }
    }
}

/// What the settled lines of history with this label say.
pub(super) fn settled(node: &Node, label: &str) -> Vec<i64> {
    let history = node.wallet().history().unwrap();
    let lines = history.iter().filter(|line| line.label == label && line.status.is_settled());
    lines.map(|line| line.delta_sat).collect()
}

/// The transaction that stands in the place of one that does not.
pub(super) fn named(status: &Option<Status>) -> Option<Txid> {
    match status {
        Some(Status::Conflicted { by }) => Some(*by),
        Some(Status::Rejected { reason }) => reason.split(' ').find_map(|word| word.parse().ok()),
        _ => None,
    }
}
