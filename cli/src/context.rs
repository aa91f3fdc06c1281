//! What every command needs: the flags all share, the output, and the home behind `--home`.

use std::io::IsTerminal as _;

use sensora_chain::Network;
use sensora_node::clock::Clock;
use sensora_node::config::Config;
use sensora_node::home::{Home, HomePaths};
use sensora_node::keystore::{self, Key, KeystoreError};
use sensora_node::store::Store;
use sensora_protocol::Identity;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use crate::args::{Global, LogFormat};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;

/// The passphrase of the key file, for programs; people are asked.
pub(crate) const PASSPHRASE_VARIABLE: &str = "SENSORA_PASSPHRASE";

/// Log filter in the syntax of `tracing_subscriber::EnvFilter`; comes before `-v`.
const LOG_VARIABLE: &str = "SENSORA_LOG";

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Context {
    /// The flags all commands share.
    pub(crate) global: Global,
    /// Where results go.
    pub(crate) out: Out,
    /// The time.
    pub(crate) clock: Clock,
}

impl Context {
    /// Sets up output and log as the flags say.
    ///
    /// `is_service`: the command runs for long, so that its log is as the configuration says where no flag says otherwise.
    pub(crate) fn new(global: &Global, is_service: bool) -> Self {
        log(global, is_service.then(|| configured_log(global)).flatten());
        let out = Out::new(global.json, global.quiet, global.color);
        Self { global: global.clone(), out, clock: Clock::system() }
    }

    /// The names of the home's files.
    pub(crate) fn paths(&self) -> Outcome<HomePaths> {
        match &self.global.home {
            Some(home) => Ok(HomePaths::new(home)),
            None => Ok(HomePaths::default_location()?),
        }
    }

    /// Locks the home for this process and opens its key.
    pub(crate) fn open_home(&self) -> Outcome<OpenHome> {
        let home = Home::open(self.paths()?)?;
        let config = self.config(home.paths())?;
        let key = self.open_key(home.paths())?;
        let network = self.global.network.unwrap_or(config.network);
        let identity = Identity::new(key.into_private_key());
        let store = Store::open(&home.paths().store(), network, identity.public())?;
        Ok(OpenHome { home, config, identity, network, store })
    }

    /// The home's configuration.
    pub(crate) fn config(&self, paths: &HomePaths) -> Outcome<Config> {
        Config::load(&paths.config()).map_err(|error| Failure::from_error(Exit::Usage, &error))
    }

    /// Opens the key, asking for its passphrase where it has one and a person is there to type it.
    pub(crate) fn open_key(&self, paths: &HomePaths) -> Outcome<Key> {
        let path = paths.key();
        let info = keystore::inspect(&path)?;
        if !info.is_sealed {
            return Ok(Key::open(&path, None)?);
        }
        if let Some(passphrase) = passphrase_from_environment() {
            return Ok(Key::open(&path, Some(&passphrase))?);
        }
        if !std::io::stdin().is_terminal() {
            return Err(KeystoreError::PassphraseNeeded { path }.into());
        }
        let passphrase = ask_secret(&format!("Passphrase of {}: ", path.display()))?;
        Ok(Key::open(&path, Some(&passphrase))?)
    }

    /// Runs `work` to its end on a runtime of its own.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::other(format!("cannot start threads: {error}")))?;
        let result = runtime.block_on(work);
        // A read of standard input that nobody will answer must not hold the process.
        runtime.shutdown_background();
        result
    }
}

/// A home that this process holds, and what is in it.
#[derive(Debug)]
pub(crate) struct OpenHome {
    /// The directory and its lock.
    pub(crate) home: Home,
    /// Its configuration.
    pub(crate) config: Config,
    /// Its key.
    pub(crate) identity: Identity,
    /// Its network.
    pub(crate) network: Network,
    /// What it keeps.
    pub(crate) store: Store,
}

/// The passphrase in the environment, if there is one.
pub(crate) fn passphrase_from_environment() -> Option<Zeroizing<String>> {
    std::env::var(PASSPHRASE_VARIABLE).ok().map(Zeroizing::new)
}

/// Asks on the terminal, without showing what is typed.
pub(crate) fn ask_secret(prompt: &str) -> Outcome<Zeroizing<String>> {
    let typed = rpassword::prompt_password(prompt);
    typed.map(Zeroizing::new).map_err(|error| {
        Failure::new(Exit::Home, format!("cannot ask for the passphrase: {error}"))
            .hint(format!("set {PASSPHRASE_VARIABLE}"))
    })
}

/// The log filter of the configuration, where it can be read: what is wrong with it is said later, by whoever needs it.
fn configured_log(global: &Global) -> Option<String> {
    let paths = global.home.clone().map(HomePaths::new).or_else(|| HomePaths::default_location().ok())?;
    Config::load(&paths.config()).ok().map(|config| config.log)
}

fn log(global: &Global, configured: Option<String>) {
    let level = match (global.verbose, global.quiet) {
        (0, true) => "error",
        // Kademlia warns of every start without peers, which is how each node starts.
        (0, false) => "warn,libp2p_kad=error",
        (1, _) => "warn,libp2p_kad=error,sensora=info,sensora_node=info",
        (2, _) => "info,sensora=debug,sensora_node=debug",
        (_, _) => "debug,sensora=trace,sensora_node=trace",
    };
    let configured = configured.filter(|_| global.verbose == 0 && !global.quiet);
    let filter = std::env::var(LOG_VARIABLE).ok().or(configured).unwrap_or_else(|| level.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A subscriber that is set already (in a test) is as good.
    let _ = match global.log {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => {
            let ansi = crate::output::Paint::new(global.color, std::io::stderr().is_terminal()).is_on();
            builder.with_ansi(ansi).with_target(false).try_init()
        }
    };
}
