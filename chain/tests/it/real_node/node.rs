//! A node of its own for each test, on free ports of the loopback, gone when the test ends.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sensora_chain::sources::node_rpc::{NodeRpc, Regtest};
use sensora_chain::sources::service::{Report, Service, ServiceConfig, ServiceKind, SourceError, Submission};
use sensora_chain::{Network, PrivateKey, Transaction};
use serde_json::{Value, json};

/// The fee rate of the node's miner, in satoshis for 1,000 bytes.
pub(crate) const RATE: u64 = 100;

/// The most bytes of an answer in a test.
const LIMIT: usize = 64 * 1024 * 1024;

/// The node's program; without one the test says that it is skipped, or fails where a node is required.
fn bitcoind() -> Option<PathBuf> {
    let path = std::env::var_os("SENSORA_BITCOIND").map(PathBuf::from);
    if let Some(path) = path.filter(|path| path.is_file()) {
        return Some(path);
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let reason = "SENSORA_BITCOIND does not name a BSV node's bitcoind (docs/testing.md)";
    assert!(std::env::var("SENSORA_REQUIRE_NODE").as_deref() != Ok("1"), "{test}: {reason}");
    eprintln!("skipped {test}: {reason}");
    None
}

pub(crate) struct Node {
    program: PathBuf,
    process: Option<Child>,
    dir: tempfile::TempDir,
    options: Vec<String>,
    pub(crate) rpc: u16,
    pub(crate) p2p: u16,
    pub(crate) zmq: u16,
}

/// Ports that nobody listens on now, all different.
fn free_ports() -> [u16; 3] {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

impl Node {
    /// Starts a node; `None` where the test is skipped.
    pub(crate) async fn start(options: &[&str]) -> Option<Self> {
        let program = bitcoind()?;
        // A port may be taken between looking for it and using it.
        for _ in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("bitcoin.conf"), "").unwrap();
            let [rpc, p2p, zmq] = free_ports();
            let options = options.iter().map(|&option| option.to_owned()).collect();
            let mut node = Node { program: program.clone(), process: None, dir, options, rpc, p2p, zmq };
            if node.run().await {
                return Some(node);
            }
        }
        panic!("{} does not answer", program.display());
    }

    /// Starts the process and waits until it answers.
    pub(crate) async fn run(&mut self) -> bool {
        let dir = self.dir.path().display();
        let process = Command::new(&self.program)
            .args(["-regtest", "-server=1", "-daemon=0", "-printtoconsole=0", "-disablewallet=1"])
            .args(["-rpcuser=u", "-rpcpassword=p", "-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1"])
            .args(["-listen=1", "-dnsseed=0", "-discover=0", "-upnp=0", "-listenonion=0"])
            .args(["-whitelist=127.0.0.1", "-genesisactivationheight=1", "-excessiveblocksize=1GB"])
            .args(["-maxstackmemoryusageconsensus=0", "-acceptnonstdtxn=0"])
            // Two limits that are about a node's own peace and not about the rules: a script may take 3 ms, which a busy
            // machine exceeds, and a long fork stops the node (tests make many).
            .args(["-maxstdtxvalidationduration=5000", "-maxnonstdtxvalidationduration=10000"])
            .arg("-maxtxnvalidatorasynctasksrunduration=20000")
            .arg("-disablesafemode=1")
            // 0.000001 BSV for 1,000 bytes.
            .arg(format!("-minminingtxfee={}", RATE as f64 / 1e8))
            .arg(format!("-datadir={dir}"))
            .arg(format!("-conf={dir}/bitcoin.conf"))
            .arg(format!("-rpcport={}", self.rpc))
            .arg(format!("-bind=127.0.0.1:{}", self.p2p))
            .arg(format!("-port={}", self.p2p))
            .args(["hashblock", "rawtx"].map(|topic| format!("-zmqpub{topic}=tcp://127.0.0.1:{}", self.zmq)))
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let client = self.client();
        for _ in 0..600 {
            if client.call("getblockcount", json!([]), LIMIT).await.is_ok() {
                return true;
            }
            if self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some()) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Stops the process the way an operator does; what it knows is on disk then.
    pub(crate) async fn stop(&mut self) {
        self.call("stop", json!([])).await;
        let mut process = self.process.take().unwrap();
        while process.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn config(&self) -> ServiceConfig {
        ServiceConfig {
            name: "node".to_owned(),
            kind: ServiceKind::NodeRpc,
            network: Network::Regtest,
            url: format!("http://u:p@127.0.0.1:{}", self.rpc),
            key: None,
            requests_per_second: None,
            zmq: Some(format!("tcp://127.0.0.1:{}", self.zmq)),
            timeout: Duration::from_secs(30),
        }
    }

    pub(crate) fn client(&self) -> NodeRpc {
        NodeRpc::new(self.config()).unwrap()
    }

    pub(crate) fn service(&self) -> Service {
        Service::new(self.config()).unwrap()
    }

    /// The miner and faucet of this node, with coins.
    pub(crate) async fn miner(&self) -> Regtest {
        let key = PrivateKey::from_bytes([0x51; 32]).unwrap();
        let miner = Regtest::new(self.client(), key).await.unwrap();
        miner.ensure_funded(super::super::dev_chain::sat(1_000_000)).await.unwrap();
        miner
    }

    pub(crate) async fn ask(&self, method: &str, params: Value) -> Result<Value, SourceError> {
        self.client().call(method, params, LIMIT).await
    }

    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        self.ask(method, params).await.unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// Connects to another node, and waits until both have the same tip.
    pub(crate) async fn follow(&self, other: &Node) {
        self.call("addnode", json!([format!("127.0.0.1:{}", other.p2p), "add"])).await;
        let tip = other.call("getbestblockhash", json!([])).await;
        self.until("the tip of the other", async |node| {
            node.call("getbestblockhash", json!([])).await == tip
        })
        .await;
    }

    /// Asks again until it is so. The bound only ends a test that has failed.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn(&Node) -> bool) {
        for _ in 0..600 {
            if holds(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the node never has {what}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub(crate) fn submission(tx: &Transaction) -> Submission {
    Submission { tx: tx.clone(), spent: Vec::new() }
}

/// Sends one transaction.
pub(crate) async fn submit(service: &Service, tx: &Transaction) -> Report {
    service.submit(&[submission(tx)]).await.unwrap()
}
