//! `sensora-bootstrap`: the node that newcomers meet first. With `--dev-chain` it also mines the development chain and
//! serves it, so that a market can be tried with coins that are worth nothing.
//!
//! It is a node like any other that neither sells nor buys: what it knows of peers and ads it passes on.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use sensora_chain::{Network, Satoshis};
use sensora_node::clock::Clock;
use sensora_node::config::{ChainSection, Serve};
use sensora_node::fees::FeeLimits;
use sensora_node::home::{Home, HomePaths};
use sensora_node::keystore::{Key, KeystoreError, WordCount};
use sensora_node::net::{Multiaddr, Transport};
use sensora_node::signals::StopSignals;
use sensora_node::store::Store;
use sensora_node::supervisor::{ChainRole, Node, NodeOptions, ServicesRole};
use sensora_node::wallet::SweepPolicy;
use sensora_protocol::Identity;
use sensora_protocol::market::budget::Budgets;
use tracing_subscriber::EnvFilter;

/// The home where none is named, in the user's home directory. Not that of `sensora`: a home is used by one process.
const DEFAULT_HOME: &str = ".sensora-bootstrap";
/// The passphrase of the key file.
const PASSPHRASE_VARIABLE: &str = "SENSORA_PASSPHRASE";
/// This node sends no payments of its own; if it ever does, they cost no more than this.
const MAX_FEE: Satoshis = Satoshis::from_sat(10_000);

/// First contact for newcomers, and the development chain.
///
/// Makes its home on the first start. Prints its addresses, then `ready`; give one of them to `sensora` with --bootstrap.
#[derive(Debug, Parser)]
#[command(name = "sensora-bootstrap", version, max_term_width = 100)]
struct Args {
    /// The node's directory [default: ~/.sensora-bootstrap]
    #[arg(long, env = "SENSORA_BOOTSTRAP_HOME", hide_env_values = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Mine the development chain (network regtest) and serve it
    #[arg(long)]
    dev_chain: bool,
    /// With --dev-chain: seconds until a block is made while transactions wait
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "dev_chain", value_parser = clap::value_parser!(u64).range(1..=3600))]
    block_interval: u64,
    /// Ask this chain service: arcade, arc, whatsonchain, chaintracks or node-rpc, with its address, as in
    /// node-rpc=http://USER:PASSWORD@HOST:PORT; may be repeated
    #[arg(
        long = "chain",
        env = "SENSORA_CHAIN",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "KIND=URL",
        conflicts_with = "dev_chain"
    )]
    chain: Vec<ServiceText>,
    /// Answer other nodes' questions from the chain services; on network regtest that is done without this flag, too
    #[arg(long, requires = "chain")]
    serve_chain: bool,
    /// Where to listen, as a multiaddr; may be repeated
    #[arg(long, value_name = "ADDR", default_values_t = ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"].map(String::from))]
    listen: Vec<String>,
    /// An address under which others reach this node, where it cannot know it; may be repeated
    #[arg(long, value_name = "ADDR")]
    external: Vec<String>,
    /// Another node to meet first, with /p2p/ at its end; may be repeated
    #[arg(long, value_name = "ADDR")]
    bootstrap: Vec<String>,
    /// Find nodes on the local network
    #[arg(long)]
    mdns: bool,
    /// The BSV network: main, test or regtest
    #[arg(long, value_name = "NAME", default_value_t = Network::Regtest)]
    network: Network,
    /// Write JSON lines
    #[arg(long)]
    json: bool,
    /// Log more to standard error; up to three times
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// `KIND=URL`, which may hold a password and is not shown.
#[derive(Clone)]
struct ServiceText(String);

impl std::str::FromStr for ServiceText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for ServiceText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KIND=URL")
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    log(args.verbose);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if args.json => {
            let message = serde_json::Value::from(format!("{error:#}"));
            eprintln!("{{\"error\":{{\"code\":\"failure\",\"message\":{message},\"hint\":null}}}}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(args))
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let home = Home::create(paths(args)?)?;
    let identity = identity(home.paths())?;
    let store = Store::open(&home.paths().store(), args.network, identity.public())?;
    let chain = if args.dev_chain {
        ChainRole::DevChain {
            path: Some(home.paths().dev_chain()),
            block_interval: Duration::from_secs(args.block_interval),
        }
    } else if args.chain.is_empty() {
        ChainRole::Peers(Vec::new())
    } else {
        services(args)?
    };
    let node = Node::start(NodeOptions {
        identity,
        network: args.network,
        store,
        home: Some(home.paths().root().to_owned()),
        clock: Clock::system(),
        listen: addresses(&args.listen, "--listen")?,
        external: addresses(&args.external, "--external")?,
        bootstrap: addresses(&args.bootstrap, "--bootstrap")?,
        mdns: args.mdns,
        transport: Transport::Real,
        chain,
        fees: FeeLimits { max: MAX_FEE, ..FeeLimits::default() },
        sweep: SweepPolicy::default(),
        budgets: Budgets::UNLIMITED,
        agent: None,
    })
    .await?;
    let mut stops = StopSignals::new()?;
    say_ready(args, &node).await?;
    stops.next().await;
    if !args.json {
        eprintln!("stopping; Ctrl-C again stops at once");
    }
    tokio::select! {
        () = node.shutdown() => Ok(()),
        () = stops.interrupted() => anyhow::bail!("stopped at once; what was acknowledged is on disk"),
    }
}

fn services(args: &Args) -> anyhow::Result<ChainRole> {
    let mut chain = ChainSection::default();
    chain.use_services(&args.chain.iter().map(|text| text.0.clone()).collect::<Vec<_>>())?;
    let serve = if args.serve_chain { Serve::Is(true) } else { chain.serve };
    Ok(ChainRole::Services(ServicesRole {
        services: chain.services(args.network, |name| std::env::var(name).ok())?,
        peers: Vec::new(),
        serve: serve.on(args.network),
        mine: None,
    }))
}

fn paths(args: &Args) -> anyhow::Result<HomePaths> {
    match &args.home {
        Some(home) => Ok(HomePaths::new(home)),
        None => {
            let user =
                std::env::home_dir().context("no home directory is known: give one with --home DIR")?;
            Ok(HomePaths::new(user.join(DEFAULT_HOME)))
        }
    }
}

/// The key in the home; made on the first start.
fn identity(paths: &HomePaths) -> anyhow::Result<Identity> {
    let passphrase = std::env::var(PASSPHRASE_VARIABLE).ok();
    let key = match Key::open(&paths.key(), passphrase.as_deref()) {
        Err(KeystoreError::Missing { path }) => {
            let key = Key::generate(WordCount::Twelve)?;
            key.create(&path, passphrase.as_deref())?;
            key
        }
        opened => opened?,
    };
    Ok(Identity::new(key.into_private_key()))
}

fn addresses(texts: &[String], flag: &str) -> anyhow::Result<Vec<Multiaddr>> {
    let parse = |text: &String| {
        text.parse()
            .with_context(|| format!("{flag}: `{text}` is not a multiaddr, such as /ip4/0.0.0.0/tcp/4001"))
    };
    texts.iter().map(parse).collect()
}

async fn say_ready(args: &Args, node: &Node) -> anyhow::Result<()> {
    let addresses = node.addresses().await;
    let mut out = std::io::stdout().lock();
    if args.json {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let ready = serde_json::json!({
            "event": "ready", "peer_id": node.peer_id().to_string(), "network": args.network,
            "dev_chain": args.dev_chain, "chain": node.chain().source_name(), "addresses": addresses,
        });
        writeln!(out, "{ready}")?;
    } else {
        for address in &addresses {
            writeln!(out, "listening    {address}")?;
        }
        if args.dev_chain {
            writeln!(
                out,
                "mining       the development chain, a block each {} s while transactions wait",
                args.block_interval
            )?;
        }
        if !args.chain.is_empty() {
            writeln!(out, "chain        {}", node.chain().source_name())?;
        }
        writeln!(out, "ready")?;
    }
    out.flush()?;
    Ok(())
}

fn log(verbose: u8) {
    let level = match verbose {
        // Kademlia warns of every start without peers, which is how each node starts.
        0 => "warn,libp2p_kad=error",
        1 => "warn,libp2p_kad=error,sensora_node=info",
        2 => "info,sensora_node=debug",
        _ => "debug,sensora_node=trace",
    };
    let filter = std::env::var("SENSORA_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(level));
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["sensora-bootstrap", "--block-interval", "5"]).is_err());
        assert!(Args::try_parse_from(["sensora-bootstrap", "--dev-chain", "--block-interval", "0"]).is_err());
        Args::try_parse_from(["sensora-bootstrap", "--dev-chain", "--block-interval", "5"]).unwrap();
        let secret = "node-rpc=http://user:secret@127.0.0.1:1";
        assert!(Args::try_parse_from(["sensora-bootstrap", "--dev-chain", "--chain", secret]).is_err());
        let args = Args::try_parse_from(["sensora-bootstrap", "--chain", secret]).unwrap();
        assert!(!format!("{args:?}").contains("secret"));
        let ChainRole::Services(role) = services(&args).unwrap() else { panic!("{args:?}") };
        assert_eq!((role.services.services.len(), role.serve), (1, true), "regtest is served");
        let main = ["sensora-bootstrap", "--network", "main", "--chain", secret];
        let ChainRole::Services(role) = services(&Args::try_parse_from(main).unwrap()).unwrap() else {
            panic!()
        };
        assert!(!role.serve, "what costs is not served without being asked for");
        let wrong = Args::try_parse_from(["sensora-bootstrap", "--chain", "moon=http://a"]).unwrap();
        assert!(services(&wrong).unwrap_err().to_string().contains("moon"));
    }

    #[test]
    fn the_document_says_what_help_says() {
        const BEGIN: &str =
            "<!-- sensora-bootstrap: made by `SENSORA_BLESS=1 cargo test -p sensora-bootstrap` -->\n";
        const END: &str = "<!-- end -->\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let document = std::fs::read_to_string(path).unwrap();
        let (before, rest) = document.split_once(BEGIN).expect("the marker of the help");
        let (_, after) = rest.split_once(END).expect("the end of the help");
        let help = Args::command().color(clap::ColorChoice::Never).render_long_help().to_string();
        let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
        let wanted = format!("{before}{BEGIN}\n```text\n{}\n```\n{END}{after}", lines.join("\n"));
        if document != wanted && std::env::var_os("SENSORA_BLESS").is_some() {
            std::fs::write(path, wanted).unwrap();
            return;
        }
        assert!(
            document == wanted,
            "docs/cli.md is not what --help says: run SENSORA_BLESS=1 cargo test -p sensora-bootstrap"
        );
    }

    #[test]
    fn a_key_is_made_once() {
        let dir = std::env::temp_dir().join(format!("sensora-bootstrap-{}", std::process::id()));
        let home = Home::create(HomePaths::new(&dir)).unwrap();
        let first = identity(home.paths()).unwrap();
        assert_eq!(identity(home.paths()).unwrap().public(), first.public());
        drop(home);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
