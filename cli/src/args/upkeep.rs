//! The flags of the commands that keep house.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;

use super::NetworkArgs;

/// Make a home: a key and a configuration.
///
/// The key is made of BIP39 words, which are shown once: written on paper they are its backup. The passphrase that may
/// seal the key file comes from SENSORA_PASSPHRASE or is asked for.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Number of words: 12 or 24
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u8).range(12..=24))]
    pub(crate) words: u8,
    /// Restore a key: read its words from standard input
    #[arg(long, conflicts_with = "words")]
    pub(crate) restore: bool,
    /// Seal the key file under a passphrase
    #[arg(long)]
    pub(crate) passphrase: bool,
    /// How to reach others; written into the configuration.
    #[command(flatten)]
    pub(crate) bootstrap: NetworkArgs,
}

/// Watch this machine's readings being advertised, found, bought, paid and verified.
///
/// Three nodes, each with a home, a key, a store and sockets of its own on loopback: a bootstrap node that mines a
/// development chain, an agent that sells this machine's real sensors (and the CSV files given), and a buyer. Ends with 0
/// only if everything that is claimed was seen to be so.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Sell this recording too; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Vec<PathBuf>,
    /// Keep the three homes in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Run on this regtest node in the place of the development chain, as in node-rpc=http://USER:PASSWORD@HOST:PORT; the demo
    /// mines its blocks and coins there
    #[arg(long, value_name = "KIND=URL")]
    pub(crate) chain: Option<ChainText>,
}

/// `KIND=URL`, which may hold a password and is not shown.
#[derive(Clone)]
pub(crate) struct ChainText(pub(crate) String);

impl std::str::FromStr for ChainText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for ChainText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KIND=URL")
    }
}

/// What this home has and does.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {}

/// Look for what is wrong, and say how to mend it.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Do not try to reach other nodes
    #[arg(long)]
    pub(crate) offline: bool,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// The configuration file.
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: ConfigAction,
}

/// What can be done with the configuration.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Print where it is
    Path,
    /// Read it and say what is wrong with it
    Check,
    /// Print the default, every key with its meaning
    Print,
}

/// Print a completion script.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Write the manual pages.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// One file for each command in this directory [default: the main page on standard output]
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
