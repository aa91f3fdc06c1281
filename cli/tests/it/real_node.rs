//! A real node in regtest, for the tests that are run on one.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that the node may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running node; it ends with this value.
pub(crate) struct RealNode {
    process: Child,
    rpc: u16,
    _dir: tempfile::TempDir,
}

impl RealNode {
    /// Starts the node that SENSORA_BITCOIND names. Where it is not set the test says that it is skipped, unless a node is required.
    pub(crate) fn start() -> Option<Self> {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        let program = std::env::var_os("SENSORA_BITCOIND").map(PathBuf::from).filter(|path| path.is_file());
        let Some(program) = program else {
            let reason = "SENSORA_BITCOIND does not name a BSV node's bitcoind (docs/testing.md)";
            assert!(std::env::var("SENSORA_REQUIRE_NODE").as_deref() != Ok("1"), "{test}: {reason}");
            eprintln!("skipped {test}: {reason}");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("bitcoin.conf");
        std::fs::write(&conf, "").unwrap();
        let (rpc, p2p) = (free_port(), free_port());
        let process = Command::new(&program)
            .args(["-regtest", "-server=1", "-daemon=0", "-printtoconsole=0", "-disablewallet=1"])
            .args(["-rpcuser=u", "-rpcpassword=p", "-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1"])
            .args(["-listen=1", "-dnsseed=0", "-discover=0", "-upnp=0", "-listenonion=0"])
            .args(["-whitelist=127.0.0.1", "-genesisactivationheight=1", "-excessiveblocksize=1GB"])
            .args(["-maxstackmemoryusageconsensus=0", "-acceptnonstdtxn=0", "-minminingtxfee=0.000001"])
            // A busy machine may take longer for a script than the node allows by itself.
            .args(["-maxstdtxvalidationduration=5000", "-maxnonstdtxvalidationduration=10000"])
            .arg("-maxtxnvalidatorasynctasksrunduration=20000")
            .arg(format!("-datadir={}", dir.path().display()))
            .arg(format!("-conf={}", conf.display()))
            .arg(format!("-rpcport={rpc}"))
            .arg(format!("-bind=127.0.0.1:{p2p}"))
            .arg(format!("-port={p2p}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let node = Self { process, rpc, _dir: dir };
        let begun = Instant::now();
        while !node.answers() {
            assert!(begun.elapsed() < PATIENCE, "{} does not answer", program.display());
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(node)
    }

    /// Whether it answers a question, and not that it is still warming up.
    fn answers(&self) -> bool {
        use std::io::{Read as _, Write as _};
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.rpc)) else { return false };
        let body = r#"{"method":"getblockcount","params":[],"id":1}"#;
        // "u:p" in base64.
        let head = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic dTpw\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut answer = String::new();
        stream.write_all(format!("{head}{body}").as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains("\"result\":0")
    }

    /// What `--chain` takes.
    pub(crate) fn chain(&self) -> String {
        format!("node-rpc=http://u:p@127.0.0.1:{}", self.rpc)
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
