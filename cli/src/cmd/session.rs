//! A short-lived node on the home: started for one command, stopped when its work is done.

use std::time::Duration;

use sensora_chain::header::HeaderView as _;
use sensora_chain::wallet::{Balance, Wallet};
use sensora_chain::{Network, Satoshis};
use sensora_node::agent::AgentOptions;
use sensora_node::backup::{KeeperParts, KeeperTask};
use sensora_node::chain_access::SyncProgress;
use sensora_node::clock::Clock;
use sensora_node::config::{ChainSource, Config};
use sensora_node::home::{Home, HomePaths};
use sensora_node::net::{Multiaddr, Transport};
use sensora_node::signals::StopSignals;
use sensora_node::supervisor::{ChainRole, Node, NodeOptions, ServicesRole};
use tokio::task::JoinHandle;

use crate::args::{ChainArgs, NetworkArgs};
use crate::context::{Context, OpenHome};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// How long a command waits for its first peer before it says that it found none.
const FIRST_PEER: Duration = Duration::from_secs(10);
/// How long it waits for one where it may do without.
const MAYBE_PEER: Duration = Duration::from_secs(2);
/// How long a command waits for the chain to be brought up to date.
const CHAIN_SYNC: Duration = Duration::from_secs(20);
/// How long `wallet balance --refresh` waits for Merkle paths.
const PROOFS: Duration = Duration::from_secs(3);
/// Headers to catch up with from which on a bar is shown: fewer take a second.
const MANY_HEADERS: u32 = 2_000;
/// Seconds between two blocks of the public networks, on average.
const SPACING_SECS: i64 = 600;
/// How long it takes at most until somebody says how many headers there are.
const SYNC_BEGINS: Duration = Duration::from_secs(5);
/// When no header has come for so long, they are not waited for any more.
const SYNC_STALLS: Duration = Duration::from_secs(20);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);

/// A running node and what the command needs of it.
pub(super) struct Session {
    /// The node.
    pub(super) node: Node,
    /// Its network.
    pub(super) network: Network,
    /// The home's configuration, with the flags over it.
    pub(super) config: Config,
    /// Where it listens, with its peer id.
    pub(super) addresses: Vec<String>,
    /// The time.
    pub(super) clock: Clock,
    /// Brings a restored wallet up to date.
    follows: Option<JoinHandle<()>>,
    /// Keeps the backup of wallet.backup_to fresh.
    backup: Option<KeeperTask>,
    /// Held for its lock.
    home: Home,
}

impl Session {
    /// Starts a node that buys (and does not sell), and waits until it has met somebody. Where there are many headers to catch up with,
    /// it shows how far that is.
    pub(super) async fn start(context: &Context, open: OpenHome, flags: &NetworkArgs) -> Outcome<Self> {
        let session = Self::start_alone(context, open, flags).await?;
        match session.ready(context).await {
            Ok(()) => Ok(session),
            Err(failure) => {
                session.stop().await;
                Err(failure)
            }
        }
    }

    /// Starts a node that buys, without waiting for anybody.
    pub(super) async fn start_alone(context: &Context, open: OpenHome, flags: &NetworkArgs) -> Outcome<Self> {
        Self::start_as(context, open, flags, None).await
    }

    /// Starts a node, one that sells where `agent` says what. A restored wallet looks up on the chain what happened since, beside
    /// whatever else is done; what the command's end cuts short, the next one goes on with.
    pub(super) async fn start_as(
        context: &Context,
        open: OpenHome,
        flags: &NetworkArgs,
        agent: Option<AgentOptions>,
    ) -> Outcome<Self> {
        let mut session = Self::start_still(context, open, flags, agent).await?;
        let node = &session.node;
        session.follows = Some(tokio::spawn(sensora_node::recovery::follow_restored(
            node.store().clone(),
            node.wallet().clone(),
            node.chain().clone(),
            node.identity().clone(),
            context.clock.clone(),
        )));
        Ok(session)
    }

    /// As [`Session::start_as`], where the command itself looks up what happened since a restore.
    pub(super) async fn start_still(
        context: &Context,
        open: OpenHome,
        flags: &NetworkArgs,
        agent: Option<AgentOptions>,
    ) -> Outcome<Self> {
        let OpenHome { home, mut config, identity, network, store } = open;
        config.network = network;
        apply(&mut config, flags)?;
        let root = home.paths().root().to_owned();
        let chain = chain_role(&config, home.paths())?;
        let options = NodeOptions {
            identity,
            network,
            store,
            home: Some(root),
            clock: context.clock.clone(),
            listen: config.net.listen.clone(),
            external: config.net.external.clone(),
            bootstrap: config.net.bootstrap.clone(),
            mdns: config.net.mdns,
            transport: Transport::Real,
            chain,
            fees: config.chain.fees(),
            sweep: config.sweep_policy().map_err(|error| Failure::from_error(Exit::Usage, &error))?,
            budgets: config.buyer.budgets(),
            agent,
        };
        let node = Node::start(options).await?;
        let addresses = node.addresses().await.iter().map(ToString::to_string).collect();
        let backup = config.wallet.backup_to().map(|path| {
            KeeperParts {
                path: home.paths().root().join(path),
                store: node.store().clone(),
                identity: node.identity().clone(),
                network,
                clock: context.clock.clone(),
            }
            .start()
        });
        let clock = context.clock.clone();
        Ok(Self { node, network, config, addresses, clock, follows: None, backup, home })
    }

    /// Waits for a peer where one is needed, and until the headers are not far behind.
    pub(super) async fn ready(&self, context: &Context) -> Outcome {
        if self.config.chain.source == ChainSource::Services && self.config.net.bootstrap.is_empty() {
            // What only needs the chain needs no peer; whoever does need one says so.
            let _ = tokio::time::timeout(MAYBE_PEER, self.met()).await;
        } else {
            self.meet().await?;
        }
        self.catch_up(context).await;
        Ok(())
    }

    /// Waits, with a bar, while the headers are far behind. Whoever shows them may be slow or lie about how many there are, so only
    /// what goes on is waited for: when no header has come for a while, the command goes on with what is there.
    pub(super) async fn catch_up(&self, context: &Context) {
        let mut watch = self.node.chain().sync_progress();
        if !self.is_old(context) && !is_far(*watch.borrow()) {
            return;
        }
        let begun = tokio::time::timeout(SYNC_BEGINS, watch.wait_for(|progress| is_far(*progress))).await;
        let Ok(Ok(progress)) = begun.map(|seen| seen.map(|progress| *progress)) else { return };
        let total = u64::from(progress.target.saturating_sub(progress.from));
        let bar = context.out.progress(total, "block headers");
        while let Ok(Ok(())) = tokio::time::timeout(SYNC_STALLS, watch.changed()).await {
            let progress = *watch.borrow_and_update();
            bar.total(u64::from(progress.target.saturating_sub(progress.from)));
            bar.at(u64::from(progress.height.saturating_sub(progress.from)));
            if progress.is_done() {
                return;
            }
        }
    }

    /// Whether the last header is so old that many must have come since.
    fn is_old(&self, context: &Context) -> bool {
        let headers = self.node.chain().headers();
        let last = headers.header_at(headers.tip_height()).map_or(0, |header| i64::from(header.time()));
        let behind_secs = context.clock.now_ms().div_euclid(1000).saturating_sub(last);
        self.network != Network::Regtest && behind_secs > i64::from(MANY_HEADERS) * SPACING_SECS
    }

    /// The names of the home's files.
    pub(super) fn paths(&self) -> &HomePaths {
        self.home.paths()
    }

    async fn met(&self) {
        while self.node.net().peer_count() == 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for the first peer.
    pub(super) async fn meet(&self) -> Outcome {
        let met = tokio::time::timeout(FIRST_PEER, self.met());
        met.await.map_err(|_| {
            let known = self.config.net.bootstrap.len();
            let failure = Failure::new(
                Exit::Unreachable,
                format!(
                    "no peer was reached in {} s ({known} bootstrap nodes are configured)",
                    FIRST_PEER.as_secs()
                ),
            );
            failure.hint("name a node with --bootstrap ADDR or net.bootstrap, or look with `sensora doctor`")
        })
    }

    /// The wallet after a look at the chain.
    pub(super) async fn refreshed_balance(&self) -> Outcome<Balance> {
        self.sync().await?;
        // What is mined shows itself when its Merkle path is here; whatever has none after a moment is in no block yet.
        let proven = tokio::time::timeout(PROOFS, async {
            // What was refused is asked about for as long as it may come back; nobody waits for that.
            let waits = |wallet: &Wallet| {
                wallet
                    .unproven()
                    .iter()
                    .any(|txid| wallet.status(txid).is_some_and(|status| !status.is_dead()))
            };
            while self.node.wallet().read(waits) {
                tokio::time::sleep(LOOK).await;
            }
        });
        let _ = proven.await;
        Ok(self.node.wallet().balance()?)
    }

    /// Brings the header chain up to date.
    pub(super) async fn sync(&self) -> Outcome {
        let advice = if self.node.chain().services().is_empty() {
            "is a node with chain access among the peers? `sensora doctor` looks"
        } else {
            "`sensora doctor` asks each of the chain services and says what came back"
        };
        let mut last = None;
        let synced = tokio::time::timeout(CHAIN_SYNC, async {
            loop {
                match self.node.chain().refresh().await {
                    Ok(()) => return,
                    // A peer that has just been met may not have said yet what it can do.
                    Err(error) => {
                        tracing::debug!(%error, "the chain is not followed yet");
                        last = Some(error.to_string());
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        let outcome = synced.await;
        outcome.map_err(|_| {
            let why = last.map(|error| format!(": {error}")).unwrap_or_default();
            let text = format!("the chain was not brought up to date in {} s{why}", CHAIN_SYNC.as_secs());
            Failure::new(Exit::Unreachable, text).hint(advice)
        })
    }

    /// Stops the node, so that everything is on disk.
    pub(super) async fn stop(self) {
        // It holds the store, which may be opened again at once.
        if let Some(follows) = self.follows {
            follows.abort();
            let _ = follows.await;
        }
        self.node.shutdown().await;
        if let Some(backup) = self.backup {
            backup.stop().await;
        }
    }
}

/// Where the configuration has the chain. Keys of services come from the environment.
pub(super) fn chain_role(config: &Config, paths: &HomePaths) -> Outcome<ChainRole> {
    Ok(match config.chain.source {
        ChainSource::Dev => ChainRole::DevChain {
            path: Some(paths.dev_chain()),
            block_interval: config.chain.block_interval(),
        },
        ChainSource::Services => {
            let services = config
                .chain
                .services(config.network, |name| std::env::var(name).ok())
                .map_err(|error| Failure::from_error(Exit::Usage, &error))?;
            ChainRole::Services(ServicesRole {
                services,
                peers: config.chain.peers.clone(),
                serve: config.chain.serve.on(config.network),
                mine: None,
            })
        }
        _ => ChainRole::Peers(config.chain.peers.clone()),
    })
}

fn is_far(progress: SyncProgress) -> bool {
    progress.target.saturating_sub(progress.height) > MANY_HEADERS
}

/// Puts the flags over the configuration, and looks whether it is one still.
pub(super) fn apply(config: &mut Config, flags: &NetworkArgs) -> Outcome {
    if !flags.bootstrap.is_empty() {
        config.net.bootstrap = addresses("--bootstrap", &flags.bootstrap)?;
    }
    if !flags.listen.is_empty() {
        config.net.listen = addresses("--listen", &flags.listen)?;
    }
    apply_chain(config, &flags.chain)?;
    config.validate().map_err(|error| Failure::from_error(Exit::Usage, &error))
}

/// Puts the flags about the chain over the configuration.
pub(super) fn apply_chain(config: &mut Config, flags: &ChainArgs) -> Outcome {
    if !flags.services.is_empty() {
        let used = config.chain.use_services(&flags.services);
        used.map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    }
    if let Some(sat) = flags.max_fee {
        config.chain.max_fee_sat =
            Satoshis::new(sat).map_err(|error| Failure::usage(format!("--max-fee: {error}")))?;
    }
    Ok(())
}

fn addresses(flag: &str, texts: &[String]) -> Outcome<Vec<Multiaddr>> {
    let parse = |text: &String| {
        text.parse().map_err(|error| {
            Failure::usage(format!("{flag}: `{text}` is not a multiaddr: {error}"))
                .hint("write it like /ip4/192.0.2.7/tcp/4001/p2p/16Uiu2HA…")
        })
    };
    texts.iter().map(parse).collect()
}

/// Brings the home's headers up to date and leaves them in its store.
pub(super) fn sync_headers(context: &Context, flags: &NetworkArgs) -> Outcome {
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, flags).await?;
        let synced = session.sync().await;
        session.stop().await;
        synced
    })
}

/// The signals that stop a command: made once and kept, so that none is lost.
pub(super) fn stop_signals() -> Outcome<StopSignals> {
    StopSignals::new().map_err(|error| Failure::other(format!("cannot wait for signals: {error}")))
}
