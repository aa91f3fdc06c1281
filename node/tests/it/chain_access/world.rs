//! A small world: servers with a development chain, clients without, and transactions to talk about.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::{data_output, payment};
use sensora_chain::header::HeaderChain;
use sensora_chain::sources::dev::{DevChain, DevChainConfig};
use sensora_chain::{FeeRate, Network, OutPoint, PrivateKey, Satoshis, Script, Transaction, TxIn, TxOut};
use sensora_node::chain_access::{
    ChainAccess, ChainOptions, ChainPeer, ChainService, ChainTasks, HeaderStore, MemoryHeaderStore,
    SourceOptions, refusal_frame, start,
};
use sensora_node::clock::Clock;
use sensora_node::net::{Multiaddr, Net, NetConfig, NetEvent, PeerId, Protocol, Transport};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Far above what any of this takes on a slow, busy machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// A day in 2026.
pub(super) const NOW_MS: i64 = 1_790_000_000_000;

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it happens within two minutes")
}

pub(super) fn clock() -> Clock {
    Clock::fixed(NOW_MS * 1_000_000)
}

pub(super) fn new_chain() -> DevChain {
    let db = redb::Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
    let chain = DevChain::open(Arc::new(db), DevChainConfig::default()).unwrap();
    chain.ensure_funded(NOW_MS).unwrap();
    chain
}

/// A node of the swarm whose requests are answered by `answer`.
pub(super) struct Peer {
    pub(super) net: Net,
    pub(super) addresses: Vec<Multiaddr>,
    _stop: DropGuard,
}

impl Peer {
    pub(super) async fn answering(
        answer: impl Fn(PeerId, &[u8]) -> Bytes + Clone + Send + Sync + 'static,
    ) -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).unwrap();
        (secret[0], secret[31]) = (1, 1);
        let mut config = NetConfig::new(secret.into(), "regtest");
        config.transport = Transport::Memory;
        config.listen = vec!["/memory/0".parse().unwrap()];
        config.refusal_frame = refusal_frame;
        let (net, runner, mut events) = Net::new(config).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(runner.run(stop.clone()));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let NetEvent::Request { peer, protocol: Protocol::Chain, body, responder } = event {
                    let answer = answer.clone();
                    tokio::task::spawn_blocking(move || responder.respond(answer(peer, &body)));
                }
            }
        });
        let addresses = within(net.listen_addrs()).await;
        Self { net, addresses, _stop: stop.drop_guard() }
    }

    /// A node that serves this chain.
    pub(super) async fn serving(chain: &DevChain) -> Self {
        let service = ChainService::new(Some(chain.clone()), clock());
        Self::answering(move |peer, body| service.answer(peer, body)).await
    }

    /// A node without a chain.
    pub(super) async fn plain() -> Self {
        let service = ChainService::new(None, clock());
        Self::answering(move |peer, body| service.answer(peer, body)).await
    }

    pub(super) fn id(&self) -> PeerId {
        self.net.peer_id()
    }

    pub(super) fn as_chain_peer(&self) -> ChainPeer {
        ChainPeer { peer: self.id(), addresses: self.addresses.clone() }
    }
}

/// A node that asks peers.
pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) chain: ChainAccess,
    pub(super) cancel: CancellationToken,
    pub(super) tasks: ChainTasks,
}

impl Client {
    pub(super) async fn of(servers: &[&Peer]) -> Self {
        Self::with_store(servers, Box::new(MemoryHeaderStore::default())).await
    }

    pub(super) async fn with_store(servers: &[&Peer], store: Box<dyn HeaderStore>) -> Self {
        let peer = Peer::plain().await;
        let peers = servers.iter().map(|server| server.as_chain_peer()).collect();
        let source = SourceOptions::Swarm { net: peer.net.clone(), peers };
        let cancel = CancellationToken::new();
        let (chain, tasks) = within(start(options(source, store), cancel.clone())).await.unwrap();
        Self { peer, chain, cancel, tasks }
    }

    /// Waits until the client's best chain ends where the server's does.
    pub(super) async fn follows(&self, server: &DevChain) {
        let mut watch = self.chain.tip_watch();
        within(watch.wait_for(|tip| tip.hash == server.tip().unwrap().hash)).await.unwrap();
    }

    /// Waits until somebody has been charged with an offence.
    pub(super) async fn has_charged(&self, liar: PeerId) {
        within(async {
            loop {
                let status = self.peer.net.status().await.unwrap();
                let score =
                    status.peers.iter().find(|known| known.peer == liar).map_or(0.0, |known| known.score);
                if score >= 1.0 || status.banned > 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

pub(super) fn options(source: SourceOptions, store: Box<dyn HeaderStore>) -> ChainOptions {
    ChainOptions {
        base: HeaderChain::genesis(Network::Regtest).unwrap(),
        source,
        store,
        clock: clock(),
        poll_interval: Duration::from_millis(50),
    }
}

pub(super) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes([seed; 32]).unwrap()
}

pub(super) fn script_of(key: &PrivateKey) -> Script {
    Script::p2pkh(&key.public().hash160())
}

/// A coin of `key`: the first output of the Atomic BEEF that pays it.
pub(super) struct Coin {
    pub(super) beef: Beef,
    pub(super) outpoint: OutPoint,
    pub(super) output: TxOut,
}

pub(super) fn coin(funding: &[u8], owner: &PrivateKey) -> Coin {
    let beef = Beef::parse(funding, &BeefLimits::DEFAULT).unwrap();
    let txid = beef.subject().unwrap();
    let outputs = &beef.transaction(&txid).unwrap().outputs;
    let vout = outputs.iter().position(|output| output.locking == script_of(owner)).unwrap();
    let output = outputs[vout].clone();
    Coin { outpoint: OutPoint { txid, vout: u32::try_from(vout).unwrap() }, output, beef }
}

/// Spends a coin into `outputs` and what is left, less `fee`, back to `owner`. The Atomic BEEF and the transaction.
pub(super) fn spend(
    coin: &Coin,
    owner: &PrivateKey,
    mut outputs: Vec<TxOut>,
    fee: u64,
) -> (Vec<u8>, Transaction) {
    let paid: u64 = outputs.iter().map(|output| output.value.as_u64()).sum();
    let change = Satoshis::from_sat(coin.output.value.as_u64() - paid - fee);
    outputs.push(TxOut { value: change, locking: script_of(owner) });
    let mut tx = Transaction::new(vec![TxIn::new(coin.outpoint)], outputs);
    payment::sign_input(&mut tx, 0, &coin.output, owner).unwrap();
    let mut beef = coin.beef.clone();
    let txid = beef.add(tx.clone(), None).unwrap();
    (beef.to_atomic(&txid).unwrap(), tx)
}

pub(super) fn fair_fee(data: usize) -> u64 {
    FeeRate::default().fee(300 + data).as_u64()
}

/// A transaction with data outputs, each of these items the first push of one.
pub(super) fn with_data(coin: &Coin, owner: &PrivateKey, tags: &[&[u8]]) -> (Vec<u8>, Transaction) {
    let outputs: Vec<TxOut> = tags.iter().map(|tag| data_output(&[tag, b"payload"])).collect();
    spend(coin, owner, outputs, fair_fee(tags.len() * 64))
}
