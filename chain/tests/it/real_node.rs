//! The development chain against a real BSV node: the node takes every transaction and every block of it.
//!
//! Runs where `SENSORA_BITCOIND` names a `bitcoind` of a BSV node with `bitcoin-cli` beside it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sensora_chain::Transaction;
use sensora_chain::sources::dev::{DevChain, OnReorg, Reject};

use super::dev_chain::{NOW, chain, coin, lock, pay, refused, sat, spend};

struct Node {
    process: Child,
    cli: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
}

impl Node {
    fn start(bitcoind: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, p2p) = (free(), free());
        std::fs::write(dir.path().join("bitcoin.conf"), "").unwrap();
        let process = Command::new(bitcoind)
            .args(["-regtest", "-server=1", "-daemon=0", "-printtoconsole=0", "-disablewallet=1"])
            .args(["-rpcuser=u", "-rpcpassword=p", "-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1"])
            .args(["-dnsseed=0", "-discover=0", "-upnp=0", "-listenonion=0", "-bind=127.0.0.1"])
            .args([
                "-genesisactivationheight=1",
                "-excessiveblocksize=1GB",
                "-maxstackmemoryusageconsensus=0",
            ])
            .args(["-minminingtxfee=0.000001", "-acceptnonstdtxn=0", "-txindex=1"])
            .arg(format!("-datadir={}", dir.path().display()))
            .arg(format!("-rpcport={port}"))
            .arg(format!("-port={p2p}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let node = Self { process, cli: bitcoind.with_file_name("bitcoin-cli"), dir, port };
        let up = (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            node.call("getblockcount", &[]).is_ok()
        });
        assert!(up, "the node does not answer");
        node
    }

    /// Calls the node; arguments go over standard input, since a block is longer than a command line.
    fn call(&self, method: &str, arguments: &[&str]) -> Result<String, String> {
        let mut process = Command::new(&self.cli)
            .args(["-regtest", "-rpcuser=u", "-rpcpassword=p", "-stdin"])
            .arg(format!("-datadir={}", self.dir.path().display()))
            .arg(format!("-rpcport={}", self.port))
            .arg(method)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(arguments.join("\n").as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn send(&self, tx: &Transaction) -> Result<String, String> {
        self.call("sendrawtransaction", &[&tx.to_string()])
    }

    /// Gives the node all blocks from a height upwards, each transaction before its block.
    fn follow(&self, chain: &DevChain, from: u32, send: bool) {
        for height in from..=chain.tip().unwrap().height {
            for txid in chain.block_txids(height).unwrap().unwrap().iter().skip(1).filter(|_| send) {
                let tx = chain.transaction(txid).unwrap().unwrap();
                assert_eq!(self.send(&tx), Ok(txid.to_string()), "at height {height}");
            }
            let block = hex::encode(chain.block_bytes(height).unwrap().unwrap());
            // A branch that is not the longest yet is valid but "inconclusive".
            let said = self.call("submitblock", &[&block]);
            assert!(matches!(said.as_deref(), Ok("" | "inconclusive")), "block {height}: {said:?}");
        }
        assert_eq!(self.call("getbestblockhash", &[]), Ok(chain.tip().unwrap().hash.to_string()));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.call("stop", &[]);
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_node_takes_every_transaction_and_block() {
    let Some(bitcoind) = std::env::var_os("SENSORA_BITCOIND") else {
        eprintln!("skipped: SENSORA_BITCOIND does not name a BSV node");
        return;
    };
    let (node, chain) = (Node::start(Path::new(&bitcoind)), chain());
    node.follow(&chain, 1, true);

    let first = chain.tip().unwrap().height + 1;
    for round in 0..6u8 {
        for n in 0..=round {
            let mut from = coin(&chain, n, 10_000);
            for step in 0..3u64 {
                let mut outputs = vec![pay(100), sensora_chain::contract::data_output(&[b"TAG", &[n; 300]])];
                outputs[0].locking = lock(n);
                outputs[0].value = sat(9_000 - step * 1_000);
                let tx = spend(&[from], n, outputs);
                chain.submit(&tx).unwrap();
                from = (sensora_chain::OutPoint { txid: tx.txid(), vout: 0 }, tx.outputs[0].clone());
            }
        }
        chain.mine(NOW).unwrap();
    }
    node.follow(&chain, first, true);

    // What is refused here for a rule of the network, the node refuses in the same words.
    let from = [coin(&chain, 1, 10_000)];
    chain.mine(NOW).unwrap();
    node.follow(&chain, chain.tip().unwrap().height, true);
    let mut dust = spend(&from, 1, vec![pay(9_000), pay(1)]);
    dust.outputs[1].value = sat(0);
    let dust = super::dev_chain::signed(dust, &from, 1);
    let greedy = spend(&from, 1, vec![pay(10_001)]);
    let mut forged = spend(&from, 1, vec![pay(9_000)]);
    forged.outputs[0].value = sat(8_000);
    let mut locked = spend(&from, 1, vec![pay(9_000)]);
    locked.lock_time = chain.tip().unwrap().height + 5;
    let script_hash = sensora_chain::TxOut {
        value: sat(500),
        locking: sensora_chain::Script::new([&[0xa9, 20], [1; 20].as_slice(), &[0x87]].concat()),
    };
    let p2sh = spend(&from, 1, vec![pay(9_000), script_hash]);
    for tx in [&dust, &greedy, &forged, &p2sh] {
        let reject: Reject = refused(&chain, tx);
        let said = node.send(tx).unwrap_err();
        assert!(said.contains(reject.reason()), "{} here, the node says {said}", reject.reason());
    }
    let good = spend(&from, 1, vec![pay(9_000)]);
    chain.submit(&good).unwrap();
    assert_eq!(node.send(&good), Ok(good.txid().to_string()));
    let double = spend(&from, 1, vec![pay(8_000)]);
    assert_eq!(refused(&chain, &double).reason(), "txn-mempool-conflict");
    assert!(node.send(&double).unwrap_err().contains("txn-mempool-conflict"));

    // A reorganisation is one for the node, too.
    let reorged = chain.reorg(3, NOW, OnReorg::Requeue).unwrap();
    node.follow(&chain, reorged.first_height, false);
    let height = chain.mine(NOW).unwrap().height;
    node.follow(&chain, height, false);
    let count = node.call("getblockcount", &[]).unwrap();
    assert_eq!(count, height.to_string());
}
