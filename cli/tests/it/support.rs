//! Running the binary, and a bootstrap node with the development chain for it to meet.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sensora_chain::keys::PrivateKey;
use sensora_chain::sources::service::{ServiceConfig, ServiceKind};
use sensora_chain::{FeeRate, Network, Satoshis};
use sensora_node::chain_access::ServicesOptions;
use sensora_node::clock::Clock;
use sensora_node::fees::FeeLimits;
use sensora_node::net::Transport;
use sensora_node::store::Store;
use sensora_node::supervisor::{ChainRole, Node, NodeOptions, ServicesRole};
use sensora_node::wallet::SweepPolicy;
use sensora_protocol::Identity;
use sensora_protocol::market::budget::Budgets;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::json_doc;
use crate::real_node::RealNode;

/// A run of the binary that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What it was called with.
    words: Vec<String>,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(mut command: Command) -> Self {
        let output = command.output().expect("the binary runs");
        Self::after(words(&command), output)
    }

    fn after(words: Vec<String>, output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            words,
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The one JSON document on standard output, whose fields are those of `docs/cli.md`.
    pub(crate) fn json(&self) -> Value {
        let document =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        json_doc::check(&self.words, &document);
        document
    }

    /// The JSON lines on standard output, whose fields are those of `docs/cli.md`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let event = |line: &str| {
            let event = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            json_doc::check(&self.words, &event);
            event
        };
        self.stdout.lines().map(event).collect()
    }

    /// The error document on standard error; warnings may stand before it.
    pub(crate) fn error(&self) -> Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        let document: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        document["error"].clone()
    }

    /// Asserts the exit code, showing everything where it is another.
    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

/// What a command is called with.
fn words(command: &Command) -> Vec<String> {
    command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The binary with a clean environment.
pub(crate) fn sensora() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sensora"));
    for variable in [
        "SENSORA_HOME",
        "SENSORA_PASSPHRASE",
        "SENSORA_BACKUP_PASSPHRASE",
        "SENSORA_BOOTSTRAP",
        "SENSORA_CHAIN",
        "SENSORA_LOG",
    ] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the binary with these words, split at spaces.
pub(crate) fn run(line: &str) -> Ran {
    let mut command = sensora();
    command.args(line.split(' '));
    Ran::of(command)
}

/// Runs the binary with something on its standard input.
pub(crate) fn run_with_input(line: &str, input: &str) -> Ran {
    let mut command = sensora();
    command.args(line.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    Ran::after(words(&command), child.wait_with_output().expect("it ends"))
}

/// A bootstrap node with the development chain, in this process, and a directory for homes.
pub(crate) struct World {
    dir: TempDir,
    address: String,
    node: Node,
    runtime: Runtime,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(ChainRole::DevChain { path: None, block_interval: Duration::from_secs(1) })
    }

    /// A world whose chain is a real node in regtest; the bootstrap node mines there and answers the others from it.
    pub(crate) fn on_node(node: &RealNode) -> Self {
        let config = ServiceConfig {
            name: "node".to_owned(),
            kind: ServiceKind::NodeRpc,
            network: Network::Regtest,
            url: node.url(),
            key: None,
            requests_per_second: None,
            zmq: None,
            timeout: ServiceConfig::TIMEOUT,
        };
        let services = ServicesOptions { services: vec![config], ..ServicesOptions::default() };
        let mine = Some(Duration::from_secs(1));
        Self::on(ChainRole::Services(ServicesRole { services, peers: Vec::new(), serve: true, mine }))
    }

    fn on(chain: ChainRole) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let mut secret = [0x42; 32];
        secret[..4].copy_from_slice(&std::process::id().to_be_bytes());
        let identity = Identity::new(PrivateKey::from_bytes(secret).unwrap());
        let options = NodeOptions {
            network: Network::Regtest,
            store: Store::in_memory(Network::Regtest, identity.public()).unwrap(),
            identity,
            home: None,
            clock: Clock::system(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            external: Vec::new(),
            bootstrap: Vec::new(),
            mdns: false,
            transport: Transport::Real,
            chain,
            fees: FeeLimits::fixed(FeeRate::DEFAULT, Satoshis::from_sat(10_000)),
            sweep: SweepPolicy::default(),
            budgets: Budgets::UNLIMITED,
            agent: None,
        };
        let node = runtime.block_on(Node::start(options)).unwrap();
        let address = runtime.block_on(node.addresses())[0].to_string();
        Self { dir, address, node, runtime }
    }

    /// Mines blocks with whatever waits.
    pub(crate) fn mine(&self, blocks: u32) {
        for _ in 0..blocks {
            self.runtime.block_on(self.node.chain().mine()).unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a home that knows the bootstrap node, on loopback only.
    pub(crate) fn home(&self, name: &str) -> Home<'_> {
        let home = Home { world: self, path: self.path(name) };
        let address = &self.address;
        home.run(&format!("init --bootstrap {address} --listen /ip4/127.0.0.1/tcp/0")).ends_with(0);
        let config = home.path.join("config.toml");
        let text = std::fs::read_to_string(&config).unwrap().replace("#mdns = true", "mdns = false");
        std::fs::write(&config, text).unwrap();
        home
    }

    /// A home with a million satoshis.
    pub(crate) fn funded(&self, name: &str) -> Home<'_> {
        let home = self.home(name);
        home.run("wallet fund 1000000 --json").ends_with(0);
        home
    }

    /// A recording of `rows` rows, five minutes apart.
    pub(crate) fn recording(&self, name: &str, rows: u32) -> PathBuf {
        let mut text = String::from("timestamp,value\n");
        for row in 0..rows {
            let time = jiff::Timestamp::from_second(1_600_000_000 + i64::from(row) * 300).unwrap();
            text.push_str(&format!("{time},{}\n", f64::from(row * 7919 % 1000) / 10.0));
        }
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.runtime.block_on(self.node.shutdown());
    }
}

/// One home and the binary on it.
#[derive(Clone)]
pub(crate) struct Home<'a> {
    pub(crate) world: &'a World,
    pub(crate) path: PathBuf,
}

impl Home<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = sensora();
        command.arg("--home").arg(&self.path).args(line.split(' ')).current_dir(self.world.dir.path());
        command
    }

    /// The same world from another directory.
    pub(crate) fn elsewhere(&self, path: &Path) -> Self {
        Self { world: self.world, path: path.to_owned() }
    }

    pub(crate) fn run(&self, line: &str) -> Ran {
        Ran::of(self.command(line))
    }

    /// The number at a JSON pointer of what a command prints.
    pub(crate) fn number(&self, line: &str, pointer: &str) -> i64 {
        let document = self.run(line).ends_with(0).json();
        document
            .pointer(pointer)
            .and_then(Value::as_i64)
            .unwrap_or_else(|| panic!("{pointer} in {document:#}"))
    }

    /// Starts a command and leaves it running.
    pub(crate) fn spawn(&self, line: &str) -> Running {
        let mut command = self.command(line);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        Running { words: words(&command), child: Some(child), said: None }
    }

    /// Starts an agent on a recording and waits until all of it is for sale.
    pub(crate) fn sell(&self, recording: &Path, rows: u64) -> Running {
        let line = format!(
            "agent --json --csv {} --name machine --price 0.1 --anchor-every 1 --listen /ip4/127.0.0.1/tcp/0",
            recording.display()
        );
        let mut running = self.spawn(&line);
        running.wait_for(|event| {
            let is_all =
                event["readings"] == rows || event.pointer("/streams/0/readings") == Some(&rows.into());
            is_all && (event["event"] == "recorded" || event["event"] == "ready")
        });
        running
    }
}

/// How long a program may take to end when it is asked to. A live stream waits for its seller's receipt.
const STOPS_WITHIN: Duration = Duration::from_secs(180);

/// A process under way; killed when dropped.
pub(crate) struct Running {
    words: Vec<String>,
    child: Option<Child>,
    /// What it has written to standard output since somebody waits for it, and to standard error.
    said: Option<(Receiver<Value>, Option<JoinHandle<String>>)>,
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it runs")
    }

    /// Reads JSON lines until one is the wanted one, from behind the one that was wanted before. A thread reads on meanwhile, so that the pipe never fills.
    pub(crate) fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if self.said.is_none() {
            self.said = Some(self.listen());
        }
        let (events, errors) = self.said.as_mut().expect("it is listened to");
        let found = events.iter().find(|event| wanted(event));
        found.unwrap_or_else(|| {
            let errors = errors.take().map(JoinHandle::join);
            panic!("it ended first: {}", errors.and_then(Result::ok).unwrap_or_default())
        })
    }

    fn listen(&mut self) -> (Receiver<Value>, Option<JoinHandle<String>>) {
        let stdout = self.child().stdout.take().expect("its output is not read yet");
        let stderr = self.child().stderr.take().expect("its errors are not read yet");
        let errors = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
        let (sender, events) = channel();
        let words = self.words.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).expect("a JSON line");
                json_doc::check(&words, &event);
                // Whoever waits no more lets it go on.
                drop(sender.send(event));
            }
        });
        (events, Some(errors))
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        let _ = self.child().kill();
        let _ = self.child().wait();
        self.child = None;
    }

    /// Asks it to stop, as Ctrl-C does, and waits for its end.
    pub(crate) fn interrupt(mut self) -> i32 {
        let pid = self.child().id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
        let deadline = Instant::now() + STOPS_WITHIN;
        loop {
            if let Some(status) = self.child().try_wait().expect("it ends") {
                self.child = None;
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "it was asked to stop, and goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ran {
        let child = self.child.take().expect("it runs");
        Ran::after(std::mem::take(&mut self.words), child.wait_with_output().expect("it ends"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
