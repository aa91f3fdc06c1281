//! The flags of `sensora wallet`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::NetworkArgs;

/// The home's money.
#[derive(Args, Debug)]
pub(crate) struct WalletArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: WalletAction,
}

/// What can be done with money.
#[derive(Debug, Subcommand)]
pub(crate) enum WalletAction {
    /// Print a fresh address to be paid at
    Address,
    /// What the wallet holds
    Balance(BalanceArgs),
    /// What came in and went out
    History,
    /// Get coins from the development chain's faucet
    Fund(FundArgs),
    /// Send coins to an address
    Send(SendArgs),
    Audit(AuditArgs),
    /// Show the words of the key, for a backup on paper
    Words,
    Sweep(SweepArgs),
    /// The kill switch: no money leaves this home until `unfreeze`, also while an agent runs
    Freeze,
    /// Let money out again
    Unfreeze,
    Backup(BackupArgs),
    VerifyBackup(VerifyBackupArgs),
    Restore(RestoreArgs),
    Recover(RecoverArgs),
    ExportKeys(ExportKeysArgs),
    ExportWatch(ExportWatchArgs),
    Watch(WatchArgs),
}

/// What the wallet holds.
#[derive(Args, Debug)]
pub(crate) struct BalanceArgs {
    /// Ask the chain first what has been mined and what has come in
    #[arg(long)]
    pub(crate) refresh: bool,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Get coins from the development chain's faucet.
#[derive(Args, Debug)]
pub(crate) struct FundArgs {
    /// How many satoshis
    #[arg(value_name = "SAT", default_value_t = 1_000_000)]
    pub(crate) sat: u64,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Send coins to an address.
#[derive(Args, Debug)]
pub(crate) struct SendArgs {
    /// Where to
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: String,
    /// How many satoshis
    #[arg(value_name = "SAT")]
    pub(crate) sat: u64,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Write everything that is needed to go on elsewhere into one encrypted file.
///
/// The wallet, the orders of both sides, what waits to go out; not the readings. Without a passphrase the words of the key
/// open it. With one the passphrase opens it and the words do not, and the words are in it.
#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// Where to; an earlier backup of the same node is replaced
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Lock it with a passphrase: SENSORA_BACKUP_PASSPHRASE, or asked for twice
    #[arg(long)]
    pub(crate) passphrase: bool,
    /// Replace whatever the file is
    #[arg(long)]
    pub(crate) force: bool,
}

/// Open a backup, check it, and say what is in it and how old it is.
///
/// Changes nothing. A backup that is locked with the words is opened with the home's key, or with the words on standard input.
#[derive(Args, Debug)]
pub(crate) struct VerifyBackupArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Read the words from standard input, instead of using the home's key
    #[arg(long)]
    pub(crate) words: bool,
}

/// Put a backup into an empty home.
///
/// Makes the home where there is none. A backup that is locked with the words is opened with the home's key, or, where it has none, with the
/// words on standard input. Afterwards the wallet looks up on the chain what happened since: at the next command that
/// reaches it, or at once with `sensora wallet recover`.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Seal the new home's key file under a passphrase (SENSORA_PASSPHRASE, or asked for)
    #[arg(long)]
    pub(crate) passphrase: bool,
    /// How to reach others; written into a new home's configuration.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Find coins again, with the words alone or after an old backup.
///
/// Looks for addresses and change by their numbers, at a service that knows scripts (whatsonchain) or in the blocks of a node (node-rpc), as
/// configured or given with --chain; without one it finds the own anchors and ads at peers. Then follows every coin along the chain. What buyers paid is found by a backup, or once it was moved into change.
#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// Look from this block on
    #[arg(long, value_name = "HEIGHT", default_value_t = 0)]
    pub(crate) from_height: u32,
    /// How many keys in a row must be unused to end the search
    #[arg(long, value_name = "N", default_value_t = sensora_node::recovery::DEFAULT_GAP, value_parser = clap::value_parser!(u64).range(1..=sensora_node::recovery::MAX_GAP))]
    pub(crate) gap: u64,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Print the private key of each coin, for other wallets.
///
/// In wallet import format (WIF). Each key spends one coin's address; the root key, which is the node's name and derives all of them, is
/// never printed: that are the words.
#[derive(Args, Debug)]
pub(crate) struct ExportKeysArgs {
    /// The keys of all addresses that were ever given out or used for change, and not of the coins only
    #[arg(long)]
    pub(crate) all: bool,
    /// Say that you know: whoever sees this output can spend the coins
    #[arg(long)]
    pub(crate) i_know_these_are_secrets: bool,
}

/// Write what others may watch: coins and addresses, and no key.
#[derive(Args, Debug)]
pub(crate) struct ExportWatchArgs {
    /// Where to (- for standard output)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// Show what the coins of a watch file are worth now. It takes no key of theirs.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// A file that `sensora wallet export-watch` wrote
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Add the wallet up twice, from its coins and its history, and compare.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// Compare every coin and every transaction with the chain, too
    #[arg(long)]
    pub(crate) on_chain: bool,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Send what exceeds a bound to a cold address.
///
/// A node's key is online, so it should hold little. Only coins that are six blocks deep are swept; a running agent does it by itself
/// where wallet.sweep_to is set.
#[derive(Args, Debug)]
pub(crate) struct SweepArgs {
    /// Where to: an address whose key is not on this machine [default: wallet.sweep_to]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<String>,
    /// How many satoshis stay here [default: wallet.keep_sat]
    #[arg(long, value_name = "SAT")]
    pub(crate) keep: Option<u64>,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}
