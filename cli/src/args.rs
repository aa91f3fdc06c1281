//! What was typed, and no more: the commands and their flags as `clap` reads them.
//!
//! What it *means* — which range, which limits, which source — is worked out by each command in [`crate::cmd`], where the
//! home's configuration is known too.

mod agent;
mod channels;
mod cost;
mod read;
mod subscribe;
mod trade;
mod upkeep;
mod values;
mod wallet;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sensora_chain::Network;

pub(crate) use agent::AgentArgs;
pub(crate) use channels::{ChannelsAction, ChannelsArgs, CloseChannelArgs, EarningsArgs, OpenChannelArgs};
pub(crate) use cost::CostArgs;
pub(crate) use read::ReadArgs;
pub(crate) use subscribe::SubscribeArgs;
pub(crate) use trade::{
    BuyArgs, ExportArgs, OrdersArgs, RowFormat, SampleArgs, SearchArgs, ShowArgs, StreamArgs, VerifyArgs, Way,
};
pub(crate) use upkeep::{
    CompletionsArgs, ConfigAction, ConfigArgs, DemoArgs, DoctorArgs, InitArgs, ManArgs, StatusArgs,
};
pub(crate) use values::{SeqRange, parse_time};
pub(crate) use wallet::{
    AuditArgs, BackupArgs, BalanceArgs, ExportKeysArgs, ExportWatchArgs, FundArgs, RecoverArgs, RestoreArgs,
    SendArgs, SweepArgs, VerifyBackupArgs, WalletAction, WalletArgs, WatchArgs,
};

/// Sell and buy sensor readings between peers, paid in BSV and proven on chain.
///
/// Begin with `sensora demo`: it needs nothing and shows everything. Then `sensora init` makes a home (a key and a
/// configuration), `sensora agent` sells, `sensora search` and `sensora buy` find and buy, `sensora verify` checks.
#[derive(Debug, Parser)]
#[command(name = "sensora", version, max_term_width = 100, after_long_help = crate::exit::help())]
#[command(disable_help_subcommand = true, infer_subcommands = false)]
pub(crate) struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The node's directory: key, configuration, store [default: ~/.sensora]
    #[arg(long, global = true, env = "SENSORA_HOME", hide_env_values = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// The BSV network, instead of the configured one: main, test or regtest
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) network: Option<Network>,
    /// Write JSON: one document, or one for each line where the command streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing but the result
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log more to standard error; up to three times
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Colours (NO_COLOR is honoured)
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// How log lines are written
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log: LogFormat,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

/// How a command's node reaches others; each flag comes before its field in `config.toml`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Network options")]
pub(crate) struct NetworkArgs {
    /// A node to meet first, as a multiaddr with /p2p/ at its end; may be repeated
    #[arg(
        long,
        env = "SENSORA_BOOTSTRAP",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "ADDR"
    )]
    pub(crate) bootstrap: Vec<String>,
    /// Where to listen, as a multiaddr; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,
    /// How the chain is reached.
    #[command(flatten)]
    pub(crate) chain: ChainArgs,
}

/// The chain services of a command, in the place of those in `config.toml`.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Network options")]
pub(crate) struct ChainArgs {
    /// Ask this chain service: arcade, arc, whatsonchain, chaintracks or node-rpc, with its address, as in
    /// node-rpc=http://USER:PASSWORD@HOST:PORT; may be repeated
    #[arg(
        long = "chain",
        id = "chain_services",
        env = "SENSORA_CHAIN",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "KIND=URL"
    )]
    pub(crate) services: Vec<String>,
    /// The most that one transaction may pay to miners, in satoshis
    #[arg(long, value_name = "SAT")]
    pub(crate) max_fee: Option<u64>,
}

impl std::fmt::Debug for ChainArgs {
    /// Without the addresses, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainArgs")
            .field("services", &self.services.len())
            .field("max_fee", &self.max_fee)
            .finish_non_exhaustive()
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(InitArgs),
    Demo(DemoArgs),
    Agent(Box<AgentArgs>),
    Search(SearchArgs),
    Show(ShowArgs),
    Sample(SampleArgs),
    Buy(Box<BuyArgs>),
    Subscribe(Box<SubscribeArgs>),
    Read(Box<ReadArgs>),
    Orders(OrdersArgs),
    Channels(ChannelsArgs),
    Earnings(EarningsArgs),
    Export(ExportArgs),
    Verify(VerifyArgs),
    Wallet(WalletArgs),
    Cost(CostArgs),
    Status(StatusArgs),
    Doctor(DoctorArgs),
    Config(ConfigArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

#[cfg(test)]
mod tests;
